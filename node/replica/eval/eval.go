package eval

import (
	"errors"
	"fmt"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/replica/concurrency"
	"github.com/atolldb/atoll/node/storage"
)

// maxBatchBytes bounds a write batch: with its command it must fit one raft entry of 1 MiB.
const maxBatchBytes = 1<<20 - 32<<10

// maxMoves bounds how often one evaluation starts over at a later timestamp.
const maxMoves = 30

// Env is what one evaluation may look at. REQUIRES: S6; the caller holds latches on all of it.
type Env struct {
	Engine *storage.StateEngine
	Desc   *kv.RangeDescriptor
	Header *kv.Header
	// Txn is the evaluation's own copy: its timestamps move. Nil outside a transaction.
	Txn *kv.Txn
	// Timestamp is where a batch outside a transaction is evaluated; Fixed says that the
	// client chose it. UncertaintyLimit belongs to it.
	Timestamp        hlc.Timestamp
	Fixed            bool
	UncertaintyLimit hlc.Timestamp
	// Now is the leaseholder's clock, ReadLimit its lease's (S2 d).
	Now       hlc.Timestamp
	ReadLimit hlc.Timestamp
	TSCache   *concurrency.TSCache
	// Locked reports whether somebody else's lock keeps this batch from locking key.
	Locked   func(key keys.Key, s kv.LockStrength) bool
	Pushdown Pushdown
	// Limits of what reads return together, and of local intents resolved by EndTxn.
	ResponseBytes, ScanKeys int64
	LocalResolve            int

	rw        *storage.Batch // nil for reads
	bytes     int64          // returned so far
	keys      int64
	refreshed bool // the batch's RefreshSpans, up to the read timestamp
}

// Result is an evaluation's outcome. If Intents or Locked is set, the batch must wait for
// them and be evaluated again, and nothing else of it counts.
type Result struct {
	Responses []kv.Response
	// Intents are foreign, and in the way.
	Intents []mvcc.Intent
	// Locked is a key whose lock is in the way.
	Locked keys.Key

	// Batch holds the writes; nil or empty if there are none. The caller closes it.
	Batch *storage.Batch
	// Stats is by how much Batch changes what the range holds.
	Stats mvcc.Stats

	// Reads go into the timestamp cache before latches are released (S7).
	Reads []Read
	// Locks are to be taken; also when the evaluation failed with WriteTooOldError, so that
	// the transaction that comes back at a later timestamp need not queue again.
	Locks []Lock
	// Written are the keys that got an intent of the transaction, at WriteTimestamp.
	Written        []keys.Key
	WriteTimestamp hlc.Timestamp
	// Ended is set when the batch ended its transaction.
	Ended *Ended
	// Resolved are the resolutions that took place.
	Resolved []*kv.ResolveIntentRequest
	// Rest is what did not fit this command and is to be evaluated next.
	Rest []kv.Request
	// Changed is the transaction whose record changed.
	Changed *kv.TxnID
	// GCThreshold is the new one.
	GCThreshold hlc.Timestamp
}

// Read is a span that was read.
type Read struct {
	Span keys.Span
	TS   hlc.Timestamp
	Txn  kv.TxnID
}

// Lock is a key that a locking read locks.
type Lock struct {
	Key      keys.Key
	Strength kv.LockStrength
}

// Ended says how a batch ended its transaction.
type Ended struct {
	Txn      kv.Txn // final status and timestamp
	OnePhase bool
	Staging  bool
	// Remaining are the spans still to be resolved elsewhere; the record keeps them if Record.
	Remaining []keys.Span
	Record    bool
}

// Evaluate evaluates a batch. It starts over at a later timestamp where that is allowed and
// helps. An error means that nothing of the batch happens (but see Result.Locks).
func (e *Env) Evaluate(ba *kv.BatchRequest, write bool) (Result, error) {
	if !write {
		return e.moving(ba, e.run)
	}
	res, err := e.moving(ba, func(ba *kv.BatchRequest) (Result, error) {
		if end := onePhaseEnd(ba); end != nil {
			res, err := e.inBatch(ba, e.onePhase)
			if !errors.Is(err, errNotOnePhase) {
				return res, err
			}
		}
		return e.inBatch(ba, e.runWrites)
	})
	if err == nil && res.Batch != nil && res.Batch.Len() > maxBatchBytes {
		err = &kv.InvalidRequestError{Detail: fmt.Sprintf("the writes of one batch take %d bytes, at most %d fit; send smaller batches", res.Batch.Len(), maxBatchBytes)}
	}
	if err != nil || len(res.Intents) > 0 || res.Locked != nil {
		res.close()
	}
	return res, err
}

