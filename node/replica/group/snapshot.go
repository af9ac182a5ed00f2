package group

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/storage"
)

const (
	// chunkBytes is the size of a chunk's data, more or less.
	chunkBytes = 512 << 10
	// maxTransfers bounds the snapshots that a node sends at once, and those it receives.
	maxTransfers = 4
	// transferIdle is after what silence a half received snapshot is dropped.
	transferIdle = 30 * time.Second
)

// Outgoing is a snapshot to be sent.
type Outgoing struct {
	Range    keys.RangeID
	To       raft.ServerID
	RaftTerm uint64
	State    State
	Snap     *storage.Snapshot
	// Witness: it is for a witness and carries the range's structure, but none of its data (S22).
	Witness bool
}

// Installed is the receiver's answer, as raft's InstallSnapshotResponse has it.
type Installed struct {
	Term    uint64
	Success bool
}

// Sender sends snapshots of all of a node's ranges.
type Sender struct {
	net   raftnet.Network
	node  func(raft.ServerID) (keys.NodeID, bool)
	slots *semaphore.Weighted
	bytes func(int)

	mu  sync.Mutex
	out map[*transfer]struct{}
}

// Transfer is a snapshot on its way out.
type Transfer struct {
	Range keys.RangeID
	To    keys.NodeID
	Since time.Time
	Sent  int64 // bytes so far
	// Witness: it carries no data.
	Witness bool
}

// Transfers returns the snapshots that are on their way out, the oldest first.
func (s *Sender) Transfers() []Transfer {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Transfer, 0, len(s.out))
	for t := range s.out {
		out = append(out, Transfer{Range: t.o.Range, To: t.node, Since: t.since, Sent: t.sent.Load(), Witness: t.o.Witness})
	}
	slices.SortFunc(out, func(a, b Transfer) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Range, b.Range)) })
	return out
}

// track counts a transfer among those on their way, until done is called.
func (s *Sender) track(t *transfer) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out[t] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.out, t)
	}
}

// NewSender returns a Sender. node finds a replica's node; sent is called with the bytes of
// every chunk (it may wait, to pace the transfer, and may be nil).
func NewSender(net raftnet.Network, node func(raft.ServerID) (keys.NodeID, bool), sent func(int)) *Sender {
	if sent == nil {
		sent = func(int) {}
	}
	return &Sender{net: net, node: node, slots: semaphore.NewWeighted(maxTransfers), bytes: sent, out: map[*transfer]struct{}{}}
}

// Send streams a snapshot and returns when the receiver has installed it.
func (s *Sender) Send(ctx context.Context, o Outgoing) (Installed, error) {
	node, ok := s.node(o.To)
	if !ok {
		return Installed{}, fmt.Errorf("group: snapshot of range %d: %q names no node", o.Range, o.To)
	}
	if err := s.slots.Acquire(ctx, 1); err != nil {
		return Installed{}, err
	}
	defer s.slots.Release(1)
	t := &transfer{s: s, node: node, o: o, since: time.Now()}
	defer s.track(t)()
	if _, err := rand.Read(t.id[:]); err != nil {
		return Installed{}, err
	}
	r, err := t.run(ctx)
	if err != nil {
		return Installed{}, fmt.Errorf("group: snapshot of range %d to %s: %w", o.Range, o.To, err)
	}
	return Installed{Term: r.term, Success: r.success}, nil
}

// transfer is one snapshot on its way out.
type transfer struct {
	s     *Sender
	node  keys.NodeID
	o     Outgoing
	id    snapshotID
	since time.Time
	sent  atomic.Int64 // bytes
	seq   uint64
	pairs uint64
	crc   uint32
	buf   []byte
}

func (t *transfer) call(ctx context.Context, m raftnet.Method, payload []byte) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, transferIdle)
	defer cancel()
	b, err := t.s.net.Call(ctx, t.node, raftnet.Bulk, m, payload)
	if err != nil {
		return nil, err
	}
	return decodeReply(b)
}

