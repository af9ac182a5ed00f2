package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/replica/eval"
)

func (b *bed) must(reqs ...kv.Request) *kv.BatchResponse {
	b.t.Helper()
	br, err := b.Send(context.Background(), &kv.BatchRequest{Requests: reqs})
	require.NoError(b.t, err)
	return br
}

func spanOf(a, z string) keys.Span { return keys.Span{Key: keys.Key(a), EndKey: keys.Key(z)} }

type prefixFilter struct{}

func (prefixFilter) Compile(spec []byte) (eval.RowFilter, error) {
	if len(spec) > 8 {
		return nil, errors.New("too long")
	}
	return rowFilter(spec), nil
}

type rowFilter []byte

func (f rowFilter) Next(_, value []byte) (bool, []byte, error) {
	return bytes.HasPrefix(value, f), value[len(f):min(len(f)+1, len(value))], nil
}

func TestScan(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		b.replicas[0].cfg.Pushdown = prefixFilter{}
		for i := range 20 {
			b.putNow(fmt.Sprintf("k%02d", i), fmt.Sprintf("%c%d", 'a'+i%2, i%10))
		}
		br := b.must(&kv.ScanRequest{Span: spanOf("k", "l"), MaxKeys: 3})
		s := br.Responses[0].(*kv.ScanResponse)
		require.Len(t, s.Rows, 3)
		require.Equal(t, keys.Key("k02").Next(), s.ResumeSpan.Key)
		br = b.must(&kv.ScanRequest{Span: spanOf("k", "l"), MaxKeys: 3, Reverse: true})
		s = br.Responses[0].(*kv.ScanResponse)
		require.Equal(t, "k19", string(s.Rows[0].Key))
		require.Len(t, s.Rows, 3)

		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.ScanRequest{Span: spanOf("k", "l")}, &kv.ScanRequest{Span: spanOf("k1", "l")}}}
		ba.MaxSpanKeys = 25
		br, err := b.Send(context.Background(), ba)
		require.NoError(t, err)
		require.Len(t, br.Responses[0].(*kv.ScanResponse).Rows, 20)
		require.Len(t, br.Responses[1].(*kv.ScanResponse).Rows, 5)
		require.NotNil(t, br.Responses[1].(*kv.ScanResponse).ResumeSpan)

		br = b.must(&kv.ScanRequest{Span: spanOf("k", "l"), Pushdown: []byte("b"), MaxKeys: 4})
		s = br.Responses[0].(*kv.ScanResponse)
		require.Len(t, s.Rows, 4)
		require.Equal(t, "1", string(s.Rows[0].Value))
		_, err = b.Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{&kv.ScanRequest{Span: spanOf("k", "l"), Pushdown: make([]byte, 9)}}})
		require.ErrorAs(t, err, new(*kv.InvalidRequestError))
	})
}

// A locking scan with a filter locks, and waits for, only the rows that it returns.
func TestLockingScanFiltersFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		b.replicas[0].cfg.Pushdown = prefixFilter{}
		b.putNow("k1", "a1")
		b.putNow("k2", "b2")
		holder := b.begin(kv.Serializable)
		_, err := holder.get("k1", kv.LockExclusive)
		require.NoError(t, err)
		c := b.begin(kv.Serializable)
		c.anchor("k2")
		br, err := c.send(&kv.ScanRequest{Span: spanOf("k", "l"), Pushdown: []byte("b"), Lock: kv.LockExclusive})
		require.NoError(t, err)
		require.Len(t, br.Responses[0].(*kv.ScanResponse).Rows, 1)
		done := make(chan int, 1)
		go func() {
			br, err := c.send(&kv.ScanRequest{Span: spanOf("k", "l"), Lock: kv.LockExclusive})
			if err != nil {
				t.Error(err)
			}
			done <- len(br.Responses[0].(*kv.ScanResponse).Rows)
		}()
		synctest.Wait()
		require.Empty(t, done)
		require.NoError(t, holder.rollback())
		require.Equal(t, 2, <-done)
		require.NoError(t, c.rollback())
	})
}

