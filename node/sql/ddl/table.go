package ddl

import (
	"context"
	"strings"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/jackc/pgerrcode"
)

// tableBuilder collects what one statement adds to a table.
type tableBuilder struct {
	x       *Executor
	t       *catalog.Table
	added   []string // names of new indexes, to be entered in the namespace
	newCols []*newColumn
}

func (x *Executor) createTable(ctx context.Context, s *ast.CreateStmt) error {
	if err := unsupportedTable(s); err != nil {
		return err
	}
	schema, name, err := x.rangeVar(s.Relation)
	if err != nil {
		return err
	}
	name = x.name(name)
	schemaID, _, err := x.creationSchema(ctx, schema)
	if err != nil {
		return x.at(err, s.Relation.Location)
	}
	cat := x.Session.Catalog()
	db := x.Session.Path().Database
	if _, used, err := cat.Lookup(ctx, catalog.Name{Class: catalog.ClassRelation, Database: db, Schema: schemaID, Name: name}); err != nil {
		return err
	} else if used {
		if s.IfNotExists {
			x.notice(pgerrcode.DuplicateTable, "relation %q already exists, skipping", name)
			return nil
		}
		return duplicate(pgerrcode.DuplicateTable, "relation", name)
	}
	id, err := cat.NewIDs(ctx, 1)
	if err != nil {
		return err
	}
	t := &catalog.Table{Persistence: catalog.Permanent, NextColumn: 1, NextStorage: 1}
	t.Header = catalog.Header{ID: id, Name: name, Database: db, Schema: schemaID, Owner: x.Session.User().ID}
	if s.Relation.Relpersistence == "u" {
		t.Persistence = catalog.Unlogged
	}
	if t.Options, err = storageOptions(s.Options); err != nil {
		return err
	}
	b := &tableBuilder{x: x, t: t}
	var constraints []*ast.Constraint
	for _, e := range s.TableElts {
		switch e := e.GetNode().(type) {
		case *ast.Node_ColumnDef:
			err = b.column(ctx, e.ColumnDef)
		case *ast.Node_Constraint:
			constraints = append(constraints, e.Constraint)
		case *ast.Node_TableLikeClause:
			err = b.like(ctx, e.TableLikeClause)
		default:
			err = pgerror.New(pgerrcode.FeatureNotSupported, "this table element is not supported yet")
		}
		if err != nil {
			return err
		}
	}
	for _, c := range s.Constraints {
		constraints = append(constraints, c.GetConstraint())
	}
	if err := b.constraints(ctx, constraints); err != nil {
		return err
	}
	return b.create(ctx)
}

func unsupportedTable(s *ast.CreateStmt) error {
	what := ""
	switch {
	case s.Relation.Relpersistence == "t":
		what = "temporary tables are not supported yet"
	case s.Partspec != nil || s.Partbound != nil:
		what = "partitioned tables are not supported yet"
	case len(s.InhRelations) > 0:
		what = "table inheritance is not supported yet"
	case s.OfTypename != nil:
		what = "typed tables are not supported yet"
	case s.AccessMethod != "" && s.AccessMethod != "heap":
		return pgerror.New(pgerrcode.UndefinedObject, "access method %q does not exist", s.AccessMethod)
	}
	if what != "" {
		return pgerror.New(pgerrcode.FeatureNotSupported, "%s", what)
	}
	return nil
}

// storageOptions keeps WITH (...) as pg_class.reloptions shows it.
func storageOptions(opts []*ast.Node) ([]string, error) {
	var out []string
	for _, o := range opts {
		d := o.GetDefElem()
		name := strings.ToLower(d.Defname)
		if d.Defnamespace != "" {
			name = d.Defnamespace + "." + name
		}
		if name == "oids" {
			if boolArg(d, true) {
				return nil, pgerror.New(pgerrcode.FeatureNotSupported, "tables declared WITH OIDS are not supported")
			}
			continue
		}
		if !knownOption(name) {
			return nil, pgerror.New(pgerrcode.InvalidParameterValue, "unrecognized parameter %q", d.Defname)
		}
		out = append(out, name+"="+defText(d))
	}
	return out, nil
}

