package types

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// Why a date or time could not be read; turned into a SQLSTATE by dtError.
var (
	errBadFormat       = errors.New("bad format")
	errFieldOverflow   = errors.New("field overflow")
	errMDFieldOverflow = errors.New("month or day overflow")
	errIntervalRange   = errors.New("interval overflow")
	errTZRange         = errors.New("time zone displacement overflow")
)

type errBadZone string

func (e errBadZone) Error() string { return string(e) }

// dtDecoder is the state of reading one date, time or timestamp.
type dtDecoder struct {
	env     *Env
	needTZ  bool // a zone may be given (timestamptz and, ignored, the others)
	Civil        // what was read; Offset is valid when zoneSet
	doy     int64
	bc      bool
	twoDig  bool
	julian  bool
	textMon bool
	mer     int
	dtype   int
	mask    uint32
	zone    *time.Location // a named zone, to be applied at the end
	isDST   bool
	now     int64 // micros of "now", when dtype is dtNow
}

// strtol reads leading digits (with sign) as C does.
func strtol(s string) (v int64, rest string, overflow bool) {
	i := 0
	if i < len(s) && (s[i] == '+' || s[i] == '-') {
		i++
	}
	start := i
	for i < len(s) && isDigit(s[i]) {
		i++
	}
	if i == start {
		return 0, s, false
	}
	v, err := strconv.ParseInt(s[:i], 10, 64)
	return v, s[i:], err != nil
}

// strtoint is strtol for int: overflow beyond 32 bits.
func strtoint(s string) (v int64, rest string, overflow bool) {
	v, rest, overflow = strtol(s)
	return v, rest, overflow || v > math.MaxInt32 || v < math.MinInt32
}

// fraction reads ".digits" as microseconds, rounded to nearest even as rint does.
func fraction(s string) (us int64, ok bool) {
	f, ok := fractionPart(s)
	return int64(math.RoundToEven(f * 1e6)), ok
}

func fractionPart(s string) (float64, bool) {
	if s == "." {
		return 0, true
	}
	for i := 1; i < len(s); i++ {
		if !isDigit(s[i]) {
			return 0, false
		}
	}
	f, err := strconv.ParseFloat("0"+s, 64)
	return f, err == nil
}

