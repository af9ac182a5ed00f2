package types

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/cockroachdb/apd/v3"
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// JSONKind is the type of a JSON value. The order of jsonb's comparison is in CompareJSON.
type JSONKind uint8

const (
	JSONNull JSONKind = iota
	JSONString
	JSONNumber
	JSONBool
	JSONArray
	JSONObject
)

// JSON is a parsed value. A jsonb object's keys are unique, shorter ones first, then by bytes.
type JSON struct {
	Kind   JSONKind
	Raw    string // the text it was read from, without blanks around; empty if it was built
	Bool   bool
	Str    string
	Num    *apd.Decimal
	Elems  []*JSON
	Fields []JSONField
}

// JSONField is a member of an object.
type JSONField struct {
	Key   string
	Value *JSON
}

const maxJSONDepth = 6400 // far below what a goroutine's stack holds

// maxJSONDigits bounds what the numbers of one value may add to its text's own length.
const maxJSONDigits = 16 << 20

type jsonParser struct {
	s      string
	pos    int
	depth  int
	digits int
	check  bool // only check: build nothing
}

func (p *jsonParser) fail(format string, args ...any) error {
	return pgerror.New(pgerrcode.InvalidTextRepresentation, "invalid input syntax for type json").WithDetail(format, args...)
}

// token is the piece of text that an error names.
func (p *jsonParser) token() string {
	end := p.pos
	for end < len(p.s) && (isDigit(p.s[end]) || isAlpha(p.s[end]) || p.s[end] == '_') {
		end++
	}
	if end == p.pos && end < len(p.s) {
		_, n := utf8.DecodeRuneInString(p.s[end:])
		end += n
	}
	return p.s[p.pos:end]
}

func (p *jsonParser) unexpected(want string) error {
	if p.pos >= len(p.s) {
		return p.fail("The input string ended unexpectedly.")
	}
	tok := p.token()
	if isAlpha(tok[0]) && tok != "true" && tok != "false" && tok != "null" || !strings.ContainsAny(tok[:1], `{}[],:"0123456789-`) && !isAlpha(tok[0]) {
		return p.fail("Token \"%s\" is invalid.", tok)
	}
	if tok == `"` {
		start := p.pos
		if _, err := p.str(); err != nil {
			return err
		}
		tok = p.s[start:p.pos]
	}
	return p.fail("Expected %s, but found \"%s\".", want, tok)
}

func (p *jsonParser) space() {
	for p.pos < len(p.s) && (p.s[p.pos] == ' ' || p.s[p.pos] == '\t' || p.s[p.pos] == '\n' || p.s[p.pos] == '\r') {
		p.pos++
	}
}

func (p *jsonParser) peek() byte {
	p.space()
	if p.pos < len(p.s) {
		return p.s[p.pos]
	}
	return 0
}

func (p *jsonParser) value(want string) (*JSON, error) {
	c := p.peek()
	start := p.pos
	v, err := p.bare(c, want)
	if err == nil {
		v.Raw = p.s[start:p.pos]
	}
	return v, err
}

func (p *jsonParser) bare(c byte, want string) (*JSON, error) {
	switch {
	case c == '{' || c == '[':
		p.depth++
		if p.depth > maxJSONDepth {
			return nil, pgerror.New(pgerrcode.StatementTooComplex, "JSON is nested deeper than %d levels", maxJSONDepth)
		}
		defer func() { p.depth-- }()
		if c == '{' {
			return p.object()
		}
		return p.array()
	case c == '"':
		s, err := p.str()
		return &JSON{Kind: JSONString, Str: s}, err
	case c == '-' || isDigit(c):
		return p.number()
	case isAlpha(c):
		switch tok := p.token(); tok {
		case "true", "false":
			p.pos += len(tok)
			return &JSON{Kind: JSONBool, Bool: tok == "true"}, nil
		case "null":
			p.pos += len(tok)
			return &JSON{Kind: JSONNull}, nil
		}
	}
	return nil, p.unexpected(want)
}

