package liveness

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
)

// Agent runs one node's side of all node pairs. It implements raftnet.Support.
type Agent struct {
	cfg     Config
	time    hlc.TimeSource
	metrics *metrics

	noVotesUntil int64 // monotonic
	floor        int64 // wall nanoseconds: no promise of an earlier run exceeds it

	peers     atomic.Pointer[map[keys.NodeID]*peer] // copied on write
	order     atomic.Pointer[[]*peer]               // the same, by ID
	peersMu   sync.Mutex
	gen       atomic.Uint64 // counted support of an earlier generation is void
	lateTicks atomic.Uint64
	lastTick  atomic.Int64 // monotonic
	withdrawn atomic.Bool
	ready     atomic.Bool
	fatal     sync.Once

	mu        sync.Mutex
	onLapse   []func(keys.NodeID)
	onGranted []func(keys.NodeID)
	slow      map[keys.NodeID]bool // peers that are no neighbours
	counted   map[keys.NodeID]bool // see Config.Counted, without Self; replaced as a whole

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

var _ raftnet.Support = (*Agent)(nil)

// rateMargin is what A takes off a promise for the difference in clock rates.
func rateMargin(d time.Duration) time.Duration { return d / 50 }

// Start persists the promise, if it is the largest so far, and starts heartbeats.
func Start(cfg Config) (*Agent, error) {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg, time: cfg.Time, slow: map[keys.NodeID]bool{}, metrics: newMetrics(cfg.Registerer)}
	a.peers.Store(&map[keys.NodeID]*peer{})
	a.order.Store(&[]*peer{})
	now := a.time.Read()
	if cfg.Promised > 0 {
		// REQUIRES: S3. Promises of the run before are forgotten; until the last of them
		// has run out, this node takes part in no election. By then, and by any node's
		// clock, nothing served on their strength is later than floor (S4).
		d := max(cfg.Promised, cfg.Support)
		a.noVotesUntil = now.Mono + int64(d+rateMargin(d)+cfg.RestartMargin)
		a.floor = cfg.Clock.Now().WallNanos + int64(d+cfg.Clock.MaxOffset())
	}
	if cfg.Support > cfg.Promised {
		if err := cfg.PersistPromise(cfg.Support); err != nil {
			return nil, fmt.Errorf("liveness: can't persist the promise of %v: %w", cfg.Support, err)
		}
	}
	a.lastTick.Store(now.Mono)
	a.gen.Store(1)
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.refreshPeers()
	cfg.Network.HandleInline(raftnet.MethodHeartbeat, a.onHeartbeat)
	cfg.Network.HandleInline(raftnet.MethodHeartbeatAck, a.onAck)
	a.wg.Add(1)
	go a.run()
	return a, nil
}

// Close stops heartbeats and waits for the agent's goroutine. Others' support runs out.
func (a *Agent) Close() {
	a.cancel()
	a.wg.Wait()
}

// OnLapse registers f, which is called soon after this node's support for a node has
// lapsed. It must not block.
func (a *Agent) OnLapse(f func(keys.NodeID)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onLapse = append(a.onLapse, f)
}

// OnGranted registers f, which is called when a node supports this one in a new epoch.
// It must not block.
func (a *Agent) OnGranted(f func(keys.NodeID)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onGranted = append(a.onGranted, f)
}

func (a *Agent) hooks(which *[]func(keys.NodeID)) []func(keys.NodeID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return *which
}

// peer returns the record of a node, making one if need be. A node that was never
// heard of is not supported.
func (a *Agent) peer(id keys.NodeID) *peer {
	if p := (*a.peers.Load())[id]; p != nil {
		return p
	}
	a.peersMu.Lock()
	defer a.peersMu.Unlock()
	old := *a.peers.Load()
	if p := old[id]; p != nil {
		return p
	}
	p := &peer{id: id, lapsed: true, epoch: a.cfg.Boot<<32 | 1}
	m := make(map[keys.NodeID]*peer, len(old)+1)
	for k, v := range old {
		m[k] = v
	}
	m[id] = p
	order := make([]*peer, 0, len(m))
	for _, v := range m {
		order = append(order, v)
	}
	sort.Slice(order, func(i, j int) bool { return order[i].id < order[j].id })
	a.peers.Store(&m)
	a.order.Store(&order)
	return p
}

func (a *Agent) sorted() []*peer { return *a.order.Load() }

