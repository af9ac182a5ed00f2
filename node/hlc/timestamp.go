// Package hlc is the hybrid logical clock: timestamps that order events across
// nodes and never run backwards on one node.
//
// Source: Kulkarni et al., "Logical Physical Clocks and Consistent Snapshots in
// Globally Distributed Databases" (2014). Only clock readings forward a clock;
// transaction timestamps never do (SAFETY S1).
package hlc

import (
	"fmt"
	"math"
	"time"
)

// Timestamp is a point in hybrid logical time. The zero Timestamp is "none": it
// is smaller than every timestamp a clock gives out.
type Timestamp struct {
	WallNanos int64 // nanoseconds since the Unix epoch
	Logical   int32 // breaks ties within one nanosecond
}

// MaxTimestamp is larger than every timestamp a clock gives out.
var MaxTimestamp = Timestamp{WallNanos: math.MaxInt64, Logical: math.MaxInt32}

// IsEmpty reports whether t is the zero timestamp.
func (t Timestamp) IsEmpty() bool { return t == Timestamp{} }

// Less reports whether t is before u.
func (t Timestamp) Less(u Timestamp) bool {
	return t.WallNanos < u.WallNanos || (t.WallNanos == u.WallNanos && t.Logical < u.Logical)
}

// LessEq reports whether t is before or equal to u.
func (t Timestamp) LessEq(u Timestamp) bool { return !u.Less(t) }

// Compare returns -1, 0 or +1.
func (t Timestamp) Compare(u Timestamp) int {
	switch {
	case t.Less(u):
		return -1
	case u.Less(t):
		return 1
	}
	return 0
}

// Next returns the smallest timestamp after t.
func (t Timestamp) Next() Timestamp {
	if t.Logical == math.MaxInt32 {
		return Timestamp{WallNanos: t.WallNanos + 1}
	}
	return Timestamp{WallNanos: t.WallNanos, Logical: t.Logical + 1}
}

// Prev returns the largest timestamp before t. It panics on the zero timestamp.
func (t Timestamp) Prev() Timestamp {
	switch {
	case t.Logical > 0:
		return Timestamp{WallNanos: t.WallNanos, Logical: t.Logical - 1}
	case t.WallNanos > 0:
		return Timestamp{WallNanos: t.WallNanos - 1, Logical: math.MaxInt32}
	}
	panic("hlc: no timestamp before the zero timestamp")
}

// Add returns t moved by d of wall time.
func (t Timestamp) Add(d time.Duration) Timestamp {
	return Timestamp{WallNanos: t.WallNanos + int64(d), Logical: t.Logical}
}

// Forward moves t up to u if u is later, and reports whether it moved.
func (t *Timestamp) Forward(u Timestamp) bool {
	if t.Less(u) {
		*t = u
		return true
	}
	return false
}

// Max returns the later of t and u.
func (t Timestamp) Max(u Timestamp) Timestamp {
	if t.Less(u) {
		return u
	}
	return t
}

// Time returns the wall part as a time.Time in UTC.
func (t Timestamp) Time() time.Time { return time.Unix(0, t.WallNanos).UTC() }

// String prints seconds.nanoseconds,logical.
func (t Timestamp) String() string {
	return fmt.Sprintf("%d.%09d,%d", t.WallNanos/1e9, t.WallNanos%1e9, t.Logical)
}
