package raftnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/wire"
)

// Planted is a set of bugs that the simulator plants to prove that its checkers find
// them. A real node never sets one.
type Planted uint32

const (
	// PlantNoRestartWait votes at once after a restart (breaks S3).
	PlantNoRestartWait Planted = 1 << iota
	// PlantNoOutgoingGuard campaigns against a leader that is supported (breaks S3).
	PlantNoOutgoingGuard
	// PlantNoIncomingGuard votes against a leader that is supported (breaks S3).
	PlantNoIncomingGuard
	// PlantNoEpochMatch counts fortifications of earlier epochs (breaks S2 b).
	PlantNoEpochMatch
	// PlantDisturb lets Router.Disturb work. It breaks nothing by itself.
	PlantDisturb
)

// RouterConfig configures a Router.
type RouterConfig struct {
	Network Network
	Support Support
	// Prefer names the node that should lead the range, out of its live voters; 0 or nil
	// leaves it to a hash. It must never name a witness while there is another.
	Prefer func(r keys.RangeID, candidates []keys.NodeID) keys.NodeID
	// RecoveryGeneration is raised by a recovery from lost quorum; messages of others
	// are refused (raft.md rule 16).
	RecoveryGeneration uint64

	// VoteTimeout bounds votes and TimeoutNow. Default 150 ms.
	VoteTimeout time.Duration
	// NudgeDelay is how long a range is quiet before followers learn the last commit
	// index. Default 20 ms.
	NudgeDelay time.Duration
	// Sweep is how often leaderless and unfortified ranges are looked for. 250 ms.
	Sweep time.Duration
	// TokenLife bounds a transfer. Default 2 s.
	TokenLife time.Duration
	// MaxPending bounds the messages in flight to one replica. Default 64.
	MaxPending int
	// Takeover.
	Width    int           // elections at a time. Default 64
	Try      time.Duration // of one election, growing. Default 200 ms
	Backup   time.Duration // before a node that is not preferred tries. Default 500 ms
	Orphaned time.Duration // how long a range has no known leader before one is sought. 300 ms

	Planted    Planted
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// EnsureDefaults fills what is unset.
func (c *RouterConfig) EnsureDefaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.VoteTimeout, 150*time.Millisecond)
	set(&c.NudgeDelay, 20*time.Millisecond)
	set(&c.Sweep, 250*time.Millisecond)
	set(&c.TokenLife, 2*time.Second)
	set(&c.Try, 200*time.Millisecond)
	set(&c.Backup, 500*time.Millisecond)
	set(&c.Orphaned, 300*time.Millisecond)
	if c.MaxPending == 0 {
		c.MaxPending = 64
	}
	if c.Width == 0 {
		c.Width = 64
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate lists every fault of the configuration.
func (c *RouterConfig) Validate() error {
	var errs []error
	bad := func(cond bool, format string, args ...any) {
		if cond {
			errs = append(errs, fmt.Errorf("raftnet: "+format, args...))
		}
	}
	bad(c.Network == nil, "Network is nil")
	bad(c.Network != nil && c.Network.Self() <= 0, "the Network has no node ID yet; make the Router after SetIdentity")
	bad(c.Support == nil, "Support is nil")
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"VoteTimeout", c.VoteTimeout}, {"NudgeDelay", c.NudgeDelay}, {"Sweep", c.Sweep}, {"TokenLife", c.TokenLife}, {"Try", c.Try}, {"Backup", c.Backup}, {"Orphaned", c.Orphaned}} {
		bad(d.v < time.Millisecond || d.v > time.Minute, "%s is %v, it must lie in [1ms, 1m]", d.name, d.v)
	}
	bad(c.MaxPending < 1, "MaxPending is %d, the minimum is 1", c.MaxPending)
	bad(c.Width < 1 || c.Width > 4096, "Width is %d, it must lie in [1, 4096]", c.Width)
	return errors.Join(errs...)
}

