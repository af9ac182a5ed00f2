package txn

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// ReadOptions say how Get and GetMany lock.
type ReadOptions struct {
	Lock        kv.LockStrength
	Wait        kv.WaitPolicy
	LockTimeout time.Duration // of each wait; 0: none
}

// getBatch is a batch of one Get in one allocation.
type getBatch struct {
	ba   kv.BatchRequest
	reqs [1]kv.Request
	get  kv.GetRequest
}

// Get reads one key, and locks it if the options say so, absent or not.
func (t *Txn) Get(ctx context.Context, key keys.Key, opts ReadOptions) (kv.GetResponse, error) {
	if err := t.check(); err != nil {
		return kv.GetResponse{}, err
	}
	own := t.ownGet(key)
	if own != nil && opts.Lock == kv.LockNone {
		return kv.GetResponse{Value: own.value, Exists: !own.delete}, nil
	}
	if opts.Lock != kv.LockNone {
		if err := t.lockAt(ctx, keys.Span{Key: key}); err != nil {
			return kv.GetResponse{}, err
		}
	}
	b := &getBatch{get: kv.GetRequest{Key: key, Lock: opts.Lock}}
	b.reqs[0] = &b.get
	b.ba.Requests = b.reqs[:]
	b.ba.WaitPolicy, b.ba.LockTimeout = opts.Wait, opts.LockTimeout
	br, err := t.sendRead(ctx, &b.ba)
	if err != nil {
		return kv.GetResponse{}, err
	}
	resp, ok := br.Responses[0].(*kv.GetResponse)
	if !ok {
		return kv.GetResponse{}, wrongAnswer(&b.get, br.Responses[0])
	}
	t.didRead(keys.Span{Key: key})
	if own != nil && !resp.Skipped {
		return kv.GetResponse{Value: own.value, Exists: !own.delete}, nil
	}
	return *resp, nil
}

// ownGet returns the buffered write of key that a read sees, or nil.
func (t *Txn) ownGet(key keys.Key) *version {
	if t.buf.empty() {
		return nil
	}
	if b := t.buf.get(key); b != nil {
		return b.visible(t.visibleSeq())
	}
	return nil
}

// GetMany is Get for several keys in one batch. Answer N is for key N.
func (t *Txn) GetMany(ctx context.Context, ks []keys.Key, opts ReadOptions) ([]kv.GetResponse, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	out := make([]kv.GetResponse, len(ks))
	own := make([]*version, len(ks))
	ba := &kv.BatchRequest{Requests: make([]kv.Request, 0, len(ks))}
	gets := make([]kv.GetRequest, len(ks))
	for i, key := range ks {
		if own[i] = t.ownGet(key); own[i] != nil && opts.Lock == kv.LockNone {
			continue
		}
		if opts.Lock != kv.LockNone {
			if err := t.lockAt(ctx, keys.Span{Key: key}); err != nil {
				return nil, err
			}
		}
		gets[i] = kv.GetRequest{Key: key, Lock: opts.Lock}
		ba.Requests = append(ba.Requests, &gets[i])
	}
	var answers []kv.Response
	if len(ba.Requests) > 0 {
		ba.WaitPolicy, ba.LockTimeout = opts.Wait, opts.LockTimeout
		br, err := t.sendRead(ctx, ba)
		if err != nil {
			return nil, err
		}
		answers = br.Responses
	}
	for i, key := range ks {
		skipped := false
		if own[i] == nil || opts.Lock != kv.LockNone {
			resp, ok := answers[0].(*kv.GetResponse)
			if !ok {
				return nil, wrongAnswer(&gets[i], answers[0])
			}
			answers = answers[1:]
			t.didRead(keys.Span{Key: key})
			out[i], skipped = *resp, resp.Skipped
		}
		if own[i] != nil && !skipped {
			out[i] = kv.GetResponse{Value: own[i].value, Exists: !own[i].delete}
		}
	}
	return out, nil
}

// ScanOptions say how Scan reads.
type ScanOptions struct {
	Reverse     bool
	Lock        kv.LockStrength
	Wait        kv.WaitPolicy
	LockTimeout time.Duration
	MaxRows     int64 // 0: no limit
	TargetBytes int64 // 0: DefaultScanBytes
	Pushdown    []byte
}

// ScanResult is a part of a scan. Resume is what was not read; nil at the end.
type ScanResult struct {
	Rows   []kv.KeyValue
	Resume *keys.Span
}

