package host

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStatusOnTheWire(t *testing.T) {
	for _, want := range []Status{
		{Version: "1.2.3", Boot: 7, Started: time.Unix(1700000000, 5), DiskFree: 1 << 40},
		{Started: time.Unix(0, 1), DiskFree: -1},
	} {
		got, err := decodeStatus(want.encode())
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := decodeStatus([]byte{2})
	require.ErrorIs(t, err, ErrCorruptStatus)
	newer := Status{Version: "9", Started: time.Unix(0, 1)}
	got, err := decodeStatus(append(newer.encode(), 0x78, 1)) // a field of tomorrow
	require.NoError(t, err)
	require.Equal(t, newer, got)
}

func FuzzDecodeStatus(f *testing.F) {
	s := Status{Version: "dev", Boot: 3, Started: time.Unix(1, 0), DiskFree: -1}
	f.Add(s.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeStatus(b)
		if err != nil {
			require.ErrorIs(t, err, ErrCorruptStatus)
			return
		}
		again, err := decodeStatus(s.encode())
		require.NoError(t, err)
		if !s.Started.IsZero() {
			require.Equal(t, s, again)
		}
	})
}
