package group

import (
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/raftcmd"
)

func FuzzDecode(f *testing.F) {
	desc := kv.RangeDescriptor{RangeID: 7, Start: keys.Key("a"), End: keys.Key("z"), Generation: 1}
	f.Add((&beginMsg{id: snapshotID{1}, rangeID: 7, to: "n1/1", raftTerm: 3, pos: Position{Index: 9, Term: 2}, desc: desc}).encode())
	data := appendPair(nil, []byte("key"), []byte("value"))
	f.Add((&chunkMsg{id: snapshotID{1}, seq: 4, data: data, crc: crc32.Checksum(data, castagnoli)}).encode())
	f.Add((&endMsg{id: snapshotID{1}, chunks: 2, pairs: 3, crc: 4}).encode())
	f.Add((&reply{term: 2, success: true, send: true}).encode())
	f.Add(encodeIDs(0, []idRecord{{id: raftcmd.ID{1}, outcome: []byte("out")}, {id: raftcmd.ID{2}}}))
	f.Add(encodeIDs(77, []idRecord{{id: raftcmd.ID{1}, outcome: []byte("out")}}))
	f.Add(encodeWords(1, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeBegin(b); err == nil {
			again, err := decodeBegin(m.encode())
			require.NoError(t, err)
			require.Equal(t, m.encode(), again.encode())
		}
		if m, err := decodeChunk(append([]byte(nil), b...)); err == nil {
			_ = eachPair(m.data, func(_, _ []byte) error { return nil })
		}
		_, _ = decodeEnd(b)
		_, _ = decodeReply(b)
		_, _, _ = decodeWords(b, 2)
		_, _ = decodeConfiguration(b)
		if birth, c, err := decodeIDs(append([]byte(nil), b...)); err == nil {
			birth2, again, err := decodeIDs(encodeIDs(birth, c))
			require.NoError(t, err)
			require.Equal(t, c, again)
			require.Equal(t, birth, birth2)
		}
	})
}
