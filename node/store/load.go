package store

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/topology/allocator"
)

const (
	// loadEvery is how often rates are taken; a rate is the mean of the last one and the one before.
	loadEvery = 10 * time.Second
	// batchCost and commandCost are what a batch costs the leaseholder beside its evaluation, which is
	// measured, and a command every replica, in seconds of a core. They only have to weigh ranges against
	// each other, and to tell a busy node from one that is not: what else a range costs can't be told
	// apart in one process.
	batchCost   = 40e-6
	commandCost = 100e-6
	// busyShare is the part of its cores from which on a node counts as busy. While none is, ranges
	// are evened out by number and size: there is nothing to gain from moving load.
	busyShare = 0.5
	// splitSamples is how many keys of a busy range are tried as the place of a split.
	splitSamples = 20
	// sampledBatches: one of so many batches is looked at while a range is busy.
	sampledBatches = 4
	// minSampled is how many must have been seen before a split is decided.
	minSampled = 200
	// maxUneven is how much of the load a side may have beyond the other, as a part of both.
	maxUneven = 0.5
)

// load counts what a replica serves.
type load struct {
	batches  atomic.Int64
	sampling atomic.Bool

	mu      sync.Mutex
	from    map[keys.NodeID]int64 // batches by gateway, since the last measurement
	samples []splitSample
	seen    int64 // batches looked at while sampling

	// The rest belongs to the maintenance goroutine, but for the gateways, which mu guards. A batch
	// from this node's own gateway is no load that could be taken off the node by another leaseholder
	// or by a split: the statement would still run here, and its batches would go further. So only
	// the foreign ones, from other nodes, weigh.
	at                       time.Time
	lastBatches              int64
	lastCommands             int64
	commandsASecond          float64
	lastEvaluating           time.Duration
	evaluatingASecond        float64 // seconds, for batches from other nodes
	gateways                 map[keys.NodeID]float64
	perSecond, foreignSecond atomic.Uint64 // float64 bits
}

// splitSample is a key at which a range could be split, and how many batches came on each side since
// it was taken. A load that moves on, as that of ascending inserts does, is on one side of them all.
type splitSample struct {
	key         keys.Key
	left, right int64
}

// count takes a batch in that this node has served. It is on the path of every batch.
func (l *load) count(ba *kv.BatchRequest, self keys.NodeID) {
	key := firstDataKey(ba)
	if key == nil {
		return
	}
	n := l.batches.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.from == nil {
		l.from = map[keys.NodeID]int64{}
	}
	l.from[ba.Gateway]++
	if ba.Gateway != self && l.sampling.Load() && n%sampledBatches == 0 {
		l.sample(key)
	}
}

// firstDataKey returns the key of the first request for data; nil if a batch has none.
func firstDataKey(ba *kv.BatchRequest) keys.Key {
	for _, req := range ba.Requests {
		switch r := req.(type) {
		case *kv.GetRequest:
			return r.Key
		case *kv.ScanRequest:
			return r.Span.Key
		case *kv.PutRequest:
			return r.Key
		case *kv.IncrementRequest:
			return r.Key
		case *kv.DeleteRangeRequest:
			return r.Span.Key
		}
	}
	return nil
}

// sample counts a key against those taken, and takes some of them. REQUIRES: l.mu.
func (l *load) sample(key keys.Key) {
	for i := range l.samples {
		if key.Less(l.samples[i].key) {
			l.samples[i].left++
		} else {
			l.samples[i].right++
		}
	}
	l.seen++
	if len(l.samples) < splitSamples && l.seen%3 == 0 {
		l.samples = append(l.samples, splitSample{key: key.Clone()})
	}
}

// measure takes the rates; commands and evaluating are totals. It runs in the maintenance goroutine.
func (l *load) measure(now time.Time, commands int64, evaluating time.Duration, busy float64, self keys.NodeID) {
	if l.at.IsZero() {
		l.at, l.lastBatches, l.lastCommands, l.lastEvaluating = now, l.batches.Load(), commands, evaluating
		return
	}
	seconds := now.Sub(l.at).Seconds()
	if seconds < loadEvery.Seconds() {
		return
	}
	l.at = now
	batches := l.batches.Load()
	all := (l.batchesPerSecond() + float64(batches-l.lastBatches)/seconds) / 2
	if all < 0.01 {
		all = 0
	}
	l.perSecond.Store(math.Float64bits(all))
	l.commandsASecond = (l.commandsASecond + float64(commands-l.lastCommands)/seconds) / 2
	l.evaluatingASecond = (l.evaluatingASecond + max(0, evaluating-l.lastEvaluating).Seconds()/seconds) / 2
	l.lastBatches, l.lastCommands, l.lastEvaluating = batches, commands, evaluating
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.gateways
	l.gateways = map[keys.NodeID]float64{}
	for node, rate := range old {
		if rate /= 2; rate > 0.01 {
			l.gateways[node] = rate
		}
	}
	for node, n := range l.from {
		l.gateways[node] += float64(n) / seconds / 2
	}
	l.from = nil
	foreign := 0.0
	for node, rate := range l.gateways {
		if node != self {
			foreign += rate
		}
	}
	l.foreignSecond.Store(math.Float64bits(foreign))
	if l.sampling.Store(foreign > busy); foreign <= busy {
		l.samples, l.seen = nil, 0
	}
}

