package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/topology/allocator"
)

const (
	workers       = 16               // ranges worked on at a time
	workTimeout   = 2 * time.Minute  // for one range
	sizeEvery     = 10 * time.Second // between looks at a range's size
	ensureEvery   = 5 * time.Second  // between reminders to a follower without a replica
	leaderlessFor = 10 * time.Second // before a replica asks whether it still belongs
	repairEvery   = 2 * time.Second  // between tries to quarantine a replica
	flushEvery    = 10 * time.Second // flushes for the sake of long logs
	longLog       = 32 << 20         // bytes
)

// maintain looks at every range once per interval, and sooner again at those for which no
// worker was free. A quiet range costs a few loads from memory.
func (s *Store) maintain() {
	tick := time.NewTimer(s.cfg.Interval)
	defer tick.Stop()
	slots := semaphore.NewWeighted(workers)
	var lastFlush, lastAsk, lastPlan, lastLoad time.Time
	var planned map[keys.RangeID]due
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		s.checkDisk()
		s.trackHealth(now)
		if now.Sub(lastAsk) > askEvery {
			lastAsk = now
			s.spawnOnce(&s.asking, s.askNodes)
		}
		if now.Sub(lastLoad) >= loadEvery {
			lastLoad = now
			s.measureLoad(now)
		}
		if soon, fresh := s.planSoon.Swap(false), s.fresh.Swap(false); soon || fresh || now.Sub(lastPlan) > planEvery {
			lastPlan = now
			planned = s.plan(now, fresh)
		}
		var logBytes int64
		again := s.cfg.Interval
		for _, r := range s.all() {
			if s.ctx.Err() != nil {
				return
			}
			n, waits := s.look(r, now, slots, planned)
			logBytes += n
			if waits {
				again = min(again, busyAgain)
			}
		}
		if logBytes > longLog && now.Sub(lastFlush) > flushEvery {
			lastFlush = now
			s.metrics.flushes.Inc()
			s.spawn(func() { _ = s.state.Flush() })
		}
		if s.draining.Load() || s.full.Load() {
			s.spawnOnce(&s.shedding, func() { s.shedLeases(s.ctx) })
		}
		tick.Reset(again)
	}
}

// busyAgain is when ranges that found no free worker are looked at again.
const busyAgain = 20 * time.Millisecond

// look decides what a range needs, from memory, and starts a worker. It returns the bytes
// of a log that waits for a flush, and whether the range waits for a worker.
func (s *Store) look(r *rep, now time.Time, slots *semaphore.Weighted, planned map[keys.RangeID]due) (logBytes int64, waits bool) {
	g := r.group.Load()
	if g == nil || r.mergedAway.Load() {
		return 0, false
	}
	bytes, worth := g.Truncatable()
	if worth {
		logBytes = bytes
	}
	if r.busy.Load() {
		return logBytes, false
	}
	if !slots.TryAcquire(1) {
		return logBytes, true // nothing is marked as done
	}
	jobs := s.jobs(r, now, planned)
	if (worth || r.cutShort.Load()) && now.Sub(r.q.lastTruncate) > s.truncateEvery(r) {
		r.q.lastTruncate = now
		jobs = append(jobs, job{"truncate the log", s.truncate})
	}
	if len(jobs) == 0 {
		slots.Release(1)
		return logBytes, false
	}
	r.busy.Store(true)
	ok := s.spawn(func() {
		defer slots.Release(1)
		defer r.busy.Store(false)
		ctx, cancel := context.WithTimeout(s.ctx, workTimeout)
		defer cancel()
		for _, j := range jobs {
			s.complain(r, j.name, j.do(ctx, r))
		}
	})
	if !ok {
		r.busy.Store(false)
		slots.Release(1)
	}
	return logBytes, false
}

// truncateEvery is how often a log that is long is looked at: a witness asks another node.
func (s *Store) truncateEvery(r *rep) time.Duration {
	if r.witness {
		return 2 * s.cfg.Interval
	}
	return s.cfg.Interval
}

// job is work on a range.
type job struct {
	name string // of the kind
	do   func(context.Context, *rep) error
}

// trouble is a kind of work on a range that fails again and again: since when, when it did last, and
// when that was mentioned last.
type trouble struct{ since, last, said time.Time }

// troubleAfter is for how long work on a range may fail before it is mentioned, and how often it is
// mentioned then. What has not failed for as long begins anew.
const troubleAfter = time.Minute

// maxTroubles is how many troubles are mentioned per troubleAfter: an outage is one for all ranges.
const maxTroubles = 10

// maySay reports whether another trouble may be mentioned.
func (s *Store) maySay(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.said.since) >= troubleAfter {
		s.said.since, s.said.n = now, 0
	}
	s.said.n++
	return s.said.n <= maxTroubles
}

