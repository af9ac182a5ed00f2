package replica

import (
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/concurrency"
)

// OnFrozen says that the range was frozen for a merge (S20): it serves nothing from here on, in no
// tenure, and who waits is told to look elsewhere. What the tenure knew of reads and locks is kept
// for the range that takes this one in, or for the tenure after OnUnfrozen. On the leaseholder the
// command was proposed under the latch of Freeze, so that nothing is being evaluated; from here on
// Served says how far anything was read, and it grows no more.
func (r *Replica) OnFrozen() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frozen = true
	t := r.tenure.Load()
	if t == nil {
		return
	}
	// The term may serve again after OnUnfrozen: all that was evaluated in it is decided.
	lost := r.lostTerm
	r.endTenureLocked()
	r.lostTerm = lost
	r.inherited = &SplitState{lowWater: r.served, from: t.tscache, locks: t.locks.TakeFrom(keys.MinKey)}
}

// OnUnfrozen says that the range is not frozen, and reports whether it was: the caller then reports
// the lease anew, if this node has it.
func (r *Replica) OnUnfrozen() (was bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was, r.frozen = r.frozen, false
	return was
}

// OnMerge says that this range took in the one on its right, nothing of which was read above highWater: it
// takes the new bounds, and what the right side's last tenure knew, if that ended on this node with the
// freeze. The leaseholder is frozen meanwhile (Freeze).
func (r *Replica) OnMerge(merged kv.RangeDescriptor, right *Replica, highWater hlc.Timestamp) {
	var state *SplitState
	if right != nil {
		right.mu.Lock()
		state, right.inherited = right.inherited, nil
		right.mu.Unlock()
	}
	// Before the bounds: a request that finds itself in them must find the reads of before as well.
	if t := r.tenure.Load(); t != nil {
		t.tscache.RaiseLowWater(highWater) // REQUIRES: S4
		if state != nil {
			state.install(t)
		} else {
			// REQUIRES: S10. The right side's tenure had ended before the freeze was applied: only the
			// marks of a new leaseholder there stand for what it knew.
			t.tscache.Inherit(concurrency.NewTSCache(0, highWater, r.endedBefore()))
		}
	}
	r.OnDescriptor(merged)
}
