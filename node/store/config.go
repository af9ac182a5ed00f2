package store

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/events"
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/eval"
)

// Config is what a store is made of.
type Config struct {
	Engines   *Engines
	Node      keys.NodeID
	Network   raftnet.Network
	Router    *raftnet.Router
	Support   raftnet.Support
	Clock     *hlc.Clock
	Directory *cluster.Directory
	// Plan is set on a founding member: the store makes the first ranges from it, once.
	Plan *cluster.Plan
	// Pushdown evaluates filters; nil refuses them.
	Pushdown eval.Pushdown
	Limits   replica.Limits
	// OldestRead returns the oldest read timestamp that a transaction of this gateway still
	// uses (its clock if there is none). nil: unknown.
	OldestRead func() hlc.Timestamp
	// Events takes what happens to ranges and their leases; it must not block. nil: nobody listens.
	Events func(events.Event)
	// OnFatal is called when the store can't go on; it should end the process.
	OnFatal    func(error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer

	// MaxRangeBatches is how many batches a second from other nodes a range may serve before it is
	// split by load, if that divides the load. Default 10,000.
	MaxRangeBatches int64
	// Cores is what the node has. Default: what the process may use.
	Cores float64
	// MaxRangeBytes is the size at which a range is split. Default 512 MiB.
	MaxRangeBytes int64
	// NoMerges keeps ranges from being merged by themselves. MergeAfter is how long two neighbours
	// must have been small, quiet and unchanged before they are; default 5 minutes. MergeEvery is how
	// long a node waits between two merges; default 1 s.
	NoMerges   bool
	MergeAfter time.Duration
	MergeEvery time.Duration
	// GCTTL is how long old versions are kept. Default 10 minutes.
	GCTTL time.Duration
	// PileupAge is how old a version must be to be collected early; PileupVersions from how
	// many versions on a key is piled up; UnknownReadAge what a node that does not answer
	// counts with. Defaults 15 s, 64, 1 minute.
	PileupAge      time.Duration
	PileupVersions int
	UnknownReadAge time.Duration
	// ReserveBytes is the free disk space below which new writes are refused. Default 256 MiB.
	ReserveBytes int64
	// Voters is how many voters a range should have where there are zones enough, as long as no
	// policies say otherwise (SetRules). Default 3.
	Voters int
	// AwaitRules: the placement rules come later, by SetRules, and until then the allocator plans
	// nothing. A node that has started would else move what a policy had put elsewhere.
	AwaitRules bool
	// KeepReplicas keeps replicas from being moved only to even out nodes.
	KeepReplicas bool
	// ClosedLag is how far behind the clock timestamps are closed, where no policy says follower_reads.
	// Default 3 s.
	ClosedLag time.Duration
	// DeadAfter is how long a node must be silent, while others of its zone answer, until its
	// replicas are replaced. Default 60 s.
	DeadAfter time.Duration
	// ZoneDeadAfter is how long all nodes of a zone must be silent until their replicas are made anew in
	// other zones, where the rules allow that; at least DeadAfter. Default 30 minutes.
	ZoneDeadAfter time.Duration
	// VolumeGoneAfter is how long after an empty node took a silent node's address the silent one's
	// replicas are replaced. Default 1 s: its data won't come back.
	VolumeGoneAfter time.Duration
	// Interval is how often ranges are looked at. Default 1 s.
	Interval time.Duration
	// SnapshotBytesPerSecond paces the snapshots that this node sends, and those that it receives.
	// Default 64 MiB.
	SnapshotBytesPerSecond int64
	// CompareEvery is how often the leaseholder of a range compares the replicas' digests (S23), at
	// most; one range at a time. Default 6 hours.
	CompareEvery time.Duration
	// CompareBytesPerSecond paces the reading for digests on this node. Default 16 MiB.
	CompareBytesPerSecond int64
	// WitnessLogBytes is how long the log of a witness may grow while a data replica is away (S22);
	// beyond it the range is at risk. Default 1 GiB.
	WitnessLogBytes int64
	// Pause, if not nil, is called where other goroutines may come in between: after an
	// evaluation, before a proposal. The simulator lets time pass there.
	Pause func()
	// ShortLog, if not 0, is how many entries stay in a raft log, so that followers need
	// snapshots. For the simulator.
	ShortLog uint64
	// RememberIDs, if not 0, is how many command IDs a range remembers; see package group. For the
	// simulator: all nodes must have the same.
	RememberIDs int
	// PlantSkipTermCheck is a bug that the simulator plants (breaks S5). A real node never
	// sets it.
	PlantSkipTermCheck bool
	// PlantNoSupportCheck is another one (breaks S2 b).
	PlantNoSupportCheck bool
	// PlantNoHorizon is another one (breaks S12).
	PlantNoHorizon bool
	// PlantEarlyFollowers is another one: replicas serve closed timestamps before they have applied
	// what was written below (breaks S24).
	PlantEarlyFollowers bool
	// PlantShortTail is another one: a witness drops what a data replica still needs (breaks S22).
	PlantShortTail bool
}

func (c *Config) ensureDefaults() {
	def(&c.MaxRangeBytes, 512<<20)
	def(&c.MaxRangeBatches, 10_000)
	def(&c.Cores, float64(runtime.GOMAXPROCS(0)))
	def(&c.MergeAfter, 5*time.Minute)
	def(&c.MergeEvery, time.Second)
	def(&c.GCTTL, 10*time.Minute)
	def(&c.PileupAge, 15*time.Second)
	def(&c.PileupVersions, 64)
	def(&c.UnknownReadAge, time.Minute)
	def(&c.ReserveBytes, 256<<20)
	def(&c.Voters, 3)
	def(&c.ClosedLag, closedLag)
	def(&c.DeadAfter, time.Minute)
	def(&c.ZoneDeadAfter, max(30*time.Minute, c.DeadAfter))
	def(&c.VolumeGoneAfter, time.Second)
	def(&c.Interval, time.Second)
	def(&c.SnapshotBytesPerSecond, 64<<20)
	def(&c.CompareEvery, 6*time.Hour)
	def(&c.WitnessLogBytes, 1<<30)
	def(&c.CompareBytesPerSecond, 16<<20)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.OnFatal == nil {
		c.OnFatal = func(err error) { panic(err) }
	}
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func (c *Config) validate() error {
	var errs []error
	for _, f := range []struct {
		missing bool
		name    string
	}{
		{c.Engines == nil, "Engines"}, {c.Node <= 0, "Node"}, {c.Network == nil, "Network"}, {c.Router == nil, "Router"},
		{c.Support == nil, "Support"}, {c.Clock == nil, "Clock"}, {c.Directory == nil, "Directory"},
	} {
		if f.missing {
			errs = append(errs, errors.New("store: Config."+f.name+" is required"))
		}
	}
	if c.Voters%2 == 0 || c.Voters < 1 || c.Voters > 7 {
		errs = append(errs, fmt.Errorf("store: Voters is %d, want 1, 3, 5 or 7", c.Voters))
	}
	if c.MaxRangeBatches < 10 || !(c.Cores > 0) {
		errs = append(errs, fmt.Errorf("store: MaxRangeBatches is %d and Cores %g, the minimum is 10, and more than 0", c.MaxRangeBatches, c.Cores))
	}
	if c.MaxRangeBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("store: MaxRangeBytes is %d, the minimum is %d", c.MaxRangeBytes, 1<<20))
	}
	if c.MergeAfter < time.Second || c.MergeEvery < 0 {
		errs = append(errs, fmt.Errorf("store: MergeAfter is %s and MergeEvery %s, the minimum is 1s, and 0", c.MergeAfter, c.MergeEvery))
	}
	if c.CompareEvery < time.Second {
		errs = append(errs, fmt.Errorf("store: CompareEvery is %s, the minimum is 1s", c.CompareEvery))
	}
	if c.CompareBytesPerSecond < 1<<10 {
		errs = append(errs, fmt.Errorf("store: CompareBytesPerSecond is %d, the minimum is %d", c.CompareBytesPerSecond, 1<<10))
	}
	if c.ClosedLag < 10*time.Millisecond {
		errs = append(errs, fmt.Errorf("store: ClosedLag is %s, the minimum is 10ms", c.ClosedLag))
	}
	if c.WitnessLogBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("store: WitnessLogBytes is %d, the minimum is %d", c.WitnessLogBytes, 1<<20))
	}
	if c.Interval < 10*time.Millisecond {
		errs = append(errs, fmt.Errorf("store: Interval is %s, the minimum is 10ms", c.Interval))
	}
	return errors.Join(errs...)
}
