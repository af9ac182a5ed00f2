package raftnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
)

// The argument for leases, in short. A leads a range in term T and B is another voter.
//
//	(1) B records fort = (A, T, epoch) when an AppendEntries of term T arrives while B
//	    supports A and no vote of this range is in flight on B, before raft sees it; A
//	    learns of it only if raft on B accepted the message in term T.
//	(2) While B's fort is A's, B still supports A, and in the fort's epoch, B's transport
//	    neither passes a vote request to raft nor sends one of its own, except for the
//	    target to which A has handed the range over.
//	(3) A holds a lease while it leads in T and a majority of the voters, A included,
//	    are fortified for T in their current epoch and support A now, as A counts it.
//	    By package liveness, then they also support A as they count it themselves.
//	(4) A leader of a later term needs the votes of a majority. It shares a voter with
//	    A's majority, which votes only when (2) no longer holds it back: so A's lease has
//	    ended before. If that voter is A itself, raft on A has left the leader state.
//	(5) Restarts forget forts. VotesAllowed keeps a restarted node out of elections until
//	    all it may have promised has run out (SAFETY S3).
//	(6) Whatever A served was at most h + D of its supporters (S2 d). A voter returns the
//	    largest such value it supported, so the new leader's low-water mark exceeds every
//	    read under an earlier lease (S4).

// RangeConfig configures the transport of one replica.
type RangeConfig struct {
	Range   keys.RangeID
	Replica keys.ReplicaID
	// Witness: the replica votes and leads, but never holds the lease (S22).
	Witness bool
	// AppliedTerm returns the highest term of which the FSM has applied an entry (or
	// passed a barrier), with every command before it (raft.md rule 14).
	AppliedTerm func() uint64
	// GetLog reads raft's log; needed for nudges and for trial elections.
	GetLog func(index uint64, l *raft.Log) error
	// Served returns a timestamp that no read served here so far exceeds, provided that
	// reads raise it before they check the lease. It makes the low-water mark of a
	// transfer exact; nil means: the lease's read limit.
	Served func() hlc.Timestamp
	// Gate holds back an AppendEntries success until index is durable (SAFETY S15); nil
	// if StoreLogs syncs.
	Gate func(ctx context.Context, index uint64) error
	// GateOwn does the same on the leader before a peer's success reaches raft.
	GateOwn func(ctx context.Context, index uint64) error
	// SendSnapshot sends the snapshot's data outside raft, verified and complete, before
	// InstallSnapshot is sent. Nil refuses snapshots.
	SendSnapshot func(ctx context.Context, to raft.ServerID, req *raft.InstallSnapshotRequest, data io.Reader) error
	// ReceiveSnapshot opens the data that arrived for req; exactly req.Size bytes.
	ReceiveSnapshot func(ctx context.Context, req *raft.InstallSnapshotRequest) (io.ReadCloser, error)
	// SnapshotInstalled runs before the success of an InstallSnapshot is answered.
	SnapshotInstalled func(ctx context.Context, req *raft.InstallSnapshotRequest) error
}

// LeaseStatus is what a replica asks before it serves.
type LeaseStatus struct {
	Valid bool
	// Term in which this node leads, if Valid.
	Term uint64
	// ReadLimit is the latest timestamp that may be served (S2 d), if Valid.
	ReadLimit hlc.Timestamp
	// Leader is the node that leads as far as is known here, 0 if unknown.
	Leader keys.NodeID
}

// ErrTransportClosed is returned by RPCs of a closed transport.
var ErrTransportClosed = errors.New("raftnet: the range's transport is closed")

// errStopped ends a blocked RPC whose purpose is gone (raft.md rule 17).
var errStopped = errors.New("raftnet: this node no longer leads in the request's term, or the peer was removed")

// errGuard refuses this node's own candidacy.
var errGuard = errors.New("raftnet: this node supports the range's leader, or has started too recently, and must not campaign")

// fort is what this replica has promised to a leader.
type fort struct {
	holder keys.NodeID // 0: none
	term   uint64
	epoch  uint64
}

// ack is a peer's fortification of this leader.
type ack struct{ term, epoch uint64 }

// raftPeer is what the transport keeps of one other replica.
type raftPeer struct {
	id      raft.ServerID
	node    keys.NodeID
	replica keys.ReplicaID

	ack        atomic.Pointer[ack]
	told       atomic.Pointer[told]
	match      atomic.Uint64 // last index acknowledged in matchTerm
	matchTerm  atomic.Uint64
	sentCommit atomic.Uint64 // highest LeaderCommitIndex acknowledged
	contact    atomic.Int64  // when it last answered, monotonic

	mu     sync.Mutex
	term   uint64
	ctx    context.Context // ends when RPCs of that term have lost their purpose
	cancel context.CancelFunc
}

