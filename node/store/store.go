package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/storage"
)

// Store holds a node's replicas. It is safe for concurrent use.
type Store struct {
	cfg      Config
	state    *storage.StateEngine
	log      *storage.LogEngine
	logger   *slog.Logger
	metrics  *metrics
	replMet  *replica.Metrics
	sender   lateSender
	snapshot *group.Sender
	receiver *group.Receiver

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // goroutines of the store; raised under mu while not closed

	mu       sync.RWMutex
	closed   bool
	replicas map[keys.RangeID]*rep
	sorted   atomic.Pointer[[]*rep] // replicas by range; nil after a change to them

	structure lock // serialises what makes and removes replicas

	neighbours neighbours

	metaDesc atomic.Pointer[kv.RangeDescriptor]
	draining atomic.Bool
	full     atomic.Bool
	digests  digests
	reading  lock                   // digests are made one at a time
	health   health                 // guarded by mu
	findings []Finding              // guarded by mu
	seen     map[keys.NodeID]status // what nodes said they have; guarded by mu
	said     struct {               // troubles mentioned since; guarded by mu
		since time.Time
		n     int
	}
	shedding atomic.Bool
	starts   starts
	merging  atomic.Bool  // a merge by itself is under way
	mergedAt atomic.Int64 // when the last one ended, Unix nanoseconds

	asking   atomic.Bool
	fresh    atomic.Bool             // seen is new
	planSoon atomic.Bool             // a change was carried out, or the rules are others
	rules    atomic.Pointer[ruleSet] // nil: not known yet
	turn     uint64                  // the maintenance goroutine's
	stuck    atomic.Int64
	cpu      atomic.Uint64 // what the ranges cost here, in cores, as float64 bits
	free     atomic.Int64
	out, in  pacer // of snapshots
}

// lateSender is the way to other ranges; it is set after the store is open, because it needs
// the store itself.
type lateSender struct{ p atomic.Pointer[kv.Sender] }

// Send implements kv.Sender.
func (l *lateSender) Send(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	s := l.p.Load()
	if s == nil {
		return nil, &kv.UnavailableError{RangeID: ba.RangeID, Detail: "the node is still starting"}
	}
	return (*s).Send(ctx, ba)
}

// Open starts every replica that the local records name. Call Start when the sender stands.
func Open(cfg Config) (*Store, error) {
	cfg.ensureDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, state: cfg.Engines.State, log: cfg.Engines.Log, logger: cfg.Logger.With("node", cfg.Node),
		replicas: map[keys.RangeID]*rep{}, structure: newLock(), reading: newLock()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if !cfg.AwaitRules {
		s.rules.Store(&ruleSet{})
	}
	var err error
	if s.metrics, err = newMetrics(cfg.Registerer, s); err != nil {
		return nil, err
	}
	if s.replMet, err = replica.NewMetrics(cfg.Registerer); err != nil {
		return nil, err
	}
	if d, err := loadMetaDesc(s.log); err != nil {
		return nil, err
	} else if d != nil {
		s.metaDesc.Store(d)
	}
	s.out.perSecond, s.in.perSecond = cfg.SnapshotBytesPerSecond, cfg.SnapshotBytesPerSecond
	s.snapshot = group.NewSender(cfg.Network, func(id raft.ServerID) (keys.NodeID, bool) {
		n, _, err := raftnet.ParseServerID(id)
		return n, err == nil
	}, s.snapshotSent)
	if err := s.recover(); err != nil {
		s.Close()
		return nil, fmt.Errorf("store: recovery: %w", err)
	}
	s.receiver = group.NewReceiver(cfg.Network, s.state, s, s.snapshotReceived)
	s.handle()
	return s, nil
}

// recover brings the engines to what the local records say and starts the replicas.
func (s *Store) recover() error {
	if err := s.found(); err != nil {
		return err
	}
	recs, err := listRecords(s.log)
	if err != nil {
		return err
	}
	have := map[keys.RangeID]bool{}
	for _, r := range recs {
		have[r.rangeID] = true
		if r.state == recordRemoving {
			if err := s.finishRemoval(r, nil); err != nil {
				return err
			}
			continue
		}
		if _, merged, err := group.MergedInto(s.state, r.rangeID); err != nil {
			return err
		} else if merged {
			if err := s.forgetMerged(r.rangeID, r.replica); err != nil {
				return err
			}
			continue
		}
		if err := s.recoverSplits(r.rangeID, &recs, have); err != nil {
			return err
		}
	}
	if recs, err = listRecords(s.log); err != nil {
		return err
	}
	if err := s.frozenFirst(recs); err != nil {
		return err
	}
	for _, r := range recs {
		if _, err := s.start(r); err != nil {
			return err
		}
	}
	return s.removeOrphans(recs)
}

