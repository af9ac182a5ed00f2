package concurrency

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// The cache is compared with a map that forgets nothing: it must never answer an earlier
// timestamp, and its size must stay bounded.
func TestTSCacheAgainstModel(t *testing.T) {
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 3))
		c := NewTSCache(64<<10, hlc.Timestamp{}, hlc.Timestamp{})
		model := map[string]Read{}
		key := func(i int) string { return fmt.Sprintf("k%03d", i) }
		const n = 500
		for range 3000 {
			ts := hlc.Timestamp{WallNanos: rng.Int64N(10_000) + 1}
			var id kv.TxnID
			id[0] = byte(rng.IntN(4))
			i := rng.IntN(n)
			if rng.IntN(2) == 0 {
				c.Add(keys.Span{Key: keys.Key(key(i))}, ts, id)
				r := model[key(i)]
				r.merge(Read{ts, id})
				model[key(i)] = r
			} else {
				j := i + 1 + rng.IntN(20)
				c.Add(keys.Span{Key: keys.Key(key(i)), EndKey: keys.Key(key(j))}, ts, id)
				for k := i; k < j; k++ {
					r := model[key(k)]
					r.merge(Read{ts, id})
					model[key(k)] = r
				}
			}
			k := key(rng.IntN(n))
			got, want := c.Get(keys.Span{Key: keys.Key(k)}), model[k]
			if got.TS.Less(want.TS) {
				t.Fatalf("seed %d: key %s: %s, want at least %s", seed, k, got.TS, want.TS)
			}
			if got.TS == want.TS && got.Txn != want.Txn && got.Txn != (kv.TxnID{}) {
				t.Fatalf("seed %d: key %s: read by %x, want %x", seed, k, got.Txn, want.Txn)
			}
			lo, hi := rng.IntN(n), rng.IntN(n)
			if lo < hi {
				most := hlc.Timestamp{}
				for k := lo; k < hi; k++ {
					most.Forward(model[key(k)].TS)
				}
				if got := c.Get(keys.Span{Key: keys.Key(key(lo)), EndKey: keys.Key(key(hi))}); got.TS.Less(most) {
					t.Fatalf("seed %d: span %d-%d: %s, want at least %s", seed, lo, hi, got.TS, most)
				}
			}
		}
		points, steps := c.Size()
		if points*pointBytes+steps*stepBytes > 96<<10 {
			t.Fatalf("%d points, %d steps", points, steps)
		}
	}
}

func TestMarkersForgetSafely(t *testing.T) {
	c := NewTSCache(1<<20, hlc.Timestamp{WallNanos: 100}, hlc.Timestamp{WallNanos: 50})
	txn := func(i int, ts int64) *kv.TxnMeta {
		m := &kv.TxnMeta{MinTimestamp: hlc.Timestamp{WallNanos: ts}}
		m.ID[0], m.ID[1], m.ID[2], m.ID[15] = byte(i), byte(i>>8), byte(i>>16), 1
		return m
	}
	if !c.Fate(txn(1, 50)).MayBeEnded || c.Fate(txn(2, 51)).MayBeEnded || c.Fate(txn(2, 51)).Ended {
		t.Fatal("the mark of a new lease")
	}
	first := txn(0, 1000)
	c.MarkEnded(first)
	c.MarkPushed(txn(1, 2000), hlc.Timestamp{WallNanos: 5000})
	for i := 2; i < 3*maxMarkers; i++ {
		c.MarkEnded(txn(i, 1500))
	}
	if f := c.Fate(first); !f.MayBeEnded {
		t.Fatal("an ended transaction was forgotten")
	}
	if f := c.Fate(txn(1, 2000)); f.PushedTo.WallNanos < 5000 || f.MayBeEnded {
		t.Fatalf("a pushed transaction: %+v", f)
	}
	d := NewTSCache(1<<20, hlc.Timestamp{}, hlc.Timestamp{})
	d.Inherit(c)
	last := txn(3*maxMarkers-1, 1500)
	if !d.Fate(last).Ended || !d.Fate(first).MayBeEnded {
		t.Fatal("the right side of a split forgot")
	}
}
