package liveness

import (
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
)

// Supports reports whether this node's promise to support another one holds now, and in
// which epoch. A promise that has run out is marked as lapsed before false is returned.
func (a *Agent) Supports(node keys.NodeID) (epoch uint64, ok bool) {
	if node == a.cfg.Self {
		return 0, true
	}
	p := (*a.peers.Load())[node]
	if p == nil {
		return 0, false
	}
	mono := a.time.Read().Mono
	p.mu.Lock()
	defer p.mu.Unlock()
	ok = p.supportedLocked(mono)
	return p.epoch, ok
}

// PromisedLimit returns a timestamp that nothing exceeds which node served on the
// strength of this node's support in the given epoch or an earlier one, or on that of an
// earlier run of this node (SAFETY S4). With node 0 it covers earlier runs only.
func (a *Agent) PromisedLimit(node keys.NodeID, epoch uint64) hlc.Timestamp {
	limit := a.floor
	if p := (*a.peers.Load())[node]; p != nil {
		p.mu.Lock()
		if epoch < p.epoch {
			limit = max(limit, p.lapsedLimit)
		} else {
			limit = max(limit, p.limit)
		}
		p.mu.Unlock()
	}
	return hlc.Timestamp{WallNanos: limit}
}

// SupportedBy returns the support that another node gives this one, if it counts now on
// all three clocks. A node supports itself; what it may serve on its own is bounded too.
func (a *Agent) SupportedBy(node keys.NodeID) (raftnet.Grant, bool) {
	if node == a.cfg.Self {
		limit := a.cfg.Clock.Now().WallNanos + int64(a.cfg.Support)
		return raftnet.Grant{Limit: hlc.Timestamp{WallNanos: limit}}, !a.withdrawn.Load()
	}
	p := (*a.peers.Load())[node]
	if p == nil || a.withdrawn.Load() {
		return raftnet.Grant{}, false
	}
	g := p.grant.Load()
	if g == nil || g.gen != a.gen.Load() {
		return raftnet.Grant{}, false
	}
	now := a.time.Read()
	longest, shortest := now.Elapsed(g.sent)
	if longest >= g.valid || longest-shortest > a.cfg.MaxClockDisagreement ||
		time.Duration(now.Mono-a.lastTick.Load())-a.cfg.Tick > a.cfg.Support/2 {
		return raftnet.Grant{}, false
	}
	return raftnet.Grant{Epoch: g.epoch, Limit: hlc.Timestamp{WallNanos: g.limit}}, true
}

// VotesAllowed reports whether promises of an earlier run have run out (SAFETY S3).
func (a *Agent) VotesAllowed() bool { return a.time.Read().Mono >= a.noVotesUntil }

// QuorumAgainst reports whether a majority of the voters, as far as this node knows, do
// not support a node. It only avoids futile elections; the guards decide.
func (a *Agent) QuorumAgainst(node keys.NodeID, voters []keys.NodeID) bool {
	mono := a.time.Read().Mono
	n := 0
	for _, v := range voters {
		if v == node {
			continue
		}
		if v == a.cfg.Self {
			if _, ok := a.Supports(node); !ok {
				n++
			}
			continue
		}
		p := (*a.peers.Load())[v]
		if p == nil {
			continue
		}
		p.mu.Lock()
		if _, says := p.unsupported[node]; says && mono-p.unsupportedAt <= int64(a.cfg.Support) {
			n++
		}
		p.mu.Unlock()
	}
	return n > len(voters)/2
}

// Live reports whether a node has answered a heartbeat lately.
func (a *Agent) Live(node keys.NodeID) bool {
	if node == a.cfg.Self {
		return true
	}
	p := (*a.peers.Load())[node]
	if p == nil {
		return false
	}
	d, _ := a.interval(node)
	ack, near := p.ackMono.Load(), p.nearMono.Load()
	if ack != 0 && near > ack && near-ack <= int64(3*a.cfg.SlowHeartbeat) {
		ack = near // until then it was asked more rarely, and was live
	}
	return ack != 0 && d != 0 && a.time.Read().Mono-ack <= int64(max(a.cfg.Support, 3*d))
}

