package raftnet

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
)

// takeover gives ranges whose leader is gone a new one (raft.md rules 6, 10, 11, 13).
// Raft's own election timers are long and only the last resort.
//
// A leader counts as gone for certain when a majority of the voters have withdrawn their
// support for its node, when its incarnation is known to have ended, or when it said
// itself that it leads no more. Then the preferred node campaigns at once, each next one
// Backup later. Where no leader is known at all, a trial election comes first, so that a
// leader which is merely not heard of here is not disturbed.
type takeover struct {
	r   *Router
	sem chan struct{}

	mu      sync.Mutex
	failing map[keys.NodeID]bool
}

// electState is a replica's part of it, guarded by RangeTransport.mu.
type electState struct {
	since  int64  // when the range was first seen without leader (monotonic); 0: it has one
	next   int64  // not before (monotonic)
	tries  int    // elections in a row that brought no leader
	gone   uint64 // 1 + the term whose leader is gone for certain
	busy   bool   // an election is being driven
	asking bool   // the holder of the fort is being asked
	led    uint64 // term in which this replica led at the last sweep
	cause  Cause  // of the newest election that this replica stood for
}

// Cause says, for people, why a replica stood for election.
type Cause struct {
	Why  string
	Node keys.NodeID // that led before, or handed over; 0: none is known
}

// TakeCause returns why this replica stood for election last, and forgets it. What nobody drove was
// raft's own election timer.
func (t *RangeTransport) TakeCause() Cause {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.elect.cause
	t.elect.cause = Cause{}
	if c.Why == "" {
		c.Why = "raft's election timer ran out"
	}
	return c
}

// NoteCause says why this replica is about to stand for election.
func (t *RangeTransport) NoteCause(c Cause) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.elect.cause = c
}

// explain says why the range has no leader.
func (k *takeover) explain(t *RangeTransport, v verdict) Cause {
	leader := t.Leader()
	t.mu.Lock()
	epoch := t.heard.epoch
	t.mu.Unlock()
	switch {
	case v == leaderUnknown || leader == 0:
		return Cause{Why: "no leader was known"}
	case leader == k.r.self:
		return Cause{Why: "its own leadership had ended", Node: leader}
	case epoch != 0 && k.r.support.Boot(leader) > epoch:
		return Cause{Why: fmt.Sprintf("node %d was started again", leader), Node: leader}
	}
	if _, ok := k.r.support.Supports(leader); ok {
		return Cause{Why: fmt.Sprintf("node %d said that it leads no more", leader), Node: leader}
	}
	return Cause{Why: fmt.Sprintf("a majority no longer heard from node %d", leader), Node: leader}
}

func newTakeover(r *Router) *takeover {
	return &takeover{r: r, sem: make(chan struct{}, r.cfg.Width), failing: map[keys.NodeID]bool{}}
}

type verdict int

const (
	leaderFine verdict = iota
	leaderUnknown
	leaderGone
)

// judge says how things stand with the range's leader; view is the router's support, or one sweep's
// view of it.
func (k *takeover) judge(t *RangeTransport, rf *raft.Raft, view pairs) verdict {
	if rf.State() == raft.Leader {
		return leaderFine
	}
	sup := k.r.support
	leader := t.Leader()
	t.mu.Lock()
	heard, lost, gone := t.heard, t.lost, t.elect.gone
	t.mu.Unlock()
	certain := gone != 0 && gone == heard.term+1
	if leader == 0 || leader == k.r.self {
		if certain {
			return leaderGone
		}
		return leaderUnknown
	}
	if !certain {
		switch {
		case lost.holder == leader && lost.term >= heard.term:
		case heard.holder == leader && heard.epoch != 0 && sup.Boot(leader) > heard.epoch:
		default:
			if _, ok := view.Supports(leader); ok {
				return leaderFine
			}
			nodes, _ := t.voterNodes(rf)
			if !sup.QuorumAgainst(leader, nodes) {
				return leaderFine
			}
		}
	} else if heard.holder != leader {
		return leaderFine // somebody else has been elected
	}
	t.mu.Lock()
	if t.heard == heard {
		t.elect.gone = heard.term + 1
	}
	t.mu.Unlock()
	return leaderGone
}

// rank is this node's turn in taking the range over: 0 is first.
func (k *takeover) rank(t *RangeTransport, rf *raft.Raft) int {
	voters, _ := t.voters(rf)
	leader := t.Leader()
	var live, witnesses []keys.NodeID
	for _, s := range voters {
		n, _, err := ParseServerID(s.ID)
		if err != nil || n != k.r.self && (n == leader || !k.r.support.Live(n)) {
			continue
		}
		if witness, err := IsWitness(s); witness || err != nil {
			witnesses = append(witnesses, n)
		} else {
			live = append(live, n)
		}
	}
	slices.Sort(live)
	slices.Sort(witnesses)
	// REQUIRES: S22. A witness comes after all that can serve, unless its log is ahead of theirs
	// (betterLog).
	if i := slices.Index(witnesses, k.r.self); i >= 0 {
		return len(live) + i
	}
	if len(live) == 0 {
		return 0
	}
	first := int(mix(uint64(t.cfg.Range)) % uint64(len(live)))
	if k.r.cfg.Prefer != nil {
		if i := slices.Index(live, k.r.cfg.Prefer(t.cfg.Range, slices.Clone(live))); i >= 0 {
			first = i
		}
	}
	return (slices.Index(live, k.r.self) - first + len(live)) % len(live)
}

