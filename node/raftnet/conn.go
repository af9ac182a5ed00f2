package raftnet

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atolldb/atoll/node/keys"
)

// conn is one TCP connection after its handshake. Requests flow from the side that
// dialed to the side that listens; answers flow back.
//
// Writing combines: frames are appended to buf; whoever finds no writer active becomes
// it, so that frames that arrive during a write share the next one. MethodRaftAppend
// writes on its caller's goroutine (no hop), all else on the connection's writer.
type conn struct {
	t         *TCP
	c         net.Conn
	peer      keys.NodeID // 0: anonymous
	boot      uint64
	class     Class
	dialed    bool
	ctx       context.Context
	cancel    context.CancelFunc
	wake      chan struct{}
	progress  atomic.Uint64 // grows whenever the connection proves to be alive
	lastSeen  uint64        // progress at the monitor's last look (monitor only)
	idleTicks int           // monitor only
	wrote     atomic.Int64  // when it was last written to, since connEpoch

	mu      sync.Mutex
	buf     []byte
	spare   []byte
	active  bool
	dead    error
	lazy    *time.Timer
	lazySet bool
	nextID  uint64
	pending map[uint64]*pending           // dialed side
	serving map[uint64]context.CancelFunc // listening side
}

// pending is a call that waits for its answer.
type pending struct{ ch chan callResult }

type callResult struct {
	out []byte
	err error
}

var pendingPool = sync.Pool{New: func() any { return &pending{ch: make(chan callResult, 1)} }}

func newConn(t *TCP, c net.Conn, peer keys.NodeID, boot uint64, class Class, dialed bool) *conn {
	k := &conn{t: t, c: c, peer: peer, boot: boot, class: class, dialed: dialed, wake: make(chan struct{}, 1),
		pending: map[uint64]*pending{}, serving: map[uint64]context.CancelFunc{}}
	k.ctx, k.cancel = context.WithCancel(t.ctx)
	k.lazy = time.AfterFunc(time.Hour, k.flushLazy)
	k.lazy.Stop()
	return k
}

// run starts the connection's goroutines. REQUIRES: t.wg was raised by 2.
func (k *conn) run() {
	go func() {
		defer k.t.wg.Done()
		k.readLoop()
	}()
	go func() {
		defer k.t.wg.Done()
		for {
			select {
			case <-k.wake:
				k.flush()
			case <-k.ctx.Done():
				return
			}
		}
	}()
}

// fail closes the connection and fails all that waits on it.
func (k *conn) fail(err error) {
	k.mu.Lock()
	if k.dead != nil {
		k.mu.Unlock()
		return
	}
	k.dead = err
	waiting := k.pending
	k.pending = map[uint64]*pending{}
	k.lazy.Stop()
	k.mu.Unlock()
	k.cancel()
	k.c.Close()
	lost := fmt.Errorf("%w (n%d, %s): %v", ErrConnLost, k.peer, k.class, err)
	if k.t.ctx.Err() != nil {
		lost = ErrClosed
	}
	for _, p := range waiting {
		p.ch <- callResult{err: lost}
	}
	k.t.gone(k, err)
}

// post queues a frame. limit bounds the bytes already queued.
func (k *conn) post(f *frame, limit int, inline bool) error {
	k.mu.Lock()
	if k.dead != nil {
		k.mu.Unlock()
		return fmt.Errorf("%w: %v", ErrUnreachable, k.dead)
	}
	if len(k.buf) > limit {
		n := len(k.buf)
		k.mu.Unlock()
		return fmt.Errorf("%w: %d bytes are queued for n%d (%s), the limit is %d", ErrUnreachable, n, k.peer, k.class, limit)
	}
	k.postLocked(f, inline)
	return nil
}

// postLocked queues the frame, releases mu and sees to it that somebody writes.
func (k *conn) postLocked(f *frame, inline bool) {
	k.buf = appendFrame(k.buf, f)
	k.t.metrics.framesOut[k.class].Inc()
	if k.active {
		k.mu.Unlock()
		return
	}
	if f.flags&flagLazy != 0 && len(k.buf) < 32<<10 {
		if !k.lazySet {
			k.lazySet = true
			k.lazy.Reset(k.t.cfg.LazyDelay)
		}
		k.mu.Unlock()
		return
	}
	if inline {
		k.active = true
		k.mu.Unlock()
		k.writeOnce()
		return
	}
	k.mu.Unlock()
	k.signal()
}

