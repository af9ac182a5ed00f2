package bind

import (
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/types"
)

// aExpr binds the operator forms of the grammar.
func (b *Binder) aExpr(x *exprCtx, n *ast.A_Expr) (expr.Expr, error) {
	parts := names(n.Name)
	op := ""
	if len(parts) > 0 {
		op = parts[len(parts)-1]
	}
	if len(parts) > 1 && parts[0] != "pg_catalog" {
		return nil, b.errorf(n.Location, pgerrcode.InvalidSchemaName, "schema \"%s\" does not exist", parts[0])
	}
	switch n.Kind {
	case ast.A_Expr_Kind_AEXPR_OP:
		return b.plainOperator(x, op, n)
	case ast.A_Expr_Kind_AEXPR_OP_ANY, ast.A_Expr_Kind_AEXPR_OP_ALL:
		return b.anyArray(x, op, n)
	case ast.A_Expr_Kind_AEXPR_IN:
		return b.inList(x, op == "<>", n)
	case ast.A_Expr_Kind_AEXPR_DISTINCT, ast.A_Expr_Kind_AEXPR_NOT_DISTINCT:
		return b.distinctFrom(x, n)
	case ast.A_Expr_Kind_AEXPR_NULLIF:
		l, r, err := b.operands(x, n)
		if err != nil {
			return nil, err
		}
		if l, err = b.textIfUnknown(l); err != nil {
			return nil, err
		}
		// The result has the type that the comparison takes its first operand in.
		cl, cr, cmp, err := b.pairOperator("=", l, r, n.Location)
		if err != nil {
			return nil, err
		}
		return &expr.NullIf{L: cl, R: cr, Eq: cmp}, nil
	case ast.A_Expr_Kind_AEXPR_LIKE, ast.A_Expr_Kind_AEXPR_ILIKE:
		return b.plainOperator(x, op, n)
	case ast.A_Expr_Kind_AEXPR_SIMILAR:
		return b.plainOperator(x, op, n)
	case ast.A_Expr_Kind_AEXPR_BETWEEN, ast.A_Expr_Kind_AEXPR_NOT_BETWEEN,
		ast.A_Expr_Kind_AEXPR_BETWEEN_SYM, ast.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM:
		return b.between(x, n)
	}
	return nil, b.errorf(n.Location, pgerrcode.FeatureNotSupported, "this form of operator is not supported")
}

func (b *Binder) operands(x *exprCtx, n *ast.A_Expr) (l, r expr.Expr, err error) {
	if n.Lexpr != nil {
		if l, err = b.expr(x, n.Lexpr); err != nil {
			return nil, nil, err
		}
	}
	if n.Rexpr != nil {
		r, err = b.expr(x, n.Rexpr)
	}
	return l, r, err
}

func (b *Binder) plainOperator(x *exprCtx, op string, n *ast.A_Expr) (expr.Expr, error) {
	if n.Lexpr == nil && op == "-" {
		if c := n.Rexpr.GetAConst(); c != nil {
			if neg, err := b.negated(c); err != nil || neg != nil {
				return neg, err
			}
		}
	}
	if _, ok := n.Rexpr.GetNode().(*ast.Node_SubLink); ok && isRow(n.Lexpr) {
		if s := n.Rexpr.GetSubLink(); s.SubLinkType == ast.SubLinkType_EXPR_SUBLINK {
			return b.rowSubquery(x, op, n, s)
		}
	}
	l, r, err := b.operands(x, n)
	if err != nil {
		return nil, err
	}
	if lr, ok := l.(*expr.Row); ok {
		if rr, ok := r.(*expr.Row); ok {
			return b.rowCompare(op, lr.Args, rr.Args, n.Location)
		}
	}
	return b.operator(op, l, r, n.Location)
}

func isRow(n *ast.Node) bool { return n.GetRowExpr() != nil || n.GetList() != nil }

