package ddl

import (
	"context"
	"strconv"
	"strings"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/jackc/pgerrcode"
)

func itoa(v int64) string { return strconv.FormatInt(v, 10) }

func constText(c *ast.A_Const) string {
	switch v := c.GetVal().(type) {
	case *ast.A_Const_Ival:
		return itoa(int64(v.Ival.GetIval()))
	case *ast.A_Const_Sval:
		return v.Sval.GetSval()
	case *ast.A_Const_Fval:
		return v.Fval.GetFval()
	case *ast.A_Const_Boolval:
		return strconv.FormatBool(v.Boolval.GetBoolval())
	}
	return ""
}

func (x *Executor) createSchema(ctx context.Context, s *ast.CreateSchemaStmt) error {
	cat := x.Session.Catalog()
	name, owner := s.Schemaname, x.Session.User()
	if s.Authrole != nil {
		r, err := x.role(ctx, s.Authrole)
		if err != nil {
			return err
		}
		owner = r
		if name == "" {
			name = r.Name
		}
	}
	name = x.name(name)
	db, err := cat.Database(ctx, x.Session.Path().Database)
	if err != nil {
		return err
	}
	if db == nil {
		return pgerror.New(pgerrcode.InvalidCatalogName, "database %q does not exist", x.Session.Path().DatabaseName)
	}
	if err := cat.CheckPrivilege(ctx, x.Session.User().ID, db, catalog.PrivCreate); err != nil {
		return err
	}
	if strings.HasPrefix(name, "pg_") {
		return pgerror.New(pgerrcode.ReservedName, "unacceptable schema name %q", name).
			WithDetail("The prefix \"pg_\" is reserved for system schemas.")
	}
	if len(s.SchemaElts) > 0 {
		return pgerror.New(pgerrcode.FeatureNotSupported, "CREATE SCHEMA with elements is not supported yet").
			WithHint("Create the schema first, then its tables.")
	}
	id, err := cat.NewIDs(ctx, 1)
	if err != nil {
		return err
	}
	d := &catalog.Schema{}
	d.Header = catalog.Header{ID: id, Name: name, Database: x.Session.Path().Database, Owner: owner.ID}
	ok := !catalog.IsVirtualSchema(name)
	if ok {
		if ok, err = cat.Create(ctx, d); err != nil {
			return err
		}
	}
	if !ok {
		if s.IfNotExists {
			x.notice(pgerrcode.DuplicateSchema, "schema %q already exists, skipping", name)
			return nil
		}
		return duplicate(pgerrcode.DuplicateSchema, "schema", name)
	}
	return nil
}

func (x *Executor) createDatabase(ctx context.Context, s *ast.CreatedbStmt) error {
	cat := x.Session.Catalog()
	user := x.Session.User()
	if !user.Superuser && !user.CreateDB {
		return pgerror.New(pgerrcode.InsufficientPrivilege, "permission denied to create database")
	}
	d := &catalog.Database{AllowConn: true, ConnLimit: -1}
	d.Owner = user.ID
	template := "template1"
	for _, o := range s.Options {
		e := o.GetDefElem()
		switch strings.ToLower(e.Defname) {
		case "owner":
			r, err := x.roleByName(ctx, defText(e))
			if err != nil {
				return err
			}
			d.Owner = r.ID
		case "template":
			if e.Arg != nil {
				template = defText(e)
			}
		case "encoding":
			if enc := strings.ToUpper(defText(e)); e.Arg != nil && enc != "UTF8" && enc != "UTF-8" && enc != "UNICODE" && enc != "6" && enc != "-1" {
				return pgerror.New(pgerrcode.FeatureNotSupported, "encoding %q is not supported", defText(e)).WithHint("Use UTF8.")
			}
		case "connection_limit":
			n, err := strconv.ParseInt(defText(e), 10, 32)
			if err != nil || n < -1 {
				return pgerror.New(pgerrcode.InvalidParameterValue, "invalid connection limit: %s", defText(e))
			}
			d.ConnLimit = int32(n)
		case "allow_connections":
			d.AllowConn = boolArg(e, true)
		case "is_template":
			d.IsTemplate = boolArg(e, true)
		case "lc_collate", "lc_ctype", "locale", "collation_version", "tablespace", "oid", "strategy", "icu_locale":
			// Accepted: collation is C, and there are no tablespaces.
		case "locale_provider":
			if p := defText(e); p != "libc" {
				return pgerror.New(pgerrcode.FeatureNotSupported, "locale provider %q is not supported", p)
			}
		default:
			return pgerror.New(pgerrcode.SyntaxError, "option %q not recognized", e.Defname)
		}
	}
	src, err := cat.ResolveDatabase(ctx, template)
	if err != nil {
		return err
	}
	if src == nil {
		return pgerror.New(pgerrcode.InvalidCatalogName, "template database %q does not exist", template)
	}
	if err := x.templateEmpty(ctx, src); err != nil {
		return err
	}
	id, err := cat.NewIDs(ctx, 2)
	if err != nil {
		return err
	}
	d.ID, d.Name = id, x.name(s.Dbname)
	ok, err := cat.Create(ctx, d)
	if err != nil {
		return err
	}
	if !ok {
		return duplicate(pgerrcode.DuplicateDatabase, "database", d.Name)
	}
	_, err = cat.Create(ctx, catalog.NewPublicSchema(id+1, id))
	return err
}

