package sim

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
)

// members is what the run did to the cluster's membership. The driver's goroutine owns it, but for
// what is atomic.
type members struct {
	lost    *node       // its disk was lost
	leaving *node       // it is being decommissioned
	flipped atomic.Bool // a byte of some replica was changed behind everybody's back
	key     keys.Key    // whose
	suspect sync.Map    // keys.RangeID: ranges that held it

	mu          sync.Mutex
	quarantined []quarantined // what leaseholders logged
}

// quarantined is a replica that a leaseholder distrusts.
type quarantined struct {
	rangeID keys.RangeID
	what    string
}

// distrusted takes note of a quarantine. Nodes call it from their log.
func (m *members) distrusted(q quarantined) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.quarantined = append(m.quarantined, q)
}

// justifyQuarantines checks that only replicas of ranges with the flipped byte were distrusted.
func (s *sim) justifyQuarantines() {
	s.noteSuspects()
	s.members.mu.Lock()
	defer s.members.mu.Unlock()
	for _, q := range s.members.quarantined {
		if _, ok := s.members.suspect.Load(q.rangeID); !ok {
			s.fault("a replica was quarantined of which nobody touched a byte: %s", q.what)
		}
	}
}

// noteSuspects remembers the ranges that hold the flipped byte now.
func (s *sim) noteSuspects() {
	if !s.members.flipped.Load() {
		return
	}
	for _, n := range s.nodes {
		if p := n.open(); p != nil {
			for _, r := range p.host.Store.Ranges() {
				if r.Initialized && r.Desc.Contains(s.members.key) {
					s.members.suspect.Store(r.Desc.RangeID, true)
				}
			}
		}
	}
}

// num is the ID under which the node is part of the cluster now; 0: it has not joined yet. A node
// that lost its disk comes back under another one.
func (n *node) num() keys.NodeID { return keys.NodeID(n.id.Load()) }

// member chooses a fault that changes the cluster's membership; ok is false if it can't be had now.
func (s *sim) member(kind int, a *node) (plan, bool) {
	switch kind {
	case 0:
		for _, n := range s.nodes {
			if n.spare && n.num() == 0 && n.running() == nil {
				return plan{name: "join", do: n.start}, true
			}
		}
	case 1:
		p := a.open()
		if p == nil {
			break
		}
		id := a.num()
		hold := s.between(300*time.Millisecond, 3*time.Second)
		return plan{"drain", func() { s.setState(id, cluster.Draining) }, func() { s.setState(id, cluster.Live) }, hold}, true
	case 2:
		if s.members.lost != nil || a.open() == nil || !s.quiet() || s.opts.Focus == FocusWitness && !s.hasBases([]*node{a}) {
			break
		}
		s.members.lost = a
		hold := s.between(50*time.Millisecond, 4*time.Second)
		return plan{"lose disk", a.loseDisk, a.start, hold}, true
	case 3:
		if s.members.leaving != nil || a.open() == nil || a == s.members.lost || !s.hasSubstitute(a) {
			break
		}
		s.members.leaving = a
		return plan{name: "decommission", do: func() { s.clients.Go(func() { _ = s.decommission(a, opTimeout) }) }}, true
	default:
		if s.members.flipped.Load() || a.open() == nil || !s.quiet() {
			break
		}
		i := s.rng.IntN(len(ballast))
		return plan{name: "flip a byte", do: func() { s.flip(a, ballast[i]) }}, true
	}
	return plan{}, false
}

// hasSubstitute reports whether a node of the same zone can take a's replicas.
func (s *sim) hasSubstitute(a *node) bool {
	for _, n := range s.nodes {
		if n != a && n.zone == a.zone && !n.retired.Load() && n.open() != nil {
			return true
		}
	}
	return false
}

// quiet reports whether every range has all its voters and nothing else, as its leaseholder knows:
// with a voter less, the loss of a disk would be one too many.
func (s *sim) quiet() bool {
	seen, led := map[keys.RangeID]bool{}, map[keys.RangeID]bool{}
	for _, n := range s.nodes {
		p := n.open()
		if p == nil {
			continue
		}
		for _, r := range p.host.Store.Ranges() {
			if !r.Initialized {
				continue
			}
			seen[r.Desc.RangeID] = true
			if !r.Lease {
				continue
			}
			led[r.Desc.RangeID] = true
			voters := 0
			for _, rd := range r.Desc.Replicas {
				if rd.Quarantine != kv.Trusted {
					return false
				}
				if rd.Type.Votes() {
					voters++
				}
			}
			if s.opts.Focus.placed() {
				if voters < 3 || voters%2 == 0 {
					return false
				}
			} else if voters != s.shape.voters || len(r.Desc.Replicas) != voters {
				return false
			}
		}
	}
	return len(seen) > 0 && len(led) == len(seen)
}

