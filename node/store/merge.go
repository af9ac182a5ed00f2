package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/replica/raftcmd"
)

const (
	// mergeLeaseWait bounds how long the right side's lease is waited for.
	mergeLeaseWait = 5 * time.Second
	// frozenWait bounds how long the right side's replicas may take to apply the freeze: nobody can
	// read or write there meanwhile.
	frozenWait = 2 * time.Second
	// frozenPoll is how often a node looks whether its replica has applied it.
	frozenPoll = 5 * time.Millisecond
	// unfreezeWait bounds a try to end a freeze.
	unfreezeWait = 10 * time.Second
	// frozenEvery is how often the leaseholder of a range that is frozen asks what became of the merge.
	frozenEvery = time.Second
)

// Merge implements replica.Admin.
func (s *Store) Merge(ctx context.Context, rr *replica.Replica, _ *kv.AdminMergeRequest) (*kv.AdminMergeResponse, error) {
	merged, err := s.mergeRight(ctx, rr, "it was asked for")
	if err != nil {
		return nil, proposeError(err)
	}
	return &kv.AdminMergeResponse{Desc: *merged}, nil
}

// merge is one attempt to make one range of two neighbours (SAFETY S20). This node has both leases, and
// both ranges' admin locks.
type merge struct {
	s           *Store
	left, right *rep
	l, r        kv.RangeDescriptor // as they are before
	freeze      raftcmd.FreezeTrigger
}

// mergeRight merges a range that this node leads with the one that follows it.
func (s *Store) mergeRight(ctx context.Context, rr *replica.Replica, why string) (*kv.RangeDescriptor, error) {
	left, err := s.led(rr)
	if err != nil {
		return nil, err
	}
	// From left to right along the keys, so that nobody waits for each other.
	if err := left.admin.LockContext(ctx); err != nil {
		return nil, err
	}
	defer left.admin.Unlock()
	if left.rangeID == keys.MetaRangeID {
		return nil, &kv.InvalidRequestError{Detail: "the meta range can't be merged with another one"}
	}
	if err := s.settle(ctx, left); err != nil {
		return nil, err
	}
	right := s.startingAt(left.desc().End)
	if right == nil {
		return nil, &kv.InvalidRequestError{Detail: fmt.Sprintf(
			"node %d has no replica of the range that follows %s, if there is one; only ranges with replicas on the same nodes are merged", s.cfg.Node, left.desc())}
	}
	if err := right.admin.LockContext(ctx); err != nil {
		return nil, err
	}
	defer right.admin.Unlock()
	right.merging.Store(true)
	defer right.merging.Store(false)
	m := &merge{s: s, left: left, right: right}
	if err := m.prepare(ctx); err != nil {
		return nil, err
	}
	merged, err := m.run(ctx)
	if err != nil {
		return nil, err
	}
	s.recordMerge(merged, m.r.RangeID, m.r.Start, why)
	s.logger.Info("merged two ranges", "range", merged.RangeID, "right", m.r.RangeID, "at", m.r.Start.String(), "cause", why)
	if err := s.writeMeta(ctx, merged); err != nil {
		s.logger.Warn("meta record is late after a merge", "range", merged.RangeID, "err", err)
	}
	return merged, nil
}

// startingAt returns this node's replica of the range that begins at a key, if it has data.
func (s *Store) startingAt(start keys.Key) *rep {
	for _, r := range s.all() {
		if d := r.desc(); d != nil && d.Start.Equal(start) && !r.mergedAway.Load() {
			return r
		}
	}
	return nil
}

// prepare makes sure that the merge can be made: both leases here, both meta records up to date, and
// the same trusted replicas on both sides.
func (m *merge) prepare(ctx context.Context) error {
	if err := m.takeLease(ctx); err != nil {
		return err
	}
	if err := m.s.settle(ctx, m.right); err != nil {
		return err
	}
	m.l, m.r = m.left.desc().Clone(), m.right.desc().Clone()
	return mergeable(&m.l, &m.r)
}

// takeLease brings the right side's lease to this node.
func (m *merge) takeLease(ctx context.Context) error {
	r := m.right
	if f := r.frozen.Load(); f != nil {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("range %d is being merged into range %d already; try again", r.rangeID, f.Left)}
	}
	if _, leads := r.leads(); !leads {
		req := &kv.AdminTransferLeaseRequest{Key: r.desc().Start, Target: m.s.cfg.Node}
		if _, err := sendOne[*kv.AdminTransferLeaseResponse](ctx, &m.s.sender, req); err != nil {
			return fmt.Errorf("store: bringing the lease of range %d to node %d, for its merge: %w", r.rangeID, m.s.cfg.Node, err)
		}
	}
	for waited := time.Duration(0); waited < mergeLeaseWait; waited += 10 * time.Millisecond {
		if _, leads := r.leads(); leads && !r.distrusted.Load() {
			return nil
		}
		if !m.s.sleep(10 * time.Millisecond) {
			return errClosed
		}
	}
	return &kv.UnavailableError{RangeID: r.rangeID, Waited: mergeLeaseWait, Detail: "its lease did not come to the node that is to merge it; try again"}
}

