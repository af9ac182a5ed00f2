package hlc

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClockIsUniqueAndMonotonic(t *testing.T) {
	now := time.Unix(100, 0)
	c := NewClock(func() time.Time { return now }, 250*time.Millisecond)
	a := c.Now()
	b := c.Now()
	require.True(t, a.Less(b))
	now = time.Unix(50, 0) // the wall clock jumps back
	require.True(t, b.Less(c.Now()))
	c.Update(Timestamp{WallNanos: 200e9})
	require.Equal(t, Timestamp{WallNanos: 200e9, Logical: 1}, c.Now())
}

func TestUpdateCheckedRefusesAWildClock(t *testing.T) {
	c := NewClock(func() time.Time { return time.Unix(100, 0) }, 250*time.Millisecond)
	require.NoError(t, c.UpdateChecked(Timestamp{WallNanos: 100e9 + 250e6}))
	require.ErrorContains(t, c.UpdateChecked(Timestamp{WallNanos: 100e9 + 251e6}), "bound is 250ms")
	require.True(t, c.Now().Less(Timestamp{WallNanos: 100e9 + 250e6 + 1}))
}

// A clock that restarts, even with its wall clock set back, never repeats a timestamp.
func TestRestartStartsAboveEveryTimestampUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stored Timestamp
		var mu sync.Mutex
		persist := func(ts Timestamp) error {
			time.Sleep(3 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			stored = ts
			return nil
		}
		c := NewClock(time.Now, 250*time.Millisecond)
		require.NoError(t, c.EnablePersistence(Persistence{Persist: persist}))
		var last Timestamp
		for range 500 {
			ts := c.Now()
			require.True(t, last.Less(ts))
			last = ts
			mu.Lock()
			require.True(t, ts.Less(stored), "%s was used before a bound above it was persisted (%s)", ts, stored)
			mu.Unlock()
			time.Sleep(17 * time.Millisecond)
		}
		c.Update(last.Add(10 * time.Second)) // another node's reading
		ts := c.Now()
		mu.Lock()
		require.True(t, ts.Less(stored))
		start := stored
		mu.Unlock()

		back := NewClock(func() time.Time { return time.Now().Add(-time.Hour) }, 250*time.Millisecond)
		require.NoError(t, back.EnablePersistence(Persistence{Start: start, Persist: persist}))
		require.True(t, ts.Less(back.Now()))
		require.NoError(t, c.WaitPast(context.Background(), start))
		require.Less(t, start.WallNanos, time.Now().UnixNano())
	})
}

func TestPersistErrorStopsTheClock(t *testing.T) {
	now := time.Unix(100, 0)
	fail := false
	var told error
	c := NewClock(func() time.Time { return now }, 0)
	require.NoError(t, c.EnablePersistence(Persistence{
		Persist: func(Timestamp) error {
			if fail {
				return errors.New("disk gone")
			}
			return nil
		},
		OnError: func(err error) { told = err },
	}))
	a := c.Now()
	fail = true
	now = time.Unix(200, 0)
	b := c.Now()
	require.ErrorContains(t, told, "disk gone")
	require.True(t, a.Less(b))
	require.Equal(t, a.WallNanos, b.WallNanos)
	require.Error(t, c.EnablePersistence(Persistence{}))
}
