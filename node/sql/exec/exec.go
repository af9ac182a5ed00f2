// Package exec runs physical plans: operators that pull batches of rows from each other,
// reading and writing through a transaction.
//
// Rows lie flat in a batch, one after another; an operator owns the batch it returns and may
// reuse it at its next call, so that whoever keeps rows copies them. The consumer may change
// the batch it was given.
package exec

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/atolldb/atoll/node/txn"
)

// Txn is what the executor needs of a transaction; *txn.Txn is one. The caller marks the
// statement boundary (txn.Txn.Step) before it runs a plan.
type Txn interface {
	Get(ctx context.Context, key keys.Key, opts txn.ReadOptions) (kv.GetResponse, error)
	GetMany(ctx context.Context, keys []keys.Key, opts txn.ReadOptions) ([]kv.GetResponse, error)
	Scan(ctx context.Context, span keys.Span, opts txn.ScanOptions) (txn.ScanResult, error)
	Put(ctx context.Context, key keys.Key, value []byte, cond kv.Condition) error
	Delete(ctx context.Context, key keys.Key, cond kv.Condition) error
	Overlaps(span keys.Span) bool
}

// VirtualRows yields the rows of a virtual table, for the session that runs the statement,
// until emit returns false. emit does not keep the row.
type VirtualRows func(ctx context.Context, t logical.VirtualTable, emit func(row []types.Datum) (bool, error)) error

// Context is what a statement runs in.
type Context struct {
	Txn    Txn
	Eval   *builtins.EvalContext
	Params []types.Datum
	// Memory bounds what the statement keeps; nil: DefaultMemory.
	Memory *Memory
	// LockTimeout bounds each wait for a lock; 0: none.
	LockTimeout time.Duration
	Virtual     VirtualRows
	// NewRowID makes keys for tables without a primary key.
	NewRowID func() int64
	// CommitsNext says that the transaction commits right after this statement, and that the
	// caller passes the commit's error through CommitError: then INSERT need not read keys
	// to see that they are absent (S26's conditions find out when the write lands).
	CommitsNext bool
	// NoPushdown keeps filters out of the leaseholder (tests).
	NoPushdown bool
}

// DefaultMemory is what a statement may keep in memory, in bytes.
const DefaultMemory = 256 << 20

// Memory is a budget, shared by a statement's operators. It is safe for concurrent use, so
// that a parent can bound several statements.
type Memory struct {
	mu     sync.Mutex
	used   int64
	peak   int64
	limit  int64
	parent *Memory
	name   string
}

// NewMemory returns a budget of limit bytes, within parent's if there is one. name is for
// the error ("statement", "node").
func NewMemory(name string, limit int64, parent *Memory) *Memory {
	return &Memory{limit: limit, parent: parent, name: name}
}

// Grow takes n bytes: 53200 if there are not so many.
func (m *Memory) Grow(n int64) error {
	m.mu.Lock()
	if m.used+n > m.limit {
		used := m.used
		m.mu.Unlock()
		return pgerror.New(pgerrcode.OutOfMemory, "out of memory").
			WithDetail("The %s would use %d bytes, its limit is %d.", m.name, used+n, m.limit).
			WithHint("Let the statement return or keep fewer rows: add conditions or LIMIT, or aggregate in steps.")
	}
	m.used += n
	m.peak = max(m.peak, m.used)
	m.mu.Unlock()
	if m.parent != nil {
		if err := m.parent.Grow(n); err != nil {
			m.mu.Lock()
			m.used -= n
			m.mu.Unlock()
			return err
		}
	}
	return nil
}

// Shrink gives n bytes back.
func (m *Memory) Shrink(n int64) {
	m.mu.Lock()
	m.used -= n
	m.mu.Unlock()
	if m.parent != nil {
		m.parent.Shrink(n)
	}
}

// Used returns what is taken now.
func (m *Memory) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// Batch is some rows of Width values each, one after another in Data.
type Batch struct {
	Width, Len int
	Data       []types.Datum
}

// Row returns the i-th row.
func (b *Batch) Row(i int) []types.Datum { return b.Data[i*b.Width : (i+1)*b.Width : (i+1)*b.Width] }

func (b *Batch) reset(width int) {
	b.Width, b.Len, b.Data = width, 0, b.Data[:0]
}

