package replica

import (
	"context"
	"testing"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
)

func BenchmarkGet(b *testing.B) {
	bd := newBed(b, Limits{})
	bd.putNow("key", "value")
	key := keys.Key("key")
	ctx := context.Background()
	b.Run("mvcc", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := mvcc.Get(bd.engine, key, bd.clock.Now(), mvcc.ReadOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("send", func(b *testing.B) {
		b.ReportAllocs()
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: key}}}
		for b.Loop() {
			if _, err := bd.replicas[0].Send(ctx, ba); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("txn", func(b *testing.B) {
		b.ReportAllocs()
		c := bd.begin(kv.Serializable)
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: key}}}
		ba.Txn = c.txn
		for b.Loop() {
			if _, err := bd.replicas[0].Send(ctx, ba); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("put", func(b *testing.B) {
		b.ReportAllocs()
		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: keys.Key("other"), Value: []byte("v")}}}
		for b.Loop() {
			if _, err := bd.replicas[0].Send(ctx, ba); err != nil {
				b.Fatal(err)
			}
		}
	})
}
