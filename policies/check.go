package policies

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/atolldb/atoll/topology"
)

// Check refuses a policy that a topology cannot satisfy, whatever the node can do. Every fault
// says why and what to do.
func (p *Policy) Check(t topology.Topology) error {
	if err := p.Validate(); err != nil {
		return err
	}
	var faults []error
	add := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("policy %q: "+format, append([]any{p.Name}, args...)...))
	}
	for _, z := range p.Zones {
		if _, ok := t.Zone(z.Zone); !ok {
			add("zone %q does not exist; the zones are %s", z.Zone, list(t.ZoneNames()))
		}
	}
	var regions []string
	for _, r := range t.Regions() {
		regions = append(regions, r.Name)
	}
	for _, r := range p.Regions {
		if !slices.Contains(regions, r.Region) {
			add("region %q does not exist; the regions are %s", r.Region, list(regions))
		}
	}
	for _, z := range t.Zones() {
		switch want := p.AttributesOf(z.Name); {
		case p.RoleOf(z.Locality()) == Excluded:
		case len(z.Nodes) == 0:
			add("zone %q has no node; give it one, or the role excluded", z.Name)
		case p.usable(z) == 0:
			add("zone %q has no node with the attributes %s; give it one, or the role excluded", z.Name, list(want))
		}
	}
	for _, err := range []error{p.checkNeeds(t), p.checkOneRegion(t), p.checkLeases(t)} {
		if err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) == 0 {
		if err := p.checkGoalIn(t); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// CheckLeaving refuses to let nodes go without which the policy can't be kept; where it can't be kept
// before either, to empty a zone. Zones that go may still be named in the policy.
func (p *Policy) CheckLeaving(before, after topology.Topology) error {
	if err := p.Check(before); err != nil {
		if len(after.Zones()) < len(before.Zones()) {
			return fmt.Errorf("a zone is emptied, and even now %w", err)
		}
		return nil
	}
	left := *p
	gone := func(zone string) bool { _, ok := after.Zone(zone); return !ok }
	left.Zones = slices.DeleteFunc(slices.Clone(p.Zones), func(z ZoneRole) bool { return gone(z.Zone) })
	left.LeasePreferences = slices.DeleteFunc(slices.Clone(p.LeasePreferences), func(pref string) bool {
		return !slices.ContainsFunc(after.Zones(), func(z topology.Zone) bool { return matches(pref, z.Locality()) })
	})
	left.Regions = slices.DeleteFunc(slices.Clone(p.Regions), func(r RegionRole) bool {
		return !slices.ContainsFunc(after.Zones(), func(z topology.Zone) bool { return z.Region == r.Region })
	})
	return left.Check(after)
}

// usable counts a zone's nodes that have what the policy asks for.
func (p *Policy) usable(z topology.Zone) int {
	want, n := p.AttributesOf(z.Name), 0
	for _, node := range z.Nodes {
		if node.HasAttributes(want) {
			n++
		}
	}
	return n
}

// checkNeeds refuses a policy without a zone of a role that it is about.
func (p *Policy) checkNeeds(t topology.Topology) error {
	for _, need := range p.Needs {
		if !slices.ContainsFunc(t.Zones(), func(z topology.Zone) bool { return p.RoleOf(z.Locality()) == need }) {
			return fmt.Errorf("policy %q needs a zone with the role %s, and no zone has it; give it to one of %s", p.Name, need, list(t.ZoneNames()))
		}
	}
	return nil
}

// checkOneRegion refuses copies in more than one region where the policy promises one.
func (p *Policy) checkOneRegion(t topology.Topology) error {
	if !p.OneRegion {
		return nil
	}
	var regions []string
	for _, z := range t.Zones() {
		if p.RoleOf(z.Locality()) != Excluded && !slices.Contains(regions, z.Region) {
			regions = append(regions, z.Region)
		}
	}
	if len(regions) < 2 {
		return nil
	}
	return fmt.Errorf("policy %q: one_region: true, but the zones that are not excluded lie in %d regions (%s); exclude the zones of all but one, for instance with default_role: excluded and regions: {%s: {role: replica}}",
		p.Name, len(regions), list(regions), regions[0])
}

// checkLeases refuses lease preferences for what is not there or never holds a lease.
func (p *Policy) checkLeases(t topology.Topology) error {
	for _, pref := range p.LeasePreferences {
		found, serves := false, false
		for _, z := range t.Zones() {
			if matches(pref, z.Locality()) {
				found = true
				r := p.RoleOf(z.Locality())
				serves = serves || r == Primary || r == Replica
			}
		}
		switch {
		case !found:
			return fmt.Errorf("policy %q: lease preference %q matches no zone; the zones are %s", p.Name, pref, list(t.ZoneNames()))
		case !serves:
			return fmt.Errorf("policy %q: lease preference %q names only zones that never hold a lease; use a zone with the role primary or replica", p.Name, pref)
		}
	}
	return nil
}

// matches reports whether a lease preference means a zone.
func matches(pref string, at topology.Locality) bool {
	if region, ok := strings.CutPrefix(pref, regionPrefix); ok {
		return region == at.Region
	}
	return pref == at.Zone
}

// domain is what fails as a whole under a goal.
type domain struct {
	name             string
	nodes, witnesses int // nodes that vote with data, and without
}

// checkGoalIn decides whether the voters of a range can be spread such that the failure that the
// goal names leaves a quorum, one voter of a range per node.
//
// With f = (voters-1)/2, a failure domain may hold at most f voters; and at most f may be
// witnesses, so that every quorum has a voter with data.
func (p *Policy) checkGoalIn(t topology.Topology) error {
	f := (p.Voters - 1) / 2
	domains := p.domains(t)
	data, witnesses, nodes := 0, 0, 0
	var names []string
	for _, d := range domains {
		nodes += d.nodes + d.witnesses
		names = append(names, d.name)
		if p.Survive == SurviveNode {
			data += d.nodes
			witnesses += d.witnesses
			continue
		}
		have := min(d.nodes, f)
		data += have
		witnesses += min(d.witnesses, f-have)
	}
	if data+min(witnesses, f) >= p.Voters {
		return nil
	}
	need := (p.Voters + f - 1) / f // domains, with at most f voters in each
	silent := p.silentZones(t)
	switch {
	case p.Survive == SurviveNode || len(domains) >= need && nodes < p.Voters:
		return fmt.Errorf("policy %q: %d voters need %d nodes, each in a zone that votes; there are %d (zones %s)%s; add nodes%s",
			p.Name, p.Voters, p.Voters, nodes, list(p.votingZones(t)), silent, p.orFewerVoters())
	case len(domains) < need:
		return fmt.Errorf("policy %q: survive: %s with %d voters needs %d %ss that vote, there %s %d (%s)%s; %s",
			p.Name, p.Survive, p.Voters, need, p.Survive, plural(len(domains)), len(domains), list(names), silent, p.nextStep(t))
	default:
		return fmt.Errorf("policy %q: survive: %s with %d voters puts at most %d of them into one %s, and at most %d may be witnesses; the nodes of %s can hold %d; add nodes to the smaller %ss%s",
			p.Name, p.Survive, p.Voters, f, p.Survive, f, list(names), data+min(witnesses, f), p.Survive, p.orFewerVoters())
	}
}

// domains returns the zones that vote, grouped by what the goal lets fail.
func (p *Policy) domains(t topology.Topology) []domain {
	var out []domain
	for _, z := range t.Zones() {
		role, nodes := p.RoleOf(z.Locality()), p.usable(z)
		if !role.Votes() || nodes == 0 {
			continue
		}
		name := z.Name
		if p.Survive == SurviveRegion {
			name = z.Region
		}
		i := slices.IndexFunc(out, func(d domain) bool { return d.name == name })
		if i < 0 {
			i = len(out)
			out = append(out, domain{name: name})
		}
		if role == Witness {
			out[i].witnesses += nodes
		} else {
			out[i].nodes += nodes
		}
	}
	return out
}

func (p *Policy) votingZones(t topology.Topology) []string {
	var out []string
	for _, z := range t.Zones() {
		if p.RoleOf(z.Locality()).Votes() {
			out = append(out, z.Name)
		}
	}
	return out
}

// silentZones names the zones that exist but have a role without a vote.
func (p *Policy) silentZones(t topology.Topology) string {
	var out []string
	for _, z := range t.Zones() {
		if r := p.RoleOf(z.Locality()); !r.Votes() {
			out = append(out, fmt.Sprintf("%s is %s", z.Name, r))
		}
	}
	if len(out) == 0 {
		return ""
	}
	return " (" + strings.Join(out, ", ") + ")"
}

func (p *Policy) nextStep(t topology.Topology) string {
	steps := []string{fmt.Sprintf("add a %s", p.Survive)}
	if p.silentZones(t) != "" {
		steps = append(steps, "let one of the silent zones vote")
	}
	smaller := Goals()[:slices.Index(Goals(), p.Survive)]
	for _, g := range slices.Backward(smaller) {
		q := *p
		q.Survive = g
		if q.checkGoalIn(t) == nil {
			return strings.Join(append(steps, fmt.Sprintf("or choose survive: %s", g)), ", ")
		}
	}
	return strings.Join(steps, ", or ")
}

func (p *Policy) orFewerVoters() string {
	if p.Voters > 3 {
		return fmt.Sprintf(", or set voters: %d", p.Voters-2)
	}
	return ""
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func plural(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