// Scan reads the rows of a span in order, own writes included. It may stop before the end
// at a limit, also at one of the server's: Resume says where to go on. Rows may be empty
// with Resume set.
func (t *Txn) Scan(ctx context.Context, span keys.Span, opts ScanOptions) (ScanResult, error) {
	if err := t.check(); err != nil {
		return ScanResult{}, err
	}
	if !span.Key.Less(span.EndKey) {
		return ScanResult{}, &kv.InvalidRequestError{Detail: "scan of the empty span " + span.String()}
	}
	if opts.TargetBytes <= 0 {
		opts.TargetBytes = DefaultScanBytes
	}
	own := !t.buf.empty() && t.Overlaps(span)
	if own && len(opts.Pushdown) > 0 {
		return ScanResult{}, &kv.InvalidRequestError{Detail: "a scan with pushdown meets own buffered writes; ask Overlaps first"}
	}
	if opts.Lock != kv.LockNone {
		if err := t.lockAt(ctx, span); err != nil {
			return ScanResult{}, err
		}
	}
	var out ScanResult
	rest, bytesLeft := span, opts.TargetBytes
	for {
		scan := &kv.ScanRequest{Span: rest, Reverse: opts.Reverse, Lock: opts.Lock, Pushdown: opts.Pushdown}
		if opts.MaxRows > 0 {
			scan.MaxKeys = opts.MaxRows - int64(len(out.Rows))
		}
		ba := &kv.BatchRequest{Requests: []kv.Request{scan}}
		ba.TargetBytes = bytesLeft
		ba.WaitPolicy, ba.LockTimeout = opts.Wait, opts.LockTimeout
		br, err := t.sendRead(ctx, ba)
		if err != nil {
			return ScanResult{}, err
		}
		resp, ok := br.Responses[0].(*kv.ScanResponse)
		if !ok {
			return ScanResult{}, wrongAnswer(scan, br.Responses[0])
		}
		done := covered(rest, resp.ResumeSpan, opts.Reverse)
		if done.Key.Less(done.EndKey) {
			t.didRead(done)
		}
		rows := resp.Rows
		if own {
			rows = t.overlay(rows, done, opts.Reverse)
		}
		bytesLeft -= max(resp.NumBytes, 1)
		if out.Rows == nil {
			out.Rows = rows
		} else {
			out.Rows = append(out.Rows, rows...)
		}
		out.Resume = resp.ResumeSpan
		if opts.MaxRows > 0 && int64(len(out.Rows)) >= opts.MaxRows {
			out.cut(span, int(opts.MaxRows), opts.Reverse)
			return out, nil
		}
		if own && cutBytes(&out, span, opts) {
			return out, nil
		}
		// Own deletes may have emptied the answer: read on while the caller's limits allow.
		if out.Resume == nil || !own || opts.MaxRows == 0 || bytesLeft <= 0 {
			return out, nil
		}
		rest = *out.Resume
	}
}

// covered is the part of a scan that was read.
func covered(span keys.Span, resume *keys.Span, reverse bool) keys.Span {
	switch {
	case resume == nil:
	case reverse:
		span.Key = resume.EndKey
	default:
		span.EndKey = resume.Key
	}
	return span
}

// cut shortens the result to n rows.
func (r *ScanResult) cut(span keys.Span, n int, reverse bool) {
	if len(r.Rows) <= n {
		return
	}
	r.Rows = r.Rows[:n]
	last := r.Rows[n-1].Key
	rest := keys.Span{Key: last.Next(), EndKey: span.EndKey}
	if reverse {
		rest = keys.Span{Key: span.Key, EndKey: last}
	}
	// A row follows that was cut off, so that rest is not empty.
	r.Resume = &rest
}

// cutBytes shortens a result that own writes have made longer than the target.
func cutBytes(r *ScanResult, span keys.Span, opts ScanOptions) bool {
	var n int64
	for i := range r.Rows {
		if n += int64(len(r.Rows[i].Key) + len(r.Rows[i].Value)); n > 2*opts.TargetBytes && i+1 < len(r.Rows) {
			r.cut(span, i+1, opts.Reverse)
			return true
		}
	}
	return false
}

// overlay lays the buffered writes within span over rows, which are in scan order.
func (t *Txn) overlay(rows []kv.KeyValue, span keys.Span, reverse bool) []kv.KeyValue {
	if !span.Key.Less(span.EndKey) {
		return rows
	}
	seq := t.visibleSeq()
	own := t.buf.within(span)
	out := make([]kv.KeyValue, 0, len(rows)+len(own))
	i, n := 0, len(own)
	at := func(i int) *bufferedKey {
		if reverse {
			return own[n-1-i]
		}
		return own[i]
	}
	emit := func(b *bufferedKey) {
		if v := b.visible(seq); v != nil && !v.delete {
			out = append(out, kv.KeyValue{Key: b.key, Value: v.value})
		}
	}
	for _, row := range rows {
		for ; i < n; i++ {
			c := bytes.Compare(at(i).key, row.Key)
			if reverse {
				c = -c
			}
			if c >= 0 {
				break
			}
			emit(at(i))
		}
		if i < n && at(i).key.Equal(row.Key) && at(i).visible(seq) != nil {
			emit(at(i))
			i++
			continue
		}
		out = append(out, row)
	}
	for ; i < n; i++ {
		emit(at(i))
	}
	return out
}

