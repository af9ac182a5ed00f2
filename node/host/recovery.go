package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/events"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/recovery"
	"github.com/atolldb/atoll/node/store"
)

// What an operator asks of a node after ranges have lost their quorums for good (package recovery). The
// caller needs no identity, but what every caller between nodes needs: a node's certificate. Only an
// operator calls this; nothing in a node does.

// recoveryLock is a mutex for what is held while time passes.
type recoveryLock chan struct{}

func (l recoveryLock) lock(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l recoveryLock) unlock() { <-l }

// stepLimit bounds a step. It does not end with the caller's connection, which may be closed meanwhile:
// what was begun is finished, and the same step asked for again finds it done.
const stepLimit = 30 * time.Second

func (n *Node) handleRecovery() {
	n.Net.Handle(raftnet.MethodRecoveryInventory, n.onInventory)
	n.Net.Handle(raftnet.MethodRecoveryStage, n.onStage)
	n.Net.Handle(raftnet.MethodRecoveryStep, n.onStep)
}

// Inventory describes this node and its replicas. It needs no quorum.
func (n *Node) Inventory() (*recovery.Inventory, error) {
	v := &recovery.Inventory{ClusterID: n.Identity.ClusterID, Node: n.Identity.Node, Boot: n.Boot}
	for _, d := range n.Directory.All() {
		v.Nodes = append(v.Nodes, recovery.Node{ID: d.ID, Version: d.Version, Addr: d.Addr, Region: d.Region, Zone: d.Zone, State: d.State.String(), Lost: d.Lost})
		if d.ID != n.Identity.Node && n.Agent.Live(d.ID) {
			v.Live = append(v.Live, d.ID)
		}
	}
	var err error
	if v.Replicas, err = n.Store.Replicas(); err != nil {
		return nil, err
	}
	if v.Spent, err = n.Store.Spent(); err != nil {
		return nil, err
	}
	if v.Recovered, err = n.Store.Recovered(); err != nil {
		return nil, err
	}
	p, err := n.Store.StagedPlan()
	if err == nil && p != nil {
		v.Staged = p.ID
	}
	return v, err
}

func (n *Node) onInventory(context.Context, keys.NodeID, []byte) ([]byte, error) {
	v, err := n.Inventory()
	if err != nil {
		return nil, err
	}
	return v.Encode()
}

// onStage accepts a plan if this node's state is still what the plan saw.
func (n *Node) onStage(ctx context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	p, err := recovery.DecodePlan(payload)
	if err != nil {
		return nil, err
	}
	if err := n.recovering.lock(ctx); err != nil {
		return nil, err
	}
	defer n.recovering.unlock()
	if p.ClusterID != n.Identity.ClusterID {
		return nil, fmt.Errorf("host: the plan is for cluster %s, this node belongs to %s", p.ClusterID, n.Identity.ClusterID)
	}
	self, ok := p.Survivor(n.Identity.Node)
	if !ok {
		return nil, fmt.Errorf("host: node %d has no part in the plan: make a new one", n.Identity.Node)
	}
	staged, err := n.Store.StagedPlan()
	if err != nil {
		return nil, err
	}
	// Once accepted, a plan outlives restarts: it may have been carried out in part.
	if again := staged != nil && staged.ID == p.ID; !again && self.Boot != n.Boot {
		return nil, fmt.Errorf("host: node %d was started again since the plan was made (boot %d, now %d): make a new plan", self.Node, self.Boot, n.Boot)
	}
	if err := n.Store.CheckLost(p); err != nil {
		return nil, err
	}
	return nil, n.Store.StagePlan(p)
}

// onStep does a part of the plan that was accepted here.
func (n *Node) onStep(ctx context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	st, err := recovery.DecodeStep(payload)
	if err != nil {
		return nil, err
	}
	if err := n.recovering.lock(ctx); err != nil {
		return nil, err
	}
	defer n.recovering.unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepLimit)
	defer cancel()
	p, err := n.Store.StagedPlan()
	if err != nil {
		return nil, err
	}
	if p == nil || p.ID != st.Plan {
		return nil, fmt.Errorf("host: node %d has not accepted plan %s: apply it from its beginning", n.Identity.Node, st.Plan)
	}
	switch st.Kind {
	case recovery.GiveUp:
		return nil, n.giveUp(p)
	case recovery.Recover:
		return nil, n.recoverRanges(ctx, p, st.Ranges)
	case recovery.Clear:
		return nil, n.clearOthers(ctx, p)
	case recovery.Announce:
		return nil, n.Directory.Republish(ctx, n.Sender)
	case recovery.Settle:
		return nil, n.settleRanges(ctx, st.Ranges)
	}
	return nil, fmt.Errorf("host: unknown step %q of a recovery: the node may run an older version", st.Kind)
}

