package bind

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/types"
)

// castContext is how strong a cast was asked for.
type castContext uint8

const (
	implicit castContext = iota
	assignment
	explicit
)

// pathKind is how a value gets from one type to another.
type pathKind uint8

const (
	pathRelabel pathKind = iota // the same bits
	pathFunc                    // a cast function
	pathIO                      // through the text form
	pathArray                   // element by element
	pathEval                    // the same bits in PostgreSQL, another value here (int4 and oid)
)

// castPath is a way between two types.
type castPath struct {
	kind pathKind
	proc *builtins.Proc // pathFunc: takes 1 to 3 arguments (value, typmod, explicit)
	elem *castPath
	eval expr.Fn // pathEval
}

// findCast is PostgreSQL's find_coercion_pathway.
func findCast(from, to types.OID, ctx castContext) (castPath, bool) {
	if from == to {
		return castPath{kind: pathRelabel}, true
	}
	if p, allowed, ok := tableCast(from, to); ok {
		return p, ctx >= allowed
	}
	if to == types.OIDAny {
		return castPath{kind: pathRelabel}, true
	}
	if fe, te := elemType(from), elemType(to); fe != 0 && te != 0 && !isVector(from) && !isVector(to) {
		if ep, ok := findCast(fe, te, ctx); ok {
			return castPath{kind: pathArray, elem: &ep}, true
		}
		return castPath{}, false
	}
	if isVector(from) && elemType(to) == elemType(from) {
		return castPath{kind: pathRelabel}, true // int2vector is an int2[] to every reader
	}
	// Strings convert through the text form: from any type by assignment, to any explicitly.
	tc, _ := category(to)
	fc, _ := category(from)
	if ctx >= assignment && tc == 'S' && to != types.OIDUnknown {
		return castPath{kind: pathIO}, true
	}
	if ctx >= explicit && fc == 'S' {
		return castPath{kind: pathIO}, true
	}
	return castPath{}, false
}

func isVector(t types.OID) bool { return t == types.OIDInt2Vector || t == types.OIDOIDVector }

// coerce converts e to a type; false means that there is no such cast. mod is the target's
// modifier (-1: none).
func (b *Binder) coerce(e expr.Expr, to types.OID, mod int32, ctx castContext, loc int32) (expr.Expr, bool, error) {
	switch x := e.(type) {
	case *expr.Const:
		if x.Typ == types.OIDUnknown {
			c, err := b.literal(x, to, mod, ctx)
			return c, true, err
		}
	case *expr.Param:
		if x.Typ == types.OIDUnknown {
			if err := b.fixParam(x, to); err != nil {
				return nil, true, err
			}
			out := b.withMod(&expr.Param{Number: x.Number, Typ: b.params[x.Number-1], Location: x.Location}, to, mod, ctx)
			if out.Type() != to {
				return b.coerce(out, to, mod, ctx, loc)
			}
			return out, true, nil
		}
	}
	from := e.Type()
	if from == to {
		return b.withMod(e, to, mod, ctx), true, nil
	}
	if from == types.OIDUnknown {
		// An unknown that is no literal: a column of a subquery. It holds text.
		from = types.OIDText
		if tc, _ := category(to); tc == 'S' {
			return b.withMod(&expr.Relabel{Arg: e, Typ: to, TMod: -1}, to, mod, ctx), true, nil
		}
		ctx = explicit
	}
	if from == types.OIDRecord && to == types.OIDRecord {
		return e, true, nil
	}
	p, ok := findCast(from, to, ctx)
	if !ok {
		return nil, false, nil
	}
	out := b.applyPath(p, e, to, mod, ctx, loc)
	return b.withMod(out, to, mod, ctx), true, nil
}

func (b *Binder) applyPath(p castPath, e expr.Expr, to types.OID, _ int32, ctx castContext, loc int32) expr.Expr {
	if p.kind == pathRelabel {
		return &expr.Relabel{Arg: e, Typ: to, TMod: -1, Explicit: ctx == explicit}
	}
	fn, vol := pathFn(p, e.Type(), to, ctx)
	return fold(&expr.Call{Name: typeName(to), Cast: castKind(ctx), Fn: fn, Strict: true, Vol: vol, Args: []expr.Expr{e}, Typ: to, TMod: -1, Location: loc})
}

func castKind(ctx castContext) expr.CastKind {
	if ctx == explicit {
		return expr.ExplicitCast
	}
	return expr.ImplicitCast
}

func intConst(v int64) *expr.Const {
	return &expr.Const{Val: types.NewInt(v), Typ: types.OIDInt4, TMod: -1, Location: -1}
}

func boolConst(v bool) *expr.Const {
	return &expr.Const{Val: types.NewBool(v), Typ: types.OIDBool, TMod: -1, Location: -1}
}

// withMod applies a length coercion, unless the value has that modifier already.
func (b *Binder) withMod(e expr.Expr, t types.OID, mod int32, ctx castContext) expr.Expr {
	if mod < 0 || e.Mod() == mod {
		return e
	}
	return fold(lengthCast(e, t, mod, ctx))
}

