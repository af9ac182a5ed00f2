package dist

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// sendToRange sends ba, all of whose keys lie in e, to e's leaseholder, which it finds.
func (d *DistSender) sendToRange(ctx context.Context, e *entry, ba *kv.BatchRequest, st *state) (*kv.BatchResponse, error) {
	req := *ba
	req.Gateway = d.cfg.Self
	st.rangeID = e.desc.RangeID
	rt := route{self: d.cfg.Self, alive: d.cfg.Alive}
	rt.reset(e)
	if ba.FollowerRead {
		rt.nearest(e, d.cfg.Distance)
	}
	for {
		node, ok := rt.next()
		if !ok {
			// Every replica was asked. Look the range up anew now and then: its replicas
			// may have moved.
			if rt.rounds++; rt.rounds%4 == 0 {
				d.cache.evict(e)
				return d.pauseAndDivide(ctx, ba, st)
			}
			if err := d.pause(ctx, st, e.desc.RangeID); err != nil {
				return nil, err
			}
			if now := d.cache.get(e.desc.Start); now != e {
				return d.divide(ctx, withCommand(ba, st), st) // somebody learned more
			}
			rounds := rt.rounds
			rt.reset(e)
			rt.rounds = rounds
			continue
		}
		req.CommandID, req.CommandBirth, req.Pieces = st.commandID, st.birth, st.pieces
		req.RangeID, req.Generation = e.desc.RangeID, e.desc.Generation
		began := time.Now()
		br, err := d.try(ctx, node, &req)
		if err == nil {
			if !ba.FollowerRead { // else any replica may have answered
				e.leaseholder.Store(int32(node))
			}
			for i := range br.RangeDescriptors {
				d.cache.insert(br.RangeDescriptors[i], 0)
			}
			return br, nil
		}
		again, err := d.judge(ctx, e, node, st, &rt, err)
		if err != nil {
			return nil, err
		}
		// A try that lasted was waiting for locks at a leaseholder: that is no trouble.
		if now := time.Now(); st.trouble.IsZero() || now.Sub(began) > d.cfg.Timeout/2 {
			st.trouble = now
		}
		d.metrics.retries.Inc()
		if again {
			return d.divide(ctx, withCommand(ba, st), st)
		}
	}
}

// withCommand keeps the command ID over a division of the batch: applied IDs are inherited
// by both sides of a split (S20), so that a piece finds the outcome of the whole.
func withCommand(ba *kv.BatchRequest, st *state) *kv.BatchRequest {
	if !st.write || ba.CommandID == st.commandID && ba.CommandBirth == st.birth {
		return ba
	}
	c := *ba
	c.CommandID, c.CommandBirth, c.Pieces = st.commandID, st.birth, st.pieces
	return &c
}

func (d *DistSender) pauseAndDivide(ctx context.Context, ba *kv.BatchRequest, st *state) (*kv.BatchResponse, error) {
	if err := d.pause(ctx, st, st.rangeID); err != nil {
		return nil, err
	}
	return d.divide(ctx, withCommand(ba, st), st)
}

// try sends the batch to one node once.
func (d *DistSender) try(ctx context.Context, node keys.NodeID, req *kv.BatchRequest) (*kv.BatchResponse, error) {
	req.ClockReading = d.cfg.Clock.Now()
	if node == d.cfg.Self {
		d.metrics.local.Inc()
		return d.cfg.Local.Send(ctx, req)
	}
	d.metrics.remote.Inc()
	cl := d.calls.start(ctx, node)
	br, err := d.cfg.Caller.Call(cl.ctx, node, req)
	down := cl.down()
	d.calls.done(cl)
	if err != nil {
		if down && ctx.Err() == nil && errors.Is(err, context.Canceled) {
			return nil, fmt.Errorf("node %d: %w", node, errNodeDown)
		}
		return nil, err
	}
	d.cfg.Clock.Update(br.Now)
	return br, nil
}

