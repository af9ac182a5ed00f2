package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// TestClients speaks to the cluster with the drivers that people have.
func TestClients(t *testing.T) {
	c := StartCluster(t)
	t.Run("pgx", func(t *testing.T) {
		for name, mode := range map[string]pgx.QueryExecMode{
			"prepared": pgx.QueryExecModeCacheStatement, "described": pgx.QueryExecModeCacheDescribe, "describe each time": pgx.QueryExecModeDescribeExec,
			"exec": pgx.QueryExecModeExec, "simple": pgx.QueryExecModeSimpleProtocol,
		} {
			t.Run(name, func(t *testing.T) { pgxTypes(t, c, mode) })
		}
		t.Run("transactions", func(t *testing.T) { pgxTransactions(t, c) })
		t.Run("batch", func(t *testing.T) { pgxBatch(t, c) })
		t.Run("copy", func(t *testing.T) { pgxCopy(t, c) })
		t.Run("errors", func(t *testing.T) { pgxErrors(t, c) })
		t.Run("cancel", func(t *testing.T) { pgxCancel(t, c) })
		t.Run("schema changes under prepared statements", func(t *testing.T) { pgxSchemaChange(t, c) })
		t.Run("several hosts", func(t *testing.T) { pgxHosts(t, c) })
	})
	t.Run("psycopg2", func(t *testing.T) {
		out, errOut, code := run(t, "", Tool(t, "python3", "python3"), "testdata/client.py", c.SQLPort(1))
		if strings.Contains(errOut, "No module named 'psycopg2'") {
			t.Fatal("psycopg2 is missing: install package python3-psycopg2 (.ci/deps test does)")
		}
		require.Equal(t, 0, code, "%s%s", out, errOut)
		require.Equal(t, "all passed\n", out)
	})
	t.Run("JDBC", func(t *testing.T) {
		const driver = "/usr/share/java/postgresql.jar"
		if _, err := os.Stat(driver); err != nil {
			t.Fatal("the JDBC driver is missing: install package libpostgresql-jdbc-java (.ci/deps test does)")
		}
		dir := tempDir(t)
		out, errOut, code := run(t, "", Tool(t, "javac", "default-jdk-headless"), "-encoding", "UTF-8", "-cp", driver, "-d", dir, "testdata/Client.java")
		require.Equal(t, 0, code, "%s%s", out, errOut)
		out, errOut, code = run(t, "", Tool(t, "java", "default-jdk-headless"), "-cp", dir+":"+driver, "Client", "jdbc:postgresql://127.0.0.1:"+c.SQLPort(2)+"/postgres?user=postgres&sslmode=disable")
		require.Equal(t, 0, code, "%s%s", out, errOut)
		require.Equal(t, "all passed\n", out)
	})
}

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// connectMode opens a connection whose queries go a certain way through the protocol.
func connectMode(t *testing.T, c *Cluster, node int, mode pgx.QueryExecMode) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(c.DSN(node))
	require.NoError(t, err)
	cfg.DefaultQueryExecMode = mode
	conn, err := pgx.ConnectConfig(short(t), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// everything is a row with a value of every type.
type everything struct {
	I2 int16
	I4 int32
	I8 int64
	F8 float64
	B  bool
	T  string
	V  string
	Y  []byte
	TS time.Time
	TZ time.Time
	D  time.Time
	U  uuid.UUID
	J  map[string]any
	N  *int32
	Q  string // numeric as text
}

func pgxTypes(t *testing.T, c *Cluster, mode pgx.QueryExecMode) {
	ctx, conn := short(t), connectMode(t, c, int(mode)%3, mode)
	table := fmt.Sprintf("everything_%d", mode)
	_, err := conn.Exec(ctx, "CREATE TABLE "+table+` (i2 int2, i4 int4 PRIMARY KEY, i8 int8, f8 float8, b bool, t text, v varchar(20), y bytea,
		ts timestamp, tz timestamptz, d date, u uuid, j jsonb, n int4, q numeric(20,5))`)
	require.NoError(t, err)
	at := time.Date(2026, 2, 28, 23, 59, 59, 123456000, time.UTC)
	in := everything{-32768, -1 << 31, 1<<63 - 1, 0.1, true, "tab\there, quote ' and ünïcode \U0001F30D", "varchar", []byte{0, 1, 255},
		at, at, time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC), uuid.MustParse("6f6fbd5e-3d1c-4d5f-9a5d-6f2f2b8f6a10"), map[string]any{"a": []any{1.5, "x", nil}}, nil, "12345678901234.50000"}
	tag, err := conn.Exec(ctx, "INSERT INTO "+table+" VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15)",
		in.I2, in.I4, in.I8, in.F8, in.B, in.T, in.V, in.Y, in.TS, in.TZ, in.D, in.U, `{"a": [1.5, "x", null]}`, in.N, in.Q)
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected())
	for range 3 { // the statement is prepared, then used again
		var out everything
		err := conn.QueryRow(ctx, "SELECT i2,i4,i8,f8,b,t,v,y,ts,tz,d,u,j,n,q::text FROM "+table+" WHERE i4 = $1", in.I4).
			Scan(&out.I2, &out.I4, &out.I8, &out.F8, &out.B, &out.T, &out.V, &out.Y, &out.TS, &out.TZ, &out.D, &out.U, &out.J, &out.N, &out.Q)
		require.NoError(t, err)
		out.TZ = out.TZ.UTC()
		require.Equal(t, in, out)
	}
	var n int
	require.NoError(t, conn.QueryRow(ctx, "SELECT count(*) FROM "+table+" WHERE i4 = $1", 5).Scan(&n))
	require.Zero(t, n)
}

