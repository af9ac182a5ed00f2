package exec_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/sql/types"
)

// TestAgainstPostgres runs differential.sql against a PostgreSQL server as well, and compares
// names, types, rows and errors. It needs ATOLL_TEST_POSTGRES (a connection string of an
// empty database).
func TestAgainstPostgres(t *testing.T) {
	dsn := os.Getenv("ATOLL_TEST_POSTGRES")
	if dsn == "" {
		t.Skip("ATOLL_TEST_POSTGRES is not set")
	}
	ctx := context.Background()
	conn, err := pgconn.Connect(ctx, dsn)
	require.NoError(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "drop schema public cascade; create schema public; set timezone = 'UTC'").ReadAll()
	require.NoError(t, err)
	w := newWorld(t)
	w.quiet = true
	f, err := os.Open("differential.sql")
	require.NoError(t, err)
	defer f.Close()
	sc := bufio.NewScanner(f)
	bad := 0
	for sc.Scan() {
		sql := strings.TrimSpace(sc.Text())
		if sql == "" || strings.HasPrefix(sql, "--") {
			continue
		}
		want := postgresOutput(ctx, conn, sql)
		got := w.run(sql, nil)
		if !strings.Contains(strings.ToLower(sql), "order by") {
			want, got = sortRows(want), sortRows(got)
		}
		if want != got {
			bad++
			t.Errorf("%s\n--- PostgreSQL\n%s--- Atoll\n%s", sql, want, got)
		}
	}
	t.Logf("%d differ", bad)
}

func sortRows(s string) string {
	l := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	if len(l) > 2 && !strings.HasPrefix(s, "ERROR") {
		sort.Strings(l[1 : len(l)-1])
	}
	return strings.Join(l, "\n") + "\n"
}

func postgresOutput(ctx context.Context, conn *pgconn.PgConn, sql string) string {
	var out strings.Builder
	results, err := conn.Exec(ctx, sql).ReadAll()
	for _, r := range results {
		if r.Err != nil {
			break
		}
		if len(r.FieldDescriptions) > 0 {
			var head []string
			for _, f := range r.FieldDescriptions {
				head = append(head, f.Name+":"+typeOf(f.DataTypeOID, f.TypeModifier))
			}
			fmt.Fprintln(&out, strings.Join(head, " | "))
		}
		for _, row := range r.Rows {
			var cells []string
			for _, v := range row {
				if v == nil {
					cells = append(cells, "NULL")
				} else {
					cells = append(cells, string(v))
				}
			}
			fmt.Fprintln(&out, strings.Join(cells, " | "))
		}
		fmt.Fprintln(&out, r.CommandTag.String())
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		fmt.Fprintf(&out, "ERROR %s: %s\n", pe.Code, pe.Message)
		if pe.Position > 0 {
			fmt.Fprintf(&out, "  %s\n  %s^\n", sql, strings.Repeat(" ", int(pe.Position)-1))
		}
		if pe.Detail != "" {
			fmt.Fprintf(&out, "DETAIL: %s\n", pe.Detail)
		}
		if pe.Hint != "" {
			fmt.Fprintf(&out, "HINT: %s\n", pe.Hint)
		}
	} else if err != nil {
		fmt.Fprintf(&out, "ERROR: %v\n", err)
	}
	return out.String()
}

func typeOf(oid uint32, mod int32) string { return types.FormatType(types.OID(oid), mod) }
