package exec_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/sql/exec"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/plan"
	"github.com/atolldb/atoll/node/sql/types"
)

// BenchmarkPoint measures what a prepared point statement costs above the transaction.
func BenchmarkPoint(b *testing.B) {
	w := newWorld(b)
	w.run("create table accounts (aid int primary key, bid int, abalance int, filler char(84))", nil)
	w.run("insert into accounts select g, 1, 0, 'x' from generate_series(1, 1000) g", nil)
	for _, c := range []struct{ name, sql string }{
		{"select", "select abalance from accounts where aid = $1"},
		{"update", "update accounts set abalance = abalance + $2 where aid = $1"},
		{"insert", "insert into accounts values ($1, 1, $2, '')"},
	} {
		b.Run(c.name, func(b *testing.B) {
			sts, err := parser.Parse(c.sql)
			require.NoError(b, err)
			p, err := plan.Prepare(context.Background(), w.planContext(), sts[0], nil)
			require.NoError(b, err)
			args := []types.Datum{types.NewInt(1), types.NewInt(5)}[:len(p.ParamTypes)]
			ctx := context.Background()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				args[0] = types.NewInt(int64(i%1000 + 1))
				if c.name == "insert" {
					args[0] = types.NewInt(int64(100000 + i))
				}
				ec := w.execContext(args)
				ec.CommitsNext = true
				rows, err := exec.Run(ctx, ec, p)
				if err != nil {
					b.Fatal(err)
				}
				for {
					batch, err := rows.Next(ctx, 0)
					if err != nil {
						b.Fatal(err)
					}
					if batch == nil {
						break
					}
				}
				rows.Close()
				if i%1000 == 999 {
					w.txn.Discard()
				}
			}
		})
	}
}

// BenchmarkPrepare measures planning without a cache.
func BenchmarkPrepare(b *testing.B) {
	w := newWorld(b)
	w.run("create table accounts (aid int primary key, bid int, abalance int, filler char(84))", nil)
	sts, err := parser.Parse("update accounts set abalance = abalance + 5 where aid = 17")
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := plan.Prepare(context.Background(), w.planContext(), sts[0], nil); err != nil {
			b.Fatal(err)
		}
	}
}
