package recovery

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/atolldb/atoll/node/keys"
)

// IDs are not known of what only the lost nodes knew. So new ones lie this far beyond all that is known
// (SAFETY S18): the lost nodes may have used some more in their last moments, and nobody remembers.
const (
	replicaLeap    = 16
	generationLeap = 1000
	rangeLeap      = 4096
	nodeLeap       = 16
	versionLeap    = 1 << 20 // of a directory entry
	// ObjectLeap is for the counters of what uses the database: tables' IDs.
	ObjectLeap = 4096
)

// Input is what a plan is made from.
type Input struct {
	Inventories []Inventory
	// Lost are the nodes that are lost for good. nil: those that the directory names and that gave
	// no inventory.
	Lost []keys.NodeID
	// AcceptLostSpans makes a plan although keys survive nowhere; they stay unavailable.
	AcceptLostSpans bool
	Now             time.Time
}

// ErrNothing says that every range has its quorum and no node is lost.
var ErrNothing = errors.New("recovery: nothing is lost: every node of the directory answers, and every range that they know has a quorum")

// Make works out a plan, or returns every fault at once.
func Make(in Input) (*Plan, error) {
	m := &maker{in: in, left: map[keys.NodeID]*Inventory{}, nodes: map[keys.NodeID]Node{}, lost: map[keys.NodeID]bool{}}
	m.plan = &Plan{Version: PlanVersion, MadeAt: in.Now.UTC().Round(0)}
	m.gather()
	if len(m.faults) == 0 {
		m.nameLost()
	}
	if len(m.faults) == 0 {
		m.judgeRanges()
		m.barVoters()
		m.cover()
		m.floors()
	}
	if err := errors.Join(m.faults...); err != nil {
		return nil, err
	}
	if len(m.plan.Lost)+len(m.plan.Ranges)+len(m.plan.Superseded)+len(m.plan.Holes) == 0 {
		return nil, ErrNothing
	}
	m.plan.ID = m.plan.checksum()
	return m.plan, m.plan.validate()
}

type maker struct {
	in     Input
	plan   *Plan
	faults []error

	left  map[keys.NodeID]*Inventory // of nodes that take part
	nodes map[keys.NodeID]Node       // newest entries of the directory
	lost  map[keys.NodeID]bool

	healthy []*found
	broken  []*found
}

func (m *maker) fault(format string, args ...any) {
	if len(m.faults) < maxFaults {
		m.faults = append(m.faults, fmt.Errorf("recovery: "+format, args...))
	}
}

func (m *maker) note(format string, args ...any) {
	m.plan.Notes = append(m.plan.Notes, fmt.Sprintf(format, args...))
}

// gather checks that the inventories are of one cluster, and joins their directories.
func (m *maker) gather() {
	if len(m.in.Inventories) == 0 {
		m.fault("no node gave an inventory: start the nodes that are left, and name their addresses")
		return
	}
	m.plan.ClusterID = m.in.Inventories[0].ClusterID
	for i := range m.in.Inventories {
		v := &m.in.Inventories[i]
		if v.ClusterID != m.plan.ClusterID {
			m.fault("node %d belongs to cluster %s, node %d to %s: name nodes of one cluster", v.Node, v.ClusterID, m.in.Inventories[0].Node, m.plan.ClusterID)
		}
		if m.left[v.Node] != nil {
			m.fault("node %d gave two inventories", v.Node)
		}
		m.left[v.Node] = v
		for _, n := range v.Nodes {
			if have, ok := m.nodes[n.ID]; !ok || have.Version < n.Version || n.Lost {
				m.nodes[n.ID] = n
			}
		}
	}
}

