// Package server wires a node together and runs it: network, store, transactions, SQL,
// HTTP. It holds no logic of its own: package host is the node below SQL.
package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology"
)

// Config is everything that `atoll start` decides. Zero fields get defaults.
type Config struct {
	StoreDir string
	Region   string
	Zone     string

	// Attributes say what the node is made of, for policies that ask for it; ParseAttributes orders them.
	Attributes []string

	Listen, Advertise         string // between nodes
	SQLListen, SQLAdvertise   string
	HTTPListen, HTTPAdvertise string
	Join                      []string

	CertsDir string // ca.crt, node.crt, node.key
	Insecure bool

	// CacheBytes is the block cache of the state engine.
	CacheBytes int64
	// MaxOffset bounds the clocks of any two nodes (SAFETY S1).
	MaxOffset time.Duration
	// Support is how long a node's promise to another lasts: what a failover costs.
	Support time.Duration
	// ReserveBytes is the free disk space below which new writes are refused (53100).
	ReserveBytes int64
	// KeepReplicas keeps replicas from being moved only to even out nodes.
	KeepReplicas bool
	// NoRangeMerges keeps ranges from being merged when they are small and quiet.
	NoRangeMerges bool
	// RangeMaxBytes is the size at which a range splits.
	RangeMaxBytes int64
	// RangeMaxBatches is how many batches of requests a second from other nodes a range may serve
	// before it splits.
	RangeMaxBatches int64
	// GCTTL is how long old versions are kept.
	GCTTL time.Duration
	// DeadAfter is how long a node is away before its replicas are made anew elsewhere in its zone.
	DeadAfter time.Duration
	// ZoneDeadAfter is how long all nodes of a zone are away before their replicas are made anew in other
	// zones, where the policies allow that.
	ZoneDeadAfter time.Duration
	// VolumeGoneAfter is how long a node is away whose address an empty node has taken.
	VolumeGoneAfter time.Duration

	// SnapshotBytesPerSecond bounds what background copying sends from this node, and what it brings here.
	SnapshotBytesPerSecond int64

	MaxConnections int
	QueryMemory    int64
	ShutdownGrace  time.Duration

	// Revision is shown in the overview: what rolls changes out tells by it which nodes have them.
	Revision string

	// FaultInjection offers POST /debug/faults/isolate: for demos and tests only.
	FaultInjection bool

	Log *slog.Logger
}

