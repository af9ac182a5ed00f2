package raftnet

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atolldb/atoll/node/keys"
)

// MemNet is a network in memory for tests and simulation. All waiting goes through
// package time, so that inside a testing/synctest bubble it runs on virtual time.
// A message's delay and loss are a function of the seed, the link and the message's
// number on that link. Messages of one link may overtake one another.
//
// A lost request (cut link, drop) fails its Call with ErrConnLost after LossTimeout, as
// a TCP connection would that stopped hearing from the other side.
type MemNet struct {
	seed uint64

	mu          sync.Mutex
	byAddr      map[string]*MemNode
	byID        map[keys.NodeID]*MemNode
	boots       map[keys.NodeID]uint64
	links       map[memLink]*memLinkState
	minDelay    time.Duration
	maxDelay    time.Duration
	drop        float64
	lossTimeout time.Duration
	frozen      map[keys.NodeID][]func() // machines that stand still, and what waits for them

	sent [MaxMethod + 1]atomic.Int64
}

type memLink struct{ from, to keys.NodeID }

type memLinkState struct {
	n                  uint64 // messages sent
	cut                bool
	ownDelay           bool
	minDelay, maxDelay time.Duration
	ownDrop            bool
	drop               float64
}

// NewMemNet returns a network without delay and loss.
func NewMemNet(seed uint64) *MemNet {
	return &MemNet{
		seed:        seed,
		byAddr:      map[string]*MemNode{},
		byID:        map[keys.NodeID]*MemNode{},
		boots:       map[keys.NodeID]uint64{},
		links:       map[memLink]*memLinkState{},
		lossTimeout: 2 * time.Second,
		frozen:      map[keys.NodeID][]func(){},
	}
}

// MemAddr returns the address at which MemNet.Node listens.
func MemAddr(id keys.NodeID) string { return fmt.Sprintf("mem-%d", id) }

// Node returns node id's endpoint. After the endpoint was closed, Node makes a new one
// (the node has restarted) with a higher boot counter.
func (n *MemNet) Node(id keys.NodeID) *MemNode {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e := n.byID[id]; e != nil && !e.closed() {
		return e
	}
	e := n.listenLocked(MemAddr(id))
	n.identifyLocked(e, Identity{Node: id, Boot: n.boots[id] + 1})
	return e
}

// Listen returns a new endpoint without identity at addr, for nodes that still have to
// be founded or to join; see MemNode.SetIdentity.
func (n *MemNet) Listen(addr string) *MemNode {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listenLocked(addr)
}

func (n *MemNet) listenLocked(addr string) *MemNode {
	e := &MemNode{net: n, addr: addr, calls: map[*memCall]struct{}{}, serving: map[*memCall]struct{}{}}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	n.byAddr[addr] = e
	return e
}

func (n *MemNet) identifyLocked(e *MemNode, id Identity) {
	e.id.Store(&id)
	if e.closed() {
		return // it was killed while it started; its successor may be there already
	}
	n.byID[id.Node] = e
	n.boots[id.Node] = max(n.boots[id.Node], id.Boot)
}

func (n *MemNet) linkLocked(from, to keys.NodeID) *memLinkState {
	k := memLink{from, to}
	l := n.links[k]
	if l == nil {
		l = &memLinkState{}
		n.links[k] = l
	}
	return l
}

// SetDelay sets the one-way delay of every link without one of its own.
func (n *MemNet) SetDelay(lo, hi time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.minDelay, n.maxDelay = lo, hi
}

// SetLinkDelay sets the delay of one direction of a link.
func (n *MemNet) SetLinkDelay(from, to keys.NodeID, lo, hi time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.linkLocked(from, to)
	l.ownDelay, l.minDelay, l.maxDelay = true, lo, hi
}

// SetDrop sets the probability with which a message is lost, for every link without one
// of its own.
func (n *MemNet) SetDrop(p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop = p
}

// SetLinkDrop sets the probability of loss of one direction of a link.
func (n *MemNet) SetLinkDrop(from, to keys.NodeID, p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.linkLocked(from, to)
	l.ownDrop, l.drop = true, p
}

// SetLossTimeout sets after what time a lost request or answer fails its Call.
func (n *MemNet) SetLossTimeout(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lossTimeout = d
}

// Cut cuts both directions between a and b. Messages in flight are lost.
func (n *MemNet) Cut(a, b keys.NodeID) { n.setCut(a, b, true); n.setCut(b, a, true) }

// CutOneWay cuts the direction from -> to only.
func (n *MemNet) CutOneWay(from, to keys.NodeID) { n.setCut(from, to, true) }

// Heal restores both directions between a and b.
func (n *MemNet) Heal(a, b keys.NodeID) { n.setCut(a, b, false); n.setCut(b, a, false) }

// HealOneWay restores the direction from -> to only.
func (n *MemNet) HealOneWay(from, to keys.NodeID) { n.setCut(from, to, false) }

func (n *MemNet) setCut(from, to keys.NodeID, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.linkLocked(from, to).cut = cut
}

