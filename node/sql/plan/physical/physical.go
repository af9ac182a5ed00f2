// Package physical holds plans that package exec runs: trees of operators over rows of
// numbered slots. A plan is immutable and shared by its executions.
package physical

import (
	"sync/atomic"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

// Node is an operator.
type Node interface {
	Info() *Base
	Inputs() []Node
}

// Base is what every operator has.
type Base struct {
	// Cols are the slots of its rows.
	Cols []logical.Column
	// Rows and Cost are estimates; Startup is the cost before the first row.
	Rows, Startup, Cost float64
	// ID numbers the plan's operators, for EXPLAIN ANALYZE.
	ID int
}

// Info returns b.
func (b *Base) Info() *Base { return b }

// Bound is one end of a range of a key column.
type Bound struct {
	Expr      expr.Expr // over no row
	Inclusive bool
}

// KeyRange restricts the key columns of an index: equality on a prefix of them, then maybe a
// range on the next.
type KeyRange struct {
	Eq           []KeyEq
	Lower, Upper *Bound
	// Point: Eq covers a unique key, so that there is at most one row for each choice.
	Point bool
}

// KeyEq is the values of one key column: one, several, or the elements of an array.
type KeyEq struct {
	Vals  []expr.Expr
	Array expr.Expr
	Null  bool // IS NULL
}

// Scan reads a table through an index. Without columns to fetch from the primary index, and
// without a lock, a secondary index is read alone.
type Scan struct {
	Base
	Table *catalog.Table
	Alias string
	Index *catalog.Index
	Range KeyRange
	// Conds are the conditions that Range stands for, as EXPLAIN shows them.
	Conds   []expr.Expr
	Reverse bool
	// Attrs are the columns to read: Attrs[i] goes to slot i. The key and version, if Keys,
	// follow in three slots.
	Attrs   []*catalog.Column
	Keys    bool
	Primary bool // rows are fetched from the primary index, by the entries of Index
	Lock    logical.Lock
	// Filter is over the row's slots.
	Filter []expr.Expr
	// Ordered: somebody relies on the order of the rows.
	Ordered bool
	// Memo is the executor's, for what it derives once from the plan.
	Memo atomic.Value
}

func (n *Scan) Inputs() []Node { return nil }

// Virtual reads a virtual table; slot i is its column Attrs[i].
type Virtual struct {
	Base
	Table  logical.VirtualTable
	Alias  string
	Attrs  []int
	Filter []expr.Expr
}

func (n *Virtual) Inputs() []Node { return nil }

// Values yields rows.
type Values struct {
	Base
	Rows [][]expr.Expr
}

func (n *Values) Inputs() []Node { return nil }

// SetFunc is a set-returning function, or a scalar one as a table.
type SetFunc struct {
	Name   string
	Fn     logical.SetFn
	Args   []expr.Expr
	Scalar expr.Expr
	Strict bool
	Width  int
}

// FuncScan calls functions side by side.
type FuncScan struct {
	Base
	Alias      string
	Funcs      []*SetFunc
	Ordinality bool
}

func (n *FuncScan) Inputs() []Node { return nil }

// ProjectSet yields the input's slots, then the functions'.
type ProjectSet struct {
	Base
	In    Node
	Funcs []*SetFunc
}

func (n *ProjectSet) Inputs() []Node { return []Node{n.In} }

// Filter keeps rows.
type Filter struct {
	Base
	In    Node
	Preds []expr.Expr
}

func (n *Filter) Inputs() []Node { return []Node{n.In} }

// Project computes slots.
type Project struct {
	Base
	In    Node
	Exprs []expr.Expr
}

func (n *Project) Inputs() []Node { return []Node{n.In} }

// HashJoin builds a table of R and probes it with L. Residual is over L's slots, then R's.
type HashJoin struct {
	Base
	Kind     logical.JoinKind
	L, R     Node
	LKeys    []expr.Expr
	RKeys    []expr.Expr
	Residual []expr.Expr
}

func (n *HashJoin) Inputs() []Node { return []Node{n.L, n.R} }

// NestLoop runs R for each row of L, with Pass handed down. On is over L's slots, then R's.
// Without Pass, R's rows are kept after the first run.
type NestLoop struct {
	Base
	Kind logical.JoinKind
	L, R Node
	Pass []expr.Pass
	On   []expr.Expr
}

func (n *NestLoop) Inputs() []Node { return []Node{n.L, n.R} }

// LookupJoin finds the row of Scan's table for each row of L by a unique key, many keys in
// one request. Key is over L's slots; Scan.Filter and On are over both (On) or the scan's
// own row (Filter).
type LookupJoin struct {
	Base
	Kind logical.JoinKind // Inner, Left, Semi or Anti
	L    Node
	Scan *Scan
	Key  []expr.Expr
	On   []expr.Expr
}

func (n *LookupJoin) Inputs() []Node { return []Node{n.L, n.Scan} }

// Agg groups by hashing; without Keys it yields one row.
type Agg struct {
	Base
	In    Node
	Keys  []expr.Expr
	Calls []*AggCall
	// Scalar: no GROUP BY, one row also for no input.
	Scalar bool
}

// AggCall is one aggregate, its expressions over the input's slots.
type AggCall struct {
	Name     string
	New      logical.AggNew
	Args     []expr.Expr
	Distinct bool
	Filter   expr.Expr
	Order    []SortKey
	Strict   bool
	Star     bool
	Typ      types.OID
}

func (n *Agg) Inputs() []Node { return []Node{n.In} }

// SortKey is one key of an order.
type SortKey struct {
	Expr       expr.Expr
	Desc       bool
	NullsFirst bool
}

// Sort orders. With Top it keeps only so many rows as Top's limit asks for.
type Sort struct {
	Base
	In   Node
	Keys []SortKey
	Top  *Limit
}

func (n *Sort) Inputs() []Node { return []Node{n.In} }

// Limit cuts.
type Limit struct {
	Base
	In            Node
	Count, Offset expr.Expr
}

func (n *Limit) Inputs() []Node { return []Node{n.In} }

// Distinct keeps the first row for each value of the slots On.
type Distinct struct {
	Base
	In Node
	On []int
}

func (n *Distinct) Inputs() []Node { return []Node{n.In} }

// SetOp combines inputs of the same width.
type SetOp struct {
	Base
	Kind logical.SetOpKind
	All  bool
	L, R Node
}

func (n *SetOp) Inputs() []Node { return []Node{n.L, n.R} }

// CTE is a WITH query that is evaluated once.
type CTE struct {
	Name  string
	Plan  Node
	Step  Node
	All   bool
	DML   bool
	Index int
}

// CTEScan reads a CTE; slot i is its column Attrs[i]. With Work it reads the working table.
type CTEScan struct {
	Base
	CTE    *CTE
	Alias  string
	Attrs  []int
	Work   bool
	Filter []expr.Expr
}

func (n *CTEScan) Inputs() []Node { return nil }

// LockRows locks the rows whose key and version lie in the input's slots from Keys[i] on.
type LockRows struct {
	Base
	In     Node
	Tables []*catalog.Table
	Keys   []int
	Locks  []logical.Lock
	// Retry: a row that changed since it was read is an error to run the statement again.
}

func (n *LockRows) Inputs() []Node { return []Node{n.In} }

// WindowCall is one window function.
type WindowCall struct {
	Name  string
	Kind  logical.WindowKind
	Agg   *AggCall
	Args  []expr.Expr
	Frame Frame
	Typ   types.OID
}

// Frame is logical.Frame over slots.
type Frame struct {
	Mode                   byte
	Start, End             logical.FrameBound
	StartOffset, EndOffset expr.Expr
}

// Window yields the input's slots and one for each call. Its input is sorted by Partition,
// then Order.
type Window struct {
	Base
	In        Node
	Partition []expr.Expr
	Order     []SortKey
	Calls     []*WindowCall
}

func (n *Window) Inputs() []Node { return []Node{n.In} }

// Write is what Insert, Update and Delete have in common. A written row has a slot for each
// of Attrs.
type Write struct {
	Table *catalog.Table
	Attrs []*catalog.Column
	// Checks are over the new row's slots.
	Checks []logical.Check
	// Returning is over the new row's slots, then the input's; nil for none.
	Returning []expr.Expr
}

// Insert writes the input's rows, whose slots are Attrs.
type Insert struct {
	Base
	Write
	In       Node
	Conflict *Conflict
}

func (n *Insert) Inputs() []Node { return []Node{n.In} }

// Conflict is ON CONFLICT. Set and Where are over the existing row's slots, then the
// excluded one's.
type Conflict struct {
	Arbiters []*catalog.Index
	Update   bool
	Set      []SetCol
	Where    expr.Expr
}

// SetCol assigns slot Pos of the row.
type SetCol struct {
	Pos  int
	Expr expr.Expr
}

// Update changes rows. The input's slots From.. hold the old row (one for each of Attrs),
// and from Key on its key and version. Set is over the input's slots.
type Update struct {
	Base
	Write
	In  Node
	Old []int // slot of each of Attrs; -1 for one that nothing needs
	Key int
	Set []SetCol
}

func (n *Update) Inputs() []Node { return []Node{n.In} }

// Delete removes rows, laid out as for Update. Returning is over the input's slots.
type Delete struct {
	Base
	Write
	In  Node
	Old []int
	Key int
}

func (n *Delete) Inputs() []Node { return []Node{n.In} }

// Locked says whether a scan takes locks.
func (n *Scan) Locked() bool { return n.Lock.Strength != kv.LockNone }

// Plan is a whole statement.
type Plan struct {
	Root Node
	CTEs []*CTE
	// Columns are the result's; Slots says where they are in Root's rows.
	Columns []logical.Column
	Slots   []int
	// Outer is how many values Ctx.Outer holds.
	Outer int
	// Nodes is how many operators there are.
	Nodes int
	// Subplans are the plans of subqueries, by number.
	Subplans []*expr.Subquery
}
