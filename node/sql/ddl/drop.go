package ddl

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/jackc/pgerrcode"
)

func (x *Executor) drop(ctx context.Context, s *ast.DropStmt) error {
	cascade := s.Behavior == ast.DropBehavior_DROP_CASCADE
	switch s.RemoveType {
	case ast.ObjectType_OBJECT_SCHEMA:
		for _, o := range s.Objects {
			if err := x.dropSchema(ctx, o.GetString_().GetSval(), s.MissingOk, cascade); err != nil {
				return err
			}
		}
		return nil
	case ast.ObjectType_OBJECT_TABLE, ast.ObjectType_OBJECT_SEQUENCE, ast.ObjectType_OBJECT_INDEX, ast.ObjectType_OBJECT_VIEW:
		return x.dropRelations(ctx, s, cascade)
	}
	word := strings.ToLower(objectWord(s.RemoveType))
	if s.MissingOk {
		// Atoll has no objects of these kinds: all of them are missing.
		for _, o := range s.Objects {
			x.notice(pgerrcode.UndefinedObject, "%s %q does not exist, skipping", word, objectName(o))
		}
		return nil
	}
	for _, o := range s.Objects {
		return pgerror.New(pgerrcode.UndefinedObject, "%s %q does not exist", word, objectName(o))
	}
	return nil
}

func objectName(n *ast.Node) string {
	switch o := n.GetNode().(type) {
	case *ast.Node_String_:
		return o.String_.Sval
	case *ast.Node_List:
		return strings.Join(list(o.List.Items), ".")
	case *ast.Node_TypeName:
		return strings.Join(list(o.TypeName.Names), ".")
	case *ast.Node_ObjectWithArgs:
		return strings.Join(list(o.ObjectWithArgs.Objname), ".")
	}
	return ""
}

func (x *Executor) dropRelations(ctx context.Context, s *ast.DropStmt, cascade bool) error {
	word := strings.ToLower(objectWord(s.RemoveType))
	var found []*catalog.Relation
	for _, o := range s.Objects {
		schema, name, err := x.qualified(list(o.GetList().GetItems()))
		if err != nil {
			return err
		}
		rel, err := x.find(ctx, schema, name)
		if pe, ok := err.(*pgerror.Error); ok && pe.Code == pgerrcode.InvalidSchemaName && s.MissingOk {
			x.notice(pgerrcode.InvalidSchemaName, "schema %q does not exist, skipping", schema)
			continue
		}
		if err != nil {
			return err
		}
		if rel == nil {
			full := name
			if schema != "" {
				full = schema + "." + name
			}
			if s.MissingOk {
				x.notice(pgerrcode.UndefinedTable, "%s %q does not exist, skipping", word, name)
				continue
			}
			return pgerror.New(pgerrcode.UndefinedTable, "%s %q does not exist", word, full)
		}
		if err := rightKind(rel, s.RemoveType, name, word); err != nil {
			return err
		}
		found = append(found, rel)
	}
	set := map[catalog.ID]bool{}
	for _, r := range found {
		set[r.ID()] = true
	}
	for _, r := range found {
		if err := x.dropRelation(ctx, r, cascade, set); err != nil {
			return err
		}
	}
	return nil
}

func rightKind(r *catalog.Relation, want ast.ObjectType, name, word string) error {
	got, hint := "", ""
	switch {
	case r.Virtual != "":
		return pgerror.New(pgerrcode.InsufficientPrivilege, "permission denied: %q is a system catalog", name)
	case r.Index != nil:
		got, hint = "INDEX", "Use DROP INDEX to remove an index."
	case r.Sequence != nil:
		got, hint = "SEQUENCE", "Use DROP SEQUENCE to remove a sequence."
	case r.Table != nil:
		got, hint = "TABLE", "Use DROP TABLE to remove a table."
	default:
		got, hint = "VIEW", "Use DROP VIEW to remove a view."
	}
	if got == objectWord(want) {
		return nil
	}
	article := "a"
	if word == "index" {
		article = "an"
	}
	return pgerror.New(pgerrcode.WrongObjectType, "%q is not %s %s", name, article, word).WithHint("%s", hint)
}

// dependents describes what else goes with a sequence: defaults that name it.
type dependent struct {
	table  *catalog.Table
	column catalog.ColumnID
}

func (x *Executor) dependents(ctx context.Context, seq catalog.ID) ([]dependent, error) {
	all, err := x.Session.Catalog().All(ctx)
	if err != nil {
		return nil, err
	}
	var out []dependent
	text := fmt.Sprintf("'%d'::regclass", seq)
	for _, d := range all {
		t, ok := d.(*catalog.Table)
		if !ok {
			continue
		}
		for _, c := range t.Columns {
			if strings.Contains(c.Default, text) || c.Identity != 0 && c.Sequence == seq {
				out = append(out, dependent{t, c.ID})
			}
		}
	}
	return out, nil
}

