package types

import (
	"encoding/binary"

	"github.com/cockroachdb/apd/v3"
)

// Signs of numeric's binary format.
const (
	numericPositive = 0x0000
	numericNegative = 0x4000
	numericNaN      = 0xC000
	numericPlusInf  = 0xD000
	numericMinusInf = 0xF000
)

// appendNumericBinary writes numeric_send's format: counts of base-10000 digits, weight,
// sign, display scale, digits.
func appendNumericBinary(dst []byte, d *apd.Decimal) []byte {
	put := binary.BigEndian.AppendUint16
	if d.Form != apd.Finite {
		sign := uint16(numericNaN)
		if d.Form == apd.Infinite {
			sign = numericPlusInf
			if d.Negative {
				sign = numericMinusInf
			}
		}
		scale := uint16(0)
		if d.Form == apd.Infinite {
			scale = 0x20 // PostgreSQL sends this; nobody reads it
		}
		return put(put(put(put(dst, 0), 0), sign), scale)
	}
	scale := -d.Exponent
	var buf [64]byte
	text := d.Coeff.Append(buf[:0], 10)
	if d.Coeff.Sign() == 0 {
		text = nil
	}
	// Pad so that the point falls between groups of four digits.
	intDigits := len(text) - int(scale)
	lead := ((-intDigits)%4 + 4) % 4
	padded := make([]byte, lead, len(text)+8)
	for i := range padded {
		padded[i] = '0'
	}
	padded = append(padded, text...)
	for len(padded)%4 != 0 {
		padded = append(padded, '0')
	}
	weight := (intDigits+lead)/4 - 1
	groups := make([]uint16, 0, len(padded)/4)
	for i := 0; i < len(padded); i += 4 {
		v := uint16(0)
		for _, c := range padded[i : i+4] {
			v = v*10 + uint16(c-'0')
		}
		groups = append(groups, v)
	}
	for len(groups) > 0 && groups[0] == 0 {
		groups, weight = groups[1:], weight-1
	}
	for len(groups) > 0 && groups[len(groups)-1] == 0 {
		groups = groups[:len(groups)-1]
	}
	sign := uint16(numericPositive)
	if d.Negative {
		sign = numericNegative
	}
	if len(groups) == 0 {
		weight, sign = 0, numericPositive
	}
	dst = put(put(put(put(dst, uint16(len(groups))), uint16(int16(weight))), sign), uint16(scale))
	for _, g := range groups {
		dst = put(dst, g)
	}
	return dst
}

// parseNumericBinary reads numeric_recv's format.
func parseNumericBinary(b []byte) (*apd.Decimal, error) {
	if len(b) < 8 {
		return nil, errBinary(OIDNumeric)
	}
	n := int(binary.BigEndian.Uint16(b))
	weight := int(int16(binary.BigEndian.Uint16(b[2:])))
	sign := binary.BigEndian.Uint16(b[4:])
	scale := int32(binary.BigEndian.Uint16(b[6:]))
	if len(b) != 8+2*n || scale > numericMaxScale {
		return nil, errBinary(OIDNumeric)
	}
	switch sign {
	case numericNaN:
		return &apd.Decimal{Form: apd.NaN}, nil
	case numericPlusInf, numericMinusInf:
		return &apd.Decimal{Form: apd.Infinite, Negative: sign == numericMinusInf}, nil
	case numericPositive, numericNegative:
	default:
		return nil, errBinary(OIDNumeric)
	}
	digits := make([]byte, 0, 4*n+1)
	for i := range n {
		g := binary.BigEndian.Uint16(b[8+2*i:])
		if g >= 10000 {
			return nil, errBinary(OIDNumeric)
		}
		digits = append(digits, '0'+byte(g/1000), '0'+byte(g/100%10), '0'+byte(g/10%10), '0'+byte(g%10))
	}
	d := &apd.Decimal{Negative: sign == numericNegative}
	if n > 0 {
		if _, ok := d.Coeff.SetString(string(digits), 10); !ok {
			return nil, errBinary(OIDNumeric)
		}
	}
	exponent := int32(4 * (weight - n + 1)) // of the last digit
	if n == 0 {
		exponent = 0
	}
	if exponent > 0 {
		d.Coeff.Mul(&d.Coeff, pow10(exponent))
		exponent = 0
	}
	d.Exponent = exponent
	if d.Coeff.Sign() == 0 {
		d.Negative = false
	}
	// numeric_recv cuts digits beyond the declared scale.
	return CheckNumeric(TruncNumeric(d, scale))
}
