package group

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

// testNode is one node with one replica of range 7, on raft's in-memory transport.
type testNode struct {
	t     *testing.T
	c     *testCluster
	id    keys.NodeID
	fs    *storage.CrashFS
	state *storage.StateEngine
	log   *storage.LogEngine
	trans *raft.InmemTransport
	net   *raftnet.MemNode
	recv  *Receiver
	g     *Group

	mu     sync.Mutex
	splits []raftcmd.SplitTrigger
	descs  []kv.RangeDescriptor
	led    []uint64
}

type testCluster struct {
	t     *testing.T
	net   *raftnet.MemNet
	nodes map[keys.NodeID]*testNode
	desc  kv.RangeDescriptor
	conf  func(*Config)
}

func newTestCluster(t *testing.T, voters int) *testCluster {
	return newTestClusterWith(t, voters, func(*Config) {})
}

func newTestClusterWith(t *testing.T, voters int, conf func(*Config)) *testCluster {
	c := &testCluster{t: t, conf: conf, net: raftnet.NewMemNet(1), nodes: map[keys.NodeID]*testNode{}}
	c.desc = kv.RangeDescriptor{RangeID: 7, Start: keys.Key("a"), End: keys.Key("z"), Generation: 1, NextReplicaID: keys.ReplicaID(voters + 1)}
	for i := 1; i <= voters; i++ {
		c.desc.Replicas = append(c.desc.Replicas, kv.ReplicaDescriptor{Node: keys.NodeID(i), Replica: keys.ReplicaID(i)})
	}
	for i := 1; i <= voters; i++ {
		n := c.add(keys.NodeID(i))
		require.NoError(t, n.state.ApplyRepr(nil, func(w storage.Writer) error {
			return WriteInitialState(w, &c.desc, hlc.Timestamp{}, hlc.Timestamp{})
		}))
		require.NoError(t, n.state.Flush())
		n.open()
	}
	return c
}

func (c *testCluster) add(id keys.NodeID) *testNode {
	n := &testNode{t: c.t, c: c, id: id, fs: storage.MemFS()}
	c.nodes[id] = n
	n.openEngines()
	return n
}

func (n *testNode) openEngines() {
	var err error
	fatal := func(err error) { n.t.Errorf("n%d: %v", n.id, err) }
	n.state, err = storage.OpenState(storage.StateOptions{Dir: "/s/state", FS: n.fs, Small: true, OnFatal: fatal})
	require.NoError(n.t, err)
	n.log, err = storage.OpenLog(storage.LogOptions{Dir: "/s/log", FS: n.fs, Small: true, OnFatal: fatal})
	require.NoError(n.t, err)
	n.net = n.c.net.Node(n.id)
	n.recv = NewReceiver(n.net, n.state, n, nil)
}

