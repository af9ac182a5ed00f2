package bind

import (
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

func typeOfNode(n *ast.Node) string { return fmt.Sprintf("%T", n.GetNode()) }

// resolveOperator finds the operator for operand types (lt 0: prefix); nil if there is none
// or no best one. PostgreSQL's oper() and left_oper().
func resolveOperator(name string, lt, rt types.OID) *candidate {
	in := []types.OID{rt}
	if lt != 0 {
		in = []types.OID{lt, rt}
	}
	all := operatorCandidates(name, len(in))
	// One side unknown: assume the type of the other.
	guess := append([]types.OID(nil), in...)
	if lt != 0 {
		if lt == types.OIDUnknown && rt != types.OIDUnknown {
			guess[0] = rt
		} else if rt == types.OIDUnknown && lt != types.OIDUnknown {
			guess[1] = lt
		}
	}
	for _, g := range [][]types.OID{guess, baseTypes(guess)} {
		for i := range all {
			if sameTypes(all[i].args, g) {
				return &all[i]
			}
		}
	}
	var fit []candidate
	for i := range all {
		if canCoerce(in, all[i].args) {
			fit = append(fit, all[i])
		}
	}
	return selectCandidate(in, fit)
}

// baseTypes maps varchar to text, which has its operators (they are binary-coercible).
func baseTypes(in []types.OID) []types.OID {
	out := append([]types.OID(nil), in...)
	for i, t := range out {
		if t == types.OIDVarChar {
			out[i] = types.OIDText
		}
	}
	return out
}

func sameTypes(a, b []types.OID) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}

// matchOperators counts the operators that would accept the operands.
func matchOperators(name string, l, r expr.Expr) int {
	in := []types.OID{r.Type()}
	if l != nil {
		in = []types.OID{l.Type(), r.Type()}
	}
	n := 0
	for _, c := range operatorCandidates(name, len(in)) {
		if canCoerce(in, c.args) {
			n++
		}
	}
	return n
}

const oidPgTypeof types.OID = 1619

// coerceArgs casts arguments to a candidate's parameter types, and resolves polymorphic
// ones. It returns the result's type as well.
func (b *Binder) coerceArgs(c *candidate, args []expr.Expr, loc int32) ([]expr.Expr, types.OID, error) {
	in := make([]types.OID, len(args))
	for i, a := range args {
		in[i] = a.Type()
	}
	p, ok := polymorphic(in, c.args, c.result)
	if !ok || p.elem == 0 && undetermined(in, c.args) {
		return nil, 0, b.errorf(-1, pgerrcode.DatatypeMismatch, "could not determine polymorphic type because input has type unknown")
	}
	out := make([]expr.Expr, len(args))
	for i, a := range args {
		to := p.resolve(c.args[i])
		if to == types.OIDAny {
			// "any" takes everything; an unknown literal is text, but for pg_typeof.
			if c.oid == oidPgTypeof {
				out[i] = a
				continue
			}
			var err error
			if out[i], err = b.textIfUnknown(a); err != nil {
				return nil, 0, err
			}
			continue
		}
		aloc := loc
		if k, ok := a.(*expr.Const); ok && k.Location >= 0 {
			aloc = k.Location
		}
		e, err := b.mustCoerce(a, to, -1, implicit, aloc)
		if err != nil {
			return nil, 0, err
		}
		out[i] = e
	}
	return out, p.resolve(c.result), nil
}

// undetermined says whether unknown literals are all that is passed for anyelement and its
// like.
func undetermined(in, declared []types.OID) bool {
	some := false
	for i, t := range declared {
		switch t {
		case types.OIDAnyElement, types.OIDAnyNonArray, types.OIDAnyArray, types.OIDAnyEnum, types.OIDAnyRange, types.OIDAnyMultirange:
			if in[i] != types.OIDUnknown {
				return false
			}
			some = true
		}
	}
	return some
}