// literal reads an unknown-type literal as a type.
func (b *Binder) literal(c *expr.Const, to types.OID, mod int32, ctx castContext) (expr.Expr, error) {
	if c.Val.IsNull() {
		return &expr.Const{Val: types.Null, Typ: to, TMod: mod, Location: c.Location}, nil
	}
	switch to {
	case types.OIDUnknown, types.OIDAny, types.OIDCString:
		return c, nil
	case types.OIDRecord, types.OIDAnyArray, types.OIDAnyElement:
		return nil, b.errorf(c.Location, pgerrcode.FeatureNotSupported, "input of %s types is not implemented", typeName(to))
	}
	s := c.Val.Str()
	if frozenLiteral(to, s) {
		b.Result.Frozen = true
	}
	d, err := types.ParseText(to, -1, s, b.opts.Env)
	if err != nil {
		return nil, b.at(err, c.Location)
	}
	out := &expr.Const{Val: d, Typ: to, TMod: -1, Location: c.Location}
	if mod < 0 {
		return out, nil
	}
	return fold(lengthCast(out, to, mod, ctx)), nil
}

// frozenLiteral says whether a literal's meaning changes with time or names.
func frozenLiteral(to types.OID, s string) bool {
	switch to {
	case types.OIDRegClass, types.OIDRegType, types.OIDRegProc, types.OIDRegProcedure, types.OIDRegOper,
		types.OIDRegOperator, types.OIDRegNamespace, types.OIDRegRole, types.OIDRegCollation:
		return true
	case types.OIDDate, types.OIDTimestamp, types.OIDTimestampTZ, types.OIDTime, types.OIDTimeTZ:
		for i := 0; i < len(s); i++ {
			if c := s[i] | 0x20; c >= 'a' && c <= 'z' && c != 't' {
				return true // now, today, or a name: rare enough to be careful
			}
		}
	}
	return false
}

// at gives an error the position of the literal that it is about.
func (b *Binder) at(err error, loc int32) error {
	if pe, ok := err.(*pgerror.Error); ok && pe.Position == 0 {
		c := *pe
		c.Position = b.st.Position(loc)
		return &c
	}
	return err
}

// fixParam gives a parameter its type: the first use decides.
func (b *Binder) fixParam(p *expr.Param, to types.OID) error {
	cur := b.params[p.Number-1]
	switch {
	case cur != types.OIDUnknown:
	case to == types.OIDUnknown || to == types.OIDAny:
	case isPolymorphic(to):
	default:
		b.params[p.Number-1] = to
	}
	return nil
}

// mustCoerce coerces implicitly, or fails as PostgreSQL does for a cast that is not there.
func (b *Binder) mustCoerce(e expr.Expr, to types.OID, mod int32, ctx castContext, loc int32) (expr.Expr, error) {
	out, ok, err := b.coerce(e, to, mod, ctx, loc)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, b.errorf(loc, pgerrcode.CannotCoerce, "cannot cast type %s to %s", typeName(e.Type()), types.FormatType(to, mod))
	}
	return out, nil
}

// boolean coerces a condition of the named clause.
func (b *Binder) boolean(e expr.Expr, clause string, loc int32) (expr.Expr, error) {
	out, ok, err := b.coerce(e, types.OIDBool, -1, assignment, loc)
	if err != nil {
		return nil, err
	}
	if !ok || e.Type() != types.OIDBool && e.Type() != types.OIDUnknown {
		return nil, b.errorf(loc, pgerrcode.DatatypeMismatch, "argument of %s must be type boolean, not type %s", clause, typeName(e.Type()))
	}
	return out, nil
}

// common brings several values to their common type. what names the construct in errors.
func (b *Binder) common(what string, l []expr.Expr, locs []int32) (types.OID, int32, []expr.Expr, error) {
	in := make([]types.OID, len(l))
	for i, e := range l {
		in[i] = e.Type()
	}
	t, ok := commonType(in)
	if !ok {
		a, i := types.OIDUnknown, 0
		for j, x := range in {
			if x == types.OIDUnknown {
				continue
			}
			if a == types.OIDUnknown {
				a = x
				continue
			}
			ca, _ := category(a)
			if cx, _ := category(x); ca != cx {
				i = j
				break
			}
		}
		return 0, -1, nil, b.errorf(locs[i], pgerrcode.DatatypeMismatch, "%s types %s and %s cannot be matched", what, typeName(a), typeName(in[i]))
	}
	mod := int32(-1)
	for i, e := range l {
		if e.Type() != t || i > 0 && e.Mod() != mod {
			mod = -1
			break
		}
		mod = e.Mod()
	}
	out := make([]expr.Expr, len(l))
	for i, e := range l {
		x, ok, err := b.coerce(e, t, -1, implicit, locs[i])
		if err != nil {
			return 0, -1, nil, err
		}
		if !ok {
			return 0, -1, nil, b.errorf(locs[i], pgerrcode.CannotCoerce, "%s could not convert type %s to %s", what, typeName(e.Type()), typeName(t))
		}
		out[i] = x
	}
	return t, mod, out, nil
}

// textIfUnknown gives an unknown expression the type text.
func (b *Binder) textIfUnknown(e expr.Expr) (expr.Expr, error) {
	if e.Type() != types.OIDUnknown {
		return e, nil
	}
	out, _, err := b.coerce(e, types.OIDText, -1, implicit, -1)
	return out, err
}

// fold evaluates an immutable call of constants now. An error is left to the execution.
func fold(e expr.Expr) expr.Expr {
	c, ok := e.(*expr.Call)
	if !ok || c.Vol != expr.Immutable {
		return e
	}
	for _, a := range c.Args {
		if _, ok := expr.Strip(a).(*expr.Const); !ok {
			return e
		}
	}
	v, err := evalConst(c)
	if err != nil {
		return e
	}
	return &expr.Const{Val: v, Typ: c.Typ, TMod: c.TMod, Location: c.Location}
}

func errUnsupportedCast(from, to types.OID) error {
	return pgerror.New(pgerrcode.FeatureNotSupported, "the cast from %s to %s is not supported", typeName(from), typeName(to))
}
