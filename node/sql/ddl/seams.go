// Package ddl executes statements that define things: CREATE, ALTER, DROP, TRUNCATE,
// GRANT, COMMENT, roles, sequences, and the maintenance commands that tools send.
//
// A statement runs inside the client's transaction, on its catalog.Collection. Changes of
// an existing table that other sessions may be using take one of three ways:
//
//   - metadata that tolerates a neighbour with the version before (names, defaults, comments,
//     new checks after validation) is written at once: at most two versions are in use
//     (SAFETY S27);
//   - CREATE INDEX outside a transaction block passes through delete-only, write-only and
//     backfill, each published and noticed by all nodes, while traffic runs;
//   - whatever rewrites or needs the rows to hold still (inside a block, or ADD PRIMARY KEY)
//     takes the table for itself first, as PostgreSQL does (catalog.Collection.Lock).
package ddl

import (
	"context"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/types"
)

// ExprBinder checks and evaluates the expressions in definitions. The session implements
// it over the binder.
type ExprBinder interface {
	// TypeName resolves a type name with its modifiers (package bind's function).
	TypeName(n *ast.TypeName) (types.OID, int32, error)
	// BindDefault checks a DEFAULT expression against its column's type: no columns, no
	// aggregates, no subqueries (errors as PostgreSQL's). It returns the canonical SQL text,
	// with the cast to the column's type if one is needed, and the sequences that nextval is
	// called on with a constant.
	BindDefault(ctx context.Context, expr *ast.Node, column *catalog.Column) (sql string, sequences []catalog.ID, err error)
	// BindCheck checks a CHECK expression over the table's columns (the table may not be
	// stored yet). It returns the canonical SQL text and the columns it mentions.
	BindCheck(ctx context.Context, expr *ast.Node, table *catalog.Table) (sql string, columns []catalog.ColumnID, err error)
	// EvalDefault evaluates a column's stored default (catalog.Column.Default); a column
	// without one has NULL. constant is false if the value may differ from row to row.
	EvalDefault(ctx context.Context, table *catalog.Table, column *catalog.Column) (value types.Datum, constant bool, err error)
	// EvalCheck reports whether a row of the table satisfies a check (NULL counts as true).
	// The row has a value for each of table.Columns, in their order.
	EvalCheck(ctx context.Context, table *catalog.Table, check *catalog.Constraint, row []types.Datum) (bool, error)
	// BindUsing checks ALTER COLUMN TYPE's USING expression (nil: the column itself, with an
	// assignment cast) and returns a function from an old row to the new value.
	BindUsing(ctx context.Context, expr *ast.Node, table *catalog.Table, column *catalog.Column, to catalog.TypeRef) (func(row []types.Datum) (types.Datum, error), error)
}

// RowCodec turns rows into index entries and back, as package catalog describes. The
// executor implements it, so that backfills and DML write the same bytes.
type RowCodec interface {
	// DecodeRow decodes a primary index entry into a value for each of table.Columns, in
	// their order (columns in any state; missing ones as they read).
	DecodeRow(table *catalog.Table, key keys.Key, value []byte) ([]types.Datum, error)
	// EncodeEntry returns the entry of an index, the primary too, for a row of that shape.
	EncodeEntry(table *catalog.Table, ix *catalog.Index, row []types.Datum) (keys.Key, []byte, error)
}

// Session is what a statement needs of its session.
type Session interface {
	Catalog() *catalog.Collection
	Path() catalog.Path
	// User is the current role.
	User() *catalog.Role
	// InBlock reports whether the statement is inside an explicit transaction block, or
	// shares an implicit one with other statements.
	InBlock() bool
	// Notice sends a notice (severity NOTICE, WARNING or INFO) to the client.
	Notice(severity, code, message string)
	// Position is parser.Statement.Position of the statement.
	Position(location int32) int
}
