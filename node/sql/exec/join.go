package exec

import (
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/atolldb/atoll/node/txn"
)

// evalKeys appends the hash key of join keys; ok is false if one of them is NULL.
func (rt *runtime) evalKeys(dst []byte, exprs []expr.Expr, row []types.Datum) (key []byte, ok bool, err error) {
	for _, e := range exprs {
		v, err := e.Eval(&rt.x, row)
		if err != nil || v.IsNull() {
			return dst, false, err
		}
		dst = expr.AppendHashKey(dst, expr.HashNormal(e.Type(), v))
	}
	return dst, true, nil
}

// hashJoinOp keeps R in a hash table and probes it with L.
type hashJoinOp struct {
	n       *physical.HashJoin
	l, r    operator
	open    bool
	rows    store
	table   map[string][]int32
	size    int64
	matched []bool // rows of R, for FULL

	b       *Batch
	row     int
	hits    []int32
	hit     int
	any     bool
	tail    int // next row of R to emit unmatched
	drained bool
	key     []byte
	out     Batch
	buf     []types.Datum
}

func (o *hashJoinOp) close(rt *runtime) {
	rt.release(o.size)
	o.size, o.table = 0, nil
	o.rows.free(rt)
	o.l.close(rt)
	o.r.close(rt)
}

func (o *hashJoinOp) load(rt *runtime) error {
	o.open = true
	o.rows.width = len(o.n.R.Info().Cols)
	o.table = map[string][]int32{}
	full := o.n.Kind == logical.Full || o.n.Kind == logical.Right
	for {
		if err := rt.ctx.Err(); err != nil {
			return err
		}
		b, err := o.r.next(rt, maxInt)
		if err != nil {
			return err
		}
		if b == nil {
			break
		}
		for i := 0; i < b.Len; i++ {
			key, ok, err := rt.evalKeys(o.key[:0], o.n.RKeys, b.Row(i))
			o.key = key
			if err != nil {
				return err
			}
			if !ok && !full {
				continue
			}
			if err := o.rows.append(rt, b.Row(i)); err != nil {
				return err
			}
			if !ok {
				continue
			}
			size := int64(len(key)) + 40
			if err := rt.keep(size); err != nil {
				return err
			}
			o.size += size
			o.table[string(key)] = append(o.table[string(key)], int32(o.rows.n-1))
		}
	}
	if full {
		o.matched = make([]bool, o.rows.n)
	}
	o.buf = make([]types.Datum, len(o.n.L.Info().Cols)+o.rows.width)
	return nil
}

func (o *hashJoinOp) next(rt *runtime, _ int) (*Batch, error) {
	if !o.open {
		if err := o.load(rt); err != nil {
			return nil, err
		}
	}
	lw := len(o.n.L.Info().Cols)
	o.out.reset(len(o.n.Cols))
	if (o.n.Kind == logical.Inner || o.n.Kind == logical.Semi) && o.rows.n == 0 {
		return nil, nil
	}
	for o.out.Len < batchRows && !o.drained {
		if o.b == nil || o.row >= o.b.Len {
			if err := rt.ctx.Err(); err != nil {
				return nil, err
			}
			b, err := o.l.next(rt, maxInt)
			if err != nil {
				return nil, err
			}
			if b == nil {
				o.drained = true
				break
			}
			o.b, o.row = b, 0
			if err := o.probe(rt); err != nil {
				return nil, err
			}
		}
		if err := o.step(rt, lw); err != nil {
			return nil, err
		}
	}
	if o.drained && o.matched != nil {
		for ; o.tail < o.rows.n && o.out.Len < batchRows; o.tail++ {
			if o.matched[o.tail] {
				continue
			}
			row := o.out.add()
			clear(row[:lw])
			copy(row[lw:], o.rows.row(o.tail))
		}
	}
	if o.out.Len == 0 {
		return nil, nil
	}
	return &o.out, nil
}

// probe looks the current left row up.
func (o *hashJoinOp) probe(rt *runtime) error {
	key, ok, err := rt.evalKeys(o.key[:0], o.n.LKeys, o.b.Row(o.row))
	o.key = key
	o.hits, o.hit, o.any = nil, 0, false
	if err == nil && ok {
		o.hits = o.table[string(key)]
	}
	return err
}

