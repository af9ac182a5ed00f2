package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/host"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/pgwire"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/session"
	"github.com/atolldb/atoll/node/store"
)

// Version is what the node says of itself.
const Version = "dev"

// Server is a whole node: Node, SQL and HTTP.
type Server struct {
	cfg     Config
	certs   *certificates
	reg     *prometheus.Registry
	started time.Time
	fatal   chan error

	tcp   atomic.Pointer[raftnet.TCP]
	node  atomic.Pointer[host.Node]
	sql   atomic.Pointer[sqlLayer]
	ready atomic.Bool
	state atomic.Pointer[string] // what it waits for
	// newborn is true while the store has no identity: it waits to be founded or admitted.
	newborn atomic.Bool
}

// sqlLayer is what stands above a Node.
type sqlLayer struct {
	catalog *catalog.Manager
	engine  *session.Engine
	pg      *pgwire.Server
	info    *clusterInfo
	rules   *ruleKeeper
}

// Run runs a node until the context is done or it can't go on. The configuration is valid.
func Run(ctx context.Context, cfg Config) error {
	cfg.EnsureDefaults()
	cfg.LogEffective()
	s := &Server{cfg: cfg, reg: prometheus.NewRegistry(), started: time.Now(), fatal: make(chan error, 1)}
	s.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.waitFor("the store")
	if cfg.CertsDir != "" {
		var err error
		if s.certs, err = openCertificates(cfg.CertsDir, cfg.Log); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(cfg.StoreDir, 0o755); err != nil {
		return fmt.Errorf("--store %s: %w", cfg.StoreDir, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-s.fatal:
			cancel(err)
		case <-ctx.Done():
		}
	}()
	stopHTTP, err := s.serveHTTP()
	if err != nil {
		return err
	}
	defer stopHTTP()
	if err := s.run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// fatalExitAfter bounds how long a node that can't go on may take to end: its disk may hang.
const fatalExitAfter = 5 * time.Second

// onFatal ends the process, in order if possible. REQUIRES: S15, a failed fsync is not retried.
func (s *Server) onFatal(err error) {
	s.cfg.Log.Error("the node can't go on", "error", err)
	time.AfterFunc(fatalExitAfter, func() { os.Exit(1) })
	select {
	case s.fatal <- err:
	default:
	}
}

// run opens the node and serves SQL until the context is done.
func (s *Server) run(ctx context.Context) error {
	n, err := host.Open(ctx, s.nodeConfig())
	if err != nil {
		return err
	}
	defer n.Close()
	s.newborn.Store(false)
	s.node.Store(n)
	s.cfg.Log.Info("node started", "node", n.Identity.Node, "cluster", n.Identity.ClusterID, "boot", n.Boot)
	l, err := s.startSQL(n)
	if err != nil {
		return err
	}
	defer closeWithin(catalogGrace, l.catalog.Close)
	s.sql.Store(l)
	listener, err := net.Listen("tcp", s.cfg.SQLListen)
	if err != nil {
		return fmt.Errorf("--sql-listen %s: %w", s.cfg.SQLListen, err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.watchReadiness(ctx, n) })
	wg.Go(func() { l.rules.run(ctx) })
	serve := make(chan error, 1)
	go func() { serve <- l.pg.Serve(listener) }()
	select {
	case <-ctx.Done():
	case err = <-serve:
	}
	s.ready.Store(false)
	s.leave(n, l)
	wg.Wait()
	return err
}

// catalogGrace bounds how long a stop waits for the schema lease to be withdrawn: a commit
// that has begun outlives its context, and the other nodes may be gone. The lease expires by itself.
const catalogGrace = 2 * time.Second

// closeWithin runs f and goes on without it after a while; what f waits for is closed next.
func closeWithin(d time.Duration, f func()) {
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
	case <-time.After(d):
	}
}

// leave gives leases and clients away before the node stops.
func (s *Server) leave(n *host.Node, l *sqlLayer) {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ShutdownGrace)
	defer cancel()
	if err := n.Store.Drain(ctx); err != nil {
		s.cfg.Log.Warn("leases could not all be given away", "error", err)
	}
	if err := l.pg.Close(ctx); err != nil {
		s.cfg.Log.Warn("clients were cut off", "error", err)
	}
}

