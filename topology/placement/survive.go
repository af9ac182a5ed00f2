package placement

import (
	"math/bits"
	"slices"

	"github.com/atolldb/atoll/topology"
)

// Voter is one voter of a range, for questions about failures.
type Voter struct {
	Node    int32
	At      topology.Locality
	Witness bool
}

// Survives returns how many failure domains of a tier may be lost at once, whichever they are,
// such that a quorum is left and no acknowledged write is lost. Voters lie on different nodes.
//
// A witness keeps the log's tail until data replicas in two failure domains have made it durable
// (S22). So the loss of one domain never loses a write that only that domain and witnesses had;
// the loss of two may, and counts as not survived.
func Survives(voters []Voter, tier topology.Tier) int {
	member, width := domains(voters, tier)
	lost := 0
	for k := 1; k <= width; k++ {
		for set := range uint(1) << width {
			if bits.OnesCount(set) == k && !outlives(voters, member, set, k) {
				return lost
			}
		}
		lost = k
	}
	return lost
}

// outlives reports whether a quorum and all data are left once the domains of a set are lost.
func outlives(voters []Voter, member []int, set uint, k int) bool {
	in, data, witnesses := 0, 0, 0 // voters that are lost; that are left, with data and without
	for i, v := range voters {
		switch {
		case set>>member[i]&1 == 1:
			in++
		case v.Witness:
			witnesses++
		default:
			data++
		}
	}
	quorum := Quorum(len(voters))
	if data == 0 || data+witnesses < quorum {
		return false
	}
	return k == 1 || witnesses == 0 || in+witnesses < quorum
}

// domains numbers the failure domains of voters.
func domains(voters []Voter, tier topology.Tier) (member []int, width int) {
	type key struct {
		node int32
		name string
	}
	seen := map[key]int{}
	for _, v := range voters {
		k := key{node: v.Node}
		switch tier {
		case topology.ZoneTier:
			k = key{name: v.At.Zone}
		case topology.RegionTier:
			k = key{name: v.At.Region}
		}
		if _, ok := seen[k]; !ok {
			seen[k] = len(seen)
		}
		member = append(member, seen[k])
	}
	return member, len(seen)
}

// Vote is a voter as Margin sees it: where it is, and whether it answers.
type Vote struct {
	Domain    int32 // any number per failure domain
	Reachable bool
}

// Margin returns by how many the reachable voters outside the worst failure domain exceed a
// quorum; less than 0 if the loss of some domain would stop the range. Raft counts voters that
// don't answer in the quorum. It panics if there is no voter.
func Margin(votes []Vote) int {
	out := len(votes)
	for _, d := range votes {
		left := 0
		for _, v := range votes {
			if v.Domain != d.Domain && v.Reachable {
				left++
			}
		}
		out = min(out, left)
	}
	return out - Quorum(len(votes))
}

// Weaker reports whether a change of margin is a loss: what survived any one domain no longer
// does, or what did not has become worse. More than enough is not counted.
func Weaker(before, after int) bool { return min(after, 0) < min(before, 0) }

// Trips counts the round trips of an operation by how far they go.
type Trips struct{ InZone, CrossZone, CrossRegion int }

func (t *Trips) add(from, to topology.Locality) {
	switch from.Shared(to) {
	case 2:
		t.InZone++
	case 1:
		t.CrossZone++
	default:
		t.CrossRegion++
	}
}

// CommitTrips returns what a commit of a transaction in one range costs at a gateway: a round
// trip to the leaseholder, and one from there to the quorum-th nearest voter.
func CommitTrips(gateway, leaseholder topology.Locality, voters []Voter) Trips {
	var t Trips
	t.add(gateway, leaseholder)
	near := make([]topology.Locality, len(voters))
	for i, v := range voters {
		near[i] = v.At
	}
	slices.SortStableFunc(near, func(a, b topology.Locality) int { return b.Shared(leaseholder) - a.Shared(leaseholder) })
	if q := Quorum(len(near)); q > 1 {
		t.add(leaseholder, near[q-1]) // the leaseholder itself is near[0]
	}
	return t
}

// ReadTrips returns what a read of the present costs at a gateway: one round trip to the leaseholder.
func ReadTrips(gateway, leaseholder topology.Locality) Trips {
	var t Trips
	t.add(gateway, leaseholder)
	return t
}