// funcCall binds a function, aggregate or window function call.
func (b *Binder) funcCall(x *exprCtx, n *ast.FuncCall) (expr.Expr, error) {
	parts := names(n.Funcname)
	name := parts[len(parts)-1]
	if len(parts) > 1 && parts[len(parts)-2] != "pg_catalog" && parts[len(parts)-2] != "information_schema" && parts[len(parts)-2] != "atoll" {
		return nil, b.noFunction(n, strings.Join(parts, "."), nil, nil)
	}
	inner := *x
	args := make([]expr.Expr, 0, len(n.Args))
	locs := make([]int32, 0, len(n.Args))
	isAgg := isAggregateName(name) && n.Over == nil
	if isAgg {
		if err := b.aggAllowed(x, n); err != nil {
			return nil, err
		}
		inner.inAgg, inner.srfs, inner.wins = true, false, false
	}
	if n.Over != nil {
		inner.wins = false
		if !x.wins {
			return nil, b.errorf(n.Location, pgerrcode.WindowingError, "window functions are not allowed in %s", x.clause)
		}
	}
	for _, a := range n.Args {
		if na := a.GetNamedArgExpr(); na != nil {
			return nil, b.unsupported(na.Location, "named argument notation")
		}
		e, err := b.expr(&inner, a)
		if err != nil {
			return nil, err
		}
		args, locs = append(args, e), append(locs, location(a))
	}
	if n.AggWithinGroup {
		return nil, b.unsupported(n.Location, "WITHIN GROUP")
	}
	c, cast, err := b.resolveFunction(n, name, args)
	if err != nil {
		return nil, err
	}
	if cast != nil {
		return cast, nil
	}
	if c.kind == 'a' && n.Over == nil {
		return b.aggregate(x, n, name, c, args)
	}
	if n.Over != nil || c.kind == 'w' {
		if n.Over == nil {
			return nil, b.errorf(n.Location, pgerrcode.WrongObjectType, "window function %s requires an OVER clause", name)
		}
		return b.window(x, n, name, c, args)
	}
	if n.AggStar || n.AggDistinct || len(n.AggOrder) > 0 || n.AggFilter != nil {
		what := "DISTINCT"
		switch {
		case n.AggStar:
			return nil, b.errorf(n.Location, pgerrcode.WrongObjectType, "%s(*) specified, but %s is not an aggregate function", name, name)
		case len(n.AggOrder) > 0:
			what = "ORDER BY"
		case n.AggFilter != nil:
			what = "FILTER"
		}
		return nil, b.errorf(n.Location, pgerrcode.WrongObjectType, "%s specified, but %s is not an aggregate function", what, name)
	}
	cargs, result, err := b.coerceArgs(c, args, n.Location)
	if err != nil {
		return nil, err
	}
	if c.retset {
		return b.setReturning(x, n, name, c, cargs, result)
	}
	return b.call(name, c, cargs, result, n.Location)
}

func (b *Binder) call(name string, c *candidate, args []expr.Expr, result types.OID, loc int32) (expr.Expr, error) {
	args, err := b.complete(c, args)
	if err != nil {
		return nil, err
	}
	fn, err := b.implementation(c, args, result, loc)
	if err != nil {
		return nil, err
	}
	return fold(&expr.Call{Name: name, OID: c.oid, Fn: fn, Strict: c.strict, Vol: c.vol, Args: args, Typ: result, TMod: -1, Location: loc}), nil
}

// setReturning registers a set-returning function of a SELECT list.
func (b *Binder) setReturning(x *exprCtx, n *ast.FuncCall, name string, c *candidate, args []expr.Expr, result types.OID) (expr.Expr, error) {
	if !x.srfs || x.level == nil || x.inAgg {
		return nil, b.errorf(n.Location, pgerrcode.FeatureNotSupported, "set-returning functions are not allowed in %s", x.clause)
	}
	f, err := b.setFunc(name, c, args, result, n.Location)
	if err != nil {
		return nil, err
	}
	x.level.srfs = append(x.level.srfs, f)
	if len(f.Cols) != 1 {
		r := &expr.Row{}
		for _, c := range f.Cols {
			r.Args, r.Names = append(r.Args, c.Ref()), append(r.Names, c.Name)
		}
		return r, nil
	}
	return f.Cols[0].Ref(), nil
}

func (b *Binder) setFunc(name string, c *candidate, args []expr.Expr, result types.OID, loc int32) (*logical.SetFunc, error) {
	args, err := b.complete(c, args)
	if err != nil {
		return nil, err
	}
	fn := setFunction(c.proc)
	if fn == nil {
		return nil, b.errorf(loc, pgerrcode.FeatureNotSupported, "function %s is not supported", name)
	}
	f := &logical.SetFunc{Name: name, Fn: fn, Args: args, Strict: c.strict}
	if len(c.outTypes) > 0 {
		p, _ := polymorphic(typesOf(args), c.args, types.OIDVoid)
		for i, t := range c.outTypes {
			t = p.resolve(t)
			f.Cols = append(f.Cols, logical.Column{ID: b.newID(), Name: c.outNames[i], Typ: t, Mod: -1})
		}
		return f, nil
	}
	if c.outName != "" {
		name, f.Named = c.outName, true
	}
	f.Cols = []logical.Column{{ID: b.newID(), Name: name, Typ: result, Mod: -1}}
	return f, nil
}

