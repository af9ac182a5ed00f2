package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// Drain gives every lease away and returns when none is left, or ctx ends. Leases that come
// back by election are given away as long as the node drains.
func (s *Store) Drain(ctx context.Context) error {
	if !s.draining.Swap(true) {
		s.recordNode("node %d gives its leases away and takes none", s.cfg.Node)
	}
	for {
		s.shedLeases(ctx)
		left := s.leases()
		if left == 0 {
			return nil
		}
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("store: %d leases are left on node %d: no other live voter took them: %w", left, s.cfg.Node, ctx.Err())
		case <-s.ctx.Done():
			t.Stop()
			return errClosed
		}
	}
}

// Undrain lets the node keep leases again.
func (s *Store) Undrain() {
	if s.draining.Swap(false) {
		s.recordNode("node %d takes leases again", s.cfg.Node)
	}
}

// leases counts the leases held here that another voter could hold.
func (s *Store) leases() int {
	n := 0
	for _, r := range s.all() {
		if _, ok := r.leads(); ok {
			n++
		}
	}
	return n
}

// shedLeases tries once to hand every lease away.
func (s *Store) shedLeases(ctx context.Context) {
	for _, r := range s.all() {
		if s.ctx.Err() != nil || ctx.Err() != nil {
			return
		}
		if _, ok := r.leads(); !ok {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		if err := s.moveLease(ctx, r); err != nil {
			s.logger.Debug("lease stays", "range", r.rangeID, "err", err)
		}
		cancel()
	}
}

// Decommission moves every replica off a node, one for one inside its zone, and then marks
// the node decommissioned for good (S18). A dead node is marked at once; its replicas are
// replaced by the ranges' leaseholders. It returns when no range has a replica there.
func (s *Store) Decommission(ctx context.Context, node keys.NodeID, dead bool, progress func(left int)) error {
	state := cluster.Decommissioning
	if dead {
		if s.cfg.Support.Live(node) {
			return fmt.Errorf("store: node %d is alive: stop it, or decommission it without --dead", node)
		}
		state = cluster.Decommissioned
	}
	if n, ok := s.cfg.Directory.Get(node); !ok {
		return fmt.Errorf("store: there is no node %d", node)
	} else if n.State != cluster.Decommissioned {
		// That it is decommissioned already may not have come here yet.
		if err := s.cfg.Directory.SetState(ctx, &s.sender, node, state); err != nil && !errors.Is(err, cluster.ErrDecommissioned) {
			return err
		}
	}
	if dead {
		if err := s.confirm(ctx, node); err != nil {
			return err
		}
	}
	for {
		left, err := s.replicasOn(ctx, node)
		if err == nil {
			if progress != nil {
				progress(left)
			}
			if left == 0 {
				break
			}
		}
		t := time.NewTimer(s.cfg.Interval)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("store: %d replicas are left on node %d (%v); its zone needs another live node that has no replica of them: %w",
				left, node, err, ctx.Err())
		}
	}
	if dead {
		return nil
	}
	if err := s.cfg.Directory.SetState(ctx, &s.sender, node, cluster.Decommissioned); err != nil {
		return err
	}
	return s.confirm(ctx, node)
}

// confirm waits until most nodes know durably what a node's state is now.
func (s *Store) confirm(ctx context.Context, node keys.NodeID) error {
	return s.cfg.Directory.Confirm(ctx, s.cfg.Network, s.cfg.Node, node)
}

// replicasOn counts the ranges with a replica on a node, as meta knows them.
func (s *Store) replicasOn(ctx context.Context, node keys.NodeID) (int, error) {
	n := 0
	span := keys.Span{Key: keys.MetaMin, EndKey: keys.MetaMax}
	for {
		resp, err := sendOne[*kv.ScanResponse](ctx, &s.sender, &kv.ScanRequest{Span: span, MaxKeys: 1000})
		if err != nil {
			return 0, err
		}
		for _, row := range resp.Rows {
			d, err := kv.DecodeRangeDescriptor(row.Value)
			if err != nil {
				return 0, err
			}
			if _, ok := d.Replica(node); ok {
				n++
			}
		}
		if resp.ResumeSpan == nil {
			return n, nil
		}
		span = *resp.ResumeSpan
	}
}

// checkDisk switches the reserve on and off: below it, writes that need space are refused
// and leases are given away; garbage collection, truncation and deletes go on.
func (s *Store) checkDisk() {
	free, err := s.state.FreeBytes()
	if err != nil {
		return
	}
	s.free.Store(free)
	full := s.full.Load()
	switch {
	case !full && free < s.cfg.ReserveBytes:
		s.full.Store(true)
		s.recordNode("node %d refuses writes and gives its leases away: its disk has %d bytes left, and %d are kept in reserve", s.cfg.Node, free, s.cfg.ReserveBytes)
		s.logger.Error("the disk is nearly full: new writes are refused here and leases given away; free space or enlarge the volume",
			"free_bytes", free, "reserve_bytes", s.cfg.ReserveBytes)
	case full && free > s.cfg.ReserveBytes+s.cfg.ReserveBytes/8:
		s.full.Store(false)
		s.recordNode("node %d takes writes again: its disk has %d bytes left", s.cfg.Node, free)
		s.logger.Info("the disk has space again", "free_bytes", free)
	}
}

// admit refuses batches that need disk space while the reserve is touched.
func (s *Store) admit(ba *kv.BatchRequest) error {
	if !s.full.Load() {
		return nil
	}
	for _, req := range ba.Requests {
		grows := false
		switch r := req.(type) {
		case *kv.PutRequest:
			grows = !r.Delete
		case *kv.IncrementRequest:
			grows = true
		}
		if grows {
			return &kv.DiskFullError{Node: s.cfg.Node, FreeBytes: s.free.Load(), MinBytes: s.cfg.ReserveBytes}
		}
	}
	return nil
}
