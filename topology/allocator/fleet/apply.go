package fleet

import (
	"fmt"
	"slices"

	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/allocator"
)

// Apply carries one change out, entry by entry, and checks each.
func (f *Fleet) Apply(r *allocator.Range, c allocator.Change) {
	f.Counts.Changes[c.Kind]++
	if f.Drop != nil && f.Drop() {
		return
	}
	switch c.Kind {
	case allocator.AddNonVoter:
		f.add(r, c.Node, allocator.NonVoter)
	case allocator.AddWitness:
		f.add(r, c.Node, allocator.NewWitness)
	case allocator.Promote:
		f.entry(r, c, false, func() { f.promote(r, c.Node) })
	case allocator.Demote:
		f.entry(r, c, false, func() { f.on(r, c.Node).Type = allocator.NonVoter })
	case allocator.Remove:
		f.entry(r, c, false, func() { f.remove(r, c.Node) })
	case allocator.TransferLease:
		f.transferLease(r, c)
	case allocator.TurnWitness:
		f.turnWitness(r, c)
	default:
		f.pair(r, c)
	}
}

// pair carries out two entries, between which S19's window is open.
func (f *Fleet) pair(r *allocator.Range, c allocator.Change) {
	first, second := func() { f.promote(r, c.Node) }, func() { f.promote(r, c.Other) }
	switch c.Kind {
	case allocator.Replace:
		second = func() { f.remove(r, c.Other) }
	case allocator.Shrink:
		first, second = func() { f.remove(r, c.Node) }, func() { f.remove(r, c.Other) }
	}
	tier := f.Rules[r.Rule].Survive
	for _, rep := range r.Replicas {
		goes := c.Kind != allocator.Grow && rep.Node == c.Other || c.Kind == allocator.Shrink && rep.Node == c.Node
		if votes(rep.Type) && !goes && (!f.acks(&rep) || !rep.CaughtUp) {
			f.fault(r, c, "the window was opened while the voter on node %d was not ready", rep.Node)
		}
	}
	before := f.margin(r, tier)
	f.Counts.Windows++
	f.entry(r, c, true, first)
	if f.weakWithout(r, r.Leaseholder, tier) {
		f.fault(r, c, "the window is led from node %d, in a %s that it weakens", r.Leaseholder, tier)
	}
	if f.Drop != nil && f.Drop() {
		return // whoever leads next finds the range like this
	}
	f.entry(r, c, true, second)
	if after := f.margin(r, tier); min(after, 0) < min(before, 0) {
		f.fault(r, c, "the range is weaker after the window (%d) than before (%d)", after, before)
	}
}

// turnWitness carries out three entries on one node: for a moment the range has one voter fewer.
func (f *Fleet) turnWitness(r *allocator.Range, c allocator.Change) {
	tier := f.Rules[r.Rule].Survive
	for _, rep := range r.Replicas {
		if votes(rep.Type) && rep.Node != c.Node && (!f.acks(&rep) || !rep.CaughtUp) {
			f.fault(r, c, "a copy was turned into a witness while the voter on node %d was not ready", rep.Node)
		}
	}
	before := f.margin(r, tier)
	f.Counts.Windows++
	f.entry(r, c, true, func() { f.remove(r, c.Node) })
	if f.Drop != nil && f.Drop() {
		return // whoever leads next finds the range like this
	}
	f.add(r, c.Node, allocator.NewWitness)
	f.on(r, c.Node).CaughtUp = true
	delete(f.copies, copyKey{r.ID, c.Node})
	f.entry(r, c, true, func() { f.promote(r, c.Node) })
	if after := f.margin(r, tier); min(after, 0) < min(before, 0) {
		f.fault(r, c, "the range is weaker with the witness (%d) than before (%d)", after, before)
	}
}

// entry makes one configuration change.
func (f *Fleet) entry(r *allocator.Range, c allocator.Change, window bool, do func()) {
	tier := f.Rules[r.Rule].Survive
	live, voters := f.liveVoters(r)
	before, was := f.margin(r, tier), slices.Clone(r.Replicas)
	if live < voters/2+1 {
		f.fault(r, c, "%d of %d voters answer: the entry can't be committed", live, voters)
	}
	do()
	stay := 0 // voters of the old configuration that are still there, answer and have caught up
	for _, o := range was {
		if rep := f.on(r, o.Node); votes(o.Type) && rep != nil && votes(rep.Type) && f.acks(&o) && o.CaughtUp {
			stay++
		}
	}
	if left := len(was) > len(r.Replicas) || c.Kind == allocator.Demote; left && stay < voters/2+1 && f.removedVoter(r, was) {
		f.fault(r, c, "the removal leaves %d voters that answer, fewer than the quorum of the %d before (S19)", stay, voters)
	}
	if live, voters := f.liveVoters(r); live < voters/2+1 {
		f.fault(r, c, "%d of %d voters answer after it", live, voters)
	}
	if after := f.margin(r, tier); !window && min(after, 0) < min(before, 0) {
		f.fault(r, c, "it weakens the goal, survive: %s, from %d to %d", tier, before, after)
	}
	if f.hollow(r.Replicas) && !f.hollow(was) {
		f.fault(r, c, "witnesses alone are a quorum")
	}
	if f.on(r, r.Leaseholder) == nil {
		f.fault(r, c, "the leaseholder's replica was removed")
	}
}

