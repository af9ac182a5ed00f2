package policies

import (
	"fmt"
	"strings"

	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/placement"
)

// Survival counts failures that are survived without a lost write and without a person: any that
// many nodes at once, or zones, or regions.
type Survival struct{ Nodes, Zones, Regions int }

// String says it in words: any node, any zone, no region.
func (s Survival) String() string {
	parts := make([]string, 0, 3)
	for _, k := range []struct {
		n    int
		what string
	}{{s.Nodes, "node"}, {s.Zones, "zone"}, {s.Regions, "region"}} {
		switch k.n {
		case 0:
			parts = append(parts, "no "+k.what)
		case 1:
			parts = append(parts, "any "+k.what)
		default:
			parts = append(parts, fmt.Sprintf("any %d %ss", k.n, k.what))
		}
	}
	return strings.Join(parts, ", ")
}

// SurvivalOf returns what a set of voters survives.
func SurvivalOf(voters []placement.Voter) Survival {
	return Survival{
		Nodes:   placement.Survives(voters, topology.NodeTier),
		Zones:   placement.Survives(voters, topology.ZoneTier),
		Regions: placement.Survives(voters, topology.RegionTier),
	}
}

// Outlook is what a policy will do on a topology, before anything moves.
type Outlook struct {
	Survives Survival
	// Voters of a range are where they sit best. With more zones than voters other ranges have
	// other seats, as good by placement.Score.
	Voters []placement.Voter
	Zones  []ZoneOutlook // in the topology's order
}

// ZoneOutlook is one zone's part.
type ZoneOutlook struct {
	Zone   topology.Locality
	Role   Role
	Voters int // of a range, here
	// NonVoters of a range, here.
	NonVoters int
	// Lease: the leases go here, if nothing is lost.
	Lease bool
	// Commit and Read are what a commit in one range, and a read of the present, cost at a
	// gateway in this zone. Where no zone is preferred for leases, they are those of the range
	// whose leaseholder is farthest.
	Commit, Read placement.Trips
	// LocalReads: reads of the past (follower reads) need not leave the zone.
	LocalReads bool
}

// Foresee computes what a policy that Check accepts survives and costs.
func (p *Policy) Foresee(t topology.Topology) (Outlook, error) {
	if err := p.Check(t); err != nil {
		return Outlook{}, err
	}
	rule := p.Compile(t)
	voters, err := p.bestVoters(t, &rule)
	if err != nil {
		return Outlook{}, err
	}
	out := Outlook{Voters: voters, Survives: SurvivalOf(voters)}
	holders := leaseholders(&rule, voters)
	for _, z := range t.Zones() {
		rz, _ := rule.Zone(z.Name)
		zo := ZoneOutlook{Zone: z.Locality(), Role: p.RoleOf(z.Locality())}
		data := false
		for _, v := range voters {
			if v.At == zo.Zone {
				zo.Voters++
				data = data || !v.Witness
			}
		}
		if rz.NonVoter == placement.Always || rz.NonVoter == placement.IfNoVoter && !data {
			zo.NonVoters = 1
		}
		zo.LocalReads = p.FollowerReads && (data || zo.NonVoters > 0)
		for _, h := range holders {
			zo.Lease = zo.Lease || h == zo.Zone
			zo.Commit = farther(zo.Commit, placement.CommitTrips(zo.Zone, h, voters))
			zo.Read = farther(zo.Read, placement.ReadTrips(zo.Zone, h))
		}
		out.Zones = append(out.Zones, zo)
	}
	return out, nil
}

// bestVoters seats the voters on the nodes of a topology.
func (p *Policy) bestVoters(t topology.Topology, rule *placement.Rule) ([]placement.Voter, error) {
	var rooms []placement.Room
	regions := map[string]int32{}
	zones := t.Zones()
	for i, z := range zones {
		rz, _ := rule.Zone(z.Name)
		if _, ok := regions[z.Region]; !ok {
			regions[z.Region] = int32(len(regions))
		}
		if rz.Voter != placement.NoCopy {
			rooms = append(rooms, placement.Room{Free: p.usable(z),
				Seat: placement.Seat{Zone: int32(i), Region: regions[z.Region], Witness: rz.Voter == placement.Witness, Rank: int32(rz.LeaseRank)}})
		}
	}
	seats := placement.Spread(rule.Survive, rule.Voters, rooms)
	if len(seats) < rule.Voters {
		return nil, fmt.Errorf("policy %q: only %d of %d voters find a place that keeps survive: %s; check the roles of the zones", p.Name, len(seats), rule.Voters, p.Survive)
	}
	voters := make([]placement.Voter, len(seats))
	for i, s := range seats {
		voters[i] = placement.Voter{Node: int32(i), At: zones[s.Zone].Locality(), Witness: s.Witness}
	}
	return voters, nil
}

// leaseholders returns the places of the voters that leases prefer.
func leaseholders(rule *placement.Rule, voters []placement.Voter) []topology.Locality {
	best := -1
	var out []topology.Locality
	for _, v := range voters {
		z, _ := rule.Zone(v.At.Zone)
		switch {
		case v.Witness || best >= 0 && z.LeaseRank > best:
			continue
		case best < 0 || z.LeaseRank < best:
			best, out = z.LeaseRank, out[:0]
		}
		out = append(out, v.At)
	}
	return out
}

// farther returns the dearer of two.
func farther(a, b placement.Trips) placement.Trips {
	for _, d := range []int{a.CrossRegion - b.CrossRegion, a.CrossZone - b.CrossZone, a.InZone - b.InZone} {
		if d != 0 {
			if d > 0 {
				return a
			}
			return b
		}
	}
	return a
}
