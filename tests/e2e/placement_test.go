package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// startZone starts a node in a zone of its own, which joins the cluster.
func (c *Cluster) startZone(t *testing.T, zone, store string) *process {
	return c.startPlace(t, "local", zone, store)
}

// startPlace starts a node in a zone of its own of a region, which joins the cluster.
func (c *Cluster) startPlace(t *testing.T, region, zone, store string) *process {
	port := freePorts(t, 3)
	return spawn(t, c.bin, "start", "--store", store, "--locality", "region="+region+",zone="+zone, "--insecure",
		"--listen", loopback(port), "--sql-listen", loopback(port+1), "--http-listen", loopback(port+2), "--join", loopback(c.peerPort))
}

// tablePlace says where a table's ranges are: "lease zone in sorted zones", each once.
func (c *Cluster) tablePlace(node int, table string) string {
	type place struct {
		Lease string
		Zones []string
	}
	rows, err := view(c, node, func(ctx context.Context, conn *pgx.Conn) ([]place, error) {
		return collect(ctx, conn, "SELECT coalesce(lease_zone, '?'), zones FROM atoll.ranges WHERE table_name = 'public."+table+"'",
			func(r pgx.Rows, p *place) error { return r.Scan(&p.Lease, &p.Zones) })
	})
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, p := range rows {
		slices.Sort(p.Zones)
		out = append(out, p.Lease+" in "+strings.Join(p.Zones, " "))
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}

// fails runs a statement that must fail with a code, and a text in its message.
func fails(t *testing.T, conn *pgx.Conn, sql, code, text string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	var pe *pgconn.PgError
	require.ErrorAs(t, err, &pe, sql)
	require.Equal(t, code, pe.Code, "%s: %s", sql, pe.Message)
	require.Contains(t, pe.Message+"\n"+pe.Detail+"\n"+pe.Hint, text, sql)
}

func texts(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return strings.Join(lines, "\n")
}

// TestPlacementPolicies chooses policies for tables and the cluster by SQL and by the command, under
// load: what can't be kept is refused, what is chosen is carried out, a zone that leases prefer is
// killed and comes back, and a table that must not have data in a zone has none there.
func TestPlacementPolicies(t *testing.T) {
	c := StartCluster(t)
	dir := tempDir(t)
	d := c.startZone(t, "us-d", filepath.Join(dir, "d"))
	eventually(t, time.Minute, "the fourth zone is there", func() string {
		if n := c.Int(t, 0, "SELECT count(*) FROM atoll.nodes WHERE zone = 'us-d' AND status = 'live'"); n != 1 {
			return fmt.Sprintf("%d nodes in it", n)
		}
		return ""
	})
	conn := c.Connect(t, 1)
	defer conn.Close(t.Context())
	w := c.StartWriter(t, 0, "acked")
	r := c.StartReader(t, 1, w, "10s")

	t.Run("refused", func(t *testing.T) {
		fails(t, conn, "CREATE PLACEMENT POLICY r WITH (survive = region)", "55000", "needs 3 regions that vote, there is 1 (local)")
		fails(t, conn, "CREATE PLACEMENT POLICY z WITH (zones = 'us-x=replica')", "55000", `zone "us-x" does not exist; the zones are us-a, us-b, us-c, us-d`)
		fails(t, conn, "CREATE PLACEMENT POLICY z WITH (voters = 4, colour = red)", "22023", `unknown option "colour"`)
		fails(t, conn, "CREATE PLACEMENT POLICY 'survive-zone' WITH (voters = 5)", "42710", "is a ready one")
		fails(t, conn, "ALTER CLUSTER SET PLACEMENT POLICY nowhere", "42704", "There are: follow-the-workload")
		fails(t, conn, "ALTER TABLE missing SET PLACEMENT POLICY 'survive-zone'", "42P01", "missing")
		require.Contains(t, texts(t, conn, "SHOW PLACEMENT POLICY 'survive-zone'"), "survive: zone")
	})

	c.Exec(t, 0, "CREATE TABLE pinned (k int PRIMARY KEY, v text)", "INSERT INTO pinned SELECT g, repeat('x', 1000) FROM generate_series(1, 2000) g",
		"ALTER TABLE pinned SPLIT AT VALUES (500), (1000), (1500)", "CREATE PLACEMENT POLICY far WITH (zones = 'us-a=excluded, us-d=primary', return_probation = '5s')")
	before := texts(t, conn, "EXPLAIN PLACEMENT FOR TABLE pinned WITH POLICY far")
	require.Contains(t, before, "survives the loss of any node, any zone, no region")
	require.Contains(t, before, "zone us-d (primary): 1 voter, leases; a commit from there: 1 round trip in the zone, 1 round trip across zones")
	require.Regexp(t, `to move: \d+ new replicas? \(.*\), \d+ old ones?, \d+ leases?; about`, before)

	started := time.Now()
	_ = w.silence()
	out := c.Atoll(t, "policy", "apply", "--text", texts(t, conn, "SHOW PLACEMENT POLICY far"), "--for", "table pinned", "--wait", "--timeout=3m")
	require.Contains(t, out, "everything is where the policy wants it")
	const want = "us-d in us-b us-c us-d"
	eventually(t, time.Minute, "the table is where its policy wants it", func() string {
		if got := c.tablePlace(1, "pinned"); got != want {
			return got
		}
		return ""
	})
	t.Logf("a table of 4 ranges moved in %s; longest silence between commits of another one: %s", time.Since(started).Round(time.Second), w.silence())
	require.Contains(t, texts(t, conn, "EXPLAIN PLACEMENT FOR TABLE pinned"), "nothing has to move")
	fails(t, conn, "DROP PLACEMENT POLICY far", "2BP01", `in use by table "pinned"`)

	started = time.Now()
	step := func(what string) {
		t.Logf("%s: %s", what, time.Since(started).Round(time.Second))
		started = time.Now()
	}

	// The preferred zone is killed: the table lives on elsewhere, and the zone gets its leases back.
	require.NoError(t, d.cmd.Process.Kill())
	d.exit(t, 10*time.Second)
	eventually(t, 10*time.Second, "the table is written to without its preferred zone", func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if _, err := conn.Exec(ctx, "UPDATE pinned SET v = 'y' WHERE k % 500 = 7"); err != nil {
			conn = c.Connect(t, 1)
			return err.Error()
		}
		return ""
	})
	require.NotContains(t, c.tablePlace(1, "pinned"), "us-d in")
	d = c.startZone(t, "us-d", filepath.Join(dir, "d"))
	eventually(t, 2*time.Minute, "the zone that is back has the leases", func() string {
		if got := c.tablePlace(1, "pinned"); got != want {
			return got
		}
		return ""
	})
	step("the preferred zone was killed, and has its leases again")
	require.EqualValues(t, 4, c.Int(t, 1, "SELECT count(*) FROM pinned WHERE v = 'y'"))

	// A read-only zone has copies without votes; the nearest choice wins, and goes with DEFAULT.
	c.Exec(t, 2, "CREATE PLACEMENT POLICY copies WITH (default_role = replica, zones = 'us-d=read-only')", "ALTER DATABASE postgres SET PLACEMENT POLICY copies")
	eventually(t, 2*time.Minute, "another table of the database has a copy in the read-only zone", func() string {
		n := c.Int(t, 1, `SELECT count(*) FROM atoll.replicas JOIN atoll.ranges USING (range_id)
			WHERE table_name = 'public.acked' AND zone = 'us-d' AND type = 'non-voter' AND array_length(zones, 1) = 4`)
		if n == 0 {
			return c.tablePlace(1, "acked")
		}
		return ""
	})
	step("a copy in the read-only zone")
	c.Exec(t, 2, "CREATE TABLE late (k int PRIMARY KEY)")
	eventually(t, time.Minute, "a table that was made later follows its database's policy", func() string {
		if n := c.Int(t, 1, `SELECT count(*) FROM atoll.replicas JOIN atoll.ranges USING (range_id)
			WHERE table_name = 'public.late' AND zone = 'us-d' AND type = 'non-voter'`); n == 0 {
			return c.tablePlace(1, "late")
		}
		return ""
	})
	require.Equal(t, want, c.tablePlace(1, "pinned"), "its own policy is nearer than its database's")
	c.Exec(t, 2, "ALTER TABLE pinned SET PLACEMENT POLICY DEFAULT", "DROP PLACEMENT POLICY far")
	eventually(t, 2*time.Minute, "the table follows its database's policy", func() string {
		n := c.Int(t, 1, `SELECT count(*) FROM atoll.replicas JOIN atoll.ranges USING (range_id)
			WHERE table_name = 'public.pinned' AND (zone = 'us-d') = (type = 'non-voter') AND NOT (zone = 'us-d' AND has_lease)`)
		if n != 16 {
			return fmt.Sprintf("%d of 16 replicas are as they should be; %s", n, c.tablePlace(1, "pinned"))
		}
		return ""
	})
	step("back under the database's policy")
	require.EqualValues(t, 2000, c.Int(t, 1, "SELECT count(*) FROM pinned"))

	// A zone may go where the others can keep the policies, and not where they can't.
	c.Exec(t, 2, "ALTER DATABASE postgres SET PLACEMENT POLICY DEFAULT", "DROP PLACEMENT POLICY copies")
	c.Atoll(t, "node", "decommission", fmt.Sprint(c.Int(t, 1, "SELECT node_id FROM atoll.nodes WHERE zone = 'us-d'")))
	require.Zero(t, c.Int(t, 1, "SELECT count(*) FROM atoll.replicas WHERE zone = 'us-d'"))
	conn = c.Connect(t, 1)
	fails(t, conn, "ALTER NODE 1 DECOMMISSION", "55000", "needs 3 zones that vote, there are 2")
	step("the fourth zone is taken away")
	w.progress(t, 20, time.Minute)
	r.stop(t)
	w.stop(t, 2)
	d.end(10 * time.Second)
}

