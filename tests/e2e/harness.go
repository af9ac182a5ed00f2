// Package e2e tests what a user has: the binary, in real processes, through SQL, HTTP, the
// command line, psql, pgbench and drivers. Every wait is bounded and polls a condition; only
// processes that a test started are ended.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Bounds of waits. The machine may be busy with other things: they say "hangs", not "slow".
const (
	startTimeout = 90 * time.Second
	stopTimeout  = 45 * time.Second
	// orderlyStop is less than what the demo waits for a node before it kills it.
	orderlyStop = 12 * time.Second
	toolTimeout = 2 * time.Minute
	pollEvery   = 20 * time.Millisecond
)

var built struct {
	once sync.Once
	path string
	err  error
}

// Binary returns the atoll binary: $ATOLL_BIN, or one built from this tree, once.
func Binary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if p := os.Getenv("ATOLL_BIN"); p != "" {
			built.path, built.err = filepath.Abs(p)
			return
		}
		root, err := filepath.Abs("../..")
		if err != nil {
			built.err = err
			return
		}
		built.path = filepath.Join(root, "bin", "atoll")
		cmd := exec.Command("go", "build", "-trimpath", "-o", built.path, "./node/cmd/atoll")
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// Tool returns the path of a program that a test needs, or fails with the package that has it.
func Tool(t testing.TB, name, pkg string) string {
	t.Helper()
	// Debian's python may stand behind another one that has no drivers.
	for _, dir := range []string{"/usr/bin", "/usr/lib/postgresql/15/bin"} {
		if p := filepath.Join(dir, name); executable(p) {
			return p
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: install package %s (.ci/deps test does)", name, pkg)
	}
	return p
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode()&0o111 != 0 && !st.IsDir()
}

// output is a buffer that a process writes and a test reads.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// process is a program that a test started.
type process struct {
	cmd    *exec.Cmd
	out    output
	exited chan struct{}
}

// spawn starts a program. It ends with the test at the latest, and with this process.
func spawn(t testing.TB, path string, args ...string) *process {
	t.Helper()
	return spawnEnv(t, nil, path, args...)
}

// spawnEnv is spawn with more environment variables, each NAME=value.
func spawnEnv(t testing.TB, env []string, path string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(path, args...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.Env = append(os.Environ(), "PGCONNECT_TIMEOUT=10", "LC_ALL=C", "LANG=C", "PGTZ=UTC")
	p.cmd.Env = append(p.cmd.Env, env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() { p.end(stopTimeout) })
	return p
}

// done reports whether the process has ended.
func (p *process) done() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// end stops the process: SIGTERM, and SIGKILL after a while. It reports whether the first was enough.
func (p *process) end(grace time.Duration) bool {
	if p.done() {
		return true
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return true
	case <-time.After(grace):
		_ = p.cmd.Process.Kill()
		<-p.exited
		return false
	}
}

// exit waits for the process and returns its exit code.
func (p *process) exit(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(within):
		t.Fatalf("%v still runs after %s:\n%s", p.cmd.Args, within, tail(p.out.String(), 20))
	}
	return p.cmd.ProcessState.ExitCode()
}

// run runs a program to its end, with input on stdin, and returns what it printed.
func run(t testing.TB, stdin, path string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "PGCONNECT_TIMEOUT=10", "LC_ALL=C", "LANG=C", "PGTZ=UTC")
	cmd.Stdin = strings.NewReader(stdin)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %q hangs: ended after %s\nstdout: %s\nstderr: %s", path, args, toolTimeout, tail(o.String(), 20), tail(e.String(), 20))
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", path, err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// eventually polls cond until it returns "", and fails with its last answer when time is up.
func eventually(t testing.TB, within time.Duration, what string, cond func() (missing string)) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		missing := cond()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %s", what, within, missing)
		}
		time.Sleep(pollEvery)
	}
}

// tail returns the last lines of a text.
func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(all) > lines {
		all = append([]string{fmt.Sprintf("... %d lines before", len(all)-lines)}, all[len(all)-lines:]...)
	}
	return strings.Join(all, "\n")
}

