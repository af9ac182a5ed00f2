package dist

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
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

// cluster is a few nodes with ranges over one map of keys. Ranges know their leaseholder
// and the commands they applied.
type cluster struct {
	mu     sync.Mutex
	ranges []*testRange
	data   map[string][]byte
	down   map[keys.NodeID]bool // calls to it hang, and it is not alive
	// onCall may fail a call: lost before it arrives, or (after) its answer.
	onCall, onAnswer func(node keys.NodeID, ba *kv.BatchRequest) error
	log              []string
	applied          int
}

type testRange struct {
	desc        kv.RangeDescriptor
	leaseholder keys.NodeID
	commands    map[[16]byte]bool
	horizon     int64
}

func newCluster(splits ...string) *cluster {
	c := &cluster{data: map[string][]byte{}, down: map[keys.NodeID]bool{}}
	bounds := append([]string{string(keys.MetaMax)}, splits...)
	c.add(keys.MetaRangeID, keys.MinKey, keys.MetaMax, 1)
	for i, b := range bounds {
		end := keys.MaxKey
		if i+1 < len(bounds) {
			end = keys.Key(bounds[i+1])
		}
		c.add(keys.RangeID(i+2), keys.Key(b), end, keys.NodeID(i%3+1))
	}
	return c
}

func (c *cluster) add(id keys.RangeID, start, end keys.Key, leaseholder keys.NodeID) *testRange {
	r := &testRange{leaseholder: leaseholder, commands: map[[16]byte]bool{}, desc: kv.RangeDescriptor{
		RangeID: id, Start: start, End: end, Generation: 1,
		Replicas: []kv.ReplicaDescriptor{{Node: 1, Replica: 1}, {Node: 2, Replica: 2}, {Node: 3, Replica: 3}},
	}}
	c.ranges = append(c.ranges, r)
	c.data[string(keys.Meta(end))] = kv.EncodeRangeDescriptor(nil, &r.desc)
	return r
}

// split splits the range that holds k. Meta learns of it only if told.
func (c *cluster) split(k string, meta bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.ranges {
		if !r.desc.Contains(keys.Key(k)) {
			continue
		}
		right := &testRange{desc: r.desc.Clone(), leaseholder: r.leaseholder%3 + 1, commands: map[[16]byte]bool{}}
		for id := range r.commands {
			right.commands[id] = true
		}
		right.desc.RangeID = keys.RangeID(100 + len(c.ranges))
		right.desc.Start, r.desc.End = keys.Key(k), keys.Key(k)
		r.desc.Generation++
		right.desc.Generation = r.desc.Generation
		c.ranges = append(c.ranges, right)
		if meta {
			c.data[string(keys.Meta(r.desc.End))] = kv.EncodeRangeDescriptor(nil, &r.desc)
			c.data[string(keys.Meta(right.desc.End))] = kv.EncodeRangeDescriptor(nil, &right.desc)
		}
		return
	}
}

func (c *cluster) rangeOf(k string) *testRange {
	for _, r := range c.ranges {
		if r.desc.Contains(keys.Key(k)) {
			return r
		}
	}
	return nil
}

func (c *cluster) setDown(node keys.NodeID, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down[node] = down
}

func (c *cluster) isDown(node keys.NodeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down[node]
}

// node is the sender of one node.
type node struct {
	c  *cluster
	id keys.NodeID
}

func (n node) Send(_ context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.ranges, func(r *testRange) bool { return r.desc.RangeID == ba.RangeID })
	if i < 0 {
		return nil, &kv.RangeNotFoundError{RangeID: ba.RangeID, Node: n.id}
	}
	r := c.ranges[i]
	if r.leaseholder != n.id {
		c.log = append(c.log, fmt.Sprintf("n%d not leaseholder of r%d", n.id, ba.RangeID))
		return nil, &kv.NotLeaseholderError{RangeID: ba.RangeID, Leaseholder: r.leaseholder}
	}
	br := &kv.BatchResponse{Txn: ba.Txn}
	for _, req := range ba.Requests {
		s, err := address(req, ba.Txn)
		if err != nil {
			return nil, err
		}
		if !(&entry{desc: r.desc}).contains(s) {
			e := &kv.RangeKeyMismatchError{Span: s}
			for _, o := range c.ranges {
				if o.desc.Start.Less(s.End()) && s.Key.Less(o.desc.End) {
					e.Descs = append(e.Descs, o.desc)
				}
			}
			return nil, e
		}
	}
	again := r.commands[ba.CommandID]
	if ba.NeedsCommandID() && !again && ba.CommandBirth <= r.horizon {
		return nil, &kv.CommandExpiredError{RangeID: ba.RangeID, Birth: ba.CommandBirth, Horizon: r.horizon}
	}
	for _, req := range ba.Requests {
		br.Responses = append(br.Responses, c.eval(req, again))
	}
	if ba.IsWrite() {
		if ba.CommandID == ([16]byte{}) {
			return nil, &kv.InvalidRequestError{Detail: "a write without a command ID"}
		}
		r.commands[ba.CommandID] = true
	}
	return br, nil
}

