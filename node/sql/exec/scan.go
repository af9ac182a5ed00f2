package exec

import (
	"bytes"
	"slices"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/encoding"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/exec/rowio"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/atolldb/atoll/node/txn"
)

// maxKeys bounds how many keys or spans the IN lists of one scan make.
const maxKeys = 100_000

// getMany is how many keys one batch of point reads holds.
const getMany = 512

// scanReader is what a scan needs to decode rows; it is made once for a plan.
type scanReader struct {
	codec *rowio.Codec
	ix    *rowio.IndexCodec
	rows  *rowio.Reader // the wanted columns, from the index that holds the rows
	// entry decodes the primary key's columns from an entry of a secondary index, into a row
	// of the table's shape.
	entry *rowio.Reader
}

func readerOf(n *physical.Scan) (*scanReader, error) {
	if r, ok := n.Memo.Load().(*scanReader); ok {
		return r, nil
	}
	c, err := rowio.For(n.Table)
	if err != nil {
		return nil, err
	}
	r := &scanReader{codec: c, ix: c.Index(n.Index)}
	var cols []rowio.Column
	for slot, a := range n.Attrs {
		cols = append(cols, rowio.Column{Pos: columnPos(n, a.ID), Slot: slot})
	}
	from := r.ix
	if n.Primary {
		from = c.Indexes[0]
		var pk []rowio.Column
		for _, ic := range n.Table.Primary.Columns {
			p := columnPos(n, ic.Column)
			pk = append(pk, rowio.Column{Pos: p, Slot: p})
		}
		r.entry = c.NewReader(r.ix, pk)
	}
	r.rows = c.NewReader(from, cols)
	n.Memo.Store(r)
	return r, nil
}

// scanOp reads a table.
type scanOp struct {
	n     *physical.Scan
	r     *scanReader
	open  bool
	keys  []keys.Key  // point reads left
	spans []keys.Span // scans left; the first is under way
	page  []kv.KeyValue
	out   Batch
	row   []types.Datum // for decoding entries
	push  []byte        // serialized filter, if it can be evaluated at the leaseholder
}

func (o *scanOp) close(*runtime) {}

func (o *scanOp) start(rt *runtime) error {
	o.open = true
	var err error
	if o.r, err = readerOf(o.n); err != nil {
		return err
	}
	o.keys, o.spans, err = ranges(rt, o.n, o.r.ix)
	if err == nil && !o.n.Primary && len(o.spans) > 0 && !rt.ec.NoPushdown {
		o.push = pushdownOf(rt, o.n)
	}
	return err
}

func (o *scanOp) next(rt *runtime, want int) (*Batch, error) {
	if !o.open {
		if err := o.start(rt); err != nil {
			return nil, err
		}
	}
	for {
		if len(o.page) == 0 {
			more, err := o.read(rt, want)
			if err != nil {
				return nil, err
			}
			if !more {
				return nil, nil
			}
			continue
		}
		n := min(len(o.page), batchRows)
		if err := o.decode(rt, o.page[:n]); err != nil {
			return nil, err
		}
		o.page = o.page[n:]
		if o.out.Len > 0 {
			return &o.out, nil
		}
	}
}

// read fills the page; false at the end. The page may come back empty.
func (o *scanOp) read(rt *runtime, want int) (bool, error) {
	if err := rt.ctx.Err(); err != nil {
		return false, err
	}
	if len(o.keys) > 0 {
		return true, o.readKeys(rt, want)
	}
	if len(o.spans) == 0 {
		return false, nil
	}
	span := o.spans[0]
	opts := txn.ScanOptions{Reverse: o.n.Reverse, LockTimeout: rt.ec.LockTimeout, Wait: o.n.Lock.Wait}
	if !o.n.Primary {
		opts.Lock = o.n.Lock.Strength
	}
	if len(o.n.Filter) == 0 && want < 1<<30 {
		opts.MaxRows = int64(want)
	}
	if o.push != nil && opts.Lock == kv.LockNone && !rt.ec.Txn.Overlaps(span) {
		// What comes back is filtered again: it may hold rows that the leaseholder could not
		// decide on.
		opts.Pushdown = o.push
	}
	res, err := rt.ec.Txn.Scan(rt.ctx, span, opts)
	if err != nil {
		return false, err
	}
	if res.Resume == nil {
		o.spans = o.spans[1:]
	} else {
		o.spans[0] = *res.Resume
	}
	if o.n.Primary {
		return true, o.fetch(rt, res.Rows)
	}
	o.page = res.Rows
	return true, nil
}

