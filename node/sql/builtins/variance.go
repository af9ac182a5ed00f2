package builtins

import (
	"math"

	"github.com/cockroachdb/apd/v3"

	"github.com/atolldb/atoll/node/sql/types"
)

// varKind is which of the four statistics an accumulator yields.
type varKind struct{ sample, root bool }

func varianceAggregates(r *registry) {
	for name, k := range map[string]varKind{
		"variance": {true, false}, "var_samp": {true, false}, "var_pop": {false, false},
		"stddev": {true, true}, "stddev_samp": {true, true}, "stddev_pop": {false, true},
	} {
		for _, t := range []string{"int2", "int4", "int8", "numeric"} {
			r.aggregate(simple(func() Accumulator { return &varNumericAcc{kind: k} }), name+"("+t+")")
		}
		for _, t := range []string{"float4", "float8"} {
			r.aggregate(simple(func() Accumulator { return &varFloatAcc{kind: k} }), name+"("+t+")")
		}
	}
}

// varNumericAcc sums values and their squares exactly, as numeric_accum does.
type varNumericAcc struct {
	kind    varKind
	n       int64
	sum, sq *apd.Decimal
}

func (a *varNumericAcc) Add(_ *EvalContext, args []types.Datum) error {
	var v *apd.Decimal
	if args[0].Kind() == types.KindInt {
		v = apd.New(args[0].Int(), 0)
	} else {
		v = args[0].Numeric()
	}
	if a.n++; a.n == 1 {
		a.sum, a.sq = v, NumericMul(v, v)
		return nil
	}
	a.sum, a.sq = NumericAdd(a.sum, v), NumericAdd(a.sq, NumericMul(v, v))
	return nil
}

func (a *varNumericAcc) Result(*EvalContext) (types.Datum, error) {
	if a.n == 0 || a.kind.sample && a.n == 1 {
		return types.Null, nil
	}
	if a.sum.Form != apd.Finite || a.sq.Form != apd.Finite {
		return types.NewNumeric(numNaN()), nil
	}
	n := apd.New(a.n, 0)
	num := NumericAdd(NumericMul(n, a.sq), NumericNeg(NumericMul(a.sum, a.sum)))
	if num.Negative || num.Coeff.Sign() == 0 {
		return types.NewNumeric(new(apd.Decimal)), nil
	}
	den := NumericMul(n, n)
	if a.kind.sample {
		den = NumericMul(n, apd.New(a.n-1, 0))
	}
	v, err := NumericDiv(num, den)
	if err != nil {
		return types.Null, err
	}
	if a.kind.root {
		scale := divScale(num, den)
		w := v
		if v, err = sqrtTo(w, scale); err != nil {
			return types.Null, err
		}
	}
	return numResult(v)
}

func sqrtTo(x *apd.Decimal, scale int32) (*apd.Decimal, error) {
	shift := 2*(scale+1) - scaleOf(x)
	n := new(apd.BigInt).Set(&x.Coeff)
	if shift >= 0 {
		n.Mul(n, pow10(shift))
	} else {
		n.Quo(n, pow10(-shift))
	}
	d := &apd.Decimal{Exponent: -(scale + 1)}
	d.Coeff.Sqrt(n)
	return types.RoundNumeric(d, scale), nil
}

// varFloatAcc is Youngs and Cramer's algorithm, as float8_accum.
type varFloatAcc struct {
	kind    varKind
	n       float64
	sx, sx2 float64
}

func (a *varFloatAcc) Add(_ *EvalContext, args []types.Datum) error {
	v, before := args[0].Float(), a.sx
	a.n++
	a.sx += v
	if a.n > 1 {
		tmp := v*a.n - a.sx
		a.sx2 += tmp * tmp / (a.n * (a.n - 1))
		if math.IsInf(a.sx, 0) || math.IsInf(a.sx2, 0) {
			if !math.IsInf(v, 0) && !math.IsInf(before, 0) {
				return errFloat("overflow")
			}
			a.sx2 = math.NaN()
		}
	} else if math.IsNaN(v) || math.IsInf(v, 0) {
		a.sx2 = math.NaN()
	}
	return nil
}

func (a *varFloatAcc) Result(*EvalContext) (types.Datum, error) {
	if a.n == 0 || a.kind.sample && a.n == 1 {
		return types.Null, nil
	}
	v := a.sx2 / a.n
	if a.kind.sample {
		v = a.sx2 / (a.n - 1)
	}
	if a.kind.root {
		v = math.Sqrt(v)
	}
	return types.NewFloat(v), nil
}
