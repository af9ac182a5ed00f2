package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/catalog/catalogtest"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/jackc/pgerrcode"
	"github.com/stretchr/testify/require"
)

func sample() *catalog.Table {
	t := &catalog.Table{
		Persistence: catalog.Permanent,
		Columns: []catalog.Column{
			{ID: 1, Name: "a", Type: catalog.TypeRef{OID: 23, Mod: -1}, NotNull: true, State: catalog.StatePublic, Sequence: 20001},
			{ID: 3, Name: "b", Type: catalog.TypeRef{OID: 1043, Mod: 14}, State: catalog.StateWriteOnly, Default: "'x'::character varying", HasMissing: true, Missing: "x"},
		},
		Primary: catalog.Index{ID: 20002, Name: "t_pkey", Unique: true, Primary: true, State: catalog.StatePublic, Storage: 1,
			Columns: []catalog.IndexColumn{{Column: 1}}, Constraint: true},
		Indexes: []catalog.Index{{ID: 20003, Name: "t_b", State: catalog.StateDeleteOnly, Storage: 2,
			Columns: []catalog.IndexColumn{{Column: 3, Dir: catalog.Descending, NullsFirst: true}}, Suffix: []catalog.ColumnID{1}}},
		Constraints: []catalog.Constraint{{ID: 20004, Name: "t_pkey", Kind: catalog.PrimaryKeyConstraint, Columns: []catalog.ColumnID{1}, Index: 20002, State: catalog.StatePublic}},
		NextColumn:  4, NextStorage: 3, Options: []string{"fillfactor=90"}, Garbage: []uint32{7, 9},
	}
	t.Header = catalog.Header{ID: 20000, Version: 3, ModTime: hlc.Timestamp{WallNanos: 5, Logical: 2}, Name: "t", Database: 5, Schema: 2200, Owner: 10,
		State: catalog.DescOffline, ACL: []catalog.ACLItem{{Grantee: 1, Grantor: 10, Privs: 3, Options: 1}},
		Lock: &catalog.SchemaLock{Node: 2, Session: 77, Holder: 4}}
	return t
}

func TestCodecRoundTrip(t *testing.T) {
	seq := &catalog.Sequence{Type: 20, Start: -3, Increment: -2, Min: -9e18, Max: -1, Cache: 5, Cycle: true, OwnerTable: 9, OwnerColumn: 2, Identity: true, Storage: 4, Base: -1}
	seq.ID, seq.Name = 20005, "s"
	role := &catalog.Role{Superuser: true, Login: true, BypassRLS: true, ConnLimit: -1, Verifier: "SCRAM", ValidUntil: 99, MemberOf: []catalog.Membership{{Role: 3, Grantor: 10, Admin: true}}, Settings: []string{"a=b", ""}}
	role.ID, role.Name = 20006, "r"
	db := &catalog.Database{IsTemplate: true, AllowConn: true, ConnLimit: -1, Settings: []string{"x=y"}}
	db.ID = 20007
	sch := &catalog.Schema{}
	sch.ID, sch.Name = 20008, "sch"
	view := &catalog.View{Columns: sample().Columns, Query: "select 1"}
	for _, d := range []catalog.Descriptor{sample(), seq, role, db, sch, view} {
		got, err := catalog.Decode(catalog.Encode(d))
		require.NoError(t, err)
		require.Equal(t, d, got)
		require.Equal(t, d, d.Copy())
	}
	_, err := catalog.Decode([]byte{9, 3})
	require.ErrorContains(t, err, "upgrade")
}

func FuzzDecode(f *testing.F) {
	f.Add(catalog.Encode(sample()))
	f.Add([]byte{1, 4, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := catalog.Decode(b)
		if err != nil {
			return
		}
		again, err := catalog.Decode(catalog.Encode(d))
		require.NoError(t, err)
		require.Equal(t, d, again)
	})
}

type cluster struct {
	db    *catalogtest.DB
	nodes []*catalog.Manager
}

