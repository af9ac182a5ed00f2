package replica

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/concurrency"
	"github.com/atolldb/atoll/node/replica/eval"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

// resolution is a finished transaction whose intents and locks elsewhere are to be resolved
// (S13). Nothing acknowledged depends on it: whoever meets an intent resolves it.
type resolution struct {
	txn     kv.TxnMeta
	status  kv.TxnStatus
	ignored []kv.SeqRange
	spans   []keys.Span
	record  bool // its record is removed afterwards
}

// resolver resolves asynchronously, with a bounded number of goroutines and a bounded queue.
// What does not fit the queue keeps its record, and CleanupTxns finds it later.
type resolver struct {
	r *Replica

	mu       sync.Mutex
	queue    []resolution
	running  int
	removals []kv.TxnMeta // records to remove
	removing bool
}

func (q *resolver) init(r *Replica) { q.r = r }

// add queues one resolution; false if the queue is full.
func (q *resolver) add(res resolution) bool {
	q.mu.Lock()
	if len(q.queue) >= q.r.limits.AsyncQueue {
		q.mu.Unlock()
		return false
	}
	q.queue = append(q.queue, res)
	start := q.running < q.r.limits.AsyncResolvers
	if start {
		q.running++
	}
	q.mu.Unlock()
	if start && !q.r.spawn(q.work) {
		q.mu.Lock()
		q.running--
		q.mu.Unlock()
	}
	return true
}

// work resolves until the queue is empty.
func (q *resolver) work() {
	for {
		q.mu.Lock()
		if len(q.queue) == 0 || q.r.ctx.Err() != nil {
			q.running--
			q.mu.Unlock()
			return
		}
		res := q.queue[0]
		q.queue[0] = resolution{}
		q.queue = q.queue[1:]
		q.mu.Unlock()
		if q.resolve(&res) && res.record {
			q.remove(res.txn)
		}
	}
}

// Tries of one resolution, and how long one may take.
const (
	resolveTries   = 4
	resolveTimeout = 10 * time.Second
	resolveChunk   = 200
)

func (q *resolver) resolve(res *resolution) bool {
	backoff := 100 * time.Millisecond
	for try := 0; ; try++ {
		err := q.resolveOnce(res)
		if err == nil {
			return true
		}
		if try == resolveTries || q.r.ctx.Err() != nil {
			return false
		}
		t := time.NewTimer(backoff)
		select {
		case <-t.C:
		case <-q.r.ctx.Done():
			t.Stop()
			return false
		}
		backoff *= 2
	}
}

func (q *resolver) resolveOnce(res *resolution) error {
	ctx, cancel := context.WithTimeout(q.r.ctx, resolveTimeout)
	defer cancel()
	for from := 0; from < len(res.spans); from += resolveChunk {
		ba := q.r.internal()
		for _, s := range res.spans[from:min(from+resolveChunk, len(res.spans))] {
			ba.Requests = append(ba.Requests, &kv.ResolveIntentRequest{Span: s, Txn: res.txn, Status: res.status, IgnoredSeqs: res.ignored})
		}
		if _, err := q.r.cfg.Sender.Send(ctx, ba); err != nil {
			return err
		}
	}
	return nil
}

// removeDelay gathers records, so that their removal costs one command for many.
const removeDelay = 100 * time.Millisecond

// remove queues a record for removal. REQUIRES: S11; every intent that it lists is resolved,
// durably: the resolutions were applied through the log.
func (q *resolver) remove(t kv.TxnMeta) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.removals = append(q.removals, t)
	if q.removing {
		return
	}
	q.removing = q.r.spawn(func() {
		timer := time.NewTimer(removeDelay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-q.r.ctx.Done():
		}
		q.mu.Lock()
		txns := q.removals
		q.removals, q.removing = nil, false
		q.mu.Unlock()
		const chunk = 500
		for from := 0; from < len(txns) && q.r.ctx.Err() == nil; from += chunk {
			// What fails here stays until CleanupTxns.
			_ = q.r.removeRecords(q.r.ctx, txns[from:min(from+chunk, len(txns))])
		}
	})
}

