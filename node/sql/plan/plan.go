// Package plan turns a parsed statement into a plan that package exec runs: it binds
// (package bind), optimizes (package opt) and says what the plan depends on.
package plan

import (
	"context"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/bind"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/plan/opt"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
)

// Kind is what a statement does.
type Kind uint8

const (
	Select Kind = iota
	Insert
	Update
	Delete
	Explain
)

// String returns the statement's SQL name.
func (k Kind) String() string {
	return [...]string{"SELECT", "INSERT", "UPDATE", "DELETE", "EXPLAIN"}[k]
}

// Context is what planning needs.
type Context struct {
	Catalog bind.Catalog
	Env     *types.Env
	Stats   opt.Stats // nil: nothing is known
	// NoParams: the statement cannot have parameters (simple protocol); $1 is 42P02.
	NoParams bool
}

// Plan is a bound and optimized statement. It is immutable, and may be run any number of
// times, also concurrently, with other arguments, as long as the tables in Tables are still
// at their versions.
type Plan struct {
	Kind Kind
	// ParamTypes are the types of $1, $2 ...
	ParamTypes []types.OID
	// Columns is nil for a statement that returns no rows.
	Columns []logical.Column
	// Tables are the descriptors that the plan was made with (S27), Written those it writes.
	Tables, Written map[catalog.ID]*catalog.Table
	// Frozen: the statement must be planned anew for every execution, because a literal in
	// it was read ('now', 'name'::regclass).
	Frozen bool
	// Locks: SELECT FOR UPDATE and its like.
	Locks    bool
	Physical *physical.Plan
	Explain  *ExplainOptions
}

// Writes reports whether running the plan changes data or takes row locks.
func (p *Plan) Writes() bool {
	if p.Kind == Explain && !p.Explain.Analyze {
		return false
	}
	return len(p.Written) > 0 || p.Locks
}

// Privilege is what the statement needs on the tables it writes.
func (p *Plan) Privilege() catalog.Privilege {
	k := p.Kind
	if k == Explain {
		k = p.Explain.Kind
	}
	switch k {
	case Insert:
		return catalog.PrivInsert
	case Update:
		return catalog.PrivUpdate
	case Delete:
		return catalog.PrivDelete
	}
	return catalog.PrivSelect
}

// ExplainOptions are EXPLAIN's.
type ExplainOptions struct {
	Kind                            Kind // of the statement
	Analyze, Verbose, Costs, Timing bool
	Summary                         bool
	JSON                            bool
}

// Plannable reports whether Prepare takes a statement.
func Plannable(n *ast.Node) bool {
	switch n.GetNode().(type) {
	case *ast.Node_SelectStmt, *ast.Node_InsertStmt, *ast.Node_UpdateStmt, *ast.Node_DeleteStmt, *ast.Node_ExplainStmt:
		return true
	}
	return false
}

// Prepare plans a statement. paramTypes are the parameter types that the client fixed; 0 is
// to be inferred.
func Prepare(ctx context.Context, pc Context, st *parser.Statement, paramTypes []types.OID) (*Plan, error) {
	n := st.Node
	var ex *ExplainOptions
	if e := n.GetExplainStmt(); e != nil {
		var err error
		if ex, err = explainOptions(st, e); err != nil {
			return nil, err
		}
		n = e.Query
	}
	p := &Plan{}
	switch n.GetNode().(type) {
	case *ast.Node_SelectStmt:
	case *ast.Node_InsertStmt:
		p.Kind = Insert
	case *ast.Node_UpdateStmt:
		p.Kind = Update
	case *ast.Node_DeleteStmt:
		p.Kind = Delete
	default:
		return nil, pgerror.New(pgerrcode.FeatureNotSupported, "this statement is not supported")
	}
	o := bind.Options{Catalog: pc.Catalog, Env: pc.Env, ParamTypes: paramTypes}
	if pc.NoParams {
		o.MaxParams = -1
	}
	b := bind.New(ctx, st.WithNode(n), o)
	q, err := b.Bind(n)
	if err != nil {
		return nil, err
	}
	if p.ParamTypes, err = b.ParamTypes(); err != nil {
		return nil, err
	}
	p.Tables, p.Written, p.Frozen, p.Locks = b.Result.Tables, b.Result.Written, b.Result.Frozen, b.Result.Locks
	if p.Physical, err = opt.Build(q, opt.Options{Stats: pc.Stats}); err != nil {
		return nil, err
	}
	if p.Kind == Select || len(q.Columns) > 0 {
		p.Columns = q.Columns
		if p.Columns == nil {
			p.Columns = []logical.Column{}
		}
	}
	if ex != nil {
		ex.Kind = p.Kind
		p.Kind, p.Explain = Explain, ex
		t := types.OIDText
		if ex.JSON {
			t = types.OIDJSON
		}
		p.Columns = []logical.Column{{Name: "QUERY PLAN", Typ: t, Mod: -1}}
	}
	return p, nil
}

func explainOptions(st *parser.Statement, e *ast.ExplainStmt) (*ExplainOptions, error) {
	o := &ExplainOptions{Costs: true, Timing: true}
	summary := false
	for _, n := range e.Options {
		d := n.GetDefElem()
		on, text := true, ""
		switch a := d.Arg.GetNode().(type) {
		case *ast.Node_String_:
			text = a.String_.Sval
			on = text == "on" || text == "true" || text == "1"
		case *ast.Node_Boolean:
			on = a.Boolean.Boolval
		case *ast.Node_Integer:
			on = a.Integer.Ival != 0
		}
		switch d.Defname {
		case "analyze":
			o.Analyze = on
		case "verbose":
			o.Verbose = on
		case "costs":
			o.Costs = on
		case "timing":
			o.Timing = on
		case "summary":
			o.Summary, summary = on, true
		case "buffers", "wal", "settings":
		case "format":
			switch text {
			case "text":
			case "json":
				o.JSON = true
			default:
				return nil, pgerror.New(pgerrcode.FeatureNotSupported, "EXPLAIN (FORMAT %s) is not supported", text).
					WithHint("Use FORMAT TEXT or JSON.")
			}
		default:
			e := pgerror.New(pgerrcode.SyntaxError, "unrecognized EXPLAIN option \"%s\"", d.Defname)
			e.Position = st.Position(d.Location)
			return nil, e
		}
	}
	if !summary {
		o.Summary = o.Analyze
	}
	return o, nil
}

// InsertPlan is what COPY FROM needs to insert rows of some columns of a table.
type InsertPlan struct {
	Node  *physical.Insert
	Attrs []*catalog.Column
	// Positions are where the given columns are among Attrs; Defaults fills the others (nil
	// at the given ones).
	Positions []int
	Defaults  []expr.Expr
	Columns   []*catalog.Column // the given ones
}

// PrepareInsert plans the insertion of rows with values for the named columns (none: all
// visible ones). st is for the positions in errors.
func PrepareInsert(ctx context.Context, pc Context, st *parser.Statement, table *catalog.Table, columns []string) (*InsertPlan, error) {
	b := bind.New(ctx, st, bind.Options{Catalog: pc.Catalog, Env: pc.Env})
	v, positions, defaults, err := b.BulkInsert(table, columns)
	if err != nil {
		return nil, err
	}
	node, defs, err := opt.BuildBulkInsert(v, defaults)
	if err != nil {
		return nil, err
	}
	p := &InsertPlan{Node: node, Attrs: v.Attrs, Positions: positions, Defaults: defs}
	for _, i := range positions {
		p.Columns = append(p.Columns, v.Attrs[i])
	}
	return p, nil
}
