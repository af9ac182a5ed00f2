package ddl

import (
	"context"
	"errors"
	"strings"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/jackc/pgerrcode"
)

// Executor runs DDL statements of one session.
type Executor struct {
	Session Session
	Exprs   ExprBinder
	Rows    RowCodec
}

// Handles reports whether Execute knows the statement.
func Handles(n *ast.Node) bool {
	_, _, ok := statement(n)
	return ok
}

// Alone returns the command's name if it can't run inside a transaction block (25001).
func Alone(n *ast.Node) string {
	switch s := n.GetNode().(type) {
	case *ast.Node_CreatedbStmt:
		return "CREATE DATABASE"
	case *ast.Node_DropdbStmt:
		return "DROP DATABASE"
	case *ast.Node_VacuumStmt:
		if s.VacuumStmt.IsVacuumcmd {
			return "VACUUM"
		}
	case *ast.Node_IndexStmt:
		if s.IndexStmt.Concurrent {
			return "CREATE INDEX CONCURRENTLY"
		}
	case *ast.Node_DropStmt:
		if s.DropStmt.Concurrent {
			return "DROP INDEX CONCURRENTLY"
		}
	}
	return ""
}

// Execute runs a statement and returns its command tag.
func (x *Executor) Execute(ctx context.Context, n *ast.Node) (string, error) {
	run, tag, ok := statement(n)
	if !ok {
		return "", pgerror.New(pgerrcode.FeatureNotSupported, "this statement is not supported yet")
	}
	if alone := Alone(n); alone != "" && x.Session.InBlock() {
		return "", pgerror.New(pgerrcode.ActiveSQLTransaction, "%s cannot run inside a transaction block", alone)
	}
	if run == nil {
		return tag, nil
	}
	if err := run(x, ctx); err != nil {
		return "", err
	}
	return tag, nil
}

type runner func(*Executor, context.Context) error

