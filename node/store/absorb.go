package store

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

// What a merge does to the replicas of a node (SAFETY S20): how the right side's replica ends.

// FrozenApplied implements group.Events.
func (r *rep) FrozenApplied(t *raftcmd.FreezeTrigger) {
	r.frozen.Store(t)
	rr := r.replica.Load()
	if rr == nil {
		return
	}
	if t != nil {
		rr.OnFrozen()
		return
	}
	if !rr.OnUnfrozen() {
		return
	}
	g := r.group.Load()
	if g == nil {
		return
	}
	if term, ok := g.Leading(); ok && g.AppliedTerm() == term {
		r.onLead(term) // nothing was reported while it was frozen
	}
}

// Absorb implements group.Events.
func (r *rep) Absorb(right keys.RangeID) (*group.Absorbed, error) {
	o := r.s.get(right)
	if o == nil || o.group.Load() == nil {
		return nil, fmt.Errorf("store: node %d has no replica of range %d, which range %d is to take in", r.s.cfg.Node, right, r.rangeID)
	}
	return o.group.Load().Absorb()
}

// MergeApplied implements group.Events.
func (r *rep) MergeApplied(merge raftcmd.MergeTrigger, gc hlc.Timestamp) {
	right := r.s.get(merge.Right)
	if rr := r.replica.Load(); rr != nil {
		rr.OnGCThreshold(gc)
		var from *replica.Replica
		if right != nil {
			from = right.replica.Load()
		}
		rr.OnMerge(merge.Merged, from, merge.HighWater)
	}
	r.s.metrics.merges.Inc()
	if right != nil {
		right.mergedAway.Store(true)
		r.s.spawn(func() { r.s.dropMerged(right) })
	}
}

// dropMerged removes what is left of a replica whose range was merged away: its raft group, log and
// record. Its keys belong to the left side.
func (s *Store) dropMerged(r *rep) {
	// REQUIRES: S16, S20. No log goes before the merge is durable: the left side's log, applied anew
	// after a crash, would find no right side.
	if err := s.state.Flush(); err != nil {
		return // the engine has told the process
	}
	s.structure.Lock()
	defer s.structure.Unlock()
	if s.get(r.rangeID) != r {
		return
	}
	r.close()
	if err := s.forgetMerged(r.rangeID, r.id); err != nil {
		if s.ctx.Err() == nil {
			s.cfg.OnFatal(fmt.Errorf("store: replica %d of range %d, which was merged away: %w", r.id, r.rangeID, err))
		}
		return
	}
	s.mu.Lock()
	if s.replicas[r.rangeID] == r {
		delete(s.replicas, r.rangeID)
		s.sorted.Store(nil)
	}
	s.mu.Unlock()
}

// forgetMerged removes log and record of a replica whose range was merged away, durably. The tombstone
// is for good: the range will never be again (S18).
func (s *Store) forgetMerged(id keys.RangeID, replica keys.ReplicaID) error {
	err := s.log.UpdateLocal(func(u *storage.LocalUpdate) error {
		return errors.Join(setTombstone(u, id, math.MaxInt64), u.RemoveLog(id, replica), u.Delete(recordKey(replicaPrefix, id)))
	})
	if err != nil {
		return err
	}
	s.metrics.removals.Inc()
	return group.ForgetMerged(s.state, id)
}

// frozenFirst orders records so that ranges which others may take in are started before those.
func (s *Store) frozenFirst(recs []replicaRecord) error {
	frozen := map[keys.RangeID]bool{}
	for _, r := range recs {
		f, err := group.IsFrozen(s.state, r.rangeID)
		if err != nil {
			return err
		}
		frozen[r.rangeID] = f
	}
	slices.SortStableFunc(recs, func(a, b replicaRecord) int {
		rank := func(r replicaRecord) int {
			if frozen[r.rangeID] {
				return 0
			}
			return 1
		}
		return cmp.Compare(rank(a), rank(b))
	})
	return nil
}

// mergedInto reports whether a descriptor shows that its range has taken this replica's in: that range
// ended where this one begins when this one was frozen for it, and goes on beyond that now. It may have
// been split inside this one since.
func (r *rep) mergedInto(desc *kv.RangeDescriptor) bool {
	f, d := r.frozen.Load(), r.desc()
	return f != nil && d != nil && f.Left == desc.RangeID && desc.Generation > f.LeftGeneration &&
		desc.Contains(d.Start)
}

// Swallowed implements group.Host.
func (s *Store) Swallowed(desc *kv.RangeDescriptor) ([]*group.Group, error) {
	var out []*group.Group
	for _, r := range s.all() {
		if r.rangeID == desc.RangeID || r.mergedAway.Load() || !r.mergedInto(desc) {
			continue
		}
		g := r.group.Load()
		if g == nil {
			return nil, fmt.Errorf("store: the replica of range %d is starting; try again", r.rangeID)
		}
		out = append(out, g)
	}
	return out, nil
}

// SnapshotSwallowed implements group.Host.
func (s *Store) SnapshotSwallowed(desc *kv.RangeDescriptor, rights []keys.RangeID) {
	for _, id := range rights {
		r := s.get(id)
		if r == nil {
			continue
		}
		s.logger.Info("a snapshot took in the replica of a range that was merged away", "range", desc.RangeID, "right", id)
		s.metrics.merges.Inc()
		r.mergedAway.Store(true)
		s.spawn(func() { s.dropMerged(r) })
	}
}

// mergedSince reports whether a range was merged away, by what meta says of its first key, which never
// changes: a younger range holds it. A record that was there before the range was split off is older.
func (s *Store) mergedSince(d, now *kv.RangeDescriptor) bool {
	return now.RangeID != d.RangeID && now.Generation > d.Generation
}

// dropLeftOver removes a replica whose range was merged away, where no replica of the merged range takes
// it in: its node was no member any more when the range was frozen, or has lost its part in the left side
// since. REQUIRES: mergedSince. Every member has durably applied the freeze before a merge (S20), so that
// one which has not was none, and nobody waits for it.
func (s *Store) dropLeftOver(r *rep) error {
	s.structure.Lock()
	defer s.structure.Unlock()
	if s.get(r.rangeID) != r || r.mergedAway.Load() {
		return nil
	}
	if f := r.frozen.Load(); f != nil {
		if left := s.get(f.Left); left != nil {
			if d := left.desc(); d == nil || d.Generation <= f.LeftGeneration {
				return nil // it will take this one in
			}
		}
	}
	s.logger.Info("a replica is left over from a range that was merged away", "range", r.rangeID, "replica", r.id)
	return s.removeLocked(r)
}

// notHere answers a batch for a range that has no replica here (any more). If a younger range here has
// the keys, the sender learns of that (S29).
func (s *Store) notHere(ba *kv.BatchRequest) error {
	notFound := &kv.RangeNotFoundError{RangeID: ba.RangeID, Node: s.cfg.Node}
	if len(ba.Requests) == 0 {
		return notFound
	}
	span := kv.RequestSpan(ba.Requests[0], ba.Txn)
	at, err := keys.Addr(span.Key)
	if err != nil {
		return notFound
	}
	for _, r := range s.all() {
		if d := r.desc(); d != nil && d.Contains(at) && d.RangeID != ba.RangeID && d.Generation > ba.Generation && !r.mergedAway.Load() {
			return &kv.RangeKeyMismatchError{Span: span, Descs: []kv.RangeDescriptor{d.Clone()}}
		}
	}
	return notFound
}
