package pgcatalog

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/catalog/catalogtest"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/stretchr/testify/require"
)

var path = catalog.Path{Database: 5, DatabaseName: "postgres", Search: []string{"$user", "public"}, User: "postgres"}

// withObjects runs f with a view of a catalog that has a table, its indexes and sequences.
func withObjects(t *testing.T, f func(ctx context.Context, q *catalog.VirtualQuery)) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		db := catalogtest.New()
		require.NoError(t, catalog.EnsureBootstrap(ctx, db))
		m := catalog.NewManager(catalog.Config{DB: db, Node: 1})
		m.Start()
		defer m.Close()
		require.NoError(t, m.Run(ctx, "test", func(ctx context.Context, c *catalog.Collection) error {
			seq := &catalog.Sequence{Type: types.OIDInt8, Start: 1, Increment: 1, Min: 1, Max: 9, Cache: 1, OwnerTable: 20000, OwnerColumn: 1, Storage: 1}
			seq.Header = catalog.Header{ID: 20001, Name: "T one_id_seq", Database: 5, Schema: 2200, Owner: 10}
			tb := &catalog.Table{Persistence: 'p', NextColumn: 4,
				Columns: []catalog.Column{
					{ID: 1, Name: "id", Type: catalog.TypeRef{OID: types.OIDInt8, Mod: -1}, NotNull: true, State: catalog.StatePublic, Sequence: 20001, Default: "nextval('20001'::regclass)"},
					{ID: 2, Name: "name", Type: catalog.TypeRef{OID: types.OIDVarChar, Mod: 24}, State: catalog.StatePublic, Default: "'x'::character varying"},
					{ID: 3, Name: "n", Type: catalog.TypeRef{OID: types.OIDNumeric, Mod: 10<<16 + 2 + 4}, State: catalog.StatePublic},
				},
				Primary: catalog.Index{ID: 20002, Name: "T one_pkey", Unique: true, Primary: true, State: catalog.StatePublic, Storage: 1, Columns: []catalog.IndexColumn{{Column: 1}}, Constraint: true},
				Indexes: []catalog.Index{{ID: 20003, Name: "by_name", State: catalog.StatePublic, Storage: 2, Stored: []catalog.ColumnID{3}, Suffix: []catalog.ColumnID{1},
					Columns: []catalog.IndexColumn{{Column: 2, Dir: catalog.Descending}, {Column: 1, NullsFirst: true}}, Options: []string{"fillfactor=70"}}},
				Constraints: []catalog.Constraint{
					{ID: 20004, Name: "T one_pkey", Kind: catalog.PrimaryKeyConstraint, Columns: []catalog.ColumnID{1}, Index: 20002, Validated: true, State: catalog.StatePublic},
					{ID: 20005, Name: "n_check", Kind: catalog.CheckConstraint, Columns: []catalog.ColumnID{3}, Expr: "(n > (0)::numeric)", Validated: true, State: catalog.StatePublic},
				}}
			tb.Header = catalog.Header{ID: 20000, Name: "T one", Database: 5, Schema: 2200, Owner: 10, ACL: []catalog.ACLItem{{Grantee: 0, Grantor: 10, Privs: catalog.PrivSelect}}}
			for _, d := range []catalog.Descriptor{seq, tb} {
				if ok, err := c.Create(ctx, d); err != nil || !ok {
					return fmt.Errorf("create: %v %v", ok, err)
				}
			}
			for _, ix := range tb.DeletableIndexes() {
				if _, err := c.AddName(ctx, catalog.Name{Class: catalog.ClassRelation, Database: 5, Schema: 2200, Name: ix.Name}, catalog.Entry{Kind: catalog.KindIndex, ID: ix.ID, Table: 20000}); err != nil {
					return err
				}
			}
			return catalog.PutComment(ctx, c.Txn(), catalog.Comment{ClassOID: catalog.ClassOIDRelation, Object: 20000, Sub: 2, Text: "a comment"})
		}))
		require.NoError(t, m.Run(ctx, "test", func(ctx context.Context, c *catalog.Collection) error {
			f(ctx, &catalog.VirtualQuery{Catalog: c, Path: path, User: 10,
				Settings: func() []catalog.Setting { return []catalog.Setting{{Name: "a", Value: "b", Type: "string"}} },
				Sessions: func() []catalog.SessionInfo {
					return []catalog.SessionInfo{{PID: 7, Database: "postgres", User: "postgres", Client: "127.0.0.1:99"}}
				},
				Cluster: cluster{}})
			return nil
		}))
	})
}

type cluster struct{}