func pgxTransactions(t *testing.T, c *Cluster) {
	ctx, conn := short(t), c.Connect(t, 0)
	_, err := conn.Exec(ctx, "CREATE TABLE tx (id int PRIMARY KEY, v int NOT NULL)")
	require.NoError(t, err)
	// What is rolled back is gone; a nested transaction is a savepoint.
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO tx VALUES (1, 0)"); err != nil {
			return err
		}
		err := pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
			_, err := inner.Exec(ctx, "INSERT INTO tx VALUES (1, 1)")
			return err
		})
		if sqlState(err) != "23505" {
			return fmt.Errorf("second insert: %w", err)
		}
		return nil
	})
	require.NoError(t, err)
	// Clients on every node count one row up; each retries what could not be serialized.
	const clients, rounds = 6, 20
	var wg sync.WaitGroup
	errs := make([]error, clients)
	for i := range clients {
		conn := c.Connect(t, i%c.Nodes())
		wg.Go(func() {
			for range rounds {
				if errs[i] = increment(ctx, conn); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.EqualValues(t, clients*rounds, c.Int(t, 1, "SELECT v FROM tx WHERE id = 1"))
	// Each isolation level is taken and shown.
	for _, level := range []pgx.TxIsoLevel{pgx.Serializable, pgx.RepeatableRead, pgx.ReadCommitted} {
		tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
		require.NoError(t, err)
		var shown string
		require.NoError(t, tx.QueryRow(ctx, "SHOW transaction_isolation").Scan(&shown))
		require.Equal(t, string(level), shown)
		require.NoError(t, tx.Rollback(ctx))
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	require.NoError(t, err)
	_, err = tx.Exec(ctx, "DELETE FROM tx")
	require.Equal(t, "25006", sqlState(err), err)
	require.NoError(t, tx.Rollback(ctx))
}

// increment reads a value and writes it back plus one, in one serializable transaction.
func increment(ctx context.Context, conn *pgx.Conn) error {
	for {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			var v int
			if err := tx.QueryRow(ctx, "SELECT v FROM tx WHERE id = 1").Scan(&v); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "UPDATE tx SET v = $1 WHERE id = 1", v+1)
			return err
		})
		if s := sqlState(err); s != "40001" && s != "40P01" {
			return err
		}
	}
}

func pgxBatch(t *testing.T, c *Cluster) {
	ctx, conn := short(t), c.Connect(t, 1)
	_, err := conn.Exec(ctx, "CREATE TABLE bat (id serial PRIMARY KEY, v text UNIQUE)")
	require.NoError(t, err)
	var b pgx.Batch
	for i := range 200 {
		b.Queue("INSERT INTO bat (v) VALUES ($1) RETURNING id", fmt.Sprint(i))
	}
	br := conn.SendBatch(ctx, &b)
	seen := map[int]bool{}
	for range 200 {
		var id int
		require.NoError(t, br.QueryRow().Scan(&id))
		seen[id] = true
	}
	require.NoError(t, br.Close())
	require.Len(t, seen, 200)
	// One failure undoes the whole batch: it is one implicit transaction.
	b = pgx.Batch{}
	b.Queue("INSERT INTO bat (v) VALUES ('new')")
	b.Queue("INSERT INTO bat (v) VALUES ('7')")
	b.Queue("INSERT INTO bat (v) VALUES ('never')")
	err = conn.SendBatch(ctx, &b).Close()
	require.Equal(t, "23505", sqlState(err), err)
	require.EqualValues(t, 200, c.Int(t, 2, "SELECT count(*) FROM bat"))
	// Rows come in portions when the client asks for few at a time.
	rows, err := conn.Query(ctx, "SELECT v FROM bat ORDER BY id")
	require.NoError(t, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Len(t, values, 200)
}

func pgxCopy(t *testing.T, c *Cluster) {
	ctx, conn := short(t), c.Connect(t, 2)
	_, err := conn.Exec(ctx, "CREATE TABLE cp (id bigint PRIMARY KEY, v text, at timestamptz)")
	require.NoError(t, err)
	const n = 5000
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	got, err := conn.CopyFrom(ctx, pgx.Identifier{"cp"}, []string{"id", "v", "at"}, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
		return []any{int64(i), fmt.Sprintf("row %d", i), at.Add(time.Duration(i) * time.Second)}, nil
	}))
	require.NoError(t, err)
	require.EqualValues(t, n, got)
	require.EqualValues(t, n*(n-1)/2, c.Int(t, 0, "SELECT sum(id)::bigint FROM cp WHERE v = 'row ' || id"))
	var b strings.Builder
	tag, err := conn.PgConn().CopyTo(ctx, &b, "COPY cp (id) TO STDOUT")
	require.NoError(t, err)
	require.EqualValues(t, n, tag.RowsAffected())
	require.Equal(t, n, strings.Count(b.String(), "\n"))
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"cp"}, []string{"id", "v"}, pgx.CopyFromRows([][]any{{int64(n), "a"}, {int64(1), "b"}}))
	require.Equal(t, "23505", sqlState(err), err)
	require.EqualValues(t, n, c.Int(t, 0, "SELECT count(*) FROM cp"))
}

