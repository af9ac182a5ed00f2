package builtins

import (
	"github.com/cockroachdb/apd/v3"
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// SetFn computes a set-returning function: it calls emit for each row, which emit does not
// keep, until emit returns false or an error.
type SetFn func(ctx *EvalContext, args []types.Datum, emit func(row []types.Datum) (bool, error)) error

// SetFn returns the implementation of a set-returning function; nil if there is none.
func (p *Proc) SetFn() SetFn {
	if p.impl == nil {
		return nil
	}
	return p.impl.set
}

// set registers set-returning functions.
func (r *registry) set(f SetFn, keys ...string) {
	for _, k := range keys {
		r.add(k, &impl{set: f})
	}
}

func setFuncs(r *registry) {
	for _, w := range []string{"int4", "int8"} {
		r.set(seriesInt, "generate_series_"+w, "generate_series_step_"+w)
	}
	r.set(seriesNumeric, "generate_series_numeric", "generate_series_step_numeric")
	r.set(seriesTimestamp(false), "generate_series_timestamp")
	r.set(seriesTimestamp(true), "generate_series_timestamptz")
	r.set(func(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
		var row [1]types.Datum
		for _, v := range a[0].Array().Values {
			row[0] = v
			if more, err := emit(row[:]); !more || err != nil {
				return err
			}
		}
		return nil
	}, "array_unnest")
	// information_schema's own helper, which JDBC's metadata queries call: the elements with
	// their positions from 1.
	r.set(func(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
		arr := a[0].Array()
		if len(arr.Dims) > 1 {
			return pgerror.New(pgerrcode.FeatureNotSupported, "_pg_expandarray takes arrays of one dimension")
		}
		for i, v := range arr.Values {
			if more, err := emit([]types.Datum{v, types.NewInt(int64(i + 1))}); !more || err != nil {
				return err
			}
		}
		return nil
	}, "_pg_expandarray")
	r.set(subscripts, "generate_subscripts", "generate_subscripts_nodir")
	r.set(regexpSplitSet, "regexp_split_to_table", "regexp_split_to_table_no_flags")
	r.set(regexpMatchesSet, "regexp_matches", "regexp_matches_no_flags")
	r.set(stringToTable, "text_to_table", "text_to_table_null")
	jsonSets(r)
	r.set(func(_ *EvalContext, _ []types.Datum, emit func([]types.Datum) (bool, error)) error {
		for _, k := range keywords() {
			row := []types.Datum{types.NewString(k.word), types.NewString(k.code), types.NewBool(k.bareLabel), types.NewString(k.desc), types.NewString(k.bareDesc)}
			if more, err := emit(row); !more || err != nil {
				return err
			}
		}
		return nil
	}, "pg_get_keywords")
}

func errStepZero() error {
	return pgerror.New(pgerrcode.InvalidParameterValue, "step size cannot equal zero")
}

func seriesInt(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
	from, to, step := a[0].Int(), a[1].Int(), int64(1)
	if len(a) > 2 {
		step = a[2].Int()
	}
	if step == 0 {
		return errStepZero()
	}
	var row [1]types.Datum
	for v := from; step > 0 && v <= to || step < 0 && v >= to; {
		row[0] = types.NewInt(v)
		if more, err := emit(row[:]); !more || err != nil {
			return err
		}
		next, ok := addInt(v, step)
		if !ok {
			return nil
		}
		v = next
	}
	return nil
}

func seriesNumeric(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
	step := apd.New(1, 0)
	if len(a) > 2 {
		step = a[2].Numeric()
	}
	for i, name := range []string{"start", "stop", "step size"} {
		v := step
		if i < 2 {
			v = a[i].Numeric()
		}
		if v.Form != apd.Finite {
			what := "NaN"
			if v.Form == apd.Infinite {
				what = "infinity"
			}
			if i < 2 {
				name += " value"
			}
			return pgerror.New(pgerrcode.InvalidParameterValue, "%s cannot be %s", name, what)
		}
	}
	if step.Coeff.Sign() == 0 {
		return errStepZero()
	}
	stop := a[1].Numeric()
	var row [1]types.Datum
	for v := a[0].Numeric(); ; v = NumericAdd(v, step) {
		if c := v.Cmp(stop); !step.Negative && c > 0 || step.Negative && c < 0 {
			return nil
		}
		row[0] = types.NewNumeric(v)
		if more, err := emit(row[:]); !more || err != nil {
			return err
		}
	}
}

func seriesTimestamp(tz bool) SetFn {
	return func(ctx *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
		step := a[2].Interval()
		dir := types.CompareInterval(step, types.Interval{})
		if dir == 0 {
			return errStepZero()
		}
		v, stop := a[0].Int(), a[1].Int()
		var row [1]types.Datum
		for dir > 0 && v <= stop || dir < 0 && v >= stop {
			row[0] = types.NewTimestamp(v)
			if more, err := emit(row[:]); !more || err != nil {
				return err
			}
			if !types.TimestampFinite(v) {
				return nil
			}
			var err error
			if tz {
				v, err = timestampTZPlus(v, step, ctx.location())
			} else {
				v, err = timestampPlus(v, step)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

func subscripts(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
	arr, dim := a[0].Array(), a[1].Int()
	if dim < 1 || dim > int64(len(arr.Dims)) {
		return nil
	}
	d := arr.Dims[dim-1]
	lo, hi := int64(d.Lower), int64(d.Lower)+int64(d.Len)-1
	var row [1]types.Datum
	for i := range int64(d.Len) {
		row[0] = types.NewInt(lo + i)
		if len(a) > 2 && a[2].Bool() {
			row[0] = types.NewInt(hi - i)
		}
		if more, err := emit(row[:]); !more || err != nil {
			return err
		}
	}
	return nil
}
