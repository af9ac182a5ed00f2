package workload

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Snapshot copies both tables out in one read-only transaction, as a backup tool does, while the
// writers go on, and checks that the copy is one moment's: of every transaction both halves or
// none, nothing missing that was acknowledged before, nothing that was not yet sent afterwards.
// It returns how many lines the copy has. What it finds wrong is among the report's faults.
func (w *Workload) Snapshot(ctx context.Context) (lines int, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Verify)
	defer cancel()
	var rows, journal []pair
	floor := map[int]int64{}
	err = w.anywhere(ctx, func(ctx context.Context, c *pgx.Conn) error {
		for _, r := range w.registers {
			floor[r.id] = r.acked.Load()
		}
		tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		s := pgx.Identifier{w.cfg.Schema}.Sanitize()
		// The journal first: were the second copy of a later moment, the register would be ahead.
		if journal, err = copyOut(ctx, tx, "COPY "+s+".journal TO STDOUT"); err != nil {
			return err
		}
		if rows, err = copyOut(ctx, tx, "COPY "+s+".registers TO STDOUT"); err != nil {
			return err
		}
		return tx.Commit(ctx)
	})
	if err != nil {
		return 0, err
	}
	w.checkSnapshot(floor, rows, journal)
	return len(rows) + len(journal), nil
}

func copyOut(ctx context.Context, tx pgx.Tx, stmt string) ([]pair, error) {
	var text bytes.Buffer
	if _, err := tx.Conn().PgConn().CopyTo(ctx, &text, stmt); err != nil {
		return nil, fmt.Errorf("%s: %w", stmt, err)
	}
	return parsePairs(text.String())
}

// parsePairs reads COPY's text format of two integers.
func parsePairs(text string) ([]pair, error) {
	var out []pair
	for line := range strings.Lines(text) {
		id, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		n, err1 := strconv.Atoi(id)
		value, err2 := strconv.ParseInt(v, 10, 64)
		if !ok || err1 != nil || err2 != nil {
			return nil, fmt.Errorf("workload: COPY sent %q, two integers were expected", line)
		}
		out = append(out, pair{n, value})
	}
	return out, nil
}

func (w *Workload) checkSnapshot(floor map[int]int64, rows, journal []pair) {
	value, lines, highest := map[int]int64{}, map[int]int64{}, map[int]int64{}
	for _, p := range rows {
		value[p.id] = p.v
	}
	for _, p := range journal {
		lines[p.id]++
		highest[p.id] = max(highest[p.id], p.v)
	}
	for _, r := range w.registers {
		v, ok := value[r.id]
		switch {
		case !ok:
			w.fault("a copy lacks row %d", r.id)
		case v < floor[r.id] || v > r.sent.Load():
			w.fault("a copy holds %d in row %d; %d was acknowledged before it and %d sent", v, r.id, floor[r.id], r.sent.Load())
		case lines[r.id] != v || highest[r.id] != v:
			w.fault("a copy holds %d in row %d and a journal of %d lines that ends with %d: it is not one moment's", v, r.id, lines[r.id], highest[r.id])
		}
	}
}
