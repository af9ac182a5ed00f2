package store

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Leases spread over the nodes, and then stay; where there are few, they stay where they are.
func TestLeasesSpreadAndStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		c := newCluster(t, func(cfg *Config) { cfg.Events = d.take }, "a", "b", "c")
		client := c.nodes[0]
		require.NoError(t, client.put(t.Context(), tkey(0), "x"))
		lead := func() (out [3]int, most, least int) {
			least = 1 << 30
			for i, n := range c.nodes {
				out[i] = n.store.leases()
				most, least = max(most, out[i]), min(least, out[i])
			}
			return out, most, least
		}
		for i := 1; i <= 10; i++ {
			require.NoError(t, client.splitAt(t.Context(), tkey(80-i)))
		}
		time.Sleep(2 * time.Minute)
		n := d.len()
		time.Sleep(5 * time.Minute)
		require.Equal(t, n, d.len(), "few leases move")

		for i := 11; i <= 70; i++ {
			require.NoError(t, client.splitAt(t.Context(), tkey(80-i)))
		}
		before, most, _ := lead()
		require.Greater(t, most, 50, "the left leader leads the right side: %v", before)
		time.Sleep(5 * time.Minute)
		after, most, least := lead()
		require.Equal(t, 72, after[0]+after[1]+after[2])
		require.Less(t, most-least, 12, "leases were %v and are %v", before, after)
		require.Contains(t, d.after(n), "times the average load")
		n = d.len()
		time.Sleep(10 * time.Minute)
		require.Equal(t, n, d.len(), "leases keep moving: %v", after)

		// A node that is gone and comes back gets leases again once it has proved itself.
		lost := c.nodes[1]
		lost.kill()
		time.Sleep(time.Minute)
		lost.restart()
		time.Sleep(10 * time.Second)
		require.Zero(t, lost.store.leases(), "it has not proved itself")
		time.Sleep(5 * time.Minute)
		after, most, least = lead()
		require.Less(t, most-least, 12, "after a node came back, leases are %v", after)
		c.close()
	})
}