func (r *Result) close() {
	if r.Batch != nil {
		_ = r.Batch.Close()
		r.Batch = nil
	}
}

// moving runs fn until it does not ask for a later timestamp any more.
func (e *Env) moving(ba *kv.BatchRequest, fn func(*kv.BatchRequest) (Result, error)) (Result, error) {
	for moves := 0; ; moves++ {
		e.bytes, e.keys = 0, 0
		res, err := fn(ba)
		if err == nil || moves == maxMoves || !e.move(ba, err) {
			if e.refreshed {
				for _, s := range ba.RefreshSpans {
					res.Reads = append(res.Reads, Read{Span: s, TS: e.Txn.ReadTimestamp, Txn: e.txnID()})
				}
			}
			return res, unwrapMoved(err)
		}
		res.close()
	}
}

// writeTooOld marks a WriteTooOldError of a write, which only moves the write timestamp.
type writeTooOld struct{ *kv.WriteTooOldError }

func (w writeTooOld) Unwrap() error { return w.WriteTooOldError }

func unwrapMoved(err error) error {
	if w, ok := err.(writeTooOld); ok {
		return w.WriteTooOldError
	}
	return err
}

// move moves the batch's timestamp as err demands, if it may.
func (e *Env) move(ba *kv.BatchRequest, err error) bool {
	var uncertain *kv.UncertaintyError
	var tooOld *kv.WriteTooOldError
	if w, ok := err.(writeTooOld); ok {
		return e.moveWrites(w.Actual.Next())
	}
	switch {
	case errors.As(err, &uncertain):
		return e.moveReads(ba, uncertain.Existing)
	case errors.As(err, &tooOld):
		// The newest possible: the next statement then meets fewer newer versions.
		to := tooOld.Actual.Next()
		if now := e.Now; to.Less(now) && now.LessEq(e.ReadLimit) {
			to = now
		}
		return e.moveReads(ba, to)
	}
	return false
}

// moveReads moves the read timestamp, if nothing was read before this batch.
func (e *Env) moveReads(ba *kv.BatchRequest, to hlc.Timestamp) bool {
	if e.ReadLimit.Less(to) {
		return false // REQUIRES: S2 (d)
	}
	if e.Txn == nil {
		return !e.Fixed && e.Timestamp.Forward(to)
	}
	if !ba.CanForwardReadTimestamp && !e.refreshEarlier(ba, to) || !e.Txn.ReadTimestamp.Forward(to) {
		return false
	}
	e.Txn.WriteTimestamp.Forward(to)
	return true
}

// MaxRefreshSpans bounds the RefreshSpans that are looked at.
const MaxRefreshSpans = 16

// refreshEarlier proves that what the transaction read before this batch is as it was up to
// to (S8). false leaves that to the client, whose refresh also waits for intents. The caller
// holds latches on the spans.
func (e *Env) refreshEarlier(ba *kv.BatchRequest, to hlc.Timestamp) bool {
	if len(ba.RefreshSpans) == 0 || len(ba.RefreshSpans) > MaxRefreshSpans || !e.Txn.ReadTimestamp.Less(to) {
		return false
	}
	for _, s := range ba.RefreshSpans {
		if !e.local(s) {
			return false
		}
		newer, err := mvcc.NewerVersionExists(e.reader(), s, e.Txn.ReadTimestamp, to, e.Txn)
		if err != nil || newer != nil {
			return false
		}
	}
	e.refreshed = true
	return true
}

func (e *Env) moveWrites(to hlc.Timestamp) bool {
	if e.Txn == nil {
		return e.Timestamp.Forward(to)
	}
	return e.Txn.WriteTimestamp.Forward(to)
}

// inBatch gives fn a fresh batch.
func (e *Env) inBatch(ba *kv.BatchRequest, fn func(*kv.BatchRequest) (Result, error)) (Result, error) {
	e.rw = e.Engine.NewBatch()
	res, err := fn(ba)
	if err != nil || len(res.Intents) > 0 || res.Locked != nil {
		_ = e.rw.Close()
		res.Batch = nil
	} else {
		res.Batch = e.rw
	}
	e.rw = nil
	return res, err
}

// reader is what reads look at: the batch's own writes count.
func (e *Env) reader() storage.Reader {
	if e.rw != nil {
		return e.rw
	}
	return e.Engine
}

