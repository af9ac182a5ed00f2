package raftnet

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/keys"
)

// dial connects to a node and introduces both sides. On success the connection is
// registered and its goroutines are accounted for; the caller runs it.
func (t *TCP) dial(to keys.NodeID, class Class) (*conn, error) {
	if t.bars(to) {
		return nil, fmt.Errorf("n%d was given up as lost", to)
	}
	addr, ok := t.cfg.Resolve(to)
	if !ok {
		return nil, fmt.Errorf("the node directory has no address for n%d", to)
	}
	me := *t.id.Load()
	c, h, err := t.connect(t.ctx, addr, &hello{id: me, class: class, target: to, anonymous: me.Node == 0})
	if err != nil {
		return nil, err
	}
	if h.id.Node != to {
		c.Close()
		return nil, fmt.Errorf("%s is n%d, the node directory says n%d", addr, h.id.Node, to)
	}
	if err := t.checkBoot(&h); err != nil {
		c.Close()
		return nil, err
	}
	k := newConn(t, c, to, h.id.Boot, class, true)
	if !t.register(k) {
		c.Close()
		return nil, ErrClosed
	}
	t.metrics.connects.Inc()
	return k, nil
}

// register makes a connection known to Close and to the monitor.
func (t *TCP) register(k *conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Add(2)
	t.conns[k] = struct{}{}
	return true
}

// connect dials and runs the client's side of the handshakes.
func (t *TCP) connect(ctx context.Context, addr string, h *hello) (net.Conn, hello, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.ConnectTimeout)
	defer cancel()
	if t.isolated.Load() {
		<-ctx.Done() // a dropped SYN says nothing
		return nil, hello{}, errIsolated
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, hello{}, err
	}
	if !t.trackRaw(c) {
		c.Close()
		return nil, hello{}, ErrClosed
	}
	defer t.untrackRaw(c)
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	var s net.Conn = c
	if t.cfg.ClientTLS != nil {
		cfg := t.cfg.ClientTLS.Clone()
		if cfg.ServerName == "" && !cfg.InsecureSkipVerify {
			cfg.ServerName, _, _ = net.SplitHostPort(addr)
		}
		tc := tls.Client(c, cfg)
		if err := tc.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, hello{}, fmt.Errorf("TLS with %s: %w", addr, err)
		}
		s = tc
	}
	h.minProto, h.maxProto, h.nonce = protocolV1, protocolV1, t.nonce
	if err := writeHello(s, h); err != nil {
		c.Close()
		return nil, hello{}, err
	}
	w, err := readHello(s)
	if err != nil {
		c.Close()
		return nil, hello{}, fmt.Errorf("handshake with %s: %w", addr, err)
	}
	if w.reject != 0 {
		c.Close()
		err := fmt.Errorf("%s refused the connection: %s", addr, w.message)
		if (w.reject == rejectStaleBoot || w.reject == rejectLost) && !h.anonymous {
			t.stale.Do(func() { go t.cfg.OnStale(err) })
		}
		return nil, hello{}, err
	}
	if w.minProto > protocolV1 || w.maxProto < protocolV1 {
		c.Close()
		return nil, hello{}, fmt.Errorf("%s speaks protocol versions %d to %d, this node version %d", addr, w.minProto, w.maxProto, protocolV1)
	}
	if me := h.id.ClusterID; !h.anonymous && me != "" && w.id.ClusterID != me {
		c.Close()
		return nil, hello{}, fmt.Errorf("%s belongs to cluster %q, this node to %q", addr, w.id.ClusterID, me)
	}
	_ = c.SetDeadline(time.Time{})
	return s, w, nil
}

func (t *TCP) trackRaw(c net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.raw[c] = struct{}{}
	return true
}

func (t *TCP) untrackRaw(c net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.raw, c)
}

// errStaleBoot marks a node that presents a boot counter at or below one seen before.
var errStaleBoot = errors.New("stale boot counter")

