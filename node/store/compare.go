package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

// Replicas are compared regularly (SAFETY S23). The leaseholder puts a command into the log, at
// which every replica takes a snapshot of its state engine; each reads the replicated part of it,
// slowly, and the leaseholder collects the digests. Whoever differs from what a majority of the
// voters agrees on, twice, is quarantined.

const (
	// digestWait is how long a node keeps a question for a digest open, and the least time that
	// the leaseholder gives the others.
	digestWait = 10 * time.Second
	// digestLife is how long results are kept, digestPending how long questions are whose command
	// does not come: a replica that got a snapshot instead never sees it.
	digestLife    = time.Minute
	digestPending = 10 * time.Minute
	digestRunning = 6 * time.Hour
	// maxDigests bounds the questions and results of a node.
	maxDigests = 1024
	// paceBytes are read between two pauses.
	paceBytes = 64 << 10
)

// compareRanges is the queue of comparisons: one range at a time, each once per CompareEvery.
func (s *Store) compareRanges() {
	due := map[keys.RangeID]time.Time{}
	step := min(max(s.cfg.CompareEvery/16, 100*time.Millisecond), time.Minute)
	for s.sleep(step) {
		for r := s.nextToCompare(due, time.Now()); r != nil; r = s.nextToCompare(due, time.Now()) {
			wait := s.cfg.CompareEvery
			if err := s.compareRange(r); err != nil {
				wait /= 8 // it says nothing about the range
				if errors.Is(err, errUnheard) {
					wait = min(wait, unheardAgain)
				}
				s.logger.Debug("a comparison of replicas was not finished", "range", r.rangeID, "err", err)
			}
			due[r.rangeID] = time.Now().Add(wait - time.Duration(rand.Int64N(int64(wait)/8+1)))
		}
	}
}

// errUnheard: replicas differ, and one that could tell which is right has not been heard. It is asked
// again soon: until then nobody replaces the damaged one.
var errUnheard = errors.New("store: the replicas differ, and not all have said what they hold")

const unheardAgain = time.Minute

// nextToCompare returns the range of this node's that is overdue for longest.
func (s *Store) nextToCompare(due map[keys.RangeID]time.Time, now time.Time) *rep {
	if s.ctx.Err() != nil || s.full.Load() {
		return nil
	}
	var next *rep
	for _, r := range s.all() {
		at, ok := due[r.rangeID]
		if !ok { // spread after a start
			at = now.Add(time.Duration(rand.Int64N(int64(s.cfg.CompareEvery))))
			due[r.rangeID] = at
		}
		if _, leads := r.leads(); !leads || r.distrusted.Load() || at.After(now) {
			continue
		}
		if next == nil || at.Before(due[next.rangeID]) {
			next = r
		}
	}
	for id := range due {
		if s.get(id) == nil {
			delete(due, id)
		}
	}
	return next
}

// compareRange compares a range's replicas and quarantines those that differ.
func (s *Store) compareRange(r *rep) error {
	_, bytes := r.info()
	limit := 3*time.Duration(float64(bytes)/float64(s.cfg.CompareBytesPerSecond)*float64(time.Second)) + 6*digestWait
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	v, err := s.survey(ctx, r)
	if err != nil {
		return err
	}
	return s.settleSurvey(ctx, r, v)
}

// survey is what a range's replicas say of their state at one log position.
type survey struct {
	desc  kv.RangeDescriptor
	index uint64
	sums  map[keys.ReplicaID][32]byte // of those that answered
}

// judge returns the replicas that differ from a majority of the voters; undecided means that some
// differ and no majority agrees. Quarantined replicas have no say, and are not named again.
func (v *survey) judge() (odd []kv.ReplicaDescriptor, undecided bool) {
	agree := map[[32]byte]int{}
	voters, differ := 0, map[[32]byte]bool{}
	for _, rd := range v.desc.Replicas {
		if rd.Type == kv.Voter {
			voters++
		}
		sum, ok := v.sums[rd.Replica]
		if !ok || rd.Quarantine != kv.Trusted {
			continue
		}
		differ[sum] = true
		if rd.Type == kv.Voter {
			agree[sum]++
		}
	}
	if len(differ) < 2 {
		return nil, false
	}
	for right, n := range agree {
		if n < voters/2+1 {
			continue
		}
		for _, rd := range v.desc.Replicas {
			if sum, ok := v.sums[rd.Replica]; ok && sum != right && rd.Quarantine == kv.Trusted {
				odd = append(odd, rd)
			}
		}
		return odd, false
	}
	return nil, true
}

