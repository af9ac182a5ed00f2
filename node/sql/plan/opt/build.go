package opt

import (
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
