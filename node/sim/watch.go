package sim

import (
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/replica"
)

// watcher looks at every lease of the cluster, again and again.
type watcher struct {
	s     *sim
	terms map[keys.RangeID]uint64 // of the last lease seen
	by    map[keys.RangeID]keys.NodeID
}

func (p *process) leases() map[keys.RangeID]replica.LeaseStatus {
	out := map[keys.RangeID]replica.LeaseStatus{}
	p.host.Store.Leases(func(id keys.RangeID, l replica.LeaseStatus) {
		if l.Valid {
			out[id] = l
		}
	})
	return out
}

// watch runs until done is closed.
func (w *watcher) watch(done <-chan struct{}) {
	tick := time.NewTicker(4 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.look()
		case <-done:
			return
		}
	}
}

// look checks that no range has two leaseholders now, and that leases follow terms.
func (w *watcher) look() {
	type holder struct {
		n    *node
		term uint64
	}
	held := map[keys.RangeID]holder{}
	for _, n := range w.s.nodes {
		p := n.open()
		if p == nil {
			continue
		}
		for id, l := range p.leases() {
			if h, two := held[id]; two && !h.n.machine.spoilt() && !n.machine.spoilt() {
				w.s.fault("two leaseholders: range %d is held by n%d in term %d and by n%d in term %d", id, h.n.num(), h.term, n.num(), l.Term)
			}
			held[id] = holder{n, l.Term}
		}
	}
	for id, h := range held {
		if h.term < w.terms[id] && !h.n.machine.spoilt() {
			w.s.fault("range %d: lease of n%d in term %d after one in term %d", id, h.n.num(), h.term, w.terms[id])
		}
		if h.term > w.terms[id] || w.by[id] != h.n.num() {
			w.s.trace.add("range %d: lease of n%d in term %d", id, h.n.num(), h.term)
			w.terms[id], w.by[id] = max(h.term, w.terms[id]), h.n.num()
			w.s.hist.mu.Lock()
			w.s.hist.stats.Leases++
			w.s.hist.mu.Unlock()
		}
	}
}

// spoilt reports whether the machine stood still unnoticed by any of its clocks: it may
// believe in support that is over.
func (m *machine) spoilt() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unnoticedEver
}
