//go:build pgdiff

package builtins

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/sql/types"
)

// TestRewriteFromPostgres runs by hand against a PostgreSQL 15 server and rewrites the answers
// in testdata/calls.txt:
//
//	PGDIFF="host=127.0.0.1 port=5432 user=postgres" go test -tags pgdiff -run RewriteFromPostgres ./node/sql/builtins
func TestRewriteFromPostgres(t *testing.T) {
	dsn := os.Getenv("PGDIFF")
	if dsn == "" {
		t.Skip("PGDIFF is not set")
	}
	ctx := context.Background()
	conn, err := pgconn.Connect(ctx, dsn)
	require.NoError(t, err)
	defer conn.Close(ctx)
	require.NoError(t, conn.Exec(ctx, "SET TimeZone = 'America/New_York'").Close())
	path := "testdata/calls.txt"
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	cases := readCalls(t, path)
	var out strings.Builder
	for i, line := range strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n") {
		if len(cases) == 0 || cases[0].line != i+1 {
			out.WriteString(line + "\n")
			continue
		}
		fmt.Fprintf(&out, "%s => %s\n", cases[0].text, cases[0].ask(ctx, conn))
		cases = cases[1:]
	}
	require.NoError(t, os.WriteFile(path, []byte(out.String()), 0o644))
}

func literal(typ string, v *string) string {
	if v == nil {
		return "NULL::" + typ
	}
	return "'" + strings.ReplaceAll(*v, "'", "''") + "'::" + typ
}

func (c *callCase) sql() string {
	var args []string
	for _, a := range c.args {
		if c.kind != 'a' {
			args = append(args, literal(a.typ, a.vals[0]))
		}
	}
	switch c.kind {
	case 'f':
		return fmt.Sprintf("SELECT pg_catalog.%s(%s)", c.name, strings.Join(args, ", "))
	case 'o':
		if len(args) == 1 {
			return fmt.Sprintf("SELECT OPERATOR(pg_catalog.%s) %s", c.name, args[0])
		}
		return fmt.Sprintf("SELECT %s OPERATOR(pg_catalog.%s) %s", args[0], c.name, args[1])
	case 'c':
		return fmt.Sprintf("SELECT (%s)::%s", args[0], c.name)
	case 's':
		return fmt.Sprintf("SELECT row(x.*) FROM pg_catalog.%s(%s) x LIMIT 20", c.name, strings.Join(args, ", "))
	}
	var rows, cols []string
	for i := range c.args[0].vals {
		var row []string
		for _, a := range c.args {
			row = append(row, literal(a.typ, a.vals[i]))
		}
		rows = append(rows, "("+strings.Join(row, ", ")+")")
	}
	for i := range c.args {
		cols = append(cols, "column"+strconv.Itoa(i+1))
	}
	where := ""
	if len(rows) == 0 {
		var row []string
		for _, a := range c.args {
			row = append(row, "NULL::"+a.typ)
		}
		rows, where = []string{"(" + strings.Join(row, ", ") + ")"}, " WHERE false"
	}
	return fmt.Sprintf("SELECT %s(%s) FROM (VALUES %s) v%s", c.name, strings.Join(cols, ", "), strings.Join(rows, ", "), where)
}

func (c *callCase) ask(ctx context.Context, conn *pgconn.PgConn) string {
	res, err := conn.Exec(ctx, c.sql()).ReadAll()
	if err != nil {
		var pe *pgconn.PgError
		if !errors.As(err, &pe) {
			return "ERROR " + err.Error()
		}
		return "ERROR " + pe.Code + " " + pe.Message
	}
	if c.kind == 's' {
		var rows []string
		for _, r := range res[0].Rows {
			rows = append(rows, strconv.Quote(string(r[0])))
		}
		return strings.Join(rows, " ")
	}
	name := types.MustLookup(types.OID(res[0].FieldDescriptions[0].DataTypeOID)).Name
	if res[0].Rows[0][0] == nil {
		return name + " NULL"
	}
	return name + " " + strconv.Quote(string(res[0].Rows[0][0]))
}
