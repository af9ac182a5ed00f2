package mvcc

import (
	"bytes"
	"testing"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

func FuzzDecodeIntent(f *testing.F) {
	in := intent{txn: kv.TxnMeta{ID: kv.TxnID{1, 2}, Key: keys.Key("anchor"), Epoch: 2, Seq: 9, Priority: -7, Isolation: kv.Snapshot,
		WriteTimestamp: hlc.Timestamp{WallNanos: 5, Logical: 1}, MinTimestamp: hlc.Timestamp{WallNanos: 4}},
		tombstone: true, storedLen: 1, history: []write{{seq: 1, value: []byte("x")}, {seq: 4, tombstone: true}}}
	f.Add(appendIntent(nil, &in))
	in.history = nil
	f.Add(appendIntent(nil, &in))
	f.Fuzz(func(t *testing.T, b []byte) {
		var in intent
		if decodeIntent(b, &in) != nil {
			return
		}
		var again intent
		c := appendIntent(nil, &in)
		if err := decodeIntent(c, &again); err != nil {
			t.Fatalf("%x decodes, its encoding %x does not: %v", b, c, err)
		}
		if d := appendIntent(nil, &again); !bytes.Equal(c, d) {
			t.Fatalf("%x and %x", c, d)
		}
	})
}

func FuzzDecodeValue(f *testing.F) {
	f.Add([]byte{kindTombstone})
	f.Add([]byte{kindValue, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, live, err := decodeValue(b)
		if err == nil && live != (b[0] == kindValue) || (!live && len(v) > 0) {
			t.Fatalf("%x: %x %t", b, v, live)
		}
	})
}
