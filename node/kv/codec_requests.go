package kv

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atolldb/atoll/node/keys"
)

func durationOf(d *decoder) time.Duration { return time.Duration(d.int()) }

// methods holds every request and its response under the field number that names them on
// the wire. Numbers are never reused.
var methods = [...]struct {
	request  func() Request
	response func() Response
}{
	1:  {func() Request { return new(GetRequest) }, func() Response { return new(GetResponse) }},
	2:  {func() Request { return new(ScanRequest) }, func() Response { return new(ScanResponse) }},
	3:  {func() Request { return new(RefreshRequest) }, func() Response { return new(RefreshResponse) }},
	4:  {func() Request { return new(PutRequest) }, func() Response { return new(PutResponse) }},
	5:  {func() Request { return new(DeleteRangeRequest) }, func() Response { return new(DeleteRangeResponse) }},
	6:  {func() Request { return new(ClearRangeRequest) }, func() Response { return new(ClearRangeResponse) }},
	7:  {func() Request { return new(IncrementRequest) }, func() Response { return new(IncrementResponse) }},
	8:  {func() Request { return new(EndTxnRequest) }, func() Response { return new(EndTxnResponse) }},
	9:  {func() Request { return new(HeartbeatTxnRequest) }, func() Response { return new(HeartbeatTxnResponse) }},
	10: {func() Request { return new(PushTxnRequest) }, func() Response { return new(PushTxnResponse) }},
	11: {func() Request { return new(QueryTxnRequest) }, func() Response { return new(QueryTxnResponse) }},
	12: {func() Request { return new(QueryIntentRequest) }, func() Response { return new(QueryIntentResponse) }},
	13: {func() Request { return new(RecoverTxnRequest) }, func() Response { return new(RecoverTxnResponse) }},
	14: {func() Request { return new(ResolveIntentRequest) }, func() Response { return new(ResolveIntentResponse) }},
	15: {func() Request { return new(GCRequest) }, func() Response { return new(GCResponse) }},
	16: {func() Request { return new(AdminSplitRequest) }, func() Response { return new(AdminSplitResponse) }},
	17: {func() Request { return new(AdminTransferLeaseRequest) }, func() Response { return new(AdminTransferLeaseResponse) }},
	18: {func() Request { return new(AdminChangeReplicasRequest) }, func() Response { return new(AdminChangeReplicasResponse) }},
	19: {func() Request { return new(LeaseInfoRequest) }, func() Response { return new(LeaseInfoResponse) }},
	20: {func() Request { return new(ChecksumRequest) }, func() Response { return new(ChecksumResponse) }},
	21: {func() Request { return new(AdminMergeRequest) }, func() Response { return new(AdminMergeResponse) }},
	22: {func() Request { return new(AbandonMergeRequest) }, func() Response { return new(AbandonMergeResponse) }},
}

func requestNumber(req Request) protowire.Number {
	switch req.(type) {
	case *GetRequest:
		return 1
	case *ScanRequest:
		return 2
	case *RefreshRequest:
		return 3
	case *PutRequest:
		return 4
	case *DeleteRangeRequest:
		return 5
	case *ClearRangeRequest:
		return 6
	case *IncrementRequest:
		return 7
	case *EndTxnRequest:
		return 8
	case *HeartbeatTxnRequest:
		return 9
	case *PushTxnRequest:
		return 10
	case *QueryTxnRequest:
		return 11
	case *QueryIntentRequest:
		return 12
	case *RecoverTxnRequest:
		return 13
	case *ResolveIntentRequest:
		return 14
	case *GCRequest:
		return 15
	case *AdminSplitRequest:
		return 16
	case *AdminTransferLeaseRequest:
		return 17
	case *AdminChangeReplicasRequest:
		return 18
	case *LeaseInfoRequest:
		return 19
	case *ChecksumRequest:
		return 20
	case *AdminMergeRequest:
		return 21
	case *AbandonMergeRequest:
		return 22
	}
	panic(fmt.Sprintf("kv: %T has no wire number", req))
}

func responseNumber(resp Response) protowire.Number {
	switch resp.(type) {
	case *GetResponse:
		return 1
	case *ScanResponse:
		return 2
	case *RefreshResponse:
		return 3
	case *PutResponse:
		return 4
	case *DeleteRangeResponse:
		return 5
	case *ClearRangeResponse:
		return 6
	case *IncrementResponse:
		return 7
	case *EndTxnResponse:
		return 8
	case *HeartbeatTxnResponse:
		return 9
	case *PushTxnResponse:
		return 10
	case *QueryTxnResponse:
		return 11
	case *QueryIntentResponse:
		return 12
	case *RecoverTxnResponse:
		return 13
	case *ResolveIntentResponse:
		return 14
	case *GCResponse:
		return 15
	case *AdminSplitResponse:
		return 16
	case *AdminTransferLeaseResponse:
		return 17
	case *AdminChangeReplicasResponse:
		return 18
	case *LeaseInfoResponse:
		return 19
	case *ChecksumResponse:
		return 20
	case *AdminMergeResponse:
		return 21
	case *AbandonMergeResponse:
		return 22
	}
	panic(fmt.Sprintf("kv: %T has no wire number", resp))
}

