package dist

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/keys"
)

// errNodeDown ends a call to a node that support has lapsed for.
var errNodeDown = errors.New("the node is reported dead")

// sweepEvery is how often calls in flight are checked against Alive. NodeDown is faster.
const sweepEvery = 50 * time.Millisecond

// calls are the calls in flight to other nodes. One timer runs while there are any.
type calls struct {
	alive func(keys.NodeID) bool

	mu    sync.Mutex
	head  *call
	armed bool
	timer *time.Timer
}

type call struct {
	ctx        context.Context
	cancel     context.CancelCauseFunc
	node       keys.NodeID
	prev, next *call
}

func (c *calls) start(ctx context.Context, node keys.NodeID) *call {
	cl := &call{node: node}
	cl.ctx, cl.cancel = context.WithCancelCause(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if cl.next = c.head; c.head != nil {
		c.head.prev = cl
	}
	c.head = cl
	if !c.armed {
		c.armed = true
		if c.timer == nil {
			c.timer = time.AfterFunc(sweepEvery, c.sweep)
		} else {
			c.timer.Reset(sweepEvery)
		}
	}
	return cl
}

func (c *calls) done(cl *call) {
	c.mu.Lock()
	if cl.prev != nil {
		cl.prev.next = cl.next
	} else {
		c.head = cl.next
	}
	if cl.next != nil {
		cl.next.prev = cl.prev
	}
	c.mu.Unlock()
	cl.cancel(nil)
}

// down reports whether the call was ended because its node died.
func (cl *call) down() bool { return context.Cause(cl.ctx) == errNodeDown }

func (c *calls) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for cl := c.head; cl != nil; cl = cl.next {
		if !c.alive(cl.node) {
			cl.cancel(errNodeDown)
		}
	}
	if c.armed = c.head != nil; c.armed {
		c.timer.Reset(sweepEvery)
	}
}

func (c *calls) nodeDown(node keys.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for cl := c.head; cl != nil; cl = cl.next {
		if cl.node == node {
			cl.cancel(errNodeDown)
		}
	}
}
