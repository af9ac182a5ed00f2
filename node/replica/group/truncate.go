package group

import (
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
)

const (
	// keepEntries stay in the log behind the durable applied index: a follower that is a
	// little behind a new leader needs no snapshot. A truncation removes as many at least.
	keepEntries = 256
	// maxPinnedBytes is how much log a leader keeps for a follower that is behind; beyond it
	// the follower needs a snapshot.
	maxPinnedBytes = 64 << 20
)

func (g *Group) keep() uint64 {
	if g.cfg.ShortLog > 0 {
		return g.cfg.ShortLog
	}
	return keepEntries
}

// LogStatus describes a replica's log.
type LogStatus struct {
	First, Last uint64
	Durable     uint64 // applied index that a flush of the state engine has made durable
	Bytes       int64  // estimate
}

// DurableApplied returns the applied position that a crash can't take.
func (g *Group) DurableApplied() (Position, error) {
	b, ok, err := g.cfg.State.DurableGet(keys.RangeLocal(g.cfg.RangeID, appliedSuffix))
	if err != nil || !ok {
		return Position{}, err
	}
	w, _, err := decodeWords(b, 2)
	if err != nil {
		return Position{}, err
	}
	return Position{Index: w[0], Term: w[1]}, nil
}

// Truncatable reports whether the log is long enough to look at, without reading the disk,
// and about how many bytes it has.
func (g *Group) Truncatable() (bytes int64, worth bool) {
	first, err1 := g.log.FirstIndex()
	last, err2 := g.log.LastIndex()
	if err1 != nil || err2 != nil || last == 0 || last-first < 2*g.keep() {
		return 0, false
	}
	return g.log.sizeEstimate(last - first + 1), true
}

// DropPins makes the next truncations ignore followers that are behind: they will need a
// snapshot. Tests use it, and whoever must free space.
func (g *Group) DropPins() {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	g.log.bytes, g.log.entries = maxPinnedBytes, 1
}

// Truncate removes what nobody needs from the front of the log, up to the durable applied
// index (S16), and returns what is left. It is for replicas with data: see TruncateWitness.
func (g *Group) Truncate() (LogStatus, error) {
	return g.truncate(g.followersNeed)
}

// followersNeed returns the index up to which a leader's followers need no entry any more.
func (g *Group) followersNeed(r *raft.Raft, s *LogStatus) uint64 {
	if r.State() != raft.Leader {
		return ^uint64(0)
	}
	var ids []raft.ServerID
	for _, sv := range r.GetConfiguration().Configuration().Servers {
		if sv.ID != ServerID(g.cfg.Node, g.cfg.Replica) {
			ids = append(ids, sv.ID)
		}
	}
	snapshots, match := g.peers.pins(r.CurrentTerm(), ids)
	if s.Bytes < maxPinnedBytes && g.cfg.ShortLog == 0 {
		return min(snapshots, match)
	}
	return snapshots
}

// LogStatus describes the log as it is.
func (g *Group) LogStatus() (s LogStatus, err error) {
	if s.First, err = g.log.FirstIndex(); err != nil {
		return s, err
	}
	if s.Last, err = g.log.LastIndex(); err != nil || s.Last == 0 {
		return s, err
	}
	durable, err := g.DurableApplied()
	s.Durable = durable.Index
	s.Bytes = g.log.sizeEstimate(s.Last - s.First + 1)
	return s, err
}

// truncate removes entries up to what bound allows.
func (g *Group) truncate(bound func(*raft.Raft, *LogStatus) uint64) (LogStatus, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	inst := g.inst.Load()
	if g.closed || inst == nil {
		return LogStatus{}, nil
	}
	s, err := g.LogStatus()
	if err != nil || s.Durable < g.keep() {
		return s, err
	}
	upTo := min(s.Durable-g.keep(), bound(inst.raft, &s))
	if upTo < s.First+g.keep() {
		return s, nil
	}
	var e raft.Log
	if err := g.log.GetLog(upTo, &e); err != nil {
		return s, fmt.Errorf("group: truncating the log of range %d at %d: %w", g.cfg.RangeID, upTo, err)
	}
	if err := g.log.truncate(Position{Index: upTo, Term: e.Term}); err != nil {
		return s, err
	}
	s.First = upTo + 1
	s.Bytes = g.log.sizeEstimate(s.Last - upTo)
	return s, nil
}