func (s *Server) nodeConfig() host.Config {
	c := &s.cfg
	return host.Config{
		Dir: c.StoreDir, CacheBytes: c.CacheBytes, Listen: s.listen, Join: c.Join,
		Self:  cluster.NodeInfo{Addr: c.Advertise, SQLAddr: c.SQLAdvertise, HTTPAddr: c.HTTPAdvertise, Region: c.Region, Zone: c.Zone, Attributes: strings.Join(c.Attributes, ",")},
		Clock: hlc.NewClock(time.Now, c.MaxOffset), Time: hlc.SystemTime(), Support: c.Support,
		Version:    Version,
		AwaitRules: true, // they come from the catalog
		OldestRead: s.oldestRead, Pushdown: filters{},
		Tune: func(sc *store.Config) {
			sc.MaxRangeBytes, sc.GCTTL, sc.ReserveBytes, sc.KeepReplicas = c.RangeMaxBytes, c.GCTTL, c.ReserveBytes, c.KeepReplicas
			sc.DeadAfter, sc.ZoneDeadAfter, sc.VolumeGoneAfter = c.DeadAfter, c.ZoneDeadAfter, c.VolumeGoneAfter
			sc.SnapshotBytesPerSecond = c.SnapshotBytesPerSecond
			sc.MaxRangeBatches, sc.NoMerges = c.RangeMaxBatches, c.NoRangeMerges
		},
		IDCounters: []keys.Key{catalog.IDCounter()},
		OnFatal:    s.onFatal, Log: c.Log, Registerer: s.reg,
	}
}

// oldestRead tells garbage collection which versions this node's clients may still need.
func (s *Server) oldestRead() hlc.Timestamp {
	l, n := s.sql.Load(), s.node.Load()
	if l == nil || n == nil {
		return hlc.Timestamp{WallNanos: s.started.UnixNano()}
	}
	return l.engine.OldestRead(n.Clock.Now())
}

// listen opens the port for the other nodes.
func (s *Server) listen(resolve func(keys.NodeID) (string, bool), boots raftnet.BootRegistry) (host.Network, error) {
	tc := raftnet.TCPConfig{Listen: s.cfg.Listen, Resolve: resolve, Boots: boots, OnStale: s.onFatal, Logger: s.cfg.Log, Registerer: s.reg}
	if s.certs != nil {
		tc.ServerTLS, tc.ClientTLS = s.certs.peer()
	}
	t, err := raftnet.ListenTCP(tc)
	if err != nil {
		return nil, fmt.Errorf("--listen %s: %w", s.cfg.Listen, err)
	}
	s.tcp.Store(t)
	if local, ok := boots.(interface {
		Identity() (cluster.Identity, bool, error)
	}); ok {
		if _, has, err := local.Identity(); err == nil && !has {
			s.newborn.Store(true)
			s.waitFor("an identity: atoll init, or admission by a node of --join")
		}
	}
	return t, nil
}

// startSQL builds catalog, sessions and the SQL port over a node.
func (s *Server) startSQL(n *host.Node) (*sqlLayer, error) {
	l := &sqlLayer{info: &clusterInfo{n: n}}
	db := session.CatalogDB{DB: n.DB, Clock: n.Clock, Sender: n.Sender}
	l.catalog = catalog.NewManager(catalog.Config{DB: db, Node: n.Identity.Node, KeepDropped: s.cfg.GCTTL, Logger: s.cfg.Log, Registerer: s.reg,
		OnPublish: func() { tellSchemaChange(n) }})
	n.Net.Handle(raftnet.MethodSQLSchema, func(context.Context, keys.NodeID, []byte) ([]byte, error) {
		l.catalog.Nudge()
		return nil, nil
	})
	var err error
	places := &placer{n: n, info: l.info}
	l.rules = newRuleKeeper(places, l.catalog, s.cfg.Log, s.reg)
	l.engine, err = session.NewEngine(session.Config{
		DB: n.DB, Catalog: l.catalog, CatalogDB: db, Node: n.Identity.Node, Cluster: l.info, Admin: admin{n}, Placement: places, Past: pastReads{n}, SQLAddr: s.cfg.SQLAdvertise,
		QueryMemory: s.cfg.QueryMemory, Log: s.cfg.Log, Registerer: s.reg,
	})
	if err != nil {
		return nil, err
	}
	l.catalog.Start()
	pc := pgwire.Config{MaxConnections: s.cfg.MaxConnections, Log: s.cfg.Log, Registerer: s.reg}
	if s.certs != nil {
		pc.TLS, pc.RequireTLS, pc.Auth = s.certs.sql(), true, l.engine
	}
	l.pg, err = pgwire.NewServer(pc, gate{s, l.engine})
	return l, err
}

// tellSchemaChange lets the other nodes look at the catalog at once: a schema change waits
// until they have (SAFETY S27). One that does not hear it looks by itself soon after.
func tellSchemaChange(n *host.Node) {
	for _, id := range n.Directory.Nodes() {
		if id != n.Identity.Node {
			n.Net.Notify(id, raftnet.Control, raftnet.MethodSQLSchema, nil)
		}
	}
}

