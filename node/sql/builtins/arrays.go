package builtins

import (
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

func errDims(msg string) error { return pgerror.New(pgerrcode.ArraySubscriptError, "%s", msg) }

func arrayFuncs(r *registry) {
	arrayShape(r)
	arrayConcat(r)
	arraySearch(r)
	arrayText(r)
}

func arrayShape(r *registry) {
	dim := func(f func(d types.ArrayDim) int64) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			arr, n := a[0].Array(), a[1].Int()
			if n < 1 || n > int64(len(arr.Dims)) || len(arr.Values) == 0 {
				return types.Null, nil
			}
			return types.NewInt(f(arr.Dims[n-1])), nil
		}
	}
	r.fn(dim(func(d types.ArrayDim) int64 { return int64(d.Len) }), "array_length")
	r.fn(dim(func(d types.ArrayDim) int64 { return int64(d.Lower) }), "array_lower")
	r.fn(dim(func(d types.ArrayDim) int64 { return int64(d.Lower) + int64(d.Len) - 1 }), "array_upper")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return integer(len(a[0].Array().Values)) }, "array_cardinality")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if len(a[0].Array().Values) == 0 {
			return types.Null, nil
		}
		return integer(len(a[0].Array().Dims))
	}, "array_ndims")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if len(a[0].Array().Values) == 0 {
			return types.Null, nil
		}
		var b strings.Builder
		for _, d := range a[0].Array().Dims {
			b.WriteString("[" + strconv.Itoa(int(d.Lower)) + ":" + strconv.Itoa(int(d.Lower+d.Len-1)) + "]")
		}
		return str(b.String())
	}, "array_dims")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		arr, n := a[0].Array(), a[1].Int()
		size := int64(0)
		if len(arr.Dims) > 0 {
			size = int64(arr.Dims[0].Len)
		}
		if n < 0 || n > size {
			return types.Null, pgerror.New(pgerrcode.ArraySubscriptError, "number of elements to trim must be between 0 and %d", size)
		}
		if n == size {
			return types.NewArray(&types.Array{Elem: arr.Elem}), nil
		}
		out := *arr
		out.Dims = append([]types.ArrayDim(nil), arr.Dims...)
		per := int64(len(arr.Values)) / max(size, 1)
		out.Dims[0].Len -= int32(n)
		for i := range out.Dims { // as a slice
			out.Dims[i].Lower = 1
		}
		out.Values = arr.Values[:(size-n)*per]
		return types.NewArray(&out), nil
	}, "trim_array")
	r.bind(func(args []types.OID, _ types.OID) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return arrayFill(args[0], a) }
	}, "array_fill", "array_fill_with_lower_bounds")
}

const maxArrayElems = 134217727

func arrayFill(elem types.OID, a []types.Datum) (types.Datum, error) {
	if a[1].IsNull() || len(a) > 2 && a[2].IsNull() {
		return types.Null, pgerror.New(pgerrcode.NullValueNotAllowedDataException, "dimension array or low bound array cannot be null")
	}
	dims := a[1].Array()
	if len(dims.Dims) > 1 {
		return types.Null, errDims("wrong number of array subscripts")
	}
	out := &types.Array{Elem: elem}
	n := int64(1)
	for i, d := range dims.Values {
		if d.IsNull() {
			return types.Null, pgerror.New(pgerrcode.NullValueNotAllowedDataException, "dimension values cannot be null")
		}
		lower := int64(1)
		if len(a) > 2 {
			if len(a[2].Array().Values) != len(dims.Values) {
				return types.Null, errDims("wrong number of array subscripts")
			}
			lower = a[2].Array().Values[i].Int()
		}
		if d.Int() < 0 || n*max(d.Int(), 1) > maxArrayElems {
			return types.Null, pgerror.New(pgerrcode.ProgramLimitExceeded, "array size exceeds the maximum allowed (%d)", maxArrayElems)
		}
		n *= d.Int()
		out.Dims = append(out.Dims, types.ArrayDim{Len: int32(d.Int()), Lower: int32(lower)})
	}
	if n == 0 || len(out.Dims) == 0 {
		out.Dims = nil
		return types.NewArray(out), nil
	}
	out.Values = make([]types.Datum, n)
	for i := range out.Values {
		out.Values[i] = a[0]
	}
	return types.NewArray(out), nil
}

