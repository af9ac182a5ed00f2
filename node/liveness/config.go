package liveness

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
)

// Config configures an Agent.
type Config struct {
	Network raftnet.Network
	Clock   *hlc.Clock
	Time    hlc.TimeSource // default hlc.GoTime(); a real node passes hlc.SystemTime()
	// Self and Boot are the node's identity; the boot counter is synced already (S18).
	Self keys.NodeID
	Boot uint64

	// Neighbours returns the nodes that share a range with this one; Nodes returns all.
	// They are called a few times a second, must be quick and may include Self.
	Neighbours, Nodes func() []keys.NodeID

	// Counted returns the nodes of which a majority must agree with this node's clock (S1). It
	// names no node that is known to be gone for good: with those counted, a cluster that lost a
	// few disks could not be restarted. Default: Neighbours and Nodes. May include Self.
	Counted func() []keys.NodeID

	// Promised is the largest D that any run of this node promised, as PersistPromise
	// stored it; 0 if it never ran. PersistPromise is synced before it returns.
	Promised       time.Duration
	PersistPromise func(time.Duration) error

	// Heartbeat is the interval to neighbours (a fifth of Support, 100 ms at most), SlowHeartbeat to others (1 s).
	Heartbeat, SlowHeartbeat time.Duration
	// Support is D, how long a promise lasts. Default 500 ms.
	Support time.Duration
	// Tick is how often deadlines are looked at, five times as often while a peer misses its
	// heartbeats. Default: half of Heartbeat, for every wake-up of an idle node costs.
	Tick time.Duration
	// StallGrace: if the ticker is later than this, promises are prolonged. Default: two ticks.
	StallGrace time.Duration
	// MaxClockDisagreement between the three clocks. Default 20 ms.
	MaxClockDisagreement time.Duration
	// MaxSampleRTT is the longest round trip of a clock sample. Default 50 ms.
	MaxSampleRTT time.Duration
	// RestartMargin is added to the wait without votes after a restart. Default 50 ms.
	RestartMargin time.Duration

	// OnClockFatal is called, once, when this node's clock is beyond the bound to a
	// majority of its peers: the node must stop (S1).
	OnClockFatal func(error)

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// EnsureDefaults fills what is unset.
func (c *Config) EnsureDefaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.Support, 500*time.Millisecond)
	set(&c.Heartbeat, min(c.Support/5, 100*time.Millisecond))
	set(&c.SlowHeartbeat, time.Second)
	set(&c.Tick, c.Heartbeat/2)
	set(&c.StallGrace, 2*c.Tick)
	set(&c.MaxClockDisagreement, 20*time.Millisecond)
	set(&c.MaxSampleRTT, 50*time.Millisecond)
	set(&c.RestartMargin, 50*time.Millisecond)
	if c.Time == nil {
		c.Time = hlc.GoTime()
	}
	if c.Neighbours == nil {
		c.Neighbours = func() []keys.NodeID { return nil }
	}
	if c.Nodes == nil {
		c.Nodes = c.Neighbours
	}
	if c.Counted == nil {
		c.Counted = func() []keys.NodeID { return slices.Concat(c.Neighbours(), c.Nodes()) }
	}
	if c.OnClockFatal == nil {
		c.OnClockFatal = func(error) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate lists every fault of the configuration.
func (c *Config) Validate() error {
	var errs []error
	bad := func(cond bool, format string, args ...any) {
		if cond {
			errs = append(errs, fmt.Errorf("liveness: "+format, args...))
		}
	}
	bad(c.Network == nil, "Network is nil")
	bad(c.Clock == nil, "Clock is nil")
	bad(c.Self <= 0, "Self is %d; the agent starts once the node has an ID", c.Self)
	bad(c.Boot == 0 || c.Boot > 1<<31, "Boot is %d, it must lie in [1, 2^31]; raise and sync the boot counter first", c.Boot)
	bad(c.PersistPromise == nil, "PersistPromise is nil; the largest promise must survive a restart (S3)")
	bad(c.Tick < time.Millisecond, "Tick is %v, the minimum is 1ms", c.Tick)
	bad(c.Heartbeat < c.Tick, "Heartbeat is %v, the minimum is Tick, %v", c.Heartbeat, c.Tick)
	bad(c.SlowHeartbeat < c.Heartbeat, "SlowHeartbeat is %v, the minimum is Heartbeat, %v", c.SlowHeartbeat, c.Heartbeat)
	bad(c.Support < 50*time.Millisecond, "Support is %v, the minimum is 50ms: a fifth of it passes between heartbeats", c.Support)
	bad(c.Support < 4*c.Heartbeat, "Support is %v, the minimum is 4 heartbeats, %v", c.Support, 4*c.Heartbeat)
	bad(c.Support > 10*time.Second, "Support is %v, the maximum is 10s: a failover takes at least as long", c.Support)
	bad(c.StallGrace < 2*c.Tick, "StallGrace is %v, the minimum is two ticks, %v", c.StallGrace, 2*c.Tick)
	bad(c.MaxClockDisagreement <= 0, "MaxClockDisagreement is %v, it must be positive", c.MaxClockDisagreement)
	bad(c.MaxSampleRTT <= 0, "MaxSampleRTT is %v, it must be positive", c.MaxSampleRTT)
	bad(c.RestartMargin < 0, "RestartMargin is %v, it must not be negative", c.RestartMargin)
	return errors.Join(errs...)
}
