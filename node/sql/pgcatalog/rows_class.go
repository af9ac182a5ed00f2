package pgcatalog

import (
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/types"
)

// OIDs of access methods.
const (
	heapAM  = 2
	btreeAM = 403
)

// catalogRows are the relations of pg_catalog with rows of their own; the others have
// PostgreSQL's static rows or none.
var catalogRows map[string]func(*scan) error

func init() {
	catalogRows = map[string]func(*scan) error{
		"pg_class": pgClass, "pg_attribute": pgAttribute, "pg_attrdef": pgAttrdef, "pg_index": pgIndex,
		"pg_constraint": pgConstraint, "pg_namespace": pgNamespace, "pg_sequence": pgSequence,
		"pg_database": pgDatabase, "pg_roles": pgRoles, "pg_authid": pgRoles, "pg_user": pgUser, "pg_shadow": pgUser,
		"pg_group": pgGroup, "pg_auth_members": pgAuthMembers, "pg_settings": pgSettings, "pg_description": pgDescription,
		"pg_shdescription": pgShdescription, "pg_depend": pgDepend, "pg_tables": pgTables, "pg_indexes": pgIndexes,
		"pg_sequences": pgSequences, "pg_views": pgViews, "pg_stat_activity": pgStatActivity,
		"pg_stat_all_tables": statTables(true), "pg_stat_user_tables": statTables(false),
		"pg_statio_all_tables": statTables(true), "pg_statio_user_tables": statTables(false),
		"pg_stat_database": pgStatDatabase,
	}
}

