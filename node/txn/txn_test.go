package txn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// model is what a transaction must see: committed data and a stack of own writes.
type model struct {
	committed map[string]string
	writes    []modelWrite
	step      int
}

type modelWrite struct{ key, value string } // value "": deleted

func (m *model) view() map[string]string {
	v := map[string]string{}
	for k, x := range m.committed {
		v[k] = x
	}
	for _, w := range m.writes[:m.step] {
		if v[w.key] = w.value; w.value == "" {
			delete(v, w.key)
		}
	}
	return v
}

// TestOverlayAgainstModel runs random statements in one transaction: what it reads, with
// limits, backwards and after savepoint rollbacks, must be what the model says, whether
// writes are still in the buffer or were flushed; and so must the committed state.
func TestOverlayAgainstModel(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			bubble(t, []string{"k3"}, func(t *testing.T, f *fake, db *DB) { overlayRun(t, f, db, rand.New(rand.NewPCG(seed, 7))) })
		})
	}
}

func overlayRun(t *testing.T, f *fake, db *DB, rng *rand.Rand) {
	ctx := context.Background()
	if rng.IntN(2) == 0 {
		db.limit = 400 // flush often
	}
	key := func() string { return fmt.Sprintf("k%d", rng.IntN(8)) }
	m := &model{committed: map[string]string{}}
	for range 5 {
		k := key()
		m.committed[k] = "c" + k
		f.put(k, "c"+k, db.clock.Now())
	}
	tx := db.NewTxn(Options{})
	type save struct {
		sp Savepoint
		n  int
	}
	var saves []save
	tx.Step()
	for i := range 60 {
		switch k := key(); rng.IntN(9) {
		case 0, 1:
			v := fmt.Sprint("v", i)
			require.NoError(t, tx.Put(ctx, keys.Key(k), []byte(v), kv.Condition{}))
			m.writes = append(m.writes, modelWrite{k, v})
		case 2:
			require.NoError(t, tx.Delete(ctx, keys.Key(k), kv.Condition{}))
			m.writes = append(m.writes, modelWrite{k, ""})
		case 3:
			tx.Step()
			m.step = len(m.writes)
		case 4:
			if tx.Step(); rng.IntN(2) == 0 || len(saves) == 0 {
				saves = append(saves, save{tx.Savepoint(), len(m.writes)})
			} else {
				n := rng.IntN(len(saves))
				require.NoError(t, tx.RollbackTo(ctx, saves[n].sp))
				m.writes, saves = m.writes[:saves[n].n], saves[:n+1]
			}
			m.step = len(m.writes)
		case 5:
			got, err := tx.GetMany(ctx, []keys.Key{keys.Key(k), keys.Key("k0")}, ReadOptions{Lock: kv.LockStrength(rng.IntN(3))})
			require.NoError(t, err)
			for j, kk := range []string{k, "k0"} {
				want, ok := m.view()[kk]
				require.Equal(t, ok, got[j].Exists, "key %s at %d", kk, i)
				require.Equal(t, want, string(got[j].Value))
			}
		default:
			checkScan(t, tx, m, rng)
		}
	}
	require.NoError(t, tx.Commit(ctx))
	require.NoError(t, db.Drain(ctx))
	m.step = len(m.writes)
	after := db.NewTxn(Options{})
	checkScan(t, after, &model{committed: m.view()}, rng)
	require.Empty(t, f.intents)
	require.Empty(t, f.locks)
}

func checkScan(t *testing.T, tx *Txn, m *model, rng *rand.Rand) {
	a, b := rng.IntN(8), rng.IntN(8)
	span := keys.Span{Key: keys.Key(fmt.Sprintf("k%d", min(a, b))), EndKey: keys.Key(fmt.Sprintf("k%d", max(a, b)+1))}
	opts := ScanOptions{Reverse: rng.IntN(2) == 0, MaxRows: int64(rng.IntN(4)), TargetBytes: int64(rng.IntN(2) * 6)}
	var want, got []string
	for k, v := range m.view() {
		if span.Contains(keys.Key(k)) {
			want = append(want, k+"="+v)
		}
	}
	sort.Strings(want)
	if opts.Reverse {
		for i, j := 0, len(want)-1; i < j; i, j = i+1, j-1 {
			want[i], want[j] = want[j], want[i]
		}
	}
	for n, rest := 0, span; ; n++ {
		r, err := tx.Scan(context.Background(), rest, opts)
		require.NoError(t, err)
		require.Less(t, n, 50, "a scan that does not end")
		if opts.MaxRows > 0 {
			require.LessOrEqual(t, len(r.Rows), int(opts.MaxRows))
		}
		for _, row := range r.Rows {
			got = append(got, fmt.Sprintf("%s=%s", []byte(row.Key), row.Value))
		}
		if r.Resume == nil {
			break
		}
		rest = *r.Resume
	}
	require.Equal(t, want, got, "scan of %s %+v", span, opts)
}

