package replica

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/concurrency"
)

// Replica serves one range's requests on one node. It is safe for concurrent use.
type Replica struct {
	cfg     Config
	limits  Limits
	metrics *Metrics

	desc atomic.Pointer[kv.RangeDescriptor]
	// gcThreshold is at least the applied one: it is raised before a GC command is proposed.
	gcMu        sync.Mutex
	gcThreshold atomic.Pointer[hlc.Timestamp]

	// tenure is nil while this node is not known to be leaseholder.
	tenure atomic.Pointer[tenure]

	mu        sync.Mutex // guards what follows, and changes of tenure
	closed    bool
	frozen    bool // for a merge (S20): no tenure begins
	inherited *SplitState
	served    hlc.Timestamp // the newest timestamp that earlier tenures of this node served
	lostTerm  uint64        // terms up to it never serve again

	resolver resolver

	evaluating atomic.Int64 // see EvaluationTime

	// ctx ends with Close; wg counts the goroutines.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// tenure is the state of one term as leaseholder. What is evaluated in it applies in its
// term or never (S5), so that the next tenure starts without it.
type tenure struct {
	term    uint64
	started hlc.Timestamp
	latches *concurrency.Latches
	locks   *concurrency.LockTable
	tscache *concurrency.TSCache
	queue   *concurrency.TxnQueue
	closing closedTracker
	running runningCommands
	// over is closed at the end: whoever waits answers NotLeaseholderError.
	over chan struct{}
}

// New makes a replica. It serves nothing before OnLease.
func New(cfg Config) *Replica {
	r := &Replica{cfg: cfg, limits: cfg.Limits.withDefaults(), metrics: cfg.Metrics}
	if r.metrics == nil {
		r.metrics, _ = newMetrics(nil)
	}
	desc := cfg.Desc.Clone()
	r.desc.Store(&desc)
	gc := cfg.GCThreshold
	r.gcThreshold.Store(&gc)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.resolver.init(r)
	return r
}

// RangeID returns the range's ID.
func (r *Replica) RangeID() keys.RangeID { return r.desc.Load().RangeID }

// Desc returns the range's descriptor as applied here. It must not be changed.
func (r *Replica) Desc() *kv.RangeDescriptor { return r.desc.Load() }

// Group returns the range's raft group.
func (r *Replica) Group() Group { return r.cfg.Group }

// GCThreshold returns the threshold below which reads fail (S25).
func (r *Replica) GCThreshold() hlc.Timestamp { return *r.gcThreshold.Load() }

// spawn runs fn in a goroutine that Close waits for, unless the replica is closed.
func (r *Replica) spawn(fn func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.wg.Go(fn)
	return true
}

// Close answers all who wait, and returns when every goroutine has ended. The group must end
// its proposals, or have ended, by then.
func (r *Replica) Close() {
	r.OnLeaseLost()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// OnLease says that this node holds the lease of a term; see seam.go.
func (r *Replica) OnLease(term uint64, lowWater hlc.Timestamp) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.tenure.Load(); r.closed || r.frozen || term <= r.lostTerm || (old != nil && term <= old.term) {
		return
	}
	r.endTenureLocked()
	// REQUIRES: S4. What this node itself served is covered by lowWater as well; it costs
	// nothing to be sure.
	mark := lowWater.Max(r.served)
	t := &tenure{
		term:    term,
		started: r.cfg.Clock.Now(),
		latches: concurrency.NewLatches(),
		locks: concurrency.NewLockTable(concurrency.LockLimits{Locks: r.limits.Locks, TxnLocks: r.limits.TxnLocks,
			Waiters: r.limits.LockWaiters}, time.Now),
		tscache: concurrency.NewTSCache(r.limits.TimestampCacheBytes, mark, r.endedBefore()),
		queue:   concurrency.NewTxnQueue(),
		over:    make(chan struct{}),
	}
	if in := r.inherited; in != nil {
		r.inherited = nil
		in.install(t)
	}
	r.tenure.Store(t)
}

// endedBefore bounds the birth of transactions that somebody else than their coordinators ended under a
// lease that is over. REQUIRES: S10; see concurrency.markers. Half the expiry would do as well as all of
// it (older transactions have records); the other half is left for clocks that are off, and for nodes
// with a shorter expiry.
func (r *Replica) endedBefore() hlc.Timestamp {
	return r.cfg.Clock.Now().Add(r.cfg.Clock.MaxOffset() - r.limits.TxnExpiry/2)
}

// OnLeaseLost says that the current term's lease is gone for good; see seam.go.
func (r *Replica) OnLeaseLost() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endTenureLocked()
}

