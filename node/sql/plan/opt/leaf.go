package opt

import (
	"math"

	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/plan/physical"
)

func (b *builder) filter(v *logical.Filter, need logical.Set, want *order) (physical.Node, bool, error) {
	switch in := v.In.(type) {
	case *logical.Scan:
		return b.access(in, v.Preds, need, want)
	case *logical.VirtualScan, *logical.CTEScan:
		n, err := b.leaf(in, v.Preds, need)
		return n, false, err
	case *logical.Join:
		if in.Kind == logical.Inner {
			n, err := b.join(in, v.Preds, need)
			return n, false, err
		}
	}
	below := clone(need)
	freeOf(below, v.Preds...)
	in, ordered, err := b.build(v.In, below, want)
	if err != nil {
		return nil, false, err
	}
	n, err := b.filterOver(in, v.Preds)
	return n, ordered, err
}

func (b *builder) filterOver(in physical.Node, preds []expr.Expr) (physical.Node, error) {
	if len(preds) == 0 {
		return in, nil
	}
	l, err := b.compileAll(preds, layoutOf(in))
	if err != nil {
		return nil, err
	}
	n := &physical.Filter{In: in, Preds: l, Base: like(in)}
	n.Rows = math.Max(1, in.Info().Rows*selectivity(preds))
	n.Cost += in.Info().Rows * cpuOperator * float64(len(preds))
	return n, nil
}

// leaf builds a virtual table or CTE scan, with its conditions.
func (b *builder) leaf(n logical.Node, preds []expr.Expr, need logical.Set) (physical.Node, error) {
	all := clone(need)
	freeOf(all, preds...)
	var cols []logical.Column
	var attrs []int
	for i, c := range n.Cols() {
		if all.Has(c.ID) {
			cols, attrs = append(cols, c), append(attrs, i)
		}
	}
	rows := 1000.0
	base := physical.Base{Cols: cols, Rows: math.Max(1, rows*selectivity(preds)), Cost: rows * cpuTuple}
	at := layout{}
	for i, c := range cols {
		at[c.ID] = i
	}
	f, err := b.compileAll(preds, at)
	if err != nil {
		return nil, err
	}
	switch v := n.(type) {
	case *logical.VirtualScan:
		return &physical.Virtual{Base: base, Table: v.Table, Alias: v.Alias, Attrs: attrs, Filter: f}, nil
	case *logical.CTEScan:
		c, ok := b.ctes[v.CTE]
		if !ok {
			return nil, internal("WITH query %s has no plan", v.CTE.Name)
		}
		if c.Plan != nil {
			base.Rows = math.Max(1, c.Plan.Info().Rows*selectivity(preds))
		}
		return &physical.CTEScan{Base: base, CTE: c, Alias: v.Alias, Attrs: attrs, Work: v.Work, Filter: f}, nil
	}
	return nil, internal("no leaf plan for %T", n)
}

func (b *builder) values(v *logical.Values) (physical.Node, error) {
	n := &physical.Values{Base: physical.Base{Cols: v.Columns, Rows: float64(len(v.Rows)), Cost: float64(len(v.Rows)) * cpuTuple}}
	for _, r := range v.Rows {
		row, err := b.compileAll(r, nil)
		if err != nil {
			return nil, err
		}
		n.Rows = append(n.Rows, row)
	}
	return n, nil
}

func (b *builder) setFuncs(l []*logical.SetFunc, at layout) ([]*physical.SetFunc, error) {
	var out []*physical.SetFunc
	for _, f := range l {
		args, err := b.compileAll(f.Args, at)
		if err != nil {
			return nil, err
		}
		p := &physical.SetFunc{Name: f.Name, Fn: f.Fn, Args: args, Strict: f.Strict, Width: len(f.Cols)}
		if f.Scalar != nil {
			if p.Scalar, err = b.compile(f.Scalar, at); err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}

func (b *builder) funcScan(v *logical.FuncScan) (physical.Node, error) {
	fs, err := b.setFuncs(v.Funcs, nil)
	if err != nil {
		return nil, err
	}
	rows := 1000.0
	if len(v.Funcs) == 1 && v.Funcs[0].Scalar != nil {
		rows = 1
	}
	return &physical.FuncScan{Base: physical.Base{Cols: v.Cols(), Rows: rows, Cost: rows * cpuTuple}, Alias: v.Alias, Funcs: fs, Ordinality: v.Ordinality != nil}, nil
}

func (b *builder) projectSet(v *logical.ProjectSet, need logical.Set) (physical.Node, error) {
	below := clone(need)
	for _, f := range v.Funcs {
		freeOf(below, f.Args...)
		freeOf(below, f.Scalar)
	}
	in, _, err := b.build(v.In, below, nil)
	if err != nil {
		return nil, err
	}
	fs, err := b.setFuncs(v.Funcs, layoutOf(in))
	if err != nil {
		return nil, err
	}
	n := &physical.ProjectSet{In: in, Funcs: fs, Base: like(in)}
	n.Cols = append([]logical.Column(nil), in.Info().Cols...)
	for _, f := range v.Funcs {
		n.Cols = append(n.Cols, f.Cols...)
	}
	n.Rows *= 10
	return n, nil
}

func (b *builder) project(v *logical.Project, need logical.Set, want *order) (physical.Node, bool, error) {
	below := logical.Set{}
	var cols []logical.Column
	var exprs []expr.Expr
	for i, c := range v.Columns {
		if need.Has(c.ID) {
			cols, exprs = append(cols, c), append(exprs, v.Exprs[i])
		}
	}
	freeOf(below, exprs...)
	var inner *order
	if want != nil {
		inner = &order{limit: want.limit}
		for _, k := range want.keys {
			found := false
			for i, c := range v.Columns {
				if col, ok := v.Exprs[i].(*expr.Col); ok && c.ID == k.id {
					inner.keys = append(inner.keys, orderKey{col.ID, k.desc, k.nullsFirst})
					found = true
					break
				}
			}
			if !found {
				inner = nil
				break
			}
		}
	}
	in, ordered, err := b.build(v.In, below, inner)
	if err != nil {
		return nil, false, err
	}
	ordered = ordered && inner != nil
	have := in.Info().Cols
	same := len(have) == len(exprs)
	for i, e := range exprs {
		if !same {
			break
		}
		c, ok := e.(*expr.Col)
		same = ok && have[i].ID == c.ID && cols[i].ID == c.ID
	}
	if same {
		return in, ordered, nil
	}
	l, err := b.compileAll(exprs, layoutOf(in))
	if err != nil {
		return nil, false, err
	}
	n := &physical.Project{In: in, Exprs: l, Base: like(in)}
	n.Cols = cols
	return n, ordered, nil
}
