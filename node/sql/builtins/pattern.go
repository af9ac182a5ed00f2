package builtins

import (
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// Like matches a LIKE pattern: % any text, _ one character, backslash quotes the next.
func Like(s, pattern string) (bool, error) {
	// Where the last % was, to come back to with one character more taken by it.
	starP, starS := -1, 0
	i, j := 0, 0
	for i < len(s) {
		if j < len(pattern) {
			switch c := pattern[j]; c {
			case '%':
				starP, starS = j, i
				j++
				continue
			case '_':
				_, n := utf8.DecodeRuneInString(s[i:])
				i += n
				j++
				continue
			case '\\':
				if j+1 >= len(pattern) {
					return false, errLikeEscape()
				}
				if pattern[j+1] == s[i] {
					i++
					j += 2
					continue
				}
			default:
				if c == s[i] {
					i++
					j++
					continue
				}
			}
		}
		if starP < 0 {
			return false, nil
		}
		_, n := utf8.DecodeRuneInString(s[starS:])
		starS += n
		i, j = starS, starP+1
	}
	for j < len(pattern) && pattern[j] == '%' {
		j++
	}
	return j == len(pattern), nil
}

func errLikeEscape() error {
	return pgerror.New(pgerrcode.InvalidEscapeSequence, "LIKE pattern must not end with escape character")
}

func patternFuncs(r *registry) {
	like := func(fold, negate bool) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			s, p := a[0].Str(), a[1].Str()
			if fold {
				s, p = strings.ToLower(s), strings.ToLower(p)
			}
			ok, err := Like(s, p)
			return types.NewBool(ok != negate), err
		}
	}
	for _, t := range []string{"text", "name"} {
		r.fn(like(false, false), t+"like")
		r.fn(like(false, true), t+"nlike")
		r.fn(like(true, false), t+"iclike")
		r.fn(like(true, true), t+"icnlike")
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return likeEscape(a[0].Str(), a[1].Str())
	}, "like_escape")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return similarEscape(a[0].Str(), a[1].Str())
	}, "similar_to_escape_2")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return similarEscape(a[0].Str(), `\`)
	}, "similar_to_escape_1")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].IsNull() {
			return types.Null, nil
		}
		if a[1].IsNull() {
			return similarEscape(a[0].Str(), `\`)
		}
		return similarEscape(a[0].Str(), a[1].Str())
	}, "similar_escape")
	regexFuncs(r)
}

// likeEscape rewrites a pattern with another escape character to one with backslash.
func likeEscape(p, esc string) (types.Datum, error) {
	if utf8.RuneCountInString(esc) > 1 {
		return types.Null, pgerror.New(pgerrcode.InvalidEscapeSequence, "invalid escape string").WithHint("Escape string must be empty or one character.")
	}
	if esc == `\` {
		return str(p)
	}
	var b strings.Builder
	quoted := false
	for _, c := range p {
		switch {
		case esc != "" && string(c) == esc && !quoted:
			b.WriteByte('\\')
			quoted = true
			continue
		case c == '\\' && !quoted:
			b.WriteString(`\\`)
		case c == '\\':
			b.WriteByte('\\')
		default:
			b.WriteRune(c)
		}
		quoted = false
	}
	return str(b.String())
}

// similarEscape turns a SIMILAR TO pattern into a regular expression.
func similarEscape(p, esc string) (types.Datum, error) {
	if utf8.RuneCountInString(esc) > 1 {
		return types.Null, pgerror.New(pgerrcode.InvalidEscapeSequence, "invalid escape string").WithHint("Escape string must be empty or one character.")
	}
	var b strings.Builder
	b.WriteString("^(?:")
	quotes, inClass, afterEsc := 0, false, false
	for _, c := range p {
		switch {
		case afterEsc:
			if c == '"' && !inClass {
				switch quotes {
				case 0:
					b.WriteString("){1,1}?(")
				case 1:
					b.WriteString("){1,1}(?:")
				default:
					return types.Null, pgerror.New(pgerrcode.InvalidUseOfEscapeCharacter, "SQL regular expression may not contain more than two escape-double-quote separators")
				}
				quotes++
			} else {
				b.WriteByte('\\')
				b.WriteRune(c)
			}
			afterEsc = false
		case esc != "" && string(c) == esc:
			afterEsc = true
		case inClass:
			if c == '\\' {
				b.WriteByte('\\')
			}
			b.WriteRune(c)
			if c == ']' {
				inClass = false
			}
		case c == '[':
			b.WriteRune(c)
			inClass = true
		case c == '%':
			b.WriteString(".*")
		case c == '_':
			b.WriteByte('.')
		case c == '(':
			b.WriteString("(?:")
		case strings.ContainsRune(`\.^$`, c):
			b.WriteByte('\\')
			b.WriteRune(c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteString(")$")
	return str(b.String())
}
