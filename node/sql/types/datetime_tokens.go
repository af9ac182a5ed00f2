package types

// The parsing of dates, times and intervals below follows PostgreSQL's datetime.c (ParseDateTime,
// DecodeDateTime, DecodeInterval and what they call) function by function, because clients
// depend on what it takes and refuses. DateOrder is MDY, the default with DateStyle ISO.

// fieldType is what ParseDateTime makes of a piece of text.
type fieldType uint8

const (
	ftNumber fieldType = iota
	ftString
	ftDate
	ftTime
	ftTZ
	ftSpecial
)

type dtField struct {
	typ  fieldType
	text string
}

// Token classes, and the bits of a mask of fields seen.
type tokenClass uint8

const (
	tcUnknown tokenClass = iota
	tcReserved
	tcMonth
	tcYear
	tcDay
	tcTZ
	tcDTZ
	tcDynTZ
	tcDTZMod
	tcIgnore
	tcAMPM
	tcHour
	tcMinute
	tcSecond
	tcMilli
	tcMicro
	tcDOY
	tcDOW
	tcUnits
	tcADBC
	tcAgo
	tcISOTime
	tcWeek
	tcDecade
	tcCentury
	tcMillennium
	tcQuarter
)

func bit(c tokenClass) uint32 { return 1 << c }

const (
	maskDate    = uint32(1<<tcYear | 1<<tcMonth | 1<<tcDay)
	maskTime    = uint32(1<<tcHour | 1<<tcMinute | 1<<tcSecond | 1<<tcMilli | 1<<tcMicro)
	maskAllSecs = uint32(1<<tcSecond | 1<<tcMilli | 1<<tcMicro)
)

// Values of reserved words and units.
const (
	dtDate = iota
	dtDelta
	dtEarly
	dtLate
	dtEpoch
	dtNow
	dtToday
	dtTomorrow
	dtYesterday
	dtZulu
	dtAM
	dtPM
	dtBC
	dtAD
	dtJulian
	dtTimeUnit
	dtMicrosec
	dtMillisec
	dtSecond
	dtMinute
	dtHour
	dtDay
	dtWeek
	dtMonth
	dtQuarter
	dtYear
	dtDecade
	dtCentury
	dtMillennium
	dtOther
)

type token struct {
	class tokenClass
	val   int
}

// tokenMax is the length that keywords are compared to.
const tokenMax = 10

func lookupToken(m map[string]token, s string) token {
	if len(s) > tokenMax {
		s = s[:tokenMax]
	}
	return m[s]
}

var dateTokens = map[string]token{
	"-infinity": {tcReserved, dtEarly}, "infinity": {tcReserved, dtLate},
	"ad": {tcADBC, dtAD}, "bc": {tcADBC, dtBC}, "allballs": {tcReserved, dtZulu},
	"am": {tcAMPM, dtAM}, "pm": {tcAMPM, dtPM}, "at": {tcIgnore, 0}, "on": {tcIgnore, 0},
	"jan": {tcMonth, 1}, "january": {tcMonth, 1}, "feb": {tcMonth, 2}, "february": {tcMonth, 2},
	"mar": {tcMonth, 3}, "march": {tcMonth, 3}, "apr": {tcMonth, 4}, "april": {tcMonth, 4}, "may": {tcMonth, 5},
	"jun": {tcMonth, 6}, "june": {tcMonth, 6}, "jul": {tcMonth, 7}, "july": {tcMonth, 7},
	"aug": {tcMonth, 8}, "august": {tcMonth, 8}, "sep": {tcMonth, 9}, "sept": {tcMonth, 9}, "september": {tcMonth, 9},
	"oct": {tcMonth, 10}, "october": {tcMonth, 10}, "nov": {tcMonth, 11}, "november": {tcMonth, 11},
	"dec": {tcMonth, 12}, "december": {tcMonth, 12},
	"mon": {tcDOW, 1}, "monday": {tcDOW, 1}, "tue": {tcDOW, 2}, "tues": {tcDOW, 2}, "tuesday": {tcDOW, 2},
	"wed": {tcDOW, 3}, "weds": {tcDOW, 3}, "wednesday": {tcDOW, 3}, "thu": {tcDOW, 4}, "thur": {tcDOW, 4},
	"thurs": {tcDOW, 4}, "thursday": {tcDOW, 4}, "fri": {tcDOW, 5}, "friday": {tcDOW, 5},
	"sat": {tcDOW, 6}, "saturday": {tcDOW, 6}, "sun": {tcDOW, 0}, "sunday": {tcDOW, 0},
	"d": {tcUnits, dtDay}, "h": {tcUnits, dtHour}, "m": {tcUnits, dtMonth}, "mm": {tcUnits, dtMinute},
	"s": {tcUnits, dtSecond}, "y": {tcUnits, dtYear}, "dow": {tcUnits, dtOther}, "doy": {tcUnits, dtOther},
	"isodow": {tcUnits, dtOther}, "isoyear": {tcUnits, dtOther},
	"j": {tcUnits, dtJulian}, "jd": {tcUnits, dtJulian}, "julian": {tcUnits, dtJulian},
	"dst": {tcDTZMod, 3600}, "epoch": {tcReserved, dtEpoch}, "now": {tcReserved, dtNow}, "today": {tcReserved, dtToday},
	"tomorrow": {tcReserved, dtTomorrow}, "yesterday": {tcReserved, dtYesterday}, "t": {tcISOTime, dtTimeUnit},
}

