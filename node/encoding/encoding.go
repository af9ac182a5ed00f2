// Package encoding turns values into bytes that sort as the values do, and back. Keys are
// built from these encodings, one value after another.
//
// Every encoding of a value begins with a byte in [0x02, 0xfd] and is no prefix of another
// value's encoding. So the bytes left over serve as NULL: 0x00 sorts before, 0xff after
// every value, whatever its type and direction.
//
// The descending form of a value is the ascending one with every byte inverted. Two
// descending encodings therefore sort in reverse, and NULL stays where it is put.
//
// The encodings are part of the on-disk format: they are never changed, only added to
// (a table descriptor says which one its index uses).
package encoding

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// Direction is the order in which an encoding sorts.
type Direction uint8

const (
	Ascending Direction = iota
	Descending
)

// mask is what every byte of the ascending encoding is xored with.
func (d Direction) mask() byte {
	if d == Descending {
		return 0xff
	}
	return 0
}

// ErrMalformed marks bytes that no encoder of this package makes.
var ErrMalformed = errors.New("malformed key encoding")

func malformed(what string, b []byte) error {
	const most = 32
	if len(b) > most {
		return fmt.Errorf("%w of %s: %x… (%d bytes)", ErrMalformed, what, b[:most], len(b))
	}
	return fmt.Errorf("%w of %s: %x", ErrMalformed, what, b)
}

const (
	nullFirst = 0x00
	nullLast  = 0xff

	// Integers: the number of bytes that follow, or the value itself.
	intNegative8 = 0x02 // ... 0x09: negative, 8 ... 1 bytes follow
	intSmallBase = 0x0a // ... 0xf5: the values 0 ... intSmallMax
	intSmallMax  = 0xf5 - intSmallBase
	intPositive1 = 0xf6 // ... 0xfd: positive, 1 ... 8 bytes follow

	tagFloat = 0x10
	tagBytes = 0x12
	tagFixed = 0x13

	escape           = 0x00
	escapedZero      = 0xff // follows escape: a zero byte
	escapeTerminator = 0x01 // follows escape: the end
)

// AppendNull appends NULL so that it sorts before (first) or after every value.
func AppendNull(b []byte, first bool) []byte {
	if first {
		return append(b, nullFirst)
	}
	return append(b, nullLast)
}

// DecodeNull reports whether b starts with NULL, and returns what follows it (b itself if
// not).
func DecodeNull(b []byte) (isNull bool, rest []byte) {
	if len(b) > 0 && (b[0] == nullFirst || b[0] == nullLast) {
		return true, b[1:]
	}
	return false, b
}

// flip inverts the bytes appended since from, if the direction asks for it.
func flip(b []byte, from int, d Direction) []byte {
	if d == Descending {
		for i := from; i < len(b); i++ {
			b[i] = ^b[i]
		}
	}
	return b
}

// AppendInt appends a signed integer, in 1 to 9 bytes.
func AppendInt(b []byte, v int64, d Direction) []byte {
	if v >= 0 {
		return AppendUint(b, uint64(v), d)
	}
	from := len(b)
	n := bytesFor(uint64(^v))
	b = append(b, byte(intNegative8+8-n))
	return flip(appendLow(b, uint64(v), n), from, d)
}

// AppendUint appends an unsigned integer, in 1 to 9 bytes. It sorts among AppendInt's.
func AppendUint(b []byte, v uint64, d Direction) []byte {
	if v <= intSmallMax {
		return append(b, (intSmallBase+byte(v))^d.mask())
	}
	from := len(b)
	n := bytesFor(v)
	b = append(b, byte(intPositive1+n-1))
	return flip(appendLow(b, v, n), from, d)
}

// bytesFor is how many bytes hold v; at least one.
func bytesFor(v uint64) int { return max(1, (bits.Len64(v)+7)/8) }

// appendLow appends the n low bytes of v, big-endian.
func appendLow(b []byte, v uint64, n int) []byte {
	for i := n - 1; i >= 0; i-- {
		b = append(b, byte(v>>(8*i)))
	}
	return b
}

// DecodeInt decodes AppendInt's result and returns what follows it.
func DecodeInt(b []byte, d Direction) (int64, []byte, error) {
	if len(b) == 0 {
		return 0, nil, malformed("integer", b)
	}
	if m := b[0] ^ d.mask(); m >= intNegative8 && m < intSmallBase {
		n := 8 - int(m-intNegative8)
		low, rest, err := takeLow(b, n, d)
		if err != nil {
			return 0, nil, err
		}
		v := low
		if n < 8 {
			v |= ^uint64(0) << (8 * n)
		}
		if int64(v) >= 0 || bytesFor(^v) != n {
			return 0, nil, malformed("integer", b)
		}
		return int64(v), rest, nil
	}
	v, rest, err := DecodeUint(b, d)
	if err != nil || v > math.MaxInt64 {
		return 0, nil, malformed("integer", b)
	}
	return int64(v), rest, nil
}

