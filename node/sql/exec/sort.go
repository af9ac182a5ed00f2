package exec

import (
	"slices"

	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
)

// orderer compares sort keys.
type orderer struct {
	keys []physical.SortKey
	cmp  []func(a, b types.Datum) int
}

func newOrderer(keys []physical.SortKey) *orderer {
	o := &orderer{keys: keys}
	for _, k := range keys {
		o.cmp = append(o.cmp, types.Comparator(k.Expr.Type()))
	}
	return o
}

func (o *orderer) compare(a, b []types.Datum) int {
	for i := range o.keys {
		k := &o.keys[i]
		an, bn := a[i].IsNull(), b[i].IsNull()
		if an || bn {
			if an && bn {
				continue
			}
			if an == k.NullsFirst {
				return -1
			}
			return 1
		}
		c := o.cmp[i](a[i], b[i])
		if c == 0 {
			continue
		}
		if k.Desc {
			return -c
		}
		return c
	}
	return 0
}

// eval computes a row's sort keys.
func (o *orderer) eval(rt *runtime, row, out []types.Datum) error {
	for i := range o.keys {
		v, err := o.keys[i].Expr.Eval(&rt.x, row)
		if err != nil {
			return err
		}
		out[i] = v
	}
	return nil
}

// sortOp orders its input, stably. With a limit it keeps no more rows than it needs.
type sortOp struct {
	n    *physical.Sort
	in   operator
	open bool
	rows store // the sort keys, then the row
	idx  []int32
	pos  int
	out  Batch
}

func (o *sortOp) close(rt *runtime) { o.rows.free(rt); o.in.close(rt) }

func (o *sortOp) next(rt *runtime, _ int) (*Batch, error) {
	k := len(o.n.Keys)
	if !o.open {
		o.open = true
		if err := o.load(rt); err != nil {
			return nil, err
		}
	}
	if o.pos >= len(o.idx) {
		return nil, nil
	}
	o.out.reset(o.rows.width - k)
	for o.pos < len(o.idx) && o.out.Len < batchRows {
		copy(o.out.add(), o.rows.row(int(o.idx[o.pos]))[k:])
		o.pos++
	}
	return &o.out, nil
}

func (o *sortOp) load(rt *runtime) error {
	top := int64(-1)
	if o.n.Top != nil {
		skip, count, err := limits(rt, o.n.Top)
		if err != nil {
			return err
		}
		if count < 1<<20 && skip < 1<<20 {
			top = skip + count
		}
	}
	ord := newOrderer(o.n.Keys)
	k := len(o.n.Keys)
	width := k + len(o.n.In.Info().Cols)
	o.rows.width = width
	buf := make([]types.Datum, width)
	for {
		if err := rt.ctx.Err(); err != nil {
			return err
		}
		b, err := o.in.next(rt, maxInt)
		if err != nil {
			return err
		}
		if b == nil {
			break
		}
		for i := 0; i < b.Len; i++ {
			if err := ord.eval(rt, b.Row(i), buf); err != nil {
				return err
			}
			copy(buf[k:], b.Row(i))
			if err := o.rows.append(rt, buf); err != nil {
				return err
			}
		}
		if top >= 0 && int64(o.rows.n) > 2*top+4096 {
			if err := o.prune(rt, ord, int(top)); err != nil {
				return err
			}
		}
	}
	o.order(ord)
	if top >= 0 && int64(len(o.idx)) > top {
		o.idx = o.idx[:top]
	}
	return nil
}

func (o *sortOp) order(ord *orderer) {
	o.idx = make([]int32, o.rows.n)
	for i := range o.idx {
		o.idx[i] = int32(i)
	}
	slices.SortStableFunc(o.idx, func(a, b int32) int { return ord.compare(o.rows.row(int(a)), o.rows.row(int(b))) })
}

// prune keeps the first n rows in order.
func (o *sortOp) prune(rt *runtime, ord *orderer, n int) error {
	o.order(ord)
	kept := store{width: o.rows.width}
	for _, i := range o.idx[:n] {
		if err := kept.append(rt, o.rows.row(int(i))); err != nil {
			return err
		}
	}
	o.rows.free(rt)
	o.rows = kept
	return nil
}

// hashKey appends the key under which equal rows are the same, for slots of given types.
func hashKey(dst []byte, cols []types.OID, row []types.Datum) []byte {
	for i, t := range cols {
		dst = expr.AppendHashKey(dst, expr.HashNormal(t, row[i]))
	}
	return dst
}

// distinctOp keeps the first row for each key.
type distinctOp struct {
	n    *physical.Distinct
	in   operator
	seen map[string]struct{}
	size int64
	key  []byte
}