// recoverSplits records right sides that a crash left unrecorded (S20).
func (s *Store) recoverSplits(left keys.RangeID, _ *[]replicaRecord, have map[keys.RangeID]bool) error {
	pending, err := group.PendingSplits(s.state, left)
	if err != nil {
		return err
	}
	for i := range pending {
		right := &pending[i]
		if !have[right.RangeID] {
			if err := s.recordRight(right); err != nil {
				return err
			}
			have[right.RangeID] = true
			if err := s.recoverSplits(right.RangeID, nil, have); err != nil {
				return err
			}
		}
		if err := group.ClearPendingSplit(s.state, left, right.RangeID); err != nil {
			return err
		}
	}
	return nil
}

// removeOrphans deletes logs without a record (S16). State without a record can't be told
// from the data of a neighbour by its keys; a replica that is made anew clears its span.
func (s *Store) removeOrphans(recs []replicaRecord) error {
	live := map[storage.ReplicaLog]bool{}
	for _, r := range recs {
		live[storage.ReplicaLog{Range: r.rangeID, Replica: r.replica}] = true
	}
	logs, err := s.log.ListRaftLogs()
	if err != nil {
		return err
	}
	for _, l := range logs {
		if live[l] {
			continue
		}
		s.logger.Warn("removing a raft log without a replica", "range", l.Range, "replica", l.Replica)
		if err := s.log.UpdateLocal(func(u *storage.LocalUpdate) error { return u.RemoveLog(l.Range, l.Replica) }); err != nil {
			return err
		}
	}
	return nil
}

// found makes the first ranges of a new cluster (S28): byte for byte the same on each member.
func (s *Store) found() error {
	if s.cfg.Plan == nil {
		return nil
	}
	if _, done, err := s.log.GetLocal([]byte(foundedKey)); err != nil || done {
		return err
	}
	p := s.cfg.Plan
	b := s.state.NewBatch()
	defer b.Close()
	ranges := p.InitialRanges()
	for i := range ranges {
		if err := group.WriteInitialState(b, &ranges[i], hlc.Timestamp{}, hlc.Timestamp{}); err != nil {
			return err
		}
	}
	for _, d := range p.InitialData() {
		if in, err := mvcc.Put(b, d.Key, p.Timestamp(), d.Value, false, mvcc.PutOptions{}); err != nil || in != nil {
			return fmt.Errorf("store: founding: %s: intent %v: %w", d.Key, in, err)
		}
	}
	// A crash before the records below repeats all of this: begin from nothing.
	var member bool
	for i := range ranges {
		if _, ok := ranges[i].Replica(s.cfg.Node); ok {
			member = true
			if err := group.ClearData(s.state, ranges[i].RangeID, group.DataSpans(ranges[i].Start, ranges[i].End)...); err != nil {
				return err
			}
		}
	}
	if member {
		if err := s.state.Commit(b); err != nil {
			return err
		}
		if err := s.state.Flush(); err != nil {
			return err
		}
	}
	return s.log.UpdateLocal(func(u *storage.LocalUpdate) error {
		for i := range ranges {
			r, ok := ranges[i].Replica(s.cfg.Node)
			if !ok {
				continue
			}
			if err := setRecord(u, replicaRecord{rangeID: ranges[i].RangeID, replica: r.Replica}); err != nil {
				return err
			}
		}
		if err := u.Set([]byte(metaDescKey), kv.EncodeRangeDescriptor(nil, &ranges[0])); err != nil {
			return err
		}
		s.metaDesc.Store(&ranges[0])
		return u.Set([]byte(foundedKey), []byte{recordVersion})
	})
}

// Start begins the store's own work. sender reaches every range of the cluster.
func (s *Store) Start(sender kv.Sender) {
	s.sender.p.Store(&sender)
	s.spawn(s.maintain)
	s.spawn(s.spreadMeta)
	s.spawn(s.compareRanges)
	s.spawn(s.closeTimestamps)
}

// Close stops everything. The engines stay open. The router may be closed before or after.
func (s *Store) Close() {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	all := make([]*rep, 0, len(s.replicas))
	for _, r := range s.replicas {
		all = append(all, r)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, r := range all {
		wg.Go(r.close)
	}
	wg.Wait()
	if s.receiver != nil {
		s.receiver.Close()
	}
	s.wg.Wait()
	// A split that was being registered may have started one more.
	for _, r := range s.all() {
		r.close()
	}
	s.metrics.close()
}

// spawn runs fn in a goroutine that Close waits for; not once closed.
func (s *Store) spawn(fn func()) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return false
	}
	s.wg.Go(fn)
	return true
}

func (s *Store) get(id keys.RangeID) *rep {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.replicas[id]
}

// all returns the replicas, by range. The list is shared: nobody changes it.
func (s *Store) all() []*rep {
	if l := s.sorted.Load(); l != nil {
		return *l
	}
	s.mu.RLock()
	defer s.mu.RUnlock() // a change to replicas waits, and then drops the list kept here
	out := make([]*rep, 0, len(s.replicas))
	for _, r := range s.replicas {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *rep) int { return cmp.Compare(a.rangeID, b.rangeID) })
	s.sorted.Store(&out)
	return out
}

