package ddl_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/catalog/catalogtest"
	"github.com/atolldb/atoll/node/sql/ddl"
	"github.com/atolldb/atoll/node/sql/exec/rowio"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgcatalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
)

// session is a minimal SQL session on a fake database.
type session struct {
	db      *catalogtest.DB
	m       *catalog.Manager
	tx      *catalogtest.Txn
	col     *catalog.Collection
	block   bool
	failed  bool
	notices []string
	seqs    ddl.Sequences
	user    *catalog.Role
	cur     *parser.Statement
}

func (s *session) Catalog() *catalog.Collection { return s.col }
func (s *session) Path() catalog.Path {
	return catalog.Path{Database: 5, DatabaseName: "postgres", Search: []string{"$user", "public"}, User: "postgres"}
}
func (s *session) User() *catalog.Role { return s.user }
func (s *session) InBlock() bool       { return s.block }
func (s *session) Notice(severity, code, message string) {
	s.notices = append(s.notices, severity+": "+message)
}
func (s *session) Position(loc int32) int { return s.cur.Position(loc) }

func newSession(db *catalogtest.DB, m *catalog.Manager) *session {
	s := &session{db: db, m: m, user: &catalog.Role{Superuser: true}}
	s.user.ID, s.user.Name = catalog.SuperuserID, "postgres"
	s.seqs.Session = s
	return s
}

func (s *session) begin() {
	s.tx = s.db.Begin()
	s.col = s.m.NewCollection(s.tx)
}

func (s *session) end(ctx context.Context, commit bool) error {
	var err error
	if commit {
		if err = s.col.BeforeCommit(ctx); err == nil {
			err = s.tx.Commit()
		}
	}
	s.col.Finish(ctx, commit && err == nil)
	s.tx, s.col = nil, nil
	return err
}

// in runs f in the open block or a transaction of its own, with retries.
func (s *session) in(ctx context.Context, f func(context.Context) error) error {
	if s.block {
		err := f(ctx)
		s.failed = s.failed || err != nil
		return err
	}
	for try := 0; ; try++ {
		s.begin()
		err := f(ctx)
		if e := s.end(ctx, err == nil); err == nil {
			err = e
		}
		if try > 20 || !catalog.IsRestart(err) && !errors.Is(err, catalogtest.ErrRetry) {
			return err
		}
		s.notices = nil
	}
}

func (s *session) exec(ctx context.Context, sql string) (string, error) {
	sts, err := parser.Parse(sql)
	if err != nil {
		return "", err
	}
	var tags []string
	for _, st := range sts {
		s.cur = st
		if t := st.Node.GetTransactionStmt(); t != nil {
			switch t.Kind {
			case ast.TransactionStmtKind_TRANS_STMT_BEGIN:
				s.begin()
				s.block, s.failed = true, false
			case ast.TransactionStmtKind_TRANS_STMT_COMMIT:
				s.block = false
				err = s.end(ctx, !s.failed)
			case ast.TransactionStmtKind_TRANS_STMT_ROLLBACK:
				s.block = false
				err = s.end(ctx, false)
			}
			if err != nil {
				return "", err
			}
			continue
		}
		if ins := st.Node.GetInsertStmt(); ins != nil {
			err = s.in(ctx, func(ctx context.Context) error { return s.insert(ctx, ins) })
			if err != nil {
				return "", err
			}
			continue
		}
		var tag string
		err = s.in(ctx, func(ctx context.Context) (err error) {
			x := &ddl.Executor{Session: s, Exprs: &exprs{s}, Rows: rowio.RowCodec{}}
			tag, err = x.Execute(ctx, st.Node)
			return err
		})
		if err != nil {
			return "", err
		}
		tags = append(tags, tag)
	}
	return strings.Join(tags, "\n"), nil
}

// insert handles INSERT INTO t VALUES (constants).
func (s *session) insert(ctx context.Context, ins *ast.InsertStmt) error {
	t, err := s.col.ResolveTable(ctx, s.Path(), ins.Relation.Schemaname, ins.Relation.Relname, 0)
	if err != nil {
		return err
	}
	for _, l := range ins.SelectStmt.GetSelectStmt().ValuesLists {
		row := make([]types.Datum, len(t.Columns))
		vals := l.GetList().Items
		for i := range t.Columns {
			c := &t.Columns[i]
			switch {
			case c.Hidden:
				row[i] = types.NewInt(catalog.NewRowID(1))
			case i < len(vals):
				k := vals[i].GetAConst()
				if k == nil || k.Isnull {
					continue
				}
				if row[i], err = types.ParseText(c.Type.OID, c.Type.Mod, constant(k), nil); err != nil {
					return err
				}
			case c.Default != "":
				if row[i], _, err = (&exprs{s}).EvalDefault(ctx, t, c); err != nil {
					return err
				}
			}
		}
		for _, ix := range t.WritableIndexes() {
			k, v, err := rowio.EncodeEntry(t, ix, row)
			if err != nil {
				return err
			}
			if err := s.tx.Put(ctx, k, v, kv.Condition{}); err != nil {
				return err
			}
		}
	}
	return nil
}

