package allocator_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/allocator"
	"github.com/atolldb/atoll/topology/placement"
)

func at(id allocator.NodeID, zone string) allocator.Node {
	return allocator.Node{ID: id, Locality: topology.Locality{Region: "us", Zone: zone}, For: time.Hour, DiskCapacity: 100 << 30}
}

// zones returns a rule over zones of one region, each for voters with data.
func zones(names ...string) placement.Rule {
	r := placement.Rule{Policy: "p", Survive: topology.ZoneTier, Voters: 3}
	for _, n := range names {
		r.Zones = append(r.Zones, placement.Zone{Locality: topology.Locality{Region: "us", Zone: n}, Voter: placement.Data})
	}
	return r
}

func voters(ids ...allocator.NodeID) (out []allocator.Replica) {
	for _, id := range ids {
		out = append(out, allocator.Replica{Node: id, CaughtUp: true})
	}
	return out
}

func TestFaultsOfAViewAllAtOnce(t *testing.T) {
	even := zones("a")
	even.Voters = 4
	_, err := allocator.New(allocator.View{
		Nodes:    []allocator.Node{at(1, "a"), at(1, "b"), at(0, "c"), {ID: 9}},
		Rules:    []placement.Rule{even},
		Settings: allocator.Settings{ZoneHold: time.Second, FullAt: 2, ReplicaSlack: 7},
	})
	for _, want := range []string{"node 1 is given twice", "node 0 (region=us,zone=c) needs a positive ID", "node 9 (region=,zone=) needs a positive ID",
		`policy "p" has 4 voters; an odd number up to 9`, "ZoneHold is 1s, less than RestartWait (1m0s)", "FullAt is 2; it must lie between 0.1 and 0.99", "ReplicaSlack is 7"} {
		require.ErrorContains(t, err, want)
	}
}

// TestSameViewSamePlan: a plan depends on values only, not on the order of a map or of nodes.
func TestSameViewSamePlan(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	v := allocator.View{Rules: []placement.Rule{zones("a", "b", "c", "d")}}
	for i := range 16 {
		n := at(allocator.NodeID(i+1), string(rune('a'+i%4)))
		n.CPU, n.DiskUsed = rng.Float64(), rng.Int64N(50<<30)
		v.Nodes = append(v.Nodes, n)
	}
	for i := range 200 {
		first := allocator.NodeID(rng.IntN(16) + 1)
		v.Ranges = append(v.Ranges, allocator.Range{ID: allocator.RangeID(i + 1), Replicas: voters(first, first%16+1, (first+1)%16+1), Leaseholder: first, LeaseFor: time.Hour})
	}
	want, err := allocator.PlanView(v)
	require.NoError(t, err)
	require.NotEmpty(t, want.Changes)
	for range 20 {
		rng.Shuffle(len(v.Nodes), func(i, j int) { v.Nodes[i], v.Nodes[j] = v.Nodes[j], v.Nodes[i] })
		before := slices.Clone(v.Nodes)
		got, err := allocator.PlanView(v)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, before, v.Nodes, "the view is left as it was")
	}
}

// TestZoneNewerThanRule: nothing is placed in a zone that a rule was not compiled against, and
// nothing is taken from it.
func TestZoneNewerThanRule(t *testing.T) {
	v := allocator.View{Rules: []placement.Rule{zones("a", "b", "c")}, Nodes: []allocator.Node{at(1, "a"), at(2, "b"), at(3, "new")}}
	v.Ranges = []allocator.Range{{ID: 1, Replicas: voters(1, 2), Leaseholder: 1}, {ID: 2, Replicas: voters(1, 2, 3), Leaseholder: 3}}
	p, err := allocator.PlanView(v)
	require.NoError(t, err)
	require.Empty(t, p.Changes)
	a, err := allocator.New(v)
	require.NoError(t, err)
	require.Contains(t, a.Explain(&v.Ranges[0]).String(), "node 3 (new): its zone is newer than the compiled policy")
}

