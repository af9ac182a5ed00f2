package sim

import (
	"sync"
	"time"

	"github.com/atolldb/atoll/node/hlc"
)

// freezeKind says which clocks notice that a machine stood still.
type freezeKind uint8

const (
	// suspended: CLOCK_MONOTONIC stands still, the others go on (a laptop's lid).
	suspended freezeKind = iota
	// migrated: only the wall clock goes on, set right by the hypervisor.
	migrated
	// unnoticed: all three stand still. SAFETY S4 names this as what remains assumed away.
	unnoticed
)

// machine is what a node's clocks run on. It outlives the node's restarts.
type machine struct {
	base time.Time
	rate float64 // by which all its clocks run too fast

	mu            sync.Mutex
	offset        time.Duration // of the wall clock
	frozen        bool
	at            time.Time // when it froze
	lagMono       time.Duration
	lagBoot       time.Duration
	lagWall       time.Duration
	thawed        chan struct{} // closed at the end of the freeze
	frozenEver    bool
	unnoticedEver bool
}

func newMachine(offset time.Duration, rate float64) *machine {
	m := &machine{base: time.Now(), offset: offset, rate: rate, thawed: make(chan struct{})}
	close(m.thawed)
	return m
}

func (m *machine) nowLocked() time.Time {
	if m.frozen {
		return m.at
	}
	return time.Now()
}

// wall is the physical clock.
func (m *machine) wall() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wallLocked()
}

func (m *machine) wallLocked() time.Time {
	now := m.nowLocked()
	drift := time.Duration(float64(now.Sub(m.base)) * m.rate)
	return now.Add(m.offset + drift - m.lagWall)
}

// Read implements hlc.TimeSource.
func (m *machine) Read() hlc.Reading {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.nowLocked().Sub(m.base)
	e += time.Duration(float64(e) * m.rate)
	return hlc.Reading{Mono: int64(e - m.lagMono), Boot: int64(e - m.lagBoot), Wall: m.wallLocked().UnixNano()}
}

// step sets the wall clock, as a time daemon does.
func (m *machine) step(offset time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.offset, m.lagWall = offset, 0
	// The drift so far is what the daemon has corrected, too.
	m.offset -= time.Duration(float64(m.nowLocked().Sub(m.base)) * m.rate)
}

func (m *machine) freeze() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.frozen {
		m.frozen, m.frozenEver, m.at, m.thawed = true, true, time.Now(), make(chan struct{})
	}
}

func (m *machine) thaw(kind freezeKind) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.frozen {
		return
	}
	d := time.Since(m.at)
	m.frozen = false
	switch kind {
	case suspended:
		m.lagMono += d
	case migrated:
		m.lagMono += d
		m.lagBoot += d
	case unnoticed:
		m.lagMono += d
		m.lagBoot += d
		m.lagWall += d
		m.unnoticedEver = true
	}
	close(m.thawed)
}

func (m *machine) isFrozen() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.frozen
}

// awake returns a channel that is closed while the machine runs.
func (m *machine) awake() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.thawed
}
