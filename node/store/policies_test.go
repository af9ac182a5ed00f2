package store

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology/placement"
)

// violations says what is not as a map wants it.
func (c *testCluster) violations(m *policies.Map) (out []string) {
	for id := range c.ranges() {
		l := c.leaseholder(id)
		r := l.store.get(id)
		d := r.desc()
		rule := &m.Rules[m.Rule(d.Start)]
		if id != keys.MetaRangeID && len(m.Boundaries(d.Start, d.End)) > 0 {
			out = append(out, fmt.Sprintf("%s: a boundary lies inside", d))
		}
		zones, best := map[string]string{}, 1<<20
		for _, rd := range d.Replicas {
			at, _ := c.nodes[0].dir.Get(rd.Node) // a join that was tried again has used up an ID
			zone := at.Zone
			zones[zone] += [...]string{"v", "n", "w", "x"}[rd.Type]
			if z, _ := rule.Zone(zone); rd.Type == kv.Voter {
				best = min(best, z.LeaseRank)
			}
		}
		voters := 0
		for zone, has := range zones {
			z, _ := rule.Zone(zone)
			voters += strings.Count(has, "v") + strings.Count(has, "w")
			if strings.Contains(has, "v") && z.Voter != placement.Data || strings.Contains(has, "w") != (z.Voter == placement.Witness) || strings.Contains(has, "x") || strings.Contains(has, "n") != (z.NonVoter == placement.Always) {
				out = append(out, fmt.Sprintf("%s: zone %s has %q", d, zone, has))
			}
		}
		for _, z := range rule.Zones {
			if z.NonVoter == placement.Always && zones[z.Locality.Zone] != "n" {
				out = append(out, fmt.Sprintf("%s: zone %s has %q", d, z.Locality.Zone, zones[z.Locality.Zone]))
			}
		}
		if voters != rule.Voters {
			out = append(out, fmt.Sprintf("%s: %d voters, want %d", d, voters, rule.Voters))
		}
		if z, _ := rule.Zone(l.zone); z.LeaseRank != best {
			out = append(out, fmt.Sprintf("%s: the lease is in zone %s", d, l.zone))
		}
	}
	for _, n := range c.up() {
		for _, f := range n.store.Findings() {
			out = append(out, fmt.Sprintf("n%d: range %d: %s", n.id, f.Range, f.Reason))
		}
	}
	return out
}

// obeyed waits until everything is as a map wants it.
func (c *testCluster) obeyed(limit time.Duration, m *policies.Map) {
	c.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		v := c.violations(m)
		if len(v) == 0 {
			return
		}
		require.True(c.t, time.Now().Before(end), "after %s: %s", limit, strings.Join(v, "\n"))
	}
}

// still waits until nothing happens any more.
func (c *testCluster) still(d *diary) {
	c.t.Helper()
	for quiet, tries := 0, 0; quiet < 3; tries++ { // minutes
		require.Less(c.t, tries, 20, "it never ends: %s", d.after(max(0, d.len()-20)))
		n := d.len()
		time.Sleep(time.Minute)
		if quiet++; d.len() != n {
			quiet = 0
		}
	}
}

// writing writes to the keys below 50 until stop is called, which checks that nothing of it was lost.
func (c *testCluster) writing(n *testNode) (stop func()) {
	end, done := make(chan struct{}), make(chan error, 1)
	last := map[int]string{}
	go func() {
		for i := 0; ; i++ {
			select {
			case <-end:
				done <- nil
				return
			case <-time.After(10 * time.Millisecond):
			}
			v := fmt.Sprint(i)
			if err := n.put(c.t.Context(), tkey(i%50), v); err != nil {
				done <- fmt.Errorf("write %d: %w", i, err)
				return
			}
			last[i%50] = v
		}
	}()
	return func() {
		c.t.Helper()
		close(end)
		require.NoError(c.t, <-done)
		for k, want := range last {
			v, err := n.get(c.t.Context(), tkey(k))
			require.NoError(c.t, err)
			require.Equal(c.t, want, v)
		}
	}
}

const everywhere = "{name: everywhere, survive: zone}"

