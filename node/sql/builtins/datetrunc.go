package builtins

import (
	"strings"
	"time"

	"github.com/cockroachdb/apd/v3"
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// dateUnits are the spellings of date_trunc's and extract's fields.
var dateUnits = map[string]string{
	"microsecond": "microseconds", "microseconds": "microseconds", "us": "microseconds", "usec": "microseconds", "usecs": "microseconds", "usecond": "microseconds", "useconds": "microseconds", "microsecon": "microseconds",
	"millisecond": "milliseconds", "milliseconds": "milliseconds", "ms": "milliseconds", "msec": "milliseconds", "msecs": "milliseconds", "msecond": "milliseconds", "mseconds": "milliseconds", "millisecon": "milliseconds",
	"second": "second", "seconds": "second", "s": "second", "sec": "second", "secs": "second",
	"minute": "minute", "minutes": "minute", "m": "minute", "min": "minute", "mins": "minute",
	"hour": "hour", "hours": "hour", "h": "hour", "hr": "hour", "hrs": "hour",
	"day": "day", "days": "day", "d": "day", "week": "week", "weeks": "week", "w": "week",
	"month": "month", "months": "month", "mon": "month", "mons": "month", "quarter": "quarter", "qtr": "quarter",
	"year": "year", "years": "year", "y": "year", "yr": "year", "yrs": "year",
	"decade": "decade", "decades": "decade", "dec": "decade", "decs": "decade",
	"century": "century", "centuries": "century", "c": "century", "cent": "century",
	"millennium": "millennium", "millennia": "millennium", "mil": "millennium", "mils": "millennium",
	"dow": "dow", "doy": "doy", "isodow": "isodow", "isoyear": "isoyear", "epoch": "epoch", "julian": "julian", "j": "julian", "jd": "julian",
	"timezone": "timezone", "timezone_h": "timezone_hour", "timezone_m": "timezone_minute", "timezone_hour": "timezone_hour", "timezone_minute": "timezone_minute",
}

// truncUnit says whether date_trunc knows a field at all; what it knows may still be unsupported.
func truncUnit(field string) bool {
	switch field {
	case "dow", "doy", "isodow", "isoyear", "epoch", "julian":
		return false
	}
	return true
}

func errUnit(name, s string, known bool) error {
	s = strings.ToLower(s)
	if known {
		return pgerror.New(pgerrcode.FeatureNotSupported, "unit \"%s\" not supported for type %s", s, name)
	}
	return pgerror.New(pgerrcode.InvalidParameterValue, "unit \"%s\" not recognized for type %s", s, name)
}

func truncFuncs(r *registry) {
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return ts(truncTimestamp(a[0].Str(), a[1].Int(), "timestamp without time zone"))
	}, "timestamp_trunc")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return ts(truncTimestampTZ(a[0].Str(), a[1].Int(), ctx.location()))
	}, "timestamptz_trunc")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		l, err := types.LoadZone(a[2].Str())
		if err != nil {
			return types.Null, err
		}
		return ts(truncTimestampTZ(a[0].Str(), a[1].Int(), l))
	}, "timestamptz_trunc_zone")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return iv(truncInterval(a[0].Str(), a[1].Interval()))
	}, "interval_trunc")
}

func truncTimestamp(unit string, t int64, name string) (int64, error) {
	if !types.TimestampFinite(t) {
		return t, nil
	}
	field, known := dateUnits[strings.ToLower(unit)]
	if !known || !truncUnit(field) {
		return 0, errUnit(name, unit, false)
	}
	c := types.CivilTimestamp(t)
	y := c.Year
	c.Micros -= map[string]int64{"microseconds": 0, "milliseconds": c.Micros % 1000}[field]
	switch field {
	case "microseconds", "milliseconds":
	case "second":
		c.Micros = 0
	case "minute":
		c.Micros, c.Second = 0, 0
	case "hour":
		c.Micros, c.Second, c.Minute = 0, 0, 0
	default:
		c.Micros, c.Second, c.Minute, c.Hour = 0, 0, 0, 0
		switch field {
		case "day":
		case "week":
			days := floorDiv(t, usPerDay)
			days -= floorMod(days+5, 7) // 2000-01-01 was a Saturday
			return checkTimestamp(days * usPerDay)
		case "month":
			c.Day = 1
		case "quarter":
			c.Day, c.Month = 1, (c.Month-1)/3*3+1
		case "year":
			c.Day, c.Month = 1, 1
		case "decade":
			c.Year, c.Day, c.Month = floorDiv(y, 10)*10, 1, 1
		case "century":
			c.Year, c.Day, c.Month = truncYears(y, 100), 1, 1
		case "millennium":
			c.Year, c.Day, c.Month = truncYears(y, 1000), 1, 1
		default:
			return 0, errUnit(name, unit, true)
		}
	}
	v, ok := c.Timestamp()
	if !ok {
		return 0, errTimestampRange()
	}
	return v, nil
}

