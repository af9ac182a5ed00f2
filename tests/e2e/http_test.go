package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestHTTP looks at every node's HTTP port, also while the cluster has no quorum.
func TestHTTP(t *testing.T) {
	c := StartCluster(t)
	for node := range c.Nodes() {
		for path, want := range map[string]string{
			"/healthz": "ok\n", "/readyz": "ok\n", "/metrics": "\natoll_sql_connections ", "/": "serves SQL", "/api/overview": `"ready":true`,
		} {
			code, body, err := c.Get(node, path)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, code, "%s of node %d: %s", path, node, body)
			require.Contains(t, "\n"+body, want, path)
		}
	}
	// Metrics count, have no range in their labels, and every name is ours or the runtime's.
	c.Exec(t, 0, "SELECT 1")
	_, body, err := c.Get(0, "/metrics")
	require.NoError(t, err)
	require.NotContains(t, body, `range="`)
	for line := range strings.Lines(body) {
		ours := strings.HasPrefix(line, "#")
		for _, p := range []string{"atoll_", "go_", "process_", "promhttp_"} {
			ours = ours || strings.HasPrefix(line, p)
		}
		require.True(t, ours, line)
	}
	require.Regexp(t, `(?m)^atoll_sql_statements_total [1-9]`, body)

	// Without a quorum the last node says that it does not serve, and why; it is alive.
	c.Zone(t, "kill", "us-a")
	c.Zone(t, "kill", "us-b")
	eventually(t, 30*time.Second, "readyz of the last node refuses", func() string {
		code, body, err := c.Get(2, "/readyz")
		if err != nil {
			return err.Error()
		}
		if code != http.StatusServiceUnavailable || !strings.HasPrefix(body, "not ready: waits for ") {
			return http.StatusText(code) + ": " + body
		}
		return ""
	})
	code, _, err := c.Get(2, "/healthz")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, code)
	code, _, err = c.Get(2, "/api/overview")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, code)
	c.Zone(t, "heal", "us-a")
	c.Zone(t, "heal", "us-b")
	c.AwaitHealthy(t, 2, time.Minute)
	for node := range c.Nodes() {
		code, body, err := c.Get(node, "/readyz")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, code, body)
	}
}
