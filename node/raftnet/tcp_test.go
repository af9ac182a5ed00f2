package raftnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
)

// tcpNet makes TCP nodes on loopback that know one another's addresses.
type tcpNet struct {
	t     *testing.T
	mu    sync.Mutex
	addrs map[keys.NodeID]string
}

func newTCPNet(t *testing.T) *tcpNet { return &tcpNet{t: t, addrs: map[keys.NodeID]string{}} }

func (n *tcpNet) resolve(id keys.NodeID) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.addrs[id]
	return a, ok
}

func (n *tcpNet) listen(id keys.NodeID, boot uint64, opts ...func(*TCPConfig)) *TCP {
	n.t.Helper()
	cfg := TCPConfig{Listen: "127.0.0.1:0", Identity: Identity{ClusterID: "c1", Node: id, Boot: boot}, Resolve: n.resolve, MinBackoff: 5 * time.Millisecond}
	for _, o := range opts {
		o(&cfg)
	}
	t, err := ListenTCP(cfg)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { t.Close() })
	n.mu.Lock()
	n.addrs[id] = t.Addr().String()
	n.mu.Unlock()
	return t
}

func echo(_ context.Context, from keys.NodeID, p []byte) ([]byte, error) {
	return append([]byte(fmt.Sprintf("n%d:", from)), p...), nil
}

func testCtx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestTCPCall(t *testing.T) {
	n := newTCPNet(t)
	a, b := n.listen(1, 1), n.listen(2, 1)
	b.Handle(MethodKVBatch, echo)
	a.Handle(MethodKVBatch, echo)
	b.Handle(MethodStatus, func(context.Context, keys.NodeID, []byte) ([]byte, error) {
		return nil, &RemoteError{Code: 1234, Msg: "no"}
	})
	ctx := testCtx(t)
	for _, class := range []Class{Control, Data, Bulk} {
		out, err := a.Call(ctx, 2, class, MethodKVBatch, []byte("x"))
		require.NoError(t, err)
		require.Equal(t, "n1:x", string(out))
	}
	out, err := a.Call(ctx, 1, Data, MethodKVBatch, []byte("self"))
	require.NoError(t, err)
	require.Equal(t, "n1:self", string(out))

	_, err = a.Call(ctx, 2, Data, MethodStatus, nil)
	var re *RemoteError
	require.ErrorAs(t, err, &re)
	require.Equal(t, uint32(1234), re.Code)
	require.False(t, NotSent(err))
	_, err = a.Call(ctx, 2, Data, MethodAdmin, nil)
	require.True(t, NotSent(err), "%v", err)
	_, err = a.Call(ctx, 9, Data, MethodKVBatch, nil)
	require.True(t, NotSent(err), "%v", err)
	_, err = a.Call(ctx, 2, Data, MethodKVBatch, make([]byte, MaxPayload+1))
	require.ErrorContains(t, err, "exceeds the limit")

	big := bytes.Repeat([]byte("0123456789"), 2<<20)
	out, err = a.Call(ctx, 2, Bulk, MethodKVBatch, big)
	require.NoError(t, err)
	require.Equal(t, len(big)+3, len(out))

	var wg sync.WaitGroup
	for i := range 64 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := range 50 {
				m := fmt.Sprintf("%d/%d", i, j)
				out, err := a.Call(ctx, 2, Data, MethodKVBatch, []byte(m))
				if err != nil || string(out) != "n1:"+m {
					t.Errorf("%s: %q, %v", m, out, err)
				}
			}
		}()
	}
	wg.Wait()
}

