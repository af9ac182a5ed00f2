package fleet_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/allocator"
	"github.com/atolldb/atoll/topology/allocator/fleet"
	"github.com/atolldb/atoll/topology/placement"
)

var (
	seeds = flag.Int("seeds", 60, "how many seeds TestRandomFaults runs")
	seed  = flag.Uint64("seed", 0, "run this seed only")
)

// grid returns nodes: so many in each of so many zones, in regions of three zones.
func grid(zones, perZone int) []allocator.Node {
	var out []allocator.Node
	for z := range zones {
		for range perZone {
			out = append(out, node(len(out)+1, fmt.Sprint("r", z/3), fmt.Sprint("z", z)))
		}
	}
	return out
}

func node(id int, region, zone string) allocator.Node {
	return allocator.Node{ID: allocator.NodeID(id), Locality: topology.Locality{Region: region, Zone: zone}, DiskCapacity: 4 << 40, CPUCapacity: 16, For: 24 * time.Hour}
}

func topologyOf(t testing.TB, nodes []allocator.Node) topology.Topology {
	var out []topology.Node
	for _, n := range nodes {
		out = append(out, topology.Node{ID: int32(n.ID), Name: fmt.Sprint("n", n.ID), Locality: n.Locality})
	}
	top, err := topology.FromNodes(out...)
	require.NoError(t, err)
	return top
}

func rule(t testing.TB, nodes []allocator.Node, text string) placement.Rule {
	p, err := policies.Read("p", []byte(text))
	require.NoError(t, err)
	top := topologyOf(t, nodes)
	require.NoError(t, p.Check(top))
	return p.Compile(top)
}

// fill gives a fleet ranges of one voter each, at random nodes, with skewed sizes and loads.
func fill(f *fleet.Fleet, n int, rng *rand.Rand) {
	for i := range n {
		at := f.Nodes[rng.IntN(len(f.Nodes))].ID
		hot := rng.ExpFloat64()
		f.Ranges = append(f.Ranges, allocator.Range{
			ID: allocator.RangeID(i + 1), Rule: rng.IntN(len(f.Rules)), Leaseholder: at, LeaseFor: time.Hour,
			Replicas: []allocator.Replica{{Node: at, CaughtUp: true}},
			Bytes:    int64(rng.IntN(512 << 20)), ReplicaCPU: hot / 1000, LeaseCPU: hot / 300,
		})
	}
}

// seat puts every range's voters on nodes of different zones, in turn: a cluster that is in order.
func seat(f *fleet.Fleet, zones, perZone int) {
	for i := range f.Ranges {
		r := &f.Ranges[i]
		r.Replicas = r.Replicas[:0]
		for v := range f.Rules[r.Rule].Voters {
			z := (i + v*3) % zones // three zones on: another region
			r.Replicas = append(r.Replicas, allocator.Replica{Node: allocator.NodeID(z*perZone + (i/zones+v)%perZone + 1), CaughtUp: true})
		}
		r.Leaseholder = r.Replicas[0].Node
	}
}

func unhurried(f *fleet.Fleet) {
	f.Settings.Limits = allocator.Limits{Receive: 1000, Send: 1000, ReceiveMoves: 200, Leases: 1000}
}

// TestConvergesAndStays: from one voter each to all that the rules want, evenly; then nothing more.
func TestConvergesAndStays(t *testing.T) {
	for _, perNode := range []bool{false, true} {
		t.Run(map[bool]string{false: "one plan", true: "a plan per node"}[perNode], func(t *testing.T) {
			nodes := grid(6, 4)
			f := fleet.New(nodes, []placement.Rule{
				rule(t, nodes, "{name: a, survive: zone}"),
				rule(t, nodes, "{name: b, survive: zone, voters: 5, zones: {z0: {role: primary}}}"),
				rule(t, nodes, "{name: c, survive: zone, zones: {z5: {role: read-only}}}"),
			})
			f.PerNode = perNode
			f.Settings.Limits = allocator.Limits{Receive: 16, Send: 64, ReceiveMoves: 4}
			if perNode {
				f.Settings.Limits.ReceiveMoves, f.Settings.Planners = 1, 8
			}
			fill(f, 600, rand.New(rand.NewPCG(1, 1)))
			rounds, err := f.Settle(15*time.Second, 600)
			require.NoError(t, err)
			t.Logf("settled after %d rounds: %+v", rounds, f.Counts)
			requireInOrder(t, f)
			even(t, f, 0.35)

			before := f.Counts.Changes
			for range 20 {
				p, err := f.Round()
				require.NoError(t, err)
				require.Empty(t, p.Changes, "it stays")
				f.Tick(time.Minute)
			}
			require.Equal(t, before, f.Counts.Changes)

			f.Add(node(100, "r0", "z1")) // a node joins
			_, err = f.Settle(15*time.Second, 600)
			require.NoError(t, err)
			requireInOrder(t, f)
			even(t, f, 0.35)
			require.Greater(t, f.View().Nodes[len(f.Nodes)-1].Replicas, 40, "the new node has its part")
		})
	}
}

