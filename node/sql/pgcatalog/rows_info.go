package pgcatalog

import (
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/types"
)

// infoRows are the relations of information_schema that have rows.
var infoRows map[string]func(*scan) error

func init() {
	infoRows = map[string]func(*scan) error{
		"information_schema_catalog_name": infoCatalogName, "schemata": infoSchemata, "tables": infoTables, "columns": infoColumns,
		"table_constraints": infoTableConstraints, "key_column_usage": infoKeyColumnUsage, "constraint_column_usage": infoConstraintColumnUsage,
		"constraint_table_usage": infoConstraintTableUsage, "check_constraints": infoCheckConstraints, "sequences": infoSequences,
		"views": infoViews, "enabled_roles": infoEnabledRoles, "applicable_roles": infoApplicableRoles,
		"table_privileges": infoTablePrivileges, "role_table_grants": infoTablePrivileges, "referential_constraints": infoReferential,
	}
}

func infoCatalogName(s *scan) error { return s.row("catalog_name", s.q.Path.DatabaseName) }

func infoSchemata(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	db := snap.databaseName()
	emit := func(name string, owner catalog.ID) error {
		return s.row("catalog_name", db, "schema_name", name, "schema_owner", snap.roleName(owner))
	}
	for _, n := range []string{catalog.CatalogSchema, catalog.InfoSchema, catalog.AtollSchema} {
		if err := emit(n, catalog.SuperuserID); err != nil {
			return err
		}
	}
	for _, d := range snap.schemas {
		if err := emit(d.Name, d.Owner); err != nil {
			return err
		}
	}
	return nil
}

func infoTables(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	db := snap.databaseName()
	emit := func(schema, name, kind string, insertable bool) error {
		return s.row("table_catalog", db, "table_schema", schema, "table_name", name, "table_type", kind,
			"is_insertable_into", insertable, "is_typed", false)
	}
	for _, t := range virtualTables() {
		kind := "VIEW"
		if t.kind == 'r' {
			kind = "BASE TABLE"
		}
		if err := emit(t.schema, t.name, kind, t.kind == 'r'); err != nil {
			return err
		}
	}
	for _, t := range snap.tables {
		ok, err := s.may(t)
		if err != nil {
			return err
		}
		if ok {
			if err := emit(snap.schemaName(t.Schema), t.Name, "BASE TABLE", true); err != nil {
				return err
			}
		}
	}
	for _, v := range snap.views {
		if err := emit(snap.schemaName(v.Schema), v.Name, "VIEW", false); err != nil {
			return err
		}
	}
	return nil
}

// may reports whether the user may do anything at all with a table.
func (s *scan) may(d catalog.Descriptor) (bool, error) {
	if s.q.User == 0 {
		return true, nil
	}
	return s.q.Catalog.HasPrivilege(s.ctx, s.q.User, d, catalog.AllPrivileges(d.Kind()), true)
}

