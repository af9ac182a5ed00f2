package replica

import (
	"errors"
	"fmt"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/concurrency"
	"github.com/atolldb/atoll/node/replica/eval"
)

// lockSpan is a span whose locks a batch must have free before it is evaluated.
type lockSpan struct {
	keys.Span
	strength kv.LockStrength // LockNone: only intents that a read must not pass
}

// shape is what a batch needs, as far as its requests tell.
type shape struct {
	write   bool // it is evaluated into a batch and replicated
	admin   bool
	push    *kv.PushTxnRequest
	query   *kv.QueryTxnRequest
	reads   bool // it reads data: the lease is checked after evaluation (S2 b)
	locks   bool // it has locking reads
	refresh bool

	latches []concurrency.LatchSpan
	locked  []lockSpan

	latchBuf [2]concurrency.LatchSpan
	lockBuf  [2]lockSpan
}

func (s *shape) latch(span keys.Span, a concurrency.Access) {
	s.latches = append(s.latches, concurrency.LatchSpan{Span: span, Access: a})
}

func (s *shape) lock(span keys.Span, strength kv.LockStrength) {
	s.locked = append(s.locked, lockSpan{span, strength})
}

func (s *shape) latchRecord(anchor keys.Key, id kv.TxnID, a concurrency.Access) {
	s.latch(keys.Span{Key: keys.TxnRecord(anchor, id)}, a)
}

// examine finds out what a batch needs, and refuses what makes no sense.
func (s *shape) examine(ba *kv.BatchRequest, desc *kv.RangeDescriptor, limit int) error {
	s.latches, s.locked = s.latchBuf[:0], s.lockBuf[:0]
	if n := len(ba.Requests); n == 0 || n > limit {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("a batch of %d requests; want 1 to %d", n, limit)}
	}
	for _, req := range ba.Requests {
		if err := s.request(ba, req, desc); err != nil {
			return err
		}
	}
	if len(ba.RefreshSpans) <= eval.MaxRefreshSpans {
		for _, span := range ba.RefreshSpans {
			if span, ok := clip(span, desc); ok {
				s.latch(span, concurrency.Shared)
			}
		}
	}
	if (s.admin || s.push != nil || s.query != nil) && len(ba.Requests) > 1 {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("a %T stands alone in its batch", ba.Requests[0])}
	}
	return nil
}

func (s *shape) request(ba *kv.BatchRequest, req kv.Request, desc *kv.RangeDescriptor) error {
	switch r := req.(type) {
	case *kv.GetRequest:
		s.read(keys.Span{Key: r.Key}, r.Lock, ba, true)
	case *kv.ScanRequest:
		s.read(r.Span, r.Lock, ba, false)
	case *kv.RefreshRequest:
		s.reads, s.refresh = true, true
		s.latch(r.Span, concurrency.Shared)
		s.lock(r.Span, kv.LockNone)
	case *kv.PutRequest:
		s.writes(keys.Span{Key: r.Key})
	case *kv.IncrementRequest:
		s.writes(keys.Span{Key: r.Key})
	case *kv.DeleteRangeRequest:
		s.writes(r.Span)
		s.reads = true
	case *kv.ClearRangeRequest:
		s.write = true
		s.latch(r.Span, concurrency.Exclusive)
	case *kv.ResolveIntentRequest:
		s.write = true
		s.latch(r.Span, concurrency.Exclusive)
	case *kv.GCRequest:
		s.write = true
		s.latch(keys.Span{Key: keys.RangeLocal(desc.RangeID, "gc-latch")}, concurrency.Exclusive)
	case *kv.EndTxnRequest:
		return s.end(ba, r, desc)
	case *kv.HeartbeatTxnRequest:
		if ba.Txn == nil {
			return &kv.InvalidRequestError{Detail: "a heartbeat outside a transaction"}
		}
		s.write = true
		s.latchRecord(ba.Txn.Key, ba.Txn.ID, concurrency.Exclusive)
	case *kv.RecoverTxnRequest:
		s.write = true
		s.latchRecord(r.Key, r.Txn.ID, concurrency.Exclusive)
	case *kv.QueryIntentRequest:
		s.reads = true
		s.latch(keys.Span{Key: r.Key}, concurrency.Shared)
	case *kv.PushTxnRequest:
		s.push = r
		s.latchRecord(r.Key, r.Pushee.ID, concurrency.Exclusive)
	case *kv.QueryTxnRequest:
		s.query = r
		s.latchRecord(r.Key, r.ID, concurrency.Shared)
	case *kv.AdminSplitRequest, *kv.AdminMergeRequest, *kv.AbandonMergeRequest, *kv.AdminTransferLeaseRequest, *kv.AdminChangeReplicasRequest,
		*kv.LeaseInfoRequest, *kv.ChecksumRequest:
		s.admin = true
	default:
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("unknown request %T", req)}
	}
	return nil
}

