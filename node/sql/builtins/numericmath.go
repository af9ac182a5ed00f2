package builtins

import (
	"math"

	"github.com/cockroachdb/apd/v3"
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

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