// checkBoot applies S18 to the other side's identity and remembers what is new.
func (t *TCP) checkBoot(h *hello) error {
	if h.id.Node == 0 || h.anonymous {
		return nil
	}
	t.bootMu.Lock()
	defer t.bootMu.Unlock()
	boot, nonce := t.cfg.Boots.Highest(h.id.Node)
	switch {
	case h.id.Boot < boot, h.id.Boot == boot && nonce != 0 && nonce != h.nonce:
		h.seenBoot = boot
		return fmt.Errorf("%w: n%d presents boot counter %d, but %d has been seen (by another process); only one process may use a node's store", errStaleBoot, h.id.Node, h.id.Boot, boot)
	case h.id.Boot == boot && nonce == h.nonce:
		return nil
	}
	if err := t.cfg.Boots.Record(h.id.Node, h.id.Boot, h.nonce); err != nil {
		return fmt.Errorf("raftnet: can't record boot counter %d of n%d: %w", h.id.Boot, h.id.Node, err)
	}
	t.dropOlder(h.id.Node, h.id.Boot)
	return nil
}

// dropOlder closes connections with earlier incarnations of a node.
func (t *TCP) dropOlder(n keys.NodeID, boot uint64) {
	t.mu.Lock()
	var old []*conn
	for k := range t.conns {
		if k.peer == n && k.boot < boot {
			old = append(old, k)
		}
	}
	t.mu.Unlock()
	for _, k := range old {
		k.fail(fmt.Errorf("n%d has restarted (boot counter %d)", n, boot))
	}
}

