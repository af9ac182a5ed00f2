package kv

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atolldb/atoll/node/keys"
)

// InternalError is an error of another node that is none of this package's: a defect or
// a failure there that has no type.
type InternalError struct{ Detail string }

func (e *InternalError) Error() string { return "internal error: " + e.Detail }

// Error numbers on the wire, never reused. Context errors have no fields.
const (
	errCanceled         = 50
	errDeadlineExceeded = 51
)

var errorTypes = [...]func() error{
	1:  func() error { return new(NotLeaseholderError) },
	2:  func() error { return new(RangeNotFoundError) },
	3:  func() error { return new(RangeKeyMismatchError) },
	4:  func() error { return new(WriteTooOldError) },
	5:  func() error { return new(UncertaintyError) },
	6:  func() error { return new(RetryError) },
	7:  func() error { return new(AbortedError) },
	8:  func() error { return new(DeadlockError) },
	9:  func() error { return new(ConditionFailedError) },
	10: func() error { return new(LockConflictError) },
	11: func() error { return new(AmbiguousError) },
	12: func() error { return new(BelowGCThresholdError) },
	13: func() error { return new(DiskFullError) },
	14: func() error { return new(UnavailableError) },
	15: func() error { return new(InvalidRequestError) },
	16: func() error { return new(InternalError) },
	17: func() error { return new(OnePhaseError) },
	18: func() error { return new(CommandExpiredError) },
}

// kvError finds the first of this package's errors in err's chain.
func kvError(err error) (protowire.Number, message) {
	for err != nil {
		if n := errorNumber(err); n != 0 {
			return n, err.(message)
		}
		switch x := err.(type) {
		case interface{ Unwrap() error }:
			err = x.Unwrap()
		case interface{ Unwrap() []error }:
			for _, e := range x.Unwrap() {
				if n, m := kvError(e); n != 0 {
					return n, m
				}
			}
			return 0, nil
		default:
			return 0, nil
		}
	}
	return 0, nil
}

func errorNumber(err error) protowire.Number {
	switch err.(type) {
	case *NotLeaseholderError:
		return 1
	case *RangeNotFoundError:
		return 2
	case *RangeKeyMismatchError:
		return 3
	case *WriteTooOldError:
		return 4
	case *UncertaintyError:
		return 5
	case *RetryError:
		return 6
	case *AbortedError:
		return 7
	case *DeadlockError:
		return 8
	case *ConditionFailedError:
		return 9
	case *LockConflictError:
		return 10
	case *AmbiguousError:
		return 11
	case *BelowGCThresholdError:
		return 12
	case *DiskFullError:
		return 13
	case *UnavailableError:
		return 14
	case *InvalidRequestError:
		return 15
	case *InternalError:
		return 16
	case *OnePhaseError:
		return 17
	case *CommandExpiredError:
		return 18
	}
	return 0
}

// EncodeError appends the wire form of err to dst. An error that wraps one of this
// package's (or the context's) travels as that one; any other as an InternalError.
func EncodeError(dst []byte, err error) []byte { return marshal(dst, &errorUnion{err}) }

// DecodeError reads an error that EncodeError wrote. decodeErr says that b is no error.
// A context error comes back as the context package's own: it happened on the other node.
func DecodeError(b []byte) (err, decodeErr error) {
	var u errorUnion
	if e := unmarshal("error", b, &u); e != nil {
		return nil, e
	}
	return u.err, nil
}

// EncodeReply appends the answer to a batch: the response, or the error.
func EncodeReply(dst []byte, br *BatchResponse, err error) []byte {
	return marshal(dst, &reply{br, err})
}

// DecodeReply reads what EncodeReply wrote, aliasing b. An answer that can't be decoded
// comes back as decodeErr: nothing is known about the batch's fate.
func DecodeReply(b []byte) (br *BatchResponse, err, decodeErr error) {
	var r reply
	if e := unmarshal("reply", b, &r); e != nil {
		return nil, nil, e
	}
	return r.br, r.err, nil
}

type reply struct {
	br  *BatchResponse
	err error
}

func (r *reply) encode(e *encoder) {
	if r.err != nil {
		e.msg(2, &errorUnion{r.err})
		return
	}
	e.msg(1, r.br)
}

func (r *reply) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			r.br = new(BatchResponse)
			d.msg(r.br)
		case 2:
			var u errorUnion
			d.msg(&u)
			r.err = u.err
		}
	}
	if (r.br == nil) == (r.err == nil) {
		d.fail("a reply holds either a response or an error")
	}
}

type errorUnion struct{ err error }

func (u *errorUnion) encode(e *encoder) {
	if n, m := kvError(u.err); n != 0 {
		e.msg(n, m)
		return
	}
	switch {
	case errors.Is(u.err, context.Canceled):
		e.end(e.begin(errCanceled))
	case errors.Is(u.err, context.DeadlineExceeded):
		e.end(e.begin(errDeadlineExceeded))
	default:
		e.msg(16, &InternalError{Detail: u.err.Error()})
	}
}

