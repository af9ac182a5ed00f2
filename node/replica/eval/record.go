package eval

import (
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/storage"
)

// LoadRecord reads a transaction's record; nil if there is none.
func LoadRecord(r storage.Reader, anchor keys.Key, id kv.TxnID) (*kv.Txn, error) {
	b, ok, err := r.Get(keys.TxnRecord(anchor, id))
	if err != nil || !ok {
		return nil, err
	}
	t, err := kv.DecodeTxn(b)
	if err != nil {
		return nil, fmt.Errorf("eval: record of transaction %x: %w", id, err)
	}
	return t, nil
}

func (e *Env) storeRecord(t *kv.Txn) error {
	return e.rw.Set(keys.TxnRecord(t.Key, t.ID), kv.EncodeTxn(nil, t))
}

func (e *Env) dropRecord(t *kv.TxnMeta) error { return e.rw.Delete(keys.TxnRecord(t.Key, t.ID)) }

// record is the batch's own transaction with a status, as its record holds it.
func (e *Env) record(status kv.TxnStatus) *kv.Txn {
	t := *e.Txn
	t.Status = status
	t.LastHeartbeat = e.Now
	t.InFlight, t.LockSpans = nil, nil
	return &t
}

// mayCreate checks that a transaction that has no record may make one (S10), and moves its
// timestamp above where it was pushed to. definite: only what is known for certain counts;
// enough where nothing of the transaction is visible yet.
func (e *Env) mayCreate(definite bool) error {
	fate := e.TSCache.Fate(&e.Txn.TxnMeta)
	if fate.Ended {
		return &kv.AbortedError{Reason: "another transaction aborted it, or it is over already"}
	}
	if fate.MayBeEnded && !definite {
		return &kv.AbortedError{Reason: "its record could not be made before the lease moved; run it again"}
	}
	if !fate.PushedTo.IsEmpty() && e.Txn.WriteTimestamp.LessEq(fate.PushedTo) {
		e.Txn.WriteTimestamp = fate.PushedTo.Next()
	}
	return nil
}

func (e *Env) needTxn(what string) error {
	if e.Txn == nil || len(e.Txn.Key) == 0 {
		return &kv.InvalidRequestError{Detail: what + " without a transaction, or without its anchor"}
	}
	return nil
}

func (e *Env) heartbeat(r *kv.HeartbeatTxnRequest, res *Result) (kv.Response, error) {
	if err := e.needTxn("a heartbeat"); err != nil {
		return nil, err
	}
	rec, err := LoadRecord(e.rw, e.Txn.Key, e.Txn.ID)
	if err != nil {
		return nil, err
	}
	if rec == nil {
		fate := e.TSCache.Fate(&e.Txn.TxnMeta)
		switch {
		case fate.Ended:
			return nil, &kv.AbortedError{Reason: "another transaction aborted it, or it is over already"}
		case fate.MayBeEnded:
			// It may still commit in one phase, which needs no record.
			return &kv.HeartbeatTxnResponse{}, nil
		}
		if err := e.mayCreate(false); err != nil {
			return nil, err
		}
		res.Changed = &e.Txn.ID
		return &kv.HeartbeatTxnResponse{}, e.storeRecord(e.record(kv.TxnPending))
	}
	switch rec.Status {
	case kv.TxnAborted:
		return nil, &kv.AbortedError{Reason: "another transaction aborted it"}
	case kv.TxnCommitted:
		e.Txn.Status = kv.TxnCommitted
		return &kv.HeartbeatTxnResponse{}, nil
	}
	rec.LastHeartbeat.Forward(e.Now)
	rec.Epoch = max(rec.Epoch, e.Txn.Epoch)
	if rec.Status == kv.TxnPending {
		e.Txn.WriteTimestamp.Forward(rec.WriteTimestamp)
	}
	return &kv.HeartbeatTxnResponse{}, e.storeRecord(rec)
}

// queryIntent reports whether an in-flight write is there. If not, the timestamp cache keeps
// it from ever landing at or below the transaction's timestamp (S11): the read is nobody's, so
// that it counts against the transaction itself.
func (e *Env) queryIntent(r *kv.QueryIntentRequest, res *Result) (kv.Response, error) {
	in, ok, err := mvcc.FindIntent(e.reader(), r.Key)
	if err != nil {
		return nil, err
	}
	if ok && in.Txn.ID == r.Txn.ID && in.Txn.Epoch == r.Txn.Epoch && in.Txn.Seq >= r.Txn.Seq &&
		in.Txn.WriteTimestamp.LessEq(r.Txn.WriteTimestamp) {
		return &kv.QueryIntentResponse{Found: true}, nil
	}
	if e.ReadLimit.Less(r.Txn.WriteTimestamp) {
		// The next leaseholder's low-water mark (S4) must cover the mark made here.
		return nil, errAboveReadLimit(r.Txn.WriteTimestamp)
	}
	res.Reads = append(res.Reads, Read{Span: keys.Span{Key: r.Key}, TS: r.Txn.WriteTimestamp})
	return &kv.QueryIntentResponse{}, nil
}

// AboveReadLimitError asks the caller to wait until the lease covers TS (S2 d), and to
// evaluate again.
type AboveReadLimitError struct{ TS hlc.Timestamp }

func (e *AboveReadLimitError) Error() string {
	return fmt.Sprintf("timestamp %s is beyond what the lease covers yet; try again", e.TS)
}

func errAboveReadLimit(ts hlc.Timestamp) error { return &AboveReadLimitError{TS: ts} }

