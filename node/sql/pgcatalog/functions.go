package pgcatalog

import (
	"context"
	"strconv"
	"strings"

	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/jackc/pgerrcode"
)

// Functions answers SQL functions and the reg* types from the catalog, as one statement
// sees it. It implements builtins.Catalog and types.NameResolver; make one per statement.
type Functions struct {
	Ctx   context.Context
	Query *catalog.VirtualQuery
	// SizeOf returns the bytes that a table's data takes; nil: what ANALYZE found.
	SizeOf func(ctx context.Context, table catalog.ID) (int64, error)

	err error
}

var (
	_ builtins.Catalog   = (*Functions)(nil)
	_ types.NameResolver = (*Functions)(nil)
)

func (f *Functions) snapshot() (*snapshot, error) {
	s := scan{ctx: f.Ctx, q: f.Query}
	return s.snapshot()
}

// Err returns the first error that a method without an error result met.
func (f *Functions) Err() error { return f.err }

func (f *Functions) snap() *snapshot {
	s, err := f.snapshot()
	if err != nil {
		if f.err == nil {
			f.err = err
		}
		return &snapshot{db: f.Query.Path.Database, byID: map[catalog.ID]catalog.Descriptor{}}
	}
	return s
}

// static finds a row of a static catalog by OID.
func static(name string, oid types.OID) ([]types.Datum, *table) {
	t := all()[catalog.CatalogSchema][name]
	rows, err := t.static.load(t)
	if err != nil {
		panic(err) // the embedded file is part of the build
	}
	p := t.pos["oid"]
	for _, r := range rows {
		if types.OID(r[p].Int()) == oid {
			return r, t
		}
	}
	return nil, t
}

// Reg types whose objects are in a static catalog only, with the name column.
var regCatalogs = map[types.OID]struct{ table, name string }{
	types.OIDRegType: {"pg_type", "typname"}, types.OIDRegProc: {"pg_proc", "proname"}, types.OIDRegProcedure: {"pg_proc", "proname"},
	types.OIDRegOper: {"pg_operator", "oprname"}, types.OIDRegOperator: {"pg_operator", "oprname"},
	types.OIDRegCollation: {"pg_collation", "collname"}, types.OIDRegConfig: {"pg_ts_config", "cfgname"}, types.OIDRegDictionary: {"pg_ts_dict", "dictname"},
}

// Visible implements builtins.Catalog. All of PostgreSQL's own objects are visible: pg_catalog
// is always searched.
func (f *Functions) Visible(reg, object types.OID) (visible, exists bool) {
	if reg == types.OIDRegClass {
		s := f.snap()
		schema, name, ok := s.relation(catalog.ID(object))
		return ok && s.visible(schema, name, f.Query.Path), ok
	}
	if c, ok := regCatalogs[reg]; ok {
		r, _ := static(c.table, object)
		return r != nil, r != nil
	}
	// Operator classes and families, conversions, statistics, text search objects.
	for _, name := range []string{"pg_opclass", "pg_opfamily", "pg_conversion", "pg_ts_parser", "pg_ts_template"} {
		if r, _ := static(name, object); r != nil {
			return true, true
		}
	}
	return false, false
}

