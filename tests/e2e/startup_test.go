package e2e

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestUsage gives wrong command lines: exit code 2, and words that say what to write.
func TestUsage(t *testing.T) {
	bin, dir := Binary(t), tempDir(t)
	start := func(args ...string) []string {
		return append([]string{"start", "--store", filepath.Join(dir, "s"), "--join", "127.0.0.1:1", "--insecure"}, args...)
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"strat"}, 2, `unknown command "strat"`},
		{[]string{"start", "--stor", "x"}, 2, "unknown flag: --stor"},
		{[]string{"start"}, 2, "--locality"},
		{start("--locality", "zone"), 2, `--locality "zone": "zone" is not key=value; write region=R,zone=Z`},
		{start("--locality", "region=eu"), 2, "the zone is missing"},
		{start("--locality", "region=eu,zone="), 2, "is not key=value"},
		{start("--locality", "rack=4,zone=a"), 2, `unknown tier "rack"; the tiers are region and zone`},
		{start("--locality", "zone=a,zone=b"), 2, "zone is given twice"},
		{[]string{"start", "--locality", "zone=a", "--store", dir, "--insecure"}, 2, "--join is empty"},
		{[]string{"start", "--locality", "zone=a", "--join", "127.0.0.1:1", "--insecure"}, 2, "--store is empty"},
		{[]string{"start", "--locality", "zone=a", "--store", dir, "--join", "127.0.0.1:1"}, 2, "exactly one of --certs and --insecure"},
		{start("--locality", "zone=a", "--join", "nowhere"), 2, `--join: "nowhere" is not host:port`},
		{start("--locality", "zone=a", "--listen", "26357"), 2, `--listen "26357" is not host:port`},
		{start("--locality", "zone=a", "--max-offset", "1h"), 2, "--max-offset is 1h0m0s"},
		{start("--locality", "zone=a", "--support", "1ms"), 2, "--support is 1ms"},
		{start("--locality", "zone=a", "--log-level", "loud"), 2, `--log-level "loud"`},
		{start("--locality", "zone=a", "extra"), 2, `unexpected argument "extra"`},
		{[]string{"start", "--locality", "zone=a", "--store", dir, "--join", "127.0.0.1:1", "--certs", filepath.Join(dir, "none")}, 1, "--certs " + dir},
		{[]string{"init", "--nodes", "127.0.0.1:1", "--insecure"}, 2, "--cluster-id"},
		{[]string{"init", "--cluster-id", "x", "--insecure"}, 2, "is not a UUID"},
		{[]string{"init", "--cluster-id", "6f6fbd5e-3d1c-4d5f-9a5d-6f2f2b8f6a10", "--nodes", "127.0.0.1:1", "--insecure", "--timeout", "1s"}, 1, "127.0.0.1:1"},
		{[]string{"demo", "--store", dir, "--zones", "a,a"}, 2, `--zones: "a" is named twice`},
		{[]string{"demo", "--store", dir, "--sql-port", "70000"}, 2, "--sql-port: 70000"},
		{[]string{"demo", "--store", dir, "--sql-port", "20000", "--http-port", "20001"}, 2, "overlap"},
		{[]string{"demo", "--store", dir, "--nodes-per-zone", "100"}, 2, "--nodes-per-zone"},
		{[]string{"demo", "--store", filepath.Join(dir, strings.Repeat("long", 30)), "--sql-port", fmt.Sprint(freePorts(t, 3))}, 1, "name a folder with a shorter path"},
		{[]string{"zones", "explode", "us-a"}, 2, `unexpected argument "explode"`},
		{[]string{"zones", "kill"}, 2, "takes 1 argument"},
		{[]string{"zones", "kill", "us-a", "--store", dir}, 1, "no demo runs in"},
		{[]string{"zones", "--store", dir, "-o", "yaml"}, 2, `-o "yaml": use text or json`},
		{[]string{"zones", "--store", filepath.Join(dir, "none")}, 1, "there is no demo in"},
		{[]string{"node", "drain", "n1"}, 2, `"n1" is not a node ID`},
		{[]string{"sql", "--url", "postgresql://127.0.0.1:1/postgres?connect_timeout=2", "-c", "SELECT 1"}, 1, "no node answers"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			p := spawn(t, bin, tc.args...)
			require.Equal(t, tc.code, p.exit(t, 20*time.Second), p.out.String())
			require.Contains(t, p.out.String(), tc.want)
			require.NotContains(t, p.out.String(), "goroutine ")
		})
	}
	for _, args := range [][]string{{"--help"}, {"start", "--help"}, {"demo", "--help"}, {"--version"}} {
		p := spawn(t, bin, args...)
		require.Zero(t, p.exit(t, 20*time.Second))
		require.Contains(t, p.out.String(), "atoll")
	}
}