// Router carries the raft messages of all replicas on a node.
type Router struct {
	cfg      RouterConfig
	self     keys.NodeID
	support  Support
	metrics  *routerMetrics
	takeover *takeover
	start    time.Time
	ctx      context.Context
	cancel   context.CancelFunc
	wake     chan struct{}

	mu     sync.RWMutex
	wg     sync.WaitGroup // raised under mu while not closed
	closed bool
	ranges map[keys.RangeID]*RangeTransport
	refort map[keys.NodeID]bool
	dirty  []*RangeTransport // to be nudged once they are quiet

	// Of the upkeep goroutine, monotonic.
	nextContact, nextWake int64
}

// NewRouter registers the raft methods on the Network and starts the upkeep of leases
// and leaders.
func NewRouter(cfg RouterConfig) (*Router, error) {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Router{cfg: cfg, self: cfg.Network.Self(), support: cfg.Support, metrics: newRouterMetrics(cfg.Registerer), start: time.Now(),
		wake: make(chan struct{}, 1), ranges: map[keys.RangeID]*RangeTransport{}, refort: map[keys.NodeID]bool{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.takeover = newTakeover(r)
	n := cfg.Network
	n.HandleInline(MethodRaftAppend, r.onAppend)
	n.HandleInline(MethodRaftHeartbeat, r.onAppend)
	n.Handle(MethodRaftVote, r.route((*RangeTransport).serveVote))
	n.Handle(MethodRaftPreVote, r.route((*RangeTransport).servePreVote))
	n.Handle(MethodRaftTimeoutNow, r.route((*RangeTransport).serveTimeoutNow))
	n.Handle(MethodRaftInstall, r.route((*RangeTransport).serveInstall))
	n.Handle(MethodRaftNudge, r.onNudge)
	n.Handle(MethodRaftRelease, r.onRelease)
	if h, ok := cfg.Support.(interface {
		OnLapse(func(keys.NodeID))
		OnGranted(func(keys.NodeID))
	}); ok {
		h.OnLapse(r.takeover.lapsed)
		h.OnGranted(r.granted)
	}
	r.wg.Add(1)
	go r.upkeep()
	return r, nil
}

// Add makes the transport of a replica. It receives messages from now on.
func (r *Router) Add(cfg RangeConfig) (*RangeTransport, error) {
	if cfg.Range <= 0 || cfg.Replica <= 0 || cfg.AppliedTerm == nil {
		return nil, fmt.Errorf("raftnet: a transport needs a range (%d), a replica (%d) and AppliedTerm", cfg.Range, cfg.Replica)
	}
	t := &RangeTransport{router: r, cfg: cfg, self: ServerID(r.self, cfg.Replica), rpc: make(chan raft.RPC, r.cfg.MaxPending+8)}
	t.ctx, t.cancel = context.WithCancel(r.ctx)
	t.peers.Store(&map[raft.ServerID]*raftPeer{})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrTransportClosed
	}
	if r.ranges[cfg.Range] != nil {
		return nil, fmt.Errorf("raftnet: r%d already has replica %s on this node; close its transport first", cfg.Range, r.ranges[cfg.Range].self)
	}
	r.ranges[cfg.Range] = t
	return t, nil
}

func (r *Router) remove(t *RangeTransport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ranges[t.cfg.Range] == t {
		delete(r.ranges, t.cfg.Range)
	}
}

// Close closes every transport and waits for the router's goroutines.
func (r *Router) Close() {
	r.mu.Lock()
	r.closed = true
	r.ranges = map[keys.RangeID]*RangeTransport{}
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// spawn runs f in a goroutine that Close waits for; false once closed.
func (r *Router) spawn(f func()) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		return false
	}
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		f()
	}()
	return true
}