func arrayConcat(r *registry) {
	push := func(elem types.OID, arr *types.Array, v types.Datum, front bool) (types.Datum, error) {
		if len(arr.Dims) > 1 {
			return types.Null, pgerror.New(pgerrcode.DataException, "argument must be empty or one-dimensional array")
		}
		out := &types.Array{Elem: elem, Dims: []types.ArrayDim{{Len: 1, Lower: 1}}}
		if len(arr.Dims) == 1 {
			out.Dims[0] = types.ArrayDim{Len: arr.Dims[0].Len + 1, Lower: arr.Dims[0].Lower}
		}
		out.Values = make([]types.Datum, 0, len(arr.Values)+1)
		if front {
			out.Values = append(append(out.Values, v), arr.Values...)
		} else {
			out.Values = append(append(out.Values, arr.Values...), v)
		}
		return types.NewArray(out), nil
	}
	array := func(d types.Datum) *types.Array {
		if d.IsNull() {
			return &types.Array{}
		}
		return d.Array()
	}
	elemOf := func(result types.OID) types.OID {
		if t, ok := types.Lookup(result); ok {
			return t.Elem
		}
		return 0
	}
	r.bind(func(_ []types.OID, result types.OID) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			return push(elemOf(result), array(a[0]), a[1], false)
		}
	}, "array_append")
	r.bind(func(_ []types.OID, result types.OID) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			return push(elemOf(result), array(a[1]), a[0], true)
		}
	}, "array_prepend")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		switch {
		case a[0].IsNull():
			return a[1], nil
		case a[1].IsNull():
			return a[0], nil
		}
		return concatArrays(a[0], a[1])
	}, "array_cat")
}

func concatArrays(x, y types.Datum) (types.Datum, error) {
	l, r := x.Array(), y.Array()
	switch {
	case len(r.Dims) == 0:
		return x, nil
	case len(l.Dims) == 0:
		return y, nil
	}
	out := &types.Array{Elem: l.Elem, Values: append(append(make([]types.Datum, 0, len(l.Values)+len(r.Values)), l.Values...), r.Values...)}
	bad := func(detail string) (types.Datum, error) {
		return types.Null, pgerror.New(pgerrcode.ArraySubscriptError, "cannot concatenate incompatible arrays").WithDetail("%s", detail)
	}
	const inner = "Arrays with differing element dimensions are not compatible for concatenation."
	switch len(l.Dims) - len(r.Dims) {
	case 0:
		if !sameDims(l.Dims[1:], r.Dims[1:]) {
			return bad(inner)
		}
		out.Dims = append([]types.ArrayDim(nil), l.Dims...)
		out.Dims[0].Len += r.Dims[0].Len
	case 1:
		if !sameDims(l.Dims[1:], r.Dims) {
			return bad("Arrays with differing dimensions are not compatible for concatenation.")
		}
		out.Dims = append([]types.ArrayDim(nil), l.Dims...)
		out.Dims[0].Len++
	case -1:
		if !sameDims(r.Dims[1:], l.Dims) {
			return bad("Arrays with differing dimensions are not compatible for concatenation.")
		}
		out.Dims = append([]types.ArrayDim(nil), r.Dims...)
		out.Dims[0].Len++
	default:
		return bad("Arrays of " + strconv.Itoa(len(l.Dims)) + " and " + strconv.Itoa(len(r.Dims)) + " dimensions are not compatible for concatenation.")
	}
	return types.NewArray(out), nil
}

