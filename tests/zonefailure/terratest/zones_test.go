package terratest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/gruntwork-io/terratest/modules/k8s"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/tests/zonefailure/workload"
)

// zoneSwap is a stack whose zone away is replaced by a zone of its Kubernetes that it does not use yet.
type zoneSwap struct {
	*stack
	file  string
	at    int // place of away in atoll:zones
	away  zone
	spare zone
}

// otherZones replaces the zone with the most leases by another one and takes it back, under load through
// the zones that stay: drained and moved first, refused where the policy could not hold.
func otherZones(t *testing.T, s *stack) {
	if !s.local {
		t.Skip("what a new zone needs (machines, ports, names) is known of the local platform only")
	}
	x := &zoneSwap{stack: s, file: s.config(), away: s.busiest(), spare: s.spareZone()}
	if x.spare.Name == "" {
		t.Skip("Kubernetes has no zone that the stack does not use: make down, then ZONES=us-a,us-b,us-c,us-d make zone-test")
	}
	x.at = slices.IndexFunc(s.out.Zones, func(z zone) bool { return z.Name == x.away.Name })
	for _, one := range []struct {
		name string
		run  func(*zoneSwap)
	}{
		{"both at once is refused", (*zoneSwap).both},
		{"one more", (*zoneSwap).more},
		{"one less", (*zoneSwap).less},
		{"back with its old volume", (*zoneSwap).back},
		{"as it was", (*zoneSwap).asItWas},
	} {
		t.Run(one.name, func(t *testing.T) { x.step(t, one.run) })
		if t.Failed() {
			t.FailNow()
		}
		x.read()
	}
}

// step runs one change under load.
func (x *zoneSwap) step(t *testing.T, run func(*zoneSwap)) {
	one, s := *x, *x.stack
	one.stack, s.t = &s, t
	t.Cleanup(func() { s.artifacts(t) })
	w, err := workload.Start(t.Context(), workload.Config{Connections: s.others(x.away.Name, x.spare.Name)})
	require.NoError(t, err)
	began := time.Now()
	run(&one)
	took := time.Since(began).Round(100 * time.Millisecond)
	gaps := w.Gaps()
	report, err := w.Finish(context.Background())
	require.NoError(t, err)
	t.Logf("%v; %s; longest gap of a client %v", took, report, gaps)
	require.Empty(t, report.Faults)
	require.NoError(t, w.Drop(context.Background()))
}

// both takes the zone away before the other one can have its data.
func (x *zoneSwap) both() {
	pods := x.podIDs()
	file := x.config()
	x.put(file, x.at, x.spare)
	x.unpublish(file, x.away)
	x.set(file, "atoll:timeout", "1m")
	out, err := x.pulumiE("up", "--yes", "--skip-preview", "--config-file", file)
	require.Error(x.t, err, "the update passes")
	require.Contains(x.t, flat(out), "can't be taken away: without them, policy")
	require.Equal(x.t, pods, x.podIDs(), "a node was restarted")
	require.Equal(x.t, "[[live]]", x.statusOf(x.away), "the zone is in service")
	x.pulumi(false, "up", "--yes", "--skip-preview")
	require.Equal(x.t, pods, x.podIDs(), "a node was restarted")
}

func (x *zoneSwap) more() {
	pods := x.podIDs()
	x.put(x.file, len(x.out.Zones), x.spare)
	x.up()
	require.Len(x.t, x.out.Zones, 4)
	x.sameNodes(pods)
}

func (x *zoneSwap) less() {
	pods := x.podIDs()
	x.put(x.file, x.at, x.spare)
	x.pulumi(false, "config", "rm", "--config-file", x.file, "--path", fmt.Sprintf("atoll:zones[%d]", len(x.out.Zones)-1))
	x.unpublish(x.file, x.away)
	x.up()
	require.Len(x.t, x.out.Zones, 3)
	delete(pods, x.away.StatefulSet+"-0")
	x.sameNodes(pods)
	require.Equal(x.t, "[[decommissioned]]", x.statusOf(x.away))
	out, err := k8s.RunKubectlAndGetOutputE(x.t, x.kube, "get", "statefulsets,pods,pvc", "-o", "name")
	require.NoError(x.t, err)
	require.NotContains(x.t, out, "statefulset.apps/"+x.away.StatefulSet)
	require.Contains(x.t, out, "persistentvolumeclaim/data-"+x.away.StatefulSet+"-0", "volumes are for people to delete")
}