// Keys that a policy is bound to get a range of their own, move to the policy's zones under load, and
// the lease to where it is preferred; then nothing moves any more, until the policy is another.
func TestRangesFollowTheirPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		c := newCluster(t, func(cfg *Config) { cfg.Events, cfg.KeepReplicas = d.take, false }, "a", "b", "c", "d", "b")
		stop := c.writing(c.nodes[0])
		time.Sleep(5 * time.Second)
		away := "{name: away, survive: zone, default_role: excluded, zones: {b: {role: replica}, c: {role: replica}, d: {role: primary}}, lease_preferences: [d]}"
		m := c.compile([]string{everywhere, away}, bound{10, 20, "away"})
		c.setRules(m)
		c.obeyed(5*time.Minute, m)
		require.Len(t, c.ranges(), 4)
		stop()
		c.still(d)
		require.Empty(t, c.violations(m))
		for id := range c.ranges() {
			if l := c.leaseholder(id); l.store.get(id).desc().Start.Equal(tkey(10)) {
				require.Equal(t, "d", l.zone)
			}
		}
		require.Contains(t, d.after(0), `: policy "everywhere" holds up to there, policy "away" from there on`)

		// Another preference moves the lease, other zones the replicas; nil is the default rule.
		stop = c.writing(c.nodes[1])
		m = c.compile([]string{everywhere, strings.Replace(strings.Replace(away, "[d]", "[b]", 1), "primary", "replica", 1)}, bound{10, 20, "away"})
		c.setRules(m)
		c.obeyed(time.Minute, m)
		m = c.compile([]string{everywhere, strings.Replace(away, "d: {role: primary}}, lease_preferences: [d]", "a: {role: primary}}", 1)}, bound{10, 20, "away"})
		c.setRules(m)
		c.obeyed(5*time.Minute, m)
		stop()
		c.setRules(nil)
		c.still(d)
		for _, n := range c.nodes {
			require.Empty(t, n.store.Findings())
		}
		c.close()
	})
}

const (
	readInD = "{name: near, survive: zone, zones: {d: {role: read-only}}}"
	readInC = "{name: near, survive: zone, zones: {c: {role: read-only}}}"
)

// A read-only zone has a copy that does not vote, which stays and follows; a zone that becomes one
// keeps its copy without the vote, and gets the vote back with its role.
func TestReadOnlyZoneFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		c := newCluster(t, func(cfg *Config) { cfg.Events = d.take }, "a", "b", "c", "d")
		stop := c.writing(c.nodes[0])
		m := c.compile([]string{everywhere, readInD}, bound{10, 20, "near"})
		c.setRules(m)
		c.obeyed(5*time.Minute, m)
		stop()
		c.still(d)
		require.Empty(t, c.violations(m))
		near := c.rangeAt(tkey(10))
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(11), "followed"))
		c.follows(near, c.nodes[3])

		stop = c.writing(c.nodes[0])
		n := d.len()
		m = c.compile([]string{everywhere, readInC}, bound{10, 20, "near"})
		c.setRules(m)
		c.obeyed(time.Minute, m)
		require.Regexp(t, `a voter now is the replica on node 4: .*\n(.*\n)*.*a non-voter now is the replica on node 3: `, d.since(n, near))
		require.NotContains(t, d.since(n, near), "was removed", "nothing is copied anew")
		c.follows(near, c.nodes[2])
		n = d.len()
		m = c.compile([]string{everywhere, readInD}, bound{10, 20, "near"})
		c.setRules(m)
		c.obeyed(time.Minute, m)
		require.Regexp(t, `a voter now is the replica on node 3: .*\n(.*\n)*.*a non-voter now is the replica on node 4: `, d.since(n, near))
		require.NotContains(t, d.since(n, near), "was removed", "nothing is copied anew")
		stop()
		c.follows(near, c.nodes[3])
		c.still(d)
		c.close()
	})
}

// rangeAt returns the range that begins at a key.
func (c *testCluster) rangeAt(k keys.Key) keys.RangeID {
	c.t.Helper()
	for id := range c.ranges() {
		if c.leaseholder(id).store.get(id).desc().Start.Equal(k) {
			return id
		}
	}
	c.t.Fatalf("no range begins at %s", k)
	return 0
}

// follows waits until a node's replica, which does not vote, has applied what the leaseholder has, and
// checks that it is equal.
func (c *testCluster) follows(id keys.RangeID, n *testNode) {
	c.t.Helper()
	c.eventually(time.Minute, func() bool {
		l := c.leaseholder(id)
		rd, ok := l.store.get(id).desc().Replica(n.id)
		r := n.store.get(id)
		if !ok || rd.Type != kv.NonVoter || r == nil {
			return false
		}
		want, _ := l.store.get(id).info()
		got, _ := r.info()
		return got == want
	})
	l := c.leaseholder(id)
	v, err := l.store.survey(c.t.Context(), l.store.get(id))
	require.NoError(c.t, err)
	odd, undecided := v.judge()
	require.Empty(c.t, odd)
	require.False(c.t, undecided)
	rd, _ := v.desc.Replica(n.id)
	require.Contains(c.t, v.sums, rd.Replica, "its digest was asked for")
}

