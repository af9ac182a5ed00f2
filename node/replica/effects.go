package replica

import (
	"context"
	"errors"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/eval"
)

// applied tells the lock table, the queues and the resolver what a batch did. REQUIRES: its
// command is applied (locks go only then, S6) and its latches are held.
func (x *execution) applied(res *eval.Result) {
	t := x.t
	if len(res.Written) > 0 && x.txn != nil {
		meta := x.txn.TxnMeta
		meta.WriteTimestamp = res.WriteTimestamp
		for _, key := range res.Written {
			t.locks.IntentWritten(x.req, &meta, key)
		}
	}
	if n := len(res.Resolved); n > 0 {
		x.r.metrics.resolved.Add(float64(n))
	}
	for _, rr := range res.Resolved {
		switch rr.Status {
		case kv.TxnCommitted, kv.TxnAborted:
			t.locks.Release(rr.Txn.ID)
		default:
			t.locks.IntentMoved(rr.Txn.ID, rr.Span, rr.Txn.WriteTimestamp)
		}
	}
	if res.Ended != nil {
		x.ended(res.Ended)
	}
	if res.Changed != nil {
		t.queue.Changed(*res.Changed)
	}
}

// ended follows the end of the batch's own transaction.
func (x *execution) ended(e *eval.Ended) {
	t, id := x.t, e.Txn.ID
	if e.Staging {
		t.queue.Changed(id)
		return
	}
	if e.OnePhase {
		x.r.metrics.onePhase.Inc()
	}
	// Without a record, only the mark keeps a late heartbeat from making one, and tells those
	// who push that it is over. One phase leaves nothing to push, but for locks elsewhere.
	if !e.Record && (!e.OnePhase || len(e.Remaining) > 0 || len(t.queue.Waiting(id)) > 0) {
		t.tscache.MarkEnded(&e.Txn.TxnMeta)
	}
	t.locks.Release(id)
	t.queue.Changed(id)
	if len(e.Remaining) > 0 {
		x.r.resolver.add(resolution{txn: e.Txn.TxnMeta, status: e.Txn.Status, ignored: e.Txn.IgnoredSeqs, spans: e.Remaining,
			record: e.Record})
	}
}

// isAnswer reports whether a client may see err: it is one of package kv's, or a context's.
func isAnswer(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	for ; err != nil; err = errors.Unwrap(err) {
		switch err.(type) {
		case *kv.NotLeaseholderError, *kv.RangeNotFoundError, *kv.RangeKeyMismatchError, *kv.WriteTooOldError,
			*kv.UncertaintyError, *kv.RetryError, *kv.AbortedError, *kv.DeadlockError, *kv.ConditionFailedError,
			*kv.LockConflictError, *kv.AmbiguousError, *kv.CommandExpiredError, *kv.BelowGCThresholdError, *kv.DiskFullError,
			*kv.UnavailableError, *kv.InvalidRequestError, *kv.InternalError:
			return true
		}
	}
	return false
}
