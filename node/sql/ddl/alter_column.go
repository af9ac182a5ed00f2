package ddl

import (
	"context"
	"slices"
	"strings"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/jackc/pgerrcode"
)

func (a *alteration) dropColumn(ctx context.Context, cmd *ast.AlterTableCmd) error {
	x, t := a.x, a.t
	c := t.ColumnByName(cmd.Name)
	if c == nil {
		if cmd.MissingOk {
			x.notice(pgerrcode.UndefinedColumn, "column %q of relation %q does not exist, skipping", cmd.Name, t.Name)
			return nil
		}
		return pgerror.New(pgerrcode.UndefinedColumn, "column %q of relation %q does not exist", cmd.Name, t.Name)
	}
	id := c.ID
	if c.Sequence != 0 {
		if err := a.dropOwned(ctx, c); err != nil {
			return err
		}
	}
	for _, ix := range slices.Clone(t.Indexes) {
		if ix.HasColumn(id) || contains(ix.Stored, id) {
			if err := a.dropIndex(ctx, &ix); err != nil {
				return err
			}
		}
	}
	t.Constraints = slices.DeleteFunc(t.Constraints, func(k catalog.Constraint) bool {
		return k.Kind == catalog.CheckConstraint && contains(k.Columns, id)
	})
	if t.Primary.HasColumn(id) {
		if err := a.dropPrimary(ctx); err != nil {
			return err
		}
	}
	if err := catalog.PutComment(ctx, x.Session.Catalog().Txn(), catalog.Comment{ClassOID: catalog.ClassOIDRelation, Object: uint32(t.ID), Sub: int32(id)}); err != nil {
		return err
	}
	t.Columns = slices.DeleteFunc(t.Columns, func(k catalog.Column) bool { return k.ID == id })
	return nil
}

// dropOwned notes the column's own sequence for dropping, unless others use it.
func (a *alteration) dropOwned(ctx context.Context, c *catalog.Column) error {
	s, err := a.x.Session.Catalog().Sequence(ctx, c.Sequence)
	if err != nil || s == nil {
		return err
	}
	a.drops = append(a.drops, s)
	return nil
}

func (a *alteration) dropIndex(ctx context.Context, ix *catalog.Index) error {
	n := catalog.NameOf(a.t)
	n.Name = ix.Name
	if i := slices.Index(a.added, ix.Name); i >= 0 {
		a.added = slices.Delete(a.added, i, i+1)
	} else if err := a.x.Session.Catalog().RemoveName(ctx, n); err != nil {
		return err
	}
	deleteIndex(a.t, ix.ID)
	return nil
}

// dropPrimary puts the rows under a hidden key.
func (a *alteration) dropPrimary(ctx context.Context) error {
	t := a.t
	old := t.Primary
	n := catalog.NameOf(t)
	n.Name = old.Name
	if err := a.x.Session.Catalog().RemoveName(ctx, n); err != nil {
		return err
	}
	t.Constraints = slices.DeleteFunc(t.Constraints, func(k catalog.Constraint) bool { return k.Kind == catalog.PrimaryKeyConstraint })
	s, err := a.x.newStorage(ctx)
	if err != nil {
		return err
	}
	addRowID(t, s)
	a.primary = true
	for i := range t.Indexes {
		setSuffix(t, &t.Indexes[i])
	}
	return nil
}

func (a *alteration) dropConstraint(ctx context.Context, cmd *ast.AlterTableCmd) error {
	t := a.t
	c := t.ConstraintByName(cmd.Name)
	if c == nil {
		if cmd.MissingOk {
			a.x.notice(pgerrcode.UndefinedObject, "constraint %q of relation %q does not exist, skipping", cmd.Name, t.Name)
			return nil
		}
		return noConstraint(cmd.Name, t.Name)
	}
	switch c.Kind {
	case catalog.PrimaryKeyConstraint:
		return a.dropPrimary(ctx)
	case catalog.UniqueConstraint:
		return a.dropIndex(ctx, t.IndexByID(c.Index))
	}
	name := c.Name
	t.Constraints = slices.DeleteFunc(t.Constraints, func(k catalog.Constraint) bool { return k.Name == name })
	return nil
}

func (a *alteration) columnType(ctx context.Context, cmd *ast.AlterTableCmd) error {
	x, t := a.x, a.t
	def := cmd.Def.GetColumnDef()
	c, err := a.column(cmd.Name)
	if err != nil {
		return err
	}
	oid, mod, err := x.Exprs.TypeName(def.TypeName)
	if err != nil {
		return x.at(err, def.TypeName.Location)
	}
	to := catalog.TypeRef{OID: oid, Mod: mod}
	if to == c.Type && def.RawDefault == nil {
		return nil
	}
	for _, k := range t.Constraints {
		if k.Kind == catalog.CheckConstraint && contains(k.Columns, c.ID) {
			return pgerror.New(pgerrcode.FeatureNotSupported, "cannot alter type of column %q while check constraint %q uses it", c.Name, k.Name).
				WithHint("Drop the constraint, change the type, and add it again.")
		}
	}
	oldCol := a.old.ColumnByID(c.ID)
	conv, err := x.Exprs.BindUsing(ctx, def.RawDefault, a.old, oldCol, to)
	if err != nil {
		return err
	}
	if c.Default != "" && c.Sequence == 0 {
		if err := a.castDefault(ctx, c, to); err != nil {
			return err
		}
	}
	for _, ix := range t.PublicIndexes() {
		if ix.HasColumn(c.ID) {
			if err := indexable(to.OID); err != nil {
				return err
			}
		}
	}
	c.Type = to
	c.HasMissing, c.Missing = false, ""
	a.convert[c.ID] = conv
	a.primary = true
	return nil
}

