package builtins

import (
	"math"

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

func toFloatApprox(d *apd.Decimal) float64 {
	f, err := d.Float64()
	if err != nil && f == 0 {
		if d.Negative {
			return math.Inf(-1)
		}
		return math.Inf(1)
	}
	return f
}

// precise makes a context whose results have digits significant digits and some to spare.
func precise(digits int32) *apd.Context {
	c := apd.BaseContext.WithPrecision(uint32(max(digits, 20) + 20))
	c.Traps = 0
	return c
}

func numericSqrt(x *apd.Decimal) (*apd.Decimal, error) {
	switch {
	case isNaN(x):
		return x, nil
	case x.Negative:
		return nil, pgerror.New(pgerrcode.InvalidArgumentForPowerFunction, "cannot take square root of a negative number")
	case isInf(x):
		return x, nil
	}
	w, _ := weightOf(x)
	scale := clampScale(max(minSigDigits-((w+1)*nbaseDigits/2-1), scaleOf(x)))
	// The root of the coefficient at twice the scale and a digit, cut; the digit rounds.
	n := new(apd.BigInt).Mul(&x.Coeff, pow10(2*(scale+1)-scaleOf(x)))
	d := &apd.Decimal{Exponent: -(scale + 1)}
	d.Coeff.Sqrt(n)
	return types.RoundNumeric(d, scale), nil
}

func numericExp(x *apd.Decimal) (*apd.Decimal, error) {
	switch {
	case isNaN(x):
		return x, nil
	case isInf(x) && x.Negative:
		return new(apd.Decimal), nil
	case isInf(x):
		return x, nil
	}
	val := toFloatApprox(x) * 0.434294481903252
	val = min(max(val, -maxResultScale), maxResultScale)
	scale := clampScale(max(minSigDigits-int32(val), scaleOf(x)))
	return expTo(x, scale)
}

func expTo(x *apd.Decimal, scale int32) (*apd.Decimal, error) {
	f := toFloatApprox(x)
	if f >= maxResultScale*3 {
		return nil, errOverflow()
	}
	if f <= -maxResultScale*3 {
		return &apd.Decimal{Exponent: -scale}, nil
	}
	d := new(apd.Decimal)
	digits := scale + int32(math.Max(f*0.4343, 0)) + 10
	if _, err := precise(digits).Exp(d, x); err != nil {
		return nil, errOverflow()
	}
	return normal(d, scale), nil
}

// normal rounds a computed value to a scale, whatever its exponent.
func normal(d *apd.Decimal, scale int32) *apd.Decimal {
	if d.Exponent > 0 {
		d.Coeff.Mul(&d.Coeff, pow10(d.Exponent))
		d.Exponent = 0
	}
	if d.Coeff.Sign() == 0 {
		d.Negative = false
	}
	return types.RoundNumeric(d, scale)
}

// lnWeight is estimate_ln_dweight: the decimal weight of ln(x), x > 0.
func lnWeight(x *apd.Decimal) int32 {
	if x.Negative || x.Coeff.Sign() == 0 {
		return 0
	}
	if x.Cmp(apd.New(9, -1)) >= 0 && x.Cmp(apd.New(11, -1)) <= 0 {
		d := NumericAdd(x, apd.New(-1, 0))
		if d.Coeff.Sign() == 0 {
			return 0
		}
		w, first := weightOf(d)
		return w*nbaseDigits + int32(math.Log10(float64(first)))
	}
	// The first two base-10000 digits.
	w, _ := weightOf(x)
	shift := w*nbaseDigits - nbaseDigits
	f := toFloatApprox(quo(x, apd.New(1, 0), max(-shift, 0), false))
	var digits float64
	if shift >= 0 {
		digits = math.Floor(toFloatApprox(quo(x, &apd.Decimal{Coeff: *pow10(shift)}, 0, false)))
	} else {
		digits = math.Floor(f * math.Pow10(int(-shift)))
	}
	ln := math.Log(digits) + float64(shift)*2.302585092994046
	return int32(math.Log10(math.Abs(ln)))
}

func checkLog(x *apd.Decimal) error {
	switch {
	case x.Negative:
		return pgerror.New(pgerrcode.InvalidArgumentForLogarithm, "cannot take logarithm of a negative number")
	case x.Form == apd.Finite && x.Coeff.Sign() == 0:
		return pgerror.New(pgerrcode.InvalidArgumentForLogarithm, "cannot take logarithm of zero")
	}
	return nil
}

func numericLn(x *apd.Decimal) (*apd.Decimal, error) {
	if isNaN(x) {
		return x, nil
	}
	if err := checkLog(x); err != nil {
		return nil, err
	}
	if isInf(x) {
		return x, nil
	}
	return lnTo(x, clampScale(max(minSigDigits-lnWeight(x), scaleOf(x))))
}

func lnTo(x *apd.Decimal, scale int32) (*apd.Decimal, error) {
	d := new(apd.Decimal)
	if _, err := precise(scale+20).Ln(d, x); err != nil {
		return nil, errOverflow()
	}
	return normal(d, scale), nil
}

func numericLog(base, x *apd.Decimal) (*apd.Decimal, error) {
	if isNaN(base) || isNaN(x) {
		return numNaN(), nil
	}
	if err := checkLog(base); err != nil {
		return nil, err
	}
	if err := checkLog(x); err != nil {
		return nil, err
	}
	if isInf(base) {
		if isInf(x) {
			return numNaN(), nil
		}
		return new(apd.Decimal), nil
	}
	if isInf(x) {
		return x, nil
	}
	scale := clampScale(max(minSigDigits-(lnWeight(x)-lnWeight(base)), scaleOf(base), scaleOf(x)))
	c := precise(scale + 40)
	var lb, lx, q apd.Decimal
	if _, err := c.Ln(&lb, base); err != nil {
		return nil, errOverflow()
	}
	if lb.IsZero() {
		return nil, errDivisionByZero()
	}
	if _, err := c.Ln(&lx, x); err != nil {
		return nil, errOverflow()
	}
	if _, err := c.Quo(&q, &lx, &lb); err != nil {
		return nil, errOverflow()
	}
	return normal(&q, scale), nil
}

func isInteger(d *apd.Decimal) bool { return minScale(d) == 0 }

func numericPower(base, exp *apd.Decimal) (*apd.Decimal, error) {
	if d, done, err := powerSpecial(base, exp); done {
		return d, err
	}
	if isInteger(exp) {
		if n := types.TruncNumeric(exp, 0); n.Coeff.IsInt64() && n.Coeff.Int64() <= math.MaxInt32 {
			e := n.Coeff.Int64()
			if n.Negative {
				e = -e
			}
			return powerInt(base, e, clampScale(max(minSigDigits, scaleOf(base))))
		}
	}
	if base.Coeff.Sign() == 0 {
		return &apd.Decimal{Exponent: -minSigDigits}, nil
	}
	neg := false
	if base.Negative { // powerSpecial saw to it that exp is an integer
		var bit apd.BigInt
		n := types.TruncNumeric(exp, 0)
		neg = bit.Rem(&n.Coeff, apd.NewBigInt(2)).Sign() != 0
		base = NumericNeg(base)
	}
	low := max(8-lnWeight(base), 0)
	ln, err := lnTo(base, low)
	if err != nil {
		return nil, err
	}
	val := toFloatApprox(types.RoundNumeric(NumericMul(ln, exp), low))
	if math.Abs(val) > maxResultScale*3.01 {
		if val > 0 {
			return nil, errOverflow()
		}
		return &apd.Decimal{Exponent: -maxDisplayScale}, nil
	}
	val *= 0.434294481903252
	scale := clampScale(max(minSigDigits-int32(val), scaleOf(base), scaleOf(exp)))
	digits := scale + int32(math.Max(val, 0)) + 20
	var l, p, out apd.Decimal
	c := precise(digits + 20)
	if _, err := c.Ln(&l, base); err != nil {
		return nil, errOverflow()
	}
	if _, err := c.Mul(&p, &l, exp); err != nil {
		return nil, errOverflow()
	}
	if _, err := c.Exp(&out, &p); err != nil {
		return nil, errOverflow()
	}
	out.Negative = neg
	return normal(&out, scale), nil
}

func powerSpecial(base, exp *apd.Decimal) (d *apd.Decimal, done bool, err error) {
	one := apd.New(1, 0)
	switch {
	case isNaN(base):
		if exp.Form == apd.Finite && exp.Coeff.Sign() == 0 {
			return one, true, nil
		}
		return numNaN(), true, nil
	case isNaN(exp):
		if base.Form == apd.Finite && base.Cmp(one) == 0 {
			return one, true, nil
		}
		return numNaN(), true, nil
	}
	zeroBase := base.Form == apd.Finite && base.Coeff.Sign() == 0
	if zeroBase && exp.Negative {
		return nil, true, pgerror.New(pgerrcode.InvalidArgumentForPowerFunction, "zero raised to a negative power is undefined")
	}
	if base.Negative && base.Form == apd.Finite && exp.Form == apd.Finite && !isInteger(exp) {
		return nil, true, pgerror.New(pgerrcode.InvalidArgumentForPowerFunction, "a negative number raised to a non-integer power yields a complex result")
	}
	if base.Form == apd.Finite && exp.Form == apd.Finite {
		return nil, false, nil
	}
	if isInf(exp) {
		switch {
		case base.Form == apd.Finite && base.Cmp(one) == 0:
			return one, true, nil
		case zeroBase:
			return new(apd.Decimal), true, nil
		}
		abs := new(apd.Decimal).Abs(base)
		if abs.Form == apd.Finite && abs.Cmp(one) == 0 {
			return one, true, nil
		}
		if (isInf(abs) || abs.Cmp(one) > 0) == !exp.Negative {
			return numInf(false), true, nil
		}
		return new(apd.Decimal), true, nil
	}
	// The base is infinite, the exponent is not.
	switch {
	case exp.Coeff.Sign() == 0:
		return one, true, nil
	case base.Negative && !isInteger(exp):
		return nil, true, pgerror.New(pgerrcode.InvalidArgumentForPowerFunction, "a negative number raised to a non-integer power yields a complex result")
	case exp.Negative:
		return new(apd.Decimal), true, nil
	}
	n := types.TruncNumeric(exp, 0)
	odd := new(apd.BigInt).Rem(&n.Coeff, apd.NewBigInt(2)).Sign() != 0
	return numInf(base.Negative && odd), true, nil
}

// powerInt is power_var_int.
func powerInt(base *apd.Decimal, exp int64, scale int32) (*apd.Decimal, error) {
	switch exp {
	case 0:
		return types.RoundNumeric(apd.New(1, 0), scale), nil
	case 1:
		return types.RoundNumeric(base, scale), nil
	case -1:
		return quo(apd.New(1, 0), base, scale, true), nil
	case 2:
		return types.RoundNumeric(NumericMul(base, base), scale), nil
	}
	if base.Coeff.Sign() == 0 {
		if exp < 0 {
			return nil, errDivisionByZero()
		}
		return &apd.Decimal{Exponent: -scale}, nil
	}
	f := float64(exp) * log10Approx(base)
	if f > 3*32767*nbaseDigits {
		return nil, errOverflow()
	}
	if f+1 < -float64(scale) || f+1 < -maxDisplayScale {
		return &apd.Decimal{Exponent: -scale}, nil
	}
	if f > numericMaxWeight+1 {
		return nil, errOverflow()
	}
	c := precise(scale + int32(f) + 20 + int32(math.Log10(math.Abs(float64(exp)))+1))
	n, sq, out := exp, new(apd.Decimal).Set(base), apd.New(1, 0)
	if n < 0 {
		n = -n
	}
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			if _, err := c.Mul(out, out, sq); err != nil {
				return nil, errOverflow()
			}
		}
		if n > 1 {
			if _, err := c.Mul(sq, sq, sq); err != nil {
				return nil, errOverflow()
			}
		}
	}
	if exp < 0 {
		if _, err := c.Quo(out, apd.New(1, 0), out); err != nil {
			return nil, errOverflow()
		}
	}
	return normal(out, scale), nil
}

func log10Approx(d *apd.Decimal) float64 {
	n := d.NumDigits()
	var top apd.BigInt
	cut := max(n-17, 0)
	top.Quo(&d.Coeff, pow10(int32(cut)))
	f, _ := apd.NewWithBigInt(&top, 0).Float64()
	return math.Log10(f) + float64(cut) + float64(d.Exponent)
}
