package txn

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

type state uint8

const (
	active state = iota
	committed
	rolledBack
	unknown // the commit's outcome could not be found
)

// Txn is one transaction. It is used by one goroutine at a time. Keys and values passed to
// it are kept, not copied: the caller must not change them afterwards.
type Txn struct {
	db    *DB
	opts  Options
	txn   kv.Txn                 // what is sent; copied before each send if it changed
	snap  atomic.Pointer[kv.Txn] // the newest copy; heartbeats read it
	dirty bool                   // txn differs from snap
	begun hlc.Timestamp

	state state
	err   error // after which only Restart and Rollback help
	// commitTS is valid in state committed.
	commitTS hlc.Timestamp
	deadline hlc.Timestamp

	// Writes (S9). seq is the newest write's; a statement sees writes up to stepSeq.
	buf      writeBuffer
	seq      int32
	stepping bool
	stepSeq  int32
	// flushedSeq is the highest sequence number that was sent as an intent (0: none).
	flushedSeq int32
	// everFlushed: intents of this ID may exist, in any epoch.
	everFlushed bool

	// Reads: those that must be as they were when ReadTimestamp moves.
	reads spanSet
	// coveredFrom is the earliest timestamp from which a refresh left out keys that the
	// conditions of buffered writes cover; zero if none did.
	coveredFrom hlc.Timestamp

	// locks are the spans in which locks or intents may be.
	locks spanSet
	// explicit makes the next commit go the slow way: a parallel one failed before.
	explicit bool

	// Heartbeats; guarded by db.hb.mu.
	hbListed, hbRunning bool
	recordMayExist      bool
	hbDue               time.Time
	hbPrev, hbNext      *Txn
	// abortedID is the ID under which a heartbeat learned that the transaction is aborted.
	abortedID atomic.Pointer[kv.TxnID]
}

// ID returns the transaction's ID. It changes when Restart follows an abort.
func (t *Txn) ID() kv.TxnID { return t.txn.ID }

// Isolation returns the isolation level.
func (t *Txn) Isolation() kv.Isolation { return t.txn.Isolation }

// ReadTimestamp returns the timestamp of reads from here on.
func (t *Txn) ReadTimestamp() hlc.Timestamp { return t.txn.ReadTimestamp }

// CommitTimestamp returns when the transaction committed; zero before.
func (t *Txn) CommitTimestamp() hlc.Timestamp { return t.commitTS }

// Active reports whether the transaction is neither committed nor rolled back.
func (t *Txn) Active() bool { return t.state == active }

// HasWrites reports whether anything was written that a commit would make visible.
func (t *Txn) HasWrites() bool { return !t.buf.empty() || t.flushedSeq > 0 }

// Err returns the error after which only Restart (or RestartStatement) and Rollback help.
func (t *Txn) Err() error { return t.err }

// SetDeadline sets that the commit timestamp must be below ts (S27). The earliest of
// several deadlines holds.
func (t *Txn) SetDeadline(ts hlc.Timestamp) {
	if t.deadline.IsEmpty() || ts.Less(t.deadline) {
		t.deadline = ts
	}
}

// Step begins a statement: it sees all writes so far and none of its own. Before the first
// Step, reads see every write at once. In READ COMMITTED, the statement reads as of now.
func (t *Txn) Step() {
	t.stepping = true
	t.stepSeq = t.seq
	if t.txn.Isolation == kv.ReadCommitted && t.opts.ReadTimestamp.IsEmpty() {
		t.readNow()
	}
}

// readNow moves the read timestamp of READ COMMITTED to the present.
func (t *Txn) readNow() {
	now := t.db.clock.Now()
	t.txn.ReadTimestamp = now
	t.txn.WriteTimestamp.Forward(now)
	t.txn.UncertaintyLimit = now.Add(t.db.clock.MaxOffset())
	t.reads.reset()
	t.coveredFrom = hlc.Timestamp{}
	t.changed()
}

// visibleSeq is the newest own write that a read sees.
func (t *Txn) visibleSeq() int32 {
	if t.stepping {
		return t.stepSeq
	}
	return t.seq
}

// Overlaps reports whether buffered writes that a read would see lie in the span. Then no
// filter may be pushed down: the leaseholder does not know them.
func (t *Txn) Overlaps(span keys.Span) bool { return t.buf.overlaps(span, t.visibleSeq()) }

// changed says that t.txn must be copied before it is sent again.
func (t *Txn) changed() { t.dirty = true }

// proto returns an immutable copy of the transaction to send, with the given sequence
// number. Receivers may keep it.
func (t *Txn) proto(seq int32) *kv.Txn {
	if p := t.snap.Load(); p != nil && !t.dirty && p.Seq == seq {
		return p
	}
	t.txn.Seq, t.dirty = seq, false
	c := t.txn
	t.snap.Store(&c)
	return &c
}

