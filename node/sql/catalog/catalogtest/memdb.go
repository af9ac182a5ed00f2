// Package catalogtest is an in-memory key-value database behind the catalog's interfaces,
// for tests: versioned, with optimistic serializable transactions.
package catalogtest

import (
	"bytes"
	"context"
	"errors"
	"sort"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
)

// ErrRetry is what a transaction gets whose reads no longer hold.
var ErrRetry = errors.New("catalogtest: serialization failure")

// ErrDeadline is what a transaction gets whose commit came too late.
var ErrDeadline = errors.New("catalogtest: commit deadline passed")

type version struct {
	at    hlc.Timestamp
	value []byte // nil: deleted
}

// DB implements catalog.DB.
type DB struct {
	mu    sync.Mutex
	data  map[string][]version // newest last
	clock hlc.Timestamp
}

// New returns an empty database.
func New() *DB { return &DB{data: map[string][]version{}} }

// Now implements catalog.DB.
func (d *DB) Now() hlc.Timestamp {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tick()
}

func (d *DB) tick() hlc.Timestamp {
	now := hlc.Timestamp{WallNanos: time.Now().UnixNano()}
	if !d.clock.Less(now) {
		now = d.clock.Next()
	}
	d.clock = now
	return now
}

// Begin starts a transaction.
func (d *DB) Begin() *Txn {
	return &Txn{db: d, ts: d.Now(), writes: map[string]write{}, iso: kv.Serializable}
}

// Run implements catalog.DB.
func (d *DB) Run(ctx context.Context, name string, f func(context.Context, catalog.Txn) error) error {
	for range 1000 {
		if err := ctx.Err(); err != nil {
			return err
		}
		t := d.Begin()
		err := f(ctx, t)
		if err == nil {
			err = t.Commit()
		}
		if !errors.Is(err, ErrRetry) {
			return err
		}
	}
	return errors.New("catalogtest: " + name + ": too many retries")
}

// Increment implements catalog.DB.
func (d *DB) Increment(_ context.Context, key keys.Key, delta int64) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var n int64
	if vs := d.data[string(key)]; len(vs) > 0 && vs[len(vs)-1].value != nil {
		for _, b := range vs[len(vs)-1].value {
			n = n<<8 | int64(b)
		}
	}
	n += delta
	b := make([]byte, 8)
	for i := range b {
		b[7-i] = byte(n >> (8 * i))
	}
	d.data[string(key)] = append(d.data[string(key)], version{d.tick(), b})
	return n, nil
}

// ClearSpan implements catalog.DB.
func (d *DB) ClearSpan(_ context.Context, span keys.Span, _ hlc.Timestamp) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k := range d.data {
		if span.Contains(keys.Key(k)) {
			delete(d.data, k)
		}
	}
	return nil
}

// Count returns how many live keys a span has.
func (d *DB) Count(span keys.Span) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for k, vs := range d.data {
		if span.Contains(keys.Key(k)) && vs[len(vs)-1].value != nil {
			n++
		}
	}
	return n
}

func (d *DB) at(key string, ts hlc.Timestamp) version {
	vs := d.data[key]
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].at.LessEq(ts) {
			return vs[i]
		}
	}
	return version{}
}

type write struct {
	value []byte
	cond  kv.Condition
}

// Txn implements catalog.Txn.
type Txn struct {
	db       *DB
	ts       hlc.Timestamp
	iso      kv.Isolation
	reads    []keys.Span
	writes   map[string]write
	deadline hlc.Timestamp
}

// Get implements catalog.Txn. A locking read moves the transaction's timestamp when nothing
// it read has changed.
func (t *Txn) Get(_ context.Context, key keys.Key, lock bool) (kv.GetResponse, error) {
	if w, ok := t.writes[string(key)]; ok {
		return kv.GetResponse{Value: w.value, Exists: w.value != nil}, nil
	}
	t.db.mu.Lock()
	defer t.db.mu.Unlock()
	if vs := t.db.data[string(key)]; lock && len(vs) > 0 && t.ts.Less(vs[len(vs)-1].at) {
		if err := t.refresh(); err != nil {
			return kv.GetResponse{}, err
		}
	}
	t.reads = append(t.reads, keys.Span{Key: key.Clone()})
	v := t.db.at(string(key), t.ts)
	return kv.GetResponse{Value: v.value, Exists: v.value != nil, Version: v.at}, nil
}

