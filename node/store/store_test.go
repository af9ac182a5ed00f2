package store

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

func TestFoundWriteAndRead(t *testing.T) {
	for _, zones := range [][]string{{"a"}, {"a", "b", "c"}, {"a", "b", "c", "d", "e"}} {
		t.Run(fmt.Sprint(len(zones)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, nil, zones...)
				for i, n := range c.nodes {
					require.NoError(t, n.put(t.Context(), tkey(i), fmt.Sprint("v", i)))
				}
				for i := range c.nodes {
					for _, n := range c.nodes {
						v, err := n.get(t.Context(), tkey(i))
						require.NoError(t, err)
						require.Equal(t, fmt.Sprint("v", i), v)
					}
				}
				c.close()
			})
		})
	}
}

func TestLeaderKilledAndRestartLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		acked := map[int]string{}
		next := 0
		for round := range 5 {
			l := c.leaseholder(keys.FirstDataRangeID)
			for range 30 {
				require.NoError(t, l.put(t.Context(), tkey(next), fmt.Sprint(next)))
				acked[next] = fmt.Sprint(next)
				next++
			}
			l.kill()
			start := time.Now()
			other := c.up()[0]
			require.NoError(t, other.put(t.Context(), tkey(next), fmt.Sprint(next)), "round %d", round)
			acked[next] = fmt.Sprint(next)
			next++
			gap := time.Since(start)
			t.Logf("round %d: next write after %s", round, gap)
			require.Less(t, gap, time.Second)
			l.restart()
			time.Sleep(3 * time.Second)
		}
		// All at once.
		for _, n := range c.nodes {
			n.kill()
		}
		for _, n := range c.nodes {
			n.openEngines()
		}
		var wg sync.WaitGroup
		for _, n := range c.nodes {
			wg.Go(func() { require.NoError(t, n.start()) })
		}
		wg.Wait()
		for _, n := range c.nodes {
			for i, want := range acked {
				v, err := n.get(t.Context(), tkey(i))
				require.NoError(t, err)
				require.Equal(t, want, v)
			}
		}
		c.close()
	})
}

func (n *testNode) splitAt(ctx context.Context, k keys.Key) error {
	d, _, err := n.sender.Descriptor(ctx, k)
	if err != nil {
		return err
	}
	_ = d
	_, err = sendOne[*kv.AdminSplitResponse](ctx, n.sender, &kv.AdminSplitRequest{SplitKey: k})
	return err
}

func TestSplitUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for w := range 6 {
			wg.Go(func() {
				n := c.nodes[w%3]
				for i := 0; ctx.Err() == nil; i++ {
					k := tkey(w*1000 + i%500)
					require.NoError(t, n.put(t.Context(), k, fmt.Sprint(i)))
					v, err := n.get(t.Context(), k)
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint(i), v)
				}
			})
		}
		for i := range 8 {
			time.Sleep(50 * time.Millisecond)
			require.NoError(t, c.nodes[i%3].splitAt(t.Context(), tkey(i*700+13)))
		}
		stop()
		wg.Wait()
		time.Sleep(3 * time.Second)
		for _, n := range c.nodes {
			require.Len(t, n.store.Ranges(), 10)
		}
		// The meta records cover everything, and every replica is equal (S23).
		for _, n := range c.nodes {
			for _, r := range n.store.all() {
				if _, ok := r.leads(); ok {
					_, err := n.store.Checksum(t.Context(), r.replica.Load(), nil)
					require.NoError(t, err)
				}
			}
		}
		// A crash of everything brings it all back.
		for _, n := range c.nodes {
			n.kill()
		}
		for _, n := range c.nodes {
			n.openEngines()
		}
		for _, n := range c.nodes {
			require.NoError(t, n.start())
		}
		for w := range 6 {
			_, err := c.nodes[0].get(t.Context(), tkey(w*1000+3))
			require.NoError(t, err)
		}
		require.Len(t, c.nodes[0].store.Ranges(), 10)
		c.close()
	})
}
