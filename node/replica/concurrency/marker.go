package concurrency

import (
	"sync"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/kv"
)

// maxMarkers bounds one generation of markers.
const maxMarkers = 32 << 10

// markers remember transactions that have no record and may not make one as they please
// (SAFETY S10): those that were ended (aborted by a push, or finished and their record
// removed) and those whose commit was pushed above a timestamp. There are two generations;
// what the dropped one held goes into two marks:
//
//   - endedLow: a transaction born at or before it may have been ended;
//   - pushedLow: every transaction may have been pushed to it.
//
// On a new leaseholder S4's low-water mark takes both places, which is right because no
// marker is made above the read limit (see eval.PushTxn). For endedLow there is a better bound:
// nobody but its own coordinator ends a transaction before it has been silent for the expiry
// (eval.PushTxn; records of others' making are removed later still, see CleanupTxns). So one
// that an earlier leaseholder knew to be ended by others was born at least the expiry before
// this lease began, on any clock that is not further off than max offset. What coordinators
// ended themselves needs no mark here: they don't come back, late copies of their commands
// are refused by their IDs (S12), and a record that a late heartbeat makes guards nothing.
type markers struct {
	mu        sync.Mutex
	cur, old  map[kv.TxnID]marker
	endedLow  hlc.Timestamp
	pushedLow hlc.Timestamp
	newest    hlc.Timestamp
}

type marker struct {
	ended    bool
	minTS    hlc.Timestamp // the transaction's birth
	pushedTo hlc.Timestamp
}

func (m *markers) init(ended, pushed hlc.Timestamp) {
	m.cur = make(map[kv.TxnID]marker)
	m.endedLow, m.pushedLow = ended, pushed
}

func (m *markers) max() hlc.Timestamp {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.newest.Max(m.endedLow).Max(m.pushedLow)
}

func (m *markers) update(id kv.TxnID, fn func(*marker)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.cur[id]
	if !ok {
		e = m.old[id]
		if len(m.cur) >= maxMarkers {
			for _, o := range m.old {
				if o.ended {
					m.endedLow.Forward(o.minTS)
				}
				m.pushedLow.Forward(o.pushedTo)
			}
			m.old, m.cur = m.cur, make(map[kv.TxnID]marker)
		}
	}
	fn(&e)
	m.newest = m.newest.Max(e.pushedTo)
	if e.ended {
		m.newest.Forward(e.minTS)
	}
	m.cur[id] = e
}

// MarkEnded records that a transaction without a record is over: it can't make one.
func (c *TSCache) MarkEnded(t *kv.TxnMeta) {
	c.markers.update(t.ID, func(e *marker) { e.ended, e.minTS = true, t.MinTimestamp })
}

// MarkPushed records that a transaction without a record must commit above ts.
func (c *TSCache) MarkPushed(t *kv.TxnMeta, ts hlc.Timestamp) {
	c.markers.update(t.ID, func(e *marker) { e.minTS = t.MinTimestamp; e.pushedTo.Forward(ts) })
}

// Fate is what the markers know of a transaction without a record.
type Fate struct {
	// Ended: it was aborted, or finished and forgotten, for certain.
	Ended bool
	// MayBeEnded: it was born before what the markers still know, or under an earlier lease.
	MayBeEnded bool
	// PushedTo: its commit timestamp must be above it.
	PushedTo hlc.Timestamp
}

// Fate returns what is known of a transaction that has no record.
func (c *TSCache) Fate(t *kv.TxnMeta) Fate {
	m := &c.markers
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.cur[t.ID]
	if !ok {
		e = m.old[t.ID]
	}
	return Fate{
		Ended:      e.ended,
		MayBeEnded: e.ended || t.MinTimestamp.LessEq(m.endedLow),
		PushedTo:   e.pushedTo.Max(m.pushedLow),
	}
}

// Inherit copies what the cache of a range knows into c, the cache of a range that was
// split off it (S20): reads as a low-water mark, markers one by one.
func (c *TSCache) Inherit(from *TSCache) {
	from.mu.Lock()
	low := from.lowWater.Max(from.cur.max).Max(from.old.max)
	from.mu.Unlock()
	c.RaiseLowWater(low)

	m := &from.markers
	m.mu.Lock()
	copied := make(map[kv.TxnID]marker, len(m.cur)+len(m.old))
	for id, e := range m.old {
		copied[id] = e
	}
	for id, e := range m.cur {
		copied[id] = e
	}
	ended, pushed, newest := m.endedLow, m.pushedLow, m.newest
	m.mu.Unlock()

	t := &c.markers
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, e := range t.cur {
		copied[id] = e
	}
	t.cur = copied
	t.endedLow.Forward(ended)
	t.pushedLow.Forward(pushed)
	t.newest.Forward(newest)
}