// templateEmpty refuses a template that has something in it: copying is not built yet.
func (x *Executor) templateEmpty(ctx context.Context, src *catalog.Database) error {
	all, err := x.Session.Catalog().All(ctx)
	if err != nil {
		return err
	}
	for _, d := range all {
		if h := d.Head(); h.Database == src.ID && !(d.Kind() == catalog.KindSchema && h.Name == catalog.PublicSchema) {
			return pgerror.New(pgerrcode.FeatureNotSupported, "template database %q is not empty, and copying a database is not supported yet", src.Name).
				WithHint("Use TEMPLATE template0.")
		}
	}
	return nil
}

func (x *Executor) dropDatabase(ctx context.Context, s *ast.DropdbStmt) error {
	cat := x.Session.Catalog()
	if s.Dbname == x.Session.Path().DatabaseName {
		return pgerror.New(pgerrcode.ObjectInUse, "cannot drop the currently open database")
	}
	d, err := cat.ResolveDatabase(ctx, s.Dbname)
	if err != nil {
		return err
	}
	if d == nil {
		if s.MissingOk {
			x.notice(pgerrcode.InvalidCatalogName, "database %q does not exist, skipping", s.Dbname)
			return nil
		}
		return pgerror.New(pgerrcode.InvalidCatalogName, "database %q does not exist", s.Dbname)
	}
	if err := cat.CheckOwner(ctx, x.Session.User().ID, d); err != nil {
		return err
	}
	if d.IsTemplate {
		return pgerror.New(pgerrcode.WrongObjectType, "cannot drop a template database")
	}
	all, err := cat.All(ctx)
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.Head().Database == d.ID {
			if err := x.dropDescriptor(ctx, o); err != nil {
				return err
			}
		}
	}
	return x.dropDescriptor(ctx, d)
}

// dropDescriptor drops an object, its comments and its names.
func (x *Executor) dropDescriptor(ctx context.Context, d catalog.Descriptor) error {
	cat := x.Session.Catalog()
	m, err := cat.Mutable(ctx, d.Head().ID)
	if err != nil || m == nil {
		return err
	}
	class := map[catalog.Kind]uint32{catalog.KindDatabase: catalog.ClassOIDDatabase, catalog.KindSchema: catalog.ClassOIDSchema,
		catalog.KindRole: catalog.ClassOIDRole}[d.Kind()]
	if class == 0 {
		class = catalog.ClassOIDRelation
	}
	if err := catalog.DropComments(ctx, cat.Txn(), class, uint32(d.Head().ID)); err != nil {
		return err
	}
	if t, ok := m.(*catalog.Table); ok {
		for _, ix := range t.DeletableIndexes() {
			if err := catalog.DropComments(ctx, cat.Txn(), class, uint32(ix.ID)); err != nil {
				return err
			}
		}
	}
	return cat.Drop(ctx, m)
}

func (x *Executor) alterDatabase(ctx context.Context, s *ast.AlterDatabaseStmt) error {
	return x.changeDatabase(ctx, s.Dbname, func(d *catalog.Database) error {
		for _, o := range s.Options {
			e := o.GetDefElem()
			switch e.Defname {
			case "connection_limit":
				n, err := strconv.ParseInt(defText(e), 10, 32)
				if err != nil || n < -1 {
					return pgerror.New(pgerrcode.InvalidParameterValue, "invalid connection limit: %s", defText(e))
				}
				d.ConnLimit = int32(n)
			case "allow_connections":
				d.AllowConn = boolArg(e, true)
			case "is_template":
				d.IsTemplate = boolArg(e, true)
			case "tablespace":
			default:
				return pgerror.New(pgerrcode.SyntaxError, "option %q not recognized", e.Defname)
			}
		}
		return nil
	})
}

func (x *Executor) changeDatabase(ctx context.Context, name string, change func(*catalog.Database) error) error {
	cat := x.Session.Catalog()
	d, err := cat.ResolveDatabase(ctx, name)
	if err != nil {
		return err
	}
	if d == nil {
		return pgerror.New(pgerrcode.InvalidCatalogName, "database %q does not exist", name)
	}
	if err := cat.CheckOwner(ctx, x.Session.User().ID, d); err != nil {
		return err
	}
	m, err := cat.Mutable(ctx, d.ID)
	if err != nil {
		return err
	}
	md, ok := m.(*catalog.Database)
	if !ok {
		return &catalog.RestartError{Reason: "database " + name + " was dropped"}
	}
	if err := change(md); err != nil {
		return err
	}
	return cat.Write(ctx, md)
}

func (x *Executor) alterDatabaseSet(ctx context.Context, s *ast.AlterDatabaseSetStmt) error {
	return x.changeDatabase(ctx, s.Dbname, func(d *catalog.Database) (err error) {
		d.Settings, err = changeSettings(d.Settings, s.Setstmt)
		return err
	})
}

// changeSettings applies SET or RESET to a list of name=value.
func changeSettings(in []string, s *ast.VariableSetStmt) ([]string, error) {
	if s.Kind == ast.VariableSetKind_VAR_RESET_ALL {
		return nil, nil
	}
	name := strings.ToLower(s.Name)
	var out []string
	for _, v := range in {
		if n, _, _ := strings.Cut(v, "="); n != name {
			out = append(out, v)
		}
	}
	switch s.Kind {
	case ast.VariableSetKind_VAR_RESET, ast.VariableSetKind_VAR_SET_DEFAULT:
		return out, nil
	case ast.VariableSetKind_VAR_SET_VALUE:
		var vals []string
		for _, a := range s.Args {
			if c := a.GetAConst(); c != nil {
				vals = append(vals, constText(c))
			}
		}
		return append(out, name+"="+strings.Join(vals, ", ")), nil
	}
	return nil, pgerror.New(pgerrcode.FeatureNotSupported, "SET ... FROM CURRENT is not supported here")
}
