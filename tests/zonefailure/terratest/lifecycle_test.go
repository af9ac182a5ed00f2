package terratest

import (
	"fmt"
	"os"
	"testing"

	"github.com/gruntwork-io/terratest/modules/k8s"
	"github.com/stretchr/testify/require"
)

// ours reports whether the kit may change the stack's resources.
func (s *stack) ours() bool { return s.local || os.Getenv("CHANGE") != "" }

// drift changes a resource behind Pulumi's back: a refresh shows it, up mends it, and after that
// there is nothing to do.
func drift(t *testing.T, s *stack) {
	if !s.ours() {
		t.Skip("resources of a stack that is not the local one are changed with CHANGE=1 only")
	}
	budget := func() string {
		out, err := k8s.RunKubectlAndGetOutputE(t, s.kube, "get", "pdb", s.out.Name, "-o", "jsonpath={.spec.maxUnavailable}")
		require.NoError(t, err, out)
		return out
	}
	require.Equal(t, "1", budget(), "nodes that may be evicted at once")
	// The faults before this may have cost an object's annotations: a claim that was made anew, say.
	s.pulumi(false, "up", "--refresh", "--yes", "--skip-preview")
	s.pulumi(false, "preview", "--refresh", "--expect-no-changes")
	k8s.RunKubectl(t, s.kube, "patch", "pdb", s.out.Name, "--type=merge", "-p", `{"spec":{"maxUnavailable":2}}`)
	require.Equal(t, "2", budget())
	_, err := s.pulumiE("preview", "--refresh", "--expect-no-changes")
	require.Error(t, err, "a refresh does not show the drift")
	s.pulumi(false, "up", "--refresh", "--yes", "--skip-preview")
	require.Equal(t, "1", budget(), "up mends the drift")
	s.pulumi(false, "preview", "--refresh", "--expect-no-changes")
}

// destroy takes the stack down and up again: the volumes, the certificates and the cluster's
// identity stay, and so does the data.
func destroy(t *testing.T, s *stack) {
	if !s.ours() {
		t.Skip("a stack that is not the local one is destroyed, and made again, with CHANGE=1 only")
	}
	require.Contains(t, s.out.OnDestroy, "are kept", "this stack is set to lose its data when it is destroyed")
	for _, stmt := range []string{"CREATE TABLE kept_by_destroy (id int PRIMARY KEY, v text)", "INSERT INTO kept_by_destroy SELECT i, 'row ' || i FROM generate_series(1, 1000) i"} {
		_, err := s.query(stmt)
		require.NoError(t, err, stmt)
	}
	password := s.out.Connection
	s.pulumi(false, "destroy", "--exclude-protected", "--yes", "--skip-preview")
	out, err := k8s.RunKubectlAndGetOutputE(t, s.kube, "get", "statefulsets,pods", "-o", "name")
	require.NoError(t, err)
	require.NotContains(t, out, "statefulset", "what is left")
	s.pulumi(false, "up", "--yes", "--skip-preview")
	s.read()
	s.whole()
	require.Equal(t, withoutFile(password), withoutFile(s.out.Connection), "user, password and address stay")
	rows, err := s.query("SELECT count(*), min(v), max(id) FROM kept_by_destroy")
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint([][]string{{"1000", "row 1", "1000"}}), fmt.Sprint(rows))
	_, err = s.query("DROP TABLE kept_by_destroy")
	require.NoError(t, err)
}
