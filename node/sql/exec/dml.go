package exec

import (
	"context"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/exec/rowio"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/atolldb/atoll/node/txn"
)

// A statement that writes runs to its end before it returns its first row, as PostgreSQL's
// do: a client that fetches only some of RETURNING's rows still gets all of the effects.

// returned are the rows of RETURNING.
type returned struct {
	rows store
	pos  int
	out  Batch
	buf  []types.Datum
}

func (r *returned) add(rt *runtime, exprs []expr.Expr, row []types.Datum) error {
	if exprs == nil {
		return nil
	}
	if r.buf == nil {
		r.buf = make([]types.Datum, len(exprs))
		r.rows.width = len(exprs)
	}
	if err := rt.evalRow(exprs, row, r.buf); err != nil {
		return err
	}
	return r.rows.append(rt, r.buf)
}

// each calls f with every row of an operator.
func (rt *runtime) each(in operator, f func(row []types.Datum) error) error {
	for {
		if err := rt.ctx.Err(); err != nil {
			return err
		}
		b, err := in.next(rt, maxInt)
		if err != nil || b == nil {
			return err
		}
		for i := 0; i < b.Len; i++ {
			if err := f(b.Row(i)); err != nil {
				return err
			}
		}
	}
}

// insertOp writes its input's rows.
type insertOp struct {
	n    *physical.Insert
	in   operator
	done bool
	t    *tableWriter
	rows []pending
	size int64
	ret  returned
	n64  int64
}

func (o *insertOp) written() int64    { return o.n64 }
func (o *insertOp) close(rt *runtime) { o.ret.rows.free(rt); o.in.close(rt) }

func (o *insertOp) next(rt *runtime, _ int) (*Batch, error) {
	if !o.done {
		o.done = true
		if err := o.run(rt); err != nil {
			return nil, err
		}
	}
	return o.ret.rows.batch(&o.ret.pos, &o.ret.out), nil
}

func (o *insertOp) run(rt *runtime) error {
	var err error
	if o.t, err = newWriter(&o.n.Write); err != nil {
		return err
	}
	v, single := o.n.In.(*physical.Values)
	o.t.track = !(single && len(v.Rows) == 1)
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
			if err := o.prepare(rt, b.Row(i)); err != nil {
				return err
			}
		}
		if err := o.flush(rt); err != nil {
			return err
		}
	}
	return nil
}

// prepare checks a row and computes its keys.
func (o *insertOp) prepare(rt *runtime, row []types.Datum) error {
	if err := o.t.check(rt, row); err != nil {
		return err
	}
	attrs := append([]types.Datum(nil), row...)
	p := pending{attrs: attrs, row: o.t.full(attrs)}
	var err error
	if p.entries, err = o.t.entries(p.row); err != nil {
		return err
	}
	o.rows = append(o.rows, p)
	return nil
}

func (o *insertOp) flush(rt *runtime) error {
	defer func() { o.rows = o.rows[:0] }()
	if o.n.Conflict != nil {
		return o.flushConflict(rt)
	}
	blind := rt.ec.CommitsNext && o.n.Returning == nil
	if err := o.t.insertRows(rt, o.rows, blind); err != nil {
		return err
	}
	for i := range o.rows {
		o.n64++
		if err := o.ret.add(rt, o.n.Returning, o.rows[i].attrs); err != nil {
			return err
		}
	}
	return nil
}

// flushConflict is flush with ON CONFLICT.
func (o *insertOp) flushConflict(rt *runtime) error {
	o.t.track = true
	if err := o.t.readUnique(rt, o.rows); err != nil {
		return err
	}
	for i := range o.rows {
		p := &o.rows[i]
		hit := o.conflict(p)
		if hit == nil {
			if err := o.t.insertRow(rt, p, false); err != nil {
				return err
			}
			o.n64++
			if err := o.ret.add(rt, o.n.Returning, p.attrs); err != nil {
				return err
			}
			continue
		}
		if !o.n.Conflict.Update {
			continue
		}
		if err := o.update(rt, p, hit); err != nil {
			return err
		}
	}
	return nil
}

// conflict returns the entry of an arbiter index that is taken.
func (o *insertOp) conflict(p *pending) *entry {
	for j := range p.entries {
		e := &p.entries[j]
		if !e.unique || !o.t.taken(e) {
			continue
		}
		if o.n.Conflict.Arbiters == nil {
			return e
		}
		for _, a := range o.n.Conflict.Arbiters {
			if a.Storage == e.ic.Index.Storage {
				return e
			}
		}
	}
	return nil
}

