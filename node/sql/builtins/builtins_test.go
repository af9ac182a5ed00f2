package builtins

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/sql/types"
)

func TestTables(t *testing.T) {
	plus := OperatorsByName("+")
	require.NotEmpty(t, plus)
	eq, ok := OperatorByOID(96)
	require.True(t, ok)
	require.Equal(t, "=", eq.Name)
	require.Equal(t, 3, eq.Strategy)
	require.Equal(t, types.OID(518), eq.Negator)
	ne, ok := OperatorByOID(eq.Negator)
	require.True(t, ok)
	require.Equal(t, "<>", ne.Name)
	require.Equal(t, OperatorsByName("<>"), OperatorsByName("!="))
	c, ok := FindCast(types.OIDInt4, types.OIDInt8)
	require.True(t, ok)
	require.Equal(t, byte('i'), c.Context)
	agg, ok := AggregateByOID(2108) // sum(int4)
	require.True(t, ok)
	require.Equal(t, types.OIDInt8, agg.Proc.Result)
	for _, o := range Operators() {
		require.NotNil(t, o.Proc, o.Name)
	}
}

// The functions that the first slice needs must not get lost.
func TestImplemented(t *testing.T) {
	for _, name := range strings.Fields(`length lower upper substr substring btrim replace concat concat_ws left right lpad rpad repeat reverse
		split_part md5 format quote_ident quote_literal to_char encode decode chr ascii starts_with strpos translate regexp_replace regexp_match
		abs ceil floor round trunc mod power sqrt exp ln log sign random now clock_timestamp date_trunc date_part extract age to_timestamp make_date
		gen_random_uuid array_length array_to_string version current_user current_database current_schema current_schemas pg_get_userbyid format_type
		pg_table_is_visible obj_description pg_get_expr pg_get_indexdef pg_get_constraintdef has_table_privilege current_setting set_config
		pg_backend_pid txid_current nextval currval setval lastval pg_encoding_to_char pg_size_pretty pg_table_size`) {
		found := false
		for _, p := range ProcsByName(name) {
			found = found || p.impl != nil
		}
		require.True(t, found, name)
	}
	for _, name := range strings.Fields("count sum min max avg bool_and bool_or string_agg array_agg stddev variance json_agg") {
		for _, p := range ProcsByName(name) {
			if strings.Contains(Signature(name, p.Args), "money") {
				continue
			}
			require.NotNil(t, p.impl, Signature(name, p.Args))
		}
	}
	for _, name := range strings.Fields("generate_series unnest") {
		require.NotNil(t, ProcsByName(name))
	}
}

func TestRegexUnsupported(t *testing.T) {
	for _, p := range []string{`(a)\1`, `(?=a)`, `(?!a)`, `(?<=a)b`, `[[:<:]]a`, `\m.`} {
		_, err := compileRegex(p, regexOptions{})
		require.ErrorContains(t, err, "0A000", p)
	}
}

func TestIntegersAllocateNothing(t *testing.T) {
	args := []types.Datum{types.NewInt(7), types.NewInt(5)}
	var evals []Eval
	for _, op := range []string{"+", "-", "*", "/", "%", "=", "<", ">="} {
		for _, o := range OperatorsByName(op) {
			if o.Left == types.OIDInt4 && o.Right == types.OIDInt4 {
				evals = append(evals, o.Proc.Fn(o.Proc.Args, o.Result))
			}
		}
	}
	require.Len(t, evals, 8)
	ctx := &EvalContext{}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		for _, e := range evals {
			if _, err := e(ctx, args); err != nil {
				panic(err)
			}
		}
	}))
}

func TestFunctionsWithoutSessionFailClearly(t *testing.T) {
	ctx := &EvalContext{}
	for _, name := range []string{"current_user", "nextval", "pg_table_is_visible", "pg_get_userbyid"} {
		p := ProcsByName(name)[0]
		_, err := p.Fn(p.Args, p.Result)(ctx, []types.Datum{types.NewInt(1)})
		require.ErrorContains(t, err, "0A000", name)
	}
}

func FuzzRegexAndLike(f *testing.F) {
	for _, c := range readCalls(f, "testdata/calls.txt") {
		if c.kind == 'o' && strings.Contains(c.name, "~") && len(c.args) == 2 && c.args[0].vals[0] != nil {
			f.Add(*c.args[0].vals[0], *c.args[1].vals[0])
		}
	}
	f.Fuzz(func(t *testing.T, s, p string) {
		if re, err := compileRegex(p, regexOptions{}); err == nil {
			re.MatchString(s)
		}
		if ok, err := Like(s, s); err == nil && !strings.ContainsAny(s, `\%_`) {
			require.True(t, ok)
		}
		_, _ = Like(s, p)
		_, _ = parseNumFormat(p)
		_, _ = timestampToChar(caseContext(), 123456789, p, true)
		_, _, _ = parseByFormat(s, p)
		_, _ = similarEscape(p, `\`)
	})
}
