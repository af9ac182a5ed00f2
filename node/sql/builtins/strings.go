package builtins

import (
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	_ "embed"
	"encoding/hex"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// maxString is PostgreSQL's limit of one value, in bytes.
const maxString = 1<<30 - 1

func errTooLong() error {
	return pgerror.New(pgerrcode.ProgramLimitExceeded, "requested length too large")
}

func str(s string) (types.Datum, error) { return types.NewString(s), nil }

func integer(n int) (types.Datum, error) { return types.NewInt(int64(n)), nil }

func stringFuncs(r *registry) {
	lengthFuncs(r)
	trimFuncs(r)
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return str(strings.ToLower(a[0].Str())) }, "lower")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return str(strings.ToUpper(a[0].Str())) }, "upper")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return str(initcap(a[0].Str())) }, "initcap")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if len(a[0].Str())+len(a[1].Str()) > maxString {
			return types.Null, errTooLong()
		}
		return str(a[0].Str() + a[1].Str())
	}, "textcat")
	r.bind(func(args []types.OID, _ types.OID) Eval {
		return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			return str(castText(args[0], a[0], ctx) + a[1].Str())
		}
	}, "anytextcat(anynonarray,text)")
	r.bind(func(args []types.OID, _ types.OID) Eval {
		return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			return str(a[0].Str() + castText(args[1], a[1], ctx))
		}
	}, "textanycat(text,anynonarray)")
	substringFuncs(r)
	padFuncs(r)
	concatFuncs(r)
	quoteFuncs(r)
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[1].Str() == "" {
			return a[0], nil
		}
		return str(strings.ReplaceAll(a[0].Str(), a[1].Str(), a[2].Str()))
	}, "replace_text")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return str(translate(a[0].Str(), a[1].Str(), a[2].Str()))
	}, "translate")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewBool(strings.HasPrefix(a[0].Str(), a[1].Str())), nil
	}, "text_starts_with")
	r.fn(splitPart, "split_part")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		s := a[0].Str()
		out := make([]byte, 0, len(s))
		for len(s) > 0 {
			_, n := utf8.DecodeLastRuneInString(s)
			out = append(out, s[len(s)-n:]...)
			s = s[:len(s)-n]
		}
		return str(string(out))
	}, "text_reverse")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		n := a[1].Int()
		if n <= 0 {
			return str("")
		}
		if int64(len(a[0].Str()))*n > maxString {
			return types.Null, errTooLong()
		}
		return str(strings.Repeat(a[0].Str(), int(n)))
	}, "repeat")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		c, _ := utf8.DecodeRuneInString(a[0].Str())
		if a[0].Str() == "" {
			c = 0
		}
		return integer(int(c))
	}, "ascii")
	r.fn(chr, "chr")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		sum := md5.Sum([]byte(a[0].Str()))
		return str(hex.EncodeToString(sum[:]))
	}, "md5_text")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return str(strconv.FormatUint(uint64(uint32(a[0].Int())), 16))
	}, "to_hex32")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return str(strconv.FormatUint(uint64(a[0].Int()), 16))
	}, "to_hex64")
	toCharFuncs(r)
}

// castText is the cast to text: where that is not the output function, as for booleans.
func castText(oid types.OID, d types.Datum, ctx *EvalContext) string {
	switch {
	case oid == types.OIDBool && d.Bool():
		return "true"
	case oid == types.OIDBool:
		return "false"
	case oid == types.OIDBPChar:
		return strings.TrimRight(d.Str(), " ")
	}
	return types.Text(oid, d, ctx.env())
}

func lengthFuncs(r *registry) {
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return integer(utf8.RuneCountInString(a[0].Str()))
	}, "textlen")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return integer(utf8.RuneCountInString(strings.TrimRight(a[0].Str(), " ")))
	}, "bpcharlen")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return integer(len(a[0].Str())) }, "textoctetlen", "bpcharoctetlen")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return integer(8 * len(a[0].Str())) }, "bit_length(text)")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return integer(len(a[0].Bytes())) }, "byteaoctetlen")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return integer(8 * len(a[0].Bytes())) }, "bit_length(bytea)")
}

func initcap(s string) string {
	var b strings.Builder
	word := false
	for _, c := range s {
		alnum := unicode.IsLetter(c) || unicode.IsDigit(c)
		if alnum && !word {
			c = unicode.ToUpper(c)
		} else {
			c = unicode.ToLower(c)
		}
		word = alnum
		b.WriteRune(c)
	}
	return b.String()
}