// Freeze keeps back what comes from or goes to id, until Thaw.
func (n *MemNet) Freeze(id keys.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.frozen[id]; !ok {
		n.frozen[id] = nil
	}
}

// Thaw delivers what Freeze has kept back.
func (n *MemNet) Thaw(id keys.NodeID) {
	n.mu.Lock()
	list := n.frozen[id]
	delete(n.frozen, id)
	n.mu.Unlock()
	for _, f := range list {
		go f()
	}
}

// keepBack reports whether a or b stands still; then again is called once it does not.
func (n *MemNet) keepBack(a, b keys.NodeID, again func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range []keys.NodeID{a, b} {
		if list, ok := n.frozen[id]; ok && a != b {
			n.frozen[id] = append(list, again)
			return true
		}
	}
	return false
}

// Isolate cuts id from every other node that exists, in both directions.
func (n *MemNet) Isolate(id keys.NodeID) {
	for _, o := range n.Nodes() {
		if o != id {
			n.Cut(id, o)
		}
	}
}

// HealNode restores every link of id.
func (n *MemNet) HealNode(id keys.NodeID) {
	for _, o := range n.Nodes() {
		if o != id {
			n.Heal(id, o)
		}
	}
}

// HealAll restores every link.
func (n *MemNet) HealAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		l.cut = false
	}
}

// Nodes returns every node ID that ever had an endpoint, in order.
func (n *MemNet) Nodes() []keys.NodeID {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]keys.NodeID, 0, len(n.byID))
	for id := range n.byID {
		out = append(out, id)
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}

// Sent returns how many messages of a method were sent, answers not counted.
func (n *MemNet) Sent(m Method) int64 { return n.sent[m].Load() }

// Close closes every endpoint.
func (n *MemNet) Close() {
	n.mu.Lock()
	var all []*MemNode
	for _, e := range n.byAddr {
		all = append(all, e)
	}
	n.mu.Unlock()
	for _, e := range all {
		e.Close()
	}
}

// transit decides a message's fate: its delay, and whether it is lost.
func (n *MemNet) transit(from, to keys.NodeID) (delay time.Duration, lost bool, lossTimeout time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.linkLocked(from, to)
	l.n++
	lo, hi, p := n.minDelay, n.maxDelay, n.drop
	if l.ownDelay {
		lo, hi = l.minDelay, l.maxDelay
	}
	if l.ownDrop {
		p = l.drop
	}
	h := mix(n.seed ^ mix(uint64(from)<<32|uint64(uint32(to))) ^ mix(l.n*0x9e3779b97f4a7c15))
	delay = lo
	if hi > lo {
		delay += time.Duration(h % uint64(hi-lo+1))
	}
	lost = l.cut || p > 0 && float64(mix(h)>>11)/(1<<53) < p
	return delay, lost, n.lossTimeout
}

func (n *MemNet) isCut(from, to keys.NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.links[memLink{from, to}]
	return l != nil && l.cut
}

func (n *MemNet) endpoint(id keys.NodeID) *MemNode {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.byID[id]
}

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// MemNode is one node's endpoint; it implements Network.
type MemNode struct {
	mux
	net    *MemNet
	addr   string
	id     atomic.Pointer[Identity]
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	calls   map[*memCall]struct{} // that this endpoint waits for
	serving map[*memCall]struct{} // that this endpoint answers
}

var _ Network = (*MemNode)(nil)

// SetIdentity gives an endpoint that came from Listen its identity.
func (e *MemNode) SetIdentity(id Identity) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	e.net.identifyLocked(e, id)
}

// Self implements Network.
func (e *MemNode) Self() keys.NodeID { return e.identity().Node }

// Boot returns the boot counter of the endpoint's identity.
func (e *MemNode) Boot() uint64 { return e.identity().Boot }

// Addr returns the address under which CallAddr finds the endpoint.
func (e *MemNode) Addr() string { return e.addr }

func (e *MemNode) identity() Identity {
	if p := e.id.Load(); p != nil {
		return *p
	}
	return Identity{}
}

func (e *MemNode) closed() bool { return e.ctx.Err() != nil }

// memCall is one request in flight. The first of answer, loss, end of context and close
// decides it.
type memCall struct {
	from, to *MemNode
	once     sync.Once
	done     chan struct{}
	out      []byte
	err      error
	cancel   context.CancelFunc // ends the handler's context
	ctx      context.Context
}

func (c *memCall) finish(out []byte, err error) {
	c.once.Do(func() {
		c.out, c.err = out, err
		close(c.done)
	})
}

// Reply implements Replier: the answer travels back.
func (c *memCall) Reply(payload []byte, err error) {
	c.to.mu.Lock()
	_, first := c.to.serving[c]
	delete(c.to.serving, c)
	c.to.mu.Unlock()
	if !first {
		return
	}
	var out []byte
	if err != nil {
		err = asRemote(err)
	} else {
		out = append(make([]byte, 0, len(payload)), payload...)
	}
	if c.from == c.to {
		c.finish(out, err)
		return
	}
	net := c.to.net
	a, b := c.to.Self(), c.from.Self()
	delay, lost, loss := net.transit(a, b)
	c.after(delay, lost, loss, a, b, func() { c.finish(out, err) })
}

