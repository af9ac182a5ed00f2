package ddl

import (
	"context"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/jackc/pgerrcode"
)

func (x *Executor) comment(ctx context.Context, s *ast.CommentStmt) error {
	cat := x.Session.Catalog()
	c := catalog.Comment{Text: s.Comment}
	owner, err := x.commented(ctx, s, &c)
	if err != nil {
		return err
	}
	if owner != nil {
		if err := cat.CheckOwner(ctx, x.Session.User().ID, owner); err != nil {
			return err
		}
	}
	if err := catalog.PutComment(ctx, cat.Txn(), c); err != nil {
		return err
	}
	cat.Txn().Step()
	return nil
}

// commented finds the object of a COMMENT.
func (x *Executor) commented(ctx context.Context, s *ast.CommentStmt, c *catalog.Comment) (catalog.Descriptor, error) {
	parts := list(s.Object.GetList().GetItems())
	switch s.Objtype {
	case ast.ObjectType_OBJECT_TABLE, ast.ObjectType_OBJECT_SEQUENCE, ast.ObjectType_OBJECT_INDEX, ast.ObjectType_OBJECT_VIEW:
		schema, name, err := x.qualified(parts)
		if err != nil {
			return nil, err
		}
		rel, err := x.find(ctx, schema, name)
		if err != nil {
			return nil, err
		}
		if rel == nil {
			return nil, catalog.NoRelation(schema, name)
		}
		if err := rightKind(rel, s.Objtype, name, catalogWord(s.Objtype)); err != nil {
			return nil, err
		}
		c.ClassOID, c.Object = catalog.ClassOIDRelation, uint32(rel.ID())
		if rel.Sequence != nil {
			return rel.Sequence, nil
		}
		return rel.Table, nil
	case ast.ObjectType_OBJECT_COLUMN, ast.ObjectType_OBJECT_TABCONSTRAINT:
		if len(parts) < 2 {
			return nil, pgerror.New(pgerrcode.SyntaxError, "column name must be qualified")
		}
		last := parts[len(parts)-1]
		schema, name, err := x.qualified(parts[:len(parts)-1])
		if err != nil {
			return nil, err
		}
		t, err := x.Session.Catalog().ResolveTable(ctx, x.Session.Path(), schema, name, 0)
		if err != nil {
			return nil, err
		}
		if s.Objtype == ast.ObjectType_OBJECT_TABCONSTRAINT {
			k := t.ConstraintByName(last)
			if k == nil {
				return nil, pgerror.New(pgerrcode.UndefinedObject, "constraint %q for table %q does not exist", last, t.Name)
			}
			c.ClassOID, c.Object = catalog.ClassOIDConstraint, uint32(k.ID)
			return t, nil
		}
		col := t.ColumnByName(last)
		if col == nil {
			return nil, pgerror.New(pgerrcode.UndefinedColumn, "column %q of relation %q does not exist", last, t.Name)
		}
		c.ClassOID, c.Object, c.Sub = catalog.ClassOIDRelation, uint32(t.ID), int32(col.ID)
		return t, nil
	case ast.ObjectType_OBJECT_SCHEMA:
		sch, err := x.schemaByName(ctx, s.Object.GetString_().GetSval())
		if err != nil {
			return nil, err
		}
		c.ClassOID, c.Object = catalog.ClassOIDSchema, uint32(sch.ID)
		return sch, nil
	case ast.ObjectType_OBJECT_DATABASE:
		name := s.Object.GetString_().GetSval()
		db, err := x.Session.Catalog().ResolveDatabase(ctx, name)
		if err != nil {
			return nil, err
		}
		if db == nil {
			return nil, pgerror.New(pgerrcode.InvalidCatalogName, "database %q does not exist", name)
		}
		c.ClassOID, c.Object = catalog.ClassOIDDatabase, uint32(db.ID)
		return db, nil
	case ast.ObjectType_OBJECT_ROLE:
		r, err := x.roleByName(ctx, s.Object.GetString_().GetSval())
		if err != nil {
			return nil, err
		}
		c.ClassOID, c.Object = catalog.ClassOIDRole, uint32(r.ID)
		return nil, x.mayManageRoles(r)
	}
	return nil, pgerror.New(pgerrcode.FeatureNotSupported, "COMMENT ON %s is not supported yet", objectWord(s.Objtype))
}

