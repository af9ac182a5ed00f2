package bind

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

// winCall is a window function while its query level is bound.
type winCall struct {
	call      *logical.WindowCall
	partition []expr.Expr
	order     []logical.SortKey
}

// each applies f to the call's expressions in place.
func (w *winCall) each(f func(e *expr.Expr, loc int32) error) error {
	for i := range w.call.Args {
		if err := f(&w.call.Args[i], -1); err != nil {
			return err
		}
	}
	if a := w.call.Agg; a != nil {
		for i := range a.Args {
			if err := f(&a.Args[i], -1); err != nil {
				return err
			}
		}
		if a.Filter != nil {
			if err := f(&a.Filter, -1); err != nil {
				return err
			}
		}
	}
	for i := range w.partition {
		if err := f(&w.partition[i], -1); err != nil {
			return err
		}
	}
	for i := range w.order {
		if err := f(&w.order[i].Expr, -1); err != nil {
			return err
		}
	}
	return nil
}

var windowKinds = map[string]logical.WindowKind{
	"row_number": logical.RowNumber, "rank": logical.Rank, "dense_rank": logical.DenseRank,
	"percent_rank": logical.PercentRank, "cume_dist": logical.CumeDist, "ntile": logical.Ntile,
	"lag": logical.Lag, "lead": logical.Lead,
	"first_value": logical.FirstValue, "last_value": logical.LastValue, "nth_value": logical.NthValue,
}

// window registers a window function of the query level.
func (b *Binder) window(x *exprCtx, n *ast.FuncCall, name string, c *candidate, args []expr.Expr) (expr.Expr, error) {
	w := &winCall{}
	if c.kind == 'a' {
		call, err := b.aggCall(x, n, name, c, args)
		if err != nil {
			return nil, err
		}
		if call.Distinct {
			return nil, b.errorf(n.Location, pgerrcode.FeatureNotSupported, "DISTINCT is not implemented for window functions")
		}
		if len(call.Order) > 0 {
			return nil, b.errorf(n.Location, pgerrcode.FeatureNotSupported, "aggregate ORDER BY is not implemented for window functions")
		}
		w.call = &logical.WindowCall{Col: call.Col, Name: name, Agg: call}
	} else {
		kind, ok := windowKinds[name]
		if !ok {
			return nil, b.errorf(n.Location, pgerrcode.WrongObjectType, "OVER specified, but %s is not a window function nor an aggregate function", name)
		}
		cargs, result, err := b.coerceArgs(c, args, n.Location)
		if err != nil {
			return nil, err
		}
		w.call = &logical.WindowCall{Col: logical.Column{ID: b.newID(), Name: name, Typ: result, Mod: -1}, Name: name, Kind: kind, Args: cargs}
	}
	if err := b.windowDef(x, n.Over, w); err != nil {
		return nil, err
	}
	x.level.wins = append(x.level.wins, w)
	return w.call.Col.Ref(), nil
}

// windowDef binds OVER (...), or the WINDOW clause's definition that it names.
func (b *Binder) windowDef(x *exprCtx, d *ast.WindowDef, w *winCall) error {
	base := d
	name := d.Name
	if name == "" {
		name = d.Refname
	}
	var ref *ast.WindowDef
	if name != "" {
		if ref = x.level.windows[name]; ref == nil {
			return b.errorf(d.Location, pgerrcode.UndefinedObject, "window \"%s\" does not exist", name)
		}
		if d.Name != "" {
			base, ref = ref, nil
			if base.Refname != "" {
				ref = x.level.windows[base.Refname]
			}
		}
	}
	part, order := base.PartitionClause, base.OrderClause
	if ref != nil {
		if len(part) > 0 {
			return b.errorf(d.Location, pgerrcode.WindowingError, "cannot override PARTITION BY clause of window \"%s\"", name)
		}
		part = ref.PartitionClause
		if len(ref.OrderClause) > 0 {
			if len(order) > 0 {
				return b.errorf(d.Location, pgerrcode.WindowingError, "cannot override ORDER BY clause of window \"%s\"", name)
			}
			order = ref.OrderClause
		}
	}
	inner := *x
	inner.wins, inner.srfs = false, false
	inner.clause = "window definitions"
	for _, p := range part {
		e, err := b.expr(&inner, p)
		if err != nil {
			return err
		}
		if e, err = b.textIfUnknown(e); err != nil {
			return err
		}
		w.partition = append(w.partition, e)
	}
	for _, o := range order {
		e, err := b.expr(&inner, o.GetSortBy().Node)
		if err != nil {
			return err
		}
		if e, err = b.textIfUnknown(e); err != nil {
			return err
		}
		w.order = append(w.order, sortKey(o.GetSortBy(), e))
	}
	return b.frame(&inner, base, w)
}

