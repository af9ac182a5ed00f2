package storage

import (
	"github.com/prometheus/client_golang/prometheus"
)

// collector exports what Pebble's Metrics returns at the time of a scrape.
type collector struct {
	e     *engine
	gauge map[string]*prometheus.Desc
}

func newCollector(e *engine) *collector {
	c := &collector{e: e, gauge: map[string]*prometheus.Desc{}}
	for name, help := range map[string]string{
		"disk_bytes":            "Bytes of all files, obsolete ones included.",
		"free_bytes":            "Bytes left on the disk.",
		"memtable_bytes":        "Bytes of memtables.",
		"wal_written_bytes":     "Bytes written to the write-ahead log since the start.",
		"read_amplification":    "Tables a point read may have to look at.",
		"compaction_debt_bytes": "Bytes that compactions still have to rewrite.",
		"flushes_total":         "Flushes since the start.",
		"compactions_total":     "Compactions since the start.",
		"cache_hits_total":      "Block cache hits since the start.",
		"cache_misses_total":    "Block cache misses since the start.",
	} {
		c.gauge[name] = prometheus.NewDesc("atoll_storage_"+name, help, nil, prometheus.Labels{"engine": e.kind})
	}
	return c
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.gauge {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	if c.e.begin() != nil {
		return
	}
	defer c.e.end()
	m := c.e.db.Metrics()
	put := func(name string, t prometheus.ValueType, v float64) {
		ch <- prometheus.MustNewConstMetric(c.gauge[name], t, v)
	}
	put("disk_bytes", prometheus.GaugeValue, float64(m.DiskSpaceUsage()))
	if free, err := c.e.FreeBytes(); err == nil {
		put("free_bytes", prometheus.GaugeValue, float64(free))
	}
	put("memtable_bytes", prometheus.GaugeValue, float64(m.MemTable.Size))
	put("wal_written_bytes", prometheus.CounterValue, float64(m.WAL.BytesWritten))
	put("read_amplification", prometheus.GaugeValue, float64(m.ReadAmp()))
	put("compaction_debt_bytes", prometheus.GaugeValue, float64(m.Compact.EstimatedDebt))
	put("flushes_total", prometheus.CounterValue, float64(m.Flush.Count))
	put("compactions_total", prometheus.CounterValue, float64(m.Compact.Count))
	put("cache_hits_total", prometheus.CounterValue, float64(m.BlockCache.Hits))
	put("cache_misses_total", prometheus.CounterValue, float64(m.BlockCache.Misses))
}
