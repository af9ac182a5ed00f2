package replica

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// bubble runs a test on virtual time.
func bubble(t *testing.T, fn func(t *testing.T)) { t.Helper(); synctest.Test(t, fn) }

func (b *bed) putNow(key, value string) hlc.Timestamp {
	b.t.Helper()
	br, err := b.Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: keys.Key(key), Value: []byte(value)}}})
	require.NoError(b.t, err)
	return br.Timestamp
}

func (b *bed) getNow(key string) string {
	b.t.Helper()
	br, err := b.Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.Key(key)}}})
	require.NoError(b.t, err)
	g := br.Responses[0].(*kv.GetResponse)
	if !g.Exists {
		return "-"
	}
	return string(g.Value)
}

func TestOnePhase(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		b.putNow("k1", "old")
		c := b.begin(kv.Serializable)
		g, err := c.get("k1", kv.LockExclusive)
		require.NoError(t, err)
		require.Equal(t, "old", string(g.Value))
		c.put("k1", "new", kv.Condition{Check: true, Seen: g.Version})
		c.put("k2", "also", kv.Condition{Check: true, MustBeAbsent: true})
		commands := b.groups[0].commands
		end, err := c.commit1()
		require.NoError(t, err)
		require.True(t, end.OnePhase)
		require.Equal(t, commands+1, b.groups[0].commands, "one phase is one command")
		require.Equal(t, "new", b.getNow("k1"))
		require.Equal(t, "also", b.getNow("k2"))
		require.Zero(t, b.replicas[0].tenure.Load().locks.Locks())
		require.Zero(t, b.replicas[0].tenure.Load().latches.Held())

		dup := b.begin(kv.Serializable)
		dup.put("k2", "x", kv.Condition{Check: true, MustBeAbsent: true, Seen: end.CommitTimestamp})
		_, err = dup.commit1()
		require.ErrorAs(t, err, new(*kv.ConditionFailedError))
	})
}

func TestOnePhaseRefreshes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		b.putNow("a", "1")
		b.putNow("b", "1")
		// The write is pushed by another's read; the read span is clean: commits.
		c := b.begin(kv.Serializable)
		_, err := c.get("a", kv.LockNone)
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
		b.getNow("b")
		c.put("b", "2", kv.Condition{})
		end, err := c.commit1()
		require.NoError(t, err)
		require.True(t, end.OnePhase)
		require.True(t, c.txn.MinTimestamp.Less(end.CommitTimestamp))

		// It read what it writes, and the write is pushed: its own version is no conflict.
		c = b.begin(kv.Serializable)
		_, err = c.get("b", kv.LockNone)
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
		b.getNow("b")
		c.put("b", "2b", kv.Condition{})
		end, err = c.commit1()
		require.NoError(t, err)
		require.True(t, end.OnePhase)
		b.putNow("b", "2")

		// The same, but what it read has changed: fails.
		c = b.begin(kv.Serializable)
		_, err = c.get("a", kv.LockNone)
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
		b.putNow("a", "2")
		b.getNow("b")
		c.put("b", "3", kv.Condition{})
		_, err = c.commit1()
		var retry *kv.RetryError
		require.ErrorAs(t, err, &retry)
		require.Equal(t, kv.RetrySerializable, retry.Reason)
		require.Equal(t, "2", b.getNow("b"))

		// READ COMMITTED does not care.
		c = b.begin(kv.ReadCommitted)
		_, err = c.get("a", kv.LockNone)
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
		b.putNow("a", "3")
		b.getNow("b")
		c.put("b", "4", kv.Condition{})
		_, err = c.commit1()
		require.NoError(t, err)
	})
}

// S26: a lock that got lost with the lease is caught by the write's condition.
func TestLostLock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		b.putNow("k", "1")
		for _, iso := range []kv.Isolation{kv.Serializable, kv.ReadCommitted} {
			c := b.begin(iso)
			g, err := c.get("k", kv.LockExclusive)
			require.NoError(t, err)
			b.newTerm(0)
			time.Sleep(time.Second)
			b.putNow("k", "2")
			c.put("k", "3", kv.Condition{Check: true, Seen: g.Version})
			_, err = c.commit1()
			var retry *kv.RetryError
			require.ErrorAs(t, err, &retry)
			require.Equal(t, kv.RetryLockLost, retry.Reason)
		}
	})
}

