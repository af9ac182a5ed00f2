package txn_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/kv/dist"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
	"github.com/atolldb/atoll/node/txn"
)

// house is real replicas over real storage, on two nodes that share one engine, with a
// raft group that only applies; and the DistSender and coordinator of both nodes.
type house struct {
	t      *testing.T
	engine *storage.StateEngine
	clock  *hlc.Clock
	rng    *rand.Rand

	mu       sync.Mutex
	replicas map[keys.RangeID]*member
	lossy    bool
	senders  [3]*dist.DistSender
	dbs      [3]*txn.DB
}

type member struct {
	r    *replica.Replica
	g    *group
	home keys.NodeID
}

// group applies commands after a delay; it can lose its lease.
type group struct {
	h        *house
	node     keys.NodeID
	mu       sync.Mutex
	term     uint64
	valid    bool
	outcomes map[[16]byte][]byte
	index    uint64
}

func (g *group) Lease() replica.LeaseStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	return replica.LeaseStatus{Valid: g.valid, Term: g.term, ReadLimit: g.h.clock.Now().Add(500 * time.Millisecond), Leader: g.node}
}

func (g *group) Propose(_ context.Context, cmd *raftcmd.Command) (replica.Result, error) {
	time.Sleep(g.h.random(2 * time.Millisecond))
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.valid || cmd.Term != g.term {
		return replica.Result{}, fmt.Errorf("%w: no lease", replica.ErrRejected)
	}
	g.index++
	if _, ok := g.outcomes[cmd.ID]; ok && cmd.ID != ([16]byte{}) {
		return replica.Result{Index: g.index, Duplicate: true}, nil
	}
	g.outcomes[cmd.ID] = cmd.Outcome
	if len(cmd.Batch) > 0 {
		if err := g.h.engine.ApplyRepr(cmd.Batch, nil); err != nil {
			return replica.Result{}, err
		}
	}
	return replica.Result{Index: g.index}, nil
}

func (g *group) LookupCommand(id [16]byte) ([]byte, bool, int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	out, ok := g.outcomes[id]
	return out, ok, 0 // nothing is forgotten
}

func (h *house) random(most time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Duration(h.rng.Int64N(int64(most)))
}

// store is a node's local sender.
type store struct {
	h    *house
	node keys.NodeID
}

func (s store) Send(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	s.h.mu.Lock()
	m := s.h.replicas[ba.RangeID]
	s.h.mu.Unlock()
	if m == nil {
		return nil, &kv.RangeNotFoundError{RangeID: ba.RangeID, Node: s.node}
	}
	if m.home != s.node {
		return nil, &kv.NotLeaseholderError{RangeID: ba.RangeID, Leaseholder: m.home}
	}
	return m.r.Send(ctx, ba)
}

func newHouse(t *testing.T, seed uint64, splits ...string) *house {
	engine, err := storage.OpenState(storage.StateOptions{Dir: "state", FS: storage.MemFS(), Small: true})
	require.NoError(t, err)
	h := &house{t: t, engine: engine, rng: rand.New(rand.NewPCG(seed, 9)), replicas: map[keys.RangeID]*member{}}
	h.clock = hlc.NewClock(time.Now, 250*time.Millisecond)
	var descs []kv.RangeDescriptor
	start := keys.MinKey
	for i, end := range append(append([]string{string(keys.MetaMax)}, splits...), string(keys.MaxKey)) {
		descs = append(descs, kv.RangeDescriptor{RangeID: keys.RangeID(i + 1), Start: start, End: keys.Key(end), Generation: 1,
			Replicas: []kv.ReplicaDescriptor{{Node: 1, Replica: 1}, {Node: 2, Replica: 2}}})
		start = keys.Key(end)
	}
	for n := keys.NodeID(1); n <= 2; n++ {
		h.senders[n], err = dist.New(dist.Config{
			Clock: h.clock, Self: n, Local: store{h, n}, Caller: dist.CallerFunc(h.call),
			MetaSeed: func() (kv.RangeDescriptor, bool) { return descs[0], true },
		})
		require.NoError(t, err)
		h.dbs[n] = txn.NewDB(txn.Config{Sender: h.senders[n], Clock: h.clock})
	}
	for i, d := range descs {
		home := keys.NodeID(i%2 + 1)
		g := &group{h: h, node: home, term: 1, valid: true, outcomes: map[[16]byte][]byte{}}
		r := replica.New(replica.Config{Desc: d, Node: home, Group: g, Engine: engine, Clock: h.clock, Sender: h.senders[home]})
		r.OnLease(1, hlc.Timestamp{})
		h.replicas[d.RangeID] = &member{r, g, home}
	}
	for i := range descs {
		_, err := h.senders[1].Send(context.Background(), &kv.BatchRequest{Requests: []kv.Request{
			&kv.PutRequest{Key: keys.Meta(descs[i].End), Value: kv.EncodeRangeDescriptor(nil, &descs[i])}}})
		require.NoError(t, err)
	}
	return h
}

