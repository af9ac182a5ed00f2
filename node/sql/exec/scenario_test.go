package exec_test

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/exec"
	"github.com/atolldb/atoll/node/sql/exec/rowio"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan"
	"github.com/atolldb/atoll/node/sql/plan/bind"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

// world is a database of tables that the test makes itself, over a fake transaction.
type world struct {
	t      testing.TB
	tables map[string]*catalog.Table
	nextID catalog.ID
	txn    *fakeTxn
	rowID  int64
	seq    map[types.OID]int64
	stats  map[catalog.ID]float64
	mem    *exec.Memory
	quiet  bool // no header over an empty result
}

func newWorld(t testing.TB) *world {
	return &world{t: t, tables: map[string]*catalog.Table{}, nextID: catalog.FirstUserID, txn: newFakeTxn(),
		seq: map[types.OID]int64{}, stats: map[catalog.ID]float64{}}
}

func (w *world) Rows(id catalog.ID) float64 { return w.stats[id] }

func (w *world) Relation(_ context.Context, _, schema, name string) (*bind.Relation, error) {
	if schema != "" && schema != "public" && schema != "pg_catalog" {
		return nil, pgerror.New("3F000", "schema \"%s\" does not exist", schema)
	}
	if name == "pg_virtual" {
		return &bind.Relation{Schema: "pg_catalog", Virtual: virtualTable{}}, nil
	}
	t := w.tables[name]
	if t == nil {
		return nil, nil
	}
	return &bind.Relation{Schema: "public", Table: t}, nil
}

// virtualTable has rows (1, 'one'), (2, 'two'), (3, NULL).
type virtualTable struct{}

func (virtualTable) ID() catalog.ID { return 99 }
func (virtualTable) Schema() string { return "pg_catalog" }
func (virtualTable) Name() string   { return "pg_virtual" }
func (virtualTable) Columns() []logical.VirtualColumn {
	return []logical.VirtualColumn{
		{Name: "oid", Type: catalog.TypeRef{OID: types.OIDOID, Mod: -1}},
		{Name: "relname", Type: catalog.TypeRef{OID: types.OIDName, Mod: -1}},
	}
}

func virtualRows(_ context.Context, _ logical.VirtualTable, emit func([]types.Datum) (bool, error)) error {
	for _, r := range [][]types.Datum{{types.NewInt(1), types.NewString("one")}, {types.NewInt(2), types.NewString("two")}, {types.NewInt(3), types.Null}} {
		if more, err := emit(r); !more || err != nil {
			return err
		}
	}
	return nil
}

