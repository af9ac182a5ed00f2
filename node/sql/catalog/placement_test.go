package catalog_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/catalog/catalogtest"
	"github.com/atolldb/atoll/policies"
)

// place changes policies or bindings in a transaction of its own.
func (c *cluster) place(t *testing.T, f func(context.Context, *catalog.Collection) error) {
	t.Helper()
	require.NoError(t, c.run(t.Context(), 0, func(ctx context.Context, col *catalog.Collection) error {
		if err := col.LockPlacement(ctx); err != nil {
			return err
		}
		return f(ctx, col)
	}))
}

func TestPlacementFollowsTheCatalog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		defer c.close()
		one, two := int64(c.create(t, "one")), int64(c.create(t, "two"))
		before := c.nodes[1].Generation()
		c.place(t, func(ctx context.Context, col *catalog.Collection) error {
			if err := col.PutPolicy(ctx, &policies.Policy{Name: "p", Survive: policies.SurviveZone, Voters: 5}); err != nil {
				return err
			}
			return col.BindPolicy(ctx, policies.Object{Database: 5}, "p")
		})
		time.Sleep(2 * time.Second)
		require.Greater(t, c.nodes[1].Generation(), before, "every node notices a change that touches no descriptor")

		read := func() *catalog.PlacementMap {
			m, err := c.nodes[1].ReadPlacementMap(t.Context())
			require.NoError(t, err)
			return m
		}
		table := func(id int64) keys.Key { return keys.TablePrefix(uint32(id)) }
		span := func(id int64) policies.Span {
			return policies.Span{Start: table(id), End: table(id).PrefixEnd(), Object: policies.Object{Database: 5, Table: id}}
		}
		m := read()
		require.Equal(t, 5, m.Policies["p"].Voters)
		require.Equal(t, []policies.Span{span(one), span(two)}, m.Spans, "all tables of a database that has a policy")

		// A table that is made in such a database is noticed too.
		before = c.nodes[1].Generation()
		three := int64(c.create(t, "three"))
		time.Sleep(2 * time.Second)
		require.Greater(t, c.nodes[1].Generation(), before)
		require.Equal(t, []policies.Span{span(one), span(two), span(three)}, read().Spans)
		require.NoError(t, c.run(t.Context(), 0, func(ctx context.Context, col *catalog.Collection) error {
			d, err := col.Mutable(ctx, catalog.ID(three))
			if err != nil {
				return err
			}
			return col.Drop(ctx, d)
		}))

		// An index with a policy of its own lies inside its table's keys.
		index := policies.Object{Database: 5, Table: two, Index: 20003}
		c.place(t, func(ctx context.Context, col *catalog.Collection) error {
			return col.BindPolicy(ctx, index, "survive-node")
		})
		at := func(storage uint32) keys.Key { return keys.IndexPrefix(uint32(two), storage) }
		whole := policies.Object{Database: 5, Table: two}
		require.Equal(t, []policies.Span{span(one),
			{Start: table(two), End: at(2), Object: whole}, {Start: at(2), End: at(3), Object: index}, {Start: at(3), End: table(two).PrefixEnd(), Object: whole}}, read().Spans)

		// What is dropped takes its bindings along, and a policy that is in use stays.
		require.NoError(t, c.run(t.Context(), 0, func(ctx context.Context, col *catalog.Collection) error {
			d, err := col.Mutable(ctx, catalog.ID(two))
			if err != nil {
				return err
			}
			return col.Drop(ctx, d)
		}))
		m = read()
		require.Equal(t, []policies.Span{span(one)}, m.Spans)
		require.Equal(t, policies.Bindings{{Database: 5}: "p"}, m.Bindings)
		drop := func(ctx context.Context, col *catalog.Collection) error {
			if err := col.LockPlacement(ctx); err != nil {
				return err
			}
			now, err := col.Placement(ctx)
			if err != nil {
				return err
			}
			return col.DropPolicy(ctx, "p", now)
		}
		require.ErrorContains(t, c.run(t.Context(), 0, drop), `"p" is in use by database "postgres"`)
		c.place(t, func(ctx context.Context, col *catalog.Collection) error {
			// A binding to what is gone keeps nothing.
			if err := col.BindPolicy(ctx, policies.Object{Database: 5, Table: two}, "p"); err != nil {
				return err
			}
			return col.BindPolicy(ctx, policies.Object{Database: 5}, "")
		})
		require.NoError(t, c.run(t.Context(), 0, drop))
		m = read()
		require.Empty(t, m.Policies)
		require.Empty(t, m.Bindings)
		require.Nil(t, m.Policy("p"))
		require.Equal(t, "survive-zone", m.Policy("survive-zone").Name)
	})
}

// One transaction binds a policy while another one drops it: one of them must notice.
func TestNobodyBindsAPolicyThatIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.close()
		c.place(t, func(ctx context.Context, col *catalog.Collection) error {
			return col.PutPolicy(ctx, &policies.Policy{Name: "p", Survive: policies.SurviveZone, Voters: 3})
		})
		binder := c.db.Begin()
		col := c.nodes[0].NewCollection(binder)
		require.NoError(t, col.LockPlacement(t.Context()))
		require.NoError(t, col.BindPolicy(t.Context(), policies.Object{}, "p"))
		dropped := make(chan error, 1)
		go func() {
			dropped <- c.run(context.Background(), 0, func(ctx context.Context, col *catalog.Collection) error {
				if err := col.LockPlacement(ctx); err != nil {
					return err
				}
				now, err := col.Placement(ctx)
				if err != nil {
					return err
				}
				return col.DropPolicy(ctx, "p", now)
			})
		}()
		time.Sleep(time.Second)
		bound := col.BeforeCommit(t.Context())
		if bound == nil {
			bound = binder.Commit()
		}
		col.Finish(t.Context(), bound == nil)
		if drop := <-dropped; bound == nil {
			require.ErrorContains(t, drop, "in use by the cluster")
		} else {
			require.ErrorIs(t, bound, catalogtest.ErrRetry)
			require.NoError(t, drop)
		}
	})
}
