package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestSixNodesAndBack gives each zone a second node under load, waits until they share the zone's
// replicas, and takes them away again: every range has a voter in each zone throughout, nothing that
// was acknowledged is lost, and no read is stale.
func TestSixNodesAndBack(t *testing.T) {
	c := StartCluster(t)
	c.Exec(t, 0, "CREATE TABLE spread (k int PRIMARY KEY, v text)", "INSERT INTO spread SELECT g, repeat('x', 1000) FROM generate_series(1, 2000) g")
	var at []string
	for i := 1; i < 20; i++ {
		at = append(at, fmt.Sprintf("(%d)", 100*i))
	}
	c.Exec(t, 0, "ALTER TABLE spread SPLIT AT VALUES "+strings.Join(at, ", "))
	w := c.StartWriter(t, 0, "acked")
	r := c.StartReader(t, 1, w, "10s")
	w.progress(t, 20, time.Minute)
	_ = w.silence()

	dir := tempDir(t)
	var second []*process
	for i, zone := range c.Zones {
		port := freePorts(t, 3)
		second = append(second, spawn(t, c.bin, "start", "--store", filepath.Join(dir, zone), "--locality", "region=local,zone="+zone, "--insecure",
			"--listen", loopback(port), "--sql-listen", loopback(port+1), "--http-listen", loopback(port+2), "--join", loopback(c.peerPort+i)))
	}
	started := time.Now()
	zones := func(missing func(id int, replicas int) string) string {
		rows, err := view(c, 0, readSpread)
		if err != nil {
			return err.Error()
		}
		seen := map[int]bool{}
		for _, n := range rows {
			if n.Status != "live" && n.Status != "decommissioned" {
				return fmt.Sprintf("node %d is %s", n.ID, n.Status)
			}
			seen[n.ID] = true
			if m := missing(n.ID, n.Replicas); m != "" {
				return fmt.Sprintf("node %d (%s): %s", n.ID, n.Zone, m)
			}
		}
		if len(seen) != 6 {
			return fmt.Sprintf("%d nodes", len(seen))
		}
		return placed(c)
	}
	eventually(t, 5*time.Minute, "each zone's second node has a share of its replicas", func() string {
		return zones(func(id, replicas int) string {
			if replicas < 4 {
				return fmt.Sprintf("%d replicas", replicas)
			}
			return ""
		})
	})
	t.Logf("six nodes share the replicas after %s; longest silence between commits: %s", time.Since(started).Round(time.Second), w.silence())

	started = time.Now()
	for id := 4; id <= 6; id++ {
		c.Atoll(t, "node", "decommission", strconv.Itoa(id))
	}
	eventually(t, time.Minute, "three nodes have everything", func() string {
		return zones(func(id, replicas int) string {
			if id > 3 && replicas > 0 || id <= 3 && replicas < 20 {
				return fmt.Sprintf("%d replicas", replicas)
			}
			return ""
		})
	})
	t.Logf("three nodes have everything after %s; longest silence between commits: %s", time.Since(started).Round(time.Second), w.silence())
	for _, p := range second {
		p.end(10 * time.Second)
	}
	w.progress(t, 20, time.Minute)
	r.stop(t)
	w.stop(t, 2)
	require.EqualValues(t, 2000, c.Int(t, 1, "SELECT count(*) FROM spread WHERE length(v) = 1000"))
}

type spreadRow struct {
	ID, Replicas int
	Zone, Status string
}

func readSpread(ctx context.Context, conn *pgx.Conn) ([]spreadRow, error) {
	return collect(ctx, conn, "SELECT node_id, replicas, zone, status FROM atoll.nodes ORDER BY node_id",
		func(r pgx.Rows, n *spreadRow) error { return r.Scan(&n.ID, &n.Replicas, &n.Zone, &n.Status) })
}

// placed says what is not as it should be: a range that has not one replica in each zone and no more,
// or is listed in atoll.placement_violations.
func placed(c *Cluster) string {
	rows, err := view(c, 0, func(ctx context.Context, conn *pgx.Conn) ([]string, error) {
		return collect(ctx, conn, `SELECT 'range ' || range_id || ' is in ' || zones::text FROM atoll.ranges
			WHERE array_length(zones, 1) <> 3 OR NOT ('us-a' = ANY (zones) AND 'us-b' = ANY (zones) AND 'us-c' = ANY (zones))
			UNION ALL SELECT 'range ' || range_id || ': ' || status || ', ' || reason FROM atoll.placement_violations`,
			func(r pgx.Rows, s *string) error { return r.Scan(s) })
	})
	if err != nil {
		return err.Error()
	}
	return strings.Join(rows, "; ")
}