// negated folds a minus sign into a numeric literal: -9223372036854775808 is an int8.
func (b *Binder) negated(c *ast.A_Const) (expr.Expr, error) {
	if f := c.GetFval(); f != nil && !strings.HasPrefix(f.Fval, "-") {
		n := &ast.A_Const{Val: &ast.A_Const_Fval{Fval: &ast.Float{Fval: "-" + f.Fval}}, Location: c.Location}
		return b.constant(n)
	}
	return nil, nil
}

// operator binds op over one (l nil: prefix) or two operands.
func (b *Binder) operator(op string, l, r expr.Expr, loc int32) (expr.Expr, error) {
	if op == "!=" {
		op = "<>"
	}
	lt := types.OID(0)
	if l != nil {
		lt = l.Type()
	}
	rt := r.Type()
	c := resolveOperator(op, lt, rt)
	if c == nil {
		return nil, b.noOperator(op, l, r, loc)
	}
	args := []expr.Expr{r}
	if l != nil {
		args = []expr.Expr{l, r}
	}
	args, result, err := b.coerceArgs(c, args, loc)
	if err != nil {
		return nil, err
	}
	if len(args) == 2 {
		if cmp, ok := comparison(op, args[0], args[1], loc); ok {
			return cmp, nil
		}
	}
	fn, err := b.implementation(c, args, result, loc)
	if err != nil {
		return nil, err
	}
	return fold(&expr.Call{Name: op, Op: true, OID: c.oid, Fn: fn, Strict: c.strict, Vol: c.vol, Args: args, Typ: result, TMod: -1, Location: loc}), nil
}

func (b *Binder) noOperator(op string, l, r expr.Expr, loc int32) error {
	sig := op + " " + typeName(r.Type())
	if l != nil {
		sig = typeName(l.Type()) + " " + sig
	}
	if cands := matchOperators(op, l, r); cands > 1 {
		return b.errorf(loc, pgerrcode.AmbiguousFunction, "operator is not unique: %s", sig).
			WithHint("Could not choose a best candidate operator. You might need to add explicit type casts.")
	}
	hint := "No operator matches the given name and argument types. You might need to add explicit type casts."
	if l == nil {
		hint = "No operator matches the given name and argument type. You might need to add an explicit type cast."
	}
	return b.errorf(loc, pgerrcode.UndefinedFunction, "operator does not exist: %s", sig).WithHint("%s", hint)
}

var cmpOps = map[string]expr.CmpOp{"=": expr.EQ, "<>": expr.NE, "<": expr.LT, "<=": expr.LE, ">": expr.GT, ">=": expr.GE}

// cmpFamily groups the types whose values compare with each other as they are held.
func cmpFamily(t types.OID) byte {
	switch t {
	case types.OIDInt2, types.OIDInt4, types.OIDInt8:
		return 'i'
	case types.OIDOID, types.OIDRegClass, types.OIDRegType, types.OIDRegProc, types.OIDRegProcedure, types.OIDRegNamespace,
		types.OIDRegRole, types.OIDRegOper, types.OIDRegOperator, types.OIDRegCollation:
		return 'o'
	case types.OIDText, types.OIDVarChar, types.OIDName:
		return 't'
	case types.OIDBPChar:
		return 'c'
	case types.OIDFloat4, types.OIDFloat8:
		return 'f'
	case types.OIDNumeric:
		return 'n'
	case types.OIDBool:
		return 'b'
	case types.OIDDate:
		return 'd'
	case types.OIDTimestamp:
		return 's'
	case types.OIDTimestampTZ:
		return 'z'
	case types.OIDTime:
		return 'T'
	case types.OIDUUID:
		return 'u'
	case types.OIDBytea:
		return 'B'
	case types.OIDInterval:
		return 'I'
	case types.OIDJSONB:
		return 'j'
	}
	return 0
}

// comparison makes a Compare of a comparison operator over one family of types.
func comparison(op string, l, r expr.Expr, loc int32) (expr.Expr, bool) {
	o, ok := cmpOps[op]
	if !ok {
		return nil, false
	}
	f := cmpFamily(l.Type())
	if f == 0 || f != cmpFamily(r.Type()) {
		return nil, false
	}
	return &expr.Compare{Op: o, L: l, R: r, Location: loc}, true
}