func (o *scanOp) readKeys(rt *runtime, want int) error {
	opts := txn.ReadOptions{LockTimeout: rt.ec.LockTimeout, Wait: o.n.Lock.Wait}
	if !o.n.Primary {
		opts.Lock = o.n.Lock.Strength
	}
	if len(o.keys) == 1 {
		key := o.keys[0]
		o.keys = nil
		resp, err := rt.ec.Txn.Get(rt.ctx, key, opts)
		if err != nil || !resp.Exists || resp.Skipped {
			return err
		}
		row := kv.KeyValue{Key: key, Value: resp.Value, Version: resp.Version}
		if o.n.Primary {
			return o.fetch(rt, []kv.KeyValue{row})
		}
		o.page = append(o.page[:0], row)
		return nil
	}
	n := min(len(o.keys), getMany)
	if opts.Lock != kv.LockNone {
		n = min(n, want)
	}
	batch := o.keys[:n]
	o.keys = o.keys[n:]
	rows, err := getRows(rt, batch, opts)
	if err != nil {
		return err
	}
	if o.n.Primary {
		return o.fetch(rt, rows)
	}
	o.page = rows
	return nil
}

// getRows reads keys and leaves out those that are absent or skipped.
func getRows(rt *runtime, ks []keys.Key, opts txn.ReadOptions) ([]kv.KeyValue, error) {
	resp, err := rt.ec.Txn.GetMany(rt.ctx, ks, opts)
	if err != nil {
		return nil, err
	}
	rows := make([]kv.KeyValue, 0, len(ks))
	for i := range resp {
		if resp[i].Exists && !resp[i].Skipped {
			rows = append(rows, kv.KeyValue{Key: ks[i], Value: resp[i].Value, Version: resp[i].Version})
		}
	}
	return rows, nil
}

// fetch reads the rows that entries of a secondary index point at.
func (o *scanOp) fetch(rt *runtime, entries []kv.KeyValue) error {
	o.page = nil
	if o.row == nil {
		o.row = make([]types.Datum, len(o.n.Table.Columns))
	}
	opts := txn.ReadOptions{Lock: o.n.Lock.Strength, Wait: o.n.Lock.Wait, LockTimeout: rt.ec.LockTimeout}
	for len(entries) > 0 {
		n := min(len(entries), getMany)
		ks := make([]keys.Key, 0, n)
		for _, e := range entries[:n] {
			key, err := o.r.primaryKey(e, o.row)
			if err != nil {
				return err
			}
			ks = append(ks, key)
		}
		entries = entries[n:]
		rows, err := getRows(rt, ks, opts)
		if err != nil {
			return err
		}
		o.page = append(o.page, rows...)
	}
	return nil
}

func (r *scanReader) primaryKey(e kv.KeyValue, row []types.Datum) (keys.Key, error) {
	if err := r.entry.Decode(e.Key, e.Value, row); err != nil {
		return nil, err
	}
	return r.codec.Indexes[0].EncodeKey(row)
}

// decode turns entries into rows and filters them.
func (o *scanOp) decode(rt *runtime, entries []kv.KeyValue) error {
	n := o.n
	width := len(n.Cols)
	o.out.reset(width)
	for i := range entries {
		row := o.out.add()
		if err := o.r.decode(n, &entries[i], row); err != nil {
			return err
		}
		if len(n.Filter) > 0 {
			ok, err := rt.truthy(n.Filter, row)
			if err != nil {
				return err
			}
			if !ok {
				o.out.drop()
			}
		}
	}
	return nil
}

func (r *scanReader) decode(n *physical.Scan, e *kv.KeyValue, row []types.Datum) error {
	if err := r.rows.Decode(e.Key, e.Value, row); err != nil {
		return err
	}
	if n.Keys {
		k := len(n.Attrs)
		row[k] = types.NewBytes(e.Key)
		row[k+1] = types.NewInt(e.Version.WallNanos)
		row[k+2] = types.NewInt(int64(e.Version.Logical))
	}
	return nil
}

