package builtins

import (
	"math"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

func errDivisionByZero() error { return pgerror.New(pgerrcode.DivisionByZero, "division by zero") }

// inRange checks a result against an integer type.
func inRange(v int64, oid types.OID) (types.Datum, error) {
	switch {
	case oid == types.OIDInt4 && v != int64(int32(v)), oid == types.OIDInt2 && v != int64(int16(v)):
		return types.Null, types.ErrOutOfRange(oid)
	}
	return types.NewInt(v), nil
}

func addInt(a, b int64) (int64, bool) {
	s := a + b
	return s, (s > a) == (b > 0)
}

func subInt(a, b int64) (int64, bool) {
	s := a - b
	return s, (s < a) == (b > 0)
}

func mulInt(a, b int64) (int64, bool) {
	if a == 0 || b == 0 {
		return 0, true
	}
	p := a * b
	return p, p/b == a && !(a == -1 && b == math.MinInt64) && !(b == -1 && a == math.MinInt64)
}

// intOp makes a checked operation whose result is of a type.
func intOp(oid types.OID, f func(a, b int64) (int64, bool)) Eval {
	return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		v, ok := f(a[0].Int(), a[1].Int())
		if !ok {
			return types.Null, types.ErrOutOfRange(oid)
		}
		return inRange(v, oid)
	}
}

func intDiv(oid types.OID) Eval {
	return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		x, y := a[0].Int(), a[1].Int()
		if y == 0 {
			return types.Null, errDivisionByZero()
		}
		if y == -1 && x == math.MinInt64 {
			return types.Null, types.ErrOutOfRange(oid)
		}
		return inRange(x/y, oid)
	}
}

func intMod(_ *EvalContext, a []types.Datum) (types.Datum, error) {
	switch y := a[1].Int(); y {
	case 0:
		return types.Null, errDivisionByZero()
	case -1:
		return types.NewInt(0), nil
	default:
		return types.NewInt(a[0].Int() % y), nil
	}
}

func intFuncs(r *registry) {
	widths := []struct {
		name string
		oid  types.OID
		bits uint
	}{{"int2", types.OIDInt2, 16}, {"int4", types.OIDInt4, 32}, {"int8", types.OIDInt8, 64}}
	arith := func(prefix string, oid types.OID) {
		r.fn(intOp(oid, addInt), prefix+"pl")
		r.fn(intOp(oid, subInt), prefix+"mi")
		r.fn(intOp(oid, mulInt), prefix+"mul")
		r.fn(intDiv(oid), prefix+"div")
	}
	for _, w := range widths {
		oid := w.oid
		arith(w.name, oid)
		r.fn(intMod, w.name+"mod")
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			if a[0].Int() == math.MinInt64 {
				return types.Null, types.ErrOutOfRange(oid)
			}
			return inRange(-a[0].Int(), oid)
		}, w.name+"um")
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return a[0], nil }, w.name+"up")
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			v := a[0].Int()
			if v == math.MinInt64 {
				return types.Null, types.ErrOutOfRange(oid)
			}
			return inRange(max(v, -v), oid)
		}, w.name+"abs")
		bitop := func(name string, f func(a, b int64) int64) {
			r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
				return types.NewInt(f(a[0].Int(), a[1].Int())), nil
			}, w.name+name)
		}
		bitop("and", func(a, b int64) int64 { return a & b })
		bitop("or", func(a, b int64) int64 { return a | b })
		bitop("xor", func(a, b int64) int64 { return a ^ b })
		// Like the hardware that PostgreSQL runs on, shifts count modulo the width (of int for int2).
		mask := int64(max(w.bits, 32) - 1)
		bitop("shl", func(a, b int64) int64 { return wrap(a<<(b&mask), w.bits) })
		bitop("shr", func(a, b int64) int64 { return a >> (b & mask) })
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return types.NewInt(^a[0].Int()), nil }, w.name+"not")
	}
	arith("int24", types.OIDInt4)
	arith("int42", types.OIDInt4)
	arith("int28", types.OIDInt8)
	arith("int82", types.OIDInt8)
	arith("int48", types.OIDInt8)
	arith("int84", types.OIDInt8)
	for _, w := range widths[1:] {
		oid := w.oid
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			g, err := gcd(a[0].Int(), a[1].Int(), oid)
			return types.NewInt(g), err
		}, w.name+"gcd")
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			x, y := a[0].Int(), a[1].Int()
			if x == 0 || y == 0 {
				return types.NewInt(0), nil
			}
			g, err := gcd(x, y, oid)
			if err != nil {
				return types.Null, err
			}
			v, ok := mulInt(x/g, y)
			if !ok || v == math.MinInt64 {
				return types.Null, types.ErrOutOfRange(oid)
			}
			return inRange(max(v, -v), oid)
		}, w.name+"lcm")
	}
	r.fn(widthBucketFloat, "width_bucket_float8")
}

func wrap(v int64, width uint) int64 {
	switch width {
	case 16:
		return int64(int16(v))
	case 32:
		return int64(int32(v))
	}
	return v
}

func gcd(a, b int64, oid types.OID) (int64, error) {
	for b != 0 {
		if b == -1 {
			return 1, nil
		}
		a, b = b, a%b
	}
	if a == math.MinInt64 || oid == types.OIDInt4 && a == math.MinInt32 {
		return 0, types.ErrOutOfRange(oid)
	}
	return max(a, -a), nil
}

func widthBucketFloat(_ *EvalContext, a []types.Datum) (types.Datum, error) {
	v, lo, hi, n := a[0].Float(), a[1].Float(), a[2].Float(), a[3].Int()
	bad := func(msg string) (types.Datum, error) {
		return types.Null, pgerror.New(pgerrcode.InvalidArgumentForWidthBucketFunction, "%s", msg)
	}
	switch {
	case n <= 0:
		return bad("count must be greater than zero")
	case math.IsNaN(v) || math.IsNaN(lo) || math.IsNaN(hi):
		return bad("operand, lower bound, and upper bound cannot be NaN")
	case math.IsInf(lo, 0) || math.IsInf(hi, 0):
		return bad("lower and upper bounds must be finite")
	case lo == hi:
		return bad("lower bound cannot equal upper bound")
	}
	if lo > hi {
		v, lo, hi = -v, -lo, -hi
	}
	switch {
	case v < lo:
		return types.NewInt(0), nil
	case v >= hi:
		if n == math.MaxInt32 {
			return types.Null, types.ErrOutOfRange(types.OIDInt4)
		}
		return types.NewInt(n + 1), nil
	}
	return types.NewInt(min(int64(float64(n)*(v-lo)/(hi-lo)), n-1) + 1), nil
}
