package parser

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
)

func onCluster() PlacementObject { return PlacementObject{Kind: PlacementOfCluster} }

func onDatabase(name string) PlacementObject {
	return PlacementObject{Kind: PlacementOfDatabase, Name: name}
}

func onRelation(kind PlacementKind, schema, name string, location int32) PlacementObject {
	return PlacementObject{Kind: kind, Relation: &ast.RangeVar{Schemaname: schema, Relname: name, Inh: true, Relpersistence: "p", Location: location}}
}

var placementStatements = []struct {
	sql  string
	want AtollStatement
}{
	{"CREATE PLACEMENT POLICY p WITH (survive = zone)", &CreatePolicy{Name: "p",
		Definition: PolicyDefinition{Location: 26, Options: []PolicyOption{{Key: "survive", Value: "zone", Location: 32}}}}},
	{"create placement policy IF NOT EXISTS 'survive-zone' as 'name: x\nit''s'", &CreatePolicy{Name: "survive-zone", IfNotExists: true,
		Definition: PolicyDefinition{Text: "name: x\nit's", Location: 53}}},
	{"CREATE OR REPLACE PLACEMENT POLICY Mine AS $y$it's $$$y$", &CreatePolicy{Name: "mine", Replace: true, Definition: PolicyDefinition{Text: "it's $$", Location: 40}}},
	{"CREATE PLACEMENT POLICY if AS ''", &CreatePolicy{Name: "if", Definition: PolicyDefinition{Location: 27}}},
	{"CREATE PLACEMENT POLICY atomic AS 'begin'", &CreatePolicy{Name: "atomic", Definition: PolicyDefinition{Text: "begin", Location: 31}}},
	{`ALTER PLACEMENT POLICY "My-Policy" AS 'x'`, &AlterPolicy{Name: "My-Policy", Definition: PolicyDefinition{Text: "x", Location: 35}}},
	{`ALTER PLACEMENT POLICY "a""b" AS 'x'`, &AlterPolicy{Name: `a"b`, Definition: PolicyDefinition{Text: "x", Location: 30}}},
	{"DROP PLACEMENT POLICY p", &DropPolicy{Name: "p"}},
	{"DROP PLACEMENT POLICY IF EXISTS 'it''s'", &DropPolicy{Name: "it's", IfExists: true}},
	{"DROP PLACEMENT POLICY if", &DropPolicy{Name: "if"}},
	{"DROP PLACEMENT POLICY É_A", &DropPolicy{Name: "É_a"}},
	{"/* a */ Drop -- b ;\nplacement/* c /* d */ */policy -- e\rp -- f", &DropPolicy{Name: "p"}},
	{"ALTER CLUSTER SET PLACEMENT POLICY 'survive-zone'", &SetPolicy{Object: onCluster(), Policy: "survive-zone"}},
	{"ALTER CLUSTER SET PLACEMENT POLICY DEFAULT", &SetPolicy{Object: onCluster()}},
	{`ALTER DATABASE d SET PLACEMENT POLICY "default"`, &SetPolicy{Object: onDatabase("d"), Policy: "default"}},
	{`ALTER DATABASE "D.x" SET PLACEMENT POLICY default`, &SetPolicy{Object: onDatabase("D.x")}},
	{"ALTER TABLE T SET PLACEMENT POLICY p", &SetPolicy{Object: onRelation(PlacementOfTable, "", "t", 12), Policy: "p"}},
	{`ALTER TABLE /* é */ "S" . "T" SET PLACEMENT POLICY p`, &SetPolicy{Object: onRelation(PlacementOfTable, "S", "T", 21), Policy: "p"}},
	{"ALTER TABLE set SET PLACEMENT POLICY p", &SetPolicy{Object: onRelation(PlacementOfTable, "", "set", 12), Policy: "p"}},
	{"ALTER TABLE placement SET PLACEMENT POLICY placement", &SetPolicy{Object: onRelation(PlacementOfTable, "", "placement", 12), Policy: "placement"}},
	{"ALTER INDEX s.i SET PLACEMENT POLICY DEFAULT", &SetPolicy{Object: onRelation(PlacementOfIndex, "s", "i", 12)}},
	{"SHOW PLACEMENT POLICIES", &ShowPolicies{}},
	{"show placement policy 'survive-zone'", &ShowPolicy{Name: "survive-zone"}},
	{"SHOW PLACEMENT", &ShowPlacement{}},
	{"SHOW PLACEMENT FOR CLUSTER", &ShowPlacement{Object: new(onCluster())}},
	{"SHOW PLACEMENT FOR DATABASE d", &ShowPlacement{Object: new(onDatabase("d"))}},
	{"SHOW PLACEMENT FOR TABLE s.t", &ShowPlacement{Object: new(onRelation(PlacementOfTable, "s", "t", 25))}},
	{"SHOW PLACEMENT FOR INDEX i", &ShowPlacement{Object: new(onRelation(PlacementOfIndex, "", "i", 25))}},
	{"EXPLAIN PLACEMENT FOR CLUSTER", &ExplainPlacement{Object: onCluster()}},
	{"EXPLAIN PLACEMENT FOR TABLE t", &ExplainPlacement{Object: onRelation(PlacementOfTable, "", "t", 28)}},
	{"EXPLAIN PLACEMENT FOR DATABASE d WITH POLICY p", &ExplainPlacement{Object: onDatabase("d"), Policy: "p"}},
	{"EXPLAIN PLACEMENT FOR INDEX s.i WITH POLICY 'a-b'", &ExplainPlacement{Object: onRelation(PlacementOfIndex, "s", "i", 28), Policy: "a-b"}},
}

