package allocator

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/atolldb/atoll/topology/placement"
)

// standing is what a node may have, from what it is and how it is.
type standing uint8

const (
	usable   standing = iota // takes replicas and leases
	draining                 // keeps replicas, takes nothing
	leaving                  // gives everything away, and answers
	held                     // silent, and expected back: its replicas count, and are waited for
	lost                     // silent for too long, without its volume, or decommissioned
)

// site is a node as decisions see it.
type site struct {
	Node
	zone, region int32
	standing     standing
	zoneDown     bool
}

// Allocator is a view's nodes and rules, summarised. It does not change: any number of
// goroutines may call Decide and Explain.
type Allocator struct {
	set   Settings
	sites []site // by ID
	index map[NodeID]int32
	zones []string // names, by number
	// regions says in which region a zone lies, by its name.
	regions map[string]string
	rules   []rule
	pools   [][]int32 // the usable nodes of a zone that have some attributes; see pool
	total   totals
	turn    uint64
	now     loads // as the view says; Plan works on a copy
}

// rule is a placement.Rule over the numbers of this view.
type rule struct {
	*placement.Rule
	zones     []zoneRule // by zone number
	rooms     []placement.Room
	target    int             // voters that find a seat within the goal, an odd number
	best      placement.Score // of target voters
	probation time.Duration
	ranked    bool // leases have preferences
}

// zoneRule is what a rule says about one zone of the view.
type zoneRule struct {
	placement.Zone
	known bool
	seat  placement.Seat // of a voter here
	pool  int32          // candidates; -1 without any
}

