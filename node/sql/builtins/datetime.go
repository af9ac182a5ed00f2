package builtins

import (
	"math"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

const (
	usPerSecond = int64(1_000_000)
	usPerMinute = 60 * usPerSecond
	usPerHour   = 60 * usPerMinute
	usPerDay    = 24 * usPerHour

	unixEpochSeconds = 946684800 // 2000-01-01 since 1970-01-01
)

func errTimestampRange() error {
	return pgerror.New(pgerrcode.DatetimeFieldOverflow, "timestamp out of range")
}
func errDateRange() error { return pgerror.New(pgerrcode.DatetimeFieldOverflow, "date out of range") }
func errIntervalRange() error {
	return pgerror.New(pgerrcode.DatetimeFieldOverflow, "interval out of range")
}

func checkTimestamp(ts int64) (int64, error) {
	if types.TimestampFinite(ts) && !types.TimestampInRange(ts) {
		return 0, errTimestampRange()
	}
	return ts, nil
}

func checkDate(d int64) (types.Datum, error) {
	if !types.DateInRange(d) {
		return types.Null, errDateRange()
	}
	return types.NewDate(int32(d)), nil
}

// dateToTimestamp is the date's midnight.
func dateToTimestamp(d int64) (int64, error) {
	switch {
	case d == int64(types.DateInfinity):
		return types.TimestampInfinity, nil
	case d == int64(types.DateNegInfinity):
		return types.TimestampNegInfinity, nil
	case d >= 106751991: // 294277-01-01 and on
		return 0, pgerror.New(pgerrcode.DatetimeFieldOverflow, "date out of range for timestamp")
	}
	return d * usPerDay, nil
}

func timestampToDate(ts int64) int64 {
	switch ts {
	case types.TimestampInfinity:
		return int64(types.DateInfinity)
	case types.TimestampNegInfinity:
		return int64(types.DateNegInfinity)
	}
	return floorDiv(ts, usPerDay)
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b != 0 && (a < 0) != (b < 0) {
		q--
	}
	return q
}

func floorMod(a, b int64) int64 { return a - floorDiv(a, b)*b }

// addMonths moves a local timestamp by months; a day that the month lacks becomes its last.
func addMonths(ts int64, months int64) (int64, error) {
	c := types.CivilTimestamp(ts)
	m := c.Year*12 + c.Month - 1 + months
	c.Year, c.Month = floorDiv(m, 12), floorMod(m, 12)+1
	c.Day = min(c.Day, types.DaysInMonth(c.Year, c.Month))
	ts, ok := c.Timestamp()
	if !ok {
		return 0, errTimestampRange()
	}
	return ts, nil
}

func timestampPlus(ts int64, v types.Interval) (int64, error) {
	if !types.TimestampFinite(ts) {
		return ts, nil
	}
	var err error
	if v.Months != 0 {
		if ts, err = addMonths(ts, int64(v.Months)); err != nil {
			return 0, err
		}
	}
	return addDaysMicros(ts, int64(v.Days), v.Micros)
}

func addDaysMicros(ts, days, us int64) (int64, error) {
	d, ok := mulInt(days, usPerDay)
	if ok {
		ts, ok = addInt(ts, d)
	}
	if ok {
		ts, ok = addInt(ts, us)
	}
	if !ok || !types.TimestampInRange(ts) {
		return 0, errTimestampRange()
	}
	return ts, nil
}

// timestampTZPlus adds months and days in a zone's local time.
func timestampTZPlus(ts int64, v types.Interval, loc *time.Location) (int64, error) {
	if !types.TimestampFinite(ts) {
		return ts, nil
	}
	if v.Months != 0 || v.Days != 0 {
		local, err := timestampPlus(types.UTCToLocal(ts, loc), types.Interval{Months: v.Months, Days: v.Days})
		if err != nil {
			return 0, err
		}
		ts = types.LocalToUTC(local, loc)
	}
	return addDaysMicros(ts, 0, v.Micros)
}

func intervalNeg(v types.Interval) (types.Interval, error) {
	if v.Months == math.MinInt32 || v.Days == math.MinInt32 || v.Micros == math.MinInt64 {
		return v, errIntervalRange()
	}
	return types.Interval{Months: -v.Months, Days: -v.Days, Micros: -v.Micros}, nil
}

func intervalAdd(a, b types.Interval) (types.Interval, error) {
	m, d := int64(a.Months)+int64(b.Months), int64(a.Days)+int64(b.Days)
	us, ok := addInt(a.Micros, b.Micros)
	if !ok || m != int64(int32(m)) || d != int64(int32(d)) {
		return types.Interval{}, errIntervalRange()
	}
	return types.Interval{Months: int32(m), Days: int32(d), Micros: us}, nil
}

// intervalScale multiplies by a factor; with div not zero it divides by div instead, which
// rounds differently.
func intervalScale(v types.Interval, factor, div float64) (types.Interval, error) {
	scale := func(x float64) float64 {
		if div != 0 {
			return x / div
		}
		return x * factor
	}
	var out types.Interval
	m := scale(float64(v.Months))
	d := scale(float64(v.Days))
	if math.IsNaN(m) || math.Abs(m) > math.MaxInt32 || math.IsNaN(d) || math.Abs(d) > math.MaxInt32 {
		return out, errIntervalRange()
	}
	out.Months, out.Days = int32(m), int32(d)
	monthDays := roundUS((m - float64(out.Months)) * 30)
	secs := roundUS((d - float64(out.Days) + monthDays - math.Trunc(monthDays)) * 86400)
	if math.Abs(secs) >= 86400 {
		out.Days += int32(secs / 86400)
		secs -= math.Trunc(secs/86400) * 86400
	}
	out.Days += int32(monthDays)
	us := math.RoundToEven(scale(float64(v.Micros)) + secs*1e6)
	if math.IsNaN(us) || us < math.MinInt64 || us >= -math.MinInt64 {
		return out, errIntervalRange()
	}
	out.Micros = int64(us)
	return out, nil
}

// roundUS is TSROUND: to six digits.
func roundUS(x float64) float64 { return math.RoundToEven(x*1e6) / 1e6 }

// justifyHours, justifyDays and justify are justify_hours and its like.
func justifyHours(v types.Interval) (types.Interval, error) {
	days := v.Micros / usPerDay
	v.Micros -= days * usPerDay
	d := int64(v.Days) + days
	if d != int64(int32(d)) {
		return v, errIntervalRange()
	}
	v.Days = int32(d)
	if v.Days > 0 && v.Micros < 0 {
		v.Micros += usPerDay
		v.Days--
	} else if v.Days < 0 && v.Micros > 0 {
		v.Micros -= usPerDay
		v.Days++
	}
	return v, nil
}

func justifyDays(v types.Interval) (types.Interval, error) {
	m := int64(v.Months) + int64(v.Days/30)
	v.Days %= 30
	if m != int64(int32(m)) {
		return v, errIntervalRange()
	}
	v.Months = int32(m)
	if v.Months > 0 && v.Days < 0 {
		v.Days += 30
		v.Months--
	} else if v.Months < 0 && v.Days > 0 {
		v.Days -= 30
		v.Months++
	}
	return v, nil
}

func justify(v types.Interval) (types.Interval, error) {
	var err error
	if v.Days > 0 && v.Micros > 0 || v.Days < 0 && v.Micros < 0 {
		m := int64(v.Months) + int64(v.Days/30)
		v.Days %= 30
		v.Months = int32(m)
	}
	days := v.Micros / usPerDay
	v.Micros -= days * usPerDay
	v.Days += int32(days)
	v.Months += v.Days / 30
	v.Days %= 30
	if v.Months > 0 && (v.Days < 0 || v.Days == 0 && v.Micros < 0) {
		v.Days += 30
		v.Months--
	} else if v.Months < 0 && (v.Days > 0 || v.Days == 0 && v.Micros > 0) {
		v.Days -= 30
		v.Months++
	}
	if v.Days > 0 && v.Micros < 0 {
		v.Micros += usPerDay
		v.Days--
	} else if v.Days < 0 && v.Micros > 0 {
		v.Micros -= usPerDay
		v.Days++
	}
	return v, err
}

// timestampAge is age(later, earlier): years, months and days apart.
func timestampAge(a, b int64) (types.Interval, error) {
	if !types.TimestampFinite(a) || !types.TimestampFinite(b) {
		return types.Interval{}, errTimestampRange()
	}
	neg := a < b
	if neg {
		a, b = b, a
	}
	x, y := types.CivilTimestamp(a), types.CivilTimestamp(b)
	us := (x.Hour-y.Hour)*usPerHour + (x.Minute-y.Minute)*usPerMinute + (x.Second-y.Second)*usPerSecond + x.Micros - y.Micros
	days, months, years := x.Day-y.Day, x.Month-y.Month, x.Year-y.Year
	if us < 0 {
		us += usPerDay
		days--
	}
	for days < 0 {
		if neg {
			days += types.DaysInMonth(x.Year, x.Month)
		} else {
			days += types.DaysInMonth(y.Year, y.Month)
		}
		months--
	}
	for months < 0 {
		months += 12
		years--
	}
	if neg {
		us, days, months, years = -us, -days, -months, -years
	}
	return types.Interval{Months: int32(years*12 + months), Days: int32(days), Micros: us}, nil
}

func timestampMinus(a, b int64) (types.Interval, error) {
	if !types.TimestampFinite(a) || !types.TimestampFinite(b) {
		return types.Interval{}, pgerror.New(pgerrcode.DatetimeFieldOverflow, "cannot subtract infinite timestamps")
	}
	us, ok := subInt(a, b)
	if !ok {
		return types.Interval{}, errIntervalRange()
	}
	return justifyHours(types.Interval{Micros: us})
}

func datetimeFuncs(r *registry) {
	dateArith(r)
	timeArith(r)
	intervalFuncs(r)
	dateCasts(r)
	nowFuncs(r)
	zoneFuncs(r)
	makeFuncs(r)
	truncFuncs(r)
	partFuncs(r)
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return toTimestamp(ctx, a[0].Str(), a[1].Str())
	}, "to_timestamp")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return toDate(ctx, a[0].Str(), a[1].Str())
	}, "to_date")
}