func pgxErrors(t *testing.T, c *Cluster) {
	ctx, conn := short(t), c.Connect(t, 0)
	for _, s := range []string{"CREATE TABLE er (id int PRIMARY KEY, v varchar(3) NOT NULL, CONSTRAINT er_v UNIQUE (v))", "INSERT INTO er VALUES (1, 'a')"} {
		_, err := conn.Exec(ctx, s)
		require.NoError(t, err)
	}
	for _, tc := range []struct {
		sql, code, constraint, column string
		args                          []any
	}{
		{sql: "SELEC 1", code: "42601"},
		{sql: "SELECT * FROM nosuch", code: "42P01"},
		{sql: "SELECT nosuch FROM er", code: "42703"},
		{sql: "SELECT nosuch(1)", code: "42883"},
		{sql: "SELECT 1::nosuch", code: "42704"},
		{sql: "CREATE TABLE er (id int)", code: "42P07"},
		{sql: "INSERT INTO er VALUES ($1, $2)", args: []any{1, "b"}, code: "23505", constraint: "er_pkey"},
		{sql: "INSERT INTO er VALUES ($1, $2)", args: []any{2, "a"}, code: "23505", constraint: "er_v"},
		{sql: "INSERT INTO er VALUES (3, NULL)", code: "23502", column: "v"},
		{sql: "INSERT INTO er VALUES (4, 'abcd')", code: "22001"},
		{sql: "SELECT 1/0", code: "22012"},
		{sql: "SELECT 2147483647::int4 + 1", code: "22003"},
		{sql: "SELECT 'x'::int4", code: "22P02"},
		{sql: "COMMIT PREPARED 'x'", code: "0A000"},
		{sql: "LISTEN x", code: "0A000"},
	} {
		_, err := conn.Exec(ctx, tc.sql, tc.args...)
		var pe *pgconn.PgError
		require.ErrorAs(t, err, &pe, tc.sql)
		require.Equal(t, tc.code, pe.Code, "%s: %v", tc.sql, err)
		require.Equal(t, tc.constraint, pe.ConstraintName, tc.sql)
		if tc.column != "" {
			require.Equal(t, tc.column, pe.ColumnName, tc.sql)
		}
		require.Equal(t, "ERROR", pe.Severity)
	}
	_, err := pgx.Connect(ctx, strings.Replace(c.DSN(0), "/postgres?", "/nosuch?", 1))
	require.Equal(t, "3D000", sqlState(err), err)
	_, err = pgx.Connect(ctx, strings.Replace(c.DSN(0), "postgres@", "nosuch@", 1))
	require.Equal(t, "28000", sqlState(err), err)
}