func (t *transfer) run(ctx context.Context) (*reply, error) {
	begin := &beginMsg{id: t.id, rangeID: t.o.Range, to: t.o.To, raftTerm: t.o.RaftTerm, pos: t.o.State.Applied, desc: t.o.State.Desc, witness: t.o.Witness}
	r, err := t.call(ctx, raftnet.MethodSnapshotBegin, begin.encode())
	if err != nil || !r.send {
		return r, err
	}
	spans := ReplicatedSpans(&t.o.State.Desc)
	if t.o.Witness {
		spans = StructureSpans(&t.o.State.Desc)
	}
	for _, sp := range spans {
		if err := t.span(ctx, sp); err != nil {
			t.s.net.Notify(t.node, raftnet.Bulk, raftnet.MethodSnapshotAbort, (&endMsg{id: t.id}).encode())
			return nil, err
		}
	}
	if err := t.flush(ctx); err != nil {
		return nil, err
	}
	end := &endMsg{id: t.id, chunks: t.seq, pairs: t.pairs, crc: t.crc}
	return t.call(ctx, raftnet.MethodSnapshotEnd, end.encode())
}

func (t *transfer) span(ctx context.Context, sp keys.Span) error {
	it, err := t.o.Snap.NewIter(storage.IterOptions{Lower: sp.Key, Upper: sp.End()})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.Value()
		if err != nil {
			return errors.Join(err, it.Close())
		}
		t.buf = appendPair(t.buf, it.EngineKey(), v)
		t.pairs++
		if len(t.buf) >= chunkBytes {
			if err := t.flush(ctx); err != nil {
				return errors.Join(err, it.Close())
			}
		}
	}
	return it.Close()
}

func (t *transfer) flush(ctx context.Context) error {
	if len(t.buf) == 0 {
		return nil
	}
	t.crc = crc32.Update(t.crc, castagnoli, t.buf)
	c := &chunkMsg{id: t.id, seq: t.seq, data: t.buf, crc: crc32.Checksum(t.buf, castagnoli)}
	if _, err := t.call(ctx, raftnet.MethodSnapshotChunk, c.encode()); err != nil {
		return err
	}
	t.s.bytes(len(t.buf))
	t.sent.Add(int64(len(t.buf)))
	t.seq++
	t.buf = t.buf[:0]
	return nil
}

// Receiver takes snapshots for all of a node's ranges.
type Receiver struct {
	state *storage.StateEngine
	host  Host
	slots *semaphore.Weighted
	bytes func(int)

	mu     sync.Mutex
	in     map[snapshotID]*incoming
	closed bool
}

// Host finds the replicas of a node.
type Host interface {
	// ReplicaFor returns the replica that a snapshot of desc is for. It is an error if
	// another replica of this node holds some of desc's keys (S20), but for one that desc's range
	// has taken in since (Swallowed).
	ReplicaFor(to raft.ServerID, desc *kv.RangeDescriptor) (*Group, error)
	// Swallowed returns the replicas here of ranges that were merged into desc's, by range.
	Swallowed(desc *kv.RangeDescriptor) ([]*Group, error)
	// SnapshotSwallowed says that the state of these replicas is gone, durably.
	SnapshotSwallowed(desc *kv.RangeDescriptor, rights []keys.RangeID)
}

// incoming is one snapshot on its way in.
type incoming struct {
	mu     lock
	begin  *beginMsg
	group  *Group
	table  *storage.TableWriter
	seq    uint64
	pairs  uint64
	crc    uint32
	over   bool
	done   bool // the table file is complete
	expire *time.Timer
	// swallowed are ranges that were merged into this one, whose replicas here end with the
	// installation; markers are what remains to be written in their place.
	swallowed []keys.RangeID
	markers   []marker
}

// NewReceiver returns a Receiver and registers its handlers. received is called with the bytes of every
// chunk before it is answered (it may wait, to pace the transfer, and may be nil).
func NewReceiver(net raftnet.Network, state *storage.StateEngine, host Host, received func(int)) *Receiver {
	if received == nil {
		received = func(int) {}
	}
	r := &Receiver{state: state, host: host, slots: semaphore.NewWeighted(maxTransfers), bytes: received, in: map[snapshotID]*incoming{}}
	net.Handle(raftnet.MethodSnapshotBegin, r.begin)
	net.Handle(raftnet.MethodSnapshotChunk, r.chunk)
	net.Handle(raftnet.MethodSnapshotEnd, r.end)
	net.Handle(raftnet.MethodSnapshotAbort, r.abort)
	return r
}

// Close drops what is half received. The network is closed before.
func (r *Receiver) Close() {
	r.mu.Lock()
	r.closed = true
	all := r.in
	r.in = map[snapshotID]*incoming{}
	r.mu.Unlock()
	for _, in := range all {
		r.drop(in)
	}
}