// ObjectName implements types.NameResolver.
func (f *Functions) ObjectName(reg, object types.OID) (string, bool) {
	switch reg {
	case types.OIDRegClass:
		return f.snap().relationText(catalog.ID(object), f.Query.Path)
	case types.OIDRegNamespace:
		n := f.snap().schemaName(catalog.ID(object))
		return catalog.QuoteIdent(n), n != ""
	case types.OIDRegRole:
		if d, ok := f.snap().byID[catalog.ID(object)].(*catalog.Role); ok {
			return catalog.QuoteIdent(d.Name), true
		}
		return "", false
	case types.OIDRegType:
		if _, ok := types.Lookup(object); ok {
			return types.FormatType(object, -1), true
		}
		return "", false
	}
	c, ok := regCatalogs[reg]
	if !ok {
		return "", false
	}
	r, t := static(c.table, object)
	if r == nil {
		return "", false
	}
	name := r[t.pos[c.name]].Str()
	switch reg {
	case types.OIDRegProcedure:
		return catalog.QuoteIdent(name) + "(" + argumentList(r[t.pos["proargtypes"]]) + ")", true
	case types.OIDRegOperator:
		arg := func(col string) string {
			if o := types.OID(r[t.pos[col]].Int()); o != 0 {
				return types.FormatType(o, -1)
			}
			return "NONE"
		}
		return name + "(" + arg("oprleft") + "," + arg("oprright") + ")", true
	case types.OIDRegOper:
		if overloaded("pg_operator", "oprname", name) {
			return "pg_catalog." + name, true
		}
		return name, true
	case types.OIDRegProc:
		if overloaded("pg_proc", "proname", name) {
			return "pg_catalog." + catalog.QuoteIdent(name), true
		}
	}
	return catalog.QuoteIdent(name), true
}

// overloaded reports whether a name alone does not say which object is meant.
func overloaded(tableName, column, name string) bool {
	t := all()[catalog.CatalogSchema][tableName]
	rows, err := t.static.load(t)
	if err != nil {
		return false
	}
	n := 0
	for _, r := range rows {
		if r[t.pos[column]].Str() == name {
			n++
		}
	}
	return n > 1
}

func argumentList(d types.Datum) string {
	if d.IsNull() {
		return ""
	}
	var out []string
	for _, v := range d.Array().Values {
		out = append(out, types.FormatType(types.OID(v.Int()), -1))
	}
	return strings.Join(out, ",")
}

// ObjectOID implements types.NameResolver.
func (f *Functions) ObjectOID(reg types.OID, name string) (types.OID, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil && reg != types.OIDOID {
		return types.OID(n), nil
	}
	parts, err := SplitName(name)
	if err != nil {
		return 0, err
	}
	last := parts[len(parts)-1]
	if reg == types.OIDOID { // a database, in builtins' convention
		return f.database(last)
	}
	schema := ""
	if len(parts) > 1 {
		schema = parts[len(parts)-2]
	}
	switch reg {
	case types.OIDRegClass:
		if len(parts) > 3 || len(parts) == 3 && parts[0] != f.Query.Path.DatabaseName {
			return 0, pgerror.New(pgerrcode.FeatureNotSupported, "cross-database references are not implemented: %q", name)
		}
		r, err := f.Query.Catalog.ResolveRelation(f.Ctx, f.Query.Path, schema, last)
		if err != nil {
			return 0, err
		}
		if r == nil {
			return 0, catalog.NoRelation(schema, last)
		}
		if r.Virtual != "" {
			return types.OID(all()[r.Schema][r.Virtual].id), nil
		}
		return types.OID(r.ID()), nil
	case types.OIDRegNamespace:
		id, ok, err := f.Query.Catalog.ResolveSchema(f.Ctx, f.Query.Path.Database, last)
		if err == nil && !ok {
			err = catalog.NoSchema(last)
		}
		return types.OID(id), err
	case types.OIDRegRole:
		r, err := f.Query.Catalog.ResolveRole(f.Ctx, last)
		if err == nil && r == nil {
			err = pgerror.New(pgerrcode.UndefinedObject, "role %q does not exist", last)
		}
		if err != nil {
			return 0, err
		}
		return types.OID(r.ID), nil
	case types.OIDRegType:
		return regtype(name, last, schema)
	}
	return regStatic(reg, name, last, schema)
}

func (f *Functions) database(name string) (types.OID, error) {
	d, err := f.Query.Catalog.ResolveDatabase(f.Ctx, name)
	if err == nil && d == nil {
		err = pgerror.New(pgerrcode.InvalidCatalogName, "database %q does not exist", name)
	}
	if err != nil {
		return 0, err
	}
	return types.OID(d.ID), nil
}