// dropRelation drops one relation. together holds what the same statement drops.
func (x *Executor) dropRelation(ctx context.Context, r *catalog.Relation, cascade bool, together map[catalog.ID]bool) error {
	cat := x.Session.Catalog()
	user := x.Session.User().ID
	switch {
	case r.Index != nil:
		t, err := cat.Table(ctx, r.Table.ID)
		if err != nil || t == nil || t.IndexByID(r.Index.ID) == nil {
			return err // an earlier part of the statement dropped it
		}
		if r.Index.Constraint {
			return pgerror.New(pgerrcode.DependentObjectsStillExist, "cannot drop index %s because constraint %s on table %s requires it", r.Index.Name, r.Index.Name, t.Name).
				WithHint("You can drop constraint %s on table %s instead.", r.Index.Name, t.Name)
		}
		return x.dropIndex(ctx, t, r.Index.ID)
	case r.Sequence != nil:
		if err := cat.CheckOwner(ctx, user, r.Sequence); err != nil {
			return err
		}
		return x.dropSequence(ctx, r.Sequence, cascade, together)
	case r.Table != nil:
		if err := cat.CheckOwner(ctx, user, r.Table); err != nil {
			return err
		}
		return x.dropTable(ctx, r.Table, cascade, together)
	}
	return pgerror.New(pgerrcode.FeatureNotSupported, "views are not supported yet")
}

func (x *Executor) dropTable(ctx context.Context, t *catalog.Table, cascade bool, together map[catalog.ID]bool) error {
	for _, c := range t.Columns {
		if c.Sequence == 0 {
			continue
		}
		s, err := x.Session.Catalog().Sequence(ctx, c.Sequence)
		if err != nil {
			return err
		}
		if s == nil || s.OwnerTable != t.ID {
			continue
		}
		// Defaults of other tables may use the sequence too.
		deps, err := x.dependents(ctx, s.ID)
		if err != nil {
			return err
		}
		for _, d := range deps {
			if d.table.ID == t.ID || together[d.table.ID] {
				continue
			}
			if !cascade {
				return pgerror.New(pgerrcode.DependentObjectsStillExist, "cannot drop table %s because other objects depend on it", t.Name).
					WithDetail("default value for column %s of table %s depends on sequence %s", d.table.ColumnByID(d.column).Name, d.table.Name, s.Name).
					WithHint("Use DROP ... CASCADE to drop the dependent objects too.")
			}
			if err := x.clearDefault(ctx, d); err != nil {
				return err
			}
		}
		if err := x.dropDescriptor(ctx, s); err != nil {
			return err
		}
	}
	return x.dropDescriptor(ctx, t)
}

func (x *Executor) clearDefault(ctx context.Context, d dependent) error {
	m, err := x.Session.Catalog().Mutable(ctx, d.table.ID)
	if err != nil {
		return err
	}
	t, ok := m.(*catalog.Table)
	if !ok {
		return nil
	}
	if c := t.ColumnByID(d.column); c != nil {
		c.Default, c.Sequence = "", 0
	}
	return x.Session.Catalog().Write(ctx, t)
}

func (x *Executor) dropSequence(ctx context.Context, s *catalog.Sequence, cascade bool, together map[catalog.ID]bool) error {
	deps, err := x.dependents(ctx, s.ID)
	if err != nil {
		return err
	}
	for _, d := range deps {
		if together[d.table.ID] {
			continue
		}
		c := d.table.ColumnByID(d.column)
		if s.Identity {
			return pgerror.New(pgerrcode.DependentObjectsStillExist, "cannot drop sequence %s because column %s of table %s requires it", s.Name, c.Name, d.table.Name).
				WithHint("You can drop column %s of table %s instead.", c.Name, d.table.Name)
		}
		if !cascade {
			return pgerror.New(pgerrcode.DependentObjectsStillExist, "cannot drop sequence %s because other objects depend on it", s.Name).
				WithDetail("default value for column %s of table %s depends on sequence %s", c.Name, d.table.Name, s.Name).
				WithHint("Use DROP ... CASCADE to drop the dependent objects too.")
		}
		x.notice(pgerrcode.SuccessfulCompletion, "drop cascades to default value for column %s of table %s", c.Name, d.table.Name)
		if err := x.clearDefault(ctx, d); err != nil {
			return err
		}
	}
	return x.dropDescriptor(ctx, s)
}

