package liveness

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
)

// fakeTime is a TimeSource whose clocks can be moved apart.
type fakeTime struct {
	mu         sync.Mutex
	base       hlc.TimeSource
	boot, wall time.Duration
}

func (f *fakeTime) Read() hlc.Reading {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.base.Read()
	r.Boot += int64(f.boot)
	r.Wall += int64(f.wall)
	return r
}

func (f *fakeTime) add(boot, wall time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boot += boot
	f.wall += wall
}

type testNode struct {
	*Agent
	time     *fakeTime
	promised time.Duration
	fatal    chan error
}

func startNodes(t *testing.T, net *raftnet.MemNet, n int, opts ...func(keys.NodeID, *Config)) []*testNode {
	var ids []keys.NodeID
	for i := range n {
		ids = append(ids, keys.NodeID(i+1))
	}
	out := make([]*testNode, n+1)
	for _, id := range ids {
		out[id] = startNode(t, net, id, ids, 1, 0, opts...)
	}
	return out
}

func startNode(t *testing.T, net *raftnet.MemNet, id keys.NodeID, ids []keys.NodeID, boot uint64, promised time.Duration, opts ...func(keys.NodeID, *Config)) *testNode {
	tn := &testNode{time: &fakeTime{base: hlc.GoTime()}, fatal: make(chan error, 1), promised: promised}
	cfg := Config{Network: net.Node(id), Self: id, Boot: boot, Time: tn.time, Neighbours: func() []keys.NodeID { return ids }, Promised: promised,
		Clock:          hlc.NewClock(func() time.Time { return time.Unix(0, tn.time.Read().Wall) }, 250*time.Millisecond),
		PersistPromise: func(d time.Duration) error { tn.promised = d; return nil },
		OnClockFatal:   func(err error) { tn.fatal <- err },
	}
	for _, o := range opts {
		o(id, &cfg)
	}
	a, err := Start(cfg)
	require.NoError(t, err)
	tn.Agent = a
	return tn
}

func closeAll(net *raftnet.MemNet, ns []*testNode) {
	net.Close()
	for _, n := range ns {
		if n != nil {
			n.Close()
		}
	}
	time.Sleep(5 * time.Second)
}

func TestSupportLapseAndEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(1)
		net.SetDelay(time.Millisecond, 2*time.Millisecond)
		ns := startNodes(t, net, 3)
		time.Sleep(300 * time.Millisecond)
		require.Equal(t, 500*time.Millisecond, ns[1].promised, "the promise is synced before it is first used")
		require.True(t, ns[1].Ready())
		require.Equal(t, []keys.NodeID{1, 2, 3}, ns[2].LiveNodes())
		e1, ok := ns[2].Supports(1)
		require.True(t, ok)
		g, ok := ns[1].SupportedBy(2)
		require.True(t, ok)
		require.Equal(t, e1, g.Epoch)
		require.False(t, ns[2].PromisedLimit(1, e1).Less(g.Limit), "a voter remembers at least what the leader counts on")
		require.False(t, ns[2].QuorumAgainst(1, []keys.NodeID{1, 2, 3}))

		lapsed := make(chan time.Duration, 10)
		start := time.Now()
		ns[2].OnLapse(func(n keys.NodeID) { lapsed <- time.Since(start) })
		net.Isolate(1)
		// A stops counting before B stops promising.
		for {
			_, counts := ns[1].SupportedBy(2)
			_, promises := ns[2].Supports(1)
			require.True(t, promises || !counts, "A counts a promise that B no longer keeps")
			if !promises {
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
		d := <-lapsed
		// From the last heartbeat, which came up to one interval before.
		require.InDelta(t, 455, d.Milliseconds(), 60)
		time.Sleep(20 * time.Millisecond)
		require.True(t, ns[2].QuorumAgainst(1, []keys.NodeID{1, 2, 3}))
		require.Equal(t, []keys.NodeID{2, 3}, ns[3].LiveNodes())
		heard := ns[2].Heard(1)

		net.HealAll()
		<-heard
		time.Sleep(150 * time.Millisecond)
		e2, ok := ns[2].Supports(1)
		require.True(t, ok)
		require.Greater(t, e2, e1)
		g, ok = ns[1].SupportedBy(2)
		require.True(t, ok)
		require.Equal(t, e2, g.Epoch)
		closeAll(net, ns)
	})
}

func TestRestartRaisesEpochAndForbidsVotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(2)
		ns := startNodes(t, net, 3)
		time.Sleep(300 * time.Millisecond)
		require.True(t, ns[2].VotesAllowed(), "a node that never promised anything need not wait")
		e1, _ := ns[2].Supports(1)
		old, _ := ns[3].Supports(2)
		limit := ns[2].PromisedLimit(1, e1)
		ns[2].Close()
		net.Node(2).Close()
		ns[2] = startNode(t, net, 2, []keys.NodeID{1, 2, 3}, 2, ns[2].promised)
		require.False(t, ns[2].VotesAllowed())
		require.False(t, ns[2].PromisedLimit(0, 0).Less(limit), "what an earlier run promised is covered")
		time.Sleep(150 * time.Millisecond)
		e2, ok := ns[2].Supports(1)
		require.True(t, ok)
		require.Greater(t, e2, e1)
		now, ok := ns[3].Supports(2)
		require.True(t, ok)
		require.Greater(t, now, old, "a new incarnation is supported in a new epoch")
		require.False(t, ns[2].VotesAllowed())
		time.Sleep(430 * time.Millisecond)
		require.True(t, ns[2].VotesAllowed())
		closeAll(net, ns)
	})
}

func TestClocksThatDisagreeDropSupport(t *testing.T) {
	for name, jump := range map[string][2]time.Duration{
		"suspended": {time.Minute, time.Minute}, "wall clock steps": {0, 100 * time.Millisecond}, "wall clock steps back": {0, -100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := raftnet.NewMemNet(3)
				ns := startNodes(t, net, 3)
				time.Sleep(300 * time.Millisecond)
				_, ok := ns[1].SupportedBy(2)
				require.True(t, ok)
				ns[1].time.add(jump[0], jump[1])
				_, ok = ns[1].SupportedBy(2)
				require.False(t, ok, "at once, before the ticker has seen it")
				if name == "suspended" {
					ns[1].time.add(0, -time.Minute+50*time.Millisecond) // time synchronization repairs the wall clock
				}
				time.Sleep(300 * time.Millisecond)
				_, ok = ns[1].SupportedBy(2)
				require.True(t, ok, "a fresh round counts again")
				closeAll(net, ns)
			})
		})
	}
}

func TestClockOffsetStopsTheBadNodeOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(4)
		net.SetDelay(time.Millisecond, 3*time.Millisecond)
		ns := startNodes(t, net, 3)
		time.Sleep(200 * time.Millisecond)
		ns[3].time.add(0, 220*time.Millisecond)
		time.Sleep(300 * time.Millisecond)
		lo, hi, ok := ns[1].Offset(3)
		require.True(t, ok)
		require.LessOrEqual(t, lo, 220*time.Millisecond)
		require.GreaterOrEqual(t, hi, 220*time.Millisecond)
		select {
		case err := <-ns[3].fatal:
			require.ErrorContains(t, err, "2 of 2 peers")
		default:
			t.Fatal("the node with the bad clock goes on")
		}
		require.Empty(t, ns[1].fatal)
		require.Empty(t, ns[2].fatal)
		closeAll(net, ns)
	})
}

// Slow links make no clock samples, and a node without any is not ready.
func TestSlowSamplesDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(5)
		net.SetDelay(40*time.Millisecond, 40*time.Millisecond)
		ns := startNodes(t, net, 3)
		time.Sleep(time.Second)
		require.False(t, ns[1].Ready())
		net.SetDelay(10*time.Millisecond, 10*time.Millisecond)
		time.Sleep(200 * time.Millisecond)
		require.True(t, ns[1].Ready())
		closeAll(net, ns)
	})
}

// 5% loss on every message causes no lapse.
func TestLossCausesNoLapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(6)
		net.SetDelay(time.Millisecond, 10*time.Millisecond)
		ns := startNodes(t, net, 3)
		time.Sleep(time.Second)
		net.SetDrop(0.05)
		for _, n := range ns[1:] {
			n.OnLapse(func(id keys.NodeID) { t.Errorf("support for n%d lapsed", id) })
		}
		for range 6000 {
			time.Sleep(10 * time.Millisecond)
			for _, n := range ns[1:] {
				for id := keys.NodeID(1); id <= 3; id++ {
					if _, ok := n.SupportedBy(id); !ok {
						t.Fatal("counted support was lost")
					}
				}
			}
		}
		net.SetDrop(0)
		for _, n := range ns[1:] {
			n.mu.Lock()
			n.onLapse = nil
			n.mu.Unlock()
		}
		closeAll(net, ns)
	})
}

func TestWithdrawAndMarkDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(7)
		ns := startNodes(t, net, 3)
		time.Sleep(300 * time.Millisecond)
		ns[1].SetWithdrawn(true)
		_, ok := ns[1].SupportedBy(2)
		require.False(t, ok)
		time.Sleep(600 * time.Millisecond)
		_, ok = ns[2].Supports(1)
		require.False(t, ok)
		require.True(t, ns[2].Live(1))
		ns[1].SetWithdrawn(false)
		time.Sleep(150 * time.Millisecond)
		_, ok = ns[1].SupportedBy(2)
		require.True(t, ok)

		ns[2].MarkDead(3, 7)
		_, ok = ns[2].Supports(3)
		require.True(t, ok, "another incarnation is not meant")
		net.Isolate(3)
		ns[2].MarkDead(3, 1)
		_, ok = ns[2].Supports(3)
		require.False(t, ok)
		closeAll(net, ns)
	})
}

// Nodes that share no range exchange slow heartbeats and no promises.
func TestFarNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(8)
		ns := startNodes(t, net, 3, func(id keys.NodeID, c *Config) {
			c.Nodes = c.Neighbours
			c.Neighbours = func() []keys.NodeID {
				if id == 3 {
					return nil
				}
				return []keys.NodeID{1, 2}
			}
		})
		time.Sleep(10 * time.Second)
		_, ok := ns[1].SupportedBy(3)
		require.False(t, ok)
		require.True(t, ns[1].Live(3))
		_, ok = ns[1].SupportedBy(2)
		require.True(t, ok)
		n := net.Sent(raftnet.MethodHeartbeat)
		time.Sleep(10 * time.Second)
		require.InDelta(t, 2*100+4*10, net.Sent(raftnet.MethodHeartbeat)-n, 20)
		closeAll(net, ns)
	})
}

// A node that becomes a neighbour is asked more often; until its first answer at that rate it is no
// less live than before.
func TestFarNodeThatComesNearStaysLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(8)
		var near atomic.Bool
		ns := startNodes(t, net, 3, func(id keys.NodeID, c *Config) {
			all := c.Neighbours
			c.Nodes = all
			c.Neighbours = func() []keys.NodeID {
				if near.Load() {
					return all()
				}
				return nil
			}
		})
		time.Sleep(5 * time.Second)
		for range 20 { // at any moment between two slow heartbeats
			near.Store(true)
			for range 300 {
				time.Sleep(5 * time.Millisecond)
				require.True(t, ns[1].Live(2))
			}
			near.Store(false)
			time.Sleep(3*time.Second + 170*time.Millisecond)
		}
		net.Node(2).Close()
		near.Store(true)
		time.Sleep(4 * time.Second)
		require.False(t, ns[1].Live(2))
		closeAll(net, ns)
	})
}

// A node whose disk is lost stays a neighbour until its replicas are replaced, which needs a lease,
// which needs nodes that are ready: it does not count for the majority that agrees on the time.
func TestNodesThatAreGoneDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(9)
		all := []keys.NodeID{1, 2, 3, 4, 5}
		var counted atomic.Pointer[[]keys.NodeID]
		counted.Store(&all)
		list := func(_ keys.NodeID, c *Config) { c.Counted = func() []keys.NodeID { return *counted.Load() } }
		a, b := startNode(t, net, 1, all, 1, 0, list), startNode(t, net, 2, all, 1, 0, list)
		time.Sleep(10 * time.Second)
		require.False(t, a.Ready(), "two of five agree")
		counted.Store(&[]keys.NodeID{1, 2, 3})
		time.Sleep(5 * time.Second)
		require.True(t, a.Ready())
		require.True(t, b.Ready())
		_, ok := a.SupportedBy(2)
		require.True(t, ok)
		a.Close()
		b.Close()
		net.Close()
	})
}

func TestConfigListsEveryFault(t *testing.T) {
	_, err := Start(Config{Support: time.Millisecond, Tick: time.Microsecond})
	for _, want := range []string{"Network is nil", "Clock is nil", "Self is 0", "Boot is 0", "PersistPromise is nil", "Support is 1ms", "Tick is 1µs"} {
		require.ErrorContains(t, err, want)
	}
}

func TestMessageRoundTrip(t *testing.T) {
	m := &message{boot: 1, seq: 2, reading: hlc.Timestamp{WallNanos: 3, Logical: 4}, wall: 5, unsupported: []keys.NodeID{6, 7}, want: true, toBoot: 8, supported: true, epoch: 9 << 32, promise: time.Second}
	back, err := decodeMessage(m.encode(nil))
	require.NoError(t, err)
	require.Equal(t, m, back)
	_, err = decodeMessage((&message{promise: time.Hour}).encode(nil))
	require.ErrorContains(t, err, "out of bounds")
}

func FuzzMessage(f *testing.F) {
	f.Add((&message{boot: 1, seq: 2, unsupported: []keys.NodeID{6}}).encode(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMessage(b)
		if err != nil {
			return
		}
		back, err := decodeMessage(m.encode(nil))
		require.NoError(t, err)
		require.Equal(t, m, back)
	})
}