func TestReadsGuardGaps(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		b.putNow("k1", "x")
		b.putNow("k9", "x")
		ts := b.clock.Now().Add(50 * time.Millisecond)
		for _, req := range []kv.Request{&kv.ScanRequest{Span: spanOf("k", "l")}, &kv.GetRequest{Key: keys.Key("absent")}} {
			ba := &kv.BatchRequest{Requests: []kv.Request{req}}
			ba.Timestamp = ts
			_, err := b.Send(context.Background(), ba)
			require.NoError(t, err)
		}
		require.True(t, ts.Less(b.putNow("k5", "x")), "S7: the gaps of a scan")
		require.True(t, ts.Less(b.putNow("absent", "x")), "S7: absent keys")
		require.True(t, b.putNow("z", "x").Less(ts), "keys that were not read are not concerned")
		// A limited scan guards only what it looked at.
		ts = ts.Add(50 * time.Millisecond)
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.ScanRequest{Span: spanOf("k", "l"), MaxKeys: 1}}}
		ba.Timestamp = ts
		_, err := b.Send(context.Background(), ba)
		require.NoError(t, err)
		require.True(t, b.putNow("k8", "x").Less(ts))
		require.True(t, ts.Less(b.putNow("k0", "x")))
	})
}

func TestUncertainty(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		c := b.begin(kv.Serializable)
		c.reads = []keys.Span{{Key: keys.Key("other")}}
		time.Sleep(10 * time.Millisecond)
		at := b.putNow("k", "new")
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("k")}}}
		ba.Txn = c.txn
		_, err := b.replicas[0].Send(context.Background(), ba)
		var u *kv.UncertaintyError
		require.ErrorAs(t, err, &u)
		require.Equal(t, at, u.Existing)
		ba.CanForwardReadTimestamp = true
		br, err := b.replicas[0].Send(context.Background(), ba)
		require.NoError(t, err)
		require.Equal(t, at, br.Txn.ReadTimestamp)
		require.Equal(t, "new", string(br.Responses[0].(*kv.GetResponse).Value))
	})
}

func TestDeleteRangeClearGC(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		for i := range 10 {
			b.putNow(fmt.Sprintf("k%d", i), "v")
		}
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.DeleteRangeRequest{Span: spanOf("k", "l")}}}
		ba.MaxSpanKeys = 6
		br, err := b.Send(context.Background(), ba)
		require.NoError(t, err)
		d := br.Responses[0].(*kv.DeleteRangeResponse)
		require.Equal(t, int64(6), d.Deleted)
		br = b.must(&kv.DeleteRangeRequest{Span: *d.ResumeSpan})
		require.Equal(t, int64(4), br.Responses[0].(*kv.DeleteRangeResponse).Deleted)
		require.Equal(t, "-", b.getNow("k3"))

		// In a transaction, in one phase.
		b.putNow("k1", "again")
		c := b.begin(kv.Serializable)
		c.anchor("k1")
		br, err = c.send(&kv.DeleteRangeRequest{Span: spanOf("k", "l"), Seq: 1}, &kv.EndTxnRequest{Commit: true, CanCommitInOnePhase: true, AllReadsHere: true})
		require.NoError(t, err)
		require.True(t, br.Responses[1].(*kv.EndTxnResponse).OnePhase)
		require.Equal(t, "-", b.getNow("k1"))

		at := b.putNow("g", "1")
		time.Sleep(time.Second)
		b.putNow("g", "2")
		now := b.clock.Now()
		b.must(&kv.GCRequest{Span: spanOf("a", "z"), Threshold: now, Keys: []kv.GCKey{{Key: keys.Key("g"), At: at}}})
		require.Equal(t, "2", b.getNow("g"))
		old := &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("g")}}}
		old.Timestamp = at
		_, err = b.Send(context.Background(), old)
		require.ErrorAs(t, err, new(*kv.BelowGCThresholdError))

		b.must(&kv.ClearRangeRequest{Span: spanOf("a", "z")})
		require.Equal(t, "-", b.getNow("g"))
	})
}

