// Package logical holds the algebra that the binder makes of a statement and the optimizer
// turns into a physical plan. Columns are named by ColIDs, unique in the statement.
package logical

import (
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/types"
)

// Column is a column that a node yields.
type Column struct {
	ID   expr.ColID
	Name string
	Typ  types.OID
	Mod  int32
	// Table and Attr say which table column it is, for RowDescription; zero if none.
	Table catalog.ID
	Attr  catalog.ColumnID
}

// Ref returns an expression for the column.
func (c Column) Ref() *expr.Col {
	return &expr.Col{ID: c.ID, Typ: c.Typ, TMod: c.Mod, Name: c.Name, Location: -1}
}

// Node is a relational operator.
type Node interface {
	// Cols returns what it yields, in order.
	Cols() []Column
	// Inputs returns its relational inputs.
	Inputs() []Node
}

// Lock is a row lock that a scan takes.
type Lock struct {
	Strength kv.LockStrength
	Wait     kv.WaitPolicy
}

// Scan reads a stored table.
type Scan struct {
	Table *catalog.Table
	Alias string // as EXPLAIN shows it
	// Columns are Table's readable columns, in order; Attrs[i] is the i-th one's.
	Columns []Column
	Attrs   []*catalog.Column
	// KeyCols, if set, are three more columns: the row's primary key (bytes), and the wall
	// and logical part of its version. DML and row locks ask for them.
	KeyCols []Column
	Lock    Lock
}

func (n *Scan) Cols() []Column {
	if len(n.KeyCols) == 0 {
		return n.Columns
	}
	return append(append(make([]Column, 0, len(n.Columns)+3), n.Columns...), n.KeyCols...)
}
func (n *Scan) Inputs() []Node { return nil }

// VirtualScan reads a virtual table.
type VirtualScan struct {
	Table   VirtualTable
	Alias   string
	Columns []Column
}

func (n *VirtualScan) Cols() []Column { return n.Columns }
func (n *VirtualScan) Inputs() []Node { return nil }

// Values yields constant rows.
type Values struct {
	Columns []Column
	Rows    [][]expr.Expr
}

func (n *Values) Cols() []Column { return n.Columns }
func (n *Values) Inputs() []Node { return nil }

// SetFunc is a call of a set-returning function.
type SetFunc struct {
	Name string
	Fn   SetFn
	Args []expr.Expr
	// Named: the column has a name of its own, which an alias does not replace.
	Named bool
	// Scalar, if set, is a plain function used as a table of one row.
	Scalar expr.Expr
	Cols   []Column // what it yields
	Strict bool
}

// FuncScan calls set-returning functions side by side (ROWS FROM, or a single one).
type FuncScan struct {
	Alias      string
	Funcs      []*SetFunc
	Ordinality *Column
}

func (n *FuncScan) Cols() []Column {
	var out []Column
	for _, f := range n.Funcs {
		out = append(out, f.Cols...)
	}
	if n.Ordinality != nil {
		out = append(out, *n.Ordinality)
	}
	return out
}
func (n *FuncScan) Inputs() []Node { return nil }

// Filter keeps the rows for which all conditions hold.
type Filter struct {
	In    Node
	Preds []expr.Expr
}

func (n *Filter) Cols() []Column { return n.In.Cols() }
func (n *Filter) Inputs() []Node { return []Node{n.In} }

// Project computes columns.
type Project struct {
	In      Node
	Columns []Column
	Exprs   []expr.Expr
}

func (n *Project) Cols() []Column { return n.Columns }
func (n *Project) Inputs() []Node { return []Node{n.In} }

// ProjectSet expands set-returning functions for each row; it yields In's columns and theirs.
type ProjectSet struct {
	In    Node
	Funcs []*SetFunc
}

func (n *ProjectSet) Cols() []Column {
	out := append([]Column(nil), n.In.Cols()...)
	for _, f := range n.Funcs {
		out = append(out, f.Cols...)
	}
	return out
}
func (n *ProjectSet) Inputs() []Node { return []Node{n.In} }