// TestPinnedToRegion moves a table that is written to and read into a region, where its data stay: no
// replica elsewhere, also while one of the region's zones is gone.
func TestPinnedToRegion(t *testing.T) {
	c := StartCluster(t)
	dir := tempDir(t)
	zones := []string{"eu-a", "eu-b", "eu-c"}
	eu := map[string]*process{}
	for _, z := range zones {
		eu[z] = c.startPlace(t, "eu", z, filepath.Join(dir, z))
	}
	eventually(t, time.Minute, "both regions are there", func() string {
		if n := c.Int(t, 0, "SELECT count(*) FROM atoll.nodes WHERE status = 'live'"); n != 6 {
			return fmt.Sprintf("%d nodes are live", n)
		}
		return ""
	})
	w := c.StartWriter(t, 0, "residents")
	r := c.StartReader(t, 1, w, "10s")
	w.progress(t, 50, time.Minute)
	conn := c.Connect(t, 1)
	defer conn.Close(t.Context())
	fails(t, conn, "CREATE PLACEMENT POLICY any_region AS 'name: any_region\nsurvive: zone\none_region: true\n'", "55000", "region")
	c.Exec(t, 0, "CREATE PLACEMENT POLICY in_eu AS 'name: in_eu\nsurvive: zone\ndefault_role: excluded\none_region: true\nregions: {eu: {role: replica}}\n'",
		"ALTER TABLE residents SET PLACEMENT POLICY in_eu", "ALTER TABLE residents_newest SET PLACEMENT POLICY in_eu")
	placed := func() string {
		for _, table := range []string{"residents", "residents_newest"} {
			if got := c.tablePlace(1, table); !strings.HasSuffix(got, "in eu-a eu-b eu-c") || !strings.HasPrefix(got, "eu-") {
				return table + ": " + got
			}
		}
		return ""
	}
	started := time.Now()
	_ = w.silence()
	eventually(t, 3*time.Minute, "the tables are in the region", placed)
	t.Logf("moved into the region in %s; longest silence between commits: %s", time.Since(started).Round(time.Second), w.silence())
	elsewhere := func() int64 {
		return c.Int(t, 1, `SELECT count(*) FROM atoll.replicas JOIN atoll.ranges USING (range_id)
			WHERE table_name LIKE 'public.residents%' AND zone NOT LIKE 'eu-%'`)
	}
	require.Zero(t, elsewhere())

	victim := strings.Fields(c.tablePlace(1, "residents"))[0] // the zone that leads
	require.NoError(t, eu[victim].cmd.Process.Kill())
	eu[victim].exit(t, 10*time.Second)
	w.progress(t, 100, time.Minute)
	t.Logf("%s, which led, was killed: longest silence between commits: %s", victim, w.silence())
	require.Zero(t, elsewhere(), "rather two of three voters than one outside the region")
	eu[victim] = c.startPlace(t, "eu", victim, filepath.Join(dir, victim))
	eventually(t, time.Minute, "the zone is back", func() string {
		if n := c.Int(t, 1, "SELECT count(*) FROM atoll.placement_violations"); n != 0 {
			return fmt.Sprintf("%d violations", n)
		}
		return placed()
	})
	require.Zero(t, elsewhere())
	w.progress(t, 20, time.Minute)
	r.stop(t)
	w.stop(t, 1)
	for _, p := range eu {
		p.end(10 * time.Second)
	}
}
