package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestNoQuorum kills two zones of three. What can't be done waits and then fails, with words
// and in bounded time; nothing is lost or half done; the last node goes on when they return.
func TestNoQuorum(t *testing.T) {
	c := StartCluster(t)
	c.Exec(t, 0, "CREATE TABLE q (id int PRIMARY KEY, v int NOT NULL)", "INSERT INTO q VALUES (1, 0)")
	const last = 2
	conn, limited := c.Connect(t, last), c.Connect(t, last)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	_, err := limited.Exec(ctx, "SET statement_timeout = '2s'")
	require.NoError(t, err)
	for _, cn := range []*pgx.Conn{conn, limited} { // warm: only the quorum will be missing
		_, err = cn.Exec(ctx, "UPDATE q SET v = 0 WHERE id = 1")
		require.NoError(t, err)
	}
	c.Zone(t, "kill", "us-a")
	c.Zone(t, "kill", "us-b")
	// A commit that is sent while a lease still holds is past cancelling: its outcome is waited for.
	// The node says when it serves no more.
	eventually(t, 30*time.Second, "the last node knows that it has no quorum", func() string {
		if code, body, err := c.Get(last, "/readyz"); err != nil || code == 200 {
			return fmt.Sprint(code, body, err)
		}
		return ""
	})
	for _, sql := range []string{"UPDATE q SET v = 1 WHERE id = 1", "INSERT INTO q VALUES (2, 2)", "SELECT v FROM q WHERE id = 1"} {
		start := time.Now()
		_, err = limited.Exec(ctx, sql)
		took := time.Since(start)
		require.Error(t, err, sql)
		require.Regexp(t, `^(57014|57P03|40003)$`, sqlState(err), "%s: %v", sql, err)
		require.Less(t, took, 10*time.Second, "%s: statement_timeout is 2 s", sql)
		t.Logf("%s with statement_timeout 2s: %v after %s", sql, err, took.Round(10*time.Millisecond))
	}
	// Without a limit of the client's own, the node has one.
	type outcome struct {
		err  error
		took time.Duration
	}
	done := make(chan outcome, 1)
	go func() {
		start := time.Now()
		_, err := conn.Exec(ctx, "INSERT INTO q VALUES (3, 3)")
		done <- outcome{err, time.Since(start)}
	}()
	select {
	case o := <-done:
		require.Error(t, o.err, "a write was acknowledged without a quorum")
		require.Regexp(t, `^(57P03|40003)$`, sqlState(o.err), o.err)
		t.Logf("INSERT without a limit: %v after %s", o.err, o.took.Round(10*time.Millisecond))
	case <-time.After(2 * time.Minute):
		t.Fatal("a write to a cluster without quorum still waits after 2 minutes, without an error")
	}
	c.Zone(t, "heal", "us-a")
	eventually(t, time.Minute, "writes are taken again with two zones of three", func() string {
		if _, err := limited.Exec(ctx, "UPDATE q SET v = v + 1 WHERE id = 1"); err != nil {
			return err.Error()
		}
		return ""
	})
	c.Zone(t, "heal", "us-b")
	c.AwaitHealthy(t, last, time.Minute)
	// What failed with certainty is not there; what is unknown is there at most once.
	v := c.Int(t, 0, "SELECT v FROM q WHERE id = 1")
	require.GreaterOrEqual(t, v, int64(1))
	require.LessOrEqual(t, c.Int(t, 1, "SELECT count(*) FROM q"), int64(3))
}