// pairOperator resolves an operator over l and r, and returns the operands with their casts
// and an expression that applies the operator to slots 0 and 1 of a row.
func (b *Binder) pairOperator(op string, l, r expr.Expr, loc int32) (cl, cr, cmp expr.Expr, err error) {
	e, err := b.operator(op, l, r, loc)
	if err != nil {
		return nil, nil, nil, err
	}
	switch x := e.(type) {
	case *expr.Compare:
		return x.L, x.R, &expr.Compare{Op: x.Op, L: slotOf(0, x.L), R: slotOf(1, x.R), Location: loc}, nil
	case *expr.Call:
		n := *x
		n.Args = []expr.Expr{slotOf(0, x.Args[0]), slotOf(1, x.Args[1])}
		return x.Args[0], x.Args[1], &n, nil
	}
	// Two constants were folded: bind over stand-ins of the same types.
	c := resolveOperator(op, l.Type(), r.Type())
	args, result, err := b.coerceArgs(c, []expr.Expr{l, r}, loc)
	if err != nil {
		return nil, nil, nil, err
	}
	fn, err := b.implementation(c, args, result, loc)
	if err != nil {
		return nil, nil, nil, err
	}
	return args[0], args[1], &expr.Call{Name: op, Op: true, OID: c.oid, Fn: fn, Strict: c.strict, Vol: c.vol,
		Args: []expr.Expr{slotOf(0, args[0]), slotOf(1, args[1])}, Typ: result, TMod: -1, Location: loc}, nil
}

func slotOf(i int, e expr.Expr) *expr.Slot {
	return &expr.Slot{Index: i, Col: &expr.Col{Typ: e.Type(), TMod: e.Mod(), Location: -1}}
}

// isPlainEq says whether cmp is equality within one family, which an index can serve.
func isPlainEq(cmp expr.Expr) bool {
	c, ok := cmp.(*expr.Compare)
	if !ok || c.Op != expr.EQ {
		return false
	}
	_, l := c.L.(*expr.Slot)
	_, r := c.R.(*expr.Slot)
	return l && r
}

func (b *Binder) distinctFrom(x *exprCtx, n *ast.A_Expr) (expr.Expr, error) {
	l, r, err := b.operands(x, n)
	if err != nil {
		return nil, err
	}
	neg := n.Kind == ast.A_Expr_Kind_AEXPR_NOT_DISTINCT
	// IS DISTINCT FROM NULL is a null test.
	for i, e := range []expr.Expr{l, r} {
		if c, ok := e.(*expr.Const); ok && c.Typ == types.OIDUnknown && c.Val.IsNull() {
			other := []expr.Expr{r, l}[i]
			if other, err = b.textIfUnknown(other); err != nil {
				return nil, err
			}
			return &expr.IsNull{Arg: other, Neg: !neg}, nil
		}
	}
	lr, lok := l.(*expr.Row)
	rr, rok := r.(*expr.Row)
	if lok && rok {
		return b.rowDistinct(lr.Args, rr.Args, neg, n.Location)
	}
	cl, cr, cmp, err := b.pairOperator("=", l, r, n.Location)
	if err != nil {
		return nil, err
	}
	return &expr.DistinctFrom{L: cl, R: cr, Eq: cmp, Neg: neg}, nil
}

func (b *Binder) rowDistinct(l, r []expr.Expr, neg bool, loc int32) (expr.Expr, error) {
	if len(l) != len(r) {
		return nil, b.errorf(loc, pgerrcode.SyntaxError, "unequal number of entries in row expressions")
	}
	var out []expr.Expr
	for i := range l {
		cl, cr, cmp, err := b.pairOperator("=", l[i], r[i], loc)
		if err != nil {
			return nil, err
		}
		out = append(out, &expr.DistinctFrom{L: cl, R: cr, Eq: cmp, Neg: neg})
	}
	if neg {
		return &expr.And{Args: out}, nil
	}
	return &expr.Or{Args: out}, nil
}

