package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/storage"
)

// voters waits until every range has exactly these voters and nothing else.
func (c *testCluster) voters(limit time.Duration, want ...keys.NodeID) {
	c.t.Helper()
	c.eventually(limit, func() bool {
		ids := map[keys.RangeID]bool{}
		for _, n := range c.up() {
			for _, r := range n.store.Ranges() {
				ids[r.Desc.RangeID] = true
			}
		}
		for id := range ids {
			n := c.leaseholder(id)
			r := n.store.get(id)
			d := r.desc()
			if len(d.Replicas) != len(want) {
				return false
			}
			for _, w := range want {
				rd, ok := d.Replica(w)
				if !ok || rd.Type != kv.Voter {
					return false
				}
			}
		}
		return true
	})
}

func TestEmptyNodesJoinAndGetReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a")
		first := c.nodes[0].store
		c.eventually(time.Minute, func() bool { return len(first.Findings()) == 2 })
		f := first.Findings()[1]
		require.Equal(t, keys.RangeID(2), f.Range)
		require.True(t, f.Stuck)
		require.Contains(t, f.Reason, "1 of 3 voters")
		require.NotZero(t, f.Since)
		for i := range 50 {
			require.NoError(t, c.nodes[0].put(t.Context(), tkey(i), fmt.Sprint(i)))
		}
		c.join("node-2", "b")
		c.join("node-3", "c")
		c.voters(time.Minute, 1, 2, 3)
		c.eventually(time.Minute, func() bool {
			for _, n := range c.nodes {
				if len(n.store.Findings()) > 0 {
					return false
				}
			}
			return true
		})
		c.nodes[0].kill()
		for _, n := range c.up() {
			for i := range 50 {
				v, err := n.get(t.Context(), tkey(i))
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(i), v)
			}
		}
		require.NoError(t, c.nodes[1].put(t.Context(), tkey(1), "new"))
		c.close()
	})
}

func TestDeadNodeIsReplacedInItsZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		for i := range 50 {
			require.NoError(t, c.nodes[0].put(t.Context(), tkey(i), fmt.Sprint(i)))
		}
		require.NoError(t, c.nodes[0].splitAt(t.Context(), tkey(25)))
		victim := c.leaseholder(2)
		victim.kill()
		sub := c.join("substitute", victim.zone)
		require.Equal(t, keys.NodeID(4), sub.id)
		want := []keys.NodeID{4}
		for _, n := range c.nodes[:3] {
			if n != victim {
				want = append(want, n.id)
			}
		}
		c.voters(time.Minute, want...)
		// The old one comes back, finds that it was replaced, and removes what it has.
		victim.restart()
		c.eventually(2*time.Minute, func() bool { return len(victim.store.Ranges()) == 0 })
		recs, err := listRecords(victim.engines.Log)
		require.NoError(t, err)
		require.Empty(t, recs)
		min, err := tombstone(victim.engines.Log, 2)
		require.NoError(t, err)
		require.NotZero(t, min)
		v, err := victim.get(t.Context(), tkey(30))
		require.NoError(t, err)
		require.Equal(t, "30", v)
		c.close()
	})
}

// Each cause of silence has its own patience: a node alone in its zone is its zone, and one whose address
// an empty node has taken lost its data.
func TestPatienceByCause(t *testing.T) {
	for _, gone := range []string{"zone", "volume"} {
		t.Run(gone, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, func(cfg *Config) {
					cfg.DeadAfter, cfg.ZoneDeadAfter, cfg.VolumeGoneAfter = 30*time.Second, 2*time.Minute, 10*time.Second
				}, "a", "b", "c")
				c.voters(time.Minute, 1, 2, 3)
				spare := c.join("node-4", "d")
				time.Sleep(time.Minute) // of probation
				c.nodes[2].kill()
				silent, want := time.Now(), 2*time.Minute
				if gone == "volume" {
					c.nodes[2].fs = storage.MemFS()
					c.nodes[2].openEngines()
					require.NoError(t, c.nodes[2].start())
					spare, want = c.nodes[2], 10*time.Second
				}
				c.eventually(5*time.Minute, func() bool {
					d := c.leaseholder(2).store.get(2).desc()
					_, ok := d.Replica(spare.id)
					return ok
				})
				took := time.Since(silent)
				require.Greater(t, took, want)
				require.Less(t, took, want+20*time.Second)
				c.close()
			})
		})
	}
}

func TestDecommissionAndDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		c.join("spare", "b")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(1), "x"))
		l := c.leaseholder(2)
		require.NoError(t, l.store.Drain(t.Context()))
		require.Zero(t, l.store.leases())
		require.NotEqual(t, l, c.leaseholder(2))
		l.store.Undrain()

		require.NoError(t, c.nodes[0].store.Decommission(t.Context(), 2, false, nil))
		c.voters(time.Minute, 1, 3, 4)
		require.ErrorContains(t, c.nodes[0].dir.SetState(t.Context(), c.nodes[0].sender, 2, cluster.Live), "can't come back")
		c.eventually(time.Minute, func() bool { return len(c.nodes[1].store.Ranges()) == 0 })
		v, err := c.nodes[1].get(t.Context(), tkey(1))
		require.NoError(t, err)
		require.Equal(t, "x", v)
		c.close()
	})
}

// A change that waits, for the meta range say, must not hold a node up that stops: it drains for as
// long as it was given.
func TestDrainDoesNotWaitForAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		l := c.leaseholder(2)
		r := l.store.get(2)
		r.admin.Lock()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		require.ErrorContains(t, l.store.Drain(ctx), "1 leases are left")
		require.Equal(t, 2*time.Second, time.Since(start))
		r.admin.Unlock()
		require.NoError(t, l.store.Drain(t.Context()))
		c.close()
	})
}

func TestSnapshotCatchUpAfterTruncation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, func(cfg *Config) { cfg.DeadAfter = time.Hour }, "a", "b", "c")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(0), "first"))
		l := c.leaseholder(2)
		lost := c.nodes[0]
		if lost == l {
			lost = c.nodes[1]
		}
		lost.kill()
		for i := range 1500 {
			require.NoError(t, l.put(t.Context(), tkey(i%300), fmt.Sprint(i)))
		}
		// While it is split as well: the right side must come by a snapshot of its own.
		require.NoError(t, l.splitAt(t.Context(), tkey(150)))
		for i := range 1500 {
			require.NoError(t, l.put(t.Context(), tkey(i%300), fmt.Sprint(i)))
		}
		for _, n := range c.up() {
			require.NoError(t, n.engines.State.Flush())
			for _, r := range n.store.all() {
				r.group.Load().DropPins()
				_, err := r.group.Load().Truncate()
				require.NoError(t, err)
			}
		}
		lost.restart()
		c.eventually(2*time.Minute, func() bool {
			for _, r := range c.leaseholder(2).store.all() {
				o := lost.store.get(r.rangeID)
				if o == nil || o.desc() == nil || o.desc().Generation != r.desc().Generation || o.group.Load().AppliedIndex() < r.group.Load().AppliedIndex() {
					return false
				}
			}
			return len(lost.store.Ranges()) == 3
		})
		for _, n := range c.nodes {
			for _, r := range n.store.all() {
				if _, ok := r.leads(); ok {
					_, err := n.store.Checksum(t.Context(), r.replica.Load(), nil)
					require.NoError(t, err)
				}
			}
		}
		// What it received is durable at once.
		lost.kill()
		lost.restart()
		require.Len(t, lost.store.Ranges(), 3)
		for i := range 300 {
			v, err := lost.get(t.Context(), tkey(i))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(1200+i), v)
		}
		c.close()
	})
}

func TestDiskReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		l := c.leaseholder(2)
		require.NoError(t, l.put(t.Context(), tkey(1), "x"))
		storage.SetMemFree(l.fs, 1<<20, 1<<30)
		c.eventually(30*time.Second, func() bool { return l.store.leases() == 0 })
		require.NoError(t, l.put(t.Context(), tkey(1), "y")) // another node serves it
		err := l.store.admit(&kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: tkey(1)}}})
		var full *kv.DiskFullError
		require.ErrorAs(t, err, &full)
		require.NoError(t, l.store.admit(&kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: tkey(1), Delete: true}}}))
		storage.SetMemFree(l.fs, 1<<30, 1<<31)
		c.eventually(10*time.Second, func() bool { return !l.store.full.Load() })
		c.close()
	})
}

func TestGarbageIsCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, func(cfg *Config) {
			cfg.GCTTL = time.Minute
			cfg.PileupAge = 5 * time.Second
			cfg.UnknownReadAge = 10 * time.Second
		}, "a", "b", "c")
		l := c.leaseholder(2)
		for i := range 3000 {
			require.NoError(t, l.put(t.Context(), tkey(7), fmt.Sprint(i)))
			if i%100 == 0 {
				time.Sleep(500 * time.Millisecond)
			}
		}
		before := versions(t, l, tkey(7))
		time.Sleep(30 * time.Second)
		for i := range 2500 {
			require.NoError(t, l.put(t.Context(), tkey(8+i), "y"))
		}
		time.Sleep(20 * time.Second)
		require.Less(t, versions(t, l, tkey(7)), before/2)
		v, err := l.get(t.Context(), tkey(7))
		require.NoError(t, err)
		require.Equal(t, "2999", v)
		for range 3 {
			require.NoError(t, l.put(t.Context(), tkey(9), "z"))
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		require.LessOrEqual(t, versions(t, l, tkey(7)), 1)
		require.LessOrEqual(t, versions(t, l, tkey(9)), 1)
		// Reads below the threshold fail, they do not come back empty (S25).
		r := l.store.get(2)
		_, err = l.sender.Send(t.Context(), &kv.BatchRequest{Header: kv.Header{Timestamp: r.replica.Load().GCThreshold()}, Requests: []kv.Request{&kv.GetRequest{Key: tkey(9)}}})
		var below *kv.BelowGCThresholdError
		require.ErrorAs(t, err, &below)
		c.close()
	})
}

func versions(t *testing.T, n *testNode, k keys.Key) int {
	it, err := n.engines.State.NewIter(storage.IterOptions{Lower: k, Upper: k.Next()})
	require.NoError(t, err)
	count := 0
	for ok := it.First(); ok; ok = it.Next() {
		count++
	}
	require.NoError(t, it.Close())
	return count
}

// TestIdleCost counts the messages of an idle cluster with 500 ranges.
func TestIdleCost(t *testing.T) {
	if testing.Short() {
		t.Skip("500 ranges on three nodes")
	}
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		for i := range 498 {
			require.NoError(t, c.nodes[0].splitAt(t.Context(), tkey(1000-i)))
		}
		time.Sleep(30 * time.Second)
		require.Len(t, c.nodes[0].store.Ranges(), 500)
		var before [raftnet.MaxMethod + 1]int64
		for m := range before {
			before[m] = c.net.Sent(raftnet.Method(m))
		}
		start := time.Now()
		const window = 20 * time.Second
		time.Sleep(window)
		_ = start
		var total int64
		for m := range before {
			if n := c.net.Sent(raftnet.Method(m)) - before[m]; n > 0 {
				total += n
				t.Logf("method %d: %.1f/s", m, float64(n)/window.Seconds())
			}
		}
		t.Logf("all: %.1f messages/s", float64(total)/window.Seconds())
		require.Less(t, float64(total)/window.Seconds(), 3000.0)
		c.close()
	})
}

