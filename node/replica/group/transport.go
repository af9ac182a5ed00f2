package group

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Transport is what raft needs of the network for one range. It blocks rather than fails
// while a peer is down, and refuses pipelining.
type Transport interface {
	raft.Transport
	raft.WithPreVote
}

// transport watches what peers acknowledge, and sends snapshots outside raft. It has no
// Close: it outlives a raft instance.
type transport struct {
	Transport
	g *Group
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := checkEntries(args.Entries); err != nil {
		return err
	}
	if err := t.Transport.AppendEntries(id, target, args, resp); err != nil {
		return err
	}
	return t.g.peers.appended(id, args, resp)
}

// AppendEntriesPipeline implements raft.Transport: pipelining backs off for minutes after an
// error, blocking calls don't.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// InstallSnapshot implements raft.Transport. data comes from snapshotStore.Open.
func (t *transport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	src, ok := data.(*snapshotSource)
	if !ok {
		return fmt.Errorf("group: snapshot from a %T", data)
	}
	if t.g.cfg.Witness {
		return errWitnessSends
	}
	if t.g.cfg.SendSnapshot == nil {
		return errors.New("group: this replica sends no snapshots")
	}
	inst := t.g.inst.Load()
	if inst == nil {
		return raft.ErrRaftShutdown
	}
	witness, err := isWitness(inst.raft, id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(inst.ctx)
	defer cancel()
	stop := t.g.endWithLeadership(ctx, cancel, args.Term)
	defer stop()
	t.g.peers.snapshot(id, args.LastLogIndex, true)
	defer t.g.peers.snapshot(id, args.LastLogIndex, false)
	r, err := t.g.cfg.SendSnapshot(ctx, Outgoing{
		Range: t.g.cfg.RangeID, To: id, RaftTerm: args.Term, State: src.state, Snap: src.snap, Witness: witness,
	})
	if err != nil {
		return err
	}
	resp.RPCHeader, resp.Term, resp.Success = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}, r.Term, r.Success
	if r.Success {
		t.g.peers.matched(id, args.Term, args.LastLogIndex)
	}
	return nil
}

// endWithLeadership cancels ctx when the leadership of a term is over (raft.md rule 17).
func (g *Group) endWithLeadership(ctx context.Context, cancel func(), term uint64) (stop func()) {
	done := make(chan struct{})
	var once sync.Once
	go func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-done:
				return
			case <-tick.C:
				if inst := g.inst.Load(); inst == nil || inst.raft.State() != raft.Leader || inst.raft.CurrentTerm() != term {
					cancel()
					return
				}
			}
		}
	}()
	return func() { once.Do(func() { close(done) }) }
}

// peers is what the leader knows of its followers' logs in one term.
type peers struct {
	anyLost atomic.Bool // some peer was seen to have lost data, in this term or before

	mu   sync.Mutex
	term uint64
	by   map[raft.ServerID]*peer
}

type peer struct {
	match    uint64    // highest index that it acknowledged
	restored time.Time // when it last took a snapshot
	snapshot uint64    // index of the snapshot under way, or received and not yet followed by an append
	sending  bool
	lost     bool // it acknowledged entries that it does not have (S18)
}

func (p *peers) get(id raft.ServerID, term uint64) *peer {
	if term > p.term || p.by == nil {
		p.term, p.by = term, map[raft.ServerID]*peer{}
	}
	if term < p.term {
		return &peer{}
	}
	e := p.by[id]
	if e == nil {
		e = &peer{}
		p.by[id] = e
	}
	return e
}

// ErrPeerLostData marks a follower that acknowledged entries which it does not have any more.
var ErrPeerLostData = errors.New("group: the follower lost entries that it acknowledged (a rolled-back volume?); replace this replica")

func (p *peers) appended(id raft.ServerID, a *raft.AppendEntriesRequest, r *raft.AppendEntriesResponse) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.get(id, a.Term)
	switch {
	case r.Term != a.Term || a.PrevLogEntry == 0 && len(a.Entries) == 0:
		return nil // deposed, or a bare heartbeat
	case r.Success:
		if n := a.PrevLogEntry + uint64(len(a.Entries)); n > e.match {
			e.match = n
		}
		if e.match >= e.snapshot && !e.sending {
			e.snapshot = 0
		}
	case r.LastLog < e.match:
		e.lost = true // SAFETY S18: it must not count towards a commit
		p.anyLost.Store(true)
	}
	if e.lost {
		return fmt.Errorf("%w: %s has entries up to %d, acknowledged %d", ErrPeerLostData, id, r.LastLog, e.match)
	}
	return nil
}

func (p *peers) snapshot(id raft.ServerID, index uint64, sending bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.get(id, p.term)
	e.snapshot, e.sending = index, sending
}

func (p *peers) matched(id raft.ServerID, term, index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.get(id, term)
	e.match, e.restored, e.lost = max(e.match, index), time.Now(), false
}

// PeerStatus is what the leader knows of one follower.
type PeerStatus struct {
	Lost     bool      // it acknowledged entries that it does not have any more (S18)
	Match    uint64    // highest index acknowledged in this term; 0: none yet
	Restored time.Time // when it last took a snapshot; zero: not in this term
	Snapshot bool      // a snapshot is under way
}

func (p *peers) status(id raft.ServerID, term uint64) PeerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	if term != p.term || p.by[id] == nil {
		return PeerStatus{}
	}
	e := p.by[id]
	return PeerStatus{Lost: e.lost, Match: e.match, Restored: e.restored, Snapshot: e.sending}
}

// lost returns the peers that lost data, as far as this term has seen.
func (p *peers) lost(term uint64) []raft.ServerID {
	if !p.anyLost.Load() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if term != p.term {
		return nil
	}
	var out []raft.ServerID
	for id, e := range p.by {
		if e.lost {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// pins returns the index up to which the log may go: what snapshots under way need, and the
// lowest match of the given peers (0 if one is unknown).
func (p *peers) pins(term uint64, ids []raft.ServerID) (snapshots, match uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	snapshots, match = ^uint64(0), ^uint64(0)
	for _, id := range ids {
		var e *peer
		if term == p.term {
			e = p.by[id]
		}
		if e == nil {
			match = 0
			continue
		}
		if e.snapshot > 0 {
			snapshots = min(snapshots, e.snapshot)
		}
		match = min(match, e.match)
	}
	return snapshots, match
}
