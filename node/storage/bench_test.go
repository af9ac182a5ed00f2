package storage

import (
	"fmt"
	"testing"

	"github.com/atolldb/atoll/node/keys"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// Appends of many ranges share fsyncs: ns/op falls with the number of appenders.
func BenchmarkStoreLogs(b *testing.B) {
	for _, ranges := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("ranges=%d", ranges), func(b *testing.B) {
			l, err := OpenLog(LogOptions{Dir: b.TempDir()})
			require.NoError(b, err)
			defer l.Close()
			b.ReportAllocs()
			b.SetParallelism((ranges + 1) / 2)
			ids := make(chan keys.RangeID, 1000)
			for i := range 1000 {
				ids <- keys.RangeID(i)
			}
			data := make([]byte, 300)
			b.RunParallel(func(pb *testing.PB) {
				r, err := l.RaftLog(<-ids, 1)
				require.NoError(b, err)
				for i := uint64(1); pb.Next(); i++ {
					if err := r.StoreLog(&raft.Log{Index: i, Term: 1, Data: data}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkApplyRepr(b *testing.B) {
	s, err := OpenState(StateOptions{Dir: b.TempDir()})
	require.NoError(b, err)
	defer s.Close()
	w := s.NewWriteBatch()
	for i := range 4 {
		require.NoError(b, w.SetVersion(dataKey(1, uint64(i)), ts(1, 0), 1, make([]byte, 100)))
	}
	repr := append([]byte(nil), w.Repr()...)
	require.NoError(b, w.Close())
	applied := appliedKey(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.ApplyRepr(repr, func(w Writer) error { return w.Set(applied, repr[:8]) }); err != nil {
			b.Fatal(err)
		}
	}
}
