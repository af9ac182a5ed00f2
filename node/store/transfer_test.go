package store

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// A planned transfer hands over how far reads were served (S4), so that what is written next
// lands at the present and nobody waits for its timestamp to pass.
func TestWritesAfterTransferDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		client := c.nodes[0]
		require.NoError(t, client.put(t.Context(), tkey(0), "x"))
		for i := range 12 {
			time.Sleep(2 * time.Second)
			from := c.leaseholder(keys.FirstDataRangeID)
			target := c.nodes[(int(from.id)+i%2)%3]
			if target == from {
				target = c.nodes[int(from.id)%3]
			}
			start := time.Now()
			_, err := sendOne[*kv.AdminTransferLeaseResponse](t.Context(), client.sender, &kv.AdminTransferLeaseRequest{Key: tkey(0), Target: target.id})
			require.NoError(t, err)
			require.NoError(t, client.put(t.Context(), tkey(i), fmt.Sprint(i)))
			gap := time.Since(start)
			t.Logf("n%d to n%d: written after %s", from.id, target.id, gap)
			require.Less(t, gap, 60*time.Millisecond)
		}
		c.close()
	})
}
