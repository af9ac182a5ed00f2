package session

import (
	"context"
	"errors"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/pgcatalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/bind"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

// relations finds relations for the binder. It implements bind.Catalog.
type relations struct{ s *Session }

// Relation implements bind.Catalog.
func (r relations) Relation(ctx context.Context, database, schema, name string) (*bind.Relation, error) {
	if database != "" && database != r.s.database {
		return nil, pgerror.New(pgerrcode.FeatureNotSupported, "cross-database references are not implemented: %q.%q.%q", database, schema, name)
	}
	rel, err := r.s.catalogView().ResolveRelation(ctx, r.s.catalogPath(), schema, name)
	if err != nil || rel == nil {
		return nil, err
	}
	out := &bind.Relation{Schema: rel.Schema, Table: rel.Table, Sequence: rel.Sequence, View: rel.View, Index: rel.Index}
	if rel.Virtual != "" {
		vt := pgcatalog.Lookup(rel.Schema, rel.Virtual)
		if vt == nil {
			return nil, nil
		}
		out.Virtual = virtualTable{vt}
	}
	return out, nil
}

// virtualTable shows a virtual table to the planner.
type virtualTable struct{ catalog.VirtualTable }

// Columns implements logical.VirtualTable.
func (v virtualTable) Columns() []logical.VirtualColumn {
	cols := v.VirtualTable.Columns()
	out := make([]logical.VirtualColumn, len(cols))
	for i, c := range cols {
		out[i] = logical.VirtualColumn{Name: c.Name, Type: c.Type}
	}
	return out
}

// errEnough ends a virtual table's rows early.
var errEnough = errors.New("enough rows")

// virtualRows yields a virtual table's rows. It is the executor's exec.VirtualRows.
func (s *Session) virtualRows(ctx context.Context, t logical.VirtualTable, emit func([]types.Datum) (bool, error)) error {
	v, ok := t.(virtualTable)
	if !ok {
		return pgerror.New(pgerrcode.InternalError, "virtual table %s has no rows here", t.Name())
	}
	q := s.virtualQuery()
	err := v.VirtualTable.Rows(ctx, q, func(row []types.Datum) error {
		more, err := emit(row)
		if err == nil && !more {
			return errEnough
		}
		return err
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// virtualQuery is what virtual tables depend on.
func (s *Session) virtualQuery() *catalog.VirtualQuery {
	return &catalog.VirtualQuery{
		Catalog: s.catalogView(), Path: s.catalogPath(), User: s.roleID, Cluster: s.eng.cfg.Cluster,
		Settings: s.settingRows, Sessions: s.eng.sessionRows,
	}
}

// settingRows lists pg_settings.
func (s *Session) settingRows() []catalog.Setting {
	var out []catalog.Setting
	for _, r := range s.vars.all() {
		out = append(out, catalog.Setting{Name: r.Name, Value: r.Value, Description: r.Description, Type: r.Kind,
			Category: "Atoll", BootValue: r.Default, ResetValue: s.defaultOf(r.Name), Source: "default"})
	}
	return out
}

// sessionRows lists pg_stat_activity of this node.
func (e *Engine) sessionRows() []catalog.SessionInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]catalog.SessionInfo, 0, len(e.sessions))
	for s := range e.sessions {
		a := s.activity.Load()
		out = append(out, catalog.SessionInfo{PID: int32(s.pid), Database: s.database, User: s.sessionUser, Client: s.remote, BackendStart: s.started,
			Application: a.application, State: a.state, Query: a.query, QueryStart: a.since, StateChange: a.since})
	}
	return out
}
