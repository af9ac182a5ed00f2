package allocator

import (
	"fmt"
	"time"

	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/placement"
)

// maxVoters is the most that a rule may ask for.
const maxVoters = 9

// misfit says why a replica can't stay.
type misfit uint8

const (
	fits        misfit = iota
	onLostNode         // its node won't come back, or not soon enough
	distrusted         // it is quarantined
	leavingNode        // its node is being decommissioned
	wrongZone          // the rule wants no such replica in its zone
	wrongKind          // a voter with data in a witness zone, or the reverse
	wrongNode          // its node lacks attributes
)

// priority is how urgent replacing a misfit is.
func (m misfit) priority() Priority {
	switch m {
	case onLostNode, distrusted:
		return Repair
	case leavingNode:
		return Leave
	default:
		return Constraint
	}
}

// member is a replica, judged.
type member struct {
	Replica
	site      int32 // -1: the view does not know its node
	seat      placement.Seat
	why       misfit
	reachable bool // it answers, and is trusted
	// acks: it answers, and what it acknowledges counts: a quarantined replica whose data are wrong
	// has a log like others, and votes with it.
	acks bool
}

// turn is the decision about one range.
type turn struct {
	a       *Allocator
	l       *loads
	r       *Range
	rule    *rule
	members []member
	space   [16]member // backs members of most ranges
	lease   int        // the leaseholder's member, or -1
	voters  int        // that count in the configuration
	good    int        // that fit; witnesses beyond those that may be lost don't count
	alive   int        // that acknowledge
	ready   int        // that acknowledge and have caught up
	quiet   bool       // no reason is asked for
	stuck   Decision   // what is due and can't be done
}

// begin judges a range's replicas.
func (t *turn) begin(a *Allocator, l *loads, r *Range) {
	t.a, t.l, t.r, t.rule, t.lease = a, l, r, &a.rules[r.Rule], -1
	t.members, t.voters, t.good, t.alive, t.ready = t.space[:0], 0, 0, 0, 0
	for _, rep := range r.Replicas {
		m := t.judge(rep)
		if rep.Type.votes() {
			t.voters++
			if m.why == fits {
				t.good++
			}
			if m.acks {
				t.alive++
				if rep.CaughtUp {
					t.ready++
				}
			}
		}
		if rep.Node == r.Leaseholder {
			t.lease = len(t.members)
		}
		t.members = append(t.members, m)
	}
	t.good -= t.spareWitnesses()
}

// spareWitnesses counts witnesses that are too many: they stand in for no voter with data.
func (t *turn) spareWitnesses() int {
	n := 0
	for i := range t.members {
		if m := &t.members[i]; m.Type == Witness && m.why == fits {
			n++
		}
	}
	return max(0, n-max(1, placement.Losable(t.rule.Voters)))
}

func (t *turn) judge(rep Replica) member {
	m := member{Replica: rep, site: -1}
	n, ok := t.a.index[rep.Node]
	if !ok {
		m.seat = placement.Seat{Zone: -1 - int32(rep.Node), Region: -1 - int32(rep.Node)}
		if rep.Distrusted {
			m.why = distrusted
		}
		return m // held: the view may be behind
	}
	s := &t.a.sites[n]
	z := &t.rule.zones[s.zone]
	m.site, m.seat = n, z.seat
	m.seat.Witness = rep.Type.witness()
	answers := s.Health == Answers && s.standing != lost
	m.reachable = answers && !rep.Distrusted
	m.acks = answers && (!rep.Distrusted || rep.CaughtUp)
	switch {
	case s.standing == lost:
		m.why = onLostNode
	case rep.Distrusted:
		m.why = distrusted
	case s.standing == leaving:
		m.why = leavingNode
	case !z.known:
	case rep.Type.votes() && z.Voter == placement.NoCopy, !rep.Type.votes() && z.Voter == placement.NoCopy && z.NonVoter == placement.Never:
		m.why = wrongZone
	case rep.Type.votes() && rep.Type.witness() != (z.Voter == placement.Witness):
		m.why = wrongKind
	case !has(s, z.Attributes):
		m.why = wrongNode
	}
	return m
}

