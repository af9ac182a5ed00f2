package builtins

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// PostgreSQL's advanced regular expressions on Go's regexp: the pattern is translated, what
// has no translation (back references, lookaround) answers 0A000. PostgreSQL takes the
// longest match where the expression prefers greedy quantifiers, and the shortest where the
// first quantifier is non-greedy; so does the translation.

// regexOptions are what flags and the (?x) prefix set.
type regexOptions struct {
	fold     bool // i
	lineDot  bool // n, p: . and [^ do not match newline
	lineEnds bool // n, w: ^ and $ match at newlines
	expanded bool // x
	literal  bool // q
	global   bool // g: not of the expression, of the function
}

type regexKey struct {
	pattern string
	opts    regexOptions
}

const regexCacheSize = 512

var regexCache = func() *lru.Cache[regexKey, *compiledRegex] {
	c, err := lru.New[regexKey, *compiledRegex](regexCacheSize)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return c
}()

func errRegex(msg string) error {
	return pgerror.New(pgerrcode.InvalidRegularExpression, "invalid regular expression: %s", msg)
}

func errRegexUnsupported(what string) error {
	return pgerror.New(pgerrcode.FeatureNotSupported, "regular expressions with %s are not supported", what)
}

// parseRegexFlags reads the flags argument of regexp_replace and its like.
func parseRegexFlags(flags string) (regexOptions, error) {
	var o regexOptions
	for i, c := range flags {
		switch c {
		case 'g':
			o.global = true
		default:
			if !o.set(c) {
				_, n := utf8.DecodeRuneInString(flags[i:])
				return o, pgerror.New(pgerrcode.InvalidParameterValue, "invalid regular expression option: \"%s\"", flags[i:i+n])
			}
		}
	}
	return o, nil
}

func (o *regexOptions) set(c rune) bool {
	switch c {
	case 'b', 'e', 'q':
		o.literal = c == 'q'
	case 'c':
		o.fold = false
	case 'i':
		o.fold = true
	case 'm', 'n':
		o.lineDot, o.lineEnds = true, true
	case 'p':
		o.lineDot, o.lineEnds = true, false
	case 's':
		o.lineDot, o.lineEnds = false, false
	case 't':
		o.expanded = false
	case 'w':
		o.lineDot, o.lineEnds = false, true
	case 'x':
		o.expanded = true
	default:
		return false
	}
	return true
}

// compiledRegex is a translated expression.
type compiledRegex struct {
	*regexp.Regexp
	context bool // has constraints such as ^ that look at what is around a place
}

// allMatches is FindAllStringSubmatchIndex with PostgreSQL's idea of empty matches: one may
// stand right behind another match.
func (re *compiledRegex) allMatches(s string) [][]int {
	found := re.FindAllStringSubmatchIndex(s, -1)
	if re.context || !re.MatchString("") {
		return found
	}
	var out [][]int
	for i, m := range found {
		out = append(out, m)
		if m[0] == m[1] || i+1 < len(found) && found[i+1][0] == m[1] {
			continue
		}
		if e := re.FindStringSubmatchIndex(s[m[1]:]); e != nil && e[1] == 0 {
			for k := range e {
				if e[k] >= 0 {
					e[k] += m[1]
				}
			}
			out = append(out, e)
		}
	}
	return out
}

func compileRegex(pattern string, o regexOptions) (*compiledRegex, error) {
	key := regexKey{pattern, o}
	if re, ok := regexCache.Get(key); ok {
		return re, nil
	}
	t := &regexTranslator{in: pattern, opts: o}
	src, err := t.translate()
	if err != nil {
		return nil, err
	}
	re, err := regexp.Compile(src)
	if err != nil {
		return nil, regexError(err)
	}
	if !t.lazyAll && !t.mixed {
		re.Longest()
	}
	c := &compiledRegex{Regexp: re, context: t.context}
	regexCache.Add(key, c)
	return c, nil
}

