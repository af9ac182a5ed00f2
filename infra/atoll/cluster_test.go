package atoll

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/infra/config"
)

func stack(t *testing.T, change map[string]any) map[string]string {
	t.Helper()
	var in map[string]any
	require.NoError(t, json.Unmarshal([]byte(base), &in))
	maps.Copy(in, change)
	return config.FromStack(in)
}

func ok(t *testing.T, prior *engine, change map[string]any) *engine {
	t.Helper()
	e, _, err := deploy(t, prior, change)
	require.NoError(t, err)
	return e
}

func TestStatefulSetPerZone(t *testing.T) {
	e := ok(t, nil, nil)
	sets := e.ofType("apps/v1:StatefulSet")
	require.Len(t, sets, 3)
	for i, zone := range []string{"us-a", "us-b", "us-c"} {
		in := sets[i].inputs
		require.Equal(t, "atoll-"+zone, at(t, in, "metadata.name"))
		require.Equal(t, []float64{2, 1, 1}[i], at(t, in, "spec.replicas"))
		require.Equal(t, "Parallel", at(t, in, "spec.podManagementPolicy"))
		term := at(t, in, "spec.template.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.0.matchExpressions.0")
		require.Equal(t, map[string]any{"key": "topology.kubernetes.io/zone", "operator": "In", "values": []any{zone}}, term)
		spread := at(t, in, "spec.template.spec.topologySpreadConstraints.0")
		require.Equal(t, "kubernetes.io/hostname", at(t, spread, "topologyKey"))
		require.Equal(t, zone, at(t, spread, "labelSelector.matchLabels.atoll/zone"))
		require.Equal(t, "Retain", at(t, in, "spec.persistentVolumeClaimRetentionPolicy.whenDeleted"))

		node := at(t, in, "spec.template.spec.containers.0")
		require.Equal(t, at(t, node, "resources.requests.memory"), at(t, node, "resources.limits.memory"))
		require.NotContains(t, at(t, node, "resources.limits"), "cpu", "throttling against heartbeats means false failovers")
		require.Equal(t, float64(5), at(t, node, "lifecycle.preStop.sleep.seconds"))
		require.Equal(t, true, at(t, node, "securityContext.readOnlyRootFilesystem"))
		require.Equal(t, true, at(t, in, "spec.template.spec.securityContext.runAsNonRoot"))
		require.Equal(t, "RuntimeDefault", at(t, in, "spec.template.spec.securityContext.seccompProfile.type"))
		require.Equal(t, false, at(t, in, "spec.template.spec.automountServiceAccountToken"))
		require.Equal(t, "http", at(t, node, "livenessProbe.tcpSocket.port"), "a slow node accepts connections")
		args := at(t, node, "args").([]any)
		require.Contains(t, args, "--locality=region=us,zone="+zone)
		require.Contains(t, args, "--join=$(ATOLL_JOIN)")
		require.Equal(t, map[string]any{"name": "ATOLL_JOIN", "valueFrom": map[string]any{"configMapKeyRef": map[string]any{"name": "atoll-join", "key": "join"}}}, at(t, node, "env.2"))
		require.True(t, e.runsAfter("atoll-zone-"+zone+"-nodes", "atoll-join"))
	}
	require.Equal(t, "atoll-us-a-0.atoll-nodes.atoll.svc.cluster.local:26357,"+
		"atoll-us-b-0.atoll-nodes.atoll.svc.cluster.local:26357,atoll-us-c-0.atoll-nodes.atoll.svc.cluster.local:26357", at(t, e.get(t, "atoll-join").inputs, "data.join"))
}

func TestStorageClassOfAZone(t *testing.T) {
	e := ok(t, nil, nil)
	var found int
	for _, m := range e.ofType("storage.k8s.io/v1:StorageClass") {
		found++
		require.Equal(t, "WaitForFirstConsumer", m.inputs["volumeBindingMode"])
		require.Equal(t, true, m.inputs["allowVolumeExpansion"])
		require.Equal(t, "Retain", m.inputs["reclaimPolicy"])
		require.Len(t, at(t, m.inputs, "allowedTopologies.0.matchLabelExpressions.0.values"), 1)
	}
	require.Equal(t, 3, found)
	e = ok(t, nil, map[string]any{"storage": map[string]any{"class": "fast"}})
	require.Empty(t, e.ofType("storage.k8s.io/v1:StorageClass"))
	require.Equal(t, "fast", at(t, e.ofType("StatefulSet")[0].inputs, "spec.volumeClaimTemplates.0.spec.storageClassName"))
}

