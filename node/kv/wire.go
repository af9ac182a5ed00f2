package kv

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
)

// Limits of what is decoded. A frame of the network is at most 64 MiB, so that nothing
// larger can be legitimate; the list limit bounds how much memory few bytes can claim.
const (
	// MaxMessageBytes bounds one encoded batch, response, error, descriptor or record.
	MaxMessageBytes = 64 << 20
	// MaxListElements bounds each repeated field.
	MaxListElements = 1 << 20
)

// wireVersion leads every encoded message. Fields may be added within a version (unknown
// ones are skipped); a change that an old reader would misread needs a new version.
const wireVersion = 1

// message is a type of this package that has a wire form.
type message interface {
	encode(e *encoder)
	decode(d *decoder)
}

// encoder appends protobuf wire format. Zero values are left out.
type encoder struct{ b []byte }

func (e *encoder) tag(num protowire.Number, typ protowire.Type) {
	e.b = protowire.AppendTag(e.b, num, typ)
}

func (e *encoder) uint(num protowire.Number, v uint64) {
	if v != 0 {
		e.tag(num, protowire.VarintType)
		e.b = protowire.AppendVarint(e.b, v)
	}
}

// int is for values that are rarely negative.
func (e *encoder) int(num protowire.Number, v int64) { e.uint(num, uint64(v)) }

func (e *encoder) sint(num protowire.Number, v int64) { e.uint(num, protowire.EncodeZigZag(v)) }

func (e *encoder) bool(num protowire.Number, v bool) {
	if v {
		e.uint(num, 1)
	}
}

func (e *encoder) bytes(num protowire.Number, v []byte) {
	if len(v) > 0 {
		e.tag(num, protowire.BytesType)
		e.b = protowire.AppendBytes(e.b, v)
	}
}

func (e *encoder) string(num protowire.Number, v string) {
	if v != "" {
		e.tag(num, protowire.BytesType)
		e.b = protowire.AppendString(e.b, v)
	}
}

func (e *encoder) id(num protowire.Number, v [16]byte) {
	if v != ([16]byte{}) {
		e.bytes(num, v[:])
	}
}

// ts writes a timestamp as 12 bytes, big endian: wall, logical.
func (e *encoder) ts(num protowire.Number, t hlc.Timestamp) {
	if t.IsEmpty() {
		return
	}
	e.tag(num, protowire.BytesType)
	e.b = append(e.b, 12)
	e.b = binary.BigEndian.AppendUint64(e.b, uint64(t.WallNanos))
	e.b = binary.BigEndian.AppendUint32(e.b, uint32(t.Logical))
}

func (e *encoder) span(num protowire.Number, s keys.Span) {
	if len(s.Key) > 0 || len(s.EndKey) > 0 {
		e.spanAlways(num, s)
	}
}

func (e *encoder) spanAlways(num protowire.Number, s keys.Span) {
	at := e.begin(num)
	e.bytes(1, s.Key)
	e.bytes(2, s.EndKey)
	e.end(at)
}

func (e *encoder) spanPtr(num protowire.Number, s *keys.Span) {
	if s != nil {
		e.spanAlways(num, *s)
	}
}

func (e *encoder) spans(num protowire.Number, s []keys.Span) {
	for i := range s {
		e.spanAlways(num, s[i])
	}
}

func (e *encoder) msg(num protowire.Number, m message) {
	at := e.begin(num)
	m.encode(e)
	e.end(at)
}

// begin opens a nested message with room for a one-byte length.
func (e *encoder) begin(num protowire.Number) int {
	e.tag(num, protowire.BytesType)
	e.b = append(e.b, 0)
	return len(e.b)
}

// end fills the length in, moving the message when the length needs more than a byte.
func (e *encoder) end(at int) {
	n := len(e.b) - at
	if n < 0x80 {
		e.b[at-1] = byte(n)
		return
	}
	more := protowire.SizeVarint(uint64(n)) - 1
	e.b = append(e.b, make([]byte, more)...)
	copy(e.b[at+more:], e.b[at:at+n])
	protowire.AppendVarint(e.b[:at-1], uint64(n))
}

// decoder walks the fields of one message. Byte fields alias the input.
type decoder struct {
	b   []byte
	num protowire.Number
	typ protowire.Type
	u   uint64
	raw []byte
	err error
}

// next moves to the next field that this version can represent.
func (d *decoder) next() bool {
	for d.err == nil && len(d.b) > 0 {
		num, typ, n := protowire.ConsumeTag(d.b)
		if n < 0 {
			d.fail("bad tag: %w", protowire.ParseError(n))
			return false
		}
		d.b = d.b[n:]
		d.num, d.typ = num, typ
		switch typ {
		case protowire.VarintType:
			d.u, n = protowire.ConsumeVarint(d.b)
		case protowire.BytesType:
			d.raw, n = protowire.ConsumeBytes(d.b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, d.b)
		}
		if n < 0 {
			d.fail("field %d: %w", num, protowire.ParseError(n))
			return false
		}
		d.b = d.b[n:]
		if typ == protowire.VarintType || typ == protowire.BytesType {
			return true
		}
	}
	return false
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("kv: cannot decode: "+format, args...)
	}
}