// gate refuses sessions while the node does not serve yet.
type gate struct {
	s      *Server
	engine *session.Engine
}

// Connect implements pgwire.Engine.
func (g gate) Connect(ctx context.Context, p pgwire.ConnectParams) (pgwire.Session, error) {
	if !g.s.ready.Load() {
		e := pgerror.New(pgerrcode.CannotConnectNow, "the database system is starting up: it waits for %s", *g.s.state.Load())
		e.Severity = "FATAL"
		return nil, e.WithHint("Try again in a moment, or connect to another node.")
	}
	return g.engine.Connect(ctx, p)
}

func (s *Server) waitFor(what string) { s.state.Store(&what) }

// readyEvery is how often readiness is looked at; readyProbe bounds one look.
const (
	readyEvery = 100 * time.Millisecond
	readyProbe = 3 * time.Second
)

// watchReadiness bootstraps the catalog once and then follows whether the node serves.
func (s *Server) watchReadiness(ctx context.Context, n *host.Node) {
	s.waitFor("its ranges")
	booted := false
	for {
		pctx, cancel := context.WithTimeout(ctx, readyProbe)
		err := n.Ready(pctx)
		if err == nil && !booted {
			err = s.sql.Load().engine.Bootstrap(pctx)
			booted = err == nil
		}
		cancel()
		if err != nil {
			s.waitFor(err.Error())
		}
		s.ready.Store(err == nil && ctx.Err() == nil)
		wait := readyEvery
		if err == nil {
			wait = time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// serveHTTP opens the HTTP port at once: a node that waits says what for. It is plain HTTP also where
// certificates are used: probes and scrapers have none, and it changes nothing and shows no data.
func (s *Server) serveHTTP() (stop func(), err error) {
	l, err := net.Listen("tcp", s.cfg.HTTPListen)
	if err != nil {
		return nil, fmt.Errorf("--http-listen %s: %w", s.cfg.HTTPListen, err)
	}
	srv := &http.Server{Handler: newHTTP(s, s.reg, s.cfg.FaultInjection), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	go func() { _ = srv.Serve(l) }()
	return func() { _ = srv.Close() }, nil
}

// Healthy implements status.
func (s *Server) Healthy() error { return nil }

// Ready implements status.
func (s *Server) Ready() error {
	if s.ready.Load() {
		return nil
	}
	return fmt.Errorf("not ready: waits for %s", *s.state.Load())
}

// Isolate implements status.
func (s *Server) Isolate(on bool) {
	if t := s.tcp.Load(); t != nil {
		t.Isolate(on)
	}
}

// Overview implements status. It asks no other node: it answers when all of them are gone.
func (s *Server) Overview() Overview {
	o := Overview{Zone: s.cfg.Zone, SQL: s.cfg.SQLAdvertise, Ready: s.ready.Load(), Newborn: s.newborn.Load(), Revision: s.cfg.Revision}
	if !o.Ready {
		o.Reason = "waits for " + *s.state.Load()
	}
	n := s.node.Load()
	if n == nil {
		return o
	}
	o.ClusterID, o.Node = n.Identity.ClusterID, int32(n.Identity.Node)
	replicas, leases := map[keys.NodeID]int{}, map[keys.NodeID]int{}
	for _, r := range n.Store.Ranges() {
		if r.Lease {
			leases[n.Identity.Node]++
		} else if r.Leader != 0 {
			leases[r.Leader]++
		}
		row := RangeRow{ID: int64(r.Desc.RangeID), Start: r.Desc.Start.String(), End: r.Desc.End.String(), Leaseholder: int32(r.Leader), Applied: r.Applied, Bytes: r.Bytes}
		for i, rd := range r.Desc.Replicas {
			replicas[rd.Node]++
			if i > 0 {
				row.Replicas += " "
			}
			row.Replicas += fmt.Sprintf("n%d", rd.Node)
		}
		o.Ranges = append(o.Ranges, row)
	}
	for _, d := range n.Directory.All() {
		o.Nodes = append(o.Nodes, NodeRow{ID: int32(d.ID), Region: d.Region, Zone: d.Zone, State: d.State.String(), SQL: d.SQLAddr, HTTP: d.HTTPAddr,
			Live: d.ID == n.Identity.Node || n.Agent.Live(d.ID), Replicas: replicas[d.ID], Leases: leases[d.ID]})
	}
	o.Placement = &Placement{}
	o.Placement.Lacking, o.Placement.Reason, o.Placement.Known = n.Store.Lacking(time.Now())
	if l := s.sql.Load(); l != nil {
		o.Clients = l.pg.Connections()
	}
	return o
}
