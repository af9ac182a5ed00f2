//go:build !linux

package hlc

// SystemTime returns the TimeSource of a real node. This platform has no
// CLOCK_BOOTTIME; a suspension shows in the wall clock only.
func SystemTime() TimeSource { return GoTime() }
