package concurrency

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"github.com/google/btree"

	"github.com/atolldb/atoll/node/keys"
)

// Access says whether a latch excludes others.
type Access uint8

const (
	// Shared latches go together (reads).
	Shared Access = iota
	// Exclusive latches stand alone (writes, locking reads).
	Exclusive
)

// LatchSpan is one span that a request latches.
type LatchSpan struct {
	keys.Span
	Access Access
}

// ErrClosed is returned to those who wait when a tenure ends.
var ErrClosed = errors.New("concurrency: the lease is over")

// maxPointLatches bounds the exclusive point latches of one request; above it one span
// latch from the first to the last key takes their place.
const maxPointLatches = 512

// Latches is the latch manager of one range. Requests get conflicting latches in the order
// in which they asked, so that they never deadlock and none starves.
type Latches struct {
	mu     sync.Mutex
	points *btree.BTreeG[*latch] // ordered by (key, seq)
	wide   []*latch              // span latches, in no order; few at a time
	seq    uint64
	// pivot is a search key; under mu.
	pivot latch
}

type latch struct {
	start, end []byte // end is nil for a point
	access     Access
	seq        uint64
	guard      *LatchGuard
	at         int // index in wide
}

// LatchGuard holds a request's latches from Acquire to Release.
type LatchGuard struct {
	latches []*latch
	inline  [2]latch
	inlineP [2]*latch
	// done is made by the first who waits, under mu.
	done    chan struct{}
	waitFor []chan struct{}
}

// NewLatches returns a latch manager without latches.
func NewLatches() *Latches {
	return &Latches{points: btree.NewG(16, func(a, b *latch) bool {
		if c := bytes.Compare(a.start, b.start); c != 0 {
			return c < 0
		}
		return a.seq < b.seq
	})}
}

// Acquire latches spans and returns when all earlier conflicting latches are released. It
// fails with the context's error, or ErrClosed when closed is. The spans' keys must not
// change until Release.
func (l *Latches) Acquire(ctx context.Context, closed <-chan struct{}, spans []LatchSpan) (*LatchGuard, error) {
	return l.AcquireInto(new(LatchGuard), ctx, closed, spans)
}

// AcquireInto is Acquire with the caller's memory for the guard: a zero one.
func (l *Latches) AcquireInto(g *LatchGuard, ctx context.Context, closed <-chan struct{}, spans []LatchSpan) (*LatchGuard, error) {
	l.enterInto(g, spans)
	if len(g.waitFor) == 0 {
		return g, nil
	}
	for _, c := range g.waitFor {
		select {
		case <-c:
		case <-ctx.Done():
			l.Release(g)
			return nil, ctx.Err()
		case <-closed:
			l.Release(g)
			return nil, ErrClosed
		}
	}
	g.waitFor = nil
	return g, nil
}

// enterInto inserts the latches and finds out whom to wait for.
func (l *Latches) enterInto(g *LatchGuard, spans []LatchSpan) {
	spans = coalesce(spans)
	if len(spans) <= len(g.inline) {
		g.latches = g.inlineP[:0]
	} else {
		g.latches = make([]*latch, 0, len(spans))
	}
	var extra []latch
	if n := len(spans) - len(g.inline); n > 0 {
		extra = make([]latch, n)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, s := range spans {
		var la *latch
		if i < len(g.inline) {
			la = &g.inline[i]
		} else {
			la = &extra[i-len(g.inline)]
		}
		l.seq++
		la.start, la.access, la.seq, la.guard = s.Key, s.Access, l.seq, g
		if !s.IsPoint() {
			la.end = s.EndKey
		}
		l.findConflicts(la)
		l.insert(la)
		g.latches = append(g.latches, la)
	}
}

func coalesce(spans []LatchSpan) []LatchSpan {
	if len(spans) <= maxPointLatches {
		return spans
	}
	var out []LatchSpan
	var cover [2]keys.Span
	var some [2]bool
	for _, s := range spans {
		if !s.IsPoint() {
			out = append(out, s)
			continue
		}
		c := &cover[s.Access]
		if !some[s.Access] {
			some[s.Access] = true
			*c = keys.Span{Key: s.Key, EndKey: s.Key.Next()}
			continue
		}
		if s.Key.Less(c.Key) {
			c.Key = s.Key
		}
		if !s.Key.Less(c.EndKey) {
			c.EndKey = s.Key.Next()
		}
	}
	for a, ok := range some {
		if ok {
			out = append(out, LatchSpan{Span: cover[a], Access: Access(a)})
		}
	}
	return out
}

func (l *Latches) insert(la *latch) {
	if la.end == nil {
		l.points.ReplaceOrInsert(la)
		return
	}
	la.at = len(l.wide)
	l.wide = append(l.wide, la)
}

func (l *Latches) remove(la *latch) {
	if la.end == nil {
		l.points.Delete(la)
		return
	}
	last := len(l.wide) - 1
	l.wide[la.at] = l.wide[last]
	l.wide[la.at].at = la.at
	l.wide[last] = nil
	l.wide = l.wide[:last]
}

func (l *Latches) findConflicts(la *latch) {
	if l.points.Len() > 0 {
		l.pivot.start = la.start
		l.points.AscendGreaterOrEqual(&l.pivot, func(o *latch) bool {
			if la.end == nil {
				if !bytes.Equal(o.start, la.start) {
					return false
				}
			} else if bytes.Compare(o.start, la.end) >= 0 {
				return false
			}
			la.conflict(o)
			return true
		})
		l.pivot.start = nil
	}
	for _, o := range l.wide {
		if bytes.Compare(la.start, o.end) >= 0 {
			continue
		}
		if la.end == nil {
			if bytes.Compare(la.start, o.start) < 0 {
				continue
			}
		} else if bytes.Compare(o.start, la.end) >= 0 {
			continue
		}
		la.conflict(o)
	}
}

// conflict makes la's guard wait for o's, if they exclude each other.
func (la *latch) conflict(o *latch) {
	if la.guard == o.guard || (la.access == Shared && o.access == Shared) {
		return
	}
	if o.guard.done == nil {
		o.guard.done = make(chan struct{})
	}
	g := la.guard
	for _, c := range g.waitFor {
		if c == o.guard.done {
			return
		}
	}
	g.waitFor = append(g.waitFor, o.guard.done)
}

// Release gives the latches up and wakes who waited for them. It is to be called once.
func (l *Latches) Release(g *LatchGuard) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, la := range g.latches {
		l.remove(la)
	}
	g.latches = nil
	if g.done != nil {
		close(g.done)
	}
}

// Held returns the number of latches held or waited for.
func (l *Latches) Held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.points.Len() + len(l.wide)
}