func ts(v int64, err error) (types.Datum, error) { return types.NewTimestamp(v), err }

func iv(v types.Interval, err error) (types.Datum, error) {
	if err != nil {
		return types.Null, err
	}
	return types.NewInterval(v), nil
}

func dateArith(r *registry) {
	plus := func(d, n int64) (types.Datum, error) {
		if !types.DateFinite(d) {
			return types.NewDate(int32(d)), nil
		}
		return checkDate(d + n)
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return plus(a[0].Int(), a[1].Int()) }, "date_pli")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return plus(a[1].Int(), a[0].Int()) }, "integer_pl_date(int4,date)")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return plus(a[0].Int(), -a[1].Int()) }, "date_mii")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if !types.DateFinite(a[0].Int()) || !types.DateFinite(a[1].Int()) {
			return types.Null, pgerror.New(pgerrcode.DatetimeFieldOverflow, "cannot subtract infinite dates")
		}
		return types.NewInt(a[0].Int() - a[1].Int()), nil
	}, "date_mi")
	dateInterval := func(d int64, v types.Interval) (types.Datum, error) {
		t, err := dateToTimestamp(d)
		if err != nil {
			return types.Null, err
		}
		return ts(timestampPlus(t, v))
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return dateInterval(a[0].Int(), a[1].Interval())
	}, "date_pl_interval")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return dateInterval(a[1].Int(), a[0].Interval())
	}, "interval_pl_date(interval,date)")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		v, err := intervalNeg(a[1].Interval())
		if err != nil {
			return types.Null, err
		}
		return dateInterval(a[0].Int(), v)
	}, "date_mi_interval")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewBool(types.DateFinite(a[0].Int())), nil
	}, "date_finite")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewBool(types.TimestampFinite(a[0].Int())), nil
	}, "timestamp_finite")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return types.NewBool(true), nil }, "interval_finite")
	dateTime := func(d, t int64) (types.Datum, error) {
		v, err := dateToTimestamp(d)
		if err != nil || !types.TimestampFinite(v) {
			return ts(v, err)
		}
		return ts(checkTimestamp(v + t))
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return dateTime(a[0].Int(), a[1].Int()) }, "datetime_timestamp")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return dateTime(a[1].Int(), a[0].Int()) }, "timedate_pl(time,date)")
}

