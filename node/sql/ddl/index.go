package ddl

import (
	"context"
	"strings"
	"time"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/jackc/pgerrcode"
)

func (x *Executor) createIndex(ctx context.Context, s *ast.IndexStmt) error {
	cat := x.Session.Catalog()
	schema, name, err := x.rangeVar(s.Relation)
	if err != nil {
		return err
	}
	t, err := cat.ResolveTable(ctx, x.Session.Path(), schema, name, x.Session.Position(s.Relation.Location))
	if err != nil {
		return err
	}
	if err := cat.CheckOwner(ctx, x.Session.User().ID, t); err != nil {
		return err
	}
	ix, err := x.indexDef(ctx, t, s)
	if err != nil || ix == nil {
		return err
	}
	return x.addIndex(ctx, t, ix, nil)
}

// indexDef reads CREATE INDEX; nil if the index exists and that is fine.
func (x *Executor) indexDef(ctx context.Context, t *catalog.Table, s *ast.IndexStmt) (*catalog.Index, error) {
	what := ""
	switch {
	case s.AccessMethod != "" && s.AccessMethod != "btree":
		switch s.AccessMethod {
		case "hash", "gist", "gin", "spgist", "brin":
			what = "index access method \"" + s.AccessMethod + "\" is not supported yet"
		default:
			return nil, pgerror.New(pgerrcode.UndefinedObject, "access method %q does not exist", s.AccessMethod)
		}
	case s.WhereClause != nil:
		what = "partial indexes are not supported yet"
	case s.NullsNotDistinct:
		what = "NULLS NOT DISTINCT is not supported yet"
	}
	if what != "" {
		return nil, pgerror.New(pgerrcode.FeatureNotSupported, "%s", what)
	}
	ix := &catalog.Index{Unique: s.Unique, State: catalog.StatePublic}
	var err error
	if ix.Options, err = storageOptions(s.Options); err != nil {
		return nil, err
	}
	var cols []string
	if len(s.IndexParams) > catalog.MaxIndexColumns {
		return nil, pgerror.New(pgerrcode.TooManyColumns, "cannot use more than %d columns in an index", catalog.MaxIndexColumns)
	}
	for _, p := range s.IndexParams {
		e := p.GetIndexElem()
		if e.Expr != nil {
			return nil, pgerror.New(pgerrcode.FeatureNotSupported, "indexes on expressions are not supported yet")
		}
		c := t.ColumnByName(e.Name)
		if c == nil {
			return nil, pgerror.New(pgerrcode.UndefinedColumn, "column %q does not exist", e.Name)
		}
		if err := indexable(c.Type.OID); err != nil {
			return nil, err
		}
		ic := catalog.IndexColumn{Column: c.ID}
		if e.Ordering == ast.SortByDir_SORTBY_DESC {
			ic.Dir, ic.NullsFirst = catalog.Descending, true
		}
		switch e.NullsOrdering {
		case ast.SortByNulls_SORTBY_NULLS_FIRST:
			ic.NullsFirst = true
		case ast.SortByNulls_SORTBY_NULLS_LAST:
			ic.NullsFirst = false
		}
		if len(e.Opclass) > 0 {
			// With collation C every pattern operator class orders as the default one does.
			oc := list(e.Opclass)
			ic.OpClass = oc[len(oc)-1]
			if !strings.HasSuffix(ic.OpClass, "_ops") || strings.Contains(ic.OpClass, "gin") || strings.Contains(ic.OpClass, "gist") {
				return nil, pgerror.New(pgerrcode.UndefinedObject, "operator class %q does not exist for access method \"btree\"", ic.OpClass)
			}
		}
		if !ix.HasColumn(c.ID) { // a column twice orders nothing more
			ix.Columns = append(ix.Columns, ic)
		}
		cols = append(cols, c.Name)
	}
	for _, p := range s.IndexIncludingParams {
		c := t.ColumnByName(p.GetIndexElem().GetName())
		if c == nil {
			return nil, pgerror.New(pgerrcode.UndefinedColumn, "column %q does not exist", p.GetIndexElem().GetName())
		}
		ix.Stored = append(ix.Stored, c.ID)
	}
	setSuffix(t, ix)
	if ix.Name = s.Idxname; ix.Name == "" {
		ix.Name, err = x.freeName(ctx, t.Database, t.Schema, t.Name, strings.Join(cols, "_"), "idx", nil)
		if err != nil {
			return nil, err
		}
	} else {
		ix.Name = x.name(ix.Name)
		_, used, err := x.Session.Catalog().Lookup(ctx, catalog.Name{Class: catalog.ClassRelation, Database: t.Database, Schema: t.Schema, Name: ix.Name})
		if err != nil {
			return nil, err
		}
		if used {
			if s.IfNotExists {
				x.notice(pgerrcode.DuplicateTable, "relation %q already exists, skipping", ix.Name)
				return nil, nil
			}
			return nil, duplicate(pgerrcode.DuplicateTable, "relation", ix.Name)
		}
	}
	id, err := x.Session.Catalog().NewIDs(ctx, 2)
	if err != nil {
		return nil, err
	}
	ix.ID, ix.Storage = id, uint32(id+1)
	return ix, nil
}

