package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
	"github.com/atolldb/atoll/policies"
)

// rep is one replica: its transport, raft group, and request path.
type rep struct {
	s       *Store
	rangeID keys.RangeID
	id      keys.ReplicaID
	witness bool // it keeps the log's tail and has none of the data (S22)
	trans   *raftnet.RangeTransport
	group   atomic.Pointer[group.Group]
	replica atomic.Pointer[replica.Replica] // nil before the first snapshot

	mu        sync.Mutex // of creation of replica, and of closing
	closed    bool
	inherited *replica.SplitState

	admin lock // one structure change at a time

	// What the queues remember, in the maintenance goroutine only.
	q struct {
		ledTerm      uint64
		lastSize     time.Time
		lastLoad     time.Time // a split by load was tried
		sizeCommands int64
		lastGC       time.Time
		gcCommands   int64
		lastWrite    time.Time // last command that was not garbage collection
		gcClean      bool      // nothing was written since the last collection's threshold
		lastPileup   time.Time
		pileCommands int64
		leaderless   time.Time
		lastEnsure   time.Time
		lastTruncate time.Time
		agreedDesc   *kv.RangeDescriptor // followed found this one and
		agreedConfig uint64              // the configuration of this index alike
		oneRuleMap   *policies.Map       // spansPolicies found no boundary of this map
		oneRuleDesc  *kv.RangeDescriptor // in this range

		coldSince      time.Time // the range has been quiet, and of one generation, since then
		coldGeneration int64
		lastMerge      time.Time // a merge with the next range was thought about
		lastFreeze     time.Time // a freeze that is left over was looked at

		lastQuarantine time.Time
		complained     time.Time // that a quarantined replica is not replaced; or there was none
	}
	recordedTerm atomic.Uint64 // whose lease recordLease has written down
	leaseSince   atomic.Int64  // when that was, Unix nanoseconds

	// frozen is set while the range waits to be merged into its left neighbour (S20); merging while
	// this node is about it; mergedAway once that was applied, until the replica is removed.
	frozen     atomic.Pointer[raftcmd.FreezeTrigger]
	merging    atomic.Bool
	mergedAway atomic.Bool

	busy     atomic.Bool        // a queue works on it
	troubles map[string]trouble // by the kind of work; whoever is busy with the range owns it
	// distrusted: this replica is quarantined. It serves nothing, and gives a lease away.
	distrusted atomic.Bool
	untrusted  atomic.Int32 // quarantined replicas of the range, as last seen by its leaseholder
	undecided  atomic.Bool  // the last comparison found no majority
	tails      sync.Map     // keys.ReplicaID: tail, what the range's witnesses said of their logs
	cutShort   atomic.Bool  // this witness had to drop too much of its log, and says so until it is mended
	atRisk     atomic.Bool  // a witness had to drop what only one failure domain has (S22)
	size       atomic.Int64 // as last measured
	load       load
	hotSaid    time.Time    // when a hot spot was mentioned; whoever is busy with the range owns it
	leaseAsked time.Time    // when the next range's lease was asked for; as hotSaid
	metaGen    atomic.Int64 // generation that the meta record is known to have
	follows    closedReads  // what it may serve without the lease (S24)
	gone       sync.Map     // keys.ReplicaID: members that their node has removed for good (S18)
}

// noteGone remembers that a member's node has removed it for good. It can't come back under its ID.
func (r *rep) noteGone(id keys.ReplicaID) { r.gone.Store(id, true) }

var (
	_ replica.Group = (*rep)(nil)
	_ group.Events  = (*rep)(nil)
)

// start opens a recorded replica.
func (s *Store) start(rec replicaRecord) (*rep, error) {
	return s.startWith(rec, nil)
}

