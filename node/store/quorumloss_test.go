package store

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/recovery"
	"github.com/atolldb/atoll/node/storage"
)

// recoveryPlan makes a plan from what a node knows, all others being lost.
func (n *testNode) recoveryPlan() (*recovery.Plan, error) {
	v := recovery.Inventory{Version: recovery.InventoryVersion, ClusterID: "test", Node: n.id, Boot: 1}
	for _, d := range n.dir.All() {
		v.Nodes = append(v.Nodes, recovery.Node{ID: d.ID, Version: d.Version, Addr: d.Addr, Zone: d.Zone, State: d.State.String(), Lost: d.Lost})
		if d.ID != n.id && n.agent.Live(d.ID) {
			v.Live = append(v.Live, d.ID)
		}
	}
	var err error
	if v.Replicas, err = n.store.Replicas(); err != nil {
		return nil, err
	}
	if v.Spent, err = n.store.Spent(); err != nil {
		return nil, err
	}
	return recovery.Make(recovery.Input{Inventories: []recovery.Inventory{v}, Now: time.Now()})
}

// stage makes a plan and has the node accept it and give the others up.
func (c *testCluster) stage(n *testNode) *recovery.Plan {
	c.t.Helper()
	var p *recovery.Plan
	var err error
	c.eventually(time.Minute, func() bool {
		if p, err = n.recoveryPlan(); err == nil {
			err = n.store.StagePlan(p)
		}
		return err == nil
	})
	for _, l := range p.Lost {
		require.NoError(c.t, n.dir.GiveUp(l.Node, l.Version))
	}
	return p
}

func floors(p *recovery.Plan) []Counter {
	return []Counter{{Key: cluster.RangeIDKey, Floor: p.RangeIDFloor}, {Key: cluster.NodeIDKey, Floor: p.NodeIDFloor}, {Key: keys.System("test/absent"), Leap: 7}}
}

func (n *testNode) recoverAll(p *recovery.Plan) error {
	ctx, cancel := context.WithTimeout(n.c.t.Context(), time.Minute)
	defer cancel()
	for i := range p.Ranges {
		if err := n.store.RecoverRange(ctx, p, p.Ranges[i].ID, floors(p)); err != nil {
			return err
		}
	}
	for i := range p.Ranges {
		if err := n.store.SettleMeta(ctx, p.Ranges[i].ID); err != nil {
			return err
		}
	}
	return nil
}

// A power cut between the rewritten state and the record of the new replica: the range serves nothing,
// and the same plan finishes it. S16, S18.
func TestRecoveryGoesOnAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		n := c.nodes[0]
		for i := range 30 {
			require.NoError(t, c.leaseholder(2).put(t.Context(), tkey(i), fmt.Sprint(i)))
		}
		c.eventually(time.Minute, func() bool {
			return n.store.get(2).group.Load().AppliedIndex() == c.leaseholder(2).store.get(2).group.Load().AppliedIndex()
		})
		c.nodes[1].kill()
		c.nodes[2].kill()
		p := c.stage(n)
		o, ok := p.Find(2)
		require.True(t, ok)

		n.store.get(2).close()
		_, err := n.store.goAlone(o, false, floors(p))
		require.NoError(t, err)
		n.kill()
		n.restart()
		half, err := n.store.rewritten(o)
		require.NoError(t, err)
		require.True(t, half)
		require.Equal(t, keys.ReplicaID(1), n.store.get(2).id)
		time.Sleep(20 * time.Second) // virtual: it would have stood for election by now
		_, leads := n.store.get(2).leads()
		require.False(t, leads, "the old replica is no voter of its own configuration")

		require.NoError(t, n.store.StagePlan(p))
		require.NoError(t, n.recoverAll(p))
		require.NoError(t, n.recoverAll(p), "once more does no harm")
		logs, err := n.engines.Log.ListRaftLogs()
		require.NoError(t, err)
		require.NotContains(t, logs, storage.ReplicaLog{Range: 2, Replica: 1})
		for i := range 30 {
			v, err := n.get(t.Context(), tkey(i))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), v)
		}
		id, err := n.store.increment(t.Context(), cluster.RangeIDKey)
		require.NoError(t, err)
		require.Greater(t, id, p.RangeIDFloor, "S18: IDs of the lost nodes' last moments are not given out")
		id, err = n.store.increment(t.Context(), keys.System("test/absent"))
		require.NoError(t, err)
		require.EqualValues(t, 8, id)

		// S29: a split that only the lost nodes had made is in meta, and nothing is left of it.
		gone := n.store.get(2).desc().Clone()
		gone.RangeID, gone.End = 99, tkey(10)
		_, err = n.sender.Send(t.Context(), &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: keys.Meta(gone.End), Value: kv.EncodeRangeDescriptor(nil, &gone)}}})
		require.NoError(t, err)
		time.Sleep(time.Second) // virtual: the write may lie ahead of the clock
		d, err := n.store.lookup(t.Context(), tkey(5))
		require.NoError(t, err)
		require.Equal(t, keys.RangeID(99), d.RangeID)
		require.NoError(t, n.store.SettleMeta(t.Context(), 2))
		d, err = n.store.lookup(t.Context(), tkey(5))
		require.NoError(t, err)
		require.Equal(t, keys.RangeID(2), d.RangeID)
		require.NoError(t, n.store.SettleMeta(t.Context(), 1))
		d, err = n.store.lookup(t.Context(), keys.MetaMin)
		require.NoError(t, err)
		require.Equal(t, keys.MetaRangeID, d.RangeID)

		n.kill()
		n.restart()
		v, err := n.get(t.Context(), tkey(7))
		require.NoError(t, err)
		require.Equal(t, "7", v)
		c.close()
	})
}