func (n *testNode) ReplicaFor(to raft.ServerID, _ *kv.RangeDescriptor) (*Group, error) {
	if to != ServerID(n.id, keys.ReplicaID(n.id)) {
		return nil, fmt.Errorf("no replica %s", to)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.g == nil {
		return nil, fmt.Errorf("replica %s is not open", to)
	}
	return n.g, nil
}

func (n *testNode) Swallowed(*kv.RangeDescriptor) ([]*Group, error)       { return nil, nil }
func (n *testNode) SnapshotSwallowed(*kv.RangeDescriptor, []keys.RangeID) {}
func (n *testNode) FrozenApplied(*raftcmd.FreezeTrigger)                  {}
func (n *testNode) MergeApplied(raftcmd.MergeTrigger, hlc.Timestamp)      {}
func (n *testNode) Absorb(right keys.RangeID) (*Absorbed, error) {
	return nil, fmt.Errorf("no replica of range %d", right)
}

func (n *testNode) open() {
	addr := raft.ServerAddress(ServerID(n.id, keys.ReplicaID(n.id)))
	_, n.trans = raft.NewInmemTransportWithTimeout(addr, 300*time.Millisecond)
	for _, o := range n.c.nodes {
		if o != n && o.trans != nil {
			n.trans.Connect(o.trans.LocalAddr(), o.trans)
			o.trans.Connect(addr, n.trans)
		}
	}
	log, err := n.log.RaftLog(7, keys.ReplicaID(n.id))
	require.NoError(n.t, err)
	sender := NewSender(n.net, func(id raft.ServerID) (node keys.NodeID, ok bool) {
		var r keys.ReplicaID
		_, err := fmt.Sscanf(string(id), "n%d/%d", &node, &r)
		return node, err == nil
	}, nil)
	cfg := Config{
		RangeID: 7, Replica: keys.ReplicaID(n.id), Node: n.id, State: n.state, Log: log, Transport: n.trans,
		Events: n, SendSnapshot: sender.Send,
		OnLead:  func(term uint64) { n.mu.Lock(); n.led = append(n.led, term); n.mu.Unlock() },
		OnFatal: func(err error) { n.t.Errorf("n%d: %v", n.id, err) },
	}
	n.c.conf(&cfg)
	g, err := Open(cfg) // snapshots may come before this returns
	require.NoError(n.t, err)
	n.mu.Lock()
	n.g = g
	n.mu.Unlock()
}

func (n *testNode) SplitApplied(s raftcmd.SplitTrigger, _ hlc.Timestamp) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.splits = append(n.splits, s)
}
func (n *testNode) DescriptorApplied(d kv.RangeDescriptor) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.descs = append(n.descs, d)
}
func (n *testNode) GCThresholdApplied(hlc.Timestamp) {}
func (n *testNode) DigestRequested(_ raftcmd.ID, _ Position, s *storage.Snapshot) {
	require.NoError(n.t, s.Close())
}

// cut separates a node's raft from the others.
func (n *testNode) cut() {
	n.trans.DisconnectAll()
	for _, o := range n.c.nodes {
		if o != n && o.trans != nil {
			o.trans.Disconnect(n.trans.LocalAddr())
		}
	}
}

func (n *testNode) heal() {
	for _, o := range n.c.nodes {
		if o != n && o.trans != nil {
			n.trans.Connect(o.trans.LocalAddr(), o.trans)
			o.trans.Connect(n.trans.LocalAddr(), n.trans)
		}
	}
}

func (n *testNode) close() {
	n.cut()
	n.g.Close()
	n.net.Close()
	n.recv.Close()
	require.NoError(n.t, n.state.CloseWithoutFlush())
	require.NoError(n.t, n.log.Close())
}

// crash restarts the node with what was synced, and unsynced rests at random.
func (n *testNode) crash(rng *rand.Rand) {
	left := storage.CrashClone(n.fs, 50, rng)
	n.close()
	n.fs = left
	n.openEngines()
	n.open()
}

func (c *testCluster) close() {
	for _, n := range c.nodes {
		n.close()
	}
	c.net.Close()
}

func (c *testCluster) leader() *testNode {
	c.t.Helper()
	for range 2000 { // raft's own timers
		for _, n := range c.nodes {
			if term, ok := n.g.Leading(); ok && n.g.AppliedTerm() == term {
				return n
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.t.Fatal("no leader")
	return nil
}

func (n *testNode) command(key, value string) *raftcmd.Command {
	b := n.state.NewWriteBatch()
	defer b.Close()
	require.NoError(n.t, b.Set(keys.Key(key), []byte(value)))
	term, _ := n.g.Leading()
	return &raftcmd.Command{Term: term, Proposer: n.id, Batch: append([]byte(nil), b.Repr()...)}
}

func (n *testNode) put(key, value string) error {
	_, err := n.g.Propose(context.Background(), n.command(key, value))
	return err
}

func (n *testNode) get(key string) string {
	v, _, err := n.state.Get(keys.Key(key))
	require.NoError(n.t, err)
	return string(v)
}

// LastLog returns the last index on disk.
func (g *Group) LastLog() uint64 {
	last, _ := g.log.LastIndex()
	return last
}

func (c *testCluster) settle() { time.Sleep(40 * time.Second) }

func TestReplicatesAndSurvivesCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		rng := rand.New(rand.NewPCG(1, 2))
		want := map[string]string{}
		for round := range 4 {
			l := c.leader()
			for i := range 50 {
				k, v := fmt.Sprintf("k%03d", i), fmt.Sprintf("%d.%d", round, i)
				require.NoError(t, l.put(k, v))
				want[k] = v
			}
			l.crash(rng)
		}
		c.leader()
		c.settle()
		for _, n := range c.nodes {
			for k, v := range want {
				require.Equal(t, v, n.get(k), "n%d %s", n.id, k)
			}
		}
		c.close()
	})
}

func TestConcurrentProposalsShareEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		l := c.leader()
		before := l.g.LastIndex()
		var wg sync.WaitGroup
		l.cut() // nothing commits until all are proposed
		for i := range 200 {
			wg.Go(func() { require.NoError(t, l.put(fmt.Sprintf("k%d", i), "v")) })
		}
		synctest.Wait()
		l.heal()
		wg.Wait()
		require.LessOrEqual(t, l.g.LastIndex()-before, uint64(4), "two in flight, and the rest together")
		require.Equal(t, int64(200), l.g.Commands())
		c.close()
	})
}

func TestCommandsOfAnotherTermAndDuplicatesAreNotApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		l := c.leader()
		cmd := l.command("k", "stale")
		cmd.Term--
		_, err := l.g.Propose(t.Context(), cmd)
		require.ErrorIs(t, err, ErrRejected)
		require.Empty(t, l.get("k"))

		cmd = l.command("k", "one")
		cmd.ID, cmd.Birth, cmd.Outcome = raftcmd.ID{1}, 1, []byte("out")
		r, err := l.g.Propose(t.Context(), cmd)
		require.NoError(t, err)
		require.False(t, r.Duplicate)
		again := l.command("k", "two")
		again.ID = cmd.ID
		r, err = l.g.Propose(t.Context(), again)
		require.NoError(t, err)
		require.True(t, r.Duplicate)
		require.Equal(t, "one", l.get("k"))
		out, ok, _ := l.g.LookupCommand(cmd.ID)
		require.True(t, ok)
		require.Equal(t, "out", string(out))

		// The memory is replicated and survives.
		c.settle()
		l.crash(rand.New(rand.NewPCG(3, 4)))
		n := c.leader()
		out, ok, _ = n.g.LookupCommand(cmd.ID)
		require.True(t, ok)
		require.Equal(t, "out", string(out))
		c.close()
	})
}

func TestLostLeadershipIsAmbiguous(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		l := c.leader()
		l.cut()
		require.ErrorIs(t, l.put("k", "v"), ErrAmbiguous)
		require.ErrorIs(t, l.put("k", "v"), ErrRejected)
		l.heal()
		n := c.leader()
		require.NoError(t, n.put("k", "w"))
		c.settle()
		require.Equal(t, "w", l.get("k"))
		c.close()
	})
}