// told is what a fortified follower has confirmed in an empty AppendEntries: that it has the
// entry at index last, and that it knows of the commit index. It ends with the epoch, so also
// with the follower's process, which forgets the commit index.
type told struct {
	ack
	last, commit uint64
}

// RangeTransport is hashicorp/raft's transport for one replica. It implements
// raft.Transport, raft.WithPreVote and raft.WithClose.
//
// Close it before raft.Shutdown is waited for: a blocked AppendEntries ends only with
// its purpose or with the transport.
type RangeTransport struct {
	router *Router
	cfg    RangeConfig
	self   raft.ServerID
	rpc    chan raft.RPC
	raft   atomic.Pointer[raft.Raft]
	ctx    context.Context
	cancel context.CancelFunc

	dropped     atomic.Uint64          // leases of terms up to this one are given up for good
	transferWhy atomic.Pointer[string] // of the newest transfer away, for the target
	handed      atomic.Int64           // latest ReadLimit that Lease returned, wall nanoseconds
	mute        atomic.Bool            // neither votes nor campaigns, for good
	serving     atomic.Int32           // inbound messages in flight
	blocked     atomic.Int32           // outbound AppendEntries in flight
	dirty       atomic.Int64           // when entries were last acknowledged, monotonic; 0: nothing to nudge
	peers       atomic.Pointer[map[raft.ServerID]*raftPeer]
	leader      atomic.Pointer[leaderHint]
	settled     settled // of the router's goroutine

	mu         sync.Mutex
	fort       fort
	votes      int    // votes in flight, in and out
	floor      int64  // largest limit of earlier fort holders, wall nanoseconds
	heard      fort   // leader that was heard last; epoch is its boot counter
	lost       fort   // leader that has said it leads no more
	lowTerm    uint64 // term of low
	low        int64  // largest limit that voters of lowTerm returned
	lowExact   bool   // low came with a transfer
	token      releaseToken
	tokenLow   int64
	tokenUntil time.Time
	elect      electState
	resting    chan struct{} // closed when the heartbeats that rest are woken; nil: none rests
	restTerm   uint64        // of the first of them
}

type leaderHint struct {
	id   raft.ServerID
	node keys.NodeID
}

var (
	_ raft.Transport   = (*RangeTransport)(nil)
	_ raft.WithPreVote = (*RangeTransport)(nil)
	_ raft.WithClose   = (*RangeTransport)(nil)
)

// SetRaft hands over the raft instance that was made with this transport.
func (t *RangeTransport) SetRaft(r *raft.Raft) { t.raft.Store(r) }

// ID returns the replica's server ID.
func (t *RangeTransport) ID() raft.ServerID { return t.self }

// Range returns the range's ID.
func (t *RangeTransport) Range() keys.RangeID { return t.cfg.Range }

// Consumer implements raft.Transport.
func (t *RangeTransport) Consumer() <-chan raft.RPC { return t.rpc }

// LocalAddr implements raft.Transport.
func (t *RangeTransport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.self) }

// EncodePeer implements raft.Transport.
func (t *RangeTransport) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }

// DecodePeer implements raft.Transport.
func (t *RangeTransport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport. It is a no-op: the fast path would run
// appendEntries beside raft's main loop; everything goes through Consumer.
func (t *RangeTransport) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntriesPipeline implements raft.Transport. A transport that blocks while a peer
// is down heals faster than raft's pipeline.
func (t *RangeTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// Mute makes this replica neither vote nor campaign, for good: it has lost entries that it
// acknowledged, and might elect a leader without them (SAFETY S18).
func (t *RangeTransport) Mute() { t.mute.Store(true) }

// Muted reports whether the replica may not vote.
func (t *RangeTransport) Muted() bool { return t.mute.Load() }

// Close ends every RPC, in and out, and takes the replica off the router.
func (t *RangeTransport) Close() error {
	t.cancel()
	t.router.remove(t)
	return nil
}

func (t *RangeTransport) peer(id raft.ServerID) (*raftPeer, error) {
	if p := (*t.peers.Load())[id]; p != nil {
		return p, nil
	}
	node, replica, err := ParseServerID(id)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.peers.Load()
	if p := old[id]; p != nil {
		return p, nil
	}
	m := make(map[raft.ServerID]*raftPeer, len(old)+1)
	for k, v := range old {
		m[k] = v
	}
	p := &raftPeer{id: id, node: node, replica: replica}
	m[id] = p
	t.peers.Store(&m)
	return p, nil
}

// purpose returns the context of RPCs to the peer in a term.
func (t *RangeTransport) purpose(p *raftPeer, term uint64) context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx == nil || p.term != term || p.ctx.Err() != nil {
		if p.cancel != nil && p.term != term {
			p.cancel()
		}
		p.term = term
		p.ctx, p.cancel = context.WithCancel(t.ctx)
	}
	return p.ctx
}

// voters returns the latest configuration's voters; ok says whether self is one.
func (t *RangeTransport) voters(r *raft.Raft) (ids []raft.Server, self bool) {
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			ids = append(ids, s)
			self = self || s.ID == t.self
		}
	}
	return ids, self
}

