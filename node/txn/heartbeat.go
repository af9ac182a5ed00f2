package txn

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/kv"
)

const (
	// heartbeatEvery is how often a transaction that holds locks or intents says that it
	// lives. The first one is due this long after its first lock.
	heartbeatEvery = time.Second
	// heartbeatTick is the wheel's step.
	heartbeatTick = 250 * time.Millisecond
	// maxHeartbeats bounds those in flight; the others wait for the next step.
	maxHeartbeats = 128
)

// heartbeats serves all transactions of a DB with one timer, which runs only while some
// hold locks.
type heartbeats struct {
	db *DB

	mu      sync.Mutex
	head    *Txn
	timer   *time.Timer
	armed   bool
	closed  bool
	running int
	wg      sync.WaitGroup
}

func (h *heartbeats) init(db *DB) { h.db = db }

func (h *heartbeats) close() {
	h.mu.Lock()
	h.closed = true
	if h.timer != nil {
		h.timer.Stop()
	}
	h.mu.Unlock()
	h.db.cancel()
	h.wg.Wait()
}

func (h *heartbeats) add(t *Txn) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || t.hbListed {
		return
	}
	t.hbListed, t.hbDue = true, now.Add(heartbeatEvery)
	t.hbPrev, t.hbNext = nil, h.head
	if h.head != nil {
		h.head.hbPrev = t
	}
	h.head = t
	if !h.armed {
		h.armed = true
		if h.timer == nil {
			h.timer = time.AfterFunc(heartbeatTick, h.step)
		} else {
			h.timer.Reset(heartbeatTick)
		}
	}
}

func (h *heartbeats) remove(t *Txn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !t.hbListed {
		return
	}
	t.hbListed = false
	if t.hbPrev != nil {
		t.hbPrev.hbNext = t.hbNext
	} else {
		h.head = t.hbNext
	}
	if t.hbNext != nil {
		t.hbNext.hbPrev = t.hbPrev
	}
	t.hbPrev, t.hbNext = nil, nil
}

func (h *heartbeats) step() {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	for t := h.head; t != nil; t = t.hbNext {
		if now.Before(t.hbDue) || t.hbRunning || h.running >= maxHeartbeats {
			continue
		}
		t.hbDue, t.hbRunning, t.recordMayExist = now.Add(heartbeatEvery), true, true
		h.running++
		h.wg.Add(1)
		go h.beat(t, t.snap.Load())
	}
	if h.armed = h.head != nil; h.armed {
		h.timer.Reset(heartbeatTick)
	}
}

// recordMayExist reports whether a heartbeat was ever sent, and keeps further ones from
// being sent if stop.
func (h *heartbeats) sent(t *Txn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return t.recordMayExist
}

func (h *heartbeats) beat(t *Txn, snap *kv.Txn) {
	defer h.wg.Done()
	ctx, cancel := context.WithTimeout(h.db.ctx, 3*heartbeatEvery)
	defer cancel()
	_, err := h.db.heartbeat(ctx, snap)
	h.mu.Lock()
	h.running--
	t.hbRunning = false
	h.mu.Unlock()
	var aborted *kv.AbortedError
	if errors.As(err, &aborted) {
		t.abortedID.Store(&snap.ID)
	}
}

// heartbeat creates or renews a record. An aborted one comes back as AbortedError.
func (db *DB) heartbeat(ctx context.Context, snap *kv.Txn) (*kv.Txn, error) {
	db.met.heartbeats.Inc()
	c := *snap
	c.LastHeartbeat = db.clock.Now()
	br, err := db.sender.Send(ctx, &kv.BatchRequest{
		Header:   kv.Header{Txn: &c},
		Requests: []kv.Request{&kv.HeartbeatTxnRequest{Key: c.Key}},
	})
	if err != nil {
		return nil, err
	}
	if br.Txn != nil && br.Txn.Status == kv.TxnAborted {
		return nil, &kv.AbortedError{Reason: "somebody aborted the transaction"}
	}
	return br.Txn, nil
}
