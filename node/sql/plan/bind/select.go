package bind

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
)

// target is one column of a SELECT list.
type target struct {
	name string
	e    expr.Expr
	loc  int32
}

// selectBody is a SELECT while it is bound.
type selectBody struct {
	s       *ast.SelectStmt
	outer   *scope
	sc      *scope
	lv      *level
	node    logical.Node
	targets []target
	junk    []target // ORDER BY and DISTINCT ON expressions that are not in the list
	group   []expr.Expr
	having  expr.Expr
	sort    []sortItem
	on      []int // DISTINCT ON, as positions in targets followed by junk
	input   logical.Set
}

// selectPlain binds a SELECT that is no set operation.
func (b *Binder) selectPlain(s *ast.SelectStmt, outer *scope) (*query, error) {
	q := &selectBody{s: s, outer: outer, sc: &scope{parent: outer}}
	q.lv = &level{scope: q.sc, windows: map[string]*ast.WindowDef{}}
	for _, w := range s.WindowClause {
		q.lv.windows[w.GetWindowDef().GetName()] = w.GetWindowDef()
	}
	var err error
	if q.node, err = b.from(s.FromClause, outer, q.sc); err != nil {
		return nil, err
	}
	if s.WhereClause != nil {
		e, err := b.where(q.sc, s.WhereClause)
		if err != nil {
			return nil, err
		}
		q.node = &logical.Filter{In: q.node, Preds: expr.Conjuncts(e)}
	}
	q.input = logical.ColSet(q.node)
	if q.targets, err = b.targetList(q.sc, q.lv, s.TargetList, "SELECT"); err != nil {
		return nil, err
	}
	for _, step := range []func(*selectBody) error{b.bindOrder, b.bindDistinctOn, b.bindGroup, b.aggregateNode, b.windowNodes, b.projectSet} {
		if err := step(q); err != nil {
			return nil, err
		}
	}
	return b.finishSelect(q)
}

func (b *Binder) where(sc *scope, n *ast.Node) (expr.Expr, error) {
	e, err := b.expr(&exprCtx{scope: sc, clause: "WHERE"}, n)
	if err != nil {
		return nil, err
	}
	return b.boolean(e, "WHERE", location(n))
}

// targetList binds a SELECT or RETURNING list, with its stars.
func (b *Binder) targetList(sc *scope, lv *level, list []*ast.Node, clause string) ([]target, error) {
	x := &exprCtx{scope: sc, clause: clause, level: lv, aggs: lv != nil, srfs: lv != nil, wins: lv != nil}
	var out []target
	for _, n := range list {
		rt := n.GetResTarget()
		if l, ok, err := b.star(sc, rt.Val); err != nil {
			return nil, err
		} else if ok {
			out = append(out, l...)
			continue
		}
		e, err := b.expr(x, rt.Val)
		if err != nil {
			return nil, err
		}
		name := rt.Name
		if name == "" {
			name = figureName(rt.Val)
		}
		out = append(out, target{name: name, e: e, loc: location(rt.Val)})
	}
	if len(out) > 1664 {
		return nil, b.errorf(-1, pgerrcode.TooManyColumns, "target lists can have at most 1664 entries")
	}
	return out, nil
}

// star expands * and t.*.
func (b *Binder) star(sc *scope, n *ast.Node) ([]target, bool, error) {
	cr := n.GetColumnRef()
	if cr == nil {
		if ind := n.GetAIndirection(); ind != nil {
			if k := len(ind.Indirection); k > 0 && ind.Indirection[k-1].GetAStar() != nil {
				return nil, false, b.unsupported(location(n), "row expansion via \"*\"")
			}
		}
		return nil, false, nil
	}
	if len(cr.Fields) == 0 || cr.Fields[len(cr.Fields)-1].GetAStar() == nil {
		return nil, false, nil
	}
	var out []target
	if len(cr.Fields) == 1 {
		any := false
		for _, it := range sc.items {
			if it.lateralOnly {
				continue
			}
			any = true
			for i := range it.cols {
				if c := &it.cols[i]; !c.merged && !c.hidden {
					out = append(out, target{name: c.Name, e: c.ref(it, cr.Location), loc: cr.Location})
				}
			}
		}
		if !any {
			return nil, false, b.errorf(cr.Location, pgerrcode.SyntaxError, "SELECT * with no tables specified is not valid")
		}
		return out, true, nil
	}
	parts := names(cr.Fields)
	schema, alias := "", parts[len(parts)-2]
	if len(parts) > 2 {
		schema = parts[len(parts)-3]
	}
	it, err := b.item(sc, schema, alias, cr.Location)
	if err != nil {
		return nil, false, err
	}
	if it == nil {
		return nil, false, b.missingFrom(sc, alias, cr.Location)
	}
	for i := range it.cols {
		if c := &it.cols[i]; !c.hidden {
			out = append(out, target{name: c.Name, e: c.ref(it, cr.Location), loc: cr.Location})
		}
	}
	return out, true, nil
}

