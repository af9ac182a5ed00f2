package concurrency

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// LockLimits bound a lock table.
type LockLimits struct {
	Locks    int // remembered in all
	TxnLocks int // of one transaction
	Waiters  int // for one key
}

// LockTable holds the locks of one range on its leaseholder: those that locking reads took,
// and the intents that somebody met. It is memory only: a lock can be lost with the lease,
// and the conditions of buffered writes catch that (SAFETY S26).
//
// Waiting is fair: first come, first served per key, except that a transaction that holds a
// shared lock and wants the exclusive one goes ahead. A request waits for one key at a time
// and gives up what it was granted elsewhere meanwhile, so that only locks, not grants, can be
// part of a deadlock.
type LockTable struct {
	limits LockLimits
	now    func() time.Time

	locked  atomic.Int64 // len(locks)
	intents atomic.Int64 // holders with an intent

	mu       sync.Mutex
	locks    *btree.BTreeG[*lock]
	txns     map[kv.TxnID]*txnLocks
	finished [2]map[kv.TxnID]Finished
	pivot    lock
	held     int
}

// Finished is the fate of a transaction that a push or a resolution told.
type Finished struct {
	Status      kv.TxnStatus
	TS          hlc.Timestamp
	Epoch       int32
	IgnoredSeqs []kv.SeqRange
}

// maxFinished bounds one generation of the fates remembered.
const maxFinished = 2048

// NewLockTable returns an empty table. now may be time.Now.
func NewLockTable(limits LockLimits, now func() time.Time) *LockTable {
	return &LockTable{
		limits:   limits,
		now:      now,
		locks:    btree.NewG(16, func(a, b *lock) bool { return bytes.Compare(a.key, b.key) < 0 }),
		txns:     make(map[kv.TxnID]*txnLocks),
		finished: [2]map[kv.TxnID]Finished{make(map[kv.TxnID]Finished), nil},
	}
}

// NewRequest starts a batch's part; txn is nil outside a transaction and must not change.
func (t *LockTable) NewRequest(txn *kv.TxnMeta) *Request { return &Request{txn: txn} }

// MakeRequest is NewRequest for the caller's own memory, which must stay where it is.
func MakeRequest(txn *kv.TxnMeta) Request { return Request{txn: txn} }

// Idle reports whether a request of this strength can't meet anything in the table. It is
// cheap, and right under latches: what excludes it would hold them.
func (t *LockTable) Idle(s kv.LockStrength) bool {
	if s == kv.LockNone {
		return t.intents.Load() == 0
	}
	return t.locked.Load() == 0
}

// Blocker is a transaction that stands in a request's way.
type Blocker struct {
	Txn    kv.TxnMeta
	Key    keys.Key
	Intent bool
	// Queued: it holds nothing yet, but was first in the queue. It must not be harmed.
	Queued bool
	Since  time.Time
}

// conflict finds the first lock of span that req must wait for.
func (t *LockTable) conflict(req *Request, span keys.Span, s kv.LockStrength, ts hlc.Timestamp) (found *lock, upgrade bool) {
	check := func(l *lock) bool {
		if s == kv.LockNone {
			if l.blocksRead(req, ts) != nil {
				found = l
			}
		} else if wait, up := l.mustWait(req, s); wait {
			found, upgrade = l, up
		}
		return found == nil
	}
	if span.IsPoint() {
		if l := t.get(span.Key); l != nil {
			check(l)
		}
		return found, upgrade
	}
	t.pivot.key = span.Key
	t.locks.AscendGreaterOrEqual(&t.pivot, func(l *lock) bool {
		return bytes.Compare(l.key, span.EndKey) < 0 && check(l)
	})
	t.pivot.key = nil
	return found, upgrade
}

