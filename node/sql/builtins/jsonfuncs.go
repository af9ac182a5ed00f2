package builtins

import (
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// flavor tells json, which keeps its text, from jsonb.
type flavor struct{ b bool }

var jsonText, jsonBinary = flavor{}, flavor{true}

func (f flavor) prefix() string {
	if f.b {
		return "jsonb"
	}
	return "json"
}

func (f flavor) oid() types.OID {
	if f.b {
		return types.OIDJSONB
	}
	return types.OIDJSON
}

// datum makes a value of it: jsonb canonical, json as it was written.
func (f flavor) datum(v *types.JSON) types.Datum {
	if f.b {
		return types.NewJSON(v.String())
	}
	if v.Raw != "" {
		return types.NewString(v.Raw)
	}
	return types.NewString(v.String())
}

func (f flavor) text(s string) types.Datum {
	if f.b {
		return types.NewJSON(s)
	}
	return types.NewString(s)
}

// asText is what ->> yields: strings without quotes, NULL for null.
func (f flavor) asText(v *types.JSON) types.Datum {
	switch v.Kind {
	case types.JSONNull:
		return types.Null
	case types.JSONString:
		return types.NewString(v.Str)
	}
	return types.NewString(f.datum(v).Str())
}

func jsonFuncs(r *registry) {
	for _, f := range []flavor{jsonText, jsonBinary} {
		jsonAccess(r, f)
		jsonInfo(r, f)
	}
	jsonbSearch(r)
	jsonbEdit(r)
	jsonBuild(r)
}

// with parses the first argument.
func with(f func(v *types.JSON, a []types.Datum) (types.Datum, error)) Eval {
	return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		v, err := types.ParseJSON(a[0].Str())
		if err != nil {
			return types.Null, err
		}
		return f(v, a)
	}
}

func element(v *types.JSON, i int64) (*types.JSON, bool) {
	if v.Kind != types.JSONArray {
		return nil, false
	}
	if i < 0 {
		i += int64(len(v.Elems))
	}
	if i < 0 || i >= int64(len(v.Elems)) {
		return nil, false
	}
	return v.Elems[i], true
}

func walkPath(v *types.JSON, path *types.Array) (*types.JSON, bool) {
	for _, p := range path.Values {
		if p.IsNull() {
			return nil, false
		}
		ok := false
		switch v.Kind {
		case types.JSONObject:
			v, ok = v.Lookup(p.Str())
		case types.JSONArray:
			i, err := strconv.ParseInt(p.Str(), 10, 32)
			if err != nil {
				return nil, false
			}
			v, ok = element(v, i)
		}
		if !ok {
			return nil, false
		}
	}
	return v, true
}

func jsonAccess(r *registry, f flavor) {
	get := func(find func(v *types.JSON, a []types.Datum) (*types.JSON, bool), asText bool) Eval {
		return with(func(v *types.JSON, a []types.Datum) (types.Datum, error) {
			e, ok := find(v, a)
			switch {
			case !ok:
				return types.Null, nil
			case asText:
				return f.asText(e), nil
			}
			return f.datum(e), nil
		})
	}
	field := func(v *types.JSON, a []types.Datum) (*types.JSON, bool) { return v.Lookup(a[1].Str()) }
	elem := func(v *types.JSON, a []types.Datum) (*types.JSON, bool) {
		if f.b && v.Kind != types.JSONObject && v.Kind != types.JSONArray { // jsonb keeps a scalar as an array of one
			return v, a[1].Int() == 0 || a[1].Int() == -1
		}
		return element(v, a[1].Int())
	}
	path := func(v *types.JSON, a []types.Datum) (*types.JSON, bool) { return walkPath(v, a[1].Array()) }
	p := f.prefix()
	r.fn(get(field, false), p+"_object_field")
	r.fn(get(field, true), p+"_object_field_text")
	r.fn(get(elem, false), p+"_array_element")
	r.fn(get(elem, true), p+"_array_element_text")
	r.fn(get(path, false), p+"_extract_path")
	r.fn(get(path, true), p+"_extract_path_text")
}