func infoColumns(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, t := range virtualTables() {
		for i := range t.cols {
			if err := s.infoColumn(snap, t.schema, t.name, i+1, &t.cols[i], t.kind == 'r'); err != nil {
				return err
			}
		}
	}
	for _, t := range snap.tables {
		ok, err := s.may(t)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		for _, c := range t.VisibleColumns() {
			if err := s.infoColumn(snap, snap.schemaName(t.Schema), t.Name, int(c.ID), c, true); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *scan) infoColumn(snap *snapshot, schema, table string, num int, c *catalog.Column, updatable bool) error {
	db := snap.databaseName()
	t, ok := types.Lookup(c.Type.OID)
	name, full := "", ""
	if ok {
		name, full = t.Name, types.TypeName(c.Type.OID)
		if t.IsArray() {
			full = "ARRAY"
		}
	}
	row := []any{"table_catalog", db, "table_schema", schema, "table_name", table, "column_name", c.Name, "ordinal_position", num,
		"is_nullable", !c.NotNull, "data_type", full, "udt_catalog", db, "udt_schema", catalog.CatalogSchema, "udt_name", name,
		"dtd_identifier", num, "is_self_referencing", false, "is_identity", c.Identity != catalog.NoIdentity, "is_generated", "NEVER",
		"identity_cycle", false, "is_updatable", updatable}
	if c.Default != "" {
		row = append(row, "column_default", snap.expr(c.Default, s.q.Path))
	}
	row = append(row, typeFacets(c.Type)...)
	if c.Collation != "" {
		row = append(row, "collation_catalog", db, "collation_schema", catalog.CatalogSchema, "collation_name", c.Collation)
	}
	if q, ok := snap.byID[c.Sequence].(*catalog.Sequence); ok && c.Identity != catalog.NoIdentity {
		gen := "BY DEFAULT"
		if c.Identity == catalog.IdentityAlways {
			gen = "ALWAYS"
		}
		row = append(row, "identity_generation", gen, "identity_start", q.Start, "identity_increment", q.Increment,
			"identity_maximum", q.Max, "identity_minimum", q.Min, "identity_cycle", q.Cycle)
	}
	return s.row(row...)
}

// typeFacets are the length, precision and scale columns, by PostgreSQL's
// information_schema functions.
func typeFacets(t catalog.TypeRef) []any {
	switch t.OID {
	case types.OIDVarChar, types.OIDBPChar:
		if n, ok := types.CharLimit(t.Mod); ok {
			return []any{"character_maximum_length", n, "character_octet_length", n * 4}
		}
		return []any{"character_octet_length", 1 << 30}
	case types.OIDText:
		return []any{"character_octet_length", 1 << 30}
	case types.OIDInt2:
		return []any{"numeric_precision", 16, "numeric_precision_radix", 2, "numeric_scale", 0}
	case types.OIDInt4:
		return []any{"numeric_precision", 32, "numeric_precision_radix", 2, "numeric_scale", 0}
	case types.OIDInt8:
		return []any{"numeric_precision", 64, "numeric_precision_radix", 2, "numeric_scale", 0}
	case types.OIDFloat4:
		return []any{"numeric_precision", 24, "numeric_precision_radix", 2}
	case types.OIDFloat8:
		return []any{"numeric_precision", 53, "numeric_precision_radix", 2}
	case types.OIDNumeric:
		if p, sc, ok := types.NumericTypmod(t.Mod); ok {
			return []any{"numeric_precision", p, "numeric_precision_radix", 10, "numeric_scale", sc}
		}
		return []any{"numeric_precision_radix", 10}
	case types.OIDDate:
		return []any{"datetime_precision", 0}
	case types.OIDTime, types.OIDTimeTZ, types.OIDTimestamp, types.OIDTimestampTZ, types.OIDInterval:
		if t.Mod >= 0 && t.OID != types.OIDInterval {
			return []any{"datetime_precision", t.Mod}
		}
		return []any{"datetime_precision", 6}
	}
	return nil
}

var constraintWords = map[catalog.ConstraintKind]string{catalog.PrimaryKeyConstraint: "PRIMARY KEY", catalog.UniqueConstraint: "UNIQUE",
	catalog.CheckConstraint: "CHECK", catalog.ForeignKeyConstraint: "FOREIGN KEY"}

// eachConstraint visits the constraints of the tables that the user may see.
func (s *scan) eachConstraint(f func(snap *snapshot, schema string, t *catalog.Table, c *catalog.Constraint) error) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, t := range snap.tables {
		ok, err := s.may(t)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		for i := range t.Constraints {
			if err := f(snap, snap.schemaName(t.Schema), t, &t.Constraints[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func infoTableConstraints(s *scan) error {
	err := s.eachConstraint(func(snap *snapshot, schema string, t *catalog.Table, c *catalog.Constraint) error {
		db := snap.databaseName()
		return s.row("constraint_catalog", db, "constraint_schema", schema, "constraint_name", c.Name, "table_catalog", db,
			"table_schema", schema, "table_name", t.Name, "constraint_type", constraintWords[c.Kind], "is_deferrable", c.Deferrable,
			"initially_deferred", c.Deferred, "enforced", true, "nulls_distinct", nullsDistinct(c))
	})
	if err != nil {
		return err
	}
	// NOT NULL appears as a check, as in PostgreSQL.
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	return eachNotNull(snap, func(t *catalog.Table, c *catalog.Column, name string) error {
		db, schema := snap.databaseName(), snap.schemaName(t.Schema)
		return s.row("constraint_catalog", db, "constraint_schema", schema, "constraint_name", name, "table_catalog", db,
			"table_schema", schema, "table_name", t.Name, "constraint_type", "CHECK", "is_deferrable", false, "initially_deferred", false, "enforced", true)
	})
}

func nullsDistinct(c *catalog.Constraint) any {
	if c.Kind == catalog.UniqueConstraint {
		return "YES"
	}
	return nil
}

// eachNotNull visits NOT NULL columns under the names that PostgreSQL 15 makes up for them.
func eachNotNull(snap *snapshot, f func(*catalog.Table, *catalog.Column, string) error) error {
	for _, t := range snap.tables {
		for _, c := range t.VisibleColumns() {
			if !c.NotNull {
				continue
			}
			name := itoa(int64(t.Schema)) + "_" + itoa(int64(t.ID)) + "_" + itoa(int64(c.ID)) + "_not_null"
			if err := f(t, c, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func infoKeyColumnUsage(s *scan) error {
	return s.eachConstraint(func(snap *snapshot, schema string, t *catalog.Table, c *catalog.Constraint) error {
		if c.Kind == catalog.CheckConstraint {
			return nil
		}
		db := snap.databaseName()
		for i, id := range c.Columns {
			row := []any{"constraint_catalog", db, "constraint_schema", schema, "constraint_name", c.Name, "table_catalog", db,
				"table_schema", schema, "table_name", t.Name, "column_name", t.ColumnByID(id).Name, "ordinal_position", i + 1}
			if c.Kind == catalog.ForeignKeyConstraint {
				row = append(row, "position_in_unique_constraint", i+1)
			}
			if err := s.row(row...); err != nil {
				return err
			}
		}
		return nil
	})
}

func infoConstraintColumnUsage(s *scan) error {
	return s.eachConstraint(func(snap *snapshot, schema string, t *catalog.Table, c *catalog.Constraint) error {
		db := snap.databaseName()
		in, cols := t, c.Columns
		if c.Kind == catalog.ForeignKeyConstraint {
			r, ok := snap.byID[c.RefTable].(*catalog.Table)
			if !ok {
				return nil
			}
			in, cols = r, c.RefColumns
		}
		for _, id := range cols {
			if err := s.row("table_catalog", db, "table_schema", snap.schemaName(in.Schema), "table_name", in.Name, "column_name", in.ColumnByID(id).Name,
				"constraint_catalog", db, "constraint_schema", schema, "constraint_name", c.Name); err != nil {
				return err
			}
		}
		return nil
	})
}

func infoConstraintTableUsage(s *scan) error {
	return s.eachConstraint(func(snap *snapshot, schema string, t *catalog.Table, c *catalog.Constraint) error {
		if c.Kind == catalog.CheckConstraint {
			return nil
		}
		db := snap.databaseName()
		return s.row("table_catalog", db, "table_schema", schema, "table_name", t.Name, "constraint_catalog", db, "constraint_schema", schema, "constraint_name", c.Name)
	})
}

func infoReferential(s *scan) error {
	return s.eachConstraint(func(snap *snapshot, schema string, t *catalog.Table, c *catalog.Constraint) error {
		if c.Kind != catalog.ForeignKeyConstraint {
			return nil
		}
		db := snap.databaseName()
		rule := func(b byte) string {
			return map[byte]string{'c': "CASCADE", 'n': "SET NULL", 'd': "SET DEFAULT", 'r': "RESTRICT"}[b]
		}
		row := []any{"constraint_catalog", db, "constraint_schema", schema, "constraint_name", c.Name, "match_option", "NONE",
			"update_rule", orNoAction(rule(c.OnUpdate)), "delete_rule", orNoAction(rule(c.OnDelete))}
		if r, ok := snap.byID[c.RefTable].(*catalog.Table); ok {
			if ix := r.IndexByID(c.Index); ix != nil {
				row = append(row, "unique_constraint_catalog", db, "unique_constraint_schema", snap.schemaName(r.Schema), "unique_constraint_name", ix.Name)
			}
		}
		return s.row(row...)
	})
}

func orNoAction(s string) string {
	if s == "" {
		return "NO ACTION"
	}
	return s
}

func infoCheckConstraints(s *scan) error {
	err := s.eachConstraint(func(snap *snapshot, schema string, t *catalog.Table, c *catalog.Constraint) error {
		if c.Kind != catalog.CheckConstraint {
			return nil
		}
		return s.row("constraint_catalog", snap.databaseName(), "constraint_schema", schema, "constraint_name", c.Name,
			"check_clause", snap.expr(c.Expr, s.q.Path))
	})
	if err != nil {
		return err
	}
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	return eachNotNull(snap, func(t *catalog.Table, c *catalog.Column, name string) error {
		return s.row("constraint_catalog", snap.databaseName(), "constraint_schema", snap.schemaName(t.Schema), "constraint_name", name,
			"check_clause", catalog.QuoteIdent(c.Name)+" IS NOT NULL")
	})
}

func infoSequences(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, q := range snap.sequences {
		if q.Identity {
			continue
		}
		bits := map[types.OID]int{types.OIDInt2: 16, types.OIDInt4: 32, types.OIDInt8: 64}[q.Type]
		if err := s.row("sequence_catalog", snap.databaseName(), "sequence_schema", snap.schemaName(q.Schema), "sequence_name", q.Name,
			"data_type", types.FormatType(q.Type, -1), "numeric_precision", bits, "numeric_precision_radix", 2, "numeric_scale", 0,
			"start_value", q.Start, "minimum_value", q.Min, "maximum_value", q.Max, "increment", q.Increment, "cycle_option", q.Cycle); err != nil {
			return err
		}
	}
	return nil
}

func infoViews(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	emit := func(schema, name string) error {
		return s.row("table_catalog", snap.databaseName(), "table_schema", schema, "table_name", name, "check_option", "NONE",
			"is_updatable", false, "is_insertable_into", false, "is_trigger_updatable", false, "is_trigger_deletable", false, "is_trigger_insertable_into", false)
	}
	for _, t := range virtualTables() {
		if t.kind == 'v' {
			if err := emit(t.schema, t.name); err != nil {
				return err
			}
		}
	}
	for _, v := range snap.views {
		if err := emit(snap.schemaName(v.Schema), v.Name); err != nil {
			return err
		}
	}
	return nil
}

func infoEnabledRoles(s *scan) error {
	in, err := s.q.Catalog.MemberOf(s.ctx, s.q.User)
	if err != nil {
		return err
	}
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, r := range snap.roles {
		if in[r.ID] {
			if err := s.row("role_name", r.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func infoApplicableRoles(s *scan) error {
	in, err := s.q.Catalog.MemberOf(s.ctx, s.q.User)
	if err != nil {
		return err
	}
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, r := range snap.roles {
		if !in[r.ID] {
			continue
		}
		for _, m := range r.MemberOf {
			if err := s.row("grantee", r.Name, "role_name", snap.roleName(m.Role), "is_grantable", m.Admin); err != nil {
				return err
			}
		}
	}
	return nil
}

func infoTablePrivileges(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	db := snap.databaseName()
	for _, t := range snap.tables {
		for _, a := range catalog.EffectiveACL(t) {
			grantee := "PUBLIC"
			if a.Grantee != 0 {
				grantee = snap.roleName(a.Grantee)
			}
			for _, p := range a.Privs.Names() {
				bit := catalog.ParsePrivilege(p)
				if err := s.row("grantor", snap.roleName(a.Grantor), "grantee", grantee, "table_catalog", db, "table_schema", snap.schemaName(t.Schema),
					"table_name", t.Name, "privilege_type", p, "is_grantable", a.Options&bit != 0 || a.Grantee == t.Owner, "with_hierarchy", p == "SELECT"); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
