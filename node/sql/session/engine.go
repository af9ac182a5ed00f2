// Package session is a SQL session: the transaction block, settings, prepared statements,
// cursors, COPY, time-outs, and retries inside the server. It joins pgwire above with the
// planner, executor and catalog below.
package session

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/exec"
	"github.com/atolldb/atoll/node/sql/pgcatalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/atolldb/atoll/node/txn"
)

// Config is what an Engine is made of.
type Config struct {
	DB      *txn.DB
	Catalog *catalog.Manager
	// CatalogDB is what Catalog was made with.
	CatalogDB catalog.DB
	Node      keys.NodeID
	// Cluster answers the atoll.* views and functions.
	Cluster pgcatalog.ClusterInfo
	// Admin changes the cluster on SQL's behalf; nil refuses.
	Admin ClusterAdmin
	// Placement answers placement policies; nil: the node does not place data.
	Placement Placement
	// Past says what replicas without the lease can answer; nil: nothing.
	Past PastReads
	// SQLAddr is the address that clients reach this node at, for inet_server_addr.
	SQLAddr string
	// QueryMemory bounds one statement's memory, in bytes (SQLSTATE 53200 above it).
	QueryMemory int64
	Log         *slog.Logger
	Registerer  prometheus.Registerer
}

// ClusterAdmin is what SQL can ask of the cluster. The server implements it.
type ClusterAdmin interface {
	// SplitAt makes a range boundary at a key.
	SplitAt(ctx context.Context, key []byte) error
	// DrainNode makes a node give its leases away and take none, or (on false) undoes that.
	DrainNode(ctx context.Context, node int32, on bool) error
	// DecommissionNode moves all replicas off a node and forgets it.
	DecommissionNode(ctx context.Context, node int32, dead bool) error
}

// Engine makes sessions. It implements client.Engine.
type Engine struct {
	cfg     Config
	metrics engineMetrics

	started time.Time
	memory  *exec.Memory // of all statements

	mu       sync.Mutex
	sessions map[*Session]struct{}
}

type engineMetrics struct {
	retries prometheus.Counter
}

