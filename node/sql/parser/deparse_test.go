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
