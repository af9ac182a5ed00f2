package types

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cockroachdb/apd/v3"
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// AppendText prints a value that is not NULL as the type's output function does.
func AppendText(dst []byte, oid OID, d Datum, env *Env) []byte {
	switch d.kind {
	case KindNull:
		return dst
	case KindBool:
		if d.Bool() {
			return append(dst, 't')
		}
		return append(dst, 'f')
	case KindInt:
		if isReg(oid) {
			return appendReg(dst, oid, OID(d.Int()), env)
		}
		return strconv.AppendInt(dst, d.Int(), 10)
	case KindFloat:
		bits := 64
		if oid == OIDFloat4 {
			bits = 32
		}
		return AppendFloat(dst, d.Float(), bits, env.orDefault().ExtraFloatDigits)
	case KindTimestamp:
		if oid == OIDTimestampTZ {
			return AppendTimestampTZ(dst, d.Int(), env.location())
		}
		return AppendTimestamp(dst, d.Int())
	case KindDate:
		return AppendDate(dst, d.Int())
	case KindTime:
		if oid == OIDTimeTZ {
			return AppendTimeTZ(dst, d.Int())
		}
		return AppendTime(dst, d.Int())
	case KindString, KindJSON:
		return append(dst, d.Str()...)
	case KindBytes:
		return AppendBytea(dst, d.Bytes(), env.orDefault().ByteaEscape)
	case KindUUID:
		return AppendUUID(dst, d.UUID())
	case KindNumeric:
		return AppendNumeric(dst, d.Numeric())
	case KindInterval:
		return AppendInterval(dst, d.Interval(), env.orDefault().IntervalISO)
	case KindArray:
		if oid == OIDInt2Vector || oid == OIDOIDVector {
			return appendVector(dst, d.Array())
		}
		return AppendArray(dst, d.Array(), env)
	case KindRecord:
		return appendRecord(dst, d.Record(), env)
	}
	return append(dst, fmt.Sprintf("(unknown datum kind %d)", d.kind)...)
}

// Text is AppendText as a string.
func Text(oid OID, d Datum, env *Env) string {
	if d.kind == KindString || d.kind == KindJSON {
		return d.Str()
	}
	return string(AppendText(nil, oid, d, env))
}

// ParseText reads a value as the type's input function does. It may keep s. The typmod (-1:
// none) is checked and applied as for an assignment: a string that is too long is an error.
func ParseText(oid OID, typmod int32, s string, env *Env) (Datum, error) {
	switch oid {
	case OIDBool:
		v, err := ParseBool(s)
		return NewBool(v), err
	case OIDInt2, OIDInt4, OIDInt8:
		v, err := ParseInt(s, intBits(oid))
		return NewInt(v), err
	case OIDFloat4:
		v, err := ParseFloat(s, 32)
		return NewFloat(v), err
	case OIDFloat8:
		v, err := ParseFloat(s, 64)
		return NewFloat(v), err
	case OIDText, OIDVarChar, OIDBPChar, OIDUnknown, OIDName, OIDChar, OIDCString, OIDRefCursor, OIDPgNodeTree, OIDXML:
		if err := ValidateText(s); err != nil {
			return Null, err
		}
		return parseStringType(oid, typmod, s)
	case OIDJSON:
		if err := ValidateText(s); err != nil {
			return Null, err
		}
		return NewString(s), CheckJSON(s)
	case OIDJSONB:
		if err := ValidateText(s); err != nil {
			return Null, err
		}
		v, err := CanonicalJSON(s)
		return NewJSON(v), err
	case OIDNumeric:
		return parseNumericDatum(s, typmod)
	case OIDBytea:
		v, err := ParseBytea(s)
		return NewBytes(v), err
	case OIDUUID:
		v, err := ParseUUID(s)
		if err != nil {
			return Null, err
		}
		return NewUUID(v), nil
	case OIDTimestamp:
		v, err := ParseTimestamp(s, typmod, env)
		return NewTimestamp(v), err
	case OIDTimestampTZ:
		v, err := ParseTimestampTZ(s, typmod, env)
		return NewTimestamp(v), err
	case OIDDate:
		v, err := ParseDate(s, env)
		return NewDate(v), err
	case OIDTime:
		v, err := ParseTime(s, typmod, env)
		return NewTime(v), err
	case OIDTimeTZ:
		v, err := ParseTimeTZ(s, typmod, env)
		return NewTime(v), err
	case OIDInterval:
		v, err := ParseInterval(s, typmod, env)
		if err != nil {
			return Null, err
		}
		return NewInterval(v), nil
	case OIDVoid:
		return NewString(""), nil
	case OIDInt2Vector, OIDOIDVector:
		return parseVector(s, oid)
	}
	return parseOtherText(oid, typmod, s, env)
}