func (k *conn) signal() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *conn) flushLazy() {
	k.mu.Lock()
	k.lazySet = false
	k.mu.Unlock()
	k.signal()
}

// flush writes until nothing is queued.
func (k *conn) flush() {
	for {
		k.mu.Lock()
		if k.active || len(k.buf) == 0 || k.dead != nil {
			k.mu.Unlock()
			return
		}
		k.active = true
		k.mu.Unlock()
		k.writeOnce()
	}
}

// quietConn is the pause after which a connection is quiet. connEpoch is where its times count from.
const quietConn = 2 * time.Millisecond

var connEpoch = time.Now()

// writeOnce writes what is queued, once; what arrives meanwhile is left to the writer
// goroutine. REQUIRES: the caller has set active.
func (k *conn) writeOnce() {
	// Give others that are about to send a chance to share this write. Sleeping here
	// would be wrong: this may be raft's replication goroutine. On a quiet connection there
	// are no others, and each yield would only wake an idle thread: three of four runs of an
	// idle node's writers were such yields.
	last := k.wrote.Swap(int64(time.Since(connEpoch)))
	if time.Since(connEpoch)-time.Duration(last) < quietConn {
		for range 3 {
			runtime.Gosched()
		}
	}
	k.mu.Lock()
	b := k.buf
	k.buf, k.spare = k.spare[:0], nil
	k.mu.Unlock()

	err := k.write(b)

	k.mu.Lock()
	if cap(b) <= 4<<20 {
		k.spare = b[:0]
	}
	k.active = false
	more := len(k.buf) > 0
	k.mu.Unlock()
	if err != nil {
		k.fail(err)
	} else if more {
		k.signal()
	}
}

// writePiece bounds one write, so that a large frame over a slow link shows progress.
const writePiece = 256 << 10

func (k *conn) write(b []byte) error {
	if k.t.isolated.Load() {
		return nil
	}
	k.t.metrics.writes[k.class].Inc()
	k.t.metrics.bytesOut[k.class].Add(float64(len(b)))
	for len(b) > 0 {
		n := min(len(b), writePiece)
		if _, err := k.c.Write(b[:n]); err != nil {
			return err
		}
		// Small writes vanish into the socket's buffer and prove nothing.
		if n == writePiece {
			k.progress.Add(1)
		}
		b = b[n:]
	}
	return nil
}

// call sends a request and waits.
func (k *conn) call(ctx context.Context, method Method, payload []byte) ([]byte, error) {
	f := frame{kind: kindRequest, method: method, payload: payload}
	if method.lazy() {
		f.flags = flagLazy
	}
	if d, ok := ctx.Deadline(); ok {
		ms := time.Until(d).Milliseconds() + 1
		if ms <= 0 {
			return nil, context.DeadlineExceeded
		}
		f.aux = uint32(min(ms, 1<<31))
	}
	p := pendingPool.Get().(*pending)
	k.mu.Lock()
	if k.dead != nil || len(k.buf) > k.t.cfg.MaxQueueBytes {
		err, n := k.dead, len(k.buf)
		k.mu.Unlock()
		pendingPool.Put(p)
		if err == nil {
			err = fmt.Errorf("%d bytes are queued (%s), the limit is %d", n, k.class, k.t.cfg.MaxQueueBytes)
		}
		return nil, fmt.Errorf("%w: n%d: %v", ErrUnreachable, k.peer, err)
	}
	k.nextID++
	f.id = k.nextID
	k.pending[f.id] = p
	k.postLocked(&f, method == MethodRaftAppend)

	select {
	case r := <-p.ch:
		pendingPool.Put(p)
		return r.out, r.err
	case <-ctx.Done():
	}
	k.mu.Lock()
	_, mine := k.pending[f.id]
	delete(k.pending, f.id)
	k.mu.Unlock()
	if !mine { // the answer is on its way into the channel
		r := <-p.ch
		pendingPool.Put(p)
		return r.out, r.err
	}
	pendingPool.Put(p)
	_ = k.post(&frame{kind: kindCancel, id: f.id}, k.t.cfg.MaxQueueBytes, false)
	return nil, ctx.Err()
}