func arraySearch(r *registry) {
	has := func(arr *types.Array, v types.Datum) bool {
		for _, x := range arr.Values {
			if !x.IsNull() && types.Equal(arr.Elem, x, v) {
				return true
			}
		}
		return false
	}
	contains := func(l, rt *types.Array) bool {
		for _, v := range rt.Values {
			if v.IsNull() || !has(l, v) {
				return false
			}
		}
		return true
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewBool(contains(a[0].Array(), a[1].Array())), nil
	}, "arraycontains")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewBool(contains(a[1].Array(), a[0].Array())), nil
	}, "arraycontained")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		for _, v := range a[0].Array().Values {
			if !v.IsNull() && has(a[1].Array(), v) {
				return types.NewBool(true), nil
			}
		}
		return types.NewBool(false), nil
	}, "arrayoverlap")
	positions := func(a []types.Datum) (out []int64, err error) {
		if a[0].IsNull() {
			return nil, nil
		}
		arr := a[0].Array()
		if len(arr.Dims) > 1 {
			return nil, pgerror.New(pgerrcode.FeatureNotSupported, "searching for elements in multidimensional arrays is not supported")
		}
		for i, x := range arr.Values {
			if x.IsNull() == a[1].IsNull() && (x.IsNull() || types.Equal(arr.Elem, x, a[1])) {
				out = append(out, int64(arr.Dims[0].Lower)+int64(i))
			}
		}
		return out, nil
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		all, err := positions(a)
		if err != nil {
			return types.Null, err
		}
		from := int64(-1 << 62)
		if len(a) > 2 {
			if a[2].IsNull() {
				return types.Null, pgerror.New(pgerrcode.NullValueNotAllowedDataException, "initial position must not be null")
			}
			from = a[2].Int()
		}
		for _, p := range all {
			if p >= from {
				return types.NewInt(p), nil
			}
		}
		return types.Null, nil
	}, "array_position", "array_position_start")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].IsNull() {
			return types.Null, nil
		}
		all, err := positions(a)
		if err != nil {
			return types.Null, err
		}
		out := make([]types.Datum, len(all))
		for i, p := range all {
			out[i] = types.NewInt(p)
		}
		return types.NewArray1(types.OIDInt4, out), nil
	}, "array_positions")
	same := func(elem types.OID, x, y types.Datum) bool {
		return x.IsNull() && y.IsNull() || !x.IsNull() && !y.IsNull() && types.Equal(elem, x, y)
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].IsNull() {
			return types.Null, nil
		}
		arr := a[0].Array()
		if len(arr.Dims) > 1 {
			return types.Null, pgerror.New(pgerrcode.FeatureNotSupported, "removing elements from multidimensional arrays is not supported")
		}
		out := &types.Array{Elem: arr.Elem}
		for _, v := range arr.Values {
			if !same(arr.Elem, v, a[1]) {
				out.Values = append(out.Values, v)
			}
		}
		if len(out.Values) > 0 {
			out.Dims = []types.ArrayDim{{Len: int32(len(out.Values)), Lower: arr.Dims[0].Lower}}
		}
		return types.NewArray(out), nil
	}, "array_remove")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].IsNull() {
			return types.Null, nil
		}
		out := *a[0].Array()
		out.Values = append([]types.Datum(nil), out.Values...)
		for i, v := range out.Values {
			if same(out.Elem, v, a[1]) {
				out.Values[i] = a[2]
			}
		}
		return types.NewArray(&out), nil
	}, "array_replace")
}

func arrayText(r *registry) {
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].IsNull() || a[1].IsNull() {
			return types.Null, nil
		}
		arr := a[0].Array()
		var b strings.Builder
		first := true
		for _, v := range arr.Values {
			if v.IsNull() && (len(a) < 3 || a[2].IsNull()) {
				continue
			}
			if !first {
				b.WriteString(a[1].Str())
			}
			first = false
			if v.IsNull() {
				b.WriteString(a[2].Str())
			} else {
				b.WriteString(outText(arr.Elem, v, ctx))
			}
		}
		return str(b.String())
	}, "array_to_text", "array_to_text_null")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].IsNull() {
			return types.Null, nil
		}
		return types.NewArray1(types.OIDText, splitText(a)), nil
	}, "text_to_array", "text_to_array_null")
}

// splitText is string_to_array: a NULL separator splits into characters.
func splitText(a []types.Datum) []types.Datum {
	s := a[0].Str()
	var parts []string
	switch {
	case s == "":
		return nil
	case a[1].IsNull():
		for _, c := range s {
			parts = append(parts, string(c))
		}
	case a[1].Str() == "":
		parts = []string{s}
	default:
		parts = strings.Split(s, a[1].Str())
	}
	out := make([]types.Datum, len(parts))
	for i, p := range parts {
		if len(a) > 2 && !a[2].IsNull() && p == a[2].Str() {
			continue
		}
		out[i] = types.NewString(p)
	}
	return out
}

func stringToTable(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
	if a[0].IsNull() {
		return nil
	}
	return emitAll(splitText(a), emit)
}
