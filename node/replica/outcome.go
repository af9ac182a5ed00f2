package replica

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/kv"
)

// The outcome of a command is remembered with its ID (S12), so it is short: version (1),
// flags, status, write timestamp, read timestamp, then as varints what the responses carry
// beyond that: new values of increments and numbers of deleted keys; at the end, for a piece of a
// batch, which one (kv.Header.Pieces).
const (
	outcomeVersion = 1
	outcomeTxn     = 1 << 0
	outcomeOne     = 1 << 1
	outcomeStaging = 1 << 2
	// outcomePartial: the responses carry more than is kept here.
	outcomePartial = 1 << 3
	// outcomePiece: it is the outcome of a piece of the batch.
	outcomePiece = 1 << 4
)

func encodeOutcome(ba *kv.BatchRequest, br *kv.BatchResponse) []byte {
	var flags byte
	var ints []int64
	for _, resp := range br.Responses {
		switch r := resp.(type) {
		case *kv.EndTxnResponse:
			if r.OnePhase {
				flags |= outcomeOne
			}
			if r.Staging {
				flags |= outcomeStaging
			}
		case *kv.IncrementResponse:
			ints = append(ints, r.NewValue)
		case *kv.DeleteRangeResponse:
			ints = append(ints, r.Deleted)
			if r.ResumeSpan != nil {
				flags |= outcomePartial
			}
		case *kv.PutResponse, *kv.ClearRangeResponse, *kv.HeartbeatTxnResponse, *kv.ResolveIntentResponse, *kv.GCResponse, *kv.RefreshResponse:
		default:
			flags |= outcomePartial
		}
	}
	var status byte
	read, write := br.Timestamp, br.Timestamp
	if br.Txn != nil {
		flags |= outcomeTxn
		status, read, write = byte(br.Txn.Status), br.Txn.ReadTimestamp, br.Txn.WriteTimestamp
	}
	if len(ba.Pieces) > 0 {
		flags |= outcomePiece
	}
	b := make([]byte, 0, 40)
	b = append(b, outcomeVersion, flags, status)
	for _, ts := range [...]hlc.Timestamp{write, read} {
		b = binary.AppendVarint(b, ts.WallNanos)
		b = binary.AppendVarint(b, int64(ts.Logical))
	}
	for _, v := range ints {
		b = binary.AppendVarint(b, v)
	}
	if n := len(ba.Pieces); n > 0 {
		b = binary.BigEndian.AppendUint64(b, ba.Pieces[n-1])
	}
	return b
}

var errOutcome = errors.New("replica: the remembered outcome of a command is malformed")

// errOtherPiece: the ranges of two pieces of a batch were merged, and only the other one is known to
// have been applied (S12, S20). Nothing else may be applied under the ID that they share.
var errOtherPiece = errors.New("replica: another piece of the batch was applied under its ID")

// decodeOutcome rebuilds the response of a batch that was applied before.
func decodeOutcome(ba *kv.BatchRequest, b []byte) (br *kv.BatchResponse, whole bool, err error) {
	if len(b) < 3 || b[0] != outcomeVersion {
		return nil, false, errOutcome
	}
	flags, status := b[1], b[2]
	b = b[3:]
	if flags&outcomePiece != 0 {
		if len(b) < 8 {
			return nil, false, errOutcome
		}
		piece := binary.BigEndian.Uint64(b[len(b)-8:])
		if !slices.Contains(ba.Pieces, piece) {
			return nil, false, errOtherPiece
		}
		b = b[:len(b)-8]
	}
	next := func() int64 {
		v, n := binary.Varint(b)
		if n <= 0 {
			err, b = errOutcome, nil
			return 0
		}
		b = b[n:]
		return v
	}
	write := hlc.Timestamp{WallNanos: next(), Logical: int32(next())}
	read := hlc.Timestamp{WallNanos: next(), Logical: int32(next())}
	if kv.TxnStatus(status) > kv.TxnAborted {
		return nil, false, errOutcome
	}
	br = &kv.BatchResponse{Timestamp: read}
	if flags&outcomeTxn != 0 && ba.Txn != nil {
		t := *ba.Txn
		t.Status, t.ReadTimestamp, t.WriteTimestamp = kv.TxnStatus(status), read, write
		t.InFlight, t.LockSpans, t.IgnoredSeqs = nil, nil, nil
		br.Txn = &t
	}
	for _, req := range ba.Requests {
		var resp kv.Response
		switch req.(type) {
		case *kv.PutRequest:
			resp = &kv.PutResponse{}
		case *kv.ClearRangeRequest:
			resp = &kv.ClearRangeResponse{}
		case *kv.HeartbeatTxnRequest:
			resp = &kv.HeartbeatTxnResponse{}
		case *kv.ResolveIntentRequest:
			resp = &kv.ResolveIntentResponse{}
		case *kv.GCRequest:
			resp = &kv.GCResponse{}
		case *kv.RefreshRequest:
			resp = &kv.RefreshResponse{}
		case *kv.IncrementRequest:
			resp = &kv.IncrementResponse{NewValue: next()}
		case *kv.DeleteRangeRequest:
			resp = &kv.DeleteRangeResponse{Deleted: next()}
		case *kv.EndTxnRequest:
			resp = &kv.EndTxnResponse{OnePhase: flags&outcomeOne != 0, Staging: flags&outcomeStaging != 0, CommitTimestamp: write}
		default:
			flags |= outcomePartial
		}
		br.Responses = append(br.Responses, resp)
	}
	return br, flags&outcomePartial == 0 && err == nil, err
}

// again answers a batch whose command was applied by an earlier try (S12).
func (x *execution) again(outcome []byte) (*kv.BatchResponse, error) {
	br, whole, err := decodeOutcome(x.ba, outcome)
	if errors.Is(err, errOtherPiece) {
		return nil, &kv.AmbiguousError{Detail: "the range was split and merged since the batch was sent first, and remembers another piece of it"}
	}
	if err != nil || !whole {
		return nil, &kv.AmbiguousError{Detail: "the batch was applied by an earlier try, but its response is not known any more"}
	}
	br.Now = x.r.cfg.Clock.Now()
	return br, nil
}