// TestBank moves money between accounts in three ranges, with readers that check the sum
// and lock-free, locking and conditional writers.
func TestBank(t *testing.T) {
	for _, iso := range []kv.Isolation{kv.Serializable, kv.Snapshot, kv.ReadCommitted} {
		t.Run(fmt.Sprint(iso), func(t *testing.T) {
			bubble(t, []string{"acc3", "acc6"}, func(t *testing.T, f *fake, db *DB) { bankRun(t, f, db, iso) })
		})
	}
}

func bankRun(t *testing.T, f *fake, db *DB, iso kv.Isolation) {
	const accounts, start, workers, rounds = 9, 100, 12, 60
	ctx := context.Background()
	for i := range accounts {
		f.put(fmt.Sprint("acc", i), strconv.Itoa(start), db.clock.Now())
	}
	// Messages take time, so that transactions interleave.
	f.before = func(*kv.BatchRequest) error {
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		return nil
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for range rounds {
				if w < 5 {
					sum(t, db, accounts, accounts*start)
					continue
				}
				from, to, lock := rng.IntN(accounts), rng.IntN(accounts), kv.LockStrength(0)
				if rng.IntN(2) == 0 || iso == kv.ReadCommitted {
					lock = kv.LockExclusive
				}
				err := db.Run(ctx, Options{Isolation: iso, Name: "transfer"}, func(ctx context.Context, tx *Txn) error {
					if err := add(ctx, tx, from, -1, lock); err != nil {
						return err
					}
					return add(ctx, tx, to, 1, lock)
				})
				if err != nil && !IsRetryable(err) {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	sum(t, db, accounts, accounts*start)
	require.NoError(t, db.Drain(ctx))
}

func add(ctx context.Context, tx *Txn, account, delta int, lock kv.LockStrength) error {
	key := keys.Key(fmt.Sprint("acc", account))
	r, err := tx.Get(ctx, key, ReadOptions{Lock: lock})
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(string(r.Value))
	if err != nil {
		return err
	}
	return tx.Put(ctx, key, []byte(strconv.Itoa(n+delta)), kv.Condition{Check: true, Seen: r.Version})
}

func sum(t *testing.T, db *DB, accounts, want int) {
	err := db.Run(context.Background(), Options{}, func(ctx context.Context, tx *Txn) error {
		r, err := tx.Scan(ctx, keys.Span{Key: keys.Key("acc"), EndKey: keys.Key("acd")}, ScanOptions{Reverse: rand.IntN(2) == 0})
		if err != nil {
			return err
		}
		total := 0
		for _, row := range r.Rows {
			n, _ := strconv.Atoi(string(row.Value))
			total += n
		}
		if total != want || len(r.Rows) != accounts {
			return fmt.Errorf("sum is %d over %d rows, want %d over %d", total, len(r.Rows), want, accounts)
		}
		return nil
	})
	if err != nil && !IsRetryable(err) {
		t.Error(err)
	}
}

// TestWriteSkew: every transaction reads two keys and writes one of them. Only what is
// serializable keeps their sum from going below zero.
func TestWriteSkew(t *testing.T) {
	for _, splits := range [][]string{nil, {"acc1"}} {
		t.Run(fmt.Sprint(splits), func(t *testing.T) {
			bubble(t, splits, func(t *testing.T, f *fake, db *DB) { skewRun(t, f, db) })
		})
	}
}

func skewRun(t *testing.T, f *fake, db *DB) {
	ctx := context.Background()
	f.before = func(*kv.BatchRequest) error {
		time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
		return nil
	}
	for range 60 {
		f.put("acc0", "1", db.clock.Now())
		f.put("acc1", "1", db.clock.Now())
		time.Sleep(time.Second) // past uncertainty
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				err := db.Run(ctx, Options{}, func(ctx context.Context, tx *Txn) error {
					total := 0
					for i := range 2 {
						r, err := tx.Get(ctx, keys.Key(fmt.Sprint("acc", (i+w)%2)), ReadOptions{})
						if err != nil {
							return err
						}
						n, _ := strconv.Atoi(string(r.Value))
						total += n
					}
					if total <= 0 {
						return nil
					}
					return add(ctx, tx, w%2, -1, kv.LockNone)
				})
				if err != nil {
					t.Error(err)
				}
			}()
		}
		wg.Wait()
		require.NoError(t, db.Drain(ctx))
		a, _ := strconv.Atoi(string(f.newest("acc0").value))
		b, _ := strconv.Atoi(string(f.newest("acc1").value))
		require.GreaterOrEqual(t, a+b, 0, "write skew: %d %d", a, b)
	}
}

// TestLostUpdate has many transactions add to one counter with locking reads: none is lost,
// and none fails.
func TestLostUpdate(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, db *DB) {
		f.put("acc0", "0", db.clock.Now())
		f.before = func(*kv.BatchRequest) error {
			time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
			return nil
		}
		var wg sync.WaitGroup
		for range 16 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for range 10 {
					tx := db.NewTxn(Options{})
					tx.Step()
					err := add(context.Background(), tx, 0, 1, kv.LockExclusive)
					if err == nil {
						err = tx.Commit(context.Background())
					}
					if err != nil {
						t.Error(err) // no retry: pgbench must not see a failure
					}
				}
			}()
		}
		wg.Wait()
		require.Equal(t, "160", string(f.newest("acc0").value))
		require.NoError(t, db.Drain(context.Background()))
		require.Empty(t, f.locks)
	})
}

