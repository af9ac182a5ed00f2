package store

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// A change that was given up leaves a replica behind, which its node removes for good once nobody
// leads it. The descriptor never counted its ID: the next change must not stumble over it.
func TestSpentReplicaIDIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		spare := c.join("spare", "a")
		l := c.leaseholder(2)
		d := l.store.get(2).desc().Clone()
		spent := d.NextReplicaID
		require.NoError(t, l.store.createReplica(t.Context(), spare.id, spent, &d))
		spare.removeReplica(2)

		var refused *spentError
		require.ErrorAs(t, l.store.createReplica(t.Context(), spare.id, spent, &d), &refused)
		require.Equal(t, spent+1, refused.lowest)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, c.nodes[1].store.Decommission(ctx, 1, false, nil))
		c.voters(time.Minute, 2, 3, spare.id)
		rd, _ := c.leaseholder(2).store.get(2).desc().Replica(spare.id)
		require.Greater(t, rd.Replica, spent)
		c.close()
	})
}

// The same, but the change is not given up after all: another leader commits it once the node has
// removed what it was about.
func TestMemberThatItsNodeRemovedIsReplaced(t *testing.T) {
	// replaced waits until a node has a voter under another ID.
	replaced := func(c *testCluster, n *testNode, old keys.ReplicaID) {
		c.eventually(2*time.Minute, func() bool {
			now, ok := c.leaseholder(2).store.get(2).desc().Replica(n.id)
			return ok && now.Type == kv.Voter && now.Replica > old
		})
	}
	t.Run("non-voter", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, nil, "a", "b", "c")
			spare := c.join("spare", "a")
			l := c.leaseholder(2)
			r := l.store.get(2)
			c.eventually(time.Minute, func() bool { return r.busy.CompareAndSwap(false, true) }) // nobody else changes replicas
			d, err := l.store.changeReplicas(t.Context(), r.replica.Load(), &kv.AdminChangeReplicasRequest{Kind: kv.AddNonVoter, Node: spare.id}, "the test asks for it")
			require.NoError(t, err)
			rd, ok := d.Replica(spare.id)
			require.True(t, ok)
			spare.removeReplica(2)
			require.NoError(t, l.dir.SetState(t.Context(), l.sender, 1, cluster.Decommissioning))
			r.busy.Store(false)
			replaced(c, spare, rd.Replica)
			c.voters(time.Minute, 2, 3, spare.id)
			c.close()
		})
	})
	t.Run("voter", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, nil, "a", "b", "c")
			rd, ok := c.leaseholder(2).store.get(2).desc().Replica(1)
			require.True(t, ok)
			c.nodes[0].removeReplica(2)
			replaced(c, c.nodes[0], rd.Replica)
			c.voters(time.Minute, 1, 2, 3)
			c.close()
		})
	})
}

// removeReplica removes a replica for good, behind its range's back.
func (n *testNode) removeReplica(id keys.RangeID) {
	n.store.structure.Lock()
	defer n.store.structure.Unlock()
	require.NoError(n.c.t, n.store.removeLocked(n.store.get(id)))
}

// A decommission is not over while only the node that carried it out knows of it: were that node
// lost in the seconds until gossip, and the others restarted, they would count a node that is gone
// for ever, and too few would be left to agree on the time (S1). So it was once in the simulator.
func TestDecommissionIsKnownToMostBeforeItIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		spare := c.join("spare", "a")
		c.eventually(time.Minute, func() bool { return len(c.nodes[0].dir.Nodes()) == 4 })
		require.NoError(t, c.nodes[0].store.Decommission(t.Context(), spare.id, false, nil))
		for _, n := range c.nodes[1:3] {
			known, _ := n.dir.Get(spare.id)
			require.Equal(t, cluster.Decommissioned, known.State, "node %d", n.id)
		}

		// The one that knew loses its disk as the others lose their power: they serve all the same.
		c.nodes[0].kill()
		spare.kill()
		for _, n := range c.nodes[1:3] {
			n.kill()
		}
		for _, n := range c.nodes[1:3] {
			n.restart()
		}
		c.eventually(time.Minute, func() bool { return c.nodes[1].put(t.Context(), tkey(1), "v") == nil })

		c.nodes[2].kill()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := c.nodes[1].dir.Confirm(ctx, c.nodes[1].ep, 2, spare.id)
		require.ErrorContains(t, err, "2 of 3 nodes ([1 3]) have not confirmed")
		c.close()
	})
}

// A replica that stood for election, and then took entries from who won in the same term, is a candidate
// to raft that names a leader. If it is removed unheard, it must find that out all the same.
func TestRemovedCandidateAsksWhetherItBelongs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, func(cfg *Config) { cfg.AwaitRules = true }, "a", "b", "c")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(0), "x"))
		l := c.leaseholder(2)
		lost, next := c.nodes[int(l.id)%3], c.nodes[int(l.id+1)%3]
		r := lost.store.get(2)
		c.net.Isolate(lost.id)
		time.Sleep(5 * time.Second) // it supports nobody any more
		require.NoError(t, r.trans.Campaign())
		_, err := sendOne[*kv.AdminTransferLeaseResponse](t.Context(), l.sender, &kv.AdminTransferLeaseRequest{Key: tkey(0), Target: next.id})
		require.NoError(t, err)
		require.Equal(t, next, c.leaseholder(2))
		c.net.HealNode(lost.id)
		c.eventually(10*time.Second, func() bool { return r.trans.Leader() == next.id })
		c.net.Isolate(lost.id)
		require.Equal(t, raft.Candidate, r.group.Load().Raft().State())
		c.eventually(time.Minute, func() bool { return !next.store.cfg.Support.Live(lost.id) })
		_, err = next.store.ChangeReplicas(t.Context(), next.store.get(2).replica.Load(), &kv.AdminChangeReplicasRequest{Kind: kv.RemoveReplica, Node: lost.id})
		require.NoError(t, err)
		c.net.HealNode(lost.id)
		c.eventually(2*time.Minute, func() bool { return lost.store.get(2) == nil })
		c.close()
	})
}