func knownOption(n string) bool {
	n = strings.TrimPrefix(n, "toast.")
	switch n {
	case "fillfactor", "parallel_workers", "toast_tuple_target", "user_catalog_table", "vacuum_index_cleanup",
		"vacuum_truncate", "log_autovacuum_min_duration", "deduplicate_items":
		return true
	}
	return strings.HasPrefix(n, "autovacuum_")
}

// defText is a DefElem's argument as text.
func defText(d *ast.DefElem) string {
	switch a := d.GetArg().GetNode().(type) {
	case *ast.Node_String_:
		return a.String_.Sval
	case *ast.Node_Integer:
		return itoa(int64(a.Integer.Ival))
	case *ast.Node_Float:
		return a.Float.Fval
	case *ast.Node_Boolean:
		if a.Boolean.Boolval {
			return "true"
		}
		return "false"
	case *ast.Node_TypeName:
		return strings.Join(list(a.TypeName.Names), ".")
	case *ast.Node_AConst:
		return constText(a.AConst)
	case *ast.Node_List:
		return strings.Join(list(a.List.Items), ".")
	}
	return "true"
}

func boolArg(d *ast.DefElem, missing bool) bool {
	if d.Arg == nil {
		return missing
	}
	switch strings.ToLower(defText(d)) {
	case "true", "on", "1", "yes":
		return true
	}
	return false
}

// column adds a column; its own constraints follow in constraints.
func (b *tableBuilder) column(ctx context.Context, def *ast.ColumnDef) error {
	n, err := b.x.columnDef(b.t.Name, def)
	if err != nil {
		return err
	}
	if b.t.ColumnByName(n.col.Name) != nil {
		return pgerror.New(pgerrcode.DuplicateColumn, "column %q specified more than once", n.col.Name)
	}
	if int(b.t.NextColumn) > catalog.MaxColumns {
		return pgerror.New(pgerrcode.TooManyColumns, "tables can have at most %d columns", catalog.MaxColumns)
	}
	n.col.ID = b.t.NextColumn
	b.t.NextColumn++
	b.t.Columns = append(b.t.Columns, n.col)
	b.newCols = append(b.newCols, n)
	return nil
}

// like copies the columns of another table.
func (b *tableBuilder) like(ctx context.Context, l *ast.TableLikeClause) error {
	x := b.x
	schema, name, err := x.rangeVar(l.Relation)
	if err != nil {
		return err
	}
	src, err := x.Session.Catalog().ResolveTable(ctx, x.Session.Path(), schema, name, x.Session.Position(l.Relation.Location))
	if err != nil {
		return err
	}
	const (
		optDefaults = 1 << 3 // CREATE_TABLE_LIKE_DEFAULTS in parsenodes.h
		optIdentity = 1 << 5
		optIndexes  = 1 << 6
		optAll      = 0x7fffffff
	)
	if l.Options&(optIndexes|optIdentity) != 0 && l.Options != optAll && l.Options&optIndexes != 0 {
		return pgerror.New(pgerrcode.FeatureNotSupported, "LIKE INCLUDING INDEXES is not supported yet")
	}
	if l.Options == optAll {
		return pgerror.New(pgerrcode.FeatureNotSupported, "LIKE INCLUDING ALL is not supported yet").
			WithHint("Use LIKE with INCLUDING DEFAULTS, and create the constraints and indexes with statements of their own.")
	}
	for _, c := range src.VisibleColumns() {
		if b.t.ColumnByName(c.Name) != nil {
			return pgerror.New(pgerrcode.DuplicateColumn, "column %q specified more than once", c.Name)
		}
		n := catalog.Column{ID: b.t.NextColumn, Name: c.Name, Type: c.Type, NotNull: c.NotNull, State: catalog.StatePublic, Collation: c.Collation, StatTarget: -1}
		if uint32(l.Options)&optDefaults != 0 {
			n.Default = c.Default
		}
		b.t.NextColumn++
		b.t.Columns = append(b.t.Columns, n)
	}
	return nil
}