// update applies DO UPDATE to the row that an entry belongs to.
func (o *insertOp) update(rt *runtime, p *pending, hit *entry) error {
	if _, mine := o.t.touched[string(hit.key)]; mine {
		return pgerror.New(pgerrcode.CardinalityViolation, "ON CONFLICT DO UPDATE command cannot affect row a second time").
			WithHint("Ensure that no rows proposed for insertion within the same command have duplicate constrained values.")
	}
	t := o.t
	key, resp := hit.key, hit.resp
	if !hit.ic.Index.Primary {
		var err error
		if key, resp, err = o.locate(rt, hit); err != nil {
			return err
		}
	}
	old, err := rowio.DecodeRow(o.n.Table, key, resp.Value)
	if err != nil {
		return err
	}
	c := o.n.Conflict
	k := len(o.n.Attrs)
	both := make([]types.Datum, 2*k)
	for i, pos := range t.pos {
		both[i] = old[pos]
	}
	copy(both[k:], p.attrs)
	if c.Where != nil {
		ok, err := expr.Truthy(&rt.x, c.Where, both)
		if err != nil || !ok {
			return err
		}
	}
	attrs := append([]types.Datum(nil), both[:k]...)
	for _, s := range c.Set {
		if attrs[s.Pos], err = s.Expr.Eval(&rt.x, both); err != nil {
			return err
		}
	}
	if err := t.check(rt, attrs); err != nil {
		return err
	}
	row := append([]types.Datum(nil), old...)
	for i, pos := range t.pos {
		row[pos] = attrs[i]
	}
	if err := t.updateRow(rt, key, resp.Version, old, row); err != nil {
		return err
	}
	t.touch(hit.key, true)
	o.n64++
	return o.ret.add(rt, o.n.Returning, attrs)
}

// locate reads, and locks, the row that an entry of a unique secondary index points at.
func (o *insertOp) locate(rt *runtime, hit *entry) (keys.Key, kv.GetResponse, error) {
	t := o.n.Table
	var cols []rowio.Column
	for _, kc := range t.Primary.Columns {
		for j := range t.Columns {
			if t.Columns[j].ID == kc.Column {
				cols = append(cols, rowio.Column{Pos: j, Slot: j})
			}
		}
	}
	row := make([]types.Datum, len(t.Columns))
	if err := o.t.codec.NewReader(hit.ic, cols).Decode(hit.key, hit.resp.Value, row); err != nil {
		return nil, kv.GetResponse{}, err
	}
	key, err := o.t.codec.Indexes[0].EncodeKey(row)
	if err != nil {
		return nil, kv.GetResponse{}, err
	}
	resp, err := rt.ec.Txn.Get(rt.ctx, key, txn.ReadOptions{Lock: kv.LockExclusive, LockTimeout: rt.ec.LockTimeout})
	if err != nil {
		return nil, resp, err
	}
	if !resp.Exists {
		return nil, resp, &kv.RetryError{Reason: kv.RetryWriteTooOld, Detail: "the row of a conflicting index entry is gone"}
	}
	return key, resp, nil
}

// updateOp changes rows.
type updateOp struct {
	n    *physical.Update
	in   operator
	done bool
	ret  returned
	n64  int64
}

func (o *updateOp) written() int64    { return o.n64 }
func (o *updateOp) close(rt *runtime) { o.ret.rows.free(rt); o.in.close(rt) }

func (o *updateOp) next(rt *runtime, _ int) (*Batch, error) {
	if !o.done {
		o.done = true
		if err := o.run(rt); err != nil {
			return nil, err
		}
	}
	return o.ret.rows.batch(&o.ret.pos, &o.ret.out), nil
}

// version reads a row's version from the slots after its key.
func version(row []types.Datum, key int) hlc.Timestamp {
	return hlc.Timestamp{WallNanos: row[key+1].Int(), Logical: int32(row[key+2].Int())}
}

