package hlc

import (
	"time"

	"golang.org/x/sys/unix"
)

type systemTime struct{ start time.Time }

// SystemTime returns the TimeSource of a real node: the kernel's three clocks.
func SystemTime() TimeSource { return systemTime{time.Now()} }

func (s systemTime) Read() Reading {
	now := time.Now()
	r := Reading{Mono: int64(now.Sub(s.start)), Wall: now.UnixNano()}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		r.Boot = r.Mono
	} else {
		r.Boot = ts.Nano()
	}
	return r
}
