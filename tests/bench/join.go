package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// joinRanges is how many ranges the largest table is split into: enough to be evened out.
	joinRanges = 24
	// joinLimit bounds the wait until nodes that joined have their share.
	joinLimit = 15 * time.Minute
	// quietFor is for how long nothing may move before the nodes count as balanced.
	quietFor = 15 * time.Second
)

// measureJoin starts a second node in each zone while pgbench runs, and measures how long it takes
// until the replicas are evened out, what was copied, and what clients noticed.
func measureJoin(ctx context.Context, o *options, atoll *system) error {
	if err := atoll.query(ctx, splitStatement(o.scale)); err != nil {
		return err
	}
	m, err := atoll.pgbench(ctx, o, "tpcb", 8)
	if err != nil {
		return err
	}
	before, err := atoll.sent(ctx)
	if err != nil {
		return err
	}
	load := *o
	load.seconds = int(joinLimit.Seconds())
	lctx, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	under := make(chan loaded, 1)
	go func() {
		s, err := atoll.whileRunning(lctx, &load)
		under <- loaded{s, err}
	}()
	started := time.Now()
	var nodes []*exec.Cmd
	defer func() {
		for _, n := range nodes {
			_ = n.Process.Signal(syscall.SIGTERM)
			_ = n.Wait()
		}
	}()
	for i, zone := range []string{"us-a", "us-b", "us-c"} {
		n, err := startNode(o, i, zone)
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
	}
	balanced, counts, err := atoll.balanced(ctx, started)
	if err != nil {
		return err
	}
	stopLoad()
	during := <-under
	if during.err != nil {
		return fmt.Errorf("pgbench while the nodes joined: %w", during.err)
	}
	after, err := atoll.sent(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("three nodes joined three, %d ranges, pgbench's TPC-B at 8 clients, scale %d: replicas per node %s after %s, %.1f MiB copied\n",
		joinRanges, o.scale, counts, balanced.Round(time.Second), (after-before)/(1<<20))
	fmt.Printf("TPC-B before: %.0f tps, p50 %s, p99 %s; meanwhile: p50 %s, p99 %s\n", m.tps, m.p50, m.p99, during.p50, during.p99)
	return nil
}

func splitStatement(scale int) string {
	var at []string
	for i := 1; i < joinRanges; i++ {
		at = append(at, fmt.Sprintf("(%d)", i*scale*100_000/joinRanges))
	}
	return "ALTER TABLE pgbench_accounts SPLIT AT VALUES " + strings.Join(at, ", ")
}

// query runs a statement.
func (s *system) query(ctx context.Context, sql string) error {
	_, err := command(ctx, s.dir, filepath.Join(s.client, "psql"), s.args("-d", "postgres", "-qX", "-v", "ON_ERROR_STOP=1", "-c", sql)...)
	return err
}

// loaded is a measurement of a load that ran beside something else.
type loaded struct {
	sample
	err error
}

// whileRunning runs pgbench's TPC-B until ctx ends, and returns the latencies.
func (s *system) whileRunning(ctx context.Context, o *options) (sample, error) {
	prefix := filepath.Join(s.dir, "log-join")
	cmd := exec.CommandContext(ctx, filepath.Join(s.client, "pgbench"), append(s.args("-n", "-M", "prepared", "-c", "8", "-j", "2", "-T", strconv.Itoa(o.seconds),
		"--max-tries=50", "-l", "--log-prefix="+prefix), append(scripts["tpcb"], "postgres")...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	_ = cmd.Run()
	return summarize("tps = 1 \n", prefix)
}

// startNode starts one more node of a zone; i tells its ports.
func startNode(o *options, i int, zone string) (*exec.Cmd, error) {
	base := o.firstPort + 10 + 3*i
	at := func(p int) string { return "127.0.0.1:" + strconv.Itoa(p) }
	// The demo's nodes talk to each other 100 above their SQL ports.
	args := []string{"start", "--store", filepath.Join(o.dir, "joined-"+zone), "--locality", "region=local,zone=" + zone, "--insecure",
		"--listen", at(base), "--sql-listen", at(base + 1), "--http-listen", at(base + 2)}
	args = append(args, "--join", strings.Join([]string{at(o.firstPort + 100), at(o.firstPort + 101), at(o.firstPort + 102)}, ","))
	n := exec.Command(o.atoll, append(args, o.nodeArgs...)...)
	n.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	return n, n.Start()
}

// balanced waits until six nodes have nearly as many replicas each and nothing moved for a while, and
// returns when the last thing moved.
func (s *system) balanced(ctx context.Context, started time.Time) (time.Duration, string, error) {
	const sql = "SELECT count(r.replica_id) FROM atoll.nodes n LEFT JOIN atoll.replicas r ON r.node_id = n.node_id WHERE n.status = 'live' GROUP BY n.node_id ORDER BY n.node_id"
	last, moved := "", time.Now()
	for time.Since(started) < joinLimit {
		if err := sleep(ctx, time.Second); err != nil {
			return 0, "", err
		}
		out, err := command(ctx, s.dir, filepath.Join(s.client, "psql"), s.args("-d", "postgres", "-qAtX", "-c", sql)...)
		if err != nil {
			continue // a node may still be starting
		}
		counts := strings.Fields(out)
		if now := strings.Join(counts, " "); now != last {
			last, moved = now, time.Now()
		}
		if len(counts) == 6 && even(counts) && time.Since(moved) >= quietFor {
			return moved.Sub(started), last, nil
		}
	}
	return 0, "", fmt.Errorf("after %s the replicas per node are still %s", joinLimit, last)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// even reports whether no node has more than twice as many replicas as another.
func even(counts []string) bool {
	least, most := int(^uint(0)>>1), 0
	for _, c := range counts {
		n, err := strconv.Atoi(c)
		if err != nil {
			return false
		}
		least, most = min(least, n), max(most, n)
	}
	return least*2 >= most
}

// sent adds up the bytes of snapshots that the demo's nodes have sent.
func (s *system) sent(ctx context.Context) (float64, error) {
	var sum float64
	for i := range 3 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.http+i), nil)
		if err != nil {
			return 0, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return 0, err
		}
		for line := range strings.SplitSeq(string(body), "\n") {
			if v, ok := strings.CutPrefix(line, "atoll_store_snapshot_sent_bytes_total "); ok {
				n, err := strconv.ParseFloat(v, 64)
				if err != nil {
					return 0, err
				}
				sum += n
			}
		}
	}
	return sum, nil
}
