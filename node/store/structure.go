package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/storage"
)

// adoptRight makes the right side of an applied split a replica of its own.
func (s *Store) adoptRight(left, right *kv.RangeDescriptor, state *replica.SplitState, leads bool) {
	// REQUIRES: S20. Before the right side says anything, the split itself is durable.
	if err := s.state.Flush(); err != nil {
		return // the engine has told the process
	}
	s.structure.Lock()
	defer s.structure.Unlock()
	r, err := s.adoptLocked(left, right, state)
	if err != nil {
		if s.ctx.Err() == nil {
			s.cfg.OnFatal(fmt.Errorf("store: right side %s of a split: %w", right, err))
		}
		return
	}
	if r != nil && leads && !r.witness {
		r.trans.StandForElection(splitOff(left))
	}
}

func (s *Store) adoptLocked(left, right *kv.RangeDescriptor, state *replica.SplitState) (*rep, error) {
	var r *rep
	if s.get(right.RangeID) == nil {
		if err := s.recordRight(right); err != nil {
			return nil, err
		}
		if rd, ok, err := s.recorded(right); err != nil {
			return nil, err
		} else if ok {
			if r, err = s.startWith(rightRecord(right, rd), state); err != nil {
				return nil, err
			}
		}
	}
	return r, group.ClearPendingSplit(s.state, left.RangeID, right.RangeID)
}

// recorded returns this node's replica of desc if it may exist here.
func (s *Store) recorded(desc *kv.RangeDescriptor) (kv.ReplicaDescriptor, bool, error) {
	rd, ok := desc.Replica(s.cfg.Node)
	if !ok {
		return rd, false, nil
	}
	min, err := tombstone(s.log, desc.RangeID)
	return rd, rd.Replica >= min, err
}

// recordRight records the right side of a split whose state is durable, or clears it if
// this node has no replica of it any more.
func (s *Store) recordRight(right *kv.RangeDescriptor) error {
	rd, ok, err := s.recorded(right)
	if err != nil {
		return err
	}
	if !ok {
		if err := group.ClearData(s.state, right.RangeID, group.DataSpans(right.Start, right.End)...); err != nil {
			return err
		}
		return s.state.Flush()
	}
	return s.log.UpdateLocal(func(u *storage.LocalUpdate) error {
		return setRecord(u, rightRecord(right, rd))
	})
}

// rightRecord is the record of a split's right side. Where the left side is a witness, it is one too.
func rightRecord(right *kv.RangeDescriptor, rd kv.ReplicaDescriptor) replicaRecord {
	return replicaRecord{rangeID: right.RangeID, replica: rd.Replica, witness: !rd.Type.HoldsData()}
}

// ReplicaFor implements group.Host.
func (s *Store) ReplicaFor(to raft.ServerID, desc *kv.RangeDescriptor) (*group.Group, error) {
	node, id, err := raftnet.ParseServerID(to)
	if err != nil {
		return nil, err
	}
	r := s.get(desc.RangeID)
	if node != s.cfg.Node || r == nil || r.id != id || r.group.Load() == nil {
		return nil, fmt.Errorf("store: node %d has no replica %s of range %d", s.cfg.Node, to, desc.RangeID)
	}
	if err := s.overlap(desc); err != nil {
		return nil, err
	}
	return r.group.Load(), nil
}

// overlap returns an error if another range's replica here holds keys of desc (S20).
func (s *Store) overlap(desc *kv.RangeDescriptor) error {
	span := keys.Span{Key: desc.Start, EndKey: desc.End}
	for _, r := range s.all() {
		d := r.desc()
		if d == nil || d.RangeID == desc.RangeID || !span.Overlaps(keys.Span{Key: d.Start, EndKey: d.End}) || r.mergedAway.Load() || r.mergedInto(desc) {
			continue
		}
		return fmt.Errorf("store: node %d holds %s, which overlaps %s: it has not applied a split or merge yet; try again", s.cfg.Node, d, desc)
	}
	return nil
}

// witnessVersion is the version of replica messages that name a witness. A binary that knows no
// witnesses refuses it: it would make a replica that holds data.
const witnessVersion = 2

