// Package policies holds placement policies: which failure data survives, and what each zone
// is for. The same file serves provisioning, SQL and the command line.
//
//	name: survive-zone
//	survive: zone              # node | zone | region
//	voters: 3
//	zones:
//	  us-a: {role: primary, attributes: [ssd]}
//	  us-b: {role: replica}
//	  us-c: {role: witness}
//	regions:
//	  eu: {role: read-only}    # its zones, unless they are named themselves
//	default_role: excluded     # of zones that neither names; replica if it is not given
//	lease_preferences: [us-a, region=us]
//	follower_reads: true
//	return_probation: 30s
//
// Read takes such a file strictly and lists every fault with its line and column. Check refuses
// a policy that a topology cannot satisfy. Bindings say which policy is in force for a database, table or index,
// Compile makes the rules that the allocator works by, and Foresee says what a policy would
// survive and cost.
package policies

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/atolldb/atoll/topology"
)

// Goal is the failure that data survives, without a lost write and without a person.
type Goal string

// The goals, from the smallest failure to the largest. Each includes the ones before it.
const (
	SurviveNode   Goal = "node"
	SurviveZone   Goal = "zone"
	SurviveRegion Goal = "region"
)

// Role is what a zone is for.
type Role string

// The roles of a zone.
const (
	Primary  Role = "primary"   // votes; leases are preferred here
	Replica  Role = "replica"   // votes; what a zone is that no policy names
	ReadOnly Role = "read-only" // copies that do not vote
	Witness  Role = "witness"   // votes, keeps no data
	Excluded Role = "excluded"  // no copy and no vote
)

// Roles returns every role.
func Roles() []Role { return []Role{Primary, Replica, ReadOnly, Witness, Excluded} }

// Goals returns every goal.
func Goals() []Goal { return []Goal{SurviveNode, SurviveZone, SurviveRegion} }

// Tier returns the failure domain that the goal lets fail.
func (g Goal) Tier() topology.Tier { return topology.Tier(max(0, slices.Index(Goals(), g))) }

// Votes reports whether replicas in a zone of this role count for quorum.
func (r Role) Votes() bool { return r == Primary || r == Replica || r == Witness }

// Bounds of a policy's fields.
const (
	DefaultVoters      = 3
	MaxVoters          = 9
	MaxReturnProbation = time.Hour
	MaxAttributes      = 16 // that one policy asks for in one place
)

// ZoneRole is one zone's entry.
type ZoneRole struct {
	Zone string
	Role Role
	// Attributes are what a node of this zone needs, beside those that all zones ask for.
	Attributes []string
}

// RegionRole is one region's entry: the role of its zones.
type RegionRole struct {
	Region string
	Role   Role
}

// NonVoters says which zones have a copy that does not vote.
type NonVoters string

// InReadOnlyZones is the default. InEveryZone adds those zones that may hold data but have no
// voter of a range: then each zone can answer reads by itself.
const (
	InReadOnlyZones NonVoters = "read-only-zones"
	InEveryZone     NonVoters = "every-zone"
)

// Policy is one placement policy. Zones, Regions and attributes are in the order of their names.
type Policy struct {
	Name    string
	Survive Goal
	// Voters is the number of replicas of a range that vote; odd.
	Voters  int
	Zones   []ZoneRole
	Regions []RegionRole
	// DefaultRole is what a zone is that neither Zones nor Regions names; empty means Replica.
	DefaultRole Role
	// Attributes are what every node needs that holds a replica, for instance "ssd".
	Attributes []string
	// LeasePreferences are zones, and regions written region=R, the best first. Zones with the
	// role primary that are not among them come next.
	LeasePreferences []string
	// FollowWorkload moves leases to the zone that most requests come from.
	FollowWorkload bool
	// NonVoters may be empty: InReadOnlyZones.
	NonVoters NonVoters
	// OneRegion refuses zones with copies in more than one region.
	OneRegion bool
	// Needs are roles that some zone must have for the policy to make sense.
	Needs []Role
	// FollowerReads asks for a short lag of the other replicas, so that they answer reads.
	FollowerReads bool
	// ReturnProbation is how long a returned zone proves itself before leases go back; 0
	// leaves it to the node.
	ReturnProbation time.Duration
}

