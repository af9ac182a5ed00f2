package sim

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica"
)

// plan is a fault and how it ends; undo may be nil.
type plan struct {
	name string
	do   func()
	undo func()
	hold time.Duration
}

// inject runs faults for the given time, several at once at times. It returns with all of
// them still to be healed by heal.
func (s *sim) inject(length time.Duration) {
	end := time.Now().Add(length)
	type active struct {
		plan
		until time.Time
	}
	var list []active
	next := time.Now().Add(s.rng0(s.shape.faultGap))
	for time.Now().Before(end) && !s.failed() {
		time.Sleep(time.Millisecond)
		kept := list[:0]
		for _, a := range list {
			if time.Now().Before(a.until) {
				kept = append(kept, a)
				continue
			}
			s.trace.add("end of %s", a.name)
			a.undo()
		}
		list = kept
		if time.Now().Before(next) {
			continue
		}
		next = time.Now().Add(s.rng0(2 * s.shape.faultGap))
		if len(list) >= 3 {
			continue
		}
		p := s.draw()
		s.hist.fault(p.name)
		s.trace.add("fault %s for %s", p.name, p.hold)
		p.do()
		if p.undo != nil {
			list = append(list, active{p, time.Now().Add(p.hold)})
		}
	}
	for _, a := range list {
		a.undo()
	}
}

func (h *history) fault(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats.Faults[name]++
}

// rng0 draws a duration below d.
func (s *sim) rng0(d time.Duration) time.Duration { return time.Duration(s.rng.Int64N(int64(d) + 1)) }

// between draws a duration.
func (s *sim) between(lo, hi time.Duration) time.Duration { return lo + s.rng0(hi-lo) }

func (s *sim) pick() *node { return s.nodes[s.rng.IntN(len(s.nodes))] }

// pickHolder prefers the holder of some lease: faults there matter most.
func (s *sim) pickHolder() *node {
	n := s.pick()
	if s.rng.IntN(2) == 0 {
		return n
	}
	for range 8 {
		if p := n.open(); p != nil && len(p.leases()) > 0 {
			return n
		}
		n = s.pick()
	}
	return n
}

// draw chooses a fault.
func (s *sim) draw() plan {
	a, b := s.pickHolder(), s.pick()
	hold := s.between(50*time.Millisecond, 4*time.Second)
	if s.rng.IntN(3) == 0 {
		hold = s.between(time.Millisecond, 400*time.Millisecond) // shorter than support
	}
	lost := []int{0, 0, 30, 100}[s.rng.IntN(4)]
	kind := s.rng.IntN(27)
	often, kinds := 6, 6
	switch s.opts.Focus {
	case FocusMembers:
		often = 2
	case FocusPolicies:
		if s.rng.IntN(8) == 0 {
			return plan{name: "other policies", do: s.drawPolicies}
		}
		// No byte is flipped: what is copied before it is found would be a majority.
		often, kinds = 3, 4
	case FocusWitness:
		// No byte is flipped: of two copies nobody can tell which is right (S23).
		often, kinds = 4, 4
	}
	if len(s.shape.spares) > 0 && s.rng.IntN(often) == 0 {
		if p, ok := s.member(s.rng.IntN(kinds), a); ok {
			return p
		}
	}
	switch s.opts.Focus {
	case FocusWitness:
		if p, ok := s.drawWitness(hold, lost); ok {
			return p
		}
	case FocusLeases:
		kind = []int{0, 0, 5, 5, 7, 8, 8, 9, 9, 18, 18, 18, 18, 24, 24, 20, 17}[s.rng.IntN(17)]
		hold = s.between(time.Millisecond, 600*time.Millisecond)
	case FocusPartitions:
		kind = []int{5, 5, 7, 8, 9, 17}[s.rng.IntN(6)]
		hold = s.between(time.Second, 4*time.Second)
	case FocusRetries:
		kind = []int{5, 9, 9, 9, 12, 20, 17, 17}[s.rng.IntN(8)]
		hold = s.between(100*time.Millisecond, 1500*time.Millisecond)
	case FocusTransfers:
		kind = []int{5, 8, 9, 15, 20, 20, 20, 20, 17}[s.rng.IntN(9)]
		hold = s.between(time.Millisecond, 600*time.Millisecond)
	}
	if s.opts.Focus == FocusFreezes && s.rng.IntN(2) == 0 {
		return s.standstill(a)
	}
	switch kind {
	case 0, 1, 2:
		return plan{"kill", func() { a.kill(lost) }, a.start, hold}
	case 3:
		return plan{"kill two", func() { a.kill(lost); b.kill(lost) }, func() { a.start(); b.start() }, hold}
	case 4:
		if s.rng.IntN(2) == 0 {
			return plan{"shutdown", func() { s.stopping.Go(a.shutdown) }, a.start, hold}
		}
		return plan{"kill all", func() { s.each(func(n *node) { n.kill(lost) }) }, func() { s.each((*node).start) }, hold}
	case 5, 6:
		return plan{"isolate", func() { s.net.Isolate(a.num()) }, func() { s.net.HealNode(a.num()) }, hold}
	case 7:
		return s.partition(hold)
	case 8:
		return plan{"cut", func() { s.net.Cut(a.num(), b.num()) }, func() { s.net.Heal(a.num(), b.num()) }, hold}
	case 9, 10:
		return s.oneWay(a, b, hold)
	case 11:
		d := s.between(time.Millisecond, 60*time.Millisecond)
		return plan{"slow network", func() { s.net.SetDelay(50*time.Microsecond, d) },
			func() { s.net.SetDelay(50*time.Microsecond, s.shape.maxDelay) }, hold}
	case 12:
		p := 0.01 + 0.1*s.rng.Float64()
		return plan{"drops", func() { s.net.SetDrop(p) }, func() { s.net.SetDrop(0) }, hold}
	case 13:
		lo := s.between(0, 200*time.Millisecond)
		return plan{"slow link", func() { s.net.SetLinkDelay(a.num(), b.num(), lo, lo+20*time.Millisecond) },
			func() { s.net.SetLinkDelay(a.num(), b.num(), 50*time.Microsecond, s.shape.maxDelay) }, hold}
	case 14:
		off := s.skew()
		return plan{name: "clock step", do: func() { a.machine.step(off) }}
	case 15, 16:
		return plan{name: "lease transfer", do: func() { s.admin(b, &kv.AdminTransferLeaseRequest{Key: s.someKey(), Target: a.num()}) }}
	case 24:
		return s.squeeze()
	case 18, 19:
		return plan{name: "stray campaign", do: func() { s.disturb(b) }}
	case 20:
		k := s.someKey()
		if s.opts.Focus == FocusTransfers && s.rng.IntN(2) == 0 {
			k = accountKey(0)
		}
		back := s.between(20*time.Millisecond, 300*time.Millisecond)
		return plan{"transfer there and back", func() { s.admin(b, &kv.AdminTransferLeaseRequest{Key: k, Target: a.num()}) },
			func() { s.admin(b, &kv.AdminTransferLeaseRequest{Key: k, Target: b.num()}) }, back}
	case 17, 25, 26:
		switch s.rng.IntN(4) {
		case 0:
			return plan{name: "split", do: func() { s.admin(b, &kv.AdminSplitRequest{SplitKey: s.someKey(), MayMerge: true}) }}
		case 1:
			return s.splitAndMerge(b)
		default:
			return plan{name: "merge", do: func() { s.admin(b, &kv.AdminMergeRequest{Key: s.someKey()}) }}
		}
	default:
		return s.standstill(a)
	}
}

