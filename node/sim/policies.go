package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/placement"
)

// inForce are the policies that the cluster has; nodes learn of them at different times.
type inForce struct {
	mu    sync.Mutex
	rules *policies.Map
	// named, bindings and spans are what they were compiled from.
	named    map[string]*policies.Policy
	bindings policies.Bindings
	spans    []policies.Span
}

func (f *inForce) get() *policies.Map {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rules
}

// maxNews is how long a node may take to learn of new policies.
const maxNews = 5 * time.Second

// policyKeys are where policies may begin and end.
var policyKeys = []keys.Key{keys.SystemMin, tableKey('a', 0, 0), accountKey(0), accountKey(5), tableKey('c', 0, 0),
	listKey(0), listKey(3), tableKey('m', 0, 0), regKey(0), regKey(2), tableKey('s', 0, 0)}

// lasting returns the zones of the nodes that stay, with those nodes.
func (s *sim) lasting() topology.Topology {
	var nodes []topology.Node
	for _, n := range s.nodes {
		if n != s.members.leaving && !n.retired.Load() && (!n.spare || n.num() != 0) {
			nodes = append(nodes, topology.Node{Name: n.addr, Locality: topology.Locality{Region: "sim", Zone: n.zone}})
		}
	}
	t, err := topology.FromNodes(nodes...)
	if err != nil {
		s.fault("the zones of %v: %w", nodes, err)
	}
	return t
}

// drawPolicy makes a policy that may or may not be possible.
func drawPolicy(rng *rand.Rand, name string, zones []string) *policies.Policy {
	p := &policies.Policy{Name: name, Survive: []policies.Goal{policies.SurviveNode, policies.SurviveZone}[rng.IntN(2)], Voters: []int{3, 3, 5}[rng.IntN(3)]}
	roles := []policies.Role{policies.Replica, policies.Replica, policies.Replica, policies.Primary, policies.ReadOnly, policies.Excluded}
	for _, z := range zones {
		p.Zones = append(p.Zones, policies.ZoneRole{Zone: z, Role: roles[rng.IntN(len(roles))]})
	}
	for range rng.IntN(3) {
		if z := zones[rng.IntN(len(zones))]; !slices.Contains(p.LeasePreferences, z) {
			p.LeasePreferences = append(p.LeasePreferences, z)
		}
	}
	if rng.IntN(4) == 0 {
		p.NonVoters = policies.InEveryZone
	}
	return p
}

// drawPolicies puts other policies in force, which the nodes that stay can carry out.
func (s *sim) drawPolicies() {
	t := s.lasting()
	zones := t.ZoneNames()
	named, b := map[string]*policies.Policy{}, policies.Bindings{}
	var spans []policies.Span
	object := policies.Object{}
	at := s.rng.Perm(len(policyKeys))[:2*(2+s.rng.IntN(2))]
	slices.Sort(at)
	for i := range len(at)/2 + 1 {
		name := fmt.Sprintf("p%d", i)
		for try := 0; named[name] == nil || named[name].Validate() != nil || named[name].Check(t) != nil; try++ {
			if named[name] = drawPolicy(s.rng, name, zones); try == 1000 {
				s.fault("no policy is possible in %v", zones)
				return
			}
		}
		b[object] = name
		if i < len(at)/2 {
			object = policies.Object{Database: 1, Table: int64(i + 1)}
			spans = append(spans, policies.Span{Start: policyKeys[at[2*i]], End: policyKeys[at[2*i+1]], Object: object})
		}
	}
	m, err := policies.CompileAll(t, named, b, spans)
	if err != nil {
		s.fault("compiling policies: %w", err)
		return
	}
	f := &s.policies
	f.mu.Lock()
	f.rules, f.named, f.bindings, f.spans = m, named, b, spans
	f.mu.Unlock()
	for _, span := range spans {
		p := named[b[span.Object]]
		s.trace.add("policy from %s to %s: %s", keys.Key(span.Start), keys.Key(span.End), strings.ReplaceAll(p.Format(), "\n", "; "))
	}
	s.trace.add("policy elsewhere: %s", strings.ReplaceAll(named[b[policies.Object{}]].Format(), "\n", "; "))
	for _, n := range s.nodes {
		if p := n.running(); p != nil {
			s.tell(p)
		}
	}
}

// tell lets a process learn of the policies in force, some time from now.
func (s *sim) tell(p *process) {
	wait := time.Duration(s.draw64() % uint64(maxNews))
	if s.draw64()%3 == 0 {
		wait /= 20
	}
	s.stopping.Go(func() {
		select {
		case <-p.ready:
		case <-p.gone:
			return
		}
		select {
		case <-time.After(wait):
		case <-p.gone:
			return
		}
		if m := s.policies.get(); p.host != nil && m != nil {
			p.host.Store.SetRules(m)
			s.trace.add("n%d knows the policies", p.n.num())
		}
	})
}

