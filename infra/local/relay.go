package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of the relay.
const (
	maxRelayed   = 4096                   // connections at a time, over all listeners
	dialStagger  = 150 * time.Millisecond // before the next node is tried beside the last one
	dialTimeout  = 5 * time.Second
	slackMemory  = 5 * time.Second       // how long an address that was late is tried last
	relayBacklog = 10 * time.Millisecond // pause after a failed accept
)

// relayKeepAlive makes a connection to a zone that is cut off end within about four seconds, so that
// its client is told.
var relayKeepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 2}

// relayRoute is a listener of the host and where its connections go.
type relayRoute struct {
	name    string
	targets []string // addresses that serve the same; any will do
	near    int      // how many of them, from the first on, are tried before the others
}

// relayRoutes lists the API server first and then the forwards, in the order in which relayListen
// opens their listeners.
func (c Config) relayRoutes() []relayRoute {
	rs := []relayRoute{{name: "kubernetes", targets: []string{fmt.Sprintf("%s:%d", controlIP, apiPort)}}}
	for _, f := range c.Forwards {
		r := relayRoute{name: f.Name}
		for _, n := range c.Nodes() {
			at := fmt.Sprintf("%s:%d", n.IP(), f.NodePort)
			if n.Zone == f.Zone {
				r.targets = slices.Insert(r.targets, r.near, at)
				r.near++
			} else {
				r.targets = append(r.targets, at)
			}
		}
		rs = append(rs, r)
	}
	return rs
}

// relayListen opens the relay's listeners on the host.
func (c Config) relayListen() (files []*os.File, err error) {
	addrs := []string{fmt.Sprintf("127.0.0.1:%d", c.APIPort)}
	for _, f := range c.Forwards {
		addrs = append(addrs, f.Listen)
	}
	var errs []error
	for _, a := range addrs {
		ln, err := net.Listen("tcp", a)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w; end what listens there, or choose another port", err))
			continue
		}
		f, err := ln.(*net.TCPListener).File()
		ln.Close() // the file is a second handle
		if err != nil {
			errs = append(errs, err)
			continue
		}
		files = append(files, f)
	}
	if err := errors.Join(errs...); err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, err
	}
	return files, nil
}

// runRelay serves the listeners that it was started with, which belong to the host, from within the
// network namespace of the bridge: it listens here and dials there.
func runRelay(ctx context.Context, log *slog.Logger, c Config) error {
	r := &relay{log: log, slots: make(chan struct{}, maxRelayed)}
	for i, route := range c.relayRoutes() {
		f := os.NewFile(uintptr(3+i), route.name)
		ln, err := net.FileListener(f)
		if err != nil {
			return fmt.Errorf("relay %s: descriptor %d: %w", route.name, 3+i, err)
		}
		f.Close()
		go r.serve(ctx, ln, &targets{addrs: route.targets, near: route.near, name: route.name})
	}
	log.Info("the relay is up")
	<-ctx.Done()
	return context.Cause(ctx)
}

type relay struct {
	log   *slog.Logger
	slots chan struct{}
}

func (r *relay) serve(ctx context.Context, ln net.Listener, to *targets) {
	for ctx.Err() == nil {
		conn, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(relayBacklog)
			continue
		}
		select {
		case r.slots <- struct{}{}:
			go func() {
				defer func() { <-r.slots }()
				r.carry(ctx, conn, to)
			}()
		default:
			r.log.Warn("a connection is refused: too many", "route", to.name, "limit", maxRelayed)
			conn.Close()
		}
	}
}

// carry copies both ways until either side fails or both have finished.
func (r *relay) carry(ctx context.Context, client net.Conn, to *targets) {
	defer client.Close()
	server, err := to.dial(ctx)
	if err != nil {
		r.log.Warn("nobody answers", "route", to.name, "err", err)
		reset(client)
		return
	}
	defer server.Close()
	var wg sync.WaitGroup
	pass := func(dst, src net.Conn) {
		defer wg.Done()
		if _, err := io.Copy(dst, src); err != nil {
			reset(dst) // an error is passed on as one, not as an orderly end
			src.Close()
			return
		}
		_ = dst.(*net.TCPConn).CloseWrite()
	}
	wg.Add(2)
	go pass(server, client)
	go pass(client, server)
	wg.Wait()
}

// reset closes a connection so that its peer sees an error.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	c.Close()
}

// targets are addresses that serve the same. The first near of them are tried before the others.
type targets struct {
	name  string
	addrs []string
	near  int
	next  atomic.Uint32

	mu    sync.Mutex
	slack map[string]time.Time // when an address did not answer in time
}

// order lists the addresses for one connection: those that answered lately before those that did
// not, near ones before others, and among equals the one whose turn it is.
func (t *targets) order(now time.Time) []string {
	turn := int(t.next.Add(1) - 1)
	var out []string
	rotate := func(group []string) {
		for i := range group {
			out = append(out, group[(turn+i)%len(group)])
		}
	}
	rotate(t.addrs[:t.near])
	rotate(t.addrs[t.near:])
	t.mu.Lock()
	defer t.mu.Unlock()
	late := func(a string) int {
		if since, ok := t.slack[a]; ok && now.Sub(since) < slackMemory {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b string) int { return late(a) - late(b) })
	return out
}

// answered remembers whether an address answered in time.
func (t *targets) answered(addr string, ok bool, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ok {
		delete(t.slack, addr)
		return
	}
	if t.slack == nil {
		t.slack = map[string]time.Time{}
	}
	t.slack[addr] = now
}

// dialed is how one try to connect ended.
type dialed struct {
	addr string
	conn net.Conn
	err  error
}

// dial connects to the address whose turn it is. When that one has not answered after dialStagger,
// or refuses, the next is tried beside it; the first that answers is taken.
func (t *targets) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addrs := t.order(time.Now())
	results := make(chan dialed, len(addrs))
	d := net.Dialer{KeepAliveConfig: relayKeepAlive, Control: relaySocket}
	started, open := 0, 0
	try := func() {
		a := addrs[started]
		started++
		open++
		go func() {
			conn, err := d.DialContext(ctx, "tcp", a)
			results <- dialed{a, conn, err}
		}()
	}
	try()
	timer := time.NewTicker(dialStagger)
	defer timer.Stop()
	var errs []error
	for {
		select {
		case r := <-results:
			open--
			t.answered(r.addr, r.err == nil, time.Now())
			if r.err == nil {
				go discard(results, open)
				return r.conn, nil
			}
			errs = append(errs, r.err)
			if started < len(addrs) {
				try()
			} else if open == 0 {
				return nil, errors.Join(errs...)
			}
		case <-timer.C:
			if started < len(addrs) {
				t.answered(addrs[started-1], false, time.Now())
				try()
			}
		}
	}
}

// discard closes connections that were made too late to be of use.
func discard(results <-chan dialed, open int) {
	for range open {
		if late := <-results; late.err == nil {
			late.conn.Close()
		}
	}
}