func TestIncrement(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		done := make(chan int64, 50)
		for range 50 {
			go func() {
				br, err := b.Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{&kv.IncrementRequest{Key: keys.Key("n"), Delta: 2}}})
				if err != nil {
					t.Error(err)
					done <- 0
					return
				}
				done <- br.Responses[0].(*kv.IncrementResponse).NewValue
			}()
		}
		seen := map[int64]bool{}
		for range 50 {
			seen[<-done] = true
		}
		require.Len(t, seen, 50)
		require.True(t, seen[100])
		_, err := b.Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{&kv.IncrementRequest{Key: keys.Key("n"), Delta: 1<<63 - 1}}})
		require.ErrorAs(t, err, new(*kv.InvalidRequestError))
	})
}

// stage leaves a STAGING transaction behind whose coordinator is gone. Of its writes, those
// in missing never happen.
func (b *bed) stage(missing ...string) *client {
	c := b.begin(kv.Serializable)
	for _, k := range []string{"a", "n", "z"} {
		c.put(k, "staged", kv.Condition{})
	}
	end := &kv.EndTxnRequest{Commit: true, LockSpans: c.spans()}
	reqs := []kv.Request{}
	for _, k := range []string{"a", "n", "z"} {
		end.InFlight = append(end.InFlight, kv.InFlightWrite{Key: keys.Key(k), Seq: c.puts[k].Seq})
		lost := false
		for _, m := range missing {
			lost = lost || m == k
		}
		if !lost {
			reqs = append(reqs, c.puts[k])
		}
	}
	br, err := c.send(append(reqs, end)...)
	require.NoError(b.t, err)
	require.True(b.t, br.Responses[len(reqs)].(*kv.EndTxnResponse).Staging)
	return c
}

// S11: who meets the intents of a silent STAGING transaction decides it.
func TestRecovery(t *testing.T) {
	for _, missing := range []string{"", "n", "z"} {
		bubble(t, func(t *testing.T) {
			b := newBed(t, Limits{}, "m", "p")
			c := b.stage(missing)
			start := time.Now()
			want := "staged"
			if missing != "" {
				want = "-"
			}
			require.Equal(t, want, b.getNow("a"))
			require.Less(t, time.Since(start), 3*time.Second)
			// The late write of an aborted one is impossible at its timestamp.
			if missing != "" {
				ba := &kv.BatchRequest{Requests: []kv.Request{c.puts[missing]}}
				ba.Txn = c.txn
				br, err := b.Send(context.Background(), ba)
				require.NoError(t, err)
				require.True(t, c.txn.WriteTimestamp.Less(br.Txn.WriteTimestamp))
				_, err = c.send(&kv.EndTxnRequest{Commit: true, LockSpans: c.spans()})
				require.ErrorAs(t, err, new(*kv.AbortedError))
			}
			require.Equal(t, want, b.getNow("n"))
			require.Equal(t, want, b.getNow("z"))
			time.Sleep(20 * time.Second)
			for _, r := range b.replicas {
				_, err := r.CleanupTxns(context.Background(), 100)
				require.NoError(t, err)
			}
			time.Sleep(time.Second)
			for _, r := range b.replicas {
				recs, err := r.oldRecords(10)
				require.NoError(t, err)
				require.Empty(t, recs)
			}
		})
	}
}

// A live STAGING transaction is not disturbed.
func TestStagingIsWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{}, "m", "p")
		c := b.stage()
		got := make(chan string, 1)
		go func() { got <- b.getNow("z") }()
		time.Sleep(time.Second)
		require.Empty(t, got)
		c.end(true)
		require.Equal(t, "staged", <-got)
		require.Zero(t, b.count("RecoverTxn"))
	})
}

// Readers don't wait for the intents of a live transaction: they move them.
func TestReaderPushes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{}, "m")
		b.putNow("z", "old")
		c := b.begin(kv.Serializable)
		c.put("a", "new", kv.Condition{})
		c.put("z", "new", kv.Condition{})
		_, err := c.send(c.puts["a"], c.puts["z"])
		require.NoError(t, err)
		start := time.Now()
		require.Equal(t, "old", b.getNow("z"))
		require.Less(t, time.Since(start), 200*time.Millisecond)
		_, err = c.send(&kv.EndTxnRequest{Commit: true, LockSpans: c.spans()})
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Equal(t, "new", b.getNow("z"))
		require.Equal(t, "new", b.getNow("a"))
		rec, err := eval.LoadRecord(b.engine, c.txn.Key, c.txn.ID)
		require.NoError(t, err)
		require.Nil(t, rec, "the record goes when everything is resolved")
	})
}

