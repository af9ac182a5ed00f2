package builtins

import (
	"math"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// CurrentTime says which of SQL's CURRENT_... the caller means: the parser has nodes for them.
type CurrentTime uint8

const (
	CurrentDate CurrentTime = iota
	CurrentTimeTZ
	CurrentTimestampTZ
	LocalTime
	LocalTimestamp
)

// Current evaluates CURRENT_DATE and its like at the transaction's start. typmod is -1 or the precision.
func (ctx *EvalContext) Current(what CurrentTime, typmod int32) types.Datum {
	now := types.TimestampFromTime(ctx.txnTime())
	c := types.CivilTimestampTZ(now, ctx.location())
	local := now + int64(c.Offset)*usPerSecond
	switch what {
	case CurrentDate:
		return types.NewDate(int32(floorDiv(local, usPerDay)))
	case CurrentTimeTZ:
		return types.NewTime(types.PackTimeTZ(types.RoundTime(floorMod(local, usPerDay), typmod), c.Offset))
	case LocalTime:
		return types.NewTime(types.RoundTime(floorMod(local, usPerDay), typmod))
	case LocalTimestamp:
		return types.NewTimestamp(types.RoundTimestamp(local, typmod))
	}
	return types.NewTimestamp(types.RoundTimestamp(now, typmod))
}

func nowFuncs(r *registry) {
	r.fn(func(ctx *EvalContext, _ []types.Datum) (types.Datum, error) {
		return types.NewTimestamp(types.TimestampFromTime(ctx.txnTime())), nil
	}, "now")
	r.fn(func(ctx *EvalContext, _ []types.Datum) (types.Datum, error) {
		return types.NewTimestamp(types.TimestampFromTime(ctx.statementTime())), nil
	}, "statement_timestamp")
	r.fn(func(_ *EvalContext, _ []types.Datum) (types.Datum, error) {
		return types.NewTimestamp(types.TimestampFromTime(time.Now())), nil
	}, "clock_timestamp")
	r.fn(func(ctx *EvalContext, _ []types.Datum) (types.Datum, error) {
		return types.NewString(time.Now().In(ctx.location()).Format("Mon Jan 02 15:04:05.000000 2006 MST")), nil
	}, "timeofday")
}

// zoneFuncs are AT TIME ZONE.
func zoneFuncs(r *registry) {
	zone := func(d types.Datum) (*time.Location, error) {
		if d.Kind() == types.KindInterval {
			v := d.Interval()
			if v.Months != 0 || v.Days != 0 {
				return nil, pgerror.New(pgerrcode.InvalidParameterValue, "interval time zone \"%s\" must not include months or days",
					types.Text(types.OIDInterval, d, nil))
			}
			return time.FixedZone("", int(v.Micros/usPerSecond)), nil
		}
		return types.LoadZone(d.Str())
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		l, err := zone(a[0])
		if err != nil {
			return types.Null, err
		}
		return ts(checkTimestamp(types.LocalToUTC(a[1].Int(), l)))
	}, "timestamp_zone", "timestamp_izone")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		l, err := zone(a[0])
		if err != nil {
			return types.Null, err
		}
		return ts(checkTimestamp(types.UTCToLocal(a[1].Int(), l)))
	}, "timestamptz_zone", "timestamptz_izone")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		l, err := zone(a[0])
		if err != nil {
			return types.Null, err
		}
		us, east := types.UnpackTimeTZ(a[1].Int())
		off := types.CivilTimestampTZ(types.TimestampFromTime(ctx.txnTime()), l).Offset
		return types.NewTime(types.PackTimeTZ(floorMod(us+int64(off-east)*usPerSecond, usPerDay), off)), nil
	}, "timetz_zone", "timetz_izone")
}

func makeFuncs(r *registry) {
	civil := func(a []types.Datum) (int64, error) {
		y := a[0].Int()
		if y < 0 {
			y++ // -1 is 1 BC
		} else if y == 0 {
			y = math.MinInt32
		}
		m, d := a[1].Int(), a[2].Int()
		if y < -4713 || m < 1 || m > 12 || d < 1 || d > types.DaysInMonth(y, m) {
			return 0, pgerror.New(pgerrcode.DatetimeFieldOverflow, "date field value out of range: %d-%02d-%02d", a[0].Int(), m, d)
		}
		days := types.DaysFromCivil(y, m, d)
		if !types.DateInRange(days) {
			return 0, pgerror.New(pgerrcode.DatetimeFieldOverflow, "date out of range: %d-%02d-%02d", a[0].Int(), m, d)
		}
		return days, nil
	}
	clock := func(a []types.Datum) (int64, error) {
		h, m, s := a[0].Int(), a[1].Int(), a[2].Float()
		us := math.RoundToEven(s * 1e6)
		if h < 0 || m < 0 || m > 59 || math.IsNaN(s) || s < 0 || us > 60e6 || h > 24 || h == 24 && (m > 0 || us > 0) {
			return 0, pgerror.New(pgerrcode.DatetimeFieldOverflow, "time field value out of range: %d:%02d:%02g", h, m, s)
		}
		return h*usPerHour + m*usPerMinute + int64(us), nil
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		d, err := civil(a)
		return types.NewDate(int32(d)), err
	}, "make_date")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		t, err := clock(a)
		return types.NewTime(t), err
	}, "make_time")
	stamp := func(a []types.Datum) (int64, error) {
		d, err := civil(a)
		if err != nil {
			return 0, err
		}
		t, err := clock(a[3:])
		if err != nil {
			return 0, err
		}
		return checkTimestamp(d*usPerDay + t)
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return ts(stamp(a)) }, "make_timestamp")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		t, err := stamp(a)
		if err != nil {
			return types.Null, err
		}
		l := ctx.location()
		if len(a) > 6 {
			if l, err = types.LoadZone(a[6].Str()); err != nil {
				return types.Null, err
			}
		}
		return ts(checkTimestamp(types.LocalToUTC(t, l)))
	}, "make_timestamptz", "make_timestamptz_at_timezone")
	r.fn(makeInterval, "make_interval")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		f := a[0].Float()
		switch {
		case math.IsNaN(f):
			return types.Null, pgerror.New(pgerrcode.DatetimeFieldOverflow, "timestamp cannot be NaN")
		case math.IsInf(f, 1):
			return types.NewTimestamp(types.TimestampInfinity), nil
		case math.IsInf(f, -1):
			return types.NewTimestamp(types.TimestampNegInfinity), nil
		}
		us := math.RoundToEven((f - unixEpochSeconds) * 1e6)
		if us < -9.3e18 || us > 9.2233e18 || !types.TimestampInRange(int64(us)) {
			return types.Null, pgerror.New(pgerrcode.DatetimeFieldOverflow, "timestamp out of range: \"%s\"", types.Text(types.OIDFloat8, a[0], nil))
		}
		return types.NewTimestamp(int64(us)), nil
	}, "float8_timestamptz")
}

func makeInterval(_ *EvalContext, a []types.Datum) (types.Datum, error) {
	m := a[0].Int()*12 + a[1].Int()
	d := a[2].Int()*7 + a[3].Int()
	secs := a[6].Float()
	if m != int64(int32(m)) || d != int64(int32(d)) || math.IsNaN(secs) || math.IsInf(secs, 0) || math.Abs(secs) > 9e12 {
		return types.Null, errIntervalRange()
	}
	us := a[4].Int()*usPerHour + a[5].Int()*usPerMinute + int64(math.RoundToEven(secs*1e6))
	return types.NewInterval(types.Interval{Months: int32(m), Days: int32(d), Micros: us}), nil
}
