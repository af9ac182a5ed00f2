package types

import (
	_ "embed"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

//go:embed tznames.txt
var tzNames string

//go:embed tzabbrevs.txt
var tzAbbrevs string

// zoneNames maps the lower-case name of each zone to its proper spelling.
var zoneNames = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	for _, n := range strings.Fields(tzNames) {
		m[strings.ToLower(n)] = n
	}
	return m
})

// ZoneNames are the time zone names that LoadZone knows, sorted.
func ZoneNames() []string { return strings.Fields(tzNames) }

// zoneAbbrev is EST or CEST in PostgreSQL's default set: a fixed offset, or, where its
// meaning changed over time, the zone to ask.
type zoneAbbrev struct {
	offset int // seconds east
	dst    bool
	zone   string
}

var zoneAbbrevs = sync.OnceValue(func() map[string]zoneAbbrev {
	m := map[string]zoneAbbrev{}
	for _, line := range strings.Split(strings.TrimSpace(tzAbbrevs), "\n") {
		f := strings.Fields(line)
		a := zoneAbbrev{dst: len(f) > 2}
		if n, err := strconv.Atoi(f[1]); err == nil {
			a.offset = n
		} else {
			a.zone = f[1]
		}
		m[strings.ToLower(f[0])] = a
	}
	return m
})

// ZoneAbbrev is an abbreviation and what it stands for, for pg_timezone_abbrevs.
type ZoneAbbrev struct {
	Abbrev string
	Offset int // seconds east
	DST    bool
}

var zones sync.Map // proper name -> *time.Location

// lookupZoneName finds a zone by its full name, in any case.
func lookupZoneName(name string) (*time.Location, bool) {
	proper, ok := zoneNames()[strings.ToLower(name)]
	if !ok {
		return nil, false
	}
	if proper == "UTC" {
		return time.UTC, true
	}
	if l, ok := zones.Load(proper); ok {
		return l.(*time.Location), true
	}
	l, err := time.LoadLocation(proper)
	if err != nil {
		return nil, false
	}
	zones.Store(proper, l)
	return l, true
}

// LoadZone reads a zone as in SET TimeZone and AT TIME ZONE: a full name (in any case), an
// abbreviation, or a POSIX specification without daylight saving (UTC+3, <+03>-3: west is positive).
func LoadZone(name string) (*time.Location, error) {
	if l, ok := lookupZoneName(name); ok {
		return l, nil
	}
	if a, ok := zoneAbbrevs()[strings.ToLower(name)]; ok {
		if a.zone != "" {
			if l, ok := lookupZoneName(a.zone); ok {
				return l, nil
			}
		} else {
			return time.FixedZone(strings.ToUpper(name), a.offset), nil
		}
	}
	if l, ok := posixZone(name); ok {
		return l, nil
	}
	return nil, pgerror.New(pgerrcode.InvalidParameterValue, "time zone \"%s\" not recognized", name)
}

// LoadSessionZone is LoadZone for SET TimeZone, which also takes a number of hours east of
// UTC, LOCAL and DEFAULT being the caller's. show is what SHOW TimeZone then prints.
func LoadSessionZone(value string) (loc *time.Location, show string, err error) {
	if h, perr := strconv.ParseFloat(trimSpaces(value), 64); perr == nil {
		if h < -168 || h > 168 {
			return nil, "", pgerror.New(pgerrcode.InvalidParameterValue, "invalid value for parameter \"TimeZone\": \"%s\"", value)
		}
		return FixedOffset(int(h * 3600))
	}
	if proper, ok := zoneNames()[strings.ToLower(value)]; ok {
		if l, ok := lookupZoneName(value); ok {
			return l, proper, nil
		}
	}
	if l, ok := posixZone(value); ok {
		return l, value, nil
	}
	return nil, "", pgerror.New(pgerrcode.InvalidParameterValue, "invalid value for parameter \"TimeZone\": \"%s\"", value)
}

// FixedOffset is a zone at a fixed number of seconds east of UTC, named as PostgreSQL does: <+05:30>-05:30.
func FixedOffset(seconds int) (*time.Location, string, error) {
	abbrev := offsetText(seconds)
	show := "<" + abbrev + ">" + offsetText(-seconds)
	return time.FixedZone(abbrev, seconds), show, nil
}

func offsetText(seconds int) string { return string(appendOffset(nil, seconds)) }

// posixZone reads NAME[+-]hh[:mm[:ss]], NAME letters or <...>; the sign counts west.
func posixZone(s string) (*time.Location, bool) {
	rest := s
	if strings.HasPrefix(rest, "<") {
		i := strings.IndexByte(rest, '>')
		if i < 0 {
			return nil, false
		}
		rest = rest[i+1:]
	} else {
		i := 0
		for i < len(rest) && (rest[i]|0x20) >= 'a' && (rest[i]|0x20) <= 'z' {
			i++
		}
		if i < 3 && i > 0 {
			return nil, false
		}
		rest = rest[i:]
	}
	if rest == "" {
		return nil, false
	}
	sign := -1
	if rest[0] == '+' || rest[0] == '-' {
		if rest[0] == '-' {
			sign = 1
		}
		rest = rest[1:]
	}
	total, unit := 0, 3600
	for i, part := range strings.Split(rest, ":") {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil || i > 2 || n > 167 || i > 0 && n > 59 {
			return nil, false
		}
		total += int(n) * unit
		unit /= 60
	}
	return time.FixedZone(s, sign*total), true
}