// truncYears is the first year of a century or millennium: they begin with year 1.
func truncYears(y, n int64) int64 {
	if y > 0 {
		return (y+n-1)/n*n - (n - 1)
	}
	return -((n-1-(y-1))/n)*n + 1
}

func truncTimestampTZ(unit string, t int64, loc *time.Location) (int64, error) {
	if !types.TimestampFinite(t) {
		return truncTimestamp(unit, t, "timestamp with time zone")
	}
	local := types.UTCToLocal(t, loc)
	v, err := truncTimestamp(unit, local, "timestamp with time zone")
	if err != nil {
		return 0, err
	}
	switch dateUnits[strings.ToLower(unit)] {
	case "microseconds", "milliseconds", "second", "minute", "hour":
		return checkTimestamp(t - (local - v)) // the offset stays: it may repeat this hour
	}
	return checkTimestamp(types.LocalToUTC(v, loc))
}

func truncInterval(unit string, v types.Interval) (types.Interval, error) {
	field, known := dateUnits[strings.ToLower(unit)]
	m := v.Months
	switch field {
	case "microseconds":
		return v, nil
	case "milliseconds":
		v.Micros = v.Micros / 1000 * 1000
		return v, nil
	case "second":
		v.Micros = v.Micros / usPerSecond * usPerSecond
		return v, nil
	case "minute":
		v.Micros = v.Micros / usPerMinute * usPerMinute
		return v, nil
	case "hour":
		v.Micros = v.Micros / usPerHour * usPerHour
		return v, nil
	case "day":
		v.Micros = 0
		return v, nil
	case "month":
	case "quarter":
		m = m / 3 * 3
	case "year":
		m = m / 12 * 12
	case "decade":
		m = m / 120 * 120
	case "century":
		m = m / 1200 * 1200
	case "millennium":
		m = m / 12000 * 12000
	case "week":
		return v, pgerror.New(pgerrcode.FeatureNotSupported, "unit \"%s\" not supported for type interval", unit).
			WithDetail("Months usually have fractional weeks.")
	default:
		return v, errUnit("interval", unit, known && truncUnit(field))
	}
	return types.Interval{Months: m}, nil
}

// partFuncs are extract (numeric) and date_part (float8).
func partFuncs(r *registry) {
	out := func(f func(ctx *EvalContext, unit string, d types.Datum) (*apd.Decimal, error), extract, part string) {
		if extract != "" {
			r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
				v, err := f(ctx, a[0].Str(), a[1])
				if err != nil || v == nil {
					return types.Null, err
				}
				return types.NewNumeric(v), nil
			}, extract)
		}
		if part == "" {
			return
		}
		r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			v, err := f(ctx, a[0].Str(), a[1])
			if err != nil || v == nil {
				return types.Null, err
			}
			fl, err := types.NumericToFloat(v, 64)
			return types.NewFloat(fl), err
		}, part)
	}
	out(func(_ *EvalContext, unit string, d types.Datum) (*apd.Decimal, error) {
		return timestampPart(unit, d.Int(), 0, "timestamp without time zone")
	}, "extract_timestamp", "timestamp_part")
	out(func(ctx *EvalContext, unit string, d types.Datum) (*apd.Decimal, error) {
		if !types.TimestampFinite(d.Int()) {
			return timestampPart(unit, d.Int(), 0, "timestamp with time zone")
		}
		c := types.CivilTimestampTZ(d.Int(), ctx.location())
		switch dateUnits[strings.ToLower(unit)] {
		case "timezone":
			return apd.New(int64(c.Offset), 0), nil
		case "timezone_hour":
			return apd.New(int64(c.Offset/3600), 0), nil
		case "timezone_minute":
			return apd.New(int64(c.Offset/60%60), 0), nil
		case "epoch":
			return epoch(d.Int()), nil
		}
		return timestampPart(unit, d.Int()+int64(c.Offset)*usPerSecond, c.Offset, "timestamp with time zone")
	}, "extract_timestamptz", "timestamptz_part")
	out(datePart, "extract_date", "")
	out(func(_ *EvalContext, unit string, d types.Datum) (*apd.Decimal, error) { // as a timestamp
		t, err := dateToTimestamp(d.Int())
		if err != nil {
			return nil, err
		}
		return timestampPart(unit, t, 0, "timestamp without time zone")
	}, "", "date_part(text,date)")
	out(func(_ *EvalContext, unit string, d types.Datum) (*apd.Decimal, error) {
		return timePart(unit, d.Int(), nil)
	}, "extract_time", "time_part")
	out(func(_ *EvalContext, unit string, d types.Datum) (*apd.Decimal, error) {
		us, east := types.UnpackTimeTZ(d.Int())
		return timePart(unit, us, &east)
	}, "extract_timetz", "timetz_part")
	out(func(_ *EvalContext, unit string, d types.Datum) (*apd.Decimal, error) {
		return intervalPart(unit, d.Interval())
	}, "extract_interval", "interval_part")
}

