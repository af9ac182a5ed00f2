package eval

import (
	"errors"
	"fmt"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/storage"
)

func (e *Env) readOptions(lock kv.LockStrength) mvcc.ReadOptions {
	return mvcc.ReadOptions{Txn: e.Txn, UncertaintyLimit: e.uncertaintyLimit(), FailOnMoreRecent: lock != kv.LockNone}
}

// blocked deals with a key that somebody else has locked. skip: leave it out.
func (e *Env) blocked(key keys.Key, lock kv.LockStrength, res *Result) (skip bool) {
	if lock == kv.LockNone || e.Locked == nil || !e.Locked(key, lock) {
		return false
	}
	if e.Header.WaitPolicy != kv.WaitSkipLocked && res.Locked == nil {
		res.Locked = key.Clone()
	}
	return true
}

func (e *Env) get(r *kv.GetRequest, res *Result) (kv.Response, error) {
	if e.blocked(r.Key, r.Lock, res) {
		return &kv.GetResponse{Skipped: true}, nil
	}
	got, err := mvcc.Get(e.reader(), r.Key, e.readTimestamp(), e.readOptions(r.Lock))
	if got.Intent != nil && err == nil {
		if r.Lock != kv.LockNone && e.Header.WaitPolicy == kv.WaitSkipLocked {
			return &kv.GetResponse{Skipped: true}, nil
		}
		res.Intents = append(res.Intents, *got.Intent)
		return &kv.GetResponse{}, nil
	}
	if r.Lock != kv.LockNone {
		res.Locks = append(res.Locks, Lock{r.Key, r.Lock})
	}
	if err != nil {
		return nil, err
	}
	res.Reads = append(res.Reads, Read{Span: keys.Span{Key: r.Key}, TS: e.readTimestamp(), Txn: e.txnID()})
	e.bytes += int64(len(r.Key) + len(got.Value))
	if e.bytes > e.ResponseBytes {
		return nil, &kv.InvalidRequestError{Detail: fmt.Sprintf("the batch returns more than %d bytes; read fewer keys at a time", e.ResponseBytes)}
	}
	return &kv.GetResponse{Value: got.Value, Exists: got.Exists, Version: got.Version}, nil
}

// scanBytes bounds what one scan looks at, whether its filter keeps it or not, so that one
// request does not hold its latches for seconds.
const scanBytes = 64 << 20

func (e *Env) scan(r *kv.ScanRequest, res *Result) (kv.Response, error) {
	o := mvcc.ScanOptions{
		ReadOptions: e.readOptions(r.Lock),
		Reverse:     r.Reverse,
		MaxKeys:     e.ScanKeys,
		TargetBytes: e.ResponseBytes,
		ScanBytes:   scanBytes,
		SkipLocked:  r.Lock != kv.LockNone && e.Header.WaitPolicy == kv.WaitSkipLocked,
	}
	o.MaxKeys = smaller(o.MaxKeys, r.MaxKeys)
	o.MaxKeys = smaller(o.MaxKeys, e.Header.MaxSpanKeys) - e.keys
	o.TargetBytes = smaller(o.TargetBytes, e.Header.TargetBytes) - e.bytes
	if o.MaxKeys <= 0 || o.TargetBytes <= 0 {
		rest := r.Span // the batch's limit is used up
		return &kv.ScanResponse{ResumeSpan: &rest}, nil
	}
	var filter RowFilter
	if len(r.Pushdown) > 0 {
		if e.Pushdown == nil {
			return nil, &kv.InvalidRequestError{Detail: "this node evaluates no filters"}
		}
		var err error
		if filter, err = e.Pushdown.Compile(r.Pushdown); err != nil {
			return nil, &kv.InvalidRequestError{Detail: "filter: " + err.Error()}
		}
	}
	if filter != nil || r.Lock != kv.LockNone {
		o.Filter = e.filter(filter, r.Lock, res)
	}
	got, err := mvcc.Scan(e.reader(), r.Span, e.readTimestamp(), o)
	if err != nil {
		var tooOld *kv.WriteTooOldError
		if r.Lock != kv.LockNone && filter == nil && errors.As(err, &tooOld) {
			res.Locks = append(res.Locks, Lock{tooOld.Key, r.Lock})
		}
		return nil, err
	}
	if len(got.Intents) > 0 && !o.SkipLocked {
		res.Intents = append(res.Intents, got.Intents...)
		return &kv.ScanResponse{}, nil
	}
	if res.Locked != nil {
		return &kv.ScanResponse{}, nil
	}
	if r.Lock != kv.LockNone {
		for i := range got.Rows {
			res.Locks = append(res.Locks, Lock{got.Rows[i].Key, r.Lock})
		}
	}
	e.keys += int64(len(got.Rows))
	e.bytes += got.NumBytes
	if seen := scanned(r, got.Resume); !seen.IsPoint() {
		res.Reads = append(res.Reads, Read{Span: seen, TS: e.readTimestamp(), Txn: e.txnID()})
	}
	return &kv.ScanResponse{Rows: got.Rows, ResumeSpan: got.Resume, NumBytes: got.NumBytes}, nil
}

// filter leaves out what the client's filter does not want and, for SKIP LOCKED, what is
// locked. A row that must be waited for ends up in res.Locked.
func (e *Env) filter(f RowFilter, lock kv.LockStrength, res *Result) func(keys.Key, []byte) (bool, []byte, error) {
	return func(key keys.Key, value []byte) (bool, []byte, error) {
		if f != nil {
			keep, out, err := f.Next(key, value)
			if err != nil || !keep {
				return false, nil, err
			}
			if out != nil {
				value = out
			}
		}
		return !e.blocked(key, lock, res), value, nil
	}
}

// scanned is the part of a scan's span that was read, the gaps included.
func scanned(r *kv.ScanRequest, resume *keys.Span) keys.Span {
	s := keys.Span{Key: r.Span.Key, EndKey: r.Span.End()}
	if resume == nil {
		return s
	}
	if r.Reverse {
		s.Key = resume.End()
	} else {
		s.EndKey = resume.Key
	}
	if !s.Key.Less(s.EndKey) {
		return keys.Span{}
	}
	return s
}

func smaller(a, b int64) int64 {
	if b > 0 && b < a {
		return b
	}
	return a
}

func (e *Env) refresh(r *kv.RefreshRequest, res *Result) (kv.Response, error) {
	if e.Txn == nil {
		return nil, &kv.InvalidRequestError{Detail: "a refresh outside a transaction"}
	}
	to := e.Txn.ReadTimestamp
	if err := e.refreshSpan(e.reader(), r.Span, r.From, to, res); err != nil {
		return nil, err
	}
	return &kv.RefreshResponse{}, nil
}

// refreshSpan proves that nothing foreign appeared in span in (from, to] (S8).
func (e *Env) refreshSpan(r storage.Reader, span keys.Span, from, to hlcTimestamp, res *Result) error {
	newer, err := mvcc.NewerVersionExists(r, span, from, to, e.Txn)
	switch {
	case err != nil:
		return err
	case newer == nil:
	case newer.Intent != nil:
		res.Intents = append(res.Intents, *newer.Intent)
		return nil
	default:
		return &kv.RetryError{Reason: kv.RetrySerializable,
			Detail: fmt.Sprintf("key %s was written at %s, after it was read at %s", newer.Key, newer.Version, from)}
	}
	res.Reads = append(res.Reads, Read{Span: span, TS: to, Txn: e.txnID()})
	return nil
}