func (r *Receiver) begin(ctx context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	m, err := decodeBegin(payload)
	if err != nil {
		return nil, err
	}
	g, err := r.host.ReplicaFor(m.to, &m.desc)
	if err != nil {
		return nil, err
	}
	if m.witness != g.cfg.Witness {
		// REQUIRES: S22. A data replica would lose all that it has.
		return nil, fmt.Errorf("group: a snapshot for a %s came to replica %s of range %d, which is a %s", kindName(m.witness), m.to, m.rangeID, kindName(g.cfg.Witness))
	}
	term, has := g.covers(m.raftTerm, m.pos)
	if has || term > m.raftTerm {
		return (&reply{term: term, success: has && term <= m.raftTerm}).encode(), nil
	}
	if err := r.slots.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	in, err := r.start(m, g)
	if err != nil {
		r.slots.Release(1)
		return nil, err
	}
	in.expire = time.AfterFunc(transferIdle, func() { r.forget(m.id); r.drop(in) })
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.in[m.id] = in
	}
	r.mu.Unlock()
	if closed {
		r.drop(in)
		return nil, raftnet.ErrClosed
	}
	return (&reply{term: term, send: true}).encode(), nil
}

// start opens the table file; its first entries remove whatever the replica held before.
func (r *Receiver) start(m *beginMsg, g *Group) (*incoming, error) {
	rights, err := r.host.Swallowed(&m.desc)
	if err != nil {
		return nil, err
	}
	t, err := r.state.NewTable(fmt.Sprintf("snapshot-r%d-%x", m.rangeID, m.id))
	if err != nil {
		return nil, err
	}
	old := g.State()
	swallowed := ranges(rights)
	spans := clearedSpans(&old.Desc, &m.desc, rights)
	if m.witness {
		spans = localSpans(m.rangeID, swallowed) // it holds nothing else
	}
	for _, sp := range spans {
		if err := t.DeleteRange(sp.Key, sp.EndKey); err != nil {
			t.Discard()
			return nil, err
		}
	}
	return &incoming{mu: newLock(), begin: m, group: g, table: t, swallowed: swallowed, markers: mergedMarkers(swallowed)}, nil
}

// clearedSpans returns, in order and without overlap, what a replica of old (RangeID 0: it
// had no data) must give up before it takes the state of desc, into which rights were merged.
func clearedSpans(old, desc *kv.RangeDescriptor, rights []*Group) []keys.Span {
	start, end := desc.Start, desc.End
	if old.RangeID != 0 {
		// Between the two may lie what the range gave up in a split that this replica never
		// applied; no other replica here can hold it, since it would overlap this one.
		if old.Start.Less(start) {
			start = old.Start
		}
		if end.Less(old.End) {
			end = old.End
		}
	}
	for _, g := range rights {
		// The same, of what was merged: the range may have been split inside it since.
		if right := g.State().Desc; end.Less(right.End) {
			end = right.End
		}
	}
	data := DataSpans(start, end)
	return append(append([]keys.Span{data[0]}, localSpans(desc.RangeID, ranges(rights))...), data[1])
}

func (r *Receiver) get(id snapshotID) (*incoming, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := r.in[id]
	if in == nil {
		return nil, fmt.Errorf("group: snapshot %x is not under way here; begin it again", id)
	}
	return in, nil
}

func (r *Receiver) forget(id snapshotID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.in, id)
}

// drop ends a transfer, once.
func (r *Receiver) drop(in *incoming) {
	in.mu.Lock()
	defer in.mu.Unlock()
	r.dropLocked(in)
}

func (r *Receiver) dropLocked(in *incoming) {
	if in.over {
		return
	}
	in.over = true
	in.expire.Stop()
	if !in.done {
		_ = in.table.Finish() // closes the file; its content does not matter any more
	}
	in.table.Discard()
	r.slots.Release(1)
}

func (r *Receiver) chunk(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	m, err := decodeChunk(payload)
	if err != nil {
		return nil, err
	}
	in, err := r.get(m.id)
	if err != nil {
		return nil, err
	}
	if err := r.take(in, m); err != nil {
		return nil, err
	}
	r.bytes(len(m.data))
	return (&reply{}).encode(), nil
}

// take writes a chunk into the transfer's table.
func (r *Receiver) take(in *incoming, m *chunkMsg) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.over || m.seq != in.seq {
		return fmt.Errorf("group: snapshot %x: chunk %d came where %d was due (over: %t); begin it again", m.id, m.seq, in.seq, in.over)
	}
	err := eachPair(m.data, func(key, value []byte) error {
		in.pairs++
		if err := in.markersBefore(key); err != nil {
			return err
		}
		return in.table.Set(key, value)
	})
	if err != nil {
		r.forget(m.id)
		r.dropLocked(in)
		return err
	}
	in.seq++
	in.crc = crc32.Update(in.crc, castagnoli, m.data)
	in.expire.Reset(transferIdle)
	return nil
}