// packVariadic puts the arguments of an expanded VARIADIC parameter into an array.
func packVariadic(c *candidate, args []expr.Expr) []expr.Expr {
	fixed := c.fixed
	if c.anyVariadic {
		return args
	}
	el := types.OIDText
	if len(args) > fixed {
		el = args[fixed].Type()
	}
	arr := &expr.Array{Elems: args[fixed:], Elem: el, Typ: arrayType(el)}
	return append(append([]expr.Expr(nil), args[:fixed]...), arr)
}

// resolveFunction chooses the overload; or, for a type's name with one argument, the cast.
func (b *Binder) resolveFunction(n *ast.FuncCall, name string, args []expr.Expr) (*candidate, expr.Expr, error) {
	in := make([]types.OID, len(args))
	for i, a := range args {
		in[i] = a.Type()
	}
	all := functionCandidates(name, len(args), n.FuncVariadic)
	if n.AggStar && len(args) == 0 {
		all = aggregateStar(name)
	}
	for i := range all {
		if sameTypes(all[i].args, in) && !all[i].variadic {
			return &all[i], nil, nil
		}
	}
	if len(args) == 1 && !n.AggStar {
		if ty, ok := types.LookupName(name); ok && !ty.IsPseudo() {
			p, castable := findCast(in[0], ty.OID, explicit)
			if in[0] == types.OIDUnknown || castable && (p.kind == pathRelabel || p.kind == pathFunc && false) {
				e, _, err := b.coerce(args[0], ty.OID, -1, explicit, n.Location)
				return nil, e, err
			}
		}
	}
	var fit []candidate
	for i := range all {
		if canCoerce(in, all[i].args) {
			fit = append(fit, all[i])
		}
	}
	fit = preferPlain(fit)
	if c := selectCandidate(in, fit); c != nil {
		return c, nil, nil
	}
	if len(fit) > 1 {
		return nil, nil, b.errorf(n.Location, pgerrcode.AmbiguousFunction, "function %s is not unique", signature(name, args)).
			WithHint("Could not choose a best candidate function. You might need to add explicit type casts.")
	}
	if len(args) == 1 && !n.AggStar {
		if ty, ok := types.LookupName(name); ok && !ty.IsPseudo() {
			if e, ok, err := b.coerce(args[0], ty.OID, -1, explicit, n.Location); err != nil || ok {
				return nil, e, err
			}
		}
	}
	return nil, nil, b.noFunction(n, strings.Join(names(n.Funcname), "."), args, all)
}

// preferPlain drops variadic expansions that a plain candidate of the same types hides.
func preferPlain(l []candidate) []candidate {
	var out []candidate
	for i := range l {
		hidden := false
		for j := range l {
			if i != j && l[i].variadic && !l[j].variadic && sameTypes(l[i].args, l[j].args) {
				hidden = true
			}
		}
		if !hidden {
			out = append(out, l[i])
		}
	}
	return out
}

func signature(name string, args []expr.Expr) string {
	l := make([]string, len(args))
	for i, a := range args {
		l[i] = typeName(a.Type())
	}
	return name + "(" + strings.Join(l, ", ") + ")"
}

func (b *Binder) noFunction(n *ast.FuncCall, name string, args []expr.Expr, _ []candidate) error {
	sig := signature(name, args)
	if n.AggStar {
		sig = name + "(*)"
		return b.errorf(n.Location, pgerrcode.UndefinedFunction, "function %s does not exist", name+"()").
			WithHint("No function matches the given name and argument types. You might need to add explicit type casts.")
	}
	return b.errorf(n.Location, pgerrcode.UndefinedFunction, "function %s does not exist", sig).
		WithHint("No function matches the given name and argument types. You might need to add explicit type casts.")
}

func (b *Binder) aggAllowed(x *exprCtx, n *ast.FuncCall) error {
	switch {
	case x.inAgg:
		return b.errorf(n.Location, pgerrcode.GroupingError, "aggregate function calls cannot be nested")
	case !x.aggs || x.level == nil:
		return b.errorf(n.Location, pgerrcode.GroupingError, "aggregate functions are not allowed in %s", x.clause)
	}
	return nil
}