// namesWitness reports whether a descriptor has a replica as a witness.
func namesWitness(desc *kv.RangeDescriptor, id keys.ReplicaID) bool {
	return slices.ContainsFunc(desc.Replicas, func(rd kv.ReplicaDescriptor) bool { return rd.Replica == id && !rd.Type.HoldsData() })
}

// A replica message: version, replica ID, descriptor.
func encodeReplicaMsg(id keys.ReplicaID, desc *kv.RangeDescriptor) []byte {
	version := byte(recordVersion)
	if namesWitness(desc, id) {
		version = witnessVersion
	}
	return kv.EncodeRangeDescriptor(binary.BigEndian.AppendUint64([]byte{version}, uint64(id)), desc)
}

func decodeReplicaMsg(b []byte) (keys.ReplicaID, *kv.RangeDescriptor, error) {
	if len(b) < 9 || b[0] != recordVersion && b[0] != witnessVersion {
		return 0, nil, fmt.Errorf("store: replica message of %d bytes has neither version %d nor %d", len(b), recordVersion, witnessVersion)
	}
	d, err := kv.DecodeRangeDescriptor(b[9:])
	if err != nil {
		return 0, nil, err
	}
	if d.RangeID <= 0 || !d.Start.Less(d.End) {
		return 0, nil, fmt.Errorf("store: replica message with descriptor %s", &d)
	}
	id := keys.ReplicaID(binary.BigEndian.Uint64(b[1:]))
	if namesWitness(&d, id) != (b[0] == witnessVersion) {
		return 0, nil, fmt.Errorf("store: replica message of version %d about replica %d of %s", b[0], id, &d)
	}
	return id, &d, nil
}

// spentError refuses to make a replica: its ID was used on the node before, and what was under it
// is gone for good (SAFETY S18). It happens when a change was given up after the node had made the
// replica: the descriptor never counted that ID.
type spentError struct {
	node    keys.NodeID
	rangeID keys.RangeID
	id      keys.ReplicaID
	lowest  keys.ReplicaID // the lowest ID that the node takes
}

func (e *spentError) Error() string {
	return fmt.Sprintf("store: replica %d of range %d was removed from node %d for good (SAFETY S18); the lowest ID it takes now is %d", e.id, e.rangeID, e.node, e.lowest)
}

// The answer to a request to make a replica is empty, or the lowest ID that may be had.
func encodeLowest(id keys.ReplicaID) []byte {
	return binary.BigEndian.AppendUint64([]byte{recordVersion}, uint64(id))
}

func decodeLowest(b []byte) (keys.ReplicaID, error) {
	if len(b) != 9 || b[0] != recordVersion {
		return 0, fmt.Errorf("store: answer of %d bytes to the making of a replica has not version %d", len(b), recordVersion)
	}
	return keys.ReplicaID(binary.BigEndian.Uint64(b[1:])), nil
}

// createReplica asks a node to make a replica. It returns a spentError if the ID can't be had there.
func (s *Store) createReplica(ctx context.Context, node keys.NodeID, id keys.ReplicaID, desc *kv.RangeDescriptor) error {
	answer, err := s.callReplica(ctx, node, raftnet.MethodReplicaCreate, id, desc)
	if err != nil || len(answer) == 0 {
		return err
	}
	lowest, err := decodeLowest(answer)
	if err != nil {
		return err
	}
	return &spentError{node: node, rangeID: desc.RangeID, id: id, lowest: lowest}
}

// onReplicaCreate makes an empty replica, which waits for a snapshot.
func (s *Store) onReplicaCreate(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	id, desc, err := decodeReplicaMsg(payload)
	if err != nil {
		return nil, err
	}
	s.structure.Lock()
	defer s.structure.Unlock()
	if old := s.get(desc.RangeID); old != nil {
		if old.id == id && old.witness != namesWitness(desc, id) {
			// A change that was given up made it as something else, for good (S18, S22).
			return encodeLowest(id + 1), nil
		}
		if old.id == id {
			return nil, nil
		}
		if old.id > id {
			return encodeLowest(old.id), nil
		}
		if rd, ok := desc.Replica(s.cfg.Node); ok && rd.Replica == old.id {
			return nil, fmt.Errorf("store: node %d has replica %d of range %d, not %d", s.cfg.Node, old.id, desc.RangeID, id)
		}
		if err := s.removeLocked(old); err != nil { // a former replica that missed its removal
			return nil, err
		}
	}
	min, err := tombstone(s.log, desc.RangeID)
	if err != nil {
		return nil, err
	}
	if id < min {
		return encodeLowest(min), nil
	}
	if err := s.overlap(desc); err != nil {
		return nil, err
	}
	rec := replicaRecord{rangeID: desc.RangeID, replica: id, witness: namesWitness(desc, id)}
	if err := s.log.UpdateLocal(func(u *storage.LocalUpdate) error { return setRecord(u, rec) }); err != nil {
		return nil, err
	}
	_, err = s.start(rec)
	return nil, err
}

