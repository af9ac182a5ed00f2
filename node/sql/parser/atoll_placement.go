package parser

import (
	"strings"

	"github.com/jackc/pgerrcode"
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
)

// CreatePolicy is CREATE PLACEMENT POLICY.
type CreatePolicy struct {
	Name                 string
	Replace, IfNotExists bool
	Definition           PolicyDefinition
}

// AlterPolicy is ALTER PLACEMENT POLICY: WITH changes the fields named, AS replaces all.
type AlterPolicy struct {
	Name       string
	Definition PolicyDefinition
}

// DropPolicy is DROP PLACEMENT POLICY.
type DropPolicy struct {
	Name     string
	IfExists bool
}

// PolicyDefinition is what stands after a policy's name: a whole file's text, or single fields.
// WITH has at least one option, so without options it was AS, even if the text is empty.
type PolicyDefinition struct {
	Text     string
	Options  []PolicyOption
	Location int // byte offset of WITH or AS in the query string
}

// PolicyOption is one k = v. A key that is not quoted is in lower case. Value is as written, a
// string literal without its quotes; Quoted says that it was one.
type PolicyOption struct {
	Key, Value string
	Quoted     bool
	Location   int // byte offset of the key in the query string
}

// PlacementKind is the kind of a PlacementObject.
type PlacementKind uint8

const (
	PlacementOfCluster PlacementKind = iota
	PlacementOfDatabase
	PlacementOfTable
	PlacementOfIndex
)

// String returns the kind's SQL.
func (k PlacementKind) String() string {
	return [...]string{"CLUSTER", "DATABASE", "TABLE", "INDEX"}[k]
}

// PlacementObject is what a policy can be bound to.
type PlacementObject struct {
	Kind     PlacementKind
	Name     string        // of a database
	Relation *ast.RangeVar // of a table or an index
}

// SetPolicy is ALTER CLUSTER | DATABASE | TABLE | INDEX ... SET PLACEMENT POLICY.
type SetPolicy struct {
	Object PlacementObject
	Policy string // empty: DEFAULT
}

// ShowPolicies is SHOW PLACEMENT POLICIES.
type ShowPolicies struct{}

// ShowPolicy is SHOW PLACEMENT POLICY.
type ShowPolicy struct{ Name string }

// ShowPlacement is SHOW PLACEMENT [FOR ...].
type ShowPlacement struct {
	Object *PlacementObject // nil: all
}

// ExplainPlacement is EXPLAIN PLACEMENT FOR ... [WITH POLICY ...].
type ExplainPlacement struct {
	Object PlacementObject
	Policy string // empty: the one in force
}

func (*CreatePolicy) atoll()     {}
func (*AlterPolicy) atoll()      {}
func (*DropPolicy) atoll()       {}
func (*SetPolicy) atoll()        {}
func (*ShowPolicies) atoll()     {}
func (*ShowPolicy) atoll()       {}
func (*ShowPlacement) atoll()    {}
func (*ExplainPlacement) atoll() {}

// placementParser reads one statement with one token of lookahead. A copy of it looks further.
type placementParser struct {
	sql string
	end int
	s   scanner
	tok token // kind 0 at the end
}

// parsePlacement parses a placement statement; nil for anything else.
func parsePlacement(sql string, p piece) (*Statement, error) {
	q := &placementParser{sql: sql, end: p.end, s: scanner{src: sql[:p.end], pos: p.start}}
	q.advance()
	parse := q.recognise()
	if parse == nil {
		return nil, nil
	}
	own, err := parse()
	if err != nil {
		return nil, err
	}
	if q.tok.kind != 0 {
		return nil, q.unexpected()
	}
	return ownStatement(sql, p, own), nil
}

