package txn

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// fake is a small model of ranges: MVCC, intents, locks, records, timestamp cache. One
// mutex makes every piece of a batch atomic. It plays DistSender, too.
type fake struct {
	clock *hlc.Clock
	// hook runs before a piece of a batch is evaluated, and after it, with its outcome; it may
	// replace the outcome. Nil leaves it alone.
	before func(ba *kv.BatchRequest) error
	after  func(ba *kv.BatchRequest, err error) error
	trace  func(string)

	mu       sync.Mutex
	cond     *sync.Cond
	splits   []keys.Key
	versions map[string][]fakeVersion // newest first
	intents  map[string]*fakeIntent
	locks    map[string]kv.TxnID
	records  map[kv.TxnID]*kv.Txn
	ended    map[kv.TxnID]bool
	reads    []fakeRead
	waits    map[kv.TxnID]kv.TxnID
	sent     int
}

type fakeVersion struct {
	ts    hlc.Timestamp
	value []byte // nil: tombstone
}

type fakeWrite struct {
	seq   int32
	value []byte
}

type fakeIntent struct {
	meta   kv.TxnMeta
	writes []fakeWrite
}

type fakeRead struct {
	span keys.Span
	ts   hlc.Timestamp
	txn  kv.TxnID
}

func newFake(clock *hlc.Clock, splits ...string) *fake {
	f := &fake{
		clock: clock, versions: map[string][]fakeVersion{}, intents: map[string]*fakeIntent{}, locks: map[string]kv.TxnID{},
		records: map[kv.TxnID]*kv.Txn{}, ended: map[kv.TxnID]bool{}, waits: map[kv.TxnID]kv.TxnID{},
	}
	f.cond = sync.NewCond(&f.mu)
	for _, s := range splits {
		f.splits = append(f.splits, keys.Key(s))
	}
	return f
}

func (f *fake) bounds(k keys.Key) keys.Span {
	s := keys.Span{Key: keys.MinKey, EndKey: keys.MaxKey}
	for _, at := range f.splits {
		if at.Less(k) || at.Equal(k) {
			s.Key = at
		} else {
			s.EndKey = at
			break
		}
	}
	return s
}

// RangeBounds implements rangeBounds.
func (f *fake) RangeBounds(_ context.Context, k keys.Key) (keys.Span, error) { return f.bounds(k), nil }

// put writes a committed version, as a foreign transaction would have.
func (f *fake) put(k, v string, ts hlc.Timestamp) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.commitVersion(k, []byte(v), ts)
	f.cond.Broadcast()
}

func (f *fake) commitVersion(k string, v []byte, ts hlc.Timestamp) {
	f.versions[k] = append(f.versions[k], fakeVersion{ts, v})
	slices.SortFunc(f.versions[k], func(a, b fakeVersion) int { return b.ts.Compare(a.ts) })
}

func (f *fake) newest(k string) fakeVersion {
	if v := f.versions[k]; len(v) > 0 {
		return v[0]
	}
	return fakeVersion{}
}

