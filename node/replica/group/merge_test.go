package group

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

// A frozen range's log takes nothing but the end of the same freeze, on every replica and over a restart
// (S17, S20).
func TestFrozenLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		l := c.leader()
		require.NoError(t, l.put("k", "before"))
		attempt := raftcmd.ID{7}
		freeze := func(generation int64) error {
			return l.propose(&raftcmd.Command{Freeze: &raftcmd.FreezeTrigger{Attempt: attempt, Left: 6, LeftStart: keys.Key("A"), LeftGeneration: 3, Generation: generation}})
		}
		require.ErrorContains(t, freeze(2), "freeze of generation 2")
		require.NoError(t, freeze(1))
		require.ErrorContains(t, freeze(1), "the range is frozen")
		require.ErrorContains(t, l.propose(l.command("k", "meanwhile")), "the range is frozen")
		d := c.desc.Clone()
		d.Generation++
		require.ErrorContains(t, l.propose(&raftcmd.Command{ChangeDesc: &d}), "the range is frozen")
		require.ErrorContains(t, l.propose(&raftcmd.Command{GCThreshold: hlc.Timestamp{WallNanos: 1}}), "the range is frozen")
		require.ErrorContains(t, l.propose(&raftcmd.Command{Unfreeze: &raftcmd.UnfreezeTrigger{Attempt: raftcmd.ID{8}}}), "not frozen by attempt")
		st, err := LoadState(l.state, 7)
		require.NoError(t, err)
		require.Equal(t, attempt, st.Frozen.Attempt)
		require.Equal(t, st.Frozen, l.g.State().Frozen)
		require.NoError(t, l.propose(&raftcmd.Command{Unfreeze: &raftcmd.UnfreezeTrigger{Attempt: attempt}}))
		require.ErrorContains(t, l.propose(&raftcmd.Command{Unfreeze: &raftcmd.UnfreezeTrigger{Attempt: attempt}}), "not frozen by attempt")
		require.NoError(t, l.put("k", "after"))
		require.Equal(t, "after", l.get("k"))
		frozen, err := IsFrozen(l.state, 7)
		require.NoError(t, err)
		require.False(t, frozen)
		c.close()
	})
}

// A merge is applied only to the range as it was when the merge was decided (S20).
func TestMergesThatDoNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		l := c.leader()
		fits := func() *raftcmd.MergeTrigger {
			m := &raftcmd.MergeTrigger{Attempt: raftcmd.ID{7}, Merged: c.desc.Clone(), LeftGeneration: 1, Right: 9}
			m.Merged.End, m.Merged.Generation = keys.Key("zz"), 2
			return m
		}
		for name, spoil := range map[string]func(*raftcmd.MergeTrigger){
			"an older generation":             func(m *raftcmd.MergeTrigger) { m.LeftGeneration = 0 },
			"a generation that is no younger": func(m *raftcmd.MergeTrigger) { m.Merged.Generation = 1 },
			"another start":                   func(m *raftcmd.MergeTrigger) { m.Merged.Start = keys.Key("aa") },
			"no more keys":                    func(m *raftcmd.MergeTrigger) { m.Merged.End = c.desc.End },
			"another range":                   func(m *raftcmd.MergeTrigger) { m.Merged.RangeID = 8 },
		} {
			m := fits()
			spoil(m)
			require.ErrorContains(t, l.propose(&raftcmd.Command{Merge: m}), "merge into", name)
		}
		c.close()
	})
}

// A recovery applies the log's end with no other range's state at hand.
func TestRecoveryTakesNoMerge(t *testing.T) {
	f := &fsm{alone: true}
	f.st.Desc = kv.RangeDescriptor{RangeID: 7, Start: keys.Key("a"), End: keys.Key("m"), Generation: 1}
	m := &raftcmd.MergeTrigger{Attempt: raftcmd.ID{7}, Merged: f.st.Desc.Clone(), LeftGeneration: 1, Right: 9}
	m.Merged.End, m.Merged.Generation = keys.Key("z"), 2
	require.Contains(t, f.rejectMerge(&raftcmd.Command{Merge: m}), "is being recovered")
	f.alone = false
	require.Empty(t, f.rejectMerge(&raftcmd.Command{Merge: m}))
}

// What a range takes over of another one's memory is the newest part, and the horizon covers the rest (S12).
func TestNewestOfAMemory(t *testing.T) {
	a := &appliedIDs{rangeID: 3, byID: map[raftcmd.ID]appliedID{}, most: 40, horizon: 2}
	for i := range 10 {
		a.remember(uint64(i+11), int64(10*(i+1)), []idRecord{{id: commandID(i), outcome: []byte{byte(i)}}})
	}
	taken, birth, horizon := a.newest()
	require.Len(t, taken, 40/inheritedPart)
	require.Equal(t, commandID(5), taken[0].id)
	require.Equal(t, []byte{9}, taken[4].outcome)
	require.EqualValues(t, 100, birth)
	require.EqualValues(t, 50, horizon)
	taken, birth, horizon = (&appliedIDs{most: 40, horizon: 2}).newest()
	require.Empty(t, taken)
	require.Zero(t, birth)
	require.EqualValues(t, 2, horizon)
}

// What a snapshot clears is in key order, whatever the numbers of the ranges that it swallows.
func TestSpansThatASnapshotClears(t *testing.T) {
	old := kv.RangeDescriptor{RangeID: 5, Start: keys.Key("\x04b"), End: keys.Key("\x04c")}
	desc := kv.RangeDescriptor{RangeID: 5, Start: keys.Key("\x04b"), End: keys.Key("\x04e")}
	right := func(id keys.RangeID, end string) *Group {
		g := &Group{cfg: Config{RangeID: id}, fsm: &fsm{}}
		g.fsm.st.Desc = kv.RangeDescriptor{RangeID: id, Start: keys.Key("\x04c"), End: keys.Key(end)}
		return g
	}
	spans := clearedSpans(&old, &desc, []*Group{right(9, "\x04d"), right(3, "\x04e")})
	require.Len(t, spans, 5)
	for i := 1; i < len(spans); i++ {
		require.False(t, spans[i].Key.Less(spans[i-1].EndKey), "%v", spans)
	}
	require.Equal(t, desc.End, spans[4].EndKey)
	// The merged range was split since: what it gave up goes too, nobody else here can hold it.
	spans = clearedSpans(&old, &desc, []*Group{right(9, "\x04g")})
	require.Equal(t, keys.Key("\x04g"), spans[3].EndKey)
	markers := mergedMarkers([]keys.RangeID{9, 3})
	require.Negative(t, storage.CompareEngineKeys(markers[0].engineKey, markers[1].engineKey))
}