func TestHeartbeats(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, db *DB) {
		var mu sync.Mutex
		beats := 0
		f.trace = func(s string) {
			mu.Lock()
			defer mu.Unlock()
			if bytes.Contains([]byte(s), []byte("HeartbeatTxn")) {
				beats++
			}
		}
		count := func() int { mu.Lock(); defer mu.Unlock(); return beats }
		ctx := context.Background()
		tx := db.NewTxn(Options{})
		time.Sleep(5 * time.Second)
		require.Zero(t, count(), "a transaction without locks needs no heartbeat")
		_, err := tx.Get(ctx, keys.Key("a"), ReadOptions{Lock: kv.LockExclusive})
		require.NoError(t, err)
		require.Equal(t, 1, count(), "an old transaction makes its record before its first lock")
		time.Sleep(3500 * time.Millisecond)
		require.InDelta(t, 4, count(), 1)
		// An abort by somebody else is noticed.
		f.mu.Lock()
		f.ended[tx.ID()] = true
		delete(f.records, tx.ID())
		f.mu.Unlock()
		time.Sleep(1500 * time.Millisecond)
		old := tx.ID()
		require.ErrorAs(t, tx.Put(ctx, keys.Key("a"), nil, kv.Condition{}), new(*kv.AbortedError))
		tx.Restart()
		require.NotEqual(t, old, tx.ID())
		require.NoError(t, tx.Put(ctx, keys.Key("a"), []byte("1"), kv.Condition{}))
		require.NoError(t, tx.Commit(ctx))
		n := count()
		time.Sleep(5 * time.Second)
		require.Equal(t, n, count(), "no heartbeat after the end")
		require.NoError(t, db.Drain(ctx))
	})
}