// splitAndMerge divides a range and joins it again, so that what was cut meets itself.
func (s *sim) splitAndMerge(b *node) plan {
	k := s.someKey()
	back := s.between(5*time.Millisecond, 400*time.Millisecond)
	return plan{"split and merge", func() { s.admin(b, &kv.AdminSplitRequest{SplitKey: k, MayMerge: true}) },
		func() {
			p := b.open()
			if p == nil {
				return
			}
			s.clients.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
				defer cancel()
				// The range before k: its neighbour begins there.
				at, err := p.host.Sender.RangeBounds(ctx, s.before(k))
				if err == nil {
					req := &kv.AdminMergeRequest{Key: at.Key}
					_, err = p.host.Sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{req}})
					s.countMerge(req, err)
				}
				s.trace.add("n%d merges at %s: %v", b.num(), k, err)
			})
		}, back}
}

func (s *sim) countMerge(req kv.Request, err error) {
	if _, ok := req.(*kv.AdminMergeRequest); ok && err == nil {
		s.hist.mu.Lock()
		defer s.hist.mu.Unlock()
		s.hist.stats.Merges++
	}
}

// before returns a key right before k, about.
func (s *sim) before(k keys.Key) keys.Key {
	b := k.Clone()
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] > 0 {
			b[i]--
			return append(b[:i+1], 0xff)
		}
	}
	return b
}

func (s *sim) each(f func(*node)) {
	for _, n := range s.nodes {
		f(n)
	}
}

func (s *sim) partition(hold time.Duration) plan {
	side := map[keys.NodeID]bool{}
	for _, n := range s.nodes {
		side[n.num()] = s.rng.IntN(2) == 0
	}
	pairs := func(f func(a, b keys.NodeID)) {
		for _, a := range s.nodes {
			for _, b := range s.nodes {
				if a.num() < b.num() && side[a.num()] != side[b.num()] {
					f(a.num(), b.num())
				}
			}
		}
	}
	return plan{"partition", func() { pairs(s.net.Cut) }, func() { pairs(s.net.Heal) }, hold}
}

func (s *sim) oneWay(a, b *node, hold time.Duration) plan {
	switch s.rng.IntN(3) {
	case 0: // deaf
		return plan{"deaf", func() { s.each(func(n *node) { s.cutOneWay(n, a) }) }, func() { s.each(func(n *node) { s.net.HealOneWay(n.num(), a.num()) }) }, hold}
	case 1: // mute
		return plan{"mute", func() { s.each(func(n *node) { s.cutOneWay(a, n) }) }, func() { s.each(func(n *node) { s.net.HealOneWay(a.num(), n.num()) }) }, hold}
	default:
		return plan{"one-way cut", func() { s.cutOneWay(a, b) }, func() { s.net.HealOneWay(a.num(), b.num()) }, hold}
	}
}