// recognise moves over the words that make a statement one of these, and returns what parses
// the rest. It must leave to PostgreSQL all that PostgreSQL's grammar has.
func (q *placementParser) recognise() func() (AtollStatement, error) {
	switch {
	case q.accept("create", "placement"):
		return func() (AtollStatement, error) { return q.createPolicy(false) }
	case q.accept("create", "or", "replace", "placement"):
		return func() (AtollStatement, error) { return q.createPolicy(true) }
	case q.accept("alter", "placement"):
		return q.alterPolicy
	case q.accept("drop", "placement"):
		return q.dropPolicy
	case q.isShow() && q.accept("show", "placement"):
		return q.show
	case q.accept("explain", "placement"):
		return q.explain
	case q.isSetPolicy() && q.accept("alter"):
		return q.setPolicy
	}
	return nil
}

// isShow is false for SHOW placement.x, a parameter that an application made up.
func (q *placementParser) isShow() bool {
	ahead := *q
	return ahead.accept("show", "placement") && ahead.tok.kind != '.'
}

// isSetPolicy looks for ALTER, an object's name, and SET PLACEMENT. PostgreSQL has a meaning for
// some of that: in ALTER DATABASE d SET placement = 1 it is a parameter, in ALTER TABLE t ADD set
// placement the type of a column, in ALTER DATABASE d a set placement policy an option. With
// POLICY, an object that is not a name is ours too (ALTER TABLE IF EXISTS t), for the sake of the
// message.
func (q *placementParser) isSetPolicy() bool {
	ahead := *q
	if !ahead.accept("alter") {
		return false
	}
	kind, ok := ahead.objectKind()
	if !ok {
		return false
	}
	// A name ends before SET if it is one word, or if a dot is before its last word.
	last, beforeLast := byte('.'), byte(0)
	if kind == PlacementOfCluster {
		beforeLast = '.' // it has no name
	}
	for ahead.isIdentifier() || ahead.tok.kind == '.' {
		set := ahead
		if set.accept("set", "placement") &&
			(beforeLast == '.' && !set.isParameter() || kind != PlacementOfDatabase && set.isWord("policy")) {
			return true
		}
		last, beforeLast = ahead.tok.kind, last
		ahead.advance()
	}
	return false
}

// isParameter reports whether the word before was a parameter's name after SET.
func (q *placementParser) isParameter() bool {
	return q.tok.kind == '=' || q.tok.kind == '.' || q.isWord("to") || q.isWord("from")
}

// createPolicy parses what follows CREATE [OR REPLACE] PLACEMENT.
func (q *placementParser) createPolicy(replace bool) (AtollStatement, error) {
	own := &CreatePolicy{Replace: replace}
	err := q.expect("policy")
	if err != nil {
		return nil, err
	}
	at := q.tok
	if own.IfNotExists, err = q.option("if", "not", "exists"); err != nil {
		return nil, err
	}
	if own.IfNotExists && replace {
		return nil, syntaxAt(q.sql, at)
	}
	if own.Name, err = q.policy(); err != nil {
		return nil, err
	}
	own.Definition, err = q.definition()
	return own, err
}

// alterPolicy parses what follows ALTER PLACEMENT.
func (q *placementParser) alterPolicy() (AtollStatement, error) {
	own := &AlterPolicy{}
	err := q.expect("policy")
	if err != nil {
		return nil, err
	}
	if own.Name, err = q.policy(); err != nil {
		return nil, err
	}
	own.Definition, err = q.definition()
	return own, err
}

// dropPolicy parses what follows DROP PLACEMENT.
func (q *placementParser) dropPolicy() (AtollStatement, error) {
	own := &DropPolicy{}
	err := q.expect("policy")
	if err != nil {
		return nil, err
	}
	if own.IfExists, err = q.option("if", "exists"); err != nil {
		return nil, err
	}
	own.Name, err = q.policy()
	return own, err
}

// setPolicy parses what follows ALTER.
func (q *placementParser) setPolicy() (AtollStatement, error) {
	own := &SetPolicy{}
	var err error
	if own.Object, err = q.object(); err != nil {
		return nil, err
	}
	if err = q.expect("set", "placement", "policy"); err != nil {
		return nil, err
	}
	if !q.accept("default") {
		own.Policy, err = q.policy()
	}
	return own, err
}

