package session

import (
	"context"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
)

// command is a statement that is not planned: it changes the session, the transaction
// block or the catalog.
type command struct {
	columns []client.Column
	// run returns the command tag. out is for those with columns.
	run func(ctx context.Context, out client.RowWriter) (tag string, err error)
	// copyIn and copyOut are set instead of run for COPY.
	copyIn  func(ctx context.Context, data client.CopyReader) (tag string, err error)
	copyOut func(ctx context.Context, out client.CopyWriter) (tag string, err error)
	copy    *copyStatement
	// block: it controls the transaction block itself and runs also in a failed one.
	block bool
	// catalog: it runs in the transaction and may be retried like a query.
	catalog bool
	// alone: it can't run inside a transaction block.
	alone string
}

// command returns what a statement does, or nil for one that is planned.
func (s *Session) command(st *parser.Statement) *command {
	if st.Atoll != nil {
		return s.atollCommand(st)
	}
	noRows := func(f func(ctx context.Context) (string, error)) *command {
		return &command{run: func(ctx context.Context, _ client.RowWriter) (string, error) { return f(ctx) }}
	}
	switch n := st.Node.GetNode().(type) {
	case *ast.Node_TransactionStmt:
		c := noRows(func(ctx context.Context) (string, error) { return s.transactionStmt(ctx, st, n.TransactionStmt) })
		c.block = true
		return c
	case *ast.Node_VariableSetStmt:
		return noRows(func(ctx context.Context) (string, error) { return s.variableSet(ctx, st, n.VariableSetStmt) })
	case *ast.Node_VariableShowStmt:
		return &command{columns: showColumns(n.VariableShowStmt.Name), run: func(ctx context.Context, out client.RowWriter) (string, error) {
			return s.show(ctx, n.VariableShowStmt, out)
		}}
	case *ast.Node_DiscardStmt:
		return noRows(func(context.Context) (string, error) { return s.discard(n.DiscardStmt) })
	case *ast.Node_PrepareStmt:
		return noRows(func(ctx context.Context) (string, error) { return s.prepareStmt(ctx, st, n.PrepareStmt) })
	case *ast.Node_ExecuteStmt:
		return s.executeCommand(n.ExecuteStmt)
	case *ast.Node_DeallocateStmt:
		return noRows(func(context.Context) (string, error) { return s.deallocate(n.DeallocateStmt) })
	case *ast.Node_DeclareCursorStmt:
		return noRows(func(ctx context.Context) (string, error) { return s.declare(ctx, st, n.DeclareCursorStmt) })
	case *ast.Node_FetchStmt:
		return s.fetchCommand(n.FetchStmt)
	case *ast.Node_ClosePortalStmt:
		return noRows(func(context.Context) (string, error) { return s.closeCursorStmt(n.ClosePortalStmt) })
	case *ast.Node_CopyStmt:
		return &command{copy: &copyStatement{st: st, node: n.CopyStmt}}
	case *ast.Node_UnlistenStmt:
		return noRows(func(context.Context) (string, error) { return "UNLISTEN", nil }) // nothing is listened to
	case *ast.Node_ConstraintsSetStmt:
		return noRows(func(context.Context) (string, error) { return "SET CONSTRAINTS", nil }) // none is deferrable
	case *ast.Node_CheckPointStmt:
		return noRows(func(context.Context) (string, error) { return "CHECKPOINT", nil }) // every commit is durable
	case *ast.Node_LockStmt:
		return noRows(func(ctx context.Context) (string, error) { return s.lockTable(ctx, n.LockStmt) })
	case *ast.Node_ListenStmt, *ast.Node_NotifyStmt:
		return unsupported("LISTEN and NOTIFY are not supported")
	case *ast.Node_DoStmt:
		return unsupported("DO is not supported: there are no procedural languages")
	case *ast.Node_AlterSystemStmt:
		return unsupported("ALTER SYSTEM is not supported: use the node's flags")
	case *ast.Node_SelectStmt, *ast.Node_InsertStmt, *ast.Node_UpdateStmt, *ast.Node_DeleteStmt, *ast.Node_ExplainStmt:
		return nil
	}
	return s.ddlCommand(st)
}

func unsupported(message string) *command {
	return &command{run: func(context.Context, client.RowWriter) (string, error) {
		return "", pgerror.New(pgerrcode.FeatureNotSupported, "%s", message)
	}}
}

// executeCommand runs a statement of PREPARE.
func (s *Session) executeCommand(n *ast.ExecuteStmt) *command {
	c := &command{catalog: true}
	if ns, ok := s.named[n.Name]; ok {
		c.columns = ns.p.Columns()
	}
	c.run = func(ctx context.Context, out client.RowWriter) (string, error) {
		p, args, err := s.executeStmt(ctx, n)
		if err != nil {
			return "", err
		}
		if p.cmd != nil {
			return p.cmd.run(ctx, out)
		}
		return s.runPlanned(ctx, p, args, out)
	}
	return c
}

// lockTable runs LOCK TABLE. Serializable transactions need no table locks, and a lock that
// other isolation levels could rely on is not built yet: the weak modes, which conflict with
// DDL only, are accepted; the others say what they can't do.
func (s *Session) lockTable(ctx context.Context, n *ast.LockStmt) (string, error) {
	if err := s.needBlock("LOCK TABLE"); err != nil {
		return "", err
	}
	const rowExclusive = 3 // PostgreSQL's lock modes count from ACCESS SHARE = 1
	if n.Mode > rowExclusive && s.tx.isolation != serializable {
		return "", pgerror.New(pgerrcode.FeatureNotSupported, "LOCK TABLE in this mode is not supported below SERIALIZABLE").
			WithHint("Use SELECT ... FOR UPDATE, or SET TRANSACTION ISOLATION LEVEL SERIALIZABLE.")
	}
	view := s.catalogView()
	for _, r := range n.Relations {
		rv := r.GetRangeVar()
		if _, err := view.ResolveTable(ctx, s.catalogPath(), rv.Schemaname, rv.Relname, 0); err != nil {
			return "", err
		}
	}
	return "LOCK TABLE", nil
}
