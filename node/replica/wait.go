package replica

import (
	"context"
	"errors"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/concurrency"
	"github.com/atolldb/atoll/node/replica/eval"
)

// metIntents puts the foreign intents that an evaluation met into the lock table, and
// returns the place to wait at. Those of transactions known to be over are resolved at once.
// REQUIRES: the latches of the evaluation are held.
func (x *execution) metIntents(res *eval.Result) (*concurrency.Waiter, error) {
	for i := range res.Intents {
		in := &res.Intents[i]
		x.t.locks.Discover(&in.Txn, in.Key)
	}
	in := &res.Intents[0]
	span := keys.Span{Key: in.Key}
	strength := kv.LockExclusive // a write, or a locking read
	if !x.shape.write && !x.shape.locks {
		strength = kv.LockNone
	}
	ts := in.Txn.WriteTimestamp.Max(x.readTimestamp()).Max(x.uncertaintyLimit())
	if x.ba.WaitPolicy == kv.WaitError {
		if b := x.t.locks.Conflict(x.req, span, strength, ts); b != nil {
			return x.mayFail(b, span, strength, ts)
		}
		return nil, nil
	}
	return x.t.locks.Enter(x.req, span, strength, ts)
}

// metLock queues for the lock of a row that a locking scan found.
func (x *execution) metLock(key keys.Key) (*concurrency.Waiter, error) {
	span := keys.Span{Key: key}
	strength := kv.LockShared
	for _, req := range x.ba.Requests {
		if s, ok := req.(*kv.ScanRequest); ok && s.Span.Contains(key) && s.Lock > strength {
			strength = s.Lock
		}
		if g, ok := req.(*kv.GetRequest); ok && g.Key.Equal(key) && g.Lock > strength {
			strength = g.Lock
		}
	}
	if x.ba.WaitPolicy == kv.WaitError {
		if b := x.t.locks.Conflict(x.req, span, strength, hlc.Timestamp{}); b != nil {
			return x.mayFail(b, span, strength, hlc.Timestamp{})
		}
		return nil, nil
	}
	return x.t.locks.Enter(x.req, span, strength, hlc.Timestamp{})
}

// staleLock is the age from which NOWAIT asks about a holder before it believes it.
const staleLock = time.Second

// mayFail is for NOWAIT: a conflict is an error, unless the holder may be over already. Then
// it waits, and wait asks about the holder once.
func (x *execution) mayFail(b *concurrency.Blocker, span keys.Span, s kv.LockStrength, ts hlc.Timestamp) (*concurrency.Waiter, error) {
	if x.attempts < 3 && len(b.Txn.Key) > 0 && (b.Intent || time.Since(b.Since) > staleLock) {
		return x.t.locks.Enter(x.req, span, s, ts)
	}
	return nil, &kv.LockConflictError{Key: b.Key, Holder: b.Txn.ID}
}

// wait waits at w, without latches, until it is worth trying again. Short waits cost nothing
// but the channel: only after PushDelay does it ask about who is in the way.
func (x *execution) wait(w *concurrency.Waiter) error {
	r := x.r
	x.waiting = true
	start := time.Now()
	r.metrics.lockWaits.Inc()
	pushCtx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	defer func() {
		x.t.locks.Leave(w)
		d := time.Since(start)
		x.waited += d
		r.metrics.lockWaitTime.Observe(d.Seconds())
	}()
	var timeout <-chan time.Time
	if x.ba.LockTimeout > 0 {
		t := time.NewTimer(x.ba.LockTimeout)
		defer t.Stop()
		timeout = t.C
	}
	pushTimer := time.NewTimer(x.pushDelay(w))
	defer pushTimer.Stop()
	pushes := pushGroup{x: x, w: w, ctx: pushCtx, done: make(chan pushed, 16), active: map[kv.TxnID]bool{}}
	for {
		select {
		case <-w.C:
			return nil
		case <-pushTimer.C:
			pushTimer.Reset(pushes.start())
		case p := <-pushes.done:
			delete(pushes.active, p.id)
			if p.err != nil {
				return p.err
			}
			if p.again {
				pushTimer.Reset(r.limits.PushDelay)
			}
		case <-timeout:
			return &kv.LockConflictError{Key: w.Key(), Holder: x.holder(w), Waited: time.Since(start)}
		case <-x.ctx.Done():
			return x.ctx.Err()
		case <-x.t.over:
			return r.lost()
		}
	}
}

