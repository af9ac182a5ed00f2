package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// sequenceWriter writes numbers in order, one transaction each, and remembers which ones were
// acknowledged and how long the longest silence between two of them was.
type sequenceWriter struct {
	c     *Cluster
	node  int
	table string
	// retry has more SQLSTATEs after which a transaction certainly did not happen.
	retry map[string]bool
	// last is the newest acknowledged number.
	last atomic.Int64

	cancel context.CancelFunc
	done   chan struct{}

	mu        sync.Mutex
	acked     []int64
	gap       time.Duration
	lastAck   time.Time
	retries   int
	ambiguous int
	err       error
}

// StartWriter makes a table and starts a writer through a node. The table has one row per
// number, and a register with the newest one, written in the same transaction.
func (c *Cluster) StartWriter(t testing.TB, node int, table string, retry ...string) *sequenceWriter {
	t.Helper()
	c.Exec(t, node, "CREATE TABLE "+table+" (seq bigint PRIMARY KEY)", "CREATE TABLE "+table+"_newest (id int PRIMARY KEY, seq bigint NOT NULL)",
		"INSERT INTO "+table+"_newest VALUES (1, 0)")
	ctx, cancel := context.WithCancel(context.Background())
	w := &sequenceWriter{c: c, node: node, table: table, cancel: cancel, done: make(chan struct{}), lastAck: time.Now(), retry: map[string]bool{"40001": true, "40P01": true}}
	for _, s := range retry {
		w.retry[s] = true
	}
	conn := c.Connect(t, node)
	go func() {
		defer close(w.done)
		w.run(ctx, conn)
	}()
	t.Cleanup(func() { w.cancel(); <-w.done })
	return w
}

func (w *sequenceWriter) run(ctx context.Context, conn *pgx.Conn) {
	for seq := int64(1); ctx.Err() == nil; seq++ {
		acked, err := w.write(ctx, conn, seq)
		if ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		if err != nil {
			w.err = fmt.Errorf("writing %d through node %d: %w", seq, w.node, err)
			w.mu.Unlock()
			return
		}
		if acked {
			now := time.Now()
			w.gap = max(w.gap, now.Sub(w.lastAck))
			w.lastAck = now
			w.acked = append(w.acked, seq)
			w.last.Store(seq)
		}
		w.mu.Unlock()
	}
}

// write commits a number, and retries what the server says did not happen. It reports false
// if nobody can tell (40003).
func (w *sequenceWriter) write(ctx context.Context, conn *pgx.Conn, seq int64) (bool, error) {
	for {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO "+w.table+" VALUES ($1)", seq); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "UPDATE "+w.table+"_newest SET seq = $1 WHERE id = 1", seq)
			return err
		})
		switch s := sqlState(err); {
		case w.retry[s]:
			w.mu.Lock()
			w.retries++
			w.mu.Unlock()
		case s == "40003":
			w.mu.Lock()
			w.ambiguous++
			w.mu.Unlock()
			return false, nil
		default:
			return err == nil, err
		}
	}
}

// progress waits until this many more numbers are acknowledged.
func (w *sequenceWriter) progress(t testing.TB, more int64, within time.Duration) {
	t.Helper()
	goal := w.last.Load() + more
	eventually(t, within, fmt.Sprintf("%d more commits through node %d", more, w.node), func() string {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.err != nil {
			t.Fatal(w.err)
		}
		if n := w.last.Load(); n < goal {
			return fmt.Sprintf("%d are missing", goal-n)
		}
		return ""
	})
}

// silence returns the longest silence since it was asked last.
func (w *sequenceWriter) silence() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := max(w.gap, time.Since(w.lastAck))
	w.gap = 0
	return g
}

// stop ends the writer, and checks through a node that no acknowledged number is missing and
// that nothing is there which was not written.
func (w *sequenceWriter) stop(t testing.TB, node int) {
	t.Helper()
	w.cancel()
	<-w.done
	if w.err != nil {
		t.Error(w.err)
	}
	w.check(t, node)
}

func (w *sequenceWriter) check(t testing.TB, node int) {
	t.Helper()
	var newest int64
	rows, err := view(w.c, node, func(ctx context.Context, conn *pgx.Conn) (rows []int64, err error) {
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(pgx.Tx) error {
			if err := conn.QueryRow(ctx, "SELECT seq FROM "+w.table+"_newest WHERE id = 1").Scan(&newest); err != nil {
				return err
			}
			rows, err = collect(ctx, conn, "SELECT seq FROM "+w.table+" ORDER BY seq", func(r pgx.Rows, v *int64) error { return r.Scan(v) })
			return err
		})
		return rows, err
	})
	if err != nil {
		t.Fatal(err)
	}
	there := map[int64]bool{}
	for _, v := range rows {
		if there[v] {
			t.Errorf("%d is there twice", v)
		}
		there[v] = true
	}
	missing := 0
	for _, v := range w.acked {
		if !there[v] {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d acknowledged commits of %s are gone", missing, len(w.acked), w.table)
	}
	// Beyond what was acknowledged there is only what was ambiguous, and the one in flight at the end.
	if extra := len(there) - (len(w.acked) - missing); extra > w.ambiguous+1 {
		t.Errorf("%d rows were never acknowledged; %d were ambiguous", extra, w.ambiguous)
	}
	if len(rows) > 0 && newest != rows[len(rows)-1] {
		t.Errorf("the register holds %d, the newest row is %d: a transaction is there by half", newest, rows[len(rows)-1])
	}
	t.Logf("%d acknowledged, %d retried, %d ambiguous", len(w.acked), w.retries, w.ambiguous)
}

