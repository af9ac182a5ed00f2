// Package host joins the parts of one node below SQL: engines, membership, liveness, replicas,
// routing, transactions. Package server puts sockets, SQL and HTTP on top; the simulator
// runs it as it is, on an in-memory network and disk.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/events"
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/kv/dist"
	"github.com/atolldb/atoll/node/liveness"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica/eval"
	"github.com/atolldb/atoll/node/storage"
	"github.com/atolldb/atoll/node/store"
	"github.com/atolldb/atoll/node/txn"
)

// Network is what a node's transport offers beside raftnet.Network.
type Network interface {
	raftnet.Network
	SetIdentity(raftnet.Identity)
}

// Config is what a node is made of, without sockets for clients.
type Config struct {
	Dir        string
	FS         storage.FS // nil: the disk
	Small      bool       // little memory: tests and simulation
	CacheBytes int64
	// Listen makes the transport once the store's local records can be read; a node
	// resolves addresses in its directory and remembers boot counters there.
	Listen func(resolve func(keys.NodeID) (string, bool), boots raftnet.BootRegistry) (Network, error)
	// Version is the binary's, for people.
	Version string
	// Self describes the node: addresses and locality. ID and Version are filled in.
	Self cluster.NodeInfo
	Join []string

	Clock   *hlc.Clock
	Time    hlc.TimeSource
	Support time.Duration // 0: liveness' default
	Planted raftnet.Planted
	// AwaitRules keeps replicas and leases where they are until Store.SetRules says how ranges are
	// placed.
	AwaitRules bool
	// Tune changes the store's configuration; nil leaves the defaults.
	Tune     func(*store.Config)
	Pushdown eval.Pushdown
	// OldestRead returns the oldest read timestamp that this gateway's transactions still use;
	// nil: unknown. Garbage collection asks.
	OldestRead func() hlc.Timestamp

	// IDCounters are keys of counters whose numbers are never given out twice: a recovery after the loss
	// of a quorum lifts them beyond what the lost nodes may have given out.
	IDCounters []keys.Key

	// Bugs that the simulator plants; see storage.Options and txn.Config.
	PlantUnsyncedLog, PlantSkipRefresh bool

	// OnFatal is called when the node can't go on; the process should end.
	OnFatal    func(error)
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Node is a node up to its transactions: engines, membership, liveness, replicas, routing.
type Node struct {
	Identity  cluster.Identity
	Boot      uint64
	Clock     *hlc.Clock
	Net       Network
	Engines   *store.Engines
	Directory *cluster.Directory
	Agent     *liveness.Agent
	Router    *raftnet.Router
	Store     *store.Store
	Sender    *dist.DistSender
	Events    *events.Log
	DB        *txn.DB

	version string
	started time.Time

	stop context.CancelFunc
	done sync.WaitGroup
	// recovering serialises what an operator asks after the loss of quorums.
	recovering recoveryLock
	counters   []keys.Key // Config.IDCounters
	service    *cluster.Service
	bound      *cluster.ClockBound
}

// Open opens the store and waits until the node has an identity (founded or admitted),
// then starts everything. After an error nothing is left running.
func Open(ctx context.Context, cfg Config) (_ *Node, err error) {
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.NewRegistry()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{recovering: make(recoveryLock, 1), counters: cfg.IDCounters, Clock: cfg.Clock, version: cfg.Version, started: time.Now()}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	n.Engines, err = store.OpenEngines(store.EngineOptions{
		Dir: cfg.Dir, FS: cfg.FS, Small: cfg.Small, CacheBytes: cfg.CacheBytes, OnFatal: cfg.OnFatal, Logger: cfg.Log, Registerer: cfg.Registerer,
		PlantUnsyncedLog: cfg.PlantUnsyncedLog,
	})
	if err != nil {
		return nil, err
	}
	local := cluster.NewLocal(n.Engines.Log)
	if n.Directory, err = cluster.OpenDirectory(local); err != nil {
		return nil, err
	}
	if n.Net, err = cfg.Listen(n.Directory.Resolve, local); err != nil {
		return nil, err
	}
	plan, err := n.identify(ctx, cfg, local)
	if err != nil {
		return nil, err
	}
	if n.bound, err = cluster.StartClockBound(ctx, local, n.Clock, cfg.Log, cfg.OnFatal); err != nil {
		return nil, err
	}
	if err := n.replicate(cfg, local, plan); err != nil {
		return nil, err
	}
	n.DB = txn.NewDB(txn.Config{Sender: n.Sender, Clock: n.Clock, PlantSkipRefresh: cfg.PlantSkipRefresh, Registerer: cfg.Registerer, Logger: cfg.Log})
	n.Store.Start(n.Sender)
	self := cfg.Self
	self.ID = n.Identity.Node
	run, stop := context.WithCancel(context.Background())
	n.stop = stop
	n.done.Go(func() { n.follow(run) })
	n.done.Go(func() { n.watchLost(run, cfg.OnFatal) })
	n.Events.Record(events.Event{Kind: events.Node, What: fmt.Sprintf("node %d started at %s, boot %d", self.ID, self.Addr, n.Boot)})
	n.done.Go(func() { n.Events.Run(run) })
	n.service = cluster.StartService(n.Directory, n.Net, n.Identity, self, n.Sender, cfg.Log, cfg.Join...)
	return n, nil
}

// identify waits for the node's identity and raises its boot counter (SAFETY S18, S28).
func (n *Node) identify(ctx context.Context, cfg Config, local *cluster.Local) (*cluster.Plan, error) {
	adm := &cluster.Admission{Local: local, Net: n.Net, Self: cfg.Self, Join: cfg.Join, Logger: cfg.Log}
	adm.Serve()
	res, err := adm.Wait(ctx)
	if err != nil {
		return nil, err
	}
	n.Identity = res.Identity
	if n.Boot, err = local.NextBoot(); err != nil {
		return nil, err
	}
	if res.Plan != nil {
		if err := n.Directory.Merge(res.Plan.Members...); err != nil {
			return nil, err
		}
	}
	if err := n.Directory.Merge(res.Directory...); err != nil {
		return nil, err
	}
	if err := n.refuseLost(); err != nil {
		return nil, err
	}
	n.Net.SetIdentity(raftnet.Identity{ClusterID: n.Identity.ClusterID, Node: n.Identity.Node, Boot: n.Boot})
	return res.Plan, nil
}

// replicate starts liveness, raft and the replicas.
func (n *Node) replicate(cfg Config, local *cluster.Local, plan *cluster.Plan) error {
	promised, err := local.Promised()
	if err != nil {
		return err
	}
	// Neighbours asks the store, which needs the agent: until it stands there are none.
	ready := make(chan struct{})
	neighbours := func() []keys.NodeID {
		select {
		case <-ready:
			return n.Store.Neighbours()
		default:
			return nil
		}
	}
	n.Agent, err = liveness.Start(liveness.Config{
		Network: n.Net, Clock: n.Clock, Time: cfg.Time, Self: n.Identity.Node, Boot: n.Boot, Neighbours: neighbours, Nodes: n.Directory.Nodes,
		Counted:  func() []keys.NodeID { return n.Directory.Counted(neighbours()) },
		Promised: promised, PersistPromise: local.PersistPromise, Support: cfg.Support, OnClockFatal: cfg.OnFatal,
		Logger: cfg.Log, Registerer: cfg.Registerer,
	})
	if err != nil {
		return err
	}
	n.Router, err = raftnet.NewRouter(raftnet.RouterConfig{Network: n.Net, Support: n.Agent, Planted: cfg.Planted, Logger: cfg.Log, Registerer: cfg.Registerer})
	if err != nil {
		return err
	}
	n.Events = events.NewLog(events.Config{Node: n.Identity.Node, Sender: lateSender{n}, Logger: cfg.Log, Registerer: cfg.Registerer})
	sc := store.Config{
		Events:  n.Events.Record,
		Engines: n.Engines, Node: n.Identity.Node, Network: n.Net, Router: n.Router, Support: n.Agent, Clock: n.Clock, Directory: n.Directory,
		Plan: plan, AwaitRules: cfg.AwaitRules, Pushdown: cfg.Pushdown, OldestRead: cfg.OldestRead, OnFatal: cfg.OnFatal, Logger: cfg.Log, Registerer: cfg.Registerer,
	}
	if cfg.Tune != nil {
		cfg.Tune(&sc)
	}
	if n.Store, err = store.Open(sc); err != nil {
		return err
	}
	close(ready)
	n.Sender, err = dist.New(dist.Config{
		Clock: n.Clock, Self: n.Identity.Node, Local: n.Store, MetaSeed: n.Store.MetaSeed, Alive: n.Agent.Live,
		Distance: n.distance, LocalRange: n.Store.RangeAt,
		Caller: dist.CallerFunc(func(ctx context.Context, node keys.NodeID, payload []byte) ([]byte, error) {
			return n.Net.Call(ctx, node, raftnet.Data, raftnet.MethodKVBatch, payload)
		}),
		Registerer: cfg.Registerer, Logger: cfg.Log,
	})
	if err != nil {
		return err
	}
	n.Agent.OnLapse(n.Sender.NodeDown)
	n.Net.Handle(raftnet.MethodNodeStatus, n.onStatus)
	n.Net.Handle(raftnet.MethodFindings, n.onFindings)
	n.Net.Handle(raftnet.MethodJobs, n.onJobs)
	n.handleRecovery()
	n.Net.Handle(raftnet.MethodKVBatch, func(ctx context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
		return dist.Serve(ctx, n.Store, payload), nil
	})
	return nil
}

// distance is how far another node is: on this one, in its zone, in its region, or elsewhere.
func (n *Node) distance(other keys.NodeID) int {
	self, _ := n.Directory.Get(n.Identity.Node)
	o, ok := n.Directory.Get(other)
	switch {
	case other == n.Identity.Node:
		return 0
	case !ok || o.Region != self.Region:
		return 3
	case o.Zone != self.Zone || o.Zone == "":
		return 2
	}
	return 1
}

// lateSender is the node's sender, which needs the store that records events.
type lateSender struct{ n *Node }

// Send implements kv.Sender.
func (l lateSender) Send(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	return l.n.Sender.Send(ctx, ba)
}

// errNotReady lists why a node does not serve yet.
var (
	errClock    = errors.New("the clock's offset to a majority of the other nodes is not known yet")
	errNoRanges = errors.New("no leaseholder is known for the system range")
)

// Ready is nil when the node can serve SQL: its clock is measured, and the range with the
// catalog answers.
func (n *Node) Ready(ctx context.Context) error {
	if !n.Agent.Ready() {
		return errClock
	}
	_, err := n.Sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.System("ready")}}})
	if err != nil {
		return fmt.Errorf("%w: %w", errNoRanges, err)
	}
	return nil
}

// Close stops the node in the reverse order of its start.
func (n *Node) Close() {
	if n.service != nil {
		n.service.Close()
	}
	if n.DB != nil {
		n.DB.Close()
	}
	n.stopReplication()
	if n.Engines != nil {
		if err := n.Engines.Close(); err != nil {
			slog.Error("close engines", "error", err)
		}
	}
}

// Crash stops the node without flushing anything, as a power cut does. The simulator uses it.
func (n *Node) Crash() {
	if n.service != nil {
		n.service.Close()
	}
	if n.DB != nil {
		n.DB.Close()
	}
	n.stopReplication()
	if n.Engines != nil {
		_ = n.Engines.Crash()
	}
}

func (n *Node) stopReplication() {
	if n.stop != nil {
		n.stop()
		n.done.Wait()
	}
	if n.Net != nil {
		_ = n.Net.Close()
	}
	if n.Store != nil {
		n.Store.Close()
	}
	if n.Router != nil {
		n.Router.Close()
	}
	if n.Agent != nil {
		n.Agent.Close()
	}
	if n.bound != nil {
		n.bound.Close()
	}
}
