package plan

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
)

// Actual is what EXPLAIN ANALYZE measured of an operator.
type Actual struct {
	Rows, Loops    int64
	Startup, Total time.Duration
}

// shown is a node of EXPLAIN's output.
type shown struct {
	node  physical.Node
	title string
	props []prop
	kids  []*shown
	label string // "SubPlan 1", "CTE x"
}

type prop struct{ name, value string }

type explainer struct {
	p      *Plan
	env    *types.Env
	actual func(id int) *Actual
	// prefix: columns are shown with their table, as PostgreSQL does when there are several.
	prefix bool
}

// relations counts what a plan reads from.
func relations(p *Plan) int {
	n := 0
	var walk func(physical.Node)
	walk = func(in physical.Node) {
		switch in.(type) {
		case *physical.Scan, *physical.Virtual, *physical.Values, *physical.FuncScan, *physical.CTEScan, *physical.LookupJoin:
			n++
		}
		for _, k := range in.Inputs() {
			walk(k)
		}
	}
	walk(p.Physical.Root)
	for _, c := range p.Physical.CTEs {
		walk(c.Plan)
	}
	for _, s := range p.Physical.Subplans {
		walk(s.Plan.(physical.Node))
	}
	return n
}

// ExplainText prints a plan as PostgreSQL does.
func ExplainText(p *Plan, env *types.Env, actual func(id int) *Actual) []string {
	x := &explainer{p: p, env: env, actual: actual, prefix: relations(p) > 1 || p.Explain.Verbose}
	var out []string
	x.print(&out, x.tree(), 0, true)
	return out
}

// ExplainJSON prints a plan as PostgreSQL's FORMAT JSON does.
func ExplainJSON(p *Plan, env *types.Env, actual func(id int) *Actual) string {
	x := &explainer{p: p, env: env, actual: actual, prefix: relations(p) > 1 || p.Explain.Verbose}
	b, err := json.MarshalIndent([]any{map[string]any{"Plan": x.object(x.tree())}}, "", "  ")
	if err != nil {
		return "[]"
	}
	return string(b)
}

func (x *explainer) tree() *shown {
	root := x.show(x.p.Physical.Root)
	for _, c := range x.p.Physical.CTEs {
		k := x.show(c.Plan)
		k.label = "CTE " + c.Name
		root.kids = append(root.kids, k)
	}
	for _, s := range x.p.Physical.Subplans {
		k := x.show(s.Plan.(physical.Node))
		k.label = fmt.Sprintf("SubPlan %d", s.Number)
		if !s.Correlated {
			k.label = fmt.Sprintf("InitPlan %d", s.Number)
		}
		root.kids = append(root.kids, k)
	}
	return root
}