func TestCommitWait(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, db *DB) {
		ctx := context.Background()
		ahead := db.clock.Now().Add(200 * time.Millisecond)
		f.put("a", "1", ahead)
		for _, name := range []string{"read", "write"} {
			run := func(tx *Txn) error { _, err := tx.Get(ctx, keys.Key("a"), ReadOptions{}); return err }
			if name == "write" {
				ahead = db.clock.Now().Add(200 * time.Millisecond)
				f.put("a", "1", ahead)
				run = func(tx *Txn) error { return tx.Put(ctx, keys.Key("a"), []byte("2"), kv.Condition{}) }
			}
			tx := db.NewTxn(Options{})
			require.NoError(t, run(tx), name)
			require.NoError(t, tx.Commit(ctx), name)
			require.True(t, tx.CommitTimestamp().LessEq(db.clock.Now()), name)
			require.False(t, tx.CommitTimestamp().Less(ahead), name)
			if name == "read" {
				require.Equal(t, ahead, tx.CommitTimestamp())
			}
		}
	})
}

// A deferrable transaction waits once, no longer than clocks may differ, and can be canceled meanwhile.
func TestDeferrableWaits(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, db *DB) {
		ctx := context.Background()
		begun := time.Now()
		tx := db.NewTxn(Options{ReadOnly: true, Deferrable: true})
		for range 2 {
			_, err := tx.Get(ctx, keys.Key("a"), ReadOptions{})
			require.NoError(t, err)
			took := time.Since(begun)
			require.True(t, took >= db.clock.MaxOffset() && took < db.clock.MaxOffset()+20*time.Millisecond, "%v", took)
		}
		require.NoError(t, tx.Commit(ctx))

		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		_, err := db.NewTxn(Options{ReadOnly: true, Deferrable: true}).Get(short, keys.Key("a"), ReadOptions{})
		require.ErrorIs(t, err, context.DeadlineExceeded)

		begun = time.Now()
		for _, o := range []Options{{Deferrable: true}, {ReadOnly: true}, {ReadOnly: true, Deferrable: true, Isolation: kv.ReadCommitted}} {
			_, err = db.NewTxn(o).Get(ctx, keys.Key("a"), ReadOptions{})
			require.NoError(t, err)
		}
		require.Less(t, time.Since(begun), 50*time.Millisecond, "these do not wait")
	})
}

// TestCancelDoesNotReachCommit: once a commit may have been sent, its outcome is waited for.
func TestCancelDoesNotReachCommit(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, db *DB) {
		ctx, cancel := context.WithCancel(context.Background())
		f.before = func(*kv.BatchRequest) error { cancel(); return nil }
		tx := db.NewTxn(Options{})
		require.NoError(t, tx.Put(ctx, keys.Key("a"), []byte("1"), kv.Condition{}))
		require.NoError(t, tx.Commit(ctx))
		tx = db.NewTxn(Options{})
		require.NoError(t, tx.Put(ctx, keys.Key("a"), []byte("1"), kv.Condition{}))
		require.ErrorIs(t, tx.Commit(ctx), context.Canceled, "not yet sent")
		require.NoError(t, tx.Rollback(ctx))
	})
}

// TestCancelStopsCommitBefore: what comes before the batch that may commit ends with the
// statement, at once, and nothing of the transaction happens. After it, the outcome is told.
func TestCancelStopsCommitBefore(t *testing.T) {
	has := func(ba *kv.BatchRequest, text string) bool { return strings.Contains(describe(ba, nil, nil), text) }
	for _, c := range []struct {
		name, at string // the batch during which the statement is canceled
		explicit bool
		stops    bool
	}{
		{name: "refresh", at: "Refresh", stops: true},
		{name: "intents", at: "Put(b", explicit: true, stops: true},
		{name: "refresh after the intents", at: "Refresh", explicit: true, stops: true},
		{name: "the record", at: "EndTxn(b commit", explicit: true},
		{name: "staging", at: "staging"},
		{name: "a write beside staging", at: "Put(x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, []string{"m"}, func(t *testing.T, f *fake, db *DB) {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				// A read that a move of the timestamp refreshes, and a reader that makes it move.
				tx, other := db.NewTxn(Options{}), db.NewTxn(Options{})
				_, err := tx.Get(ctx, keys.Key("a"), ReadOptions{})
				require.NoError(t, err)
				for _, k := range []string{"b", "x"} {
					require.NoError(t, tx.Put(ctx, keys.Key(k), []byte("1"), kv.Condition{}))
				}
				if c.at == "Refresh" {
					other = db.NewTxn(Options{})
					_, err = other.Get(ctx, keys.Key("x"), ReadOptions{})
					require.NoError(t, err)
					if !c.explicit {
						tx.forwardWrite(db.clock.Now())
					}
				}
				tx.explicit = c.explicit
				f.before = func(ba *kv.BatchRequest) error {
					if has(ba, c.at) {
						cancel()
						time.Sleep(time.Millisecond)
					}
					return nil
				}
				start := time.Now()
				err = tx.Commit(ctx)
				require.Error(t, ctx.Err(), "the batch was sent")
				require.Less(t, time.Since(start), time.Second)
				if c.stops {
					require.ErrorIs(t, err, context.Canceled)
					require.NoError(t, tx.Rollback(ctx))
				} else {
					require.NoError(t, err)
				}
				require.NoError(t, db.Drain(context.Background()))
				got, err := db.NewTxn(Options{}).Get(context.Background(), keys.Key("x"), ReadOptions{})
				require.NoError(t, err)
				require.Equal(t, !c.stops, got.Exists)
			})
		})
	}
}

