package opt

import (
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
)

// each calls f for n and every node below it, those of subqueries too.
func each(n logical.Node, f func(logical.Node)) {
	f(n)
	for _, s := range logical.Subqueries(n) {
		if sub, ok := s.Plan.(logical.Node); ok {
			each(sub, f)
		}
	}
	for _, in := range n.Inputs() {
		each(in, f)
	}
}

// inlineCTEs puts WITH queries that are read once, and have no effects, where they are read,
// so that conditions reach their tables. It returns those that stay.
func inlineCTEs(q *logical.Query) []*logical.CTE {
	refs := map[*logical.CTE]int{}
	count := func(n logical.Node) {
		if s, ok := n.(*logical.CTEScan); ok && !s.Work {
			refs[s.CTE]++
		}
	}
	each(q.Root, count)
	for _, c := range q.CTEs {
		each(c.Plan, count)
		if c.Step != nil {
			each(c.Step, count)
		}
	}
	inline := map[*logical.CTE]bool{}
	var stay []*logical.CTE
	for _, c := range q.CTEs {
		switch {
		case c.DML:
			stay = append(stay, c)
		case refs[c] == 0:
			// Nobody reads it: PostgreSQL doesn't run it either.
		case refs[c] == 1 && c.Step == nil && !volatile(c.Plan):
			inline[c] = true
		default:
			stay = append(stay, c)
		}
	}
	if len(inline) > 0 {
		q.Root = replaceCTEs(q.Root, inline)
		for _, c := range stay {
			c.Plan = replaceCTEs(c.Plan, inline)
			if c.Step != nil {
				c.Step = replaceCTEs(c.Step, inline)
			}
		}
	}
	return stay
}

func volatile(n logical.Node) bool {
	v := false
	each(n, func(n logical.Node) {
		for _, e := range logical.AllExprs(n) {
			v = v || expr.IsVolatile(e)
		}
		if _, ok := n.(*logical.LockRows); ok {
			v = true
		}
	})
	return v
}

func replaceCTEs(n logical.Node, inline map[*logical.CTE]bool) logical.Node {
	if s, ok := n.(*logical.CTEScan); ok && inline[s.CTE] && !s.Work {
		p := &logical.Project{In: replaceCTEs(s.CTE.Plan, inline), Columns: s.Columns}
		for i := range s.Columns {
			p.Exprs = append(p.Exprs, s.CTE.Plan.Cols()[i].Ref())
		}
		return p
	}
	for _, s := range logical.Subqueries(n) {
		if sub, ok := s.Plan.(logical.Node); ok {
			s.Plan = replaceCTEs(sub, inline)
		}
	}
	logical.MapInputs(n, func(in logical.Node) logical.Node { return replaceCTEs(in, inline) })
	return n
}
