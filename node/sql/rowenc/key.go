// Package rowenc turns rows into keys and values and back.
//
// A key is made of its columns' encodings, one after another, each in its own direction and
// ordered as the type's default btree order says; package encoding has the primitives. A
// value is a row codec: version, then the columns by ascending ID (see AppendRow).
//
// Values that compare equal have one key encoding, so that unique indexes hold. For a few
// types that loses something: 1.50 and 1.5, '1 month' and '30 days', -0 and 0. NeedsValue
// says when: then the writer stores the column in the row's value too, and the reader takes
// it from there.
package rowenc

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/cockroachdb/apd/v3"

	"github.com/atolldb/atoll/node/encoding"
	"github.com/atolldb/atoll/node/sql/types"
)

// Tags of encodings that package encoding does not have. Part of the on-disk format.
const (
	tagArray  = 0x30
	tagRecord = 0x31
	tagJSON   = 0x32

	// Between the elements of an array, record or JSON value.
	markEnd   = 0x01
	markValue = 0x02
	markNull  = 0x03
)

const asc = encoding.Ascending

// AppendKey appends a value's, or NULL's, key encoding. nullsFirst says where NULLs sort, in
// whichever direction: PostgreSQL's default is false for ASC and true for DESC.
func AppendKey(dst []byte, oid types.OID, d types.Datum, dir encoding.Direction, nullsFirst bool) ([]byte, error) {
	if d.IsNull() {
		return encoding.AppendNull(dst, nullsFirst), nil
	}
	switch d.Kind() {
	case types.KindInt, types.KindTimestamp, types.KindDate, types.KindTime:
		return encoding.AppendInt(dst, d.Int(), dir), nil
	case types.KindBool:
		return encoding.AppendBool(dst, d.Bool(), dir), nil
	case types.KindFloat:
		return encoding.AppendFloat(dst, d.Float(), dir), nil
	case types.KindString:
		if oid == types.OIDJSON {
			return nil, fmt.Errorf("rowenc: type json has no order: it can't be a key column")
		}
		s := d.Str()
		if oid == types.OIDBPChar {
			s = strings.TrimRight(s, " ")
		}
		return encoding.AppendString(dst, s, dir), nil
	case types.KindBytes:
		return encoding.AppendBytes(dst, d.Bytes(), dir), nil
	case types.KindUUID:
		u := d.UUID()
		return encoding.AppendFixed(dst, u[:], dir), nil
	case types.KindNumeric:
		return encoding.AppendDecimal(dst, d.Numeric(), dir), nil
	case types.KindInterval:
		days, us := types.IntervalSpan(d.Interval())
		return encoding.AppendInt(encoding.AppendInt(dst, days, dir), us, dir), nil
	}
	from := len(dst)
	dst, err := appendDeepKey(dst, oid, d)
	if err != nil {
		return nil, err
	}
	if dir == encoding.Descending {
		for i := from; i < len(dst); i++ {
			dst[i] = ^dst[i]
		}
	}
	return dst, nil
}

// appendDeepKey encodes arrays, records and jsonb, ascending.
func appendDeepKey(dst []byte, oid types.OID, d types.Datum) ([]byte, error) {
	switch d.Kind() {
	case types.KindArray:
		a := d.Array()
		dst, err := appendElements(append(dst, tagArray), func(int) types.OID { return a.Elem }, a.Values)
		if err != nil {
			return nil, err
		}
		dst = encoding.AppendUint(dst, uint64(len(a.Dims)), asc)
		for _, dim := range a.Dims {
			dst = encoding.AppendInt(dst, int64(dim.Len), asc)
		}
		for _, dim := range a.Dims {
			dst = encoding.AppendInt(dst, int64(dim.Lower), asc)
		}
		return dst, nil
	case types.KindRecord:
		r := d.Record()
		return appendElements(append(dst, tagRecord), func(i int) types.OID { return r.Types[i] }, r.Values)
	case types.KindJSON:
		v, err := types.ParseJSON(d.Str())
		if err != nil {
			return nil, fmt.Errorf("rowenc: jsonb value: %w", err)
		}
		dst = append(dst, tagJSON)
		if v.Kind == types.JSONArray && len(v.Elems) == 0 {
			return append(dst, 1), nil // at the top level below everything else
		}
		return appendJSONKey(dst, v), nil
	}
	return nil, fmt.Errorf("rowenc: type %s has no key encoding", types.TypeName(oid))
}

