package keys

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPhysicalOrder(t *testing.T) {
	ordered := []Key{
		MinKey, TxnRecord(Key("a"), [16]byte{1}), RangeLocal(1, "x"), RangeLocal(2, "a"), MetaMin, Meta(Key("k")), Meta(MaxKey),
		SystemMin, NodeDirectory(1), NodeDirectory(2), TableMin, TablePrefix(1), IndexPrefix(1, 1), IndexPrefix(1, 2), TablePrefix(2), MaxKey,
	}
	for i := 1; i < len(ordered); i++ {
		require.LessOrEqual(t, bytes.Compare(ordered[i-1], ordered[i]), 0, "%s before %s", ordered[i-1], ordered[i])
	}
	require.True(t, Meta(MaxKey).Less(MetaMax), "the meta range holds the last range's record")
}

func TestPrefixEnd(t *testing.T) {
	for in, want := range map[string]string{"a": "b", "a\xff": "b", "a\x00": "a\x01", "\xff": "\xff\xff"} {
		require.Equal(t, Key(want), Key(in).PrefixEnd(), "%q", in)
	}
}

func TestSpans(t *testing.T) {
	point := Span{Key: Key("b")}
	span := Span{Key: Key("a"), EndKey: Key("c")}
	require.True(t, span.Contains(Key("a")) && !span.Contains(Key("c")))
	require.True(t, span.Overlaps(point) && point.Overlaps(span))
	require.False(t, point.Overlaps(Span{Key: Key("b\x00")}))
	require.True(t, point.Contains(Key("b")) && !point.Contains(Key("b\x00")))
}

// A record's address is its anchor, and the records of a span of addresses lie together: a
// split must not leave one on the wrong side.
func FuzzAddressedLocal(f *testing.F) {
	f.Add([]byte("a"), []byte("b"))
	f.Add([]byte{}, []byte{0})
	f.Add([]byte{0, 1}, []byte{0, 0xff})
	f.Add([]byte{0xff}, []byte{0})
	f.Fuzz(func(t *testing.T, anchor, bound []byte) {
		rec := TxnRecord(anchor, [16]byte{7})
		addr, err := Addr(rec)
		require.NoError(t, err)
		require.Equal(t, append([]byte{}, anchor...), append([]byte{}, addr...))
		left := AddressedLocalSpan(MinKey, bound)
		right := AddressedLocalSpan(bound, MaxKey)
		if bytes.Compare(bound, MaxKey) < 0 && bytes.Compare(anchor, MaxKey) < 0 {
			isLeft := bytes.Compare(anchor, bound) < 0
			require.Equal(t, isLeft, !rec.Less(left.Key) && rec.Less(left.EndKey))
			require.Equal(t, !isLeft, !rec.Less(right.Key) && rec.Less(right.EndKey))
		}
		other := TxnRecord(bound, [16]byte{7})
		require.Equal(t, bytes.Compare(anchor, bound), bytes.Compare(rec, other), "records order as their anchors do")
	})
}

// Addr reads what may come from the network: it must not trust it.
func FuzzAddr(f *testing.F) {
	f.Add([]byte{localByte, 'k', 0})
	f.Add([]byte{localByte, 'k', 0, 2})
	f.Add([]byte{localByte, 'r'})
	f.Fuzz(func(_ *testing.T, k []byte) { _, _ = Addr(k) })
}

func TestPretty(t *testing.T) {
	for want, k := range map[string]Key{
		"/Min": MinKey, "/Max": MaxKey, "/Meta": MetaMin, "/System/61": System("a"), "/Table": TableMin, "/Table/70/2": IndexPrefix(70, 2),
		"/Table/70/2/8801": append(IndexPrefix(70, 2), 0x88, 1), "/Table/70/0001": append(TablePrefix(70), 0, 1), "/01": {1}, "/Meta/0400000046": Meta(TablePrefix(70)),
	} {
		if got := k.Pretty(); got != want {
			t.Errorf("%q is printed as %s, want %s", []byte(k), got, want)
		}
	}
}
