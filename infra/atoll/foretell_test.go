package atoll

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/infra/config"
)

// A preview asks the cluster that there is, an update never does, and one that does not answer is no
// reason for a preview to fail.
func TestPreviewAsksTheCluster(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	answer := func(ctx context.Context, connection, ca, sql string) ([]string, error) {
		mu.Lock()
		defer mu.Unlock()
		require.Contains(t, connection, "postgresql://postgres:")
		require.Contains(t, ca, "BEGIN CERTIFICATE")
		_, bounded := ctx.Deadline()
		require.True(t, bounded)
		asked = append(asked, sql)
		return nil, errors.New("nobody is there")
	}
	spec, err := config.Read(stack(t, nil), nil)
	require.NoError(t, err)
	first := ok(t, nil, nil)
	for _, preview := range []bool{false, true} {
		err = pulumi.RunErr(func(ctx *pulumi.Context) error {
			_, err := NewCluster(ctx, "atoll", &ClusterArgs{Spec: spec, Ask: answer})
			return err
		}, pulumi.WithMocks("atoll", "test", newEngine(first)), func(i *pulumi.RunInfo) { i.DryRun = preview })
		require.NoError(t, err)
		if !preview {
			require.Empty(t, asked)
		}
	}
	require.Equal(t, []string{"BEGIN;EXPLAIN PLACEMENT FOR CLUSTER WITH POLICY 'survive-zone';ROLLBACK"}, asked)

	_, err = AskCluster(t.Context(), "postgresql://postgres:secret@127.0.0.1:1/postgres?sslmode=verify-full", "no certificate", "SELECT 1")
	require.ErrorContains(t, err, "is no certificate")
	require.NotContains(t, err.Error(), "secret")
}