func (o *updateOp) run(rt *runtime) error {
	t, err := newWriter(&o.n.Write)
	if err != nil {
		return err
	}
	_, direct := o.n.In.(*physical.Scan)
	t.track = true
	if s, ok := o.n.In.(*physical.Scan); ok && s.Range.Point && len(s.Range.Eq) > 0 && len(s.Range.Eq[len(s.Range.Eq)-1].Vals) == 1 {
		t.track = false // one row at most, in the common case
		for _, e := range s.Range.Eq {
			t.track = t.track || len(e.Vals) != 1
		}
	}
	k := len(o.n.Attrs)
	vals := make([]types.Datum, 2*k)
	old, row := vals[:k:k], vals[k:]
	var seen map[string]struct{}
	if !direct {
		seen = map[string]struct{}{}
	}
	return rt.each(o.in, func(in []types.Datum) error {
		key := keys.Key(in[o.n.Key].Bytes())
		if !direct {
			if _, twice := seen[string(key)]; twice {
				return nil // a join found the row again: the first match counts
			}
			if err := rt.keep(int64(len(key)) + 48); err != nil {
				return err
			}
			seen[string(key)] = struct{}{}
		}
		for i, s := range o.n.Old {
			old[i] = in[s]
		}
		copy(row, old)
		for _, s := range o.n.Set {
			v, err := s.Expr.Eval(&rt.x, in)
			if err != nil {
				return err
			}
			row[s.Pos] = v
		}
		if err := t.check(rt, row); err != nil {
			return err
		}
		if err := t.updateRow(rt, key, version(in, o.n.Key), t.full(old), t.full(row)); err != nil {
			return err
		}
		o.n64++
		if o.n.Returning == nil {
			return nil
		}
		return o.ret.add(rt, o.n.Returning, append(append(make([]types.Datum, 0, k+len(in)), row...), in...))
	})
}

// deleteOp removes rows.
type deleteOp struct {
	n    *physical.Delete
	in   operator
	done bool
	ret  returned
	n64  int64
}

func (o *deleteOp) written() int64    { return o.n64 }
func (o *deleteOp) close(rt *runtime) { o.ret.rows.free(rt); o.in.close(rt) }

func (o *deleteOp) next(rt *runtime, _ int) (*Batch, error) {
	if !o.done {
		o.done = true
		if err := o.run(rt); err != nil {
			return nil, err
		}
	}
	return o.ret.rows.batch(&o.ret.pos, &o.ret.out), nil
}

func (o *deleteOp) run(rt *runtime) error {
	t, err := newWriter(&o.n.Write)
	if err != nil {
		return err
	}
	_, direct := o.n.In.(*physical.Scan)
	seen := map[string]struct{}{}
	old := make([]types.Datum, len(o.n.Attrs))
	return rt.each(o.in, func(in []types.Datum) error {
		key := keys.Key(in[o.n.Key].Bytes())
		if !direct {
			if _, twice := seen[string(key)]; twice {
				return nil
			}
			if err := rt.keep(int64(len(key)) + 48); err != nil {
				return err
			}
			seen[string(key)] = struct{}{}
		}
		for i, s := range o.n.Old {
			old[i] = in[s]
		}
		if err := t.deleteRow(rt, key, version(in, o.n.Key), t.full(old)); err != nil {
			return err
		}
		o.n64++
		return o.ret.add(rt, o.n.Returning, in)
	})
}

// lockRowsOp locks the rows that passed all conditions, and makes sure that they are still
// what the conditions saw.
type lockRowsOp struct {
	n  *physical.LockRows
	in operator
}

func (o *lockRowsOp) close(rt *runtime) { o.in.close(rt) }

func (o *lockRowsOp) next(rt *runtime, want int) (*Batch, error) {
	for {
		b, err := o.in.next(rt, want)
		if b == nil || err != nil {
			return nil, err
		}
		// No row beyond those that will be taken may be locked.
		if b.Len > want {
			o.in = &pushback{first: &Batch{Width: b.Width, Len: b.Len - want, Data: append([]types.Datum(nil), b.Data[want*b.Width:]...)}, in: o.in}
			b.Len, b.Data = want, b.Data[:want*b.Width]
		}
		for i := range o.n.Keys {
			if err := o.lock(rt, b, i); err != nil {
				return nil, err
			}
		}
		if b.Len > 0 {
			return b, nil
		}
	}
}

