package catalog

import (
	"context"
	"slices"
	"strings"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/jackc/pgerrcode"
)

// Path is what a session resolves names with.
type Path struct {
	Database     ID
	DatabaseName string
	// Search is search_path as it is set: `"$user"` and public by default. pg_catalog is
	// searched first unless it is listed.
	Search []string
	User   string // for $user
}

// Schemas returns the names that are searched, in order; implicit adds pg_catalog.
func (p Path) Schemas(implicit bool) []string {
	out := make([]string, 0, len(p.Search)+1)
	if implicit && !slices.Contains(p.Search, CatalogSchema) {
		out = append(out, CatalogSchema)
	}
	for _, s := range p.Search {
		if s == "$user" {
			s = p.User
		}
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// IsVirtualSchema reports whether the schema's relations are computed.
func IsVirtualSchema(name string) bool {
	return name == CatalogSchema || name == InfoSchema || name == AtollSchema
}

// VirtualSchemaID returns the OID of a virtual schema, or 0.
func VirtualSchemaID(name string) ID {
	switch name {
	case CatalogSchema:
		return CatalogSchemaID
	case InfoSchema:
		return InfoSchemaID
	case AtollSchema:
		return AtollSchemaID
	}
	return 0
}

// VirtualSchemaName is the inverse of VirtualSchemaID.
func VirtualSchemaName(id ID) string {
	switch id {
	case CatalogSchemaID:
		return CatalogSchema
	case InfoSchemaID:
		return InfoSchema
	case AtollSchemaID:
		return AtollSchema
	}
	return ""
}

// Relation is what a relation name resolved to. Exactly one of the fields besides Schema
// is set; a virtual relation has a name and a virtual schema only (package pgcatalog
// knows it).
type Relation struct {
	Schema   string
	Virtual  string // name of a virtual relation, when VirtualExists knows it
	Table    *Table
	Index    *Index // with Table
	Sequence *Sequence
	View     *View
}

// ID returns the relation's OID; 0 for a virtual one.
func (r *Relation) ID() ID {
	switch {
	case r.Index != nil:
		return r.Index.ID
	case r.Table != nil:
		return r.Table.ID
	case r.Sequence != nil:
		return r.Sequence.ID
	case r.View != nil:
		return r.View.ID
	}
	return 0
}

// VirtualExists reports whether a virtual schema has a relation. Package pgcatalog sets it.
var VirtualExists = func(schema, name string) bool { return false }

// ResolveSchema returns a schema's ID in a database: of a virtual one too.
func (c *Collection) ResolveSchema(ctx context.Context, db ID, name string) (ID, bool, error) {
	if id := VirtualSchemaID(name); id != 0 {
		return id, true, nil
	}
	e, ok, err := c.Lookup(ctx, Name{Class: ClassSchema, Database: db, Name: name})
	return e.ID, ok, err
}

// ResolveRelation finds a relation by its possibly qualified name; nil if there is none.
// A schema that was named and does not exist is an error (3F000).
func (c *Collection) ResolveRelation(ctx context.Context, p Path, schema, name string) (*Relation, error) {
	if schema != "" {
		id, ok, err := c.ResolveSchema(ctx, p.Database, schema)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, NoSchema(schema)
		}
		return c.relationIn(ctx, p.Database, id, schema, name)
	}
	for _, s := range p.Schemas(true) {
		id, ok, err := c.ResolveSchema(ctx, p.Database, s)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		r, err := c.relationIn(ctx, p.Database, id, s, name)
		if err != nil || r != nil {
			return r, err
		}
	}
	return nil, nil
}

func (c *Collection) relationIn(ctx context.Context, db, schema ID, schemaName, name string) (*Relation, error) {
	if IsVirtualSchema(schemaName) {
		if VirtualExists(schemaName, name) {
			return &Relation{Schema: schemaName, Virtual: name}, nil
		}
		return nil, nil
	}
	e, ok, err := c.Lookup(ctx, Name{Class: ClassRelation, Database: db, Schema: schema, Name: name})
	if err != nil || !ok {
		return nil, err
	}
	return c.relation(ctx, schemaName, e)
}

func (c *Collection) relation(ctx context.Context, schemaName string, e Entry) (*Relation, error) {
	id := e.ID
	if e.Kind == KindIndex {
		id = e.Table
	}
	d, err := c.Get(ctx, id)
	if err != nil || d == nil {
		return nil, err
	}
	r := &Relation{Schema: schemaName}
	switch d := d.(type) {
	case *Table:
		r.Table = d
		if e.Kind == KindIndex {
			if r.Index = d.IndexByID(e.ID); r.Index == nil {
				return nil, nil
			}
		}
	case *Sequence:
		r.Sequence = d
	case *View:
		r.View = d
	default:
		return nil, nil
	}
	return r, nil
}

// ResolveTable finds a table by name, or fails as PostgreSQL does when it is missing
// (42P01) or something else (42809). Position is the name's, for the error.
func (c *Collection) ResolveTable(ctx context.Context, p Path, schema, name string, position int) (*Table, error) {
	r, err := c.ResolveRelation(ctx, p, schema, name)
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		return nil, NoRelation(schema, name).At(position)
	case r.Table == nil || r.Index != nil:
		return nil, pgerror.New(pgerrcode.WrongObjectType, "%q is not a table", name).At(position)
	}
	return r.Table, nil
}

