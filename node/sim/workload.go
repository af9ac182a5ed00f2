package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sim/check"
	"github.com/atolldb/atoll/node/txn"
)

const (
	simTable  = 100
	accounts  = 12
	perOwner  = 100 // what each account begins with
	listKeys  = 8
	regKeys   = 4
	opTimeout = 8 * time.Second
	// rotation is after what time the clients go on to new lists and registers, so that
	// they stay short.
	listRotation = 4 * time.Second
	regRotation  = 2 * time.Second
)

func tableKey(kind byte, n, gen int) keys.Key {
	k := append(keys.TablePrefix(simTable), kind, byte(n))
	return binary.BigEndian.AppendUint32(k, uint32(gen))
}

func accountKey(i int) keys.Key { return tableKey('b', i, 0) }

// A list's or register's number holds its place in the key space and its generation.
func listKey(n int) keys.Key { return tableKey('l', n%listKeys, n/listKeys) }
func regKey(n int) keys.Key  { return tableKey('r', n%regKeys, n/regKeys) }

var bankSpan = keys.Span{Key: tableKey('b', 0, 0), EndKey: append(keys.TablePrefix(simTable), 'c')}

// history is what the clients saw.
type history struct {
	mu    sync.Mutex
	rng   *rand.Rand // of pauses
	lists []check.Txn
	regs  []check.RegisterOp
	next  int          // the last value that was written
	used  map[int]bool // lists
	usedR map[int]bool // registers
	past  []pastRead   // the last of them
	stats Stats
}

// Stats say how much a run did.
type Stats struct {
	Committed, Aborted, Unknown, BankReads int
	PastReads                              int // again, at a timestamp where somebody had read before
	Faults                                 map[string]int
	Leases                                 int   // that changed hands
	Snapshots                              int64 // that were asked to be installed
	Merges                                 int   // that were asked for, and made
	Quarantined                            int   // replicas that leaseholders distrusted
}

func (h *history) value() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	return h.next
}

func (h *history) count(o check.Outcome) {
	switch o {
	case check.Committed:
		h.stats.Committed++
	case check.Aborted:
		h.stats.Aborted++
	default:
		h.stats.Unknown++
	}
}

// client runs operations through one node, one after the other.
type client struct {
	s   *sim
	n   *node
	id  int
	rng *rand.Rand
	// reader only reads, and gives up soon: writers of a node that is cut off all wait, and
	// nobody would see what it still serves.
	reader bool
}