// loseDisk ends the node's process and takes its disk; the next start is that of an empty node.
func (n *node) loseDisk() {
	n.kill(0)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil {
		n.s.trace.add("n%d lost its disk", n.num())
		n.fs = storage.MemFS()
	}
}

// retire takes a decommissioned node away for good.
func (n *node) retire() {
	n.s.trace.add("n%d is decommissioned", n.num())
	n.retired.Store(true)
	n.s.stopping.Go(n.shutdown)
}

// other returns some node's process that is not n's.
func (s *sim) other(n *node) *process {
	for _, o := range s.nodes {
		if p := o.open(); p != nil && o != n {
			return p
		}
	}
	return nil
}

// setState asks the cluster to change a node's state, in the background.
func (s *sim) setState(id keys.NodeID, state cluster.NodeState) {
	p := s.other(nil)
	if p == nil {
		return
	}
	s.clients.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		s.trace.add("n%d becomes %s: %v", id, state, p.host.Directory.SetState(ctx, p.host.Sender, id, state))
	})
}

// decommission moves everything off a node and retires it.
func (s *sim) decommission(n *node, limit time.Duration) error {
	p := s.other(n)
	if p == nil {
		return fmt.Errorf("no node is up to decommission n%d", n.num())
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := p.host.Store.Decommission(ctx, n.num(), false, nil)
	s.trace.add("decommission n%d: %v", n.num(), err)
	if err == nil && !n.retired.Load() {
		n.retire()
	}
	return err
}

// settleMembers waits until a node that leaves is gone.
func (s *sim) settleMembers() error {
	if n := s.members.leaving; n != nil && !n.retired.Load() {
		var err error
		for end := time.Now().Add(wholeLimit); time.Now().Before(end) && !n.retired.Load(); time.Sleep(time.Second) {
			err = s.decommission(n, 20*time.Second)
		}
		if !n.retired.Load() {
			s.traceFindings(n)
			return fmt.Errorf("n%d could not be decommissioned within %s: %w", n.num(), wholeLimit, err)
		}
	}
	return nil
}

// traceFindings notes why the ranges that a node still has a replica of do not leave it.
func (s *sim) traceFindings(n *node) {
	for _, o := range s.nodes {
		p := o.open()
		if p == nil {
			continue
		}
		for _, f := range p.host.Store.Findings() {
			s.trace.add("n%d finds: range %d, stuck %t: %s", o.num(), f.Range, f.Stuck, f.Reason)
		}
		for _, r := range p.host.Store.Ranges() {
			if _, on := r.Desc.Replica(n.num()); on {
				s.trace.add("n%d has range %d: %+v", o.num(), r.Desc.RangeID, r)
			}
		}
	}
}

// undrain makes every drained node live again. It asks every node: one that has just started may
// not know yet that another one drains.
func (s *sim) undrain() error {
	var err error
	for end := time.Now().Add(wholeLimit); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		p := s.other(nil)
		if p == nil {
			continue
		}
		draining := keys.NodeID(0)
		for _, n := range s.nodes {
			if o := n.open(); o != nil {
				for _, d := range o.host.Directory.All() {
					if d.State == cluster.Draining {
						draining = d.ID
					}
				}
			}
		}
		if draining == 0 {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		err = p.host.Directory.SetState(ctx, p.host.Sender, draining, cluster.Live)
		cancel()
	}
	return fmt.Errorf("a node drains for ever: %w", err)
}

// ballast are keys, one in most ranges, that nobody reads.
var ballast = []keys.Key{tableKey('a', 0, 0), tableKey('c', 0, 0), tableKey('m', 0, 0), tableKey('s', 0, 0)}

// flip changes a byte in one node's state engine, as a failing disk or memory does.
func (s *sim) flip(n *node, k keys.Key) {
	p := n.open()
	if p == nil {
		return
	}
	here := false
	for _, r := range p.host.Store.Ranges() {
		here = here || r.Initialized && r.Desc.Contains(k)
	}
	if !here {
		return
	}
	s.members.key = k
	s.members.flipped.Store(true)
	s.noteSuspects()
	err := flipIn(p.host.Engines.State, k)
	s.trace.add("n%d: flipped a byte of %s: %v", n.num(), k, err)
}

func flipIn(e *storage.StateEngine, k keys.Key) error {
	it, err := e.NewIter(storage.IterOptions{Lower: k, Upper: k.Next()})
	if err != nil {
		return err
	}
	defer it.Close()
	if !it.First() {
		return fmt.Errorf("there is no %s", k)
	}
	v, err := it.Value()
	if err != nil {
		return err
	}
	key, value := append([]byte(nil), it.EngineKey()...), append([]byte(nil), v...)
	value[len(value)-1] ^= 1
	t, err := e.NewTable("flip")
	if err != nil {
		return err
	}
	if err := t.Set(key, value); err != nil {
		return err
	}
	if err := t.Finish(); err != nil {
		return err
	}
	return e.Ingest(t)
}