func catalogWord(t ast.ObjectType) string {
	switch t {
	case ast.ObjectType_OBJECT_SEQUENCE:
		return "sequence"
	case ast.ObjectType_OBJECT_INDEX:
		return "index"
	case ast.ObjectType_OBJECT_VIEW:
		return "view"
	}
	return "table"
}

// vacuum runs VACUUM and ANALYZE. Old versions are collected in the background, so that
// VACUUM has nothing to do beyond checking names; ANALYZE counts rows.
func (x *Executor) vacuum(ctx context.Context, s *ast.VacuumStmt) error {
	analyze := !s.IsVacuumcmd
	for _, o := range s.Options {
		if d := o.GetDefElem(); d.Defname == "analyze" {
			analyze = boolArg(d, true)
		}
	}
	var tables []*catalog.Table
	for _, r := range s.Rels {
		rv := r.GetVacuumRelation().GetRelation()
		schema, name, err := x.rangeVar(rv)
		if err != nil {
			return err
		}
		if catalog.IsVirtualSchema(schema) {
			continue
		}
		rel, err := x.find(ctx, schema, name)
		if err != nil {
			return err
		}
		switch {
		case rel == nil:
			return catalog.NoRelation(schema, name).At(x.Session.Position(rv.Location))
		case rel.Virtual != "":
		case rel.Table == nil || rel.Index != nil:
			x.Session.Notice("WARNING", pgerrcode.Warning, "skipping \""+name+"\" --- cannot vacuum non-tables or special system tables")
		default:
			tables = append(tables, rel.Table)
		}
	}
	if !analyze {
		return nil
	}
	if len(s.Rels) == 0 {
		all, err := x.Session.Catalog().All(ctx)
		if err != nil {
			return err
		}
		for _, d := range all {
			if t, ok := d.(*catalog.Table); ok && t.Database == x.Session.Path().Database {
				tables = append(tables, t)
			}
		}
	}
	for _, t := range tables {
		if err := x.analyzeTable(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// analyzeLimit is how many rows ANALYZE reads of a table; beyond, it says "at least".
const analyzeLimit = 1 << 20

// analyzeTable counts rows, each part in a transaction of its own: statistics need not be exact.
func (x *Executor) analyzeTable(ctx context.Context, t *catalog.Table) error {
	cat := x.Session.Catalog()
	var st catalog.Statistics
	span := t.IndexSpan(&t.Primary)
	const part = 5000
	for st.Rows < analyzeLimit {
		var rows []kv.KeyValue
		read := func(ctx context.Context, tx catalog.Txn) (err error) {
			rows, err = tx.Scan(ctx, span, part)
			return err
		}
		var err error
		if cat.Created(t.ID) {
			err = read(ctx, cat.Txn()) // only this transaction sees its rows
		} else {
			err = cat.Manager().DB().Run(ctx, "analyze", read)
		}
		if err != nil {
			return err
		}
		st.Rows += int64(len(rows))
		for _, r := range rows {
			st.Bytes += int64(len(r.Key) + len(r.Value))
		}
		if len(rows) < part {
			break
		}
		span.Key = rows[len(rows)-1].Key.Next()
	}
	return cat.PutStatistics(ctx, t.ID, &st)
}

// maintain accepts CLUSTER and REINDEX: rows always lie in primary key order, and indexes
// are kept by every write.
func (x *Executor) maintain(ctx context.Context, r *ast.RangeVar) error {
	if r == nil {
		return nil
	}
	_, err := x.relationOf(ctx, r, false)
	return err
}