// Entries of which nobody knows whether they were committed count as committed: a split among them makes
// a right side, which has lost its quorum as well, and a second plan recovers it. S20.
func TestRecoveryTakesASplitInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		n := c.leaseholder(2)
		for i := range 30 {
			require.NoError(t, n.put(t.Context(), tkey(i), fmt.Sprint(i)))
		}
		if m := c.leaseholder(1); m != n { // the split asks for an ID first
			require.NoError(t, m.store.get(1).trans.Transfer(t.Context(), raftnet.ServerID(n.id, n.store.get(1).id), "the test wants it"))
		}
		c.leaseholder(1)
		r := n.store.get(2)
		for _, o := range c.nodes {
			if o != n {
				c.net.Cut(n.id, o.id)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, _, err := n.store.split(ctx, r, r.replica.Load(), tkey(15), 77, true)
		cancel()
		require.Error(t, err, "nobody else has it")
		for _, o := range c.nodes {
			if o != n {
				o.kill()
			}
		}
		p := c.stage(n)
		o, ok := p.Find(2)
		require.True(t, ok)
		require.Positive(t, o.InDoubt())
		require.NoError(t, n.recoverAll(p))
		require.Equal(t, tkey(15), n.store.get(2).desc().End)
		v, err := n.get(t.Context(), tkey(14))
		require.NoError(t, err)
		require.Equal(t, "14", v)

		p = c.stage(n)
		require.Len(t, p.Ranges, 1)
		require.Equal(t, keys.RangeID(77), p.Ranges[0].ID)
		require.NoError(t, n.recoverAll(p))
		for i := range 30 {
			v, err := n.get(t.Context(), tkey(i))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), v)
			require.NoError(t, n.put(t.Context(), tkey(i), "new"))
		}
		c.close()
	})
}

// Replicas that are left behind when another one was chosen are removed for good, and make room. S18.
func TestForgottenReplicasDoNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(1), "x"))
		f := c.nodes[0]
		if f == c.leaseholder(2) {
			f = c.nodes[1]
		}
		old := f.store.get(2).id
		require.NoError(t, f.store.ForgetRange(2, 40))
		require.Nil(t, f.store.get(2))
		require.NoError(t, f.store.ForgetRange(2, 40), "once more does no harm")
		d := c.leaseholder(2).store.get(2).desc().Clone()
		err := c.leaseholder(2).store.createReplica(t.Context(), f.id, old, &d)
		var spent *spentError
		require.ErrorAs(t, err, &spent)
		require.Equal(t, keys.ReplicaID(40), spent.lowest)
		c.close()
	})
}
