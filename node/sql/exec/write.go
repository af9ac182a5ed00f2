package exec

import (
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/exec/rowio"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/atolldb/atoll/node/txn"
)

// tableWriter writes rows of one table with all its indexes, within one statement.
type tableWriter struct {
	w     *physical.Write
	codec *rowio.Codec
	pos   []int // position in table.Columns of each of w.Attrs
	same  bool  // Attrs are all of the table's columns, in order
	// touched says what this statement did to keys: its reads do not show it (S9).
	touched map[string]bool // true: there is a row now; false: there is none
	track   bool
}

func newWriter(w *physical.Write) (*tableWriter, error) {
	c, err := rowio.For(w.Table)
	if err != nil {
		return nil, err
	}
	t := &tableWriter{w: w, codec: c, same: len(w.Attrs) == len(w.Table.Columns)}
	for i, a := range w.Attrs {
		for j := range w.Table.Columns {
			if w.Table.Columns[j].ID == a.ID {
				t.pos = append(t.pos, j)
				t.same = t.same && i == j
			}
		}
	}
	return t, nil
}

// full spreads a row of w.Attrs over all columns of the table.
func (t *tableWriter) full(row []types.Datum) []types.Datum {
	if t.same {
		return row
	}
	out := make([]types.Datum, len(t.w.Table.Columns))
	for i, p := range t.pos {
		out[p] = row[i]
	}
	return out
}

// check applies NOT NULL and CHECK to a new row.
func (t *tableWriter) check(rt *runtime, row []types.Datum) error {
	for i, a := range t.w.Attrs {
		if row[i].IsNull() && a.State.Writable() && (a.NotNull || t.w.Table.Primary.HasColumn(a.ID)) {
			e := pgerror.New(pgerrcode.NotNullViolation, "null value in column \"%s\" of relation \"%s\" violates not-null constraint", a.Name, t.w.Table.Name)
			e.Table, e.Column = t.w.Table.Name, a.Name
			return e.WithDetail("%s", t.failing(rt, row))
		}
	}
	for i := range t.w.Checks {
		c := &t.w.Checks[i]
		v, err := c.Cond.Eval(&rt.x, row)
		if err != nil {
			return err
		}
		if !v.IsNull() && !v.Bool() {
			e := pgerror.New(pgerrcode.CheckViolation, "new row for relation \"%s\" violates check constraint \"%s\"", t.w.Table.Name, c.Name)
			e.Table, e.Constraint = t.w.Table.Name, c.Name
			return e.WithDetail("%s", t.failing(rt, row))
		}
	}
	return nil
}

func (t *tableWriter) failing(rt *runtime, row []types.Datum) string {
	var b strings.Builder
	b.WriteString("Failing row contains (")
	n := 0
	for i, a := range t.w.Attrs {
		if a.Hidden || !a.State.Readable() {
			continue
		}
		if n++; n > 1 {
			b.WriteString(", ")
		}
		if row[i].IsNull() {
			b.WriteString("null")
			continue
		}
		s := types.Text(a.Type.OID, row[i], rt.x.Eval.Env)
		if len(s) > 64 {
			s = strings.ToValidUTF8(s[:64], "") + "..."
		}
		b.WriteString(s)
	}
	b.WriteString(").")
	return b.String()
}

func (t *tableWriter) touch(key keys.Key, present bool) {
	if !t.track {
		return
	}
	if t.touched == nil {
		t.touched = map[string]bool{}
	}
	t.touched[string(key)] = present
}

// anyVersion is a Seen that every version is at or below: the write then only insists on
// the key's being absent.
var anyVersion = hlc.MaxTimestamp

// absent is the condition of a write to a key that was read, and locked, as absent.
func absent(seen hlc.Timestamp) kv.Condition {
	return kv.Condition{Check: true, MustBeAbsent: true, Seen: seen}
}

// unchanged is the condition of a write over a version that was read. A version of the
// transaction's own has no timestamp: the condition of its first write stands (S26).
func unchanged(seen hlc.Timestamp) kv.Condition {
	return kv.Condition{Check: !seen.IsEmpty(), Seen: seen}
}

// entry is one index entry of a row that is to be written.
type entry struct {
	ic     *rowio.IndexCodec
	key    keys.Key
	unique bool
	resp   kv.GetResponse
}

// entries computes the keys of a new row in the indexes that writers maintain.
func (t *tableWriter) entries(row []types.Datum) ([]entry, error) {
	out := make([]entry, 0, len(t.codec.Indexes))
	for _, ic := range t.codec.Indexes {
		if !ic.Index.Primary && !ic.Index.State.Writable() {
			continue
		}
		key, err := ic.EncodeKey(row)
		if err != nil {
			return nil, err
		}
		out = append(out, entry{ic: ic, key: key, unique: ic.Unique(row)})
	}
	return out, nil
}

