// Package types holds SQL values and their types: Datum, the type table with PostgreSQL's
// OIDs, text and binary formats, comparison, and the key encoding of values.
package types

import (
	"math"
	"unsafe"

	"github.com/cockroachdb/apd/v3"
)

// Kind says how a Datum holds its value. Several SQL types may share a kind (text, varchar
// and char are KindString): a Datum does not carry its SQL type, the plan does.
type Kind uint8

const (
	KindNull Kind = iota
	KindBool
	KindInt       // int2, int4, int8, oid
	KindFloat     // float4, float8
	KindTimestamp // timestamp, timestamptz: microseconds since 2000-01-01 UTC; MinInt64, MaxInt64 are -infinity, infinity
	KindDate      // days since 2000-01-01; MinInt32, MaxInt32 are -infinity, infinity
	KindTime      // microseconds since midnight
	KindString    // text, varchar, bpchar, name, json, unknown
	KindBytes     // bytea
	KindUUID      // 16 bytes
	KindNumeric   // *apd.Decimal
	KindInterval  // *Interval
	KindJSON      // jsonb, as canonical text
	KindArray     // *Array
	KindRecord    // *Record
)

// Datum is one SQL value: 24 bytes, passed by value. Null, booleans, integers, floats,
// dates and timestamps hold no pointer; strings and bytes point at their data (which
// nobody may change), the others at an immutable value.
type Datum struct {
	kind Kind
	bits uint64         // the value, or the length in bytes
	ptr  unsafe.Pointer // nil, the first byte of a string, or the value
}

// Null is SQL NULL.
var Null = Datum{}

// Interval is PostgreSQL's interval: three parts that are kept apart.
type Interval struct {
	Months, Days int32
	Micros       int64
}

// Array is a PostgreSQL array in row-major order.
type Array struct {
	Elem   OID
	Dims   []ArrayDim // empty for the empty array
	Values []Datum
}

// ArrayDim is the length and lower bound of one dimension.
type ArrayDim struct{ Len, Lower int32 }

// Record is a row value.
type Record struct {
	Types  []OID
	Values []Datum
	Names  []string // of the fields, for row_to_json; nil: f1, f2 ...
}

// OID is a PostgreSQL object identifier.
type OID uint32

func NewBool(v bool) Datum {
	if v {
		return Datum{kind: KindBool, bits: 1}
	}
	return Datum{kind: KindBool}
}
func NewInt(v int64) Datum       { return Datum{kind: KindInt, bits: uint64(v)} }
func NewFloat(v float64) Datum   { return Datum{kind: KindFloat, bits: math.Float64bits(v)} }
func NewTimestamp(v int64) Datum { return Datum{kind: KindTimestamp, bits: uint64(v)} }
func NewDate(v int32) Datum      { return Datum{kind: KindDate, bits: uint64(int64(v))} }
func NewTime(v int64) Datum      { return Datum{kind: KindTime, bits: uint64(v)} }
func NewString(v string) Datum   { return stringLike(KindString, v) }
func NewJSON(v string) Datum     { return stringLike(KindJSON, v) }

// NewBytes keeps v: the caller must not change it afterwards.
func NewBytes(v []byte) Datum {
	return Datum{kind: KindBytes, bits: uint64(len(v)), ptr: unsafe.Pointer(unsafe.SliceData(v))}
}
func NewUUID(v [16]byte) Datum        { return Datum{kind: KindUUID, ptr: unsafe.Pointer(&v)} }
func NewNumeric(v *apd.Decimal) Datum { return Datum{kind: KindNumeric, ptr: unsafe.Pointer(v)} }
func NewInterval(v Interval) Datum    { return Datum{kind: KindInterval, ptr: unsafe.Pointer(&v)} }
func NewArray(v *Array) Datum         { return Datum{kind: KindArray, ptr: unsafe.Pointer(v)} }
func NewRecord(v *Record) Datum       { return Datum{kind: KindRecord, ptr: unsafe.Pointer(v)} }
func stringLike(k Kind, v string) Datum {
	return Datum{kind: k, bits: uint64(len(v)), ptr: unsafe.Pointer(unsafe.StringData(v))}
}

// Kind returns how the value is held; KindNull for NULL.
func (d Datum) Kind() Kind { return d.kind }

// IsNull reports whether the value is NULL.
func (d Datum) IsNull() bool { return d.kind == KindNull }

// The accessors below REQUIRE the matching kind; they do not check it.

func (d Datum) Bool() bool            { return d.bits != 0 }
func (d Datum) Int() int64            { return int64(d.bits) } // also KindTimestamp, KindDate and KindTime
func (d Datum) Float() float64        { return math.Float64frombits(d.bits) }
func (d Datum) Str() string           { return unsafe.String((*byte)(d.ptr), int(d.bits)) } // also KindJSON
func (d Datum) Bytes() []byte         { return unsafe.Slice((*byte)(d.ptr), int(d.bits)) }
func (d Datum) UUID() [16]byte        { return *(*[16]byte)(d.ptr) }
func (d Datum) Numeric() *apd.Decimal { return (*apd.Decimal)(d.ptr) }
func (d Datum) Interval() Interval    { return *(*Interval)(d.ptr) }
func (d Datum) Array() *Array         { return (*Array)(d.ptr) }
func (d Datum) Record() *Record       { return (*Record)(d.ptr) }