// LiveNodes returns this node and the live others, in order.
func (a *Agent) LiveNodes() []keys.NodeID {
	out := []keys.NodeID{}
	self := false
	for _, p := range a.sorted() {
		if !self && a.cfg.Self < p.id {
			out, self = append(out, a.cfg.Self), true
		}
		if a.Live(p.id) {
			out = append(out, p.id)
		}
	}
	if !self {
		out = append(out, a.cfg.Self)
	}
	return out
}

// Heard returns a channel that is closed when the node answers its next heartbeat.
func (a *Agent) Heard(node keys.NodeID) <-chan struct{} {
	p := a.peer(node)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live == nil {
		p.live = make(chan struct{})
	}
	return p.live
}

// Ready reports whether this node has compared its clock with a majority of the nodes
// since it started or was resumed; before that it serves nothing (SAFETY S1).
func (a *Agent) Ready() bool { return a.ready.Load() }

// SetWithdrawn stops (or resumes) asking for support and counting it: a node whose disk
// stalls gives its leases up this way.
func (a *Agent) SetWithdrawn(w bool) {
	if a.withdrawn.Swap(w) != w && w {
		a.drop()
	}
}

// MarkDead ends the support for one incarnation of a node at once.
// REQUIRES: that incarnation's process has certainly ended, as its parent knows.
func (a *Agent) MarkDead(node keys.NodeID, boot uint64) {
	p := a.peer(node)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.boot == boot {
		p.lapseLocked()
		p.boot = boot + 1 // its late heartbeats count no more
	}
}

// Offset returns the error interval of a node's clock less this one's.
func (a *Agent) Offset(node keys.NodeID) (lo, hi time.Duration, ok bool) {
	p := (*a.peers.Load())[node]
	if p == nil {
		return 0, 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lo, p.hi, p.sampled
}

// Boot returns the boot counter that a node presented last, 0 if it never did.
func (a *Agent) Boot(node keys.NodeID) uint64 {
	p := (*a.peers.Load())[node]
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.theirBoot, p.boot)
}

// others returns the nodes that count, without this one. The map is not to be changed.
func (a *Agent) others() map[keys.NodeID]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counted
}

func (a *Agent) judgeReady() {
	if a.ready.Load() {
		return
	}
	counted, measured := a.others(), 0
	for _, p := range *a.peers.Load() {
		p.mu.Lock()
		if p.sampled && counted[p.id] {
			measured++
		}
		p.mu.Unlock()
	}
	if 1+measured > (1+len(counted))/2 {
		a.ready.Store(true)
	}
}

// judgeClock stops the node if its clock lies beyond 80% of the bound for a majority of
// its peers, each by its whole error interval (SAFETY S1).
func (a *Agent) judgeClock() {
	a.judgeReady()
	bound := a.cfg.Clock.MaxOffset() * 4 / 5
	if bound <= 0 {
		return
	}
	var beyond int
	counted := a.others()
	peers := len(counted)
	var worst time.Duration
	// What a node said before it went away convicts nobody.
	recent := a.time.Read().Mono - int64(3*a.cfg.SlowHeartbeat)
	// Also those that were not heard of yet count: after a start the first one to answer may be
	// the one whose clock is wrong.
	for _, p := range *a.peers.Load() {
		p.mu.Lock()
		if p.sampled {
			near := min(max(p.lo, 0), bound*1000)
			if p.hi < 0 {
				near = -p.hi
			}
			worst = max(worst, near)
			if (p.lo > bound || p.hi < -bound) && counted[p.id] && p.ackMono.Load() > recent {
				beyond++
			}
		}
		p.mu.Unlock()
	}
	a.metrics.maxOffset.Set(worst.Seconds())
	if beyond > 0 && beyond > peers/2 {
		a.fatal.Do(func() {
			err := fmt.Errorf("liveness: this node's clock is at least %v off for %d of %d peers, the limit is 80%% of the maximum offset %v; fix time synchronization, then start the node again",
				worst, beyond, peers, a.cfg.Clock.MaxOffset())
			a.cfg.Logger.Error("clock offset", "node", a.cfg.Self, "err", err)
			go a.cfg.OnClockFatal(err)
		})
	}
}
