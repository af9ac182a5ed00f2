package parser

import (
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// token is one lexical unit: a word, a quoted identifier, a string, a number, or one byte of
// punctuation.
type token struct {
	kind       byte // 'w' word, '"' quoted identifier, '\'' string, '0' number, '$' parameter, else the byte
	start, end int
}

// scanner cuts SQL text into tokens as PostgreSQL's lexer does, as far as Atoll needs it.
type scanner struct {
	src string
	pos int
}

// next returns the next token; false at the end, or where a string or a comment does not end:
// then the token has a kind.
func (s *scanner) next() (token, bool) {
	if !s.skip() {
		return token{}, false
	}
	start, c := s.pos, s.src[s.pos]
	kind := c
	ok := true
	switch {
	case c == '\'':
		ok = s.quoted('\'', false)
	case c == '"':
		ok = s.quoted('"', false)
	case (c == 'e' || c == 'E') && s.at(1) == '\'':
		s.pos++
		kind, ok = '\'', s.quoted('\'', true)
	case (c == 'b' || c == 'B' || c == 'x' || c == 'X' || c == 'n' || c == 'N') && s.at(1) == '\'':
		s.pos++
		kind, ok = '\'', s.quoted('\'', false)
	case (c == 'u' || c == 'U') && s.at(1) == '&' && (s.at(2) == '\'' || s.at(2) == '"'):
		s.pos += 2
		kind = s.src[s.pos]
		ok = s.quoted(kind, false)
	case isIdentStart(c):
		kind = 'w'
		for s.pos < len(s.src) && isIdent(s.src[s.pos]) {
			s.pos++
		}
	case c == '$':
		kind, ok = s.dollar()
	case c == '/' && s.at(1) == '*':
		s.pos, ok = len(s.src), false
	case isDigit(c) || c == '.' && isDigit(s.at(1)):
		kind = '0'
		for s.pos < len(s.src) && (isDigit(s.src[s.pos]) || s.src[s.pos] == '.') {
			s.pos++
		}
	default:
		s.pos++
	}
	return token{kind: kind, start: start, end: s.pos}, ok
}

func (s *scanner) at(i int) byte {
	if s.pos+i < len(s.src) {
		return s.src[s.pos+i]
	}
	return 0
}

// skip moves over white space and comments, and reports whether something follows.
func (s *scanner) skip() bool {
	for s.pos < len(s.src) {
		switch c := s.src[s.pos]; {
		case isSpace(c):
			s.pos++
		case c == '-' && s.at(1) == '-':
			for s.pos < len(s.src) && s.src[s.pos] != '\n' && s.src[s.pos] != '\r' {
				s.pos++
			}
		case c == '/' && s.at(1) == '*':
			if !s.comment() {
				return true // next reports it
			}
		default:
			return true
		}
	}
	return false
}

// comment moves over a block comment; it stays where it is if the comment does not end.
func (s *scanner) comment() bool {
	for i, depth := s.pos, 0; i+1 < len(s.src); {
		switch s.src[i : i+2] {
		case "/*":
			depth, i = depth+1, i+2
		case "*/":
			depth, i = depth-1, i+2
			if depth == 0 {
				s.pos = i
				return true
			}
		default:
			i++
		}
	}
	return false
}

func (s *scanner) quoted(q byte, escapes bool) bool {
	for s.pos++; s.pos < len(s.src); s.pos++ {
		switch c := s.src[s.pos]; {
		case c == '\\' && escapes:
			s.pos++
		case c == q:
			if s.at(1) != q {
				s.pos++
				return true
			}
			s.pos++
		}
	}
	s.pos = len(s.src)
	return false
}

// dollar scans $1 or $tag$ ... $tag$.
func (s *scanner) dollar() (byte, bool) {
	end := s.pos + 1
	if end < len(s.src) && isDigit(s.src[end]) {
		for end < len(s.src) && isDigit(s.src[end]) {
			end++
		}
		s.pos = end
		return '$', true
	}
	for end < len(s.src) && s.src[end] != '$' && isIdent(s.src[end]) {
		end++
	}
	if end >= len(s.src) || s.src[end] != '$' {
		s.pos++
		return '$', true
	}
	tag := s.src[s.pos : end+1]
	i := strings.Index(s.src[end+1:], tag)
	if i < 0 {
		s.pos = len(s.src)
		return '\'', false
	}
	s.pos = end + 1 + i + len(tag)
	return '\'', true
}

func isIdentStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isIdent(c byte) bool { return isIdentStart(c) || isDigit(c) || c == '$' }

// maxDepth bounds how deep a tree can become, estimated on tokens. libpg_query writes the
// tree out recursively and does not check its C stack while it does: a chain of 100,000
// additions, joins or UNIONs ends the process. 10,000 levels are safe on an 8 MiB stack.
const maxDepth = 10000

// checkDepth refuses a statement whose tree could be deeper than maxDepth. A level of
// nesting can be no deeper than the tokens since the last comma (or AND, OR, WHEN, which the
// grammar keeps flat) of its parenthesis level; only set operations and joins chain across.
func checkDepth(sql string) error {
	if len(sql) <= maxDepth {
		return nil // fewer bytes than levels
	}
	type level struct{ run, chain int }
	stack := []level{{}}
	total := 0 // sum of run and chain over the stack
	s := scanner{src: sql}
	for {
		t, ok := s.next()
		if !ok {
			return nil
		}
		top := &stack[len(stack)-1]
		switch t.kind {
		case '(', '[':
			stack = append(stack, level{run: 1})
			total++
		case ')', ']':
			if len(stack) > 1 {
				total -= top.run + top.chain
				stack = stack[:len(stack)-1]
				stack[len(stack)-1].run++
				total++
			}
		case ',':
			total, top.run = total-top.run, 0
		case ';':
			stack, total = append(stack[:0], level{}), 0
		case 'w':
			switch w := sql[t.start:t.end]; {
			case wordIs(w, "and"), wordIs(w, "or"), wordIs(w, "when"):
				total, top.run = total-top.run, 0
			case wordIs(w, "union"), wordIs(w, "intersect"), wordIs(w, "except"), wordIs(w, "join"):
				top.chain++
				total++
			default:
				top.run++
				total++
			}
		default:
			top.run++
			total++
		}
		if total > maxDepth {
			return tooDeep()
		}
	}
}

func tooDeep() error {
	return pgerror.New(pgerrcode.StatementTooComplex, "stack depth limit exceeded").
		WithDetail("The statement nests expressions, joins or set operations more than %d levels deep.", maxDepth).
		WithHint("Use IN or VALUES lists instead of long chains of operators, or split the statement.")
}

func wordIs(w, lower string) bool { return len(w) == len(lower) && strings.EqualFold(w, lower) }