// The bits of PostgreSQL's frameOptions.
const (
	frameRange          = 0x00002
	frameRows           = 0x00004
	frameGroups         = 0x00008
	frameStartUnbounded = 0x00020
	frameEndUnbounded   = 0x00100
	frameStartCurrent   = 0x00200
	frameEndCurrent     = 0x00400
	frameStartOffPrec   = 0x00800
	frameEndOffPrec     = 0x01000
	frameStartOffFoll   = 0x02000
	frameEndOffFoll     = 0x04000
	frameExclude        = 0x38000
)

func (b *Binder) frame(x *exprCtx, d *ast.WindowDef, w *winCall) error {
	f := &w.call.Frame
	o := d.FrameOptions
	f.Mode = 'r'
	switch {
	case o&frameRows != 0:
		f.Mode = 'o'
	case o&frameGroups != 0:
		f.Mode = 'g'
	}
	if o&frameExclude != 0 {
		return b.unsupported(d.Location, "EXCLUDE in a window frame")
	}
	f.Start, f.End = logical.UnboundedPreceding, logical.CurrentRow
	switch {
	case o&frameStartCurrent != 0:
		f.Start = logical.CurrentRow
	case o&frameStartOffPrec != 0:
		f.Start = logical.OffsetPreceding
	case o&frameStartOffFoll != 0:
		f.Start = logical.OffsetFollowing
	}
	switch {
	case o&frameEndUnbounded != 0:
		f.End = logical.UnboundedFollowing
	case o&frameEndOffPrec != 0:
		f.End = logical.OffsetPreceding
	case o&frameEndOffFoll != 0:
		f.End = logical.OffsetFollowing
	}
	bind := func(n *ast.Node) (expr.Expr, error) {
		if n == nil {
			return nil, nil
		}
		if f.Mode != 'o' {
			return nil, b.unsupported(d.Location, "an offset in a RANGE or GROUPS frame")
		}
		e, err := b.expr(&exprCtx{scope: &scope{parent: x.scope.parent}, clause: "ROWS"}, n)
		if err != nil {
			return nil, err
		}
		return b.mustCoerce(e, types.OIDInt8, -1, implicit, location(n))
	}
	var err error
	if f.StartOffset, err = bind(d.StartOffset); err != nil {
		return err
	}
	f.EndOffset, err = bind(d.EndOffset)
	return err
}

// windowNodes adds a Window for each set of calls that share partitioning and order.
func (b *Binder) windowNodes(q *selectBody) error {
	left := q.lv.wins
	for len(left) > 0 {
		w := &logical.Window{In: q.node, Partition: left[0].partition, Order: left[0].order}
		var rest []*winCall
		for _, c := range left {
			if sameWindow(c, left[0]) {
				w.Calls = append(w.Calls, c.call)
			} else {
				rest = append(rest, c)
			}
		}
		q.node, left = w, rest
	}
	return nil
}

func sameWindow(a, c *winCall) bool {
	if len(a.partition) != len(c.partition) || len(a.order) != len(c.order) {
		return false
	}
	for i := range a.partition {
		if !equalExpr(a.partition[i], c.partition[i]) {
			return false
		}
	}
	for i := range a.order {
		if !equalExpr(a.order[i].Expr, c.order[i].Expr) || a.order[i].Desc != c.order[i].Desc || a.order[i].NullsFirst != c.order[i].NullsFirst {
			return false
		}
	}
	return true
}
