package ddl

import (
	"context"
	"slices"

	"github.com/jackc/pgerrcode"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
)

// seen is the condition that a row is still as it was read (SAFETY S26).
func seen(r kv.KeyValue) kv.Condition {
	if r.Version.IsEmpty() {
		return kv.Condition{} // the transaction's own
	}
	return kv.Condition{Check: true, Seen: r.Version}
}

func renamedObject(s *ast.RenameStmt) ast.ObjectType {
	switch s.RenameType {
	case ast.ObjectType_OBJECT_COLUMN, ast.ObjectType_OBJECT_ATTRIBUTE:
		return s.RelationType
	case ast.ObjectType_OBJECT_TABCONSTRAINT:
		return ast.ObjectType_OBJECT_TABLE
	}
	return s.RenameType
}

func (x *Executor) rename(ctx context.Context, s *ast.RenameStmt) error {
	to := x.name(s.Newname)
	switch s.RenameType {
	case ast.ObjectType_OBJECT_TABLE, ast.ObjectType_OBJECT_SEQUENCE, ast.ObjectType_OBJECT_INDEX, ast.ObjectType_OBJECT_VIEW:
		return x.renameRelation(ctx, s, to)
	case ast.ObjectType_OBJECT_COLUMN:
		return x.renameColumn(ctx, s, to)
	case ast.ObjectType_OBJECT_TABCONSTRAINT:
		return x.renameConstraint(ctx, s, to)
	case ast.ObjectType_OBJECT_SCHEMA:
		return x.renameSchema(ctx, s.Subname, to)
	case ast.ObjectType_OBJECT_DATABASE:
		return x.renameDatabase(ctx, s.Subname, to)
	case ast.ObjectType_OBJECT_ROLE:
		return x.renameRole(ctx, s.Subname, to)
	}
	return pgerror.New(pgerrcode.FeatureNotSupported, "ALTER %s ... RENAME is not supported yet", objectWord(s.RenameType))
}

// relationOf finds the relation of an ALTER; nil when it is missing and that is fine.
func (x *Executor) relationOf(ctx context.Context, r *ast.RangeVar, missingOK bool) (*catalog.Relation, error) {
	schema, name, err := x.rangeVar(r)
	if err != nil {
		return nil, err
	}
	rel, err := x.find(ctx, schema, name)
	if err != nil {
		return nil, err
	}
	if rel == nil {
		if missingOK {
			x.notice(pgerrcode.UndefinedTable, "relation %q does not exist, skipping", name)
			return nil, nil
		}
		return nil, catalog.NoRelation(schema, name).At(x.Session.Position(r.Location))
	}
	if rel.Virtual != "" {
		return nil, pgerror.New(pgerrcode.InsufficientPrivilege, "permission denied: %q is a system catalog", name)
	}
	return rel, nil
}

func (x *Executor) renameRelation(ctx context.Context, s *ast.RenameStmt, to string) error {
	rel, err := x.relationOf(ctx, s.Relation, s.MissingOk)
	if err != nil || rel == nil {
		return err
	}
	if rel.Index != nil {
		return x.renameIndex(ctx, rel.Table, rel.Index.ID, to)
	}
	var d catalog.Descriptor = rel.Table
	if rel.Sequence != nil {
		d = rel.Sequence
	} else if rel.Table == nil {
		return pgerror.New(pgerrcode.FeatureNotSupported, "views are not supported yet")
	}
	return x.renameTo(ctx, d, to, pgerrcode.DuplicateTable, "relation")
}

func (x *Executor) renameTo(ctx context.Context, d catalog.Descriptor, to, code, what string) error {
	cat := x.Session.Catalog()
	if err := cat.CheckOwner(ctx, x.Session.User().ID, d); err != nil {
		return err
	}
	if t, ok := d.(*catalog.Table); ok && x.Session.InBlock() {
		if err := cat.Lock(ctx, t.ID); err != nil {
			return err
		}
	}
	m, err := cat.Mutable(ctx, d.Head().ID)
	if err != nil {
		return err
	}
	if m == nil {
		return &catalog.RestartError{Reason: d.Head().Name + " was dropped"}
	}
	n := catalog.NameOf(m)
	n.Name = to
	ok, err := cat.Rename(ctx, m, n)
	if err == nil && !ok {
		err = duplicate(code, what, to)
	}
	return err
}

