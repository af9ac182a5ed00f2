package storage

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/cockroachkvs"
)

// Reader reads a consistent view (Snapshot, Batch) or the newest state (StateEngine: each
// call sees a view of its own; an iterator keeps the view of its creation).
type Reader interface {
	// Get returns a copy of an unversioned key's value.
	Get(key keys.Key) (value []byte, ok bool, err error)
	// NewIter returns an unpositioned iterator. The caller closes it.
	NewIter(o IterOptions) (*Iterator, error)
}

// Writer collects writes.
type Writer interface {
	// Set writes an unversioned key.
	Set(key keys.Key, value []byte) error
	// Delete removes an unversioned key.
	Delete(key keys.Key) error
	// SetVersion writes key's version at ts; what is stored is tag followed by value (so that
	// the caller need not put them together). REQUIRES: ts is not zero.
	SetVersion(key keys.Key, ts hlc.Timestamp, tag byte, value []byte) error
	// DeleteVersion removes key's version at ts.
	DeleteVersion(key keys.Key, ts hlc.Timestamp) error
	// DeleteRange removes every key in [start, end), versions included.
	DeleteRange(start, end keys.Key) error
}

// ReadWriter is a Reader that sees what was written to it.
type ReadWriter interface {
	Reader
	Writer
}

var (
	_ Reader     = (*StateEngine)(nil)
	_ Reader     = (*Snapshot)(nil)
	_ ReadWriter = (*Batch)(nil)
)

// IterOptions bound an iterator.
type IterOptions struct {
	// Lower and Upper bound the keys to [Lower, Upper); empty means unbounded.
	Lower, Upper keys.Key
	// MinVersion and MaxVersion, where set, let the iterator leave out blocks without a
	// version in the closed interval. It still returns other keys, and may miss unversioned
	// ones: use it to find candidates only, and read those again without it.
	MinVersion, MaxVersion hlc.Timestamp
}

// pebbleReader is what *pebble.DB, *pebble.Snapshot and *pebble.Batch share.
type pebbleReader interface {
	Get(key []byte) ([]byte, io.Closer, error)
	NewIter(o *pebble.IterOptions) (*pebble.Iterator, error)
}

func readerGet(r pebbleReader, key keys.Key) ([]byte, bool, error) {
	kb := keyBufs.Get().(*keyBuf)
	defer kb.release()
	kb.b = EncodeKey(kb.b[:0], key)
	v, c, err := r.Get(kb.b)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("storage: get %s: %w", key, err)
	}
	out := append(make([]byte, 0, len(v)), v...)
	return out, true, c.Close()
}

// Iterator walks engine keys in order. It is positioned at nothing at first. Not safe for
// concurrent use.
type Iterator struct {
	it      *pebble.Iterator
	opts    pebble.IterOptions
	bounds  []byte
	seek    []byte
	filters [2]pebble.BlockPropertyFilter

	key keys.Key
	ts  hlc.Timestamp
	err error
}

var iterPool = sync.Pool{New: func() any { return new(Iterator) }}

func newIter(r pebbleReader, o IterOptions, durable bool) (*Iterator, error) {
	it := iterPool.Get().(*Iterator)
	it.opts = pebble.IterOptions{OnlyReadGuaranteedDurable: durable}
	it.bounds = it.bounds[:0]
	if len(o.Lower) > 0 {
		it.bounds = EncodeKey(it.bounds, o.Lower)
		it.opts.LowerBound = it.bounds[:len(it.bounds):len(it.bounds)]
	}
	if n := len(it.bounds); len(o.Upper) > 0 {
		it.bounds = EncodeKey(it.bounds, o.Upper)
		it.opts.UpperBound = it.bounds[n:]
	}
	if !o.MaxVersion.IsEmpty() {
		f := cockroachkvs.NewMVCCTimeIntervalFilter(uint64(o.MinVersion.WallNanos), uint64(o.MaxVersion.WallNanos))
		it.opts.PointKeyFilters = append(it.filters[:0], f)
	}
	pi, err := r.NewIter(&it.opts)
	if err != nil {
		return nil, fmt.Errorf("storage: new iterator: %w", err)
	}
	it.it, it.key, it.ts, it.err = pi, nil, hlc.Timestamp{}, nil
	return it, nil
}

