package txn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// Commit makes the transaction's writes visible, durable and final, all or none. After a
// retryable error the caller calls Restart or Rollback; after an AmbiguousError the
// transaction is over and nobody could say how; after any other error the caller calls
// Rollback. What comes before ends with ctx, at once; from when something was sent that may
// commit, ctx no longer ends it: half a commit helps nobody, and its outcome must be known (S12).
func (t *Txn) Commit(ctx context.Context) error {
	if err := t.check(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !t.HasWrites() {
		return t.commitReadOnly()
	}
	prepare, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	ts, err := t.commitWrites(prepare)
	if err != nil {
		if _, ambiguous := err.(*kv.AmbiguousError); ambiguous {
			t.db.met.ambiguous.Inc()
			t.state = unknown
			t.db.hb.remove(t)
		} else if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = &kv.UnavailableError{Waited: commitTimeout, Detail: "the commit was not sent in time"}
		}
		return err
	}
	return t.finish(ts)
}

// sealed returns the context of a batch that may commit. REQUIRES: S12; nothing but the time
// limit ends it, and an end by that leaves doubt only if the range does not answer either.
func sealed(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}

// sendSealed sends a batch that may commit, unless ctx has ended before.
func (t *Txn) sendSealed(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := sealed(ctx, commitTimeout)
	defer cancel()
	// A lock in the way is an answer; the end of the context would be doubt.
	ba.LockTimeout = commitLockTimeout
	return t.send(ctx, ba)
}

// commitReadOnly ends a transaction that wrote nothing: what it read was true at its read
// timestamp, wherever its write timestamp was pushed.
func (t *Txn) commitReadOnly() error {
	t.db.met.readOnly.Inc()
	ts := t.txn.ReadTimestamp
	t.state = committed
	t.release(nil)
	if t.opts.ReadTimestamp.IsEmpty() {
		return t.finish(ts)
	}
	t.commitTS = ts
	return nil
}

// finish waits out a commit timestamp that is ahead of the clock (S1), so that who begins
// after the answer, on any node, has a later timestamp.
func (t *Txn) finish(ts hlc.Timestamp) error {
	t.state, t.commitTS = committed, ts
	t.db.hb.remove(t)
	if now := t.db.clock.Now(); ts.LessEq(now) {
		return nil
	}
	t.db.met.commitWaits.Inc()
	start := time.Now()
	for !ts.LessEq(t.db.clock.Now()) {
		if time.Since(start) > commitTimeout {
			return &kv.AmbiguousError{Detail: fmt.Sprintf("committed at %s, which this node's clock does not reach; check the clocks", ts)}
		}
		// The clock may also be forwarded by a message: look again soon.
		ahead := time.Duration(ts.WallNanos - t.db.clock.PhysicalNow().UnixNano())
		time.Sleep(min(max(ahead, time.Microsecond), 5*time.Millisecond))
	}
	return nil
}

// commitWrites chooses the way and returns the commit timestamp.
func (t *Txn) commitWrites(ctx context.Context) (hlc.Timestamp, error) {
	for try := 0; try < maxMoves; try++ {
		if err := t.prepareTimestamp(ctx); err != nil {
			return hlc.Timestamp{}, err
		}
		plan, err := t.plan(ctx)
		if err != nil {
			return hlc.Timestamp{}, t.fail(ctx, err)
		}
		var ts hlc.Timestamp
		switch {
		case plan.onePhase:
			ts, err = t.commitOnePhase(ctx, plan)
		case plan.parallel:
			return t.commitParallel(ctx, plan)
		default:
			return t.commitExplicit(ctx, plan.reqs)
		}
		switch e := err.(type) {
		case nil:
			t.db.met.onePhase.Inc()
			return ts, nil
		case *kv.AmbiguousError:
			return ts, err
		case *kv.OnePhaseError:
			if try > 3 {
				t.explicit = true
			}
		case *kv.RetryError:
			if e.Reason != kv.RetrySerializable || plan.allReadsHere {
				return ts, t.fail(ctx, err)
			}
			t.explicit = true // intents first, to learn the timestamp
		case *kv.WriteTooOldError:
			if t.txn.Isolation == kv.ReadCommitted {
				t.forwardWrite(e.Actual.Next())
			} else if err := t.move(ctx, err, try); err != nil {
				return ts, err
			}
		default:
			if err := t.move(ctx, err, try); err != nil {
				return ts, err
			}
		}
	}
	return hlc.Timestamp{}, t.fail(ctx, &kv.RetryError{Reason: kv.RetryWriteTooOld, Detail: "the commit timestamp moved too often"})
}