// judge decides what a failed try means: an error to return, or another try, at the next
// replica or (again) after dividing the batch anew.
func (d *DistSender) judge(ctx context.Context, e *entry, node keys.NodeID, st *state, rt *route, err error) (again bool, _ error) {
	var (
		notLeaseholder *kv.NotLeaseholderError
		notFound       *kv.RangeNotFoundError
		mismatch       *kv.RangeKeyMismatchError
		ambiguous      *kv.AmbiguousError
		expired        *kv.CommandExpiredError
		unavailable    *kv.UnavailableError
		internal       *kv.InternalError
	)
	switch {
	case errors.As(err, &notLeaseholder):
		st.lastErr = err
		if e.leaseholder.Load() == int32(node) {
			e.leaseholder.CompareAndSwap(int32(node), 0)
		}
		if desc := notLeaseholder.Desc; desc != nil && desc.RangeID == e.desc.RangeID && desc.Generation > e.desc.Generation {
			d.cache.insert(*desc, notLeaseholder.Leaseholder)
			return d.cache.get(e.desc.Start) != e, nil
		}
		rt.hint(notLeaseholder.Leaseholder)
		return false, nil
	case errors.As(err, &notFound):
		st.lastErr = err
		e.leaseholder.CompareAndSwap(int32(node), 0)
		return false, nil
	case errors.As(err, &mismatch):
		st.lastErr = err
		d.cache.evict(e)
		for i := range mismatch.Descs {
			d.cache.insert(mismatch.Descs[i], 0)
		}
		if now := d.cache.get(e.desc.Start); now != nil && now.desc.RangeID == e.desc.RangeID && now.desc.Generation == e.desc.Generation {
			// The answer taught nothing: don't spin on it.
			return true, d.pause(ctx, st, e.desc.RangeID)
		}
		return true, nil
	case errors.As(err, &ambiguous):
		st.lastErr, st.maybeApplied = err, st.maybeApplied || st.write
		if st.ambiguous++; st.ambiguous > maxAmbiguous {
			return false, d.giveUp(st, "the range does not know either")
		}
		return false, d.checkContext(ctx, st)
	case errors.As(err, &expired):
		// REQUIRES: S12. The range does not know, and never will again.
		st.lastErr = err
		if st.maybeApplied || st.given {
			st.maybeApplied = true
			return false, d.giveUp(st, "too late to ask what became of an earlier try")
		}
		d.metrics.expired.Inc()
		d.newCommand(st, expired.Horizon)
		return false, d.checkContext(ctx, st)
	case errors.As(err, &unavailable):
		st.lastErr = err
		return false, d.checkContext(ctx, st)
	case errors.As(err, &internal):
		return false, d.unknownError(st, err)
	case isKVError(err):
		if st.maybeApplied && saysNothingOfEarlierTries(err) {
			return false, d.unknownError(st, err)
		}
		return false, err
	}
	// Not an answer: the connection was lost, the node died, or somebody's context ended.
	st.lastErr = err
	var notSent interface{ NotSent() bool }
	ended := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	switch {
	case errors.As(err, &notSent) && notSent.NotSent():
	case ended && node == d.cfg.Self:
		// REQUIRES: a replica whose context ends after it proposed answers with the outcome,
		// or with an AmbiguousError.
	default:
		st.maybeApplied = st.maybeApplied || st.write
	}
	if cerr := d.checkContext(ctx, st); cerr != nil {
		return false, cerr
	}
	if node == d.cfg.Self && !ended {
		return false, d.unknownError(st, err)
	}
	e.leaseholder.CompareAndSwap(int32(node), 0)
	return false, nil
}

// unknownError ends a batch on an error that says nothing about its fate.
func (d *DistSender) unknownError(st *state, err error) error {
	if st.write {
		d.metrics.ambiguous.Inc()
		return &kv.AmbiguousError{Detail: err.Error()}
	}
	if isKVError(err) {
		return err
	}
	return &kv.InternalError{Detail: err.Error()}
}

// saysNothingOfEarlierTries reports whether a range may refuse a batch with err before it looks
// whether an earlier try of it was applied.
func saysNothingOfEarlierTries(err error) bool {
	var (
		invalid  *kv.InvalidRequestError
		diskFull *kv.DiskFullError
		below    *kv.BelowGCThresholdError
	)
	return errors.As(err, &invalid) || errors.As(err, &diskFull) || errors.As(err, &below)
}

// isKVError reports whether err is an answer of a range.
func isKVError(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		switch err.(type) {
		case *kv.WriteTooOldError, *kv.UncertaintyError, *kv.RetryError, *kv.AbortedError, *kv.DeadlockError,
			*kv.ConditionFailedError, *kv.LockConflictError, *kv.AmbiguousError, *kv.CommandExpiredError, *kv.BelowGCThresholdError,
			*kv.DiskFullError, *kv.UnavailableError, *kv.InvalidRequestError, *kv.InternalError, *kv.OnePhaseError,
			*kv.NotLeaseholderError, *kv.RangeNotFoundError, *kv.RangeKeyMismatchError:
			return true
		}
	}
	return false
}

// checkContext turns an ended context into the batch's error.
func (d *DistSender) checkContext(ctx context.Context, st *state) error {
	if ctx.Err() == nil {
		return nil
	}
	if st.maybeApplied {
		return d.giveUp(st, ctx.Err().Error())
	}
	return ctx.Err()
}

