package builtins

import (
	"math"
	"strconv"

	"github.com/cockroachdb/apd/v3"
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// appendAsJSON prints a value of a type as to_json does.
func appendAsJSON(dst []byte, oid types.OID, d types.Datum, ctx *EvalContext) []byte {
	if d.IsNull() {
		return append(dst, "null"...)
	}
	switch d.Kind() {
	case types.KindBool:
		return strconv.AppendBool(dst, d.Bool())
	case types.KindInt:
		if t, ok := types.Lookup(oid); ok && (t.Category == 'N' && oid != types.OIDOID && t.Len != 4 || oid == types.OIDInt4) {
			return strconv.AppendInt(dst, d.Int(), 10)
		}
		return types.AppendJSONString(dst, outText(oid, d, ctx))
	case types.KindFloat:
		if f := d.Float(); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return types.AppendText(dst, oid, d, ctx.env())
		}
		return types.AppendJSONString(dst, outText(oid, d, ctx))
	case types.KindNumeric:
		if d.Numeric().Form == apd.Finite {
			return types.AppendText(dst, oid, d, ctx.env())
		}
		return types.AppendJSONString(dst, outText(oid, d, ctx))
	case types.KindJSON:
		return append(dst, d.Str()...)
	case types.KindString:
		if oid == types.OIDJSON {
			return append(dst, d.Str()...)
		}
		return types.AppendJSONString(dst, d.Str())
	case types.KindTimestamp, types.KindDate:
		return types.AppendJSONString(dst, isoTime(outText(oid, d, ctx), oid))
	case types.KindArray:
		a := d.Array()
		if len(a.Values) == 0 {
			return append(dst, "[]"...)
		}
		dst, _ = appendArrayJSON(dst, a, a.Dims, a.Values, ctx)
		return dst
	case types.KindRecord:
		rec := d.Record()
		dst = append(dst, '{')
		for i, v := range rec.Values {
			if i > 0 {
				dst = append(dst, ',')
			}
			name := "f" + strconv.Itoa(i+1)
			if i < len(rec.Names) {
				name = rec.Names[i]
			}
			dst = append(types.AppendJSONString(dst, name), ':')
			dst = appendAsJSON(dst, rec.Types[i], v, ctx)
		}
		return append(dst, '}')
	}
	return types.AppendJSONString(dst, outText(oid, d, ctx))
}

func appendArrayJSON(dst []byte, a *types.Array, dims []types.ArrayDim, vals []types.Datum, ctx *EvalContext) ([]byte, []types.Datum) {
	dst = append(dst, '[')
	for i := range dims[0].Len {
		if i > 0 {
			dst = append(dst, ',')
		}
		if len(dims) > 1 {
			dst, vals = appendArrayJSON(dst, a, dims[1:], vals, ctx)
			continue
		}
		dst = appendAsJSON(dst, a.Elem, vals[0], ctx)
		vals = vals[1:]
	}
	return append(dst, ']'), vals
}

// isoTime turns PostgreSQL's "2024-01-31 10:00:00+00" into JSON's "2024-01-31T10:00:00+00:00".
func isoTime(s string, oid types.OID) string {
	if oid == types.OIDDate {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if c == ' ' {
			b[i] = 'T'
			break
		}
	}
	s = string(b)
	if oid != types.OIDTimestampTZ || len(s) < 3 {
		return s
	}
	bc := ""
	if n := len(s) - 3; s[n:] == " BC" {
		s, bc = s[:n], " BC"
	}
	if n := len(s) - 3; n > 0 && (s[n] == '+' || s[n] == '-') {
		s += ":00"
	}
	return s + bc
}

// keyText is a key of json_build_object and its like.
func keyText(oid types.OID, d types.Datum, ctx *EvalContext) (string, error) {
	switch d.Kind() {
	case types.KindArray, types.KindRecord, types.KindJSON:
		return "", pgerror.New(pgerrcode.InvalidParameterValue, "key value must be scalar, not array, composite, or json")
	}
	if oid == types.OIDJSON {
		return "", pgerror.New(pgerrcode.InvalidParameterValue, "key value must be scalar, not array, composite, or json")
	}
	if d.Kind() == types.KindTimestamp || d.Kind() == types.KindDate {
		return isoTime(outText(oid, d, ctx), oid), nil
	}
	return castText(oid, d, ctx), nil
}

// finish makes a value of JSON text that was built.
func (f flavor) finish(b []byte) (types.Datum, error) {
	if !f.b {
		return types.NewString(string(b)), nil
	}
	s, err := types.CanonicalJSON(string(b))
	return types.NewJSON(s), err
}