// S20: the right side of a split knows what was read and who holds locks.
func TestSplit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		b.putNow("k", "1")
		b.putNow("t", "1")
		c := b.begin(kv.Serializable)
		_, err := c.get("t", kv.LockExclusive)
		require.NoError(t, err)
		_, err = c.get("k", kv.LockExclusive)
		require.NoError(t, err)
		got := make(chan error, 1)
		go func() {
			w := b.begin(kv.Serializable)
			_, err := w.get("t", kv.LockExclusive)
			_ = w.rollback()
			got <- err
		}()
		synctest.Wait()
		ts := b.clock.Now().Add(100 * time.Millisecond)
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("x")}}}
		ba.Timestamp = ts
		_, err = b.Send(context.Background(), ba)
		require.NoError(t, err)

		r := b.replicas[0]
		f, err := r.Freeze(context.Background())
		require.NoError(t, err)
		require.True(t, ts.LessEq(f.HighWater))
		frozen := make(chan string, 1)
		go func() {
			br, err := b.Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("t")}}})
			if err != nil {
				t.Error(err)
				frozen <- ""
				return
			}
			frozen <- string(br.Responses[0].(*kv.GetResponse).Value)
		}()
		synctest.Wait()
		require.Empty(t, frozen, "nothing is served while the range is frozen")
		left, right := r.Desc().Clone(), r.Desc().Clone()
		left.End, right.Start, right.RangeID = keys.Key("m"), keys.Key("m"), 99
		left.Generation++
		right.Generation = left.Generation
		rr := New(Config{Desc: right, Node: 1, Group: b.groups[0], Engine: b.engine, Clock: b.clock, Sender: b})
		rr.InheritSplit(r.OnSplit(left, right))
		rr.OnLease(1, f.HighWater)
		b.mu.Lock()
		b.replicas = append(b.replicas, rr)
		b.groups = append(b.groups, b.groups[0])
		b.mu.Unlock()
		f.Release()
		_, err = r.Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("t")}}})
		require.ErrorAs(t, err, new(*kv.RangeKeyMismatchError))
		require.Equal(t, "1", <-frozen)
		require.True(t, ts.Less(b.putNow("x", "v")), "the right side's timestamp cache")
		synctest.Wait()
		require.Equal(t, 1, rr.tenure.Load().locks.Locks(), "the lock moved")
		require.Empty(t, got, "and is waited for on the right side")
		require.NoError(t, c.rollback())
		require.NoError(t, <-got)
	})
}

func TestCloseTimestamp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		r, g := b.replicas[0], b.groups[0]
		g.delay = func() time.Duration { return time.Second }
		done := make(chan hlc.Timestamp, 1)
		go func() { done <- b.putNow("k", "v") }()
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		target := b.clock.Now()
		closed := r.CloseTimestamp(target)
		require.True(t, closed.Less(target), "S24: closing waits for the write under way")
		require.True(t, closed.Less(<-done))
		require.Equal(t, target, r.CloseTimestamp(target))
		g.delay = nil
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: keys.Key("k"), Value: []byte("w")}}}
		ba.Timestamp = target.Prev()
		br, err := b.Send(context.Background(), ba)
		require.NoError(t, err)
		require.True(t, target.Less(br.Timestamp))
	})
}