func (x *execution) holder(w *concurrency.Waiter) kv.TxnID {
	if bs := x.t.locks.Blockers(w); len(bs) > 0 {
		return bs[0].Txn.ID
	}
	return kv.TxnID{}
}

// pushDelay is how long to wait before asking about the holders: not at all if one is known
// to be over, or an intent's transaction is old.
func (x *execution) pushDelay(w *concurrency.Waiter) time.Duration {
	if x.ba.WaitPolicy == kv.WaitError {
		return 0
	}
	for _, b := range x.t.locks.Blockers(w) {
		if _, over := x.t.locks.Finished(b.Txn.ID); over {
			return 0
		}
		if b.Intent && b.Txn.WriteTimestamp.Add(staleLock).Less(hlc.Timestamp{WallNanos: x.r.cfg.Clock.PhysicalNow().UnixNano()}) {
			return 0
		}
	}
	return x.r.limits.PushDelay
}

// pushed is how one push went.
type pushed struct {
	id    kv.TxnID
	err   error // the waiter's answer
	again bool  // ask again later
}

// pushGroup is the pushes of one waiter, one per transaction in its way.
type pushGroup struct {
	x      *execution
	w      *concurrency.Waiter
	ctx    context.Context
	done   chan pushed
	active map[kv.TxnID]bool
}

// start pushes the transactions that have been in the way for PushDelay, and returns when to
// look again.
func (g *pushGroup) start() time.Duration {
	delay := g.x.r.limits.PushDelay
	next := delay
	for _, b := range g.x.t.locks.Blockers(g.w) {
		if g.active[b.Txn.ID] || len(g.active) >= cap(g.done) {
			continue
		}
		// On a hot row the holder changes all the time: each gets its own delay.
		if age := time.Since(b.Since); !b.Intent && age < delay && g.x.ba.WaitPolicy != kv.WaitError {
			next = min(next, max(delay-age, time.Millisecond))
			continue
		}
		g.active[b.Txn.ID] = true
		if !g.x.r.spawn(func() { g.done <- g.push(b) }) {
			delete(g.active, b.Txn.ID)
		}
	}
	return next
}

// push asks about one transaction in the way, and does what follows from the answer.
func (g *pushGroup) push(b concurrency.Blocker) pushed {
	x, r := g.x, g.x.r
	p := pushed{id: b.Txn.ID}
	fin, over := x.t.locks.Finished(b.Txn.ID)
	pushee := kv.Txn{TxnMeta: b.Txn}
	if over {
		pushee.Status, pushee.WriteTimestamp, pushee.IgnoredSeqs, pushee.Epoch = fin.Status, fin.TS, fin.IgnoredSeqs, fin.Epoch
	} else {
		req := &kv.PushTxnRequest{Key: b.Txn.Key, Pusher: x.txn, Pushee: b.Txn, Kind: kv.PushAbort, WaitOnly: b.Queued}
		if g.waiterReads() {
			req.Kind, req.PushTo = kv.PushTimestamp, x.readTimestamp().Max(x.uncertaintyLimit())
		}
		if x.ba.WaitPolicy == kv.WaitError {
			req.Kind = kv.PushTouch
		}
		got, err := r.sendPush(g.ctx, req)
		if err != nil {
			return g.failed(p, err)
		}
		pushee = *got
	}
	if pushee.Status == kv.TxnStaging && x.ba.WaitPolicy == kv.WaitError {
		p.err = &kv.LockConflictError{Key: b.Key, Holder: b.Txn.ID}
		return p
	}
	if pushee.Status == kv.TxnStaging {
		r.metrics.recoveries.Inc()
		got, err := r.recoverTxn(g.ctx, &pushee)
		if err != nil {
			return g.failed(p, err)
		}
		pushee = *got
	}
	if !over && (pushee.Status == kv.TxnCommitted || pushee.Status == kv.TxnAborted) {
		x.t.locks.SetFinished(pushee.ID, concurrency.Finished{Status: pushee.Status, TS: pushee.WriteTimestamp,
			IgnoredSeqs: pushee.IgnoredSeqs, Epoch: pushee.Epoch})
	}
	if err := x.clear(g.ctx, b, &pushee, g.waiterReads()); err != nil {
		return g.failed(p, err)
	}
	if pushee.Status == kv.TxnPending {
		if x.ba.WaitPolicy == kv.WaitError {
			p.err = &kv.LockConflictError{Key: b.Key, Holder: b.Txn.ID}
		}
		p.again = true
	}
	return p
}