func (x *Executor) renameIndex(ctx context.Context, t *catalog.Table, id catalog.ID, to string) error {
	m, err := x.mutableTable(ctx, t, x.Session.InBlock())
	if err != nil {
		return err
	}
	ix := m.IndexByID(id)
	if ix == nil {
		return &catalog.RestartError{Reason: "an index was dropped"}
	}
	old := ix.Name
	if err := x.moveIndexName(ctx, m, ix, to); err != nil {
		return err
	}
	if c := m.ConstraintByName(old); c != nil && c.Index == id {
		c.Name = to
	}
	return x.Session.Catalog().Write(ctx, m)
}

func (x *Executor) moveIndexName(ctx context.Context, t *catalog.Table, ix *catalog.Index, to string) error {
	cat := x.Session.Catalog()
	n := catalog.NameOf(t)
	n.Name = to
	ok, err := cat.AddName(ctx, n, catalog.Entry{Kind: catalog.KindIndex, ID: ix.ID, Table: t.ID})
	if err != nil {
		return err
	}
	if !ok {
		return duplicate(pgerrcode.DuplicateTable, "relation", to)
	}
	n.Name = ix.Name
	ix.Name = to
	return cat.RemoveName(ctx, n)
}

func (x *Executor) renameColumn(ctx context.Context, s *ast.RenameStmt, to string) error {
	rel, err := x.relationOf(ctx, s.Relation, s.MissingOk)
	if err != nil || rel == nil {
		return err
	}
	if rel.Table == nil || rel.Index != nil {
		return pgerror.New(pgerrcode.WrongObjectType, "%q is not a table", s.Relation.Relname)
	}
	m, err := x.mutableTable(ctx, rel.Table, x.Session.InBlock())
	if err != nil {
		return err
	}
	c := m.ColumnByName(s.Subname)
	if c == nil {
		return pgerror.New(pgerrcode.UndefinedColumn, "column %q does not exist", s.Subname)
	}
	if isSystemColumn(to) {
		return pgerror.New(pgerrcode.DuplicateColumn, "column name %q conflicts with a system column name", to)
	}
	if m.ColumnByName(to) != nil {
		return pgerror.New(pgerrcode.DuplicateColumn, "column %q of relation %q already exists", to, m.Name)
	}
	for i := range m.Constraints {
		if k := &m.Constraints[i]; k.Kind == catalog.CheckConstraint && contains(k.Columns, c.ID) {
			if k.Expr, err = renameInExpr(k.Expr, c.Name, to); err != nil {
				return err
			}
		}
	}
	c.Name = to
	return x.Session.Catalog().Write(ctx, m)
}

// renameInExpr gives a column another name in a check constraint, whose only columns are its
// table's.
func renameInExpr(text, from, to string) (string, error) {
	st, err := parser.Parse("SELECT " + text)
	if err != nil {
		return "", err
	}
	target := st[0].Node.GetSelectStmt().GetTargetList()[0].GetResTarget().GetVal()
	renameRefs(target.ProtoReflect(), from, to)
	return parser.DeparseExpr(target)
}

func renameRefs(m protoreflect.Message, from, to string) {
	if r, ok := m.Interface().(*ast.ColumnRef); ok {
		if n := r.Fields[len(r.Fields)-1].GetString_(); n != nil && n.Sval == from {
			n.Sval = to
		}
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Kind() != protoreflect.MessageKind {
			return true
		}
		if fd.IsList() {
			for i := range v.List().Len() {
				renameRefs(v.List().Get(i).Message(), from, to)
			}
		} else {
			renameRefs(v.Message(), from, to)
		}
		return true
	})
}

