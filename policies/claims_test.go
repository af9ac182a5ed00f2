package policies

import (
	"fmt"
	"math/bits"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/placement"
)

// claims are what the comments of the shipped policies say, each on a topology that it is for.
var claims = []struct {
	policy, zones string
	roles         []string
	survives      Survival
}{
	{"survive-node", "us/us-a:3", nil, Survival{Nodes: 1}},
	{"survive-node", "us/us-a:1 us/us-b:1 us/us-c:1", nil, Survival{Nodes: 1, Zones: 1}},
	{"survive-zone", "us/us-a:2 us/us-b:1 us/us-c:3", nil, Survival{Nodes: 1, Zones: 1}},
	{"survive-zone", "us/us-a:1 us/us-b:1 us/us-c:1 us/us-d:1", nil, Survival{Nodes: 1, Zones: 1}},
	{"survive-two-zones", "us/us-a:1 us/us-b:1 us/us-c:1 us/us-d:1 us/us-e:1", nil, Survival{Nodes: 2, Zones: 2}},
	{"survive-region", "us/us-a:1 us/us-b:1 eu/eu-a:1 eu/eu-b:1 as/as-a:1", nil, Survival{Nodes: 1, Zones: 1, Regions: 1}},
	{"primary-zone", "us/us-a:2 us/us-b:2 us/us-c:2", []string{"us-a=primary"}, Survival{Nodes: 1, Zones: 1}},
	{"two-zones-and-a-witness", "us/us-a:2 us/us-b:2 us/us-c:1", []string{"us-c=witness"}, Survival{Nodes: 1, Zones: 1}},
	{"read-local", "us/us-a:1 us/us-b:1 us/us-c:1 us/us-d:1 us/us-e:1", nil, Survival{Nodes: 1, Zones: 1}},
	{"follow-the-workload", "us/us-a:1 us/us-b:1 us/us-c:1", nil, Survival{Nodes: 1, Zones: 1}},
	{"pinned-to-region", "us/us-a:1 eu/eu-a:1 eu/eu-b:1 eu/eu-c:1", []string{"eu-a=replica", "eu-b=replica", "eu-c=replica"}, Survival{Nodes: 1, Zones: 1}},
}

// TestShippedPoliciesSurviveWhatTheyClaim tries every failure of every size against every quorum
// that could have acknowledged a write.
func TestShippedPoliciesSurviveWhatTheyClaim(t *testing.T) {
	claimed := map[string]bool{}
	for _, c := range claims {
		claimed[c.policy] = true
		t.Run(c.policy+" on "+c.zones, func(t *testing.T) {
			p, err := Ready(c.policy)
			require.NoError(t, err)
			p, err = p.WithRoles(parseRoles(c.roles)...)
			require.NoError(t, err)
			top := parseZones(t, c.zones)
			out, err := p.Foresee(top)
			require.NoError(t, err)
			require.Len(t, out.Voters, p.Voters)
			require.Equal(t, c.survives, out.Survives, "what Foresee says")
			tried := Survival{
				Nodes:   tryFailures(out.Voters, func(v placement.Voter) string { return fmt.Sprint(v.Node) }),
				Zones:   tryFailures(out.Voters, func(v placement.Voter) string { return v.At.Zone }),
				Regions: tryFailures(out.Voters, func(v placement.Voter) string { return v.At.Region }),
			}
			require.Equal(t, c.survives, tried, "what trying every failure says")
			kept := map[topology.Tier]int{topology.NodeTier: tried.Nodes, topology.ZoneTier: tried.Zones, topology.RegionTier: tried.Regions}
			require.Positive(t, kept[p.Survive.Tier()], "the goal itself")
		})
	}
	for _, name := range Names() {
		require.True(t, claimed[name], "policy %s ships without a proof of what it survives", name)
	}
}

// tryFailures returns how many failure domains may be lost, whichever they are. It knows nothing
// of how placement.Survives computes it: it plays each failure after each possible commit.
func tryFailures(voters []placement.Voter, domain func(placement.Voter) string) int {
	var names []string
	at := make([]int, len(voters))
	for i, v := range voters {
		at[i] = len(names)
		for j, n := range names {
			if n == domain(v) {
				at[i] = j
			}
		}
		if at[i] == len(names) {
			names = append(names, domain(v))
		}
	}
	for size := 1; size <= len(names); size++ {
		for failure := range 1 << len(names) {
			if bits.OnesCount(uint(failure)) == size && !survivesAfterAnyCommit(voters, at, failure) {
				return size - 1
			}
		}
	}
	return len(names)
}

func survivesAfterAnyCommit(voters []placement.Voter, at []int, failure int) bool {
	quorum := len(voters)/2 + 1
	for acked := range 1 << len(voters) {
		if bits.OnesCount(uint(acked)) < quorum {
			continue
		}
		durable := map[int]bool{} // failure domains with a copy of the data that has the write
		for i, v := range voters {
			if acked>>i&1 == 1 && !v.Witness {
				durable[at[i]] = true
			}
		}
		truncated := len(durable) >= 2 // then a witness may have dropped it from its log (S22)
		left, data, written := 0, false, false
		for i, v := range voters {
			if failure>>at[i]&1 == 1 {
				continue
			}
			left++
			data = data || !v.Witness
			written = written || acked>>i&1 == 1 && (!v.Witness || !truncated)
		}
		if left < quorum || !data || !written {
			return false
		}
	}
	return true
}