func (g *pushGroup) waiterReads() bool { return !g.x.shape.write && !g.x.shape.locks }

// failed decides which errors of a push are the waiter's answer. The others are tried again:
// the record's range may be between leaseholders.
func (g *pushGroup) failed(p pushed, err error) pushed {
	var deadlock *kv.DeadlockError
	var aborted *kv.AbortedError
	if errors.As(err, &deadlock) || errors.As(err, &aborted) {
		p.err = err
		return p
	}
	p.again = true
	return p
}

// maxClear bounds the intents that one push resolves.
const maxClear = 1000

// clear removes what a pushed transaction left in this range and the waiter met: all its
// intents in the lock table if it is over, those that keep a read from its timestamp if it
// was moved.
func (x *execution) clear(ctx context.Context, b concurrency.Blocker, pushee *kv.Txn, read bool) error {
	over := pushee.Status == kv.TxnCommitted || pushee.Status == kv.TxnAborted
	if !over && !(read && b.Intent && b.Txn.WriteTimestamp.Less(pushee.WriteTimestamp)) {
		return nil
	}
	if over {
		x.t.queue.Changed(pushee.ID) // no harm if its record is elsewhere
	}
	if b.Intent {
		ba := &kv.BatchRequest{}
		ba.RangeID = x.desc.RangeID
		for _, key := range x.t.locks.KeysOf(pushee.ID, maxClear) {
			ba.Requests = append(ba.Requests, &kv.ResolveIntentRequest{Span: keys.Span{Key: key}, Txn: pushee.TxnMeta,
				Status: pushee.Status, IgnoredSeqs: pushee.IgnoredSeqs})
		}
		if len(ba.Requests) > 0 {
			if _, err := x.r.Send(ctx, ba); err != nil {
				return err
			}
		}
	}
	if over {
		x.t.locks.Release(pushee.ID)
	}
	return nil
}

// sendPush sends a push to the pushee's anchor.
func (r *Replica) sendPush(ctx context.Context, req *kv.PushTxnRequest) (*kv.Txn, error) {
	if len(req.Key) == 0 {
		return nil, &kv.InvalidRequestError{Detail: "a transaction without an anchor holds a lock"}
	}
	r.metrics.pushes.Inc()
	br, err := r.cfg.Sender.Send(ctx, r.internal(req))
	if err != nil {
		return nil, err
	}
	resp, ok := br.Responses[0].(*kv.PushTxnResponse)
	if !ok {
		return nil, &kv.InternalError{Detail: "a push was answered with something else"}
	}
	return &resp.Pushee, nil
}

// internal makes a batch of the replica's own.
func (r *Replica) internal(reqs ...kv.Request) *kv.BatchRequest {
	ba := &kv.BatchRequest{Requests: reqs}
	ba.Gateway = r.cfg.Node
	return ba
}

// recoverTxn decides a STAGING transaction whose coordinator is silent (S11): it makes every
// write in flight that is missing impossible, and only then decides.
func (r *Replica) recoverTxn(ctx context.Context, staged *kv.Txn) (*kv.Txn, error) {
	const chunk = 100
	all := true
	for from := 0; from < len(staged.InFlight); from += chunk {
		ba := r.internal()
		for _, w := range staged.InFlight[from:min(from+chunk, len(staged.InFlight))] {
			meta := staged.TxnMeta
			meta.Seq, meta.Epoch = w.Seq, w.Epoch
			ba.Requests = append(ba.Requests, &kv.QueryIntentRequest{Key: w.Key, Txn: meta})
		}
		br, err := r.cfg.Sender.Send(ctx, ba)
		if err != nil {
			return nil, err
		}
		for _, resp := range br.Responses {
			q, ok := resp.(*kv.QueryIntentResponse)
			all = all && ok && q.Found
		}
		if !all {
			break // one missing write decides; it is impossible from now on
		}
	}
	br, err := r.cfg.Sender.Send(ctx, r.internal(&kv.RecoverTxnRequest{Key: staged.Key, Txn: staged.TxnMeta, AllWritten: all}))
	if err != nil {
		return nil, err
	}
	resp, ok := br.Responses[0].(*kv.RecoverTxnResponse)
	if !ok {
		return nil, &kv.InternalError{Detail: "a recovery was answered with something else"}
	}
	return &resp.Txn, nil
}