func regexError(err error) error {
	var se *syntax.Error
	if !errors.As(err, &se) {
		return errRegex(err.Error())
	}
	switch se.Code {
	case syntax.ErrMissingParen, syntax.ErrUnexpectedParen:
		return errRegex("parentheses () not balanced")
	case syntax.ErrMissingBracket:
		return errRegex("brackets [] not balanced")
	case syntax.ErrMissingRepeatArgument, syntax.ErrInvalidRepeatOp:
		return errRegex("quantifier operand invalid")
	case syntax.ErrInvalidRepeatSize:
		return errRegex("invalid repetition count(s)")
	case syntax.ErrInvalidCharRange:
		return errRegex("invalid character range")
	case syntax.ErrTrailingBackslash, syntax.ErrInvalidEscape:
		return errRegex("invalid escape \\ sequence")
	case syntax.ErrLarge, syntax.ErrNestingDepth:
		return errRegex("regular expression is too complex")
	}
	return errRegex(se.Code.String())
}

// regexTranslator writes an ARE as Go's syntax.
type regexTranslator struct {
	in      string
	pos     int
	opts    regexOptions
	out     strings.Builder
	seen    bool // a quantifier was seen
	lazyAll bool // the first one was non-greedy: so is the whole
	mixed   bool // a later one is non-greedy
	marks   []int
	context bool // a constraint was seen
	wordEnd bool // the last atom can only end with a word character
}

func (t *regexTranslator) translate() (string, error) {
	switch {
	case strings.HasPrefix(t.in, "***="):
		t.in, t.opts.literal = t.in[4:], true
	case strings.HasPrefix(t.in, "***:"):
		t.in = t.in[4:]
	case strings.HasPrefix(t.in, "***"):
		return "", errRegex("quantifier operand invalid")
	}
	if !t.opts.literal && strings.HasPrefix(t.in, "(?") && len(t.in) > 2 && t.in[2] >= 'a' && t.in[2] <= 'z' {
		end := strings.IndexByte(t.in, ')')
		if end < 0 {
			return "", errRegex("parentheses () not balanced")
		}
		for _, c := range t.in[2:end] {
			if !t.opts.set(c) {
				return "", errRegex("invalid embedded option")
			}
		}
		t.in = t.in[end+1:]
	}
	prefix := "(?"
	if t.opts.fold {
		prefix += "i"
	}
	if t.opts.lineEnds {
		prefix += "m"
	}
	if !t.opts.lineDot {
		prefix += "s"
	}
	if prefix += ")"; prefix == "(?)" {
		prefix = ""
	}
	if t.opts.literal {
		return prefix + regexp.QuoteMeta(t.in), nil
	}
	for t.pos < len(t.in) {
		if err := t.atom(); err != nil {
			return "", err
		}
	}
	src := t.out.String()
	if t.lazyAll {
		var b strings.Builder // every greedy quantifier becomes non-greedy
		last := 0
		for _, m := range t.marks {
			b.WriteString(src[last:m] + "?")
			last = m
		}
		src = b.String() + src[last:]
	}
	return prefix + src, nil
}

func (t *regexTranslator) atom() error {
	c := t.in[t.pos]
	word := isWordByte(c)
	defer func() { t.wordEnd = word }()
	switch c {
	case '\\':
		w, err := t.escape(false)
		word = w
		return err
	case '[':
		return t.bracket()
	case '(':
		return t.group()
	case '*', '+', '?':
		t.pos++
		return t.quantifier(string(c))
	case '{':
		return t.bounds()
	case '#':
		if t.opts.expanded {
			for t.pos < len(t.in) && t.in[t.pos] != '\n' {
				t.pos++
			}
			return nil
		}
	case ' ', '\t', '\n', '\r', '\v', '\f':
		if t.opts.expanded {
			t.pos++
			return nil
		}
	case ')', '|', '^', '.':
		t.context = t.context || c == '^'
		t.pos++
		t.out.WriteByte(c)
		return nil
	case '$':
		t.context = true
		t.pos++
		if t.opts.lineEnds {
			t.out.WriteByte('$')
		} else {
			t.out.WriteString(`\z`)
		}
		return nil
	}
	_, n := utf8.DecodeRuneInString(t.in[t.pos:])
	t.out.WriteString(regexp.QuoteMeta(t.in[t.pos : t.pos+n]))
	t.pos += n
	return nil
}

func isWordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func (t *regexTranslator) group() error {
	rest := t.in[t.pos:]
	switch {
	case strings.HasPrefix(rest, "(?:"):
		t.out.WriteString("(?:")
		t.pos += 3
	case strings.HasPrefix(rest, "(?#"):
		end := strings.IndexByte(rest, ')')
		if end < 0 {
			return errRegex("parentheses () not balanced")
		}
		t.pos += end + 1
	case strings.HasPrefix(rest, "(?=") || strings.HasPrefix(rest, "(?!") || strings.HasPrefix(rest, "(?<"):
		return errRegexUnsupported("lookahead or lookbehind constraints")
	case strings.HasPrefix(rest, "(?"):
		return errRegex("quantifier operand invalid")
	default:
		t.out.WriteByte('(')
		t.pos++
	}
	return nil
}

func (t *regexTranslator) quantifier(q string) error {
	t.out.WriteString(q)
	if t.pos < len(t.in) && t.in[t.pos] == '?' {
		t.pos++
		t.out.WriteByte('?')
		if !t.seen {
			t.lazyAll = true
		} else if !t.lazyAll {
			t.mixed = true
		}
	} else {
		t.marks = append(t.marks, t.out.Len())
	}
	t.seen = true
	if t.pos < len(t.in) && strings.IndexByte("*+?", t.in[t.pos]) >= 0 {
		return errRegex("quantifier operand invalid")
	}
	return nil
}

func (t *regexTranslator) bounds() error {
	if t.pos+1 >= len(t.in) || t.in[t.pos+1] < '0' || t.in[t.pos+1] > '9' {
		t.out.WriteString(`\{`) // not followed by a digit it stands for itself
		t.pos++
		return nil
	}
	end := strings.IndexByte(t.in[t.pos:], '}')
	if end < 0 {
		return errRegex("braces {} not balanced")
	}
	body := t.in[t.pos+1 : t.pos+end]
	var lo, hi int
	n, err := fmt.Sscanf(body, "%d,%d", &lo, &hi)
	switch {
	case strings.Trim(body, "0123456789,") != "" || strings.Count(body, ",") > 1:
		return errRegex("invalid repetition count(s)")
	case n == 2 && err == nil && lo > hi, lo > 255, n == 2 && hi > 255:
		return errRegex("invalid repetition count(s)")
	}
	t.pos += end + 1
	return t.quantifier("{" + body + "}")
}

