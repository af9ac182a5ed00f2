package allocator

import (
	"fmt"

	"github.com/atolldb/atoll/topology/placement"
)

// act returns a change.
func (t *turn) act(c Change) (Decision, bool) {
	c.Range = t.r.ID
	return Decision{Verdict: Act, Change: c, Reason: c.Reason}, true
}

// wait leaves a range as it is until what it waits for is there; the priority tells whether it lacks
// something meanwhile.
func (t *turn) wait(priority Priority, format string, args ...any) (Decision, bool) {
	return Decision{Verdict: Waiting, Change: Change{Priority: priority}, Reason: t.say(format, args...)}, true
}

// isStuck notes what can't be done; the ladder goes on.
func (t *turn) isStuck(format string, args ...any) {
	if t.stuck.Verdict != Stuck {
		t.stuck = Decision{Verdict: Stuck, Reason: t.say(format, args...)}
	}
}

// add begins a copy.
func (t *turn) add(c candidate, priority Priority, reason string) (Decision, bool) {
	sender := t.members[t.lease].site
	if c.limited || t.l.nodes[sender].sending >= t.a.set.Limits.Send {
		return Decision{Verdict: Deferred, Reason: t.say("%s; %s receives %d copies and %s sends %d: as many as may run at a time",
			reason, t.a.name(c.site), t.l.nodes[c.site].receiving, t.a.name(sender), t.l.nodes[sender].sending)}, true
	}
	kind := AddNonVoter
	if c.witness {
		kind = AddWitness
	}
	return t.act(Change{Kind: kind, Node: t.a.sites[c.site].ID, Priority: priority, Reason: reason})
}

// remove takes a replica away, after the lease if it has that; where its zone wants a copy that
// does not vote, it stays as one.
func (t *turn) remove(m *member, priority Priority, reason string) (Decision, bool) {
	if t.lease >= 0 && m == &t.members[t.lease] {
		to := t.leaseTarget(func(o *member) bool { return o != m })
		if to == nil {
			t.isStuck("%s; the replica on %s has the lease, and no other voter can take it now", reason, t.name(m))
			return Decision{}, false
		}
		return t.transfer(to, priority, t.say("%s; its replica goes, and the lease first", reason))
	}
	kind := Remove
	if m.Type == Voter && m.reachable && (m.why == fits || m.why == wrongZone) && t.wantsNonVoter(m) {
		kind = Demote
	}
	return t.act(Change{Kind: kind, Node: m.Node, Priority: priority, Reason: reason})
}

// transfer moves the lease.
func (t *turn) transfer(to *member, priority Priority, reason string) (Decision, bool) {
	if priority >= Preference && t.l.nodes[to.site].leases >= t.a.set.Limits.Leases {
		return Decision{Verdict: Deferred, Reason: t.say("%s; %s has been given %d leases, as many as it may get at a time", reason, t.name(to), t.a.set.Limits.Leases)}, true
	}
	return t.act(Change{Kind: TransferLease, Node: to.Node, Other: t.r.Leaseholder, Priority: priority, Reason: reason})
}

// window makes one of the pairs of entries between which the range is weaker than it should be.
//
// REQUIRES: S19: every voter that stays is reachable and has caught up, and the lease is held
// outside the failure domains whose loss would stop the range between the two.
func (t *turn) window(kind Kind, x, other *member, priority Priority, reason string) (Decision, bool) {
	var plus, minus []*member // of the first entry
	leaves := other
	switch kind {
	case Replace:
		plus = []*member{x}
	case Grow:
		plus, leaves = []*member{x}, nil
	case Shrink:
		minus = []*member{x}
	}
	if t.hollow(plus, minus) && !t.hollow(nil, nil) {
		t.isStuck("%s: between the two entries witnesses alone would be a quorum; a voter with data must come back, or be added, first", reason)
		return Decision{}, false
	}
	for i := range t.members {
		m := &t.members[i]
		stays := m.Type.votes() && m != leaves && !(kind == Shrink && m == x)
		if stays && (!m.acks || !m.CaughtUp) {
			return t.wait(priority, "%s: %s must answer and catch up before the window of two entries opens (S19)", reason, t.name(m))
		}
	}
	outside := t.outside(x, other, plus, minus)
	if !outside(&t.members[t.lease]) {
		to := t.leaseTarget(outside)
		if to == nil {
			t.isStuck("%s: the window of two entries must be led from a %s that it does not weaken (S19), and no voter there can take the lease now", reason, t.rule.Survive)
			return Decision{}, false
		}
		return t.transfer(to, priority, t.say("%s; the window of two entries is led from another %s (S19)", reason, t.rule.Survive))
	}
	return t.act(Change{Kind: kind, Node: x.Node, Other: other.Node, Priority: priority, Reason: reason})
}

// outside returns who may lead a window: who neither comes nor goes in it, in a failure domain whose loss
// would not stop the range between the two entries.
func (t *turn) outside(x, other *member, plus, minus []*member) func(*member) bool {
	return func(m *member) bool {
		return m != other && m != x && !t.weakIn(t.domain(m.site, m.seat), plus, minus)
	}
}

