package raftnet

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/keys"
)

// BootRegistry remembers the highest boot counter seen of every node (SAFETY S18). The
// nonce tells apart two processes that use the same counter.
type BootRegistry interface {
	// Highest returns what Record stored last, or zeros.
	Highest(node keys.NodeID) (boot, nonce uint64)
	// Record stores it durably before it returns.
	Record(node keys.NodeID, boot, nonce uint64) error
}

// TCPConfig configures ListenTCP.
type TCPConfig struct {
	// Listen is the address to listen on, or use Listener.
	Listen   string
	Listener net.Listener
	// Identity may be empty until SetIdentity.
	Identity Identity
	// Resolve returns the address of a node (SAFETY S29).
	Resolve func(keys.NodeID) (addr string, ok bool)
	// Boots checks and stores boot counters; nil keeps them in memory.
	Boots BootRegistry
	// OnStale is called, once, when this node's identity has been taken over by a later
	// incarnation, or is not of this cluster; the node must stop.
	OnStale func(error)
	// ServerTLS and ClientTLS switch TLS on, both or none.
	ServerTLS, ClientTLS *tls.Config

	// ConnectTimeout bounds dialing with both handshakes. Default 2 s.
	ConnectTimeout time.Duration
	// MinBackoff and MaxBackoff bound the pause after a failed dial. 50 ms and 1 s.
	MinBackoff, MaxBackoff time.Duration
	// IdleTimeout closes a connection from which nothing has come for so long (Control:
	// half of it); pings go out at a third of it. Default 3 s.
	IdleTimeout time.Duration
	// LazyDelay is how long raft's idle heartbeats wait to share a write. Default 20 ms.
	LazyDelay time.Duration
	// MaxQueueBytes bounds what waits to be written per connection. Default 128 MiB.
	MaxQueueBytes int
	// MaxConns bounds accepted connections. Default 4096.
	MaxConns int

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// EnsureDefaults fills what is unset.
func (c *TCPConfig) EnsureDefaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.ConnectTimeout, 2*time.Second)
	set(&c.MinBackoff, 50*time.Millisecond)
	set(&c.MaxBackoff, time.Second)
	set(&c.IdleTimeout, 3*time.Second)
	set(&c.LazyDelay, 20*time.Millisecond)
	if c.MaxQueueBytes == 0 {
		c.MaxQueueBytes = 128 << 20
	}
	if c.MaxConns == 0 {
		c.MaxConns = 4096
	}
	if c.Resolve == nil {
		c.Resolve = func(keys.NodeID) (string, bool) { return "", false }
	}
	if c.Boots == nil {
		c.Boots = &memBoots{}
	}
	if c.OnStale == nil {
		c.OnStale = func(error) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate lists every fault of the configuration.
func (c *TCPConfig) Validate() error {
	var errs []error
	if c.Listen == "" && c.Listener == nil {
		errs = append(errs, errors.New("raftnet: Listen is empty; name an address such as 127.0.0.1:0"))
	}
	if (c.ServerTLS == nil) != (c.ClientTLS == nil) {
		errs = append(errs, errors.New("raftnet: ServerTLS and ClientTLS must be set both or not at all"))
	}
	for _, d := range []struct {
		name   string
		v, min time.Duration
	}{
		{"ConnectTimeout", c.ConnectTimeout, time.Millisecond}, {"MinBackoff", c.MinBackoff, time.Millisecond},
		{"MaxBackoff", c.MaxBackoff, c.MinBackoff}, {"IdleTimeout", c.IdleTimeout, 30 * time.Millisecond}, {"LazyDelay", c.LazyDelay, 0},
	} {
		if d.v < d.min {
			errs = append(errs, fmt.Errorf("raftnet: %s is %v, the minimum is %v", d.name, d.v, d.min))
		}
	}
	if c.MaxQueueBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("raftnet: MaxQueueBytes is %d, the minimum is %d", c.MaxQueueBytes, 1<<20))
	}
	if c.MaxConns < 1 {
		errs = append(errs, fmt.Errorf("raftnet: MaxConns is %d, the minimum is 1", c.MaxConns))
	}
	return errors.Join(errs...)
}

// memBoots is the BootRegistry of tests.
type memBoots struct {
	mu sync.Mutex
	m  map[keys.NodeID][2]uint64
}

func (b *memBoots) Highest(n keys.NodeID) (boot, nonce uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.m[n][0], b.m[n][1]
}

func (b *memBoots) Record(n keys.NodeID, boot, nonce uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.m == nil {
		b.m = map[keys.NodeID][2]uint64{}
	}
	b.m[n] = [2]uint64{boot, nonce}
	return nil
}

