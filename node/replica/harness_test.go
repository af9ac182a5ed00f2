package replica

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

const readAhead = 500 * time.Millisecond

// fakeGroup applies commands straight to the engine, after a delay.
type fakeGroup struct {
	node   keys.NodeID
	engine *storage.StateEngine
	clock  *hlc.Clock
	delay  func() time.Duration

	mu       sync.Mutex
	term     uint64
	valid    bool
	outcomes map[[16]byte][]byte
	horizon  int64
	index    uint64
	commands int
	reject   bool
	lose     bool // apply, and say that nobody knows
}

func (g *fakeGroup) Lease() LeaseStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	return LeaseStatus{Valid: g.valid, Term: g.term, ReadLimit: hlc.Timestamp{WallNanos: time.Now().Add(readAhead).UnixNano()}, Leader: g.node}
}

func (g *fakeGroup) Propose(ctx context.Context, cmd *raftcmd.Command) (Result, error) {
	if g.delay != nil {
		if d := g.delay(); d > 0 {
			time.Sleep(d)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reject || cmd.Term != g.term || !g.valid || cmd.ID != ([16]byte{}) && cmd.Birth < g.horizon {
		return Result{}, fmt.Errorf("%w: test", ErrRejected)
	}
	cmd, err := raftcmd.Decode(cmd.Encode())
	if err != nil {
		return Result{}, err
	}
	g.index++
	g.commands++
	if cmd.ID != ([16]byte{}) {
		if _, ok := g.outcomes[cmd.ID]; ok {
			return Result{Index: g.index, Duplicate: true}, nil
		}
		g.outcomes[cmd.ID] = cmd.Outcome
	}
	if len(cmd.Batch) > 0 {
		if err := g.engine.ApplyRepr(cmd.Batch, nil); err != nil {
			return Result{}, err
		}
	}
	if g.lose {
		return Result{}, fmt.Errorf("%w: test", ErrAmbiguous)
	}
	return Result{Index: g.index}, nil
}

func (g *fakeGroup) LookupCommand(id [16]byte) ([]byte, bool, int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	out, ok := g.outcomes[id]
	return out, ok, g.horizon - 1 // commands without birth are fine until something is forgotten
}

// bed is some ranges on one node.
type bed struct {
	t        testing.TB
	engine   *storage.StateEngine
	clock    *hlc.Clock
	replicas []*Replica
	groups   []*fakeGroup
	mu       sync.Mutex
	rng      *rand.Rand
	drop     func(ba *kv.BatchRequest) error // a request that does not arrive
	lag      time.Duration                   // of every message
	sent     map[string]int
}

// newBed makes ranges that meet at the given keys.
func newBed(t testing.TB, limits Limits, splits ...string) *bed {
	engine, err := storage.OpenState(storage.StateOptions{Dir: "state", FS: storage.MemFS(), Small: true})
	require.NoError(t, err)
	b := &bed{t: t, engine: engine, clock: hlc.NewClock(time.Now, 250*time.Millisecond), rng: rand.New(rand.NewPCG(1, 2)), sent: map[string]int{}}
	start := keys.Key{}
	for i := 0; i <= len(splits); i++ {
		end := keys.MaxKey
		if i < len(splits) {
			end = keys.Key(splits[i])
		}
		b.add(kv.RangeDescriptor{RangeID: keys.RangeID(i + 1), Start: start, End: end, Generation: 1}, limits)
		start = end
	}
	t.Cleanup(b.close)
	return b
}

func (b *bed) add(desc kv.RangeDescriptor, limits Limits) *Replica {
	g := &fakeGroup{node: 1, engine: b.engine, clock: b.clock, term: 1, valid: true, outcomes: map[[16]byte][]byte{}}
	r := New(Config{Desc: desc, Node: 1, Group: g, Engine: b.engine, Clock: b.clock, Sender: b, Limits: limits})
	r.OnLease(1, hlc.Timestamp{})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.replicas = append(b.replicas, r)
	b.groups = append(b.groups, g)
	return r
}

func (b *bed) close() {
	for _, r := range b.replicas {
		r.Close()
	}
	require.NoError(b.t, b.engine.Close())
}

// newTerm moves the lease of a range away and back.
func (b *bed) newTerm(i int) {
	r, g := b.replicas[i], b.groups[i]
	g.mu.Lock()
	g.valid = false
	g.mu.Unlock()
	r.OnLeaseLost()
	g.mu.Lock()
	g.term++
	g.valid = true
	term := g.term
	g.mu.Unlock()
	r.OnLease(term, hlc.Timestamp{WallNanos: time.Now().Add(readAhead).UnixNano()})
}

// Send implements kv.Sender over the ranges; a batch is cut by range.
func (b *bed) Send(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	b.mu.Lock()
	for _, req := range ba.Requests {
		b.sent[fmt.Sprintf("%T", req)]++
	}
	drop := b.drop
	if ba.CommandID == ([16]byte{}) {
		binary.BigEndian.PutUint64(ba.CommandID[:], b.rng.Uint64())
		binary.BigEndian.PutUint64(ba.CommandID[8:], b.rng.Uint64())
		ba.CommandBirth = b.clock.Now().WallNanos
	}
	b.mu.Unlock()
	time.Sleep(b.lag)
	if drop != nil {
		if err := drop(ba); err != nil {
			return nil, err
		}
	}
	type part struct {
		at  []int
		req []kv.Request
	}
	parts := map[int]*part{}
	order := []int{}
	for i, req := range ba.Requests {
		key, err := keys.Addr(kv.RequestSpan(req, ba.Txn).Key)
		if err != nil {
			return nil, err
		}
		at := -1
		for j, r := range b.ranges() {
			if r.Desc().Contains(key) {
				at = j
			}
		}
		if at < 0 {
			return nil, fmt.Errorf("no range holds %s", key)
		}
		if parts[at] == nil {
			parts[at] = &part{}
			order = append(order, at)
		}
		parts[at].at = append(parts[at].at, i)
		parts[at].req = append(parts[at].req, req)
	}
	out := &kv.BatchResponse{Responses: make([]kv.Response, len(ba.Requests))}
	brs := make([]*kv.BatchResponse, len(order))
	errs := make([]error, len(order))
	var wg sync.WaitGroup
	for k, at := range order {
		p := *ba
		p.Requests = parts[at].req
		p.ClockReading = b.clock.Now()
		wg.Go(func() { brs[k], errs[k] = b.retry(ctx, at, &p) })
	}
	wg.Wait()
	for k, at := range order {
		if errs[k] != nil {
			return nil, errs[k]
		}
		for i, resp := range brs[k].Responses {
			out.Responses[parts[at].at[i]] = resp
		}
		if out.Txn == nil {
			out.Txn, out.Timestamp = brs[k].Txn, brs[k].Timestamp
		} else if t := brs[k].Txn; t != nil {
			out.Txn.WriteTimestamp.Forward(t.WriteTimestamp)
			out.Txn.Status = max(out.Txn.Status, t.Status)
		}
	}
	return out, nil
}

func (b *bed) ranges() []*Replica {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]*Replica(nil), b.replicas...)
}