// regtype resolves a type as the regtype input does: SQL names, modifiers and [] included.
func regtype(name, last, schema string) (types.OID, error) {
	missing := pgerror.New(pgerrcode.UndefinedObject, "type %q does not exist", strings.TrimSpace(name))
	base, array := strings.TrimSpace(name), false
	if b, ok := strings.CutSuffix(base, "[]"); ok {
		base, array = strings.TrimSpace(b), true
	}
	if i := strings.IndexByte(base, '('); i >= 0 && strings.Contains(base[i:], ")") {
		base = strings.TrimSpace(base[:i]) + base[i+strings.IndexByte(base[i:], ')')+1:]
	}
	t, ok := types.LookupName(strings.ToLower(base))
	if !ok {
		if schema != "" && schema != catalog.CatalogSchema {
			return 0, missing
		}
		if t, ok = types.LookupName(strings.TrimSuffix(last, "[]")); !ok {
			return 0, missing
		}
	}
	if array {
		if t.Array == 0 {
			return 0, missing
		}
		return t.Array, nil
	}
	return t.OID, nil
}

func regStatic(reg types.OID, name, last, schema string) (types.OID, error) {
	c, ok := regCatalogs[reg]
	if !ok {
		return 0, pgerror.New(pgerrcode.FeatureNotSupported, "names of this kind of object are not supported: %q", name)
	}
	word := map[string]string{"pg_proc": "function", "pg_operator": "operator", "pg_collation": "collation", "pg_ts_config": "text search configuration",
		"pg_ts_dict": "text search dictionary"}[c.table]
	missing := func() error {
		code := pgerrcode.UndefinedObject
		if c.table == "pg_proc" || c.table == "pg_operator" {
			code = pgerrcode.UndefinedFunction
		}
		return pgerror.New(code, "%s %q does not exist", word, name)
	}
	if schema != "" && schema != catalog.CatalogSchema {
		return 0, missing()
	}
	args := ""
	hasArgs := reg == types.OIDRegProcedure || reg == types.OIDRegOperator
	if hasArgs {
		i := strings.IndexByte(last, '(')
		if i < 0 || !strings.HasSuffix(last, ")") {
			return 0, pgerror.New(pgerrcode.InvalidTextRepresentation, "expected a left parenthesis")
		}
		args, last = last[i+1:len(last)-1], last[:i]
	}
	t := all()[catalog.CatalogSchema][c.table]
	rows, err := t.static.load(t)
	if err != nil {
		return 0, err
	}
	var found []types.OID
	for _, r := range rows {
		if r[t.pos[c.name]].Str() != last {
			continue
		}
		if hasArgs {
			if same, err := sameArguments(r, t, args); err != nil || !same {
				if err != nil {
					return 0, err
				}
				continue
			}
		}
		found = append(found, types.OID(r[t.pos["oid"]].Int()))
	}
	switch len(found) {
	case 0:
		return 0, missing()
	case 1:
		return found[0], nil
	}
	return 0, pgerror.New(pgerrcode.AmbiguousFunction, "more than one %s named %q", word, last)
}

func sameArguments(r []types.Datum, t *table, args string) (bool, error) {
	var want []types.OID
	for _, a := range strings.Split(args, ",") {
		a = strings.TrimSpace(a)
		switch {
		case a == "" && args == "":
		case strings.EqualFold(a, "none"):
			want = append(want, 0)
		default:
			o, err := regtype(a, a, "")
			if err != nil {
				return false, err
			}
			want = append(want, o)
		}
	}
	var have []types.OID
	if p, ok := t.pos["proargtypes"]; ok {
		for _, v := range r[p].Array().Values {
			have = append(have, types.OID(v.Int()))
		}
	} else {
		have = []types.OID{types.OID(r[t.pos["oprleft"]].Int()), types.OID(r[t.pos["oprright"]].Int())}
	}
	if len(have) != len(want) {
		return false, nil
	}
	for i := range have {
		if have[i] != want[i] {
			return false, nil
		}
	}
	return true, nil
}

