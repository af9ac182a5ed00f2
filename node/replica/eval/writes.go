package eval

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
)

type hlcTimestamp = hlc.Timestamp

// errNotOnePhase sends a batch the long way.
var errNotOnePhase = errors.New("eval: not in one phase")

// write puts one value, as an intent or, outside a transaction and in one phase, as a version.
func (e *Env) write(key keys.Key, value []byte, del bool, o mvcc.PutOptions, res *Result) error {
	var landed hlc.Timestamp
	o.Txn, o.Stats, o.Landed = e.Txn, &res.Stats, &landed
	intent, err := mvcc.Put(e.rw, key, e.writeTimestamp(), value, del, o)
	var tooOld *kv.WriteTooOldError
	switch {
	case errors.Is(err, mvcc.ErrNotOnePhase):
		return errNotOnePhase
	case errors.As(err, &tooOld):
		if e.Txn != nil && e.Txn.Isolation == kv.Snapshot && !o.Cond.Check && e.Txn.ReadTimestamp.Less(tooOld.Actual) {
			return &kv.RetryError{Reason: kv.RetryWriteTooOld, Detail: tooOld.Error()}
		}
		return writeTooOld{tooOld}
	case err != nil:
		return err
	case intent != nil:
		res.Intents = append(res.Intents, *intent)
		return nil
	}
	if e.Txn != nil && !o.OnePhase {
		// REQUIRES: S8, S11; an earlier write of the transaction was moved, by a push that its
		// coordinator has not heard of: this batch, its end included, goes there, too.
		e.moveWrites(landed)
		res.Written = append(res.Written, key)
	}
	return nil
}

func (e *Env) put(r *kv.PutRequest, res *Result) (kv.Response, error) {
	return &kv.PutResponse{}, e.write(r.Key, r.Value, r.Delete, mvcc.PutOptions{Seq: r.Seq, Cond: r.Cond}, res)
}

// maxDeletes bounds the keys of one DeleteRange, so that it fits a command.
const maxDeletes = 2000

func (e *Env) deleteRange(r *kv.DeleteRangeRequest, res *Result) (kv.Response, error) {
	return e.deleteRangeIn(r, res, false)
}

func (e *Env) deleteRangeIn(r *kv.DeleteRangeRequest, res *Result, onePhase bool) (kv.Response, error) {
	most := smaller(smaller(maxDeletes, e.Header.MaxSpanKeys), e.ScanKeys)
	ts := e.readTimestamp()
	if e.Txn == nil {
		ts = e.Timestamp
	}
	got, err := mvcc.Scan(e.reader(), r.Span, ts, mvcc.ScanOptions{
		ReadOptions: e.readOptions(kv.LockExclusive), MaxKeys: most, TargetBytes: e.ResponseBytes,
		Filter: func(keys.Key, []byte) (bool, []byte, error) { return true, nil, nil }})
	if err != nil {
		var tooOld *kv.WriteTooOldError
		if e.Txn == nil && errors.As(err, &tooOld) {
			return nil, writeTooOld{tooOld}
		}
		return nil, err
	}
	if len(got.Intents) > 0 {
		res.Intents = append(res.Intents, got.Intents...)
		return &kv.DeleteRangeResponse{}, nil
	}
	resume := got.Resume
	deleted := int64(0)
	for i := range got.Rows {
		key := got.Rows[i].Key
		if e.rw.Len()+len(key)*3+256 > maxBatchBytes*3/4 && i > 0 {
			resume = &keys.Span{Key: key, EndKey: r.Span.End()}
			break
		}
		if err := e.write(key, nil, true, mvcc.PutOptions{Seq: r.Seq, OnePhase: onePhase}, res); err != nil {
			return nil, err
		}
		deleted++
	}
	if onePhase && resume != nil {
		return nil, errNotOnePhase
	}
	seen := scanned(&kv.ScanRequest{Span: r.Span}, resume)
	if !seen.IsPoint() {
		res.Reads = append(res.Reads, Read{Span: seen, TS: ts, Txn: e.txnID()})
	}
	return &kv.DeleteRangeResponse{Deleted: deleted, ResumeSpan: resume}, nil
}