// RoleOf returns what a zone is for: its own entry, or its region's, or the default.
func (p *Policy) RoleOf(at topology.Locality) Role {
	for _, z := range p.Zones {
		if z.Zone == at.Zone {
			return z.Role
		}
	}
	for _, r := range p.Regions {
		if r.Region == at.Region {
			return r.Role
		}
	}
	if p.DefaultRole != "" {
		return p.DefaultRole
	}
	return Replica
}

// AttributesOf returns what a node of a zone needs, in order.
func (p *Policy) AttributesOf(zone string) []string {
	out := slices.Clone(p.Attributes)
	for _, z := range p.Zones {
		if z.Zone == zone {
			out = append(out, z.Attributes...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// WithRoles returns the policy with further zones' roles. A zone that has another role already
// is an error: two places that disagree are one too many.
func (p *Policy) WithRoles(roles ...ZoneRole) (*Policy, error) {
	out := *p
	out.Zones = slices.Clone(p.Zones)
	for _, r := range roles {
		i := slices.IndexFunc(out.Zones, func(z ZoneRole) bool { return z.Zone == r.Zone })
		switch {
		case i < 0:
			out.Zones = append(out.Zones, r)
		case out.Zones[i].Role != r.Role:
			return nil, fmt.Errorf("policy %q gives zone %q the role %s, but %s is asked for as well; name its role in one place", p.Name, r.Zone, out.Zones[i].Role, r.Role)
		}
	}
	sortZones(out.Zones)
	if err := out.Validate(); err != nil {
		return nil, err
	}
	return &out, nil
}

func sortZones(z []ZoneRole) {
	slices.SortFunc(z, func(a, b ZoneRole) int { return strings.Compare(a.Zone, b.Zone) })
}

// Format returns the policy as a file that Read accepts.
func (p *Policy) Format() string {
	var b strings.Builder
	fmt.Fprintf(&b, "name: %s\nsurvive: %s\nvoters: %d\n", quoted(p.Name), p.Survive, p.Voters)
	if p.DefaultRole != "" {
		fmt.Fprintf(&b, "default_role: %s\n", p.DefaultRole)
	}
	if len(p.Regions) > 0 {
		b.WriteString("regions:\n")
		for _, r := range p.Regions {
			fmt.Fprintf(&b, "  %s: {role: %s}\n", quoted(r.Region), r.Role)
		}
	}
	if len(p.Zones) > 0 {
		b.WriteString("zones:\n")
		for _, z := range p.Zones {
			fmt.Fprintf(&b, "  %s: {role: %s", quoted(z.Zone), z.Role)
			if len(z.Attributes) > 0 {
				fmt.Fprintf(&b, ", attributes: %s", quotedList(z.Attributes))
			}
			b.WriteString("}\n")
		}
	}
	if len(p.Attributes) > 0 {
		fmt.Fprintf(&b, "attributes: %s\n", quotedList(p.Attributes))
	}
	if len(p.LeasePreferences) > 0 {
		fmt.Fprintf(&b, "lease_preferences: %s\n", quotedList(p.LeasePreferences))
	}
	if p.FollowWorkload {
		b.WriteString("follow_workload: true\n")
	}
	if p.NonVoters != "" {
		fmt.Fprintf(&b, "non_voters: %s\n", p.NonVoters)
	}
	if p.OneRegion {
		b.WriteString("one_region: true\n")
	}
	if len(p.Needs) > 0 {
		fmt.Fprintf(&b, "needs: %s\n", quotedList(p.Needs))
	}
	if p.FollowerReads {
		b.WriteString("follower_reads: true\n")
	}
	if p.ReturnProbation != 0 {
		fmt.Fprintf(&b, "return_probation: %s\n", p.ReturnProbation)
	}
	return b.String()
}

// quoted keeps names like 1 or true strings. Names hold no character that needs an escape.
func quoted(name string) string { return `"` + name + `"` }

func quotedList[S ~string](names []S) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = quoted(string(n))
	}
	return "[" + strings.Join(out, ", ") + "]"
}