// removeRecords removes the records of finished transactions in one command.
func (r *Replica) removeRecords(ctx context.Context, txns []kv.TxnMeta) error {
	t, _, err := r.lease()
	if err != nil {
		return err
	}
	desc := r.desc.Load()
	var spans []concurrency.LatchSpan
	for i := range txns {
		spans = append(spans, concurrency.LatchSpan{Span: keys.Span{Key: keys.TxnRecord(txns[i].Key, txns[i].ID)}, Access: concurrency.Exclusive})
	}
	g, err := t.latches.Acquire(ctx, t.over, spans)
	if err != nil {
		return r.waitError(err)
	}
	defer t.latches.Release(g)
	b := r.cfg.Engine.NewWriteBatch()
	defer b.Close()
	for i := range txns {
		m := &txns[i]
		rec, err := eval.LoadRecord(r.cfg.Engine, m.Key, m.ID)
		if err != nil {
			return err
		}
		if rec == nil || !desc.Contains(m.Key) || (rec.Status != kv.TxnCommitted && rec.Status != kv.TxnAborted) {
			continue
		}
		t.tscache.MarkEnded(m) // before the record goes: it can't be made anew (S10)
		if err := b.Delete(keys.TxnRecord(m.Key, m.ID)); err != nil {
			return err
		}
	}
	if b.Empty() || r.desc.Load() != desc {
		return nil
	}
	cmd := &raftcmd.Command{Term: t.term, Proposer: r.cfg.Node, Batch: append([]byte(nil), b.Repr()...)}
	_, err = r.cfg.Group.Propose(ctx, cmd)
	return err
}

// CleanupTxns looks at up to limit transaction records of the range and finishes what their
// coordinators left behind: it aborts expired transactions, recovers STAGING ones, resolves
// what finished ones list, and removes their records. It returns how many it dealt with. The
// store calls it now and then on leaseholders.
func (r *Replica) CleanupTxns(ctx context.Context, limit int) (int, error) {
	if _, _, err := r.lease(); err != nil {
		return 0, err
	}
	recs, err := r.oldRecords(limit)
	if err != nil {
		return 0, err
	}
	done := 0
	var errs []error
	for _, rec := range recs {
		if err := r.cleanup(ctx, rec); err != nil {
			errs = append(errs, err)
			continue
		}
		done++
	}
	return done, errors.Join(errs...)
}

// oldRecords returns records without a sign of life for twice the expiry.
func (r *Replica) oldRecords(limit int) (out []*kv.Txn, err error) {
	d := r.desc.Load()
	span := keys.AddressedLocalSpan(d.Start, d.End)
	it, err := r.cfg.Engine.NewIter(storage.IterOptions{Lower: span.Key, Upper: span.EndKey})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	now := r.cfg.Clock.Now()
	for ok := it.First(); ok && len(out) < limit; ok = it.NextKey() {
		v, err := it.Value()
		if err != nil {
			return nil, err
		}
		rec, err := kv.DecodeTxn(v)
		if err != nil {
			return nil, err
		}
		if rec.LastHeartbeat.Add(2 * r.limits.TxnExpiry).Less(now) {
			out = append(out, rec)
		}
	}
	return out, it.Error()
}

func (r *Replica) cleanup(ctx context.Context, rec *kv.Txn) error {
	if rec.Status == kv.TxnPending || rec.Status == kv.TxnStaging {
		now, err := r.sendPush(ctx, &kv.PushTxnRequest{Key: rec.Key, Pushee: rec.TxnMeta, Kind: kv.PushTouch})
		if err != nil {
			return err
		}
		if now.Status == kv.TxnStaging {
			if now, err = r.recoverTxn(ctx, now); err != nil {
				return err
			}
		}
		rec = now
	}
	if rec.Status != kv.TxnCommitted && rec.Status != kv.TxnAborted {
		return nil // it lives
	}
	spans := rec.LockSpans
	for _, w := range rec.InFlight {
		spans = append(spans, keys.Span{Key: w.Key})
	}
	res := resolution{txn: rec.TxnMeta, status: rec.Status, ignored: rec.IgnoredSeqs, spans: spans, record: true}
	if err := r.resolver.resolveOnce(&res); err != nil {
		return err
	}
	r.resolver.remove(rec.TxnMeta)
	return nil
}
