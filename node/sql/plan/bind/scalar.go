package bind

import (
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

// exprCtx is where an expression stands.
type exprCtx struct {
	scope  *scope
	clause string // as errors name it: WHERE, GROUP BY ...
	// level collects the aggregates, set-returning functions and window functions of a
	// query level; nil where none are allowed.
	level            *level
	aggs, srfs, wins bool // allowed here
	inAgg            bool
}

// level is what the expressions of one SELECT have in common.
type level struct {
	scope *scope
	aggs  []*logical.AggCall
	srfs  []*logical.SetFunc
	wins  []*winCall
	// windows are the WINDOW clause's definitions.
	windows map[string]*ast.WindowDef
}

// expr binds an expression.
func (b *Binder) expr(x *exprCtx, n *ast.Node) (expr.Expr, error) {
	if b.depth++; b.depth > maxExprDepth {
		b.depth--
		return nil, b.errorf(-1, pgerrcode.StatementTooComplex, "stack depth limit exceeded")
	}
	defer func() { b.depth-- }()
	switch v := n.GetNode().(type) {
	case *ast.Node_ColumnRef:
		return b.bindColumn(x, v.ColumnRef)
	case *ast.Node_AConst:
		return b.constant(v.AConst)
	case *ast.Node_ParamRef:
		return b.param(v.ParamRef)
	case *ast.Node_AExpr:
		return b.aExpr(x, v.AExpr)
	case *ast.Node_BoolExpr:
		return b.boolExpr(x, v.BoolExpr)
	case *ast.Node_FuncCall:
		return b.funcCall(x, v.FuncCall)
	case *ast.Node_TypeCast:
		return b.typeCast(x, v.TypeCast)
	case *ast.Node_NullTest:
		return b.nullTest(x, v.NullTest)
	case *ast.Node_BooleanTest:
		return b.boolTest(x, v.BooleanTest)
	case *ast.Node_CaseExpr:
		return b.caseExpr(x, v.CaseExpr)
	case *ast.Node_CoalesceExpr:
		l, locs, err := b.exprList(x, v.CoalesceExpr.Args)
		if err != nil {
			return nil, err
		}
		t, mod, l, err := b.common("COALESCE", l, locs)
		if err != nil {
			return nil, err
		}
		return &expr.Coalesce{Args: l, Typ: t, TMod: mod}, nil
	case *ast.Node_MinMaxExpr:
		what := "GREATEST"
		if v.MinMaxExpr.Op == ast.MinMaxOp_IS_LEAST {
			what = "LEAST"
		}
		l, locs, err := b.exprList(x, v.MinMaxExpr.Args)
		if err != nil {
			return nil, err
		}
		t, mod, l, err := b.common(what, l, locs)
		if err != nil {
			return nil, err
		}
		return &expr.MinMax{Args: l, Least: what == "LEAST", Typ: t, TMod: mod}, nil
	case *ast.Node_SubLink:
		return b.subLink(x, v.SubLink)
	case *ast.Node_AArrayExpr:
		return b.arrayExpr(x, v.AArrayExpr, 0)
	case *ast.Node_RowExpr:
		l, _, err := b.exprList(x, v.RowExpr.Args)
		if err != nil {
			return nil, err
		}
		for i := range l {
			if l[i], err = b.textIfUnknown(l[i]); err != nil {
				return nil, err
			}
		}
		return &expr.Row{Args: l}, nil
	case *ast.Node_AIndirection:
		return b.indirection(x, v.AIndirection)
	case *ast.Node_CollateClause:
		return b.collate(x, v.CollateClause)
	case *ast.Node_SqlvalueFunction:
		return b.sqlValue(v.SqlvalueFunction)
	case *ast.Node_SetToDefault:
		return nil, b.errorf(v.SetToDefault.Location, pgerrcode.SyntaxError, "DEFAULT is not allowed in this context")
	case *ast.Node_GroupingFunc:
		return nil, b.unsupported(v.GroupingFunc.Location, "GROUPING")
	case *ast.Node_CurrentOfExpr:
		return nil, b.unsupported(-1, "WHERE CURRENT OF")
	case *ast.Node_List:
		l, _, err := b.exprList(x, v.List.Items)
		if err != nil {
			return nil, err
		}
		return &expr.Row{Args: l}, nil
	}
	return nil, b.errorf(location(n), pgerrcode.FeatureNotSupported, "this expression is not supported: %s", strings.TrimPrefix(strings.TrimPrefix(typeOfNode(n), "*pg_query."), "Node_"))
}

func (b *Binder) exprList(x *exprCtx, l []*ast.Node) ([]expr.Expr, []int32, error) {
	out := make([]expr.Expr, len(l))
	locs := make([]int32, len(l))
	for i, n := range l {
		e, err := b.expr(x, n)
		if err != nil {
			return nil, nil, err
		}
		out[i], locs[i] = e, location(n)
	}
	return out, locs, nil
}

func (b *Binder) bindColumn(x *exprCtx, n *ast.ColumnRef) (expr.Expr, error) {
	parts := names(n.Fields)
	if len(parts) > 0 && parts[len(parts)-1] == "*" {
		if len(parts) == 2 {
			it, err := b.item(x.scope, "", parts[0], n.Location)
			if err != nil {
				return nil, err
			}
			if it != nil {
				return wholeRow(it), nil
			}
		}
		return nil, b.errorf(n.Location, pgerrcode.SyntaxError, "row expansion via \"*\" is not supported here")
	}
	return b.columnRef(x.scope, parts, n.Location)
}

func (b *Binder) constant(n *ast.A_Const) (expr.Expr, error) {
	c := &expr.Const{TMod: -1, Typ: types.OIDUnknown, Location: n.Location}
	if n.Isnull {
		return c, nil
	}
	switch v := n.Val.(type) {
	case *ast.A_Const_Ival:
		c.Val, c.Typ = types.NewInt(int64(v.Ival.Ival)), types.OIDInt4
	case *ast.A_Const_Boolval:
		c.Val, c.Typ = types.NewBool(v.Boolval.Boolval), types.OIDBool
	case *ast.A_Const_Sval:
		c.Val = types.NewString(v.Sval.Sval)
	case *ast.A_Const_Fval:
		s := strings.ReplaceAll(v.Fval.Fval, "_", "")
		i, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			i, err = strconv.ParseInt(s, 0, 64) // 0x10
		}
		if err == nil {
			c.Val, c.Typ = types.NewInt(i), types.OIDInt8
			if i == int64(int32(i)) {
				c.Typ = types.OIDInt4
			}
			break
		}
		d, err := types.ParseText(types.OIDNumeric, -1, s, b.opts.Env)
		if err != nil {
			return nil, b.at(err, n.Location)
		}
		c.Val, c.Typ = d, types.OIDNumeric
	case *ast.A_Const_Bsval:
		return nil, b.unsupported(n.Location, "bit string constants")
	default:
		c.Val, c.Typ = types.NewInt(0), types.OIDInt4 // protobuf leaves a zero out
	}
	return c, nil
}

