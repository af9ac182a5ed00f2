// Package fleet is a cluster in memory for the allocator: hundreds of nodes and a hundred
// thousand ranges, without keys, raft or a network. It carries out the allocator's changes one
// configuration entry at a time, lets copies take as long as their bytes, lets nodes fail and
// return, and checks every entry against SAFETY S18 and S19 by itself.
//
// It shows that the allocator converges and stays, and what a decision costs; it does not show
// that the node carries changes out well. That is node/sim's.
package fleet

import (
	"fmt"
	"slices"
	"time"

	"github.com/atolldb/atoll/topology/allocator"
	"github.com/atolldb/atoll/topology/placement"
)

// Fleet is a cluster. Nodes, Rules and Settings may be changed between ticks, nodes through its
// methods. Not safe for concurrent use.
type Fleet struct {
	Nodes    []allocator.Node // by ID; what ranges cost is filled in by View
	Ranges   []allocator.Range
	Rules    []placement.Rule
	Settings allocator.Settings
	// CopyBytesPerSecond is how fast one copy goes. 0: it is there at the next tick.
	CopyBytesPerSecond int64
	// PerNode lets every node plan for the ranges that it leads, without knowing of the others'
	// plans, as nodes do. Else one plan covers all.
	PerNode bool
	// Drop, if not nil, says whether the next configuration entry is lost on its way.
	Drop func() bool

	Counts Counts
	// Faults are broken rules, in words. There must be none.
	Faults []string

	turn   uint64
	copies map[copyKey]*transfer
	index  map[allocator.NodeID]int
}

// Counts are what has been done.
type Counts struct {
	Changes  [allocator.TurnWitness + 1]int // by kind
	Bytes    int64                          // copied
	Windows  int                            // S19's windows that were opened
	Refused  int                            // copies that a node had no room for in its limits
	Elected  int                            // leases that moved because their holder was silent
	Deferred int
}

type copyKey struct {
	rng  allocator.RangeID
	node allocator.NodeID
}

// transfer is a copy on its way.
type transfer struct {
	from allocator.NodeID
	left int64
}

// New returns a fleet of nodes without ranges. Nodes that have no other health answer for long.
func New(nodes []allocator.Node, rules []placement.Rule) *Fleet {
	f := &Fleet{Nodes: slices.Clone(nodes), Rules: rules, copies: map[copyKey]*transfer{}}
	for i := range f.Nodes {
		if f.Nodes[i].For == 0 {
			f.Nodes[i].For = 24 * time.Hour
		}
	}
	f.reindex()
	return f
}

func (f *Fleet) reindex() {
	f.index = make(map[allocator.NodeID]int, len(f.Nodes))
	for i, n := range f.Nodes {
		f.index[n.ID] = i
	}
}

// Add lets a node join.
func (f *Fleet) Add(n allocator.Node) {
	f.Nodes = append(f.Nodes, n)
	f.reindex()
}

// Node returns a node, to be read or given another membership.
func (f *Fleet) Node(id allocator.NodeID) *allocator.Node { return &f.Nodes[f.index[id]] }

// SetHealth lets a node fail or come back. What it holds has to catch up then; with its volume
// gone, what was on its way to it is lost.
func (f *Fleet) SetHealth(id allocator.NodeID, h allocator.Health) {
	n := f.Node(id)
	if n.Health == h {
		return
	}
	n.Health, n.For = h, 0
	for i := range f.Ranges {
		for j := range f.Ranges[i].Replicas {
			if rep := &f.Ranges[i].Replicas[j]; rep.Node == id {
				rep.CaughtUp = false
			}
		}
	}
}

// View returns what a node would know: sums over all ranges, with copies on their way.
func (f *Fleet) View() allocator.View {
	nodes := slices.Clone(f.Nodes)
	for i := range nodes {
		n := &nodes[i]
		n.CPU, n.Replicas, n.Leases, n.Receiving, n.Sending = 0, 0, 0, 0, 0
	}
	for i := range f.Ranges {
		r := &f.Ranges[i]
		for _, rep := range r.Replicas {
			n := &nodes[f.index[rep.Node]]
			n.Replicas++
			if rep.Type == allocator.Witness || rep.Type == allocator.NewWitness {
				continue
			}
			n.CPU += r.ReplicaCPU
			n.DiskUsed += r.Bytes
		}
		if r.Leaseholder != 0 {
			n := &nodes[f.index[r.Leaseholder]]
			n.Leases++
			n.CPU += r.LeaseCPU
		}
	}
	for k, c := range f.copies {
		nodes[f.index[k.node]].Receiving++
		nodes[f.index[c.from]].Sending++
	}
	return allocator.View{Nodes: nodes, Ranges: f.Ranges, Rules: f.Rules, Settings: f.Settings, Turn: f.turn}
}

// Tick lets time pass: ages grow, copies go on, leases of silent nodes move by election.
func (f *Fleet) Tick(d time.Duration) {
	for i := range f.Nodes {
		f.Nodes[i].For += d
	}
	for i := range f.Ranges {
		r := &f.Ranges[i]
		r.LeaseFor += d
		for j := range r.Replicas {
			f.catchUp(r, &r.Replicas[j], d)
		}
		f.elect(r)
	}
}

