package opt

import (
	"math"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/plan/physical"
)

// Stats tells table sizes.
type Stats interface {
	// Rows estimates a table's rows; 0 if nothing is known.
	Rows(table catalog.ID) float64
}

// Options configure Build.
type Options struct {
	Stats Stats
}

// Build makes a physical plan. It consumes q.
func Build(q *logical.Query, opts Options) (*physical.Plan, error) {
	b := &builder{opts: opts, ctes: map[*logical.CTE]*physical.CTE{}}
	stay := inlineCTEs(q)
	p := &physical.Plan{Columns: q.Columns}
	for i, c := range stay {
		pc, err := b.cte(c, i)
		if err != nil {
			return nil, err
		}
		p.CTEs = append(p.CTEs, pc)
	}
	need := logical.Set{}
	need.Add(q.Columns...)
	root := push(q.Root, nil)
	// A projection at the top that only chooses columns is what Slots is for.
	if pr, ok := root.(*logical.Project); ok && plainProject(pr) {
		by := map[expr.ColID]expr.ColID{}
		for i, c := range pr.Columns {
			by[c.ID] = pr.Exprs[i].(*expr.Col).ID
		}
		need = logical.Set{}
		node, err := func() (physical.Node, error) {
			for _, c := range q.Columns {
				need[by[c.ID]] = struct{}{}
			}
			n, _, err := b.build(pr.In, need, nil)
			return n, err
		}()
		if err != nil {
			return nil, err
		}
		p.Root = node
		at := layoutOf(node)
		for _, c := range q.Columns {
			p.Slots = append(p.Slots, at[by[c.ID]])
		}
	} else {
		node, _, err := b.build(root, need, nil)
		if err != nil {
			return nil, err
		}
		p.Root = node
		at := layoutOf(node)
		for _, c := range q.Columns {
			s, ok := at[c.ID]
			if !ok {
				return nil, internal("result column %s has no slot", c.Name)
			}
			p.Slots = append(p.Slots, s)
		}
	}
	p.Outer, p.Subplans = b.nouter, b.subs
	b.number(p)
	return p, nil
}

func plainProject(p *logical.Project) bool {
	for _, e := range p.Exprs {
		if _, ok := e.(*expr.Col); !ok {
			return false
		}
	}
	return true
}

func internal(format string, args ...any) error {
	return pgerror.New(pgerrcode.InternalError, "planner: "+format, args...)
}

type builder struct {
	opts   Options
	frames []*frame
	nouter int
	refs   int // outer references made so far
	ctes   map[*logical.CTE]*physical.CTE
	subs   []*expr.Subquery
}

// frame is a row that a subplan can refer to.
type frame struct {
	layout layout
	slots  map[expr.ColID]int // in Ctx.Outer
	pass   []expr.Pass
}

type layout map[expr.ColID]int

func layoutOf(n physical.Node) layout {
	l := layout{}
	for i, c := range n.Info().Cols {
		if _, dup := l[c.ID]; !dup {
			l[c.ID] = i
		}
	}
	return l
}

// number gives every operator its ID.
func (b *builder) number(p *physical.Plan) {
	var walk func(n physical.Node)
	walk = func(n physical.Node) {
		n.Info().ID = p.Nodes
		p.Nodes++
		for _, in := range n.Inputs() {
			walk(in)
		}
	}
	walk(p.Root)
	for _, c := range p.CTEs {
		walk(c.Plan)
		if c.Step != nil {
			walk(c.Step)
		}
	}
	for _, s := range b.subs {
		walk(s.Plan.(physical.Node))
	}
}

func (b *builder) cte(c *logical.CTE, i int) (*physical.CTE, error) {
	if len(logical.Free(c.Plan)) > 0 || c.Step != nil && len(logical.Free(c.Step)) > 0 {
		return nil, pgerror.New(pgerrcode.FeatureNotSupported, "WITH query \"%s\" refers to an outer query, and is used more than once", c.Name)
	}
	pc := &physical.CTE{Name: c.Name, All: c.All, DML: c.DML, Index: i}
	b.ctes[c] = pc
	cols := c.Plan.Cols()
	n, err := b.exact(push(c.Plan, nil), cols)
	if err != nil {
		return nil, err
	}
	pc.Plan = n
	if c.Step != nil {
		scols := c.Step.Cols()
		if pc.Step, err = b.exact(push(c.Step, nil), scols); err != nil {
			return nil, err
		}
	}
	return pc, nil
}

// exact builds a node whose rows are exactly the given columns, in order.
func (b *builder) exact(n logical.Node, cols []logical.Column) (physical.Node, error) {
	need := logical.Set{}
	need.Add(cols...)
	p, _, err := b.build(n, need, nil)
	if err != nil {
		return nil, err
	}
	return b.arrange(p, cols)
}

// arrange puts columns in order.
func (b *builder) arrange(p physical.Node, cols []logical.Column) (physical.Node, error) {
	have := p.Info().Cols
	same := len(have) == len(cols)
	for i := range cols {
		same = same && have[i].ID == cols[i].ID
	}
	if same {
		return p, nil
	}
	at := layoutOf(p)
	out := &physical.Project{In: p, Base: like(p)}
	out.Cols = cols
	for _, c := range cols {
		e, err := b.compile(c.Ref(), at)
		if err != nil {
			return nil, err
		}
		out.Exprs = append(out.Exprs, e)
	}
	return out, nil
}