func (b *Binder) param(n *ast.ParamRef) (expr.Expr, error) {
	if n.Number < 1 || int(n.Number) > b.opts.MaxParams {
		return nil, b.errorf(n.Location, pgerrcode.UndefinedParameter, "there is no parameter $%d", n.Number)
	}
	for len(b.params) < int(n.Number) {
		b.params = append(b.params, types.OIDUnknown)
	}
	return &expr.Param{Number: int(n.Number), Typ: b.params[n.Number-1], Location: n.Location}, nil
}

func (b *Binder) boolExpr(x *exprCtx, n *ast.BoolExpr) (expr.Expr, error) {
	clause := map[ast.BoolExprType]string{ast.BoolExprType_AND_EXPR: "AND", ast.BoolExprType_OR_EXPR: "OR", ast.BoolExprType_NOT_EXPR: "NOT"}[n.Boolop]
	l := make([]expr.Expr, 0, len(n.Args))
	for _, a := range n.Args {
		e, err := b.expr(x, a)
		if err != nil {
			return nil, err
		}
		if e, err = b.boolean(e, clause, location(a)); err != nil {
			return nil, err
		}
		l = append(l, e)
	}
	switch clause {
	case "AND":
		return &expr.And{Args: l}, nil
	case "OR":
		return &expr.Or{Args: l}, nil
	}
	return &expr.Not{Arg: l[0]}, nil
}

func (b *Binder) nullTest(x *exprCtx, n *ast.NullTest) (expr.Expr, error) {
	e, err := b.expr(x, n.Arg)
	if err != nil {
		return nil, err
	}
	if e, err = b.textIfUnknown(e); err != nil {
		return nil, err
	}
	return &expr.IsNull{Arg: e, Neg: n.Nulltesttype == ast.NullTestType_IS_NOT_NULL}, nil
}

