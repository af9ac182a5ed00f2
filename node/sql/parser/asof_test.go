package parser

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAsOf(t *testing.T) {
	for _, c := range []struct{ sql, expr, text string }{
		{"SELECT * FROM t AS OF SYSTEM TIME '-1s' WHERE a = 1", "'-1s'", ""},
		{"SELECT * FROM t, u AS OF SYSTEM TIME now() - interval '1' second ORDER BY 1;", "now() - interval '1' second", "SELECT * FROM t, u AS OF SYSTEM TIME now() - interval '1' second ORDER BY 1"},
		{"  begin as of system time follower_read_timestamp()", "follower_read_timestamp()", "begin as of system time follower_read_timestamp()"},
		{"SET TRANSACTION AS OF SYSTEM TIME '2026-01-01', ISOLATION LEVEL SERIALIZABLE", "'2026-01-01'", ""},
		{"START TRANSACTION ISOLATION LEVEL SERIALIZABLE, AS OF SYSTEM TIME 123.5", "123.5", ""},
		{"SELECT * FROM (SELECT * FROM t AS OF SYSTEM TIME with_max_staleness('10s')) x", "with_max_staleness('10s')", ""},
		{"SELECT * FROM t AS OF SYSTEM TIME '-1s' UNION SELECT * FROM u AS  OF /* c */ SYSTEM TIME '-1s'", "'-1s'", ""},
		{"/* é */ SELECT * FROM t AS OF SYSTEM TIME '-1s' AS x LIMIT 3", "'-1s'", ""},
		{"EXPLAIN SELECT 1 AS OF SYSTEM TIME '-1s'", "'-1s'", ""},
		{"SELECT 'as of system time', \"as\" FROM system", "", ""},
		{"SELECT time AS of, system FROM t", "", ""},
		{"ALTER TABLE t SPLIT AT VALUES ('as of system time ')", "", ""},
	} {
		sts, err := Parse(c.sql)
		require.NoError(t, err, c.sql)
		require.Len(t, sts, 1, c.sql)
		st := sts[0]
		if c.expr == "" {
			require.Nil(t, st.AsOf, c.sql)
			continue
		}
		require.NotNil(t, st.AsOf, c.sql)
		require.Equal(t, c.expr, st.asOfText)
		if c.text != "" {
			require.Equal(t, c.text, st.Text())
		}
	}
	sts, err := Parse("SELECT 1; SELECT * FROM t AS OF SYSTEM TIME '-1s'; BEGIN AS OF SYSTEM TIME '-2s'; SELECT 2")
	require.NoError(t, err)
	require.Len(t, sts, 4)
	require.Nil(t, sts[0].AsOf)
	require.Equal(t, "'-1s'", sts[1].asOfText)
	require.Equal(t, "'-2s'", sts[2].asOfText)
	require.Nil(t, sts[3].AsOf)
	for sql, want := range map[string]string{
		"SELECT * FROM t AS OF SYSTEM TIME":                                              "needs an expression",
		"SELECT * FROM t AS OF SYSTEM TIME WHERE a = 1":                                  "needs an expression",
		"SELECT * FROM t AS OF SYSTEM TIME '-1s' JOIN u AS OF SYSTEM TIME '-2s' ON true": "reads at one time",
		"AS OF SYSTEM TIME '-1s'":                                                        "syntax error",
		"SELECT * FROM t AS OF SYSTEM TIME '-1s' nonsense":                               "syntax error",
		"SELECT * FROM t AS OF SYSTEM TIME '-1s' WHERE nonsense nonsense":                "syntax error",
	} {
		_, err := Parse(sql)
		require.ErrorContains(t, err, want, sql)
	}
}