// constraints adds the constraints of the new columns and of the table: keys first, so that
// checks see the final columns.
func (b *tableBuilder) constraints(ctx context.Context, tableLevel []*ast.Constraint) error {
	for _, n := range b.newCols {
		for _, k := range n.keys {
			if err := b.key(ctx, k, []string{n.col.Name}); err != nil {
				return err
			}
		}
	}
	for _, c := range tableLevel {
		switch c.Contype {
		case ast.ConstrType_CONSTR_PRIMARY, ast.ConstrType_CONSTR_UNIQUE:
			if err := b.key(ctx, c, list(c.Keys)); err != nil {
				return err
			}
		}
	}
	if b.t.Primary.Storage == 0 {
		if err := b.rowID(ctx); err != nil {
			return err
		}
	}
	for i := range b.t.Indexes {
		setSuffix(b.t, &b.t.Indexes[i])
	}
	for _, n := range b.newCols {
		if n.dflt == nil {
			continue
		}
		if err := b.x.bindDefault(ctx, b.t.ColumnByID(n.col.ID), n.dflt); err != nil {
			return err
		}
	}
	for _, n := range b.newCols {
		for _, k := range n.checks {
			if err := b.check(ctx, k, n.col.Name); err != nil {
				return err
			}
		}
		for _, k := range n.foreign {
			return noForeignKeys(b.x, k)
		}
	}
	for _, c := range tableLevel {
		switch c.Contype {
		case ast.ConstrType_CONSTR_PRIMARY, ast.ConstrType_CONSTR_UNIQUE:
		case ast.ConstrType_CONSTR_CHECK:
			if err := b.check(ctx, c, ""); err != nil {
				return err
			}
		case ast.ConstrType_CONSTR_FOREIGN:
			return noForeignKeys(b.x, c)
		case ast.ConstrType_CONSTR_EXCLUSION:
			return b.x.at(pgerror.New(pgerrcode.FeatureNotSupported, "exclusion constraints are not supported yet"), c.Location)
		default:
			return b.x.at(pgerror.New(pgerrcode.FeatureNotSupported, "this kind of constraint is not supported yet"), c.Location)
		}
	}
	return nil
}

func noForeignKeys(x *Executor, c *ast.Constraint) error {
	return x.at(pgerror.New(pgerrcode.FeatureNotSupported, "foreign keys are not supported yet").
		WithHint("Leave the REFERENCES clause out; the column works without it."), c.Location)
}

func (x *Executor) bindDefault(ctx context.Context, c *catalog.Column, e *ast.Node) error {
	if k := e.GetAConst(); k != nil && k.Isnull {
		c.Default = ""
		return nil
	}
	sql, _, err := x.Exprs.BindDefault(ctx, e, c)
	if err != nil {
		return err
	}
	c.Default = sql
	return nil
}

// rowID gives the table its hidden column and primary index.
func (b *tableBuilder) rowID(ctx context.Context) error {
	storage, err := b.x.newStorage(ctx)
	if err != nil {
		return err
	}
	addRowID(b.t, storage)
	return nil
}

func addRowID(t *catalog.Table, storage uint32) {
	t.Columns = append(t.Columns, catalog.Column{ID: catalog.RowIDColumn, Name: catalog.RowIDName,
		Type: catalog.TypeRef{OID: types.OIDInt8, Mod: -1}, NotNull: true, Hidden: true, State: catalog.StatePublic, StatTarget: -1})
	t.Primary = catalog.Index{Unique: true, Primary: true, State: catalog.StatePublic, Storage: storage,
		Columns: []catalog.IndexColumn{{Column: catalog.RowIDColumn}}}
}

// newStorage returns a number for an index's key prefix that no data was ever written under,
// also not by a statement that failed.
func (x *Executor) newStorage(ctx context.Context) (uint32, error) {
	id, err := x.Session.Catalog().NewIDs(ctx, 1)
	return uint32(id), err
}

