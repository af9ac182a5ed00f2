package pgdiff

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// typ is a type that the generator makes values of.
type typ uint8

const (
	tInt typ = iota
	tBig
	tSmall
	tNum
	tFloat
	tText
	tVar
	tBool
	tDate
	tTS
	tTZ
	tUUID
	tJSON
	tBytea
	tChar
	ntypes
)

var typeNames = [...]string{"int", "bigint", "smallint", "numeric", "float8", "text", "varchar", "bool", "date", "timestamp", "timestamptz", "uuid", "jsonb", "bytea", "char(4)"}

// Literals of each type, with the values that are likely to be special.
var literals = [...][]string{
	tInt:   {"0", "1", "2", "3", "-1", "7", "10", "100", "2147483647", "(-2147483648)"},
	tBig:   {"0::bigint", "1::bigint", "5::bigint", "-3::bigint", "9223372036854775807", "(-9223372036854775808)", "3000000000"},
	tSmall: {"0::smallint", "1::int2", "2::int2", "(-5)::int2", "32767::int2"},
	tNum:   {"0.0", "1.5", "-2.25", "0.1", "3.00", "1e10", "'NaN'::numeric", "'Infinity'::numeric", "'-Infinity'::numeric", "12345.678900", "2::numeric"},
	tFloat: {"0::float8", "1.5::float8", "'NaN'::float8", "'Infinity'::float8", "'-Infinity'::float8", "-2.25::float8", "4::float8"},
	tText:  {"''", "'a'", "'b'", "'abc'", "'A'", "'äö'", "' x '", "'1'", "'a b'::text", "'zz'::text"},
	tVar:   {"''::varchar", "'a'::varchar", "'abc'::varchar(2)", "'B'::varchar(5)", "'abc '::varchar"},
	tBool:  {"true", "false"},
	tDate:  {"date '2024-02-29'", "date '2020-01-01'", "date 'infinity'", "date '1999-12-31'", "date '0044-03-15 BC'", "date '-infinity'"},
	tTS:    {"timestamp '2024-02-29 12:34:56.789'", "timestamp '2020-01-01'", "timestamp '-infinity'", "timestamp '1999-12-31 23:59:59.999999'"},
	tTZ:    {"timestamptz '2024-03-31 01:30:00+00'", "timestamptz '2020-06-01 00:00:00+02'", "timestamptz 'infinity'", "timestamptz '2024-10-27 02:30:00'"},
	tUUID:  {"uuid '6f6fbd5e-3d1c-4d5f-9a5d-6f2f2b8f6a10'", "uuid '00000000-0000-0000-0000-000000000000'", "uuid 'ffffffff-ffff-ffff-ffff-ffffffffffff'"},
	tJSON: {`jsonb '{"a": 1, "b": [1, 2, null]}'`, `jsonb '[]'`, `jsonb '{}'`, `jsonb '"x"'`, `jsonb '1.50'`, `jsonb 'null'`,
		`jsonb '[1, {"a": "b"}, true]'`, `jsonb '{"b": 2, "a": {"c": null}}'`},
	tBytea: {`''::bytea`, `'\x00'::bytea`, `'\x61ff'::bytea`, `'abc'::bytea`},
	tChar:  {"'a'::char(4)", "'ab'::char(4)", "' '::char(4)", "'abcd'::char(4)"},
}

// column is a column in reach.
type column struct {
	name string // as it is referred to
	typ  typ
}

// gen makes random statements. The same seed makes the same ones.
type gen struct {
	r      *rand.Rand
	tables []table
	alias  int
	scopes [][]column // innermost last
	// inAgg: aggregates are not allowed (again); noSub: no subqueries either.
	noSub bool
	// safe: leave out what may fail at run time, so that the order of evaluation does not show.
	safe bool
}

type table struct {
	name string
	cols []column
	// keys are the unique keys, for ON CONFLICT.
	keys []string
}

