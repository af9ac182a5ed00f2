package builtins

import (
	"github.com/cockroachdb/apd/v3"
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// Result scales follow PostgreSQL's numeric.c, whose numbers are in base 10000.
const (
	nbaseDigits      = 4
	minSigDigits     = 16
	maxDisplayScale  = 1000
	maxStoredScale   = 16383
	maxResultScale   = 2000
	numericMaxWeight = 131072
)

func numNaN() *apd.Decimal { return &apd.Decimal{Form: apd.NaN} }

func numInf(neg bool) *apd.Decimal { return &apd.Decimal{Form: apd.Infinite, Negative: neg} }

func isNaN(d *apd.Decimal) bool { return d.Form != apd.Finite && d.Form != apd.Infinite }
func isInf(d *apd.Decimal) bool { return d.Form == apd.Infinite }

func scaleOf(d *apd.Decimal) int32 { return types.NumericScale(d) }

// signed returns the coefficient with its sign, at a scale of at least d's own.
func signed(d *apd.Decimal, scale int32) *apd.BigInt {
	v := new(apd.BigInt).Set(&d.Coeff)
	if n := scale - scaleOf(d); n > 0 {
		v.Mul(v, pow10(n))
	}
	if d.Negative {
		v.Neg(v)
	}
	return v
}

var powers = func() (out [64]*apd.BigInt) {
	out[0] = apd.NewBigInt(1)
	for i := 1; i < len(out); i++ {
		out[i] = new(apd.BigInt).Mul(out[i-1], apd.NewBigInt(10))
	}
	return out
}()

func pow10(n int32) *apd.BigInt {
	if int(n) < len(powers) {
		return powers[n]
	}
	return new(apd.BigInt).Exp(powers[1], apd.NewBigInt(int64(n)), nil)
}

// fromSigned makes a numeric of a signed coefficient at a scale.
func fromSigned(v *apd.BigInt, scale int32) *apd.Decimal {
	d := &apd.Decimal{Exponent: -scale, Negative: v.Sign() < 0}
	d.Coeff.Abs(v)
	return d
}

func numResult(d *apd.Decimal) (types.Datum, error) {
	d, err := types.CheckNumeric(d)
	if err != nil {
		return types.Null, err
	}
	return types.NewNumeric(d), nil
}

// NumericAdd is numeric_add.
func NumericAdd(x, y *apd.Decimal) *apd.Decimal {
	switch {
	case isNaN(x) || isNaN(y):
		return numNaN()
	case isInf(x):
		if isInf(y) && x.Negative != y.Negative {
			return numNaN()
		}
		return x
	case isInf(y):
		return y
	}
	scale := max(scaleOf(x), scaleOf(y))
	return fromSigned(new(apd.BigInt).Add(signed(x, scale), signed(y, scale)), scale)
}

// NumericNeg is numeric_uminus.
func NumericNeg(x *apd.Decimal) *apd.Decimal {
	if isNaN(x) || x.Form == apd.Finite && x.Coeff.Sign() == 0 {
		return x
	}
	d := new(apd.Decimal).Set(x)
	d.Negative = !d.Negative
	return d
}

// NumericMul is numeric_mul.
func NumericMul(x, y *apd.Decimal) *apd.Decimal {
	switch {
	case isNaN(x) || isNaN(y):
		return numNaN()
	case isInf(x) || isInf(y):
		if x.Form == apd.Finite && x.Coeff.Sign() == 0 || y.Form == apd.Finite && y.Coeff.Sign() == 0 {
			return numNaN()
		}
		return numInf(x.Negative != y.Negative)
	}
	scale := scaleOf(x) + scaleOf(y)
	d := &apd.Decimal{Exponent: -scale}
	d.Coeff.Mul(&x.Coeff, &y.Coeff)
	d.Negative = x.Negative != y.Negative && d.Coeff.Sign() != 0
	if scale > maxStoredScale {
		return types.RoundNumeric(d, maxStoredScale)
	}
	return d
}

// weightOf is the base-10000 weight of a finite numeric and its first base-10000 digit.
func weightOf(d *apd.Decimal) (weight int32, first int64) {
	if d.Coeff.Sign() == 0 {
		return 0, 0
	}
	n := int32(d.NumDigits())
	lead := n - 1 + d.Exponent // decimal weight
	weight = floorDiv32(lead, nbaseDigits)
	k := lead - weight*nbaseDigits + 1
	var v apd.BigInt
	if n >= k {
		v.Quo(&d.Coeff, pow10(n-k))
	} else {
		v.Mul(&d.Coeff, pow10(k-n))
	}
	return weight, v.Int64()
}

func floorDiv32(a, b int32) int32 {
	q := a / b
	if a%b != 0 && (a < 0) != (b < 0) {
		q--
	}
	return q
}

func clampScale(s int32) int32 { return min(max(s, 0), maxDisplayScale) }

// divScale is select_div_scale.
func divScale(x, y *apd.Decimal) int32 {
	w1, f1 := weightOf(x)
	w2, f2 := weightOf(y)
	q := w1 - w2
	if f1 <= f2 {
		q--
	}
	return clampScale(max(minSigDigits-q*nbaseDigits, scaleOf(x), scaleOf(y)))
}

// quo divides finite numerics to a scale; round or cut.
func quo(x, y *apd.Decimal, scale int32, round bool) *apd.Decimal {
	num, den := new(apd.BigInt).Set(&x.Coeff), new(apd.BigInt).Set(&y.Coeff)
	if e := scale - scaleOf(x) + scaleOf(y); e >= 0 {
		num.Mul(num, pow10(e))
	} else {
		den.Mul(den, pow10(-e))
	}
	var q, rem apd.BigInt
	q.QuoRem(num, den, &rem)
	if round {
		rem.Add(&rem, &rem)
		if rem.CmpAbs(den) >= 0 {
			q.Add(&q, powers[0])
		}
	}
	d := &apd.Decimal{Exponent: -scale}
	d.Coeff.Set(&q)
	d.Negative = x.Negative != y.Negative && d.Coeff.Sign() != 0
	return d
}

// NumericDiv is numeric_div.
func NumericDiv(x, y *apd.Decimal) (*apd.Decimal, error) {
	switch {
	case isNaN(x) || isNaN(y):
		return numNaN(), nil
	case isInf(x):
		if isInf(y) {
			return numNaN(), nil
		}
		if y.Coeff.Sign() == 0 {
			return nil, errDivisionByZero()
		}
		return numInf(x.Negative != y.Negative), nil
	case isInf(y):
		return new(apd.Decimal), nil
	case y.Coeff.Sign() == 0:
		return nil, errDivisionByZero()
	}
	return quo(x, y, divScale(x, y), true), nil
}

func numericDivTrunc(x, y *apd.Decimal) (*apd.Decimal, error) {
	if x.Form == apd.Finite && y.Form == apd.Finite && y.Coeff.Sign() != 0 {
		return quo(x, y, 0, false), nil
	}
	return NumericDiv(x, y)
}

// NumericMod is numeric_mod: the sign of x.
func NumericMod(x, y *apd.Decimal) (*apd.Decimal, error) {
	switch {
	case isNaN(x) || isNaN(y):
		return numNaN(), nil
	case isInf(x):
		if y.Form == apd.Finite && y.Coeff.Sign() == 0 {
			return nil, errDivisionByZero()
		}
		return numNaN(), nil
	case isInf(y):
		return x, nil
	case y.Coeff.Sign() == 0:
		return nil, errDivisionByZero()
	}
	scale := max(scaleOf(x), scaleOf(y))
	return fromSigned(new(apd.BigInt).Rem(signed(x, scale), signed(y, scale)), scale), nil
}

func numericFuncs(r *registry) {
	two := func(f func(x, y *apd.Decimal) (*apd.Decimal, error)) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			d, err := f(a[0].Numeric(), a[1].Numeric())
			if err != nil {
				return types.Null, err
			}
			return numResult(d)
		}
	}
	one := func(f func(x *apd.Decimal) (*apd.Decimal, error)) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			d, err := f(a[0].Numeric())
			if err != nil {
				return types.Null, err
			}
			return numResult(d)
		}
	}
	r.fn(two(func(x, y *apd.Decimal) (*apd.Decimal, error) { return NumericAdd(x, y), nil }), "numeric_add")
	r.fn(two(func(x, y *apd.Decimal) (*apd.Decimal, error) { return NumericAdd(x, NumericNeg(y)), nil }), "numeric_sub")
	r.fn(two(func(x, y *apd.Decimal) (*apd.Decimal, error) { return NumericMul(x, y), nil }), "numeric_mul")
	r.fn(two(NumericDiv), "numeric_div")
	r.fn(two(numericDivTrunc), "numeric_div_trunc")
	r.fn(two(NumericMod), "numeric_mod")
	r.fn(two(numericPower), "numeric_power")
	r.fn(two(numericLog), "numeric_log")
	r.fn(one(func(x *apd.Decimal) (*apd.Decimal, error) { return numericLog(apd.New(10, 0), x) }), "log(numeric)", "log10(numeric)")
	r.fn(one(numericLn), "numeric_ln")
	r.fn(one(numericExp), "numeric_exp")
	r.fn(one(numericSqrt), "numeric_sqrt")
	r.fn(one(func(x *apd.Decimal) (*apd.Decimal, error) { return NumericNeg(x), nil }), "numeric_uminus")
	r.fn(one(func(x *apd.Decimal) (*apd.Decimal, error) { return x, nil }), "numeric_uplus")
	r.fn(one(func(x *apd.Decimal) (*apd.Decimal, error) {
		if x.Negative {
			return NumericNeg(x), nil
		}
		return x, nil
	}), "numeric_abs")
	r.fn(one(func(x *apd.Decimal) (*apd.Decimal, error) {
		switch {
		case isNaN(x):
			return x, nil
		case x.Negative:
			return apd.New(-1, 0), nil
		case x.Form == apd.Finite && x.Coeff.Sign() == 0:
			return new(apd.Decimal), nil
		}
		return apd.New(1, 0), nil
	}), "numeric_sign")
	r.fn(one(func(x *apd.Decimal) (*apd.Decimal, error) { return towards(x, false), nil }), "numeric_ceil")
	r.fn(one(func(x *apd.Decimal) (*apd.Decimal, error) { return towards(x, true), nil }), "numeric_floor")
	r.fn(one(func(x *apd.Decimal) (*apd.Decimal, error) { return types.RoundNumeric(x, 0), nil }), "round(numeric)")
	r.fn(one(func(x *apd.Decimal) (*apd.Decimal, error) { return types.TruncNumeric(x, 0), nil }), "trunc(numeric)")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return numResult(types.RoundNumeric(a[0].Numeric(), int32(min(max(a[1].Int(), -maxResultScale), maxResultScale))))
	}, "numeric_round")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return numResult(types.TruncNumeric(a[0].Numeric(), int32(min(max(a[1].Int(), -maxResultScale), maxResultScale))))
	}, "numeric_trunc")
	r.fn(one(func(x *apd.Decimal) (*apd.Decimal, error) { return types.RoundNumeric(x, minScale(x)), nil }), "numeric_trim_scale")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].Numeric().Form != apd.Finite {
			return types.Null, nil
		}
		return types.NewInt(int64(minScale(a[0].Numeric()))), nil
	}, "numeric_min_scale")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].Numeric().Form != apd.Finite {
			return types.Null, nil
		}
		return types.NewInt(int64(scaleOf(a[0].Numeric()))), nil
	}, "numeric_scale")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return numResult(NumericAdd(a[0].Numeric(), apd.New(1, 0)))
	}, "numeric_inc")
	r.fn(factorial, "numeric_fac")
}

