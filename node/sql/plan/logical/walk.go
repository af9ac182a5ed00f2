package logical

import (
	"reflect"

	"github.com/atolldb/atoll/node/sql/plan/expr"
)

// Set is a set of columns.
type Set map[expr.ColID]struct{}

// Has reports whether id is in the set.
func (s Set) Has(id expr.ColID) bool { _, ok := s[id]; return ok }

// Add adds columns.
func (s Set) Add(cols ...Column) {
	for _, c := range cols {
		s[c.ID] = struct{}{}
	}
}

// Contains reports whether all of o is in s.
func (s Set) Contains(o Set) bool {
	for id := range o {
		if !s.Has(id) {
			return false
		}
	}
	return true
}

// Intersects reports whether the sets share a column.
func (s Set) Intersects(o Set) bool {
	for id := range o {
		if s.Has(id) {
			return true
		}
	}
	return false
}

// ColSet returns the set of columns that a node yields.
func ColSet(n Node) Set {
	s := Set{}
	s.Add(n.Cols()...)
	return s
}

// FreeExpr returns the columns that an expression refers to: those of its own query level
// and, through subqueries, those that they take from outside.
func FreeExpr(e expr.Expr) Set {
	s := Set{}
	addFree(s, e)
	return s
}

func addFree(s Set, e expr.Expr) {
	if e == nil {
		return
	}
	expr.Walk(e, func(x expr.Expr) bool {
		switch v := x.(type) {
		case *expr.Col:
			s[v.ID] = struct{}{}
		case *expr.Subquery:
			if n, ok := v.Plan.(Node); ok {
				for id := range Free(n) {
					s[id] = struct{}{}
				}
			}
		}
		return true
	})
}

// Free returns the columns that a node's tree refers to and does not yield itself.
func Free(n Node) Set {
	used, made := Set{}, Set{}
	collect(n, used, made)
	for id := range made {
		delete(used, id)
	}
	return used
}

func collect(n Node, used, made Set) {
	made.Add(n.Cols()...)
	for _, e := range Exprs(n) {
		addFree(used, e)
	}
	if c, ok := n.(*CTEScan); ok && !c.Work {
		// A CTE's plan belongs to the statement; it is closed, except for outer columns.
		for id := range Free(c.CTE.Plan) {
			used[id] = struct{}{}
		}
	}
	for _, in := range n.Inputs() {
		collect(in, used, made)
	}
}

// Exprs returns the scalar expressions of a node itself.
func Exprs(n Node) []expr.Expr {
	var out []expr.Expr
	keys := func(l []SortKey) {
		for _, k := range l {
			out = append(out, k.Expr)
		}
	}
	agg := func(c *AggCall) {
		out = append(out, c.Args...)
		if c.Filter != nil {
			out = append(out, c.Filter)
		}
		keys(c.Order)
	}
	sets := func(l []*SetFunc) {
		for _, f := range l {
			out = append(out, f.Args...)
			if f.Scalar != nil {
				out = append(out, f.Scalar)
			}
		}
	}
	switch v := n.(type) {
	case *Values:
		for _, r := range v.Rows {
			out = append(out, r...)
		}
	case *FuncScan:
		sets(v.Funcs)
	case *Filter:
		out = append(out, v.Preds...)
	case *Project:
		out = append(out, v.Exprs...)
	case *ProjectSet:
		sets(v.Funcs)
	case *Join:
		out = append(out, v.On...)
	case *Agg:
		out = append(out, v.KeyExprs...)
		for _, c := range v.Calls {
			agg(c)
		}
	case *Sort:
		keys(v.Keys)
	case *Limit:
		if v.Count != nil {
			out = append(out, v.Count)
		}
		if v.Offset != nil {
			out = append(out, v.Offset)
		}
	case *Window:
		out = append(out, v.Partition...)
		keys(v.Order)
		for _, c := range v.Calls {
			out = append(out, c.Args...)
			if c.Agg != nil {
				agg(c.Agg)
			}
		}
	}
	return out
}

