package liveness

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
)

// ringSize is how many heartbeats are remembered until their answers come.
const ringSize = 256

// peer is what this node knows of another one.
type peer struct {
	id keys.NodeID

	// grant is the support that is counted, replaced as a whole with every answer.
	grant atomic.Pointer[grant]
	// ackMono is when the last answer came, on the monotonic clock; 0 never.
	ackMono atomic.Int64
	// nearMono is when it has become a neighbour; 0: not since it was known.
	nearMono atomic.Int64

	mu sync.Mutex

	// The promise to support the peer.
	boot        uint64 // incarnation that is supported
	lapsed      bool
	until       int64  // on the monotonic clock
	epoch       uint64 // of this node's support
	limit       int64  // largest h + D supported, in wall nanoseconds (S2 d)
	lapsedLimit int64  // the same, of all epochs before this one
	lapseNews   bool   // the lapse has not been announced yet

	// What the peer says.
	theirBoot     uint64
	heardMono     int64 // when anything came from it last; 0 never
	unsupported   map[keys.NodeID]struct{}
	unsupportedAt int64 // monotonic; 0 never
	live          chan struct{}

	// Heartbeats that were sent.
	seq      uint64
	ring     [ringSize]sentBeat
	nextBeat int64

	// The newest clock sample: the peer's clock less this one's lies in [lo, hi].
	sampled bool
	lo, hi  time.Duration
}

type sentBeat struct {
	seq  uint64
	sent hlc.Reading
	h    hlc.Timestamp
	gen  uint64 // of counted support
	late uint64 // late ticks so far
}

// grant is support that a peer has given, as counted here.
type grant struct {
	epoch uint64
	sent  hlc.Reading
	valid time.Duration
	limit int64
	gen   uint64
}

// lapseLocked ends the promise: from now on it may be said that the peer is not supported.
func (p *peer) lapseLocked() {
	if p.lapsed {
		return
	}
	p.lapsed = true
	p.epoch++
	p.lapsedLimit = max(p.lapsedLimit, p.limit)
	p.lapseNews = true
}

// supportedLocked reports whether the promise holds, and marks its lapse if it does not.
func (p *peer) supportedLocked(mono int64) bool {
	if !p.lapsed && mono >= p.until {
		p.lapseLocked()
	}
	return !p.lapsed
}