// TCP is the Network over TCP, with one connection per direction, node pair and class.
type TCP struct {
	mux
	isolated      atomic.Bool  // fault injection
	refusalLogged atomic.Int64 // when a refused connection was last worth a warning; unix nanoseconds
	cfg           TCPConfig
	ln            net.Listener
	nonce         uint64
	barred        atomic.Pointer[func(keys.NodeID) bool]
	id            atomic.Pointer[Identity]
	ctx           context.Context
	cancel        context.CancelFunc
	wg            sync.WaitGroup
	metrics       *tcpMetrics
	stale         sync.Once

	mu       sync.Mutex
	closed   bool
	links    map[linkKey]*link
	conns    map[*conn]struct{}
	accepted int
	raw      map[net.Conn]struct{} // in handshake
	bootMu   sync.Mutex            // serializes check and Record of boot counters
}

var _ Network = (*TCP)(nil)

type linkKey struct {
	node  keys.NodeID
	class Class
}

// link is the dialing side of one node and class.
type link struct {
	mu       sync.Mutex
	conn     *conn
	dialing  chan struct{} // closed when the dial in progress has ended
	failures int
	nextDial time.Time
	lastErr  error
}

// live returns the connection unless it has failed. REQUIRES: mu is held.
func (l *link) live() *conn {
	if l.conn != nil && l.conn.ctx.Err() != nil {
		l.conn = nil
	}
	return l.conn
}