// setup makes the accounts and cuts the key space.
func (s *sim) setup() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	h := s.nodes[0].running().host
	err := h.DB.Run(ctx, txn.Options{Name: "setup"}, func(ctx context.Context, t *txn.Txn) error {
		for _, k := range ballast {
			if err := t.Put(ctx, k, []byte("ballast"), kv.Condition{}); err != nil {
				return err
			}
		}
		for i := range accounts {
			if err := t.Put(ctx, accountKey(i), binary.BigEndian.AppendUint64(nil, perOwner), kv.Condition{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sim: making the accounts: %w", err)
	}
	for _, k := range []keys.Key{
		accountKey(accounts / 3), accountKey(2 * accounts / 3), listKey(0), listKey(listKeys / 2), regKey(0),
	} {
		if err := s.split(ctx, h.Sender, k); err != nil {
			return fmt.Errorf("sim: splitting at %s: %w", k, err)
		}
	}
	return nil
}

func (s *sim) split(ctx context.Context, snd kv.Sender, k keys.Key) error {
	_, err := snd.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{&kv.AdminSplitRequest{SplitKey: k, MayMerge: true}}})
	return err
}

func (s *sim) startClients() {
	id := 0
	for _, n := range s.nodes {
		for range s.shape.clients {
			id++
			c := &client{s: s, n: n, id: id, rng: rand.New(rand.NewPCG(s.opts.Seed, uint64(id)))}
			s.clients.Go(c.run)
		}
		c := &client{s: s, n: n, id: 100 + n.place, rng: rand.New(rand.NewPCG(s.opts.Seed, uint64(100+n.place))), reader: true}
		s.clients.Go(c.run)
	}
}

func (c *client) run() {
	for {
		think := c.s.shape.think
		if p := c.n.open(); p == nil {
			think = 50 * time.Millisecond
		} else {
			c.op(p)
		}
		t := time.NewTimer(time.Duration(c.rng.Int64N(int64(2 * think))))
		select {
		case <-t.C:
		case <-c.s.stop:
			t.Stop()
			return
		}
	}
}

func (c *client) op(p *process) {
	n := c.rng.IntN(100)
	if c.reader {
		n = 30 + n%40 // register or list, now and then an audit
	}
	switch {
	case c.reader && n < 40:
		c.list(p)
	case c.reader && n > 66:
		c.audit(p)
	case c.reader:
		c.register(p)
	case n < 30:
		c.list(p)
	case n < 60:
		c.register(p)
	case n < 90:
		c.transfer(p)
	default:
		c.audit(p)
	}
}

// outcome of f, a transaction, on p. What f writes to may be read unless the outcome is
// Unknown: then f may be running still. The time of the answer is read by the caller afterwards:
// a machine that stands still answers later.
func (c *client) outcome(p *process, opts txn.Options, f func(context.Context, *txn.Txn) error) (check.Outcome, error) {
	done := make(chan error, 1)
	c.s.stopping.Go(func() {
		limit := opTimeout
		if c.reader {
			limit = 300 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		done <- p.host.DB.Run(ctx, opts, f)
	})
	var err error
	select {
	case err = <-done:
	case <-p.gone:
	}
	<-c.n.machine.awake()
	var ambiguous *kv.AmbiguousError
	switch {
	case p.dead.Load():
		// The process is gone, or was when it said so.
		return check.Unknown, fmt.Errorf("the node was killed: %w", errors.Join(err, errKilled))
	case err == nil:
		return check.Committed, nil
	case errors.As(err, &ambiguous):
		return check.Unknown, err
	}
	var internal *kv.InternalError
	var invalid *kv.InvalidRequestError
	if (errors.As(err, &internal) || errors.As(err, &invalid)) && !c.s.opts.Unnoticed {
		c.s.fault("client %d on n%d got an answer that should not be: %v", c.id, c.n.num(), err)
	}
	return check.Aborted, err
}

var errKilled = errors.New("killed")

// list runs a transaction of reads and appends on lists.
func (c *client) list(p *process) {
	s := c.s
	gen := int(time.Since(s.trace.start) / listRotation)
	type step struct {
		key, value int // value 0: read
	}
	var steps []step
	for range 1 + c.rng.IntN(4) {
		st := step{key: gen*listKeys + c.rng.IntN(listKeys)}
		if c.rng.IntN(5) < 3 && !c.reader {
			st.value = s.hist.value()
		}
		steps = append(steps, st)
	}
	lock := kv.LockNone
	if c.rng.IntN(3) == 0 {
		lock = kv.LockExclusive
	}
	slow := c.rng.IntN(8) == 0
	rec := check.Txn{Client: c.id, Gateway: int(c.n.num()), Start: time.Now()}
	var ops []check.Op // of the last attempt
	var steplog []string
	var last *txn.Txn
	var err error
	rec.Outcome, err = c.outcome(p, txn.Options{Name: "list"}, func(ctx context.Context, t *txn.Txn) error {
		ops = ops[:0:0]
		last, steplog = t, append(steplog[:0:0], "begin "+t.ReadTimestamp().String())
		for _, st := range steps {
			opts := txn.ReadOptions{}
			if st.value != 0 {
				opts.Lock = lock
			}
			got, err := t.Get(ctx, listKey(st.key), opts)
			if err != nil {
				return err
			}
			steplog = append(steplog, fmt.Sprintf("%s read %d as of %s: version %s", time.Since(s.trace.start), st.key, t.ReadTimestamp(), got.Version))
			list, err := decodeList(got.Value)
			if err != nil {
				return err
			}
			ops = append(ops, check.Op{Key: st.key, List: list})
			if st.value != 0 {
				list = append(append([]int(nil), list...), st.value)
				cond := kv.Condition{}
				if lock != kv.LockNone {
					cond = condOf(t, &got, st.key, ops)
				}
				if err := t.Put(ctx, listKey(st.key), encodeList(list), cond); err != nil {
					return err
				}
				ops = append(ops, check.Op{Key: st.key, Append: true, Value: st.value})
			}
			if slow {
				time.Sleep(20 * time.Millisecond)
			}
		}
		return nil
	})
	rec.End = time.Now()
	if rec.Outcome == check.Committed {
		rec.Ops = ops
		s.trace.add("client %d txn %x committed at %s: %s", c.id, last.ID(), last.CommitTimestamp(), strings.Join(steplog, "; "))
	} else { // what such a transaction read proves nothing
		for _, st := range steps {
			if st.value != 0 {
				rec.Ops = append(rec.Ops, check.Op{Key: st.key, Append: true, Value: st.value})
			}
		}
	}
	s.trace.add("client %d n%d %s err %v", c.id, c.n.num(), rec, err)
	s.hist.mu.Lock()
	defer s.hist.mu.Unlock()
	s.hist.count(rec.Outcome)
	for _, st := range steps {
		s.hist.used[st.key] = true
	}
	s.hist.lists = append(s.hist.lists, rec)
}

// condOf is the condition under which a write may land that rests on a locking read, as SQL
// uses it (SAFETY S26). A key that the transaction has written before has none.
func condOf(_ *txn.Txn, got *kv.GetResponse, key int, ops []check.Op) kv.Condition {
	for _, o := range ops {
		if o.Append && o.Key == key {
			return kv.Condition{}
		}
	}
	return kv.Condition{Check: true, Seen: got.Version}
}

func encodeList(l []int) []byte {
	b := make([]byte, 0, 4*len(l))
	for _, v := range l {
		b = binary.AppendUvarint(b, uint64(v))
	}
	return b
}

func decodeList(b []byte) ([]int, error) {
	var l []int
	for len(b) > 0 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, fmt.Errorf("sim: list of %d bytes is damaged", len(b))
		}
		l, b = append(l, int(v)), b[n:]
	}
	return l, nil
}

