package ddl_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/catalog/catalogtest"
)

// TestRewriteInChunks builds indexes over more rows than one transaction takes: every row has
// its entry, and rows of different chunks that are alike are duplicates.
func TestRewriteInChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		db := catalogtest.New()
		require.NoError(t, catalog.EnsureBootstrap(ctx, db))
		m := catalog.NewManager(catalog.Config{DB: db, Node: 1})
		m.Start()
		defer m.Close()
		s := newSession(db, m)
		exec := func(sql string) error {
			_, err := s.exec(ctx, sql)
			return err
		}
		const rows = 7000
		fill := func(table string, last int) {
			require.NoError(t, exec("create table "+table+" (a int not null, b int)"))
			var b strings.Builder
			for i := range rows - 1 {
				fmt.Fprintf(&b, "(%d, %d), ", i, i)
			}
			require.NoError(t, exec(fmt.Sprintf("insert into %s values %s(%d, %d)", table, b.String(), last, last)))
		}
		fill("good", rows-1)
		require.NoError(t, exec("alter table good add primary key (a)"))
		require.NoError(t, exec("create unique index on good (b)"))
		out, err := s.describe(ctx, "good")
		require.NoError(t, err)
		require.Equal(t, rows, strings.Count(out, "\n("))

		fill("twins", 0)
		require.ErrorContains(t, exec("alter table twins add primary key (a)"), "could not create unique index")
		require.ErrorContains(t, exec("create unique index on twins (b)"), "could not create unique index")
		require.ErrorContains(t, exec("begin; alter table twins add primary key (a)"), "could not create unique index")
		require.NoError(t, exec("rollback"))
		require.NoError(t, exec("create index on twins (b)"))
	})
}
