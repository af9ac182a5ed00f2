package store

import (
	"context"
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

const (
	// smallPart and quietPart: two ranges are merged only if together they have at most this part of the
	// size, and of the load, at which one range is split. The gap keeps what was merged from being split
	// soon after.
	smallPart = 4
	quietPart = 4
	// mergeAgain is how long a range is left alone after its merge was thought about, at most. One look
	// costs an estimate of two sizes.
	mergeAgain = 30 * time.Second
)

// mergeJobs merges a range with the next one, if both have been small, quiet and unchanged for a while,
// follow the same rule, and nobody asked for the boundary between them (S20). It runs in the maintenance
// goroutine of the left side's leaseholder.
func (s *Store) mergeJobs(r *rep, d *kv.RangeDescriptor, now time.Time) []job {
	quiet := s.cold(r, d, now) // kept up to date for the left neighbour as well
	if s.cfg.NoMerges || !quiet || d.RangeID == keys.MetaRangeID || !d.End.Less(keys.MaxKey) || s.full.Load() || s.draining.Load() ||
		now.Sub(r.q.lastMerge) < min(mergeAgain, s.cfg.MergeAfter) {
		return nil
	}
	r.q.lastMerge = now
	right := s.next(d, now)
	if right == nil || right.frozen.Load() != nil || right.distrusted.Load() {
		return nil
	}
	rd := right.desc()
	if rd.Pinned || mergeable(d, rd) != nil || !s.sameRule(d, rd) {
		return nil
	}
	if _, leads := right.leads(); leads && !s.cold(right, rd, now) {
		return nil
	}
	if s.merging.Load() || now.Sub(time.Unix(0, s.mergedAt.Load())) < s.cfg.MergeEvery {
		r.q.lastMerge = time.Time{} // it waits for its turn
		return nil
	}
	return []job{{"merge with the next range", s.mergeSmall}}
}

// starts finds a node's replicas by where they begin. It belongs to the maintenance goroutine.
type starts struct {
	at time.Time
	by map[string]*rep
}

// startsFor is how long what starts knows is believed; what has changed since is found later.
const startsFor = 10 * time.Second

// next is startingAt for the maintenance goroutine, which asks for every range.
func (s *Store) next(d *kv.RangeDescriptor, now time.Time) *rep {
	if now.Sub(s.starts.at) > startsFor {
		all := s.all()
		s.starts = starts{at: now, by: make(map[string]*rep, len(all))}
		for _, r := range all {
			if d := r.desc(); d != nil {
				s.starts.by[string(d.Start)] = r
			}
		}
	}
	r := s.starts.by[string(d.End)]
	if r == nil || r.mergedAway.Load() || s.get(r.rangeID) != r || !r.desc().Start.Equal(d.End) {
		return nil
	}
	return r
}

// cold reports whether a range has been quiet, and of one generation, for as long as it must be before
// a merge.
func (s *Store) cold(r *rep, d *kv.RangeDescriptor, now time.Time) bool {
	q := &r.q
	if q.coldSince.IsZero() || q.coldGeneration != d.Generation || r.load.batchesPerSecond() > float64(s.cfg.MaxRangeBatches)/quietPart/2 {
		q.coldSince, q.coldGeneration = now, d.Generation
	}
	return now.Sub(q.coldSince) >= s.cfg.MergeAfter
}

// sameRule reports whether one rule holds for all of two ranges.
func (s *Store) sameRule(l, r *kv.RangeDescriptor) bool {
	rs := s.rules.Load()
	if rs == nil {
		return false // not known yet
	}
	m := rs.policies
	return m == nil || m.Rule(l.Start) == m.Rule(r.Start) && len(m.Boundaries(l.Start, r.End)) == 0
}

// mergeSmall merges a range with the next one if they are small enough, one pair of a node at a time.
// Where the next one's lease is elsewhere it is brought here first, and the merge comes once it has been
// quiet here, too: what it serves only its leaseholder knows.
func (s *Store) mergeSmall(ctx context.Context, r *rep) error {
	if !s.merging.CompareAndSwap(false, true) {
		return nil
	}
	defer s.merging.Store(false)
	right := s.startingAt(r.desc().End)
	if right == nil {
		return nil
	}
	_, bytes := r.info()
	_, more := right.info()
	if bound := s.cfg.MaxRangeBytes / smallPart; bytes+more > bound {
		return nil
	}
	if _, leads := right.leads(); !leads {
		return s.bringLease(ctx, r, right)
	}
	why := fmt.Sprintf("together they had %d bytes, and had been quiet for %s; a range may have %d bytes", bytes+more, s.cfg.MergeAfter, s.cfg.MaxRangeBytes)
	_, err := s.mergeRight(ctx, r.replica.Load(), why)
	s.mergedAt.Store(time.Now().UnixNano())
	return proposeError(err)
}

// bringLease asks for the lease of the next range, so that the two can be merged. It asks again only when
// the merge should have come long ago: somebody has moved the lease away.
func (s *Store) bringLease(ctx context.Context, left, right *rep) error {
	now := time.Now()
	if now.Sub(left.leaseAsked) < 2*s.cfg.MergeAfter {
		return nil
	}
	left.leaseAsked = now
	d := right.desc()
	info, err := sendOne[*kv.LeaseInfoResponse](ctx, &s.sender, &kv.LeaseInfoRequest{Key: d.Start})
	if err != nil || info.BatchesPerSecond > s.cfg.MaxRangeBatches/quietPart/2 {
		return err
	}
	_, err = sendOne[*kv.AdminTransferLeaseResponse](ctx, &s.sender, &kv.AdminTransferLeaseRequest{Key: d.Start, Target: s.cfg.Node})
	return err
}
