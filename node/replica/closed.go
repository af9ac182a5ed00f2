package replica

import (
	"sync"

	"github.com/atolldb/atoll/node/hlc"
)

// closedTracker knows the timestamps of the writes that were evaluated and are not applied
// yet, so that none of them lies at or below a timestamp that is promised closed (S24).
type closedTracker struct {
	mu     sync.Mutex
	writes map[*trackedWrite]struct{}
}

type trackedWrite struct{ ts hlc.Timestamp }

// enter announces a write that will land at or above ts. REQUIRES: before its timestamp is
// compared with the low-water mark of the timestamp cache.
func (c *closedTracker) enter(ts hlc.Timestamp) *trackedWrite {
	w := &trackedWrite{ts: ts}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writes == nil {
		c.writes = make(map[*trackedWrite]struct{})
	}
	c.writes[w] = struct{}{}
	return w
}

func (c *closedTracker) leave(w *trackedWrite) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.writes, w)
}

// below returns the latest timestamp, at most target, that no write under way is at or below.
func (c *closedTracker) below(target hlc.Timestamp) hlc.Timestamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.writes {
		if w.ts.LessEq(target) {
			if w.ts.IsEmpty() {
				return hlc.Timestamp{}
			}
			target = w.ts.Prev()
		}
	}
	return target
}

// CloseTimestamp promises that no write of this tenure lands at or below the returned
// timestamp from now on, and that all writes at or below it are applied here: the applied
// index read after this call is the log position that goes with it (S24). It is the highest
// such timestamp up to target, and zero without a lease.
func (r *Replica) CloseTimestamp(target hlc.Timestamp) hlc.Timestamp {
	t, l, err := r.lease()
	if err != nil {
		return hlc.Timestamp{}
	}
	if l.ReadLimit.Less(target) {
		target = l.ReadLimit // S2 (d)
	}
	// New writes land above the mark from here on; those that looked at it before are tracked.
	t.tscache.RaiseLowWater(target)
	closed := t.closing.below(target)
	if _, ok := r.still(t); !ok {
		return hlc.Timestamp{}
	}
	return closed
}
