package policies

import (
	"errors"
	"fmt"

	"github.com/atolldb/atoll/topology"
)

// CheckBuilt refuses what is sound but not carried out by this version of the node: a policy
// that promises more than happens is worse than none. Today the node gives every range one voter
// in each zone (an odd number, at most five), keeps a replacement inside its zone, and spreads
// leases evenly. It shrinks as the node learns.
func (p *Policy) CheckBuilt(t topology.Topology) error {
	var faults []error
	add := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("policy %q: "+format, append([]any{p.Name}, args...)...))
	}
	zones := t.Zones()
	for _, z := range zones {
		if role := p.RoleOf(z.Locality()); role != Replica {
			add("zone %q has the role %s, which this version does not carry out yet; use replica%s", z.Name, role, map[bool]string{true: ", or leave the zone out"}[!role.Votes()])
		}
	}
	for _, field := range p.unbuilt() {
		add("%s is not built yet in this version; leave it out", field)
	}
	if p.FollowerReads {
		add("follower_reads: true is not built yet in this version; set it to false")
	}
	if p.ReturnProbation != 0 {
		add("return_probation is not built yet in this version; leave it out")
	}
	switch voters := min(len(zones)-(len(zones)+1)%2, builtMaxVoters); {
	case len(zones) < 3:
		add("this version puts one voter into each zone and so needs 3 zones, there %s %d (%s); add a zone", plural(len(zones)), len(zones), list(t.ZoneNames()))
	case p.Voters != voters:
		add("this version puts one voter into each of at most %d zones: with the %d zones given, set voters: %d", builtMaxVoters, len(zones), voters)
	}
	if p.Survive == SurviveRegion {
		for _, r := range t.Regions() {
			if len(r.Zones) > 1 {
				add("survive: region with %d zones in region %q is not built yet in this version, which spreads voters over zones without regard to regions; use one zone per region, or survive: zone", len(r.Zones), r.Name)
			}
		}
	}
	return errors.Join(faults...)
}

const builtMaxVoters = 5

// unbuilt returns the fields that are set and that the node does not know of.
func (p *Policy) unbuilt() []string {
	var out []string
	field := func(set bool, name string) {
		if set {
			out = append(out, name)
		}
	}
	asked := len(p.Attributes) > 0
	for _, z := range p.Zones {
		asked = asked || len(z.Attributes) > 0
	}
	field(len(p.Regions) > 0, "regions")
	field(p.DefaultRole != "" && p.DefaultRole != Replica, "default_role: "+string(p.DefaultRole))
	field(asked, "attributes")
	field(len(p.LeasePreferences) > 0, "lease_preferences")
	field(p.FollowWorkload, "follow_workload: true")
	field(p.NonVoters == InEveryZone, "non_voters: every-zone")
	field(p.OneRegion, "one_region: true")
	return out
}
