package parser

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDeparseExpr(t *testing.T) {
	for in, want := range map[string]string{
		"1+2":                     "1 + 2",
		"nextval('s'::regclass)":  "nextval('s'::regclass)",
		"a > 0 AND b IS NOT NULL": "a > 0 AND b IS NOT NULL",
		"CURRENT_TIMESTAMP":       "current_timestamp",
	} {
		st, err := Parse("SELECT " + in)
		require.NoError(t, err)
		got, err := DeparseExpr(st[0].Node.GetSelectStmt().TargetList[0].GetResTarget().Val)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestAlterNode(t *testing.T) {
	for in, want := range map[string]AlterNode{
		"ALTER NODE 3 DRAIN":              {3, DrainNode},
		"alter node 1 undrain ;":          {1, UndrainNode},
		"ALTER NODE 2 DECOMMISSION":       {2, DecommissionNode},
		"ALTER NODE 2 DECOMMISSION DEAD;": {2, DecommissionDeadNode},
	} {
		st, err := Parse(in)
		require.NoError(t, err, in)
		require.Len(t, st, 1)
		require.Equal(t, &want, st[0].Atoll, in)
	}
	for _, bad := range []string{"ALTER NODE", "ALTER NODE x DRAIN", "ALTER NODE 0 DRAIN", "ALTER NODE 1", "ALTER NODE 1 DRAIN DEAD", "ALTER NODE 1 FLY"} {
		_, err := Parse(bad)
		require.Error(t, err, bad)
	}
	st, err := Parse("SELECT node FROM t; ALTER TABLE node ADD COLUMN a int")
	require.NoError(t, err)
	require.Len(t, st, 2)
}
