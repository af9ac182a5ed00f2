package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// Limits of the entries kept in memory for replication to read.
const (
	maxCachedEntries    = 256       // per replica
	maxCachedBytes      = 4 << 20   // per replica
	maxCachedBytesTotal = 128 << 20 // per store
)

// pointDeleteEntries is up to how many entries are removed one by one; more take a range
// tombstone (each costs every later read of the log from disk a little).
const pointDeleteEntries = 32

// ErrRemoved marks a call on the log of a removed replica.
var ErrRemoved = errors.New("storage: the replica's raft log was removed")

// RaftLog is one replica's raft log, term and vote. It implements raft.LogStore,
// raft.StableStore and raft.MonotonicLogStore (entries have no gaps: research showed that
// snapshots leave an inconsistent log otherwise). Safe for concurrent use.
type RaftLog struct {
	l       *LogEngine
	id      replicaKey
	prefix  [replicaPrefixLen]byte // of entries
	writeMu sync.Mutex             // serialises writers; held over the fsync

	mu          sync.RWMutex
	first, last uint64 // 0, 0: empty
	removed     bool
	cache       []*raft.Log // the newest entries, without gaps, ending at last
	cacheBytes  int64
}

var (
	_ raft.LogStore          = (*RaftLog)(nil)
	_ raft.StableStore       = (*RaftLog)(nil)
	_ raft.MonotonicLogStore = (*RaftLog)(nil)
)

// RaftLog returns the log of a replica, empty if it has none yet. The same replica gives
// the same RaftLog until it is removed.
func (l *LogEngine) RaftLog(rng keys.RangeID, replica keys.ReplicaID) (*RaftLog, error) {
	l.logsMu.Lock()
	defer l.logsMu.Unlock()
	id := replicaKey{rng, replica}
	if r := l.logs[id]; r != nil {
		return r, nil
	}
	r := &RaftLog{l: l, id: id}
	copy(r.prefix[:], replicaPrefix(entryKind, rng, replica))
	err := l.iter(r.prefix[:], keys.Key(r.prefix[:]).PrefixEnd(), func(it *pebble.Iterator) error {
		if !it.First() {
			return nil
		}
		r.first = entryIndex(it.Key())
		if it.Last() {
			r.last = entryIndex(it.Key())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("opening the raft log of range %d, replica %d: %w", rng, replica, err)
	}
	l.logs[id] = r
	return r, nil
}

func entryIndex(key []byte) uint64 {
	if len(key) != entryKeyLen {
		return 0
	}
	return binary.BigEndian.Uint64(key[replicaPrefixLen:])
}

func (r *RaftLog) entryKey(dst []byte, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, r.prefix[:]...), index)
}

// IsMonotonic implements raft.MonotonicLogStore: StoreLogs takes no gaps.
func (r *RaftLog) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore: 0 for an empty log.
func (r *RaftLog) FirstIndex() (uint64, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.first, r.check()
}

// LastIndex implements raft.LogStore: 0 for an empty log.
func (r *RaftLog) LastIndex() (uint64, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.last, r.check()
}

func (r *RaftLog) check() error {
	if r.removed {
		return fmt.Errorf("range %d, replica %d: %w", r.id.rng, r.id.replica, ErrRemoved)
	}
	return nil
}

// GetLog implements raft.LogStore. It returns raft.ErrLogNotFound outside [first, last].
func (r *RaftLog) GetLog(index uint64, out *raft.Log) error {
	r.mu.RLock()
	if err := r.check(); err != nil {
		r.mu.RUnlock()
		return err
	}
	if index == 0 || index < r.first || index > r.last {
		r.mu.RUnlock()
		return raft.ErrLogNotFound
	}
	if n := uint64(len(r.cache)); index > r.last-n {
		*out = *r.cache[n-1-(r.last-index)]
		r.mu.RUnlock()
		return nil
	}
	r.mu.RUnlock()

	var buf [entryKeyLen]byte
	v, ok, err := r.l.get(r.entryKey(buf[:0], index))
	if err != nil {
		return err
	}
	if !ok { // truncated meanwhile
		return raft.ErrLogNotFound
	}
	if err := decodeEntry(v, out); err != nil {
		return fmt.Errorf("range %d, replica %d, entry %d: %w", r.id.rng, r.id.replica, index, err)
	}
	out.Index = index
	return nil
}