// Send implements kv.Sender.
func (f *fake) Send(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	if scan, ok := ba.Requests[0].(*kv.ScanRequest); ok && len(ba.Requests) == 1 && !within(f.bounds(scan.Span.Key), scan.Span) {
		return f.sendScan(ctx, ba, scan)
	}
	type piece struct {
		b    keys.Span
		reqs []kv.Request
		idx  []int
	}
	var pieces []*piece
	for i, req := range ba.Requests {
		s := kv.RequestSpan(req, ba.Txn)
		for at := s.Key; ; {
			b := f.bounds(at)
			part := s
			if !s.IsPoint() {
				part.Key = at
				if b.EndKey.Less(part.EndKey) {
					part.EndKey = b.EndKey
				}
			}
			n := slices.IndexFunc(pieces, func(p *piece) bool { return p.b.Key.Equal(b.Key) })
			if n < 0 {
				pieces, n = append(pieces, &piece{b: b}), len(pieces)
			}
			pieces[n].reqs = append(pieces[n].reqs, kv.WithSpan(req, part))
			pieces[n].idx = append(pieces[n].idx, i)
			if s.IsPoint() || !part.EndKey.Less(s.EndKey) {
				break
			}
			at = part.EndKey
		}
	}
	if len(pieces) > 1 {
		for _, req := range ba.Requests {
			if end, ok := req.(*kv.EndTxnRequest); ok && end.CanCommitInOnePhase {
				return nil, &kv.OnePhaseError{}
			}
		}
	}
	out := &kv.BatchResponse{Responses: make([]kv.Response, len(ba.Requests))}
	for _, p := range pieces {
		part := *ba
		part.Requests = p.reqs
		part.CanForwardReadTimestamp = ba.CanForwardReadTimestamp && len(pieces) == 1
		br, err := f.sendPiece(ctx, &part)
		if err != nil {
			return nil, err
		}
		if br.Txn != nil {
			if out.Txn == nil {
				c := *br.Txn
				out.Txn = &c
			}
			out.Txn.WriteTimestamp.Forward(br.Txn.WriteTimestamp)
		}
		for j, i := range p.idx {
			if out.Responses[i] == nil {
				out.Responses[i] = br.Responses[j]
			}
		}
	}
	return out, nil
}

// sendScan goes range by range, in the scan's direction, until a limit is met.
func (f *fake) sendScan(ctx context.Context, ba *kv.BatchRequest, scan *kv.ScanRequest) (*kv.BatchResponse, error) {
	total, rest := &kv.ScanResponse{}, scan.Span
	for {
		part := rest
		if b := f.bounds(rest.Key); !scan.Reverse && b.EndKey.Less(part.EndKey) {
			part.EndKey = b.EndKey
		}
		for _, at := range f.splits {
			if scan.Reverse && at.Less(rest.EndKey) && part.Key.Less(at) {
				part.Key = at
			}
		}
		c, one := *scan, *ba
		c.Span = part
		if one.CanForwardReadTimestamp = false; scan.MaxKeys > 0 {
			c.MaxKeys -= int64(len(total.Rows))
		}
		one.TargetBytes -= total.NumBytes
		one.Requests = []kv.Request{&c}
		br, err := f.sendPiece(ctx, &one)
		if err != nil {
			return nil, err
		}
		resp := br.Responses[0].(*kv.ScanResponse)
		total.Rows = append(total.Rows, resp.Rows...)
		total.NumBytes += resp.NumBytes
		stop := resp.ResumeSpan
		if scan.Reverse {
			if rest.EndKey = part.Key; stop != nil {
				rest.EndKey = stop.EndKey
			}
		} else if rest.Key = part.EndKey; stop != nil {
			rest.Key = stop.Key
		}
		br.Responses[0] = total
		if !rest.Key.Less(rest.EndKey) {
			return br, nil
		}
		if stop != nil || scan.MaxKeys > 0 && int64(len(total.Rows)) >= scan.MaxKeys || ba.TargetBytes > 0 && total.NumBytes >= ba.TargetBytes {
			total.ResumeSpan = &rest
			return br, nil
		}
	}
}

func (f *fake) sendPiece(ctx context.Context, ba *kv.BatchRequest) (br *kv.BatchResponse, err error) {
	if f.before != nil {
		err = f.before(ba)
	}
	if err == nil {
		br, err = f.evalPiece(ctx, ba)
	}
	if f.after != nil {
		if e := f.after(ba, err); e != err {
			br, err = nil, e
		}
	}
	if f.trace != nil {
		f.trace(describe(ba, br, err))
	}
	return br, err
}

// errWait says that the piece must wait for a transaction.
type errWait struct{ holder kv.TxnID }

func (errWait) Error() string { return "wait" }

