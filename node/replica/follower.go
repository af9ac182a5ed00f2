package replica

import (
	"fmt"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/kv"
)

// ClosedState is what a replica may serve without the lease (S24).
type ClosedState struct {
	// Timestamp: all that will ever be written at or below it is applied here. Zero: it must serve
	// nothing, or nobody has promised anything.
	Timestamp hlc.Timestamp
	// GCThreshold is the applied one (S25): it covers all whose removal can be seen here.
	GCThreshold hlc.Timestamp
	// Tenancy names the time between two changes of the replica's state other than by its log, such
	// as a snapshot. Compare it with ==.
	Tenancy any
}

// serves reports whether a read at ts may be answered.
func (c *ClosedState) serves(ts hlc.Timestamp) bool {
	return !c.Timestamp.IsEmpty() && ts.LessEq(c.Timestamp)
}

// closedState returns what may be served here without the lease.
func (r *Replica) closedState() ClosedState {
	if r.cfg.Closed == nil {
		return ClosedState{}
	}
	return r.cfg.Closed()
}

// canFollow reports whether a batch is one that a replica without the lease may answer.
func (x *execution) canFollow() bool {
	ba := x.ba
	if !ba.FollowerRead || ba.CanForwardReadTimestamp || len(ba.RefreshSpans) > 0 {
		return false
	}
	for _, req := range ba.Requests {
		switch req := req.(type) {
		case *kv.GetRequest:
			if req.Lock != kv.LockNone {
				return false
			}
		case *kv.ScanRequest:
			if req.Lock != kv.LockNone {
				return false
			}
		default:
			return false
		}
	}
	if x.txn != nil {
		return len(x.txn.Key) == 0 // else it may have written what has not arrived here
	}
	return !ba.Timestamp.IsEmpty()
}

// follow answers a read of the past from a replica without the lease. REQUIRES: S24. What is written
// at or below the closed timestamp is applied; an intent may stand for a write whose end is not known
// here, so that only the leaseholder can tell.
//
// Nothing is latched. What lies at or below the closed timestamp changes only by the resolution of
// intents, which each read sees or not as a whole; by garbage collection, which the threshold shows
// afterwards; and where the replica itself is changed, which shows in the descriptor and the tenancy.
func (x *execution) follow() (*kv.BatchResponse, error) {
	r := x.r
	x.timestamp, x.fixed = x.ba.Timestamp, true
	at := x.readTimestamp()
	if x.txn != nil {
		at = at.Max(x.txn.UncertaintyLimit)
	}
	before := r.closedState()
	if !before.serves(at) {
		return nil, x.refer(fmt.Sprintf("timestamp %s is not closed here (%s)", at, before.Timestamp))
	}
	env := x.env()
	env.ReadLimit = at // it never moves
	res, err := x.timed(env, false)
	if r.cfg.Pause != nil {
		r.cfg.Pause()
	}
	if err != nil {
		return nil, x.answerable(err)
	}
	after := r.closedState()
	if gc := after.GCThreshold.Max(r.GCThreshold()); !gc.IsEmpty() && x.readTimestamp().LessEq(gc) {
		return nil, &kv.BelowGCThresholdError{Timestamp: x.readTimestamp(), Threshold: gc} // S25
	}
	switch {
	case !after.serves(at) || after.Tenancy != before.Tenancy || r.desc.Load() != x.desc:
		return nil, x.refer("the replica changed while it was read")
	case len(res.Intents) > 0:
		return nil, x.refer(fmt.Sprintf("an intent lies at or below %s", at))
	}
	r.metrics.followerReads.Inc()
	return x.response(env, &res), nil
}

// refer sends a batch to the leaseholder.
func (x *execution) refer(why string) error {
	x.r.metrics.followerRefusals.Inc()
	return x.r.notLeaseholder(x.r.cfg.Group.Lease().Leader, why)
}

// freshest returns the newest timestamp at which this replica may answer reads now: its clock, or what
// its lease covers, if it has that; zero if it may answer none.
func (r *Replica) freshest() hlc.Timestamp {
	if _, l, err := r.lease(); err == nil {
		if now := r.cfg.Clock.Now(); now.Less(l.ReadLimit) {
			return now
		}
		return l.ReadLimit
	}
	return r.closedState().Timestamp
}
