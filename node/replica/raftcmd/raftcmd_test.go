package raftcmd

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

func sample() *Command {
	left := kv.RangeDescriptor{RangeID: 7, End: keys.Key("m"), NextReplicaID: 4, Generation: 3,
		Replicas: []kv.ReplicaDescriptor{{Node: 1, Replica: 1}, {Node: 2, Replica: 3, Type: kv.NonVoter}}}
	right := left.Clone()
	right.RangeID, right.Start, right.End = 8, keys.Key("m"), keys.MaxKey
	return &Command{ID: ID{1, 2}, Birth: 1 << 60, Term: 9, Proposer: 2, Batch: []byte("batch"), Split: &SplitTrigger{Left: left, Right: right, HighWater: hlc.Timestamp{WallNanos: 8, Logical: 9}},
		ChangeDesc: &left, GCThreshold: hlc.Timestamp{WallNanos: 5, Logical: 6}, Digest: true, LogicalBytes: -12}
}

func TestRoundTrip(t *testing.T) {
	c := sample()
	got, err := Decode(c.Encode())
	require.NoError(t, err)
	require.Equal(t, c, got)

	entry := NewEntry(nil)
	for range 3 {
		before := len(entry)
		enc := c.Encode()
		entry = AppendToEntry(entry, enc)
		require.Equal(t, EntrySize(enc), len(entry)-before)
	}
	cmds, err := DecodeEntry(entry)
	require.NoError(t, err)
	require.Len(t, cmds, 3)
	require.Equal(t, c, cmds[2])
}

func TestNewerVersionIsRefused(t *testing.T) {
	_, err := DecodeEntry([]byte{Version + 1})
	require.ErrorContains(t, err, "upgrade this node")
}

func TestEntriesOfVersion1AreRead(t *testing.T) {
	cmds, err := DecodeEntry(AppendToEntry([]byte{versionUnborn}, sample().Encode()))
	require.NoError(t, err)
	require.True(t, cmds[0].Unborn)
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(AppendToEntry(NewEntry(nil), sample().Encode()))
	f.Add([]byte{Version, 0x0a, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		cmds, err := DecodeEntry(b)
		if err != nil {
			return
		}
		for _, c := range cmds {
			again, err := Decode(c.Encode())
			require.NoError(t, err)
			require.Equal(t, c.Encode(), again.Encode())
		}
	})
}