func (f *fake) evalPiece(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	stop := context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.cond.Broadcast()
	})
	defer stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent++
	for {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		e := &fakeEval{f: f, ba: ba}
		if ba.Txn != nil {
			c := *ba.Txn
			e.txn = &c
		}
		br, err := e.run()
		w, wait := err.(errWait)
		if !wait {
			if err == nil {
				e.apply()
				f.cond.Broadcast()
			}
			return br, err
		}
		if ba.WaitPolicy == kv.WaitError {
			return nil, &kv.LockConflictError{Holder: w.holder}
		}
		if e.txn != nil {
			f.waits[e.txn.ID] = w.holder
			for id, n := w.holder, 0; n < 100; n++ {
				next, ok := f.waits[id]
				if !ok {
					break
				}
				if id = next; id == e.txn.ID {
					delete(f.waits, e.txn.ID)
					return nil, &kv.DeadlockError{Detail: "cycle"}
				}
			}
		}
		f.cond.Wait()
		if e.txn != nil {
			delete(f.waits, e.txn.ID)
		}
	}
}

// fakeEval evaluates one piece; effects are kept until it succeeded.
type fakeEval struct {
	f    *fake
	ba   *kv.BatchRequest
	txn  *kv.Txn
	do   []func()
	puts []*kv.PutRequest
}

func (e *fakeEval) apply() {
	for _, f := range e.do {
		f()
	}
}

func (e *fakeEval) later(f func()) { e.do = append(e.do, f) }

func (e *fakeEval) run() (*kv.BatchResponse, error) {
	br := &kv.BatchResponse{}
	// Writes land above reads.
	for _, req := range e.ba.Requests {
		if p, ok := req.(*kv.PutRequest); ok && e.txn != nil {
			for _, r := range e.f.reads {
				if r.span.Contains(p.Key) && r.txn != e.txn.ID {
					e.txn.WriteTimestamp.Forward(r.ts.Next())
				}
			}
			if n := e.f.newest(string(p.Key)); !p.Cond.Check {
				e.txn.WriteTimestamp.Forward(n.ts.Next())
			}
		}
	}
	for _, req := range e.ba.Requests {
		resp, err := e.one(req)
		if err != nil {
			return nil, err
		}
		br.Responses = append(br.Responses, resp)
	}
	br.Txn = e.txn
	return br, nil
}

func (e *fakeEval) one(req kv.Request) (kv.Response, error) {
	switch r := req.(type) {
	case *kv.GetRequest:
		v, err := e.read(string(r.Key), r.Lock)
		if err != nil {
			return nil, err
		}
		e.noteRead(keys.Span{Key: r.Key})
		return &kv.GetResponse{Value: v.value, Exists: v.value != nil, Version: v.ts}, nil
	case *kv.ScanRequest:
		return e.scan(r)
	case *kv.PutRequest:
		e.puts = append(e.puts, r)
		return &kv.PutResponse{}, e.put(r)
	case *kv.RefreshRequest:
		return &kv.RefreshResponse{}, e.refresh(r.Span, r.From, e.txn.ReadTimestamp)
	case *kv.EndTxnRequest:
		return e.end(r)
	case *kv.HeartbeatTxnRequest:
		rec := e.f.records[e.txn.ID]
		if e.f.ended[e.txn.ID] || (rec != nil && rec.Status == kv.TxnAborted) {
			return nil, &kv.AbortedError{Reason: "aborted"}
		}
		if rec == nil {
			c := *e.txn
			e.later(func() { e.f.records[c.ID] = &c })
		} else {
			e.txn.WriteTimestamp.Forward(rec.WriteTimestamp)
		}
		return &kv.HeartbeatTxnResponse{}, nil
	case *kv.QueryTxnRequest:
		var c *kv.Txn
		if rec := e.f.records[r.ID]; rec != nil {
			cc := *rec
			c = &cc
		}
		return &kv.QueryTxnResponse{Txn: c}, nil
	case *kv.QueryIntentRequest:
		in := e.f.intents[string(r.Key)]
		found := in != nil && in.meta.ID == r.Txn.ID && in.meta.Epoch == r.Txn.Epoch && in.meta.Seq >= r.Txn.Seq && in.meta.WriteTimestamp.LessEq(r.Txn.WriteTimestamp)
		if !found {
			e.later(func() {
				e.f.reads = append(e.f.reads, fakeRead{span: keys.Span{Key: r.Key}, ts: r.Txn.WriteTimestamp})
			})
		}
		return &kv.QueryIntentResponse{Found: found}, nil
	case *kv.RecoverTxnRequest:
		rec := e.f.records[r.Txn.ID]
		if rec == nil {
			return &kv.RecoverTxnResponse{Txn: kv.Txn{TxnMeta: r.Txn, Status: kv.TxnAborted}}, nil
		}
		if rec.Status == kv.TxnStaging {
			rec.Status = kv.TxnAborted
			if r.Reopen {
				rec.Status = kv.TxnPending
			}
			if r.AllWritten {
				rec.Status = kv.TxnCommitted
			}
		}
		return &kv.RecoverTxnResponse{Txn: *rec}, nil
	case *kv.ResolveIntentRequest:
		e.later(func() { e.f.resolve(r.Span, r.Txn, r.Status, r.IgnoredSeqs) })
		return &kv.ResolveIntentResponse{}, nil
	case *kv.IncrementRequest:
		var n int64
		if v := e.f.newest(string(r.Key)); v.value != nil {
			n = int64(binary.BigEndian.Uint64(v.value))
		}
		e.later(func() {
			e.f.commitVersion(string(r.Key), binary.BigEndian.AppendUint64(nil, uint64(n+r.Delta)), e.f.clock.Now())
		})
		return &kv.IncrementResponse{NewValue: n + r.Delta}, nil
	}
	return nil, fmt.Errorf("fake: %T", req)
}

