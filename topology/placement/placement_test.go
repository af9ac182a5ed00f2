package placement

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/topology"
)

func at(region, zone string) topology.Locality { return topology.Locality{Region: region, Zone: zone} }

func TestSurvives(t *testing.T) {
	v := func(node int32, zone string) Voter { return Voter{Node: node, At: at("us", zone)} }
	w := func(node int32, zone string) Voter { return Voter{Node: node, At: at("us", zone), Witness: true} }
	for _, tc := range []struct {
		name         string
		voters       []Voter
		nodes, zones int
	}{
		{"one", []Voter{v(1, "a")}, 0, 0},
		{"two", []Voter{v(1, "a"), v(2, "b")}, 0, 0},
		{"three zones", []Voter{v(1, "a"), v(2, "b"), v(3, "c")}, 1, 1},
		{"two in a zone", []Voter{v(1, "a"), v(2, "a"), v(3, "c")}, 1, 0},
		{"four, as in a move inside a zone", []Voter{v(1, "a"), v(2, "a"), v(3, "b"), v(4, "c")}, 1, 0},
		{"two and a witness", []Voter{v(1, "a"), v(2, "b"), w(3, "c")}, 1, 1},
		{"one and two witnesses", []Voter{v(1, "a"), w(2, "b"), w(3, "c")}, 0, 0},
		{"five", []Voter{v(1, "a"), v(2, "a"), v(3, "b"), v(4, "b"), v(5, "c")}, 2, 1},
		// What two data replicas have, the witnesses may have dropped: the loss of both loses it.
		{"three and two witnesses", []Voter{v(1, "a"), v(2, "b"), v(3, "c"), w(4, "d"), w(5, "e")}, 1, 1},
	} {
		require.Equal(t, tc.nodes, Survives(tc.voters, topology.NodeTier), tc.name)
		require.Equal(t, tc.zones, Survives(tc.voters, topology.ZoneTier), tc.name)
		require.Zero(t, Survives(tc.voters, topology.RegionTier), tc.name)
	}
}

func TestMargin(t *testing.T) {
	ok := func(d int32) Vote { return Vote{d, true} }
	require.Equal(t, 0, Margin([]Vote{ok(1), ok(2), ok(3)}))
	require.Equal(t, -1, Margin([]Vote{ok(1), ok(1), ok(2), ok(3)}), "S19's window")
	require.Equal(t, 0, Margin([]Vote{ok(1), ok(2), ok(3), ok(4)}))
	require.Equal(t, -1, Margin([]Vote{ok(1), ok(2), {3, false}}))
	require.Equal(t, 1, Margin([]Vote{ok(1), ok(2), ok(3), ok(4), ok(5)}))
	require.Equal(t, -1, Margin([]Vote{ok(1)}))
	require.True(t, Weaker(0, -1))
	require.True(t, Weaker(-1, -2))
	require.False(t, Weaker(1, 0))
	require.False(t, Weaker(-1, -1))
}

func TestCommitTrips(t *testing.T) {
	voters := []Voter{{1, at("us", "a"), false}, {2, at("us", "b"), false}, {3, at("eu", "c"), false}}
	require.Equal(t, Trips{InZone: 1, CrossZone: 1}, CommitTrips(at("us", "a"), at("us", "a"), voters))
	require.Equal(t, Trips{CrossRegion: 1, CrossZone: 1}, CommitTrips(at("eu", "c"), at("us", "a"), voters))
	require.Equal(t, Trips{InZone: 1, CrossRegion: 1}, CommitTrips(at("eu", "c"), at("eu", "c"), voters))
	require.Equal(t, Trips{InZone: 1}, CommitTrips(at("us", "a"), at("us", "a"), voters[:1]), "one voter waits for nobody")
}

// TestSpreadAndExchangesFindTheBest compares, over random zones, Spread with every possible set of seats, and with
// what single exchanges reach from any set within the goal: the allocator makes only those.
func TestSpreadAndExchangesFindTheBest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 400 {
		var rooms []Room
		for z := range 2 + rng.IntN(4) {
			rooms = append(rooms, Room{Seat: Seat{Zone: int32(z), Region: int32(rng.IntN(3)), Rank: int32(rng.IntN(2))}, Free: 1 + rng.IntN(2)})
		}
		survive, voters := topology.Tiers()[rng.IntN(3)], 3+2*rng.IntN(2)
		sets := every(rooms, voters)
		grade := func(set []int) Score { return Grade(survive, voters, seatsOf(rooms, set)) }
		best, found := Score{}, false
		for _, set := range sets {
			if s := grade(set); s.Over == 0 && (!found || s.Compare(best) < 0) {
				best, found = s, true
			}
		}
		got := Spread(survive, voters, rooms)
		if !found {
			require.Less(t, len(got), voters, "round %d: the goal can't be held", round)
			continue
		}
		require.Len(t, got, voters, "round %d", round)
		require.Equal(t, best.Shared, Grade(survive, voters, got).Shared, "round %d: %v over %+v", round, got, rooms)
		require.Equal(t, best, Grade(survive, voters, got), "round %d: %v over %+v", round, got, rooms)
		for _, set := range sets {
			for improved := true; improved; {
				set, improved = exchange(rooms, set, grade)
			}
			require.Equal(t, best, grade(set), "round %d: no exchange improves %v over %+v", round, set, rooms)
		}
	}
}

func seatsOf(rooms []Room, set []int) (out []Seat) {
	for i, n := range set {
		for range n {
			out = append(out, rooms[i].Seat)
		}
	}
	return out
}

// every returns all ways to take n seats: how many from each room.
func every(rooms []Room, n int) (out [][]int) {
	if len(rooms) == 0 {
		if n == 0 {
			return [][]int{nil}
		}
		return nil
	}
	for take := range min(n, rooms[0].Free) + 1 {
		for _, rest := range every(rooms[1:], n-take) {
			out = append(out, append([]int{take}, rest...))
		}
	}
	return out
}

// exchange makes the best single exchange, if one improves.
func exchange(rooms []Room, set []int, grade func([]int) Score) ([]int, bool) {
	best, found := set, false
	for from := range set {
		for to := range set {
			if from == to || set[from] == 0 || set[to] == rooms[to].Free {
				continue
			}
			next := append([]int(nil), set...)
			next[from]--
			next[to]++
			if grade(next).Compare(grade(best)) < 0 {
				best, found = next, true
			}
		}
	}
	return best, found
}
