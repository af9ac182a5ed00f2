package types

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"math"
	"strings"
)

// Compare orders two values of the same type by its default btree order, NULL last (NULLs
// are equal to each other). bpchar wants Comparator, because its blanks at the end do not
// count. Text compares by bytes: collation C.
func Compare(a, b Datum) int {
	if a.kind != b.kind {
		switch {
		case a.kind == KindNull:
			return 1
		case b.kind == KindNull:
			return -1
		}
		return cmp.Compare(a.kind, b.kind) // never for values of one type
	}
	switch a.kind {
	case KindInt, KindTimestamp, KindDate, KindTime:
		return cmp.Compare(int64(a.bits), int64(b.bits))
	case KindNull:
		return 0
	case KindBool:
		return cmp.Compare(a.bits, b.bits)
	case KindFloat:
		return CompareFloat(a.Float(), b.Float())
	case KindString:
		return strings.Compare(a.Str(), b.Str())
	case KindBytes:
		return bytes.Compare(a.Bytes(), b.Bytes())
	case KindUUID:
		x, y := (*[16]byte)(a.ptr), (*[16]byte)(b.ptr)
		return bytes.Compare(x[:], y[:])
	case KindNumeric:
		return CompareNumeric(a.Numeric(), b.Numeric())
	case KindInterval:
		return CompareInterval(a.Interval(), b.Interval())
	case KindJSON:
		return compareJSONText(a.Str(), b.Str())
	case KindArray:
		return compareArray(a.Array(), b.Array())
	case KindRecord:
		return compareRecord(a.Record(), b.Record())
	}
	return 0
}

// CompareFloat orders floats as PostgreSQL: NaN is above everything and equal to itself.
func CompareFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	case a == b:
		return 0
	case math.IsNaN(a) && math.IsNaN(b):
		return 0
	case math.IsNaN(a):
		return 1
	}
	return -1
}

// CompareBPChar compares without the blanks at the end.
func CompareBPChar(a, b Datum) int {
	if a.kind != KindString || b.kind != KindString {
		return Compare(a, b)
	}
	return strings.Compare(strings.TrimRight(a.Str(), " "), strings.TrimRight(b.Str(), " "))
}

// Comparator returns the order of a type's values; NULL last.
func Comparator(oid OID) func(a, b Datum) int {
	switch oid {
	case OIDBPChar:
		return CompareBPChar
	case OIDBPCharArray:
		return func(a, b Datum) int {
			if a.kind != KindArray || b.kind != KindArray {
				return Compare(a, b)
			}
			return compareArray(a.Array(), b.Array())
		}
	}
	return Compare
}

func compareJSONText(a, b string) int {
	if a == b {
		return 0
	}
	x, err1 := ParseJSON(a)
	y, err2 := ParseJSON(b)
	if err1 != nil || err2 != nil { // a Datum's jsonb is canonical text; stay total regardless
		return strings.Compare(a, b)
	}
	return CompareJSON(x, y)
}

// compareArray is array_cmp: element by element, then by their number, then by the dimensions.
func compareArray(a, b *Array) int {
	order := Comparator(a.Elem)
	for i := range min(len(a.Values), len(b.Values)) {
		if c := order(a.Values[i], b.Values[i]); c != 0 {
			return c
		}
	}
	if c := cmp.Compare(len(a.Values), len(b.Values)); c != 0 {
		return c
	}
	if c := cmp.Compare(len(a.Dims), len(b.Dims)); c != 0 {
		return c
	}
	for i := range a.Dims {
		if c := cmp.Compare(a.Dims[i].Len, b.Dims[i].Len); c != 0 {
			return c
		}
	}
	for i := range a.Dims {
		if c := cmp.Compare(a.Dims[i].Lower, b.Dims[i].Lower); c != 0 {
			return c
		}
	}
	return 0
}

