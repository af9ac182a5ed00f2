package store

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
)

func TestJudgeDigests(t *testing.T) {
	a, b, c := [32]byte{1}, [32]byte{2}, [32]byte{3}
	for _, tc := range []struct {
		name      string
		sums      map[keys.ReplicaID][32]byte
		tweak     func(*kv.RangeDescriptor)
		odd       []keys.ReplicaID
		undecided bool
	}{
		{"all equal", map[keys.ReplicaID][32]byte{1: a, 2: a, 3: a}, nil, nil, false},
		{"one answers", map[keys.ReplicaID][32]byte{1: a}, nil, nil, false},
		{"one differs", map[keys.ReplicaID][32]byte{1: a, 2: b, 3: a}, nil, []keys.ReplicaID{2}, false},
		{"the leaseholder differs", map[keys.ReplicaID][32]byte{1: b, 2: a, 3: a}, nil, []keys.ReplicaID{1}, false},
		{"one of two answers", map[keys.ReplicaID][32]byte{1: a, 2: b}, nil, nil, true},
		{"all differ", map[keys.ReplicaID][32]byte{1: a, 2: b, 3: c}, nil, nil, true},
		{"a non-voter has no say", map[keys.ReplicaID][32]byte{1: a, 2: b, 3: b}, func(d *kv.RangeDescriptor) { d.Replicas[2].Type = kv.NonVoter }, nil, true},
		{"a non-voter differs", map[keys.ReplicaID][32]byte{1: a, 2: a, 3: b}, func(d *kv.RangeDescriptor) { d.Replicas[2].Type = kv.NonVoter }, []keys.ReplicaID{3}, false},
		{"known", map[keys.ReplicaID][32]byte{1: a, 2: a, 3: b}, func(d *kv.RangeDescriptor) { d.Replicas[2].Quarantine = kv.Differs }, nil, false},
		{"known and another", map[keys.ReplicaID][32]byte{1: a, 2: c, 3: b}, func(d *kv.RangeDescriptor) { d.Replicas[2].Quarantine = kv.Differs }, nil, true},
	} {
		v := &survey{sums: tc.sums}
		for i := 1; i <= 3; i++ {
			v.desc.Replicas = append(v.desc.Replicas, kv.ReplicaDescriptor{Node: keys.NodeID(i), Replica: keys.ReplicaID(i)})
		}
		if tc.tweak != nil {
			tc.tweak(&v.desc)
		}
		odd, undecided := v.judge()
		var ids []keys.ReplicaID
		for _, rd := range odd {
			ids = append(ids, rd.Replica)
		}
		require.Equal(t, tc.odd, ids, tc.name)
		require.Equal(t, tc.undecided, undecided, tc.name)
	}
}

// flip changes a byte of a value in one node's state engine, behind everybody's back.
func (n *testNode) flip(k keys.Key, by byte) {
	it, err := n.engines.State.NewIter(storage.IterOptions{Lower: k, Upper: k.Next()})
	require.NoError(n.c.t, err)
	require.True(n.c.t, it.First())
	key := append([]byte(nil), it.EngineKey()...)
	v, err := it.Value()
	require.NoError(n.c.t, err)
	v = append([]byte(nil), v...)
	v[len(v)-1] ^= by
	require.NoError(n.c.t, it.Close())
	table, err := n.engines.State.NewTable("flip")
	require.NoError(n.c.t, err)
	require.NoError(n.c.t, table.Set(key, v))
	require.NoError(n.c.t, table.Finish())
	require.NoError(n.c.t, n.engines.State.Ingest(table))
}

func often(cfg *Config) { cfg.CompareEvery, cfg.CompareBytesPerSecond = 3*time.Second, 1<<20 }

// renewed waits until a node has a new, trusted voter of the range, and all replicas are equal.
func (c *testCluster) renewed(n *testNode, id keys.RangeID, old keys.ReplicaID) {
	c.t.Helper()
	c.eventually(2*time.Minute, func() bool {
		d := c.leaseholder(id).store.get(id).desc()
		rd, ok := d.Replica(n.id)
		return ok && rd.Replica != old && rd.Type == kv.Voter && rd.Quarantine == kv.Trusted && len(d.Replicas) == 3
	})
	c.eventually(time.Minute, func() bool {
		l := c.leaseholder(id)
		_, err := l.store.Checksum(c.t.Context(), l.store.get(id).replica.Load(), nil)
		return err == nil
	})
}