// registerReader reads the register through a node again and again. No read that begins after
// a number was acknowledged may return an older one.
type registerReader struct {
	node   int
	cancel context.CancelFunc
	done   chan struct{}

	ok, failed atomic.Int64

	mu      sync.Mutex
	stale   []string
	lastErr error
}

// readLimit bounds one read: longer than any pause, so that a read which waits in a frozen
// node is answered by it.
const readLimit = 30 * time.Second

// StartReader starts reading what a writer writes. statementTimeout is SET on the session.
func (c *Cluster) StartReader(t testing.TB, node int, w *sequenceWriter, statementTimeout string) *registerReader {
	ctx, cancel := context.WithCancel(context.Background())
	r := &registerReader{node: node, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.run(ctx, c, w, statementTimeout)
	}()
	t.Cleanup(func() { cancel(); <-r.done })
	return r
}

func (r *registerReader) run(ctx context.Context, c *Cluster, w *sequenceWriter, statementTimeout string) {
	var conn *pgx.Conn
	fail := func(err error) {
		r.failed.Add(1)
		r.mu.Lock()
		r.lastErr = err
		r.mu.Unlock()
		if conn != nil && conn.IsClosed() {
			conn = nil
		}
		select { // a dead node refuses at once
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	defer func() {
		if conn != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = conn.Close(ctx)
		}
	}()
	for ctx.Err() == nil {
		rctx, cancel := context.WithTimeout(ctx, readLimit)
		if conn == nil {
			var err error
			conn, err = pgx.Connect(rctx, c.DSN(r.node))
			if err == nil {
				_, err = conn.Exec(rctx, "SET statement_timeout = '"+statementTimeout+"'")
			}
			if err != nil {
				fail(err)
			}
			cancel()
			continue
		}
		low := w.last.Load()
		var got int64
		err := conn.QueryRow(rctx, "SELECT seq FROM "+w.table+"_newest WHERE id = 1").Scan(&got)
		cancel()
		switch {
		case err != nil:
			fail(err)
		case got < low:
			r.mu.Lock()
			r.stale = append(r.stale, fmt.Sprintf("read %d after %d was acknowledged", got, low))
			r.mu.Unlock()
		default:
			r.ok.Add(1)
		}
	}
}

// stop ends the reader and reports stale reads.
func (r *registerReader) stop(t testing.TB) {
	t.Helper()
	r.cancel()
	<-r.done
	if len(r.stale) > 0 {
		t.Errorf("node %d: %d stale reads, first: %s", r.node, len(r.stale), r.stale[0])
	}
	t.Logf("node %d: %d reads, %d failed (last: %v)", r.node, r.ok.Load(), r.failed.Load(), r.lastErr)
}

// disconnect is how a client learned that its node is gone.
type disconnect struct {
	at  time.Time
	err error
}

// watchClient keeps a client's connection to a node busy, or idle, and tells when it breaks.
func (c *Cluster) watchClient(t testing.TB, node int, idle bool) <-chan disconnect {
	t.Helper()
	conn := c.Connect(t, node)
	out := make(chan disconnect, 1)
	go func() {
		var err error
		if idle {
			// Reads until the server says something without being asked: that it goes.
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			_, err = conn.WaitForNotification(ctx)
			cancel()
		}
		for !idle && err == nil {
			_, err = conn.Exec(context.Background(), "SELECT 1")
		}
		out <- disconnect{time.Now(), err}
	}()
	return out
}

// goodbye says whether an error is what a client may see of a node that is gone: 57P01, or a
// closed connection (08006).
func goodbye(err error) bool {
	if s := sqlState(err); s != "" {
		return s == "57P01"
	}
	var timeout interface{ Timeout() bool }
	return err != nil && !errors.Is(err, context.DeadlineExceeded) && !(errors.As(err, &timeout) && timeout.Timeout()) && !errors.Is(err, pgx.ErrNoRows) && !pgconn.Timeout(err)
}

// sqlState returns an error's SQLSTATE; "" for an error that did not come from the server.
func sqlState(err error) string {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return pe.Code
	}
	return ""
}
