package raftnet_test

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/liveness"
	"github.com/atolldb/atoll/node/raftnet"
)

// cluster is nodes with many ranges each, in memory, within a synctest bubble.
type cluster struct {
	t       *testing.T
	net     *raftnet.MemNet
	planted raftnet.Planted
	support time.Duration
	router  func(*raftnet.RouterConfig)
	network func(keys.NodeID) raftnet.Network
	nodes   []*node
	ranges  int
	witness keys.NodeID // of every range; 0: none
}

type node struct {
	c        *cluster
	id       keys.NodeID
	promised time.Duration
	boot     uint64
	disks    map[keys.RangeID]*raft.InmemStore // survive a restart
	up       bool

	net    raftnet.Network
	clock  *hlc.Clock
	agent  *liveness.Agent
	router *raftnet.Router
	reps   map[keys.RangeID]*replica
}

type replica struct {
	tr    *raftnet.RangeTransport
	r     *raft.Raft
	store *raft.InmemStore
	fsm   *countFSM
}

type countFSM struct {
	mu    sync.Mutex
	index uint64
	data  []string
}

func (f *countFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index = l.Index
	f.data = append(f.data, string(l.Data))
	return nil
}
func (f *countFSM) Snapshot() (raft.FSMSnapshot, error) { return nil, fmt.Errorf("none") }
func (f *countFSM) Restore(r io.ReadCloser) error       { return r.Close() }
func (f *countFSM) applied() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.data...)
}

func newCluster(t *testing.T, seed uint64, nodes, ranges int, opts ...func(*cluster)) *cluster {
	c := &cluster{t: t, net: raftnet.NewMemNet(seed), ranges: ranges, support: 500 * time.Millisecond}
	c.network = func(id keys.NodeID) raftnet.Network { return c.net.Node(id) }
	c.net.SetDelay(300*time.Microsecond, 700*time.Microsecond)
	for _, o := range opts {
		o(c)
	}
	for i := range nodes {
		c.nodes = append(c.nodes, &node{c: c, id: keys.NodeID(i + 1), disks: map[keys.RangeID]*raft.InmemStore{}})
	}
	for _, n := range c.nodes {
		n.start()
	}
	return c
}

func (c *cluster) ids() []keys.NodeID {
	var out []keys.NodeID
	for _, n := range c.nodes {
		out = append(out, n.id)
	}
	return out
}

func (c *cluster) node(id keys.NodeID) *node { return c.nodes[id-1] }

