package main

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"

	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"google.golang.org/protobuf/types/known/structpb"
	"k8s.io/apimachinery/pkg/api/resource"
)

// object is a Kubernetes object as JSON has it. An unknown value of a preview is the value
// unknown.
type object = map[string]any

type unknownValue struct{}

var unknown = unknownValue{}

// decode turns Pulumi's properties into an object, secrets opened.
func decode(s *structpb.Struct) (object, error) {
	m, err := plugin.UnmarshalProperties(s, plugin.MarshalOptions{KeepUnknowns: true, KeepSecrets: true, SkipNulls: true})
	if err != nil {
		return nil, err
	}
	out, _ := open(presource.NewObjectProperty(m)).(object)
	return out, nil
}

func open(v presource.PropertyValue) any {
	switch {
	case v.IsSecret():
		return open(v.SecretValue().Element)
	case v.IsComputed():
		return unknown
	case v.IsOutput():
		if !v.OutputValue().Known {
			return unknown
		}
		return open(v.OutputValue().Element)
	case v.IsObject():
		out := object{}
		for k, x := range v.ObjectValue() {
			out[string(k)] = open(x)
		}
		return out
	case v.IsArray():
		out := []any{}
		for _, x := range v.ArrayValue() {
			out = append(out, open(x))
		}
		return out
	default:
		return v.V
	}
}

// encode turns an object into Pulumi's properties; what a Secret holds is secret.
func encode(o object) (*structpb.Struct, error) {
	m := presource.PropertyMap{}
	for k, v := range o {
		p := seal(v)
		if o["kind"] == "Secret" && (k == "data" || k == "stringData") {
			p = presource.MakeSecret(p)
		}
		m[presource.PropertyKey(k)] = p
	}
	return plugin.MarshalProperties(m, plugin.MarshalOptions{KeepUnknowns: true, KeepSecrets: true})
}

func seal(v any) presource.PropertyValue {
	switch v := v.(type) {
	case unknownValue:
		return presource.MakeComputed(presource.NewStringProperty(""))
	case object:
		m := presource.PropertyMap{}
		for k, x := range v {
			m[presource.PropertyKey(k)] = seal(x)
		}
		return presource.NewObjectProperty(m)
	case []any:
		out := []presource.PropertyValue{}
		for _, x := range v {
			out = append(out, seal(x))
		}
		return presource.NewArrayProperty(out)
	case int64:
		return presource.NewNumberProperty(float64(v))
	default:
		return presource.NewPropertyValue(v)
	}
}

// normal returns a value as JSON would read it back: every number a float64.
func normal(o object) object {
	b, err := json.Marshal(o)
	if err != nil {
		return o
	}
	var out object
	if json.Unmarshal(b, &out) != nil {
		return o
	}
	return out
}

// hasUnknown reports whether a preview does not know all of a value yet.
func hasUnknown(v any) bool {
	switch v := v.(type) {
	case unknownValue:
		return true
	case object:
		for _, x := range v {
			if hasUnknown(x) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, hasUnknown)
	}
	return false
}

// change is a difference between two inputs.
type change struct {
	path string
	kind byte // '+', '-' or '~'
}

// differences lists what differs, by Pulumi's property paths, in order.
func differences(old, new any, path string, out []change) []change {
	a, aok := old.(object)
	b, bok := new.(object)
	if aok && bok {
		keys := map[string]bool{}
		for k := range a {
			keys[k] = true
		}
		for k := range b {
			keys[k] = true
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			p := join(path, k)
			x, had := a[k]
			y, has := b[k]
			switch {
			case !had:
				out = append(out, change{p, '+'})
			case !has:
				out = append(out, change{p, '-'})
			default:
				out = differences(x, y, p, out)
			}
		}
		return out
	}
	c, cok := old.([]any)
	d, dok := new.([]any)
	if cok && dok {
		for i := range max(len(c), len(d)) {
			p := path + "[" + strconv.Itoa(i) + "]"
			switch {
			case i >= len(c):
				out = append(out, change{p, '+'})
			case i >= len(d):
				out = append(out, change{p, '-'})
			default:
				out = differences(c[i], d[i], p, out)
			}
		}
		return out
	}
	if !same(old, new) {
		out = append(out, change{path, '~'})
	}
	return out
}

// join appends a key to a property path; keys with dots or slashes are quoted.
func join(path, key string) string {
	plain := key != ""
	for _, r := range key {
		if r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			plain = false
		}
	}
	switch {
	case !plain:
		return path + "[" + strconv.Quote(key) + "]"
	case path == "":
		return key
	default:
		return path + "." + key
	}
}

// same reports whether two values mean the same to Kubernetes: it rewrites quantities.
func same(a, b any) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	x, xok := a.(string)
	y, yok := b.(string)
	if !xok || !yok {
		return false
	}
	p, err := resource.ParseQuantity(x)
	if err != nil {
		return false
	}
	q, err := resource.ParseQuantity(y)
	return err == nil && p.Cmp(q) == 0
}

// project returns the inputs as they would have to be to describe the live object: what the inputs
// name, with the live values. So drift shows as a change, and what Kubernetes fills in does not.
func project(inputs, live any) any {
	switch in := inputs.(type) {
	case object:
		l, ok := live.(object)
		if !ok {
			return live
		}
		out := object{}
		for k, v := range in {
			x, there := l[k]
			switch {
			case there:
				out[k] = project(v, x)
			case empty(v):
				out[k] = v // the API server leaves out what is empty
			}
		}
		return out
	case []any:
		l, ok := live.([]any)
		if !ok {
			return live
		}
		out := []any{}
		for i, x := range l {
			if i < len(in) {
				x = project(in[i], x)
			}
			out = append(out, x)
		}
		return out
	default:
		if same(inputs, live) {
			return inputs
		}
		return live
	}
}

func empty(v any) bool {
	switch v := v.(type) {
	case object:
		for _, x := range v {
			if !empty(x) {
				return false
			}
		}
		return true
	case []any:
		return len(v) == 0
	case string:
		return v == ""
	case bool:
		return !v
	case float64:
		return v == 0
	default:
		return v == nil
	}
}

// text follows keys to a string.
func text(o any, keys ...string) string {
	for _, k := range keys {
		m, ok := o.(object)
		if !ok {
			return ""
		}
		o = m[k]
	}
	s, _ := o.(string)
	return s
}

// number follows keys to a number; 0 if there is none.
func number(o any, keys ...string) float64 {
	for _, k := range keys {
		m, ok := o.(object)
		if !ok {
			return 0
		}
		o = m[k]
	}
	switch n := o.(type) {
	case float64:
		return n
	case int64:
		return float64(n)
	}
	return 0
}

// items follows keys to a list.
func items(o any, keys ...string) []any {
	for _, k := range keys {
		m, ok := o.(object)
		if !ok {
			return nil
		}
		o = m[k]
	}
	l, _ := o.([]any)
	return l
}