func TestPlacement(t *testing.T) {
	for _, c := range placementStatements {
		st, err := Parse(c.sql)
		require.NoError(t, err, c.sql)
		require.Len(t, st, 1, c.sql)
		require.Nil(t, st[0].Node, c.sql)
		requireSame(t, c.want, st[0].Atoll, c.sql)
	}
	sql := "select 'é'; SHOW PLACEMENT ; ALTER TABLE t SET PLACEMENT POLICY p;select 2"
	st, err := Parse(sql)
	require.NoError(t, err)
	require.Len(t, st, 4)
	require.Equal(t, "SHOW PLACEMENT", st[1].Text())
	require.Equal(t, "ALTER TABLE t SET PLACEMENT POLICY p", st[2].Text())
	require.Equal(t, 42, st[2].Position(st[2].Atoll.(*SetPolicy).Object.Relation.Location))
	require.NotNil(t, st[3].Node)
}

// requireSame compares statements; what PostgreSQL's parser made has hidden fields.
func requireSame(t *testing.T, want, got AtollStatement, sql string) {
	t.Helper()
	a, b := relationOf(want), relationOf(got)
	if a != nil && b != nil {
		require.True(t, proto.Equal(a.Relation, b.Relation), "%s: %v", sql, b.Relation)
		b.Relation = a.Relation
	}
	require.Equal(t, want, got, sql)
}

func relationOf(s AtollStatement) *PlacementObject {
	switch n := s.(type) {
	case *SetPolicy:
		return &n.Object
	case *ShowPlacement:
		return n.Object
	case *ExplainPlacement:
		return &n.Object
	}
	return nil
}

func TestPlacementOptions(t *testing.T) {
	const before = "ALTER PLACEMENT POLICY p  WITH "
	for _, c := range []struct {
		sql  string
		want []PolicyOption // locations are in sql
	}{
		{"(a=1)", []PolicyOption{{Key: "a", Value: "1", Location: 1}}},
		{"( Voters = 3 , Survive=Zone )", []PolicyOption{{Key: "voters", Value: "3", Location: 2}, {Key: "survive", Value: "Zone", Location: 15}}},
		{"(a = -1, b = + 2.50, c =.5)", []PolicyOption{{Key: "a", Value: "-1", Location: 1}, {Key: "b", Value: "+2.50", Location: 9}, {Key: "c", Value: ".5", Location: 21}}},
		{`("A b" = 'it''s', a = '')`, []PolicyOption{{Key: "A b", Value: "it's", Quoted: true, Location: 1}, {Key: "a", Quoted: true, Location: 18}}},
		{`("c""d" = $$x$$)`, []PolicyOption{{Key: `c"d`, Value: "x", Quoted: true, Location: 1}}},
		{`(a = true, "A" = FALSE)`, []PolicyOption{{Key: "a", Value: "true", Location: 1}, {Key: "A", Value: "FALSE", Location: 11}}},
		{"(select = default -- x\n, b /**/ = '[a, \"b\"]')", []PolicyOption{{Key: "select", Value: "default", Location: 1}, {Key: "b", Value: `[a, "b"]`, Quoted: true, Location: 25}}},
	} {
		st, err := Parse(before + c.sql)
		require.NoError(t, err, c.sql)
		for i := range c.want {
			c.want[i].Location += len(before)
		}
		require.Equal(t, PolicyDefinition{Options: c.want, Location: len(before) - len("WITH ")}, st[0].Atoll.(*AlterPolicy).Definition, c.sql)
	}
}