// register reads or writes one key.
func (c *client) register(p *process) {
	s := c.s
	n := int(time.Since(s.trace.start)/regRotation)*regKeys + c.rng.IntN(regKeys)
	op := check.RegisterOp{Client: c.id, Key: n, Write: c.rng.IntN(2) == 0 && !c.reader, Call: time.Now()}
	if op.Write {
		op.Value = s.hist.value()
	}
	value, read := op.Value, 0
	o, err := c.outcome(p, txn.Options{Name: "register", ReadOnly: !op.Write}, func(ctx context.Context, t *txn.Txn) error {
		if value != 0 {
			return t.Put(ctx, regKey(n), binary.BigEndian.AppendUint64(nil, uint64(value)), kv.Condition{})
		}
		got, err := t.Get(ctx, regKey(n), txn.ReadOptions{})
		if read = 0; err == nil && got.Exists {
			read = int(binary.BigEndian.Uint64(got.Value))
		}
		return err
	})
	if o == check.Committed {
		op.Return = time.Now()
		if !op.Write {
			op.Value = read
		}
	}
	s.trace.add("client %d n%d register %d write %t value %d: %d err %v", c.id, c.n.num(), n, op.Write, op.Value, o, err)
	s.hist.mu.Lock()
	defer s.hist.mu.Unlock()
	s.hist.count(o)
	s.hist.usedR[n] = true
	if o == check.Committed || o == check.Unknown && op.Write {
		s.hist.regs = append(s.hist.regs, op)
	}
}

// transfer moves money between two accounts.
func (c *client) transfer(p *process) {
	a, b, amount := c.rng.IntN(c.s.shape.hot), c.rng.IntN(c.s.shape.hot), int64(1+c.rng.IntN(20))
	if a == b {
		b = (a + 1) % c.s.shape.hot
	}
	lock := kv.LockNone
	if c.rng.IntN(2) == 0 {
		lock = kv.LockExclusive
	}
	o, err := c.outcome(p, txn.Options{Name: "transfer"}, func(ctx context.Context, t *txn.Txn) error {
		got, err := t.GetMany(ctx, []keys.Key{accountKey(a), accountKey(b)}, txn.ReadOptions{Lock: lock})
		if err != nil {
			return err
		}
		for i, k := range []int{a, b} {
			if len(got[i].Value) != 8 {
				return &kv.InternalError{Detail: fmt.Sprintf("account %d holds %x", k, got[i].Value)}
			}
			v := int64(binary.BigEndian.Uint64(got[i].Value))
			if k == a {
				v -= amount
			} else {
				v += amount
			}
			cond := kv.Condition{}
			if lock != kv.LockNone {
				cond = kv.Condition{Check: true, Seen: got[i].Version}
			}
			if err := t.Put(ctx, accountKey(k), binary.BigEndian.AppendUint64(nil, uint64(v)), cond); err != nil {
				return err
			}
		}
		return nil
	})
	c.s.trace.add("client %d n%d transfer %d from %d to %d: %d err %v", c.id, c.n.num(), amount, a, b, o, err)
	c.s.hist.mu.Lock()
	defer c.s.hist.mu.Unlock()
	c.s.hist.count(o)
}

