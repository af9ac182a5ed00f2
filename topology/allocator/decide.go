package allocator

import (
	"fmt"

	"github.com/atolldb/atoll/topology/placement"
)

// Decide returns the next change of one range.
func (a *Allocator) Decide(r *Range) Decision {
	var t turn
	return t.decide(a, &a.now, r)
}

// ladder is described in the package's documentation.
var ladder = []func(*turn) (Decision, bool){
	(*turn).leaveLease, (*turn).excess, (*turn).shortage, (*turn).drop, (*turn).finish, (*turn).improve,
	(*turn).nonVoters, (*turn).fullDisk, (*turn).preferLease, (*turn).balanceLease, (*turn).balanceReplicas,
}

func (t *turn) decide(a *Allocator, l *loads, r *Range) Decision {
	if r.Rule < 0 || r.Rule >= len(a.rules) {
		return Decision{Verdict: Stuck, Reason: fmt.Sprintf("range %d refers to rule %d of %d; compile the policies again", r.ID, r.Rule, len(a.rules))}
	}
	t.begin(a, l, r)
	t.stuck = Decision{}
	if d, done := t.standStill(); done {
		return d
	}
	for _, step := range ladder {
		if d, done := step(t); done {
			return d
		}
	}
	return t.stuck
}

// standStill: what can't be changed now.
func (t *turn) standStill() (Decision, bool) {
	switch {
	case t.r.Busy:
		return t.wait(Load, "a change is under way")
	case t.alive < placement.Quorum(t.voters):
		return Decision{Verdict: Stuck, Reason: t.say("%d of %d voters answer, fewer than the quorum of %d: nothing can be changed; bring one of their nodes back, or see atoll recover",
			t.alive, t.voters, placement.Quorum(t.voters))}, true
	case t.lease < 0 || !t.members[t.lease].reachable && !t.members[t.lease].Distrusted:
		return t.wait(Repair, "there is no leaseholder that answers")
	}
	return Decision{}, false
}

// leaveLease takes the lease from where it must not stay.
func (t *turn) leaveLease() (Decision, bool) {
	m := &t.members[t.lease]
	if m.site < 0 {
		return t.wait(Repair, "the view does not know the leaseholder's node %d", m.Node)
	}
	s := &t.a.sites[m.site]
	var reason string
	priority := Leave
	switch {
	case m.Distrusted:
		priority, reason = Repair, t.because(m)
	case m.Type != Voter:
		priority, reason = Repair, t.say("a %s does not serve", map[bool]string{true: "witness", false: "non-voter"}[m.Type.witness()])
	case s.standing == draining:
		reason = t.say("%s drains", t.name(m))
	case s.standing == leaving:
		reason = t.because(m)
	default:
		return Decision{}, false
	}
	to := t.leaseTarget(func(o *member) bool { return o != m })
	if to == nil && priority == Repair {
		to = t.anyVoter(m)
	}
	if to == nil {
		t.isStuck("%s, and no other voter can take the lease now", reason)
		return Decision{}, false
	}
	return t.transfer(to, priority, reason)
}

// anyVoter returns a voter that can serve for the time being, though its node drains.
func (t *turn) anyVoter(without *member) *member {
	for i := range t.members {
		if o := &t.members[i]; o != without && o.Type == Voter && o.reachable && o.CaughtUp {
			return o
		}
	}
	return nil
}

// excess removes a voter where there are more than the rule wants. It comes before all that adds
// one: an even number of voters survives no more failures than one fewer, and costs more.
func (t *turn) excess() (Decision, bool) {
	if t.voters <= t.rule.Voters {
		return Decision{}, false
	}
	var out *member
	for i := range t.members {
		if m := &t.members[i]; m.Type.votes() && t.removable(m) && (out == nil || t.worse(m, out, nil)) {
			out = m
		}
	}
	if out != nil {
		reason := t.say("%d voters are more than the %d that policy %q asks for", t.voters, t.rule.Voters, t.rule.Policy)
		if out.why != fits {
			reason = t.because(out)
		}
		return t.remove(out, Repair, reason)
	}
	if t.voters >= t.rule.Voters+2 {
		return t.shrink()
	}
	t.isStuck("%d voters are more than the %d that policy %q asks for, but %d answer and have caught up, and with one fewer there would be no quorum of %d; bring a silent node back",
		t.voters, t.rule.Voters, t.rule.Policy, t.ready, placement.Quorum(t.voters))
	return Decision{}, false
}

