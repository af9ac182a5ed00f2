package terratest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gruntwork-io/terratest/modules/k8s"
	"github.com/gruntwork-io/terratest/modules/retry"
	"github.com/stretchr/testify/require"
	k8sresource "k8s.io/apimachinery/pkg/api/resource"

	"github.com/atolldb/atoll/tests/zonefailure/workload"
)

// ours reports whether the kit may change the stack's resources.
func (s *stack) ours() bool { return s.local || os.Getenv("CHANGE") != "" }

// mend writes again what a fault has cost: a claim that was made anew lacks what up had written into
// the first one.
func (s *stack) mend(args ...string) {
	s.pulumi(false, append([]string{"up", "--refresh", "--yes", "--skip-preview"}, args...)...)
}

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
	s.mend()
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

// resize makes the volumes larger, a zone from one node to two and back, under load. Larger volumes
// restart nothing. The zone's first node loses its volume while there are two: its replicas move to
// the second, so that there is something to move back before that one is taken away.
func resize(t *testing.T, s *stack) {
	if !s.ours() {
		t.Skip("a stack that is not the local one is resized with CHANGE=1 only")
	}
	z := s.out.Zones[0]
	if z.Nodes != 1 {
		t.Skipf("zone %s has %d nodes; this test wants one", z.Name, z.Nodes)
	}
	file := s.config()
	step := func(name string, run func(*testing.T, *stack)) {
		t.Run(name, func(t *testing.T) {
			one := *s
			one.t = t
			t.Cleanup(func() { one.artifacts(t) })
			w, err := workload.Start(t.Context(), workload.Config{Connections: one.out.ConnectionZones})
			require.NoError(t, err)
			began := time.Now()
			run(t, &one)
			took := time.Since(began).Round(100 * time.Millisecond)
			gaps := w.Gaps()
			report, err := w.Finish(context.Background())
			require.NoError(t, err)
			t.Logf("%s: %v; %s; longest gap of a client %v", name, took, report, gaps)
			require.Empty(t, report.Faults)
			require.NoError(t, w.Drop(context.Background()))
		})
		if t.Failed() {
			t.FailNow()
		}
		s.read()
	}
	step("volumes", func(t *testing.T, s *stack) {
		pods, sets := s.podIDs(), s.setIDs()
		larger := s.largestClaim()
		larger.Add(k8sresource.MustParse("1Gi"))
		s.set(file, "atoll:storage.size", larger.String())
		s.pulumi(false, "up", "--yes", "--skip-preview", "--config-file", file)
		for _, z := range s.out.Zones {
			for i := range z.Nodes {
				claim := fmt.Sprintf("data-%s-%d", z.StatefulSet, i)
				_, err := retry.DoWithRetryE(t, "a larger volume", 60, time.Second, func() (string, error) {
					if has := s.claimSize(claim); has.Cmp(larger) < 0 {
						return "", fmt.Errorf("%s has %s, not %s", claim, has.String(), larger.String())
					}
					return "", nil
				})
				require.NoError(t, err)
			}
		}
		require.Equal(t, sets, s.setIDs(), "a StatefulSet was replaced")
		require.Equal(t, pods, s.podIDs(), "a node was restarted")
	})
	step("two nodes", func(t *testing.T, s *stack) {
		pods := s.podIDs()
		s.set(file, "atoll:zones[0].nodes", "2")
		s.pulumi(false, "up", "--yes", "--skip-preview", "--config-file", file)
		require.Equal(t, pods, s.podIDs(), "a node was restarted")
		s.read()
		s.whole()
	})
	step("a volume is lost", func(t *testing.T, s *stack) {
		s.loseVolume(z)
		s.forgetDead(z)
		s.whole()
		rows, err := s.query(replicasOf(z, 1))
		require.NoError(t, err)
		require.NotEqual(t, "[[0]]", fmt.Sprint(rows), "the second node has replicas now")
	})
	step("one node", func(t *testing.T, s *stack) {
		pods := s.podIDs()
		s.set(file, "atoll:zones[0].nodes", "1")
		s.pulumi(false, "up", "--yes", "--skip-preview", "--config-file", file)
		s.read()
		delete(pods, z.StatefulSet+"-1")
		require.Equal(t, pods, s.podIDs(), "a node was restarted")
		s.whole()
		rows, err := s.query(replicasOf(z, 0))
		require.NoError(t, err)
		require.NotEqual(t, "[[0]]", fmt.Sprint(rows), "the first node has replicas again")
		rows, err = s.query("SELECT DISTINCT status FROM atoll.nodes WHERE address LIKE '" + z.StatefulSet + "-1.%'")
		require.NoError(t, err)
		require.Equal(t, "[[decommissioned]]", fmt.Sprint(rows), "the second node")
		out, err := k8s.RunKubectlAndGetOutputE(t, s.kube, "get", "pods,pvc", "-o", "name")
		require.NoError(t, err)
		require.NotContains(t, out, z.StatefulSet+"-1", "what is left of the second node")
	})
	s.mend("--config-file", file)
	s.pulumi(false, "preview", "--refresh", "--expect-no-changes", "--config-file", file)
	_, err := s.pulumiE("preview", "--config-file", s.config("atoll:storage.size", "1Gi"))
	require.Error(t, err, "volumes may shrink")
}

