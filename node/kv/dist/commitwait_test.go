package dist

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// A write outside a transaction that lands ahead of the clock is answered once a read that
// begins then must see it (S1).
func TestCommitWaitOutsideTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := hlc.NewClock(time.Now, 250*time.Millisecond)
		ahead := clock.Now().Add(300 * time.Millisecond)
		desc := kv.RangeDescriptor{RangeID: 1, Start: keys.MinKey, End: keys.MaxKey, Generation: 1, Replicas: []kv.ReplicaDescriptor{{Node: 1, Replica: 1}}}
		d, err := New(Config{
			Clock: clock, Self: 1, Caller: noCaller{},
			Local: senderFunc(func(_ context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
				if _, scan := ba.Requests[0].(*kv.ScanRequest); scan { // the look-up in the meta range
					row := kv.KeyValue{Key: keys.Meta(desc.End), Value: kv.EncodeRangeDescriptor(nil, &desc)}
					return &kv.BatchResponse{Responses: []kv.Response{&kv.ScanResponse{Rows: []kv.KeyValue{row}}}}, nil
				}
				return &kv.BatchResponse{Timestamp: ahead, Responses: []kv.Response{&kv.IncrementResponse{NewValue: 1}}}, nil
			}),
			MetaSeed: func() (kv.RangeDescriptor, bool) { return desc, true },
		})
		require.NoError(t, err)
		_, err = d.Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{&kv.IncrementRequest{Key: keys.System("x"), Delta: 1}}})
		require.NoError(t, err)
		require.False(t, clock.Now().Less(ahead), "answered before its timestamp had passed")
	})
}

type noCaller struct{}

func (noCaller) Call(context.Context, keys.NodeID, *kv.BatchRequest) (*kv.BatchResponse, error) {
	panic("no other node")
}