// Enter checks whether req may take (LockNone: read, at ts) the keys of span. If it has to
// wait, it queues for the first key that is taken and returns its place; the caller waits on
// Waiter.C, without latches, and enters again, or Leaves.
func (t *LockTable) Enter(req *Request, span keys.Span, s kv.LockStrength, ts hlc.Timestamp) (*Waiter, error) {
	if t.Idle(s) {
		return nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l, upgrade := t.conflict(req, span, s, ts)
	if l == nil {
		return nil, nil
	}
	if len(l.queue)+len(l.readers) >= t.limits.Waiters {
		return nil, &kv.InvalidRequestError{Detail: fmt.Sprintf(
			"%d requests wait for the lock on key %s, the limit is %d; try again later", t.limits.Waiters, l.key, t.limits.Waiters)}
	}
	w := &Waiter{C: make(chan struct{}, 1), req: req, lock: l, strength: s, ts: ts, upgrade: upgrade}
	first := false
	for _, c := range req.claims {
		first = first || c == l
	}
	l.enqueue(w, first)
	t.dropClaims(req)
	return w, nil
}

// Conflict is Enter for those who don't wait: it returns who is in the way, or nil.
func (t *LockTable) Conflict(req *Request, span keys.Span, s kv.LockStrength, ts hlc.Timestamp) *Blocker {
	if t.Idle(s) {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l, _ := t.conflict(req, span, s, ts)
	if l == nil {
		return nil
	}
	if bs := l.blockers(req, s, ts, nil); len(bs) > 0 {
		return &bs[0]
	}
	return &Blocker{Key: l.key, Since: t.now()}
}

// Leave gives a place in a queue up.
func (t *LockTable) Leave(w *Waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w.lock.dequeue(w)
	w.lock.advance() // w may have stood in the way of those behind it
	t.dropIfEmpty(w.lock)
}

// Blockers returns the transactions that w waits for: those that hold the key, or, where
// nobody holds it against w, those that queue before it. They are at most 16.
func (t *LockTable) Blockers(w *Waiter) []Blocker {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !w.queued {
		return nil
	}
	return w.lock.blockers(w.req, w.strength, w.ts, w)
}

func (l *lock) blockers(req *Request, s kv.LockStrength, ts hlc.Timestamp, w *Waiter) []Blocker {
	const most = 16
	var out []Blocker
	for i := range l.holders {
		h := &l.holders[i]
		if req.owns(h.txn) || len(out) == most {
			continue
		}
		if s == kv.LockNone && (!h.intent || ts.Less(h.ts)) {
			continue
		}
		if s != kv.LockNone && !excludes(h.strength, s) {
			continue
		}
		out = append(out, Blocker{Txn: h.meta(), Key: l.key, Intent: h.intent, Since: h.since})
	}
	if len(out) > 0 || s == kv.LockNone {
		return out
	}
	if len(l.claims) > 0 {
		return nil // somebody was just granted it: that can't last
	}
	for _, o := range l.queue {
		if o == w || len(out) == most {
			break
		}
		if o.req.txn != nil && !o.req.sameTxn(req) && excludes(o.strength, s) {
			out = append(out, Blocker{Txn: *o.req.txn, Key: l.key, Queued: true})
		}
	}
	return out
}

// meta is the transaction as an intent at ts shows it.
func (h *holder) meta() kv.TxnMeta {
	m := h.txn.meta
	if h.intent {
		m.WriteTimestamp = h.ts
	}
	return m
}

// Acquire records that req's transaction locked key at the given strength. REQUIRES: under
// latches that exclude others, and Enter found nothing in the way.
func (t *LockTable) Acquire(req *Request, key keys.Key, s kv.LockStrength) error {
	if req.txn == nil {
		return &kv.InvalidRequestError{Detail: "a locking read outside a transaction"}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.get(key)
	if l != nil {
		if own := l.holderOf(req.txn.ID); own != nil {
			if own.strength < s {
				own.strength = s
			}
			t.taken(req, l)
			return nil
		}
	}
	if t.held >= t.limits.Locks {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf(
			"%d rows are locked in this range, the limit is %d; lock fewer rows at a time", t.held, t.limits.Locks)}
	}
	tl := t.txn(req.txn)
	if len(tl.locks) >= t.limits.TxnLocks {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf(
			"the transaction locked %d rows of one range, the limit is %d; lock fewer rows in one transaction", len(tl.locks), t.limits.TxnLocks)}
	}
	if l == nil {
		l = t.insert(key)
	}
	t.hold(l, tl, s, false, hlc.Timestamp{})
	t.taken(req, l)
	return nil
}

// taken turns a grant into a lock, and lets those go on that go together with it.
func (t *LockTable) taken(req *Request, l *lock) {
	for i, c := range req.claims {
		if c == l {
			last := len(req.claims) - 1
			req.claims[i] = req.claims[last]
			req.claims = req.claims[:last]
			l.unclaim(req)
			break
		}
	}
	l.advance()
}

func (t *LockTable) hold(l *lock, tl *txnLocks, s kv.LockStrength, intent bool, ts hlc.Timestamp) {
	if l.holders == nil {
		l.holders = make([]holder, 0, 1)
	}
	l.holders = append(l.holders, holder{txn: tl, strength: s, intent: intent, ts: ts, since: t.now(), at: int32(len(tl.locks))})
	tl.locks = append(tl.locks, l)
	t.held++
	if intent {
		t.intents.Add(1)
	}
}

func (t *LockTable) txn(m *kv.TxnMeta) *txnLocks {
	tl := t.txns[m.ID]
	if tl == nil {
		tl = &txnLocks{meta: *m}
		tl.meta.Key = m.Key.Clone()
		t.txns[m.ID] = tl
		return tl
	}
	if tl.meta.Epoch < m.Epoch || tl.meta.WriteTimestamp.Less(m.WriteTimestamp) {
		key := tl.meta.Key
		tl.meta = *m
		if tl.meta.Key = key; len(key) == 0 {
			tl.meta.Key = m.Key.Clone()
		}
	}
	return tl
}

// Discover records a foreign intent that an evaluation met. REQUIRES: under latches on key,
// so that it can't be resolved meanwhile.
func (t *LockTable) Discover(m *kv.TxnMeta, key keys.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.get(key)
	if l == nil {
		l = t.insert(key)
	}
	t.intentAt(l, m)
}

func (t *LockTable) intentAt(l *lock, m *kv.TxnMeta) {
	tl := t.txn(m)
	h := l.holderOf(m.ID)
	if h == nil {
		t.hold(l, tl, kv.LockExclusive, true, m.WriteTimestamp)
		return
	}
	if !h.intent {
		t.intents.Add(1)
	}
	h.strength, h.intent, h.ts = kv.LockExclusive, true, m.WriteTimestamp
}

// IntentWritten records that req's transaction now has an intent on key: the intent
// itself keeps others out, so that the lock is forgotten, unless others wait for it.
// REQUIRES: under latches on key, after the intent was applied.
func (t *LockTable) IntentWritten(req *Request, m *kv.TxnMeta, key keys.Key) {
	if t.locked.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.get(key)
	if l == nil {
		return
	}
	if len(l.queue) > 0 || len(l.readers) > 0 {
		t.intentAt(l, m)
		t.taken(req, l)
		return
	}
	if l.holderOf(m.ID) != nil {
		t.release(l, m.ID)
	}
	t.taken(req, l)
	t.dropIfEmpty(l)
}

// IntentMoved records that an intent of a live transaction in span was moved up to ts.
func (t *LockTable) IntentMoved(id kv.TxnID, span keys.Span, ts hlc.Timestamp) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tl := t.txns[id]
	if tl == nil {
		return
	}
	for _, l := range tl.locks {
		if !span.Contains(l.key) {
			continue
		}
		if h := l.holderOf(id); h != nil && h.intent && h.ts.Less(ts) {
			h.ts = ts
			l.advance()
		}
	}
}

