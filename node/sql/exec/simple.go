package exec

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
)

func columnPos(n *physical.Scan, id catalog.ColumnID) int {
	for i := range n.Table.Columns {
		if n.Table.Columns[i].ID == id {
			return i
		}
	}
	return -1
}

// valuesOp yields constant rows.
type valuesOp struct {
	n   *physical.Values
	pos int
	out Batch
}

func (o *valuesOp) close(*runtime) {}
func (o *valuesOp) next(rt *runtime, want int) (*Batch, error) {
	if o.pos >= len(o.n.Rows) {
		return nil, nil
	}
	o.out.reset(len(o.n.Cols))
	for o.pos < len(o.n.Rows) && o.out.Len < min(batchRows, max(want, 1)) {
		exprs := o.n.Rows[o.pos]
		o.pos++
		row := o.out.add()
		for i, e := range exprs {
			v, err := e.Eval(&rt.x, nil)
			if err != nil {
				return nil, err
			}
			row[i] = v
		}
	}
	return &o.out, nil
}

// filterOp keeps rows.
type filterOp struct {
	n  *physical.Filter
	in operator
}

func (o *filterOp) close(rt *runtime) { o.in.close(rt) }
func (o *filterOp) next(rt *runtime, _ int) (*Batch, error) {
	for {
		b, err := o.in.next(rt, maxInt)
		if b == nil || err != nil {
			return nil, err
		}
		kept := 0
		for i := 0; i < b.Len; i++ {
			row := b.Row(i)
			ok, err := rt.truthy(o.n.Preds, row)
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

// projectOp computes columns.
type projectOp struct {
	n   *physical.Project
	in  operator
	out Batch
}

func (o *projectOp) close(rt *runtime) { o.in.close(rt) }
func (o *projectOp) next(rt *runtime, want int) (*Batch, error) {
	b, err := o.in.next(rt, want)
	if b == nil || err != nil {
		return nil, err
	}
	o.out.reset(len(o.n.Exprs))
	for i := 0; i < b.Len; i++ {
		row, out := b.Row(i), o.out.add()
		for j, e := range o.n.Exprs {
			if s, ok := e.(*expr.Slot); ok {
				out[j] = row[s.Index]
				continue
			}
			v, err := e.Eval(&rt.x, row)
			if err != nil {
				return nil, err
			}
			out[j] = v
		}
	}
	return &o.out, nil
}

// limitOp cuts.
type limitOp struct {
	n          *physical.Limit
	in         operator
	open       bool
	skip, left int64
}

func (o *limitOp) close(rt *runtime) { o.in.close(rt) }
func (o *limitOp) next(rt *runtime, want int) (*Batch, error) {
	if !o.open {
		o.open = true
		var err error
		if o.skip, o.left, err = limits(rt, o.n); err != nil {
			return nil, err
		}
	}
	for o.left > 0 {
		ask := int64(maxInt)
		if o.left < int64(maxInt)-o.skip {
			ask = o.left + o.skip
		}
		ask = min(ask, max(int64(want), 1)+o.skip)
		if ask < 0 {
			ask = int64(maxInt)
		}
		b, err := o.in.next(rt, int(ask))
		if b == nil || err != nil {
			return nil, err
		}
		if o.skip > 0 {
			n := min(o.skip, int64(b.Len))
			o.skip -= n
			b.Data, b.Len = b.Data[int(n)*b.Width:], b.Len-int(n)
		}
		if int64(b.Len) > o.left {
			b.Len = int(o.left)
			b.Data = b.Data[:b.Len*b.Width]
		}
		if b.Len > 0 {
			o.left -= int64(b.Len)
			return b, nil
		}
	}
	return nil, nil
}

// limits evaluates OFFSET and LIMIT.
func limits(rt *runtime, n *physical.Limit) (skip, count int64, err error) {
	eval := func(e expr.Expr, code, what string, none int64) (int64, error) {
		if e == nil {
			return none, nil
		}
		v, err := e.Eval(&rt.x, nil)
		if err != nil || v.IsNull() {
			return none, err
		}
		if v.Int() < 0 {
			return 0, pgerror.New(code, "%s must not be negative", what)
		}
		return v.Int(), nil
	}
	if skip, err = eval(n.Offset, pgerrcode.InvalidRowCountInResultOffsetClause, "OFFSET", 0); err != nil {
		return 0, 0, err
	}
	count, err = eval(n.Count, pgerrcode.InvalidRowCountInLimitClause, "LIMIT", int64(maxInt))
	return skip, count, err
}

// virtualOp reads a virtual table.
type virtualOp struct {
	n    *physical.Virtual
	open bool
	rows store
	pos  int
	out  Batch
}

func (o *virtualOp) close(rt *runtime) { o.rows.free(rt) }
func (o *virtualOp) next(rt *runtime, _ int) (*Batch, error) {
	if !o.open {
		o.open = true
		if rt.ec.Virtual == nil {
			return nil, pgerror.New(pgerrcode.FeatureNotSupported, "relation \"%s\" cannot be read here", o.n.Table.Name())
		}
		o.rows.width = len(o.n.Attrs)
		row := make([]types.Datum, len(o.n.Attrs))
		err := rt.ec.Virtual(rt.ctx, o.n.Table, func(full []types.Datum) (bool, error) {
			for i, a := range o.n.Attrs {
				row[i] = full[a]
			}
			if len(o.n.Filter) > 0 {
				if ok, err := rt.truthy(o.n.Filter, row); err != nil || !ok {
					return err == nil, err
				}
			}
			return true, o.rows.append(rt, row)
		})
		if err != nil {
			return nil, err
		}
	}
	return o.rows.batch(&o.pos, &o.out), nil
}

// store keeps rows in memory, accounted for.
type store struct {
	width int
	data  []types.Datum
	n     int
	bytes int64
}

func (s *store) append(rt *runtime, row []types.Datum) error {
	size := rowSize(row)
	if err := rt.keep(size); err != nil {
		return err
	}
	s.bytes += size
	s.data = append(s.data, row...)
	s.n++
	return nil
}

func (s *store) row(i int) []types.Datum {
	return s.data[i*s.width : (i+1)*s.width : (i+1)*s.width]
}

// batch copies the rows from *pos on into out; nil at the end.
func (s *store) batch(pos *int, out *Batch) *Batch {
	if *pos >= s.n {
		return nil
	}
	n := min(batchRows, s.n-*pos)
	out.reset(s.width)
	out.Data = append(out.Data, s.data[*pos*s.width:(*pos+n)*s.width]...)
	out.Len = n
	*pos += n
	return out
}

func (s *store) free(rt *runtime) {
	rt.release(s.bytes)
	*s = store{width: s.width}
}

// drain keeps everything an operator yields.
func (rt *runtime) drain(in operator, s *store) error {
	for {
		if err := rt.ctx.Err(); err != nil {
			return err
		}
		b, err := in.next(rt, maxInt)
		if err != nil || b == nil {
			return err
		}
		for i := 0; i < b.Len; i++ {
			if err := s.append(rt, b.Row(i)); err != nil {
				return err
			}
		}
	}
}

// funcScanOp calls functions side by side.
type funcScanOp struct {
	n    *physical.FuncScan
	open bool
	rows store
	pos  int
	out  Batch
}

func (o *funcScanOp) close(rt *runtime) { o.rows.free(rt) }
func (o *funcScanOp) next(rt *runtime, _ int) (*Batch, error) {
	if !o.open {
		o.open = true
		var err error
		if o.rows, err = callSets(rt, o.n.Funcs, nil, o.n.Ordinality); err != nil {
			return nil, err
		}
	}
	return o.rows.batch(&o.pos, &o.out), nil
}

// callSets calls set-returning functions over a row, side by side: the shorter ones are
// filled up with NULLs.
func callSets(rt *runtime, funcs []*physical.SetFunc, row []types.Datum, ordinality bool) (store, error) {
	width := 0
	for _, f := range funcs {
		width += f.Width
	}
	total := width
	if ordinality {
		total++
	}
	out := store{width: total}
	lists := make([]store, len(funcs))
	n := 0
	for i, f := range funcs {
		lists[i].width = f.Width
		if err := callSet(rt, f, row, &lists[i]); err != nil {
			return out, err
		}
		n = max(n, lists[i].n)
	}
	buf := make([]types.Datum, total)
	for r := 0; r < n; r++ {
		at := 0
		for i, f := range funcs {
			for j := 0; j < f.Width; j++ {
				buf[at+j] = types.Null
			}
			if r < lists[i].n {
				copy(buf[at:], lists[i].row(r))
			}
			at += f.Width
		}
		if ordinality {
			buf[width] = types.NewInt(int64(r + 1))
		}
		if err := out.append(rt, buf); err != nil {
			return out, err
		}
	}
	for i := range lists {
		lists[i].free(rt)
	}
	return out, nil
}

func callSet(rt *runtime, f *physical.SetFunc, row []types.Datum, out *store) error {
	if f.Scalar != nil {
		v, err := f.Scalar.Eval(&rt.x, row)
		if err != nil {
			return err
		}
		return out.append(rt, []types.Datum{v})
	}
	args := make([]types.Datum, len(f.Args))
	for i, a := range f.Args {
		v, err := a.Eval(&rt.x, row)
		if err != nil {
			return err
		}
		if v.IsNull() && f.Strict {
			return nil
		}
		args[i] = v
	}
	n := 0
	return f.Fn(rt.x.Eval, args, func(r []types.Datum) (bool, error) {
		if n++; n%1024 == 0 {
			if err := rt.ctx.Err(); err != nil {
				return false, err
			}
		}
		return true, out.append(rt, r)
	})
}

// projectSetOp expands set-returning functions for each row.
type projectSetOp struct {
	n   *physical.ProjectSet
	in  operator
	b   *Batch
	row int
	set store
	pos int
	out Batch
}

func (o *projectSetOp) close(rt *runtime) { o.set.free(rt); o.in.close(rt) }
func (o *projectSetOp) next(rt *runtime, _ int) (*Batch, error) {
	o.out.reset(len(o.n.Cols))
	for {
		for o.pos < o.set.n {
			out := o.out.add()
			n := copy(out, o.b.Row(o.row))
			copy(out[n:], o.set.row(o.pos))
			o.pos++
			if o.out.Len >= batchRows {
				return &o.out, nil
			}
		}
		if o.b != nil {
			o.row++
		}
		if o.b == nil || o.row >= o.b.Len {
			b, err := o.in.next(rt, maxInt)
			if err != nil {
				return nil, err
			}
			if b == nil {
				o.b, o.set, o.pos = &Batch{}, store{}, 0
				if o.out.Len > 0 {
					return &o.out, nil
				}
				return nil, nil
			}
			o.b, o.row = b, 0
		}
		o.set.free(rt)
		var err error
		if o.set, err = callSets(rt, o.n.Funcs, o.b.Row(o.row), false); err != nil {
			return nil, err
		}
		o.pos = 0
	}
}

// cteState is a WITH query during an execution.
type cteState struct {
	rows store
	done bool
	work *store // rows of the recursive step before
	busy bool
}

// cte evaluates a WITH query once.
func (rt *runtime) cte(c *physical.CTE) (*cteState, error) {
	st := rt.ctes[c.Index]
	if st == nil {
		st = &cteState{}
		rt.ctes[c.Index] = st
	}
	if st.done || st.busy {
		return st, nil
	}
	st.busy = true
	defer func() { st.busy = false }()
	st.rows.width = len(c.Plan.Info().Cols)
	op := rt.build(c.Plan)
	err := rt.drain(op, &st.rows)
	op.close(rt)
	if err != nil {
		return nil, err
	}
	if c.Step != nil {
		if err := rt.recurse(c, st); err != nil {
			return nil, err
		}
	}
	st.done = true
	return st, nil
}

// recurse runs the step of WITH RECURSIVE until it yields nothing new.
func (rt *runtime) recurse(c *physical.CTE, st *cteState) error {
	var seen map[string]struct{}
	var key []byte
	fresh := func(row []types.Datum) bool {
		if seen == nil {
			return true
		}
		key = expr.AppendHashKeys(key[:0], row)
		if _, dup := seen[string(key)]; dup {
			return false
		}
		seen[string(key)] = struct{}{}
		return true
	}
	if !c.All {
		seen = map[string]struct{}{}
		kept := store{width: st.rows.width}
		for i := 0; i < st.rows.n; i++ {
			if fresh(st.rows.row(i)) {
				if err := kept.append(rt, st.rows.row(i)); err != nil {
					return err
				}
			}
		}
		st.rows.free(rt)
		st.rows = kept
	}
	work := &store{width: st.rows.width, data: append([]types.Datum(nil), st.rows.data...), n: st.rows.n}
	for work.n > 0 {
		st.work = work
		next := &store{width: st.rows.width}
		op := rt.build(c.Step)
		for {
			if err := rt.ctx.Err(); err != nil {
				return err
			}
			b, err := op.next(rt, maxInt)
			if err != nil {
				return err
			}
			if b == nil {
				break
			}
			for i := 0; i < b.Len; i++ {
				if row := b.Row(i); fresh(row) {
					if err := next.append(rt, row); err != nil {
						return err
					}
					if err := st.rows.append(rt, row); err != nil {
						return err
					}
				}
			}
		}
		op.close(rt)
		rt.release(work.bytes)
		work = next
	}
	st.work = nil
	return nil
}

// runWrites runs the WITH queries that write, once, before the statement's first row.
func (rt *runtime) runWrites() error {
	for _, c := range rt.plan.CTEs {
		if c.DML {
			if _, err := rt.cte(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// cteScanOp reads a WITH query.
type cteScanOp struct {
	n   *physical.CTEScan
	pos int
	out Batch
}

func (o *cteScanOp) close(*runtime) {}
func (o *cteScanOp) next(rt *runtime, _ int) (*Batch, error) {
	var rows *store
	if o.n.Work {
		if st := rt.ctes[o.n.CTE.Index]; st != nil {
			rows = st.work
		}
	} else {
		st, err := rt.cte(o.n.CTE)
		if err != nil {
			return nil, err
		}
		rows = &st.rows
	}
	if rows == nil {
		return nil, pgerror.New(pgerrcode.InternalError, "WITH query \"%s\" is not running", o.n.CTE.Name)
	}
	o.out.reset(len(o.n.Attrs))
	for o.pos < rows.n && o.out.Len < batchRows {
		src, row := rows.row(o.pos), o.out.add()
		o.pos++
		for i, a := range o.n.Attrs {
			row[i] = src[a]
		}
		ok, err := rt.truthy(o.n.Filter, row)
		if err != nil {
			return nil, err
		}
		if !ok {
			o.out.drop()
		}
	}
	if o.out.Len == 0 {
		if o.pos < rows.n {
			return o.next(rt, 0)
		}
		return nil, nil
	}
	return &o.out, nil
}