// Send implements kv.Sender for the ranges of this node: the batch names one.
func (s *Store) Send(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	r := s.get(ba.RangeID)
	if r == nil {
		return nil, s.notHere(ba)
	}
	if r.witness {
		// REQUIRES: S22. Whoever may serve without a lease must not be one either.
		return nil, &kv.NotLeaseholderError{RangeID: ba.RangeID, Desc: r.desc(), Reason: "this replica is a witness: it has no data"}
	}
	rr := r.replica.Load()
	if rr == nil {
		return nil, &kv.NotLeaseholderError{RangeID: ba.RangeID, Reason: "the replica waits for its first snapshot"}
	}
	br, err := rr.Send(ctx, ba)
	if err == nil {
		r.load.count(ba, s.cfg.Node)
	}
	if err != nil && r.mergedAway.Load() {
		var out *kv.NotLeaseholderError
		if errors.As(err, &out) {
			return nil, s.notHere(ba)
		}
	}
	var mismatch *kv.RangeKeyMismatchError
	if errors.As(err, &mismatch) {
		// S29: a stale sender learns what this node knows.
		out := *mismatch
		out.Descs = s.overlapping(mismatch.Span, mismatch.Descs)
		return nil, &out
	}
	return br, err
}

// overlapping adds to descs those of this node's replicas that hold keys of the span.
func (s *Store) overlapping(span keys.Span, descs []kv.RangeDescriptor) []kv.RangeDescriptor {
	out := append([]kv.RangeDescriptor(nil), descs...)
	for _, r := range s.all() {
		d := r.desc()
		if d == nil || r.mergedAway.Load() || !(keys.Span{Key: d.Start, EndKey: d.End}).Overlaps(span) {
			continue
		}
		known := false
		for i := range out {
			known = known || out[i].RangeID == d.RangeID
		}
		if !known {
			out = append(out, d.Clone())
		}
	}
	return out
}

// RangeAt returns the range that holds a key, if this node has a replica of it, as that knows it.
func (s *Store) RangeAt(key keys.Key) (kv.RangeDescriptor, bool) {
	for _, r := range s.all() {
		if d := r.desc(); d != nil && !r.witness && d.Contains(key) && !r.mergedAway.Load() {
			return d.Clone(), true
		}
	}
	return kv.RangeDescriptor{}, false
}

// MetaSeed returns the meta range's descriptor as this node knows it (S29).
func (s *Store) MetaSeed() (kv.RangeDescriptor, bool) {
	if r := s.get(keys.MetaRangeID); r != nil {
		if d := r.desc(); d != nil {
			return d.Clone(), true
		}
	}
	if d := s.metaDesc.Load(); d != nil {
		return d.Clone(), true
	}
	return kv.RangeDescriptor{}, false
}

// neighbours remembers what Neighbours found, and in which descriptors: liveness asks several
// times a second, and they hardly ever change.
type neighbours struct {
	mu    sync.Mutex
	descs []*kv.RangeDescriptor // of all(), in its order
	nodes []keys.NodeID         // sorted
}

// Neighbours returns the nodes that share a range with this one, in order; liveness asks.
// The list is shared: nobody changes it.
func (s *Store) Neighbours() []keys.NodeID {
	n := &s.neighbours
	n.mu.Lock()
	defer n.mu.Unlock()
	all := s.all()
	same := len(all) == len(n.descs)
	for i := 0; same && i < len(all); i++ {
		same = all[i].desc() == n.descs[i]
	}
	if same {
		return n.nodes
	}
	n.descs = make([]*kv.RangeDescriptor, len(all))
	n.nodes = nil // handed out: not written to again
	for i, r := range all {
		d := r.desc()
		if n.descs[i] = d; d == nil {
			continue
		}
		for _, rd := range d.Replicas {
			if at, ok := slices.BinarySearch(n.nodes, rd.Node); !ok {
				n.nodes = slices.Insert(n.nodes, at, rd.Node)
			}
		}
	}
	return n.nodes
}

// RangeInfo describes one replica for status pages.
type RangeInfo struct {
	Desc        kv.RangeDescriptor
	Replica     keys.ReplicaID
	Leader      keys.NodeID
	Lease       bool
	Term        uint64
	Applied     uint64
	Bytes       int64
	Initialized bool
	Witness     bool // it has none of the range's data
}

// Ranges describes all replicas of this node.
func (s *Store) Ranges() []RangeInfo {
	var out []RangeInfo
	for _, r := range s.all() {
		i := RangeInfo{Replica: r.id, Witness: r.witness}
		if d := r.desc(); d != nil {
			i.Desc, i.Initialized = d.Clone(), true
		} else {
			i.Desc.RangeID = r.rangeID
		}
		l := r.Lease()
		i.Lease, i.Leader, i.Term = l.Valid, l.Leader, l.Term
		i.Applied, i.Bytes = r.info()
		out = append(out, i)
	}
	return out
}

// Leases calls f for every replica of this node with what it knows of the range's lease now.
// It is cheaper than Ranges.
func (s *Store) Leases(f func(keys.RangeID, replica.LeaseStatus)) {
	for _, r := range s.all() {
		f(r.rangeID, r.Lease())
	}
}

// sleep waits, unless the store closes.
func (s *Store) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}