func (c *cluster) eval(req kv.Request, again bool) kv.Response {
	switch r := req.(type) {
	case *kv.GetRequest:
		v, ok := c.data[string(r.Key)]
		return &kv.GetResponse{Value: v, Exists: ok}
	case *kv.PutRequest:
		if !again {
			c.data[string(r.Key)] = r.Value
			c.applied++
		}
		return &kv.PutResponse{}
	case *kv.DeleteRangeRequest:
		resp := &kv.DeleteRangeResponse{}
		for _, k := range c.keysIn(r.Span) {
			if resp.Deleted == 2 {
				resp.ResumeSpan = &keys.Span{Key: keys.Key(k), EndKey: r.Span.EndKey}
				break
			}
			delete(c.data, k)
			resp.Deleted++
		}
		return resp
	case *kv.ScanRequest:
		ks := c.keysIn(r.Span)
		if r.Reverse {
			slices.Reverse(ks)
		}
		resp := &kv.ScanResponse{}
		for _, k := range ks {
			if r.MaxKeys > 0 && int64(len(resp.Rows)) == r.MaxKeys {
				last := resp.Rows[len(resp.Rows)-1].Key
				if resp.ResumeSpan = (&keys.Span{Key: last.Next(), EndKey: r.Span.EndKey}); r.Reverse {
					resp.ResumeSpan = &keys.Span{Key: r.Span.Key, EndKey: last}
				}
				break
			}
			resp.Rows = append(resp.Rows, kv.KeyValue{Key: keys.Key(k), Value: c.data[k]})
			resp.NumBytes += int64(len(k))
		}
		return resp
	case *kv.EndTxnRequest:
		return &kv.EndTxnResponse{}
	}
	return &kv.RefreshResponse{}
}

func (c *cluster) keysIn(s keys.Span) (out []string) {
	for k := range c.data {
		if s.Contains(keys.Key(k)) {
			out = append(out, k)
		}
	}
	sort.Strings(out)
	return out
}

// call carries encoded batches, as the network does.
func (c *cluster) call(ctx context.Context, to keys.NodeID, payload []byte) ([]byte, error) {
	if c.isDown(to) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	time.Sleep(time.Millisecond)
	ba, err := kv.DecodeBatchRequest(payload)
	if err != nil {
		return nil, err
	}
	if c.onCall != nil {
		if err := c.onCall(to, ba); err != nil {
			return nil, err
		}
	}
	reply := Serve(ctx, node{c, to}, payload)
	if c.onAnswer != nil {
		if err := c.onAnswer(to, ba); err != nil {
			return nil, err
		}
	}
	return reply, nil
}

// localOnly fails the test when the local node is called through the network.
type localOnly struct {
	Caller
	t *testing.T
}

func (l localOnly) Call(ctx context.Context, to keys.NodeID, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	if to == 1 {
		l.t.Error("a call to the own node")
	}
	return l.Caller.Call(ctx, to, ba)
}

func bubble(t *testing.T, splits []string, f func(t *testing.T, c *cluster, d *DistSender)) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(splits...)
		d, err := New(Config{
			Clock: hlc.NewClock(time.Now, 250*time.Millisecond), Self: 1, Local: node{c, 1}, Caller: localOnly{CallerFunc(c.call), t},
			Alive: func(n keys.NodeID) bool { return !c.isDown(n) },
			MetaSeed: func() (kv.RangeDescriptor, bool) {
				c.mu.Lock()
				defer c.mu.Unlock()
				return c.ranges[0].desc, true
			},
		})
		require.NoError(t, err)
		f(t, c, d)
	})
}

