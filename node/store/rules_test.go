package store

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/allocator"
)

// bound says that a policy holds for the keys tkey(from) to tkey(to).
type bound struct {
	from, to int
	policy   string
}

// compile makes the map of policies, of which the first holds where no other is bound, against the
// zones that have nodes. None of them is in a region: what policies call theirs does not matter.
func (c *testCluster) compile(texts []string, bounds ...bound) *policies.Map {
	c.t.Helper()
	var nodes []topology.Node
	for id, l := range Places(c.nodes[0].dir.All()) {
		nodes = append(nodes, topology.Node{ID: int32(id), Name: fmt.Sprintf("n%d", id), Locality: topology.Locality{Region: "r", Zone: l.Zone}})
	}
	top, err := topology.FromNodes(nodes...)
	require.NoError(c.t, err)
	return compile(c.t, top, texts, bounds...)
}

func compile(t *testing.T, top topology.Topology, texts []string, bounds ...bound) *policies.Map {
	t.Helper()
	named, bindings := map[string]*policies.Policy{}, policies.Bindings{}
	for i, text := range texts {
		p, err := policies.Read(fmt.Sprintf("policy %d", i), []byte(text))
		require.NoError(t, err)
		named[p.Name] = p
		if i == 0 {
			bindings[policies.Object{}] = p.Name
		}
	}
	var spans []policies.Span
	for i, b := range bounds {
		o := policies.Object{Database: 1, Table: int64(i + 1)}
		bindings[o] = b.policy
		spans = append(spans, policies.Span{Start: tkey(b.from), End: tkey(b.to), Object: o})
	}
	m, err := policies.CompileAll(top, named, bindings, spans)
	require.NoError(t, err)
	return m
}

// setRules gives all nodes a map.
func (c *testCluster) setRules(m *policies.Map) {
	for _, n := range c.up() {
		n.store.SetRules(m)
	}
}

// A range is searched for boundaries again only when it, or the map, is another.
func TestBoundariesAreSearchedOnce(t *testing.T) {
	var nodes []topology.Node
	for _, zone := range []string{"a", "b", "c"} {
		nodes = append(nodes, topology.Node{Name: zone, Locality: topology.Locality{Region: "r", Zone: zone}})
	}
	top, err := topology.FromNodes(nodes...)
	require.NoError(t, err)
	texts := []string{"{name: one, survive: zone}", "{name: other, survive: node}"}
	m := compile(t, top, texts, bound{10, 20, "other"})
	s, r := &Store{}, &rep{}
	whole := &kv.RangeDescriptor{RangeID: 2, Start: tkey(0), End: tkey(100)}
	right := &kv.RangeDescriptor{RangeID: 3, Start: tkey(10), End: tkey(20)}
	require.False(t, s.spansPolicies(r, whole), "no rules are known")
	s.SetRules(nil)
	require.False(t, s.spansPolicies(r, whole))
	s.SetRules(m)
	require.True(t, s.spansPolicies(r, whole))
	require.True(t, s.spansPolicies(r, whole), "until it is split")
	require.Nil(t, r.q.oneRuleMap)
	order := func(p allocator.Priority) (names []string) {
		planned := map[keys.RangeID]due{0: {Change: allocator.Change{Kind: allocator.Remove, Priority: p}}}
		for _, j := range s.placementJobs(r, whole, planned) {
			names = append(names, j.name)
		}
		require.Empty(t, planned)
		return names
	}
	const split = "split where another policy begins"
	require.Equal(t, []string{"remove", split}, order(allocator.Repair), "the split needs other ranges")
	require.Equal(t, []string{split, "remove"}, order(allocator.Constraint), "it may be another range's then")
	s.full.Store(true)
	require.Empty(t, s.placementJobs(r, whole, nil), "the disk is full")
	s.full.Store(false)
	require.False(t, s.spansPolicies(r, right))
	require.Same(t, m, r.q.oneRuleMap)
	require.Same(t, right, r.q.oneRuleDesc)

	// What is remembered answers: the descriptor is not looked into again.
	end := right.End
	right.End = tkey(100)
	require.False(t, s.spansPolicies(r, right))
	again := *right
	require.True(t, s.spansPolicies(r, &again), "another descriptor")
	right.End = end
	s.SetRules(compile(t, top, texts, bound{10, 15, "other"}))
	require.True(t, s.spansPolicies(r, right), "another map")

	meta := &kv.RangeDescriptor{RangeID: keys.MetaRangeID, Start: keys.MinKey, End: keys.MaxKey}
	require.False(t, s.spansPolicies(r, meta), "the meta range is never split")
}

// Ranges are split where policies meet, and the diary says which do.
func TestRangesAreSplitWherePoliciesMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		c := newCluster(t, func(cfg *Config) { cfg.Events = d.take }, "a", "b", "c")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(0), "x"))
		m := c.compile([]string{"{name: all, survive: zone}", "{name: mine, survive: node}", "{name: yours, survive: node}"},
			bound{10, 20, "mine"}, bound{20, 30, "yours"}, bound{30, 40, "mine"})
		c.setRules(m)
		c.eventually(time.Minute, func() bool { return len(c.ranges()) == 6 })
		said := d.after(0)
		require.Contains(t, said, "begins at "+tkey(10).Pretty()+`: policy "all" holds up to there, policy "mine" from there on`)
		require.Contains(t, said, "begins at "+tkey(20).Pretty()+`: policy "mine" holds up to there, policy "yours" from there on`)
		require.Contains(t, said, "begins at "+tkey(40).Pretty()+`: policy "mine" holds up to there, policy "all" from there on`)
		time.Sleep(time.Minute)
		require.Len(t, c.ranges(), 6)
		for _, n := range c.nodes {
			require.Empty(t, n.store.Findings())
		}
		c.close()
	})
}

func TestPlacesNamesZonesAsPoliciesDo(t *testing.T) {
	at := func(region, zone string) topology.Locality { return topology.Locality{Region: region, Zone: zone} }
	nodes := []cluster.NodeInfo{
		{ID: 1, Region: "us", Zone: "a"}, {ID: 2, Region: "us", Zone: "a"}, {ID: 3, Region: "us", Zone: "b"},
		{ID: 4, Region: "eu", Zone: "b"}, {ID: 5, Zone: "b"}, {ID: 6}, {ID: 7, Region: "eu"}, {ID: 8, Zone: "c"},
	}
	want := map[keys.NodeID]topology.Locality{
		1: at("us", "a"), 2: at("us", "a"), 3: at("us", "us/b"), 4: at("eu", "eu/b"), 5: at("default", "b"), 6: at("default", "node 6"), 7: at("eu", "node 7"), 8: at("default", "c"),
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
