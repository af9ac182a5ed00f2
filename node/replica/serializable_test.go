package replica

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// op is a finished transaction of the history: every key's value is the list of the
// transactions that appended to it, so that what it saw tells the order.
type op struct {
	id       int
	start    time.Time
	end      time.Time
	saw      map[string]string // key -> list before
	appended []string
	unknown  bool // may or may not have happened
}

// history checks strict serializability: no cycle of write-read, write-write, read-write and
// real-time dependencies.
type history struct {
	mu  sync.Mutex
	ops []*op
}

func (h *history) add(o *op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
}

func list(s string) []string {
	if s == "" || s == "-" {
		return nil
	}
	return strings.Split(s, ",")
}

func (h *history) check(final map[string]string) error {
	byID := map[string]*op{}
	for _, o := range h.ops {
		byID[strconv.Itoa(o.id)] = o
	}
	type edge struct {
		to  *op
		why string
	}
	edges := map[*op][]edge{}
	add := func(a, b *op, why string) {
		if a != nil && b != nil && a != b {
			edges[a] = append(edges[a], edge{b, why})
		}
	}
	happened := map[*op]bool{}
	pos := map[string]map[string]int{} // key -> id -> index
	for k, v := range final {
		pos[k] = map[string]int{}
		ids := list(v)
		for i, id := range ids {
			if _, dup := pos[k][id]; dup {
				return fmt.Errorf("key %s: %s appears twice in %s", k, id, v)
			}
			pos[k][id] = i
			if byID[id] == nil {
				return fmt.Errorf("key %s holds %s, of a transaction that failed", k, id)
			}
			happened[byID[id]] = true
			if i > 0 {
				add(byID[ids[i-1]], byID[id], "ww "+k)
			}
		}
	}
	for _, o := range h.ops {
		if o.unknown && !happened[o] {
			continue
		}
		id := strconv.Itoa(o.id)
		for _, k := range o.appended {
			if _, ok := pos[k][id]; !ok {
				return fmt.Errorf("key %s lost the write of %s: %s", k, id, final[k])
			}
		}
		for k, v := range o.saw {
			ids, all := list(v), list(final[k])
			if len(ids) > len(all) || strings.Join(all[:len(ids)], ",") != strings.Join(ids, ",") {
				return fmt.Errorf("transaction %s saw %s = %q, which is no prefix of %q", id, k, v, final[k])
			}
			if len(ids) > 0 {
				add(byID[ids[len(ids)-1]], o, "wr "+k)
			}
			if len(ids) < len(all) {
				add(o, byID[all[len(ids)]], "rw "+k)
			}
		}
	}
	// Real time: what ended before another began comes before it.
	for _, a := range h.ops {
		if a.unknown {
			continue
		}
		for _, b := range h.ops {
			if a.end.Before(b.start) && (!b.unknown || happened[b]) {
				add(a, b, "time")
			}
		}
	}
	const grey, black = 1, 2
	color := map[*op]int{}
	var path []string
	var visit func(o *op) error
	visit = func(o *op) error {
		color[o] = grey
		for _, e := range edges[o] {
			path = append(path, fmt.Sprintf("%d -%s-> %d", o.id, e.why, e.to.id))
			if color[e.to] == grey {
				return fmt.Errorf("cycle: %s", strings.Join(path[max(0, len(path)-12):], "; "))
			}
			if color[e.to] == 0 {
				if err := visit(e.to); err != nil {
					return err
				}
			}
			path = path[:len(path)-1]
		}
		color[o] = black
		return nil
	}
	sort.Slice(h.ops, func(i, j int) bool { return h.ops[i].id < h.ops[j].id })
	for _, o := range h.ops {
		if color[o] == 0 {
			if err := visit(o); err != nil {
				return err
			}
		}
	}
	return nil
}

// workload runs random transactions.
type workload struct {
	b     *bed
	keys  []string
	multi bool // over several ranges: parallel commits
	h     history
	rng   *rand.Rand
	mu    sync.Mutex
	id    int
	done  int
	fails map[string]int
}