// check refuses work on a transaction that is over or broken.
func (t *Txn) check() error {
	if t.state != active {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("transaction %x is over", t.txn.ID[:4])}
	}
	if t.err == nil {
		if id := t.abortedID.Load(); id != nil && *id == t.txn.ID {
			t.err = &kv.AbortedError{Reason: "somebody aborted the transaction"}
		}
	}
	return t.err
}

// lockAt notes that locks or intents may come to be in span. The first one fixes the
// anchor, where pushers look for the record.
func (t *Txn) lockAt(ctx context.Context, span keys.Span) error {
	t.locks.add(span, maxLockBytes, maxLockSpans)
	if len(t.txn.Key) > 0 {
		return nil
	}
	t.txn.Key = span.Key
	t.changed()
	return t.ensureRecord(ctx)
}

// ensureRecord creates the record of a transaction that is older than a heartbeat's
// interval: without one, whoever meets its first lock would take it for expired.
func (t *Txn) ensureRecord(ctx context.Context) error {
	t.proto(t.visibleSeq())
	age := time.Duration(t.db.clock.Now().WallNanos - t.txn.MinTimestamp.WallNanos)
	if age >= heartbeatEvery && !t.db.hb.sent(t) {
		t.db.hb.mu.Lock()
		t.recordMayExist = true
		t.db.hb.mu.Unlock()
		if _, err := t.db.heartbeat(ctx, t.proto(t.visibleSeq())); err != nil {
			return t.fail(ctx, err)
		}
	}
	t.db.hb.add(t)
	return nil
}

// fail turns an error of a batch that can't have committed into what the caller sees, and
// remembers those that break the transaction.
func (t *Txn) fail(ctx context.Context, err error) error {
	switch e := err.(type) {
	case *kv.WriteTooOldError:
		err = &kv.RetryError{Reason: kv.RetryWriteTooOld, Detail: e.Error()}
	case *kv.UncertaintyError:
		err = &kv.RetryError{Reason: kv.RetryUncertainty, Detail: e.Error()}
	case *kv.AmbiguousError:
		// The writes are intents at most, which the rollback takes back: that they may be
		// there is no ambiguity for the client.
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &kv.UnavailableError{Detail: e.Detail}
	}
	if IsRetryable(err) {
		t.err = err
	}
	return err
}

// Savepoint is a point to roll back to.
type Savepoint struct {
	seq   int32
	epoch int32
	id    kv.TxnID
}

// Savepoint returns the current point.
func (t *Txn) Savepoint() Savepoint {
	return Savepoint{seq: t.seq, epoch: t.txn.Epoch, id: t.txn.ID}
}

// RollbackTo takes back all writes after the savepoint. Locks stay. It does not heal a
// transaction that must be restarted.
func (t *Txn) RollbackTo(ctx context.Context, sp Savepoint) error {
	if err := t.check(); err != nil {
		return err
	}
	if sp.id != t.txn.ID || sp.epoch != t.txn.Epoch {
		return &kv.InvalidRequestError{Detail: "the savepoint is from before the transaction was restarted"}
	}
	return t.rollbackTo(ctx, sp.seq)
}

func (t *Txn) rollbackTo(ctx context.Context, seq int32) error {
	if seq >= t.seq {
		return nil
	}
	var uncovered []keys.Span
	t.buf.rollback(seq, func(b *bufferedKey) {
		if b.cond.Check && !t.coveredFrom.IsEmpty() {
			uncovered = append(uncovered, keys.Span{Key: b.key})
		}
	})
	if t.flushedSeq > seq {
		t.ignore(kv.SeqRange{Start: seq + 1, End: t.seq})
	}
	t.stepSeq = min(t.stepSeq, seq)
	// New writes get new numbers: the old ones stay ignored.
	if len(uncovered) > 0 && t.txn.Isolation == kv.Serializable {
		return t.sendRefresh(ctx, uncovered, t.coveredFrom, t.txn.ReadTimestamp)
	}
	return nil
}

// ignore adds a range of sequence numbers, joined with those it touches.
func (t *Txn) ignore(r kv.SeqRange) {
	kept := make([]kv.SeqRange, 0, len(t.txn.IgnoredSeqs)+1)
	for _, o := range t.txn.IgnoredSeqs {
		if o.End+1 < r.Start {
			kept = append(kept, o)
			continue
		}
		r.Start, r.End = min(r.Start, o.Start), max(r.End, o.End)
	}
	t.txn.IgnoredSeqs = append(kept, r)
	t.changed()
}

// CanRetryStatement reports whether RestartStatement can heal the error that the current
// statement failed with.
func (t *Txn) CanRetryStatement() bool {
	if t.state != active || t.txn.Isolation != kv.ReadCommitted {
		return false
	}
	_, retry := t.err.(*kv.RetryError)
	return retry
}

// RestartStatement takes back the writes of the current statement (since Step) and moves
// the read timestamp to the present, for the statement to run again. READ COMMITTED only.
func (t *Txn) RestartStatement(ctx context.Context) error {
	if !t.CanRetryStatement() {
		if t.err != nil {
			return t.err
		}
		return &kv.InvalidRequestError{Detail: "only a statement in READ COMMITTED that met a conflict can be restarted"}
	}
	t.err = nil
	if err := t.check(); err != nil {
		return err
	}
	t.db.met.restarts.Inc()
	if err := t.rollbackTo(ctx, t.stepSeq); err != nil {
		return err
	}
	t.readNow()
	return nil
}