// show parses what follows SHOW PLACEMENT.
func (q *placementParser) show() (AtollStatement, error) {
	switch {
	case q.accept("policies"):
		return &ShowPolicies{}, nil
	case q.accept("policy"):
		name, err := q.policy()
		return &ShowPolicy{Name: name}, err
	case q.accept("for"):
		object, err := q.object()
		return &ShowPlacement{Object: &object}, err
	}
	return &ShowPlacement{}, nil
}

// explain parses what follows EXPLAIN PLACEMENT.
func (q *placementParser) explain() (AtollStatement, error) {
	own := &ExplainPlacement{}
	err := q.expect("for")
	if err != nil {
		return nil, err
	}
	if own.Object, err = q.object(); err != nil || !q.accept("with") {
		return own, err
	}
	if err = q.expect("policy"); err != nil {
		return nil, err
	}
	own.Policy, err = q.policy()
	return own, err
}

// object parses CLUSTER | DATABASE d | TABLE [s.]t | INDEX [s.]i.
func (q *placementParser) object() (PlacementObject, error) {
	kind, ok := q.objectKind()
	if !ok {
		return PlacementObject{}, q.unexpected()
	}
	o := PlacementObject{Kind: kind}
	if kind == PlacementOfCluster {
		return o, nil
	}
	name, err := q.name(kind != PlacementOfDatabase)
	switch {
	case err != nil:
	case kind == PlacementOfDatabase:
		o.Name = name.Relname
	default:
		o.Relation = name
	}
	return o, err
}

func (q *placementParser) objectKind() (PlacementKind, bool) {
	for k := PlacementOfCluster; k <= PlacementOfIndex; k++ {
		if q.accept(strings.ToLower(k.String())) {
			return k, true
		}
	}
	return 0, false
}

// policy parses a policy's name. Most of those that Atoll brings hold a '-', so it can be a
// string too.
func (q *placementParser) policy() (string, error) {
	if q.tok.kind != '\'' {
		name, err := q.name(false)
		return name.GetRelname(), err
	}
	at := q.tok
	name, err := q.literal()
	if err == nil && name == "" {
		err = syntaxAt(q.sql, at)
	}
	return name, err
}

// name parses an identifier, or two with a dot between them. PostgreSQL's parser knows which
// words are reserved, how case folds and where a name is cut off. It gets the name alone:
// with the blanks of parsePadded, a long query string of such statements would take quadratic time.
func (q *placementParser) name(qualified bool) (*ast.RangeVar, error) {
	first := q.tok
	last, err := q.identifier()
	if err != nil {
		return nil, err
	}
	if qualified && q.tok.kind == '.' {
		q.advance()
		if last, err = q.identifier(); err != nil {
			return nil, err
		}
	}
	tree, err := pg.Parse("TABLE " + q.sql[first.start:last.end])
	if err != nil || len(tree.Stmts) != 1 {
		return nil, syntaxAt(q.sql, first)
	}
	from := tree.Stmts[0].Stmt.GetSelectStmt().GetFromClause()
	if len(from) != 1 || from[0].GetRangeVar() == nil {
		return nil, syntaxAt(q.sql, first)
	}
	name := from[0].GetRangeVar()
	name.Location = int32(first.start)
	return name, nil
}

// identifier moves over a word or a quoted identifier.
func (q *placementParser) identifier() (token, error) {
	t := q.tok
	if !q.isIdentifier() || q.sql[t.start:t.end] == `""` {
		return t, q.unexpected()
	}
	q.advance()
	return t, nil
}

// definition parses WITH (k = v, ...) | AS '...'.
func (q *placementParser) definition() (PolicyDefinition, error) {
	d := PolicyDefinition{Location: q.tok.start}
	var err error
	if q.accept("as") {
		d.Text, err = q.literal()
		return d, err
	}
	if err = q.expect("with"); err != nil {
		return d, err
	}
	given := map[string]bool{}
	for next := byte('('); next != ')'; {
		if err = q.punctuation(next); err != nil {
			return d, err
		}
		o, err := q.policyOption()
		if err != nil {
			return d, err
		}
		if given[o.Key] {
			return d, pgerror.New(pgerrcode.SyntaxError, "option %q is given twice", o.Key).At(charIndex(q.sql, o.Location))
		}
		given[o.Key] = true
		d.Options = append(d.Options, o)
		if next = ','; q.tok.kind != next {
			next = ')'
		}
	}
	return d, q.punctuation(')')
}