func appendElements(dst []byte, typ func(int) types.OID, vals []types.Datum) ([]byte, error) {
	var err error
	for i, v := range vals {
		if v.IsNull() {
			dst = append(dst, markNull)
			continue
		}
		if dst, err = AppendKey(append(dst, markValue), typ(i), v, asc, false); err != nil {
			return nil, err
		}
	}
	return append(dst, markEnd), nil
}

// appendJSONKey follows types.CompareJSON: rank, then number of members, then the members.
func appendJSONKey(dst []byte, v *types.JSON) []byte {
	switch v.Kind {
	case types.JSONNull:
		return append(dst, 2)
	case types.JSONString:
		return encoding.AppendString(append(dst, 3), v.Str, asc)
	case types.JSONNumber:
		return encoding.AppendDecimal(append(dst, 4), v.Num, asc)
	case types.JSONBool:
		return encoding.AppendBool(append(dst, 5), v.Bool, asc)
	case types.JSONArray:
		dst = encoding.AppendUint(append(dst, 6), uint64(len(v.Elems)), asc)
		for _, e := range v.Elems {
			dst = appendJSONKey(dst, e)
		}
		return dst
	}
	dst = encoding.AppendUint(append(dst, 7), uint64(len(v.Fields)), asc)
	for _, f := range v.Fields {
		dst = encoding.AppendString(dst, f.Key, asc)
		dst = appendJSONKey(dst, f.Value)
	}
	return dst
}

// NeedsValue says whether the key encoding of a value of a column loses something, so that
// the row's value must hold the column too. It is false for NULL.
func NeedsValue(oid types.OID, typmod int32, d types.Datum) bool {
	switch d.Kind() {
	case types.KindFloat:
		f := d.Float()
		return f == 0 && math.Signbit(f)
	case types.KindNumeric:
		n := d.Numeric()
		if n.Form != apd.Finite {
			return false
		}
		if _, scale, ok := types.NumericTypmod(typmod); ok {
			return -n.Exponent != max(scale, 0) // the scale is the column's, normally
		}
		return n.Exponent != 0 && lastDigitZero(n) || n.Exponent > 0
	case types.KindString:
		if oid != types.OIDBPChar {
			return false
		}
		s := d.Str()
		if limit, ok := types.CharLimit(typmod); ok {
			return utf8.RuneCountInString(s) != limit
		}
		return strings.HasSuffix(s, " ")
	case types.KindInterval:
		v := d.Interval()
		days, us := types.IntervalSpan(v)
		return v.Months != 0 || int64(v.Days) != days || v.Micros != us
	case types.KindJSON, types.KindArray, types.KindRecord:
		return true
	}
	return false
}

func lastDigitZero(n *apd.Decimal) bool {
	var rem apd.BigInt
	rem.Rem(&n.Coeff, apd.NewBigInt(10))
	return rem.Sign() == 0 // zero itself too: 0.00 decodes as 0
}