func constant(k *ast.A_Const) string {
	switch {
	case k.GetIval() != nil:
		return strconv.Itoa(int(k.GetIval().Ival))
	case k.GetSval() != nil:
		return k.GetSval().Sval
	case k.GetFval() != nil:
		return k.GetFval().Fval
	}
	return ""
}

// exprs understands constants, nextval('...') and "column > number".
type exprs struct{ s *session }

func (e *exprs) TypeName(n *ast.TypeName) (types.OID, int32, error) {
	var name string
	for _, p := range n.Names {
		name = p.GetString_().Sval
	}
	t, ok := types.LookupName(name)
	if !ok {
		return 0, 0, pgerror.New("42704", "type %q does not exist", name)
	}
	var mods []int32
	for _, m := range n.Typmods {
		mods = append(mods, m.GetAConst().GetIval().GetIval())
	}
	mod, err := types.EncodeTypmod(t.OID, mods)
	return t.OID, mod, err
}

func (e *exprs) BindDefault(ctx context.Context, n *ast.Node, c *catalog.Column) (string, []catalog.ID, error) {
	if f := n.GetFuncCall(); f != nil {
		r, err := e.s.col.ResolveRelation(ctx, e.s.Path(), "", f.Args[0].GetAConst().GetSval().Sval)
		if err != nil {
			return "", nil, err
		}
		return fmt.Sprintf("nextval('%d'::regclass)", r.ID()), []catalog.ID{r.ID()}, nil
	}
	return constant(n.GetAConst()), nil, nil
}

var nextval = regexp.MustCompile(`^nextval\('(\d+)'::regclass\)$`)

func (e *exprs) EvalDefault(ctx context.Context, t *catalog.Table, c *catalog.Column) (types.Datum, bool, error) {
	if c.Identity != 0 {
		v, err := e.s.seqs.NextVal(ctx, types.OID(c.Sequence))
		return types.NewInt(v), false, err
	}
	if m := nextval.FindStringSubmatch(c.Default); m != nil {
		id, _ := strconv.Atoi(m[1])
		v, err := e.s.seqs.NextVal(ctx, types.OID(id))
		return types.NewInt(v), false, err
	}
	d, err := types.ParseText(c.Type.OID, c.Type.Mod, c.Default, nil)
	return d, true, err
}

func (e *exprs) BindCheck(ctx context.Context, n *ast.Node, t *catalog.Table) (string, []catalog.ColumnID, error) {
	a := n.GetAExpr()
	name := a.Lexpr.GetColumnRef().Fields[0].GetString_().Sval
	c := t.ColumnByName(name)
	if c == nil {
		return "", nil, pgerror.New("42703", "column %q does not exist", name)
	}
	return fmt.Sprintf("%s > %s", name, constant(a.Rexpr.GetAConst())), []catalog.ColumnID{c.ID}, nil
}

func (e *exprs) EvalCheck(ctx context.Context, t *catalog.Table, k *catalog.Constraint, row []types.Datum) (bool, error) {
	f := strings.Fields(k.Expr)
	for i := range t.Columns {
		if t.Columns[i].Name == f[0] {
			n, err := strconv.ParseInt(f[2], 10, 64)
			return row[i].IsNull() || row[i].Int() > n, err
		}
	}
	return false, errors.New("no such column: " + f[0])
}

func (e *exprs) BindUsing(ctx context.Context, n *ast.Node, t *catalog.Table, c *catalog.Column, to catalog.TypeRef) (func([]types.Datum) (types.Datum, error), error) {
	at := -1
	for i := range t.Columns {
		if t.Columns[i].ID == c.ID {
			at = i
		}
	}
	return func(row []types.Datum) (types.Datum, error) {
		if row[at].IsNull() {
			return types.Null, nil
		}
		return types.ParseText(to.OID, to.Mod, types.Text(c.Type.OID, row[at], nil), nil)
	}, nil
}

