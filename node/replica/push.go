package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/concurrency"
	"github.com/atolldb/atoll/node/replica/eval"
	"github.com/atolldb/atoll/node/replica/raftcmd"
)

// leaseGrace is how long after a lease moved a transaction counts as alive: its heartbeats
// may have found no leaseholder.
const leaseGrace = 2 * time.Second

// aboveLimitRetry is when a push whose mark the lease does not cover yet is tried again.
const aboveLimitRetry = 10 * time.Millisecond

// push executes a PushTxn: it waits in the pushee's queue until the pushee is over or
// expires, or the pusher is chosen to break a deadlock.
func (x *execution) push(req *kv.PushTxnRequest) (*kv.BatchResponse, error) {
	if req.Pusher != nil && req.Pusher.ID == req.Pushee.ID {
		return nil, &kv.InvalidRequestError{Detail: "a transaction pushes itself"}
	}
	defer x.finish()
	pushee, until, err := x.tryPush(req)
	if err != nil || pushee != nil {
		return x.pushed(pushee), err
	}
	var pusher *kv.TxnMeta
	if req.Pusher != nil {
		m := req.Pusher.TxnMeta
		pusher = &m
	}
	w := x.t.queue.Enter(req.Pushee.ID, pusher)
	if w == nil {
		return nil, &kv.UnavailableError{RangeID: x.desc.RangeID, Detail: "too many pushes wait in the range"}
	}
	defer x.t.queue.Leave(w)
	search := time.NewTimer(x.r.limits.DeadlockDelay)
	defer search.Stop()
	for {
		if pushee, until, err = x.tryPush(req); err != nil || pushee != nil {
			return x.pushed(pushee), err
		}
		left := time.Duration(until.WallNanos-x.r.cfg.Clock.PhysicalNow().UnixNano()) + time.Millisecond
		expiry := time.NewTimer(max(left, time.Millisecond))
		select {
		case <-w.C:
		case <-expiry.C:
		case <-search.C:
			if pusher != nil {
				if err := x.r.breakDeadlock(x.ctx, pusher, &req.Pushee); err != nil {
					expiry.Stop()
					return nil, err
				}
			}
			search.Reset(x.r.limits.DeadlockPeriod)
		case <-x.ctx.Done():
			expiry.Stop()
			return nil, x.ctx.Err()
		case <-x.t.over:
			expiry.Stop()
			return nil, x.r.lost()
		}
		expiry.Stop()
	}
}

func (x *execution) pushed(pushee *kv.Txn) *kv.BatchResponse {
	if pushee == nil {
		return nil
	}
	return &kv.BatchResponse{Responses: []kv.Response{&kv.PushTxnResponse{Pushee: *pushee}}, Now: x.r.cfg.Clock.Now()}
}

// tryPush evaluates the push once. It returns the pushee if the push is over, or the time
// at which the pushee expires.
func (x *execution) tryPush(req *kv.PushTxnRequest) (*kv.Txn, hlc.Timestamp, error) {
	defer x.unlatch()
	if err := x.latch(); err != nil {
		return nil, hlc.Timestamp{}, err
	}
	l, ok := x.r.still(x.t)
	if !ok {
		return nil, hlc.Timestamp{}, x.r.lost()
	}
	x.lease = l
	env := x.env()
	env.Now = x.r.cfg.Clock.Now()
	grace := hlc.Timestamp{WallNanos: x.t.started.WallNanos - int64(x.r.limits.TxnExpiry) + int64(leaseGrace)}
	p, err := env.PushTxn(req, int64(x.r.limits.TxnExpiry), int64(x.r.limits.StagingExpiry), grace)
	var above *eval.AboveReadLimitError
	if errors.As(err, &above) {
		return nil, env.Now.Add(aboveLimitRetry), nil // not servable yet: soon again
	}
	if err != nil {
		return nil, hlc.Timestamp{}, x.answerable(err)
	}
	if p.Wait {
		return nil, p.Until, nil
	}
	if p.Ended {
		x.t.tscache.MarkEnded(&req.Pushee)
		x.t.locks.Release(req.Pushee.ID)
	}
	if !p.PushedTo.IsEmpty() {
		x.t.tscache.MarkPushed(&req.Pushee, p.PushedTo)
	}
	if p.Batch != nil {
		if err := x.proposePush(&p); err != nil {
			return nil, hlc.Timestamp{}, err
		}
	}
	if p.Ended || p.Batch != nil {
		x.t.queue.Changed(req.Pushee.ID)
	}
	if _, ok := x.r.still(x.t); !ok {
		return nil, hlc.Timestamp{}, x.r.lost()
	}
	return &p.Pushee, hlc.Timestamp{}, nil
}

