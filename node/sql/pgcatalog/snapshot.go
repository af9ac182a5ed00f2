package pgcatalog

import (
	"context"
	"regexp"
	"sort"
	"strconv"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/types"
)

// snapshot is all objects as one statement sees them.
type snapshot struct {
	db        catalog.ID
	databases []*catalog.Database
	roles     []*catalog.Role
	schemas   []*catalog.Schema
	tables    []*catalog.Table // of the current database, like the rest
	sequences []*catalog.Sequence
	views     []*catalog.View
	byID      map[catalog.ID]catalog.Descriptor
	comments  []catalog.Comment
}

// snapshot returns the statement's snapshot, reading it on first use.
func (s *scan) snapshot() (*snapshot, error) {
	if snap, ok := s.q.Memo.(*snapshot); ok {
		return snap, nil
	}
	snap, err := load(s.ctx, s.q.Catalog, s.q.Path.Database)
	if err == nil {
		s.q.Memo = snap
	}
	return snap, err
}

func load(ctx context.Context, c *catalog.Collection, db catalog.ID) (*snapshot, error) {
	ds, err := c.All(ctx)
	if err != nil {
		return nil, err
	}
	s := &snapshot{db: db, byID: make(map[catalog.ID]catalog.Descriptor, len(ds))}
	for _, d := range ds {
		s.byID[d.Head().ID] = d
		switch d := d.(type) {
		case *catalog.Database:
			s.databases = append(s.databases, d)
			continue
		case *catalog.Role:
			s.roles = append(s.roles, d)
			continue
		}
		if d.Head().Database != db {
			continue
		}
		switch d := d.(type) {
		case *catalog.Schema:
			s.schemas = append(s.schemas, d)
		case *catalog.Table:
			s.tables = append(s.tables, d)
		case *catalog.Sequence:
			s.sequences = append(s.sequences, d)
		case *catalog.View:
			s.views = append(s.views, d)
		}
	}
	if s.comments, err = catalog.Comments(ctx, c.Txn()); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *snapshot) schemaName(id catalog.ID) string {
	if n := catalog.VirtualSchemaName(id); n != "" {
		return n
	}
	if d, ok := s.byID[id].(*catalog.Schema); ok {
		return d.Name
	}
	return ""
}

func (s *snapshot) roleName(id catalog.ID) string {
	if d, ok := s.byID[id].(*catalog.Role); ok {
		return d.Name
	}
	return "unknown (OID=" + strconv.Itoa(int(id)) + ")"
}

func (s *snapshot) databaseName() string {
	if d := s.byID[s.db]; d != nil {
		return d.Head().Name
	}
	return ""
}

// acl prints an ACL, or nil for the defaults.
func (s *snapshot) acl(items []catalog.ACLItem) []string {
	var out []string
	for _, a := range items {
		out = append(out, catalog.FormatACLItem(a, s.roleName))
	}
	return out
}

// indexes lists a table's indexes that have a name, the primary first.
func indexes(t *catalog.Table) []*catalog.Index {
	var out []*catalog.Index
	for _, ix := range t.DeletableIndexes() {
		if ix.ID != 0 {
			out = append(out, ix)
		}
	}
	return out
}

// virtualTables lists the virtual relations by OID.
func virtualTables() []*table {
	var out []*table
	for _, t := range byID() {
		out = append(out, t)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].id < out[j].id })
	return out
}

var regclassByID = regexp.MustCompile(`'(\d+)'::regclass`)

// expr prints a stored expression: sequences by name, as the search path finds them.
func (s *snapshot) expr(sql string, path catalog.Path) string {
	return regclassByID.ReplaceAllStringFunc(sql, func(m string) string {
		id, err := strconv.ParseUint(regclassByID.FindStringSubmatch(m)[1], 10, 32)
		if err != nil {
			return m
		}
		name, ok := s.relationText(catalog.ID(id), path)
		if !ok {
			return m
		}
		return quoteLiteral(name) + "::regclass"
	})
}

// relation finds a relation's schema and name by OID, virtual ones and indexes too.
func (s *snapshot) relation(id catalog.ID) (schema catalog.ID, name string, ok bool) {
	if t := byID()[id]; t != nil {
		return catalog.VirtualSchemaID(t.schema), t.name, true
	}
	switch d := s.byID[id].(type) {
	case *catalog.Table, *catalog.Sequence, *catalog.View:
		if h := d.Head(); h.Database == s.db {
			return h.Schema, h.Name, true
		}
	}
	if t, ix := s.index(id); ix != nil {
		return t.Schema, ix.Name, true
	}
	return 0, "", false
}

func (s *snapshot) index(id catalog.ID) (*catalog.Table, *catalog.Index) {
	for _, t := range s.tables {
		if ix := t.IndexByID(id); ix != nil {
			return t, ix
		}
	}
	return nil, nil
}

// visible reports whether the search path finds this relation by its bare name.
func (s *snapshot) visible(schema catalog.ID, name string, path catalog.Path) bool {
	for _, p := range path.Schemas(true) {
		id := s.schemaID(p)
		if id == 0 {
			continue
		}
		if id == schema {
			return true
		}
		if s.taken(id, name) {
			return false
		}
	}
	return false
}

func (s *snapshot) schemaID(name string) catalog.ID {
	if id := catalog.VirtualSchemaID(name); id != 0 {
		return id
	}
	for _, d := range s.schemas {
		if d.Name == name {
			return d.ID
		}
	}
	return 0
}

// taken reports whether a schema has a relation of that name.
func (s *snapshot) taken(schema catalog.ID, name string) bool {
	if v := catalog.VirtualSchemaName(schema); v != "" {
		return all()[v][name] != nil
	}
	for _, t := range s.tables {
		if t.Schema != schema {
			continue
		}
		if t.Name == name || t.IndexByName(name) != nil {
			return true
		}
	}
	for _, q := range s.sequences {
		if q.Schema == schema && q.Name == name {
			return true
		}
	}
	for _, v := range s.views {
		if v.Schema == schema && v.Name == name {
			return true
		}
	}
	return false
}

// relationText prints a relation as regclass does.
func (s *snapshot) relationText(id catalog.ID, path catalog.Path) (string, bool) {
	schema, name, ok := s.relation(id)
	if !ok {
		return "", false
	}
	if s.visible(schema, name, path) {
		return catalog.QuoteIdent(name), true
	}
	return catalog.QuoteIdent(s.schemaName(schema)) + "." + catalog.QuoteIdent(name), true
}

func quoteLiteral(v string) string {
	b := []byte{'\''}
	esc := false
	for i := 0; i < len(v); i++ {
		if v[i] == '\'' {
			b = append(b, '\'')
		}
		if v[i] == '\\' {
			b = append(b, '\\')
			esc = true
		}
		b = append(b, v[i])
	}
	b = append(b, '\'')
	if esc {
		return "E" + string(b)
	}
	return string(b)
}

// ordinal returns PostgreSQL's attnum of a column. It is the ID: columns are never renumbered.
func ordinals(ids []catalog.ColumnID) []int64 {
	out := make([]int64, 0, len(ids))
	for _, id := range ids {
		out = append(out, int64(id))
	}
	return out
}

// btree operator classes by type, for pg_index.indclass: the OIDs of opclasses that
// PostgreSQL fixes.
func opclassOf(oid types.OID) int64 {
	ops := btreeClasses()
	if c, ok := ops[oid]; ok {
		return c
	}
	switch oid {
	case types.OIDVarChar:
		return ops[types.OIDText]
	}
	if t, ok := types.Lookup(oid); ok && t.IsArray() {
		return ops[types.OIDAnyArray]
	}
	return 0
}
