package group

import (
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// held counts raft's gauges that are held.
func held() int {
	buf := make([]byte, 4<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "group.raftLogs.FirstIndex(")
}

// A leader's gauge is held for as long as it leads, and no goroutine of it is left over.
func TestGaugeIsHeldWhileLeading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		l := c.leader()
		time.Sleep(time.Minute)
		require.Equal(t, 1, held(), "the leader's")
		for range 3 {
			require.NoError(t, l.g.inst.Load().raft.LeadershipTransfer().Error())
			time.Sleep(time.Second)
			synctest.Wait()
			require.Zero(t, held(), "the former leader's has ended, the new one's timer runs")
			l = c.leader()
			time.Sleep(time.Minute)
			require.Equal(t, 1, held(), "the new leader's")
		}
		require.NoError(t, l.put("a", "1"))
		c.close()
		synctest.Wait()
		require.Zero(t, held())
	})
}
