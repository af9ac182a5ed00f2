package txn

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// Limits and their reasons.
const (
	// BufferLimit is how many bytes of writes a transaction keeps before it flushes (S9).
	BufferLimit = 4 << 20
	// PieceLimit bounds the writes of one batch, so that its raft entry stays below 1 MiB (S9)
	// with what intents add; a single large value may go beyond it, up to MaxValueBytes.
	PieceLimit = 768 << 10
	// MaxKeyBytes and MaxValueBytes bound one write. They are package mvcc's limits.
	MaxKeyBytes   = 16 << 10
	MaxValueBytes = 960 << 10
	// MaxInFlight bounds the writes that a STAGING record lists (S9).
	MaxInFlight = 1000
	// DefaultScanBytes bounds the answer of one Scan that names no bound.
	DefaultScanBytes = 4 << 20
	// maxReadBytes bounds the read spans that are kept one by one.
	maxReadBytes = 256 << 10
	maxReadSpans = 4096
	// maxLockSpans bounds the lock spans that are kept one by one.
	maxLockSpans = 4096
	maxLockBytes = 128 << 10
	// maxMoves bounds how often one batch is sent again at a later timestamp.
	maxMoves = 100
	// maxRunAttempts bounds Run.
	maxRunAttempts = 50
	// commitTimeout bounds what comes before a commit is sent, and then the batch that may
	// commit: a statement's cancellation does not reach that one, since half a commit helps
	// nobody.
	commitTimeout = 30 * time.Second
	// commitLockTimeout bounds each wait of that batch for a lock. It is shorter: then the
	// commit has certainly failed.
	commitLockTimeout = 20 * time.Second
	// settleTimeout bounds the search for an outcome after it.
	settleTimeout = 10 * time.Second
	// cleanupTimeout bounds one background resolution.
	cleanupTimeout = 10 * time.Second
	// maxCleanups bounds the background resolutions that run; a transaction that finds all
	// of them taken resolves its own intents before it returns.
	maxCleanups = 256
	// cleanupWorkers bounds the goroutines of background resolutions.
	cleanupWorkers = 32
)

// rangeBounds is what a Sender may offer: the bounds of the range that holds a key, as far
// as it knows. Without it, all keys are taken to lie in one range.
type rangeBounds interface {
	RangeBounds(ctx context.Context, key keys.Key) (keys.Span, error)
}

// Config is what a DB needs. Sender and Clock are required.
type Config struct {
	Sender kv.Sender
	Clock  *hlc.Clock
	// BufferLimit, if not 0, replaces the default (tests).
	BufferLimit int
	// PlantSkipRefresh is a bug that the simulator plants: timestamps move without a look at
	// what was read (breaks S8). A real node never sets it.
	PlantSkipRefresh bool
	Registerer       prometheus.Registerer
	Logger           *slog.Logger
}

// DB makes transactions. It is safe for concurrent use.
type DB struct {
	sender           kv.Sender
	bounds           rangeBounds
	clock            *hlc.Clock
	limit            int
	plantSkipRefresh bool
	log              *slog.Logger
	met              metrics
	hb               heartbeats

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	queue   []func(context.Context)
	workers int
	wg      sync.WaitGroup
}

// NewDB returns a DB. Close ends its background work.
func NewDB(cfg Config) *DB {
	if cfg.Sender == nil || cfg.Clock == nil {
		panic("txn: Config.Sender and Config.Clock are required")
	}
	db := &DB{sender: cfg.Sender, clock: cfg.Clock, limit: cfg.BufferLimit, plantSkipRefresh: cfg.PlantSkipRefresh, log: cfg.Logger}
	db.bounds, _ = cfg.Sender.(rangeBounds)
	if db.limit <= 0 {
		db.limit = BufferLimit
	}
	if db.log == nil {
		db.log = slog.Default()
	}
	db.ctx, db.cancel = context.WithCancel(context.Background())
	db.met.init(cfg.Registerer)
	db.hb.init(db)
	return db
}

// Close stops heartbeats and background resolution and waits for what runs. Intents that
// are left are resolved by whoever meets them (S13).
func (db *DB) Close() {
	db.hb.close()
	db.mu.Lock()
	db.closed, db.queue = true, nil
	db.mu.Unlock()
	db.cancel()
	db.wg.Wait()
}

