package allocator

import "github.com/atolldb/atoll/topology/placement"

// finish goes on with a copy that was begun for a move of choice: it votes, if the move is still
// worth it, or goes.
func (t *turn) finish() (Decision, bool) {
	if !t.whole() {
		return Decision{}, false // what is missing comes first, and the copy may be of use then
	}
	for i := range t.members {
		x := &t.members[i]
		if x.Type.votes() || t.keeps(x) {
			continue
		}
		z := t.zone(x)
		if x.why != fits || !x.reachable || z.Voter == placement.NoCopy || z.seat.Witness != x.Type.witness() || t.wants(z, nil) {
			continue // see nonVoters
		}
		v := t.replacedBy(x)
		switch {
		case v == nil && !t.a.hasTurn(t.r.ID):
			return t.wait(Load, "the copy on %s is not needed now", t.name(x))
		case v == nil:
			return t.act(Change{Kind: Remove, Node: x.Node, Priority: Constraint, Reason: t.say("the copy on %s is not needed any more", t.name(x))})
		case !x.CaughtUp:
			return t.wait(Load, "the copy on %s, which is to replace that on %s, is catching up", t.name(x), t.name(v))
		default:
			return t.enter(x, v)
		}
	}
	return Decision{}, false
}

// replacedBy returns the voter that a copy should replace: the seats are better then, or as good
// and the disk or the load is. nil: none.
func (t *turn) replacedBy(x *member) *member {
	var space [2*maxVoters + 8]placement.Seat
	now := t.grade(t.seats(space[:0]))
	var out *member
	best := now
	burden := t.relief(x, nil) // what the copy, which is there already, would free by going
	for i := range t.members {
		v := &t.members[i]
		if !v.Type.votes() {
			continue
		}
		score := t.grade(append(t.seats(space[:0], v), x.seat))
		worth := t.onFullDisk(v) || t.relief(v, x) >= burden
		c := score.Compare(best)
		if c < 0 || c == 0 && (out == nil && worth || out != nil && t.worse(v, out, x)) {
			out, best = v, score
		}
	}
	return out
}

// enter lets a copy that has caught up vote in a voter's place.
func (t *turn) enter(x, v *member) (Decision, bool) {
	reason := t.say("the copy on %s has caught up and replaces that on %s", t.name(x), t.name(v))
	if !t.worsens([]*member{x}, nil) {
		return t.act(Change{Kind: Promote, Node: x.Node, Priority: Load, Reason: reason})
	}
	return t.window(Replace, x, v, Load, reason)
}

// improve exchanges a voter where the rule can be met better.
func (t *turn) improve() (Decision, bool) {
	if !t.whole() || t.voters != t.size() {
		return Decision{}, false
	}
	var space, with [maxVoters + 4]placement.Seat
	now := t.grade(t.seats(space[:0]))
	if now.Compare(t.rule.best) <= 0 {
		return Decision{}, false
	}
	best := candidate{site: -1}
	var out *member
	for i := range t.members {
		v := &t.members[i]
		if !v.Type.votes() {
			continue
		}
		c := t.find(search{base: t.seats(with[:0], v), within: now.Over, fill: t.a.set.FullAt, limit: t.a.set.Limits.Receive, proven: true, near: v})
		if c.site >= 0 && c.score.Compare(now) < 0 && (out == nil || c.score.Compare(best.score) < 0) {
			best, out = c, v
		}
	}
	if out == nil {
		return Decision{}, false
	}
	priority, reason := Diversity, t.say("on %s it shares fewer failure domains, or is nearer to where leases are preferred, than on %s", t.a.name(best.site), t.name(out))
	if best.score.Over < now.Over {
		priority, reason = Constraint, t.say("too many voters lie in one %s; %s takes the place of %s", t.rule.Survive, t.a.name(best.site), t.name(out))
	} else if best.score.Witnesses < now.Witnesses {
		reason = t.say("%s can hold the data; %s is a witness", t.a.name(best.site), t.name(out))
	}
	switch {
	case best.member == nil:
		return t.add(best, priority, reason)
	case !best.member.CaughtUp:
		return t.wait(priority, "%s: the copy is catching up", reason)
	default:
		return t.enter(best.member, out)
	}
}

