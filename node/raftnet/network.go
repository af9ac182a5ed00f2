package raftnet

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/atolldb/atoll/node/keys"
)

// MaxPayload is the largest payload of one message, in bytes.
const MaxPayload = 64<<20 - 1024

// Network sends messages to other nodes and dispatches those that arrive. It is safe
// for concurrent use. A message to Self is delivered locally.
type Network interface {
	// Self returns this node's ID, 0 before it has one.
	Self() keys.NodeID
	// Call sends a request and waits for its answer, for ctx, or for the loss of the
	// connection. It fails at once, with NotSent(err) true, where no connection can be
	// had. The payload may be reused after Call returns; the answer belongs to the
	// caller. A *RemoteError is the handler's own error.
	Call(ctx context.Context, to keys.NodeID, class Class, method Method, payload []byte) ([]byte, error)
	// Notify sends a message that has no answer. It never blocks; the message may be
	// lost without a trace.
	Notify(to keys.NodeID, class Class, method Method, payload []byte)
	// Handle registers the handler of a method, which runs in a goroutine per message.
	// Its context ends with the caller's, with the connection and with Close.
	Handle(method Method, h Handler)
	// HandleInline registers a handler that runs on the goroutine which reads the
	// stream. It must not block, and it (or somebody later) calls reply once.
	HandleInline(method Method, h InlineHandler)
	// CallAddr calls a method that needs no identity (founding, joining, ping) at an
	// address, which may be a node whose ID is unknown.
	CallAddr(ctx context.Context, addr string, method Method, payload []byte) ([]byte, error)
	// Close ends all connections; calls in flight fail with ErrClosed.
	Close() error
}

// Handler answers a message; from is 0 if the caller has no identity. The payload
// belongs to the handler. Return *RemoteError to hand a code to the caller.
type Handler func(ctx context.Context, from keys.NodeID, payload []byte) ([]byte, error)

// InlineHandler answers a message through reply, which is never nil and does nothing
// for a notification. The payload belongs to the handler.
type InlineHandler func(from keys.NodeID, payload []byte, reply Replier)

// Replier sends the answer to one request. Only the first Reply counts; it does not
// block and copies the payload before it returns.
type Replier interface {
	Reply(payload []byte, err error)
}

// Identity is who a node is.
type Identity struct {
	ClusterID string
	Node      keys.NodeID
	// Boot is the boot counter, which is synced and raised before the node's first
	// message (SAFETY S18).
	Boot uint64
}

var (
	// ErrClosed is returned once the Network is closed.
	ErrClosed = errors.New("raftnet: the network is closed")
	// ErrUnreachable marks failures in which the message was certainly not delivered.
	ErrUnreachable = errors.New("raftnet: the node can't be reached; the message was not sent")
	// ErrConnLost marks failures in which the message may have been delivered.
	ErrConnLost = errors.New("raftnet: the connection was lost; whether the message arrived is unknown")
)

// NotSent reports whether err, from Call, means that the message never reached the
// other node's handler. For every other error of transport its fate is unknown (S12).
func NotSent(err error) bool {
	if errors.Is(err, ErrUnreachable) {
		return true
	}
	var re *RemoteError
	if errors.As(err, &re) {
		return re.Code == CodeNoHandler || re.Code == CodeOverloaded || re.Code == CodeNotIdentified
	}
	return false
}

// Codes of RemoteError below 1000 belong to this package; handlers may use others.
const (
	CodeGeneric       uint32 = 1
	CodeNoHandler     uint32 = 2
	CodeOverloaded    uint32 = 3
	CodeNotIdentified uint32 = 4
	CodeNoReplica     uint32 = 5
	CodeGuard         uint32 = 6
	CodeShutdown      uint32 = 7
)

// RemoteError is an error that the other node's handler returned.
type RemoteError struct {
	Code uint32
	Msg  string
}

func (e *RemoteError) Error() string { return e.Msg }

// remoteErrorf makes a RemoteError.
func remoteErrorf(code uint32, format string, args ...any) *RemoteError {
	return &RemoteError{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// asRemote turns any handler error into what travels.
func asRemote(err error) *RemoteError {
	var re *RemoteError
	if errors.As(err, &re) {
		if re.Msg == err.Error() {
			return re
		}
		return &RemoteError{Code: re.Code, Msg: err.Error()}
	}
	return &RemoteError{Code: CodeGeneric, Msg: err.Error()}
}

// maxHandlers bounds the handler goroutines that run at once on a node. Beyond it a
// request is answered with CodeOverloaded, which means that nothing was done.
const maxHandlers = 16384

// mux is the table of handlers, shared by all implementations.
type mux struct {
	table   [MaxMethod + 1]atomic.Pointer[muxEntry]
	running atomic.Int64
}

type muxEntry struct {
	h      Handler
	inline InlineHandler
}

func (m *mux) Handle(method Method, h Handler) { m.set(method, &muxEntry{h: h}) }

func (m *mux) HandleInline(method Method, h InlineHandler) { m.set(method, &muxEntry{inline: h}) }

func (m *mux) set(method Method, e *muxEntry) {
	if method > MaxMethod {
		panic(fmt.Sprintf("raftnet: method %d is beyond MaxMethod %d", method, MaxMethod))
	}
	m.table[method].Store(e)
}

// dispatch runs the handler of a message. newCtx makes the context of a handler that
// gets a goroutine; its cancel is called when the handler has returned.
func (m *mux) dispatch(newCtx func() (context.Context, context.CancelFunc), from keys.NodeID, method Method, payload []byte, reply Replier) {
	var e *muxEntry
	if method <= MaxMethod {
		e = m.table[method].Load()
	}
	switch {
	case e == nil:
		reply.Reply(nil, remoteErrorf(CodeNoHandler, "raftnet: no handler for method %d; the node may still be starting or run an older version", method))
	case from == 0 && !method.anonymous():
		reply.Reply(nil, remoteErrorf(CodeNotIdentified, "raftnet: method %d needs a caller with a node ID; join the cluster first", method))
	case e.inline != nil:
		e.inline(from, payload, reply)
	case m.running.Add(1) > maxHandlers:
		m.running.Add(-1)
		reply.Reply(nil, remoteErrorf(CodeOverloaded, "raftnet: %d requests are already running on this node (the limit); retry later", maxHandlers))
	default:
		ctx, cancel := newCtx()
		go func() {
			defer m.running.Add(-1)
			defer cancel()
			out, err := e.h(ctx, from, payload)
			reply.Reply(out, err)
		}()
	}
}

// noReply is the Replier of a notification.
type noReply struct{}

func (noReply) Reply([]byte, error) {}
