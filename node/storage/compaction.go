package storage

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// compactions lets one Pebble store run as many compactions as Pebble itself allows, by its
// backlog, as pebble.ConcurrencyLimitScheduler does. That one looks ten times a second whether one
// more is allowed, for as long as the store is open; this one only while a compaction waits. A
// node has two stores: twenty wake-ups a second while it is idle.
//
// Locks: mu is ordered after Pebble's own. DBForCompaction is called without it, but for
// GetAllowedWithoutPermission, which takes none.
type compactions struct {
	db pebble.DBForCompaction // set by Register, before any other call

	mu       sync.Mutex
	granted  *sync.Cond // granting has become false
	running  int
	refused  uint64 // calls of TrySchedule that were refused
	granting bool
	closed   bool
	retry    *time.Timer // runs while a compaction waits
}

// retryEvery is how often a waiting compaction is looked at: what is allowed also grows with
// flushes, which a scheduler does not see.
const retryEvery = 100 * time.Millisecond

var (
	_ pebble.CompactionScheduler   = (*compactions)(nil)
	_ pebble.CompactionGrantHandle = (*compactions)(nil)
)

func newCompactions() *compactions {
	c := &compactions{}
	c.granted = sync.NewCond(&c.mu)
	return c
}

// Register implements pebble.CompactionScheduler.
func (c *compactions) Register(_ int, db pebble.DBForCompaction) { c.db = db }

// Unregister implements pebble.CompactionScheduler: when it returns, nothing is granted any more.
func (c *compactions) Unregister() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.retry != nil {
		c.retry.Stop()
	}
	for c.granting {
		c.granted.Wait()
	}
}

// TrySchedule implements pebble.CompactionScheduler. After a refusal Pebble remembers that a
// compaction waits, and asks no more.
func (c *compactions) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false, nil
	}
	if c.running < c.db.GetAllowedWithoutPermission() {
		c.running++
		return true, c
	}
	c.refused++
	c.retryLocked(retryEvery)
	return false, nil
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler. Pebble holds its locks.
func (c *compactions) UpdateGetAllowedWithoutPermission() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retry != nil && !c.closed {
		c.retryLocked(0)
	}
}

func (c *compactions) retryLocked(after time.Duration) {
	if c.retry == nil {
		c.retry = time.AfterFunc(after, c.grant)
		return
	}
	c.retry.Reset(after)
}

// Started implements pebble.CompactionGrantHandle.
func (c *compactions) Started() {}

// MeasureCPU implements pebble.CompactionGrantHandle.
func (c *compactions) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats implements pebble.CompactionGrantHandle.
func (c *compactions) CumulativeStats(pebble.CompactionGrantHandleStats) {}

// Done implements pebble.CompactionGrantHandle: a compaction has ended, another one may run.
func (c *compactions) Done() {
	c.mu.Lock()
	c.running--
	c.mu.Unlock()
	c.grant()
}

// grant starts waiting compactions, as many as are allowed.
func (c *compactions) grant() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.granting && !c.closed {
		c.granted.Wait()
	}
	if c.closed {
		return
	}
	c.granting = true
	refused := c.refused
	waiting := true
	for waiting && !c.closed && c.running < c.db.GetAllowedWithoutPermission() {
		c.running++ // before the compaction can be done
		c.mu.Unlock()
		if waiting, _ = c.db.GetWaitingCompaction(); waiting {
			waiting = c.db.Schedule(c)
		}
		c.mu.Lock()
		if !waiting {
			c.running--
		}
	}
	switch {
	case c.closed:
	case waiting || refused != c.refused:
		c.retryLocked(retryEvery)
	case c.retry != nil:
		c.retry.Stop()
		c.retry = nil
	}
	c.granting = false
	c.granted.Broadcast()
}