// key adds a primary key or unique constraint with its index.
func (b *tableBuilder) key(ctx context.Context, c *ast.Constraint, cols []string) error {
	x, t := b.x, b.t
	if c.Indexname != "" {
		return x.at(pgerror.New(pgerrcode.FeatureNotSupported, "ADD CONSTRAINT ... USING INDEX is not supported yet"), c.Location)
	}
	if c.Deferrable || c.Initdeferred {
		return x.at(pgerror.New(pgerrcode.FeatureNotSupported, "deferrable constraints are not supported yet"), c.Location)
	}
	if c.NullsNotDistinct {
		return x.at(pgerror.New(pgerrcode.FeatureNotSupported, "NULLS NOT DISTINCT is not supported yet"), c.Location)
	}
	primary := c.Contype == ast.ConstrType_CONSTR_PRIMARY
	if primary && t.Primary.ID != 0 {
		return x.at(pgerror.New(pgerrcode.InvalidTableDefinition, "multiple primary keys for table %q are not allowed", t.Name), c.Location)
	}
	if len(cols) > catalog.MaxIndexColumns {
		return pgerror.New(pgerrcode.TooManyColumns, "cannot use more than %d columns in an index", catalog.MaxIndexColumns)
	}
	ix := catalog.Index{Unique: true, Primary: primary, Constraint: true, State: catalog.StatePublic}
	var ids []catalog.ColumnID
	for _, name := range cols {
		col := t.ColumnByName(name)
		if col == nil {
			return x.at(pgerror.New(pgerrcode.UndefinedColumn, "column %q named in key does not exist", name), c.Location)
		}
		if ix.HasColumn(col.ID) {
			word := "unique"
			if primary {
				word = "primary key"
			}
			return x.at(pgerror.New(pgerrcode.DuplicateColumn, "column %q appears twice in %s constraint", name, word), c.Location)
		}
		if err := indexable(col.Type.OID); err != nil {
			return err
		}
		if primary {
			col.NotNull = true
		}
		ix.Columns = append(ix.Columns, catalog.IndexColumn{Column: col.ID})
		ids = append(ids, col.ID)
	}
	for _, name := range list(c.Including) {
		col := t.ColumnByName(name)
		if col == nil {
			return x.at(pgerror.New(pgerrcode.UndefinedColumn, "column %q named in key does not exist", name), c.Location)
		}
		if !primary { // the primary index holds every column
			ix.Stored = append(ix.Stored, col.ID)
		}
	}
	var err error
	if ix.Options, err = storageOptions(c.Options); err != nil {
		return err
	}
	if ix.Name = c.Conname; ix.Name == "" {
		name2, label := strings.Join(cols, "_"), "key"
		if primary {
			name2, label = "", "pkey"
		}
		if ix.Name, err = x.freeName(ctx, t.Database, t.Schema, t.Name, name2, label, b.taken); err != nil {
			return err
		}
	} else {
		ix.Name = x.name(ix.Name)
		if t.ConstraintByName(ix.Name) != nil {
			return duplicateConstraint(ix.Name, t.Name)
		}
	}
	id, err := x.Session.Catalog().NewIDs(ctx, 3)
	if err != nil {
		return err
	}
	ix.ID, ix.Storage = id, uint32(id+2)
	kind := catalog.UniqueConstraint
	if primary {
		kind = catalog.PrimaryKeyConstraint
		t.Primary = ix
	} else {
		t.Indexes = append(t.Indexes, ix)
	}
	t.Constraints = append(t.Constraints, catalog.Constraint{ID: id + 1, Name: ix.Name, Kind: kind, Columns: ids, Index: id,
		State: catalog.StatePublic, Validated: true})
	b.added = append(b.added, ix.Name)
	return nil
}

func duplicateConstraint(name, table string) error {
	return pgerror.New(pgerrcode.DuplicateObject, "constraint %q for relation %q already exists", name, table)
}