// voterNodes returns the nodes of the voters.
func (t *RangeTransport) voterNodes(r *raft.Raft) (nodes []keys.NodeID, self bool) {
	vs, self := t.voters(r)
	for _, s := range vs {
		if n, _, err := ParseServerID(s.ID); err == nil {
			nodes = append(nodes, n)
		}
	}
	return nodes, self
}

// Leader returns the node that leads as far as is known here.
func (t *RangeTransport) Leader() keys.NodeID {
	r := t.raft.Load()
	if r == nil {
		return 0
	}
	_, id := r.LeaderWithID()
	if id == "" {
		return 0
	}
	if h := t.leader.Load(); h != nil && h.id == id {
		return h.node
	}
	n, _, err := ParseServerID(id)
	if err != nil {
		return 0
	}
	t.leader.Store(&leaderHint{id, n})
	return n
}

const maxVoters = 32

// Lease reports whether this replica holds the range's lease now. Evaluate a read, then
// check the lease, then answer (S2).
func (t *RangeTransport) Lease() LeaseStatus {
	r := t.raft.Load()
	if r == nil {
		return LeaseStatus{}
	}
	s := LeaseStatus{Leader: t.Leader()}
	term := r.CurrentTerm()
	if r.State() != raft.Leader || t.cfg.Witness || t.dropped.Load() >= term || t.ctx.Err() != nil ||
		t.cfg.AppliedTerm() != term || !t.router.support.Ready() {
		return s
	}
	limit, ok := t.quorumSupport(r, term)
	if !ok {
		return s
	}
	// What is handed out is remembered before the state is looked at again: a vote that
	// raft grants after this point reports it (S4).
	for {
		old := t.handed.Load()
		if limit <= old || t.handed.CompareAndSwap(old, limit) {
			break
		}
	}
	if r.State() != raft.Leader || r.CurrentTerm() != term || t.dropped.Load() >= term || t.ctx.Err() != nil {
		return s
	}
	s.Valid, s.Term, s.ReadLimit = true, term, hlc.Timestamp{WallNanos: limit}
	return s
}

// quorumSupport reports whether a majority of the voters are fortified and support this
// node now, and the latest timestamp that a majority's promises cover.
func (t *RangeTransport) quorumSupport(r *raft.Raft, term uint64) (int64, bool) {
	sup := t.router.support
	peers := *t.peers.Load()
	var limits [maxVoters]int64
	n, voters, self := 0, 0, false
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if s.ID == t.self {
			self = true
			continue
		}
		p := peers[s.ID]
		if p == nil {
			continue
		}
		a := p.ack.Load()
		if a == nil || a.term != term {
			continue
		}
		g, ok := sup.SupportedBy(p.node)
		if !ok || g.Epoch != a.epoch && !t.router.planted(PlantNoEpochMatch) {
			continue
		}
		if n < maxVoters {
			// Insertion keeps the largest limit first.
			i := n
			for ; i > 0 && limits[i-1] < g.Limit.WallNanos; i-- {
				limits[i] = limits[i-1]
			}
			limits[i] = g.Limit.WallNanos
			n++
		}
	}
	need := voters/2 + 1 - 1 // of the others
	if !self || n < need {
		return 0, false
	}
	if need == 0 {
		g, ok := sup.SupportedBy(t.router.self)
		return g.Limit.WallNanos, ok
	}
	return limits[need-1], true
}

// DropLease gives the lease of a term, and of all before it, up for good (raft.md rule
// 8). It comes back only with a new term.
func (t *RangeTransport) DropLease(term uint64) {
	for {
		old := t.dropped.Load()
		if term <= old || t.dropped.CompareAndSwap(old, term) {
			return
		}
	}
}