// DecodeKey decodes AppendKey's result for a column of a type and returns what follows it.
// Strings and bytes may live in b. Arrays, records and jsonb, which NeedsValue always keeps
// in the row's value, come back as NULL.
func DecodeKey(b []byte, oid types.OID, typmod int32, dir encoding.Direction) (types.Datum, []byte, error) {
	if isNull, rest := encoding.DecodeNull(b); isNull {
		return types.Null, rest, nil
	}
	switch types.KindOf(oid) {
	case types.KindInt:
		v, rest, err := encoding.DecodeInt(b, dir)
		return types.NewInt(v), rest, err
	case types.KindTimestamp:
		v, rest, err := encoding.DecodeInt(b, dir)
		return types.NewTimestamp(v), rest, err
	case types.KindDate:
		v, rest, err := encoding.DecodeInt(b, dir)
		if err == nil && v != int64(int32(v)) {
			err = malformed(oid, b)
		}
		return types.NewDate(int32(v)), rest, err
	case types.KindTime:
		v, rest, err := encoding.DecodeInt(b, dir)
		return types.NewTime(v), rest, err
	case types.KindBool:
		v, rest, err := encoding.DecodeBool(b, dir)
		return types.NewBool(v), rest, err
	case types.KindFloat:
		v, rest, err := encoding.DecodeFloat(b, dir)
		return types.NewFloat(v), rest, err
	case types.KindString:
		v, rest, err := decodeBytes(b, dir)
		if err == nil && oid == types.OIDBPChar {
			if d, ok := padBPChar(v, typmod); ok {
				return d, rest, nil
			}
		}
		return types.AliasString(v), rest, err
	case types.KindBytes:
		v, rest, err := decodeBytes(b, dir)
		return types.NewBytes(v), rest, err
	case types.KindUUID:
		if dir == asc && len(b) >= 17 {
			if b[0] == fixedTag {
				return types.AliasUUID(b[1:17]), b[17:], nil
			}
		}
		var u [16]byte
		rest, err := encoding.DecodeFixed(b, u[:], dir)
		return types.NewUUID(u), rest, err
	}
	return decodeOtherKey(b, oid, typmod, dir)
}

func decodeOtherKey(b []byte, oid types.OID, typmod int32, dir encoding.Direction) (types.Datum, []byte, error) {
	switch types.KindOf(oid) {
	case types.KindNumeric:
		var n apd.Decimal
		rest, err := encoding.DecodeDecimal(b, &n, dir)
		if err != nil {
			return types.Null, nil, err
		}
		d, err := restoreScale(&n, typmod)
		if err != nil {
			return types.Null, nil, malformed(oid, b)
		}
		return d, rest, nil
	case types.KindInterval:
		days, rest, err := encoding.DecodeInt(b, dir)
		if err != nil {
			return types.Null, nil, err
		}
		us, rest, err := encoding.DecodeInt(rest, dir)
		if err != nil {
			return types.Null, nil, err
		}
		if days != int64(int32(days)) { // more days than the field holds: NeedsValue was true
			return types.Null, rest, nil
		}
		return types.NewInterval(types.Interval{Days: int32(days), Micros: us}), rest, nil
	case types.KindArray, types.KindRecord, types.KindJSON:
		rest, err := skipDeep(b, oid, dir)
		return types.Null, rest, err
	}
	return types.Null, nil, fmt.Errorf("rowenc: type %s has no key encoding", types.TypeName(oid))
}

// maxKeyExponent bounds what a decoded numeric may expand to; PostgreSQL's own limit.
const maxKeyExponent = 131072

func restoreScale(n *apd.Decimal, typmod int32) (types.Datum, error) {
	if n.Form != apd.Finite {
		return types.NewNumeric(n), nil
	}
	if n.Exponent > maxKeyExponent || n.Exponent < -maxKeyExponent {
		return types.Null, fmt.Errorf("rowenc: numeric exponent %d is out of range", n.Exponent)
	}
	scale := max(-n.Exponent, 0)
	if _, s, ok := types.NumericTypmod(typmod); ok {
		scale = max(scale, s)
	}
	return types.NewNumeric(types.RoundNumeric(n, scale)), nil
}

func padBPChar(v []byte, typmod int32) (types.Datum, bool) {
	limit, ok := types.CharLimit(typmod)
	if !ok {
		return types.Null, false
	}
	n := limit - utf8.RuneCount(v)
	if n <= 0 {
		return types.Null, false
	}
	return types.NewString(string(v) + strings.Repeat(" ", n)), true
}