// refreshPeers asks who the other nodes are.
func (a *Agent) refreshPeers() {
	near := map[keys.NodeID]bool{a.cfg.Self: true}
	for _, n := range a.cfg.Neighbours() {
		if n > 0 && n != a.cfg.Self {
			near[n] = true
			a.peer(n)
		}
	}
	far := map[keys.NodeID]bool{}
	for _, n := range a.cfg.Nodes() {
		if n > 0 && !near[n] {
			far[n] = true
			a.peer(n)
		}
	}
	counted := map[keys.NodeID]bool{}
	for _, n := range a.cfg.Counted() {
		if n > 0 && n != a.cfg.Self {
			counted[n] = true
		}
	}
	a.mu.Lock()
	a.counted = counted
	for id, p := range *a.peers.Load() {
		if a.slow[id] && near[id] {
			p.nearMono.Store(a.time.Read().Mono)
			p.mu.Lock()
			p.nextBeat = 0 // now
			p.mu.Unlock()
		}
		// A node that left both lists is not spoken to any more.
		a.slow[id] = !near[id]
	}
	for id := range a.slow {
		if !near[id] && !far[id] {
			delete(a.slow, id)
		}
	}
	a.mu.Unlock()
	a.judgeReady()
}

// interval returns how often to send to a peer, and whether to ask for its support;
// 0 for a node that no list names.
func (a *Agent) interval(id keys.NodeID) (time.Duration, bool) {
	a.mu.Lock()
	slow, ok := a.slow[id]
	a.mu.Unlock()
	switch {
	case !ok:
		return 0, false
	case slow:
		return a.cfg.SlowHeartbeat, false
	}
	return a.cfg.Heartbeat, !a.withdrawn.Load()
}

// run is the agent's only goroutine: ticker, heartbeats, lapses.
func (a *Agent) run() {
	defer a.wg.Done()
	last := a.time.Read()
	refresh := last.Mono + int64(250*time.Millisecond)
	a.beat(last)
	tick := time.NewTimer(a.cfg.Tick)
	defer tick.Stop()
	for wait := a.cfg.Tick; ; {
		select {
		case <-tick.C:
		case <-a.ctx.Done():
			return
		}
		now := a.time.Read()
		a.checkStall(last, now, wait)
		a.lastTick.Store(now.Mono)
		last = now
		if now.Mono >= refresh {
			refresh = now.Mono + int64(250*time.Millisecond)
			a.refreshPeers()
		}
		a.announceLapses(now)
		a.beat(now)
		wait = a.nextTick(now)
		tick.Reset(wait)
	}
}

// nextTick returns when to look again: a promise whose holder has missed heartbeats will lapse
// soon, and then every millisecond counts.
func (a *Agent) nextTick(now hlc.Reading) time.Duration {
	soon := now.Mono + int64(a.cfg.Support-3*a.cfg.Heartbeat)
	for _, p := range a.sorted() {
		p.mu.Lock()
		overdue := !p.lapsed && p.until < soon
		p.mu.Unlock()
		if overdue {
			return max(a.cfg.Tick/5, time.Millisecond)
		}
	}
	return a.cfg.Tick
}

// checkStall applies rule 9 and SAFETY S4 to the time between two ticks, planned to be wait.
func (a *Agent) checkStall(last, now hlc.Reading, wait time.Duration) {
	longest, shortest := now.Elapsed(last)
	if longest-shortest > a.cfg.MaxClockDisagreement {
		a.metrics.clockJumps.Inc()
		a.cfg.Logger.Warn("clocks disagree: counted support is dropped and clocks are measured again", "node", a.cfg.Self, "longest", longest, "shortest", shortest)
		a.drop()
		a.ready.Store(false)
		for _, p := range *a.peers.Load() {
			p.mu.Lock()
			p.sampled = false
			p.mu.Unlock()
		}
		a.judgeReady()
	}
	late := time.Duration(now.Mono-last.Mono) - wait
	if late <= a.cfg.StallGrace {
		return
	}
	a.metrics.stalls.Inc()
	a.lateTicks.Add(1)
	if longest-wait > a.cfg.Support/2 {
		a.drop()
	}
	// This node was stalled: heartbeats may lie unread. A promise that nobody has seen
	// run out may be prolonged.
	for _, p := range *a.peers.Load() {
		p.mu.Lock()
		if !p.lapsed {
			p.until = max(p.until, now.Mono+int64(3*a.cfg.Heartbeat))
		}
		p.mu.Unlock()
	}
}

// drop voids all support counted so far, also that of heartbeats in flight.
func (a *Agent) drop() {
	a.gen.Add(1)
	a.metrics.drops.Inc()
}

