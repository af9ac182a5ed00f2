package allocator

import (
	"fmt"
	"strings"

	"github.com/atolldb/atoll/topology/placement"
)

// Explanation says why a range is, or goes, where it does.
type Explanation struct {
	Range    RangeID
	Policy   string
	Decision Decision
	// Replicas judges those that are there; Nodes says of each other node why it was chosen, or not.
	Replicas, Nodes []NodeVerdict
}

// NodeVerdict is one node's line.
type NodeVerdict struct {
	Node   NodeID
	Zone   string
	Chosen bool // the decision's change gives it something
	Reason string
}

// String prints an explanation, a line per node.
func (e Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "range %d, policy %q: %s", e.Range, e.Policy, e.Decision.Verdict)
	if c := e.Decision.Change; e.Decision.Verdict == Act {
		fmt.Fprintf(&b, " (%s: %s)", c.Priority, c)
	}
	if e.Decision.Reason != "" {
		fmt.Fprintf(&b, ": %s", e.Decision.Reason)
	}
	b.WriteByte('\n')
	for _, part := range [][]NodeVerdict{e.Replicas, e.Nodes} {
		for _, v := range part {
			mark := ' '
			if v.Chosen {
				mark = '*'
			}
			fmt.Fprintf(&b, "%c node %d (%s): %s\n", mark, v.Node, v.Zone, v.Reason)
		}
	}
	return b.String()
}

// String prints what a change does.
func (c Change) String() string {
	switch c.Kind {
	case Replace:
		return fmt.Sprintf("replace node %d by node %d", c.Other, c.Node)
	case Grow, Shrink:
		return fmt.Sprintf("%s nodes %d and %d", c.Kind, c.Node, c.Other)
	case TransferLease:
		return fmt.Sprintf("transfer lease from node %d to node %d", c.Other, c.Node)
	default:
		return fmt.Sprintf("%s on node %d", c.Kind, c.Node)
	}
}

// Explain decides a range and says why, node by node, by what Decide itself went by.
func (a *Allocator) Explain(r *Range) Explanation {
	var t turn
	e := Explanation{Range: r.ID, Decision: t.decide(a, &a.now, r)}
	if t.rule == nil {
		return e
	}
	e.Policy = t.rule.Policy
	chosen := func(id NodeID) bool { return e.Decision.Verdict == Act && id == e.Decision.Change.Node }
	for i := range t.members {
		m := &t.members[i]
		zone := "unknown"
		if m.site >= 0 {
			zone = a.sites[m.site].Locality.Zone
		}
		e.Replicas = append(e.Replicas, NodeVerdict{m.Node, zone, chosen(m.Node), t.describe(m)})
	}
	for i := range a.sites {
		if s := &a.sites[i]; t.on(int32(i)) == nil {
			v := NodeVerdict{s.ID, s.Locality.Zone, chosen(s.ID), "chosen: " + e.Decision.Reason}
			if !v.Chosen {
				v.Reason = t.rejects(int32(i))
			}
			e.Nodes = append(e.Nodes, v)
		}
	}
	return e
}

// describe says what a replica is and how it is.
func (t *turn) describe(m *member) string {
	parts := []string{[...]string{"voter", "non-voter", "witness", "witness that does not vote yet"}[m.Type]}
	if m.Node == t.r.Leaseholder {
		parts = append(parts, "has the lease")
	}
	switch {
	case m.why != fits:
		parts = append(parts, t.because(m))
	case m.site < 0:
		parts = append(parts, "the view does not know its node")
	case !m.reachable:
		parts = append(parts, fmt.Sprintf("silent for %s and waited for", t.a.sites[m.site].For))
	case !m.CaughtUp:
		parts = append(parts, "catching up")
	}
	if m.site >= 0 && t.a.sites[m.site].standing == draining {
		parts = append(parts, "its node drains")
	}
	return strings.Join(parts, ", ")
}

// rejects says why a node without a replica gets none.
func (t *turn) rejects(n int32) string {
	s := &t.a.sites[n]
	z := &t.rule.zones[s.zone]
	switch s.standing {
	case lost, held:
		return fmt.Sprintf("does not answer (for %s)", s.For)
	case leaving:
		return "is being decommissioned"
	case draining:
		return "drains"
	}
	switch {
	case !z.known:
		return "its zone is newer than the compiled policy"
	case z.Voter == placement.NoCopy && z.NonVoter == placement.Never:
		return "the policy wants nothing in its zone"
	case !has(s, z.Attributes):
		return fmt.Sprintf("lacks attributes; its zone needs %s", strings.Join(z.Attributes, ", "))
	case z.Voter == placement.NoCopy && t.keeper(z) != nil:
		return "its zone has its non-voter already"
	}
	if why := t.refuses(n, search{fill: t.a.set.StopAt}); why != "" {
		return why
	}
	if t.l.nodes[n].receiving >= t.a.set.Limits.Receive {
		return fmt.Sprintf("receives %d copies already", t.l.nodes[n].receiving)
	}
	return t.rejectsSeat(n, z)
}

// rejectsSeat compares what the range would be with a voter on a node with what it is.
func (t *turn) rejectsSeat(n int32, z *zoneRule) string {
	s := &t.a.sites[n]
	if z.Voter == placement.NoCopy {
		return "others of its zone are less loaded"
	}
	base := t.seats(nil)
	now := t.grade(base)
	if t.good < t.size() {
		if t.grade(append(base, z.seat)).Over > now.Over {
			return fmt.Sprintf("its %s holds as many of the voters as may be lost at once", t.rule.Survive)
		}
		return "another place is better spread, or as good and less loaded"
	}
	var best placement.Score
	var out *member
	for i := range t.members {
		if v := &t.members[i]; v.Type.votes() && v.why == fits {
			if score := t.grade(append(t.seats(nil, v), z.seat)); out == nil || score.Compare(best) < 0 {
				best, out = score, v
			}
		}
	}
	switch c := best.Compare(now); {
	case out == nil:
		return "there is no voter that it could replace"
	case best.Over > now.Over:
		return fmt.Sprintf("its %s holds as many of the voters as may be lost at once", t.rule.Survive)
	case c > 0:
		return "in no voter's place would the range be as well spread"
	case s.For < t.rule.probation:
		return fmt.Sprintf("has answered for %s, less than the probation of %s", s.For, t.rule.probation)
	case c < 0:
		return fmt.Sprintf("would be better than node %d, once the range is whole", out.Node)
	default:
		return fmt.Sprintf("as good as those chosen, and not less loaded by more than %.0f%%", 100*t.a.set.ReplicaSlack)
	}
}