// even checks that within each zone no node has much more CPU or disk in use than another.
func even(t *testing.T, f *fleet.Fleet, slack float64) {
	t.Helper()
	zones := map[string][2][]float64{}
	for _, n := range f.View().Nodes {
		z := zones[n.Locality.Zone]
		z[0], z[1] = append(z[0], n.CPU), append(z[1], float64(n.DiskUsed))
		zones[n.Locality.Zone] = z
	}
	for zone, z := range zones {
		for i, what := range []string{"CPU", "disk"} {
			lo, hi := z[i][0], z[i][0]
			for _, v := range z[i] {
				lo, hi = min(lo, v), max(hi, v)
			}
			require.LessOrEqual(t, (hi-lo)/hi, slack, "%s in zone %s: %v", what, zone, z[i])
		}
	}
}

// requireInOrder checks, without the allocator, that every range is what its rule says.
func requireInOrder(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	require.Empty(t, f.Faults)
	for i := range f.Ranges {
		r := &f.Ranges[i]
		rule := f.Rules[r.Rule]
		var voters []placement.Voter
		seen, nonVoters := map[allocator.NodeID]bool{}, map[string]int{}
		for _, rep := range r.Replicas {
			n := f.Node(rep.Node)
			require.False(t, seen[n.ID], "range %d has two replicas on node %d", r.ID, n.ID)
			seen[n.ID] = true
			require.Equal(t, allocator.Answers, n.Health)
			require.Contains(t, []allocator.Membership{allocator.Active, allocator.Draining}, n.Membership)
			z, ok := rule.Zone(n.Locality.Zone)
			require.True(t, ok)
			switch rep.Type {
			case allocator.Voter:
				require.Equal(t, placement.Data, z.Voter, "range %d: %+v under %q", r.ID, r.Replicas, rule.Policy)
			case allocator.Witness:
				require.Equal(t, placement.Witness, z.Voter)
			case allocator.NonVoter:
				require.NotEqual(t, placement.Never, z.NonVoter, "range %d: %+v under %q", r.ID, r.Replicas, rule.Policy)
				nonVoters[n.Locality.Zone]++
				continue
			default:
				t.Fatalf("range %d: %+v", r.ID, r.Replicas)
			}
			voters = append(voters, placement.Voter{Node: int32(n.ID), At: n.Locality, Witness: rep.Type == allocator.Witness})
		}
		require.Len(t, voters, rule.Voters, "range %d under %q: %+v", r.ID, rule.Policy, r.Replicas)
		require.Positive(t, placement.Survives(voters, rule.Survive), "range %d under %q: %+v", r.ID, rule.Policy, voters)
		best := placement.NoLease
		for _, v := range voters {
			z, _ := rule.Zone(v.At.Zone)
			if !v.Witness && (best < 0 || z.LeaseRank < best) && f.Node(allocator.NodeID(v.Node)).Membership == allocator.Active {
				best = z.LeaseRank
			}
		}
		z, _ := rule.Zone(f.Node(r.Leaseholder).Locality.Zone)
		require.Equal(t, best, z.LeaseRank, "range %d under %q: the lease of %+v is with %d", r.ID, rule.Policy, r.Replicas, r.Leaseholder)
		for _, z := range rule.Zones {
			if z.NonVoter == placement.Always {
				require.Equal(t, 1, nonVoters[z.Locality.Zone], "range %d under %q: %+v", r.ID, rule.Policy, r.Replicas)
			}
		}
	}
}

// TestZoneLossAndReturn: a zone of four goes for longer than it is held, and returns.
func TestZoneLossAndReturn(t *testing.T) {
	nodes := grid(4, 3)
	f := fleet.New(nodes, []placement.Rule{rule(t, nodes, "{name: a, survive: zone}"), rule(t, nodes, "{name: b, survive: zone, zones: {z0: {role: primary}}}")})
	unhurried(f)
	fill(f, 300, rand.New(rand.NewPCG(3, 1)))
	_, err := f.Settle(15*time.Second, 300)
	require.NoError(t, err)
	copied := f.Counts.Bytes
	for _, id := range []allocator.NodeID{1, 2, 3} {
		f.SetHealth(id, allocator.Silent)
	}
	for range 20 {
		f.Tick(time.Minute)
		p, err := f.Round()
		require.NoError(t, err)
		for _, c := range p.Changes {
			require.NotEqual(t, allocator.Repair, c.Priority, "nothing is rebuilt while the zone is held: %s: %s", c, c.Reason)
		}
	}
	f.Tick(15 * time.Minute)
	_, err = f.Settle(15*time.Second, 300)
	require.NoError(t, err)
	require.Greater(t, f.Counts.Bytes, copied)
	requireInOrder(t, f)
	for _, id := range []allocator.NodeID{1, 2, 3} {
		f.SetHealth(id, allocator.Answers)
	}
	_, err = f.Settle(15*time.Second, 300)
	require.NoError(t, err)
	requireInOrder(t, f)
}