// selfLimitLocked bounds everything served on the strength of this replica's support,
// its own service included.
func (t *RangeTransport) selfLimitLocked() int64 {
	sup := t.router.support
	limit := max(t.floor, t.handed.Load(), sup.PromisedLimit(0, 0).WallNanos)
	if t.fort.holder != 0 {
		limit = max(limit, sup.PromisedLimit(t.fort.holder, t.fort.epoch).WallNanos)
	}
	return limit
}

// LowWater returns the mark that no read under an earlier lease exceeds (S4). It is for
// the leader, and fixed from the moment it was elected.
func (t *RangeTransport) LowWater() hlc.Timestamp {
	r := t.raft.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	if r != nil && t.lowTerm == r.CurrentTerm() {
		return hlc.Timestamp{WallNanos: t.low}
	}
	return hlc.Timestamp{WallNanos: t.selfLimitLocked()} // the only voter
}

// startLowLocked begins to collect the voters' limits for a candidacy in term.
func (t *RangeTransport) startLowLocked(term uint64) {
	if t.lowTerm >= term {
		return
	}
	t.lowTerm, t.low, t.lowExact = term, t.selfLimitLocked(), false
	// The target of a transfer knows exactly what was served before, unless there was
	// another leader in between.
	if t.token.leader != 0 && t.token.term+1 == term {
		t.low, t.lowExact = t.tokenLow, true
	}
}

// addLow takes in the limit that came with a vote, before raft can count the vote. One that comes once
// raft has won the election was not needed for it: the votes that were form a quorum, which holds a voter
// of every earlier lease's. Its limit may even be that of this very term: the voter has heard of the
// leader already.
func (t *RangeTransport) addLow(term uint64, limit int64) {
	r := t.raft.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	if r != nil && r.State() == raft.Leader && r.CurrentTerm() == term {
		return
	}
	if t.lowTerm == term && !t.lowExact {
		t.low = max(t.low, limit)
	}
}

// enterVote applies rules 5 and 7: may this replica take part in an election of the
// candidate, whether its own or another's? If so, the vote counts as in flight until
// exitVote, which keeps forts from being recorded meanwhile.
func (t *RangeTransport) enterVote(candidate keys.NodeID, token releaseToken, count bool) bool {
	if !t.router.support.VotesAllowed() && !t.router.planted(PlantNoRestartWait) || t.mute.Load() {
		return false
	}
	if candidate != t.router.self && t.Lease().Valid {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.fort; f.holder != 0 && f.holder != candidate {
		released := token.leader == f.holder && token.term >= f.term
		epoch, ok := t.router.support.Supports(f.holder)
		plant := PlantNoIncomingGuard
		if candidate == t.router.self {
			plant = PlantNoOutgoingGuard
		}
		switch {
		case !ok || epoch != f.epoch || released:
			// The lease that rested on it is over for good.
			t.clearFortLocked()
		case !t.router.planted(plant):
			return false
		}
	}
	if count {
		t.votes++
	}
	return true
}

// clearFortLocked forgets the fort, but not what its holder may have served.
func (t *RangeTransport) clearFortLocked() {
	t.floor = max(t.floor, t.router.support.PromisedLimit(t.fort.holder, t.fort.epoch).WallNanos)
	t.fort = fort{}
}

func (t *RangeTransport) exitVote() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.votes--
}

// ownToken returns the token to show in a candidacy of the given term.
func (t *RangeTransport) ownToken(term uint64) releaseToken {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token.leader != 0 && t.token.term+1 == term && time.Now().Before(t.tokenUntil) {
		return t.token
	}
	return releaseToken{}
}

// deliver hands a message to raft's main loop and waits for its answer.
func (t *RangeTransport) deliver(cmd any, data io.Reader) (any, error) {
	rc := make(chan raft.RPCResponse, 1)
	select {
	case t.rpc <- raft.RPC{Command: cmd, RespChan: rc, Reader: data}:
	case <-t.ctx.Done():
		return nil, remoteErrorf(CodeShutdown, "raftnet: replica %s of r%d is shutting down", t.self, t.cfg.Range)
	}
	select {
	case r := <-rc:
		return r.Response, r.Error
	case <-t.ctx.Done():
		return nil, remoteErrorf(CodeShutdown, "raftnet: replica %s of r%d is shutting down", t.self, t.cfg.Range)
	}
}

// header is raft's header of a message from a replica.
func header(node keys.NodeID, replica keys.ReplicaID) raft.RPCHeader {
	id := []byte(ServerID(node, replica))
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: id, Addr: id}
}

func unexpected(resp any) error {
	return fmt.Errorf("raftnet: raft answered with an unexpected %T", resp)
}