// mergeable says why two ranges can't become one.
func mergeable(l, r *kv.RangeDescriptor) error {
	refuse := func(format string, args ...any) error {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("%s and %s are not merged: ", l, r) + fmt.Sprintf(format, args...)}
	}
	if !l.End.Equal(r.Start) {
		return refuse("they are no neighbours")
	}
	if len(l.Replicas) != len(r.Replicas) {
		return refuse("they have %d and %d replicas; both need the same nodes", len(l.Replicas), len(r.Replicas))
	}
	for _, a := range l.Replicas {
		b, ok := r.Replica(a.Node)
		switch {
		case !ok || a.Type != b.Type:
			return refuse("they have not the same kind of replica on node %d; both need the same nodes", a.Node)
		case !a.Type.HoldsData():
			return refuse("node %d holds a witness; ranges with witnesses are not merged yet", a.Node)
		case a.Quarantine != kv.Trusted || b.Quarantine != kv.Trusted:
			return refuse("the replica on node %d is quarantined; wait until it is replaced", a.Node)
		}
	}
	return nil
}

// run makes the merge, or leaves the right side unfrozen. Where it can't, because a lease or an answer
// was lost, whoever leads the right side does it (resolveFreeze).
func (m *merge) run(ctx context.Context) (*kv.RangeDescriptor, error) {
	if err := m.allFollow(); err != nil {
		return nil, err
	}
	m.freeze = raftcmd.FreezeTrigger{Attempt: newID(), Left: m.l.RangeID, LeftStart: m.l.Start, LeftGeneration: m.l.Generation, Generation: m.r.Generation}
	m.s.metrics.mergesBegun.Inc()
	if err := m.proposeFreeze(ctx); err != nil {
		return nil, err
	}
	err := m.awaitFrozen(ctx)
	var merged *kv.RangeDescriptor
	if err == nil {
		merged, err = m.propose(ctx)
	}
	if err == nil {
		return merged, nil
	}
	if !errors.Is(err, replica.ErrAmbiguous) {
		// The merge was never proposed, or is rejected for good.
		uctx, cancel := context.WithTimeout(m.s.ctx, unfreezeWait)
		defer cancel()
		if uerr := m.s.unfreeze(uctx, m.right, m.freeze.Attempt); uerr != nil {
			m.s.logger.Info("a merge was given up; its right side is served again as soon as its leaseholder has found that out", "range", m.r.RangeID, "err", uerr)
		}
	}
	return nil, err
}

// allFollow refuses to begin while a replica is away or behind: nobody could read or write the right side
// while it is waited for.
func (m *merge) allFollow() error {
	for _, rd := range m.r.Replicas {
		if rd.Node == m.s.cfg.Node {
			continue
		}
		l, _ := m.l.Replica(rd.Node)
		if !m.s.cfg.Support.Live(rd.Node) || !m.right.caughtUp(raftnet.ServerID(rd.Node, rd.Replica)) || !m.left.caughtUp(raftnet.ServerID(rd.Node, l.Replica)) {
			return &kv.UnavailableError{RangeID: m.r.RangeID, Detail: fmt.Sprintf("node %d does not answer, or its replicas of %s and %s have not caught up, and every one must take part in a merge; try again",
				rd.Node, &m.l, &m.r)}
		}
	}
	return nil
}

// proposeFreeze freezes the right side, once nothing is being evaluated there.
func (m *merge) proposeFreeze(ctx context.Context) error {
	latched, err := m.right.replica.Load().Freeze(ctx)
	if err != nil {
		return err
	}
	defer latched.Release()
	if !sameMembers(m.right.group.Load().State().Config, &m.r) {
		return fmt.Errorf("%w: a replica change of range %d is under way", replica.ErrRejected, m.r.RangeID)
	}
	cmd := m.s.command(latched.Term)
	cmd.Freeze = &m.freeze
	_, err = m.right.Propose(ctx, cmd)
	return err
}