func compareRecord(a, b *Record) int {
	for i := range min(len(a.Values), len(b.Values)) {
		if c := Comparator(a.Types[i])(a.Values[i], b.Values[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a.Values), len(b.Values))
}

// hashSeed is drawn once per process: hashes order nothing and are stored nowhere.
var hashSeed = maphash.MakeSeed()

// Hash is equal for values that compare equal. It is stable within a process only.
func Hash(oid OID, d Datum) uint64 {
	switch d.kind {
	case KindNull:
		return 0x9e3779b97f4a7c15
	case KindBool, KindInt, KindTimestamp, KindDate, KindTime:
		return mix(d.bits)
	case KindFloat:
		f := d.Float()
		if f == 0 {
			f = 0 // -0 equals 0
		}
		if math.IsNaN(f) {
			f = math.NaN()
		}
		return mix(math.Float64bits(f))
	case KindString:
		s := d.Str()
		if oid == OIDBPChar {
			s = strings.TrimRight(s, " ")
		}
		return maphash.String(hashSeed, s)
	case KindBytes:
		return maphash.Bytes(hashSeed, d.Bytes())
	case KindUUID:
		return maphash.Bytes(hashSeed, (*[16]byte)(d.ptr)[:])
	case KindInterval:
		days, us := IntervalSpan(d.Interval())
		return mix(uint64(days)*1000003 ^ uint64(us))
	}
	return hashDeep(oid, d)
}

func hashDeep(oid OID, d Datum) uint64 {
	switch d.kind {
	case KindNumeric:
		var buf [64]byte
		return maphash.Bytes(hashSeed, appendNumericHashKey(buf[:0], d))
	case KindJSON:
		v, err := ParseJSON(d.Str())
		if err != nil {
			return maphash.String(hashSeed, d.Str())
		}
		return hashJSON(v)
	case KindArray:
		h := uint64(17)
		a := d.Array()
		for _, v := range a.Values {
			h = mix(h*31 + Hash(a.Elem, v))
		}
		return h
	case KindRecord:
		h := uint64(19)
		r := d.Record()
		for i, v := range r.Values {
			h = mix(h*31 + Hash(r.Types[i], v))
		}
		return h
	}
	return 0
}

// appendNumericHashKey prints a numeric without the zeros at its end.
func appendNumericHashKey(dst []byte, d Datum) []byte {
	dst = AppendNumeric(dst, d.Numeric())
	if bytes.IndexByte(dst, '.') < 0 {
		return dst
	}
	return bytes.TrimSuffix(bytes.TrimRight(dst, "0"), []byte{'.'})
}

func hashJSON(v *JSON) uint64 {
	h := uint64(v.Kind)
	switch v.Kind {
	case JSONNumber:
		var buf [64]byte
		h ^= maphash.Bytes(hashSeed, appendNumericHashKey(buf[:0], NewNumeric(v.Num)))
	case JSONArray:
		for _, e := range v.Elems {
			h = mix(h*31 + hashJSON(e))
		}
	case JSONObject:
		for _, f := range v.Fields {
			h = mix(h*31 + maphash.String(hashSeed, f.Key) ^ hashJSON(f.Value))
		}
	default:
		h ^= maphash.String(hashSeed, v.String())
	}
	return mix(h)
}

func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// HashBytes hashes bytes with the process's seed.
func HashBytes(b []byte) uint64 { return maphash.Bytes(hashSeed, b) }

// Equal says whether two values of a type compare equal; NULL equals NULL here.
func Equal(oid OID, a, b Datum) bool {
	if a.kind == KindInt && b.kind == KindInt {
		return a.bits == b.bits
	}
	return Comparator(oid)(a, b) == 0
}

// Size is the memory that a value holds beside its 24 bytes, roughly.
func (d Datum) Size() int {
	switch d.kind {
	case KindString, KindBytes, KindJSON:
		return int(d.bits)
	case KindUUID, KindInterval:
		return 16
	case KindNumeric:
		return int(d.Numeric().Size())
	case KindArray:
		n := 48
		for _, v := range d.Array().Values {
			n += 24 + v.Size()
		}
		return n
	case KindRecord:
		n := 48
		for _, v := range d.Record().Values {
			n += 28 + v.Size()
		}
		return n
	}
	return 0
}

// Clone returns a value that shares no memory with d's bytes: for a Datum decoded from a
// buffer that will be used again.
func (d Datum) Clone() Datum {
	switch d.kind {
	case KindString, KindJSON:
		return stringLike(d.kind, strings.Clone(d.Str()))
	case KindBytes:
		return NewBytes(bytes.Clone(d.Bytes()))
	case KindArray:
		a := *d.Array()
		a.Values = cloneAll(a.Values)
		return NewArray(&a)
	case KindRecord:
		r := *d.Record()
		r.Values = cloneAll(r.Values)
		return NewRecord(&r)
	}
	return d
}

func cloneAll(in []Datum) []Datum {
	out := make([]Datum, len(in))
	for i, v := range in {
		out[i] = v.Clone()
	}
	return out
}
