package bind

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

// query is a bound SELECT: its plan, and which of the plan's columns are the result.
type query struct {
	node logical.Node
	cols []logical.Column
	// proj or vals computes the result columns, so that a literal of unknown type can still
	// become what its surroundings want.
	proj *logical.Project
	vals *logical.Values
}

// trim drops columns that are not part of the result.
func (q *query) trim() {
	have := q.node.Cols()
	same := len(have) == len(q.cols)
	for i := range q.cols {
		same = same && have[i].ID == q.cols[i].ID
	}
	if same {
		return
	}
	p := &logical.Project{In: q.node, Columns: q.cols}
	for _, c := range q.cols {
		p.Exprs = append(p.Exprs, c.Ref())
	}
	q.node, q.proj, q.vals = p, nil, nil
}

// coerceOutput gives output column i a type; false if there is no such cast.
func (b *Binder) coerceOutput(q *query, i int, t types.OID, mod int32, ctx castContext) (bool, error) {
	if q.cols[i].Typ == t && (mod < 0 || q.cols[i].Mod == mod) {
		return true, nil
	}
	id := q.cols[i].ID
	set := func() { q.cols[i].Typ, q.cols[i].Mod = t, mod }
	if q.proj != nil && q.cols[i].Typ == types.OIDUnknown {
		for j := range q.proj.Columns {
			if q.proj.Columns[j].ID != id {
				continue
			}
			e, ok, err := b.coerce(q.proj.Exprs[j], t, mod, ctx, -1)
			if err != nil || !ok {
				return ok, err
			}
			q.proj.Exprs[j] = e
			q.proj.Columns[j].Typ, q.proj.Columns[j].Mod = t, mod
			set()
			return true, nil
		}
	}
	if q.vals != nil && q.cols[i].Typ == types.OIDUnknown {
		for _, row := range q.vals.Rows {
			e, ok, err := b.coerce(row[i], t, mod, ctx, -1)
			if err != nil || !ok {
				return ok, err
			}
			row[i] = e
		}
		q.vals.Columns[i].Typ, q.vals.Columns[i].Mod = t, mod
		set()
		return true, nil
	}
	e, ok, err := b.coerce(q.cols[i].Ref(), t, mod, ctx, -1)
	if err != nil || !ok {
		return ok, err
	}
	p := &logical.Project{In: q.node}
	for _, c := range q.node.Cols() {
		if c.ID == id {
			continue
		}
		p.Columns, p.Exprs = append(p.Columns, c), append(p.Exprs, c.Ref())
	}
	nc := q.cols[i]
	nc.ID, nc.Typ, nc.Mod = b.newID(), t, mod
	p.Columns, p.Exprs = append(p.Columns, nc), append(p.Exprs, e)
	q.node, q.cols[i], q.proj, q.vals = p, nc, nil, nil
	return true, nil
}

// resolveUnknown makes output columns of unknown type text.
func (b *Binder) resolveUnknown(q *query) error {
	for i := range q.cols {
		if q.cols[i].Typ == types.OIDUnknown {
			if _, err := b.coerceOutput(q, i, types.OIDText, -1, implicit); err != nil {
				return err
			}
		}
	}
	return nil
}

// withName is a visible WITH query.
type withName struct {
	name string
	cte  *logical.CTE
	cols []logical.Column
	// work is set while the recursive term is bound.
	work bool
}

// selectStmt binds a SELECT, VALUES or set operation. Columns of unknown type are left so.
func (b *Binder) selectStmt(s *ast.SelectStmt, outer *scope) (*query, error) {
	mark := len(b.withs)
	defer func() { b.withs = b.withs[:mark] }()
	if s.WithClause != nil {
		if err := b.with(s.WithClause, outer); err != nil {
			return nil, err
		}
	}
	if b.depth++; b.depth > maxExprDepth {
		b.depth--
		return nil, b.errorf(-1, pgerrcode.StatementTooComplex, "stack depth limit exceeded")
	}
	defer func() { b.depth-- }()
	switch {
	case s.Op != ast.SetOperation_SETOP_NONE:
		return b.setOp(s, outer)
	case len(s.ValuesLists) > 0:
		return b.values(s, outer)
	}
	return b.selectPlain(s, outer)
}

