package txn_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/txn"
)

// manyRows writes 6 MB, which is more than a buffer and more than one command holds.
func manyRows(ctx context.Context, tx *txn.Txn, value byte) error {
	for i := range 130 {
		v := make([]byte, 40_000)
		v[0] = value
		if err := tx.Put(ctx, keys.Key(fmt.Sprintf("m%05d", i)), v, kv.Condition{}); err != nil {
			return err
		}
		if i%7 == 0 { // the newer of two writes of one key is what counts
			if err := tx.Put(ctx, keys.Key(fmt.Sprintf("m%05d", i)), append([]byte{value}, "newer"...), kv.Condition{}); err != nil {
				return err
			}
		}
	}
	return nil
}

func requireRows(t *testing.T, db *txn.DB, value byte) {
	t.Helper()
	require.NoError(t, db.Run(context.Background(), txn.Options{}, func(ctx context.Context, tx *txn.Txn) error {
		n := 0
		for rest := (&keys.Span{Key: keys.Key("m"), EndKey: keys.Key("n")}); rest != nil; {
			r, err := tx.Scan(ctx, *rest, txn.ScanOptions{})
			if err != nil {
				return err
			}
			for _, row := range r.Rows {
				want := 40_000
				if n%7 == 0 {
					want = len("?newer")
				}
				require.Equal(t, fmt.Sprintf("m%05d", n), string(row.Key))
				require.Equal(t, value, row.Value[0])
				require.Len(t, row.Value, want)
				n++
			}
			rest = r.Resume
		}
		require.Equal(t, 130, n)
		return nil
	}))
}

// TestFlushInPieces flushes several pieces at a time into two ranges, over rows that a
// committed transaction wrote, and is pushed by a reader between its flushes.
func TestFlushInPieces(t *testing.T) {
	inHouse(t, 1, func(t *testing.T, h *house) {
		ctx := context.Background()
		for round := byte('a'); round < 'd'; round++ {
			require.NoError(t, h.dbs[1].Run(ctx, txn.Options{}, func(ctx context.Context, tx *txn.Txn) error {
				return manyRows(ctx, tx, round)
			}))
			requireRows(t, h.dbs[2], round)
		}
		tx := h.dbs[1].NewTxn(txn.Options{})
		require.NoError(t, manyRows(ctx, tx, 'x'))
		requireRows(t, h.dbs[2], 'c')
		require.NoError(t, tx.Rollback(ctx))
		requireRows(t, h.dbs[2], 'c')
	}, "m00070")
}

// TestFlushDeadlock has a flush meet a lock of a transaction that waits for the flushing one,
// and one of a third that waits for nobody: the victim's pieces must not wait for the third.
func TestFlushDeadlock(t *testing.T) {
	inHouse(t, 2, func(t *testing.T, h *house) {
		ctx := context.Background()
		lock := txn.ReadOptions{Lock: kv.LockExclusive}
		idle, other, tx := h.dbs[2].NewTxn(txn.Options{}), h.dbs[2].NewTxn(txn.Options{}), h.dbs[1].NewTxn(txn.Options{})
		for _, l := range []struct {
			tx  *txn.Txn
			key string
		}{{idle, "m00003"}, {other, "m00060"}, {tx, "a"}} {
			_, err := l.tx.Get(ctx, keys.Key(l.key), lock)
			require.NoError(t, err)
		}
		waits := make(chan error, 1)
		go func() {
			_, err := other.Get(ctx, keys.Key("a"), lock)
			if err != nil {
				_ = other.Rollback(ctx)
				_ = idle.Rollback(ctx) // or the flush, which is not the victim, would wait for it
			}
			waits <- err
		}()
		err := manyRows(ctx, tx, 'x')
		var deadlock *kv.DeadlockError
		if err != nil {
			require.True(t, errors.As(err, &deadlock), "%v", err)
			require.NoError(t, tx.Rollback(ctx))
			require.NoError(t, <-waits)
			require.NoError(t, other.Rollback(ctx))
			require.NoError(t, idle.Rollback(ctx))
			return
		}
		require.True(t, errors.As(<-waits, &deadlock))
		require.NoError(t, tx.Commit(ctx))
		requireRows(t, h.dbs[2], 'x')
	}, "m00070")
}
