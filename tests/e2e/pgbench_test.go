package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPgbench runs pgbench's own scripts in every protocol mode.
func TestPgbench(t *testing.T) {
	c := StartCluster(t)
	for _, scale := range []int{5, 1} { // in this order: the second one drops the first one's tables
		c.PgbenchInit(t, scale%c.Nodes(), scale)
		for node := range c.Nodes() {
			require.EqualValues(t, 100000*scale, c.Int(t, node, "SELECT count(*) FROM pgbench_accounts"), "node %d, scale %d", node, scale)
			require.EqualValues(t, 10*scale, c.Int(t, node, "SELECT count(*) FROM pgbench_tellers"))
			require.EqualValues(t, scale, c.Int(t, node, "SELECT count(*) FROM pgbench_branches"))
		}
	}
	// Clients that meet at one branch row wait for each other and never fail. This is without
	// --max-tries: a serialization failure counts as failed.
	t.Run("contention", func(t *testing.T) {
		for node := range c.Nodes() {
			before := c.Int(t, node, "SELECT count(*) FROM pgbench_history")
			r := c.Pgbench(t, node, 6, "-c", "32", "-j", "2")
			require.Zero(t, r.Failed, r.Output)
			require.EqualValues(t, r.Processed, c.Int(t, (node+1)%c.Nodes(), "SELECT count(*) FROM pgbench_history")-before)
			c.Balances(t, (node+2)%c.Nodes())
		}
	})
	done := int64(0)
	for _, script := range []string{"tpcb-like", "simple-update", "select-only"} {
		for i, mode := range []string{"simple", "extended", "prepared"} {
			t.Run(fmt.Sprintf("%s %s", script, mode), func(t *testing.T) {
				before := c.Int(t, 0, "SELECT count(*) FROM pgbench_history")
				r := c.Pgbench(t, i%c.Nodes(), 2, "-b", script, "-M", mode, "-c", "4", "-j", "2")
				require.Zero(t, r.Failed, r.Output)
				written := c.Int(t, 0, "SELECT count(*) FROM pgbench_history") - before
				if script == "select-only" {
					require.Zero(t, written)
					return
				}
				require.EqualValues(t, r.Processed, written)
				done += written
			})
		}
		if script == "tpcb-like" { // simple-update leaves tellers and branches out
			c.Balances(t, 0)
		}
	}
	require.NotZero(t, done)
	require.Equal(t, c.Int(t, 0, "SELECT sum(abalance)::bigint FROM pgbench_accounts"), c.Int(t, 1, "SELECT sum(delta)::bigint FROM pgbench_history"))
	// Primary keys as pgbench makes them, and what its -i sends beside: foreign keys are not there yet.
	t.Run("vacuum and analyze", func(t *testing.T) {
		out, errOut, code := c.PSQL(t, 0, "VACUUM ANALYZE pgbench_accounts; ANALYZE; TRUNCATE pgbench_history; SELECT count(*) FROM pgbench_history;", "-At", "-v", "ON_ERROR_STOP=1")
		require.Equal(t, 0, code, errOut)
		require.Equal(t, "VACUUM\nANALYZE\nTRUNCATE TABLE\n0\n", out)
	})
}