// TestRandomFaults drives random fleets through random faults and policies. No entry may break a
// rule (fleet.Faults), and once all is whole everything gets into order and stays.
func TestRandomFaults(t *testing.T) {
	run := func(t *testing.T, s uint64) {
		rng := rand.New(rand.NewPCG(s, 7))
		f := randomFleet(t, rng)
		f.Drop = func() bool { return rng.IntN(20) == 0 }
		faults := &mischief{f: f, rng: rng}
		for range 150 {
			faults.next()
			_, err := f.Round()
			require.NoError(t, err)
			require.Empty(t, f.Faults)
			f.Tick(time.Duration(1+rng.IntN(40)) * time.Second)
		}
		faults.heal()
		f.Drop = nil
		_, err := f.Settle(20*time.Second, 500)
		require.NoError(t, err)
		requireInOrder(t, f)
	}
	if *seed != 0 {
		run(t, *seed)
		return
	}
	n := *seeds
	if testing.Short() {
		n = min(n, 12)
	}
	for s := range n {
		t.Run(fmt.Sprint("seed ", s+1), func(t *testing.T) { run(t, uint64(s+1)) })
	}
}

func randomFleet(t *testing.T, rng *rand.Rand) *fleet.Fleet {
	nodes := grid(6, 2+rng.IntN(2))
	texts := []string{
		"{name: zone, survive: zone}", "{name: five, survive: zone, voters: 5}", "{name: node, survive: node, voters: 5}",
		"{name: primary, survive: zone, zones: {z1: {role: primary}}}",
		"{name: ordered, survive: zone, lease_preferences: [z2, region=r1]}",
		"{name: witness, survive: zone, zones: {z0: {role: replica}, z1: {role: replica}, z2: {role: witness}}, default_role: excluded}",
		"{name: tight, survive: zone, voters: 5, zones: {z0: {role: replica}, z1: {role: primary}, z2: {role: replica}}, default_role: excluded}",
		"{name: local, survive: zone, non_voters: every-zone}",
		"{name: reader, survive: zone, zones: {z3: {role: read-only}}}",
		"{name: pinned, survive: zone, one_region: true, default_role: excluded, regions: {r1: {role: replica}}}",
	}
	var rules []placement.Rule
	for range 3 {
		rules = append(rules, rule(t, nodes, texts[rng.IntN(len(texts))]))
	}
	f := fleet.New(nodes, rules)
	f.PerNode = rng.IntN(2) == 0
	f.CopyBytesPerSecond = 16 << 20
	f.Settings.Limits = allocator.Limits{Receive: 8, Send: 8, ReceiveMoves: 1 + rng.IntN(4)}
	if f.PerNode {
		f.Settings.Limits.ReceiveMoves, f.Settings.Planners = 1, 8
	}
	fill(f, 60, rng)
	// Begin where the rules allow, so that the first steps are not all the same.
	_, err := f.Settle(30*time.Second, 400)
	require.NoError(t, err)
	return f
}

// mischief makes faults that leave every range a way back: nodes that fail for good are
// replaced by others of their zone when all heals.
type mischief struct {
	f    *fleet.Fleet
	rng  *rand.Rand
	gone int
}