// back adds the zone again while the volume of its retired node is still there. That node never comes
// back: the update says so, and what to do.
func (x *zoneSwap) back() {
	pods := x.podIDs()
	x.put(x.file, len(x.out.Zones), x.away)
	x.set(x.file, "atoll:timeout", "1m")
	out, err := x.pulumiE("up", "--yes", "--skip-preview", "--config-file", x.file)
	require.Error(x.t, err, "the update passes with a volume of a node that was decommissioned")
	require.Contains(x.t, flat(out), "kubectl delete pvc data-"+x.away.StatefulSet+"-0")
	x.forget(x.away)
	k8s.RunKubectl(x.t, x.kube, "delete", "pod", x.away.StatefulSet+"-0")
	x.set(x.file, "atoll:timeout", "15m")
	x.up()
	require.Len(x.t, x.out.Zones, 4)
	x.sameNodes(pods)
	require.Contains(x.t, x.statusOf(x.away), "live")
}

func (x *zoneSwap) asItWas() {
	pods := x.podIDs()
	x.pulumi(false, "up", "--yes", "--skip-preview")
	x.read()
	x.whole()
	delete(pods, x.spare.StatefulSet+"-0")
	x.sameNodes(pods)
	x.forget(x.spare)
	x.mend()
	x.pulumi(false, "preview", "--refresh", "--expect-no-changes")
}

func (x *zoneSwap) up() {
	x.t.Helper()
	x.pulumi(false, "up", "--yes", "--skip-preview", "--config-file", x.file)
	x.read()
	x.whole()
}

// put names a zone in a place of the configuration's list, and how clients reach it.
func (x *zoneSwap) put(file string, i int, z zone) {
	at := fmt.Sprintf("atoll:zones[%d]", i)
	n := slices.Index(x.kubeZones(), z.Name) // localkube leads a port to each
	x.set(file, at+".name", z.Name, at+".region", z.Region,
		"atoll:endpoint.zoneNodePorts."+z.Name, fmt.Sprint(30258+n), "atoll:endpoint.zoneHosts."+z.Name, fmt.Sprintf("127.0.0.1:%d", 26258+n))
}

// unpublish takes a zone's ports out of a configuration.
func (x *zoneSwap) unpublish(file string, z zone) {
	for _, key := range []string{"zoneNodePorts.", "zoneHosts."} {
		x.pulumi(false, "config", "rm", "--config-file", file, "--path", "atoll:endpoint."+key+z.Name)
	}
}

// forget deletes the volume of a node that was retired, as a person would.
func (x *zoneSwap) forget(z zone) {
	claim := "data-" + z.StatefulSet + "-0"
	pv := k8s.GetPersistentVolumeClaim(x.t, x.kube, claim).Spec.VolumeName
	k8s.RunKubectl(x.t, x.kube, "delete", "pvc", claim, "--wait=false")
	k8s.RunKubectl(x.t, x.kube, "delete", "pv", pv, "--wait=false", "--ignore-not-found")
}

// sameNodes checks that the pods that were there run on.
func (x *zoneSwap) sameNodes(before map[string]string) {
	x.t.Helper()
	now := x.podIDs()
	for name, id := range before {
		require.Equal(x.t, id, now[name], "%s was restarted", name)
	}
}

// statusOf are the states of a zone's nodes.
func (s *stack) statusOf(z zone) string {
	rows, err := s.query("SELECT DISTINCT status FROM atoll.nodes WHERE address LIKE '" + z.StatefulSet + "-%' ORDER BY 1")
	require.NoError(s.t, err)
	return fmt.Sprint(rows)
}

// nodeZones are the Kubernetes nodes that have a zone, and which.
func (s *stack) nodeZones() map[string]string {
	nodes := map[string]string{}
	for _, n := range k8s.GetNodes(s.t, s.kube) {
		if z := n.Labels["topology.kubernetes.io/zone"]; z != "" {
			nodes[n.Name] = z
		}
	}
	return nodes
}

// kubeZones are the zones of the Kubernetes nodes, sorted by name.
func (s *stack) kubeZones() []string {
	return slices.Compact(slices.Sorted(maps.Values(s.nodeZones())))
}

// spareZone is a zone of Kubernetes that the stack does not use; without a name if there is none.
func (s *stack) spareZone() zone {
	for _, n := range k8s.GetNodes(s.t, s.kube) {
		z := zone{Name: n.Labels["topology.kubernetes.io/zone"], Region: n.Labels["topology.kubernetes.io/region"], Nodes: 1}
		z.StatefulSet = s.out.Name + "-" + z.Name
		if z.Name != "" && !slices.ContainsFunc(s.out.Zones, func(o zone) bool { return o.Name == z.Name }) {
			return z
		}
	}
	return zone{}
}
