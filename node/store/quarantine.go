package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/storage"
)

// A replica that can't be trusted is marked so in the range's descriptor: every replica learns it
// from the log, the next leaseholder knows it, and meta and atoll.ranges show it. It serves nothing
// and leads nobody from then on, and repair replaces it as it does one of a dead node.

// complainAfter is for how long a quarantined replica may wait for its replacement without a
// word, and how often it is mentioned then.
const complainAfter = time.Minute

// quarantineOf returns what a descriptor says of this replica.
func (r *rep) quarantineOf(d *kv.RangeDescriptor) kv.Quarantine {
	if rd, ok := d.Replica(r.s.cfg.Node); ok && rd.Replica == r.id {
		return rd.Quarantine
	}
	return kv.Trusted
}

func (r *rep) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// distrust ends all that this replica serves. It may be called again.
func (r *rep) distrust(q kv.Quarantine) {
	first := r.distrusted.CompareAndSwap(false, true)
	if rr := r.replica.Load(); rr != nil {
		rr.OnLeaseLost()
	}
	if q == kv.LostLog {
		r.s.spawn(func() {
			if err := r.s.mute(r.rangeID, r.id); err != nil {
				r.s.logger.Warn("a replica could not be kept from voting", "range", r.rangeID, "replica", r.id, "err", err)
			}
		})
	}
	if !first {
		return
	}
	r.s.logger.Error("a replica of this node is quarantined: it serves nothing and waits to be replaced. Check this node's disk and memory",
		"range", r.rangeID, "replica", r.id, "reason", q.String())
	r.s.spawn(func() { r.s.handOver(r) })
}

// handOver gives the lease of a quarantined replica away at once, if it has it.
func (s *Store) handOver(r *rep) {
	if _, ok := r.group.Load().Leading(); !ok {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	if err := s.moveLease(ctx, r); err != nil {
		s.logger.Warn("a quarantined replica leads its range and nobody takes it over; nothing is served until a trusted voter is back",
			"range", r.rangeID, "replica", r.id, "err", err)
	}
}

// sendSnapshot sends the replica's state to a follower, unless it is not to be trusted.
func (r *rep) sendSnapshot(ctx context.Context, o group.Outgoing) (group.Installed, error) {
	if r.distrusted.Load() {
		return group.Installed{}, fmt.Errorf("store: replica %d of range %d is quarantined and sends no snapshots", r.id, r.rangeID)
	}
	if err := r.mayStartLate(o); err != nil {
		return group.Installed{}, err
	}
	return r.s.snapshot.Send(ctx, o)
}

// mute makes this node's replica neither vote nor campaign, over restarts too (S18).
func (s *Store) mute(rangeID keys.RangeID, id keys.ReplicaID) error {
	s.structure.Lock()
	defer s.structure.Unlock()
	r := s.get(rangeID)
	if r == nil || r.id != id || r.isClosed() { // a removal may be under way
		return nil
	}
	r.trans.Mute()
	rec := replicaRecord{rangeID: rangeID, replica: id, state: recordMute, witness: r.witness}
	return s.log.UpdateLocal(func(u *storage.LocalUpdate) error { return setRecord(u, rec) })
}

// onQuarantine is told by a range's leader that this node's replica has lost entries which it had
// acknowledged. The log can't say so: the leader sends it no entries any more.
func (s *Store) onQuarantine(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	id, desc, err := decodeReplicaMsg(payload)
	if err != nil {
		return nil, err
	}
	if err := s.mute(desc.RangeID, id); err != nil {
		return nil, err
	}
	if r := s.get(desc.RangeID); r != nil && r.id == id {
		r.distrust(kv.LostLog)
	}
	return nil, nil
}

// QuarantineMessage is what the leaseholder logs about a replica that it does not trust any more.
const QuarantineMessage = "quarantined a replica; it is replaced as soon as a quorum of the others is reachable"

// quarantine marks a replica of a range that this node leads. The mark is part of the descriptor.
func (s *Store) quarantine(ctx context.Context, r *rep, id keys.ReplicaID, q kv.Quarantine) error {
	r.admin.Lock()
	defer r.admin.Unlock()
	if err := s.followConfig(ctx, r); err != nil {
		return proposeError(err)
	}
	st := r.group.Load().State()
	d := st.Desc.Clone()
	i := slices.IndexFunc(d.Replicas, func(rd kv.ReplicaDescriptor) bool { return rd.Replica == id })
	if i < 0 || d.Replicas[i].Quarantine >= q {
		return nil // it is gone, or marked already
	}
	term, ok := r.leads()
	if !ok {
		return fmt.Errorf("%w: the lease of range %d is gone", replica.ErrRejected, r.rangeID)
	}
	d.Replicas[i].Quarantine = q
	d.Generation++
	cmd := s.command(term)
	cmd.ChangeDesc = &d
	if _, err := r.Propose(ctx, cmd); err != nil {
		return proposeError(err)
	}
	s.metrics.quarantines.Inc()
	s.logger.Error(QuarantineMessage, "range", r.rangeID,
		"replica", id, "peer", d.Replicas[i].Node, "reason", q.String())
	return nil
}

// quarantineLost deals with followers that lost entries they had acknowledged (S18): they must not
// vote from the next moment on, and are replaced.
func (s *Store) quarantineLost(ctx context.Context, r *rep) error {
	d := r.desc().Clone()
	lost := r.group.Load().LostPeers()
	var errs []error
	for _, rd := range d.Replicas {
		seen := slices.Contains(lost, raftnet.ServerID(rd.Node, rd.Replica))
		if !seen && rd.Quarantine != kv.LostLog {
			continue
		}
		if s.cfg.Support.Live(rd.Node) {
			_, err := s.callReplica(ctx, rd.Node, raftnet.MethodReplicaQuarantine, rd.Replica, &d)
			errs = append(errs, err)
		}
		if rd.Quarantine != kv.LostLog {
			errs = append(errs, s.quarantine(ctx, r, rd.Replica, kv.LostLog))
		}
	}
	return errors.Join(errs...)
}

// watchQuarantine decides what a range's untrusted replicas need. It runs in the maintenance
// goroutine of the leaseholder.
func (s *Store) watchQuarantine(r *rep, d *kv.RangeDescriptor, now time.Time) []job {
	var bad []kv.ReplicaDescriptor
	lost := len(r.group.Load().LostPeers()) > 0
	for _, rd := range d.Replicas {
		if rd.Quarantine != kv.Trusted {
			bad = append(bad, rd)
			lost = lost || rd.Quarantine == kv.LostLog
		}
	}
	r.untrusted.Store(int32(len(bad)))
	switch {
	case len(bad) == 0:
		r.q.complained = now
	case now.Sub(r.q.complained) > complainAfter:
		r.q.complained = now
		for _, rd := range bad {
			s.logger.Warn("a quarantined replica has not been replaced yet. Its range needs a quorum of its other voters to be reachable, and its node or another one of its zone to be live: bring them back, or add a node in that zone",
				"range", d.RangeID, "replica", rd.Replica, "peer", rd.Node, "reason", rd.Quarantine.String(), "peer_live", s.cfg.Support.Live(rd.Node))
		}
	}
	if !lost || now.Sub(r.q.lastQuarantine) < repairEvery {
		return nil
	}
	r.q.lastQuarantine = now
	return []job{{"quarantine", s.quarantineLost}}
}