func pgxCancel(t *testing.T, c *Cluster) {
	ctx, conn, locker := short(t), c.Connect(t, 0), c.Connect(t, 0)
	_, err := conn.Exec(ctx, "CREATE TABLE ca (id int PRIMARY KEY, v int)")
	require.NoError(t, err)
	_, err = conn.Exec(ctx, "INSERT INTO ca VALUES (1, 0)")
	require.NoError(t, err)
	tx, err := locker.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, "UPDATE ca SET v = 1 WHERE id = 1")
	require.NoError(t, err)
	for _, tc := range []struct{ set, code string }{{"SET statement_timeout = '300ms'", "57014"}, {"SET lock_timeout = '300ms'", "55P03"}} {
		_, err = conn.Exec(ctx, tc.set)
		require.NoError(t, err)
		start := time.Now()
		_, err = conn.Exec(ctx, "UPDATE ca SET v = 2 WHERE id = 1")
		require.Equal(t, tc.code, sqlState(err), "%s: %v", tc.set, err)
		require.Greater(t, time.Since(start), 250*time.Millisecond)
		require.Less(t, time.Since(start), 10*time.Second)
		_, err = conn.Exec(ctx, "RESET ALL")
		require.NoError(t, err)
	}
	// A CancelRequest ends the wait for the lock, and only that statement.
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, "UPDATE ca SET v = 3 WHERE id = 1")
		done <- err
	}()
	eventually(t, 20*time.Second, "the statement is cancelled", func() string {
		if err := conn.PgConn().CancelRequest(ctx); err != nil {
			return err.Error()
		}
		select {
		case err = <-done:
			return ""
		default:
			return "still waiting"
		}
	})
	require.Equal(t, "57014", sqlState(err), err)
	require.NoError(t, tx.Commit(ctx))
	_, err = conn.Exec(ctx, "UPDATE ca SET v = v + 10 WHERE id = 1")
	for sqlState(err) == "57014" { // a cancel request that came late
		_, err = conn.Exec(ctx, "UPDATE ca SET v = v + 10 WHERE id = 1")
	}
	require.NoError(t, err)
	require.EqualValues(t, 11, c.Int(t, 1, "SELECT v FROM ca"))
}

func pgxSchemaChange(t *testing.T, c *Cluster) {
	ctx, a, b := short(t), c.Connect(t, 0), c.Connect(t, 1)
	_, err := a.Exec(ctx, "CREATE TABLE sc (id int PRIMARY KEY)")
	require.NoError(t, err)
	const read = "SELECT count(*) FROM sc WHERE id >= $1"
	var n int
	require.NoError(t, b.QueryRow(ctx, read, 0).Scan(&n))
	for i, s := range []string{"ALTER TABLE sc ADD COLUMN v text DEFAULT 'x'", "CREATE INDEX sc_v ON sc (v)", "INSERT INTO sc VALUES (1)", "DROP INDEX sc_v", "TRUNCATE sc"} {
		_, err = a.Exec(ctx, s)
		require.NoError(t, err, s)
		require.NoError(t, b.QueryRow(ctx, read, 0).Scan(&n), "after %s", s)
		require.Equal(t, i == 2 || i == 3, n == 1, "after %s there are %d rows", s, n)
	}
	_, err = a.Exec(ctx, "DROP TABLE sc")
	require.NoError(t, err)
	err = b.QueryRow(ctx, read, 0).Scan(&n)
	require.Equal(t, "42P01", sqlState(err), err)
}

func pgxHosts(t *testing.T, c *Cluster) {
	var hosts []string
	hosts = append(hosts, loopback(freePorts(t, 1)))
	for i := range c.Nodes() {
		hosts = append(hosts, loopback(c.sqlPort+i))
	}
	conn, err := pgx.Connect(short(t), "postgresql://postgres@"+strings.Join(hosts, ",")+"/postgres?sslmode=disable&target_session_attrs=read-write")
	require.NoError(t, err)
	require.NoError(t, conn.Close(context.Background()))
}

// TestDriversAreThere keeps .ci/deps and these tests in step.
func TestDriversAreThere(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", ".ci", "deps"))
	require.NoError(t, err)
	for _, pkg := range []string{"python3-psycopg2", "libpostgresql-jdbc-java", "default-jdk-headless", "postgresql-client-15", "postgresql-15"} {
		require.Contains(t, string(b), pkg)
	}
}
