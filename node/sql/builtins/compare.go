package builtins

import (
	"strings"

	"github.com/atolldb/atoll/node/sql/types"
)

// cmpSuffixes are how PostgreSQL names the six comparisons of a type: int4eq, int4lt ...
var cmpSuffixes = [6]string{"eq", "ne", "lt", "le", "gt", "ge"}

// cmpTests turn an order into each comparison's result.
var cmpTests = [6]func(int) bool{
	func(c int) bool { return c == 0 }, func(c int) bool { return c != 0 },
	func(c int) bool { return c < 0 }, func(c int) bool { return c <= 0 },
	func(c int) bool { return c > 0 }, func(c int) bool { return c >= 0 },
}

type order func(ctx *EvalContext, a, b types.Datum) int

func plain(f func(a, b types.Datum) int) order {
	return func(_ *EvalContext, a, b types.Datum) int { return f(a, b) }
}

// comparisons registers the six functions called prefix+eq ... and, if cmp is not empty, the
// three-way one.
func (r *registry) comparisons(prefix, cmp string, o order) {
	r.comparisonsNamed([6]string{prefix + "eq", prefix + "ne", prefix + "lt", prefix + "le", prefix + "gt", prefix + "ge"}, cmp, o)
}

func (r *registry) comparisonsNamed(names [6]string, cmp string, o order) {
	for i, name := range names {
		if name == "" {
			continue
		}
		test := cmpTests[i]
		r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			return types.NewBool(test(o(ctx, a[0], a[1]))), nil
		}, name)
	}
	if cmp != "" {
		r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			return types.NewInt(int64(o(ctx, a[0], a[1]))), nil
		}, cmp)
	}
}

// pick registers the functions that return the larger and the smaller argument.
func (r *registry) pick(larger, smaller string, o order) {
	if larger != "" {
		r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			if o(ctx, a[0], a[1]) >= 0 {
				return a[0], nil
			}
			return a[1], nil
		}, larger)
	}
	if smaller != "" {
		r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			if o(ctx, a[0], a[1]) <= 0 {
				return a[0], nil
			}
			return a[1], nil
		}, smaller)
	}
}

func compareFuncs(r *registry) {
	std := plain(types.Compare)
	for _, p := range []string{"int2", "int4", "int8"} {
		r.comparisons(p, "bt"+p+"cmp", std)
		r.pick(p+"larger", p+"smaller", std)
	}
	r.comparisons("oid", "btoidcmp", std)
	r.pick("oidlarger", "oidsmaller", std)
	for _, p := range []string{"int24", "int42", "int28", "int82", "int48", "int84"} {
		r.comparisons(p, "bt"+p+"cmp", std)
	}
	for _, p := range []string{"float4", "float8"} {
		r.comparisons(p, "bt"+p+"cmp", std)
		r.pick(p+"larger", p+"smaller", std)
	}
	r.comparisons("float48", "btfloat48cmp", std)
	r.comparisons("float84", "btfloat84cmp", std)
	r.comparisonsNamed([6]string{"booleq", "boolne", "boollt", "boolle", "boolgt", "boolge"}, "btboolcmp", std)
	r.comparisonsNamed([6]string{"chareq", "charne", "charlt", "charle", "chargt", "charge"}, "btcharcmp", std)
	r.comparisonsNamed([6]string{"nameeq", "namene", "namelt", "namele", "namegt", "namege"}, "btnamecmp", std)
	r.comparisonsNamed([6]string{"nameeqtext", "namenetext", "namelttext", "nameletext", "namegttext", "namegetext"}, "btnametextcmp", std)
	r.comparisonsNamed([6]string{"texteqname", "textnename", "textltname", "textlename", "textgtname", "textgename"}, "bttextnamecmp", std)
	r.comparisonsNamed([6]string{"texteq", "textne", "text_lt", "text_le", "text_gt", "text_ge"}, "bttextcmp", std)
	r.pick("text_larger", "text_smaller", std)
	for _, p := range []string{"text", "bpchar"} {
		o := std
		if p == "bpchar" {
			o = plain(types.CompareBPChar)
		}
		r.comparisonsNamed([6]string{"", "", p + "_pattern_lt", p + "_pattern_le", p + "_pattern_gt", p + "_pattern_ge"}, "bt"+p+"_pattern_cmp", o)
	}
	r.comparisons("bpchar", "bpcharcmp", plain(types.CompareBPChar))
	r.pick("bpchar_larger", "bpchar_smaller", plain(types.CompareBPChar))
	r.comparisons("bytea", "byteacmp", std)
	for _, p := range []string{"numeric", "date", "timestamp", "time", "timetz", "interval"} {
		r.comparisons(p+"_", p+"_cmp", std)
		larger := p + "_larger"
		r.pick(larger, p+"_smaller", std)
	}
	for _, p := range []string{"uuid", "jsonb"} {
		r.comparisons(p+"_", p+"_cmp", std)
	}
	r.comparisonsNamed([6]string{"array_eq", "array_ne", "array_lt", "array_le", "array_gt", "array_ge"}, "btarraycmp", std)
	r.pick("array_larger", "array_smaller", std)
	r.comparisonsNamed([6]string{"record_eq", "record_ne", "record_lt", "record_le", "record_gt", "record_ge"}, "btrecordcmp", std)
	r.comparisonsNamed([6]string{"record_image_eq", "record_image_ne", "", "", "", ""}, "", std)
	r.comparisons("oidvector", "btoidvectorcmp", std)
	r.comparisonsNamed([6]string{"xideq", "xidneq", "", "", "", ""}, "", std)
	r.comparisonsNamed([6]string{"cideq", "", "", "", "", ""}, "", std)
	r.comparisons("xid8", "xid8cmp", std)

	crossDateCompare(r)
}