// TestOddities: what a view should not hold gets an answer, not a panic.
func TestOddities(t *testing.T) {
	v := allocator.View{Rules: []placement.Rule{zones("a", "b", "c")}, Nodes: []allocator.Node{at(1, "a"), at(2, "b"), at(3, "c")}}
	a, err := allocator.New(v)
	require.NoError(t, err)
	for _, tc := range []struct {
		name string
		r    allocator.Range
		want allocator.Verdict
	}{
		{"no replicas", allocator.Range{}, allocator.Stuck},
		{"an unknown rule", allocator.Range{Rule: 7, Replicas: voters(1)}, allocator.Stuck},
		{"unknown nodes", allocator.Range{Replicas: voters(7, 8, 9), Leaseholder: 7}, allocator.Stuck},
		{"an unknown node", allocator.Range{Replicas: voters(1, 2, 9), Leaseholder: 1}, allocator.Settled},
		{"an unknown leaseholder that is distrusted", allocator.Range{Replicas: append(voters(1, 2), allocator.Replica{Node: 9, Distrusted: true}), Leaseholder: 9}, allocator.Waiting},
		{"a leaseholder without a replica", allocator.Range{Replicas: voters(1, 2, 3), Leaseholder: 9}, allocator.Waiting},
		{"busy", allocator.Range{Replicas: voters(1), Leaseholder: 1, Busy: true}, allocator.Waiting},
		{"in order", allocator.Range{Replicas: voters(1, 2, 3), Leaseholder: 1}, allocator.Settled},
	} {
		d := a.Decide(&tc.r)
		require.Equal(t, tc.want, d.Verdict, "%s: %+v", tc.name, d)
		if tc.want == allocator.Stuck || tc.want == allocator.Waiting {
			require.NotEmpty(t, d.Reason, tc.name)
		}
		require.NotEmpty(t, a.Explain(&tc.r).String())
	}
}

// TestDelaysByCause: how long each cause is waited for.
func TestDelaysByCause(t *testing.T) {
	for _, tc := range []struct {
		name   string
		health allocator.Health
		others allocator.Health // of its zone
		silent time.Duration
		want   allocator.Verdict
	}{
		{"restarting", allocator.Silent, allocator.Answers, 59 * time.Second, allocator.Settled},
		{"away", allocator.Silent, allocator.Answers, 60 * time.Second, allocator.Act},
		{"volume gone, just now", allocator.VolumeGone, allocator.Answers, 9 * time.Second, allocator.Settled},
		{"volume gone", allocator.VolumeGone, allocator.Answers, 10 * time.Second, allocator.Act},
		{"zone down", allocator.Silent, allocator.Silent, 29 * time.Minute, allocator.Settled},
		{"zone down for long", allocator.Silent, allocator.Silent, 30 * time.Minute, allocator.Act},
		{"volume gone in a zone that is down", allocator.VolumeGone, allocator.Silent, 10 * time.Second, allocator.Act},
	} {
		n := []allocator.Node{at(1, "a"), at(2, "a"), at(3, "b"), at(4, "c"), at(5, "d")}
		n[0].Health, n[0].For = tc.health, tc.silent
		if n[1].Health = tc.others; tc.others != allocator.Answers {
			n[1].For = tc.silent
		}
		a, err := allocator.New(allocator.View{Nodes: n, Rules: []placement.Rule{zones("a", "b", "c", "d")}})
		require.NoError(t, err)
		d := a.Decide(&allocator.Range{ID: 1, Replicas: voters(1, 3, 4), Leaseholder: 3})
		require.Equal(t, tc.want, d.Verdict, "%s: %+v", tc.name, d)
		if tc.want == allocator.Act {
			require.Equal(t, allocator.Repair, d.Change.Priority)
			require.Equal(t, allocator.AddNonVoter, d.Change.Kind)
		}
	}
}