func (d *decoder) uint() uint64 {
	if d.typ != protowire.VarintType {
		d.fail("field %d has wire type %d, want a varint", d.num, d.typ)
		return 0
	}
	return d.u
}

func (d *decoder) int() int64     { return int64(d.uint()) }
func (d *decoder) sint() int64    { return protowire.DecodeZigZag(d.uint()) }
func (d *decoder) bool() bool     { return d.uint() != 0 }
func (d *decoder) string() string { return string(d.bytes()) }

func (d *decoder) int32() int32 {
	v := d.int()
	if v < math.MinInt32 || v > math.MaxInt32 {
		d.fail("field %d holds %d, beyond 32 bits", d.num, v)
		return 0
	}
	return int32(v)
}

// enum reads a value in [0, last]. A larger one was written by a newer version; to take
// it for another would be wrong, so that it fails.
func (d *decoder) enum(last uint8) uint8 {
	v := d.uint()
	if v > uint64(last) {
		d.fail("field %d holds the unknown value %d (known: 0 to %d); is the sender newer than this node?", d.num, v, last)
		return 0
	}
	return uint8(v)
}

// bytes returns the field's bytes, nil if there are none, capped so that an append copies.
func (d *decoder) bytes() []byte {
	if d.typ != protowire.BytesType {
		d.fail("field %d has wire type %d, want bytes", d.num, d.typ)
		return nil
	}
	if len(d.raw) == 0 {
		return nil
	}
	return d.raw[:len(d.raw):len(d.raw)]
}

func (d *decoder) id() (id [16]byte) {
	b := d.bytes()
	if len(b) != len(id) {
		d.fail("field %d has %d bytes, want an ID of 16", d.num, len(b))
		return id
	}
	copy(id[:], b)
	return id
}

func (d *decoder) ts() hlc.Timestamp {
	b := d.bytes()
	if len(b) != 12 {
		d.fail("field %d has %d bytes, want a timestamp of 12", d.num, len(b))
		return hlc.Timestamp{}
	}
	return hlc.Timestamp{
		WallNanos: int64(binary.BigEndian.Uint64(b)),
		Logical:   int32(binary.BigEndian.Uint32(b[8:])),
	}
}

// msg decodes the current field into m.
func (d *decoder) msg(m message) {
	rest := d.b
	if d.b = d.bytes(); d.err == nil {
		m.decode(d)
	}
	d.b = rest
}

func (d *decoder) span() (s keys.Span) {
	rest := d.b
	d.b = d.bytes()
	for d.next() {
		switch d.num {
		case 1:
			s.Key = d.bytes()
		case 2:
			s.EndKey = d.bytes()
		}
	}
	d.b = rest
	return s
}

func (d *decoder) spanPtr() *keys.Span {
	s := d.span()
	return &s
}

// room reports whether a list of n elements may grow by one.
func (d *decoder) room(n int) bool {
	if n >= MaxListElements {
		d.fail("field %d has more than %d elements", d.num, MaxListElements)
		return false
	}
	return d.err == nil
}

func (d *decoder) spans(to *[]keys.Span) {
	if d.room(len(*to)) {
		*to = append(*to, d.span())
	}
}

// elem appends a zero element to the list and decodes the current field into it.
func elem[T any, P interface {
	*T
	message
}](d *decoder, to *[]T) {
	if !d.room(len(*to)) {
		return
	}
	var zero T
	*to = append(*to, zero)
	d.msg(P(&(*to)[len(*to)-1]))
}

// marshal appends the versioned form of m to dst.
func marshal(dst []byte, m message) []byte {
	e := encoder{b: append(dst, wireVersion)}
	m.encode(&e)
	return e.b
}

// unmarshal reads what marshal wrote.
func unmarshal(what string, b []byte, m message) error {
	if len(b) == 0 {
		return fmt.Errorf("kv: cannot decode %s: it is empty", what)
	}
	if len(b) > MaxMessageBytes {
		return fmt.Errorf("kv: cannot decode %s: it has %d bytes, the limit is %d", what, len(b), MaxMessageBytes)
	}
	if b[0] != wireVersion {
		return fmt.Errorf("kv: cannot decode %s: format version %d, this node knows %d; upgrade this node", what, b[0], wireVersion)
	}
	d := decoder{b: b[1:]}
	m.decode(&d)
	if d.err != nil {
		return fmt.Errorf("%s: %w", what, d.err)
	}
	return nil
}
