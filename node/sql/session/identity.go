package session

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/ddl"
	"github.com/atolldb/atoll/node/sql/exec/rowio"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/pgerror"
)

// functions shows the session to SQL functions. It implements builtins.Session.
type functions struct{ s *Session }

// Identity implements builtins.Session.
func (f functions) Identity() builtins.Identity {
	s := f.s
	return builtins.Identity{
		User: s.user, SessionUser: s.sessionUser, Database: s.database, BackendPID: int32(s.pid),
		ServerAddr: s.eng.cfg.SQLAddr, ClientAddr: s.remote, Started: s.started, ServerStarted: s.eng.started,
	}
}

// SearchPath implements builtins.Session.
func (f functions) SearchPath(implicit bool) []string {
	var out []string
	view := f.s.catalogView()
	for _, name := range f.s.catalogPath().Schemas(implicit) {
		if catalog.IsVirtualSchema(name) {
			out = append(out, name)
			continue
		}
		if _, ok, err := view.ResolveSchema(f.s.ctx, f.s.databaseID, name); err == nil && ok && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// Setting implements builtins.Session.
func (f functions) Setting(name string) (string, bool) { return f.s.showValue(name) }

// SetSetting implements builtins.Session.
func (f functions) SetSetting(name, value string, local bool) (string, error) {
	if err := f.s.set(strings.ToLower(name), value, local); err != nil {
		return "", err
	}
	v, _ := f.s.showValue(name)
	return v, nil
}

// TxnID implements builtins.Session: the first 63 bits of the transaction's UUID.
func (f functions) TxnID() int64 {
	id := f.s.kvTxn().ID()
	return int64(binary.BigEndian.Uint64(id[:8]) >> 1)
}

// definer shows the session to package ddl. It implements ddl.Session.
type definer struct {
	s  *Session
	st *parser.Statement // nil for functions
}

func (d definer) Catalog() *catalog.Collection { return d.s.catalogView() }
func (d definer) Path() catalog.Path           { return d.s.catalogPath() }
func (d definer) User() *catalog.Role          { return d.s.role }

// InBlock implements ddl.Session.
func (d definer) InBlock() bool {
	return d.s.tx != nil && (!d.s.tx.implicit || d.s.tx.statements > 1)
}

func (d definer) Notice(severity, code, message string) {
	if severity == "NOTICE" {
		code = pgerrcode.SuccessfulCompletion // as PostgreSQL: a notice is no condition
	}
	d.s.notify.Notice(&client.Notice{Severity: severity, Code: code, Message: message})
}

func (d definer) Position(location int32) int {
	if d.st == nil {
		return 0
	}
	return d.st.Position(location)
}

// loadRole makes s.role what the transaction sees of the current role.
func (s *Session) loadRole(ctx context.Context) error {
	role, err := s.catalogView().ResolveRole(ctx, s.user)
	if err != nil {
		return err
	}
	if role == nil {
		return pgerror.New(pgerrcode.InvalidAuthorizationSpecification, "role %q does not exist", s.user)
	}
	s.role, s.roleID = role, role.ID
	return nil
}

// ddlCommand runs a statement that defines something.
func (s *Session) ddlCommand(st *parser.Statement) *command {
	if !ddl.Handles(st.Node) {
		return unsupported("this statement is not supported")
	}
	c := &command{catalog: true, alone: ddl.Alone(st.Node)}
	c.run = func(ctx context.Context, _ client.RowWriter) (string, error) {
		if s.tx.readOnly {
			return "", readOnlyViolation("this statement")
		}
		if err := s.loadRole(ctx); err != nil {
			return "", err
		}
		x := &ddl.Executor{Session: definer{s, st}, Exprs: &expressions{s: s}, Rows: rowio.RowCodec{}}
		return x.Execute(ctx, st.Node)
	}
	return c
}