func wrongAnswer(req kv.Request, resp kv.Response) error {
	return &kv.InternalError{Detail: fmt.Sprintf("%T was answered with %T", req, resp)}
}

// didRead remembers what must not change before the commit timestamp.
func (t *Txn) didRead(s keys.Span) {
	if !t.opts.ReadTimestamp.IsEmpty() {
		return // never moves
	}
	t.reads.add(s, maxReadBytes, maxReadSpans)
}

// sendRead sends a batch of reads, moving the timestamp as needed.
func (t *Txn) sendRead(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	for moves := 0; ; moves++ {
		ba.Txn = t.proto(t.visibleSeq())
		ba.FollowerRead = t.readsThePast()
		ba.CanForwardReadTimestamp = t.canForward()
		if ba.RefreshSpans = nil; !ba.CanForwardReadTimestamp {
			ba.RefreshSpans = t.refreshAtServer(ctx, ba.Requests)
		}
		br, err := t.send(ctx, ba)
		if err == nil {
			if len(br.Responses) != len(ba.Requests) {
				return nil, &kv.InternalError{Detail: fmt.Sprintf("%d requests got %d answers", len(ba.Requests), len(br.Responses))}
			}
			t.learn(br.Txn)
			if (ba.CanForwardReadTimestamp || len(ba.RefreshSpans) > 0) && br.Txn != nil && t.txn.ReadTimestamp.Less(br.Txn.ReadTimestamp) {
				t.forwarded(br.Txn.ReadTimestamp)
			}
			return br, nil
		}
		if err := t.move(ctx, err, moves); err != nil {
			return nil, err
		}
	}
}

// pastFrom is the age from which on a replica without the lease might answer a read.
const pastFrom = 50 * time.Millisecond

// readsThePast reports whether a replica without the lease may know all that lies at or below the
// transaction's timestamp (S24): a fixed one, and not too new.
func (t *Txn) readsThePast() bool {
	return !t.opts.ReadTimestamp.IsEmpty() && t.opts.ReadTimestamp.WallNanos <= t.db.clock.PhysicalNow().UnixNano()-int64(pastFrom)
}

// maxForwardReads bounds the reads that are looked through before each batch.
const maxForwardReads = 16

// canForward reports whether the leaseholder may move the read timestamp by itself:
// nothing that was read needs a refresh.
func (t *Txn) canForward() bool {
	switch {
	case !t.opts.ReadTimestamp.IsEmpty() || len(t.reads.list) > maxForwardReads:
		return false
	case t.reads.empty():
		return true
	case t.txn.Isolation == kv.Snapshot:
		return false
	}
	for _, s := range t.reads.list {
		if !t.isCovered(s) {
			return false
		}
	}
	return true
}

// refreshAtServer returns what the leaseholder has to refresh before it may move the read
// timestamp by itself; nil if that is too much, or lies in other ranges. A locking read that
// waited for its row mostly finds a newer version there, and to refresh from here would take
// two round trips, during which the next in the queue waits.
func (t *Txn) refreshAtServer(ctx context.Context, reqs []kv.Request) []keys.Span {
	if !t.opts.ReadTimestamp.IsEmpty() || len(t.reads.list) > maxForwardReads || t.txn.Isolation == kv.Snapshot || !locksAny(reqs) {
		return nil
	}
	bounds, err := t.db.boundsOf(ctx, kv.RequestSpan(reqs[0], nil).Key)
	if err != nil {
		return nil
	}
	spans, _ := t.uncovered(nil)
	for _, s := range spans {
		if !within(bounds, s) {
			return nil
		}
	}
	return slices.Clone(spans)
}

func locksAny(reqs []kv.Request) bool {
	for _, req := range reqs {
		switch r := req.(type) {
		case *kv.GetRequest:
			if r.Lock != kv.LockNone {
				return true
			}
		case *kv.ScanRequest:
			if r.Lock != kv.LockNone {
				return true
			}
		}
	}
	return false
}

