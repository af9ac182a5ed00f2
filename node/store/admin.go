package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/replica/raftcmd"
)

var _ replica.Admin = (*Store)(nil)

// led returns the rep behind a replica if this node holds the lease.
func (s *Store) led(rr *replica.Replica) (*rep, error) {
	r := s.get(rr.RangeID())
	if r == nil {
		return nil, &kv.RangeNotFoundError{RangeID: rr.RangeID(), Node: s.cfg.Node}
	}
	if _, ok := r.leads(); !ok || r.distrusted.Load() {
		return nil, &kv.NotLeaseholderError{RangeID: r.rangeID, Leaseholder: r.trans.Leader(), Desc: r.desc(), Reason: "this node does not hold the lease"}
	}
	return r, nil
}

// proposeError turns the fate of a structure change into an answer.
func proposeError(err error) error {
	if errors.Is(err, replica.ErrAmbiguous) {
		return &kv.AmbiguousError{Detail: err.Error()}
	}
	return err
}

// Split implements replica.Admin.
func (s *Store) Split(ctx context.Context, rr *replica.Replica, req *kv.AdminSplitRequest) (*kv.AdminSplitResponse, error) {
	// Who asks for a boundary keeps it, unless the request says otherwise.
	return s.splitPinned(ctx, rr, req, "it was asked for", !req.MayMerge)
}

// splitAt makes a boundary that a merge may take away again.
func (s *Store) splitAt(ctx context.Context, rr *replica.Replica, req *kv.AdminSplitRequest, why string) (*kv.AdminSplitResponse, error) {
	return s.splitPinned(ctx, rr, req, why, false)
}

func (s *Store) splitPinned(ctx context.Context, rr *replica.Replica, req *kv.AdminSplitRequest, why string, pinned bool) (*kv.AdminSplitResponse, error) {
	r, err := s.led(rr)
	if err != nil {
		return nil, err
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	desc := rr.Desc()
	switch {
	case req.SplitKey.Equal(desc.Start):
		if pinned && !desc.Pinned {
			if desc, err = s.pin(ctx, r); err != nil {
				return nil, err
			}
		}
		return &kv.AdminSplitResponse{Left: desc.Clone(), Right: desc.Clone()}, nil
	case !desc.Contains(req.SplitKey):
		return nil, &kv.RangeKeyMismatchError{Span: keys.Span{Key: req.SplitKey}, Descs: []kv.RangeDescriptor{desc.Clone()}}
	case desc.RangeID == keys.MetaRangeID:
		return nil, &kv.InvalidRequestError{Detail: "the meta range can't be split"}
	}
	if err := s.settle(ctx, r); err != nil {
		return nil, err
	}
	id, err := s.increment(ctx, cluster.RangeIDKey)
	if err != nil {
		return nil, fmt.Errorf("store: allocating a range ID: %w", err)
	}
	left, right, err := s.split(ctx, r, rr, req.SplitKey, keys.RangeID(id), pinned)
	if err != nil {
		return nil, proposeError(err)
	}
	s.recordSplit(left, right, why)
	// S29: left, then right. What fails here the meta queue makes good.
	if err := s.writeMeta(ctx, left); err == nil {
		err = s.writeMeta(ctx, right)
		if err != nil {
			s.logger.Warn("meta record of a new range is late", "range", right.RangeID, "err", err)
		}
	} else {
		s.logger.Warn("meta record of a split range is late", "range", left.RangeID, "err", err)
	}
	return &kv.AdminSplitResponse{Left: *left, Right: *right}, nil
}

// split replicates the split itself.
func (s *Store) split(ctx context.Context, r *rep, rr *replica.Replica, at keys.Key, id keys.RangeID, pinned bool) (left, right *kv.RangeDescriptor, err error) {
	frozen, err := rr.Freeze(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer frozen.Release()
	l, rt := rr.Desc().Clone(), rr.Desc().Clone()
	if !l.Contains(at) || at.Equal(l.Start) {
		return nil, nil, &kv.RangeKeyMismatchError{Span: keys.Span{Key: at}, Descs: []kv.RangeDescriptor{l}}
	}
	if !sameMembers(r.group.Load().State().Config, &l) {
		return nil, nil, fmt.Errorf("%w: a replica change of range %d is under way", replica.ErrRejected, r.rangeID)
	}
	l.End, l.Generation = at.Clone(), l.Generation+1
	rt.Pinned = pinned
	rt.RangeID, rt.Start, rt.Generation = id, at.Clone(), rt.Generation+1
	rt.Replicas = nil
	for i, rd := range l.Replicas {
		rd.Replica = keys.ReplicaID(i + 1)
		rt.Replicas = append(rt.Replicas, rd)
	}
	rt.NextReplicaID = keys.ReplicaID(len(rt.Replicas) + 1)
	cmd := s.command(frozen.Term)
	cmd.Split = &raftcmd.SplitTrigger{Left: l, Right: rt, HighWater: frozen.HighWater}
	if _, err := r.Propose(ctx, cmd); err != nil {
		return nil, nil, err
	}
	return &l, &rt, nil
}

func newID() raftcmd.ID { return raftcmd.ID(uuid.New()) }

// command returns a command of the store's own, to be proposed once. It has no ID: what keeps it from
// being applied twice is the descriptor's generation, and a horizon in the future, which a merge
// leaves for a moment (S12, S20), must not stop it.
func (s *Store) command(term uint64) *raftcmd.Command {
	return &raftcmd.Command{Term: term, Proposer: s.cfg.Node}
}

// sameMembers reports whether a raft configuration and a descriptor name the same replicas, and as
// the same kinds.
func sameMembers(c raft.Configuration, d *kv.RangeDescriptor) bool {
	if len(c.Servers) != len(d.Replicas) {
		return false
	}
	want := map[raft.ServerID]raft.Server{}
	for _, sv := range group.Configuration(d).Servers {
		want[sv.ID] = sv
	}
	for _, sv := range c.Servers {
		if want[sv.ID] != sv {
			return false
		}
	}
	return true
}

// increment adds one to a counter in the system keys.
func (s *Store) increment(ctx context.Context, key keys.Key) (int64, error) {
	resp, err := sendOne[*kv.IncrementResponse](ctx, &s.sender, &kv.IncrementRequest{Key: key, Delta: 1})
	if err != nil {
		return 0, err
	}
	return resp.NewValue, nil
}

func sendOne[T kv.Response](ctx context.Context, snd kv.Sender, req kv.Request) (T, error) {
	var zero T
	br, err := snd.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{req}})
	if err != nil {
		return zero, err
	}
	waitOut(ctx, br.Timestamp)
	if len(br.Responses) == 1 {
		if resp, ok := br.Responses[0].(T); ok {
			return resp, nil
		}
	}
	return zero, fmt.Errorf("store: unexpected answer to %T", req)
}