// catchUp moves one replica forward, if it answers and the leaseholder does.
func (f *Fleet) catchUp(r *allocator.Range, rep *allocator.Replica, d time.Duration) {
	if rep.CaughtUp || r.Leaseholder == 0 || !f.answers(rep.Node) || !f.answers(r.Leaseholder) {
		return
	}
	k := copyKey{r.ID, rep.Node}
	if c := f.copies[k]; c != nil && f.CopyBytesPerSecond > 0 {
		if c.left -= int64(d.Seconds() * float64(f.CopyBytesPerSecond)); c.left > 0 {
			return
		}
	}
	delete(f.copies, k)
	rep.CaughtUp = true
}

// elect gives the lease of a silent node to a voter that has caught up, if there is a quorum.
func (f *Fleet) elect(r *allocator.Range) {
	if r.Leaseholder != 0 && f.answers(r.Leaseholder) {
		return
	}
	r.Leaseholder = 0
	if live, voters := f.liveVoters(r); live < voters/2+1 {
		return
	}
	for _, rep := range r.Replicas {
		if rep.Type == allocator.Voter && rep.CaughtUp && !rep.Distrusted && f.answers(rep.Node) {
			r.Leaseholder, r.LeaseFor = rep.Node, 0
			f.Counts.Elected++
			return
		}
	}
	// All that answer have just come back: the one with the longest log leads; here, the first.
	for i := range r.Replicas {
		if rep := &r.Replicas[i]; rep.Type == allocator.Voter && !rep.Distrusted && f.answers(rep.Node) {
			rep.CaughtUp, r.Leaseholder, r.LeaseFor = true, rep.Node, 0
			return
		}
	}
}

func (f *Fleet) answers(id allocator.NodeID) bool { return f.Node(id).Health == allocator.Answers }

// acks reports whether a replica acknowledges entries: a quarantined one does, unless it was told not
// to, or is gone.
func (f *Fleet) acks(rep *allocator.Replica) bool {
	return f.answers(rep.Node) && (!rep.Distrusted || rep.CaughtUp)
}

func (f *Fleet) liveVoters(r *allocator.Range) (live, voters int) {
	for _, rep := range r.Replicas {
		if rep.Type == allocator.Voter || rep.Type == allocator.Witness {
			voters++
			if f.acks(&rep) {
				live++
			}
		}
	}
	return live, voters
}

// Round plans and carries the changes out. It returns what was planned.
func (f *Fleet) Round() (allocator.Plan, error) {
	f.turn++
	v := f.View()
	a, err := allocator.New(v)
	if err != nil {
		return allocator.Plan{}, err
	}
	plan := allocator.Plan{}
	if f.PerNode {
		plan = f.planPerNode(a, v.Ranges)
	} else {
		plan = a.Plan(v.Ranges)
	}
	f.Counts.Deferred += plan.Deferred
	at := make(map[allocator.RangeID]int, len(f.Ranges))
	for i := range f.Ranges {
		at[f.Ranges[i].ID] = i
	}
	receiving := map[allocator.NodeID]int{}
	for k := range f.copies {
		receiving[k.node]++
	}
	limits := f.Settings
	limits.EnsureDefaults()
	for _, c := range plan.Changes {
		if c.Kind == allocator.AddNonVoter || c.Kind == allocator.AddWitness {
			limit := limits.Limits.Receive
			if c.Priority >= allocator.Load {
				limit = limits.Limits.ReceiveMoves
			}
			if receiving[c.Node] >= limit {
				f.Counts.Refused++ // nodes that do not know of each other's plans ask too much of one
				continue
			}
			receiving[c.Node]++
		}
		f.Apply(&f.Ranges[at[c.Range]], c)
	}
	return plan, nil
}

// planPerNode joins the plans that nodes make for the ranges that they lead.
func (f *Fleet) planPerNode(a *allocator.Allocator, ranges []allocator.Range) allocator.Plan {
	led := make([][]allocator.Range, len(f.Nodes))
	for _, r := range ranges {
		if r.Leaseholder != 0 {
			led[f.index[r.Leaseholder]] = append(led[f.index[r.Leaseholder]], r)
		}
	}
	var all allocator.Plan
	for _, mine := range led {
		p := a.Plan(mine)
		all.Changes = append(all.Changes, p.Changes...)
		all.Stuck = append(all.Stuck, p.Stuck...)
		all.Waiting += p.Waiting
		all.Deferred += p.Deferred
	}
	return all
}

// Settle runs rounds, a tick each, until nothing was done and nothing was on its way for a few
// rounds. It fails if that takes more than max.
func (f *Fleet) Settle(tick time.Duration, max int) (rounds int, err error) {
	// Of several planners each range has its turn now and then: with 12 times as many rounds it
	// is missed once in 100,000.
	quiet, enough := 0, 3
	if f.Settings.Planners > 1 {
		enough = 12 * f.Settings.Planners
	}
	for rounds = 1; rounds <= max; rounds++ {
		p, err := f.Round()
		if err != nil {
			return rounds, err
		}
		if len(f.Faults) > 0 {
			return rounds, fmt.Errorf("fleet: %s", f.Faults[0])
		}
		f.Tick(tick)
		if quiet++; len(p.Changes) > 0 || len(f.copies) > 0 {
			quiet = 0
		}
		if quiet == enough {
			return rounds - enough, nil
		}
	}
	return max, fmt.Errorf("fleet: still at work after %d rounds", max)
}
