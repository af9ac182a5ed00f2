package store

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

func TestPacer(t *testing.T) {
	var p pacer
	p.perSecond = 1000
	now := time.Unix(100, 0)
	require.Equal(t, 500*time.Millisecond, p.pass(500, now))
	require.Equal(t, 900*time.Millisecond, p.pass(500, now.Add(100*time.Millisecond)), "what passed before is not paid for yet")
	require.Equal(t, 10*time.Millisecond, p.pass(10, now.Add(time.Minute)), "rest is not saved up")
}

// Two nodes copy to a third one, each within its rate: together they keep to the receiver's.
func TestReceiverPacesManySenders(t *testing.T) {
	const rate = 256 << 10
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, func(cfg *Config) { cfg.SnapshotBytesPerSecond = rate }, "a", "b", "c")
		big := strings.Repeat("x", 64<<10)
		for i := range 64 {
			require.NoError(t, c.nodes[0].put(t.Context(), tkey(i), fmt.Sprint(i)+big))
		}
		require.NoError(t, c.nodes[0].splitAt(t.Context(), tkey(32)))
		left, right := c.nodes[0], c.nodes[1]
		for key, n := range map[int]*testNode{0: left, 32: right} {
			id := keys.FirstDataRangeID
			if n == right {
				id = c.rangeAt(tkey(key))
			}
			c.eventually(time.Minute, func() bool {
				_, err := sendOne[*kv.AdminTransferLeaseResponse](t.Context(), n.sender, &kv.AdminTransferLeaseRequest{Key: tkey(key), Target: n.id})
				return err == nil && c.leaseholder(id) == n
			})
		}
		c.nodes[2].kill()
		sub := c.join("substitute", "c")
		got := func() float64 { return float64(sub.store.in.total.Load()) }
		c.eventually(time.Minute, func() bool { return got() > 0 })
		began := time.Now()
		c.voters(5*time.Minute, 1, 2, sub.id)
		took := time.Since(began)
		require.Greater(t, got(), 4e6)
		require.Greater(t, float64(left.store.out.total.Load()), 1.8e6)
		require.Greater(t, float64(right.store.out.total.Load()), 1.8e6)
		require.Greater(t, took.Seconds(), 0.9*got()/rate)
		c.close()
	})
}