func TestOneBudgetOverAllZones(t *testing.T) {
	e := ok(t, nil, nil)
	budgets := e.ofType("PodDisruptionBudget")
	require.Len(t, budgets, 1)
	spec := at(t, budgets[0].inputs, "spec")
	require.Equal(t, float64(1), at(t, spec, "maxUnavailable"))
	require.Equal(t, "AlwaysAllow", at(t, spec, "unhealthyPodEvictionPolicy"))
	selector := at(t, spec, "selector.matchLabels").(map[string]any)
	for _, s := range e.ofType("StatefulSet") {
		labels := at(t, s.inputs, "spec.template.metadata.labels").(map[string]any)
		for k, v := range selector {
			require.Equal(t, v, labels[k])
		}
	}
	for _, j := range e.ofType("batch/v1:Job") {
		require.True(t, j.deleteFirst, "%s: a finished Job of an interrupted update must not pass for this one's", j.name)
		require.NotEqual(t, "node", at(t, j.inputs, "spec.template.metadata.labels.atoll/role"))
	}
}

func TestServices(t *testing.T) {
	e := ok(t, nil, nil)
	require.Equal(t, true, at(t, e.get(t, "atoll-endpoint-nodes").inputs, "spec.publishNotReadyAddresses"))
	require.Equal(t, "PreferClose", at(t, e.get(t, "atoll-endpoint-sql").inputs, "spec.trafficDistribution"))
	for _, z := range []string{"us-a", "us-b", "us-c"} {
		require.Equal(t, z, at(t, e.get(t, "atoll-endpoint-sql-"+z).inputs, "spec.selector.atoll/zone"))
	}
}

// TestOrder: retire, then zone by zone with a wait after each, then the founding, then the last wait.
func TestOrder(t *testing.T) {
	e := ok(t, nil, nil)
	order := []string{"atoll-retire", "atoll-zone-us-a-nodes", "atoll-zone-us-a-wait", "atoll-zone-us-b-nodes", "atoll-zone-us-b-wait", "atoll-zone-us-c-nodes", "atoll-zone-us-c-wait", "atoll-found", "atoll-whole", "atoll-policy"}
	for i := 1; i < len(order); i++ {
		require.True(t, e.runsAfter(order[i], order[i-1]), "%s must run after %s", order[i], order[i-1])
		require.False(t, e.runsAfter(order[i-1], order[i]))
	}
	for _, z := range []string{"us-a", "us-b", "us-c"} {
		for _, need := range []string{"atoll-certificates-zone-" + z, "atoll-certificates-trust", "atoll-superuser", "atoll-endpoint-nodes", "atoll-account"} {
			require.True(t, e.runsAfter("atoll-zone-"+z+"-nodes", need), "%s before %s", need, z)
		}
		require.True(t, e.runsAfter("atoll-zone-"+z+"-size-0", "atoll-zone-"+z+"-wait"), "a claim is there once its pod ran")
	}
	require.True(t, e.runsAfter("atoll-founded", "atoll-found"))
	require.False(t, e.get(t, "atoll-founded").protect)
	names := map[string]bool{}
	for _, j := range e.ofType("batch/v1:Job") {
		name := at(t, j.inputs, "metadata.name").(string)
		require.Regexp(t, `-[0-9a-f]{10}$`, name)
		require.LessOrEqual(t, len(name), 63)
		names[name] = true
		require.Equal(t, "FallbackToLogsOnError", at(t, j.inputs, "spec.template.spec.containers.0.terminationMessagePolicy"))
		require.Greater(t, at(t, j.inputs, "spec.activeDeadlineSeconds"), float64(0))
	}
	require.Len(t, names, 7)
}

// TestSecondRunChangesNothing: random numbers are drawn anew and ignored; everything else is a
// function of the configuration and the first numbers.
func TestSecondRunChangesNothing(t *testing.T) {
	first := ok(t, nil, nil)
	second := ok(t, first, nil)
	require.Equal(t, slices.Sorted(maps.Keys(first.all)), slices.Sorted(maps.Keys(second.all)))
	for key, m := range first.all {
		require.Equal(t, m.inputs, second.all[key].inputs, key)
	}
	fresh := ok(t, nil, nil)
	require.NotEqual(t, first.all["atoll-identity"].inputs["data"], fresh.all["atoll-identity"].inputs["data"])
}