func (b *Binder) rowCompare(op string, l, r []expr.Expr, loc int32) (expr.Expr, error) {
	if len(l) != len(r) {
		return nil, b.errorf(loc, pgerrcode.SyntaxError, "unequal number of entries in row expressions")
	}
	if op == "!=" {
		op = "<>"
	}
	o, ok := cmpOps[op]
	if !ok {
		return nil, b.errorf(loc, pgerrcode.FeatureNotSupported, "could not determine interpretation of row comparison operator %s", op).
			WithHint("Row comparison operators must be associated with btree operator families.")
	}
	if len(l) == 0 {
		return nil, b.errorf(loc, pgerrcode.FeatureNotSupported, "cannot compare rows of zero length")
	}
	if o == expr.EQ || o == expr.NE {
		var out []expr.Expr
		for i := range l {
			e, err := b.operator(op, l[i], r[i], loc)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		if len(out) == 1 {
			return out[0], nil
		}
		if o == expr.EQ {
			return &expr.And{Args: out}, nil
		}
		return &expr.Or{Args: out}, nil
	}
	rc := &expr.RowCompare{Op: o}
	for i := range l {
		cl, cr, eq, err := b.pairOperator("=", l[i], r[i], loc)
		if err != nil {
			return nil, err
		}
		_, _, less, err := b.pairOperator("<", cl, cr, loc)
		if err != nil {
			return nil, err
		}
		rc.L, rc.R = append(rc.L, cl), append(rc.R, cr)
		rc.Eq, rc.Less = append(rc.Eq, eq), append(rc.Less, less)
	}
	return rc, nil
}

func (b *Binder) between(x *exprCtx, n *ast.A_Expr) (expr.Expr, error) {
	bounds := n.Rexpr.GetList().GetItems()
	l, err := b.expr(x, n.Lexpr)
	if err != nil {
		return nil, err
	}
	lo, err := b.expr(x, bounds[0])
	if err != nil {
		return nil, err
	}
	hi, err := b.expr(x, bounds[1])
	if err != nil {
		return nil, err
	}
	test := func(lo, hi expr.Expr) (expr.Expr, error) {
		ge, err := b.operator(">=", l, lo, n.Location)
		if err != nil {
			return nil, err
		}
		le, err := b.operator("<=", l, hi, n.Location)
		if err != nil {
			return nil, err
		}
		return &expr.And{Args: []expr.Expr{ge, le}}, nil
	}
	out, err := test(lo, hi)
	if err != nil {
		return nil, err
	}
	if n.Kind == ast.A_Expr_Kind_AEXPR_BETWEEN_SYM || n.Kind == ast.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM {
		other, err := test(hi, lo)
		if err != nil {
			return nil, err
		}
		out = &expr.Or{Args: []expr.Expr{out, other}}
	}
	if n.Kind == ast.A_Expr_Kind_AEXPR_NOT_BETWEEN || n.Kind == ast.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM {
		return &expr.Not{Arg: out}, nil
	}
	return out, nil
}

func (b *Binder) anyArray(x *exprCtx, op string, n *ast.A_Expr) (expr.Expr, error) {
	l, r, err := b.operands(x, n)
	if err != nil {
		return nil, err
	}
	all := n.Kind == ast.A_Expr_Kind_AEXPR_OP_ALL
	if r.Type() == types.OIDUnknown {
		// 'x = ANY($1)' and '{...}': an array of the left side's type.
		lt := l.Type()
		if lt == types.OIDUnknown {
			lt = types.OIDText
		}
		at := arrayType(lt)
		if at == 0 {
			return nil, b.errorf(n.Location, pgerrcode.UndefinedObject, "could not find array type for data type %s", typeName(lt))
		}
		if r, err = b.mustCoerce(r, at, -1, implicit, location(n.Rexpr)); err != nil {
			return nil, err
		}
	}
	el := elemType(r.Type())
	if el == 0 {
		return nil, b.errorf(n.Location, pgerrcode.WrongObjectType, "op ANY/ALL (array) requires array on right side")
	}
	elem := &expr.Param{Number: 1, Typ: el} // a stand-in that nobody evaluates
	cl, cr, cmp, err := b.pairOperator(op, l, elem, n.Location)
	if err != nil {
		return nil, err
	}
	if cmp.Type() != types.OIDBool {
		return nil, b.errorf(n.Location, pgerrcode.WrongObjectType, "op ANY/ALL (array) requires operator to yield boolean")
	}
	if cr != expr.Expr(elem) {
		if r, err = b.mustCoerce(r, arrayType(cr.Type()), -1, implicit, location(n.Rexpr)); err != nil {
			return nil, err
		}
	}
	return &expr.AnyArray{L: cl, R: r, Cmp: cmp, All: all, Eq: !all && op == "=" && isPlainEq(cmp), Op: op}, nil
}

func (b *Binder) inList(x *exprCtx, neg bool, n *ast.A_Expr) (expr.Expr, error) {
	items := n.Rexpr.GetList().GetItems()
	l, err := b.expr(x, n.Lexpr)
	if err != nil {
		return nil, err
	}
	if lr, ok := l.(*expr.Row); ok {
		var out []expr.Expr
		for _, it := range items {
			e, err := b.expr(x, it)
			if err != nil {
				return nil, err
			}
			rr, ok := e.(*expr.Row)
			if !ok {
				return nil, b.errorf(n.Location, pgerrcode.SyntaxError, "unequal number of entries in row expressions")
			}
			cmp, err := b.rowCompare("=", lr.Args, rr.Args, n.Location)
			if err != nil {
				return nil, err
			}
			out = append(out, cmp)
		}
		var e expr.Expr = &expr.Or{Args: out}
		if len(out) == 1 {
			e = out[0]
		}
		if neg {
			e = &expr.Not{Arg: e}
		}
		return e, nil
	}
	list, locs, err := b.exprList(x, items)
	if err != nil {
		return nil, err
	}
	all := append([]expr.Expr{l}, list...)
	if t, _, cast, err := b.tryCommon(all, append([]int32{location(n.Lexpr)}, locs...)); err != nil {
		return nil, err
	} else if cast != nil && cmpFamily(t) != 0 {
		cmp := &expr.Compare{Op: expr.EQ, L: slotOf(0, cast[0]), R: slotOf(1, cast[0]), Location: n.Location}
		return &expr.InList{L: cast[0], List: cast[1:], Cmp: cmp, Neg: neg, Eq: true}, nil
	}
	// No common type: each item by itself.
	var out []expr.Expr
	for i := range list {
		e, err := b.operator("=", l, list[i], n.Location)
		if err != nil {
			return nil, err
		}
		if e, err = b.boolean(e, "IN", locs[i]); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	var e expr.Expr = &expr.Or{Args: out}
	if len(out) == 1 {
		e = out[0]
	}
	if neg {
		e = &expr.Not{Arg: e}
	}
	return e, nil
}

// tryCommon is common without an error when there is no common type: then the list is nil.
func (b *Binder) tryCommon(l []expr.Expr, locs []int32) (types.OID, int32, []expr.Expr, error) {
	in := make([]types.OID, len(l))
	for i, e := range l {
		in[i] = e.Type()
	}
	t, ok := commonType(in)
	if !ok {
		return 0, -1, nil, nil
	}
	// Integers of several widths compare as they are.
	if cmpFamily(t) == 'i' {
		out := make([]expr.Expr, len(l))
		for i, e := range l {
			if cmpFamily(e.Type()) == 'i' {
				out[i] = e
				continue
			}
			x, ok, err := b.coerce(e, t, -1, implicit, locs[i])
			if err != nil || !ok {
				return 0, -1, nil, err
			}
			out[i] = x
		}
		return t, -1, out, nil
	}
	return b.common("IN", l, locs)
}
