package store

import (
	"sync"
	"sync/atomic"
	"time"
)

// pacer bounds the rate of what passes it, in bytes.
type pacer struct {
	perSecond int64
	total     atomic.Int64 // what has passed

	mu   sync.Mutex
	next time.Time // when that is paid for
}

// pass takes n bytes in and returns how long they have to wait.
func (p *pacer) pass(n int, now time.Time) time.Duration {
	p.total.Add(int64(n))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.perSecond) * float64(time.Second)))
	return p.next.Sub(now)
}

// leastPause is below what a wait is put off: the next one is longer.
const leastPause = 10 * time.Millisecond

// snapshotSent paces outgoing snapshots.
func (s *Store) snapshotSent(n int) {
	if wait := s.out.pass(n, time.Now()); wait > leastPause {
		s.sleep(wait)
	}
}

// snapshotReceived paces incoming ones: many nodes may copy to one, each within its own rate. A chunk
// that waits is answered later, and its sender sends no other one meanwhile.
func (s *Store) snapshotReceived(n int) {
	if wait := s.in.pass(n, time.Now()); wait > leastPause {
		s.sleep(wait)
	}
}
