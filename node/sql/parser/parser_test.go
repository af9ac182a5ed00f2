package parser

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

func TestParseSplitsStatements(t *testing.T) {
	st, err := Parse("select 1 ; /* é */ insert into t values ('a;b');")
	require.NoError(t, err)
	require.Len(t, st, 2)
	require.Equal(t, "select 1", st[0].Text())
	require.NotNil(t, st[1].Node.GetInsertStmt())
	rel := st[1].Node.GetInsertStmt().Relation
	require.Equal(t, strings.Index("select 1 ; /* e */ insert into t", " t")+2, st[1].Position(rel.Location))
	empty, err := Parse("  -- nothing\n ; ")
	require.NoError(t, err)
	require.Empty(t, empty)
}

func TestSyntaxErrors(t *testing.T) {
	for _, c := range []struct {
		sql, code, msg string
		pos            int
	}{
		{"select é, 'x' from t where order", "42601", `syntax error at or near "order"`, 28},
		{"selec 1", "42601", `syntax error at or near "selec"`, 1},
		{"select 1;\nselect * frm x", "42601", `syntax error at or near "frm"`, 20},
		{"select 'abc", "42601", `unterminated quoted string at or near "'abc"`, 8},
		{"select (1", "42601", "syntax error at end of input", 10},
		{"select '\x00'", "22021", `invalid byte sequence for encoding "UTF8": 0x00`, 0},
		{"select '\xff'", "22021", `invalid byte sequence for encoding "UTF8": 0xff`, 0},
		{"select é; alter table t split at value (1)", "42601", `syntax error at or near "value"`, 34},
		{"select é; alter table t split at values (1,)", "42601", `syntax error at or near ")"`, 44},
	} {
		_, err := Parse(c.sql)
		var pe *pgerror.Error
		require.True(t, errors.As(err, &pe), "%s: %v", c.sql, err)
		require.Equal(t, c.code, pe.Code, c.sql)
		require.Equal(t, c.msg, pe.Message, c.sql)
		require.Equal(t, c.pos, pe.Position, c.sql)
	}
}

func TestDepthLimit(t *testing.T) {
	const n = 30000
	for name, sql := range map[string]string{
		"plus":      "select 1" + strings.Repeat("+1", n),
		"parens":    "select " + strings.Repeat("(", n) + "1" + strings.Repeat(")", n),
		"not":       "select " + strings.Repeat("not ", n) + "true",
		"union":     "select 1 " + strings.Repeat("union select a and b, c and d ", n),
		"cast":      "select 1" + strings.Repeat("::int", n),
		"join":      "select * from a" + strings.Repeat(" cross join a", n),
		"joinand":   "select * from a" + strings.Repeat(" join a on x and y", n),
		"subselect": "select " + strings.Repeat("(select a, ", n) + "1" + strings.Repeat(")", n),
	} {
		_, err := Parse(sql)
		var pe *pgerror.Error
		require.True(t, errors.As(err, &pe), name)
		require.Equal(t, "54001", pe.Code, name)
	}
	for name, sql := range map[string]string{
		"inlist": "select 1 in (1" + strings.Repeat(",1", n) + ")",
		"values": "insert into t values (1,2)" + strings.Repeat(",(1,2)", n),
		"or":     "select 1 from t where a=1" + strings.Repeat(" or a=2", 20000),
		"plus":   "select 1" + strings.Repeat("+1", 2000),
	} {
		_, err := Parse(sql)
		require.NoError(t, err, name)
	}
	_, err := Parse("select '" + strings.Repeat("x", MaxStatementBytes) + "'")
	require.ErrorContains(t, err, "54000")
}

func TestSplitAt(t *testing.T) {
	st, err := Parse(`select 1; alter table "S"."T" split at values (1, 'a'), (2, 'b') ; select 2`)
	require.NoError(t, err)
	require.Len(t, st, 3)
	sp := st[1].Atoll.(*SplitAt)
	require.Equal(t, "S", sp.Relation.Schemaname)
	require.Equal(t, "T", sp.Relation.Relname)
	require.Len(t, sp.Rows, 2)
	require.Len(t, sp.Rows[1], 2)
	require.Equal(t, `alter table "S"."T" split at values (1, 'a'), (2, 'b')`, st[1].Text())
	for _, sql := range []string{"alter table split add column x int", "select split_part('a,b', ',', 1)", "select 'alter table t split at values (1)'"} {
		st, err := Parse(sql)
		require.NoError(t, err, sql)
		require.Nil(t, st[0].Atoll)
	}
}

// TestSplitIsPostgres: the query string has one of Atoll's words, and is cut where PostgreSQL would.
func TestSplitIsPostgres(t *testing.T) {
	for sql, want := range map[string]int{
		"-- split\rselect 1":                                       1,
		"alter node 1 drain; -- é\rselect 1; select 2":             3,
		"alter node 1 drain; select atomic from t":                 2,
		"select E'a'\n'b\\';split' from t where x = ';'; select 2": 2,
	} {
		st, err := Parse(sql)
		require.NoError(t, err, sql)
		require.Len(t, st, want, sql)
	}
	for _, sql := range []string{"/* split", "select 1; /* split", "alter node 1 drain /* x", "alter node 1 drain; /* /* */"} {
		_, err := Parse(sql)
		require.Error(t, err, sql)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"select 1", "alter table t split at values (1)", "select $$a$$ || E'\\'' -- x", "/* /* */", "select 'é", "a;b;;", "$", "split"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		st, err := Parse(sql)
		var pe *pgerror.Error
		if err != nil {
			require.True(t, errors.As(err, &pe))
			return
		}
		for _, s := range st {
			_ = s.Text()
		}
	})
}