// Restart begins the transaction anew after a retryable error: nothing of what it read or
// wrote remains. Its locks do, unless it was aborted.
func (t *Txn) Restart() {
	t.db.met.restarts.Inc()
	_, retry := t.err.(*kv.RetryError)
	if t.state != active || (!retry && t.err != nil) || t.abortedID.Load() != nil {
		// Aborted, or the victim of a deadlock: others wait for its locks.
		t.release(nil)
		t.newIncarnation()
	} else {
		t.txn.Epoch++
	}
	if e, ok := t.err.(*kv.RetryError); ok && e.Reason == kv.RetryCommitDeadline {
		t.deadline = hlc.Timestamp{} // leases are taken anew
	}
	t.state, t.err, t.commitTS = active, nil, hlc.Timestamp{}
	t.buf.reset()
	t.reads.reset()
	t.coveredFrom = hlc.Timestamp{}
	t.seq, t.stepSeq, t.stepping, t.flushedSeq = 0, 0, false, 0
	t.txn.IgnoredSeqs = nil
	if t.opts.ReadTimestamp.IsEmpty() {
		now := t.db.clock.Now()
		t.txn.WriteTimestamp.Forward(now)
		t.txn.ReadTimestamp = t.txn.WriteTimestamp
		if t.txn.Isolation == kv.ReadCommitted {
			t.txn.UncertaintyLimit = now.Add(t.db.clock.MaxOffset())
		}
	}
	t.changed()
	if t.txn.Key != nil {
		t.proto(0) // heartbeats go on with the new epoch
	}
}

// newIncarnation gives the transaction a new ID and no locks.
func (t *Txn) newIncarnation() {
	t.db.hb.remove(t)
	t.db.hb.mu.Lock()
	t.recordMayExist = false
	t.db.hb.mu.Unlock()
	now := t.db.clock.Now()
	t.txn.ID = newID()
	t.txn.Key, t.txn.Epoch = nil, 0
	t.txn.Status = kv.TxnPending
	t.txn.MinTimestamp = now
	t.txn.WriteTimestamp.Forward(now)
	if t.txn.UncertaintyLimit = now.Add(t.db.clock.MaxOffset()); t.opts.Deferrable {
		t.txn.WriteTimestamp.Forward(t.txn.UncertaintyLimit)
	}
	t.locks = spanSet{}
	t.everFlushed = false
	t.abortedID.Store(nil)
}

// Rollback takes everything back. Locks and intents are released in the background. It is
// harmless after the end of the transaction.
func (t *Txn) Rollback(context.Context) error {
	if t.state != active {
		return nil
	}
	t.state = rolledBack
	t.db.met.rollbacks.Inc()
	t.buf.reset()
	t.release(nil)
	return nil
}

// release aborts the record and releases all locks and intents in the background. then, if
// not nil, runs after it.
func (t *Txn) release(then func()) {
	t.db.hb.remove(t)
	if t.locks.empty() || len(t.txn.Key) == 0 {
		return
	}
	p := *t.proto(t.seq)
	spans := append([]keys.Span(nil), t.locks.list...)
	record := t.everFlushed || t.db.hb.sent(t)
	t.db.background(func(ctx context.Context) {
		t.db.abort(ctx, &p, spans, record)
		if then != nil {
			then()
		}
	})
}

// abort ends a transaction's record, if there may be one, and resolves spans.
func (db *DB) abort(ctx context.Context, p *kv.Txn, spans []keys.Span, record bool) {
	if record {
		_, err := db.sender.Send(ctx, &kv.BatchRequest{
			Header:   kv.Header{Txn: p},
			Requests: []kv.Request{&kv.EndTxnRequest{Commit: false, LockSpans: spans}},
		})
		if err != nil {
			// Its fate is not known to be sealed: who meets its intents decides.
			db.met.droppedCleanups.Inc()
		}
		return // the record's range resolves the spans, elsewhere too
	}
	db.resolve(ctx, p, kv.TxnAborted, spans)
}

// resolve releases the locks of a transaction that left no intents. It is idempotent (S13).
func (db *DB) resolve(ctx context.Context, p *kv.Txn, status kv.TxnStatus, spans []keys.Span) {
	const most = 256 // requests in one batch
	for len(spans) > 0 {
		n := min(len(spans), most)
		reqs := make([]kv.Request, n)
		for i := range n {
			reqs[i] = &kv.ResolveIntentRequest{Span: spans[i], Txn: p.TxnMeta, Status: status, IgnoredSeqs: p.IgnoredSeqs}
		}
		if _, err := db.sender.Send(ctx, &kv.BatchRequest{Requests: reqs}); err != nil {
			db.met.droppedCleanups.Inc()
			return
		}
		spans = spans[n:]
	}
}
