package raftnet_test

import (
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
)

func cpuTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestIdleCost measures what idle ranges cost three nodes on real TCP, in real time:
// ATOLL_IDLE_RANGES=500 go test -run IdleCost -v ./node/raftnet
func TestIdleCost(t *testing.T) {
	ranges, _ := strconv.Atoi(os.Getenv("ATOLL_IDLE_RANGES"))
	length := 10 * time.Second
	if ranges == 0 {
		ranges, length = 20, 0 // without the figure: leases over real TCP only
	}
	addrs := map[keys.NodeID]string{}
	nets := map[keys.NodeID]*raftnet.TCP{}
	for id := keys.NodeID(1); id <= 3; id++ {
		n, err := raftnet.ListenTCP(raftnet.TCPConfig{Listen: "127.0.0.1:0", Identity: raftnet.Identity{ClusterID: "c", Node: id, Boot: 1},
			Resolve: func(id keys.NodeID) (string, bool) { return addrs[id], true }})
		require.NoError(t, err)
		nets[id], addrs[id] = n, n.Addr().String()
	}
	c := newCluster(t, 1, 3, ranges, func(c *cluster) {
		c.network = func(id keys.NodeID) raftnet.Network { return nets[id] }
		c.support = 2 * time.Second // a busy machine must not disturb the figure
	})
	t.Logf("%d ranges have leases after %v", ranges, c.leased(30*time.Second, 0))
	if length > 0 {
		time.Sleep(5 * time.Second)
		before := cpuTime(t)
		time.Sleep(length)
		cost := cpuTime(t) - before
		t.Logf("%d idle ranges on three nodes: %.2f%% of a core per node", ranges, float64(cost)/float64(length)/3*100)
	}
	for _, n := range c.nodes {
		n.stop()
	}
}
