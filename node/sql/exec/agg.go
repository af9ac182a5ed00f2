package exec

import (
	"slices"

	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
)

// accumulator is the state of one aggregate over one group, with what SQL puts around it:
// FILTER, DISTINCT, ORDER BY.
type accumulator struct {
	call *physical.AggCall
	acc  builtins.Accumulator
	seen map[string]struct{}
	rows [][]types.Datum // ORDER BY: sort keys, then arguments
}

// groupOverhead is a guess at what an aggregate's state costs, in bytes.
const groupOverhead = 96

func newAccumulator(c *physical.AggCall) *accumulator {
	a := &accumulator{call: c, acc: c.New()}
	if c.Distinct {
		a.seen = map[string]struct{}{}
	}
	return a
}

// add takes a row of the input. args is scratch space.
func (a *accumulator) add(rt *runtime, row []types.Datum, args []types.Datum) error {
	c := a.call
	if c.Filter != nil {
		ok, err := expr.Truthy(&rt.x, c.Filter, row)
		if err != nil || !ok {
			return err
		}
	}
	args = args[:0]
	for _, e := range c.Args {
		v, err := e.Eval(&rt.x, row)
		if err != nil {
			return err
		}
		if v.IsNull() && c.Strict {
			return nil
		}
		args = append(args, v)
	}
	if a.seen != nil {
		var key []byte
		for i, v := range args {
			key = expr.AppendHashKey(key, expr.HashNormal(c.Args[i].Type(), v))
		}
		if _, dup := a.seen[string(key)]; dup {
			return nil
		}
		if err := rt.keep(int64(len(key)) + 48); err != nil {
			return err
		}
		a.seen[string(key)] = struct{}{}
	}
	if len(c.Order) > 0 {
		keep := make([]types.Datum, len(c.Order)+len(args))
		for i, k := range c.Order {
			v, err := k.Expr.Eval(&rt.x, row)
			if err != nil {
				return err
			}
			keep[i] = v
		}
		copy(keep[len(c.Order):], args)
		if err := rt.keep(rowSize(keep)); err != nil {
			return err
		}
		a.rows = append(a.rows, keep)
		return nil
	}
	if collects(c.Name) {
		if err := rt.keep(rowSize(args)); err != nil {
			return err
		}
	}
	return a.acc.Add(rt.x.Eval, args)
}

// collects says whether an aggregate's state grows with its input.
func collects(name string) bool {
	switch name {
	case "array_agg", "string_agg", "json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg":
		return true
	}
	return false
}

func (a *accumulator) result(rt *runtime) (types.Datum, error) {
	if n := len(a.call.Order); n > 0 {
		ord := newOrderer(a.call.Order)
		slices.SortStableFunc(a.rows, func(x, y []types.Datum) int { return ord.compare(x, y) })
		for _, r := range a.rows {
			if err := a.acc.Add(rt.x.Eval, r[n:]); err != nil {
				return types.Null, err
			}
		}
		a.rows = nil
	}
	return a.acc.Result(rt.x.Eval)
}

type group struct {
	keys []types.Datum
	accs []*accumulator
}

// aggOp groups by hashing. Groups come out in the order in which they were first seen.
type aggOp struct {
	n      *physical.Agg
	in     operator
	open   bool
	groups []*group
	pos    int
	out    Batch
}

func (o *aggOp) close(rt *runtime) { o.groups = nil; o.in.close(rt) }

func (o *aggOp) next(rt *runtime, _ int) (*Batch, error) {
	if !o.open {
		o.open = true
		if err := o.load(rt); err != nil {
			return nil, err
		}
	}
	if o.pos >= len(o.groups) {
		return nil, nil
	}
	o.out.reset(len(o.n.Cols))
	for o.pos < len(o.groups) && o.out.Len < batchRows {
		g := o.groups[o.pos]
		o.groups[o.pos] = nil
		o.pos++
		row := o.out.add()
		n := copy(row, g.keys)
		for i, a := range g.accs {
			v, err := a.result(rt)
			if err != nil {
				return nil, err
			}
			row[n+i] = v
		}
	}
	return &o.out, nil
}

func (o *aggOp) newGroup(rt *runtime, keys []types.Datum) (*group, error) {
	g := &group{keys: keys}
	if err := rt.keep(rowSize(keys) + int64(groupOverhead*(1+len(o.n.Calls)))); err != nil {
		return nil, err
	}
	for _, c := range o.n.Calls {
		g.accs = append(g.accs, newAccumulator(c))
	}
	o.groups = append(o.groups, g)
	return g, nil
}

func (o *aggOp) load(rt *runtime) error {
	var single *group
	byKey := map[string]*group{}
	byInt := map[int64]*group{}
	if o.n.Scalar {
		var err error
		if single, err = o.newGroup(rt, nil); err != nil {
			return err
		}
	}
	keys := make([]types.Datum, len(o.n.Keys))
	var buf []byte
	args := make([]types.Datum, 0, 4)
	for {
		if err := rt.ctx.Err(); err != nil {
			return err
		}
		b, err := o.in.next(rt, maxInt)
		if err != nil || b == nil {
			return err
		}
		for i := 0; i < b.Len; i++ {
			row := b.Row(i)
			g := single
			if g == nil {
				for j, k := range o.n.Keys {
					v, err := k.Eval(&rt.x, row)
					if err != nil {
						return err
					}
					keys[j] = v
				}
				if len(keys) == 1 && keys[0].Kind() == types.KindInt {
					if g = byInt[keys[0].Int()]; g == nil {
						if g, err = o.newGroup(rt, slices.Clone(keys)); err != nil {
							return err
						}
						byInt[keys[0].Int()] = g
					}
				} else {
					buf = buf[:0]
					for j, k := range o.n.Keys {
						buf = expr.AppendHashKey(buf, expr.HashNormal(k.Type(), keys[j]))
					}
					if g = byKey[string(buf)]; g == nil {
						if g, err = o.newGroup(rt, slices.Clone(keys)); err != nil {
							return err
						}
						byKey[string(buf)] = g
					}
				}
			}
			for _, a := range g.accs {
				if err := a.add(rt, row, args); err != nil {
					return err
				}
			}
		}
	}
}