// New summarises a view. It costs n log n in nodes, and zones times rules. Faults of the view are all
// reported at once.
func New(v View) (*Allocator, error) {
	a := &Allocator{set: v.Settings, turn: v.Turn, index: make(map[NodeID]int32, len(v.Nodes))}
	a.set.EnsureDefaults()
	faults := []error{a.set.Validate()}
	for _, n := range v.Nodes {
		if n.ID <= 0 || n.Locality.Zone == "" || n.DiskCapacity < 0 || n.CPUCapacity < 0 {
			faults = append(faults, fmt.Errorf("allocator: node %d (%s) needs a positive ID, a zone, and capacities that are not negative", n.ID, n.Locality))
		}
		if n.CPUCapacity == 0 {
			n.CPUCapacity = 1
		}
		a.sites = append(a.sites, site{Node: n})
	}
	slices.SortFunc(a.sites, func(x, y site) int { return cmp.Compare(x.ID, y.ID) })
	for i := range a.sites {
		if _, twice := a.index[a.sites[i].ID]; twice {
			faults = append(faults, fmt.Errorf("allocator: node %d is given twice", a.sites[i].ID))
		}
		a.index[a.sites[i].ID] = int32(i)
	}
	for i := range v.Rules {
		if r := &v.Rules[i]; r.Voters < 1 || r.Voters%2 == 0 || r.Voters > maxVoters {
			faults = append(faults, fmt.Errorf("allocator: the rule of policy %q has %d voters; an odd number up to %d is possible", r.Policy, r.Voters, maxVoters))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	a.numberZones()
	a.stand()
	a.sumUp()
	a.compileRules(v.Rules)
	a.now = a.measure()
	return a, nil
}

// numberZones numbers zones and regions in the order of their names.
func (a *Allocator) numberZones() {
	a.regions = map[string]string{}
	regions := map[string]int32{}
	for _, s := range a.sites {
		a.regions[s.Locality.Zone] = s.Locality.Region
	}
	a.zones = slices.Sorted(maps.Keys(a.regions))
	number := map[string]int32{}
	for i, z := range a.zones {
		number[z] = int32(i)
		if _, ok := regions[a.regions[z]]; !ok {
			regions[a.regions[z]] = int32(len(regions))
		}
	}
	for i := range a.sites {
		s := &a.sites[i]
		s.zone, s.region = number[s.Locality.Zone], regions[s.Locality.Region]
	}
}

const never = time.Duration(math.MaxInt64)

// stand decides each node's standing. A zone is down when none of its nodes answers that should;
// it is then held together, as long as the youngest silence lasts.
func (a *Allocator) stand() {
	answers := make([]bool, len(a.zones))
	since := slices.Repeat([]time.Duration{never}, len(a.zones))
	for _, s := range a.sites {
		if s.Membership == Decommissioned {
			continue
		}
		if s.Health == Answers {
			answers[s.zone] = true
		} else {
			since[s.zone] = min(since[s.zone], s.For)
		}
	}
	for i := range a.sites {
		s := &a.sites[i]
		s.zoneDown = s.Health == Silent && !answers[s.zone]
		waited, wait := s.For, a.set.RestartWait
		switch {
		case s.Health == VolumeGone:
			wait = a.set.VolumeGoneWait
		case s.zoneDown:
			waited, wait = since[s.zone], a.set.ZoneHold
		}
		switch {
		case s.Membership == Decommissioned || s.Health != Answers && waited >= wait:
			s.standing = lost
		case s.Health != Answers:
			s.standing = held
		case s.Membership == Decommissioning:
			s.standing = leaving
		case s.Membership == Draining:
			s.standing = draining
		default:
			s.standing = usable
		}
	}
}

// compileRules resolves rules over the zones that have nodes.
func (a *Allocator) compileRules(in []placement.Rule) {
	members := make([][]int32, len(a.zones))
	for i, s := range a.sites {
		members[s.zone] = append(members[s.zone], int32(i))
	}
	pools := map[poolKey]int32{}
	for i := range in {
		r := rule{Rule: &in[i], probation: in[i].Probation, zones: make([]zoneRule, len(a.zones))}
		if r.probation == 0 {
			r.probation = a.set.Probation
		}
		for z, name := range a.zones {
			zr := &r.zones[z]
			zr.Zone, zr.known = in[i].Zone(name)
			zr.seat = placement.Seat{Zone: int32(z), Region: a.sites[members[z][0]].region, Witness: zr.Voter == placement.Witness, Rank: int32(zr.LeaseRank)}
			zr.pool = a.pool(pools, int32(z), zr.Attributes, members[z])
			r.ranked = r.ranked || zr.LeaseRank > 0
			if zr.Voter != placement.NoCopy {
				r.rooms = append(r.rooms, placement.Room{Seat: zr.seat, Free: a.room(members[z], zr.Attributes)})
			}
		}
		seats := placement.Spread(r.Survive, r.Voters, r.rooms)
		r.target, r.best = len(seats), placement.Grade(r.Survive, len(seats), seats)
		a.rules = append(a.rules, r)
	}
}

// room counts the nodes that hold, or could hold, a replica; those that are expected back count.
func (a *Allocator) room(members []int32, attributes []string) int {
	n := 0
	for _, m := range members {
		if s := &a.sites[m]; s.standing != lost && s.standing != leaving && has(s, attributes) {
			n++
		}
	}
	return n
}

type poolKey struct {
	zone       int32
	attributes string
}

// pool returns the number of the pool of a zone's usable nodes with some attributes. Rules with
// equal demands share one.
func (a *Allocator) pool(known map[poolKey]int32, zone int32, attributes []string, members []int32) int32 {
	key := poolKey{zone, strings.Join(attributes, " ")} // attributes have no spaces
	if p, ok := known[key]; ok {
		return p
	}
	var nodes []int32
	for _, m := range members {
		if s := &a.sites[m]; s.standing == usable && has(s, attributes) {
			nodes = append(nodes, m)
		}
	}
	p := int32(-1)
	if len(nodes) > 0 {
		p = int32(len(a.pools))
		a.pools = append(a.pools, nodes)
	}
	known[key] = p
	return p
}

func has(s *site, attributes []string) bool {
	for _, want := range attributes {
		if !slices.Contains(s.Attributes, want) {
			return false
		}
	}
	return true
}