// proposePush replicates a push. The latch on the record belongs to the command (S6), which
// this waits for whatever becomes of the client: it is bounded by the group.
func (x *execution) proposePush(p *eval.Push) error {
	cmd := &raftcmd.Command{Term: x.t.term, Proposer: x.r.cfg.Node, Batch: append([]byte(nil), p.Batch.Repr()...)}
	_ = p.Batch.Close()
	_, err := x.r.cfg.Group.Propose(x.ctx, cmd)
	return x.proposalError(err)
}

// confirmDelay lets an edge that just goes away disappear before a transaction fails for it.
const confirmDelay = 10 * time.Millisecond

// breakDeadlock fails the pusher if it is part of a cycle and is the one to be sacrificed.
// Every transaction of a cycle waits in a push and looks for it; all choose the same victim,
// and only the victim's own push fails: exactly one.
func (r *Replica) breakDeadlock(ctx context.Context, pusher, pushee *kv.TxnMeta) error {
	for round := 0; ; round++ {
		cycle, err := concurrency.FindCycle(ctx, pusher, pushee, r.waitersOf)
		if err != nil {
			if cerr := ctx.Err(); cerr != nil {
				return cerr
			}
			return nil // a range is between leaseholders: the next search will tell
		}
		if cycle == nil || concurrency.Victim(cycle).ID != pusher.ID {
			return nil
		}
		if round == 1 {
			r.metrics.deadlocks.Inc()
			return &kv.DeadlockError{Detail: fmt.Sprintf("%d transactions wait for each other", len(cycle))}
		}
		t := time.NewTimer(confirmDelay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// waitersOf asks who waits for a transaction.
func (r *Replica) waitersOf(ctx context.Context, t *kv.TxnMeta) ([]kv.TxnMeta, error) {
	br, err := r.cfg.Sender.Send(ctx, r.internal(&kv.QueryTxnRequest{Key: t.Key, ID: t.ID}))
	if err != nil {
		return nil, err
	}
	resp, ok := br.Responses[0].(*kv.QueryTxnResponse)
	if !ok {
		return nil, errors.New("replica: a query of a transaction was answered with something else")
	}
	return resp.Waiting, nil
}

// maxQueryWait bounds a QueryTxn that waits.
const maxQueryWait = 2 * time.Second

// queryTxn executes a QueryTxn.
func (x *execution) queryTxn(req *kv.QueryTxnRequest) (*kv.BatchResponse, error) {
	defer x.finish()
	var w *concurrency.PushWait
	if req.WaitForUpdate {
		if w = x.t.queue.Enter(req.ID, nil); w != nil {
			defer x.t.queue.Leave(w)
		}
	}
	end := time.NewTimer(maxQueryWait)
	defer end.Stop()
	var first *kv.QueryTxnResponse
	for over := false; ; {
		resp, err := x.queryOnce(req)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = resp
		}
		if over || w == nil || !sameIDs(resp.Waiters, req.KnownWaiters) || !sameState(first.Txn, resp.Txn) {
			return &kv.BatchResponse{Responses: []kv.Response{resp}, Now: x.r.cfg.Clock.Now()}, nil
		}
		const look = 200 * time.Millisecond
		t := time.NewTimer(look)
		select {
		case <-w.C:
		case <-t.C:
		case <-end.C:
			over = true
		case <-x.ctx.Done():
			t.Stop()
			return nil, x.ctx.Err()
		case <-x.t.over:
			t.Stop()
			return nil, x.r.lost()
		}
		t.Stop()
	}
}

func (x *execution) queryOnce(req *kv.QueryTxnRequest) (*kv.QueryTxnResponse, error) {
	defer x.unlatch()
	if err := x.latch(); err != nil {
		return nil, err
	}
	rec, err := eval.LoadRecord(x.r.cfg.Engine, req.Key, req.ID)
	if err != nil {
		return nil, x.answerable(err)
	}
	resp := &kv.QueryTxnResponse{Txn: rec, Waiting: x.t.queue.Waiting(req.ID)}
	for i := range resp.Waiting {
		resp.Waiters = append(resp.Waiters, resp.Waiting[i].ID)
	}
	if _, ok := x.r.still(x.t); !ok {
		return nil, x.r.lost()
	}
	return resp, nil
}

func sameIDs(a, b []kv.TxnID) bool {
	if len(a) != len(b) {
		return false
	}
	have := make(map[kv.TxnID]bool, len(a))
	for _, id := range a {
		have[id] = true
	}
	for _, id := range b {
		if !have[id] {
			return false
		}
	}
	return true
}

func sameState(a, b *kv.Txn) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Status == b.Status && a.Epoch == b.Epoch && a.WriteTimestamp == b.WriteTimestamp
}