func (e *fakeEval) noteRead(s keys.Span) {
	e.later(func() { e.f.reads = append(e.f.reads, fakeRead{s, e.txn.ReadTimestamp, e.txn.ID}) })
}

func ignored(seq int32, by []kv.SeqRange) bool {
	for _, r := range by {
		if seq >= r.Start && seq <= r.End {
			return true
		}
	}
	return false
}

// foreign returns the wait for an intent of another transaction, after resolving it if that
// one is over.
func (e *fakeEval) foreign(k string) (*fakeIntent, error) {
	in := e.f.intents[k]
	if in == nil || (e.txn != nil && in.meta.ID == e.txn.ID) {
		return in, nil
	}
	if rec := e.f.records[in.meta.ID]; rec != nil && (rec.Status == kv.TxnCommitted || rec.Status == kv.TxnAborted) {
		e.f.resolve(keys.Span{Key: keys.Key(k)}, rec.TxnMeta, rec.Status, rec.IgnoredSeqs)
		return nil, nil
	}
	return in, errWait{in.meta.ID}
}

func (e *fakeEval) read(k string, lock kv.LockStrength) (fakeVersion, error) {
	in, err := e.foreign(k)
	if err != nil && (lock != kv.LockNone || in.meta.WriteTimestamp.LessEq(e.txn.UncertaintyLimit.Max(e.txn.ReadTimestamp))) {
		return fakeVersion{}, err
	}
	if lock != kv.LockNone {
		if h, ok := e.f.locks[k]; ok && h != e.txn.ID {
			return fakeVersion{}, errWait{h}
		}
		e.f.locks[k] = e.txn.ID
	}
	if err == nil && in != nil && in.meta.Epoch == e.txn.Epoch {
		for i := len(in.writes) - 1; i >= 0; i-- {
			if w := in.writes[i]; w.seq <= e.txn.Seq && !ignored(w.seq, e.txn.IgnoredSeqs) {
				return fakeVersion{value: w.value}, nil
			}
		}
	}
	for _, v := range e.f.versions[k] {
		if v.ts.LessEq(e.txn.ReadTimestamp) {
			return v, nil
		}
		var moved hlc.Timestamp
		if lock != kv.LockNone {
			err, moved = &kv.WriteTooOldError{Key: keys.Key(k), Actual: v.ts}, v.ts.Next()
		} else if v.ts.LessEq(e.txn.UncertaintyLimit) {
			err, moved = &kv.UncertaintyError{Key: keys.Key(k), Read: e.txn.ReadTimestamp, Existing: v.ts}, v.ts
		} else {
			continue
		}
		if e.ba.CanForwardReadTimestamp && len(e.ba.Requests) == 1 {
			e.txn.ReadTimestamp = moved
			e.txn.WriteTimestamp.Forward(moved)
			return v, nil
		}
		return fakeVersion{}, err
	}
	return fakeVersion{}, nil
}

