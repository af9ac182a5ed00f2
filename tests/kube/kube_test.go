//go:build linux

// Package kube tests the local platform as its users have it, by its commands: three real zones,
// volumes, names, services, every fault, and that nothing is left behind.
package kube

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience bounds every wait for Kubernetes: an idle machine needs seconds, a busy one minutes.
const patience = 4 * time.Minute

const clusterName = "kubetest"

// cluster drives one local cluster by its commands.
type cluster struct {
	t        *testing.T
	program  string
	state    string
	programs string // folder of kubectl
	apiPort  int
	sqlPort  int
	httpPort int
}

// newCluster builds localkube, and skips the test where a cluster cannot be had.
func newCluster(t *testing.T) *cluster {
	if testing.Short() {
		t.Skip("a real Kubernetes takes minutes: left out of -short")
	}
	if os.Geteuid() != 0 {
		t.Skip("not root: namespaces and mounts need root")
	}
	dir := t.TempDir()
	k := &cluster{t: t, program: filepath.Join(dir, "localkube"), state: filepath.Join(dir, "state")}
	k.run("go", "build", "-o", k.program, "../../infra/local/cmd/localkube")
	if out, err := exec.Command(k.program, "check").CombinedOutput(); err != nil {
		t.Skipf("this machine cannot run it: %s", out)
	}
	out, err := exec.Command(k.program, "build", "--cached").CombinedOutput()
	if err != nil {
		t.Skipf("Kubernetes is not built here, which takes some 22 minutes of CPU: %s", out)
	}
	k.programs, _, _ = strings.Cut(string(out), "\n")
	ports := freePorts(t, 7)
	k.apiPort, k.sqlPort, k.httpPort = ports, ports+1, ports+6
	return k
}

// freePorts finds n ports in a row that nobody listens on.
func freePorts(t *testing.T, n int) int {
	for first := 21000; first < 30000; first += 50 {
		free := true
		for p := first; free && p < first+n; p++ {
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
			if free = err == nil; free {
				ln.Close()
			}
		}
		if free {
			return first
		}
	}
	t.Fatal("no free ports on 127.0.0.1")
	return 0
}

func (k *cluster) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func (k *cluster) run(args ...string) string {
	k.t.Helper()
	out, err := k.try(args...)
	require.NoError(k.t, err)
	return out
}

func (k *cluster) localkube(args ...string) string {
	k.t.Helper()
	return k.run(append([]string{k.program, "--name", clusterName, "--state", k.state}, args...)...)
}

func (k *cluster) up() string {
	k.t.Helper()
	return k.localkube("up", "--api-port", fmt.Sprint(k.apiPort), "--sql-port", fmt.Sprint(k.sqlPort), "--http-port", fmt.Sprint(k.httpPort),
		"--disk", "256", "--eviction", "300s")
}

func (k *cluster) kubectlTry(args ...string) (string, error) {
	return k.try(append([]string{filepath.Join(k.programs, "kubectl"), "--kubeconfig", filepath.Join(k.state, "creds", "kubeconfig"),
		"--request-timeout=20s"}, args...)...)
}

func (k *cluster) kubectl(args ...string) string {
	k.t.Helper()
	out, err := k.kubectlTry(args...)
	require.NoError(k.t, err)
	return out
}