func (t *Txn) refresh() error {
	to := t.db.tick()
	for k, vs := range t.db.data {
		if last := vs[len(vs)-1].at; t.ts.Less(last) {
			for _, s := range t.reads {
				if s.Contains(keys.Key(k)) {
					return ErrRetry
				}
			}
		}
	}
	t.ts = to
	return nil
}

// GetMany implements catalog.Txn.
func (t *Txn) GetMany(ctx context.Context, ks []keys.Key) ([]kv.GetResponse, error) {
	var out []kv.GetResponse
	for _, k := range ks {
		r, err := t.Get(ctx, k, false)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Scan implements catalog.Txn.
func (t *Txn) Scan(_ context.Context, span keys.Span, limit int64) ([]kv.KeyValue, error) {
	t.db.mu.Lock()
	defer t.db.mu.Unlock()
	t.reads = append(t.reads, span)
	var out []kv.KeyValue
	for k := range t.db.data {
		if _, own := t.writes[k]; own || !span.Contains(keys.Key(k)) {
			continue
		}
		if v := t.db.at(k, t.ts); v.value != nil {
			out = append(out, kv.KeyValue{Key: keys.Key(k), Value: v.value, Version: v.at})
		}
	}
	for k, w := range t.writes {
		if span.Contains(keys.Key(k)) && w.value != nil {
			out = append(out, kv.KeyValue{Key: keys.Key(k), Value: w.value})
		}
	}
	sort.Slice(out, func(i, j int) bool { return bytes.Compare(out[i].Key, out[j].Key) < 0 })
	if limit > 0 && int64(len(out)) > limit {
		out = out[:limit]
	}
	return out, nil
}

// Put implements catalog.Txn.
func (t *Txn) Put(_ context.Context, key keys.Key, value []byte, cond kv.Condition) error {
	return t.write(key, append([]byte{}, value...), cond)
}

// Delete implements catalog.Txn.
func (t *Txn) Delete(_ context.Context, key keys.Key, cond kv.Condition) error {
	return t.write(key, nil, cond)
}

func (t *Txn) write(key keys.Key, value []byte, cond kv.Condition) error {
	if w, ok := t.writes[string(key)]; ok {
		if cond.MustBeAbsent && w.value != nil {
			return &kv.ConditionFailedError{Key: key, Actual: w.value}
		}
		cond = w.cond // the first write's holds, as in package txn
	}
	t.writes[string(key)] = write{value, cond}
	return nil
}

// Step implements catalog.Txn.
func (t *Txn) Step() {}

// ReadTimestamp implements catalog.Txn.
func (t *Txn) ReadTimestamp() hlc.Timestamp { return t.ts }

// SetDeadline implements catalog.Txn.
func (t *Txn) SetDeadline(ts hlc.Timestamp) { t.deadline = ts }

// Isolation implements catalog.Txn.
func (t *Txn) Isolation() kv.Isolation { return t.iso }

// Restart drops everything and takes a new timestamp.
func (t *Txn) Restart() {
	t.ts, t.reads, t.writes, t.deadline = t.db.Now(), nil, map[string]write{}, hlc.Timestamp{}
}

// Commit validates the reads and applies the writes at a new timestamp.
func (t *Txn) Commit() error {
	t.db.mu.Lock()
	defer t.db.mu.Unlock()
	if len(t.writes) == 0 {
		return nil
	}
	for k, w := range t.writes {
		vs := t.db.data[k]
		if !w.cond.Check || len(vs) == 0 {
			continue
		}
		last := vs[len(vs)-1]
		if w.cond.MustBeAbsent && last.value != nil {
			if t.ts.Less(last.at) {
				return ErrRetry // who read it with a lock would have waited
			}
			return &kv.ConditionFailedError{Key: keys.Key(k), Actual: last.value}
		}
		if w.cond.Seen.Less(last.at) {
			return ErrRetry
		}
	}
	if err := t.refresh(); err != nil {
		return err
	}
	if !t.deadline.IsEmpty() && !t.ts.Less(t.deadline) {
		return ErrDeadline
	}
	for k, w := range t.writes {
		t.db.data[k] = append(t.db.data[k], version{t.ts, w.value})
	}
	return nil
}