// StoreLog implements raft.LogStore.
func (r *RaftLog) StoreLog(e *raft.Log) error { return r.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore. The entries are synced when it returns (S15). They
// must follow the last one without a gap; any index may start an empty log.
func (r *RaftLog) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	r.writeMu.Lock()
	defer r.writeMu.Unlock()
	r.mu.RLock()
	last, err := r.last, r.check()
	r.mu.RUnlock()
	if err != nil {
		return err
	}
	size := 64
	for i, e := range entries {
		if want := entries[0].Index + uint64(i); e.Index != want || (last != 0 && e.Index != last+1+uint64(i)) || e.Index == 0 {
			return fmt.Errorf("storage: range %d, replica %d: entry %d does not follow entry %d (number %d of this append)",
				r.id.rng, r.id.replica, e.Index, last+uint64(i), i)
		}
		size += entryKeyLen + entryLen(e) + 12
	}
	b, err := r.l.newBatch(size)
	if err != nil {
		return err
	}
	defer b.Close()
	for _, e := range entries {
		op := b.SetDeferred(entryKeyLen, entryLen(e))
		r.entryKey(op.Key[:0], e.Index)
		appendEntry(op.Value[:0], e)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	if err := r.l.commit(b, !r.l.opts.PlantUnsyncedLog); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == 0 {
		r.first = entries[0].Index
	}
	r.last = entries[len(entries)-1].Index
	for _, e := range entries {
		r.cache = append(r.cache, e)
		r.addCached(cachedSize(e))
	}
	r.shrinkCache(len(entries))
	return nil
}

func cachedSize(e *raft.Log) int64 { return int64(len(e.Data) + len(e.Extensions) + 128) }

func (r *RaftLog) addCached(n int64) {
	r.cacheBytes += n
	r.l.cached.Add(n)
}

// shrinkCache drops the oldest entries beyond the limits. Over the store's limit only
// those just appended (at least one) stay.
func (r *RaftLog) shrinkCache(appended int) {
	keep := maxCachedEntries
	if r.l.cached.Load() > maxCachedBytesTotal {
		keep = appended
	}
	drop := 0
	for drop < len(r.cache)-1 && (len(r.cache)-drop > keep || r.cacheBytes > maxCachedBytes) {
		r.addCached(-cachedSize(r.cache[drop]))
		drop++
	}
	if drop > 0 {
		n := copy(r.cache, r.cache[drop:])
		clear(r.cache[n:])
		r.cache = r.cache[:n]
	}
}

// dropCache forgets cached entries outside the new [first, last].
func (r *RaftLog) dropCache() {
	if r.last == 0 {
		r.addCached(-r.cacheBytes)
		r.cache = nil
		return
	}
	kept := r.cache[:0]
	for _, e := range r.cache {
		if e.Index >= r.first && e.Index <= r.last {
			kept = append(kept, e)
		} else {
			r.addCached(-cachedSize(e))
		}
	}
	clear(r.cache[len(kept):])
	r.cache = kept
}

// DeleteRange implements raft.LogStore: it removes [min, max], which must be a prefix or a
// suffix of the log. It is in order before every later append, and durable with it; until
// then a crash may bring the removed entries back, all of them.
func (r *RaftLog) DeleteRange(minIndex, maxIndex uint64) error {
	r.writeMu.Lock()
	defer r.writeMu.Unlock()
	return r.deleteLocked(minIndex, maxIndex, false)
}

// Truncate removes the entries up to and including upTo.
// REQUIRES: S16; upTo is at most the durable applied index.
func (r *RaftLog) Truncate(upTo uint64) error {
	r.writeMu.Lock()
	defer r.writeMu.Unlock()
	return r.deleteLocked(0, upTo, false)
}

// Reset removes all entries, synced, and keeps term and vote: a log that ends below the
// applied index, or the tail behind an installed snapshot.
func (r *RaftLog) Reset() error {
	r.writeMu.Lock()
	defer r.writeMu.Unlock()
	return r.deleteLocked(0, ^uint64(0), true)
}

func (r *RaftLog) deleteLocked(minIndex, maxIndex uint64, sync bool) error {
	r.mu.RLock()
	first, last, err := r.first, r.last, r.check()
	r.mu.RUnlock()
	if err != nil {
		return err
	}
	lo, hi := max(minIndex, first), min(maxIndex, last)
	if last == 0 || lo > hi {
		return nil
	}
	if lo > first && hi < last {
		return fmt.Errorf("storage: range %d, replica %d: removing entries %d to %d would leave a gap in [%d, %d]",
			r.id.rng, r.id.replica, lo, hi, first, last)
	}
	b, err := r.l.newBatch(256)
	if err != nil {
		return err
	}
	defer b.Close()
	if hi-lo < pointDeleteEntries {
		for i := lo; i <= hi; i++ {
			op := b.DeleteDeferred(entryKeyLen)
			r.entryKey(op.Key[:0], i)
			if err := op.Finish(); err != nil {
				return err
			}
		}
	} else if err := b.DeleteRange(r.entryKey(nil, lo), r.entryKey(nil, hi+1), nil); err != nil {
		return err
	}
	// Readers must not meet a hole: shrink the bounds first. On failure the engine is dead.
	r.mu.Lock()
	switch {
	case lo == first && hi == last:
		r.first, r.last = 0, 0
	case lo == first:
		r.first = hi + 1
	default:
		r.last = lo - 1
	}
	r.dropCache()
	r.mu.Unlock()
	return r.l.commit(b, sync)
}

// Remove removes the log, term and vote, synced. Every later call fails with ErrRemoved.
// Use LogEngine.UpdateLocal to set the replica's tombstone in the same write.
func (r *RaftLog) Remove() error {
	return r.l.UpdateLocal(func(u *LocalUpdate) error { return u.RemoveLog(r.id.rng, r.id.replica) })
}

func (r *RaftLog) markRemoved() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed = true
	r.first, r.last = 0, 0
	r.dropCache()
}