// until waits for a condition of the cluster and logs how long it took.
func (k *cluster) until(what string, check func() error) {
	k.t.Helper()
	began := time.Now()
	for {
		err := check()
		if err == nil {
			k.t.Logf("%6.1f s until %s", time.Since(began).Seconds(), what)
			return
		}
		if time.Since(began) > patience {
			k.t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		time.Sleep(200 * time.Millisecond) // real processes: there is nothing to wait on
	}
}

// nodeReady is what Kubernetes says of a node: True, False or Unknown.
func (k *cluster) nodeReady(node, want string) func() error {
	return func() error {
		out, err := k.kubectlTry("get", "node", node, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && out != want {
			err = fmt.Errorf("node %s: Ready is %q, want %q", node, out, want)
		}
		return err
	}
}

func (k *cluster) podsReady() error {
	out, err := k.kubectlTry("get", "pod", "-l", "app=echo", "-o", `jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}`)
	if err == nil && strings.TrimSpace(out) != "True True True" {
		err = fmt.Errorf("pods' Ready: %q", out)
	}
	return err
}

// podIn names the pod of a zone, as long as each zone has one.
func (k *cluster) podIn(zone string) string {
	k.t.Helper()
	return strings.TrimSpace(k.kubectl("get", "pod", "-l", "app=echo", "--field-selector", "spec.nodeName="+zone, "-o", "jsonpath={.items[0].metadata.name}"))
}

// fetch asks from within a pod.
func (k *cluster) fetch(pod string, urls ...string) (string, error) {
	return k.kubectlTry(append([]string{"exec", pod, "--", "/echo", "get"}, urls...)...)
}

// ask asks from the host, on a connection of its own.
func ask(port int, path string, timeout time.Duration) (string, error) {
	c := http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// seen asks the host's road n times and counts the answers by pod.
func (k *cluster) seen(n int) (map[string]int, error) {
	pods := map[string]int{}
	for range n {
		out, err := ask(k.sqlPort, "/", 2*time.Second)
		if err != nil {
			return pods, err
		}
		pod, _, _ := strings.Cut(strings.TrimPrefix(out, "pod="), " ")
		pods[pod]++
	}
	return pods, nil
}

func (k *cluster) untilSeen(pods ...string) {
	k.t.Helper()
	k.until("the host reaches "+strings.Join(pods, ", "), func() error {
		got, err := k.seen(12)
		if err != nil {
			return err
		}
		for _, p := range pods {
			if got[p] == 0 {
				return fmt.Errorf("answers by pod: %v", got)
			}
		}
		return nil
	})
}

func podURL(pod string) string {
	return "http://" + pod + ".each.default.svc.cluster.local:8080/"
}

func TestLocalPlatform(t *testing.T) {
	k := newCluster(t)
	t.Cleanup(func() {
		if t.Failed() {
			k.keepEvidence()
		}
		k.localkube("down")
		k.nothingLeft()
	})
	began := time.Now()
	t.Log(k.up())
	t.Logf("%6.1f s until three zones are up", time.Since(began).Seconds())
	t.Log(k.up()) // a second one finds everything there
	k.loadEcho()
	k.kubectl("apply", "-f", "testdata/echo.yaml")
	k.until("three pods are ready", k.podsReady)

	for _, step := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"zones and volumes", k.testVolumes},
		{"names and services", k.testNetwork},
		{"cut", k.testCut},
		{"cut a pair, one way", k.testPartialCuts},
		{"pause", k.testPause},
		{"power", k.testPower},
		{"full disk", k.testFullDisk},
		{"faults that cannot be", k.testRefusals},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			whole := k.t
			k.t = t
			defer func() { k.t = whole }()
			step.test(t)
		})
		if !ok {
			return // what follows rests on it
		}
	}
}

func (k *cluster) loadEcho() {
	k.t.Helper()
	archive := filepath.Join(k.t.TempDir(), "echo.tar")
	binary := filepath.Join(k.t.TempDir(), "echo")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./echo")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(k.t, err, string(out))
	k.run("go", "run", "../../infra/image/cmd/atoll-image", "--binary", binary, "--name", "localhost/echo:test", "-o", archive)
	k.t.Log(k.localkube("load", archive))
}

// Each zone has one pod, on a volume that cannot be used from another zone; a volume grows while it
// is in use, and one that the disk cannot hold is refused with a reason.
func (k *cluster) testVolumes(t *testing.T) {
	for _, zone := range []string{"us-a", "us-b", "us-c"} {
		pod := k.podIn(zone)
		pv := strings.TrimSpace(k.kubectl("get", "pvc", "data-"+pod, "-o", "jsonpath={.spec.volumeName}"))
		require.Contains(t, k.kubectl("get", "pv", pv, "-o", "json"), `"`+zone+`"`)
	}
	k.kubectl("patch", "pvc", "data-echo-0", "-p", `{"spec":{"resources":{"requests":{"storage":"96Mi"}}}}`)
	k.until("a volume has grown", func() error {
		out, err := k.kubectlTry("get", "pvc", "data-echo-0", "-o", "jsonpath={.status.capacity.storage}")
		if err == nil && out != "96Mi" {
			err = fmt.Errorf("capacity %q", out)
		}
		return err
	})
	k.kubectl("patch", "pvc", "data-echo-1", "-p", `{"spec":{"resources":{"requests":{"storage":"10Gi"}}}}`)
	k.until("a volume too large is refused", func() error {
		out, err := k.kubectlTry("get", "events", "--field-selector", "reason=VolumeResizeFailed", "-o", "jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(out, "make the volume smaller or the disks larger") {
			err = fmt.Errorf("events: %q", out)
		}
		return err
	})
}

