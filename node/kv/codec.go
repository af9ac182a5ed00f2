package kv

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atolldb/atoll/node/keys"
)

// EncodeBatchRequest appends the wire form of ba to dst.
func EncodeBatchRequest(dst []byte, ba *BatchRequest) []byte { return marshal(dst, ba) }

// DecodeBatchRequest reads a batch. Its byte slices alias b, which the caller must not
// change afterwards.
func DecodeBatchRequest(b []byte) (*BatchRequest, error) {
	ba := new(BatchRequest)
	if err := unmarshal("batch request", b, ba); err != nil {
		return nil, err
	}
	return ba, nil
}

// EncodeBatchResponse appends the wire form of br to dst.
func EncodeBatchResponse(dst []byte, br *BatchResponse) []byte { return marshal(dst, br) }

// DecodeBatchResponse reads a response, aliasing b.
func DecodeBatchResponse(b []byte) (*BatchResponse, error) {
	br := new(BatchResponse)
	if err := unmarshal("batch response", b, br); err != nil {
		return nil, err
	}
	return br, nil
}

// EncodeRangeDescriptor appends the wire form of desc to dst. It is also the stored form.
func EncodeRangeDescriptor(dst []byte, desc *RangeDescriptor) []byte { return marshal(dst, desc) }

// DecodeRangeDescriptor reads a descriptor. It shares no memory with b.
func DecodeRangeDescriptor(b []byte) (RangeDescriptor, error) {
	var desc RangeDescriptor
	err := unmarshal("range descriptor", append([]byte(nil), b...), &desc)
	if err != nil {
		return RangeDescriptor{}, err
	}
	return desc, nil
}

// EncodeTxn appends the wire form of txn to dst. It is also the stored form of a
// transaction record.
func EncodeTxn(dst []byte, txn *Txn) []byte { return marshal(dst, txn) }

// DecodeTxn reads a transaction or its record. It shares no memory with b.
func DecodeTxn(b []byte) (*Txn, error) {
	txn := new(Txn)
	if err := unmarshal("transaction", append([]byte(nil), b...), txn); err != nil {
		return nil, err
	}
	return txn, nil
}

// EncodeTxnMeta appends the wire form of meta to dst. It is also the stored form within
// an intent.
func EncodeTxnMeta(dst []byte, meta *TxnMeta) []byte { return marshal(dst, meta) }

// DecodeTxnMeta reads a transaction's meta data. It shares no memory with b.
func DecodeTxnMeta(b []byte) (TxnMeta, error) {
	var meta TxnMeta
	if err := unmarshal("transaction meta data", append([]byte(nil), b...), &meta); err != nil {
		return TxnMeta{}, err
	}
	return meta, nil
}

// EncodeRequest appends the wire form of one request to dst.
func EncodeRequest(dst []byte, req Request) []byte { return marshal(dst, &requestUnion{req}) }

// DecodeRequest reads one request, aliasing b.
func DecodeRequest(b []byte) (Request, error) {
	var u requestUnion
	if err := unmarshal("request", b, &u); err != nil {
		return nil, err
	}
	return u.req, nil
}

func (m *BatchRequest) encode(e *encoder) {
	e.ts(1, m.Timestamp)
	if m.Txn != nil {
		e.msg(2, m.Txn)
	}
	e.int(3, int64(m.RangeID))
	e.int(4, m.Generation)
	e.id(5, m.CommandID)
	e.int(6, m.MaxSpanKeys)
	e.int(7, m.TargetBytes)
	e.uint(8, uint64(m.WaitPolicy))
	e.int(9, int64(m.LockTimeout))
	e.int(10, int64(m.Gateway))
	e.ts(11, m.ClockReading)
	e.bool(12, m.CanForwardReadTimestamp)
	e.int(13, m.CommandBirth)
	e.spans(14, m.RefreshSpans)
	e.bool(16, m.FollowerRead)
	for _, req := range m.Requests {
		at := e.begin(15)
		e.msg(requestNumber(req), req.(message))
		e.end(at)
	}
	for _, p := range m.Pieces {
		e.tag(17, protowire.VarintType)
		e.b = protowire.AppendVarint(e.b, p)
	}
}

func (m *BatchRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Timestamp = d.ts()
		case 2:
			m.Txn = new(Txn)
			d.msg(m.Txn)
		case 3:
			m.RangeID = keys.RangeID(d.int())
		case 4:
			m.Generation = d.int()
		case 5:
			m.CommandID = d.id()
		case 6:
			m.MaxSpanKeys = d.int()
		case 7:
			m.TargetBytes = d.int()
		case 8:
			m.WaitPolicy = WaitPolicy(d.enum(uint8(WaitSkipLocked)))
		case 9:
			m.LockTimeout = durationOf(d)
		case 10:
			m.Gateway = keys.NodeID(d.int32())
		case 11:
			m.ClockReading = d.ts()
		case 12:
			m.CanForwardReadTimestamp = d.bool()
		case 13:
			m.CommandBirth = d.int()
		case 14:
			d.spans(&m.RefreshSpans)
		case 15:
			var u requestUnion
			if d.msg(&u); d.room(len(m.Requests)) {
				m.Requests = append(m.Requests, u.req)
			}
		case 16:
			m.FollowerRead = d.bool()
		case 17:
			if p := d.uint(); d.room(len(m.Pieces)) {
				m.Pieces = append(m.Pieces, p)
			}
		}
	}
}

