package pgdiff

import (
	"strings"
)

// source is a FROM item with the columns that it brings.
type source struct {
	sql  string
	cols []column
}

// from makes a FROM clause of up to n items.
func (g *gen) from(n, depth int) source {
	s := g.fromItem(depth)
	for i := 1; i < n; i++ {
		r := g.fromItem(depth)
		both := append(append([]column(nil), s.cols...), r.cols...)
		kind := pick(g, "JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN", ",")
		switch kind {
		case "CROSS JOIN":
			s = source{f("%s CROSS JOIN %s", s.sql, r.sql), both}
		case ",":
			// A comma binds weaker than JOIN: only the last may follow.
			if i < n-1 {
				s = source{f("%s JOIN %s ON %s", s.sql, r.sql, g.on(s.cols, r.cols, depth)), both}
				continue
			}
			s = source{f("%s, %s", s.sql, r.sql), both}
		case "FULL JOIN":
			s = source{f("%s FULL JOIN %s ON %s", s.sql, r.sql, g.equality(s.cols, r.cols)), both}
		default:
			s = source{f("%s %s %s ON %s", s.sql, kind, r.sql, g.on(s.cols, r.cols, depth)), both}
		}
	}
	return s
}

// equality makes l = r over columns of the two sides.
func (g *gen) equality(l, r []column) string {
	if len(l) == 0 || len(r) == 0 {
		return "true"
	}
	for range 20 {
		a, b := pick(g, l...), pick(g, r...)
		ints := func(t typ) bool { return t <= tSmall }
		if a.typ == b.typ || ints(a.typ) && ints(b.typ) {
			return f("%s = %s", a.name, b.name)
		}
	}
	return "true"
}

func (g *gen) on(l, r []column, depth int) string {
	cond := g.equality(l, r)
	g.push(append(append([]column(nil), l...), r...))
	defer g.pop()
	switch g.n(4) {
	case 0:
		return f("%s AND %s", cond, g.expr(tBool, depth-1))
	case 1:
		return g.expr(tBool, depth-1)
	case 2:
		return f("%s AND %s", cond, g.equality(l, r))
	}
	return cond
}

func (g *gen) fromItem(depth int) source {
	a := g.newAlias()
	if depth > 1 && g.one(0.2) {
		sub, cols := g.selectOf(depth-1, 1+g.n(4))
		for i := range cols {
			cols[i].name = a + "." + cols[i].name
		}
		return source{f("(%s) AS %s", sub, a), cols}
	}
	if g.one(0.05) {
		t := g.typ()
		return source{f("(VALUES (%s, 1), (%s, 2), (NULL, 3)) AS %s(v, w)", g.literal(t), g.literal(t), a), []column{{a + ".v", t}, {a + ".w", tInt}}}
	}
	t := pick(g, g.tables...)
	cols := make([]column, len(t.cols))
	for i, c := range t.cols {
		cols[i] = column{a + "." + c.name, c.typ}
	}
	return source{t.name + " AS " + a, cols}
}

// selectOf makes a SELECT of n columns that are named c1, c2 ...
func (g *gen) selectOf(depth, n int) (string, []column) {
	types := make([]typ, n)
	for i := range types {
		types[i] = g.typ()
	}
	return g.selectTypes(depth, types)
}

func named(types []typ) []column {
	var out []column
	for i, t := range types {
		out = append(out, column{f("c%d", i+1), t})
	}
	return out
}

