package parser

import (
	"errors"
	"strings"

	"github.com/jackc/pgerrcode"
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
)

// AtollStatement is a statement that PostgreSQL does not have.
type AtollStatement interface{ atoll() }

// SplitAt is ALTER TABLE t SPLIT AT VALUES (...), or ALTER INDEX t@i SPLIT AT VALUES (...).
type SplitAt struct {
	Relation *ast.RangeVar
	Index    string // empty: the primary key
	// Rows holds the expressions of each split point.
	Rows [][]*ast.Node
}

func (*SplitAt) atoll() {}

// mentionsAtoll is a cheap test for text that might hold one of Atoll's statements.
func mentionsAtoll(sql string) bool {
	for i := 0; i+5 <= len(sql); i++ {
		switch c := sql[i]; {
		case (c == 's' || c == 'S') && strings.EqualFold(sql[i:i+5], "split"),
			(c == 'n' || c == 'N') && strings.EqualFold(sql[i:i+4], "node") && isSpace(sql[i+4]),
			(c == 'p' || c == 'P') && i+9 <= len(sql) && strings.EqualFold(sql[i:i+9], "placement"):
			return true
		}
	}
	return false
}

// piece is a statement's bytes in the query string.
type piece struct{ start, end int }

var errAtomic = errors.New("a function's body holds semicolons")

// split cuts a query string at its semicolons. If a token does not end, it is in the last
// piece, and the error says so as PostgreSQL does.
func split(sql string) ([]piece, error) {
	var out []piece
	s := scanner{src: sql}
	start, depth, empty, begin := 0, 0, true, false
	for {
		t, ok := s.next()
		if !ok {
			if !empty {
				out = append(out, piece{start, len(sql)})
			}
			if t.kind != 0 {
				return out, unterminated(sql, t)
			}
			return out, nil
		}
		switch {
		case t.kind == '(':
			depth++
		case t.kind == ')':
			depth--
		case begin && t.kind == 'w' && wordIs(sql[t.start:t.end], "atomic"):
			// CREATE FUNCTION ... BEGIN ATOMIC holds semicolons: leave it to PostgreSQL.
			return nil, errAtomic
		case t.kind == ';' && depth == 0:
			if !empty {
				out = append(out, piece{start, t.start})
			}
			start, empty = t.end, true
			continue
		}
		begin = t.kind == 'w' && wordIs(sql[t.start:t.end], "begin")
		if empty {
			start, empty = t.start, false
		}
	}
}

// parseAtoll recognises Atoll's own statements; nil for anything else.
func parseAtoll(sql string, p piece) (*Statement, error) {
	if own, err := parsePlacement(sql, p); own != nil || err != nil {
		return own, err
	}
	s := scanner{src: sql[:p.end], pos: p.start}
	if t, ok := s.next(); !ok || t.kind != 'w' || !wordIs(sql[t.start:t.end], "alter") {
		return nil, nil
	}
	switch t, ok := s.next(); {
	case !ok || t.kind != 'w':
		return nil, nil
	case wordIs(sql[t.start:t.end], "node"):
		return parseNode(sql, p, &s)
	case wordIs(sql[t.start:t.end], "table"):
		return parseSplit(sql, p, &s)
	}
	return nil, nil
}

// parseSplit parses what follows ALTER TABLE: <name> SPLIT AT VALUES (...), ...; nil for
// anything else.
func parseSplit(sql string, p piece, s *scanner) (*Statement, error) {
	nameStart := s.pos
	nameEnd := 0
	for {
		t, ok := s.next()
		if !ok {
			return nil, nil
		}
		if t.kind == 'w' && wordIs(sql[t.start:t.end], "split") {
			nameEnd = t.start
			break
		}
		if t.kind != 'w' && t.kind != '"' && t.kind != '.' {
			return nil, nil
		}
	}
	if t, ok := s.next(); !ok || t.kind != 'w' || !wordIs(sql[t.start:t.end], "at") {
		if nameEnd <= nameStart || strings.TrimSpace(sql[nameStart:nameEnd]) == "" {
			return nil, nil // ALTER TABLE split ...
		}
		if t.kind == 0 {
			return nil, pgerror.New(pgerrcode.SyntaxError, "syntax error at end of input").At(charIndex(sql, p.end))
		}
		return nil, syntaxAt(sql, t)
	}
	t, ok := s.next()
	if !ok {
		return nil, pgerror.New(pgerrcode.SyntaxError, "syntax error at end of input").At(charIndex(sql, p.end))
	}
	if !wordIs(sql[t.start:t.end], "values") {
		return nil, syntaxAt(sql, t)
	}
	// PostgreSQL parses the name and the rows; blanks in front keep the offsets right.
	rel, err := parsePadded(sql, "TABLE ", nameStart, nameEnd)
	if err != nil {
		return nil, err
	}
	rows, err := parsePadded(sql, "", t.start, p.end)
	if err != nil {
		return nil, err
	}
	own := &SplitAt{}
	if sel := rel.GetSelectStmt(); sel != nil && len(sel.FromClause) == 1 {
		own.Relation = sel.FromClause[0].GetRangeVar()
	}
	sel := rows.GetSelectStmt()
	if own.Relation == nil || sel == nil || len(sel.ValuesLists) == 0 || len(sel.SortClause) > 0 || sel.LimitCount != nil || sel.Op != ast.SetOperation_SETOP_NONE {
		return nil, syntaxAt(sql, t)
	}
	for _, l := range sel.ValuesLists {
		own.Rows = append(own.Rows, l.GetList().GetItems())
	}
	return ownStatement(sql, p, own), nil
}

func ownStatement(sql string, p piece, own AtollStatement) *Statement {
	end := p.end
	for end > p.start && isSpace(sql[end-1]) {
		end--
	}
	return &Statement{source: sql, start: p.start, end: end, Atoll: own}
}

// parsePadded parses prefix plus sql[start:end] so that locations are offsets into sql.
func parsePadded(sql, prefix string, start, end int) (*ast.Node, error) {
	text := strings.Repeat(" ", start-len(prefix)) + prefix + sql[start:end]
	tree, err := pg.Parse(text)
	if err != nil {
		var pe *pgerror.Error
		err = syntaxError(err, sql, 0)
		if errors.As(err, &pe) && pe.Position > 0 {
			// The blanks are bytes, positions are characters.
			pe.Position -= start - (charIndex(sql, start) - 1)
		}
		return nil, err
	}
	if len(tree.Stmts) != 1 {
		return nil, pgerror.New(pgerrcode.SyntaxError, "syntax error").At(charIndex(sql, start))
	}
	return tree.Stmts[0].Stmt, nil
}

func syntaxAt(sql string, t token) error {
	return pgerror.New(pgerrcode.SyntaxError, "syntax error at or near \"%s\"", sql[t.start:t.end]).At(charIndex(sql, t.start))
}

// unterminated is PostgreSQL's error for a token without an end.
func unterminated(sql string, t token) error {
	what := "quoted string"
	switch sql[t.start] {
	case '"':
		what = "quoted identifier"
	case '$':
		what = "dollar-quoted string"
	case '/':
		what = "/* comment"
	}
	return pgerror.New(pgerrcode.SyntaxError, "unterminated %s at or near \"%s\"", what, sql[t.start:t.end]).At(charIndex(sql, t.start))
}

// charIndex is the 1-based character index of a byte offset.
func charIndex(sql string, off int) int {
	n := 1
	for i := range sql {
		if i >= off {
			return n
		}
		n++
	}
	return n
}
