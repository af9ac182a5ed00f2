package pgwire

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Server serves SQL clients.
type Server struct {
	cfg     Config
	engine  Engine
	metrics metrics

	pid atomic.Uint32

	mu       sync.Mutex
	conns    map[uint32]*conn // by process ID
	closing  bool
	wg       sync.WaitGroup
	listener []net.Listener
}

type metrics struct {
	connections prometheus.Gauge
	refused     prometheus.Counter
	statements  prometheus.Counter
	errors      *prometheus.CounterVec
}

// NewServer returns a server for an engine. The configuration must be valid.
func NewServer(cfg Config, engine Engine) (*Server, error) {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, engine: engine, conns: map[uint32]*conn{}}
	s.metrics = metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "atoll_sql_connections", Help: "Connected SQL clients."}),
		refused:     prometheus.NewCounter(prometheus.CounterOpts{Name: "atoll_sql_connections_refused_total", Help: "Clients refused because of MaxConnections."}),
		statements:  prometheus.NewCounter(prometheus.CounterOpts{Name: "atoll_sql_statements_total", Help: "Statements run."}),
		errors:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "atoll_sql_errors_total", Help: "Errors sent, by SQLSTATE class."}, []string{"class"}),
	}
	for _, c := range []prometheus.Collector{s.metrics.connections, s.metrics.refused, s.metrics.statements, s.metrics.errors} {
		if err := cfg.Registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Serve accepts clients until the listener or the server is closed. It returns nil after Close.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return l.Close()
	}
	s.listener = append(s.listener, l)
	s.mu.Unlock()
	for {
		nc, err := l.Accept()
		if err != nil {
			s.mu.Lock()
			closing := s.closing
			s.mu.Unlock()
			if closing || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		s.start(nc)
	}
}

// start serves one client in a goroutine of its own.
func (s *Server) start(nc net.Conn) {
	c := newConn(s, nc)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		_ = nc.Close()
		return
	}
	// A few more than MaxConnections are let in, so that cancel requests still work and the
	// others get told why.
	tooMany := len(s.conns) >= s.cfg.MaxConnections
	if len(s.conns) >= s.cfg.MaxConnections+64 {
		s.mu.Unlock()
		s.metrics.refused.Inc()
		_ = nc.Close()
		return
	}
	c.pid = s.nextPID()
	s.conns[c.pid] = c
	s.wg.Add(1)
	s.mu.Unlock()
	s.metrics.connections.Inc()
	go func() {
		defer s.wg.Done()
		defer s.metrics.connections.Dec()
		defer func() {
			s.mu.Lock()
			delete(s.conns, c.pid)
			s.mu.Unlock()
		}()
		c.serve(tooMany)
	}()
}

// nextPID returns a process ID that no connection has. REQUIRES: s.mu held.
func (s *Server) nextPID() uint32 {
	for {
		id := s.pid.Add(1) & 0x7fffffff
		if _, taken := s.conns[id]; !taken && id != 0 {
			return id
		}
	}
}

// cancel interrupts the session that has this key; a wrong key does nothing, as in PostgreSQL.
func (s *Server) cancel(pid uint32, secret []byte) {
	s.mu.Lock()
	c := s.conns[pid]
	s.mu.Unlock()
	if c == nil || len(secret) != 4 || binary.BigEndian.Uint32(secret) != c.secret {
		return
	}
	if sess := c.current.Load(); sess != nil {
		(*sess).Cancel()
	}
}

// Connections returns how many clients are connected.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Close stops accepting, tells every client that the node goes (SQLSTATE 57P01), and waits
// until all sessions have ended or the context is done.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for _, l := range s.listener {
		_ = l.Close()
	}
	conns := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.shutdown()
	}
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		for _, c := range conns {
			_ = c.nc.Close()
		}
		return ctx.Err()
	}
}

func randomSecret() uint32 {
	var b [4]byte
	_, _ = crand.Read(b[:]) // never fails since Go 1.24
	return binary.BigEndian.Uint32(b[:])
}