// Disturb makes raft campaign for a range past all rules, as a stray TimeoutNow would. It is
// refused unless PlantDisturb is set.
func (r *Router) Disturb(id keys.RangeID) error {
	t := r.get(id)
	if t == nil || !r.planted(PlantDisturb) {
		return ErrTransportClosed
	}
	return t.inject(&raft.TimeoutNowRequest{RPCHeader: header(r.self, t.cfg.Replica)})
}

func (r *Router) planted(p Planted) bool { return r.cfg.Planted&p != 0 }

func (r *Router) now() time.Time { return time.Now() }

func (r *Router) mono() int64 { return int64(time.Since(r.start)) + 1 }

func (r *Router) get(id keys.RangeID) *RangeTransport {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.ranges[id]
}

func (r *Router) all() []*RangeTransport {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]*RangeTransport, 0, len(r.ranges))
	for _, t := range r.ranges {
		out = append(out, t)
	}
	return out
}

func (r *Router) find(payload []byte) (*RangeTransport, error) {
	id, ok := peekRange(payload)
	if !ok {
		return nil, remoteErrorf(CodeGeneric, "raftnet: a raft message of %d bytes names no range", len(payload))
	}
	t := r.get(id)
	if t == nil {
		return nil, remoteErrorf(CodeNoReplica, "raftnet: n%d has no replica of r%d", r.self, id)
	}
	return t, nil
}

// onAppend runs on the goroutine that reads the stream.
func (r *Router) onAppend(from keys.NodeID, payload []byte, reply Replier) {
	t, err := r.find(payload)
	if err != nil {
		reply.Reply(nil, err)
		return
	}
	if !t.admit() {
		reply.Reply(nil, remoteErrorf(CodeOverloaded, "raftnet: %d messages are in flight to %s of r%d (the limit)", r.cfg.MaxPending, t.self, t.cfg.Range))
		return
	}
	go func() {
		defer t.serving.Add(-1)
		t.serveAppend(from, payload, reply)
	}()
}

// admit counts a message against the limit.
func (t *RangeTransport) admit() bool {
	if int(t.serving.Add(1)) > t.router.cfg.MaxPending {
		t.serving.Add(-1)
		return false
	}
	return true
}

func (r *Router) route(serve func(*RangeTransport, keys.NodeID, []byte) ([]byte, error)) Handler {
	return func(_ context.Context, from keys.NodeID, payload []byte) ([]byte, error) {
		t, err := r.find(payload)
		if err != nil {
			return nil, err
		}
		if !t.admit() {
			return nil, remoteErrorf(CodeOverloaded, "raftnet: %d messages are in flight to %s of r%d (the limit)", r.cfg.MaxPending, t.self, t.cfg.Range)
		}
		defer t.serving.Add(-1)
		return serve(t, from, payload)
	}
}

// onNudge handles a batch of empty AppendEntries of many ranges.
func (r *Router) onNudge(_ context.Context, from keys.NodeID, payload []byte) ([]byte, error) {
	items, err := decodeList(payload)
	if err != nil {
		return nil, err
	}
	type answer struct {
		item int
		body []byte
	}
	answers := make(chan answer, len(items))
	out := make([][]byte, len(items))
	asked := 0
	for i, it := range items {
		out[i] = (&appendResponse{failed: true}).encode(nil)
		var req appendRequest
		if req.decode(it) != nil || len(req.Entries) > 0 {
			continue
		}
		t := r.get(req.rangeID)
		if t == nil || t.check(&req.envelope) != nil || !t.admit() {
			continue
		}
		asked++
		go func() {
			defer t.serving.Add(-1)
			body := out[i]
			if resp, err := t.receiveAppend(from, &req); err == nil {
				body = resp.encode(nil)
			}
			answers <- answer{i, body}
		}()
	}
	late := time.NewTimer(nudgeWait)
	defer late.Stop()
	for ; asked > 0; asked-- {
		select {
		case a := <-answers:
			out[a.item] = a.body
		case <-late.C:
			return encodeList(out), nil
		}
	}
	return encodeList(out), nil
}

