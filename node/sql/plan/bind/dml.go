package bind

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

// target finds the table that a statement writes. verb is as errors name it.
func (b *Binder) target(v *ast.RangeVar, verb string) (*Relation, error) {
	rel, err := b.relation(v)
	if err != nil {
		return nil, err
	}
	if rel.Table == nil {
		what := "view"
		switch {
		case rel.Sequence != nil:
			return nil, b.errorf(-1, pgerrcode.WrongObjectType, "cannot change sequence \"%s\"", v.Relname)
		case rel.Index != nil:
			return nil, b.errorf(-1, pgerrcode.WrongObjectType, "cannot change index \"%s\"", v.Relname)
		case rel.Virtual != nil:
			return nil, b.errorf(-1, pgerrcode.InsufficientPrivilege, "permission denied for %s %s", "table", v.Relname)
		}
		return nil, b.errorf(-1, pgerrcode.ObjectNotInPrerequisiteState, "cannot %s %s \"%s\"", verb, what, v.Relname)
	}
	b.Result.Written[rel.Table.ID] = rel.Table
	return rel, nil
}

// rowColumns names the values of a row that is written.
func (b *Binder) rowColumns(t *catalog.Table, attrs []*catalog.Column) []logical.Column {
	out := make([]logical.Column, len(attrs))
	for i, a := range attrs {
		out[i] = logical.Column{ID: b.newID(), Name: a.Name, Typ: a.Type.OID, Mod: a.Type.Mod, Table: t.ID, Attr: a.ID}
	}
	return out
}

// rowItem makes the columns of a written row visible under an alias.
func rowItem(alias, table string, t *catalog.Table, attrs []*catalog.Column, cols []logical.Column) *nsItem {
	it := newItem(alias, cols)
	it.table, it.relation = table, t
	for i, a := range attrs {
		it.cols[i].hidden = a.Hidden || !a.State.Readable()
	}
	return it
}

// column of the target by name.
func (b *Binder) targetColumn(t *catalog.Table, attrs []*catalog.Column, rt *ast.ResTarget) (int, error) {
	for i, a := range attrs {
		if a.Name == rt.Name && !a.Hidden && a.State.Readable() {
			if len(rt.Indirection) > 0 {
				return 0, b.unsupported(rt.Location, "assigning to a part of a column")
			}
			return i, nil
		}
	}
	return 0, b.errorf(rt.Location, pgerrcode.UndefinedColumn, "column \"%s\" of relation \"%s\" does not exist", rt.Name, t.Name)
}

// assign coerces a value to a column's type, as an assignment.
func (b *Binder) assign(e expr.Expr, a *catalog.Column, loc int32) (expr.Expr, error) {
	out, ok, err := b.coerce(e, a.Type.OID, a.Type.Mod, assignment, loc)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, b.mismatch(a, e.Type(), loc)
	}
	return out, nil
}

func (b *Binder) mismatch(a *catalog.Column, t types.OID, loc int32) error {
	return b.errorf(loc, pgerrcode.DatatypeMismatch, "column \"%s\" is of type %s but expression is of type %s", a.Name, typeName(a.Type.OID), typeName(t)).
		WithHint("You will need to rewrite or cast the expression.")
}

