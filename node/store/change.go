package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/group"
)

const (
	// caughtUpEntries is how far a non-voter may be behind when it becomes a voter.
	caughtUpEntries = 32
	// freshContact is how long ago a follower may have answered to count as reachable; an
	// idle one is asked every nine seconds at the latest (raftnet).
	freshContact = 10 * time.Second
	changeWait   = 30 * time.Second
)

// ChangeReplicas implements replica.Admin: one step (SAFETY S19).
func (s *Store) ChangeReplicas(ctx context.Context, rr *replica.Replica, req *kv.AdminChangeReplicasRequest) (*kv.RangeDescriptor, error) {
	return s.changeReplicas(ctx, rr, req, "it was asked for")
}

func (s *Store) changeReplicas(ctx context.Context, rr *replica.Replica, req *kv.AdminChangeReplicasRequest, why string) (*kv.RangeDescriptor, error) {
	r, err := s.led(rr)
	if err != nil {
		return nil, err
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	if err := s.settle(ctx, r); err != nil {
		return nil, err
	}
	if g := rr.Desc().Generation; req.Generation != 0 && g != req.Generation {
		return nil, &kv.InvalidRequestError{Detail: fmt.Sprintf("range %d has generation %d, the change was decided at %d; decide again", r.rangeID, g, req.Generation)}
	}
	switch req.Kind {
	case kv.AddNonVoter, kv.AddWitness:
		err = s.addLearner(ctx, r, req.Node, req.Kind)
	case kv.PromoteToVoter:
		err = s.promote(ctx, r, req.Node)
	case kv.RemoveReplica:
		err = s.removeMember(ctx, r, req.Node)
	case kv.DemoteToNonVoter:
		err = s.demote(ctx, r, req.Node)
	default:
		err = &kv.InvalidRequestError{Detail: fmt.Sprintf("unknown replica change %d", req.Kind)}
	}
	if err != nil {
		return nil, proposeError(err)
	}
	s.recordChange(r.rangeID, req.Kind, req.Node, why)
	d := rr.Desc().Clone()
	if err := s.writeMeta(ctx, &d); err != nil {
		s.logger.Warn("meta record is late after a replica change", "range", r.rangeID, "err", err)
	}
	return &d, nil
}

// settle brings descriptor and meta record up to date before a further change (S19, S29).
func (s *Store) settle(ctx context.Context, r *rep) error {
	if err := s.followConfig(ctx, r); err != nil {
		return proposeError(err)
	}
	d := r.desc().Clone()
	if err := s.writeMeta(ctx, &d); err != nil {
		return fmt.Errorf("store: range %d: its meta record must be brought up to date first: %w", r.rangeID, err)
	}
	return nil
}

// followConfig makes the descriptor say what the raft configuration is: that one is the
// truth, and a crash between the two leaves the descriptor behind.
func (s *Store) followConfig(ctx context.Context, r *rep) error {
	st := r.group.Load().State()
	if sameMembers(st.Config, &st.Desc) {
		return nil
	}
	d := st.Desc.Clone()
	d.Generation++
	d.Replicas = nil
	distrust := map[keys.ReplicaID]kv.Quarantine{}
	for _, rd := range st.Desc.Replicas {
		distrust[rd.Replica] = rd.Quarantine
	}
	for _, sv := range st.Config.Servers {
		node, id, err := raftnet.ParseServerID(sv.ID)
		if err != nil {
			return err
		}
		rd := kv.ReplicaDescriptor{Node: node, Replica: id, Quarantine: distrust[id]}
		if rd.Type, err = replicaType(sv); err != nil {
			return err
		}
		d.Replicas = append(d.Replicas, rd)
		d.NextReplicaID = max(d.NextReplicaID, id+1)
	}
	term, ok := r.leads()
	if !ok {
		return fmt.Errorf("%w: the lease of range %d is gone", replica.ErrRejected, r.rangeID)
	}
	cmd := s.command(term)
	cmd.ChangeDesc = &d
	_, err := r.Propose(ctx, cmd)
	return err
}

// replicaType is what a server of a raft configuration is.
func replicaType(sv raft.Server) (kv.ReplicaType, error) {
	witness, err := raftnet.IsWitness(sv)
	switch votes := sv.Suffrage == raft.Voter; {
	case witness && votes:
		return kv.Witness, err
	case witness:
		return kv.NewWitness, err
	case votes:
		return kv.Voter, err
	}
	return kv.NonVoter, err
}

// reconfigure makes one raft configuration change and lets the descriptor follow.
func (s *Store) reconfigure(ctx context.Context, r *rep, kind group.Change, id raft.ServerID) error {
	ctx, cancel := context.WithTimeout(ctx, changeWait)
	defer cancel()
	if f := r.frozen.Load(); f != nil {
		// REQUIRES: S20. Every replica that applied the freeze must be there when the merge is applied.
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("range %d is being merged into range %d: its replicas stay; try again", r.rangeID, f.Left)}
	}
	g := r.group.Load()
	if err := g.ChangeConfig(ctx, kind, id, g.State().ConfigIndex); err != nil {
		return fmt.Errorf("store: range %d: membership change of %s: %w", r.rangeID, id, err)
	}
	s.metrics.changes.Inc()
	return s.followConfig(ctx, r)
}

