package types

import (
	"fmt"
	"strconv"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// Type modifiers are encoded as in pg_attribute.atttypmod: length+4 for varchar and bpchar,
// (precision<<16 | scale)+4 for numeric, the precision for times, the length for bit.

const (
	maxCharLen        = 10485760 // MaxAttrSize in PostgreSQL
	maxNumericPrec    = 1000
	minNumericScale   = -1000
	typmodHeader      = 4
	maxTimePrecision  = 6
	intervalFullRange = 0x7FFF
)

// EncodeTypmod turns the modifiers in parentheses after a type name into a typmod. Without
// modifiers it returns -1, except that the caller's grammar gives character and bit a 1.
func EncodeTypmod(oid OID, mods []int32) (int32, error) {
	if len(mods) == 0 {
		return -1, nil
	}
	if t, ok := Lookup(oid); ok && t.IsArray() {
		oid = t.Elem
	}
	switch oid {
	case OIDVarChar, OIDBPChar:
		name := "varchar"
		if oid == OIDBPChar {
			name = "char"
		}
		if len(mods) != 1 {
			return 0, pgerror.New(pgerrcode.InvalidParameterValue, "invalid type modifier")
		}
		if mods[0] < 1 {
			return 0, pgerror.New(pgerrcode.InvalidParameterValue, "length for type %s must be at least 1", name)
		}
		if mods[0] > maxCharLen {
			return 0, pgerror.New(pgerrcode.InvalidParameterValue, "length for type %s cannot exceed %d", name, maxCharLen)
		}
		return mods[0] + typmodHeader, nil
	case OIDBit, OIDVarBit:
		name := "bit"
		if oid == OIDVarBit {
			name = "varbit"
		}
		if len(mods) != 1 {
			return 0, pgerror.New(pgerrcode.InvalidParameterValue, "invalid type modifier")
		}
		if mods[0] < 1 {
			return 0, pgerror.New(pgerrcode.InvalidParameterValue, "length for type %s must be at least 1", name)
		}
		return mods[0], nil
	case OIDNumeric:
		return encodeNumericTypmod(mods)
	case OIDTime, OIDTimeTZ, OIDTimestamp, OIDTimestampTZ:
		if len(mods) != 1 {
			return 0, pgerror.New(pgerrcode.InvalidParameterValue, "invalid type modifier")
		}
		if mods[0] < 0 {
			return 0, pgerror.New(pgerrcode.InvalidParameterValue, "%s(%d)%s precision must not be negative",
				timeTypmodName(oid), mods[0], timeTypmodTail(oid))
		}
		return min(mods[0], maxTimePrecision), nil
	case OIDInterval:
		// The grammar hands over (range) or (range, precision), the range in PostgreSQL's bit mask.
		rng, prec := mods[0], int32(0xFFFF)
		if len(mods) > 1 {
			prec = min(mods[1], maxTimePrecision)
			if prec < 0 {
				return 0, pgerror.New(pgerrcode.InvalidParameterValue, "INTERVAL(%d) precision must not be negative", mods[1])
			}
		}
		if rng == intervalFullRange && prec == 0xFFFF {
			return -1, nil
		}
		return rng<<16 | prec, nil
	}
	return 0, pgerror.New(pgerrcode.SyntaxError, "type modifier is not allowed for type \"%s\"", TypeName(oid))
}

func timeTypmodName(oid OID) string {
	if oid == OIDTime || oid == OIDTimeTZ {
		return "TIME"
	}
	return "TIMESTAMP"
}

func timeTypmodTail(oid OID) string {
	if oid == OIDTimeTZ || oid == OIDTimestampTZ {
		return " WITH TIME ZONE"
	}
	return ""
}

func encodeNumericTypmod(mods []int32) (int32, error) {
	scale := int32(0)
	switch len(mods) {
	case 1:
	case 2:
		scale = mods[1]
		if scale < minNumericScale || scale > maxNumericPrec {
			return 0, pgerror.New(pgerrcode.InvalidParameterValue, "NUMERIC scale %d must be between %d and %d", scale, minNumericScale, maxNumericPrec)
		}
	default:
		return 0, pgerror.New(pgerrcode.InvalidParameterValue, "invalid NUMERIC type modifier")
	}
	if mods[0] < 1 || mods[0] > maxNumericPrec {
		return 0, pgerror.New(pgerrcode.InvalidParameterValue, "NUMERIC precision %d must be between 1 and %d", mods[0], maxNumericPrec)
	}
	return (mods[0]<<16 | scale&0x7FF) + typmodHeader, nil
}

// NumericTypmod splits a numeric's typmod; ok is false for none.
func NumericTypmod(typmod int32) (precision, scale int32, ok bool) {
	if typmod < typmodHeader {
		return 0, 0, false
	}
	typmod -= typmodHeader
	return typmod >> 16 & 0xFFFF, (typmod&0x7FF ^ 1024) - 1024, true
}

// CharLimit is the length in characters that a varchar or bpchar typmod allows; ok is false for none.
func CharLimit(typmod int32) (n int, ok bool) {
	if typmod < typmodHeader {
		return 0, false
	}
	return int(typmod - typmodHeader), true
}

// FormatTypmod prints a modifier with its parentheses, as typmodout does.
func FormatTypmod(oid OID, typmod int32) string {
	if typmod < 0 {
		return ""
	}
	switch oid {
	case OIDVarChar, OIDBPChar:
		if n, ok := CharLimit(typmod); ok {
			return "(" + strconv.Itoa(n) + ")"
		}
	case OIDNumeric:
		if p, s, ok := NumericTypmod(typmod); ok {
			return fmt.Sprintf("(%d,%d)", p, s)
		}
	case OIDTime, OIDTimeTZ, OIDTimestamp, OIDTimestampTZ, OIDBit, OIDVarBit:
		return "(" + strconv.Itoa(int(typmod)) + ")"
	case OIDInterval:
		return formatIntervalTypmod(typmod)
	}
	return ""
}

// intervalRanges maps PostgreSQL's field masks (bits numbered as in datetime.h) to their spelling.
var intervalRanges = map[int32]string{
	1 << 2: " year", 1 << 1: " month", 1 << 3: " day", 1 << 10: " hour", 1 << 11: " minute", 1 << 12: " second",
	1<<2 | 1<<1: " year to month", 1<<3 | 1<<10: " day to hour", 1<<3 | 1<<10 | 1<<11: " day to minute",
	1<<3 | 1<<10 | 1<<11 | 1<<12: " day to second", 1<<10 | 1<<11: " hour to minute",
	1<<10 | 1<<11 | 1<<12: " hour to second", 1<<11 | 1<<12: " minute to second",
}

func formatIntervalTypmod(typmod int32) string {
	s := intervalRanges[typmod>>16&0x7FFF]
	if prec := typmod & 0xFFFF; prec != 0xFFFF {
		s += fmt.Sprintf("(%d)", prec)
	}
	return s
}