// replicasOf asks how many replicas a node of a zone has.
func replicasOf(z zone, node int) string {
	return fmt.Sprintf("SELECT sum(replicas) FROM atoll.nodes WHERE is_live AND address LIKE '%s-%d.%%'", z.StatefulSet, node)
}

// setIDs are the identities of the StatefulSets: a replaced one has another.
func (s *stack) setIDs() string {
	out, err := k8s.RunKubectlAndGetOutputE(s.t, s.kube, "get", "statefulsets", "-o", "jsonpath={.items[*].metadata.uid}")
	require.NoError(s.t, err, out)
	return out
}

// claimSize is what a claim's volume holds.
func (s *stack) claimSize(claim string) k8sresource.Quantity {
	return *k8s.GetPersistentVolumeClaim(s.t, s.kube, claim).Status.Capacity.Storage()
}

// largestClaim is the size of the largest volume.
func (s *stack) largestClaim() (largest k8sresource.Quantity) {
	for _, z := range s.out.Zones {
		for i := range z.Nodes {
			if has := s.claimSize(fmt.Sprintf("data-%s-%d", z.StatefulSet, i)); has.Cmp(largest) > 0 {
				largest = has
			}
		}
	}
	return largest
}

// deleteData takes the stack down with its data, as the configuration must say first, and makes a new,
// empty one of it.
func deleteData(t *testing.T, s *stack) {
	if !s.local {
		t.Skip("only the local stack's data is deleted")
	}
	size := s.largestClaim() // a smaller one would be refused
	s.pulumi(false, "up", "--yes", "--skip-preview", "--config-file", s.config("atoll:storage.keep", "false", "atoll:storage.size", size.String()))
	s.read()
	require.Contains(t, s.out.OnDestroy, "deletes the volumes and all data")
	s.pulumi(false, "destroy", "--yes", "--skip-preview")
	_, err := retry.DoWithRetryE(t, "the claims go", 60, time.Second, func() (string, error) {
		out, err := k8s.RunKubectlAndGetOutputE(t, s.kube, "get", "pvc", "-A", "-o", "name")
		if err == nil && strings.Contains(out, "persistentvolumeclaim") {
			err = fmt.Errorf("these are left: %s", out)
		}
		return "", err
	})
	require.NoError(t, err)
	id := s.out.ClusterID
	s.pulumi(false, "up", "--yes", "--skip-preview")
	s.read()
	s.whole()
	require.NotEqual(t, id, s.out.ClusterID, "the cluster's identity went with its data")
}
