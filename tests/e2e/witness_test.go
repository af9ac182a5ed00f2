package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTwoZonesAndAWitness gives a cluster of three zones a policy with two zones of data and a
// witness, by SQL and under load. Then each zone is lost in turn and comes back, and at last the zone
// with the data is lost while the other one lags: the witness has what that one lacks. Nothing that was
// acknowledged is lost, and no read is stale (SAFETY S22).
func TestTwoZonesAndAWitness(t *testing.T) {
	c := StartCluster(t)
	a, b, w := c.Zones[0], c.Zones[1], c.Zones[2]
	before := c.StartWriter(t, 2, "before")
	conn := c.Connect(t, 2)
	defer conn.Close(t.Context())
	fails(t, conn, "ALTER CLUSTER SET PLACEMENT POLICY 'two-zones-and-a-witness'", "55000", "needs a zone with the role witness")
	fails(t, conn, "CREATE PLACEMENT POLICY hollow WITH (survive = zone, zones = '"+b+"=witness, "+w+"=witness')", "55000", "at most 1 may be witnesses")
	c.Exec(t, 2, "CREATE PLACEMENT POLICY two WITH (survive = zone, zones = '"+w+"=witness')")
	foretold := texts(t, conn, "EXPLAIN PLACEMENT FOR CLUSTER WITH POLICY two")
	require.Contains(t, foretold, "survives the loss of any node, any zone")
	require.Contains(t, foretold, "zone "+w+" (witness): a witness without data")
	c.Exec(t, 2, "ALTER CLUSTER SET PLACEMENT POLICY two")
	started := time.Now()
	eventually(t, 2*time.Minute, "every range has two copies and a witness", func() string {
		wrong := c.Int(t, 2, fmt.Sprintf("SELECT count(*) FROM atoll.replicas WHERE type <> CASE WHEN zone = '%s' THEN 'witness' ELSE 'voter' END", w))
		ranges, replicas := c.Int(t, 2, "SELECT count(*) FROM atoll.ranges"), c.Int(t, 2, "SELECT count(*) FROM atoll.replicas")
		if missing := c.Int(t, 2, "SELECT count(*) FROM atoll.placement_violations"); wrong+missing > 0 || replicas != 3*ranges {
			return fmt.Sprintf("%d replicas of %d ranges, %d of another kind, %d ranges lack something", replicas, ranges, wrong, missing)
		}
		return ""
	})
	t.Logf("witnesses after %s; longest silence between commits %s", time.Since(started).Round(time.Second), before.silence().Round(time.Millisecond))
	require.NotEqual(t, w, c.LeaseZone(t, 2))
	before.stop(t, 0)

	var longest time.Duration
	for i, victim := range c.Zones {
		via := (i + 2) % 3 // the witness's node twice: any node takes any statement
		if victim == w {
			via = 0
		}
		writer := c.StartWriter(t, via, fmt.Sprintf("lost_%d", i))
		reader := c.StartReader(t, via, writer, "10s")
		writer.progress(t, 50, time.Minute)
		_ = writer.silence()
		c.Zone(t, "kill", victim)
		writer.progress(t, 100, time.Minute)
		require.NotContains(t, []string{victim, w}, c.LeaseZone(t, via))
		c.Zone(t, "heal", victim)
		c.AwaitHealthy(t, via, time.Minute)
		silence := writer.silence()
		longest = max(longest, silence)
		t.Logf("%s was killed and came back: longest silence between commits through %s: %s", victim, c.Zones[via], silence.Round(time.Millisecond))
		require.Less(t, silence, maxSilence)
		reader.stop(t)
		writer.stop(t, i)
	}
	t.Logf("longest silence of three lost zones: %s", longest.Round(time.Millisecond))

	// Zone a goes on with the witness while b is away; then it is lost, and b is back without what was
	// written meanwhile.
	writer := c.StartWriter(t, 2, "late")
	reader := c.StartReader(t, 2, writer, "10s")
	writer.progress(t, 20, time.Minute)
	c.Zone(t, "isolate", b)
	writer.progress(t, 200, time.Minute)
	require.Equal(t, a, c.LeaseZone(t, 2))
	_ = writer.silence()
	c.Zone(t, "kill", a)
	c.Zone(t, "heal", b)
	writer.progress(t, 100, time.Minute)
	silence := writer.silence()
	t.Logf("%s was lost while %s lagged: it serves, with what the witness had, after %s", a, b, silence.Round(time.Millisecond))
	require.Less(t, silence, maxSilence)
	require.Equal(t, b, c.LeaseZone(t, 2))
	c.Zone(t, "heal", a)
	c.AwaitHealthy(t, 2, time.Minute)
	reader.stop(t)
	writer.stop(t, 0)
}
