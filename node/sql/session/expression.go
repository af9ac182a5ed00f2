package session

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/bind"
	"github.com/atolldb/atoll/node/sql/types"
)

// expressions checks and evaluates the expressions in definitions. It implements
// ddl.ExprBinder by planning them as queries: over no row, or over one row of parameters
// that stands for the table's.
type expressions struct {
	s      *Session
	checks map[string]*prepared
}

// TypeName implements ddl.ExprBinder.
func (x *expressions) TypeName(n *ast.TypeName) (types.OID, int32, error) { return bind.TypeName(n) }

// BindDefault implements ddl.ExprBinder.
func (x *expressions) BindDefault(ctx context.Context, e *ast.Node, column *catalog.Column) (string, []catalog.ID, error) {
	if err := refuse(e, "DEFAULT expressions", true); err != nil {
		return "", nil, err
	}
	text, err := parser.DeparseExpr(e)
	if err != nil {
		return "", nil, err
	}
	target := types.FormatType(column.Type.OID, column.Type.Mod)
	p, err := x.plan(ctx, fmt.Sprintf("SELECT (%s)", text), nil)
	if err != nil {
		return "", nil, err
	}
	if got := p.columns[0].Type; got != column.Type.OID {
		if _, err := x.plan(ctx, fmt.Sprintf("SELECT CAST((%s) AS %s)", text, target), nil); err != nil {
			return "", nil, pgerror.Wrap(err, pgerrcode.DatatypeMismatch, "column %q is of type %s but default expression is of type %s",
				column.Name, types.FormatType(column.Type.OID, -1), types.FormatType(got, -1)).WithHint("You will need to rewrite or cast the expression.")
		}
		if e.GetAConst() == nil {
			text = fmt.Sprintf("%s::%s", parenthesize(e, text), target)
		}
	}
	text = storedConstant(e, text, column.Type.OID)
	seqs, err := x.sequencesIn(ctx, e)
	return text, seqs, err
}

// storedConstant writes a constant as PostgreSQL stores it: a string with the column's type
// but not its length, which each use checks, a negative number quoted, keywords in capitals.
func storedConstant(e *ast.Node, text string, to types.OID) string {
	if e.GetSqlvalueFunction() != nil {
		return strings.ToUpper(text)
	}
	c := e.GetAConst()
	switch {
	case c == nil || c.Isnull:
	case c.GetSval() != nil:
		return text + "::" + types.FormatType(to, -1)
	case strings.HasPrefix(text, "-"):
		of := types.OIDNumeric
		if i, err := strconv.ParseInt(text, 10, 64); err == nil {
			of = types.OIDInt8
			if i == int64(int32(i)) {
				of = types.OIDInt4
			}
		}
		return "'" + text + "'::" + types.FormatType(of, -1)
	}
	return text
}

// parenthesize wraps what :: would otherwise split.
func parenthesize(e *ast.Node, text string) string {
	if e.GetAConst() != nil || e.GetFuncCall() != nil || e.GetTypeCast() != nil {
		return text
	}
	return "(" + text + ")"
}

// plan plans a query of our own making.
func (x *expressions) plan(ctx context.Context, text string, params []types.OID) (*prepared, error) {
	st, err := parser.Parse(text)
	if err != nil {
		return nil, err
	}
	x.s.kvTxn()
	p := &prepared{s: x.s, st: st[0], paramTypes: params}
	if err := p.replan(ctx); err != nil {
		if pe, ok := err.(*pgerror.Error); ok && pe.Position != 0 {
			moved := *pe
			moved.Position = 0 // it points into our text, not the client's
			return nil, &moved
		}
		return nil, err
	}
	return p, nil
}

// sequencesIn finds nextval('name').
func (x *expressions) sequencesIn(ctx context.Context, e *ast.Node) ([]catalog.ID, error) {
	var out []catalog.ID
	var fault error
	walkNodes(e, func(n *ast.Node) {
		f := n.GetFuncCall()
		if f == nil || fault != nil || len(f.Args) != 1 || f.Funcname[len(f.Funcname)-1].GetString_().GetSval() != "nextval" {
			return
		}
		arg := f.Args[0]
		if c := arg.GetTypeCast(); c != nil {
			arg = c.Arg
		}
		name := arg.GetAConst().GetSval().GetSval()
		if name == "" {
			return
		}
		view := x.s.catalogView()
		schema, rel := splitQualified(name)
		r, err := view.ResolveRelation(ctx, x.s.catalogPath(), schema, rel)
		if err != nil {
			fault = err
		} else if r != nil && r.Sequence != nil {
			out = append(out, r.Sequence.ID)
		}
	})
	return out, fault
}

// splitQualified splits schema.name.
func splitQualified(name string) (schema, rel string) {
	parts := splitNames(strings.ReplaceAll(name, ".", ","))
	switch len(parts) {
	case 0:
		return "", ""
	case 1:
		return "", parts[0]
	}
	return parts[len(parts)-2], parts[len(parts)-1]
}

