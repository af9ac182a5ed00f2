package types

import (
	"encoding/binary"
	"math"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// AppendBinary prints a value that is not NULL as the type's send function does.
func AppendBinary(dst []byte, oid OID, d Datum, env *Env) ([]byte, error) {
	be := binary.BigEndian
	switch d.kind {
	case KindBool:
		return append(dst, byte(d.bits)), nil
	case KindInt:
		switch oid {
		case OIDInt2:
			return be.AppendUint16(dst, uint16(d.bits)), nil
		case OIDInt8, OIDXID8, OIDPgLSN:
			return be.AppendUint64(dst, d.bits), nil
		}
		return be.AppendUint32(dst, uint32(d.bits)), nil
	case KindFloat:
		f := d.Float()
		switch {
		case oid == OIDFloat4 && math.IsNaN(f):
			return be.AppendUint32(dst, 0x7fc00000), nil // PostgreSQL's NaN, not Go's
		case oid == OIDFloat4:
			return be.AppendUint32(dst, math.Float32bits(float32(f))), nil
		case math.IsNaN(f):
			return be.AppendUint64(dst, 0x7ff8000000000000), nil
		}
		return be.AppendUint64(dst, d.bits), nil
	case KindTimestamp:
		return be.AppendUint64(dst, d.bits), nil
	case KindDate:
		return be.AppendUint32(dst, uint32(d.bits)), nil
	case KindTime:
		if oid == OIDTimeTZ {
			us, east := UnpackTimeTZ(d.Int())
			return be.AppendUint32(be.AppendUint64(dst, uint64(us)), uint32(int32(-east))), nil
		}
		return be.AppendUint64(dst, d.bits), nil
	case KindString:
		if oid == OIDChar && d.bits == 0 {
			return append(dst, 0), nil
		}
		return append(dst, d.Str()...), nil
	case KindJSON:
		return append(append(dst, 1), d.Str()...), nil // jsonb's version 1
	case KindBytes:
		return append(dst, d.Bytes()...), nil
	case KindUUID:
		u := d.UUID()
		return append(dst, u[:]...), nil
	case KindNumeric:
		return appendNumericBinary(dst, d.Numeric()), nil
	case KindInterval:
		v := d.Interval()
		dst = be.AppendUint64(dst, uint64(v.Micros))
		return be.AppendUint32(be.AppendUint32(dst, uint32(v.Days)), uint32(v.Months)), nil
	case KindArray:
		return appendArrayBinary(dst, d.Array(), env)
	case KindRecord:
		return appendRecordBinary(dst, d.Record(), env)
	}
	return nil, errUnsupported(oid, "binary output")
}

func appendArrayBinary(dst []byte, a *Array, env *Env) ([]byte, error) {
	be := binary.BigEndian
	hasNull := uint32(0)
	for _, v := range a.Values {
		if v.IsNull() {
			hasNull = 1
			break
		}
	}
	dims := a.Dims
	dst = be.AppendUint32(dst, uint32(len(dims)))
	dst = be.AppendUint32(dst, hasNull)
	dst = be.AppendUint32(dst, uint32(a.Elem))
	for _, d := range dims {
		dst = be.AppendUint32(dst, uint32(d.Len))
		dst = be.AppendUint32(dst, uint32(d.Lower))
	}
	var err error
	for _, v := range a.Values {
		if dst, err = AppendBinaryField(dst, a.Elem, v, env); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// AppendBinaryField prints a value, or NULL, behind its length in four bytes.
func AppendBinaryField(dst []byte, oid OID, v Datum, env *Env) ([]byte, error) {
	be := binary.BigEndian
	if v.IsNull() {
		return be.AppendUint32(dst, math.MaxUint32), nil
	}
	start := len(dst)
	dst, err := AppendBinary(be.AppendUint32(dst, 0), oid, v, env)
	if err != nil {
		return nil, err
	}
	be.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst, nil
}

func appendRecordBinary(dst []byte, r *Record, env *Env) ([]byte, error) {
	be := binary.BigEndian
	dst = be.AppendUint32(dst, uint32(len(r.Values)))
	var err error
	for i, v := range r.Values {
		dst = be.AppendUint32(dst, uint32(r.Types[i]))
		if dst, err = AppendBinaryField(dst, r.Types[i], v, env); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// ParseBinary reads a value as the type's receive function does. It does not keep b. The
// typmod is checked and applied as in ParseText.
func ParseBinary(oid OID, typmod int32, b []byte, env *Env) (Datum, error) {
	be := binary.BigEndian
	fixed := func(n int) bool { return len(b) == n }
	switch oid {
	case OIDBool:
		if fixed(1) {
			return NewBool(b[0] != 0), nil
		}
	case OIDInt2:
		if fixed(2) {
			return NewInt(int64(int16(be.Uint16(b)))), nil
		}
	case OIDInt4:
		if fixed(4) {
			return NewInt(int64(int32(be.Uint32(b)))), nil
		}
	case OIDInt8:
		if fixed(8) {
			return NewInt(int64(be.Uint64(b))), nil
		}
	case OIDFloat4:
		if fixed(4) {
			return NewFloat(float64(math.Float32frombits(be.Uint32(b)))), nil
		}
	case OIDFloat8:
		if fixed(8) {
			return NewFloat(math.Float64frombits(be.Uint64(b))), nil
		}
	case OIDChar:
		if fixed(1) {
			if b[0] == 0 {
				return NewString(""), nil
			}
			return ParseText(oid, typmod, string(b), env)
		}
	case OIDText, OIDVarChar, OIDBPChar, OIDUnknown, OIDName, OIDCString, OIDRefCursor, OIDJSON, OIDXML:
		return ParseText(oid, typmod, string(b), env)
	case OIDJSONB:
		if len(b) > 0 && b[0] == 1 {
			return ParseText(oid, typmod, string(b[1:]), env)
		}
		if len(b) > 0 {
			return Null, pgerror.New(pgerrcode.InternalError, "unsupported jsonb version number %d", b[0])
		}
	case OIDNumeric:
		v, err := parseNumericBinary(b)
		if err == nil {
			v, err = ApplyNumericTypmod(v, typmod)
		}
		if err != nil {
			return Null, err
		}
		return NewNumeric(v), nil
	case OIDBytea:
		return NewBytes(append([]byte(nil), b...)), nil
	case OIDUUID:
		if fixed(16) {
			return NewUUID([16]byte(b)), nil
		}
	case OIDTimestamp, OIDTimestampTZ:
		if fixed(8) {
			v := int64(be.Uint64(b))
			if TimestampFinite(v) && !TimestampInRange(v) {
				return Null, pgerror.New(pgerrcode.DatetimeFieldOverflow, "timestamp out of range")
			}
			return NewTimestamp(RoundTimestamp(v, typmod)), nil
		}
	case OIDDate:
		if fixed(4) {
			v := int32(be.Uint32(b))
			if DateFinite(int64(v)) && !DateInRange(int64(v)) {
				return Null, pgerror.New(pgerrcode.DatetimeFieldOverflow, "date out of range")
			}
			return NewDate(v), nil
		}
	case OIDTime, OIDTimeTZ:
		return parseTimeBinary(oid, typmod, b)
	case OIDInterval:
		if fixed(16) {
			v, err := ApplyIntervalTypmod(Interval{Micros: int64(be.Uint64(b)), Days: int32(be.Uint32(b[8:])), Months: int32(be.Uint32(b[12:]))}, typmod)
			if err != nil {
				return Null, err
			}
			return NewInterval(v), nil
		}
	default:
		return parseOtherBinary(oid, typmod, b, env)
	}
	return Null, errBinary(oid)
}

func parseTimeBinary(oid OID, typmod int32, b []byte) (Datum, error) {
	be := binary.BigEndian
	if oid == OIDTime && len(b) != 8 || oid == OIDTimeTZ && len(b) != 12 {
		return Null, errBinary(oid)
	}
	us := int64(be.Uint64(b))
	if us < 0 || us > usPerDay {
		return Null, pgerror.New(pgerrcode.DatetimeFieldOverflow, "time out of range")
	}
	us = RoundTime(us, typmod)
	if oid == OIDTime {
		return NewTime(us), nil
	}
	west := int32(be.Uint32(b[8:]))
	if west <= -16*3600 || west >= 16*3600 {
		return Null, pgerror.New(pgerrcode.InvalidTimeZoneDisplacementValue, "time zone displacement out of range")
	}
	return NewTime(PackTimeTZ(us, -int(west))), nil
}

func parseOtherBinary(oid OID, typmod int32, b []byte, env *Env) (Datum, error) {
	be := binary.BigEndian
	switch {
	case oid == OIDOID || oid == OIDXID || oid == OIDCID || isReg(oid):
		if len(b) != 4 {
			return Null, errBinary(oid)
		}
		return NewInt(int64(be.Uint32(b))), nil
	case oid == OIDXID8:
		if len(b) != 8 || b[0] >= 0x80 { // half of xid8's range is more than enough
			return Null, errBinary(oid)
		}
		return NewInt(int64(be.Uint64(b))), nil
	case oid == OIDVoid:
		return NewString(""), nil
	}
	t, ok := Lookup(oid)
	if ok && (t.IsArray() || t.IsVector()) {
		a, err := parseArrayBinary(t, typmod, b, env)
		if err != nil {
			return Null, err
		}
		return NewArray(a), nil
	}
	if ok && oid == OIDRecord {
		return Null, pgerror.New(pgerrcode.FeatureNotSupported, "input of anonymous composite types is not implemented")
	}
	return Null, errUnsupported(oid, "binary input")
}

func parseArrayBinary(t *Type, typmod int32, b []byte, env *Env) (*Array, error) {
	be := binary.BigEndian
	if len(b) < 12 {
		return nil, errBinary(t.OID)
	}
	ndim, elem := int(be.Uint32(b)), OID(be.Uint32(b[8:]))
	if ndim < 0 || ndim > maxArrayDims {
		return nil, pgerror.New(pgerrcode.ProgramLimitExceeded, "number of array dimensions (%d) exceeds the maximum allowed (%d)", ndim, maxArrayDims)
	}
	if elem != t.Elem {
		return nil, pgerror.New(pgerrcode.DatatypeMismatch, "binary data has array element type %d (%s) instead of expected %d (%s)",
			elem, TypeName(elem), t.Elem, TypeName(t.Elem))
	}
	b = b[12:]
	if len(b) < 8*ndim {
		return nil, errBinary(t.OID)
	}
	a := &Array{Elem: elem}
	n := 1
	for i := range ndim {
		d := ArrayDim{Len: int32(be.Uint32(b[8*i:])), Lower: int32(be.Uint32(b[8*i+4:]))}
		if d.Len < 0 || d.Len > 0 && n > maxArraySize/int(d.Len) || int64(d.Lower)+int64(d.Len) > math.MaxInt32 {
			return nil, errArraySize()
		}
		n *= int(d.Len)
		a.Dims = append(a.Dims, d)
	}
	b = b[8*ndim:]
	if ndim == 0 || n == 0 {
		a.Dims = nil
		if t.IsVector() {
			a.Dims = []ArrayDim{{}}
		}
		return a, nil
	}
	if n > len(b)/4 { // each element takes at least its length
		return nil, errBinary(t.OID)
	}
	a.Values = make([]Datum, n)
	for i := range a.Values {
		if len(b) < 4 {
			return nil, errBinary(t.OID)
		}
		size := int32(be.Uint32(b))
		b = b[4:]
		if size == -1 {
			continue
		}
		if size < 0 || int(size) > len(b) {
			return nil, errBinary(t.OID)
		}
		v, err := ParseBinary(elem, typmod, b[:size], env)
		if err != nil {
			return nil, err
		}
		a.Values[i], b = v, b[size:]
	}
	if len(b) > 0 {
		return nil, errBinary(t.OID)
	}
	return a, nil
}