// Drain waits until the background work that was begun so far is done, or ctx ends.
func (db *DB) Drain(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		db.mu.Lock()
		idle := len(db.queue) == 0 && db.workers == 0
		db.mu.Unlock()
		if idle {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// background runs f soon, or now if too much waits already.
func (db *DB) background(f func(context.Context)) {
	db.mu.Lock()
	switch {
	case db.closed:
		db.mu.Unlock()
		return
	case db.workers < cleanupWorkers:
		db.workers++
		db.wg.Add(1)
		db.mu.Unlock()
		go db.work(f)
		return
	case len(db.queue) < maxCleanups:
		db.queue = append(db.queue, f)
		db.mu.Unlock()
		return
	}
	db.mu.Unlock()
	ctx, cancel := context.WithTimeout(db.ctx, cleanupTimeout)
	defer cancel()
	f(ctx)
}

func (db *DB) work(f func(context.Context)) {
	defer db.wg.Done()
	for {
		ctx, cancel := context.WithTimeout(db.ctx, cleanupTimeout)
		f(ctx)
		cancel()
		db.mu.Lock()
		if len(db.queue) == 0 {
			db.workers--
			db.mu.Unlock()
			return
		}
		f = db.queue[0]
		db.queue[0] = nil
		db.queue = db.queue[1:]
		db.mu.Unlock()
	}
}

// Options say what kind of transaction NewTxn makes.
type Options struct {
	Isolation kv.Isolation
	ReadOnly  bool
	// ReadTimestamp fixes the timestamp of a read-only transaction (AS OF SYSTEM TIME);
	// zero means now.
	ReadTimestamp hlc.Timestamp
	// Deferrable, with ReadOnly and not READ COMMITTED: the snapshot lies above every clock of the
	// cluster, by the largest offset between two, and the first read waits until this node's clock
	// has passed it. So nothing is uncertain, and the transaction never has to be run again because
	// others write what it reads.
	Deferrable bool
	// Name is for error messages.
	Name string
}

// NewTxn begins a transaction. Nothing is sent before its first request.
func (db *DB) NewTxn(opts Options) *Txn {
	t := &Txn{db: db, opts: opts}
	now := db.clock.Now()
	t.begun = now
	t.txn.ID = newID()
	t.txn.Isolation = opts.Isolation
	t.txn.MinTimestamp = now
	t.txn.ReadTimestamp, t.txn.WriteTimestamp = now, now
	t.txn.UncertaintyLimit = now.Add(db.clock.MaxOffset())
	if !opts.ReadTimestamp.IsEmpty() {
		// A fixed timestamp reads the past as it was: nothing there is uncertain.
		ts := opts.ReadTimestamp
		t.txn.ReadTimestamp, t.txn.WriteTimestamp, t.txn.UncertaintyLimit = ts, ts, ts
		t.opts.ReadOnly = true
	}
	t.opts.Deferrable = opts.Deferrable && opts.ReadOnly && opts.ReadTimestamp.IsEmpty() && opts.Isolation != kv.ReadCommitted
	if t.opts.Deferrable {
		// Whatever was acknowledged before lies at or below this.
		ts := t.txn.UncertaintyLimit
		t.txn.ReadTimestamp, t.txn.WriteTimestamp = ts, ts
	}
	return t
}

func newID() (id kv.TxnID) {
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64())
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // RFC 9562, version 4
	return id
}

// IsRetryable reports whether the transaction that failed with err did not happen and may
// succeed when it is run again.
func IsRetryable(err error) bool {
	var (
		retry    *kv.RetryError
		aborted  *kv.AbortedError
		deadlock *kv.DeadlockError
	)
	return errors.As(err, &retry) || errors.As(err, &aborted) || errors.As(err, &deadlock)
}

// Run executes f in a transaction and commits, again and again while that fails with a
// retryable error. f must have no effect outside the transaction. An AmbiguousError is
// returned as it is.
func (db *DB) Run(ctx context.Context, opts Options, f func(context.Context, *Txn) error) error {
	t := db.NewTxn(opts)
	for attempt := 1; ; attempt++ {
		err := f(ctx, t)
		if err == nil {
			if err = t.Commit(ctx); err == nil {
				return nil
			}
		}
		if !IsRetryable(err) {
			_ = t.Rollback(ctx)
			return err
		}
		if attempt == maxRunAttempts {
			_ = t.Rollback(ctx)
			return fmt.Errorf("transaction %q gave up after %d attempts: %w", opts.Name, attempt, err)
		}
		if err := backoff(ctx, attempt); err != nil {
			_ = t.Rollback(ctx)
			return err
		}
		t.Restart()
	}
}

// backoff waits longer with every attempt: not at all at first, 200 ms at most.
func backoff(ctx context.Context, attempt int) error {
	if attempt <= 1 {
		return ctx.Err()
	}
	most := min(time.Millisecond<<min(attempt, 10), 200*time.Millisecond)
	timer := time.NewTimer(most/2 + rand.N(most/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Increment adds delta to the integer at key, outside any transaction, and returns the new
// value. After an AmbiguousError the caller may call again: a step is lost at worst.
func (db *DB) Increment(ctx context.Context, key keys.Key, delta int64) (int64, error) {
	br, err := db.sender.Send(ctx, &kv.BatchRequest{
		Requests: []kv.Request{&kv.IncrementRequest{Key: key, Delta: delta}},
	})
	if err != nil {
		return 0, err
	}
	resp, ok := br.Responses[0].(*kv.IncrementResponse)
	if !ok {
		return 0, &kv.InternalError{Detail: fmt.Sprintf("increment was answered with %T", br.Responses[0])}
	}
	return resp.NewValue, nil
}

// boundsOf returns the bounds of the range that holds key.
func (db *DB) boundsOf(ctx context.Context, key keys.Key) (keys.Span, error) {
	if db.bounds == nil {
		return keys.Span{Key: keys.MinKey, EndKey: keys.MaxKey}, nil
	}
	return db.bounds.RangeBounds(ctx, key)
}
