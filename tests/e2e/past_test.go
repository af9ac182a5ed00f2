package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestReadsOfThePast reads tables as they were: through every node, in statements and in blocks, across
// changes of the schema, under load, and without a quorum. What was acknowledged by then is there.
func TestReadsOfThePast(t *testing.T) {
	c := StartCluster(t)
	w := c.StartWriter(t, 0, "acked")
	conns := make([]*pgx.Conn, c.Nodes())
	for i := range conns {
		conns[i] = c.Connect(t, i)
		defer conns[i].Close(context.Background())
	}
	c.Exec(t, 0, "CREATE TABLE t (a int PRIMARY KEY, b text)", "INSERT INTO t VALUES (1, 'one'), (2, 'two')",
		"CREATE PLACEMENT POLICY fresh WITH (survive = zone, follower_reads = true)", "ALTER TABLE acked SET PLACEMENT POLICY fresh",
		"ALTER TABLE t SET PLACEMENT POLICY fresh")

	t.Run("schema", func(t *testing.T) { pastSchemas(t, c, conns[1]) })
	t.Run("complete", func(t *testing.T) {
		for range 30 {
			low, at := w.last.Load(), time.Now()
			for i, conn := range conns {
				var got int64
				require.NoError(t, conn.QueryRow(t.Context(), fmt.Sprintf("SELECT coalesce(max(seq), 0) FROM acked AS OF SYSTEM TIME %d", at.UnixNano())).Scan(&got))
				require.GreaterOrEqual(t, got, low, "node %d, as of %s, right away", i, at)
			}
			time.Sleep(100 * time.Millisecond)
			for i, conn := range conns {
				var late, again int64
				require.NoError(t, conn.QueryRow(t.Context(), fmt.Sprintf("SELECT coalesce(max(seq), 0) FROM acked AS OF SYSTEM TIME %d", at.UnixNano())).Scan(&late))
				require.GreaterOrEqual(t, late, low, "node %d, as of %s", i, at)
				require.NoError(t, conns[0].QueryRow(t.Context(), fmt.Sprintf("SELECT coalesce(max(seq), 0) FROM acked AS OF SYSTEM TIME %d", at.UnixNano())).Scan(&again))
				require.Equal(t, late, again, "nodes %d and 0, as of %s", i, at)
			}
		}
	})
	t.Run("at the nearest replica", func(t *testing.T) {
		var answered float64
		eventually(t, 20*time.Second, "the table is old enough", func() string {
			_, err := conns[0].Exec(t.Context(), "SELECT count(*) FROM t AS OF SYSTEM TIME '-5s'")
			if err != nil {
				return err.Error()
			}
			return ""
		})
		for i, conn := range conns {
			before := c.metric(t, i, "atoll_replica_follower_reads_total")
			for range 50 {
				_, err := conn.Exec(t.Context(), "SELECT count(*) FROM t AS OF SYSTEM TIME follower_read_timestamp()")
				require.NoError(t, err)
			}
			if n := c.metric(t, i, "atoll_replica_follower_reads_total") - before; n > 0 {
				require.GreaterOrEqual(t, n, 45.0, "node %d has a replica without the lease", i)
				answered++
			}
		}
		require.Equal(t, 2.0, answered, "all nodes but the leaseholder's answer themselves")
		eventually(t, 20*time.Second, "replicas are fresh", func() string {
			for i := range conns {
				if s := c.metric(t, i, "atoll_store_follower_read_staleness_seconds"); s > 0.2 {
					return fmt.Sprintf("node %d is %f s behind", i, s)
				}
			}
			return ""
		})
	})
	t.Run("refused", func(t *testing.T) { pastRefused(t, conns[1]) })
	t.Run("settings", func(t *testing.T) { pastByDefault(t, conns[2]) })
	w.stop(t, 0)
	t.Run("without a quorum", func(t *testing.T) { pastWithoutQuorum(t, c, conns[2]) })
}

// metric reads one number from a node's metrics.
func (c *Cluster) metric(t *testing.T, node int, name string) float64 {
	t.Helper()
	code, body, err := c.Get(node, "/metrics")
	require.NoError(t, err)
	require.Equal(t, 200, code)
	for line := range strings.SplitSeq(body, "\n") {
		var v float64
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, err := fmt.Sscan(rest, &v)
			require.NoError(t, err)
			return v
		}
	}
	t.Fatalf("node %d has no metric %s", node, name)
	return 0
}