func (f flavor) separators() (comma, colon string) {
	if f.b {
		return ",", ":"
	}
	return ", ", " : "
}

func jsonBuild(r *registry) {
	for _, f := range []flavor{jsonText, jsonBinary} {
		p := f.prefix()
		comma, colon := f.separators()
		to := "to_" + p
		r.bind(func(args []types.OID, _ types.OID) Eval {
			return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
				return f.finish(appendAsJSON(nil, args[0], a[0], ctx))
			}
		}, to)
		r.bind(func(args []types.OID, _ types.OID) Eval {
			return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
				b := []byte{'['}
				for i, d := range a {
					if i > 0 {
						b = append(b, comma...)
					}
					b = appendAsJSON(b, args[i], d, ctx)
				}
				return f.finish(append(b, ']'))
			}
		}, p+"_build_array", p+"_build_array_noargs")
		r.bind(func(args []types.OID, _ types.OID) Eval {
			return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
				return buildObject(f, ctx, args, a, comma, colon)
			}
		}, p+"_build_object", p+"_build_object_noargs")
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return jsonObject(f, a) }, p+"_object", p+"_object_two_arg")
	}
	r.bind(func(args []types.OID, _ types.OID) Eval {
		return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			return types.NewString(string(appendAsJSON(nil, args[0], a[0], ctx))), nil
		}
	}, "array_to_json", "row_to_json")
}

func buildObject(f flavor, ctx *EvalContext, args []types.OID, a []types.Datum, comma, colon string) (types.Datum, error) {
	if len(a)%2 != 0 {
		return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "argument list must have even number of elements").
			WithHint("The arguments of %s_build_object() must consist of alternating keys and values.", f.prefix())
	}
	b := []byte{'{'}
	for i := 0; i < len(a); i += 2 {
		if a[i].IsNull() {
			if f.b {
				return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "argument %d: key must not be null", i+1)
			}
			return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "argument %d cannot be null", i+1).WithHint("Object keys should be text.")
		}
		key, err := keyText(args[i], a[i], ctx)
		if err != nil {
			return types.Null, err
		}
		if i > 0 {
			b = append(b, comma...)
		}
		b = append(types.AppendJSONString(b, key), colon...)
		b = appendAsJSON(b, args[i+1], a[i+1], ctx)
	}
	return f.finish(append(b, '}'))
}

// jsonObject is json_object(text[]) and json_object(keys, values).
func jsonObject(f flavor, a []types.Datum) (types.Datum, error) {
	bad := func(msg string) (types.Datum, error) {
		return types.Null, pgerror.New(pgerrcode.ArraySubscriptError, "%s", msg)
	}
	keys, vals := a[0].Array(), (*types.Array)(nil)
	var pairs [][2]types.Datum
	if len(a) == 2 {
		vals = a[1].Array()
		if len(keys.Dims) > 1 || len(vals.Dims) > 1 {
			return bad("wrong number of array subscripts")
		}
		if len(keys.Values) != len(vals.Values) {
			return bad("mismatched array dimensions")
		}
		for i := range keys.Values {
			pairs = append(pairs, [2]types.Datum{keys.Values[i], vals.Values[i]})
		}
	} else {
		switch {
		case len(keys.Dims) > 2:
			return bad("wrong number of array subscripts")
		case len(keys.Dims) == 2 && keys.Dims[1].Len != 2:
			return bad("array must have two columns")
		case len(keys.Values)%2 != 0:
			return bad("array must have even number of elements")
		}
		for i := 0; i < len(keys.Values); i += 2 {
			pairs = append(pairs, [2]types.Datum{keys.Values[i], keys.Values[i+1]})
		}
	}
	comma, colon := f.separators()
	b := []byte{'{'}
	for i, p := range pairs {
		if p[0].IsNull() {
			return types.Null, pgerror.New(pgerrcode.NullValueNotAllowedDataException, "null value not allowed for object key")
		}
		if i > 0 {
			b = append(b, comma...)
		}
		b = append(types.AppendJSONString(b, p[0].Str()), colon...)
		if p[1].IsNull() {
			b = append(b, "null"...)
		} else {
			b = types.AppendJSONString(b, p[1].Str())
		}
	}
	return f.finish(append(b, '}'))
}

