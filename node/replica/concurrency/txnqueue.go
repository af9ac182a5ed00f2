package concurrency

import (
	"sync"

	"github.com/atolldb/atoll/node/kv"
)

// maxPushes bounds the pushes that wait in one range.
const maxPushes = 50_000

// TxnQueue is where pushes wait for the transactions whose records this range holds. Its
// entries are the edges pusher -> pushee of the waits-for graph.
type TxnQueue struct {
	mu     sync.Mutex
	pushed map[kv.TxnID][]*PushWait
	n      int
}

// PushWait is one waiting push.
type PushWait struct {
	// C gets a value when the pushee's record changed.
	C chan struct{}

	pushee kv.TxnID
	pusher *kv.TxnMeta // nil outside a transaction
}

// NewTxnQueue returns an empty queue.
func NewTxnQueue() *TxnQueue { return &TxnQueue{pushed: make(map[kv.TxnID][]*PushWait)} }

// Enter adds a push to the queue; nil if the queue is full. The caller looks at the pushee's
// record after Enter, not before, so that no change is missed.
func (q *TxnQueue) Enter(pushee kv.TxnID, pusher *kv.TxnMeta) *PushWait {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n >= maxPushes {
		return nil
	}
	w := &PushWait{C: make(chan struct{}, 1), pushee: pushee, pusher: pusher}
	q.pushed[pushee] = append(q.pushed[pushee], w)
	q.n++
	return w
}

// Leave takes a push out.
func (q *TxnQueue) Leave(w *PushWait) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ws := q.pushed[w.pushee]
	for i, o := range ws {
		if o != w {
			continue
		}
		q.n--
		if len(ws) == 1 {
			delete(q.pushed, w.pushee)
			return
		}
		ws[i] = ws[len(ws)-1]
		ws[len(ws)-1] = nil
		q.pushed[w.pushee] = ws[:len(ws)-1]
		return
	}
}

// Changed wakes the pushes of a transaction whose record changed.
func (q *TxnQueue) Changed(id kv.TxnID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, w := range q.pushed[id] {
		select {
		case w.C <- struct{}{}:
		default:
		}
	}
}

// Waiting returns the transactions that push id, each once.
func (q *TxnQueue) Waiting(id kv.TxnID) []kv.TxnMeta {
	q.mu.Lock()
	defer q.mu.Unlock()
	ws := q.pushed[id]
	if len(ws) == 0 {
		return nil
	}
	seen := make(map[kv.TxnID]bool, len(ws))
	var out []kv.TxnMeta
	for _, w := range ws {
		if w.pusher != nil && !seen[w.pusher.ID] {
			seen[w.pusher.ID] = true
			out = append(out, *w.pusher)
		}
	}
	return out
}