// prepareTimestamp brings the read timestamp up to the write timestamp where the level
// asks for it, and moves both to the present where that costs nothing: the later a write
// lands, the fewer reads are above it. Intents that lie there already would each have to be
// written again when they are resolved.
func (t *Txn) prepareTimestamp(ctx context.Context) error {
	free := t.txn.Isolation != kv.Serializable
	if !free {
		spans, _ := t.uncovered(nil)
		free = len(spans) == 0
	}
	if free && !t.everFlushed {
		if now := t.db.clock.Now(); t.deadline.IsEmpty() || now.Less(t.deadline) {
			if t.txn.Isolation == kv.Serializable {
				if err := t.moveTo(ctx, now.Max(t.txn.WriteTimestamp)); err != nil {
					return err
				}
			} else {
				t.forwardWrite(now)
			}
		}
	}
	if !t.deadline.IsEmpty() && !t.txn.WriteTimestamp.Less(t.deadline) {
		return t.fail(ctx, &kv.RetryError{Reason: kv.RetryCommitDeadline, Detail: fmt.Sprintf(
			"the commit timestamp %s is not below the deadline %s", t.txn.WriteTimestamp, t.deadline)})
	}
	return nil
}

// commitPlan is how a commit is sent.
type commitPlan struct {
	reqs         []kv.Request // the writes, in key order
	bytes        int
	bounds       keys.Span // of the range that holds the record
	onePhase     bool
	parallel     bool
	allReadsHere bool
	readSpans    []keys.Span
}

func (t *Txn) plan(ctx context.Context) (*commitPlan, error) {
	p := &commitPlan{}
	p.reqs, p.bytes = t.puts(false)
	if t.explicit || len(p.reqs) == 0 {
		return p, nil
	}
	small := p.bytes <= PieceLimit
	first := p.reqs[0].(*kv.PutRequest).Key
	// The anchor stays where the first lock put it: waiters queue there, and deadlocks are
	// found there.
	anchor := t.txn.Key
	if len(anchor) == 0 {
		anchor = first
	}
	var err error
	if p.bounds, err = t.db.boundsOf(ctx, anchor); err != nil {
		return nil, err
	}
	last := p.reqs[len(p.reqs)-1].(*kv.PutRequest).Key
	oneRange := within(p.bounds, keys.Span{Key: first}) && within(p.bounds, keys.Span{Key: last})
	if small && !t.everFlushed && oneRange {
		p.onePhase = true
		p.readSpans, p.allReadsHere = t.readsIn(p.bounds)
		if t.txn.Isolation == kv.Serializable && !p.allReadsHere && t.txn.ReadTimestamp.Less(t.txn.WriteTimestamp) {
			if err := t.moveTo(ctx, t.txn.WriteTimestamp); err != nil {
				return nil, err
			}
		}
		return p, nil
	}
	p.parallel = small && len(p.reqs) <= MaxInFlight
	return p, nil
}

// readsIn returns the read spans that a move of the commit timestamp would have to
// refresh, and whether all of them lie in bounds.
func (t *Txn) readsIn(bounds keys.Span) ([]keys.Span, bool) {
	if t.txn.Isolation != kv.Serializable {
		return nil, true
	}
	spans, _ := t.uncovered(nil)
	if len(spans) > MaxInFlight {
		return nil, false
	}
	for _, s := range spans {
		if !within(bounds, s) {
			return nil, false
		}
	}
	return spans, true
}

