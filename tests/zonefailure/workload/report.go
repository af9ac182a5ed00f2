package workload

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// gap measures the longest time without an answer to any writer of one connection.
type gap struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration
}

func (g *gap) answered(at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.last.IsZero() {
		g.longest = max(g.longest, at.Sub(g.last))
	}
	g.last = at
}

// take returns the longest gap since it was last taken, one that has not ended included.
func (g *gap) take(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := max(g.longest, now.Sub(g.last))
	g.longest = 0
	return d
}

// Gaps returns, by connection, the longest time in which no writer had an answer, and begins anew.
func (w *Workload) Gaps() map[string]time.Duration {
	out := map[string]time.Duration{}
	now := time.Now()
	for name, g := range w.gaps {
		out[name] = g.take(now)
	}
	return out
}

// Acknowledged returns how many writes were acknowledged so far.
func (w *Workload) Acknowledged() int64 {
	var n int64
	for _, r := range w.registers {
		n += r.acked.Load()
	}
	return n
}

// Report is what a workload saw. It holds if Faults is empty.
type Report struct {
	Acknowledged, Reads, Errors int64
	// Faults are broken promises; no more than twenty are kept.
	Faults []string
	// LastErrors are by connection; errors are no faults, clients of a lost zone have them.
	LastErrors map[string]string
}

func (r *Report) String() string {
	s := fmt.Sprintf("%d writes acknowledged, %d reads, %d errors", r.Acknowledged, r.Reads, r.Errors)
	if len(r.LastErrors) > 0 {
		s += fmt.Sprintf(" (the last ones: %v)", r.LastErrors)
	}
	if len(r.Faults) > 0 {
		s += "\n  " + strings.Join(r.Faults, "\n  ")
	}
	return s
}

// Finish ends the clients, reads everything back in one snapshot and judges. The error says that
// it could not be read; the report then holds what the clients saw.
func (w *Workload) Finish(ctx context.Context) (*Report, error) {
	w.cancel()
	w.wg.Wait()
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Verify)
	defer cancel()
	err := w.anywhere(ctx, w.judge)
	w.mu.Lock()
	defer w.mu.Unlock()
	return &Report{Acknowledged: w.Acknowledged(), Reads: w.reads.Load(), Errors: w.errors.Load(), Faults: w.faults, LastErrors: w.last}, err
}

// Drop removes the workload's tables and schema. Call it after Finish, when nobody wants to look at them.
func (w *Workload) Drop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Verify)
	defer cancel()
	s := pgx.Identifier{w.cfg.Schema}.Sanitize()
	return w.anywhere(ctx, func(ctx context.Context, c *pgx.Conn) error {
		for _, stmt := range []string{"DROP TABLE IF EXISTS " + s + ".registers", "DROP TABLE IF EXISTS " + s + ".journal", "DROP SCHEMA IF EXISTS " + s} {
			if _, err := c.Exec(ctx, stmt); err != nil {
				return fmt.Errorf("%s: %w", stmt, err)
			}
		}
		return nil
	})
}

// judge compares one snapshot of both tables with what the writers know.
func (w *Workload) judge(ctx context.Context, c *pgx.Conn) error {
	s := pgx.Identifier{w.cfg.Schema}.Sanitize()
	tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	rows, err := collect(ctx, tx, "SELECT id, v FROM "+s+".registers")
	if err != nil {
		return err
	}
	journal, err := collect(ctx, tx, "SELECT writer, v FROM "+s+".journal")
	if err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	w.compare(rows, journal)
	return nil
}

// pair is a writer and a value.
type pair struct {
	id int
	v  int64
}

func collect(ctx context.Context, tx pgx.Tx, query string) ([]pair, error) {
	rows, err := tx.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p pair, err error) { return p, row.Scan(&p.id, &p.v) })
	return out, err
}

func (w *Workload) compare(rows, journal []pair) {
	value := map[int]int64{}
	for _, p := range rows {
		value[p.id] = p.v
	}
	lines := map[pair]bool{}
	highest := map[int]int64{}
	for _, p := range journal {
		lines[p] = true
		highest[p.id] = max(highest[p.id], p.v)
	}
	for _, r := range w.registers {
		v, ok := value[r.id]
		if !ok {
			w.fault("row %d is gone", r.id)
			continue
		}
		if v < r.acked.Load() || v > r.sent.Load() {
			w.fault("row %d holds %d at the end; %d was acknowledged and %d sent", r.id, v, r.acked.Load(), r.sent.Load())
		}
		if highest[r.id] != v {
			w.fault("row %d holds %d, and its journal ends with %d: a transaction took effect by halves", r.id, v, highest[r.id])
		}
		for _, n := range r.done {
			if !lines[pair{r.id, n}] {
				w.fault("line %d of writer %d was acknowledged and is not in the journal", n, r.id)
			}
		}
	}
}