// TestCommitLockTimeout: what may commit waits for a lock for less time than for an answer, so
// that the end of the wait is known to be a failure.
func TestCommitLockTimeout(t *testing.T) {
	bubble(t, []string{"m"}, func(t *testing.T, f *fake, db *DB) {
		ctx := context.Background()
		var commits atomic.Int32
		f.before = func(ba *kv.BatchRequest) error {
			// An EndTxn alone makes explicit, in the background, what has committed: it meets no lock.
			if ba.Txn != nil && len(ba.Requests) > 1 && strings.Contains(describe(ba, nil, nil), "EndTxn") {
				commits.Add(1)
				if ba.LockTimeout != commitLockTimeout {
					t.Errorf("%s waits %s for a lock", describe(ba, nil, nil), ba.LockTimeout)
				}
			}
			return nil
		}
		for _, k := range []string{"a", "x"} {
			tx := db.NewTxn(Options{})
			require.NoError(t, tx.Put(ctx, keys.Key("a"), []byte("1"), kv.Condition{}))
			require.NoError(t, tx.Put(ctx, keys.Key(k), []byte("2"), kv.Condition{}))
			require.NoError(t, tx.Commit(ctx))
		}
		require.EqualValues(t, 2, commits.Load())
		require.Less(t, commitLockTimeout, commitTimeout)
	})
}

func TestRunGivesUp(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, db *DB) {
		n := 0
		err := db.Run(context.Background(), Options{Name: "x"}, func(context.Context, *Txn) error {
			n++
			return &kv.RetryError{}
		})
		require.True(t, IsRetryable(err))
		require.ErrorContains(t, err, "attempts")
		require.Equal(t, maxRunAttempts, n)
		require.EqualError(t, db.Run(context.Background(), Options{}, func(context.Context, *Txn) error { return errors.New("mine") }), "mine")
		got, err := db.Increment(context.Background(), keys.Key("seq"), 5)
		require.NoError(t, err)
		require.EqualValues(t, 5, got)
	})
}

// TestLargeTransactionIsFlushedInPieces writes 10 MiB and checks every batch's size.
func TestLargeTransactionIsFlushedInPieces(t *testing.T) {
	bubble(t, []string{"k00050"}, func(t *testing.T, f *fake, db *DB) {
		most := 0
		var mu sync.Mutex
		f.before = func(ba *kv.BatchRequest) error {
			mu.Lock()
			defer mu.Unlock()
			most = max(most, len(kv.EncodeBatchRequest(nil, ba)))
			return nil
		}
		ctx := context.Background()
		tx := db.NewTxn(Options{})
		for i := range 100 {
			require.NoError(t, tx.Put(ctx, keys.Key(fmt.Sprintf("k%05d", i)), make([]byte, 100<<10), kv.Condition{}))
		}
		require.NoError(t, tx.Commit(ctx))
		require.NoError(t, db.Drain(ctx))
		require.Less(t, most, 1<<20)
		require.Len(t, f.versions, 100)
		require.Empty(t, f.intents)
		require.ErrorAs(t, db.NewTxn(Options{}).Put(ctx, keys.Key("x"), make([]byte, 1<<20), kv.Condition{}), new(*TooLargeError))
	})
}

