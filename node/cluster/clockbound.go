package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/hlc"
)

const (
	boundEvery = time.Second
	boundAhead = 2 * time.Second
)

// ClockBound keeps a synced upper bound on the clock readings that this node gives out, so
// that a restart with a clock that went back does not hand out old timestamps (SAFETY S1).
type ClockBound struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// StartClockBound waits until the clock has passed the bound of the last run, which is at
// most two seconds ahead of that run's clock, and then keeps raising it. onFatal is called
// if the bound can't be written.
func StartClockBound(ctx context.Context, local *Local, clock *hlc.Clock, logger *slog.Logger, onFatal func(error)) (*ClockBound, error) {
	bound, err := local.clockBound()
	if err != nil {
		return nil, err
	}
	for warned := false; ; {
		behind := time.Duration(bound.WallNanos - clock.PhysicalNow().UnixNano())
		if behind <= 0 {
			break
		}
		if behind > 2*boundAhead && !warned && logger != nil {
			warned = true
			logger.Error("this node's clock is behind what it was before the restart; set it right, the node waits", "behind", behind)
		}
		t := time.NewTimer(min(behind, time.Second))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("cluster: waiting for the clock to pass %s: %w", bound.Time(), ctx.Err())
		case <-t.C:
		}
	}
	raise := func() error {
		return local.setClockBound(hlc.Timestamp{WallNanos: clock.PhysicalNow().Add(boundAhead).UnixNano()})
	}
	if err := raise(); err != nil {
		return nil, err
	}
	b := &ClockBound{}
	run, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	b.done.Go(func() {
		tick := time.NewTicker(boundEvery)
		defer tick.Stop()
		for {
			select {
			case <-run.Done():
				return
			case <-tick.C:
			}
			if err := raise(); err != nil {
				onFatal(fmt.Errorf("cluster: persisting the clock's bound: %w", err))
				return
			}
		}
	})
	return b, nil
}

// Close stops raising the bound.
func (b *ClockBound) Close() {
	b.cancel()
	b.done.Wait()
}
