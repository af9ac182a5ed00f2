// Package demo runs a whole cluster on one machine: a process per node, so that killing a
// zone is SIGKILL and pausing it is SIGSTOP. It founds the cluster, restarts nodes that end
// by themselves, and takes orders (kill, pause, isolate, heal) on a Unix socket.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Config says what cluster to run. Zero fields get defaults.
type Config struct {
	Zones        []string
	NodesPerZone int
	SQLPort      int    // node k listens on SQLPort+k
	HTTPPort     int    // node k listens on HTTPPort+k
	PeerPort     int    // node k listens on PeerPort+k for the other nodes
	Store        string // folder of all nodes' data
	Binary       string // the atoll binary
	// ExtraArgs are given to every node's `atoll start`.
	ExtraArgs []string
	// ReadyTimeout bounds how long the cluster may take to serve SQL.
	ReadyTimeout time.Duration
	Out          io.Writer // what people read
}

// Bounds of a demo.
const (
	maxNodes = 30
	maxZones = 10
)

// EnsureDefaults fills the fields that are zero.
func (c *Config) EnsureDefaults() {
	if len(c.Zones) == 0 {
		c.Zones = []string{"us-a", "us-b", "us-c"}
	}
	if c.NodesPerZone == 0 {
		c.NodesPerZone = 1
	}
	if c.SQLPort == 0 {
		c.SQLPort = 26257
	}
	if c.HTTPPort == 0 {
		c.HTTPPort = 8080
	}
	if c.PeerPort == 0 {
		c.PeerPort = c.SQLPort + 100
	}
	if c.Store == "" {
		c.Store = DefaultStore()
	}
	if c.ReadyTimeout == 0 {
		c.ReadyTimeout = time.Minute
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
}

// DefaultStore is where a demo keeps its data if nobody says otherwise.
func DefaultStore() string {
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".atoll", "demo")
	}
	return filepath.Join(os.TempDir(), "atoll-demo")
}

// Validate lists every fault at once.
func (c *Config) Validate() error {
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	seen := map[string]bool{}
	for _, z := range c.Zones {
		switch {
		case z == "" || strings.ContainsAny(z, ",= /"):
			add("--zones: %q is not a zone name: use letters, digits and dashes", z)
		case seen[z]:
			add("--zones: %q is named twice", z)
		}
		seen[z] = true
	}
	if len(c.Zones) > maxZones {
		add("--zones: %d zones, at most %d are possible", len(c.Zones), maxZones)
	}
	n := len(c.Zones) * c.NodesPerZone
	if c.NodesPerZone < 1 || n > maxNodes {
		add("--nodes-per-zone: %d gives %d nodes; 1 to %d are possible", c.NodesPerZone, n, maxNodes)
	}
	ports := []struct {
		flag string
		port int
	}{{"--sql-port", c.SQLPort}, {"--http-port", c.HTTPPort}, {"--peer-port", c.PeerPort}}
	for i, p := range ports {
		if p.port < 1 || p.port+n > 65535 {
			add("%s: %d is not a port that %d nodes can count up from", p.flag, p.port, n)
		}
		for _, q := range ports[:i] {
			if p.port < q.port+n && q.port < p.port+n {
				add("%s %d and %s %d overlap: every node takes one port more", q.flag, q.port, p.flag, p.port)
			}
		}
	}
	return errors.Join(faults...)
}

// Run runs the cluster until the context is done, then stops every node. A cluster that
// its store holds already is opened again.
func Run(ctx context.Context, cfg Config) error {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return err
	}
	abs, err := filepath.Abs(cfg.Store)
	if err != nil {
		return err
	}
	cfg.Store = abs
	unlock, err := lockStore(cfg.Store)
	if err != nil {
		return err
	}
	defer unlock()
	plan, err := loadPlan(cfg)
	if err != nil {
		return err
	}
	d := newSupervisor(cfg, plan)
	defer d.stopAll()
	control, err := d.serveControl()
	if err != nil {
		return err
	}
	defer control.Close()
	for _, n := range d.nodes {
		if err := n.start(); err != nil {
			return err
		}
	}
	if err := d.found(ctx); err != nil {
		return d.explain(err)
	}
	if err := d.awaitReady(ctx); err != nil {
		return d.explain(err)
	}
	d.printWelcome()
	<-ctx.Done()
	fmt.Fprintln(cfg.Out, "\nstopping all nodes; the same command opens this cluster again")
	return nil
}

// lockStore makes sure that one demo uses a store at a time.
func lockStore(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("--store %s: %w", dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--store %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("--store %s is in use by another demo: stop that one, or name another folder", dir)
	}
	return func() { _ = f.Close() }, nil
}

// freePort tells early, and in words, that a port is taken.
func freePort(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%s is in use: stop what listens there, or choose other ports with --sql-port, --http-port and --peer-port", addr)
	}
	return l.Close()
}
