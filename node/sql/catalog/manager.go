package catalog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sort"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/prometheus/client_golang/prometheus"
)

// Config configures a Manager.
type Config struct {
	DB     DB
	Node   keys.NodeID
	Logger *slog.Logger
	// OnPublish, if set, is called after this node committed a schema change: the place to
	// tell other nodes to call Nudge. Without it they notice within a quarter of a second.
	OnPublish func()
	// KeepDropped is for how long the data of dropped objects stay, so that they can be read as of
	// before. It is what old versions are kept for anyway.
	KeepDropped time.Duration
	Registerer  prometheus.Registerer
}

// Manager is a node's cache of descriptors and its promise about them (see leaseRecord).
type Manager struct {
	cfg  Config
	stop context.CancelFunc
	done sync.WaitGroup
	wake chan struct{}
	gc   chan struct{}
	// rubbish is since when this node has known what waits to be removed. The collector's own.
	rubbish map[rubbish]hlc.Timestamp

	// syncing serializes writers of the node's lease record.
	syncing chan struct{}

	mu         sync.Mutex
	lease      *lease // nil before the first registration
	generation uint64
	seen       hlc.Timestamp
	epoch      uint64 // raised when cached versions are replaced; guards loads
	cache      map[ID]*cached
	names      map[Name]Entry
	used       map[held]int // versions that transactions under way use
	dirty      bool         // a version in the record's Held is not used any more
	lastHeld   []held
	holders    uint64 // next SchemaLock.Holder
	stats      map[ID]*Statistics
	changed    chan struct{} // closed when the cache or the lease changes

	loads, restarts prometheus.Counter
}

// lease is one registration of the node. expiry is guarded by Manager.mu.
type lease struct {
	session uint64
	expiry  hlc.Timestamp
}

type cached struct {
	desc  Descriptor // shared, immutable
	since hlc.Timestamp
}

// cacheMax bounds the cache; past it, everything unused is dropped.
const cacheMax = 10000

// NewManager returns a manager; Start makes it live.
func NewManager(cfg Config) *Manager {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Manager{
		cfg: cfg, wake: make(chan struct{}, 1), gc: make(chan struct{}, 1), syncing: make(chan struct{}, 1),
		cache: map[ID]*cached{}, names: map[Name]Entry{}, used: map[held]int{}, stats: map[ID]*Statistics{},
		changed: make(chan struct{}),
		loads: prometheus.NewCounter(prometheus.CounterOpts{Name: "atoll_catalog_descriptor_loads_total",
			Help: "Descriptors read because the cache did not have them."}),
		restarts: prometheus.NewCounter(prometheus.CounterOpts{Name: "atoll_catalog_restarts_total",
			Help: "Statements restarted because a schema had changed."}),
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(m.loads, m.restarts)
	}
	return m
}

// Start begins to hold a lease in the background. Close ends it.
func (m *Manager) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	m.done.Add(2)
	go func() {
		defer m.done.Done()
		m.loop(ctx)
	}()
	go func() {
		defer m.done.Done()
		m.collectLoop(ctx)
	}()
}