// aggregate registers an aggregate of the query level and returns a reference to it.
func (b *Binder) aggregate(x *exprCtx, n *ast.FuncCall, name string, c *candidate, args []expr.Expr) (expr.Expr, error) {
	if !isAggregateName(name) {
		if err := b.aggAllowed(x, n); err != nil {
			return nil, err
		}
	}
	call, err := b.aggCall(x, n, name, c, args)
	if err != nil {
		return nil, err
	}
	if err := b.checkAggLevel(x, call, n.Location); err != nil {
		return nil, err
	}
	for _, o := range x.level.aggs {
		if sameAgg(o, call) {
			return o.Col.Ref(), nil
		}
	}
	x.level.aggs = append(x.level.aggs, call)
	return call.Col.Ref(), nil
}

func (b *Binder) aggCall(x *exprCtx, n *ast.FuncCall, name string, c *candidate, args []expr.Expr) (*logical.AggCall, error) {
	cargs, result, err := b.coerceArgs(c, args, n.Location)
	if err != nil {
		return nil, err
	}
	newAgg, skipsNulls := accumulator(c.proc, cargs, result)
	if newAgg == nil {
		return nil, b.errorf(n.Location, pgerrcode.FeatureNotSupported, "aggregate function %s is not supported", name)
	}
	call := &logical.AggCall{Col: logical.Column{ID: b.newID(), Name: name, Typ: result, Mod: -1}, Name: name, New: newAgg,
		Args: cargs, Star: n.AggStar, Distinct: n.AggDistinct, Strict: skipsNulls}
	inner := *x
	inner.inAgg, inner.srfs, inner.wins = true, false, false
	if n.AggFilter != nil {
		inner.clause = "FILTER"
		e, err := b.expr(&inner, n.AggFilter)
		if err != nil {
			return nil, err
		}
		if call.Filter, err = b.boolean(e, "FILTER", location(n.AggFilter)); err != nil {
			return nil, err
		}
	}
	for _, o := range n.AggOrder {
		e, err := b.expr(&inner, o.GetSortBy().Node)
		if err != nil {
			return nil, err
		}
		if e, err = b.textIfUnknown(e); err != nil {
			return nil, err
		}
		k := sortKey(o.GetSortBy(), e)
		if call.Distinct && (len(cargs) == 0 || !equalExpr(e, cargs[0])) && (len(args) == 0 || !equalExpr(e, args[0])) {
			return nil, b.errorf(location(o.GetSortBy().Node), pgerrcode.InvalidColumnReference,
				"in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list")
		}
		call.Order = append(call.Order, k)
	}
	return call, nil
}

// checkAggLevel refuses an aggregate over nothing but outer columns: PostgreSQL would
// compute it in the outer query.
func (b *Binder) checkAggLevel(x *exprCtx, call *logical.AggCall, loc int32) error {
	local := map[expr.ColID]bool{}
	for _, it := range x.scope.items {
		for _, c := range it.cols {
			local[c.ID] = true
		}
	}
	outer, mine := false, false
	for _, a := range append(append([]expr.Expr(nil), call.Args...), call.Filter) {
		for id := range logical.FreeExpr(a) {
			if local[id] {
				mine = true
			} else {
				outer = true
			}
		}
	}
	if outer && !mine {
		return b.unsupported(loc, "an aggregate of an outer query's columns inside a subquery")
	}
	return nil
}

func sameAgg(a, c *logical.AggCall) bool {
	if a.Name != c.Name || a.Star != c.Star || a.Distinct != c.Distinct || a.Col.Typ != c.Col.Typ || len(a.Args) != len(c.Args) ||
		len(a.Order) > 0 || len(c.Order) > 0 || (a.Filter == nil) != (c.Filter == nil) {
		return false
	}
	for i := range a.Args {
		if !equalExpr(a.Args[i], c.Args[i]) || expr.IsVolatile(a.Args[i]) {
			return false
		}
	}
	return a.Filter == nil || equalExpr(a.Filter, c.Filter)
}

func sortKey(s *ast.SortBy, e expr.Expr) logical.SortKey {
	k := logical.SortKey{Expr: e, Desc: s.SortbyDir == ast.SortByDir_SORTBY_DESC}
	k.NullsFirst = k.Desc
	switch s.SortbyNulls {
	case ast.SortByNulls_SORTBY_NULLS_FIRST:
		k.NullsFirst = true
	case ast.SortByNulls_SORTBY_NULLS_LAST:
		k.NullsFirst = false
	}
	return k
}