// minScale is the scale that loses nothing.
func minScale(x *apd.Decimal) int32 {
	if x.Form != apd.Finite || x.Coeff.Sign() == 0 {
		return 0
	}
	c, s := new(apd.BigInt).Set(&x.Coeff), scaleOf(x)
	var q, rem apd.BigInt
	for s > 0 {
		q.QuoRem(c, powers[1], &rem)
		if rem.Sign() != 0 {
			break
		}
		c.Set(&q)
		s--
	}
	return s
}

// towards is floor (down) or ceil.
func towards(x *apd.Decimal, down bool) *apd.Decimal {
	if x.Form != apd.Finite {
		return x
	}
	t := types.TruncNumeric(x, 0)
	if t.Cmp(x) == 0 || x.Negative != down {
		return t
	}
	if down {
		return NumericAdd(t, apd.New(-1, 0))
	}
	return NumericAdd(t, apd.New(1, 0))
}

func factorial(_ *EvalContext, a []types.Datum) (types.Datum, error) {
	n := a[0].Int()
	if n < 0 {
		return types.Null, pgerror.New(pgerrcode.NumericValueOutOfRange, "factorial of a negative number is undefined")
	}
	if n > 32177 {
		return types.Null, pgerror.New(pgerrcode.NumericValueOutOfRange, "value overflows numeric format")
	}
	d := new(apd.Decimal)
	d.Coeff.MulRange(1, max(n, 1))
	return numResult(d)
}

func errOverflow() error {
	return pgerror.New(pgerrcode.NumericValueOutOfRange, "value overflows numeric format")
}
