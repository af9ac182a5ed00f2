package mvcc

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
	"github.com/stretchr/testify/require"
)

const benchKeys = 200_000

func benchKey(dst keys.Key, i int) keys.Key {
	dst = append(dst[:0], "\x04\x00\x00\x00\x01\x00\x00\x00\x01"...)
	return binary.BigEndian.AppendUint64(dst, uint64(i))
}

// benchEngine holds benchKeys rows of 100 bytes with the given versions each, on the disk.
func benchEngine(b *testing.B, versions int) *storage.StateEngine {
	b.Helper()
	s, err := storage.OpenState(storage.StateOptions{Dir: b.TempDir()})
	require.NoError(b, err)
	b.Cleanup(func() { s.Close() })
	value := make([]byte, 100)
	for v := 1; v <= versions; v++ {
		for i := 0; i < benchKeys; {
			w := s.NewWriteBatch()
			for range 1000 {
				require.NoError(b, w.SetVersion(benchKey(nil, i), hlc.Timestamp{WallNanos: int64(v)}, kindValue, value))
				i++
			}
			require.NoError(b, s.Commit(w))
			require.NoError(b, w.Close())
		}
		require.NoError(b, s.Flush())
	}
	b.ReportAllocs()
	b.ResetTimer()
	return s
}

func BenchmarkGet(b *testing.B) {
	for _, versions := range []int{1, 3} {
		s := benchEngine(b, versions)
		key := make(keys.Key, 0, 32)
		now := hlc.Timestamp{WallNanos: 100}
		b.Run(fmt.Sprintf("versions=%d", versions), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				key = benchKey(key, i*7919%benchKeys)
				r, err := Get(s, key, now, ReadOptions{UncertaintyLimit: hlc.Timestamp{WallNanos: 200}})
				if err != nil || !r.Exists {
					b.Fatal(r, err)
				}
			}
		})
		b.Run(fmt.Sprintf("getter/versions=%d", versions), func(b *testing.B) {
			b.ReportAllocs()
			g, err := NewGetter(s)
			require.NoError(b, err)
			defer g.Close()
			for i := 0; b.Loop(); i++ {
				key = benchKey(key, i*7919%benchKeys)
				r, err := g.Get(key, now, ReadOptions{})
				if err != nil || !r.Exists {
					b.Fatal(r, err)
				}
			}
		})
		b.Run(fmt.Sprintf("absent/versions=%d", versions), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				key = append(benchKey(key, i*7919%benchKeys), 1)
				if r, err := Get(s, key, now, ReadOptions{}); err != nil || r.Exists {
					b.Fatal(r, err)
				}
			}
		})
	}
}

func BenchmarkScan(b *testing.B) {
	s := benchEngine(b, 1)
	for _, reverse := range []bool{false, true} {
		b.Run(fmt.Sprintf("rows=1000/reverse=%t", reverse), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				from := i * 7919 % (benchKeys - 1000)
				r, err := Scan(s, keys.Span{Key: benchKey(nil, from), EndKey: benchKey(nil, from+1000)}, hlc.Timestamp{WallNanos: 100}, ScanOptions{Reverse: reverse})
				if err != nil || len(r.Rows) != 1000 {
					b.Fatal(len(r.Rows), err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/row")
		})
	}
}

func BenchmarkPut(b *testing.B) {
	value := make([]byte, 100)
	for _, kind := range []string{"onephase", "intent", "intent+commit"} {
		b.Run(kind, func(b *testing.B) {
			s := benchEngine(b, 1)
			key := make(keys.Key, 0, 32)
			for i := 0; b.Loop(); i++ {
				key = benchKey(key, i*7919%benchKeys)
				ts := hlc.Timestamp{WallNanos: int64(i + 100)}
				w := s.NewBatch()
				txn := &kv.Txn{TxnMeta: kv.TxnMeta{Key: key, WriteTimestamp: ts}}
				if kind == "intent" {
					binary.BigEndian.PutUint64(txn.ID[:], 1)
					txn.WriteTimestamp, txn.Epoch = hlc.Timestamp{WallNanos: int64(i + 100)}, int32(i)
				}
				in, err := Put(w, key, ts, value, false, PutOptions{Txn: txn, OnePhase: kind == "onephase", Seq: 1})
				if err != nil || in != nil {
					b.Fatal(in, err)
				}
				if kind == "intent+commit" {
					if _, err := ResolveIntent(w, key, Resolution{Txn: txn.TxnMeta, Status: kv.TxnCommitted}); err != nil {
						b.Fatal(err)
					}
				}
				if err := s.ApplyRepr(w.Repr(), nil); err != nil {
					b.Fatal(err)
				}
				w.Close()
			}
		})
	}
}