var deltaTokens = map[string]token{
	"@": {tcIgnore, 0}, "ago": {tcAgo, 0},
	"c": {tcUnits, dtCentury}, "cent": {tcUnits, dtCentury}, "centuries": {tcUnits, dtCentury}, "century": {tcUnits, dtCentury},
	"d": {tcUnits, dtDay}, "day": {tcUnits, dtDay}, "days": {tcUnits, dtDay},
	"dec": {tcUnits, dtDecade}, "decade": {tcUnits, dtDecade}, "decades": {tcUnits, dtDecade}, "decs": {tcUnits, dtDecade},
	"h": {tcUnits, dtHour}, "hour": {tcUnits, dtHour}, "hours": {tcUnits, dtHour}, "hr": {tcUnits, dtHour}, "hrs": {tcUnits, dtHour},
	"m": {tcUnits, dtMinute}, "min": {tcUnits, dtMinute}, "mins": {tcUnits, dtMinute}, "minute": {tcUnits, dtMinute}, "minutes": {tcUnits, dtMinute},
	"microsecon": {tcUnits, dtMicrosec}, "us": {tcUnits, dtMicrosec}, "usec": {tcUnits, dtMicrosec}, "usecond": {tcUnits, dtMicrosec},
	"useconds": {tcUnits, dtMicrosec}, "usecs": {tcUnits, dtMicrosec},
	"millisecon": {tcUnits, dtMillisec}, "ms": {tcUnits, dtMillisec}, "msec": {tcUnits, dtMillisec}, "msecond": {tcUnits, dtMillisec},
	"mseconds": {tcUnits, dtMillisec}, "msecs": {tcUnits, dtMillisec},
	"mil": {tcUnits, dtMillennium}, "millennia": {tcUnits, dtMillennium}, "millennium": {tcUnits, dtMillennium}, "mils": {tcUnits, dtMillennium},
	"mon": {tcUnits, dtMonth}, "mons": {tcUnits, dtMonth}, "month": {tcUnits, dtMonth}, "months": {tcUnits, dtMonth},
	"qtr": {tcUnits, dtQuarter}, "quarter": {tcUnits, dtQuarter},
	"s": {tcUnits, dtSecond}, "sec": {tcUnits, dtSecond}, "second": {tcUnits, dtSecond}, "seconds": {tcUnits, dtSecond}, "secs": {tcUnits, dtSecond},
	"w": {tcUnits, dtWeek}, "week": {tcUnits, dtWeek}, "weeks": {tcUnits, dtWeek},
	"y": {tcUnits, dtYear}, "year": {tcUnits, dtYear}, "years": {tcUnits, dtYear}, "yr": {tcUnits, dtYear}, "yrs": {tcUnits, dtYear},
}

const maxDateFields = 25

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0x80 }
func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// splitDateTime breaks text into fields (ParseDateTime); ok is false for bad format.
func splitDateTime(s string) (fields []dtField, ok bool) {
	var cur []byte
	i := 0
	at := func() byte {
		if i < len(s) {
			return s[i]
		}
		return 0
	}
	take := func() { cur = append(cur, lower(s[i])); i++ }
	for i < len(s) {
		if isSpace(s[i]) {
			i++
			continue
		}
		if len(fields) >= maxDateFields {
			return nil, false
		}
		cur = nil
		var typ fieldType
		switch c := s[i]; {
		case isDigit(c):
			for i < len(s) && isDigit(s[i]) {
				take()
			}
			switch {
			case at() == ':':
				typ = ftTime
				for i < len(s) && (isDigit(s[i]) || s[i] == ':' || s[i] == '.') {
					take()
				}
			case at() == '-' || at() == '/' || at() == '.':
				delim := at()
				take()
				if isDigit(at()) {
					typ = ftDate
					if delim == '.' {
						typ = ftNumber
					}
					for i < len(s) && isDigit(s[i]) {
						take()
					}
					if at() == delim {
						typ = ftDate
						for i < len(s) && (isDigit(s[i]) || s[i] == delim) {
							take()
						}
					}
				} else {
					typ = ftDate
					for i < len(s) && (isDigit(s[i]) || isAlpha(s[i]) || s[i] == delim) {
						take()
					}
				}
			default:
				typ = ftNumber
			}
		case c == '.':
			typ = ftNumber
			take()
			for i < len(s) && isDigit(s[i]) {
				take()
			}
		case isAlpha(c):
			typ = ftString
			for i < len(s) && isAlpha(s[i]) {
				take()
			}
			isDate := false
			switch c := at(); {
			case c == '-' || c == '/' || c == '.':
				isDate = true
			case c == '+' || isDigit(c):
				isDate = lookupToken(dateTokens, string(cur)).class == tcUnknown
			}
			if isDate {
				typ = ftDate
				for i < len(s) && (isDigit(s[i]) || isAlpha(s[i]) || s[i] == '+' || s[i] == '-' || s[i] == '/' || s[i] == '_' || s[i] == '.' || s[i] == ':') {
					take()
				}
			}
		case c == '+' || c == '-':
			take()
			for i < len(s) && isSpace(s[i]) {
				i++
			}
			switch {
			case isDigit(at()):
				typ = ftTZ
				for i < len(s) && (isDigit(s[i]) || s[i] == ':' || s[i] == '.' || s[i] == '-') {
					take()
				}
			case isAlpha(at()):
				typ = ftSpecial
				for i < len(s) && isAlpha(s[i]) {
					take()
				}
			default:
				return nil, false
			}
		case c > ' ' && c < 0x7f: // other punctuation separates
			i++
			continue
		default:
			return nil, false
		}
		fields = append(fields, dtField{typ, string(cur)})
	}
	return fields, true
}
