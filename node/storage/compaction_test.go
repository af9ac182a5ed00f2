package storage

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/stretchr/testify/require"
)

// backlog is a Pebble store with compactions to run, as the scheduler sees it.
type backlog struct {
	s *compactions

	allowed atomic.Int64

	mu      sync.Mutex
	todo    int // compactions that could run
	waiting bool
	running int
	looks   int // calls of GetWaitingCompaction
}

func (b *backlog) GetAllowedWithoutPermission() int { return int(b.allowed.Load()) }

func (b *backlog) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.looks++
	b.waiting = b.waiting && b.todo > 0
	return b.waiting, pebble.WaitingCompaction{}
}

func (b *backlog) Schedule(pebble.CompactionGrantHandle) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.waiting || b.todo == 0 {
		return false
	}
	b.todo--
	b.running++
	return true
}

// more adds compactions and asks for them as Pebble does: until the first refusal.
func (b *backlog) more(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.todo += n
	for b.todo > 0 && !b.waiting {
		if ok, _ := b.s.TrySchedule(); !ok {
			b.waiting = true
			return
		}
		b.todo--
		b.running++
	}
}

// now returns how many compactions wait and run, and how often the scheduler has looked.
func (b *backlog) now() (todo, running, looks int) {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.todo, b.running, b.looks
}

func (b *backlog) done() {
	b.mu.Lock()
	b.running--
	b.mu.Unlock()
	b.s.Done()
}

func TestCompactionsRunAsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backlog{s: newCompactions()}
		b.allowed.Store(1)
		b.s.Register(1, b)
		b.more(1)
		b.done()
		time.Sleep(time.Minute)
		_, _, looks := b.now()
		require.Equal(t, 1, looks, "while nothing waits nobody looks")

		runs := func(want int, why string) {
			t.Helper()
			_, running, _ := b.now()
			require.Equal(t, want, running, why)
		}
		b.more(5)
		runs(1, "one is allowed")
		b.allowed.Store(3)
		time.Sleep(retryEvery)
		runs(3, "more are allowed after a flush, of which the scheduler is not told")
		b.done()
		runs(3, "the place of one that is done is taken at once")
		b.allowed.Store(4)
		b.s.UpdateGetAllowedWithoutPermission()
		runs(4, "what is allowed has grown, and Pebble says so")
		for range 4 {
			b.done()
		}
		todo, running, _ := b.now()
		require.Zero(t, todo+running)
		time.Sleep(2 * retryEvery)
		_, _, looks = b.now()
		time.Sleep(time.Minute)
		_, _, later := b.now()
		require.Equal(t, looks, later, "while nothing waits nobody looks")

		b.allowed.Store(1)
		b.more(3)
		b.allowed.Store(2)
		b.s.UpdateGetAllowedWithoutPermission()
		runs(2, "what is allowed has grown, and Pebble says so")
		b.s.Unregister()
		b.done()
		time.Sleep(time.Second)
		todo, _, _ = b.now()
		require.Equal(t, 1, todo, "nothing is granted to a store that is closed")
		ok, _ := b.s.TrySchedule()
		require.False(t, ok)
	})
}