func (m *BatchResponse) encode(e *encoder) {
	if m.Txn != nil {
		e.msg(1, m.Txn)
	}
	e.ts(2, m.Timestamp)
	e.ts(3, m.Now)
	for i := range m.RangeDescriptors {
		e.msg(4, &m.RangeDescriptors[i])
	}
	for _, resp := range m.Responses {
		at := e.begin(15)
		e.msg(responseNumber(resp), resp.(message))
		e.end(at)
	}
}

func (m *BatchResponse) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Txn = new(Txn)
			d.msg(m.Txn)
		case 2:
			m.Timestamp = d.ts()
		case 3:
			m.Now = d.ts()
		case 4:
			elem(d, &m.RangeDescriptors)
		case 15:
			var u responseUnion
			if d.msg(&u); d.room(len(m.Responses)) {
				m.Responses = append(m.Responses, u.resp)
			}
		}
	}
}

func (m *TxnMeta) encode(e *encoder) {
	e.id(1, m.ID)
	e.bytes(2, m.Key)
	e.int(3, int64(m.Epoch))
	e.int(4, int64(m.Seq))
	e.ts(5, m.WriteTimestamp)
	e.ts(6, m.MinTimestamp)
	e.uint(7, uint64(m.Isolation))
	e.sint(8, int64(m.Priority))
}

func (m *TxnMeta) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.ID = d.id()
		case 2:
			m.Key = d.bytes()
		case 3:
			m.Epoch = d.int32()
		case 4:
			m.Seq = d.int32()
		case 5:
			m.WriteTimestamp = d.ts()
		case 6:
			m.MinTimestamp = d.ts()
		case 7:
			m.Isolation = Isolation(d.enum(uint8(ReadCommitted)))
		case 8:
			v := d.sint()
			if m.Priority = int32(v); int64(m.Priority) != v {
				d.fail("priority %d is beyond 32 bits", v)
			}
		}
	}
}

func (m *Txn) encode(e *encoder) {
	e.msg(1, &m.TxnMeta)
	e.uint(2, uint64(m.Status))
	e.ts(3, m.ReadTimestamp)
	e.ts(4, m.UncertaintyLimit)
	e.ts(5, m.LastHeartbeat)
	for i := range m.IgnoredSeqs {
		e.msg(6, &m.IgnoredSeqs[i])
	}
	for i := range m.InFlight {
		e.msg(7, &m.InFlight[i])
	}
	e.spans(8, m.LockSpans)
}

func (m *Txn) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			d.msg(&m.TxnMeta)
		case 2:
			m.Status = TxnStatus(d.enum(uint8(TxnAborted)))
		case 3:
			m.ReadTimestamp = d.ts()
		case 4:
			m.UncertaintyLimit = d.ts()
		case 5:
			m.LastHeartbeat = d.ts()
		case 6:
			elem(d, &m.IgnoredSeqs)
		case 7:
			elem(d, &m.InFlight)
		case 8:
			d.spans(&m.LockSpans)
		}
	}
}

func (m *SeqRange) encode(e *encoder) {
	e.int(1, int64(m.Start))
	e.int(2, int64(m.End))
}

func (m *SeqRange) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Start = d.int32()
		case 2:
			m.End = d.int32()
		}
	}
}

func (m *InFlightWrite) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.int(2, int64(m.Seq))
	e.int(3, int64(m.Epoch))
}

func (m *InFlightWrite) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Seq = d.int32()
		case 3:
			m.Epoch = d.int32()
		}
	}
}

func (m *KeyValue) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.bytes(2, m.Value)
	e.ts(3, m.Version)
}

func (m *KeyValue) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Value = d.bytes()
		case 3:
			m.Version = d.ts()
		}
	}
}

func (m *Condition) encode(e *encoder) {
	e.bool(1, m.Check)
	e.bool(2, m.MustBeAbsent)
	e.ts(3, m.Seen)
}

func (m *Condition) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Check = d.bool()
		case 2:
			m.MustBeAbsent = d.bool()
		case 3:
			m.Seen = d.ts()
		}
	}
}

func (m *ReplicaDescriptor) encode(e *encoder) {
	e.int(1, int64(m.Node))
	e.int(2, int64(m.Replica))
	e.uint(3, uint64(m.Type))
	e.uint(4, uint64(m.Quarantine))
}

func (m *ReplicaDescriptor) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Node = keys.NodeID(d.int32())
		case 2:
			m.Replica = keys.ReplicaID(d.int())
		case 3:
			m.Type = ReplicaType(d.enum(uint8(NewWitness)))
		case 4:
			m.Quarantine = Quarantine(d.enum(uint8(LostLog)))
		}
	}
}

func (m *RangeDescriptor) encode(e *encoder) {
	e.int(1, int64(m.RangeID))
	e.bytes(2, m.Start)
	e.bytes(3, m.End)
	for i := range m.Replicas {
		e.msg(4, &m.Replicas[i])
	}
	e.int(5, int64(m.NextReplicaID))
	e.int(6, m.Generation)
	e.bool(7, m.Pinned)
}

func (m *RangeDescriptor) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.RangeID = keys.RangeID(d.int())
		case 2:
			m.Start = d.bytes()
		case 3:
			m.End = d.bytes()
		case 4:
			elem(d, &m.Replicas)
		case 5:
			m.NextReplicaID = keys.ReplicaID(d.int())
		case 6:
			m.Generation = d.int()
		case 7:
			m.Pinned = d.bool()
		}
	}
}
