package pgcatalog

import (
	"strings"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/types"
)

const encodingUTF8 = 6

func pgDatabase(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, d := range snap.databases {
		err := s.row("oid", d.ID, "datname", d.Name, "datdba", d.Owner, "encoding", encodingUTF8, "datlocprovider", "c",
			"datistemplate", d.IsTemplate, "datallowconn", d.AllowConn, "datconnlimit", d.ConnLimit, "datfrozenxid", 0, "datminmxid", 0,
			"dattablespace", 1663, "datcollate", "C", "datctype", "C.UTF-8", "datacl", s.acls(snap, d.ACL))
		if err != nil {
			return err
		}
	}
	return nil
}

// settingsArray is a role's or database's SET list, or NULL.
func settingsArray(v []string) any {
	if len(v) == 0 {
		return nil
	}
	return v
}

// validUntil turns a role's expiry into a timestamptz, or NULL.
func validUntil(r *catalog.Role) any {
	if r.ValidUntil == 0 {
		return nil
	}
	return types.NewTimestamp(r.ValidUntil)
}

// pgRoles serves pg_roles and pg_authid.
func pgRoles(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	authid := s.t.name == "pg_authid"
	if authid {
		if err := s.needSuperuser(snap); err != nil {
			return err
		}
	}
	for _, r := range snap.roles {
		row := []any{"oid", r.ID, "rolname", r.Name, "rolsuper", r.Superuser, "rolinherit", r.Inherit, "rolcreaterole", r.CreateRole,
			"rolcreatedb", r.CreateDB, "rolcanlogin", r.Login, "rolreplication", r.Replication, "rolconnlimit", r.ConnLimit,
			"rolvaliduntil", validUntil(r), "rolbypassrls", r.BypassRLS}
		if !authid {
			row = append(row, "rolpassword", "********", "rolconfig", settingsArray(r.Settings))
		} else if r.Verifier != "" {
			row = append(row, "rolpassword", r.Verifier)
		}
		if err := s.row(row...); err != nil {
			return err
		}
	}
	return nil
}

// pgUser serves pg_user and pg_shadow.
func pgUser(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	shadow := s.t.name == "pg_shadow"
	if shadow {
		if err := s.needSuperuser(snap); err != nil {
			return err
		}
	}
	for _, r := range snap.roles {
		if !r.Login {
			continue
		}
		var password any = "********"
		if shadow {
			if password = nil; r.Verifier != "" {
				password = r.Verifier
			}
		}
		if err := s.row("usename", r.Name, "usesysid", r.ID, "usecreatedb", r.CreateDB, "usesuper", r.Superuser, "userepl", r.Replication,
			"usebypassrls", r.BypassRLS, "passwd", password, "valuntil", validUntil(r), "useconfig", settingsArray(r.Settings)); err != nil {
			return err
		}
	}
	return nil
}

func pgGroup(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, g := range snap.roles {
		if g.Login {
			continue
		}
		var members []int64
		for _, r := range snap.roles {
			for _, m := range r.MemberOf {
				if m.Role == g.ID {
					members = append(members, int64(r.ID))
				}
			}
		}
		if err := s.row("groname", g.Name, "grosysid", g.ID, "grolist", members); err != nil {
			return err
		}
	}
	return nil
}

func pgAuthMembers(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, r := range snap.roles {
		for _, m := range r.MemberOf {
			if err := s.row("roleid", m.Role, "member", r.ID, "grantor", m.Grantor, "admin_option", m.Admin); err != nil {
				return err
			}
		}
	}
	return nil
}

func pgSettings(s *scan) error {
	if s.q.Settings == nil {
		return nil
	}
	for _, g := range s.q.Settings() {
		var unit, lo, hi, enum any
		if g.Unit != "" {
			unit = g.Unit
		}
		if g.Min != "" {
			lo = g.Min
		}
		if g.Max != "" {
			hi = g.Max
		}
		if len(g.Enum) > 0 {
			enum = g.Enum
		}
		source := g.Source
		if source == "" {
			source = "default"
		}
		if err := s.row("name", g.Name, "setting", g.Value, "unit", unit, "category", g.Category, "short_desc", g.Description,
			"context", "user", "vartype", g.Type, "source", source, "min_val", lo, "max_val", hi, "enumvals", enum,
			"boot_val", g.BootValue, "reset_val", g.ResetValue, "pending_restart", false); err != nil {
			return err
		}
	}
	return nil
}

