// Package rowio turns table rows into index entries and back, as package catalog describes
// them. The executor, bulk loads and index backfills share it, so that they write the same
// bytes.
package rowio

import (
	"fmt"
	"sort"

	"github.com/atolldb/atoll/node/encoding"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/rowenc"
	"github.com/atolldb/atoll/node/sql/types"
)

// keyCol is one column of an index key.
type keyCol struct {
	pos        int // in table.Columns
	id         int16
	oid        types.OID
	mod        int32
	dir        encoding.Direction
	nullsFirst bool
}

// valueCol is one column that an entry's value may hold. A key column is there only if its
// key encoding loses something.
type valueCol struct {
	pos int
	id  int16
	key bool
	oid types.OID
	mod int32
	// suffix columns of a unique index are in the value unless they are in the key.
	suffix bool
}

// IndexCodec encodes and decodes the entries of one index.
type IndexCodec struct {
	Table  *catalog.Table
	Index  *catalog.Index
	prefix keys.Key
	own    []keyCol // the index's own key columns
	suffix []keyCol // what makes the key of an index that is not unique complete
	value  []valueCol
	unique bool
}

// Codec is the codec of a table: its indexes, the primary first, in the order of
// catalog.Table.DeletableIndexes.
type Codec struct {
	Table   *catalog.Table
	Indexes []*IndexCodec
	missing []types.Datum // for each of Table.Columns
}

type codecKey struct{}

// For returns the table's codec, made once for each version of a table.
func For(t *catalog.Table) (*Codec, error) {
	v, err := t.Derived(codecKey{}, func() (any, error) { return newCodec(t) })
	if err != nil {
		return nil, err
	}
	return v.(*Codec), nil
}

func newCodec(t *catalog.Table) (*Codec, error) {
	c := &Codec{Table: t, missing: make([]types.Datum, len(t.Columns))}
	for i := range t.Columns {
		a := &t.Columns[i]
		if a.HasMissing {
			d, err := types.ParseText(a.Type.OID, a.Type.Mod, a.Missing, nil)
			if err != nil {
				return nil, fmt.Errorf("rowio: default of old rows of column %s.%s: %w", t.Name, a.Name, err)
			}
			c.missing[i] = d
		}
	}
	for _, ix := range t.DeletableIndexes() {
		ic, err := newIndexCodec(t, ix)
		if err != nil {
			return nil, err
		}
		c.Indexes = append(c.Indexes, ic)
	}
	return c, nil
}

// Index returns the codec of an index of the table.
func (c *Codec) Index(ix *catalog.Index) *IndexCodec {
	for _, ic := range c.Indexes {
		if ic.Index.Storage == ix.Storage && ic.Index.Primary == ix.Primary {
			return ic
		}
	}
	// An index that the table does not list (yet): a backfill's.
	ic, err := newIndexCodec(c.Table, ix)
	if err != nil {
		return nil
	}
	return ic
}

func newIndexCodec(t *catalog.Table, ix *catalog.Index) (*IndexCodec, error) {
	c := &IndexCodec{Table: t, Index: ix, prefix: t.IndexPrefix(ix), unique: ix.Unique || ix.Primary}
	key := func(ic catalog.IndexColumn) (keyCol, error) {
		pos := position(t, ic.Column)
		if pos < 0 {
			return keyCol{}, fmt.Errorf("rowio: index %s of table %s has key column %d, which the table does not have", ix.Name, t.Name, ic.Column)
		}
		a := &t.Columns[pos]
		k := keyCol{pos: pos, id: int16(ic.Column), oid: a.Type.OID, mod: a.Type.Mod, nullsFirst: ic.NullsFirst}
		if ic.Dir == catalog.Descending {
			k.dir = encoding.Descending
		}
		return k, nil
	}
	for _, ic := range ix.Columns {
		k, err := key(ic)
		if err != nil {
			return nil, err
		}
		c.own = append(c.own, k)
		c.value = append(c.value, valueCol{pos: k.pos, id: k.id, key: true, oid: k.oid, mod: k.mod})
	}
	for _, id := range ix.Suffix {
		k, err := key(catalog.IndexColumn{Column: id})
		if err != nil {
			return nil, err
		}
		c.suffix = append(c.suffix, k)
		c.value = append(c.value, valueCol{pos: k.pos, id: k.id, key: true, oid: k.oid, mod: k.mod, suffix: true})
	}
	stored := ix.Stored
	if ix.Primary {
		stored = t.ValueColumns(ix)
	}
	for _, id := range stored {
		pos := position(t, id)
		if pos < 0 {
			return nil, fmt.Errorf("rowio: index %s of table %s stores column %d, which the table does not have", ix.Name, t.Name, id)
		}
		if ix.Primary && !t.Columns[pos].State.Writable() {
			continue
		}
		c.value = append(c.value, valueCol{pos: pos, id: int16(id)})
	}
	sort.Slice(c.value, func(i, j int) bool { return c.value[i].id < c.value[j].id })
	return c, nil
}

