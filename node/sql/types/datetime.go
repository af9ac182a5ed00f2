package types

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

func dtError(err error, typeName, s string) error {
	switch e := err.(type) {
	case errBadZone:
		return pgerror.New(pgerrcode.InvalidParameterValue, "time zone \"%s\" not recognized", string(e))
	}
	switch err {
	case errFieldOverflow:
		return pgerror.New(pgerrcode.DatetimeFieldOverflow, "date/time field value out of range: \"%s\"", s)
	case errMDFieldOverflow:
		return pgerror.New(pgerrcode.DatetimeFieldOverflow, "date/time field value out of range: \"%s\"", s).
			WithHint("Perhaps you need a different \"datestyle\" setting.")
	case errIntervalRange:
		return pgerror.New(pgerrcode.IntervalFieldOverflow, "interval field value out of range: \"%s\"", s)
	case errTZRange:
		return pgerror.New(pgerrcode.InvalidTimeZoneDisplacementValue, "time zone displacement out of range: \"%s\"", s)
	}
	return pgerror.New(pgerrcode.InvalidDatetimeFormat, "invalid input syntax for type %s: \"%s\"", typeName, s)
}

// decodeDateTime reads text that must hold a date.
func decodeDateTime(s string, env *Env) (*dtDecoder, error) {
	d := &dtDecoder{env: env}
	fields, ok := splitDateTime(s)
	if !ok {
		return nil, errBadFormat
	}
	if err := d.run(fields); err != nil {
		return nil, err
	}
	if d.dtype == dtDate && d.mask&maskDate != maskDate {
		return nil, errBadFormat
	}
	return d, nil
}

// ParseTimestamp reads a timestamp without time zone; a zone in the text is ignored.
func ParseTimestamp(s string, typmod int32, env *Env) (int64, error) {
	return parseTimestamp(s, typmod, env, "timestamp", false)
}

// ParseTimestampTZ reads a timestamptz: text without a zone is in the session's.
func ParseTimestampTZ(s string, typmod int32, env *Env) (int64, error) {
	return parseTimestamp(s, typmod, env, "timestamp with time zone", true)
}

func parseTimestamp(s string, typmod int32, env *Env, name string, tz bool) (int64, error) {
	if ts, ok := parseISOTimestamp(s); ok && (!tz || env.location() == time.UTC) {
		return RoundTimestamp(ts, typmod), nil
	}
	d, err := decodeDateTime(s, env)
	if err != nil {
		return 0, dtError(err, name, s)
	}
	var ts int64
	switch d.dtype {
	case dtEarly:
		return TimestampNegInfinity, nil
	case dtLate:
		return TimestampInfinity, nil
	case dtEpoch:
		ts = -epochUnixSeconds * usPerSecond
	default:
		var ok bool
		ts, ok = d.Timestamp()
		if !ok && !tz || !ok && (ts < minTimestamp-2*usPerDay || ts > endTimestamp) {
			return 0, pgerror.New(pgerrcode.DatetimeFieldOverflow, "timestamp out of range: \"%s\"", s)
		}
		if tz {
			ts = d.instant(ts)
		}
		if !TimestampInRange(ts) {
			return 0, pgerror.New(pgerrcode.DatetimeFieldOverflow, "timestamp out of range: \"%s\"", s)
		}
	}
	return RoundTimestamp(ts, typmod), nil
}

// parseISOTimestamp is the fast path for YYYY-MM-DD HH:MM:SS[.ffffff], without a zone.
func parseISOTimestamp(s string) (int64, bool) {
	if len(s) < 19 || len(s) > 26 || s[4] != '-' || s[7] != '-' || s[10] != ' ' && s[10] != 'T' || s[13] != ':' || s[16] != ':' {
		return 0, false
	}
	n := func(i, j int) int64 {
		v := int64(0)
		for ; i < j; i++ {
			if !isDigit(s[i]) {
				return -1 << 40
			}
			v = v*10 + int64(s[i]-'0')
		}
		return v
	}
	y, mo, d, h, mi, sec := n(0, 4), n(5, 7), n(8, 10), n(11, 13), n(14, 16), n(17, 19)
	if y < 1 || mo < 1 || mo > 12 || d < 1 || d > daysInMonth(y, mo) || h < 0 || h > 23 || mi < 0 || mi > 59 || sec < 0 || sec > 59 {
		return 0, false
	}
	us := int64(0)
	if len(s) > 19 {
		if s[19] != '.' || len(s) == 20 {
			return 0, false
		}
		us = n(20, len(s))
		if us < 0 {
			return 0, false
		}
		for i := len(s); i < 26; i++ {
			us *= 10
		}
	}
	return daysFromCivil(y, mo, d)*usPerDay + h*usPerHour + mi*usPerMinute + sec*usPerSecond + us, true
}

