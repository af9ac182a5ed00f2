package terratest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gruntwork-io/terratest/modules/k8s"
	"github.com/gruntwork-io/terratest/modules/logger"
	"github.com/gruntwork-io/terratest/modules/retry"
	"github.com/gruntwork-io/terratest/modules/shell"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const root = "../../.."

// zone is one of the stack's output "zones".
type zone struct {
	Name, Region, Role, StatefulSet string
	Nodes                           int
}

// outputs are what the kit reads of pulumi stack output.
type outputs struct {
	Name, Namespace, CA, Connection, OnDestroy, ClusterID string
	ConnectionZones                                       map[string]string
	Zones                                                 []zone
}

type stack struct {
	t     *testing.T
	name  string
	local bool
	out   outputs
	kube  *k8s.KubectlOptions
}

// openStack finds the stack of $STACK, by default local.
func openStack(t *testing.T) *stack {
	s := &stack{t: t, name: os.Getenv("STACK")}
	if s.name == "" {
		s.name = "local"
	}
	s.local = s.name == "local"
	if s.local && os.Geteuid() != 0 {
		t.Skip("not root: the local platform makes namespaces and mounts; STACK=name tests another stack")
	}
	return s
}

// pulumi runs the CLI on the stack. What it prints may hold passwords: it goes to the test's log only with show.
func (s *stack) pulumi(show bool, args ...string) string {
	s.t.Helper()
	cmd := s.pulumiCommand(args)
	if show {
		cmd.Logger = logger.Default
	}
	out, err := shell.RunCommandAndGetStdOutE(s.t, cmd)
	said := ""
	if err != nil && args[0] == "up" { // what it prints holds no secrets
		said = out
	}
	require.NoError(s.t, err, "pulumi %s: %s", args, said)
	return out
}

// pulumiE is pulumi for commands that may fail.
func (s *stack) pulumiE(args ...string) (string, error) {
	return shell.RunCommandAndGetStdOutE(s.t, s.pulumiCommand(args))
}

func (s *stack) pulumiCommand(args []string) shell.Command {
	cmd := shell.Command{Command: "pulumi", Args: append(args, "--stack", s.name), WorkingDir: root, Logger: logger.Discard}
	if s.local {
		cmd.Command, cmd.Args = "infra/local/up.sh", append([]string{"pulumi"}, args...)
	}
	return cmd
}

// deploy brings the stack up, or finds it up already.
func (s *stack) deploy() {
	if s.local {
		out, err := shell.RunCommandAndGetStdOutE(s.t, shell.Command{Command: "make", Args: []string{"up"}, WorkingDir: root, Logger: logger.Discard})
		if err != nil { // what a successful one prints ends with a password
			s.t.Fatalf("make up: %v\n%s", err, out)
		}
		return
	}
	s.pulumi(true, "up", "--yes", "--skip-preview")
}

// config is a copy of the stack's configuration with other values, key by key: the stack's own file
// stays as it is.
func (s *stack) config(keysAndValues ...string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "stacks", "Pulumi."+s.name+".yaml"))
	require.NoError(s.t, err)
	file := filepath.Join(s.t.TempDir(), "Pulumi."+s.name+".yaml")
	require.NoError(s.t, os.WriteFile(file, text, 0o600))
	s.set(file, keysAndValues...)
	return file
}

// set changes values of a configuration file.
func (s *stack) set(file string, keysAndValues ...string) {
	s.t.Helper()
	for i := 0; i < len(keysAndValues); i += 2 {
		s.pulumi(false, "config", "set", "--config-file", file, "--path", keysAndValues[i], keysAndValues[i+1])
	}
}

// read takes in the stack's outputs and where its Kubernetes is.
func (s *stack) read() {
	s.out = outputs{} // a zone that left is not in it any more
	require.NoError(s.t, json.Unmarshal([]byte(s.pulumi(false, "stack", "output", "--json", "--show-secrets")), &s.out))
	require.NotEmpty(s.t, s.out.Zones, "the stack has no output zones; is it up?")
	kubeconfig := os.Getenv("KUBECONFIG")
	if s.local {
		home, err := os.UserHomeDir()
		require.NoError(s.t, err)
		kubeconfig = filepath.Join(home, ".local/state/atoll/atoll/creds/kubeconfig")
		env := shell.RunCommandAndGetStdOut(s.t, shell.Command{Command: "bin/localkube", Args: []string{"env"}, WorkingDir: root, Logger: logger.Discard})
		_, after, ok := strings.Cut(env, "PATH='")
		require.True(s.t, ok, env)
		programs, _, _ := strings.Cut(after, "'")
		s.t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	}
	s.kube = k8s.NewKubectlOptions(os.Getenv("KUBECONTEXT"), kubeconfig, s.out.Namespace)
	s.kube.Logger = logger.Discard
	ca := filepath.Join(s.t.TempDir(), "ca.crt")
	require.NoError(s.t, os.WriteFile(ca, []byte(s.out.CA), 0o600))
	s.out.Connection = withCA(s.out.Connection, ca)
	for z, url := range s.out.ConnectionZones {
		s.out.ConnectionZones[z] = withCA(url, ca)
	}
}