// announceLapses finds promises that have run out, tells the other nodes at once and
// runs the hooks.
func (a *Agent) announceLapses(now hlc.Reading) {
	var lapsed []*peer
	for _, p := range a.sorted() {
		p.mu.Lock()
		p.supportedLocked(now.Mono)
		if p.lapseNews {
			p.lapseNews = false
			lapsed = append(lapsed, p)
		}
		p.mu.Unlock()
	}
	if len(lapsed) == 0 {
		return
	}
	for _, p := range a.sorted() { // the news travels now
		p.mu.Lock()
		if d, _ := a.interval(p.id); d == a.cfg.Heartbeat {
			p.nextBeat = 0
		}
		p.mu.Unlock()
	}
	hooks := a.hooks(&a.onLapse)
	for _, p := range lapsed {
		a.metrics.lapses.Inc()
		a.cfg.Logger.Warn("support lapsed", "node", a.cfg.Self, "peer", p.id)
		for _, f := range hooks {
			f(p.id)
		}
	}
}

// beat sends the heartbeats that are due.
func (a *Agent) beat(now hlc.Reading) {
	var unsupported []keys.NodeID
	computed := false
	for _, p := range a.sorted() {
		want, due := a.due(p, now, a.cfg.Tick/2) // the tick that is nearest
		if !due {
			continue
		}
		if !computed {
			unsupported, computed = a.unsupported(), true
		}
		a.sendBeat(p, want, unsupported)
	}
}

