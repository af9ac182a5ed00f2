// Package bind turns a parse tree into the logical algebra: it looks names up, infers the
// types of parameters, chooses operators and functions by PostgreSQL's rules, adds the
// casts, and reports errors with PostgreSQL's SQLSTATE, wording and position.
package bind

import (
	"context"
	"fmt"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

// Catalog finds relations. The session implements it, over its search path, its
// transaction and the descriptor leases.
type Catalog interface {
	// Relation finds a relation. An empty database means the current one, an empty schema
	// the search path. A relation that does not exist is (nil, nil).
	Relation(ctx context.Context, database, schema, name string) (*Relation, error)
}

// Relation is what a name in FROM stands for; exactly one of the pointers is set.
type Relation struct {
	Schema   string
	Table    *catalog.Table
	Virtual  logical.VirtualTable
	Sequence *catalog.Sequence
	View     *catalog.View
	// Index is set for the name of an index.
	Index *catalog.Index
}

// Options configure a Binder.
type Options struct {
	Catalog Catalog
	// Env reads literals: time zone, now, names.
	Env *types.Env
	// ParamTypes are the types that the client fixed; 0 is to be inferred.
	ParamTypes []types.OID
	// MaxParams bounds $n: 0 is the protocol's 65535, -1 none at all.
	MaxParams int
}

// Binder binds one statement.
type Binder struct {
	ctx    context.Context
	st     *parser.Statement
	opts   Options
	nextID expr.ColID
	params []types.OID // OIDUnknown: not known yet
	ctes   []*logical.CTE
	// withs is the stack of visible WITH names.
	withs []withName
	nsub  int
	// records are the rows that columns of type record hold, for their fields' names.
	records map[expr.ColID]*expr.Row
	depth   int
	Result  Result
}

// Result is what the statement depends on.
type Result struct {
	// Tables are the descriptors that were used, by ID.
	Tables map[catalog.ID]*catalog.Table
	// Written are those that the statement writes.
	Written map[catalog.ID]*catalog.Table
	// Frozen: a literal was read whose meaning changes with time or with names ('now',
	// 'x'::regclass): another execution of the same text must bind anew.
	Frozen bool
	// Locks: SELECT FOR UPDATE or the like.
	Locks bool
}

// maxExprDepth bounds recursion; PostgreSQL's is its stack depth limit.
const maxExprDepth = 5000

// New returns a binder for the statement.
func New(ctx context.Context, st *parser.Statement, opts Options) *Binder {
	if opts.MaxParams == 0 {
		opts.MaxParams = 65535
	}
	b := &Binder{ctx: ctx, st: st, opts: opts, nextID: 1}
	b.Result.Tables = map[catalog.ID]*catalog.Table{}
	b.Result.Written = map[catalog.ID]*catalog.Table{}
	for _, t := range opts.ParamTypes {
		if t == 0 {
			t = types.OIDUnknown
		}
		b.params = append(b.params, t)
	}
	return b
}

// Bind binds a SELECT, VALUES, INSERT, UPDATE or DELETE.
func (b *Binder) Bind(n *ast.Node) (*logical.Query, error) {
	var root logical.Node
	var cols []logical.Column
	var err error
	switch s := n.GetNode().(type) {
	case *ast.Node_SelectStmt:
		var q *query
		if s.SelectStmt.IntoClause != nil {
			return nil, b.errorf(-1, pgerrcode.FeatureNotSupported, "SELECT INTO is not supported here")
		}
		if q, err = b.selectStmt(s.SelectStmt, nil); err == nil {
			root, cols = q.node, q.cols
			if err = b.resolveUnknown(q); err == nil {
				root, cols = q.node, q.cols
			}
		}
	case *ast.Node_InsertStmt:
		root, err = b.insert(s.InsertStmt, nil)
	case *ast.Node_UpdateStmt:
		root, err = b.update(s.UpdateStmt, nil)
	case *ast.Node_DeleteStmt:
		root, err = b.delete(s.DeleteStmt, nil)
	default:
		return nil, b.errorf(-1, pgerrcode.FeatureNotSupported, "this statement cannot be planned: %T", s)
	}
	if err != nil {
		return nil, err
	}
	if cols == nil {
		cols = root.Cols()
	}
	return &logical.Query{Root: root, CTEs: b.ctes, Columns: cols}, nil
}

// ParamTypes returns the parameters' types once the statement is bound: 42P18 for one that
// nothing told the type of.
func (b *Binder) ParamTypes() ([]types.OID, error) {
	for i, t := range b.params {
		if t == types.OIDUnknown {
			return nil, pgerror.New(pgerrcode.IndeterminateDatatype, "could not determine data type of parameter $%d", i+1)
		}
	}
	return b.params, nil
}

func (b *Binder) newID() expr.ColID {
	b.nextID++
	return b.nextID - 1
}

// MaxColID is above every ColID in use.
func (b *Binder) MaxColID() expr.ColID { return b.nextID }

func (b *Binder) errorf(loc int32, code, format string, args ...any) *pgerror.Error {
	e := pgerror.New(code, format, args...)
	if b.st != nil {
		e.Position = b.st.Position(loc)
	}
	return e
}

func (b *Binder) unsupported(loc int32, what string, args ...any) error {
	return b.errorf(loc, pgerrcode.FeatureNotSupported, "%s", fmt.Sprintf(what, args...)+" is not supported")
}

// typeName is a type's name in messages.
func typeName(t types.OID) string { return types.TypeName(t) }

// strings of a list of String nodes.
func names(l []*ast.Node) []string {
	out := make([]string, 0, len(l))
	for _, n := range l {
		switch x := n.GetNode().(type) {
		case *ast.Node_String_:
			out = append(out, x.String_.Sval)
		case *ast.Node_AStar:
			out = append(out, "*")
		}
	}
	return out
}

// location returns where a node starts, or -1.
func location(n *ast.Node) int32 {
	switch x := n.GetNode().(type) {
	case *ast.Node_ColumnRef:
		return x.ColumnRef.Location
	case *ast.Node_AConst:
		return x.AConst.Location
	case *ast.Node_AExpr:
		return firstLocation(x.AExpr.Location, x.AExpr.Lexpr)
	case *ast.Node_FuncCall:
		return x.FuncCall.Location
	case *ast.Node_TypeCast:
		return firstLocation(x.TypeCast.Location, x.TypeCast.Arg)
	case *ast.Node_ParamRef:
		return x.ParamRef.Location
	case *ast.Node_SubLink:
		return firstLocation(x.SubLink.Location, x.SubLink.Testexpr)
	case *ast.Node_BoolExpr:
		if len(x.BoolExpr.Args) > 0 {
			return firstLocation(x.BoolExpr.Location, x.BoolExpr.Args[0])
		}
		return x.BoolExpr.Location
	case *ast.Node_NullTest:
		return firstLocation(x.NullTest.Location, x.NullTest.Arg)
	case *ast.Node_BooleanTest:
		return firstLocation(x.BooleanTest.Location, x.BooleanTest.Arg)
	case *ast.Node_CaseExpr:
		return x.CaseExpr.Location
	case *ast.Node_CoalesceExpr:
		return x.CoalesceExpr.Location
	case *ast.Node_MinMaxExpr:
		return x.MinMaxExpr.Location
	case *ast.Node_RowExpr:
		return x.RowExpr.Location
	case *ast.Node_AArrayExpr:
		return x.AArrayExpr.Location
	case *ast.Node_SqlvalueFunction:
		return x.SqlvalueFunction.Location
	case *ast.Node_ResTarget:
		return x.ResTarget.Location
	case *ast.Node_CollateClause:
		return firstLocation(x.CollateClause.Location, x.CollateClause.Arg)
	case *ast.Node_AIndirection:
		return location(x.AIndirection.Arg)
	case *ast.Node_SetToDefault:
		return x.SetToDefault.Location
	case *ast.Node_RangeVar:
		return x.RangeVar.Location
	case *ast.Node_List:
		if len(x.List.Items) > 0 {
			return location(x.List.Items[0])
		}
	}
	return -1
}

func firstLocation(loc int32, n *ast.Node) int32 {
	if n == nil {
		return loc
	}
	if l := location(n); l >= 0 && (loc < 0 || l < loc) {
		return l
	}
	return loc
}