func trimFuncs(r *registry) {
	cut := func(f func(s, set string) string) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			set := " "
			if len(a) > 1 {
				if set = a[1].Str(); set == "" {
					return a[0], nil
				}
			}
			return str(f(a[0].Str(), set))
		}
	}
	r.fn(cut(strings.Trim), "btrim", "btrim1")
	r.fn(cut(strings.TrimLeft), "ltrim", "ltrim1")
	r.fn(cut(strings.TrimRight), "rtrim")
}

func errNegativeSubstring() error {
	return pgerror.New(pgerrcode.SubstringError, "negative substring length not allowed")
}

// substr takes 1-based positions in characters; length below 0 means to the end.
func substr(s string, start, length int64, bounded bool) (string, error) {
	end := int64(1)<<62 - 1
	if bounded {
		if length < 0 {
			return "", errNegativeSubstring()
		}
		if e, ok := addInt(start, length); ok {
			end = e
		}
		if end < 1 {
			return "", nil
		}
	}
	pos, from := int64(1), len(s)
	start = max(start, 1)
	for i := range s {
		if pos == start {
			from = i
		}
		if pos == end {
			return s[min(from, i):i], nil
		}
		pos++
	}
	return s[from:], nil
}

func substringFuncs(r *registry) {
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		s, err := substr(a[0].Str(), a[1].Int(), a[2].Int(), true)
		return types.NewString(s), err
	}, "text_substr")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		s, err := substr(a[0].Str(), a[1].Int(), 0, false)
		return types.NewString(s), err
	}, "text_substr_no_len")
	overlay := func(s, repl string, start, n int64) (types.Datum, error) {
		if start <= 0 {
			return types.Null, errNegativeSubstring()
		}
		head, err := substr(s, 1, start-1, true)
		if err != nil {
			return types.Null, err
		}
		rest, ok := addInt(start, n)
		if !ok {
			return types.Null, types.ErrOutOfRange(types.OIDInt4)
		}
		tail, err := substr(s, rest, 0, false)
		return types.NewString(head + repl + tail), err
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return overlay(a[0].Str(), a[1].Str(), a[2].Int(), a[3].Int())
	}, "textoverlay")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return overlay(a[0].Str(), a[1].Str(), a[2].Int(), int64(utf8.RuneCountInString(a[1].Str())))
	}, "textoverlay_no_len")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		i := strings.Index(a[0].Str(), a[1].Str())
		if i < 0 {
			return integer(0)
		}
		return integer(utf8.RuneCountInString(a[0].Str()[:i]) + 1)
	}, "textpos")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		n := a[1].Int()
		if n < 0 {
			n = max(int64(utf8.RuneCountInString(a[0].Str()))+n, 0)
		}
		s, err := substr(a[0].Str(), 1, n, true)
		return types.NewString(s), err
	}, "text_left")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		total, n := int64(utf8.RuneCountInString(a[0].Str())), a[1].Int()
		skip := -n
		if n >= 0 {
			skip = max(total-n, 0)
		}
		s, err := substr(a[0].Str(), skip+1, 0, false)
		return types.NewString(s), err
	}, "text_right")
}

func padFuncs(r *registry) {
	for _, left := range []bool{true, false} {
		pad := func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			s, n, fill := a[0].Str(), max(a[1].Int(), 0), " "
			if len(a) > 2 {
				fill = a[2].Str()
			}
			have := int64(utf8.RuneCountInString(s))
			if have >= n || fill == "" {
				s, err := substr(s, 1, n, true)
				return types.NewString(s), err
			}
			if n*4 > maxString {
				return types.Null, errTooLong()
			}
			runes, missing := []rune(fill), n-have
			var b strings.Builder
			if !left {
				b.WriteString(s)
			}
			for i := range missing {
				b.WriteRune(runes[i%int64(len(runes))])
			}
			if left {
				b.WriteString(s)
			}
			return str(b.String())
		}
		name := "rpad"
		if left {
			name = "lpad"
		}
		r.fn(pad, name, name+"(text,int4)")
	}
}

