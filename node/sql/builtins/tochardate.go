package builtins

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// dateKeywords are the patterns of to_char and to_timestamp, the longer before their prefixes.
var dateKeywords = []string{
	"A.D.", "A.M.", "B.C.", "P.M.", "Y,YYY", "SSSSS", "MONTH", "HH24", "HH12", "IDDD", "IYYY", "SSSS", "YYYY",
	"DAY", "DDD", "FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "IYY", "MON", "TZH", "TZM", "YYY",
	"AD", "AM", "BC", "CC", "DD", "DY", "FX", "HH", "ID", "IW", "IY", "MI", "MM", "MS", "OF", "PM", "RM", "SS", "TZ", "US", "WW", "YY",
	"D", "I", "J", "Q", "W", "Y",
}

// dateNode is a pattern with its modifiers, or literal text.
type dateNode struct {
	key   string // upper case; empty for text
	spell string // as it was written
	text  string
	fm    bool
	th    string // TH or th after it
}

func parseDateFormat(f string) []dateNode {
	var out []dateNode
	upper := strings.ToUpper(f)
	if len(upper) != len(f) {
		upper = f // characters whose upper case is longer: no patterns among them
	}
	fm, tm := false, false
outer:
	for i := 0; i < len(f); {
		switch {
		case f[i] == '"':
			j := i + 1
			var text []byte
			for j < len(f) && f[j] != '"' {
				if f[j] == '\\' && j+1 < len(f) {
					j++
				}
				text = append(text, f[j])
				j++
			}
			out = append(out, dateNode{text: string(text)})
			i = j + 1
			continue
		case f[i] == '\\' && i+1 < len(f) && f[i+1] == '"':
			out = append(out, dateNode{text: `"`})
			i += 2
			continue
		case strings.HasPrefix(upper[i:], "FM"):
			fm = true
			i += 2
			continue
		case strings.HasPrefix(upper[i:], "TM"):
			tm = true
			i += 2
			continue
		}
		for _, k := range dateKeywords {
			if !strings.HasPrefix(upper[i:], k) {
				continue
			}
			n := dateNode{key: k, spell: f[i : i+len(k)], fm: fm}
			if tm && (k == "MONTH" || k == "DAY" || k == "MON" || k == "DY") {
				n.fm = true // a localized name is not padded
			}
			i += len(k)
			fm, tm = false, false
			if strings.HasPrefix(upper[i:], "TH") && (f[i:i+2] == "TH" || f[i:i+2] == "th") {
				n.th = f[i : i+2]
				i += 2
			}
			out = append(out, n)
			continue outer
		}
		out = append(out, dateNode{text: f[i : i+1]})
		i++
	}
	return out
}