// ParseDate reads a date.
func ParseDate(s string, env *Env) (int32, error) {
	d, err := decodeDateTime(s, env)
	if err != nil {
		return 0, dtError(err, "date", s)
	}
	switch d.dtype {
	case dtEarly:
		return DateNegInfinity, nil
	case dtLate:
		return DateInfinity, nil
	case dtEpoch:
		return -epochUnixDays, nil
	}
	if d.Year < -4713 || d.Year > 5874898 {
		return 0, pgerror.New(pgerrcode.DatetimeFieldOverflow, "date out of range: \"%s\"", s)
	}
	days := daysFromCivil(d.Year, d.Month, d.Day)
	if !DateInRange(days) {
		return 0, pgerror.New(pgerrcode.DatetimeFieldOverflow, "date out of range: \"%s\"", s)
	}
	return int32(days), nil
}

// decodeTimeOnly reads a time, perhaps with a date and a zone beside it.
func decodeTimeOnly(s string, env *Env) (*dtDecoder, error) {
	d := &dtDecoder{env: env}
	fields, ok := splitDateTime(s)
	if !ok {
		return nil, errBadFormat
	}
	// A number alone, first or after "t", is a time here, not a date.
	for i := range fields {
		f := &fields[i]
		if f.typ == ftNumber && d.mask == 0 && (i == 0 || fields[i-1].text == "t") && !hasDateLater(fields[i+1:]) {
			f.typ = ftSpecial + 1
		}
		dated := i == 0 && len(fields) >= 2 && (fields[len(fields)-1].typ == ftDate || fields[1].typ == ftTime)
		if f.typ == ftDate && isDigit(f.text[0]) && !dated && strings.Count(f.text, "-") == 1 { // hhmmss-zz
			f.typ = ftSpecial + 1
		}
	}
	var rest []dtField
	for i, f := range fields {
		switch {
		case f.typ == ftSpecial+1:
			digits, m := f.text, uint32(0)
			if j := strings.IndexByte(digits, '-'); j >= 0 {
				off, err := decodeOffset(digits[j:])
				if err != nil {
					return nil, err
				}
				digits, d.Offset, m = digits[:j], off, bit(tcTZ)
			}
			tm, err := d.concatenated(digits, maskDate)
			if err != nil {
				return nil, err
			}
			m |= tm
			if !d.timeValid() {
				return nil, errFieldOverflow
			}
			d.mask |= m
		case f.text == "t" && (i == 0 || i+1 < len(fields) && fields[i+1].typ == ftSpecial+1):
		default:
			rest = append(rest, f)
		}
	}
	if err := d.run(rest); err != nil {
		return nil, err
	}
	if d.dtype != dtDate || d.mask&maskTime != maskTime {
		return nil, errBadFormat
	}
	if !d.timeValid() {
		return nil, errFieldOverflow
	}
	return d, nil
}

func hasDateLater(fields []dtField) bool {
	for _, f := range fields {
		if f.typ == ftDate || f.typ == ftTime || f.typ == ftString && lookupToken(dateTokens, f.text).class == tcMonth {
			return true
		}
	}
	return false
}

// ParseTime reads a time without time zone.
func ParseTime(s string, typmod int32, env *Env) (int64, error) {
	d, err := decodeTimeOnly(s, env)
	if err != nil {
		return 0, dtError(err, "time", s)
	}
	return RoundTime(d.timeMicros(), typmod), nil
}

func (d *dtDecoder) timeMicros() int64 {
	return d.Hour*usPerHour + d.Minute*usPerMinute + d.Second*usPerSecond + d.Micros
}

// ParseTimeTZ reads a time with time zone, packed as PackTimeTZ does.
func ParseTimeTZ(s string, typmod int32, env *Env) (int64, error) {
	d, err := decodeTimeOnly(s, env)
	if err != nil {
		return 0, dtError(err, "time with time zone", s)
	}
	off := d.Offset
	if d.zone != nil || d.mask&bit(tcTZ) == 0 {
		loc := d.zone
		if loc == nil {
			loc = env.location()
		}
		day := UTCToLocal(TimestampFromTime(env.now()), loc)
		day -= floorMod(day, usPerDay)
		if d.mask&maskDate == maskDate {
			day = daysFromCivil(d.Year, d.Month, d.Day) * usPerDay
		}
		local := day + d.timeMicros()
		off = int((local - LocalToUTC(local, loc)) / usPerSecond)
	}
	return PackTimeTZ(RoundTime(d.timeMicros(), typmod), off), nil
}

// PackTimeTZ packs a time and its zone (seconds east) so that integers order as PostgreSQL
// orders timetz: by the instant, then by the zone, west of UTC last.
func PackTimeTZ(micros int64, east int) int64 {
	return (micros-int64(east)*usPerSecond)<<18 + int64(-east+1<<17)
}