// EnsureDefaults fills the fields that are zero.
func (c *Config) EnsureDefaults() {
	setDefault(&c.Region, "default")
	setDefault(&c.Listen, "127.0.0.1:26357")
	setDefault(&c.SQLListen, "127.0.0.1:26257")
	setDefault(&c.HTTPListen, "127.0.0.1:8080")
	setDefault(&c.Advertise, c.Listen)
	setDefault(&c.SQLAdvertise, c.SQLListen)
	setDefault(&c.HTTPAdvertise, c.HTTPListen)
	setDefault(&c.CacheBytes, 256<<20)
	setDefault(&c.MaxOffset, 250*time.Millisecond)
	setDefault(&c.Support, 500*time.Millisecond)
	setDefault(&c.ReserveBytes, 256<<20)
	setDefault(&c.RangeMaxBytes, 512<<20)
	setDefault(&c.RangeMaxBatches, 10_000)
	setDefault(&c.GCTTL, 10*time.Minute)
	setDefault(&c.DeadAfter, 5*time.Minute)
	setDefault(&c.ZoneDeadAfter, 30*time.Minute)
	setDefault(&c.VolumeGoneAfter, time.Second)
	setDefault(&c.SnapshotBytesPerSecond, 64<<20)
	setDefault(&c.MaxConnections, 1000)
	setDefault(&c.QueryMemory, 256<<20)
	setDefault(&c.ShutdownGrace, 10*time.Second)
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// ParseLocality reads region=R,zone=Z.
func ParseLocality(s string) (region, zone string, err error) {
	for _, part := range strings.Split(s, ",") {
		k, v, ok := strings.Cut(part, "=")
		if !ok || v == "" || strings.ContainsAny(v, "= /") {
			return "", "", fmt.Errorf("--locality %q: %q is not key=value; write region=R,zone=Z", s, part)
		}
		switch {
		case k == "region" && region == "":
			region = v
		case k == "zone" && zone == "":
			zone = v
		case k == "region" || k == "zone":
			return "", "", fmt.Errorf("--locality %q: %s is given twice", s, k)
		default:
			return "", "", fmt.Errorf("--locality %q: unknown tier %q; the tiers are region and zone", s, k)
		}
	}
	if zone == "" {
		return "", "", fmt.Errorf("--locality %q: the zone is missing; write region=R,zone=Z", s)
	}
	if region == "" {
		region = "default"
	}
	return region, zone, nil
}

// ParseAttributes reads names separated by commas, and puts them in order.
func ParseAttributes(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	out := strings.Split(s, ",")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
		if err := topology.CheckName("attribute", out[i]); err != nil {
			return nil, fmt.Errorf("--attributes %q: %w", s, err)
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) > policies.MaxAttributes {
		return nil, fmt.Errorf("--attributes has %d names; at most %d are possible", len(out), policies.MaxAttributes)
	}
	return out, nil
}

// Validate lists every fault at once.
func (c *Config) Validate() error {
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.StoreDir == "" {
		add("--store is empty: name the folder of this node's data")
	}
	if c.Zone == "" {
		add("--locality has no zone: write region=R,zone=Z")
	}
	for _, a := range []struct{ flag, addr string }{
		{"--listen", c.Listen}, {"--advertise", c.Advertise}, {"--sql-listen", c.SQLListen}, {"--http-listen", c.HTTPListen},
	} {
		if _, port, err := net.SplitHostPort(a.addr); err != nil || port == "" {
			add("%s %q is not host:port", a.flag, a.addr)
		}
	}
	for _, j := range c.Join {
		if _, _, err := net.SplitHostPort(j); err != nil {
			add("--join: %q is not host:port", j)
		}
	}
	if len(c.Join) == 0 {
		add("--join is empty: name the addresses of a few nodes (this one's own may be among them)")
	}
	if (c.CertsDir == "") != c.Insecure {
		add("give exactly one of --certs and --insecure")
	}
	if c.Insecure && !c.FaultInjection {
		for _, a := range []string{c.Listen, c.SQLListen} {
			if !loopback(a) {
				c.Log.Warn("--insecure on an address that others can reach: anybody who can connect is superuser", "addr", a)
			}
		}
	}
	if c.FaultInjection && !c.Insecure {
		add("--fault-injection is for demos and tests: it needs --insecure")
	}
	if c.MaxOffset < time.Millisecond || c.MaxOffset > 10*time.Second {
		add("--max-offset is %s; it must lie between 1ms and 10s, and be the same on every node", c.MaxOffset)
	}
	if c.Support < 100*time.Millisecond || c.Support > 10*time.Second {
		add("--support is %s; it must lie between 100ms and 10s", c.Support)
	}
	if c.CacheBytes < 1<<20 {
		add("--cache is %d bytes; at least 1 MiB is needed", c.CacheBytes)
	}
	if c.ReserveBytes < 0 {
		add("--disk-reserve is %d bytes; it can't be negative", c.ReserveBytes)
	}
	if c.RangeMaxBytes < 1<<20 {
		add("--range-max-bytes is %d; at least 1 MiB is needed", c.RangeMaxBytes)
	}
	if c.GCTTL < time.Second {
		add("--gc-ttl is %s; at least 1s is needed", c.GCTTL)
	}
	for _, w := range []struct {
		flag string
		d    time.Duration
	}{{"--dead-after", c.DeadAfter}, {"--zone-dead-after", c.ZoneDeadAfter}, {"--volume-gone-after", c.VolumeGoneAfter}} {
		if w.d < time.Second || w.d > maxDeadAfter {
			add("%s is %s; it must lie between 1s and %s", w.flag, w.d, maxDeadAfter)
		}
	}
	if c.ZoneDeadAfter < c.DeadAfter {
		add("--zone-dead-after is %s, less than --dead-after (%s); a zone is expected back for at least as long as a node", c.ZoneDeadAfter, c.DeadAfter)
	}
	if c.SnapshotBytesPerSecond < 1<<20 {
		add("--snapshot-bytes-per-second is %d; at least 1 MiB is needed, or copies would be given up", c.SnapshotBytesPerSecond)
	}
	if c.MaxConnections < 1 {
		add("--max-connections is %d; it must be positive", c.MaxConnections)
	}
	return errors.Join(faults...)
}

// maxDeadAfter is how long a node or a zone may be expected back at most.
const maxDeadAfter = 7 * 24 * time.Hour

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// LogEffective prints the values that are in force.
func (c *Config) LogEffective() {
	c.Log.Info("configuration", "store", c.StoreDir, "region", c.Region, "zone", c.Zone, "attributes", c.Attributes, "listen", c.Listen, "advertise", c.Advertise,
		"sql_listen", c.SQLListen, "http_listen", c.HTTPListen, "join", c.Join, "certs", c.CertsDir, "insecure", c.Insecure,
		"cache", c.CacheBytes, "max_offset", c.MaxOffset, "support", c.Support, "disk_reserve", c.ReserveBytes,
		"range_max_bytes", c.RangeMaxBytes, "range_max_batches", c.RangeMaxBatches, "gc_ttl", c.GCTTL, "dead_after", c.DeadAfter, "zone_dead_after", c.ZoneDeadAfter, "volume_gone_after", c.VolumeGoneAfter, "snapshot_bytes_per_second", c.SnapshotBytesPerSecond, "keep_replicas", c.KeepReplicas, "no_range_merges", c.NoRangeMerges, "max_connections", c.MaxConnections,
		"query_memory", c.QueryMemory, "fault_injection", c.FaultInjection)
}

func (c *Config) stateDir() string { return filepath.Join(c.StoreDir, "state") }
func (c *Config) logDir() string   { return filepath.Join(c.StoreDir, "log") }
