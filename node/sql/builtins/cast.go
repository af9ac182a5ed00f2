package builtins

import (
	"math"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// Eval returns how the cast is computed; nil where the value stays as it is (method b), or
// where the function has no implementation (then Supported is false). Casts through the text
// form (method i) are IOCast. Length coercion (typmod) is types.ApplyTypmod, apart.
func (c *Cast) Eval() Eval {
	switch c.Method {
	case 'f':
		if c.Source == c.Target {
			return nil // a length coercion
		}
		if c.Proc == nil {
			return nil
		}
		return c.Proc.Fn(c.Proc.Args, c.Proc.Result)
	case 'i':
		return IOCast(c.Source, c.Target)
	}
	// Binary-coercible in PostgreSQL, where int4 and oid are the same 4 bytes: here oid is unsigned.
	switch {
	case c.Source == types.OIDInt4 && unsigned32(c.Target):
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			return types.NewInt(int64(uint32(a[0].Int()))), nil
		}
	case c.Target == types.OIDInt4 && unsigned32(c.Source):
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			return types.NewInt(int64(int32(a[0].Int()))), nil
		}
	}
	return nil
}

// Supported says whether the cast can be computed.
func (c *Cast) Supported() bool {
	return c.Method != 'f' || c.Source == c.Target || c.Eval() != nil
}

func unsigned32(oid types.OID) bool {
	return oid != types.OIDInt4 && types.KindOf(oid) == types.KindInt && oid != types.OIDInt2 && oid != types.OIDInt8 && oid != types.OIDXID8
}

// IOCast converts through the text form: what PostgreSQL does between any type and strings
// where no cast is declared. The result has no typmod applied.
func IOCast(source, target types.OID) Eval {
	return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.ParseText(target, -1, types.Text(source, a[0], ctx.env()), ctx.env())
	}
}

// FloatToInt rounds half to even and checks the range.
func FloatToInt(v float64, oid types.OID) (int64, error) {
	r := math.RoundToEven(v)
	var lo, hi float64
	switch oid {
	case types.OIDInt2:
		lo, hi = math.MinInt16, -math.MinInt16
	case types.OIDInt4:
		lo, hi = math.MinInt32, -math.MinInt32
	default:
		lo, hi = math.MinInt64, -math.MinInt64
	}
	if math.IsNaN(r) || r < lo || r >= hi {
		return 0, types.ErrOutOfRange(oid)
	}
	return int64(r), nil
}

func castFuncs(r *registry) {
	numberCasts(r)
	stringCasts(r)
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].Bool() {
			return types.NewInt(1), nil
		}
		return types.NewInt(0), nil
	}, "bool_int4")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return types.NewBool(a[0].Int() != 0), nil }, "int4_bool")
}

func numberCasts(r *registry) {
	same := func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return a[0], nil }
	r.fn(same, "i2toi4", "int28", "int48", "ftod", "oidtoi8")
	narrow := func(oid types.OID) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return inRange(a[0].Int(), oid) }
	}
	r.fn(narrow(types.OIDInt2), "i4toi2", "int82")
	r.fn(narrow(types.OIDInt4), "int84")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if v := a[0].Int(); v < 0 || v > math.MaxUint32 {
			return types.Null, pgerror.New(pgerrcode.NumericValueOutOfRange, "OID out of range")
		}
		return a[0], nil
	}, "i8tooid")
	toFloat := func(bits int) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			if bits == 32 {
				return types.NewFloat(float64(float32(a[0].Int()))), nil
			}
			return types.NewFloat(float64(a[0].Int())), nil
		}
	}
	r.fn(toFloat(64), "i2tod", "i4tod", "i8tod")
	r.fn(toFloat(32), "i2tof", "i4tof", "i8tof")
	for name, oid := range map[string]types.OID{"dtoi2": types.OIDInt2, "dtoi4": types.OIDInt4, "dtoi8": types.OIDInt8,
		"ftoi2": types.OIDInt2, "ftoi4": types.OIDInt4, "ftoi8": types.OIDInt8} {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			v, err := FloatToInt(a[0].Float(), oid)
			return types.NewInt(v), err
		}, name)
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		v := a[0].Float()
		return floatResult(v, true, math.IsInf(v, 0), v == 0)
	}, "dtof")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewNumericInt(a[0].Int()), nil
	},
		"int2_numeric", "int4_numeric", "int8_numeric")
	for name, oid := range map[string]types.OID{"numeric_int2": types.OIDInt2, "numeric_int4": types.OIDInt4, "numeric_int8": types.OIDInt8} {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			v, err := types.NumericToInt(a[0].Numeric(), oid)
			return types.NewInt(v), err
		}, name)
	}
	for name, bits := range map[string]int{"numeric_float4": 32, "numeric_float8": 64} {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			v, err := types.NumericToFloat(a[0].Numeric(), bits)
			return types.NewFloat(v), err
		}, name)
	}
	for name, bits := range map[string]int{"float4_numeric": 32, "float8_numeric": 64} {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			return types.NewNumeric(types.NumericFromFloat(a[0].Float(), bits)), nil
		}, name)
	}
	jsonbCasts(r)
}

