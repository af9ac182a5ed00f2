package bind

import (
	"sync"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

// This file is where the binder meets the tables of package builtins.

type operatorKey struct {
	name string
	n    int
}

// operatorMemo keeps what operatorCandidates made of the tables, which never change.
var operatorMemo sync.Map

// operatorCandidates returns the operators of a name with n operands. Nobody may change them.
func operatorCandidates(name string, n int) []candidate {
	if l, ok := operatorMemo.Load(operatorKey{name, n}); ok {
		return l.([]candidate)
	}
	out := makeOperatorCandidates(name, n)
	if out != nil { // names that are no operator's are not kept: anybody can make them up
		operatorMemo.Store(operatorKey{name, n}, out)
	}
	return out
}

func makeOperatorCandidates(name string, n int) []candidate {
	var out []candidate
	for _, o := range builtins.OperatorsByName(name) {
		if (o.Left == 0) != (n == 1) || o.Proc == nil {
			continue
		}
		c := candidate{oid: o.Proc.OID, args: []types.OID{o.Right}, result: o.Result, strict: o.Proc.Strict,
			vol: expr.Volatility(o.Proc.Volatility), proc: o.Proc, kind: 'f'}
		if n == 2 {
			c.args = []types.OID{o.Left, o.Right}
		}
		out = append(out, c)
	}
	return out
}

// functionCandidates returns the overloads of a name that n arguments fit in number. With
// explicitVariadic the call said VARIADIC, so that its last argument is the array.
func functionCandidates(name string, n int, explicitVariadic bool) []candidate {
	var out []candidate
	for _, p := range builtins.ProcsByName(name) {
		if p.Kind == 'p' {
			continue
		}
		if p.Kind == 'a' {
			if a, ok := builtins.AggregateByOID(p.OID); ok && a.Kind != 'n' {
				continue
			}
		}
		c := candidate{oid: p.OID, args: p.Args, result: p.Result, strict: p.Strict, vol: expr.Volatility(p.Volatility),
			proc: p, kind: p.Kind, retset: p.RetSet}
		for i, m := range p.ArgModes {
			if m == 'o' || m == 't' {
				c.outTypes = append(c.outTypes, p.AllArgs[i])
				name := ""
				if i < len(p.ArgNames) {
					name = p.ArgNames[i]
				}
				c.outNames = append(c.outNames, name)
			}
		}
		if len(c.outTypes) == 1 {
			c.outName = c.outNames[0]
			c.outTypes, c.outNames = nil, nil
		}
		switch {
		case p.Variadic != 0 && !explicitVariadic && n >= len(p.Args):
			c.fixed = len(p.Args) - 1
			c.args = append([]types.OID(nil), p.Args[:c.fixed]...)
			for len(c.args) < n {
				c.args = append(c.args, p.Variadic)
			}
			c.variadic, c.anyVariadic = true, p.Variadic == types.OIDAny
		case len(p.Args) == n:
		case len(p.Args) > n && len(p.Args)-p.Defaults <= n:
			c.args = p.Args[:n]
			c.defaults = p.DefaultsAt[len(p.DefaultsAt)-(len(p.Args)-n):]
		default:
			continue
		}
		out = append(out, c)
	}
	return out
}

func isAggregateName(name string) bool {
	l := builtins.ProcsByName(name)
	for _, p := range l {
		if p.Kind != 'a' {
			return false
		}
	}
	return len(l) > 0
}

// aggregateStar returns the aggregates that f(*) means: those without arguments.
func aggregateStar(name string) []candidate {
	var out []candidate
	for _, c := range functionCandidates(name, 0, false) {
		if c.kind == 'a' {
			out = append(out, c)
		}
	}
	return out
}

// complete packs variadic arguments and adds those that were left out.
func (b *Binder) complete(c *candidate, args []expr.Expr) ([]expr.Expr, error) {
	if c.variadic {
		args = packVariadic(c, args)
	}
	for i, d := range c.defaults {
		e, err := b.snippet(d, nil, "parameter defaults")
		if err != nil {
			return nil, err
		}
		if e, err = b.mustCoerce(e, c.proc.Args[len(c.proc.Args)-len(c.defaults)+i], -1, implicit, -1); err != nil {
			return nil, err
		}
		args = append(args, e)
	}
	return args, nil
}

func typesOf(args []expr.Expr) []types.OID {
	out := make([]types.OID, len(args))
	for i, a := range args {
		out[i] = a.Type()
	}
	return out
}

// implementation returns a function's code: 0A000 for one that Atoll does not have.
func (b *Binder) implementation(c *candidate, args []expr.Expr, result types.OID, loc int32) (expr.Fn, error) {
	fn := c.proc.Fn(typesOf(args), result)
	if fn == nil {
		return nil, b.errorf(loc, pgerrcode.FeatureNotSupported, "function %s is not supported", builtins.Signature(c.proc.Name, c.proc.Args))
	}
	return expr.Fn(fn), nil
}

// tableCast looks pg_cast up.
func tableCast(from, to types.OID) (castPath, castContext, bool) {
	c, ok := builtins.FindCast(from, to)
	if !ok {
		return castPath{}, 0, false
	}
	ctx := explicit
	switch c.Context {
	case 'i':
		ctx = implicit
	case 'a':
		ctx = assignment
	}
	switch c.Method {
	case 'b':
		if f := c.Eval(); f != nil {
			return castPath{kind: pathEval, eval: expr.Fn(f)}, ctx, true
		}
		return castPath{kind: pathRelabel}, ctx, true
	case 'i':
		return castPath{kind: pathIO}, ctx, true
	}
	return castPath{kind: pathFunc, proc: c.Proc}, ctx, true
}

// pathFn is the code of a cast.
func pathFn(p castPath, from, to types.OID, ctx castContext) (expr.Fn, expr.Volatility) {
	switch p.kind {
	case pathEval:
		return p.eval, expr.Immutable
	case pathFunc:
		fn := p.proc.Fn(p.proc.Args, p.proc.Result)
		if fn == nil {
			return unsupportedCast(from, to), expr.Volatile
		}
		vol := expr.Volatility(p.proc.Volatility)
		switch len(p.proc.Args) {
		case 1:
			return expr.Fn(fn), vol
		case 2:
			return func(c *builtins.EvalContext, a []types.Datum) (types.Datum, error) {
				return fn(c, []types.Datum{a[0], types.NewInt(-1)})
			}, vol
		}
		return func(c *builtins.EvalContext, a []types.Datum) (types.Datum, error) {
			return fn(c, []types.Datum{a[0], types.NewInt(-1), types.NewBool(ctx == explicit)})
		}, vol
	case pathArray:
		fe, te := elemType(from), elemType(to)
		if p.elem.kind == pathRelabel {
			return func(_ *builtins.EvalContext, a []types.Datum) (types.Datum, error) {
				out := *a[0].Array()
				out.Elem = te
				return types.NewArray(&out), nil
			}, expr.Immutable
		}
		fn, vol := pathFn(*p.elem, fe, te, ctx)
		return func(c *builtins.EvalContext, a []types.Datum) (types.Datum, error) {
			out := *a[0].Array()
			out.Elem = te
			out.Values = make([]types.Datum, len(a[0].Array().Values))
			for i, v := range a[0].Array().Values {
				if v.IsNull() {
					continue
				}
				d, err := fn(c, []types.Datum{v})
				if err != nil {
					return types.Null, err
				}
				out.Values[i] = d
			}
			return types.NewArray(&out), nil
		}, vol
	case pathIO:
		vol := expr.Immutable
		if sessionDependent(from) || sessionDependent(to) {
			vol = expr.Stable
		}
		return func(c *builtins.EvalContext, a []types.Datum) (types.Datum, error) {
			var env *types.Env
			if c != nil {
				env = c.Env
			}
			if tc := types.KindOf(from); tc == types.KindString && from != types.OIDBPChar && types.KindOf(to) != types.KindString {
				return types.ParseText(to, -1, a[0].Str(), env)
			}
			return types.ParseText(to, -1, types.Text(from, a[0], env), env)
		}, vol
	}
	return func(_ *builtins.EvalContext, a []types.Datum) (types.Datum, error) { return a[0], nil }, expr.Immutable
}

func unsupportedCast(from, to types.OID) expr.Fn {
	return func(*builtins.EvalContext, []types.Datum) (types.Datum, error) {
		return types.Null, errUnsupportedCast(from, to)
	}
}

// sessionDependent says whether a type's text form depends on settings or on names.
func sessionDependent(t types.OID) bool {
	if e := elemType(t); e != 0 {
		t = e
	}
	cat, _ := category(t)
	switch t {
	case types.OIDFloat4, types.OIDFloat8, types.OIDBytea, types.OIDRegClass, types.OIDRegType, types.OIDRegProc,
		types.OIDRegProcedure, types.OIDRegNamespace, types.OIDRegRole, types.OIDRegOper, types.OIDRegOperator, types.OIDRegCollation:
		return true
	}
	return cat == 'D' || cat == 'T'
}

// lengthCast applies a type modifier.
func lengthCast(e expr.Expr, t types.OID, mod int32, ctx castContext) expr.Expr {
	fn := func(_ *builtins.EvalContext, a []types.Datum) (types.Datum, error) {
		return types.ApplyTypmod(t, mod, ctx == explicit, a[0])
	}
	return &expr.Call{Name: types.FormatType(t, mod), Cast: castKind(ctx), Fn: fn, Strict: true, Vol: expr.Immutable,
		Args: []expr.Expr{e}, Typ: t, TMod: mod, Location: -1}
}

func evalConst(c *expr.Call) (types.Datum, error) {
	return c.Eval(&expr.Ctx{Eval: &builtins.EvalContext{}}, nil)
}

// byName calls a function that the binder needs itself.
func (b *Binder) byName(name string, args []expr.Expr, loc int32) (expr.Expr, error) {
	c := selectCandidate(typesOf(args), matching(functionCandidates(name, len(args), false), typesOf(args)))
	if c == nil {
		return nil, b.errorf(loc, pgerrcode.UndefinedFunction, "function %s does not exist", signature(name, args))
	}
	cargs, result, err := b.coerceArgs(c, args, loc)
	if err != nil {
		return nil, err
	}
	return b.call(name, c, cargs, result, loc)
}

func matching(l []candidate, in []types.OID) []candidate {
	var out []candidate
	for _, c := range l {
		if canCoerce(in, c.args) {
			out = append(out, c)
		}
	}
	return out
}

// sqlValueCall binds CURRENT_DATE and its like.
func (b *Binder) sqlValueCall(name string, mod int32, loc int32) (expr.Expr, error) {
	cast := types.OID(0)
	switch name {
	case "current_user", "session_user", "current_schema":
		return b.byName(name, nil, loc)
	case "current_catalog":
		return b.byName("current_database", nil, loc)
	case "current_date":
		cast = types.OIDDate
	case "current_time":
		cast = types.OIDTimeTZ
	case "localtime":
		cast = types.OIDTime
	case "localtimestamp":
		cast = types.OIDTimestamp
	case "current_timestamp":
		cast = types.OIDTimestampTZ
	}
	e, err := b.byName("now", nil, loc)
	if err != nil {
		return nil, err
	}
	return b.mustCoerce(e, cast, mod, explicit, loc)
}

// nextval of a sequence by ID.
func (b *Binder) nextval(seq catalog.ID) (expr.Expr, error) {
	return b.byName("nextval", []expr.Expr{&expr.Const{Val: types.NewInt(int64(seq)), Typ: types.OIDRegClass, TMod: -1, Location: -1}}, -1)
}

// sequenceRow is what SELECT * FROM sequence yields.
func (b *Binder) sequenceRow(s *catalog.Sequence, loc int32) ([]expr.Expr, error) {
	last, err := b.byName("pg_sequence_last_value", []expr.Expr{&expr.Const{Val: types.NewInt(int64(s.ID)), Typ: types.OIDRegClass, TMod: -1, Location: -1}}, loc)
	if err != nil {
		return nil, err
	}
	start := &expr.Const{Val: types.NewInt(s.Start), Typ: types.OIDInt8, TMod: -1, Location: -1}
	zero := &expr.Const{Val: types.NewInt(0), Typ: types.OIDInt8, TMod: -1, Location: -1}
	return []expr.Expr{&expr.Coalesce{Args: []expr.Expr{last, start}, Typ: types.OIDInt8, TMod: -1}, zero, &expr.IsNull{Arg: last, Neg: true}}, nil
}

// setFunction returns a set-returning function's code, or nil.
func setFunction(p *builtins.Proc) logical.SetFn { return p.SetFn() }

// accumulator returns what makes an aggregate's state, or nil, and whether rows with a NULL
// argument are left out.
func accumulator(p *builtins.Proc, args []expr.Expr, result types.OID) (logical.AggNew, bool) {
	a, ok := builtins.AggregateByOID(p.OID)
	if !ok {
		return nil, false
	}
	return a.NewAccumulator(typesOf(args), result), a.SkipsNulls()
}
