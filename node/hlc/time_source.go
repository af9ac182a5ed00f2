package hlc

import "time"

// Reading is one look at the clocks by which support is counted (SAFETY S4), each in
// nanoseconds from an arbitrary start: CLOCK_MONOTONIC, which stands still while the
// machine is suspended; CLOCK_BOOTTIME, which does not; and the wall clock.
type Reading struct {
	Mono, Boot, Wall int64
}

// Elapsed returns the longest and the shortest time that, by the three clocks, has
// passed since the earlier reading s.
func (r Reading) Elapsed(s Reading) (longest, shortest time.Duration) {
	a, b, c := r.Mono-s.Mono, r.Boot-s.Boot, r.Wall-s.Wall
	return time.Duration(max(a, b, c)), time.Duration(min(a, b, c))
}

// TimeSource reads the three clocks. It is safe for concurrent use.
type TimeSource interface {
	Read() Reading
}

// goTime reads package time only; within a testing/synctest bubble it is virtual.
type goTime struct{ start time.Time }

// GoTime returns a TimeSource over package time. It has no view of CLOCK_BOOTTIME and is
// meant for tests and simulation.
func GoTime() TimeSource { return goTime{time.Now()} }

func (g goTime) Read() Reading {
	now := time.Now()
	m := int64(now.Sub(g.start))
	return Reading{Mono: m, Boot: m, Wall: now.UnixNano()}
}