// with binds the queries of a WITH clause.
func (b *Binder) with(w *ast.WithClause, outer *scope) error {
	seen := map[string]bool{}
	for _, n := range w.Ctes {
		c := n.GetCommonTableExpr()
		if seen[c.Ctename] {
			return b.errorf(c.Location, pgerrcode.DuplicateAlias, "WITH query name \"%s\" specified more than once", c.Ctename)
		}
		seen[c.Ctename] = true
		if c.SearchClause != nil || c.CycleClause != nil {
			return b.unsupported(c.Location, "SEARCH and CYCLE in WITH")
		}
		cte := &logical.CTE{Name: c.Ctename, Index: len(b.ctes)}
		if err := b.cte(w, c, cte, outer); err != nil {
			return err
		}
	}
	return nil
}

func (b *Binder) cte(w *ast.WithClause, c *ast.CommonTableExpr, cte *logical.CTE, outer *scope) error {
	if sel := c.Ctequery.GetSelectStmt(); sel != nil {
		if w.Recursive && sel.Op == ast.SetOperation_SETOP_UNION && mentions(sel.Rarg, c.Ctename) {
			return b.recursiveCTE(c, sel, cte, outer)
		}
		q, err := b.subquery(sel, outer)
		if err != nil {
			return err
		}
		cte.Plan = q.node
		cols, err := b.renameColumns(q.cols, c.Aliascolnames, c.Ctename, c.Location)
		if err != nil {
			return err
		}
		cte.Cols = cols
	} else {
		if outer != nil {
			return b.errorf(c.Location, pgerrcode.FeatureNotSupported, "WITH clause containing a data-modifying statement must be at the top level")
		}
		var node logical.Node
		var err error
		switch v := c.Ctequery.GetNode().(type) {
		case *ast.Node_InsertStmt:
			node, err = b.insert(v.InsertStmt, nil)
		case *ast.Node_UpdateStmt:
			node, err = b.update(v.UpdateStmt, nil)
		case *ast.Node_DeleteStmt:
			node, err = b.delete(v.DeleteStmt, nil)
		default:
			err = b.unsupported(c.Location, "this statement in WITH")
		}
		if err != nil {
			return err
		}
		cte.Plan, cte.DML = node, true
		if cte.Cols, err = b.renameColumns(node.Cols(), c.Aliascolnames, c.Ctename, c.Location); err != nil {
			return err
		}
	}
	b.ctes = append(b.ctes, cte)
	b.withs = append(b.withs, withName{name: c.Ctename, cte: cte, cols: cte.Cols})
	return nil
}

// recursiveCTE binds WITH RECURSIVE x AS (start UNION [ALL] step).
func (b *Binder) recursiveCTE(c *ast.CommonTableExpr, sel *ast.SelectStmt, cte *logical.CTE, outer *scope) error {
	if len(sel.SortClause) > 0 || sel.LimitCount != nil || sel.LimitOffset != nil {
		return b.errorf(c.Location, pgerrcode.FeatureNotSupported, "ORDER BY, LIMIT and OFFSET in a recursive query are not implemented")
	}
	start, err := b.subquery(sel.Larg, outer)
	if err != nil {
		return err
	}
	cols, err := b.renameColumns(start.cols, c.Aliascolnames, c.Ctename, c.Location)
	if err != nil {
		return err
	}
	cte.Plan, cte.All = start.node, sel.All
	cte.Cols = cols
	// The step sees the rows of the round before under the same name.
	mark := len(b.withs)
	b.withs = append(b.withs, withName{name: c.Ctename, cte: cte, cols: cols, work: true})
	step, err := b.selectStmt(sel.Rarg, outer)
	b.withs = b.withs[:mark]
	if err != nil {
		return err
	}
	if len(step.cols) != len(cols) {
		return b.errorf(c.Location, pgerrcode.SyntaxError, "each UNION query must have the same number of columns")
	}
	for i := range cols {
		from := step.cols[i].Typ
		ok, err := b.coerceOutput(step, i, cols[i].Typ, -1, implicit)
		if err != nil {
			return err
		}
		if !ok {
			return b.errorf(c.Location, pgerrcode.DatatypeMismatch, "recursive query \"%s\" column %d has type %s in non-recursive term but type %s overall",
				c.Ctename, i+1, typeName(cols[i].Typ), typeName(from)).
				WithHint("Cast the output of the non-recursive term to the correct type.")
		}
	}
	step.trim()
	cte.Step = step.node
	b.ctes = append(b.ctes, cte)
	b.withs = append(b.withs, withName{name: c.Ctename, cte: cte, cols: cols})
	return nil
}