// SplitName splits a qualified name as SQL writes it: quoted parts keep their case, others
// are folded (PostgreSQL's stringToQualifiedNameList).
func SplitName(s string) ([]string, error) {
	bad := pgerror.New(pgerrcode.InvalidName, "invalid name syntax")
	var out []string
	for i := 0; ; {
		for i < len(s) && s[i] == ' ' {
			i++
		}
		var part strings.Builder
		if i < len(s) && s[i] == '"' {
			for i++; ; i++ {
				if i >= len(s) {
					return nil, bad
				}
				if s[i] == '"' {
					if i+1 < len(s) && s[i+1] == '"' {
						i++
					} else {
						i++
						break
					}
				}
				part.WriteByte(s[i])
			}
		} else {
			depth := 0
			for ; i < len(s) && (depth > 0 || s[i] != '.'); i++ {
				switch s[i] {
				case '(':
					depth++
				case ')':
					depth--
				case '"':
					return nil, bad
				}
				part.WriteByte(s[i])
			}
			folded := strings.ToLower(strings.TrimSpace(part.String()))
			part.Reset()
			part.WriteString(folded)
		}
		if part.Len() == 0 {
			return nil, bad
		}
		out = append(out, part.String())
		for i < len(s) && s[i] == ' ' {
			i++
		}
		if i >= len(s) {
			return out, nil
		}
		if s[i] != '.' {
			return nil, bad
		}
		i++
	}
}

// Definition implements builtins.Catalog.
func (f *Functions) Definition(kind builtins.Definition, object types.OID, column int, pretty bool) (string, bool, error) {
	s, err := f.snapshot()
	if err != nil {
		return "", false, err
	}
	id := catalog.ID(object)
	switch kind {
	case builtins.IndexDef:
		t, ix := s.index(id)
		if ix == nil {
			return "", false, nil
		}
		return s.indexDef(t, ix, column, pretty, f.Query.Path), true, nil
	case builtins.ConstraintDef:
		for _, t := range s.tables {
			for i := range t.Constraints {
				if c := &t.Constraints[i]; c.ID == id {
					return s.constraintDef(t, c, pretty, f.Query.Path), true, nil
				}
			}
		}
	case builtins.ViewDef:
		if v, ok := s.byID[id].(*catalog.View); ok {
			return v.Query, true, nil
		}
	case builtins.SerialSequence:
		t, ok := s.byID[id].(*catalog.Table)
		if !ok {
			return "", false, nil
		}
		c := t.ColumnByID(catalog.ColumnID(column))
		if c == nil || c.Sequence == 0 {
			return "", false, nil
		}
		q, ok := s.byID[c.Sequence].(*catalog.Sequence)
		if !ok {
			return "", false, nil
		}
		return catalog.QuoteIdent(s.schemaName(q.Schema)) + "." + catalog.QuoteIdent(q.Name), true, nil
	}
	return "", false, nil
}

// Comment implements builtins.Catalog. class 0 means any catalog.
func (f *Functions) Comment(class, object types.OID, column int) (string, bool) {
	for _, c := range f.snap().comments {
		if c.Object == uint32(object) && int(c.Sub) == column && (class == 0 || types.OID(c.ClassOID) == class) {
			return c.Text, true
		}
	}
	if c, ok := descriptions()[[2]types.OID{class, object}]; ok && column == 0 {
		return c, true
	}
	return "", false
}

