package opt

import (
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/plan/physical"
)

func colsLayout(cols []logical.Column) layout {
	l := layout{}
	for i, c := range cols {
		l[c.ID] = i
	}
	return l
}

func (b *builder) checks(l []logical.Check, at layout) ([]logical.Check, error) {
	out := make([]logical.Check, 0, len(l))
	for _, c := range l {
		e, err := b.compile(c.Cond, at)
		if err != nil {
			return nil, err
		}
		out = append(out, logical.Check{Name: c.Name, Cond: e})
	}
	return out, nil
}

func (b *builder) insert(v *logical.Insert) (physical.Node, error) {
	in, err := b.exact(v.In, v.In.Cols())
	if err != nil {
		return nil, err
	}
	n := &physical.Insert{In: in, Base: like(in)}
	n.Table, n.Attrs, n.Cols = v.Table, v.Attrs, v.Cols()
	at := colsLayout(v.Row)
	if n.Checks, err = b.checks(v.Checks, at); err != nil {
		return nil, err
	}
	if v.Returning != nil {
		if n.Returning, err = b.compileAll(v.Returning.Exprs, at); err != nil {
			return nil, err
		}
	}
	if c := v.Conflict; c != nil {
		n.Conflict = &physical.Conflict{Arbiters: c.Arbiters, Update: c.Update}
		cat := colsLayout(append(append([]logical.Column(nil), c.Existing...), c.Excluded...))
		if n.Conflict.Set, err = b.setCols(c.Set, cat); err != nil {
			return nil, err
		}
		if c.Where != nil {
			if n.Conflict.Where, err = b.compile(c.Where, cat); err != nil {
				return nil, err
			}
		}
	}
	return n, nil
}

func (b *builder) setCols(l []logical.SetCol, at layout) ([]physical.SetCol, error) {
	var out []physical.SetCol
	for _, s := range l {
		e, err := b.compile(s.Expr, at)
		if err != nil {
			return nil, err
		}
		out = append(out, physical.SetCol{Pos: s.Pos, Expr: e})
	}
	return out, nil
}

// target builds the input of UPDATE or DELETE, and finds the old row in it.
func (b *builder) target(in logical.Node, s *logical.Scan, extra []expr.Expr) (node physical.Node, old []int, key int, err error) {
	need := logical.Set{}
	need.Add(s.Cols()...)
	freeOf(need, extra...)
	if node, _, err = b.build(in, need, nil); err != nil {
		return nil, nil, 0, err
	}
	at := layoutOf(node)
	for _, c := range s.Columns {
		old = append(old, at[c.ID])
	}
	key = at[s.KeyCols[0].ID]
	if at[s.KeyCols[1].ID] != key+1 || at[s.KeyCols[2].ID] != key+2 {
		cols := append([]logical.Column(nil), node.Info().Cols...)
		if node, err = b.arrange(node, append(cols, s.KeyCols...)); err != nil {
			return nil, nil, 0, err
		}
		key = len(cols)
	}
	return node, old, key, nil
}

func (b *builder) update(v *logical.Update) (physical.Node, error) {
	var extra []expr.Expr
	for _, s := range v.Set {
		extra = append(extra, s.Expr)
	}
	row := colsLayout(v.Row)
	if v.Returning != nil {
		extra = append(extra, v.Returning.Exprs...)
	}
	need := extra[:0:0]
	need = append(need, extra...)
	in, old, key, err := b.target(v.In, v.Target, need)
	if err != nil {
		return nil, err
	}
	n := &physical.Update{In: in, Base: like(in), Old: old, Key: key}
	n.Table, n.Attrs, n.Cols = v.Target.Table, v.Attrs, v.Cols()
	at := layoutOf(in)
	if n.Set, err = b.setCols(v.Set, at); err != nil {
		return nil, err
	}
	if n.Checks, err = b.checks(v.Checks, row); err != nil {
		return nil, err
	}
	if v.Returning != nil {
		// New row first, then the input's slots (other tables).
		both := layout{}
		for id, s := range at {
			both[id] = len(v.Row) + s
		}
		for id, s := range row {
			both[id] = s
		}
		if n.Returning, err = b.compileAll(v.Returning.Exprs, both); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (b *builder) delete(v *logical.Delete) (physical.Node, error) {
	var extra []expr.Expr
	if v.Returning != nil {
		extra = v.Returning.Exprs
	}
	in, old, key, err := b.target(v.In, v.Target, extra)
	if err != nil {
		return nil, err
	}
	n := &physical.Delete{In: in, Base: like(in), Old: old, Key: key}
	n.Table, n.Attrs, n.Cols = v.Target.Table, v.Target.Attrs, v.Cols()
	if v.Returning != nil {
		n.Returning, err = b.compileAll(v.Returning.Exprs, layoutOf(in))
	}
	return n, err
}

// BuildBulkInsert is Build for an Insert without a source (COPY): the operator, and its
// column defaults ready to be evaluated.
func BuildBulkInsert(v *logical.Insert, defaults []expr.Expr) (*physical.Insert, []expr.Expr, error) {
	b := &builder{}
	n := &physical.Insert{}
	n.Table, n.Attrs = v.Table, v.Attrs
	var err error
	if n.Checks, err = b.checks(v.Checks, colsLayout(v.Row)); err != nil {
		return nil, nil, err
	}
	out := make([]expr.Expr, len(defaults))
	for i, d := range defaults {
		if d == nil {
			continue
		}
		if out[i], err = b.compile(d, nil); err != nil {
			return nil, nil, err
		}
	}
	return n, out, nil
}