func pgTables(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, t := range virtualTables() {
		if t.kind == 'r' {
			if err := s.row("schemaname", t.schema, "tablename", t.name, "tableowner", snap.roleName(catalog.SuperuserID),
				"hasindexes", false, "hasrules", false, "hastriggers", false, "rowsecurity", false); err != nil {
				return err
			}
		}
	}
	for _, t := range snap.tables {
		if err := s.row("schemaname", snap.schemaName(t.Schema), "tablename", t.Name, "tableowner", snap.roleName(t.Owner),
			"hasindexes", len(indexes(t)) > 0, "hasrules", false, "hastriggers", false, "rowsecurity", false); err != nil {
			return err
		}
	}
	return nil
}

func pgIndexes(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, t := range snap.tables {
		for _, ix := range indexes(t) {
			if err := s.row("schemaname", snap.schemaName(t.Schema), "tablename", t.Name, "indexname", ix.Name,
				"indexdef", snap.indexDef(t, ix, 0, false, s.q.Path)); err != nil {
				return err
			}
		}
	}
	return nil
}

func pgSequences(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, q := range snap.sequences {
		last, called, err := catalog.SequenceValue(s.ctx, s.q.Catalog.Txn(), q)
		if err != nil {
			return err
		}
		var lastValue any
		if called {
			lastValue = last
		}
		if err := s.row("schemaname", snap.schemaName(q.Schema), "sequencename", q.Name, "sequenceowner", snap.roleName(q.Owner),
			"data_type", q.Type, "start_value", q.Start, "min_value", q.Min, "max_value", q.Max, "increment_by", q.Increment,
			"cycle", q.Cycle, "cache_size", q.Cache, "last_value", lastValue); err != nil {
			return err
		}
	}
	return nil
}

func pgViews(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, t := range virtualTables() {
		if t.kind == 'v' {
			if err := s.row("schemaname", t.schema, "viewname", t.name, "viewowner", snap.roleName(catalog.SuperuserID), "definition", ""); err != nil {
				return err
			}
		}
	}
	for _, v := range snap.views {
		if err := s.row("schemaname", snap.schemaName(v.Schema), "viewname", v.Name, "viewowner", snap.roleName(v.Owner), "definition", v.Query); err != nil {
			return err
		}
	}
	return nil
}

func pgStatActivity(s *scan) error {
	if s.q.Sessions == nil {
		return nil
	}
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, a := range s.q.Sessions() {
		row := []any{"pid", a.PID, "datname", a.Database, "usename", a.User, "application_name", a.Application,
			"backend_start", a.BackendStart, "xact_start", a.TxnStart, "query_start", a.QueryStart, "state_change", a.StateChange,
			"state", a.State, "query", a.Query, "backend_type", "client backend"}
		for _, d := range snap.databases {
			if d.Name == a.Database {
				row = append(row, "datid", d.ID)
			}
		}
		for _, r := range snap.roles {
			if r.Name == a.User {
				row = append(row, "usesysid", r.ID)
			}
		}
		if host, _, ok := strings.Cut(a.Client, ":"); ok && host != "" {
			if addr, err := types.ParseText(869, -1, host, nil); err == nil {
				row = append(row, "client_addr", addr)
			}
		}
		if err := s.row(row...); err != nil {
			return err
		}
	}
	return nil
}

// statTables serves the statistics views: which tables there are, and the row counts of
// ANALYZE. Access counts are not kept.
func statTables(system bool) func(*scan) error {
	return func(s *scan) error {
		snap, err := s.snapshot()
		if err != nil {
			return err
		}
		for _, t := range virtualTables() {
			if system && t.kind == 'r' {
				if err := s.row("relid", t.id, "schemaname", t.schema, "relname", t.name); err != nil {
					return err
				}
			}
		}
		for _, t := range snap.tables {
			row := []any{"relid", t.ID, "schemaname", snap.schemaName(t.Schema), "relname", t.Name}
			if st, err := s.q.Catalog.Statistics(s.ctx, t.ID); err != nil {
				return err
			} else if _, ok := s.t.pos["n_live_tup"]; ok && st != nil {
				row = append(row, "n_live_tup", st.Rows, "last_analyze", st.At.Time())
			}
			if err := s.row(row...); err != nil {
				return err
			}
		}
		return nil
	}
}

func pgStatDatabase(s *scan) error {
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, d := range snap.databases {
		if err := s.row("datid", d.ID, "datname", d.Name); err != nil {
			return err
		}
	}
	return nil
}