type countingReader struct{ k *conn }

func (r countingReader) Read(b []byte) (int, error) {
	n, err := r.k.c.Read(b)
	if n > 0 {
		r.k.progress.Add(1)
		r.k.t.metrics.bytesIn[r.k.class].Add(float64(n))
	}
	return n, err
}

func (k *conn) readLoop() {
	br := bufio.NewReaderSize(countingReader{k}, 64<<10)
	for {
		var f frame
		if err := readFrame(br, &f); err != nil {
			k.fail(err)
			return
		}
		if k.t.isolated.Load() {
			continue
		}
		k.t.metrics.framesIn[k.class].Inc()
		switch f.kind {
		case kindRequest:
			k.serve(&f)
		case kindNotify:
			k.t.dispatch(func() (context.Context, context.CancelFunc) { return k.ctx, func() {} }, k.peer, f.method, f.payload, noReply{})
		case kindResponse:
			k.answer(f.id, callResult{out: f.payload})
		case kindError:
			k.answer(f.id, callResult{err: &RemoteError{Code: f.aux, Msg: string(f.payload)}})
		case kindCancel:
			k.mu.Lock()
			cancel := k.serving[f.id]
			k.mu.Unlock()
			if cancel != nil {
				cancel()
			}
		case kindPing:
			_ = k.post(&frame{kind: kindPong}, 2*k.t.cfg.MaxQueueBytes, false)
		}
	}
}

func (k *conn) answer(id uint64, r callResult) {
	k.mu.Lock()
	p := k.pending[id]
	delete(k.pending, id)
	k.mu.Unlock()
	if p != nil {
		p.ch <- r
	}
}

// connReply answers one request on its connection.
type connReply struct {
	k      *conn
	id     uint64
	method Method
	flags  uint8
	done   atomic.Bool
}

func (k *conn) serve(f *frame) {
	id, aux := f.id, f.aux
	newCtx := func() (context.Context, context.CancelFunc) {
		var ctx context.Context
		var cancel context.CancelFunc
		if aux > 0 {
			ctx, cancel = context.WithTimeout(k.ctx, time.Duration(aux)*time.Millisecond)
		} else {
			ctx, cancel = context.WithCancel(k.ctx)
		}
		k.mu.Lock()
		k.serving[id] = cancel
		k.mu.Unlock()
		return ctx, func() {
			k.mu.Lock()
			delete(k.serving, id)
			k.mu.Unlock()
			cancel()
		}
	}
	k.t.dispatch(newCtx, k.peer, f.method, f.payload, &connReply{k: k, id: f.id, method: f.method, flags: f.flags & flagLazy})
}

// Reply implements Replier.
func (r *connReply) Reply(payload []byte, err error) {
	if r.done.Swap(true) {
		return
	}
	f := frame{kind: kindResponse, flags: r.flags, method: r.method, id: r.id, payload: payload}
	if err == nil {
		err = checkSize(payload)
	}
	if err != nil {
		re := asRemote(err)
		if len(re.Msg) > 64<<10 {
			re = &RemoteError{Code: re.Code, Msg: re.Msg[:64<<10]}
		}
		f = frame{kind: kindError, method: r.method, id: r.id, aux: re.Code, payload: []byte(re.Msg)}
	}
	// An answer that doesn't fit closes the connection: its caller must not wait for ever.
	if err := r.k.post(&f, 2*r.k.t.cfg.MaxQueueBytes, r.method == MethodRaftAppend); err != nil {
		r.k.fail(err)
	}
}

// newNonce returns a number that tells two processes apart.
func newNonce(b [8]byte) uint64 { return binary.LittleEndian.Uint64(b[:]) | 1 }