func jsonInfo(r *registry, f flavor) {
	p := f.prefix()
	r.fn(with(func(v *types.JSON, _ []types.Datum) (types.Datum, error) {
		return str([...]string{"null", "string", "number", "boolean", "array", "object"}[v.Kind])
	}), p+"_typeof")
	r.fn(with(func(v *types.JSON, _ []types.Datum) (types.Datum, error) {
		switch v.Kind {
		case types.JSONArray:
			return integer(len(v.Elems))
		case types.JSONObject:
			return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "cannot get array length of a non-array")
		}
		return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "cannot get array length of a scalar")
	}), p+"_array_length")
	r.fn(with(func(v *types.JSON, _ []types.Datum) (types.Datum, error) {
		s := stripNulls(v)
		if f.b {
			return types.NewJSON(s.String()), nil
		}
		return types.NewString(string(appendCompact(nil, s))), nil
	}), p+"_strip_nulls")
}

func stripNulls(v *types.JSON) *types.JSON {
	out := &types.JSON{Kind: v.Kind, Bool: v.Bool, Str: v.Str, Num: v.Num}
	if v.Kind != types.JSONArray && v.Kind != types.JSONObject {
		out.Raw = v.Raw
	}
	for _, e := range v.Elems {
		out.Elems = append(out.Elems, stripNulls(e))
	}
	for _, m := range v.Fields {
		if m.Value.Kind != types.JSONNull {
			out.Fields = append(out.Fields, types.JSONField{Key: m.Key, Value: stripNulls(m.Value)})
		}
	}
	return out
}

// appendCompact prints without blanks, scalars as they were written.
func appendCompact(dst []byte, v *types.JSON) []byte {
	switch v.Kind {
	case types.JSONArray:
		dst = append(dst, '[')
		for i, e := range v.Elems {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendCompact(dst, e)
		}
		return append(dst, ']')
	case types.JSONObject:
		dst = append(dst, '{')
		for i, m := range v.Fields {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(types.AppendJSONString(dst, m.Key), ':')
			dst = appendCompact(dst, m.Value)
		}
		return append(dst, '}')
	}
	if v.Raw != "" && v.Kind != types.JSONString {
		return append(dst, v.Raw...)
	}
	return v.Append(dst)
}

// JSONContains is jsonb's @>.
func JSONContains(v, part *types.JSON) bool {
	if v.Kind == types.JSONArray && part.Kind != types.JSONArray && part.Kind != types.JSONObject {
		return hasElement(v, part) // an array contains its scalars
	}
	return contains(v, part)
}

func contains(v, part *types.JSON) bool {
	if v.Kind != part.Kind {
		return false
	}
	switch v.Kind {
	case types.JSONObject:
		for _, m := range part.Fields {
			x, ok := v.Lookup(m.Key)
			if !ok || !contains(x, m.Value) {
				return false
			}
		}
		return true
	case types.JSONArray:
		for _, e := range part.Elems {
			if !hasElement(v, e) {
				return false
			}
		}
		return true
	}
	return types.CompareJSON(v, part) == 0
}

func hasElement(v, e *types.JSON) bool {
	for _, x := range v.Elems {
		if contains(x, e) {
			return true
		}
	}
	return false
}

// jsonExists is ?: a key, a string among the elements, or a string.
func jsonExists(v *types.JSON, key string) bool {
	switch v.Kind {
	case types.JSONObject:
		_, ok := v.Lookup(key)
		return ok
	case types.JSONArray:
		for _, e := range v.Elems {
			if e.Kind == types.JSONString && e.Str == key {
				return true
			}
		}
	case types.JSONString:
		return v.Str == key
	}
	return false
}

func jsonbSearch(r *registry) {
	r.fn(with(func(v *types.JSON, a []types.Datum) (types.Datum, error) {
		p, err := types.ParseJSON(a[1].Str())
		return types.NewBool(err == nil && JSONContains(v, p)), err
	}), "jsonb_contains")
	r.fn(with(func(v *types.JSON, a []types.Datum) (types.Datum, error) {
		p, err := types.ParseJSON(a[1].Str())
		return types.NewBool(err == nil && JSONContains(p, v)), err
	}), "jsonb_contained")
	r.fn(with(func(v *types.JSON, a []types.Datum) (types.Datum, error) {
		return types.NewBool(jsonExists(v, a[1].Str())), nil
	}), "jsonb_exists")
	for key, all := range map[string]bool{"jsonb_exists_any": false, "jsonb_exists_all": true} {
		r.fn(with(func(v *types.JSON, a []types.Datum) (types.Datum, error) {
			for _, k := range a[1].Array().Values {
				if !k.IsNull() && jsonExists(v, k.Str()) != all {
					return types.NewBool(!all), nil
				}
			}
			return types.NewBool(all), nil
		}), key)
	}
}

