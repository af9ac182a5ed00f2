package session

import (
	"context"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/txn"
)

// catalogTxn shows a transaction to the catalog.
type catalogTxn struct{ t *txn.Txn }

func (c catalogTxn) Get(ctx context.Context, key keys.Key, lock bool) (kv.GetResponse, error) {
	o := txn.ReadOptions{}
	if lock {
		o.Lock = kv.LockExclusive
	}
	return c.t.Get(ctx, key, o)
}

func (c catalogTxn) GetMany(ctx context.Context, ks []keys.Key) ([]kv.GetResponse, error) {
	return c.t.GetMany(ctx, ks, txn.ReadOptions{})
}

// Scan reads on until the span or max is exhausted: the server stops earlier at its own limits.
func (c catalogTxn) Scan(ctx context.Context, span keys.Span, limit int64) ([]kv.KeyValue, error) {
	var rows []kv.KeyValue
	for {
		o := txn.ScanOptions{}
		if limit > 0 {
			o.MaxRows = limit - int64(len(rows))
		}
		r, err := c.t.Scan(ctx, span, o)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r.Rows...)
		if r.Resume == nil || (limit > 0 && int64(len(rows)) >= limit) {
			return rows, nil
		}
		span = *r.Resume
	}
}

func (c catalogTxn) Put(ctx context.Context, key keys.Key, value []byte, cond kv.Condition) error {
	return c.t.Put(ctx, key, value, cond)
}

func (c catalogTxn) Delete(ctx context.Context, key keys.Key, cond kv.Condition) error {
	return c.t.Delete(ctx, key, cond)
}

func (c catalogTxn) Step()                        { c.t.Step() }
func (c catalogTxn) ReadTimestamp() hlc.Timestamp { return c.t.ReadTimestamp() }
func (c catalogTxn) SetDeadline(ts hlc.Timestamp) { c.t.SetDeadline(ts) }
func (c catalogTxn) Isolation() kv.Isolation      { return c.t.Isolation() }

// CatalogDB shows the transaction layer to the catalog.
type CatalogDB struct {
	DB     *txn.DB
	Clock  *hlc.Clock
	Sender kv.Sender
}

// Run implements catalog.DB.
func (c CatalogDB) Run(ctx context.Context, name string, f func(context.Context, catalog.Txn) error) error {
	return c.DB.Run(ctx, txn.Options{Name: name}, func(ctx context.Context, t *txn.Txn) error {
		return f(ctx, catalogTxn{t})
	})
}

// Increment implements catalog.DB.
func (c CatalogDB) Increment(ctx context.Context, key keys.Key, delta int64) (int64, error) {
	return c.DB.Increment(ctx, key, delta)
}

// ClearSpan implements catalog.DB.
func (c CatalogDB) ClearSpan(ctx context.Context, span keys.Span, threshold hlc.Timestamp) error {
	_, err := c.Sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{&kv.ClearRangeRequest{Span: span, Threshold: threshold}}})
	return err
}

// Now implements catalog.DB.
func (c CatalogDB) Now() hlc.Timestamp { return c.Clock.Now() }