var (
	monthNames = []string{"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}
	dayNames   = []string{"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"}
	romanMonth = []string{"I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"}
)

// clock is what date patterns print.
type clock struct {
	types.Civil
	days     int64 // since 2000-01-01; meaningless for intervals
	interval bool
	zone     string
	hasZone  bool
}

func timestampToChar(ctx *EvalContext, t int64, f string, tz bool) (types.Datum, error) {
	if f == "" || !types.TimestampFinite(t) {
		return types.Null, nil
	}
	c := clock{}
	if tz {
		c.Civil = types.CivilTimestampTZ(t, ctx.location())
		c.zone, _ = types.TimeFromTimestamp(t).In(ctx.location()).Zone()
		c.hasZone = true
		t += int64(c.Offset) * usPerSecond
	} else {
		c.Civil = types.CivilTimestamp(t)
	}
	c.days = floorDiv(t, usPerDay)
	s, err := c.format(f)
	return types.NewString(s), err
}

func intervalToChar(v types.Interval, f string) (types.Datum, error) {
	if f == "" {
		return types.Null, nil
	}
	c := clock{interval: true}
	c.Year, c.Month, c.Day = int64(v.Months/12), int64(v.Months%12), int64(v.Days)
	c.Hour, c.Minute, c.Second = v.Micros/usPerHour, v.Micros/usPerMinute%60, v.Micros/usPerSecond%60
	c.Micros = v.Micros % usPerSecond
	c.days = int64(v.Months)*30 + int64(v.Days)
	s, err := c.format(f)
	return types.NewString(s), err
}

func (c *clock) format(f string) (string, error) {
	var b strings.Builder
	for _, n := range parseDateFormat(f) {
		if n.key == "" {
			b.WriteString(n.text)
			continue
		}
		s, err := c.node(n)
		if err != nil {
			return "", err
		}
		b.WriteString(s)
		if n.th != "" && s != "" {
			if last := s[len(s)-1]; last >= '0' && last <= '9' {
				b.WriteString(ordinal(s, n.th == "th"))
			}
		}
	}
	return b.String(), nil
}

// pad prints a number with leading zeros, which FM drops; a sign counts as one more.
func pad(v int64, width int, fm bool) string {
	if fm {
		return strconv.FormatInt(v, 10)
	}
	if v < 0 {
		width++
	}
	return fmt.Sprintf("%0*d", width, v)
}

// spelled gives a name the pattern's case: MONTH, Month, month; padded with blanks unless FM.
func spelled(name, spell string, width int, fm bool) string {
	switch {
	case spell == strings.ToUpper(spell):
		name = strings.ToUpper(name)
	case spell == strings.ToLower(spell) || spell[0] >= 'a':
		name = strings.ToLower(name)
	}
	if !fm {
		name += strings.Repeat(" ", max(width-len(name), 0))
	}
	return name
}

func errIntervalFormat(n dateNode) error {
	return pgerror.New(pgerrcode.InvalidDatetimeFormat, "invalid format specification for an interval value").
		WithHint("Intervals are not tied to specific calendar dates.")
}

func (c *clock) node(n dateNode) (string, error) {
	year := c.Year
	if !c.interval && year <= 0 {
		year = 1 - year
	}
	lowerCase := n.spell == strings.ToLower(n.spell)
	half := func(am, pm string) string {
		s := am
		if floorMod(c.Hour, 24) >= 12 {
			s = pm
		}
		if lowerCase {
			s = strings.ToLower(s)
		}
		return s
	}
	switch n.key {
	case "A.M.", "P.M.":
		return half("A.M.", "P.M."), nil
	case "AM", "PM":
		return half("AM", "PM"), nil
	case "HH", "HH12":
		h := c.Hour % 12
		if h == 0 {
			h = 12
		}
		return pad(h, 2, n.fm), nil
	case "HH24":
		return pad(c.Hour, 2, n.fm), nil
	case "MI":
		return pad(c.Minute, 2, n.fm), nil
	case "SS":
		return pad(c.Second, 2, n.fm), nil
	case "FF1", "FF2", "FF3", "FF4", "FF5", "FF6":
		return fmt.Sprintf("%06d", c.Micros)[:n.key[2]-'0'], nil
	case "MS":
		return fmt.Sprintf("%03d", c.Micros/1000), nil
	case "US":
		return fmt.Sprintf("%06d", c.Micros), nil
	case "SSSS", "SSSSS":
		return strconv.FormatInt(c.Hour*3600+c.Minute*60+c.Second, 10), nil
	case "MM":
		return pad(c.Month, 2, n.fm), nil
	case "DD":
		if n.fm {
			return strconv.FormatInt(c.Day, 10), nil
		}
		return fmt.Sprintf("%02d", c.Day), nil
	case "Q":
		if c.Month == 0 {
			return "", nil
		}
		return strconv.FormatInt((c.Month-1)/3+1, 10), nil
	case "Y,YYY":
		s := pad(year%1000, 3, false)
		if n.fm && year < 1000 {
			return strconv.FormatInt(year/1000, 10) + "," + s, nil
		}
		return strconv.FormatInt(year/1000, 10) + "," + s, nil
	case "YYYY":
		return pad(year, 4, n.fm), nil
	case "YYY":
		return pad(year%1000, 3, n.fm), nil
	case "YY":
		return pad(year%100, 2, n.fm), nil
	case "Y":
		return strconv.FormatInt(year%10, 10), nil
	case "RM":
		return c.romanMonth(n), nil
	case "CC":
		if c.interval {
			return pad(year/100, 2, n.fm), nil
		}
		return pad(span(c.Year, 100), 2, n.fm), nil
	case "J":
		return strconv.FormatInt(c.julian(), 10), nil
	}
	if c.interval {
		return "", errIntervalFormat(n)
	}
	return c.dateNode(n, lowerCase)
}

func (c *clock) julian() int64 {
	if c.interval {
		return types.DaysFromCivil(c.Year, max(c.Month, 1), c.Day) + 2451545
	}
	return c.days + 2451545
}

func (c *clock) romanMonth(n dateNode) string {
	if c.Month == 0 {
		return ""
	}
	i := c.Month - 1
	if c.Month < 0 {
		i = c.Month
	}
	s := romanMonth[floorMod(i, 12)]
	if n.spell[0] == 'r' {
		s = strings.ToLower(s)
	}
	if !n.fm {
		s += strings.Repeat(" ", 4-len(s))
	}
	return s
}

// dateNode prints the patterns that need a calendar date or a zone.
func (c *clock) dateNode(n dateNode, lowerCase bool) (string, error) {
	isoYear, isoWk := isoWeek(c.days)
	if isoYear <= 0 {
		isoYear = 1 - isoYear
	}
	dow := floorMod(c.days+6, 7)
	yday := c.days - types.DaysFromCivil(c.Year, 1, 1) + 1
	era := func(bc, ad string) string {
		s := ad
		if c.Year <= 0 {
			s = bc
		}
		if lowerCase {
			s = strings.ToLower(s)
		}
		return s
	}
	switch n.key {
	case "A.D.", "B.C.":
		return era("B.C.", "A.D."), nil
	case "AD", "BC":
		return era("BC", "AD"), nil
	case "MONTH":
		return spelled(monthNames[c.Month-1], n.spell, 9, n.fm), nil
	case "MON":
		return spelled(monthNames[c.Month-1][:3], n.spell, 3, n.fm), nil
	case "DAY":
		return spelled(dayNames[dow], n.spell, 9, n.fm), nil
	case "DY":
		return spelled(dayNames[dow][:3], n.spell, 3, n.fm), nil
	case "DDD":
		return pad(yday, 3, n.fm), nil
	case "IDDD":
		return pad((isoWk-1)*7+(dow+6)%7+1, 3, n.fm), nil
	case "D":
		return strconv.FormatInt(dow+1, 10), nil
	case "ID":
		return strconv.FormatInt((dow+6)%7+1, 10), nil
	case "WW":
		return pad((yday-1)/7+1, 2, n.fm), nil
	case "IW":
		return pad(isoWk, 2, n.fm), nil
	case "W":
		return strconv.FormatInt((c.Day-1)/7+1, 10), nil
	case "IYYY":
		return pad(isoYear, 4, n.fm), nil
	case "IYY":
		return pad(isoYear%1000, 3, n.fm), nil
	case "IY":
		return pad(isoYear%100, 2, n.fm), nil
	case "I":
		return strconv.FormatInt(isoYear%10, 10), nil
	case "TZ":
		z := c.zone
		if lowerCase {
			z = strings.ToLower(z)
		}
		return z, nil
	case "TZH":
		return fmt.Sprintf("%c%02d", sign(c.Offset), absInt(c.Offset)/3600), nil
	case "TZM":
		return fmt.Sprintf("%02d", absInt(c.Offset)/60%60), nil
	case "OF":
		s := fmt.Sprintf("%c%02d", sign(c.Offset), absInt(c.Offset)/3600)
		if m := absInt(c.Offset) / 60 % 60; m != 0 {
			s += fmt.Sprintf(":%02d", m)
		}
		return s, nil
	}
	return "", nil
}

func sign(v int) byte {
	if v < 0 {
		return '-'
	}
	return '+'
}

func absInt(v int) int { return max(v, -v) }

// dateParser is what to_timestamp and to_date read.
type dateParser struct {
	y, m, d, doy, cc         int64
	haveY, bc, pm, ampm, h12 bool
	julian, iso              int64
	h, mi, s, us, ssss       int64
	haveSSSS                 bool
	offset                   int64
	haveTZ                   bool
}

func errFormatValue(format string, args ...any) *pgerror.Error {
	return pgerror.New(pgerrcode.InvalidDatetimeFormat, format, args...)
}

func toTimestamp(ctx *EvalContext, s, f string) (types.Datum, error) {
	p, days, err := parseByFormat(s, f)
	if err != nil {
		return types.Null, err
	}
	local := days*usPerDay + p.h*usPerHour + p.mi*usPerMinute + p.s*usPerSecond + p.us
	if p.haveTZ {
		return ts(checkTimestamp(local - p.offset*usPerSecond))
	}
	return ts(checkTimestamp(types.LocalToUTC(local, ctx.location())))
}

func toDate(_ *EvalContext, s, f string) (types.Datum, error) {
	_, days, err := parseByFormat(s, f)
	if err != nil {
		return types.Null, err
	}
	return checkDate(days)
}

func parseByFormat(s, f string) (*dateParser, int64, error) {
	p := &dateParser{}
	in := s
	nodes := parseDateFormat(f)
	for i, n := range nodes {
		if n.key == "" {
			in = skipLiteral(in, n.text)
			continue
		}
		in = strings.TrimLeft(in, " \t\n")
		if i > 0 && nodes[i-1].key == "" {
			for in != "" && !isWordByte(in[0]) && in[0] != '-' && in[0] != '+' && in[0] < 0x80 {
				in = in[1:]
			}
		}
		next := i+1 < len(nodes) && nodes[i+1].key != "" // digits run on: take only this pattern's
		rest, err := p.node(n, in, next)
		if err != nil {
			return nil, 0, err
		}
		in = rest
	}
	days, err := p.days(s)
	return p, days, err
}

func skipLiteral(in, text string) string {
	if in == "" {
		return in
	}
	if strings.HasPrefix(in, text) {
		return in[len(text):]
	}
	if text != " " && !isWordByte(in[0]) {
		return in[1:]
	}
	return in
}

// digitsOf reads a number: at most width digits where another pattern follows at once.
func digitsOf(in string, width int, bounded bool) (int64, int, string, bool) {
	i := 0
	if i < len(in) && (in[i] == '-' || in[i] == '+') {
		i++
	}
	start := i
	for i < len(in) && in[i] >= '0' && in[i] <= '9' && (!bounded || i-start < width) {
		i++
	}
	v, err := strconv.ParseInt(in[:i], 10, 64)
	return v, i - start, in[i:], err == nil && i > start
}

var fieldWidths = map[string]int{"HH": 2, "HH12": 2, "HH24": 2, "MI": 2, "SS": 2, "MS": 3, "US": 6, "SSSS": 5, "SSSSS": 5, "MM": 2, "DD": 2,
	"DDD": 3, "YYYY": 4, "YYY": 3, "YY": 2, "Y": 1, "CC": 2, "J": 7, "Q": 1, "D": 1, "ID": 1, "WW": 2, "IW": 2, "W": 1, "TZH": 2, "TZM": 2,
	"FF1": 1, "FF2": 2, "FF3": 3, "FF4": 4, "FF5": 5, "FF6": 6}

func (p *dateParser) node(n dateNode, in string, bounded bool) (string, error) {
	if in == "" {
		return in, nil // a shorter text leaves the rest at its default
	}
	switch n.key {
	case "FX":
		return in, nil
	case "A.M.", "P.M.", "AM", "PM":
		for _, w := range []string{"a.m.", "p.m.", "am", "pm"} {
			if len(in) >= len(w) && strings.EqualFold(in[:len(w)], w) {
				p.ampm, p.pm = true, w[0] == 'p'
				return in[len(w):], nil
			}
		}
		return "", errFormatValue("invalid value \"%s\" for \"%s\"", prefix(in, len(n.key)), n.spell).WithDetail("The given value did not match any of the allowed values for this field.")
	case "A.D.", "B.C.", "AD", "BC":
		for _, w := range []string{"a.d.", "b.c.", "ad", "bc"} {
			if len(in) >= len(w) && strings.EqualFold(in[:len(w)], w) {
				p.bc = w[0] == 'b'
				return in[len(w):], nil
			}
		}
		return "", errFormatValue("invalid value \"%s\" for \"%s\"", prefix(in, len(n.key)), n.spell).WithDetail("The given value did not match any of the allowed values for this field.")
	case "MONTH", "MON":
		names := monthNames
		i, rest, ok := matchName(in, names, n.key == "MON")
		if !ok {
			return "", errFormatValue("invalid value \"%s\" for \"%s\"", prefix(in, len(n.key)), n.spell).WithDetail("The given value did not match any of the allowed values for this field.")
		}
		p.m = int64(i + 1)
		return rest, nil
	case "DAY", "DY":
		_, rest, ok := matchName(in, dayNames, n.key == "DY")
		if !ok {
			return "", errFormatValue("invalid value \"%s\" for \"%s\"", prefix(in, len(n.key)), n.spell).WithDetail("The given value did not match any of the allowed values for this field.")
		}
		return rest, nil
	case "TZ", "OF", "I", "IY", "IYY", "IYYY", "IDDD", "ID", "IW", "D", "WW", "W", "RM":
		return "", pgerror.New(pgerrcode.FeatureNotSupported, "formatting field \"%s\" is not supported for input", n.spell)
	case "Y,YYY":
		var a, b int64
		if k, err := fmt.Sscanf(in, "%d,%3d", &a, &b); err != nil || k != 2 {
			return "", errFormatValue("invalid input string for \"Y,YYY\"")
		}
		p.y, p.haveY = a*1000+b, true
		return in[strings.IndexByte(in, ',')+1+len(strconv.FormatInt(b+1000, 10))-1:], nil
	}
	v, digits, rest, ok := digitsOf(in, fieldWidths[n.key], bounded || n.key == "MS" || n.key == "US" || strings.HasPrefix(n.key, "FF") || n.key == "TZH" || n.key == "TZM")
	if !ok {
		return "", errFormatValue("invalid value \"%s\" for \"%s\"", prefix(in, fieldWidths[n.key]), n.spell).WithDetail("Value must be an integer.")
	}
	p.set(n.key, v, digits, strings.HasPrefix(in, "-"))
	if n.th != "" && len(rest) >= 2 {
		rest = rest[2:]
	}
	return rest, nil
}

func (p *dateParser) set(key string, v int64, digits int, neg bool) {
	scale := func(width int) int64 {
		for i := digits; i < width; i++ {
			v *= 10
		}
		return v
	}
	switch key {
	case "HH", "HH12":
		p.h, p.h12 = v, true
	case "HH24":
		p.h = v
	case "MI":
		p.mi = v
	case "SS":
		p.s = v
	case "MS":
		p.us += scale(3) * 1000
	case "US", "FF1", "FF2", "FF3", "FF4", "FF5", "FF6":
		p.us += scale(6)
	case "SSSS", "SSSSS":
		p.ssss, p.haveSSSS = v, true
	case "MM":
		p.m = v
	case "DD":
		p.d = v
	case "DDD":
		p.doy = v
	case "YYYY":
		p.y, p.haveY = v, true
	case "YYY", "YY", "Y":
		if digits < 4 && !neg { // the year nearest to 2020
			switch {
			case v < 70:
				v += 2000
			case v < 100:
				v += 1900
			case v < 520:
				v += 2000
			case v < 1000:
				v += 1000
			}
		}
		p.y, p.haveY = v, true
	case "CC":
		p.cc = v
	case "J":
		p.julian = v
	case "TZH":
		p.haveTZ = true
		p.offset += v * 3600
	case "TZM":
		p.haveTZ = true
		if p.offset < 0 {
			v = -v
		}
		p.offset += v * 60
	}
}

func prefix(s string, n int) string { return s[:min(n, len(s))] }

func matchName(in string, names []string, short bool) (int, string, bool) {
	for i, n := range names {
		if !short && len(in) >= len(n) && strings.EqualFold(in[:len(n)], n) {
			return i, in[len(n):], true
		}
		if short && len(in) >= 3 && strings.EqualFold(in[:3], n[:3]) {
			return i, in[3:], true
		}
	}
	return 0, "", false
}

// days settles the date, and checks the time of day.
func (p *dateParser) days(s string) (int64, error) {
	bad := func() (int64, error) {
		return 0, pgerror.New(pgerrcode.DatetimeFieldOverflow, "date/time field value out of range: \"%s\"", s)
	}
	if p.haveSSSS {
		p.h, p.mi, p.s = p.ssss/3600, p.ssss/60%60, p.ssss%60
	}
	if p.h12 {
		if p.h < 1 || p.h > 12 {
			return 0, pgerror.New(pgerrcode.InvalidDatetimeFormat, "hour \"%d\" is invalid for the 12-hour clock", p.h).
				WithHint("Use the 24-hour clock, or give an hour between 1 and 12.")
		}
		if p.pm && p.h < 12 {
			p.h += 12
		} else if !p.pm && p.h == 12 {
			p.h = 0
		}
	}
	if p.h < 0 || p.h > 23 || p.mi < 0 || p.mi > 59 || p.s < 0 || p.s > 59 {
		return bad()
	}
	if p.julian != 0 {
		return p.julian - 2451545, nil
	}
	y := p.y
	switch {
	case p.bc && p.haveY:
		y = 1 - y
	case p.haveY && y < 0:
		y++
	case !p.haveY && p.cc != 0:
		y = (p.cc-1)*100 + 1
	}
	if p.doy != 0 {
		if !p.haveY {
			return 0, pgerror.New(pgerrcode.InvalidDatetimeFormat, "cannot calculate day of year without year information")
		}
		return types.DaysFromCivil(y, 1, 1) + p.doy - 1, nil
	}
	m, d := max(p.m, 1), max(p.d, 1)
	if p.m < 0 || m > 12 || p.d < 0 || d > types.DaysInMonth(y, m) {
		return bad()
	}
	return types.DaysFromCivil(y, m, d), nil
}