func (b *Binder) boolTest(x *exprCtx, n *ast.BooleanTest) (expr.Expr, error) {
	e, err := b.expr(x, n.Arg)
	if err != nil {
		return nil, err
	}
	t := &expr.BoolTest{}
	clause := ""
	switch n.Booltesttype {
	case ast.BoolTestType_IS_TRUE:
		t.Want, clause = types.NewBool(true), "IS TRUE"
	case ast.BoolTestType_IS_NOT_TRUE:
		t.Want, t.Neg, clause = types.NewBool(true), true, "IS NOT TRUE"
	case ast.BoolTestType_IS_FALSE:
		t.Want, clause = types.NewBool(false), "IS FALSE"
	case ast.BoolTestType_IS_NOT_FALSE:
		t.Want, t.Neg, clause = types.NewBool(false), true, "IS NOT FALSE"
	case ast.BoolTestType_IS_UNKNOWN:
		clause = "IS UNKNOWN"
	default:
		t.Neg, clause = true, "IS NOT UNKNOWN"
	}
	t.Arg, err = b.boolean(e, clause, location(n.Arg))
	return t, err
}

func (b *Binder) typeCast(x *exprCtx, n *ast.TypeCast) (expr.Expr, error) {
	t, mod, err := b.typeName(n.TypeName)
	if err != nil {
		return nil, err
	}
	var e expr.Expr
	if arr := n.Arg.GetAArrayExpr(); arr != nil && elemType(t) != 0 {
		e, err = b.arrayExpr(x, arr, t)
	} else {
		e, err = b.expr(x, n.Arg)
	}
	if err != nil {
		return nil, err
	}
	loc := n.Location
	if loc < 0 {
		loc = location(n.Arg)
	}
	if e.Type() == t {
		if mod < 0 {
			if c, ok := e.(*expr.Const); ok {
				return c, nil
			}
			return &expr.Relabel{Arg: e, Typ: t, TMod: -1, Explicit: true}, nil
		}
		return b.withMod(e, t, mod, explicit), nil
	}
	return b.mustCoerce(e, t, mod, explicit, loc)
}

func (b *Binder) caseExpr(x *exprCtx, n *ast.CaseExpr) (expr.Expr, error) {
	var results []expr.Expr
	var locs []int32
	var conds []expr.Expr
	sc := &expr.SimpleCase{}
	if n.Arg != nil {
		op, err := b.expr(x, n.Arg)
		if err != nil {
			return nil, err
		}
		if sc.Operand, err = b.textIfUnknown(op); err != nil {
			return nil, err
		}
	}
	for _, w := range n.Args {
		when := w.GetCaseWhen()
		c, err := b.expr(x, when.Expr)
		if err != nil {
			return nil, err
		}
		if n.Arg != nil {
			l, r, cmp, err := b.pairOperator("=", sc.Operand, c, when.Location)
			if err != nil {
				return nil, err
			}
			// All comparisons share the operand; a cast it needs is part of each.
			if l != sc.Operand {
				cmp = castFirst(cmp, sc.Operand, l)
			}
			sc.Values, sc.Cmp = append(sc.Values, r), append(sc.Cmp, cmp)
		} else {
			if c, err = b.boolean(c, "CASE/WHEN", location(when.Expr)); err != nil {
				return nil, err
			}
			conds = append(conds, c)
		}
		r, err := b.expr(x, when.Result)
		if err != nil {
			return nil, err
		}
		results, locs = append(results, r), append(locs, location(when.Result))
	}
	// PostgreSQL lets the ELSE decide first.
	if n.Defresult != nil {
		d, err := b.expr(x, n.Defresult)
		if err != nil {
			return nil, err
		}
		results = append([]expr.Expr{d}, results...)
		locs = append([]int32{location(n.Defresult)}, locs...)
	}
	t, mod, results, err := b.common("CASE", results, locs)
	if err != nil {
		return nil, err
	}
	var els expr.Expr
	if n.Defresult != nil {
		els, results = results[0], results[1:]
	} else {
		mod = -1 // that of the NULL it stands for
	}
	if n.Arg != nil {
		sc.Results, sc.Else, sc.Typ, sc.TMod = results, els, t, mod
		return sc, nil
	}
	out := &expr.Case{Else: els, Typ: t, TMod: mod}
	for i := range conds {
		out.When = append(out.When, conds[i], results[i])
	}
	return out, nil
}

