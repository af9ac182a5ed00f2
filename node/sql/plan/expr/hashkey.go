package expr

import (
	"encoding/binary"
	"math"
	"strings"

	"github.com/cockroachdb/apd/v3"

	"github.com/atolldb/atoll/node/sql/types"
)

// AppendHashKey appends bytes that are the same exactly for values that compare equal (of
// one type; char(n) must have been trimmed, see HashNormal). NULLs are the same as each
// other, which is what grouping wants.
func AppendHashKey(dst []byte, d types.Datum) []byte {
	dst = append(dst, byte(d.Kind()))
	switch d.Kind() {
	case types.KindNull:
	case types.KindBool:
		if d.Bool() {
			return append(dst, 1)
		}
		return append(dst, 0)
	case types.KindInt, types.KindTimestamp, types.KindDate, types.KindTime:
		return binary.BigEndian.AppendUint64(dst, uint64(d.Int()))
	case types.KindFloat:
		f := d.Float()
		if f == 0 {
			f = 0 // -0 equals 0
		} else if math.IsNaN(f) {
			f = math.NaN()
		}
		return binary.BigEndian.AppendUint64(dst, math.Float64bits(f))
	case types.KindString, types.KindJSON:
		s := d.Str()
		if d.Kind() == types.KindJSON {
			s = jsonHashText(s)
		}
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		return append(dst, s...)
	case types.KindBytes:
		b := d.Bytes()
		dst = binary.AppendUvarint(dst, uint64(len(b)))
		return append(dst, b...)
	case types.KindUUID:
		u := d.UUID()
		return append(dst, u[:]...)
	case types.KindNumeric:
		n := d.Numeric()
		if n.Form != apd.Finite {
			return append(dst, 'N', byte(n.Form), boolByte(n.Negative && n.Form == apd.Infinite))
		}
		var r apd.Decimal
		r.Reduce(n)
		if r.IsZero() {
			return append(dst, 'Z')
		}
		return append(append(dst, r.Text('E')...), 0)
	case types.KindInterval:
		iv := d.Interval()
		// PostgreSQL compares intervals with 30-day months and 24-hour days.
		days := int64(iv.Months)*30 + int64(iv.Days) + iv.Micros/86400e6
		rest := iv.Micros % 86400e6
		if rest < 0 {
			rest, days = rest+86400e6, days-1
		}
		dst = binary.BigEndian.AppendUint64(dst, uint64(days))
		return binary.BigEndian.AppendUint64(dst, uint64(rest))
	case types.KindArray:
		a := d.Array()
		dst = binary.AppendUvarint(dst, uint64(len(a.Dims)))
		for _, dim := range a.Dims {
			dst = binary.AppendUvarint(dst, uint64(dim.Len))
			dst = binary.AppendVarint(dst, int64(dim.Lower))
		}
		return AppendHashKeys(dst, a.Values)
	case types.KindRecord:
		vals := d.Record().Values
		return AppendHashKeys(binary.AppendUvarint(dst, uint64(len(vals))), vals)
	}
	return dst
}

// AppendHashKeys appends the hash keys of several values.
func AppendHashKeys(dst []byte, row []types.Datum) []byte {
	for _, d := range row {
		dst = AppendHashKey(dst, d)
	}
	return dst
}

// HashNormal brings a value of type t into the form in which equal values are the same.
func HashNormal(t types.OID, d types.Datum) types.Datum {
	if t == types.OIDBPChar && !d.IsNull() {
		return trimBlanks(d)
	}
	return d
}

// jsonHashText takes the zeros at the end of fractions out of jsonb's text: 1.50 equals 1.5.
func jsonHashText(s string) string {
	if strings.IndexByte(s, '.') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"':
			j := i + 1
			for j < len(s) && s[j] != '"' {
				if s[j] == '\\' {
					j++
				}
				j++
			}
			j = min(j+1, len(s))
			out = append(out, s[i:j]...)
			i = j
		case c >= '0' && c <= '9':
			j := i
			for j < len(s) && (s[j] >= '0' && s[j] <= '9' || s[j] == '.') {
				j++
			}
			n := s[i:j]
			if strings.IndexByte(n, '.') >= 0 {
				n = strings.TrimSuffix(strings.TrimRight(n, "0"), ".")
			}
			out = append(out, n...)
			i = j
		default:
			out = append(out, c)
			i++
		}
	}
	return string(out)
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