// commitOnePhase sends one batch that commits without intents. No error but an
// AmbiguousError leaves doubt: nothing was done.
func (t *Txn) commitOnePhase(ctx context.Context, plan *commitPlan) (hlc.Timestamp, error) {
	p := t.proto(t.seq)
	fresh := len(p.Key) == 0 // nothing was ever sent that has an anchor
	if fresh {
		c := *p
		c.Key = plan.reqs[0].(*kv.PutRequest).Key
		p = &c
	}
	end := &kv.EndTxnRequest{
		Commit: true, CanCommitInOnePhase: true, AllReadsHere: plan.allReadsHere, NoRecord: fresh, ReadSpans: plan.readSpans,
		LockSpans: t.locksAnd(plan.reqs), Deadline: t.deadline,
	}
	br, err := t.sendSealed(ctx, &kv.BatchRequest{Header: kv.Header{Txn: p}, Requests: append(plan.reqs, end)})
	if err != nil {
		return hlc.Timestamp{}, err
	}
	resp, ok := br.Responses[len(br.Responses)-1].(*kv.EndTxnResponse)
	if !ok || resp.CommitTimestamp.IsEmpty() {
		return hlc.Timestamp{}, &kv.AmbiguousError{Detail: fmt.Sprintf("a commit was answered with %#v", br.Responses[len(br.Responses)-1])}
	}
	return resp.CommitTimestamp, nil
}

// locksAnd returns the lock spans and the keys that are written: the range may do without
// one phase and lay intents, which EndTxn must then resolve.
func (t *Txn) locksAnd(writes []kv.Request) []keys.Span {
	locks := t.locks.list
	out := append(make([]keys.Span, 0, len(locks)+len(writes)), locks...)
next:
	for _, req := range writes {
		key := req.(*kv.PutRequest).Key
		if len(locks) <= linearLookup {
			for _, s := range locks {
				if s.Contains(key) {
					continue next
				}
			}
		}
		out = append(out, keys.Span{Key: key})
	}
	return out
}

// makeExplicit turns an implicitly committed STAGING record into a COMMITTED one, in the
// background. Its range, like after every EndTxn, resolves the intents elsewhere and removes
// the record after that (S11, S13). If this fails, who meets an intent recovers.
func (t *Txn) makeExplicit(p *kv.Txn, ts hlc.Timestamp) {
	c := *p
	c.WriteTimestamp = ts
	c.ReadTimestamp.Forward(ts)
	spans := append([]keys.Span(nil), t.locks.list...)
	t.db.background(func(ctx context.Context) {
		if _, err := t.db.sender.Send(ctx, &kv.BatchRequest{
			Header:   kv.Header{Txn: &c},
			Requests: []kv.Request{&kv.EndTxnRequest{Commit: true, LockSpans: spans}},
		}); err != nil {
			t.db.met.droppedCleanups.Inc()
		}
	})
}

