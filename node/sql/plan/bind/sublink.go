package bind

import (
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

// subLink binds a subquery in an expression.
func (b *Binder) subLink(x *exprCtx, n *ast.SubLink) (expr.Expr, error) {
	sel := n.Subselect.GetSelectStmt()
	if sel == nil {
		return nil, b.unsupported(n.Location, "this kind of subquery")
	}
	if x.clause == "DEFAULT expressions" || x.clause == "check constraints" {
		return nil, b.errorf(n.Location, pgerrcode.FeatureNotSupported, "cannot use subquery in %s", strings.TrimSuffix(x.clause, "s"))
	}
	q, err := b.subquery(sel, x.scope)
	if err != nil {
		return nil, err
	}
	b.nsub++
	s := &expr.Subquery{Number: b.nsub, Plan: q.node, TMod: -1, Typ: types.OIDBool}
	switch n.SubLinkType {
	case ast.SubLinkType_EXISTS_SUBLINK:
		s.Kind = expr.ExistsSubquery
		return s, nil
	case ast.SubLinkType_EXPR_SUBLINK, ast.SubLinkType_ARRAY_SUBLINK:
		if len(q.cols) != 1 {
			return nil, b.errorf(n.Location, pgerrcode.SyntaxError, "subquery must return only one column")
		}
		s.Typ, s.TMod = q.cols[0].Typ, q.cols[0].Mod
		if n.SubLinkType == ast.SubLinkType_ARRAY_SUBLINK {
			s.Kind, s.Elem, s.TMod = expr.ArraySubquery, q.cols[0].Typ, -1
			if s.Typ = arrayType(s.Elem); s.Typ == 0 {
				return nil, b.errorf(n.Location, pgerrcode.UndefinedObject, "could not find array type for data type %s", typeName(s.Elem))
			}
			if elemType(s.Elem) != 0 {
				return nil, b.unsupported(n.Location, "ARRAY(SELECT an array)")
			}
		}
		return s, nil
	case ast.SubLinkType_ANY_SUBLINK, ast.SubLinkType_ALL_SUBLINK:
		return b.quantified(x, n, q, s)
	}
	return nil, b.unsupported(n.Location, "this kind of subquery")
}

// subquery binds a nested SELECT whose output columns are exactly its plan's.
func (b *Binder) subquery(sel *ast.SelectStmt, outer *scope) (*query, error) {
	q, err := b.selectStmt(sel, outer)
	if err != nil {
		return nil, err
	}
	if err := b.resolveUnknown(q); err != nil {
		return nil, err
	}
	q.trim()
	return q, nil
}

// quantified binds x IN (SELECT), x op ANY (SELECT) and x op ALL (SELECT).
func (b *Binder) quantified(x *exprCtx, n *ast.SubLink, q *query, s *expr.Subquery) (expr.Expr, error) {
	op := "="
	if l := names(n.OperName); len(l) > 0 {
		op = l[len(l)-1]
	}
	s.Kind = expr.AnySubquery
	if n.SubLinkType == ast.SubLinkType_ALL_SUBLINK {
		s.Kind = expr.AllSubquery
	}
	left, err := b.expr(x, n.Testexpr)
	if err != nil {
		return nil, err
	}
	tests := []expr.Expr{left}
	if r, ok := left.(*expr.Row); ok && isRow(n.Testexpr) {
		tests = r.Args
	}
	switch {
	case len(tests) < len(q.cols):
		return nil, b.errorf(n.Location, pgerrcode.SyntaxError, "subquery has too many columns")
	case len(tests) > len(q.cols):
		return nil, b.errorf(n.Location, pgerrcode.SyntaxError, "subquery has too few columns")
	}
	rights := make([]expr.Expr, len(q.cols))
	for i, c := range q.cols {
		rights[i] = c.Ref()
	}
	if len(tests) > 1 && op != "=" && op != "<>" {
		return nil, b.unsupported(n.Location, "row comparison by %s with a subquery", op)
	}
	var cmps []expr.Expr
	s.Hash = op == "="
	for i := range tests {
		cl, cr, cmp, err := b.pairOperator(op, tests[i], rights[i], n.Location)
		if err != nil {
			return nil, err
		}
		s.Hash = s.Hash && isPlainEq(cmp) && cmpFamily(cl.Type()) != 'c' && cr == rights[i]
		if cr != rights[i] {
			cmp = castSecond(cmp, rights[i], cr)
		}
		// The row is all test values, then all columns.
		k := i
		cmp, _ = expr.Rewrite(cmp, func(e expr.Expr) (expr.Expr, error) {
			if sl, ok := e.(*expr.Slot); ok {
				m := *sl
				if sl.Index == 0 {
					m.Index = k
				} else {
					m.Index = len(tests) + k
				}
				return &m, nil
			}
			return e, nil
		})
		s.Test, cmps = append(s.Test, cl), append(cmps, cmp)
	}
	if op == "<>" && len(cmps) > 1 {
		s.Cmp = &expr.Or{Args: cmps}
	} else {
		s.Cmp = expr.Conjunction(cmps)
	}
	return s, nil
}

// castSecond puts the cast that turned operand into casted over the second slot of cmp.
func castSecond(cmp, operand, casted expr.Expr) expr.Expr {
	slot := &expr.Slot{Index: 1, Col: &expr.Col{Typ: operand.Type(), TMod: operand.Mod()}}
	cast, _ := expr.Rewrite(casted, func(e expr.Expr) (expr.Expr, error) {
		if e == operand {
			return slot, nil
		}
		return e, nil
	})
	out, _ := expr.Rewrite(cmp, func(e expr.Expr) (expr.Expr, error) {
		if s, ok := e.(*expr.Slot); ok && s.Index == 1 {
			return cast, nil
		}
		return e, nil
	})
	return out
}

// rowSubquery binds (a, b) = (SELECT x, y).
func (b *Binder) rowSubquery(x *exprCtx, op string, n *ast.A_Expr, sub *ast.SubLink) (expr.Expr, error) {
	if op != "=" {
		return nil, b.unsupported(n.Location, "row comparison by %s with a subquery", op)
	}
	q, err := b.subquery(sub.Subselect.GetSelectStmt(), x.scope)
	if err != nil {
		return nil, err
	}
	// The subquery's row becomes one record, compared field by field by an ANY that fails on
	// a second row: LIMIT 2 keeps it cheap, the scalar form checks the count.
	return nil, b.unsupported(n.Location, "comparing a row with a subquery of %d columns; use IN", len(q.cols))
}

// equalExpr says whether two expressions are the same: GROUP BY matching, DISTINCT.
func equalExpr(a, c expr.Expr) bool { return logical.EqualExpr(a, c) }
