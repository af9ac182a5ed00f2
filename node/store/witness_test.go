package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/mvcc"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/node/storage"
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

// Where a witness has no room for its log any more, the range is reported as at risk, until the data
// replica is back.
func TestWitnessWithoutRoomIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := witnessed(t, func(cfg *Config) { cfg.WitnessLogBytes = 3 << 20 })
		a, b, w := c.nodes[0], c.nodes[1], c.nodes[2]
		c.leadBy(a)
		b.kill()
		value := strings.Repeat("x", 4<<10)
		for i := range 1600 {
			require.NoError(t, a.put(t.Context(), tkey(i%200), value))
			if i%100 == 0 {
				require.NoError(t, w.engines.State.Flush())
			}
		}
		require.NoError(t, w.engines.State.Flush())
		risk := func() bool {
			return slices.ContainsFunc(a.store.Findings(), func(f Finding) bool {
				return f.Range == keys.FirstDataRangeID && f.Stuck && strings.Contains(f.Reason, "it is at risk: a witness's log had to be cut")
			})
		}
		c.eventually(time.Minute, risk)
		st, err := w.store.get(keys.FirstDataRangeID).group.Load().LogStatus()
		require.NoError(t, err)
		require.LessOrEqual(t, st.Bytes, int64(3<<20))
		b.restart()
		c.setRules(m)
		c.eventually(time.Minute, func() bool { return !risk() })
		c.obeyed(time.Minute, m)
		c.close()
	})
}

// What a witness dropped because two data replicas have it, they must go on having: no vote goes while
// one of them is away (S22).
func TestVotesStayWhileWitnessesStandForData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := witnessed(t, nil, "w")
		a, b := c.nodes[0], c.nodes[1]
		c.leadBy(a)
		r := a.store.get(keys.FirstDataRangeID)
		spare := c.nodes[2]
		if _, ok := r.desc().Replica(spare.id); ok {
			spare = c.nodes[3]
		}
		change := func(kind kv.ReplicaChangeKind) error {
			_, err := a.store.ChangeReplicas(t.Context(), r.replica.Load(), &kv.AdminChangeReplicasRequest{Kind: kind, Node: spare.id})
			return err
		}
		c.setRules(nil) // nobody else changes anything: the default rule wants data in zone w, and there it can have none
		c.net.Isolate(b.id)
		for i := range 100 {
			require.NoError(t, a.put(t.Context(), tkey(i), "late"))
		}
		c.net.HealNode(b.id)
		b.kill()
		require.NoError(t, a.put(t.Context(), tkey(0), "later"))
		require.NoError(t, change(kv.AddWitness))
		err := change(kv.PromoteToVoter)
		require.ErrorContains(t, err, "(SAFETY S22)")
		b.restart()
		c.setRules(m)
		c.obeyed(5*time.Minute, m)
		c.close()
	})
}

// A replica ID that was spent on a data replica, by a change that was given up, makes no witness.
func TestWitnessGetsAnIDOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c", "w")
		a, w := c.nodes[0], c.nodes[3]
		c.leadBy(a)
		r := a.store.get(keys.FirstDataRangeID)
		d := r.desc().Clone()
		id := d.NextReplicaID
		d.Replicas = append(d.Replicas, kv.ReplicaDescriptor{Node: w.id, Replica: id, Type: kv.NonVoter})
		require.NoError(t, a.store.createReplica(t.Context(), w.id, id, &d))
		now, err := a.store.ChangeReplicas(t.Context(), r.replica.Load(), &kv.AdminChangeReplicasRequest{Kind: kv.AddWitness, Node: w.id})
		require.NoError(t, err)
		rd, _ := now.Replica(w.id)
		require.Equal(t, kv.NewWitness, rd.Type)
		require.Greater(t, rd.Replica, id)
		require.True(t, w.store.get(keys.FirstDataRangeID).witness)
		c.close()
	})
}

func TestWitnessRecords(t *testing.T) {
	for _, rec := range []replicaRecord{{rangeID: 7, replica: 2}, {rangeID: 7, replica: 2, state: recordMute, witness: true}} {
		e, err := OpenEngines(EngineOptions{Dir: "/store", FS: storage.MemFS(), Small: true, OnFatal: func(err error) { t.Error(err) }})
		require.NoError(t, err)
		require.NoError(t, e.Log.UpdateLocal(func(u *storage.LocalUpdate) error { return setRecord(u, rec) }))
		got, err := listRecords(e.Log)
		require.NoError(t, err)
		require.Equal(t, []replicaRecord{rec}, got)
		require.NoError(t, e.Log.UpdateLocal(func(u *storage.LocalUpdate) error {
			return u.Set(recordKey(replicaPrefix, 7), append(replicaRecord{rangeID: 7, replica: 2}.value(), 9))
		}))
		_, err = listRecords(e.Log)
		require.ErrorContains(t, err, "from a newer version", "an unknown kind of replica")
		require.NoError(t, e.Close())
	}
	d := &kv.RangeDescriptor{RangeID: 7, End: keys.MaxKey, Replicas: []kv.ReplicaDescriptor{{Node: 1, Replica: 1}, {Node: 2, Replica: 2, Type: kv.NewWitness}}}
	b := encodeReplicaMsg(2, d)
	require.EqualValues(t, witnessVersion, b[0], "a binary that knows no witnesses refuses it")
	_, _, err := decodeReplicaMsg(append([]byte{recordVersion}, b[1:]...))
	require.Error(t, err)
	require.EqualValues(t, recordVersion, encodeReplicaMsg(1, d)[0])
}

func TestSecondFailureDomain(t *testing.T) {
	require.EqualValues(t, 5, second(map[string]uint64{"a": 9, "b": 5, "c": 2}))
	require.EqualValues(t, 9, second(map[string]uint64{"a": 9, "b": 9}))
}