// A copy that does not vote lives on through what befalls replicas: restarts, splits, elections, the
// loss of its volume, and the decommission of its node.
func TestNonVoterLivesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		c := newCluster(t, func(cfg *Config) { cfg.Events = d.take }, "a", "b", "c", "d")
		client := c.nodes[0]
		m := c.compile([]string{everywhere, readInD}, bound{10, 20, "near"})
		c.setRules(m)
		require.NoError(t, client.put(t.Context(), tkey(0), "x"))
		c.obeyed(5*time.Minute, m)
		near := c.rangeAt(tkey(10))

		// It misses writes and a split while it is away, and follows both sides after.
		reader := c.nodes[3]
		reader.kill()
		for i := range 50 {
			require.NoError(t, client.put(t.Context(), tkey(i), fmt.Sprint(i)))
		}
		require.NoError(t, client.splitAt(t.Context(), tkey(15)))
		reader.restart()
		reader.store.SetRules(m)
		c.follows(near, reader)
		c.follows(c.rangeAt(tkey(15)), reader)
		require.NoError(t, client.splitAt(t.Context(), tkey(17)))
		c.follows(c.rangeAt(tkey(17)), reader)

		// An election: it does not stand, and follows whoever leads.
		l := c.leaseholder(near)
		l.kill()
		require.NotEqual(t, reader, c.leaseholder(near))
		time.Sleep(5 * time.Second)
		l.restart()
		l.store.SetRules(m)
		c.obeyed(2*time.Minute, m)
		c.follows(near, reader)

		// Its volume is lost: a node with the same address takes its place.
		reader.kill()
		reader.addr += " (gone)"
		time.Sleep(time.Second)
		second := c.join("node-4", "d")
		second.store.SetRules(m)
		c.obeyed(5*time.Minute, m)
		c.follows(near, second)

		third := c.join("node-6", "d")
		third.store.SetRules(m)
		require.NoError(t, client.store.Decommission(t.Context(), second.id, false, nil))
		c.obeyed(5*time.Minute, m)
		c.follows(near, third)
		c.still(d)
		c.close()
	})
}

// Copies that do not vote, on a node that is gone, are not on their way there: repairs go on.
func TestSilentNonVotersHoldUpNoRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c", "d")
		client := c.nodes[0]
		m := c.compile([]string{strings.Replace(readInD, "near", "all", 1)})
		c.setRules(m)
		require.NoError(t, client.put(t.Context(), tkey(0), "x"))
		for i := 1; i <= 3*copies; i++ { // more for each leaseholder than may be on their way
			require.NoError(t, client.splitAt(t.Context(), tkey(80-i)))
		}
		c.obeyed(5*time.Minute, m)
		c.nodes[3].kill()
		time.Sleep(2 * freshContact)
		substitute := c.join("substitute", "c")
		substitute.store.SetRules(m)
		c.nodes[2].kill()
		c.eventually(2*time.Minute, func() bool {
			for id := range c.ranges() {
				if rd, ok := c.leaseholder(id).store.get(id).desc().Replica(substitute.id); !ok || rd.Type != kv.Voter {
					return false
				}
			}
			return true
		})
		c.close()
	})
}

// S19 holds for a vote that is taken as for a replica that goes.
func TestDemotionKeepsAQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, func(cfg *Config) { cfg.AwaitRules = true }, "a", "b", "c")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(0), "x"))
		l := c.leaseholder(2)
		demote := func(n *testNode) error {
			_, err := l.store.ChangeReplicas(t.Context(), l.store.get(2).replica.Load(), &kv.AdminChangeReplicasRequest{Kind: kv.DemoteToNonVoter, Node: n.id})
			return err
		}
		require.ErrorIs(t, demote(l), errNeedsTransfer)
		first, second := c.nodes[int(l.id)%3], c.nodes[int(l.id+1)%3]
		second.kill()
		c.eventually(time.Minute, func() bool { return !l.store.cfg.Support.Live(second.id) })
		require.ErrorContains(t, demote(first), fmt.Sprintf("without the vote of node %d there would be 1 reachable voters", first.id))
		require.NoError(t, demote(second), "the other two are a quorum")
		require.ErrorContains(t, demote(second), fmt.Sprintf("node %d has no voter", second.id))
		require.ErrorContains(t, demote(&testNode{id: 9}), "node 9 has no voter")
		second.restart()
		c.follows(2, second)
		_, err := sendOne[*kv.AdminTransferLeaseResponse](t.Context(), l.sender, &kv.AdminTransferLeaseRequest{Key: tkey(0), Target: second.id})
		require.ErrorContains(t, err, "holds no voter")
		for _, n := range c.nodes {
			n.store.SetRules(nil)
		}
		c.voters(time.Minute, 1, 2, 3)
		c.close()
	})
}
