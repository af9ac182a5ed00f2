package types

import "time"

// Calendar arithmetic on the proleptic Gregorian calendar. Years are astronomical: 0 is 1 BC.

const (
	usPerSecond = int64(1_000_000)
	usPerMinute = 60 * usPerSecond
	usPerHour   = 60 * usPerMinute
	usPerDay    = 24 * usPerHour

	epochUnixDays    = 10957 // 2000-01-01 in days since 1970-01-01
	epochUnixSeconds = epochUnixDays * 86400
	epochJulian      = 2451545 // Julian day of 2000-01-01

	// TimestampNegInfinity and TimestampInfinity are -infinity and infinity.
	TimestampNegInfinity = int64(-1 << 63)
	TimestampInfinity    = int64(1<<63 - 1)
	minTimestamp         = int64(-211813488000000000)      // 4714-11-24 BC
	endTimestamp         = int64(9223371331200000000)      // 294277-01-01, exclusive
	DateNegInfinity      = int32(-1 << 31)                 // -infinity
	DateInfinity         = int32(1<<31 - 1)                // infinity
	minDate              = int64(-epochJulian)             // 4714-11-24 BC
	endDate              = int64(2147483494 - epochJulian) // 5874898-06-03, exclusive
)

// daysFromCivil returns days since 2000-01-01. Months outside 1-12 are not normalized.
func daysFromCivil(y, m, d int64) int64 {
	// Howard Hinnant's days_from_civil.
	if m <= 2 {
		y--
	}
	era := floorDiv(y, 400)
	yoe := y - era*400
	mp := (m + 9) % 12
	doy := (153*mp+2)/5 + d - 1
	doe := yoe*365 + yoe/4 - yoe/100 + doy
	return era*146097 + doe - 719468 - epochUnixDays
}

// civilFromDays is the inverse.
func civilFromDays(days int64) (y, m, d int64) {
	z := days + 719468 + epochUnixDays
	era := floorDiv(z, 146097)
	doe := z - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	d = doy - (153*mp+2)/5 + 1
	m = mp + 3
	if m > 12 {
		m -= 12
	}
	y = yoe + era*400
	if m <= 2 {
		y++
	}
	return y, m, d
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b != 0 && (a < 0) != (b < 0) {
		q--
	}
	return q
}

func floorMod(a, b int64) int64 { return a - floorDiv(a, b)*b }

func isLeap(y int64) bool {
	return floorMod(y, 4) == 0 && (floorMod(y, 100) != 0 || floorMod(y, 400) == 0)
}

func daysInMonth(y, m int64) int64 {
	switch m {
	case 2:
		if isLeap(y) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// Civil is a timestamp taken apart in some zone. Year 0 is 1 BC.
type Civil struct {
	Year, Month, Day     int64
	Hour, Minute, Second int64
	Micros               int64
	Offset               int // seconds east of UTC; 0 for a timestamp without zone
}

// CivilTimestamp takes a finite timestamp (without zone) apart.
func CivilTimestamp(ts int64) Civil {
	days := floorDiv(ts, usPerDay)
	us := ts - days*usPerDay
	var c Civil
	c.Year, c.Month, c.Day = civilFromDays(days)
	c.Hour = us / usPerHour
	c.Minute = us / usPerMinute % 60
	c.Second = us / usPerSecond % 60
	c.Micros = us % usPerSecond
	return c
}

// CivilTimestampTZ takes a finite timestamptz apart in a zone.
func CivilTimestampTZ(ts int64, loc *time.Location) Civil {
	off := offsetAt(ts, loc)
	c := CivilTimestamp(ts + int64(off)*usPerSecond)
	c.Offset = off
	return c
}

// Timestamp puts it together again, ignoring Offset; ok is false outside PostgreSQL's range.
// The fields may be denormalized, but the month must be 1 to 12.
func (c Civil) Timestamp() (ts int64, ok bool) {
	if c.Year < -4800 || c.Year > 294300 {
		return 0, false
	}
	ts = daysFromCivil(c.Year, c.Month, c.Day) * usPerDay
	t := c.Hour*usPerHour + c.Minute*usPerMinute + c.Second*usPerSecond + c.Micros
	if ts > 0 && t > 0 && ts+t < 0 { // overflow
		return 0, false
	}
	ts += t
	return ts, ts >= minTimestamp && ts < endTimestamp
}

// offsetAt is the zone's offset, in seconds east, at a timestamptz.
func offsetAt(ts int64, loc *time.Location) int {
	if loc == time.UTC || loc == nil {
		return 0
	}
	sec := floorDiv(ts, usPerSecond)
	_, off := time.Unix(sec+epochUnixSeconds, 0).In(loc).Zone()
	return off
}

// LocalToUTC turns a local (without zone) timestamp into a timestamptz. A local time that
// a transition skips or repeats is read as PostgreSQL does: the later of the two instants.
func LocalToUTC(local int64, loc *time.Location) int64 {
	if local == TimestampInfinity || local == TimestampNegInfinity || loc == nil || loc == time.UTC {
		return local
	}
	const day = usPerDay
	before, after := offsetAt(local-day, loc), offsetAt(local+day, loc)
	u1 := local - int64(before)*usPerSecond
	if before == after {
		return u1
	}
	u2 := local - int64(after)*usPerSecond
	ok1, ok2 := offsetAt(u1, loc) == before, offsetAt(u2, loc) == after
	switch {
	case ok1 && !ok2:
		return u1
	case ok2 && !ok1:
		return u2
	}
	return max(u1, u2)
}

// UTCToLocal turns a timestamptz into the local timestamp of a zone.
func UTCToLocal(ts int64, loc *time.Location) int64 {
	if ts == TimestampInfinity || ts == TimestampNegInfinity {
		return ts
	}
	return ts + int64(offsetAt(ts, loc))*usPerSecond
}

// TimestampFromTime converts a Go time (rounded down to microseconds).
func TimestampFromTime(t time.Time) int64 {
	return (t.Unix()-epochUnixSeconds)*usPerSecond + int64(t.Nanosecond()/1000)
}

// TimeFromTimestamp converts a finite timestamptz.
func TimeFromTimestamp(ts int64) time.Time {
	sec := floorDiv(ts, usPerSecond)
	return time.Unix(sec+epochUnixSeconds, (ts-sec*usPerSecond)*1000).UTC()
}

// TimestampFinite says that ts is neither infinity.
func TimestampFinite(ts int64) bool { return ts != TimestampInfinity && ts != TimestampNegInfinity }

// DateFinite says that d is neither infinity.
func DateFinite(d int64) bool { return d != int64(DateInfinity) && d != int64(DateNegInfinity) }

// TimestampInRange says whether PostgreSQL can hold a finite timestamp.
func TimestampInRange(ts int64) bool { return ts >= minTimestamp && ts < endTimestamp }

// DateInRange says whether PostgreSQL can hold a finite date.
func DateInRange(d int64) bool { return d >= minDate && d < endDate }

// DaysFromCivil returns a date from its parts.
func DaysFromCivil(y, m, d int64) int64 { return daysFromCivil(y, m, d) }

// CivilFromDays takes a date apart.
func CivilFromDays(d int64) (y, m, day int64) { return civilFromDays(d) }

// DaysInMonth is the length of a month.
func DaysInMonth(y, m int64) int64 { return daysInMonth(y, m) }
