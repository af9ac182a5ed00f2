package store

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/raftcmd"
)

func (n *testNode) mergeAt(ctx context.Context, k keys.Key) (*kv.RangeDescriptor, error) {
	resp, err := sendOne[*kv.AdminMergeResponse](ctx, n.sender, &kv.AdminMergeRequest{Key: k})
	if err != nil {
		return nil, err
	}
	return &resp.Desc, nil
}

// whole waits until the key space is cut as wanted: every node has these ranges, at one position, and
// they agree byte for byte (S23).
func (c *testCluster) whole(ranges int) {
	c.t.Helper()
	c.eventually(time.Minute, func() bool {
		for _, n := range c.up() {
			all := n.store.Ranges()
			if len(all) != ranges {
				return false
			}
			for _, r := range all {
				l := c.holder(r.Desc.RangeID)
				if l == nil || r.Desc.Generation != l.desc().Generation || r.Applied != l.group.Load().AppliedIndex() || l.metaGen.Load() < r.Desc.Generation {
					return false
				}
			}
		}
		return true
	})
	for _, n := range c.up() {
		for _, r := range n.store.all() {
			if _, ok := r.leads(); ok {
				_, err := n.store.Checksum(c.t.Context(), r.replica.Load(), nil)
				require.NoError(c.t, err)
			}
		}
	}
	// Meta has a record for every range, and no other.
	got, err := sendOne[*kv.ScanResponse](c.t.Context(), c.up()[0].sender, &kv.ScanRequest{Span: keys.Span{Key: keys.MetaMin, EndKey: keys.MetaMax}})
	require.NoError(c.t, err)
	require.Len(c.t, got.Rows, ranges)
}

// holder returns the replica that has a range's lease, if there is one.
func (c *testCluster) holder(id keys.RangeID) *rep {
	for _, n := range c.up() {
		if r := n.store.get(id); r != nil {
			if _, ok := r.leads(); ok {
				return r
			}
		}
	}
	return nil
}

// begin freezes the range that follows l's for a merge, on all replicas, and leaves the rest to the caller.
func (c *testCluster) begin(left keys.RangeID) *merge {
	c.t.Helper()
	l := c.leaseholder(left)
	lr := l.store.get(left)
	m := &merge{s: l.store, left: lr, right: l.store.startingAt(lr.desc().End)}
	require.NoError(c.t, m.prepare(c.t.Context()))
	m.freeze = raftcmd.FreezeTrigger{Attempt: newID(), Left: m.l.RangeID, LeftStart: m.l.Start, LeftGeneration: m.l.Generation, Generation: m.r.Generation}
	m.right.merging.Store(true)
	require.NoError(c.t, m.proposeFreeze(c.t.Context()))
	require.NoError(c.t, m.awaitFrozen(c.t.Context()))
	return m
}

func TestMergeUnderLoad(t *testing.T) {
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
		for round := range 3 {
			for i := range 4 {
				time.Sleep(50 * time.Millisecond)
				require.NoError(t, c.nodes[i%3].splitAt(t.Context(), tkey(i*1100+13)))
			}
			for i := range 4 {
				time.Sleep(50 * time.Millisecond)
				_, err := c.nodes[(i+round)%3].mergeAt(t.Context(), tkey(12))
				require.NoError(t, err)
			}
		}
		stop()
		wg.Wait()
		c.whole(2)
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
		c.whole(2)
		c.close()
	})
}

// A write in the merged range lands above what was read in the right side, also under a leaseholder that
// never saw the read (S4, S20).
func TestMergedRangeRemembersReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		n := c.nodes[0]
		require.NoError(t, n.put(t.Context(), tkey(1), "a"))
		require.NoError(t, n.put(t.Context(), tkey(7), "a"))
		require.NoError(t, n.splitAt(t.Context(), tkey(5)))
		c.whole(3)
		read := n.store.cfg.Clock.Now().Add(300 * time.Millisecond)
		_, err := n.sender.Send(t.Context(), &kv.BatchRequest{Header: kv.Header{Timestamp: read},
			Requests: []kv.Request{&kv.GetRequest{Key: tkey(7)}}})
		require.NoError(t, err)
		_, err = n.mergeAt(t.Context(), tkey(1))
		require.NoError(t, err)
		l := c.leaseholder(2)
		br, err := l.store.sender.Send(t.Context(), &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: tkey(7), Value: []byte("b")}}})
		require.NoError(t, err)
		require.True(t, read.Less(br.Timestamp), "written at %s, read at %s", br.Timestamp, read)
		for _, o := range c.nodes {
			require.False(t, o.store.get(2).group.Load().State().HighWater.Less(read))
		}
		c.close()
	})
}

