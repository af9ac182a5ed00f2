package store

import (
	"context"
	"time"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/allocator"
	"github.com/atolldb/atoll/topology/placement"
)

const (
	balanceEvery = 10 * time.Second
	// fewLeases is how many leases a node may have without looking at what others have: a lease is
	// best left where it is, as long as there is little to even out.
	fewLeases = 16
)

// balanceLeases gives leases to nodes that have clearly fewer, a few at a time, as the allocator
// decides. It asks the other nodes what they have; one that does not answer is given nothing.
func (s *Store) balanceLeases() {
	if s.leases() <= fewLeases {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, workTimeout)
	defer cancel()
	s.balanceTurn++
	v := s.leaseView(s.statuses(ctx), s.balanceTurn)
	plan, err := allocator.PlanView(v)
	if err != nil {
		s.logger.Error("leases are not balanced", "err", err)
		return
	}
	for _, c := range plan.Changes {
		if c.Kind != allocator.TransferLease || c.Priority != allocator.Load {
			continue // replicas are repair's (repair.go), and what drains gives its leases away itself
		}
		if s.draining.Load() || s.full.Load() || ctx.Err() != nil {
			return
		}
		r := s.get(keys.RangeID(c.Range))
		if r == nil {
			continue
		}
		r.admin.Lock()
		err := s.transfer(ctx, r, keys.NodeID(c.Node), c.Reason)
		r.admin.Unlock()
		if err != nil {
			s.logger.Debug("lease stays", "range", c.Range, "err", err)
		}
	}
}

// leaseView is what the allocator sees: all nodes, and the ranges whose leases are here. What one
// replica or lease costs is not measured, so each counts the same.
func (s *Store) leaseView(has map[keys.NodeID]status, turn uint64) allocator.View {
	v := allocator.View{Turn: turn, Rules: []placement.Rule{{Policy: "the cluster's", Survive: topology.ZoneTier, Voters: s.cfg.Voters}}}
	v.Settings.Planners = min(len(has), 1024)
	rule := &v.Rules[0]
	for _, n := range s.cfg.Directory.All() {
		l := topology.Locality{Region: n.Region, Zone: place(n)}
		rule.Add(placement.Zone{Locality: l, Voter: placement.Data})
		node := allocator.Node{ID: allocator.NodeID(n.ID), Locality: l, Membership: membership(n.State), Health: allocator.Silent}
		if st := has[n.ID]; st.counted && !s.isDead(n.ID) {
			node.Health, node.Replicas, node.Leases, node.For = allocator.Answers, st.replicas, st.leases, s.answersFor(n.ID)
		}
		v.Nodes = append(v.Nodes, node)
	}
	now := time.Now()
	for _, r := range s.all() {
		if d := r.desc(); d != nil && !r.busy.Load() {
			if _, ok := r.leads(); ok {
				v.Ranges = append(v.Ranges, s.leaseRange(r, d, now))
			}
		}
	}
	return v
}

func membership(st cluster.NodeState) allocator.Membership {
	switch st {
	case cluster.Live:
		return allocator.Active
	case cluster.Decommissioning:
		return allocator.Decommissioning
	case cluster.Decommissioned:
		return allocator.Decommissioned
	}
	return allocator.Draining // gives leases away, or has not taken part yet
}

func (s *Store) leaseRange(r *rep, d *kv.RangeDescriptor, now time.Time) allocator.Range {
	out := allocator.Range{ID: allocator.RangeID(d.RangeID), Leaseholder: allocator.NodeID(s.cfg.Node), LeaseFor: now.Sub(time.Unix(0, r.leaseSince.Load()))}
	for _, rd := range d.Replicas {
		rep := allocator.Replica{Node: allocator.NodeID(rd.Node), Distrusted: rd.Quarantine != kv.Trusted,
			CaughtUp: rd.Node == s.cfg.Node || r.caughtUp(raftnet.ServerID(rd.Node, rd.Replica))}
		if rd.Type == kv.NonVoter {
			rep.Type = allocator.NonVoter
		}
		out.Replicas = append(out.Replicas, rep)
	}
	return out
}