func TestPlacementErrors(t *testing.T) {
	const end = "syntax error at end of input"
	for _, c := range []struct {
		sql, near string // near: where the text has |, or a whole message
	}{
		{"CREATE PLACEMENT|", end},
		{"CREATE PLACEMENT |x", "x"},
		{"CREATE PLACEMENT POLICY|", end},
		{"CREATE PLACEMENT POLICY  |; select 1", end},
		{"CREATE PLACEMENT POLICY p|", end},
		{"CREATE PLACEMENT POLICY |''  AS 'x'", "''"},
		{`CREATE PLACEMENT POLICY |"" AS 'x'`, `""`},
		{"CREATE PLACEMENT POLICY |$$$$ AS 'x'", "$$$$"},
		{"CREATE PLACEMENT POLICY |E'a' AS 'x'", "E'a'"},
		{"CREATE PLACEMENT POLICY |AS 'x'", "AS"},
		{"CREATE PLACEMENT POLICY |WITH (a = 1)", "WITH"},
		{"CREATE PLACEMENT POLICY |default AS 'x'", "default"},
		{"CREATE PLACEMENT POLICY |only AS 'x'", "only"},
		{"CREATE PLACEMENT POLICY |1 AS 'x'", "1"},
		{"CREATE PLACEMENT POLICY survive|-zone AS 'x'", "-"},
		{"CREATE PLACEMENT POLICY a|.b AS 'x'", "."},
		{"CREATE PLACEMENT POLICY p AS |x", "x"},
		{"CREATE PLACEMENT POLICY p AS |E'x'", "E'x'"},
		{"CREATE PLACEMENT POLICY p AS |$1", "$1"},
		{"CREATE PLACEMENT POLICY p AS 'x' |'y'", "'y'"},
		{"CREATE PLACEMENT POLICY p AS 'é' |WITH (a = 1)", "WITH"},
		{"CREATE PLACEMENT POLICY p AS 'it' |s 'x'", "s"},
		{"CREATE PLACEMENT POLICY p AS 'it's |'", `unterminated quoted string at or near "'"`},
		{"select 'é'; CREATE PLACEMENT POLICY p AS |'it''s", "unterminated quoted string at or near \"'it''s\""},
		{"DROP PLACEMENT POLICY p |/* x", `unterminated /* comment at or near "/* x"`},
		{"DROP PLACEMENT POLICY |\"p", `unterminated quoted identifier at or near ""p"`},
		{"ALTER PLACEMENT POLICY p AS |$a$ $$", `unterminated dollar-quoted string at or near "$a$ $$"`},
		{"CREATE OR REPLACE PLACEMENT POLICY |IF NOT EXISTS p AS 'x'", "IF"},
		{"CREATE PLACEMENT POLICY IF NOT |p AS 'x'", "p"},
		{"CREATE PLACEMENT POLICY IF |EXISTS p AS 'x'", "EXISTS"},
		{"ALTER PLACEMENT POLICY p WITH|", end},
		{"ALTER PLACEMENT POLICY p WITH |a = 1", "a"},
		{"ALTER PLACEMENT POLICY p WITH (|)", ")"},
		{"ALTER PLACEMENT POLICY p WITH (a = 1, |)", ")"},
		{"ALTER PLACEMENT POLICY p WITH (a = 1 |; SELECT 1", ";"},
		{"ALTER PLACEMENT POLICY p WITH (a|)", ")"},
		{"ALTER PLACEMENT POLICY p WITH (a |1)", "1"},
		{"ALTER PLACEMENT POLICY p WITH (a = |)", ")"},
		{"ALTER PLACEMENT POLICY p WITH (a = read|-only)", "-"},
		{"ALTER PLACEMENT POLICY p WITH (a = -|x)", "x"},
		{"ALTER PLACEMENT POLICY p WITH (a = -|'1')", "'1'"},
		{"ALTER PLACEMENT POLICY p WITH (a = |1.2.3)", "1.2.3"},
		{"ALTER PLACEMENT POLICY p WITH (a = 30|s)", "s"},
		{`ALTER PLACEMENT POLICY p WITH (a = |"b")`, `"b"`},
		{"ALTER PLACEMENT POLICY p WITH (|'a' = 1)", "'a'"},
		{`ALTER PLACEMENT POLICY p WITH (|"" = 1)`, `""`},
		{`ALTER PLACEMENT POLICY p WITH (a = 1, b = 2, |"a" = 3)`, `option "a" is given twice`},
		{"ALTER PLACEMENT POLICY p WITH (a = 'é', |A = 3)", `option "a" is given twice`},
		{"ALTER PLACEMENT POLICY IF |EXISTS p AS 'x'", "EXISTS"},
		{"DROP PLACEMENT POLICY IF EXISTS|", end},
		{"DROP PLACEMENT POLICY p|, q", ","},
		{"DROP PLACEMENT POLICY p|)", ")"},
		{"ALTER TABLE IF |EXISTS t SET PLACEMENT POLICY p", "EXISTS"},
		{"ALTER TABLE a.b|.c SET PLACEMENT POLICY p", "."},
		{"ALTER TABLE |select SET PLACEMENT POLICY p", "select"},
		{"ALTER TABLE |ONLY t SET PLACEMENT POLICY p", "ONLY"},
		{`ALTER TABLE s.|"" SET PLACEMENT POLICY p`, `""`},
		{"ALTER TABLE t SET PLACEMENT|", end},
		{"ALTER TABLE t SET PLACEMENT |DEFAULT", "DEFAULT"},
		{"ALTER TABLE t SET PLACEMENT POLICY|", end},
		{"ALTER TABLE t SET PLACEMENT POLICY DEFAULT |DEFAULT", "DEFAULT"},
		{"ALTER TABLE t SET PLACEMENT POLICY |''", "''"},
		{"ALTER TABLE t SET PLACEMENT POLICY p|, SET (fillfactor = 70)", ","},
		{"ALTER DATABASE d|.e SET PLACEMENT POLICY p", "."},
		{"ALTER DATABASE d SET PLACEMENT|", end},
		{"ALTER CLUSTER |c SET PLACEMENT POLICY p", "c"},
		{"ALTER INDEX t|@i SET PLACEMENT POLICY p", "@"},
		{"SHOW PLACEMENT |p", "p"},
		{"SHOW PLACEMENT POLICIES |p", "p"},
		{"SHOW PLACEMENT POLICY|", end},
		{"SHOW PLACEMENT FOR|", end},
		{"SHOW PLACEMENT FOR |t", "t"},
		{"SHOW PLACEMENT FOR CLUSTER |c", "c"},
		{"EXPLAIN PLACEMENT|", end},
		{"EXPLAIN PLACEMENT |TABLE t", "TABLE"},
		{"EXPLAIN PLACEMENT FOR TABLE t WITH |p", "p"},
		{"EXPLAIN PLACEMENT FOR TABLE t WITH POLICY |DEFAULT", "DEFAULT"},
		{"select é; EXPLAIN PLACEMENT FOR TABLE |1", "1"},
		// These are PostgreSQL's.
		{"CREATE TABLE placement |", end},
		{"|placement", "placement"},
		{"SHOW PLACEMENT; select |'a", `unterminated quoted string at or near "'a"`},
		{"ALTER NODE 1 DRAIN; |/* placement", `unterminated /* comment at or near "/* placement"`},
	} {
		at := strings.IndexByte(c.sql, '|')
		sql := c.sql[:at] + c.sql[at+1:]
		message := c.near
		if !strings.Contains(c.near, " ") {
			message = `syntax error at or near "` + c.near + `"`
		}
		_, err := Parse(sql)
		var pe *pgerror.Error
		require.True(t, errors.As(err, &pe), "%s: %v", sql, err)
		require.Equal(t, "42601", pe.Code, sql)
		require.Equal(t, message, pe.Message, sql)
		require.Equal(t, len([]rune(c.sql[:at]))+1, pe.Position, sql)
	}
}