// What encoding.AppendBytes and AppendFixed begin with, and how the former ends, for the
// fast paths that return slices of the key.
var (
	bytesTag        = encoding.AppendBytes(nil, nil, asc)[0]
	bytesEscape     = encoding.AppendBytes(nil, nil, asc)[1]
	bytesTerminator = encoding.AppendBytes(nil, nil, asc)[2]
	fixedTag        = encoding.AppendFixed(nil, nil, asc)[0]
)

// decodeBytes returns a slice of b itself where nothing in it is escaped.
func decodeBytes(b []byte, dir encoding.Direction) (v, rest []byte, err error) {
	if dir == asc && len(b) > 0 && b[0] == bytesTag {
		if i := bytes.IndexByte(b[1:], bytesEscape); i >= 0 && i+2 < len(b) && b[i+2] == bytesTerminator {
			return b[1 : 1+i : 1+i], b[i+3:], nil
		}
	}
	return encoding.DecodeBytes(b, nil, dir)
}

func malformed(oid types.OID, b []byte) error {
	if len(b) > 32 {
		b = b[:32]
	}
	return fmt.Errorf("%w of %s: %x", encoding.ErrMalformed, types.TypeName(oid), b)
}

// SkipKey returns what follows a column's key encoding.
func SkipKey(b []byte, oid types.OID, dir encoding.Direction) ([]byte, error) {
	_, rest, err := DecodeKey(b, oid, -1, dir)
	return rest, err
}

const maxKeyDepth = 8000 // above what jsonb allows

// skipDeep passes over an array or a jsonb value. A record's encoding is only ever compared.
func skipDeep(b []byte, oid types.OID, dir encoding.Direction) ([]byte, error) {
	t, ok := types.Lookup(oid)
	if !ok || len(b) == 0 {
		return nil, malformed(oid, b)
	}
	in := b
	switch tag := invert(b[0], dir); {
	case tag == tagJSON && oid == types.OIDJSONB:
		return skipJSON(b[1:], dir, 0)
	case tag == tagArray && (t.IsArray() || t.IsVector()):
		for b = b[1:]; len(b) > 0; {
			mark := invert(b[0], dir)
			b = b[1:]
			switch mark {
			case markNull:
			case markEnd:
				return skipDims(b, dir)
			case markValue:
				var err error
				if _, b, err = DecodeKey(b, t.Elem, -1, dir); err != nil {
					return nil, err
				}
			default:
				return nil, malformed(oid, in)
			}
		}
	}
	return nil, malformed(oid, in)
}

func invert(c byte, dir encoding.Direction) byte {
	if dir == encoding.Descending {
		return ^c
	}
	return c
}

func skipDims(b []byte, dir encoding.Direction) ([]byte, error) {
	n, b, err := encoding.DecodeUint(b, dir)
	if err != nil || n > 6 {
		return nil, fmt.Errorf("%w of an array's dimensions", encoding.ErrMalformed)
	}
	for range 2 * n {
		if _, b, err = encoding.DecodeInt(b, dir); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func skipJSON(b []byte, dir encoding.Direction, depth int) ([]byte, error) {
	if len(b) == 0 || depth > maxKeyDepth {
		return nil, fmt.Errorf("%w of jsonb", encoding.ErrMalformed)
	}
	rank := invert(b[0], dir)
	b = b[1:]
	switch rank {
	case 1, 2:
		return b, nil
	case 3:
		_, rest, err := encoding.DecodeBytes(b, nil, dir)
		return rest, err
	case 4:
		var n apd.Decimal
		return encoding.DecodeDecimal(b, &n, dir)
	case 5:
		_, rest, err := encoding.DecodeBool(b, dir)
		return rest, err
	case 6, 7:
		n, b, err := encoding.DecodeUint(b, dir)
		if err != nil {
			return nil, err
		}
		for ; n > 0; n-- {
			if rank == 7 {
				if _, b, err = encoding.DecodeBytes(b, nil, dir); err != nil {
					return nil, err
				}
			}
			if b, err = skipJSON(b, dir, depth+1); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	return nil, fmt.Errorf("%w of jsonb", encoding.ErrMalformed)
}
