package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/concurrency"
	"github.com/atolldb/atoll/node/replica/eval"
	"github.com/atolldb/atoll/node/replica/raftcmd"
)

// maxAttempts bounds how often a batch is evaluated anew after waiting. Every attempt but the
// first follows a wait, so that no honest batch gets there.
const maxAttempts = 10_000

// execution is one batch on its way through Send.
type execution struct {
	r     *Replica
	ctx   context.Context
	ba    *kv.BatchRequest
	t     *tenure
	lease LeaseStatus
	desc  *kv.RangeDescriptor
	shape shape

	txn       *kv.Txn // a copy of the batch's, never changed
	txnCopy   kv.Txn
	timestamp hlc.Timestamp
	fixed     bool
	uncertain hlc.Timestamp

	req      *concurrency.Request
	guard    *concurrency.LatchGuard
	tracked  *trackedWrite
	attempts int
	waited   time.Duration
	reusable bool
	// handedOver: latches, grants and their end belong to the command under way. From then on
	// the request only reads this struct.
	handedOver bool
	fresh      bool // no earlier try of its command was applied, or can be in this tenure
	waiting    bool // it waited for a lock: pushes may still look at it

	guardBuf concurrency.LatchGuard
	reqBuf   concurrency.Request
	envBuf   eval.Env
}

// Send executes a batch. A non-nil error is one of package kv's, or the context's.
func (r *Replica) Send(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	if err := r.observe(ba); err != nil {
		return nil, err
	}
	x := executions.Get().(*execution)
	x.r, x.ctx, x.ba, x.desc = r, ctx, ba, r.desc.Load()
	br, err := x.send()
	if x.reusable {
		*x = execution{}
		executions.Put(x)
	}
	return br, err
}

// executions saves each read a few hundred bytes of garbage.
var executions = sync.Pool{New: func() any { return new(execution) }}

func (x *execution) send() (*kv.BatchResponse, error) {
	r, ba := x.r, x.ba
	if ba.Txn != nil {
		x.txnCopy = *ba.Txn // the command may outlive the request
		x.txn = &x.txnCopy
	}
	if err := x.bounds(); err != nil {
		return nil, err
	}
	if err := x.shape.examine(ba, x.desc, r.limits.BatchRequests); err != nil {
		return nil, err
	}
	if x.shape.admin {
		return r.sendAdmin(x.ctx, ba)
	}
	var err error
	if x.t, x.lease, err = r.lease(); err != nil {
		if x.canFollow() {
			br, ferr := x.follow()
			x.reusable = true
			return br, ferr
		}
		return nil, err
	}
	switch {
	case x.shape.push != nil:
		return x.push(x.shape.push)
	case x.shape.query != nil:
		return x.queryTxn(x.shape.query)
	}
	br, err := x.run()
	// Nobody else has seen an execution that neither waited nor wrote.
	x.reusable = !x.waiting && !x.shape.write
	return br, err
}

// observe forwards the clock to the sender's reading (S1).
func (r *Replica) observe(ba *kv.BatchRequest) error {
	if ba.ClockReading.IsEmpty() && ba.CommandBirth == 0 {
		return nil
	}
	// A birth from the far future would raise the horizon of S12 above everybody else's.
	ahead := time.Duration(max(ba.ClockReading.WallNanos, ba.CommandBirth) - r.cfg.Clock.PhysicalNow().UnixNano())
	if bound := 2 * r.cfg.Clock.MaxOffset(); bound > 0 && ahead > bound {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf(
			"the clock of node %d is %s ahead of this node's, more than %s; check its time source", ba.Gateway, ahead, bound)}
	}
	r.cfg.Clock.Update(ba.ClockReading)
	return nil
}

// bounds refuses a batch with keys that are not in the range.
func (x *execution) bounds() error {
	span, err := outside(x.ba, x.desc)
	if errors.Is(err, errOutside) {
		return &kv.RangeKeyMismatchError{Span: span, Descs: []kv.RangeDescriptor{*x.desc}}
	}
	return err
}

