package catalog

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/sql/pgerror"
)

// Deadlocks between schema locks
//
// Who waits for an object (for the end of its lock, or until nobody uses an older version)
// holds nothing that the ranges know of: leases are per node, and schema locks are
// descriptors. So a transaction that has waited for deadlockAfter writes down what it waits
// for and what it holds, and looks through what the others wrote for a cycle. All of a cycle
// find it, and choose the same victim: who began to wait last. Cycles in which somebody waits
// for a row are not seen; those end with drainLimit or lock_timeout.
const (
	// deadlockAfter is PostgreSQL's deadlock_timeout.
	deadlockAfter = time.Second
	// deadlockEvery is how often a waiter looks for a cycle after that. Only one that it sees
	// twice counts: an edge may just be going away.
	deadlockEvery = 200 * time.Millisecond
	// waitLife is how long a record counts after it was written, and half of it when it is
	// written again.
	waitLife = 5 * time.Second
	// maxWaits bounds the records that one look reads, and maxHeldListed those of what one
	// transaction holds.
	maxWaits      = 1000
	maxHeldListed = 1000
)

// waitRecord says what a waiting transaction waits for and holds.
type waitRecord struct {
	ID     uint64
	Since  int64 // when it began to wait, in wall nanoseconds
	Expiry int64 // wall nanoseconds
	Wants  ID
	// Version: everything older must be out of use; 0: the lock must end.
	Version uint64
	Uses    []held
	Locks   []ID
}

func waitKey(node keys.NodeID, id uint64) keys.Key {
	k := binary.BigEndian.AppendUint32(keys.TablePrefix(waitTable), uint32(node))
	return binary.BigEndian.AppendUint64(k, id)
}

func (r *waitRecord) encode() []byte {
	e := encoder{b: []byte{formatVersion}}
	e.uint(1, r.ID)
	e.int(2, r.Since)
	e.int(3, r.Expiry)
	e.uint(4, uint64(r.Wants))
	e.uint(5, r.Version)
	for _, h := range r.Uses {
		e.msg(6, func(e *encoder) {
			e.uint(1, uint64(h.ID))
			e.uint(2, h.Version)
		})
	}
	for _, id := range r.Locks {
		e.msg(7, func(e *encoder) { e.uint(1, uint64(id)) })
	}
	return e.b
}

func decodeWait(b []byte) (r waitRecord, err error) {
	if b, err = versioned(b, "schema wait"); err != nil {
		return r, err
	}
	err = fields(b, func(f field) error {
		switch f.num {
		case 1:
			r.ID = f.v
		case 2:
			r.Since = f.int()
		case 3:
			r.Expiry = f.int()
		case 4:
			r.Wants = ID(f.v)
		case 5:
			r.Version = f.v
		case 6, 7:
			var h held
			if err := fields(f.b, func(f field) error {
				switch f.num {
				case 1:
					h.ID = ID(f.v)
				case 2:
					h.Version = f.v
				}
				return nil
			}); err != nil {
				return err
			}
			if f.num == 6 {
				r.Uses = append(r.Uses, h)
			} else {
				r.Locks = append(r.Locks, h.ID)
			}
		}
		return nil
	})
	return r, err
}

// waitsFor reports whether o holds what r waits for.
func (r *waitRecord) waitsFor(o *waitRecord) bool {
	if r.ID == o.ID {
		return false
	}
	if r.Version == 0 {
		return slices.Contains(o.Locks, r.Wants)
	}
	return slices.ContainsFunc(o.Uses, func(h held) bool { return h.ID == r.Wants && h.Version < r.Version })
}

// cycleThrough returns a cycle of waiting transactions that holds the first one, nil if there
// is none.
func cycleThrough(first *waitRecord, all []waitRecord) []*waitRecord {
	type node struct {
		r    *waitRecord
		from int
	}
	nodes := []node{{first, -1}}
	seen := map[uint64]bool{first.ID: true}
	for at := 0; at < len(nodes); at++ {
		if at > 0 && nodes[at].r.waitsFor(first) {
			var cycle []*waitRecord
			for i := at; i >= 0; i = nodes[i].from {
				cycle = append(cycle, nodes[i].r)
			}
			return cycle
		}
		for i := range all {
			if o := &all[i]; !seen[o.ID] && nodes[at].r.waitsFor(o) {
				seen[o.ID] = true
				nodes = append(nodes, node{o, at})
			}
		}
	}
	return nil
}

