package store

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/topology/allocator"
)

func getBatch(k keys.Key, gateway keys.NodeID) *kv.BatchRequest {
	return &kv.BatchRequest{Header: kv.Header{Gateway: gateway}, Requests: []kv.Request{&kv.GetRequest{Key: k}}}
}

func TestLoadIsMeasured(t *testing.T) {
	var l load
	now := time.Unix(1000, 0)
	l.measure(now, 0, time.Second, 50, 1)
	for range 1000 {
		l.count(getBatch(tkey(1), 2), 1)
	}
	for range 500 {
		l.count(getBatch(tkey(2), 3), 1)
	}
	for range 300 {
		l.count(getBatch(tkey(2), 1), 1) // from the node itself
	}
	l.count(&kv.BatchRequest{Requests: []kv.Request{&kv.LeaseInfoRequest{Key: tkey(1)}}}, 1) // no load
	l.measure(now.Add(time.Second), 100, time.Second, 50, 1)                                 // too early
	require.Zero(t, l.batchesPerSecond())
	l.measure(now.Add(loadEvery), 200, 4*time.Second, 50, 1)
	require.InDelta(t, 90, l.batchesPerSecond(), 0.01, "the mean of 0 and 180")
	require.InDelta(t, 75, l.foreignPerSecond(), 0.01)
	replica, lease := l.cost()
	require.InDelta(t, 10*commandCost, replica, 1e-9)
	require.InDelta(t, 75*batchCost+0.15, lease, 1e-9)
	require.Equal(t, []allocator.ZoneRequests{{Zone: "a", Rate: 25}, {Zone: "b", Rate: 50}}, l.requests(map[keys.NodeID]string{2: "b", 3: "a"}))
	require.True(t, l.sampling.Load())
	for i := 2; i < 30; i++ {
		l.measure(now.Add(time.Duration(i)*loadEvery), 200, 4*time.Second, 50, 1)
	}
	_, lease = l.cost()
	require.InDelta(t, 0, lease, 1e-6)
	require.Zero(t, l.batchesPerSecond(), "what was served once is forgotten")
	require.Empty(t, l.requests(map[keys.NodeID]string{2: "b", 3: "a"}))
	require.False(t, l.sampling.Load())
}

func TestSplitKeyDividesTheLoad(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name string
		key  func(i int) int
		low  int // the split key must lie between low and high; high 0: it is a hot spot
		high int
	}{
		{"even", func(int) int { return rng.IntN(1000) }, 250, 750},
		{"most of it in a corner", func(int) int { return 900 + rng.IntN(100) }, 910, 990},
		{"two keys", func(int) int { return 100 + 800*rng.IntN(2) }, 899, 900},
		{"one key", func(int) int { return 5 }, 0, 0},
		{"ascending", func(i int) int { return i }, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l load
			l.sampling.Store(true)
			at, hot := l.splitKey()
			require.Nil(t, at, "nothing was seen")
			require.Nil(t, hot)
			for i := range 4000 {
				l.count(getBatch(tkey(c.key(i)), 2), 1)
			}
			at, hot = l.splitKey()
			if c.high == 0 {
				require.Nil(t, at)
				require.NotNil(t, hot)
				return
			}
			require.Nil(t, hot)
			require.False(t, at.Less(tkey(c.low)), at.Pretty())
			require.False(t, tkey(c.high).Less(at), at.Pretty())
		})
	}
}

// A range that is busier than one should be is divided, and each part again, until none is; what all
// want is told apart from what can be divided.
func TestBusyRangeIsSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &diary{}
		c := newCluster(t, func(cfg *Config) { cfg.MaxRangeBatches, cfg.Events = 30, told.take }, "a", "b", "c")
		l := c.leaseholder(2)
		for i := range 100 {
			require.NoError(t, l.put(t.Context(), tkey(i), "v"))
		}
		rng := rand.New(rand.NewPCG(1, 1))
		client := c.nodes[int(l.id)%3] // another one
		load := func(d time.Duration, key func() int) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				_, err := client.get(t.Context(), tkey(key()))
				require.NoError(t, err)
			}
		}
		load(6*time.Minute, func() int { return rng.IntN(100) })
		require.Greater(t, len(c.ranges()), 3, "of 100 batches a second none has more than 30")
		require.Less(t, len(c.ranges()), 14)
		n := len(c.ranges())
		load(3*time.Minute, func() int { return 7 })
		require.Equal(t, n, len(c.ranges()), "no split divides one key")
		require.Contains(t, told.after(0), "hot r", "the hot spot is named")
		for i := range 100 {
			v, err := l.get(t.Context(), tkey(i))
			require.NoError(t, err)
			require.Equal(t, "v", v)
		}
		c.close()
	})
}

// Leases follow the workload where the policy says so.
func TestLeaseFollowsTheWorkload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		c.setRules(c.compile([]string{"{name: all, survive: zone, follow_workload: true}"}))
		for _, client := range []*testNode{c.nodes[2], c.nodes[1]} {
			c.eventually(5*time.Minute, func() bool {
				for range 50 {
					_, err := client.get(t.Context(), tkey(1))
					require.NoError(t, err)
				}
				return c.leaseholder(2) == client
			})
		}
		c.close()
	})
}