// lapsed is called when this node's support for another one has lapsed.
func (k *takeover) lapsed(node keys.NodeID) {
	k.mu.Lock()
	running := k.failing[node]
	k.failing[node] = true
	k.mu.Unlock()
	if running {
		return
	}
	ok := k.r.spawn(func() {
		k.fail(node)
		k.mu.Lock()
		delete(k.failing, node)
		k.mu.Unlock()
	})
	if !ok {
		k.mu.Lock()
		delete(k.failing, node)
		k.mu.Unlock()
	}
}

// fail waits until the other voters have withdrawn too, and starts with the ranges for
// which this node comes first. The sweep sees to the rest.
func (k *takeover) fail(node keys.NodeID) {
	var todo []*RangeTransport
	for _, t := range k.r.all() {
		if t.Leader() == node {
			todo = append(todo, t)
		}
	}
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for tries := 0; len(todo) > 0 && tries < 1000; tries++ {
		rest := todo[:0]
		for _, t := range todo {
			rf := t.raft.Load()
			if rf == nil || t.Leader() != node {
				continue
			}
			if k.judge(t, rf, k.r.support) != leaderGone {
				rest = append(rest, t)
				continue
			}
			k.consider(t, rf, leaderGone)
		}
		todo = rest
		if _, ok := k.r.support.Supports(node); ok && tries > 10 {
			return // it is back
		}
		select {
		case <-poll.C:
		case <-k.r.ctx.Done():
			return
		}
	}
}

// sweep looks at every range.
func (k *takeover) sweep() {
	view := askOnce(k.r.support)
	for _, t := range k.r.all() {
		rf := t.raft.Load()
		if rf == nil {
			continue
		}
		if rf.State() == raft.Leader && t.dropped.Load() >= rf.CurrentTerm() {
			k.leaseless(t, rf.CurrentTerm())
			continue
		}
		if v := k.judge(t, rf, view); v != leaderFine {
			k.consider(t, rf, v)
			continue
		}
		t.mu.Lock()
		t.elect.since, t.elect.tries = 0, 0
		t.mu.Unlock()
	}
}

// leaseless brings a leader that has given its lease up into a new term, once nobody else
// can have been elected on the strength of that: a transfer's target may have lost its
// election, and then the range would be without a leaseholder for ever.
func (k *takeover) leaseless(t *RangeTransport, term uint64) {
	now := k.r.mono()
	t.mu.Lock()
	if t.elect.since == 0 {
		t.elect.since = now
	}
	due := now-t.elect.since >= int64(k.r.cfg.Backup)
	t.mu.Unlock()
	if due {
		k.reelect(t, term, term, false)
	}
}

// consider starts an election if it is this node's turn.
func (k *takeover) consider(t *RangeTransport, rf *raft.Raft, v verdict) {
	if _, self := t.voters(rf); !self || rf.LastIndex() == 0 || !k.r.support.VotesAllowed() {
		return
	}
	wait := time.Duration(k.rank(t, rf)) * k.r.cfg.Backup
	if v == leaderUnknown {
		wait += k.r.cfg.Orphaned
	}
	now := k.r.mono()
	t.mu.Lock()
	e := &t.elect
	if e.since == 0 {
		e.since = now
	}
	start := !e.busy && now-e.since >= int64(wait) && now >= e.next
	if start {
		e.busy = true
	}
	t.mu.Unlock()
	if start {
		why := k.explain(t, v)
		k.drive(t, func() { k.elect(t, rf, v == leaderGone, why) })
	}
}

// drive runs f within the pool. REQUIRES: elect.busy was set by the caller.
func (k *takeover) drive(t *RangeTransport, f func()) {
	done := func() {
		t.mu.Lock()
		t.elect.busy = false
		t.mu.Unlock()
	}
	ok := k.r.spawn(func() {
		defer done()
		select {
		case k.sem <- struct{}{}:
		case <-t.ctx.Done():
			return
		}
		defer func() { <-k.sem }()
		f()
	})
	if !ok {
		done()
	}
}

// elect drives one election to its end or until it is clear that it failed.
func (k *takeover) elect(t *RangeTransport, rf *raft.Raft, certain bool, why Cause) {
	t.mu.Lock()
	term := t.heard.term
	t.mu.Unlock()
	if k.settled(t, rf, term) {
		return
	}
	if !certain && !t.trialElection(rf, 0) {
		k.r.askRelease(t)
		k.later(t)
		return
	}
	k.r.metrics.takeovers.Inc()
	// The first tries are short: a duel is best left soon.
	k.campaign(t, rf, term, why, 4, func(try int) time.Duration { return time.Duration(try) * (k.r.cfg.Try + rand.N(k.r.cfg.Try)) })
}