func TestSnapshotCatchesUpAndJoins(t *testing.T) {
	for _, voters := range []int{3, 5} {
		t.Run(fmt.Sprint(voters), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTestCluster(t, voters)
				old := c.leader()
				require.NoError(t, old.put("base", "1"))
				c.settle()

				// The leader is cut off with an uncommitted tail that reaches beyond the snapshot.
				old.cut()
				for i := range 1500 {
					go func() { _ = old.put(fmt.Sprintf("lost%d", i), "x") }()
					if i%3 == 0 {
						time.Sleep(time.Millisecond)
					}
				}
				var l *testNode
				for l == nil || l == old {
					time.Sleep(time.Second)
					l = c.leader()
				}
				// A longer tail than one leader's two entries in flight can make: many short leaderships.
				old.g.Close()
				for last := old.g.LastLog(); last < 3000; last++ {
					require.NoError(t, old.g.log.StoreLog(&raft.Log{Index: last + 1, Term: 2, Type: raft.LogCommand, Data: raftcmd.NewEntry(nil)}))
				}
				old.open()
				old.cut()
				tail := old.g.LastIndex()
				require.Equal(t, uint64(3000), tail)
				for i := range 1200 {
					require.NoError(t, l.put(fmt.Sprintf("k%04d", i), fmt.Sprint(i)))
				}
				require.NoError(t, l.state.Flush())
				// Healthy followers have matched; the log goes without regard to the lost one.
				l.g.log.mu.Lock()
				l.g.log.bytes = 1 << 40
				l.g.log.mu.Unlock()
				s, err := l.g.Truncate()
				require.NoError(t, err)
				require.Greater(t, s.First, uint64(300))
				old.heal()
				c.settle()
				c.settle()
				require.Equal(t, "1199", old.get("k1199"))
				require.Equal(t, "", old.get(fmt.Sprintf("lost%d", 1)))
				require.GreaterOrEqual(t, old.g.AppliedIndex(), l.g.AppliedIndex())
				t.Logf("stale tail to %d, snapshot at most %d", tail, old.g.AppliedIndex())

				// It can lead, and the state it received survives its crash at once.
				old.crash(rand.New(rand.NewPCG(5, 6)))
				require.Equal(t, "1199", old.get("k1199"))

				// An empty replica joins.
				l = c.leader()
				n := c.add(9)
				n.open()
				require.NoError(t, l.g.ChangeConfig(t.Context(), AddLearner, ServerID(9, 9), 0))
				c.settle()
				require.Equal(t, "1199", n.get("k1199"))
				require.NoError(t, l.g.ChangeConfig(t.Context(), AddVoter, ServerID(9, 9), 0))
				require.NoError(t, l.put("after", "9"))
				c.settle()
				require.Equal(t, "9", n.get("after"))

				// Without its vote it still follows.
				require.NoError(t, l.g.ChangeConfig(t.Context(), Demote, ServerID(9, 9), 0))
				sv := l.g.State().Config.Servers
				require.Equal(t, raft.Server{Suffrage: raft.Nonvoter, ID: ServerID(9, 9), Address: raft.ServerAddress(ServerID(9, 9))}, sv[len(sv)-1])
				require.NoError(t, l.put("demoted", "9"))
				c.settle()
				require.Equal(t, "9", n.get("demoted"))
				c.close()
			})
		})
	}
}

func TestSplitIsOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		l := c.leader()
		cmd := l.command("p", "right")
		cmd.ID, cmd.Birth = raftcmd.ID{7}, 1
		_, err := l.g.Propose(t.Context(), cmd)
		require.NoError(t, err)
		left, right := c.desc.Clone(), c.desc.Clone()
		left.End, left.Generation = keys.Key("m"), 2
		right.RangeID, right.Start, right.Generation = 8, keys.Key("m"), 2
		split := &raftcmd.SplitTrigger{Left: left, Right: right, HighWater: hlc.Timestamp{WallNanos: 99}}
		split.Left.Generation = 5
		_, err = l.g.Propose(t.Context(), &raftcmd.Command{Term: cmd.Term, Split: split})
		require.ErrorIs(t, err, ErrRejected)
		split.Left.Generation = 2
		_, err = l.g.Propose(t.Context(), &raftcmd.Command{Term: cmd.Term, Split: split})
		require.NoError(t, err)
		c.settle()
		for _, n := range c.nodes {
			n.mu.Lock()
			require.Len(t, n.splits, 1)
			n.mu.Unlock()
			st, err := LoadState(n.state, 8)
			require.NoError(t, err)
			require.Equal(t, Position{Index: InitialIndex, Term: InitialTerm}, st.Applied)
			require.Equal(t, right, st.Desc)
			require.Equal(t, hlc.Timestamp{WallNanos: 99}, st.HighWater)
			ids, err := loadIDs(n.state, 8, 0)
			require.NoError(t, err)
			require.Contains(t, ids.byID, cmd.ID)
			p, err := PendingSplits(n.state, 7)
			require.NoError(t, err)
			require.Len(t, p, 1)
			require.NoError(t, ClearPendingSplit(n.state, 7, 8))
			require.Equal(t, keys.Key("m"), n.g.State().Desc.End)
		}
		c.close()
	})
}