// awaitFrozen waits until every replica of the right side has applied the freeze, durably.
func (m *merge) awaitFrozen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, frozenWait)
	defer cancel()
	errs := make([]error, len(m.r.Replicas))
	var wg sync.WaitGroup
	for i, rd := range m.r.Replicas {
		wg.Go(func() {
			if rd.Node == m.s.cfg.Node {
				errs[i] = m.s.confirmFrozen(ctx, m.r.RangeID, rd.Replica, &m.freeze)
				return
			}
			_, errs[i] = m.s.cfg.Network.Call(ctx, rd.Node, raftnet.Data, raftnet.MethodReplicaFrozen, encodeFrozenMsg(m.r.RangeID, rd.Replica, &m.freeze))
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("store: merge of range %d into range %d: not every replica has applied the freeze: %w", m.r.RangeID, m.l.RangeID, err)
	}
	return nil
}

// A message that asks for a freeze: version, range, replica, freeze trigger.
func encodeFrozenMsg(id keys.RangeID, rep keys.ReplicaID, f *raftcmd.FreezeTrigger) []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordVersion}, uint64(id))
	return append(binary.BigEndian.AppendUint64(b, uint64(rep)), f.Encode()...)
}

func decodeFrozenMsg(b []byte) (keys.RangeID, keys.ReplicaID, *raftcmd.FreezeTrigger, error) {
	if len(b) < 17 || b[0] != recordVersion {
		return 0, 0, nil, fmt.Errorf("store: question for a freeze of %d bytes has not version %d", len(b), recordVersion)
	}
	f, err := raftcmd.DecodeFreeze(b[17:])
	if err != nil {
		return 0, 0, nil, err
	}
	return keys.RangeID(binary.BigEndian.Uint64(b[1:])), keys.ReplicaID(binary.BigEndian.Uint64(b[9:])), f, nil
}

func (s *Store) onFrozen(ctx context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	id, rep, f, err := decodeFrozenMsg(payload)
	if err != nil {
		return nil, err
	}
	return nil, s.confirmFrozen(ctx, id, rep, f)
}

// confirmFrozen returns once this node's replica has applied the freeze and its replica of the left
// side everything before the merge, durably (S20): whatever happens from here on, the merge will find
// the frozen right side when it is applied here. Earlier merges into the left side are over here then.
func (s *Store) confirmFrozen(ctx context.Context, id keys.RangeID, rep keys.ReplicaID, f *raftcmd.FreezeTrigger) error {
	ctx, cancel := context.WithTimeout(ctx, frozenWait)
	defer cancel()
	for {
		right, left := s.get(id), s.get(f.Left)
		if right == nil || right.id != rep || right.distrusted.Load() || left == nil || left.distrusted.Load() {
			return fmt.Errorf("store: node %d has no trusted replica %d of range %d, or none of range %d", s.cfg.Node, rep, id, f.Left)
		}
		have, d := right.frozen.Load(), left.desc()
		if have != nil && have.Attempt == f.Attempt && d != nil && d.Generation >= f.LeftGeneration {
			return s.state.Flush()
		}
		t := time.NewTimer(frozenPoll)
		select {
		case <-t.C:
		case <-s.ctx.Done():
			t.Stop()
			return errClosed
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("store: node %d: replica %d of range %d has not applied its freeze: %w", s.cfg.Node, rep, id, ctx.Err())
		}
	}
}

// propose replicates the merge itself, under a latch over all of the left side.
func (m *merge) propose(ctx context.Context) (*kv.RangeDescriptor, error) {
	lctx, cancel := context.WithTimeout(ctx, frozenWait)
	latched, err := m.left.replica.Load().Freeze(lctx)
	cancel()
	if err != nil {
		return nil, err
	}
	defer latched.Release()
	now := m.left.desc()
	if now.Generation != m.l.Generation || !sameMembers(m.left.group.Load().State().Config, &m.l) {
		return nil, fmt.Errorf("%w: range %d has changed meanwhile", replica.ErrRejected, m.l.RangeID)
	}
	merged := m.l.Clone()
	merged.End = m.r.End.Clone()
	merged.Generation = max(m.l.Generation, m.r.Generation) + 1
	cmd := m.s.command(latched.Term)
	cmd.Merge = &raftcmd.MergeTrigger{Attempt: m.freeze.Attempt, Merged: merged, LeftGeneration: m.l.Generation, Right: m.r.RangeID,
		// Nothing was read there since the freeze was applied here.
		HighWater: m.right.replica.Load().Served(),
		// No clock that a command was born by is ahead by more.
		Horizon: m.s.cfg.Clock.Now().Add(m.s.cfg.Clock.MaxOffset()).WallNanos}
	if _, err := m.left.Propose(ctx, cmd); err != nil {
		return nil, err
	}
	return &merged, nil
}

