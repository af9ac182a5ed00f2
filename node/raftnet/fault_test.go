package raftnet

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An isolated node gets no answer and gives none; once healed it is reached again.
func TestTCPIsolate(t *testing.T) {
	n := newTCPNet(t)
	b := n.listen(2, 1)
	b.Handle(MethodKVBatch, echo)
	a := n.listen(1, 1, func(c *TCPConfig) { c.IdleTimeout, c.ConnectTimeout = 120*time.Millisecond, 100*time.Millisecond })
	ctx := testCtx(t)
	_, err := a.Call(ctx, 2, Data, MethodKVBatch, nil)
	require.NoError(t, err)
	for _, side := range []*TCP{a, b} {
		side.Isolate(true)
		_, err = a.Call(ctx, 2, Data, MethodKVBatch, nil)
		require.Error(t, err)
		side.Isolate(false)
		require.Eventually(t, func() bool {
			_, err := a.Call(ctx, 2, Data, MethodKVBatch, nil)
			return err == nil
		}, 10*time.Second, 5*time.Millisecond)
	}
}