// landed decodes the key at the iterator's new position.
func (i *Iterator) landed(ok bool) bool {
	if !ok || i.err != nil {
		i.key = nil
		return false
	}
	i.key, i.ts, i.err = DecodeKey(i.it.Key())
	return i.err == nil
}

// First moves to the first key.
func (i *Iterator) First() bool { return i.landed(i.it.First()) }

// Last moves to the last key.
func (i *Iterator) Last() bool { return i.landed(i.it.Last()) }

// Next moves to the next engine key.
func (i *Iterator) Next() bool { return i.landed(i.it.Next()) }

// Prev moves to the previous engine key.
func (i *Iterator) Prev() bool { return i.landed(i.it.Prev()) }

// NextKey moves past all versions of the current key.
func (i *Iterator) NextKey() bool { return i.landed(i.it.NextPrefix()) }

// SeekGE moves to the first engine key at or after key's version at ts (the zero
// timestamp: at or after the unversioned key).
func (i *Iterator) SeekGE(key keys.Key, ts hlc.Timestamp) bool {
	i.seek = EncodeVersion(i.seek[:0], key, ts)
	return i.landed(i.it.SeekGE(i.seek))
}

// SeekLT moves to the last engine key before key's version at ts.
func (i *Iterator) SeekLT(key keys.Key, ts hlc.Timestamp) bool {
	i.seek = EncodeVersion(i.seek[:0], key, ts)
	return i.landed(i.it.SeekLT(i.seek))
}

// SeekPrefix is SeekGE for a reader of this one key: the iterator then ends with key's
// last version, and bloom filters are used.
func (i *Iterator) SeekPrefix(key keys.Key, ts hlc.Timestamp) bool {
	i.seek = EncodeVersion(i.seek[:0], key, ts)
	return i.landed(i.it.SeekPrefixGE(i.seek))
}

// Valid reports whether the iterator is at a key.
func (i *Iterator) Valid() bool { return i.err == nil && i.key != nil && i.it.Valid() }

// Key returns the current user key, valid until the iterator moves.
func (i *Iterator) Key() keys.Key { return i.key }

// Version returns the current version's timestamp; zero for an unversioned key.
func (i *Iterator) Version() hlc.Timestamp { return i.ts }

// EngineKey returns the current key as it stands on disk, valid until the iterator moves.
func (i *Iterator) EngineKey() []byte { return i.it.Key() }

// Value returns the current value, valid until the iterator moves.
func (i *Iterator) Value() ([]byte, error) {
	v, err := i.it.ValueAndErr()
	if err != nil {
		return nil, fmt.Errorf("storage: value of %s: %w", i.key, err)
	}
	return v, nil
}

// Error returns what made the iterator stop early. Check it when a move returned false.
func (i *Iterator) Error() error {
	if i.err != nil {
		return i.err
	}
	if err := i.it.Error(); err != nil {
		return fmt.Errorf("storage: iterator: %w", err)
	}
	return nil
}

// Close frees the iterator and returns its error, if any. It must not be used afterwards.
func (i *Iterator) Close() error {
	err := i.Error()
	if cerr := i.it.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("storage: closing iterator: %w", cerr)
	}
	i.it, i.key, i.err = nil, nil, nil
	i.opts = pebble.IterOptions{}
	i.filters = [2]pebble.BlockPropertyFilter{}
	iterPool.Put(i)
	return err
}

// Snapshot is a consistent view of the state engine.
type Snapshot struct {
	e *engine
	s *pebble.Snapshot
}

// Get implements Reader.
func (s *Snapshot) Get(key keys.Key) ([]byte, bool, error) { return readerGet(s.s, key) }

// NewIter implements Reader.
func (s *Snapshot) NewIter(o IterOptions) (*Iterator, error) { return newIter(s.s, o, false) }