func parseOtherText(oid OID, typmod int32, s string, env *Env) (Datum, error) {
	if isReg(oid) {
		v, err := parseReg(oid, s, env)
		return NewInt(int64(v)), err
	}
	switch oid {
	case OIDOID, OIDXID, OIDCID:
		v, err := parseOID(s, MustLookup(oid).Name)
		return NewInt(int64(v)), err
	case OIDXID8:
		v, err := strconv.ParseUint(trimSpaces(s), 10, 63)
		if err != nil {
			return Null, errSyntax("xid8", s)
		}
		return NewInt(int64(v)), nil
	}
	t, ok := Lookup(oid)
	switch {
	case !ok:
		return Null, pgerror.New(pgerrcode.UndefinedObject, "type with OID %d does not exist", oid)
	case t.IsArray():
		elem, ok := Lookup(t.Elem)
		if !ok {
			return Null, errUnsupported(oid, "input")
		}
		a, err := parseArray(s, elem, typmod, env)
		if err != nil {
			return Null, err
		}
		return NewArray(a), nil
	case t.OID == OIDRecord:
		return Null, pgerror.New(pgerrcode.FeatureNotSupported, "input of anonymous composite types is not implemented")
	case t.IsPseudo():
		return Null, pgerror.New(pgerrcode.FeatureNotSupported, "cannot accept a value of type %s", t.Name)
	}
	return Null, errUnsupported(oid, "input")
}

func intBits(oid OID) int {
	switch oid {
	case OIDInt2:
		return 16
	case OIDInt4:
		return 32
	}
	return 64
}

func parseNumericDatum(s string, typmod int32) (Datum, error) {
	v, err := ParseNumeric(s)
	if err == nil {
		v, err = ApplyNumericTypmod(v, typmod)
	}
	if err != nil {
		return Null, err
	}
	return NewNumeric(v), nil
}

func parseStringType(oid OID, typmod int32, s string) (Datum, error) {
	switch oid {
	case OIDVarChar, OIDBPChar:
		return coerceChars(oid, typmod, s, false)
	case OIDName:
		return NewString(TruncateName(s)), nil
	case OIDChar:
		if s == "" {
			return NewString(""), nil
		}
		if s[0] >= 0x80 { // half a character, which no text may hold
			return Null, pgerror.New(pgerrcode.CharacterNotInRepertoire, "character \"%s\" does not fit type \"char\"", firstRune(s))
		}
		return NewString(s[:1]), nil
	}
	return NewString(s), nil
}

func firstRune(s string) string {
	head, _ := runePrefix(s, 1)
	return head
}

// coerceChars applies a varchar's or bpchar's length. What is cut off must be blanks, unless
// the cast is explicit. A bpchar is padded with blanks, as PostgreSQL stores it.
func coerceChars(oid OID, typmod int32, s string, explicit bool) (Datum, error) {
	limit, ok := CharLimit(typmod)
	if !ok {
		return NewString(s), nil
	}
	if len(s) > limit {
		head, tail := runePrefix(s, limit)
		if tail != "" {
			if !explicit && strings.Trim(tail, " ") != "" {
				return Null, pgerror.New(pgerrcode.StringDataRightTruncationDataException, "value too long for type %s", FormatType(oid, typmod))
			}
			return NewString(head), nil
		}
	}
	if oid == OIDBPChar {
		if n := limit - runeCount(s); n > 0 {
			s += strings.Repeat(" ", n)
		}
	}
	return NewString(s), nil
}

