package kv

import (
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
)

// RequestSpan returns the keys that a request touches, before keys.Addr. txn is the
// batch's transaction, whose anchor is where EndTxn goes.
func RequestSpan(req Request, txn *Txn) keys.Span {
	switch r := req.(type) {
	case *GetRequest:
		return keys.Span{Key: r.Key}
	case *ScanRequest:
		return r.Span
	case *RefreshRequest:
		return r.Span
	case *PutRequest:
		return keys.Span{Key: r.Key}
	case *DeleteRangeRequest:
		return r.Span
	case *ClearRangeRequest:
		return r.Span
	case *IncrementRequest:
		return keys.Span{Key: r.Key}
	case *EndTxnRequest:
		if txn != nil {
			return keys.Span{Key: txn.Key}
		}
	case *HeartbeatTxnRequest:
		return keys.Span{Key: r.Key}
	case *PushTxnRequest:
		return keys.Span{Key: r.Key}
	case *QueryTxnRequest:
		return keys.Span{Key: r.Key}
	case *QueryIntentRequest:
		return keys.Span{Key: r.Key}
	case *RecoverTxnRequest:
		return keys.Span{Key: r.Key}
	case *ResolveIntentRequest:
		return r.Span
	case *GCRequest:
		return r.Span
	case *AdminSplitRequest:
		return keys.Span{Key: r.SplitKey}
	case *AdminTransferLeaseRequest:
		return keys.Span{Key: r.Key}
	case *AdminMergeRequest:
		return keys.Span{Key: r.Key}
	case *AbandonMergeRequest:
		return keys.Span{Key: r.Key}
	case *AdminChangeReplicasRequest:
		return keys.Span{Key: r.Key}
	case *LeaseInfoRequest:
		return keys.Span{Key: r.Key}
	case *ChecksumRequest:
		return keys.Span{Key: r.Key}
	}
	return keys.Span{}
}

// WithSpan returns a copy of a ranged request that is cut down to s. Requests on one key
// are returned as they are.
func WithSpan(req Request, s keys.Span) Request {
	switch r := req.(type) {
	case *ScanRequest:
		c := *r
		c.Span = s
		return &c
	case *RefreshRequest:
		c := *r
		c.Span = s
		return &c
	case *DeleteRangeRequest:
		c := *r
		c.Span = s
		return &c
	case *ClearRangeRequest:
		c := *r
		c.Span = s
		return &c
	case *ResolveIntentRequest:
		c := *r
		c.Span = s
		return &c
	case *GCRequest:
		c := *r
		c.Span, c.Keys = s, nil
		for _, k := range r.Keys {
			if s.Contains(k.Key) {
				c.Keys = append(c.Keys, k)
			}
		}
		return &c
	}
	return req
}

// IsWrite reports whether a request changes replicated state, so that its outcome can be
// unknown (S12).
func IsWrite(req Request) bool {
	switch req.(type) {
	case *GetRequest, *ScanRequest, *RefreshRequest, *QueryTxnRequest, *QueryIntentRequest,
		*LeaseInfoRequest, *ChecksumRequest:
		return false
	}
	return true
}

// IsRepeatable reports whether a write may be executed twice without harm, so that it needs
// no CommandID and is never ambiguous.
func IsRepeatable(req Request) bool {
	switch req.(type) {
	case *PutRequest, *DeleteRangeRequest, *ClearRangeRequest, *IncrementRequest, *EndTxnRequest:
		return false
	}
	return true
}

// NeedsCommandID reports whether the batch holds a write that must not be executed twice.
func (ba *BatchRequest) NeedsCommandID() bool {
	for _, req := range ba.Requests {
		if !IsRepeatable(req) {
			return true
		}
	}
	return false
}

// IsWrite reports whether any request of the batch is a write.
func (ba *BatchRequest) IsWrite() bool {
	for _, req := range ba.Requests {
		if IsWrite(req) {
			return true
		}
	}
	return false
}

// OnePhaseError is DistSender's answer to a batch with EndTxn.CanCommitInOnePhase that
// does not lie in one range (any more). Nothing of it was done. It goes to the coordinator
// and no further.
type OnePhaseError struct{}

func (e *OnePhaseError) Error() string { return "the batch spans ranges and can't commit in one phase" }

// PartialError is DistSender's answer to a transaction's batch of which some ranges did
// their part: Err says why the others did not, WriteTimestamp where the highest write
// landed. The transaction must not commit below it. It goes to the coordinator and no further.
type PartialError struct {
	Err            error
	WriteTimestamp hlc.Timestamp
}

func (e *PartialError) Error() string { return e.Err.Error() }
func (e *PartialError) Unwrap() error { return e.Err }