// projectSet adds the set-returning functions of the list.
func (b *Binder) projectSet(q *selectBody) error {
	if len(q.lv.srfs) == 0 {
		return nil
	}
	made := logical.Set{}
	for _, f := range q.lv.srfs {
		made.Add(f.Cols...)
	}
	for _, f := range q.lv.srfs {
		for _, a := range f.Args {
			if logical.FreeExpr(a).Intersects(made) {
				return b.unsupported(-1, "a set-returning function as an argument of another")
			}
		}
	}
	q.node = &logical.ProjectSet{In: q.node, Funcs: q.lv.srfs}
	return nil
}

// finishSelect adds projection, DISTINCT, ORDER BY, row locks and LIMIT.
func (b *Binder) finishSelect(q *selectBody) (*query, error) {
	locked, err := b.lockedScans(q)
	if err != nil {
		return nil, err
	}
	proj := &logical.Project{In: q.node}
	add := func(t target) {
		c := logical.Column{Name: t.name, Typ: t.e.Type(), Mod: t.e.Mod()}
		if col, ok := t.e.(*expr.Col); ok {
			// Only a column of this query keeps its ID: under an outer query's one the
			// subquery would seem to make by itself what it depends on.
			for _, in := range q.node.Cols() {
				if in.ID == col.ID {
					c.ID, c.Table, c.Attr = in.ID, in.Table, in.Attr
				}
			}
			for _, o := range proj.Columns {
				if o.ID == c.ID {
					c.ID = 0
				}
			}
		}
		if c.ID == 0 {
			c.ID = b.newID()
		}
		if r, ok := t.e.(*expr.Row); ok && len(r.Names) == len(r.Args) {
			if b.records == nil {
				b.records = map[expr.ColID]*expr.Row{}
			}
			b.records[c.ID] = r
		}
		proj.Columns, proj.Exprs = append(proj.Columns, c), append(proj.Exprs, t.e)
	}
	for _, t := range q.targets {
		add(t)
	}
	out := &query{cols: append([]logical.Column(nil), proj.Columns...), proj: proj}
	for _, t := range q.junk {
		add(t)
	}
	all := proj.Columns
	for _, s := range locked {
		for _, c := range s.scan.Cols() {
			have := false
			for _, o := range proj.Columns {
				have = have || o.ID == c.ID
			}
			if !have {
				proj.Columns, proj.Exprs = append(proj.Columns, c), append(proj.Exprs, c.Ref())
			}
		}
	}
	out.node = proj
	distinct := len(q.s.DistinctClause) > 0
	if distinct && len(q.on) == 0 {
		if err := b.resolveUnknown(out); err != nil {
			return nil, err
		}
		out.node = &logical.Distinct{In: out.node, On: append([]logical.Column(nil), proj.Columns...)}
	}
	if len(q.sort) > 0 {
		st := &logical.Sort{In: out.node}
		for _, it := range q.sort {
			st.Keys = append(st.Keys, sortKey(it.sb, proj.Columns[it.pos].Ref()))
		}
		out.node = st
	}
	if len(q.on) > 0 {
		d := &logical.Distinct{In: out.node}
		for _, p := range q.on {
			d.On = append(d.On, all[p])
		}
		out.node = d
	}
	if len(locked) > 0 {
		b.Result.Locks = true
		l := &logical.LockRows{In: out.node}
		for _, s := range locked {
			l.Scans, l.Lock = append(l.Scans, s.scan), append(l.Lock, s.lock)
		}
		out.node = l
	}
	return out, b.limit(q.s, out, q.outer)
}