// crossDateCompare compares dates, timestamps and timestamptz with each other.
func crossDateCompare(r *registry) {
	toTZ := func(ctx *EvalContext, ts int64) int64 { return types.LocalToUTC(ts, ctx.location()) }
	conv := map[string]func(*EvalContext, types.Datum) int64{
		"date":      func(_ *EvalContext, d types.Datum) int64 { return dateToTimestampOrInf(d.Int()) },
		"timestamp": func(_ *EvalContext, d types.Datum) int64 { return d.Int() },
	}
	tz := map[string]func(*EvalContext, types.Datum) int64{
		"date":        func(c *EvalContext, d types.Datum) int64 { return toTZ(c, dateToTimestampOrInf(d.Int())) },
		"timestamp":   func(c *EvalContext, d types.Datum) int64 { return toTZ(c, d.Int()) },
		"timestamptz": func(_ *EvalContext, d types.Datum) int64 { return d.Int() },
	}
	for _, pair := range [][2]string{{"date", "timestamp"}, {"timestamp", "date"}, {"date", "timestamptz"}, {"timestamptz", "date"},
		{"timestamp", "timestamptz"}, {"timestamptz", "timestamp"}} {
		via := tz
		if pair[0] != "timestamptz" && pair[1] != "timestamptz" {
			via = conv
		}
		l, rt := via[pair[0]], via[pair[1]]
		o := func(ctx *EvalContext, a, b types.Datum) int {
			x, y := l(ctx, a), rt(ctx, b)
			switch {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return 0
		}
		var names [6]string
		for i, s := range cmpSuffixes {
			names[i] = pair[0] + "_" + s + "_" + pair[1]
		}
		r.comparisonsNamed(names, strings.Join([]string{pair[0], "cmp", pair[1]}, "_"), o)
	}
}

// dateToTimestampOrInf is the date's midnight; a date beyond timestamps counts as infinite.
func dateToTimestampOrInf(d int64) int64 {
	switch {
	case d == int64(types.DateInfinity) || d > 106751991:
		return types.TimestampInfinity
	case d == int64(types.DateNegInfinity):
		return types.TimestampNegInfinity
	}
	return d * usPerDay
}