// insert binds INSERT.
func (b *Binder) insert(s *ast.InsertStmt, outer *scope) (logical.Node, error) {
	mark := len(b.withs)
	defer func() { b.withs = b.withs[:mark] }()
	if s.WithClause != nil {
		if err := b.with(s.WithClause, outer); err != nil {
			return nil, err
		}
	}
	rel, err := b.target(s.Relation, "insert into")
	if err != nil {
		return nil, err
	}
	t := rel.Table
	n := &logical.Insert{Table: t, Attrs: t.WritableColumns()}
	cols, err := b.insertColumns(t, n.Attrs, s.Cols)
	if err != nil {
		return nil, err
	}
	if n.In, err = b.insertSource(s, t, n.Attrs, cols, outer); err != nil {
		return nil, err
	}
	n.Row = b.rowColumns(t, n.Attrs)
	if n.Checks, err = b.checks(t, n.Attrs, n.Row); err != nil {
		return nil, err
	}
	alias := s.Relation.Relname
	if s.Relation.Alias != nil {
		alias = s.Relation.Alias.Aliasname
	}
	if c := s.OnConflictClause; c != nil && c.Action != ast.OnConflictAction_ONCONFLICT_NONE {
		if n.Conflict, err = b.conflict(c, rel, n, alias); err != nil {
			return nil, err
		}
	}
	if len(s.ReturningList) > 0 {
		it := rowItem(alias, t.Name, t, n.Attrs, n.Row)
		if n.Returning, err = b.returning(s.ReturningList, &scope{parent: outer, items: []*nsItem{it}}); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// insertColumns returns the positions in attrs that the statement gives values for.
func (b *Binder) insertColumns(t *catalog.Table, attrs []*catalog.Column, list []*ast.Node) ([]int, error) {
	var out []int
	if len(list) == 0 {
		for i, a := range attrs {
			if !a.Hidden && a.State.Readable() {
				out = append(out, i)
			}
		}
		return out, nil
	}
	seen := map[int]bool{}
	for _, n := range list {
		rt := n.GetResTarget()
		p, err := b.targetColumn(t, attrs, rt)
		if err != nil {
			return nil, err
		}
		if seen[p] {
			return nil, b.errorf(rt.Location, pgerrcode.DuplicateColumn, "column \"%s\" specified more than once", rt.Name)
		}
		seen[p] = true
		out = append(out, p)
	}
	return out, nil
}

// insertSource binds what is inserted: one value for each of attrs.
func (b *Binder) insertSource(s *ast.InsertStmt, t *catalog.Table, attrs []*catalog.Column, cols []int, outer *scope) (logical.Node, error) {
	explicitCols := len(s.Cols) > 0
	defaults := func() ([]expr.Expr, error) {
		row := make([]expr.Expr, len(attrs))
		for i, a := range attrs {
			e, err := b.defaultExpr(t, a)
			if err != nil {
				return nil, err
			}
			row[i] = e
		}
		return row, nil
	}
	count := func(n int, loc func(i int) int32) error {
		if n > len(cols) {
			return b.errorf(loc(len(cols)), pgerrcode.SyntaxError, "INSERT has more expressions than target columns")
		}
		if n < len(cols) && explicitCols {
			return b.errorf(s.Cols[n].GetResTarget().GetLocation(), pgerrcode.SyntaxError, "INSERT has more target columns than expressions")
		}
		return nil
	}
	override := s.Override == ast.OverridingKind_OVERRIDING_SYSTEM_VALUE
	identity := func(a *catalog.Column, loc int32) error {
		if a.Identity == catalog.IdentityAlways && !override {
			return b.errorf(loc, pgerrcode.GeneratedAlways, "cannot insert a non-DEFAULT value into column \"%s\"", a.Name).
				WithDetail("Column \"%s\" is an identity column defined as GENERATED ALWAYS.", a.Name).
				WithHint("Use OVERRIDING SYSTEM VALUE to override.")
		}
		return nil
	}
	sel := s.SelectStmt.GetSelectStmt()
	if sel == nil || len(sel.ValuesLists) > 0 && len(sel.SortClause) == 0 && sel.LimitCount == nil && sel.LimitOffset == nil && sel.WithClause == nil {
		v := &logical.Values{Columns: b.rowColumns(t, attrs)}
		if sel == nil {
			row, err := defaults()
			v.Rows = [][]expr.Expr{row}
			return v, err
		}
		x := &exprCtx{scope: &scope{parent: outer}, clause: "VALUES"}
		width := len(sel.ValuesLists[0].GetList().GetItems())
		for _, l := range sel.ValuesLists {
			items := l.GetList().GetItems()
			if len(items) != width {
				return nil, b.errorf(location(l), pgerrcode.SyntaxError, "VALUES lists must all be the same length")
			}
			if err := count(len(items), func(i int) int32 { return location(items[i]) }); err != nil {
				return nil, err
			}
			row, err := defaults()
			if err != nil {
				return nil, err
			}
			for i, it := range items {
				a := attrs[cols[i]]
				if it.GetSetToDefault() != nil {
					continue
				}
				if err := identity(a, location(it)); err != nil {
					return nil, err
				}
				if s.Override == ast.OverridingKind_OVERRIDING_USER_VALUE && a.Identity != catalog.NoIdentity {
					continue
				}
				e, err := b.expr(x, it)
				if err != nil {
					return nil, err
				}
				if row[cols[i]], err = b.assign(e, a, location(it)); err != nil {
					return nil, err
				}
			}
			v.Rows = append(v.Rows, row)
		}
		return v, nil
	}
	q, err := b.selectStmt(sel, outer)
	if err != nil {
		return nil, err
	}
	if err := count(len(q.cols), func(i int) int32 { return nthTarget(sel, i) }); err != nil {
		return nil, err
	}
	for i := range q.cols {
		a := attrs[cols[i]]
		if err := identity(a, nthTarget(sel, i)); err != nil {
			return nil, err
		}
		from := q.cols[i].Typ
		if ok, err := b.coerceOutput(q, i, a.Type.OID, a.Type.Mod, assignment); err != nil {
			return nil, err
		} else if !ok {
			return nil, b.mismatch(a, from, nthTarget(sel, i))
		}
	}
	row, err := defaults()
	if err != nil {
		return nil, err
	}
	for i := range q.cols {
		row[cols[i]] = q.cols[i].Ref()
	}
	return &logical.Project{In: q.node, Columns: b.rowColumns(t, attrs), Exprs: row}, nil
}

// defaultExpr binds a column's default; NULL if it has none.
func (b *Binder) defaultExpr(t *catalog.Table, a *catalog.Column) (expr.Expr, error) {
	switch {
	case a.Hidden && a.ID == catalog.RowIDColumn:
		return &expr.RowID{}, nil
	case a.Identity != catalog.NoIdentity:
		e, err := b.nextval(a.Sequence)
		if err != nil {
			return nil, err
		}
		return b.assign(e, a, -1)
	case a.Default == "":
		return &expr.Const{Typ: a.Type.OID, TMod: a.Type.Mod, Location: -1}, nil
	}
	e, err := b.snippet(a.Default, nil, "DEFAULT expressions")
	if err != nil {
		return nil, err
	}
	return b.assign(e, a, -1)
}

// snippet binds an expression that the catalog keeps as text, over the columns of sc.
func (b *Binder) snippet(text string, sc *scope, clause string) (expr.Expr, error) {
	sts, err := parser.Parse("SELECT " + text)
	if err != nil || len(sts) != 1 || len(sts[0].Node.GetSelectStmt().GetTargetList()) != 1 {
		return nil, pgerror.New(pgerrcode.DataCorrupted, "stored expression \"%s\" cannot be parsed: %v", text, err)
	}
	if sc == nil {
		sc = &scope{}
	}
	old := b.st
	b.st = sts[0]
	defer func() { b.st = old }()
	frozen := b.Result.Frozen
	e, err := b.expr(&exprCtx{scope: sc, clause: clause}, sts[0].Node.GetSelectStmt().TargetList[0].GetResTarget().Val)
	b.Result.Frozen = frozen // names in stored expressions are dependencies of the table
	if pe, ok := err.(*pgerror.Error); ok {
		pe.Position = 0
	}
	return e, err
}

// checks binds the check constraints over the columns of a written row.
func (b *Binder) checks(t *catalog.Table, attrs []*catalog.Column, row []logical.Column) ([]logical.Check, error) {
	var out []logical.Check
	for _, c := range t.Checks() {
		it := newItem(t.Name, row)
		for i, a := range attrs {
			it.cols[i].hidden = a.Hidden
		}
		e, err := b.snippet(c.Expr, &scope{items: []*nsItem{it}}, "check constraints")
		if err != nil {
			return nil, err
		}
		if e, err = b.boolean(e, "CHECK", -1); err != nil {
			return nil, err
		}
		out = append(out, logical.Check{Name: c.Name, Cond: e})
	}
	return out, nil
}

func (b *Binder) returning(list []*ast.Node, sc *scope) (*logical.Returning, error) {
	l, err := b.targetList(sc, nil, list, "RETURNING")
	if err != nil {
		return nil, err
	}
	r := &logical.Returning{}
	for _, t := range l {
		e, err := b.textIfUnknown(t.e)
		if err != nil {
			return nil, err
		}
		c := logical.Column{ID: b.newID(), Name: t.name, Typ: e.Type(), Mod: e.Mod()}
		if col, ok := e.(*expr.Col); ok {
			for _, it := range sc.items {
				for i := range it.cols {
					if it.cols[i].ID == col.ID {
						c.Table, c.Attr = it.cols[i].Table, it.cols[i].Attr
					}
				}
			}
		}
		r.Columns, r.Exprs = append(r.Columns, c), append(r.Exprs, e)
	}
	return r, nil
}

// conflict binds ON CONFLICT.
func (b *Binder) conflict(c *ast.OnConflictClause, rel *Relation, n *logical.Insert, alias string) (*logical.Conflict, error) {
	t := rel.Table
	out := &logical.Conflict{Update: c.Action == ast.OnConflictAction_ONCONFLICT_UPDATE}
	var err error
	if out.Arbiters, err = b.arbiters(c, t); err != nil {
		return nil, err
	}
	if !out.Update {
		return out, nil
	}
	if out.Arbiters == nil {
		return nil, b.errorf(c.Location, pgerrcode.SyntaxError, "ON CONFLICT DO UPDATE requires inference specification or constraint name").
			WithHint("For example, ON CONFLICT (column_name).")
	}
	out.Existing, out.Excluded = b.rowColumns(t, n.Attrs), b.rowColumns(t, n.Attrs)
	target := rowItem(alias, t.Name, t, n.Attrs, out.Existing)
	excluded := rowItem("excluded", "excluded", t, n.Attrs, out.Excluded)
	excluded.relation = nil
	sc := &scope{items: []*nsItem{target, excluded}}
	// A plain name in WHERE or SET means the target... only if excluded has no such column,
	// which it always has: PostgreSQL calls it ambiguous, too.
	if out.Set, err = b.setList(c.TargetList, t, n.Attrs, sc); err != nil {
		return nil, err
	}
	if c.WhereClause != nil {
		if out.Where, err = b.where(sc, c.WhereClause); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// arbiters finds the unique indexes that ON CONFLICT names; nil if it names none.
func (b *Binder) arbiters(c *ast.OnConflictClause, t *catalog.Table) ([]*catalog.Index, error) {
	if c.Infer == nil {
		return nil, nil
	}
	if c.Infer.Conname != "" {
		con := t.ConstraintByName(c.Infer.Conname)
		if con == nil {
			return nil, b.errorf(c.Infer.Location, pgerrcode.UndefinedObject, "constraint \"%s\" for table \"%s\" does not exist", c.Infer.Conname, t.Name)
		}
		ix := t.IndexByID(con.Index)
		if ix == nil || con.Kind != catalog.PrimaryKeyConstraint && con.Kind != catalog.UniqueConstraint {
			return nil, b.errorf(c.Infer.Location, pgerrcode.WrongObjectType, "constraint in ON CONFLICT clause has no associated index")
		}
		return []*catalog.Index{ix}, nil
	}
	want := map[catalog.ColumnID]bool{}
	for _, n := range c.Infer.IndexElems {
		e := n.GetIndexElem()
		if e.Expr != nil {
			return nil, b.unsupported(c.Infer.Location, "ON CONFLICT over an expression")
		}
		col := t.ColumnByName(e.Name)
		if col == nil {
			return nil, b.errorf(c.Infer.Location, pgerrcode.UndefinedColumn, "column \"%s\" does not exist", e.Name)
		}
		want[col.ID] = true
	}
	var out []*catalog.Index
	for _, ix := range t.WritableIndexes() {
		if !ix.Unique && !ix.Primary || ix.State != 0 && !ix.State.Readable() || len(ix.Columns) != len(want) {
			continue
		}
		match := true
		for _, ic := range ix.Columns {
			match = match && want[ic.Column]
		}
		if match {
			out = append(out, ix)
		}
	}
	if len(out) == 0 {
		return nil, b.errorf(-1, pgerrcode.InvalidColumnReference, "there is no unique or exclusion constraint matching the ON CONFLICT specification")
	}
	return out, nil
}

// setList binds the assignments of UPDATE and ON CONFLICT DO UPDATE.
func (b *Binder) setList(list []*ast.Node, t *catalog.Table, attrs []*catalog.Column, sc *scope) ([]logical.SetCol, error) {
	x := &exprCtx{scope: sc, clause: "UPDATE"}
	var out []logical.SetCol
	seen := map[int]bool{}
	for _, n := range list {
		rt := n.GetResTarget()
		pos, err := b.targetColumn(t, attrs, rt)
		if err != nil {
			return nil, err
		}
		if seen[pos] {
			return nil, b.errorf(-1, pgerrcode.SyntaxError, "multiple assignments to same column \"%s\"", rt.Name)
		}
		seen[pos] = true
		a := attrs[pos]
		val, sub, err := b.assignSource(rt.Val)
		if err != nil {
			return nil, err
		}
		var e expr.Expr
		switch {
		case sub != nil:
			e, err = b.subqueryColumn(x, sub, rt.Val.GetMultiAssignRef())
		case val.GetSetToDefault() != nil:
			e, err = b.defaultExpr(t, a)
		default:
			if a.Identity == catalog.IdentityAlways {
				return nil, b.errorf(rt.Location, pgerrcode.GeneratedAlways, "column \"%s\" can only be updated to DEFAULT", a.Name).
					WithDetail("Column \"%s\" is an identity column defined as GENERATED ALWAYS.", a.Name)
			}
			e, err = b.expr(x, val)
		}
		if err != nil {
			return nil, err
		}
		if e, err = b.assign(e, a, location(val)); err != nil {
			return nil, err
		}
		out = append(out, logical.SetCol{Attr: a, Pos: pos, Expr: e})
	}
	return out, nil
}

// assignSource returns the value node of an assignment; (a, b) = (...) is taken apart.
func (b *Binder) assignSource(n *ast.Node) (*ast.Node, *ast.SubLink, error) {
	m := n.GetMultiAssignRef()
	if m == nil {
		return n, nil, nil
	}
	if sub := m.Source.GetSubLink(); sub != nil {
		return n, sub, nil
	}
	row := m.Source.GetRowExpr()
	if row == nil {
		return nil, nil, b.errorf(location(m.Source), pgerrcode.FeatureNotSupported, "source for a multiple-column UPDATE item must be a sub-SELECT or ROW() expression")
	}
	if len(row.Args) != int(m.Ncolumns) {
		return nil, nil, b.errorf(row.Location, pgerrcode.SyntaxError, "number of columns does not match number of values")
	}
	return row.Args[m.Colno-1], nil, nil
}

// subqueryColumn binds one column of a subquery of several.
func (b *Binder) subqueryColumn(x *exprCtx, sub *ast.SubLink, m *ast.MultiAssignRef) (expr.Expr, error) {
	q, err := b.subquery(sub.Subselect.GetSelectStmt(), x.scope)
	if err != nil {
		return nil, err
	}
	if len(q.cols) != int(m.Ncolumns) {
		return nil, b.errorf(sub.Location, pgerrcode.SyntaxError, "number of columns does not match number of values")
	}
	q.cols = q.cols[m.Colno-1 : m.Colno]
	q.trim()
	b.nsub++
	return &expr.Subquery{Kind: expr.ScalarSubquery, Number: b.nsub, Plan: q.node, Typ: q.cols[0].Typ, TMod: q.cols[0].Mod}, nil
}

// targetScan reads the table that UPDATE or DELETE changes, with every stored column.
func (b *Binder) targetScan(t *catalog.Table, alias string) *logical.Scan {
	n := &logical.Scan{Table: t, Alias: alias}
	for i := range t.Columns {
		c := &t.Columns[i]
		n.Columns = append(n.Columns, logical.Column{ID: b.newID(), Name: c.Name, Typ: c.Type.OID, Mod: c.Type.Mod, Table: t.ID, Attr: c.ID})
		n.Attrs = append(n.Attrs, c)
	}
	b.keyColumns(n)
	return n
}

// changed binds what UPDATE and DELETE have in common: the target, the other tables, WHERE.
func (b *Binder) changed(rel *Relation, v *ast.RangeVar, from []*ast.Node, where *ast.Node, outer *scope) (*logical.Scan, logical.Node, *scope, error) {
	alias := v.Relname
	if v.Alias != nil {
		alias = v.Alias.Aliasname
	}
	scan := b.targetScan(rel.Table, alias)
	it := rowItem(alias, rel.Table.Name, rel.Table, scan.Attrs, scan.Columns)
	it.scan = scan
	sc := &scope{parent: outer, items: []*nsItem{it}}
	var node logical.Node = scan
	if len(from) > 0 {
		other := &scope{parent: outer}
		src, err := b.from(from, outer, other)
		if err != nil {
			return nil, nil, nil, err
		}
		if err := b.addItems(sc, other.items); err != nil {
			return nil, nil, nil, err
		}
		node = joinNode(logical.Inner, scan, src)
	}
	if where != nil {
		if where.GetCurrentOfExpr() != nil {
			return nil, nil, nil, b.unsupported(-1, "WHERE CURRENT OF")
		}
		e, err := b.where(sc, where)
		if err != nil {
			return nil, nil, nil, err
		}
		node = &logical.Filter{In: node, Preds: expr.Conjuncts(e)}
	}
	node = &logical.LockRows{In: node, Scans: []*logical.Scan{scan}, Lock: []logical.Lock{{Strength: kv.LockExclusive}}}
	return scan, node, sc, nil
}

// update binds UPDATE.
func (b *Binder) update(s *ast.UpdateStmt, outer *scope) (logical.Node, error) {
	mark := len(b.withs)
	defer func() { b.withs = b.withs[:mark] }()
	if s.WithClause != nil {
		if err := b.with(s.WithClause, outer); err != nil {
			return nil, err
		}
	}
	rel, err := b.target(s.Relation, "update")
	if err != nil {
		return nil, err
	}
	scan, node, sc, err := b.changed(rel, s.Relation, s.FromClause, s.WhereClause, outer)
	if err != nil {
		return nil, err
	}
	n := &logical.Update{In: node, Target: scan, Attrs: scan.Attrs}
	if n.Set, err = b.setList(s.TargetList, rel.Table, scan.Attrs, sc); err != nil {
		return nil, err
	}
	n.Row = b.rowColumns(rel.Table, scan.Attrs)
	if n.Checks, err = b.checks(rel.Table, n.Attrs, n.Row); err != nil {
		return nil, err
	}
	if len(s.ReturningList) > 0 {
		items := append([]*nsItem{rowItem(sc.items[0].alias, rel.Table.Name, rel.Table, n.Attrs, n.Row)}, sc.items[1:]...)
		if n.Returning, err = b.returning(s.ReturningList, &scope{parent: outer, items: items}); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// delete binds DELETE.
func (b *Binder) delete(s *ast.DeleteStmt, outer *scope) (logical.Node, error) {
	mark := len(b.withs)
	defer func() { b.withs = b.withs[:mark] }()
	if s.WithClause != nil {
		if err := b.with(s.WithClause, outer); err != nil {
			return nil, err
		}
	}
	rel, err := b.target(s.Relation, "delete from")
	if err != nil {
		return nil, err
	}
	scan, node, sc, err := b.changed(rel, s.Relation, s.UsingClause, s.WhereClause, outer)
	if err != nil {
		return nil, err
	}
	n := &logical.Delete{In: node, Target: scan}
	if len(s.ReturningList) > 0 {
		if n.Returning, err = b.returning(s.ReturningList, sc); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// BulkInsert binds the insertion of rows from outside (COPY): the node, the positions of the
// given columns among its Attrs, and the defaults of the others.
func (b *Binder) BulkInsert(t *catalog.Table, columns []string) (*logical.Insert, []int, []expr.Expr, error) {
	b.Result.Written[t.ID] = t
	n := &logical.Insert{Table: t, Attrs: t.WritableColumns()}
	var positions []int
	given := map[int]bool{}
	for _, name := range columns {
		p, err := b.targetColumn(t, n.Attrs, &ast.ResTarget{Name: name, Location: -1})
		if err != nil {
			return nil, nil, nil, err
		}
		if given[p] {
			return nil, nil, nil, pgerror.New(pgerrcode.DuplicateColumn, "column \"%s\" specified more than once", name)
		}
		given[p] = true
		positions = append(positions, p)
	}
	if len(columns) == 0 {
		for i, a := range n.Attrs {
			if !a.Hidden && a.State.Readable() {
				given[i] = true
				positions = append(positions, i)
			}
		}
	}
	defaults := make([]expr.Expr, len(n.Attrs))
	for i, a := range n.Attrs {
		if given[i] {
			continue
		}
		e, err := b.defaultExpr(t, a)
		if err != nil {
			return nil, nil, nil, err
		}
		defaults[i] = e
	}
	n.Row = b.rowColumns(t, n.Attrs)
	var err error
	n.Checks, err = b.checks(t, n.Attrs, n.Row)
	return n, positions, defaults, err
}