func (h *house) close() {
	for _, db := range h.dbs[1:] {
		db.Close()
	}
	for _, m := range h.replicas {
		m.r.Close()
	}
	require.NoError(h.t, h.engine.Close())
}

// call is the network: slow, and lossy if told.
func (h *house) call(ctx context.Context, to keys.NodeID, payload []byte) ([]byte, error) {
	time.Sleep(h.random(time.Millisecond))
	lose := func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.lossy && h.rng.IntN(20) == 0 {
			return errors.New("connection lost")
		}
		return nil
	}
	if err := lose(); err != nil {
		return nil, err
	}
	reply := dist.Serve(ctx, store{h, to}, payload)
	return reply, lose()
}

// newTerm moves a range's lease away and back.
func (h *house) newTerm(id keys.RangeID) {
	m := h.replicas[id]
	m.g.mu.Lock()
	m.g.valid = false
	m.g.mu.Unlock()
	m.r.OnLeaseLost()
	time.Sleep(5 * time.Millisecond)
	m.g.mu.Lock()
	m.g.term++
	m.g.valid = true
	term := m.g.term
	m.g.mu.Unlock()
	m.r.OnLease(term, h.clock.Now().Add(500*time.Millisecond))
}

func inHouse(t *testing.T, seed uint64, f func(t *testing.T, h *house), splits ...string) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, seed, splits...)
		defer h.close()
		f(t, h)
	})
}

// appendTxn is one transaction of a list-append history.
type appendTxn struct {
	id         int
	saw        map[string]string
	wrote      map[string]bool
	unknown    bool
	start, end time.Time
}

// TestListAppend checks histories over several ranges and two gateways for strict
// serializability: what each transaction read orders them, and the order has no cycle.
func TestListAppend(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inHouse(t, seed, func(t *testing.T, h *house) { listAppend(t, h, seed) }, "k2", "k4")
		})
	}
}

func listAppend(t *testing.T, h *house, seed uint64) {
	const workers, rounds, nkeys = 6, 12, 6
	h.lossy = seed%3 == 1
	ctx := context.Background()
	var mu sync.Mutex
	var done []*appendTxn
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			for i := range rounds {
				a := &appendTxn{id: 1 + w*rounds + i, start: time.Now()}
				err := h.dbs[1+rng.IntN(2)].Run(ctx, txn.Options{Name: "append"}, func(ctx context.Context, tx *txn.Txn) error {
					a.saw, a.wrote = map[string]string{}, map[string]bool{}
					return appendOnce(ctx, tx, a, rng, nkeys)
				})
				a.end = time.Now()
				var ambiguous *kv.AmbiguousError
				if a.unknown = errors.As(err, &ambiguous); err != nil && !a.unknown {
					if !txn.IsRetryable(err) {
						t.Errorf("seed %d: %v", seed, err)
					}
					continue
				}
				mu.Lock()
				done = append(done, a)
				mu.Unlock()
			}
		})
	}
	if seed%3 == 2 {
		wg.Go(func() {
			for i := range 6 {
				time.Sleep(h.random(40 * time.Millisecond))
				h.newTerm(keys.RangeID(2 + i%3))
			}
		})
	}
	wg.Wait()
	h.mu.Lock()
	h.lossy = false
	h.mu.Unlock()
	final := map[string][]string{}
	require.NoError(t, h.dbs[1].Run(ctx, txn.Options{}, func(ctx context.Context, tx *txn.Txn) error {
		r, err := tx.Scan(ctx, keys.Span{Key: keys.Key("k"), EndKey: keys.Key("l")}, txn.ScanOptions{})
		for _, row := range r.Rows {
			final[string(row.Key)] = strings.Split(string(row.Value), ",")
		}
		return err
	}))
	checkSerializable(t, done, final)
	for _, db := range h.dbs[1:] {
		require.NoError(t, db.Drain(ctx))
	}
}