// add appends a row of the batch's width and returns it; its values are stale.
func (b *Batch) add() []types.Datum {
	n := len(b.Data)
	if n+b.Width <= cap(b.Data) {
		b.Data = b.Data[:n+b.Width]
	} else {
		b.Data = append(b.Data, make([]types.Datum, b.Width)...)
	}
	b.Len++
	return b.Data[n:]
}

// drop takes the last row back.
func (b *Batch) drop() {
	b.Len--
	b.Data = b.Data[:len(b.Data)-b.Width]
}

// batchRows is how many rows operators exchange at a time.
const batchRows = 256

// operator yields batches; nil at the end. want is how many rows the consumer will take at
// most from now on: an operator should not read, and must not lock, many more.
type operator interface {
	next(rt *runtime, want int) (*Batch, error)
	close(rt *runtime)
}

// runtime is one execution of a plan.
type runtime struct {
	ctx    context.Context
	ec     *Context
	x      expr.Ctx
	plan   *physical.Plan
	mem    *Memory
	ownMem int64
	ctes   []*cteState
	cached map[*expr.Subquery]any
	stats  []nodeStats // by operator ID; nil unless measured
}

type nodeStats struct {
	rows, loops    int64
	startup, total time.Duration
}

// Rows is a running statement. It is not safe for concurrent use.
type Rows struct {
	rt    *runtime
	plan  *plan.Plan
	root  operator
	slots []int // nil: the root's rows are the result's
	out   Batch
	count int64
	done  bool
	lines []string // EXPLAIN
}

// Run starts a plan. Nothing is read or written before Next.
func Run(ctx context.Context, ec *Context, p *plan.Plan) (*Rows, error) {
	if len(ec.Params) != len(p.ParamTypes) {
		return nil, pgerror.New(pgerrcode.ProtocolViolation, "bind message supplies %d parameters, but prepared statement requires %d", len(ec.Params), len(p.ParamTypes))
	}
	r := &Rows{plan: p, rt: newRuntime(ctx, ec, p.Physical)}
	if p.Explain != nil {
		if p.Explain.Analyze {
			r.rt.stats = make([]nodeStats, p.Physical.Nodes)
		}
		return r, nil
	}
	r.start()
	return r, nil
}

func newRuntime(ctx context.Context, ec *Context, p *physical.Plan) *runtime {
	rt := &runtime{ctx: ctx, ec: ec, plan: p, mem: ec.Memory}
	if rt.mem == nil {
		rt.mem = NewMemory("statement", DefaultMemory, nil)
	}
	rt.x = expr.Ctx{Context: ctx, Eval: ec.Eval, Params: ec.Params, Sub: rt, NewRowID: ec.NewRowID}
	if rt.x.Eval == nil {
		rt.x.Eval = &builtins.EvalContext{}
	}
	if p.Outer > 0 {
		rt.x.Outer = make([]types.Datum, p.Outer)
	}
	if len(p.CTEs) > 0 {
		rt.ctes = make([]*cteState, len(p.CTEs))
	}
	return rt
}

func (r *Rows) start() {
	r.root = r.rt.build(r.plan.Physical.Root)
	width := len(r.plan.Physical.Root.Info().Cols)
	same := len(r.plan.Physical.Slots) == width
	for i, s := range r.plan.Physical.Slots {
		same = same && s == i
	}
	if !same {
		r.slots = r.plan.Physical.Slots
	}
}

// Next returns the next rows, at most maxRows (0: as many as come handy), or nil at the end.
// The batch is valid until the next call. ctx may be another one each time.
func (r *Rows) Next(ctx context.Context, maxRows int64) (*Batch, error) {
	r.rt.enter(ctx)
	if r.plan.Explain != nil {
		return r.nextLine(ctx, maxRows)
	}
	if r.done {
		return nil, nil
	}
	if err := r.rt.runWrites(); err != nil {
		return nil, err
	}
	want := maxInt
	if maxRows > 0 {
		want = int(min(maxRows, int64(maxInt)))
	}
	b, err := r.root.next(r.rt, want)
	if err != nil {
		return nil, err
	}
	if b == nil {
		r.done = true
		return nil, nil
	}
	if b.Len > want {
		// An operator may hand out more; what is over waits.
		return r.split(b, want), nil
	}
	r.count += int64(b.Len)
	return r.result(b), nil
}