// addIndex adds a secondary index, and its constraint if there is one.
func (x *Executor) addIndex(ctx context.Context, t *catalog.Table, ix *catalog.Index, con *catalog.Constraint) error {
	cat := x.Session.Catalog()
	if x.Session.InBlock() || cat.Created(t.ID) {
		m, err := x.mutableTable(ctx, t, true)
		if err != nil {
			return err
		}
		m.Indexes = append(m.Indexes, *ix)
		b := &tableBuilder{x: x, t: m, added: []string{ix.Name}}
		if con != nil {
			m.Constraints = append(m.Constraints, *con)
		}
		if err := x.rewrite(ctx, &rewrite{from: m, to: m, indexes: []*catalog.Index{&m.Indexes[len(m.Indexes)-1]}, fresh: true}); err != nil {
			return err
		}
		if err := cat.Write(ctx, m); err != nil {
			return err
		}
		return b.enterNames(ctx)
	}
	return x.buildOnline(ctx, t.ID, ix, con)
}

// buildOnline adds an index while traffic runs (SAFETY S27): delete-only, write-only,
// backfill, public, each its own version, published once no node uses the version before
// the last. The client's transaction takes no part in it.
func (x *Executor) buildOnline(ctx context.Context, table catalog.ID, ix *catalog.Index, con *catalog.Constraint) error {
	m := x.Session.Catalog().Manager()
	x.Session.Catalog().Reset() // its pins would hold the changes up
	ix.State = catalog.StateDeleteOnly
	err := m.Run(ctx, "create index", func(ctx context.Context, c *catalog.Collection) error {
		t, err := mutable(ctx, c, table)
		if err != nil {
			return err
		}
		setSuffix(t, ix) // another ADD PRIMARY KEY may have come first
		t.Indexes = append(t.Indexes, *ix)
		ok, err := c.AddName(ctx, catalog.Name{Class: catalog.ClassRelation, Database: t.Database, Schema: t.Schema, Name: ix.Name},
			catalog.Entry{Kind: catalog.KindIndex, ID: ix.ID, Table: t.ID})
		if err != nil {
			return err
		}
		if !ok {
			return duplicate(pgerrcode.DuplicateTable, "relation", ix.Name)
		}
		return c.Write(ctx, t)
	})
	if err != nil {
		return err
	}
	if err = x.finishOnline(ctx, m, table, ix, con); err == nil {
		return nil
	}
	// Take the half-built index away, whatever becomes of the client.
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if uerr := x.removeIndex(undo, m, table, ix.ID); uerr != nil {
		x.Session.Notice("WARNING", pgerrcode.Warning, "the half-built index \""+ix.Name+"\" could not be removed: "+uerr.Error()+"; drop it")
	}
	return err
}

// undoLimit bounds how long the removal of a half-built index may take.
const undoLimit = 2 * time.Minute

