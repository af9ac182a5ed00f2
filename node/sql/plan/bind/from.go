package bind

import (
	"errors"
	"strconv"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

func itoa(i int) string { return strconv.Itoa(i) }

// from binds a FROM list. Without one, it is a single empty row.
func (b *Binder) from(list []*ast.Node, outer *scope, sc *scope) (logical.Node, error) {
	var node logical.Node
	for _, n := range list {
		right, items, err := b.fromItem(n, outer, sc.items)
		if err != nil {
			return nil, err
		}
		if err := b.addItems(sc, items); err != nil {
			return nil, err
		}
		if node == nil {
			node = right
		} else {
			node = joinNode(logical.Inner, node, right)
		}
	}
	if node == nil {
		node = &logical.Values{Rows: [][]expr.Expr{{}}}
	}
	return node, nil
}

func joinNode(k logical.JoinKind, l, r logical.Node) *logical.Join {
	return &logical.Join{Kind: k, L: l, R: r, Lateral: logical.Free(r).Intersects(logical.ColSet(l))}
}

// addItems adds FROM items, whose aliases must differ.
func (b *Binder) addItems(sc *scope, items []*nsItem) error {
	for _, it := range items {
		if it.alias != "" && !it.relHidden {
			for _, o := range sc.items {
				if o.alias == it.alias && !o.relHidden && (o.schema == it.schema || o.schema == "" || it.schema == "") {
					return b.errorf(-1, pgerrcode.DuplicateAlias, "table name \"%s\" specified more than once", it.alias)
				}
			}
		}
		sc.items = append(sc.items, it)
	}
	return nil
}

// fromItem binds one FROM item. left are the items before it, which LATERAL can see.
func (b *Binder) fromItem(n *ast.Node, outer *scope, left []*nsItem) (logical.Node, []*nsItem, error) {
	switch v := n.GetNode().(type) {
	case *ast.Node_RangeVar:
		return b.rangeVar(v.RangeVar)
	case *ast.Node_RangeSubselect:
		return b.rangeSubselect(v.RangeSubselect, outer, left)
	case *ast.Node_RangeFunction:
		return b.rangeFunction(v.RangeFunction, outer, left)
	case *ast.Node_JoinExpr:
		return b.join(v.JoinExpr, outer, left)
	case *ast.Node_RangeTableSample:
		return nil, nil, b.unsupported(v.RangeTableSample.Location, "TABLESAMPLE")
	}
	return nil, nil, b.errorf(location(n), pgerrcode.FeatureNotSupported, "this FROM item is not supported")
}

// relation looks a relation up; 42P01 if there is none.
func (b *Binder) relation(v *ast.RangeVar) (*Relation, error) {
	rel, err := b.opts.Catalog.Relation(b.ctx, v.Catalogname, v.Schemaname, v.Relname)
	var pe *pgerror.Error
	if errors.As(err, &pe) && pe.Code == pgerrcode.InvalidSchemaName {
		rel, err = nil, nil // PostgreSQL misses the relation, not its schema
	}
	if err != nil {
		return nil, b.at(err, v.Location)
	}
	if rel == nil {
		name := v.Relname
		if v.Schemaname != "" {
			name = v.Schemaname + "." + name
		}
		return nil, b.errorf(v.Location, pgerrcode.UndefinedTable, "relation \"%s\" does not exist", name)
	}
	if rel.Table != nil {
		b.Result.Tables[rel.Table.ID] = rel.Table
	}
	return rel, nil
}

func (b *Binder) rangeVar(v *ast.RangeVar) (logical.Node, []*nsItem, error) {
	if v.Schemaname == "" {
		for i := len(b.withs) - 1; i >= 0; i-- {
			if b.withs[i].name == v.Relname {
				return b.cteRef(v, &b.withs[i])
			}
		}
	}
	rel, err := b.relation(v)
	if err != nil {
		return nil, nil, err
	}
	alias := v.Relname
	if v.Alias != nil {
		alias = v.Alias.Aliasname
	}
	switch {
	case rel.Table != nil:
		scan := b.scan(rel.Table, alias)
		it := b.scanItem(scan, alias, v.Relname)
		if v.Alias == nil {
			it.schema = rel.Schema
		} else if err := b.aliasColumns(it, v.Alias); err != nil {
			return nil, nil, err
		}
		return scan, []*nsItem{it}, nil
	case rel.Virtual != nil:
		n := &logical.VirtualScan{Table: rel.Virtual, Alias: alias}
		for i, c := range rel.Virtual.Columns() {
			n.Columns = append(n.Columns, logical.Column{ID: b.newID(), Name: c.Name, Typ: c.Type.OID, Mod: c.Type.Mod, Table: rel.Virtual.ID(), Attr: catalog.ColumnID(i + 1)})
		}
		it := newItem(alias, n.Columns)
		it.table, it.virtual = v.Relname, rel.Virtual.ID()
		if v.Alias == nil {
			it.schema = rel.Schema
		} else if err := b.aliasColumns(it, v.Alias); err != nil {
			return nil, nil, err
		}
		return n, []*nsItem{it}, nil
	case rel.Sequence != nil:
		return b.sequenceScan(v, rel, alias)
	case rel.View != nil:
		return nil, nil, b.unsupported(v.Location, "reading a view")
	}
	return nil, nil, b.errorf(v.Location, pgerrcode.WrongObjectType, "\"%s\" is an index", v.Relname)
}

// sequenceScan reads a sequence as a table: SELECT last_value FROM s.
func (b *Binder) sequenceScan(v *ast.RangeVar, rel *Relation, alias string) (logical.Node, []*nsItem, error) {
	vals, err := b.sequenceRow(rel.Sequence, v.Location)
	if err != nil {
		return nil, nil, err
	}
	n := &logical.Values{Rows: [][]expr.Expr{vals}, Columns: []logical.Column{
		{ID: b.newID(), Name: "last_value", Typ: types.OIDInt8, Mod: -1},
		{ID: b.newID(), Name: "log_cnt", Typ: types.OIDInt8, Mod: -1},
		{ID: b.newID(), Name: "is_called", Typ: types.OIDBool, Mod: -1},
	}}
	it := newItem(alias, n.Columns)
	it.table, it.schema = v.Relname, rel.Schema
	if v.Alias != nil {
		it.schema = ""
		if err := b.aliasColumns(it, v.Alias); err != nil {
			return nil, nil, err
		}
	}
	return n, []*nsItem{it}, nil
}

// scan makes a node that reads all readable columns of a table.
func (b *Binder) scan(t *catalog.Table, alias string) *logical.Scan {
	n := &logical.Scan{Table: t, Alias: alias}
	for _, c := range t.ReadableColumns() {
		n.Columns = append(n.Columns, logical.Column{ID: b.newID(), Name: c.Name, Typ: c.Type.OID, Mod: c.Type.Mod, Table: t.ID, Attr: c.ID})
		n.Attrs = append(n.Attrs, c)
	}
	return n
}

func (b *Binder) scanItem(n *logical.Scan, alias, name string) *nsItem {
	it := newItem(alias, n.Columns)
	it.table, it.relation, it.scan = name, n.Table, n
	for i, c := range n.Attrs {
		it.cols[i].hidden = c.Hidden
	}
	return it
}

// keyColumns adds the row's key and version to a scan.
func (b *Binder) keyColumns(n *logical.Scan) {
	if n.KeyCols != nil {
		return
	}
	n.KeyCols = []logical.Column{
		{ID: b.newID(), Name: "(key)", Typ: types.OIDBytea, Mod: -1},
		{ID: b.newID(), Name: "(version)", Typ: types.OIDInt8, Mod: -1},
		{ID: b.newID(), Name: "(logical)", Typ: types.OIDInt8, Mod: -1},
	}
}

// aliasColumns applies the column names of an alias: FROM t AS a(x, y).
func (b *Binder) aliasColumns(it *nsItem, a *ast.Alias) error {
	l := names(a.Colnames)
	i := 0
	for j := range it.cols {
		if it.cols[j].hidden || i >= len(l) {
			continue
		}
		it.cols[j].Name = l[i]
		i++
	}
	if i < len(l) {
		return b.errorf(-1, pgerrcode.InvalidColumnReference, "table \"%s\" has %d columns available but %d columns specified", it.alias, i, len(l))
	}
	return nil
}

func (b *Binder) cteRef(v *ast.RangeVar, w *withName) (logical.Node, []*nsItem, error) {
	if w.cte.DML && len(w.cols) == 0 {
		return nil, nil, b.errorf(v.Location, pgerrcode.FeatureNotSupported, "WITH query \"%s\" does not have a RETURNING clause", w.name)
	}
	alias := v.Relname
	if v.Alias != nil {
		alias = v.Alias.Aliasname
	}
	n := &logical.CTEScan{CTE: w.cte, Alias: alias, Columns: b.freshColumns(w.cols), Work: w.work}
	it := newItem(alias, n.Columns)
	it.table = v.Relname
	if v.Alias != nil {
		if err := b.aliasColumns(it, v.Alias); err != nil {
			return nil, nil, err
		}
	}
	return n, []*nsItem{it}, nil
}

func (b *Binder) rangeSubselect(v *ast.RangeSubselect, outer *scope, left []*nsItem) (logical.Node, []*nsItem, error) {
	parent := outer
	if v.Lateral {
		parent = &scope{parent: outer, items: left}
	}
	q, err := b.subquery(v.Subquery.GetSelectStmt(), parent)
	if err != nil {
		return nil, nil, err
	}
	alias := ""
	if v.Alias != nil {
		alias = v.Alias.Aliasname
	}
	it := newItem(alias, q.cols)
	if v.Alias == nil {
		it.relHidden = true
	} else if err := b.aliasColumns(it, v.Alias); err != nil {
		return nil, nil, err
	}
	return q.node, []*nsItem{it}, nil
}

// rangeFunction binds functions in FROM.
func (b *Binder) rangeFunction(v *ast.RangeFunction, outer *scope, left []*nsItem) (logical.Node, []*nsItem, error) {
	sc := &scope{parent: outer, items: left}
	n := &logical.FuncScan{}
	alias := ""
	for _, f := range v.Functions {
		l := f.GetList().GetItems()
		if len(l) == 0 {
			continue
		}
		if len(l) > 1 && l[1].GetNode() != nil && len(l[1].GetList().GetItems()) > 0 {
			return nil, nil, b.unsupported(location(l[0]), "a column definition list")
		}
		if fc := l[0].GetFuncCall(); fc != nil && len(fc.Args) > 1 && isUnnest(fc) {
			// unnest(a, b) is ROWS FROM (unnest(a), unnest(b)).
			for _, a := range fc.Args {
				one := &ast.FuncCall{Funcname: fc.Funcname, Args: []*ast.Node{a}, Location: fc.Location}
				fn, _, err := b.tableFunction(sc, &ast.Node{Node: &ast.Node_FuncCall{FuncCall: one}})
				if err != nil {
					return nil, nil, err
				}
				n.Funcs = append(n.Funcs, fn)
			}
			alias = "unnest"
			continue
		}
		fn, name, err := b.tableFunction(sc, l[0])
		if err != nil {
			return nil, nil, err
		}
		if alias == "" {
			alias = name
		}
		n.Funcs = append(n.Funcs, fn)
	}
	if len(v.Coldeflist) > 0 {
		return nil, nil, b.unsupported(-1, "a column definition list")
	}
	if v.Ordinality {
		n.Ordinality = &logical.Column{ID: b.newID(), Name: "ordinality", Typ: types.OIDInt8, Mod: -1}
	}
	if v.Alias != nil {
		alias = v.Alias.Aliasname
		// The alias names the only column of a function that yields one.
		if len(n.Funcs) == 1 && len(n.Funcs[0].Cols) == 1 && !n.Funcs[0].Named {
			n.Funcs[0].Cols[0].Name = alias
		}
	}
	n.Alias = alias
	it := newItem(alias, n.Cols())
	it.function = true
	if v.Alias != nil {
		if err := b.aliasColumns(it, v.Alias); err != nil {
			return nil, nil, err
		}
	}
	return n, []*nsItem{it}, nil
}

func isUnnest(fc *ast.FuncCall) bool {
	l := names(fc.Funcname)
	return len(l) > 0 && l[len(l)-1] == "unnest"
}

// tableFunction binds a function call as a table.
func (b *Binder) tableFunction(sc *scope, n *ast.Node) (*logical.SetFunc, string, error) {
	fc := n.GetFuncCall()
	x := &exprCtx{scope: sc, clause: "functions in FROM"}
	if fc != nil {
		// A set-returning function is taken out of the level that collects it.
		lv := &level{scope: sc}
		x.level, x.srfs = lv, true
		e, err := b.expr(x, n)
		if err != nil {
			return nil, "", err
		}
		parts := names(fc.Funcname)
		name := parts[len(parts)-1]
		if len(lv.srfs) > 0 {
			last := lv.srfs[len(lv.srfs)-1]
			if len(lv.srfs) > 1 {
				return nil, "", b.errorf(fc.Location, pgerrcode.FeatureNotSupported, "set-returning functions must appear at top level of FROM")
			}
			return last, name, nil
		}
		return b.scalarFunction(name, e), name, nil
	}
	e, err := b.expr(x, n)
	if err != nil {
		return nil, "", err
	}
	name := figureName(n)
	return b.scalarFunction(name, e), name, nil
}

func (b *Binder) scalarFunction(name string, e expr.Expr) *logical.SetFunc {
	return &logical.SetFunc{Name: name, Scalar: e, Cols: []logical.Column{{ID: b.newID(), Name: name, Typ: e.Type(), Mod: e.Mod()}}}
}

// join binds a JOIN.
func (b *Binder) join(v *ast.JoinExpr, outer *scope, left []*nsItem) (logical.Node, []*nsItem, error) {
	l, litems, err := b.fromItem(v.Larg, outer, left)
	if err != nil {
		return nil, nil, err
	}
	seen := append(append([]*nsItem(nil), left...), litems...)
	r, ritems, err := b.fromItem(v.Rarg, outer, seen)
	if err != nil {
		return nil, nil, err
	}
	kind := logical.Inner
	switch v.Jointype {
	case ast.JoinType_JOIN_LEFT:
		kind = logical.Left
	case ast.JoinType_JOIN_RIGHT:
		kind = logical.Right
	case ast.JoinType_JOIN_FULL:
		kind = logical.Full
	}
	j := joinNode(kind, l, r)
	if j.Lateral && kind != logical.Inner && kind != logical.Left {
		return nil, nil, b.errorf(-1, pgerrcode.InvalidColumnReference, "the combining JOIN type must be INNER or LEFT for a LATERAL reference")
	}
	sc := &scope{parent: outer}
	if err := b.addItems(sc, litems); err != nil {
		return nil, nil, err
	}
	if err := b.addItems(sc, ritems); err != nil {
		return nil, nil, err
	}
	var node logical.Node = j
	items := sc.items
	using := names(v.UsingClause)
	if v.IsNatural {
		using = commonNames(litems, ritems)
	}
	if len(using) > 0 {
		merged, n, err := b.using(j, using, litems, ritems)
		if err != nil {
			return nil, nil, err
		}
		node = n
		if v.JoinUsingAlias != nil {
			a := newItem(v.JoinUsingAlias.Aliasname, nil)
			for _, c := range merged.cols {
				c.merged = true
				a.cols = append(a.cols, c)
			}
			items = append(items, a)
		}
		items = append([]*nsItem{merged}, items...)
	} else if v.Quals != nil {
		e, err := b.expr(&exprCtx{scope: sc, clause: "JOIN conditions"}, v.Quals)
		if err != nil {
			return nil, nil, err
		}
		if e, err = b.boolean(e, "JOIN/ON", location(v.Quals)); err != nil {
			return nil, nil, err
		}
		j.On = expr.Conjuncts(e)
	}
	if v.Alias != nil {
		it := &nsItem{alias: v.Alias.Aliasname}
		for _, o := range items {
			for _, c := range o.cols {
				if !c.merged && !c.hidden {
					it.cols = append(it.cols, c)
				}
			}
		}
		if err := b.aliasColumns(it, v.Alias); err != nil {
			return nil, nil, err
		}
		items = []*nsItem{it}
	}
	return node, items, nil
}

// commonNames returns the column names that both sides of a NATURAL JOIN have.
func commonNames(l, r []*nsItem) []string {
	have := map[string]bool{}
	for _, it := range r {
		for _, c := range it.cols {
			if !c.merged && !c.hidden {
				have[c.Name] = true
			}
		}
	}
	var out []string
	for _, it := range l {
		for _, c := range it.cols {
			if !c.merged && !c.hidden && have[c.Name] {
				out = append(out, c.Name)
			}
		}
	}
	return out
}

// using merges the columns of JOIN ... USING.
func (b *Binder) using(j *logical.Join, cols []string, l, r []*nsItem) (*nsItem, logical.Node, error) {
	merged := &nsItem{}
	proj := &logical.Project{In: j}
	find := func(items []*nsItem, name, side string) (*expr.Col, []*nsCol, error) {
		var ref *expr.Col
		var hit []*nsCol
		for _, it := range items {
			for i := range it.cols {
				c := &it.cols[i]
				if c.Name == name && !c.merged && !c.hidden {
					if ref != nil {
						return nil, nil, b.errorf(-1, pgerrcode.AmbiguousColumn, "common column name \"%s\" appears more than once in %s table", name, side)
					}
					ref = c.ref(it, -1)
					hit = append(hit, c)
				}
			}
		}
		if ref == nil {
			return nil, nil, b.errorf(-1, pgerrcode.UndefinedColumn, "column \"%s\" specified in USING clause does not exist in %s table", name, side)
		}
		return ref, hit, nil
	}
	for _, name := range cols {
		lc, lh, err := find(l, name, "left")
		if err != nil {
			return nil, nil, err
		}
		rc, rh, err := find(r, name, "right")
		if err != nil {
			return nil, nil, err
		}
		on, err := b.operator("=", lc, rc, -1)
		if err != nil {
			return nil, nil, err
		}
		j.On = append(j.On, on)
		t, mod, pair, err := b.common("JOIN/USING", []expr.Expr{lc, rc}, []int32{-1, -1})
		if err != nil {
			return nil, nil, err
		}
		var e expr.Expr
		switch j.Kind {
		case logical.Right:
			e = pair[1]
		case logical.Full:
			e = &expr.Coalesce{Args: pair, Typ: t, TMod: mod}
		default:
			e = pair[0]
		}
		for _, c := range append(lh, rh...) {
			c.merged = true
		}
		nc := logical.Column{Name: name, Typ: t, Mod: mod}
		if c, ok := e.(*expr.Col); ok {
			nc.ID = c.ID
			if c == lc {
				nc.Table, nc.Attr = lh[0].Table, lh[0].Attr
			} else {
				nc.Table, nc.Attr = rh[0].Table, rh[0].Attr
			}
		} else {
			nc.ID = b.newID()
			proj.Columns, proj.Exprs = append(proj.Columns, nc), append(proj.Exprs, e)
		}
		merged.cols = append(merged.cols, nsCol{Column: nc})
	}
	if len(proj.Columns) == 0 {
		return merged, j, nil
	}
	for _, c := range j.Cols() {
		proj.Columns, proj.Exprs = append(proj.Columns, c), append(proj.Exprs, c.Ref())
	}
	return merged, proj, nil
}