// createTable makes a descriptor of CREATE TABLE, as far as tests need it.
func (w *world) createTable(n *ast.CreateStmt) error {
	t := &catalog.Table{Header: catalog.Header{ID: w.nextID, Version: 1, Name: n.Relation.Relname, Schema: catalog.PublicSchemaID, State: catalog.DescPublic}, NextStorage: 2}
	w.nextID++
	var primary []string
	var unique [][]string
	for _, e := range n.TableElts {
		switch v := e.GetNode().(type) {
		case *ast.Node_ColumnDef:
			oid, mod, err := bind.TypeName(v.ColumnDef.TypeName)
			if err != nil {
				return err
			}
			c := catalog.Column{ID: catalog.ColumnID(len(t.Columns) + 1), Name: v.ColumnDef.Colname, Type: catalog.TypeRef{OID: oid, Mod: mod}, State: catalog.StatePublic}
			for _, k := range v.ColumnDef.Constraints {
				k := k.GetConstraint()
				switch k.Contype {
				case ast.ConstrType_CONSTR_PRIMARY:
					primary = []string{c.Name}
				case ast.ConstrType_CONSTR_UNIQUE:
					unique = append(unique, []string{c.Name})
				case ast.ConstrType_CONSTR_NOTNULL:
					c.NotNull = true
				case ast.ConstrType_CONSTR_DEFAULT:
					if c.Default, err = parser.DeparseExpr(k.RawExpr); err != nil {
						return err
					}
				case ast.ConstrType_CONSTR_CHECK:
					text, err := parser.DeparseExpr(k.RawExpr)
					if err != nil {
						return err
					}
					t.Constraints = append(t.Constraints, catalog.Constraint{Name: t.Name + "_" + c.Name + "_check", Kind: catalog.CheckConstraint, Expr: text, State: catalog.StatePublic})
				}
			}
			t.Columns = append(t.Columns, c)
		case *ast.Node_Constraint:
			var cols []string
			for _, k := range v.Constraint.Keys {
				cols = append(cols, k.GetString_().Sval)
			}
			if v.Constraint.Contype == ast.ConstrType_CONSTR_PRIMARY {
				primary = cols
			} else {
				unique = append(unique, cols)
			}
		}
	}
	t.Primary = catalog.Index{ID: w.nextID, Name: t.Name + "_pkey", Unique: true, Primary: true, State: catalog.StatePublic, Storage: 1, Constraint: true}
	w.nextID++
	if primary == nil {
		t.Columns = append(t.Columns, catalog.Column{ID: catalog.RowIDColumn, Name: catalog.RowIDName, Type: catalog.TypeRef{OID: types.OIDInt8, Mod: -1}, NotNull: true, Hidden: true, State: catalog.StatePublic})
		t.Primary.Columns = []catalog.IndexColumn{{Column: catalog.RowIDColumn}}
		t.Primary.ID = 0
	}
	for _, c := range primary {
		col := t.ColumnByName(c)
		col.NotNull = true
		t.Primary.Columns = append(t.Primary.Columns, catalog.IndexColumn{Column: col.ID})
	}
	for _, u := range unique {
		w.addIndex(t, t.Name+"_"+strings.Join(u, "_")+"_key", u, nil, true)
	}
	w.tables[t.Name] = t
	return nil
}

func (w *world) addIndex(t *catalog.Table, name string, cols []string, desc []bool, unique bool) {
	ix := catalog.Index{ID: w.nextID, Name: name, Unique: unique, State: catalog.StatePublic, Storage: t.NextStorage}
	w.nextID++
	t.NextStorage++
	own := map[catalog.ColumnID]bool{}
	for i, c := range cols {
		ic := catalog.IndexColumn{Column: t.ColumnByName(c).ID}
		if desc != nil && desc[i] {
			ic.Dir, ic.NullsFirst = catalog.Descending, true
		}
		own[ic.Column] = true
		ix.Columns = append(ix.Columns, ic)
	}
	for _, p := range t.Primary.Columns {
		if !own[p.Column] {
			ix.Suffix = append(ix.Suffix, p.Column)
		}
	}
	t.Indexes = append(t.Indexes, ix)
}

func (w *world) backfill(t *catalog.Table, ix *catalog.Index) error {
	w.txn.Step()
	span := t.IndexSpan(&t.Primary)
	for k, r := range w.txn.rows {
		if k < string(span.Key) || k >= string(span.EndKey) {
			continue
		}
		row, err := rowio.DecodeRow(t, []byte(k), r.value)
		if err != nil {
			return err
		}
		key, value, err := rowio.EncodeEntry(t, ix, row)
		if err != nil {
			return err
		}
		if err := w.txn.Put(context.Background(), key, value, kv.Condition{}); err != nil {
			return err
		}
	}
	w.txn.Step()
	return nil
}

func (w *world) ddl(n *ast.Node) (string, bool, error) {
	switch v := n.GetNode().(type) {
	case *ast.Node_CreateStmt:
		return "CREATE TABLE", true, w.createTable(v.CreateStmt)
	case *ast.Node_IndexStmt:
		t := w.tables[v.IndexStmt.Relation.Relname].Clone()
		var cols []string
		var desc []bool
		for _, p := range v.IndexStmt.IndexParams {
			cols = append(cols, p.GetIndexElem().Name)
			desc = append(desc, p.GetIndexElem().Ordering == ast.SortByDir_SORTBY_DESC)
		}
		t.Version++
		w.addIndex(t, v.IndexStmt.Idxname, cols, desc, v.IndexStmt.Unique)
		w.tables[t.Name] = t
		return "CREATE INDEX", true, w.backfill(t, &t.Indexes[len(t.Indexes)-1])
	}
	return "", false, nil
}