// JoinKind is a kind of join.
type JoinKind uint8

const (
	Inner JoinKind = iota
	Left
	Right
	Full
	Semi
	Anti
)

// Join joins L and R. With Lateral, R may refer to L's columns.
type Join struct {
	Kind    JoinKind
	L, R    Node
	On      []expr.Expr
	Lateral bool
}

func (n *Join) Cols() []Column {
	if n.Kind == Semi || n.Kind == Anti {
		return n.L.Cols()
	}
	l, r := n.L.Cols(), n.R.Cols()
	return append(append(make([]Column, 0, len(l)+len(r)), l...), r...)
}
func (n *Join) Inputs() []Node { return []Node{n.L, n.R} }

// AggCall is one aggregate.
type AggCall struct {
	Col      Column
	Name     string
	New      AggNew
	Args     []expr.Expr
	Star     bool
	Distinct bool
	Filter   expr.Expr
	Order    []SortKey
	Strict   bool // NULL arguments are left out
}

// Agg groups. Columns are the group columns (whose IDs may be the input's own), then the
// aggregates. Without Keys it yields one row, also of no input.
type Agg struct {
	In   Node
	Keys []Column
	// KeyExprs[i] computes Keys[i].
	KeyExprs []expr.Expr
	Calls    []*AggCall
	// Grouped says that GROUP BY was written, even if it is empty of columns.
	Grouped bool
}

func (n *Agg) Cols() []Column {
	out := append(make([]Column, 0, len(n.Keys)+len(n.Calls)), n.Keys...)
	for _, c := range n.Calls {
		out = append(out, c.Col)
	}
	return out
}
func (n *Agg) Inputs() []Node { return []Node{n.In} }

// SortKey is one key of an order.
type SortKey struct {
	Expr       expr.Expr
	Desc       bool
	NullsFirst bool
}

// Sort orders.
type Sort struct {
	In   Node
	Keys []SortKey
}

func (n *Sort) Cols() []Column { return n.In.Cols() }
func (n *Sort) Inputs() []Node { return []Node{n.In} }

// Limit cuts. A nil Count or Offset means none.
type Limit struct {
	In            Node
	Count, Offset expr.Expr
}

func (n *Limit) Cols() []Column { return n.In.Cols() }
func (n *Limit) Inputs() []Node { return []Node{n.In} }

// Distinct keeps the first row of each group of equal On values.
type Distinct struct {
	In Node
	On []Column // columns of In
}

func (n *Distinct) Cols() []Column { return n.In.Cols() }
func (n *Distinct) Inputs() []Node { return []Node{n.In} }

// SetOpKind is UNION, INTERSECT or EXCEPT.
type SetOpKind uint8

const (
	Union SetOpKind = iota
	Intersect
	Except
)

// SetOp combines two inputs by position.
type SetOp struct {
	Kind    SetOpKind
	All     bool
	L, R    Node
	Columns []Column
}

func (n *SetOp) Cols() []Column { return n.Columns }
func (n *SetOp) Inputs() []Node { return []Node{n.L, n.R} }

// CTE is a WITH query that is evaluated once.
type CTE struct {
	Name string
	Plan Node
	// Recursive part: Plan is then the start, Step reads WorkTable.
	Step  Node
	All   bool
	Cols  []Column // of the whole
	Index int      // position among the statement's CTEs
	// DML says that it writes, and must run to its end whether or not it is read.
	DML bool
}

// CTEScan reads a CTE, or, with Work, the rows of the recursive step before.
type CTEScan struct {
	CTE     *CTE
	Alias   string
	Columns []Column
	Work    bool
}

func (n *CTEScan) Cols() []Column { return n.Columns }
func (n *CTEScan) Inputs() []Node { return nil }

// LockRows locks the rows that its input yields, reading them anew.
type LockRows struct {
	In    Node
	Scans []*Scan // with KeyCols
	Lock  []Lock
}

