package exec_test

import (
	"bytes"
	"context"
	"sort"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/exec/pushdown"
	"github.com/atolldb/atoll/node/txn"
)

// fakeTxn is a transaction over a map: what a statement writes shows from the next Step on.
// It checks conditions as a range would.
type fakeTxn struct {
	rows      map[string]fakeRow
	buffer    map[string]*[]byte // nil value: deleted
	clock     int64
	gets      int
	scans     int
	locked    int
	filtered  int
	projected int
}

type fakeRow struct {
	value []byte
	at    hlc.Timestamp
}

func newFakeTxn() *fakeTxn {
	return &fakeTxn{rows: map[string]fakeRow{}, buffer: map[string]*[]byte{}, clock: 1}
}

func (f *fakeTxn) Step() {
	f.clock++
	for k, v := range f.buffer {
		if v == nil {
			delete(f.rows, k)
		} else {
			f.rows[k] = fakeRow{*v, hlc.Timestamp{WallNanos: f.clock}}
		}
	}
	f.buffer = map[string]*[]byte{}
}

func (f *fakeTxn) Discard() { f.buffer = map[string]*[]byte{} }

func (f *fakeTxn) Get(_ context.Context, key keys.Key, o txn.ReadOptions) (kv.GetResponse, error) {
	f.gets++
	return f.get(key, o), nil
}

func (f *fakeTxn) get(key keys.Key, o txn.ReadOptions) kv.GetResponse {
	if o.Lock != kv.LockNone {
		f.locked++
	}
	r, ok := f.rows[string(key)]
	return kv.GetResponse{Value: r.value, Exists: ok, Version: r.at}
}

func (f *fakeTxn) GetMany(_ context.Context, ks []keys.Key, o txn.ReadOptions) ([]kv.GetResponse, error) {
	f.gets++
	out := make([]kv.GetResponse, len(ks))
	for i, k := range ks {
		out[i] = f.get(k, o)
	}
	return out, nil
}

func (f *fakeTxn) Scan(_ context.Context, span keys.Span, o txn.ScanOptions) (txn.ScanResult, error) {
	f.scans++
	var rows []kv.KeyValue
	for k, r := range f.rows {
		if k >= string(span.Key) && k < string(span.EndKey) {
			rows = append(rows, kv.KeyValue{Key: keys.Key(k), Value: r.value, Version: r.at})
		}
	}
	sort.Slice(rows, func(i, j int) bool {
		return (bytes.Compare(rows[i].Key, rows[j].Key) < 0) != o.Reverse
	})
	if o.Pushdown != nil {
		filter, err := pushdown.Compile(o.Pushdown)
		if err != nil {
			return txn.ScanResult{}, err
		}
		kept := rows[:0]
		for _, r := range rows {
			keep, out, err := filter.Next(r.Key, r.Value)
			if err != nil {
				return txn.ScanResult{}, err
			}
			if out != nil {
				r.Value = out
				f.projected++
			}
			if keep {
				kept = append(kept, r)
			} else {
				f.filtered++
			}
		}
		rows = kept
	}
	max := o.MaxRows
	if max == 0 {
		max = 3 // pages are small, so that resuming is tested
	}
	res := txn.ScanResult{Rows: rows}
	if int64(len(rows)) > max {
		res.Rows = rows[:max]
		next := rows[max].Key
		if o.Reverse {
			res.Resume = &keys.Span{Key: span.Key, EndKey: next.Next()}
		} else {
			res.Resume = &keys.Span{Key: next, EndKey: span.EndKey}
		}
	}
	if o.Lock != kv.LockNone {
		f.locked += len(res.Rows)
	}
	return res, nil
}

func (f *fakeTxn) check(key keys.Key, c kv.Condition) error {
	if v, ok := f.buffer[string(key)]; ok {
		if c.MustBeAbsent && v != nil {
			return &kv.ConditionFailedError{Key: key, Actual: *v}
		}
		return nil
	}
	r, ok := f.rows[string(key)]
	if c.MustBeAbsent && ok {
		return &kv.ConditionFailedError{Key: key, Actual: r.value}
	}
	if c.Check && ok && c.Seen.Less(r.at) {
		return &kv.RetryError{Reason: kv.RetryLockLost}
	}
	return nil
}

func (f *fakeTxn) Put(_ context.Context, key keys.Key, value []byte, c kv.Condition) error {
	if err := f.check(key, c); err != nil {
		return err
	}
	f.buffer[string(key)] = &value
	return nil
}

func (f *fakeTxn) Delete(_ context.Context, key keys.Key, c kv.Condition) error {
	if err := f.check(key, c); err != nil {
		return err
	}
	f.buffer[string(key)] = nil
	return nil
}

func (f *fakeTxn) Overlaps(span keys.Span) bool {
	for k := range f.buffer {
		if span.Contains(keys.Key(k)) {
			return true
		}
	}
	return false
}