func position(t *catalog.Table, id catalog.ColumnID) int {
	for i := range t.Columns {
		if t.Columns[i].ID == id {
			return i
		}
	}
	return -1
}

// Prefix returns the index's key prefix. Nobody may change it.
func (c *IndexCodec) Prefix() keys.Key { return c.prefix }

// KeyColumn describes the i-th column of a full key.
func (c *IndexCodec) KeyColumn(i int) (oid types.OID, dir encoding.Direction, nullsFirst bool) {
	k := c.key(i)
	return k.oid, k.dir, k.nullsFirst
}

func (c *IndexCodec) key(i int) *keyCol {
	if i < len(c.own) {
		return &c.own[i]
	}
	return &c.suffix[i-len(c.own)]
}

// HasNull reports whether an own key column of the row is NULL: then a unique index does not
// compare it with others.
func (c *IndexCodec) HasNull(row []types.Datum) bool {
	for i := range c.own {
		if row[c.own[i].pos].IsNull() {
			return true
		}
	}
	return false
}

// Unique reports whether the row's entry must be the only one with its key.
func (c *IndexCodec) Unique(row []types.Datum) bool { return c.unique && !c.HasNull(row) }

// EncodeKey returns the key of a row's entry in fresh memory. row has a value for each of
// the table's columns.
func (c *IndexCodec) EncodeKey(row []types.Datum) (keys.Key, error) {
	dst := make([]byte, len(c.prefix), len(c.prefix)+16*(len(c.own)+len(c.suffix)))
	copy(dst, c.prefix)
	return c.appendKey(dst, row)
}

