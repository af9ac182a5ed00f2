package encoding

import (
	"math"
	"strings"

	"github.com/cockroachdb/apd/v3"
)

// A decimal starts with its class. A finite one other than zero is 0.d1d2d3… × 10^e with
// d1 not 0: e as AppendInt, then two digits to a byte (plus one), then a zero byte; all of
// that inverted for a negative one. Trailing zeros are not kept.
const (
	decimalNegInf   = 0x20
	decimalNegative = 0x21
	decimalZero     = 0x22
	decimalPositive = 0x23
	decimalInf      = 0x24
	decimalNaN      = 0x25
)

// AppendDecimal appends a decimal in PostgreSQL's order: -Infinity, numbers, Infinity, NaN.
// Numbers that are equal have one encoding: 1.0 and 1.00 decode as 1. A reader that must
// tell them apart keeps the value elsewhere.
func AppendDecimal(b []byte, v *apd.Decimal, d Direction) []byte {
	from := len(b)
	switch {
	case v.Form == apd.NaN || v.Form == apd.NaNSignaling:
		b = append(b, decimalNaN)
	case v.Form == apd.Infinite && v.Negative:
		b = append(b, decimalNegInf)
	case v.Form == apd.Infinite:
		b = append(b, decimalInf)
	case v.Coeff.Sign() == 0:
		b = append(b, decimalZero)
	case v.Negative:
		b = append(b, decimalNegative)
		mark := len(b)
		b = flip(appendMagnitude(b, v), mark, Descending)
	default:
		b = appendMagnitude(append(b, decimalPositive), v)
	}
	return flip(b, from, d)
}

func appendMagnitude(b []byte, v *apd.Decimal) []byte {
	var buf [64]byte
	digits := v.Coeff.Append(buf[:0], 10)
	b = AppendInt(b, int64(len(digits))+int64(v.Exponent), Ascending)
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
	}
	for i := 0; i < len(digits); i += 2 {
		pair := (digits[i] - '0') * 10
		if i+1 < len(digits) {
			pair += digits[i+1] - '0'
		}
		b = append(b, pair+1)
	}
	return append(b, 0)
}

// DecodeDecimal decodes AppendDecimal's result into v and returns what follows it.
func DecodeDecimal(b []byte, v *apd.Decimal, d Direction) (rest []byte, err error) {
	if len(b) == 0 {
		return nil, malformed("decimal", b)
	}
	*v = apd.Decimal{}
	switch b[0] ^ d.mask() {
	case decimalNaN:
		v.Form = apd.NaN
	case decimalNegInf:
		v.Form, v.Negative = apd.Infinite, true
	case decimalInf:
		v.Form = apd.Infinite
	case decimalZero:
	case decimalNegative:
		v.Negative = true
		return decodeMagnitude(b, v, d^Descending)
	case decimalPositive:
		return decodeMagnitude(b, v, d)
	default:
		return nil, malformed("decimal", b)
	}
	return b[1:], nil
}

func decodeMagnitude(b []byte, v *apd.Decimal, d Direction) ([]byte, error) {
	e, in, err := DecodeInt(b[1:], d)
	if err != nil {
		return nil, malformed("decimal", b)
	}
	var digits strings.Builder
	for i, c := range in {
		c ^= d.mask()
		if c != 0 {
			if c > 100 {
				return nil, malformed("decimal", b)
			}
			digits.WriteByte('0' + (c-1)/10)
			digits.WriteByte('0' + (c-1)%10)
			continue
		}
		s := digits.String()
		if s == "" || s[0] == '0' || strings.HasSuffix(s, "00") {
			return nil, malformed("decimal", b)
		}
		s = strings.TrimSuffix(s, "0")
		exp := e - int64(len(s))
		if e > math.MaxInt32 || exp < math.MinInt32 || exp > math.MaxInt32 {
			return nil, malformed("decimal", b)
		}
		if _, ok := v.Coeff.SetString(s, 10); !ok {
			return nil, malformed("decimal", b)
		}
		v.Exponent = int32(exp)
		return in[i+1:], nil
	}
	return nil, malformed("decimal", b)
}