func certificate(t *testing.T, e *engine, zone string) (*x509.Certificate, *x509.CertPool) {
	t.Helper()
	cert, _, pool := certificates(t, e, zone)
	return cert, pool
}

// certificates also returns those that the nodes send after their own.
func certificates(t *testing.T, e *engine, zone string) (*x509.Certificate, *x509.CertPool, *x509.CertPool) {
	t.Helper()
	data := e.get(t, "atoll-certificates-zone-"+zone).inputs["data"]
	crt, err := base64.StdEncoding.DecodeString(data.(map[string]any)["node.crt"].(string))
	require.NoError(t, err)
	key, err := base64.StdEncoding.DecodeString(data.(map[string]any)["node.key"].(string))
	require.NoError(t, err)
	_, err = tls.X509KeyPair(crt, key)
	require.NoError(t, err)
	block, rest := pem.Decode(crt)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	between := x509.NewCertPool()
	between.AppendCertsFromPEM(rest)
	pool := x509.NewCertPool()
	bundle := e.get(t, "atoll-certificates-trust").inputs["data"].(map[string]any)["ca.crt"].(string)
	require.True(t, pool.AppendCertsFromPEM([]byte(bundle)))
	return cert, between, pool
}

func TestCertificateNames(t *testing.T) {
	e := ok(t, nil, map[string]any{
		"certificates": map[string]any{"hosts": []any{"db.corp.example"}},
		"endpoint":     map[string]any{"type": "LoadBalancer", "host": "lb.example", "zoneHosts": map[string]any{"us-b": "10.1.2.3:5432"}}})
	cert, pool := certificate(t, e, "us-b")
	for _, name := range []string{"lb.example", "db.corp.example", "10.1.2.3", "localhost", "127.0.0.1", "us-b",
		"atoll-sql", "atoll-sql.atoll.svc", "atoll-sql.atoll.svc.cluster.local", "atoll-sql-us-b.atoll.svc.cluster.local",
		"atoll-us-b-0.atoll-nodes.atoll.svc.cluster.local"} {
		_, err := cert.Verify(x509.VerifyOptions{DNSName: name, Roots: pool})
		require.NoError(t, err, name)
	}
	_, err := cert.Verify(x509.VerifyOptions{DNSName: "atoll-sql-us-a.atoll.svc.cluster.local", Roots: pool})
	require.Error(t, err, "another zone's name")
	require.Equal(t, "node", cert.Subject.CommonName)
}

func TestLeafRotation(t *testing.T) {
	first := ok(t, nil, nil)
	second := ok(t, first, map[string]any{"certificates": map[string]any{"rotation": 2}})
	a, pool := certificate(t, first, "us-a")
	b, samePool := certificate(t, second, "us-a")
	require.NotEqual(t, a.PublicKey, b.PublicKey)
	require.True(t, pool.Equal(samePool), "the CA stays")
	require.Equal(t, first.all["atoll-zone-us-a-nodes"].inputs, second.all["atoll-zone-us-a-nodes"].inputs, "nodes read certificates again; they do not restart")
}

// TestCARotationOverlaps: both CAs are trusted, every node is asked whether it accepts the new one,
// then the certificates are made anew; the old one goes when that is said.
func TestCARotationOverlaps(t *testing.T) {
	first := ok(t, nil, nil)
	require.True(t, first.get(t, "atoll-certificates-ca-1").protect)
	_, oldPool := certificate(t, first, "us-a")

	second := ok(t, first, map[string]any{"certificates": map[string]any{"caRotation": 2}})
	cert, between, pool := certificates(t, second, "us-a")
	_, err := cert.Verify(x509.VerifyOptions{Roots: pool})
	require.NoError(t, err)
	_, err = cert.Verify(x509.VerifyOptions{Roots: oldPool})
	require.Error(t, err, "made by the new CA")
	_, err = cert.Verify(x509.VerifyOptions{Roots: oldPool, Intermediates: between})
	require.NoError(t, err, "clients that have only the old bundle go on: the old CA vouches for the new one")
	before, _ := certificate(t, first, "us-a")
	_, err = before.Verify(x509.VerifyOptions{Roots: pool})
	require.NoError(t, err, "the old certificates are still accepted")
	require.True(t, second.runsAfter("atoll-certificates-zone-us-a", "atoll-certificates-trust-wait"))
	require.True(t, second.runsAfter("atoll-certificates-trust-wait", "atoll-certificates-trust"))
	require.False(t, second.get(t, "atoll-certificates-ca-1").protect, "the old one may go")
	require.Equal(t, first.all["atoll-zone-us-a-nodes"].inputs, second.all["atoll-zone-us-a-nodes"].inputs)

	third := ok(t, second, map[string]any{"certificates": map[string]any{"caRotation": 2, "dropOldCA": true}})
	require.NotContains(t, third.all, "atoll-certificates-ca-1")
	_, pool = certificate(t, third, "us-a")
	_, err = before.Verify(x509.VerifyOptions{Roots: pool})
	require.Error(t, err)
	same, between, _ := certificates(t, third, "us-a")
	require.Equal(t, cert.Raw, same.Raw)
	_, err = same.Verify(x509.VerifyOptions{Roots: oldPool, Intermediates: between})
	require.Error(t, err, "the overlap is over")
}