// nameLost settles which nodes are lost, and that none of them lives.
func (m *maker) nameLost() {
	var silent []keys.NodeID
	for _, id := range sortedKeys(m.nodes) {
		n := m.nodes[id]
		answers := m.left[id] != nil
		switch {
		case n.State == stateDecommissioned && answers:
			m.note("node %d answers, but is decommissioned: what it has is not used", id)
			delete(m.left, id)
		case n.State == stateJoining && !answers:
			m.note("node %d got its ID and never ran under it: it holds nothing", id)
		case n.State != stateDecommissioned && !answers:
			silent = append(silent, id)
		}
	}
	lost := m.in.Lost
	if lost == nil {
		lost = silent
	}
	for _, id := range lost {
		switch n, known := m.nodes[id]; {
		case m.left[id] != nil:
			m.fault("node %d answers, so it is not lost: stop it first, and then destroy its volume", id)
		case !known:
			m.fault("the directory has no node %d", id)
		case n.State == stateDecommissioned:
			m.note("node %d is decommissioned already", id)
		default:
			m.lost[id] = true
		}
	}
	for _, id := range silent {
		if !m.lost[id] {
			m.fault("node %d (%s, zone %s) does not answer and is not named as lost: start it, or name it with --lost if its data is gone for good", id, m.nodes[id].Addr, m.nodes[id].Zone)
		}
	}
	for _, id := range sortedKeys(m.left) {
		for _, other := range m.left[id].Live {
			if m.lost[other] {
				m.fault("node %d is to be given up, but answers node %d: stop it first", other, id)
			}
		}
	}
	if len(m.left) == 0 {
		m.fault("no node is left that is not decommissioned")
	}
	for _, id := range sortedKeys(m.lost) {
		m.giveUp(id)
	}
	for _, id := range sortedKeys(m.left) {
		m.plan.Survivors = append(m.plan.Survivors, Survivor{Node: id, Addr: m.nodes[id].Addr, Boot: m.left[id].Boot})
	}
}

func (m *maker) giveUp(id keys.NodeID) {
	n := m.nodes[id]
	m.plan.Lost = append(m.plan.Lost, LostNode{Node: id, Addr: n.Addr, Zone: n.Zone, Version: n.Version + versionLeap})
}

// barVoters gives up those too that were decommissioned while they were voters of a broken range: were
// they started again, they might be its quorum of before.
func (m *maker) barVoters() {
	more := map[keys.NodeID]bool{}
	for _, f := range m.broken {
		for _, c := range f.copies {
			for _, v := range c.Voters {
				n, known := m.nodes[v.Node]
				if known && n.State == stateDecommissioned && !n.Lost && m.left[v.Node] == nil {
					more[v.Node] = true
				}
			}
		}
	}
	for _, id := range sortedKeys(more) {
		m.giveUp(id)
	}
}

// copyOf is a replica that is left, with its node.
type copyOf struct {
	*Replica
	node keys.NodeID
}

func (c copyOf) server() Server { return Server{c.node, c.Replica.Replica} }

func (c copyOf) brief() Copy {
	return Copy{Server: c.server(), Role: c.Role, LastTerm: c.LastTerm, LastIndex: c.LastIndex, Distrust: c.Distrust, Mute: c.Mute}
}

// found is what is left of a range.
type found struct {
	id         keys.RangeID
	copies     []copyOf
	span       Span // by the newest descriptor that any of them has
	generation int64
}

// judgeRanges tells ranges that can elect a leader from those that can't.
func (m *maker) judgeRanges() {
	byRange := map[keys.RangeID]*found{}
	for _, node := range sortedKeys(m.left) {
		for i := range m.left[node].Replicas {
			r := &m.left[node].Replicas[i]
			f := byRange[r.Range]
			if f == nil {
				f = &found{id: r.Range}
				byRange[r.Range] = f
			}
			f.copies = append(f.copies, copyOf{r, node})
			if r.HasData && r.Generation >= f.generation {
				f.generation, f.span = r.Generation, Span{r.Start, r.End}
			}
		}
	}
	for _, id := range sortedKeys(byRange) {
		f := byRange[id]
		if f.able(m.mayBeMade) {
			m.healthy = append(m.healthy, f)
		} else {
			m.broken = append(m.broken, f)
		}
	}
}

// able reports whether the replicas that are left may elect a leader: one of them, by the voters of its
// own log, gets the votes of a majority, and nobody votes for a log that ends before his own. A replica
// that missed changes may name voters of long ago: they have no replicas any more under the IDs of then
// (S18), so they do not vote.
func (f *found) able(mayBeMade func(keys.RangeID, Server) bool) bool {
	left := map[Server]Copy{}
	for _, c := range f.copies {
		if c.Lease {
			return true
		}
		left[c.server()] = c.brief()
	}
	for _, c := range f.copies {
		me, votes := left[c.server()], 0
		for _, v := range c.Voters {
			if o, ok := left[v]; ok && o.votesFor(me.LastTerm, me.LastIndex) || !ok && mayBeMade(f.id, v) {
				votes++
			}
		}
		if c.Role != NonVoter && c.Role != Removed && !c.Mute && votes > len(c.Voters)/2 {
			return true
		}
	}
	return false
}

