package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
)

// PutOptions say on whose behalf a write is made.
type PutOptions struct {
	// Txn is the writing transaction; the write becomes its intent. nil, or OnePhase, writes
	// a committed version.
	Txn *kv.Txn
	// OnePhase commits the transaction in this batch (1PC). ErrNotOnePhase if it has an intent
	// here already: other intents may exist then, which need a record.
	OnePhase bool
	// Seq is the write's number in the transaction.
	Seq int32
	// Cond is checked against the newest committed version (S26).
	Cond kv.Condition
	// Landed, if set, takes the timestamp at which the write stands when Put succeeds. It is
	// above ts where the transaction's own intent already was: the transaction can't commit
	// below it.
	Landed *hlc.Timestamp
	// Stats, if set, takes the change.
	Stats *Stats
}

// ErrNotOnePhase says that a transaction can't commit in one phase.
var ErrNotOnePhase = errors.New("mvcc: the transaction has an intent already")

// Put writes value, or a tombstone, at key and timestamp ts (with a transaction, its write
// timestamp). Nothing is written if it returns a foreign intent, which the caller must push,
// or an error:
//
//   - *kv.WriteTooOldError: a committed version at or above ts; try again above Actual.
//   - *kv.ConditionFailedError, *kv.RetryError: o.Cond does not hold.
//   - *kv.InvalidRequestError: a limit, a replayed write with another value, a stale epoch.
//
// Replaying a transaction's write with the same value changes nothing. It reads through rw,
// so that it sees the batch's earlier writes.
func Put(rw storage.ReadWriter, key keys.Key, ts hlc.Timestamp, value []byte, tombstone bool, o PutOptions) (*Intent, error) {
	if err := checkPut(key, ts, value, tombstone); err != nil {
		return nil, err
	}
	p := putter{rw: rw, key: key, ts: ts, value: value, tombstone: tombstone, o: &o}
	if err := p.read(); err != nil {
		return nil, err
	}
	if p.existing != nil {
		switch {
		case o.Txn == nil || p.existing.txn.ID != o.Txn.ID:
			return &Intent{Key: key.Clone(), Txn: p.existing.txn}, nil
		case o.OnePhase:
			return nil, ErrNotOnePhase
		case p.existing.txn.Epoch > o.Txn.Epoch:
			return nil, staleEpoch(key, p.existing.txn.Epoch, o.Txn.Epoch)
		case p.existing.txn.Epoch == o.Txn.Epoch:
			return nil, p.landed(p.overwrite())
		}
	}
	return nil, p.landed(p.fresh())
}

// landed reports where a write that succeeded stands.
func (p *putter) landed(err error) error {
	if err == nil && p.o.Landed != nil {
		*p.o.Landed = p.ts
	}
	return err
}

func checkPut(key keys.Key, ts hlc.Timestamp, value []byte, tombstone bool) error {
	switch {
	case len(key) == 0 || len(key) > MaxKeyBytes:
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("a key of %d bytes; want 1 to %d", len(key), MaxKeyBytes)}
	case len(value) > MaxValueBytes:
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("key %s: a value of %d bytes; at most %d fit", key, len(value), MaxValueBytes)}
	case ts.IsEmpty() || ts.WallNanos < 0 || ts.Logical < 0:
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("key %s: write timestamp %s", key, ts)}
	case tombstone && len(value) > 0:
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("key %s: a deletion with a value of %d bytes", key, len(value))}
	}
	return nil
}

// putter is one Put.
type putter struct {
	rw        storage.ReadWriter
	key       keys.Key
	ts        hlc.Timestamp
	value     []byte
	tombstone bool
	o         *PutOptions

	existing       *intent // on the key, anybody's
	existingRecord int     // its record's length
	own            []byte  // existing's newest value, only if it is this transaction's epoch
	newest         hlc.Timestamp
	newestLive     bool
	newestValue    []byte // only if a condition may report it
}

// read fetches the intent and the newest committed version, with one seek.
func (p *putter) read() (err error) {
	it, err := p.rw.NewIter(storage.IterOptions{})
	if err != nil {
		return err
	}
	defer closeIter(it, &err)
	ok := it.SeekPrefix(p.key, hlc.Timestamp{})
	if ok && it.Version().IsEmpty() {
		v, err := it.Value()
		if err != nil {
			return err
		}
		in := new(intent)
		if err := decodeIntent(v, in); err != nil {
			return fmt.Errorf("key %s: %w", p.key, err)
		}
		p.existing, p.existingRecord = in, len(v)
		if p.o.Txn == nil || in.txn.ID != p.o.Txn.ID {
			return nil // foreign: nothing below matters yet
		}
		if !it.Next() || it.Version() != in.txn.WriteTimestamp {
			return errors.Join(it.Error(), missingProvisional(p.key, in))
		}
		if in.txn.Epoch == p.o.Txn.Epoch {
			b, err := it.Value()
			if err != nil {
				return err
			}
			v, _, err := decodeValue(b)
			if err != nil {
				return err
			}
			p.own = append([]byte{}, v...)
		}
		ok = it.Next()
	}
	if !ok {
		return it.Error()
	}
	p.newest = it.Version()
	if p.o.Cond.Check {
		b, err := it.Value()
		if err != nil {
			return err
		}
		v, live, err := decodeValue(b)
		if err != nil {
			return err
		}
		if p.newestLive = live; live && p.o.Cond.MustBeAbsent {
			p.newestValue = append([]byte{}, v...)
		}
	}
	return nil
}