// statement returns how to run a statement and its tag; a nil runner does nothing.
func statement(n *ast.Node) (runner, string, bool) {
	switch s := n.GetNode().(type) {
	case *ast.Node_CreateStmt:
		return func(x *Executor, ctx context.Context) error { return x.createTable(ctx, s.CreateStmt) }, "CREATE TABLE", true
	case *ast.Node_IndexStmt:
		return func(x *Executor, ctx context.Context) error { return x.createIndex(ctx, s.IndexStmt) }, "CREATE INDEX", true
	case *ast.Node_AlterTableStmt:
		return func(x *Executor, ctx context.Context) error { return x.alterTable(ctx, s.AlterTableStmt) },
			"ALTER " + objectWord(s.AlterTableStmt.Objtype), true
	case *ast.Node_DropStmt:
		return func(x *Executor, ctx context.Context) error { return x.drop(ctx, s.DropStmt) },
			"DROP " + objectWord(s.DropStmt.RemoveType), true
	case *ast.Node_TruncateStmt:
		return func(x *Executor, ctx context.Context) error { return x.truncate(ctx, s.TruncateStmt) }, "TRUNCATE TABLE", true
	case *ast.Node_RenameStmt:
		return func(x *Executor, ctx context.Context) error { return x.rename(ctx, s.RenameStmt) },
			"ALTER " + objectWord(renamedObject(s.RenameStmt)), true
	case *ast.Node_AlterObjectSchemaStmt:
		return func(x *Executor, ctx context.Context) error { return x.setSchema(ctx, s.AlterObjectSchemaStmt) },
			"ALTER " + objectWord(s.AlterObjectSchemaStmt.ObjectType), true
	case *ast.Node_AlterOwnerStmt:
		return func(x *Executor, ctx context.Context) error { return x.alterOwner(ctx, s.AlterOwnerStmt) },
			"ALTER " + objectWord(s.AlterOwnerStmt.ObjectType), true
	case *ast.Node_CreateSchemaStmt:
		return func(x *Executor, ctx context.Context) error { return x.createSchema(ctx, s.CreateSchemaStmt) }, "CREATE SCHEMA", true
	case *ast.Node_CreatedbStmt:
		return func(x *Executor, ctx context.Context) error { return x.createDatabase(ctx, s.CreatedbStmt) }, "CREATE DATABASE", true
	case *ast.Node_DropdbStmt:
		return func(x *Executor, ctx context.Context) error { return x.dropDatabase(ctx, s.DropdbStmt) }, "DROP DATABASE", true
	case *ast.Node_AlterDatabaseStmt:
		return func(x *Executor, ctx context.Context) error { return x.alterDatabase(ctx, s.AlterDatabaseStmt) }, "ALTER DATABASE", true
	case *ast.Node_AlterDatabaseSetStmt:
		return func(x *Executor, ctx context.Context) error { return x.alterDatabaseSet(ctx, s.AlterDatabaseSetStmt) }, "ALTER DATABASE", true
	case *ast.Node_CreateSeqStmt:
		return func(x *Executor, ctx context.Context) error { return x.createSequence(ctx, s.CreateSeqStmt) }, "CREATE SEQUENCE", true
	case *ast.Node_AlterSeqStmt:
		return func(x *Executor, ctx context.Context) error { return x.alterSequence(ctx, s.AlterSeqStmt) }, "ALTER SEQUENCE", true
	case *ast.Node_CommentStmt:
		return func(x *Executor, ctx context.Context) error { return x.comment(ctx, s.CommentStmt) }, "COMMENT", true
	case *ast.Node_CreateRoleStmt:
		return func(x *Executor, ctx context.Context) error { return x.createRole(ctx, s.CreateRoleStmt) }, "CREATE ROLE", true
	case *ast.Node_AlterRoleStmt:
		return func(x *Executor, ctx context.Context) error { return x.alterRole(ctx, s.AlterRoleStmt) }, "ALTER ROLE", true
	case *ast.Node_AlterRoleSetStmt:
		return func(x *Executor, ctx context.Context) error { return x.alterRoleSet(ctx, s.AlterRoleSetStmt) }, "ALTER ROLE", true
	case *ast.Node_DropRoleStmt:
		return func(x *Executor, ctx context.Context) error { return x.dropRole(ctx, s.DropRoleStmt) }, "DROP ROLE", true
	case *ast.Node_GrantStmt:
		tag := "REVOKE"
		if s.GrantStmt.IsGrant {
			tag = "GRANT"
		}
		return func(x *Executor, ctx context.Context) error { return x.grant(ctx, s.GrantStmt) }, tag, true
	case *ast.Node_GrantRoleStmt:
		tag := "REVOKE ROLE"
		if s.GrantRoleStmt.IsGrant {
			tag = "GRANT ROLE"
		}
		return func(x *Executor, ctx context.Context) error { return x.grantRole(ctx, s.GrantRoleStmt) }, tag, true
	case *ast.Node_VacuumStmt:
		tag := "ANALYZE"
		if s.VacuumStmt.IsVacuumcmd {
			tag = "VACUUM"
		}
		return func(x *Executor, ctx context.Context) error { return x.vacuum(ctx, s.VacuumStmt) }, tag, true
	case *ast.Node_ClusterStmt:
		return func(x *Executor, ctx context.Context) error { return x.maintain(ctx, s.ClusterStmt.Relation) }, "CLUSTER", true
	case *ast.Node_ReindexStmt:
		return func(x *Executor, ctx context.Context) error { return x.maintain(ctx, s.ReindexStmt.Relation) }, "REINDEX", true
	case *ast.Node_AlterDefaultPrivilegesStmt:
		return unsupported("ALTER DEFAULT PRIVILEGES is not supported yet"), "", true
	case *ast.Node_ViewStmt:
		return unsupported("CREATE VIEW is not supported yet"), "", true
	case *ast.Node_CreateTableAsStmt:
		return unsupported("CREATE TABLE AS is not supported yet"), "", true
	case *ast.Node_CreateFunctionStmt:
		return unsupported("CREATE FUNCTION is not supported yet"), "", true
	case *ast.Node_CreateTrigStmt:
		return unsupported("CREATE TRIGGER is not supported yet"), "", true
	case *ast.Node_CreateEnumStmt, *ast.Node_CompositeTypeStmt, *ast.Node_CreateDomainStmt, *ast.Node_DefineStmt, *ast.Node_CreateRangeStmt:
		return unsupported("user-defined types, operators and aggregates are not supported yet"), "", true
	case *ast.Node_CreateExtensionStmt:
		return func(x *Executor, ctx context.Context) error { return x.createExtension(s.CreateExtensionStmt) }, "CREATE EXTENSION", true
	}
	return nil, "", false
}

func unsupported(msg string) runner {
	return func(*Executor, context.Context) error {
		return pgerror.New(pgerrcode.FeatureNotSupported, "%s", msg)
	}
}

func (x *Executor) createExtension(s *ast.CreateExtensionStmt) error {
	if s.Extname == "plpgsql" && s.IfNotExists {
		return nil // every PostgreSQL database has it; nothing of it is offered here
	}
	return pgerror.New(pgerrcode.FeatureNotSupported, "extension %q is not available", s.Extname)
}

func objectWord(t ast.ObjectType) string {
	w := strings.TrimPrefix(t.String(), "OBJECT_")
	switch t {
	case ast.ObjectType_OBJECT_MATVIEW:
		return "MATERIALIZED VIEW"
	case ast.ObjectType_OBJECT_FOREIGN_TABLE:
		return "FOREIGN TABLE"
	case ast.ObjectType_OBJECT_ACCESS_METHOD:
		return "ACCESS METHOD"
	case ast.ObjectType_OBJECT_EVENT_TRIGGER:
		return "EVENT TRIGGER"
	}
	return strings.ReplaceAll(w, "_", " ")
}