// recoverTxn decides a STAGING transaction (S11). A transaction without a record was
// committed and every intent of it resolved, or it was aborted for good: what is answered
// then has no effect.
func (e *Env) recoverTxn(r *kv.RecoverTxnRequest, res *Result) (kv.Response, error) {
	rec, err := LoadRecord(e.rw, r.Key, r.Txn.ID)
	if err != nil {
		return nil, err
	}
	if rec == nil {
		gone := kv.Txn{TxnMeta: r.Txn, Status: kv.TxnAborted}
		if r.AllWritten {
			gone.Status = kv.TxnCommitted
		}
		return &kv.RecoverTxnResponse{Txn: gone}, nil
	}
	if rec.Status != kv.TxnStaging || rec.Epoch != r.Txn.Epoch || rec.WriteTimestamp != r.Txn.WriteTimestamp {
		return &kv.RecoverTxnResponse{Txn: *rec}, nil // somebody else decided, or it went on
	}
	switch {
	case r.AllWritten:
		rec.Status = kv.TxnCommitted
	case r.Reopen:
		rec.Status, rec.InFlight, rec.LockSpans = kv.TxnPending, nil, nil
		rec.LastHeartbeat.Forward(e.Now)
		res.Changed = &rec.ID
		return &kv.RecoverTxnResponse{Txn: *rec}, e.storeRecord(rec)
	default:
		rec.Status = kv.TxnAborted
	}
	for _, w := range rec.InFlight {
		rec.LockSpans = append(rec.LockSpans, keys.Span{Key: w.Key})
	}
	rec.InFlight = nil
	res.Changed = &rec.ID
	return &kv.RecoverTxnResponse{Txn: *rec}, e.storeRecord(rec)
}

// Push is what a push of a transaction leads to.
type Push struct {
	// Pushee is what is known now.
	Pushee kv.Txn
	// Wait: the push has to wait; ask again when the record changed, or at Until.
	Wait  bool
	Until hlc.Timestamp
	// Batch is to be replicated first; nil if nothing changes. The caller closes it.
	Batch *storage.Batch
	// Ended and PushedTo are marks for a transaction without a record, to be set before the
	// latches are released (S10).
	Ended    bool
	PushedTo hlc.Timestamp
}

// waitOnly is how long a push that only waits sleeps between looks.
const waitOnly = 5 * time.Second

// PushTxn evaluates a push under an exclusive latch on the record. The lives, in nanoseconds,
// say how long a transaction may be silent; silence before grace does not count: after the
// lease moved, coordinators get a moment.
func (e *Env) PushTxn(r *kv.PushTxnRequest, pendingLife, stagingLife int64, grace hlc.Timestamp) (Push, error) {
	rec, err := LoadRecord(e.Engine, r.Key, r.Pushee.ID)
	if err != nil {
		return Push{}, err
	}
	if rec == nil {
		return e.pushUnrecorded(r, pendingLife, grace)
	}
	p := Push{Pushee: *rec}
	switch rec.Status {
	case kv.TxnCommitted, kv.TxnAborted:
		return p, nil
	case kv.TxnStaging:
		alive := rec.LastHeartbeat.Max(grace)
		until := hlc.Timestamp{WallNanos: alive.WallNanos + stagingLife}
		p.Wait, p.Until = r.Kind != kv.PushTouch && !r.Force && e.Now.Less(until), until
		return p, nil
	}
	until := hlc.Timestamp{WallNanos: rec.LastHeartbeat.Max(grace).WallNanos + pendingLife}
	if r.WaitOnly {
		p.Wait, p.Until = true, e.Now.Add(waitOnly)
		return p, nil
	}
	switch {
	case until.LessEq(e.Now) || (r.Force && r.Kind == kv.PushAbort):
		p.Pushee.Status = kv.TxnAborted
	case r.Kind == kv.PushTimestamp && r.PushTo.Less(rec.WriteTimestamp), r.Kind == kv.PushTouch:
		return p, nil
	case r.Kind == kv.PushTimestamp:
		p.Pushee.WriteTimestamp = r.PushTo.Next()
	default:
		p.Wait, p.Until = true, until
		return p, nil
	}
	p.Batch = e.Engine.NewBatch()
	e.rw = p.Batch
	err = e.storeRecord(&p.Pushee)
	e.rw = nil
	return p, err
}

func (e *Env) pushUnrecorded(r *kv.PushTxnRequest, pendingLife int64, grace hlc.Timestamp) (Push, error) {
	p := Push{Pushee: kv.Txn{TxnMeta: r.Pushee, Status: kv.TxnPending}}
	p.Pushee.Key = r.Key
	fate := e.TSCache.Fate(&r.Pushee)
	if fate.Ended {
		p.Pushee.Status = kv.TxnAborted
		return p, nil
	}
	p.Pushee.WriteTimestamp.Forward(fate.PushedTo)
	until := hlc.Timestamp{WallNanos: r.Pushee.MinTimestamp.Max(grace).WallNanos + pendingLife}
	if r.WaitOnly {
		p.Wait, p.Until = true, e.Now.Add(waitOnly)
		return p, nil
	}
	switch {
	case until.LessEq(e.Now) || (r.Force && r.Kind == kv.PushAbort):
		if e.ReadLimit.Less(r.Pushee.MinTimestamp) {
			return p, errAboveReadLimit(r.Pushee.MinTimestamp)
		}
		p.Ended, p.Pushee.Status = true, kv.TxnAborted
	case r.Kind == kv.PushTimestamp && r.PushTo.Less(p.Pushee.WriteTimestamp), r.Kind == kv.PushTouch:
	case r.Kind == kv.PushTimestamp:
		if e.ReadLimit.Less(r.PushTo) {
			return p, errAboveReadLimit(r.PushTo)
		}
		p.PushedTo = r.PushTo
		p.Pushee.WriteTimestamp = r.PushTo.Next()
	default:
		p.Wait, p.Until = true, until
	}
	return p, nil
}
