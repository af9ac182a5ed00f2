package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

func at(n int64) hlc.Timestamp { return hlc.Timestamp{WallNanos: n} }

// A promise counts once what it rests on is applied; it never goes back (S24).
func TestClosedReads(t *testing.T) {
	var c closedReads
	require.Zero(t, c.upTo(100))
	c.learn(promise{at(10), 5}, 4)
	require.Zero(t, c.upTo(4))
	require.Equal(t, at(10), c.upTo(5))
	c.learn(promise{at(20), 6}, 5)
	c.learn(promise{at(30), 7}, 5)
	c.learn(promise{at(40), 9}, 5)
	c.learn(promise{at(35), 8}, 5) // late
	require.Equal(t, at(10), c.upTo(5))
	require.Equal(t, at(20), c.upTo(8), "30 was dropped for 40, which is not applied")
	c.learn(promise{at(38), 8}, 8)
	require.Equal(t, at(38), c.upTo(8))
	require.Equal(t, at(40), c.upTo(9))
	c.learn(promise{at(15), 3}, 9)
	require.Equal(t, at(40), c.upTo(9))
}

func TestClosedMessage(t *testing.T) {
	target := hlc.Timestamp{WallNanos: 1e18, Logical: 3}
	list := []closedEntry{{2, promise{target, 77}}, {9, promise{target.Prev(), 1 << 40}}, {10, promise{hlc.Timestamp{WallNanos: 5, Logical: 9}, 0}}}
	b := encodeClosed(target, list)
	got, err := decodeClosed(b)
	require.NoError(t, err)
	require.Equal(t, list, got)
	for n := range b {
		_, err := decodeClosed(b[:n])
		require.Error(t, err, "%d of %d bytes", n, len(b))
	}
}

func FuzzDecodeClosed(f *testing.F) {
	f.Add(encodeClosed(at(5), []closedEntry{{2, promise{at(4), 77}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decodeClosed(b)
		if err != nil {
			return
		}
		for i := range list {
			require.GreaterOrEqual(t, list[i].ts.WallNanos, int64(0))
		}
	})
}

// readPast reads a key at a timestamp from a node's own replica.
func (n *testNode) readPast(ctx context.Context, id keys.RangeID, k keys.Key, ts hlc.Timestamp) (*kv.GetResponse, error) {
	ba := &kv.BatchRequest{Header: kv.Header{RangeID: id, Timestamp: ts, FollowerRead: true}, Requests: []kv.Request{&kv.GetRequest{Key: k}}}
	br, err := n.store.Send(ctx, ba)
	if err != nil {
		return nil, err
	}
	return br.Responses[0].(*kv.GetResponse), nil
}

// followers returns the nodes that have a replica of a range and not its lease.
func (c *testCluster) followers(id keys.RangeID) []*testNode {
	l := c.leaseholder(id)
	var out []*testNode
	for _, n := range c.up() {
		if n != l && n.store.get(id) != nil {
			out = append(out, n)
		}
	}
	return out
}

// Replicas without the lease answer reads of the past, the lease gone or not; what is not closed yet,
// or waits for an intent, only the leaseholder can answer (S24).
func TestFollowersReadThePast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		ctx := t.Context()
		client := c.nodes[0]
		require.NoError(t, client.put(ctx, tkey(1), "old"))
		then := client.store.cfg.Clock.Now()
		require.NoError(t, client.put(ctx, tkey(1), "new"))
		id := client.rangeOf(tkey(1))
		for _, n := range c.followers(id) {
			_, err := n.readPast(ctx, id, tkey(1), then)
			require.ErrorAs(t, err, new(*kv.NotLeaseholderError), "not closed yet")
		}
		time.Sleep(FollowerLag(false))
		for _, n := range c.followers(id) {
			got, err := n.readPast(ctx, id, tkey(1), then)
			require.NoError(t, err)
			require.Equal(t, "old", string(got.Value))
			_, err = n.store.Send(ctx, &kv.BatchRequest{Header: kv.Header{RangeID: id, Timestamp: then}, Requests: []kv.Request{&kv.GetRequest{Key: tkey(1)}}})
			require.ErrorAs(t, err, new(*kv.NotLeaseholderError), "nobody asked for a read of the past")
			_, err = n.store.Send(ctx, &kv.BatchRequest{Header: kv.Header{RangeID: id, Timestamp: then, FollowerRead: true},
				Requests: []kv.Request{&kv.PutRequest{Key: tkey(1), Value: []byte("x")}}})
			require.ErrorAs(t, err, new(*kv.NotLeaseholderError), "a write")
		}
		// An intent: what becomes of it is not known here.
		txn := &kv.Txn{TxnMeta: kv.TxnMeta{ID: kv.TxnID{1}, Key: tkey(2), WriteTimestamp: client.store.cfg.Clock.Now()}}
		txn.ReadTimestamp, txn.MinTimestamp, txn.UncertaintyLimit = txn.WriteTimestamp, txn.WriteTimestamp, txn.WriteTimestamp
		_, err := client.sender.Send(ctx, &kv.BatchRequest{Header: kv.Header{Txn: txn}, Requests: []kv.Request{&kv.PutRequest{Key: tkey(2), Value: []byte("perhaps"), Seq: 1}}})
		require.NoError(t, err)
		over := txn.WriteTimestamp.Next()
		time.Sleep(FollowerLag(false))
		f := c.followers(id)
		_, err = f[0].readPast(ctx, id, tkey(2), over)
		require.ErrorContains(t, err, "an intent lies at or below")
		got, err := f[0].readPast(ctx, id, tkey(1), over)
		require.NoError(t, err)
		require.Equal(t, "new", string(got.Value))

		// Without a quorum nobody leads, and the past is still there.
		for _, n := range c.nodes {
			if n != f[0] {
				n.kill()
			}
		}
		time.Sleep(10 * time.Second)
		got, err = f[0].readPast(ctx, id, tkey(1), then)
		require.NoError(t, err)
		require.Equal(t, "old", string(got.Value))
		c.close()
	})
}