func (f *fake) keysIn(s keys.Span) []string {
	set := map[string]bool{}
	for k := range f.versions {
		set[k] = true
	}
	for k := range f.intents {
		set[k] = true
	}
	var out []string
	for k := range set {
		if s.Contains(keys.Key(k)) {
			out = append(out, k)
		}
	}
	sort.Strings(out)
	return out
}

func (e *fakeEval) scan(r *kv.ScanRequest) (kv.Response, error) {
	ks := e.f.keysIn(r.Span)
	if r.Reverse {
		slices.Reverse(ks)
	}
	resp, read := &kv.ScanResponse{}, r.Span
	for _, k := range ks {
		if r.MaxKeys > 0 && int64(len(resp.Rows)) >= r.MaxKeys || e.ba.TargetBytes > 0 && resp.NumBytes >= e.ba.TargetBytes {
			last := resp.Rows[len(resp.Rows)-1].Key
			if rest := (keys.Span{Key: last.Next(), EndKey: r.Span.EndKey}); r.Reverse {
				resp.ResumeSpan = &keys.Span{Key: r.Span.Key, EndKey: last}
			} else {
				resp.ResumeSpan = &rest
			}
			read = covered(r.Span, resp.ResumeSpan, r.Reverse)
			break
		}
		before := e.txn.ReadTimestamp
		v, err := e.read(k, r.Lock)
		if err != nil {
			return nil, err
		}
		if before != e.txn.ReadTimestamp {
			return e.scan(r)
		}
		if v.value != nil {
			resp.Rows = append(resp.Rows, kv.KeyValue{Key: keys.Key(k), Value: v.value, Version: v.ts})
			resp.NumBytes += int64(len(k) + len(v.value))
		}
	}
	e.noteRead(read)
	return resp, nil
}

func (e *fakeEval) put(r *kv.PutRequest) error {
	k := string(r.Key)
	in, err := e.foreign(k)
	if err != nil {
		return err
	}
	if h, ok := e.f.locks[k]; ok && h != e.txn.ID {
		return errWait{h}
	}
	value := r.Value
	if r.Delete {
		value = nil
	} else if value == nil {
		value = []byte{}
	}
	n := e.f.newest(k)
	own := in != nil && in.meta.Epoch == e.txn.Epoch
	if r.Cond.Check && !own {
		switch {
		case r.Cond.MustBeAbsent && n.value != nil:
			return &kv.ConditionFailedError{Key: r.Key, Actual: n.value}
		case r.Cond.Seen.Less(n.ts):
			return &kv.RetryError{Reason: kv.RetryLockLost, Detail: k}
		}
	}
	if e.txn.WriteTimestamp.LessEq(n.ts) {
		return &kv.WriteTooOldError{Key: r.Key, Actual: n.ts}
	}
	e.later(func() {
		in := e.f.intents[k]
		if in == nil || in.meta.Epoch != e.txn.Epoch {
			in = &fakeIntent{}
			e.f.intents[k] = in
		}
		in.meta = e.txn.TxnMeta
		for _, w := range in.writes {
			if w.seq == r.Seq {
				return
			}
		}
		in.writes = append(in.writes, fakeWrite{r.Seq, value})
		in.meta.Seq = r.Seq
	})
	return nil
}