func jsonBad(format string, args ...any) error {
	return pgerror.New(pgerrcode.InvalidParameterValue, format, args...)
}

func jsonbEdit(r *registry) {
	r.fn(with(func(v *types.JSON, a []types.Datum) (types.Datum, error) {
		w, err := types.ParseJSON(a[1].Str())
		if err != nil {
			return types.Null, err
		}
		return types.NewJSON(jsonConcat(v, w).String()), nil
	}), "jsonb_concat")
	del := func(v *types.JSON, keys map[string]bool) (types.Datum, error) {
		switch v.Kind {
		case types.JSONObject:
			out := &types.JSON{Kind: v.Kind}
			for _, m := range v.Fields {
				if !keys[m.Key] {
					out.Fields = append(out.Fields, m)
				}
			}
			v = out
		case types.JSONArray:
			out := &types.JSON{Kind: v.Kind}
			for _, e := range v.Elems {
				if e.Kind != types.JSONString || !keys[e.Str] {
					out.Elems = append(out.Elems, e)
				}
			}
			v = out
		default:
			return types.Null, jsonBad("cannot delete from scalar")
		}
		return types.NewJSON(v.String()), nil
	}
	r.fn(with(func(v *types.JSON, a []types.Datum) (types.Datum, error) {
		return del(v, map[string]bool{a[1].Str(): true})
	}), "jsonb_delete")
	r.fn(with(func(v *types.JSON, a []types.Datum) (types.Datum, error) {
		keys := map[string]bool{}
		for _, k := range a[1].Array().Values {
			if !k.IsNull() {
				keys[k.Str()] = true
			}
		}
		return del(v, keys)
	}), "jsonb_delete_array")
	r.fn(with(func(v *types.JSON, a []types.Datum) (types.Datum, error) {
		switch v.Kind {
		case types.JSONObject:
			return types.Null, jsonBad("cannot delete from object using integer index")
		case types.JSONArray:
		default:
			return types.Null, jsonBad("cannot delete from scalar")
		}
		i := a[1].Int()
		if i < 0 {
			i += int64(len(v.Elems))
		}
		if i >= 0 && i < int64(len(v.Elems)) {
			v.Elems = append(v.Elems[:i:i], v.Elems[i+1:]...)
		}
		return types.NewJSON(v.String()), nil
	}), "jsonb_delete_idx")
	pathEdit := func(op editOp) Eval {
		return with(func(v *types.JSON, a []types.Datum) (types.Datum, error) {
			e := edit{op: op}
			if op != editDelete {
				var err error
				if e.value, err = types.ParseJSON(a[2].Str()); err != nil {
					return types.Null, err
				}
				e.flag = a[3].Bool()
			}
			if v.Kind != types.JSONArray && v.Kind != types.JSONObject {
				if op == editDelete {
					return types.Null, jsonBad("cannot delete path in scalar")
				}
				return types.Null, jsonBad("cannot set path in scalar")
			}
			path := a[1].Array()
			if len(path.Dims) > 1 {
				return types.Null, errDims("wrong number of array subscripts")
			}
			if empty := len(v.Elems)+len(v.Fields) == 0; len(path.Values) == 0 || empty && (op == editDelete || op == editSet && !e.flag) {
				return a[0], nil
			}
			out, err := e.apply(v, path.Values, 1)
			if err != nil {
				return types.Null, err
			}
			out.Canonicalize()
			return types.NewJSON(out.String()), nil
		})
	}
	r.fn(pathEdit(editDelete), "jsonb_delete_path")
	r.fn(pathEdit(editSet), "jsonb_set")
	r.fn(pathEdit(editInsert), "jsonb_insert")
	r.fn(with(func(v *types.JSON, _ []types.Datum) (types.Datum, error) {
		return str(string(appendPretty(nil, v, 0)))
	}), "jsonb_pretty")
}

func jsonConcat(v, w *types.JSON) *types.JSON {
	if v.Kind == types.JSONObject && w.Kind == types.JSONObject {
		out := &types.JSON{Kind: types.JSONObject, Fields: append(append([]types.JSONField(nil), v.Fields...), w.Fields...)}
		out.Canonicalize()
		return out
	}
	list := func(x *types.JSON) []*types.JSON {
		if x.Kind == types.JSONArray {
			return x.Elems
		}
		return []*types.JSON{x}
	}
	return &types.JSON{Kind: types.JSONArray, Elems: append(append([]*types.JSON(nil), list(v)...), list(w)...)}
}

