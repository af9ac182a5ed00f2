package exec

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
)

// windowOp computes window functions over its sorted input, a partition at a time.
type windowOp struct {
	n    *physical.Window
	in   operator
	open bool
	rows store
	res  [][]types.Datum // for each call, a value for each row
	pos  int
	out  Batch
}

func (o *windowOp) close(rt *runtime) { o.rows.free(rt); o.in.close(rt) }

func (o *windowOp) next(rt *runtime, _ int) (*Batch, error) {
	if !o.open {
		o.open = true
		if err := o.load(rt); err != nil {
			return nil, err
		}
	}
	if o.pos >= o.rows.n {
		return nil, nil
	}
	o.out.reset(len(o.n.Cols))
	for o.pos < o.rows.n && o.out.Len < batchRows {
		row := o.out.add()
		n := copy(row, o.rows.row(o.pos))
		for i := range o.res {
			row[n+i] = o.res[i][o.pos]
		}
		o.pos++
	}
	return &o.out, nil
}

func (o *windowOp) load(rt *runtime) error {
	o.rows.width = len(o.n.In.Info().Cols)
	if err := rt.drain(o.in, &o.rows); err != nil {
		return err
	}
	if err := rt.keep(int64(24 * o.rows.n * len(o.n.Calls))); err != nil {
		return err
	}
	o.res = make([][]types.Datum, len(o.n.Calls))
	for i := range o.res {
		o.res[i] = make([]types.Datum, o.rows.n)
	}
	parts, err := o.boundaries(rt, o.n.Partition, 0, o.rows.n)
	if err != nil {
		return err
	}
	var order []expr.Expr
	for _, k := range o.n.Order {
		order = append(order, k.Expr)
	}
	for p := 0; p+1 < len(parts); p++ {
		peers, err := o.boundaries(rt, order, parts[p], parts[p+1])
		if err != nil {
			return err
		}
		part := &partition{start: parts[p], end: parts[p+1], peers: peers}
		for i, c := range o.n.Calls {
			if err := o.compute(rt, c, part, o.res[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// partition is rows [start, end), with the first rows of its peer groups and the end.
type partition struct {
	start, end int
	peers      []int
}

// boundaries returns where the values of exprs change in [start, end), and end.
func (o *windowOp) boundaries(rt *runtime, exprs []expr.Expr, start, end int) ([]int, error) {
	if start == end {
		return nil, nil
	}
	out := []int{start}
	var last, key []byte
	for r := start; r < end && len(exprs) > 0; r++ {
		key = key[:0]
		for _, e := range exprs {
			v, err := e.Eval(&rt.x, o.rows.row(r))
			if err != nil {
				return nil, err
			}
			key = expr.AppendHashKey(key, expr.HashNormal(e.Type(), v))
		}
		if r > start && string(key) != string(last) {
			out = append(out, r)
		}
		last = append(last[:0], key...)
	}
	return append(out, end), nil
}

func (o *windowOp) compute(rt *runtime, c *physical.WindowCall, p *partition, out []types.Datum) error {
	switch c.Kind {
	case logical.WindowAggregate:
		return o.aggregate(rt, c, p, out)
	case logical.RowNumber, logical.Rank, logical.DenseRank, logical.PercentRank, logical.CumeDist:
		o.rank(c.Kind, p, out)
		return nil
	case logical.Ntile:
		return o.ntile(rt, c, p, out)
	case logical.Lag, logical.Lead:
		return o.shift(rt, c, p, out)
	}
	return o.nth(rt, c, p, out)
}

func (o *windowOp) rank(kind logical.WindowKind, p *partition, out []types.Datum) {
	n := float64(p.end - p.start)
	for g := 0; g+1 < len(p.peers); g++ {
		for r := p.peers[g]; r < p.peers[g+1]; r++ {
			first := p.peers[g] - p.start
			switch kind {
			case logical.RowNumber:
				out[r] = types.NewInt(int64(r - p.start + 1))
			case logical.Rank:
				out[r] = types.NewInt(int64(first + 1))
			case logical.DenseRank:
				out[r] = types.NewInt(int64(g + 1))
			case logical.PercentRank:
				v := 0.0
				if n > 1 {
					v = float64(first) / (n - 1)
				}
				out[r] = types.NewFloat(v)
			default:
				out[r] = types.NewFloat(float64(p.peers[g+1]-p.start) / n)
			}
		}
	}
}

func (o *windowOp) ntile(rt *runtime, c *physical.WindowCall, p *partition, out []types.Datum) error {
	v, err := c.Args[0].Eval(&rt.x, o.rows.row(p.start))
	if err != nil || v.IsNull() {
		return err
	}
	k := v.Int()
	if k <= 0 {
		return pgerror.New(pgerrcode.InvalidArgumentForNtileFunction, "argument of ntile must be greater than zero")
	}
	n := int64(p.end - p.start)
	size, extra := n/k, n%k
	bucket, left := int64(0), int64(0)
	for r := p.start; r < p.end; r++ {
		if left == 0 {
			bucket++
			left = size
			if bucket <= extra {
				left++
			}
		}
		left--
		out[r] = types.NewInt(bucket)
	}
	return nil
}

func (o *windowOp) shift(rt *runtime, c *physical.WindowCall, p *partition, out []types.Datum) error {
	for r := p.start; r < p.end; r++ {
		row := o.rows.row(r)
		off := int64(1)
		if len(c.Args) > 1 {
			v, err := c.Args[1].Eval(&rt.x, row)
			if err != nil {
				return err
			}
			if v.IsNull() {
				continue
			}
			off = v.Int()
		}
		at := int64(r) + off
		if c.Kind == logical.Lag {
			at = int64(r) - off
		}
		var err error
		switch {
		case at >= int64(p.start) && at < int64(p.end):
			out[r], err = c.Args[0].Eval(&rt.x, o.rows.row(int(at)))
		case len(c.Args) > 2:
			out[r], err = c.Args[2].Eval(&rt.x, row)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// frames calls f with the frame [lo, hi) of each row of a partition.
func (o *windowOp) frames(rt *runtime, c *physical.WindowCall, p *partition, f func(r, lo, hi int) error) error {
	offset := func(e expr.Expr, what string) (int, error) {
		if e == nil {
			return 0, nil
		}
		v, err := e.Eval(&rt.x, nil)
		if err != nil {
			return 0, err
		}
		if v.IsNull() || v.Int() < 0 {
			return 0, pgerror.New(pgerrcode.InvalidPrecedingOrFollowingSize, "frame %s offset must not be negative", what)
		}
		return int(min(v.Int(), 1<<31)), nil
	}
	so, err := offset(c.Frame.StartOffset, "starting")
	if err != nil {
		return err
	}
	eo, err := offset(c.Frame.EndOffset, "ending")
	if err != nil {
		return err
	}
	for g := 0; g+1 < len(p.peers); g++ {
		for r := p.peers[g]; r < p.peers[g+1]; r++ {
			first, last := p.peers[g], p.peers[g+1]-1
			if c.Frame.Mode == 'o' {
				first, last = r, r
			}
			lo, hi := p.start, p.end
			switch c.Frame.Start {
			case logical.CurrentRow:
				lo = first
			case logical.OffsetPreceding:
				lo = r - so
			case logical.OffsetFollowing:
				lo = r + so
			}
			switch c.Frame.End {
			case logical.CurrentRow:
				hi = last + 1
			case logical.OffsetPreceding:
				hi = r - eo + 1
			case logical.OffsetFollowing:
				hi = r + eo + 1
			}
			lo, hi = max(lo, p.start), min(hi, p.end)
			if err := f(r, lo, max(lo, hi)); err != nil {
				return err
			}
		}
	}
	return nil
}

// aggregate computes an aggregate over each row's frame. Frames that begin with the
// partition grow, so that only the result is computed anew when a row joins.
func (o *windowOp) aggregate(rt *runtime, c *physical.WindowCall, p *partition, out []types.Datum) error {
	args := make([]types.Datum, 0, 4)
	cached, clo, chi := types.Null, -1, -1
	return o.frames(rt, c, p, func(r, lo, hi int) error {
		if err := rt.ctx.Err(); err != nil {
			return err
		}
		if lo != clo || hi != chi {
			a := newAccumulator(c.Agg)
			for i := lo; i < hi; i++ {
				if err := a.add(rt, o.rows.row(i), args); err != nil {
					return err
				}
			}
			v, err := a.result(rt)
			if err != nil {
				return err
			}
			cached, clo, chi = v, lo, hi
		}
		out[r] = cached
		return nil
	})
}

func (o *windowOp) nth(rt *runtime, c *physical.WindowCall, p *partition, out []types.Datum) error {
	return o.frames(rt, c, p, func(r, lo, hi int) error {
		at := lo
		switch c.Kind {
		case logical.LastValue:
			at = hi - 1
		case logical.NthValue:
			v, err := c.Args[1].Eval(&rt.x, o.rows.row(r))
			if err != nil || v.IsNull() {
				return err
			}
			if v.Int() <= 0 {
				return pgerror.New(pgerrcode.InvalidArgumentForNthValueFunction, "argument of nth_value must be greater than zero")
			}
			at = lo + int(v.Int()) - 1
		}
		if at < lo || at >= hi {
			return nil
		}
		v, err := c.Args[0].Eval(&rt.x, o.rows.row(at))
		out[r] = v
		return err
	})
}