// mentions says whether a query's FROM names a relation.
func mentions(s *ast.SelectStmt, name string) bool {
	if s == nil {
		return false
	}
	if mentions(s.Larg, name) || mentions(s.Rarg, name) {
		return true
	}
	var from func(n *ast.Node) bool
	from = func(n *ast.Node) bool {
		switch v := n.GetNode().(type) {
		case *ast.Node_RangeVar:
			return v.RangeVar.Schemaname == "" && v.RangeVar.Relname == name
		case *ast.Node_JoinExpr:
			return from(v.JoinExpr.Larg) || from(v.JoinExpr.Rarg)
		case *ast.Node_RangeSubselect:
			return mentions(v.RangeSubselect.Subquery.GetSelectStmt(), name)
		}
		return false
	}
	for _, n := range s.FromClause {
		if from(n) {
			return true
		}
	}
	return false
}

// renameColumns applies a column alias list.
func (b *Binder) renameColumns(cols []logical.Column, aliases []*ast.Node, name string, loc int32) ([]logical.Column, error) {
	out := append([]logical.Column(nil), cols...)
	l := names(aliases)
	if len(l) > len(out) {
		return nil, b.errorf(loc, pgerrcode.InvalidColumnReference, "table \"%s\" has %d columns available but %d columns specified", name, len(out), len(l))
	}
	for i, n := range l {
		out[i].Name = n
	}
	return out, nil
}

// freshColumns gives columns new IDs.
func (b *Binder) freshColumns(cols []logical.Column) []logical.Column {
	out := append([]logical.Column(nil), cols...)
	for i := range out {
		out[i].ID = b.newID()
	}
	return out
}

// setOp binds UNION, INTERSECT and EXCEPT.
func (b *Binder) setOp(s *ast.SelectStmt, outer *scope) (*query, error) {
	if len(s.LockingClause) > 0 {
		return nil, b.errorf(-1, pgerrcode.FeatureNotSupported, "FOR UPDATE is not allowed with UNION/INTERSECT/EXCEPT")
	}
	what := map[ast.SetOperation]string{ast.SetOperation_SETOP_UNION: "UNION", ast.SetOperation_SETOP_INTERSECT: "INTERSECT", ast.SetOperation_SETOP_EXCEPT: "EXCEPT"}[s.Op]
	l, err := b.selectStmt(s.Larg, outer)
	if err != nil {
		return nil, err
	}
	r, err := b.selectStmt(s.Rarg, outer)
	if err != nil {
		return nil, err
	}
	if len(l.cols) != len(r.cols) {
		return nil, b.errorf(firstTarget(s.Rarg), pgerrcode.SyntaxError, "each %s query must have the same number of columns", what)
	}
	n := &logical.SetOp{All: s.All}
	switch s.Op {
	case ast.SetOperation_SETOP_INTERSECT:
		n.Kind = logical.Intersect
	case ast.SetOperation_SETOP_EXCEPT:
		n.Kind = logical.Except
	}
	for i := range l.cols {
		t, ok := commonType([]types.OID{l.cols[i].Typ, r.cols[i].Typ})
		if !ok {
			return nil, b.errorf(nthTarget(s.Rarg, i), pgerrcode.DatatypeMismatch, "%s types %s and %s cannot be matched", what, typeName(l.cols[i].Typ), typeName(r.cols[i].Typ))
		}
		mod := int32(-1)
		if l.cols[i].Typ == t && r.cols[i].Typ == t && l.cols[i].Mod == r.cols[i].Mod {
			mod = l.cols[i].Mod
		}
		for _, q := range []*query{l, r} {
			from := q.cols[i].Typ
			if ok, err := b.coerceOutput(q, i, t, -1, implicit); err != nil {
				return nil, err
			} else if !ok {
				return nil, b.errorf(nthTarget(s.Rarg, i), pgerrcode.CannotCoerce, "%s could not convert type %s to %s", what, typeName(from), typeName(t))
			}
		}
		n.Columns = append(n.Columns, logical.Column{ID: b.newID(), Name: l.cols[i].Name, Typ: t, Mod: mod})
	}
	l.trim()
	r.trim()
	n.L, n.R = l.node, r.node
	q := &query{node: n, cols: n.Columns}
	keys, err := b.outputOrder(s.SortClause, q.cols, what)
	if err != nil {
		return nil, err
	}
	if len(keys) > 0 {
		q.node = &logical.Sort{In: q.node, Keys: keys}
	}
	return q, b.limit(s, q, outer)
}

