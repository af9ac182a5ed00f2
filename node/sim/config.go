package sim

import (
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/atolldb/atoll/node/raftnet"
)

// Options of a run.
type Options struct {
	Seed uint64
	// Length of the part with faults, in virtual time. Default 20 s.
	Length time.Duration
	// Unnoticed lets machines stand still without any of their clocks noticing, which breaks
	// what leases rest on (SAFETY S4). Histories must then be serializable only, not in real time.
	Unnoticed bool
	// Level of the nodes' log in the trace.
	Level slog.Level
	Focus Focus
	// Plant builds bugs in, which the checkers must find.
	Plant Plant
}

// Focus makes some faults more frequent than others.
type Focus uint8

const (
	// FocusNone: all kinds.
	FocusNone Focus = iota
	// FocusLeases: what makes nodes lose, and steal, leadership.
	FocusLeases
	// FocusTransfers: leases move there and back while commands are on their way.
	FocusTransfers
	// FocusFreezes: machines that stand still.
	FocusFreezes
	// FocusPartitions: leaseholders that nobody hears for seconds.
	FocusPartitions
	// FocusMembers: nodes join, leave, drain and lose their disks.
	FocusMembers
	// FocusRetries: answers get lost while ranges remember few commands.
	FocusRetries
	// FocusPolicies: ranges follow policies that change, while nodes come and go in half of the seeds.
	FocusPolicies
	// FocusWitness: two zones hold the data, a third one has witnesses, and whole zones are lost.
	FocusWitness
)

// placed reports whether ranges follow policies.
func (f Focus) placed() bool { return f == FocusPolicies || f == FocusWitness }

// Plant is a set of deliberate bugs.
type Plant struct {
	Raftnet        raftnet.Planted
	UnsyncedLog    bool // StoreLogs returns early (S15)
	SkipRefresh    bool // S8
	NoSupportCheck bool // S2 b
	SkipTermCheck  bool // S5
	NoHorizon      bool // S12
	EarlyFollowers bool // S24
	ShortTail      bool // S22
}

// shape is what a seed decides about a cluster before it starts.
type shape struct {
	zones     []string // one per founding node
	spares    []string // one per node that joins later
	compare   time.Duration
	voters    int
	support   time.Duration
	maxDelay  time.Duration
	loss      time.Duration
	maxSkew   time.Duration // of each wall clock to either side
	deadAfter time.Duration
	clients   int // per node
	think     time.Duration
	hot       int           // accounts between which money moves
	pause     time.Duration // mean; one in twenty is twenty times as long
	pauses    float64       // how often a goroutine is held up
	closedLag time.Duration // of closed timestamps
	remember  int           // command IDs that a range remembers; 0: the default
	shortLog  uint64        // entries that stay in a log; 0: the default
	faultGap  time.Duration // mean time between faults
	// mergeAfter is for how long ranges must be quiet until they are merged by themselves; 0: never.
	mergeAfter time.Duration
}