// step emits what the current left row joins with, as far as the batch holds.
func (o *hashJoinOp) step(rt *runtime, lw int) error {
	left := o.b.Row(o.row)
	for o.hit < len(o.hits) && o.out.Len < batchRows {
		i := o.hits[o.hit]
		o.hit++
		copy(o.buf, left)
		copy(o.buf[lw:], o.rows.row(int(i)))
		ok, err := rt.truthy(o.n.Residual, o.buf)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		o.any = true
		if o.matched != nil {
			o.matched[i] = true
		}
		if o.n.Kind == logical.Semi || o.n.Kind == logical.Anti {
			o.hit = len(o.hits)
			break
		}
		copy(o.out.add(), o.buf)
	}
	if o.hit < len(o.hits) {
		return nil
	}
	switch o.n.Kind {
	case logical.Left, logical.Full:
		if !o.any {
			row := o.out.add()
			copy(row, left)
			clear(row[lw:])
		}
	case logical.Semi, logical.Anti:
		if o.any == (o.n.Kind == logical.Semi) {
			copy(o.out.add(), left)
		}
	}
	o.row++
	if o.row < o.b.Len {
		return o.probe(rt)
	}
	return nil
}

// nestLoopOp runs R for each row of L.
type nestLoopOp struct {
	n    *physical.NestLoop
	l    operator
	kept *store // R, when it does not depend on L
	pos  int
	r    operator
	rb   *Batch
	ri   int
	b    *Batch
	row  int
	on   bool // a left row is under way
	// drained: L is at its end. Its last batch is not looked at again: an operator may go on
	// filling it while it looks for more.
	drained bool
	any     bool
	out     Batch
	buf     []types.Datum
}

func (o *nestLoopOp) close(rt *runtime) {
	if o.r != nil {
		o.r.close(rt)
		o.r = nil
	}
	if o.kept != nil {
		o.kept.free(rt)
	}
	o.l.close(rt)
}

// right returns the next row of R for the current left row; false at its end. (A row may
// well have no columns.)
func (o *nestLoopOp) right(rt *runtime) ([]types.Datum, bool, error) {
	if o.kept != nil {
		if o.pos >= o.kept.n {
			return nil, false, nil
		}
		o.pos++
		return o.kept.row(o.pos - 1), true, nil
	}
	for o.rb == nil || o.ri >= o.rb.Len {
		b, err := o.r.next(rt, maxInt)
		if err != nil {
			return nil, false, err
		}
		if b == nil {
			o.r.close(rt)
			o.r = nil
			return nil, false, nil
		}
		o.rb, o.ri = b, 0
	}
	o.ri++
	return o.rb.Row(o.ri - 1), true, nil
}

func (o *nestLoopOp) begin(rt *runtime) error {
	left := o.b.Row(o.row)
	o.on, o.any = true, false
	if len(o.n.Pass) == 0 {
		if o.kept == nil {
			o.kept = &store{width: len(o.n.R.Info().Cols)}
			r := rt.build(o.n.R)
			defer r.close(rt)
			if err := rt.drain(r, o.kept); err != nil {
				return err
			}
		}
		o.pos = 0
		return nil
	}
	for _, p := range o.n.Pass {
		rt.x.Outer[p.To] = left[p.From]
	}
	o.r, o.rb = rt.build(o.n.R), nil
	return nil
}

func (o *nestLoopOp) next(rt *runtime, _ int) (*Batch, error) {
	lw := len(o.n.L.Info().Cols)
	o.out.reset(len(o.n.Cols))
	if o.buf == nil {
		o.buf = make([]types.Datum, lw+len(o.n.R.Info().Cols))
	}
	steps := 0
	for o.out.Len < batchRows && !o.drained {
		if !o.on {
			if o.b == nil || o.row >= o.b.Len {
				b, err := o.l.next(rt, maxInt)
				if err != nil {
					return nil, err
				}
				if b == nil {
					o.drained = true
					break
				}
				o.b, o.row = b, 0
			}
			if err := o.begin(rt); err != nil {
				return nil, err
			}
		}
		if steps++; steps%1024 == 0 {
			if err := rt.ctx.Err(); err != nil {
				return nil, err
			}
		}
		right, more, err := o.right(rt)
		if err != nil {
			return nil, err
		}
		left := o.b.Row(o.row)
		if !more {
			if !o.any && (o.n.Kind == logical.Left || o.n.Kind == logical.Anti) {
				row := o.out.add()
				copy(row, left)
				clear(row[lw:])
			}
			o.on = false
			o.row++
			continue
		}
		copy(o.buf, left)
		copy(o.buf[lw:], right)
		ok, err := rt.truthy(o.n.On, o.buf)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		o.any = true
		switch o.n.Kind {
		case logical.Semi, logical.Anti:
			// One match is all there is to know.
			if o.n.Kind == logical.Semi {
				copy(o.out.add(), left)
			}
			if o.r != nil {
				o.r.close(rt)
				o.r = nil
			}
			o.on = false
			o.row++
		default:
			copy(o.out.add(), o.buf)
		}
	}
	if o.out.Len == 0 {
		return nil, nil
	}
	return &o.out, nil
}

// lookupJoinOp fetches rows by a unique key, a batch of left rows at a time.
type lookupJoinOp struct {
	n   *physical.LookupJoin
	l   operator
	r   *scanReader
	out Batch
	row []types.Datum
	buf []types.Datum
}