func withCA(url, file string) string {
	return strings.Replace(url, "sslrootcert=atoll-ca.crt", "sslrootcert="+file, 1)
}

// withoutFile is a connection string without the place of this test's copy of the CA.
func withoutFile(url string) string {
	before, after, ok := strings.Cut(url, "sslrootcert=")
	if !ok {
		return url
	}
	_, rest, _ := strings.Cut(after, "&")
	return before + rest
}

// others are the connections that do not lead into these zones.
func (s *stack) others(without ...string) map[string]string {
	m := map[string]string{}
	for z, url := range s.out.ConnectionZones {
		if !slices.Contains(without, z) {
			m[z] = url
		}
	}
	return m
}

// query returns the rows of a statement as text, through any zone.
func (s *stack) query(sql string) (rows [][]string, err error) {
	for _, url := range s.out.ConnectionZones {
		if rows, err = queryOne(url, sql); err == nil {
			return rows, nil
		}
	}
	return nil, err
}

func queryOne(url, sql string) ([][]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer c.Close(ctx)
	rows, err := c.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]string, error) {
		values, err := row.Values()
		out := make([]string, len(values))
		for i, v := range values {
			out[i] = fmt.Sprint(v)
		}
		return out, err
	})
}

// whole waits until every node of every zone is live, no range has a problem, and every zone's
// connection leads into it: Kubernetes lets clients in again only once it has seen the pods ready.
func (s *stack) whole() time.Duration {
	s.t.Helper()
	began := time.Now()
	_, err := retry.DoWithRetryE(s.t, "full replication", 300, time.Second, func() (string, error) {
		rows, err := s.query("SELECT zone, live_nodes, status FROM atoll.zones ORDER BY zone")
		if err != nil {
			return "", err
		}
		for _, z := range s.out.Zones {
			want := fmt.Sprint([]string{z.Name, fmt.Sprint(z.Nodes), "healthy"})
			if !strings.Contains(fmt.Sprint(rows), want) {
				return "", fmt.Errorf("zones are %v, not all of %s", rows, want)
			}
		}
		if rows, err = s.query("SELECT range_id, problem FROM atoll.ranges WHERE problem <> '' LIMIT 3"); err == nil && len(rows) > 0 {
			err = fmt.Errorf("ranges have problems: %v", rows)
		}
		for z, url := range s.out.ConnectionZones {
			at, one := queryOne(url, "SELECT zone FROM atoll.nodes WHERE is_self")
			if want := [][]string{{z}}; one == nil && fmt.Sprint(at) != fmt.Sprint(want) {
				one = fmt.Errorf("a node of %v answers", at)
			}
			if one != nil && err == nil {
				err = fmt.Errorf("through zone %s: %w", z, one)
			}
		}
		return "", err
	})
	require.NoError(s.t, err)
	return time.Since(began).Round(100 * time.Millisecond)
}

// artifacts leaves what one needs to understand a failure.
func (s *stack) artifacts(t *testing.T) {
	if !t.Failed() || s.kube == nil {
		return
	}
	dir := os.Getenv("ARTIFACTS")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "atoll-zone-test")
	}
	dir = filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Log(err)
		return
	}
	keep := func(name string, args ...string) {
		out, err := k8s.RunKubectlAndGetOutputE(t, s.kube, args...)
		if err != nil {
			out += "\n" + err.Error()
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(out), 0o600); err != nil {
			t.Log(err)
		}
	}
	keep("events.txt", "get", "events", "--sort-by=.lastTimestamp", "-A")
	keep("objects.txt", "get", "pods,pvc,pv,statefulsets,jobs,nodes", "-o", "wide")
	if pods, err := k8s.ListPodsE(t, s.kube, metav1.ListOptions{}); err == nil {
		for _, p := range pods {
			keep("log-"+p.Name+".txt", "logs", "--tail=5000", p.Name)
		}
	}
	t.Logf("events, objects and logs are in %s", dir)
}