func (x *Executor) renameConstraint(ctx context.Context, s *ast.RenameStmt, to string) error {
	rel, err := x.relationOf(ctx, s.Relation, s.MissingOk)
	if err != nil || rel == nil {
		return err
	}
	if rel.Table == nil || rel.Index != nil {
		return pgerror.New(pgerrcode.WrongObjectType, "%q is not a table", s.Relation.Relname)
	}
	c := rel.Table.ConstraintByName(s.Subname)
	if c == nil {
		return pgerror.New(pgerrcode.UndefinedObject, "constraint %q for table %q does not exist", s.Subname, rel.Table.Name)
	}
	if rel.Table.ConstraintByName(to) != nil {
		return duplicateConstraint(to, rel.Table.Name)
	}
	if c.Index != 0 && c.Kind != catalog.ForeignKeyConstraint {
		return x.renameIndex(ctx, rel.Table, c.Index, to)
	}
	m, err := x.mutableTable(ctx, rel.Table, x.Session.InBlock())
	if err != nil {
		return err
	}
	i := slices.IndexFunc(m.Constraints, func(k catalog.Constraint) bool { return k.Name == s.Subname })
	if i < 0 {
		return noConstraint(s.Subname, m.Name)
	}
	m.Constraints[i].Name = to
	return x.Session.Catalog().Write(ctx, m)
}

func (x *Executor) schemaByName(ctx context.Context, name string) (*catalog.Schema, error) {
	id, ok, err := x.Session.Catalog().ResolveSchema(ctx, x.Session.Path().Database, name)
	if err != nil {
		return nil, err
	}
	if ok {
		s, err := x.Session.Catalog().Schema(ctx, id)
		if err != nil || s != nil {
			return s, err
		}
		if catalog.IsVirtualSchema(name) {
			return nil, pgerror.New(pgerrcode.InsufficientPrivilege, "permission denied for schema %s", name)
		}
	}
	return nil, catalog.NoSchema(name)
}

func (x *Executor) renameSchema(ctx context.Context, from, to string) error {
	s, err := x.schemaByName(ctx, from)
	if err != nil {
		return err
	}
	if catalog.IsVirtualSchema(to) {
		return duplicate(pgerrcode.DuplicateSchema, "schema", to)
	}
	return x.renameTo(ctx, s, to, pgerrcode.DuplicateSchema, "schema")
}

func (x *Executor) renameDatabase(ctx context.Context, from, to string) error {
	d, err := x.Session.Catalog().ResolveDatabase(ctx, from)
	if err != nil {
		return err
	}
	if d == nil {
		return pgerror.New(pgerrcode.InvalidCatalogName, "database %q does not exist", from)
	}
	if from == x.Session.Path().DatabaseName {
		return pgerror.New(pgerrcode.FeatureNotSupported, "current database cannot be renamed")
	}
	return x.renameTo(ctx, d, to, pgerrcode.DuplicateDatabase, "database")
}

func (x *Executor) renameRole(ctx context.Context, from, to string) error {
	r, err := x.roleByName(ctx, from)
	if err != nil {
		return err
	}
	if err := x.mayManageRoles(r); err != nil {
		return err
	}
	cat := x.Session.Catalog()
	m, err := cat.Mutable(ctx, r.ID)
	if err != nil {
		return err
	}
	if m == nil {
		return &catalog.RestartError{Reason: "role " + from + " was dropped"}
	}
	n := catalog.NameOf(m)
	n.Name = to
	ok, err := cat.Rename(ctx, m, n)
	if err == nil && !ok {
		err = duplicate(pgerrcode.DuplicateObject, "role", to)
	}
	return err
}

