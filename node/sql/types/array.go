package types

import (
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

const (
	maxArrayDims = 6
	maxArraySize = 134217727 // MaxArraySize in PostgreSQL
)

// NewArray1 returns a one-dimensional array with lower bound 1 (no dimension when empty).
func NewArray1(elem OID, values []Datum) Datum {
	a := &Array{Elem: elem, Values: values}
	if len(values) > 0 {
		a.Dims = []ArrayDim{{Len: int32(len(values)), Lower: 1}}
	}
	return NewArray(a)
}

func errArray(s, detail string, args ...any) error {
	return pgerror.New(pgerrcode.InvalidTextRepresentation, "malformed array literal: \"%s\"", s).WithDetail(detail, args...)
}

type arrayParser struct {
	src    string // the whole literal, for errors
	s      string
	pos    int
	elem   *Type
	typmod int32
	env    *Env
	out    *Array
	dims   []int // length of each level, -1 while unknown
	depth  int   // of the elements; 0 while unknown
}

// parseArray reads {1,2}, {{1,2},{3,4}}, [0:1]={1,2} with elements of a type.
func parseArray(src string, elem *Type, typmod int32, env *Env) (*Array, error) {
	p := &arrayParser{src: src, s: src, elem: elem, typmod: typmod, env: env, out: &Array{Elem: elem.OID}}
	p.space()
	lower, lens, err := p.bounds()
	if err != nil {
		return nil, err
	}
	if !p.at('{') {
		if lens == nil {
			return nil, errArray(src, "Array value must start with \"{\" or dimension information.")
		}
		return nil, errArray(src, "Array contents must start with \"{\".")
	}
	if err := p.level(0); err != nil {
		return nil, err
	}
	p.space()
	if p.pos < len(p.s) {
		return nil, errArray(src, "Junk after closing right brace.")
	}
	if len(p.out.Values) == 0 {
		if lens != nil {
			return nil, errArray(src, "Specified array dimensions do not match array contents.")
		}
		return p.out, nil
	}
	if lens != nil && len(lens) != p.depth {
		return nil, errArray(src, "Specified array dimensions do not match array contents.")
	}
	for i := range p.depth {
		d := ArrayDim{Len: int32(p.dims[i]), Lower: 1}
		if lens != nil {
			if lens[i] != d.Len {
				return nil, errArray(src, "Specified array dimensions do not match array contents.")
			}
			d.Lower = lower[i]
		}
		p.out.Dims = append(p.out.Dims, d)
	}
	return p.out, nil
}

func (p *arrayParser) at(c byte) bool { return p.pos < len(p.s) && p.s[p.pos] == c }

func (p *arrayParser) space() {
	for p.pos < len(p.s) && isSpace(p.s[p.pos]) {
		p.pos++
	}
}

// bounds reads [lower:upper]...= when it is there.
func (p *arrayParser) bounds() (lower, lens []int32, err error) {
	for p.at('[') {
		if len(lens) >= maxArrayDims {
			return nil, nil, pgerror.New(pgerrcode.ProgramLimitExceeded, "number of array dimensions (%d) exceeds the maximum allowed (%d)", len(lens)+1, maxArrayDims)
		}
		end := strings.IndexByte(p.s[p.pos:], ']')
		if end < 0 {
			return nil, nil, errArray(p.src, "Missing \"%s\" after array dimensions.", "]")
		}
		lo, up, ok := strings.Cut(p.s[p.pos+1:p.pos+end], ":")
		l, err1 := int64(1), error(nil)
		if ok {
			l, err1 = strconv.ParseInt(trimSpaces(lo), 10, 32)
		} else {
			up = lo
		}
		u, err2 := strconv.ParseInt(trimSpaces(up), 10, 32)
		if err1 != nil || err2 != nil {
			return nil, nil, errArray(p.src, "\"[\" must introduce explicitly-specified array dimensions.")
		}
		if u < l {
			return nil, nil, pgerror.New(pgerrcode.ArraySubscriptError, "upper bound cannot be less than lower bound")
		}
		if u-l >= maxArraySize {
			return nil, nil, errArraySize()
		}
		lower, lens = append(lower, int32(l)), append(lens, int32(u-l+1))
		p.pos += end + 1
		p.space()
	}
	if lens != nil {
		if !p.at('=') {
			return nil, nil, errArray(p.src, "Missing \"%s\" after array dimensions.", "=")
		}
		p.pos++
		p.space()
	}
	return lower, lens, nil
}

func errArraySize() error {
	return pgerror.New(pgerrcode.ProgramLimitExceeded, "array size exceeds the maximum allowed (%d)", maxArraySize)
}

func (p *arrayParser) level(depth int) error {
	if depth >= maxArrayDims {
		return pgerror.New(pgerrcode.ProgramLimitExceeded, "number of array dimensions (%d) exceeds the maximum allowed (%d)", depth+1, maxArrayDims)
	}
	if depth == len(p.dims) {
		p.dims = append(p.dims, -1)
	}
	p.pos++ // {
	n := 0
	p.space()
	if p.at('}') {
		p.pos++
		if depth > 0 {
			return errArray(p.src, "Unexpected \"%c\" character.", '}')
		}
		p.dims[depth] = 0
		return nil
	}
	for {
		p.space()
		if p.at('{') {
			if p.depth != 0 && depth+1 >= p.depth {
				return errArray(p.src, "Unexpected \"%c\" character.", '{')
			}
			if err := p.level(depth + 1); err != nil {
				return err
			}
		} else {
			if p.depth == 0 {
				p.depth = depth + 1
			}
			if p.depth != depth+1 {
				return errArray(p.src, "Unexpected array element.")
			}
			if err := p.element(); err != nil {
				return err
			}
		}
		n++
		p.space()
		switch {
		case p.at(p.elem.Delim):
			p.pos++
		case p.at('}'):
			p.pos++
			if p.dims[depth] >= 0 && p.dims[depth] != n {
				return errArray(p.src, "Multidimensional arrays must have sub-arrays with matching dimensions.")
			}
			p.dims[depth] = n
			return nil
		case p.pos >= len(p.s):
			return errArray(p.src, "Unexpected end of input.")
		default:
			return errArray(p.src, "Unexpected array element.")
		}
	}
}

func (p *arrayParser) element() error {
	text, quoted, err := p.elementText()
	if err != nil {
		return err
	}
	if !quoted && strings.EqualFold(text, "null") {
		p.out.Values = append(p.out.Values, Null)
		return nil
	}
	v, err := ParseText(p.elem.OID, p.typmod, text, p.env)
	if err != nil {
		return err
	}
	p.out.Values = append(p.out.Values, v)
	return nil
}

func (p *arrayParser) elementText() (text string, quoted bool, err error) {
	var b []byte
	if p.at('"') {
		for p.pos++; p.pos < len(p.s); p.pos++ {
			switch c := p.s[p.pos]; c {
			case '"':
				p.pos++
				return string(b), true, nil
			case '\\':
				if p.pos++; p.pos < len(p.s) {
					b = append(b, p.s[p.pos])
				}
			default:
				b = append(b, c)
			}
		}
		return "", false, errArray(p.src, "Unexpected end of input.")
	}
	keep := 0 // up to where trailing blanks stay, because they were escaped
	for p.pos < len(p.s) {
		switch c := p.s[p.pos]; {
		case c == '\\':
			p.pos++
			if p.pos >= len(p.s) {
				return "", false, errArray(p.src, "Unexpected end of input.")
			}
			b = append(b, p.s[p.pos])
			quoted = true
			keep = len(b)
		case c == '"':
			return "", false, errArray(p.src, "Unexpected array element.")
		case c == '{':
			return "", false, errArray(p.src, "Unexpected \"%c\" character.", '{')
		case c == '}' || c == p.elem.Delim:
			for len(b) > keep && isSpace(b[len(b)-1]) {
				b = b[:len(b)-1]
			}
			if len(b) == 0 {
				return "", false, errArray(p.src, "Unexpected \"%c\" character.", c)
			}
			return string(b), quoted, nil
		default:
			b = append(b, c)
		}
		p.pos++
	}
	return "", false, errArray(p.src, "Unexpected end of input.")
}

// AppendArray prints an array.
func AppendArray(dst []byte, a *Array, env *Env) []byte {
	if len(a.Values) == 0 {
		return append(dst, "{}"...)
	}
	delim := byte(',')
	if t, ok := Lookup(a.Elem); ok {
		delim = t.Delim
	}
	explicit := false
	for _, d := range a.Dims {
		explicit = explicit || d.Lower != 1
	}
	if explicit {
		for _, d := range a.Dims {
			dst = append(dst, '[')
			dst = strconv.AppendInt(dst, int64(d.Lower), 10)
			dst = append(dst, ':')
			dst = strconv.AppendInt(dst, int64(d.Lower)+int64(d.Len)-1, 10)
			dst = append(dst, ']')
		}
		dst = append(dst, '=')
	}
	dst, _ = appendArrayLevel(dst, a, a.Dims, a.Values, delim, env)
	return dst
}

func appendArrayLevel(dst []byte, a *Array, dims []ArrayDim, vals []Datum, delim byte, env *Env) ([]byte, []Datum) {
	dst = append(dst, '{')
	for i := range dims[0].Len {
		if i > 0 {
			dst = append(dst, delim)
		}
		if len(dims) > 1 {
			dst, vals = appendArrayLevel(dst, a, dims[1:], vals, delim, env)
			continue
		}
		dst = appendArrayElement(dst, a.Elem, vals[0], delim, env)
		vals = vals[1:]
	}
	return append(dst, '}'), vals
}

func appendArrayElement(dst []byte, elem OID, v Datum, delim byte, env *Env) []byte {
	if v.IsNull() {
		return append(dst, "NULL"...)
	}
	start := len(dst)
	dst = AppendText(dst, elem, v, env)
	text := dst[start:]
	quote := len(text) == 0 || strings.EqualFold(string(text), "null")
	for _, c := range text {
		if c == '"' || c == '\\' || c == '{' || c == '}' || c == delim || isSpace(c) {
			quote = true
			break
		}
	}
	if !quote {
		return dst
	}
	s := string(text)
	dst = append(dst[:start], '"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, s[i])
	}
	return append(dst, '"')
}

// parseVector reads an int2vector or oidvector: numbers between blanks, lower bound 0.
func parseVector(s string, vector OID) (Datum, error) {
	elem, bits := OIDInt2, 16
	if vector == OIDOIDVector {
		elem = OIDOID
	}
	a := &Array{Elem: elem}
	for _, f := range strings.Fields(s) {
		var v int64
		var err error
		if elem == OIDOID {
			var o OID
			o, err = parseOID(f, "oid")
			v = int64(o)
		} else {
			v, err = ParseInt(f, bits)
		}
		if err != nil {
			return Null, err
		}
		a.Values = append(a.Values, NewInt(v))
	}
	a.Dims = []ArrayDim{{Len: int32(len(a.Values)), Lower: 0}}
	return NewArray(a), nil
}

func appendVector(dst []byte, a *Array) []byte {
	for i, v := range a.Values {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = strconv.AppendInt(dst, v.Int(), 10)
	}
	return dst
}

// appendRecord prints (a,"b c",).
func appendRecord(dst []byte, r *Record, env *Env) []byte {
	dst = append(dst, '(')
	for i, v := range r.Values {
		if i > 0 {
			dst = append(dst, ',')
		}
		if v.IsNull() {
			continue
		}
		start := len(dst)
		dst = AppendText(dst, r.Types[i], v, env)
		text := dst[start:]
		quote := len(text) == 0
		for _, c := range text {
			if c == '"' || c == '\\' || c == '(' || c == ')' || c == ',' || isSpace(c) {
				quote = true
				break
			}
		}
		if !quote {
			continue
		}
		s := string(text)
		dst = append(dst[:start], '"')
		for j := 0; j < len(s); j++ {
			if s[j] == '"' || s[j] == '\\' {
				dst = append(dst, s[j])
			}
			dst = append(dst, s[j])
		}
		dst = append(dst, '"')
	}
	return append(dst, ')')
}