// hollow reports whether a quorum can be had without data.
func (f *Fleet) hollow(replicas []allocator.Replica) bool {
	data, witnesses := 0, 0
	for _, rep := range replicas {
		switch rep.Type {
		case allocator.Voter:
			data++
		case allocator.Witness:
			witnesses++
		}
	}
	return witnesses > data // more than half
}

func (f *Fleet) removedVoter(r *allocator.Range, was []allocator.Replica) bool {
	for _, o := range was {
		if rep := f.on(r, o.Node); votes(o.Type) && (rep == nil || !votes(rep.Type)) {
			return true
		}
	}
	return false
}

func votes(t allocator.ReplicaType) bool { return t == allocator.Voter || t == allocator.Witness }

func (f *Fleet) on(r *allocator.Range, id allocator.NodeID) *allocator.Replica {
	for i := range r.Replicas {
		if r.Replicas[i].Node == id {
			return &r.Replicas[i]
		}
	}
	return nil
}

func (f *Fleet) add(r *allocator.Range, id allocator.NodeID, t allocator.ReplicaType) {
	c := allocator.Change{Kind: allocator.AddNonVoter, Node: id}
	if f.on(r, id) != nil {
		f.fault(r, c, "there is a replica already")
		return
	}
	if n := f.Node(id); n.Health != allocator.Answers || n.Membership != allocator.Active {
		f.fault(r, c, "the node takes no replicas")
	}
	r.Replicas = append(r.Replicas, allocator.Replica{Node: id, Type: t})
	bytes := r.Bytes
	if t == allocator.NewWitness {
		bytes = 0
	}
	f.copies[copyKey{r.ID, id}] = &transfer{from: r.Leaseholder, left: bytes}
	f.Counts.Bytes += bytes
}

func (f *Fleet) promote(r *allocator.Range, id allocator.NodeID) {
	rep := f.on(r, id)
	if rep == nil || votes(rep.Type) || !rep.CaughtUp {
		f.fault(r, allocator.Change{Kind: allocator.Promote, Node: id}, "there is no non-voter that has caught up")
		return
	}
	rep.Type = map[allocator.ReplicaType]allocator.ReplicaType{allocator.NonVoter: allocator.Voter, allocator.NewWitness: allocator.Witness}[rep.Type]
}

func (f *Fleet) remove(r *allocator.Range, id allocator.NodeID) {
	r.Replicas = slices.DeleteFunc(r.Replicas, func(rep allocator.Replica) bool { return rep.Node == id })
	delete(f.copies, copyKey{r.ID, id})
}

func (f *Fleet) transferLease(r *allocator.Range, c allocator.Change) {
	rep := f.on(r, c.Node)
	if rep == nil || rep.Type != allocator.Voter || !rep.CaughtUp || rep.Distrusted || !f.answers(c.Node) {
		f.fault(r, c, "there is no voter with data that has caught up")
		return
	}
	r.Leaseholder, r.LeaseFor = c.Node, 0
	for k, t := range f.copies {
		if k.rng == r.ID {
			t.from = c.Node
		}
	}
}

// margin is by how many the voters that answer exceed a quorum after the loss of the worst
// failure domain. It is written without placement.Margin, to check it.
func (f *Fleet) margin(r *allocator.Range, tier topology.Tier) int {
	left := map[string]int{}
	for _, lost := range r.Replicas {
		if !votes(lost.Type) {
			continue
		}
		d := f.domain(lost.Node, tier)
		left[d] = 0
		for _, rep := range r.Replicas {
			if votes(rep.Type) && f.answers(rep.Node) && !rep.Distrusted && f.domain(rep.Node, tier) != d {
				left[d]++
			}
		}
	}
	_, voters := f.liveVoters(r)
	worst := voters
	for _, n := range left {
		worst = min(worst, n)
	}
	return worst - (voters/2 + 1)
}

// weakWithout reports whether the loss of a node's failure domain would stop the range.
func (f *Fleet) weakWithout(r *allocator.Range, id allocator.NodeID, tier topology.Tier) bool {
	left, voters := 0, 0
	for _, rep := range r.Replicas {
		if votes(rep.Type) {
			voters++
			if f.answers(rep.Node) && !rep.Distrusted && f.domain(rep.Node, tier) != f.domain(id, tier) {
				left++
			}
		}
	}
	return left < voters/2+1
}

func (f *Fleet) domain(id allocator.NodeID, tier topology.Tier) string {
	n := f.Node(id)
	switch tier {
	case topology.ZoneTier:
		return n.Locality.Zone
	case topology.RegionTier:
		return n.Locality.Region
	default:
		return fmt.Sprint(id)
	}
}

func (f *Fleet) fault(r *allocator.Range, c allocator.Change, format string, args ...any) {
	f.Faults = append(f.Faults, fmt.Sprintf("range %d %v, lease on %d: %s (%s): ", r.ID, r.Replicas, r.Leaseholder, c, c.Reason)+fmt.Sprintf(format, args...))
}
