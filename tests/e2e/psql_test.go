package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestPSQL is what somebody sees who tries the database with psql.
func TestPSQL(t *testing.T) {
	c := StartCluster(t)
	c.Exec(t, 0,
		"CREATE TABLE fruit (id int PRIMARY KEY, name text NOT NULL DEFAULT 'apple', price numeric(8,2), UNIQUE (name))",
		"CREATE INDEX fruit_price ON fruit (price DESC)",
		"INSERT INTO fruit VALUES (1, 'apple', 1.50), (2, 'pear', 2), (3, 'plum', NULL)")
	t.Run("describe", func(t *testing.T) { psqlDescribe(t, c) })
	t.Run("errors", func(t *testing.T) { psqlErrors(t, c) })
	t.Run("timing", func(t *testing.T) {
		out := psqlOK(t, c, 0, "\\timing on\nSELECT 1 AS one;\n")
		require.Regexp(t, `(?m)^Time: \d+\.\d+ ms`, out)
	})
	t.Run("copy", func(t *testing.T) { psqlCopy(t, c) })
	t.Run("transaction", func(t *testing.T) { psqlTransaction(t, c) })
	t.Run("completion", func(t *testing.T) { psqlCompletion(t, c) })
	t.Run("10 MB statement", func(t *testing.T) { bigStatement(t, c) })
	t.Run("any node", func(t *testing.T) {
		for node := range c.Nodes() {
			out := psqlOK(t, c, node, "SELECT count(*) FROM fruit;", "-At")
			require.Equal(t, "3\n", out, "node %d", node)
		}
	})
	t.Run("atoll sql", func(t *testing.T) {
		out := c.Atoll(t, "sql", "-c", "SELECT name FROM fruit ORDER BY id", "-c", "SELECT 6*7 AS answer")
		require.Equal(t, "name\napple\npear\nplum\nanswer\n42\n", out)
	})
	t.Run("atoll zones and nodes", func(t *testing.T) {
		out := c.Atoll(t, "zones")
		for _, z := range c.Zones {
			require.Regexp(t, `(?m)^\S+\s+`+z+`\s+healthy\b`, out)
		}
		out = c.Atoll(t, "node", "list", "-o", "json")
		require.Equal(t, c.Nodes(), strings.Count(out, `"node_id"`), out)
	})
}

// psqlOK runs a script that must succeed and returns what it printed.
func psqlOK(t *testing.T, c *Cluster, node int, script string, args ...string) string {
	t.Helper()
	out, errOut, code := c.PSQL(t, node, script, append([]string{"-v", "ON_ERROR_STOP=1"}, args...)...)
	require.Equal(t, 0, code, "%s\n%s%s", script, out, errOut)
	require.Empty(t, errOut, script)
	return out
}

func psqlDescribe(t *testing.T, c *Cluster) {
	psqlOK(t, c, 0, "CREATE DATABASE shop;")
	for _, tc := range []struct {
		command string
		want    []string // regular expressions
	}{
		{`\l`, []string{`(?m)^ +postgres +\| postgres +\| UTF8`, `(?m)^ +shop +\|`}},
		{`\dt`, []string{`(?m)^ public +\| fruit +\| table +\| postgres`}},
		{`\d`, []string{`(?m)^ public +\| fruit +\| table +\| postgres`}},
		{`\d fruit`, []string{
			`Table "public.fruit"`, `(?m)^ id +\| integer +\| +\| not null \|`, `(?m)^ name +\| text +\| +\| not null \| 'apple'(::text)?`,
			`(?m)^ price +\| numeric\(8,2\) +\|`, `"fruit_pkey" PRIMARY KEY, btree \(id\)`,
			`"fruit_name_key" UNIQUE CONSTRAINT, btree \(name\)`, `"fruit_price" btree \(price DESC\)`,
		}},
		{`\d+ fruit`, []string{`(?m)^ id +\| integer`}},
		{`\di`, []string{`(?m)^ public +\| fruit_pkey +\| index +\| postgres +\| fruit`, `fruit_price`}},
		{`\du`, []string{`(?m)^ postgres +\| Superuser`}},
		{`\dn`, []string{`(?m)^ +public +\|`}},
		{`\dv atoll.*`, []string{`zones`, `nodes`, `ranges`}},
		{`\conninfo`, []string{`connected to database "postgres" as user "postgres"`}},
		{`\encoding`, []string{`UTF8`}},
	} {
		t.Run(tc.command, func(t *testing.T) {
			out := psqlOK(t, c, 1, tc.command+"\n")
			for _, w := range tc.want {
				require.Regexp(t, w, out)
			}
		})
	}
	t.Run("unknown table", func(t *testing.T) {
		out, errOut, _ := c.PSQL(t, 1, "\\d nosuch\n")
		require.Contains(t, out+errOut, `Did not find any relation named "nosuch".`)
	})
}