// commitExplicit writes intents first and the record when all of them are there.
func (t *Txn) commitExplicit(ctx context.Context, reqs []kv.Request) (hlc.Timestamp, error) {
	if err := t.sendIntents(ctx, reqs); err != nil {
		return hlc.Timestamp{}, err
	}
	for try := 0; ; try++ {
		if t.txn.Isolation == kv.Serializable {
			// The conditions have been checked and the intents guard their keys: what they
			// cover needs no refresh here either.
			if err := t.moveTo(ctx, t.txn.WriteTimestamp); err != nil {
				return hlc.Timestamp{}, err
			}
		}
		if !t.deadline.IsEmpty() && !t.txn.WriteTimestamp.Less(t.deadline) {
			return hlc.Timestamp{}, t.fail(ctx, &kv.RetryError{Reason: kv.RetryCommitDeadline, Detail: fmt.Sprintf(
				"the commit timestamp %s is not below the deadline %s", t.txn.WriteTimestamp, t.deadline)})
		}
		p := *t.proto(t.seq)
		p.LastHeartbeat = t.db.clock.Now()
		br, err := t.sendSealed(ctx, &kv.BatchRequest{
			Header:   kv.Header{Txn: &p},
			Requests: []kv.Request{&kv.EndTxnRequest{Commit: true, LockSpans: t.locks.list, Deadline: t.deadline}},
		})
		if err == nil {
			resp, ok := br.Responses[0].(*kv.EndTxnResponse)
			if !ok || resp.CommitTimestamp.IsEmpty() {
				return hlc.Timestamp{}, &kv.AmbiguousError{Detail: fmt.Sprintf("a commit was answered with %#v", br.Responses[0])}
			}
			t.db.met.explicit.Inc()
			return resp.CommitTimestamp, nil
		}
		if _, ambiguous := err.(*kv.AmbiguousError); ambiguous {
			return t.settleExplicit(ctx, &p, err)
		}
		old, tooOld := err.(*kv.WriteTooOldError)
		retry, isRetry := err.(*kv.RetryError)
		if try >= 10 || !(tooOld || (isRetry && retry.Reason == kv.RetrySerializable)) {
			return hlc.Timestamp{}, t.fail(ctx, err)
		}
		if tooOld {
			t.forwardWrite(old.Actual.Next())
			continue
		}
		// The record was pushed: learn how far, and refresh up to there.
		now, err := t.db.heartbeat(ctx, &p)
		if err != nil {
			return hlc.Timestamp{}, t.fail(ctx, err)
		}
		t.learn(now)
	}
}

// settleExplicit looks at the record after an explicit commit of unknown outcome.
func (t *Txn) settleExplicit(ctx context.Context, p *kv.Txn, cause error) (hlc.Timestamp, error) {
	ctx, cancel := sealed(ctx, settleTimeout)
	defer cancel()
	switch rec, err := t.db.record(ctx, p); {
	case err != nil || rec == nil:
		return hlc.Timestamp{}, cause
	case rec.Status == kv.TxnCommitted:
		return rec.WriteTimestamp, nil
	case rec.Status == kv.TxnAborted:
		return hlc.Timestamp{}, t.fail(ctx, &kv.AbortedError{Reason: "somebody aborted the transaction"})
	}
	return hlc.Timestamp{}, cause
}

// record reads the transaction's record; nil if there is none.
func (db *DB) record(ctx context.Context, p *kv.Txn) (*kv.Txn, error) {
	br, err := db.sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{&kv.QueryTxnRequest{Key: p.Key, ID: p.ID}}})
	if err != nil {
		return nil, err
	}
	resp, ok := br.Responses[0].(*kv.QueryTxnResponse)
	if !ok {
		return nil, wrongAnswer(&kv.QueryTxnRequest{}, br.Responses[0])
	}
	return resp.Txn, nil
}

