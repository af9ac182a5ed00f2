package ddl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/atolldb/atoll/node/txn"
	"github.com/jackc/pgerrcode"
	"golang.org/x/sync/errgroup"
)

const (
	// rewriteChunk is how many rows one transaction of a rewrite or backfill handles at most.
	rewriteChunk = 2000
	// rewriteBytes is about how many bytes of writes it makes: so many that it commits in one
	// phase, without intents.
	rewriteBytes = txn.PieceLimit * 3 / 4
	// rewriteOverhead is what an entry counts besides its bytes.
	rewriteOverhead = 256
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
	// fresh: nobody else writes the indexes, which were empty before. An entry that is there
	// already is another row's, even one with the same value.
	fresh bool
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
		entries, order, err := x.encodeEntries(r, rows)
		if err == nil {
			err = putEntries(ctx, t, r, entries, order)
		}
		if err != nil {
			return err
		}
		t.Step()
		if len(rows) < rewriteChunk {
			return nil
		}
		span.Key = rows[len(rows)-1].Key.Next()
	}
}

// rewriteSeparately handles the rows in chunks, several at a time, each in a transaction of
// its own. A chunk begins where the one before says that it ends, as soon as that one has
// read its rows.
func (x *Executor) rewriteSeparately(ctx context.Context, r *rewrite) error {
	client := ctx
	workers, ctx := errgroup.WithContext(client)
	workers.SetLimit(1)
	if r.parallel {
		workers.SetLimit(rewriteWorkers)
	}
	span := r.from.IndexSpan(&r.from.Primary)
	for ctx.Err() == nil {
		c := &chunk{x: x, r: r, span: span, end: make(chan keys.Key, 1)}
		workers.Go(func() error { return c.run(ctx) })
		next, more := <-c.end
		if !more {
			break
		}
		span.Key = next
	}
	if err := workers.Wait(); err != nil {
		return err
	}
	return client.Err()
}

// chunk is one transaction's part of a rewrite.
type chunk struct {
	x    *Executor
	r    *rewrite
	span keys.Span
	// end takes the key after the chunk's last row, and is closed without one after the
	// table's last row or an error.
	end   chan keys.Key
	known bool // span ends where the chunk does
	// careful: entries that are there already are looked at before any is written.
	careful bool
	entries map[string]entry
}

func (c *chunk) run(ctx context.Context) error {
	db := c.x.Session.Catalog().Manager().DB()
	err := db.Run(ctx, "table rewrite", c.try)
	var taken *kv.ConditionFailedError
	if errors.As(err, &taken) {
		if e, ok := c.entries[string(taken.Key)]; ok && c.r.fresh {
			err = duplicateKey(c.r.to, e.ix, e.row)
		} else {
			c.careful = true // a concurrent writer's, for the same row perhaps
			err = db.Run(ctx, "table rewrite", c.try)
		}
	}
	if !c.known {
		close(c.end)
	}
	return err
}

func (c *chunk) try(ctx context.Context, t catalog.Txn) error {
	limit := int64(rewriteChunk)
	if c.known {
		limit = 0
	}
	rows, err := t.Scan(ctx, c.span, limit)
	if err != nil {
		return err
	}
	if !c.known {
		c.known = true
		n := c.fits(rows)
		if n < rewriteChunk && n == len(rows) {
			close(c.end)
		} else {
			rows = rows[:n]
			c.span.EndKey = rows[n-1].Key.Next()
			c.end <- c.span.EndKey
		}
	}
	order, err := c.encode(rows)
	if err != nil {
		return err
	}
	if c.careful {
		return putEntries(ctx, t, c.r, c.entries, order)
	}
	for _, k := range order {
		// Rows that change meanwhile fail the commit, since they were read here: it does not
		// matter which older versions the entry has.
		if err := t.Put(ctx, k, c.entries[string(k)].value, kv.Condition{Check: true, MustBeAbsent: true, Seen: hlc.MaxTimestamp}); err != nil {
			return err
		}
	}
	return nil
}

// fits returns how many of the rows one chunk takes.
func (c *chunk) fits(rows []kv.KeyValue) int {
	bytes := 0
	for i := range rows {
		bytes += (3*len(rows[i].Key) + len(rows[i].Value) + rewriteOverhead) * max(len(c.r.indexes), 1)
		if bytes > rewriteBytes && i > 0 {
			return i
		}
	}
	return len(rows)
}

func (c *chunk) encode(rows []kv.KeyValue) (order []keys.Key, err error) {
	c.entries, order, err = c.x.encodeEntries(c.r, rows)
	return order, err
}

type entry struct {
	ix    *catalog.Index
	row   []types.Datum
	value []byte
}

// encodeEntries computes the index entries of rows, in the rows' order.
func (x *Executor) encodeEntries(r *rewrite, rows []kv.KeyValue) (map[string]entry, []keys.Key, error) {
	entries := make(map[string]entry, len(rows)*len(r.indexes))
	order := make([]keys.Key, 0, len(rows)*len(r.indexes))
	for _, kvp := range rows {
		row, err := x.Rows.DecodeRow(r.from, kvp.Key, kvp.Value)
		if err != nil {
			return nil, nil, err
		}
		if r.row != nil {
			if row, err = r.row(row); err != nil {
				return nil, nil, err
			}
		}
		if r.verify != nil {
			if err := r.verify(row); err != nil {
				return nil, nil, err
			}
		}
		for _, ix := range r.indexes {
			k, v, err := x.Rows.EncodeEntry(r.to, ix, row)
			if err != nil {
				return nil, nil, err
			}
			if _, twice := entries[string(k)]; twice {
				return nil, nil, duplicateKey(r.to, ix, row)
			}
			entries[string(k)] = entry{ix, row, v}
			order = append(order, k)
		}
	}
	return entries, order, nil
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
			if r.fresh || string(have[i].Value) != string(e.value) {
				return duplicateKey(r.to, e.ix, e.row)
			}
			continue // a writer was here
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
