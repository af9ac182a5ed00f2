package ddl

import (
	"context"
	"slices"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/jackc/pgerrcode"
)

// alteration is one ALTER TABLE: its commands change t; what they ask of the rows is
// collected and done in one pass at the end.
type alteration struct {
	tableBuilder
	old     *catalog.Table
	notNull []catalog.ColumnID                                            // to be verified
	checks  []string                                                      // names of checks to be verified
	perRow  map[catalog.ColumnID]bool                                     // added columns whose default differs by row
	missing map[catalog.ColumnID]types.Datum                              // added columns' constant values
	convert map[catalog.ColumnID]func([]types.Datum) (types.Datum, error) // changed types
	primary bool                                                          // the primary index is built anew
	drops   []catalog.Descriptor                                          // owned sequences to drop
	fresh   []uint32                                                      // storages written by this statement
}

func (x *Executor) alterTable(ctx context.Context, s *ast.AlterTableStmt) error {
	schema, name, err := x.rangeVar(s.Relation)
	if err != nil {
		return err
	}
	rel, err := x.find(ctx, schema, name)
	if err != nil {
		return err
	}
	if rel == nil {
		if s.MissingOk {
			x.notice(pgerrcode.UndefinedTable, "relation %q does not exist, skipping", name)
			return nil
		}
		return catalog.NoRelation(schema, name).At(x.Session.Position(s.Relation.Location))
	}
	switch {
	case rel.Sequence != nil || rel.Index != nil:
		return x.alterOther(ctx, rel, s)
	case rel.Table == nil:
		return pgerror.New(pgerrcode.WrongObjectType, "%q is not a table", name)
	case s.Objtype == ast.ObjectType_OBJECT_INDEX:
		return pgerror.New(pgerrcode.WrongObjectType, "%q is not an index", name)
	case s.Objtype == ast.ObjectType_OBJECT_SEQUENCE:
		return pgerror.New(pgerrcode.WrongObjectType, "%q is not a sequence", name)
	}
	if done, err := x.alterOnline(ctx, rel.Table, s); done || err != nil {
		return err
	}
	exclusive := x.Session.InBlock()
	for _, c := range s.Cmds {
		exclusive = exclusive || touchesRows(c.GetAlterTableCmd())
	}
	t, err := x.mutableTable(ctx, rel.Table, exclusive)
	if err != nil {
		return err
	}
	if exclusive {
		if err := settled(t); err != nil {
			return err
		}
	}
	a := &alteration{tableBuilder: tableBuilder{x: x, t: t}, old: t.Clone(), perRow: map[catalog.ColumnID]bool{},
		missing: map[catalog.ColumnID]types.Datum{}, convert: map[catalog.ColumnID]func([]types.Datum) (types.Datum, error){}}
	// PostgreSQL's passes: drops, type changes, added columns, then the rest.
	for pass := range 4 {
		for _, c := range s.Cmds {
			if cmd := c.GetAlterTableCmd(); alterPass(cmd.Subtype) == pass {
				if err := a.command(ctx, cmd); err != nil {
					return err
				}
			}
		}
	}
	return a.finish(ctx)
}

// settled refuses a table of which an index is being built or removed: that work reads the
// rows where they are now.
func settled(t *catalog.Table) error {
	for _, ix := range t.Indexes {
		if ix.State != catalog.StatePublic {
			return pgerror.New(pgerrcode.ObjectInUse, "index %q of table %q is being built or removed", ix.Name, t.Name).
				WithHint("Wait until that is done. If its statement was interrupted, drop the index.")
		}
	}
	return nil
}