// A voter that skipped a split by a snapshot of the left side has no replica of the right side
// until somebody tells it. If the right side's leaseholder is lost before that, a candidate tells
// it, for its vote is the one that makes a quorum.
func TestCandidateTellsVoterOfItsReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, func(cfg *Config) { cfg.DeadAfter, cfg.ShortLog = time.Hour, 4 }, "a", "b", "c")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(0), "first"))
		l := c.leaseholder(2)
		late := c.nodes[0]
		if late == l {
			late = c.nodes[1]
		}
		late.kill()
		_, err := sendOne[*kv.AdminSplitResponse](t.Context(), l.sender, &kv.AdminSplitRequest{SplitKey: tkey(500)})
		require.NoError(t, err)
		var right keys.RangeID
		for i := range 100 {
			require.NoError(t, l.put(t.Context(), tkey(i), "left"))
			for _, n := range c.up() {
				require.NoError(t, n.engines.State.Flush())
			}
			time.Sleep(50 * time.Millisecond)
		}
		require.NoError(t, l.put(t.Context(), tkey(600), "right"))
		for _, r := range l.store.Ranges() {
			if r.Desc.Contains(tkey(600)) {
				right = r.Desc.RangeID
			}
		}
		require.Greater(t, right, keys.RangeID(2))

		late.restart()
		deaf := func(context.Context, keys.NodeID, []byte) ([]byte, error) { return nil, errors.New("deaf") }
		late.ep.Handle(raftnet.MethodReplicaCreate, deaf)
		require.Nil(t, late.store.get(right))
		leftAt := func(n *testNode) uint64 { at, _ := n.store.get(2).info(); return at }
		c.eventually(30*time.Second, func() bool {
			return late.store.get(2).desc().Generation > 1 && leftAt(late) == leftAt(c.leaseholder(2))
		})
		c.leaseholder(right).kill()
		late.ep.Handle(raftnet.MethodReplicaCreate, late.store.onReplicaCreate)
		require.Nil(t, late.store.get(right), "it took the snapshot, not the split")

		c.leaseholder(right)
		v, err := late.get(t.Context(), tkey(600))
		require.NoError(t, err)
		require.Equal(t, "right", v)
		c.close()
	})
}

// A voter that missed how another one became a voter must still be able to elect it: the range has
// lost its leader, and they are the quorum that is left.
func TestVoterElectsOneItDoesNotKnow(t *testing.T) {
	for _, missed := range []string{"the promotion", "the addition"} {
		t.Run(missed, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, func(cfg *Config) { cfg.DeadAfter = time.Hour }, "a", "b", "c")
				require.NoError(t, c.nodes[0].put(t.Context(), tkey(0), "first"))
				fresh := c.join("node-4", "a")
				time.Sleep(5 * time.Second)
				l := c.leaseholder(2)
				var followers []*testNode
				for _, n := range c.nodes[:3] {
					if n != l {
						followers = append(followers, n)
					}
				}
				late, gone := followers[0], followers[1]
				change := func(kind kv.ReplicaChangeKind, n *testNode) {
					t.Helper()
					r := l.store.get(2)
					_, err := l.store.ChangeReplicas(t.Context(), r.replica.Load(), &kv.AdminChangeReplicasRequest{Generation: r.desc().Generation, Kind: kind, Node: n.id})
					require.NoError(t, err)
				}
				if missed == "the promotion" {
					change(kv.AddNonVoter, fresh)
					time.Sleep(time.Second)
				}
				c.net.Isolate(late.id)
				if missed == "the addition" {
					change(kv.AddNonVoter, fresh)
				}
				change(kv.PromoteToVoter, fresh)
				// S19 would refuse the removal once it is seen that late is cut off; here it was decided
				// an instant before that.
				r := l.store.get(2)
				rd, ok := r.desc().Replica(gone.id)
				require.True(t, ok)
				require.NoError(t, l.store.reconfigure(t.Context(), r, group.Remove, raftnet.ServerID(gone.id, rd.Replica)))
				require.NoError(t, l.put(t.Context(), tkey(1), "second"))
				time.Sleep(time.Second)
				l.kill()
				c.net.HealNode(late.id)
				c.eventually(2*time.Minute, func() bool { _, leads := fresh.store.get(2).leads(); return leads })
				v, err := late.get(t.Context(), tkey(1))
				require.NoError(t, err)
				require.Equal(t, "second", v)
				c.close()
			})
		})
	}
}