func TestHostileBatches(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		for _, reqs := range [][]kv.Request{
			nil,
			{&kv.EndTxnRequest{Commit: true}},
			{&kv.HeartbeatTxnRequest{}},
			{&kv.ScanRequest{Span: spanOf("z", "a")}},
			{&kv.GetRequest{Key: keys.Key("k"), Lock: kv.LockExclusive}},
			{&kv.GetRequest{Key: keys.Key("k")}, &kv.PushTxnRequest{Key: keys.Key("k")}},
			{&kv.AdminSplitRequest{SplitKey: keys.Key("k")}, &kv.GetRequest{Key: keys.Key("k")}},
			{&kv.ScanRequest{Span: keys.Span{Key: keys.Key("\x01k"), EndKey: keys.Key("\x02")}}},
			{&kv.GetRequest{Key: keys.RangeLocal(1, "applied")}},
			{&kv.RefreshRequest{Span: spanOf("a", "b")}},
			{&kv.ResolveIntentRequest{Span: spanOf("a", "b"), Status: kv.TxnStaging}},
			{&kv.PutRequest{Key: keys.Key("k"), Value: make([]byte, 2<<20)}},
			{&kv.PutRequest{Key: keys.Key("k"), Value: make([]byte, 600<<10)}, &kv.PutRequest{Key: keys.Key("l"), Value: make([]byte, 600<<10)}},
		} {
			_, err := b.replicas[0].Send(context.Background(), &kv.BatchRequest{Requests: reqs})
			require.ErrorAs(t, err, new(*kv.InvalidRequestError), "%T", reqs)
		}
		require.Zero(t, b.replicas[0].tenure.Load().latches.Held())
	})
}

// The outcome of one piece of a batch says nothing of the others, which have the same ID (S12, S20).
func TestOutcomeOfAnotherPiece(t *testing.T) {
	ba := func(pieces ...uint64) *kv.BatchRequest {
		return &kv.BatchRequest{Header: kv.Header{Pieces: pieces}, Requests: []kv.Request{&kv.IncrementRequest{}}}
	}
	br := &kv.BatchResponse{Responses: []kv.Response{&kv.IncrementResponse{NewValue: 7}}}
	for _, c := range []struct {
		applied, asked *kv.BatchRequest
		known          bool
	}{
		{ba(), ba(), true}, {ba(), ba(1), true}, {ba(), ba(1, 2), true}, // the whole was applied
		{ba(1), ba(1), true}, {ba(1), ba(1, 2), true}, {ba(3, 1), ba(3, 1), true},
		{ba(1), ba(2), false}, {ba(1), ba(), false}, {ba(3, 1), ba(3, 2), false}, {ba(3, 1), ba(3), false},
	} {
		got, whole, err := decodeOutcome(c.asked, encodeOutcome(c.applied, br))
		if !c.known {
			require.ErrorIs(t, err, errOtherPiece)
			continue
		}
		require.NoError(t, err)
		require.True(t, whole)
		require.Equal(t, br.Responses, got.Responses)
	}
}

func FuzzDecodeOutcome(f *testing.F) {
	ba := &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{}, &kv.IncrementRequest{}, &kv.DeleteRangeRequest{}, &kv.EndTxnRequest{}}}
	ba.Txn = &kv.Txn{}
	br := &kv.BatchResponse{Txn: &kv.Txn{Status: kv.TxnCommitted}, Responses: []kv.Response{&kv.PutResponse{}, &kv.IncrementResponse{NewValue: 7},
		&kv.DeleteRangeResponse{Deleted: 3}, &kv.EndTxnResponse{OnePhase: true}}}
	f.Add(encodeOutcome(ba, br))
	ba.Pieces = []uint64{1, 2}
	f.Add(encodeOutcome(ba, br))
	f.Add([]byte{outcomeVersion})
	f.Fuzz(func(t *testing.T, in []byte) {
		got, whole, err := decodeOutcome(ba, in)
		if err != nil || !whole || in[1]&outcomeTxn == 0 { // nobody writes one without a transaction for this batch
			return
		}
		if in[1]&outcomePiece == 0 {
			defer func(p []uint64) { ba.Pieces = p }(ba.Pieces)
			ba.Pieces = nil
		}
		again, whole, err := decodeOutcome(ba, encodeOutcome(ba, got))
		require.NoError(t, err)
		require.True(t, whole)
		require.Equal(t, got, again)
	})
}

