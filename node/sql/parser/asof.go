package parser

import (
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// asOfClause is one AS OF SYSTEM TIME, with its expression, in bytes of the query string.
type asOfClause struct {
	start, exprStart, end int
	// mode: it belongs to BEGIN, START TRANSACTION or SET TRANSACTION.
	mode bool
}

// parseAsOf parses a query string. PostgreSQL does not know AS OF SYSTEM TIME: the clauses are cut
// out, blanks in their place, so that locations stay right.
func parseAsOf(sql string) ([]*Statement, error) {
	clauses, err := findAsOf(sql)
	if err != nil {
		return nil, err
	}
	if len(clauses) == 0 {
		return parse(sql)
	}
	cut := []byte(sql)
	for _, c := range clauses {
		for i := c.start; i < c.end; i++ {
			cut[i] = ' '
		}
		if c.mode {
			copy(cut[c.start:], "READ ONLY") // a mode list may not be empty, and the block is that
		}
	}
	sts, err := parse(string(cut))
	if err != nil {
		return nil, err
	}
	for _, st := range sts {
		st.source = sql
	}
	for _, c := range clauses {
		i, _ := slices.BinarySearchFunc(sts, c.start, func(st *Statement, at int) int {
			if st.start <= at {
				return -1
			}
			return 1
		})
		if i == 0 {
			return nil, pgerror.New(pgerrcode.SyntaxError, "syntax error at or near \"AS\"").At(charIndex(sql, c.start))
		}
		if err := sts[i-1].setAsOf(c); err != nil {
			return nil, err
		}
	}
	return sts, nil
}

// setAsOf gives a statement a clause of its own. A second one must say the same: a statement reads at
// one time.
func (s *Statement) setAsOf(c asOfClause) error {
	expr := s.source[c.exprStart:c.end]
	if s.AsOf != nil {
		if s.asOfText != strings.TrimSpace(expr) {
			return pgerror.New(pgerrcode.FeatureNotSupported, "a statement reads at one time: AS OF SYSTEM TIME %s and %s differ", s.asOfText, strings.TrimSpace(expr)).
				At(charIndex(s.source, c.start))
		}
		return nil
	}
	tree, err := parsePadded(s.source, "SELECT ", c.exprStart, c.end)
	if err != nil {
		return err
	}
	sel := tree.GetSelectStmt()
	targets := sel.GetTargetList()
	if len(targets) != 1 || targets[0].GetResTarget().GetName() != "" || len(sel.GetFromClause()) > 0 || sel.GetIntoClause() != nil {
		return pgerror.New(pgerrcode.SyntaxError, "syntax error: AS OF SYSTEM TIME takes one expression").At(charIndex(s.source, c.exprStart))
	}
	s.AsOf, s.asOfText = targets[0].GetResTarget().GetVal(), strings.TrimSpace(expr)
	s.end = max(s.end, c.end)
	for s.end > s.start && isSpace(s.source[s.end-1]) {
		s.end--
	}
	return nil
}

// afterAsOf are the words that may follow the expression.
var afterAsOf = []string{"where", "group", "having", "window", "order", "limit", "offset", "fetch", "for", "union", "intersect", "except", "as",
	"join", "inner", "left", "right", "full", "cross", "natural", "on", "using", "tablesample", "read", "isolation", "deferrable", "not"}

// findAsOf finds the clauses of a query string.
func findAsOf(sql string) ([]asOfClause, error) {
	if !mentionsSystem(sql) {
		return nil, nil
	}
	var out []asOfClause
	var last [4]token // words before
	s := scanner{src: sql}
	words, first, second := 0, "", "" // of the statement
	for {
		t, ok := s.next()
		if !ok {
			return out, nil // what does not end is PostgreSQL's to tell
		}
		if t.kind == ';' {
			words, last = 0, [4]token{}
			continue
		}
		if t.kind == 'w' {
			switch words++; words {
			case 1:
				first = sql[t.start:t.end]
			case 2:
				second = sql[t.start:t.end]
			}
		}
		copy(last[:], last[1:])
		last[3] = t
		if !spells(sql, last, "as", "of", "system", "time") {
			continue
		}
		c := asOfClause{start: last[0].start, exprStart: t.end,
			mode: wordIs(first, "begin") || wordIs(second, "transaction") && (wordIs(first, "start") || wordIs(first, "set"))}
		c.end = endOfAsOf(&s)
		if strings.TrimSpace(sql[c.exprStart:c.end]) == "" {
			return nil, pgerror.New(pgerrcode.SyntaxError, "syntax error: AS OF SYSTEM TIME needs an expression").At(charIndex(sql, c.start)).
				WithHint("Write a time such as '-10s' or '2026-01-31 12:00:00+00', or follower_read_timestamp().")
		}
		out = append(out, c)
		last = [4]token{}
	}
}

func spells(sql string, ts [4]token, words ...string) bool {
	for i, w := range words {
		if ts[i].kind != 'w' || !wordIs(sql[ts[i].start:ts[i].end], w) {
			return false
		}
	}
	return true
}

// endOfAsOf moves the scanner to the end of the clause's expression and returns that.
func endOfAsOf(s *scanner) int {
	depth, end := 0, s.pos
	for {
		at := s.pos
		t, ok := s.next()
		switch {
		case !ok:
			return max(end, min(s.pos, len(s.src)))
		case t.kind == '(' || t.kind == '[':
			depth++
		case (t.kind == ')' || t.kind == ']') && depth > 0:
			depth--
		case depth > 0:
		case t.kind == ')' || t.kind == ';' || t.kind == ',',
			t.kind == 'w' && slices.ContainsFunc(afterAsOf, func(w string) bool { return wordIs(s.src[t.start:t.end], w) }):
			s.pos = at
			return end
		}
		end = t.end
	}
}

// mentionsSystem is a cheap test for text that might hold the clause.
func mentionsSystem(sql string) bool {
	for i := 0; i+7 <= len(sql); i++ {
		if c := sql[i]; (c == 's' || c == 'S') && isSpace(sql[i+6]) && strings.EqualFold(sql[i:i+6], "system") {
			return true
		}
	}
	return false
}