// alterOnline runs the commands that need no exclusive use although they touch all rows.
func (x *Executor) alterOnline(ctx context.Context, t *catalog.Table, s *ast.AlterTableStmt) (bool, error) {
	cat := x.Session.Catalog()
	if len(s.Cmds) != 1 || x.Session.InBlock() || cat.Created(t.ID) {
		return false, nil
	}
	cmd := s.Cmds[0].GetAlterTableCmd()
	if err := cat.CheckOwner(ctx, x.Session.User().ID, t); err != nil {
		return false, err
	}
	switch cmd.Subtype {
	case ast.AlterTableType_AT_AddConstraint:
		c := cmd.Def.GetConstraint()
		if c.Contype != ast.ConstrType_CONSTR_UNIQUE {
			return false, nil
		}
		scratch := t.Clone()
		b := &tableBuilder{x: x, t: scratch}
		if err := b.key(ctx, c, list(c.Keys)); err != nil {
			return true, err
		}
		con := scratch.Constraints[len(scratch.Constraints)-1]
		return true, x.buildOnline(ctx, t.ID, &scratch.Indexes[len(scratch.Indexes)-1], &con)
	case ast.AlterTableType_AT_DropConstraint:
		con := t.ConstraintByName(cmd.Name)
		if con == nil || con.Kind != catalog.UniqueConstraint {
			return false, nil
		}
		cat.Reset()
		return true, x.removeIndex(ctx, cat.Manager(), t.ID, con.Index)
	}
	return false, nil
}

// touchesRows reports whether a command needs the table for itself. The others tolerate
// sessions that still have the version before.
func touchesRows(c *ast.AlterTableCmd) bool {
	switch c.Subtype {
	case ast.AlterTableType_AT_ColumnDefault, ast.AlterTableType_AT_DropNotNull, ast.AlterTableType_AT_SetStatistics,
		ast.AlterTableType_AT_SetStorage, ast.AlterTableType_AT_SetOptions, ast.AlterTableType_AT_ResetOptions,
		ast.AlterTableType_AT_SetRelOptions, ast.AlterTableType_AT_ResetRelOptions, ast.AlterTableType_AT_ChangeOwner,
		ast.AlterTableType_AT_ClusterOn, ast.AlterTableType_AT_DropCluster, ast.AlterTableType_AT_SetLogged,
		ast.AlterTableType_AT_SetUnLogged, ast.AlterTableType_AT_EnableTrigAll, ast.AlterTableType_AT_DisableTrigAll,
		ast.AlterTableType_AT_EnableTrigUser, ast.AlterTableType_AT_DisableTrigUser, ast.AlterTableType_AT_ReplicaIdentity:
		return false
	}
	return true
}

func alterPass(t ast.AlterTableType) int {
	switch t {
	case ast.AlterTableType_AT_DropColumn, ast.AlterTableType_AT_DropConstraint, ast.AlterTableType_AT_DropNotNull, ast.AlterTableType_AT_DropIdentity:
		return 0
	case ast.AlterTableType_AT_AlterColumnType:
		return 1
	case ast.AlterTableType_AT_AddColumn:
		return 2
	}
	return 3
}

func (a *alteration) column(name string) (*catalog.Column, error) {
	c := a.t.ColumnByName(name)
	if c == nil {
		return nil, pgerror.New(pgerrcode.UndefinedColumn, "column %q of relation %q does not exist", name, a.t.Name)
	}
	return c, nil
}

