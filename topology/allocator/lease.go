package allocator

import "math"

// leaseRank orders the members for the lease; the lower, the better. Where the rule follows the
// workload, nearness to that comes before the zones' order.
func (t *turn) leaseRank(m *member) int {
	rank := int(m.seat.Rank)
	if !t.rule.FollowWorkload {
		return rank
	}
	const farther = 1 << 16
	switch zone, region := t.workload(); {
	case zone == "" && region == "":
		return rank
	case zone != "" && t.a.sites[m.site].Locality.Zone == zone:
		return rank
	case region != "" && t.a.sites[m.site].Locality.Region == region:
		return rank + farther
	default:
		return rank + 2*farther
	}
}

// workload returns the zone, and the region, that most requests come from; "" if none has the share
// that is needed.
func (t *turn) workload() (zone, region string) {
	total := 0.0
	for _, q := range t.r.Requests {
		total += q.Rate
	}
	if total <= 0 {
		return "", ""
	}
	for _, q := range t.r.Requests {
		if q.Rate >= t.a.set.FollowShare*total {
			zone = q.Zone
		}
		in, sum := t.a.regions[q.Zone], 0.0
		for _, o := range t.r.Requests {
			if in != "" && t.a.regions[o.Zone] == in {
				sum += o.Rate
			}
		}
		if sum >= t.a.set.FollowShare*total {
			region = in
		}
	}
	return zone, region
}

// mayLead reports whether a member can take the lease.
func (t *turn) mayLead(m *member) bool {
	return m.Type == Voter && m.reachable && m.CaughtUp && t.a.sites[m.site].standing == usable
}

// leaseTarget returns the best member for the lease among those that ok accepts: by rank, then
// where it weighs least. nil: none.
func (t *turn) leaseTarget(ok func(*member) bool) *member {
	var best *member
	bestRank, bestBurden := 0, 0.0
	w := t.a.leaseWeight(t.r)
	for i := range t.members {
		m := &t.members[i]
		if !t.mayLead(m) || !ok(m) {
			continue
		}
		rank, burden := t.leaseRank(m), t.a.burden(t.l, m.site, w)
		if m.why != fits {
			rank = math.MaxInt // it will have to go
		}
		if best == nil || rank < bestRank || rank == bestRank && burden < bestBurden {
			best, bestRank, bestBurden = m, rank, burden
		}
	}
	return best
}

func (t *turn) proven(m *member) bool { return t.a.sites[m.site].For >= t.rule.probation }

// preferLease moves the lease to where it is preferred, once that has proved itself.
func (t *turn) preferLease() (Decision, bool) {
	if !t.rule.ranked && !t.rule.FollowWorkload {
		return Decision{}, false
	}
	holder := &t.members[t.lease]
	rank := t.leaseRank(holder)
	to := t.leaseTarget(func(m *member) bool { return m != holder && m.why == fits && t.proven(m) && t.leaseRank(m) < rank })
	if to == nil || t.rule.FollowWorkload && t.r.LeaseFor < t.a.set.LeaseRest {
		return Decision{}, false
	}
	return t.transfer(to, Preference, t.say("%s is preferred for leases to %s", t.name(to), t.name(holder)))
}

// balanceLease moves the lease where it evens out load, among places of equal preference.
func (t *turn) balanceLease() (Decision, bool) {
	if t.r.LeaseFor < t.a.set.LeaseRest || !t.a.hasTurn(t.r.ID) {
		return Decision{}, false
	}
	holder := &t.members[t.lease]
	w := t.a.leaseWeight(t.r)
	var best *member
	bestGain := 0.0
	for i := range t.members {
		m := &t.members[i]
		if m == holder || !t.mayLead(m) || m.why != fits {
			continue
		}
		if g := t.a.gain(t.l, holder.site, m.site, w, t.a.set.LeaseSlack); g > bestGain && t.proven(m) && t.leaseRank(m) == t.leaseRank(holder) {
			best, bestGain = m, g
		}
	}
	if best == nil {
		return Decision{}, false
	}
	return t.transfer(best, Load, t.say("%s has %.1f times the average load and %s %.1f times", t.name(holder), t.a.cpuUse(holder.site, &t.l.nodes[holder.site]),
		t.name(best), t.a.cpuUse(best.site, &t.l.nodes[best.site])))
}