func TestTCPCancelAndDeadline(t *testing.T) {
	n := newTCPNet(t)
	a, b := n.listen(1, 1), n.listen(2, 1)
	ended := make(chan bool, 2)
	b.Handle(MethodKVBatch, func(ctx context.Context, _ keys.NodeID, _ []byte) ([]byte, error) {
		_, has := ctx.Deadline()
		<-ctx.Done()
		ended <- has
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(testCtx(t))
	go func() { time.AfterFunc(20*time.Millisecond, cancel) }()
	_, err := a.Call(context.WithoutCancel(ctx), 2, Data, MethodStatus, nil)
	require.Error(t, err)
	_, err = a.Call(ctx, 2, Data, MethodKVBatch, nil)
	require.ErrorIs(t, err, context.Canceled)
	<-ended
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = a.Call(ctx, 2, Data, MethodKVBatch, nil)
	require.Error(t, err)
	require.True(t, <-ended, "the deadline travels")
}

func TestTCPNotifyAndLazyFrames(t *testing.T) {
	n := newTCPNet(t)
	a, b := n.listen(1, 1), n.listen(2, 1)
	got := make(chan string, 1000)
	b.HandleInline(MethodHeartbeat, func(from keys.NodeID, p []byte, r Replier) { got <- fmt.Sprintf("n%d:%s", from, p) })
	b.HandleInline(MethodRaftHeartbeat, func(from keys.NodeID, p []byte, r Replier) { r.Reply(p, nil) })
	require.Eventually(t, func() bool {
		a.Notify(2, Control, MethodHeartbeat, []byte("x"))
		select {
		case m := <-got:
			return m == "n1:x"
		case <-time.After(10 * time.Millisecond):
			return false
		}
	}, 5*time.Second, time.Millisecond)
	var wg sync.WaitGroup
	for range 100 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := a.Call(testCtx(t), 2, Control, MethodRaftHeartbeat, []byte("hb"))
			if err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
}

func TestTCPIdentity(t *testing.T) {
	n := newTCPNet(t)
	boots := &memBoots{}
	b := n.listen(2, 1, func(c *TCPConfig) { c.Boots = boots })
	b.Handle(MethodKVBatch, echo)
	b.Handle(MethodPing, echo)
	ctx := testCtx(t)

	other := n.listen(5, 1, func(c *TCPConfig) { c.Identity.ClusterID = "c2" })
	_, err := other.Call(ctx, 2, Data, MethodKVBatch, nil)
	require.ErrorContains(t, err, `cluster "c2"`)
	require.True(t, NotSent(err))

	a5 := n.listen(1, 5)
	_, err = a5.Call(ctx, 2, Data, MethodKVBatch, nil)
	require.NoError(t, err)
	for _, boot := range []uint64{4, 5} { // lower, and the same from another process
		stale := make(chan error, 1)
		old := n.listen(1, boot, func(c *TCPConfig) { c.OnStale = func(err error) { stale <- err } })
		_, err = old.Call(ctx, 2, Data, MethodKVBatch, nil)
		require.ErrorContains(t, err, "boot counter")
		require.Error(t, <-stale)
		old.Close()
	}
	// A later incarnation is served, and ends the connections of the earlier one.
	lost := make(chan error, 1)
	b.Handle(MethodStatus, func(ctx context.Context, _ keys.NodeID, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	go func() {
		_, err := a5.Call(ctx, 2, Data, MethodStatus, nil)
		lost <- err
	}()
	a6 := n.listen(1, 6)
	require.Eventually(t, func() bool {
		_, err = a6.Call(ctx, 2, Data, MethodKVBatch, nil)
		return err == nil
	}, 5*time.Second, 5*time.Millisecond)
	require.Error(t, <-lost)

	// Without identity: only the methods for it.
	anon, err := ListenTCP(TCPConfig{Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	defer anon.Close()
	out, err := anon.CallAddr(ctx, b.Addr().String(), MethodPing, []byte("hi"))
	require.NoError(t, err)
	require.Equal(t, "n0:hi", string(out))
	_, err = anon.CallAddr(ctx, b.Addr().String(), MethodKVBatch, nil)
	require.ErrorContains(t, err, "needs a caller with a node ID")
	_, err = anon.CallAddr(ctx, "127.0.0.1:1", MethodPing, nil)
	require.True(t, NotSent(err))
}

// A node that was given up is told so and stops; nobody connects to it either (SAFETY S18).
func TestTCPBarsLostNodes(t *testing.T) {
	n := newTCPNet(t)
	var lost atomic.Bool
	a := n.listen(1, 1)
	a.Handle(MethodKVBatch, echo)
	a.Bar(func(id keys.NodeID) bool { return id == 2 && lost.Load() })
	told := make(chan error, 1)
	b := n.listen(2, 1, func(c *TCPConfig) { c.OnStale = func(err error) { told <- err } })
	b.Handle(MethodKVBatch, echo)
	third := n.listen(3, 1)
	ctx := testCtx(t)
	for _, x := range []*TCP{b, third} {
		_, err := x.Call(ctx, 1, Data, MethodKVBatch, nil)
		require.NoError(t, err)
	}
	_, err := a.Call(ctx, 2, Data, MethodKVBatch, nil)
	require.NoError(t, err)
	lost.Store(true)
	a.DropBarred()
	require.Eventually(t, func() bool {
		_, err := b.Call(ctx, 1, Data, MethodKVBatch, nil)
		return err != nil && strings.Contains(err.Error(), "given up as lost")
	}, 5*time.Second, 5*time.Millisecond)
	require.ErrorContains(t, <-told, "empty store")
	require.Eventually(t, func() bool {
		_, err := a.Call(ctx, 2, Data, MethodKVBatch, nil)
		return err != nil && strings.Contains(err.Error(), "given up as lost")
	}, 5*time.Second, 5*time.Millisecond)
	_, err = third.Call(ctx, 1, Data, MethodKVBatch, nil)
	require.NoError(t, err)
}

func TestTCPReconnects(t *testing.T) {
	n := newTCPNet(t)
	a, b := n.listen(1, 1), n.listen(2, 1)
	b.Handle(MethodKVBatch, echo)
	ctx := testCtx(t)
	_, err := a.Call(ctx, 2, Data, MethodKVBatch, nil)
	require.NoError(t, err)
	addr := b.Addr().String()
	require.NoError(t, b.Close())
	require.Eventually(t, func() bool {
		_, err := a.Call(ctx, 2, Data, MethodKVBatch, nil)
		return NotSent(err)
	}, 5*time.Second, time.Millisecond)
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	b2 := n.listen(2, 2, func(c *TCPConfig) { c.Listener = ln })
	b2.Handle(MethodKVBatch, echo)
	require.Eventually(t, func() bool {
		_, err := a.Call(ctx, 2, Data, MethodKVBatch, nil)
		return err == nil
	}, 5*time.Second, time.Millisecond)
}

// A peer that accepts bytes and says nothing is given up after IdleTimeout.
func TestTCPBlackholeIsDetected(t *testing.T) {
	n := newTCPNet(t)
	b := n.listen(2, 1)
	b.Handle(MethodKVBatch, echo)
	var hole atomic.Bool
	release := make(chan struct{})
	defer close(release)
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer proxy.Close()
	go func() {
		for {
			c, err := proxy.Accept()
			if err != nil {
				return
			}
			d, err := net.Dial("tcp", b.Addr().String())
			if err != nil {
				return
			}
			pump := func(dst, src net.Conn) {
				defer dst.Close()
				buf := make([]byte, 4096)
				for {
					k, err := src.Read(buf)
					if err != nil {
						return
					}
					if hole.Load() {
						<-release
						return
					}
					if _, err := dst.Write(buf[:k]); err != nil {
						return
					}
				}
			}
			go pump(c, d)
			go pump(d, c)
		}
	}()
	n.addrs[2] = proxy.Addr().String()
	a := n.listen(1, 1, func(c *TCPConfig) { c.IdleTimeout = 120 * time.Millisecond })
	ctx := testCtx(t)
	_, err = a.Call(ctx, 2, Data, MethodKVBatch, nil)
	require.NoError(t, err)
	hole.Store(true)
	_, err = a.Call(ctx, 2, Data, MethodKVBatch, nil)
	require.ErrorIs(t, err, ErrConnLost)
	require.False(t, NotSent(err))
}

func TestTCPGarbageIsRefused(t *testing.T) {
	n := newTCPNet(t)
	b := n.listen(2, 1)
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "ATOL\x01\xff\xff\xff\xff\x00\x00\x00\x00", "ATOL\x07aaaaaaaaaaaaaaaaa"} {
		c, err := net.Dial("tcp", b.Addr().String())
		require.NoError(t, err)
		_, err = io.WriteString(c, garbage)
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err = io.ReadAll(c)
		var ne net.Error
		require.False(t, errors.As(err, &ne) && ne.Timeout(), "the connection must be closed")
		c.Close()
	}
}

func TestTCPConfigListsEveryFault(t *testing.T) {
	_, err := ListenTCP(TCPConfig{ConnectTimeout: -1, MaxQueueBytes: 1, MaxConns: -1})
	for _, want := range []string{"Listen is empty", "ConnectTimeout", "MaxQueueBytes", "MaxConns"} {
		require.ErrorContains(t, err, want)
	}
}

func BenchmarkTCPAppend(b *testing.B) {
	addrs := map[keys.NodeID]string{}
	mk := func(id keys.NodeID) *TCP {
		t, err := ListenTCP(TCPConfig{Listen: "127.0.0.1:0", Identity: Identity{ClusterID: "c", Node: id, Boot: 1}, Resolve: func(n keys.NodeID) (string, bool) { return addrs[n], true }})
		if err != nil {
			b.Fatal(err)
		}
		addrs[id] = t.Addr().String()
		b.Cleanup(func() { t.Close() })
		return t
	}
	x, y := mk(1), mk(2)
	y.HandleInline(MethodRaftAppend, func(_ keys.NodeID, p []byte, r Replier) { go r.Reply(p[:16], nil) })
	body := make([]byte, 200)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := x.Call(context.Background(), 2, Data, MethodRaftAppend, body); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