// appendOnce reads two or three keys and appends to some of them.
func appendOnce(ctx context.Context, tx *txn.Txn, a *appendTxn, rng *rand.Rand, nkeys int) error {
	for range 2 + rng.IntN(2) {
		k := fmt.Sprint("k", rng.IntN(nkeys))
		if a.wrote[k] {
			continue
		}
		opts := txn.ReadOptions{}
		if rng.IntN(3) == 0 {
			opts.Lock = kv.LockExclusive
		}
		tx.Step()
		r, err := tx.Get(ctx, keys.Key(k), opts)
		if err != nil {
			return err
		}
		a.saw[k] = string(r.Value)
		if rng.IntN(2) == 0 {
			continue
		}
		v := strconv.Itoa(a.id)
		if r.Exists {
			v = string(r.Value) + "," + v
		}
		cond := kv.Condition{}
		if rng.IntN(2) == 0 {
			cond = kv.Condition{Check: true, Seen: r.Version}
		}
		if err := tx.Put(ctx, keys.Key(k), []byte(v), cond); err != nil {
			return err
		}
		a.wrote[k] = true
	}
	return nil
}

func checkSerializable(t *testing.T, done []*appendTxn, final map[string][]string) {
	at := map[string]map[string]int{}
	for k, ids := range final {
		at[k] = map[string]int{}
		for i, id := range ids {
			require.NotContains(t, at[k], id, "%s is twice in %s", id, k)
			at[k][id] = i
		}
	}
	byID := map[string]*appendTxn{}
	for _, a := range done {
		byID[strconv.Itoa(a.id)] = a
	}
	edges := map[*appendTxn][]*appendTxn{}
	for _, a := range done {
		id := strconv.Itoa(a.id)
		happened := true
		for k := range a.wrote {
			_, there := at[k][id]
			happened = happened && there
			require.True(t, there || a.unknown, "acknowledged append of %s to %s is gone", id, k)
		}
		if a.unknown && !happened {
			for k := range a.wrote {
				require.NotContains(t, at[k], id, "half of %s happened", id)
			}
			continue
		}
		for k, saw := range a.saw {
			n := 0
			if saw != "" {
				n = len(strings.Split(saw, ","))
				require.Equal(t, strings.Join(final[k][:n], ","), saw, "%s read a list of %s that never was", id, k)
				edges[byID[final[k][n-1]]] = append(edges[byID[final[k][n-1]]], a)
			}
			if n < len(final[k]) && final[k][n] == id {
				n++
			}
			if n < len(final[k]) {
				edges[a] = append(edges[a], byID[final[k][n]])
			}
		}
		for _, b := range done {
			if a.end.Before(b.start) && !a.unknown {
				edges[a] = append(edges[a], b)
			}
		}
	}
	state := map[*appendTxn]int{}
	var visit func(a *appendTxn, path []int)
	visit = func(a *appendTxn, path []int) {
		if a == nil || state[a] == 2 {
			return
		}
		path = append(path, a.id)
		if state[a] == 1 {
			t.Fatalf("not serializable: cycle %v", path)
		}
		state[a] = 1
		for _, b := range edges[a] {
			if b != a {
				visit(b, path)
			}
		}
		state[a] = 2
	}
	for _, a := range done {
		visit(a, nil)
	}
}