// commitParallel sends the writes and the STAGING record at the same time (S11).
func (t *Txn) commitParallel(ctx context.Context, plan *commitPlan) (hlc.Timestamp, error) {
	if len(t.txn.Key) == 0 {
		t.txn.Key = plan.reqs[0].(*kv.PutRequest).Key
		t.changed()
		if err := t.ensureRecord(ctx); err != nil {
			return hlc.Timestamp{}, err
		}
	}
	if t.txn.Isolation == kv.Serializable {
		if err := t.moveTo(ctx, t.txn.WriteTimestamp); err != nil {
			return hlc.Timestamp{}, err
		}
	}
	readSpans, allReadsHere := t.readsIn(plan.bounds)
	inFlight := make([]kv.InFlightWrite, len(plan.reqs))
	var here, elsewhere []kv.Request
	for i, req := range plan.reqs {
		put := req.(*kv.PutRequest)
		inFlight[i] = kv.InFlightWrite{Key: put.Key, Seq: put.Seq, Epoch: t.txn.Epoch}
		t.locks.add(keys.Span{Key: put.Key}, maxLockBytes, maxLockSpans)
		t.flushedSeq, t.everFlushed = max(t.flushedSeq, put.Seq), true
		if within(plan.bounds, keys.Span{Key: put.Key}) {
			here = append(here, req)
		} else {
			elsewhere = append(elsewhere, req)
		}
	}
	t.explicit = true // whatever comes of this try, the next one goes the slow way
	p := *t.proto(t.seq)
	p.LastHeartbeat = t.db.clock.Now()
	end := &kv.EndTxnRequest{
		Commit: true, AllReadsHere: allReadsHere, ReadSpans: readSpans,
		InFlight: inFlight, LockSpans: t.locks.list, Deadline: t.deadline,
	}
	if err := ctx.Err(); err != nil {
		return hlc.Timestamp{}, err
	}
	send, cancel := sealed(ctx, commitTimeout)
	defer cancel()
	header := kv.Header{Txn: &p, LockTimeout: commitLockTimeout}
	var (
		wg       sync.WaitGroup
		otherRes *kv.BatchResponse
		otherErr error
	)
	if len(elsewhere) > 0 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			otherRes, otherErr = t.db.sender.Send(send, &kv.BatchRequest{Header: header, Requests: elsewhere})
		}()
	}
	res, err := t.db.sender.Send(send, &kv.BatchRequest{Header: header, Requests: append(here, end)})
	wg.Wait()
	err, otherErr = t.unpack(err), t.unpack(otherErr)
	for _, br := range []*kv.BatchResponse{res, otherRes} {
		if br != nil {
			t.learn(br.Txn)
		}
	}
	if err == nil && otherErr == nil {
		if ts, ok := staged(res, otherRes); ok {
			t.db.met.parallel.Inc()
			if res.Responses[len(res.Responses)-1].(*kv.EndTxnResponse).Staging {
				t.makeExplicit(&p, ts)
			}
			return ts, nil
		}
	}
	return t.recover(ctx, &p, plan.reqs, inFlight, err, otherErr)
}

// staged reports whether all writes lie at or below the staging timestamp, which makes
// the transaction committed there.
func staged(res, other *kv.BatchResponse) (hlc.Timestamp, bool) {
	end, ok := res.Responses[len(res.Responses)-1].(*kv.EndTxnResponse)
	if !ok || end.CommitTimestamp.IsEmpty() {
		return hlc.Timestamp{}, false
	}
	for _, br := range []*kv.BatchResponse{res, other} {
		if br != nil && br.Txn != nil && end.CommitTimestamp.Less(br.Txn.WriteTimestamp) {
			return hlc.Timestamp{}, false
		}
	}
	return end.CommitTimestamp, true
}

// recover finds the outcome of a parallel commit that did not go through. From when the
// STAGING record may have been sent, anybody may decide; the coordinator asks like
// everybody else, and neither refreshes nor writes before that is decided (S11). Where nothing
// failed but the timestamp (in READ COMMITTED, whatever failed), it asks for the record to be
// PENDING again rather than ABORTED, and goes on the slow way. It never stages again: who read
// the record while it was STAGING finds that it is not any more, and decides nothing.
func (t *Txn) recover(ctx context.Context, p *kv.Txn, reqs []kv.Request, inFlight []kv.InFlightWrite, endErr, otherErr error) (hlc.Timestamp, error) {
	t.db.met.recoveries.Inc()
	_, endUnknown := endErr.(*kv.AmbiguousError)
	_, otherUnknown := otherErr.(*kv.AmbiguousError)
	// Without any error a write seems to have landed too high; only the record can tell.
	inDoubt := endUnknown || otherUnknown || (endErr == nil && otherErr == nil)
	unknownErr := &kv.AmbiguousError{Detail: "the outcome of a parallel commit was not found in time"}
	for _, e := range []error{endErr, otherErr} {
		if e != nil {
			unknownErr.Detail += ": " + e.Error()
			break
		}
	}
	onlyTime := movable(endErr) && movable(otherErr)
	goOn := !endUnknown && !otherUnknown && (onlyTime || p.Isolation == kv.ReadCommitted)
	settle, cancel := sealed(ctx, settleTimeout)
	defer cancel()
	rec, err := t.db.record(settle, p)
	if err == nil && rec != nil && rec.Status == kv.TxnStaging && rec.Epoch == p.Epoch {
		rec, err = t.db.recoverStaging(settle, p, rec, inFlight, goOn)
	}
	switch {
	case err == nil && goOn && (rec == nil && endErr != nil || rec != nil && rec.Status == kv.TxnPending):
		// Nothing is staged, nor ever will be.
		if !onlyTime {
			return hlc.Timestamp{}, t.fail(ctx, worstOf(endErr, otherErr))
		}
		for _, e := range []error{endErr, otherErr} {
			if old, ok := e.(*kv.WriteTooOldError); ok {
				t.forwardWrite(old.Actual.Next())
			}
		}
		return t.commitExplicit(ctx, reqs)
	case err == nil && rec != nil && rec.Status == kv.TxnCommitted:
		t.makeExplicit(p, rec.WriteTimestamp) // the record knows the intents; this has them resolved now
		return rec.WriteTimestamp, nil
	case err == nil && rec != nil && rec.Status == kv.TxnAborted:
		// Decided.
	case inDoubt:
		return hlc.Timestamp{}, unknownErr
	}
	// A write failed for good, or landed above the staging timestamp: nobody can find this
	// epoch committed.
	return hlc.Timestamp{}, t.parallelFailed(ctx, endErr, otherErr)
}

