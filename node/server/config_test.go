package server

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestValidateListsEveryFaultOfTheDelays(t *testing.T) {
	c := Config{StoreDir: t.TempDir(), Zone: "a", Insecure: true, Join: []string{"127.0.0.1:1"}}
	c.EnsureDefaults()
	require.NoError(t, c.Validate())
	c.DeadAfter, c.ZoneDeadAfter, c.VolumeGoneAfter = time.Hour, 10*time.Minute, 30*24*time.Hour
	err := c.Validate()
	require.ErrorContains(t, err, "--zone-dead-after is 10m0s, less than --dead-after (1h0m0s)")
	require.ErrorContains(t, err, "--volume-gone-after is 720h0m0s; it must lie between 1s and 168h0m0s")
}
