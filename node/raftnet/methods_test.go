package raftnet

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"

	"github.com/stretchr/testify/require"
)

// Two methods with one number would get each other's messages: the handler that was registered last
// would answer both.
func TestMethodNumbersAreUnique(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "methods.go", nil, 0)
	require.NoError(t, err)
	names := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if typ, ok := v.Type.(*ast.Ident); !ok || typ.Name != "Method" {
			return true
		}
		number := v.Values[0].(*ast.BasicLit).Value
		require.Empty(t, names[number], "%s has the number %s as well", v.Names[0].Name, number)
		names[number] = v.Names[0].Name
		return true
	})
	require.Greater(t, len(names), 30)
}