// mayBeMade reports whether a voter that a node lacks may still come to be there: after a split it is made
// a moment later, or by another voter's asking.
func (m *maker) mayBeMade(id keys.RangeID, v Server) bool {
	n := m.left[v.Node]
	if n == nil {
		return false
	}
	for _, s := range n.Spent {
		if s.Range == id && s.Lowest > v.Replica {
			return false
		}
	}
	return !slices.ContainsFunc(n.Replicas, func(r Replica) bool { return r.Range == id })
}

// sources returns the replicas with data, the best one first. The log that goes furthest comes first: it
// has all that any other has applied. Data that is known to be wrong (S23) comes last all the same.
func (f *found) sources() []copyOf {
	var out []copyOf
	for _, c := range f.copies {
		if c.HasData && c.Role != Witness {
			out = append(out, c)
		}
	}
	flag := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b copyOf) int {
		return cmp.Or(
			flag(a.CorruptData)-flag(b.CorruptData),
			-cmp.Compare(a.LastTerm, b.LastTerm), -cmp.Compare(a.LastIndex, b.LastIndex),
			flag(a.Distrust != "")-flag(b.Distrust != ""),
			flag(a.Role != Voter)-flag(b.Role != Voter),
			-cmp.Compare(a.Applied, b.Applied),
			cmp.Compare(a.node, b.node))
	})
	return out
}

// order makes what is done with a broken range whose keys are span.
func (m *maker) order(f *found, span Span) {
	all := f.sources()
	best := all[0]
	r := Range{ID: f.id, Span: span, Source: best.brief(), Voters: best.Voters, Commit: best.Commit, Applied: best.Applied,
		Newest: best.Newest.UTC(), Bytes: best.Bytes, NewReplica: m.nextReplica(f), Generation: f.generation + generationLeap}
	for _, c := range f.copies {
		r.Term = max(r.Term, c.Term, c.LastTerm)
		if c != best {
			r.Others = append(r.Others, c.brief())
		}
		if c.Commit > best.LastIndex || c.Applied > best.LastIndex {
			if !c.CorruptData {
				m.fault("range %d: %s has entries up to %d that are committed, the furthest log (%s) ends at %d: one of the two stores is damaged or was rolled back. Stop that node, name it as lost, and plan again",
					f.id, c.server(), max(c.Commit, c.Applied), best.server(), best.LastIndex)
			} else {
				r.Notes = append(r.Notes, fmt.Sprintf("%s goes up to %d, but is not used: it %s", c.server(), c.LastIndex, c.Distrust))
			}
		}
	}
	if best.Distrust != "" {
		r.Notes = append(r.Notes, fmt.Sprintf("the only choice is quarantined: it %s; compare its data with a backup", best.Distrust))
	}
	if full := (Span{f.span.Start, f.span.End}); full.Start.less(span.Start) || span.End.less(full.End) {
		r.Notes = append(r.Notes, fmt.Sprintf("it held %s; other ranges hold the rest by now, and what it has of that is dropped", full))
	}
	m.plan.Ranges = append(m.plan.Ranges, r)
}

// nextReplica returns an ID that no replica of the range ever had.
func (m *maker) nextReplica(f *found) keys.ReplicaID {
	next := keys.ReplicaID(1)
	for _, c := range f.copies {
		next = max(next, c.NextReplica, c.Replica.Replica+1)
		for _, s := range slices.Concat(c.Voters, c.NonVoters) {
			next = max(next, s.Replica+1)
		}
	}
	for _, v := range m.left {
		for _, s := range v.Spent {
			if s.Range == f.id {
				next = max(next, s.Lowest)
			}
		}
	}
	return next + replicaLeap
}

// floors sets below what no ID may be given out again.
func (m *maker) floors() {
	var topRange keys.RangeID
	var topNode keys.NodeID
	for _, v := range m.left {
		for i := range v.Replicas {
			topRange = max(topRange, v.Replicas[i].Range)
		}
		for _, s := range v.Spent {
			topRange = max(topRange, s.Range)
		}
	}
	for id := range m.nodes {
		topNode = max(topNode, id)
	}
	m.plan.RangeIDFloor, m.plan.NodeIDFloor = int64(topRange)+rangeLeap, int64(topNode)+nodeLeap
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