func jsonSets(r *registry) {
	for _, f := range []flavor{jsonText, jsonBinary} {
		p := f.prefix()
		each := func(asText bool) SetFn {
			return func(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
				v, err := types.ParseJSON(a[0].Str())
				if err != nil {
					return err
				}
				name := p + "_each"
				if asText {
					name += "_text"
				}
				switch {
				case v.Kind == types.JSONObject:
				case f.b:
					return jsonBad("cannot call %s on a non-object", name)
				case v.Kind == types.JSONArray:
					return jsonBad("cannot deconstruct an array as an object")
				default:
					return jsonBad("cannot deconstruct a scalar")
				}
				for _, m := range v.Fields {
					row := []types.Datum{types.NewString(m.Key), f.datum(m.Value)}
					if asText {
						row[1] = f.asText(m.Value)
					}
					if more, err := emit(row); !more || err != nil {
						return err
					}
				}
				return nil
			}
		}
		r.set(each(false), p+"_each")
		r.set(each(true), p+"_each_text")
		elems := func(asText bool) SetFn {
			return func(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
				v, err := types.ParseJSON(a[0].Str())
				if err != nil {
					return err
				}
				name := p + "_array_elements"
				if asText {
					name += "_text"
				}
				switch {
				case v.Kind == types.JSONArray:
				case f.b && v.Kind == types.JSONObject:
					return jsonBad("cannot extract elements from an object")
				case f.b:
					return jsonBad("cannot extract elements from a scalar")
				case v.Kind == types.JSONObject:
					return jsonBad("cannot call %s on a non-array", name)
				default:
					return jsonBad("cannot call %s on a scalar", name)
				}
				out := make([]types.Datum, len(v.Elems))
				for i, e := range v.Elems {
					if out[i] = f.datum(e); asText {
						out[i] = f.asText(e)
					}
				}
				return emitAll(out, emit)
			}
		}
		r.set(elems(false), p+"_array_elements")
		r.set(elems(true), p+"_array_elements_text")
		r.set(func(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
			v, err := types.ParseJSON(a[0].Str())
			if err != nil {
				return err
			}
			switch v.Kind {
			case types.JSONObject:
			case types.JSONArray:
				return jsonBad("cannot call %s on an array", p+"_object_keys")
			default:
				return jsonBad("cannot call %s on a scalar", p+"_object_keys")
			}
			out := make([]types.Datum, len(v.Fields))
			for i, m := range v.Fields {
				out[i] = types.NewString(m.Key)
			}
			return emitAll(out, emit)
		}, p+"_object_keys")
	}
}

// jsonAcc is json_agg and json_object_agg.
type jsonAcc struct {
	f      flavor
	object bool
	args   []types.OID
	b      []byte
	n      int
}

func (a *jsonAcc) Add(ctx *EvalContext, args []types.Datum) error {
	comma, colon := a.f.separators()
	if a.n++; a.n == 1 {
		a.b = append(a.b, '[')
		if a.object {
			a.b = append(a.b[:0], '{')
			if !a.f.b {
				a.b = append(a.b, ' ')
			}
		}
	} else {
		a.b = append(a.b, comma...)
	}
	v, oid := args[0], a.args[0]
	if a.object {
		if v.IsNull() {
			return pgerror.New(pgerrcode.InvalidParameterValue, "field name must not be null")
		}
		key, err := keyText(oid, v, ctx)
		if err != nil {
			return err
		}
		a.b = append(types.AppendJSONString(a.b, key), colon...)
		v, oid = args[1], a.args[1]
	}
	a.b = appendAsJSON(a.b, oid, v, ctx)
	if len(a.b) > maxAggregateBytes {
		return errTooLong()
	}
	return nil
}

func (a *jsonAcc) Result(*EvalContext) (types.Datum, error) {
	switch {
	case a.n == 0:
		return types.Null, nil
	case !a.object:
		return a.f.finish(append(a.b, ']'))
	case !a.f.b:
		return a.f.finish(append(a.b, " }"...))
	}
	return a.f.finish(append(a.b, '}'))
}

func jsonAggregates(r *registry) {
	for _, f := range []flavor{jsonText, jsonBinary} {
		r.aggregate(func(args []types.OID, _ types.OID) func() Accumulator {
			return func() Accumulator { return &jsonAcc{f: f, args: args} }
		}, f.prefix()+"_agg(anyelement)")
		r.aggregate(func(args []types.OID, _ types.OID) func() Accumulator {
			return func() Accumulator { return &jsonAcc{f: f, args: args, object: true} }
		}, f.prefix()+"_object_agg(any,any)")
	}
}