func (x *explainer) print(out *[]string, s *shown, depth int, first bool) {
	indent := strings.Repeat("  ", depth)
	head := indent
	if !first {
		if s.label != "" {
			*out = append(*out, indent+s.label)
			indent += "  "
		}
		head = indent + "->  "
		indent += "    "
	}
	b := s.node.Info()
	line := head + s.title
	if x.p.Explain.Costs {
		line += fmt.Sprintf("  (cost=%.2f..%.2f rows=%.0f width=%d)", b.Startup, b.Cost, b.Rows, width(b.Cols))
	}
	if x.actual != nil {
		a := x.actual(b.ID)
		switch {
		case a.Loops == 0:
			line += " (never executed)"
		case x.p.Explain.Timing:
			n := float64(a.Loops)
			line += fmt.Sprintf(" (actual time=%.3f..%.3f rows=%.0f loops=%d)", ms(a.Startup)/n, ms(a.Total)/n, float64(a.Rows)/n, a.Loops)
		default:
			line += fmt.Sprintf(" (actual rows=%.0f loops=%d)", float64(a.Rows)/float64(a.Loops), a.Loops)
		}
	}
	*out = append(*out, line)
	for _, p := range s.props {
		*out = append(*out, indent+"  "+p.name+": "+p.value)
	}
	for _, k := range s.kids {
		x.print(out, k, len(indent)/2+1, false)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func width(cols []logical.Column) int {
	n := 0
	for _, c := range cols {
		if t, ok := types.Lookup(c.Typ); ok && t.Len > 0 {
			n += int(t.Len)
		} else {
			n += 32
		}
	}
	return n
}

func (x *explainer) object(s *shown) map[string]any {
	b := s.node.Info()
	m := map[string]any{"Node Type": strings.SplitN(s.title, " on ", 2)[0], "Startup Cost": round2(b.Startup), "Total Cost": round2(b.Cost),
		"Plan Rows": int64(b.Rows), "Plan Width": width(b.Cols)}
	if x.actual != nil {
		a := x.actual(b.ID)
		m["Actual Rows"], m["Actual Loops"] = a.Rows, a.Loops
		m["Actual Startup Time"], m["Actual Total Time"] = ms(a.Startup), ms(a.Total)
	}
	for _, p := range s.props {
		m[p.name] = p.value
	}
	var kids []any
	for _, k := range s.kids {
		o := x.object(k)
		if k.label != "" {
			o["Subplan Name"] = k.label
		}
		kids = append(kids, o)
	}
	if kids != nil {
		m["Plans"] = kids
	}
	return m
}

func round2(f float64) float64 { return float64(int64(f*100+0.5)) / 100 }

func (x *explainer) show(n physical.Node) *shown {
	s := &shown{node: n}
	for _, in := range n.Inputs() {
		s.kids = append(s.kids, x.show(in))
	}
	add := func(name string, l []expr.Expr) {
		if len(l) > 0 {
			s.props = append(s.props, prop{name, x.conds(l)})
		}
	}
	switch v := n.(type) {
	case *physical.Scan:
		x.scan(s, v)
	case *physical.Virtual:
		s.title = "Virtual Table Scan on " + aliased(v.Table.Name(), v.Alias)
		add("Filter", v.Filter)
	case *physical.Values:
		s.title = "Values Scan on \"*VALUES*\""
		if len(v.Rows) == 1 {
			s.title = "Result"
		}
	case *physical.FuncScan:
		s.title = "Function Scan on " + aliased(v.Funcs[0].Name, v.Alias)
	case *physical.ProjectSet:
		s.title = "ProjectSet"
	case *physical.Filter:
		s.title = "Result"
		add("Filter", v.Preds)
	case *physical.Project:
		s.title = "Result"
		if x.p.Explain.Verbose {
			s.props = append(s.props, prop{"Output", x.list(v.Exprs)})
		} else {
			return s.kids[0] // PostgreSQL projects inside its other nodes
		}
	case *physical.HashJoin:
		s.title = "Hash" + joinName(v.Kind)
		var l []string
		for i := range v.LKeys {
			l = append(l, fmt.Sprintf("(%s = %s)", x.expr(v.LKeys[i]), x.expr(v.RKeys[i])))
		}
		s.props = append(s.props, prop{"Hash Cond", and(l)})
		add("Join Filter", v.Residual)
	case *physical.NestLoop:
		s.title = "Nested Loop" + strings.TrimSuffix(joinName(v.Kind), " Join")
		add("Join Filter", v.On)
	case *physical.LookupJoin:
		s.title = "Lookup" + joinName(v.Kind)
		var l []string
		for i, k := range v.Key {
			if c := v.Scan.Table.ColumnByID(v.Scan.Index.Columns[i].Column); c != nil {
				l = append(l, fmt.Sprintf("(%s = %s)", c.Name, x.expr(k)))
			}
		}
		s.props = append(s.props, prop{"Lookup Cond", and(l)})
		add("Join Filter", v.On)
	case *physical.Agg:
		s.title = "HashAggregate"
		if v.Scalar {
			s.title = "Aggregate"
		}
		if len(v.Keys) > 0 {
			s.props = append(s.props, prop{"Group Key", x.list(v.Keys)})
		}
	case *physical.Sort:
		s.title = "Sort"
		if v.Top != nil {
			s.title = "Top-N Sort"
		}
		s.props = append(s.props, prop{"Sort Key", x.keys(v.Keys)})
	case *physical.Limit:
		s.title = "Limit"
	case *physical.Distinct:
		s.title = "HashAggregate"
		var l []string
		for _, c := range v.On {
			l = append(l, v.In.Info().Cols[c].Name)
		}
		s.props = append(s.props, prop{"Group Key", strings.Join(l, ", ")})
	case *physical.SetOp:
		s.title = [...]string{"Append", "HashSetOp Intersect", "HashSetOp Except"}[v.Kind]
		if v.All && v.Kind != logical.Union {
			s.title += " All"
		} else if !v.All && v.Kind == logical.Union {
			s.title = "HashAggregate over Append"
		}
	case *physical.CTEScan:
		s.title = "CTE Scan on " + aliased(v.CTE.Name, v.Alias)
		if v.Work {
			s.title = "WorkTable Scan on " + aliased(v.CTE.Name, v.Alias)
		}
		add("Filter", v.Filter)
	case *physical.LockRows:
		s.title = "LockRows"
	case *physical.Window:
		s.title = "WindowAgg"
	case *physical.Insert:
		s.title = "Insert on " + v.Table.Name
		if c := v.Conflict; c != nil {
			what := "NOTHING"
			if c.Update {
				what = "UPDATE"
			}
			s.props = append(s.props, prop{"Conflict Resolution", what})
		}
	case *physical.Update:
		s.title = "Update on " + v.Table.Name
	case *physical.Delete:
		s.title = "Delete on " + v.Table.Name
	default:
		s.title = fmt.Sprintf("%T", n)
	}
	return s
}

func joinName(k logical.JoinKind) string {
	return [...]string{" Join", " Left Join", " Right Join", " Full Join", " Semi Join", " Anti Join"}[k]
}

func aliased(name, alias string) string {
	if alias == "" || alias == name {
		return name
	}
	return name + " " + alias
}

func (x *explainer) scan(s *shown, v *physical.Scan) {
	on := aliased(v.Table.Name, v.Alias)
	back := ""
	if v.Reverse {
		back = " Backward"
	}
	whole := !v.Range.Point && len(v.Range.Eq) == 0 && v.Range.Lower == nil && v.Range.Upper == nil
	name := v.Index.Name
	if name == "" {
		name = "rowid"
	}
	switch {
	case whole && v.Index.Primary && !v.Ordered:
		s.title = "Seq Scan on " + on
	case !v.Index.Primary && !v.Primary:
		s.title = fmt.Sprintf("Index Only Scan%s using %s on %s", back, name, on)
	default:
		s.title = fmt.Sprintf("Index Scan%s using %s on %s", back, name, on)
	}
	if len(v.Conds) > 0 {
		s.props = append(s.props, prop{"Index Cond", x.indexConds(v.Conds)})
	}
	if len(v.Filter) > 0 {
		s.props = append(s.props, prop{"Filter", x.conds(v.Filter)})
	}
	if v.Lock.Strength != kv.LockNone {
		what := "shared"
		if v.Lock.Strength == kv.LockExclusive {
			what = "exclusive"
		}
		s.props = append(s.props, prop{"Row Locks", what})
	}
}

func (x *explainer) conds(l []expr.Expr) string {
	var out []string
	for _, e := range l {
		t := x.expr(e)
		if !strings.HasPrefix(t, "(") {
			t = "(" + t + ")"
		}
		out = append(out, t)
	}
	return and(out)
}

// indexConds shows conditions on an index: its own columns (slots) never have a prefix.
func (x *explainer) indexConds(l []expr.Expr) string {
	out := make([]expr.Expr, len(l))
	for i, e := range l {
		out[i], _ = expr.Rewrite(e, func(e expr.Expr) (expr.Expr, error) {
			sl, ok := e.(*expr.Slot)
			if !ok {
				return e, nil
			}
			c := *sl.Col
			c.Name = c.Name[strings.LastIndexByte(c.Name, '.')+1:]
			return &expr.Slot{Index: sl.Index, Col: &c}, nil
		})
	}
	return x.conds(out)
}

func and(l []string) string {
	if len(l) == 1 {
		return l[0]
	}
	return "(" + strings.Join(l, " AND ") + ")"
}

func (x *explainer) list(l []expr.Expr) string {
	var out []string
	for _, e := range l {
		out = append(out, x.expr(e))
	}
	return strings.Join(out, ", ")
}

func (x *explainer) keys(l []physical.SortKey) string {
	var out []string
	for _, k := range l {
		t := x.expr(k.Expr)
		if k.Desc {
			t += " DESC"
		}
		if k.NullsFirst != k.Desc {
			t += map[bool]string{true: " NULLS FIRST", false: " NULLS LAST"}[k.NullsFirst]
		}
		out = append(out, t)
	}
	return strings.Join(out, ", ")
}

func (x *explainer) expr(e expr.Expr) string {
	if x.prefix {
		return expr.Text(e, x.env)
	}
	return expr.TextColumns(e, x.env)
}