// selectTypes makes a SELECT that yields columns of the given types.
func (g *gen) selectTypes(depth int, types []typ) (string, []column) {
	if depth > 1 && g.one(0.12) {
		l, _ := g.selectTypes(depth-1, types)
		r, _ := g.selectTypes(depth-1, types)
		op := pick(g, "UNION", "UNION ALL", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL")
		return f("(%s) %s (%s)", l, op, r), named(types)
	}
	src := g.from(1+g.n(3), depth)
	g.push(src.cols)
	defer g.pop()
	if g.one(0.3) {
		return g.grouped(src, depth, types), named(types)
	}
	var list []string
	for i, t := range types {
		list = append(list, f("%s AS c%d", g.expr(t, depth), i+1))
	}
	s := "SELECT " + pick(g, "", "", "", "DISTINCT ") + join(list) + " FROM " + src.sql
	return s + g.where(depth), named(types)
}

func (g *gen) where(depth int) string {
	switch g.n(4) {
	case 0:
		return ""
	case 1:
		return " WHERE " + g.sargable()
	case 2:
		return f(" WHERE %s AND %s", g.sargable(), g.expr(tBool, depth-1))
	}
	return " WHERE " + g.expr(tBool, depth)
}

// sargable is a condition that an index may serve.
func (g *gen) sargable() string {
	c := pick(g, g.scope()...)
	switch g.n(6) {
	case 0:
		return f("%s IS %sNULL", c.name, pick(g, "", "NOT "))
	case 1:
		return f("%s IN (%s, %s)", c.name, g.literal(c.typ), g.literal(c.typ))
	case 2:
		return f("%s >= %s AND %s < %s", c.name, g.literal(c.typ), c.name, g.literal(c.typ))
	}
	if c.typ <= tSmall {
		return f("%s %s %s", c.name, pick(g, comparisons...), g.literal(pick(g, tInt, tBig, tSmall, tNum)))
	}
	return f("%s %s %s", c.name, pick(g, comparisons...), g.literal(c.typ))
}

// grouped makes a SELECT with GROUP BY, or aggregates over all.
func (g *gen) grouped(src source, depth int, types []typ) string {
	var keys []column
	var exprs []string
	for range g.n(3) {
		if g.one(0.6) {
			c := pick(g, src.cols...)
			keys, exprs = append(keys, c), append(exprs, c.name)
		}
	}
	where := g.where(depth)
	var list []string
	aggs := func() func(typ) string {
		inner := src.cols
		return func(t typ) string {
			g.push(inner)
			defer g.pop()
			return g.aggregate(t)
		}
	}()
	// Above the grouping only its keys are in reach, and aggregates.
	outer := g.scopes[len(g.scopes)-1]
	g.scopes[len(g.scopes)-1] = keys
	old := g.noSub
	g.noSub = true
	for i, t := range types {
		e := aggs(t)
		if _, ok := g.col(t); ok && g.one(0.4) {
			e = g.expr(t, 1)
		} else if g.one(0.2) {
			e = f("coalesce(%s, %s)", e, g.literal(t))
		}
		list = append(list, f("%s AS c%d", e, i+1))
	}
	having := ""
	if g.one(0.3) {
		having = f(" HAVING %s %s %s", aggs(tBig), pick(g, comparisons...), g.literal(tInt))
	}
	g.noSub = old
	g.scopes[len(g.scopes)-1] = outer
	s := "SELECT " + join(list) + " FROM " + src.sql + where
	if len(exprs) > 0 {
		s += " GROUP BY " + join(exprs)
	}
	return s + having
}

// aggregate makes an aggregate of a type. Float sums are left out: their last digit depends
// on the order.
func (g *gen) aggregate(t typ) string {
	// Only columns of its own query: one of an outer query's columns would be that one's.
	oldSub, oldScopes := g.noSub, g.scopes
	g.noSub, g.scopes = true, [][]column{g.scope()}
	defer func() { g.noSub, g.scopes = oldSub, oldScopes }()
	arg := func(t typ) string {
		if g.one(0.6) {
			return g.leaf(t)
		}
		return g.expr(t, 1)
	}
	var s string
	switch t {
	case tBig:
		switch g.n(4) {
		case 0:
			s = "count(*)"
		case 1:
			s = f("count(%s)", arg(g.typ()))
		case 2:
			u := g.typ()
			s = f("count(DISTINCT %s)", arg(u))
		default:
			s = f("sum(%s)", arg(tSmall))
		}
	case tNum:
		s = pick(g, f("sum(%s)", arg(pick(g, tNum, tBig))), f("avg(%s)", arg(pick(g, tInt, tBig, tSmall))), f("sum(DISTINCT %s)", arg(tNum)), f("max(%s)", arg(tNum)))
	case tBool:
		s = pick(g, f("bool_and(%s)", arg(tBool)), f("bool_or(%s)", arg(tBool)), f("every(%s)", arg(tBool)))
	case tText:
		e := arg(tText)
		s = pick(g, f("min(%s)", e), f("max(%s)", e), f("string_agg(%s, ',' ORDER BY %s)", e, e))
	case tVar:
		return f("max(%s)::varchar", arg(tVar))
	case tJSON:
		e := arg(pick(g, tInt, tText, tNum))
		return f("jsonb_agg(%s ORDER BY %s)", e, e)
	case tUUID, tBytea:
		e := arg(t)
		return f("(array_agg(%s ORDER BY %s))[1]", e, e)
	case tInt, tSmall, tFloat, tDate, tTS, tTZ, tChar:
		s = f("%s(%s)", pick(g, "min", "max"), arg(t))
		if t == tChar {
			return s + "::char(4)"
		}
	}
	if g.one(0.15) {
		s += f(" FILTER (WHERE %s)", arg(tBool))
	}
	return s
}

func (g *gen) scalarSubquery(t typ, depth int) string {
	src := g.from(1, 1)
	g.push(src.cols)
	defer g.pop()
	if g.one(0.5) {
		return f("(SELECT %s FROM %s%s)", g.aggregate(t), src.sql, g.where(depth))
	}
	e := g.leaf(t)
	return f("(SELECT %s FROM %s%s ORDER BY %s LIMIT 1)", e, src.sql, g.where(depth), e)
}

func (g *gen) existsSubquery(depth int) string {
	src := g.from(1+g.n(2), 1)
	g.push(src.cols)
	defer g.pop()
	where := g.where(depth)
	if len(g.scopes) > 1 && g.one(0.6) {
		where = " WHERE " + g.equality(src.cols, g.scopes[len(g.scopes)-2])
		if g.one(0.4) {
			where += " AND " + g.expr(tBool, depth-1)
		}
	}
	return f("(%sEXISTS (SELECT %s FROM %s%s))", pick(g, "", "NOT "), pick(g, "1", "*"), src.sql, where)
}

func (g *gen) inSubquery(depth int) string {
	t := g.typ()
	l := g.expr(t, depth-1)
	src := g.from(1, 1)
	g.push(src.cols)
	defer g.pop()
	e := g.leaf(t)
	if g.one(0.2) {
		return f("(%s %s %s (SELECT %s FROM %s%s))", l, pick(g, comparisons...), pick(g, "ANY", "ALL"), e, src.sql, g.where(depth))
	}
	return f("(%s %sIN (SELECT %s FROM %s%s))", l, pick(g, "", "NOT "), e, src.sql, g.where(depth))
}

// Query is one generated statement.
type Query struct {
	SQL     string
	Ordered bool
	// Strict: it has no table, so that nothing depends on an order of evaluation.
	Strict bool
}

// query makes a SELECT.
func (g *gen) query() Query {
	g.alias, g.scopes, g.noSub = 0, [][]column{nil}, false
	g.safe = g.one(0.7)
	if g.one(0.25) {
		g.noSub, g.safe = true, false
		var l []string
		for range 1 + g.n(2) {
			l = append(l, g.expr(g.typ(), 3))
		}
		return Query{SQL: "SELECT " + join(l), Strict: true}
	}
	n := 1 + g.n(4)
	depth := 1 + g.n(3)
	with := ""
	if g.one(0.1) {
		sub, cols := g.selectOf(depth, 2)
		with = f("WITH w AS %s(%s) ", pick(g, "", "MATERIALIZED ", "NOT MATERIALIZED "), sub)
		g.tables = append(g.tables, table{name: "w", cols: cols})
		defer func() { g.tables = g.tables[:len(g.tables)-1] }()
	}
	if g.one(0.1) {
		return Query{SQL: with + g.windowed(depth)}
	}
	s, cols := g.selectOf(depth, n)
	if g.one(0.5) {
		return Query{SQL: with + s}
	}
	var keys []string
	for i := range cols {
		keys = append(keys, f("%d%s", i+1, pick(g, "", "", " DESC", " NULLS FIRST", " DESC NULLS LAST")))
	}
	g.r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	s += " ORDER BY " + join(keys)
	if g.one(0.5) {
		s += f(" LIMIT %d", g.n(8))
	}
	if g.one(0.2) {
		s += f(" OFFSET %d", g.n(5))
	}
	return Query{SQL: with + s, Ordered: true}
}

// windowed makes a SELECT with window functions over a total order.
func (g *gen) windowed(depth int) string {
	src := g.from(1, 1)
	g.push(src.cols)
	defer g.pop()
	a, _, _ := strings.Cut(src.cols[0].name, ".")
	if !strings.Contains(src.sql, " AS ") || strings.HasPrefix(src.sql, "(") || strings.HasPrefix(src.sql, "w ") {
		return "SELECT count(*) FROM " + src.sql + g.where(depth)
	}
	p := pick(g, src.cols...).name
	over := f("OVER (PARTITION BY %s ORDER BY %s%s, %s.id)", p, pick(g, src.cols...).name, pick(g, "", " DESC", " NULLS FIRST"), a)
	frame := f("OVER (ORDER BY %s.id %s)", a, pick(g, "", "ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING", "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
		"ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING"))
	t := g.typ()
	l := []string{a + ".id"}
	for range 1 + g.n(3) {
		l = append(l, pick(g, "row_number() "+over, "rank() "+over, "dense_rank() "+over, f("lag(%s) %s", g.leaf(t), over), f("lead(%s, 2) %s", g.leaf(t), over),
			"ntile(3) "+over, f("first_value(%s) %s", g.leaf(t), frame), f("last_value(%s) %s", g.leaf(t), frame), f("sum(%s) %s", g.leaf(tInt), frame),
			f("count(%s) %s", g.leaf(t), frame), f("min(%s) %s", g.leaf(tText), frame), f("avg(%s) %s", g.leaf(tInt), frame)))
	}
	return "SELECT " + join(l) + " FROM " + src.sql + g.where(depth)
}

// write makes an INSERT, UPDATE or DELETE with RETURNING.
func (g *gen) write() string {
	g.alias, g.scopes, g.noSub, g.safe = 0, [][]column{nil}, false, true
	t := pick(g, g.tables...)
	cols := func(prefix string) []column {
		out := make([]column, len(t.cols))
		for i, c := range t.cols {
			out[i] = column{prefix + c.name, c.typ}
		}
		return out
	}
	set := func() string {
		var l []string
		used := map[string]bool{}
		for range 1 + g.n(3) {
			c := t.cols[1+g.n(len(t.cols)-1)]
			if used[c.name] {
				continue
			}
			used[c.name] = true
			l = append(l, f("%s = %s", c.name, g.expr(c.typ, 2)))
		}
		return join(l)
	}
	switch g.n(6) {
	case 0:
		g.push(cols(t.name + "."))
		return f("UPDATE %s SET %s%s RETURNING *", t.name, set(), g.where(2))
	case 1:
		// At most one row of the other table for each: the choice would not be determined.
		o := pick(g, g.tables...)
		oc := make([]column, len(o.cols))
		for i, c := range o.cols {
			oc[i] = column{"o." + c.name, c.typ}
		}
		g.push(append(cols(t.name+"."), oc...))
		return f("UPDATE %s SET %s FROM %s AS o WHERE %s.id = o.id AND %s RETURNING *", t.name, set(), o.name, t.name, g.sargable())
	case 2:
		g.push(cols(t.name + "."))
		return f("DELETE FROM %s%s RETURNING *", t.name, g.where(2))
	case 3:
		o := pick(g, g.tables...)
		oc := make([]column, len(o.cols))
		for i, c := range o.cols {
			oc[i] = column{"o." + c.name, c.typ}
		}
		own := cols(t.name + ".")
		cond := g.equality(own, oc)
		g.push(append(own, oc...))
		return f("DELETE FROM %s USING %s AS o WHERE %s AND %s RETURNING %s.*", t.name, o.name, cond, g.sargable(), t.name)
	}
	var names, values []string
	g.push(nil)
	for _, c := range t.cols {
		names = append(names, c.name)
	}
	rows := 1 + g.n(3)
	base := g.n(40)
	for i := range rows {
		var l []string
		for j, c := range t.cols {
			if j == 0 {
				l = append(l, f("%d", base+i))
				continue
			}
			l = append(l, g.expr(c.typ, 1))
		}
		values = append(values, "("+join(l)+")")
	}
	s := f("INSERT INTO %s (%s) VALUES %s", t.name, join(names), join(values))
	switch g.n(4) {
	case 0:
		s += " ON CONFLICT DO NOTHING"
	case 1:
		s += f(" ON CONFLICT (%s) DO NOTHING", pick(g, t.keys...))
	case 2:
		g.push(append(cols(t.name+"."), cols("excluded.")...))
		g.noSub = true
		s += f(" ON CONFLICT (id) DO UPDATE SET %s", set())
		if g.one(0.4) {
			s += " WHERE " + g.expr(tBool, 1)
		}
	}
	return s + " RETURNING *"
}