// micros is v microseconds as seconds with six digits.
func micros(v int64) *apd.Decimal { return apd.New(v, -6) }

func epoch(t int64) *apd.Decimal {
	d := apd.New(0, -6)
	d.Coeff.SetInt64(t)
	d.Coeff.Add(&d.Coeff, new(apd.BigInt).Mul(apd.NewBigInt(unixEpochSeconds), apd.NewBigInt(usPerSecond)))
	if d.Coeff.Sign() < 0 {
		d.Negative = true
		d.Coeff.Abs(&d.Coeff)
	}
	return d
}

func datePart(_ *EvalContext, unit string, d types.Datum) (*apd.Decimal, error) {
	field, known := dateUnits[strings.ToLower(unit)]
	switch field {
	case "microseconds", "milliseconds", "second", "minute", "hour", "timezone", "timezone_hour", "timezone_minute":
		return nil, errUnit("date", unit, true)
	case "":
		return nil, errUnit("date", unit, known)
	}
	if types.DateFinite(d.Int()) {
		if field == "epoch" {
			return apd.New(d.Int()*86400+unixEpochSeconds, 0), nil
		}
		if field == "julian" {
			return apd.New(d.Int()+2451545, 0), nil
		}
	}
	t := types.TimestampInfinity
	switch {
	case d.Int() == int64(types.DateNegInfinity):
		t = types.TimestampNegInfinity
	case types.DateFinite(d.Int()):
		return civilPart(field, unit, d.Int(), types.Civil{}, "date")
	}
	return timestampPart(unit, t, 0, "date")
}

// timestampPart takes a local timestamp.
func timestampPart(unit string, t int64, _ int, name string) (*apd.Decimal, error) {
	field, known := dateUnits[strings.ToLower(unit)]
	if !known {
		return nil, errUnit(name, unit, false)
	}
	if !types.TimestampFinite(t) {
		switch field {
		case "year", "decade", "century", "millennium", "julian", "isoyear", "epoch":
			return numInf(t == types.TimestampNegInfinity), nil
		}
		return nil, nil
	}
	c := types.CivilTimestamp(t)
	switch field {
	case "microseconds":
		return apd.New(c.Second*usPerSecond+c.Micros, 0), nil
	case "milliseconds":
		return apd.New(c.Second*usPerSecond+c.Micros, -3), nil
	case "second":
		return micros(c.Second*usPerSecond + c.Micros), nil
	case "minute":
		return apd.New(c.Minute, 0), nil
	case "hour":
		return apd.New(c.Hour, 0), nil
	case "epoch":
		return epoch(t), nil
	case "julian":
		days := floorDiv(t, usPerDay)
		us := floorMod(t, usPerDay)
		frac, err := NumericDiv(apd.New(us, 0), apd.New(usPerDay, 0))
		if err != nil {
			return nil, err
		}
		return NumericAdd(apd.New(days+2451545, 0), frac), nil
	}
	return civilPart(field, unit, floorDiv(t, usPerDay), c, name)
}

