package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/storage"
)

const (
	gcBatch         = 1000 // keys per command
	gcPause         = 5 * time.Millisecond
	pileupEvery     = 10 * time.Second
	pileupCommands  = 2000             // commands between two searches for piled up keys
	pileupScan      = 500_000          // versions looked at in one search
	pileupKeys      = 1000             // keys collected in one search
	orphanAge       = 30 * time.Second // before an intent is looked after
	orphanWait      = time.Second
	maxSplitScanned = 1 << 22
)

func (s *Store) gcJobs(r *rep, now time.Time, commands int64) []job {
	if r.q.lastGC.IsZero() {
		r.q.lastGC, r.q.lastPileup, r.q.lastWrite = now, now, now
		r.q.gcCommands, r.q.pileCommands = commands, commands
	}
	if commands != r.q.gcCommands {
		r.q.gcCommands, r.q.lastWrite, r.q.gcClean = commands, now, false
	}
	var jobs []job
	if now.Sub(r.q.lastPileup) > pileupEvery && commands-r.q.pileCommands >= pileupCommands {
		since := now.Sub(r.q.lastPileup)
		r.q.lastPileup, r.q.pileCommands = now, commands
		jobs = append(jobs, job{"collect piled-up versions", func(ctx context.Context, r *rep) error { return s.gcPileups(ctx, r, since) }})
	}
	if now.Sub(r.q.lastGC) > s.cfg.GCTTL/4 && !r.q.gcClean {
		r.q.lastGC = now
		jobs = append(jobs, job{"collect old versions", func(ctx context.Context, r *rep) error {
			if err := s.gcByAge(ctx, r); err != nil {
				return err
			}
			// The commands of garbage collection themselves must not bring the next one about.
			r.q.gcCommands = r.group.Load().Commands()
			r.q.gcClean = now.Sub(r.q.lastWrite) > s.cfg.GCTTL+2*s.cfg.Interval
			return nil
		}})
	}
	return jobs
}

// gcByAge collects versions that no read within the TTL can see, in the whole range.
func (s *Store) gcByAge(ctx context.Context, r *rep) error {
	threshold := s.cfg.Clock.Now().Add(-s.cfg.GCTTL)
	d := r.desc().Clone()
	span := keys.Span{Key: dataStart(&d), EndKey: d.End}
	raised := false
	for {
		snap, err := s.state.NewSnapshot()
		if err != nil {
			return err
		}
		found, rest, err := mvcc.FindGarbage(snap, span, threshold, gcBatch)
		if err := errors.Join(err, snap.Close()); err != nil {
			return err
		}
		if len(found) > 0 {
			if !raised {
				if err := s.raiseThreshold(ctx, r, &d, threshold); err != nil {
					return err
				}
				raised = true
			}
			if err := s.sendGC(ctx, r, &d, threshold, found); err != nil {
				return err
			}
		}
		if rest == nil {
			return s.cleanIntents(ctx, r, &d)
		}
		span = *rest
		if !s.sleep(gcPause) {
			return s.ctx.Err()
		}
	}
}

// cleanIntents reads the keys that carry old intents: the reader pushes their transaction,
// which is aborted if its coordinator has died, and resolves them (S13).
func (s *Store) cleanIntents(ctx context.Context, r *rep, d *kv.RangeDescriptor) error {
	snap, err := s.state.NewSnapshot()
	if err != nil {
		return err
	}
	intents, _, err := mvcc.ScanIntents(snap, keys.Span{Key: dataStart(d), EndKey: d.End}, gcBatch)
	if err := errors.Join(err, snap.Close()); err != nil {
		return err
	}
	old := s.cfg.Clock.Now().Add(-orphanAge)
	for _, in := range intents {
		if !in.Txn.WriteTimestamp.Less(old) {
			continue
		}
		// A transaction that lives on keeps the reader waiting: leave it alone then.
		ctx, cancel := context.WithTimeout(ctx, orphanWait)
		if _, err := sendOne[*kv.GetResponse](ctx, &s.sender, &kv.GetRequest{Key: in.Key}); err == nil {
			s.metrics.orphans.Inc()
		}
		cancel()
	}
	return nil
}

// raiseThreshold moves the replicated threshold, before any version goes (S25).
func (s *Store) raiseThreshold(ctx context.Context, r *rep, d *kv.RangeDescriptor, threshold hlc.Timestamp) error {
	if threshold.LessEq(r.replica.Load().GCThreshold()) {
		return nil
	}
	return s.sendGC(ctx, r, d, threshold, nil)
}

