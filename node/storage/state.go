package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/atolldb/atoll/node/keys"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
)

// StateOptions configure a state engine.
type StateOptions = Options

// StateEngine holds every range's data and applied index. Its writes are durable only
// after a flush (S16). Safe for concurrent use.
type StateEngine struct{ *engine }

// OpenState opens or creates the state engine in o.Dir. It fails with ErrLocked if the
// folder is open elsewhere and with ErrNewerFormat if a newer Atoll wrote it.
func OpenState(o StateOptions) (*StateEngine, error) {
	e, err := openEngine(stateKind, o, configureState)
	if err != nil {
		return nil, err
	}
	return &StateEngine{e}, nil
}

// Close flushes and closes the engine. Iterators, snapshots and batches must be closed
// before.
func (s *StateEngine) Close() error {
	err := s.Flush()
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return errors.Join(err, s.close(false))
}

// CloseWithoutFlush closes the engine and drops what was not flushed, as a crash does.
// Tests and the simulator use it.
func (s *StateEngine) CloseWithoutFlush() error { return s.close(true) }

// Get implements Reader.
func (s *StateEngine) Get(key keys.Key) ([]byte, bool, error) {
	if err := s.begin(); err != nil {
		return nil, false, err
	}
	defer s.end()
	return readerGet(s.db, key)
}

// NewIter implements Reader.
func (s *StateEngine) NewIter(o IterOptions) (*Iterator, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.end()
	return newIter(s.db, o, false)
}

// NewSnapshot returns a consistent view that lasts until it is closed.
func (s *StateEngine) NewSnapshot() (*Snapshot, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.end()
	return &Snapshot{e: s.engine, s: s.db.NewSnapshot()}, nil
}

// NewBatch returns a batch that can be read from.
func (s *StateEngine) NewBatch() *Batch { return &Batch{b: s.db.NewIndexedBatch(), indexed: true} }

// NewWriteBatch returns a batch that can't be read from; it is cheaper.
func (s *StateEngine) NewWriteBatch() *Batch { return &Batch{b: s.db.NewBatch()} }

// Commit applies a batch atomically. It is durable only after a flush. The batch must be
// closed afterwards.
func (s *StateEngine) Commit(b *Batch) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	return s.wrote(s.db.Apply(b.b, pebble.NoSync))
}

// ApplyRepr applies the writes of a Batch.Repr and those of more (the applied index) in one
// atomic batch (S16). It is durable only after a flush. repr is not changed or kept. An
// error of decoding or of more applies nothing; every other error is fatal.
func (s *StateEngine) ApplyRepr(repr []byte, more func(Writer) error) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	b := Batch{b: s.db.NewBatchWithSize(len(repr) + 256)}
	defer b.Close()
	if len(repr) > 0 {
		if err := b.Append(repr); err != nil {
			return err
		}
	}
	if more != nil {
		if err := more(&b); err != nil {
			return err
		}
	}
	return s.wrote(s.db.Apply(b.b, pebble.NoSync))
}

// appendRepr adds the writes of repr to b, after checking every one: repr has crossed the
// network, and Pebble believes what it is given.
func appendRepr(b *pebble.Batch, repr []byte) error {
	if err := CheckRepr(repr); err != nil {
		return err
	}
	var src pebble.Batch
	if err := src.SetRepr(repr); err != nil {
		return fmt.Errorf("storage: batch of %d bytes: %w", len(repr), err)
	}
	if err := b.Apply(&src, nil); err != nil {
		return fmt.Errorf("storage: batch of %d bytes: %w", len(repr), err)
	}
	return nil
}