func (n *node) start() {
	t := n.c.t
	n.boot++
	n.net = n.c.network(n.id)
	n.clock = hlc.NewClock(time.Now, 250*time.Millisecond)
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("ATOLL_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	rc := raftnet.RouterConfig{Network: n.net, Planted: n.c.planted, Logger: log}
	if n.c.router != nil {
		n.c.router(&rc)
	}
	var err error
	n.agent, err = liveness.Start(liveness.Config{
		Network: n.net, Clock: n.clock, Self: n.id, Boot: n.boot, Neighbours: n.c.ids, Support: n.c.support,
		Promised: n.promised, PersistPromise: func(d time.Duration) error { n.promised = d; return nil },
		OnClockFatal: func(err error) { t.Errorf("n%d: %v", n.id, err) }, Logger: log,
	})
	require.NoError(t, err)
	rc.Support = n.agent
	n.router, err = raftnet.NewRouter(rc)
	require.NoError(t, err)
	n.reps = map[keys.RangeID]*replica{}
	n.up = true
	for i := range n.c.ranges {
		n.startRange(keys.RangeID(i + 1))
	}
}

func (n *node) startRange(id keys.RangeID) {
	t := n.c.t
	store := n.disks[id]
	fresh := store == nil
	if fresh {
		store = raft.NewInmemStore()
		n.disks[id] = store
	}
	rep := &replica{store: store, fsm: &countFSM{}}
	tr, err := n.router.Add(raftnet.RangeConfig{Range: id, Replica: keys.ReplicaID(n.id), Witness: n.id == n.c.witness,
		AppliedTerm: rep.appliedTerm,
		GetLog:      store.GetLog,
	})
	require.NoError(t, err)
	rep.tr = tr
	conf := raftnet.RaftConfig(tr.ID())
	conf.Logger = hclog.NewNullLogger()
	if os.Getenv("ATOLL_TEST_LOG") != "" {
		conf.Logger = hclog.New(&hclog.LoggerOptions{Name: string(tr.ID()), Output: os.Stderr, Level: hclog.Debug})
	}
	snaps := raft.NewInmemSnapshotStore()
	if fresh {
		var cfg raft.Configuration
		for _, m := range n.c.nodes {
			sid := raftnet.ServerID(m.id, keys.ReplicaID(m.id))
			cfg.Servers = append(cfg.Servers, raft.Server{ID: sid, Address: raftnet.ServerAddress(sid, m.id == n.c.witness)})
		}
		require.NoError(t, raft.BootstrapCluster(conf, store, store, snaps, tr, cfg))
	}
	rep.r, err = raft.NewRaft(conf, rep.fsm, store, store, snaps, tr)
	require.NoError(t, err)
	tr.SetRaft(rep.r)
	n.reps[id] = rep
}

// appliedTerm: the FSM is trivial, so that what is committed counts as applied.
func (r *replica) appliedTerm() uint64 {
	var l raft.Log
	if r.r == nil || r.store.GetLog(r.r.CommitIndex(), &l) != nil {
		return 0
	}
	return l.Term
}

func (n *node) stop() {
	if !n.up {
		return
	}
	n.up = false
	n.net.Close()
	var fs []raft.Future
	for _, r := range n.reps {
		r.tr.Close()
		fs = append(fs, r.r.Shutdown())
	}
	n.router.Close()
	n.agent.Close()
	for _, f := range fs {
		f.Error()
	}
}

func (c *cluster) close() {
	for _, n := range c.nodes {
		n.stop()
	}
	c.net.Close()
	time.Sleep(5 * time.Second) // timers of the network
}

// holder returns the node that holds the range's lease, 0 if none does. It reports two.
func (c *cluster) holder(id keys.RangeID) keys.NodeID {
	var out keys.NodeID
	for _, n := range c.nodes {
		if n.up && n.reps[id].tr.Lease().Valid {
			if out != 0 {
				c.t.Errorf("r%d: n%d and n%d hold the lease at once", id, out, n.id)
			}
			out = n.id
		}
	}
	return out
}

// leased waits until every range has a lease on a node other than not.
func (c *cluster) leased(limit time.Duration, not keys.NodeID) time.Duration {
	start := time.Now()
	for id := keys.RangeID(1); int(id) <= c.ranges; {
		if h := c.holder(id); h != 0 && h != not {
			id++
			continue
		}
		if time.Since(start) > limit {
			c.dump(id)
			c.t.Fatalf("r%d has no lease after %v", id, limit)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(start)
}

func (c *cluster) dump(id keys.RangeID) {
	for _, n := range c.nodes {
		if n.up {
			r := n.reps[id]
			c.t.Logf("n%d: %v term %d commit %d last %d, leader n%d, live %v, votes allowed %v, ready %v, supporters %v", n.id, r.r.State(), r.r.CurrentTerm(), r.r.CommitIndex(), r.r.LastIndex(), r.tr.Leader(), n.agent.LiveNodes(), n.agent.VotesAllowed(), n.agent.Ready(), r.tr.Supporters())
		}
	}
}

// moveAll brings every lease to one node.
func (c *cluster) moveAll(to keys.NodeID) {
	for id := keys.RangeID(1); int(id) <= c.ranges; id++ {
		for try := 0; c.holder(id) != to; try++ {
			require.Less(c.t, try, 100, "r%d could not be moved to n%d", id, to)
			if h := c.holder(id); h != 0 {
				target := raftnet.ServerID(to, keys.ReplicaID(to))
				_ = c.node(h).reps[id].tr.Transfer(c.t.Context(), target, "a test")
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}