func (r *Receiver) abort(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	m, err := decodeEnd(payload)
	if err != nil {
		return nil, err
	}
	if in, err := r.get(m.id); err == nil {
		r.forget(m.id)
		r.drop(in)
	}
	return (&reply{}).encode(), nil
}

func (r *Receiver) end(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	m, err := decodeEnd(payload)
	if err != nil {
		return nil, err
	}
	in, err := r.get(m.id)
	if err != nil {
		return nil, err
	}
	r.forget(m.id)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.over {
		return nil, fmt.Errorf("group: snapshot %x is over", m.id)
	}
	defer r.dropLocked(in)
	if m.chunks != in.seq || m.pairs != in.pairs || m.crc != in.crc {
		return nil, fmt.Errorf("%w: snapshot %x came with %d chunks, %d pairs, checksum %08x; announced %d, %d, %08x",
			ErrCorrupt, m.id, in.seq, in.pairs, in.crc, m.chunks, m.pairs, m.crc)
	}
	if err := in.markersBefore(nil); err != nil {
		return nil, err
	}
	in.done = true
	if err := in.table.Finish(); err != nil {
		return nil, err
	}
	// Nobody else may hold these keys by now (S20).
	if g, err := r.host.ReplicaFor(in.begin.to, &in.begin.desc); err != nil || g != in.group {
		return nil, fmt.Errorf("group: the replica for snapshot %x has changed: %w", m.id, err)
	}
	swallowed := false
	term, ok, err := in.group.install(in.begin, func() error {
		rights, err := in.swallow(r.host)
		if err != nil {
			return err
		}
		err = r.state.Ingest(in.table)
		release(rights, err == nil)
		swallowed = err == nil
		return err
	})
	if swallowed && len(in.swallowed) > 0 {
		r.host.SnapshotSwallowed(&in.begin.desc, in.swallowed)
	}
	if err != nil {
		return nil, err
	}
	return (&reply{term: term, success: ok}).encode(), nil
}

// covers reports whether this replica durably has everything up to pos, and its raft term.
// A log entry with pos's term says so: by raft's log matching, all before it are the same.
func (g *Group) covers(_ uint64, pos Position) (term uint64, has bool) {
	term, err := g.log.GetUint64(currentTermKey)
	if err != nil {
		return 0, false
	}
	if g.AppliedIndex() >= pos.Index {
		return term, true
	}
	var e raft.Log
	return term, g.log.GetLog(pos.Index, &e) == nil && e.Term == pos.Term
}

// install replaces the replica's state by a snapshot, while raft is stopped.
//
// An entry of the log at or beyond the snapshot's position can go only because it does not
// match (covers): were it acknowledged, it would be the leader's, and match.
func (g *Group) install(m *beginMsg, ingest func() error) (term uint64, ok bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return 0, false, raft.ErrRaftShutdown
	}
	before := g.fsm.snapshotState()
	g.stopLocked()
	defer func() {
		if e := g.startLocked(); e != nil {
			err = errors.Join(err, e)
			ok = false
			go g.fsm.fatal(fmt.Errorf("group: restarting range %d after a snapshot: %w", g.cfg.RangeID, e))
		}
	}()
	term, has := g.covers(m.raftTerm, m.pos)
	switch {
	case term > m.raftTerm:
		return term, false, nil // a stale leader
	case has:
		return term, true, nil // a late message, or the log caught up meanwhile
	case term < m.raftTerm:
		if err := g.log.SetUint64(currentTermKey, m.raftTerm); err != nil {
			return term, false, err
		}
		term = m.raftTerm
	}
	if err := g.fsm.replace(g.cfg.RangeID, ingest); err != nil {
		return term, false, err
	}
	if err := g.log.reset(m.pos); err != nil {
		return term, false, err
	}
	st := g.fsm.snapshotState()
	g.logger.Info("installed a snapshot", "index", m.pos.Index, "term", m.pos.Term, "before", before.Applied.Index)
	if g.cfg.Events != nil {
		g.cfg.Events.DescriptorApplied(st.Desc.Clone())
		g.cfg.Events.FrozenApplied(st.Frozen)
		if !st.GCThreshold.IsEmpty() {
			g.cfg.Events.GCThresholdApplied(st.GCThreshold)
		}
	}
	return term, true, nil
}