// pastRead is what all accounts were found to be at a timestamp: whoever reads there again, at
// whichever replica, must find the same (S24).
type pastRead struct {
	ts     hlc.Timestamp
	digest uint64 // of keys, values and versions
	client int
}

// maxPast bounds the reads of the past that may be done again.
const maxPast = 64

// readAgain compares what was read at a timestamp with what somebody found there before, and keeps it
// for others.
func (c *client) readAgain(r pastRead) {
	h := &c.s.hist
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.past {
		if o.ts != r.ts {
			continue
		}
		h.stats.PastReads++
		if o.digest != r.digest {
			c.s.fault("past: client %d on n%d read other accounts as of %s than client %d had read there", c.id, c.n.num(), r.ts, o.client)
		}
		return
	}
	if h.past = append(h.past, r); len(h.past) > maxPast {
		h.past = h.past[1:]
	}
}

// pastTime draws a timestamp of a moment ago, or one where somebody has read.
func (c *client) pastTime() hlc.Timestamp {
	h := &c.s.hist
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.past) > 0 && c.rng.IntN(2) == 0 {
		return h.past[c.rng.IntN(len(h.past))].ts
	}
	return hlc.Timestamp{WallNanos: c.n.machine.wall().Add(-time.Duration(c.rng.IntN(600)) * time.Millisecond).UnixNano()}
}

// audit adds up all accounts, now or as of a moment ago.
func (c *client) audit(p *process) {
	opts := txn.Options{Name: "audit", ReadOnly: true}
	if c.rng.IntN(3) == 0 {
		opts.ReadTimestamp = c.pastTime()
	}
	var sum int64
	var rows int
	var digest uint64
	o, err := c.outcome(p, opts, func(ctx context.Context, t *txn.Txn) error {
		var err error
		sum, rows, digest, err = total(ctx, t)
		return err
	})
	if o == check.Committed && !opts.ReadTimestamp.IsEmpty() {
		c.readAgain(pastRead{opts.ReadTimestamp, digest, c.id})
	}
	if o != check.Committed {
		c.s.trace.add("client %d n%d audit: %d err %v", c.id, c.n.num(), o, err)
	} else {
		c.s.trace.add("client %d n%d audit as of %s: %d in %d accounts", c.id, c.n.num(), opts.ReadTimestamp, sum, rows)
		if sum != accounts*perOwner || rows != accounts {
			c.s.fault("bank: client %d on n%d read %d accounts with %d, want %d with %d (as of %s)", c.id, c.n.num(), rows, sum, accounts, accounts*perOwner, opts.ReadTimestamp)
		}
		c.s.hist.mu.Lock()
		defer c.s.hist.mu.Unlock()
		c.s.hist.stats.BankReads++
	}
}

func total(ctx context.Context, t *txn.Txn) (sum int64, rows int, digest uint64, err error) {
	span := bankSpan
	all := fnv.New64a()
	for {
		res, err := t.Scan(ctx, span, txn.ScanOptions{})
		if err != nil {
			return 0, 0, 0, err
		}
		for _, r := range res.Rows {
			if len(r.Value) != 8 {
				return 0, 0, 0, &kv.InternalError{Detail: fmt.Sprintf("account %s holds %x", r.Key, r.Value)}
			}
			_, _ = fmt.Fprintf(all, "%x=%x@%s ", r.Key, r.Value, r.Version)
			sum += int64(binary.BigEndian.Uint64(r.Value))
			rows++
		}
		if res.Resume == nil {
			return sum, rows, all.Sum64(), nil
		}
		span = *res.Resume
	}
}