// survey asks every replica of a range for its digest at one log position.
func (s *Store) survey(ctx context.Context, r *rep) (*survey, error) {
	term, leads := r.leads()
	if !leads {
		return nil, fmt.Errorf("%w: the lease of range %d is gone", replica.ErrRejected, r.rangeID)
	}
	v := &survey{desc: r.desc().Clone(), sums: map[keys.ReplicaID][32]byte{}}
	cmd := s.command(term)
	cmd.ID, cmd.Digest = newID(), true
	_, _, horizon := r.LookupCommand(cmd.ID)
	cmd.Birth = max(s.cfg.Clock.Now().WallNanos, horizon+1) // a merge leaves it in the future for a moment (S20)
	if _, err := r.Propose(ctx, cmd); err != nil {
		return nil, proposeError(err)
	}
	own, pos, err := s.digests.wait(ctx, cmd.ID)
	if err != nil {
		return nil, fmt.Errorf("store: this node's digest of range %d: %w", r.rangeID, err)
	}
	v.sums[r.id], v.index = own, pos.Index
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, rd := range v.desc.Replicas {
		if rd.Node == s.cfg.Node || !rd.Type.HoldsData() || !s.cfg.Support.Live(rd.Node) {
			continue
		}
		wg.Go(func() {
			sum, err := s.askDigest(ctx, rd.Node, cmd.ID, pos)
			if err != nil {
				s.logger.Info("no digest of a replica", "range", r.rangeID, "replica", rd.Replica, "peer", rd.Node, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			v.sums[rd.Replica] = sum
		})
	}
	wg.Wait()
	s.metrics.comparisons.Inc()
	return v, ctx.Err()
}

// askDigest asks a node for a digest until it has it, or half of the time that is left is over.
func (s *Store) askDigest(ctx context.Context, node keys.NodeID, id raftcmd.ID, pos group.Position) (sum [32]byte, err error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	q := append([]byte{recordVersion}, id[:]...)
	for try := 0; ; try++ {
		b, err := s.cfg.Network.Call(ctx, node, raftnet.Data, raftnet.MethodReplicaDigest, q)
		switch {
		case err == nil && (len(b) != 1+8+32 || b[0] != recordVersion || binary.BigEndian.Uint64(b[1:]) != pos.Index):
			return sum, fmt.Errorf("store: node %d answered with %d bytes for index %d: %x", node, len(b), pos.Index, b[:min(len(b), 9)])
		case err == nil:
			return [32]byte(b[9:]), nil
		case ctx.Err() != nil || !s.cfg.Support.Live(node):
			return sum, err
		}
		if !s.sleep(min(100*time.Millisecond<<min(try, 6), 5*time.Second)) {
			return sum, errClosed
		}
	}
}

// settleSurvey acts on what a survey has found.
func (s *Store) settleSurvey(ctx context.Context, r *rep, v *survey) error {
	odd, undecided := v.judge()
	r.undecided.Store(undecided)
	if undecided {
		s.metrics.mismatches.Inc()
		s.logger.Error("the replicas of a range differ and no majority of its voters agrees: nothing is removed. Find out which copy is right, and decommission the nodes of the others",
			"range", r.rangeID, "index", v.index, "digests", v.String())
		if len(v.sums) < v.copies() {
			return errUnheard
		}
		return nil
	}
	if len(odd) == 0 {
		return nil
	}
	// A second look at another position: a single reading may be wrong where the disk is right.
	again, err := s.survey(ctx, r)
	if err != nil {
		return err
	}
	confirmed, undecided := again.judge()
	r.undecided.Store(undecided)
	var errs []error
	for _, rd := range odd {
		if !slices.ContainsFunc(confirmed, func(o kv.ReplicaDescriptor) bool { return o.Replica == rd.Replica }) {
			s.logger.Error("a replica differed once and not again: its memory or disk may be failing",
				"range", r.rangeID, "replica", rd.Replica, "peer", rd.Node, "index", v.index)
			continue
		}
		s.metrics.mismatches.Inc()
		s.logger.Error("a replica differs from a majority of its range's voters", "range", r.rangeID, "replica", rd.Replica, "peer", rd.Node,
			"index", again.index, "digests", again.String())
		errs = append(errs, s.quarantine(ctx, r, rd.Replica, kv.Differs))
	}
	return errors.Join(errs...)
}

// copies counts the replicas that have data to compare: not the witnesses (S22).
func (v *survey) copies() (n int) {
	for _, rd := range v.desc.Replicas {
		if rd.Type.HoldsData() {
			n++
		}
	}
	return n
}

// String lists the digests, shortened, by node.
func (v *survey) String() string {
	out := ""
	for _, rd := range v.desc.Replicas {
		if !rd.Type.HoldsData() {
			continue
		}
		if sum, ok := v.sums[rd.Replica]; ok {
			out += fmt.Sprintf("n%d/%d=%x ", rd.Node, rd.Replica, sum[:6])
		} else {
			out += fmt.Sprintf("n%d/%d=? ", rd.Node, rd.Replica)
		}
	}
	return out
}

// Checksum implements replica.Admin: every replica's digest at one log position, now.
func (s *Store) Checksum(ctx context.Context, rr *replica.Replica, _ *kv.ChecksumRequest) (*kv.ChecksumResponse, error) {
	r, err := s.led(rr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 6*digestWait)
	defer cancel()
	v, err := s.survey(ctx, r)
	if err != nil {
		return nil, err
	}
	if odd, undecided := v.judge(); undecided || len(odd) > 0 {
		s.spawn(func() {
			ctx, cancel := context.WithTimeout(s.ctx, 6*digestWait)
			defer cancel()
			if err := s.settleSurvey(ctx, r, v); err != nil {
				s.logger.Warn("a replica that differs is not quarantined yet; the next comparison tries again", "range", r.rangeID, "err", err)
			}
		})
		return nil, fmt.Errorf("store: the replicas of range %d differ at index %d: %s; a replica that differs from a majority is replaced, see atoll.ranges", r.rangeID, v.index, v)
	}
	return &kv.ChecksumResponse{Digest: v.sums[r.id], Applied: v.index}, nil
}

// digests are results that a leaseholder will ask for, or has asked for.
type digests struct {
	mu sync.Mutex
	by map[raftcmd.ID]*digest
}

type digest struct {
	done    chan struct{} // closed when the fields below it are set
	sum     [32]byte
	pos     group.Position
	err     error
	expires time.Time // guarded by digests.mu
}

// entry returns what is known under an ID, to be kept for life at least; nil if there are too many.
func (d *digests) entry(id raftcmd.ID, life time.Duration) *digest {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by == nil {
		d.by = map[raftcmd.ID]*digest{}
	}
	e := d.by[id]
	if e == nil {
		for old, e := range d.by {
			if e.expires.Before(now) {
				delete(d.by, old)
			}
		}
		if len(d.by) >= maxDigests {
			return nil
		}
		e = &digest{done: make(chan struct{})}
		d.by[id] = e
	}
	if until := now.Add(life); e.expires.Before(until) {
		e.expires = until
	}
	return e
}

// finish makes a result known under an ID and keeps it for digestLife. A replica that replaces
// another one on this node may apply the same command, from the log, within that time: its own
// digest then takes the place of its predecessor's.
func (d *digests) finish(id raftcmd.ID, e *digest, sum [32]byte, pos group.Position, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e.finished() || d.by[id] != e {
		e = &digest{done: make(chan struct{})}
		d.by[id] = e
	}
	e.sum, e.pos, e.err, e.expires = sum, pos, err, time.Now().Add(digestLife)
	close(e.done)
}

func (e *digest) finished() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

func (d *digests) wait(ctx context.Context, id raftcmd.ID) ([32]byte, group.Position, error) {
	e := d.entry(id, digestPending)
	if e == nil {
		return [32]byte{}, group.Position{}, errors.New("store: too many digests are under way; try again")
	}
	select {
	case <-e.done:
		return e.sum, e.pos, e.err
	case <-ctx.Done():
		return [32]byte{}, group.Position{}, ctx.Err()
	}
}

// digest reads a replica's state as of pos, at the rate of the configuration and one replica of
// this node at a time.
func (s *Store) digest(rangeID keys.RangeID, id raftcmd.ID, pos group.Position, snap *storage.Snapshot) {
	e := s.digests.entry(id, digestRunning)
	if e == nil {
		_ = snap.Close()
		return
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	var sum [32]byte
	st, err := group.LoadState(snap, rangeID)
	if err == nil {
		sum, err = mvcc.DigestPaced(snap, s.pacedRead(), group.ReplicatedSpans(&st.Desc)...)
	}
	s.digests.finish(id, e, sum, pos, errors.Join(err, snap.Close()))
}

// pacedRead waits between reads so that digests leave the disk to others.
func (s *Store) pacedRead() func(int) error {
	read := 0
	return func(n int) error {
		if read += n; read < paceBytes {
			return nil
		}
		s.metrics.digestBytes.Add(float64(read))
		d := time.Duration(float64(read) / float64(s.cfg.CompareBytesPerSecond) * float64(time.Second))
		read = 0
		if !s.sleep(d) {
			return errClosed
		}
		return nil
	}
}

func (s *Store) onDigest(ctx context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	if len(payload) != 17 || payload[0] != recordVersion {
		return nil, fmt.Errorf("store: digest question of %d bytes", len(payload))
	}
	ctx, cancel := context.WithTimeout(ctx, digestWait)
	defer cancel()
	sum, pos, err := s.digests.wait(ctx, raftcmd.ID(payload[1:]))
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint64([]byte{recordVersion}, pos.Index), sum[:]...), nil
}
