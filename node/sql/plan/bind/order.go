package bind

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

type sortItem struct {
	pos int // in targets, then junk
	sb  *ast.SortBy
}

// find returns the position of an expression among targets and junk, adding it as junk.
func (q *selectBody) find(e expr.Expr, loc int32) int {
	for i, t := range q.targets {
		if equalExpr(t.e, e) && !expr.IsVolatile(e) {
			return i
		}
	}
	for i, t := range q.junk {
		if equalExpr(t.e, e) && !expr.IsVolatile(e) {
			return len(q.targets) + i
		}
	}
	name := "?column?"
	if c, ok := e.(*expr.Col); ok {
		name = c.Name
	}
	q.junk = append(q.junk, target{name: name, e: e, loc: loc})
	return len(q.targets) + len(q.junk) - 1
}

// outputItem resolves an item of ORDER BY or DISTINCT ON.
func (b *Binder) outputItem(q *selectBody, n *ast.Node, clause string) (int, error) {
	cols := make([]logical.Column, len(q.targets))
	for i, t := range q.targets {
		cols[i].Name = t.name
	}
	pos, err := b.outputPosition(n, cols, clause)
	if err != nil {
		return 0, err
	}
	if pos <= -2 {
		first := -2 - pos
		for i, t := range q.targets {
			if i != first && t.name == q.targets[first].name && !equalExpr(t.e, q.targets[first].e) {
				return 0, b.errorf(location(n), pgerrcode.AmbiguousColumn, "%s \"%s\" is ambiguous", clause, t.name)
			}
		}
		pos = first
	}
	if pos >= 0 {
		return pos, nil
	}
	x := &exprCtx{scope: q.sc, clause: clause, level: q.lv, aggs: true, srfs: true, wins: true}
	e, err := b.expr(x, n)
	if err != nil {
		return 0, err
	}
	if e, err = b.textIfUnknown(e); err != nil {
		return 0, err
	}
	return q.find(e, location(n)), nil
}

func (b *Binder) bindOrder(q *selectBody) error {
	for _, n := range q.s.SortClause {
		sb := n.GetSortBy()
		if len(sb.UseOp) > 0 {
			return b.unsupported(sb.Location, "ORDER BY USING")
		}
		before := len(q.junk)
		pos, err := b.outputItem(q, sb.Node, "ORDER BY")
		if err != nil {
			return err
		}
		if len(q.junk) > before && len(q.s.DistinctClause) == 1 && q.s.DistinctClause[0].GetNode() == nil {
			return b.errorf(location(sb.Node), pgerrcode.InvalidColumnReference, "for SELECT DISTINCT, ORDER BY expressions must appear in select list")
		}
		if pos < len(q.targets) && q.targets[pos].e.Type() == types.OIDUnknown {
			if q.targets[pos].e, err = b.textIfUnknown(q.targets[pos].e); err != nil {
				return err
			}
		}
		if err := b.orderable(q.at(pos).e.Type(), location(sb.Node)); err != nil {
			return err
		}
		q.sort = append(q.sort, sortItem{pos, sb})
	}
	return nil
}

func (q *selectBody) at(pos int) *target {
	if pos < len(q.targets) {
		return &q.targets[pos]
	}
	return &q.junk[pos-len(q.targets)]
}

// orderable refuses types without an order.
func (b *Binder) orderable(t types.OID, loc int32) error {
	switch t {
	case types.OIDJSON, types.OIDXML, types.OIDACLItem:
		return b.errorf(loc, pgerrcode.UndefinedFunction, "could not identify an ordering operator for type %s", typeName(t)).
			WithHint("Use an explicit ordering operator or modify the query.")
	}
	return nil
}

func (b *Binder) equatable(t types.OID, loc int32) error {
	if t == types.OIDJSON || t == types.OIDXML {
		return b.errorf(loc, pgerrcode.UndefinedFunction, "could not identify an equality operator for type %s", typeName(t))
	}
	return nil
}

func (b *Binder) bindDistinctOn(q *selectBody) error {
	if len(q.s.DistinctClause) == 0 {
		return nil
	}
	if q.s.DistinctClause[0].GetNode() == nil {
		for _, t := range q.targets {
			if err := b.equatable(t.e.Type(), t.loc); err != nil {
				return err
			}
		}
		return nil
	}
	for _, n := range q.s.DistinctClause {
		pos, err := b.outputItem(q, n, "DISTINCT ON")
		if err != nil {
			return err
		}
		q.on = append(q.on, pos)
	}
	// The leading ORDER BY items must be the DISTINCT ON ones, in any order.
	at := map[int]int32{} // where each stands in the text
	for i, p := range q.on {
		if _, dup := at[p]; !dup {
			at[p] = location(q.s.DistinctClause[i])
		}
	}
	first := len(q.on)
	for i, it := range q.sort {
		if _, ok := at[it.pos]; !ok {
			first = min(first, i)
		}
	}
	for _, p := range q.on {
		leading := len(q.sort) <= first // all items of ORDER BY are DISTINCT ON's
		for i := 0; i < len(q.sort) && i < first; i++ {
			leading = leading || q.sort[i].pos == p
		}
		if !leading {
			return b.errorf(at[p], pgerrcode.InvalidColumnReference, "SELECT DISTINCT ON expressions must match initial ORDER BY expressions")
		}
	}
	return nil
}