func (d *dtDecoder) run(fields []dtField) error {
	ptype := 0 // the unit that a word before a number announced
	for i := 0; i < len(fields); i++ {
		f := fields[i]
		tmask := uint32(0)
		var err error
		switch f.typ {
		case ftDate:
			tmask, err = d.dateField(f.text, &ptype)
		case ftTime:
			if ptype != 0 {
				if ptype != dtTimeUnit {
					return errBadFormat
				}
				ptype = 0
			}
			tmask = maskTime
			if err = d.timeField(f.text); err == nil && !d.timeValid() {
				err = errFieldOverflow
			}
		case ftTZ:
			d.Offset, err = decodeOffset(f.text)
			tmask = bit(tcTZ)
		case ftNumber:
			tmask, err = d.numberField(f.text, &ptype)
		default:
			var skip bool
			tmask, skip, err = d.word(fields, i, &ptype)
			if skip && err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		if tmask&d.mask != 0 {
			return errBadFormat
		}
		d.mask |= tmask
	}
	if err := d.validateDate(); err != nil {
		return err
	}
	switch {
	case d.mer != 0 && d.Hour > 12:
		return errFieldOverflow
	case d.mer == dtAM && d.Hour == 12:
		d.Hour = 0
	case d.mer == dtPM && d.Hour != 12:
		d.Hour += 12
	}
	return nil
}

func (d *dtDecoder) timeValid() bool {
	return !(d.Hour < 0 || d.Minute < 0 || d.Minute > 59 || d.Second < 0 || d.Second > 60 || d.Micros < 0 || d.Micros > usPerSecond ||
		d.Hour > 24 || d.Hour == 24 && (d.Minute > 0 || d.Second > 0 || d.Micros > 0) ||
		d.Hour*usPerHour+d.Minute*usPerMinute+d.Second*usPerSecond+d.Micros > usPerDay)
}

// dateField handles what looks like a date, but may be hhmmss-zz or a zone's name.
func (d *dtDecoder) dateField(s string, ptype *int) (uint32, error) {
	switch {
	case *ptype == dtJulian:
		v, rest, over := strtoint(s)
		if over {
			return 0, errFieldOverflow
		}
		d.setJulian(v)
		off, err := decodeOffset(rest)
		d.Offset = off
		*ptype = 0
		return maskDate | maskTime | bit(tcTZ), err
	case *ptype != 0 || d.mask&(bit(tcMonth)|bit(tcDay)) == bit(tcMonth)|bit(tcDay):
		if *ptype == 0 && !isDigit(s[0]) {
			loc, ok := lookupZoneName(s)
			if !ok {
				if loc, ok = posixZone(s); !ok {
					return 0, errBadZone(s)
				}
			}
			d.zone = loc
			return bit(tcTZ), nil
		}
		if *ptype != 0 && *ptype != dtTimeUnit || d.mask&maskTime == maskTime {
			return 0, errBadFormat
		}
		*ptype = 0
		i := strings.IndexByte(s, '-')
		if i < 0 {
			return 0, errBadFormat
		}
		off, err := decodeOffset(s[i:])
		if err != nil {
			return 0, err
		}
		d.Offset = off
		tmask, err := d.concatenated(s[:i], d.mask)
		return tmask | bit(tcTZ), err
	}
	return d.date(s)
}

func (d *dtDecoder) setJulian(v int64) {
	d.Year, d.Month, d.Day = civilFromDays(v - epochJulian)
	d.julian = true
}

// decodeOffset reads +hh[:mm[:ss]] or +hhmm, east positive, as seconds.
func decodeOffset(s string) (int, error) {
	if s == "" || s[0] != '+' && s[0] != '-' {
		return 0, errBadFormat
	}
	hr, rest, over := strtoint(s[1:])
	if over {
		return 0, errTZRange
	}
	var min, sec int64
	switch {
	case strings.HasPrefix(rest, ":"):
		if min, rest, over = strtoint(rest[1:]); over {
			return 0, errTZRange
		}
		if strings.HasPrefix(rest, ":") {
			if sec, rest, over = strtoint(rest[1:]); over {
				return 0, errTZRange
			}
		}
	case rest == "" && len(s) > 3:
		min, hr = hr%100, hr/100
	}
	if hr < 0 || hr > 15 || min < 0 || min > 59 || sec < 0 || sec > 59 {
		return 0, errTZRange
	}
	off := int((hr*60+min)*60 + sec)
	if s[0] == '-' {
		off = -off
	}
	if rest != "" {
		return 0, errBadFormat
	}
	return off, nil
}

// timeField reads hh:mm[:ss[.fff]] or mm:ss.fff (DecodeTime).
func (d *dtDecoder) timeField(s string) (err error) {
	d.Hour, d.Minute, d.Second, d.Micros, err = decodeTime(s, 0)
	if err == nil && (d.Hour < 0 || d.Minute < 0 || d.Minute > 59 || d.Second < 0 || d.Second > 60 || d.Micros > usPerSecond) {
		err = errFieldOverflow
	}
	return err
}

func decodeTime(s string, rng int32) (h, m, sec, us int64, err error) {
	h, rest, over := strtol(s)
	if over {
		return 0, 0, 0, 0, errFieldOverflow
	}
	if !strings.HasPrefix(rest, ":") {
		return 0, 0, 0, 0, errBadFormat
	}
	if m, rest, over = strtoint(rest[1:]); over {
		return 0, 0, 0, 0, errFieldOverflow
	}
	ok := true
	switch {
	case rest == "":
		if rng == rangeMinute|rangeSecond {
			h, m, sec = 0, h, m
		}
	case rest[0] == '.':
		us, ok = fraction(rest)
		h, m, sec = 0, h, m
	case rest[0] == ':':
		if sec, rest, over = strtoint(rest[1:]); over {
			return 0, 0, 0, 0, errFieldOverflow
		}
		if rest != "" {
			if rest[0] != '.' {
				return 0, 0, 0, 0, errBadFormat
			}
			us, ok = fraction(rest)
		}
	default:
		ok = false
	}
	if !ok {
		return 0, 0, 0, 0, errBadFormat
	}
	return h, m, sec, us, nil
}

// numberField handles a lone number, perhaps after a unit word (j2451545, t040506).
func (d *dtDecoder) numberField(s string, ptype *int) (uint32, error) {
	if *ptype != 0 {
		v, rest, over := strtoint(s)
		if over {
			return 0, errFieldOverflow
		}
		if rest != "" && rest[0] != '.' {
			return 0, errBadFormat
		}
		unit := *ptype
		*ptype = 0
		switch unit {
		case dtJulian:
			if v < 0 {
				return 0, errFieldOverflow
			}
			d.setJulian(v)
			if rest == "" {
				return maskDate, nil
			}
			f, ok := fractionPart(rest)
			if !ok {
				return 0, errBadFormat
			}
			us := int64(f * float64(usPerDay))
			d.Hour, d.Minute, d.Second, d.Micros = us/usPerHour, us/usPerMinute%60, us/usPerSecond%60, us%usPerSecond
			return maskDate | maskTime, nil
		case dtTimeUnit:
			tmask, err := d.concatenated(s, d.mask|maskDate)
			if err == nil && tmask != maskTime {
				err = errBadFormat
			}
			return tmask, err
		}
		return 0, errBadFormat
	}
	dot := strings.IndexByte(s, '.')
	switch {
	case dot >= 0 && d.mask&maskDate == 0:
		return d.date(s)
	case dot > 2:
		return d.concatenated(s, d.mask)
	case len(s) >= 6 && (d.mask&maskDate == 0 || d.mask&maskTime == 0):
		return d.concatenated(s, d.mask)
	}
	return d.number(s, d.mask)
}

// date reads a date whose parts are separated (DecodeDate).
func (d *dtDecoder) date(s string) (uint32, error) {
	var parts []string
	for i := 0; i < len(s) && len(parts) < maxDateFields; {
		for i < len(s) && !isDigit(s[i]) && !isAlpha(s[i]) {
			i++
		}
		if i == len(s) {
			return 0, errBadFormat
		}
		start := i
		if isDigit(s[i]) {
			for i < len(s) && isDigit(s[i]) {
				i++
			}
		} else {
			for i < len(s) && isAlpha(s[i]) {
				i++
			}
		}
		parts = append(parts, s[start:i])
		i++ // the separator, whatever it is
	}
	fmask, tmask := d.mask, uint32(0)
	add := func(m uint32) error {
		if fmask&m != 0 {
			return errBadFormat
		}
		fmask |= m
		tmask |= m
		return nil
	}
	for i, p := range parts {
		if !isAlpha(p[0]) {
			continue
		}
		t := lookupToken(dateTokens, p)
		parts[i] = ""
		if t.class == tcIgnore {
			continue
		}
		if t.class != tcMonth {
			return 0, errBadFormat
		}
		d.Month = int64(t.val)
		d.textMon = true
		if err := add(bit(tcMonth)); err != nil {
			return 0, err
		}
	}
	for _, p := range parts {
		if p == "" {
			continue
		}
		m, err := d.number(p, fmask)
		if err != nil {
			return 0, err
		}
		if err := add(m); err != nil {
			return 0, err
		}
	}
	if fmask&^(bit(tcDOY)|bit(tcTZ)) != maskDate {
		return 0, errBadFormat
	}
	return tmask, nil
}

// number decides what a number is by what is there already (DecodeNumber).
func (d *dtDecoder) number(s string, fmask uint32) (uint32, error) {
	v, rest, over := strtoint(s)
	switch {
	case over:
		return 0, errFieldOverflow
	case len(rest) == len(s):
		return 0, errBadFormat
	case strings.HasPrefix(rest, "."):
		if len(s)-len(rest) > 2 {
			return d.concatenated(s, fmask|maskDate)
		}
		us, ok := fraction(rest)
		if !ok {
			return 0, errBadFormat
		}
		d.Micros = us
	case rest != "":
		return 0, errBadFormat
	}
	if len(s) == 3 && fmask&maskDate == bit(tcYear) && v >= 1 && v <= 366 {
		d.doy = v
		return bit(tcDOY) | bit(tcMonth) | bit(tcDay), nil
	}
	year := func() (uint32, error) {
		d.Year = v
		d.twoDig = len(s) <= 2
		return bit(tcYear), nil
	}
	day := func() (uint32, error) { d.Day = v; return bit(tcDay), nil }
	month := func() (uint32, error) { d.Month = v; return bit(tcMonth), nil }
	switch fmask & maskDate {
	case 0:
		if len(s) >= 3 {
			return year()
		}
		return month()
	case bit(tcYear), bit(tcDay):
		return month()
	case bit(tcMonth):
		if d.textMon && len(s) >= 3 {
			return year()
		}
		return day()
	case bit(tcYear) | bit(tcMonth):
		if d.textMon && len(s) >= 3 && d.twoDig {
			d.Day, d.Year, d.twoDig = d.Year, v, false
			return bit(tcDay), nil
		}
		return day()
	case bit(tcMonth) | bit(tcDay):
		return year()
	case maskDate:
		return d.concatenated(s, fmask)
	}
	return 0, errBadFormat
}

// concatenated reads yymmdd, yyyymmdd, hhmmss[.fff] or hhmm (DecodeNumberField).
func (d *dtDecoder) concatenated(s string, fmask uint32) (uint32, error) {
	atoi := func(p string) int64 { v, _, _ := strtoint(p); return v }
	if dot := strings.IndexByte(s, '.'); dot >= 0 {
		us, ok := fraction(s[dot:])
		if !ok {
			return 0, errBadFormat
		}
		d.Micros = us
		s = s[:dot]
	} else if fmask&maskDate != maskDate && len(s) >= 6 {
		n := len(s)
		d.Day, d.Month, d.Year = atoi(s[n-2:]), atoi(s[n-4:n-2]), atoi(s[:n-4])
		d.twoDig = d.twoDig || n-4 == 2
		return maskDate, nil
	}
	if fmask&maskTime != maskTime {
		switch len(s) {
		case 6:
			d.Hour, d.Minute, d.Second = atoi(s[:2]), atoi(s[2:4]), atoi(s[4:])
			return maskTime, nil
		case 4:
			d.Hour, d.Minute, d.Second = atoi(s[:2]), atoi(s[2:]), 0
			return maskTime, nil
		}
	}
	return 0, errBadFormat
}

// word handles month names, zones and special words.
func (d *dtDecoder) word(fields []dtField, i int, ptype *int) (tmask uint32, skip bool, err error) {
	s := fields[i].text
	t, off, dyn := lookupAbbrev(s)
	if t.class == tcUnknown {
		t = lookupToken(dateTokens, s)
	}
	tmask = bit(t.class)
	switch t.class {
	case tcIgnore:
		return 0, true, nil
	case tcReserved:
		return d.reserved(t.val)
	case tcMonth:
		// A number before may have been the day after all: "5 Jan 2020".
		if d.mask&bit(tcMonth) != 0 && !d.textMon && d.mask&bit(tcDay) == 0 && d.Month >= 1 && d.Month <= 31 {
			d.Day = d.Month
			tmask = bit(tcDay)
		}
		d.textMon = true
		d.Month = int64(t.val)
	case tcDTZMod:
		tmask |= bit(tcDTZ)
		d.isDST = true
		d.Offset += t.val
	case tcTZ, tcDTZ:
		tmask |= bit(tcTZ)
		d.Offset = off
	case tcDynTZ:
		tmask |= bit(tcTZ)
		d.zone = dyn
	case tcAMPM:
		d.mer = t.val
	case tcADBC:
		d.bc = t.val == dtBC
	case tcDOW:
	case tcUnits:
		tmask = 0
		if *ptype != 0 {
			return 0, false, errBadFormat
		}
		*ptype = t.val
	case tcISOTime:
		tmask = 0
		if d.mask&maskDate != maskDate || i+1 >= len(fields) ||
			fields[i+1].typ != ftNumber && fields[i+1].typ != ftTime && fields[i+1].typ != ftDate {
			return 0, false, errBadFormat
		}
		*ptype = t.val
	default:
		loc, ok := lookupZoneName(s)
		if !ok {
			return 0, false, errBadFormat
		}
		d.zone = loc
		tmask = bit(tcTZ)
	}
	return tmask, false, nil
}

func lookupAbbrev(s string) (token, int, *time.Location) {
	a, ok := zoneAbbrevs()[s]
	if !ok {
		return token{}, 0, nil
	}
	if a.zone != "" {
		if loc, ok := lookupZoneName(a.zone); ok {
			return token{class: tcDynTZ}, 0, loc
		}
		return token{}, 0, nil
	}
	if a.dst {
		return token{class: tcDTZ}, a.offset, nil
	}
	return token{class: tcTZ}, a.offset, nil
}

func (d *dtDecoder) reserved(val int) (tmask uint32, skip bool, err error) {
	now := TimestampFromTime(d.env.now())
	c := CivilTimestampTZ(now, d.env.location())
	switch val {
	case dtNow:
		d.Civil = c
		return maskDate | maskTime | bit(tcTZ), false, nil
	case dtToday, dtTomorrow, dtYesterday:
		days := daysFromCivil(c.Year, c.Month, c.Day)
		switch val {
		case dtTomorrow:
			days++
		case dtYesterday:
			days--
		}
		d.Year, d.Month, d.Day = civilFromDays(days)
		d.julian = true // the year is what it is
		return maskDate, false, nil
	case dtZulu:
		d.Hour, d.Minute, d.Second, d.Offset = 0, 0, 0, 0
		return maskTime | bit(tcTZ), false, nil
	}
	d.dtype = val
	return maskDate | maskTime | bit(tcTZ), false, nil
}

// validateDate adjusts and checks year, month and day (ValidateDate).
func (d *dtDecoder) validateDate() error {
	if d.dtype != dtDate {
		return nil
	}
	if d.mask&bit(tcYear) != 0 && !d.julian {
		switch {
		case d.bc:
			if d.Year <= 0 {
				return errFieldOverflow
			}
			d.Year = -(d.Year - 1)
		case d.twoDig:
			if d.Year < 0 {
				return errFieldOverflow
			}
			if d.Year < 70 {
				d.Year += 2000
			} else if d.Year < 100 {
				d.Year += 1900
			}
		case d.Year <= 0:
			return errFieldOverflow
		}
	}
	if d.mask&bit(tcDOY) != 0 {
		d.Year, d.Month, d.Day = civilFromDays(daysFromCivil(d.Year, 1, 1) + d.doy - 1)
	}
	if d.mask&bit(tcMonth) != 0 && (d.Month < 1 || d.Month > 12) {
		return errMDFieldOverflow
	}
	if d.mask&bit(tcDay) != 0 && (d.Day < 1 || d.Day > 31) {
		return errMDFieldOverflow
	}
	if d.mask&maskDate == maskDate && d.Day > daysInMonth(d.Year, d.Month) {
		return errFieldOverflow
	}
	return nil
}

// zoneOffset settles the offset of what was read: given, by a named zone, or the session's.
// utc is the instant.
func (d *dtDecoder) instant(local int64) int64 {
	switch {
	case d.zone != nil:
		return LocalToUTC(local, d.zone)
	case d.mask&bit(tcTZ) != 0:
		return local - int64(d.Offset)*usPerSecond
	}
	return LocalToUTC(local, d.env.location())
}