// startWith opens a recorded replica; inherited is what a split left in memory.
func (s *Store) startWith(rec replicaRecord, inherited *replica.SplitState) (*rep, error) {
	r := &rep{s: s, rangeID: rec.rangeID, id: rec.replica, witness: rec.witness, inherited: inherited, admin: newLock()}
	log, err := s.log.RaftLog(rec.rangeID, rec.replica)
	if err != nil {
		return nil, err
	}
	st, err := group.LoadState(s.state, rec.rangeID)
	if err != nil {
		return nil, err
	}
	r.trans, err = s.cfg.Router.Add(raftnet.RangeConfig{
		Range: rec.rangeID, Replica: rec.replica, Witness: rec.witness,
		AppliedTerm: func() uint64 {
			if g := r.group.Load(); g != nil {
				return g.AppliedTerm()
			}
			return 0
		},
		GetLog: func(index uint64, l *raft.Log) error {
			if g := r.group.Load(); g != nil {
				return g.GetLog(index, l)
			}
			return raft.ErrLogNotFound
		},
		Served: func() hlc.Timestamp {
			if rr := r.replica.Load(); rr != nil {
				return rr.Served()
			}
			return hlc.Timestamp{}
		},
	})
	if err != nil {
		return nil, err
	}
	if rec.state == recordMute {
		r.trans.Mute()
		r.distrusted.Store(true)
	}
	if st.Initialized() {
		r.initialize(&st)
	}
	g, err := group.Open(group.Config{
		RangeID: rec.rangeID, Replica: rec.replica, Node: s.cfg.Node, Witness: rec.witness, State: s.state, Log: log,
		Transport: r.trans, Bind: r.trans.SetRaft, Lease: r.transportLease, Events: r,
		OnLead: r.onLead, OnLost: r.onLost, SendSnapshot: r.sendSnapshot,
		OnFatal: s.cfg.OnFatal, Logger: s.cfg.Logger, ShortLog: s.cfg.ShortLog, PlantSkipTermCheck: s.cfg.PlantSkipTermCheck,
		RememberIDs: s.cfg.RememberIDs, PlantNoHorizon: s.cfg.PlantNoHorizon,
	})
	if err != nil {
		_ = r.trans.Close()
		return nil, err
	}
	r.group.Store(g)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		r.close()
		return nil, errClosed
	}
	s.replicas[rec.rangeID] = r
	s.sorted.Store(nil)
	s.mu.Unlock()
	if g.AppliedTerm() > 0 {
		// It may have become leader before the group was known here.
		if term, ok := g.Leading(); ok && g.AppliedTerm() == term {
			r.onLead(term)
		}
	}
	return r, nil
}

var errClosed = errors.New("store: the store is closed")

// initialize makes the request path, once the replica holds data.
func (r *rep) initialize(st *group.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.replica.Load() != nil {
		return
	}
	rr := replica.New(replica.Config{
		Desc: st.Desc, Node: r.s.cfg.Node, Group: r, Engine: r.s.state, Clock: r.s.cfg.Clock,
		Sender: &r.s.sender, Admin: r.s, Pushdown: r.s.cfg.Pushdown, GCThreshold: st.GCThreshold,
		Closed: r.closedState, Admit: r.s.admit, Metrics: r.s.replMet, Limits: r.s.cfg.Limits, Pause: r.s.cfg.Pause, PlantNoSupportCheck: r.s.cfg.PlantNoSupportCheck,
	})
	if r.quarantineOf(&st.Desc) != kv.Trusted {
		r.distrusted.Store(true)
	}
	rr.InheritSplit(r.inherited)
	r.inherited = nil
	if st.Frozen != nil {
		r.frozen.Store(st.Frozen)
		rr.OnFrozen()
	}
	r.replica.Store(rr)
}

func (r *rep) close() {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	r.mu.Unlock()
	if rr := r.replica.Load(); rr != nil {
		rr.OnLeaseLost() // answers those who wait
	}
	_ = r.trans.Close()
	if g := r.group.Load(); g != nil {
		g.Close()
	}
	if rr := r.replica.Load(); rr != nil {
		rr.Close()
	}
}

// desc returns the applied descriptor; nil before the first snapshot.
func (r *rep) desc() *kv.RangeDescriptor {
	if rr := r.replica.Load(); rr != nil {
		return rr.Desc()
	}
	return nil
}

func (r *rep) transportLease() replica.LeaseStatus {
	l := r.trans.Lease()
	return replica.LeaseStatus{Valid: l.Valid, Term: l.Term, ReadLimit: l.ReadLimit, Leader: l.Leader}
}

// Lease implements replica.Group.
func (r *rep) Lease() replica.LeaseStatus {
	if r.group.Load() == nil {
		return replica.LeaseStatus{}
	}
	return r.transportLease()
}

// Propose implements replica.Group.
func (r *rep) Propose(ctx context.Context, cmd *raftcmd.Command) (replica.Result, error) {
	g := r.group.Load()
	if g == nil {
		return replica.Result{}, fmt.Errorf("%w: the replica is starting", replica.ErrRejected)
	}
	if r.s.cfg.Pause != nil {
		r.s.cfg.Pause()
	}
	return g.Propose(ctx, cmd)
}

