package eval

import (
	"fmt"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/storage"
)

// onePhaseEnd returns the batch's EndTxn if it asks for one phase.
func onePhaseEnd(ba *kv.BatchRequest) *kv.EndTxnRequest {
	if ba.Txn == nil || len(ba.Requests) == 0 {
		return nil
	}
	end, ok := ba.Requests[len(ba.Requests)-1].(*kv.EndTxnRequest)
	if !ok || !end.Commit || !end.CanCommitInOnePhase {
		return nil
	}
	for _, req := range ba.Requests[:len(ba.Requests)-1] {
		switch req.(type) {
		case *kv.PutRequest, *kv.DeleteRangeRequest:
		default:
			return nil
		}
	}
	return end
}

// onePhase commits a transaction whose every write is in this batch: as versions, without
// intents or a record. It moves the timestamp by itself only if it knows all the reads, and
// refreshes them (S8). Nothing of the transaction was visible before, so that only a push
// that is remembered for certain stops it: its buffered writes carry S26's conditions.
func (e *Env) onePhase(ba *kv.BatchRequest) (Result, error) {
	end := ba.Requests[len(ba.Requests)-1].(*kv.EndTxnRequest)
	if err := e.needTxn("a commit"); err != nil {
		return Result{}, err
	}
	var rec *kv.Txn
	var err error
	if !end.NoRecord {
		if rec, err = LoadRecord(e.rw, e.Txn.Key, e.Txn.ID); err != nil {
			return Result{}, err
		}
	}
	if rec == nil {
		err = e.mayCreate(true)
	} else {
		err = e.fromRecord(rec)
	}
	if err != nil {
		return Result{}, err
	}
	e.aboveReads(ba)
	res := Result{Responses: make([]kv.Response, 0, len(ba.Requests))}
	for _, req := range ba.Requests[:len(ba.Requests)-1] {
		var resp kv.Response
		var err error
		switch r := req.(type) {
		case *kv.PutRequest:
			resp = &kv.PutResponse{}
			err = e.write(r.Key, r.Value, r.Delete, mvcc.PutOptions{Seq: r.Seq, Cond: r.Cond, OnePhase: true}, &res)
		case *kv.DeleteRangeRequest:
			resp, err = e.deleteRangeIn(r, &res, true)
		}
		if err != nil {
			return res, err
		}
		if e.rw.Len() > maxBatchBytes {
			return res, errNotOnePhase
		}
		res.Responses = append(res.Responses, resp)
	}
	if len(res.Intents) > 0 {
		return res, nil
	}
	// The refresh must not take the batch's own versions for somebody else's: it reads the
	// state before them, which the latches hold still.
	if err := e.commitAt(end, e.Engine, &res); err != nil || len(res.Intents) > 0 {
		return res, err
	}
	if rec != nil {
		if err := e.dropRecord(&e.Txn.TxnMeta); err != nil {
			return res, err
		}
	}
	e.Txn.Status = kv.TxnCommitted
	ended := &Ended{Txn: *e.record(kv.TxnCommitted), OnePhase: true}
	for _, s := range end.LockSpans {
		if !e.local(s) {
			ended.Remaining = append(ended.Remaining, s) // locks without intents
		}
	}
	res.Ended = ended
	res.Responses = append(res.Responses, &kv.EndTxnResponse{OnePhase: true, CommitTimestamp: e.Txn.WriteTimestamp})
	return res, nil
}

// fromRecord takes over what an existing record of the batch's own, unfinished transaction says.
func (e *Env) fromRecord(rec *kv.Txn) error {
	switch rec.Status {
	case kv.TxnAborted:
		return &kv.AbortedError{Reason: "another transaction aborted it"}
	case kv.TxnCommitted:
		return &kv.InvalidRequestError{Detail: "the transaction has committed already"}
	}
	if rec.Epoch > e.Txn.Epoch {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("the transaction is in epoch %d, the request was sent in epoch %d", rec.Epoch, e.Txn.Epoch)}
	}
	e.Txn.WriteTimestamp.Forward(rec.WriteTimestamp)
	return nil
}