// due reports whether a heartbeat to a peer is due now or within ahead, and if so counts it as
// sent; want says whether it asks for support.
func (a *Agent) due(p *peer, now hlc.Reading, ahead time.Duration) (want, due bool) {
	every, want := a.interval(p.id)
	if every == 0 {
		return false, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Mono < p.nextBeat-int64(ahead) {
		return false, false
	}
	p.nextBeat = now.Mono + int64(every)
	// A node that can't hear the other one can't count its support: it must not go on
	// collecting promises that would only keep others from taking over.
	return want && p.heardMono != 0 && now.Mono-p.heardMono <= int64(a.cfg.Support/2), true
}

func (a *Agent) sendBeat(p *peer, want bool, unsupported []keys.NodeID) {
	m := message{boot: a.cfg.Boot, want: want, unsupported: unsupported}
	// The clocks are read, and the send time noted, before the message leaves: support
	// is counted from then.
	gen, late := a.gen.Load(), a.lateTicks.Load()
	sent := a.time.Read()
	m.reading = a.cfg.Clock.Now()
	m.wall = sent.Wall
	p.mu.Lock()
	p.seq++
	m.seq = p.seq
	p.ring[m.seq%ringSize] = sentBeat{seq: m.seq, sent: sent, h: m.reading, gen: gen, late: late}
	p.mu.Unlock()
	a.metrics.beats.Inc()
	a.cfg.Network.Notify(p.id, raftnet.Control, raftnet.MethodHeartbeat, m.encode(make([]byte, 0, 96)))
}

// unsupported lists the neighbours that this node does not support.
func (a *Agent) unsupported() []keys.NodeID {
	mono := a.time.Read().Mono
	var out []keys.NodeID
	for _, p := range a.sorted() {
		if d, _ := a.interval(p.id); d != a.cfg.Heartbeat || len(out) >= maxUnsupported {
			continue
		}
		p.mu.Lock()
		if !p.supportedLocked(mono) {
			out = append(out, p.id)
		}
		p.mu.Unlock()
	}
	return out
}

// onHeartbeat is the promise: runs on the goroutine that reads the stream.
func (a *Agent) onHeartbeat(from keys.NodeID, payload []byte, _ raftnet.Replier) {
	m, err := decodeMessage(payload)
	if err != nil || from == a.cfg.Self || from <= 0 || a.ctx.Err() != nil {
		return
	}
	p := a.peer(from)
	ack := message{boot: a.cfg.Boot, seq: m.seq, toBoot: m.boot, promise: a.cfg.Support}
	now := a.time.Read()
	p.mu.Lock()
	if m.boot < p.boot { // an earlier incarnation, late
		p.mu.Unlock()
		return
	}
	if m.boot > p.boot {
		// The earlier incarnation is dead, and with it its leases.
		p.lapseLocked()
		p.boot = m.boot
	}
	a.noteUnsupportedLocked(p, m, now)
	if m.want {
		// REQUIRES: S4. What the sender may serve on this promise is remembered first.
		p.limit = max(p.limit, m.reading.WallNanos+int64(a.cfg.Support))
		p.lapsed = false
		p.until = max(p.until, now.Mono+int64(a.cfg.Support))
		ack.supported, ack.epoch = true, p.epoch
	}
	p.mu.Unlock()
	a.forwardClock(from, m.reading)
	unsupported := a.unsupported()
	ack.unsupported = unsupported
	ack.reading = a.cfg.Clock.Now()
	ack.wall = a.time.Read().Wall
	a.cfg.Network.Notify(from, raftnet.Control, raftnet.MethodHeartbeatAck, ack.encode(make([]byte, 0, 96)))
	// A heartbeat that would follow soon goes with the answer: one write here, and one wake-up there.
	if want, due := a.due(p, now, a.cfg.Heartbeat/2); due {
		a.sendBeat(p, want, unsupported)
	}
}

func (a *Agent) noteUnsupportedLocked(p *peer, m *message, now hlc.Reading) {
	if m.boot < p.theirBoot {
		return
	}
	p.theirBoot = m.boot
	p.heardMono = max(now.Mono, 1)
	p.unsupportedAt = now.Mono
	clear(p.unsupported)
	if len(m.unsupported) == 0 {
		return
	}
	if p.unsupported == nil {
		p.unsupported = map[keys.NodeID]struct{}{}
	}
	for _, n := range m.unsupported {
		p.unsupported[n] = struct{}{}
	}
}

func (a *Agent) forwardClock(from keys.NodeID, reading hlc.Timestamp) {
	if err := a.cfg.Clock.UpdateChecked(reading); err != nil {
		a.metrics.wildClocks.Inc()
		a.cfg.Logger.Warn("clock reading refused", "node", a.cfg.Self, "peer", from, "err", err)
	}
}

// onAck counts the support.
func (a *Agent) onAck(from keys.NodeID, payload []byte, _ raftnet.Replier) {
	m, err := decodeMessage(payload)
	if err != nil || from == a.cfg.Self || m.toBoot != a.cfg.Boot || a.ctx.Err() != nil {
		return
	}
	p := (*a.peers.Load())[from]
	if p == nil {
		return
	}
	now := a.time.Read()
	p.mu.Lock()
	s := p.ring[m.seq%ringSize]
	if s.seq != m.seq || m.seq == 0 || m.boot < p.theirBoot {
		p.mu.Unlock()
		return
	}
	a.noteUnsupportedLocked(p, m, now)
	newEpoch := false
	if m.supported {
		newEpoch = p.countLocked(m, s)
	}
	p.ackMono.Store(max(now.Mono, 1))
	if p.live != nil {
		close(p.live)
		p.live = nil
	}
	// By whichever clock went furthest: a machine that was suspended meanwhile does not see
	// on its monotonic clock how old the answer is, and would take its own clock for wrong.
	rtt, _ := now.Elapsed(s.sent)
	sampled := rtt <= a.cfg.MaxSampleRTT && s.late == a.lateTicks.Load()
	if sampled {
		off := time.Duration(m.wall - s.sent.Wall)
		p.sampled, p.lo, p.hi = true, off-rtt, off
	}
	p.mu.Unlock()
	a.metrics.rtt.Observe(rtt.Seconds())
	a.forwardClock(from, m.reading)
	if sampled {
		a.judgeClock()
	}
	if newEpoch {
		for _, f := range a.hooks(&a.onGranted) {
			f(from)
		}
	}
}

// countLocked replaces the grant if the answer is newer; it reports a new epoch.
func (p *peer) countLocked(m *message, s sentBeat) bool {
	g := &grant{epoch: m.epoch, sent: s.sent, valid: m.promise - rateMargin(m.promise), limit: s.h.WallNanos + int64(m.promise), gen: s.gen}
	old := p.grant.Load()
	if old != nil && (g.epoch < old.epoch || g.epoch == old.epoch && (g.gen < old.gen || g.sent.Mono <= old.sent.Mono)) {
		return false
	}
	p.grant.Store(g)
	return old == nil || old.epoch != g.epoch || old.gen != g.gen
}

type metrics struct {
	beats, lapses, stalls, drops, clockJumps, wildClocks prometheus.Counter
	rtt                                                  prometheus.Histogram
	maxOffset                                            prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	c := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		beats:      c("atoll_liveness_heartbeats_total", "Heartbeats sent."),
		lapses:     c("atoll_liveness_lapses_total", "Times that this node's support for another one lapsed."),
		stalls:     c("atoll_liveness_stalls_total", "Times that the agent's ticker was late."),
		drops:      c("atoll_liveness_support_drops_total", "Times that all counted support was dropped because of a stall or a clock jump."),
		clockJumps: c("atoll_liveness_clock_jumps_total", "Times that the three clocks disagreed."),
		wildClocks: c("atoll_liveness_refused_clock_readings_total", "Clock readings of other nodes that were beyond the bound."),
		rtt: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "atoll_liveness_heartbeat_rtt_seconds", Help: "Round trips of heartbeats.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 10)}),
		maxOffset: prometheus.NewGauge(prometheus.GaugeOpts{Name: "atoll_liveness_clock_offset_seconds", Help: "The largest measured clock offset to another node, by the nearer end of its error interval."}),
	}
	if reg != nil {
		reg.MustRegister(m.beats, m.lapses, m.stalls, m.drops, m.clockJumps, m.wildClocks, m.rtt, m.maxOffset)
	}
	return m
}
