package parser

import (
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgerrcode"
	pg "github.com/pganalyze/pg_query_go/v6"
	pgparser "github.com/pganalyze/pg_query_go/v6/parser"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
)

const (
	// MaxStatementBytes bounds the text of one query string.
	MaxStatementBytes = 16 << 20
	// cacheEntries and cacheMaxBytes bound the cache from text to tree: a tree is roughly
	// thirty times as large as its text.
	cacheEntries  = 4096
	cacheMaxBytes = 4096
)

// Statement is one statement of a query string. It is immutable.
type Statement struct {
	source string // the whole query string: locations in the tree are byte offsets into it
	start  int    // the statement's text is source[start:end]
	end    int
	ascii  bool
	base   int // added to the tree's locations to get offsets into source
	// Node is the parse tree; nil when Atoll is set.
	Node *ast.Node
	// Atoll is one of Atoll's own statements, or nil.
	Atoll AtollStatement
	// AsOf is the expression of AS OF SYSTEM TIME, or nil. Its locations are like those of Node.
	AsOf     *ast.Node
	asOfText string
}

// Text is the statement's own text, without the semicolon.
func (s *Statement) Text() string { return s.source[s.start:s.end] }

// Source is the whole query string that the statement came in.
func (s *Statement) Source() string { return s.source }

// Position returns the 1-based character index in the query string of a node's location
// (a byte offset, or -1); 0 when there is none.
func (s *Statement) Position(location int32) int {
	if location < 0 {
		return 0
	}
	off := int(location) + s.base
	if off > len(s.source) {
		return 0
	}
	if s.ascii {
		return off + 1
	}
	return utf8.RuneCountInString(s.source[:off]) + 1
}

var cache = func() *lru.Cache[string, []*Statement] {
	c, err := lru.New[string, []*Statement](cacheEntries)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return c
}()

// Parse splits a query string into statements. The error is a *pgerror.Error with the
// position in the whole string.
func Parse(sql string) ([]*Statement, error) {
	if len(sql) <= cacheMaxBytes {
		if st, ok := cache.Get(sql); ok {
			return st, nil
		}
	}
	if err := check(sql); err != nil {
		return nil, err
	}
	st, err := parseAsOf(sql)
	if err != nil {
		return nil, err
	}
	ascii := isASCII(sql) // once: there can be a million statements
	for _, s := range st {
		s.ascii = ascii
	}
	if len(sql) <= cacheMaxBytes {
		cache.Add(strings.Clone(sql), st)
	}
	return st, nil
}

// check holds what C code must not see.
func check(sql string) error {
	if len(sql) > MaxStatementBytes {
		return pgerror.New(pgerrcode.ProgramLimitExceeded, "statement of %d bytes exceeds the limit of %d bytes", len(sql), MaxStatementBytes).
			WithHint("Send it in several statements, or use COPY to load data.")
	}
	if i := strings.IndexByte(sql, 0); i >= 0 {
		return pgerror.New(pgerrcode.CharacterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": 0x00")
	}
	if !utf8.ValidString(sql) {
		for i := 0; i < len(sql); {
			r, n := utf8.DecodeRuneInString(sql[i:])
			if r == utf8.RuneError && n == 1 {
				return pgerror.New(pgerrcode.CharacterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": 0x%02x", sql[i])
			}
			i += n
		}
	}
	return checkDepth(sql)
}

func parse(sql string) ([]*Statement, error) {
	if !mentionsAtoll(sql) {
		return parsePostgres(sql, sql, 0)
	}
	pieces, err := split(sql)
	isOwn := func(p piece) bool {
		own, err := parseAtoll(sql, p)
		return own != nil || err != nil
	}
	if !slices.ContainsFunc(pieces, isOwn) {
		// The word is a name or in a string, or these are not even tokens. PostgreSQL knows best
		// where its statements end, and has the better messages.
		return parsePostgres(sql, sql, 0)
	}
	if err != nil {
		return nil, err
	}
	var out []*Statement
	for _, p := range pieces {
		text := sql[p.start:p.end]
		own, err := parseAtoll(sql, p)
		if err != nil {
			return nil, err
		}
		if own != nil {
			out = append(out, own)
			continue
		}
		st, err := parsePostgres(sql, text, p.start)
		if err != nil {
			return nil, err
		}
		out = append(out, st...)
	}
	return out, nil
}

// parsePostgres parses text, which lies at offset base of sql.
func parsePostgres(sql, text string, base int) ([]*Statement, error) {
	tree, err := pg.Parse(text)
	if err != nil {
		return nil, syntaxError(err, sql, base)
	}
	out := make([]*Statement, 0, len(tree.Stmts))
	for _, raw := range tree.Stmts {
		start, end := int(raw.StmtLocation), int(raw.StmtLocation+raw.StmtLen)
		if raw.StmtLen == 0 {
			end = len(text)
		}
		if start < 0 || end > len(text) || start > end {
			start, end = 0, len(text)
		}
		for start < end && isSpace(text[start]) {
			start++
		}
		for end > start && (isSpace(text[end-1]) || text[end-1] == ';') {
			end--
		}
		out = append(out, &Statement{source: sql, start: base + start, end: base + end, base: base, Node: raw.Stmt})
	}
	return out, nil
}

func syntaxError(err error, sql string, base int) error {
	var pe *pgparser.Error
	if !errors.As(err, &pe) {
		if strings.Contains(err.Error(), "recursion depth") {
			return tooDeep()
		}
		return pgerror.Wrap(err, pgerrcode.InternalError, "parser: %v", err)
	}
	e := pgerror.New(codeOf(pe.Message), "%s", pe.Message)
	if e.Code == pgerrcode.StatementTooComplex {
		return tooDeep()
	}
	if pe.Cursorpos > 0 {
		// The library counts characters from the start of what it was given.
		e.Position = pe.Cursorpos + utf8.RuneCountInString(sql[:base])
	}
	return e
}

// codeOf maps the grammar's messages to SQLSTATEs: the library reports none, and nearly all
// of its errors are syntax errors.
func codeOf(message string) string {
	switch {
	case strings.Contains(message, "stack depth"), strings.Contains(message, "memory exhausted"):
		return pgerrcode.StatementTooComplex
	case strings.HasPrefix(message, "invalid Unicode"), strings.HasPrefix(message, "unsafe use of \\'"):
		return pgerrcode.InvalidEscapeSequence
	case strings.HasSuffix(message, "not implemented"), strings.Contains(message, "not yet implemented"), strings.Contains(message, "is not supported"):
		return pgerrcode.FeatureNotSupported
	}
	return pgerrcode.SyntaxError
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'
}

// WithNode returns a statement over a part of this one's tree, such as the query of an
// EXPLAIN; positions stay right.
func (s *Statement) WithNode(n *ast.Node) *Statement {
	c := *s
	c.Node = n
	return &c
}
