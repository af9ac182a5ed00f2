package store

import (
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/events"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
)

func (s *Store) record(e events.Event) {
	if s.cfg.Events != nil {
		s.cfg.Events(e)
	}
}

// recordNode writes down what the node takes part in.
func (s *Store) recordNode(format string, args ...any) {
	s.record(events.Event{Kind: events.Node, What: fmt.Sprintf(format, args...)})
}

// recordLease writes down that this node leads the range, once in a term.
func (r *rep) recordLease(term uint64) {
	if r.recordedTerm.Swap(term) == term {
		return
	}
	r.leaseSince.Store(time.Now().UnixNano())
	c := r.trans.TakeCause()
	r.s.record(events.Event{Kind: events.Lease, RangeID: r.rangeID, Other: c.Node, Cause: c.Why,
		What: fmt.Sprintf("node %d has the lease, term %d", r.s.cfg.Node, term)})
}

// recordChange writes down a replica change that was made.
func (s *Store) recordChange(id keys.RangeID, kind kv.ReplicaChangeKind, node keys.NodeID, why string) {
	s.record(events.Event{Kind: events.Replica, RangeID: id, Other: node, Cause: why,
		What: fmt.Sprintf("%s node %d", [...]string{"a non-voter was made on", "a voter now is the replica on", "the replica was removed from", "a non-voter now is the replica on", "a witness was made on"}[kind], node)})
}

// recordSplit writes down a split that was made. The right side's first election is due to it.
func (s *Store) recordSplit(left, right *kv.RangeDescriptor, why string) {
	s.record(events.Event{Kind: events.Split, RangeID: left.RangeID, Cause: why,
		What: fmt.Sprintf("range %d begins at %s", right.RangeID, right.Start.Pretty())})
}

// recordMerge writes down a merge that was made.
func (s *Store) recordMerge(merged *kv.RangeDescriptor, right keys.RangeID, at keys.Key, why string) {
	s.record(events.Event{Kind: events.Merge, RangeID: merged.RangeID, Cause: why,
		What: fmt.Sprintf("range %d, which began at %s, is part of it", right, at.Pretty())})
}

// recordHotSpot writes down a load that no split divides.
func (s *Store) recordHotSpot(id keys.RangeID, what, why string) {
	s.record(events.Event{Kind: events.Hot, RangeID: id, What: what, Cause: why})
}

// splitOff is why a new range's first leader stands for election.
func splitOff(left *kv.RangeDescriptor) raftnet.Cause {
	return raftnet.Cause{Why: fmt.Sprintf("the range was split off range %d", left.RangeID)}
}

// whyAway says why this node gives the range's lease away.
func (s *Store) whyAway(r *rep) string {
	switch {
	case r.witness:
		return "its replica is a witness"
	case r.distrusted.Load():
		return "its replica is quarantined"
	case s.draining.Load():
		return "it drains"
	case s.full.Load():
		return "its disk is nearly full"
	}
	return "its replica is to be removed"
}
