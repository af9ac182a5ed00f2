package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/sim/check"
	"github.com/atolldb/atoll/node/txn"
)

// wholeLimit is how long a cluster without faults may take until it is whole again.
const wholeLimit = 90 * time.Second

// policyLimit is the same where policies have changed: replicas move one after another, and a lease
// goes where it is preferred only once that node has answered for half a minute.
const policyLimit = 4 * time.Minute

// untilWhole waits until every node runs and every range is replicated in full: one lease,
// and all replicas at the same log position twice in a row.
func (s *sim) untilWhole() error {
	var before map[keys.RangeID]uint64
	var why error
	limit := wholeLimit
	if s.opts.Focus.placed() {
		limit = policyLimit
	}
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var now map[keys.RangeID]uint64
		if now, why = s.positions(); why == nil {
			if before != nil && mapsEqual(before, now) {
				return nil
			}
			why = errors.New("log positions still move")
		}
		before = now
	}
	for _, n := range s.nodes {
		if p := n.open(); p != nil {
			for _, r := range p.host.Store.Ranges() {
				s.trace.add("n%d: %s leader n%d lease %t term %d applied %d", n.num(), &r.Desc, r.Leader, r.Lease, r.Term, r.Applied)
				s.trace.add("n%d: %s", n.num(), p.host.Router.Describe(r.Desc.RangeID))
			}
		}
	}
	return fmt.Errorf("%s after the last fault the cluster is not whole: %w", limit, why)
}

func mapsEqual(a, b map[keys.RangeID]uint64) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// positions returns the log position of every range, if all its replicas agree.
func (s *sim) positions() (map[keys.RangeID]uint64, error) {
	descs, holders := map[keys.RangeID]kv.RangeDescriptor{}, map[keys.RangeID]keys.NodeID{}
	applied := map[keys.RangeID]map[keys.NodeID]uint64{}
	for _, n := range s.nodes {
		if n.retired.Load() {
			continue
		}
		p := n.open()
		if p == nil {
			return nil, fmt.Errorf("n%d is not up", n.num())
		}
		for _, r := range p.host.Store.Ranges() {
			id := r.Desc.RangeID
			if !r.Initialized {
				continue // made for a change that did not happen, or waiting for its data
			}
			if applied[id] == nil {
				applied[id] = map[keys.NodeID]uint64{}
			}
			applied[id][n.num()] = r.Applied
			if d, ok := descs[id]; !ok || d.Generation < r.Desc.Generation {
				descs[id] = r.Desc
			}
			if r.Lease {
				holders[id] = n.num()
			}
		}
	}
	out := map[keys.RangeID]uint64{}
	for id, d := range descs {
		if holders[id] == 0 {
			return nil, fmt.Errorf("%s has no leaseholder", &d)
		}
		if err := s.inPlace(&d, holders[id]); err != nil {
			return nil, err
		}
		if len(applied[id]) != len(d.Replicas) {
			return nil, fmt.Errorf("%s has replicas on %v", &d, applied[id])
		}
		for _, r := range d.Replicas {
			if r.Quarantine != kv.Trusted {
				return nil, fmt.Errorf("%s: replica %d is not trusted", &d, r.Replica)
			}
			a, ok := applied[id][r.Node]
			if !ok || a != applied[id][holders[id]] {
				return nil, fmt.Errorf("%s: n%d has applied %d, the leaseholder %d", &d, r.Node, a, applied[id][holders[id]])
			}
			out[id] = a
		}
	}
	if s.opts.Focus.placed() {
		if err := s.content(); err != nil {
			return nil, err
		}
	}
	return out, covers(descs)
}

// inPlace checks that a range has the replicas that it should have.
func (s *sim) inPlace(d *kv.RangeDescriptor, holder keys.NodeID) error {
	if s.opts.Focus.placed() {
		return s.obeys(d, holder)
	}
	for _, r := range d.Replicas {
		if r.Type != kv.Voter {
			return fmt.Errorf("%s: replica %d is no voter", d, r.Replica)
		}
	}
	if len(d.Replicas) != s.shape.voters {
		return fmt.Errorf("%s has %d replicas, want %d", d, len(d.Replicas), s.shape.voters)
	}
	return nil
}

// covers checks that the ranges hold every key once.
func covers(descs map[keys.RangeID]kv.RangeDescriptor) error {
	list := make([]kv.RangeDescriptor, 0, len(descs))
	for _, d := range descs {
		list = append(list, d)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Start.Less(list[j].Start) })
	at := keys.MinKey
	for i := range list {
		if !list[i].Start.Equal(at) {
			return fmt.Errorf("the key space has a gap or an overlap at %s: %s", at, &list[i])
		}
		at = list[i].End
	}
	if !at.Equal(keys.MaxKey) {
		return fmt.Errorf("no range holds the keys from %s on", at)
	}
	return nil
}