// UnpackTimeTZ is the inverse.
func UnpackTimeTZ(v int64) (micros int64, east int) {
	east = -int(v&(1<<18-1) - 1<<17)
	return v>>18 + int64(east)*usPerSecond, east
}

// RoundTimestamp rounds to a typmod's digits; half away from zero.
func RoundTimestamp(ts int64, typmod int32) int64 {
	if !TimestampFinite(ts) {
		return ts
	}
	return roundMicros(ts, typmod)
}

// RoundTime rounds a time of day to a typmod's digits.
func RoundTime(us int64, typmod int32) int64 { return roundMicros(us, typmod) }

func roundMicros(v int64, typmod int32) int64 {
	if typmod < 0 || typmod >= maxTimePrecision {
		return v
	}
	unit := int64(1)
	for range maxTimePrecision - typmod {
		unit *= 10
	}
	if v >= 0 {
		return (v + unit/2) / unit * unit
	}
	return -((-v + unit/2) / unit * unit)
}

// AppendTimestamp prints a timestamp without time zone in ISO style.
func AppendTimestamp(dst []byte, ts int64) []byte {
	switch ts {
	case TimestampInfinity:
		return append(dst, "infinity"...)
	case TimestampNegInfinity:
		return append(dst, "-infinity"...)
	}
	return appendCivil(dst, CivilTimestamp(ts), false)
}

// AppendTimestampTZ prints a timestamptz in ISO style in a zone.
func AppendTimestampTZ(dst []byte, ts int64, loc *time.Location) []byte {
	if !TimestampFinite(ts) {
		return AppendTimestamp(dst, ts)
	}
	return appendCivil(dst, CivilTimestampTZ(ts, loc), true)
}

func appendCivil(dst []byte, c Civil, tz bool) []byte {
	dst, bc := appendYMD(dst, c.Year, c.Month, c.Day)
	dst = append(dst, ' ')
	dst = appendHMS(dst, c.Hour, c.Minute, c.Second, c.Micros)
	if tz {
		dst = appendOffset(dst, c.Offset)
	}
	if bc {
		dst = append(dst, " BC"...)
	}
	return dst
}

func appendYMD(dst []byte, y, m, d int64) (out []byte, bc bool) {
	if y <= 0 {
		y, bc = 1-y, true
	}
	dst = appendPadded(dst, y, 4)
	dst = append(dst, '-')
	dst = appendPadded(dst, m, 2)
	dst = append(dst, '-')
	return appendPadded(dst, d, 2), bc
}

func appendPadded(dst []byte, v int64, width int) []byte {
	for limit := int64(math.Pow10(width - 1)); width > 1 && v < limit; limit /= 10 {
		dst = append(dst, '0')
		width--
	}
	return strconv.AppendInt(dst, v, 10)
}

func appendHMS(dst []byte, h, m, s, us int64) []byte {
	dst = appendPadded(dst, h, 2)
	dst = append(dst, ':')
	dst = appendPadded(dst, m, 2)
	dst = append(dst, ':')
	dst = appendPadded(dst, s, 2)
	return appendMicros(dst, us)
}

// appendMicros prints .ffffff without trailing zeros, or nothing.
func appendMicros(dst []byte, us int64) []byte {
	if us == 0 {
		return dst
	}
	dst = append(dst, '.')
	dst = appendPadded(dst, us, 6)
	for dst[len(dst)-1] == '0' {
		dst = dst[:len(dst)-1]
	}
	return dst
}

// appendOffset prints +hh[:mm[:ss]].
func appendOffset(dst []byte, east int) []byte {
	sign := byte('+')
	if east < 0 {
		sign, east = '-', -east
	}
	dst = append(dst, sign)
	dst = appendPadded(dst, int64(east/3600), 2)
	if east%3600 != 0 {
		dst = append(dst, ':')
		dst = appendPadded(dst, int64(east/60%60), 2)
		if east%60 != 0 {
			dst = append(dst, ':')
			dst = appendPadded(dst, int64(east%60), 2)
		}
	}
	return dst
}

// AppendDate prints a date in ISO style.
func AppendDate(dst []byte, days int64) []byte {
	switch days {
	case int64(DateInfinity):
		return append(dst, "infinity"...)
	case int64(DateNegInfinity):
		return append(dst, "-infinity"...)
	}
	y, m, d := civilFromDays(days)
	dst, bc := appendYMD(dst, y, m, d)
	if bc {
		dst = append(dst, " BC"...)
	}
	return dst
}

// AppendTime prints a time of day.
func AppendTime(dst []byte, us int64) []byte {
	return appendHMS(dst, us/usPerHour, us/usPerMinute%60, us/usPerSecond%60, us%usPerSecond)
}

// AppendTimeTZ prints a packed time with time zone.
func AppendTimeTZ(dst []byte, v int64) []byte {
	us, east := UnpackTimeTZ(v)
	return appendOffset(AppendTime(dst, us), east)
}