func (c *IndexCodec) appendKey(dst []byte, row []types.Datum) ([]byte, error) {
	var err error
	for i := range c.own {
		k := &c.own[i]
		if dst, err = rowenc.AppendKey(dst, k.oid, row[k.pos], k.dir, k.nullsFirst); err != nil {
			return nil, err
		}
	}
	if c.unique && !c.HasNull(row) {
		return dst, nil
	}
	for i := range c.suffix {
		k := &c.suffix[i]
		if dst, err = rowenc.AppendKey(dst, k.oid, row[k.pos], k.dir, k.nullsFirst); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// AppendKeyValue appends one key column's value to a key that is being made.
func (c *IndexCodec) AppendKeyValue(dst []byte, i int, d types.Datum) ([]byte, error) {
	k := c.key(i)
	return rowenc.AppendKey(dst, k.oid, d, k.dir, k.nullsFirst)
}

// EncodeValue returns the value of a row's entry in fresh memory.
func (c *IndexCodec) EncodeValue(row []types.Datum) ([]byte, error) {
	dst := rowenc.BeginRow(make([]byte, 0, 16+12*len(c.value)))
	inKey := !(c.unique && !c.HasNull(row)) // the suffix is part of the key
	prev := int16(0)
	var err error
	for i := range c.value {
		v := &c.value[i]
		d := row[v.pos]
		if v.key && (!v.suffix || inKey) && !rowenc.NeedsValue(v.oid, v.mod, d) {
			continue
		}
		if dst, err = rowenc.AppendColumn(dst, prev, v.id, d); err != nil {
			return nil, err
		}
		prev = v.id
	}
	return dst, nil
}

// Column says which column of the table goes to which slot.
type Column struct {
	Pos  int // in table.Columns
	Slot int
}

// Reader decodes some columns of an index's entries. It may be used concurrently.
type Reader struct {
	ic      *IndexCodec
	wanted  []int           // slot of each key column (own, then suffix); -1 if it is not wanted
	keyMax  int             // key columns from here on are not wanted
	values  *rowenc.Decoder // columns that are only in values
	present *rowenc.Decoder // key columns, where the value has them
}

// NewReader makes a reader for an index that holds all the columns asked for.
func (c *Codec) NewReader(ic *IndexCodec, cols []Column) *Reader {
	r := &Reader{ic: ic, wanted: make([]int, len(ic.own)+len(ic.suffix))}
	for i := range r.wanted {
		r.wanted[i] = -1
	}
	var vals, pres []rowenc.Column
	for _, col := range cols {
		isKey := false
		for i := range r.wanted {
			if ic.key(i).pos == col.Pos {
				r.wanted[i] = col.Slot
				r.keyMax = max(r.keyMax, i+1)
				isKey = true
				k := ic.key(i)
				if i >= len(ic.own) || canNeedValue(k.oid) {
					pres = append(pres, rowenc.Column{ID: k.id, Slot: col.Slot})
				}
			}
		}
		if !isKey {
			vals = append(vals, rowenc.Column{ID: int16(c.Table.Columns[col.Pos].ID), Slot: col.Slot, Missing: c.missing[col.Pos]})
		}
	}
	if len(vals) > 0 {
		r.values = rowenc.NewDecoder(vals)
	}
	if len(pres) > 0 {
		r.present = rowenc.NewDecoder(pres)
	}
	return r
}

// canNeedValue says whether rowenc.NeedsValue can be true for a type.
func canNeedValue(t types.OID) bool {
	switch types.KindOf(t) {
	case types.KindInt, types.KindBool, types.KindTimestamp, types.KindDate, types.KindTime, types.KindBytes, types.KindUUID:
		return false
	case types.KindString:
		return t == types.OIDBPChar
	}
	return true
}

// Decode sets the wanted slots of out from an entry. What out refers to lives in key and
// value.
func (r *Reader) Decode(key keys.Key, value []byte, out []types.Datum) error {
	ic := r.ic
	if r.keyMax > 0 {
		b := key[len(ic.prefix):]
		for i := 0; i < r.keyMax && len(b) > 0; i++ {
			k := ic.key(i)
			d, rest, err := rowenc.DecodeKey(b, k.oid, k.mod, k.dir)
			if err != nil {
				return fmt.Errorf("rowio: key of index %s of table %s: %w", ic.Index.Name, ic.Table.Name, err)
			}
			b = rest
			if s := r.wanted[i]; s >= 0 {
				out[s] = d
			}
		}
	}
	if r.present != nil {
		if err := r.present.DecodePresent(value, out); err != nil {
			return r.bad(err)
		}
	}
	if r.values != nil {
		if err := r.values.Decode(value, out); err != nil {
			return r.bad(err)
		}
	}
	return nil
}

func (r *Reader) bad(err error) error {
	return fmt.Errorf("rowio: value of index %s of table %s: %w", r.ic.Index.Name, r.ic.Table.Name, err)
}

// AllColumns asks for every column of a table at its own position.
func AllColumns(t *catalog.Table) []Column {
	out := make([]Column, len(t.Columns))
	for i := range out {
		out[i] = Column{Pos: i, Slot: i}
	}
	return out
}

type allReaderKey struct{}

// DecodeRow decodes a primary index entry into a value for each of table.Columns.
func DecodeRow(t *catalog.Table, key keys.Key, value []byte) ([]types.Datum, error) {
	v, err := t.Derived(allReaderKey{}, func() (any, error) {
		c, err := For(t)
		if err != nil {
			return nil, err
		}
		return c.NewReader(c.Indexes[0], AllColumns(t)), nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]types.Datum, len(t.Columns))
	return out, v.(*Reader).Decode(key, value, out)
}

// EncodeEntry returns the entry of an index for a row with a value for each of table.Columns.
func EncodeEntry(t *catalog.Table, ix *catalog.Index, row []types.Datum) (keys.Key, []byte, error) {
	c, err := For(t)
	if err != nil {
		return nil, nil, err
	}
	ic := c.Index(ix)
	if ic == nil {
		return nil, nil, fmt.Errorf("rowio: index %s does not fit table %s", ix.Name, t.Name)
	}
	key, err := ic.EncodeKey(row)
	if err != nil {
		return nil, nil, err
	}
	value, err := ic.EncodeValue(row)
	return key, value, err
}

// RowCodec implements package ddl's RowCodec.
type RowCodec struct{}

// DecodeRow is DecodeRow.
func (RowCodec) DecodeRow(t *catalog.Table, key keys.Key, value []byte) ([]types.Datum, error) {
	return DecodeRow(t, key, value)
}

// EncodeEntry is EncodeEntry.
func (RowCodec) EncodeEntry(t *catalog.Table, ix *catalog.Index, row []types.Datum) (keys.Key, []byte, error) {
	return EncodeEntry(t, ix, row)
}

// Missing returns what a row that lacks the column holds (catalog.Column.HasMissing).
func (c *Codec) Missing(id catalog.ColumnID) types.Datum {
	if p := position(c.Table, id); p >= 0 {
		return c.missing[p]
	}
	return types.Null
}