func (k *cluster) testNetwork(t *testing.T) {
	urls := []string{podURL("echo-0"), podURL("echo-1"), podURL("echo-2"), "http://any/", "http://any.default.svc.cluster.local/"}
	for _, pod := range []string{"echo-0", "echo-1", "echo-2"} {
		k.until(pod+" reaches every pod and service by name", func() error {
			_, err := k.fetch(pod, urls...)
			return err
		})
	}
	k.untilSeen("echo-0", "echo-1", "echo-2")
}

// A zone that is cut off is gone for everybody; the host's road leads around it at once; within the
// zone names are still known; healed, all is as before.
func (k *cluster) testCut(t *testing.T) {
	lost := k.podIn("us-a")
	k.localkube("fault", "cut", "us-a")
	cut := time.Now()
	worst := time.Duration(0)
	for range 30 {
		began := time.Now()
		out, err := ask(k.sqlPort, "/", 5*time.Second)
		require.NoError(t, err)
		require.NotContains(t, out, lost)
		worst = max(worst, time.Since(began))
	}
	t.Logf("30 requests around the lost zone, the slowest took %v", worst)
	require.Contains(t, k.localkube("exec", "us-a", "getent", "hosts", "any.default.svc.cluster.local"), "10.96.")
	k.until("us-a is not ready", k.nodeReady("us-a", "Unknown"))
	t.Logf("%v after the cut", time.Since(cut).Round(time.Millisecond))
	require.Contains(t, k.localkube("exec", "us-a", "getent", "hosts", "any.default.svc.cluster.local"), "10.96.")
	k.localkube("fault", "heal")
	k.until("us-a is ready again", k.nodeReady("us-a", "True"))
	k.until("three pods are ready again", k.podsReady)
	k.untilSeen("echo-0", "echo-1", "echo-2")
}

func (k *cluster) testPartialCuts(t *testing.T) {
	a, b, c := k.podIn("us-a"), k.podIn("us-b"), k.podIn("us-c")
	sees := func(from, to string, want bool) {
		t.Helper()
		_, err := k.fetch(from, podURL(to))
		require.Equal(t, want, err == nil, "%s -> %s: %v", from, to, err)
	}
	k.localkube("fault", "cut-pair", "us-a", "us-b")
	sees(a, b, false)
	sees(b, a, false)
	sees(c, a, true)
	sees(c, b, true)
	sees(a, c, true)
	k.localkube("fault", "heal")
	sees(a, b, true)
	// One direction is enough to stop a connection, but no more than the two zones notice.
	k.localkube("fault", "cut-one-way", "us-c", "us-a")
	sees(a, c, false)
	sees(b, c, true)
	sees(c, b, true)
	k.localkube("fault", "heal", "us-c")
	sees(a, c, true)
	k.until("nodes are ready", k.nodeReady("us-a", "True"))
}

func (k *cluster) testPause(t *testing.T) {
	pod := k.podIn("us-b")
	other := k.podIn("us-c")
	k.localkube("fault", "pause", "us-b")
	_, err := k.fetch(other, podURL(pod))
	require.Error(t, err, "a paused pod answered")
	require.Contains(t, k.localkube("status"), "paused")
	k.localkube("fault", "resume", "us-b")
	k.until("the paused pod answers again", func() error {
		_, err := k.fetch(other, podURL(pod))
		return err
	})
}

// Power comes back to the same volume.
func (k *cluster) testPower(t *testing.T) {
	pod := k.podIn("us-c")
	before := k.starts(pod)
	k.localkube("fault", "kill", "us-c")
	_, err := k.fetch(k.podIn("us-a"), podURL(pod))
	require.Error(t, err, "a pod without power answered")
	_, err = k.seen(10)
	require.NoError(t, err, "the host's road does not survive the loss of a zone")
	k.until("us-c is not ready", k.nodeReady("us-c", "Unknown"))
	k.localkube("fault", "power-on", "us-c")
	k.until("us-c is ready again", k.nodeReady("us-c", "True"))
	k.until("its pod has started once more", func() error {
		out, err := k.fetch("echo-0", podURL(pod))
		if err == nil && !strings.Contains(out, fmt.Sprintf("starts=%d", before+1)) {
			err = fmt.Errorf("%q, want start %d", out, before+1)
		}
		return err
	})
	k.until("three pods are ready again", k.podsReady)
}

