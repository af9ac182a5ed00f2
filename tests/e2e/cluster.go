package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// zoneRow, nodeRow and rangeRow are rows of the atoll views.
type zoneRow struct {
	Zone, Status string
	Nodes, Live  int
}

type nodeRow struct {
	ID           int
	Zone, Status string
	SQLAddr      string
}

type rangeRow struct {
	ID          int64
	Leaseholder int
	LeaseZone   string
	Replicas    []int32
}

// collect reads a whole result.
func collect[T any](ctx context.Context, conn *pgx.Conn, sql string, scan func(pgx.Rows, *T) error) ([]T, error) {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

func readZones(ctx context.Context, conn *pgx.Conn) ([]zoneRow, error) {
	return collect(ctx, conn, "SELECT zone, status, nodes, live_nodes FROM atoll.zones ORDER BY zone",
		func(r pgx.Rows, z *zoneRow) error { return r.Scan(&z.Zone, &z.Status, &z.Nodes, &z.Live) })
}

func readNodes(ctx context.Context, conn *pgx.Conn) ([]nodeRow, error) {
	return collect(ctx, conn, "SELECT node_id, zone, status, sql_address FROM atoll.nodes ORDER BY node_id",
		func(r pgx.Rows, n *nodeRow) error { return r.Scan(&n.ID, &n.Zone, &n.Status, &n.SQLAddr) })
}

func readRanges(ctx context.Context, conn *pgx.Conn) ([]rangeRow, error) {
	return collect(ctx, conn, "SELECT range_id, coalesce(leaseholder, 0), coalesce(lease_zone, ''), replicas FROM atoll.ranges ORDER BY range_id",
		func(r pgx.Rows, x *rangeRow) error { return r.Scan(&x.ID, &x.Leaseholder, &x.LeaseZone, &x.Replicas) })
}

// view asks a node on a connection of its own, which must answer soon.
func view[T any](c *Cluster, node int, read func(context.Context, *pgx.Conn) ([]T, error)) ([]T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.DSN(node))
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	return read(ctx, conn)
}

// LeaseZone returns the zone whose node leads the range that holds user data, as seen by a
// node: the range with the highest ID before anything was split.
func (c *Cluster) LeaseZone(t testing.TB, node int) string {
	t.Helper()
	zone := ""
	eventually(t, 30*time.Second, "the data range has a leaseholder", func() string {
		ranges, err := view(c, node, readRanges)
		if err != nil {
			return err.Error()
		}
		if len(ranges) == 0 {
			return "atoll.ranges is empty"
		}
		data := slices.MaxFunc(ranges, func(a, b rangeRow) int { return int(a.ID - b.ID) })
		if zone = data.LeaseZone; zone == "" {
			return fmt.Sprintf("range %d has none", data.ID)
		}
		return ""
	})
	return zone
}

// NodeOf returns the index of a zone's first node.
func (c *Cluster) NodeOf(zone string) int { return slices.Index(c.Zones, zone) }

// Others returns the zones that are not among these.
func (c *Cluster) Others(zones ...string) []string {
	var out []string
	for _, z := range c.Zones {
		if !slices.Contains(zones, z) {
			out = append(out, z)
		}
	}
	return out
}

// Zone does kill, pause, isolate or heal to a zone.
func (c *Cluster) Zone(t testing.TB, action, zone string) {
	t.Helper()
	c.Atoll(t, "zones", action, zone)
}

// overview is what /api/overview says of a node's replicas.
type overview struct {
	Node   int  `json:"node"`
	Ready  bool `json:"ready"`
	Ranges []struct {
		ID          int64  `json:"id"`
		Leaseholder int    `json:"leaseholder"`
		Applied     uint64 `json:"applied"`
		Replicas    string `json:"replicas"`
	} `json:"ranges"`
}

func (c *Cluster) overview(node int) (overview, error) {
	var o overview
	code, body, err := c.Get(node, "/api/overview")
	if err != nil {
		return o, err
	}
	if code != http.StatusOK {
		return o, fmt.Errorf("/api/overview of node %d answers %d", node, code)
	}
	return o, json.Unmarshal([]byte(body), &o)
}

// Get asks a node's HTTP port.
func (c *Cluster) Get(node int, path string) (code int, body string, err error) {
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(c.URL(node, path))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	return resp.StatusCode, string(b), err
}

// AwaitHealthy waits until every zone is healthy, every range has a leaseholder and three
// replicas, and every node has applied what any node had applied when the wait began.
func (c *Cluster) AwaitHealthy(t testing.TB, node int, within time.Duration) {
	t.Helper()
	start := time.Now()
	goal := map[int64]uint64{}
	for i := range c.Nodes() {
		if o, err := c.overview(i); err == nil {
			for _, r := range o.Ranges {
				goal[r.ID] = max(goal[r.ID], r.Applied)
			}
		}
	}
	eventually(t, within, "full health", func() string {
		zones, err := view(c, node, readZones)
		if err != nil {
			return err.Error()
		}
		if len(zones) != len(c.Zones) {
			return fmt.Sprintf("atoll.zones has %d rows, want %d", len(zones), len(c.Zones))
		}
		for _, z := range zones {
			if z.Status != "healthy" || z.Live != z.Nodes {
				return fmt.Sprintf("zone %s is %s with %d of %d nodes live", z.Zone, z.Status, z.Live, z.Nodes)
			}
		}
		ranges, err := view(c, node, readRanges)
		if err != nil {
			return err.Error()
		}
		for _, r := range ranges {
			if r.Leaseholder == 0 || len(r.Replicas) != 3 {
				return fmt.Sprintf("range %d: leaseholder %d, replicas on nodes %v", r.ID, r.Leaseholder, r.Replicas)
			}
		}
		return c.behind(goal)
	})
	t.Logf("healthy and fully replicated after %s", time.Since(start).Round(10*time.Millisecond))
}

// behind names a replica that has not applied what goal says, or a node that does not serve.
func (c *Cluster) behind(goal map[int64]uint64) string {
	for i := range c.Nodes() {
		o, err := c.overview(i)
		if err != nil {
			return err.Error()
		}
		if !o.Ready {
			return fmt.Sprintf("node %d does not serve", o.Node)
		}
		for id, applied := range goal {
			held := false
			for _, r := range o.Ranges {
				if r.ID != id {
					continue
				}
				held = true
				if r.Applied < applied {
					return fmt.Sprintf("node %d has applied %d of range %d, want %d", o.Node, r.Applied, id, applied)
				}
			}
			if !held && c.perZone == 1 {
				return fmt.Sprintf("node %d has no replica of range %d", o.Node, id)
			}
		}
	}
	return ""
}

// Balances checks pgbench's invariant: every transaction adds one delta to one account, one
// teller and one branch, and notes it in the history.
func (c *Cluster) Balances(t testing.TB, node int) {
	t.Helper()
	var sums []string
	for _, q := range []string{
		"SELECT coalesce(sum(abalance), 0)::bigint FROM pgbench_accounts", "SELECT coalesce(sum(tbalance), 0)::bigint FROM pgbench_tellers",
		"SELECT coalesce(sum(bbalance), 0)::bigint FROM pgbench_branches", "SELECT coalesce(sum(delta), 0)::bigint FROM pgbench_history",
	} {
		sums = append(sums, fmt.Sprint(c.Int(t, node, q)))
	}
	if slices.Contains(sums[1:], "") || sums[0] != sums[1] || sums[0] != sums[2] || sums[0] != sums[3] {
		t.Errorf("sums of accounts, tellers, branches, history differ: %s", strings.Join(sums, ", "))
	}
}