// commitAt checks that the transaction may commit at its write timestamp: its deadline
// (S27), and its reads, which a serializable one must have made there (S8), as r shows them.
func (e *Env) commitAt(end *kv.EndTxnRequest, r storage.Reader, res *Result) error {
	ts := e.Txn.WriteTimestamp
	if !end.Deadline.IsEmpty() && end.Deadline.LessEq(ts) {
		return &kv.RetryError{Reason: kv.RetryCommitDeadline, Detail: fmt.Sprintf("the commit is at %s, its deadline is %s", ts, end.Deadline)}
	}
	if e.Txn.Isolation != kv.Serializable || ts == e.Txn.ReadTimestamp {
		return nil
	}
	if !e.allReadsHere(end) {
		return &kv.WriteTooOldError{Key: e.Txn.Key, Actual: ts.Prev()}
	}
	if e.ReadLimit.Less(ts) && len(end.ReadSpans) > 0 {
		return errAboveReadLimit(ts) // S2 (d)
	}
	for _, s := range end.ReadSpans {
		if err := e.refreshSpan(r, s, e.Txn.ReadTimestamp, ts, res); err != nil {
			return err
		}
	}
	e.Txn.ReadTimestamp = ts
	return nil
}

// allReadsHere reports whether the request lists all reads, and they lie in this range still.
func (e *Env) allReadsHere(end *kv.EndTxnRequest) bool {
	for _, s := range end.ReadSpans {
		if !e.local(s) {
			return false
		}
	}
	return end.AllReadsHere
}

// local reports whether all of a span lies in the range.
func (e *Env) local(s keys.Span) bool {
	if s.IsPoint() {
		return e.Desc.Contains(s.Key)
	}
	return e.Desc.ContainsSpan(s)
}

// split cuts a span into the part in the range and the others.
func (e *Env) split(s keys.Span) (here keys.Span, some bool, elsewhere []keys.Span) {
	if e.local(s) {
		return s, true, nil
	}
	if s.IsPoint() || !s.Key.Less(e.Desc.End) || !e.Desc.Start.Less(s.EndKey) {
		return here, false, []keys.Span{s}
	}
	here = s
	if s.Key.Less(e.Desc.Start) {
		elsewhere = append(elsewhere, keys.Span{Key: s.Key, EndKey: e.Desc.Start})
		here.Key = e.Desc.Start
	}
	if e.Desc.End.Less(s.EndKey) {
		elsewhere = append(elsewhere, keys.Span{Key: e.Desc.End, EndKey: s.EndKey})
		here.EndKey = e.Desc.End
	}
	return here, true, elsewhere
}

// withWritten adds to a transaction's spans the keys that this very batch wrote, where the
// client does not name them: a commit that turned out not to be in one phase has left intents
// there, which nobody else would know of. Their latches are held.
func (e *Env) withWritten(spans []keys.Span, written []keys.Key) []keys.Span {
	if len(written) == 0 {
		return spans
	}
	points := make(map[string]bool, len(spans))
	var wide []keys.Span
	for _, s := range spans {
		if s.IsPoint() {
			points[string(s.Key)] = true
		} else {
			wide = append(wide, s)
		}
	}
	out := spans[:len(spans):len(spans)]
next:
	for _, k := range written {
		if points[string(k)] {
			continue
		}
		for _, s := range wide {
			if s.Contains(k) {
				continue next
			}
		}
		points[string(k)] = true
		out = append(out, keys.Span{Key: k})
	}
	return out
}

// endTxn ends the transaction with a record where one is needed.
func (e *Env) endTxn(r *kv.EndTxnRequest, res *Result) (kv.Response, error) {
	if err := e.needTxn("an end"); err != nil {
		return nil, err
	}
	if len(res.Intents) > 0 {
		return &kv.EndTxnResponse{}, nil // the batch will be evaluated again
	}
	rec, err := LoadRecord(e.rw, e.Txn.Key, e.Txn.ID)
	if err != nil {
		return nil, err
	}
	if !r.Commit {
		return e.abort(r, rec, res)
	}
	if rec == nil {
		if err := e.mayCreate(false); err != nil {
			return nil, err
		}
		return e.commit(r, rec, res)
	}
	if rec.Status == kv.TxnCommitted && rec.Epoch == e.Txn.Epoch {
		// Recovered by somebody else, or sent twice.
		e.Txn.WriteTimestamp, e.Txn.Status = rec.WriteTimestamp, kv.TxnCommitted
		return e.finish(r, rec, kv.TxnCommitted, res)
	}
	staged := rec.Status == kv.TxnStaging && rec.Epoch == e.Txn.Epoch
	if staged && len(r.InFlight) > 0 {
		// S11: once staged, it is neither staged again nor moved before recovery has decided.
		if sameWrites(rec.InFlight, r.InFlight) && rec.WriteTimestamp == e.Txn.WriteTimestamp {
			return &kv.EndTxnResponse{Staging: true, CommitTimestamp: rec.WriteTimestamp}, nil
		}
		return nil, &kv.InvalidRequestError{Detail: "the transaction is staged already; it must be recovered first"}
	}
	if staged {
		if rec.WriteTimestamp.Less(e.Txn.WriteTimestamp) {
			return nil, &kv.RetryError{Reason: kv.RetrySerializable,
				Detail: fmt.Sprintf("staged at %s, but a write landed at %s", rec.WriteTimestamp, e.Txn.WriteTimestamp)}
		}
		e.Txn.WriteTimestamp, e.Txn.Status = rec.WriteTimestamp, kv.TxnCommitted
		return e.finish(r, rec, kv.TxnCommitted, res)
	}
	if err := e.fromRecord(rec); err != nil {
		return nil, err
	}
	return e.commit(r, rec, res)
}