// placeWitnesses puts the policy in force that zone w has witnesses, or the default one.
func (s *sim) placeWitnesses(witnesses bool) {
	t := s.lasting()
	p := &policies.Policy{Name: "everywhere", Survive: policies.SurviveZone, Voters: s.shape.voters}
	if witnesses {
		p.Name = "a-witness"
		for _, z := range t.ZoneNames() {
			role := policies.Replica
			if z == "w" {
				role = policies.Witness
			}
			p.Zones = append(p.Zones, policies.ZoneRole{Zone: z, Role: role})
		}
	}
	if p.Check(t) != nil {
		p.Voters = 3 // five can't be had with the nodes that stay
	}
	if p.Check(t) != nil {
		return
	}
	m, err := policies.CompileAll(t, map[string]*policies.Policy{p.Name: p}, policies.Bindings{{}: p.Name}, nil)
	if err != nil {
		s.fault("compiling %s: %w", p.Name, err)
		return
	}
	s.policies.mu.Lock()
	s.policies.rules = m
	s.policies.mu.Unlock()
	s.trace.add("policy %s", p.Name)
	for _, n := range s.nodes {
		if p := n.running(); p != nil {
			s.tell(p)
		}
	}
}

// settlePolicies leaves policies in force that the nodes that stay can carry out.
func (s *sim) settlePolicies() {
	switch s.opts.Focus {
	case FocusWitness:
		s.placeWitnesses(true)
		return
	case FocusPolicies:
	default:
		return
	}
	f, t := &s.policies, s.lasting()
	possible := s.rng.IntN(2) == 0
	for _, p := range f.named {
		possible = possible && p.Check(t) == nil
	}
	if !possible {
		s.drawPolicies()
		return
	}
	s.trace.add("the last policies stay in force")
}

// zoneOf returns the zone of a node; "" if it is gone.
func (s *sim) zoneOf(id keys.NodeID) string {
	for _, n := range s.nodes {
		if n.num() == id && !n.retired.Load() {
			return n.zone
		}
	}
	return ""
}

// obeys checks a range, and who leads it, against the policy that holds for it.
func (s *sim) obeys(d *kv.RangeDescriptor, holder keys.NodeID) error {
	m := s.policies.get()
	rule := &m.Rules[m.Rule(d.Start)]
	if at := m.Boundaries(d.Start, d.End); len(at) > 0 && d.RangeID != keys.MetaRangeID {
		return fmt.Errorf("%s: a policy begins inside, at %s", d, keys.Key(at[0]))
	}
	var voters []placement.Voter
	voting, copies := map[string]int{}, map[string]int{} // by zone
	for _, rd := range d.Replicas {
		zone := s.zoneOf(rd.Node)
		if !rd.Type.Votes() {
			copies[zone]++
			continue
		}
		voting[zone]++
		voters = append(voters, placement.Voter{Node: int32(rd.Node), At: topology.Locality{Region: "sim", Zone: zone}, Witness: rd.Type == kv.Witness})
		want := placement.Data
		if rd.Type == kv.Witness {
			want = placement.Witness
		}
		if z, ok := rule.Zone(zone); !ok || z.Voter != want {
			return fmt.Errorf("%s: the %s on n%d is in zone %q, where policy %s wants none", d, rd.Type, rd.Node, zone, rule.Policy)
		}
	}
	if len(voters) != rule.Voters || placement.Survives(voters, rule.Survive) < 1 {
		return fmt.Errorf("%s: policy %s wants %d voters that survive the loss of a %s", d, rule.Policy, rule.Voters, rule.Survive)
	}
	for _, z := range rule.Zones {
		want := 0
		if z.NonVoter == placement.Always || z.NonVoter == placement.IfNoVoter && voting[z.Locality.Zone] == 0 {
			want = 1
		}
		if got := copies[z.Locality.Zone]; got != want {
			return fmt.Errorf("%s: zone %s has %d copies that do not vote, policy %s wants %d", d, z.Locality.Zone, got, rule.Policy, want)
		}
	}
	if z, _ := rule.Zone(s.zoneOf(holder)); z.LeaseRank != 0 {
		return fmt.Errorf("%s: n%d has the lease, policy %s ranks its zone %s at %d", d, holder, rule.Policy, z.Locality.Zone, z.LeaseRank)
	}
	return nil
}

// content checks that no node finds anything amiss with a range that it leads.
func (s *sim) content() error {
	var errs []error
	for _, n := range s.nodes {
		p := n.open()
		if p == nil || n.retired.Load() {
			continue
		}
		for _, f := range p.host.Store.Findings() {
			errs = append(errs, fmt.Errorf("n%d finds for %s of range %d (stuck: %t): %s", n.num(), time.Since(f.Since), f.Range, f.Stuck, f.Reason))
		}
	}
	return errors.Join(errs...)
}
