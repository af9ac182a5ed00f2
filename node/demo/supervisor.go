package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// supervisor owns the processes of a demo.
type supervisor struct {
	cfg   Config
	plan  *Plan
	nodes []*node
	http  *http.Client

	mu sync.Mutex // one action at a time
}

func newSupervisor(cfg Config, plan *Plan) *supervisor {
	d := &supervisor{cfg: cfg, plan: plan, http: &http.Client{Timeout: 2 * time.Second}}
	members := plan.Members()
	peers := make([]string, len(members))
	for i, m := range members {
		peers[i] = m.Peer
	}
	for _, m := range members {
		dir := filepath.Join(cfg.Store, fmt.Sprintf("n%d", m.Index))
		args := []string{
			"start", "--store", filepath.Join(dir, "data"), "--locality", "region=local,zone=" + m.Zone,
			"--listen", m.Peer, "--advertise", m.Peer, "--sql-listen", m.SQL, "--http-listen", m.HTTP,
			"--join", strings.Join(peers, ","), "--insecure", "--fault-injection",
		}
		d.nodes = append(d.nodes, &node{Member: m, binary: cfg.Binary, args: append(args, cfg.ExtraArgs...), dir: dir})
	}
	return d
}

// found founds the cluster once (SAFETY S28); repeating it is harmless.
func (d *supervisor) found(ctx context.Context) error {
	if d.plan.Founded {
		return nil
	}
	peers := make([]string, len(d.nodes))
	for i, n := range d.nodes {
		peers[i] = n.Peer
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.ReadyTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.cfg.Binary, "init", "--cluster-id", d.plan.ClusterID, "--nodes", strings.Join(peers, ","), "--insecure")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("atoll init: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	d.plan.Founded = true
	return d.plan.save(d.cfg.Store)
}

// awaitReady waits until every node serves SQL.
func (d *supervisor) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.ReadyTimeout)
	defer cancel()
	for _, n := range d.nodes {
		for !d.ready(ctx, n) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("node %d (%s) does not serve SQL after %s", n.Index, n.Zone, d.cfg.ReadyTimeout)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

func (d *supervisor) ready(ctx context.Context, n *node) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16))
	return resp.StatusCode == http.StatusOK
}

// explain adds the end of the logs to a start-up failure.
func (d *supervisor) explain(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	var b strings.Builder
	for _, n := range d.nodes {
		if tail := n.lastLines(3); tail != "" {
			fmt.Fprintf(&b, "\nnode %d (%s):\n  %s", n.Index, n.logPath(), strings.ReplaceAll(tail, "\n", "\n  "))
		}
	}
	return fmt.Errorf("%w%s", err, b.String())
}

func (d *supervisor) stopAll() {
	var wg sync.WaitGroup
	for _, n := range d.nodes {
		wg.Go(n.stop)
	}
	wg.Wait()
}

// status groups the nodes by zone, in the plan's order.
func (d *supervisor) status() []ZoneStatus {
	var out []ZoneStatus
	for _, z := range d.plan.Zones {
		zs := ZoneStatus{Zone: z}
		for _, n := range d.nodes {
			if n.Zone != z {
				continue
			}
			n.mu.Lock()
			zs.Nodes = append(zs.Nodes, NodeStatus{Index: n.Index, State: string(n.state), Isolated: n.isolated, Restarts: n.restarts, SQL: n.SQL, HTTP: n.HTTP})
			n.mu.Unlock()
		}
		out = append(out, zs)
	}
	return out
}

// act does something to every node of a zone.
func (d *supervisor) act(ctx context.Context, zone, action string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.plan.Zones, zone) {
		return fmt.Errorf("there is no zone %q: the zones are %s", zone, strings.Join(d.plan.Zones, ", "))
	}
	var errs []error
	for _, n := range d.nodes {
		if n.Zone != zone {
			continue
		}
		var err error
		switch action {
		case "kill":
			err = n.kill()
		case "pause":
			err = n.pause()
		case "isolate":
			err = d.isolate(ctx, n, true)
		case "heal":
			err = errors.Join(n.heal(), d.isolate(ctx, n, false))
		default:
			return fmt.Errorf("unknown action %q: use one of %s", action, strings.Join(Actions, ", "))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// isolate cuts a node off from the other nodes, both ways, in its own transport: a loopback
// interface has no zones. Clients still reach it, as they would inside a cut zone.
func (d *supervisor) isolate(ctx context.Context, n *node, on bool) error {
	n.mu.Lock()
	up, was := n.cmd != nil, n.isolated
	n.mu.Unlock()
	if was == on {
		return nil
	}
	if !up {
		return fmt.Errorf("node %d is not running: heal it first", n.Index)
	}
	url := fmt.Sprintf("http://%s/debug/faults/isolate?on=%t", n.HTTP, on)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return err
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("node %d: %s answered %s", n.Index, url, resp.Status)
	}
	n.mu.Lock()
	n.isolated = on
	n.mu.Unlock()
	return nil
}

// printWelcome says where the cluster is and what to try.
func (d *supervisor) printWelcome() {
	w := d.cfg.Out
	fmt.Fprintf(w, "Atoll is up: %d nodes in %d zones.\n\n", len(d.nodes), len(d.plan.Zones))
	for _, n := range d.nodes {
		fmt.Fprintf(w, "  %-10s postgresql://postgres@%s/postgres?sslmode=disable   http://%s\n", n.Zone, n.SQL, n.HTTP)
	}
	var hosts, ports []string
	for _, n := range d.nodes {
		hosts = append(hosts, "127.0.0.1")
		ports = append(ports, n.SQL[strings.LastIndexByte(n.SQL, ':')+1:])
	}
	fmt.Fprintf(w, "\n  any zone   psql \"host=%s port=%s user=postgres dbname=postgres\"\n", strings.Join(hosts, ","), strings.Join(ports, ","))
	fmt.Fprintf(w, "  data       %s\n", d.cfg.Store)
	last := d.nodes[len(d.nodes)-1]
	port := last.SQL[strings.LastIndexByte(last.SQL, ':')+1:]
	atoll := d.cfg.Binary
	storeFlag := ""
	if d.cfg.Store != DefaultStore() {
		storeFlag = " --store " + d.cfg.Store
	}
	fmt.Fprintf(w, `
Try, in another terminal:
  psql -h 127.0.0.1 -p %[1]s -U postgres -c 'SELECT * FROM atoll.zones'
  pgbench -h 127.0.0.1 -p %[1]s -U postgres -i -s 1 postgres
  pgbench -h 127.0.0.1 -p %[1]s -U postgres -c 8 -T 60 -P 1 --max-tries=50 postgres
  %[2]s zones kill %[3]s%[4]s     # while it runs
  %[2]s zones heal %[3]s%[4]s
Ctrl-C stops all nodes.
`, port, atoll, d.plan.Zones[0], storeFlag)
}