// HasPrivilege implements builtins.Catalog.
func (f *Functions) HasPrivilege(role, class, object types.OID, column int, privilege string) (has, exists bool, err error) {
	s, err := f.snapshot()
	if err != nil {
		return false, false, err
	}
	var names []string
	for _, p := range strings.Split(privilege, ",") {
		p = strings.ToUpper(strings.TrimSpace(p))
		p = strings.TrimSuffix(p, " WITH GRANT OPTION")
		names = append(names, p)
	}
	if class == types.OIDRegRole {
		return f.hasRole(role, catalog.ID(object), s)
	}
	var want catalog.Privilege
	for _, p := range names {
		bit := catalog.ParsePrivilege(p)
		if bit == 0 {
			return false, false, pgerror.New(pgerrcode.InvalidParameterValue, "unrecognized privilege type: %q", p)
		}
		want |= bit
	}
	if _, v := byID()[catalog.ID(object)]; v || catalog.VirtualSchemaName(catalog.ID(object)) != "" || catalog.ID(object) == catalog.ToastSchemaID {
		ok := want&(catalog.PrivSelect|catalog.PrivUsage) != 0
		if !ok {
			r, isRole := s.byID[catalog.ID(role)].(*catalog.Role)
			ok = isRole && r.Superuser
		}
		return ok, true, nil
	}
	if class != types.OIDRegClass && class != types.OIDRegNamespace && class != types.OIDOID {
		r, _ := f.Visible(class, object)
		return r, r, nil // PostgreSQL's own types and functions: usable by PUBLIC
	}
	d := s.byID[catalog.ID(object)]
	if d == nil {
		return false, false, nil
	}
	ok, err := f.Query.Catalog.HasPrivilege(f.Ctx, catalog.ID(role), d, want, true)
	return ok, true, err
}

func (f *Functions) hasRole(role types.OID, object catalog.ID, s *snapshot) (bool, bool, error) {
	if _, ok := s.byID[object].(*catalog.Role); !ok {
		return false, false, nil
	}
	if r, ok := s.byID[catalog.ID(role)].(*catalog.Role); ok && r.Superuser {
		return true, true, nil
	}
	in, err := f.Query.Catalog.MemberOf(f.Ctx, catalog.ID(role))
	return in[object], true, err
}

// Column implements builtins.Catalog.
func (f *Functions) Column(tableOID types.OID, name string) (int, error) {
	missing := func(rel string) error {
		return pgerror.New(pgerrcode.UndefinedColumn, "column %q of relation %q does not exist", name, rel)
	}
	if t := byID()[catalog.ID(tableOID)]; t != nil {
		if p, ok := t.pos[name]; ok {
			return p + 1, nil
		}
		return 0, missing(t.name)
	}
	s, err := f.snapshot()
	if err != nil {
		return 0, err
	}
	t, ok := s.byID[catalog.ID(tableOID)].(*catalog.Table)
	if !ok {
		return 0, pgerror.New(pgerrcode.UndefinedTable, "relation with OID %d does not exist", tableOID)
	}
	if c := t.ColumnByName(name); c != nil {
		return int(c.ID), nil
	}
	return 0, missing(t.Name)
}

// Size implements builtins.Catalog.
func (f *Functions) Size(class, object types.OID, indexesToo bool) (int64, bool, error) {
	s, err := f.snapshot()
	if err != nil {
		return 0, false, err
	}
	size := func(id catalog.ID) (int64, error) {
		if f.SizeOf == nil {
			st, err := f.Query.Catalog.Statistics(f.Ctx, id)
			if err != nil || st == nil {
				return 0, err
			}
			return st.Bytes, nil
		}
		return f.SizeOf(f.Ctx, id)
	}
	if class == types.OIDRegClass {
		if byID()[catalog.ID(object)] != nil {
			return 0, true, nil
		}
		if _, _, ok := s.relation(catalog.ID(object)); !ok {
			return 0, false, nil
		}
		n, err := size(catalog.ID(object))
		return n, true, err
	}
	d, ok := s.byID[catalog.ID(object)].(*catalog.Database)
	if !ok {
		return 0, false, nil
	}
	if d.ID != s.db {
		return 0, true, nil // its tables are not in this snapshot
	}
	var sum int64
	for _, t := range s.tables {
		n, err := size(t.ID)
		if err != nil {
			return 0, true, err
		}
		sum += n
	}
	return sum, true, nil
}