// batchesPerSecond is the rate as last measured.
func (l *load) batchesPerSecond() float64 { return math.Float64frombits(l.perSecond.Load()) }

// foreignPerSecond is the rate of the batches from other nodes.
func (l *load) foreignPerSecond() float64 { return math.Float64frombits(l.foreignSecond.Load()) }

// splitKey returns the key that divides the load best, once enough was seen. nil and no hot key: not
// enough. Where no key divides it, it is the key that most of it is for, or where it moves on from.
func (l *load) splitKey() (at, hot keys.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen < minSampled {
		return nil, nil
	}
	best := math.Inf(1)
	for _, s := range l.samples {
		if total := s.left + s.right; total >= minSampled/2 {
			if uneven := math.Abs(float64(s.left-s.right)) / float64(total); uneven < best {
				best, at = uneven, s.key
			}
		}
	}
	if best > maxUneven && len(l.samples) > 0 {
		mid := slices.Clone(l.samples)
		slices.SortFunc(mid, func(a, b splitSample) int { return slices.Compare(a.key, b.key) })
		at, hot = nil, mid[len(mid)/2].key
	}
	l.samples, l.seen = nil, 0
	return at, hot
}

// cost is what the range costs each replica, and what goes with the lease; in cores.
func (l *load) cost() (replica, lease float64) {
	return l.commandsASecond * commandCost, l.foreignPerSecond()*batchCost + l.evaluatingASecond
}

// requests returns the zones that batches come from, by the zones of the nodes.
func (l *load) requests(zones map[keys.NodeID]string) []allocator.ZoneRequests {
	l.mu.Lock()
	defer l.mu.Unlock()
	by := map[string]float64{}
	for node, rate := range l.gateways {
		if z := zones[node]; z != "" {
			by[z] += rate
		}
	}
	out := make([]allocator.ZoneRequests, 0, len(by))
	for z, rate := range by {
		out = append(out, allocator.ZoneRequests{Zone: z, Rate: rate})
	}
	slices.SortFunc(out, func(a, b allocator.ZoneRequests) int {
		if a.Zone < b.Zone {
			return -1
		}
		return 1
	})
	return out
}

// measureLoad takes the rates of all replicas here, and what they cost together, in cores.
func (s *Store) measureLoad(now time.Time) {
	total := 0.0
	for _, r := range s.all() {
		g := r.group.Load()
		if g == nil {
			continue
		}
		var evaluating time.Duration
		if rr := r.replica.Load(); rr != nil {
			evaluating = rr.EvaluationTime()
		}
		r.load.measure(now, g.Commands(), evaluating, float64(s.cfg.MaxRangeBatches), s.cfg.Node)
		replica, lease := r.load.cost()
		total += replica + lease
	}
	s.cpu.Store(math.Float64bits(total))
}

// cores is what the ranges cost here.
func (s *Store) cores() float64 { return math.Float64frombits(s.cpu.Load()) }

// splitByLoad splits a range that is busier than one should be, where that divides the load. A range
// whose load can't be divided is named, once in a while: only who uses it can help.
func (s *Store) splitByLoad(ctx context.Context, r *rep) error {
	rate := r.load.foreignPerSecond()
	at, hot := r.load.splitKey()
	d := r.desc()
	if at == nil || !d.Start.Less(at) || !at.Less(d.End) { // the range may have been split since it was sampled
		if hot != nil {
			s.hotSpot(r, hot, rate)
		}
		return nil
	}
	why := fmt.Sprintf("it had %.0f batches a second from other nodes, and %d are the bound", rate, s.cfg.MaxRangeBatches)
	_, err := s.splitAt(ctx, r.replica.Load(), &kv.AdminSplitRequest{SplitKey: at}, why)
	if err == nil {
		s.metrics.loadSplits.Inc()
		s.logger.Info("split a range by load", "range", r.rangeID, "batches_per_second", int(rate), "at", at.String())
	}
	return err
}

// hotSpotEvery is how often the same hot spot is mentioned.
const hotSpotEvery = 10 * time.Minute

// hotSpot records a load that no split can divide. It runs in the goroutine that works on the range.
func (s *Store) hotSpot(r *rep, key keys.Key, rate float64) {
	now := time.Now()
	if now.Sub(r.hotSaid) < hotSpotEvery {
		return
	}
	r.hotSaid = now
	s.metrics.hotSpots.Inc()
	s.recordHotSpot(r.rangeID, fmt.Sprintf("a hot spot near %s: %.0f batches a second from other nodes", key.Pretty(), rate),
		"its load is for one key, or moves on along the keys, so that no split divides it")
	s.logger.Warn("a hot spot: the load of a range can't be divided", "range", r.rangeID, "batches_per_second", int(rate), "key", key.Pretty())
}