func (cluster) Zones(context.Context) ([]catalog.ZoneInfo, error) {
	return []catalog.ZoneInfo{{Region: "us", Zone: "a", Status: "healthy", Nodes: 1, Live: 1}}, nil
}
func (cluster) Nodes(context.Context) ([]catalog.NodeInfo, error) {
	return []catalog.NodeInfo{{ID: 1, Zone: "a", Status: "live"}}, nil
}
func (cluster) Ranges(context.Context) ([]catalog.RangeInfo, error) {
	return []catalog.RangeInfo{{ID: 2, Start: []byte{3}, Leaseholder: 1, Replicas: []catalog.RangeReplica{{Node: 1, ID: 1, Voter: true, Zone: "a"}, {Node: 2, ID: 4, Voter: true, Zone: "b", Problem: "differs from the others"}}},
		{ID: 3, Start: []byte{4, 0, 0, 0x4e, 0x20, 0, 0, 0, 1, 0x88}, End: []byte{0xff, 0xff}}}, nil
}

func (cluster) Events(context.Context) ([]catalog.EventInfo, error) {
	return []catalog.EventInfo{{At: time.Unix(1, 0), Node: 1, Kind: "lease", Range: 2, Other: 2, What: "node 1 has the lease", Cause: "a test"}, {Node: 1, Kind: "node"}}, nil
}

func (cluster) Jobs(context.Context) ([]catalog.JobInfo, error) {
	return []catalog.JobInfo{{Kind: "copy", Node: 1, Range: 3, Other: 2, What: "a replica of range 3 goes to node 2", Started: time.Unix(100, 0), Done: 10, Total: 40, Left: 30 * time.Second},
		{Kind: "decommission", Node: 2, What: "5 replicas are left on node 2", Total: 7}}, nil
}

func (cluster) Violations(context.Context) ([]catalog.ViolationInfo, error) {
	return []catalog.ViolationInfo{{Range: 2, Leaseholder: 1, Status: "stuck", Since: time.Unix(1, 0), Reason: "2 of 3 voters"}}, nil
}

// TestEveryRelation evaluates all relations: each value has a kind that its column's type can print.
func TestEveryRelation(t *testing.T) {
	withObjects(t, func(ctx context.Context, q *catalog.VirtualQuery) {
		rows := map[string]int{}
		for schema, ts := range all() {
			for name, tb := range ts {
				for _, c := range tb.cols {
					if _, ok := types.Lookup(c.Type.OID); !ok && c.Type.OID != 10028 && c.Type.OID != 5017 && c.Type.OID != 3402 && c.Type.OID != 3361 {
						t.Errorf("%s.%s.%s has unknown type %d", schema, name, c.Name, c.Type.OID)
					}
				}
				err := tb.Rows(ctx, q, func(row []types.Datum) error {
					require.Len(t, row, len(tb.cols))
					for i, d := range row {
						if !d.IsNull() {
							if s := types.Text(tb.cols[i].Type.OID, d, nil); strings.Contains(s, "%!") {
								return fmt.Errorf("%s.%s: %s", name, tb.cols[i].Name, s)
							}
						}
					}
					rows[schema+"."+name]++
					return nil
				})
				require.NoError(t, err, "%s.%s", schema, name)
			}
		}
		for _, n := range []string{"pg_catalog.pg_class", "pg_catalog.pg_attribute", "pg_catalog.pg_type", "pg_catalog.pg_proc", "pg_catalog.pg_index",
			"pg_catalog.pg_constraint", "pg_catalog.pg_roles", "pg_catalog.pg_am", "pg_catalog.pg_operator", "pg_catalog.pg_sequences", "pg_catalog.pg_stat_activity",
			"information_schema.columns", "information_schema.tables", "information_schema.table_constraints", "atoll.zones", "atoll.nodes", "atoll.ranges", "atoll.replicas", "atoll.events", "atoll.placement_violations"} {
			require.NotZero(t, rows[n], n)
		}
	})
}

// find returns the rows of a relation whose column has a text, as text.
func find(t *testing.T, ctx context.Context, q *catalog.VirtualQuery, schema, name, column, value string) []map[string]string {
	tb := all()[schema][name]
	var out []map[string]string
	require.NoError(t, tb.Rows(ctx, q, func(row []types.Datum) error {
		m := map[string]string{}
		for i, d := range row {
			if !d.IsNull() {
				m[tb.cols[i].Name] = types.Text(tb.cols[i].Type.OID, d, nil)
			}
		}
		if m[column] == value {
			out = append(out, m)
		}
		return nil
	}))
	return out
}