func TestSpanSetCoversWhatWasAdded(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		var s spanSet
		var all []keys.Span
		for range rng.IntN(60) {
			a, b := rng.IntN(100), rng.IntN(100)
			sp := keys.Span{Key: keys.Key(fmt.Sprintf("%03d", min(a, b)))}
			if a != b && rng.IntN(2) == 0 {
				sp.EndKey = keys.Key(fmt.Sprintf("%03d", max(a, b)))
			}
			all = append(all, sp)
			s.add(sp, 1000, 12)
			require.LessOrEqual(t, len(s.list), 12)
		}
		for _, sp := range all {
			ok := false
			for _, have := range s.list {
				ok = ok || (!sp.Key.Less(have.Key) && !have.End().Less(sp.End()))
			}
			require.True(t, ok, "%s is not in %v", sp, s.list)
		}
	}
}

// TestManyReadsStayBounded: the read set is condensed, and still finds conflicts.
func TestManyReadsStayBounded(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, db *DB) {
		ctx := context.Background()
		tx := db.NewTxn(Options{})
		for i := range 3 * maxReadSpans {
			_, err := tx.Get(ctx, keys.Key(fmt.Sprintf("k%06d", i)), ReadOptions{})
			require.NoError(t, err)
		}
		require.LessOrEqual(t, len(tx.reads.list), maxReadSpans)
		f.reads = nil // else linear in the fake
		f.put("k000500", "x", db.clock.Now())
		f.put("z", "x", db.clock.Now())
		_, err := tx.Get(ctx, keys.Key("z"), ReadOptions{})
		require.True(t, IsRetryable(err), "%v", err)
	})
}

func TestTxnNeverReadsItsOwnPast(t *testing.T) {
	// A restarted epoch must not see the intents of the one before.
	bubble(t, nil, func(t *testing.T, f *fake, db *DB) {
		db.limit = 1
		ctx := context.Background()
		tx := db.NewTxn(Options{})
		require.NoError(t, tx.Put(ctx, keys.Key("a"), []byte("old"), kv.Condition{}))
		tx.err = &kv.RetryError{}
		tx.Restart()
		r, err := tx.Get(ctx, keys.Key("a"), ReadOptions{})
		require.NoError(t, err)
		require.False(t, r.Exists)
		require.NoError(t, tx.Put(ctx, keys.Key("b"), []byte("new"), kv.Condition{}))
		require.NoError(t, tx.Commit(ctx))
		require.NoError(t, db.Drain(ctx))
		require.Empty(t, f.intents)
		require.Nil(t, f.newest("a").value)
		require.Equal(t, "new", string(f.newest("b").value))
	})
}

// BenchmarkTPCB is the coordinator's part of pgbench's transaction.
func BenchmarkTPCB(b *testing.B) {
	clock := testClock()
	s := &nullSender{}
	db := NewDB(Config{Sender: s, Clock: clock})
	defer db.Close()
	ks := []keys.Key{keys.Key("accounts/1"), keys.Key("tellers/1"), keys.Key("branches/1")}
	hist, val := keys.Key("history/1"), make([]byte, 100)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		t := db.NewTxn(Options{})
		for _, k := range ks {
			t.Step()
			if _, err := t.Get(ctx, k, ReadOptions{Lock: kv.LockExclusive}); err != nil {
				b.Fatal(err)
			}
			_ = t.Put(ctx, k, val, kv.Condition{Check: true})
		}
		_ = t.Put(ctx, hist, val, kv.Condition{})
		if err := t.Commit(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

type nullSender struct{}

func (*nullSender) Send(_ context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	br := &kv.BatchResponse{Txn: ba.Txn, Responses: make([]kv.Response, len(ba.Requests))}
	for i, req := range ba.Requests {
		switch req.(type) {
		case *kv.GetRequest:
			br.Responses[i] = &kv.GetResponse{}
		case *kv.PutRequest:
			br.Responses[i] = &kv.PutResponse{}
		case *kv.EndTxnRequest:
			br.Responses[i] = &kv.EndTxnResponse{CommitTimestamp: hlc.Timestamp{WallNanos: 1}}
		}
	}
	return br, nil
}