func TestLeaseChangeKeepsReadsSafe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		ts := b.clock.Now().Add(100 * time.Millisecond)
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("k")}}}
		ba.Timestamp = ts
		_, err := b.Send(context.Background(), ba)
		require.NoError(t, err)
		b.newTerm(0)
		require.True(t, ts.Less(b.putNow("k", "v")), "S4: a write after a lease change lands above every served read")
	})
}

// S2 b: the lease that ends during an evaluation must not answer.
func TestReadIsNotServedAfterLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		r, g := b.replicas[0], b.groups[0]
		ctx := context.Background()
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("k")}}}
		_, err := r.Send(ctx, ba)
		require.NoError(t, err)
		g.mu.Lock()
		g.valid = false
		g.mu.Unlock()
		_, err = r.Send(ctx, ba)
		require.ErrorAs(t, err, new(*kv.NotLeaseholderError))
		// A new term that the replica was not told of does not serve either.
		g.mu.Lock()
		g.valid, g.term = true, 2
		g.mu.Unlock()
		_, err = r.Send(ctx, ba)
		require.ErrorAs(t, err, new(*kv.NotLeaseholderError))
		r.OnLease(2, hlc.Timestamp{})
		_, err = r.Send(ctx, ba)
		require.NoError(t, err)
	})
}

func TestBounds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{}, "m")
		_, err := b.replicas[0].Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("z")}}})
		var mismatch *kv.RangeKeyMismatchError
		require.ErrorAs(t, err, &mismatch)
		require.Len(t, mismatch.Descs, 1)
		_, err = b.replicas[0].Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{&kv.ScanRequest{Span: keys.Span{Key: keys.Key("a"), EndKey: keys.Key("n")}}}})
		require.ErrorAs(t, err, &mismatch)
	})
}

// S12: the same command twice is one write.
func TestCommandTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.IncrementRequest{Key: keys.Key("n"), Delta: 5}}}
		ba.CommandID[0] = 9
		for range 3 {
			br, err := b.replicas[0].Send(context.Background(), ba)
			require.NoError(t, err)
			require.Equal(t, int64(5), br.Responses[0].(*kv.IncrementResponse).NewValue)
		}
		c := b.begin(kv.Serializable)
		c.put("k", "v", kv.Condition{})
		t2 := *c.txn
		end := &kv.BatchRequest{Requests: []kv.Request{c.puts["k"], &kv.EndTxnRequest{Commit: true, CanCommitInOnePhase: true, AllReadsHere: true}}}
		end.Txn = &t2
		end.CommandID[0] = 10
		first, err := b.replicas[0].Send(context.Background(), end)
		require.NoError(t, err)
		b.newTerm(0)
		second, err := b.replicas[0].Send(context.Background(), end)
		require.NoError(t, err)
		require.Equal(t, first.Responses, second.Responses)
		require.Equal(t, first.Txn.WriteTimestamp, second.Txn.WriteTimestamp)
		require.Equal(t, kv.TxnCommitted, second.Txn.Status)
	})
}

func TestRejectedAndAmbiguous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		g := b.groups[0]
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: keys.Key("k"), Value: []byte("v")}}}
		ba.CommandID[0] = 1
		g.reject = true
		_, err := b.replicas[0].Send(context.Background(), ba)
		require.ErrorAs(t, err, new(*kv.NotLeaseholderError))
		g.reject, g.lose = false, true
		_, err = b.replicas[0].Send(context.Background(), ba)
		require.ErrorAs(t, err, new(*kv.AmbiguousError))
		g.lose = false
		_, err = b.replicas[0].Send(context.Background(), ba)
		require.NoError(t, err, "the retry finds the outcome")
		require.Zero(t, b.replicas[0].tenure.Load().latches.Held())
	})
}

// S6: a client that goes away does not take the latches of its command with it.
func TestLatchesOutliveTheClient(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		b.groups[0].delay = func() time.Duration { return time.Second }
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: keys.Key("k"), Value: []byte("v")}}}
		start := time.Now()
		_, err := b.replicas[0].Send(ctx, ba)
		require.ErrorAs(t, err, new(*kv.AmbiguousError))
		require.Equal(t, 100*time.Millisecond, time.Since(start))
		require.Equal(t, "v", b.getNow("k"), "the read waits for the command")
		require.Equal(t, time.Second, time.Since(start))
	})
}

func TestLocksQueueInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		b.putNow("hot", "0")
		first := b.begin(kv.Serializable)
		_, err := first.get("hot", kv.LockExclusive)
		require.NoError(t, err)
		done := make(chan int, 32)
		for i := range 32 {
			time.Sleep(time.Microsecond)
			go func() {
				c := b.begin(kv.Serializable)
				g, err := c.get("hot", kv.LockExclusive)
				if err == nil {
					c.put("hot", string(g.Value)+string(rune('A'+i)), kv.Condition{Check: true, Seen: g.Version})
					_, err = c.commit1()
				}
				if err != nil {
					t.Errorf("waiter %d: %v", i, err)
				}
				done <- i
			}()
			synctest.Wait()
		}
		_, err = first.commit1()
		require.NoError(t, err)
		for range 32 {
			<-done
		}
		want := "0"
		for i := range 32 {
			want += string(rune('A' + i))
		}
		require.Equal(t, want, b.getNow("hot"), "first come, first served")
		require.Zero(t, b.count("PushTxn"), "no push for a short wait")
	})
}

func TestNoWaitSkipLockedTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		for _, k := range []string{"a", "b", "c"} {
			b.putNow(k, k)
		}
		holder := b.begin(kv.Serializable)
		_, err := holder.get("b", kv.LockExclusive)
		require.NoError(t, err)
		_, err = holder.get("absent", kv.LockExclusive)
		require.NoError(t, err)

		c := b.begin(kv.ReadCommitted)
		c.anchor("a")
		c.wait = kv.WaitError
		_, err = c.get("b", kv.LockShared)
		var conflict *kv.LockConflictError
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, holder.txn.ID, conflict.Holder)
		_, err = c.get("absent", kv.LockExclusive)
		require.ErrorAs(t, err, &conflict)

		c.wait = kv.WaitSkipLocked
		br, err := c.send(&kv.ScanRequest{Span: keys.Span{Key: keys.Key("a"), EndKey: keys.Key("d")}, Lock: kv.LockExclusive, MaxKeys: 2})
		require.NoError(t, err)
		rows := br.Responses[0].(*kv.ScanResponse).Rows
		require.Len(t, rows, 2)
		require.Equal(t, "a", string(rows[0].Key))
		require.Equal(t, "c", string(rows[1].Key))

		c.wait = kv.WaitBlock
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("b"), Lock: kv.LockExclusive}}}
		ba.Txn, ba.LockTimeout = c.txn, 300*time.Millisecond
		start := time.Now()
		_, err = b.Send(context.Background(), ba)
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, 300*time.Millisecond, conflict.Waited)
		require.Equal(t, 300*time.Millisecond, time.Since(start))

		// A read that locks nothing is not concerned.
		require.Equal(t, "b", b.getNow("b"))
		require.NoError(t, holder.rollback())
		_, err = c.get("b", kv.LockExclusive)
		require.NoError(t, err)
		require.NoError(t, c.rollback())
		require.Zero(t, b.replicas[0].tenure.Load().locks.Locks())
	})
}

func TestDeadlock(t *testing.T) {
	for _, n := range []int{2, 3, 5} {
		bubble(t, func(t *testing.T) {
			b := newBed(t, Limits{}, "c", "e")
			b.lag = time.Millisecond
			names := []string{"a", "b", "c", "d", "e"}[:n]
			clients := make([]*client, n)
			for i, k := range names {
				time.Sleep(time.Millisecond)
				clients[i] = b.begin(kv.Serializable)
				_, err := clients[i].get(k, kv.LockExclusive)
				require.NoError(t, err)
			}
			start := time.Now()
			errs := make(chan error, n)
			for i, c := range clients {
				go func() {
					_, err := c.get(names[(i+1)%n], kv.LockExclusive)
					_ = c.rollback()
					errs <- err
				}()
			}
			failed := 0
			for range n {
				if err := <-errs; err != nil {
					require.ErrorAs(t, err, new(*kv.DeadlockError))
					failed++
				}
			}
			require.Equal(t, 1, failed, "exactly one fails")
			require.Less(t, time.Since(start), time.Second)
		})
	}
}