func put(k, v string) kv.Request { return &kv.PutRequest{Key: keys.Key(k), Value: []byte(v)} }
func get(k string) kv.Request    { return &kv.GetRequest{Key: keys.Key(k)} }

func send(d *DistSender, reqs ...kv.Request) (*kv.BatchResponse, error) {
	return d.Send(context.Background(), &kv.BatchRequest{Requests: reqs})
}

func rows(resp kv.Response) (out []string) {
	for _, r := range resp.(*kv.ScanResponse).Rows {
		out = append(out, string(r.Key))
	}
	return out
}

func TestRoutesAndCaches(t *testing.T) {
	bubble(t, []string{"h", "p"}, func(t *testing.T, c *cluster, d *DistSender) {
		_, err := send(d, put("a", "1"), put("k", "2"), put("z", "3"))
		require.NoError(t, err)
		br, err := send(d, get("z"), get("a"), get("k"), get("none"))
		require.NoError(t, err)
		for i, want := range []string{"3", "1", "2", ""} {
			require.Equal(t, want, string(br.Responses[i].(*kv.GetResponse).Value))
		}
		c.log = nil
		for range 5 {
			_, err = send(d, get("z"), get("a"), get("k"))
			require.NoError(t, err)
		}
		require.Empty(t, c.log, "leaseholders are remembered")
		b, err := d.RangeBounds(context.Background(), keys.Key("k"))
		require.NoError(t, err)
		require.Equal(t, "h", string(b.Key))
		require.Equal(t, "p", string(b.EndKey))
		desc, lh, err := d.Descriptor(context.Background(), keys.Key("k"))
		require.NoError(t, err)
		require.EqualValues(t, 3, desc.RangeID)
		require.Equal(t, c.rangeOf("k").leaseholder, lh)
		// The lease moves.
		c.rangeOf("k").leaseholder = 1
		_, err = send(d, get("k"))
		require.NoError(t, err)
		require.Len(t, c.log, 1)
	})
}

func TestSplitsUnderTheCache(t *testing.T) {
	for _, meta := range []bool{true, false} {
		bubble(t, nil, func(t *testing.T, c *cluster, d *DistSender) {
			_, err := send(d, put("a", "1"))
			require.NoError(t, err)
			c.split("h", meta)
			c.split("p", meta)
			c.split("c", meta)
			_, err = send(d, put("b", "1"), put("i", "2"), put("z", "3"))
			require.NoError(t, err)
			br, err := send(d, &kv.ScanRequest{Span: keys.Span{Key: keys.Key("a"), EndKey: keys.Key("zz")}})
			require.NoError(t, err)
			require.Equal(t, []string{"a", "b", "i", "z"}, rows(br.Responses[0]))
			require.EqualValues(t, 4, c.applied, "a write was applied twice")
		})
	}
}

// TestScansAgainstSortedKeys compares scans with limits, both ways and resumed, over many
// ranges, while ranges split.
func TestScansAgainstSortedKeys(t *testing.T) {
	bubble(t, []string{"k2", "k4", "k6"}, func(t *testing.T, c *cluster, d *DistSender) {
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range 90 {
			c.data[fmt.Sprintf("k%02d", i)] = []byte("v")
		}
		for i := range 200 {
			if i%25 == 24 {
				c.split(fmt.Sprintf("k%02d", i/3), i%2 == 0)
			}
			a, b := rng.IntN(90), rng.IntN(90)
			span := keys.Span{Key: keys.Key(fmt.Sprintf("k%02d", min(a, b))), EndKey: keys.Key(fmt.Sprintf("k%02d", max(a, b)+1))}
			want := c.keysIn(span)
			scan := kv.ScanRequest{Span: span, Reverse: rng.IntN(2) == 0, MaxKeys: int64(rng.IntN(3) * 7)}
			ba := &kv.BatchRequest{}
			ba.TargetBytes = int64(rng.IntN(2) * 20)
			ba.MaxSpanKeys = int64(rng.IntN(2) * 9)
			if scan.Reverse {
				slices.Reverse(want)
			}
			var got []string
			for n := 0; ; n++ {
				require.Less(t, n, 100)
				cp := scan
				ba.Requests = []kv.Request{&cp}
				br, err := d.Send(context.Background(), ba)
				require.NoError(t, err)
				got = append(got, rows(br.Responses[0])...)
				rest := br.Responses[0].(*kv.ScanResponse).ResumeSpan
				if rest == nil {
					break
				}
				scan.Span = *rest
			}
			require.Equal(t, want, got, "%d: %s", i, span)
		}
	})
}

