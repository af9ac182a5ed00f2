package session

import (
	"context"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/exec"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgcatalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan"
	"github.com/atolldb/atoll/node/sql/types"
)

// planned is a statement's plan and what it was made of.
type planned struct {
	plan    *plan.Plan
	columns []client.Column
	path    string // search_path and database when it was made
}

// replan makes the plan anew.
func (p *prepared) replan(ctx context.Context) error {
	s := p.s
	pc := s.planContext(ctx)
	pc.NoParams = p.paramTypes == nil
	pl, err := plan.Prepare(ctx, pc, p.st, p.paramTypes)
	if err != nil {
		return err
	}
	p.plan, p.path = pl, s.pathKey()
	p.columns = wireColumns(pl)
	return nil
}

func (s *Session) planContext(ctx context.Context) plan.Context {
	return plan.Context{Catalog: relations{s}, Env: s.statementEnv(ctx), Stats: statistics{ctx, s.catalogView()}}
}

// statementEnv is the session's settings with names as this statement sees them.
func (s *Session) statementEnv(ctx context.Context) *types.Env {
	s.names = s.functions(ctx)
	env := *s.env
	env.Names = s.names
	return &env
}

// outputNames prints regclass and its like in a statement's rows, by the catalog as the
// statement sees it. It is what the session's own Env has for names.
type outputNames struct{ s *Session }

// ObjectName implements types.NameResolver.
func (o outputNames) ObjectName(kind, oid types.OID) (string, bool) {
	if o.s.names == nil {
		return "", false
	}
	return o.s.names.ObjectName(kind, oid)
}

// ObjectOID implements types.NameResolver.
func (o outputNames) ObjectOID(kind types.OID, name string) (types.OID, error) {
	if o.s.names == nil {
		return 0, pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "object %q cannot be looked up outside a statement", name)
	}
	return o.s.names.ObjectOID(kind, name)
}

// functions answers what SQL functions ask of the catalog, for one statement.
func (s *Session) functions(ctx context.Context) *pgcatalog.Functions {
	return &pgcatalog.Functions{Ctx: ctx, Query: s.virtualQuery()}
}

// pathKey is what name resolution depends on beside the catalog.
func (s *Session) pathKey() string { return s.vars.raw("search_path") + "\x00" + s.user }

func wireColumns(pl *plan.Plan) []client.Column {
	if pl.Columns == nil {
		return nil
	}
	out := make([]client.Column, len(pl.Columns))
	for i, c := range pl.Columns {
		out[i] = client.Column{Name: c.Name, TableOID: uint32(c.Table), AttNum: int16(c.Attr), Type: c.Typ, TypeLen: -1, TypeMod: c.Mod}
		if t, ok := types.Lookup(c.Typ); ok {
			out[i].TypeLen = t.Len
		}
	}
	return out
}

// ensure makes sure that the plan fits the catalog as this transaction sees it (SAFETY S27).
// A result that would have other columns than the client was told is an error, as in PostgreSQL.
func (p *prepared) ensure(ctx context.Context) error {
	fresh, err := p.fresh(ctx)
	if err != nil || fresh {
		return err
	}
	before, params := p.columns, p.plan.ParamTypes
	p.paramTypes = params
	if err := p.replan(ctx); err != nil {
		return err
	}
	if !sameColumns(before, p.columns) {
		return pgerror.New(pgerrcode.FeatureNotSupported, "cached plan must not change result type")
	}
	return nil
}

func (p *prepared) fresh(ctx context.Context) (bool, error) {
	s := p.s
	if p.plan.Frozen || p.path != s.pathKey() {
		return false, nil
	}
	view := s.catalogView()
	for id, t := range p.plan.Tables {
		now, err := view.Table(ctx, id)
		if err != nil {
			return false, err
		}
		if now == nil || now.Version != t.Version || now != t && view.Changes() {
			return false, nil
		}
	}
	return true, nil
}

func sameColumns(a, b []client.Column) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Type != b[i].Type || a[i].Name != b[i].Name {
			return false
		}
	}
	return true
}

