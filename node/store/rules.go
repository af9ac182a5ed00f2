package store

import (
	"context"
	"fmt"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/placement"
)

// ruleSet is what ranges are placed by.
type ruleSet struct {
	policies *policies.Map // nil: the default rule holds for every range
	fresh    bool          // some rule says follower_reads
}

func newRuleSet(m *policies.Map) *ruleSet {
	rs := &ruleSet{policies: m}
	if m != nil {
		for i := range m.Rules {
			rs.fresh = rs.fresh || m.Rules[i].FollowerReads
		}
	}
	return rs
}

// someFollowerReads reports whether a rule asks for closed timestamps at a short distance.
func (rs *ruleSet) someFollowerReads() bool { return rs.fresh }

// followerReads reports whether the rule does that holds at a key.
func (rs *ruleSet) followerReads(key keys.Key) bool {
	return rs.fresh && rs.policies.Rules[rs.policies.Rule(key)].FollowerReads
}

// SetRules makes ranges follow a map of compiled policies, from the next plan on: each the rule that
// holds at its first key, until it is split where another one begins. nil brings the default rule
// back. The policies must be compiled against the zones that Places names.
func (s *Store) SetRules(m *policies.Map) {
	s.rules.Store(newRuleSet(m))
	s.planSoon.Store(true)
}

// list returns the rules that a plan refers to. Those of policies are shared and never written to.
func (rs *ruleSet) list(voters int, zones map[keys.NodeID]topology.Locality) []placement.Rule {
	if rs.policies != nil {
		return rs.policies.Rules
	}
	rule := placement.Rule{Policy: "the cluster's", Survive: topology.ZoneTier, Voters: voters}
	for _, l := range zones {
		rule.Add(placement.Zone{Locality: l, Voter: placement.Data})
	}
	return []placement.Rule{rule}
}

// at returns which of the rules holds for a range that begins with a key.
func (rs *ruleSet) at(start keys.Key) int {
	if rs.policies == nil {
		return 0
	}
	return rs.policies.Rule(start)
}

// spansPolicies reports whether another rule begins inside a range. It searches only where the map or
// the range is another than when there was no boundary last.
func (s *Store) spansPolicies(r *rep, d *kv.RangeDescriptor) bool {
	m := s.policies()
	if m == nil || d.RangeID == keys.MetaRangeID || r.q.oneRuleMap == m && r.q.oneRuleDesc == d {
		return false
	}
	if len(m.Boundaries(d.Start, d.End)) > 0 {
		return true
	}
	r.q.oneRuleMap, r.q.oneRuleDesc = m, d
	return false
}

// policies returns the map in force; nil while the default rule holds, or none is known.
func (s *Store) policies() *policies.Map {
	if rs := s.rules.Load(); rs != nil {
		return rs.policies
	}
	return nil
}

// splitByPolicy splits a range where the rule ends that holds at its first key.
func (s *Store) splitByPolicy(ctx context.Context, r *rep) error {
	m, d := s.policies(), r.desc()
	if m == nil {
		return nil
	}
	at := m.Boundaries(d.Start, d.End)
	if len(at) == 0 {
		return nil // it has been split, or the rules are others
	}
	why := fmt.Sprintf("policy %q holds up to there, policy %q from there on", m.Rules[m.Rule(d.Start)].Policy, m.Rules[m.Rule(at[0])].Policy)
	if _, err := s.splitAt(ctx, r.replica.Load(), &kv.AdminSplitRequest{SplitKey: at[0]}, why); err != nil {
		return err
	}
	s.planSoon.Store(true)
	return nil
}

// Places names the failure domain that each node lies in. Policies know zones by these names: the
// name of the zone alone, or "region/zone" where another region has a zone of that name as well. A
// node without a zone is a zone of its own.
func Places(nodes []cluster.NodeInfo) map[keys.NodeID]topology.Locality {
	region, twice := map[string]string{}, map[string]bool{} // by zone
	for _, n := range nodes {
		if r, ok := region[n.Zone]; ok && r != n.Region {
			twice[n.Zone] = true
		}
		region[n.Zone] = n.Region
	}
	out := make(map[keys.NodeID]topology.Locality, len(nodes))
	for _, n := range nodes {
		l := topology.Locality{Region: n.Region, Zone: n.Zone}
		if l.Region == "" {
			l.Region = topology.DefaultRegion
		}
		switch {
		case n.Zone == "":
			l.Zone = fmt.Sprintf("node %d", n.ID)
		case n.Region != "" && twice[n.Zone]:
			l.Zone = n.Region + "/" + n.Zone
		}
		out[n.ID] = l
	}
	return out
}

// Voters is how many voters the default rule gives a range.
func (s *Store) Voters() int { return s.cfg.Voters }

// SnapshotBytesPerSecond is how fast this node sends copies.
func (s *Store) SnapshotBytesPerSecond() int64 { return s.cfg.SnapshotBytesPerSecond }
