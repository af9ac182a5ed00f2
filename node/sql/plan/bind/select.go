package bind

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
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

type sortItem struct {
	pos int // in targets, then junk
	sb  *ast.SortBy
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

// find returns the position of an expression among targets and junk, adding it as junk.
func (q *selectBody) find(e expr.Expr, loc int32) int {
	for i, t := range q.targets {
		if equalExpr(t.e, e) && !expr.IsVolatile(e) {
			return i
		}
	}
	for i, t := range q.junk {
		if equalExpr(t.e, e) && !expr.IsVolatile(e) {
			return len(q.targets) + i
		}
	}
	name := "?column?"
	if c, ok := e.(*expr.Col); ok {
		name = c.Name
	}
	q.junk = append(q.junk, target{name: name, e: e, loc: loc})
	return len(q.targets) + len(q.junk) - 1
}

// outputItem resolves an item of ORDER BY or DISTINCT ON.
func (b *Binder) outputItem(q *selectBody, n *ast.Node, clause string) (int, error) {
	cols := make([]logical.Column, len(q.targets))
	for i, t := range q.targets {
		cols[i].Name = t.name
	}
	pos, err := b.outputPosition(n, cols, clause)
	if err != nil {
		return 0, err
	}
	if pos <= -2 {
		first := -2 - pos
		for i, t := range q.targets {
			if i != first && t.name == q.targets[first].name && !equalExpr(t.e, q.targets[first].e) {
				return 0, b.errorf(location(n), pgerrcode.AmbiguousColumn, "%s \"%s\" is ambiguous", clause, t.name)
			}
		}
		pos = first
	}
	if pos >= 0 {
		return pos, nil
	}
	x := &exprCtx{scope: q.sc, clause: clause, level: q.lv, aggs: true, srfs: true, wins: true}
	e, err := b.expr(x, n)
	if err != nil {
		return 0, err
	}
	if e, err = b.textIfUnknown(e); err != nil {
		return 0, err
	}
	return q.find(e, location(n)), nil
}

func (b *Binder) bindOrder(q *selectBody) error {
	for _, n := range q.s.SortClause {
		sb := n.GetSortBy()
		if len(sb.UseOp) > 0 {
			return b.unsupported(sb.Location, "ORDER BY USING")
		}
		before := len(q.junk)
		pos, err := b.outputItem(q, sb.Node, "ORDER BY")
		if err != nil {
			return err
		}
		if len(q.junk) > before && len(q.s.DistinctClause) == 1 && q.s.DistinctClause[0].GetNode() == nil {
			return b.errorf(location(sb.Node), pgerrcode.InvalidColumnReference, "for SELECT DISTINCT, ORDER BY expressions must appear in select list")
		}
		if pos < len(q.targets) && q.targets[pos].e.Type() == types.OIDUnknown {
			if q.targets[pos].e, err = b.textIfUnknown(q.targets[pos].e); err != nil {
				return err
			}
		}
		if err := b.orderable(q.at(pos).e.Type(), location(sb.Node)); err != nil {
			return err
		}
		q.sort = append(q.sort, sortItem{pos, sb})
	}
	return nil
}

func (q *selectBody) at(pos int) *target {
	if pos < len(q.targets) {
		return &q.targets[pos]
	}
	return &q.junk[pos-len(q.targets)]
}

// orderable refuses types without an order.
func (b *Binder) orderable(t types.OID, loc int32) error {
	switch t {
	case types.OIDJSON, types.OIDXML, types.OIDACLItem:
		return b.errorf(loc, pgerrcode.UndefinedFunction, "could not identify an ordering operator for type %s", typeName(t)).
			WithHint("Use an explicit ordering operator or modify the query.")
	}
	return nil
}

func (b *Binder) equatable(t types.OID, loc int32) error {
	if t == types.OIDJSON || t == types.OIDXML {
		return b.errorf(loc, pgerrcode.UndefinedFunction, "could not identify an equality operator for type %s", typeName(t))
	}
	return nil
}

func (b *Binder) bindDistinctOn(q *selectBody) error {
	if len(q.s.DistinctClause) == 0 {
		return nil
	}
	if q.s.DistinctClause[0].GetNode() == nil {
		for _, t := range q.targets {
			if err := b.equatable(t.e.Type(), t.loc); err != nil {
				return err
			}
		}
		return nil
	}
	for _, n := range q.s.DistinctClause {
		pos, err := b.outputItem(q, n, "DISTINCT ON")
		if err != nil {
			return err
		}
		q.on = append(q.on, pos)
	}
	// The leading ORDER BY items must be the DISTINCT ON ones, in any order.
	at := map[int]int32{} // where each stands in the text
	for i, p := range q.on {
		if _, dup := at[p]; !dup {
			at[p] = location(q.s.DistinctClause[i])
		}
	}
	first := len(q.on)
	for i, it := range q.sort {
		if _, ok := at[it.pos]; !ok {
			first = min(first, i)
		}
	}
	for _, p := range q.on {
		leading := len(q.sort) <= first // all items of ORDER BY are DISTINCT ON's
		for i := 0; i < len(q.sort) && i < first; i++ {
			leading = leading || q.sort[i].pos == p
		}
		if !leading {
			return b.errorf(at[p], pgerrcode.InvalidColumnReference, "SELECT DISTINCT ON expressions must match initial ORDER BY expressions")
		}
	}
	return nil
}

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

type lockedScan struct {
	scan *logical.Scan
	lock logical.Lock
}

// lockedScans finds the tables that FOR UPDATE and its like lock.
func (b *Binder) lockedScans(q *selectBody) ([]lockedScan, error) {
	var out []lockedScan
	for _, n := range q.s.LockingClause {
		lc := n.GetLockingClause()
		name, lock := "UPDATE", logical.Lock{Strength: kv.LockExclusive}
		switch lc.Strength {
		case ast.LockClauseStrength_LCS_FORNOKEYUPDATE:
			name = "NO KEY UPDATE"
		case ast.LockClauseStrength_LCS_FORSHARE:
			name, lock.Strength = "SHARE", kv.LockShared
		case ast.LockClauseStrength_LCS_FORKEYSHARE:
			name, lock.Strength = "KEY SHARE", kv.LockShared
		}
		switch lc.WaitPolicy {
		case ast.LockWaitPolicy_LockWaitSkip:
			lock.Wait = kv.WaitSkipLocked
		case ast.LockWaitPolicy_LockWaitError:
			lock.Wait = kv.WaitError
		}
		what := ""
		switch {
		case len(q.s.DistinctClause) > 0:
			what = "DISTINCT clause"
		case len(q.s.GroupClause) > 0:
			what = "GROUP BY clause"
		case q.having != nil:
			what = "HAVING clause"
		case len(q.lv.aggs) > 0:
			what = "aggregate functions"
		case len(q.lv.wins) > 0:
			what = "window functions"
		case len(q.lv.srfs) > 0:
			what = "set-returning functions in the target list"
		}
		if what != "" {
			return nil, b.errorf(-1, pgerrcode.FeatureNotSupported, "FOR %s is not allowed with %s", name, what)
		}
		if err := b.lockItems(q, lc, name, lock, &out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (b *Binder) lockItems(q *selectBody, lc *ast.LockingClause, name string, lock logical.Lock, out *[]lockedScan) error {
	add := func(s *logical.Scan) {
		b.keyColumns(s)
		for i := range *out {
			if (*out)[i].scan == s {
				(*out)[i].lock.Strength = max((*out)[i].lock.Strength, lock.Strength)
				(*out)[i].lock.Wait = max((*out)[i].lock.Wait, lock.Wait)
				return
			}
		}
		*out = append(*out, lockedScan{s, lock})
	}
	if len(lc.LockedRels) == 0 {
		for _, it := range q.sc.items {
			if it.scan != nil {
				add(it.scan)
			} else if hasScan(it, q) {
				return b.unsupported(-1, "FOR %s over a subquery in FROM", name)
			}
		}
		return nil
	}
	for _, r := range lc.LockedRels {
		rv := r.GetRangeVar()
		found := false
		for _, it := range q.sc.items {
			if it.alias != rv.Relname || it.relHidden {
				continue
			}
			found = true
			if it.scan == nil {
				return b.errorf(rv.Location, pgerrcode.FeatureNotSupported, "FOR %s cannot be applied to \"%s\": it is not a table", name, rv.Relname)
			}
			add(it.scan)
		}
		if !found {
			return b.errorf(rv.Location, pgerrcode.UndefinedTable, "relation \"%s\" in FOR %s clause not found in FROM clause", rv.Relname, name)
		}
	}
	return nil
}

// hasScan says whether a FROM item without a scan of its own reads a stored table.
func hasScan(it *nsItem, q *selectBody) bool {
	ids := logical.Set{}
	for _, c := range it.cols {
		ids[c.ID] = struct{}{}
	}
	found := false
	var walk func(n logical.Node)
	walk = func(n logical.Node) {
		if _, ok := n.(*logical.Scan); ok {
			direct := false
			for _, o := range q.sc.items {
				direct = direct || o.scan == n
			}
			found = found || !direct
		}
		for _, in := range n.Inputs() {
			walk(in)
		}
	}
	walk(q.node)
	return found && it.alias != ""
}

// figureName is PostgreSQL's name for an unnamed column.
func figureName(n *ast.Node) string {
	if name, _ := figureNameStrength(n); name != "" {
		return name
	}
	return "?column?"
}

func figureNameStrength(n *ast.Node) (string, int) {
	switch v := n.GetNode().(type) {
	case *ast.Node_ColumnRef:
		l := names(v.ColumnRef.Fields)
		for i := len(l) - 1; i >= 0; i-- {
			if l[i] != "*" {
				return l[i], 2
			}
		}
	case *ast.Node_AIndirection:
		for i := len(v.AIndirection.Indirection) - 1; i >= 0; i-- {
			if s := v.AIndirection.Indirection[i].GetString_(); s != nil {
				return s.Sval, 2
			}
		}
		return figureNameStrength(v.AIndirection.Arg)
	case *ast.Node_FuncCall:
		l := names(v.FuncCall.Funcname)
		return l[len(l)-1], 2
	case *ast.Node_AExpr:
		if v.AExpr.Kind == ast.A_Expr_Kind_AEXPR_NULLIF {
			return "nullif", 2
		}
	case *ast.Node_TypeCast:
		if name, s := figureNameStrength(v.TypeCast.Arg); s == 2 {
			return name, s
		}
		l := names(v.TypeCast.TypeName.Names)
		if len(l) > 0 {
			return l[len(l)-1], 1
		}
	case *ast.Node_CollateClause:
		return figureNameStrength(v.CollateClause.Arg)
	case *ast.Node_CaseExpr:
		if v.CaseExpr.Defresult != nil {
			if name, s := figureNameStrength(v.CaseExpr.Defresult); s == 2 {
				return name, s
			}
		}
		return "case", 1
	case *ast.Node_AArrayExpr:
		return "array", 2
	case *ast.Node_RowExpr:
		return "row", 2
	case *ast.Node_CoalesceExpr:
		return "coalesce", 2
	case *ast.Node_MinMaxExpr:
		if v.MinMaxExpr.Op == ast.MinMaxOp_IS_LEAST {
			return "least", 2
		}
		return "greatest", 2
	case *ast.Node_SubLink:
		switch v.SubLink.SubLinkType {
		case ast.SubLinkType_EXISTS_SUBLINK:
			return "exists", 2
		case ast.SubLinkType_ARRAY_SUBLINK:
			return "array", 2
		case ast.SubLinkType_EXPR_SUBLINK:
			s := v.SubLink.Subselect.GetSelectStmt()
			for s.GetLarg() != nil {
				s = s.Larg
			}
			if len(s.GetTargetList()) > 0 {
				rt := s.TargetList[0].GetResTarget()
				if rt.Name != "" {
					return rt.Name, 2
				}
				return figureNameStrength(rt.Val)
			}
		}
	case *ast.Node_SqlvalueFunction:
		switch v.SqlvalueFunction.Op {
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_DATE:
			return "current_date", 2
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_TIME, ast.SQLValueFunctionOp_SVFOP_CURRENT_TIME_N:
			return "current_time", 2
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP, ast.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP_N:
			return "current_timestamp", 2
		case ast.SQLValueFunctionOp_SVFOP_LOCALTIME, ast.SQLValueFunctionOp_SVFOP_LOCALTIME_N:
			return "localtime", 2
		case ast.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP, ast.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP_N:
			return "localtimestamp", 2
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_ROLE:
			return "current_role", 2
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_USER:
			return "current_user", 2
		case ast.SQLValueFunctionOp_SVFOP_USER:
			return "user", 2
		case ast.SQLValueFunctionOp_SVFOP_SESSION_USER:
			return "session_user", 2
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_CATALOG:
			return "current_catalog", 2
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_SCHEMA:
			return "current_schema", 2
		}
	}
	return "", 0
}