type editOp uint8

const (
	editDelete editOp = iota
	editSet
	editInsert
)

// edit changes what a path leads to: jsonb_set, jsonb_insert and #-.
type edit struct {
	op    editOp
	value *types.JSON
	flag  bool // create_if_missing, insert_after
}

func (e edit) apply(v *types.JSON, path []types.Datum, pos int) (*types.JSON, error) {
	if path[0].IsNull() {
		return nil, pgerror.New(pgerrcode.NullValueNotAllowedDataException, "path element at position %d is null", pos)
	}
	key, last := path[0].Str(), len(path) == 1
	switch v.Kind {
	case types.JSONObject:
		out := &types.JSON{Kind: v.Kind}
		found := false
		for _, m := range v.Fields {
			if m.Key != key {
				out.Fields = append(out.Fields, m)
				continue
			}
			found = true
			switch {
			case last && e.op == editDelete:
				continue
			case last && e.op == editInsert:
				return nil, pgerror.New(pgerrcode.InvalidParameterValue, "cannot replace existing key").WithHint("Try using the function jsonb_set to replace key value.")
			case last:
				m.Value = e.value
			default:
				n, err := e.apply(m.Value, path[1:], pos+1)
				if err != nil {
					return nil, err
				}
				m.Value = n
			}
			out.Fields = append(out.Fields, m)
		}
		if !found && last && (e.op == editInsert || e.op == editSet && e.flag) {
			out.Fields = append(out.Fields, types.JSONField{Key: key, Value: e.value})
		}
		return out, nil
	case types.JSONArray:
		return e.applyArray(v, key, path, pos)
	}
	return v, nil
}

func (e edit) applyArray(v *types.JSON, key string, path []types.Datum, pos int) (*types.JSON, error) {
	idx, err := strconv.ParseInt(strings.TrimSpace(key), 10, 32)
	if err != nil {
		return nil, pgerror.New(pgerrcode.InvalidTextRepresentation, "path element at position %d is not an integer: \"%s\"", pos, key)
	}
	n := int64(len(v.Elems))
	out := &types.JSON{Kind: v.Kind}
	if idx < 0 {
		idx += n
	}
	last := len(path) == 1
	if idx < 0 || idx >= n {
		out.Elems = append(out.Elems, v.Elems...)
		if last && (e.op == editInsert || e.op == editSet && e.flag) {
			if idx < 0 {
				out.Elems = append([]*types.JSON{e.value}, out.Elems...)
			} else {
				out.Elems = append(out.Elems, e.value)
			}
		}
		return out, nil
	}
	for i, el := range v.Elems {
		switch {
		case int64(i) != idx:
			out.Elems = append(out.Elems, el)
		case !last:
			x, err := e.apply(el, path[1:], pos+1)
			if err != nil {
				return nil, err
			}
			out.Elems = append(out.Elems, x)
		case e.op == editDelete:
		case e.op == editSet:
			out.Elems = append(out.Elems, e.value)
		case e.flag:
			out.Elems = append(out.Elems, el, e.value)
		default:
			out.Elems = append(out.Elems, e.value, el)
		}
	}
	return out, nil
}

// appendPretty is jsonb_pretty: four blanks a level.
func appendPretty(dst []byte, v *types.JSON, depth int) []byte {
	indent := func(n int) { dst = append(append(dst, '\n'), strings.Repeat("    ", n)...) }
	switch v.Kind {
	case types.JSONArray:
		dst = append(dst, '[')
		for i, e := range v.Elems {
			if i > 0 {
				dst = append(dst, ',')
			}
			indent(depth + 1)
			dst = appendPretty(dst, e, depth+1)
		}
		indent(depth)
		return append(dst, ']')
	case types.JSONObject:
		dst = append(dst, '{')
		for i, m := range v.Fields {
			if i > 0 {
				dst = append(dst, ',')
			}
			indent(depth + 1)
			dst = append(types.AppendJSONString(dst, m.Key), ": "...)
			dst = appendPretty(dst, m.Value, depth+1)
		}
		indent(depth)
		return append(dst, '}')
	}
	return v.Append(dst)
}
