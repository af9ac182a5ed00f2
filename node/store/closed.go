package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
)

// A leaseholder closes timestamps (S24) at a distance from its clock, and tells the nodes that have
// another replica of the range. A short distance lets replicas answer what is nearly new, and pushes
// every transaction that is older than it to a later timestamp, which it must then check its reads for.
const (
	closedLag = 3 * time.Second // Config.ClosedLag
	// Where a policy says follower_reads.
	freshLag   = 100 * time.Millisecond
	freshEvery = 40 * time.Millisecond
)

// closedEvery is how often timestamps are closed at a distance.
func closedEvery(lag time.Duration) time.Duration { return max(lag/3, freshEvery) }

// FollowerLag is how old what is read must be for replicas without the lease to answer it, as a rule:
// one more round of promises may be under way, and clocks differ a little.
func FollowerLag(followerReads bool) time.Duration {
	if followerReads {
		return freshLag + 2*freshEvery + 20*time.Millisecond
	}
	return closedLag + closedEvery(closedLag) + 200*time.Millisecond
}

// promise says that nothing is written at or below a timestamp but what the log holds up to an index.
type promise struct {
	ts    hlc.Timestamp
	index uint64
}

// closedReads is what a replica knows of closed timestamps. Promises hold for ever, whoever leads
// later; only what they rest on must be applied.
type closedReads struct {
	mu sync.Mutex
	ts hlc.Timestamp // closed, and all below it applied
	// waiting promises are not applied yet: the oldest, and the newest. Those in between are
	// dropped, so that a replica far behind remembers no more than this.
	waiting [2]promise
}

// learn takes a promise; applied is the index that the replica has applied.
func (c *closedReads) learn(p promise, applied uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(applied)
	switch {
	case p.ts.LessEq(c.ts):
	case p.index <= applied:
		c.ts = p.ts
	case c.waiting[0].ts.IsEmpty():
		c.waiting[0] = p
	case c.waiting[0].ts.Less(p.ts) && c.waiting[1].ts.Less(p.ts):
		c.waiting[1] = p
	}
}

// upTo returns what is closed for a replica that has applied up to an index.
func (c *closedReads) upTo(applied uint64) hlc.Timestamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(applied)
	return c.ts
}

func (c *closedReads) settle(applied uint64) {
	for !c.waiting[0].ts.IsEmpty() && c.waiting[0].index <= applied {
		c.ts.Forward(c.waiting[0].ts)
		c.waiting[0], c.waiting[1] = c.waiting[1], promise{}
	}
}

// closedState is what the replica may serve without the lease (S24). A replica that is not trusted
// (S23), or whose group does not run, may serve nothing.
func (r *rep) closedState() replica.ClosedState {
	g := r.group.Load()
	if g == nil || r.distrusted.Load() || r.witness { // a witness has no data (S22)
		return replica.ClosedState{}
	}
	instance := g.Raft() // another one after each snapshot
	if instance == nil {
		return replica.ClosedState{}
	}
	applied := g.AppliedIndex()
	if r.s.cfg.PlantEarlyFollowers {
		applied = math.MaxUint64
	}
	ts := r.follows.upTo(applied)
	// REQUIRES: S25. The state is read under the lock that is held while entries are applied: what
	// a read has missed because it was collected, this threshold covers.
	st := g.State()
	if st.Merged {
		return replica.ClosedState{} // REQUIRES: S20. Its keys are another range's, with a threshold of its own.
	}
	return replica.ClosedState{Timestamp: ts, GCThreshold: st.GCThreshold, Tenancy: instance}
}

// closeTimestamps promises closed timestamps for the ranges that this node leads.
func (s *Store) closeTimestamps() {
	var lastSlow time.Time
	out := map[keys.NodeID][]closedEntry{}
	every := closedEvery(s.cfg.ClosedLag)
	wait := every
	for s.sleep(wait) {
		now := time.Now()
		slow := now.Sub(lastSlow) >= every-freshEvery/2
		if slow {
			lastSlow = now
		}
		clock := s.cfg.Clock.Now()
		wait = every
		if s.closeClass(true, clock.Add(-freshLag), out) {
			wait = freshEvery
		}
		if slow {
			s.closeClass(false, clock.Add(-s.cfg.ClosedLag), out)
		}
	}
}

// closeClass closes target, or as much of it as can be, for the ranges led here whose policies say
// follower_reads, or for the others. It reports whether there are any. out is reused.
func (s *Store) closeClass(fresh bool, target hlc.Timestamp, out map[keys.NodeID][]closedEntry) (any bool) {
	rules := s.rules.Load()
	if rules == nil || fresh && !rules.someFollowerReads() {
		return false
	}
	for _, r := range s.all() {
		rr, g := r.replica.Load(), r.group.Load()
		if rr == nil || g == nil || r.distrusted.Load() {
			continue
		}
		d := rr.Desc()
		if len(d.Replicas) < 2 || rules.followerReads(d.Start) != fresh {
			continue
		}
		if _, leads := r.leads(); !leads {
			continue
		}
		any = true
		ts := rr.CloseTimestamp(target)
		if ts.IsEmpty() {
			continue
		}
		e := closedEntry{rangeID: d.RangeID, promise: promise{ts, g.AppliedIndex()}}
		for i := range d.Replicas {
			if rd := &d.Replicas[i]; rd.Node != s.cfg.Node && rd.Type.HoldsData() && rd.Quarantine == kv.Trusted {
				out[rd.Node] = append(out[rd.Node], e)
			}
		}
	}
	for node, list := range out {
		for at := 0; at < len(list); at += maxClosedEntries {
			s.cfg.Network.Notify(node, raftnet.Control, raftnet.MethodReplicaClosed, encodeClosed(target, list[at:min(at+maxClosedEntries, len(list))]))
		}
		if len(list) == 0 {
			delete(out, node) // it has had no replica for a round
		} else {
			out[node] = list[:0]
		}
	}
	return any
}

