package placement

import (
	"cmp"

	"github.com/atolldb/atoll/topology"
)

// Seat is where a voter sits, in numbers: any numbering of zones and regions will do. Rank is
// the zone's lease rank; it does not count for witnesses.
type Seat struct {
	Zone, Region int32
	Witness      bool
	Rank         int32
}

// Score grades a set of seats; the lower, the better, field by field.
type Score struct {
	// Over counts voters that are too many in one failure domain, or witnesses that are too many.
	Over int
	// Witnesses: a voter with data is better than one without.
	Witnesses int
	// Rank is the best lease rank among voters with data: leases should find a voter where they
	// are preferred.
	Rank int
	// Shared counts pairs of voters by the localities they share: pairs in one failure domain
	// count a hundredfold at the tier that must survive, then the other tier.
	Shared int
	// Ranks is the sum of the lease ranks.
	Ranks int
}

// Compare orders scores.
func (s Score) Compare(o Score) int {
	return cmp.Or(cmp.Compare(s.Over, o.Over), cmp.Compare(s.Witnesses, o.Witnesses), cmp.Compare(s.Rank, o.Rank),
		cmp.Compare(s.Shared, o.Shared), cmp.Compare(s.Ranks, o.Ranks))
}

// tierWeight is what a pair at the tier that must survive counts, beside 1 at the other. There
// are at most 36 pairs of 9 voters.
const tierWeight = 100

// Grade scores seats under a goal, for ranges of that many voters.
//
// Zones within regions are nested, so the pairs are a sum of convex functions of a laminar
// family: a set of seats that no single exchange improves is the best there is (Murota, Discrete
// Convex Analysis, 2003: M-natural-convexity). The allocator relies on it: it makes one exchange
// at a time.
func Grade(survive topology.Tier, voters int, seats []Seat) Score {
	f := max(Losable(voters), 1)
	zonePair, regionPair := tierWeight, 1
	if survive == topology.RegionTier {
		zonePair, regionPair = 1, tierWeight
	}
	var s Score
	data := false
	for i, a := range seats {
		if a.Witness {
			s.Witnesses++
		} else {
			if s.Ranks += int(a.Rank); !data || int(a.Rank) < s.Rank {
				s.Rank = int(a.Rank)
			}
			data = true
		}
		before := 0 // seats before this one in its failure domain
		for _, b := range seats[:i] {
			if a.Region == b.Region {
				s.Shared += regionPair
			}
			if a.Zone == b.Zone {
				s.Shared += zonePair
			}
			if survive == topology.ZoneTier && a.Zone == b.Zone || survive == topology.RegionTier && a.Region == b.Region {
				before++
			}
		}
		if before >= f {
			s.Over++
		}
	}
	s.Over += max(0, s.Witnesses-f)
	return s
}

// Room is a zone as Spread sees it: a seat there, and how many nodes could take one.
type Room struct {
	Seat
	Free int
}

// Spread returns the best seats for the voters of a range: as many as fit without weakening the
// goal, an odd number of at most voters. Fewer than voters means that the rooms can't hold the
// goal; then the survivable failure is kept and voters are given up.
func Spread(survive topology.Tier, voters int, rooms []Room) []Seat {
	for n := voters; n > 0; n -= 2 {
		if seats := fill(survive, n, rooms); len(seats) == n {
			return seats
		}
	}
	return nil
}

// fill takes the best seat n times.
func fill(survive topology.Tier, n int, rooms []Room) []Seat {
	free := make([]int, len(rooms))
	for i, r := range rooms {
		free[i] = r.Free
	}
	seats := make([]Seat, 0, n)
	for len(seats) < n {
		best, bestScore := -1, Score{}
		for i, r := range rooms {
			if free[i] == 0 {
				continue
			}
			s := Grade(survive, n, append(seats, r.Seat))
			if s.Over == 0 && (best < 0 || s.Compare(bestScore) < 0 || s == bestScore && free[i] > free[best]) {
				best, bestScore = i, s
			}
		}
		if best < 0 {
			return seats
		}
		free[best]--
		seats = append(seats, rooms[best].Seat)
	}
	return seats
}
