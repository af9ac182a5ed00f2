package dist

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	local, remote, retries, lookups, pieces, ambiguous, unavailable, expired prometheus.Counter
}

func (m *metrics) init(reg prometheus.Registerer, cache *rangeCache) {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "atoll_dist_" + name, Help: help})
		if reg != nil {
			reg.MustRegister(c)
		}
		return c
	}
	m.local = counter("local_batches_total", "Batches sent to replicas of this node.")
	m.remote = counter("remote_batches_total", "Batches sent to other nodes.")
	m.retries = counter("retries_total", "Tries that found no leaseholder or lost their connection.")
	m.lookups = counter("meta_lookups_total", "Reads of the meta range.")
	m.pieces = counter("split_batches_total", "Batches that spanned ranges.")
	m.ambiguous = counter("ambiguous_total", "Writes whose outcome stayed unknown.")
	m.expired = counter("expired_commands_total", "Writes that got a new ID because the range had forgotten commands as old as theirs.")
	m.unavailable = counter("unavailable_total", "Batches given up because no leaseholder answered in time.")
	if reg != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "atoll_dist_cached_ranges", Help: "Ranges in the cache.",
		}, func() float64 { return float64(cache.len()) }))
	}
}