// ranges computes the keys or spans that a scan reads.
func ranges(rt *runtime, n *physical.Scan, ix *rowio.IndexCodec) ([]keys.Key, []keys.Span, error) {
	if len(n.Range.Eq) == 0 && n.Range.Lower == nil && n.Range.Upper == nil {
		return nil, []keys.Span{n.Table.IndexSpan(n.Index)}, nil
	}
	prefixes := []keys.Key{ix.Prefix()}
	for i := range n.Range.Eq {
		vals, err := eqValues(rt, &n.Range.Eq[i])
		if err != nil {
			return nil, nil, err
		}
		if len(vals) == 0 {
			return nil, nil, nil
		}
		if len(prefixes)*len(vals) > maxKeys {
			return nil, nil, pgerror.New(pgerrcode.ProgramLimitExceeded, "the lists of the condition make %d keys, the limit is %d", len(prefixes)*len(vals), maxKeys).
				WithHint("Split the statement.")
		}
		next := make([]keys.Key, 0, len(prefixes)*len(vals))
		for _, p := range prefixes {
			for _, v := range vals {
				k, err := ix.AppendKeyValue(append(make(keys.Key, 0, len(p)+24), p...), i, v)
				if err != nil {
					return nil, nil, err
				}
				next = append(next, k)
			}
		}
		prefixes = next
	}
	if len(prefixes) > 1 {
		slices.SortFunc(prefixes, func(a, b keys.Key) int { return bytes.Compare(a, b) })
		prefixes = slices.CompactFunc(prefixes, func(a, b keys.Key) bool { return bytes.Equal(a, b) })
		if n.Reverse {
			slices.Reverse(prefixes)
		}
	}
	if n.Range.Point {
		return prefixes, nil, nil
	}
	return spansOf(rt, n, ix, prefixes)
}

// eqValues evaluates the values of one key column; NULL equals nothing.
func eqValues(rt *runtime, e *physical.KeyEq) ([]types.Datum, error) {
	if e.Null {
		return []types.Datum{types.Null}, nil
	}
	if e.Array != nil {
		v, err := e.Array.Eval(&rt.x, nil)
		if err != nil || v.IsNull() {
			return nil, err
		}
		out := make([]types.Datum, 0, len(v.Array().Values))
		for _, d := range v.Array().Values {
			if !d.IsNull() {
				out = append(out, d)
			}
		}
		return out, nil
	}
	out := make([]types.Datum, 0, len(e.Vals))
	for _, x := range e.Vals {
		v, err := x.Eval(&rt.x, nil)
		if err != nil {
			return nil, err
		}
		if !v.IsNull() {
			out = append(out, v)
		}
	}
	return out, nil
}

// spansOf adds the range of the next key column to each prefix.
func spansOf(rt *runtime, n *physical.Scan, ix *rowio.IndexCodec, prefixes []keys.Key) ([]keys.Key, []keys.Span, error) {
	col := len(n.Range.Eq)
	first, last := n.Range.Lower, n.Range.Upper
	bounded := first != nil || last != nil
	nullsFirst := false
	if bounded {
		_, dir, nf := ix.KeyColumn(col)
		nullsFirst = nf
		if dir == encoding.Descending {
			first, last = last, first
		}
	}
	bound := func(b *physical.Bound) (v types.Datum, null bool, err error) {
		if b == nil {
			return types.Null, false, nil
		}
		v, err = b.Expr.Eval(&rt.x, nil)
		return v, v.IsNull(), err
	}
	fv, fnull, err := bound(first)
	if err != nil {
		return nil, nil, err
	}
	lv, lnull, err := bound(last)
	if err != nil || fnull || lnull {
		return nil, nil, err
	}
	spans := make([]keys.Span, 0, len(prefixes))
	for _, p := range prefixes {
		s := keys.Span{Key: p, EndKey: p.PrefixEnd()}
		extend := func(v types.Datum) (keys.Key, error) {
			return ix.AppendKeyValue(append(make(keys.Key, 0, len(p)+24), p...), col, v)
		}
		switch {
		case first != nil:
			k, err := extend(fv)
			if err != nil {
				return nil, nil, err
			}
			if s.Key = k; !first.Inclusive {
				s.Key = k.PrefixEnd()
			}
		case bounded && nullsFirst:
			k, err := extend(types.Null)
			if err != nil {
				return nil, nil, err
			}
			s.Key = k.PrefixEnd()
		}
		switch {
		case last != nil:
			k, err := extend(lv)
			if err != nil {
				return nil, nil, err
			}
			if s.EndKey = k; last.Inclusive {
				s.EndKey = k.PrefixEnd()
			}
		case bounded && !nullsFirst:
			k, err := extend(types.Null)
			if err != nil {
				return nil, nil, err
			}
			s.EndKey = k
		}
		if s.Key.Less(s.EndKey) {
			spans = append(spans, s)
		}
	}
	return nil, spans, nil
}