func (w *workload) intn(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

func (w *workload) transaction() {
	w.mu.Lock()
	w.id++
	o := &op{id: w.id, start: time.Now(), saw: map[string]string{}}
	w.mu.Unlock()
	c := w.b.begin(kv.Serializable)
	stop := make(chan struct{})
	defer close(stop)
	err := w.steps(c, o)
	o.end = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e := err.(type) {
	case nil:
		w.done++
		w.h.add(o)
	case *kv.AmbiguousError:
		o.unknown = true
		w.h.add(o)
	default:
		w.fails[fmt.Sprintf("%T", e)]++
		if u, ok := e.(*kv.UnavailableError); ok {
			w.fails[u.Error()]++
		}
		if r, ok := e.(*kv.RetryError); ok {
			w.fails[r.Reason.String()]++
		}
	}
}

func (w *workload) steps(c *client, o *op) (err error) {
	defer func() {
		if _, unknown := err.(*kv.AmbiguousError); err != nil && !unknown {
			_ = c.rollback()
		}
	}()
	n := 1 + w.intn(4)
	picked := map[string]bool{}
	for range n {
		k := w.keys[w.intn(len(w.keys))]
		if picked[k] {
			continue
		}
		picked[k] = true
		switch w.intn(10) {
		case 0, 1, 2: // read
			g, err := c.get(k, kv.LockNone)
			if err != nil {
				return err
			}
			o.saw[k] = string(g.Value)
		case 3: // scan
			br, err := c.send(&kv.ScanRequest{Span: keys.Span{Key: keys.Key(k), EndKey: append(keys.Key(k), 0)}})
			if err != nil {
				return err
			}
			c.reads = append(c.reads, keys.Span{Key: keys.Key(k), EndKey: append(keys.Key(k), 0)})
			o.saw[k] = ""
			for _, row := range br.Responses[0].(*kv.ScanResponse).Rows {
				o.saw[k] = string(row.Value)
			}
		case 4: // append after a read without a lock: the condition decides
			g, err := c.get(k, kv.LockNone)
			if err != nil {
				return err
			}
			w.appendTo(c, o, k, g)
		default: // append under a lock
			g, err := c.get(k, kv.LockExclusive)
			if err != nil {
				return err
			}
			w.appendTo(c, o, k, g)
		}
		if w.intn(3) == 0 {
			time.Sleep(time.Duration(w.intn(3000)) * time.Microsecond)
		}
	}
	if w.multi {
		return c.commit2()
	}
	_, err = c.commit1()
	return err
}

func (w *workload) appendTo(c *client, o *op, k string, g *kv.GetResponse) {
	o.saw[k] = string(g.Value)
	o.appended = append(o.appended, k)
	v := strconv.Itoa(o.id)
	if len(g.Value) > 0 {
		v = string(g.Value) + "," + v
	}
	c.put(k, v, kv.Condition{Check: true, Seen: g.Version})
}

func seeds(t *testing.T, n int) (from, to uint64) {
	if s := os.Getenv("SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
		return v, v + 1
	}
	if testing.Short() {
		n = max(1, n/4)
	}
	return 1, uint64(n) + 1
}

func runWorkload(t *testing.T, seed uint64, multi bool, faults bool) {
	defer func() {
		if t.Failed() {
			t.Logf("SEED=%d", seed)
		}
	}()
	var splits []string
	if multi {
		splits = []string{"c", "e"}
	}
	b := newBed(t, Limits{}, splits...)
	b.rng = rand.New(rand.NewPCG(seed, 77))
	w := &workload{b: b, keys: []string{"a", "b", "c", "d", "e", "f"}, multi: multi, rng: rand.New(rand.NewPCG(seed, 1)), fails: map[string]int{}}
	for _, g := range b.groups {
		g.delay = func() time.Duration { return time.Duration(w.intn(2000)) * time.Microsecond }
	}
	time.Sleep(3 * time.Second)
	deadline := time.Now().Add(3 * time.Second)
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			for time.Now().Before(deadline) {
				w.transaction()
			}
		})
	}
	if faults {
		wg.Go(func() {
			for time.Now().Before(deadline) {
				time.Sleep(time.Duration(50+w.intn(400)) * time.Millisecond)
				b.newTerm(w.intn(len(b.groups)))
			}
		})
	}
	wg.Wait()
	final := map[string]string{}
	for _, k := range w.keys {
		final[k] = b.getNow(k)
	}
	require.NoError(t, w.h.check(final))
	require.Greater(t, w.done, 15, "progress: %v", w.fails)
	time.Sleep(20 * time.Second) // everything is resolved and expired by then
	for i, r := range b.replicas {
		_, err := r.CleanupTxns(context.Background(), 10_000)
		require.NoError(t, err)
		time.Sleep(time.Second)
		recs, err := r.oldRecords(1000)
		require.NoError(t, err)
		require.Empty(t, recs, "range %d keeps records", i)
		require.Zero(t, r.tenure.Load().latches.Held())
	}
	t.Logf("seed %d: %d committed, failed %v, pushes %d", seed, w.done, w.fails, b.count("PushTxn"))
}

func TestSerializableOneRange(t *testing.T) {
	from, to := seeds(t, 8)
	for seed := from; seed < to; seed++ {
		bubble(t, func(t *testing.T) { runWorkload(t, seed, false, seed%2 == 0) })
	}
}

func TestSerializableManyRanges(t *testing.T) {
	from, to := seeds(t, 8)
	for seed := from; seed < to; seed++ {
		bubble(t, func(t *testing.T) { runWorkload(t, seed, true, seed%2 == 0) })
	}
}

// The checker must bite.
func TestHistoryChecker(t *testing.T) {
	at := time.Unix(0, 0)
	h := &history{ops: []*op{
		{id: 1, start: at, end: at.Add(10), saw: map[string]string{"a": "", "b": ""}, appended: []string{"a"}},
		{id: 2, start: at, end: at.Add(10), saw: map[string]string{"a": "", "b": ""}, appended: []string{"b"}},
	}}
	require.ErrorContains(t, h.check(map[string]string{"a": "1", "b": "2"}), "cycle", "write skew")
	h.ops[1].saw["a"] = "1"
	require.NoError(t, h.check(map[string]string{"a": "1", "b": "2"}))
	require.ErrorContains(t, h.check(map[string]string{"a": "1", "b": ""}), "lost")
	_ = hlc.Timestamp{}
}