func newCluster(t *testing.T, n int) *cluster {
	c := &cluster{db: catalogtest.New()}
	require.NoError(t, catalog.EnsureBootstrap(t.Context(), c.db))
	require.NoError(t, catalog.EnsureBootstrap(t.Context(), c.db))
	for i := range n {
		m := catalog.NewManager(catalog.Config{DB: c.db, Node: keys.NodeID(i + 1)})
		m.Start()
		c.nodes = append(c.nodes, m)
	}
	return c
}

func (c *cluster) close() {
	for _, m := range c.nodes {
		m.Close()
	}
}

// run executes f in a transaction on a node, with restarts.
func (c *cluster) run(ctx context.Context, node int, f func(context.Context, *catalog.Collection) error) error {
	for try := 0; ; try++ {
		tx := c.db.Begin()
		col := c.nodes[node].NewCollection(tx)
		err := f(ctx, col)
		if err == nil {
			err = col.BeforeCommit(ctx)
		}
		if err == nil {
			err = tx.Commit()
		}
		col.Finish(ctx, err == nil)
		if try > 1000 || !catalog.IsRestart(err) && !errors.Is(err, catalogtest.ErrRetry) {
			return err
		}
	}
}

func (c *cluster) create(t *testing.T, name string) catalog.ID {
	var id catalog.ID
	require.NoError(t, c.run(t.Context(), 0, func(ctx context.Context, col *catalog.Collection) error {
		var err error
		if id, err = col.NewIDs(ctx, 1); err != nil {
			return err
		}
		d := sample()
		d.Header = catalog.Header{ID: id, Name: name, Database: 5, Schema: 2200, Owner: 10}
		ok, err := col.Create(ctx, d)
		require.True(t, ok)
		return err
	}))
	return id
}

func (c *cluster) addOption(ctx context.Context, node int, id catalog.ID, opt string) error {
	return c.run(ctx, node, func(ctx context.Context, col *catalog.Collection) error {
		d, err := col.Mutable(ctx, id)
		if err != nil {
			return err
		}
		tb := d.(*catalog.Table)
		tb.Options = append(tb.Options, opt)
		return col.Write(ctx, tb)
	})
}

var path = catalog.Path{Database: 5, Search: []string{"$user", "public"}, User: "postgres"}

func TestCreateAndResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		id := c.create(t, "t")
		require.EqualValues(t, catalog.FirstUserID, id)
		for node := range 3 {
			require.NoError(t, c.run(t.Context(), node, func(ctx context.Context, col *catalog.Collection) error {
				tb, err := col.ResolveTable(ctx, path, "", "t", 0)
				require.NoError(t, err)
				require.Equal(t, id, tb.ID)
				_, err = col.ResolveTable(ctx, path, "public", "nope", 0)
				require.ErrorContains(t, err, `relation "public.nope" does not exist`)
				_, err = col.ResolveTable(ctx, path, "s", "t", 0)
				require.ErrorContains(t, err, `schema "s" does not exist`)
				return nil
			}))
		}
		// The name is taken.
		require.NoError(t, c.run(t.Context(), 1, func(ctx context.Context, col *catalog.Collection) error {
			d := sample()
			d.Header = catalog.Header{ID: 99999, Name: "t", Database: 5, Schema: 2200}
			ok, err := col.Create(ctx, d)
			require.False(t, ok)
			return err
		}))
	})
}

// TestTwoVersions holds S27: with a transaction on an old version, the next-but-one change
// waits for it, and every node sees a change soon.
func TestTwoVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		id := c.create(t, "t")
		tx := c.db.Begin()
		old := c.nodes[2].NewCollection(tx)
		tb, err := old.Table(t.Context(), id)
		require.NoError(t, err)
		require.EqualValues(t, 1, tb.Version)

		require.NoError(t, c.addOption(t.Context(), 0, id, "x")) // version 2: may stand beside 1
		done := make(chan error, 1)
		go func() { done <- c.addOption(context.Background(), 1, id, "y") }() // 3: must wait
		time.Sleep(5 * time.Second)
		select {
		case <-done:
			t.Fatal("version 3 was published while version 1 was in use")
		default:
		}
		again, err := old.Table(t.Context(), id)
		require.NoError(t, err)
		require.EqualValues(t, 1, again.Version)
		require.NoError(t, old.BeforeCommit(t.Context()))
		require.NoError(t, tx.Put(t.Context(), keys.Key("\x04zzz"), []byte("v"), kv.Condition{}))
		require.NoError(t, tx.Commit())
		old.Finish(t.Context(), true)
		require.NoError(t, <-done)
		for node := range 3 {
			require.NoError(t, c.run(t.Context(), node, func(ctx context.Context, col *catalog.Collection) error {
				tb, err := col.Table(ctx, id)
				require.NoError(t, err)
				require.EqualValues(t, 3, tb.Version)
				return nil
			}))
		}
	})
}