func (x *Executor) dropSchema(ctx context.Context, name string, missingOK, cascade bool) error {
	cat := x.Session.Catalog()
	if catalog.IsVirtualSchema(name) {
		return pgerror.New(pgerrcode.DependentObjectsStillExist, "cannot drop schema %s because it is required by the database system", name)
	}
	id, ok, err := cat.ResolveSchema(ctx, x.Session.Path().Database, name)
	if err != nil {
		return err
	}
	var s *catalog.Schema
	if ok {
		if s, err = cat.Schema(ctx, id); err != nil {
			return err
		}
	}
	if s == nil {
		if missingOK {
			x.notice(pgerrcode.InvalidSchemaName, "schema %q does not exist, skipping", name)
			return nil
		}
		return catalog.NoSchema(name)
	}
	if err := cat.CheckOwner(ctx, x.Session.User().ID, s); err != nil {
		return err
	}
	all, err := cat.All(ctx)
	if err != nil {
		return err
	}
	var members []catalog.Descriptor
	together := map[catalog.ID]bool{}
	for _, d := range all {
		if d.Head().Schema == id {
			members = append(members, d)
			together[d.Head().ID] = true
		}
	}
	if len(members) > 0 && !cascade {
		var lines []string
		for _, d := range members {
			lines = append(lines, fmt.Sprintf("%s %s.%s depends on schema %s", catalog.KindWord(d.Kind()), name, d.Head().Name, name))
		}
		sort.Strings(lines)
		return pgerror.New(pgerrcode.DependentObjectsStillExist, "cannot drop schema %s because other objects depend on it", name).
			WithDetail("%s", strings.Join(lines, "\n")).WithHint("Use DROP ... CASCADE to drop the dependent objects too.")
	}
	switch len(members) {
	case 0:
	case 1:
		x.notice(pgerrcode.SuccessfulCompletion, "drop cascades to %s %s.%s", catalog.KindWord(members[0].Kind()), name, members[0].Head().Name)
	default:
		x.notice(pgerrcode.SuccessfulCompletion, "drop cascades to %d other objects", len(members))
	}
	for _, d := range members {
		if seq, ok := d.(*catalog.Sequence); ok {
			if err := x.dropSequence(ctx, seq, true, together); err != nil {
				return err
			}
			continue
		}
		if err := x.dropDescriptor(ctx, d); err != nil {
			return err
		}
	}
	return x.dropDescriptor(ctx, s)
}

func (x *Executor) truncate(ctx context.Context, s *ast.TruncateStmt) error {
	cat := x.Session.Catalog()
	for _, n := range s.Relations {
		r := n.GetRangeVar()
		schema, name, err := x.rangeVar(r)
		if err != nil {
			return err
		}
		t, err := cat.ResolveTable(ctx, x.Session.Path(), schema, name, x.Session.Position(r.Location))
		if err != nil {
			return err
		}
		if err := cat.CheckPrivilege(ctx, x.Session.User().ID, t, catalog.PrivTruncate); err != nil {
			return err
		}
		if err := x.truncateTable(ctx, t); err != nil {
			return err
		}
		if !s.RestartSeqs {
			continue
		}
		for _, c := range t.Columns {
			if c.Sequence == 0 {
				continue
			}
			if err := x.restartSequence(ctx, c.Sequence); err != nil {
				return err
			}
		}
	}
	return nil
}

// truncateTable empties a table: a small one by deleting its rows in the transaction, a
// large one by taking it for itself and giving its indexes new storage.
func (x *Executor) truncateTable(ctx context.Context, t *catalog.Table) error {
	cat := x.Session.Catalog()
	tx := cat.Txn()
	if !cat.Created(t.ID) {
		rows, err := tx.Scan(ctx, t.IndexSpan(&t.Primary), truncateByDelete+1)
		if err != nil {
			return err
		}
		if len(rows) <= truncateByDelete {
			return x.deleteRows(ctx, t)
		}
	}
	m, err := x.mutableTable(ctx, t, true)
	if err != nil {
		return err
	}
	if err := settled(m); err != nil {
		return err
	}
	for _, ix := range m.DeletableIndexes() {
		s, err := x.newStorage(ctx)
		if err != nil {
			return err
		}
		m.Garbage = append(m.Garbage, ix.Storage)
		ix.Storage = s
	}
	cat.NeedsCleanup()
	return cat.Write(ctx, m)
}

// deleteRows deletes all entries of all indexes, in any state.
func (x *Executor) deleteRows(ctx context.Context, t *catalog.Table) error {
	tx := x.Session.Catalog().Txn()
	for _, ix := range t.DeletableIndexes() {
		span := t.IndexSpan(ix)
		for {
			rows, err := tx.Scan(ctx, span, rewriteChunk)
			if err != nil {
				return err
			}
			for _, r := range rows {
				if err := tx.Delete(ctx, r.Key, seen(r)); err != nil {
					return err
				}
			}
			if len(rows) < rewriteChunk {
				break
			}
			span.Key = rows[len(rows)-1].Key.Next()
		}
	}
	tx.Step()
	return nil
}