// condition checks o.Cond against the newest committed version.
func (p *putter) condition() error {
	c := &p.o.Cond
	switch {
	case !c.Check:
		return nil
	case c.MustBeAbsent && p.newestLive:
		return &kv.ConditionFailedError{Key: p.key.Clone(), Actual: p.newestValue}
	case c.Seen.Less(p.newest):
		return &kv.RetryError{Reason: kv.RetryLockLost,
			Detail: fmt.Sprintf("key %s has a version at %s, newer than the one seen at %s", p.key, p.newest, c.Seen)}
	}
	return nil
}

// fresh writes where the transaction has no write of this epoch.
func (p *putter) fresh() error {
	if err := p.condition(); err != nil {
		return err
	}
	if p.ts.LessEq(p.newest) {
		return &kv.WriteTooOldError{Key: p.key.Clone(), Actual: p.newest}
	}
	if p.o.Txn == nil || p.o.OnePhase {
		return setVersion(p.rw, p.key, p.ts, p.value, p.tombstone, p.o.Stats)
	}
	if p.existing != nil { // of an earlier epoch
		if err := deleteProvisional(p.rw, p.key, p.existing, p.o.Stats); err != nil {
			return err
		}
		p.o.Stats.record(p.key, p.existingRecord, -1)
	}
	return p.writeIntent(nil)
}

// overwrite writes over an intent of the same transaction and epoch. What its condition
// says of committed versions was checked when the intent was laid, which kept others away
// since; so only a savepoint rollback of everything brings that check back.
func (p *putter) overwrite() error {
	in := p.existing
	if p.o.Seq <= in.txn.Seq {
		return p.replay()
	}
	skip := p.o.Txn.IgnoredSeqs
	older, current := in.visible(p.o.Seq, skip)
	switch {
	case current && p.o.Cond.Check && p.o.Cond.MustBeAbsent && !in.tombstone:
		return &kv.ConditionFailedError{Key: p.key.Clone(), Actual: p.own}
	case older != nil && p.o.Cond.Check && p.o.Cond.MustBeAbsent && !older.tombstone:
		return &kv.ConditionFailedError{Key: p.key.Clone(), Actual: older.value}
	case !current && older == nil:
		if err := p.condition(); err != nil {
			return err
		}
	}
	history := make([]write, 0, len(in.history)+1)
	size := 0
	for _, w := range in.history {
		if !ignored(w.seq, skip) {
			history = append(history, w)
			size += len(w.value)
		}
	}
	if current {
		history = append(history, write{seq: in.txn.Seq, tombstone: in.tombstone, value: p.own})
		size += len(p.own)
	}
	if size > maxHistoryBytes {
		return &kv.InvalidRequestError{Detail: fmt.Sprintf("key %s: one transaction's earlier writes to it take %d bytes, at most %d are kept; write it less often, or in smaller values",
			p.key, size, maxHistoryBytes)}
	}
	p.ts = p.ts.Max(in.txn.WriteTimestamp)
	if p.ts != in.txn.WriteTimestamp {
		if err := deleteProvisional(p.rw, p.key, in, p.o.Stats); err != nil {
			return err
		}
	} else {
		p.o.Stats.version(p.key, in.storedLen, -1)
	}
	p.o.Stats.record(p.key, p.existingRecord, -1)
	return p.writeIntent(history)
}

// replay accepts a write that is there already.
func (p *putter) replay() error {
	in := p.existing
	p.ts = in.txn.WriteTimestamp
	if p.o.Seq == in.txn.Seq {
		if in.tombstone == p.tombstone && bytes.Equal(p.own, p.value) {
			return nil
		}
	} else {
		for i := range in.history {
			if w := &in.history[i]; w.seq == p.o.Seq && w.tombstone == p.tombstone && bytes.Equal(w.value, p.value) {
				return nil
			}
		}
	}
	return &kv.InvalidRequestError{Detail: fmt.Sprintf("key %s: write %d comes after write %d of the same transaction, and is not a repetition", p.key, p.o.Seq, in.txn.Seq)}
}

func (p *putter) writeIntent(history []write) error {
	in := intent{txn: p.o.Txn.TxnMeta, tombstone: p.tombstone, storedLen: 1 + len(p.value), history: history}
	in.txn.Seq, in.txn.WriteTimestamp = p.o.Seq, p.ts
	if err := setRecord(p.rw, p.key, &in, p.o.Stats); err != nil {
		return err
	}
	return setVersion(p.rw, p.key, p.ts, p.value, p.tombstone, p.o.Stats)
}

// records are buffers for encoding intent records.
var records = sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }}

func setRecord(w storage.Writer, key keys.Key, in *intent, s *Stats) error {
	buf := records.Get().(*[]byte)
	b := appendIntent((*buf)[:0], in)
	s.record(key, len(b), 1)
	err := w.Set(key, b)
	if cap(b) <= 4<<10 {
		*buf = b
	}
	records.Put(buf)
	return err
}

func setVersion(w storage.Writer, key keys.Key, ts hlc.Timestamp, value []byte, tombstone bool, s *Stats) error {
	s.version(key, 1+len(value), 1)
	kind := byte(kindValue)
	if tombstone {
		kind = kindTombstone
	}
	return w.SetVersion(key, ts, kind, value)
}

func deleteProvisional(w storage.Writer, key keys.Key, in *intent, s *Stats) error {
	s.version(key, in.storedLen, -1)
	return w.DeleteVersion(key, in.txn.WriteTimestamp)
}