func (x *Executor) setSchema(ctx context.Context, s *ast.AlterObjectSchemaStmt) error {
	if s.Relation == nil {
		return pgerror.New(pgerrcode.FeatureNotSupported, "ALTER %s ... SET SCHEMA is not supported yet", objectWord(s.ObjectType))
	}
	rel, err := x.relationOf(ctx, s.Relation, s.MissingOk)
	if err != nil || rel == nil {
		return err
	}
	id, _, err := x.creationSchema(ctx, s.Newschema)
	if err != nil {
		return err
	}
	switch {
	case rel.Sequence != nil:
		if rel.Sequence.OwnerTable != 0 {
			return pgerror.New(pgerrcode.FeatureNotSupported, "cannot move an owned sequence into another schema").
				WithDetail("Sequence %q is linked to a table.", rel.Sequence.Name)
		}
		return x.moveTo(ctx, rel.Sequence, id)
	case rel.Table == nil || rel.Index != nil:
		return pgerror.New(pgerrcode.WrongObjectType, "%q is not a table", s.Relation.Relname)
	}
	t := rel.Table
	if t.Schema == id {
		return nil
	}
	// The owned sequences and the index names move with their table.
	for _, c := range t.Columns {
		if c.Sequence == 0 {
			continue
		}
		seq, err := x.Session.Catalog().Sequence(ctx, c.Sequence)
		if err != nil {
			return err
		}
		if seq != nil && seq.OwnerTable == t.ID {
			if err := x.moveTo(ctx, seq, id); err != nil {
				return err
			}
		}
	}
	return x.moveTo(ctx, t, id)
}

func (x *Executor) moveTo(ctx context.Context, d catalog.Descriptor, schema catalog.ID) error {
	cat := x.Session.Catalog()
	if err := cat.CheckOwner(ctx, x.Session.User().ID, d); err != nil {
		return err
	}
	m, err := cat.Mutable(ctx, d.Head().ID)
	if err != nil {
		return err
	}
	if m == nil {
		return &catalog.RestartError{Reason: d.Head().Name + " was dropped"}
	}
	if t, ok := m.(*catalog.Table); ok {
		for _, ix := range t.DeletableIndexes() {
			if ix.ID == 0 {
				continue
			}
			n := catalog.NameOf(t)
			n.Name = ix.Name
			if err := cat.RemoveName(ctx, n); err != nil {
				return err
			}
			n.Schema = schema
			ok, err := cat.AddName(ctx, n, catalog.Entry{Kind: catalog.KindIndex, ID: ix.ID, Table: t.ID})
			if err != nil {
				return err
			}
			if !ok {
				return duplicate(pgerrcode.DuplicateTable, "relation", ix.Name)
			}
		}
	}
	n := catalog.NameOf(m)
	n.Schema = schema
	ok, err := cat.Rename(ctx, m, n)
	if err == nil && !ok {
		err = duplicate(pgerrcode.DuplicateTable, "relation", n.Name)
	}
	return err
}

func (x *Executor) alterOwner(ctx context.Context, s *ast.AlterOwnerStmt) error {
	r, err := x.role(ctx, s.Newowner)
	if err != nil {
		return err
	}
	var d catalog.Descriptor
	switch s.ObjectType {
	case ast.ObjectType_OBJECT_DATABASE:
		db, err := x.Session.Catalog().ResolveDatabase(ctx, s.Object.GetString_().GetSval())
		if err != nil {
			return err
		}
		if db == nil {
			return pgerror.New(pgerrcode.InvalidCatalogName, "database %q does not exist", s.Object.GetString_().GetSval())
		}
		d = db
	case ast.ObjectType_OBJECT_SCHEMA:
		if d, err = x.schemaByName(ctx, s.Object.GetString_().GetSval()); err != nil {
			return err
		}
	default:
		return pgerror.New(pgerrcode.FeatureNotSupported, "ALTER %s ... OWNER TO is not supported yet", objectWord(s.ObjectType))
	}
	return x.change(ctx, d, func(m catalog.Descriptor) error { m.Head().Owner = r.ID; return nil })
}
