package catalog

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// encoder appends protobuf wire format. Zero values are left out.
type encoder struct{ b []byte }

func (e *encoder) uint(n protowire.Number, v uint64) {
	if v != 0 {
		e.b = protowire.AppendTag(e.b, n, protowire.VarintType)
		e.b = protowire.AppendVarint(e.b, v)
	}
}

func (e *encoder) int(n protowire.Number, v int64) { e.uint(n, protowire.EncodeZigZag(v)) }

func (e *encoder) bool(n protowire.Number, v bool) {
	if v {
		e.uint(n, 1)
	}
}

func (e *encoder) str(n protowire.Number, v string) {
	if v != "" {
		e.b = protowire.AppendTag(e.b, n, protowire.BytesType)
		e.b = protowire.AppendString(e.b, v)
	}
}

// strs keeps empty strings: the list's length counts.
func (e *encoder) strs(n protowire.Number, v []string) {
	for _, s := range v {
		e.b = protowire.AppendTag(e.b, n, protowire.BytesType)
		e.b = protowire.AppendString(e.b, s)
	}
}

// msg appends a nested message, an empty one as well.
func (e *encoder) msg(n protowire.Number, f func(*encoder)) {
	var in encoder
	f(&in)
	e.b = protowire.AppendTag(e.b, n, protowire.BytesType)
	e.b = protowire.AppendBytes(e.b, in.b)
}

// columnIDs appends a packed list.
func (e *encoder) columnIDs(n protowire.Number, ids []ColumnID) {
	if len(ids) == 0 {
		return
	}
	var in []byte
	for _, id := range ids {
		in = protowire.AppendVarint(in, uint64(id))
	}
	e.b = protowire.AppendTag(e.b, n, protowire.BytesType)
	e.b = protowire.AppendBytes(e.b, in)
}

func (e *encoder) uint32s(n protowire.Number, ids []uint32) {
	if len(ids) == 0 {
		return
	}
	var in []byte
	for _, id := range ids {
		in = protowire.AppendVarint(in, uint64(id))
	}
	e.b = protowire.AppendTag(e.b, n, protowire.BytesType)
	e.b = protowire.AppendBytes(e.b, in)
}

// field is one decoded field: v for varints, b for bytes.
type field struct {
	num protowire.Number
	v   uint64
	b   []byte
}

func (f field) int() int64  { return protowire.DecodeZigZag(f.v) }
func (f field) bool() bool  { return f.v != 0 }
func (f field) str() string { return string(f.b) }

func (f field) columnIDs() ([]ColumnID, error) {
	var out []ColumnID
	for b := f.b; len(b) > 0; {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 || v == 0 || v > uint64(RowIDColumn) {
			return nil, fmt.Errorf("catalog: bad column ID list %x", f.b)
		}
		out, b = append(out, ColumnID(v)), b[n:]
	}
	return out, nil
}

func (f field) uint32s() ([]uint32, error) {
	var out []uint32
	for b := f.b; len(b) > 0; {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 || v > 1<<32-1 {
			return nil, fmt.Errorf("catalog: bad list %x", f.b)
		}
		out, b = append(out, uint32(v)), b[n:]
	}
	return out, nil
}

// fields calls f for every varint and bytes field of a message. Fields of other wire types
// are skipped, and f ignores numbers that it does not know: a newer version may add some.
func fields(b []byte, f func(field) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("catalog: bad field tag: %w", protowire.ParseError(n))
		}
		b = b[n:]
		fd := field{num: num}
		switch typ {
		case protowire.VarintType:
			fd.v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			fd.b, n = protowire.ConsumeBytes(b)
		default:
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return fmt.Errorf("catalog: bad field %d: %w", num, protowire.ParseError(n))
			}
			b = b[n:]
			continue
		}
		if n < 0 {
			return fmt.Errorf("catalog: bad field %d: %w", num, protowire.ParseError(n))
		}
		b = b[n:]
		if err := f(fd); err != nil {
			return err
		}
	}
	return nil
}
