package wire

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

var errDamaged = errors.New("damaged")

func read(b []byte) (out []string, err error) {
	err = Fields(b, errDamaged, func(n Number, v uint64, data []byte) error {
		out = append(out, fmt.Sprintf("%d:%d:%s", n, v, data))
		return nil
	})
	return out, err
}

func TestFields(t *testing.T) {
	b := AppendUint(nil, 1, 0)
	b = AppendUint(b, 2, 1<<63)
	b = AppendString(b, 3, "")
	b = AppendString(b, 4, "text")
	b = AppendBytes(b, 5, nil)
	b = protowire.AppendFixed32(protowire.AppendTag(b, 6, protowire.Fixed32Type), 7) // of a type that is skipped
	b = AppendUint(b, 7, 8)
	got, err := read(b)
	require.NoError(t, err)
	require.Equal(t, []string{"2:9223372036854775808:", "4:0:text", "5:0:", "7:8:"}, got)
	for i := range b {
		if _, err := read(b[:i]); err != nil {
			require.ErrorIs(t, err, errDamaged)
		}
	}
	_, err = read([]byte{0x0a, 5, 'a'})
	require.ErrorIs(t, err, errDamaged)
	require.ErrorContains(t, err, "field 1")
	own := errors.New("the reader's own")
	require.ErrorIs(t, Fields(b, errDamaged, func(Number, uint64, []byte) error { return own }), own)
}

func TestBody(t *testing.T) {
	b, err := Body([]byte{3, 1, 2}, 3, errDamaged)
	require.NoError(t, err)
	require.Equal(t, []byte{1, 2}, b)
	for _, bad := range [][]byte{nil, {4, 1}} {
		_, err := Body(bad, 3, errDamaged)
		require.ErrorIs(t, err, errDamaged)
		require.ErrorContains(t, err, "version 3")
	}
}

func FuzzFields(f *testing.F) {
	f.Add(AppendString(AppendUint(nil, 1, 5), 2, "x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := read(b); err != nil {
			require.ErrorIs(t, err, errDamaged)
		}
	})
}