// EqualExpr says whether two expressions are the same tree. Subqueries are equal only to
// themselves.
func EqualExpr(a, b expr.Expr) bool {
	if a == b {
		return true
	}
	if a == nil || b == nil || reflect.TypeOf(a) != reflect.TypeOf(b) || a.Type() != b.Type() {
		return false
	}
	switch x := a.(type) {
	case *expr.Col:
		return x.ID == b.(*expr.Col).ID
	case *expr.Const:
		y := b.(*expr.Const)
		return x.Val.IsNull() == y.Val.IsNull() && string(expr.AppendHashKey(nil, x.Val)) == string(expr.AppendHashKey(nil, y.Val)) && x.TMod == y.TMod
	case *expr.Param:
		return x.Number == b.(*expr.Param).Number
	case *expr.Slot:
		return x.Index == b.(*expr.Slot).Index
	case *expr.Subquery:
		return false
	case *expr.Call:
		y := b.(*expr.Call)
		if x.OID != y.OID || x.Name != y.Name || x.Op != y.Op || x.TMod != y.TMod {
			return false
		}
	case *expr.Compare:
		if x.Op != b.(*expr.Compare).Op {
			return false
		}
	case *expr.IsNull:
		if x.Neg != b.(*expr.IsNull).Neg {
			return false
		}
	case *expr.BoolTest:
		y := b.(*expr.BoolTest)
		if x.Neg != y.Neg || x.Want != y.Want {
			return false
		}
	case *expr.InList:
		y := b.(*expr.InList)
		if x.Neg != y.Neg || !EqualExpr(x.Cmp, y.Cmp) {
			return false
		}
	case *expr.AnyArray:
		y := b.(*expr.AnyArray)
		if x.All != y.All || !EqualExpr(x.Cmp, y.Cmp) {
			return false
		}
	case *expr.DistinctFrom:
		if x.Neg != b.(*expr.DistinctFrom).Neg {
			return false
		}
	case *expr.MinMax:
		if x.Least != b.(*expr.MinMax).Least {
			return false
		}
	case *expr.Field:
		if x.N != b.(*expr.Field).N {
			return false
		}
	case *expr.Case:
		if (x.Else == nil) != (b.(*expr.Case).Else == nil) {
			return false
		}
	case *expr.SimpleCase:
		y := b.(*expr.SimpleCase)
		if (x.Else == nil) != (y.Else == nil) || len(x.Cmp) != len(y.Cmp) {
			return false
		}
		for i := range x.Cmp {
			if !EqualExpr(x.Cmp[i], y.Cmp[i]) {
				return false
			}
		}
	case *expr.RowCompare:
		if x.Op != b.(*expr.RowCompare).Op {
			return false
		}
	case *expr.Subscript:
		y := b.(*expr.Subscript)
		if x.Slice != y.Slice || len(x.Lower) != len(y.Lower) || len(x.Upper) != len(y.Upper) {
			return false
		}
		for i := range x.Lower {
			if (x.Lower[i] == nil) != (y.Lower[i] == nil) {
				return false
			}
		}
		for i := range x.Upper {
			if (x.Upper[i] == nil) != (y.Upper[i] == nil) {
				return false
			}
		}
	}
	ca, cb := a.Children(), b.Children()
	if len(ca) != len(cb) {
		return false
	}
	for i := range ca {
		if !EqualExpr(ca[i], cb[i]) {
			return false
		}
	}
	return true
}

// MapInputs replaces the inputs of a node in place.
func MapInputs(n Node, f func(Node) Node) {
	switch v := n.(type) {
	case *Filter:
		v.In = f(v.In)
	case *Project:
		v.In = f(v.In)
	case *ProjectSet:
		v.In = f(v.In)
	case *Join:
		v.L, v.R = f(v.L), f(v.R)
	case *Agg:
		v.In = f(v.In)
	case *Sort:
		v.In = f(v.In)
	case *Limit:
		v.In = f(v.In)
	case *Distinct:
		v.In = f(v.In)
	case *SetOp:
		v.L, v.R = f(v.L), f(v.R)
	case *LockRows:
		v.In = f(v.In)
	case *Window:
		v.In = f(v.In)
	case *Insert:
		v.In = f(v.In)
	case *Update:
		v.In = f(v.In)
	case *Delete:
		v.In = f(v.In)
	}
}

// AllExprs is Exprs, with those of statements that write.
func AllExprs(n Node) []expr.Expr {
	out := Exprs(n)
	ret := func(r *Returning) {
		if r != nil {
			out = append(out, r.Exprs...)
		}
	}
	set := func(l []SetCol) {
		for _, s := range l {
			out = append(out, s.Expr)
		}
	}
	switch v := n.(type) {
	case *Insert:
		if c := v.Conflict; c != nil {
			set(c.Set)
			if c.Where != nil {
				out = append(out, c.Where)
			}
		}
		ret(v.Returning)
	case *Update:
		set(v.Set)
		ret(v.Returning)
	case *Delete:
		ret(v.Returning)
	}
	return out
}

// Subqueries returns the subqueries in a node's own expressions.
func Subqueries(n Node) []*expr.Subquery {
	var out []*expr.Subquery
	for _, e := range AllExprs(n) {
		expr.Walk(e, func(x expr.Expr) bool {
			if s, ok := x.(*expr.Subquery); ok {
				out = append(out, s)
			}
			return true
		})
	}
	return out
}