func (a *alteration) command(ctx context.Context, cmd *ast.AlterTableCmd) error {
	x, t := a.x, a.t
	switch cmd.Subtype {
	case ast.AlterTableType_AT_AddColumn:
		return a.addColumn(ctx, cmd)
	case ast.AlterTableType_AT_DropColumn:
		return a.dropColumn(ctx, cmd)
	case ast.AlterTableType_AT_AlterColumnType:
		return a.columnType(ctx, cmd)
	case ast.AlterTableType_AT_AddConstraint:
		return a.addConstraint(ctx, cmd.Def.GetConstraint())
	case ast.AlterTableType_AT_DropConstraint:
		return a.dropConstraint(ctx, cmd)
	case ast.AlterTableType_AT_ValidateConstraint:
		c := t.ConstraintByName(cmd.Name)
		if c == nil {
			return noConstraint(cmd.Name, t.Name)
		}
		if !c.Validated {
			c.Validated = true
			a.checks = append(a.checks, c.Name)
		}
		return nil
	case ast.AlterTableType_AT_ColumnDefault:
		c, err := a.column(cmd.Name)
		if err != nil {
			return err
		}
		if c.Identity != catalog.NoIdentity {
			return pgerror.New(pgerrcode.SyntaxError, "column %q of relation %q is an identity column", c.Name, t.Name)
		}
		if cmd.Def == nil {
			c.Default = ""
			return nil
		}
		return x.bindDefault(ctx, c, cmd.Def)
	case ast.AlterTableType_AT_SetNotNull:
		c, err := a.column(cmd.Name)
		if err != nil || c.NotNull {
			return err
		}
		c.NotNull = true
		a.notNull = append(a.notNull, c.ID)
		return nil
	case ast.AlterTableType_AT_DropNotNull:
		c, err := a.column(cmd.Name)
		if err != nil {
			return err
		}
		if t.Primary.HasColumn(c.ID) {
			return pgerror.New(pgerrcode.InvalidTableDefinition, "column %q is in a primary key", c.Name)
		}
		if c.Identity != catalog.NoIdentity {
			return pgerror.New(pgerrcode.SyntaxError, "column %q of relation %q is an identity column", c.Name, t.Name)
		}
		c.NotNull, c.NullsUnproven = false, false
		return nil
	case ast.AlterTableType_AT_AddIdentity, ast.AlterTableType_AT_SetIdentity, ast.AlterTableType_AT_DropIdentity:
		return a.identity(ctx, cmd)
	case ast.AlterTableType_AT_ChangeOwner:
		r, err := x.role(ctx, cmd.Newowner)
		if err != nil {
			return err
		}
		t.Owner = r.ID
		return nil
	case ast.AlterTableType_AT_SetStatistics:
		c, err := a.column(cmd.Name)
		if err == nil && cmd.Def.GetInteger() != nil {
			c.StatTarget = cmd.Def.GetInteger().Ival
		}
		return err
	case ast.AlterTableType_AT_SetRelOptions, ast.AlterTableType_AT_ResetRelOptions:
		return a.relOptions(cmd)
	case ast.AlterTableType_AT_SetLogged:
		t.Persistence = catalog.Permanent
		return nil
	case ast.AlterTableType_AT_SetUnLogged:
		t.Persistence = catalog.Unlogged
		return nil
	case ast.AlterTableType_AT_SetStorage, ast.AlterTableType_AT_SetOptions, ast.AlterTableType_AT_ResetOptions:
		_, err := a.column(cmd.Name)
		return err
	case ast.AlterTableType_AT_ClusterOn, ast.AlterTableType_AT_DropCluster, ast.AlterTableType_AT_SetTableSpace,
		ast.AlterTableType_AT_EnableTrigAll, ast.AlterTableType_AT_DisableTrigAll, ast.AlterTableType_AT_EnableTrigUser,
		ast.AlterTableType_AT_DisableTrigUser, ast.AlterTableType_AT_ReplicaIdentity:
		return nil // nothing here that they could change
	}
	return pgerror.New(pgerrcode.FeatureNotSupported, "this form of ALTER TABLE is not supported yet")
}

func noConstraint(name, table string) error {
	return pgerror.New(pgerrcode.UndefinedObject, "constraint %q of relation %q does not exist", name, table)
}

func (a *alteration) relOptions(cmd *ast.AlterTableCmd) error {
	items := cmd.Def.GetList().GetItems()
	set, err := storageOptions(items)
	if err != nil {
		return err
	}
	for i, o := range items {
		name := o.GetDefElem().Defname
		a.t.Options = slices.DeleteFunc(a.t.Options, func(s string) bool { return len(s) > len(name) && s[:len(name)+1] == name+"=" })
		if cmd.Subtype == ast.AlterTableType_AT_SetRelOptions && i < len(set) {
			a.t.Options = append(a.t.Options, set[i])
		}
	}
	return nil
}