// pause waits before the next round of tries, or says that the time is up.
func (d *DistSender) pause(ctx context.Context, st *state, rangeID keys.RangeID) error {
	if rangeID != 0 {
		st.rangeID = rangeID
	}
	now := time.Now()
	if st.trouble.IsZero() {
		st.trouble = now
	}
	if _, has := ctx.Deadline(); !has && now.Sub(st.trouble) >= d.cfg.Timeout {
		return d.giveUp(st, "no leaseholder answered")
	}
	if st.backoff = min(max(2*st.backoff, minBackoff), maxBackoff); st.backoff > 0 {
		t := time.NewTimer(st.backoff)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return d.checkContext(ctx, st)
}

// giveUp makes the error of a batch that found no answer.
func (d *DistSender) giveUp(st *state, why string) error {
	detail := why
	if st.lastErr != nil {
		detail = fmt.Sprintf("%s; last: %v", why, st.lastErr)
	}
	if st.maybeApplied {
		d.metrics.ambiguous.Inc()
		return &kv.AmbiguousError{Detail: fmt.Sprintf("range %d, after %s: %s", st.rangeID, time.Since(st.start).Round(time.Millisecond), detail)}
	}
	d.metrics.unavailable.Inc()
	return &kv.UnavailableError{RangeID: st.rangeID, Waited: time.Since(st.start), Detail: detail}
}

// maxAmbiguous bounds how often a range may answer that it does not know: each time its
// lease was lost, so that the next answer should tell.
const maxAmbiguous = 20

// maxReplicas bounds the replicas of a range that are asked in one round.
const maxReplicas = 16

// route is the order in which a range's replicas are asked in one round: the leaseholder
// as far as known, then this node, then those alive, then the others (they may only seem
// dead from here). A replica is asked once, or again if another one names it.
type route struct {
	self   keys.NodeID
	alive  func(keys.NodeID) bool
	nodes  [maxReplicas]keys.NodeID
	n, pos int
	named  int
	rounds int
}

func (r *route) reset(e *entry) {
	r.n, r.pos, r.named = 0, 0, 0
	lh := keys.NodeID(e.leaseholder.Load())
	if lh != 0 && r.alive(lh) {
		r.nodes[0], r.n = lh, 1
	}
	for pass := range 3 {
		for _, rep := range e.desc.Replicas {
			ok := rep.Type.HoldsData() && r.n < maxReplicas && !r.has(rep.Node)
			switch pass {
			case 0:
				ok = ok && rep.Node == r.self
			case 1:
				ok = ok && r.alive(rep.Node)
			}
			if ok {
				r.nodes[r.n] = rep.Node
				r.n++
			}
		}
	}
}

// nearest moves the nearest of the nodes that seem alive to the front, if it is nearer than the
// leaseholder: the others follow as they would for any batch, since one that can't answer most
// likely knows who leads.
func (r *route) nearest(e *entry, distance func(keys.NodeID) int) {
	lh := keys.NodeID(e.leaseholder.Load())
	best := -1
	for i, node := range r.nodes[:r.n] {
		if !r.alive(node) && node != r.self {
			continue
		}
		if best < 0 || distance(node) < distance(r.nodes[best]) || distance(node) == distance(r.nodes[best]) && node == lh {
			best = i
		}
	}
	if best > 0 {
		node := r.nodes[best]
		copy(r.nodes[1:best+1], r.nodes[:best])
		r.nodes[0] = node
	}
}

func (r *route) has(node keys.NodeID) bool {
	for _, n := range r.nodes[:r.n] {
		if n == node {
			return true
		}
	}
	return false
}

func (r *route) next() (keys.NodeID, bool) {
	if r.pos == r.n {
		return 0, false
	}
	r.pos++
	return r.nodes[r.pos-1], true
}

// hint puts a named leaseholder next, a few times at most in one round, since two replicas
// may name each other.
func (r *route) hint(node keys.NodeID) {
	if node == 0 || r.named >= 3 || r.n >= maxReplicas || (r.pos > 0 && r.nodes[r.pos-1] == node) || !r.alive(node) {
		return
	}
	r.named++
	for i := r.pos; i < r.n; i++ {
		if r.nodes[i] == node {
			copy(r.nodes[r.pos+1:i+1], r.nodes[r.pos:i])
			r.nodes[r.pos] = node
			return
		}
	}
	copy(r.nodes[r.pos+1:r.n+1], r.nodes[r.pos:r.n])
	r.nodes[r.pos] = node
	r.n++
}