// DecodeUint decodes AppendUint's result and returns what follows it.
func DecodeUint(b []byte, d Direction) (uint64, []byte, error) {
	if len(b) == 0 {
		return 0, nil, malformed("unsigned integer", b)
	}
	m := b[0] ^ d.mask()
	switch {
	case m >= intSmallBase && m < intPositive1:
		return uint64(m - intSmallBase), b[1:], nil
	case m >= intPositive1 && m < intPositive1+8:
		n := int(m-intPositive1) + 1
		v, rest, err := takeLow(b, n, d)
		if err != nil || v <= intSmallMax || bytesFor(v) != n {
			return 0, nil, malformed("unsigned integer", b)
		}
		return v, rest, nil
	}
	return 0, nil, malformed("unsigned integer", b)
}

// takeLow reads the n bytes behind b's first.
func takeLow(b []byte, n int, d Direction) (uint64, []byte, error) {
	if len(b) < 1+n {
		return 0, nil, malformed("integer", b)
	}
	var v uint64
	for _, c := range b[1 : 1+n] {
		v = v<<8 | uint64(c^d.mask())
	}
	return v, b[1+n:], nil
}

// AppendBool appends false or true, in one byte.
func AppendBool(b []byte, v bool, d Direction) []byte {
	if v {
		return AppendUint(b, 1, d)
	}
	return AppendUint(b, 0, d)
}

// DecodeBool decodes AppendBool's result and returns what follows it.
func DecodeBool(b []byte, d Direction) (bool, []byte, error) {
	v, rest, err := DecodeUint(b, d)
	if err != nil || v > 1 {
		return false, nil, malformed("bool", b)
	}
	return v == 1, rest, nil
}

// AppendFloat appends a float in 9 bytes, in PostgreSQL's order: NaN is equal to itself and
// after +Inf. Minus zero becomes zero: they are equal, so that a reader that must tell them
// apart keeps the value elsewhere.
func AppendFloat(b []byte, v float64, d Direction) []byte {
	from := len(b)
	u := math.Float64bits(v)
	switch {
	case v != v:
		u = math.Float64bits(math.NaN())
	case v == 0:
		u = 0
	}
	if u>>63 != 0 {
		u = ^u
	} else {
		u |= 1 << 63
	}
	b = append(b, tagFloat)
	return flip(binary.BigEndian.AppendUint64(b, u), from, d)
}

// DecodeFloat decodes AppendFloat's result and returns what follows it.
func DecodeFloat(b []byte, d Direction) (float64, []byte, error) {
	if len(b) < 9 || b[0]^d.mask() != tagFloat {
		return 0, nil, malformed("float", b)
	}
	u, rest, err := takeLow(b, 8, d)
	if err != nil {
		return 0, nil, err
	}
	if u>>63 != 0 {
		u &^= 1 << 63
	} else {
		u = ^u
	}
	v := math.Float64frombits(u)
	if (v != v && u != math.Float64bits(math.NaN())) || (v == 0 && u != 0) {
		return 0, nil, malformed("float", b)
	}
	return v, rest, nil
}

// AppendBytes appends a byte string of any length and content, ordered as bytes.Compare.
func AppendBytes(b, v []byte, d Direction) []byte {
	from := len(b)
	b = append(b, tagBytes)
	for {
		i := bytes.IndexByte(v, escape)
		if i < 0 {
			break
		}
		b = append(append(b, v[:i]...), escape, escapedZero)
		v = v[i+1:]
	}
	b = append(append(b, v...), escape, escapeTerminator)
	return flip(b, from, d)
}

// AppendString is AppendBytes of a string.
func AppendString(b []byte, v string, d Direction) []byte {
	from := len(b)
	b = append(b, tagBytes)
	start := 0
	for i := range len(v) {
		if v[i] == escape {
			b = append(append(b, v[start:i]...), escape, escapedZero)
			start = i + 1
		}
	}
	b = append(append(b, v[start:]...), escape, escapeTerminator)
	return flip(b, from, d)
}

// DecodeBytes decodes AppendBytes' result, appends the value to dst (which may be nil, and
// must not overlap b) and returns it and what follows in b.
func DecodeBytes(b, dst []byte, d Direction) (value, rest []byte, err error) {
	m := d.mask()
	if len(b) == 0 || b[0]^m != tagBytes {
		return nil, nil, malformed("bytes", b)
	}
	if dst == nil {
		dst = []byte{}
	}
	in := b[1:]
	for {
		i := bytes.IndexByte(in, escape^m)
		if i < 0 || i+1 >= len(in) {
			return nil, nil, malformed("bytes", b)
		}
		from := len(dst)
		dst = flip(append(dst, in[:i]...), from, d)
		switch in[i+1] ^ m {
		case escapeTerminator:
			return dst, in[i+2:], nil
		case escapedZero:
			dst = append(dst, 0)
			in = in[i+2:]
		default:
			return nil, nil, malformed("bytes", b)
		}
	}
}

// AppendFixed appends bytes whose length every value of the type shares (uuid), without
// escapes.
func AppendFixed(b, v []byte, d Direction) []byte {
	from := len(b)
	return flip(append(append(b, tagFixed), v...), from, d)
}

// DecodeFixed decodes AppendFixed's result into v, and returns what follows it.
func DecodeFixed(b, v []byte, d Direction) (rest []byte, err error) {
	if len(b) < 1+len(v) || b[0]^d.mask() != tagFixed {
		return nil, malformed("fixed-length bytes", b)
	}
	flip(v[:copy(v, b[1:])], 0, d)
	return b[1+len(v):], nil
}