func (r *RaftLog) stableKey(name []byte) []byte {
	return append(replicaPrefix(stableKind, r.id.rng, r.id.replica), name...)
}

// Set implements raft.StableStore; it is synced when it returns.
func (r *RaftLog) Set(key, value []byte) error {
	r.writeMu.Lock()
	defer r.writeMu.Unlock()
	r.mu.RLock()
	err := r.check()
	r.mu.RUnlock()
	if err != nil {
		return err
	}
	b, err := r.l.newBatch(128)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Set(r.stableKey(key), value, nil); err != nil {
		return err
	}
	return r.l.commit(b, true)
}

// Get implements raft.StableStore: empty for an unknown key.
func (r *RaftLog) Get(key []byte) ([]byte, error) {
	v, _, err := r.l.get(r.stableKey(key))
	return v, err
}

// SetUint64 implements raft.StableStore.
func (r *RaftLog) SetUint64(key []byte, v uint64) error {
	return r.Set(key, binary.BigEndian.AppendUint64(nil, v))
}

// GetUint64 implements raft.StableStore: 0 for an unknown key.
func (r *RaftLog) GetUint64(key []byte) (uint64, error) {
	v, ok, err := r.l.get(r.stableKey(key))
	if err != nil || !ok {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("storage: range %d, replica %d: %q holds %d bytes, want 8", r.id.rng, r.id.replica, key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// An entry on disk: version (1), type (1), term (8), appended at in Unix nanoseconds (8),
// length of the extensions (4), extensions, data; integers big-endian.
const (
	entryVersion   = 1
	entryHeaderLen = 1 + 1 + 8 + 8 + 4
)

func entryLen(e *raft.Log) int { return entryHeaderLen + len(e.Extensions) + len(e.Data) }

func appendEntry(dst []byte, e *raft.Log) []byte {
	var at int64
	if !e.AppendedAt.IsZero() {
		at = e.AppendedAt.UnixNano()
	}
	dst = append(dst, entryVersion, byte(e.Type))
	dst = binary.BigEndian.AppendUint64(dst, e.Term)
	dst = binary.BigEndian.AppendUint64(dst, uint64(at))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(e.Extensions)))
	dst = append(dst, e.Extensions...)
	return append(dst, e.Data...)
}

// decodeEntry keeps b.
func decodeEntry(b []byte, e *raft.Log) error {
	if len(b) < entryHeaderLen {
		return fmt.Errorf("storage: a log entry of %d bytes is shorter than its header of %d", len(b), entryHeaderLen)
	}
	if b[0] != entryVersion {
		return fmt.Errorf("storage: log entry has version %d, this binary reads %d", b[0], entryVersion)
	}
	ext := binary.BigEndian.Uint32(b[18:])
	rest := b[entryHeaderLen:]
	if uint64(ext) > uint64(len(rest)) {
		return fmt.Errorf("storage: log entry announces %d bytes of extensions and has %d bytes left", ext, len(rest))
	}
	*e = raft.Log{Type: raft.LogType(b[1]), Term: binary.BigEndian.Uint64(b[2:]), Data: rest[ext:]}
	if at := int64(binary.BigEndian.Uint64(b[10:])); at != 0 {
		e.AppendedAt = time.Unix(0, at)
	}
	if ext > 0 {
		e.Extensions = rest[:ext:ext]
	}
	return nil
}
