package types

import (
	"errors"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// Field masks of an interval's typmod: INTERVAL '..' DAY TO SECOND.
const (
	rangeMonth  = 1 << 1
	rangeYear   = 1 << 2
	rangeDay    = 1 << 3
	rangeHour   = 1 << 10
	rangeMinute = 1 << 11
	rangeSecond = 1 << 12
)

type intervalDecoder struct {
	Interval
	years int64
	err   error
}

// ParseInterval reads an interval in PostgreSQL's, SQL's or ISO 8601's format.
func ParseInterval(s string, typmod int32, _ *Env) (Interval, error) {
	rng := int32(intervalFullRange)
	if typmod >= 0 {
		rng = typmod >> 16 & intervalFullRange
	}
	var d intervalDecoder
	fields, ok := splitDateTime(s)
	err := errBadFormat
	if ok {
		err = d.decode(fields, rng)
	}
	if errors.Is(err, errBadFormat) {
		d = intervalDecoder{}
		err = d.decodeISO(s)
	}
	if err != nil {
		if errors.Is(err, errFieldOverflow) {
			err = errIntervalRange
		}
		return Interval{}, dtError(err, "interval", s)
	}
	months := d.years*12 + int64(d.Months)
	if months != int64(int32(months)) {
		return Interval{}, pgerror.New(pgerrcode.DatetimeFieldOverflow, "interval out of range")
	}
	d.Months = int32(months)
	return ApplyIntervalTypmod(d.Interval, typmod)
}

func (d *intervalDecoder) addDays(v int64) {
	n := int64(d.Days) + v
	if v != int64(int32(v)) || n != int64(int32(n)) {
		d.err = errFieldOverflow
		return
	}
	d.Days = int32(n)
}

func (d *intervalDecoder) addMonths(v int64) {
	n := int64(d.Months) + v
	if v != int64(int32(v)) || n != int64(int32(n)) {
		d.err = errFieldOverflow
		return
	}
	d.Months = int32(n)
}

func (d *intervalDecoder) addYears(v, unit int64) {
	if v > math.MaxInt32/unit || v < math.MinInt32/unit {
		d.err = errFieldOverflow
		return
	}
	d.years += v * unit
}

func (d *intervalDecoder) addMicros(v, unit int64) {
	if v > math.MaxInt64/unit || v < math.MinInt64/unit {
		d.err = errFieldOverflow
		return
	}
	v *= unit
	if s := d.Micros + v; (s < d.Micros) != (v < 0) {
		d.err = errFieldOverflow
		return
	}
	d.Micros += v
}

func (d *intervalDecoder) fracMicros(f float64, unit int64) {
	if f == 0 {
		return
	}
	f *= float64(unit)
	us := int64(f)
	f -= float64(us)
	if f > 0.5 {
		us++
	} else if f < -0.5 {
		us--
	}
	d.addMicros(us, 1)
}

func (d *intervalDecoder) fracDays(f float64, unit int64) {
	f *= float64(unit)
	days := int64(f)
	d.addDays(days)
	d.fracMicros(f-float64(days), usPerDay)
}

func (d *intervalDecoder) fracYears(f float64, unit int64) {
	d.addMonths(int64(math.RoundToEven(f * float64(unit) * 12)))
}

// add takes val+f of a unit, and returns the mask of the fields it set.
func (d *intervalDecoder) add(unit int, v int64, f float64) uint32 {
	switch unit {
	case dtMicrosec:
		d.addMicros(v, 1)
		d.fracMicros(f, 1)
		return bit(tcMicro)
	case dtMillisec:
		d.addMicros(v, 1000)
		d.fracMicros(f, 1000)
		return bit(tcMilli)
	case dtSecond:
		d.addMicros(v, usPerSecond)
		d.fracMicros(f, usPerSecond)
		if f != 0 {
			return maskAllSecs
		}
		return bit(tcSecond)
	case dtMinute:
		d.addMicros(v, usPerMinute)
		d.fracMicros(f, usPerMinute)
		return bit(tcMinute)
	case dtHour:
		d.addMicros(v, usPerHour)
		d.fracMicros(f, usPerHour)
		return bit(tcHour)
	case dtDay:
		d.addDays(v)
		d.fracMicros(f, usPerDay)
		return bit(tcDay)
	case dtWeek:
		if v > math.MaxInt32 || v < math.MinInt32 {
			d.err = errFieldOverflow
			return 0
		}
		d.addDays(v * 7)
		d.fracDays(f, 7)
		return bit(tcWeek)
	case dtMonth:
		d.addMonths(v)
		d.fracDays(f, 30)
		return bit(tcMonth)
	case dtYear:
		d.addYears(v, 1)
		d.fracYears(f, 1)
		return bit(tcYear)
	case dtDecade:
		d.addYears(v, 10)
		d.fracYears(f, 10)
		return bit(tcDecade)
	case dtCentury:
		d.addYears(v, 100)
		d.fracYears(f, 100)
		return bit(tcCentury)
	case dtMillennium:
		d.addYears(v, 1000)
		d.fracYears(f, 1000)
		return bit(tcMillennium)
	}
	d.err = errBadFormat
	return 0
}

// decode is DecodeInterval: it reads from the right, so that units come before their values.
func (d *intervalDecoder) decode(fields []dtField, rng int32) error {
	const none = -1
	unit := none
	mask := uint32(0)
	before := false
	for i := len(fields) - 1; i >= 0; i-- {
		f := fields[i]
		tmask := uint32(0)
		switch f.typ {
		case ftTime:
			us, err := decodeIntervalTime(f.text, rng)
			if err != nil {
				return err
			}
			d.Micros = us // like PostgreSQL, a time sets; the mask forbids a second one
			tmask, unit = maskTime, dtDay
		case ftString, ftSpecial:
			t := lookupToken(deltaTokens, f.text)
			if t.class == tcIgnore {
				continue
			}
			if t.class == tcUnknown {
				if t = lookupToken(dateTokens, f.text); t.class == tcUnits {
					t.class = tcUnknown
				}
			}
			switch t.class {
			case tcUnits:
				unit = t.val
			case tcAgo:
				before = true
				unit = none
			default:
				return errBadFormat
			}
		default:
			if f.typ == ftTZ && strings.Contains(f.text[1:], ":") {
				if us, err := decodeIntervalTime(f.text[1:], rng); err == nil {
					if f.text[0] == '-' {
						us = -us
					}
					d.Micros = us
					tmask, unit = maskTime, dtDay
					break
				}
			}
			if unit == none {
				unit = defaultUnit(rng)
			}
			var err error
			if tmask, unit, err = d.value(f.text, unit); err != nil {
				return err
			}
		}
		if d.err != nil {
			return d.err
		}
		if tmask&mask != 0 {
			return errBadFormat
		}
		mask |= tmask
	}
	if mask == 0 {
		return errBadFormat
	}
	if before {
		d.Months, d.Days, d.Micros, d.years = -d.Months, -d.Days, -d.Micros, -d.years
	}
	return nil
}

// value reads one number of a unit, and returns the unit that the next one has by default.
func (d *intervalDecoder) value(s string, unit int) (mask uint32, next int, err error) {
	v, rest, over := strtol(s)
	if over {
		return 0, 0, errFieldOverflow
	}
	f := 0.0
	switch {
	case strings.HasPrefix(rest, "-"): // SQL's years-months
		m, tail, over := strtoint(rest[1:])
		if over || m < 0 || m >= 12 {
			return 0, 0, errFieldOverflow
		}
		if tail != "" {
			return 0, 0, errBadFormat
		}
		if s[0] == '-' {
			m = -m
		}
		if v > math.MaxInt32/12 || v < math.MinInt32/12 {
			return 0, 0, errFieldOverflow
		}
		unit, v = dtMonth, v*12+m
	case strings.HasPrefix(rest, "."):
		var ok bool
		if f, ok = fractionPart(rest); !ok {
			return 0, 0, errBadFormat
		}
		if s[0] == '-' {
			f = -f
		}
	case rest != "":
		return 0, 0, errBadFormat
	}
	mask = d.add(unit, v, f)
	if unit == dtHour { // "1 02:03" style: what stands before hours is days
		return mask, dtDay, d.err
	}
	return mask, unit, d.err
}

func defaultUnit(rng int32) int {
	switch rng {
	case rangeYear:
		return dtYear
	case rangeMonth, rangeYear | rangeMonth:
		return dtMonth
	case rangeDay:
		return dtDay
	case rangeHour, rangeDay | rangeHour:
		return dtHour
	case rangeMinute, rangeHour | rangeMinute, rangeDay | rangeHour | rangeMinute:
		return dtMinute
	}
	return dtSecond
}

func decodeIntervalTime(s string, rng int32) (int64, error) {
	h, m, sec, us, err := decodeTime(s, rng)
	if err != nil {
		return 0, err
	}
	if h < 0 || m < 0 || m > 59 || sec < 0 || sec > 60 || us < 0 || us > usPerSecond || h > math.MaxInt64/usPerHour {
		return 0, errFieldOverflow
	}
	total := h*usPerHour + (m*usPerMinute + sec*usPerSecond + us)
	if total < 0 {
		return 0, errFieldOverflow
	}
	return total, nil
}

// decodeISOAlternative reads P0001-02-03T04:05:06; what is missing at the end is zero.
func (d *intervalDecoder) decodeISOAlternative(s string) error {
	date, clock, _ := strings.Cut(s, "T")
	part := func(text string, sep string, units [3]int) error {
		if text == "" {
			return nil
		}
		for i, p := range strings.Split(text, sep) {
			whole, frac, _ := strings.Cut(p, ".")
			v, rest, over := strtol(whole)
			f, ok := fractionPart("." + frac)
			if i > 2 || whole == "" || rest != "" || over || !ok {
				return errBadFormat
			}
			d.add(units[i], v, f)
		}
		return d.err
	}
	if err := part(date, "-", [3]int{dtYear, dtMonth, dtDay}); err != nil {
		return err
	}
	return part(clock, ":", [3]int{dtHour, dtMinute, dtSecond})
}

// decodeISO reads P1Y2M3DT4H5M6.7S and P2W.
func (d *intervalDecoder) decodeISO(s string) error {
	s = trimSpaces(s)
	if len(s) < 2 || s[0] != 'P' {
		return errBadFormat
	}
	s = s[1:]
	if isDigit(s[len(s)-1]) {
		return d.decodeISOAlternative(s)
	}
	date, seen := true, false
	for s != "" {
		if s[0] == 'T' {
			if !date {
				return errBadFormat
			}
			date = false
			s = s[1:]
			continue
		}
		i := 0
		for i < len(s) && (isDigit(s[i]) || s[i] == '-' || s[i] == '+' || s[i] == '.') {
			i++
		}
		if i == 0 || i == len(s) {
			return errBadFormat
		}
		neg := s[0] == '-'
		whole, frac, _ := strings.Cut(strings.TrimPrefix(s[:i], "+"), ".")
		v, rest, over := strtol(whole)
		if over {
			return errFieldOverflow
		}
		f, ok := fractionPart("." + frac)
		if rest != "" && rest != "-" || !ok {
			return errBadFormat
		}
		if neg {
			f = -f
		}
		units := map[byte]int{'Y': dtYear, 'M': dtMonth, 'W': dtWeek, 'D': dtDay}
		if !date {
			units = map[byte]int{'H': dtHour, 'M': dtMinute, 'S': dtSecond}
		}
		unit, ok := units[s[i]]
		if !ok {
			return errBadFormat
		}
		d.add(unit, v, f)
		if d.err != nil {
			return d.err
		}
		s = s[i+1:]
		seen = true
	}
	if !seen {
		return errBadFormat
	}
	return nil
}

// ApplyIntervalTypmod drops the fields below a declared range and rounds the seconds.
func ApplyIntervalTypmod(v Interval, typmod int32) (Interval, error) {
	if typmod < 0 {
		return v, nil
	}
	switch rng := typmod >> 16 & intervalFullRange; {
	case rng == intervalFullRange:
	case rng == rangeYear:
		v.Months, v.Days, v.Micros = v.Months/12*12, 0, 0
	case rng == rangeMonth || rng == rangeYear|rangeMonth:
		v.Days, v.Micros = 0, 0
	case rng == rangeDay:
		v.Micros = 0
	case rng == rangeHour || rng == rangeDay|rangeHour:
		v.Micros = v.Micros / usPerHour * usPerHour
	case rng == rangeMinute || rng == rangeDay|rangeHour|rangeMinute || rng == rangeHour|rangeMinute:
		v.Micros = v.Micros / usPerMinute * usPerMinute
	}
	if prec := typmod & 0xFFFF; prec != 0xFFFF {
		v.Micros = roundMicros(v.Micros, prec)
	}
	return v, nil
}

// AppendInterval prints an interval in style postgres, or iso_8601.
func AppendInterval(dst []byte, v Interval, iso bool) []byte {
	if iso {
		return appendIntervalISO(dst, v)
	}
	zero, before := true, false
	part := func(n int64, unit string) {
		if n == 0 {
			return
		}
		if !zero {
			dst = append(dst, ' ')
		}
		if before && n > 0 {
			dst = append(dst, '+')
		}
		dst = strconv.AppendInt(dst, n, 10)
		dst = append(dst, ' ')
		dst = append(dst, unit...)
		if n != 1 {
			dst = append(dst, 's')
		}
		before = n < 0
		zero = false
	}
	part(int64(v.Months/12), "year")
	part(int64(v.Months%12), "mon")
	part(int64(v.Days), "day")
	if !zero && v.Micros == 0 {
		return dst
	}
	if !zero {
		dst = append(dst, ' ')
	}
	us := uint64(v.Micros)
	if v.Micros < 0 {
		dst = append(dst, '-')
		us = -us
	} else if before {
		dst = append(dst, '+')
	}
	dst = appendPadded(dst, int64(us/uint64(usPerHour)), 2)
	dst = append(dst, ':')
	dst = appendPadded(dst, int64(us/uint64(usPerMinute)%60), 2)
	dst = append(dst, ':')
	dst = appendPadded(dst, int64(us/uint64(usPerSecond)%60), 2)
	return appendMicros(dst, int64(us%uint64(usPerSecond)))
}

func appendIntervalISO(dst []byte, v Interval) []byte {
	if v == (Interval{}) {
		return append(dst, "PT0S"...)
	}
	part := func(n int64, unit byte) {
		if n != 0 {
			dst = append(strconv.AppendInt(dst, n, 10), unit)
		}
	}
	dst = append(dst, 'P')
	part(int64(v.Months/12), 'Y')
	part(int64(v.Months%12), 'M')
	part(int64(v.Days), 'D')
	if v.Micros == 0 {
		return dst
	}
	dst = append(dst, 'T')
	part(v.Micros/usPerHour, 'H')
	part(v.Micros/usPerMinute%60, 'M')
	if s := v.Micros % usPerMinute; s != 0 {
		if s < 0 {
			dst = append(dst, '-')
			s = -s
		}
		dst = strconv.AppendInt(dst, s/usPerSecond, 10)
		dst = append(appendMicros(dst, s%usPerSecond), 'S')
	}
	return dst
}

// IntervalSpan is the interval as days and microseconds with months of 30 days and days of
// 24 hours: what intervals are compared by. 0 <= micros < one day.
func IntervalSpan(v Interval) (days, micros int64) {
	d := floorDiv(v.Micros, usPerDay)
	return int64(v.Months)*30 + int64(v.Days) + d, v.Micros - d*usPerDay
}

// IntervalMicros is IntervalSpan as one number of microseconds.
func IntervalMicros(v Interval) *big.Int {
	days, us := IntervalSpan(v)
	n := new(big.Int).Mul(big.NewInt(days), big.NewInt(usPerDay))
	return n.Add(n, big.NewInt(us))
}

// CompareInterval orders intervals: 1 month equals 30 days.
func CompareInterval(a, b Interval) int {
	ad, au := IntervalSpan(a)
	bd, bu := IntervalSpan(b)
	switch {
	case ad < bd || ad == bd && au < bu:
		return -1
	case ad == bd && au == bu:
		return 0
	}
	return 1
}