func (g *gen) n(n int) int           { return g.r.IntN(n) }
func (g *gen) one(p float64) bool    { return g.r.Float64() < p }
func (g *gen) typ() typ              { return typ(g.n(int(ntypes))) }
func pick[T any](g *gen, l ...T) T   { return l[g.n(len(l))] }
func (g *gen) number() typ           { return pick(g, tInt, tInt, tBig, tSmall, tNum, tFloat) }
func (g *gen) stringy() typ          { return pick(g, tText, tText, tVar, tChar) }
func (g *gen) newAlias() string      { g.alias++; return fmt.Sprintf("x%d", g.alias) }
func (g *gen) scope() []column       { return g.scopes[len(g.scopes)-1] }
func (g *gen) push(cols []column)    { g.scopes = append(g.scopes, cols) }
func (g *gen) pop()                  { g.scopes = g.scopes[:len(g.scopes)-1] }
func join(l []string) string         { return strings.Join(l, ", ") }
func f(s string, args ...any) string { return fmt.Sprintf(s, args...) }

func (g *gen) literal(t typ) string {
	if g.one(0.08) {
		return "NULL::" + typeNames[t]
	}
	return pick(g, literals[t]...)
}

// col finds a column of a type, mostly of the innermost query.
func (g *gen) col(t typ) (string, bool) {
	for i := len(g.scopes) - 1; i >= 0; i-- {
		var l []string
		for _, c := range g.scopes[i] {
			if c.typ == t {
				l = append(l, c.name)
			}
		}
		if len(l) > 0 && (i == 0 || g.one(0.75)) {
			return pick(g, l...), true
		}
	}
	return "", false
}

func (g *gen) leaf(t typ) string {
	if g.one(0.75) {
		if c, ok := g.col(t); ok {
			return c
		}
	}
	return g.literal(t)
}

// expr makes an expression of a type.
func (g *gen) expr(t typ, depth int) string {
	if depth <= 0 || g.one(0.2) {
		return g.leaf(t)
	}
	d := depth - 1
	switch g.n(14) {
	case 0:
		return f("coalesce(%s, %s)", g.expr(t, d), g.expr(t, d))
	case 1:
		return f("CASE WHEN %s THEN %s %sEND", g.expr(tBool, d), g.expr(t, d), pick(g, "", "ELSE "+g.expr(t, d)+" "))
	case 2:
		u := g.typ()
		return f("CASE %s WHEN %s THEN %s WHEN %s THEN %s ELSE %s END", g.expr(u, d), g.expr(u, d), g.expr(t, d), g.leaf(u), g.leaf(t), g.expr(t, d))
	case 3:
		if t == tJSON {
			break
		}
		return f("nullif(%s, %s)", g.expr(t, d), g.expr(t, d))
	case 4:
		return f("%s(%s, %s)", pick(g, "greatest", "least"), g.expr(t, d), g.expr(t, d))
	case 5:
		if !g.noSub && len(g.scopes) < 4 {
			return g.scalarSubquery(t, d)
		}
	}
	return g.typed(t, d)
}

// typed makes an expression by the operators and functions of its type.
func (g *gen) typed(t typ, d int) string {
	switch t {
	case tInt, tBig, tSmall:
		return g.integer(t, d)
	case tNum:
		return g.numeric(d)
	case tFloat:
		return g.float(d)
	case tText:
		return g.text(d)
	case tVar:
		return pick(g, f("(%s)::varchar", g.expr(tText, d)), f("(%s)::varchar(3)", g.expr(g.stringy(), d)), g.leaf(tVar))
	case tChar:
		return pick(g, f("(%s)::char(4)", g.expr(tText, d)), g.leaf(tChar))
	case tBool:
		return g.boolean(d)
	case tDate, tTS, tTZ:
		return g.time(t, d)
	case tUUID:
		return g.leaf(tUUID)
	case tJSON:
		return g.json(d)
	}
	return pick(g, f("(%s || %s)", g.expr(tBytea, d), g.expr(tBytea, d)), f("substr(%s, %d)", g.expr(tBytea, d), 1+g.n(3)),
		f("convert_to(%s, 'UTF8')", g.expr(tText, d)), f("decode(md5(%s), 'hex')", g.expr(tText, d)))
}

