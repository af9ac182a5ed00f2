package parser

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/atolldb/atoll/node/sql/parser/ast"
)

// Synthetic returns a statement that was made from a tree, not from text. Its locations
// mean nothing.
func Synthetic(n *ast.Node) *Statement { return &Statement{Node: n} }

// grammarVersion is PostgreSQL's PG_VERSION_NUM of the grammar that the library holds.
const grammarVersion = 170007

// DeparseExpr prints an expression as SQL.
func DeparseExpr(n *ast.Node) (string, error) {
	target := &ast.Node{Node: &ast.Node_ResTarget{ResTarget: &ast.ResTarget{Val: n}}}
	sel := &ast.SelectStmt{TargetList: []*ast.Node{target}, LimitOption: ast.LimitOption_LIMIT_OPTION_DEFAULT, Op: ast.SetOperation_SETOP_NONE}
	tree := &pg.ParseResult{Version: grammarVersion, Stmts: []*pg.RawStmt{{Stmt: &ast.Node{Node: &ast.Node_SelectStmt{SelectStmt: sel}}}}}
	text, err := pg.Deparse(tree)
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(text, "SELECT "), nil
}