func (o *distinctOp) close(rt *runtime) {
	rt.release(o.size)
	o.size, o.seen = 0, nil
	o.in.close(rt)
}
func (o *distinctOp) next(rt *runtime, _ int) (*Batch, error) {
	if o.seen == nil {
		o.seen = map[string]struct{}{}
	}
	for {
		b, err := o.in.next(rt, maxInt)
		if b == nil || err != nil {
			return nil, err
		}
		kept := 0
		for i := 0; i < b.Len; i++ {
			row := b.Row(i)
			o.key = o.key[:0]
			for _, s := range o.n.On {
				o.key = expr.AppendHashKey(o.key, expr.HashNormal(o.n.In.Info().Cols[s].Typ, row[s]))
			}
			if _, dup := o.seen[string(o.key)]; dup {
				continue
			}
			size := int64(len(o.key)) + 48
			if err := rt.keep(size); err != nil {
				return nil, err
			}
			o.size += size
			o.seen[string(o.key)] = struct{}{}
			if kept != i {
				copy(b.Row(kept), row)
			}
			kept++
		}
		if kept > 0 {
			b.Len, b.Data = kept, b.Data[:kept*b.Width]
			return b, nil
		}
	}
}

// setOp is UNION, INTERSECT and EXCEPT.
type setOp struct {
	n     *physical.SetOp
	l, r  operator
	open  bool
	left  bool // still reading L
	count map[string]int
	seen  map[string]struct{}
	size  int64
	key   []byte
	typ   []types.OID
}

func (o *setOp) close(rt *runtime) {
	rt.release(o.size)
	o.size, o.count, o.seen = 0, nil, nil
	o.l.close(rt)
	o.r.close(rt)
}

func (o *setOp) start(rt *runtime) error {
	o.open, o.left = true, true
	for _, c := range o.n.Cols {
		o.typ = append(o.typ, c.Typ)
	}
	o.seen = map[string]struct{}{}
	if o.n.Kind == logical.Union {
		return nil
	}
	// INTERSECT and EXCEPT count the right side first.
	o.count = map[string]int{}
	for {
		if err := rt.ctx.Err(); err != nil {
			return err
		}
		b, err := o.r.next(rt, maxInt)
		if err != nil || b == nil {
			return err
		}
		for i := 0; i < b.Len; i++ {
			o.key = hashKey(o.key[:0], o.typ, b.Row(i))
			if err := o.charge(rt); err != nil {
				return err
			}
			o.count[string(o.key)]++
		}
	}
}

func (o *setOp) charge(rt *runtime) error {
	n := int64(len(o.key)) + 48
	if err := rt.keep(n); err != nil {
		return err
	}
	o.size += n
	return nil
}

// first reports whether a row's key is seen for the first time.
func (o *setOp) first(rt *runtime) (bool, error) {
	if _, dup := o.seen[string(o.key)]; dup {
		return false, nil
	}
	if err := o.charge(rt); err != nil {
		return false, err
	}
	o.seen[string(o.key)] = struct{}{}
	return true, nil
}

func (o *setOp) keep(rt *runtime, row []types.Datum) (bool, error) {
	if o.n.Kind == logical.Union && o.n.All {
		return true, nil
	}
	o.key = hashKey(o.key[:0], o.typ, row)
	switch {
	case o.n.Kind == logical.Union:
		return o.first(rt)
	case o.n.Kind == logical.Intersect:
		n := o.count[string(o.key)]
		if n == 0 {
			return false, nil
		}
		if o.n.All {
			o.count[string(o.key)] = n - 1
			return true, nil
		}
		return o.first(rt)
	}
	n := o.count[string(o.key)]
	if o.n.All {
		if n > 0 {
			o.count[string(o.key)] = n - 1
			return false, nil
		}
		return true, nil
	}
	if n > 0 {
		return false, nil
	}
	return o.first(rt)
}

func (o *setOp) next(rt *runtime, want int) (*Batch, error) {
	if !o.open {
		if err := o.start(rt); err != nil {
			return nil, err
		}
	}
	for {
		in := o.l
		if !o.left {
			in = o.r
		}
		b, err := in.next(rt, want)
		if err != nil {
			return nil, err
		}
		if b == nil {
			if o.left && o.n.Kind == logical.Union {
				o.left = false
				continue
			}
			return nil, nil
		}
		kept := 0
		for i := 0; i < b.Len; i++ {
			row := b.Row(i)
			ok, err := o.keep(rt, row)
			if err != nil {
				return nil, err
			}
			if ok {
				if kept != i {
					copy(b.Row(kept), row)
				}
				kept++
			}
		}
		if kept > 0 {
			b.Len, b.Data = kept, b.Data[:kept*b.Width]
			return b, nil
		}
	}
}