// wants reports whether a zone should have a non-voter, apart from the voters that are left out.
func (t *turn) wants(z *zoneRule, without *member) bool {
	if z.NonVoter != placement.IfNoVoter {
		return z.NonVoter == placement.Always
	}
	for i := range t.members {
		if m := &t.members[i]; m != without && m.Type == Voter && m.why == fits && m.seat.Zone == z.seat.Zone {
			return false
		}
	}
	return true
}

// wantsNonVoter reports whether a voter's zone wants a non-voter once that is gone, and has none.
func (t *turn) wantsNonVoter(m *member) bool {
	z := t.zone(m)
	if z == nil || !t.wants(z, m) || !has(&t.a.sites[m.site], z.Attributes) {
		return false
	}
	return t.keeper(z) == nil
}

// keeper returns the non-voter that a zone keeps: one that fits, on the node that is the least
// burdened by it.
func (t *turn) keeper(z *zoneRule) *member {
	var best *member
	relief := 0.0
	for i := range t.members {
		m := &t.members[i]
		if m.Type != NonVoter || m.why != fits || m.site < 0 || m.seat.Zone != z.seat.Zone {
			continue
		}
		if r := t.relief(m, nil); best == nil || m.reachable && !best.reachable || m.reachable == best.reachable && r < relief {
			best, relief = m, r
		}
	}
	return best
}

// keeps reports whether the rule wants this non-voter as one.
func (t *turn) keeps(m *member) bool {
	z := t.zone(m)
	if z == nil || !z.known {
		return true // nothing is known: it stays
	}
	return m.Type == NonVoter && t.wants(z, nil) && t.keeper(z) == m
}

// nonVoters adds and removes what does not vote.
func (t *turn) nonVoters() (Decision, bool) {
	for z := range t.rule.zones {
		zr := &t.rule.zones[z]
		if zr.NonVoter == placement.Never || !t.wants(zr, nil) || t.keeper(zr) != nil {
			continue
		}
		site, limited := int32(-1), false
		if zr.pool >= 0 {
			site, limited = t.pick(zr.pool, search{fill: t.a.set.StopAt, limit: t.a.set.Limits.Receive})
		}
		if site < 0 {
			t.isStuck("zone %s has no usable node for the non-voter that policy %q wants there; add one, or bring one back", t.a.zones[z], t.rule.Policy)
			continue
		}
		return t.add(candidate{site: site, limited: limited}, Constraint, t.say("policy %q wants a non-voter in zone %s", t.rule.Policy, t.a.zones[z]))
	}
	for i := range t.members {
		m := &t.members[i]
		if m.Type.votes() || t.keeps(m) {
			continue
		}
		z := t.zone(m)
		inPlace := m.why == fits && m.reachable && z.Voter != placement.NoCopy && z.seat.Witness == m.Type.witness()
		if inPlace && !t.whole() {
			continue // see finish
		}
		if m.why == fits && !m.reachable {
			continue // its node is expected back
		}
		if k := t.keeper(z); m.reachable && t.wants(z, nil) && k != nil && !k.CaughtUp {
			return t.wait(Constraint, "the non-voter on %s, which replaces that on %s, is catching up", t.name(k), t.name(m))
		}
		reason := t.say("the copy on %s is not needed any more", t.name(m))
		if m.why != fits {
			reason = t.because(m)
		}
		return t.act(Change{Kind: Remove, Node: m.Node, Priority: Constraint, Reason: reason})
	}
	return Decision{}, false
}

// fullDisk moves a replica off a disk that is nearly full.
func (t *turn) fullDisk() (Decision, bool) {
	if !t.whole() {
		return Decision{}, false
	}
	for _, leaseholderToo := range []bool{false, true} {
		for i := range t.members {
			v := &t.members[i]
			if v.Type.witness() || (i == t.lease) != leaseholderToo || !t.onFullDisk(v) {
				continue
			}
			if c := t.alternative(v, t.a.set.Limits.Receive, 0); c.site >= 0 {
				return t.add(c, FullDisk, t.say("the disk of %s is %.0f%% full, more than %.0f%%", t.name(v), 100*t.a.fill(t.l, v.site, 0), 100*t.a.set.FullAt))
			}
			t.isStuck("the disk of %s is %.0f%% full, and no other node may take its replica; add a node in zone %s, or enlarge the volume",
				t.name(v), 100*t.a.fill(t.l, v.site, 0), t.a.zones[v.seat.Zone])
		}
	}
	return Decision{}, false
}