// onReplicaRemove is told by the range's leader that a replica is no longer part of it.
func (s *Store) onReplicaRemove(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	id, desc, err := decodeReplicaMsg(payload)
	if err != nil {
		return nil, err
	}
	return nil, s.removeIfStale(id, desc)
}

// removeIfStale removes a replica if a newer descriptor does not name it.
func (s *Store) removeIfStale(id keys.ReplicaID, desc *kv.RangeDescriptor) error {
	s.structure.Lock()
	defer s.structure.Unlock()
	r := s.get(desc.RangeID)
	if r == nil || r.id != id {
		return nil
	}
	if s.isMember(desc, id) {
		return fmt.Errorf("store: %s still has replica %d", desc, id)
	}
	// A generation is one descriptor: what the replica itself applied last may be its removal.
	if d := r.desc(); d != nil && (d.Generation > desc.Generation || d.Generation == desc.Generation && s.isMember(d, id)) {
		return fmt.Errorf("store: range %d: generation %d is not newer than %d", desc.RangeID, desc.Generation, d.Generation)
	}
	return s.removeLocked(r)
}

// isMember reports whether a descriptor names a replica of this node.
func (s *Store) isMember(d *kv.RangeDescriptor, id keys.ReplicaID) bool {
	rd, ok := d.Replica(s.cfg.Node)
	return ok && rd.Replica == id
}

// removeLocked removes a replica from this node. REQUIRES: structure is held.
func (s *Store) removeLocked(r *rep) error {
	rec := replicaRecord{rangeID: r.rangeID, replica: r.id, state: recordRemoving, witness: r.witness}
	err := s.log.UpdateLocal(func(u *storage.LocalUpdate) error {
		return errors.Join(setRecord(u, rec), setTombstone(u, r.rangeID, r.id+1))
	})
	if err != nil {
		return err
	}
	s.logger.Info("removing a replica", "range", r.rangeID, "replica", r.id)
	r.close()
	return s.finishRemoval(rec, r)
}

// finishRemoval clears what a replica left. Until then it stays known, so that no other
// replica takes its keys.
func (s *Store) finishRemoval(rec replicaRecord, r *rep) error {
	st, err := group.LoadState(s.state, rec.rangeID)
	if err != nil {
		return err
	}
	var spans []keys.Span
	if st.Initialized() && !rec.witness {
		spans = group.DataSpans(st.Desc.Start, st.Desc.End)
	}
	if err := group.ClearData(s.state, rec.rangeID, spans...); err != nil {
		return err
	}
	if err := s.state.Flush(); err != nil { // S16: before the log and the record go
		return err
	}
	err = s.log.UpdateLocal(func(u *storage.LocalUpdate) error {
		return errors.Join(u.RemoveLog(rec.rangeID, rec.replica), u.Delete(recordKey(replicaPrefix, rec.rangeID)))
	})
	if err != nil {
		return err
	}
	if r != nil {
		s.mu.Lock()
		if s.replicas[rec.rangeID] == r {
			delete(s.replicas, rec.rangeID)
			s.sorted.Store(nil)
		}
		s.mu.Unlock()
	}
	s.metrics.removals.Inc()
	return nil
}

// callReplica sends a replica message to a node and returns its answer.
func (s *Store) callReplica(ctx context.Context, node keys.NodeID, m raftnet.Method, id keys.ReplicaID, desc *kv.RangeDescriptor) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return s.cfg.Network.Call(ctx, node, raftnet.Data, m, encodeReplicaMsg(id, desc))
}