// compareReplicas checks that all replicas of each range are equal, byte for byte (S23).
// patient: a byte was flipped, and the comparison of replicas may yet find it.
func (s *sim) compareReplicas(patient bool) error {
	type digest struct {
		n   keys.NodeID
		at  uint64
		sum [32]byte
	}
	type kind struct {
		id        keys.RangeID
		structure bool // what a witness has as well (S22)
	}
	seen := map[kind]digest{}
	for _, n := range s.nodes {
		if n.retired.Load() {
			continue
		}
		p := n.open()
		if p == nil {
			return fmt.Errorf("n%d is not up", n.num())
		}
		snap, err := p.host.Engines.State.NewSnapshot()
		if err != nil {
			return err
		}
		for _, r := range p.host.Store.Ranges() {
			if !r.Initialized {
				continue
			}
			st, err := group.LoadState(snap, r.Desc.RangeID)
			if err != nil {
				return errors.Join(err, snap.Close())
			}
			spans := map[bool][]keys.Span{true: group.StructureSpans(&st.Desc), false: group.ReplicatedSpans(&st.Desc)}
			if r.Witness {
				delete(spans, false)
			}
			for structure, of := range spans {
				sum, err := mvcc.Digest(snap, of...)
				if err != nil {
					return errors.Join(err, snap.Close())
				}
				k := kind{r.Desc.RangeID, structure}
				d, ok := seen[k]
				if !ok {
					seen[k] = digest{n.num(), st.Applied.Index, sum}
					continue
				}
				if d.at != st.Applied.Index {
					_ = snap.Close()
					return errMoved
				}
				if d.sum != sum {
					err := fmt.Errorf("replicas of %s differ at index %d: n%d and n%d (structure only: %t)", &st.Desc, d.at, d.n, n.num(), structure)
					if s.members.flipped.Load() && patient {
						return errors.Join(errFlipped, err, snap.Close())
					}
					s.fault("%w", err)
				}
			}
		}
		if err := snap.Close(); err != nil {
			return err
		}
	}
	return nil
}

var errFlipped = errors.New("a byte that was flipped has not been found yet")

var errMoved = errors.New("log positions moved while replicas were compared")

// verify reads everything once the cluster is whole.
func (s *sim) verify() error {
	s.settlePolicies()
	if err := errors.Join(s.undrain(), s.settleMembers()); err != nil {
		return err
	}
	if err := s.untilWhole(); err != nil {
		return err
	}
	for _, n := range s.nodes {
		if n.retired.Load() {
			continue
		}
		if err := s.readAll(n); err != nil {
			return fmt.Errorf("reading everything through n%d: %w", n.num(), err)
		}
	}
	for try := 0; ; try++ {
		err := s.compareReplicas(try < 300)
		if errors.Is(err, errFlipped) {
			if err := s.untilWhole(); err != nil {
				return err
			}
			continue
		}
		if errors.Is(err, errMoved) && try < 300 {
			time.Sleep(300 * time.Millisecond)
			continue
		}
		return err
	}
}

// readAll reads every list, register and account through a node.
func (s *sim) readAll(n *node) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s.hist.mu.Lock()
	lists, regs := sorted(s.hist.used), sorted(s.hist.usedR)
	s.hist.mu.Unlock()
	db := n.open().host.DB
	rec := check.Txn{Client: -n.place, Gateway: int(n.num()), Start: time.Now()}
	ops := make([]check.RegisterOp, len(regs))
	var sum int64
	var rows int
	err := db.Run(ctx, txn.Options{Name: "read all", ReadOnly: true}, func(ctx context.Context, t *txn.Txn) error {
		rec.Ops = rec.Ops[:0]
		for _, k := range lists {
			got, err := t.Get(ctx, listKey(k), txn.ReadOptions{})
			if err != nil {
				return err
			}
			list, err := decodeList(got.Value)
			if err != nil {
				return err
			}
			rec.Ops = append(rec.Ops, check.Op{Key: k, List: list})
		}
		for i, k := range regs {
			ops[i] = check.RegisterOp{Client: -n.place, Key: k, Call: time.Now()}
			got, err := t.Get(ctx, regKey(k), txn.ReadOptions{})
			if err != nil {
				return err
			}
			if got.Exists {
				ops[i].Value = int(binary.BigEndian.Uint64(got.Value))
			}
		}
		var err error
		sum, rows, _, err = total(ctx, t)
		return err
	})
	if err != nil {
		return err
	}
	rec.End = time.Now()
	for i := range ops {
		ops[i].Call, ops[i].Return = rec.Start, rec.End
	}
	s.hist.mu.Lock()
	s.hist.lists = append(s.hist.lists, rec)
	s.hist.regs = append(s.hist.regs, ops...)
	s.hist.mu.Unlock()
	if sum != accounts*perOwner || rows != accounts {
		s.fault("bank: at the end n%d reads %d accounts with %d, want %d with %d", n.num(), rows, sum, accounts, accounts*perOwner)
	}
	return nil
}

func sorted(m map[int]bool) []int {
	out := make([]int, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