// movable reports whether err (or none) asks for nothing but a later timestamp.
func movable(err error) bool {
	switch e := err.(type) {
	case nil, *kv.WriteTooOldError:
		return true
	case *kv.RetryError:
		return e.Reason == kv.RetrySerializable
	}
	return false
}

// parallelFailed makes the caller's error of a parallel commit that is known to have
// failed. The transaction's ID is not used again.
func (t *Txn) parallelFailed(ctx context.Context, errs ...error) error {
	worst := worstOf(errs...)
	switch worst.(type) {
	case nil:
		worst = &kv.RetryError{Reason: kv.RetrySerializable, Detail: "a read moved a write above the commit timestamp"}
	case *kv.WriteTooOldError, *kv.UncertaintyError, *kv.RetryError:
	default:
		return t.fail(ctx, worst)
	}
	err := t.fail(ctx, worst)
	id := t.txn.ID
	t.abortedID.Store(&id) // Restart takes a new ID
	return err
}

// worstOf returns what the caller gets of several errors that leave no doubt: one that no retry
// heals, or one that does; nil if there is none.
func worstOf(errs ...error) (worst error) {
	for _, err := range errs {
		switch err.(type) {
		case nil, *kv.AmbiguousError:
		case *kv.WriteTooOldError, *kv.UncertaintyError, *kv.RetryError:
			if worst == nil || movable(worst) {
				worst = err
			}
		default:
			return err
		}
	}
	return worst
}

// recoverStaging decides a STAGING transaction: every write that is not there is made
// impossible first (S11). If it is not committed, it is aborted, or made PENDING again.
func (db *DB) recoverStaging(ctx context.Context, p, rec *kv.Txn, inFlight []kv.InFlightWrite, reopen bool) (*kv.Txn, error) {
	meta := rec.TxnMeta
	reqs := make([]kv.Request, len(inFlight))
	for i, w := range inFlight {
		m := meta
		m.Seq, m.Epoch = w.Seq, w.Epoch
		reqs[i] = &kv.QueryIntentRequest{Key: w.Key, Txn: m}
	}
	br, err := db.sender.Send(ctx, &kv.BatchRequest{Requests: reqs})
	if err != nil {
		return nil, err
	}
	all := true
	for _, resp := range br.Responses {
		q, ok := resp.(*kv.QueryIntentResponse)
		if !ok {
			return nil, wrongAnswer(reqs[0], resp)
		}
		all = all && q.Found
	}
	br, err = db.sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{
		&kv.RecoverTxnRequest{Key: p.Key, Txn: rec.TxnMeta, AllWritten: all, Reopen: reopen},
	}})
	if err != nil {
		return nil, err
	}
	resp, ok := br.Responses[0].(*kv.RecoverTxnResponse)
	if !ok {
		return nil, wrongAnswer(&kv.RecoverTxnRequest{}, br.Responses[0])
	}
	return &resp.Txn, nil
}