func (e *Env) increment(r *kv.IncrementRequest, res *Result) (kv.Response, error) {
	if e.Txn != nil {
		return nil, &kv.InvalidRequestError{Detail: "an increment in a transaction"}
	}
	got, err := mvcc.Get(e.rw, r.Key, e.Timestamp, mvcc.ReadOptions{FailOnMoreRecent: true})
	if err != nil {
		var tooOld *kv.WriteTooOldError
		if errors.As(err, &tooOld) {
			return nil, writeTooOld{tooOld}
		}
		return nil, err
	}
	if got.Intent != nil {
		res.Intents = append(res.Intents, *got.Intent)
		return &kv.IncrementResponse{}, nil
	}
	var v int64
	if got.Exists {
		if len(got.Value) != 8 {
			return nil, &kv.InvalidRequestError{Detail: fmt.Sprintf("key %s holds %d bytes, no 8-byte integer", r.Key, len(got.Value))}
		}
		v = int64(binary.BigEndian.Uint64(got.Value))
	}
	sum := v + r.Delta
	if (r.Delta > 0 && sum < v) || (r.Delta < 0 && sum > v) {
		return nil, &kv.InvalidRequestError{Detail: fmt.Sprintf("key %s: %d + %d overflows 64 bits", r.Key, v, r.Delta)}
	}
	err = e.write(r.Key, binary.BigEndian.AppendUint64(nil, uint64(sum)), false, mvcc.PutOptions{}, res)
	return &kv.IncrementResponse{NewValue: sum}, err
}

// gc evaluates garbage collection. The threshold is in the command itself (S25): versions go
// in the same atomic step at the earliest, and the caller raises the threshold in memory
// before it proposes.
func (e *Env) gc(r *kv.GCRequest, res *Result) (kv.Response, error) {
	if e.Now.Less(r.Threshold) {
		return nil, &kv.InvalidRequestError{Detail: fmt.Sprintf("GC threshold %s is in the future (now %s)", r.Threshold, e.Now)}
	}
	res.GCThreshold = r.Threshold
	if len(r.Keys) > 0 {
		if _, err := mvcc.GCKeys(e.rw, r.Keys, r.Threshold, &res.Stats); err != nil {
			return nil, err
		}
	}
	return &kv.GCResponse{}, nil
}

func (e *Env) resolveIntent(r *kv.ResolveIntentRequest, res *Result) (kv.Response, error) {
	if r.Status == kv.TxnStaging {
		return nil, &kv.InvalidRequestError{Detail: "intents of a staging transaction can't be resolved; recover it first"}
	}
	n, rest, err := e.resolveSpan(r.Span, mvcc.Resolution{Txn: r.Txn, Status: r.Status, IgnoredSeqs: r.IgnoredSeqs, Stats: &res.Stats,
		Room: func(n int) bool { return e.rw.Empty() || e.rw.Len()+n <= maxBatchBytes*3/4 }}, maxResolve)
	if err != nil {
		return nil, err
	}
	done := r
	if rest != nil && rest.Key.Equal(r.Span.Key) {
		res.Rest = append(res.Rest, r)
		return &kv.ResolveIntentResponse{}, nil
	}
	if rest != nil {
		more, part := *r, *r
		more.Span = *rest
		part.Span.EndKey = rest.Key
		res.Rest = append(res.Rest, &more)
		done = &part
	}
	res.Resolved = append(res.Resolved, done)
	return &kv.ResolveIntentResponse{Resolved: n}, nil
}

// maxResolve bounds the intents that one request resolves in one command.
const maxResolve = 5000

// resolveSpan resolves up to about most intents, or as many as fit a command, and returns
// what is left of the span.
func (e *Env) resolveSpan(s keys.Span, r mvcc.Resolution, most int64) (int64, *keys.Span, error) {
	if s.IsPoint() {
		did, err := mvcc.ResolveIntent(e.rw, s.Key, r)
		if errors.Is(err, mvcc.ErrNoRoom) {
			return 0, &s, nil
		}
		if err != nil || !did {
			return 0, nil, err
		}
		return 1, nil, nil
	}
	const step = 50
	var total int64
	for {
		if e.rw.Len() > maxBatchBytes/3 || total >= most {
			return total, &s, nil
		}
		n, resume, err := mvcc.ResolveIntentRange(e.rw, s, r, step)
		total += n
		if err != nil || resume == nil {
			return total, nil, err
		}
		s = *resume
	}
}