func TestDeleteRangeGoesOn(t *testing.T) {
	bubble(t, []string{"k3", "k6"}, func(t *testing.T, c *cluster, d *DistSender) {
		for i := range 9 {
			c.data[fmt.Sprintf("k%d", i)] = []byte("v")
		}
		br, err := send(d, &kv.DeleteRangeRequest{Span: keys.Span{Key: keys.Key("k"), EndKey: keys.Key("l")}})
		require.NoError(t, err)
		require.Equal(t, &kv.DeleteRangeResponse{Deleted: 9}, br.Responses[0])
	})
}

func TestDeadNode(t *testing.T) {
	bubble(t, nil, func(t *testing.T, c *cluster, d *DistSender) {
		r := c.rangeOf("a")
		r.leaseholder = 2
		_, err := send(d, put("a", "1"))
		require.NoError(t, err)
		// The node hangs; 300 ms later it is known to be dead and another has the lease.
		hang := make(chan struct{})
		var once sync.Once
		c.onCall = func(n keys.NodeID, _ *kv.BatchRequest) error {
			if n == 2 {
				once.Do(func() { close(hang) })
				time.Sleep(time.Hour)
			}
			return nil
		}
		go func() {
			<-hang
			time.Sleep(300 * time.Millisecond)
			c.mu.Lock()
			r.leaseholder = 3
			c.mu.Unlock()
			c.setDown(2, true)
			d.NodeDown(2)
		}()
		d.cfg.Caller = abandoning{d.cfg.Caller}
		start := time.Now()
		_, err = send(d, put("a", "2"))
		require.NoError(t, err)
		require.Less(t, time.Since(start), 400*time.Millisecond)
		require.Equal(t, "2", string(c.data["a"]))
		time.Sleep(2 * time.Hour) // the abandoned call ends
	})
}

// abandoning returns as soon as the context ends, as a network does.
type abandoning struct{ Caller }

func (a abandoning) Call(ctx context.Context, to keys.NodeID, ba *kv.BatchRequest) (br *kv.BatchResponse, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		b, e := a.Caller.Call(context.WithoutCancel(ctx), to, ba)
		if ctx.Err() == nil {
			br, err = b, e
		}
	}()
	select {
	case <-done:
		return br, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestSweepFindsDeadNode(t *testing.T) {
	bubble(t, nil, func(t *testing.T, c *cluster, d *DistSender) {
		c.rangeOf("a").leaseholder = 2
		_, err := send(d, get("a"))
		require.NoError(t, err)
		c.setDown(2, true)
		var dead atomic.Bool
		d.cfg.Alive = func(n keys.NodeID) bool { return n != 2 || !dead.Load() }
		d.calls.alive = d.cfg.Alive
		go func() {
			time.Sleep(100 * time.Millisecond)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.ranges[1].leaseholder = 1
			dead.Store(true)
		}()
		start := time.Now()
		_, err = send(d, get("a"))
		require.NoError(t, err)
		require.Less(t, time.Since(start), 300*time.Millisecond)
	})
}

func TestNoLeaseholder(t *testing.T) {
	bubble(t, nil, func(t *testing.T, c *cluster, d *DistSender) {
		c.rangeOf("a").leaseholder = 0
		start := time.Now()
		_, err := send(d, put("a", "1"))
		var unavailable *kv.UnavailableError
		require.ErrorAs(t, err, &unavailable)
		require.EqualValues(t, 2, unavailable.RangeID)
		require.InDelta(t, 30, time.Since(start).Seconds(), 1)
		require.InDelta(t, 30, unavailable.Waited.Seconds(), 1)

		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = d.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{get("a")}})
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestEndTxnIsNotCutWrongly(t *testing.T) {
	bubble(t, []string{"m"}, func(t *testing.T, c *cluster, d *DistSender) {
		txn := &kv.Txn{TxnMeta: kv.TxnMeta{ID: kv.TxnID{1}, Key: keys.Key("a")}}
		run := func(end *kv.EndTxnRequest) error {
			_, err := d.Send(context.Background(), &kv.BatchRequest{
				Header: kv.Header{Txn: txn}, Requests: []kv.Request{put("a", "1"), put("z", "1"), end}})
			return err
		}
		require.ErrorAs(t, run(&kv.EndTxnRequest{Commit: true, CanCommitInOnePhase: true}), new(*kv.OnePhaseError))
		require.ErrorAs(t, run(&kv.EndTxnRequest{Commit: true}), new(*kv.InvalidRequestError))
		require.Zero(t, c.applied)
		require.NoError(t, run(&kv.EndTxnRequest{Commit: true, InFlight: []kv.InFlightWrite{{}}}))
		require.Equal(t, 2, c.applied)
		// A record's key is routed by its anchor.
		_, err := d.Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{get(string(keys.TxnRecord(keys.Key("z"), [16]byte{1})))}})
		require.NoError(t, err)
		_, err = d.Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{get(string(keys.RangeLocal(1, "x")))}})
		require.ErrorAs(t, err, new(*kv.InvalidRequestError))
	})
}

