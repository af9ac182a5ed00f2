package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

var _ replica.Admin = (*Store)(nil)

// led returns the rep behind a replica if this node holds the lease.
func (s *Store) led(rr *replica.Replica) (*rep, error) {
	r := s.get(rr.RangeID())
	if r == nil {
		return nil, &kv.RangeNotFoundError{RangeID: rr.RangeID(), Node: s.cfg.Node}
	}
	if _, ok := r.leads(); !ok {
		return nil, &kv.NotLeaseholderError{RangeID: r.rangeID, Leaseholder: r.trans.Leader(), Desc: r.desc(), Reason: "this node does not hold the lease"}
	}
	return r, nil
}

// proposeError turns the fate of a structure change into an answer.
func proposeError(err error) error {
	if errors.Is(err, replica.ErrAmbiguous) {
		return &kv.AmbiguousError{Detail: err.Error()}
	}
	return err
}

// Split implements replica.Admin.
func (s *Store) Split(ctx context.Context, rr *replica.Replica, req *kv.AdminSplitRequest) (*kv.AdminSplitResponse, error) {
	r, err := s.led(rr)
	if err != nil {
		return nil, err
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	desc := rr.Desc()
	switch {
	case req.SplitKey.Equal(desc.Start):
		return &kv.AdminSplitResponse{Left: desc.Clone(), Right: desc.Clone()}, nil
	case !desc.Contains(req.SplitKey):
		return nil, &kv.RangeKeyMismatchError{Span: keys.Span{Key: req.SplitKey}, Descs: []kv.RangeDescriptor{desc.Clone()}}
	case desc.RangeID == keys.MetaRangeID:
		return nil, &kv.InvalidRequestError{Detail: "the meta range can't be split"}
	}
	if err := s.settle(ctx, r); err != nil {
		return nil, err
	}
	id, err := s.increment(ctx, cluster.RangeIDKey)
	if err != nil {
		return nil, fmt.Errorf("store: allocating a range ID: %w", err)
	}
	left, right, err := s.split(ctx, r, rr, req.SplitKey, keys.RangeID(id))
	if err != nil {
		return nil, proposeError(err)
	}
	// S29: left, then right. What fails here the meta queue makes good.
	if err := s.writeMeta(ctx, left); err == nil {
		err = s.writeMeta(ctx, right)
		if err != nil {
			s.logger.Warn("meta record of a new range is late", "range", right.RangeID, "err", err)
		}
	} else {
		s.logger.Warn("meta record of a split range is late", "range", left.RangeID, "err", err)
	}
	return &kv.AdminSplitResponse{Left: *left, Right: *right}, nil
}

// split replicates the split itself.
func (s *Store) split(ctx context.Context, r *rep, rr *replica.Replica, at keys.Key, id keys.RangeID) (left, right *kv.RangeDescriptor, err error) {
	frozen, err := rr.Freeze(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer frozen.Release()
	l, rt := rr.Desc().Clone(), rr.Desc().Clone()
	if !l.Contains(at) || at.Equal(l.Start) {
		return nil, nil, &kv.RangeKeyMismatchError{Span: keys.Span{Key: at}, Descs: []kv.RangeDescriptor{l}}
	}
	if !sameMembers(r.group.Load().State().Config, &l) {
		return nil, nil, fmt.Errorf("%w: a replica change of range %d is under way", replica.ErrRejected, r.rangeID)
	}
	l.End, l.Generation = at.Clone(), l.Generation+1
	rt.RangeID, rt.Start, rt.Generation = id, at.Clone(), rt.Generation+1
	rt.Replicas = nil
	for i, rd := range l.Replicas {
		rd.Replica = keys.ReplicaID(i + 1)
		rt.Replicas = append(rt.Replicas, rd)
	}
	rt.NextReplicaID = keys.ReplicaID(len(rt.Replicas) + 1)
	cmd := &raftcmd.Command{ID: newID(), Term: frozen.Term, Proposer: s.cfg.Node,
		Split: &raftcmd.SplitTrigger{Left: l, Right: rt, HighWater: frozen.HighWater}}
	if _, err := r.Propose(ctx, cmd); err != nil {
		return nil, nil, err
	}
	return &l, &rt, nil
}

func newID() raftcmd.ID { return raftcmd.ID(uuid.New()) }

// sameMembers reports whether a raft configuration and a descriptor name the same replicas.
func sameMembers(c raft.Configuration, d *kv.RangeDescriptor) bool {
	if len(c.Servers) != len(d.Replicas) {
		return false
	}
	want := map[raft.ServerID]raft.ServerSuffrage{}
	for _, sv := range group.Configuration(d).Servers {
		want[sv.ID] = sv.Suffrage
	}
	for _, sv := range c.Servers {
		if suf, ok := want[sv.ID]; !ok || suf != sv.Suffrage {
			return false
		}
	}
	return true
}

// increment adds one to a counter in the system keys.
func (s *Store) increment(ctx context.Context, key keys.Key) (int64, error) {
	resp, err := sendOne[*kv.IncrementResponse](ctx, &s.sender, &kv.IncrementRequest{Key: key, Delta: 1})
	if err != nil {
		return 0, err
	}
	return resp.NewValue, nil
}

func sendOne[T kv.Response](ctx context.Context, snd kv.Sender, req kv.Request) (T, error) {
	var zero T
	br, err := snd.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{req}})
	if err != nil {
		return zero, err
	}
	waitOut(ctx, br.Timestamp)
	if len(br.Responses) == 1 {
		if resp, ok := br.Responses[0].(T); ok {
			return resp, nil
		}
	}
	return zero, fmt.Errorf("store: unexpected answer to %T", req)
}