// requestUnion is one request under its number.
type requestUnion struct{ req Request }

func (u *requestUnion) encode(e *encoder) { e.msg(requestNumber(u.req), u.req.(message)) }

func (u *requestUnion) decode(d *decoder) {
	for d.next() {
		if d.num <= 0 || int(d.num) >= len(methods) {
			d.fail("unknown request %d; is the sender newer than this node?", d.num)
			return
		}
		u.req = methods[d.num].request()
		d.msg(u.req.(message))
	}
	if u.req == nil {
		d.fail("empty request")
	}
}

// responseUnion is one response under its number.
type responseUnion struct{ resp Response }

func (u *responseUnion) encode(e *encoder) { e.msg(responseNumber(u.resp), u.resp.(message)) }

func (u *responseUnion) decode(d *decoder) {
	for d.next() {
		if d.num <= 0 || int(d.num) >= len(methods) {
			d.fail("unknown response %d; is the sender newer than this node?", d.num)
			return
		}
		u.resp = methods[d.num].response()
		d.msg(u.resp.(message))
	}
	if u.resp == nil {
		d.fail("empty response")
	}
}

// skip consumes the fields of a message that has none in this version.
func (d *decoder) skip() {
	for d.next() {
	}
}

func (m *GetRequest) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.uint(2, uint64(m.Lock))
}

func (m *GetRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Lock = LockStrength(d.enum(uint8(LockExclusive)))
		}
	}
}

func (m *GetResponse) encode(e *encoder) {
	e.bytes(1, m.Value)
	e.bool(2, m.Exists)
	e.ts(3, m.Version)
	e.bool(4, m.Skipped)
}

func (m *GetResponse) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Value = d.bytes()
		case 2:
			m.Exists = d.bool()
		case 3:
			m.Version = d.ts()
		case 4:
			m.Skipped = d.bool()
		}
	}
}

func (m *ScanRequest) encode(e *encoder) {
	e.span(1, m.Span)
	e.bool(2, m.Reverse)
	e.uint(3, uint64(m.Lock))
	e.int(4, m.MaxKeys)
	e.bytes(5, m.Pushdown)
}

func (m *ScanRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Span = d.span()
		case 2:
			m.Reverse = d.bool()
		case 3:
			m.Lock = LockStrength(d.enum(uint8(LockExclusive)))
		case 4:
			m.MaxKeys = d.int()
		case 5:
			m.Pushdown = d.bytes()
		}
	}
}

func (m *ScanResponse) encode(e *encoder) {
	for i := range m.Rows {
		e.msg(1, &m.Rows[i])
	}
	e.spanPtr(2, m.ResumeSpan)
	e.int(3, m.NumBytes)
}

func (m *ScanResponse) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			elem(d, &m.Rows)
		case 2:
			m.ResumeSpan = d.spanPtr()
		case 3:
			m.NumBytes = d.int()
		}
	}
}

func (m *RefreshRequest) encode(e *encoder) {
	e.span(1, m.Span)
	e.ts(2, m.From)
}

func (m *RefreshRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Span = d.span()
		case 2:
			m.From = d.ts()
		}
	}
}

func (*RefreshResponse) encode(*encoder)   {}
func (*RefreshResponse) decode(d *decoder) { d.skip() }

func (m *PutRequest) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.bytes(2, m.Value)
	e.bool(3, m.Delete)
	e.int(4, int64(m.Seq))
	if m.Cond != (Condition{}) {
		e.msg(5, &m.Cond)
	}
}

func (m *PutRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Value = d.bytes()
		case 3:
			m.Delete = d.bool()
		case 4:
			m.Seq = d.int32()
		case 5:
			d.msg(&m.Cond)
		}
	}
}

func (*PutResponse) encode(*encoder)   {}
func (*PutResponse) decode(d *decoder) { d.skip() }

func (m *DeleteRangeRequest) encode(e *encoder) {
	e.span(1, m.Span)
	e.int(2, int64(m.Seq))
}

func (m *DeleteRangeRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Span = d.span()
		case 2:
			m.Seq = d.int32()
		}
	}
}

func (m *DeleteRangeResponse) encode(e *encoder) {
	e.int(1, m.Deleted)
	e.spanPtr(2, m.ResumeSpan)
}