// Close frees the snapshot. Its iterators must be closed before.
func (s *Snapshot) Close() error { return s.s.Close() }

// ErrNotIndexed marks a read from a batch made by NewWriteBatch.
var ErrNotIndexed = errors.New("storage: this batch can't be read from: make it with NewBatch")

// Batch collects writes, to be applied atomically with StateEngine.Commit, or carried
// elsewhere as Repr and applied with ApplyRepr. Reads from an indexed one see its writes
// over the engine's state. Not safe for concurrent use.
type Batch struct {
	b       *pebble.Batch
	indexed bool
}

// Get implements Reader.
func (b *Batch) Get(key keys.Key) ([]byte, bool, error) {
	if !b.indexed {
		return nil, false, ErrNotIndexed
	}
	return readerGet(b.b, key)
}

// NewIter implements Reader. The iterator does not see writes made after its creation.
func (b *Batch) NewIter(o IterOptions) (*Iterator, error) {
	if !b.indexed {
		return nil, ErrNotIndexed
	}
	return newIter(b.b, o, false)
}

// Set implements Writer.
func (b *Batch) Set(key keys.Key, value []byte) error {
	op := b.b.SetDeferred(len(key)+1, len(value))
	EncodeKey(op.Key[:0], key)
	copy(op.Value, value)
	return op.Finish()
}

// SetVersion implements Writer.
func (b *Batch) SetVersion(key keys.Key, ts hlc.Timestamp, tag byte, value []byte) error {
	if err := checkVersion(key, ts); err != nil {
		return err
	}
	op := b.b.SetDeferred(encodedLen(key, ts), 1+len(value))
	EncodeVersion(op.Key[:0], key, ts)
	op.Value[0] = tag
	copy(op.Value[1:], value)
	return op.Finish()
}

// Delete implements Writer.
func (b *Batch) Delete(key keys.Key) error { return b.del(key, hlc.Timestamp{}) }

// DeleteVersion implements Writer.
func (b *Batch) DeleteVersion(key keys.Key, ts hlc.Timestamp) error {
	if err := checkVersion(key, ts); err != nil {
		return err
	}
	return b.del(key, ts)
}

func (b *Batch) del(key keys.Key, ts hlc.Timestamp) error {
	op := b.b.DeleteDeferred(encodedLen(key, ts))
	EncodeVersion(op.Key[:0], key, ts)
	return op.Finish()
}

func checkVersion(key keys.Key, ts hlc.Timestamp) error {
	if ts.WallNanos < 0 || ts.Logical < 0 || ts.IsEmpty() {
		return fmt.Errorf("storage: version of %s has timestamp %s; it must be positive", key, ts)
	}
	return nil
}

// DeleteRange implements Writer.
func (b *Batch) DeleteRange(start, end keys.Key) error {
	if !start.Less(end) {
		return fmt.Errorf("storage: delete range [%s, %s) is empty or reversed", start, end)
	}
	op := b.b.DeleteRangeDeferred(len(start)+1, len(end)+1)
	EncodeKey(op.Key[:0], start)
	EncodeKey(op.Value[:0], end)
	return op.Finish()
}

// SetEngine writes an engine key as another engine's iterator gave it (snapshots).
func (b *Batch) SetEngine(engineKey, value []byte) error {
	if _, _, err := DecodeKey(engineKey); err != nil {
		return err
	}
	return b.b.Set(engineKey, value, nil)
}

// Append adds the writes of another batch's Repr.
func (b *Batch) Append(repr []byte) error { return appendRepr(b.b, repr) }

// Empty reports whether nothing was written.
func (b *Batch) Empty() bool { return b.b.Empty() }

// Len returns the size of Repr in bytes.
func (b *Batch) Len() int { return b.b.Len() }

// Repr returns the batch in Pebble's batch format (the one in its log files, stable across
// versions). It shares memory with the batch: copy what must outlive Close or the next write.
func (b *Batch) Repr() []byte { return b.b.Repr() }

// Close frees the batch.
func (b *Batch) Close() error { return b.b.Close() }
