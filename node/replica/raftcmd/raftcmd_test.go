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
		ChangeDesc: &left, GCThreshold: hlc.Timestamp{WallNanos: 5, Logical: 6}, Digest: true, LogicalBytes: -12,
		Freeze: &FreezeTrigger{Attempt: ID{3}, Left: 6, LeftStart: keys.Key("a"), LeftGeneration: 4, Generation: 5}, Unfreeze: &UnfreezeTrigger{Attempt: ID{4}},
		Merge: &MergeTrigger{Attempt: ID{5}, Merged: right, LeftGeneration: 2, Right: 11, HighWater: hlc.Timestamp{WallNanos: 3, Logical: 1}, Horizon: 77}}
}

// Who knows no merges must not skip one, nor a descriptor whose mark it would lose (S20).
func TestEntriesOfAMergeAreRefusedByOlderNodes(t *testing.T) {
	plain := &Command{ChangeDesc: sample().ChangeDesc}
	require.EqualValues(t, Version, plain.EntryVersion())
	pinned := plain.ChangeDesc.Clone()
	pinned.Pinned = true
	all := sample()
	for _, c := range []*Command{{Freeze: all.Freeze}, {Unfreeze: all.Unfreeze}, {Merge: all.Merge}, {ChangeDesc: &pinned}, {Split: &SplitTrigger{Right: pinned}}} {
		require.EqualValues(t, VersionMerge, c.EntryVersion())
	}
	entry := NewEntry(nil)
	RaiseEntry(entry, plain.EntryVersion())
	require.EqualValues(t, Version, entry[0])
	RaiseEntry(entry, VersionMerge)
	RaiseEntry(entry, Version)
	require.EqualValues(t, VersionMerge, entry[0])
}

func TestMalformedMergesAreRefused(t *testing.T) {
	c := sample()
	for name, bad := range map[string]*Command{
		"a freeze without an attempt": {Freeze: &FreezeTrigger{Left: 1}},
		"a freeze for no range":       {Freeze: &FreezeTrigger{Attempt: ID{1}}},
		"an end of nothing":           {Unfreeze: &UnfreezeTrigger{}},
		"a merge with itself":         {Merge: &MergeTrigger{Attempt: ID{1}, Merged: c.Merge.Merged, Right: c.Merge.Merged.RangeID}},
		"a merge of nothing":          {Merge: &MergeTrigger{Attempt: ID{1}, Merged: c.Merge.Merged}},
	} {
		_, err := Decode(bad.Encode())
		require.ErrorIs(t, err, ErrCorrupt, name)
	}
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
	_, err := DecodeEntry([]byte{VersionMerge + 1})
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
