package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestPowerCut kills every process at once while clients write, twice, and finds everything
// that was acknowledged after a restart.
func TestPowerCut(t *testing.T) {
	c := StartCluster(t)
	c.Exec(t, 0, "CREATE TABLE cut (client int, seq bigint, PRIMARY KEY (client, seq))", "CREATE TABLE tally (client int PRIMARY KEY, n bigint NOT NULL)")
	const clients = 6
	acked := make([]int64, clients) // by client: all numbers up to this one were acknowledged
	for i := range clients {
		c.Exec(t, i%c.Nodes(), fmt.Sprintf("INSERT INTO tally VALUES (%d, 0)", i))
	}
	for round := range 2 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		total := 0
		from := slices.Clone(acked)
		for i := range clients {
			conn := c.Connect(t, i%c.Nodes())
			wg.Go(func() {
				for seq := from[i] + 1; ; {
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
						if _, err := tx.Exec(ctx, "INSERT INTO cut VALUES ($1, $2)", i, seq); err != nil {
							return err
						}
						_, err := tx.Exec(ctx, "UPDATE tally SET n = $2 WHERE client = $1", i, seq)
						return err
					})
					cancel()
					switch {
					case sqlState(err) == "40001" || sqlState(err) == "40P01":
						continue
					case err != nil:
						return // the power is gone
					}
					mu.Lock()
					acked[i] = seq
					total++
					mu.Unlock()
					seq++
				}
			})
		}
		eventually(t, time.Minute, "clients commit", func() string {
			mu.Lock()
			defer mu.Unlock()
			if total < 300 {
				return fmt.Sprintf("%d commits", total)
			}
			return ""
		})
		c.SIGKILLAll(t)
		wg.Wait()
		start := time.Now()
		c.Up(t)
		t.Logf("round %d: up %s after a power cut with %d commits acknowledged", round, time.Since(start).Round(10*time.Millisecond), total)
		for i := range clients {
			node := (i + 1) % c.Nodes()
			n := c.Int(t, node, "SELECT count(*) FROM cut WHERE client = $1", i)
			top := c.Int(t, node, "SELECT coalesce(max(seq), 0) FROM cut WHERE client = $1", i)
			tally := c.Int(t, node, "SELECT n FROM tally WHERE client = $1", i)
			require.GreaterOrEqual(t, top, acked[i], "client %d: the newest acknowledged commit is gone", i)
			require.LessOrEqual(t, top, acked[i]+1, "client %d: more is there than was in flight", i)
			require.Equal(t, top, n, "client %d: a number in the middle is gone", i)
			require.Equal(t, top, tally, "client %d: a transaction is there by half", i)
			acked[i] = top
		}
	}
	// Down in order and up again keeps the data too, and the cluster is the same.
	id, err := c.overview(0)
	require.NoError(t, err)
	c.Down(t)
	c.Up(t)
	again, err := c.overview(0)
	require.NoError(t, err)
	require.Equal(t, id.Node, again.Node)
	require.EqualValues(t, acked[0], c.Int(t, 2, "SELECT n FROM tally WHERE client = 0"))
}