// addLearner makes a replica that does not vote yet: one with data, or a witness (S22).
func (s *Store) addLearner(ctx context.Context, r *rep, node keys.NodeID, kind kv.ReplicaChangeKind) error {
	typ, change := kv.NonVoter, group.AddLearner
	if kind == kv.AddWitness {
		typ, change = kv.NewWitness, group.AddWitness
	}
	d := r.desc().Clone()
	if _, ok := d.Replica(node); ok {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("node %d has a replica of %s already", node, &d)}
	}
	id := d.NextReplicaID
	d.Replicas = append(d.Replicas, kv.ReplicaDescriptor{Node: node, Replica: id, Type: typ})
	added := &d.Replicas[len(d.Replicas)-1]
	err := s.createReplica(ctx, node, id, &d)
	if spent := (*spentError)(nil); errors.As(err, &spent) && spent.lowest > id {
		// A former leader had got as far as this with the ID, and no further (S18).
		id = spent.lowest
		added.Replica = id
		err = s.createReplica(ctx, node, id, &d)
	}
	if err != nil {
		return fmt.Errorf("store: making replica %d of range %d on node %d: %w", id, r.rangeID, node, err)
	}
	return s.reconfigure(ctx, r, change, raftnet.ServerID(node, id))
}

// caughtUp reports whether a follower has the log.
func (r *rep) caughtUp(id raft.ServerID) bool {
	g := r.group.Load()
	p := g.Peer(id)
	heard := min(time.Since(p.Restored), r.trans.Silence(id))
	return !p.Lost && p.Match > 0 && p.Match+caughtUpEntries >= g.LastIndex() && heard < freshContact
}

func (s *Store) promote(ctx context.Context, r *rep, node keys.NodeID) error {
	rd, ok := r.desc().Replica(node)
	if !ok || rd.Type.Votes() {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("node %d has no replica of %s without a vote", node, r.desc())}
	}
	if rd.Quarantine != kv.Trusted {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("replica %d of range %d is quarantined: %s", rd.Replica, r.rangeID, rd.Quarantine)}
	}
	id := raftnet.ServerID(node, rd.Replica)
	ctx, cancel := context.WithTimeout(ctx, changeWait)
	defer cancel()
	for !r.caughtUp(id) {
		t := time.NewTimer(50 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return &kv.UnavailableError{RangeID: r.rangeID, Waited: changeWait, Detail: fmt.Sprintf("the replica on node %d has not caught up; try again", node)}
		}
		if _, ok := r.leads(); !ok {
			return fmt.Errorf("%w: the lease is gone", replica.ErrRejected)
		}
	}
	if err := s.awaitCopies(ctx, r, rd, true); err != nil {
		return err
	}
	return s.reconfigure(ctx, r, group.AddVoter, id)
}

// errNeedsTransfer refuses the removal of the leaseholder's own replica, or of its vote.
var errNeedsTransfer = errors.New("store: the leaseholder's own replica can't be removed or demoted; transfer the lease first")

// votesWithout refuses to take the vote of a replica that the range can't do without.
func (s *Store) votesWithout(ctx context.Context, r *rep, rd kv.ReplicaDescriptor) error {
	if rd.Node == s.cfg.Node {
		return errNeedsTransfer
	}
	if !rd.Type.Votes() {
		return nil
	}
	d := r.desc()
	voters, reachable := 0, 0
	for _, o := range d.Replicas {
		if !o.Type.Votes() {
			continue
		}
		voters++
		if o.Node != rd.Node && (o.Node == s.cfg.Node || s.cfg.Support.Live(o.Node) && r.caughtUp(raftnet.ServerID(o.Node, o.Replica))) {
			reachable++
		}
	}
	if quorum := voters/2 + 1; reachable < quorum && voters > 2 || reachable < 1 {
		// REQUIRES: S19
		return fmt.Errorf("%w: without the vote of node %d there would be %d reachable voters of %s, fewer than the quorum of %d",
			replica.ErrRejected, rd.Node, reachable, d, quorum)
	}
	return s.awaitCopies(ctx, r, rd, false)
}

// demote takes a replica's vote and keeps the replica.
func (s *Store) demote(ctx context.Context, r *rep, node keys.NodeID) error {
	rd, ok := r.desc().Replica(node)
	if !ok || !rd.Type.Votes() {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("node %d has no voter of %s", node, r.desc())}
	}
	if err := s.votesWithout(ctx, r, rd); err != nil {
		return err
	}
	return s.reconfigure(ctx, r, group.Demote, raftnet.ServerID(node, rd.Replica))
}

func (s *Store) removeMember(ctx context.Context, r *rep, node keys.NodeID) error {
	rd, ok := r.desc().Replica(node)
	if !ok {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("node %d has no replica of %s", node, r.desc())}
	}
	if err := s.votesWithout(ctx, r, rd); err != nil {
		return err
	}
	if err := s.reconfigure(ctx, r, group.Remove, raftnet.ServerID(node, rd.Replica)); err != nil {
		return err
	}
	if s.cfg.Support.Live(node) {
		now := r.desc().Clone()
		s.spawn(func() {
			ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
			defer cancel()
			if _, err := s.callReplica(ctx, node, raftnet.MethodReplicaRemove, rd.Replica, &now); err != nil {
				s.logger.Debug("a removed replica could not be told; it will find out", "range", r.rangeID, "peer", node, "err", err)
			}
		})
	}
	return nil
}