// notPlacement is PostgreSQL's, though it has the word.
var notPlacement = []string{
	"SELECT * FROM placement",
	"SELECT 'ALTER CLUSTER SET PLACEMENT POLICY p'; SELECT 2 AS \"placement;\"",
	"CREATE TABLE placement(id int)",
	"ALTER TABLE placement ADD COLUMN policy int",
	"ALTER TABLE t ADD set placement",
	"ALTER TABLE t ADD COLUMN set placement",
	"ALTER TABLE set ADD placement int",
	"ALTER TABLE placement SET (fillfactor=70)",
	"ALTER TABLE placement SET SCHEMA policy",
	"ALTER INDEX placement SET (fillfactor=70)",
	"ALTER DATABASE placement SET x = y",
	"ALTER DATABASE d SET placement = policy",
	"ALTER DATABASE d SET placement TO policy",
	"ALTER DATABASE d SET placement FROM CURRENT",
	"ALTER DATABASE d SET placement.policy = 1",
	`ALTER DATABASE SET PLACEMENT "0"`,
	"ALTER DATABASE SET PLACEMENT POLICY",
	"ALTER DATABASE d a SET PLACEMENT POLICY",
	"ALTER DATABASE d a SET PLACEMENT POLICY b DEFAULT",
	"DROP TABLE placement",
	"DROP POLICY placement ON t",
	"SET placement = 1",
	"SHOW placement_x",
	"SHOW placement.policy",
	`SHOW "placement"`,
	"EXPLAIN SELECT * FROM placement",
	"EXPLAIN ANALYZE DELETE FROM placement",
	"-- placement\rSELECT 1",
	"SELECT atomic FROM placement",
	"CREATE FUNCTION placement() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
	"SELECT E'a'\n'b\\';placement' FROM t WHERE x = ';'",
}