func psqlErrors(t *testing.T, c *Cluster) {
	for _, tc := range []struct{ name, sql, want string }{
		{"syntax", "SELECT 1 FROM WHERE;", "ERROR:  syntax error at or near \"WHERE\"\nLINE 1: SELECT 1 FROM WHERE;\n                      ^\n"},
		{"second line", "SELECT id,\n  nosuch FROM fruit;", "ERROR:  column \"nosuch\" does not exist\nLINE 2:   nosuch FROM fruit;\n          ^\n"},
		{"unicode", "SELECT 'äöü', nosuch FROM fruit;", "ERROR:  column \"nosuch\" does not exist\nLINE 1: SELECT 'äöü', nosuch FROM fruit;\n                      ^\n"},
		{"table", "SELECT * FROM nosuch;", "ERROR:  relation \"nosuch\" does not exist\nLINE 1: SELECT * FROM nosuch;\n                      ^\n"},
		{"primary key", "INSERT INTO fruit VALUES (1, 'fig');", "ERROR:  duplicate key value violates unique constraint \"fruit_pkey\"\nDETAIL:  Key (id)=(1) already exists.\n"},
		{"unique", "INSERT INTO fruit VALUES (9, 'pear');", "ERROR:  duplicate key value violates unique constraint \"fruit_name_key\"\nDETAIL:  Key (name)=(pear) already exists.\n"},
		{"not null", "INSERT INTO fruit VALUES (9, NULL);", "ERROR:  null value in column \"name\" of relation \"fruit\" violates not-null constraint\nDETAIL:  Failing row contains (9, null, null).\n"},
		{"unknown type", "CREATE TABLE bad (x nosuchtype);", "ERROR:  type \"nosuchtype\" does not exist\nLINE 1: CREATE TABLE bad (x nosuchtype);\n                            ^\n"},
		{"bad number", "SELECT 'x'::int;", "ERROR:  invalid input syntax for type integer: \"x\"\nLINE 1: SELECT 'x'::int;\n               ^\n"},
		{"division", "SELECT 1/0;", "ERROR:  division by zero\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, errOut, code := c.PSQL(t, 2, tc.sql, "-q")
			require.Equal(t, tc.want, errOut)
			require.Empty(t, out)
			require.Equal(t, 0, code, "psql reads on after an error on stdin")
			out, errOut, code = c.PSQL(t, 2, "\\set VERBOSITY sqlstate\n"+tc.sql, "-q", "-v", "ON_ERROR_STOP=1")
			require.Regexp(t, `^ERROR:  [0-9A-Z]{5}\n$`, errOut)
			require.NotContains(t, errOut, "XX000", out)
			require.Equal(t, 3, code)
		})
	}
}

func psqlCopy(t *testing.T, c *Cluster) {
	const rows = 2000
	dir := tempDir(t)
	in, back := filepath.Join(dir, "in.csv"), filepath.Join(dir, "back.csv")
	var b strings.Builder
	for i := range rows {
		fmt.Fprintf(&b, "%d,\"line %d, with \"\"quotes\"\"\",%d.25,\n", i, i, i)
	}
	require.NoError(t, os.WriteFile(in, []byte(b.String()), 0o600))
	psqlOK(t, c, 0, "CREATE TABLE load (id bigint PRIMARY KEY, label text, amount numeric, note text);", "-q")
	out := psqlOK(t, c, 0, "\\copy load FROM '"+in+"' WITH (FORMAT csv)\n")
	require.Equal(t, fmt.Sprintf("COPY %d\n", rows), out)
	out = psqlOK(t, c, 1, "\\copy (SELECT * FROM load ORDER BY id) TO '"+back+"' WITH (FORMAT csv)\n")
	require.Equal(t, fmt.Sprintf("COPY %d\n", rows), out)
	got, err := os.ReadFile(back)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(got))
	// Text format on standard input and output, with the escapes and NULL.
	out = psqlOK(t, c, 2, "COPY load (id, label, note) FROM STDIN;\n9001\ta\\tb\\\\\t\\N\n\\.\nCOPY (SELECT id, label, note FROM load WHERE id > 9000) TO STDOUT;\n", "-q")
	require.Equal(t, "9001\ta\\tb\\\\\t\\N\n", out)
	// A bad row undoes the whole COPY and says where.
	_, errOut, _ := c.PSQL(t, 0, "COPY load (id, label) FROM STDIN;\n9100\tgood\nnine\tbad\n\\.\n", "-q")
	require.Contains(t, errOut, `ERROR:  invalid input syntax for type bigint: "nine"`)
	require.Contains(t, errOut, "line 2")
	require.Equal(t, "0\n", psqlOK(t, c, 0, "SELECT count(*) FROM load WHERE id = 9100;", "-At"))
}