func (m *DeleteRangeResponse) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Deleted = d.int()
		case 2:
			m.ResumeSpan = d.spanPtr()
		}
	}
}

func (m *ClearRangeRequest) encode(e *encoder) {
	e.span(1, m.Span)
	e.ts(2, m.Threshold)
}

func (m *ClearRangeRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Span = d.span()
		case 2:
			m.Threshold = d.ts()
		}
	}
}

func (*ClearRangeResponse) encode(*encoder)   {}
func (*ClearRangeResponse) decode(d *decoder) { d.skip() }

func (m *IncrementRequest) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.sint(2, m.Delta)
}

func (m *IncrementRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Delta = d.sint()
		}
	}
}

func (m *IncrementResponse) encode(e *encoder) { e.sint(1, m.NewValue) }

func (m *IncrementResponse) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			m.NewValue = d.sint()
		}
	}
}

func (m *GCRequest) encode(e *encoder) {
	e.span(1, m.Span)
	e.ts(2, m.Threshold)
	for i := range m.Keys {
		e.msg(3, &m.Keys[i])
	}
}

func (m *GCRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Span = d.span()
		case 2:
			m.Threshold = d.ts()
		case 3:
			elem(d, &m.Keys)
		}
	}
}

func (m *GCKey) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.ts(2, m.At)
}

func (m *GCKey) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.At = d.ts()
		}
	}
}

func (*GCResponse) encode(*encoder)   {}
func (*GCResponse) decode(d *decoder) { d.skip() }

func (m *AdminSplitRequest) encode(e *encoder) {
	e.bytes(1, m.SplitKey)
	e.bool(2, m.MayMerge)
}

func (m *AdminSplitRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.SplitKey = d.bytes()
		case 2:
			m.MayMerge = d.bool()
		}
	}
}

func (m *AdminSplitResponse) encode(e *encoder) {
	e.msg(1, &m.Left)
	e.msg(2, &m.Right)
}

func (m *AdminSplitResponse) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			d.msg(&m.Left)
		case 2:
			d.msg(&m.Right)
		}
	}
}

func (m *AdminTransferLeaseRequest) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.int(2, int64(m.Target))
}

func (m *AdminTransferLeaseRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Target = keys.NodeID(d.int32())
		}
	}
}

func (*AdminTransferLeaseResponse) encode(*encoder)   {}
func (*AdminTransferLeaseResponse) decode(d *decoder) { d.skip() }

func (m *AdminChangeReplicasRequest) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.int(2, m.Generation)
	e.uint(3, uint64(m.Kind))
	e.int(4, int64(m.Node))
}

func (m *AdminChangeReplicasRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Generation = d.int()
		case 3:
			m.Kind = ReplicaChangeKind(d.enum(uint8(AddWitness)))
		case 4:
			m.Node = keys.NodeID(d.int32())
		}
	}
}

func (m *AdminChangeReplicasResponse) encode(e *encoder) { e.msg(1, &m.Desc) }

func (m *AdminChangeReplicasResponse) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			d.msg(&m.Desc)
		}
	}
}

func (m *LeaseInfoRequest) encode(e *encoder) { e.bytes(1, m.Key) }

func (m *LeaseInfoRequest) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			m.Key = d.bytes()
		}
	}
}

func (m *LeaseInfoResponse) encode(e *encoder) {
	e.msg(1, &m.Desc)
	e.int(2, int64(m.Leaseholder))
	e.uint(3, m.Term)
	e.uint(4, m.Applied)
	e.int(5, m.Bytes)
	e.int(6, m.BatchesPerSecond)
	e.ts(7, m.Freshest)
}

func (m *LeaseInfoResponse) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			d.msg(&m.Desc)
		case 2:
			m.Leaseholder = keys.NodeID(d.int32())
		case 3:
			m.Term = d.uint()
		case 4:
			m.Applied = d.uint()
		case 5:
			m.Bytes = d.int()
		case 6:
			m.BatchesPerSecond = d.int()
		case 7:
			m.Freshest = d.ts()
		}
	}
}

func (m *ChecksumRequest) encode(e *encoder) { e.bytes(1, m.Key) }

func (m *ChecksumRequest) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			m.Key = d.bytes()
		}
	}
}

func (m *ChecksumResponse) encode(e *encoder) {
	e.bytes(1, m.Digest[:])
	e.uint(2, m.Applied)
}

func (m *ChecksumResponse) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			if b := d.bytes(); len(b) == len(m.Digest) {
				copy(m.Digest[:], b)
			} else {
				d.fail("digest has %d bytes, want %d", len(b), len(m.Digest))
			}
		case 2:
			m.Applied = d.uint()
		}
	}
}
