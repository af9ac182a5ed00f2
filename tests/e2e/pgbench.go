package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// benchRun is a pgbench that runs in the background.
type benchRun struct {
	*process
	seconds int
}

// benchResult is what pgbench prints at its end.
type benchResult struct {
	Processed, Failed, Retried int
	Output                     string
}

// StartPgbench runs pgbench for a number of seconds through a node.
func (c *Cluster) StartPgbench(t testing.TB, node, seconds int, args ...string) *benchRun {
	t.Helper()
	all := append([]string{"-n", "-T", strconv.Itoa(seconds)}, args...)
	return &benchRun{spawn(t, Tool(t, "pgbench", "postgresql-15"), c.pgbenchArgs(node, all...)...), seconds}
}

var (
	benchProcessed = regexp.MustCompile(`(?m)^number of transactions actually processed: (\d+)`)
	benchFailed    = regexp.MustCompile(`(?m)^number of failed transactions: (\d+)`)
	benchRetried   = regexp.MustCompile(`(?m)^number of transactions retried: (\d+)`)
)

// Result waits for pgbench's end. No client may have aborted.
func (b *benchRun) Result(t testing.TB) benchResult {
	t.Helper()
	code := b.exit(t, time.Duration(b.seconds)*time.Second+time.Minute)
	r := benchResult{Output: b.out.String()}
	number := func(re *regexp.Regexp) int {
		m := re.FindStringSubmatch(r.Output)
		if m == nil {
			return 0
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatalf("pgbench printed %q", m[0])
		}
		return n
	}
	if code != 0 || strings.Contains(r.Output, "aborted") || !benchFailed.MatchString(r.Output) {
		t.Fatalf("%v: exit %d, a client aborted or could not start\n%s", b.cmd.Args[1:], code, tail(r.Output, 40))
	}
	r.Processed, r.Failed, r.Retried = number(benchProcessed), number(benchFailed), number(benchRetried)
	return r
}

// Pgbench runs pgbench to its end and expects that it gets something done.
func (c *Cluster) Pgbench(t testing.TB, node, seconds int, args ...string) benchResult {
	t.Helper()
	r := c.StartPgbench(t, node, seconds, args...).Result(t)
	if r.Processed == 0 {
		t.Fatalf("pgbench %q got nothing done:\n%s", args, tail(r.Output, 20))
	}
	t.Log(fmt.Sprintf("pgbench %s: %d transactions in %d s, %d failed", strings.Join(args, " "), r.Processed, seconds, r.Failed))
	return r
}