func psqlTransaction(t *testing.T, c *Cluster) {
	out := psqlOK(t, c, 0, `
CREATE TABLE acc (id int PRIMARY KEY, v int);
INSERT INTO acc VALUES (1, 10), (2, 20);
BEGIN;
UPDATE acc SET v = v + 1 WHERE id = 1 RETURNING v;
SAVEPOINT s;
DELETE FROM acc;
ROLLBACK TO s;
INSERT INTO acc VALUES (3, 30) ON CONFLICT (id) DO UPDATE SET v = 0;
COMMIT;
BEGIN; DELETE FROM acc; ROLLBACK;
SELECT * FROM acc ORDER BY id;
`, "-At")
	require.Equal(t, "CREATE TABLE\nINSERT 0 2\nBEGIN\n11\nUPDATE 1\nSAVEPOINT\nDELETE 2\nROLLBACK\nINSERT 0 1\nCOMMIT\nBEGIN\nDELETE 3\nROLLBACK\n1|11\n2|20\n3|30\n", out)
	_, errOut, _ := c.PSQL(t, 0, "BEGIN; SELECT 1/0; SELECT 1; COMMIT;", "-At")
	require.Contains(t, errOut, "current transaction is aborted, commands ignored until end of transaction block")
}

// psqlCompletion sends what psql 15 sends when somebody presses the tab key.
func psqlCompletion(t *testing.T, c *Cluster) {
	for name, q := range map[string]string{
		"relations": `SELECT c.relname, NULL::pg_catalog.text FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p') AND (c.relname) LIKE 'fru%' AND pg_catalog.pg_table_is_visible(c.oid)
 AND c.relnamespace <> (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'pg_catalog') UNION ALL SELECT NULL::pg_catalog.text, n.nspname FROM pg_catalog.pg_namespace n
 WHERE n.nspname LIKE 'fru%' AND n.nspname NOT LIKE E'pg\\_%' LIMIT 1000`,
		"columns": `SELECT a.attname FROM pg_catalog.pg_attribute a, pg_catalog.pg_class c WHERE c.oid = a.attrelid AND a.attnum > 0 AND NOT a.attisdropped
 AND (a.attname) LIKE 'pri%' AND (c.relname) = 'fruit' AND pg_catalog.pg_table_is_visible(c.oid) LIMIT 1000`,
	} {
		t.Run(name, func(t *testing.T) {
			out := psqlOK(t, c, 0, q+";", "-At")
			require.Contains(t, []string{"fruit|\n", "price\n"}, out)
		})
	}
}

func bigStatement(t *testing.T, c *Cluster) {
	const size = 10 << 20
	file := filepath.Join(tempDir(t), "big.sql")
	require.NoError(t, os.WriteFile(file, []byte("SELECT length('"+strings.Repeat("x", size)+"') AS n;\n"), 0o600))
	require.Equal(t, fmt.Sprintf("%d\n", size), psqlOK(t, c, 0, "", "-At", "-f", file))
	// As many rows it is one transaction, through any node.
	var rows strings.Builder
	rows.WriteString("CREATE TABLE many (id int PRIMARY KEY, v text);\nINSERT INTO many VALUES ")
	const each = 10 << 10
	for i := range size / each {
		if i > 0 {
			rows.WriteByte(',')
		}
		fmt.Fprintf(&rows, "(%d,'%s')", i, strings.Repeat("z", each))
	}
	rows.WriteString(";\n")
	require.NoError(t, os.WriteFile(file, []byte(rows.String()), 0o600))
	require.Equal(t, fmt.Sprintf("CREATE TABLE\nINSERT 0 %d\n", size/each), psqlOK(t, c, 2, "", "-f", file))
	require.Equal(t, fmt.Sprintf("%d|%d\n", size/each, size), psqlOK(t, c, 0, "SELECT count(*), sum(length(v)) FROM many;", "-At"))
	// As a value in a table it either fits, or is refused in words; the session goes on.
	conn := c.Connect(t, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := conn.Exec(ctx, "CREATE TABLE big (id int PRIMARY KEY, v text)")
	require.NoError(t, err)
	_, err = conn.Exec(ctx, "INSERT INTO big VALUES (1, '"+strings.Repeat("y", size)+"')", pgx.QueryExecModeSimpleProtocol)
	var n int
	if err != nil {
		require.Regexp(t, `^(54000|53200)$`, sqlState(err), err)
		require.NoError(t, conn.QueryRow(ctx, "SELECT count(*) FROM big").Scan(&n))
		require.Zero(t, n)
		return
	}
	require.NoError(t, conn.QueryRow(ctx, "SELECT length(v) FROM big WHERE id = 1").Scan(&n))
	require.Equal(t, size, n)
}