// BindCheck implements ddl.ExprBinder.
func (x *expressions) BindCheck(ctx context.Context, e *ast.Node, table *catalog.Table) (string, []catalog.ColumnID, error) {
	if err := refuse(e, "check constraints", false); err != nil {
		return "", nil, err
	}
	text, err := parser.DeparseExpr(e)
	if err != nil {
		return "", nil, err
	}
	p, err := x.rowPlan(ctx, text, table)
	if err != nil {
		return "", nil, err
	}
	if got := p.columns[0].Type; got != types.OIDBool {
		return "", nil, pgerror.New(pgerrcode.DatatypeMismatch, "argument of CHECK must be type boolean, not type %s", types.FormatType(got, -1))
	}
	seen := map[catalog.ColumnID]bool{}
	var ids []catalog.ColumnID
	walkNodes(e, func(n *ast.Node) {
		if r := n.GetColumnRef(); r != nil && len(r.Fields) > 0 {
			if c := table.ColumnByName(r.Fields[len(r.Fields)-1].GetString_().GetSval()); c != nil && !seen[c.ID] {
				seen[c.ID] = true
				ids = append(ids, c.ID)
			}
		}
	})
	return text, ids, nil
}

// rowPlan plans an expression over a row of the table, whose values are parameters: one for
// each of table.Columns.
func (x *expressions) rowPlan(ctx context.Context, text string, table *catalog.Table) (*prepared, error) {
	var values, names []string
	params := make([]types.OID, len(table.Columns))
	for i, c := range table.Columns {
		params[i] = c.Type.OID
		values = append(values, fmt.Sprintf("$%d", i+1))
		names = append(names, quoteIdent(c.Name))
	}
	return x.plan(ctx, fmt.Sprintf("SELECT (%s) FROM (VALUES (%s)) AS %s (%s)", text, strings.Join(values, ","), quoteIdent(table.Name), strings.Join(names, ",")), params)
}

func quoteIdent(n string) string { return `"` + strings.ReplaceAll(n, `"`, `""`) + `"` }

// EvalDefault implements ddl.ExprBinder.
func (x *expressions) EvalDefault(ctx context.Context, _ *catalog.Table, column *catalog.Column) (types.Datum, bool, error) {
	if column.Default == "" {
		return types.Null, true, nil
	}
	st, err := parser.Parse("SELECT " + column.Default)
	if err != nil {
		return types.Null, false, err
	}
	e := st[0].Node.GetSelectStmt().TargetList[0].GetResTarget().Val
	constant := true
	walkNodes(e, func(n *ast.Node) {
		if n.GetFuncCall() != nil || n.GetSqlvalueFunction() != nil {
			constant = false
		}
	})
	v, err := x.s.evalConstant(ctx, e, column.Type.OID)
	return v, constant, err
}

// EvalCheck implements ddl.ExprBinder.
func (x *expressions) EvalCheck(ctx context.Context, table *catalog.Table, check *catalog.Constraint, row []types.Datum) (bool, error) {
	key := fmt.Sprintf("%d/%d/%s", table.ID, table.Version, check.Name)
	p := x.checks[key]
	if p == nil {
		var err error
		if p, err = x.rowPlan(ctx, check.Expr, table); err != nil {
			return false, err
		}
		if x.checks == nil {
			x.checks = map[string]*prepared{}
		}
		x.checks[key] = p
	}
	v, err := x.value(ctx, p, row)
	return v.IsNull() || v.Bool(), err
}

func (x *expressions) value(ctx context.Context, p *prepared, row []types.Datum) (types.Datum, error) {
	var sink oneValue
	_, err := x.s.runPlanned(ctx, p, row, &sink)
	return sink.v, err
}

// BindUsing implements ddl.ExprBinder.
func (x *expressions) BindUsing(ctx context.Context, e *ast.Node, table *catalog.Table, column *catalog.Column, to catalog.TypeRef) (func([]types.Datum) (types.Datum, error), error) {
	text := quoteIdent(column.Name)
	if e != nil {
		var err error
		if text, err = parser.DeparseExpr(e); err != nil {
			return nil, err
		}
	}
	p, err := x.rowPlan(ctx, fmt.Sprintf("CAST((%s) AS %s)", text, types.FormatType(to.OID, to.Mod)), table)
	if err != nil {
		return nil, err
	}
	return func(row []types.Datum) (types.Datum, error) { return x.value(ctx, p, row) }, nil
}

// refuse finds what a definition's expression can't have.
func refuse(e *ast.Node, where string, noColumns bool) error {
	var fault error
	walkNodes(e, func(n *ast.Node) {
		switch {
		case n.GetSubLink() != nil:
			fault = pgerror.New(pgerrcode.FeatureNotSupported, "cannot use subquery in %s", strings.TrimSuffix(where, "s"))
		case noColumns && n.GetColumnRef() != nil:
			fault = pgerror.New(pgerrcode.FeatureNotSupported, "cannot use column reference in DEFAULT expression")
		}
	})
	return fault
}