// TestNothingThatHoldsDataIsReplaced: what Kubernetes can't change in place stays the same or is ignored.
func TestNothingThatHoldsDataIsReplaced(t *testing.T) {
	first := ok(t, nil, nil)
	zones := []any{}
	require.NoError(t, json.Unmarshal([]byte(`[{"name":"us-c","region":"us"},{"name":"us-a","region":"us","nodes":3},{"name":"us-b","region":"us"},{"name":"us-d","region":"us"}]`), &zones))
	for what, change := range map[string]map[string]any{
		"zones":   {"zones": zones},
		"volumes": {"storage": map[string]any{"provisioner": "disk.example", "size": "20Gi"}},
		"class":   {"storage": map[string]any{"class": "fast"}},
		"image":   {"image": "atoll:2"},
	} {
		second := ok(t, first, change)
		for _, zone := range []string{"us-a", "us-b", "us-c"} {
			a, b := first.get(t, "atoll-zone-"+zone+"-nodes"), second.get(t, "atoll-zone-"+zone+"-nodes")
			require.Equal(t, a.typ, b.typ, what)
			require.Contains(t, b.typ, "StatefulSet")
			require.Equal(t, at(t, a.inputs, "metadata.name"), at(t, b.inputs, "metadata.name"))
			require.Contains(t, b.ignore, "spec.volumeClaimTemplates")
			for _, fixed := range []string{"spec.selector", "spec.serviceName", "spec.podManagementPolicy"} {
				require.Equal(t, at(t, a.inputs, fixed), at(t, b.inputs, fixed), "%s: %s", what, fixed)
			}
		}
	}
}

// TestVolumesGrow: the claims change, the nodes do not restart.
func TestVolumesGrow(t *testing.T) {
	first := ok(t, nil, nil)
	second := ok(t, first, map[string]any{"storage": map[string]any{"provisioner": "disk.example", "size": "20Gi"}})
	for _, zone := range []string{"us-a", "us-b", "us-c"} {
		patch := second.get(t, "atoll-zone-"+zone+"-size-0")
		require.Contains(t, patch.typ, "PersistentVolumeClaimPatch")
		require.Equal(t, "data-atoll-"+zone+"-0", at(t, patch.inputs, "metadata.name"))
		require.Equal(t, "20Gi", at(t, patch.inputs, "spec.resources.requests.storage"))
		require.True(t, patch.retain)
		require.Equal(t, at(t, first.all["atoll-zone-"+zone+"-nodes"].inputs, "spec.template"), at(t, second.all["atoll-zone-"+zone+"-nodes"].inputs, "spec.template"))
	}
	require.Equal(t, first.all["atoll-zone-us-a-wait"].inputs, second.all["atoll-zone-us-a-wait"].inputs)
}

func TestNewImageGoesThroughEveryStep(t *testing.T) {
	first := ok(t, nil, nil)
	second := ok(t, first, map[string]any{"image": "atoll:2"})
	for _, job := range []string{"atoll-retire", "atoll-zone-us-a-wait", "atoll-zone-us-b-wait", "atoll-zone-us-c-wait", "atoll-whole", "atoll-policy"} {
		require.NotEqual(t, at(t, first.all[job].inputs, "metadata.name"), at(t, second.all[job].inputs, "metadata.name"), job)
	}
	require.Equal(t, first.all["atoll-identity"].inputs, second.all["atoll-identity"].inputs)
}