// onClosed takes the promises of a leaseholder.
func (s *Store) onClosed(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	list, err := decodeClosed(payload)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if r := s.get(list[i].rangeID); r != nil {
			if g := r.group.Load(); g != nil {
				r.follows.learn(list[i].promise, g.AppliedIndex())
			}
		}
	}
	return nil, nil
}

// staleness is how far behind this node's clock what its replicas may serve without the lease is at
// worst, of ranges whose policies say follower_reads, or of the others. Those that it leads, and those
// that nobody has promised anything for yet, don't count.
func (s *Store) staleness(fresh bool) time.Duration {
	rules := s.rules.Load()
	if rules == nil {
		return 0
	}
	now := s.cfg.Clock.PhysicalNow().UnixNano()
	worst := time.Duration(0)
	for _, r := range s.all() {
		d := r.desc()
		if d == nil || rules.followerReads(d.Start) != fresh {
			continue
		}
		if _, leads := r.leads(); leads {
			continue
		}
		if c := r.closedState(); !c.Timestamp.IsEmpty() {
			worst = max(worst, time.Duration(now-c.Timestamp.WallNanos))
		}
	}
	return worst
}

// FollowerReads reports whether the policy of a key says follower_reads.
func (s *Store) FollowerReads(key keys.Key) bool {
	rules := s.rules.Load()
	return rules != nil && rules.followerReads(key)
}

const (
	closedVersion = 1
	// maxClosedEntries bounds the ranges of one message.
	maxClosedEntries = 8192
)

// closedEntry is a promise for a range.
type closedEntry struct {
	rangeID keys.RangeID
	promise
}

// encodeClosed makes a message: a version; the target's wall time and logical part; the number of
// entries; and for each the range, the log index, and 0 where the target is closed, else 1 + by how
// many nanoseconds of wall time less, followed by the logical part. All but the version are varints.
func encodeClosed(target hlc.Timestamp, list []closedEntry) []byte {
	b := append(make([]byte, 0, 24+16*len(list)), closedVersion)
	b = binary.AppendVarint(b, target.WallNanos)
	b = binary.AppendVarint(b, int64(target.Logical))
	b = binary.AppendUvarint(b, uint64(len(list)))
	for i := range list {
		e := &list[i]
		b = binary.AppendUvarint(b, uint64(e.rangeID))
		b = binary.AppendUvarint(b, e.index)
		if e.ts == target {
			b = binary.AppendUvarint(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, 1+uint64(target.WallNanos-e.ts.WallNanos))
		b = binary.AppendVarint(b, int64(e.ts.Logical))
	}
	return b
}

var errClosedMessage = errors.New("store: a message of closed timestamps can't be read")

func decodeClosed(b []byte) ([]closedEntry, error) {
	if len(b) == 0 || b[0] != closedVersion {
		return nil, fmt.Errorf("%w: version %v, this node knows %d; is the sender newer?", errClosedMessage, b[:min(len(b), 1)], closedVersion)
	}
	rd := varints{b: b[1:]}
	target := hlc.Timestamp{WallNanos: rd.signed(), Logical: int32(rd.signed())}
	n := rd.unsigned()
	if rd.bad || n > maxClosedEntries {
		return nil, fmt.Errorf("%w: it is cut off, or names %d ranges, at most %d are allowed", errClosedMessage, n, maxClosedEntries)
	}
	list := make([]closedEntry, 0, min(n, uint64(len(b))))
	for range n {
		e := closedEntry{rangeID: keys.RangeID(rd.unsigned()), promise: promise{ts: target, index: rd.unsigned()}}
		if behind := rd.unsigned(); behind > 0 {
			e.ts = hlc.Timestamp{WallNanos: target.WallNanos - int64(behind-1), Logical: int32(rd.signed())}
		}
		if rd.bad || e.ts.WallNanos < 0 || target.Less(e.ts) {
			return nil, fmt.Errorf("%w: entry %d of %d is cut off, or closes more than the message says", errClosedMessage, len(list)+1, n)
		}
		list = append(list, e)
	}
	return list, nil
}

// varints reads varints until one is bad.
type varints struct {
	b   []byte
	bad bool
}

func (v *varints) unsigned() uint64 {
	x, n := binary.Uvarint(v.b)
	if n <= 0 {
		v.bad, v.b = true, nil
		return 0
	}
	v.b = v.b[n:]
	return x
}

func (v *varints) signed() int64 {
	x, n := binary.Varint(v.b)
	if n <= 0 {
		v.bad, v.b = true, nil
		return 0
	}
	v.b = v.b[n:]
	return x
}
