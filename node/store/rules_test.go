package store

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/topology"
)

func TestPlacesNamesZonesAsPoliciesDo(t *testing.T) {
	at := func(region, zone string) topology.Locality { return topology.Locality{Region: region, Zone: zone} }
	nodes := []cluster.NodeInfo{
		{ID: 1, Region: "us", Zone: "a"}, {ID: 2, Region: "us", Zone: "a"}, {ID: 3, Region: "us", Zone: "b"},
		{ID: 4, Region: "eu", Zone: "b"}, {ID: 5, Zone: "b"}, {ID: 6}, {ID: 7, Region: "eu"}, {ID: 8, Zone: "c"},
	}
	want := map[keys.NodeID]topology.Locality{
		1: at("us", "a"), 2: at("us", "a"), 3: at("us", "us/b"), 4: at("eu", "eu/b"), 5: at("", "b"), 6: at("", "node 6"), 7: at("eu", "node 7"), 8: at("", "c"),
	}
	require.Equal(t, want, Places(nodes))
	for i := range nodes { // whatever the order
		nodes[0], nodes[i] = nodes[i], nodes[0]
		require.Equal(t, want, Places(nodes))
	}
}

// Until the rules are known nothing is placed anew, after a restart neither.
func TestNothingMovesUntilTheRulesAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		c := newCluster(t, func(cfg *Config) { cfg.AwaitRules, cfg.Events = true, d.take }, "a")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(0), "x"))
		c.join("node-2", "b")
		c.join("node-3", "c")
		still := func() {
			n := d.len()
			time.Sleep(2 * time.Minute)
			require.Equal(t, n, d.len(), "%s", d.after(n))
			for _, up := range c.up() {
				require.Empty(t, up.store.Findings(), "nothing is known to be amiss")
			}
		}
		still()
		c.nodes[0].kill()
		c.nodes[0].restart()
		c.leaseholder(2)
		c.leaseholder(1)
		still()
		for _, n := range c.nodes {
			n.store.SetRules(nil)
		}
		c.voters(time.Minute, 1, 2, 3)

		// Nor is a node replaced by one that does not know them.
		victim := c.leaseholder(2)
		c.join("substitute", victim.zone)
		victim.kill()
		for _, n := range c.up() {
			n.stopParts()
			require.NoError(t, n.engines.Close())
			n.restart()
		}
		c.leaseholder(2)
		c.leaseholder(1)
		still()
		for _, n := range c.up() {
			n.store.SetRules(nil)
		}
		c.eventually(time.Minute, func() bool { return len(c.nodes[3].store.Ranges()) == 2 })
		c.close()
	})
}
