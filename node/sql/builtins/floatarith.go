package builtins

import (
	"math"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

func errFloat(what string) error {
	return pgerror.New(pgerrcode.NumericValueOutOfRange, "value out of range: %s", what)
}

// round32 makes a float4 of a result.
func round32(v float64, narrow bool) float64 {
	if narrow {
		return float64(float32(v))
	}
	return v
}

// floatResult refuses infinities that no operand had, and zeros where zeroOK is false.
func floatResult(v float64, narrow, infOK, zeroOK bool) (types.Datum, error) {
	v = round32(v, narrow)
	if math.IsInf(v, 0) && !infOK {
		return types.Null, errFloat("overflow")
	}
	if v == 0 && !zeroOK {
		return types.Null, errFloat("underflow")
	}
	return types.NewFloat(v), nil
}

func floatFuncs(r *registry) {
	for _, p := range []struct {
		prefix string
		narrow bool
	}{{"float4", true}, {"float8", false}, {"float48", false}, {"float84", false}} {
		n := p.narrow
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			x, y := a[0].Float(), a[1].Float()
			return floatResult(x+y, n, math.IsInf(x, 0) || math.IsInf(y, 0), true)
		}, p.prefix+"pl")
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			x, y := a[0].Float(), a[1].Float()
			return floatResult(x-y, n, math.IsInf(x, 0) || math.IsInf(y, 0), true)
		}, p.prefix+"mi")
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			x, y := a[0].Float(), a[1].Float()
			return floatResult(x*y, n, math.IsInf(x, 0) || math.IsInf(y, 0), x == 0 || y == 0)
		}, p.prefix+"mul")
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			x, y := a[0].Float(), a[1].Float()
			if y == 0 && !math.IsNaN(x) {
				return types.Null, errDivisionByZero()
			}
			return floatResult(x/y, n, math.IsInf(x, 0), x == 0 || math.IsInf(y, 0))
		}, p.prefix+"div")
	}
	one := func(f func(float64) float64) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			return types.NewFloat(f(a[0].Float())), nil
		}
	}
	for _, p := range []string{"float4", "float8"} {
		r.fn(one(func(v float64) float64 { return -v }), p+"um")
		r.fn(one(func(v float64) float64 { return v }), p+"up")
		r.fn(one(math.Abs), p+"abs")
	}
	r.fn(one(math.RoundToEven), "dround")
	r.fn(one(math.Trunc), "dtrunc")
	r.fn(one(math.Ceil), "dceil")
	r.fn(one(math.Floor), "dfloor")
	r.fn(one(func(v float64) float64 {
		switch {
		case v > 0:
			return 1
		case v < 0:
			return -1
		}
		return 0
	}), "dsign")
	r.fn(one(func(v float64) float64 { return v * 180 / math.Pi }), "degrees")
	r.fn(one(func(v float64) float64 { return v / 180 * math.Pi }), "radians")
	r.fn(func(_ *EvalContext, _ []types.Datum) (types.Datum, error) { return types.NewFloat(math.Pi), nil }, "dpi")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].Float() < 0 {
			return types.Null, pgerror.New(pgerrcode.InvalidArgumentForPowerFunction, "cannot take square root of a negative number")
		}
		return types.NewFloat(math.Sqrt(a[0].Float())), nil
	}, "dsqrt")
	r.fn(one(math.Cbrt), "dcbrt")
	r.fn(floatExp, "dexp")
	r.fn(floatLog(math.Log), "dlog1")
	r.fn(floatLog(math.Log10), "dlog10")
	r.fn(floatPow, "dpow")
	trig(r)
	r.fn(func(ctx *EvalContext, _ []types.Datum) (types.Datum, error) {
		return types.NewFloat(ctx.float64()), nil
	}, "drandom")
}

func floatExp(_ *EvalContext, a []types.Datum) (types.Datum, error) {
	v := a[0].Float()
	return floatResult(math.Exp(v), false, math.IsInf(v, 0), math.IsInf(v, -1))
}

func floatLog(f func(float64) float64) Eval {
	return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		switch v := a[0].Float(); {
		case v == 0:
			return types.Null, pgerror.New(pgerrcode.InvalidArgumentForLogarithm, "cannot take logarithm of zero")
		case v < 0:
			return types.Null, pgerror.New(pgerrcode.InvalidArgumentForLogarithm, "cannot take logarithm of a negative number")
		default:
			return types.NewFloat(f(v)), nil
		}
	}
}

func floatPow(_ *EvalContext, a []types.Datum) (types.Datum, error) {
	x, y := a[0].Float(), a[1].Float()
	switch {
	case x == 1 || y == 0:
		return types.NewFloat(1), nil
	case math.IsNaN(x) || math.IsNaN(y):
		return types.NewFloat(math.NaN()), nil
	case x == 0 && y < 0:
		return types.Null, pgerror.New(pgerrcode.InvalidArgumentForPowerFunction, "zero raised to a negative power is undefined")
	case x < 0 && math.Floor(y) != y:
		return types.Null, pgerror.New(pgerrcode.InvalidArgumentForPowerFunction, "a negative number raised to a non-integer power yields a complex result")
	}
	inf := math.IsInf(x, 0) || math.IsInf(y, 0)
	return floatResult(math.Pow(x, y), false, inf, inf || x == 0)
}

func trig(r *registry) {
	periodic := map[string]func(float64) float64{"dsin": math.Sin, "dcos": math.Cos, "dtan": math.Tan,
		"dcot": func(v float64) float64 { return 1 / math.Tan(v) }}
	for name, f := range periodic {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			v := a[0].Float()
			if math.IsInf(v, 0) {
				return types.Null, pgerror.New(pgerrcode.NumericValueOutOfRange, "input is out of range")
			}
			return types.NewFloat(f(v)), nil
		}, name)
	}
	bounded := map[string]func(float64) float64{"dasin": math.Asin, "dacos": math.Acos, "datanh": math.Atanh}
	for name, f := range bounded {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			v := a[0].Float()
			if v < -1 || v > 1 {
				return types.Null, pgerror.New(pgerrcode.NumericValueOutOfRange, "input is out of range")
			}
			return types.NewFloat(f(v)), nil
		}, name)
	}
	free := map[string]func(float64) float64{"datan": math.Atan, "dsinh": math.Sinh, "dcosh": math.Cosh, "dtanh": math.Tanh, "dasinh": math.Asinh}
	for name, f := range free {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			return types.NewFloat(f(a[0].Float())), nil
		}, name)
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewFloat(math.Atan2(a[0].Float(), a[1].Float())), nil
	}, "datan2")
}
