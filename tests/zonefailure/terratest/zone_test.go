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
	"github.com/gruntwork-io/terratest/modules/logger"
	"github.com/gruntwork-io/terratest/modules/retry"
	"github.com/gruntwork-io/terratest/modules/shell"
	teststructure "github.com/gruntwork-io/terratest/modules/test-structure"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/tests/zonefailure/workload"
)

const (
	before = 3 * time.Second  // of work before a fault
	during = 15 * time.Second // while it lasts
)

func TestZoneFailures(t *testing.T) {
	s := openStack(t)
	stage := func(name string, fn func(*testing.T, *stack)) {
		teststructure.RunTestStage(t, name, func() {
			t.Run(name, func(t *testing.T) {
				one := *s
				one.t = t
				one.read()
				t.Cleanup(func() { one.artifacts(t) })
				fn(t, &one)
			})
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	teststructure.RunTestStage(t, "deploy", s.deploy)
	stage("inspect", inspect)
	stage("faults", func(t *testing.T, s *stack) {
		for _, f := range faults {
			t.Run(f.name, func(t *testing.T) {
				one := *s
				one.t = t
				t.Cleanup(func() { one.artifacts(t) })
				one.suffer(f)
			})
		}
	})
	stage("badinput", badInput)
	stage("change", change)
	stage("policy", policy)
	stage("drift", drift)
	stage("destroy", destroy)
	stage("zones", otherZones)
	stage("resize", resize) // from here on the stack's own size of volumes would be refused
	stage("delete", deleteData)
}

// inspect checks that every zone has its nodes, volumes and certificates.
func inspect(t *testing.T, s *stack) {
	where := map[string]string{} // Kubernetes node to zone
	for _, n := range k8s.GetNodes(t, s.kube) {
		where[n.Name] = n.Labels["topology.kubernetes.io/zone"]
	}
	for _, z := range s.out.Zones {
		for i := range z.Nodes {
			pod := fmt.Sprintf("%s-%d", z.StatefulSet, i)
			k8s.WaitUntilPodAvailable(t, s.kube, pod, 60, 2*time.Second)
			require.Equal(t, z.Name, where[k8s.GetPod(t, s.kube, pod).Spec.NodeName], "zone of the node of %s", pod)
			claim := "data-" + pod
			pv := k8s.GetPersistentVolume(t, s.kube, k8s.GetPersistentVolumeClaim(t, s.kube, claim).Spec.VolumeName)
			require.Contains(t, fmt.Sprint(pv.Spec.NodeAffinity), z.Name, "the volume of %s is tied to its zone", claim)
		}
		rows, err := queryOne(s.out.ConnectionZones[z.Name], "SELECT 1")
		require.NoError(t, err, "sslmode=verify-full through zone %s", z.Name)
		require.Equal(t, [][]string{{"1"}}, rows)
		plain := strings.Replace(s.out.ConnectionZones[z.Name], "sslmode=verify-full", "sslmode=disable", 1)
		_, err = queryOne(plain, "SELECT 1")
		require.Error(t, err, "without TLS")
	}
	s.whole()
}

// fault is one way to lose a zone, or a node of it.
type fault struct {
	name          string
	needsPlatform bool
	inject, heal  func(*stack, zone)
}

func (s *stack) localkube(args ...string) {
	s.t.Helper()
	require.NoError(s.t, shell.RunCommandE(s.t, shell.Command{Command: "bin/localkube", Args: args, WorkingDir: root, Logger: logger.Discard}))
}

func onPlatform(args ...string) func(*stack, zone) {
	return func(s *stack, z zone) {
		full := append([]string{"fault"}, args...)
		s.localkube(append(full, z.Name)...)
	}
}

func nothing(*stack, zone) {}

var faults = []fault{
	{"cut a zone off", true, onPlatform("cut"), onPlatform("heal")},
	{"kill a zone's power", true, onPlatform("kill"), onPlatform("power-on")},
	{"pause a zone", true, onPlatform("pause"), onPlatform("resume")},
	{"drop what a zone sends", true, onPlatform("cut-one-way"), onPlatform("heal")},
	{"cut two zones from each other", true, func(s *stack, z zone) { s.localkube("fault", "cut-pair", z.Name, s.otherZone(z).Name) }, onPlatform("heal")},
	{"cut a zone off again and again", true, flap, onPlatform("heal")},
	{"fill a zone's disk", true, onPlatform("fill-disk"), onPlatform("empty-disk")},
	{"stop Kubernetes' control plane", true, func(s *stack, _ zone) { s.localkube("fault", "pause", "control-plane") },
		func(s *stack, _ zone) { s.localkube("fault", "resume", "control-plane") }},
	{"drain a zone's node", false, func(s *stack, z zone) { s.drain(z) }, func(s *stack, z zone) { s.uncordon(z) }},
	{"delete a pod without grace", false, func(s *stack, z zone) {
		k8s.RunKubectl(s.t, s.kube, "delete", "pod", z.StatefulSet+"-0", "--grace-period=0", "--force", "--wait=false")
	}, nothing},
	{"delete a pod with its volume", false, func(s *stack, z zone) { s.loseVolume(z) }, func(s *stack, z zone) { s.forgetDead(z) }},
}

// flap cuts a zone off for a second, five times, and then for good.
func flap(s *stack, z zone) {
	for range 5 {
		s.localkube("fault", "cut", z.Name)
		time.Sleep(time.Second)
		s.localkube("fault", "heal", z.Name)
		time.Sleep(time.Second)
	}
	s.localkube("fault", "cut", z.Name)
}

// suffer runs the workload through the other zones while one zone has a fault: the one with the
// most leases, which is missed the most.
func (s *stack) suffer(f fault) {
	if f.needsPlatform && !s.local {
		s.t.Skipf("%s: only the local platform can", f.name)
	}
	s.whole()
	z := s.busiest()
	w, err := workload.Start(s.t.Context(), workload.Config{Connections: s.others(z.Name)})
	require.NoError(s.t, err)
	time.Sleep(before)
	quiet, had := w.Gaps(), w.Acknowledged()
	require.Positive(s.t, had, "no write was acknowledged before the fault")
	healing := false
	s.t.Cleanup(func() { // a fault that could not be made whole is not left to the next test
		if !healing {
			f.heal(s, z)
		}
	})
	f.inject(s, z)
	time.Sleep(during)
	gaps, survived := w.Gaps(), w.Acknowledged()-had
	copied, err := w.Snapshot(s.t.Context())
	require.NoError(s.t, err, "a copy of all tables while the zone has its fault")
	healing = true
	f.heal(s, z)
	healed := s.whole()
	report, err := w.Finish(context.Background())
	require.NoError(s.t, err)
	s.t.Logf("%s (%s): %s; %d writes during it; longest gap of a client %v before, %v during; %d lines copied as one snapshot; whole again after %v", f.name, z.Name, report, survived, quiet, gaps, copied, healed)
	require.Empty(s.t, report.Faults)
	require.NoError(s.t, w.Drop(context.Background()))
	require.Positive(s.t, survived, "no write was acknowledged while the zone had its fault")
}

// busiest returns the zone with the most leases.
func (s *stack) busiest() zone {
	rows, err := s.query("SELECT zone FROM atoll.zones ORDER BY leases DESC, zone LIMIT 1")
	require.NoError(s.t, err)
	for _, z := range s.out.Zones {
		if len(rows) == 1 && rows[0][0] == z.Name {
			return z
		}
	}
	s.t.Fatalf("the zone with the most leases is %v, none of the stack's: %v", rows, s.out.Zones)
	return zone{}
}

// nodeOf returns the Kubernetes node of a zone's first pod.
func (s *stack) nodeOf(z zone) string {
	return k8s.GetPod(s.t, s.kube, z.StatefulSet+"-0").Spec.NodeName
}

func (s *stack) drain(z zone) {
	k8s.RunKubectl(s.t, s.kube, "drain", s.nodeOf(z), "--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=app.kubernetes.io/name=atoll", "--timeout=2m")
}

func (s *stack) uncordon(z zone) {
	for _, n := range k8s.GetNodes(s.t, s.kube) {
		if n.Labels["topology.kubernetes.io/zone"] == z.Name && n.Spec.Unschedulable {
			k8s.RunKubectl(s.t, s.kube, "uncordon", n.Name)
		}
	}
}

// loseVolume deletes a pod, its claim and its volume: the disk is gone for good.
func (s *stack) loseVolume(z zone) {
	pod := z.StatefulSet + "-0"
	pv := k8s.GetPersistentVolumeClaim(s.t, s.kube, "data-"+pod).Spec.VolumeName
	k8s.RunKubectl(s.t, s.kube, "delete", "pvc", "data-"+pod, "--wait=false")
	k8s.RunKubectl(s.t, s.kube, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
	k8s.RunKubectl(s.t, s.kube, "delete", "pv", pv, "--wait=false", "--ignore-not-found")
}

// forgetDead tells the cluster, as an operator would, that a node's disk will not come back.
func (s *stack) forgetDead(z zone) {
	out, err := retry.DoWithRetryE(s.t, "decommission of the node whose volume is gone", 120, time.Second, func() (string, error) {
		rows, err := s.query("SELECT node_id FROM atoll.nodes WHERE zone = '" + z.Name + "' AND NOT is_live AND status <> 'decommissioned'")
		if err != nil || len(rows) != 1 {
			return "", fmt.Errorf("dead nodes of %s: %v (%w)", z.Name, rows, err)
		}
		return shell.RunCommandAndGetOutputE(s.t, shell.Command{Command: "bin/atoll", WorkingDir: root, Logger: logger.Discard,
			Args: []string{"node", "decommission", rows[0][0], "--dead", "--url", s.others(z.Name)[s.otherZone(z).Name]}})
	})
	require.NoError(s.t, err, out)
}

func (s *stack) otherZone(z zone) zone {
	for _, o := range s.out.Zones {
		if o.Name != z.Name {
			return o
		}
	}
	return z
}

// change rotates the certificates and the CA and rolls another image out, under load of clients that
// know only the first CA.
func change(t *testing.T, s *stack) {
	if !s.ours() {
		t.Skip("image and certificates of a stack that is not the local one are changed with CHANGE=1 only")
	}
	file := s.config()
	changes := map[string][]string{
		"certificates": {"atoll:certificates.rotation", fmt.Sprint(time.Now().Unix() % 1_000_000)},
		"authority":    {"atoll:certificates.caRotation", "2"},
	}
	if image := s.nextImage(); image != "" {
		changes["image"] = []string{"atoll:image", image}
	}
	for _, name := range []string{"certificates", "authority", "image"} {
		t.Run(name, func(t *testing.T) {
			one := *s
			one.t = t
			t.Cleanup(func() { one.artifacts(t) })
			if changes[name] == nil {
				t.Skip("NEXT_IMAGE names no image to roll out")
			}
			w, err := workload.Start(t.Context(), workload.Config{Connections: one.out.ConnectionZones})
			require.NoError(t, err)
			time.Sleep(before)
			one.set(file, changes[name]...)
			one.pulumi(false, "up", "--yes", "--skip-preview", "--config-file", file)
			gaps := w.Gaps()
			one.whole()
			report, err := w.Finish(context.Background())
			require.NoError(t, err)
			t.Logf("%s: %s; longest gap of a client %v", name, report, gaps)
			require.Empty(t, report.Faults)
			require.NoError(t, w.Drop(context.Background()))
		})
	}
	// Back to the stack's own configuration. The second CA is protected, as the one in force always is.
	s.pulumi(false, "state", "unprotect", "--all", "--yes")
	s.pulumi(false, "up", "--yes", "--skip-preview")
	s.whole()
}

// nextImage is another name of the image for the local platform, elsewhere $NEXT_IMAGE.
func (s *stack) nextImage() string {
	if !s.local {
		return os.Getenv("NEXT_IMAGE")
	}
	const image = "localhost/atoll:next"
	tar := filepath.Join(s.t.TempDir(), "image.tar")
	require.NoError(s.t, shell.RunCommandE(s.t, shell.Command{Command: "go", Args: []string{"run", "./infra/image/cmd/atoll-image", "--name", image, "-o", tar}, WorkingDir: root, Logger: logger.Discard}))
	s.localkube("load", tar)
	return image
}
