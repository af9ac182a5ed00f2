package store

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/policies"
)

const aWitness = "{name: a-witness, survive: zone, default_role: excluded, zones: {a: {role: replica}, b: {role: replica}, w: {role: witness}}}"

// witnessed makes a cluster whose ranges lie in zones a and b, with a witness in zone w; each zone has
// one node, and others may follow. The keys below 200 are written.
func witnessed(t *testing.T, conf func(*Config), more ...string) (*testCluster, *policies.Map) {
	c := newCluster(t, conf, append([]string{"a", "b", "w"}, more...)...)
	for i := range 200 {
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(i), fmt.Sprint(i)))
	}
	m := c.compile([]string{aWitness})
	c.setRules(m)
	c.obeyed(5*time.Minute, m)
	return c, m
}

// leadBy moves the lease of the data range to a node.
func (c *testCluster) leadBy(n *testNode) {
	c.t.Helper()
	c.eventually(time.Minute, func() bool {
		_, err := sendOne[*kv.AdminTransferLeaseResponse](c.t.Context(), n.sender, &kv.AdminTransferLeaseRequest{Key: tkey(0), Target: n.id})
		return err == nil && c.leaseholder(keys.FirstDataRangeID) == n
	})
}

// structure returns the digest of what a witness has in common with the others, and its position.
func (n *testNode) structure(id keys.RangeID) ([32]byte, group.Position) {
	st, err := group.LoadState(n.engines.State, id)
	require.NoError(n.c.t, err)
	sum, err := mvcc.Digest(n.engines.State, group.StructureSpans(&st.Desc)...)
	require.NoError(n.c.t, err)
	return sum, st.Applied
}

// isWitness checks that a node's replica of a range has its structure, byte for byte, and no data.
func (c *testCluster) isWitness(id keys.RangeID, n *testNode) {
	c.t.Helper()
	r := n.store.get(id)
	require.NotNil(c.t, r)
	require.True(c.t, r.witness)
	c.eventually(time.Minute, func() bool {
		want, at := c.leaseholder(id).structure(id)
		got, pos := n.structure(id)
		return at == pos && want == got
	})
	d := r.desc()
	for _, sp := range group.DataSpans(d.Start, d.End) {
		sum, err := mvcc.Digest(n.engines.State, sp)
		require.NoError(c.t, err)
		empty, err := mvcc.Digest(n.engines.State, keys.Span{Key: keys.MaxKey, EndKey: keys.MaxKey.Next()})
		require.NoError(c.t, err)
		require.Equal(c.t, empty, sum, "a witness has data in %s", sp)
	}
}

// S22: a witness is no copy, serves nothing and counts as a voter; the map of policies is obeyed.
func TestWitnessIsNoCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := witnessed(t, nil)
		w := c.nodes[2]
		for id := range c.ranges() {
			c.isWitness(id, w)
			_, err := w.store.Send(t.Context(), &kv.BatchRequest{Header: kv.Header{RangeID: id}, Requests: []kv.Request{&kv.GetRequest{Key: tkey(0)}}})
			require.ErrorAs(t, err, new(*kv.NotLeaseholderError))
			require.ErrorContains(t, err, "witness")
			l := c.leaseholder(id)
			v, err := l.store.survey(t.Context(), l.store.get(id))
			require.NoError(t, err)
			require.Len(t, v.sums, 2, "a witness has no digest")
			odd, undecided := v.judge()
			require.Empty(t, odd)
			require.False(t, undecided)
			err = l.store.transfer(t.Context(), l.store.get(id), w.id, "a test")
			require.ErrorContains(t, err, "holds no voter")
		}
		// A split gives both sides a witness, and so it is after all nodes were started again.
		_, err := sendOne[*kv.AdminSplitResponse](t.Context(), c.nodes[0].sender, &kv.AdminSplitRequest{SplitKey: tkey(100)})
		require.NoError(t, err)
		right := c.rangeAt(tkey(100))
		c.isWitness(right, w)
		for _, n := range c.nodes {
			n.kill()
		}
		for _, n := range c.nodes {
			n.restart()
		}
		c.setRules(m)
		c.obeyed(time.Minute, m)
		for id := range c.ranges() {
			c.isWitness(id, w)
		}
		for i := range 200 {
			v, err := c.nodes[0].get(t.Context(), tkey(i))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), v)
		}
		c.close()
	})
}

// The case that witnesses exist for: what was written while a data replica was away is in the witness's
// log when the other one is lost. The witness leads until the first is up to date, and no longer.
func TestWitnessBringsALateReplicaUpToDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := witnessed(t, nil)
		a, b := c.nodes[0], c.nodes[1]
		c.leadBy(a)
		c.net.Isolate(b.id)
		for i := range 200 {
			require.NoError(t, a.put(t.Context(), tkey(i), fmt.Sprint("new ", i)))
		}
		a.kill()
		c.net.HealNode(b.id)
		start := time.Now()
		require.Equal(t, b, c.leaseholder(keys.FirstDataRangeID))
		t.Logf("a data replica serves after %s", time.Since(start))
		require.Less(t, time.Since(start), 2*time.Second)
		for i := range 200 {
			v, err := b.get(t.Context(), tkey(i))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("new ", i), v)
		}
		require.NoError(t, b.put(t.Context(), tkey(0), "again"))
		a.restart()
		c.close()
	})
}

// A witness's log outlives its restart, and is cut only when both data replicas have it.
func TestWitnessKeepsItsLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := witnessed(t, nil)
		a, b, w := c.nodes[0], c.nodes[1], c.nodes[2]
		c.leadBy(a)
		b.kill()
		applied, _ := a.store.get(keys.FirstDataRangeID).info()
		for i := range 1500 {
			require.NoError(t, a.put(t.Context(), tkey(i%200), fmt.Sprint(i)))
			if i%100 == 0 {
				require.NoError(t, w.engines.State.Flush())
			}
		}
		time.Sleep(20 * time.Second)
		first := func() uint64 {
			st, err := w.store.get(keys.FirstDataRangeID).group.Load().LogStatus()
			require.NoError(t, err)
			return st.First
		}
		require.LessOrEqual(t, first(), applied+1)
		w.kill()
		w.restart()
		c.setRules(m)
		require.LessOrEqual(t, first(), applied+1)
		require.NoError(t, a.put(t.Context(), tkey(0), "the last"))
		a.kill()
		b.restart()
		c.setRules(m)
		v, err := b.get(t.Context(), tkey(0))
		require.NoError(t, err)
		require.Equal(t, "the last", v)
		require.Equal(t, b, c.leaseholder(keys.FirstDataRangeID))
		a.restart()
		c.setRules(m)
		c.obeyed(time.Minute, m)
		for i := range 600 {
			require.NoError(t, b.put(t.Context(), tkey(i%200), fmt.Sprint(i)))
		}
		require.NoError(t, w.engines.State.Flush())
		c.eventually(time.Minute, func() bool { return first() > applied+1000 })
		c.close()
	})
}