func (p *jsonParser) object() (*JSON, error) {
	p.pos++
	out := &JSON{Kind: JSONObject}
	if p.peek() == '}' {
		p.pos++
		return out, nil
	}
	for want := "string or \"}\""; ; want = "string" {
		if p.peek() != '"' {
			return nil, p.unexpected(want)
		}
		key, err := p.str()
		if err != nil {
			return nil, err
		}
		if p.peek() != ':' {
			return nil, p.unexpected("\":\"")
		}
		p.pos++
		v, err := p.value("JSON value")
		if err != nil {
			return nil, err
		}
		if !p.check {
			out.Fields = append(out.Fields, JSONField{key, v})
		}
		switch p.peek() {
		case ',':
			p.pos++
		case '}':
			p.pos++
			return out, nil
		default:
			return nil, p.unexpected("\",\" or \"}\"")
		}
	}
}

func (p *jsonParser) array() (*JSON, error) {
	p.pos++
	out := &JSON{Kind: JSONArray}
	if p.peek() == ']' {
		p.pos++
		return out, nil
	}
	for {
		v, err := p.value("JSON value")
		if err != nil {
			return nil, err
		}
		if !p.check {
			out.Elems = append(out.Elems, v)
		}
		switch p.peek() {
		case ',':
			p.pos++
		case ']':
			p.pos++
			return out, nil
		default:
			return nil, p.unexpected("\",\" or \"]\"")
		}
	}
}

func (p *jsonParser) number() (*JSON, error) {
	start := p.pos
	digits := func() bool {
		from := p.pos
		for p.pos < len(p.s) && isDigit(p.s[p.pos]) {
			p.pos++
		}
		return p.pos > from
	}
	if p.s[p.pos] == '-' {
		p.pos++
	}
	ok := true
	if p.pos < len(p.s) && p.s[p.pos] == '0' {
		p.pos++
	} else {
		ok = digits()
	}
	if ok && p.pos < len(p.s) && p.s[p.pos] == '.' {
		p.pos++
		ok = digits()
	}
	if ok && p.pos < len(p.s) && p.s[p.pos]|0x20 == 'e' {
		p.pos++
		if p.pos < len(p.s) && (p.s[p.pos] == '+' || p.s[p.pos] == '-') {
			p.pos++
		}
		ok = digits()
	}
	for p.pos < len(p.s) && (isDigit(p.s[p.pos]) || isAlpha(p.s[p.pos]) || p.s[p.pos] == '_') {
		ok = false
		p.pos++
	}
	tok := p.s[start:p.pos]
	if !ok {
		return nil, p.fail("Token \"%s\" is invalid.", tok)
	}
	if p.check {
		return &JSON{Kind: JSONNumber}, nil
	}
	d, err := ParseNumeric(tok)
	if err != nil {
		return nil, err
	}
	// 1e131071 is eight bytes here and 131072 digits in the value.
	if p.digits += int(d.NumDigits()) - int(d.Exponent); p.digits > maxJSONDigits+len(p.s) {
		return nil, pgerror.New(pgerrcode.ProgramLimitExceeded, "the numbers of a jsonb value have more than %d digits", maxJSONDigits)
	}
	return &JSON{Kind: JSONNumber, Num: d}, nil
}

func (p *jsonParser) str() (string, error) {
	start := p.pos
	p.pos++
	for i := p.pos; i < len(p.s); i++ { // without escapes it is a substring
		if c := p.s[i]; c == '"' {
			out := p.s[p.pos:i]
			p.pos = i + 1
			return out, nil
		} else if c == '\\' || c < ' ' {
			break
		}
	}
	var b strings.Builder
	for p.pos < len(p.s) {
		switch c := p.s[p.pos]; {
		case c == '"':
			p.pos++
			return b.String(), nil
		case c < ' ':
			return "", p.fail("Character with value 0x%02x must be escaped.", c)
		case c == '\\':
			if err := p.escape(&b); err != nil {
				return "", err
			}
		default:
			b.WriteByte(c)
			p.pos++
		}
	}
	return "", p.fail("Token \"%s\" is invalid.", p.s[start:])
}