// complain keeps account of what fails. It runs in the goroutine that works on the range.
func (s *Store) complain(r *rep, name string, err error) {
	if err == nil {
		delete(r.troubles, name)
		return
	}
	if s.ctx.Err() != nil {
		return // the store closes
	}
	s.metrics.failures.Inc()
	now := time.Now()
	t, ok := r.troubles[name]
	if !ok || now.Sub(t.last) >= troubleAfter {
		t = trouble{since: now, said: now}
	}
	t.last = now
	if now.Sub(t.said) >= troubleAfter && s.maySay(now) {
		t.said = now
		s.logger.Warn("work on a range fails again and again; it is tried on", "range", r.rangeID, "work", name,
			"seconds", int(now.Sub(t.since).Seconds()), "err", err)
	} else {
		s.logger.Debug("work on a range failed and is tried again", "range", r.rangeID, "work", name, "err", err)
	}
	if r.troubles == nil {
		r.troubles = map[string]trouble{}
	}
	r.troubles[name] = t
}

// jobs returns what is due. It runs in the maintenance goroutine, and only while no job of
// the range runs.
func (s *Store) jobs(r *rep, now time.Time, planned map[keys.RangeID]due) []job {
	d := r.desc()
	term, leads := r.leads()
	if !leads || d == nil {
		if r.hasLeader() {
			r.q.leaderless = time.Time{}
		} else if r.q.leaderless.IsZero() {
			r.q.leaderless = now
		} else if now.Sub(r.q.leaderless) > leaderlessFor {
			r.q.leaderless = now
			return []job{{"check membership", s.checkMembership}, {"ensure voters", s.ensureVoters}}
		}
		return nil
	}
	r.q.leaderless = time.Time{}
	if r.distrusted.Load() {
		return []job{{"move the lease", s.moveLease}} // all else would rest on what it holds
	}
	if r.frozen.Load() != nil {
		return s.frozenJobs(r, now) // nothing else may change it (S20)
	}
	var jobs []job
	jobs = append(jobs, s.watchQuarantine(r, d, now)...)
	if r.q.ledTerm != term {
		r.q.ledTerm = term
		r.q.lastEnsure = now
		r.q.coldSince = time.Time{} // what it served before is not known
		r.metaGen.Store(0)          // whoever led before may have left the record behind
	}
	if r.metaGen.Load() < d.Generation || !r.followed(d) {
		jobs = append(jobs, job{"meta record", s.fixMeta})
	}
	if now.Sub(r.q.lastEnsure) > ensureEvery {
		r.q.lastEnsure = now
		if len(s.strangers(r, d)) > 0 {
			jobs = append(jobs, job{"ensure replicas", s.ensureReplicas})
		}
	}
	jobs = append(jobs, s.placementJobs(r, d, planned)...)
	commands := r.group.Load().Commands()
	if now.Sub(r.q.lastSize) > sizeEvery && commands != r.q.sizeCommands && d.RangeID != keys.MetaRangeID && !s.full.Load() {
		r.q.lastSize, r.q.sizeCommands = now, commands
		jobs = append(jobs, job{"split by size", s.splitBySize})
	}
	if r.load.foreignPerSecond() > float64(s.cfg.MaxRangeBatches) && d.RangeID != keys.MetaRangeID && !s.full.Load() && now.Sub(r.q.lastLoad) > loadEvery {
		r.q.lastLoad = now
		jobs = append(jobs, job{"split by load", s.splitByLoad})
	}
	jobs = append(jobs, s.mergeJobs(r, d, now)...)
	return append(jobs, s.gcJobs(r, now, commands)...)
}

// placementJobs are what the allocator planned, and a split where the rule ends that a range follows.
// What is urgent does not wait for the split, which needs other ranges. The rest comes after it, and
// is planned anew if it was made: a copy of the whole range would be one of too much.
func (s *Store) placementJobs(r *rep, d *kv.RangeDescriptor, planned map[keys.RangeID]due) []job {
	if s.full.Load() {
		return nil
	}
	var jobs []job
	if s.spansPolicies(r, d) {
		jobs = append(jobs, job{"split where another policy begins", s.splitByPolicy})
	}
	p, ok := planned[r.rangeID]
	if !ok {
		return jobs
	}
	delete(planned, r.rangeID) // once; what fails is planned anew
	change := job{p.Kind.String(), s.carryOut(p)}
	if p.Priority <= allocator.Leave {
		return append([]job{change}, jobs...)
	}
	return append(jobs, change)
}

// followed reports whether the descriptor names what the raft configuration names. Both are
// compared anew only when one of them is another than when they agreed last.
func (r *rep) followed(d *kv.RangeDescriptor) bool {
	st := r.group.Load().State()
	if r.q.agreedDesc == d && r.q.agreedConfig == st.ConfigIndex {
		return true
	}
	if !sameMembers(st.Config, d) {
		return false
	}
	r.q.agreedDesc, r.q.agreedConfig = d, st.ConfigIndex
	return true
}

