package storage

import (
	"bytes"
	"testing"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

func FuzzDecodeKey(f *testing.F) {
	f.Add(EncodeVersion(nil, keys.Key("a\x00b"), ts(7, 0)), []byte{0})
	f.Add(EncodeVersion(nil, keys.Key{}, ts(7, 9)), EncodeKey(nil, keys.Key("a")))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		ka, ta, err := DecodeKey(a)
		if err != nil {
			return
		}
		require.Equal(t, a, EncodeVersion(nil, ka, ta), "one encoding to a key")
		kb, tb, err := DecodeKey(b)
		if err != nil {
			return
		}
		want := bytes.Compare(ka, kb)
		if want == 0 {
			switch {
			case ta == tb:
			case ta.IsEmpty():
				want = -1
			case tb.IsEmpty():
				want = 1
			default:
				want = tb.Compare(ta) // newest first
			}
		}
		require.Equal(t, want, CompareEngineKeys(a, b), "%x %x", a, b)
	})
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(appendEntry(nil, &raft.Log{Term: 3, Type: raft.LogConfiguration, Data: []byte("d"), Extensions: []byte("x")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e raft.Log
		if decodeEntry(b, &e) == nil {
			require.True(t, bytes.Equal(b, appendEntry(nil, &e)))
		}
	})
}

// A batch from the network is applied whole or refused, without a panic.
func FuzzApplyRepr(f *testing.F) {
	s, err := OpenState(StateOptions{Dir: "/s", FS: MemFS(), Small: true})
	require.NoError(f, err)
	f.Cleanup(func() { s.Close() })
	b := s.NewWriteBatch()
	require.NoError(f, b.Set(keys.Key("a"), []byte("1")))
	require.NoError(f, b.SetVersion(keys.Key("b"), hlc.Timestamp{WallNanos: 1}, 1, []byte("2")))
	require.NoError(f, b.DeleteRange(keys.Key("a"), keys.Key("b")))
	require.NoError(f, b.Delete(keys.Key("a")))
	f.Add(append([]byte(nil), b.Repr()...))
	require.NoError(f, b.Close())
	f.Fuzz(func(t *testing.T, repr []byte) {
		orig := append([]byte(nil), repr...)
		err := s.ApplyRepr(repr, nil)
		require.True(t, bytes.Equal(orig, repr))
		if err != nil {
			require.NoError(t, s.Fatal(), "a bad batch must not stop the store")
		}
	})
}