// pastSchemas reads a table as it was before it was changed, emptied and dropped.
func pastSchemas(t *testing.T, c *Cluster, conn *pgx.Conn) {
	c.Exec(t, 0, "CREATE TABLE s (a int PRIMARY KEY, b text)", "INSERT INTO s VALUES (1, 'one')")
	var times []string
	now := func() { times = append(times, texts(t, conn, "SELECT clock_timestamp()::text")) }
	now()
	for _, sql := range []string{"UPDATE s SET b = 'two'", "ALTER TABLE s ADD COLUMN c int DEFAULT 7", "ALTER TABLE s RENAME TO r", "TRUNCATE r", "DROP TABLE r"} {
		c.Exec(t, 0, sql)
		now()
	}
	for i, want := range []string{"(1,one)", "(1,two)", "(1,two,7)", "(1,two,7)", ""} {
		table := "s"
		if i >= 3 {
			table = "r"
		}
		require.Equal(t, want, texts(t, conn, fmt.Sprintf("SELECT x::text FROM %s AS x AS OF SYSTEM TIME '%s'", table, times[i])), "after change %d", i)
	}
	fails(t, conn, fmt.Sprintf("SELECT * FROM r AS OF SYSTEM TIME '%s'", times[0]), "42P01", `relation "r" does not exist`)
	fails(t, conn, fmt.Sprintf("SELECT * FROM r AS OF SYSTEM TIME '%s'", times[5]), "42P01", `relation "r" does not exist`)
	// Blocks and prepared statements.
	for _, sql := range []string{"BEGIN AS OF SYSTEM TIME '" + times[1] + "'", "BEGIN; SET TRANSACTION AS OF SYSTEM TIME '" + times[1] + "'"} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
		require.Equal(t, "(1,two)", texts(t, conn, "SELECT x::text FROM s AS x WHERE a = 1"))
		_, err = conn.Exec(t.Context(), "COMMIT")
		require.NoError(t, err)
	}
	var b string
	for range 3 {
		require.NoError(t, conn.QueryRow(t.Context(), "SELECT b FROM s AS OF SYSTEM TIME '"+times[0]+"' WHERE a = $1", 1).Scan(&b))
		require.Equal(t, "one", b)
	}
}

func pastRefused(t *testing.T, conn *pgx.Conn) {
	fails(t, conn, "SELECT * FROM t AS OF SYSTEM TIME '2100-01-01'", "22023", "lies in the future")
	fails(t, conn, "SELECT * FROM t AS OF SYSTEM TIME '10s'", "22007", "invalid input syntax")
	fails(t, conn, "SELECT * FROM t AS OF SYSTEM TIME 1", "22023", "is no time that was")
	fails(t, conn, "SELECT * FROM t AS OF SYSTEM TIME '-1s' JOIN acked AS OF SYSTEM TIME '-2s' ON true", "0A000", "reads at one time")
	fails(t, conn, "INSERT INTO t SELECT a + 10, b FROM t AS OF SYSTEM TIME '-1s'", "0A000", "statements that only read")
	fails(t, conn, "SELECT * FROM t AS OF SYSTEM TIME '-1s' FOR UPDATE", "0A000", "statements that only read")
	fails(t, conn, "BEGIN AS OF SYSTEM TIME with_max_staleness('10s')", "0A000", "can't be used for a transaction block")
	_, err := conn.Exec(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "BEGIN AS OF SYSTEM TIME '-1s'")
	require.NoError(t, err)
	fails(t, conn, "UPDATE t SET b = 'x'", "25006", "read-only transaction")
	_, err = conn.Exec(t.Context(), "ROLLBACK; BEGIN; SELECT count(*) FROM t")
	require.NoError(t, err)
	fails(t, conn, "SELECT * FROM t AS OF SYSTEM TIME '-1s'", "0A000", "at another time than the block")
	_, err = conn.Exec(t.Context(), "ROLLBACK")
	require.NoError(t, err)
}

func pastByDefault(t *testing.T, conn *pgx.Conn) {
	_, err := conn.Exec(t.Context(), "SET default_transaction_use_follower_reads = on")
	require.NoError(t, err)
	eventually(t, 10*time.Second, "the table is old enough", func() string {
		var n int
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil || n != 2 {
			return fmt.Sprint(n, err)
		}
		return ""
	})
	fails(t, conn, "INSERT INTO t VALUES (3, 'three')", "25006", "read-only transaction")
	_, err = conn.Exec(t.Context(), "BEGIN READ WRITE; INSERT INTO t VALUES (3, 'three'); COMMIT; SET default_transaction_use_follower_reads = off; DELETE FROM t WHERE a = 3")
	require.NoError(t, err)
}

// pastWithoutQuorum reads at the last node of three.
func pastWithoutQuorum(t *testing.T, c *Cluster, conn *pgx.Conn) {
	at := time.Now()
	exact := fmt.Sprintf("SELECT count(*) FROM t AS OF SYSTEM TIME %d", at.UnixNano())
	bounded := fmt.Sprintf("SELECT count(*) FROM t AS OF SYSTEM TIME with_min_timestamp('%s')", at.UTC().Format("2006-01-02 15:04:05.000000+00"))
	eventually(t, 30*time.Second, "the time is closed for the catalog too", func() string {
		if time.Since(at) < 6*time.Second {
			return "it is too new"
		}
		return ""
	})
	for _, sql := range []string{exact, bounded} {
		require.Equal(t, "2", texts(t, conn, strings.Replace(sql, "count(*)", "count(*)::text", 1)))
	}
	c.Zone(t, "kill", "us-a")
	c.Zone(t, "kill", "us-b")
	_, err := conn.Exec(t.Context(), "SET statement_timeout = '10s'")
	require.NoError(t, err)
	for range 5 {
		for _, sql := range []string{exact, bounded} {
			start := time.Now()
			require.Equal(t, "2", texts(t, conn, strings.Replace(sql, "count(*)", "count(*)::text", 1)), sql)
			t.Logf("%s: %s", sql, time.Since(start).Round(100*time.Microsecond))
		}
		time.Sleep(time.Second)
	}
}