var jsonEscapes = map[byte]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

func (p *jsonParser) escape(b *strings.Builder) error {
	if p.pos+1 >= len(p.s) {
		p.pos = len(p.s)
		return p.fail("The input string ended unexpectedly.")
	}
	c := p.s[p.pos+1]
	if e, ok := jsonEscapes[c]; ok {
		b.WriteByte(e)
		p.pos += 2
		return nil
	}
	if c != 'u' {
		_, n := utf8.DecodeRuneInString(p.s[p.pos+1:])
		return p.fail("Escape sequence \"\\%s\" is invalid.", p.s[p.pos+1:p.pos+1+n])
	}
	r, err := p.hex4()
	if err != nil {
		return err
	}
	if p.check { // json keeps its escapes: nothing says that they mean characters
		return nil
	}
	if r >= 0xDC00 && r <= 0xDFFF {
		return p.fail("Unicode low surrogate must follow a high surrogate.")
	}
	if r >= 0xD800 && r <= 0xDBFF {
		if !strings.HasPrefix(p.s[p.pos:], `\u`) {
			return p.fail("Unicode low surrogate must follow a high surrogate.")
		}
		lo, err := p.hex4()
		if err != nil {
			return err
		}
		if lo < 0xDC00 || lo > 0xDFFF {
			return p.fail("Unicode low surrogate must follow a high surrogate.")
		}
		r = 0x10000 + (r-0xD800)<<10 + (lo - 0xDC00)
	}
	if r == 0 {
		return pgerror.New(pgerrcode.UntranslatableCharacter, "unsupported Unicode escape sequence").
			WithDetail("\\u0000 cannot be converted to text.")
	}
	b.WriteRune(r)
	return nil
}

func (p *jsonParser) hex4() (rune, error) {
	r := rune(0)
	for i := p.pos + 2; i < p.pos+6; i++ {
		h, ok := byte(0), false
		if i < len(p.s) {
			h, ok = hexDigit(p.s[i])
		}
		if !ok {
			return 0, p.fail("\"\\u\" must be followed by four hexadecimal digits.")
		}
		r = r<<4 | rune(h)
	}
	p.pos += 6
	return r, nil
}

func (p *jsonParser) top() (*JSON, error) {
	v, err := p.value("JSON value")
	if err != nil {
		return nil, err
	}
	if p.peek(); p.pos < len(p.s) {
		return nil, p.unexpected("end of input")
	}
	return v, nil
}

// CheckJSON checks the text of a json value.
func CheckJSON(s string) error {
	p := jsonParser{s: s, check: true}
	_, err := p.top()
	return err
}

// ParseJSON reads any JSON text; duplicate keys and their order are kept.
func ParseJSON(s string) (*JSON, error) {
	p := jsonParser{s: s}
	return p.top()
}

// ParseJSONB reads JSON text into jsonb's form: of duplicate keys the last wins, keys sorted.
func ParseJSONB(s string) (*JSON, error) {
	v, err := ParseJSON(s)
	if err != nil {
		return nil, err
	}
	v.Canonicalize()
	return v, nil
}

// CanonicalJSON returns the text of jsonb's form.
func CanonicalJSON(s string) (string, error) {
	v, err := ParseJSONB(s)
	if err != nil {
		return "", err
	}
	return string(v.Append(nil)), nil
}

// JSONKeyLess is jsonb's order of keys: the shorter first, then by bytes.
func JSONKeyLess(a, b string) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}

// Canonicalize sorts the keys of objects, inside too, and drops all but the last of equal ones.
func (v *JSON) Canonicalize() {
	for _, e := range v.Elems {
		e.Canonicalize()
	}
	if len(v.Fields) == 0 {
		return
	}
	sort.SliceStable(v.Fields, func(i, j int) bool { return JSONKeyLess(v.Fields[i].Key, v.Fields[j].Key) })
	out := v.Fields[:0]
	for i, f := range v.Fields {
		if i+1 < len(v.Fields) && v.Fields[i+1].Key == f.Key {
			continue
		}
		f.Value.Canonicalize()
		out = append(out, f)
	}
	v.Fields = out
}