func sameWrites(a, b []kv.InFlightWrite) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Seq != b[i].Seq || a[i].Epoch != b[i].Epoch || !a[i].Key.Equal(b[i].Key) {
			return false
		}
	}
	return true
}

// commit commits or stages a pending transaction.
func (e *Env) commit(r *kv.EndTxnRequest, rec *kv.Txn, res *Result) (kv.Response, error) {
	if err := e.commitAt(r, e.reader(), res); err != nil || len(res.Intents) > 0 {
		return &kv.EndTxnResponse{}, err
	}
	if len(r.InFlight) > 0 && !e.allHere(r.InFlight, res) {
		t := e.record(kv.TxnStaging)
		t.InFlight, t.LockSpans = r.InFlight, r.LockSpans
		e.Txn.Status = kv.TxnStaging
		res.Ended = &Ended{Txn: *t, Staging: true, Record: true}
		return &kv.EndTxnResponse{Staging: true, CommitTimestamp: t.WriteTimestamp}, e.storeRecord(t)
	}
	e.Txn.Status = kv.TxnCommitted
	return e.finish(r, rec, kv.TxnCommitted, res)
}

// allHere reports whether this very batch makes every write in flight: then nothing needs
// to be proved, and the commit is explicit at once.
func (e *Env) allHere(writes []kv.InFlightWrite, res *Result) bool {
	if len(writes) > len(res.Written) {
		return false
	}
	written := make(map[string]bool, len(res.Written))
	for _, k := range res.Written {
		written[string(k)] = true
	}
	for _, w := range writes {
		if !written[string(w.Key)] || w.Epoch != e.Txn.Epoch {
			return false
		}
	}
	return true
}

func (e *Env) abort(r *kv.EndTxnRequest, rec *kv.Txn, res *Result) (kv.Response, error) {
	if rec != nil && rec.Status == kv.TxnCommitted {
		e.Txn.Status, e.Txn.WriteTimestamp = kv.TxnCommitted, rec.WriteTimestamp
		return e.finish(r, rec, kv.TxnCommitted, res)
	}
	e.Txn.Status = kv.TxnAborted
	return e.finish(r, rec, kv.TxnAborted, res)
}

// finish resolves what lies here and writes, or removes, the record. A COMMITTED record
// stays until every span is resolved (S11). An aborted transaction needs none, but for one
// that was STAGING, whose recovery may be under way.
func (e *Env) finish(r *kv.EndTxnRequest, rec *kv.Txn, status kv.TxnStatus, res *Result) (kv.Response, error) {
	t := e.record(status)
	left := e.LocalResolve
	resolution := mvcc.Resolution{Txn: t.TxnMeta, Status: status, IgnoredSeqs: t.IgnoredSeqs, Stats: &res.Stats,
		Room: func(n int) bool { return e.rw.Len()+n <= maxBatchBytes*3/4 }}
	if rec != nil && len(r.LockSpans) == 0 {
		t.LockSpans = append(t.LockSpans, rec.LockSpans...) // not latched here
	}
	for _, s := range e.withWritten(r.LockSpans, res.Written) {
		here, some, elsewhere := e.split(s)
		t.LockSpans = append(t.LockSpans, elsewhere...)
		if !some {
			continue
		}
		if left <= 0 || e.rw.Len() > maxBatchBytes/2 {
			t.LockSpans = append(t.LockSpans, here)
			continue
		}
		n, rest, err := e.resolveSpan(here, resolution, int64(left))
		if err != nil {
			return nil, err
		}
		if rest != nil {
			t.LockSpans = append(t.LockSpans, *rest)
		}
		left -= int(max(n, 1))
	}
	ended := &Ended{Txn: *t, Remaining: t.LockSpans}
	res.Ended = ended
	resp := &kv.EndTxnResponse{CommitTimestamp: t.WriteTimestamp}
	switch {
	case status == kv.TxnCommitted && len(t.LockSpans) > 0,
		status == kv.TxnAborted && rec != nil && rec.Status == kv.TxnStaging:
		ended.Record = true
		return resp, e.storeRecord(t)
	case rec != nil:
		return resp, e.dropRecord(&t.TxnMeta)
	}
	return resp, nil
}