func firstTarget(s *ast.SelectStmt) int32 { return nthTarget(s, 0) }

func nthTarget(s *ast.SelectStmt, i int) int32 {
	for s.Op != ast.SetOperation_SETOP_NONE {
		s = s.Larg
	}
	if i < len(s.TargetList) {
		return location(s.TargetList[i].GetResTarget().GetVal())
	}
	if len(s.ValuesLists) > 0 {
		if l := s.ValuesLists[0].GetList().GetItems(); i < len(l) {
			return location(l[i])
		}
	}
	return -1
}

// outputOrder binds ORDER BY over nothing but result columns.
func (b *Binder) outputOrder(sort []*ast.Node, cols []logical.Column, what string) ([]logical.SortKey, error) {
	var keys []logical.SortKey
	for _, n := range sort {
		sb := n.GetSortBy()
		if len(sb.UseOp) > 0 {
			return nil, b.unsupported(sb.Location, "ORDER BY USING")
		}
		pos, err := b.outputPosition(sb.Node, cols, "ORDER BY")
		if err != nil {
			return nil, err
		}
		if cr := sb.Node.GetColumnRef(); pos == -1 && cr != nil && len(cr.Fields) == 1 {
			return nil, b.errorf(cr.Location, pgerrcode.UndefinedColumn, "column \"%s\" does not exist", names(cr.Fields)[0])
		}
		if pos < 0 {
			return nil, b.errorf(location(sb.Node), pgerrcode.FeatureNotSupported, "invalid UNION/INTERSECT/EXCEPT ORDER BY clause").
				WithDetail("Only result column names can be used, not expressions or functions.").
				WithHint("Add the expression/function to every SELECT, or move the UNION into a FROM clause.")
		}
		keys = append(keys, sortKey(sb, cols[pos].Ref()))
	}
	return keys, nil
}

// outputPosition finds the result column that a name or position in ORDER BY, GROUP BY or
// DISTINCT ON means; -1 if it is another expression.
func (b *Binder) outputPosition(n *ast.Node, cols []logical.Column, clause string) (int, error) {
	if c := n.GetAConst(); c != nil {
		if _, ok := c.Val.(*ast.A_Const_Ival); ok {
			p := int(c.GetIval().GetIval())
			if p < 1 || p > len(cols) {
				return -1, b.errorf(c.Location, pgerrcode.InvalidColumnReference, "%s position %d is not in select list", clause, p)
			}
			return p - 1, nil
		}
		if !c.Isnull {
			return -1, b.errorf(c.Location, pgerrcode.SyntaxError, "non-integer constant in %s", clause)
		}
	}
	cr := n.GetColumnRef()
	if cr == nil || len(cr.Fields) != 1 {
		return -1, nil
	}
	name := names(cr.Fields)[0]
	found := -1
	for i := range cols {
		if cols[i].Name != name {
			continue
		}
		if found >= 0 {
			return -2 - found, nil // ambiguous unless they are the same expression
		}
		found = i
	}
	return found, nil
}

