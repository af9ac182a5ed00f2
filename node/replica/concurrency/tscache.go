package concurrency

import (
	"bytes"
	"hash/maphash"
	"sync"

	"github.com/google/btree"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// TSCache remembers the newest timestamp at which each key was read, so that a write lands
// above it (SAFETY S7, S8). It is bounded: what it forgets goes into the low-water mark,
// which counts as a read of every key.
//
// Points are kept by hash (a collision only makes a timestamp too late), spans as a step
// function over the keys. There are two pages; when the newer one is full the older is
// dropped and its newest timestamp becomes the low-water mark.
type TSCache struct {
	seed     maphash.Seed
	maxPoint int
	maxSteps int

	mu       sync.Mutex
	lowWater hlc.Timestamp
	cur, old *page

	markers markers
}

// Approximate bytes per entry, map and tree overhead included.
const (
	pointBytes = 96
	stepBytes  = 192
)

// Read is a timestamp at which something was read, and by whom; Txn is zero if by several
// or by none. A transaction's own reads don't push its writes.
type Read struct {
	TS  hlc.Timestamp
	Txn kv.TxnID
}

// merge takes the later; two different readers at the same timestamp are "several".
func (r *Read) merge(o Read) {
	switch {
	case r.TS.Less(o.TS):
		*r = o
	case r.TS == o.TS && r.Txn != o.Txn:
		r.Txn = kv.TxnID{}
	}
}

type page struct {
	points map[uint64]Read
	steps  *btree.BTreeG[step]
	max    hlc.Timestamp // of all entries
	maxPt  Read          // of the points
}

// step says that the keys from key up to the next step's were read.
type step struct {
	key []byte
	Read
}

func newPage() *page {
	return &page{
		points: make(map[uint64]Read),
		steps:  btree.NewG(16, func(a, b step) bool { return bytes.Compare(a.key, b.key) < 0 }),
	}
}

// NewTSCache returns a cache of at most about maxBytes whose low-water mark is lowWater (S4).
// endedBefore bounds the birth of every transaction that somebody else than its coordinator can
// have ended under an earlier lease.
func NewTSCache(maxBytes int, lowWater, endedBefore hlc.Timestamp) *TSCache {
	c := &TSCache{
		seed:     maphash.MakeSeed(),
		maxPoint: max(64, maxBytes/3/pointBytes),
		maxSteps: max(16, maxBytes/6/stepBytes),
		lowWater: lowWater,
		cur:      newPage(),
		old:      newPage(),
	}
	ended := lowWater
	if endedBefore.Less(ended) {
		ended = endedBefore
	}
	c.markers.init(ended, lowWater)
	return c
}

// Add records a read of span at ts by txn (zero outside a transaction).
func (c *TSCache) Add(span keys.Span, ts hlc.Timestamp, txn kv.TxnID) {
	r := Read{TS: ts, Txn: txn}
	if span.IsPoint() {
		h := maphash.Bytes(c.seed, span.Key)
		c.mu.Lock()
		c.addPoint(h, r)
		c.mu.Unlock()
		return
	}
	if !span.Key.Less(span.EndKey) {
		return
	}
	c.mu.Lock()
	c.addSpan(span, r)
	c.mu.Unlock()
}

func (c *TSCache) addPoint(h uint64, r Read) {
	if r.TS.Less(c.lowWater) {
		return
	}
	if len(c.cur.points) >= c.maxPoint {
		if _, ok := c.cur.points[h]; !ok {
			c.rotate()
		}
	}
	p := c.cur
	e := p.points[h]
	e.merge(r)
	p.points[h] = e
	p.max.Forward(r.TS)
	p.maxPt.merge(r)
}

func (c *TSCache) addSpan(s keys.Span, r Read) {
	if r.TS.Less(c.lowWater) {
		return
	}
	if c.cur.steps.Len() >= c.maxSteps {
		c.rotate()
	}
	c.cur.addSpan(s, r)
	c.cur.max.Forward(r.TS)
}

// rotate drops the older page.
func (c *TSCache) rotate() {
	c.lowWater.Forward(c.old.max)
	c.old, c.cur = c.cur, newPage()
}

// addSpan raises the step function over [s.Key, s.EndKey).
func (p *page) addSpan(s keys.Span, r Read) {
	p.cut(s.Key)
	p.cut(s.EndKey)
	var inner []step
	p.steps.AscendRange(step{key: s.Key}, step{key: s.EndKey}, func(st step) bool {
		inner = append(inner, st)
		return true
	})
	var prev Read
	for i, st := range inner {
		st.merge(r)
		if i > 0 && st.Read == prev {
			p.steps.Delete(st) // same as its left neighbour
			continue
		}
		prev = st.Read
		p.steps.ReplaceOrInsert(st)
	}
}

// cut makes a step begin at key, without changing the function.
func (p *page) cut(key []byte) {
	at, found := step{}, false
	p.steps.DescendLessOrEqual(step{key: key}, func(st step) bool {
		at, found = st, true
		return false
	})
	if found && bytes.Equal(at.key, key) {
		return
	}
	p.steps.ReplaceOrInsert(step{key: bytes.Clone(key), Read: at.Read})
}

// atKey is the step function's value at a key.
func (p *page) atKey(key []byte) (r Read) {
	if p.steps.Len() == 0 {
		return r
	}
	p.steps.DescendLessOrEqual(step{key: key}, func(st step) bool {
		r = st.Read
		return false
	})
	return r
}

// Get returns the newest read of any key of span. For more than a point it may be too late
// a timestamp, never too early a one.
func (c *TSCache) Get(span keys.Span) Read {
	if span.IsPoint() {
		h := maphash.Bytes(c.seed, span.Key)
		c.mu.Lock()
		defer c.mu.Unlock()
		r := Read{TS: c.lowWater}
		for _, p := range [...]*page{c.cur, c.old} {
			if e, ok := p.points[h]; ok {
				r.merge(e)
			}
			if p.steps.Len() > 0 {
				r.merge(p.atKey(span.Key))
			}
		}
		return r
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := Read{TS: c.lowWater}
	for _, p := range [...]*page{c.cur, c.old} {
		r.merge(p.maxPt) // points are hashed: which of them lie in span is not known
		r.merge(p.atKey(span.Key))
		p.steps.AscendRange(step{key: span.Key}, step{key: span.EndKey}, func(st step) bool {
			r.merge(st.Read)
			return true
		})
	}
	return r
}

// LowWater returns the mark that counts as a read of every key.
func (c *TSCache) LowWater() hlc.Timestamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lowWater
}

// RaiseLowWater moves the mark up: to S4's, or to a closed timestamp (S24).
func (c *TSCache) RaiseLowWater(ts hlc.Timestamp) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lowWater.Forward(ts)
}

// Max returns the newest timestamp at which anything was read or promised.
func (c *TSCache) Max() hlc.Timestamp {
	c.mu.Lock()
	ts := c.lowWater.Max(c.cur.max).Max(c.old.max)
	c.mu.Unlock()
	return ts.Max(c.markers.max())
}

// Size returns the entries held, for tests and metrics.
func (c *TSCache) Size() (points, steps int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.cur.points) + len(c.old.points), c.cur.steps.Len() + c.old.steps.Len()
}
