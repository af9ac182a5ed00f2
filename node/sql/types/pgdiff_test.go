//go:build pgdiff

package types

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// TestRewriteFromPostgres runs by hand against a PostgreSQL 15 server and rewrites the
// expected part of testdata/text.txt with what the server says:
//
//	PGDIFF="host=127.0.0.1 port=5432 user=postgres" go test -tags pgdiff -run RewriteFromPostgres ./node/sql/types
func TestRewriteFromPostgres(t *testing.T) {
	dsn := os.Getenv("PGDIFF")
	if dsn == "" {
		t.Skip("PGDIFF is not set")
	}
	ctx := context.Background()
	conn, err := pgconn.Connect(ctx, dsn)
	require.NoError(t, err)
	defer conn.Close(ctx)
	path := "testdata/text.txt"
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var out strings.Builder
	cases := readTextCases(t, path)
	zone := ""
	for i, line := range strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n") {
		if len(cases) == 0 || cases[0].line != i+1 {
			out.WriteString(line + "\n")
			continue
		}
		c := cases[0]
		cases = cases[1:]
		if c.zone != zone {
			zone = c.zone
			require.NoError(t, conn.Exec(ctx, "SET TimeZone = '"+zone+"'").Close())
		}
		fmt.Fprintf(&out, "%s %s => %s\n", c.typ, strconv.Quote(c.in), askPostgres(ctx, conn, c))
	}
	require.NoError(t, os.WriteFile(path, []byte(out.String()), 0o644))
}

func askPostgres(ctx context.Context, conn *pgconn.PgConn, c textCase) string {
	sql := fmt.Sprintf("SELECT %s '%s'", c.typ, strings.ReplaceAll(c.in, "'", "''"))
	if strings.HasSuffix(c.typ, "[]") {
		sql = fmt.Sprintf("SELECT '%s'::%s", strings.ReplaceAll(c.in, "'", "''"), c.typ)
	}
	res, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		var pe *pgconn.PgError
		if !errors.As(err, &pe) {
			return "ERROR " + err.Error()
		}
		s := "ERROR " + pe.Code + " " + pe.Message
		if pe.Detail != "" {
			s += " DETAIL: " + pe.Detail
		}
		if pe.Hint != "" {
			s += " HINT: " + pe.Hint
		}
		return s
	}
	text := strconv.Quote(string(res[0].Rows[0][0]))
	bin := conn.ExecParams(ctx, sql, nil, nil, nil, []int16{1}).Read()
	if bin.Err != nil {
		return text
	}
	return text + " " + hex.EncodeToString(bin.Rows[0][0])
}
