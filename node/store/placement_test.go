package store

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// A zone that gets a second node shares its replicas with it, one for one inside the zone, and then
// they stay; when the node leaves, they come back.
func TestReplicasSpreadOverAZonesNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		c := newCluster(t, func(cfg *Config) { cfg.KeepReplicas, cfg.Events = false, d.take }, "a", "b", "c")
		client := c.nodes[0]
		require.NoError(t, client.put(t.Context(), tkey(0), "x"))
		for i := 1; i <= 10; i++ {
			require.NoError(t, client.splitAt(t.Context(), tkey(80-i)))
		}
		second := c.join("second", "a")
		stop, wrong := make(chan struct{}), make(chan error, 1)
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					wrong <- nil
					return
				case <-time.After(20 * time.Millisecond):
				}
				if err := client.put(t.Context(), tkey(i%80), fmt.Sprint(i)); err != nil {
					wrong <- err
					return
				}
			}
		}()
		zones := func() map[string]int {
			has := map[string]int{}
			for id := range c.ranges() {
				desc := c.leaseholder(id).store.get(id).desc()
				require.LessOrEqual(t, len(desc.Replicas), 5, "%s", desc)
				for _, rd := range desc.Replicas {
					if rd.Type == kv.Voter {
						has[c.nodes[rd.Node-1].zone]++
					}
				}
			}
			return has
		}
		shared := func() bool {
			first, second := len(c.nodes[0].store.Ranges()), len(c.nodes[3].store.Ranges())
			return first+second == 12 && second >= 3
		}
		c.eventually(10*time.Minute, shared)
		close(stop)
		require.NoError(t, <-wrong)
		for quiet, tries := 0, 0; quiet < 3; tries++ { // minutes
			require.Less(t, tries, 20, "replicas keep moving: %s", d.after(0))
			n := d.len()
			time.Sleep(time.Minute)
			if quiet++; d.len() != n {
				quiet = 0
			}
		}
		require.Equal(t, map[string]int{"a": 12, "b": 12, "c": 12}, zones())

		require.NoError(t, c.nodes[1].store.Decommission(t.Context(), second.id, false, nil))
		c.voters(time.Minute, 1, 2, 3)
		c.close()
	})
}

// ranges returns the ranges that any node has.
func (c *testCluster) ranges() map[keys.RangeID]bool {
	ids := map[keys.RangeID]bool{}
	for _, n := range c.up() {
		for _, r := range n.store.Ranges() {
			ids[r.Desc.RangeID] = true
		}
	}
	return ids
}