func pgClass(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, t := range virtualTables() {
		am := 0
		if t.kind == 'r' {
			am = heapAM
		}
		if err := s.class(t.id, t.name, catalog.VirtualSchemaID(t.schema), catalog.SuperuserID, t.kind, am, len(t.cols), nil); err != nil {
			return err
		}
	}
	for _, t := range snap.tables {
		if err := s.tableClass(snap, t); err != nil {
			return err
		}
	}
	for _, q := range snap.sequences {
		if err := s.class(q.ID, q.Name, q.Schema, q.Owner, 'S', 0, 3, map[string]any{"relpages": 1, "reltuples": 1,
			"relacl": s.acls(snap, q.ACL)}); err != nil {
			return err
		}
	}
	for _, v := range snap.views {
		if err := s.class(v.ID, v.Name, v.Schema, v.Owner, 'v', 0, len(v.Columns), map[string]any{"relhasrules": true}); err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) acls(snap *snapshot, items []catalog.ACLItem) any {
	if len(items) == 0 {
		return nil
	}
	return snap.acl(items)
}

func (s *scan) tableClass(snap *snapshot, t *catalog.Table) error {
	checks := 0
	for _, c := range t.Constraints {
		if c.Kind == catalog.CheckConstraint {
			checks++
		}
	}
	pages, tuples := -1, types.NewFloat(-1)
	if st, err := s.q.Catalog.Statistics(s.ctx, t.ID); err != nil {
		return err
	} else if st != nil {
		pages, tuples = int((st.Bytes+8191)/8192), types.NewFloat(float64(st.Rows))
	}
	var opts any
	if len(t.Options) > 0 {
		opts = t.Options
	}
	err := s.class(t.ID, t.Name, t.Schema, t.Owner, 'r', heapAM, int(t.NextColumn)-1, map[string]any{
		"relpages": max(pages, 0), "reltuples": tuples, "relhasindex": len(indexes(t)) > 0, "relchecks": checks,
		"relpersistence": byte(t.Persistence), "relacl": s.acls(snap, t.ACL), "reloptions": opts,
	})
	if err != nil {
		return err
	}
	for _, ix := range indexes(t) {
		var opts any
		if len(ix.Options) > 0 {
			opts = ix.Options
		}
		err := s.class(ix.ID, ix.Name, t.Schema, t.Owner, 'i', btreeAM, len(ix.Columns)+len(ix.Stored), map[string]any{
			"relpersistence": byte(t.Persistence), "relpages": 1, "reltuples": tuples, "reloptions": opts})
		if err != nil {
			return err
		}
	}
	return nil
}

// class emits a row of pg_class.
func (s *scan) class(id catalog.ID, name string, schema, owner catalog.ID, kind byte, am, natts int, more map[string]any) error {
	ident := byte('d')
	if catalog.VirtualSchemaName(schema) != "" || kind != 'r' {
		ident = 'n'
	}
	filenode := id
	if kind == 'v' {
		filenode = 0
	}
	row := []any{"oid", id, "relname", name, "relnamespace", schema, "reltype", 0, "reloftype", 0, "relowner", owner, "relam", am,
		"relfilenode", filenode, "reltablespace", 0, "relpages", 0, "reltuples", types.NewFloat(0), "relallvisible", 0, "reltoastrelid", 0,
		"relhasindex", false, "relisshared", false, "relpersistence", "p", "relkind", kind, "relnatts", natts, "relchecks", 0,
		"relhasrules", false, "relhastriggers", false, "relhassubclass", false, "relrowsecurity", false, "relforcerowsecurity", false,
		"relispopulated", true, "relreplident", ident, "relispartition", false, "relrewrite", 0, "relfrozenxid", 0, "relminmxid", 0}
	for k, v := range more {
		row = append(row, k, v)
	}
	return s.row(row...)
}

func pgAttribute(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	var only catalog.ID
	if d, ok := s.q.Equal[1]; ok && !d.IsNull() && d.Kind() == types.KindInt { // attrelid
		only = catalog.ID(d.Int())
	}
	skip := func(id catalog.ID) bool { return only != 0 && only != id }
	for _, t := range virtualTables() {
		if skip(t.id) {
			continue
		}
		for i := range t.cols {
			if err := s.attribute(t.id, i+1, &t.cols[i]); err != nil {
				return err
			}
		}
	}
	for _, t := range snap.tables {
		if !skip(t.ID) {
			for _, c := range t.VisibleColumns() {
				if err := s.attribute(t.ID, int(c.ID), c); err != nil {
					return err
				}
			}
		}
		for _, ix := range indexes(t) {
			if skip(ix.ID) {
				continue
			}
			for i, id := range indexColumns(ix) {
				c := *t.ColumnByID(id)
				if err := s.attribute(ix.ID, i+1, &catalog.Column{Name: c.Name, Type: c.Type, StatTarget: -1}); err != nil {
					return err
				}
			}
		}
	}
	for _, q := range snap.sequences {
		if skip(q.ID) {
			continue
		}
		for i, c := range SequenceColumns {
			if err := s.attribute(q.ID, i+1, &c); err != nil {
				return err
			}
		}
	}
	return nil
}

// SequenceColumns are what SELECT * FROM a sequence returns.
var SequenceColumns = []catalog.Column{
	{ID: 1, Name: "last_value", Type: catalog.TypeRef{OID: types.OIDInt8, Mod: -1}, NotNull: true, State: catalog.StatePublic, StatTarget: -1},
	{ID: 2, Name: "log_cnt", Type: catalog.TypeRef{OID: types.OIDInt8, Mod: -1}, NotNull: true, State: catalog.StatePublic, StatTarget: -1},
	{ID: 3, Name: "is_called", Type: catalog.TypeRef{OID: types.OIDBool, Mod: -1}, NotNull: true, State: catalog.StatePublic, StatTarget: -1},
}

func indexColumns(ix *catalog.Index) []catalog.ColumnID {
	var out []catalog.ColumnID
	for _, c := range ix.Columns {
		out = append(out, c.Column)
	}
	return append(out, ix.Stored...)
}

func (s *scan) attribute(rel catalog.ID, num int, c *catalog.Column) error {
	t, ok := types.Lookup(c.Type.OID)
	if !ok {
		t = &types.Type{Len: -1, Align: 'i', Storage: 'x'}
	}
	dims := 0
	if t.IsArray() {
		dims = 1
	}
	identity := ""
	if c.Identity != catalog.NoIdentity {
		identity = string(rune(c.Identity))
	}
	collation := t.Collation
	switch c.Collation {
	case "C":
		collation = 950
	case "POSIX":
		collation = 951
	}
	var missing any
	if c.HasMissing {
		missing = nil // anyarray: shown by nothing that tools use
	}
	return s.row("attrelid", rel, "attname", c.Name, "atttypid", c.Type.OID, "attstattarget", c.StatTarget, "attlen", t.Len,
		"attnum", num, "attndims", dims, "attcacheoff", -1, "atttypmod", c.Type.Mod, "attbyval", t.ByVal, "attalign", t.Align,
		"attstorage", t.Storage, "attcompression", "", "attnotnull", c.NotNull, "atthasdef", c.Default != "", "atthasmissing", c.HasMissing,
		"attidentity", identity, "attgenerated", "", "attisdropped", false, "attislocal", true, "attinhcount", 0,
		"attcollation", collation, "attmissingval", missing)
}

func pgAttrdef(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, t := range snap.tables {
		for _, c := range t.VisibleColumns() {
			if c.Default == "" {
				continue
			}
			if err := s.row("oid", attrdefOID(t, c), "adrelid", t.ID, "adnum", c.ID, "adbin", snap.expr(c.Default, s.q.Path)); err != nil {
				return err
			}
		}
	}
	return nil
}

// attrdefOID makes up an OID for a default, which has none here: distinct per column.
func attrdefOID(t *catalog.Table, c *catalog.Column) int64 {
	return int64(uint32(t.ID)*2048+uint32(c.ID)) | 1<<31
}

func pgIndex(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, t := range snap.tables {
		for _, ix := range indexes(t) {
			var classes, collations, options []int64
			for _, c := range ix.Columns {
				col := t.ColumnByID(c.Column)
				classes = append(classes, opclassOf(col.Type.OID))
				var coll int64
				if ty, ok := types.Lookup(col.Type.OID); ok {
					coll = int64(ty.Collation)
				}
				collations = append(collations, coll)
				var o int64 // INDOPTION_DESC, INDOPTION_NULLS_FIRST
				if c.Dir == catalog.Descending {
					o |= 1
				}
				if c.NullsFirst {
					o |= 2
				}
				options = append(options, o)
			}
			err := s.row("indexrelid", ix.ID, "indrelid", t.ID, "indnatts", len(ix.Columns)+len(ix.Stored), "indnkeyatts", len(ix.Columns),
				"indisunique", ix.Unique, "indnullsnotdistinct", ix.NullsNotDistinct, "indisprimary", ix.Primary, "indisexclusion", false,
				"indimmediate", true, "indisclustered", false, "indisvalid", ix.State == catalog.StatePublic, "indcheckxmin", false,
				"indisready", ix.State >= catalog.StateWriteOnly, "indislive", true, "indisreplident", false,
				"indkey", ordinals(indexColumns(ix)), "indcollation", collations, "indclass", classes, "indoption", options)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func pgConstraint(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, t := range snap.tables {
		for i := range t.Constraints {
			c := &t.Constraints[i]
			act := func(b byte) any {
				if c.Kind != catalog.ForeignKeyConstraint {
					return " "
				}
				return b
			}
			row := []any{"oid", c.ID, "conname", c.Name, "connamespace", t.Schema, "contype", byte(c.Kind), "condeferrable", c.Deferrable,
				"condeferred", c.Deferred, "convalidated", c.Validated, "conrelid", t.ID, "contypid", 0, "conindid", c.Index, "conparentid", 0,
				"confrelid", c.RefTable, "confupdtype", act(c.OnUpdate), "confdeltype", act(c.OnDelete), "confmatchtype", act(c.MatchType),
				"conislocal", true, "coninhcount", 0, "connoinherit", c.Kind != catalog.CheckConstraint || c.NoInherit}
			if len(c.Columns) > 0 {
				row = append(row, "conkey", ordinals(c.Columns))
			}
			if len(c.RefColumns) > 0 {
				row = append(row, "confkey", ordinals(c.RefColumns))
			}
			if c.Kind == catalog.CheckConstraint {
				row = append(row, "conbin", c.Expr)
			}
			if err := s.row(row...); err != nil {
				return err
			}
		}
	}
	return nil
}

func pgNamespace(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	usage := []catalog.ACLItem{{Grantee: catalog.SuperuserID, Grantor: catalog.SuperuserID, Privs: catalog.PrivUsage | catalog.PrivCreate},
		{Grantor: catalog.SuperuserID, Privs: catalog.PrivUsage}}
	for _, name := range []string{catalog.CatalogSchema, catalog.InfoSchema, catalog.AtollSchema} {
		if err := s.row("oid", catalog.VirtualSchemaID(name), "nspname", name, "nspowner", catalog.SuperuserID, "nspacl", snap.acl(usage)); err != nil {
			return err
		}
	}
	if err := s.row("oid", catalog.ToastSchemaID, "nspname", "pg_toast", "nspowner", catalog.SuperuserID); err != nil {
		return err
	}
	for _, d := range snap.schemas {
		if err := s.row("oid", d.ID, "nspname", d.Name, "nspowner", d.Owner, "nspacl", s.acls(snap, d.ACL)); err != nil {
			return err
		}
	}
	return nil
}

func pgSequence(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, q := range snap.sequences {
		if err := s.row("seqrelid", q.ID, "seqtypid", q.Type, "seqstart", q.Start, "seqincrement", q.Increment, "seqmax", q.Max,
			"seqmin", q.Min, "seqcache", q.Cache, "seqcycle", q.Cycle); err != nil {
			return err
		}
	}
	return nil
}

// pgDepend has what tools look for: which column owns a sequence, and which table an index
// or default belongs to.
func pgDepend(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	dep := func(class uint32, obj, sub any, refClass uint32, ref, refSub any, kind string) error {
		return s.row("classid", int64(class), "objid", obj, "objsubid", sub, "refclassid", int64(refClass), "refobjid", ref, "refobjsubid", refSub, "deptype", kind)
	}
	for _, q := range snap.sequences {
		if q.OwnerTable != 0 {
			kind := "a"
			if q.Identity {
				kind = "i"
			}
			if err := dep(catalog.ClassOIDRelation, q.ID, 0, catalog.ClassOIDRelation, q.OwnerTable, q.OwnerColumn, kind); err != nil {
				return err
			}
		}
		if err := dep(catalog.ClassOIDRelation, q.ID, 0, catalog.ClassOIDSchema, q.Schema, 0, "n"); err != nil {
			return err
		}
	}
	for _, t := range snap.tables {
		if err := dep(catalog.ClassOIDRelation, t.ID, 0, catalog.ClassOIDSchema, t.Schema, 0, "n"); err != nil {
			return err
		}
		for _, c := range t.VisibleColumns() {
			if c.Default == "" {
				continue
			}
			def := attrdefOID(t, c)
			if err := dep(catalog.ClassOIDAttrdef, def, 0, catalog.ClassOIDRelation, t.ID, c.ID, "a"); err != nil {
				return err
			}
			if c.Sequence != 0 {
				if err := dep(catalog.ClassOIDAttrdef, def, 0, catalog.ClassOIDRelation, c.Sequence, 0, "n"); err != nil {
					return err
				}
			}
		}
		for i := range t.Constraints {
			c := &t.Constraints[i]
			for _, id := range c.Columns {
				if err := dep(catalog.ClassOIDConstraint, c.ID, 0, catalog.ClassOIDRelation, t.ID, id, "a"); err != nil {
					return err
				}
			}
			if c.Index != 0 && c.Kind != catalog.ForeignKeyConstraint {
				if err := dep(catalog.ClassOIDRelation, c.Index, 0, catalog.ClassOIDConstraint, c.ID, 0, "i"); err != nil {
					return err
				}
			}
		}
		for _, ix := range indexes(t) {
			if ix.Constraint {
				continue
			}
			for _, id := range indexColumns(ix) {
				if err := dep(catalog.ClassOIDRelation, ix.ID, 0, catalog.ClassOIDRelation, t.ID, id, "a"); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func pgDescription(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, c := range snap.comments {
		if c.ClassOID == catalog.ClassOIDDatabase || c.ClassOID == catalog.ClassOIDRole {
			continue
		}
		if err := s.row("objoid", int64(c.Object), "classoid", int64(c.ClassOID), "objsubid", c.Sub, "description", c.Text); err != nil {
			return err
		}
	}
	return nil
}

func pgShdescription(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, c := range snap.comments {
		if c.ClassOID != catalog.ClassOIDDatabase && c.ClassOID != catalog.ClassOIDRole {
			continue
		}
		if err := s.row("objoid", int64(c.Object), "classoid", int64(c.ClassOID), "description", c.Text); err != nil {
			return err
		}
	}
	return nil
}