func (s *Store) truncate(ctx context.Context, r *rep) error {
	if r.witness {
		return s.truncateWitness(ctx, r)
	}
	_, err := r.group.Load().Truncate()
	if err == nil {
		s.metrics.truncations.Inc()
	}
	return err
}

// fixMeta makes descriptor and meta record follow the configuration (S19, S29).
func (s *Store) fixMeta(ctx context.Context, r *rep) error {
	r.admin.Lock()
	defer r.admin.Unlock()
	return s.settle(ctx, r)
}

// goneAfter is how long a follower on a live node, which has acknowledged entries, may be silent
// before its node is asked whether it still has it. Idle ones answer every nine seconds.
const goneAfter = 2 * freshContact

// strangers returns the live followers that have acknowledged nothing and have not answered, or
// have fallen silent.
func (s *Store) strangers(r *rep, d *kv.RangeDescriptor) []kv.ReplicaDescriptor {
	var out []kv.ReplicaDescriptor
	for _, rd := range d.Replicas {
		if rd.Node == s.cfg.Node || !s.cfg.Support.Live(rd.Node) {
			continue
		}
		id := raftnet.ServerID(rd.Node, rd.Replica)
		p := r.group.Load().Peer(id)
		patience := ensureEvery
		if p.Match > 0 {
			patience = goneAfter
		}
		if !p.Snapshot && r.trans.Silence(id) >= patience {
			out = append(out, rd)
		}
	}
	return out
}

// ensureReplicas makes replicas that followers lack: one that never heard of the range, or
// whose split came with a snapshot of the left side, can't be reached by raft.
func (s *Store) ensureReplicas(ctx context.Context, r *rep) error {
	d := r.desc().Clone()
	var errs []error
	for _, rd := range s.strangers(r, &d) {
		err := s.createReplica(ctx, rd.Node, rd.Replica, &d)
		if spent := (*spentError)(nil); errors.As(err, &spent) {
			r.noteGone(rd.Replica)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ensureVoters makes replicas that other voters lack while the range has no leader. A voter whose
// split came with a snapshot of the left side may never have been reached by a leader of the right
// side; were the others lost but one, its vote is what a quorum needs. It has acknowledged nothing
// under its ID, or it would have its replica (S18), so an empty log is what it may vote with.
func (s *Store) ensureVoters(ctx context.Context, r *rep) error {
	d := r.desc()
	if d == nil {
		return nil
	}
	var errs []error
	for _, rd := range d.Replicas {
		if rd.Node != s.cfg.Node && rd.Type.Votes() && s.cfg.Support.Live(rd.Node) {
			errs = append(errs, s.createReplica(ctx, rd.Node, rd.Replica, d))
		}
	}
	return errors.Join(errs...)
}

// checkMembership asks meta whether this replica still belongs to its range: the message
// that it was removed may have been lost.
func (s *Store) checkMembership(ctx context.Context, r *rep) error {
	d := r.desc()
	if d == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, metaTimeout)
	defer cancel()
	now, err := s.lookup(ctx, d.Start)
	if err == nil && s.mergedSince(d, now) && !r.hasLeader() {
		return s.dropLeftOver(r)
	}
	if err != nil || now.RangeID != d.RangeID || now.Generation < d.Generation {
		return err
	}
	if s.isMember(now, r.id) || r.hasLeader() { // a leader that has appeared counts on it
		return nil
	}
	return s.removeIfStale(r.id, now)
}

// splitBySize splits a range that has grown too large in its middle.
func (s *Store) splitBySize(ctx context.Context, r *rep) error {
	_, bytes := r.info()
	if bytes < s.cfg.MaxRangeBytes {
		return nil
	}
	at, err := s.middle(r.desc())
	if err != nil || at == nil {
		return err
	}
	why := fmt.Sprintf("it had %d bytes, and %d are the bound", bytes, s.cfg.MaxRangeBytes)
	_, err = s.splitAt(ctx, r.replica.Load(), &kv.AdminSplitRequest{SplitKey: at}, why)
	if err == nil {
		s.logger.Info("split a range by size", "range", r.rangeID, "bytes", bytes, "at", at.String())
	}
	return err
}

// spawnOnce runs fn in a goroutine unless the last one of the same flag still runs.
func (s *Store) spawnOnce(flag interface {
	CompareAndSwap(old, new bool) bool
	Store(bool)
}, fn func()) {
	if !flag.CompareAndSwap(false, true) {
		return
	}
	if !s.spawn(func() { defer flag.Store(false); fn() }) {
		flag.Store(false)
	}
}