// castFirst puts the cast that turned operand into casted over the first slot of cmp.
func castFirst(cmp, operand, casted expr.Expr) expr.Expr {
	slot := &expr.Slot{Index: 0, Col: &expr.Col{Typ: operand.Type(), TMod: operand.Mod()}}
	var replace func(e expr.Expr) expr.Expr
	replace = func(e expr.Expr) expr.Expr {
		if e == operand {
			return slot
		}
		ch := e.Children()
		if len(ch) == 0 {
			return e
		}
		out := make([]expr.Expr, len(ch))
		for i, c := range ch {
			out[i] = replace(c)
		}
		return e.WithChildren(out)
	}
	cast := replace(casted)
	out, _ := expr.Rewrite(cmp, func(e expr.Expr) (expr.Expr, error) {
		if s, ok := e.(*expr.Slot); ok && s.Index == 0 {
			return cast, nil
		}
		return e, nil
	})
	return out
}

// arrayExpr binds ARRAY[...]; want is the array type that a cast asks for, or 0.
func (b *Binder) arrayExpr(x *exprCtx, n *ast.A_ArrayExpr, want types.OID) (expr.Expr, error) {
	var l []expr.Expr
	var locs []int32
	nested := false
	for _, el := range n.Elements {
		var e expr.Expr
		var err error
		if sub := el.GetAArrayExpr(); sub != nil {
			nested = true
			e, err = b.arrayExpr(x, sub, want)
		} else {
			e, err = b.expr(x, el)
		}
		if err != nil {
			return nil, err
		}
		l, locs = append(l, e), append(locs, location(el))
	}
	if len(l) > 0 && elemType(l[0].Type()) != 0 && !isVector(l[0].Type()) {
		nested = true
	}
	if want != 0 {
		target := want
		if !nested {
			target = elemType(want)
		}
		for i := range l {
			var err error
			if l[i], err = b.mustCoerce(l[i], target, -1, explicit, locs[i]); err != nil {
				return nil, err
			}
		}
		return &expr.Array{Elems: l, Elem: elemType(want), Typ: want, Nested: nested}, nil
	}
	if len(l) == 0 {
		return nil, b.errorf(n.Location, pgerrcode.IndeterminateDatatype, "cannot determine type of empty array").
			WithHint("Explicitly cast to the desired type, for example ARRAY[]::integer[].")
	}
	t, _, l, err := b.common("ARRAY", l, locs)
	if err != nil {
		return nil, err
	}
	if nested {
		return &expr.Array{Elems: l, Elem: elemType(t), Typ: t, Nested: true}, nil
	}
	at := arrayType(t)
	if at == 0 {
		return nil, b.errorf(n.Location, pgerrcode.UndefinedObject, "could not find array type for data type %s", typeName(t))
	}
	return &expr.Array{Elems: l, Elem: t, Typ: at}, nil
}

func (b *Binder) indirection(x *exprCtx, n *ast.A_Indirection) (expr.Expr, error) {
	e, err := b.expr(x, n.Arg)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(n.Indirection); i++ {
		switch v := n.Indirection[i].GetNode().(type) {
		case *ast.Node_AIndices:
			sub := &expr.Subscript{Arg: e, TMod: -1}
			for ; i < len(n.Indirection) && n.Indirection[i].GetAIndices() != nil; i++ {
				ix := n.Indirection[i].GetAIndices()
				lo, hi, err := b.bounds(x, ix)
				if err != nil {
					return nil, err
				}
				sub.Slice = sub.Slice || ix.IsSlice
				sub.Lower, sub.Upper = append(sub.Lower, lo), append(sub.Upper, hi)
			}
			i--
			el := elemType(e.Type())
			if el == 0 {
				if e.Type() == types.OIDJSONB && !sub.Slice {
					return nil, b.unsupported(location(n.Arg), "subscripting jsonb")
				}
				return nil, b.errorf(location(n.Arg), pgerrcode.DatatypeMismatch, "cannot subscript type %s because it does not support subscripting", typeName(e.Type()))
			}
			sub.Typ = el
			if sub.Slice {
				sub.Typ = e.Type()
			} else {
				sub.Lower = nil
			}
			e = sub
		case *ast.Node_String_:
			row, ok := e.(*expr.Row)
			col, isCol := e.(*expr.Col)
			if isCol {
				row, ok = b.records[col.ID]
			}
			if !ok {
				return nil, b.errorf(location(n.Arg), pgerrcode.WrongObjectType, "column notation .%s applied to type %s, which is not a composite type", v.String_.Sval, typeName(e.Type()))
			}
			pos := -1
			for j, name := range row.Names {
				if name == v.String_.Sval {
					pos = j
				}
			}
			if pos < 0 {
				return nil, b.errorf(location(n.Arg), pgerrcode.UndefinedColumn, "could not identify column \"%s\" in record data type", v.String_.Sval)
			}
			if isCol {
				e = &expr.Field{Arg: e, N: pos, Typ: row.Args[pos].Type(), Name: row.Names[pos]}
			} else {
				e = row.Args[pos]
			}
		default:
			return nil, b.errorf(location(n.Arg), pgerrcode.SyntaxError, "row expansion via \"*\" is not supported here")
		}
	}
	return e, nil
}