// Close stops the background work and withdraws the lease record, so that schema changes
// need not wait for its expiry. REQUIRES: no transaction uses the manager any more.
func (m *Manager) Close() {
	if m.stop == nil {
		return
	}
	m.stop()
	m.done.Wait()
	m.mu.Lock()
	l := m.lease
	busy := len(m.used) > 0
	m.lease = nil
	m.mu.Unlock()
	if l == nil || busy {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := m.cfg.DB.Run(ctx, "schema lease release", func(ctx context.Context, t Txn) error {
		return t.Delete(ctx, leaseKey(m.cfg.Node, l.session), blind)
	})
	if err != nil {
		m.cfg.Logger.Warn("schema lease not withdrawn; it expires by itself", "node", m.cfg.Node, "err", err)
	}
}

// Nudge makes the manager look for schema changes now.
func (m *Manager) Nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *Manager) loop(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var failing bool
	for {
		err := m.sync(ctx)
		if ctx.Err() != nil {
			return
		}
		if (err != nil) != failing {
			failing = err != nil
			if failing {
				m.cfg.Logger.Warn("schema lease can't be renewed", "node", m.cfg.Node, "err", err)
			} else {
				m.cfg.Logger.Info("schema lease held", "node", m.cfg.Node)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-m.wake:
		}
	}
}

// sync brings the cache up to the newest schema generation and renews the node's promise if
// that is due.
func (m *Manager) sync(ctx context.Context) error {
	select {
	case m.syncing <- struct{}{}:
		defer func() { <-m.syncing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, LeaseTTL)
	defer cancel()
	m.mu.Lock()
	l := m.lease
	due := l == nil || m.dirty || l.expiry.Less(m.cfg.DB.Now().Add(LeaseTTL-renewEvery))
	generation := m.generation
	m.mu.Unlock()
	if !due {
		var now uint64
		err := m.cfg.DB.Run(ctx, "schema generation", func(ctx context.Context, t Txn) (err error) {
			now, _, err = readGeneration(ctx, t, false)
			return err
		})
		if err != nil || now == generation {
			return err
		}
	}
	if l == nil || l.expiry.LessEq(m.cfg.DB.Now()) {
		return m.register(ctx)
	}
	return m.renew(ctx, l)
}

func readGeneration(ctx context.Context, t Txn, lock bool) (uint64, kv.GetResponse, error) {
	r, err := t.Get(ctx, generationKey, lock)
	if err != nil || !r.Exists {
		return 0, r, err
	}
	if len(r.Value) != 8 {
		return 0, r, fmt.Errorf("catalog: schema generation has %d bytes, not 8", len(r.Value))
	}
	return binary.BigEndian.Uint64(r.Value), r, nil
}

// register starts a new session with an empty cache.
func (m *Manager) register(ctx context.Context) error {
	l := &lease{session: rand.Uint64() | 1}
	var generation uint64
	var seen hlc.Timestamp
	err := m.cfg.DB.Run(ctx, "schema lease registration", func(ctx context.Context, t Txn) error {
		var err error
		if generation, _, err = readGeneration(ctx, t, false); err != nil {
			return err
		}
		old, err := t.Scan(ctx, nodeLeaseSpan(m.cfg.Node), 0)
		if err != nil {
			return err
		}
		seen = t.ReadTimestamp()
		for _, row := range old {
			// A record that still holds stays: a transaction of the node's earlier life may
			// be under way to its commit.
			if r, err := decodeLease(row.Value); err == nil && r.Expiry.Less(seen) {
				if err := t.Delete(ctx, row.Key, blind); err != nil {
					return err
				}
			}
		}
		l.expiry = m.cfg.DB.Now().Add(LeaseTTL)
		rec := leaseRecord{Node: m.cfg.Node, Session: l.session, Expiry: l.expiry, Seen: seen}
		return t.Put(ctx, leaseKey(m.cfg.Node, l.session), rec.encode(), blind)
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lease, m.generation, m.seen = l, generation, seen
	m.epoch++
	clear(m.cache)
	clear(m.names)
	clear(m.stats)
	// Pins of the old session can't commit any more; their counts belong to it.
	m.used, m.lastHeld, m.dirty = map[held]int{}, nil, false
	m.broadcast()
	return nil
}

// renew extends the session. It first brings in what changed, then computes which older
// versions are still in use, then promises.
func (m *Manager) renew(ctx context.Context, l *lease) error {
	m.mu.Lock()
	from, oldExpiry := m.generation, l.expiry
	m.mu.Unlock()
	var expiry, seen hlc.Timestamp
	var hs []held
	var generation uint64
	errLost := errors.New("schema lease record is gone")
	err := m.cfg.DB.Run(ctx, "schema lease renewal", func(ctx context.Context, t Txn) error {
		t.SetDeadline(oldExpiry)
		rec, err := t.Get(ctx, leaseKey(m.cfg.Node, l.session), true)
		if err != nil {
			return err
		}
		if !rec.Exists {
			return errLost
		}
		if generation, _, err = readGeneration(ctx, t, false); err != nil {
			return err
		}
		fresh, all, err := m.readChanges(ctx, t, from, generation)
		if err != nil {
			return err
		}
		seen = t.ReadTimestamp()
		hs = m.install(fresh, all)
		expiry = m.cfg.DB.Now().Add(LeaseTTL)
		r := leaseRecord{Node: m.cfg.Node, Session: l.session, Expiry: expiry, Seen: seen, Held: hs}
		return t.Put(ctx, leaseKey(m.cfg.Node, l.session), r.encode(), condition(rec))
	})
	if errors.Is(err, errLost) {
		return m.register(ctx)
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l.expiry = expiry
	if m.lease == l {
		m.generation, m.seen, m.lastHeld = generation, seen, hs
		m.dirty = false
		for _, h := range hs {
			if m.used[h] == 0 {
				m.dirty = true
			}
		}
	}
	m.broadcast()
	return nil
}

// readChanges reads the descriptors in the cache that changed after generation from. all
// means that everything cached must be dropped instead.
func (m *Manager) readChanges(ctx context.Context, t Txn, from, to uint64) (fresh map[ID]*cached, all bool, err error) {
	if from == to {
		return nil, false, nil
	}
	if to < from || to-from > maxChangeLog {
		return nil, true, nil
	}
	rows, err := t.Scan(ctx, changeSpan(from+1, to), 0)
	if err != nil {
		return nil, false, err
	}
	if uint64(len(rows)) != to-from {
		return nil, true, nil // someone trimmed the log
	}
	fresh = map[ID]*cached{}
	for _, row := range rows {
		c, err := decodeChange(row.Value)
		if err != nil {
			return nil, false, err
		}
		for _, id := range c.ids {
			fresh[id] = nil
		}
	}
	var ids []ID
	m.mu.Lock()
	for id := range fresh {
		if m.cache[id] != nil {
			ids = append(ids, id)
		}
	}
	m.mu.Unlock()
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	for _, id := range ids {
		s, err := readDescriptor(ctx, t, id)
		if err != nil {
			return nil, false, err
		}
		if s.Desc != nil {
			fresh[id] = &cached{desc: s.Desc, since: s.Since}
		}
	}
	return fresh, false, nil
}

// install replaces cached versions and returns the older ones that are still in use.
func (m *Manager) install(fresh map[ID]*cached, all bool) []held {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case all:
		m.epoch++
		clear(m.cache)
		clear(m.names)
		clear(m.stats)
	case len(fresh) > 0:
		m.epoch++
		for id, c := range fresh {
			if c == nil {
				delete(m.cache, id)
			} else if old := m.cache[id]; old == nil || old.desc.Head().Version <= c.desc.Head().Version {
				m.cache[id] = c
			}
		}
		for n, e := range m.names {
			if _, ok := fresh[e.ID]; ok {
				delete(m.names, n)
			} else if _, ok := fresh[e.Table]; ok {
				delete(m.names, n)
			}
		}
	}
	var hs []held
	for h, n := range m.used {
		if n > 0 && (m.cache[h.ID] == nil || m.cache[h.ID].desc.Head().Version != h.Version) {
			hs = append(hs, h)
		}
	}
	sort.Slice(hs, func(i, j int) bool {
		return hs[i].ID < hs[j].ID || hs[i].ID == hs[j].ID && hs[i].Version < hs[j].Version
	})
	return hs
}

// broadcast wakes everybody who waits for a change. REQUIRES: m.mu.
func (m *Manager) broadcast() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// pin is one transaction's use of a version.
type pin struct {
	desc  Descriptor
	since hlc.Timestamp
	lease *lease
}

// errNoLease: the node has no lease just now.
var errNoLease = errors.New("no schema lease")

// leaseWait bounds how long a statement waits for the node's lease.
const leaseWait = 10 * time.Second

// currentLease returns the lease, after waiting for one if need be.
func (m *Manager) currentLease(ctx context.Context) (*lease, error) {
	deadline := time.Now().Add(leaseWait)
	for {
		now := m.cfg.DB.Now()
		m.mu.Lock()
		l, wait := m.lease, m.changed
		if l != nil && now.Less(l.expiry) {
			m.mu.Unlock()
			return l, nil
		}
		m.mu.Unlock()
		m.Nudge()
		left := time.Until(deadline)
		if left <= 0 {
			return nil, errNoLease
		}
		if err := waitFor(ctx, wait, min(left, pollEvery)); err != nil {
			return nil, err
		}
	}
}

// acquire pins the newest version of a descriptor that this node may use.
func (m *Manager) acquire(ctx context.Context, id ID) (pin, error) {
	for {
		l, err := m.currentLease(ctx)
		if err != nil {
			return pin{}, err
		}
		m.mu.Lock()
		if m.lease != l {
			m.mu.Unlock()
			continue
		}
		if c := m.cache[id]; c != nil {
			m.used[held{id, c.desc.Head().Version}]++
			m.mu.Unlock()
			return pin{desc: c.desc, since: c.since, lease: l}, nil
		}
		epoch := m.epoch
		m.mu.Unlock()
		var s Stored
		err = m.cfg.DB.Run(ctx, "descriptor load", func(ctx context.Context, t Txn) (err error) {
			s, err = readDescriptor(ctx, t, id)
			return err
		})
		if err != nil || s.Desc == nil {
			return pin{}, err
		}
		m.loads.Inc()
		m.mu.Lock()
		if m.epoch == epoch && m.cache[id] == nil {
			m.makeRoom()
			m.cache[id] = &cached{desc: s.Desc, since: s.Since}
		}
		m.mu.Unlock()
	}
}

// cachedAt returns the cached descriptor if a transaction at ts may use it: this node's lease covers
// ts, and the version was there by then (SAFETY S27). nil: it must be read.
func (m *Manager) cachedAt(id ID, ts hlc.Timestamp) Descriptor {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.cache[id]; c != nil && m.lease != nil && ts.Less(m.lease.expiry) && c.since.LessEq(ts) {
		return c.desc
	}
	return nil
}

// makeRoom drops unused entries when the cache is full. REQUIRES: m.mu.
func (m *Manager) makeRoom() {
	if len(m.cache) < cacheMax {
		return
	}
	for id, c := range m.cache {
		if m.used[held{id, c.desc.Head().Version}] == 0 {
			delete(m.cache, id)
		}
	}
	clear(m.names)
}

// release gives a pin back.
func (m *Manager) release(p pin) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.lease != m.lease {
		return
	}
	h := held{p.desc.Head().ID, p.desc.Head().Version}
	if m.used[h]--; m.used[h] > 0 {
		return
	}
	delete(m.used, h)
	for _, l := range m.lastHeld {
		if l == h && !m.dirty {
			m.dirty = true
			m.Nudge()
		}
	}
}

// deadlineOf returns until when a transaction with this pin may commit.
func (m *Manager) deadlineOf(p pin) hlc.Timestamp {
	m.mu.Lock()
	defer m.mu.Unlock()
	return p.lease.expiry
}

func waitFor(ctx context.Context, ch <-chan struct{}, d time.Duration) error {
	tm := time.NewTimer(d)
	defer tm.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-ch:
	case <-tm.C:
	}
	return nil
}

// Run executes f in a transaction of its own with a view of the catalog, publishes what it
// changed and commits; again when a conflict demands it.
func (m *Manager) Run(ctx context.Context, name string, f func(context.Context, *Collection) error) error {
	const maxAttempts = 50
	for attempt := 1; ; attempt++ {
		var c *Collection
		err := m.cfg.DB.Run(ctx, name, func(ctx context.Context, t Txn) error {
			if c != nil {
				c.Finish(ctx, false) // the attempt before
			}
			c = m.NewCollection(t)
			if err := f(ctx, c); err != nil {
				return err
			}
			return c.BeforeCommit(ctx)
		})
		if c != nil {
			c.Finish(ctx, err == nil)
		}
		if !IsRestart(err) || attempt == maxAttempts || ctx.Err() != nil {
			return err
		}
	}
}

// DB returns the database below.
func (m *Manager) DB() DB { return m.cfg.DB }

// Manager returns the manager that made the view.
func (c *Collection) Manager() *Manager { return c.m }

// Node returns the node that the manager is on.
func (m *Manager) Node() keys.NodeID { return m.cfg.Node }