func drawShape(rng *rand.Rand, focus Focus) shape {
	s := shape{
		support:   []time.Duration{250, 500, 500}[rng.IntN(3)] * time.Millisecond,
		maxDelay:  []time.Duration{300, 1000, 3000}[rng.IntN(3)] * time.Microsecond,
		loss:      []time.Duration{200, 2000}[rng.IntN(2)] * time.Millisecond,
		maxSkew:   []time.Duration{0, 20, 80}[rng.IntN(3)] * time.Millisecond,
		deadAfter: time.Minute,
		clients:   1 + rng.IntN(3),
		faultGap:  time.Duration(200+rng.IntN(1200)) * time.Millisecond,
	}
	s.hot, s.pause = accounts, 20*time.Millisecond
	s.pauses = []float64{0, 0.01, 0.05}[rng.IntN(3)]
	s.shortLog = []uint64{0, 0, 4}[rng.IntN(3)]
	s.closedLag = []time.Duration{50, 150, 400, 3000}[rng.IntN(4)] * time.Millisecond
	s.remember = []int{0, 0, 100, 20}[rng.IntN(4)]
	switch rng.IntN(6) {
	case 0, 1, 2:
		s.zones, s.voters = []string{"a", "b", "c"}, 3
	case 3:
		s.zones, s.voters = []string{"a", "b", "c", "a"}, 3
	case 4:
		s.zones, s.voters = []string{"a", "b", "c", "d", "e"}, 5
	case 5:
		s.zones, s.voters = []string{"a", "b", "c", "a", "b"}, 3
		s.deadAfter = 4 * time.Second
	}
	s.compare = 5 * time.Second
	s.mergeAfter = []time.Duration{0, 0, 1, 3}[rng.IntN(4)] * time.Second
	if focus == FocusMembers || focus == FocusNone && rng.IntN(2) == 0 {
		for range 1 + rng.IntN(2) {
			s.spares = append(s.spares, s.zones[rng.IntN(len(s.zones))])
		}
		s.deadAfter = []time.Duration{1500, 4000, 60000}[rng.IntN(3)] * time.Millisecond
	}
	// About 30 operations a second, however many clients there are.
	s.think = time.Duration(len(s.zones)*s.clients) * time.Duration(15+rng.IntN(40)) * time.Millisecond
	switch focus {
	case FocusPolicies:
		s.drawZones(rng)
	case FocusWitness:
		s.drawWitnessZones(rng)
	case FocusLeases:
		s.zones, s.voters, s.support = []string{"a", "b", "c"}, 3, 250*time.Millisecond
		s.faultGap = 100 * time.Millisecond
	case FocusPartitions:
		s.zones, s.voters = []string{"a", "b", "c"}, 3
		s.faultGap, s.clients, s.think = 600*time.Millisecond, 3, 150*time.Millisecond
	case FocusRetries:
		s.zones, s.voters, s.remember = []string{"a", "b", "c"}, 3, 4
		s.faultGap, s.clients, s.think = 400*time.Millisecond, 4, 60*time.Millisecond
	case FocusTransfers:
		s.zones, s.voters, s.pauses, s.pause = []string{"a", "b", "c"}, 3, 0.2, 60*time.Millisecond
		s.faultGap = 150 * time.Millisecond
		s.hot, s.think, s.clients = 3, 100*time.Millisecond, 3
	}
	return s
}

// drawZones makes five or six nodes in three or four zones.
func (s *shape) drawZones(rng *rand.Rand) {
	s.zones = [][]string{{"a", "b", "c", "d", "a"}, {"a", "b", "c", "a", "b"}, {"a", "b", "c", "d", "b", "c"}, {"a", "b", "c", "a", "b", "c"}}[rng.IntN(4)]
	s.voters, s.spares = 3, nil
	if rng.IntN(2) == 0 {
		s.spares = append(s.spares, s.zones[rng.IntN(len(s.zones))])
	}
	s.deadAfter = []time.Duration{1500, 4000, 60000}[rng.IntN(3)] * time.Millisecond
	s.clients, s.think = 1, time.Duration(len(s.zones)*(15+rng.IntN(40)))*time.Millisecond
}

// drawWitnessZones makes three to six nodes in zones a and b, which hold the data, and w. Logs are
// mostly short, so that a witness has no more than it must (S22).
func (s *shape) drawWitnessZones(rng *rand.Rand) {
	s.zones = [][]string{{"a", "b", "w"}, {"a", "b", "w"}, {"a", "b", "w", "a"}, {"a", "b", "w", "w"}, {"a", "b", "w", "a", "b", "w"}, {"a", "b", "w", "a", "b"}}[rng.IntN(6)]
	s.voters, s.spares = 3, nil
	if len(s.zones) >= 5 && rng.IntN(2) == 0 {
		s.voters = 5
	}
	if rng.IntN(3) == 0 {
		s.spares = append(s.spares, s.zones[rng.IntN(len(s.zones))])
	}
	s.deadAfter = []time.Duration{1500, 4000, 60000}[rng.IntN(3)] * time.Millisecond
	s.shortLog = []uint64{0, 4, 4}[rng.IntN(3)]
	s.faultGap = time.Duration(300+rng.IntN(1200)) * time.Millisecond
	s.clients, s.think = 1+rng.IntN(2), time.Duration(len(s.zones)*(10+rng.IntN(30)))*time.Millisecond
}