func TestNotPlacement(t *testing.T) {
	for _, sql := range notPlacement {
		requirePostgres(t, sql)
		st, err := Parse(sql)
		require.NoError(t, err, sql)
		require.NotEmpty(t, st, sql)
		for _, s := range st {
			require.NotNil(t, s.Node, sql)
		}
	}
}

// requirePostgres checks that what PostgreSQL's parser accepts comes out as if there were no
// other statements. The only thing taken from it is SHOW of a parameter named placement.
func requirePostgres(t *testing.T, sql string) {
	want, err := parsePostgres(sql, sql, 0)
	if err != nil {
		return
	}
	for _, s := range want {
		if s.Node.GetVariableShowStmt().GetName() == "placement" {
			return
		}
	}
	got, err := parse(sql)
	require.NoError(t, err, "%q", sql)
	require.Len(t, got, len(want), "%q", sql)
	for i := range want {
		require.Nil(t, got[i].Atoll, "%q", sql)
		require.Equal(t, want[i].Text(), got[i].Text(), "%q", sql)
		require.True(t, proto.Equal(want[i].Node, got[i].Node), "%q", sql)
	}
}

// FuzzPlacement: no panic, errors with a position inside the text, names and offsets that
// are what the statement says, and nothing taken from PostgreSQL.
func FuzzPlacement(f *testing.F) {
	for _, c := range placementStatements {
		f.Add(c.sql)
	}
	for _, sql := range notPlacement {
		f.Add(sql)
	}
	for _, sql := range []string{"ALTER TABLE t SET (fillfactor=70)", "ALTER DATABASE d SET x = y", "EXPLAIN SELECT 1", "SHOW PLACEMENT; SELECT 1",
		"ALTER PLACEMENT POLICY p WITH (a = -1.5, \"B\" = 'é', c = true)", "ALTER NODE 1 DRAIN; /* placement"} {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		if check(sql) != nil {
			return
		}
		requirePostgres(t, sql)
		st, err := parse(sql)
		if err != nil {
			var pe *pgerror.Error
			require.True(t, errors.As(err, &pe), "%q: %v", sql, err)
			require.LessOrEqual(t, pe.Position, len([]rune(sql))+1, "%q", sql)
			return
		}
		for _, s := range st {
			requireSound(t, sql, s)
		}
	})
}

func requireSound(t *testing.T, sql string, s *Statement) {
	var d PolicyDefinition
	switch n := s.Atoll.(type) {
	case nil, *SplitAt, *AlterNode:
		return
	case *CreatePolicy:
		require.NotEmpty(t, n.Name)
		d = n.Definition
	case *AlterPolicy:
		require.NotEmpty(t, n.Name)
		d = n.Definition
	case *DropPolicy:
		require.NotEmpty(t, n.Name)
	case *ShowPolicy:
		require.NotEmpty(t, n.Name)
	}
	require.Contains(t, strings.ToLower(s.Text()), "placement")
	if o := relationOf(s.Atoll); o != nil {
		require.Equal(t, o.Kind == PlacementOfDatabase, o.Name != "", "%q", sql)
		require.Equal(t, o.Kind >= PlacementOfTable, o.Relation != nil, "%q", sql)
	}
	for _, o := range d.Options {
		require.True(t, sql[o.Location] == '"' || strings.HasPrefix(lower(sql[o.Location:]), o.Key), "%q", sql)
	}
	if d.Location > 0 {
		w := strings.ToLower(sql[d.Location:])
		require.True(t, strings.HasPrefix(w, "as") == (d.Options == nil) && (d.Options == nil || strings.HasPrefix(w, "with")), "%q", sql)
	}
}
