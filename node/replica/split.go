package replica

import (
	"context"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/concurrency"
)

// Frozen is a range in which nothing is evaluated: the exclusive latch of a split or merge (S20).
type Frozen struct {
	// Term is the tenure's: the command must carry it (S5).
	Term uint64
	// HighWater is the highest timestamp at which anything was read, or promised closed.
	HighWater hlc.Timestamp

	t *tenure
	g *concurrency.LatchGuard
}

// everything is latched by Freeze: all keys, the range-local ones too.
var everything = keys.Span{Key: keys.MinKey, EndKey: keys.Key{0xff, 0xff, 0xff}}

// Freeze latches the whole range exclusively: it returns when every evaluation is over and
// every command applied. Call Release when the structure change is applied or rejected.
func (r *Replica) Freeze(ctx context.Context) (*Frozen, error) {
	t, _, err := r.lease()
	if err != nil {
		return nil, err
	}
	g, err := t.latches.Acquire(ctx, t.over, []concurrency.LatchSpan{{Span: everything, Access: concurrency.Exclusive}})
	if err != nil {
		return nil, r.waitError(err)
	}
	if _, ok := r.still(t); !ok {
		t.latches.Release(g)
		return nil, r.lost()
	}
	return &Frozen{Term: t.term, HighWater: t.tscache.Max(), t: t, g: g}, nil
}

// Release ends the freeze.
func (f *Frozen) Release() { f.t.latches.Release(f.g) }

// SplitState is what the right side of a split takes over in memory on the node where it was made.
type SplitState struct {
	lowWater hlc.Timestamp
	from     *concurrency.TSCache
	locks    []concurrency.HeldLock
}

// OnSplit says that the split of this range was applied: it takes the left bounds, and what
// belongs to the right ones is returned. On a leaseholder the range is frozen meanwhile.
// The state may be nil where this node holds no lease.
func (r *Replica) OnSplit(left, right kv.RangeDescriptor) *SplitState {
	r.OnDescriptor(left)
	t := r.tenure.Load()
	if t == nil {
		return nil
	}
	return &SplitState{lowWater: t.tscache.Max(), from: t.tscache, locks: t.locks.TakeFrom(right.Start)}
}

// InheritSplit gives a new right side what OnSplit returned on the same node. It takes effect
// if this node is its first leaseholder; the marks of S4 hold without it.
func (r *Replica) InheritSplit(s *SplitState) {
	if s == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tenure.Load(); t != nil {
		s.install(t)
		return
	}
	r.inherited = s
}

// install adds the state to a tenure. Locks that are out of date do no harm: who waits for
// one asks about its holder.
func (s *SplitState) install(t *tenure) {
	t.tscache.RaiseLowWater(s.lowWater)
	t.tscache.Inherit(s.from)
	t.locks.Put(s.locks)
}