// like copies the estimates of an input.
func like(p physical.Node) physical.Base {
	i := p.Info()
	return physical.Base{Cols: i.Cols, Rows: i.Rows, Startup: i.Startup, Cost: i.Cost + i.Rows*cpuTuple}
}

// compile replaces columns by slots, and subqueries' plans by physical ones.
func (b *builder) compile(e expr.Expr, at layout) (expr.Expr, error) {
	return expr.Rewrite(e, func(x expr.Expr) (expr.Expr, error) {
		switch v := x.(type) {
		case *expr.Col:
			if s, ok := at[v.ID]; ok {
				return &expr.Slot{Index: s, Col: v}, nil
			}
			return b.outer(v)
		case *expr.Subquery:
			return b.subquery(v, at)
		}
		return x, nil
	})
}

func (b *builder) compileAll(l []expr.Expr, at layout) ([]expr.Expr, error) {
	if len(l) == 0 {
		return nil, nil
	}
	out := make([]expr.Expr, len(l))
	for i, e := range l {
		c, err := b.compile(e, at)
		if err != nil {
			return nil, err
		}
		out[i] = c
	}
	return out, nil
}

// outer finds a column in an enclosing row.
func (b *builder) outer(c *expr.Col) (expr.Expr, error) {
	for i := len(b.frames) - 1; i >= 0; i-- {
		f := b.frames[i]
		from, ok := f.layout[c.ID]
		if !ok {
			continue
		}
		to, ok := f.slots[c.ID]
		if !ok {
			to = b.nouter
			b.nouter++
			f.slots[c.ID] = to
			f.pass = append(f.pass, expr.Pass{From: from, To: to})
		}
		b.refs++
		return &expr.Outer{Index: to, Col: c}, nil
	}
	return nil, internal("column %s (%d) is not in reach", c.Name, c.ID)
}

// inFrame runs f with a row that what it builds may refer to.
func (b *builder) inFrame(at layout, f func() error) (*frame, error) {
	fr := &frame{layout: at, slots: map[expr.ColID]int{}}
	b.frames = append(b.frames, fr)
	err := f()
	b.frames = b.frames[:len(b.frames)-1]
	return fr, err
}

func (b *builder) subquery(s *expr.Subquery, at layout) (expr.Expr, error) {
	n, ok := s.Plan.(logical.Node)
	if !ok {
		return s, nil
	}
	out := *s
	refs := b.refs
	fr, err := b.inFrame(at, func() error {
		cols := n.Cols()
		if s.Kind == expr.ExistsSubquery {
			cols = nil
		}
		p, err := b.exact(push(n, nil), cols)
		out.Plan = p
		return err
	})
	if err != nil {
		return nil, err
	}
	out.Correlated = b.refs > refs
	out.Pass = fr.pass
	b.subs = append(b.subs, &out)
	return &out, nil
}

// freeOf adds what expressions refer to.
func freeOf(need logical.Set, l ...expr.Expr) {
	for _, e := range l {
		if e == nil {
			continue
		}
		for id := range logical.FreeExpr(e) {
			need[id] = struct{}{}
		}
	}
}

func clone(s logical.Set) logical.Set {
	out := make(logical.Set, len(s))
	for id := range s {
		out[id] = struct{}{}
	}
	return out
}

// order is what a consumer wants of the order of rows: columns only.
type order struct {
	keys  []orderKey
	limit float64 // how many rows it will take; 0: all
}

type orderKey struct {
	id               expr.ColID
	desc, nullsFirst bool
}

// build makes the physical node for n that yields at least the columns of need. ordered says
// whether its rows come in the order that was wanted.
func (b *builder) build(n logical.Node, need logical.Set, want *order) (node physical.Node, ordered bool, err error) {
	switch v := n.(type) {
	case *logical.Scan:
		return b.access(v, nil, need, want)
	case *logical.Filter:
		return b.filter(v, need, want)
	case *logical.VirtualScan, *logical.CTEScan:
		node, err = b.leaf(v, nil, need)
	case *logical.Values:
		node, err = b.values(v)
	case *logical.FuncScan:
		node, err = b.funcScan(v)
	case *logical.Project:
		return b.project(v, need, want)
	case *logical.ProjectSet:
		node, err = b.projectSet(v, need)
	case *logical.Join:
		node, err = b.join(v, nil, need)
	case *logical.Agg:
		node, err = b.agg(v, need)
	case *logical.Sort:
		return b.sort(v, need, want)
	case *logical.Limit:
		return b.limit(v, need)
	case *logical.Distinct:
		return b.distinct(v, need, want)
	case *logical.SetOp:
		node, err = b.setOp(v)
	case *logical.LockRows:
		return b.lockRows(v, need, want)
	case *logical.Window:
		node, err = b.window(v, need)
	case *logical.Insert:
		node, err = b.insert(v)
	case *logical.Update:
		node, err = b.update(v)
	case *logical.Delete:
		node, err = b.delete(v)
	default:
		err = internal("no plan for %T", n)
	}
	return node, false, err
}

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
