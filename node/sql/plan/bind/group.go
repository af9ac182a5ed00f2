package bind

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
)

func (b *Binder) bindGroup(q *selectBody) error {
	for _, n := range q.s.GroupClause {
		if gs := n.GetGroupingSet(); gs != nil {
			if gs.Kind == ast.GroupingSetKind_GROUPING_SET_EMPTY {
				continue
			}
			return b.unsupported(gs.Location, "GROUPING SETS, CUBE and ROLLUP")
		}
		e, err := b.groupItem(q, n)
		if err != nil {
			return err
		}
		if err := b.equatable(e.Type(), location(n)); err != nil {
			return err
		}
		dup := false
		for _, g := range q.group {
			dup = dup || equalExpr(g, e)
		}
		if !dup {
			q.group = append(q.group, e)
		}
	}
	if q.s.HavingClause != nil {
		x := &exprCtx{scope: q.sc, clause: "HAVING", level: q.lv, aggs: true}
		e, err := b.expr(x, q.s.HavingClause)
		if err != nil {
			return err
		}
		if q.having, err = b.boolean(e, "HAVING", location(q.s.HavingClause)); err != nil {
			return err
		}
	}
	return nil
}

// groupItem binds a GROUP BY item: an input column before an output name or position.
func (b *Binder) groupItem(q *selectBody, n *ast.Node) (expr.Expr, error) {
	x := &exprCtx{scope: q.sc, clause: "GROUP BY"}
	fromTarget := func(pos int) (expr.Expr, error) {
		t := q.at(pos)
		for id := range logical.FreeExpr(t.e) {
			for _, a := range q.lv.aggs {
				if a.Col.ID == id {
					return nil, b.errorf(t.loc, pgerrcode.GroupingError, "aggregate functions are not allowed in GROUP BY")
				}
			}
		}
		var err error
		t.e, err = b.textIfUnknown(t.e)
		return t.e, err
	}
	if cr := n.GetColumnRef(); cr != nil && len(cr.Fields) == 1 && cr.Fields[0].GetString_() != nil {
		local := &scope{items: q.sc.items}
		e, err := b.column(local, cr.Fields[0].GetString_().Sval, cr.Location)
		if err != nil || e != nil {
			return e, err
		}
	}
	cols := make([]logical.Column, len(q.targets))
	for i, t := range q.targets {
		cols[i].Name = t.name
	}
	pos, err := b.outputPosition(n, cols, "GROUP BY")
	if err != nil {
		return nil, err
	}
	if pos <= -2 {
		return nil, b.errorf(location(n), pgerrcode.AmbiguousColumn, "GROUP BY \"%s\" is ambiguous", q.targets[-2-pos].name)
	}
	if pos >= 0 {
		return fromTarget(pos)
	}
	e, err := b.expr(x, n)
	if err != nil {
		return nil, err
	}
	return b.textIfUnknown(e)
}

// each applies f to every expression above the grouping.
func (q *selectBody) each(f func(e expr.Expr, loc int32) (expr.Expr, error)) error {
	apply := func(e *expr.Expr, loc int32) error {
		n, err := f(*e, loc)
		*e = n
		return err
	}
	for _, l := range [][]target{q.targets, q.junk} {
		for i := range l {
			if err := apply(&l[i].e, l[i].loc); err != nil {
				return err
			}
		}
	}
	if q.having != nil {
		if err := apply(&q.having, -1); err != nil {
			return err
		}
	}
	for _, s := range q.lv.srfs {
		for i := range s.Args {
			if err := apply(&s.Args[i], -1); err != nil {
				return err
			}
		}
	}
	for _, w := range q.lv.wins {
		if err := w.each(apply); err != nil {
			return err
		}
	}
	return nil
}

