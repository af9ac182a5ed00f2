package group

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// A leader that was opened at an applied index knows its term without the log. When its log is
// truncated right after it, a follower that ends there must get a snapshot, not an empty entry
// in the place of the one that is gone (found by the simulator: a replica without one command).
func TestTruncatedRightBehindWhatRaftWasOpenedWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClusterWith(t, 3, func(cfg *Config) { cfg.ShortLog = 1 })
		l := c.leader()
		require.NoError(t, l.put("base", "1"))
		c.settle()
		for _, n := range c.nodes { // so that each one's raft starts at the same index
			require.NoError(t, n.state.Flush())
			n.g.Close()
		}
		behind := c.nodes[3]
		c.nodes[1].open()
		c.nodes[2].open()
		l = c.leader()
		booted := l.g.log.booted
		require.Equal(t, booted, behind.g.AppliedIndex(), "all have applied the same")
		for i := range 8 {
			require.NoError(t, l.put(fmt.Sprintf("k%d", i), "x"))
		}
		require.NoError(t, l.state.Flush())
		var e raft.Log
		require.NoError(t, l.g.log.GetLog(booted+1, &e))
		require.NoError(t, l.g.log.truncate(Position{Index: booted + 1, Term: e.Term}))
		require.ErrorIs(t, l.g.log.GetLog(booted+1, &e), raft.ErrLogNotFound)
		behind.open()
		c.settle()
		for i := range 8 {
			require.Equal(t, "x", behind.get(fmt.Sprintf("k%d", i)))
		}
		c.close()
	})
}

func TestAbsentEntriesAreNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		l := c.leader()
		for i := range 8 {
			require.NoError(t, l.put(fmt.Sprintf("k%d", i), "x"))
		}
		var e raft.Log
		at := l.g.LastIndex() - 3
		require.NoError(t, l.g.log.GetLog(at, &e))
		require.NoError(t, l.state.Flush())
		require.NoError(t, l.g.log.truncate(Position{Index: at, Term: e.Term}))
		var stub raft.Log
		require.NoError(t, l.g.log.GetLog(at, &stub))
		require.Equal(t, e.Term, stub.Term)
		require.ErrorContains(t, checkEntries([]*raft.Log{{Index: at - 1}, &stub}), fmt.Sprintf("entry %d was truncated", at))
		require.NoError(t, checkEntries([]*raft.Log{{Index: at + 1, Type: raft.LogNoop}}))
		c.close()
	})
}
