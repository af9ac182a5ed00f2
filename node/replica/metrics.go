package replica

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are shared by all replicas of a node.
type Metrics struct {
	lockWaits                       prometheus.Counter
	lockWaitTime                    prometheus.Histogram
	pushes                          prometheus.Counter
	deadlocks                       prometheus.Counter
	recoveries                      prometheus.Counter
	onePhase                        prometheus.Counter
	onePhaseRetry                   prometheus.Counter
	resolved                        prometheus.Counter
	ambiguous                       prometheus.Counter
	followerReads, followerRefusals prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*Metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "atoll", Subsystem: "replica", Name: name, Help: help})
	}
	m := &Metrics{
		lockWaits: counter("lock_waits_total", "Requests that waited for a lock or an intent of another transaction."),
		lockWaitTime: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "atoll", Subsystem: "replica",
			Name: "lock_wait_seconds", Help: "How long requests waited for a lock.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9)}),
		pushes:           counter("pushes_total", "Pushes of other transactions that were sent."),
		deadlocks:        counter("deadlocks_total", "Deadlocks broken by failing a transaction."),
		recoveries:       counter("recoveries_total", "Parallel commits decided by a transaction other than their own."),
		onePhase:         counter("one_phase_commits_total", "Transactions that committed in one phase."),
		onePhaseRetry:    counter("one_phase_fallbacks_total", "Commits that could not use one phase although they asked for it."),
		resolved:         counter("intents_resolved_total", "Intents resolved."),
		ambiguous:        counter("ambiguous_commands_total", "Commands whose outcome was unknown to this node."),
		followerReads:    counter("follower_reads_total", "Batches of reads of the past that this node answered without the lease."),
		followerRefusals: counter("follower_read_refusals_total", "Batches of reads of the past that were sent on to the leaseholder: not closed yet, or an intent in the way."),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.lockWaits, m.lockWaitTime, m.pushes, m.deadlocks, m.recoveries,
		m.onePhase, m.onePhaseRetry, m.resolved, m.ambiguous, m.followerReads, m.followerRefusals} {
		errs = append(errs, reg.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("replica: registering metrics: %w", err)
	}
	return m, nil
}
