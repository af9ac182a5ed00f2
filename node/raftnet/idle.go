package raftnet

import (
	"math"
	"time"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
)

// What an idle range costs. Raft sends each follower a heartbeat every few seconds, and the commit
// index after CommitTimeout; each is a timer, two goroutines and two messages of its own, and with
// hundreds of ranges the wake-ups they cause are most of what an idle node costs. So the router
// keeps up contact in their place, for all ranges of a node pair in one message, and raft's own
// messages that would tell nothing are answered here.
const (
	// contactEvery is how often all idle followers are spoken to. It stays well below raft's
	// HeartbeatTimeout, after which a follower would campaign.
	contactEvery = 6 * time.Second
	// idleContact is for how long an answer of the follower stands for those it would give. A
	// follower that was heard shortly before one round is asked in the next: 1.5 rounds.
	idleContact = 10 * time.Second
	// restLimit is how long a heartbeat rests at most. With the six seconds that raft waits between
	// two it stays below LeaderLeaseTimeout, after which the leader would step down.
	restLimit = 18 * time.Second
)

// tellsNothing reports whether a message of raft's without entries would tell the follower
// nothing: it is fortified for this term and supports this node now, which says more than its
// answer to a heartbeat would, and it has confirmed the log and the commit index.
func (t *RangeTransport) tellsNothing(p *raftPeer, args *raft.AppendEntriesRequest) bool {
	if len(args.Entries) > 0 || t.dropped.Load() >= args.Term || t.router.mono()-p.contact.Load() > int64(idleContact) {
		return false
	}
	a := p.ack.Load()
	if a == nil || a.term != args.Term {
		return false
	}
	if !bareHeartbeat(args) {
		k := p.told.Load()
		if k == nil || k.ack != *a || k.last < args.PrevLogEntry || k.commit < min(args.LeaderCommitIndex, args.PrevLogEntry) {
			return false
		}
	}
	g, ok := t.router.support.SupportedBy(p.node)
	return ok && g.Epoch == a.epoch
}

// bareHeartbeat reports whether a message comes from raft's heartbeat loop, which does nothing else.
func bareHeartbeat(args *raft.AppendEntriesRequest) bool {
	return len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.LeaderCommitIndex == 0
}

// restHeartbeat keeps a heartbeat that tells nothing until the router wakes all that rest, or this
// replica leads no more: hundreds of loops that sleep for a few seconds each are then one wake-up
// in restLimit. It returns false if the transport is closed.
func (t *RangeTransport) restHeartbeat(args *raft.AppendEntriesRequest) bool {
	if !bareHeartbeat(args) {
		return true
	}
	t.mu.Lock()
	if t.resting == nil {
		t.resting, t.restTerm = make(chan struct{}), args.Term
	}
	woken := t.resting
	t.mu.Unlock()
	select {
	case <-woken:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// wakeHeartbeats ends the rest of all heartbeats, or only of those whose leadership is over.
func (t *RangeTransport) wakeHeartbeats(r *raft.Raft, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.resting == nil {
		return
	}
	if all || r.State() != raft.Leader || r.CurrentTerm() != t.restTerm {
		close(t.resting)
		t.resting = nil
	}
}

// Silence returns how long ago a replica last answered in raft's name; the longest duration if it
// never has. An idle follower on a live node answers every 9 s at the latest.
func (t *RangeTransport) Silence(id raft.ServerID) time.Duration {
	p := (*t.peers.Load())[id]
	if p == nil || p.contact.Load() == 0 {
		return math.MaxInt64
	}
	return time.Duration(t.router.mono() - p.contact.Load())
}

// rounds says what one pass over all ranges does for the idle ones.
type rounds struct {
	contact bool // speak to the followers that were not heard for half a round
	wake    bool // end the rest of all heartbeats
}

// dueRounds returns what is due now. Only the router's goroutine calls it.
func (r *Router) dueRounds(now int64) rounds {
	var due rounds
	if now >= r.nextContact {
		r.nextContact, due.contact = now+int64(contactEvery), true
	}
	if now >= r.nextWake {
		r.nextWake, due.wake = now+int64(restLimit), true
	}
	return due
}

// quiet reports whether a follower has to be spoken to in this round.
func (p *raftPeer) quiet(now int64) bool { return now-p.contact.Load() >= int64(contactEvery/2) }

// settled is what a sweep found of a range whose followers lacked nothing. As long as it holds, the
// next sweeps need not look at the range's configuration and followers again. Only the router's
// goroutine uses it.
type settled struct {
	term, commit uint64 // 0: not settled
	peers        []settledPeer
}

type settledPeer struct {
	node      keys.NodeID
	supported bool
	epoch     uint64
}

func (s *settled) reset(term, commit uint64) {
	s.term, s.commit = term, commit
	s.peers = s.peers[:0]
}

// add notes a follower; whole says that it lacks nothing.
func (s *settled) add(p *raftPeer, supported bool, epoch uint64, whole bool) {
	if !whole {
		s.term = 0
	}
	s.peers = append(s.peers, settledPeer{p.node, supported, epoch})
}

// holds reports whether nothing has changed: neither term nor commit index, with which every change
// of the configuration comes, nor whose support counts.
func (s *settled) holds(term, commit uint64, sup pairs) bool {
	if s.term == 0 || s.term != term || s.commit != commit {
		return false
	}
	for _, p := range s.peers {
		g, ok := sup.SupportedBy(p.node)
		if ok != p.supported || ok && g.Epoch != p.epoch {
			return false
		}
	}
	return true
}