// zone returns what the rule says about a member's zone; nil where it says nothing.
func (t *turn) zone(m *member) *zoneRule {
	if m.site < 0 {
		return nil
	}
	return &t.rule.zones[t.a.sites[m.site].zone]
}

// on returns the member on a node.
func (t *turn) on(site int32) *member {
	for i := range t.members {
		if t.members[i].site == site {
			return &t.members[i]
		}
	}
	return nil
}

// domain numbers the failure domain that a seat lies in, at the tier that must survive.
func (t *turn) domain(site int32, seat placement.Seat) int32 {
	switch t.rule.Survive {
	case topology.ZoneTier:
		return seat.Zone
	case topology.RegionTier:
		return seat.Region
	default:
		return site
	}
}

// margin is placement.Margin of the voters once those of plus vote and those of minus do not.
func (t *turn) margin(plus, minus []*member) int {
	var space [maxVoters + 4]placement.Vote
	votes := space[:0]
	for i := range t.members {
		m := &t.members[i]
		if (m.Type.votes() || contains(plus, m)) && !contains(minus, m) {
			votes = append(votes, placement.Vote{Domain: t.domain(m.site, m.seat), Reachable: m.reachable})
		}
	}
	if len(votes) == 0 {
		return -1
	}
	return placement.Margin(votes)
}

// worsens reports whether a change of votes would make the range weaker, or let witnesses alone be
// a quorum, or the voters of one failure domain: then no voter with data need have what is
// acknowledged, or the loss of that domain loses it.
func (t *turn) worsens(plus, minus []*member) bool {
	return placement.Weaker(t.margin(nil, nil), t.margin(plus, minus)) || t.hollow(plus, minus) && !t.hollow(nil, nil) ||
		len(plus) > 0 && t.lone(plus, minus) && !t.lone(nil, nil) // where votes only go there may be no other way
}

// lone reports whether the voters of one failure domain would be a quorum, reachable or not.
func (t *turn) lone(plus, minus []*member) bool {
	var space [maxVoters + 4]int32
	domains := space[:0]
	for i := range t.members {
		if m := &t.members[i]; (m.Type.votes() || contains(plus, m)) && !contains(minus, m) {
			domains = append(domains, t.domain(m.site, m.seat))
		}
	}
	for i, d := range domains {
		n := 0
		for _, o := range domains[i:] {
			if o == d {
				n++
			}
		}
		if n >= placement.Quorum(len(domains)) {
			return true
		}
	}
	return false
}

func (t *turn) hollow(plus, minus []*member) bool {
	voters, witnesses := 0, 0
	for i := range t.members {
		m := &t.members[i]
		if !m.Type.votes() && !contains(plus, m) || contains(minus, m) {
			continue
		}
		if voters++; m.Type.witness() {
			witnesses++
		}
	}
	return witnesses >= placement.Quorum(voters)
}

func contains(list []*member, m *member) bool {
	for _, x := range list {
		if x == m {
			return true
		}
	}
	return false
}

// removable reports whether a voter may go now: those left that answer and have caught up are a
// quorum of the old configuration (REQUIRES: S19), and the range is no weaker.
func (t *turn) removable(m *member) bool {
	return t.quorumWithout(m) && !t.worsens(nil, []*member{m})
}

func (t *turn) quorumWithout(m *member) bool {
	left := t.ready
	if m.acks && m.CaughtUp {
		left--
	}
	return left >= placement.Quorum(t.voters)
}

// seats returns the seats of the voters that fit, but for those that are left out.
func (t *turn) seats(into []placement.Seat, without ...*member) []placement.Seat {
	for i := range t.members {
		if m := &t.members[i]; m.Type.votes() && m.why == fits && !contains(without, m) {
			into = append(into, m.seat)
		}
	}
	return into
}

// size is how many voters the range should have: what the rule wants, as far as it can be had
// within the goal.
func (t *turn) size() int { return t.rule.target }

func (t *turn) grade(seats []placement.Seat) placement.Score {
	return placement.Grade(t.rule.Survive, max(t.size(), len(seats)-(len(seats)+1)%2), seats)
}

// whole reports whether every voter is there, fits and answers: moves of choice start only then.
func (t *turn) whole() bool {
	return t.voters == t.good && t.voters == t.alive && t.voters >= t.size()
}

