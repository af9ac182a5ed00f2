package catalog

import (
	"sync/atomic"
	"time"

	"github.com/atolldb/atoll/node/keys"
)

var lastRowTick atomic.Int64

// NewRowID returns a value for the hidden rowid column: unique in the cluster, positive, and
// roughly ascending in time. 48 bits of 10-microsecond ticks (89 years) over 15 bits of node
// ID. It REQUIRES that a node restarts in no less than the time by which its clock is ahead
// of its previous life; the executor inserts with the condition that the key is absent, so
// that a collision is an error and never an overwritten row.
func NewRowID(node keys.NodeID) int64 {
	now := (time.Now().UnixMicro() - 1735689600_000_000) / 10 // since 2025-01-01
	for {
		last := lastRowTick.Load()
		next := max(now, last+1)
		if lastRowTick.CompareAndSwap(last, next) {
			return (next&(1<<48-1))<<15 | int64(node)&(1<<15-1)
		}
	}
}
