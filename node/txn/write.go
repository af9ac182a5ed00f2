package txn

import (
	"context"
	"fmt"
	"sync"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// Put buffers a write. The condition is checked when the write lands (S26), except for what
// the transaction's own writes decide at once: a key that it wrote already is not absent.
func (t *Txn) Put(ctx context.Context, key keys.Key, value []byte, cond kv.Condition) error {
	return t.write(ctx, key, version{value: value}, cond)
}

// Delete buffers a tombstone.
func (t *Txn) Delete(ctx context.Context, key keys.Key, cond kv.Condition) error {
	return t.write(ctx, key, version{delete: true}, cond)
}

// TooLargeError refuses a key or value that is larger than what a range stores. Nothing was sent.
type TooLargeError struct{ Key, Value, MaxKey, MaxValue int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("a key of %d bytes with a value of %d is too large: keys have up to %d bytes, values up to %d", e.Key, e.Value, e.MaxKey, e.MaxValue)
}

func (t *Txn) write(ctx context.Context, key keys.Key, v version, cond kv.Condition) error {
	if err := t.check(); err != nil {
		return err
	}
	if t.opts.ReadOnly {
		return &kv.InvalidRequestError{Detail: "write in a read-only transaction"}
	}
	if len(key) == 0 {
		return &kv.InvalidRequestError{Detail: "write to an empty key"}
	}
	if len(key) > MaxKeyBytes || len(v.value) > MaxValueBytes {
		return &TooLargeError{Key: len(key), Value: len(v.value), MaxKey: MaxKeyBytes, MaxValue: MaxValueBytes}
	}
	if cond.MustBeAbsent {
		if b := t.buf.get(key); b != nil && !b.dead && !b.newest().delete {
			return &kv.ConditionFailedError{Key: key, Actual: b.newest().value}
		}
	}
	t.seq++
	v.seq = t.seq
	t.buf.put(key, v, cond)
	if t.buf.bytes > t.db.limit {
		return t.flush(ctx)
	}
	return nil
}

// flush sends the whole buffer as intents and empties it.
func (t *Txn) flush(ctx context.Context) error {
	if t.buf.empty() {
		return nil
	}
	t.db.met.flushes.Inc()
	reqs, _ := t.puts(true)
	if err := t.sendIntents(ctx, reqs); err != nil {
		return err
	}
	t.buf.reset()
	return nil
}

// puts returns the buffered writes as requests in key order, and their bytes: all of a
// key's writes with their numbers if all, otherwise the newest one of each key.
func (t *Txn) puts(all bool) (reqs []kv.Request, bytes int) {
	list := t.buf.inOrder()
	backing := make([]kv.PutRequest, 0, len(list))
	add := func(b *bufferedKey, v *version, cond kv.Condition) {
		if len(backing) == cap(backing) {
			backing = make([]kv.PutRequest, 0, len(list))
		}
		backing = append(backing, kv.PutRequest{Key: b.key, Value: v.value, Delete: v.delete, Seq: v.seq, Cond: cond})
		reqs = append(reqs, &backing[len(backing)-1])
		bytes += t.intentBytes(&backing[len(backing)-1])
	}
	reqs = make([]kv.Request, 0, len(list)+1)
	for _, b := range list {
		switch {
		case b.dead:
		case !all:
			add(b, b.newest(), b.cond)
		default:
			add(b, &b.first, b.cond)
			for i := range b.more {
				add(b, &b.more[i], kv.Condition{})
			}
		}
	}
	return reqs, bytes
}

// intentBytes is about what a write takes in a command: key and value, the intent with the
// anchor, and its place in the record.
func (t *Txn) intentBytes(put *kv.PutRequest) int {
	return 3*len(put.Key) + len(put.Value) + len(t.txn.Key) + 2*versionOverhead
}

// maxPieces bounds the pieces of one flush that are under way at a time.
const maxPieces = 6

// sendIntents writes intents, in pieces of at most PieceLimit bytes, several at a time: their
// keys differ, and the log takes the next one while the disks still sync the last. All of them
// have an answer when it returns.
func (t *Txn) sendIntents(ctx context.Context, reqs []kv.Request) error {
	for len(reqs) > 0 {
		n, err := t.sendPieces(ctx, reqs)
		if err != nil {
			return err
		}
		reqs = reqs[n:]
	}
	return nil
}

// sendPieces sends up to maxPieces pieces and returns how many requests they held.
func (t *Txn) sendPieces(ctx context.Context, reqs []kv.Request) (int, error) {
	var pieces [][]kv.Request
	done := 0
	for done < len(reqs) && len(pieces) < maxPieces {
		if done > 0 && reqs[done].(*kv.PutRequest).Key.Equal(reqs[done-1].(*kv.PutRequest).Key) {
			break // one key's writes land in their order: the last piece comes first
		}
		n, err := t.piece(ctx, reqs[done:])
		if err != nil {
			return 0, err
		}
		pieces = append(pieces, reqs[done:done+n])
		done += n
	}
	if len(pieces) == 1 {
		return done, t.sendWrites(ctx, pieces[0], nil)
	}
	p := t.proto(t.seq)
	answers := make([]*kv.BatchResponse, len(pieces))
	errs := make([]error, len(pieces))
	sctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i, piece := range pieces {
		wg.Go(func() {
			answers[i], errs[i] = t.db.sender.Send(sctx, &kv.BatchRequest{Header: kv.Header{Txn: p}, Requests: piece})
			if !movesOnly(errs[i]) {
				cancel(errs[i]) // the others may wait for locks, and others for this transaction
			}
		})
	}
	wg.Wait()
	for i := range errs {
		if errs[i] = t.unpack(errs[i]); errs[i] == nil {
			t.learn(answers[i].Txn)
		}
	}
	if cause := context.Cause(sctx); cause != nil && ctx.Err() == nil {
		return 0, t.move(ctx, t.unpack(cause), maxMoves)
	}
	for i, err := range errs {
		if err != nil {
			if err := t.sendWrites(ctx, pieces[i], err); err != nil {
				return 0, err
			}
		}
	}
	return done, nil
}

// movesOnly reports whether a write that was answered with err may land at a later timestamp.
func movesOnly(err error) bool {
	if part, ok := err.(*kv.PartialError); ok {
		err = part.Err
	}
	switch err.(type) {
	case nil, *kv.WriteTooOldError, *kv.UncertaintyError:
		return true
	}
	return false
}

// piece returns how many of the requests fit one batch, and notes that their intents may be
// there from now on, even if the answer is an error.
func (t *Txn) piece(ctx context.Context, reqs []kv.Request) (int, error) {
	n, bytes := 0, 0
	for n < len(reqs) {
		put := reqs[n].(*kv.PutRequest)
		size := t.intentBytes(put)
		if n > 0 && bytes+size > PieceLimit {
			break
		}
		bytes += size
		n++
		t.flushedSeq, t.everFlushed = max(t.flushedSeq, put.Seq), true
		if err := t.lockAt(ctx, keys.Span{Key: put.Key}); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// sendWrites sends one batch of intents, moving the timestamp as needed. failed, if not nil,
// is what an earlier try ended with.
func (t *Txn) sendWrites(ctx context.Context, reqs []kv.Request, failed error) error {
	for moves := 0; ; moves++ {
		err := failed
		if failed = nil; err == nil {
			var br *kv.BatchResponse
			br, err = t.send(ctx, &kv.BatchRequest{Header: kv.Header{Txn: t.proto(t.seq)}, Requests: reqs})
			if err == nil {
				t.learn(br.Txn)
				return nil
			}
		}
		if old, ok := err.(*kv.WriteTooOldError); ok && moves < maxMoves && t.txn.Isolation == kv.ReadCommitted {
			// A blind write in READ COMMITTED goes above what is there.
			t.forwardWrite(old.Actual.Next())
			continue
		}
		if err := t.move(ctx, err, moves); err != nil {
			return err
		}
	}
}

func (t *Txn) forwardWrite(to hlc.Timestamp) {
	if t.txn.WriteTimestamp.Forward(to) {
		t.changed()
	}
}
