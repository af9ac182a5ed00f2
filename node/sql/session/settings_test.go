package session

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
)

func TestNormalize(t *testing.T) {
	for _, tc := range []struct{ name, in, stored, shown string }{
		{"statement_timeout", "1500", "1500", "1500ms"},
		{"statement_timeout", "2s", "2000", "2s"},
		{"statement_timeout", "1.5min", "90000", "90s"},
		{"Lock_Timeout", "0", "0", "0"},
		{"extra_float_digits", "3", "3", "3"},
		{"default_transaction_read_only", "TRUE", "on", "on"},
		{"default_transaction_isolation", "READ COMMITTED", "read committed", "read committed"},
		{"client_encoding", "utf-8", "UTF8", "UTF8"},
		{"DateStyle", "iso", "ISO, MDY", "ISO, MDY"},
		{"TimeZone", "Europe/Berlin", "Europe/Berlin", "Europe/Berlin"},
		{"standard_conforming_strings", "on", "on", "on"},
		{"my.own", "x", "x", "x"},
	} {
		got, err := normalize(tc.name, tc.in)
		require.NoError(t, err, tc.name)
		require.Equal(t, tc.stored, got, tc.name)
		s := newSettings()
		s.values[strings.ToLower(tc.name)] = got
		shown, ok := s.get(tc.name)
		require.True(t, ok, tc.name)
		require.Equal(t, tc.shown, shown, tc.name)
	}
	s := newSettings()
	s.values["statement_timeout"] = "90000"
	v, ok := s.get("Statement_Timeout")
	require.True(t, ok)
	require.Equal(t, "90s", v)
	require.Equal(t, 90*time.Second, s.duration("statement_timeout"))
}

func TestNormalizeRefuses(t *testing.T) {
	for _, tc := range []struct{ name, in, code string }{
		{"no_such_setting", "1", "42704"},
		{"statement_timeout", "soon", "22023"},
		{"statement_timeout", "1 fortnight", "22023"},
		{"extra_float_digits", "17", "22023"},
		{"default_transaction_isolation", "chaos", "22023"},
		{"client_encoding", "LATIN1", "0A000"},
		{"DateStyle", "German", "0A000"},
		{"TimeZone", "Mars/Olympus", "22023"},
		{"standard_conforming_strings", "off", "0A000"},
		{"server_version", "9", "55P02"},
	} {
		_, err := normalize(tc.name, tc.in)
		var pe *pgerror.Error
		require.ErrorAs(t, err, &pe, tc.name)
		require.Equal(t, tc.code, pe.Code, "%s = %s", tc.name, tc.in)
	}
}

// Every default must be a value that SET would take.
func TestDefaultsAreValid(t *testing.T) {
	for _, d := range settingTable {
		if d.internal || d.def == "" {
			continue
		}
		got, err := normalize(d.name, d.def)
		require.NoError(t, err, d.name)
		require.Equal(t, d.def, got, d.name)
	}
}

func TestSearchPath(t *testing.T) {
	s := newSettings()
	require.Equal(t, []string{"bob", "public"}, s.searchPath("bob"))
	s.values["search_path"] = `"Odd ""One", app ,Public`
	require.Equal(t, []string{`Odd "One`, "app", "public"}, s.searchPath("bob"))
}

func TestWalkNodesFindsNested(t *testing.T) {
	st, err := parser.Parse("SELECT CASE WHEN a > nextval('s') THEN (SELECT b FROM t WHERE c IN (1, d)) END")
	require.NoError(t, err)
	var refs, calls, subs int
	walkNodes(st[0].Node, func(n *ast.Node) {
		switch {
		case n.GetColumnRef() != nil:
			refs++
		case n.GetFuncCall() != nil:
			calls++
		case n.GetSubLink() != nil:
			subs++
		}
	})
	require.Equal(t, [3]int{4, 1, 1}, [3]int{refs, calls, subs})
}