// freePorts returns the first of n ports in a row that nobody listens on, below the range
// that the kernel hands out by itself.
func freePorts(t testing.TB, n int) int {
	t.Helper()
	for range 200 {
		base := 15000 + rand.IntN(16000)
		free := true
		for i := 0; free && i < n; i++ {
			l, err := net.Listen("tcp", loopback(base+i))
			if free = err == nil; free {
				_ = l.Close()
			}
		}
		if free {
			return base
		}
	}
	t.Fatalf("no %d free ports in a row on 127.0.0.1", n)
	return 0
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// tempDir is like t.TempDir with a short path: a Unix socket has to fit in.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "atoll-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("ATOLL_E2E_KEEP") != "" {
			t.Logf("kept: %s", dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	return dir
}

// Cluster is `atoll demo` in processes of its own.
type Cluster struct {
	Store                       string
	Zones                       []string
	perZone                     int
	sqlPort, httpPort, peerPort int
	nodeArgs                    []string
	bin                         string
	demo                        *process
}

// Option changes how a Cluster is started.
type Option func(*Cluster)

// WithNodeArgs gives arguments to every node's `atoll start`.
func WithNodeArgs(args ...string) Option {
	return func(c *Cluster) { c.nodeArgs = append(c.nodeArgs, args...) }
}

// StartCluster starts a demo with an empty store and waits until it is up. It is stopped, and
// after a failure its nodes' logs are shown, when the test ends.
func StartCluster(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	c := NewCluster(t, opts...)
	c.Up(t)
	return c
}

// NewCluster prepares a demo that is not started yet.
func NewCluster(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	c := &Cluster{Store: tempDir(t), Zones: []string{"us-a", "us-b", "us-c"}, perZone: 1, bin: Binary(t)}
	for _, o := range opts {
		o(c)
	}
	n := c.Nodes()
	c.sqlPort = freePorts(t, 3*n)
	c.httpPort, c.peerPort = c.sqlPort+n, c.sqlPort+2*n
	t.Cleanup(func() {
		if t.Failed() {
			c.showLogs(t)
		}
	})
	return c
}

// Nodes is how many nodes there are.
func (c *Cluster) Nodes() int { return len(c.Zones) * c.perZone }

func (c *Cluster) demoArgs() []string {
	args := []string{
		"demo", "--store", c.Store, "--sql-port", strconv.Itoa(c.sqlPort), "--http-port", strconv.Itoa(c.httpPort),
		"--peer-port", strconv.Itoa(c.peerPort), "--nodes-per-zone", strconv.Itoa(c.perZone), "--ready-timeout", startTimeout.String(),
	}
	for _, a := range c.nodeArgs {
		args = append(args, "--node-arg", a)
	}
	return args
}

// Up starts the demo and waits for its welcome.
func (c *Cluster) Up(t testing.TB) {
	t.Helper()
	c.demo = spawn(t, c.bin, c.demoArgs()...)
	eventually(t, startTimeout, "the demo is up", func() string {
		out := c.demo.out.String()
		switch {
		case strings.Contains(out, "Atoll is up"):
			return ""
		case c.demo.done():
			t.Fatalf("the demo ended by itself:\n%s", out)
		}
		return "it prints: " + tail(out, 5)
	})
}

// Down stops the demo as Ctrl-C does: every node ends in order.
func (c *Cluster) Down(t testing.TB) {
	t.Helper()
	if !c.demo.end(orderlyStop) {
		t.Errorf("the demo did not stop within %s of SIGTERM:\n%s", orderlyStop, tail(c.demo.out.String(), 10))
	}
}

// SIGKILLAll kills the demo and all its nodes at once: a power cut for the whole machine.
func (c *Cluster) SIGKILLAll(t testing.TB) {
	t.Helper()
	parent := c.demo.cmd.Process.Pid
	_ = syscall.Kill(parent, syscall.SIGSTOP) // so that it restarts nobody meanwhile
	pids := children(parent)
	if len(pids) != c.Nodes() {
		t.Errorf("the demo has %d processes, want %d nodes", len(pids), c.Nodes())
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = syscall.Kill(parent, syscall.SIGKILL)
	<-c.demo.exited
	eventually(t, 10*time.Second, "killed nodes are gone", func() string {
		for _, pid := range pids {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !bytes.Contains(b, []byte(") Z ")) {
				return fmt.Sprintf("process %d lives", pid)
			}
		}
		return ""
	})
}

// children lists a process's direct children.
func children(parent int) []int {
	var out []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// pid (name) state ppid ...; the name may hold anything but ends at the last parenthesis.
		_, rest, ok := strings.Cut(string(b[bytes.LastIndexByte(b, ')'):]), ") ")
		f := strings.Fields(rest)
		if !ok || len(f) < 2 || f[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

func (c *Cluster) logPath(node int) string {
	return filepath.Join(c.Store, fmt.Sprintf("n%d", node), "node.log")
}

func (c *Cluster) showLogs(t testing.TB) {
	if c.demo != nil {
		t.Logf("demo:\n%s", tail(c.demo.out.String(), 30))
	}
	for i := range c.Nodes() {
		b, err := os.ReadFile(c.logPath(i))
		if err != nil {
			continue
		}
		t.Logf("node %d (%s):\n%s", i, c.Zones[i%len(c.Zones)], tail(string(b), 30))
	}
}

// SQLPort is the port of the node with this index (from 0) for SQL clients.
func (c *Cluster) SQLPort(node int) string { return strconv.Itoa(c.sqlPort + node) }

// DSN is the connection string of a node.
func (c *Cluster) DSN(node int) string {
	return "postgresql://postgres@" + loopback(c.sqlPort+node) + "/postgres?sslmode=disable&connect_timeout=10"
}

// URL is an address on a node's HTTP port.
func (c *Cluster) URL(node int, path string) string {
	return "http://" + loopback(c.httpPort+node) + path
}

// Connect opens a connection to a node; it is closed with the test.
func (c *Cluster) Connect(t testing.TB, node int) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.DSN(node))
	if err != nil {
		t.Fatalf("connect to node %d: %v", node, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

// Exec runs statements through a node, each by itself, and fails the test if one fails.
func (c *Cluster) Exec(t testing.TB, node int, statements ...string) {
	t.Helper()
	conn := c.Connect(t, node)
	for _, s := range statements {
		ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
		_, err := conn.Exec(ctx, s)
		cancel()
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// Int reads one number through a node.
func (c *Cluster) Int(t testing.TB, node int, query string, args ...any) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	var v int64
	if err := c.Connect(t, node).QueryRow(ctx, query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// PSQL runs psql on a node.
func (c *Cluster) PSQL(t testing.TB, node int, script string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	base := []string{"-X", "-h", "127.0.0.1", "-p", c.SQLPort(node), "-U", "postgres", "-d", "postgres"}
	return run(t, script, Tool(t, "psql", "postgresql-client-15"), append(base, args...)...)
}

// Atoll runs a command of the atoll binary against this cluster and expects success.
func (c *Cluster) Atoll(t testing.TB, args ...string) string {
	t.Helper()
	out, errOut, code := run(t, "", c.bin, append(args, "--store", c.Store)...)
	if code != 0 {
		t.Fatalf("atoll %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errOut)
	}
	return out
}

// pgbenchArgs are the arguments that lead pgbench to a node.
func (c *Cluster) pgbenchArgs(node int, args ...string) []string {
	return append(append([]string{"-h", "127.0.0.1", "-p", c.SQLPort(node), "-U", "postgres"}, args...), "postgres")
}

// PgbenchInit makes pgbench's tables.
func (c *Cluster) PgbenchInit(t testing.TB, node, scale int) {
	t.Helper()
	out, errOut, code := run(t, "", Tool(t, "pgbench", "postgresql-15"), c.pgbenchArgs(node, "-i", "-q", "-s", strconv.Itoa(scale))...)
	if code != 0 {
		t.Fatalf("pgbench -i -s %d: exit %d\n%s%s", scale, code, out, errOut)
	}
}
