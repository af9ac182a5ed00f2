package local

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseControlGroups(t *testing.T) {
	v2, err := parseControlGroups("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n")
	require.NoError(t, err)
	require.True(t, v2.unified)

	v1 := "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n" +
		"cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n" +
		"cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n" +
		"cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n" +
		"cgroup /sys/fs/cgroup/devices cgroup rw,devices 0 0\n" +
		"cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n" +
		"cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,release_agent=/x,name=systemd 0 0\n" +
		"cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
	cg, err := parseControlGroups(v1)
	require.NoError(t, err)
	require.False(t, cg.unified)
	require.Len(t, cg.trees, 6)
	require.Equal(t, []string{"cpu", "cpuacct"}, cg.trees[0].options)
	require.Equal(t, []string{"none", "name=systemd"}, cg.trees[5].options)
	require.Contains(t, cg.dirs("x"), "/sys/fs/cgroup/freezer/x")

	_, err = parseControlGroups(strings.ReplaceAll(v1, "freezer", "frozen"))
	require.ErrorContains(t, err, `no control group tree "freezer"`)
}

func FuzzParseControlGroups(f *testing.F) {
	f.Add("cgroup /sys/fs/cgroup/memory cgroup rw,memory,name= 0 0\n")
	f.Fuzz(func(t *testing.T, s string) {
		if cg, err := parseControlGroups(s); err == nil && !cg.unified && !cg.has("freezer") {
			t.Fatal("accepted without a freezer")
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	f.Add(asJSON(state{Version: stateVersion, Config: Default()}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState("x", b)
		if err == nil && (s.Version != stateVersion || s.Config.Validate() != nil) {
			t.Fatal("accepted a state that is none")
		}
	})
}

func FuzzDecodeKubeconfig(f *testing.F) {
	f.Add([]byte(`{"clusters":[{}],"users":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := decodeKubeconfig("x", b); err == nil && a.http == nil {
			t.Fatal("no client")
		}
	})
}

func TestStateOfALaterVersionIsRefused(t *testing.T) {
	_, err := decodeState("f", asJSON(state{Version: stateVersion + 1, Config: Default()}))
	require.ErrorContains(t, err, "version 2, this program knows up to 1")
	_, err = readState(layout{t.TempDir()})
	require.ErrorIs(t, err, ErrNotUp)
}

// Every certificate is signed by the cluster's authority, says who it is for, and the kubeconfigs
// can be read by our own client.
func TestCredentials(t *testing.T) {
	c, dir := Default(), t.TempDir()
	require.NoError(t, c.credentials(dir, time.Now()))
	read := func(name string) *x509.Certificate {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		block, _ := pem.Decode(b)
		cert, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		return cert
	}
	roots := x509.NewCertPool()
	roots.AddCert(read("cp/ca.crt"))
	api := read("cp/apiserver.crt")
	for _, host := range []string{"127.0.0.1", controlIP, serviceAPI, "kubernetes.default.svc"} {
		_, err := api.Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
		require.NoError(t, err)
	}
	kubelet := read("node/us-b/kubelet.crt")
	require.Equal(t, "system:node:us-b", kubelet.Subject.CommonName)
	require.Equal(t, []string{"system:nodes"}, kubelet.Subject.Organization)
	require.NoError(t, kubelet.VerifyHostname("10.89.0.12"))
	for _, name := range []string{"kubeconfig", "node/us-c/volumes.kubeconfig", "cp/scheduler.kubeconfig"} {
		_, err := newAPIClient(filepath.Join(dir, name))
		require.NoError(t, err)
		st, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.EqualValues(t, 0o600, st.Mode().Perm())
	}
	before, err := os.ReadFile(filepath.Join(dir, "kubeconfig"))
	require.NoError(t, err)
	require.NoError(t, c.credentials(dir, time.Now()))
	after, err := os.ReadFile(filepath.Join(dir, "kubeconfig"))
	require.NoError(t, err)
	require.Equal(t, before, after, "a second start must keep the credentials of the first")
}

// A process is ours by number and start time together: a number alone may be a stranger's by now.
func TestProcessIdentity(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	require.NoError(t, cmd.Start())
	p, err := identify(cmd.Process.Pid)
	require.NoError(t, err)
	require.True(t, p.alive())
	before := process{PID: p.PID, Start: p.Start, Boot: "another boot"}
	require.False(t, before.alive())
	stranger := process{PID: p.PID, Start: p.Start + 1, Boot: p.Boot}
	require.False(t, stranger.alive())
	require.NoError(t, stranger.kill(t.Context()))
	require.True(t, p.alive(), "a stranger with our number was killed")
	require.NoError(t, p.kill(t.Context()))
	require.False(t, p.alive())
	require.Error(t, cmd.Wait())
	require.NoError(t, process{}.kill(t.Context()))
}

func TestRotatingLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	l := &rotatingLog{path: path, max: 100}
	for i := range 30 {
		_, err := fmt.Fprintf(l, "line %02d ..........\n", i)
		require.NoError(t, err)
	}
	for _, f := range []string{path, path + ".old"} {
		st, err := os.Stat(f)
		require.NoError(t, err)
		require.LessOrEqual(t, st.Size(), int64(100))
	}
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(b), "line 29")
}

func TestBuilder(t *testing.T) {
	var said bytes.Buffer
	b := &Builder{ModulesDir: "modules", CacheDir: t.TempDir(), Progress: &said}
	_, err := b.Cached(t.Context(), "pause")
	require.ErrorContains(t, err, "pause is not built yet")
	dir, err := b.Build(t.Context(), "pause")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "pause"))
	require.Contains(t, said.String(), "pause")
	said.Reset()
	again, err := b.Build(t.Context(), "pause")
	require.NoError(t, err)
	require.Equal(t, dir, again)
	require.Empty(t, said.String(), "what is there was built again")
	_, err = b.Build(t.Context(), "x")
	require.ErrorContains(t, err, `no toolset "x"; there are kubernetes, coredns, pause, pulumi, pulumi-language-go`)
	b.ModulesDir = t.TempDir()
	_, err = b.Build(t.Context(), "pause")
	require.ErrorContains(t, err, "run this from Atoll's source tree")
}

// The folder of what is built depends on every version.
func TestBuilderFolder(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "pause"), os.DirFS("modules/pause")))
	b := &Builder{ModulesDir: dir, CacheDir: "/c", Progress: io.Discard}
	one, err := b.folder(t.Context(), toolset{name: "pause"})
	require.NoError(t, err)
	f, err := os.OpenFile(filepath.Join(dir, "pause", "go.mod"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("\n")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	two, err := b.folder(t.Context(), toolset{name: "pause"})
	require.NoError(t, err)
	require.NotEqual(t, one, two)
}

// What the programs say of themselves comes from the versions that are pinned.
func TestToolsetsHaveTheirVersions(t *testing.T) {
	b := &Builder{ModulesDir: "modules"}
	for _, ts := range toolsets {
		flags, err := b.ldflags(ts)
		require.NoError(t, err, ts.name)
		if ts.versionOf != "" {
			require.Regexp(t, `ersion=v\d+\.\d+\.\d+`, flags)
		}
		require.FileExists(t, filepath.Join("modules", ts.name, "go.mod"))
	}
}

func TestNeedDisk(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, needDisk(filepath.Join(dir, "not", "there"), 1, "a test", "free some"))
	err := needDisk(dir, 1<<40, "a test", "free some")
	require.ErrorContains(t, err, "MiB free, a test needs 1099511627776 MiB; free some")
}

func echoServer(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b, _ := io.ReadAll(conn)
				_, _ = conn.Write(b)
			}()
		}
	}()
	return ln.Addr().String()
}

func closedPort(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

func startRelay(t *testing.T, to ...string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	r := &relay{log: slog.New(slog.DiscardHandler), slots: make(chan struct{}, 2)}
	go r.serve(context.WithoutCancel(t.Context()), ln, &targets{name: "t", addrs: to})
	return ln.Addr().String()
}

// Whichever node's turn it is, a connection ends up at one that answers; the end of one direction is
// passed on while the other stays open.
func TestRelayPassesOverDeadNodes(t *testing.T) {
	at := startRelay(t, closedPort(t), echoServer(t), closedPort(t))
	for range 6 {
		conn, err := net.Dial("tcp", at)
		require.NoError(t, err)
		_, err = conn.Write([]byte("hello"))
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		b, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, "hello", string(b))
		conn.Close()
	}
}

func TestRelayWithoutAnybodyEndsConnections(t *testing.T) {
	at := startRelay(t, closedPort(t))
	conn, err := net.Dial("tcp", at)
	if err != nil {
		return // it was ended before connecting had returned
	}
	defer conn.Close()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

// An address that was late is tried last for a while; a zone's own addresses come first.
func TestRelayOrder(t *testing.T) {
	now := time.Now()
	r := &targets{addrs: []string{"a", "b", "c"}}
	require.Equal(t, []string{"a", "b", "c"}, r.order(now))
	require.Equal(t, []string{"b", "c", "a"}, r.order(now))
	r.answered("c", false, now)
	require.Equal(t, []string{"a", "b", "c"}, r.order(now))
	require.Equal(t, []string{"a", "b", "c"}, r.order(now))
	require.Equal(t, []string{"b", "c", "a"}, r.order(now.Add(slackMemory)))
	r.answered("c", true, now)
	require.Equal(t, []string{"c", "a", "b"}, r.order(now))

	z := &targets{addrs: []string{"c", "a", "b"}, near: 1}
	require.Equal(t, []string{"c", "a", "b"}, z.order(now))
	require.Equal(t, []string{"c", "b", "a"}, z.order(now))
	z.answered("c", false, now)
	require.Equal(t, "c", z.order(now)[2])
}

func TestRelayRefusesTooMany(t *testing.T) {
	at := startRelay(t, echoServer(t))
	var open []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", at)
		require.NoError(t, err)
		open = append(open, conn)
		defer conn.Close()
	}
	third, err := net.Dial("tcp", at)
	require.NoError(t, err)
	defer third.Close()
	_, err = third.Read(make([]byte, 1))
	require.Error(t, err, "a third connection was carried, with room for two")
	require.NoError(t, open[0].(*net.TCPConn).CloseWrite())
	_, err = io.ReadAll(open[0])
	require.NoError(t, err)
}

func TestWaitForGivesUpOnWhatIsHopeless(t *testing.T) {
	n := 0
	err := waitFor(t.Context(), time.Millisecond, func() error {
		if n++; n < 3 {
			return fmt.Errorf("not yet")
		}
		return fmt.Errorf("machine: %w", hopeless{fmt.Errorf("ended")})
	})
	require.EqualError(t, err, "machine: ended")
	require.Equal(t, 3, n)
}

func TestHelpersOfErrors(t *testing.T) {
	require.Equal(t, "… bbbb", tail("aaaa\nbbbb", 6))
	require.Equal(t, "short", tail(" short\n", 100))
}