// execution is a plan that runs.
type execution struct {
	s     *Session
	rows  *exec.Rows
	batch *exec.Batch // not sent yet, from at on
	at    int
}

// open starts a plan in the block's transaction.
func (s *Session) open(ctx context.Context, p *prepared, args []types.Datum, commitsNext bool) (*execution, error) {
	if err := p.ensure(ctx); err != nil {
		return nil, err
	}
	if s.tx.readOnly && p.plan.Writes() {
		return nil, readOnlyViolation(p.plan.Kind.String())
	}
	if err := s.checkPrivileges(ctx, p.plan); err != nil {
		return nil, err
	}
	s.wrote(p.plan.Written)
	rows, err := exec.Run(ctx, s.execContext(ctx, args, commitsNext), p.plan)
	if err != nil {
		return nil, err
	}
	return &execution{s: s, rows: rows}, nil
}

// execContext is what a statement runs in.
func (s *Session) execContext(ctx context.Context, args []types.Datum, commitsNext bool) *exec.Context {
	env := s.statementEnv(ctx)
	return &exec.Context{
		Txn: s.tx.kv, Params: args, LockTimeout: s.vars.duration("lock_timeout"),
		Memory:  exec.NewMemory("statement", s.eng.cfg.QueryMemory, s.eng.memory),
		Virtual: s.virtualRows, NewRowID: s.eng.newRowID, CommitsNext: commitsNext,
		Eval: &builtins.EvalContext{Ctx: ctx, Env: env, Statement: time.Now(), Session: functions{s},
			Catalog: env.Names.(*pgcatalog.Functions), Sequences: s.sequenceValues()},
	}
}

// newRowID makes keys for tables without a primary key.
func (e *Engine) newRowID() int64 { return catalog.NewRowID(e.cfg.Node) }

// send sends at most limit rows (0: all), and reports whether more may follow.
func (e *execution) send(ctx context.Context, out client.RowWriter, limit int64) (n int64, more bool, err error) {
	for {
		if e.batch == nil {
			want := int64(0)
			if limit > 0 {
				want = limit - n
			}
			if e.batch, err = e.rows.Next(ctx, want); err != nil {
				return n, false, err
			}
			e.at = 0
			if e.batch == nil {
				return n, false, nil
			}
		}
		for e.at < e.batch.Len {
			if limit > 0 && n == limit {
				return n, true, nil
			}
			if err := out.WriteRow(e.batch.Row(e.at)); err != nil {
				return n, false, err
			}
			e.at++
			n++
		}
		e.batch = nil
		if limit > 0 && n == limit {
			return n, true, nil
		}
	}
}

func (e *execution) tag() string { return e.rows.Tag() }

func (e *execution) close() { e.rows.Close() }

// runPlanned runs a plan to its end.
func (s *Session) runPlanned(ctx context.Context, p *prepared, args []types.Datum, out client.RowWriter) (string, error) {
	ex, err := s.open(ctx, p, args, false)
	if err != nil {
		return "", err
	}
	defer ex.close()
	if _, _, err := ex.send(ctx, out, 0); err != nil {
		return "", err
	}
	return ex.tag(), nil
}

// runInto runs a query's rows into a sink.
func (s *Session) runInto(ctx context.Context, p *prepared, out client.RowWriter) error {
	_, err := s.runPlanned(ctx, p, nil, out)
	return err
}

// evalConstant evaluates an expression without columns, cast to a type.
func (s *Session) evalConstant(ctx context.Context, n *ast.Node, to types.OID) (types.Datum, error) {
	t, ok := types.Lookup(to)
	if !ok {
		return types.Null, pgerror.New(pgerrcode.UndefinedObject, "type with OID %d does not exist", to)
	}
	name := &ast.TypeName{Names: []*ast.Node{stringNode("pg_catalog"), stringNode(t.Name)}, Typemod: -1, Location: -1}
	cast := &ast.Node{Node: &ast.Node_TypeCast{TypeCast: &ast.TypeCast{Arg: n, TypeName: name, Location: -1}}}
	return s.evalScalar(ctx, cast)
}

