package builtins

import (
	"math"
	"strings"

	"github.com/cockroachdb/apd/v3"
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// Accumulator is the state of one aggregate over one group. The caller leaves rows with a
// NULL argument out where Proc.Strict or SkipsNulls says so, and handles DISTINCT, ORDER BY
// and FILTER.
type Accumulator interface {
	// Add takes a row's arguments, which it does not keep (it may keep strings and other
	// immutable values that they point at, unless they alias a buffer: clone those first).
	Add(ctx *EvalContext, args []types.Datum) error
	// Result may be called once, also of no rows.
	Result(ctx *EvalContext) (types.Datum, error)
}

// NewAccumulator returns a constructor for actual argument types and the result type; nil if
// the aggregate is not implemented.
func (a *Aggregate) NewAccumulator(args []types.OID, result types.OID) func() Accumulator {
	return a.Proc.NewAccumulator(args, result)
}

// NewAccumulator is Aggregate.NewAccumulator.
func (p *Proc) NewAccumulator(args []types.OID, result types.OID) func() Accumulator {
	if p.impl == nil || p.impl.agg == nil {
		return nil
	}
	return p.impl.agg(args, result)
}

// SkipsNulls says whether rows with a NULL argument don't count: for all but the aggregates
// that collect NULLs too, and count(*).
func (a *Aggregate) SkipsNulls() bool {
	switch a.Proc.Name {
	case "array_agg", "json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg", "string_agg":
		return false
	}
	return true
}

func (r *registry) aggregate(f func(args []types.OID, result types.OID) func() Accumulator, keys ...string) {
	for _, k := range keys {
		r.add(k, &impl{agg: f})
	}
}

// simple is for aggregates whose state does not depend on types.
func simple(f func() Accumulator) func([]types.OID, types.OID) func() Accumulator {
	return func([]types.OID, types.OID) func() Accumulator { return f }
}

func aggregateFuncs(r *registry) {
	r.aggregate(simple(func() Accumulator { return &countAcc{} }), "count()", "count(any)")
	r.aggregate(simple(func() Accumulator { return &sumIntAcc{} }), "sum(int2)", "sum(int4)")
	r.aggregate(simple(func() Accumulator { return &sumAcc{} }), "sum(int8)", "sum(numeric)")
	r.aggregate(simple(func() Accumulator { return &sumAcc{avg: true} }), "avg(int2)", "avg(int4)", "avg(int8)", "avg(numeric)")
	r.aggregate(simple(func() Accumulator { return &sumFloatAcc{narrow: true} }), "sum(float4)")
	r.aggregate(simple(func() Accumulator { return &sumFloatAcc{} }), "sum(float8)")
	r.aggregate(simple(func() Accumulator { return &sumFloatAcc{avg: true} }), "avg(float4)", "avg(float8)")
	r.aggregate(simple(func() Accumulator { return &sumIntervalAcc{} }), "sum(interval)")
	r.aggregate(simple(func() Accumulator { return &sumIntervalAcc{avg: true} }), "avg(interval)")
	for _, m := range []struct {
		name string
		sign int
	}{{"max", 1}, {"min", -1}} {
		r.aggregate(func(args []types.OID, _ types.OID) func() Accumulator {
			oid := args[0]
			order := types.Comparator(oid)
			if types.KindOf(oid) == types.KindNull {
				return nil
			}
			return func() Accumulator { return &extremeAcc{order: order, sign: m.sign} }
		}, m.name+"(*)")
	}
	r.aggregate(simple(func() Accumulator { return &boolAcc{v: true, and: true} }), "bool_and(bool)", "every(bool)")
	r.aggregate(simple(func() Accumulator { return &boolAcc{} }), "bool_or(bool)")
	for _, t := range []string{"int2", "int4", "int8"} {
		r.aggregate(simple(func() Accumulator { return &bitAcc{op: '&'} }), "bit_and("+t+")")
		r.aggregate(simple(func() Accumulator { return &bitAcc{op: '|'} }), "bit_or("+t+")")
		r.aggregate(simple(func() Accumulator { return &bitAcc{op: '^'} }), "bit_xor("+t+")")
	}
	r.aggregate(simple(func() Accumulator { return &stringAcc{} }), "string_agg(text,text)")
	r.aggregate(simple(func() Accumulator { return &stringAcc{bytes: true} }), "string_agg(bytea,bytea)")
	r.aggregate(func(args []types.OID, _ types.OID) func() Accumulator {
		return func() Accumulator { return &arrayAcc{elem: args[0]} }
	}, "array_agg(anynonarray)")
	r.aggregate(func(args []types.OID, _ types.OID) func() Accumulator {
		t, ok := types.Lookup(args[0])
		if !ok {
			return nil
		}
		return func() Accumulator { return &arrayAcc{elem: t.Elem, nested: true} }
	}, "array_agg(anyarray)")
	varianceAggregates(r)
	jsonAggregates(r)
}

type countAcc struct{ n int64 }

func (a *countAcc) Add(*EvalContext, []types.Datum) error { a.n++; return nil }
func (a *countAcc) Result(*EvalContext) (types.Datum, error) {
	return types.NewInt(a.n), nil
}

// sumIntAcc is sum(int2) and sum(int4), a bigint.
type sumIntAcc struct {
	sum int64
	any bool
}

func (a *sumIntAcc) Add(_ *EvalContext, args []types.Datum) error {
	s, ok := addInt(a.sum, args[0].Int())
	if !ok {
		return types.ErrOutOfRange(types.OIDInt8)
	}
	a.sum, a.any = s, true
	return nil
}

func (a *sumIntAcc) Result(*EvalContext) (types.Datum, error) {
	if !a.any {
		return types.Null, nil
	}
	return types.NewInt(a.sum), nil
}

// sumAcc sums integers and numerics to a numeric: small integers in a machine word.
type sumAcc struct {
	avg   bool
	n     int64
	word  int64 // integers not yet in sum
	sum   *apd.Decimal
	fixed bool
}

func (a *sumAcc) Add(_ *EvalContext, args []types.Datum) error {
	a.n++
	if args[0].Kind() == types.KindInt {
		if s, ok := addInt(a.word, args[0].Int()); ok {
			a.word = s
			return nil
		}
		a.flush()
		a.word = args[0].Int()
		return nil
	}
	v := args[0].Numeric()
	if a.sum == nil {
		a.sum = v
		return nil
	}
	if a.fixed && a.sum.Form == apd.Finite && v.Form == apd.Finite && a.sum.Exponent == v.Exponent {
		a.addInPlace(v)
		return nil
	}
	a.sum = NumericAdd(a.sum, v)
	a.fixed = a.sum != v
	return nil
}

// addInPlace adds a value of the same scale to a sum that nobody else holds.
func (a *sumAcc) addInPlace(v *apd.Decimal) {
	if a.sum.Negative == v.Negative {
		a.sum.Coeff.Add(&a.sum.Coeff, &v.Coeff)
		return
	}
	if a.sum.Coeff.Cmp(&v.Coeff) >= 0 {
		a.sum.Coeff.Sub(&a.sum.Coeff, &v.Coeff)
	} else {
		a.sum.Coeff.Sub(&v.Coeff, &a.sum.Coeff)
		a.sum.Negative = v.Negative
	}
	if a.sum.Coeff.Sign() == 0 {
		a.sum.Negative = false
	}
}

func (a *sumAcc) flush() {
	if a.sum == nil {
		a.sum = new(apd.Decimal)
	}
	a.sum = NumericAdd(a.sum, apd.New(a.word, 0))
	a.word = 0
}

func (a *sumAcc) Result(*EvalContext) (types.Datum, error) {
	if a.n == 0 {
		return types.Null, nil
	}
	if a.word != 0 || a.sum == nil {
		a.flush()
	}
	if !a.avg {
		return numResult(a.sum)
	}
	d, err := NumericDiv(a.sum, apd.New(a.n, 0))
	if err != nil {
		return types.Null, err
	}
	return numResult(d)
}

type sumFloatAcc struct {
	avg, narrow bool
	n           int64
	sum         float64
}

func (a *sumFloatAcc) Add(_ *EvalContext, args []types.Datum) error {
	v := args[0].Float()
	s := round32(a.sum+v, a.narrow)
	if math.IsInf(s, 0) && !math.IsInf(a.sum, 0) && !math.IsInf(v, 0) {
		return errFloat("overflow")
	}
	a.n++
	a.sum = s
	return nil
}

func (a *sumFloatAcc) Result(*EvalContext) (types.Datum, error) {
	switch {
	case a.n == 0:
		return types.Null, nil
	case a.avg:
		return types.NewFloat(a.sum / float64(a.n)), nil
	}
	return types.NewFloat(a.sum), nil
}

type sumIntervalAcc struct {
	avg bool
	n   int64
	sum types.Interval
}

func (a *sumIntervalAcc) Add(_ *EvalContext, args []types.Datum) error {
	s, err := intervalAdd(a.sum, args[0].Interval())
	a.sum = s
	a.n++
	return err
}

func (a *sumIntervalAcc) Result(*EvalContext) (types.Datum, error) {
	if a.n == 0 {
		return types.Null, nil
	}
	if !a.avg {
		return types.NewInterval(a.sum), nil
	}
	v, err := intervalScale(a.sum, 1/float64(a.n), float64(a.n))
	return types.NewInterval(v), err
}

type extremeAcc struct {
	order func(a, b types.Datum) int
	sign  int
	best  types.Datum
}

func (a *extremeAcc) Add(_ *EvalContext, args []types.Datum) error {
	if a.best.IsNull() || a.order(args[0], a.best)*a.sign > 0 {
		a.best = args[0]
	}
	return nil
}

func (a *extremeAcc) Result(*EvalContext) (types.Datum, error) { return a.best, nil }

type boolAcc struct{ v, and, any bool }

func (a *boolAcc) Add(_ *EvalContext, args []types.Datum) error {
	a.any = true
	if a.and {
		a.v = a.v && args[0].Bool()
	} else {
		a.v = a.v || args[0].Bool()
	}
	return nil
}

func (a *boolAcc) Result(*EvalContext) (types.Datum, error) {
	if !a.any {
		return types.Null, nil
	}
	return types.NewBool(a.v), nil
}

type bitAcc struct {
	op  byte
	v   int64
	any bool
}

func (a *bitAcc) Add(_ *EvalContext, args []types.Datum) error {
	v := args[0].Int()
	switch {
	case !a.any:
		a.v = v
	case a.op == '&':
		a.v &= v
	case a.op == '|':
		a.v |= v
	default:
		a.v ^= v
	}
	a.any = true
	return nil
}

func (a *bitAcc) Result(*EvalContext) (types.Datum, error) {
	if !a.any {
		return types.Null, nil
	}
	return types.NewInt(a.v), nil
}

// stringAcc is string_agg: a NULL value does not count, a NULL delimiter is none.
type stringAcc struct {
	bytes bool
	any   bool
	b     strings.Builder
}

const maxAggregateBytes = 1 << 30 // PostgreSQL's MaxAllocSize

func (a *stringAcc) Add(_ *EvalContext, args []types.Datum) error {
	if args[0].IsNull() {
		return nil
	}
	if a.any && !args[1].IsNull() {
		a.write(args[1])
	}
	a.any = true
	a.write(args[0])
	if a.b.Len() > maxAggregateBytes {
		return pgerror.New(pgerrcode.ProgramLimitExceeded, "out of memory").WithDetail("string_agg cannot make more than %d bytes.", maxAggregateBytes)
	}
	return nil
}

func (a *stringAcc) write(d types.Datum) {
	if a.bytes {
		a.b.Write(d.Bytes())
	} else {
		a.b.WriteString(d.Str())
	}
}

func (a *stringAcc) Result(*EvalContext) (types.Datum, error) {
	switch {
	case !a.any:
		return types.Null, nil
	case a.bytes:
		return types.NewBytes([]byte(a.b.String())), nil
	}
	return types.NewString(a.b.String()), nil
}

type arrayAcc struct {
	elem   types.OID
	nested bool
	vals   []types.Datum
	dims   []types.ArrayDim
	n      int32
}

func (a *arrayAcc) Add(_ *EvalContext, args []types.Datum) error {
	a.n++
	if !a.nested {
		a.vals = append(a.vals, args[0])
		return nil
	}
	if args[0].IsNull() {
		return pgerror.New(pgerrcode.NullValueNotAllowedDataException, "cannot accumulate null arrays")
	}
	in := args[0].Array()
	if len(in.Dims) == 0 {
		return pgerror.New(pgerrcode.ArraySubscriptError, "cannot accumulate empty arrays")
	}
	if a.dims != nil && !sameDims(a.dims, in.Dims) {
		return pgerror.New(pgerrcode.ArraySubscriptError, "cannot accumulate arrays of different dimensionality")
	}
	a.dims = in.Dims
	a.vals = append(a.vals, in.Values...)
	return nil
}

func sameDims(a, b []types.ArrayDim) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Len != b[i].Len {
			return false
		}
	}
	return true
}

func (a *arrayAcc) Result(*EvalContext) (types.Datum, error) {
	if a.n == 0 {
		return types.Null, nil
	}
	if !a.nested {
		return types.NewArray1(a.elem, a.vals), nil
	}
	dims := append([]types.ArrayDim{{Len: a.n, Lower: 1}}, a.dims...)
	return types.NewArray(&types.Array{Elem: a.elem, Dims: dims, Values: a.vals}), nil
}