// The node that merges two ranges dies while the right side is frozen: others unfreeze it by themselves,
// and the merge can't come any more.
func TestMergerDiesAfterTheFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(7), "a"))
		require.NoError(t, c.nodes[0].splitAt(t.Context(), tkey(5)))
		c.whole(3)
		m := c.begin(2)
		right := m.r.RangeID
		dead := c.leaseholder(2)
		_, err := dead.store.Send(t.Context(), &kv.BatchRequest{Header: kv.Header{RangeID: right}, Requests: []kv.Request{&kv.GetRequest{Key: tkey(7)}}})
		var not *kv.NotLeaseholderError
		require.ErrorAs(t, err, &not, "a frozen range serves nothing")
		dead.kill()
		start := time.Now()
		n := c.up()[0]
		require.NoError(t, n.put(t.Context(), tkey(7), "b"))
		require.Less(t, time.Since(start), 10*time.Second)
		l := c.leaseholder(2)
		require.Greater(t, l.store.get(2).desc().Generation, m.l.Generation, "no command of the merge fits any more")
		for _, o := range c.up() {
			require.Nil(t, o.store.get(right).frozen.Load())
		}
		dead.restart()
		c.whole(3)
		v, err := dead.get(t.Context(), tkey(7))
		require.NoError(t, err)
		require.Equal(t, "b", v)
		// The next try succeeds.
		_, err = dead.mergeAt(t.Context(), tkey(1))
		require.NoError(t, err)
		c.whole(2)
		c.close()
	})
}

// A merge that is proposed after it was abandoned changes nothing (S20).
func TestAbandonedMergeIsRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		require.NoError(t, c.nodes[0].splitAt(t.Context(), tkey(5)))
		c.whole(3)
		m := c.begin(2)
		require.NoError(t, m.s.resolveFreeze(t.Context(), m.right))
		_, err := m.propose(t.Context())
		require.Error(t, err)
		// Nor does the command itself, however late.
		term, _ := m.left.leads()
		merged := m.l.Clone()
		merged.End, merged.Generation = m.r.End, m.l.Generation+1
		cmd := m.s.command(term)
		cmd.Merge = &raftcmd.MergeTrigger{Attempt: m.freeze.Attempt, Merged: merged, LeftGeneration: m.l.Generation, Right: m.r.RangeID}
		_, err = m.left.Propose(t.Context(), cmd)
		require.ErrorContains(t, err, "merge into")
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(7), "b"))
		c.whole(3)
		c.close()
	})
}

// A follower is down while the ranges become one. It applies the merge from its log, or takes a snapshot
// that swallows its right side.
func TestFollowerMissesTheMerge(t *testing.T) {
	for i := range 6 {
		// Split again: in the former left side, where the right one began, and in that.
		again, bySnapshot := 3+2*(i/2), i%2 == 1
		t.Run(fmt.Sprintf("split at %d, snapshot=%t", again, bySnapshot), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, func(cfg *Config) { cfg.DeadAfter = time.Hour }, "a", "b", "c")
				for i := range 10 {
					require.NoError(t, c.nodes[0].put(t.Context(), tkey(i), "a"))
				}
				require.NoError(t, c.nodes[0].splitAt(t.Context(), tkey(5)))
				c.whole(3)
				m := c.begin(2)
				l := c.leaseholder(2)
				var down *testNode
				for _, n := range c.nodes {
					if n != l {
						down = n
					}
				}
				down.kill()
				merged, err := m.propose(t.Context())
				require.NoError(t, err)
				require.NoError(t, l.store.writeMeta(t.Context(), merged))
				c.eventually(30*time.Second, func() bool { return l.put(t.Context(), tkey(7), "b") == nil })
				c.eventually(30*time.Second, func() bool { return l.splitAt(t.Context(), tkey(again)) == nil })
				if bySnapshot {
					for i := range 1500 {
						c.eventually(30*time.Second, func() bool { return l.put(t.Context(), tkey(i%10), "b") == nil })
					}
					for _, n := range c.up() {
						require.NoError(t, n.engines.State.Flush())
						for _, r := range n.store.all() {
							r.group.Load().DropPins()
							_, err := r.group.Load().Truncate()
							require.NoError(t, err)
						}
					}
				}
				down.restart()
				c.whole(3)
				require.Nil(t, down.store.get(m.r.RangeID), "the former right side is gone for good")
				// What it has is durable, and the former right side does not come back.
				down.kill()
				down.restart()
				c.whole(3)
				require.Nil(t, down.store.get(m.r.RangeID))
				v, err := down.get(t.Context(), tkey(7))
				require.NoError(t, err)
				require.Equal(t, "b", v)
				c.close()
			})
		})
	}
}