// Append prints as jsonb_out does: {"a": 1, "b": [1, 2]}.
func (v *JSON) Append(dst []byte) []byte {
	switch v.Kind {
	case JSONNull:
		return append(dst, "null"...)
	case JSONString:
		return AppendJSONString(dst, v.Str)
	case JSONNumber:
		return AppendNumeric(dst, v.Num)
	case JSONBool:
		if v.Bool {
			return append(dst, "true"...)
		}
		return append(dst, "false"...)
	case JSONArray:
		dst = append(dst, '[')
		for i, e := range v.Elems {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			dst = e.Append(dst)
		}
		return append(dst, ']')
	}
	dst = append(dst, '{')
	for i, f := range v.Fields {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = append(AppendJSONString(dst, f.Key), ": "...)
		dst = f.Value.Append(dst)
	}
	return append(dst, '}')
}

func (v *JSON) String() string { return string(v.Append(nil)) }

// AppendJSONString quotes s as escape_json does.
func AppendJSONString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			if c < ' ' {
				dst = fmt.Appendf(dst, "\\u%04x", c)
			} else {
				dst = append(dst, c)
			}
		}
	}
	return append(dst, '"')
}

// Lookup returns an object's member.
func (v *JSON) Lookup(key string) (*JSON, bool) {
	if v.Kind != JSONObject {
		return nil, false
	}
	for i := len(v.Fields) - 1; i >= 0; i-- { // of duplicates in a json the last counts
		if v.Fields[i].Key == key {
			return v.Fields[i].Value, true
		}
	}
	return nil, false
}

// CompareJSON is jsonb's order: object > array > boolean > number > string > null, an empty
// array below everything at the top level; then the number of members, then key by key.
func CompareJSON(a, b *JSON) int {
	if ra, rb := jsonRank(a), jsonRank(b); ra != rb {
		if a.Kind == JSONArray && len(a.Elems) == 0 {
			ra = 0
		}
		if b.Kind == JSONArray && len(b.Elems) == 0 {
			rb = 0
		}
		return sign(ra - rb)
	}
	return compareJSONSame(a, b)
}

// compareInner is CompareJSON below the top level.
func compareInner(a, b *JSON) int {
	if ra, rb := jsonRank(a), jsonRank(b); ra != rb {
		return sign(ra - rb)
	}
	return compareJSONSame(a, b)
}

// compareJSONSame compares values of one kind.
func compareJSONSame(a, b *JSON) int {
	switch a.Kind {
	case JSONString:
		return strings.Compare(a.Str, b.Str)
	case JSONNumber:
		return CompareNumeric(a.Num, b.Num)
	case JSONBool:
		return sign(b2i(a.Bool) - b2i(b.Bool))
	case JSONArray:
		if c := sign(len(a.Elems) - len(b.Elems)); c != 0 {
			return c
		}
		for i := range a.Elems {
			if c := compareInner(a.Elems[i], b.Elems[i]); c != 0 {
				return c
			}
		}
	case JSONObject:
		if c := sign(len(a.Fields) - len(b.Fields)); c != 0 {
			return c
		}
		for i := range a.Fields {
			if c := strings.Compare(a.Fields[i].Key, b.Fields[i].Key); c != 0 {
				return c
			}
			if c := compareInner(a.Fields[i].Value, b.Fields[i].Value); c != 0 {
				return c
			}
		}
	}
	return 0
}

func jsonRank(v *JSON) int {
	switch v.Kind {
	case JSONNull:
		return 1
	case JSONString:
		return 2
	case JSONNumber:
		return 3
	case JSONBool:
		return 4
	case JSONArray:
		return 5
	}
	return 6
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