// newRange is how long a new range's first leader waits for its election, about: as soon as the others
// have applied the split as well, they have replicas that can vote.
const newRange = 20 * time.Millisecond

// StandForElection makes this replica the first leader of a new range; the others hold back (S20). It
// does not wait for the outcome.
func (t *RangeTransport) StandForElection(why Cause) {
	k, rf := t.router.takeover, t.raft.Load()
	if rf == nil {
		return
	}
	t.mu.Lock()
	start := !t.elect.busy
	t.elect.busy = true
	term := t.heard.term
	t.mu.Unlock()
	if start {
		k.drive(t, func() {
			k.campaign(t, rf, term, why, 20, func(int) time.Duration { return newRange + rand.N(newRange) })
		})
	}
}

// campaign stands for election until the range has a leader of a later term, the tries are used up or
// this replica may not.
func (k *takeover) campaign(t *RangeTransport, rf *raft.Raft, term uint64, why Cause, tries int, wait func(try int) time.Duration) {
	for try := 1; try <= tries && !k.settled(t, rf, term); try++ {
		if rf.State() == raft.Candidate {
			if t.unstick(rf, rf.CurrentTerm()+1) != nil {
				break
			}
		}
		t.NoteCause(why)
		if err := t.Campaign(); err != nil {
			k.r.askRelease(t)
			break
		}
		if k.await(t, wait(try), func() bool { return k.settled(t, rf, term) }) {
			return
		}
	}
	k.later(t)
}

// later puts the next try off, longer each time.
func (k *takeover) later(t *RangeTransport) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.elect.tries = min(t.elect.tries+1, 10)
	d := k.r.cfg.Try * time.Duration(t.elect.tries)
	t.elect.next = k.r.mono() + int64(d/2+rand.N(d))
}

// settled reports whether the range has a leader of a later term, or this node can't
// campaign any more.
func (k *takeover) settled(t *RangeTransport, rf *raft.Raft, term uint64) bool {
	switch rf.State() {
	case raft.Leader, raft.Shutdown:
		return true
	}
	t.mu.Lock()
	heard := t.heard.term
	t.mu.Unlock()
	return heard > term && t.Leader() != 0
}

// await polls until cond holds; false if d has passed or the transport is closed.
func (k *takeover) await(t *RangeTransport, d time.Duration, cond func() bool) bool {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	end := time.Now().Add(d)
	for !cond() {
		if !time.Now().Before(end) {
			return false
		}
		select {
		case <-poll.C:
		case <-t.ctx.Done():
			return false
		}
	}
	return true
}

// reelect brings a leader without a lease into a new term, above the term of a peer that
// was met (raft.md rule 13). Unless it held its lease until now, it may have been replaced while
// it was cut off, and a campaign would only cost the new leader its term: a trial election comes
// first, which voters that support the new leader refuse.
func (k *takeover) reelect(t *RangeTransport, own, theirs uint64, leased bool) {
	now := k.r.mono()
	t.mu.Lock()
	if t.elect.busy || now < t.elect.next {
		t.mu.Unlock()
		return
	}
	t.elect.busy = true
	t.elect.next = now + int64(time.Second) // not more often
	t.mu.Unlock()
	k.drive(t, func() {
		rf := t.raft.Load()
		if rf == nil || rf.State() != raft.Leader || rf.CurrentTerm() != own || !t.enterVote(k.r.self, releaseToken{}, false) {
			return
		}
		if !leased && !t.trialElection(rf, theirs) {
			return // it hears of the new leader, or the sweep tries again
		}
		k.r.metrics.reelections.Inc()
		why := Cause{Why: fmt.Sprintf("it led term %d without a lease", own)}
		t.NoteCause(why)
		if theirs > own && t.unstick(rf, theirs) != nil {
			return
		}
		if t.inject(&raft.TimeoutNowRequest{RPCHeader: header(k.r.self, t.cfg.Replica)}) != nil {
			return
		}
		k.await(t, k.r.cfg.Try, func() bool { return rf.CurrentTerm() > max(own, theirs) })
		if rf.State() != raft.Leader {
			t.mu.Lock()
			t.elect.gone = t.heard.term + 1 // the leader was this node
			t.mu.Unlock()
			k.elect(t, rf, true, why)
		}
	})
}

// betterLog is called when raft refused a candidate: if that is because the log here is
// ahead, no use waiting for another try of that candidate (raft.md rule 10).
func (k *takeover) betterLog(t *RangeTransport, req *voteRequest) {
	rf := t.raft.Load()
	if rf == nil || rf.State() != raft.Follower {
		return
	}
	index, term := t.lastLog(rf)
	if term < req.lastTerm || term == req.lastTerm && index <= req.lastIndex || k.judge(t, rf, k.r.support) == leaderFine {
		return
	}
	now := k.r.mono()
	t.mu.Lock()
	start := !t.elect.busy && now >= t.elect.next
	if start {
		t.elect.busy = true
		t.elect.next = now + int64(k.r.cfg.Try)
	}
	t.mu.Unlock()
	if start {
		k.drive(t, func() { k.elect(t, rf, true, Cause{Why: "its log is ahead of a candidate's"}) })
	}
}