// TestEmptyNodeRejoins takes a node's disk away. It comes back as a new node, never as its old
// self: the votes it gave are forgotten. Another node of its zone takes its place.
func TestEmptyNodeRejoins(t *testing.T) {
	c := StartCluster(t)
	c.PgbenchInit(t, 0, 1)
	const victim = 1
	nodes, err := view(c, 0, readNodes)
	require.NoError(t, err)
	require.Len(t, nodes, 3)
	old := nodeAt(nodes, c.sqlPort+victim)
	require.NotNil(t, old)
	w := c.StartWriter(t, 0, "acked")
	w.progress(t, 20, time.Minute)
	zone := c.Zones[victim]
	c.Zone(t, "kill", zone)
	data := filepath.Join(c.Store, fmt.Sprintf("n%d", victim), "data")
	_, err = os.Stat(data)
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(data))
	w.progress(t, 20, time.Minute)
	c.Zone(t, "heal", zone)

	// It is admitted with an ID that nobody had before, in the same zone.
	var fresh *nodeRow
	eventually(t, time.Minute, "the empty node is admitted", func() string {
		nodes, err := view(c, 0, readNodes)
		if err != nil {
			return err.Error()
		}
		for _, n := range nodes {
			if n.ID > 3 && n.Zone == zone && n.Status == "live" {
				fresh = &n
				return ""
			}
		}
		return fmt.Sprintf("atoll.nodes: %v", nodes)
	})
	o, err := c.overview(victim)
	require.NoError(t, err)
	require.Equal(t, fresh.ID, o.Node)
	require.NotEqual(t, old.ID, o.Node)

	// The operator says that the old one is gone for good; its replicas move to the new one.
	c.Atoll(t, "node", "decommission", "--dead", strconv.Itoa(old.ID))
	eventually(t, time.Minute, "the new node has the replicas of the old one", func() string {
		o, err := c.overview(victim)
		if err != nil {
			return err.Error()
		}
		want, err := view(c, 0, readRanges)
		if err != nil {
			return err.Error()
		}
		if len(o.Ranges) != len(want) {
			return fmt.Sprintf("%d of %d ranges", len(o.Ranges), len(want))
		}
		for _, r := range o.Ranges {
			if slices.Contains(strings.Fields(r.Replicas), fmt.Sprintf("n%d", old.ID)) {
				return fmt.Sprintf("range %d still counts node %d in: %s", r.ID, old.ID, r.Replicas)
			}
		}
		return ""
	})
	c.AwaitHealthy(t, 0, time.Minute)
	nodes, err = view(c, 0, readNodes)
	require.NoError(t, err)
	for _, n := range nodes {
		if n.ID == old.ID {
			require.Equal(t, "decommissioned", n.Status)
		}
	}
	w.progress(t, 20, time.Minute)

	// The new node counts: with it, another zone may go.
	c.Zone(t, "kill", c.Zones[2])
	w.progress(t, 20, time.Minute)
	c.Zone(t, "heal", c.Zones[2])
	c.AwaitHealthy(t, 0, time.Minute)
	w.stop(t, victim)
	require.EqualValues(t, 100000, c.Int(t, victim, "SELECT count(*) FROM pgbench_accounts"))
}

// nodeAt finds a node by its SQL port.
func nodeAt(nodes []nodeRow, port int) *nodeRow {
	for _, n := range nodes {
		if n.SQLAddr == loopback(port) {
			return &n
		}
	}
	return nil
}

// TestDrain moves a node's leases away before it stops, so that clients elsewhere wait for nothing.
func TestDrain(t *testing.T) {
	c := StartCluster(t)
	c.PgbenchInit(t, 0, 1)
	zone := awayFrom(t, c, 0)
	nodes, err := view(c, 0, readNodes)
	require.NoError(t, err)
	node := nodeAt(nodes, c.sqlPort+c.NodeOf(zone))
	require.NotNil(t, node)
	w := c.StartWriter(t, 0, "acked")
	w.progress(t, 50, time.Minute)
	_ = w.silence()
	c.Atoll(t, "node", "drain", strconv.Itoa(node.ID))
	eventually(t, 30*time.Second, "no lease is left on the drained node", func() string {
		ranges, err := view(c, 0, readRanges)
		if err != nil {
			return err.Error()
		}
		for _, r := range ranges {
			if r.Leaseholder == node.ID || r.Leaseholder == 0 {
				return fmt.Sprintf("range %d is led by node %d", r.ID, r.Leaseholder)
			}
		}
		return ""
	})
	w.progress(t, 50, time.Minute)
	silence := w.silence()
	t.Logf("drain: longest silence %s", silence.Round(time.Millisecond))
	require.Less(t, silence, 5*time.Second)
	w.stop(t, 2)
}