func (u *errorUnion) decode(d *decoder) {
	for d.next() {
		switch {
		case d.num == errCanceled:
			u.err = context.Canceled
		case d.num == errDeadlineExceeded:
			u.err = context.DeadlineExceeded
		case d.num > 0 && int(d.num) < len(errorTypes):
			u.err = errorTypes[d.num]()
			d.msg(u.err.(message))
		default:
			u.err = &InternalError{Detail: fmt.Sprintf("unknown error %d; is the sender newer than this node?", d.num)}
		}
	}
	if u.err == nil {
		d.fail("empty error")
	}
}

func (m *NotLeaseholderError) encode(e *encoder) {
	e.int(1, int64(m.RangeID))
	e.int(2, int64(m.Leaseholder))
	if m.Desc != nil {
		e.msg(3, m.Desc)
	}
	e.string(4, m.Reason)
}

func (m *NotLeaseholderError) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.RangeID = keys.RangeID(d.int())
		case 2:
			m.Leaseholder = keys.NodeID(d.int32())
		case 3:
			m.Desc = new(RangeDescriptor)
			d.msg(m.Desc)
		case 4:
			m.Reason = d.string()
		}
	}
}

func (m *RangeNotFoundError) encode(e *encoder) {
	e.int(1, int64(m.RangeID))
	e.int(2, int64(m.Node))
}

func (m *RangeNotFoundError) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.RangeID = keys.RangeID(d.int())
		case 2:
			m.Node = keys.NodeID(d.int32())
		}
	}
}

func (m *RangeKeyMismatchError) encode(e *encoder) {
	e.span(1, m.Span)
	for i := range m.Descs {
		e.msg(2, &m.Descs[i])
	}
}

func (m *RangeKeyMismatchError) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Span = d.span()
		case 2:
			elem(d, &m.Descs)
		}
	}
}

func (m *WriteTooOldError) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.ts(2, m.Actual)
}

func (m *WriteTooOldError) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Actual = d.ts()
		}
	}
}

func (m *UncertaintyError) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.ts(2, m.Read)
	e.ts(3, m.Existing)
}

func (m *UncertaintyError) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Read = d.ts()
		case 3:
			m.Existing = d.ts()
		}
	}
}

func (m *RetryError) encode(e *encoder) {
	e.uint(1, uint64(m.Reason))
	e.string(2, m.Detail)
}

func (m *RetryError) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Reason = RetryReason(d.enum(uint8(RetryUncertainty)))
		case 2:
			m.Detail = d.string()
		}
	}
}

func (m *AbortedError) encode(e *encoder) { e.string(1, m.Reason) }

func (m *AbortedError) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			m.Reason = d.string()
		}
	}
}

func (m *DeadlockError) encode(e *encoder) { e.string(1, m.Detail) }

func (m *DeadlockError) decode(d *decoder) { decodeDetail(d, &m.Detail) }

func (m *ConditionFailedError) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.bytes(2, m.Actual)
}

func (m *ConditionFailedError) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Actual = d.bytes()
		}
	}
}

func (m *LockConflictError) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.id(2, m.Holder)
	e.int(3, int64(m.Waited))
}

func (m *LockConflictError) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Holder = d.id()
		case 3:
			m.Waited = durationOf(d)
		}
	}
}

func (m *AmbiguousError) encode(e *encoder) { e.string(1, m.Detail) }
func (m *AmbiguousError) decode(d *decoder) { decodeDetail(d, &m.Detail) }

func (m *CommandExpiredError) encode(e *encoder) {
	e.int(1, int64(m.RangeID))
	e.int(2, m.Birth)
	e.int(3, m.Horizon)
}

func (m *CommandExpiredError) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.RangeID = keys.RangeID(d.int())
		case 2:
			m.Birth = d.int()
		case 3:
			m.Horizon = d.int()
		}
	}
}

func (m *BelowGCThresholdError) encode(e *encoder) {
	e.ts(1, m.Timestamp)
	e.ts(2, m.Threshold)
}

func (m *BelowGCThresholdError) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Timestamp = d.ts()
		case 2:
			m.Threshold = d.ts()
		}
	}
}

func (m *DiskFullError) encode(e *encoder) {
	e.int(1, int64(m.Node))
	e.int(2, m.FreeBytes)
	e.int(3, m.MinBytes)
}

func (m *DiskFullError) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Node = keys.NodeID(d.int32())
		case 2:
			m.FreeBytes = d.int()
		case 3:
			m.MinBytes = d.int()
		}
	}
}

func (m *UnavailableError) encode(e *encoder) {
	e.int(1, int64(m.RangeID))
	e.int(2, int64(m.Waited))
	e.string(3, m.Detail)
}

func (m *UnavailableError) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.RangeID = keys.RangeID(d.int())
		case 2:
			m.Waited = durationOf(d)
		case 3:
			m.Detail = d.string()
		}
	}
}

func (m *InvalidRequestError) encode(e *encoder) { e.string(1, m.Detail) }
func (m *InvalidRequestError) decode(d *decoder) { decodeDetail(d, &m.Detail) }

func (m *InternalError) encode(e *encoder) { e.string(1, m.Detail) }
func (m *InternalError) decode(d *decoder) { decodeDetail(d, &m.Detail) }

func decodeDetail(d *decoder, to *string) {
	for d.next() {
		if d.num == 1 {
			*to = d.string()
		}
	}
}

func (*OnePhaseError) encode(*encoder)   {}
func (*OnePhaseError) decode(d *decoder) { d.skip() }