// worse reports whether m should rather go than o, for x if it is not nil.
func (t *turn) worse(m, o, x *member) bool {
	if (m.why != fits) != (o.why != fits) {
		return m.why != fits
	}
	if m.why != fits && m.why.priority() != o.why.priority() {
		return m.why.priority() < o.why.priority()
	}
	if m.reachable != o.reachable {
		return !m.reachable
	}
	var space [2 * maxVoters]placement.Seat
	if c := t.grade(t.seats(space[:0], m)).Compare(t.grade(t.seats(space[maxVoters:maxVoters], o))); c != 0 {
		return c < 0
	}
	if m.site < 0 || o.site < 0 {
		return m.site < 0
	}
	if t.onFullDisk(m) != t.onFullDisk(o) {
		return t.onFullDisk(m)
	}
	return t.relief(m, x) > t.relief(o, x)
}

// shrink removes two voters in a row where one alone would weaken the goal.
func (t *turn) shrink() (Decision, bool) {
	var first, second *member
	var best placement.Score
	misfits := 0
	var space [2 * maxVoters]placement.Seat
	for i := range t.members {
		for j := range t.members[:i] {
			m, o := &t.members[i], &t.members[j]
			if !m.Type.votes() || !o.Type.votes() || !t.quorumWithout(m) || t.worsens(nil, []*member{m, o}) {
				continue
			}
			bad := 0 // of those that go anyway as many as possible
			for _, goes := range []*member{m, o} {
				if goes.why != fits {
					bad++
				}
			}
			if s := t.grade(t.seats(space[:0], m, o)); first == nil || bad > misfits || bad == misfits && s.Compare(best) < 0 {
				first, second, best, misfits = m, o, s, bad
			}
		}
	}
	if first == nil {
		t.isStuck("%d voters are more than the %d that policy %q asks for, but no two can go while %d answer and have caught up", t.voters, t.rule.Voters, t.rule.Policy, t.ready)
		return Decision{}, false
	}
	return t.window(Shrink, first, second, Constraint, t.say("%d voters are more than the %d that policy %q asks for", t.voters, t.rule.Voters, t.rule.Policy))
}

// shortage finds a voter for one that is missing or can't stay.
func (t *turn) shortage() (Decision, bool) {
	bad := t.worstMisfit()
	priority := Repair
	reason := t.say("%d of %d voters", t.good, t.rule.Voters)
	if bad != nil {
		priority, reason = bad.why.priority(), t.because(bad)
	}
	if t.good >= t.size() {
		if t.good < t.rule.Voters {
			t.isStuck("%s; %s", reason, t.noPlace())
		}
		return Decision{}, false
	}
	var space [maxVoters + 4]placement.Seat
	base := t.seats(space[:0])
	c := t.find(search{base: base, within: t.grade(base).Over, fill: t.a.set.StopAt, limit: t.a.set.Limits.Receive, near: bad})
	switch {
	case c.member != nil:
		return t.enterForShortage(c.member, base, priority, reason)
	case c.site >= 0:
		return t.add(c, priority, reason)
	}
	if bad == nil || bad.why != distrusted {
		t.isStuck("%s; %s", reason, t.noPlace())
	}
	return Decision{}, false
}

// enterForShortage lets a copy vote, if it can without a window, or with one.
func (t *turn) enterForShortage(x *member, base []placement.Seat, priority Priority, reason string) (Decision, bool) {
	if !x.CaughtUp {
		return t.wait(priority, "%s: the copy on %s is catching up", reason, t.name(x))
	}
	if !t.worsens([]*member{x}, nil) {
		return t.act(Change{Kind: Promote, Node: x.Node, Priority: priority, Reason: reason})
	}
	out, gone := t.givesWay(x)
	if gone != nil {
		return t.remove(gone, priority, t.say("%s, and with its vote gone that of %s weakens nothing", t.because(gone), t.name(x)))
	}
	if out != nil && t.opens(x, out) {
		return t.window(Replace, x, out, priority, reason)
	}
	base = append(base, x.seat)
	c := candidate{site: -1}
	if t.size()-t.good >= 2 {
		c = t.find(search{base: base, within: t.grade(base).Over, fill: t.a.set.StopAt, limit: t.a.set.Limits.Receive, not: x})
	}
	switch {
	case c.site < 0 && out != nil:
		return t.window(Replace, x, out, priority, reason) // says what it lacks
	case t.size()-t.good < 2:
		t.isStuck("%s: a vote of %s would weaken the range, and there is none that it replaces", reason, t.name(x))
		return Decision{}, false
	case c.site < 0:
		t.isStuck("%s: two more voters are needed at once; %s", reason, t.noPlace())
		return Decision{}, false
	case c.member == nil:
		return t.add(c, priority, reason)
	case !c.member.CaughtUp:
		return t.wait(priority, "%s: the copy on %s is catching up", reason, t.name(c.member))
	case !t.worsens([]*member{c.member}, nil):
		return t.act(Change{Kind: Promote, Node: c.member.Node, Priority: priority, Reason: reason})
	}
	return t.window(Grow, x, c.member, priority, reason)
}

