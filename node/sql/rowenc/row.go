package rowenc

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/cockroachdb/apd/v3"

	"github.com/atolldb/atoll/node/sql/types"
)

// A row's value is
//
//	version byte 0x01, then per column, by ascending ID:
//	  uvarint (ID - previous ID) << 4 | kind, payload
//
// A column that is not there is absent, which is not NULL: the reader's Missing stands in
// for it. Payloads of unknown kinds (extKind) are skipped, so that older readers pass over them.
const rowVersion = 0x01

// Kinds of payload. Part of the on-disk format.
const (
	rowNull      = 0  // nothing
	rowFalse     = 1  // nothing
	rowTrue      = 2  // nothing
	rowInt       = 3  // zigzag varint
	rowFloat     = 4  // 8 bytes, little-endian
	rowTimestamp = 5  // 8 bytes, little-endian
	rowDate      = 6  // zigzag varint
	rowTime      = 7  // 8 bytes, little-endian
	rowString    = 8  // uvarint length, bytes
	rowBytes     = 9  // uvarint length, bytes
	rowUUID      = 10 // 16 bytes
	rowNumeric   = 11 // uvarint length, then see appendNumeric
	rowInterval  = 12 // uvarint length, then months, days, micros as zigzag varints
	rowJSON      = 13 // uvarint length, canonical text
	rowArray     = 14 // uvarint length, then see appendArray
	extKind      = 15 // byte kind, uvarint length, bytes

	extRecord = 1
)

// BeginRow starts a row's value; AppendColumn adds to it.
func BeginRow(dst []byte) []byte { return append(dst, rowVersion) }

// AppendColumn adds a column behind the one with ID prev (0 at first). REQUIRES: id > prev.
func AppendColumn(dst []byte, prev, id int16, d types.Datum) ([]byte, error) {
	if id <= prev {
		return nil, fmt.Errorf("rowenc: column %d does not come after column %d", id, prev)
	}
	return appendTagged(dst, uint64(id-prev), d)
}

// AppendRow encodes a row. ids ascend and go with vals.
func AppendRow(dst []byte, ids []int16, vals []types.Datum) ([]byte, error) {
	dst = BeginRow(dst)
	prev := int16(0)
	var err error
	for i, id := range ids {
		if dst, err = AppendColumn(dst, prev, id, vals[i]); err != nil {
			return nil, err
		}
		prev = id
	}
	return dst, nil
}