// values binds VALUES (...), (...).
func (b *Binder) values(s *ast.SelectStmt, outer *scope) (*query, error) {
	sc := &scope{parent: outer}
	x := &exprCtx{scope: sc, clause: "VALUES"}
	width := len(s.ValuesLists[0].GetList().GetItems())
	v := &logical.Values{}
	locs := make([][]int32, width)
	for _, l := range s.ValuesLists {
		items := l.GetList().GetItems()
		if len(items) != width {
			return nil, b.errorf(location(l), pgerrcode.SyntaxError, "VALUES lists must all be the same length")
		}
		row, rl, err := b.exprList(x, items)
		if err != nil {
			return nil, err
		}
		for i := range rl {
			locs[i] = append(locs[i], rl[i])
		}
		v.Rows = append(v.Rows, row)
	}
	for i := 0; i < width; i++ {
		col := make([]expr.Expr, len(v.Rows))
		unknown := true
		for j := range v.Rows {
			col[j] = v.Rows[j][i]
			unknown = unknown && col[j].Type() == types.OIDUnknown
		}
		t, mod := types.OIDUnknown, int32(-1)
		if !unknown {
			var err error
			if t, mod, col, err = b.common("VALUES", col, locs[i]); err != nil {
				return nil, err
			}
		}
		for j := range v.Rows {
			v.Rows[j][i] = col[j]
		}
		v.Columns = append(v.Columns, logical.Column{ID: b.newID(), Name: "column" + itoa(i+1), Typ: t, Mod: mod})
	}
	q := &query{node: v, cols: append([]logical.Column(nil), v.Columns...), vals: v}
	if len(s.SortClause) > 0 {
		if err := b.resolveUnknown(q); err != nil {
			return nil, err
		}
	}
	keys, err := b.outputOrder(s.SortClause, q.cols, "VALUES")
	if err != nil {
		return nil, err
	}
	if len(keys) > 0 {
		q.node = &logical.Sort{In: q.node, Keys: keys}
	}
	return q, b.limit(s, q, outer)
}

// limit adds LIMIT and OFFSET.
func (b *Binder) limit(s *ast.SelectStmt, q *query, outer *scope) error {
	if s.LimitCount == nil && s.LimitOffset == nil {
		return nil
	}
	if s.LimitOption == ast.LimitOption_LIMIT_OPTION_WITH_TIES {
		return b.unsupported(-1, "FETCH FIRST ... WITH TIES")
	}
	l := &logical.Limit{In: q.node}
	bind := func(n *ast.Node, clause string) (expr.Expr, error) {
		if n == nil {
			return nil, nil
		}
		if c := n.GetAConst(); c != nil && c.Isnull {
			return nil, nil // LIMIT ALL
		}
		e, err := b.expr(&exprCtx{scope: &scope{parent: outer}, clause: clause}, n)
		if err != nil {
			return nil, err
		}
		for id := range logical.FreeExpr(e) {
			_ = id
			return nil, b.errorf(location(n), pgerrcode.InvalidColumnReference, "argument of %s must not contain variables", clause)
		}
		out, ok, err := b.coerce(e, types.OIDInt8, -1, assignment, location(n))
		if err == nil && !ok {
			err = b.errorf(location(n), pgerrcode.DatatypeMismatch, "argument of %s must be type bigint, not type %s", clause, typeName(e.Type()))
		}
		return out, err
	}
	var err error
	if l.Count, err = bind(s.LimitCount, "LIMIT"); err != nil {
		return err
	}
	if l.Offset, err = bind(s.LimitOffset, "OFFSET"); err != nil {
		return err
	}
	if l.Count != nil || l.Offset != nil {
		q.node = l
	}
	return nil
}
