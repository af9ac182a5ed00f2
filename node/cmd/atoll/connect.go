package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/atolldb/atoll/node/demo"
)

// connectTimeout bounds one attempt: a node of a dead zone may not answer at all.
const connectTimeout = 3 * time.Second

// target says which cluster a command speaks to.
type target struct {
	url   string
	store string
}

func (t *target) flags(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&t.url, "url", os.Getenv("ATOLL_URL"), "connection string of the cluster (default: $ATOLL_URL, else the demo in --store)")
	cmd.PersistentFlags().StringVar(&t.store, "store", demo.DefaultStore(), "folder of the demo")
}

// urls returns what to try, in order.
func (t *target) urls() ([]string, error) {
	if t.url != "" {
		return []string{t.url}, nil
	}
	p, err := demo.ReadPlan(t.store)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no demo in %s: name a cluster with --url postgresql://host:port/, or start `atoll demo`", t.store)
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range p.Members() {
		out = append(out, "postgresql://postgres@"+m.SQL+"/postgres?sslmode=disable")
	}
	return out, nil
}

// connect opens a connection to the first node that answers.
func (t *target) connect(ctx context.Context) (*pgx.Conn, error) {
	urls, err := t.urls()
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, u := range urls {
		cctx, cancel := context.WithTimeout(ctx, connectTimeout)
		conn, err := pgx.Connect(cctx, u)
		cancel()
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		faults = append(faults, err)
	}
	return nil, fmt.Errorf("no node answers: %w", errors.Join(faults...))
}

// table is a result as text.
type table struct {
	columns []string
	rows    [][]string
	tag     string
}

// query runs statements with the simple protocol and returns each one's result.
func query(ctx context.Context, conn *pgx.Conn, sql string) ([]table, error) {
	var out []table
	mrr := conn.PgConn().Exec(ctx, sql)
	for mrr.NextResult() {
		rr := mrr.ResultReader()
		t := table{}
		for _, f := range rr.FieldDescriptions() {
			t.columns = append(t.columns, f.Name)
		}
		for rr.NextRow() {
			row := make([]string, len(rr.Values()))
			for i, v := range rr.Values() {
				row[i] = string(v)
			}
			t.rows = append(t.rows, row)
		}
		tag, err := rr.Close()
		if err != nil {
			_ = mrr.Close()
			return out, err
		}
		t.tag = tag.String()
		out = append(out, t)
	}
	return out, mrr.Close()
}

// text prints a table with columns aligned, as psql does without borders.
func (t table) text() string {
	if len(t.columns) == 0 {
		return t.tag + "\n"
	}
	width := make([]int, len(t.columns))
	for i, c := range t.columns {
		width[i] = len([]rune(c))
		for _, r := range t.rows {
			width[i] = max(width[i], len([]rune(r[i])))
		}
	}
	var b strings.Builder
	line := func(cells []string) {
		var l strings.Builder
		for i, c := range cells {
			if i > 0 {
				l.WriteString("  ")
			}
			l.WriteString(c)
			l.WriteString(strings.Repeat(" ", width[i]-len([]rune(c))))
		}
		b.WriteString(strings.TrimRight(l.String(), " "))
		b.WriteByte('\n')
	}
	line(t.columns)
	for _, r := range t.rows {
		line(r)
	}
	return b.String()
}

// runOn runs statements on a cluster and prints their results.
func runOn(cmd *cobra.Command, t *target, format, sql string) error {
	conn, err := t.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer conn.Close(cmd.Context())
	tables, err := query(cmd.Context(), conn, sql)
	if err != nil {
		return err
	}
	return output(cmd, format, tables)
}