// A snapshot of the merged range takes the frozen right side in, atomically (S20, S21).
func TestSnapshotSwallowsTheRightSide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, func(cfg *Config) { cfg.DeadAfter = time.Hour }, "a", "b", "c")
		for i := range 10 {
			require.NoError(t, c.nodes[0].put(t.Context(), tkey(i), "a"))
		}
		require.NoError(t, c.nodes[0].splitAt(t.Context(), tkey(5)))
		c.whole(3)
		m := c.begin(2)
		l := c.leaseholder(2)
		down := c.nodes[0]
		if down == l {
			down = c.nodes[1]
		}
		down.kill()
		merged, err := m.propose(t.Context())
		require.NoError(t, err)
		require.NoError(t, l.store.writeMeta(t.Context(), merged))
		for i := range 1500 {
			c.eventually(30*time.Second, func() bool { return l.put(t.Context(), tkey(i%10), "b") == nil })
		}
		for _, n := range c.up() {
			require.NoError(t, n.engines.State.Flush())
			r := n.store.get(2)
			r.group.Load().DropPins()
			_, err := r.group.Load().Truncate()
			require.NoError(t, err)
		}
		down.restart()
		c.whole(2)
		down.kill()
		down.restart()
		c.whole(2)
		c.close()
	})
}

// A node that was replaced while it was away comes back after its former ranges were merged: what is left
// there goes, though one of the ranges is no more (S18, S20).
func TestFormerMemberOfAMergedRange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		require.NoError(t, c.nodes[0].splitAt(t.Context(), tkey(25)))
		c.whole(3)
		victim := c.leaseholder(2)
		victim.kill()
		sub := c.join("substitute", victim.zone)
		want := []keys.NodeID{sub.id}
		for _, n := range c.nodes[:3] {
			if n != victim {
				want = append(want, n.id)
			}
		}
		c.voters(time.Minute, want...)
		c.eventually(time.Minute, func() bool { _, err := sub.mergeAt(t.Context(), tkey(1)); return err == nil })
		victim.restart()
		c.eventually(2*time.Minute, func() bool { return len(victim.store.Ranges()) == 0 })
		v, err := victim.get(t.Context(), tkey(30))
		require.NoError(t, err)
		require.Empty(t, v)
		c.close()
	})
}

// A node that knows only the ranges from before learns of the merged one, and a retry of a write finds
// that the first try was applied before the merge (S12, S29).
func TestRetryAcrossTheMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		n := c.nodes[0]
		require.NoError(t, n.splitAt(t.Context(), tkey(5)))
		c.whole(3)
		for _, o := range c.nodes { // every cache knows both
			_, err := o.get(t.Context(), tkey(1))
			require.NoError(t, err)
			_, err = o.get(t.Context(), tkey(7))
			require.NoError(t, err)
		}
		send := func(k keys.Key, id [16]byte, birth hlc.Timestamp) (int64, error) {
			br, err := n.sender.Send(t.Context(), &kv.BatchRequest{Header: kv.Header{CommandID: id, CommandBirth: birth.WallNanos},
				Requests: []kv.Request{&kv.IncrementRequest{Key: k, Delta: 1}}})
			if err != nil {
				return 0, err
			}
			return br.Responses[0].(*kv.IncrementResponse).NewValue, nil
		}
		birth := n.store.cfg.Clock.Now()
		for i, id := range [][16]byte{newID(), newID()} {
			k := tkey(1 + 6*i)
			v, err := send(k, id, birth)
			require.NoError(t, err)
			require.EqualValues(t, 1, v)
			if i == 1 {
				_, err := n.mergeAt(t.Context(), tkey(1))
				require.NoError(t, err)
			}
			v, err = send(k, id, birth)
			require.NoError(t, err)
			require.EqualValues(t, 1, v, "it was applied once")
		}
		// What is as old and is not remembered is refused: a piece of a batch may have been applied, or not.
		_, err := send(tkey(8), newID(), birth)
		var unknown *kv.AmbiguousError
		require.ErrorAs(t, err, &unknown)
		for _, o := range c.nodes {
			for i := range 10 {
				require.NoError(t, o.put(t.Context(), tkey(i), "b"))
			}
		}
		c.whole(2)
		c.close()
	})
}

// Small and quiet neighbours are merged by themselves, unless somebody asked for the boundary.
func TestSmallRangesAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, func(cfg *Config) { cfg.MergeAfter = 20 * time.Second }, "a", "b", "c")
		n := c.nodes[0]
		for i := range 6 {
			require.NoError(t, n.put(t.Context(), tkey(i*10), "a"))
			_, err := sendOne[*kv.AdminSplitResponse](t.Context(), n.sender, &kv.AdminSplitRequest{SplitKey: tkey(i * 10), MayMerge: i != 3})
			require.NoError(t, err)
		}
		time.Sleep(10 * time.Second)
		c.whole(8) // not just after a split
		c.eventually(10*time.Minute, func() bool { return len(n.store.Ranges()) == 3 })
		time.Sleep(5 * time.Minute)
		c.whole(3)
		d, err := n.store.lookup(t.Context(), tkey(35))
		require.NoError(t, err)
		require.Equal(t, tkey(30), d.Start)
		require.True(t, d.Pinned)
		c.close()
	})
}
