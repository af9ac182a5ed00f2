package types

import (
	"cmp"
	"math"
	"strings"

	"github.com/cockroachdb/apd/v3"
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// NUMERIC is an apd.Decimal with an Exponent of at most 0: the display scale is -Exponent,
// kept by every operation as PostgreSQL does (1.50 stays 1.50). Zero is never negative.
// A Decimal inside a Datum is immutable.

const (
	numericMaxScale  = 16383  // NUMERIC_DSCALE_MAX
	numericMaxDigits = 131072 // before the decimal point
)

// NumericScale is the number of digits after the decimal point.
func NumericScale(d *apd.Decimal) int32 { return -d.Exponent }

var bigTen = apd.NewBigInt(10)

var smallPow10 = func() (out [40]*apd.BigInt) {
	out[0] = apd.NewBigInt(1)
	for i := 1; i < len(out); i++ {
		out[i] = new(apd.BigInt).Mul(out[i-1], bigTen)
	}
	return out
}()

// pow10 returns 10^n, n >= 0. Nobody may change it.
func pow10(n int32) *apd.BigInt {
	if int(n) < len(smallPow10) {
		return smallPow10[n]
	}
	return new(apd.BigInt).Exp(bigTen, apd.NewBigInt(int64(n)), nil)
}

// numericDigits is the number of decimal digits of a coefficient; 0 for zero.
func numericDigits(d *apd.Decimal) int64 {
	if d.Coeff.Sign() == 0 {
		return 0
	}
	return d.NumDigits()
}

// RoundNumeric returns d at a scale: half rounds away from zero. A negative scale rounds
// before the decimal point, and the result has scale 0.
func RoundNumeric(d *apd.Decimal, scale int32) *apd.Decimal { return rescale(d, scale, true) }

// TruncNumeric is RoundNumeric towards zero.
func TruncNumeric(d *apd.Decimal, scale int32) *apd.Decimal { return rescale(d, scale, false) }

func rescale(d *apd.Decimal, scale int32, round bool) *apd.Decimal {
	if d.Form != apd.Finite || -d.Exponent == scale {
		return d
	}
	out := &apd.Decimal{Negative: d.Negative, Exponent: -max(scale, 0)}
	if cut := -d.Exponent - scale; cut > 0 {
		if int64(cut) > numericDigits(d)+1 { // nothing is left of it
			out.Negative = false
			return out
		}
		var rem apd.BigInt
		div := pow10(cut)
		out.Coeff.QuoRem(&d.Coeff, div, &rem)
		if round {
			rem.Add(&rem, &rem)
			if rem.CmpAbs(div) >= 0 {
				out.Coeff.Add(&out.Coeff, smallPow10[0])
			}
		}
		if scale < 0 {
			out.Coeff.Mul(&out.Coeff, pow10(-scale))
		}
	} else {
		out.Coeff.Mul(&d.Coeff, pow10(-cut))
	}
	if out.Coeff.Sign() == 0 {
		out.Negative = false
	}
	return out
}

// CheckNumeric refuses what PostgreSQL's storage format cannot hold.
func CheckNumeric(d *apd.Decimal) (*apd.Decimal, error) {
	if d.Form == apd.Finite && numericDigits(d)+int64(d.Exponent) > numericMaxDigits {
		return nil, pgerror.New(pgerrcode.NumericValueOutOfRange, "value overflows numeric format")
	}
	return d, nil
}

// NumericFromInt returns v at scale 0.
func NumericFromInt(v int64) *apd.Decimal { return apd.New(v, 0) }

// NumericFromFloat casts a float8 (bits 64, 15 digits) or a float4 (bits 32, 6 digits).
func NumericFromFloat(v float64, bits int) *apd.Decimal {
	switch {
	case math.IsNaN(v):
		return &apd.Decimal{Form: apd.NaN}
	case math.IsInf(v, 0):
		return &apd.Decimal{Form: apd.Infinite, Negative: v < 0}
	}
	d, err := ParseNumeric(string(AppendFloat(nil, v, bits, 0)))
	if err != nil {
		return &apd.Decimal{Form: apd.NaN} // cannot happen: a float's text is a number
	}
	return d
}

// ParseNumeric reads a numeric without a type modifier.
func ParseNumeric(s string) (*apd.Decimal, error) {
	t := trimSpaces(s)
	neg := false
	if t != "" && (t[0] == '+' || t[0] == '-') {
		neg = t[0] == '-'
		t = t[1:]
	}
	if t == "" {
		return nil, errSyntax("numeric", s)
	}
	if c := t[0]; c != '.' && (c < '0' || c > '9') {
		switch strings.ToLower(t) {
		case "nan":
			if trimSpaces(s) == t { // a NaN has no sign
				return &apd.Decimal{Form: apd.NaN}, nil
			}
		case "inf", "infinity":
			return &apd.Decimal{Form: apd.Infinite, Negative: neg}, nil
		}
		return nil, errSyntax("numeric", s)
	}
	mant, exp, scale, ok := splitNumber(t)
	if !ok {
		return nil, errSyntax("numeric", s)
	}
	if exp > math.MaxInt32/2 || exp < -math.MaxInt32/2 {
		return nil, pgerror.New(pgerrcode.NumericValueOutOfRange, "value overflows numeric format")
	}
	mant = strings.TrimLeft(mant, "0")
	d := &apd.Decimal{Negative: neg && mant != ""}
	exponent := exp - int64(scale) // of the last digit
	if mant != "" && int64(len(mant))+exponent > numericMaxDigits || exponent < -numericMaxScale {
		return nil, pgerror.New(pgerrcode.NumericValueOutOfRange, "value overflows numeric format")
	}
	if len(mant) <= 18 {
		var v int64
		for i := 0; i < len(mant); i++ {
			v = v*10 + int64(mant[i]-'0')
		}
		d.Coeff.SetInt64(v)
	} else if _, ok := d.Coeff.SetString(mant, 10); !ok {
		return nil, errSyntax("numeric", s)
	}
	if exponent > 0 {
		if mant != "" {
			d.Coeff.Mul(&d.Coeff, pow10(int32(exponent)))
		}
		exponent = 0
	}
	d.Exponent = int32(exponent)
	return d, nil
}

// splitNumber takes digits[.digits][e[+-]digits] apart: all mantissa digits, the exponent,
// and how many of the digits stand after the point.
func splitNumber(t string) (mant string, exp int64, scale int, ok bool) {
	if i := strings.IndexAny(t, "eE"); i >= 0 {
		e, neg := t[i+1:], false
		t = t[:i]
		if e != "" && (e[0] == '+' || e[0] == '-') {
			neg = e[0] == '-'
			e = e[1:]
		}
		if e == "" {
			return "", 0, 0, false
		}
		for i := 0; i < len(e); i++ {
			if e[i] < '0' || e[i] > '9' {
				return "", 0, 0, false
			}
			exp = min(exp*10+int64(e[i]-'0'), math.MaxInt32)
		}
		if neg {
			exp = -exp
		}
	}
	whole, frac, dot := strings.Cut(t, ".")
	if whole == "" && frac == "" {
		return "", 0, 0, false
	}
	for _, part := range [2]string{whole, frac} {
		for i := 0; i < len(part); i++ {
			if part[i] < '0' || part[i] > '9' {
				return "", 0, 0, false
			}
		}
	}
	if !dot || frac == "" {
		return whole, exp, 0, true
	}
	return whole + frac, exp, len(frac), true
}

// AppendNumeric prints a numeric with all digits of its scale.
func AppendNumeric(dst []byte, d *apd.Decimal) []byte {
	switch d.Form {
	case apd.Infinite:
		if d.Negative {
			dst = append(dst, '-')
		}
		return append(dst, "Infinity"...)
	case apd.NaN, apd.NaNSignaling:
		return append(dst, "NaN"...)
	}
	if d.Negative && d.Coeff.Sign() != 0 {
		dst = append(dst, '-')
	}
	var buf [48]byte
	digits := d.Coeff.Append(buf[:0], 10)
	if d.Exponent >= 0 {
		dst = append(dst, digits...)
		if d.Coeff.Sign() != 0 {
			for range d.Exponent {
				dst = append(dst, '0')
			}
		}
		return dst
	}
	scale := int(-d.Exponent)
	if len(digits) <= scale {
		dst = append(dst, '0', '.')
		for i := len(digits); i < scale; i++ {
			dst = append(dst, '0')
		}
		return append(dst, digits...)
	}
	dst = append(dst, digits[:len(digits)-scale]...)
	dst = append(dst, '.')
	return append(dst, digits[len(digits)-scale:]...)
}

// CompareNumeric orders numerics: -Infinity first, NaN last and equal to itself.
func CompareNumeric(a, b *apd.Decimal) int {
	if ra, rb := numericRank(a), numericRank(b); ra != 0 || rb != 0 {
		return cmp.Compare(ra, rb)
	}
	return a.Cmp(b)
}

func numericRank(d *apd.Decimal) int {
	switch {
	case d.Form == apd.Finite:
		return 0
	case d.Form != apd.Infinite:
		return 2
	case d.Negative:
		return -1
	}
	return 1
}

// ApplyNumericTypmod rounds to a declared scale and checks the precision.
func ApplyNumericTypmod(d *apd.Decimal, typmod int32) (*apd.Decimal, error) {
	prec, scale, ok := NumericTypmod(typmod)
	if !ok || d.Form == apd.NaN {
		return d, nil
	}
	if d.Form == apd.Infinite {
		return nil, pgerror.New(pgerrcode.NumericValueOutOfRange, "numeric field overflow").
			WithDetail("A field with precision %d, scale %d cannot hold an infinite value.", prec, scale)
	}
	d = RoundNumeric(d, scale)
	if numericDigits(d)+int64(d.Exponent) > int64(prec-scale) && d.Coeff.Sign() != 0 {
		e := pgerror.New(pgerrcode.NumericValueOutOfRange, "numeric field overflow")
		if prec == scale {
			return nil, e.WithDetail("A field with precision %d, scale %d must round to an absolute value less than 1.", prec, scale)
		}
		return nil, e.WithDetail("A field with precision %d, scale %d must round to an absolute value less than 10^%d.", prec, scale, prec-scale)
	}
	return d, nil
}

// NumericToInt rounds to an integer type: 16, 32 or 64 bits.
func NumericToInt(d *apd.Decimal, oid OID) (int64, error) {
	if d.Form != apd.Finite {
		what := "NaN"
		if d.Form == apd.Infinite {
			what = "infinity"
		}
		return 0, pgerror.New(pgerrcode.FeatureNotSupported, "cannot convert %s to %s", what, TypeName(oid))
	}
	r := RoundNumeric(d, 0)
	if !r.Coeff.IsInt64() {
		var lim apd.BigInt
		if lim.SetUint64(1 << 63); oid == OIDInt8 && r.Negative && r.Coeff.Cmp(&lim) == 0 {
			return math.MinInt64, nil
		}
		return 0, ErrOutOfRange(oid)
	}
	v := r.Coeff.Int64()
	if r.Negative {
		v = -v
	}
	if oid == OIDInt4 && v != int64(int32(v)) || oid == OIDInt2 && v != int64(int16(v)) {
		return 0, ErrOutOfRange(oid)
	}
	return v, nil
}

// NumericToFloat converts; a value beyond float8's range is an error.
func NumericToFloat(d *apd.Decimal, bits int) (float64, error) {
	switch {
	case d.Form == apd.Infinite && d.Negative:
		return math.Inf(-1), nil
	case d.Form == apd.Infinite:
		return math.Inf(1), nil
	case d.Form != apd.Finite:
		return math.NaN(), nil
	}
	return ParseFloat(string(AppendNumeric(nil, d)), bits)
}
