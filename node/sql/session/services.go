package session

import (
	"bytes"
	"context"
	"slices"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/ddl"
	"github.com/atolldb/atoll/node/sql/exec/rowio"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/bind"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/atolldb/atoll/node/txn"
)

// sequenceValues answers nextval and its like.
func (s *Session) sequenceValues() builtins.Sequences {
	if s.seq == nil {
		s.seq = &ddl.Sequences{Session: definer{s: s}}
	}
	return s.seq
}

// resolveType resolves a type name of PREPARE.
func (s *Session) resolveType(_ context.Context, n *ast.TypeName) (types.OID, error) {
	oid, _, err := bind.TypeName(n)
	return oid, err
}

// Bootstrap makes what a new cluster's catalog has; it does nothing in a cluster that has it.
func (e *Engine) Bootstrap(ctx context.Context) error {
	return catalog.EnsureBootstrap(ctx, e.cfg.CatalogDB)
}

// Credential implements client.Authenticator: the role's SCRAM verifier.
func (e *Engine) Credential(ctx context.Context, user, _ string, _ bool) (client.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var cred client.Credential
	t := e.cfg.DB.NewTxn(txn.Options{ReadOnly: true, Name: "authentication"})
	defer func() { _ = t.Rollback(ctx) }()
	view := e.cfg.Catalog.NewCollection(catalogTxn{t})
	defer view.Finish(ctx, false)
	role, err := view.ResolveRole(ctx, user)
	if role == nil || err != nil {
		return cred, ignoreMissing(err)
	}
	cred.Verifier = role.Verifier
	return cred, nil
}

// ignoreMissing lets the exchange fail at its end for a role that does not exist.
func ignoreMissing(err error) error {
	if pe, ok := err.(*pgerror.Error); ok && pe.Code == pgerrcode.UndefinedObject {
		return nil
	}
	return err
}

// atollCommand runs one of Atoll's own statements.
func (s *Session) atollCommand(st *parser.Statement) *command {
	switch n := st.Atoll.(type) {
	case *parser.SplitAt:
		return &command{catalog: true, alone: "ALTER TABLE ... SPLIT AT", run: func(ctx context.Context, _ client.RowWriter) (string, error) {
			return "ALTER TABLE", s.splitAt(ctx, st, n)
		}}
	case *parser.AlterNode:
		return &command{catalog: true, alone: "ALTER NODE", run: func(ctx context.Context, _ client.RowWriter) (string, error) {
			return "ALTER NODE", s.alterNode(ctx, n)
		}}
	}
	if c := s.placementCommand(st); c != nil {
		return c
	}
	return unsupported("this statement is not supported")
}

// alterNode drains or decommissions a node. Only a superuser may.
func (s *Session) alterNode(ctx context.Context, n *parser.AlterNode) error {
	admin := s.eng.cfg.Admin
	if admin == nil {
		return pgerror.New(pgerrcode.FeatureNotSupported, "this node can't change the cluster")
	}
	if err := s.loadRole(ctx); err != nil {
		return err
	}
	if !s.role.Superuser {
		return pgerror.New(pgerrcode.InsufficientPrivilege, "must be superuser to alter a node")
	}
	if n.Action == parser.DecommissionNode {
		if err := s.checkLeaving(ctx, n.Node); err != nil {
			return err
		}
	}
	var err error
	switch n.Action {
	case parser.DrainNode, parser.UndrainNode:
		err = admin.DrainNode(ctx, n.Node, n.Action == parser.DrainNode)
	default:
		err = admin.DecommissionNode(ctx, n.Node, n.Action == parser.DecommissionDeadNode)
	}
	if err != nil {
		return pgerror.Wrap(err, pgerrcode.ObjectNotInPrerequisiteState, "node %d: %s", n.Node, err.Error())
	}
	return nil
}

// splitAt makes range boundaries at rows of a table's primary index.
func (s *Session) splitAt(ctx context.Context, st *parser.Statement, n *parser.SplitAt) error {
	if s.eng.cfg.Admin == nil {
		return pgerror.New(pgerrcode.FeatureNotSupported, "this node can't split ranges")
	}
	if err := s.loadRole(ctx); err != nil {
		return err
	}
	view := s.catalogView()
	t, err := view.ResolveTable(ctx, s.catalogPath(), n.Relation.Schemaname, n.Relation.Relname, st.Position(n.Relation.Location))
	if err != nil {
		return err
	}
	if err := view.CheckOwner(ctx, s.roleID, t); err != nil {
		return err
	}
	ix := &t.Primary
	if n.Index != "" {
		if ix = t.IndexByName(n.Index); ix == nil {
			return pgerror.New(pgerrcode.UndefinedObject, "index %q of table %q does not exist", n.Index, t.Name)
		}
	}
	at := make([][]byte, len(n.Rows)) // all are valid before the first split
	for i, row := range n.Rows {
		if at[i], err = s.splitKey(ctx, t, ix, row); err != nil {
			return err
		}
	}
	// From the right: the left side of a split keeps its leaseholder and can be split again at once,
	// while the right side elects one.
	slices.SortFunc(at, func(a, b []byte) int { return bytes.Compare(b, a) })
	for _, key := range at {
		if err := s.eng.cfg.Admin.SplitAt(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// splitKey encodes the values of a prefix of an index's key.
func (s *Session) splitKey(ctx context.Context, t *catalog.Table, ix *catalog.Index, row []*ast.Node) ([]byte, error) {
	cols := t.KeyColumns(ix)
	if len(row) == 0 || len(row) > len(cols) {
		return nil, pgerror.New(pgerrcode.SyntaxError, "SPLIT AT has %d values, the key of %q has %d columns", len(row), ix.Name, len(cols)).
			WithHint("Give values for the key's first columns.")
	}
	codec, err := rowio.For(t)
	if err != nil {
		return nil, err
	}
	ic := codec.Index(ix)
	key := append([]byte(nil), ic.Prefix()...)
	for i, e := range row {
		v, err := s.evalConstant(ctx, e, t.ColumnByID(cols[i].Column).Type.OID)
		if err != nil {
			return nil, err
		}
		if key, err = ic.AppendKeyValue(key, i, v); err != nil {
			return nil, err
		}
	}
	return key, nil
}