// aggregateNode adds the grouping, and makes everything above refer to its columns.
func (b *Binder) aggregateNode(q *selectBody) error {
	grouped := len(q.s.GroupClause) > 0 || q.having != nil || len(q.lv.aggs) > 0
	if !grouped {
		return nil
	}
	agg := &logical.Agg{In: q.node, Calls: q.lv.aggs, Grouped: len(q.s.GroupClause) > 0}
	keys := logical.Set{}
	for _, g := range q.group {
		var c logical.Column
		if col, ok := g.(*expr.Col); ok {
			c = logical.Column{ID: col.ID, Name: col.Name, Typ: col.Typ, Mod: col.TMod}
		} else {
			c = logical.Column{ID: b.newID(), Name: "?column?", Typ: g.Type(), Mod: g.Mod()}
		}
		agg.Keys, agg.KeyExprs = append(agg.Keys, c), append(agg.KeyExprs, g)
		keys[c.ID] = struct{}{}
	}
	b.dependentKeys(q, agg, keys)
	q.node = agg
	err := q.each(func(e expr.Expr, loc int32) (expr.Expr, error) {
		e = replaceTop(e, func(x expr.Expr) expr.Expr {
			for i, g := range agg.KeyExprs {
				if _, plain := g.(*expr.Col); !plain && equalExpr(x, g) {
					return agg.Keys[i].Ref()
				}
			}
			return nil
		})
		return e, b.checkGrouped(q, e, keys, loc)
	})
	if err != nil {
		return err
	}
	if q.having != nil {
		q.node = &logical.Filter{In: q.node, Preds: expr.Conjuncts(q.having)}
	}
	return nil
}

// dependentKeys adds the other columns of a table whose whole primary key is grouped by:
// they are functionally dependent, as SQL says.
func (b *Binder) dependentKeys(q *selectBody, agg *logical.Agg, keys logical.Set) {
	for _, it := range q.sc.items {
		if it.scan == nil || it.relation.HasRowID() || !q.input.Contains(logical.ColSet(it.scan)) {
			continue
		}
		all := len(it.relation.Primary.Columns) > 0
		for _, pc := range it.relation.Primary.Columns {
			found := false
			for i, a := range it.scan.Attrs {
				if a.ID == pc.Column && keys.Has(it.scan.Columns[i].ID) {
					found = true
				}
			}
			all = all && found
		}
		if !all {
			continue
		}
		for _, c := range it.scan.Columns {
			if !keys.Has(c.ID) {
				keys[c.ID] = struct{}{}
				agg.Keys, agg.KeyExprs = append(agg.Keys, c), append(agg.KeyExprs, c.Ref())
			}
		}
	}
}

// replaceTop replaces the outermost subexpressions for which f returns one.
func replaceTop(e expr.Expr, f func(expr.Expr) expr.Expr) expr.Expr {
	if n := f(e); n != nil {
		return n
	}
	ch := e.Children()
	if len(ch) == 0 {
		return e
	}
	var out []expr.Expr
	for i, c := range ch {
		n := replaceTop(c, f)
		if n != c && out == nil {
			out = append([]expr.Expr(nil), ch...)
		}
		if out != nil {
			out[i] = n
		}
	}
	if out == nil {
		return e
	}
	return e.WithChildren(out)
}

// checkGrouped refuses a column that is neither grouped by nor inside an aggregate.
func (b *Binder) checkGrouped(q *selectBody, e expr.Expr, keys logical.Set, loc int32) error {
	var bad *expr.Col
	expr.Walk(e, func(x expr.Expr) bool {
		if c, ok := x.(*expr.Col); ok && bad == nil && q.input.Has(c.ID) && !keys.Has(c.ID) {
			bad = c
		}
		return bad == nil
	})
	if bad != nil {
		return b.errorf(bad.Location, pgerrcode.GroupingError, "column \"%s\" must appear in the GROUP BY clause or be used in an aggregate function", bad.Name)
	}
	for id := range logical.FreeExpr(e) {
		if q.input.Has(id) && !keys.Has(id) {
			name := "?"
			for _, it := range q.sc.items {
				for _, c := range it.cols {
					if c.ID == id {
						name = it.alias + "." + c.Name
					}
				}
			}
			return b.errorf(loc, pgerrcode.GroupingError, "subquery uses ungrouped column \"%s\" from outer query", name)
		}
	}
	return nil
}
