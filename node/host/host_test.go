package host_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/host"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/txn"
)

// testTimeout bounds every wait.
const testTimeout = 60 * time.Second

func tcp(t testing.TB, addr string) func(func(keys.NodeID) (string, bool), raftnet.BootRegistry) (host.Network, error) {
	return func(resolve func(keys.NodeID) (string, bool), boots raftnet.BootRegistry) (host.Network, error) {
		return raftnet.ListenTCP(raftnet.TCPConfig{Listen: addr, Resolve: resolve, Boots: boots})
	}
}

// freeAddr returns a loopback address that nobody listens on.
func freeAddr(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func open(ctx context.Context, t testing.TB, dir, addr, zone string, join []string) (*host.Node, error) {
	return host.Open(ctx, host.Config{
		Dir: dir, Listen: tcp(t, addr), Join: join, Small: true, Version: "a test",
		Self:  cluster.NodeInfo{Addr: addr, Region: "r", Zone: zone},
		Clock: hlc.NewClock(time.Now, 250*time.Millisecond), Time: hlc.SystemTime(),
		OnFatal: func(err error) { t.Errorf("node at %s: %v", addr, err) },
	})
}

// startCluster founds a cluster of n nodes over TCP on loopback and real disks.
func startCluster(t testing.TB, n int) ([]*host.Node, []string) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	addrs, dirs := make([]string, n), make([]string, n)
	for i := range n {
		addrs[i], dirs[i] = freeAddr(t), filepath.Join(t.TempDir(), "store")
	}
	nodes, errs := make([]*host.Node, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { nodes[i], errs[i] = open(ctx, t, dirs[i], addrs[i], fmt.Sprintf("z%d", i), addrs) })
	}
	client, err := raftnet.ListenTCP(raftnet.TCPConfig{Listen: "127.0.0.1:0", Resolve: func(keys.NodeID) (string, bool) { return "", false }})
	require.NoError(t, err)
	defer client.Close()
	require.Eventually(t, func() bool {
		_, err := cluster.Init(ctx, client, "7d2e7b60-3c57-4d0c-a3b8-1f1c2d3e4f50", addrs, "")
		return err == nil
	}, testTimeout, 20*time.Millisecond)
	wg.Wait()
	for i, err := range errs {
		require.NoError(t, err, "node %d", i)
	}
	for _, node := range nodes {
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return node.Ready(ctx) == nil
		}, testTimeout, 10*time.Millisecond)
	}
	return nodes, dirs
}

func put(ctx context.Context, n *host.Node, key, value string) error {
	return n.DB.Run(ctx, txn.Options{}, func(ctx context.Context, t *txn.Txn) error {
		return t.Put(ctx, keys.System(key), []byte(value), kv.Condition{})
	})
}

func get(ctx context.Context, n *host.Node, key string) (string, error) {
	var out string
	err := n.DB.Run(ctx, txn.Options{}, func(ctx context.Context, t *txn.Txn) error {
		r, err := t.Get(ctx, keys.System(key), txn.ReadOptions{})
		out = string(r.Value)
		return err
	})
	return out, err
}

// TestThreeNodesOverTCP writes through one node, reads through another, and goes on without
// the third.
func TestThreeNodesOverTCP(t *testing.T) {
	nodes, _ := startCluster(t, 3)
	defer func() {
		for _, n := range nodes {
			if n != nil {
				n.Close()
			}
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	statuses := nodes[0].Statuses(ctx)
	require.Len(t, statuses, 3)
	for _, n := range nodes {
		got := statuses[n.Identity.Node]
		require.Equal(t, "a test", got.Version)
		require.Equal(t, n.Boot, got.Boot)
		require.Positive(t, got.DiskFree)
		require.WithinDuration(t, time.Now(), got.Started, testTimeout)
	}
	for i := range 30 {
		require.NoError(t, put(ctx, nodes[i%3], fmt.Sprintf("k%d", i), fmt.Sprint(i)))
	}
	for i := range 30 {
		v, err := get(ctx, nodes[(i+1)%3], fmt.Sprintf("k%d", i))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), v)
	}
	nodes[0].Close()
	nodes[0] = nil
	for i := range 30 {
		v, err := get(ctx, nodes[1], fmt.Sprintf("k%d", i))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), v)
		require.NoError(t, put(ctx, nodes[2], fmt.Sprintf("k%d", i), "again"))
	}
}

func benchmarkClients(b *testing.B, clients int, f func(ctx context.Context, n *host.Node, i int) error) {
	nodes, _ := startCluster(b, 3)
	defer func() {
		for _, n := range nodes {
			n.Close()
		}
	}()
	ctx := context.Background()
	require.NoError(b, put(ctx, nodes[0], "k", "v"))
	var lead *host.Node
	for _, n := range nodes {
		for _, r := range n.Store.Ranges() {
			if r.Lease && r.Desc.RangeID == keys.FirstDataRangeID {
				lead = n
			}
		}
	}
	b.ResetTimer()
	b.SetParallelism(clients)
	var mu sync.Mutex
	next := 0
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mu.Lock()
			next++
			i := next
			mu.Unlock()
			if err := f(ctx, lead, i); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkPut commits single-key transactions at the leaseholder, 16 clients.
func BenchmarkPut(b *testing.B) {
	benchmarkClients(b, 8, func(ctx context.Context, n *host.Node, i int) error { return put(ctx, n, fmt.Sprintf("b%d", i), "v") })
}

// BenchmarkGet reads one key in a transaction at the leaseholder.
func BenchmarkGet(b *testing.B) {
	benchmarkClients(b, 8, func(ctx context.Context, n *host.Node, _ int) error {
		_, err := get(ctx, n, "k")
		return err
	})
}