// policyOption parses k = v.
func (q *placementParser) policyOption() (PolicyOption, error) {
	key := q.tok
	o := PolicyOption{Location: key.start}
	switch {
	case key.kind == 'w':
		o.Key = lower(q.text())
	case key.kind == '"' && q.sql[key.start] == '"' && key.end-key.start > 2:
		o.Key = unquote(q.text())
	default:
		return o, q.unexpected()
	}
	q.advance()
	err := q.punctuation('=')
	if err != nil {
		return o, err
	}
	o.Quoted = q.tok.kind == '\''
	o.Value, err = q.value()
	return o, err
}

// value parses a string literal, a number with or without a sign, or a word.
func (q *placementParser) value() (string, error) {
	if q.tok.kind == '\'' {
		return q.literal()
	}
	sign := ""
	if q.tok.kind == '-' || q.tok.kind == '+' {
		sign = q.text()
		q.advance()
	}
	v := q.text()
	switch {
	case q.tok.kind == 'w' && sign == "":
	case q.tok.kind == '0' && strings.Count(v, ".") < 2:
	default:
		return "", q.unexpected()
	}
	q.advance()
	return sign + v, nil
}

// literal parses '...' or $$...$$. It leaves E'...' and its kin out: a policy's file has no
// need of them.
func (q *placementParser) literal() (string, error) {
	v := q.text()
	switch {
	case q.tok.kind != '\'':
		return "", q.unexpected()
	case v[0] == '\'':
		v = unquote(v)
	case v[0] == '$':
		tag := strings.IndexByte(v[1:], '$') + 2
		v = v[tag : len(v)-tag]
	default:
		return "", q.unexpected()
	}
	q.advance()
	return v, nil
}

// unquote takes the quotes off a string or an identifier; inside, one is written as two.
func unquote(s string) string {
	q := s[:1]
	return strings.ReplaceAll(s[1:len(s)-1], q+q, q)
}

// lower folds a word as PostgreSQL does with UTF-8: ASCII only.
func lower(w string) string {
	b := []byte(w)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func (q *placementParser) advance() {
	t, ok := q.s.next()
	if !ok {
		t = token{start: q.end, end: q.end}
	}
	q.tok = t
}

// text is the next token as it is written.
func (q *placementParser) text() string { return q.sql[q.tok.start:q.tok.end] }

func (q *placementParser) isIdentifier() bool { return q.tok.kind == 'w' || q.tok.kind == '"' }

func (q *placementParser) isWord(w string) bool { return q.tok.kind == 'w' && wordIs(q.text(), w) }

// accept moves over words if all of them are next.
func (q *placementParser) accept(words ...string) bool {
	ahead := *q
	for _, w := range words {
		if !ahead.isWord(w) {
			return false
		}
		ahead.advance()
	}
	*q = ahead
	return true
}

// expect moves over words that must be next.
func (q *placementParser) expect(words ...string) error {
	for _, w := range words {
		if !q.accept(w) {
			return q.unexpected()
		}
	}
	return nil
}

// option moves over words that can be left out. A policy may be named like the first of them:
// only the second shows that they are meant.
func (q *placementParser) option(words ...string) (bool, error) {
	if ahead := *q; !ahead.accept(words[:2]...) {
		return false, nil
	}
	return true, q.expect(words...)
}

// punctuation moves over one byte that must be next.
func (q *placementParser) punctuation(c byte) error {
	if q.tok.kind != c {
		return q.unexpected()
	}
	q.advance()
	return nil
}

// unexpected is the error for the next token.
func (q *placementParser) unexpected() error {
	if q.tok.kind != 0 {
		return syntaxAt(q.sql, q.tok)
	}
	return pgerror.New(pgerrcode.SyntaxError, "syntax error at end of input").At(charIndex(q.sql, q.end))
}
