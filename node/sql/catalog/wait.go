package catalog

import (
	"context"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/jackc/pgerrcode"
)

// drainLimit bounds how long a schema change waits for transactions that use the version
// before. PostgreSQL waits for their locks without a limit; statement_timeout and
// lock_timeout end the context earlier.
const drainLimit = 60 * time.Second

// maxChangeLog is how many generations of the change log are kept.
const maxChangeLog = 1000

// waitForVersion returns once no node can use a version of the descriptor older than
// version, which committed at since. The timestamp it returns is set if that is so only
// because a promise had expired: it is that promise's end, and what relies on it must
// commit at or after it. c, if not nil, is whose transaction waits: it fails if it is the victim
// of a deadlock.
func (m *Manager) waitForVersion(ctx context.Context, c *Collection, id ID, version uint64, since hlc.Timestamp) (hlc.Timestamp, error) {
	if version <= 1 {
		return hlc.Timestamp{}, nil
	}
	var w *waiter
	if c != nil {
		w = c.waits(id, version)
		defer w.end(ctx)
	}
	return m.waitForRecords(ctx, drainLimit, w, func(r *leaseRecord) bool { return r.blocks(id, version, since) },
		func() error {
			return pgerror.New(pgerrcode.LockNotAvailable, "schema change waited %s for transactions that still use the object's previous version", drainLimit).
				WithHint("End long transactions that use it, then try again.")
		})
}

// waitForSeen waits, for at most limit, until all nodes know what committed at ts.
func (m *Manager) waitForSeen(ctx context.Context, ts hlc.Timestamp, limit time.Duration) {
	_, _ = m.waitForRecords(ctx, limit, nil, func(r *leaseRecord) bool { return r.Seen.Less(ts) }, func() error { return nil })
}

func (m *Manager) waitForRecords(ctx context.Context, limit time.Duration, w *waiter, blocks func(*leaseRecord) bool, late func() error) (hlc.Timestamp, error) {
	end := time.Now().Add(limit)
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if err := m.sync(ctx); err != nil && ctx.Err() != nil {
			return hlc.Timestamp{}, ctx.Err()
		}
		var blocked bool
		var expired hlc.Timestamp
		err := m.cfg.DB.Run(ctx, "schema lease check", func(ctx context.Context, t Txn) error {
			blocked, expired = false, hlc.Timestamp{}
			rows, err := t.Scan(ctx, leaseSpan(), 0)
			if err != nil {
				return err
			}
			now := t.ReadTimestamp()
			for _, row := range rows {
				r, err := decodeLease(row.Value)
				if err != nil {
					return err
				}
				switch {
				case !blocks(&r):
				case r.Expiry.LessEq(now):
					expired = expired.Max(r.Expiry)
				default:
					blocked = true
				}
			}
			return nil
		})
		if err != nil {
			return hlc.Timestamp{}, err
		}
		if !blocked {
			return expired, nil
		}
		if err := w.step(ctx); err != nil {
			return hlc.Timestamp{}, err
		}
		if time.Now().After(end) {
			return hlc.Timestamp{}, late()
		}
		if err := waitFor(ctx, nil, wait); err != nil {
			return hlc.Timestamp{}, err
		}
	}
}

// sessionAlive reports whether the lease session of a schema lock's holder still holds.
func (m *Manager) sessionAlive(ctx context.Context, l *SchemaLock) (alive bool, err error) {
	err = m.cfg.DB.Run(ctx, "schema lock check", func(ctx context.Context, t Txn) error {
		r, err := t.Get(ctx, leaseKey(l.Node, l.Session), false)
		if err != nil || !r.Exists {
			alive = false
			return err
		}
		rec, err := decodeLease(r.Value)
		alive = err == nil && t.ReadTimestamp().Less(rec.Expiry)
		return err
	})
	return alive, err
}