// unfreeze ends a freeze. REQUIRES: the merge of that attempt can't be applied any more.
func (s *Store) unfreeze(ctx context.Context, r *rep, attempt raftcmd.ID) error {
	term, ok := r.leads()
	if !ok {
		return fmt.Errorf("%w: the lease of range %d is gone", replica.ErrRejected, r.rangeID)
	}
	cmd := s.command(term)
	cmd.Unfreeze = &raftcmd.UnfreezeTrigger{Attempt: attempt}
	if _, err := r.Propose(ctx, cmd); err != nil {
		return err
	}
	s.metrics.mergesAbandoned.Inc()
	s.logger.Info("a merge was given up; the right side is served again", "range", r.rangeID)
	return nil
}

// frozenJobs is what the leaseholder of a frozen range does: find out what became of the merge, unless
// it is this node that is about it.
func (s *Store) frozenJobs(r *rep, now time.Time) []job {
	if r.merging.Load() || now.Sub(r.q.lastFreeze) < frozenEvery {
		return nil
	}
	r.q.lastFreeze = now
	return []job{{"find out what became of a merge", s.resolveFreeze}}
}

// resolveFreeze ends a freeze whose merge does not come: the node that was about it lost a lease or
// died. First the left side's leaseholder makes sure that the merge can't be applied any more (S20).
func (s *Store) resolveFreeze(ctx context.Context, r *rep) error {
	ctx, cancel := context.WithTimeout(ctx, unfreezeWait)
	defer cancel()
	f := r.frozen.Load()
	if f == nil || r.mergedAway.Load() {
		return nil
	}
	d := r.desc().Clone()
	// Without this range's admin lock: it comes after the left side's.
	resp, err := sendOne[*kv.AbandonMergeResponse](ctx, &s.sender, &kv.AbandonMergeRequest{
		Key: f.LeftStart, Left: f.Left, LeftGeneration: f.LeftGeneration, RightStart: d.Start})
	if err != nil {
		return err
	}
	// The left side may have taken this range in and have been split again since. Its meta records
	// were brought up to date before that (S29): then this range has none any more.
	now, err := s.lookup(ctx, d.Start)
	switch {
	case err != nil:
		return err
	case s.mergedSince(&d, now):
		return s.dropLeftOver(r)
	case resp.Merged || now.RangeID != r.rangeID:
		return nil // meta will follow
	}
	if err := r.admin.LockContext(ctx); err != nil {
		return err
	}
	defer r.admin.Unlock()
	return proposeError(s.unfreeze(ctx, r, f.Attempt))
}

// AbandonMerge implements replica.Admin. Whoever leads the left side in a later term than the merge was
// proposed in has applied it, or it never will be (S5); in the same term the admin lock says so. The
// generation is raised all the same: no command of the attempt fits the range from there on.
func (s *Store) AbandonMerge(ctx context.Context, rr *replica.Replica, req *kv.AbandonMergeRequest) (*kv.AbandonMergeResponse, error) {
	r, err := s.led(rr)
	if err != nil {
		return nil, err
	}
	if err := r.admin.LockContext(ctx); err != nil {
		return nil, err
	}
	defer r.admin.Unlock()
	term, leads := r.leads()
	st := r.group.Load().State()
	d := st.Desc.Clone()
	if leads && d.RangeID == req.Left && d.Generation <= req.LeftGeneration && !d.Contains(req.RightStart) {
		d.Generation++
		cmd := s.command(term)
		cmd.ChangeDesc = &d
		if _, err := r.Propose(ctx, cmd); err != nil {
			return nil, proposeError(err)
		}
		return &kv.AbandonMergeResponse{}, nil
	}
	if now, still := r.leads(); !leads || !still || now != term {
		return nil, &kv.NotLeaseholderError{RangeID: r.rangeID, Leaseholder: r.trans.Leader(), Desc: r.desc(), Reason: "the lease of this node has ended"}
	}
	return &kv.AbandonMergeResponse{Merged: d.Contains(req.RightStart)}, nil
}

// pin makes a boundary that exists one that somebody asked for.
func (s *Store) pin(ctx context.Context, r *rep) (*kv.RangeDescriptor, error) {
	if err := s.settle(ctx, r); err != nil {
		return nil, err
	}
	term, ok := r.leads()
	if !ok {
		return nil, fmt.Errorf("%w: the lease of range %d is gone", replica.ErrRejected, r.rangeID)
	}
	st := r.group.Load().State()
	d := st.Desc.Clone()
	d.Generation++
	d.Pinned = true
	cmd := s.command(term)
	cmd.ChangeDesc = &d
	if _, err := r.Propose(ctx, cmd); err != nil {
		return nil, proposeError(err)
	}
	if err := s.writeMeta(ctx, &d); err != nil {
		s.logger.Warn("meta record is late after a boundary was pinned", "range", r.rangeID, "err", err)
	}
	return &d, nil
}

var _ group.Host = (*Store)(nil)
