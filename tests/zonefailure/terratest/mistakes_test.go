package terratest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gruntwork-io/terratest/modules/k8s"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/tests/zonefailure/workload"
)

// mistake is a configuration, or a state of Kubernetes, that cannot work. A preview refuses it, and
// says what and where.
type mistake struct {
	name      string
	set       []string                     // key, value, key, value …
	make, end func(t *testing.T, s *stack) // around the preview; may be nil
	says      []string
}

func (s *stack) mistakes(t *testing.T) []mistake {
	first, other := s.out.Zones[0], s.out.Zones[1]
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	require.NoError(t, os.WriteFile(policy, []byte("name: p\nsurvive: zone\nvoters: 3\nzones:\n  nowhere-z: {role: primary}\n"), 0o600))
	claim := fmt.Sprintf("data-%s-%d", first.StatefulSet, first.Nodes)
	all := []mistake{
		{name: "a kubeconfig that is not there", set: []string{"atoll:kubeconfig", "/no/such/kubeconfig"}, says: []string{"kubeconfig /no/such/kubeconfig"}},
		{name: "a context that is not there", set: []string{"atoll:context", "nowhere"}, says: []string{`has no context "nowhere"; set atoll:context to one of`}},
		{name: "no nodes in a zone", set: []string{"atoll:zones[0].nodes", "0"}, says: []string{"atoll:zones[0].nodes is 0; it must lie between"}},
		{name: "a zone of a policy that is not there", set: []string{"atoll:policy", policy}, says: []string{`zone "nowhere-z" does not exist; the zones are `}},
		{name: "a storage class that is not there", set: []string{"atoll:storage.class", "nowhere"}, says: []string{`storage class "nowhere" of atoll:storage.class does not exist; the classes are`}},
		{name: "volumes that shrink", set: []string{"atoll:storage.size", "1Gi"}, says: []string{"volumes grow and never shrink"}},
		{name: "several at once", set: []string{"atoll:zones[0].nodes", "0", "atoll:timeout", "1s", "atoll:image", "a b"},
			says: []string{"3 faults", "zones[0].nodes is 0", "atoll:timeout is 1s", `atoll:image is "a b"`}},
		{
			name: "a volume that is stuck in another zone", set: []string{"atoll:zones[0].nodes", fmt.Sprint(first.Nodes + 1)},
			make: func(t *testing.T, s *stack) { k8s.KubectlApplyFromString(t, s.kube, stuckVolume(s, claim, other)) },
			end:  func(t *testing.T, s *stack) { k8s.KubectlDeleteFromString(t, s.kube, stuckVolume(s, claim, other)) },
			says: []string{fmt.Sprintf("claim %s/%s is bound to volume %q in zone %s, but its node belongs to zone %s", s.out.Namespace, claim, claim, other.Name, first.Name)},
		},
	}
	if s.local { // labels of other people's nodes are left alone
		nodes := s.nodeZones()
		all = append(all, mistake{
			name: "nodes without labels of zones", says: []string{"has the label topology.kubernetes.io/zone; label them"},
			make: func(t *testing.T, s *stack) {
				s.label(t, nodes, func(string) string { return "topology.kubernetes.io/zone-" })
			},
			end: func(t *testing.T, s *stack) {
				s.label(t, nodes, func(zone string) string { return "topology.kubernetes.io/zone=" + zone })
			},
		})
	}
	return all
}

// label sets or removes a label of Kubernetes nodes, given with their zones.
func (s *stack) label(t *testing.T, nodes map[string]string, label func(zone string) string) {
	for node, zone := range nodes {
		k8s.RunKubectl(t, s.kube, "label", "node", node, label(zone), "--overwrite")
	}
}

// stuckVolume is a claim of that name and its volume in a zone.
func stuckVolume(s *stack, name string, in zone) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: zone-test
  hostPath: {path: /nowhere}
  claimRef: {namespace: %[2]s, name: %[1]s}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [%[3]s]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[1]s}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: zone-test
  volumeName: %[1]s
  resources: {requests: {storage: 1Gi}}
`, name, s.out.Namespace, in.Name)
}

// badInput shows that what cannot work is refused before anything is changed, that an image which
// cannot be had stops an update before it stops a node, and that an update goes on from there.
func badInput(t *testing.T, s *stack) {
	if !s.ours() {
		t.Skip("a stack that is not the local one is given bad configurations with CHANGE=1 only")
	}
	s.mend()
	for _, m := range s.mistakes(t) {
		t.Run(m.name, func(t *testing.T) {
			one := *s
			one.t = t
			if m.make != nil {
				t.Cleanup(func() { m.end(t, &one) })
				m.make(t, &one)
			}
			began := time.Now()
			out, err := one.pulumiE("preview", "--non-interactive", "--config-file", one.config(m.set...))
			require.Error(t, err, "the preview passes")
			for _, want := range m.says {
				require.Contains(t, flat(out), want)
			}
			t.Logf("refused after %v", time.Since(began).Round(time.Second))
		})
	}
	t.Run("an image that cannot be had", func(t *testing.T) {
		one := *s
		one.t = t
		t.Cleanup(func() { one.artifacts(t) })
		pods := one.podIDs()
		w, err := workload.Start(t.Context(), workload.Config{Connections: one.out.ConnectionZones})
		require.NoError(t, err)
		began := time.Now()
		out, err := one.pulumiE("up", "--yes", "--skip-preview", "--config-file", one.config("atoll:image", "localhost/atoll:nowhere", "atoll:timeout", "1m"))
		require.Error(t, err, "the update passes")
		require.Contains(t, flat(out), "localhost/atoll:nowhere")
		require.Contains(t, flat(out), "Image", "the reason")
		t.Logf("refused after %v", time.Since(began).Round(time.Second))
		require.Equal(t, pods, one.podIDs(), "a node was restarted")
		one.pulumi(false, "up", "--yes", "--skip-preview")
		require.Equal(t, pods, one.podIDs(), "a node was restarted")
		report, err := w.Finish(context.Background())
		require.NoError(t, err)
		require.Empty(t, report.Faults)
		require.NoError(t, w.Drop(context.Background()))
	})
	s.pulumi(false, "preview", "--refresh", "--expect-no-changes")
}

// flat is what a command printed, without the line ends that a narrow terminal puts in.
func flat(out string) string { return strings.Join(strings.Fields(out), " ") }

// podIDs are the identities of the pods that hold data: another one is another run.
func (s *stack) podIDs() map[string]string {
	ids := map[string]string{}
	for _, z := range s.out.Zones {
		for i := range z.Nodes {
			p := k8s.GetPod(s.t, s.kube, fmt.Sprintf("%s-%d", z.StatefulSet, i))
			ids[p.Name] = string(p.UID)
		}
	}
	return ids
}
