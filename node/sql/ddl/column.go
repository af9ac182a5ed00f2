package ddl

import (
	"context"
	"fmt"
	"math"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/jackc/pgerrcode"
)

// newColumn is a column definition with what belongs to it.
type newColumn struct {
	col      catalog.Column
	def      *ast.ColumnDef
	dflt     *ast.Node         // raw DEFAULT
	serial   types.OID         // sequence type of a serial column, 0: none
	identity *ast.Constraint   // GENERATED AS IDENTITY
	keys     []*ast.Constraint // PRIMARY KEY, UNIQUE
	checks   []*ast.Constraint // CHECK
	foreign  []*ast.Constraint // REFERENCES
}

// serialTypes maps the pseudo types to their column types.
var serialTypes = map[string]types.OID{
	"smallserial": types.OIDInt2, "serial2": types.OIDInt2,
	"serial": types.OIDInt4, "serial4": types.OIDInt4,
	"bigserial": types.OIDInt8, "serial8": types.OIDInt8,
}

// columnDef reads a column definition. It does not bind expressions.
func (x *Executor) columnDef(table string, def *ast.ColumnDef) (*newColumn, error) {
	n := &newColumn{def: def}
	n.col = catalog.Column{Name: x.name(def.Colname), State: catalog.StatePublic, StatTarget: -1}
	if isSystemColumn(n.col.Name) {
		return nil, pgerror.New(pgerrcode.DuplicateColumn, "column name %q conflicts with a system column name", n.col.Name)
	}
	if err := x.columnType(n); err != nil {
		return nil, err
	}
	if def.CollClause != nil {
		c := list(def.CollClause.Collname)
		if name := c[len(c)-1]; name != "C" && name != "POSIX" && name != "default" && name != "ucs_basic" {
			return nil, x.at(pgerror.New(pgerrcode.FeatureNotSupported, "collation %q is not supported yet", name).
				WithHint(`Use COLLATE "C", which is the default.`), def.CollClause.Location)
		} else if name != "default" {
			n.col.Collation = name
		}
	}
	nullable := false
	for _, c := range def.Constraints {
		k := c.GetConstraint()
		switch k.GetContype() {
		case ast.ConstrType_CONSTR_NULL:
			if n.col.NotNull {
				return nil, x.conflictingNull(table, n.col.Name, k.Location)
			}
			nullable = true
		case ast.ConstrType_CONSTR_NOTNULL:
			if nullable {
				return nil, x.conflictingNull(table, n.col.Name, k.Location)
			}
			n.col.NotNull = true
		case ast.ConstrType_CONSTR_DEFAULT:
			if n.dflt != nil || n.serial != 0 {
				return nil, x.at(pgerror.New(pgerrcode.SyntaxError, "multiple default values specified for column %q of table %q", n.col.Name, table), k.Location)
			}
			n.dflt = k.RawExpr
		case ast.ConstrType_CONSTR_IDENTITY:
			if n.identity != nil {
				return nil, x.at(pgerror.New(pgerrcode.SyntaxError, "multiple identity specifications for column %q of table %q", n.col.Name, table), k.Location)
			}
			n.identity = k
			n.col.NotNull = true
		case ast.ConstrType_CONSTR_PRIMARY, ast.ConstrType_CONSTR_UNIQUE:
			n.keys = append(n.keys, k)
		case ast.ConstrType_CONSTR_CHECK:
			n.checks = append(n.checks, k)
		case ast.ConstrType_CONSTR_FOREIGN:
			n.foreign = append(n.foreign, k)
		case ast.ConstrType_CONSTR_GENERATED:
			return nil, x.at(pgerror.New(pgerrcode.FeatureNotSupported, "generated columns are not supported yet"), k.Location)
		case ast.ConstrType_CONSTR_ATTR_NOT_DEFERRABLE, ast.ConstrType_CONSTR_ATTR_IMMEDIATE:
		case ast.ConstrType_CONSTR_ATTR_DEFERRABLE, ast.ConstrType_CONSTR_ATTR_DEFERRED:
			return nil, x.at(pgerror.New(pgerrcode.FeatureNotSupported, "deferrable constraints are not supported yet"), k.Location)
		default:
			return nil, x.at(pgerror.New(pgerrcode.FeatureNotSupported, "this kind of column constraint is not supported yet"), k.Location)
		}
	}
	if n.identity != nil {
		if n.dflt != nil || n.serial != 0 {
			return nil, x.at(pgerror.New(pgerrcode.SyntaxError, "both default and identity specified for column %q of table %q", n.col.Name, table), n.identity.Location)
		}
		switch n.col.Type.OID {
		case types.OIDInt2, types.OIDInt4, types.OIDInt8:
		default:
			return nil, pgerror.New(pgerrcode.InvalidParameterValue, "identity column type must be smallint, integer, or bigint")
		}
		n.col.Identity = catalog.IdentityByDefault
		if n.identity.GeneratedWhen == "a" {
			n.col.Identity = catalog.IdentityAlways
		}
	}
	return n, nil
}

func (x *Executor) conflictingNull(table, column string, loc int32) error {
	return x.at(pgerror.New(pgerrcode.SyntaxError, "conflicting NULL/NOT NULL declarations for column %q of table %q", column, table), loc)
}

