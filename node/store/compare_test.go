package store

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/replica/raftcmd"
)

// A replica that was removed from a node and added to it again applies the old one's commands from
// the log, requests for digests included. Each digest counts, and the last one is the one to give.
func TestDigestOfOneCommandTwice(t *testing.T) {
	var d digests
	id := raftcmd.ID{1}
	for i := range 3 {
		e := d.entry(id, digestRunning)
		d.finish(id, e, [32]byte{byte(i)}, group.Position{Index: uint64(i)}, nil)
		sum, pos, err := d.wait(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, [32]byte{byte(i)}, sum)
		require.EqualValues(t, i, pos.Index)
	}

	// Two at once: they share the entry that the first of them, or the leaseholder's question, made.
	other := raftcmd.ID{2}
	one, two := d.entry(other, digestRunning), d.entry(other, digestRunning)
	d.finish(other, one, [32]byte{1}, group.Position{}, errors.New("closed"))
	d.finish(other, two, [32]byte{2}, group.Position{}, nil)
	sum, _, err := d.wait(t.Context(), other)
	require.NoError(t, err)
	require.Equal(t, [32]byte{2}, sum)
	require.Len(t, d.by, 2)
}