func appendTagged(dst []byte, delta uint64, d types.Datum) ([]byte, error) {
	le := binary.LittleEndian
	tag := func(kind uint64) []byte { return binary.AppendUvarint(dst, delta<<4|kind) }
	switch d.Kind() {
	case types.KindNull:
		return tag(rowNull), nil
	case types.KindBool:
		if d.Bool() {
			return tag(rowTrue), nil
		}
		return tag(rowFalse), nil
	case types.KindInt:
		return binary.AppendVarint(tag(rowInt), d.Int()), nil
	case types.KindFloat:
		return le.AppendUint64(tag(rowFloat), math.Float64bits(d.Float())), nil
	case types.KindTimestamp:
		return le.AppendUint64(tag(rowTimestamp), uint64(d.Int())), nil
	case types.KindDate:
		return binary.AppendVarint(tag(rowDate), d.Int()), nil
	case types.KindTime:
		return le.AppendUint64(tag(rowTime), uint64(d.Int())), nil
	case types.KindString:
		return appendString(tag(rowString), d.Str()), nil
	case types.KindJSON:
		return appendString(tag(rowJSON), d.Str()), nil
	case types.KindBytes:
		b := d.Bytes()
		return append(binary.AppendUvarint(tag(rowBytes), uint64(len(b))), b...), nil
	case types.KindUUID:
		u := d.UUID()
		return append(tag(rowUUID), u[:]...), nil
	case types.KindNumeric:
		return appendSized(tag(rowNumeric), func(b []byte) ([]byte, error) { return appendNumeric(b, d.Numeric()), nil })
	case types.KindInterval:
		return appendSized(tag(rowInterval), func(b []byte) ([]byte, error) {
			v := d.Interval()
			b = binary.AppendVarint(b, int64(v.Months))
			b = binary.AppendVarint(b, int64(v.Days))
			return binary.AppendVarint(b, v.Micros), nil
		})
	case types.KindArray:
		return appendSized(tag(rowArray), func(b []byte) ([]byte, error) { return appendArray(b, d.Array()) })
	case types.KindRecord:
		return appendSized(append(tag(extKind), extRecord), func(b []byte) ([]byte, error) { return appendRecord(b, d.Record()) })
	}
	return nil, fmt.Errorf("rowenc: datum kind %d has no row encoding", d.Kind())
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// appendSized puts a uvarint length before what f appends.
func appendSized(dst []byte, f func([]byte) ([]byte, error)) ([]byte, error) {
	start := len(dst)
	dst, err := f(append(dst, 0)) // one byte suffices for most
	if err != nil {
		return nil, err
	}
	n := len(dst) - start - 1
	if n < 0x80 {
		dst[start] = byte(n)
		return dst, nil
	}
	var size [binary.MaxVarintLen64]byte
	w := binary.PutUvarint(size[:], uint64(n))
	dst = append(dst, size[:w-1]...)
	copy(dst[start+w:], dst[start+1:start+1+n])
	copy(dst[start:], size[:w])
	return dst, nil
}

// appendNumeric writes form and sign, scale (zigzag, it may be negative in principle), and
// the coefficient big-endian.
func appendNumeric(dst []byte, n *apd.Decimal) []byte {
	form := byte(n.Form) << 1
	if n.Negative {
		form |= 1
	}
	dst = append(dst, form)
	if n.Form != apd.Finite {
		return dst
	}
	dst = binary.AppendVarint(dst, int64(n.Exponent))
	if n.Coeff.IsUint64() {
		v := n.Coeff.Uint64()
		var be [8]byte
		binary.BigEndian.PutUint64(be[:], v)
		i := 0
		for i < 8 && be[i] == 0 {
			i++
		}
		return append(dst, be[i:]...)
	}
	return append(dst, n.Coeff.Bytes()...)
}

func appendArray(dst []byte, a *types.Array) ([]byte, error) {
	dst = binary.AppendUvarint(dst, uint64(a.Elem))
	dst = binary.AppendUvarint(dst, uint64(len(a.Dims)))
	for _, d := range a.Dims {
		dst = binary.AppendVarint(dst, int64(d.Len))
		dst = binary.AppendVarint(dst, int64(d.Lower))
	}
	var err error
	for _, v := range a.Values {
		if dst, err = appendTagged(dst, 0, v); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

func appendRecord(dst []byte, r *types.Record) ([]byte, error) {
	var err error
	for i, v := range r.Values {
		dst = binary.AppendUvarint(dst, uint64(r.Types[i]))
		if dst, err = appendTagged(dst, 0, v); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// Column says which column of a row to decode, and where to.
type Column struct {
	ID      int16
	Slot    int         // index into the decoded row
	Missing types.Datum // the value of a row that lacks the column
}

// Decoder decodes some columns of rows. Make one per plan; it may be used concurrently.
type Decoder struct {
	cols []Column // by ID
}

// NewDecoder takes the wanted columns in any order; no ID twice.
func NewDecoder(cols []Column) *Decoder {
	sorted := slices.Clone(cols)
	slices.SortFunc(sorted, func(a, b Column) int { return int(a.ID) - int(b.ID) })
	return &Decoder{cols: sorted}
}

// Decode sets the wanted columns' slots of out from a row's value. Strings, bytes and uuids
// live in value: nobody may change it while they are in use. Slots of columns that the row
// lacks get their Missing.
func (d *Decoder) Decode(value []byte, out []types.Datum) error {
	return d.decode(value, out, false)
}

// DecodePresent is Decode, but leaves the slots of columns that the row lacks alone: for key
// columns, which are in the value only if NeedsValue said so.
func (d *Decoder) DecodePresent(value []byte, out []types.Datum) error {
	return d.decode(value, out, true)
}

func (d *Decoder) decode(value []byte, out []types.Datum, presentOnly bool) error {
	if len(value) == 0 || value[0] != rowVersion {
		return errVersion(value)
	}
	cols := d.cols
	b := value[1:]
	id := uint64(0)
	for len(b) > 0 && len(cols) > 0 {
		head, n := binary.Uvarint(b)
		if n <= 0 || head>>4 == 0 || head>>4 > math.MaxInt16 {
			return errRow(value)
		}
		b = b[n:]
		id += head >> 4
		for len(cols) > 0 && uint64(cols[0].ID) < id {
			if !presentOnly {
				out[cols[0].Slot] = cols[0].Missing
			}
			cols = cols[1:]
		}
		if len(cols) > 0 && uint64(cols[0].ID) == id {
			v, rest, ok := decodeValue(b, head&15, 0)
			if !ok {
				return errRow(value)
			}
			out[cols[0].Slot] = v
			cols, b = cols[1:], rest
			continue
		}
		rest, ok := skipValue(b, head&15)
		if !ok {
			return errRow(value)
		}
		b = rest
	}
	if !presentOnly {
		for _, c := range cols {
			out[c.Slot] = c.Missing
		}
	}
	return nil
}

func errVersion(value []byte) error {
	if len(value) == 0 {
		return fmt.Errorf("rowenc: a row's value is empty")
	}
	return fmt.Errorf("rowenc: row format version %d is not known, this node reads version %d: a newer node wrote it", value[0], rowVersion)
}

func errRow(value []byte) error {
	if len(value) > 64 {
		value = value[:64]
	}
	return fmt.Errorf("rowenc: malformed row value %x", value)
}

func varint(b []byte) (int64, []byte, bool) {
	v, n := binary.Varint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

func sized(b []byte) (v, rest []byte, ok bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, false
	}
	end := n + int(size)
	return b[n:end:end], b[end:], true
}

func skipValue(b []byte, kind uint64) ([]byte, bool) {
	fixed := 0
	switch kind {
	case rowNull, rowFalse, rowTrue:
		return b, true
	case rowInt, rowDate:
		_, rest, ok := varint(b)
		return rest, ok
	case rowFloat, rowTimestamp, rowTime:
		fixed = 8
	case rowUUID:
		fixed = 16
	case extKind:
		if len(b) == 0 {
			return nil, false
		}
		_, rest, ok := sized(b[1:])
		return rest, ok
	default:
		_, rest, ok := sized(b)
		return rest, ok
	}
	if len(b) < fixed {
		return nil, false
	}
	return b[fixed:], true
}

// decodeValue reads one payload; depth counts arrays and records around it.
func decodeValue(b []byte, kind uint64, depth int) (types.Datum, []byte, bool) {
	switch kind {
	case rowNull:
		return types.Null, b, true
	case rowFalse, rowTrue:
		return types.NewBool(kind == rowTrue), b, true
	case rowInt:
		v, rest, ok := varint(b)
		return types.NewInt(v), rest, ok
	case rowDate:
		v, rest, ok := varint(b)
		return types.NewDate(int32(v)), rest, ok && v == int64(int32(v))
	case rowFloat, rowTimestamp, rowTime:
		if len(b) < 8 {
			return types.Null, nil, false
		}
		v := binary.LittleEndian.Uint64(b)
		switch kind {
		case rowFloat:
			return types.NewFloat(math.Float64frombits(v)), b[8:], true
		case rowTime:
			return types.NewTime(int64(v)), b[8:], true
		}
		return types.NewTimestamp(int64(v)), b[8:], true
	case rowUUID:
		if len(b) < 16 {
			return types.Null, nil, false
		}
		return types.AliasUUID(b[:16]), b[16:], true
	case extKind:
		if len(b) == 0 {
			return types.Null, nil, false
		}
		v, rest, ok := sized(b[1:])
		if !ok || b[0] != extRecord {
			return types.Null, nil, false
		}
		d, ok := decodeRecord(v, depth+1)
		return d, rest, ok
	}
	v, rest, ok := sized(b)
	if !ok {
		return types.Null, nil, false
	}
	var d types.Datum
	switch kind {
	case rowString:
		return types.AliasString(v), rest, true
	case rowJSON:
		return types.AliasJSON(v), rest, true
	case rowBytes:
		return types.NewBytes(v), rest, true
	case rowNumeric:
		d, ok = decodeNumeric(v)
	case rowInterval:
		d, ok = decodeInterval(v)
	case rowArray:
		d, ok = decodeArray(v, depth+1)
	default:
		ok = false
	}
	return d, rest, ok
}

func decodeNumeric(b []byte) (types.Datum, bool) {
	if len(b) == 0 || b[0]>>1 > byte(apd.NaN) {
		return types.Null, false
	}
	n := &apd.Decimal{Form: apd.Form(b[0] >> 1), Negative: b[0]&1 != 0}
	b = b[1:]
	if n.Form != apd.Finite {
		return types.NewNumeric(n), len(b) == 0
	}
	exp, b, ok := varint(b)
	if !ok || exp > 0 || exp < -maxKeyExponent || len(b) > 0 && b[0] == 0 || n.Negative && len(b) == 0 {
		return types.Null, false
	}
	n.Exponent = int32(exp)
	if len(b) <= 8 {
		v := uint64(0)
		for _, c := range b {
			v = v<<8 | uint64(c)
		}
		n.Coeff.SetUint64(v)
	} else {
		n.Coeff.SetBytes(b)
	}
	return types.NewNumeric(n), true
}

func decodeInterval(b []byte) (types.Datum, bool) {
	months, b, ok1 := varint(b)
	days, b, ok2 := varint(b)
	us, b, ok3 := varint(b)
	if !ok1 || !ok2 || !ok3 || len(b) != 0 || months != int64(int32(months)) || days != int64(int32(days)) {
		return types.Null, false
	}
	return types.NewInterval(types.Interval{Months: int32(months), Days: int32(days), Micros: us}), true
}

const (
	maxDepth = 64 // arrays and records inside each other
	maxDims  = 6
)

func decodeArray(b []byte, depth int) (types.Datum, bool) {
	elem, n := binary.Uvarint(b)
	if n <= 0 || elem > math.MaxUint32 || depth > maxDepth {
		return types.Null, false
	}
	b = b[n:]
	ndims, n := binary.Uvarint(b)
	if n <= 0 || ndims > maxDims {
		return types.Null, false
	}
	b = b[n:]
	a := &types.Array{Elem: types.OID(elem)}
	count := int64(0)
	if ndims > 0 {
		count = 1
		a.Dims = make([]types.ArrayDim, ndims)
	}
	for i := range a.Dims {
		size, rest, ok1 := varint(b)
		lower, rest, ok2 := varint(rest)
		if !ok1 || !ok2 || size < 0 || size > math.MaxInt32 || lower != int64(int32(lower)) {
			return types.Null, false
		}
		a.Dims[i] = types.ArrayDim{Len: int32(size), Lower: int32(lower)}
		count *= size
		if count > int64(len(b)) { // each value takes a byte at least
			return types.Null, false
		}
		b = rest
	}
	vals, ok := decodeList(b, int(count), depth)
	a.Values = vals
	return types.NewArray(a), ok
}

// decodeList reads count tagged values that fill b.
func decodeList(b []byte, count, depth int) ([]types.Datum, bool) {
	var vals []types.Datum
	if count > 0 {
		vals = make([]types.Datum, count)
	}
	for i := range vals {
		if len(b) == 0 || b[0] > 15 {
			return nil, false
		}
		v, rest, ok := decodeValue(b[1:], uint64(b[0]), depth)
		if !ok {
			return nil, false
		}
		vals[i], b = v, rest
	}
	return vals, len(b) == 0
}

func decodeRecord(b []byte, depth int) (types.Datum, bool) {
	if depth > maxDepth {
		return types.Null, false
	}
	r := &types.Record{}
	for len(b) > 0 {
		oid, n := binary.Uvarint(b)
		if n <= 0 || oid > math.MaxUint32 || len(b) == n || b[n] > 15 {
			return types.Null, false
		}
		v, rest, ok := decodeValue(b[n+1:], uint64(b[n]), depth)
		if !ok {
			return types.Null, false
		}
		r.Types, r.Values = append(r.Types, types.OID(oid)), append(r.Values, v)
		b = rest
	}
	return types.NewRecord(r), true
}
