package raftnet_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
)

// A blackholed leader's ranges have a lease elsewhere well within a second, and the old
// leader's lease has ended before.
func TestFailoverAfterBlackhole(t *testing.T) {
	for i, ranges := range []int{1, 100, 20, 20} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 1, 3, ranges)
			// Raft's own lease timeout is 5 s: before that, the one who was cut off leads still.
			cutOff := []time.Duration{5, 5, 4, 1}[i] * time.Second
			first := c.leased(5*time.Second, 0)
			c.moveAll(1)
			time.Sleep(10 * time.Second)
			for id := keys.RangeID(1); int(id) <= ranges; id++ {
				require.Equal(t, keys.NodeID(1), c.holder(id), "an idle lease stays")
			}
			c.net.Isolate(1)
			d := c.leased(3*time.Second, 1)
			t.Logf("%d ranges: first leases after %v, taken over after %v", ranges, first, d)
			require.Less(t, d, 800*time.Millisecond)
			time.Sleep(cutOff)
			c.net.HealAll()
			time.Sleep(5 * time.Second)
			c.leased(time.Second, 0)
			for id := keys.RangeID(1); int(id) <= ranges; id++ {
				require.NotEqual(t, keys.NodeID(1), c.holder(id), "a healed node disturbs nobody")
			}
			c.close()
		})
	}
}

// A witness (S22) takes nothing over while a node with data can, even where it would be first. Where its
// log is ahead it is elected, at once, has no lease, and hands on what it brought up to date.
func TestWitnessComesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, 3, 20, func(c *cluster) { c.witness = 3 })
		c.leased(5*time.Second, 0)
		c.moveAll(1)
		c.net.Isolate(1)
		require.Less(t, c.leased(3*time.Second, 1), 800*time.Millisecond)
		for id := keys.RangeID(1); int(id) <= c.ranges; id++ {
			require.Equal(t, keys.NodeID(2), c.holder(id))
		}
		c.net.HealAll()
		time.Sleep(5 * time.Second)

		c.net.Isolate(1)
		for _, r := range c.node(2).reps {
			require.NoError(t, r.r.Apply([]byte("x"), 0).Error())
		}
		c.net.HealNode(1)
		c.net.Isolate(2)
		start := time.Now()
		for _, r := range c.node(3).reps {
			for r.r.State() != raft.Leader {
				require.Less(t, time.Since(start), 2*time.Second)
				time.Sleep(time.Millisecond)
			}
		}
		t.Logf("elected for its log after %v", time.Since(start))
		for _, r := range c.node(3).reps {
			for r.appliedTerm() != r.r.CurrentTerm() {
				time.Sleep(time.Millisecond)
			}
			require.False(t, r.tr.Lease().Valid)
			require.NoError(t, r.tr.Transfer(t.Context(), raftnet.ServerID(1, 1), "a test"))
		}
		t.Logf("leases with the data after %v", c.leased(time.Second, 2))
		for _, r := range c.node(1).reps {
			require.Equal(t, []string{"x"}, r.fsm.applied())
		}
		c.close()
	})
}

// A node that only hears, or is only heard, loses its leases as well.
func TestOneWayCuts(t *testing.T) {
	for _, deaf := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 2, 3, 5)
			c.leased(5*time.Second, 0)
			c.moveAll(1)
			time.Sleep(time.Second)
			for _, o := range []keys.NodeID{2, 3} {
				if deaf {
					c.net.CutOneWay(o, 1)
				} else {
					c.net.CutOneWay(1, o)
				}
			}
			start := time.Now()
			if deaf {
				// Its heartbeats arrive: the others go on supporting it, although it does
				// not count them. It must not serve.
				time.Sleep(600 * time.Millisecond)
				for id := keys.RangeID(1); id <= 5; id++ {
					require.NotEqual(t, keys.NodeID(1), c.holder(id))
				}
			}
			c.leased(3*time.Second, 1)
			t.Logf("deaf %v: taken over after %v", deaf, time.Since(start))
			c.net.HealAll()
			time.Sleep(3 * time.Second)
			c.leased(time.Second, 0)
			c.close()
		})
	}
}

// A restart of the leader's node, shorter than the support period, and of the whole
// cluster.
func TestRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 3, 10)
		c.leased(5*time.Second, 0)
		c.moveAll(1)
		time.Sleep(time.Second)
		c.node(1).stop()
		time.Sleep(50 * time.Millisecond)
		c.node(1).start()
		t.Logf("leader restarted: leases after %v", c.leased(3*time.Second, 0))
		time.Sleep(time.Second)
		for _, n := range c.nodes {
			n.stop()
		}
		for _, n := range c.nodes {
			n.start()
		}
		t.Logf("all restarted: leases after %v", c.leased(5*time.Second, 0))
		c.close()
	})
}

// Transfers are quick, and the low-water mark lies above what was served.
func TestTransferAndLowWater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4, 3, 1)
		c.leased(5*time.Second, 0)
		for i := range 9 {
			h := c.holder(1)
			to := keys.NodeID(i%3 + 1)
			if to == h {
				continue
			}
			served := c.node(h).reps[1].tr.Lease().ReadLimit
			start := time.Now()
			c.moveAll(to)
			d := time.Since(start)
			require.Less(t, d, 100*time.Millisecond)
			low := c.node(to).reps[1].tr.LowWater()
			require.False(t, low.Less(served), "low-water mark %s is below the served limit %s", low, served)
		}
		h := c.holder(1)
		served := c.node(h).reps[1].tr.Lease().ReadLimit
		c.net.Isolate(h)
		c.leased(2*time.Second, h)
		n := c.node(c.holder(1))
		low := n.reps[1].tr.LowWater()
		require.False(t, low.Less(served))
		require.Less(t, low.WallNanos, time.Now().Add(50*time.Millisecond).UnixNano(), "after a failover the mark lies in the past")
		c.close()
	})
}