func (e *fakeEval) refresh(s keys.Span, from, to hlc.Timestamp) error {
	for _, k := range e.f.keysIn(s) {
		if in, err := e.foreign(k); err != nil && in.meta.WriteTimestamp.LessEq(to) {
			return err
		}
		for _, v := range e.f.versions[k] {
			if from.Less(v.ts) && v.ts.LessEq(to) {
				return &kv.RetryError{Reason: kv.RetrySerializable, Detail: "refresh of " + k}
			}
		}
	}
	e.later(func() { e.f.reads = append(e.f.reads, fakeRead{s, to, e.txn.ID}) })
	return nil
}

func (e *fakeEval) end(r *kv.EndTxnRequest) (kv.Response, error) {
	f, id := e.f, e.txn.ID
	rec := f.records[id]
	if !r.Commit {
		e.txn.Status = kv.TxnAborted
		c := *e.txn
		e.later(func() {
			f.ended[id] = true
			delete(f.records, id)
			for _, s := range r.LockSpans {
				f.resolve(s, c.TxnMeta, kv.TxnAborted, nil)
			}
		})
		return &kv.EndTxnResponse{}, nil
	}
	if r.NoRecord && rec != nil {
		return nil, &kv.InvalidRequestError{Detail: fmt.Sprintf("the coordinator says that there is no record, its status is %d", rec.Status)}
	}
	if rec != nil && rec.Status == kv.TxnAborted || f.ended[id] {
		return nil, &kv.AbortedError{Reason: "aborted"}
	}
	if rec != nil && rec.Status != kv.TxnStaging {
		e.txn.WriteTimestamp.Forward(rec.WriteTimestamp)
	}
	ts := e.txn.WriteTimestamp
	if !r.Deadline.IsEmpty() && r.Deadline.LessEq(ts) {
		return nil, &kv.RetryError{Reason: kv.RetryCommitDeadline}
	}
	if e.txn.Isolation == kv.Serializable && ts != e.txn.ReadTimestamp && (rec == nil || rec.Status != kv.TxnStaging) {
		if !r.AllReadsHere {
			return nil, &kv.WriteTooOldError{Key: e.txn.Key, Actual: ts.Prev()}
		}
		for _, s := range r.ReadSpans {
			if err := e.refresh(s, e.txn.ReadTimestamp, ts); err != nil {
				return nil, err
			}
		}
	}
	if len(r.InFlight) > len(e.puts) {
		e.txn.Status = kv.TxnStaging
		c := *e.txn
		c.InFlight = r.InFlight
		e.later(func() { f.records[id] = &c })
		return &kv.EndTxnResponse{Staging: true, CommitTimestamp: ts}, nil
	}
	e.txn.Status = kv.TxnCommitted
	c := *e.txn
	e.later(func() {
		f.records[id] = &c
		for _, s := range r.LockSpans {
			f.resolve(s, c.TxnMeta, kv.TxnCommitted, c.IgnoredSeqs)
		}
	})
	return &kv.EndTxnResponse{OnePhase: r.CanCommitInOnePhase, CommitTimestamp: ts}, nil
}

func (f *fake) resolve(s keys.Span, meta kv.TxnMeta, status kv.TxnStatus, skip []kv.SeqRange) {
	for k, h := range f.locks {
		if h == meta.ID && s.Contains(keys.Key(k)) {
			delete(f.locks, k)
		}
	}
	for _, k := range f.keysIn(s) {
		in := f.intents[k]
		if in == nil || in.meta.ID != meta.ID {
			continue
		}
		delete(f.intents, k)
		if status != kv.TxnCommitted || in.meta.Epoch != meta.Epoch {
			continue
		}
		for i := len(in.writes) - 1; i >= 0; i-- {
			if !ignored(in.writes[i].seq, skip) {
				f.commitVersion(k, in.writes[i].value, meta.WriteTimestamp)
				break
			}
		}
	}
	f.cond.Broadcast()
}

func testClock() *hlc.Clock { return hlc.NewClock(time.Now, 250*time.Millisecond) }