func TestConcurrentLookupsShareOneRead(t *testing.T) {
	bubble(t, nil, func(t *testing.T, c *cluster, d *DistSender) {
		var mu sync.Mutex
		reads := 0
		d.cfg.Local = senderFunc(func(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
			if ba.RangeID == keys.MetaRangeID {
				mu.Lock()
				reads++
				mu.Unlock()
				time.Sleep(10 * time.Millisecond)
			}
			return node{c, 1}.Send(ctx, ba)
		})
		var wg sync.WaitGroup
		for range 20 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if _, err := send(d, get("a")); err != nil {
					t.Error(err)
				}
			}()
		}
		wg.Wait()
		require.Equal(t, 1, reads)
	})
}

type senderFunc func(context.Context, *kv.BatchRequest) (*kv.BatchResponse, error)

func (f senderFunc) Send(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	return f(ctx, ba)
}

func TestCacheKeepsNewerDescriptors(t *testing.T) {
	c := newRangeCache()
	d := func(id keys.RangeID, a, b string, gen int64) kv.RangeDescriptor {
		return kv.RangeDescriptor{RangeID: id, Start: keys.Key(a), End: keys.Key(b), Generation: gen, Replicas: []kv.ReplicaDescriptor{{Node: 1}}}
	}
	c.insert(d(1, "a", "z", 1), 1)
	c.insert(d(1, "a", "m", 2), 0)
	require.EqualValues(t, 1, c.get(keys.Key("b")).leaseholder.Load(), "the leaseholder is kept")
	require.Nil(t, c.get(keys.Key("n")))
	c.insert(d(2, "m", "z", 2), 0)
	require.EqualValues(t, 2, c.get(keys.Key("n")).desc.RangeID)
	c.insert(d(1, "a", "z", 1), 0) // late news
	require.EqualValues(t, 2, c.get(keys.Key("n")).desc.RangeID)
	require.EqualValues(t, 2, c.get(keys.Key("b")).desc.Generation)
	require.Nil(t, c.get(keys.Key("z")))
	require.EqualValues(t, 1, c.before(keys.Key("m")).desc.RangeID)
	c.evict(c.get(keys.Key("b")))
	require.Nil(t, c.get(keys.Key("b")))
	require.Equal(t, 1, c.len())
}

func TestConfigNamesWhatIsMissing(t *testing.T) {
	_, err := New(Config{})
	for _, name := range strings.Fields("Clock Self Local Caller MetaSeed") {
		require.ErrorContains(t, err, name)
	}
}

func FuzzServe(f *testing.F) {
	c := newCluster()
	f.Add(kv.EncodeBatchRequest(nil, &kv.BatchRequest{Requests: []kv.Request{get("a")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, err := kv.DecodeReply(Serve(context.Background(), node{c, 1}, b))
		require.NoError(t, err)
	})
}

func BenchmarkLocalGet(b *testing.B) {
	c := newCluster()
	d, _ := New(Config{
		Clock: hlc.NewClock(time.Now, 0), Self: 1, Local: node{c, 1}, Caller: CallerFunc(c.call),
		MetaSeed: func() (kv.RangeDescriptor, bool) { return c.ranges[0].desc, true },
	})
	ba := &kv.BatchRequest{Requests: []kv.Request{get("a")}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Send(context.Background(), ba); err != nil {
			b.Fatal(err)
		}
	}
}