func TestDefinitions(t *testing.T) {
	withObjects(t, func(ctx context.Context, q *catalog.VirtualQuery) {
		f := &Functions{Ctx: ctx, Query: q}
		def := func(k builtins.Definition, oid types.OID, col int, pretty bool) string {
			s, ok, err := f.Definition(k, oid, col, pretty)
			require.NoError(t, err)
			require.True(t, ok)
			return s
		}
		require.Equal(t, `CREATE UNIQUE INDEX "T one_pkey" ON public."T one" USING btree (id)`, def(builtins.IndexDef, 20002, 0, false))
		require.Equal(t, `CREATE INDEX by_name ON "T one" USING btree (name DESC NULLS LAST, id NULLS FIRST) INCLUDE (n) WITH (fillfactor='70')`, def(builtins.IndexDef, 20003, 0, true))
		require.Equal(t, `PRIMARY KEY (id)`, def(builtins.ConstraintDef, 20004, 0, true))
		require.Equal(t, `CHECK ((n > (0)::numeric))`, def(builtins.ConstraintDef, 20005, 0, false))
		require.Equal(t, `public."T one_id_seq"`, def(builtins.SerialSequence, 20000, 1, false))

		d := find(t, ctx, q, catalog.CatalogSchema, "pg_attrdef", "adnum", "1")
		require.Equal(t, `nextval('"T one_id_seq"'::regclass)`, d[0]["adbin"])
		require.Equal(t, "{=r/postgres}", find(t, ctx, q, catalog.CatalogSchema, "pg_class", "relname", "T one")[0]["relacl"])
		c := find(t, ctx, q, catalog.InfoSchema, "columns", "table_name", "T one")
		require.Len(t, c, 3)
		require.Equal(t, "10", c[2]["numeric_precision"])
		require.Equal(t, "20", c[1]["character_maximum_length"])
		require.Equal(t, "NO", c[0]["is_nullable"])
		ix := find(t, ctx, q, catalog.CatalogSchema, "pg_index", "indexrelid", "20003")
		require.Equal(t, "2 1 3", ix[0]["indkey"])
		require.Equal(t, "1 2", ix[0]["indoption"])
		require.Equal(t, "3126 3124", ix[0]["indclass"]) // text_ops, int8_ops as PostgreSQL fixes them

		name, ok := f.ObjectName(types.OIDRegClass, 20000)
		require.True(t, ok)
		require.Equal(t, `"T one"`, name)
		name, _ = f.ObjectName(types.OIDRegClass, 1259)
		require.Equal(t, "pg_class", name)
		name, _ = f.ObjectName(types.OIDRegClass, types.OID(all()[catalog.InfoSchema]["tables"].id))
		require.Equal(t, "information_schema.tables", name)
		oid, err := f.ObjectOID(types.OIDRegClass, `public."T one"`)
		require.NoError(t, err)
		require.EqualValues(t, 20000, oid)
		_, err = f.ObjectOID(types.OIDRegClass, "T one")
		require.ErrorContains(t, err, `relation "t one" does not exist`)
		oid, err = f.ObjectOID(types.OIDRegType, "character varying(20)[]")
		require.NoError(t, err)
		require.EqualValues(t, 1015, oid)
		vis, exists := f.Visible(types.OIDRegClass, 20000)
		require.True(t, vis && exists)
		text, ok := f.Comment(types.OID(catalog.ClassOIDRelation), 20000, 2)
		require.True(t, ok)
		require.Equal(t, "a comment", text)
		require.NoError(t, f.Err())
		r := find(t, ctx, q, catalog.AtollSchema, "ranges", "range_id", "3")
		require.Equal(t, "/Table/20000/1/88", r[0]["start_key"])
		require.Equal(t, "public.T one", r[0]["table_name"])
		require.Empty(t, r[0]["problem"])
		r = find(t, ctx, q, catalog.AtollSchema, "ranges", "range_id", "2")
		require.Equal(t, "replica 4 on node 2 differs from the others and is being replaced", r[0]["problem"])
		r = find(t, ctx, q, catalog.AtollSchema, "jobs", "kind", "copy")
		require.Equal(t, []string{"40", "30"}, []string{r[0]["total_bytes"], r[0]["seconds_left"]})
		r = find(t, ctx, q, catalog.AtollSchema, "jobs", "kind", "decommission")
		require.Equal(t, []string{"7", ""}, []string{r[0]["total_bytes"], r[0]["seconds_left"]}, "how long is not known")
	})
}

func FuzzSplitName(f *testing.F) {
	f.Add(`a."b""c".d(int, text)`)
	f.Fuzz(func(t *testing.T, s string) {
		parts, err := SplitName(s)
		if err == nil {
			require.NotEmpty(t, parts)
		}
	})
}
