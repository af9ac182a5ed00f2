package replica

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// What was read in the right side stays above what is written there after the merge, whether this node
// had the right side's last tenure or not (S4, S20).
func TestWritesAfterAMergeLandAboveReads(t *testing.T) {
	for _, tenure := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			b := newBed(t, Limits{}, "m")
			left, right := b.replicas[0], b.replicas[1]
			read := b.clock.Now().Add(400 * time.Millisecond)
			mark := read
			if tenure {
				_, err := right.Send(t.Context(), &kv.BatchRequest{Header: kv.Header{Timestamp: read}, Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("q")}}})
				require.NoError(t, err)
				right.OnFrozen()
				require.False(t, right.Served().Less(read))
				mark = hlc.Timestamp{} // the tenure's own cache must do
			}
			merged := left.Desc().Clone()
			merged.End, merged.Generation = keys.MaxKey, merged.Generation+1
			left.OnMerge(merged, right, mark)
			br, err := left.Send(t.Context(), &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: keys.Key("q"), Value: []byte("v")}}})
			require.NoError(t, err)
			require.True(t, read.Less(br.Timestamp), "written at %s, read at %s", br.Timestamp, read)
			b.close()
		})
	}
}

// A frozen range serves nothing, in no term, and closes no timestamp; unfrozen it serves again in the
// same term, above all that was read before.
func TestFrozenRangeServesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		r := b.replicas[0]
		get := &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: keys.Key("q")}}}
		waiting := make(chan error, 1)
		f, err := r.Freeze(t.Context())
		require.NoError(t, err)
		go func() {
			_, err := r.Send(context.Background(), get)
			waiting <- err
		}()
		time.Sleep(time.Millisecond)
		r.OnFrozen()
		f.Release()
		require.ErrorAs(t, <-waiting, new(*kv.NotLeaseholderError), "who waited is sent away")
		served := r.Served()
		_, err = r.Send(t.Context(), get)
		require.ErrorAs(t, err, new(*kv.NotLeaseholderError))
		r.OnLease(2, hlc.Timestamp{})
		require.Nil(t, r.tenure.Load())
		require.Zero(t, r.CloseTimestamp(b.clock.Now()))
		require.Equal(t, served, r.Served())
		require.True(t, r.OnUnfrozen())
		require.False(t, r.OnUnfrozen())
		r.OnLease(1, hlc.Timestamp{})
		br, err := r.Send(t.Context(), &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: keys.Key("q"), Value: []byte("v")}}})
		require.NoError(t, err)
		require.True(t, served.Less(br.Timestamp))
		b.close()
	})
}