// opens reports whether it is worth waiting for the window in which x replaces other: no voter that stays
// is lost for good, and there is one to lead it.
func (t *turn) opens(x, other *member) bool {
	for i := range t.members {
		if m := &t.members[i]; m.Type.votes() && m != other && m.why == onLostNode {
			return false
		}
	}
	outside := t.outside(x, other, []*member{x}, nil)
	return outside(&t.members[t.lease]) || t.leaseTarget(outside) != nil
}

// weakIn reports whether the loss of a failure domain would stop the range after one entry.
func (t *turn) weakIn(domain int32, plus, minus []*member) bool {
	voters, left := 0, 0
	for i := range t.members {
		m := &t.members[i]
		if !m.Type.votes() && !contains(plus, m) || contains(minus, m) {
			continue
		}
		voters++
		if m.reachable && t.domain(m.site, m.seat) != domain {
			left++
		}
	}
	return left < placement.Quorum(voters)
}

// search is what a place for a voter must be like.
type search struct {
	base   []placement.Seat // the voters beside it
	within int              // how many may be over (placement.Score); more are refused
	fill   float64          // how full its disk may be
	limit  int              // copies that it may receive at a time
	proven bool             // it must have answered for the probation
	near   *member          // whose zone is preferred among equals
	not    *member          // taken already
}

// candidate is a place: a member that does not vote yet, or a node. site is -1 for none.
type candidate struct {
	member  *member
	site    int32
	witness bool
	limited bool
	score   placement.Score
	burden  float64
}

// find returns the best place for a voter: by score, then where a copy is already, then what is
// within the limits, then the zone that is near, then the least burdened node.
func (t *turn) find(q search) candidate {
	best := candidate{site: -1}
	nearZone := int32(-1)
	if q.near != nil {
		nearZone = q.near.seat.Zone
	}
	bestNear := false
	for z := range t.rule.zones {
		zr := &t.rule.zones[z]
		if zr.Voter == placement.NoCopy || zr.pool < 0 {
			continue
		}
		score := t.grade(append(q.base, zr.seat))
		if score.Over > q.within || best.site >= 0 && score.Compare(best.score) > 0 {
			continue
		}
		c := t.candidateIn(zr, q)
		if c.site < 0 {
			continue
		}
		c.score = score
		near := zr.seat.Zone == nearZone
		if best.site < 0 || score.Compare(best.score) < 0 || t.prefer(&c, near, &best, bestNear) {
			best, bestNear = c, near
		}
	}
	return best
}

// prefer orders candidates of equal score.
func (t *turn) prefer(c *candidate, near bool, o *candidate, otherNear bool) bool {
	if (c.member != nil) != (o.member != nil) {
		return c.member != nil
	}
	if c.limited != o.limited {
		return !c.limited
	}
	if near != otherNear {
		return near
	}
	return c.burden < o.burden
}

// candidateIn returns the best place in one zone.
func (t *turn) candidateIn(zr *zoneRule, q search) candidate {
	for i := range t.members {
		m := &t.members[i]
		if !m.Type.votes() && m != q.not && m.seat.Zone == zr.seat.Zone && m.why == fits && m.reachable && m.Type.witness() == zr.seat.Witness &&
			t.a.sites[m.site].standing == usable {
			return candidate{member: m, site: m.site, witness: zr.seat.Witness}
		}
	}
	site, limited := t.pick(zr.pool, q)
	if site < 0 {
		return candidate{site: -1}
	}
	return candidate{site: site, limited: limited, witness: zr.seat.Witness, burden: t.a.burden(t.l, site, t.a.replicaWeight(t.r, zr.seat.Witness))}
}

// pick returns the least loaded node of a pool that may take a replica: one that has answered for
// the probation, else one that has not (it may go as it came), else one at its limit. -1: none.
func (t *turn) pick(pool int32, q search) (site int32, limited bool) {
	young, full := int32(-1), int32(-1)
	for _, n := range t.l.order[pool] {
		switch {
		case t.refuses(n, q) != "":
		case t.l.nodes[n].receiving >= q.limit:
			if full < 0 {
				full = n
			}
		case t.a.sites[n].For >= t.rule.probation:
			return n, false
		case young < 0:
			young = n
		}
	}
	if young >= 0 {
		return young, false
	}
	return full, full >= 0
}

// refuses says why a usable node can't take a replica of the range; "" if it can.
func (t *turn) refuses(n int32, q search) string {
	switch {
	case t.on(n) != nil:
		return "it has a replica of the range"
	case t.a.fill(t.l, n, float64(t.r.Bytes)) > q.fill:
		return fullReason
	case q.proven && t.a.sites[n].For < t.rule.probation:
		return "it has not answered for long enough (probation)"
	default:
		return ""
	}
}

const fullReason = "its disk would be too full"

// noPlace says why no candidate was found, and what would help.
func (t *turn) noPlace() string {
	if t.quiet {
		return ""
	}
	free := 0
	for i := range t.a.sites {
		if s := &t.a.sites[i]; s.standing == usable && t.on(int32(i)) == nil && t.rule.zones[s.zone].Voter != placement.NoCopy {
			free++
		}
	}
	if free == 0 {
		return "every usable node of a zone that votes has a replica of it already; add a node, or bring one back"
	}
	return fmt.Sprintf("%d usable nodes have none of it, but a voter there would be against the goal (survive: %s), make an even number, or lack attributes or disk space; add a node in another %s, or bring one back",
		free, t.rule.Survive, t.rule.Survive)
}