// ApplyTypmod coerces a value of a type to a type modifier: length, precision and scale.
// explicit says that the user wrote a cast, which cuts strings silently.
func ApplyTypmod(oid OID, typmod int32, explicit bool, d Datum) (Datum, error) {
	if typmod < 0 || d.IsNull() {
		return d, nil
	}
	switch oid {
	case OIDVarChar, OIDBPChar:
		return coerceChars(oid, typmod, d.Str(), explicit)
	case OIDNumeric:
		v, err := ApplyNumericTypmod(d.Numeric(), typmod)
		if err != nil {
			return Null, err
		}
		if v == d.Numeric() {
			return d, nil
		}
		return NewNumeric(v), nil
	case OIDTimestamp, OIDTimestampTZ:
		return NewTimestamp(RoundTimestamp(d.Int(), typmod)), nil
	case OIDTime:
		return NewTime(RoundTime(d.Int(), typmod)), nil
	case OIDTimeTZ:
		us, east := UnpackTimeTZ(d.Int())
		return NewTime(PackTimeTZ(RoundTime(us, typmod), east)), nil
	case OIDInterval:
		v, err := ApplyIntervalTypmod(d.Interval(), typmod)
		if err != nil {
			return Null, err
		}
		return NewInterval(v), nil
	}
	if d.kind == KindArray {
		return applyArrayTypmod(oid, typmod, explicit, d)
	}
	return d, nil
}

func applyArrayTypmod(oid OID, typmod int32, explicit bool, d Datum) (Datum, error) {
	t, ok := Lookup(oid)
	if !ok || !t.IsArray() {
		return d, nil
	}
	a := *d.Array()
	a.Values = make([]Datum, len(d.Array().Values))
	for i, v := range d.Array().Values {
		var err error
		if a.Values[i], err = ApplyTypmod(t.Elem, typmod, explicit, v); err != nil {
			return Null, err
		}
	}
	return NewArray(&a), nil
}

func isReg(oid OID) bool {
	switch oid {
	case OIDRegClass, OIDRegType, OIDRegProc, OIDRegProcedure, OIDRegOper, OIDRegOperator, OIDRegNamespace, OIDRegRole,
		OIDRegCollation, OIDRegConfig, OIDRegDictionary:
		return true
	}
	return false
}

func appendReg(dst []byte, reg OID, v OID, env *Env) []byte {
	if v == 0 {
		return append(dst, '-')
	}
	if e := env.orDefault(); e.Names != nil {
		if name, ok := e.Names.ObjectName(reg, v); ok {
			return append(dst, name...)
		}
	}
	if reg == OIDRegType {
		if _, ok := Lookup(v); ok {
			return append(dst, FormatType(v, -1)...)
		}
	}
	return strconv.AppendUint(dst, uint64(v), 10)
}

func parseReg(reg OID, s string, env *Env) (OID, error) {
	if s == "-" {
		return 0, nil
	}
	if s != "" && strings.Trim(s, "0123456789") == "" {
		return parseOID(s, "oid")
	}
	if e := env.orDefault(); e.Names != nil {
		return e.Names.ObjectOID(reg, s)
	}
	if reg == OIDRegType {
		name, array := strings.CutSuffix(strings.ToLower(trimSpaces(s)), "[]")
		if t, ok := LookupName(name); ok {
			if array {
				return t.Array, nil
			}
			return t.OID, nil
		}
		return 0, pgerror.New(pgerrcode.UndefinedObject, "type \"%s\" does not exist", s)
	}
	return 0, errUnsupported(reg, "input of names")
}

// NewNumericInt is a numeric at scale 0.
func NewNumericInt(v int64) Datum { return NewNumeric(apd.New(v, 0)) }