// CreationSchema returns the schema in which an unqualified new object goes.
func (c *Collection) CreationSchema(ctx context.Context, p Path) (ID, string, error) {
	for _, s := range p.Schemas(false) {
		id, ok, err := c.ResolveSchema(ctx, p.Database, s)
		if err != nil {
			return 0, "", err
		}
		if ok {
			return id, s, nil
		}
	}
	return 0, "", pgerror.New(pgerrcode.InvalidSchemaName, "no schema has been selected to create in")
}

// ResolveDatabase returns the database of that name, or nil.
func (c *Collection) ResolveDatabase(ctx context.Context, name string) (*Database, error) {
	e, ok, err := c.Lookup(ctx, Name{Class: ClassDatabase, Name: name})
	if err != nil || !ok {
		return nil, err
	}
	return c.Database(ctx, e.ID)
}

// ResolveRole returns the role of that name, or nil.
func (c *Collection) ResolveRole(ctx context.Context, name string) (*Role, error) {
	e, ok, err := c.Lookup(ctx, Name{Class: ClassRole, Name: name})
	if err != nil || !ok {
		return nil, err
	}
	return c.Role(ctx, e.ID)
}

// RelationByID finds a relation, an index too, by OID among those of a database; nil if
// there is none.
func (c *Collection) RelationByID(ctx context.Context, db, id ID) (*Relation, error) {
	if id < FirstUserID {
		return nil, nil
	}
	d, err := c.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return c.indexByID(ctx, db, id)
	}
	if h := d.Head(); h.Database != db {
		return nil, nil
	}
	name, err := c.SchemaName(ctx, d.Head().Schema)
	if err != nil {
		return nil, err
	}
	return c.relation(ctx, name, Entry{Kind: d.Kind(), ID: id})
}

// indexByID looks through all tables: an index has no descriptor of its own.
func (c *Collection) indexByID(ctx context.Context, db, id ID) (*Relation, error) {
	all, err := c.All(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		t, ok := d.(*Table)
		if !ok || t.Database != db {
			continue
		}
		if ix := t.IndexByID(id); ix != nil {
			name, err := c.SchemaName(ctx, t.Schema)
			return &Relation{Schema: name, Table: t, Index: ix}, err
		}
	}
	return nil, nil
}

// SchemaName returns a schema's name by ID; empty if there is none.
func (c *Collection) SchemaName(ctx context.Context, id ID) (string, error) {
	if n := VirtualSchemaName(id); n != "" {
		return n, nil
	}
	s, err := c.Schema(ctx, id)
	if err != nil || s == nil {
		return "", err
	}
	return s.Name, nil
}

// NoRelation is PostgreSQL's error for a missing relation.
func NoRelation(schema, name string) *pgerror.Error {
	if schema != "" {
		name = schema + "." + name
	}
	return pgerror.New(pgerrcode.UndefinedTable, "relation \"%s\" does not exist", name)
}

// NoSchema is PostgreSQL's error for a missing schema.
func NoSchema(name string) *pgerror.Error {
	return pgerror.New(pgerrcode.InvalidSchemaName, "schema %q does not exist", name)
}

// CutName truncates an identifier as PostgreSQL does, at a character boundary.
func CutName(name string) string {
	if len(name) <= MaxNameLen {
		return name
	}
	n := MaxNameLen
	for n > 0 && name[n]&0xc0 == 0x80 {
		n--
	}
	return name[:n]
}

// QuoteIdent quotes an identifier where SQL needs it.
func QuoteIdent(name string) string {
	plain := name != ""
	for i := 0; i < len(name) && plain; i++ {
		c := name[i]
		plain = c >= 'a' && c <= 'z' || c == '_' || i > 0 && c >= '0' && c <= '9'
	}
	if plain && !reservedWord(name) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