func (k *cluster) starts(pod string) int {
	out, err := k.fetch("echo-0", podURL(pod))
	require.NoError(k.t, err)
	_, n, _ := strings.Cut(strings.TrimSpace(out), "starts=")
	var starts int
	_, err = fmt.Sscan(n, &starts)
	require.NoError(k.t, err, out)
	return starts
}

func (k *cluster) testFullDisk(t *testing.T) {
	pod, other := k.podIn("us-b"), k.podIn("us-a")
	write := podURL(pod) + "write"
	_, err := k.fetch(other, write)
	require.NoError(t, err)
	k.localkube("fault", "fill-disk", "us-b")
	out, err := k.fetch(other, write)
	require.Error(t, err)
	require.Contains(t, out, "no space left on device")
	_, err = k.fetch(other, podURL(other)+"write")
	require.NoError(t, err, "another zone's disk is full too")
	k.localkube("fault", "heal", "us-b")
	_, err = k.fetch(other, write)
	require.NoError(t, err)
}

func (k *cluster) testRefusals(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"cut mars", `"mars" is no zone of cluster "kubetest"; it has us-a, us-b, us-c, control-plane, host`},
		{"cut-pair us-a us-a", "given twice"},
		{"kill mars", "is no zone"},
		{"fill-disk control-plane", "is no zone"},
	} {
		out, err := k.try(append([]string{k.program, "--state", k.state, "fault"}, strings.Fields(c.args)...)...)
		require.ErrorContains(t, err, c.want, out)
	}
	_, err := k.try(k.program, "--name", clusterName, "--state", k.state, "up", "--zones", "x,y")
	require.ErrorContains(t, err, "made with another configuration")
}

// keepEvidence leaves logs and events where a person finds them.
func (k *cluster) keepEvidence() {
	dir, err := os.MkdirTemp("", "kubetest-")
	if err != nil {
		k.t.Log(err)
		return
	}
	for name, args := range map[string][]string{
		"events.txt": {"get", "events", "-A", "--sort-by=.lastTimestamp"},
		"all.txt":    {"get", "node,pod,pvc,pv,svc,endpointslice", "-A", "-o", "wide"},
	} {
		out, err := k.kubectlTry(args...)
		if err != nil {
			out += err.Error()
		}
		_ = os.WriteFile(filepath.Join(dir, name), []byte(out), 0o644)
	}
	_ = os.CopyFS(filepath.Join(dir, "logs"), os.DirFS(filepath.Join(k.state, "logs")))
	for _, n := range []string{"us-a", "us-b", "us-c"} {
		log := filepath.Join(k.state, "nodes", n, "var", "log")
		for _, f := range []string{"containerd.log", "kubelet.log", "kube-proxy.log", "coredns.log"} {
			if b, err := os.ReadFile(filepath.Join(log, f)); err == nil {
				_ = os.WriteFile(filepath.Join(dir, n+"-"+f), b, 0o644)
			}
		}
	}
	k.t.Logf("logs and events are in %s", dir)
}

// nothingLeft looks for namespaces, control groups, loop devices, processes and files of the cluster.
func (k *cluster) nothingLeft() {
	names, err := exec.Command("ip", "-j", "netns").Output()
	require.NoError(k.t, err)
	require.NotContains(k.t, string(names), clusterName)
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + clusterName + "-*")
	require.NoError(k.t, err)
	require.Empty(k.t, groups)
	groups, err = filepath.Glob("/sys/fs/cgroup/" + clusterName + "-*")
	require.NoError(k.t, err)
	require.Empty(k.t, groups)
	loops, err := exec.Command("losetup", "--json", "--list").Output()
	require.NoError(k.t, err)
	require.NotContains(k.t, string(loops), k.state)
	mounts, err := os.ReadFile("/proc/mounts")
	require.NoError(k.t, err)
	require.NotContains(k.t, string(mounts), k.state)
	require.NoDirExists(k.t, k.state)
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(k.t, err)
	for _, c := range commands {
		b, _ := os.ReadFile(c) // processes end while we look
		require.NotContains(k.t, string(b), k.state)
	}
}