// nudgeWait bounds how long the answers of a nudge's replicas are waited for: one that is stuck must
// not keep the leader from learning of all the others.
const nudgeWait = 250 * time.Millisecond

// A release message: range, term, and whether it is a question to the holder of a fort
// (answered with field 1 = 1 if its lease is over) or the news from it.
func encodeRelease(e envelope, term uint64, ask bool) []byte {
	w := wireBuf{}
	w.envelope(&e)
	w.u(5, term)
	w.flag(6, ask)
	return w.b
}

func decodeRelease(b []byte) (e envelope, term uint64, ask bool, err error) {
	err = eachField(b, func(n wire.Number, v uint64, _ []byte) error {
		switch {
		case e.field(n, v):
		case n == 5:
			term = v
		case n == 6:
			ask = v != 0
		}
		return nil
	})
	return e, term, ask, err
}

func (r *Router) onRelease(_ context.Context, from keys.NodeID, payload []byte) ([]byte, error) {
	e, term, ask, err := decodeRelease(payload)
	if err != nil {
		return nil, err
	}
	t := r.get(e.rangeID)
	switch {
	case !ask:
		if t != nil {
			t.noteReleased(from, term)
		}
		return nil, nil
	case t == nil:
		return nil, remoteErrorf(CodeNoReplica, "raftnet: n%d has no replica of r%d", r.self, e.rangeID)
	}
	w := wireBuf{}
	w.flag(1, t.released(term))
	return w.b, nil
}

// askRelease asks the holder of the fort, in the background, whether its lease is over.
// A former leader that is alive would otherwise hold up elections.
func (r *Router) askRelease(t *RangeTransport) {
	t.mu.Lock()
	f := t.fort
	busy := t.elect.asking || f.holder == 0 || f.holder == r.self
	if !busy {
		t.elect.asking = true
	}
	t.mu.Unlock()
	if busy {
		return
	}
	ok := r.spawn(func() {
		ctx, cancel := context.WithTimeout(t.ctx, r.cfg.VoteTimeout)
		defer cancel()
		out, err := r.cfg.Network.Call(ctx, f.holder, Control, MethodRaftRelease, encodeRelease(envelope{rangeID: t.cfg.Range}, f.term, true))
		released := false
		if err == nil {
			err = eachField(out, func(n wire.Number, v uint64, _ []byte) error {
				released = released || n == 1 && v != 0
				return nil
			})
		}
		var re *RemoteError
		if errors.As(err, &re) && re.Code == CodeNoReplica {
			released, err = true, nil // it has no such replica: nobody there can lead
		}
		if err == nil && released {
			t.noteReleased(f.holder, f.term)
		}
		t.mu.Lock()
		t.elect.asking = false
		t.mu.Unlock()
	})
	if !ok {
		t.mu.Lock()
		t.elect.asking = false
		t.mu.Unlock()
	}
}

type routerMetrics struct {
	votesRefused, campaigns, unsticks, nudges, takeovers, reelections prometheus.Counter
}

func newRouterMetrics(reg prometheus.Registerer) *routerMetrics {
	c := func(name, help string) prometheus.Counter {
		k := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		if reg != nil {
			reg.MustRegister(k)
		}
		return k
	}
	return &routerMetrics{
		votesRefused: c("atoll_raftnet_refused_votes_total", "Vote requests, in and out, that the guards refused."),
		campaigns:    c("atoll_raftnet_campaigns_total", "Elections that this node started."),
		unsticks:     c("atoll_raftnet_unsticks_total", "Candidates that were made followers again after a failed election."),
		nudges:       c("atoll_raftnet_nudges_total", "Empty AppendEntries sent to spread a commit index or to fortify."),
		takeovers:    c("atoll_raftnet_takeovers_total", "Ranges that this node set out to take over."),
		reelections:  c("atoll_raftnet_reelections_total", "Elections started for a new term because a lease was given up."),
	}
}