// A vote that is answered once its voter follows the new leader carries that leader's own limit: it came
// too late to count, and must not put the range's writes half a second ahead of the clock.
func TestLateVoteMovesNoLowWater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4, 3, 1)
		c.leased(5*time.Second, 0)
		c.net.Isolate(c.holder(1))
		c.leased(2*time.Second, c.holder(1))
		tr := c.node(c.holder(1)).reps[1].tr
		before, lease := tr.LowWater(), tr.Lease()
		tr.TakeVote(lease.Term, lease.ReadLimit.WallNanos)
		require.Equal(t, before, tr.LowWater())
		c.close()
	})
}

// Commands committed at the leader reach idle followers without waiting for raft's timer.
func TestCommitNudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5, 3, 1)
		c.leased(5*time.Second, 0)
		time.Sleep(time.Second)
		h := c.node(c.holder(1))
		require.NoError(t, h.reps[1].r.Apply([]byte("x"), time.Second).Error())
		time.Sleep(60 * time.Millisecond)
		for _, n := range c.nodes {
			require.Equal(t, []string{"x"}, n.reps[1].fsm.applied(), "n%d", n.id)
		}
		c.close()
	})
}

// A leader that is removed from the configuration does not hold up the next election.
func TestRemovedLeaderReleasesItsForts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 6, 3, 1)
		c.leased(5*time.Second, 0)
		time.Sleep(time.Second)
		h := c.holder(1)
		r := c.node(h).reps[1]
		require.NoError(t, r.r.RemoveServer(r.tr.ID(), 0, 0).Error())
		d := c.leased(5*time.Second, h)
		t.Logf("leases after the removal of the leader: %v", d)
		c.close()
	})
}

// A rogue higher term at a follower costs the lease only until the leader has moved on.
func TestRogueTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 7, 3, 1)
		c.leased(5*time.Second, 0)
		time.Sleep(time.Second)
		h := c.holder(1)
		other := c.node(h%3 + 1)
		// TimeoutNow behind the guards' back: raft on the follower bumps its term.
		require.NoError(t, other.reps[1].tr.InjectTimeoutNow())
		// The leader meets the term at its next AppendEntries: an idle one sends within twice
		// raft's commit timeout of 15 s.
		time.Sleep(31 * time.Second)
		c.leased(time.Second, 0)
		require.NoError(t, c.node(c.holder(1)).reps[1].r.Apply([]byte("x"), time.Second).Error())
		c.close()
	})
}

// Blocked replication RPCs end with their purpose, so that shutdown does not hang.
func TestShutdownWithBlockedPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 8, 3, 3)
		c.leased(5*time.Second, 0)
		c.moveAll(2)
		c.net.Isolate(3)
		time.Sleep(2 * time.Second)
		for id := keys.RangeID(1); id <= 3; id++ {
			require.NoError(t, c.node(2).reps[id].r.Apply([]byte("x"), time.Second).Error())
		}
		start := time.Now()
		c.node(2).stop()
		require.Less(t, time.Since(start), time.Second)
		c.net.HealAll()
		time.Sleep(2 * time.Second)
		c.leased(time.Second, 0)
		require.Equal(t, raft.Shutdown, c.node(2).reps[1].r.State())
		c.close()
	})
}

// A leader that comes back in the same term, before anybody was elected, is left alone.
func TestLeaderThatComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 9, 3, 5)
		c.leased(5*time.Second, 0)
		c.moveAll(1)
		time.Sleep(time.Second)
		// The others can't reach each other, so that nobody is elected.
		c.net.Isolate(1)
		c.net.Cut(2, 3)
		time.Sleep(700 * time.Millisecond)
		c.net.HealAll()
		time.Sleep(3 * time.Second)
		c.leased(time.Second, 0)
		var terms []uint64
		for id := keys.RangeID(1); id <= 5; id++ {
			terms = append(terms, c.node(c.holder(id)).reps[id].r.CurrentTerm())
		}
		time.Sleep(30 * time.Second)
		for id := keys.RangeID(1); id <= 5; id++ {
			require.Equal(t, terms[id-1], c.node(c.holder(id)).reps[id].r.CurrentTerm(), "no election without a reason")
		}
		c.close()
	})
}

// A transfer to a target that can't win ends soon, and the lease comes back.
func TestFailedTransfer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 10, 3, 1)
		c.leased(5*time.Second, 0)
		c.moveAll(1)
		time.Sleep(time.Second)
		// The target hears n1 but nobody hears its votes.
		c.net.CutOneWay(2, 3)
		c.net.CutOneWay(2, 1)
		_ = c.node(1).reps[1].tr.Transfer(t.Context(), "n2/2", "a test")
		start := time.Now()
		require.Error(t, c.node(1).reps[1].tr.Transfer(t.Context(), "n2/7", "a test"))
		c.leased(5*time.Second, 2)
		t.Logf("lease after %v", time.Since(start))
		require.NoError(t, c.node(c.holder(1)).reps[1].r.Apply([]byte("x"), time.Second).Error())
		c.close()
	})
}

// A leader that gave its lease up for a transfer whose target was not elected takes a new term.
func TestLeaderWithoutLeaseTakesANewTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, 3, 1, func(*cluster) {})
		c.leased(5*time.Second, 0)
		tr := c.node(c.holder(1)).reps[1].tr
		tr.DropLease(tr.Lease().Term)
		require.False(t, tr.Lease().Valid)
		c.leased(2*time.Second, 0)
		c.close()
	})
}