func (t *turn) caughtUp() bool {
	for i := range t.members {
		if m := &t.members[i]; m.Type.votes() && m.reachable && !m.CaughtUp {
			return false
		}
	}
	return true
}

// relief is by how much the imbalance falls, halved, once a member is gone, x votes (if it is not
// nil), and the lease is where it will be then. Because that is foreseen, what is chosen by it
// stays the choice while the lease is on its way, be it only out of the way of a window.
func (t *turn) relief(m, x *member) float64 {
	if m.site < 0 {
		return 0
	}
	w, lease := t.a.replicaWeight(t.r, m.Type.witness()), t.a.leaseWeight(t.r)
	holder := &t.members[t.lease]
	to := t.leaseWithout(m, x)
	switch {
	case to == holder || to == nil:
		return t.a.relief(t.l, m.site, w)
	case m == holder:
		w.cpu += lease.cpu
		return t.a.relief(t.l, m.site, w) - t.a.burden(t.l, to.site, lease)
	default:
		return t.a.relief(t.l, m.site, w) + t.a.relief(t.l, holder.site, lease) - t.a.burden(t.l, to.site, lease)
	}
}

// leaseWithout returns where the lease will be once a member is gone and x votes: where it is,
// unless that goes or another place is preferred.
func (t *turn) leaseWithout(gone, x *member) *member {
	holder := &t.members[t.lease]
	var best *member
	bestRank, bestBurden := 0, 0.0
	if holder != gone {
		best, bestRank, bestBurden = holder, t.leaseRank(holder), -1 // stays among equals
	}
	lease := t.a.leaseWeight(t.r)
	for i := range t.members {
		m := &t.members[i]
		if m == gone || m == holder || !t.mayLead(m) && m != x || m.why != fits || m.Type.witness() {
			continue
		}
		rank, burden := t.leaseRank(m), t.a.burden(t.l, m.site, lease)
		if best == nil || rank < bestRank || rank == bestRank && burden < bestBurden {
			best, bestRank, bestBurden = m, rank, burden
		}
	}
	return best
}

// say makes a reason, if one is asked for.
func (t *turn) say(format string, args ...any) string {
	if t.quiet {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// name describes a member's node for reasons.
func (t *turn) name(m *member) string {
	if t.quiet {
		return ""
	}
	if m.site < 0 {
		return fmt.Sprintf("node %d", m.Node)
	}
	return t.a.name(m.site)
}

func (a *Allocator) name(site int32) string {
	s := &a.sites[site]
	return fmt.Sprintf("node %d (%s)", s.ID, s.Locality.Zone)
}

// because says why a misfit can't stay.
func (t *turn) because(m *member) string {
	if t.quiet {
		return ""
	}
	s := &site{}
	if m.site >= 0 {
		s = &t.a.sites[m.site]
	}
	switch m.why {
	case onLostNode:
		switch {
		case s.Membership == Decommissioned:
			return fmt.Sprintf("%s is decommissioned", t.name(m))
		case s.Health == VolumeGone:
			return fmt.Sprintf("the volume of %s is gone", t.name(m))
		case s.zoneDown:
			return fmt.Sprintf("zone %s has been silent for longer than it is held (%s)", s.Locality.Zone, t.a.set.ZoneHold)
		default:
			return fmt.Sprintf("%s has been silent for %s", t.name(m), s.For.Round(time.Second))
		}
	case distrusted:
		return fmt.Sprintf("the replica on %s is quarantined or gone", t.name(m))
	case leavingNode:
		return fmt.Sprintf("%s is being decommissioned", t.name(m))
	case wrongZone:
		return fmt.Sprintf("policy %q wants no such replica in zone %s", t.rule.Policy, s.Locality.Zone)
	case wrongKind:
		return fmt.Sprintf("policy %q wants another kind of voter in zone %s", t.rule.Policy, s.Locality.Zone)
	case wrongNode:
		return fmt.Sprintf("%s lacks the attributes that policy %q asks for in its zone %v", t.name(m), t.rule.Policy, t.zone(m).Attributes)
	default:
		return fmt.Sprintf("%s is in its place", t.name(m))
	}
}
