package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/kv/dist"
	"github.com/atolldb/atoll/node/liveness"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/storage"
)

// testNode is a whole node below SQL.
type testNode struct {
	c       *testCluster
	addr    string
	zone    string
	fs      *storage.CrashFS
	id      keys.NodeID
	running bool

	engines *Engines
	local   *cluster.Local
	ep      *raftnet.MemNode
	dir     *cluster.Directory
	agent   *liveness.Agent
	router  *raftnet.Router
	store   *Store
	sender  *dist.DistSender
	service *cluster.Service
	plan    *cluster.Plan
}

type testCluster struct {
	t     *testing.T
	net   *raftnet.MemNet
	nodes []*testNode
	conf  func(*Config)
}

func newCluster(t *testing.T, conf func(*Config), zones ...string) *testCluster {
	c := &testCluster{t: t, net: raftnet.NewMemNet(1), conf: conf}
	c.net.SetDelay(100*time.Microsecond, 500*time.Microsecond)
	var addrs []string
	for i, z := range zones {
		n := c.newNode(fmt.Sprintf("node-%d", i+1), z)
		addrs = append(addrs, n.addr)
	}
	done := make(chan error, len(c.nodes))
	for _, n := range c.nodes {
		n.openEngines()
		go func() { done <- n.start() }()
	}
	time.Sleep(time.Second)
	client := c.net.Listen("client")
	_, err := cluster.Init(t.Context(), client, "test", addrs, "")
	require.NoError(t, err)
	for range c.nodes {
		require.NoError(t, <-done)
	}
	client.Close()
	return c
}

func (c *testCluster) newNode(addr, zone string) *testNode {
	n := &testNode{c: c, addr: addr, zone: zone, fs: storage.MemFS()}
	c.nodes = append(c.nodes, n)
	return n
}

// join starts an empty node.
func (c *testCluster) join(addr, zone string) *testNode {
	n := c.newNode(addr, zone)
	n.openEngines()
	require.NoError(c.t, n.start())
	return n
}

func (n *testNode) openEngines() {
	var err error
	n.engines, err = OpenEngines(EngineOptions{Dir: "/store", FS: n.fs, Small: true, OnFatal: n.fatal})
	require.NoError(n.c.t, err)
	n.local = cluster.NewLocal(n.engines.Log)
	n.ep = n.c.net.Listen(n.addr)
}

func (n *testNode) fatal(err error) { n.c.t.Errorf("%s: %v", n.addr, err) }

func (n *testNode) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var join []string
	for _, o := range n.c.nodes {
		join = append(join, o.addr)
	}
	adm := &cluster.Admission{Local: n.local, Net: n.ep, Self: cluster.NodeInfo{Addr: n.addr, Zone: n.zone}, Join: join}
	adm.Serve()
	res, err := adm.Wait(ctx)
	if err != nil {
		return err
	}
	n.id, n.plan = res.Identity.Node, res.Plan
	boot, err := n.local.NextBoot()
	if err != nil {
		return err
	}
	n.ep.SetIdentity(raftnet.Identity{ClusterID: res.Identity.ClusterID, Node: n.id, Boot: boot})
	if n.dir, err = cluster.OpenDirectory(n.local); err != nil {
		return err
	}
	if n.plan != nil {
		if err := n.dir.Merge(n.plan.Members...); err != nil {
			return err
		}
	}
	if err := n.dir.Merge(res.Directory...); err != nil {
		return err
	}
	clock := hlc.NewClock(time.Now, 250*time.Millisecond)
	promised, err := n.local.Promised()
	if err != nil {
		return err
	}
	var st atomic.Pointer[Store]
	n.agent, err = liveness.Start(liveness.Config{Network: n.ep, Clock: clock, Self: n.id, Boot: boot, Nodes: n.dir.Nodes,
		Neighbours: func() []keys.NodeID {
			if s := st.Load(); s != nil {
				return s.Neighbours()
			}
			return nil
		},
		Promised: promised, PersistPromise: n.local.PersistPromise})
	if err != nil {
		return err
	}
	if n.router, err = raftnet.NewRouter(raftnet.RouterConfig{Network: n.ep, Support: n.agent}); err != nil {
		return err
	}
	cfg := Config{Engines: n.engines, Node: n.id, Network: n.ep, Router: n.router, Support: n.agent, Clock: clock,
		Directory: n.dir, Plan: n.plan, OnFatal: n.fatal, DeadAfter: 5 * time.Second, KeepReplicas: true, Logger: testLogger()}
	if n.c.conf != nil {
		n.c.conf(&cfg)
	}
	if n.store, err = Open(cfg); err != nil {
		return err
	}
	st.Store(n.store)
	n.sender, err = dist.New(dist.Config{Clock: clock, Self: n.id, Local: n.store, MetaSeed: n.store.MetaSeed, Alive: n.agent.Live,
		Caller: dist.CallerFunc(func(ctx context.Context, to keys.NodeID, payload []byte) ([]byte, error) {
			return n.ep.Call(ctx, to, raftnet.Data, raftnet.MethodKVBatch, payload)
		})})
	if err != nil {
		return err
	}
	n.agent.OnLapse(n.sender.NodeDown)
	n.store.Start(n.sender)
	self := adm.Self
	self.ID = n.id
	n.service = cluster.StartService(n.dir, n.ep, res.Identity, self, n.sender, nil)
	n.running = true
	return nil
}

