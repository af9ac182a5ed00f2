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

// recoverCmd runs atoll recover and returns what it printed and its exit code.
func (c *Cluster) recoverCmd(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	stdout, stderr, code := run(t, "", c.bin, append(append([]string{"recover"}, args...), "--store", c.Store)...)
	return stdout + stderr, code
}

// ids returns the rows of a table of which a node knows.
func rowIDs(ctx context.Context, conn *pgx.Conn, table string) (map[int64]bool, error) {
	rows, err := conn.Query(ctx, "SELECT id FROM "+table)
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	out := map[int64]bool{}
	for _, id := range ids {
		out[id] = true
	}
	return out, err
}

// TestRecoverAfterTwoZonesAreGone loses two zones of three with their volumes, under load. The third has
// what it had; the rest is lost, and nothing else is. Then two new zones' nodes make every range whole,
// and a node that was given up is refused.
func TestRecoverAfterTwoZonesAreGone(t *testing.T) {
	c := StartCluster(t)
	const survivor = 0 // us-a
	c.Exec(t, survivor, "CREATE TABLE keep (id bigint PRIMARY KEY, v text NOT NULL)", "CREATE TABLE keep2 (id bigint PRIMARY KEY)",
		"INSERT INTO keep SELECT g, repeat('x', 200) FROM generate_series(1, 3000) g", "ALTER TABLE keep SPLIT AT VALUES (1000), (2000), (100000)")
	var out string
	var code int
	eventually(t, time.Minute, "all is whole", func() string {
		if out, code = c.recoverCmd(t, "report"); code != 0 {
			return out
		}
		return ""
	})
	out, code = c.recoverCmd(t, "plan", "--out", filepath.Join(c.Store, "no.plan"))
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "nothing is lost")

	// Commits go on while the zones die: those that the survivor had are there afterwards.
	conn := c.Connect(t, survivor)
	acked := make(chan int64, 1<<16)
	stopped := make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	go func() {
		defer close(stopped)
		for id := int64(100001); ; id++ {
			if _, err := conn.Exec(ctx, "INSERT INTO keep VALUES ($1, 'acked')", id); err != nil {
				return
			}
			acked <- id
		}
	}()
	eventually(t, time.Minute, "writes are acknowledged", func() string {
		if len(acked) < 20 {
			return fmt.Sprintf("%d", len(acked))
		}
		return ""
	})
	saved := filepath.Join(c.Store, "saved")
	for i, zone := range []string{"us-b", "us-c"} {
		c.Zone(t, "kill", zone)
		if i == 0 {
			require.NoError(t, os.Rename(filepath.Join(c.Store, "n1"), saved)) // for later
		} else {
			require.NoError(t, os.RemoveAll(filepath.Join(c.Store, "n2")))
		}
	}
	select {
	case <-stopped:
	case <-ctx.Done():
		t.Fatal("a commit without a quorum waits for ever")
	}

	plan := filepath.Join(c.Store, "the.plan")
	out, code = c.recoverCmd(t, "plan", "--lost", "2", "--out", plan)
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "node 3 (")
	require.Contains(t, out, "name it with --lost")
	out, code = c.recoverCmd(t, "plan", "--lost", "1,2,3", "--out", plan)
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "node 1 answers, so it is not lost")
	out, code = c.recoverCmd(t, "plan", "--lost", "two", "--out", plan)
	require.Equal(t, 2, code, out)

	out, code = c.recoverCmd(t, "plan", "--lost", "2,3", "--out", plan)
	require.Equal(t, 0, code, out)
	require.Contains(t, out, "What may be lost")
	t.Log(out)
	out, code = c.recoverCmd(t, "apply", plan) // nothing is typed
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "is not the cluster's ID: nothing is changed")
	started := time.Now()
	eventually(t, time.Minute, "the plan is applied", func() string {
		if out, code = c.recoverCmd(t, "apply", plan, "--yes"); code != 0 {
			return out
		}
		return ""
	})
	t.Logf("applied after %s:\n%s", time.Since(started).Round(time.Millisecond), tail(out, 12))
	out, code = c.recoverCmd(t, "apply", plan, "--yes")
	require.Equal(t, 0, code, "once more does no harm: %s", out)
	out, code = c.recoverCmd(t, "report", plan)
	require.Equal(t, 1, code, "one copy of three is not whole: %s", out)

	eventually(t, time.Minute, "the survivor serves", func() string {
		if code, body, err := c.Get(survivor, "/readyz"); err != nil || code != 200 {
			return fmt.Sprint(code, body, err)
		}
		return ""
	})
	require.EqualValues(t, 3000, c.Int(t, survivor, "SELECT count(*) FROM keep WHERE id <= 3000"))
	conn = c.Connect(t, survivor)
	have, err := rowIDs(ctx, conn, "keep")
	require.NoError(t, err)
	close(acked)
	n, lost := 0, 0
	for id := range acked {
		if n++; !have[id] {
			lost++
		} else {
			// The log has no holes: what came before something that is there is there.
			require.Zero(t, lost, "row %d is there and an earlier one is not", id)
		}
	}
	t.Logf("%d commits were acknowledged while the zones died; %d of them only the lost nodes had", n, lost)
	c.Exec(t, survivor, "INSERT INTO keep VALUES (200001, 'new')", "CREATE TABLE after_it (id int PRIMARY KEY)", "INSERT INTO after_it VALUES (1)",
		"ALTER TABLE keep SPLIT AT VALUES (2500)")

	// New nodes, with empty volumes.
	c.Zone(t, "heal", "us-b")
	c.Zone(t, "heal", "us-c")
	eventually(t, 3*time.Minute, "every range has three copies", func() string {
		if out, code = c.recoverCmd(t, "report", plan); code != 0 {
			return out
		}
		return ""
	})
	t.Log(out)
	require.NotZero(t, c.Int(t, survivor, "SELECT count(*) FROM atoll.events WHERE kind = 'recovery' AND event LIKE 'the range was recovered from%'"))
	_, metrics, err := c.Get(survivor, "/metrics")
	require.NoError(t, err)
	require.Regexp(t, `atoll_store_recovered_ranges_total [1-9]`, metrics)
	c.Zone(t, "kill", "us-a")
	eventually(t, time.Minute, "the new zones serve without the survivor", func() string {
		rows, err := view(c, 1, func(ctx context.Context, conn *pgx.Conn) ([]int64, error) {
			return collect(ctx, conn, "SELECT count(*) FROM keep WHERE id <= 3000 OR id = 200001", func(r pgx.Rows, n *int64) error { return r.Scan(n) })
		})
		if err != nil || len(rows) != 1 || rows[0] != 3001 {
			return fmt.Sprint(rows, err)
		}
		return ""
	})
	c.Zone(t, "heal", "us-a")
	eventually(t, time.Minute, "the survivor is back", func() string {
		if code, body, err := c.Get(survivor, "/readyz"); err != nil || code != 200 {
			return fmt.Sprint(code, body, err)
		}
		return ""
	})

	// S18: one that was given up can't come back with what it had.
	port := freePorts(t, 3)
	old := spawn(t, c.bin, "start", "--store", filepath.Join(saved, "data"), "--locality", "region=local,zone=us-b", "--insecure",
		"--listen", loopback(port), "--sql-listen", loopback(port+1), "--http-listen", loopback(port+2), "--join", loopback(c.peerPort))
	require.Equal(t, 1, old.exit(t, time.Minute))
	require.True(t, strings.Contains(old.out.String(), "given up as lost"), old.out.String())
}