// list turns a String list into Go strings.
func list(ns []*ast.Node) []string {
	out := make([]string, 0, len(ns))
	for _, n := range ns {
		if s := n.GetString_(); s != nil {
			out = append(out, s.Sval)
		}
	}
	return out
}

// qualified splits a possibly qualified name into schema and name.
func (x *Executor) qualified(parts []string) (schema, name string, err error) {
	switch len(parts) {
	case 1:
		return "", parts[0], nil
	case 2:
		return parts[0], parts[1], nil
	case 3:
		if parts[0] != x.Session.Path().DatabaseName {
			return "", "", crossDatabase(parts)
		}
		return parts[1], parts[2], nil
	}
	return "", "", pgerror.New(pgerrcode.SyntaxError, "improper qualified name (too many dotted names): %s", strings.Join(parts, "."))
}

func crossDatabase(parts []string) error {
	return pgerror.New(pgerrcode.FeatureNotSupported, "cross-database references are not implemented: %s", strings.Join(parts, "."))
}

func (x *Executor) rangeVar(r *ast.RangeVar) (schema, name string, err error) {
	if r.Catalogname != "" && r.Catalogname != x.Session.Path().DatabaseName {
		return "", "", crossDatabase([]string{r.Catalogname, r.Schemaname, r.Relname})
	}
	return r.Schemaname, r.Relname, nil
}

// find resolves a relation; nil if it is not there.
func (x *Executor) find(ctx context.Context, schema, name string) (*catalog.Relation, error) {
	return x.Session.Catalog().ResolveRelation(ctx, x.Session.Path(), schema, name)
}

// creationSchema returns where a new object goes and checks that the user may create there.
func (x *Executor) creationSchema(ctx context.Context, schema string) (catalog.ID, string, error) {
	cat := x.Session.Catalog()
	var id catalog.ID
	if schema == "" {
		var err error
		if id, schema, err = cat.CreationSchema(ctx, x.Session.Path()); err != nil {
			return 0, "", err
		}
	} else {
		var ok bool
		var err error
		if schema == "pg_temp" {
			return 0, "", pgerror.New(pgerrcode.FeatureNotSupported, "temporary tables are not supported yet")
		}
		if id, ok, err = cat.ResolveSchema(ctx, x.Session.Path().Database, schema); err != nil {
			return 0, "", err
		}
		if !ok {
			return 0, "", catalog.NoSchema(schema)
		}
	}
	if catalog.IsVirtualSchema(schema) {
		return 0, "", pgerror.New(pgerrcode.InsufficientPrivilege, "permission denied to create in schema %q", schema).
			WithDetail("System catalog modifications are currently disallowed.")
	}
	d, err := cat.Schema(ctx, id)
	if err != nil {
		return 0, "", err
	}
	if d == nil {
		return 0, "", catalog.NoSchema(schema)
	}
	return id, schema, cat.CheckPrivilege(ctx, x.Session.User().ID, d, catalog.PrivCreate)
}

// notice tells the client something, with PostgreSQL's severity NOTICE.
func (x *Executor) notice(code, format string, args ...any) {
	x.Session.Notice("NOTICE", code, pgerror.New(code, format, args...).Message)
}

func (x *Executor) name(n string) string {
	cut := catalog.CutName(n)
	if cut != n {
		x.notice(pgerrcode.NameTooLong, "identifier %q will be truncated to %q", n, cut)
	}
	return cut
}

// mutableTable locks a table's descriptor for a change and checks ownership. exclusive
// takes the table itself first.
func (x *Executor) mutableTable(ctx context.Context, t *catalog.Table, exclusive bool) (*catalog.Table, error) {
	cat := x.Session.Catalog()
	if err := cat.CheckOwner(ctx, x.Session.User().ID, t); err != nil {
		return nil, err
	}
	if exclusive {
		if err := cat.Lock(ctx, t.ID); err != nil {
			return nil, err
		}
	}
	d, err := cat.Mutable(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	m, ok := d.(*catalog.Table)
	if !ok {
		return nil, &catalog.RestartError{Reason: "table " + t.Name + " was dropped"}
	}
	return m, nil
}

func duplicate(code, what, name string) *pgerror.Error {
	return pgerror.New(code, "%s %q already exists", what, name)
}

// at sets an error's position if it has none.
func (x *Executor) at(err error, location int32) error {
	var pe *pgerror.Error
	if errors.As(err, &pe) && pe.Position == 0 && location > 0 {
		pe.Position = x.Session.Position(location)
	}
	return err
}