func timeArith(r *registry) {
	for _, tz := range []bool{false, true} {
		add := func(ctx *EvalContext, t int64, v types.Interval) (types.Datum, error) {
			if tz {
				return ts(timestampTZPlus(t, v, ctx.location()))
			}
			return ts(timestampPlus(t, v))
		}
		name := "timestamp"
		if tz {
			name = "timestamptz"
		}
		r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			return add(ctx, a[0].Int(), a[1].Interval())
		}, name+"_pl_interval")
		r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			return add(ctx, a[1].Int(), a[0].Interval())
		},
			"interval_pl_"+name+"(interval,"+name+")")
		r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			v, err := intervalNeg(a[1].Interval())
			if err != nil {
				return types.Null, err
			}
			return add(ctx, a[0].Int(), v)
		}, name+"_mi_interval")
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return iv(timestampMinus(a[0].Int(), a[1].Int()))
	}, "timestamp_mi")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return iv(timestampAge(a[0].Int(), a[1].Int()))
	}, "timestamp_age")
	local := func(ctx *EvalContext, t int64) int64 { return types.UTCToLocal(t, ctx.location()) }
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return iv(timestampAge(local(ctx, a[0].Int()), local(ctx, a[1].Int())))
	}, "timestamptz_age")
	today := func(ctx *EvalContext) int64 {
		l := local(ctx, types.TimestampFromTime(ctx.txnTime()))
		return l - floorMod(l, usPerDay)
	}
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return iv(timestampAge(today(ctx), a[0].Int()))
	}, "age(timestamp)")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return iv(timestampAge(today(ctx), local(ctx, a[0].Int())))
	}, "age(timestamptz)")
	wrap := func(us int64) types.Datum { return types.NewTime(floorMod(us, usPerDay)) }
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return wrap(a[0].Int() + a[1].Interval().Micros), nil
	}, "time_pl_interval")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return wrap(a[1].Int() + a[0].Interval().Micros), nil
	}, "interval_pl_time(interval,time)")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return wrap(a[0].Int() - a[1].Interval().Micros), nil
	}, "time_mi_interval")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewInterval(types.Interval{Micros: a[0].Int() - a[1].Int()}), nil
	}, "time_mi_time")
	tzShift := func(v int64, us int64) types.Datum {
		t, east := types.UnpackTimeTZ(v)
		return types.NewTime(types.PackTimeTZ(floorMod(t+us, usPerDay), east))
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return tzShift(a[0].Int(), a[1].Interval().Micros), nil
	}, "timetz_pl_interval")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return tzShift(a[0].Int(), -a[1].Interval().Micros), nil
	}, "timetz_mi_interval")
}