// lock locks the rows of one table in a batch.
func (o *lockRowsOp) lock(rt *runtime, b *Batch, i int) error {
	l := o.n.Locks[i]
	at := o.n.Keys[i]
	var ks []keys.Key
	index := map[string]int{}
	for r := 0; r < b.Len; r++ {
		if k := b.Row(r)[at]; !k.IsNull() {
			if _, dup := index[string(k.Bytes())]; !dup {
				index[string(k.Bytes())] = len(ks)
				ks = append(ks, keys.Key(k.Bytes()))
			}
		}
	}
	if len(ks) == 0 {
		return nil
	}
	resp, err := rt.ec.Txn.GetMany(rt.ctx, ks, txn.ReadOptions{Lock: l.Strength, Wait: l.Wait, LockTimeout: rt.ec.LockTimeout})
	if err != nil {
		return err
	}
	kept := 0
	for r := 0; r < b.Len; r++ {
		row := b.Row(r)
		keep := true
		if !row[at].IsNull() {
			a := &resp[index[string(row[at].Bytes())]]
			switch {
			case a.Skipped:
				keep = false
			case !a.Exists || a.Version != version(row, at):
				// The row changed between the read and the lock. Serializable transactions
				// have failed to refresh by now; others run the statement again.
				if l.Wait == kv.WaitSkipLocked {
					keep = false
					break
				}
				return &kv.RetryError{Reason: kv.RetryWriteTooOld, Detail: "a row changed before it was locked"}
			}
		}
		if keep {
			if kept != r {
				copy(b.Row(kept), row)
			}
			kept++
		}
	}
	b.Len, b.Data = kept, b.Data[:kept*b.Width]
	return nil
}

// Inserter writes rows into a table outside a query: COPY FROM. It is one statement: all its
// rows or none.
type Inserter struct {
	rt    *runtime
	op    *insertOp
	plan  *plan.InsertPlan
	row   []types.Datum
	count int64
}

// NewInserter returns an Inserter for rows of the plan's columns. The table's defaults are
// filled in, its constraints hold.
func NewInserter(ctx context.Context, ec *Context, p *plan.InsertPlan) (*Inserter, error) {
	rt := newRuntime(ctx, ec, &physical.Plan{})
	i := &Inserter{rt: rt, plan: p, row: make([]types.Datum, len(p.Attrs))}
	i.op = &insertOp{n: p.Node}
	var err error
	i.op.t, err = newWriter(&p.Node.Write)
	if err != nil {
		return nil, err
	}
	i.op.t.track = true
	return i, nil
}

// Insert writes rows; row[j] is the value of the j-th column of the plan. They are not kept.
func (i *Inserter) Insert(ctx context.Context, rows [][]types.Datum) error {
	i.rt.enter(ctx)
	// What the statement wrote is remembered for duplicates within it: bound it.
	for len(rows) > 0 {
		n := min(len(rows), getMany)
		for _, r := range rows[:n] {
			if len(r) != len(i.plan.Positions) {
				return pgerror.New(pgerrcode.BadCopyFileFormat, "a row has %d values, the table's columns are %d", len(r), len(i.plan.Positions))
			}
			for k, e := range i.plan.Defaults {
				if e == nil {
					continue
				}
				v, err := e.Eval(&i.rt.x, nil)
				if err != nil {
					return err
				}
				i.row[k] = v
			}
			for k, p := range i.plan.Positions {
				i.row[p] = r[k]
			}
			if err := i.op.prepare(i.rt, i.row); err != nil {
				return err
			}
		}
		stepper, steps := i.rt.ec.Txn.(interface{ Step() })
		if !steps {
			if err := i.remember(); err != nil {
				return err
			}
		}
		if err := i.op.flush(i.rt); err != nil {
			return err
		}
		if steps {
			// From the next batch on reads show these rows: no need to remember them.
			stepper.Step()
			i.op.t.touched = nil
		}
		rows = rows[n:]
	}
	i.count = i.op.n64
	return nil
}

// remember accounts for the keys that touched will hold.
func (i *Inserter) remember() error {
	n := int64(0)
	for _, p := range i.op.rows {
		for _, e := range p.entries {
			n += int64(len(e.key)) + 48
		}
	}
	return i.rt.keep(n)
}

// Count returns how many rows were written.
func (i *Inserter) Count() int64 { return i.count }

// Close gives the memory back.
func (i *Inserter) Close() { i.rt.release(i.rt.ownMem) }

// Table returns the table that is written.
func (i *Inserter) Table() *catalog.Table { return i.plan.Node.Table }