func (s *sim) cutOneWay(from, to *node) {
	if from != to {
		s.net.CutOneWay(from.num(), to.num())
	}
}

// standstill freezes a machine: its clocks, its network, and what its clients learn.
func (s *sim) standstill(a *node) plan {
	kind := freezeKind(s.rng.IntN(2))
	hold := s.between(5*time.Millisecond, 1500*time.Millisecond)
	later := s.between(10*time.Millisecond, 2*time.Second)
	name := []string{"suspended machine", "migrated machine"}[kind]
	if s.opts.Unnoticed && s.rng.IntN(2) == 0 && s.unnoticed.CompareAndSwap(false, true) {
		kind, name = unnoticed, "frozen machine"
	}
	return plan{name, func() {
		if a.open() == nil {
			return // a node that joins gets its ID, and its place in the network, while it starts
		}
		a.machine.freeze()
		s.net.Freeze(a.num())
	}, func() {
		a.machine.thaw(kind)
		s.net.Thaw(a.num())
		if kind == unnoticed {
			off := s.skew()
			s.stopping.Go(func() { // a time daemon notices in the end
				time.Sleep(later)
				a.machine.step(off)
				// Until the others have measured it anew, another wrong clock would be a majority.
				time.Sleep(4 * time.Second)
				s.unnoticed.Store(false)
			})
		}
	}, hold}
}

// someKey returns a key of the workload.
func (s *sim) someKey() keys.Key {
	switch s.rng.IntN(4) {
	case 0:
		return accountKey(s.rng.IntN(accounts))
	case 1:
		return listKey(s.rng.IntN(listKeys))
	case 2:
		return listKey(int(time.Since(s.trace.start)/listRotation)*listKeys + s.rng.IntN(listKeys))
	default:
		return regKey(s.rng.IntN(regKeys))
	}
}

// squeeze leaves a leaseholder with the support of one node, then cuts off what that node
// says to it, while it and the others campaign.
func (s *sim) squeeze() plan {
	p := s.rng.Perm(len(s.nodes))
	for i, k := range p { // a holder first
		if proc := s.nodes[k].open(); proc != nil && len(proc.leases()) > 0 {
			p[0], p[i] = p[i], p[0]
			break
		}
	}
	a, b := s.nodes[p[0]], s.nodes[p[1]]
	alone, again, gap := s.between(300*time.Millisecond, time.Second), 1+s.rng.IntN(8), s.between(time.Millisecond, 30*time.Millisecond)
	var over atomic.Bool
	return plan{"squeeze", func() {
		for _, k := range p[2:] {
			s.net.Cut(a.num(), s.nodes[k].num())
		}
		s.clients.Go(func() {
			time.Sleep(alone)
			if over.Load() {
				return
			}
			s.cutOneWay(b, a)
			for range again {
				for _, k := range p[1:] {
					s.disturbAll(s.nodes[k])
				}
				time.Sleep(gap)
			}
		})
	}, func() { over.Store(true); s.net.HealNode(a.num()) }, alone + 400*time.Millisecond}
}

// disturbAll makes a node campaign for all its ranges.
func (s *sim) disturbAll(n *node) {
	if p := n.open(); p != nil {
		p.host.Store.Leases(func(id keys.RangeID, l replica.LeaseStatus) {
			if !l.Valid {
				_ = p.host.Router.Disturb(id)
			}
		})
	}
}

// disturb makes a node campaign for one of its ranges, or for all of them.
func (s *sim) disturb(n *node) {
	p := n.open()
	if p == nil {
		return
	}
	only, i := s.rng.IntN(8), 0
	p.host.Store.Leases(func(id keys.RangeID, l replica.LeaseStatus) {
		if i++; !l.Valid && (only == 0 || i%8 == only) {
			s.trace.add("n%d campaigns for range %d: %v", n.num(), id, p.host.Router.Disturb(id))
		}
	})
}

// admin sends a request in the background.
func (s *sim) admin(n *node, req kv.Request) {
	p := n.open()
	if p == nil {
		return
	}
	s.clients.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		_, err := p.host.Sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{req}})
		s.trace.add("n%d %T: %v", n.num(), req, err)
		s.countMerge(req, err)
	})
}

// heal ends every fault.
func (s *sim) heal() {
	s.trace.add("heal")
	for _, n := range s.nodes {
		if n.machine.isFrozen() {
			n.machine.thaw(suspended)
			s.net.Thaw(n.num())
		}
	}
	s.net.HealAll()
	s.net.SetDrop(0)
	s.net.SetDelay(50*time.Microsecond, s.shape.maxDelay)
	for _, n := range s.nodes {
		for _, o := range s.nodes {
			s.net.SetLinkDelay(n.num(), o.num(), 50*time.Microsecond, s.shape.maxDelay)
		}
		n.start()
	}
}