// Release drops all locks of a transaction that is over, and wakes one waiter for each.
// REQUIRES: what ended it is applied (S6).
func (t *LockTable) Release(id kv.TxnID) {
	if t.locked.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	tl := t.txns[id]
	if tl == nil {
		return
	}
	for len(tl.locks) > 0 {
		l := tl.locks[len(tl.locks)-1]
		t.release(l, id)
		l.advance()
		t.dropIfEmpty(l)
	}
	delete(t.txns, id)
}

// IntentGone drops the hold of a live transaction on one key, whose intent was removed
// (savepoint rollback, new epoch).
func (t *LockTable) IntentGone(id kv.TxnID, key keys.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.get(key); l != nil && l.holderOf(id) != nil {
		t.release(l, id)
		l.advance()
		t.dropIfEmpty(l)
	}
}

// release removes a transaction from a lock's holders.
func (t *LockTable) release(l *lock, id kv.TxnID) {
	for i := range l.holders {
		h := &l.holders[i]
		if h.txn.meta.ID != id {
			continue
		}
		tl := h.txn
		last := len(tl.locks) - 1
		if int(h.at) != last {
			moved := tl.locks[last]
			tl.locks[h.at] = moved
			moved.holderOf(id).at = h.at
		}
		tl.locks[last] = nil
		tl.locks = tl.locks[:last]
		if h.intent {
			t.intents.Add(-1)
		}
		t.held--
		lastH := len(l.holders) - 1
		l.holders[i] = l.holders[lastH]
		l.holders[lastH] = holder{}
		l.holders = l.holders[:lastH]
		if len(tl.locks) == 0 {
			delete(t.txns, id)
		}
		return
	}
}