// TestLateNews: who changes what another node has just changed, and has not heard of it, needs one
// more try, not as many as fit in before the news.
func TestLateNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		defer c.close()
		id := c.create(t, "t")
		tries := 0
		change := func(ctx context.Context, col *catalog.Collection) error {
			tries++
			if _, err := col.Table(ctx, id); err != nil {
				return err
			}
			d, err := col.Mutable(ctx, id)
			if err != nil {
				return err
			}
			return col.Write(ctx, d)
		}
		for i := range 60 {
			// Whoever drops an index's data changes the table in the background.
			require.NoError(t, c.run(t.Context(), 0, func(ctx context.Context, col *catalog.Collection) error {
				d, err := col.Mutable(ctx, id)
				if err != nil {
					return err
				}
				d.(*catalog.Table).Garbage = []uint32{7}
				col.NeedsCleanup()
				return col.Write(ctx, d)
			}))
			time.Sleep(time.Duration(i) * 20 * time.Millisecond)
			tries = 0
			require.NoError(t, c.run(t.Context(), 1, change))
			require.LessOrEqual(t, tries, 2)
			time.Sleep(5 * time.Second)
		}
	})
}

// TestDeadNode: a node that vanished with an old version in use delays changes until its
// promise ends, and its transaction can't commit afterwards.
func TestDeadNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		defer c.nodes[0].Close()
		id := c.create(t, "t")
		tx := c.db.Begin()
		old := c.nodes[1].NewCollection(tx)
		_, err := old.Table(t.Context(), id)
		require.NoError(t, err)
		c.nodes[1].Close() // a transaction is under way: the record stays, as in a crash
		require.NoError(t, c.addOption(t.Context(), 0, id, "x"))
		start := time.Now()
		require.NoError(t, c.addOption(t.Context(), 0, id, "y"))
		require.GreaterOrEqual(t, time.Since(start), catalog.LeaseTTL/2)
		require.NoError(t, tx.Put(t.Context(), keys.Key("\x04zzz"), []byte("v"), kv.Condition{}))
		require.NoError(t, old.BeforeCommit(t.Context()))
		require.ErrorIs(t, tx.Commit(), catalogtest.ErrDeadline)
	})
}

// TestExclusiveLock: while one transaction holds a table, others wait; a rollback gives it back.
func TestExclusiveLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		defer c.close()
		id := c.create(t, "t")
		tx := c.db.Begin()
		col := c.nodes[0].NewCollection(tx)
		require.NoError(t, col.Lock(t.Context(), id))
		got := make(chan uint64, 1)
		go func() {
			_ = c.run(context.Background(), 1, func(ctx context.Context, o *catalog.Collection) error {
				tb, err := o.Table(ctx, id)
				if err == nil {
					got <- tb.Version
				}
				return err
			})
		}()
		time.Sleep(3 * time.Second)
		require.Empty(t, got)
		d, err := col.Mutable(t.Context(), id)
		require.NoError(t, err)
		d.(*catalog.Table).Options = []string{"locked"}
		require.NoError(t, col.Write(t.Context(), d))
		require.NoError(t, col.BeforeCommit(t.Context()))
		require.NoError(t, tx.Commit())
		col.Finish(t.Context(), true)
		require.EqualValues(t, 3, <-got) // offline was 2

		tx = c.db.Begin()
		col = c.nodes[0].NewCollection(tx)
		require.NoError(t, col.Lock(t.Context(), id))
		col.Finish(t.Context(), false)
		require.NoError(t, c.run(t.Context(), 1, func(ctx context.Context, o *catalog.Collection) error {
			tb, err := o.Table(ctx, id)
			if err != nil {
				return err
			}
			require.Equal(t, []string{"locked"}, tb.Options)
			return nil
		}))
	})
}