// put writes an entry.
func (t *tableWriter) put(rt *runtime, e *entry, row []types.Datum, cond kv.Condition) error {
	value, err := e.ic.EncodeValue(row)
	if err != nil {
		return err
	}
	t.touch(e.key, true)
	err = rt.ec.Txn.Put(rt.ctx, e.key, value, cond)
	if f, ok := err.(*kv.ConditionFailedError); ok {
		return t.duplicate(rt, e.ic, row, f)
	}
	return err
}

func (t *tableWriter) delete(rt *runtime, key keys.Key, cond kv.Condition) error {
	t.touch(key, false)
	return rt.ec.Txn.Delete(rt.ctx, key, cond)
}

// duplicate is PostgreSQL's unique violation.
func (t *tableWriter) duplicate(rt *runtime, ic *rowio.IndexCodec, row []types.Datum, cause error) error {
	vals := make([]types.Datum, len(ic.Index.Columns))
	for i, c := range ic.Index.Columns {
		for j := range t.w.Table.Columns {
			if t.w.Table.Columns[j].ID == c.Column {
				vals[i] = row[j]
			}
		}
	}
	return uniqueViolation(t.w.Table, ic.Index, vals, rt.x.Eval.Env, cause)
}

func uniqueViolation(t *catalog.Table, ix *catalog.Index, vals []types.Datum, env *types.Env, cause error) error {
	var cols, texts []string
	for i, c := range ix.Columns {
		a := t.ColumnByID(c.Column)
		if a == nil {
			continue
		}
		cols = append(cols, catalog.QuoteIdent(a.Name))
		texts = append(texts, types.Text(a.Type.OID, vals[i], env))
	}
	name := ix.Name
	e := pgerror.Wrap(cause, pgerrcode.UniqueViolation, "duplicate key value violates unique constraint \"%s\"", name)
	e.Table, e.Constraint = t.Name, name
	return e.WithDetail("Key (%s)=(%s) already exists.", strings.Join(cols, ", "), strings.Join(texts, ", "))
}

// DuplicateKey turns a condition that failed when a write landed (at commit) into the unique
// violation it means. tables are those that the transaction wrote; err is returned as it is
// if the key belongs to none of them.
func DuplicateKey(tables []*catalog.Table, err *kv.ConditionFailedError, env *types.Env) error {
	for _, t := range tables {
		c, cerr := rowio.For(t)
		if cerr != nil {
			continue
		}
		for _, ic := range c.Indexes {
			if len(err.Key) <= len(ic.Prefix()) || string(err.Key[:len(ic.Prefix())]) != string(ic.Prefix()) {
				continue
			}
			row := make([]types.Datum, len(t.Columns))
			var cols []rowio.Column
			for _, kc := range ic.Index.Columns {
				for j := range t.Columns {
					if t.Columns[j].ID == kc.Column {
						cols = append(cols, rowio.Column{Pos: j, Slot: j})
					}
				}
			}
			if derr := c.NewReader(ic, cols).Decode(err.Key, err.Actual, row); derr != nil {
				continue
			}
			vals := make([]types.Datum, len(cols))
			for i, col := range cols {
				vals[i] = row[col.Pos]
			}
			return uniqueViolation(t, ic.Index, vals, env, err)
		}
	}
	return err
}

// pending is a row on its way into the table.
type pending struct {
	row     []types.Datum // of the table's shape
	attrs   []types.Datum // of w.Attrs' shape
	entries []entry
}

// readUnique reads, and locks, the keys that must be absent, in one batch.
func (t *tableWriter) readUnique(rt *runtime, rows []pending) error {
	var ks []keys.Key
	var where []*entry
	for i := range rows {
		for j := range rows[i].entries {
			e := &rows[i].entries[j]
			if !e.unique || e.ic.Index.Primary && t.w.Table.HasRowID() {
				continue
			}
			ks, where = append(ks, e.key), append(where, e)
		}
	}
	opts := txn.ReadOptions{Lock: kv.LockExclusive, LockTimeout: rt.ec.LockTimeout}
	if len(ks) == 1 {
		resp, err := rt.ec.Txn.Get(rt.ctx, ks[0], opts)
		where[0].resp = resp
		return err
	}
	for start := 0; start < len(ks); start += getMany {
		end := min(start+getMany, len(ks))
		resp, err := rt.ec.Txn.GetMany(rt.ctx, ks[start:end], opts)
		if err != nil {
			return err
		}
		for i := range resp {
			where[start+i].resp = resp[i]
		}
	}
	return nil
}