func (o *lookupJoinOp) close(rt *runtime) { o.l.close(rt) }

func (o *lookupJoinOp) next(rt *runtime, want int) (*Batch, error) {
	if o.r == nil {
		var err error
		if o.r, err = readerOf(o.n.Scan); err != nil {
			return nil, err
		}
		o.row = make([]types.Datum, len(o.n.Scan.Table.Columns))
		o.buf = make([]types.Datum, len(o.n.L.Info().Cols)+len(o.n.Scan.Cols))
	}
	for {
		if err := rt.ctx.Err(); err != nil {
			return nil, err
		}
		b, err := o.l.next(rt, want)
		if b == nil || err != nil {
			return nil, err
		}
		if err := o.join(rt, b); err != nil {
			return nil, err
		}
		if o.out.Len > 0 {
			return &o.out, nil
		}
	}
}

// join looks all rows of a batch up in one request.
func (o *lookupJoinOp) join(rt *runtime, b *Batch) error {
	at := make([]int, b.Len) // the key of each left row; -1 for none
	index := make(map[string]int, b.Len)
	var ks []keys.Key
	for i := 0; i < b.Len; i++ {
		key, ok, err := o.key(rt, b.Row(i))
		if err != nil {
			return err
		}
		at[i] = -1
		if !ok {
			continue
		}
		k, seen := index[string(key)]
		if !seen {
			k = len(ks)
			index[string(key)] = k
			ks = append(ks, key)
		}
		at[i] = k
	}
	rows, err := o.fetch(rt, ks)
	if err != nil {
		return err
	}
	lw := len(o.n.L.Info().Cols)
	o.out.reset(len(o.n.Cols))
	for i := 0; i < b.Len; i++ {
		copy(o.buf, b.Row(i))
		found := false
		if at[i] >= 0 && rows[at[i]] != nil {
			e := rows[at[i]]
			right := o.buf[lw:]
			if err := o.r.decode(o.n.Scan, e, right); err != nil {
				return err
			}
			if found, err = rt.truthy(o.n.Scan.Filter, right); err != nil {
				return err
			}
			if found {
				if found, err = rt.truthy(o.n.On, o.buf); err != nil {
					return err
				}
			}
		}
		switch {
		case found:
			copy(o.out.add(), o.buf)
		case o.n.Kind == logical.Left:
			clear(o.buf[lw:])
			copy(o.out.add(), o.buf)
		}
	}
	return nil
}

// key makes the key for a left row; false if a part of it is NULL.
func (o *lookupJoinOp) key(rt *runtime, left []types.Datum) (keys.Key, bool, error) {
	p := o.r.ix.Prefix()
	key := append(make(keys.Key, 0, len(p)+24), p...)
	for i, e := range o.n.Key {
		v, err := e.Eval(&rt.x, left)
		if err != nil || v.IsNull() {
			return nil, false, err
		}
		k, err := o.r.ix.AppendKeyValue(key, i, v)
		if err != nil {
			return nil, false, err
		}
		key = k
	}
	return key, true, nil
}

// fetch reads keys, through the primary index if the index does not hold all columns.
func (o *lookupJoinOp) fetch(rt *runtime, ks []keys.Key) ([]*kv.KeyValue, error) {
	out := make([]*kv.KeyValue, len(ks))
	get := func(ks []keys.Key, where []int, lock kv.LockStrength) error {
		opts := txn.ReadOptions{Lock: lock, Wait: o.n.Scan.Lock.Wait, LockTimeout: rt.ec.LockTimeout}
		for start := 0; start < len(ks); start += getMany {
			end := min(start+getMany, len(ks))
			resp, err := rt.ec.Txn.GetMany(rt.ctx, ks[start:end], opts)
			if err != nil {
				return err
			}
			for i := range resp {
				if resp[i].Exists && !resp[i].Skipped {
					out[where[start+i]] = &kv.KeyValue{Key: ks[start+i], Value: resp[i].Value, Version: resp[i].Version}
				} else {
					out[where[start+i]] = nil
				}
			}
		}
		return nil
	}
	all := make([]int, len(ks))
	for i := range all {
		all[i] = i
	}
	if len(ks) == 0 {
		return out, nil
	}
	if !o.n.Scan.Primary {
		return out, get(ks, all, o.n.Scan.Lock.Strength)
	}
	if err := get(ks, all, kv.LockNone); err != nil {
		return nil, err
	}
	var pks []keys.Key
	var where []int
	for i, e := range out {
		if e == nil {
			continue
		}
		key, err := o.r.primaryKey(*e, o.row)
		if err != nil {
			return nil, err
		}
		pks, where = append(pks, key), append(where, i)
	}
	if len(pks) == 0 {
		return out, nil
	}
	return out, get(pks, where, o.n.Scan.Lock.Strength)
}