// startNode starts one node that waits to be founded or admitted.
func startNode(t *testing.T, store string, port int, join string) *process {
	t.Helper()
	return spawn(t, Binary(t), "start", "--store", store, "--locality", "region=r,zone=a", "--listen", loopback(port), "--sql-listen", loopback(port+1),
		"--http-listen", loopback(port+2), "--join", join, "--insecure")
}

// readyz asks a port; "" when nobody answers.
func readyz(port int) (code int, body string) {
	c := &Cluster{httpPort: port}
	code, body, err := c.Get(0, "/readyz")
	if err != nil {
		return 0, ""
	}
	return code, body
}

// TestJoinUnanswered starts a node whose --join leads nowhere: it waits, and says what for.
func TestJoinUnanswered(t *testing.T) {
	port, nobody := freePorts(t, 3), freePorts(t, 1)
	p := startNode(t, filepath.Join(tempDir(t), "data"), port, loopback(nobody))
	eventually(t, 30*time.Second, "readyz says what the node waits for", func() string {
		code, body := readyz(port + 2)
		if code != http.StatusServiceUnavailable || !strings.Contains(body, "--join") {
			return fmt.Sprintf("%d %s\n%s", code, body, tail(p.out.String(), 5))
		}
		return ""
	})
	code, body, err := (&Cluster{httpPort: port + 2}).Get(0, "/healthz")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, code, body)
	require.False(t, p.done(), p.out.String())
	require.True(t, p.end(10*time.Second), "a node that waits does not stop on SIGTERM")
	require.Zero(t, p.cmd.ProcessState.ExitCode(), p.out.String())
}

// TestStoreInUse opens a store twice: the second one is refused in words.
func TestStoreInUse(t *testing.T) {
	store := filepath.Join(tempDir(t), "data")
	port := freePorts(t, 6)
	first := startNode(t, store, port, loopback(port))
	eventually(t, 30*time.Second, "the first node has opened the store and waits", func() string {
		if out := first.out.String(); !strings.Contains(out, "waiting to be founded") {
			return "it prints: " + out
		}
		return ""
	})
	second := startNode(t, store, port+3, loopback(port))
	require.Equal(t, 1, second.exit(t, 20*time.Second), second.out.String())
	require.Contains(t, second.out.String(), store)
	require.Contains(t, second.out.String(), "in use")
	require.False(t, first.done(), "the first node ended: %s", first.out.String())
}

// TestTwoDemos opens a demo's store a second time, and takes a port away.
func TestTwoDemos(t *testing.T) {
	c := StartCluster(t)
	other := *c
	other.sqlPort = freePorts(t, 9)
	other.httpPort, other.peerPort = other.sqlPort+3, other.sqlPort+6
	p := spawn(t, c.bin, other.demoArgs()...)
	require.Equal(t, 1, p.exit(t, 20*time.Second), p.out.String())
	require.Contains(t, p.out.String(), "is in use by another demo")
	require.EqualValues(t, 1, c.Int(t, 0, "SELECT 1"), "the first demo goes on")

	other.Store = tempDir(t)
	l, err := net.Listen("tcp", loopback(other.sqlPort+1))
	require.NoError(t, err)
	defer l.Close()
	p = spawn(t, c.bin, other.demoArgs()...)
	require.Equal(t, 1, p.exit(t, 30*time.Second), p.out.String())
	require.Contains(t, p.out.String(), loopback(other.sqlPort+1)+" is in use")

	// Another layout than the store's is refused; the same with other ports is opened.
	c.Exec(t, 0, "CREATE TABLE kept (id int PRIMARY KEY)", "INSERT INTO kept VALUES (7)")
	c.Down(t)
	args := append(c.demoArgs(), "--zones", "x,y,z")
	p = spawn(t, c.bin, args...)
	require.Equal(t, 1, p.exit(t, 20*time.Second), p.out.String())
	require.Contains(t, p.out.String(), "holds a cluster with --zones us-a,us-b,us-c")
	require.NoError(t, l.Close())
	c.sqlPort, c.httpPort, c.peerPort = other.sqlPort, other.httpPort, other.peerPort
	c.Up(t)
	require.EqualValues(t, 7, c.Int(t, 1, "SELECT id FROM kept"))
	t.Run("heal and kill what is not there", func(t *testing.T) {
		p := spawn(t, c.bin, "zones", "kill", "mars", "--store", c.Store)
		require.Equal(t, 1, p.exit(t, 20*time.Second))
		require.Contains(t, p.out.String(), `there is no zone "mars": the zones are us-a, us-b, us-c`)
		c.Zone(t, "heal", "us-a") // healthy already: harmless
	})
}