// The stack's policy is put into force by its name if it is a ready one as it is, else as a text, and
// anew whenever it is another one.
func TestPolicyReachesTheCluster(t *testing.T) {
	args := func(e *engine) string {
		return fmt.Sprint(at(t, e.get(t, "atoll-policy").inputs, "spec.template.spec.containers.0.args"))
	}
	first := ok(t, nil, nil)
	require.Contains(t, args(first), "survive-zone]")
	second := ok(t, first, map[string]any{"policy": "primary-zone", "zones": []any{
		map[string]any{"name": "us-a", "region": "us", "nodes": 2, "role": "primary"}, map[string]any{"name": "us-b", "region": "us"}, map[string]any{"name": "us-c", "region": "us"}}})
	require.Contains(t, args(second), "--text=name: \"stack\"")
	require.Contains(t, args(second), "\"us-a\": {role: primary}")
	require.NotEqual(t, at(t, first.all["atoll-policy"].inputs, "metadata.name"), at(t, second.all["atoll-policy"].inputs, "metadata.name"))
	require.Equal(t, first.all["atoll-zone-us-a-nodes"].inputs, second.all["atoll-zone-us-a-nodes"].inputs, "no node restarts for a policy")
}

// Kubernetes restarts a node whose pod is another one: adding nodes must restart none.
func TestMoreNodesRestartNone(t *testing.T) {
	first := ok(t, nil, nil)
	more := ok(t, first, map[string]any{"zones": []any{
		map[string]any{"name": "us-a", "region": "us", "nodes": 3.0}, map[string]any{"name": "us-b", "region": "us", "nodes": 2.0}, map[string]any{"name": "us-c", "region": "us"}}})
	before, after := first.ofType("apps/v1:StatefulSet"), more.ofType("apps/v1:StatefulSet")
	for i := range before {
		require.Equal(t, at(t, before[i].inputs, "spec.template"), at(t, after[i].inputs, "spec.template"))
	}
	require.Equal(t, 3.0, at(t, after[0].inputs, "spec.replicas"))
}

// A zone that comes or goes restarts no node of the others, and nobody who leaves is protected.
func TestOtherZonesRestartNone(t *testing.T) {
	zones := func(names ...string) map[string]any {
		var all []any
		for _, name := range names {
			all = append(all, map[string]any{"name": name, "region": "us"})
		}
		return map[string]any{"zones": all}
	}
	three := ok(t, nil, zones("us-a", "us-b", "us-c"))
	four := ok(t, three, zones("us-a", "us-b", "us-c", "us-d"))
	other := ok(t, four, zones("us-a", "us-c", "us-d"))
	for _, zone := range []string{"us-a", "us-c"} {
		set := "atoll-zone-" + zone + "-nodes"
		for _, e := range []*engine{four, other} {
			require.Equal(t, at(t, three.get(t, set).inputs, "spec.template"), at(t, e.get(t, set).inputs, "spec.template"), set)
		}
	}
	for name, m := range four.all {
		require.False(t, m.protect && strings.Contains(name, "us-b"), "%s can't be taken away with its zone", name)
	}
	require.Contains(t, at(t, four.get(t, "atoll-join").inputs, "data.join"), "atoll-us-d-0.")
	require.NotContains(t, at(t, other.get(t, "atoll-join").inputs, "data.join"), "atoll-us-b-0.")
	// A founding member may be gone for good: whoever is there now says that the cluster stands.
	found := fmt.Sprint(at(t, other.get(t, "atoll-found").inputs, "spec.template.spec.containers.0.args"))
	require.Contains(t, found, "--nodes=$(ATOLL_FOUNDERS) --later=atoll-us-a-0.")
	require.Contains(t, found, "atoll-us-d-0.")
}

