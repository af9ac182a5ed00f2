package catalog

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzDecodeWait(f *testing.F) {
	f.Add((&waitRecord{ID: 1, Since: 2, Expiry: 3, Wants: 4, Version: 5, Uses: []held{{6, 7}}, Locks: []ID{8, 9}}).encode())
	f.Add([]byte{1, 50, 2, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeWait(b)
		if err != nil {
			return
		}
		again, err := decodeWait(r.encode())
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

func TestCycleThrough(t *testing.T) {
	all := []waitRecord{
		{ID: 1, Wants: 10, Locks: []ID{30}},             // the lock on 10: 2 has it
		{ID: 2, Wants: 20, Version: 5, Locks: []ID{10}}, // an end of 20's versions before 5: 3 uses one
		{ID: 3, Wants: 30, Uses: []held{{20, 4}}},
		{ID: 4, Wants: 10, Uses: []held{{60, 4}}}, // waits for the cycle, is not in it
		{ID: 5, Wants: 40, Locks: []ID{50}},
	}
	for i, want := range []int{3, 3, 3, 0, 0} {
		require.Len(t, cycleThrough(&all[i], all), want, "%d", i+1)
	}
	all[2].Uses[0].Version = 5 // the newest: nobody waits for that
	require.Empty(t, cycleThrough(&all[0], all))
}
