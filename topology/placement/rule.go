// Package placement holds what a placement policy says about one range, compiled: a Rule. It is
// what policies (which people write) and the allocator (which carries them out) share, with the
// arithmetic that both must agree on: what a set of voters survives (Survives, Margin), where
// voters go at best (Spread, Grade), and how far a commit travels (CommitTrips).
//
// It is pure and imports only topology.
//
// Definitions. A failure domain is what fails as a whole at a tier: a node, a zone or a region.
// With V voters a quorum is V/2+1, and f = (V-1)/2 voters may be lost. A rule that survives a
// tier lets no domain of it hold more than f voters, and at most f voters are witnesses, so
// that every quorum has a voter with data.
package placement

import (
	"slices"
	"strings"
	"time"

	"github.com/atolldb/atoll/topology"
)

// Copy is what a voter in a zone is.
type Copy uint8

// NoCopy: no voter. Data: a voter with data. Witness: a voter that keeps only the log's tail
// (SAFETY S22).
const (
	NoCopy Copy = iota
	Data
	Witness
)

// When says when a zone has a non-voter.
type When uint8

// Never; Always; or IfNoVoter: when no voter with data lies in the zone.
const (
	Never When = iota
	Always
	IfNoVoter
)

// NoLease is the lease rank of a zone that never holds a lease.
const NoLease = -1

// Zone is what a rule says about one zone.
type Zone struct {
	Locality topology.Locality
	// Voter is what a voter here is, if one may be here.
	Voter    Copy
	NonVoter When
	// LeaseRank orders the zones by preference for leases: 0 is the best. NoLease: none here.
	LeaseRank int
	// Attributes are what a node here needs in order to hold a replica; sorted.
	Attributes []string
}

// Rule is a placement policy compiled against a topology. Many ranges share one.
type Rule struct {
	Policy string // its name, for reasons
	// Survive is the widest failure domain whose loss must stop nothing.
	Survive topology.Tier
	Voters  int // odd
	// Zones has every zone of the topology that it was compiled against, by name. A zone that is
	// not in it came later: nothing is placed there, and nothing is moved away, until the rule is
	// compiled again.
	Zones []Zone
	// FollowWorkload: leases go where most requests come from.
	FollowWorkload bool
	// FollowerReads asks for a short lag of closed timestamps (S24); placement ignores it.
	FollowerReads bool
	// Probation is how long a node must have answered before it gets what it need not have:
	// leases that prefer it and replicas moved for balance. 0 leaves it to the allocator.
	Probation time.Duration
}

// Zone returns what the rule says about a zone.
func (r *Rule) Zone(name string) (Zone, bool) {
	i, ok := slices.BinarySearchFunc(r.Zones, name, func(z Zone, name string) int { return strings.Compare(z.Locality.Zone, name) })
	if !ok {
		return Zone{}, false
	}
	return r.Zones[i], true
}

// Add takes a zone in, unless the rule has it.
func (r *Rule) Add(z Zone) {
	i, ok := slices.BinarySearchFunc(r.Zones, z.Locality.Zone, func(z Zone, name string) int { return strings.Compare(z.Locality.Zone, name) })
	if !ok {
		r.Zones = slices.Insert(r.Zones, i, z)
	}
}

// Quorum is how many of n voters decide.
func Quorum(n int) int { return n/2 + 1 }

// Losable is how many of n voters may be lost: f.
func Losable(n int) int { return (n - 1) / 2 }