const maxInt = int(^uint(0) >> 1)

// split keeps the rows after the first n for the next call.
func (r *Rows) split(b *Batch, n int) *Batch {
	rest := &Batch{Width: b.Width, Len: b.Len - n, Data: append([]types.Datum(nil), b.Data[n*b.Width:]...)}
	r.root = &pushback{first: rest, in: r.root}
	b.Len, b.Data = n, b.Data[:n*b.Width]
	r.count += int64(n)
	return r.result(b)
}

// pushback yields a batch that was left over, then its input.
type pushback struct {
	first *Batch
	in    operator
}

func (o *pushback) next(rt *runtime, want int) (*Batch, error) {
	if b := o.first; b != nil {
		if b.Len <= want {
			o.first = nil
			return b, nil
		}
		head := &Batch{Width: b.Width, Len: want, Data: b.Data[: want*b.Width : want*b.Width]}
		o.first = &Batch{Width: b.Width, Len: b.Len - want, Data: b.Data[want*b.Width:]}
		return head, nil
	}
	return o.in.next(rt, want)
}
func (o *pushback) close(rt *runtime) { o.in.close(rt) }

func (r *Rows) result(b *Batch) *Batch {
	if r.slots == nil {
		return b
	}
	r.out.reset(len(r.slots))
	for i := 0; i < b.Len; i++ {
		row, out := b.Row(i), r.out.add()
		for j, s := range r.slots {
			out[j] = row[s]
		}
	}
	return &r.out
}

// Affected returns how many rows were returned, or written.
func (r *Rows) Affected() int64 {
	if w, ok := r.root.(writer); ok {
		return w.written()
	}
	if p, ok := r.root.(*pushback); ok {
		if w, ok := p.in.(writer); ok {
			return w.written()
		}
	}
	return r.count
}

type writer interface{ written() int64 }

// Tag returns the command tag. It is right once Next returned nil.
func (r *Rows) Tag() string {
	switch r.plan.Kind {
	case plan.Insert:
		return fmt.Sprintf("INSERT 0 %d", r.Affected())
	case plan.Update:
		return fmt.Sprintf("UPDATE %d", r.Affected())
	case plan.Delete:
		return fmt.Sprintf("DELETE %d", r.Affected())
	case plan.Explain:
		return "EXPLAIN"
	}
	return fmt.Sprintf("SELECT %d", r.count)
}

// Close ends the statement; it may be called at any time, and more than once.
func (r *Rows) Close() {
	if r.root != nil {
		r.root.close(r.rt)
		r.root = nil
	}
	r.done = true
	r.rt.release(r.rt.ownMem)
}

func (rt *runtime) enter(ctx context.Context) {
	rt.ctx, rt.x.Context = ctx, ctx
	rt.x.Eval.Ctx = ctx
}

// keep accounts for memory that lives until the end of the statement or release.
func (rt *runtime) keep(n int64) error {
	if err := rt.mem.Grow(n); err != nil {
		return err
	}
	rt.ownMem += n
	return nil
}

func (rt *runtime) release(n int64) {
	rt.ownMem -= n
	rt.mem.Shrink(n)
}

// rowSize is what keeping a row costs.
func rowSize(row []types.Datum) int64 {
	n := int64(24 * len(row))
	for i := range row {
		switch row[i].Kind() {
		case types.KindNull, types.KindBool, types.KindInt, types.KindFloat, types.KindTimestamp, types.KindDate, types.KindTime:
		default:
			n += int64(row[i].Size())
		}
	}
	return n
}

