package sim

import (
	"slices"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// drawWitness chooses a fault that is about whole zones, or about a data replica that is late.
func (s *sim) drawWitness(hold time.Duration, lost int) (plan, bool) {
	zone := []string{"a", "b", "w"}[s.rng.IntN(3)]
	switch s.rng.IntN(10) {
	case 0, 1:
		in := s.nodesIn(zone)
		return plan{"kill zone", func() { kill(in, lost) }, func() { start(in) }, hold}, true
	case 2:
		return s.isolateZone(zone, hold), true
	case 3, 4, 5:
		return s.lateReplica(hold, lost), true
	case 6:
		if len(s.nodesIn("w")) > 1 { // else a copy has no place there
			return plan{"other policy", func() { s.placeWitnesses(false) }, func() { s.placeWitnesses(true) }, hold}, true
		}
	}
	return plan{}, false
}

// lateReplica keeps a zone with data away while the other one and the witnesses go on. Then that one
// is lost, once in a run for good, the late one is back, and what it lacks the witnesses have (S22).
func (s *sim) lateReplica(hold time.Duration, lost int) plan {
	late, other := "a", "b"
	if s.rng.IntN(2) == 0 {
		late, other = other, late
	}
	goes, again := s.nodesIn(other), s.between(100*time.Millisecond, 3*time.Second)
	hold += s.between(0, 2*time.Second)
	away := s.isolateZone(late, hold)
	forGood := s.rng.IntN(3) == 0
	return plan{"late replica", away.do, func() {
		if forGood && s.mayLose(goes) && s.quiet() {
			s.trace.add("zone %s is lost for good", other)
			s.members.lost = goes[0]
			for _, n := range goes {
				n.loseDisk()
			}
		}
		kill(goes, lost)
		away.undo()
		s.stopping.Go(func() {
			time.Sleep(again)
			start(goes)
		})
	}, hold}
}

// mayLose reports whether nodes may lose their disks. A node that is started serves nothing before it
// has compared its clock with most of the others (S1): most must be left.
func (s *sim) mayLose(goes []*node) bool {
	joined := 0
	for _, n := range s.nodes {
		if n.num() != 0 && !n.retired.Load() {
			joined++
		}
	}
	return s.members.lost == nil && s.members.leaving == nil && 2*len(goes) < joined && s.hasBases(goes)
}

// hasBases reports whether every data voter on the other nodes has some state of its range, however
// old. One that missed a split, and got the left side by a snapshot, waits for the right side's: then
// there is one copy, and a witness's log is of no use without one.
func (s *sim) hasBases(goes []*node) bool {
	state := map[keys.NodeID]map[keys.RangeID]bool{}
	descs := map[keys.RangeID]kv.RangeDescriptor{}
	for _, n := range s.nodes {
		p := n.open()
		if p == nil {
			continue
		}
		has := map[keys.RangeID]bool{}
		for _, r := range p.host.Store.Ranges() {
			has[r.Desc.RangeID] = r.Initialized
			if r.Desc.Generation >= descs[r.Desc.RangeID].Generation {
				descs[r.Desc.RangeID] = r.Desc
			}
		}
		state[n.num()] = has
	}
	for id, d := range descs {
		for _, rd := range d.Replicas {
			goes := slices.ContainsFunc(goes, func(n *node) bool { return n.num() == rd.Node })
			if rd.Type == kv.Voter && !goes && !state[rd.Node][id] {
				return false
			}
		}
	}
	return true
}

// isolateZone cuts a zone off from the others.
func (s *sim) isolateZone(zone string, hold time.Duration) plan {
	in := s.nodesIn(zone)
	pairs := func(f func(a, b *node)) {
		for _, a := range in {
			for _, b := range s.nodes {
				if b.zone != zone {
					f(a, b)
				}
			}
		}
	}
	return plan{"isolate zone", func() { pairs(func(a, b *node) { s.net.Cut(a.num(), b.num()) }) },
		func() { pairs(func(a, b *node) { s.net.Heal(a.num(), b.num()) }) }, hold}
}

func (s *sim) nodesIn(zone string) (in []*node) {
	for _, n := range s.nodes {
		if n.zone == zone {
			in = append(in, n)
		}
	}
	return in
}

func kill(nodes []*node, lost int) {
	for _, n := range nodes {
		n.kill(lost)
	}
}

func start(nodes []*node) {
	for _, n := range nodes {
		n.start()
	}
}