// forwarded takes over a read timestamp to which no refresh was needed from here.
func (t *Txn) forwarded(to hlc.Timestamp) {
	if !t.reads.empty() && t.coveredFrom.IsEmpty() {
		t.coveredFrom = t.txn.ReadTimestamp
	}
	t.txn.ReadTimestamp = to
	t.txn.WriteTimestamp.Forward(to)
	t.changed()
}

// isCovered reports whether the condition of a buffered write will check the read again.
func (t *Txn) isCovered(s keys.Span) bool {
	if !s.IsPoint() {
		return false
	}
	b := t.buf.get(s.Key)
	return b != nil && !b.dead && b.cond.Check && b.cond.Seen.LessEq(t.txn.ReadTimestamp)
}

// send sends a batch of this transaction. Where some of its ranges had an error, it learns
// how far the writes in the others were moved: the commit must not be below them.
func (t *Txn) send(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	if t.opts.Deferrable {
		if err := t.db.clock.WaitPast(ctx, t.txn.ReadTimestamp); err != nil {
			return nil, err
		}
	}
	br, err := t.db.sender.Send(ctx, ba)
	return br, t.unpack(err)
}

func (t *Txn) unpack(err error) error {
	if part, ok := err.(*kv.PartialError); ok {
		t.forwardWrite(part.WriteTimestamp)
		return part.Err
	}
	return err
}

// learn takes a pushed write timestamp over.
func (t *Txn) learn(p *kv.Txn) {
	if p != nil && p.ID == t.txn.ID && t.txn.WriteTimestamp.Less(p.WriteTimestamp) {
		t.txn.WriteTimestamp = p.WriteTimestamp
		t.changed()
	}
}

// move moves the timestamps so that a batch that failed with err can be sent again, or
// returns what the caller gets.
func (t *Txn) move(ctx context.Context, err error, moves int) error {
	var to hlc.Timestamp
	switch e := err.(type) {
	case *kv.WriteTooOldError:
		if t.txn.Isolation == kv.Snapshot && !t.reads.empty() {
			return t.fail(ctx, err)
		}
		to = e.Actual.Next()
	case *kv.UncertaintyError:
		to = e.Existing
	default:
		return t.fail(ctx, err)
	}
	if moves >= maxMoves || !t.opts.ReadTimestamp.IsEmpty() {
		return t.fail(ctx, err)
	}
	return t.moveTo(ctx, to.Max(t.txn.WriteTimestamp))
}

// moveTo moves the read timestamp to a later one, refreshing what was read.
func (t *Txn) moveTo(ctx context.Context, to hlc.Timestamp) error {
	from := t.txn.ReadTimestamp
	if from.Less(to) {
		spans, left := t.uncovered(nil)
		if len(spans) > 0 {
			if err := t.sendRefresh(ctx, spans, from, to); err != nil {
				return err
			}
		}
		if left && t.coveredFrom.IsEmpty() {
			t.coveredFrom = from
		}
		t.txn.ReadTimestamp = to
	}
	t.txn.WriteTimestamp.Forward(to)
	t.changed()
	return nil
}

// uncovered returns the read spans that no buffered condition covers (see the package
// comment), and whether some were left out.
func (t *Txn) uncovered(out []keys.Span) (_ []keys.Span, left bool) {
	if t.buf.empty() {
		return t.reads.list, false
	}
	for _, s := range t.reads.list {
		if t.isCovered(s) {
			left = true
			continue
		}
		out = append(out, s)
	}
	return out, left
}

// sendRefresh checks that nothing appeared in spans in (from, to].
func (t *Txn) sendRefresh(ctx context.Context, spans []keys.Span, from, to hlc.Timestamp) error {
	t.db.met.refreshes.Inc()
	if t.db.plantSkipRefresh {
		return nil
	}
	p := *t.proto(t.seq)
	p.ReadTimestamp = to
	p.WriteTimestamp.Forward(to)
	reqs := make([]kv.Request, len(spans))
	for i := range spans {
		reqs[i] = &kv.RefreshRequest{Span: spans[i], From: from}
	}
	br, err := t.send(ctx, &kv.BatchRequest{Header: kv.Header{Txn: &p}, Requests: reqs})
	if err == nil {
		t.learn(br.Txn)
		return nil
	}
	switch err.(type) {
	case *kv.RetryError, *kv.WriteTooOldError, *kv.UncertaintyError:
		t.db.met.refreshFailed.Inc()
		reason := kv.RetrySerializable
		if t.txn.Isolation != kv.Serializable {
			reason = kv.RetryWriteTooOld
		}
		return t.fail(ctx, &kv.RetryError{Reason: reason, Detail: err.Error()})
	}
	return t.fail(ctx, err)
}