// NewEngine returns an engine.
func NewEngine(cfg Config) (*Engine, error) {
	if cfg.QueryMemory == 0 {
		cfg.QueryMemory = 256 << 20
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{cfg: cfg, memory: exec.NewMemory("node", 8*cfg.QueryMemory, nil), started: time.Now(), sessions: map[*Session]struct{}{}}
	e.metrics.retries = prometheus.NewCounter(prometheus.CounterOpts{Name: "atoll_sql_statement_retries_total",
		Help: "Statements run again inside the server after a conflict."})
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(e.metrics.retries); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// connectTimeout bounds how long a client waits for its session when ranges do not answer.
const connectTimeout = 20 * time.Second

// Connect implements client.Engine.
func (e *Engine) Connect(ctx context.Context, p client.ConnectParams) (client.Session, error) {
	s := &Session{
		eng: e, ctx: ctx, notify: p.Notify, user: p.User, sessionUser: p.User, database: p.Database, pid: p.ProcessID, remote: p.RemoteAddr,
		started: time.Now(), vars: newSettings(), env: types.DefaultEnv(), reported: map[string]string{},
		named: map[string]*namedStatement{}, cursors: map[string]*cursor{},
	}
	cctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	superuser, err := s.identify(cctx)
	s.rollback() // identify only read
	s.note("idle", "")
	if err != nil {
		return nil, err
	}
	s.vars.defaults["session_authorization"] = p.User
	s.vars.defaults["is_superuser"] = map[bool]string{true: "on", false: "off"}[superuser]
	if err := s.startupSettings(p.Settings); err != nil {
		return nil, err
	}
	s.applySettings()
	e.mu.Lock()
	e.sessions[s] = struct{}{}
	e.mu.Unlock()
	return s, nil
}

// identify looks the database and the role up.
func (s *Session) identify(ctx context.Context) (superuser bool, err error) {
	view := s.catalogView()
	role, err := view.ResolveRole(ctx, s.user)
	if err != nil || role == nil {
		return false, firstError(err, fatalError(pgerrcode.InvalidAuthorizationSpecification, "role %q does not exist", s.user))
	}
	if !role.Login {
		return false, fatalError(pgerrcode.InvalidAuthorizationSpecification, "role %q is not permitted to log in", s.user)
	}
	db, err := view.ResolveDatabase(ctx, s.database)
	if err != nil || db == nil {
		return false, firstError(err, fatalError(pgerrcode.InvalidCatalogName, "database %q does not exist", s.database))
	}
	s.databaseID, s.roleID, s.role = db.ID, role.ID, role
	return role.Superuser, nil
}

func firstError(err error, otherwise *pgerror.Error) error {
	if pe, ok := err.(*pgerror.Error); ok && (pe.Code == pgerrcode.UndefinedObject || pe.Code == pgerrcode.InvalidCatalogName) {
		return otherwise
	}
	if err != nil {
		return err
	}
	return otherwise
}

func fatalError(code, format string, args ...any) *pgerror.Error {
	e := pgerror.New(code, format, args...)
	e.Severity = "FATAL"
	return e
}

// startupSettings takes the parameters of the startup message, options included.
func (s *Session) startupSettings(params map[string]string) error {
	set := func(name, value string) error {
		v, err := normalize(name, value)
		if err != nil {
			return err
		}
		s.vars.defaults[strings.ToLower(name)] = v
		return nil
	}
	for name, value := range params {
		switch name {
		case "options":
			words := strings.Fields(value)
			for i := 0; i < len(words); i++ {
				opt := strings.TrimPrefix(words[i], "--")
				if words[i] == "-c" && i+1 < len(words) {
					i++
					opt = words[i]
				} else {
					opt = strings.TrimPrefix(opt, "-c")
				}
				n, v, ok := strings.Cut(opt, "=")
				if !ok {
					return fatalError(pgerrcode.SyntaxError, "invalid command-line argument for server process: %s", words[i])
				}
				if err := set(n, v); err != nil {
					return err
				}
			}
		case "replication":
			if value != "" && value != "false" && value != "off" && value != "0" {
				return fatalError(pgerrcode.FeatureNotSupported, "replication connections are not supported")
			}
		default:
			if strings.HasPrefix(name, "_pq_.") {
				continue
			}
			if err := set(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// OldestRead returns the oldest timestamp that an open transaction of this node may still
// read at; now if none is open. Garbage collection keeps what it needs.
func (e *Engine) OldestRead(now hlc.Timestamp) hlc.Timestamp {
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.sessions {
		if w := s.oldest.Load(); w != 0 && w < now.WallNanos {
			now = hlc.Timestamp{WallNanos: w}
		}
	}
	return now
}

func (e *Engine) forget(s *Session) {
	e.mu.Lock()
	delete(e.sessions, s)
	e.mu.Unlock()
}

// catalogView returns the block's view of the catalog.
func (s *Session) catalogView() *catalog.Collection {
	t := s.kvTxn()
	if s.view == nil {
		if s.tx.asOf.IsEmpty() {
			s.view = s.eng.cfg.Catalog.NewCollection(catalogTxn{t})
		} else {
			s.view = s.eng.cfg.Catalog.NewPastCollection(catalogTxn{t})
		}
	}
	return s.view
}

// catalogPath is what names are resolved with.
func (s *Session) catalogPath() catalog.Path {
	return catalog.Path{Database: s.databaseID, DatabaseName: s.database, Search: s.path, User: s.user}
}

// beforeCommit publishes what the block changed in the catalog.
func (e *Engine) beforeCommit(ctx context.Context, s *Session) error {
	if s.view == nil {
		return nil
	}
	return s.view.BeforeCommit(ctx)
}

// dropUncommitted ends the view of the block that has ended.
func (s *Session) dropUncommitted(committed bool) { s.dropView(s.ctx, committed) }

func (s *Session) dropView(ctx context.Context, committed bool) {
	if s.view != nil {
		v := s.view
		s.view = nil
		v.Finish(ctx, committed)
	}
}

// afterCommit runs what a commit leaves to do.
func (s *Session) afterCommit(context.Context) error { return nil }