// LookupCommand implements replica.Group.
func (r *rep) LookupCommand(id [16]byte) (outcome []byte, applied bool, horizon int64) {
	if g := r.group.Load(); g != nil {
		return g.LookupCommand(id)
	}
	return nil, false, math.MaxInt64 // nothing is known
}

func (r *rep) onLead(term uint64) {
	rr := r.replica.Load()
	g := r.group.Load()
	if rr == nil || g == nil {
		return
	}
	if r.witness {
		r.s.spawn(func() { r.s.leadNoMore(r, term) })
		return // REQUIRES: S22
	}
	if r.distrusted.Load() {
		r.s.spawn(func() { r.s.handOver(r) })
		return // REQUIRES: S23. Without a tenure it serves nothing.
	}
	// REQUIRES: S4. The mark of a split holds for the right side's first leaseholder.
	rr.OnLease(term, r.trans.LowWater().Max(g.State().HighWater))
	r.recordLease(term)
	if r.distrusted.Load() { // meanwhile
		rr.OnLeaseLost()
	}
}

func (r *rep) onLost() {
	if rr := r.replica.Load(); rr != nil {
		rr.OnLeaseLost()
	}
}

// leads reports whether this node holds the lease, and its term.
func (r *rep) leads() (uint64, bool) {
	l := r.Lease()
	return l.Term, l.Valid
}

// hasLeader reports whether this replica follows a leader. One that took entries from whoever won the
// election for which it stood itself stays a candidate to raft, and goes on naming that leader when
// nobody speaks to it any more: it may have been removed.
func (r *rep) hasLeader() bool {
	if r.trans.Leader() == 0 {
		return false
	}
	rf := r.group.Load().Raft()
	return rf == nil || rf.State() != raft.Candidate
}

// SplitApplied implements group.Events.
func (r *rep) SplitApplied(split raftcmd.SplitTrigger, gc hlc.Timestamp) {
	rr := r.replica.Load()
	if rr == nil {
		return
	}
	_, leads := r.group.Load().Leading()
	state := rr.OnSplit(split.Left, split.Right)
	r.s.metrics.splits.Inc()
	r.s.spawn(func() { r.s.adoptRight(&split.Left, &split.Right, state, leads) })
}

// DescriptorApplied implements group.Events.
func (r *rep) DescriptorApplied(desc kv.RangeDescriptor) {
	if rr := r.replica.Load(); rr != nil {
		rr.OnDescriptor(desc)
	} else if g := r.group.Load(); g != nil {
		st := g.State()
		r.initialize(&st)
	}
	if q := r.quarantineOf(&desc); q != kv.Trusted {
		r.distrust(q)
	}
	if desc.RangeID == keys.MetaRangeID {
		r.s.spawn(func() { r.s.learnMeta(desc) })
	}
}

// GCThresholdApplied implements group.Events.
func (r *rep) GCThresholdApplied(ts hlc.Timestamp) {
	if rr := r.replica.Load(); rr != nil {
		rr.OnGCThreshold(ts)
	}
}

// DigestRequested implements group.Events.
func (r *rep) DigestRequested(id raftcmd.ID, pos group.Position, snap *storage.Snapshot) {
	if !r.s.spawn(func() { r.s.digest(r.rangeID, id, pos, snap) }) {
		_ = snap.Close()
	}
}

// info returns the applied index and an estimate of the range's size.
func (r *rep) info() (applied uint64, bytes int64) {
	g, d := r.group.Load(), r.desc()
	if g == nil {
		return 0, 0
	}
	if d == nil {
		return g.AppliedIndex(), 0
	}
	n, err := r.s.state.DiskUsage(keys.Span{Key: dataStart(d), EndKey: d.End})
	if err != nil {
		n = r.size.Load()
	}
	r.size.Store(n)
	return g.AppliedIndex(), n
}

func dataStart(d *kv.RangeDescriptor) keys.Key {
	if d.Start.Less(keys.MetaMin) {
		return keys.MetaMin
	}
	return d.Start
}

// Info implements replica.Admin.
func (s *Store) Info(rr *replica.Replica) (applied uint64, bytes, batchesPerSecond int64) {
	if r := s.get(rr.RangeID()); r != nil {
		applied, bytes = r.info()
		batchesPerSecond = int64(math.Round(r.load.batchesPerSecond()))
	}
	return applied, bytes, batchesPerSecond
}
