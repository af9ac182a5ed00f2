package raftnet

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
)

// markDirty notes that a range's followers may soon need a nudge.
func (r *Router) markDirty(t *RangeTransport) {
	if t.dirty.Swap(r.mono()) != 0 {
		return // it is queued already
	}
	r.mu.Lock()
	r.dirty = append(r.dirty, t)
	first := len(r.dirty) == 1
	r.mu.Unlock()
	if first {
		r.poke()
	}
}

// granted is called when a node supports this one in a new epoch: the ranges that this
// node leads have to be fortified again.
func (r *Router) granted(node keys.NodeID) {
	r.mu.Lock()
	r.refort[node] = true
	r.mu.Unlock()
	r.poke()
}

func (r *Router) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// upkeep is the router's own goroutine. Idle, it wakes once per sweep.
func (r *Router) upkeep() {
	defer r.wg.Done()
	sweep := time.NewTicker(r.cfg.Sweep)
	defer sweep.Stop()
	nudge := time.NewTimer(time.Hour)
	defer nudge.Stop()
	for {
		full := false
		select {
		case <-sweep.C:
			full = true
		case <-nudge.C:
		case <-r.wake:
			r.mu.Lock()
			n := len(r.refort)
			r.mu.Unlock()
			if n == 0 {
				nudge.Reset(r.cfg.NudgeDelay)
				continue
			}
		case <-r.ctx.Done():
			return
		}
		again := r.pass(full)
		if full {
			r.takeover.sweep()
		}
		if again {
			nudge.Reset(r.cfg.NudgeDelay)
		}
	}
}

// pass nudges quiet ranges (raft.md rule 12) and fortifies where an epoch is new. It
// reports whether some range was not quiet yet.
func (r *Router) pass(full bool) bool {
	r.mu.Lock()
	refort := len(r.refort) > 0
	clear(r.refort)
	dirty := r.dirty
	r.dirty = nil
	r.mu.Unlock()
	now := r.mono()
	batch := map[keys.NodeID][]nudge{}
	sup := askOnce(r.support)
	var noisy []*RangeTransport
	for _, t := range dirty {
		rf := t.raft.Load()
		if rf == nil || rf.State() != raft.Leader || t.ctx.Err() != nil {
			t.dirty.Store(0)
			continue
		}
		at := t.dirty.Load()
		if now-at < int64(r.cfg.NudgeDelay) || !t.dirty.CompareAndSwap(at, 0) {
			noisy = append(noisy, t)
			continue
		}
		t.collect(rf, sup, true, false, batch)
	}
	var due rounds
	if full {
		due = r.dueRounds(now)
	}
	if full || refort {
		for _, t := range r.all() {
			rf := t.raft.Load()
			if rf == nil {
				continue
			}
			if full {
				t.sweepBlocked()
				t.noteLeadership(rf)
				t.wakeHeartbeats(rf, due.wake)
			}
			if t.dirty.Load() == 0 {
				t.collect(rf, sup, full, due.contact, batch)
			}
		}
	}
	if len(noisy) > 0 {
		r.mu.Lock()
		r.dirty = append(r.dirty, noisy...)
		r.mu.Unlock()
	}
	for node, items := range batch {
		for len(items) > 0 {
			n := min(len(items), maxNudges)
			part := items[:n]
			items = items[n:]
			r.spawn(func() { r.sendNudges(node, part) })
		}
	}
	return len(noisy) > 0
}

// nudge is one empty AppendEntries.
type nudge struct {
	t   *RangeTransport
	p   *raftPeer
	req appendRequest
}

// collect adds what a leader's followers lack: the commit index, if the range is quiet, the
// fortification for this term and epoch and, in a contact round, a sign of life.
func (t *RangeTransport) collect(rf *raft.Raft, sup pairs, quiet, contact bool, batch map[keys.NodeID][]nudge) {
	term := rf.CurrentTerm()
	if rf.State() != raft.Leader {
		return
	}
	commit := rf.CommitIndex()
	if !contact && t.settled.holds(term, commit, sup) {
		return
	}
	t.settled.reset(term, commit)
	var commitTerm uint64
	known := false
	vs := rf.GetConfiguration().Configuration().Servers
	for _, s := range vs {
		if s.ID == t.self {
			continue
		}
		p, err := t.peer(s.ID)
		if err != nil {
			t.settled.reset(0, 0)
			continue
		}
		req := appendRequest{envelope: t.envelopeTo(p)}
		req.Term = term
		need := contact && p.quiet(t.router.mono()) && t.router.support.Live(p.node)
		now := ack{term: term}
		g, supported := sup.SupportedBy(p.node)
		now.epoch = g.Epoch
		forgot := false // it may have been started again, and know of no commit index
		if supported {
			a, k := p.ack.Load(), p.told.Load()
			need = need || s.Suffrage == raft.Voter && (a == nil || *a != now)
			forgot = k == nil || k.ack != now
		}
		matched := p.matchTerm.Load() == term && p.match.Load() >= commit
		if quiet && matched && (forgot || commit > p.sentCommit.Load()) {
			if !known {
				var l raft.Log
				if t.cfg.GetLog == nil || t.cfg.GetLog(commit, &l) != nil {
					l.Term = 0
				}
				commitTerm, known = l.Term, true
			}
			// LeaderCommit must not pass PrevLogEntry: raft commits up to the follower's
			// own last index, matched or not.
			if commitTerm != 0 {
				req.PrevLogEntry, req.PrevLogTerm, req.LeaderCommitIndex = commit, commitTerm, commit
				need = true
			}
		}
		// What this pass did not send, because the range is not quiet yet, is still lacking.
		t.settled.add(p, supported, g.Epoch, !need && !forgot && matched && p.sentCommit.Load() >= commit)
		if need && rf.State() == raft.Leader && rf.CurrentTerm() == term {
			batch[p.node] = append(batch[p.node], nudge{t, p, req})
		}
	}
}

func (r *Router) sendNudges(node keys.NodeID, items []nudge) {
	bodies := make([][]byte, len(items))
	for i := range items {
		bodies[i] = items[i].req.encode(nil)
	}
	r.metrics.nudges.Add(float64(len(items)))
	ctx, cancel := context.WithTimeout(r.ctx, time.Second)
	defer cancel()
	out, err := r.cfg.Network.Call(ctx, node, Control, MethodRaftNudge, encodeList(bodies))
	if err != nil {
		return
	}
	answers, err := decodeList(out)
	if err != nil || len(answers) != len(items) {
		return
	}
	for i, a := range answers {
		var resp appendResponse
		if resp.decode(a) == nil && !resp.failed {
			// What is still lacking is tried again at the next sweep.
			it := &items[i]
			it.t.noteAppend(it.p, &it.req.AppendEntriesRequest, &resp)
		}
	}
}

// noteLeadership tells the followers when this replica has ceased to lead, so that its
// forts don't hold up elections while its node lives on.
func (t *RangeTransport) noteLeadership(rf *raft.Raft) {
	term, leads := rf.CurrentTerm(), rf.State() == raft.Leader
	t.mu.Lock()
	was := t.elect.led
	if leads {
		t.elect.led = term
	} else {
		t.elect.led = 0
	}
	t.mu.Unlock()
	if was == 0 || leads && was == term || !t.released(was) {
		return
	}
	for _, p := range *t.peers.Load() {
		t.router.cfg.Network.Notify(p.node, Control, MethodRaftRelease, encodeRelease(t.envelopeTo(p), was, false))
	}
}