// CheckRepr reports whether repr is a whole batch of writes that this package makes. It
// decodes by itself: Pebble's reader trusts its input, and reads past the end of a short one.
func CheckRepr(repr []byte) error {
	h, ok := batchrepr.ReadHeader(repr)
	if !ok {
		return fmt.Errorf("storage: batch of %d bytes has no header of %d", len(repr), batchrepr.HeaderLen)
	}
	rest := repr[batchrepr.HeaderLen:]
	var n uint32
	for ; len(rest) > 0; n++ {
		kind := pebble.InternalKeyKind(rest[0])
		key, r, ok := reprString(rest[1:])
		var value []byte
		if ok && kind != pebble.InternalKeyKindDelete {
			value, r, ok = reprString(r)
		}
		if !ok {
			return fmt.Errorf("storage: batch of %d bytes: operation %d is cut short", len(repr), n)
		}
		rest = r
		if _, _, err := DecodeKey(key); err != nil {
			return fmt.Errorf("storage: batch operation %d: %w", n, err)
		}
		switch kind {
		case pebble.InternalKeyKindSet, pebble.InternalKeyKindDelete:
		case pebble.InternalKeyKindRangeDelete:
			if _, _, err := DecodeKey(value); err != nil {
				return fmt.Errorf("storage: batch operation %d: end of the range: %w", n, err)
			}
			if stateComparer.Compare(key, value) >= 0 {
				return fmt.Errorf("storage: batch operation %d: range [%x, %x) is empty or reversed", n, key, value)
			}
		default:
			return fmt.Errorf("storage: batch operation %d has kind %d; only set, delete and range delete are known", n, kind)
		}
	}
	if n != h.Count {
		return fmt.Errorf("storage: batch announces %d operations and holds %d", h.Count, n)
	}
	return nil
}

// reprString takes a byte string with its length in front.
func reprString(b []byte) (s, rest []byte, ok bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > binary.MaxVarintLen32 || v > uint64(len(b)-n) {
		return nil, nil, false
	}
	b = b[n:]
	return b[:v], b[v:], true
}

// Flush makes everything applied so far durable before it returns (S16's barrier).
func (s *StateEngine) Flush() error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	done, err := s.db.AsyncFlush()
	if err != nil {
		return s.wrote(fmt.Errorf("storage: flush: %w", err))
	}
	// A failed flush never closes done: Pebble would retry for ever.
	select {
	case <-done:
	case <-s.failed:
	}
	return s.fatalErr()
}

// DurableGet reads an unversioned key as of the last flush: what a crash can't take.
func (s *StateEngine) DurableGet(key keys.Key) ([]byte, bool, error) {
	it, err := s.NewDurableIter(IterOptions{Lower: key, Upper: key.Next()})
	if err != nil {
		return nil, false, err
	}
	var value []byte
	found := it.First() && it.Version().IsEmpty() && it.Key().Equal(key)
	if found {
		v, err := it.Value()
		if err != nil {
			return nil, false, errors.Join(err, it.Close())
		}
		value = append([]byte{}, v...)
	}
	return value, found, it.Close()
}

// NewDurableIter iterates over what a crash can't take: the state as of the last flush.
func (s *StateEngine) NewDurableIter(o IterOptions) (*Iterator, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.end()
	it, err := newIter(s.db, o, true)
	if err != nil {
		return nil, err
	}
	// A manifest write that failed while this ran is not durable, whatever Pebble says.
	if err := s.fatalErr(); err != nil {
		return nil, errors.Join(err, it.Close())
	}
	return it, nil
}

// ClearRange removes every key in the spans, versions included, in one batch. It is durable
// only after a flush.
func (s *StateEngine) ClearRange(spans ...keys.Span) error {
	b := s.NewWriteBatch()
	defer b.Close()
	for _, sp := range spans {
		if err := b.DeleteRange(sp.Key, sp.End()); err != nil {
			return err
		}
	}
	return s.Commit(b)
}

// DiskUsage estimates the bytes that the keys of a span take in table files. What is not
// flushed yet is not counted.
func (s *StateEngine) DiskUsage(span keys.Span) (int64, error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	defer s.end()
	n, err := s.db.EstimateDiskUsage(EncodeKey(nil, span.Key), EncodeKey(nil, span.End()))
	if err != nil {
		return 0, fmt.Errorf("storage: disk usage of %s: %w", span, err)
	}
	return int64(n), nil
}

// Compact rewrites the tables of a span, which frees the space of removed keys.
func (s *StateEngine) Compact(span keys.Span) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	return s.db.Compact(bgCtx, EncodeKey(nil, span.Key), EncodeKey(nil, span.End()), false)
}
