package terratest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/tests/zonefailure/workload"
)

// policy gives the stack another placement policy under load: `pulumi up` makes one zone the one
// that leases prefer, returns when they are there, and restarts nothing; then the stack's own again.
func policy(t *testing.T, s *stack) {
	if !s.ours() {
		t.Skip("the policy of a stack that is not the local one is changed with CHANGE=1 only")
	}
	elsewhere := func(zone string) string {
		rows, err := s.query("SELECT count(*) FROM atoll.ranges WHERE lease_zone IS DISTINCT FROM '" + zone + "'")
		require.NoError(t, err)
		return rows[0][0]
	}
	inForce := func() string {
		rows, err := s.query("SHOW PLACEMENT")
		require.NoError(t, err)
		require.Len(t, rows, 1, "only the cluster has a policy")
		return rows[0][1]
	}
	require.Equal(t, "survive-zone", inForce())
	pods, file := s.podIDs(), s.config()
	z := s.otherZone(s.busiest())
	w, err := workload.Start(t.Context(), workload.Config{Connections: s.out.ConnectionZones})
	require.NoError(t, err)
	time.Sleep(before)

	s.set(file, "atoll:policy", "primary-zone")
	for i := range s.out.Zones {
		if s.out.Zones[i].Name == z.Name {
			s.set(file, fmt.Sprintf("atoll:zones[%d].role", i), "primary")
		}
	}
	preview := s.pulumi(false, "preview", "--config-file", file)
	require.Contains(t, preview, "survives the loss of any node, any zone, no region")
	require.Contains(t, preview, "to move: ")
	began := time.Now()
	s.pulumi(false, "up", "--yes", "--skip-preview", "--config-file", file)
	require.Equal(t, "stack", inForce())
	require.Equal(t, "0", elsewhere(z.Name), "ranges whose lease is not in the zone that leases prefer")
	t.Logf("primary zone %s: %s", z.Name, time.Since(began).Round(time.Second))

	s.pulumi(false, "up", "--yes", "--skip-preview")
	require.Equal(t, "survive-zone", inForce())
	gaps := w.Gaps()
	report, err := w.Finish(context.Background())
	require.NoError(t, err)
	t.Logf("policy: %s; longest gap of a client %v", report, gaps)
	require.Empty(t, report.Faults)
	require.NoError(t, w.Drop(context.Background()))
	require.Equal(t, pods, s.podIDs(), "a node was restarted")
}