func (a *alteration) addColumn(ctx context.Context, cmd *ast.AlterTableCmd) error {
	x, t := a.x, a.t
	def := cmd.Def.GetColumnDef()
	if c := t.ColumnByName(def.Colname); c != nil {
		if cmd.MissingOk {
			x.notice(pgerrcode.DuplicateColumn, "column %q of relation %q already exists, skipping", c.Name, t.Name)
			return nil
		}
		return pgerror.New(pgerrcode.DuplicateColumn, "column %q of relation %q already exists", c.Name, t.Name)
	}
	// The hidden column stays last.
	var hidden []catalog.Column
	if n := len(t.Columns); n > 0 && t.Columns[n-1].Hidden {
		hidden = append(hidden, t.Columns[n-1])
		t.Columns = t.Columns[:n-1]
	}
	a.newCols = nil
	if err := a.tableBuilder.column(ctx, def); err != nil {
		return err
	}
	t.Columns = append(t.Columns, hidden...)
	n := a.newCols[0]
	id := n.col.ID
	if err := x.attachSequence(ctx, t, n, t.ColumnByID(id)); err != nil {
		return err
	}
	if n.dflt != nil {
		if err := x.bindDefault(ctx, t.ColumnByID(id), n.dflt); err != nil {
			return err
		}
	}
	c := t.ColumnByID(id)
	switch {
	case c.Identity != catalog.NoIdentity || n.serial != 0:
		a.perRow[id] = true
	case c.Default != "":
		// On a copy: what the binder remembers for a table must not outlive this state of it.
		v, constant, err := x.Exprs.EvalDefault(ctx, t.Clone(), c)
		if err != nil {
			return err
		}
		switch {
		case !constant:
			a.perRow[id] = true
		case !v.IsNull():
			c.HasMissing, c.Missing = true, types.Text(c.Type.OID, v, nil)
			a.missing[id] = v
		case c.NotNull:
			a.notNull = append(a.notNull, id)
		}
	case c.NotNull:
		a.notNull = append(a.notNull, id)
	}
	if a.perRow[id] {
		a.primary = true
	}
	for _, k := range n.keys {
		if err := a.addKey(ctx, k, []string{c.Name}); err != nil {
			return err
		}
	}
	for _, k := range n.checks {
		if err := a.addCheck(ctx, k, c.Name); err != nil {
			return err
		}
	}
	for _, k := range n.foreign {
		return noForeignKeys(x, k)
	}
	a.newCols = nil
	return nil
}

func (a *alteration) addConstraint(ctx context.Context, c *ast.Constraint) error {
	switch c.Contype {
	case ast.ConstrType_CONSTR_PRIMARY, ast.ConstrType_CONSTR_UNIQUE:
		return a.addKey(ctx, c, list(c.Keys))
	case ast.ConstrType_CONSTR_CHECK:
		return a.addCheck(ctx, c, "")
	case ast.ConstrType_CONSTR_FOREIGN:
		return noForeignKeys(a.x, c)
	}
	return a.x.at(pgerror.New(pgerrcode.FeatureNotSupported, "this kind of constraint is not supported yet"), c.Location)
}

func (a *alteration) addCheck(ctx context.Context, c *ast.Constraint, column string) error {
	n := len(a.t.Constraints)
	if err := a.check(ctx, c, column); err != nil {
		return err
	}
	if k := a.t.Constraints[n]; k.Validated {
		a.checks = append(a.checks, k.Name)
	}
	return nil
}

func (a *alteration) addKey(ctx context.Context, c *ast.Constraint, cols []string) error {
	t := a.t
	hadRowID := t.HasRowID()
	if err := a.key(ctx, c, cols); err != nil {
		return err
	}
	if c.Contype != ast.ConstrType_CONSTR_PRIMARY {
		setSuffix(t, &t.Indexes[len(t.Indexes)-1])
		return nil
	}
	a.primary = true
	for _, k := range t.Primary.Columns {
		a.notNull = append(a.notNull, k.Column)
	}
	if hadRowID {
		t.Columns = slices.DeleteFunc(t.Columns, func(c catalog.Column) bool { return c.ID == catalog.RowIDColumn })
	}
	for i := range t.Indexes {
		setSuffix(t, &t.Indexes[i])
	}
	return nil
}

// finish does what the commands asked of the rows and stores the table.
func (a *alteration) finish(ctx context.Context) error {
	x, cat := a.x, a.x.Session.Catalog()
	pass, err := a.plan(ctx)
	if err != nil {
		return err
	}
	t := a.t
	if len(pass.indexes) > 0 || pass.verify != nil {
		if err := x.rewrite(ctx, pass); err != nil {
			a.discard(ctx, pass)
			return err
		}
	}
	if len(t.Garbage) > len(a.old.Garbage) {
		cat.NeedsCleanup()
	}
	if err := cat.Write(ctx, t); err != nil {
		return err
	}
	for _, d := range a.drops {
		if err := x.dropDescriptor(ctx, d); err != nil {
			return err
		}
	}
	return a.enterNames(ctx)
}