func (x *Executor) finishOnline(ctx context.Context, m *catalog.Manager, table catalog.ID, ix *catalog.Index, con *catalog.Constraint) error {
	var t *catalog.Table
	for _, state := range []catalog.State{catalog.StateWriteOnly, catalog.StateBackfill, catalog.StatePublic} {
		err := m.Run(ctx, "create index", func(ctx context.Context, c *catalog.Collection) error {
			var err error
			// Mutable returns once every node has left the version before the present one.
			if t, err = mutable(ctx, c, table); err != nil {
				return err
			}
			i := t.IndexByID(ix.ID)
			if i == nil {
				return pgerror.New(pgerrcode.UndefinedObject, "index %q was dropped while it was built", ix.Name)
			}
			i.State = state
			if state == catalog.StatePublic && con != nil {
				t.Constraints = append(t.Constraints, *con)
			}
			return c.Write(ctx, t)
		})
		if err != nil {
			return err
		}
		if state == catalog.StateBackfill {
			// All nodes write entries of the index now: what the pass does not see, they add.
			err := x.rewrite(ctx, &rewrite{from: t, to: t, indexes: []*catalog.Index{t.IndexByID(ix.ID)}, separate: true, parallel: true})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// mutable is Collection.Mutable for a table that must exist.
func mutable(ctx context.Context, c *catalog.Collection, id catalog.ID) (*catalog.Table, error) {
	d, err := c.Mutable(ctx, id)
	if err != nil {
		return nil, err
	}
	t, ok := d.(*catalog.Table)
	if !ok {
		return nil, pgerror.New(pgerrcode.UndefinedTable, "the table was dropped")
	}
	return t, nil
}

// removeIndex drops a secondary index online: write-only first, so that a node with the
// version before still reads a complete index, then gone.
func (x *Executor) removeIndex(ctx context.Context, m *catalog.Manager, table, index catalog.ID) error {
	for _, last := range []bool{false, true} {
		err := m.Run(ctx, "drop index", func(ctx context.Context, c *catalog.Collection) error {
			t, err := mutable(ctx, c, table)
			if err != nil {
				return err
			}
			ix := t.IndexByID(index)
			if ix == nil {
				return nil
			}
			if !last {
				if ix.State == catalog.StatePublic {
					ix.State = catalog.StateWriteOnly
				}
				// The constraint stays in force until the index is gone.
				return c.Write(ctx, t)
			}
			n := catalog.NameOf(t)
			n.Name = ix.Name
			if err := c.RemoveName(ctx, n); err != nil {
				return err
			}
			deleteIndex(t, index)
			c.NeedsCleanup()
			return c.Write(ctx, t)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// deleteIndex takes an index and its constraint out of a table.
func deleteIndex(t *catalog.Table, id catalog.ID) {
	for i := range t.Indexes {
		if t.Indexes[i].ID == id {
			t.Garbage = append(t.Garbage, t.Indexes[i].Storage)
			t.Indexes = append(t.Indexes[:i], t.Indexes[i+1:]...)
			break
		}
	}
	for i := range t.Constraints {
		if c := t.Constraints[i]; c.Index == id && c.Kind != catalog.ForeignKeyConstraint {
			t.Constraints = append(t.Constraints[:i], t.Constraints[i+1:]...)
			break
		}
	}
}

// dropIndex drops an index of a table, in the transaction or online.
func (x *Executor) dropIndex(ctx context.Context, t *catalog.Table, index catalog.ID) error {
	cat := x.Session.Catalog()
	if err := cat.CheckOwner(ctx, x.Session.User().ID, t); err != nil {
		return err
	}
	if err := catalog.DropComments(ctx, cat.Txn(), catalog.ClassOIDRelation, uint32(index)); err != nil {
		return err
	}
	if !x.Session.InBlock() && !cat.Created(t.ID) {
		cat.Reset()
		return x.removeIndex(ctx, cat.Manager(), t.ID, index)
	}
	m, err := x.mutableTable(ctx, t, true)
	if err != nil {
		return err
	}
	ix := m.IndexByID(index)
	if ix == nil {
		return &catalog.RestartError{Reason: "an index was dropped"}
	}
	n := catalog.NameOf(m)
	n.Name = ix.Name
	if err := cat.RemoveName(ctx, n); err != nil {
		return err
	}
	deleteIndex(m, index)
	cat.NeedsCleanup()
	return cat.Write(ctx, m)
}
