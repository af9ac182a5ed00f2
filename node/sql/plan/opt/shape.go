package opt

import (
	"math"

	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/plan/physical"
)

func (b *builder) aggCall(c *logical.AggCall, at layout) (*physical.AggCall, error) {
	args, err := b.compileAll(c.Args, at)
	if err != nil {
		return nil, err
	}
	p := &physical.AggCall{Name: c.Name, New: c.New, Args: args, Distinct: c.Distinct, Strict: c.Strict, Star: c.Star, Typ: c.Col.Typ}
	if c.Filter != nil {
		if p.Filter, err = b.compile(c.Filter, at); err != nil {
			return nil, err
		}
	}
	p.Order, err = b.sortKeys(c.Order, at)
	return p, err
}

func (b *builder) sortKeys(l []logical.SortKey, at layout) ([]physical.SortKey, error) {
	var out []physical.SortKey
	for _, k := range l {
		e, err := b.compile(k.Expr, at)
		if err != nil {
			return nil, err
		}
		out = append(out, physical.SortKey{Expr: e, Desc: k.Desc, NullsFirst: k.NullsFirst})
	}
	return out, nil
}

func aggNeeds(need logical.Set, c *logical.AggCall) {
	freeOf(need, c.Args...)
	freeOf(need, c.Filter)
	for _, k := range c.Order {
		freeOf(need, k.Expr)
	}
}

func (b *builder) agg(v *logical.Agg, need logical.Set) (physical.Node, error) {
	below := logical.Set{}
	freeOf(below, v.KeyExprs...)
	var calls []*logical.AggCall
	for _, c := range v.Calls {
		if need.Has(c.Col.ID) {
			calls = append(calls, c)
			aggNeeds(below, c)
		}
	}
	in, _, err := b.build(v.In, below, nil)
	if err != nil {
		return nil, err
	}
	at := layoutOf(in)
	n := &physical.Agg{In: in, Base: like(in), Scalar: !v.Grouped && len(v.Keys) == 0}
	n.Cols = append([]logical.Column(nil), v.Keys...)
	if n.Keys, err = b.compileAll(v.KeyExprs, at); err != nil {
		return nil, err
	}
	for _, c := range calls {
		p, err := b.aggCall(c, at)
		if err != nil {
			return nil, err
		}
		n.Calls = append(n.Calls, p)
		n.Cols = append(n.Cols, c.Col)
	}
	n.Cost += in.Info().Rows * cpuOperator * float64(1+len(calls))
	n.Startup = n.Cost
	if len(v.Keys) == 0 {
		n.Rows = 1
	} else {
		n.Rows = math.Max(1, math.Min(in.Info().Rows, 200*float64(len(v.Keys))))
	}
	return n, nil
}

// columnOrder turns sort keys into an order of columns; nil if they are expressions.
func columnOrder(keys []logical.SortKey) *order {
	o := &order{}
	for _, k := range keys {
		c, ok := k.Expr.(*expr.Col)
		if !ok {
			return nil
		}
		o.keys = append(o.keys, orderKey{c.ID, k.Desc, k.NullsFirst})
	}
	return o
}

func (b *builder) sort(v *logical.Sort, need logical.Set, outer *order) (physical.Node, bool, error) {
	below := clone(need)
	for _, k := range v.Keys {
		freeOf(below, k.Expr)
	}
	want := columnOrder(v.Keys)
	if want != nil && outer != nil {
		want.limit = outer.limit
	}
	in, ordered, err := b.build(v.In, below, want)
	if err != nil {
		return nil, false, err
	}
	also := want.satisfies(outer)
	if ordered {
		return in, also, nil
	}
	n, err := b.sortOver(in, v.Keys)
	return n, also, err
}

// satisfies says whether rows in order o are also in order w.
func (o *order) satisfies(w *order) bool {
	if o == nil || w == nil || len(w.keys) == 0 || len(w.keys) > len(o.keys) {
		return false
	}
	for i, k := range w.keys {
		if o.keys[i] != k {
			return false
		}
	}
	return true
}

func (b *builder) sortOver(in physical.Node, keys []logical.SortKey) (*physical.Sort, error) {
	l, err := b.sortKeys(keys, layoutOf(in))
	if err != nil {
		return nil, err
	}
	n := &physical.Sort{In: in, Keys: l, Base: like(in)}
	n.Cost += sortCost(in.Info().Rows)
	n.Startup = n.Cost
	return n, nil
}