// TestHotRow is pgbench at scale 1: many clients lock and update one row among others. No
// transaction may fail.
func TestHotRow(t *testing.T) {
	for _, split := range []string{"zz", "t"} {
		inHouse(t, 1, func(t *testing.T, h *house) {
			ctx := context.Background()
			const clients, rounds = 16, 5
			one := func(db *txn.DB, client int) error {
				tx := db.NewTxn(txn.Options{})
				for _, k := range []string{fmt.Sprint("account", client), fmt.Sprint("teller", client%4), "branch"} {
					tx.Step()
					r, err := tx.Get(ctx, keys.Key(k), txn.ReadOptions{Lock: kv.LockExclusive})
					if err != nil {
						return fmt.Errorf("get %s: %w", k, err)
					}
					n, _ := strconv.Atoi(string(r.Value))
					if err := tx.Put(ctx, keys.Key(k), []byte(strconv.Itoa(n+1)), kv.Condition{Check: true, Seen: r.Version}); err != nil {
						return err
					}
				}
				tx.Step()
				if err := tx.Put(ctx, keys.Key(fmt.Sprintf("history%d-%s", client, tx.ID())), nil, kv.Condition{}); err != nil {
					return err
				}
				if err := tx.Commit(ctx); err != nil {
					return fmt.Errorf("commit: %w", err)
				}
				return nil
			}
			var wg sync.WaitGroup
			start := time.Now()
			for c := range clients {
				wg.Go(func() {
					for range rounds {
						if err := one(h.dbs[1+c%2], c); err != nil {
							t.Errorf("split at %s: %v", split, err)
						}
					}
				})
			}
			wg.Wait()
			t.Logf("split at %s: %d transactions in %s", split, clients*rounds, time.Since(start))
			tx := h.dbs[1].NewTxn(txn.Options{})
			r, err := tx.Get(ctx, keys.Key("branch"), txn.ReadOptions{})
			require.NoError(t, err)
			require.Equal(t, strconv.Itoa(clients*rounds), string(r.Value))
		}, split)
	}
}

// TestLargeTransaction flushes intents over ranges and reads them back before the commit.
func TestLargeTransaction(t *testing.T) {
	inHouse(t, 1, func(t *testing.T, h *house) {
		ctx := context.Background()
		tx := h.dbs[1].NewTxn(txn.Options{})
		value := make([]byte, 50<<10)
		for i := range 200 {
			if i == 100 {
				sp := tx.Savepoint()
				require.NoError(t, tx.Put(ctx, keys.Key("a0000"), value, kv.Condition{}))
				require.NoError(t, tx.RollbackTo(ctx, sp))
			}
			require.NoError(t, tx.Put(ctx, keys.Key(fmt.Sprintf("k%04d", i)), value, kv.Condition{Check: true, MustBeAbsent: true}))
		}
		count := func(tx *txn.Txn) (n int) {
			for span := (keys.Span{Key: keys.Key("a"), EndKey: keys.Key("l")}); ; {
				r, err := tx.Scan(ctx, span, txn.ScanOptions{})
				require.NoError(t, err)
				if n += len(r.Rows); r.Resume == nil {
					return n
				}
				span = *r.Resume
			}
		}
		require.Equal(t, 200, count(tx))
		require.NoError(t, tx.Commit(ctx))
		require.Equal(t, 200, count(h.dbs[2].NewTxn(txn.Options{})))
		require.ErrorAs(t, h.dbs[2].Run(ctx, txn.Options{}, func(ctx context.Context, tx *txn.Txn) error {
			return tx.Put(ctx, keys.Key("k0001"), nil, kv.Condition{Check: true, MustBeAbsent: true, Seen: hlc.MaxTimestamp})
		}), new(*kv.ConditionFailedError))
	}, "k0080")
}