func (s *Store) sendGC(ctx context.Context, r *rep, d *kv.RangeDescriptor, threshold hlc.Timestamp, found []kv.GCKey) error {
	ba := &kv.BatchRequest{Header: kv.Header{RangeID: r.rangeID, Generation: d.Generation, CommandID: newID(), CommandBirth: s.cfg.Clock.Now().WallNanos, Gateway: s.cfg.Node},
		Requests: []kv.Request{&kv.GCRequest{Span: keys.Span{Key: dataStart(d), EndKey: d.End}, Threshold: threshold, Keys: found}}}
	if _, err := s.Send(ctx, ba); err != nil {
		return fmt.Errorf("store: garbage collection of range %d: %w", r.rangeID, err)
	}
	s.metrics.collected.Add(float64(len(found)))
	return nil
}

// gcPileups collects early where single keys have piled up versions since the last look.
func (s *Store) gcPileups(ctx context.Context, r *rep, since time.Duration) error {
	d := r.desc().Clone()
	now := s.cfg.Clock.Now()
	span := keys.Span{Key: dataStart(&d), EndKey: d.End}
	piled, err := findPileups(s.state, span, now.Add(-since-s.cfg.PileupAge), now, s.cfg.PileupVersions)
	if err != nil || len(piled) == 0 {
		return err
	}
	threshold := s.oldestRead(ctx)
	if limit := s.cfg.Clock.Now().Add(-s.cfg.PileupAge); limit.Less(threshold) {
		threshold = limit
	}
	var found []kv.GCKey
	for _, k := range piled {
		g, _, err := mvcc.FindGarbage(s.state, keys.Span{Key: k, EndKey: k.Next()}, threshold, 1)
		if err != nil {
			return err
		}
		found = append(found, g...)
	}
	if len(found) == 0 {
		return nil
	}
	if err := s.raiseThreshold(ctx, r, &d, threshold); err != nil {
		return err
	}
	s.metrics.pileups.Add(float64(len(found)))
	return s.sendGC(ctx, r, &d, threshold, found)
}

// findPileups returns keys with at least n versions in [from, to]. Blocks without a version
// in the interval are not read.
func findPileups(rd storage.Reader, span keys.Span, from, to hlc.Timestamp, n int) ([]keys.Key, error) {
	it, err := rd.NewIter(storage.IterOptions{Lower: span.Key, Upper: span.EndKey, MinVersion: from, MaxVersion: to})
	if err != nil {
		return nil, err
	}
	var out []keys.Key
	var key keys.Key
	run, scanned := 0, 0
	for ok := it.First(); ok && scanned < pileupScan && len(out) < pileupKeys; scanned++ {
		if !it.Key().Equal(key) {
			key = append(key[:0], it.Key()...)
			run = 0
		}
		if !it.Version().IsEmpty() {
			run++
		}
		if run >= n {
			out = append(out, key.Clone())
			ok = it.NextKey()
			continue
		}
		ok = it.Next()
	}
	return out, it.Close()
}

// oldestRead asks every live node for the oldest timestamp that its transactions read at.
func (s *Store) oldestRead(ctx context.Context) hlc.Timestamp {
	oldest := s.cfg.Clock.Now()
	unknown := oldest.Add(-s.cfg.UnknownReadAge)
	for _, st := range s.statuses(ctx) {
		ts := unknown
		if st.said && !st.oldest.IsEmpty() {
			ts = st.oldest
		}
		if ts.Less(oldest) {
			oldest = ts
		}
	}
	return oldest
}

// middle returns a key that halves a range's data, nil if there is none (one key).
func (s *Store) middle(d *kv.RangeDescriptor) (keys.Key, error) {
	start, end := dataStart(d), d.End
	total, err := s.state.DiskUsage(keys.Span{Key: start, EndKey: end})
	if err != nil {
		return nil, err
	}
	it, err := s.state.NewIter(storage.IterOptions{Lower: start, Upper: end})
	if err != nil {
		return nil, err
	}
	at, err := halfway(it, s.cfg.MaxRangeBytes, total)
	return at, errors.Join(err, it.Close())
}

// halfway walks to half of the bytes. Compression makes disk bytes fewer than those walked;
// so the first pass counts and the second one stops half way.
func halfway(it *storage.Iterator, _, _ int64) (keys.Key, error) {
	var sum int64
	n := 0
	size := func() (int64, error) {
		v, err := it.Value()
		return int64(len(v) + len(it.EngineKey())), err
	}
	for ok := it.First(); ok && n < maxSplitScanned; ok = it.Next() {
		b, err := size()
		if err != nil {
			return nil, err
		}
		sum += b
		n++
	}
	if err := it.Error(); err != nil {
		return nil, err
	}
	var first keys.Key
	var passed int64
	for ok := it.First(); ok; ok = it.Next() {
		if first == nil {
			first = it.Key().Clone()
		}
		if passed >= sum/2 && !it.Key().Equal(first) {
			return it.Key().Clone(), nil
		}
		b, err := size()
		if err != nil {
			return nil, err
		}
		passed += b
	}
	return nil, it.Error()
}
