package concurrency

import (
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// lock is the state of one key: who holds it, who was granted it and is about to take it,
// and who waits. A lock without any of them is not kept.
type lock struct {
	key     keys.Key
	holders []holder // one exclusive, or several shared
	claims  []claim  // granted, not taken yet
	queue   []*Waiter
	readers []*Waiter // non-locking reads that met the intent
}

// holder is one transaction's hold on a key.
type holder struct {
	txn      *txnLocks
	strength kv.LockStrength
	// intent: an intent of the transaction is (or was) in the data; it blocks reads at or
	// above ts.
	intent bool
	ts     hlc.Timestamp
	since  time.Time
	at     int32 // index in txn.locks
}

// claim is the right to take a lock before everybody else: a woken waiter has it until
// it took the lock, gave up, or waits elsewhere.
type claim struct {
	req      *Request
	strength kv.LockStrength
}

// txnLocks is what the table knows of a transaction.
type txnLocks struct {
	meta  kv.TxnMeta
	locks []*lock
}

// Request is one batch's part in the lock table, from its first check to Finish. It is
// used by one goroutine.
type Request struct {
	txn    *kv.TxnMeta // nil outside a transaction
	claims []*lock
}

func (r *Request) sameTxn(o *Request) bool {
	return r == o || (r.txn != nil && o.txn != nil && r.txn.ID == o.txn.ID)
}

func (r *Request) owns(t *txnLocks) bool { return r.txn != nil && r.txn.ID == t.meta.ID }

// Waiter is a place in a lock's queue.
type Waiter struct {
	// C gets a value when it is worth looking again: the lock was granted, or the intent is
	// gone or was moved.
	C chan struct{}

	req      *Request
	lock     *lock
	strength kv.LockStrength // LockNone: a read
	ts       hlc.Timestamp   // of a read: what it must see below
	upgrade  bool
	queued   bool
}

// Key returns the key waited for.
func (w *Waiter) Key() keys.Key { return w.lock.key }

func (w *Waiter) wake() {
	select {
	case w.C <- struct{}{}:
	default:
	}
}

// excludes reports whether two strengths don't go together.
func excludes(a, b kv.LockStrength) bool {
	return a == kv.LockExclusive || b == kv.LockExclusive
}

func (l *lock) holderOf(id kv.TxnID) *holder {
	for i := range l.holders {
		if l.holders[i].txn.meta.ID == id {
			return &l.holders[i]
		}
	}
	return nil
}

func (l *lock) empty() bool {
	return len(l.holders) == 0 && len(l.claims) == 0 && len(l.queue) == 0 && len(l.readers) == 0
}

// blocksRead returns the intent holder that a read at ts must wait for.
func (l *lock) blocksRead(req *Request, ts hlc.Timestamp) *holder {
	for i := range l.holders {
		h := &l.holders[i]
		if h.intent && h.ts.LessEq(ts) && !req.owns(h.txn) {
			return h
		}
	}
	return nil
}

// heldAgainst returns a holder that excludes req at the given strength.
func (l *lock) heldAgainst(req *Request, s kv.LockStrength) *holder {
	for i := range l.holders {
		h := &l.holders[i]
		if !req.owns(h.txn) && excludes(h.strength, s) {
			return h
		}
	}
	return nil
}

// mustWait reports whether req can't take the lock now: somebody holds it, or was
// granted it, or (fairness) waits for it already. upgrade: req's transaction holds it shared,
// and goes ahead of those who hold nothing.
func (l *lock) mustWait(req *Request, s kv.LockStrength) (wait, upgrade bool) {
	var own *holder
	if req.txn != nil {
		own = l.holderOf(req.txn.ID)
	}
	// Another's intent may lie under a lock: one that was taken without seeing it.
	upgrade = own != nil
	if l.heldAgainst(req, s) != nil {
		return true, upgrade
	}
	if own != nil && own.strength >= s {
		return false, false
	}
	for _, c := range l.claims {
		if c.req == req && c.strength >= s {
			return false, upgrade
		}
	}
	for _, c := range l.claims {
		if !c.req.sameTxn(req) && excludes(c.strength, s) {
			return true, upgrade
		}
	}
	if upgrade {
		return false, true
	}
	for _, w := range l.queue {
		if !w.req.sameTxn(req) && excludes(w.strength, s) {
			return true, false
		}
	}
	return false, false
}

func (l *lock) enqueue(w *Waiter, front bool) {
	w.queued = true
	if w.strength == kv.LockNone {
		l.readers = append(l.readers, w)
		return
	}
	at := len(l.queue)
	if front {
		for at = 0; at < len(l.queue) && l.queue[at].upgrade && !w.upgrade; at++ {
		}
	} else if w.upgrade {
		for at = 0; at < len(l.queue) && l.queue[at].upgrade; at++ {
		}
	}
	l.queue = append(l.queue, nil)
	copy(l.queue[at+1:], l.queue[at:])
	l.queue[at] = w
}

func (l *lock) dequeue(w *Waiter) {
	if !w.queued {
		return
	}
	w.queued = false
	list := &l.queue
	if w.strength == kv.LockNone {
		list = &l.readers
	}
	for i, o := range *list {
		if o == w {
			copy((*list)[i:], (*list)[i+1:])
			(*list)[len(*list)-1] = nil
			*list = (*list)[:len(*list)-1]
			return
		}
	}
}

// advance wakes whoever can go on now: the reads that nothing blocks, and of the queue the
// first, with a claim, or all the shared ones at its head.
func (l *lock) advance() {
	if len(l.readers) > 0 {
		rest := l.readers[:0]
		for _, w := range l.readers {
			if l.blocksRead(w.req, w.ts) != nil {
				rest = append(rest, w)
				continue
			}
			w.queued = false
			w.wake()
		}
		clear(l.readers[len(rest):])
		l.readers = rest
	}
	for len(l.queue) > 0 {
		w := l.queue[0]
		if l.heldAgainst(w.req, w.strength) != nil {
			return
		}
		for _, c := range l.claims {
			if !c.req.sameTxn(w.req) && excludes(c.strength, w.strength) {
				return
			}
		}
		l.dequeue(w)
		l.claims = append(l.claims, claim{req: w.req, strength: w.strength})
		w.req.claims = append(w.req.claims, l)
		w.wake()
	}
}

// unclaim drops req's claims on the lock.
func (l *lock) unclaim(req *Request) {
	kept := l.claims[:0]
	for _, c := range l.claims {
		if c.req != req {
			kept = append(kept, c)
		}
	}
	clear(l.claims[len(kept):])
	l.claims = kept
}
