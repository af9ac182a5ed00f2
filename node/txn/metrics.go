package txn

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	commits                                       *prometheus.CounterVec
	rollbacks, restarts, refreshes, refreshFailed prometheus.Counter
	flushes, recoveries, ambiguous, heartbeats    prometheus.Counter
	commitWaits, droppedCleanups                  prometheus.Counter
	readOnly, onePhase, parallel, explicit        prometheus.Counter
}

func (m *metrics) init(reg prometheus.Registerer) {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "atoll_txn_" + name, Help: help})
		if reg != nil {
			reg.MustRegister(c)
		}
		return c
	}
	m.commits = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "atoll_txn_commits_total", Help: "Committed transactions by the way they took.",
	}, []string{"way"})
	if reg != nil {
		reg.MustRegister(m.commits)
	}
	m.readOnly = m.commits.WithLabelValues("read_only")
	m.onePhase = m.commits.WithLabelValues("one_phase")
	m.parallel = m.commits.WithLabelValues("parallel")
	m.explicit = m.commits.WithLabelValues("explicit")
	m.rollbacks = counter("rollbacks_total", "Transactions rolled back.")
	m.restarts = counter("restarts_total", "Restarts of transactions inside the server.")
	m.refreshes = counter("refreshes_total", "Moves of a read timestamp that sent refreshes.")
	m.refreshFailed = counter("refresh_failures_total", "Refreshes that met a newer version.")
	m.flushes = counter("buffer_flushes_total", "Write buffers that went out as intents before the commit.")
	m.recoveries = counter("recoveries_total", "Parallel commits whose outcome the coordinator had to find.")
	m.ambiguous = counter("ambiguous_total", "Commits whose outcome stayed unknown.")
	m.heartbeats = counter("heartbeats_total", "Heartbeats of transaction records.")
	m.commitWaits = counter("commit_waits_total", "Commits that waited for the clock.")
	m.droppedCleanups = counter("dropped_cleanups_total", "Background resolutions given up; readers resolve what is left.")
}