// Two shared locks that both want the exclusive one.
func TestUpgradeDeadlock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		errs := make(chan error, 2)
		c1, c2 := b.begin(kv.Serializable), b.begin(kv.Serializable)
		for _, c := range []*client{c1, c2} {
			_, err := c.get("k", kv.LockShared)
			require.NoError(t, err)
		}
		for _, c := range []*client{c1, c2} {
			go func() {
				_, err := c.get("k", kv.LockExclusive)
				_ = c.rollback()
				errs <- err
			}()
		}
		e1, e2 := <-errs, <-errs
		require.True(t, (e1 == nil) != (e2 == nil), "%v, %v", e1, e2)
	})
}

// A coordinator that dies leaves locks and intents; others get on after the expiry.
func TestExpiry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{}, "m")
		b.putNow("k", "1")
		time.Sleep(3 * time.Second) // past the grace after the lease was taken up
		dead := b.begin(kv.Serializable)
		_, err := dead.get("k", kv.LockExclusive)
		require.NoError(t, err)
		start := time.Now()
		c := b.begin(kv.Serializable)
		g, err := c.get("k", kv.LockExclusive)
		require.NoError(t, err)
		c.put("k", "2", kv.Condition{Check: true, Seen: g.Version})
		_, err = c.commit1()
		require.NoError(t, err)
		require.InDelta(t, 5, time.Since(start).Seconds(), 0.5)

		// S10: it can't commit any more.
		dead.put("k", "lost", kv.Condition{})
		_, err = dead.commit1()
		require.ErrorAs(t, err, new(*kv.AbortedError))
		_, err = dead.send(&kv.HeartbeatTxnRequest{Key: dead.txn.Key})
		require.ErrorAs(t, err, new(*kv.AbortedError))

		// With heartbeats it lives.
		live := b.begin(kv.Serializable)
		_, err = live.get("k", kv.LockExclusive)
		require.NoError(t, err)
		waiting := make(chan error, 1)
		go func() {
			w := b.begin(kv.Serializable)
			_, err := w.get("k", kv.LockExclusive)
			_ = w.rollback()
			waiting <- err
		}()
		for range 12 {
			time.Sleep(time.Second)
			_, err := live.send(&kv.HeartbeatTxnRequest{Key: live.txn.Key})
			require.NoError(t, err)
		}
		select {
		case err := <-waiting:
			t.Fatalf("the waiter got the lock of a live transaction: %v", err)
		default:
		}
		live.put("k", "3", kv.Condition{})
		_, err = live.commit1()
		require.NoError(t, err)
		require.NoError(t, <-waiting)
	})
}

func TestLeaseLossAnswersWaiters(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		c := b.begin(kv.Serializable)
		_, err := c.get("k", kv.LockExclusive)
		require.NoError(t, err)
		errs := make(chan error, 1)
		go func() {
			w := b.begin(kv.Serializable)
			w.anchor("k")
			ba := &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("k"), Lock: kv.LockExclusive}}}
			ba.Txn = w.txn
			_, err := b.replicas[0].Send(context.Background(), ba)
			errs <- err
		}()
		synctest.Wait()
		b.replicas[0].OnLeaseLost()
		require.ErrorAs(t, <-errs, new(*kv.NotLeaseholderError))
	})
}

// A refresh or a read at a timestamp that the transaction gives up again, because another range
// refused it, must not hide from its later writes what others read below that timestamp.
func TestOwnRefreshHidesNobodysRead(t *testing.T) {
	for _, name := range []string{"refresh", "read"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBed(t, Limits{})
				b.putNow("k", "0")
				w := b.begin(kv.Serializable)
				time.Sleep(time.Millisecond)
				other := b.begin(kv.Serializable)
				_, err := other.get("k", kv.LockNone)
				require.NoError(t, err)

				abandoned := *w.txn
				later := w.txn.ReadTimestamp.Add(10 * time.Millisecond)
				abandoned.ReadTimestamp, abandoned.WriteTimestamp = later, later
				var req kv.Request = &kv.RefreshRequest{Span: keys.Span{Key: keys.Key("k")}, From: w.txn.ReadTimestamp}
				if name == "read" {
					req = &kv.GetRequest{Key: keys.Key("k")}
				}
				_, err = b.Send(t.Context(), &kv.BatchRequest{Header: kv.Header{Txn: &abandoned}, Requests: []kv.Request{req}})
				require.NoError(t, err)
				w.put("k", "1", kv.Condition{})
				end, err := w.commit1()
				require.NoError(t, err)
				require.True(t, other.txn.ReadTimestamp.Less(end.CommitTimestamp), "the write landed below a read")
			})
		})
	}
}
