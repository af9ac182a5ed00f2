package hlc

import (
	"sync"
	"time"
)

// Clock gives out timestamps that never repeat and never run backwards on this node.
// It is safe for concurrent use.
type Clock struct {
	physical  func() time.Time
	maxOffset time.Duration

	mu   sync.Mutex
	last Timestamp
}

// NewClock returns a clock over the physical time source. maxOffset is the bound
// between the clocks of any two nodes of the cluster (SAFETY S1).
func NewClock(physical func() time.Time, maxOffset time.Duration) *Clock {
	return &Clock{physical: physical, maxOffset: maxOffset}
}

// MaxOffset returns the bound on the offset between any two nodes.
func (c *Clock) MaxOffset() time.Duration { return c.maxOffset }

// PhysicalNow returns the physical source's reading, without the hybrid part.
func (c *Clock) PhysicalNow() time.Time { return c.physical() }

// Now returns a timestamp later than every one this clock returned or was updated with.
func (c *Clock) Now() Timestamp {
	wall := c.physical().UnixNano()
	c.mu.Lock()
	defer c.mu.Unlock()
	if wall > c.last.WallNanos {
		c.last = Timestamp{WallNanos: wall}
	} else {
		c.last = c.last.Next()
	}
	return c.last
}

// Update forwards the clock to another node's clock reading.
// REQUIRES: reading is a clock reading, never a transaction's timestamp (S1).
func (c *Clock) Update(reading Timestamp) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last.Forward(reading)
}
