package raftnet

import (
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
)

// Describe says for people how a range's raft group stands on this node, and why it has no
// lease. It is for logs and debugging.
func (r *Router) Describe(id keys.RangeID) string {
	t := r.get(id)
	if t == nil {
		return fmt.Sprintf("r%d: no replica here", id)
	}
	rf := t.raft.Load()
	if rf == nil {
		return fmt.Sprintf("r%d: starting", id)
	}
	t.mu.Lock()
	fort, e, heard, votes := t.fort, t.elect, t.heard, t.votes
	t.mu.Unlock()
	s := fmt.Sprintf("r%d: %v term %d leader n%d last %d commit %d raft-applied %d; lease dropped up to term %d, applied term %d, ready %t, votes in flight %d, fort %+v, heard %+v, elect %+v",
		id, rf.State(), rf.CurrentTerm(), t.Leader(), rf.LastIndex(), rf.CommitIndex(), rf.AppliedIndex(), t.dropped.Load(), t.cfg.AppliedTerm(), r.support.Ready(), votes, fort, heard, e)
	if rf.State() != raft.Leader {
		return s
	}
	for pid, p := range *t.peers.Load() {
		g, ok := r.support.SupportedBy(p.node)
		s += fmt.Sprintf("; %s: ack %+v, supports us %t in epoch %d, match %d of term %d", pid, p.ack.Load(), ok, g.Epoch, p.match.Load(), p.matchTerm.Load())
	}
	return s
}