// castDefault binds a column's default anew in another type.
func (a *alteration) castDefault(ctx context.Context, c *catalog.Column, to catalog.TypeRef) error {
	fail := pgerror.New(pgerrcode.DatatypeMismatch, "default for column %q cannot be cast automatically to type %s", c.Name, types.FormatType(to.OID, to.Mod))
	st, err := parser.Parse("SELECT " + c.Default)
	if err != nil || len(st) != 1 {
		return fail
	}
	targets := st[0].Node.GetSelectStmt().GetTargetList()
	if len(targets) != 1 {
		return fail
	}
	changed := *c
	changed.Type = to
	if err := a.x.bindDefault(ctx, &changed, targets[0].GetResTarget().GetVal()); err != nil {
		return fail
	}
	c.Default = changed.Default
	return nil
}

func (a *alteration) identity(ctx context.Context, cmd *ast.AlterTableCmd) error {
	x, t := a.x, a.t
	c, err := a.column(cmd.Name)
	if err != nil {
		return err
	}
	switch cmd.Subtype {
	case ast.AlterTableType_AT_AddIdentity:
		switch {
		case c.Identity != catalog.NoIdentity:
			return pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "column %q of relation %q is already an identity column", c.Name, t.Name)
		case !c.NotNull:
			return pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "column %q of relation %q must be declared NOT NULL before identity can be added", c.Name, t.Name)
		case c.Default != "":
			return pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "column %q of relation %q already has a default value", c.Name, t.Name)
		}
		k := cmd.Def.GetConstraint()
		n := &newColumn{identity: k}
		c.Identity = catalog.IdentityByDefault
		if k.GeneratedWhen == "a" {
			c.Identity = catalog.IdentityAlways
		}
		return x.attachSequence(ctx, t, n, c)
	case ast.AlterTableType_AT_DropIdentity:
		if c.Identity == catalog.NoIdentity {
			if cmd.MissingOk {
				x.notice(pgerrcode.ObjectNotInPrerequisiteState, "column %q of relation %q is not an identity column, skipping", c.Name, t.Name)
				return nil
			}
			return pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "column %q of relation %q is not an identity column", c.Name, t.Name)
		}
		if err := a.dropOwned(ctx, c); err != nil {
			return err
		}
		c.Identity, c.Sequence = catalog.NoIdentity, 0
		return nil
	}
	if c.Identity == catalog.NoIdentity {
		return pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "column %q of relation %q is not an identity column", c.Name, t.Name)
	}
	var seqOpts []*ast.Node
	for _, o := range cmd.Def.GetList().GetItems() {
		d := o.GetDefElem()
		if d.Defname != "generated" {
			seqOpts = append(seqOpts, o)
			continue
		}
		c.Identity = catalog.IdentityByDefault
		if defText(d) == "a" || d.Arg.GetInteger().GetIval() == 'a' {
			c.Identity = catalog.IdentityAlways
		}
	}
	if len(seqOpts) == 0 {
		return nil
	}
	return x.changeSequence(ctx, c.Sequence, seqOpts)
}

// alterOther runs ALTER TABLE's forms that sequences and indexes accept.
func (x *Executor) alterOther(ctx context.Context, rel *catalog.Relation, s *ast.AlterTableStmt) error {
	for _, n := range s.Cmds {
		cmd := n.GetAlterTableCmd()
		switch cmd.Subtype {
		case ast.AlterTableType_AT_SetRelOptions, ast.AlterTableType_AT_ResetRelOptions, ast.AlterTableType_AT_SetTableSpace,
			ast.AlterTableType_AT_SetLogged, ast.AlterTableType_AT_SetUnLogged, ast.AlterTableType_AT_SetStatistics:
		case ast.AlterTableType_AT_ChangeOwner:
			if rel.Sequence == nil {
				return pgerror.New(pgerrcode.WrongObjectType, "cannot change owner of index %q", rel.Index.Name).
					WithHint("Change the ownership of the index's table instead.")
			}
			r, err := x.role(ctx, cmd.Newowner)
			if err != nil {
				return err
			}
			if err := x.change(ctx, rel.Sequence, func(d catalog.Descriptor) error { d.Head().Owner = r.ID; return nil }); err != nil {
				return err
			}
		default:
			word, name := "sequence", ""
			if rel.Sequence != nil {
				name = rel.Sequence.Name
			} else {
				word, name = "index", rel.Index.Name
			}
			return pgerror.New(pgerrcode.WrongObjectType, "ALTER action %s cannot be performed on relation %q",
				strings.ReplaceAll(strings.TrimPrefix(cmd.Subtype.String(), "AT_"), "_", " "), name).
				WithDetail("This operation is not supported for %ses.", strings.TrimSuffix(word, "x"))
		}
	}
	return nil
}

// change locks a descriptor, checks ownership, changes and stores it.
func (x *Executor) change(ctx context.Context, d catalog.Descriptor, f func(catalog.Descriptor) error) error {
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
	if err := f(m); err != nil {
		return err
	}
	return cat.Write(ctx, m)
}