// A write whose intent was pushed, which its coordinator has not heard of, takes the whole batch
// to where the intent is: the commit must not be below it.
func TestReplayedWriteReportsWhereItIs(t *testing.T) {
	for _, name := range []string{"replay", "overwrite"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBed(t, Limits{})
				w := b.begin(kv.Serializable)
				w.put("k", "1", kv.Condition{})
				sent := *w.txn
				put := func(extra ...kv.Request) (*kv.BatchResponse, error) {
					p := *w.puts["k"]
					if name == "overwrite" {
						p.Seq++
					}
					txn := sent
					return b.Send(t.Context(), &kv.BatchRequest{Header: kv.Header{Txn: &txn}, Requests: append([]kv.Request{&p}, extra...)})
				}
				_, err := w.send(w.puts["k"])
				require.NoError(t, err)
				pushed := sent.TxnMeta
				pushed.WriteTimestamp = sent.WriteTimestamp.Add(time.Second)
				_, err = b.Send(t.Context(), &kv.BatchRequest{Requests: []kv.Request{
					&kv.ResolveIntentRequest{Span: keys.Span{Key: keys.Key("k")}, Txn: pushed, Status: kv.TxnPending}}})
				require.NoError(t, err)

				br, err := put()
				require.NoError(t, err)
				require.Equal(t, pushed.WriteTimestamp, br.Txn.WriteTimestamp)
				br, err = put(&kv.EndTxnRequest{Commit: true, AllReadsHere: true, LockSpans: w.spans()})
				require.NoError(t, err)
				require.False(t, br.Responses[1].(*kv.EndTxnResponse).CommitTimestamp.Less(pushed.WriteTimestamp))
			})
		})
	}
}

// A commit meant for one phase that has to lay intents resolves them, also those that the
// client does not name.
func TestNotOnePhaseResolvesWhatItWrote(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		w := b.begin(kv.Serializable)
		w.put("a", "1", kv.Condition{})
		_, err := w.send(w.puts["a"]) // an intent: not in one phase any more
		require.NoError(t, err)
		w.put("b", "1", kv.Condition{})
		br, err := w.send(w.puts["a"], w.puts["b"], &kv.EndTxnRequest{Commit: true, CanCommitInOnePhase: true, AllReadsHere: true})
		require.NoError(t, err)
		end := br.Responses[2].(*kv.EndTxnResponse)
		require.False(t, end.OnePhase)
		require.False(t, end.CommitTimestamp.IsEmpty())
		intents, _, err := mvcc.ScanIntents(b.engine, keys.Span{Key: keys.Key("a"), EndKey: keys.Key("z")}, 0)
		require.NoError(t, err)
		require.Empty(t, intents)
	})
}

// A coordinator whose parallel commit can't succeed at its timestamp gets its record back as
// PENDING; who read it as STAGING decides nothing any more, and it commits later.
func TestReopen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{}, "m")
		w := b.begin(kv.Serializable)
		w.put("a", "1", kv.Condition{})
		w.put("x", "1", kv.Condition{})
		staged := *w.txn
		staged.LastHeartbeat = b.clock.Now()
		end := &kv.EndTxnRequest{Commit: true, AllReadsHere: true, LockSpans: w.spans(),
			InFlight: []kv.InFlightWrite{{Key: keys.Key("a"), Seq: w.puts["a"].Seq}, {Key: keys.Key("x"), Seq: w.puts["x"].Seq}}}
		txn := staged
		br, err := b.Send(t.Context(), &kv.BatchRequest{Header: kv.Header{Txn: &txn}, Requests: []kv.Request{w.puts["a"], end}})
		require.NoError(t, err)
		require.True(t, br.Responses[1].(*kv.EndTxnResponse).Staging)
		recovery := func(all, reopen bool) *kv.Txn {
			m := staged.TxnMeta
			m.WriteTimestamp = br.Responses[1].(*kv.EndTxnResponse).CommitTimestamp
			got, err := b.Send(t.Context(), &kv.BatchRequest{Requests: []kv.Request{&kv.RecoverTxnRequest{Key: m.Key, Txn: m, AllWritten: all, Reopen: reopen}}})
			require.NoError(t, err)
			return &got.Responses[0].(*kv.RecoverTxnResponse).Txn
		}
		// x is made impossible at the staging timestamp, then the record is opened again.
		rec := &kv.Txn{TxnMeta: staged.TxnMeta}
		q, err := b.Send(t.Context(), &kv.BatchRequest{Requests: []kv.Request{&kv.QueryIntentRequest{Key: keys.Key("x"), Txn: rec.TxnMeta}}})
		require.NoError(t, err)
		require.False(t, q.Responses[0].(*kv.QueryIntentResponse).Found)
		require.Equal(t, kv.TxnPending, recovery(false, true).Status)
		require.Equal(t, kv.TxnPending, recovery(false, false).Status, "a recovery that began earlier decides nothing")
		require.Equal(t, kv.TxnPending, recovery(true, false).Status)

		_, err = w.send(w.puts["x"])
		require.NoError(t, err)
		require.True(t, staged.WriteTimestamp.Less(w.txn.WriteTimestamp))
		w.txn.ReadTimestamp = w.txn.WriteTimestamp // nothing was read
		br, err = w.send(&kv.EndTxnRequest{Commit: true, LockSpans: w.spans()})
		require.NoError(t, err)
		require.Equal(t, w.txn.WriteTimestamp, br.Responses[0].(*kv.EndTxnResponse).CommitTimestamp)
	})
}