// plan decides which indexes are built and how rows change.
func (a *alteration) plan(ctx context.Context) (*rewrite, error) {
	a.t = a.t.Clone() // nothing derived from its earlier states may remain
	x, t := a.x, a.t
	r := &rewrite{from: a.old, to: t, separate: x.chunked(t), fresh: true}
	// Expressions belong to the session, which is not for several goroutines.
	r.parallel = len(a.perRow) == 0 && len(a.convert) == 0 && len(a.checks) == 0
	if a.primary {
		if t.Primary.Storage == a.old.Primary.Storage {
			s, err := x.newStorage(ctx)
			if err != nil {
				return nil, err
			}
			t.Primary.Storage = s
		}
		t.Garbage = append(t.Garbage, a.old.Primary.Storage)
		// Every row is written anew: nothing is missing in it.
		for i := range t.Columns {
			t.Columns[i].HasMissing, t.Columns[i].Missing = false, ""
		}
		r.indexes = append(r.indexes, &t.Primary)
	}
	for i := range t.Indexes {
		ix := &t.Indexes[i]
		before := a.old.IndexByID(ix.ID)
		if before != nil && !a.stale(before, ix) {
			continue
		}
		if before != nil {
			s, err := x.newStorage(ctx)
			if err != nil {
				return nil, err
			}
			t.Garbage = append(t.Garbage, before.Storage)
			ix.Storage = s
		}
		r.indexes = append(r.indexes, ix)
	}
	for _, ix := range r.indexes {
		a.fresh = append(a.fresh, ix.Storage)
	}
	if len(a.notNull) > 0 || len(a.checks) > 0 {
		r.verify = a.verify(ctx)
	}
	if len(r.indexes) > 0 || r.verify != nil {
		r.row = func(row []types.Datum) ([]types.Datum, error) { return a.row(ctx, row) }
	}
	return r, nil
}

// stale reports whether an index's entries change.
func (a *alteration) stale(before, ix *catalog.Index) bool {
	if !slices.Equal(before.Suffix, ix.Suffix) || !slices.Equal(before.Stored, ix.Stored) {
		return true
	}
	for id := range a.convert {
		if before.Covers(id) {
			return true
		}
	}
	return false
}

// row turns a row of the old table into one of the new.
func (a *alteration) row(ctx context.Context, old []types.Datum) ([]types.Datum, error) {
	out := make([]types.Datum, len(a.t.Columns))
	for i := range a.t.Columns {
		c := &a.t.Columns[i]
		if conv := a.convert[c.ID]; conv != nil {
			v, err := conv(old)
			if err != nil {
				return nil, err
			}
			out[i] = v
			continue
		}
		j := slices.IndexFunc(a.old.Columns, func(o catalog.Column) bool { return o.ID == c.ID })
		switch {
		case j >= 0:
			out[i] = old[j]
		case c.ID == catalog.RowIDColumn:
			out[i] = types.NewInt(catalog.NewRowID(a.x.Session.Catalog().Manager().Node()))
		case a.perRow[c.ID]:
			v, _, err := a.x.Exprs.EvalDefault(ctx, a.t, c)
			if err != nil {
				return nil, err
			}
			out[i] = v
		default:
			out[i] = a.missing[c.ID] // the zero Datum is NULL
		}
	}
	return out, nil
}

func (a *alteration) verify(ctx context.Context) func([]types.Datum) error {
	nn := notNull(a.t, a.notNull...)
	return func(row []types.Datum) error {
		if err := nn(row); err != nil {
			return err
		}
		for _, name := range a.checks {
			ok, err := a.x.Exprs.EvalCheck(ctx, a.t, a.t.ConstraintByName(name), row)
			if err != nil {
				return err
			}
			if !ok {
				e := pgerror.New(pgerrcode.CheckViolation, "check constraint %q of relation %q is violated by some row", name, a.t.Name)
				e.Table, e.Constraint = a.t.Name, name
				return e
			}
		}
		return nil
	}
}

// discard clears what a failed rewrite wrote on its own.
func (a *alteration) discard(ctx context.Context, r *rewrite) {
	if !r.separate {
		return
	}
	for _, s := range a.fresh {
		p := keys.IndexPrefix(uint32(a.t.ID), s)
		// Left-overs cost space only: nothing ever refers to this storage.
		_ = a.x.Session.Catalog().Manager().DB().ClearSpan(context.WithoutCancel(ctx), keys.Span{Key: p, EndKey: p.PrefixEnd()}, hlc.Timestamp{})
	}
}
