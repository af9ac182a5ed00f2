package logical

import (
	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/catalog"
)

// VirtualTable is a relation whose rows are computed: pg_catalog, information_schema and
// Atoll's own views. A plan keeps it; the execution asks its session for the rows (see
// exec.Virtual).
type VirtualTable interface {
	// ID is the relation's OID (pg_class.oid).
	ID() catalog.ID
	Schema() string
	Name() string
	Columns() []VirtualColumn
}

// VirtualColumn is a column of a VirtualTable.
type VirtualColumn struct {
	Name string
	Type catalog.TypeRef
}

// SetFn computes a set-returning function.
type SetFn = builtins.SetFn

// AggNew makes the state of an aggregate for one group.
type AggNew = func() builtins.Accumulator
