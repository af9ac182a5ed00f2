package ddl

import (
	"context"
	"fmt"
	"strings"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/jackc/pgerrcode"
	"golang.org/x/sync/errgroup"
)

const (
	// rewriteChunk is how many rows one transaction of a rewrite or backfill handles.
	rewriteChunk = 1000
	// rewriteWorkers is how many of them run at a time.
	rewriteWorkers = 4
	// truncateByDelete is up to how many rows TRUNCATE deletes one by one: then it needs
	// no exclusive use of the table.
	truncateByDelete = 10000
)

// rewrite describes one pass over a table's rows.
type rewrite struct {
	from *catalog.Table // how rows are stored now
	to   *catalog.Table // how they will be; may be from
	// indexes (of to) get an entry for every row.
	indexes []*catalog.Index
	// row turns a row of from into one of to; nil: the same.
	row func([]types.Datum) ([]types.Datum, error)
	// verify checks a row of to; nil: nothing to check.
	verify func([]types.Datum) error
	// separate: chunks commit on their own. Otherwise all of it belongs to the client's
	// transaction, whose own rows are seen.
	separate bool
	// parallel: row and verify may be called by several goroutines at a time.
	parallel bool
}

// rewrite makes the pass. REQUIRES: others can't write rows that it misses: the caller has
// the table for itself, or all writers maintain the indexes already.
func (x *Executor) rewrite(ctx context.Context, r *rewrite) error {
	if r.separate {
		return x.rewriteSeparately(ctx, r)
	}
	t := x.Session.Catalog().Txn()
	span := r.from.IndexSpan(&r.from.Primary)
	for {
		rows, err := t.Scan(ctx, span, rewriteChunk)
		if err != nil {
			return err
		}
		if err := x.rewriteChunk(ctx, t, r, rows); err != nil {
			return err
		}
		t.Step()
		if len(rows) < rewriteChunk {
			return nil
		}
		span.Key = rows[len(rows)-1].Key.Next()
	}
}

// rewriteSeparately finds the chunks' boundaries in one goroutine, and handles several
// chunks at a time, each in a transaction that reads its rows itself.
func (x *Executor) rewriteSeparately(ctx context.Context, r *rewrite) error {
	db := x.Session.Catalog().Manager().DB()
	client := ctx
	workers, ctx := errgroup.WithContext(client)
	workers.SetLimit(1)
	if r.parallel {
		workers.SetLimit(rewriteWorkers)
	}
	span := r.from.IndexSpan(&r.from.Primary)
	for ctx.Err() == nil {
		var next keys.Key
		err := db.Run(ctx, "table rewrite", func(ctx context.Context, t catalog.Txn) error {
			rows, err := t.Scan(ctx, span, rewriteChunk)
			next = nil
			if err == nil && len(rows) == rewriteChunk {
				next = rows[len(rows)-1].Key.Next()
			}
			return err
		})
		if err != nil {
			if werr := workers.Wait(); werr != nil {
				return werr // it ended ctx, and that the scan
			}
			return err
		}
		chunk := span
		if next != nil {
			chunk.EndKey = next
		}
		workers.Go(func() error {
			return db.Run(ctx, "table rewrite", func(ctx context.Context, t catalog.Txn) error {
				rows, err := t.Scan(ctx, chunk, 0)
				if err != nil {
					return err
				}
				return x.rewriteChunk(ctx, t, r, rows)
			})
		})
		if next == nil {
			break
		}
		span.Key = next
	}
	if err := workers.Wait(); err != nil {
		return err
	}
	return client.Err()
}

type entry struct {
	ix    *catalog.Index
	row   []types.Datum
	value []byte
}

func (x *Executor) rewriteChunk(ctx context.Context, t catalog.Txn, r *rewrite, rows []kv.KeyValue) error {
	entries := make(map[string]entry, len(rows)*len(r.indexes))
	order := make([]keys.Key, 0, len(rows)*len(r.indexes))
	for _, kvp := range rows {
		row, err := x.Rows.DecodeRow(r.from, kvp.Key, kvp.Value)
		if err != nil {
			return err
		}
		if r.row != nil {
			if row, err = r.row(row); err != nil {
				return err
			}
		}
		if r.verify != nil {
			if err := r.verify(row); err != nil {
				return err
			}
		}
		for _, ix := range r.indexes {
			k, v, err := x.Rows.EncodeEntry(r.to, ix, row)
			if err != nil {
				return err
			}
			if old, twice := entries[string(k)]; twice && string(old.value) != string(v) {
				return duplicateKey(r.to, ix, row)
			} else if twice {
				continue
			}
			entries[string(k)] = entry{ix, row, v}
			order = append(order, k)
		}
	}
	return putEntries(ctx, t, r, entries, order)
}

// putEntries writes index entries that must not be there with another value. The reads
// belong to the transaction, so that a concurrent write of the same key is a conflict.
func putEntries(ctx context.Context, t catalog.Txn, r *rewrite, entries map[string]entry, order []keys.Key) error {
	if len(order) == 0 {
		return nil
	}
	have, err := t.GetMany(ctx, order)
	if err != nil {
		return err
	}
	for i, k := range order {
		e := entries[string(k)]
		if have[i].Exists {
			if string(have[i].Value) != string(e.value) {
				return duplicateKey(r.to, e.ix, e.row)
			}
			continue // a writer, or an earlier try of this chunk, was here
		}
		cond := kv.Condition{Check: true, MustBeAbsent: true, Seen: have[i].Version}
		if err := t.Put(ctx, k, e.value, cond); err != nil {
			return err
		}
	}
	return nil
}

// duplicateKey is PostgreSQL's error for a unique index that can't be built.
func duplicateKey(t *catalog.Table, ix *catalog.Index, row []types.Datum) error {
	e := pgerror.New(pgerrcode.UniqueViolation, "could not create unique index %q", ix.Name)
	names, vals := make([]string, 0, len(ix.Columns)), make([]string, 0, len(ix.Columns))
	for _, c := range ix.Columns {
		for i := range t.Columns {
			if t.Columns[i].ID == c.Column {
				names = append(names, t.Columns[i].Name)
				vals = append(vals, types.Text(t.Columns[i].Type.OID, row[i], nil))
			}
		}
	}
	e.Detail = fmt.Sprintf("Key (%s)=(%s) is duplicated.", strings.Join(names, ", "), strings.Join(vals, ", "))
	e.Table, e.Constraint = t.Name, ix.Name
	return e
}

// notNull returns a check that a column of every row has a value.
func notNull(t *catalog.Table, ids ...catalog.ColumnID) func([]types.Datum) error {
	return func(row []types.Datum) error {
		for i := range t.Columns {
			if contains(ids, t.Columns[i].ID) && row[i].IsNull() {
				e := pgerror.New(pgerrcode.NotNullViolation, "column %q of relation %q contains null values", t.Columns[i].Name, t.Name)
				e.Table, e.Column = t.Name, t.Columns[i].Name
				return e
			}
		}
		return nil
	}
}

// chunked reports whether a rewrite of the table may commit in chunks: it is not the
// client's own uncommitted table, and the client's transaction has no rows in it.
func (x *Executor) chunked(t *catalog.Table) bool {
	return !x.Session.InBlock() && !x.Session.Catalog().Created(t.ID)
}