// concatFuncs: concat, concat_ws and format take VARIADIC "any", and skip NULLs.
func concatFuncs(r *registry) {
	r.bind(func(args []types.OID, _ types.OID) Eval {
		return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			var b strings.Builder
			for i, d := range a {
				if !d.IsNull() {
					b.WriteString(outText(args[i], d, ctx))
				}
			}
			return str(b.String())
		}
	}, "text_concat")
	r.bind(func(args []types.OID, _ types.OID) Eval {
		return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			if a[0].IsNull() {
				return types.Null, nil
			}
			var b strings.Builder
			first := true
			for i, d := range a[1:] {
				if d.IsNull() {
					continue
				}
				if !first {
					b.WriteString(a[0].Str())
				}
				first = false
				b.WriteString(outText(args[i+1], d, ctx))
			}
			return str(b.String())
		}
	}, "text_concat_ws")
	r.bind(func(args []types.OID, _ types.OID) Eval {
		return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			if a[0].IsNull() {
				return types.Null, nil
			}
			return formatText(ctx, a[0].Str(), args[1:], a[1:])
		}
	}, "text_format")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].IsNull() {
			return types.Null, nil
		}
		return formatText(ctx, a[0].Str(), nil, nil)
	}, "text_format_nv")
}

// outText is the type's output function.
func outText(oid types.OID, d types.Datum, ctx *EvalContext) string {
	return types.Text(oid, d, ctx.env())
}

// formatText is format(): %s, %I, %L with positions, widths and the flag -.
func formatText(ctx *EvalContext, f string, oids []types.OID, args []types.Datum) (types.Datum, error) {
	var b strings.Builder
	next := 0
	bad := func(msg string, v ...any) (types.Datum, error) {
		return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, msg, v...)
	}
	const unterminated = "unterminated format() type specifier"
	arg := func(pos int) (types.OID, types.Datum, bool) {
		if pos == 0 {
			next++
			pos = next
		} else {
			next = pos
		}
		if pos > len(args) {
			return 0, types.Null, false
		}
		return oids[pos-1], args[pos-1], true
	}
	for i := 0; i < len(f); i++ {
		if f[i] != '%' {
			b.WriteByte(f[i])
			continue
		}
		if i++; i >= len(f) {
			return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, unterminated).WithHint("For a single \"%%%%\" use \"%%%%%%%%\".")
		}
		if f[i] == '%' {
			b.WriteByte('%')
			continue
		}
		number := func() (int, bool) {
			start := i
			for i < len(f) && f[i] >= '0' && f[i] <= '9' {
				i++
			}
			if start == i {
				return 0, false
			}
			n, err := strconv.ParseInt(f[start:i], 10, 32)
			return int(n), err == nil
		}
		pos, width, left := 0, 0, false
		if n, ok := number(); ok {
			if i < len(f) && f[i] == '$' {
				if pos = n; pos == 0 {
					return bad("format specifies argument 0, but arguments are numbered from 1")
				}
				i++
			} else {
				width = n
			}
		}
		if width == 0 {
			for i < len(f) && f[i] == '-' {
				left = true
				i++
			}
			if i < len(f) && f[i] == '*' {
				i++
				wpos, _ := number()
				if wpos > 0 {
					if i >= len(f) || f[i] != '$' {
						return bad("width argument position must be ended by \"$\"")
					}
					i++
				}
				oid, d, ok := arg(wpos)
				if !ok {
					return bad("too few arguments for format()")
				}
				if !d.IsNull() {
					n, err := types.ParseInt(outText(oid, d, ctx), 32)
					if err != nil {
						return types.Null, err
					}
					width = int(n)
				}
				if width < 0 {
					left, width = true, -width
				}
			} else if n, ok := number(); ok {
				width = n
			}
		}
		if i >= len(f) {
			return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, unterminated).WithHint("For a single \"%%%%\" use \"%%%%%%%%\".")
		}
		kind := f[i]
		if kind != 's' && kind != 'I' && kind != 'L' {
			r, _ := utf8.DecodeRuneInString(f[i:])
			return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "unrecognized format() type specifier \"%c\"", r).WithHint("For a single \"%%%%\" use \"%%%%%%%%\".")
		}
		oid, d, ok := arg(pos)
		if !ok {
			return bad("too few arguments for format()")
		}
		s := ""
		switch {
		case d.IsNull() && kind == 'I':
			return types.Null, pgerror.New(pgerrcode.NullValueNotAllowedDataException, "null values cannot be formatted as an SQL identifier")
		case d.IsNull() && kind == 'L':
			s = "NULL"
		case d.IsNull():
		case kind == 'I':
			s = QuoteIdent(outText(oid, d, ctx))
		case kind == 'L':
			s = quoteLiteral(outText(oid, d, ctx))
		default:
			s = outText(oid, d, ctx)
		}
		fill := strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 0))
		if left {
			b.WriteString(s + fill)
		} else {
			b.WriteString(fill + s)
		}
	}
	return str(b.String())
}