// rangeOf returns the range that holds a key, as a node knows it.
func (n *testNode) rangeOf(k keys.Key) keys.RangeID {
	for _, r := range n.store.all() {
		if d := r.desc(); d != nil && d.RangeID != keys.MetaRangeID && d.Contains(k) {
			return d.RangeID
		}
	}
	return 0
}

// Where a policy says follower_reads, replicas without the lease are some 200 ms behind at most, also
// those that don't vote, right after a restart too, while the range is written to and when it rests.
func TestFollowersAreFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c", "d")
		fresh := "{name: near, survive: zone, follower_reads: true, zones: {d: {role: read-only}}}"
		m := c.compile([]string{everywhere, fresh}, bound{10, 20, "near"})
		c.setRules(m)
		require.NoError(t, c.nodes[0].put(t.Context(), tkey(11), "x"))
		c.obeyed(5*time.Minute, m)
		near := c.rangeAt(tkey(10))
		reader := c.nodes[3]
		watch := func(during string) {
			for range 200 {
				time.Sleep(17 * time.Millisecond)
				require.Less(t, reader.store.staleness(true), FollowerLag(true), during)
			}
		}
		require.NotZero(t, reader.store.staleness(true))
		require.True(t, reader.store.FollowerReads(tkey(12)))
		require.False(t, reader.store.FollowerReads(tkey(22)))
		watch("at rest")
		stop := c.writing(c.nodes[0])
		watch("under writes")
		stop()
		reader.kill()
		reader.restart()
		reader.store.SetRules(m)
		c.eventually(2*time.Second, func() bool { return reader.store.staleness(true) != 0 })
		watch("after a restart")
		require.Less(t, reader.store.staleness(false), FollowerLag(false))
		_, err := reader.readPast(t.Context(), near, tkey(11), reader.store.cfg.Clock.Now().Add(-FollowerLag(true)))
		require.NoError(t, err)
		c.close()
	})
}