// indexable refuses types without an order, as PostgreSQL does for btree.
func indexable(oid types.OID) error {
	t, ok := types.Lookup(oid)
	if !ok {
		return pgerror.New(pgerrcode.UndefinedObject, "type with OID %d does not exist", oid)
	}
	switch t.Name {
	case "json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle", "xid", "cid", "aclitem", "txid_snapshot", "pg_snapshot":
		return pgerror.New(pgerrcode.UndefinedObject, "data type %s has no default operator class for access method \"btree\"", types.FormatType(oid, -1)).
			WithHint("You must specify an operator class for the index or define a default operator class for the data type.")
	}
	return nil
}

func (b *tableBuilder) taken(name string) bool {
	if name == b.t.Name || b.t.ConstraintByName(name) != nil {
		return true
	}
	for _, n := range b.added {
		if n == name {
			return true
		}
	}
	return false
}

// setSuffix sets which primary key columns an index's entries carry besides its own.
func setSuffix(t *catalog.Table, ix *catalog.Index) {
	ix.Suffix = nil
	for _, c := range t.Primary.Columns {
		if !ix.HasColumn(c.Column) {
			ix.Suffix = append(ix.Suffix, c.Column)
		}
	}
	var stored []catalog.ColumnID
	for _, id := range ix.Stored { // a suffix column needs no second copy
		if !contains(ix.Suffix, id) && !ix.HasColumn(id) {
			stored = append(stored, id)
		}
	}
	ix.Stored = stored
}

func contains(ids []catalog.ColumnID, id catalog.ColumnID) bool {
	for _, x := range ids {
		if x == id {
			return true
		}
	}
	return false
}

// check adds a check constraint. column is set for a column's own.
func (b *tableBuilder) check(ctx context.Context, c *ast.Constraint, column string) error {
	x, t := b.x, b.t
	sql, cols, err := x.Exprs.BindCheck(ctx, c.RawExpr, t.Clone())
	if err != nil {
		return err
	}
	name := c.Conname
	if name == "" {
		if column == "" && len(cols) == 1 {
			column = t.ColumnByID(cols[0]).Name
		}
		for i := 0; ; i++ {
			label := "check"
			if i > 0 {
				label += itoa(int64(i))
			}
			if name = makeName(t.Name, column, label); t.ConstraintByName(name) == nil {
				break
			}
		}
	} else if t.ConstraintByName(name) != nil {
		return pgerror.New(pgerrcode.DuplicateObject, "check constraint %q already exists", name)
	}
	id, err := x.Session.Catalog().NewIDs(ctx, 1)
	if err != nil {
		return err
	}
	t.Constraints = append(t.Constraints, catalog.Constraint{ID: id, Name: x.name(name), Kind: catalog.CheckConstraint,
		Columns: cols, Expr: sql, State: catalog.StatePublic, Validated: !c.SkipValidation, NoInherit: c.IsNoInherit})
	return nil
}

// create stores a new table with the sequences and index names that belong to it.
func (b *tableBuilder) create(ctx context.Context) error {
	cat, t := b.x.Session.Catalog(), b.t
	for _, n := range b.newCols {
		if err := b.x.attachSequence(ctx, t, n, t.ColumnByID(n.col.ID)); err != nil {
			return err
		}
	}
	ok, err := cat.Create(ctx, t)
	if err != nil {
		return err
	}
	if !ok {
		return duplicate(pgerrcode.DuplicateTable, "relation", t.Name)
	}
	return b.enterNames(ctx)
}

// enterNames puts the new indexes' names into the namespace.
func (b *tableBuilder) enterNames(ctx context.Context) error {
	for _, name := range b.added {
		ok, err := b.x.Session.Catalog().AddName(ctx,
			catalog.Name{Class: catalog.ClassRelation, Database: b.t.Database, Schema: b.t.Schema, Name: name},
			catalog.Entry{Kind: catalog.KindIndex, ID: b.t.IndexByName(name).ID, Table: b.t.ID})
		if err != nil {
			return err
		}
		if !ok {
			return duplicate(pgerrcode.DuplicateTable, "relation", name)
		}
	}
	b.added = nil
	return nil
}