func testLogger() *slog.Logger {
	if testing.Verbose() {
		return slog.Default()
	}
	return slog.New(slog.DiscardHandler)
}

func (n *testNode) stopParts() {
	n.running = false
	n.ep.Close()
	n.service.Close()
	n.store.Close()
	n.router.Close()
	n.agent.Close()
}

// kill ends the node as a power failure does: what was not synced is lost, or half of it.
func (n *testNode) kill() {
	left := storage.CrashClone(n.fs, 50, rand.New(rand.NewPCG(uint64(n.id), 7)))
	n.stopParts()
	require.NoError(n.c.t, n.engines.Crash())
	n.fs = left
}

func (n *testNode) restart() {
	n.openEngines()
	require.NoError(n.c.t, n.start())
}

func (c *testCluster) close() {
	for _, n := range c.nodes {
		if n.running {
			n.stopParts()
			require.NoError(c.t, n.engines.Close())
		}
	}
	c.net.Close()
}

func (c *testCluster) up() []*testNode {
	var out []*testNode
	for _, n := range c.nodes {
		if n.running {
			out = append(out, n)
		}
	}
	return out
}

// leaseholder waits for the holder of a range's lease.
func (c *testCluster) leaseholder(id keys.RangeID) *testNode {
	c.t.Helper()
	var found *testNode
	c.eventually(30*time.Second, func() bool {
		for _, n := range c.up() {
			if r := n.store.get(id); r != nil {
				if _, ok := r.leads(); ok {
					found = n
					return true
				}
			}
		}
		return false
	})
	return found
}

func (c *testCluster) eventually(limit time.Duration, cond func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(limit); ; {
		if cond() {
			return
		}
		if time.Now().After(deadline) {
			for _, n := range c.up() {
				for _, r := range n.store.Ranges() {
					c.t.Logf("n%d: %s leader n%d lease %t term %d applied %d", n.id, &r.Desc, r.Leader, r.Lease, r.Term, r.Applied)
				}
			}
			c.t.Fatalf("not true within %s", limit)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func tkey(i int) keys.Key {
	return binary.BigEndian.AppendUint32(keys.TablePrefix(100), uint32(i))
}

// put writes outside a transaction. It waits until the write's timestamp has passed, as the
// coordinator of a transaction does (S1): after a lease moved, writes land in the future.
func (n *testNode) put(ctx context.Context, k keys.Key, v string) error {
	br, err := n.sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: k, Value: []byte(v)}}})
	if err == nil {
		time.Sleep(time.Until(br.Timestamp.Time()) + time.Nanosecond)
	}
	return err
}

func (n *testNode) get(ctx context.Context, k keys.Key) (string, error) {
	r, err := sendOne[*kv.GetResponse](ctx, n.sender, &kv.GetRequest{Key: k})
	if err != nil {
		return "", err
	}
	return string(r.Value), nil
}