func (t *TCP) acceptLoop() {
	defer t.wg.Done()
	pause := time.Millisecond
	for {
		c, err := t.ln.Accept()
		if err != nil {
			if t.ctx.Err() != nil {
				return
			}
			if errors.Is(err, net.ErrClosed) {
				t.cfg.Logger.Error("listener closed", "node", t.Self(), "err", err)
				return
			}
			// Out of file descriptors, most likely: wait, and don't spin.
			select {
			case <-time.After(pause):
			case <-t.ctx.Done():
				return
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = time.Millisecond
		if !t.admit(c) {
			c.Close()
			continue
		}
		go func() {
			defer t.wg.Done()
			t.accept(c)
		}()
	}
}

// admit counts a connection against the limit.
func (t *TCP) admit(c net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.accepted >= t.cfg.MaxConns {
		t.metrics.refused.Inc()
		return false
	}
	t.accepted++
	t.raw[c] = struct{}{}
	t.wg.Add(1)
	return true
}

// accept runs the server's side of the handshakes and starts the connection.
func (t *TCP) accept(c net.Conn) {
	var k *conn
	err := errIsolated
	if !t.isolated.Load() {
		k, err = t.greet(c)
	}
	t.untrackRaw(c)
	if err == nil && t.register(k) {
		k.run()
		return
	}
	c.Close()
	t.mu.Lock()
	t.accepted--
	t.mu.Unlock()
	t.metrics.refused.Inc()
	if err != nil && t.ctx.Err() == nil {
		t.cfg.Logger.Log(t.ctx, t.refusalLevel(), "connection refused", "node", t.Self(), "remote", c.RemoteAddr().String(), "err", err)
	}
}

// refusalEvery is how often a refused connection is worth a warning: a node whose directory
// is out of date tries several times a second.
const refusalEvery = 10 * time.Second

func (t *TCP) refusalLevel() slog.Level {
	now, last := time.Now().UnixNano(), t.refusalLogged.Load()
	if now-last < int64(refusalEvery) || !t.refusalLogged.CompareAndSwap(last, now) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

func (t *TCP) greet(c net.Conn) (*conn, error) {
	deadline := time.Now().Add(t.cfg.ConnectTimeout)
	_ = c.SetDeadline(deadline)
	var s net.Conn = c
	if t.cfg.ServerTLS != nil {
		tc := tls.Server(c, t.cfg.ServerTLS)
		ctx, cancel := context.WithDeadline(t.ctx, deadline)
		defer cancel()
		if err := tc.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		s = tc
	}
	h, err := readHello(s)
	if err != nil {
		return nil, err
	}
	me := *t.id.Load()
	w := hello{minProto: protocolV1, maxProto: protocolV1, id: me, nonce: t.nonce}
	code, err := t.judge(&h, me)
	if err != nil {
		w.reject, w.message, w.seenBoot = code, err.Error(), h.seenBoot
	}
	if werr := writeHello(s, &w); err == nil {
		err = werr
	}
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Time{})
	peer := h.id.Node
	if h.anonymous {
		peer = 0
	}
	return newConn(t, s, peer, h.id.Boot, h.class, false), nil
}

// judge decides whether to serve a client.
func (t *TCP) judge(h *hello, me Identity) (uint64, error) {
	switch {
	case h.minProto > protocolV1 || h.maxProto < protocolV1:
		return rejectVersion, fmt.Errorf("the client speaks protocol versions %d to %d, this node version %d; upgrade one step at a time", h.minProto, h.maxProto, protocolV1)
	case h.class >= numClasses:
		return rejectInvalid, fmt.Errorf("stream class %d is unknown", h.class)
	case h.target != 0 && h.target != me.Node:
		return rejectTarget, fmt.Errorf("the client wants n%d, this is n%d; its node directory is out of date", h.target, me.Node)
	case h.anonymous:
		return 0, nil
	case h.id.Node <= 0:
		return rejectInvalid, fmt.Errorf("node ID %d is not valid", h.id.Node)
	case me.Node == 0:
		return rejectTarget, errors.New("this node has not joined a cluster yet")
	case h.id.ClusterID != me.ClusterID:
		return rejectCluster, fmt.Errorf("the client belongs to cluster %q, this node to %q", h.id.ClusterID, me.ClusterID)
	case t.bars(h.id.Node):
		return rejectLost, fmt.Errorf("n%d was given up as lost, and the cluster went on without what it holds; it can never come back: start it with an empty store, as a new node", h.id.Node)
	case h.id.Node == me.Node && (h.id.Boot != me.Boot || h.nonce != t.nonce):
		// Two processes with one identity. The later one wins, the earlier one stops.
		if h.id.Boot > me.Boot {
			t.stale.Do(func() {
				go t.cfg.OnStale(fmt.Errorf("raftnet: another process uses n%d's identity with boot counter %d (this one has %d)", me.Node, h.id.Boot, me.Boot))
			})
		}
		return rejectStaleBoot, fmt.Errorf("n%d runs already with boot counter %d", me.Node, me.Boot)
	}
	if err := t.checkBoot(h); err != nil {
		if errors.Is(err, errStaleBoot) {
			return rejectStaleBoot, err
		}
		return rejectBusy, err
	}
	return 0, nil
}

// CallAddr implements Network. It makes a connection for this one call.
func (t *TCP) CallAddr(ctx context.Context, addr string, method Method, payload []byte) ([]byte, error) {
	if err := checkSize(payload); err != nil {
		return nil, err
	}
	c, _, err := t.connect(ctx, addr, &hello{class: Control, anonymous: true})
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUnreachable, addr, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	stopT := context.AfterFunc(t.ctx, func() { c.Close() })
	defer stopT()
	fail := func(err error) ([]byte, error) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %s: %w", ErrConnLost, addr, err)
	}
	f := frame{kind: kindRequest, method: method, id: 1, payload: payload}
	if d, ok := ctx.Deadline(); ok {
		f.aux = uint32(min(max(time.Until(d).Milliseconds(), 1), 1<<31))
	}
	if _, err := c.Write(appendFrame(nil, &f)); err != nil {
		return fail(err)
	}
	br := bufio.NewReader(c)
	for {
		if err := readFrame(br, &f); err != nil {
			return fail(err)
		}
		switch f.kind {
		case kindResponse:
			return f.payload, nil
		case kindError:
			return nil, &RemoteError{Code: f.aux, Msg: string(f.payload)}
		}
	}
}

type tcpMetrics struct {
	framesIn, framesOut, bytesIn, bytesOut, writes [numClasses]prometheus.Counter
	connects, refused                              prometheus.Counter
}

func newTCPMetrics(reg prometheus.Registerer) *tcpMetrics {
	vec := func(name, help string) (out [numClasses]prometheus.Counter) {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"class"})
		if reg != nil {
			reg.MustRegister(v)
		}
		for c := range out {
			out[c] = v.WithLabelValues(Class(c).String())
		}
		return out
	}
	one := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		if reg != nil {
			reg.MustRegister(c)
		}
		return c
	}
	return &tcpMetrics{
		framesIn:  vec("atoll_raftnet_frames_received_total", "Frames received from other nodes."),
		framesOut: vec("atoll_raftnet_frames_sent_total", "Frames sent to other nodes."),
		bytesIn:   vec("atoll_raftnet_received_bytes_total", "Bytes received from other nodes."),
		bytesOut:  vec("atoll_raftnet_sent_bytes_total", "Bytes sent to other nodes."),
		writes:    vec("atoll_raftnet_writes_total", "Writes that carried the frames; frames over writes is how well they combine."),
		connects:  one("atoll_raftnet_connects_total", "Connections made to other nodes."),
		refused:   one("atoll_raftnet_refused_connections_total", "Connections that this node refused."),
	}
}
