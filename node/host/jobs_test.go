package host

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/store"
	"github.com/atolldb/atoll/node/wire"
)

func TestCopiesEncoding(t *testing.T) {
	want := []store.Copy{{Range: 7, To: 3, Since: time.Unix(5, 6), Sent: 10, Total: 40}, {Range: 8, To: 2, Since: time.Unix(9, 0)}}
	got, err := decodeCopies(append(encodeCopies(want), 0x78, 1)) // and a field of tomorrow
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, 30*time.Second, want[0].Left(time.Unix(15, 6)))
	require.Zero(t, want[1].Left(time.Unix(15, 0)), "nothing was sent: nobody knows")

	for _, bad := range [][]byte{nil, {9}, encodeCopies(want)[:5], encodeCopies([]store.Copy{{Range: 1, To: 1, Sent: 5, Total: 4}}), wire.AppendBytes([]byte{copiesVersion}, copiesField, nil)} {
		_, err := decodeCopies(bad)
		require.ErrorIs(t, err, ErrCorruptCopies)
	}
	got, err = decodeCopies(encodeCopies(make([]store.Copy, 0)))
	require.NoError(t, err)
	require.Empty(t, got)
}

func FuzzDecodeCopies(f *testing.F) {
	f.Add(encodeCopies([]store.Copy{{Range: 7, To: 3, Since: time.Unix(5, 6), Sent: 10, Total: 40}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := decodeCopies(b)
		if err != nil {
			require.ErrorIs(t, err, ErrCorruptCopies)
			return
		}
		again, err := decodeCopies(encodeCopies(all))
		require.NoError(t, err)
		require.Len(t, again, len(all))
	})
}