func (r *Replica) endTenureLocked() {
	t := r.tenure.Load()
	if t == nil {
		return
	}
	r.tenure.Store(nil)
	r.lostTerm = max(r.lostTerm, t.term)
	r.served.Forward(t.tscache.Max())
	close(t.over)
}

// OnDescriptor says that another descriptor was applied.
func (r *Replica) OnDescriptor(desc kv.RangeDescriptor) {
	d := desc.Clone()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.desc.Load().Generation <= d.Generation {
		r.desc.Store(&d)
	}
}

// OnGCThreshold says that a garbage collection threshold was applied.
func (r *Replica) OnGCThreshold(ts hlc.Timestamp) {
	r.gcMu.Lock()
	defer r.gcMu.Unlock()
	if r.gcThreshold.Load().Less(ts) {
		r.gcThreshold.Store(&ts)
	}
}

// leaseStatus is what the group says of the lease.
func (r *Replica) leaseStatus() LeaseStatus {
	l := r.cfg.Group.Lease()
	if t := r.tenure.Load(); r.cfg.PlantNoSupportCheck && !l.Valid && l.Leader == r.cfg.Node && t != nil {
		l.Valid, l.Term, l.ReadLimit = true, t.term, hlc.MaxTimestamp
	}
	return l
}

// EvaluationTime is how long batches from other nodes have been evaluated here, all together. Waiting for
// locks and for replication does not count.
func (r *Replica) EvaluationTime() time.Duration { return time.Duration(r.evaluating.Load()) }

// Served returns a timestamp that nothing served here exceeds, in this tenure or an earlier one.
// It is exact for a lease that was given up before the call: what a request reads it notes before
// it looks at the lease (S4, S7).
func (r *Replica) Served() hlc.Timestamp {
	r.mu.Lock()
	defer r.mu.Unlock()
	ts := r.served
	if t := r.tenure.Load(); t != nil {
		ts.Forward(t.tscache.Max())
	}
	return ts
}

// lease returns the tenure in which a request may be evaluated now (S2 a-c).
func (r *Replica) lease() (*tenure, LeaseStatus, error) {
	l := r.leaseStatus()
	t := r.tenure.Load()
	switch {
	case t != nil && l.Valid && l.Term == t.term:
		return t, l, nil
	case l.Valid:
		return nil, l, r.notLeaseholder(r.cfg.Node, "the lease is being taken up")
	case l.Leader == r.cfg.Node:
		return nil, l, r.notLeaseholder(0, "this node leads without the support of a quorum")
	}
	return nil, l, r.notLeaseholder(l.Leader, "this node does not lead")
}

// still reports whether the lease of t is valid now: S2 b, after evaluation.
func (r *Replica) still(t *tenure) (LeaseStatus, bool) {
	l := r.leaseStatus()
	return l, l.Valid && l.Term == t.term && r.tenure.Load() == t
}

func (r *Replica) notLeaseholder(leader keys.NodeID, reason string) error {
	d := r.desc.Load()
	return &kv.NotLeaseholderError{RangeID: d.RangeID, Leaseholder: leader, Desc: d, Reason: reason}
}

// lost is the answer of those who waited when the lease ended.
func (r *Replica) lost() error {
	leader := r.cfg.Group.Lease().Leader
	if leader == r.cfg.Node {
		leader = 0
	}
	return r.notLeaseholder(leader, "the lease ended while the request waited")
}

// waitError turns the end of a wait into an answer.
func (r *Replica) waitError(err error) error {
	if errors.Is(err, concurrency.ErrClosed) {
		return r.lost()
	}
	return err
}
