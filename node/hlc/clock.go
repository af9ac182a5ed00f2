package hlc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Clock gives out timestamps that never repeat and never run backwards on this node,
// also over restarts once EnablePersistence was called. It is safe for concurrent use.
type Clock struct {
	physical  func() time.Time
	maxOffset time.Duration

	mu        sync.Mutex
	last      Timestamp
	bound     Timestamp // persisted; Now stays below it. MaxTimestamp: not in use
	extending bool

	ahead      time.Duration
	persisting chan struct{} // serializes persist. Not a mutex: synctest can't wait for those
	persist    func(Timestamp) error
	onError    func(error)
}

// NewClock returns a clock over the physical time source. maxOffset is the bound
// between the clocks of any two nodes of the cluster (SAFETY S1).
func NewClock(physical func() time.Time, maxOffset time.Duration) *Clock {
	return &Clock{physical: physical, maxOffset: maxOffset, bound: MaxTimestamp, persisting: make(chan struct{}, 1)}
}

// Persistence makes a clock's timestamps unique over restarts (SAFETY S1).
type Persistence struct {
	// Start is the upper bound that an earlier run persisted, zero if there was none.
	Start Timestamp
	// Persist stores an upper bound durably before it returns.
	Persist func(Timestamp) error
	// Ahead is how far ahead of the clock the bound is stored. A node that restarts
	// faster than that waits for the rest (WaitPast). Default 1 s.
	Ahead time.Duration
	// OnError is told of a failed Persist, which is fatal for a node (S15). The clock
	// then stands still below the last bound, and its timestamps stay unique.
	OnError func(error)
}

// EnablePersistence starts the clock above p.Start and persists upper bounds ahead of
// it from then on. Call it before the first timestamp is used.
func (c *Clock) EnablePersistence(p Persistence) error {
	if p.Persist == nil {
		return errors.New("hlc: Persistence.Persist is nil; pass a function that stores the bound durably")
	}
	if p.Ahead == 0 {
		p.Ahead = time.Second
	}
	if p.Ahead < 0 || p.Ahead > time.Minute {
		return fmt.Errorf("hlc: Persistence.Ahead is %v, it must lie in (0, 1m]", p.Ahead)
	}
	c.mu.Lock()
	c.last.Forward(p.Start)
	c.ahead, c.persist, c.onError = p.Ahead, p.Persist, p.OnError
	c.bound = p.Start
	c.mu.Unlock()
	return c.extend()
}

// WaitPast waits until the physical clock has passed a timestamp: every one that an earlier run
// may have used, so that the clock does not run ahead of the others', or that of a snapshot.
func (c *Clock) WaitPast(ctx context.Context, ts Timestamp) error {
	for {
		d := time.Duration(ts.WallNanos - c.physical().UnixNano())
		if d < 0 {
			return nil
		}
		select {
		case <-time.After(min(d+time.Millisecond, time.Second)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// MaxOffset returns the bound on the offset between any two nodes.
func (c *Clock) MaxOffset() time.Duration { return c.maxOffset }

// PhysicalNow returns the physical source's reading, without the hybrid part.
func (c *Clock) PhysicalNow() time.Time { return c.physical() }

// Now returns a timestamp later than every one this clock returned or was updated with.
// It blocks only while a bound has to be persisted that should have been already.
func (c *Clock) Now() Timestamp {
	wall := c.physical().UnixNano()
	for {
		c.mu.Lock()
		next := c.last.Next()
		if wall > c.last.WallNanos {
			next = Timestamp{WallNanos: wall}
		}
		if next.Less(c.bound) {
			c.last = next
			soon := c.persist != nil && !c.extending && c.bound.WallNanos-next.WallNanos < int64(c.ahead/2)
			if soon {
				c.extending = true
			}
			c.mu.Unlock()
			if soon {
				go c.extend()
			}
			return next
		}
		c.mu.Unlock()
		if c.extend() != nil {
			// The node is about to end. Stand still rather than run on.
			c.mu.Lock()
			c.last = c.last.Next()
			next = c.last
			c.mu.Unlock()
			return next
		}
	}
}

// extend persists a bound ahead of the clock unless another call just did.
func (c *Clock) extend() error {
	c.persisting <- struct{}{}
	defer func() { <-c.persisting }()
	c.mu.Lock()
	now := c.last
	now.Forward(Timestamp{WallNanos: c.physical().UnixNano()})
	want := Timestamp{WallNanos: now.WallNanos + int64(c.ahead)}
	enough := c.bound.WallNanos-now.WallNanos > int64(c.ahead/2)
	if enough {
		c.extending = false
	}
	c.mu.Unlock()
	if enough {
		return nil
	}
	err := c.persist(want)
	c.mu.Lock()
	c.extending = false
	if err == nil {
		c.bound.Forward(want)
	}
	c.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("hlc: can't persist the clock's upper bound %s: %w", want, err)
		if c.onError != nil {
			c.onError(err)
		}
	}
	return err
}

// Update forwards the clock to another node's clock reading.
// REQUIRES: reading is a clock reading, never a transaction's timestamp (S1).
func (c *Clock) Update(reading Timestamp) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last.Forward(reading)
}

// UpdateChecked is Update for a reading that comes from another node: one that lies more
// than the maximum offset ahead of the physical clock is refused, so that one wild clock
// does not drag the others along.
func (c *Clock) UpdateChecked(reading Timestamp) error {
	if ahead := reading.WallNanos - c.physical().UnixNano(); ahead > int64(c.maxOffset) {
		return fmt.Errorf("hlc: a clock reading is %v ahead of this node's clock, the bound is %v; check time synchronization", time.Duration(ahead), c.maxOffset)
	}
	c.Update(reading)
	return nil
}