// run executes a batch of reads and writes: latches, locks, evaluation, and again after every wait.
func (x *execution) run() (*kv.BatchResponse, error) {
	if err := x.prepare(); err != nil {
		return nil, err
	}
	defer func() {
		if !x.handedOver {
			x.finish()
		}
	}()
	if x.shape.write && x.ba.CommandID != ([16]byte{}) {
		if err := x.t.running.enter(x); err != nil {
			return nil, err
		}
		defer x.t.running.leave(x.ba.CommandID)
	}
	for ; x.attempts < maxAttempts; x.attempts++ {
		if err := x.latch(); err != nil {
			return nil, err
		}
		// REQUIRES: S12. Before anything that can refuse the batch: the answer is that of the
		// earlier try, if that one was applied.
		if x.shape.write && x.ba.CommandID != ([16]byte{}) {
			outcome, applied, horizon := x.r.cfg.Group.LookupCommand(x.ba.CommandID)
			switch {
			case applied:
				return x.again(outcome)
			case !x.fresh && x.ba.CommandBirth <= horizon:
				return nil, &kv.CommandExpiredError{RangeID: x.desc.RangeID, Birth: x.ba.CommandBirth, Horizon: horizon}
			}
			// All of earlier tenures is applied, and in this one the other tries wait for this one to
			// end or hold its latches: from here on the answer can't get old, however long this waits.
			x.fresh = true
		}
		if x.attempts > 0 { // time has passed
			var ok bool
			if x.lease, ok = x.r.still(x.t); !ok {
				return nil, x.r.lost()
			}
		}
		w, err := x.takeTurn()
		if err == nil && w == nil {
			var br *kv.BatchResponse
			var done bool
			if br, w, done, err = x.evaluate(); done {
				return br, err
			}
		}
		x.unlatch()
		if err == nil && w != nil {
			err = x.wait(w)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, &kv.UnavailableError{RangeID: x.desc.RangeID, Waited: x.waited, Detail: "the batch met other transactions' locks too often"}
}

// prepare chooses the batch's timestamps.
func (x *execution) prepare() error {
	ba, r := x.ba, x.r
	if x.shape.write && r.cfg.Admit != nil {
		if err := r.cfg.Admit(ba); err != nil {
			return err
		}
	}
	if x.txn == nil {
		if x.shape.locks {
			return &kv.InvalidRequestError{Detail: "a locking read outside a transaction"}
		}
		x.timestamp, x.fixed = ba.Timestamp, !ba.Timestamp.IsEmpty()
		if !x.fixed {
			x.timestamp = r.cfg.Clock.Now()
			x.uncertain = x.timestamp.Add(r.cfg.Clock.MaxOffset())
		}
		x.req = &x.reqBuf
	} else {
		if x.txn.ReadTimestamp.IsEmpty() && x.txn.WriteTimestamp.IsEmpty() {
			return &kv.InvalidRequestError{Detail: "a transaction without timestamps"}
		}
		meta := &x.txn.TxnMeta
		if x.shape.locks && len(meta.Key) == 0 {
			m := *meta
			m.Key = kv.RequestSpan(ba.Requests[0], ba.Txn).Key // nobody can ask about a lock without an anchor
			meta = &m
		}
		x.reqBuf = concurrency.MakeRequest(meta)
		x.req = &x.reqBuf
	}
	if x.shape.reads {
		if err := x.threshold(); err != nil {
			return err
		}
	}
	return x.untilServable(x.readTimestamp())
}

func (x *execution) readTimestamp() hlc.Timestamp {
	if x.txn != nil {
		return x.txn.ReadTimestamp
	}
	return x.timestamp
}

// threshold refuses reads of what may be collected (S25). It is asked before and after the
// evaluation: the threshold rises before versions go.
func (x *execution) threshold() error {
	if gc := x.r.GCThreshold(); !gc.IsEmpty() && x.readTimestamp().LessEq(gc) {
		return &kv.BelowGCThresholdError{Timestamp: x.readTimestamp(), Threshold: gc}
	}
	return nil
}

// maxServableWait bounds the wait for the lease to cover a timestamp.
const maxServableWait = 2 * time.Second

// untilServable waits until the lease covers ts (S2 d): one of another node's clock may be
// ahead of what the last heartbeat carried.
func (x *execution) untilServable(ts hlc.Timestamp) error {
	for waited := time.Duration(0); x.lease.ReadLimit.Less(ts); {
		const step = 5 * time.Millisecond
		if waited >= maxServableWait {
			return &kv.UnavailableError{RangeID: x.desc.RangeID, Waited: waited,
				Detail: fmt.Sprintf("timestamp %s is beyond what the lease covers (%s)", ts, x.lease.ReadLimit)}
		}
		timer := time.NewTimer(step)
		select {
		case <-timer.C:
		case <-x.ctx.Done():
			timer.Stop()
			return x.ctx.Err()
		case <-x.t.over:
			timer.Stop()
			return x.r.lost()
		}
		waited += step
		var ok bool
		if x.lease, ok = x.r.still(x.t); !ok {
			return x.r.lost()
		}
	}
	return nil
}

// latch takes the batch's latches, and makes sure that the range's bounds are still those
// that they were computed with.
func (x *execution) latch() error {
	for {
		x.guardBuf = concurrency.LatchGuard{}
		g, err := x.t.latches.AcquireInto(&x.guardBuf, x.ctx, x.t.over, x.shape.latches)
		if err != nil {
			return x.r.waitError(err)
		}
		x.guard = g
		now := x.r.desc.Load()
		if now == x.desc {
			return nil
		}
		x.unlatch()
		x.desc = now
		if err := x.bounds(); err != nil {
			return err
		}
		x.shape = shape{}
		if err := x.shape.examine(x.ba, now, x.r.limits.BatchRequests); err != nil {
			return err
		}
	}
}

func (x *execution) unlatch() {
	if x.guard != nil {
		x.t.latches.Release(x.guard)
		x.guard = nil
	}
	if x.tracked != nil {
		x.t.closing.leave(x.tracked)
		x.tracked = nil
	}
}

// finish gives back what the batch still has.
func (x *execution) finish() {
	x.unlatch()
	if x.req != nil {
		x.t.locks.Finish(x.req)
	}
}

// takeTurn checks the batch's locks; it returns the place in the queue to wait at, if any.
func (x *execution) takeTurn() (*concurrency.Waiter, error) {
	locks := x.t.locks
	for i := range x.shape.locked {
		s := &x.shape.locked[i]
		if locks.Idle(s.strength) {
			continue
		}
		ts := x.readTimestamp().Max(x.uncertaintyLimit())
		if x.ba.WaitPolicy == kv.WaitError {
			if b := locks.Conflict(x.req, s.Span, s.strength, ts); b != nil {
				w, err := x.mayFail(b, s.Span, s.strength, ts)
				if w != nil || err != nil {
					return w, err
				}
			}
			continue
		}
		w, err := locks.Enter(x.req, s.Span, s.strength, ts)
		if w != nil || err != nil {
			return w, err
		}
	}
	return nil, nil
}

func (x *execution) uncertaintyLimit() hlc.Timestamp {
	if x.txn != nil {
		return x.txn.UncertaintyLimit
	}
	return x.uncertain
}

// timed evaluates the batch, and notes how long that took if it came from another node.
func (x *execution) timed(env *eval.Env, write bool) (eval.Result, error) {
	if x.ba.Gateway == x.r.cfg.Node {
		return env.Evaluate(x.ba, write)
	}
	began := time.Now()
	res, err := env.Evaluate(x.ba, write)
	x.r.evaluating.Add(int64(time.Since(began)))
	return res, err
}

// evaluate evaluates the batch under its latches. done means that br and err are the answer;
// otherwise the batch waits at w, if not nil, and tries again.
func (x *execution) evaluate() (br *kv.BatchResponse, w *concurrency.Waiter, done bool, err error) {
	env := x.env()
	if x.shape.write {
		x.tracked = x.t.closing.enter(x.lowestWrite())
	}
	res, err := x.timed(env, x.shape.write)
	if x.r.cfg.Pause != nil {
		x.r.cfg.Pause()
	}
	var above *eval.AboveReadLimitError
	if errors.As(err, &above) {
		x.unlatch()
		return nil, nil, false, x.untilServable(above.TS)
	}
	if err != nil {
		x.keepLocks(&res, err)
		return nil, nil, true, x.answerable(err)
	}
	if len(res.Intents) > 0 {
		w, err := x.metIntents(&res)
		return nil, w, false, err
	}
	if res.Locked != nil {
		w, err := x.metLock(res.Locked)
		return nil, w, false, err
	}
	br = x.response(env, &res)
	if res.Batch != nil && (!res.Batch.Empty() || !res.GCThreshold.IsEmpty()) {
		br, err = x.replicate(env, &res, br)
		return br, nil, true, err
	}
	if res.Batch != nil {
		_ = res.Batch.Close()
	}
	if err := x.serve(&res); err != nil {
		return nil, nil, true, err
	}
	x.applied(&res)
	x.unlatch()
	br, err = x.rest(&res, br)
	return br, nil, true, err
}

func (x *execution) env() *eval.Env {
	r := x.r
	env := &x.envBuf
	*env = eval.Env{
		Engine:           r.cfg.Engine,
		Desc:             x.desc,
		Header:           &x.ba.Header,
		Timestamp:        x.timestamp,
		Fixed:            x.fixed,
		UncertaintyLimit: x.uncertain,
		ReadLimit:        x.lease.ReadLimit,
		Pushdown:         r.cfg.Pushdown,
		ResponseBytes:    r.limits.ResponseBytes,
		ScanKeys:         r.limits.ScanKeys,
		LocalResolve:     r.limits.LocalResolve,
	}
	if x.t != nil { // a follower has none (S24)
		env.TSCache = x.t.tscache
	}
	if x.shape.write || x.shape.locks {
		env.Now = r.cfg.Clock.Now()
	}
	if x.txn != nil {
		t := *x.txn
		env.Txn = &t
	}
	if x.shape.locks {
		env.Locked = func(key keys.Key, s kv.LockStrength) bool {
			return x.t.locks.Conflict(x.req, keys.Span{Key: key}, s, hlc.Timestamp{}) != nil
		}
	}
	return env
}

func (x *execution) lowestWrite() hlc.Timestamp {
	if x.txn != nil {
		return x.txn.WriteTimestamp.Max(x.txn.ReadTimestamp)
	}
	return x.timestamp
}

// keepLocks takes the locks of a locking read that failed because a newer version is there:
// the transaction comes back at a later timestamp, and must not queue again behind
// everybody else, or on a hot row it never gets its turn.
func (x *execution) keepLocks(res *eval.Result, err error) {
	var tooOld *kv.WriteTooOldError
	if !errors.As(err, &tooOld) || !x.shape.locks {
		return
	}
	for _, l := range res.Locks {
		if x.t.locks.Conflict(x.req, keys.Span{Key: l.Key}, l.Strength, hlc.Timestamp{}) == nil {
			_ = x.t.locks.Acquire(x.req, l.Key, l.Strength) // a limit: the read fails anyway
		}
	}
}

// serve is the end of a read, or of a batch that had nothing to write: the timestamp cache
// first (S7), then the lease (S2 b).
func (x *execution) serve(res *eval.Result) error {
	for i := range res.Reads {
		rd := &res.Reads[i]
		if x.lease.ReadLimit.Less(rd.TS) {
			return &kv.UnavailableError{RangeID: x.desc.RangeID, Detail: fmt.Sprintf("timestamp %s is beyond what the lease covers", rd.TS)}
		}
		x.t.tscache.Add(rd.Span, rd.TS, rd.Txn)
	}
	for i := range res.Locks {
		if err := x.t.locks.Acquire(x.req, res.Locks[i].Key, res.Locks[i].Strength); err != nil {
			return err
		}
	}
	if x.shape.reads {
		if err := x.threshold(); err != nil {
			return err
		}
	}
	if _, ok := x.r.still(x.t); !ok {
		return x.r.lost()
	}
	return nil
}

// response is the answer as evaluated.
func (x *execution) response(env *eval.Env, res *eval.Result) *kv.BatchResponse {
	br := &kv.BatchResponse{Timestamp: env.Timestamp, Responses: res.Responses, Now: x.r.cfg.Clock.Now()}
	if env.Txn != nil {
		t := env.Txn
		t.InFlight, t.LockSpans, t.IgnoredSeqs = nil, nil, nil
		br.Txn, br.Timestamp = t, t.ReadTimestamp
	}
	if x.ba.Generation != 0 && x.ba.Generation < x.desc.Generation {
		br.RangeDescriptors = []kv.RangeDescriptor{*x.desc}
	}
	return br
}

// answerable makes sure that an error is one of package kv's.
func (x *execution) answerable(err error) error {
	if isAnswer(err) {
		return err
	}
	return &kv.InternalError{Detail: fmt.Sprintf("range %d: %v", x.desc.RangeID, err)}
}

// replicate proposes the batch's command and answers when it is applied. The latches belong
// to the command from here on (S6): they are released when its fate is known, also if the
// client goes away earlier.
func (x *execution) replicate(env *eval.Env, res *eval.Result, br *kv.BatchResponse) (*kv.BatchResponse, error) {
	if err := x.serve(res); err != nil {
		_ = res.Batch.Close()
		return nil, err
	}
	if !res.GCThreshold.IsEmpty() {
		x.r.OnGCThreshold(res.GCThreshold) // REQUIRES: S25, before any version can go
	}
	cmd := &raftcmd.Command{
		ID:           x.ba.CommandID,
		Term:         x.t.term,
		Proposer:     x.r.cfg.Node,
		Batch:        append([]byte(nil), res.Batch.Repr()...),
		GCThreshold:  res.GCThreshold,
		LogicalBytes: res.Stats.Bytes,
	}
	_ = res.Batch.Close()
	res.Batch = nil
	if cmd.ID != ([16]byte{}) {
		cmd.Outcome = encodeOutcome(x.ba, br)
		// Not the request's, which may have waited for longer than the range remembers. What later
		// tries carry is no later than this.
		cmd.Birth = max(x.ba.CommandBirth, x.r.cfg.Clock.Now().WallNanos)
	}
	p := &proposed{x: x, res: res, done: make(chan error, 1)}
	x.handedOver = true // p finishes
	if !x.r.spawn(func() { p.run(cmd) }) {
		x.finish()
		return nil, x.r.lost()
	}
	select {
	case err := <-p.done:
		if err != nil {
			return nil, err
		}
		if p.duplicate {
			// An earlier try of the same command came first in the log: its outcome counts.
			outcome, _, _ := x.r.cfg.Group.LookupCommand(x.ba.CommandID)
			return x.again(outcome)
		}
	case <-x.ctx.Done():
		return nil, &kv.AmbiguousError{Detail: fmt.Sprintf("range %d: the request ended while its command was being replicated: %v", x.desc.RangeID, x.ctx.Err())}
	}
	return x.rest(res, br)
}

// proposed is a command under way, with the latches and grants of its batch.
type proposed struct {
	x    *execution
	res  *eval.Result
	done chan error
	// duplicate is set before done.
	duplicate bool
}

func (p *proposed) run(cmd *raftcmd.Command) {
	x := p.x
	at, err := x.r.cfg.Group.Propose(x.ctx, cmd)
	if p.duplicate = at.Duplicate; err == nil && !p.duplicate {
		x.applied(p.res)
	}
	x.finish()
	p.done <- x.proposalError(err)
}

// proposalError says what a failed proposal means to the client (S12).
func (x *execution) proposalError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrRejected):
		if cerr := x.ctx.Err(); cerr != nil {
			return cerr
		}
		leader := x.r.cfg.Group.Lease().Leader
		return x.r.notLeaseholder(leader, err.Error())
	}
	x.r.metrics.ambiguous.Inc()
	return &kv.AmbiguousError{Detail: fmt.Sprintf("range %d: %v", x.desc.RangeID, err)}
}

// rest goes on with what did not fit one command.
func (x *execution) rest(res *eval.Result, br *kv.BatchResponse) (*kv.BatchResponse, error) {
	if len(res.Rest) == 0 {
		return br, nil
	}
	more := *x.ba
	more.CommandID = [16]byte{}
	more.Requests = res.Rest
	_, err := x.r.Send(x.ctx, &more)
	return br, err
}