// describe prints a table as \d does, and its rows by every public index.
func (s *session) describe(ctx context.Context, name string) (out string, err error) {
	var b strings.Builder
	err = s.in(ctx, func(ctx context.Context) error {
		b.Reset()
		t, err := s.col.ResolveTable(ctx, s.Path(), "", name, 0)
		if err != nil {
			return err
		}
		f := &pgcatalog.Functions{Ctx: ctx, Query: &catalog.VirtualQuery{Catalog: s.col, Path: s.Path(), User: 10}}
		for _, c := range t.VisibleColumns() {
			fmt.Fprintf(&b, "%d %s %s", c.ID, c.Name, types.FormatType(c.Type.OID, c.Type.Mod))
			if c.NotNull {
				b.WriteString(" not null")
			}
			if c.Default != "" {
				b.WriteString(" default " + regexp.MustCompile(`'(\d+)'::regclass`).ReplaceAllStringFunc(c.Default, func(m string) string {
					id, _ := strconv.Atoi(strings.Split(m, "'")[1])
					n, _ := f.ObjectName(types.OIDRegClass, types.OID(id))
					return n
				}))
			}
			if c.Identity != 0 {
				b.WriteString(" identity " + string(rune(c.Identity)))
			}
			b.WriteByte('\n')
		}
		for _, ix := range t.DeletableIndexes() {
			if ix.ID != 0 {
				def, _, err := f.Definition(builtins.IndexDef, types.OID(ix.ID), 0, true)
				if err != nil {
					return err
				}
				fmt.Fprintf(&b, "%s%s\n", def, map[bool]string{true: "", false: " INVALID"}[ix.State == catalog.StatePublic])
			}
		}
		for _, c := range t.Constraints {
			def, _, err := f.Definition(builtins.ConstraintDef, types.OID(c.ID), 0, true)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s %s\n", c.Name, def)
		}
		rows, err := s.tx.Scan(ctx, t.IndexSpan(&t.Primary), 0)
		if err != nil {
			return err
		}
		for _, kvp := range rows {
			row, err := rowio.DecodeRow(t, kvp.Key, kvp.Value)
			if err != nil {
				return err
			}
			var vals []string
			for i, c := range t.Columns {
				switch {
				case c.Hidden:
				case row[i].IsNull():
					vals = append(vals, "NULL")
				default:
					vals = append(vals, types.Text(c.Type.OID, row[i], nil))
				}
			}
			fmt.Fprintf(&b, "(%s)\n", strings.Join(vals, ", "))
			for _, ix := range t.PublicIndexes() {
				k, v, err := rowio.EncodeEntry(t, ix, row)
				if err != nil {
					return err
				}
				r, err := s.tx.Get(ctx, k, false)
				if err != nil {
					return err
				}
				// A row that was stored before a column came or went has another value.
				if !r.Exists || !ix.Primary && string(r.Value) != string(v) {
					fmt.Fprintf(&b, "  MISSING in index %q\n", ix.Name)
				}
			}
		}
		for _, ix := range t.PublicIndexes() {
			es, err := s.tx.Scan(ctx, t.IndexSpan(ix), 0)
			if err != nil {
				return err
			}
			if len(es) != len(rows) {
				fmt.Fprintf(&b, "index %q has %d entries for %d rows\n", ix.Name, len(es), len(rows))
			}
		}
		return nil
	})
	return b.String(), err
}

func render(err error) string {
	var pe *pgerror.Error
	if !errors.As(err, &pe) {
		return "error: " + err.Error()
	}
	out := "ERROR " + pe.Code + ": " + pe.Message
	if pe.Detail != "" {
		out += "\nDETAIL: " + pe.Detail
	}
	if pe.Hint != "" {
		out += "\nHINT: " + pe.Hint
	}
	return out
}

func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, file string) {
		synctest.Test(t, func(t *testing.T) {
			ctx := context.Background()
			db := catalogtest.New()
			require.NoError(t, catalog.EnsureBootstrap(ctx, db))
			var ms []*catalog.Manager
			for i := range 2 {
				m := catalog.NewManager(catalog.Config{DB: db, Node: keys.NodeID(i + 1)})
				m.Start()
				defer m.Close()
				ms = append(ms, m)
			}
			sessions := []*session{newSession(db, ms[0]), newSession(db, ms[1])}
			datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string {
				s := sessions[0]
				if d.HasArg("node") {
					s = sessions[1]
				}
				s.notices = nil
				var out string
				var err error
				switch d.Cmd {
				case "sql":
					out, err = s.exec(ctx, d.Input)
				case "d":
					out, err = s.describe(ctx, d.CmdArgs[0].Key)
				case "nextval", "currval", "setval":
					err = s.in(ctx, func(ctx context.Context) error {
						id, err := (&pgcatalog.Functions{Ctx: ctx, Query: &catalog.VirtualQuery{Catalog: s.col, Path: s.Path()}}).ObjectOID(types.OIDRegClass, d.CmdArgs[0].Key)
						if err != nil {
							return err
						}
						var v int64
						switch d.Cmd {
						case "nextval":
							v, err = s.seqs.NextVal(ctx, id)
						case "currval":
							v, err = s.seqs.CurrVal(ctx, id)
						default:
							v, _ = strconv.ParseInt(d.CmdArgs[1].Key, 10, 64)
							err = s.seqs.SetVal(ctx, id, v, !d.HasArg("uncalled"))
						}
						out = strconv.FormatInt(v, 10)
						return err
					})
				}
				lines := s.notices
				if err != nil {
					lines = append(lines, render(err))
				} else {
					lines = append(lines, strings.TrimSuffix(out, "\n"))
				}
				return strings.Join(lines, "\n")
			})
		})
	})
}