// taken reports whether an entry's key has a row, as the statement so far leaves it.
func (t *tableWriter) taken(e *entry) bool {
	if present, ok := t.touched[string(e.key)]; ok {
		return present
	}
	return e.resp.Exists
}

// cond is the condition for writing an entry of a new row.
func (t *tableWriter) cond(e *entry, blind bool) kv.Condition {
	switch {
	case !e.unique:
		return kv.Condition{}
	case blind, e.ic.Index.Primary && t.w.Table.HasRowID():
		return absent(anyVersion)
	}
	if _, ok := t.touched[string(e.key)]; ok {
		return kv.Condition{} // this statement removed the row: its condition stands
	}
	return absent(e.resp.Version)
}

// insertRows writes new rows; the first duplicate is an error.
func (t *tableWriter) insertRows(rt *runtime, rows []pending, blind bool) error {
	if !blind {
		if err := t.readUnique(rt, rows); err != nil {
			return err
		}
	}
	for i := range rows {
		if err := t.insertRow(rt, &rows[i], blind); err != nil {
			return err
		}
	}
	return nil
}

func (t *tableWriter) insertRow(rt *runtime, p *pending, blind bool) error {
	for j := range p.entries {
		if e := &p.entries[j]; e.unique && t.taken(e) {
			return t.duplicate(rt, e.ic, p.row, nil)
		}
	}
	for j := range p.entries {
		e := &p.entries[j]
		if err := t.put(rt, e, p.row, t.cond(e, blind)); err != nil {
			return err
		}
	}
	return nil
}

// updateRow replaces a row: old and row have the table's shape. fresh are the entries of
// the new row whose unique keys were read, if they changed.
func (t *tableWriter) updateRow(rt *runtime, oldKey keys.Key, seen hlc.Timestamp, old, row []types.Datum) error {
	var fresh []pending
	var changed []entry
	type change struct {
		ic  *rowio.IndexCodec
		old keys.Key
	}
	var gone []change
	for _, ic := range t.codec.Indexes {
		primary := ic.Index.Primary
		newKey, err := ic.EncodeKey(row)
		if err != nil {
			return err
		}
		was := oldKey
		if !primary {
			if was, err = ic.EncodeKey(old); err != nil {
				return err
			}
		}
		writable := primary || ic.Index.State.Writable()
		if string(was) == string(newKey) {
			if primary {
				if err := t.put(rt, &entry{ic: ic, key: newKey}, row, unchanged(seen)); err != nil {
					return err
				}
			} else if writable {
				if err := t.rewrite(rt, ic, newKey, old, row); err != nil {
					return err
				}
			}
			continue
		}
		gone = append(gone, change{ic, was})
		if writable {
			changed = append(changed, entry{ic: ic, key: newKey, unique: ic.Unique(row)})
		}
	}
	if len(gone) == 0 {
		return nil
	}
	fresh = []pending{{row: row, entries: changed}}
	if err := t.readUnique(rt, fresh); err != nil {
		return err
	}
	for _, g := range gone {
		cond := kv.Condition{}
		if g.ic.Index.Primary {
			cond = unchanged(seen)
		}
		if err := t.delete(rt, g.old, cond); err != nil {
			return err
		}
	}
	return t.insertRow(rt, &fresh[0], false)
}

// rewrite writes an entry whose key stays, if its value changes. The primary row's condition
// covers it: whoever changes this entry writes that row, too.
func (t *tableWriter) rewrite(rt *runtime, ic *rowio.IndexCodec, key keys.Key, old, row []types.Datum) error {
	was, err := ic.EncodeValue(old)
	if err != nil {
		return err
	}
	now, err := ic.EncodeValue(row)
	if err != nil || string(was) == string(now) {
		return err
	}
	t.touch(key, true)
	return rt.ec.Txn.Put(rt.ctx, key, now, kv.Condition{})
}

// deleteRow removes a row and its entries in all indexes.
func (t *tableWriter) deleteRow(rt *runtime, key keys.Key, seen hlc.Timestamp, old []types.Datum) error {
	for _, ic := range t.codec.Indexes {
		if ic.Index.Primary {
			if err := t.delete(rt, key, unchanged(seen)); err != nil {
				return err
			}
			continue
		}
		k, err := ic.EncodeKey(old)
		if err != nil {
			return err
		}
		if err := t.delete(rt, k, kv.Condition{}); err != nil {
			return err
		}
	}
	return nil
}

// evalRow evaluates expressions over a row.
func (rt *runtime) evalRow(exprs []expr.Expr, row, out []types.Datum) error {
	for i, e := range exprs {
		v, err := e.Eval(&rt.x, row)
		if err != nil {
			return err
		}
		out[i] = v
	}
	return nil
}