// ListenTCP starts a Network. Register handlers before the node tells others its address.
func ListenTCP(cfg TCPConfig) (*TCP, error) {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	ln := cfg.Listener
	if ln == nil {
		var err error
		if ln, err = net.Listen("tcp", cfg.Listen); err != nil {
			return nil, fmt.Errorf("raftnet: can't listen on %s: %w", cfg.Listen, err)
		}
	}
	var nb [8]byte
	if _, err := rand.Read(nb[:]); err != nil {
		ln.Close()
		return nil, err
	}
	t := &TCP{cfg: cfg, ln: ln, nonce: newNonce(nb), links: map[linkKey]*link{}, conns: map[*conn]struct{}{}, raw: map[net.Conn]struct{}{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.metrics = newTCPMetrics(cfg.Registerer)
	t.id.Store(&cfg.Identity)
	t.wg.Add(2)
	go t.acceptLoop()
	go t.monitor()
	return t, nil
}

// Addr returns the address that is listened on.
func (t *TCP) Addr() net.Addr { return t.ln.Addr() }

// Self implements Network.
func (t *TCP) Self() keys.NodeID { return t.id.Load().Node }

// SetIdentity gives the node its identity once it is founded or admitted. The boot
// counter must be synced already (SAFETY S18).
func (t *TCP) SetIdentity(id Identity) { t.id.Store(&id) }

// Bar refuses connections with the nodes for which lost returns true: they were given up for good, and
// may hold what the others went on without (SAFETY S18). Such a node is told so, and stops.
func (t *TCP) Bar(lost func(keys.NodeID) bool) { t.barred.Store(&lost) }

func (t *TCP) bars(n keys.NodeID) bool {
	f := t.barred.Load()
	return f != nil && n != 0 && (*f)(n)
}

// DropBarred closes the connections with nodes that are barred by now.
func (t *TCP) DropBarred() {
	t.mu.Lock()
	var out []*conn
	for k := range t.conns {
		if t.bars(k.peer) {
			out = append(out, k)
		}
	}
	t.mu.Unlock()
	for _, k := range out {
		k.fail(fmt.Errorf("n%d was given up as lost", k.peer))
	}
}

// Call implements Network.
func (t *TCP) Call(ctx context.Context, to keys.NodeID, class Class, method Method, payload []byte) ([]byte, error) {
	if err := checkSize(payload); err != nil {
		return nil, err
	}
	if to == t.Self() && to != 0 {
		return t.callSelf(ctx, method, payload)
	}
	k, err := t.connTo(ctx, to, class)
	if err != nil {
		return nil, err
	}
	return k.call(ctx, method, payload)
}

// Notify implements Network.
func (t *TCP) Notify(to keys.NodeID, class Class, method Method, payload []byte) {
	if checkSize(payload) != nil {
		return
	}
	if to == t.Self() && to != 0 {
		body := append([]byte(nil), payload...)
		go t.dispatch(func() (context.Context, context.CancelFunc) { return t.ctx, func() {} }, to, method, body, noReply{})
		return
	}
	l := t.link(to, class)
	if l == nil {
		return
	}
	l.mu.Lock()
	k := l.live()
	if k == nil {
		t.dialLocked(l, to, class)
	}
	l.mu.Unlock()
	if k != nil {
		_ = k.post(&frame{kind: kindNotify, method: method, payload: payload}, t.cfg.MaxQueueBytes, false)
	}
}

// selfReply hands an answer to a local caller.
type selfReply struct{ ch chan callResult }

func (r selfReply) Reply(payload []byte, err error) {
	if err != nil {
		err = asRemote(err)
	}
	select {
	case r.ch <- callResult{append([]byte(nil), payload...), err}:
	default:
	}
}

func (t *TCP) callSelf(ctx context.Context, method Method, payload []byte) ([]byte, error) {
	r := selfReply{make(chan callResult, 1)}
	t.dispatch(func() (context.Context, context.CancelFunc) { return context.WithCancel(ctx) }, t.Self(), method, append([]byte(nil), payload...), r)
	select {
	case x := <-r.ch:
		return x.out, x.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.ctx.Done():
		return nil, ErrClosed
	}
}

func (t *TCP) link(to keys.NodeID, class Class) *link {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || class >= numClasses {
		return nil
	}
	k := linkKey{to, class}
	l := t.links[k]
	if l == nil {
		l = &link{}
		t.links[k] = l
	}
	return l
}

// connTo returns the connection to a node, dialing if the last failure is long enough ago.
func (t *TCP) connTo(ctx context.Context, to keys.NodeID, class Class) (*conn, error) {
	l := t.link(to, class)
	if l == nil {
		return nil, ErrClosed
	}
	for {
		l.mu.Lock()
		if k := l.live(); k != nil {
			l.mu.Unlock()
			return k, nil
		}
		wait := t.dialLocked(l, to, class)
		if wait == nil {
			err := l.lastErr
			l.mu.Unlock()
			return nil, fmt.Errorf("%w: n%d: %v", ErrUnreachable, to, err)
		}
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: n%d: %w", ErrUnreachable, to, ctx.Err())
		case <-t.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// dialLocked returns a channel that is closed when the dial in progress ends; it starts
// one unless the last failure is too recent (then nil).
func (t *TCP) dialLocked(l *link, to keys.NodeID, class Class) chan struct{} {
	if l.dialing != nil {
		return l.dialing
	}
	if time.Now().Before(l.nextDial) {
		return nil
	}
	if !t.spawn(1) {
		l.lastErr = ErrClosed
		return nil
	}
	done := make(chan struct{})
	l.dialing = done
	go func() {
		defer t.wg.Done()
		k, err := t.dial(to, class)
		l.mu.Lock()
		l.dialing = nil
		if err != nil {
			l.lastErr = err
			d := t.cfg.MinBackoff << min(l.failures, 10)
			l.failures++
			l.nextDial = time.Now().Add(min(d, t.cfg.MaxBackoff))
		} else {
			l.conn = k
			l.failures = 0
			l.nextDial = time.Now().Add(t.cfg.MinBackoff)
		}
		l.mu.Unlock()
		close(done)
		if err == nil {
			k.run()
		}
	}()
	return done
}

// spawn accounts for n goroutines that Close waits for.
func (t *TCP) spawn(n int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Add(n)
	return true
}

// gone forgets a connection that has failed.
func (t *TCP) gone(k *conn, err error) {
	t.mu.Lock()
	delete(t.conns, k)
	if !k.dialed {
		t.accepted--
	}
	l := t.links[linkKey{k.peer, k.class}]
	t.mu.Unlock()
	if k.dialed && l != nil {
		l.mu.Lock()
		if l.conn == k {
			l.conn = nil
			l.lastErr = err
		}
		l.mu.Unlock()
	}
	if t.ctx.Err() == nil {
		t.cfg.Logger.Debug("connection closed", "node", t.Self(), "peer", k.peer, "class", k.class.String(), "err", err)
	}
}

// monitor pings quiet connections and closes dead ones.
func (t *TCP) monitor() {
	defer t.wg.Done()
	tick := time.NewTicker(t.cfg.IdleTimeout / 6)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-t.ctx.Done():
			return
		}
		t.mu.Lock()
		all := make([]*conn, 0, len(t.conns))
		for k := range t.conns {
			all = append(all, k)
		}
		t.mu.Unlock()
		for _, k := range all {
			if p := k.progress.Load(); p != k.lastSeen {
				k.lastSeen, k.idleTicks = p, 0
				continue
			}
			k.idleTicks++
			limit, ping := 6, 2
			switch {
			case !k.dialed:
				limit = 18 // the dialing side pings; this one waits longer
			case k.class == Control:
				// TCP's own retries slow down while a link is cut. A new connection
				// brings heartbeats back sooner once it has healed.
				limit, ping = 3, 1
			}
			if k.idleTicks >= limit {
				k.fail(fmt.Errorf("nothing was received for %v", t.cfg.IdleTimeout*time.Duration(limit)/6))
			} else if k.dialed && k.idleTicks >= ping {
				_ = k.post(&frame{kind: kindPing}, t.cfg.MaxQueueBytes, false)
			}
		}
	}
}

// Close implements Network.
func (t *TCP) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		t.wg.Wait()
		return nil
	}
	t.closed = true
	conns := make([]*conn, 0, len(t.conns))
	for k := range t.conns {
		conns = append(conns, k)
	}
	for c := range t.raw {
		c.Close()
	}
	t.mu.Unlock()
	t.cancel()
	err := t.ln.Close()
	for _, k := range conns {
		k.fail(ErrClosed)
	}
	t.wg.Wait()
	return err
}