// givesWay returns a voter that can't stay in whose place a copy may vote, or one that is gone and should
// go first: then the copy's vote weakens nothing.
func (t *turn) givesWay(x *member) (out, gone *member) {
	for i := range t.members {
		v := &t.members[i]
		if !v.Type.votes() || v.why == fits || t.worsens([]*member{x}, []*member{v}) {
			continue
		}
		if !v.reachable && t.removable(v) {
			return nil, v
		}
		if out == nil || t.domain(v.site, v.seat) == t.domain(x.site, x.seat) {
			out = v
		}
	}
	return out, nil
}

// worstMisfit returns the voter that must be replaced first.
func (t *turn) worstMisfit() *member {
	var bad *member
	for i := range t.members {
		if m := &t.members[i]; m.Type.votes() && m.why != fits && (bad == nil || m.why.priority() < bad.why.priority()) {
			bad = m
		}
	}
	return bad
}

// drop removes voters that can't stay and need not, or can't, be replaced.
func (t *turn) drop() (Decision, bool) {
	for i := range t.members {
		m := &t.members[i]
		if !m.Type.votes() || m.why == fits || !t.removable(m) && m.why != wrongKind {
			continue
		}
		switch {
		case m.why == wrongKind && t.turns(m):
			return t.turnWitness(m)
		case !t.removable(m):
		case t.good >= t.size() && m.why != onLostNode:
			return t.remove(m, m.why.priority(), t.because(m))
		case m.why == distrusted && m.site >= 0 && t.a.sites[m.site].standing == usable && !t.waitsForCopy():
			return t.remove(m, Repair, t.say("%s, and its node is the only place for a new one", t.because(m)))
		case m.why == onLostNode && t.betterWithoutLost():
			return t.remove(m, Repair, t.say("%s; %d voters that answer are safer without it", t.because(m), t.good))
		}
	}
	if bad := t.worstMisfit(); bad != nil && t.stuck.Verdict != Stuck {
		if t.removable(bad) {
			t.isStuck("%s, and stays until there is a place for another; %s", t.because(bad), t.noPlace())
			return Decision{}, false
		}
		t.isStuck("%s, but it can't go now: %d of %d voters answer and have caught up", t.because(bad), t.ready, t.voters)
	}
	return Decision{}, false
}

// turns reports whether a voter with data gives way to a witness on its own node: where the zone has
// no other place for one, all voters are where they should be, they are as many as the rule wants, and
// every quorum keeps one with data. The reverse is not done: data take their time to copy, and the range
// would be without a voter for as long.
func (t *turn) turns(m *member) bool {
	witnesses := 1
	for i := range t.members {
		o := &t.members[i]
		switch {
		case !o.Type.votes():
		case o.why != fits && o.why != wrongKind:
			return false
		case o.Type == Witness:
			witnesses++
		}
	}
	return witnesses <= placement.Losable(t.voters) && m.Type == Voter && m.reachable && t.a.sites[m.site].standing == usable && has(&t.a.sites[m.site], t.zone(m).Attributes) &&
		t.voters == t.rule.Voters && t.quorumWithout(m)
}

// turnWitness replaces a voter with data by a witness on its node.
func (t *turn) turnWitness(m *member) (Decision, bool) {
	reason := t.say("%s, and its node is the only place for a witness", t.because(m))
	for i := range t.members {
		if o := &t.members[i]; o.Type.votes() && o != m && (!o.acks || !o.CaughtUp) {
			return t.wait(Constraint, "%s: %s must answer and catch up before (S19)", reason, t.name(o))
		}
	}
	if t.lease >= 0 && m == &t.members[t.lease] {
		return t.remove(m, Constraint, reason) // the lease goes first
	}
	return t.act(Change{Kind: TurnWitness, Node: m.Node, Priority: Constraint, Reason: reason})
}

// waitsForCopy reports whether a copy is there that may become a voter beside those that fit. One
// that the goal keeps from voting, a second in a zone say, is none to wait for, nor is one whose vote would
// weaken the range while nobody gives way to it.
func (t *turn) waitsForCopy() bool {
	var space [maxVoters + 4]placement.Seat
	base := t.seats(space[:0])
	x := t.find(search{base: base, within: t.grade(base).Over, fill: t.a.set.StopAt, limit: t.a.set.Limits.Receive}).member
	if x == nil || !t.worsens([]*member{x}, nil) {
		return x != nil
	}
	out, gone := t.givesWay(x)
	return gone != nil || out != nil && t.opens(x, out)
}

// betterWithoutLost reports whether the range survives more once all lost voters are gone: two of
// five that are lost make a quorum of three of the other three.
func (t *turn) betterWithoutLost() bool {
	var lost []*member
	for i := range t.members {
		if m := &t.members[i]; m.Type.votes() && m.why == onLostNode {
			lost = append(lost, m)
		}
	}
	return t.voters-len(lost) >= 3 && (t.voters-len(lost))%2 == 1 && t.margin(nil, lost) > t.margin(nil, nil)
}
