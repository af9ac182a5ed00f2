package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// maxSilence is a generous bound for the longest wait of a client through a surviving node;
// the figures that are measured are printed.
const maxSilence = 10 * time.Second

// TestZoneKilled takes the power of one zone after another while pgbench runs through a
// surviving one.
func TestZoneKilled(t *testing.T) {
	c := StartCluster(t)
	c.PgbenchInit(t, 0, 5)
	first := c.LeaseZone(t, 0)
	second := c.Others(first)[0]
	survivor := c.Others(first, second)[0]
	via := c.NodeOf(survivor)
	w := c.StartWriter(t, via, "acked")
	const seconds = 40
	bench := c.StartPgbench(t, via, seconds, "-c", "8", "-j", "2", "--max-tries=50", "-P", "1")
	w.progress(t, 50, time.Minute)

	for _, victim := range []string{first, second} {
		led := c.LeaseZone(t, via)
		busy, idle := c.watchClient(t, c.NodeOf(victim), false), c.watchClient(t, c.NodeOf(victim), true)
		_ = w.silence()
		start := time.Now()
		c.Zone(t, "kill", victim)
		for name, ch := range map[string]<-chan disconnect{"busy": busy, "idle": idle} {
			select {
			case d := <-ch:
				require.True(t, goodbye(d.err), "%s client of the killed node saw %v, want 57P01 or a closed connection", name, d.err)
				require.Less(t, d.at.Sub(start), time.Second+500*time.Millisecond, "%s client", name) // the command itself takes a part
			case <-time.After(5 * time.Second):
				t.Fatalf("%s client of the killed node has not noticed after 5 s", name)
			}
		}
		w.progress(t, 100, time.Minute)
		eventually(t, 20*time.Second, "atoll.zones shows that "+victim+" is down", func() string {
			zones, err := view(c, via, readZones)
			if err != nil {
				return err.Error()
			}
			for _, z := range zones {
				if (z.Zone == victim) != (z.Status == "down") {
					return z.Zone + " is " + z.Status
				}
			}
			return ""
		})
		require.NotEqual(t, victim, c.LeaseZone(t, via))
		silence := w.silence()
		t.Logf("killed %s (leases were in %s): longest silence between commits through %s: %s", victim, led, survivor, silence.Round(time.Millisecond))
		require.Less(t, silence, maxSilence)
		require.False(t, bench.done(), "pgbench ended before the zone was healed: %s", bench.out.String())
		c.Zone(t, "heal", victim)
		c.AwaitHealthy(t, via, time.Minute)
		silence = w.silence()
		t.Logf("healed %s: longest silence %s", victim, silence.Round(time.Millisecond))
		require.Less(t, silence, maxSilence)
	}
	r := bench.Result(t)
	require.Zero(t, r.Failed, r.Output)
	t.Logf("pgbench: %d transactions, %d retried, in %d s with two zones killed and healed", r.Processed, r.Retried, seconds)
	for node := range c.Nodes() {
		require.EqualValues(t, r.Processed, c.Int(t, node, "SELECT count(*) FROM pgbench_history"), "transactions that pgbench saw committed, read through node %d", node)
		c.Balances(t, node)
	}
	w.stop(t, c.NodeOf(first))
}

// TestZonePausedAndIsolated freezes the leaseholder's zone and cuts its network. Reads through
// it fail or are current, also those that waited in the frozen process.
func TestZonePausedAndIsolated(t *testing.T) {
	c := StartCluster(t)
	const via = 0
	c.PgbenchInit(t, via, 1)
	for _, action := range []string{"pause", "isolate"} {
		t.Run(action, func(t *testing.T) {
			victim := awayFrom(t, c, via)
			node := c.NodeOf(victim)
			w := c.StartWriter(t, via, action+"_acked")
			readers := []*registerReader{c.StartReader(t, via, w, "10s"), c.StartReader(t, node, w, "2s"), c.StartReader(t, node, w, "0")}
			bench := c.StartPgbench(t, via, 20, "-c", "4", "-j", "2", "--max-tries=50")
			w.progress(t, 50, time.Minute)
			for _, r := range readers {
				eventually(t, 30*time.Second, "readers read", func() string {
					if r.ok.Load() < 20 {
						return "few reads yet"
					}
					return ""
				})
			}
			_ = w.silence()
			c.Zone(t, action, victim)
			w.progress(t, 200, time.Minute)
			silence := w.silence()
			t.Logf("%s %s: longest silence between commits %s", action, victim, silence.Round(time.Millisecond))
			require.Less(t, silence, maxSilence)
			if action == "isolate" {
				isolatedReads(t, c, node, w)
			}
			require.NotEqual(t, victim, c.LeaseZone(t, via))
			healed := readers[1].ok.Load()
			c.Zone(t, "heal", victim)
			c.AwaitHealthy(t, via, time.Minute)
			eventually(t, 30*time.Second, "reads through the healed node succeed again", func() string {
				if n := readers[1].ok.Load() - healed; n < 20 {
					return "few reads yet"
				}
				return ""
			})
			r := bench.Result(t)
			require.Zero(t, r.Failed, r.Output)
			for _, r := range readers {
				r.stop(t)
			}
			w.stop(t, node)
			c.Balances(t, via)
		})
	}
}

// awayFrom makes sure that the leaseholder is in another zone than a node, and returns it.
func awayFrom(t *testing.T, c *Cluster, node int) string {
	t.Helper()
	z := c.LeaseZone(t, node)
	if c.NodeOf(z) != node {
		return z
	}
	// A kill moves the lease; nothing else is asked of the zone that is about to serve.
	c.Zone(t, "kill", z)
	other := c.NodeOf(c.Others(z)[0])
	eventually(t, time.Minute, "the lease moves", func() string {
		if got := c.LeaseZone(t, other); got == z {
			return "still in " + z
		}
		return ""
	})
	c.Zone(t, "heal", z)
	c.AwaitHealthy(t, other, time.Minute)
	return c.LeaseZone(t, node)
}

// isolatedReads looks at a node that is cut off from the others while they commit: what it
// answers is current, and without an answer it says so within a bounded time.
func isolatedReads(t *testing.T, c *Cluster, node int, w *sequenceWriter) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.DSN(node))
	if err != nil {
		require.Regexp(t, `^(57P03|08006|)$`, sqlState(err), err) // it refuses: it does not serve
	} else {
		defer conn.Close(context.Background())
		_, err = conn.Exec(ctx, "SET statement_timeout = '2s'")
		require.NoError(t, err)
		low, start := w.last.Load(), time.Now()
		var got int64
		err = conn.QueryRow(ctx, "SELECT seq FROM "+w.table+"_newest WHERE id = 1").Scan(&got)
		if err == nil {
			require.GreaterOrEqual(t, got, low, "stale read through the isolated node")
		}
		require.Error(t, err, "a node without a quorum answered a read: it has no way to know what is current")
		require.Equal(t, "57014", sqlState(err), err)
		require.Less(t, time.Since(start), 10*time.Second)
	}
	eventually(t, 30*time.Second, "readyz of the isolated node refuses", func() string {
		code, body, err := c.Get(node, "/readyz")
		if err != nil {
			return err.Error()
		}
		if code != 503 {
			return fmt.Sprintf("%d %s", code, body)
		}
		return ""
	})
}