// alternative returns the node that a member would best move to without making the seats worse: the
// one with the least burden, or with a slack, the one where the move gains most, if it does at all.
func (t *turn) alternative(v *member, limit int, slack float64) candidate {
	best := candidate{site: -1}
	var space [maxVoters + 4]placement.Seat
	base := t.seats(space[:0], v)
	now := t.grade(append(base, v.seat))
	w := t.a.replicaWeight(t.r, v.Type.witness())
	if t.lease >= 0 && v == &t.members[t.lease] {
		w.cpu += t.a.leaseWeight(t.r).cpu
	}
	q := search{fill: t.a.set.FullAt, limit: limit, proven: true}
	for z := range t.rule.zones {
		zr := &t.rule.zones[z]
		home := zr.seat.Zone == v.seat.Zone
		if zr.pool < 0 || !home && (!v.Type.votes() || zr.Voter == placement.NoCopy || zr.seat.Witness != v.seat.Witness || t.keeper(zr) != nil) {
			continue
		}
		site, limited := t.pick(zr.pool, q)
		if site < 0 || slack > 0 && (limited || t.a.gain(t.l, v.site, site, w, slack) == 0) {
			continue
		}
		burden := t.a.burden(t.l, site, w)
		if best.site >= 0 && (limited && !best.limited || limited == best.limited && burden >= best.burden) {
			continue
		}
		if !home && t.grade(append(base, zr.seat)).Compare(now) > 0 {
			continue
		}
		best = candidate{site: site, limited: limited, burden: burden, witness: v.Type.witness()}
	}
	return best
}

// balanceReplicas moves a replica where that evens out load and disks.
func (t *turn) balanceReplicas() (Decision, bool) {
	if !t.whole() || t.voters != t.size() || !t.caughtUp() || !t.a.hasTurn(t.r.ID) {
		return Decision{}, false
	}
	limits := t.a.set.Limits
	best := candidate{site: -1}
	var out *member
	bestGain := 0.0
	for i := range t.members {
		v := &t.members[i]
		w := t.a.replicaWeight(t.r, v.Type.witness())
		if v.site < 0 || v.why != fits {
			continue
		}
		if i == t.lease {
			if !t.movable(v) {
				continue
			}
			w.cpu += t.a.leaseWeight(t.r).cpu
		}
		c := t.alternative(v, limits.ReceiveMoves, t.a.set.ReplicaSlack)
		if c.site < 0 {
			continue
		}
		if g := t.a.gain(t.l, v.site, c.site, w, t.a.set.ReplicaSlack); g > bestGain {
			best, out, bestGain = c, v, g
		}
	}
	if out == nil || t.l.nodes[t.members[t.lease].site].sending >= limits.Send {
		return Decision{}, false
	}
	priority := Disk
	if t.a.mostlyCPU(t.l, out.site, best.site, t.a.replicaWeight(t.r, out.Type.witness())) {
		priority = Load
	}
	return t.add(best, priority, t.say("%s has %.2f times the average load and %.2f times the average disk use, %s %.2f and %.2f",
		t.name(out), t.a.cpuUse(out.site, &t.l.nodes[out.site]), t.a.diskUse(out.site, &t.l.nodes[out.site]),
		t.a.name(best.site), t.a.cpuUse(best.site, &t.l.nodes[best.site]), t.a.diskUse(best.site, &t.l.nodes[best.site])))
}

// movable reports whether a move for balance may begin with a member. The leaseholder's may only
// where the lease is preferred to where all voters of other zones are: it comes back after a move
// inside its zone. Elsewhere the lease moves by itself and takes its load along.
func (t *turn) movable(v *member) bool {
	if v != &t.members[t.lease] {
		return true
	}
	rank := t.leaseRank(v)
	for i := range t.members {
		if m := &t.members[i]; m.seat.Zone != v.seat.Zone && m.Type == Voter && m.site >= 0 && t.leaseRank(m) <= rank {
			return false
		}
	}
	return true
}

func (t *turn) onFullDisk(m *member) bool {
	return m.site >= 0 && t.a.fill(t.l, m.site, 0) > t.a.set.FullAt
}