// civilPart extracts what depends on the date only.
func civilPart(field, unit string, days int64, _ types.Civil, name string) (*apd.Decimal, error) {
	y, m, d := types.CivilFromDays(days)
	bc := y // PostgreSQL has no year zero: 1 BC is -1
	if y <= 0 {
		bc = y - 1
	}
	n := int64(0)
	switch field {
	case "day":
		n = d
	case "month":
		n = m
	case "quarter":
		n = (m-1)/3 + 1
	case "week":
		_, n = isoWeek(days)
	case "isoyear":
		if n, _ = isoWeek(days); n <= 0 {
			n--
		}
	case "year":
		n = bc
	case "decade":
		n = floorDiv(y, 10)
	case "century":
		n = span(y, 100)
	case "millennium":
		n = span(y, 1000)
	case "dow":
		n = floorMod(days+6, 7)
	case "isodow":
		if n = floorMod(days+6, 7); n == 0 {
			n = 7
		}
	case "doy":
		n = days - types.DaysFromCivil(y, 1, 1) + 1
	default:
		return nil, errUnit(name, unit, true)
	}
	return apd.New(n, 0), nil
}

func span(y, n int64) int64 {
	if y > 0 {
		return (y + n - 1) / n
	}
	return -((n - 1 - (y - 1)) / n)
}

// isoWeek is the ISO 8601 year and week of a date.
func isoWeek(days int64) (year, week int64) {
	thursday := days - floorMod(days+5, 7) + 3
	year, _, _ = types.CivilFromDays(thursday)
	return year, (thursday-types.DaysFromCivil(year, 1, 1))/7 + 1
}

func timePart(unit string, us int64, east *int) (*apd.Decimal, error) {
	name := "time without time zone"
	if east != nil {
		name = "time with time zone"
	}
	field, known := dateUnits[strings.ToLower(unit)]
	switch field {
	case "microseconds":
		return apd.New(us%usPerMinute, 0), nil
	case "milliseconds":
		return apd.New(us%usPerMinute, -3), nil
	case "second":
		return micros(us % usPerMinute), nil
	case "minute":
		return apd.New(us/usPerMinute%60, 0), nil
	case "hour":
		return apd.New(us/usPerHour, 0), nil
	case "epoch":
		if east != nil {
			us -= int64(*east) * usPerSecond
		}
		return micros(us), nil
	case "timezone":
		if east != nil {
			return apd.New(int64(*east), 0), nil
		}
	case "timezone_hour":
		if east != nil {
			return apd.New(int64(*east/3600), 0), nil
		}
	case "timezone_minute":
		if east != nil {
			return apd.New(int64(*east/60%60), 0), nil
		}
	}
	return nil, errUnit(name, unit, known)
}

func intervalPart(unit string, v types.Interval) (*apd.Decimal, error) {
	m := int64(v.Months)
	field, known := dateUnits[strings.ToLower(unit)]
	switch field {
	case "microseconds":
		return apd.New(v.Micros%usPerMinute, 0), nil
	case "milliseconds":
		return apd.New(v.Micros%usPerMinute, -3), nil
	case "second":
		return micros(v.Micros % usPerMinute), nil
	case "minute":
		return apd.New(v.Micros/usPerMinute%60, 0), nil
	case "hour":
		return apd.New(v.Micros/usPerHour, 0), nil
	case "day":
		return apd.New(int64(v.Days), 0), nil
	case "month":
		return apd.New(m%12, 0), nil
	case "quarter":
		return apd.New(m%12/3+1, 0), nil
	case "year":
		return apd.New(m/12, 0), nil
	case "decade":
		return apd.New(m/120, 0), nil
	case "century":
		return apd.New(m/1200, 0), nil
	case "millennium":
		return apd.New(m/12000, 0), nil
	case "epoch":
		// Years of 365.25 days, months of 30.
		secs := (m/12)*31557600 + (m%12)*30*86400 + int64(v.Days)*86400
		d := NumericAdd(NumericMul(apd.New(secs, 0), apd.New(1, 0)), micros(v.Micros))
		return types.RoundNumeric(d, 6), nil
	}
	return nil, errUnit("interval", unit, known)
}