// sequences counts by OID.
type sequences struct{ w *world }

func (s sequences) NextVal(_ context.Context, o types.OID) (int64, error) {
	s.w.seq[o]++
	return s.w.seq[o], nil
}
func (s sequences) CurrVal(_ context.Context, o types.OID) (int64, error) { return s.w.seq[o], nil }
func (s sequences) SetVal(_ context.Context, o types.OID, v int64, _ bool) error {
	s.w.seq[o] = v
	return nil
}
func (s sequences) Peek(_ context.Context, o types.OID) (int64, bool, error) {
	return s.w.seq[o], s.w.seq[o] > 0, nil
}
func (s sequences) LastVal(context.Context) (int64, error) { return 0, nil }

func (w *world) planContext() plan.Context {
	return plan.Context{Catalog: w, Env: types.DefaultEnv(), Stats: w}
}

func (w *world) execContext(args []types.Datum) *exec.Context {
	return &exec.Context{Txn: w.txn, Params: args, Virtual: virtualRows, Memory: w.mem,
		Eval:     &builtins.EvalContext{Env: types.DefaultEnv(), Sequences: sequences{w}},
		NewRowID: func() int64 { w.rowID++; return w.rowID }}
}

// run executes statements and prints their results.
func (w *world) run(sql string, args []string) string {
	var out strings.Builder
	sts, err := parser.Parse(sql)
	if err != nil {
		return describe(err, sql)
	}
	for _, st := range sts {
		tag, did, err := w.ddl(st.Node)
		if did {
			if err != nil {
				return describe(err, sql)
			}
			fmt.Fprintln(&out, tag)
			continue
		}
		w.txn.Step()
		pc := w.planContext()
		pc.NoParams = len(args) == 0
		p, err := plan.Prepare(context.Background(), pc, st, nil)
		if err != nil {
			out.WriteString(describe(err, sql))
			return out.String()
		}
		if err := w.exec(&out, p, args); err != nil {
			w.txn.Discard()
			out.WriteString(describe(err, sql))
			return out.String()
		}
		w.txn.Step()
	}
	return out.String()
}

func (w *world) exec(out *strings.Builder, p *plan.Plan, args []string) error {
	ctx := context.Background()
	var params []types.Datum
	for i, a := range args {
		if i >= len(p.ParamTypes) {
			break
		}
		if a == "NULL" {
			params = append(params, types.Null)
			continue
		}
		d, err := types.ParseText(p.ParamTypes[i], -1, a, nil)
		if err != nil {
			return err
		}
		params = append(params, d)
	}
	rows, err := exec.Run(ctx, w.execContext(params), p)
	if err != nil {
		return err
	}
	defer rows.Close()
	head := p.Columns != nil
	for {
		b, err := rows.Next(ctx, 0)
		if err != nil {
			return err
		}
		if head && (b != nil || !w.quiet) {
			head = false
			var l []string
			for _, c := range p.Columns {
				l = append(l, c.Name+":"+types.FormatType(c.Typ, c.Mod))
			}
			fmt.Fprintln(out, strings.Join(l, " | "))
		}
		if b == nil {
			break
		}
		for i := 0; i < b.Len; i++ {
			var cells []string
			for j, d := range b.Row(i) {
				if d.IsNull() {
					cells = append(cells, "NULL")
				} else {
					cells = append(cells, types.Text(p.Columns[j].Typ, d, nil))
				}
			}
			fmt.Fprintln(out, strings.Join(cells, " | "))
		}
	}
	fmt.Fprintln(out, rows.Tag())
	return nil
}

