package platform

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/infra/config"
)

// api answers paths with JSON; others with 404.
type api map[string]string

func (a api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, ok := a[r.URL.Path]
	switch {
	case !ok:
		http.Error(w, "{}", http.StatusNotFound)
	case body == "403":
		http.Error(w, "{}", http.StatusForbidden)
	default:
		fmt.Fprint(w, body)
	}
}

const threeZones = `{"items": [
 {"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "us-b", "topology.kubernetes.io/region": "us"}}},
 {"metadata": {"name": "n2", "labels": {"topology.kubernetes.io/zone": "us-a", "topology.kubernetes.io/region": "us"}}},
 {"metadata": {"name": "n3", "labels": {"topology.kubernetes.io/zone": "us-c", "topology.kubernetes.io/region": "us"}}},
 {"metadata": {"name": "cp", "labels": {"topology.kubernetes.io/zone": "us-z"}}, "spec": {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}}]}`

func kubeconfig(t *testing.T, server string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: one
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: one, context: {cluster: c, user: u}}, {name: two, context: {cluster: c, user: u}}]
`, server)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func spec(t *testing.T, server string, change map[string]any) *config.Spec {
	t.Helper()
	in := map[string]any{"image": "atoll:1", "storage": map[string]any{"class": "fast"}, "kubeconfig": kubeconfig(t, server)}
	for k, v := range change {
		in[k] = v
	}
	s, err := config.Read(config.FromStack(in), os.ReadFile)
	require.NoError(t, err)
	return s
}

func look(t *testing.T, a api, change map[string]any) (*config.Spec, error) {
	t.Helper()
	srv := httptest.NewServer(a)
	defer srv.Close()
	s := spec(t, srv.URL, change)
	c, err := connect(s)
	require.NoError(t, err)
	return s, c.inspect(context.Background(), s)
}

const fastClass = "/apis/storage.k8s.io/v1/storageclasses/fast"

func TestZonesAreDiscovered(t *testing.T) {
	s, err := look(t, api{"/api/v1/nodes": threeZones, fastClass: `{"volumeBindingMode": "WaitForFirstConsumer"}`}, map[string]any{"nodesPerZone": 2.0})
	require.NoError(t, err)
	require.Equal(t, []config.Zone{{Name: "us-a", Region: "us", Nodes: 2}, {Name: "us-b", Region: "us", Nodes: 2}, {Name: "us-c", Region: "us", Nodes: 2}}, s.Zones)
	require.NoError(t, s.Check())
}

func TestEveryFaultOfTheCluster(t *testing.T) {
	_, err := look(t, api{
		"/api/v1/nodes":                          threeZones,
		"/apis/storage.k8s.io/v1/storageclasses": `{"items": [{"metadata": {"name": "slow"}}, {"metadata": {"name": "quick"}}]}`,
		"/api/v1/namespaces/atoll/persistentvolumeclaims/data-atoll-us-a-0": `{"spec": {"volumeName": "pv-1"}}`,
		"/api/v1/persistentvolumes/pv-1":                                    `{"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "topology.ebs.csi.aws.com/zone", "operator": "In", "values": ["us-b"]}]}]}}}}`,
		"/api/v1/namespaces/atoll/persistentvolumeclaims/data-atoll-us-b-0": `{"spec": {"volumeName": "pv-2", "resources": {"requests": {"storage": "64Gi"}}}}`,
	}, map[string]any{"zones": []any{map[string]any{"name": "us-a", "region": "eu"}, map[string]any{"name": "us-b"}, map[string]any{"name": "us-x"}}})
	for _, want := range []string{
		`zone "us-a" is in region "eu" by atoll:zones, but its nodes have topology.kubernetes.io/region=us`,
		`zone "us-x" of atoll:zones has no node that takes pods; the zones with nodes are us-a, us-b, us-c`,
		`storage class "fast" of atoll:storage.class does not exist; the classes are quick, slow`,
		`claim atoll/data-atoll-us-a-0 is bound to volume "pv-1" in zone us-b, but its node belongs to zone us-a`,
		`claim atoll/data-atoll-us-b-0 is bound to volume "pv-2", which is gone`,
		`claim atoll/data-atoll-us-b-0 asks for 64Gi, but atoll:storage.size is 10Gi: volumes grow and never shrink`,
	} {
		require.ErrorContains(t, err, want)
	}
}

func TestBindingMode(t *testing.T) {
	_, err := look(t, api{"/api/v1/nodes": threeZones, fastClass: `{"volumeBindingMode": "Immediate"}`}, nil)
	require.ErrorContains(t, err, "use a class with WaitForFirstConsumer")
}

func TestNoZoneLabels(t *testing.T) {
	_, err := look(t, api{"/api/v1/nodes": `{"items": [{"metadata": {"name": "n1"}}, {"metadata": {"name": "n2"}}]}`}, nil)
	require.ErrorContains(t, err, "none of its 2 nodes that take pods has the label topology.kubernetes.io/zone; label them")
	require.ErrorContains(t, err, `context "one"`)
}

func TestForbiddenAndNonsense(t *testing.T) {
	_, err := look(t, api{"/api/v1/nodes": "403"}, nil)
	require.ErrorContains(t, err, "set atoll:inspect to false")
	_, err = look(t, api{"/api/v1/nodes": "<html>"}, nil)
	require.ErrorContains(t, err, "no Kubernetes object")
}

func TestKubeconfigFaults(t *testing.T) {
	_, err := connect(&config.Spec{Kubeconfig: "/does/not/exist"})
	require.ErrorContains(t, err, "set atoll:kubeconfig to a file that exists")
	_, err = connect(&config.Spec{Kubeconfig: "/does/not/exist", Platform: config.Local})
	require.ErrorContains(t, err, "make kube-up")

	s := spec(t, "http://127.0.0.1:1", map[string]any{"context": "three"})
	_, err = connect(s)
	require.ErrorContains(t, err, `has no context "three"; set atoll:context to one of: one, two`)

	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	_, err = connect(&config.Spec{Kubeconfig: empty})
	require.ErrorContains(t, err, "has no context")
	require.NoError(t, os.WriteFile(empty, []byte("{{{"), 0o600))
	_, err = connect(&config.Spec{Kubeconfig: empty})
	require.ErrorContains(t, err, "can't be read")

	s = spec(t, "http://127.0.0.1:1", nil) // nobody listens there
	c, err := connect(s)
	require.NoError(t, err)
	err = c.inspect(context.Background(), s)
	require.ErrorContains(t, err, "the API server does not answer")
	require.True(t, strings.Contains(err.Error(), s.Kubeconfig))
}

func TestUnbuiltPlatform(t *testing.T) {
	_, err := For(&config.Spec{Platform: "nomad"})
	require.ErrorContains(t, err, "use platform existing")
	for _, p := range []string{config.Existing, config.Local} {
		_, err := For(&config.Spec{Platform: p})
		require.NoError(t, err)
	}
}