//go:embed keywords.tsv
var keywordRows string

// keyword is a row of pg_get_keywords.
type keyword struct {
	word, code     string
	bareLabel      bool
	desc, bareDesc string
}

var keywords = sync.OnceValue(func() []keyword {
	var out []keyword
	eachRow("keywords.tsv", keywordRows, 5, func(r row) {
		out = append(out, keyword{r.f[0], r.f[1], r.f[2] == "t", r.f[3], r.f[4]})
	})
	return out
})

var reservedWords = sync.OnceValue(func() map[string]bool {
	m := map[string]bool{}
	for _, k := range keywords() {
		if k.code != "U" {
			m[k.word] = true
		}
	}
	return m
})

// QuoteIdent quotes an identifier if SQL needs it, as quote_ident does.
func QuoteIdent(s string) string {
	safe := s != ""
	for i := 0; i < len(s) && safe; i++ {
		c := s[i]
		safe = c >= 'a' && c <= 'z' || c == '_' || i > 0 && c >= '0' && c <= '9'
	}
	if safe && !reservedWords()[s] {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

func quoteLiteral(s string) string {
	q := "'" + strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return "E" + q
	}
	return q
}

func quoteFuncs(r *registry) {
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return str(QuoteIdent(a[0].Str())) }, "quote_ident")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return str(quoteLiteral(a[0].Str())) }, "quote_literal")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].IsNull() {
			return str("NULL")
		}
		return str(quoteLiteral(a[0].Str()))
	}, "quote_nullable")
	r.bind(func(args []types.OID, _ types.OID) Eval {
		return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			return str(quoteLiteral(castText(args[0], a[0], ctx)))
		}
	}, "quote_literal(anyelement)")
	r.bind(func(args []types.OID, _ types.OID) Eval {
		return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			if a[0].IsNull() {
				return str("NULL")
			}
			return str(quoteLiteral(castText(args[0], a[0], ctx)))
		}
	}, "quote_nullable(anyelement)")
}

func translate(s, from, to string) string {
	f, t := []rune(from), []rune(to)
	var b strings.Builder
outer:
	for _, c := range s {
		for i, x := range f {
			if x == c {
				if i < len(t) {
					b.WriteRune(t[i])
				}
				continue outer
			}
		}
		b.WriteRune(c)
	}
	return b.String()
}

func splitPart(_ *EvalContext, a []types.Datum) (types.Datum, error) {
	s, sep, n := a[0].Str(), a[1].Str(), a[2].Int()
	if n == 0 {
		return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "field position must not be zero")
	}
	if s == "" {
		return str("")
	}
	if sep == "" {
		if n == 1 || n == -1 {
			return a[0], nil
		}
		return str("")
	}
	if n < 0 {
		n += int64(strings.Count(s, sep)) + 2
		if n <= 0 {
			return str("")
		}
	}
	for ; n > 1; n-- {
		i := strings.Index(s, sep)
		if i < 0 {
			return str("")
		}
		s = s[i+len(sep):]
	}
	head, _, _ := strings.Cut(s, sep)
	return str(head)
}

func chr(_ *EvalContext, a []types.Datum) (types.Datum, error) {
	n := a[0].Int()
	switch {
	case n < 0:
		return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "character number must be positive")
	case n == 0:
		return types.Null, pgerror.New(pgerrcode.ProgramLimitExceeded, "null character not permitted")
	case n > 0x10FFFF:
		return types.Null, pgerror.New(pgerrcode.ProgramLimitExceeded, "requested character too large for encoding: %d", n)
	case n >= 0xD800 && n <= 0xDFFF:
		return types.Null, pgerror.New(pgerrcode.ProgramLimitExceeded, "requested character not valid for encoding: %d", n)
	}
	return str(string(rune(n)))
}

func sha(b []byte, bits int) []byte {
	switch bits {
	case 224:
		s := sha256.Sum224(b)
		return s[:]
	case 256:
		s := sha256.Sum256(b)
		return s[:]
	case 384:
		s := sha512.Sum384(b)
		return s[:]
	}
	s := sha512.Sum512(b)
	return s[:]
}
