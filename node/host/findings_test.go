package host

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/store"
	"github.com/atolldb/atoll/node/wire"
)

func TestFindingsOnTheWire(t *testing.T) {
	want := []store.Finding{
		{Range: 2, Since: time.Unix(1700000000, 5), Stuck: true, Reason: "2 of 3 voters"},
		{Range: 1 << 40, Since: time.Unix(0, 1), Reason: "node 3 (c) is being decommissioned"},
	}
	got, err := decodeFindings(encodeFindings(want))
	require.NoError(t, err)
	require.Equal(t, want, got)
	got, err = decodeFindings(encodeFindings(nil))
	require.NoError(t, err)
	require.Empty(t, got)

	_, err = decodeFindings([]byte{2})
	require.ErrorIs(t, err, ErrCorruptFindings)
	_, err = decodeFindings(wire.AppendBytes([]byte{findingsVersion}, findingsField, nil))
	require.ErrorContains(t, err, "range 0")
	got, err = decodeFindings(append(encodeFindings(want), 0x78, 1)) // a field of tomorrow
	require.NoError(t, err)
	require.Equal(t, want, got)

	// What is too much is cut where it is sent.
	many := make([]store.Finding, maxFindings+1)
	for i := range many {
		many[i] = store.Finding{Range: 1, Since: time.Unix(0, 1), Reason: strings.Repeat("x", maxReason+1)}
	}
	got, err = decodeFindings(encodeFindings(many))
	require.NoError(t, err)
	require.Len(t, got, maxFindings)
	require.Len(t, got[0].Reason, maxReason)
}

func FuzzDecodeFindings(f *testing.F) {
	f.Add(encodeFindings([]store.Finding{{Range: 2, Since: time.Unix(1, 0), Stuck: true, Reason: "why"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := decodeFindings(b)
		if err != nil {
			require.ErrorIs(t, err, ErrCorruptFindings)
			return
		}
		again, err := decodeFindings(encodeFindings(all))
		require.NoError(t, err)
		require.Len(t, again, len(all))
	})
}