func (m *mischief) next() {
	n := &m.f.Nodes[m.rng.IntN(len(m.f.Nodes))]
	switch m.rng.IntN(14) {
	case 0, 1:
		m.f.SetHealth(n.ID, allocator.Silent)
	case 2, 3, 4:
		if n.Health == allocator.Silent {
			m.f.SetHealth(n.ID, allocator.Answers)
		}
	case 5:
		for _, o := range m.f.Nodes {
			if o.Locality.Zone == n.Locality.Zone && o.Health == allocator.Answers {
				m.f.SetHealth(o.ID, allocator.Silent)
			}
		}
	case 6:
		for _, o := range m.f.Nodes {
			if o.Health == allocator.Silent {
				m.f.SetHealth(o.ID, allocator.Answers)
			}
		}
	case 7:
		if m.gone == 0 { // no more than one at a time: what loses its quorum can't come back
			m.gone++
			m.f.SetHealth(n.ID, allocator.VolumeGone)
		}
	case 8:
		n.Membership = []allocator.Membership{allocator.Active, allocator.Draining}[m.rng.IntN(2)]
	case 9:
		n.Membership = []allocator.Membership{allocator.Active, allocator.Decommissioning}[m.rng.IntN(2)]
	case 10:
		r := &m.f.Ranges[m.rng.IntN(len(m.f.Ranges))]
		r.Rule = m.rng.IntN(len(m.f.Rules))
	case 11:
		r := &m.f.Ranges[m.rng.IntN(len(m.f.Ranges))]
		rep := &r.Replicas[m.rng.IntN(len(r.Replicas))]
		voters, data, distrusted := 0, 0, 0
		for _, o := range r.Replicas {
			if o.Distrusted {
				distrusted++
			}
			switch o.Type {
			case allocator.Voter:
				voters++
				data++
			case allocator.Witness:
				voters++
			}
		}
		if distrusted == 0 && rep.Node != r.Leaseholder && voters >= 3 && data >= 2 { // a quorum is left, and the data
			rep.Distrusted = true
		}
	case 12:
		r := &m.f.Ranges[m.rng.IntN(len(m.f.Ranges))]
		r.LeaseCPU *= 10 * m.rng.Float64()
	}
}

// heal brings back all that can come back, and a substitute for what can't.
func (m *mischief) heal() {
	for i := range m.f.Nodes {
		m.f.Nodes[i].Membership = allocator.Active
		m.f.SetHealth(m.f.Nodes[i].ID, allocator.Answers)
	}
}

// BenchmarkPlan measures the time of a decision: in a fleet in order, and after a node was lost. The cost
// per range must stay what it is as fleets grow.
func BenchmarkPlan(b *testing.B) {
	for _, size := range []struct{ ranges, zones, perZone, rules int }{
		{1000, 9, 4, 1}, {10000, 9, 12, 10}, {100000, 9, 34, 10}, {100000, 9, 34, 1000}, {100000, 30, 34, 10},
	} {
		nodes := grid(size.zones, size.perZone)
		var rules []placement.Rule
		for i := range size.rules {
			rules = append(rules, rule(b, nodes, fmt.Sprintf("{name: p%d, survive: zone, voters: 3}", i)))
		}
		f := fleet.New(nodes, rules)
		unhurried(f)
		fill(f, size.ranges, rand.New(rand.NewPCG(1, 1)))
		seat(f, size.zones, size.perZone)
		for _, lost := range []bool{false, true} {
			name := fmt.Sprintf("ranges=%d/nodes=%d/rules=%d/%s", size.ranges, len(nodes), size.rules, map[bool]string{false: "quiet", true: "node-lost"}[lost])
			if lost {
				f.SetHealth(1, allocator.VolumeGone)
				f.Tick(time.Minute)
			}
			v := f.View()
			b.Run(name, func(b *testing.B) {
				changes := 0
				b.ReportAllocs()
				for range b.N {
					p, err := allocator.PlanView(v)
					if err != nil {
						b.Fatal(err)
					}
					changes = len(p.Changes)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size.ranges), "ns/range")
				b.ReportMetric(float64(changes), "changes")
			})
		}
	}
}

// BenchmarkConverge measures how long a fleet takes, in rounds and in time of the allocator and the fleet
// together, until a zone's new nodes have their part and nothing moves any more.
func BenchmarkConverge(b *testing.B) {
	for _, size := range []struct{ ranges, zones, perZone int }{{10000, 9, 12}, {100000, 9, 34}} {
		b.Run(fmt.Sprintf("ranges=%d/nodes=%d", size.ranges, size.zones*size.perZone), func(b *testing.B) {
			for range b.N {
				nodes := grid(size.zones, size.perZone)
				f := fleet.New(nodes, []placement.Rule{rule(b, nodes, "{name: p, survive: zone}")})
				unhurried(f)
				fill(f, size.ranges, rand.New(rand.NewPCG(1, 1)))
				seat(f, size.zones, size.perZone)
				for i := range size.zones {
					f.Add(node(10000+i, fmt.Sprint("r", i/3), fmt.Sprint("z", i)))
				}
				rounds, err := f.Settle(15*time.Second, 300)
				if err != nil {
					b.Fatal(err)
				}
				total := 0
				for _, n := range f.Counts.Changes {
					total += n
				}
				b.ReportMetric(float64(rounds), "rounds")
				b.ReportMetric(float64(total), "changes")
				b.ReportMetric(float64(f.Counts.Windows), "windows")
			}
		})
	}
}