func (b *builder) limit(v *logical.Limit, need logical.Set) (physical.Node, bool, error) {
	rows := 100.0
	if c, ok := v.Count.(*expr.Const); ok && !c.Val.IsNull() {
		rows = math.Max(1, float64(c.Val.Int()))
	}
	in, _, err := b.build(v.In, need, &order{limit: rows})
	if err != nil {
		return nil, false, err
	}
	n := &physical.Limit{In: in, Base: like(in)}
	if v.Count != nil {
		if n.Count, err = b.compile(v.Count, nil); err != nil {
			return nil, false, err
		}
		n.Rows = math.Min(n.Rows, rows)
		n.Cost = n.Startup + (n.Cost-n.Startup)*n.Rows/math.Max(1, in.Info().Rows)
	}
	if v.Offset != nil {
		if n.Offset, err = b.compile(v.Offset, nil); err != nil {
			return nil, false, err
		}
	}
	if s, ok := in.(*physical.Sort); ok && v.Count != nil {
		s.Top = n
	}
	return n, false, nil
}

func (b *builder) distinct(v *logical.Distinct, need logical.Set, want *order) (physical.Node, bool, error) {
	below := clone(need)
	below.Add(v.On...)
	in, ordered, err := b.build(v.In, below, want)
	if err != nil {
		return nil, false, err
	}
	n := &physical.Distinct{In: in, Base: like(in)}
	at := layoutOf(in)
	for _, c := range v.On {
		n.On = append(n.On, at[c.ID])
	}
	n.Rows = math.Max(1, n.Rows/2)
	return n, ordered, nil
}

func (b *builder) setOp(v *logical.SetOp) (physical.Node, error) {
	l, err := b.exact(v.L, v.L.Cols())
	if err != nil {
		return nil, err
	}
	r, err := b.exact(v.R, v.R.Cols())
	if err != nil {
		return nil, err
	}
	n := &physical.SetOp{Kind: v.Kind, All: v.All, L: l, R: r}
	n.Cols = v.Columns
	n.Rows = l.Info().Rows
	if v.Kind == logical.Union {
		n.Rows += r.Info().Rows
	}
	n.Cost = l.Info().Cost + r.Info().Cost + (l.Info().Rows+r.Info().Rows)*cpuTuple
	return n, nil
}

func (b *builder) window(v *logical.Window, need logical.Set) (physical.Node, error) {
	below := clone(need)
	freeOf(below, v.Partition...)
	for _, k := range v.Order {
		freeOf(below, k.Expr)
	}
	for _, c := range v.Calls {
		freeOf(below, c.Args...)
		if c.Agg != nil {
			aggNeeds(below, c.Agg)
		}
	}
	in, _, err := b.build(v.In, below, nil)
	if err != nil {
		return nil, err
	}
	var keys []logical.SortKey
	for _, p := range v.Partition {
		keys = append(keys, logical.SortKey{Expr: p})
	}
	keys = append(keys, v.Order...)
	if len(keys) > 0 {
		if in, err = b.sortOver(in, keys); err != nil {
			return nil, err
		}
	}
	at := layoutOf(in)
	n := &physical.Window{In: in, Base: like(in)}
	n.Cols = append([]logical.Column(nil), in.Info().Cols...)
	if n.Partition, err = b.compileAll(v.Partition, at); err != nil {
		return nil, err
	}
	if n.Order, err = b.sortKeys(v.Order, at); err != nil {
		return nil, err
	}
	for _, c := range v.Calls {
		p := &physical.WindowCall{Name: c.Name, Kind: c.Kind, Typ: c.Col.Typ,
			Frame: physical.Frame{Mode: c.Frame.Mode, Start: c.Frame.Start, End: c.Frame.End}}
		if p.Args, err = b.compileAll(c.Args, at); err != nil {
			return nil, err
		}
		if c.Agg != nil {
			if p.Agg, err = b.aggCall(c.Agg, at); err != nil {
				return nil, err
			}
		}
		if c.Frame.StartOffset != nil {
			if p.Frame.StartOffset, err = b.compile(c.Frame.StartOffset, nil); err != nil {
				return nil, err
			}
		}
		if c.Frame.EndOffset != nil {
			if p.Frame.EndOffset, err = b.compile(c.Frame.EndOffset, nil); err != nil {
				return nil, err
			}
		}
		n.Calls = append(n.Calls, p)
		n.Cols = append(n.Cols, c.Col)
	}
	return n, nil
}
