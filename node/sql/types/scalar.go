package types

import (
	"bytes"
	"encoding/hex"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// spaces are what C's isspace accepts.
const spaces = " \t\n\v\f\r"

func trimSpaces(s string) string { return strings.Trim(s, spaces) }

// ParseBool reads a boolean as boolin does: unique prefixes of true, false, yes, no, on,
// off, and 1 and 0, in any case, with blanks around.
func ParseBool(s string) (bool, error) {
	t := strings.ToLower(trimSpaces(s))
	if t != "" {
		switch {
		case strings.HasPrefix("true", t), strings.HasPrefix("yes", t), t == "on", t == "1":
			return true, nil
		case strings.HasPrefix("false", t), strings.HasPrefix("no", t), t == "of", t == "off", t == "0":
			return false, nil
		}
	}
	return false, errSyntax("boolean", s)
}

// ParseInt reads an int2, int4 or int8: bits is 16, 32 or 64.
func ParseInt(s string, bits int) (int64, error) {
	t := trimSpaces(s)
	digits := t
	if digits != "" && (digits[0] == '-' || digits[0] == '+') {
		digits = digits[1:]
	}
	name := "bigint"
	switch bits {
	case 16:
		name = "smallint"
	case 32:
		name = "integer"
	}
	if digits == "" {
		return 0, errSyntax(name, s)
	}
	for i := 0; i < len(digits); i++ {
		if digits[i] < '0' || digits[i] > '9' {
			return 0, errSyntax(name, s)
		}
	}
	v, err := strconv.ParseInt(t, 10, bits)
	if err != nil {
		return 0, errInputRange(name, s)
	}
	return v, nil
}

// parseOID reads an oid, xid or cid: like strtoul, it wraps negative numbers around.
func parseOID(s, name string) (OID, error) {
	t := trimSpaces(s)
	if t == "" {
		return 0, errSyntax(name, s)
	}
	v, err := strconv.ParseInt(t, 10, 64)
	if err != nil {
		if ne, ok := err.(*strconv.NumError); ok && ne.Err == strconv.ErrRange {
			return 0, errInputRange(name, s)
		}
		return 0, errSyntax(name, s)
	}
	if v > math.MaxUint32 || v < math.MinInt32 {
		return 0, errInputRange(name, s)
	}
	return OID(uint32(v)), nil
}

// ParseFloat reads a float4 or float8: bits is 32 or 64.
func ParseFloat(s string, bits int) (float64, error) {
	name := "double precision"
	if bits == 32 {
		name = "real"
	}
	t := trimSpaces(s)
	if t == "" || strings.ContainsRune(t, '_') {
		return 0, errSyntax(name, s)
	}
	v, err := strconv.ParseFloat(t, bits)
	if err != nil {
		if ne, ok := err.(*strconv.NumError); ok && ne.Err == strconv.ErrRange {
			return 0, pgerror.New(pgerrcode.NumericValueOutOfRange, "\"%s\" is out of range for type %s", s, name)
		}
		return 0, errSyntax(name, s)
	}
	if v == 0 && mantissaNonZero(t) { // underflow is an error in PostgreSQL
		return 0, pgerror.New(pgerrcode.NumericValueOutOfRange, "\"%s\" is out of range for type %s", s, name)
	}
	return v, nil
}

func mantissaNonZero(s string) bool {
	stop := "eE"
	s = strings.TrimLeft(s, "+-")
	if len(s) > 1 && (s[1] == 'x' || s[1] == 'X') {
		s, stop = s[2:], "pP"
	}
	if i := strings.IndexAny(s, stop); i >= 0 {
		s = s[:i]
	}
	return strings.Trim(s, "0.") != ""
}

// AppendFloat prints a float8 (bits 64) or float4 (bits 32). extraDigits above 0 prints the
// shortest digits that read back the same; otherwise 15 (or 6) plus extraDigits digits.
func AppendFloat(dst []byte, v float64, bits, extraDigits int) []byte {
	switch {
	case math.IsNaN(v):
		return append(dst, "NaN"...)
	case math.IsInf(v, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(v, -1):
		return append(dst, "-Infinity"...)
	}
	limit, prec := 15, -1
	if bits == 32 {
		limit = 6
	}
	if extraDigits <= 0 {
		prec = max(limit+extraDigits, 1)
		limit = prec
		prec--
	}
	var buf [40]byte
	e := strconv.AppendFloat(buf[:0], v, 'e', prec, bits)
	if prec < 0 && onBoundary(v, e, bits) {
		e = shortestInside(buf[:0], v, bits)
	}
	if e[0] == '-' {
		dst = append(dst, '-')
		e = e[1:]
	}
	mant, expText, _ := bytes.Cut(e, []byte{'e'})
	exp, _ := strconv.Atoi(string(expText))
	digits := append(mant[:1:1], mant[min(2, len(mant)):]...)
	if extraDigits <= 0 { // %g drops trailing zeros
		for len(digits) > 1 && digits[len(digits)-1] == '0' {
			digits = digits[:len(digits)-1]
		}
	}
	if exp < -4 || exp >= limit {
		dst = append(dst, digits[0])
		if len(digits) > 1 {
			dst = append(append(dst, '.'), digits[1:]...)
		}
		sign := byte('+')
		if exp < 0 {
			sign, exp = '-', -exp
		}
		dst = append(dst, 'e', sign)
		if exp < 10 {
			dst = append(dst, '0')
		}
		return strconv.AppendInt(dst, int64(exp), 10)
	}
	if exp < 0 {
		dst = append(dst, "0.0000"[:1-exp]...)
		return append(dst, digits...)
	}
	for i := 0; i <= exp; i++ {
		if i < len(digits) {
			dst = append(dst, digits[i])
		} else {
			dst = append(dst, '0')
		}
	}
	if len(digits) > exp+1 {
		dst = append(append(dst, '.'), digits[exp+1:]...)
	}
	return dst
}

// onBoundary says whether the shortest digits lie exactly halfway to a neighbour: Go takes
// such digits where the mantissa is even, PostgreSQL never does (1e23 prints 9.999999999999999e+22).
// That happens only to large integers.
func onBoundary(v float64, e []byte, bits int) bool {
	limit := float64(1 << 53)
	if bits == 32 {
		limit = 1 << 24
	}
	if math.Abs(v) < limit {
		return false
	}
	d, ok := new(big.Float).SetPrec(2000).SetString(string(e))
	if !ok {
		return false
	}
	exact := new(big.Float).SetPrec(2000).SetFloat64(v)
	toward := math.Inf(d.Cmp(exact))
	next := math.Nextafter(v, toward)
	if bits == 32 {
		next = float64(math.Nextafter32(float32(v), float32(toward)))
	}
	if math.IsInf(next, 0) {
		return false
	}
	mid := new(big.Float).SetPrec(2000).SetFloat64(next)
	mid.Add(mid, exact)
	return mid.Cmp(d.Add(d, d)) == 0
}

// shortestInside finds the fewest digits that are strictly inside v's rounding interval.
func shortestInside(buf []byte, v float64, bits int) []byte {
	for prec := 0; prec < 17; prec++ {
		e := strconv.AppendFloat(buf, v, 'e', prec, bits)
		if f, err := strconv.ParseFloat(string(e), bits); err == nil && f == v && !onBoundary(v, e, bits) {
			return e
		}
	}
	return strconv.AppendFloat(buf, v, 'e', 17, bits)
}

// ParseBytea reads hex (\x4142) and escape (AB\000\\) format.
func ParseBytea(s string) ([]byte, error) {
	if strings.HasPrefix(s, `\x`) {
		return parseByteaHex(s[2:])
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			out = append(out, s[i])
		case i+1 < len(s) && s[i+1] == '\\':
			out = append(out, '\\')
			i++
		case i+3 < len(s) && s[i+1] >= '0' && s[i+1] <= '3' && isOctal(s[i+2]) && isOctal(s[i+3]):
			out = append(out, (s[i+1]-'0')<<6|(s[i+2]-'0')<<3|(s[i+3]-'0'))
			i += 3
		default:
			return nil, pgerror.New(pgerrcode.InvalidTextRepresentation, "invalid input syntax for type bytea")
		}
	}
	return out, nil
}

func isOctal(b byte) bool { return b >= '0' && b <= '7' }

func parseByteaHex(s string) ([]byte, error) {
	out := make([]byte, 0, len(s)/2)
	for i := 0; i < len(s); {
		if strings.IndexByte(" \t\n\r", s[i]) >= 0 {
			i++
			continue
		}
		hi, ok := hexDigit(s[i])
		if !ok {
			_, n := utf8.DecodeRuneInString(s[i:])
			return nil, pgerror.New(pgerrcode.InvalidParameterValue, "invalid hexadecimal digit: \"%s\"", s[i:i+n])
		}
		if i+1 >= len(s) {
			return nil, pgerror.New(pgerrcode.InvalidParameterValue, "invalid hexadecimal data: odd number of digits")
		}
		lo, ok := hexDigit(s[i+1])
		if !ok {
			_, n := utf8.DecodeRuneInString(s[i+1:])
			return nil, pgerror.New(pgerrcode.InvalidParameterValue, "invalid hexadecimal digit: \"%s\"", s[i+1:i+1+n])
		}
		out = append(out, hi<<4|lo)
		i += 2
	}
	return out, nil
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// AppendBytea prints hex format, or escape format.
func AppendBytea(dst, v []byte, escape bool) []byte {
	if !escape {
		dst = append(dst, '\\', 'x')
		return hex.AppendEncode(dst, v)
	}
	for _, c := range v {
		switch {
		case c == '\\':
			dst = append(dst, '\\', '\\')
		case c < 0x20 || c > 0x7e:
			dst = append(dst, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// ParseUUID reads a uuid as uuid_in does: braces around it and a hyphen after any group of
// four digits may be there or not.
func ParseUUID(s string) (out [16]byte, err error) {
	src, braces := s, false
	if strings.HasPrefix(src, "{") {
		src, braces = src[1:], true
	}
	for i := range out {
		if len(src) < 2 {
			return out, errSyntax("uuid", s)
		}
		hi, ok1 := hexDigit(src[0])
		lo, ok2 := hexDigit(src[1])
		if !ok1 || !ok2 {
			return out, errSyntax("uuid", s)
		}
		out[i] = hi<<4 | lo
		src = src[2:]
		if i%2 == 1 && i < 15 && strings.HasPrefix(src, "-") {
			src = src[1:]
		}
	}
	if braces {
		if !strings.HasPrefix(src, "}") {
			return out, errSyntax("uuid", s)
		}
		src = src[1:]
	}
	if src != "" {
		return out, errSyntax("uuid", s)
	}
	return out, nil
}

// AppendUUID prints a uuid in lower case with hyphens.
func AppendUUID(dst []byte, v [16]byte) []byte {
	for i, r := range [][2]int{{0, 4}, {4, 6}, {6, 8}, {8, 10}, {10, 16}} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, v[r[0]:r[1]])
	}
	return dst
}

// NameLen is the longest name (an identifier) in bytes.
const NameLen = 63

// TruncateName cuts a name to NameLen bytes at a character boundary.
func TruncateName(s string) string {
	if len(s) <= NameLen {
		return s
	}
	n := NameLen
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// ValidateText REQUIRES nothing: it checks that s may be stored as text, valid UTF-8 without NUL.
func ValidateText(s string) error {
	if utf8.ValidString(s) {
		if strings.IndexByte(s, 0) < 0 {
			return nil
		}
		return pgerror.New(pgerrcode.CharacterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": 0x00")
	}
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			return errInvalidUTF8(s[i:])
		}
		i += n
	}
	return nil
}

// errInvalidUTF8 names the bytes that PostgreSQL would: as many as the first one announces.
func errInvalidUTF8(s string) error {
	n := 1
	switch c := s[0]; {
	case c >= 0xF0 && c < 0xF8:
		n = 4
	case c >= 0xE0 && c < 0xF0:
		n = 3
	case c >= 0xC0 && c < 0xE0:
		n = 2
	}
	var b strings.Builder
	for i := 0; i < min(n, len(s)); i++ {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString("0x" + hex.EncodeToString([]byte{s[i]}))
	}
	return pgerror.New(pgerrcode.CharacterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": %s", b.String())
}

// runeCount is the length of s in characters.
func runeCount(s string) int { return utf8.RuneCountInString(s) }

// runePrefix is the first n characters of s, and the rest.
func runePrefix(s string, n int) (head, tail string) {
	for i := range s {
		if n == 0 {
			return s[:i], s[i:]
		}
		n--
	}
	return s, ""
}