func intervalFuncs(r *registry) {
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return iv(intervalNeg(a[0].Interval())) }, "interval_um")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return iv(intervalAdd(a[0].Interval(), a[1].Interval()))
	}, "interval_pl")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		v, err := intervalNeg(a[1].Interval())
		if err != nil {
			return types.Null, err
		}
		return iv(intervalAdd(a[0].Interval(), v))
	}, "interval_mi")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return iv(intervalScale(a[0].Interval(), a[1].Float(), 0))
	}, "interval_mul")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return iv(intervalScale(a[1].Interval(), a[0].Float(), 0))
	}, "mul_d_interval")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[1].Float() == 0 {
			return types.Null, errDivisionByZero()
		}
		return iv(intervalScale(a[0].Interval(), 0, a[1].Float()))
	}, "interval_div")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return iv(justifyHours(a[0].Interval())) }, "interval_justify_hours")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return iv(justifyDays(a[0].Interval())) }, "interval_justify_days")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return iv(justify(a[0].Interval())) }, "interval_justify_interval")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return iv(types.ApplyIntervalTypmod(a[0].Interval(), int32(a[1].Int())))
	}, "interval_scale")
}

func dateCasts(r *registry) {
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return ts(dateToTimestamp(a[0].Int())) }, "date_timestamp")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		t, err := dateToTimestamp(a[0].Int())
		if err != nil {
			return types.Null, err
		}
		return ts(checkTimestamp(types.LocalToUTC(t, ctx.location())))
	}, "date_timestamptz")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewDate(int32(timestampToDate(a[0].Int()))), nil
	}, "timestamp_date")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewDate(int32(timestampToDate(types.UTCToLocal(a[0].Int(), ctx.location())))), nil
	}, "timestamptz_date")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return ts(checkTimestamp(types.LocalToUTC(a[0].Int(), ctx.location())))
	}, "timestamp_timestamptz")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return ts(checkTimestamp(types.UTCToLocal(a[0].Int(), ctx.location())))
	}, "timestamptz_timestamp")
	timeOf := func(t int64) (types.Datum, error) {
		if !types.TimestampFinite(t) {
			return types.Null, nil
		}
		return types.NewTime(floorMod(t, usPerDay)), nil
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return timeOf(a[0].Int()) }, "timestamp_time")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return timeOf(types.UTCToLocal(a[0].Int(), ctx.location()))
	}, "timestamptz_time")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		if !types.TimestampFinite(a[0].Int()) {
			return types.Null, nil
		}
		c := types.CivilTimestampTZ(a[0].Int(), ctx.location())
		return types.NewTime(types.PackTimeTZ(floorMod(types.UTCToLocal(a[0].Int(), ctx.location()), usPerDay), c.Offset)), nil
	}, "timestamptz_timetz")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewInterval(types.Interval{Micros: a[0].Int()}), nil
	}, "time_interval")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewTime(floorMod(a[0].Interval().Micros, usPerDay)), nil
	}, "interval_time")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		us, _ := types.UnpackTimeTZ(a[0].Int())
		return types.NewTime(us), nil
	}, "timetz_time")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		c := types.CivilTimestampTZ(types.TimestampFromTime(ctx.txnTime()), ctx.location())
		return types.NewTime(types.PackTimeTZ(a[0].Int(), c.Offset)), nil
	}, "time_timetz")
	for name, oid := range map[string]types.OID{"timestamp_scale": types.OIDTimestamp, "timestamptz_scale": types.OIDTimestampTZ,
		"time_scale": types.OIDTime, "timetz_scale": types.OIDTimeTZ} {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			return types.ApplyTypmod(oid, int32(a[1].Int()), true, a[0])
		}, name)
	}
}
