package policies

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/atolldb/atoll/topology"
)

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
	add(checkNonVoters(p.NonVoters))
	add(checkAttributes(p.Attributes))
	add(checkPreferences(p.LeasePreferences))
	for _, r := range p.Needs {
		add(checkRole(r))
	}
	if p.DefaultRole != "" {
		add(checkRole(p.DefaultRole))
	}
	for i, r := range p.Regions {
		add(topology.CheckName("region", r.Region))
		add(checkRole(r.Role))
		if i > 0 && p.Regions[i-1].Region >= r.Region {
			add(fmt.Errorf("region %q is given twice or out of order", r.Region))
		}
	}
	if len(p.Zones) > topology.MaxZones {
		add(fmt.Errorf("%d zones; at most %d are possible", len(p.Zones), topology.MaxZones))
	}
	for i, z := range p.Zones {
		add(topology.CheckName("zone", z.Zone))
		add(checkRole(z.Role))
		add(checkAttributes(z.Attributes))
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

func checkNonVoters(n NonVoters) error {
	switch n {
	case "", InReadOnlyZones, InEveryZone:
		return nil
	}
	return fmt.Errorf("non_voters: %q is unknown; use %s or %s", string(n), InReadOnlyZones, InEveryZone)
}

func checkAttributes(names []string) error {
	if len(names) > MaxAttributes {
		return fmt.Errorf("%d attributes; at most %d are possible", len(names), MaxAttributes)
	}
	for i, a := range names {
		if err := topology.CheckName("attribute", a); err != nil {
			return err
		}
		if i > 0 && names[i-1] >= a {
			return fmt.Errorf("attribute %q is given twice or out of order", a)
		}
	}
	return nil
}

func checkPreferences(names []string) error {
	if len(names) > topology.MaxZones {
		return fmt.Errorf("%d lease preferences; at most %d are possible", len(names), topology.MaxZones)
	}
	for i, n := range names {
		if err := checkPreference(n); err != nil {
			return err
		}
		if slices.Contains(names[:i], n) {
			return fmt.Errorf("lease preference %q is given twice", n)
		}
	}
	return nil
}

// regionPrefix marks a lease preference for a whole region, as in a locality.
const regionPrefix = "region="

func checkPreference(s string) error {
	if region, ok := strings.CutPrefix(s, regionPrefix); ok {
		return topology.CheckName("region", region)
	}
	return topology.CheckName("zone", s)
}