// jsonbCasts are from jsonb to scalars.
func jsonbCasts(r *registry) {
	cast := func(name string, want types.JSONKind, target types.OID, f func(*types.JSON) (types.Datum, error)) {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			v, err := types.ParseJSON(a[0].Str())
			if err != nil {
				return types.Null, err
			}
			if v.Kind != want {
				return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "cannot cast jsonb %s to type %s", jsonTypeName(v), types.TypeName(target))
			}
			return f(v)
		}, name)
	}
	cast("jsonb_bool", types.JSONBool, types.OIDBool, func(v *types.JSON) (types.Datum, error) { return types.NewBool(v.Bool), nil })
	cast("jsonb_numeric", types.JSONNumber, types.OIDNumeric, func(v *types.JSON) (types.Datum, error) { return types.NewNumeric(v.Num), nil })
	for name, oid := range map[string]types.OID{"jsonb_int2": types.OIDInt2, "jsonb_int4": types.OIDInt4, "jsonb_int8": types.OIDInt8} {
		cast(name, types.JSONNumber, oid, func(v *types.JSON) (types.Datum, error) {
			n, err := types.NumericToInt(v.Num, oid)
			return types.NewInt(n), err
		})
	}
	for name, oid := range map[string]types.OID{"jsonb_float4": types.OIDFloat4, "jsonb_float8": types.OIDFloat8} {
		cast(name, types.JSONNumber, oid, func(v *types.JSON) (types.Datum, error) {
			bits := 64
			if oid == types.OIDFloat4 {
				bits = 32
			}
			f, err := types.NumericToFloat(v.Num, bits)
			return types.NewFloat(f), err
		})
	}
}

func jsonTypeName(v *types.JSON) string {
	return [...]string{"null", "string", "numeric", "boolean", "array", "object"}[v.Kind]
}

func stringCasts(r *registry) {
	rtrim := func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewString(strings.TrimRight(a[0].Str(), " ")), nil
	}
	r.fn(rtrim, "rtrim1")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewString(types.TruncateName(strings.TrimRight(a[0].Str(), " "))), nil
	}, "bpchar_name")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.NewString(types.TruncateName(a[0].Str())), nil
	}, "text_name")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return a[0], nil }, "name_text", "name_bpchar", "char_text", "char_bpchar")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.ParseText(types.OIDChar, -1, a[0].Str(), nil)
	}, "text_char")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if s := a[0].Str(); s != "" {
			return types.NewInt(int64(int8(s[0]))), nil
		}
		return types.NewInt(0), nil
	}, "chartoi4")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		v := a[0].Int()
		if v < 0 || v > 127 { // PostgreSQL goes down to -128, to bytes that are no characters in UTF-8
			return types.Null, pgerror.New(pgerrcode.NumericValueOutOfRange, "\"char\" out of range")
		}
		if v == 0 {
			return types.NewString(""), nil
		}
		return types.NewString(string([]byte{byte(v)})), nil
	}, "i4tochar")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].Bool() {
			return types.NewString("true"), nil
		}
		return types.NewString("false"), nil
	}, "booltext")
	for name, oid := range map[string]types.OID{"varchar": types.OIDVarChar, "bpchar": types.OIDBPChar} {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			return types.ApplyTypmod(oid, int32(a[1].Int()), a[2].Bool(), a[0])
		}, name)
	}
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return types.ParseText(types.OIDRegClass, -1, a[0].Str(), ctx.env())
	}, "text_regclass")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		v, err := types.ApplyNumericTypmod(a[0].Numeric(), int32(a[1].Int()))
		if err != nil {
			return types.Null, err
		}
		return types.NewNumeric(v), nil
	}, "numeric")
}