// describe prints an error with a caret, as psql does.
func describe(err error, sql string) string {
	var pe *pgerror.Error
	if !errors.As(err, &pe) {
		var re *kv.RetryError
		if errors.As(err, &re) {
			return "RETRY: " + re.Error() + "\n"
		}
		return "ERROR: " + err.Error() + "\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "ERROR %s: %s\n", pe.Code, pe.Message)
	if pe.Position > 0 {
		pos := pe.Position - 1
		line := sql
		for {
			i := strings.IndexByte(line, '\n')
			if i < 0 || pos <= i {
				if i >= 0 {
					line = line[:i]
				}
				break
			}
			pos -= i + 1
			line = line[i+1:]
		}
		fmt.Fprintf(&b, "  %s\n  %s^\n", line, strings.Repeat(" ", pos))
	}
	if pe.Detail != "" {
		fmt.Fprintf(&b, "DETAIL: %s\n", pe.Detail)
	}
	if pe.Hint != "" {
		fmt.Fprintf(&b, "HINT: %s\n", pe.Hint)
	}
	return b.String()
}

func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := newWorld(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "sql":
				var args []string
				for _, a := range d.CmdArgs {
					if a.Key == "args" {
						args = a.Vals
					}
				}
				out := w.run(d.Input, args)
				for _, a := range d.CmdArgs {
					if a.Key == "sorted" {
						l := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
						sort.Strings(l[1 : len(l)-1])
						out = strings.Join(l, "\n") + "\n"
					}
				}
				return out
			case "rows":
				var name string
				var n float64
				d.ScanArgs(t, "table", &name)
				var k int
				d.ScanArgs(t, "n", &k)
				n = float64(k)
				w.stats[w.tables[name].ID] = n
				return ""
			}
			return "unknown command " + d.Cmd
		})
	})
}

func TestCommitErrorNamesConstraint(t *testing.T) {
	w := newWorld(t)
	require.Equal(t, "CREATE TABLE\nINSERT 0 1\n", w.run("create table t (a int primary key, b text unique); insert into t values (1, 'x')", nil))
	var key []byte
	var val []byte
	for k, v := range w.txn.rows {
		if strings.Contains(k, "x") {
			key, val = []byte(k), v.value
		}
	}
	err := exec.DuplicateKey([]*catalog.Table{w.tables["t"]}, &kv.ConditionFailedError{Key: key, Actual: val}, nil)
	var pe *pgerror.Error
	require.True(t, errors.As(err, &pe))
	require.Equal(t, "23505", pe.Code)
	require.Equal(t, `duplicate key value violates unique constraint "t_b_key"`, pe.Message)
	require.Equal(t, "Key (b)=(x) already exists.", pe.Detail)
}

func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t)
	w.mem = exec.NewMemory("statement", 1<<20, nil)
	out := w.run("select g from generate_series(1, 1000000) g order by g desc", nil)
	require.Contains(t, out, "ERROR 53200")
	require.Contains(t, out, "HINT")
	require.Zero(t, w.mem.Used())
}

// TestPortalRowLimits fetches a few rows at a time.
func TestPortalRowLimits(t *testing.T) {
	w := newWorld(t)
	w.run("create table t (a int primary key)", nil)
	w.run("insert into t select * from generate_series(1, 1000)", nil)
	sts, err := parser.Parse("select a from t order by a")
	require.NoError(t, err)
	p, err := plan.Prepare(context.Background(), w.planContext(), sts[0], nil)
	require.NoError(t, err)
	rows, err := exec.Run(context.Background(), w.execContext(nil), p)
	require.NoError(t, err)
	defer rows.Close()
	next := int64(1)
	for {
		b, err := rows.Next(context.Background(), 7)
		require.NoError(t, err)
		if b == nil {
			break
		}
		require.LessOrEqual(t, b.Len, 7)
		for i := 0; i < b.Len; i++ {
			require.Equal(t, next, b.Row(i)[0].Int())
			next++
		}
	}
	require.Equal(t, int64(1001), next)
	require.Equal(t, "SELECT 1000", rows.Tag())
}