func TestRetireKeepsWhatTheStackSays(t *testing.T) {
	first := ok(t, nil, nil)
	zones := []any{}
	require.NoError(t, json.Unmarshal([]byte(`[{"name":"us-a","region":"us","nodes":1},{"name":"us-b","region":"us"},{"name":"us-c","region":"us"}]`), &zones))
	second := ok(t, first, map[string]any{"zones": zones})
	args := func(e *engine) string {
		var out []string
		for _, a := range at(t, e.get(t, "atoll-retire").inputs, "spec.template.spec.containers.0.args").([]any) {
			out = append(out, a.(string))
		}
		return strings.Join(out, " ")
	}
	require.Contains(t, args(first), "atoll-us-a-1.")
	require.NotContains(t, args(second), "atoll-us-a-1.")
	require.True(t, second.runsAfter("atoll-zone-us-a-nodes", "atoll-retire"))
	require.Equal(t, "Delete", at(t, second.all["atoll-zone-us-a-nodes"].inputs, "spec.persistentVolumeClaimRetentionPolicy.whenScaled"))
}

func TestIdentityIsMadeOnceAndKept(t *testing.T) {
	e, c, err := deploy(t, nil, nil)
	require.NoError(t, err)
	require.NotNil(t, c)
	for _, name := range []string{"atoll-identity", "atoll-superuser", "atoll-certificates-ca-1", "atoll-certificates-node-seed-1"} {
		m := e.get(t, name)
		// The nodes' certificates are made anew at every rotation: the seed before has to go.
		require.Equal(t, name != "atoll-certificates-node-seed-1", m.protect, name)
		require.Equal(t, []string{"data"}, m.ignore, name)
	}
	loose := ok(t, nil, map[string]any{"storage": map[string]any{"class": "fast", "keep": false}})
	for _, m := range loose.all {
		require.False(t, m.protect, m.name)
	}
	require.Equal(t, "Delete", at(t, loose.ofType("StatefulSet")[0].inputs, "spec.persistentVolumeClaimRetentionPolicy.whenDeleted"))
}

func TestPolicyThatCannotHoldIsRefused(t *testing.T) {
	_, _, err := deploy(t, nil, map[string]any{"zones": []any{map[string]any{"name": "us-a"}, map[string]any{"name": "us-b"}}})
	require.ErrorContains(t, err, "survive: zone with 3 voters needs 3 zones that vote, there are 2 (us-a, us-b); add a zone")
}

func TestMonitoringIsOptional(t *testing.T) {
	require.Empty(t, ok(t, nil, nil).ofType("ServiceMonitor"))
	e := ok(t, nil, map[string]any{"monitoring": true})
	require.Len(t, e.ofType("ServiceMonitor"), 1)
	require.Len(t, e.ofType("PrometheusRule"), 1)
	require.True(t, json.Valid([]byte(dashboard)))
	require.NotEmpty(t, e.get(t, "atoll-monitoring-dashboard").inputs)
}

// TestEveryChildHasItsParentsName and is registered below it.
func TestEveryChildHasItsParentsName(t *testing.T) {
	for name := range ok(t, nil, map[string]any{"monitoring": true}).all {
		require.True(t, name == "atoll" || strings.HasPrefix(name, "atoll-"), name)
	}
}

func TestConnectionStrings(t *testing.T) {
	require.Equal(t, "postgresql://postgres:p@h:1/postgres?sslmode=verify-full&sslrootcert=atoll-ca.crt", connection("p", "h:1"))
	multi := multiHost("p", []string{"a:1", "b:2"})
	for _, part := range []string{"@a:1,b:2/", "target_session_attrs=read-write", "tcp_user_timeout=", "keepalives_idle=", "connect_timeout="} {
		require.Contains(t, multi, part)
	}
	spec, err := config.Read(stack(t, map[string]any{"endpoint": map[string]any{"type": "NodePort", "nodePort": 30257, "host": "127.0.0.1"}}), nil)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:30257", names{spec}.outside())
	require.Equal(t, "atoll-sql-us-a.atoll.svc.cluster.local:26257", names{spec}.outsideZone("us-a"))
}

// How long who is silent is expected back reaches the nodes; what is the default is no flag.
func TestDeadAfterReachesTheNodes(t *testing.T) {
	args := func(e *engine) []any {
		return at(t, e.get(t, "atoll-zone-us-a-nodes").inputs, "spec.template.spec.containers.0.args").([]any)
	}
	for _, a := range args(ok(t, nil, nil)) {
		require.NotContains(t, a, "-after=")
	}
	set := args(ok(t, nil, map[string]any{"deadAfter": map[string]any{"zone": "2h", "volume": "1m"}}))
	require.Contains(t, set, "--zone-dead-after=2h0m0s")
	require.Contains(t, set, "--volume-gone-after=1m0s")
}
