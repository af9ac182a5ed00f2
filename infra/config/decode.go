package config

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

func itoa(i int) string { return strconv.Itoa(i) }

// decoder reads loosely typed values strictly and gathers the faults.
type decoder struct {
	faults []string
}

func (d *decoder) fault(format string, args ...any) {
	d.faults = append(d.faults, fmt.Sprintf(format, args...))
}

// object is a mapping under a path, whose keys are all known.
type object struct {
	d    *decoder
	path string
	m    map[string]any
}

// anyKey lets a mapping have every key.
const anyKey = "*"

// object reads v as a mapping with these keys; others are faults.
func (d *decoder) object(path string, v any, keys ...string) object {
	o := object{d: d, path: path}
	if v == nil {
		return o
	}
	m, ok := v.(map[string]any)
	if !ok {
		d.fault("%s must be a mapping, not %s", path, describe(v))
		return o
	}
	o.m = m
	if slices.Equal(keys, []string{anyKey}) {
		return o
	}
	for _, k := range sortedKeys(m) {
		if !slices.Contains(keys, k) {
			d.fault("%s: unknown key %q; the keys are %s", path, k, strings.Join(keys, ", "))
		}
	}
	return o
}

func (o object) at(key string) string {
	if o.path == "" {
		return "atoll:" + key
	}
	return o.path + "." + key
}

func (o object) str(key, def string) string {
	switch v := o.m[key].(type) {
	case nil:
		return def
	case string:
		return v
	default:
		o.d.fault("%s must be a text, not %s", o.at(key), describe(v))
		return def
	}
}

// oneOf reads a text out of a list.
func (o object) oneOf(key, def string, allowed ...string) string {
	v := o.str(key, def)
	if !slices.Contains(allowed, v) {
		o.d.fault("%s is %q; use %s", o.at(key), v, strings.Join(allowed, ", "))
		return def
	}
	return v
}

func (o object) integer(key string, def, low, high int) int {
	n := float64(def)
	switch v := o.m[key].(type) {
	case nil:
	case float64:
		n = v
	case string:
		i, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			o.d.fault("%s must be a whole number, not %s", o.at(key), describe(v))
			return def
		}
		n = float64(i)
	default:
		o.d.fault("%s must be a whole number, not %s", o.at(key), describe(v))
		return def
	}
	switch {
	case n != math.Trunc(n):
		o.d.fault("%s must be a whole number, not %v", o.at(key), n)
	case n < float64(low) || n > float64(high):
		o.d.fault("%s is %v; it must lie between %d and %d", o.at(key), n, low, high)
	default:
		return int(n)
	}
	return def
}

func (o object) boolean(key string, def bool) bool {
	switch v := o.m[key].(type) {
	case nil:
		return def
	case bool:
		return v
	case string:
		if v == "true" || v == "false" {
			return v == "true"
		}
	}
	o.d.fault("%s must be true or false, not %s", o.at(key), describe(o.m[key]))
	return def
}

// duration reads a time like 15m.
func (o object) duration(key, def string, low, high time.Duration) time.Duration {
	text := o.str(key, def)
	t, err := time.ParseDuration(text)
	switch {
	case err != nil:
		o.d.fault("%s is %q, not a duration with a unit, like %s", o.at(key), text, def)
	case t < low || t > high:
		o.d.fault("%s is %s; it must lie between %s and %s", o.at(key), text, low, high)
	}
	return t
}

// bytes reads a size like 10Gi.
func (o object) bytes(key, def string, low int64) int64 {
	s := o.str(key, def)
	n, err := ParseBytes(s)
	if err != nil {
		o.d.fault("%s is %q: %v", o.at(key), s, err)
		return low
	}
	if n < low {
		o.d.fault("%s is %s; at least %s is needed", o.at(key), s, FormatBytes(low))
		return low
	}
	return n
}

func (o object) texts(key string) map[string]string {
	v, there := o.m[key]
	if !there || v == nil {
		return nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		o.d.fault("%s must be a mapping, not %s", o.at(key), describe(v))
		return nil
	}
	out := map[string]string{}
	for _, k := range sortedKeys(m) {
		s, ok := m[k].(string)
		if !ok {
			o.d.fault("%s.%s must be a text, not %s", o.at(key), k, describe(m[k]))
			continue
		}
		out[k] = s
	}
	return out
}

func (o object) numbers(key string, low, high int) map[string]int {
	v, there := o.m[key]
	if !there || v == nil {
		return nil
	}
	in := o.d.object(o.at(key), v, anyKey)
	out := map[string]int{}
	for _, k := range sortedKeys(in.m) {
		out[k] = in.integer(k, low, low, high)
	}
	return out
}

func (o object) list(key string) []any {
	v, there := o.m[key]
	if !there || v == nil {
		return nil
	}
	l, ok := v.([]any)
	if !ok {
		o.d.fault("%s must be a list, not %s", o.at(key), describe(v))
	}
	return l
}

func (o object) strings(key string) []string {
	var out []string
	for i, v := range o.list(key) {
		s, ok := v.(string)
		if !ok {
			o.d.fault("%s[%d] must be a text, not %s", o.at(key), i, describe(v))
			continue
		}
		out = append(out, s)
	}
	return out
}

func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case map[string]any:
		return "a mapping"
	case []any:
		return "a list"
	case string:
		return fmt.Sprintf("the text %.40q", v)
	default:
		return fmt.Sprintf("%v", v)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// parse reads a configuration value as Pulumi hands it over: JSON for what has structure, plain
// text otherwise.
func (d *decoder) parse(key, text string, structured bool) any {
	if !structured {
		return text
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return text // the reader says which type is needed
	}
	return v
}

var units = []struct {
	suffix string
	bytes  int64
}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}}

// ParseBytes reads a size: a whole number with one of the units Ki, Mi, Gi, Ti, k, M, G, T.
func ParseBytes(s string) (int64, error) {
	for _, u := range units {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(num, 10, 64)
		if err != nil || n <= 0 || n > math.MaxInt64/u.bytes {
			break
		}
		return n * u.bytes, nil
	}
	return 0, fmt.Errorf("write a whole number with a unit, like 512Mi or 10Gi")
}

// FormatBytes writes a size with the largest unit that leaves a whole number.
func FormatBytes(n int64) string {
	for _, u := range []string{"Ti", "Gi", "Mi", "Ki"} {
		for _, k := range units {
			if k.suffix == u && n%k.bytes == 0 && n != 0 {
				return strconv.FormatInt(n/k.bytes, 10) + u
			}
		}
	}
	return strconv.FormatInt(n, 10)
}