func (x *Executor) columnType(n *newColumn) error {
	tn := n.def.TypeName
	names := list(tn.Names)
	if len(names) == 1 {
		if oid, ok := serialTypes[names[0]]; ok {
			if len(tn.ArrayBounds) > 0 {
				return x.at(pgerror.New(pgerrcode.FeatureNotSupported, "array of serial is not implemented"), tn.Location)
			}
			n.serial = oid
			n.col.NotNull = true
			n.col.Type = catalog.TypeRef{OID: oid, Mod: -1}
			return nil
		}
	}
	oid, mod, err := x.Exprs.TypeName(tn)
	if err != nil {
		return x.at(err, tn.Location)
	}
	t, ok := types.Lookup(oid)
	if ok && (t.IsPseudo() || oid == types.OIDUnknown) {
		return pgerror.New(pgerrcode.InvalidTableDefinition, "column %q has pseudo-type %s", n.col.Name, t.Name)
	}
	n.col.Type = catalog.TypeRef{OID: oid, Mod: mod}
	return nil
}

func isSystemColumn(n string) bool {
	switch n {
	case "tableoid", "cmax", "xmax", "cmin", "xmin", "ctid":
		return true
	}
	return false
}

// attachSequence makes the sequence of a serial or identity column. table has its ID and name.
func (x *Executor) attachSequence(ctx context.Context, t *catalog.Table, n *newColumn, c *catalog.Column) error {
	if n.serial == 0 && n.identity == nil {
		return nil
	}
	seq := newSequence(c.Type.OID)
	var opts []*ast.Node
	if n.identity != nil {
		opts = n.identity.Options
		seq.Identity = true
	}
	name := ""
	var rest []*ast.Node
	for _, o := range opts {
		if d := o.GetDefElem(); d.GetDefname() == "sequence_name" {
			parts := list(d.Arg.GetList().GetItems())
			name = parts[len(parts)-1]
			continue
		}
		rest = append(rest, o)
	}
	if err := x.sequenceOptions(ctx, seq, rest, true); err != nil {
		return err
	}
	cat := x.Session.Catalog()
	if name == "" {
		var err error
		if name, err = x.freeName(ctx, t.Database, t.Schema, t.Name, c.Name, "seq", nil); err != nil {
			return err
		}
	}
	id, err := cat.NewIDs(ctx, 2)
	if err != nil {
		return err
	}
	seq.Header = catalog.Header{ID: id, Name: name, Database: t.Database, Schema: t.Schema, Owner: t.Owner}
	seq.OwnerTable, seq.OwnerColumn = t.ID, c.ID
	ok, err := cat.Create(ctx, seq)
	if err != nil {
		return err
	}
	if !ok {
		return duplicate(pgerrcode.DuplicateTable, "relation", name)
	}
	c.Sequence = id
	if n.serial != 0 {
		// By OID, which outlives a renaming; pg_get_expr prints the name.
		c.Default = fmt.Sprintf("nextval('%d'::regclass)", id)
	}
	return nil
}

// freeName chooses a name as PostgreSQL does: name1_name2_label, with a number behind when
// it is taken, shortened to fit. taken holds names that are chosen but not stored yet.
func (x *Executor) freeName(ctx context.Context, db, schema catalog.ID, name1, name2, label string, taken func(string) bool) (string, error) {
	for i := 0; ; i++ {
		l := label
		if i > 0 {
			l = fmt.Sprintf("%s%d", label, i)
		}
		n := makeName(name1, name2, l)
		if taken == nil || !taken(n) {
			_, used, err := x.Session.Catalog().Lookup(ctx, catalog.Name{Class: catalog.ClassRelation, Database: db, Schema: schema, Name: n})
			if err != nil || !used {
				return n, err
			}
		}
		if i > 10000 {
			return "", pgerror.New(pgerrcode.ProgramLimitExceeded, "no free name like %q", n)
		}
	}
}

// makeName is PostgreSQL's makeObjectName.
func makeName(name1, name2, label string) string {
	over := len(label)
	if label != "" {
		over++
	}
	if name2 != "" {
		over++
	}
	avail := catalog.MaxNameLen - over
	a, b := len(name1), len(name2)
	for a+b > avail {
		if a > b {
			a--
		} else {
			b--
		}
	}
	clip := func(s string, n int) string {
		for n < len(s) && n > 0 && s[n]&0xc0 == 0x80 {
			n--
		}
		return s[:n]
	}
	out := clip(name1, a)
	if name2 != "" {
		out += "_" + clip(name2, b)
	}
	if label != "" {
		out += "_" + label
	}
	return out
}

func newSequence(typ types.OID) *catalog.Sequence {
	s := &catalog.Sequence{Type: typ, Start: 1, Increment: 1, Min: 1, Max: typeMax(typ), Cache: 1, Storage: 1}
	return s
}

func typeMax(t types.OID) int64 {
	switch t {
	case types.OIDInt2:
		return math.MaxInt16
	case types.OIDInt4:
		return math.MaxInt32
	}
	return math.MaxInt64
}

func typeMin(t types.OID) int64 { return -typeMax(t) - 1 }