func (g *gen) integer(t typ, d int) string {
	e := func() string { return g.expr(t, d) }
	var s string
	switch g.n(12) {
	case 0, 1, 2:
		if g.safe {
			s = f("(%s %s %s)", e(), pick(g, "&", "|", "#"), e())
		} else {
			s = f("(%s %s %s)", e(), pick(g, "+", "-", "*"), e())
		}
	case 3:
		if g.safe {
			s = f("(%s / (%s | 8))", g.leaf(t), g.leaf(tInt))
		} else {
			s = f("(%s %s %s)", e(), pick(g, "/", "%"), e())
		}
	case 4:
		if !g.safe {
			return f("%s(%s)", pick(g, "abs", "-", "~", "+"), e())
		}
		return f("(~ %s)", e())
	case 5:
		s = f("length(%s)", g.expr(g.stringy(), d))
	case 6:
		s = f("(%s)::int", g.expr(tBool, d))
	case 7:
		if g.safe {
			s = f("octet_length(%s)", g.expr(tBytea, d))
		} else {
			s = f("(%s)::%s", g.expr(g.number(), d), typeNames[t])
		}
	case 8:
		s = f("strpos(%s, %s)", g.expr(tText, d), g.expr(tText, d))
	case 9:
		s = f("extract(%s FROM %s)::int", pick(g, "year", "month", "day", "dow", "doy", "week", "quarter", "isodow"), g.leafFinite(pick(g, tDate, tTS, tTZ)))
	case 10:
		s = f("(%s - %s)", g.leafFinite(tDate), g.leafFinite(tDate))
	default:
		s = f("ascii(%s)", g.expr(tText, d))
	}
	if t != tInt {
		if t == tSmall {
			s = f("((%s) & 1023)", s)
		}
		s = f("(%s)::%s", s, typeNames[t])
	}
	return s
}

func (g *gen) leafFinite(t typ) string {
	return f("nullif(nullif(%s, 'infinity'), '-infinity')", g.leaf(t))
}

func (g *gen) numeric(d int) string {
	e := func() string { return g.expr(tNum, d) }
	if g.safe {
		return pick(g, f("(%s + %s)", e(), e()), f("(%s - %s)", e(), e()), f("(%s)::numeric", g.expr(pick(g, tInt, tBig, tSmall), d)),
			f("abs(%s)", e()), f("round(%s, 1)", g.leaf(tNum)), f("sign(%s)", e()), f("(- %s)", e()), f("trunc(%s)", g.leaf(tNum)), f("ceil(%s)", g.leaf(tNum)))
	}
	switch g.n(9) {
	case 0, 1:
		return f("(%s %s %s)", e(), pick(g, "+", "-", "*"), e())
	case 2:
		return f("(%s %s %s)", e(), pick(g, "/", "%"), e())
	case 3:
		return f("(%s)::numeric", g.expr(g.number(), d))
	case 4:
		return f("%s(%s)", pick(g, "round", "trunc", "ceil", "floor", "abs", "sign", "-"), e())
	case 5:
		return f("round(%s, %d)", e(), g.n(5)-2)
	case 6:
		return f("(%s)::numeric(8,%d)", e(), g.n(4))
	case 7:
		return f("(%s + %s)", e(), g.expr(tInt, d))
	}
	return f("div(%s, %s)", e(), e())
}