func (b *Binder) bounds(x *exprCtx, ix *ast.A_Indices) (lo, hi expr.Expr, err error) {
	bound := func(n *ast.Node) (expr.Expr, error) {
		if n == nil {
			return nil, nil
		}
		e, err := b.expr(x, n)
		if err != nil {
			return nil, err
		}
		out, ok, err := b.coerce(e, types.OIDInt4, -1, assignment, location(n))
		if err == nil && !ok {
			err = b.errorf(location(n), pgerrcode.DatatypeMismatch, "array subscript must have type integer")
		}
		return out, err
	}
	if lo, err = bound(ix.Lidx); err != nil {
		return nil, nil, err
	}
	hi, err = bound(ix.Uidx)
	return lo, hi, err
}

// collate accepts the collations that order bytes, which is how Atoll orders all text.
func (b *Binder) collate(x *exprCtx, n *ast.CollateClause) (expr.Expr, error) {
	e, err := b.expr(x, n.Arg)
	if err != nil {
		return nil, err
	}
	if e, err = b.textIfUnknown(e); err != nil {
		return nil, err
	}
	parts := names(n.Collname)
	ty, _ := types.Lookup(e.Type())
	if ty == nil || ty.Collation == 0 && !ty.IsArray() {
		return nil, b.errorf(n.Location, pgerrcode.DatatypeMismatch, "collations are not supported by type %s", typeName(e.Type()))
	}
	switch parts[len(parts)-1] {
	case "default", "C", "POSIX", "ucs_basic":
		return e, nil
	}
	return nil, b.errorf(n.Location, pgerrcode.UndefinedObject, "collation \"%s\" for encoding \"UTF8\" does not exist", strings.Join(parts, ".")).
		WithHint("Text is ordered by bytes: use COLLATE \"C\".")
}

func (b *Binder) sqlValue(n *ast.SQLValueFunction) (expr.Expr, error) {
	name, mod := "", int32(-1)
	switch n.Op {
	case ast.SQLValueFunctionOp_SVFOP_CURRENT_DATE:
		name = "current_date"
	case ast.SQLValueFunctionOp_SVFOP_CURRENT_TIME, ast.SQLValueFunctionOp_SVFOP_CURRENT_TIME_N:
		name, mod = "current_time", n.Typmod
	case ast.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP, ast.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP_N:
		name, mod = "current_timestamp", n.Typmod
	case ast.SQLValueFunctionOp_SVFOP_LOCALTIME, ast.SQLValueFunctionOp_SVFOP_LOCALTIME_N:
		name, mod = "localtime", n.Typmod
	case ast.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP, ast.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP_N:
		name, mod = "localtimestamp", n.Typmod
	case ast.SQLValueFunctionOp_SVFOP_CURRENT_ROLE, ast.SQLValueFunctionOp_SVFOP_CURRENT_USER, ast.SQLValueFunctionOp_SVFOP_USER:
		name = "current_user"
	case ast.SQLValueFunctionOp_SVFOP_SESSION_USER:
		name = "session_user"
	case ast.SQLValueFunctionOp_SVFOP_CURRENT_CATALOG:
		name = "current_catalog"
	case ast.SQLValueFunctionOp_SVFOP_CURRENT_SCHEMA:
		name = "current_schema"
	}
	if mod == 0 && n.Op != ast.SQLValueFunctionOp_SVFOP_CURRENT_TIME_N && n.Op != ast.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP_N &&
		n.Op != ast.SQLValueFunctionOp_SVFOP_LOCALTIME_N && n.Op != ast.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP_N {
		mod = -1
	}
	return b.sqlValueCall(name, mod, n.Location)
}