// giveUp marks the lost nodes, durably, and ends what connections there are with them (S18). S1 counts
// them no more.
func (n *Node) giveUp(p *recovery.Plan) error {
	if err := n.Store.CheckLost(p); err != nil {
		return err
	}
	for _, l := range p.Lost {
		if n.Directory.Lost(l.Node) {
			continue
		}
		if err := n.Directory.GiveUp(l.Node, l.Version); err != nil {
			return err
		}
		n.Events.Record(events.Event{Kind: events.Recovery, Other: l.Node, What: fmt.Sprintf("node %d was given up as lost for good", l.Node),
			Cause: "an operator applied recovery plan " + p.ID[:12]})
	}
	if b, ok := n.Net.(barrier); ok {
		b.DropBarred()
	}
	return nil
}

// recoverRanges recovers ranges from this node's replicas.
func (n *Node) recoverRanges(ctx context.Context, p *recovery.Plan, ids []keys.RangeID) error {
	for _, l := range p.Lost {
		if !n.Directory.Lost(l.Node) {
			return fmt.Errorf("host: node %d has not given up node %d yet: apply the plan from its beginning", n.Identity.Node, l.Node)
		}
	}
	counters := []store.Counter{{Key: cluster.RangeIDKey, Floor: p.RangeIDFloor}, {Key: cluster.NodeIDKey, Floor: p.NodeIDFloor}}
	for _, key := range n.counters {
		counters = append(counters, store.Counter{Key: key, Leap: recovery.ObjectLeap})
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, n.Store.RecoverRange(ctx, p, id, counters))
	}
	return errors.Join(errs...)
}

// clearOthers removes this node's replicas of ranges that were recovered elsewhere, as their nodes say
// themselves, and of those that other ranges have taken the place of.
func (n *Node) clearOthers(ctx context.Context, p *recovery.Plan) error {
	done, err := n.recoveredAt(ctx, p)
	if err != nil {
		return err
	}
	var errs []error
	for i := range p.Ranges {
		r := &p.Ranges[i]
		switch {
		case r.Source.Node == n.Identity.Node:
		case !done[r.ID]:
			errs = append(errs, fmt.Errorf("host: node %d has not recovered range %d, so node %d keeps its replica", r.Source.Node, r.ID, n.Identity.Node))
		default:
			errs = append(errs, n.Store.ForgetRange(r.ID, r.NewReplica))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, s := range p.Superseded {
		errs = append(errs, n.Store.ForgetRange(s.ID, s.Lowest))
	}
	return errors.Join(errs...)
}

// recoveredAt asks the plan's sources what they have durably recovered.
func (n *Node) recoveredAt(ctx context.Context, p *recovery.Plan) (map[keys.RangeID]bool, error) {
	sources := map[keys.NodeID]bool{}
	for i := range p.Ranges {
		if node := p.Ranges[i].Source.Node; node != n.Identity.Node {
			sources[node] = true
		}
	}
	done := map[keys.RangeID]bool{}
	for node := range sources {
		b, err := n.Net.Call(ctx, node, raftnet.Control, raftnet.MethodRecoveryInventory, nil)
		if err != nil {
			return nil, fmt.Errorf("host: asking node %d what it has recovered: %w", node, err)
		}
		v, err := recovery.DecodeInventory(b)
		if err != nil {
			return nil, err
		}
		for _, r := range v.Recovered {
			if r.Plan == p.ID {
				done[r.Range] = true
			}
		}
	}
	return done, nil
}

// settleRanges brings the meta records of ranges up to date; without any, those of all ranges that are
// led here are looked at again.
func (n *Node) settleRanges(ctx context.Context, ids []keys.RangeID) error {
	if len(ids) == 0 {
		n.Store.RefreshMeta()
		return nil
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, n.Store.SettleMeta(ctx, id))
	}
	return errors.Join(errs...)
}

// barrier is a network that speaks with no node that was given up.
type barrier interface {
	Bar(lost func(keys.NodeID) bool)
	DropBarred()
}

// refuseLost ends a node that the cluster has given up, as far as its own copy of the directory says.
func (n *Node) refuseLost() error {
	if n.Directory.Lost(n.Identity.Node) {
		return fmt.Errorf("node %d: %w", n.Identity.Node, cluster.ErrLost)
	}
	if b, ok := n.Net.(barrier); ok {
		b.Bar(n.Directory.Lost)
	}
	return nil
}

// watchLost ends this node once it learns that it was given up.
func (n *Node) watchLost(ctx context.Context, fatal func(error)) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n.Directory.Lost(n.Identity.Node) {
			fatal(fmt.Errorf("node %d: %w", n.Identity.Node, cluster.ErrLost))
			return
		}
	}
}