// S23: a replica that differs is found, serves nothing, and is replaced; so is a leaseholder.
func TestDifferingReplicaIsReplaced(t *testing.T) {
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprintf("leaseholder=%t", leads), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, often, "a", "b", "c")
				for i := range 20 {
					require.NoError(t, c.nodes[0].put(t.Context(), tkey(i), "right"))
				}
				victim := c.leaseholder(2)
				for _, n := range c.nodes {
					if !leads && n != victim {
						victim = n
						break
					}
				}
				old := victim.store.get(2).id
				victim.flip(tkey(7), 1)
				c.eventually(time.Minute, func() bool {
					r := victim.store.get(2)
					return r == nil || r.id != old || r.distrusted.Load()
				})
				require.NoError(t, c.nodes[0].put(t.Context(), tkey(8), "more"))
				c.renewed(victim, 2, old)
				for _, n := range c.nodes {
					v, err := n.get(t.Context(), tkey(7))
					require.NoError(t, err)
					require.Equal(t, "right", v)
				}
				_, err := victim.sender.Send(t.Context(), &kv.BatchRequest{Requests: []kv.Request{&kv.AdminTransferLeaseRequest{Key: tkey(7), Target: victim.id}}})
				require.NoError(t, err, "it may lead again")
				c.close()
			})
		})
	}
}

// A quarantined leaseholder hands its range to a node that drains rather than to nobody: whether
// the others drain is written in that very range.
func TestQuarantinedLeaseholderAmongDrainingNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, often, "a", "b", "c")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(7), "right"))
		victim := c.leaseholder(2)
		for _, n := range c.nodes {
			if n != victim {
				require.NoError(t, victim.dir.SetState(t.Context(), victim.sender, n.id, cluster.Draining))
				n.store.draining.Store(true)
			}
		}
		time.Sleep(5 * time.Second)
		require.Equal(t, victim, c.leaseholder(2))
		old := victim.store.get(2).id
		victim.flip(tkey(7), 1)
		c.eventually(time.Minute, func() bool { return c.leaseholder(2) != victim })
		for _, n := range c.nodes {
			require.NoError(t, n.put(t.Context(), tkey(8), "more"))
		}
		c.renewed(victim, 2, old)
		c.close()
	})
}

// S23: without a majority nothing is removed.
func TestNoMajorityAmongDigests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, often, "a", "b", "c")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(7), "right"))
		time.Sleep(2 * time.Second)
		before := c.leaseholder(2).store.get(2).desc().Clone()
		c.nodes[0].flip(tkey(7), 1)
		c.nodes[1].flip(tkey(7), 2)
		c.eventually(time.Minute, func() bool { return c.leaseholder(2).store.get(2).undecided.Load() })
		time.Sleep(time.Minute)
		require.Equal(t, before.Replicas, c.leaseholder(2).store.get(2).desc().Replicas)
		c.close()
	})
}

// S23: where a difference can't be judged because a replica was not heard, it is asked again soon.
func TestThirdOpinionIsAskedForSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, func(cfg *Config) {
			cfg.CompareEvery, cfg.CompareBytesPerSecond, cfg.DeadAfter = 6*time.Hour, 1<<20, 24*time.Hour
		}, "a", "b", "c")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(7), "right"))
		time.Sleep(2 * time.Second)
		l := c.leaseholder(2)
		victim, away := c.nodes[int(l.id)%3], c.nodes[(int(l.id)+1)%3]
		old := victim.store.get(2).id
		victim.flip(tkey(7), 1)
		away.kill()
		c.eventually(7*time.Hour, func() bool { return l.store.get(2).undecided.Load() })
		away.restart()
		c.eventually(5*time.Minute, func() bool { return !l.store.get(2).undecided.Load() })
		c.renewed(victim, 2, old)
		c.close()
	})
}

// S18: a follower whose volume was rolled back is found by the leader that it had answered, does
// not vote, and is replaced.
func TestRolledBackFollowerIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, func(cfg *Config) { cfg.DeadAfter = time.Hour }, "a", "b", "c")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(0), "first"))
		l := c.leaseholder(2)
		victim := c.nodes[0]
		if victim == l {
			victim = c.nodes[1]
		}
		time.Sleep(time.Second)
		past := storage.CrashClone(victim.fs, 0, rand.New(rand.NewPCG(1, 1)))
		for i := range 50 {
			require.NoError(t, l.put(t.Context(), tkey(i), "later"))
		}
		time.Sleep(time.Second)
		old := victim.store.get(2).id
		victim.kill()
		victim.fs = past
		victim.restart()
		c.renewed(victim, 2, old)
		for i := range 50 {
			v, err := victim.get(t.Context(), tkey(i))
			require.NoError(t, err)
			require.Equal(t, "later", v)
		}
		c.close()
	})
}

// S18: a replica that is known to have lost entries elects nobody, over its restarts too.
func TestMuteReplicaDoesNotVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, func(cfg *Config) { cfg.DeadAfter = time.Hour }, "a", "b", "c")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(0), "first"))
		l := c.leaseholder(2)
		mute := c.nodes[0]
		if mute == l {
			mute = c.nodes[1]
		}
		r := mute.store.get(2)
		_, err := mute.store.onQuarantine(t.Context(), l.id, encodeReplicaMsg(r.id, r.desc()))
		require.NoError(t, err)
		mute.kill()
		mute.restart()
		time.Sleep(5 * time.Second)
		l.kill()
		time.Sleep(40 * time.Second)
		for _, n := range c.up() {
			_, leads := n.store.get(2).leads()
			require.False(t, leads, "n%d was elected", n.id)
		}
		l.restart()
		require.NotEqual(t, mute, c.leaseholder(2))
		c.close()
	})
}