// TestSchemaLocksDeadlock: of two transactions that use what the other one locks, or lock what
// the other one has locked, one fails within deadlock_timeout and a little, and the other goes on.
func TestSchemaLocksDeadlock(t *testing.T) {
	for _, how := range []string{"used", "locked", "locked and used"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 2)
				defer c.close()
				ids := [2]catalog.ID{c.create(t, "a"), c.create(t, "b")}
				var txns [2]*catalogtest.Txn
				var cols [2]*catalog.Collection
				for i := range 2 {
					txns[i] = c.db.Begin()
					cols[i] = c.nodes[i].NewCollection(txns[i])
					if how == "used" {
						_, err := cols[i].Table(t.Context(), ids[i])
						require.NoError(t, err)
					} else {
						require.NoError(t, cols[i].Lock(t.Context(), ids[i]))
					}
				}
				start := time.Now()
				errs := make(chan error, 2)
				for i := range 2 {
					go func() {
						var err error
						if other := ids[1-i]; how == "locked and used" && i == 0 {
							_, err = cols[i].Table(t.Context(), other)
						} else {
							err = cols[i].Lock(t.Context(), other)
						}
						cols[i].Finish(t.Context(), false)
						errs <- err
					}()
				}
				first := <-errs
				var pe *pgerror.Error
				require.ErrorAs(t, first, &pe)
				require.Equal(t, pgerrcode.DeadlockDetected, pe.Code)
				require.Less(t, time.Since(start), 2*time.Second)
				require.GreaterOrEqual(t, time.Since(start), time.Second)
				if err := <-errs; !catalog.IsRestart(err) { // in a newer snapshot it goes on
					require.NoError(t, err)
				}
				// A wait that is no deadlock is none.
				require.NoError(t, c.run(t.Context(), 0, func(ctx context.Context, o *catalog.Collection) error {
					_, err := o.Table(ctx, ids[1])
					return err
				}))
			})
		})
	}
}

// TestLockHolderDies: its lock ends with its lease.
func TestLockHolderDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		defer c.nodes[1].Close()
		id := c.create(t, "t")
		dead := c.nodes[0]
		tx := c.db.Begin()
		col := dead.NewCollection(tx)
		require.NoError(t, col.Lock(t.Context(), id))
		_, err := col.Database(t.Context(), 5) // a pin keeps Close from withdrawing the record
		require.NoError(t, err)
		dead.Close()
		require.NoError(t, c.run(t.Context(), 1, func(ctx context.Context, o *catalog.Collection) error {
			_, err := o.Table(ctx, id)
			return err
		}))
		d, err := col.Mutable(t.Context(), id)
		if err == nil {
			err = col.Write(t.Context(), d)
		}
		if err == nil {
			err = tx.Commit()
		}
		require.Error(t, err)
	})
}

func TestDropIsCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		defer c.close()
		id := c.create(t, "t")
		span := keys.Span{Key: keys.TablePrefix(uint32(id)), EndKey: keys.TablePrefix(uint32(id)).PrefixEnd()}
		require.NoError(t, c.run(t.Context(), 0, func(ctx context.Context, col *catalog.Collection) error {
			for i := range 10 {
				k := append(keys.TablePrefix(uint32(id)), fmt.Sprint(i)...)
				if err := col.Txn().Put(ctx, k, []byte("v"), kv.Condition{}); err != nil {
					return err
				}
			}
			return nil
		}))
		require.Equal(t, 10, c.db.Count(span))
		require.NoError(t, c.run(t.Context(), 1, func(ctx context.Context, col *catalog.Collection) error {
			d, err := col.Mutable(ctx, id)
			if err != nil {
				return err
			}
			return col.Drop(ctx, d)
		}))
		require.NoError(t, c.run(t.Context(), 0, func(ctx context.Context, col *catalog.Collection) error {
			_, err := col.ResolveTable(ctx, path, "", "t", 0)
			require.ErrorContains(t, err, "does not exist")
			return nil
		}))
		time.Sleep(time.Minute)
		require.Zero(t, c.db.Count(span))
	})
}
