package builtins

import (
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

func regexFuncs(r *registry) {
	match := func(fold, negate bool) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			re, err := compileRegex(a[1].Str(), regexOptions{fold: fold})
			if err != nil {
				return types.Null, err
			}
			return types.NewBool(re.MatchString(a[0].Str()) != negate), nil
		}
	}
	for _, t := range []string{"text", "name"} {
		r.fn(match(false, false), t+"regexeq")
		r.fn(match(false, true), t+"regexne")
		r.fn(match(true, false), t+"icregexeq")
		r.fn(match(true, true), t+"icregexne")
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return regexSubstring(a[0].Str(), a[1].Str())
	}, "textregexsubstr")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		p, err := similarEscape(a[1].Str(), a[2].Str())
		if err != nil {
			return types.Null, err
		}
		return regexSubstring(a[0].Str(), p.Str())
	}, "substring(text,text,text)")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		o, err := funcFlags(a, 2, "regexp_like")
		if err != nil {
			return types.Null, err
		}
		re, err := compileRegex(a[1].Str(), o)
		if err != nil {
			return types.Null, err
		}
		return types.NewBool(re.MatchString(a[0].Str())), nil
	}, "regexp_like", "regexp_like_no_flags")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		o, err := funcFlags(a, 2, "regexp_match")
		if err != nil {
			return types.Null, err
		}
		re, err := compileRegex(a[1].Str(), o)
		if err != nil {
			return types.Null, err
		}
		m := re.FindStringSubmatchIndex(a[0].Str())
		if m == nil {
			return types.Null, nil
		}
		return captures(a[0].Str(), m), nil
	}, "regexp_match", "regexp_match_no_flags")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		parts, err := regexSplit(a)
		return types.NewArray1(types.OIDText, parts), err
	}, "regexp_split_to_array", "regexp_split_to_array_no_flags")
	r.fn(regexCount, "regexp_count", "regexp_count_no_start", "regexp_count_no_flags")
	regexReplaceFuncs(r)
}

// funcFlags reads the flags argument, in which a function that finds one match refuses g.
func funcFlags(a []types.Datum, i int, name string) (regexOptions, error) {
	if len(a) <= i {
		return regexOptions{}, nil
	}
	o, err := parseRegexFlags(a[i].Str())
	if err != nil || !o.global {
		return o, err
	}
	e := pgerror.New(pgerrcode.InvalidParameterValue, "%s() does not support the \"global\" option", name)
	if name == "regexp_match" {
		e = e.WithHint("Use the regexp_matches function instead.")
	}
	return o, e
}

// regexSubstring is the first capture, or the match if there is none.
func regexSubstring(s, pattern string) (types.Datum, error) {
	re, err := compileRegex(pattern, regexOptions{})
	if err != nil {
		return types.Null, err
	}
	m := re.FindStringSubmatchIndex(s)
	switch {
	case m == nil:
		return types.Null, nil
	case len(m) > 2 && m[2] < 0:
		return types.Null, nil
	case len(m) > 2:
		return str(s[m[2]:m[3]])
	}
	return str(s[m[0]:m[1]])
}

func captures(s string, m []int) types.Datum {
	if len(m) == 2 {
		return types.NewArray1(types.OIDText, []types.Datum{types.NewString(s[m[0]:m[1]])})
	}
	out := make([]types.Datum, 0, len(m)/2-1)
	for i := 2; i < len(m); i += 2 {
		if m[i] < 0 {
			out = append(out, types.Null)
		} else {
			out = append(out, types.NewString(s[m[i]:m[i+1]]))
		}
	}
	return types.NewArray1(types.OIDText, out)
}

func regexSplit(a []types.Datum) ([]types.Datum, error) {
	o, err := funcFlags(a, 2, "regexp_split_to_array")
	if err != nil {
		return nil, err
	}
	re, err := compileRegex(a[1].Str(), o)
	if err != nil {
		return nil, err
	}
	s := a[0].Str()
	var out []types.Datum
	prev := 0
	for _, m := range re.FindAllStringIndex(s, -1) {
		if m[0] == m[1] && (m[0] == 0 || m[0] >= len(s)) {
			continue // an empty match at either end splits nothing
		}
		out = append(out, types.NewString(s[prev:m[0]]))
		prev = m[1]
	}
	return append(out, types.NewString(s[prev:])), nil
}

func regexpSplitSet(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
	parts, err := regexSplit(a)
	if err != nil {
		return err
	}
	return emitAll(parts, emit)
}

func emitAll(vals []types.Datum, emit func([]types.Datum) (bool, error)) error {
	var row [1]types.Datum
	for _, v := range vals {
		row[0] = v
		if more, err := emit(row[:]); !more || err != nil {
			return err
		}
	}
	return nil
}

