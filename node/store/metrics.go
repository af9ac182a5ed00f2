package store

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	reg prometheus.Registerer
	all []prometheus.Collector

	splits, removals, changes, transfers, repairs, metaWrites, truncations, flushes, failures prometheus.Counter
	collected, pileups, orphans, mismatches                                                   prometheus.Counter
	comparisons, digestBytes, quarantines, loadSplits, hotSpots, forcedTails, recovered       prometheus.Counter
	merges, mergesBegun, mergesAbandoned                                                      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Store) (*metrics, error) {
	m := &metrics{reg: reg}
	c := func(name, help string) prometheus.Counter {
		k := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "atoll", Subsystem: "store", Name: name, Help: help})
		m.all = append(m.all, k)
		return k
	}
	g := func(name, help string, f func() float64) {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "atoll", Subsystem: "store", Name: name, Help: help}, f))
	}
	m.splits = c("splits_total", "Splits applied on this node.")
	m.merges = c("merges_total", "Merges of two ranges applied on this node.")
	m.mergesBegun = c("merges_begun_total", "Merges that this node began as leaseholder of both ranges.")
	m.mergesAbandoned = c("merges_abandoned_total", "Merges that were begun and given up: the right side serves again.")
	m.removals = c("replica_removals_total", "Replicas removed from this node.")
	m.changes = c("membership_changes_total", "Membership changes made by this node as leaseholder.")
	m.transfers = c("lease_transfers_total", "Leases that this node handed over.")
	m.repairs = c("repair_steps_total", "Replica changes decided by the repair queue.")
	m.metaWrites = c("meta_writes_total", "Meta records written.")
	m.truncations = c("log_truncations_total", "Looks at a raft log that was long enough to truncate.")
	m.flushes = c("log_flushes_total", "State flushes forced so that raft logs can be truncated.")
	m.failures = c("queue_failures_total", "Queue steps that failed and are tried again.")
	m.collected = c("gc_keys_total", "Keys of which garbage was collected.")
	m.pileups = c("gc_pileup_keys_total", "Keys of which garbage was collected early because it piled up.")
	m.orphans = c("orphan_intents_total", "Old intents that were read so that their transaction is decided.")
	m.mismatches = c("digest_mismatches_total", "Replicas found to differ from a majority of their range, and ranges without one.")
	m.comparisons = c("digest_comparisons_total", "Comparisons of a range's replicas.")
	m.digestBytes = c("digest_read_bytes_total", "Bytes read for digests.")
	m.quarantines = c("quarantines_total", "Replicas quarantined by this node as leaseholder.")
	m.loadSplits = c("load_splits_total", "Ranges that this node split by load.")
	m.hotSpots = c("hot_spots_total", "Times that a range's load could not be divided by a split.")
	m.forcedTails = c("witness_log_cuts_total", "Times that a witness of this node dropped entries of its log which it should have kept, for want of room.")
	m.recovered = c("recovered_ranges_total", "Ranges that an operator recovered on this node after the loss of their quorums.")
	bytes := func(name, help string, p *pacer) {
		m.all = append(m.all, prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "atoll", Subsystem: "store", Name: name, Help: help},
			func() float64 { return float64(p.total.Load()) }))
	}
	bytes("snapshot_sent_bytes_total", "Bytes of snapshots sent.", &s.out)
	bytes("snapshot_received_bytes_total", "Bytes of snapshots received.", &s.in)
	g("range_load_cores", "What the ranges cost this node for other nodes' clients, in cores: evaluation as measured, the rest by the rates of batches and commands.", s.cores)
	count := func(f func(*rep) int32) func() float64 {
		return func() float64 {
			n := int32(0)
			for _, r := range s.all() {
				if _, ok := r.leads(); ok {
					n += f(r)
				}
			}
			return float64(n)
		}
	}
	g("quarantined_replicas", "Quarantined replicas of the ranges that this node leads; they are being replaced, or can't be.",
		count(func(r *rep) int32 { return r.untrusted.Load() }))
	g("undecided_ranges", "Ranges led by this node whose replicas differ without a majority that agrees.", count(func(r *rep) int32 {
		if r.undecided.Load() {
			return 1
		}
		return 0
	}))
	g("at_risk_ranges", "Ranges led by this node whose newest writes one failure domain has alone, because a witness's log had to be cut.", count(func(r *rep) int32 {
		if r.atRisk.Load() {
			return 1
		}
		return 0
	}))
	g("stuck_ranges", "Ranges led by this node that lack something which can't be had now, such as a voter in another zone.",
		func() float64 { return float64(s.stuck.Load()) })
	g("replicas", "Replicas on this node.", func() float64 { return float64(len(s.all())) })
	g("leases", "Leases held by this node.", func() float64 { return float64(s.leases()) })
	g("leaderless_ranges", "Replicas on this node that know no leader.", func() float64 {
		n := 0
		for _, r := range s.all() {
			if r.trans.Leader() == 0 {
				n++
			}
		}
		return float64(n)
	})
	g("follower_read_staleness_seconds", "How far behind this node's clock its replicas without the lease can answer at worst, of ranges whose policy says follower_reads.",
		func() float64 { return s.staleness(true).Seconds() })
	g("closed_timestamp_lag_seconds", "How far behind this node's clock its replicas without the lease can answer at worst, of all other ranges.",
		func() float64 { return s.staleness(false).Seconds() })
	g("frozen_ranges", "Replicas on this node whose range waits to be merged into its left neighbour.", func() float64 {
		n := 0
		for _, r := range s.all() {
			if r.frozen.Load() != nil && !r.mergedAway.Load() {
				n++
			}
		}
		return float64(n)
	})
	g("disk_full", "1 while the disk's reserve is touched.", func() float64 {
		if s.full.Load() {
			return 1
		}
		return 0
	})
	if reg == nil {
		return m, nil
	}
	for _, k := range m.all {
		if err := reg.Register(k); err != nil {
			m.close()
			return nil, fmt.Errorf("store: registering metrics: %w", errors.Join(err))
		}
	}
	return m, nil
}

func (m *metrics) close() {
	if m.reg == nil {
		return
	}
	for _, k := range m.all {
		m.reg.Unregister(k)
	}
}
