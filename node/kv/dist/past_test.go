package dist

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// Reads that any replica may answer are sent to the nearest node that seems alive, and to the leaseholder
// among equals; nobody is taken for the leaseholder because it answered (SAFETY S24).
func TestNearestComesFirst(t *testing.T) {
	e := &entry{}
	for _, n := range []keys.NodeID{1, 2, 3, 4} {
		e.desc.Replicas = append(e.desc.Replicas, kv.ReplicaDescriptor{Node: n})
	}
	e.leaseholder.Store(3)
	dead := map[keys.NodeID]bool{}
	first := func(distances ...int) keys.NodeID {
		rt := route{self: 9, alive: func(n keys.NodeID) bool { return !dead[n] }}
		rt.reset(e)
		rt.nearest(e, func(n keys.NodeID) int { return distances[n-1] })
		require.Equal(t, 4, rt.n, "every replica is asked in its turn")
		n, ok := rt.next()
		require.True(t, ok)
		return n
	}
	require.EqualValues(t, 4, first(3, 3, 2, 1))
	require.EqualValues(t, 3, first(1, 1, 1, 2), "the leaseholder is as near")
	dead[4] = true
	require.EqualValues(t, 3, first(3, 3, 2, 1))
	require.EqualValues(t, 1, first(0, 3, 2, 1))
}

// Such reads find their range by this node's own replica while the meta range does not answer; others
// wait for that.
func TestPastReadsNeedNoMeta(t *testing.T) {
	bubble(t, nil, func(t *testing.T, c *cluster, d *DistSender) {
		_, err := send(d, put("k", "v"))
		require.NoError(t, err)
		desc := c.rangeOf("k").desc
		d.cache.evict(d.cache.get(keys.Key("k")))
		d.cfg.LocalRange = func(k keys.Key) (kv.RangeDescriptor, bool) { return desc, desc.Contains(k) }
		c.onCall = func(_ keys.NodeID, ba *kv.BatchRequest) error {
			require.False(t, kv.RequestSpan(ba.Requests[0], nil).Key.Less(keys.MetaMax), "meta is asked")
			return nil
		}
		ba := &kv.BatchRequest{Header: kv.Header{FollowerRead: true, Timestamp: d.cfg.Clock.Now()}, Requests: []kv.Request{get("k")}}
		br, err := d.Send(context.Background(), ba)
		require.NoError(t, err)
		require.Equal(t, "v", string(br.Responses[0].(*kv.GetResponse).Value))
		require.Nil(t, d.cache.get(keys.Key("k")), "what one replica says is not kept")
	})
}