// waitOut waits until a write's timestamp has passed (S1): after a lease moved it lies ahead,
// and the next read, at the clock's time, would not see it.
func waitOut(ctx context.Context, ts hlc.Timestamp) {
	d := min(time.Until(ts.Time())+time.Microsecond, maxWaitOut)
	if ts.IsEmpty() || d <= time.Microsecond {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

const maxWaitOut = 2 * time.Second

// TransferLease implements replica.Admin.
func (s *Store) TransferLease(ctx context.Context, rr *replica.Replica, req *kv.AdminTransferLeaseRequest) error {
	r, err := s.led(rr)
	if err != nil {
		return err
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	return s.transfer(ctx, r, req.Target)
}

// transfer hands the range's lease to a node's voter. The transport gives the lease up
// before it asks the target to campaign (S3).
func (s *Store) transfer(ctx context.Context, r *rep, target keys.NodeID) error {
	if target == s.cfg.Node {
		return nil
	}
	rd, ok := r.desc().Replica(target)
	if !ok || rd.Type != kv.Voter {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("node %d holds no voter of %s", target, r.desc())}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := r.trans.Transfer(ctx, raftnet.ServerID(target, rd.Replica)); err != nil {
		return fmt.Errorf("store: transfer of range %d to node %d: %w", r.rangeID, target, err)
	}
	s.metrics.transfers.Inc()
	return nil
}

// Checksum implements replica.Admin: every replica's digest at one log position (S23).
func (s *Store) Checksum(ctx context.Context, rr *replica.Replica, _ *kv.ChecksumRequest) (*kv.ChecksumResponse, error) {
	r, err := s.led(rr)
	if err != nil {
		return nil, err
	}
	term, _ := r.leads()
	id := newID()
	if _, err := r.Propose(ctx, &raftcmd.Command{ID: id, Term: term, Proposer: s.cfg.Node, Digest: true}); err != nil {
		return nil, proposeError(err)
	}
	own, pos, err := s.digests.wait(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, rd := range rr.Desc().Replicas {
		if rd.Node == s.cfg.Node || rd.Type == kv.Witness {
			continue
		}
		q := append([]byte{recordVersion}, id[:]...)
		b, err := s.cfg.Network.Call(ctx, rd.Node, raftnet.Data, raftnet.MethodReplicaDigest, q)
		if err != nil {
			s.logger.Warn("no digest of a replica", "range", r.rangeID, "replica", rd.Replica, "peer", rd.Node, "err", err)
			continue
		}
		if len(b) != 1+8+32 || [32]byte(b[9:]) != own || binary.BigEndian.Uint64(b[1:]) != pos.Index {
			s.metrics.mismatches.Inc()
			err := fmt.Errorf("store: range %d: replica %d on node %d differs from the leaseholder's at index %d; remove that replica",
				r.rangeID, rd.Replica, rd.Node, pos.Index)
			s.logger.Error("replicas differ", "range", r.rangeID, "replica", rd.Replica, "peer", rd.Node, "index", pos.Index)
			return nil, err
		}
	}
	return &kv.ChecksumResponse{Digest: own, Applied: pos.Index}, nil
}

// digests are results that a leaseholder will ask for.
type digests struct {
	mu sync.Mutex
	by map[raftcmd.ID]*digest
}

type digest struct {
	done chan struct{}
	sum  [32]byte
	pos  group.Position
	err  error
}

// maxDigests bounds the results kept, digestLife for how long.
const (
	maxDigests = 256
	digestLife = time.Minute
)

func (d *digests) entry(id raftcmd.ID) *digest {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by == nil {
		d.by = map[raftcmd.ID]*digest{}
	}
	e := d.by[id]
	if e == nil && len(d.by) < maxDigests {
		e = &digest{done: make(chan struct{})}
		d.by[id] = e
	}
	return e
}

func (d *digests) compute(s *Store, rangeID keys.RangeID, id raftcmd.ID, pos group.Position, snap *storage.Snapshot) {
	e := d.entry(id)
	if e == nil {
		_ = snap.Close()
		return
	}
	e.pos = pos
	st, err := group.LoadState(snap, rangeID)
	if err == nil {
		e.sum, err = mvcc.Digest(snap, group.ReplicatedSpans(&st.Desc)...)
	}
	e.err = errors.Join(err, snap.Close())
	close(e.done)
	s.sleep(digestLife)
	d.mu.Lock()
	delete(d.by, id)
	d.mu.Unlock()
}

func (d *digests) wait(ctx context.Context, id raftcmd.ID) ([32]byte, group.Position, error) {
	e := d.entry(id)
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

func (s *Store) onDigest(ctx context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	if len(payload) != 17 || payload[0] != recordVersion {
		return nil, fmt.Errorf("store: digest question of %d bytes", len(payload))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	sum, pos, err := s.digests.wait(ctx, raftcmd.ID(payload[1:]))
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint64([]byte{recordVersion}, pos.Index), sum[:]...), nil
}