// readTimestamp is where reads of the batch are evaluated.
func (e *Env) readTimestamp() hlc.Timestamp {
	if e.Txn != nil {
		return e.Txn.ReadTimestamp
	}
	return e.Timestamp
}

func (e *Env) writeTimestamp() hlc.Timestamp {
	if e.Txn != nil {
		return e.Txn.WriteTimestamp
	}
	return e.Timestamp
}

func (e *Env) uncertaintyLimit() hlc.Timestamp {
	if e.Txn != nil {
		return e.Txn.UncertaintyLimit
	}
	return e.UncertaintyLimit
}

func (e *Env) txnID() kv.TxnID {
	if e.Txn != nil {
		return e.Txn.ID
	}
	return kv.TxnID{}
}

// runWrites is run after the write timestamp was moved to where writes may land (S8).
func (e *Env) runWrites(ba *kv.BatchRequest) (Result, error) {
	e.aboveReads(ba)
	return e.run(ba)
}

// aboveReads moves the write timestamp above what was read of the keys to be written, and
// above the low-water mark, which stands for closed timestamps and earlier leases (S4, S24).
func (e *Env) aboveReads(ba *kv.BatchRequest) {
	if e.Txn != nil {
		e.Txn.WriteTimestamp.Forward(e.Txn.ReadTimestamp)
	}
	id := e.txnID()
	for _, req := range ba.Requests {
		var span keys.Span
		switch r := req.(type) {
		case *kv.PutRequest:
			span.Key = r.Key
		case *kv.IncrementRequest:
			span.Key = r.Key
		case *kv.DeleteRangeRequest:
			span = r.Span
		default:
			continue
		}
		r := e.TSCache.Get(span)
		if (r.Txn == kv.TxnID{} || r.Txn != id) {
			e.moveWrites(r.TS.Next())
		} else {
			// Its own read hides what others read up to there: a refresh to a timestamp that the
			// transaction did not keep, because another range refused it, leaves such a one.
			e.moveWrites(r.TS)
		}
	}
}

// run evaluates the requests in order.
func (e *Env) run(ba *kv.BatchRequest) (Result, error) {
	res := Result{Responses: make([]kv.Response, 0, len(ba.Requests))}
	for _, req := range ba.Requests {
		resp, err := e.one(req, &res)
		if err != nil {
			return res, err
		}
		if res.Locked != nil {
			return res, nil
		}
		if e.rw != nil && e.rw.Len() > 2*maxBatchBytes {
			return res, &kv.InvalidRequestError{Detail: fmt.Sprintf("the writes of one batch take more than %d bytes, at most %d fit; send smaller batches", e.rw.Len(), maxBatchBytes)}
		}
		res.Responses = append(res.Responses, resp)
	}
	res.WriteTimestamp = e.writeTimestamp()
	return res, nil
}

func (e *Env) one(req kv.Request, res *Result) (kv.Response, error) {
	switch r := req.(type) {
	case *kv.GetRequest:
		return e.get(r, res)
	case *kv.ScanRequest:
		return e.scan(r, res)
	case *kv.RefreshRequest:
		return e.refresh(r, res)
	case *kv.PutRequest:
		return e.put(r, res)
	case *kv.DeleteRangeRequest:
		return e.deleteRange(r, res)
	case *kv.ClearRangeRequest:
		if e.Now.Less(r.Threshold) {
			return nil, &kv.InvalidRequestError{Detail: fmt.Sprintf("GC threshold %s is in the future (now %s)", r.Threshold, e.Now)}
		}
		res.GCThreshold = r.Threshold
		return &kv.ClearRangeResponse{}, e.rw.DeleteRange(r.Span.Key, r.Span.End())
	case *kv.IncrementRequest:
		return e.increment(r, res)
	case *kv.EndTxnRequest:
		return e.endTxn(r, res)
	case *kv.HeartbeatTxnRequest:
		return e.heartbeat(r, res)
	case *kv.QueryIntentRequest:
		return e.queryIntent(r, res)
	case *kv.RecoverTxnRequest:
		return e.recoverTxn(r, res)
	case *kv.ResolveIntentRequest:
		return e.resolveIntent(r, res)
	case *kv.GCRequest:
		return e.gc(r, res)
	}
	return nil, &kv.InvalidRequestError{Detail: fmt.Sprintf("a %T can't be evaluated here", req)}
}
