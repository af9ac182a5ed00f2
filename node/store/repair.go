package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/topology/allocator"
)

// health remembers since when nodes have answered, or been silent. Only the maintenance goroutine
// writes it.
type health struct {
	answers, silent map[keys.NodeID]time.Time
	// replaced are silent nodes whose address a younger node has taken: their volumes are gone (S18),
	// there is nothing to wait for.
	replaced map[keys.NodeID]bool
}

// trackHealth follows who answers.
func (s *Store) trackHealth(now time.Time) {
	next := health{answers: map[keys.NodeID]time.Time{}, silent: map[keys.NodeID]time.Time{}, replaced: map[keys.NodeID]bool{}}
	for _, n := range s.cfg.Directory.All() {
		was, is := s.health.silent, next.silent
		if n.ID == s.cfg.Node || s.cfg.Support.Live(n.ID) {
			was, is = s.health.answers, next.answers
		} else if s.isReplaced(n) {
			next.replaced[n.ID] = true
		}
		is[n.ID] = now
		if since, ok := was[n.ID]; ok {
			is[n.ID] = since
		}
	}
	s.mu.Lock()
	s.health = next
	s.mu.Unlock()
}

// isReplaced reports whether a younger node has taken a silent node's address.
func (s *Store) isReplaced(n cluster.NodeInfo) bool {
	for _, o := range s.cfg.Directory.All() {
		if o.ID > n.ID && o.Addr == n.Addr && o.State != cluster.Decommissioned && (o.ID == s.cfg.Node || s.cfg.Support.Live(o.ID)) {
			return true
		}
	}
	return false
}

// tell says how a node is.
func (h *health) tell(n *allocator.Node, now time.Time) {
	id := keys.NodeID(n.ID)
	if since, ok := h.answers[id]; ok {
		n.Health, n.For = allocator.Answers, now.Sub(since)
		return
	}
	n.Health = allocator.Silent
	if h.replaced[id] {
		n.Health = allocator.VolumeGone
	}
	if since, ok := h.silent[id]; ok {
		n.For = now.Sub(since)
	}
}

// carryOut returns the work that a change is.
func (s *Store) carryOut(d due) func(context.Context, *rep) error {
	return func(ctx context.Context, r *rep) error {
		if now := r.desc(); now != nil && now.Generation == d.generation { // else it was decided for another range
			if err := s.carryOutKind(ctx, r, d); err != nil {
				return err
			}
		}
		s.planSoon.Store(true)
		return nil
	}
}

func (s *Store) carryOutKind(ctx context.Context, r *rep, d due) error {
	node, other := keys.NodeID(d.Node), keys.NodeID(d.Other)
	switch d.Kind {
	case allocator.TransferLease:
		return s.giveLease(ctx, r, node, d.Reason)
	case allocator.AddNonVoter:
		return s.repair(ctx, r, d.generation, d.Reason, step{kv.AddNonVoter, node})
	case allocator.AddWitness:
		return s.repair(ctx, r, d.generation, d.Reason, step{kv.AddWitness, node})
	case allocator.Promote:
		return s.repair(ctx, r, d.generation, d.Reason, step{kv.PromoteToVoter, node})
	case allocator.Demote:
		return s.repair(ctx, r, d.generation, d.Reason, step{kv.DemoteToNonVoter, node})
	case allocator.Remove:
		return s.repair(ctx, r, d.generation, d.Reason, step{kv.RemoveReplica, node})
	case allocator.Replace:
		return s.repair(ctx, r, d.generation, d.Reason, step{kv.PromoteToVoter, node}, step{kv.RemoveReplica, other})
	case allocator.Grow:
		return s.repair(ctx, r, d.generation, d.Reason, step{kv.PromoteToVoter, node}, step{kv.PromoteToVoter, other})
	case allocator.TurnWitness:
		return s.repair(ctx, r, d.generation, d.Reason, step{kv.RemoveReplica, node}, step{kv.AddWitness, node}, step{kv.PromoteToVoter, node})
	case allocator.Shrink:
		return s.repair(ctx, r, d.generation, d.Reason, step{kv.RemoveReplica, node}, step{kv.RemoveReplica, other})
	default:
		return fmt.Errorf("store: range %d: this version can't %s", r.rangeID, d.Kind)
	}
}

// step is one replica change.
type step struct {
	kind kv.ReplicaChangeKind
	node keys.NodeID
}

// repair makes replica changes, each right after the one before: S19's window lies between two.
func (s *Store) repair(ctx context.Context, r *rep, generation int64, why string, steps ...step) error {
	for _, st := range steps {
		d, err := s.changeReplicas(ctx, r.replica.Load(), &kv.AdminChangeReplicasRequest{Generation: generation, Kind: st.kind, Node: st.node}, why)
		if err != nil {
			return err
		}
		generation = d.Generation
		s.metrics.repairs.Inc()
		s.logger.Info("replica change", "range", r.rangeID, "change", changeName(st.kind), "peer", st.node, "reason", why)
	}
	return nil
}

func changeName(k kv.ReplicaChangeKind) string {
	return [...]string{"add non-voter", "promote to voter", "remove", "demote to non-voter", "add witness"}[k]
}

// moveLease hands a range to a live voter on a node that keeps leases. A replica that is
// distrusted, or a witness, serves nothing: it hands its range to a node that drains if there is no other.
func (s *Store) moveLease(ctx context.Context, r *rep) error {
	var keep, drain []keys.NodeID
	for _, rd := range r.desc().Replicas {
		if rd.Node == s.cfg.Node || rd.Type != kv.Voter || rd.Quarantine != kv.Trusted || !s.cfg.Support.Live(rd.Node) {
			continue
		}
		switch n, ok := s.cfg.Directory.Get(rd.Node); {
		case ok && n.State == cluster.Decommissioned:
		case ok && n.State != cluster.Live:
			drain = append(drain, rd.Node)
		default:
			keep = append(keep, rd.Node)
		}
	}
	if r.distrusted.Load() || r.witness {
		keep = append(keep, drain...)
	}
	var errs []error
	for _, node := range keep {
		err := s.giveLease(ctx, r, node, s.whyAway(r))
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return fmt.Errorf("store: no live voter can take the lease of %s", r.desc())
	}
	return errors.Join(errs...)
}

// giveLease transfers a lease once no other change of the range is under way: one that waits for the
// meta range may take long, and must hold up nobody who can't wait.
func (s *Store) giveLease(ctx context.Context, r *rep, node keys.NodeID, why string) error {
	if err := r.admin.LockContext(ctx); err != nil {
		return fmt.Errorf("store: range %d: another change is under way: %w", r.rangeID, err)
	}
	defer r.admin.Unlock()
	return s.transfer(ctx, r, node, why)
}