// retry sends again while the range has no lease, as DistSender does.
func (b *bed) retry(ctx context.Context, at int, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	for {
		r := b.ranges()[at]
		br, err := r.Send(ctx, ba)
		switch err.(type) {
		case *kv.NotLeaseholderError:
		case *kv.RangeKeyMismatchError:
			return b.Send(ctx, ba)
		case *kv.AmbiguousError:
			if ctx.Err() != nil {
				return nil, err
			}
		default:
			return br, err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (b *bed) count(what string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent["*kv."+what+"Request"]
}

// client is a transaction coordinator for tests, as small as it can be.
type client struct {
	b     *bed
	ctx   context.Context
	txn   *kv.Txn
	reads []keys.Span
	locks map[string]bool
	puts  map[string]*kv.PutRequest
	wait  kv.WaitPolicy
	seq   int32
	stop  chan struct{}
}

func (b *bed) begin(iso kv.Isolation) *client {
	now := b.clock.Now()
	c := &client{b: b, ctx: context.Background(), locks: map[string]bool{}, puts: map[string]*kv.PutRequest{}}
	c.txn = &kv.Txn{TxnMeta: kv.TxnMeta{WriteTimestamp: now, MinTimestamp: now, Isolation: iso}, ReadTimestamp: now,
		UncertaintyLimit: now.Add(b.clock.MaxOffset())}
	b.mu.Lock()
	binary.BigEndian.PutUint64(c.txn.ID[:], b.rng.Uint64())
	b.mu.Unlock()
	return c
}

// send sends a batch in the transaction, and refreshes and retries where that helps.
func (c *client) send(reqs ...kv.Request) (*kv.BatchResponse, error) {
	for {
		ba := &kv.BatchRequest{Requests: reqs}
		t := *c.txn
		ba.Txn, ba.WaitPolicy = &t, c.wait
		ba.CanForwardReadTimestamp = len(c.reads) == 0
		br, err := c.b.Send(c.ctx, ba)
		if err == nil {
			c.txn.WriteTimestamp.Forward(br.Txn.WriteTimestamp)
			c.txn.ReadTimestamp.Forward(br.Txn.ReadTimestamp)
			return br, nil
		}
		var to hlc.Timestamp
		switch e := err.(type) {
		case *kv.WriteTooOldError:
			to = e.Actual.Next()
		case *kv.UncertaintyError:
			to = e.Existing
		default:
			return nil, err
		}
		if err := c.refresh(to); err != nil {
			return nil, err
		}
	}
}

func (c *client) refresh(to hlc.Timestamp) error {
	from := c.txn.ReadTimestamp
	c.txn.ReadTimestamp.Forward(to)
	c.txn.WriteTimestamp.Forward(to)
	if len(c.reads) == 0 {
		return nil
	}
	ba := &kv.BatchRequest{}
	t := *c.txn
	ba.Txn = &t
	for _, s := range c.reads {
		ba.Requests = append(ba.Requests, &kv.RefreshRequest{Span: s, From: from})
	}
	_, err := c.b.Send(c.ctx, ba)
	return err
}

func (c *client) anchor(key string) {
	if len(c.txn.Key) == 0 {
		c.txn.Key = keys.Key(key)
	}
}

func (c *client) get(key string, lock kv.LockStrength) (*kv.GetResponse, error) {
	if lock != kv.LockNone {
		c.anchor(key)
		c.locks[key] = true
	}
	br, err := c.send(&kv.GetRequest{Key: keys.Key(key), Lock: lock})
	if err != nil {
		return nil, err
	}
	c.reads = append(c.reads, keys.Span{Key: keys.Key(key)})
	return br.Responses[0].(*kv.GetResponse), nil
}

func (c *client) put(key, value string, cond kv.Condition) {
	c.anchor(key)
	c.seq++
	c.puts[key] = &kv.PutRequest{Key: keys.Key(key), Value: []byte(value), Seq: c.seq, Cond: cond}
}

func (c *client) spans() (out []keys.Span) {
	for k := range c.locks {
		out = append(out, keys.Span{Key: keys.Key(k)})
	}
	for k := range c.puts {
		if !c.locks[k] {
			out = append(out, keys.Span{Key: keys.Key(k)})
		}
	}
	return out
}

// commit1 commits in one phase; everything must be in one range.
func (c *client) commit1() (*kv.EndTxnResponse, error) {
	var reqs []kv.Request
	for _, p := range c.puts {
		reqs = append(reqs, p)
	}
	c.anchor("a")
	reqs = append(reqs, &kv.EndTxnRequest{Commit: true, CanCommitInOnePhase: true, AllReadsHere: true, ReadSpans: c.reads, LockSpans: c.spans()})
	br, err := c.send(reqs...)
	if err != nil {
		return nil, err
	}
	end := br.Responses[len(reqs)-1].(*kv.EndTxnResponse)
	c.commitWait(end.CommitTimestamp)
	return end, nil
}

// commitWait waits as the coordinator does (S1): after a lease moved, commits land ahead.
func (c *client) commitWait(ts hlc.Timestamp) {
	if d := time.Duration(ts.WallNanos - c.b.clock.Now().WallNanos); d > 0 {
		time.Sleep(d)
	}
}

// commit2 writes intents and a STAGING record in parallel, then commits explicitly.
func (c *client) commit2() error {
	if len(c.puts) == 0 {
		// What it read may lie ahead of the clock as well: who begins after it comes after it.
		c.commitWait(c.txn.ReadTimestamp)
		return c.rollback() // releases locks
	}
	end := &kv.EndTxnRequest{Commit: true, LockSpans: c.spans()}
	var reqs []kv.Request
	for _, p := range c.puts {
		reqs = append(reqs, p)
		end.InFlight = append(end.InFlight, kv.InFlightWrite{Key: p.Key, Seq: p.Seq})
	}
	staged := c.txn.WriteTimestamp
	br, err := c.send(append(reqs, end)...)
	if err != nil {
		return err
	}
	resp := br.Responses[len(reqs)].(*kv.EndTxnResponse)
	if !resp.Staging {
		c.commitWait(resp.CommitTimestamp)
		return nil
	}
	staged = resp.CommitTimestamp
	if staged.Less(br.Txn.WriteTimestamp) {
		// A write landed above: let recovery decide.
		rec := &kv.Txn{TxnMeta: c.txn.TxnMeta, Status: kv.TxnStaging, InFlight: end.InFlight}
		rec.WriteTimestamp = staged
		got, err := c.b.replicas[0].recoverTxn(c.ctx, rec)
		if err != nil {
			return err
		}
		if got.Status != kv.TxnCommitted {
			c.end(false)
			return &kv.RetryError{Reason: kv.RetrySerializable, Detail: "a write was pushed"}
		}
	}
	c.txn.WriteTimestamp = staged
	c.commitWait(staged)
	c.end(true)
	return nil
}

// end ends explicitly; for tests it need not succeed.
func (c *client) end(commit bool) {
	ba := &kv.BatchRequest{Requests: []kv.Request{&kv.EndTxnRequest{Commit: commit, LockSpans: c.spans()}}}
	t := *c.txn
	ba.Txn = &t
	_, _ = c.b.Send(c.ctx, ba)
}

func (c *client) rollback() error {
	if len(c.txn.Key) > 0 {
		c.end(false)
	}
	return nil
}
