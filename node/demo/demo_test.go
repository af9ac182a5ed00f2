package demo

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestValidateListsEveryFault(t *testing.T) {
	c := Config{Zones: []string{"a", "a", "b,c"}, NodesPerZone: 99, SQLPort: 26257, HTTPPort: 26258, PeerPort: 70000}
	err := c.Validate()
	for _, part := range []string{`"a" is named twice`, `"b,c" is not a zone name`, "--nodes-per-zone", "overlap", "--peer-port"} {
		require.ErrorContains(t, err, part)
	}
	ok := Config{}
	ok.EnsureDefaults()
	require.NoError(t, ok.Validate())
}

func TestPlanIsKept(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Store: dir}
	cfg.EnsureDefaults()
	p, err := loadPlan(cfg)
	require.NoError(t, err)
	again, err := loadPlan(cfg)
	require.NoError(t, err)
	require.Equal(t, p.ClusterID, again.ClusterID, "the cluster's ID is made once (SAFETY S28)")
	cfg.Zones = []string{"x"}
	_, err = loadPlan(cfg)
	require.ErrorContains(t, err, "holds a cluster with --zones us-a,us-b,us-c")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "demo.json"), []byte(`{"version": 99}`), 0o644))
	_, err = ReadPlan(dir)
	require.ErrorContains(t, err, "version 99")
}

func TestMembersAreOnePerZoneFirst(t *testing.T) {
	p := Plan{Zones: []string{"a", "b"}, PerZone: 2, SQLPort: 100, HTTPPort: 200, PeerPort: 300}
	m := p.Members()
	require.Len(t, m, 4)
	require.Equal(t, []string{"a", "b", "a", "b"}, []string{m[0].Zone, m[1].Zone, m[2].Zone, m[3].Zone})
	require.Equal(t, "127.0.0.1:103", m[3].SQL)
}

func TestOneDemoPerStore(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockStore(dir)
	require.NoError(t, err)
	_, err = lockStore(dir)
	require.ErrorContains(t, err, "in use by another demo")
	unlock()
	unlock, err = lockStore(dir)
	require.NoError(t, err)
	unlock()
}

// The control socket takes orders; unknown zones and actions are refused in words.
func TestControlRefuses(t *testing.T) {
	dir, err := os.MkdirTemp("", "d") // a socket's path is at most 108 bytes
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	_, err = Dial(dir)
	require.ErrorContains(t, err, "no demo runs in")
	d := newSupervisor(Config{Store: dir}, &Plan{Zones: []string{"a"}, PerZone: 1})
	control, err := d.serveControl()
	require.NoError(t, err)
	defer control.Close()
	c, err := Dial(dir)
	require.NoError(t, err)
	_, err = c.Act(context.Background(), "nowhere", "kill")
	require.ErrorContains(t, err, `there is no zone "nowhere"`)
	_, err = c.Act(context.Background(), "a", "explode")
	require.ErrorContains(t, err, `unknown action "explode"`)
	zs, err := c.Zones(context.Background())
	require.NoError(t, err)
	require.Equal(t, "a", zs[0].Zone)
}