// escape translates what follows a backslash; word says that it matches word characters only.
func (t *regexTranslator) escape(inBracket bool) (word bool, err error) {
	if t.pos+1 >= len(t.in) {
		return false, errRegex("invalid escape \\ sequence")
	}
	c := t.in[t.pos+1]
	t.pos += 2
	lit := func(r rune) { t.out.WriteString(quoteRune(r)) }
	switch c {
	case 'd', 'w', 's', 'D', 'W', 'S':
		if inBracket && c <= 'Z' {
			return false, errRegex("invalid escape \\ sequence")
		}
		switch c {
		case 's': // Go's \s lacks \v
			if inBracket {
				t.out.WriteString(`\s\v`)
			} else {
				t.out.WriteString(`[\s\v]`)
			}
		case 'S':
			t.out.WriteString(`[^\s\v]`)
		default:
			t.out.WriteString(`\` + string(c))
		}
		return c == 'd' || c == 'w', nil
	case 'a':
		lit('\a')
	case 'b':
		lit('\b')
	case 'B':
		lit('\\')
	case 'e':
		lit(0x1b)
	case 'f':
		lit('\f')
	case 'n':
		lit('\n')
	case 'r':
		lit('\r')
	case 't':
		lit('\t')
	case 'v':
		lit('\v')
	case 'c':
		if t.pos >= len(t.in) {
			return false, errRegex("invalid escape \\ sequence")
		}
		lit(rune(t.in[t.pos] & 0x1f))
		t.pos++
	case 'u', 'U', 'x':
		return false, t.hexEscape(c)
	case '0':
		r, i := rune(0), 0
		for ; i < 2 && t.pos < len(t.in) && t.in[t.pos] >= '0' && t.in[t.pos] <= '7'; i++ {
			r = r*8 + rune(t.in[t.pos]-'0')
			t.pos++
		}
		lit(r)
	case '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return false, errRegexUnsupported("back references")
	default:
		return false, t.constraint(c, inBracket)
	}
	return false, nil
}

// constraint translates \A, \m and their like; anything but a letter stands for itself.
func (t *regexTranslator) constraint(c byte, inBracket bool) error {
	if c < 0x80 && !isAlnum(c) {
		t.out.WriteString(quoteRune(rune(c)))
		return nil
	}
	if c >= 0x80 {
		t.pos--
		r, n := utf8.DecodeRuneInString(t.in[t.pos:])
		t.pos += n
		t.out.WriteString(quoteRune(r))
		return nil
	}
	if inBracket {
		return errRegex("invalid escape \\ sequence")
	}
	t.context = true
	switch c {
	case 'A':
		t.out.WriteString(`\A`)
	case 'Z':
		t.out.WriteString(`\z`)
	case 'y':
		t.out.WriteString(`\b`)
	case 'Y':
		t.out.WriteString(`\B`)
	case 'm':
		rest := t.in[t.pos:]
		if rest == "" || !isWordByte(rest[0]) && !strings.HasPrefix(rest, `\w`) && !strings.HasPrefix(rest, `\d`) {
			return errRegexUnsupported("\\m before what need not be a word")
		}
		t.out.WriteString(`\b`)
	case 'M':
		if !t.wordEnd {
			return errRegexUnsupported("\\M after what need not be a word")
		}
		t.out.WriteString(`\b`)
	default:
		return errRegex("invalid escape \\ sequence")
	}
	return nil
}

func isAlnum(c byte) bool { return c != '_' && isWordByte(c) }

func (t *regexTranslator) hexEscape(kind byte) error {
	want := map[byte]int{'u': 4, 'U': 8, 'x': 255}[kind]
	r, i := rune(0), 0
	for ; i < want && t.pos < len(t.in); i++ {
		d := strings.IndexByte("0123456789abcdef", t.in[t.pos]|0x20)
		if t.in[t.pos] >= '0' && t.in[t.pos] <= '9' {
			d = int(t.in[t.pos] - '0')
		}
		if d < 0 || r > 0x10FFFF {
			break
		}
		r = r<<4 | rune(d)
		t.pos++
	}
	if i == 0 || kind != 'x' && i < want || r > utf8.MaxRune {
		return errRegex("invalid escape \\ sequence")
	}
	t.out.WriteString(quoteRune(r))
	return nil
}

func quoteRune(r rune) string { return fmt.Sprintf(`\x{%X}`, r) }

// bracket translates a bracket expression.
func (t *regexTranslator) bracket() error {
	rest := t.in[t.pos:]
	if strings.HasPrefix(rest, "[[:<:]]") || strings.HasPrefix(rest, "[[:>:]]") {
		return errRegexUnsupported("[[:<:]] and [[:>:]]")
	}
	t.pos++
	t.out.WriteByte('[')
	if t.pos < len(t.in) && t.in[t.pos] == '^' {
		t.out.WriteByte('^')
		t.pos++
		if t.opts.lineDot {
			t.out.WriteString(`\n`)
		}
	}
	for first := true; ; first = false {
		if t.pos >= len(t.in) {
			return errRegex("brackets [] not balanced")
		}
		switch c := t.in[t.pos]; {
		case c == ']' && !first:
			t.pos++
			t.out.WriteByte(']')
			return nil
		case c == '-' && !first && t.pos+1 < len(t.in) && t.in[t.pos+1] != ']':
			t.out.WriteByte('-')
			t.pos++
		case c == '[' && t.pos+1 < len(t.in) && strings.IndexByte(":.=", t.in[t.pos+1]) >= 0:
			if err := t.class(t.in[t.pos+1]); err != nil {
				return err
			}
		case c == '\\':
			if _, err := t.escape(true); err != nil {
				return err
			}
		default:
			r, n := utf8.DecodeRuneInString(t.in[t.pos:])
			t.out.WriteString(quoteRune(r))
			t.pos += n
		}
	}
}

// class translates [:alpha:], [.x.] and [=x=] inside brackets.
func (t *regexTranslator) class(kind byte) error {
	end := strings.Index(t.in[t.pos+2:], string(kind)+"]")
	if end < 0 {
		return errRegex("brackets [] not balanced")
	}
	name := t.in[t.pos+2 : t.pos+2+end]
	t.pos += end + 4
	if kind == ':' {
		switch name {
		case "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit", "word":
			t.out.WriteString("[:" + name + ":]")
			return nil
		}
		return errRegex("invalid character class")
	}
	r, n := utf8.DecodeRuneInString(name)
	if n == 0 || n != len(name) {
		return errRegex("invalid collating element")
	}
	t.out.WriteString(quoteRune(r))
	return nil
}