// read declares a read. Locking reads keep each other out while they are evaluated; a locking
// scan looks for the locks of the rows that it finds, not of all in its span.
func (s *shape) read(span keys.Span, lock kv.LockStrength, ba *kv.BatchRequest, point bool) {
	s.reads = true
	access := concurrency.Shared
	if lock == kv.LockExclusive {
		access = concurrency.Exclusive
	}
	s.latch(span, access)
	if lock == kv.LockNone {
		s.lock(span, kv.LockNone)
		return
	}
	s.locks = true
	if point && ba.WaitPolicy != kv.WaitSkipLocked {
		s.lock(span, lock)
	}
}

func (s *shape) writes(span keys.Span) {
	s.write = true
	s.latch(span, concurrency.Exclusive)
	s.lock(span, kv.LockExclusive)
}

func (s *shape) end(ba *kv.BatchRequest, r *kv.EndTxnRequest, desc *kv.RangeDescriptor) error {
	if ba.Txn == nil {
		return &kv.InvalidRequestError{Detail: "an end outside a transaction"}
	}
	s.write = true
	s.latchRecord(ba.Txn.Key, ba.Txn.ID, concurrency.Exclusive)
	for _, span := range r.LockSpans {
		if span, ok := clip(span, desc); ok {
			s.latch(span, concurrency.Exclusive)
		}
	}
	if r.Commit && r.AllReadsHere {
		for _, span := range r.ReadSpans {
			if span, ok := clip(span, desc); ok {
				s.latch(span, concurrency.Shared)
				s.reads = true
			}
		}
	}
	return nil
}

// clip cuts a span to a range's bounds.
func clip(s keys.Span, d *kv.RangeDescriptor) (keys.Span, bool) {
	if s.IsPoint() {
		return s, d.Contains(s.Key)
	}
	if !s.Key.Less(d.End) || !d.Start.Less(s.EndKey) {
		return s, false
	}
	if s.Key.Less(d.Start) {
		s.Key = d.Start
	}
	if d.End.Less(s.EndKey) {
		s.EndKey = d.End
	}
	return s, true
}

var errOutside = errors.New("replica: a span lies outside the range")

// outside returns errOutside and the first of the batch's spans that is not in the range.
func outside(ba *kv.BatchRequest, d *kv.RangeDescriptor) (keys.Span, error) {
	for _, req := range ba.Requests {
		s := kv.RequestSpan(req, ba.Txn)
		if len(s.Key) > 0 && s.Key[0] == 1 {
			var err error
			if s.Key, err = keys.Addr(s.Key); err != nil {
				return s, &kv.InvalidRequestError{Detail: err.Error()}
			}
			if !s.IsPoint() {
				return s, &kv.InvalidRequestError{Detail: fmt.Sprintf("the span %s lies in range-local keys", s)}
			}
		}
		if s.IsPoint() {
			if !d.Contains(s.Key) {
				return s, errOutside
			}
			continue
		}
		if !s.Key.Less(s.EndKey) {
			return s, &kv.InvalidRequestError{Detail: fmt.Sprintf("the span %s is empty", s)}
		}
		if !d.ContainsSpan(s) {
			return s, errOutside
		}
	}
	return keys.Span{}, nil
}