// Finish ends a request: grants that it did not use pass on.
func (t *LockTable) Finish(req *Request) {
	if len(req.claims) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropClaims(req)
}

func (t *LockTable) dropClaims(req *Request) {
	claims := req.claims
	req.claims = nil
	for _, l := range claims {
		l.unclaim(req)
		l.advance()
		t.dropIfEmpty(l)
	}
}

func (t *LockTable) get(key keys.Key) *lock {
	t.pivot.key = key
	l, _ := t.locks.Get(&t.pivot)
	t.pivot.key = nil
	return l
}

func (t *LockTable) insert(key keys.Key) *lock {
	l := &lock{key: key.Clone()}
	t.locks.ReplaceOrInsert(l)
	t.locked.Add(1)
	return l
}

func (t *LockTable) dropIfEmpty(l *lock) {
	if !l.empty() {
		return
	}
	if o, ok := t.locks.Get(l); ok && o == l {
		t.locks.Delete(l)
		t.locked.Add(-1)
	}
}

// SetFinished remembers a transaction's fate, for the next who meets one of its intents.
func (t *LockTable) SetFinished(id kv.TxnID, f Finished) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.finished[0]) >= maxFinished {
		t.finished[0], t.finished[1] = make(map[kv.TxnID]Finished), t.finished[0]
	}
	t.finished[0][id] = f
}

// Finished returns the fate that SetFinished remembered.
func (t *LockTable) Finished(id kv.TxnID) (Finished, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, ok := t.finished[0][id]
	if !ok {
		f, ok = t.finished[1][id]
	}
	return f, ok
}

// KeysOf returns keys in the table that a transaction has an intent on, at most limit.
func (t *LockTable) KeysOf(id kv.TxnID, limit int) []keys.Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	tl := t.txns[id]
	if tl == nil {
		return nil
	}
	var out []keys.Key
	for _, l := range tl.locks {
		if h := l.holderOf(id); h != nil && h.intent {
			if out = append(out, l.key); len(out) == limit {
				break
			}
		}
	}
	return out
}

// Locks returns how many locks are held, for tests and metrics.
func (t *LockTable) Locks() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held
}

// HeldLock is a lock as one range hands it to another (S20).
type HeldLock struct {
	Key      keys.Key
	Txn      kv.TxnMeta
	Strength kv.LockStrength
	Intent   bool
	TS       hlc.Timestamp
}

// TakeFrom removes all locks on keys from start on, and returns them. Who waits for them is
// woken, and finds that the key is not in the range any more.
func (t *LockTable) TakeFrom(start keys.Key) []HeldLock {
	t.mu.Lock()
	defer t.mu.Unlock()
	var taken []*lock
	t.pivot.key = start
	t.locks.AscendGreaterOrEqual(&t.pivot, func(l *lock) bool {
		taken = append(taken, l)
		return true
	})
	t.pivot.key = nil
	var out []HeldLock
	for _, l := range taken {
		for len(l.holders) > 0 {
			h := l.holders[0]
			out = append(out, HeldLock{Key: l.key, Txn: h.txn.meta, Strength: h.strength, Intent: h.intent, TS: h.ts})
			t.release(l, h.txn.meta.ID)
		}
		l.advance()
		// What was granted is given up when the woken requests finish.
		for len(l.queue) > 0 {
			w := l.queue[0]
			l.dequeue(w)
			w.wake()
		}
		t.dropIfEmpty(l)
	}
	return out
}

// Put adds locks that another range handed over.
func (t *LockTable) Put(locks []HeldLock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range locks {
		h := &locks[i]
		l := t.get(h.Key)
		if l == nil {
			l = t.insert(h.Key)
		}
		if l.holderOf(h.Txn.ID) == nil {
			t.hold(l, t.txn(&h.Txn), h.Strength, h.Intent, h.TS)
		}
	}
}