// evalScalar evaluates an expression without columns: SELECT expr.
func (s *Session) evalScalar(ctx context.Context, n *ast.Node) (types.Datum, error) {
	target := &ast.Node{Node: &ast.Node_ResTarget{ResTarget: &ast.ResTarget{Val: n, Location: -1}}}
	sel := &ast.SelectStmt{TargetList: []*ast.Node{target}, LimitOption: ast.LimitOption_LIMIT_OPTION_DEFAULT, Op: ast.SetOperation_SETOP_NONE}
	p := &prepared{s: s, st: parser.Synthetic(&ast.Node{Node: &ast.Node_SelectStmt{SelectStmt: sel}})}
	s.kvTxn()
	if err := p.replan(ctx); err != nil {
		return types.Null, err
	}
	var sink oneValue
	if err := s.runInto(ctx, p, &sink); err != nil {
		return types.Null, err
	}
	return sink.v, nil
}

func stringNode(v string) *ast.Node {
	return &ast.Node{Node: &ast.Node_String_{String_: &ast.String{Sval: v}}}
}

// oneValue keeps the first value of the last row.
type oneValue struct{ v types.Datum }

// WriteRow implements client.RowWriter.
func (o *oneValue) WriteRow(row []types.Datum) error {
	o.v = row[0]
	return nil
}

// Retract implements client.RowWriter.
func (o *oneValue) Retract() bool { return true }

// checkPrivileges refuses what the current role may not do.
func (s *Session) checkPrivileges(ctx context.Context, pl *plan.Plan) error {
	if err := s.loadRole(ctx); err != nil {
		return err
	}
	if s.role.Superuser {
		return nil
	}
	for id, t := range pl.Tables {
		want := catalog.PrivSelect
		if _, written := pl.Written[id]; written {
			want = pl.Privilege()
		}
		if err := s.catalogView().CheckPrivilege(ctx, s.roleID, t, want); err != nil {
			return err
		}
	}
	return nil
}

// duplicateKey names the constraint that a key belongs to.
func (e *Engine) duplicateKey(s *Session, err *kv.ConditionFailedError) error {
	tables := make([]*catalog.Table, 0, len(s.written))
	for _, t := range s.written {
		tables = append(tables, t)
	}
	return exec.DuplicateKey(tables, err, s.env)
}

// wrote remembers the tables that the block writes, for errors that show at commit.
func (s *Session) wrote(tables map[catalog.ID]*catalog.Table) {
	for id, t := range tables {
		if s.written == nil {
			s.written = map[catalog.ID]*catalog.Table{}
		}
		s.written[id] = t
	}
}

// statistics tells the planner how large tables are. It implements opt.Stats.
type statistics struct {
	ctx  context.Context
	view *catalog.Collection
}

// Rows implements opt.Stats.
func (st statistics) Rows(table catalog.ID) float64 {
	s, err := st.view.Statistics(st.ctx, table)
	if err != nil || s == nil {
		return 0
	}
	return float64(s.Rows)
}

// newInserter starts a COPY FROM.
func (s *Session) newInserter(ctx context.Context, c *copyStatement) (*exec.Inserter, error) {
	names := make([]string, len(c.columns))
	for i, col := range c.columns {
		names[i] = col.Name
	}
	p, err := plan.PrepareInsert(ctx, s.planContext(ctx), c.st, c.table, names)
	if err != nil {
		return nil, err
	}
	if err := s.loadRole(ctx); err != nil {
		return nil, err
	}
	if !s.role.Superuser {
		if err := s.catalogView().CheckPrivilege(ctx, s.roleID, c.table, catalog.PrivInsert); err != nil {
			return nil, err
		}
	}
	s.wrote(map[catalog.ID]*catalog.Table{c.table.ID: c.table})
	return exec.NewInserter(ctx, s.execContext(ctx, nil, false), p)
}