func regexpMatchesSet(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
	var o regexOptions
	var err error
	if len(a) > 2 {
		if o, err = parseRegexFlags(a[2].Str()); err != nil {
			return err
		}
	}
	global := o.global
	o.global = false
	re, err := compileRegex(a[1].Str(), o)
	if err != nil {
		return err
	}
	s := a[0].Str()
	var out []types.Datum
	for _, m := range re.allMatches(s) {
		out = append(out, captures(s, m))
		if !global {
			break
		}
	}
	return emitAll(out, emit)
}

func regexCount(_ *EvalContext, a []types.Datum) (types.Datum, error) {
	start := int64(1)
	if len(a) > 2 {
		start = a[2].Int()
	}
	if start <= 0 {
		return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "invalid value for parameter \"%s\": %d", "start", start)
	}
	o, err := funcFlags(a, 3, "regexp_count")
	if err != nil {
		return types.Null, err
	}
	re, err := compileRegex(a[1].Str(), o)
	if err != nil {
		return types.Null, err
	}
	from := byteOffset(a[0].Str(), start-1)
	if from < 0 {
		return types.NewInt(0), nil
	}
	n := 0
	for _, m := range re.allMatches(a[0].Str()) {
		if m[0] >= from {
			n++
		}
	}
	return integer(n)
}

// byteOffset is where the n-th character (from 0) begins; -1 beyond the end.
func byteOffset(s string, n int64) int {
	for i := range s {
		if n == 0 {
			return i
		}
		n--
	}
	if n == 0 {
		return len(s)
	}
	return -1
}

func regexReplaceFuncs(r *registry) {
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return regexReplace(a[0].Str(), a[1].Str(), a[2].Str(), regexOptions{}, 1, 1)
	}, "textregexreplace_noopt")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		flags := a[3].Str()
		if flags != "" && flags[0] >= '0' && flags[0] <= '9' {
			return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "invalid regular expression option: \"%s\"", flags[:1]).
				WithHint("If you meant to use regexp_replace() with a start parameter, cast the fourth argument to integer explicitly.")
		}
		o, err := parseRegexFlags(flags)
		if err != nil {
			return types.Null, err
		}
		n := 1
		if o.global {
			n = 0
		}
		return regexReplace(a[0].Str(), a[1].Str(), a[2].Str(), o, 1, n)
	}, "textregexreplace")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		start, n := a[3].Int(), int64(1)
		var o regexOptions
		var err error
		if len(a) > 4 {
			n = a[4].Int()
		}
		if start <= 0 {
			return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "invalid value for parameter \"%s\": %d", "start", start)
		}
		if n < 0 {
			return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "invalid value for parameter \"%s\": %d", "n", n)
		}
		if len(a) > 5 {
			if o, err = parseRegexFlags(a[5].Str()); err != nil {
				return types.Null, err
			}
			o.global = false
		}
		return regexReplace(a[0].Str(), a[1].Str(), a[2].Str(), o, start, int(n))
	}, "textregexreplace_extended", "textregexreplace_extended_no_flags", "textregexreplace_extended_no_n")
}

// regexReplace replaces the n-th match from character start on; all of them if n is 0.
func regexReplace(s, pattern, repl string, o regexOptions, start int64, n int) (types.Datum, error) {
	o.global = false
	re, err := compileRegex(pattern, o)
	if err != nil {
		return types.Null, err
	}
	from := byteOffset(s, start-1)
	if from < 0 {
		return str(s)
	}
	var b strings.Builder
	last, count := 0, 0
	for _, m := range re.allMatches(s) {
		if m[0] < from {
			continue
		}
		if count++; n > 0 && count != n {
			continue
		}
		b.WriteString(s[last:m[0]])
		appendReplacement(&b, repl, s, m)
		last = m[1]
		if n > 0 {
			break
		}
	}
	b.WriteString(s[last:])
	return str(b.String())
}

// appendReplacement expands \1 ... \9, \& and \\.
func appendReplacement(b *strings.Builder, repl, s string, m []int) {
	for i := 0; i < len(repl); i++ {
		if repl[i] != '\\' || i+1 >= len(repl) {
			b.WriteByte(repl[i])
			continue
		}
		i++
		switch c := repl[i]; {
		case c >= '1' && c <= '9':
			if k := int(c-'0') * 2; k < len(m) && m[k] >= 0 {
				b.WriteString(s[m[k]:m[k+1]])
			}
		case c == '&':
			b.WriteString(s[m[0]:m[1]])
		case c == '\\':
			b.WriteByte('\\')
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
}