// written is a write whose outcome is known.
type written struct {
	ts    hlc.Timestamp
	value string
}

// What a replica without the lease reads at a timestamp is what was committed up to there, whatever
// happens: writers, leases that move, nodes that die, splits (S24).
func TestFollowerReadsAreComplete(t *testing.T) {
	seeds := uint64(4)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { followersUnderFaults(t, seed) }) })
	}
}

func followersUnderFaults(t *testing.T, seed uint64) {
	c := newCluster(t, func(cfg *Config) { cfg.ClosedLag = 40 * time.Millisecond; cfg.ShortLog = 20 * (seed % 2) }, "a", "b", "c")
	rng := rand.New(rand.NewPCG(seed, 1))
	const nkeys = 6
	var mu sync.Mutex
	var log [nkeys][]written
	var unsure [nkeys]map[string]bool
	for k := range unsure {
		unsure[k] = map[string]bool{}
	}
	type seen struct {
		key   int
		at    hlc.Timestamp
		value string
	}
	var reads []seen
	refused := 0
	stop := make(chan struct{})
	var wg sync.WaitGroup
	// What a node consists of is replaced when it starts again; nil while it is down.
	var parts [3]atomic.Pointer[testNode]
	up := func(i int) { parts[i].Store(&testNode{store: c.nodes[i].store, sender: c.nodes[i].sender}) }
	for i := range parts {
		up(i)
	}
	for w := range 3 {
		rng := rand.New(rand.NewPCG(seed, uint64(w)+10))
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(rng.IntN(30)) * time.Millisecond):
				}
				n, k, v := parts[rng.IntN(3)].Load(), rng.IntN(nkeys), fmt.Sprintf("%d.%d", w, i)
				if n == nil {
					continue
				}
				br, err := n.sender.Send(t.Context(), &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: tkey(k), Value: []byte(v)}}})
				mu.Lock()
				if err == nil {
					log[k] = append(log[k], written{br.Timestamp, v})
				} else {
					unsure[k][v] = true
				}
				mu.Unlock()
			}
		})
	}
	for r := range 3 {
		rng := rand.New(rand.NewPCG(seed, uint64(r)+20))
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(rng.IntN(10)) * time.Millisecond):
				}
				n, k := parts[r].Load(), rng.IntN(nkeys)
				if n == nil {
					continue
				}
				ts := n.store.cfg.Clock.Now().Add(-time.Duration(rng.IntN(300)) * time.Millisecond)
				got, err := n.readPast(t.Context(), n.rangeOf(tkey(k)), tkey(k), ts)
				mu.Lock()
				if err == nil {
					reads = append(reads, seen{k, ts, string(got.Value)})
				} else {
					refused++
				}
				mu.Unlock()
			}
		})
	}
	for i := range 40 {
		time.Sleep(time.Duration(200+rng.IntN(400)) * time.Millisecond)
		at := rng.IntN(3)
		n := c.nodes[at]
		switch {
		case i == 20:
			require.NoError(t, c.nodes[0].splitAt(t.Context(), tkey(nkeys/2)))
		case i%10 == 9 && n.running:
			parts[at].Store(nil)
			n.kill()
			time.Sleep(2 * time.Second)
			n.restart()
			up(at)
		default:
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, _ = c.nodes[0].sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{&kv.AdminTransferLeaseRequest{Key: tkey(i % nkeys), Target: n.id}}})
			cancel()
		}
	}
	close(stop)
	wg.Wait()
	for _, rd := range reads {
		want := written{}
		for _, w := range log[rd.key] {
			if w.ts.LessEq(rd.at) && want.ts.Less(w.ts) {
				want = w
			}
		}
		if rd.value != want.value && !unsure[rd.key][rd.value] {
			t.Fatalf("key %d at %s: read %q, committed was %q at %s", rd.key, rd.at, rd.value, want.value, want.ts)
		}
	}
	require.Greater(t, len(reads), 1000)
	require.NotZero(t, refused)
	t.Logf("%d reads, %d refused", len(reads), refused)
	c.close()
}