// waitOut waits until a write's timestamp has passed (S1): after a lease moved it lies ahead,
// and the next read, at the clock's time, would not see it.
func waitOut(ctx context.Context, ts hlc.Timestamp) {
	d := min(time.Until(ts.Time())+time.Microsecond, maxWaitOut)
	if ts.IsEmpty() || d <= time.Microsecond {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

const maxWaitOut = 2 * time.Second

// TransferLease implements replica.Admin.
func (s *Store) TransferLease(ctx context.Context, rr *replica.Replica, req *kv.AdminTransferLeaseRequest) error {
	r, err := s.led(rr)
	if err != nil {
		return err
	}
	if req.Target == s.cfg.Node {
		return nil // also while a merge asks for it, which has the lock
	}
	if err := r.admin.LockContext(ctx); err != nil {
		return err
	}
	defer r.admin.Unlock()
	return s.transfer(ctx, r, req.Target, "it was asked to")
}

// transfer hands the range's lease to a node's voter. The transport gives the lease up
// before it asks the target to campaign (S3).
func (s *Store) transfer(ctx context.Context, r *rep, target keys.NodeID, why string) error {
	if target == s.cfg.Node {
		return nil
	}
	if f := r.frozen.Load(); f != nil && !r.distrusted.Load() {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("range %d is being merged into range %d: its lease stays where it is; try again", r.rangeID, f.Left)}
	}
	rd, ok := r.desc().Replica(target)
	if !ok || rd.Type != kv.Voter || rd.Quarantine != kv.Trusted {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("node %d holds no voter of %s that may take the lease", target, r.desc())}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := r.trans.Transfer(ctx, raftnet.ServerID(target, rd.Replica), why); err != nil {
		return fmt.Errorf("store: transfer of range %d to node %d: %w", r.rangeID, target, err)
	}
	s.metrics.transfers.Inc()
	return nil
}