// after runs f when the message arrives, or fails the call when it was lost.
func (c *memCall) after(delay time.Duration, lost bool, loss time.Duration, a, b keys.NodeID, f func()) {
	net := c.to.net
	if lost {
		time.AfterFunc(loss, func() { c.finish(nil, fmt.Errorf("%w (n%d to n%d)", ErrConnLost, a, b)) })
		return
	}
	var run func()
	run = func() {
		if net.keepBack(a, b, run) {
			return
		}
		if net.isCut(a, b) {
			time.AfterFunc(loss, func() { c.finish(nil, fmt.Errorf("%w (n%d to n%d)", ErrConnLost, a, b)) })
			return
		}
		f()
	}
	if delay == 0 {
		go run()
		return
	}
	time.AfterFunc(delay, run)
}

// Call implements Network.
func (e *MemNode) Call(ctx context.Context, to keys.NodeID, class Class, method Method, payload []byte) ([]byte, error) {
	t := e.net.endpoint(to)
	if t == nil {
		return nil, fmt.Errorf("%w: n%d is not known", ErrUnreachable, to)
	}
	return e.call(ctx, t, method, payload, e.Self())
}

// CallAddr implements Network.
func (e *MemNode) CallAddr(ctx context.Context, addr string, method Method, payload []byte) ([]byte, error) {
	e.net.mu.Lock()
	t := e.net.byAddr[addr]
	e.net.mu.Unlock()
	if t == nil {
		return nil, fmt.Errorf("%w: nobody listens at %s", ErrUnreachable, addr)
	}
	return e.call(ctx, t, method, payload, 0)
}

func (e *MemNode) call(ctx context.Context, t *MemNode, method Method, payload []byte, from keys.NodeID) ([]byte, error) {
	if err := checkSize(payload); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &memCall{from: e, to: t, done: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(t.ctx)
	defer c.cancel() // the caller is gone: the handler may stop
	e.mu.Lock()
	if e.closed() {
		e.mu.Unlock()
		return nil, ErrClosed
	}
	e.calls[c] = struct{}{}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.calls, c)
		e.mu.Unlock()
	}()

	e.net.sent[method&MaxMethod].Add(1)
	body := append(make([]byte, 0, len(payload)), payload...)
	deliver := func() { t.serve(c, from, method, body) }
	if t == e {
		deliver()
	} else {
		a, b := e.Self(), t.Self()
		delay, lost, loss := e.net.transit(a, b)
		c.after(delay, lost, loss, a, b, deliver)
	}
	select {
	case <-c.done:
		return c.out, c.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve runs on the endpoint that a request has reached.
func (e *MemNode) serve(c *memCall, from keys.NodeID, method Method, payload []byte) {
	e.mu.Lock()
	if e.closed() {
		e.mu.Unlock()
		c.finish(nil, fmt.Errorf("%w: %s refuses connections", ErrUnreachable, e.addr))
		return
	}
	e.serving[c] = struct{}{}
	e.mu.Unlock()
	e.dispatch(func() (context.Context, context.CancelFunc) { return c.ctx, func() {} }, from, method, payload, c)
}

// Notify implements Network.
func (e *MemNode) Notify(to keys.NodeID, class Class, method Method, payload []byte) {
	t := e.net.endpoint(to)
	if t == nil || e.closed() || checkSize(payload) != nil {
		return
	}
	e.net.sent[method&MaxMethod].Add(1)
	body := append(make([]byte, 0, len(payload)), payload...)
	from := e.Self()
	var run func()
	run = func() {
		if e.net.keepBack(from, to, run) {
			return
		}
		if t != e && e.net.isCut(from, to) || t.closed() {
			return
		}
		t.dispatch(func() (context.Context, context.CancelFunc) { return t.ctx, func() {} }, from, method, body, noReply{})
	}
	var delay time.Duration
	if t != e {
		var lost bool
		if delay, lost, _ = e.net.transit(from, to); lost {
			return
		}
	}
	if delay == 0 {
		go run()
		return
	}
	time.AfterFunc(delay, run)
}

// Close implements Network. Whoever waits for an answer of this endpoint sees the
// connection break, unless the link is cut: then it waits for the loss timeout.
func (e *MemNode) Close() error {
	e.mu.Lock()
	if e.closed() {
		e.mu.Unlock()
		return nil
	}
	e.cancel()
	calls, serving := e.calls, e.serving
	e.calls, e.serving = map[*memCall]struct{}{}, map[*memCall]struct{}{}
	e.mu.Unlock()
	for c := range calls {
		c.finish(nil, ErrClosed)
	}
	for c := range serving {
		a, b := e.Self(), c.from.Self()
		delay, lost, loss := e.net.transit(a, b)
		c.after(delay, lost, loss, a, b, func() { c.finish(nil, fmt.Errorf("%w (n%d closed)", ErrConnLost, a)) })
	}
	return nil
}

func checkSize(payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("raftnet: a payload of %d bytes exceeds the limit of %d; send it in pieces", len(payload), MaxPayload)
	}
	return nil
}
