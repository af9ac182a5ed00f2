package policies

import (
	"slices"
	"strings"

	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/placement"
)

// Compile turns a policy that Check accepted into the rule that the allocator works by, zone by
// zone. Compile again when a zone appears: until then nothing is placed in it.
func (p *Policy) Compile(t topology.Topology) placement.Rule {
	r := placement.Rule{
		Policy: p.Name, Survive: p.Survive.Tier(), Voters: p.Voters,
		FollowWorkload: p.FollowWorkload, FollowerReads: p.FollowerReads, Probation: p.ReturnProbation,
	}
	ranks := p.leaseRanks(t)
	for _, z := range t.Zones() {
		out := placement.Zone{Locality: z.Locality(), LeaseRank: placement.NoLease, Attributes: p.AttributesOf(z.Name)}
		switch p.RoleOf(z.Locality()) {
		case Primary, Replica:
			out.Voter, out.LeaseRank = placement.Data, ranks[z.Name]
			if p.NonVoters == InEveryZone {
				out.NonVoter = placement.IfNoVoter
			}
		case Witness:
			out.Voter = placement.Witness
		case ReadOnly:
			out.NonVoter = placement.Always
		}
		r.Zones = append(r.Zones, out)
	}
	slices.SortFunc(r.Zones, func(a, b placement.Zone) int { return strings.Compare(a.Locality.Zone, b.Locality.Zone) })
	return r
}

// leaseRanks orders the zones that hold leases: those that are preferred, in order; the other
// primary ones; those in a region of one of these, since it is near what was preferred; the rest.
// Ranks are dense and begin with 0: without any preference all zones are equal.
func (p *Policy) leaseRanks(t topology.Topology) map[string]int {
	const none = 1 << 20
	class := map[string]int{}
	near := map[string]bool{}
	for _, z := range t.Zones() {
		role := p.RoleOf(z.Locality())
		if role != Primary && role != Replica {
			continue
		}
		at := slices.IndexFunc(p.LeasePreferences, func(pref string) bool { return matches(pref, z.Locality()) })
		switch {
		case at >= 0:
			class[z.Name] = at
		case role == Primary:
			class[z.Name] = len(p.LeasePreferences)
		default:
			class[z.Name] = none
			continue
		}
		near[z.Region] = true
	}
	for _, z := range t.Zones() {
		if class[z.Name] == none && near[z.Region] {
			class[z.Name] = none - 1
		}
	}
	var used []int
	for _, c := range class {
		used = append(used, c)
	}
	slices.Sort(used)
	used = slices.Compact(used)
	for zone, c := range class {
		class[zone] = slices.Index(used, c)
	}
	return class
}