func (g *gen) float(d int) string {
	e := func() string { return g.expr(tFloat, d) }
	if g.safe {
		return pick(g, f("abs(%s)", e()), f("(%s)::float8", g.expr(pick(g, tInt, tSmall), d)), f("floor(%s)", g.leaf(tFloat)))
	}
	switch g.n(7) {
	case 0, 1:
		return f("(%s %s %s)", e(), pick(g, "+", "-", "*", "/"), e())
	case 2:
		return f("(%s)::float8", g.expr(g.number(), d))
	case 3:
		return f("%s(%s)", pick(g, "abs", "floor", "ceil", "round", "trunc", "sign"), e())
	case 4:
		return f("sqrt(abs(%s))", e())
	case 5:
		return f("(%s * %s)", e(), g.expr(tInt, d))
	}
	return f("extract(epoch FROM %s)::float8", g.leafFinite(tTS))
}

func (g *gen) text(d int) string {
	e := func() string { return g.expr(g.stringy(), d) }
	switch g.n(16) {
	case 0, 1:
		return f("(%s || %s)", g.expr(tText, d), e())
	case 2:
		return f("%s(%s)", pick(g, "upper", "lower", "trim", "ltrim", "rtrim", "reverse", "initcap", "md5", "quote_literal", "quote_ident"), e())
	case 3:
		return f("substr(%s, %d, %d)", e(), g.n(5)-1, g.n(4))
	case 4:
		return f("(%s)::text", g.expr(g.typ(), d))
	case 5:
		return f("replace(%s, %s, %s)", e(), e(), e())
	case 6:
		return f("%s(%s, %d)", pick(g, "left", "right", "repeat"), e(), g.n(6)-2)
	case 7:
		return f("concat(%s, %s, %s)", g.expr(g.typ(), d), g.expr(g.typ(), d), e())
	case 8:
		return f("%s(%s, %d, %s)", pick(g, "lpad", "rpad"), e(), g.n(8), e())
	case 9:
		return f("split_part(%s, 'a', %d)", e(), 1+g.n(3))
	case 10:
		return f("concat_ws('-', %s, %s, %s)", g.expr(g.typ(), d), e(), e())
	case 11:
		return f("(%s ->> %s)", g.expr(tJSON, d), pick(g, "'a'", "'b'", "0", "-1"))
	case 12:
		return f("to_char(%s, %s)", g.leafFinite(pick(g, tTS, tTZ)), pick(g, "'YYYY-MM-DD HH24:MI:SS.US'", "'Day, DD Mon YYYY'", "'IYYY-IW-ID J Q'", "'FMHH12:MI am TZ'"))
	case 13:
		return f("translate(%s, 'abA', 'xy')", e())
	case 14:
		return f("jsonb_typeof(%s)", g.expr(tJSON, d))
	}
	return f("encode(%s, %s)", g.expr(tBytea, d), pick(g, "'hex'", "'base64'", "'escape'"))
}

var comparisons = []string{"=", "<>", "<", "<=", ">", ">="}