// waiter is one wait of a transaction. A nil one looks for nothing.
type waiter struct {
	c       *Collection
	rec     waitRecord
	began   time.Time
	written time.Time // zero: not yet
	looked  time.Time
	found   bool // the last look found a cycle with this one as its victim
}

// waits begins a wait for an object: see waitRecord.Version. Call end afterwards.
func (c *Collection) waits(id ID, version uint64) *waiter {
	now := time.Now()
	w := &waiter{c: c, began: now, rec: waitRecord{ID: rand.Uint64() | 1, Since: now.UnixNano(), Wants: id, Version: version}}
	for id, p := range c.pins {
		if len(w.rec.Uses) < maxHeldListed {
			w.rec.Uses = append(w.rec.Uses, held{ID: id, Version: p.desc.Head().Version})
		}
	}
	for id := range c.locked {
		if len(w.rec.Locks) < maxHeldListed {
			w.rec.Locks = append(w.rec.Locks, id)
		}
	}
	return w
}

// step is called now and then during the wait. It fails if the transaction is the victim of a
// deadlock.
func (w *waiter) step(ctx context.Context) error {
	now := time.Now()
	if w == nil || len(w.rec.Uses)+len(w.rec.Locks) == 0 || now.Sub(w.began) < deadlockAfter || now.Sub(w.looked) < deadlockEvery {
		return nil
	}
	db, node := w.c.m.cfg.DB, w.c.m.cfg.Node
	if now.Sub(w.written) > waitLife/2 {
		w.written = now
		err := db.Run(ctx, "schema wait", func(ctx context.Context, t Txn) error {
			w.rec.Expiry = t.ReadTimestamp().Add(waitLife).WallNanos
			return t.Put(ctx, waitKey(node, w.rec.ID), w.rec.encode(), blind)
		})
		if err != nil {
			return err
		}
	}
	all, err := w.look(ctx)
	if err != nil {
		return err
	}
	w.looked = time.Now()
	victim := &w.rec
	cycle := cycleThrough(&w.rec, all)
	for _, r := range cycle {
		if r.Since > victim.Since || r.Since == victim.Since && r.ID > victim.ID {
			victim = r
		}
	}
	if cycle == nil || victim.ID != w.rec.ID {
		w.found = false
		return nil
	}
	if !w.found {
		w.found = true
		return nil
	}
	return pgerror.New(pgerrcode.DeadlockDetected, "deadlock detected").
		WithDetail("%d transactions wait for tables that another one of them uses or has locked.", len(cycle)).
		WithHint("Run the transaction again; take the tables in the same order everywhere.")
}

// look reads the records that count.
func (w *waiter) look(ctx context.Context) (all []waitRecord, err error) {
	p := keys.TablePrefix(waitTable)
	err = w.c.m.cfg.DB.Run(ctx, "schema wait", func(ctx context.Context, t Txn) error {
		all = nil
		rows, err := t.Scan(ctx, keys.Span{Key: p, EndKey: p.PrefixEnd()}, maxWaits)
		if err != nil {
			return err
		}
		for _, row := range rows {
			r, err := decodeWait(row.Value)
			if err != nil {
				return err
			}
			now := t.ReadTimestamp().WallNanos
			switch {
			case now < r.Expiry:
				all = append(all, r)
			case r.Expiry+int64(time.Minute) < now: // of a node that died
				if err := t.Delete(ctx, row.Key, blind); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return all, err
}

// end takes the record back. What remains after an error expires.
func (w *waiter) end(ctx context.Context) {
	if w == nil || w.written.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), waitLife)
	defer cancel()
	_ = w.c.m.cfg.DB.Run(ctx, "schema wait", func(ctx context.Context, t Txn) error {
		return t.Delete(ctx, waitKey(w.c.m.cfg.Node, w.rec.ID), blind)
	})
}