func (n *LockRows) Cols() []Column { return n.In.Cols() }
func (n *LockRows) Inputs() []Node { return []Node{n.In} }

// WindowCall is one window function.
type WindowCall struct {
	Col  Column
	Name string
	// Agg is set for an aggregate, Rank for row_number and its like.
	Agg   *AggCall
	Kind  WindowKind
	Args  []expr.Expr
	Frame Frame
}

// WindowKind names a window function that is no aggregate.
type WindowKind uint8

const (
	WindowAggregate WindowKind = iota
	RowNumber
	Rank
	DenseRank
	PercentRank
	CumeDist
	Ntile
	Lag
	Lead
	FirstValue
	LastValue
	NthValue
)

// Frame is a window frame; the offsets are nil unless Start or End asks for them.
type Frame struct {
	Mode                   byte // 'r' range, 'o' rows, 'g' groups
	Start, End             FrameBound
	StartOffset, EndOffset expr.Expr
}

// FrameBound is one end of a frame.
type FrameBound uint8

const (
	UnboundedPreceding FrameBound = iota
	OffsetPreceding
	CurrentRow
	OffsetFollowing
	UnboundedFollowing
)

// Window computes window functions that share a partitioning and an order. It yields In's
// columns and one for each call.
type Window struct {
	In        Node
	Partition []expr.Expr
	Order     []SortKey
	Calls     []*WindowCall
}

func (n *Window) Cols() []Column {
	out := append([]Column(nil), n.In.Cols()...)
	for _, c := range n.Calls {
		out = append(out, c.Col)
	}
	return out
}
func (n *Window) Inputs() []Node { return []Node{n.In} }

// Insert writes rows. In yields a value for each of Attrs.
type Insert struct {
	In    Node
	Table *catalog.Table
	Attrs []*catalog.Column // the writable columns
	// Row names the values of the written row (one for each of Attrs), for Returning, Checks.
	Row       []Column
	Checks    []Check
	Conflict  *Conflict
	Returning *Returning
}

func (n *Insert) Cols() []Column { return n.Returning.cols() }
func (n *Insert) Inputs() []Node { return []Node{n.In} }

// Check is a bound check constraint over the row's columns.
type Check struct {
	Name string
	Cond expr.Expr
}

// Conflict is ON CONFLICT.
type Conflict struct {
	// Arbiters are the indexes whose conflicts are handled; nil: all of them (DO NOTHING).
	Arbiters []*catalog.Index
	Update   bool
	// Existing and Excluded name the columns that Set and Where see: one for each of Attrs.
	Existing, Excluded []Column
	Set                []SetCol
	Where              expr.Expr
}

// SetCol assigns a column.
type SetCol struct {
	Attr *catalog.Column
	Pos  int // in Attrs
	Expr expr.Expr
}

// Returning is a RETURNING list, over the columns of the written row and of other inputs.
type Returning struct {
	Columns []Column
	Exprs   []expr.Expr
}

func (r *Returning) cols() []Column {
	if r == nil {
		return nil
	}
	return r.Columns
}

// Update changes rows. In yields Target's columns, its KeyCols, and what else Set reads.
type Update struct {
	In     Node
	Target *Scan
	// Attrs are the writable columns, Row their new values, for Checks and Returning.
	Attrs     []*catalog.Column
	Row       []Column
	Set       []SetCol
	Checks    []Check
	Returning *Returning
}

func (n *Update) Cols() []Column { return n.Returning.cols() }
func (n *Update) Inputs() []Node { return []Node{n.In} }

// Delete removes rows. In yields Target's columns and its KeyCols.
type Delete struct {
	In        Node
	Target    *Scan
	Returning *Returning
}

func (n *Delete) Cols() []Column { return n.Returning.cols() }
func (n *Delete) Inputs() []Node { return []Node{n.In} }

// Query is a whole statement: the main node with the WITH queries it reads.
type Query struct {
	Root Node
	CTEs []*CTE
	// Columns are the result's, in order: a subset of Root's.
	Columns []Column
}
