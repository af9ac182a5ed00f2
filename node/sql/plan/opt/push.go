// Package opt turns the logical algebra into a physical plan: it pushes conditions down,
// orders joins, chooses indexes and algorithms by a simple cost model, and replaces column
// names by slots.
package opt

import (
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

// push moves conditions towards the scans. preds hold above n; what it returns yields only
// rows for which they do.
func push(n logical.Node, preds []expr.Expr) logical.Node {
	switch v := n.(type) {
	case *logical.Filter:
		v = unnest(v)
		return push(v.In, append(append([]expr.Expr(nil), v.Preds...), preds...))
	case *logical.Project:
		return pushProject(v, preds)
	case *logical.Join:
		return pushJoin(v, preds)
	case *logical.Agg:
		var down []expr.Expr
		stay := preds
		if len(v.Keys) > 0 { // without a key there is a row even of no input
			down, stay = splitBy(preds, plainKeys(v))
		}
		v.In = push(v.In, down)
		return filter(v, stay)
	case *logical.Sort:
		v.In = push(v.In, preds)
		return v
	case *logical.Distinct:
		on := logical.Set{}
		on.Add(v.On...)
		down, stay := splitBy(preds, on)
		v.In = push(v.In, down)
		return filter(v, stay)
	case *logical.LockRows:
		v.In = push(v.In, preds)
		return v
	case *logical.Limit:
		v.In = push(v.In, nil)
		return filter(v, preds)
	case *logical.ProjectSet:
		down, stay := splitBy(preds, logical.ColSet(v.In))
		v.In = push(v.In, down)
		return filter(v, stay)
	case *logical.Window:
		v.In = push(v.In, nil)
		return filter(v, preds)
	case *logical.SetOp:
		return pushSetOp(v, preds)
	case *logical.Insert:
		v.In = push(v.In, nil)
	case *logical.Update:
		v.In = push(v.In, nil)
	case *logical.Delete:
		v.In = push(v.In, nil)
	}
	return filter(n, preds)
}

func filter(n logical.Node, preds []expr.Expr) logical.Node {
	if len(preds) == 0 {
		return n
	}
	return &logical.Filter{In: n, Preds: preds}
}

// splitBy separates the conditions that refer to no own column outside cols. Volatile ones
// stay where they are.
func splitBy(preds []expr.Expr, cols logical.Set) (down, stay []expr.Expr) {
	for _, p := range preds {
		if !expr.IsVolatile(p) && cols.Contains(logical.FreeExpr(p)) {
			down = append(down, p)
		} else {
			stay = append(stay, p)
		}
	}
	return down, stay
}

// plainKeys are the group columns that are input columns themselves.
func plainKeys(a *logical.Agg) logical.Set {
	s := logical.Set{}
	for i, k := range a.Keys {
		if c, ok := a.KeyExprs[i].(*expr.Col); ok && c.ID == k.ID {
			s[k.ID] = struct{}{}
		}
	}
	return s
}

func pushProject(v *logical.Project, preds []expr.Expr) logical.Node {
	by := map[expr.ColID]expr.Expr{}
	for i, c := range v.Columns {
		by[c.ID] = v.Exprs[i]
	}
	var down, stay []expr.Expr
	for _, p := range preds {
		if n, ok := substitute(p, by); ok {
			down = append(down, n)
		} else {
			stay = append(stay, p)
		}
	}
	v.In = push(v.In, down)
	return filter(v, stay)
}

// substitute replaces columns by expressions; false if that would repeat something volatile
// or a subquery, or if a subquery of e refers to a computed column.
func substitute(e expr.Expr, by map[expr.ColID]expr.Expr) (expr.Expr, bool) {
	ok := !expr.IsVolatile(e)
	out, _ := expr.Rewrite(e, func(x expr.Expr) (expr.Expr, error) {
		switch v := x.(type) {
		case *expr.Col:
			if n, found := by[v.ID]; found {
				if expr.IsVolatile(n) || expr.HasSubquery(n) {
					ok = false
				}
				return n, nil
			}
		case *expr.Subquery:
			if n, isNode := v.Plan.(logical.Node); isNode {
				for id := range logical.Free(n) {
					if b, found := by[id]; found {
						if c, plain := b.(*expr.Col); !plain || c.ID != id {
							ok = false
						}
					}
				}
			}
		}
		return x, nil
	})
	return out, ok
}

func pushSetOp(v *logical.SetOp, preds []expr.Expr) logical.Node {
	var stay []expr.Expr
	var l, r []expr.Expr
	lc, rc := v.L.Cols(), v.R.Cols()
	lby, rby := map[expr.ColID]expr.Expr{}, map[expr.ColID]expr.Expr{}
	for i, c := range v.Columns {
		lby[c.ID], rby[c.ID] = lc[i].Ref(), rc[i].Ref()
	}
	for _, p := range preds {
		lp, lok := substitute(p, lby)
		rp, rok := substitute(p, rby)
		if lok && rok && v.Kind == logical.Union && !expr.HasSubquery(p) {
			l, r = append(l, lp), append(r, rp)
		} else {
			stay = append(stay, p)
		}
	}
	v.L, v.R = push(v.L, l), push(v.R, r)
	return filter(v, stay)
}

func pushJoin(v *logical.Join, preds []expr.Expr) logical.Node {
	lc, rc := logical.ColSet(v.L), logical.ColSet(v.R)
	// A condition that no NULL-extended row satisfies makes an outer join an inner one.
	if v.Kind == logical.Left && rejectsNull(preds, rc) || v.Kind == logical.Right && rejectsNull(preds, lc) {
		v.Kind = logical.Inner
	}
	if v.Kind == logical.Full {
		l, r := rejectsNull(preds, lc), rejectsNull(preds, rc)
		switch {
		case l && r:
			v.Kind = logical.Inner
		case l:
			v.Kind = logical.Left
		case r:
			v.Kind = logical.Right
		}
	}
	if v.Kind == logical.Right && !v.Lateral {
		v.Kind, v.L, v.R = logical.Left, v.R, v.L
		lc, rc = rc, lc
	}
	var toL, toR, stay []expr.Expr
	classify := func(p expr.Expr, left, right bool) bool {
		if expr.IsVolatile(p) {
			return false
		}
		free := logical.FreeExpr(p)
		inL, inR := free.Intersects(lc), free.Intersects(rc)
		switch {
		case !inR && left:
			toL = append(toL, p)
		case !inL && inR && right:
			toR = append(toR, p)
		default:
			return false
		}
		return true
	}
	switch v.Kind {
	case logical.Inner:
		var on []expr.Expr
		for _, p := range append(append([]expr.Expr(nil), v.On...), preds...) {
			if classify(p, true, true) {
				continue
			}
			if expr.IsVolatile(p) {
				stay = append(stay, p)
			} else {
				on = append(on, p)
			}
		}
		v.On = on
	case logical.Left, logical.Semi, logical.Anti:
		for _, p := range preds {
			if !classify(p, true, false) {
				stay = append(stay, p)
			}
		}
		var on []expr.Expr
		for _, p := range v.On {
			if !classify(p, v.Kind == logical.Semi, true) {
				on = append(on, p)
			}
		}
		v.On = on
	default:
		stay = preds
	}
	v.L, v.R = push(v.L, toL), push(v.R, toR)
	return filter(v, stay)
}

// rejectsNull says whether some condition is false or NULL when all columns of cols are NULL.
func rejectsNull(preds []expr.Expr, cols logical.Set) bool {
	for _, p := range preds {
		if strictCond(p, cols) {
			return true
		}
	}
	return false
}

func strictCond(e expr.Expr, cols logical.Set) bool {
	switch v := e.(type) {
	case *expr.And:
		for _, a := range v.Args {
			if strictCond(a, cols) {
				return true
			}
		}
	case *expr.Or:
		for _, a := range v.Args {
			if !strictCond(a, cols) {
				return false
			}
		}
		return len(v.Args) > 0
	case *expr.Compare, *expr.Col, *expr.Call:
		return nullIfNull(e, cols)
	case *expr.IsNull:
		return v.Neg && nullIfNull(v.Arg, cols) && v.Arg.Type() != types.OIDRecord
	case *expr.InList:
		return nullIfNull(v.L, cols)
	case *expr.AnyArray:
		return nullIfNull(v.L, cols) && !v.All
	case *expr.BoolTest:
		return !v.Neg && !v.Want.IsNull() && nullIfNull(v.Arg, cols)
	}
	return false
}

// nullIfNull says whether e is NULL when all columns of cols are.
func nullIfNull(e expr.Expr, cols logical.Set) bool {
	switch v := e.(type) {
	case *expr.Col:
		return cols.Has(v.ID)
	case *expr.Compare:
		return nullIfNull(v.L, cols) || nullIfNull(v.R, cols)
	case *expr.Call:
		if !v.Strict {
			return false
		}
		for _, a := range v.Args {
			if nullIfNull(a, cols) {
				return true
			}
		}
	case *expr.Relabel:
		return nullIfNull(v.Arg, cols)
	case *expr.Not:
		return nullIfNull(v.Arg, cols)
	}
	return false
}
