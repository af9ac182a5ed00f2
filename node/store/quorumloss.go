package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/events"
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/recovery"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/storage"
)

// What an operator recovers after the loss of quorums for good (package recovery) is carried out here.
// Nothing in a node calls this by itself.

// Local records of recoveries, beside those of records.go.
const (
	stagedKey       = "r/recovery"   // the plan that was accepted last
	recoveredPrefix = "r/recovered/" // + range: what was done of a plan (JSON of recovery.Recovered)
)

// Replicas describes all replicas of this node for a recovery. It needs no quorum.
func (s *Store) Replicas() ([]recovery.Replica, error) {
	var out []recovery.Replica
	for _, r := range s.all() {
		v, err := s.describe(r)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (s *Store) describe(r *rep) (recovery.Replica, error) {
	v := recovery.Replica{Range: r.rangeID, Replica: r.id, Role: recovery.Removed, Mute: r.trans.Muted()}
	g := r.group.Load()
	if g == nil {
		return v, nil
	}
	t, err := g.Tail()
	if err != nil {
		return v, err
	}
	v.Term, v.LastTerm, v.LastIndex, v.Commit, v.Applied = t.Term, t.Last.Term, t.Last.Index, t.Commit, t.Applied
	if !t.Newest.IsZero() {
		v.Newest = t.Newest.UTC()
	}
	d := r.desc()
	if d != nil {
		v.HasData, v.Start, v.End = true, recovery.Key(d.Start.Clone()), recovery.Key(d.End.Clone())
		v.Generation, v.NextReplica = d.Generation, d.NextReplicaID
		q := r.quarantineOf(d)
		v.Distrust, v.CorruptData = q.String(), q == kv.Differs
	}
	self := raftnet.ServerID(s.cfg.Node, r.id)
	for _, sv := range t.Config.Servers {
		node, id, err := raftnet.ParseServerID(sv.ID)
		if err != nil {
			return v, err
		}
		role := recovery.NonVoter
		if sv.Suffrage == raft.Voter {
			role, v.Voters = recovery.Voter, append(v.Voters, recovery.Server{Node: node, Replica: id})
		} else {
			v.NonVoters = append(v.NonVoters, recovery.Server{Node: node, Replica: id})
		}
		if sv.ID == self {
			v.Role = role
		}
	}
	if r.witness {
		v.Role = recovery.Witness // S22: it has none of the data
	}
	l := r.Lease()
	v.Lease = l.Valid
	if l.Leader != s.cfg.Node && l.Leader != 0 && s.cfg.Support.Live(l.Leader) && r.hasLeader() {
		v.Leader = l.Leader
	}
	_, v.Bytes = r.info()
	return v, nil
}

// Spent returns which replica IDs may not be had on this node any more (S18).
func (s *Store) Spent() ([]recovery.Spent, error) {
	recs, err := s.log.ScanLocal([]byte(tombstonePrefix))
	if err != nil {
		return nil, err
	}
	var out []recovery.Spent
	for _, r := range recs {
		id, err := rangeOfKey(tombstonePrefix, r.Key)
		if err != nil {
			return nil, err
		}
		lowest, err := tombstone(s.log, id)
		if err != nil {
			return nil, err
		}
		out = append(out, recovery.Spent{Range: id, Lowest: lowest})
	}
	return out, nil
}

// Recovered returns what this node has done of recoveries, the newest of each range.
func (s *Store) Recovered() ([]recovery.Recovered, error) {
	recs, err := s.log.ScanLocal([]byte(recoveredPrefix))
	if err != nil {
		return nil, err
	}
	out := make([]recovery.Recovered, len(recs))
	for i, r := range recs {
		if err := json.Unmarshal(r.Value, &out[i]); err != nil {
			return nil, fmt.Errorf("store: local record %q: %w", r.Key, err)
		}
	}
	return out, nil
}

// StagedPlan returns the plan that was accepted here last, nil if there is none.
func (s *Store) StagedPlan() (*recovery.Plan, error) {
	b, ok, err := s.log.GetLocal([]byte(stagedKey))
	if err != nil || !ok {
		return nil, err
	}
	return recovery.DecodePlan(b)
}

// StagePlan accepts a plan durably if this node's replicas are what the plan saw and its ranges have no
// quorum. Nothing is done yet. To accept the same plan again is harmless.
func (s *Store) StagePlan(p *recovery.Plan) error {
	var faults []error
	for i := range p.Ranges {
		if err := s.checkRecovery(p, &p.Ranges[i]); err != nil {
			faults = append(faults, err)
		}
	}
	for i := range p.Superseded {
		if err := s.checkSuperseded(&p.Superseded[i]); err != nil {
			faults = append(faults, err)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	b, err := p.Encode()
	if err != nil {
		return err
	}
	return s.log.SetLocal([]byte(stagedKey), b)
}

// checkRecovery returns an error if a plan does not fit what this node has of a range. What the plan has
// done already fits.
func (s *Store) checkRecovery(p *recovery.Plan, o *recovery.Range) error {
	if done, err := s.recoveredBy(p, o.ID); err != nil || done != nil {
		return err
	}
	lowest, err := tombstone(s.log, o.ID)
	if err != nil {
		return err
	}
	source := o.Source.Node == s.cfg.Node
	if half, err := s.rewritten(o); err != nil || half && source {
		return err
	}
	r := s.get(o.ID)
	want, has := o.On(s.cfg.Node)
	switch {
	case r == nil && (!has || !source && lowest > want.Replica):
		return nil // it has none, or it was removed since
	case r == nil:
		return fmt.Errorf("store: the plan wants replica %d of range %d, and node %d does not have it: make a new plan", want.Replica, o.ID, s.cfg.Node)
	case !source && r.id >= o.NewReplica:
		return nil // made since, by the recovered range
	case !has || r.id != want.Replica:
		return fmt.Errorf("store: node %d has replica %d of range %d, which the plan did not see: make a new plan", s.cfg.Node, r.id, o.ID)
	}
	return s.checkReplica(p, o, r, want)
}

// checkSuperseded makes sure that what is left of a range serves nothing before it is removed.
func (s *Store) checkSuperseded(o *recovery.Superseded) error {
	r := s.get(o.ID)
	if r == nil || r.id >= o.Lowest {
		return nil
	}
	now, err := s.describe(r)
	if err == nil && (now.Lease || now.Leader != 0) {
		err = fmt.Errorf("store: range %d has a leader, so other ranges have not taken its place: make a new plan", o.ID)
	}
	return err
}

// checkReplica compares a replica with what the plan saw of it, and makes sure that no quorum is there.
func (s *Store) checkReplica(p *recovery.Plan, o *recovery.Range, r *rep, want recovery.Copy) error {
	now, err := s.describe(r)
	if err != nil {
		return err
	}
	switch {
	case now.Lease:
		return fmt.Errorf("store: node %d holds the lease of range %d: the range has a quorum, and nothing is to be recovered", s.cfg.Node, o.ID)
	case now.Leader != 0:
		return fmt.Errorf("store: range %d is led by node %d, which answers: the range has a quorum, and nothing is to be recovered", o.ID, now.Leader)
	case now.LastTerm != want.LastTerm || now.LastIndex != want.LastIndex:
		return fmt.Errorf("store: the log of %s of range %d ends at entry %d of term %d, the plan saw %d of term %d: make a new plan",
			want.Server, o.ID, now.LastIndex, now.LastTerm, want.LastIndex, want.LastTerm)
	}
	votes := 0
	for _, v := range now.Voters {
		if (v.Node == s.cfg.Node || s.cfg.Support.Live(v.Node)) && p.MayVote(o, v, now.LastTerm, now.LastIndex) {
			votes++
		}
	}
	if votes > len(now.Voters)/2 && now.Role != recovery.NonVoter && now.Role != recovery.Removed && !now.Mute {
		return fmt.Errorf("store: %d of the %d voters of range %d are on nodes that answer node %d: they are a quorum, and nothing is to be recovered",
			votes, len(now.Voters), o.ID, s.cfg.Node)
	}
	return s.CheckLost(p)
}

// CheckLost makes sure that the nodes which are given up are silent, and that none of them can serve
// any more on the strength of this node's promise (S3).
func (s *Store) CheckLost(p *recovery.Plan) error {
	for _, l := range p.Lost {
		if s.cfg.Support.Live(l.Node) {
			return fmt.Errorf("store: node %d is to be given up, but answers node %d: stop it, or make a plan without it", l.Node, s.cfg.Node)
		}
		if _, supports := s.cfg.Support.Supports(l.Node); supports {
			return fmt.Errorf("store: node %d's promise to node %d has not run out yet: %s", s.cfg.Node, l.Node, recovery.PassingText)
		}
	}
	return nil
}

func (s *Store) recoveredBy(p *recovery.Plan, id keys.RangeID) (*recovery.Recovered, error) {
	b, ok, err := s.log.GetLocal(recordKey(recoveredPrefix, id))
	if err != nil || !ok {
		return nil, err
	}
	d := &recovery.Recovered{}
	if err := json.Unmarshal(b, d); err != nil {
		return nil, fmt.Errorf("store: record of the recovery of range %d: %w", id, err)
	}
	if d.Plan != p.ID {
		return nil, nil
	}
	return d, nil
}

// Counter is a key that holds a counter of IDs. After a recovery it is at least Floor, and Leap more than
// what is found of it: the lost nodes may have handed some out that nobody remembers (S18).
type Counter struct {
	Key         keys.Key
	Floor, Leap int64
}

// RecoverRange makes this node's replica the only voter of its range, under a new ID. It does nothing
// if it has done so before. It returns once the range has a leader, or with ctx.
func (s *Store) RecoverRange(ctx context.Context, p *recovery.Plan, id keys.RangeID, counters []Counter) error {
	o, ok := p.Find(id)
	if !ok || o.Source.Node != s.cfg.Node {
		return fmt.Errorf("store: the plan does not recover range %d from node %d", id, s.cfg.Node)
	}
	r, err := s.recoverLocked(p, o, counters)
	if err != nil || r == nil {
		return err
	}
	if !r.hasLeader() {
		r.trans.StandForElection(raftnet.Cause{Why: "the range was recovered after the loss of its quorum"})
	}
	for {
		if _, ok := r.leads(); ok {
			return nil
		}
		if r.hasLeader() && r.trans.Leader() != s.cfg.Node {
			return nil // it was recovered before, and another node leads it by now
		}
		t := time.NewTimer(20 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("store: range %d is recovered, but does not serve yet: %w", id, ctx.Err())
		}
	}
}

// recoverLocked returns the range's new replica; nil if it was recovered before and has left this node.
func (s *Store) recoverLocked(p *recovery.Plan, o *recovery.Range, counters []Counter) (*rep, error) {
	s.structure.Lock()
	defer s.structure.Unlock()
	r := s.get(o.ID)
	if done, err := s.recoveredBy(p, o.ID); err != nil {
		return nil, err
	} else if done != nil && r != nil && r.id == o.NewReplica {
		return r, nil
	} else if done != nil {
		return nil, nil // its replica was moved away since
	}
	if r == nil || r.id != o.Source.Replica {
		return nil, fmt.Errorf("store: node %d does not have replica %d of range %d: make a new plan", s.cfg.Node, o.Source.Replica, o.ID)
	}
	if lowest, err := tombstone(s.log, o.ID); err != nil || o.NewReplica < lowest {
		return nil, errors.Join(err, fmt.Errorf("store: replica %d of range %d can't be had on node %d any more: make a new plan", o.NewReplica, o.ID, s.cfg.Node))
	}
	old, err := s.recordOf(o.ID)
	if err != nil {
		return nil, err
	}
	half, err := s.rewritten(o)
	if err != nil {
		return nil, err
	}
	if !half { // else a crash came in between
		if err := s.checkReplica(p, o, r, o.Source); err != nil {
			return nil, err
		}
	}
	r.close()
	taken, err := s.goAlone(o, half, counters)
	if err != nil {
		if _, e := s.start(old); e != nil { // as it was
			s.cfg.OnFatal(fmt.Errorf("store: range %d: starting the replica again: %w", o.ID, e))
		}
		return nil, err
	}
	if r, err = s.begin(p, o, taken); err != nil {
		s.cfg.OnFatal(fmt.Errorf("store: range %d was recovered, but its replica can't be started: %w", o.ID, err))
	}
	return r, err
}

// rewritten reports whether the state of the range is the recovered one already.
func (s *Store) rewritten(o *recovery.Range) (bool, error) {
	st, err := group.LoadState(s.state, o.ID)
	if err != nil {
		return false, err
	}
	rd, ok := st.Desc.Replica(s.cfg.Node)
	return ok && rd.Replica == o.NewReplica && st.Desc.Generation == o.Generation, nil
}

func (s *Store) recordOf(id keys.RangeID) (replicaRecord, error) {
	recs, err := listRecords(s.log)
	if err != nil {
		return replicaRecord{}, err
	}
	i := slices.IndexFunc(recs, func(r replicaRecord) bool { return r.rangeID == id })
	if i < 0 {
		return replicaRecord{}, fmt.Errorf("store: node %d has no record of range %d", s.cfg.Node, id)
	}
	return recs[i], nil
}

// goAlone rewrites the state. The replica is closed.
func (s *Store) goAlone(o *recovery.Range, half bool, counters []Counter) (group.Position, error) {
	if half {
		return group.Position{Index: o.Source.LastIndex, Term: o.Source.LastTerm}, nil
	}
	log, err := s.log.RaftLog(o.ID, o.Source.Replica)
	if err != nil {
		return group.Position{}, err
	}
	now := s.cfg.Clock.Now()
	return group.GoAlone(s.state, log, group.Alone{
		Desc: kv.RangeDescriptor{RangeID: o.ID, Start: keys.Key(o.Span.Start), End: keys.Key(o.Span.End), Generation: o.Generation,
			Replicas: []kv.ReplicaDescriptor{{Node: s.cfg.Node, Replica: o.NewReplica}}, NextReplicaID: o.NewReplica + 1},
		Term: o.Term,
		// REQUIRES: S4. The lost nodes served nothing later than their clocks and the support that
		// they had; that has run out, and their clocks are at most the offset ahead.
		HighWater:   hlc.Timestamp{WallNanos: now.WallNanos + int64(s.cfg.Clock.MaxOffset())},
		Write:       func(rw storage.ReadWriter, d *kv.RangeDescriptor) error { return s.raiseCounters(rw, d, counters) },
		RememberIDs: s.cfg.RememberIDs,
	})
}

// raiseCounters lifts the counters that lie in the range above what the lost nodes may have handed out:
// what they did last is not in this replica (S18). It happens before the range serves again.
func (s *Store) raiseCounters(rw storage.ReadWriter, d *kv.RangeDescriptor, counters []Counter) error {
	ts := s.cfg.Clock.Now()
	for _, c := range counters {
		key := c.Key
		if !d.Contains(key) {
			continue
		}
		have, err := mvcc.Get(rw, key, hlc.Timestamp{WallNanos: 1<<63 - 1}, mvcc.ReadOptions{})
		if err != nil {
			return err
		}
		floor := c.Floor
		if len(have.Value) == 8 {
			now := int64(decodeCounter(have.Value))
			if floor = max(floor, now+c.Leap); floor <= now {
				continue
			}
		} else {
			floor = max(floor, c.Leap)
		}
		at := ts
		if !have.Version.Less(at) {
			at = hlc.Timestamp{WallNanos: have.Version.WallNanos + 1}
		}
		if in, err := mvcc.Put(rw, key, at, encodeCounter(uint64(floor)), false, mvcc.PutOptions{}); err != nil || in != nil {
			return fmt.Errorf("store: raising the counter %s to %d: intent %v: %w", key.Pretty(), floor, in, err)
		}
	}
	return nil
}

// begin records the new replica in the place of the old one, in one synced write, and starts it.
func (s *Store) begin(p *recovery.Plan, o *recovery.Range, taken group.Position) (*rep, error) {
	done := recovery.Recovered{Plan: p.ID, Range: o.ID, From: o.Source.Replica, Replica: o.NewReplica, Index: taken.Index, At: time.Now().UTC()}
	b, err := json.Marshal(&done)
	if err != nil {
		return nil, err
	}
	rec := replicaRecord{rangeID: o.ID, replica: o.NewReplica}
	err = s.log.UpdateLocal(func(u *storage.LocalUpdate) error {
		return errors.Join(
			setRecord(u, rec), setTombstone(u, o.ID, o.NewReplica), u.RemoveLog(o.ID, o.Source.Replica),
			u.Set(recordKey(recoveredPrefix, o.ID), b))
	})
	if err != nil {
		return nil, err
	}
	// Splits among the entries that were taken made right sides, which have lost their quorums as well.
	have := map[keys.RangeID]bool{}
	for _, r := range s.all() {
		have[r.rangeID] = true
	}
	if err := s.recoverSplits(o.ID, nil, have); err != nil {
		return nil, err
	}
	r, err := s.start(rec)
	if err != nil {
		return nil, err
	}
	s.startMissing()
	s.metrics.recovered.Inc()
	from := fmt.Sprintf("replica %d, up to entry %d of term %d, %d of which were not known to be committed; the voters were %v",
		o.Source.Replica, taken.Index, taken.Term, o.InDoubt(), o.Voters)
	s.logger.Error("a range was recovered by an operator after the loss of its quorum; what only the lost nodes had is lost",
		"range", o.ID, "replica", o.NewReplica, "from", from, "plan", p.ID)
	s.record(events.Event{Kind: events.Recovery, RangeID: o.ID, Other: s.cfg.Node, Cause: "an operator applied recovery plan " + p.ID[:min(len(p.ID), 12)],
		What: "the range was recovered from " + from})
	return r, nil
}

// startMissing starts recorded replicas that do not run.
func (s *Store) startMissing() {
	recs, err := listRecords(s.log)
	for _, rec := range recs {
		if rec.state == recordRemoving || s.get(rec.rangeID) != nil {
			continue
		}
		if _, e := s.start(rec); e != nil {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		s.logger.Error("a replica can't be started", "err", err)
	}
}

// ForgetRange makes sure that no replica of the range with an ID below next is or ever comes back on this
// node (S18). REQUIRES: the range is recovered elsewhere, durably, or other ranges hold its keys.
func (s *Store) ForgetRange(id keys.RangeID, next keys.ReplicaID) error {
	s.structure.Lock()
	defer s.structure.Unlock()
	if r := s.get(id); r != nil {
		if r.id >= next {
			return nil // made since
		}
		if err := s.removeLocked(r); err != nil {
			return err
		}
	}
	lowest, err := tombstone(s.log, id)
	if err != nil || lowest >= next {
		return err
	}
	return s.log.UpdateLocal(func(u *storage.LocalUpdate) error { return setTombstone(u, id, next) })
}

func rangeOfKey(prefix string, key []byte) (keys.RangeID, error) {
	if len(key) != len(prefix)+8 {
		return 0, fmt.Errorf("store: local record %x has %d bytes, want %d", key, len(key), len(prefix)+8)
	}
	return keys.RangeID(decodeCounter(key[len(prefix):])), nil
}
