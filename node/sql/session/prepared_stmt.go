package session

import (
	"context"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// namedStatement is a statement of SQL's PREPARE. Those of the protocol's Parse are pgwire's.
type namedStatement struct {
	p    *prepared
	text string
	at   time.Time
}

// maxNamed bounds how many a session may hold.
const maxNamed = 10_000

// prepareStmt runs PREPARE.
func (s *Session) prepareStmt(ctx context.Context, st *parser.Statement, n *ast.PrepareStmt) (string, error) {
	if _, exists := s.named[n.Name]; exists {
		return "", pgerror.New(pgerrcode.DuplicatePreparedStatement, "prepared statement %q already exists", n.Name)
	}
	if len(s.named) >= maxNamed {
		return "", pgerror.New(pgerrcode.ProgramLimitExceeded, "this session holds %d prepared statements, the limit", maxNamed).
			WithHint("Close those that are no longer used (DEALLOCATE).")
	}
	oids := make([]types.OID, len(n.Argtypes))
	for i, a := range n.Argtypes {
		oid, err := s.resolveType(ctx, a.GetTypeName())
		if err != nil {
			return "", err
		}
		oids[i] = oid
	}
	p, err := s.prepare(ctx, st.WithNode(n.Query), oids)
	if err != nil {
		return "", err
	}
	s.named[n.Name] = &namedStatement{p: p, text: st.Text(), at: time.Now()}
	return "PREPARE", nil
}

// executeStmt returns the statement that EXECUTE runs, and its arguments.
func (s *Session) executeStmt(ctx context.Context, n *ast.ExecuteStmt) (*prepared, []types.Datum, error) {
	ns, ok := s.named[n.Name]
	if !ok {
		return nil, nil, pgerror.New(pgerrcode.InvalidSQLStatementName, "prepared statement %q does not exist", n.Name)
	}
	want := ns.p.ParamTypes()
	if len(n.Params) != len(want) {
		return nil, nil, pgerror.New(pgerrcode.SyntaxError, "wrong number of parameters for prepared statement %q", n.Name).
			WithDetail("Expected %d parameters but got %d.", len(want), len(n.Params))
	}
	args := make([]types.Datum, len(want))
	for i, p := range n.Params {
		d, err := s.evalConstant(ctx, p, want[i])
		if err != nil {
			return nil, nil, err
		}
		args[i] = d
	}
	return ns.p, args, nil
}

// deallocate runs DEALLOCATE.
func (s *Session) deallocate(n *ast.DeallocateStmt) (string, error) {
	if n.Name == "" {
		s.named = map[string]*namedStatement{}
		return "DEALLOCATE ALL", nil
	}
	if _, ok := s.named[n.Name]; !ok {
		return "", pgerror.New(pgerrcode.InvalidSQLStatementName, "prepared statement %q does not exist", n.Name)
	}
	delete(s.named, n.Name)
	return "DEALLOCATE", nil
}
