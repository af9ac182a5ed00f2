package opt

import (
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
)

// unnest turns the correlated EXISTS, NOT EXISTS and IN among a filter's conditions into semi
// and anti joins, which need not run the subquery for each row. A subquery stays where it is
// if it refers to the outer row elsewhere than in conditions on its own rows (below a grouping
// or a limit, in an outer join's condition), and if the rows are locked as they are read.
func unnest(v *logical.Filter) *logical.Filter {
	in := v.In
	var preds []expr.Expr
	for _, p := range v.Preds {
		if j, ok := semiJoin(in, p); ok {
			in = j
		} else {
			preds = append(preds, p)
		}
	}
	if in == v.In {
		return v
	}
	return &logical.Filter{In: in, Preds: preds}
}

// semiJoin joins l with the subquery of a condition.
func semiJoin(l logical.Node, p expr.Expr) (*logical.Join, bool) {
	kind := logical.Semi
	if n, ok := p.(*expr.Not); ok {
		if s, ok := n.Arg.(*expr.Subquery); !ok || s.Kind != expr.ExistsSubquery {
			return nil, false
		}
		kind, p = logical.Anti, n.Arg
	}
	s, ok := p.(*expr.Subquery)
	if !ok || s.Kind != expr.ExistsSubquery && (s.Kind != expr.AnySubquery || !s.Hash) || locks(l) {
		return nil, false
	}
	plan, ok := s.Plan.(logical.Node)
	if !ok {
		return nil, false
	}
	outer := logical.ColSet(l)
	if !logical.Free(plan).Intersects(outer) {
		return nil, false // it runs once as it is
	}
	by := map[expr.ColID]expr.Expr{}
	r, on, ok := lift(stripOutput(plan, by), outer)
	if !ok {
		return nil, false
	}
	if s.Kind == expr.AnySubquery {
		cmp, ok := membership(s, plan, by)
		if !ok {
			return nil, false
		}
		on = append(on, cmp...)
	}
	if len(on) == 0 || logical.Free(r).Intersects(outer) {
		return nil, false
	}
	return &logical.Join{Kind: kind, L: l, R: r, On: on}, true
}

// locks says whether a scan below locks rows or tells their keys.
func locks(n logical.Node) bool {
	if s, ok := n.(*logical.Scan); ok && len(s.KeyCols) > 0 {
		return true
	}
	for _, in := range n.Inputs() {
		if locks(in) {
			return true
		}
	}
	return false
}

// stripOutput takes off what does not change whether, and with which values, there are rows.
// by gets what the projections that were taken off computed.
func stripOutput(n logical.Node, by map[expr.ColID]expr.Expr) logical.Node {
	for {
		switch v := n.(type) {
		case *logical.Sort:
			n = v.In
		case *logical.Distinct:
			if len(v.On) != len(v.In.Cols()) {
				return n // DISTINCT ON chooses
			}
			n = v.In
		case *logical.Project:
			for i, c := range v.Columns {
				if col, ok := v.Exprs[i].(*expr.Col); !ok || col.ID != c.ID {
					by[c.ID] = v.Exprs[i]
				}
			}
			n = v.In
		default:
			return n
		}
	}
}

// lift returns a copy of n without the conditions that refer to outer columns, and those.
func lift(n logical.Node, outer logical.Set) (logical.Node, []expr.Expr, bool) {
	split := func(preds []expr.Expr) (stay, up []expr.Expr, ok bool) {
		for _, p := range preds {
			if !logical.FreeExpr(p).Intersects(outer) {
				stay = append(stay, p)
				continue
			}
			if expr.IsVolatile(p) || expr.HasSubquery(p) {
				return nil, nil, false
			}
			up = append(up, p)
		}
		return stay, up, true
	}
	switch v := n.(type) {
	case *logical.Filter:
		stay, up, ok := split(v.Preds)
		if !ok {
			return nil, nil, false
		}
		in, more, ok := lift(v.In, outer)
		return filter(in, stay), append(up, more...), ok
	case *logical.Join:
		if v.Kind != logical.Inner || v.Lateral {
			break
		}
		stay, up, ok := split(v.On)
		if !ok {
			return nil, nil, false
		}
		l, lup, lok := lift(v.L, outer)
		r, rup, rok := lift(v.R, outer)
		return &logical.Join{Kind: logical.Inner, L: l, R: r, On: stay}, append(append(up, lup...), rup...), lok && rok
	}
	return n, nil, true
}

// membership makes x IN (SELECT y ...) into conditions x = y.
func membership(s *expr.Subquery, plan logical.Node, by map[expr.ColID]expr.Expr) ([]expr.Expr, bool) {
	cols := plan.Cols()
	values := append([]expr.Expr(nil), s.Test...)
	for _, c := range cols[:len(s.Test)] {
		// A projection over another: from the outside in.
		var e expr.Expr = c.Ref()
		for range 8 {
			out, ok := substitute(e, by)
			if !ok {
				return nil, false
			}
			if out == e {
				break
			}
			e = out
		}
		values = append(values, e)
	}
	for _, v := range values {
		if expr.HasSubquery(v) || expr.IsVolatile(v) {
			return nil, false
		}
	}
	out, err := expr.Rewrite(s.Cmp, func(e expr.Expr) (expr.Expr, error) {
		if sl, ok := e.(*expr.Slot); ok {
			return values[sl.Index], nil
		}
		return e, nil
	})
	return expr.Conjuncts(out), err == nil
}