func (g *gen) boolean(d int) string {
	e := func() string { return g.expr(tBool, d) }
	switch g.n(22) {
	case 0, 1, 2, 3, 4:
		t := g.typ()
		return f("(%s %s %s)", g.expr(t, d), pick(g, comparisons...), g.expr(t, d))
	case 5:
		return f("(%s %s %s)", g.expr(g.number(), d), pick(g, comparisons...), g.expr(g.number(), d))
	case 6:
		return f("(%s AND %s)", e(), e())
	case 7:
		return f("(%s OR %s)", e(), e())
	case 8:
		return f("(NOT %s)", e())
	case 9:
		return f("(%s IS %sNULL)", g.expr(g.typ(), d), pick(g, "", "NOT "))
	case 10:
		return f("(%s IS %s%s)", e(), pick(g, "", "NOT "), pick(g, "TRUE", "FALSE", "UNKNOWN"))
	case 11:
		t := g.typ()
		return f("(%s %sIN (%s, %s, %s))", g.expr(t, d), pick(g, "", "NOT "), g.leaf(t), g.leaf(t), g.leaf(t))
	case 12:
		t := g.typ()
		return f("(%s %sBETWEEN %s%s AND %s)", g.expr(t, d), pick(g, "", "NOT "), pick(g, "", "SYMMETRIC "), g.expr(t, d), g.expr(t, d))
	case 13:
		t := g.typ()
		return f("(%s IS %sDISTINCT FROM %s)", g.expr(t, d), pick(g, "", "NOT "), g.expr(t, d))
	case 14:
		return f("(%s %s%s %s)", g.expr(g.stringy(), d), pick(g, "", "NOT "), pick(g, "LIKE", "ILIKE"), pick(g, "'a%'", "'%b%'", "'_'", "'A__'", "''", "'%'", g.leaf(tText)+" || '%'"))
	case 15:
		return f("(%s %s %s)", g.expr(tText, d), pick(g, "~", "!~", "~*"), pick(g, "'^a'", "'[bc]+$'", "'a|B'", "'\\s'", "'^$'"))
	case 16:
		if !g.noSub && len(g.scopes) < 4 {
			return g.existsSubquery(d)
		}
	case 17:
		if !g.noSub && len(g.scopes) < 4 {
			return g.inSubquery(d)
		}
	case 18:
		t, u := g.typ(), g.typ()
		return f("((%s, %s) %s (%s, %s))", g.leaf(t), g.leaf(u), pick(g, comparisons...), g.leaf(t), g.leaf(u))
	case 19:
		return f("(%s %s %s)", g.expr(tJSON, d), pick(g, "@>", "<@"), g.expr(tJSON, d))
	case 20:
		t := pick(g, tInt, tText, tNum, tDate, tBool)
		return f("(%s %s %s(ARRAY[%s, %s]))", g.expr(t, d), pick(g, comparisons...), pick(g, "ANY", "ALL"), g.leaf(t), g.leaf(t))
	}
	return g.leaf(tBool)
}

func (g *gen) time(t typ, d int) string {
	unit := pick(g, "'year'", "'month'", "'week'", "'day'", "'hour'", "'quarter'", "'decade'")
	iv := pick(g, "interval '1 day'", "interval '1 month'", "interval '-90 minutes'", "interval '1 year 2 mons 3 days 04:05:06.7'")
	switch t {
	case tDate:
		return pick(g, f("(%s)::date", g.expr(pick(g, tTS, tTZ), d)), f("(%s + %d)", g.leaf(tDate), g.n(100)-50), g.leaf(tDate), "make_date(2024, 2, 29)")
	case tTS:
		return pick(g, f("(%s + %s)", g.expr(pick(g, tDate, tTS), d), iv), f("date_trunc(%s, %s)", unit, g.expr(tTS, d)), f("(%s)::timestamp", g.expr(pick(g, tDate, tTZ), d)),
			f("(%s AT TIME ZONE 'America/New_York')", g.expr(tTZ, d)), f("(%s)::timestamp(1)", g.leaf(tTS)))
	}
	return pick(g, f("(%s - %s)", g.expr(tTZ, d), iv), f("date_trunc(%s, %s)", unit, g.expr(tTZ, d)), f("(%s)::timestamptz", g.expr(pick(g, tDate, tTS), d)),
		f("(%s AT TIME ZONE 'Asia/Tokyo')", g.expr(tTS, d)))
}

func (g *gen) json(d int) string {
	e := func() string { return g.expr(tJSON, d) }
	return pick(g, f("(%s -> %s)", e(), pick(g, "'a'", "'b'", "0", "1", "-1")), f("(%s #> '{a,c}')", e()), f("jsonb_build_object('k', %s, 'l', %s)", g.expr(g.typ(), d), e()),
		f("jsonb_build_array(%s, %s)", g.expr(g.typ(), d), e()), f("to_jsonb(%s)", g.expr(g.typ(), d)), g.leaf(tJSON), f("jsonb_strip_nulls(%s)", e()))
}
