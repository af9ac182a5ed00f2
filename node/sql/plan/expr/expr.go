// Package expr holds bound scalar expressions and evaluates them.
//
// An expression tree is immutable once its plan is made, and shared by every execution of
// the plan: what an evaluation needs lives in Ctx. Columns are named by a ColID that is
// unique in the whole statement; package opt replaces them by slots of the row (Slot) or of
// the enclosing query's row (Outer) before anything is evaluated.
package expr

import (
	"context"

	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/types"
)

// ColID names a column of a statement's plan: unique over all query levels.
type ColID int32

// Expr is a bound scalar expression.
type Expr interface {
	Type() types.OID
	// Mod is the type modifier, -1 for none.
	Mod() int32
	// Eval computes the value over a row. What it returns shares no memory with Ctx.
	Eval(c *Ctx, row []types.Datum) (types.Datum, error)
	// Children returns the operands, in order.
	Children() []Expr
	// WithChildren returns a copy with other operands, or itself if it has none.
	WithChildren(ch []Expr) Expr
}

// Ctx is the state of one execution. It is not safe for concurrent use.
type Ctx struct {
	Context context.Context
	Eval    *builtins.EvalContext
	Params  []types.Datum
	// Outer holds the values that enclosing queries and nested loops pass down.
	Outer []types.Datum
	// Sub runs subqueries.
	Sub SubqueryRunner
	// NewRowID makes keys for tables without a primary key.
	NewRowID func() int64
	stack    []types.Datum
}

// SubqueryRunner runs the plan of a subquery. Package exec implements it.
type SubqueryRunner interface {
	// RunSubquery calls each for every row of the subquery over the outer row until it
	// returns false.
	RunSubquery(c *Ctx, s *Subquery, row []types.Datum, each func(row []types.Datum) (bool, error)) error
	// Cached returns what a subquery that depends on no outer row evaluated to, making it
	// with build when it is first asked for in this execution.
	Cached(s *Subquery, build func() (any, error)) (any, error)
}

// Fn computes a function over its arguments, which it may not keep.
type Fn func(ctx *builtins.EvalContext, args []types.Datum) (types.Datum, error)

// Volatility says when a function's result may change.
type Volatility byte

const (
	Immutable Volatility = 'i'
	Stable    Volatility = 's'
	Volatile  Volatility = 'v'
)

// Const is a literal.
type Const struct {
	Val  types.Datum
	Typ  types.OID
	TMod int32
	// Location is the literal's place in the text, for errors of its input conversion.
	Location int32
}

func (e *Const) Type() types.OID                               { return e.Typ }
func (e *Const) Mod() int32                                    { return e.TMod }
func (e *Const) Eval(*Ctx, []types.Datum) (types.Datum, error) { return e.Val, nil }
func (e *Const) Children() []Expr                              { return nil }
func (e *Const) WithChildren([]Expr) Expr                      { return e }

// Param is $Number. Its type is fixed by the binder.
type Param struct {
	Number   int
	Typ      types.OID
	Location int32
}

func (e *Param) Type() types.OID { return e.Typ }
func (e *Param) Mod() int32      { return -1 }
func (e *Param) Eval(c *Ctx, _ []types.Datum) (types.Datum, error) {
	return c.Params[e.Number-1], nil
}
func (e *Param) Children() []Expr         { return nil }
func (e *Param) WithChildren([]Expr) Expr { return e }

// Col is a column of some query level. It can't be evaluated.
type Col struct {
	ID       ColID
	Typ      types.OID
	TMod     int32
	Name     string // as EXPLAIN and errors show it: table.column
	Location int32
}

func (e *Col) Type() types.OID { return e.Typ }
func (e *Col) Mod() int32      { return e.TMod }
func (e *Col) Eval(*Ctx, []types.Datum) (types.Datum, error) {
	return types.Null, internalError("column %s was not given a slot", e.Name)
}
func (e *Col) Children() []Expr         { return nil }
func (e *Col) WithChildren([]Expr) Expr { return e }

// Slot is a column of the row at hand.
type Slot struct {
	Index int
	Col   *Col
}

func (e *Slot) Type() types.OID { return e.Col.Typ }
func (e *Slot) Mod() int32      { return e.Col.TMod }
func (e *Slot) Eval(_ *Ctx, row []types.Datum) (types.Datum, error) {
	return row[e.Index], nil
}
func (e *Slot) Children() []Expr         { return nil }
func (e *Slot) WithChildren([]Expr) Expr { return e }

// Outer is a column of an enclosing query's row.
type Outer struct {
	Index int
	Col   *Col
}

func (e *Outer) Type() types.OID { return e.Col.Typ }
func (e *Outer) Mod() int32      { return e.Col.TMod }
func (e *Outer) Eval(c *Ctx, _ []types.Datum) (types.Datum, error) {
	return c.Outer[e.Index], nil
}
func (e *Outer) Children() []Expr         { return nil }
func (e *Outer) WithChildren([]Expr) Expr { return e }

// Call is a function, operator or cast.
type Call struct {
	Name     string // function's name, or the operator's
	Op       bool   // printed as an operator
	Cast     CastKind
	OID      types.OID // pg_proc
	Fn       Fn
	Strict   bool
	Vol      Volatility
	Args     []Expr
	Typ      types.OID
	TMod     int32
	Location int32
}

// CastKind says how EXPLAIN prints a cast.
type CastKind uint8

const (
	NotCast CastKind = iota
	ImplicitCast
	ExplicitCast
)

func (e *Call) Type() types.OID  { return e.Typ }
func (e *Call) Mod() int32       { return e.TMod }
func (e *Call) Children() []Expr { return e.Args }
func (e *Call) WithChildren(ch []Expr) Expr {
	n := *e
	n.Args = ch
	return &n
}

// Eval evaluates the arguments on the context's stack, so that a call allocates nothing.
func (e *Call) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	base := len(c.stack)
	for _, a := range e.Args {
		v, err := a.Eval(c, row)
		if err != nil {
			c.stack = c.stack[:base]
			return types.Null, err
		}
		if e.Strict && v.IsNull() {
			c.stack = c.stack[:base]
			return types.Null, nil
		}
		c.stack = append(c.stack, v)
	}
	v, err := e.Fn(c.Eval, c.stack[base:len(c.stack):len(c.stack)])
	c.stack = c.stack[:base]
	return v, err
}

// Relabel gives a value another type without changing it (binary-coercible casts).
type Relabel struct {
	Arg      Expr
	Typ      types.OID
	TMod     int32
	Explicit bool
}

func (e *Relabel) Type() types.OID  { return e.Typ }
func (e *Relabel) Mod() int32       { return e.TMod }
func (e *Relabel) Children() []Expr { return []Expr{e.Arg} }
func (e *Relabel) WithChildren(ch []Expr) Expr {
	n := *e
	n.Arg = ch[0]
	return &n
}
func (e *Relabel) Eval(c *Ctx, row []types.Datum) (types.Datum, error) { return e.Arg.Eval(c, row) }

// Strip removes relabelings from the outside.
func Strip(e Expr) Expr {
	for {
		r, ok := e.(*Relabel)
		if !ok {
			return e
		}
		e = r.Arg
	}
}