// A transaction that has no record yet when the lease moves can make one afterwards, unless it
// is so old that somebody may have aborted it.
func TestLeaseMoveSparesYoungTransactions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{}, "m")
		old := b.begin(kv.Serializable)
		time.Sleep(4 * time.Second)
		young := b.begin(kv.Serializable)
		b.newTerm(0)
		for _, c := range []*client{old, young} {
			c.put("a"+string(c.txn.ID[0]), "1", kv.Condition{})
			c.put("x"+string(c.txn.ID[0]), "1", kv.Condition{})
		}
		require.NoError(t, young.commit2())
		require.ErrorAs(t, old.commit2(), new(*kv.AbortedError))
	})
}

// A locking read that finds a newer version reads it, and moves the transaction, if what was read
// before is as it was; otherwise the client decides.
func TestRefreshBeforeLockingRead(t *testing.T) {
	for _, c := range []struct {
		name     string
		between  string // written between the first read and the second
		at       string // the first read's key
		isolated bool   // the answer is WriteTooOldError
	}{
		{name: "unchanged", between: "b", at: "a"},
		{name: "changed", between: "a", at: "a", isolated: true},
		{name: "in another range", between: "b", at: "x", isolated: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBed(t, Limits{}, "m")
				for _, k := range []string{"a", "b", "x"} {
					b.putNow(k, "0")
				}
				w := b.begin(kv.Serializable)
				_, err := w.get(c.at, kv.LockNone)
				require.NoError(t, err)
				time.Sleep(time.Millisecond)
				b.putNow("b", "1")
				if c.between == "a" {
					b.putNow("a", "1")
				}
				time.Sleep(time.Millisecond)
				w.anchor("b")
				txn := *w.txn
				ba := &kv.BatchRequest{Header: kv.Header{Txn: &txn, RefreshSpans: []keys.Span{{Key: keys.Key(c.at)}}},
					Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("b"), Lock: kv.LockExclusive}}}
				br, err := b.Send(t.Context(), ba)
				if c.isolated {
					require.ErrorAs(t, err, new(*kv.WriteTooOldError))
					return
				}
				require.NoError(t, err)
				require.Equal(t, "1", string(br.Responses[0].(*kv.GetResponse).Value))
				require.True(t, w.txn.ReadTimestamp.Less(br.Txn.ReadTimestamp))
				// What was refreshed was read there: nobody writes below.
				other := b.begin(kv.Serializable)
				other.txn.ReadTimestamp, other.txn.WriteTimestamp = w.txn.ReadTimestamp, w.txn.ReadTimestamp
				other.put("a", "2", kv.Condition{})
				end, err := other.commit1()
				require.NoError(t, err)
				require.True(t, br.Txn.ReadTimestamp.Less(end.CommitTimestamp))
			})
		})
	}
}