// truthy reports whether all conditions hold.
func (rt *runtime) truthy(preds []expr.Expr, row []types.Datum) (bool, error) {
	for _, p := range preds {
		ok, err := expr.Truthy(&rt.x, p, row)
		if err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// build makes the operator for a plan node.
func (rt *runtime) build(n physical.Node) operator {
	op := rt.buildNode(n)
	if rt.stats != nil {
		return &measured{in: op, st: &rt.stats[n.Info().ID]}
	}
	return op
}

func (rt *runtime) buildNode(n physical.Node) operator {
	switch v := n.(type) {
	case *physical.Scan:
		return &scanOp{n: v}
	case *physical.Virtual:
		return &virtualOp{n: v}
	case *physical.Values:
		return &valuesOp{n: v}
	case *physical.FuncScan:
		return &funcScanOp{n: v}
	case *physical.ProjectSet:
		return &projectSetOp{n: v, in: rt.build(v.In)}
	case *physical.Filter:
		return &filterOp{n: v, in: rt.build(v.In)}
	case *physical.Project:
		return &projectOp{n: v, in: rt.build(v.In)}
	case *physical.HashJoin:
		return &hashJoinOp{n: v, l: rt.build(v.L), r: rt.build(v.R)}
	case *physical.NestLoop:
		return &nestLoopOp{n: v, l: rt.build(v.L)}
	case *physical.LookupJoin:
		return &lookupJoinOp{n: v, l: rt.build(v.L)}
	case *physical.Agg:
		return &aggOp{n: v, in: rt.build(v.In)}
	case *physical.Sort:
		return &sortOp{n: v, in: rt.build(v.In)}
	case *physical.Limit:
		return &limitOp{n: v, in: rt.build(v.In)}
	case *physical.Distinct:
		return &distinctOp{n: v, in: rt.build(v.In)}
	case *physical.SetOp:
		return &setOp{n: v, l: rt.build(v.L), r: rt.build(v.R)}
	case *physical.CTEScan:
		return &cteScanOp{n: v}
	case *physical.LockRows:
		return &lockRowsOp{n: v, in: rt.build(v.In)}
	case *physical.Window:
		return &windowOp{n: v, in: rt.build(v.In)}
	case *physical.Insert:
		return &insertOp{n: v, in: rt.build(v.In)}
	case *physical.Update:
		return &updateOp{n: v, in: rt.build(v.In)}
	case *physical.Delete:
		return &deleteOp{n: v, in: rt.build(v.In)}
	}
	return &failOp{err: pgerror.New(pgerrcode.InternalError, "executor: no operator for %T", n)}
}

type failOp struct{ err error }

func (o *failOp) next(*runtime, int) (*Batch, error) { return nil, o.err }
func (o *failOp) close(*runtime)                     {}

// measured counts rows and time for EXPLAIN ANALYZE.
type measured struct {
	in operator
	st *nodeStats
	on bool
}

func (o *measured) next(rt *runtime, want int) (*Batch, error) {
	start := time.Now()
	b, err := o.in.next(rt, want)
	d := time.Since(start)
	if !o.on {
		o.on = true
		o.st.loops++
		o.st.startup += d
	}
	o.st.total += d
	if b != nil {
		o.st.rows += int64(b.Len)
	}
	return b, err
}
func (o *measured) close(rt *runtime) { o.in.close(rt) }
func (o *measured) written() int64 {
	if w, ok := o.in.(writer); ok {
		return w.written()
	}
	return 0
}

// RunSubquery implements expr.SubqueryRunner.
func (rt *runtime) RunSubquery(c *expr.Ctx, s *expr.Subquery, row []types.Datum, each func(row []types.Datum) (bool, error)) error {
	for _, p := range s.Pass {
		c.Outer[p.To] = row[p.From]
	}
	op := rt.build(s.Plan.(physical.Node))
	defer op.close(rt)
	for {
		if err := rt.ctx.Err(); err != nil {
			return err
		}
		want := maxInt
		if s.Kind == expr.ExistsSubquery {
			want = 1
		}
		b, err := op.next(rt, want)
		if err != nil || b == nil {
			return err
		}
		for i := 0; i < b.Len; i++ {
			if more, err := each(b.Row(i)); err != nil || !more {
				return err
			}
		}
	}
}

// Cached implements expr.SubqueryRunner.
func (rt *runtime) Cached(s *expr.Subquery, build func() (any, error)) (any, error) {
	if v, ok := rt.cached[s]; ok {
		return v, nil
	}
	v, err := build()
	if err != nil {
		return nil, err
	}
	if rt.cached == nil {
		rt.cached = map[*expr.Subquery]any{}
	}
	rt.cached[s] = v
	return v, nil
}

var _ Txn = (*txn.Txn)(nil)
