// Package policies holds placement policies: which failure data survives, and what each zone
// is for. The same file serves provisioning, SQL and the command line.
//
//	name: survive-zone
//	survive: zone              # node | zone | region
//	voters: 3
//	zones:
//	  us-a: {role: primary}
//	  us-b: {role: replica}
//	  us-c: {role: witness}
//	follower_reads: true
//	return_probation: 30s
//
// Read takes such a file strictly and lists every fault with its line and column. Check refuses
// a policy that a topology cannot satisfy, and CheckBuilt one that this version of the node
// does not carry out yet. A zone that a policy does not name is a replica.
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

// Votes reports whether replicas in a zone of this role count for quorum.
func (r Role) Votes() bool { return r == Primary || r == Replica || r == Witness }

// Bounds of a policy's fields.
const (
	DefaultVoters      = 3
	MaxVoters          = 9
	MaxReturnProbation = time.Hour
)

// ZoneRole is one zone's entry.
type ZoneRole struct {
	Zone string
	Role Role
}

// Policy is one placement policy. Zones are in the order of their names.
type Policy struct {
	Name    string
	Survive Goal
	// Voters is the number of replicas of a range that vote; odd.
	Voters int
	Zones  []ZoneRole
	// FollowerReads asks for a short lag of the other replicas, so that they answer reads.
	FollowerReads bool
	// ReturnProbation is how long a returned zone proves itself before leases go back; 0
	// leaves it to the node.
	ReturnProbation time.Duration
}

// RoleOf returns what a zone is for.
func (p *Policy) RoleOf(zone string) Role {
	for _, z := range p.Zones {
		if z.Zone == zone {
			return z.Role
		}
	}
	return Replica
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
	if len(p.Zones) > 0 {
		b.WriteString("zones:\n")
		for _, z := range p.Zones {
			fmt.Fprintf(&b, "  %s: {role: %s}\n", quoted(z.Zone), z.Role)
		}
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

// Validate checks a policy by itself, without a topology, and lists every fault.
func (p *Policy) Validate() error {
	var faults []error
	add := func(err error) {
		if err != nil {
			faults = append(faults, fmt.Errorf("policy %q: %w", p.Name, err))
		}
	}
	add(checkName(p.Name))
	add(checkGoal(p.Survive))
	add(checkVoters(p.Voters))
	add(checkProbation(p.ReturnProbation))
	if len(p.Zones) > topology.MaxZones {
		add(fmt.Errorf("%d zones; at most %d are possible", len(p.Zones), topology.MaxZones))
	}
	for i, z := range p.Zones {
		add(topology.CheckName("zone", z.Zone))
		add(checkRole(z.Role))
		if i > 0 && p.Zones[i-1].Zone >= z.Zone {
			add(fmt.Errorf("zone %q is given twice or out of order", z.Zone))
		}
	}
	return join(faults)
}

func checkName(s string) error {
	if err := topology.CheckName("policy", s); err != nil {
		return err
	}
	return nil
}

func checkGoal(g Goal) error {
	if slices.Contains(Goals(), g) {
		return nil
	}
	return fmt.Errorf("survive: %q is unknown; use node, zone or region", string(g))
}

func checkRole(r Role) error {
	if slices.Contains(Roles(), r) {
		return nil
	}
	return fmt.Errorf("role %q is unknown; use primary, replica, read-only, witness or excluded", string(r))
}

func checkVoters(n int) error {
	switch {
	case n < 3:
		return fmt.Errorf("voters is %d; surviving any failure takes 3 or more", n)
	case n > MaxVoters:
		return fmt.Errorf("voters is %d; at most %d are possible", n, MaxVoters)
	case n%2 == 0:
		return fmt.Errorf("voters is %d; an even number survives no more failures than %d: use %d or %d", n, n-1, n-1, n+1)
	default:
		return nil
	}
}

func checkProbation(d time.Duration) error {
	if d < 0 || d > MaxReturnProbation {
		return fmt.Errorf("return_probation is %s; it must lie between 0s and %s", d, MaxReturnProbation)
	}
	return nil
}
