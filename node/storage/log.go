package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/cockroachdb/pebble/v2"
)

// LogOptions configure a log engine.
type LogOptions = Options

// Keys of the log engine: a kind, then range and replica (8 bytes each, big-endian), then
// the entry's index or the stable key's name; local records have their key after the kind.
const (
	entryKind  = 'e'
	stableKind = 's'
	localKind  = 'l'

	replicaPrefixLen = 1 + 8 + 8
	entryKeyLen      = replicaPrefixLen + 8
)

// LogEngine holds the raft logs, terms and votes of all ranges, and the store's local
// records. What a call wrote is synced when it returns (S15). Safe for concurrent use.
type LogEngine struct {
	*engine
	syncs  syncWatch
	cached atomic.Int64 // bytes of entries that all RaftLogs keep in memory

	logsMu sync.Mutex
	logs   map[replicaKey]*RaftLog
}

type replicaKey struct {
	rng     keys.RangeID
	replica keys.ReplicaID
}

// OpenLog opens or creates the log engine in o.Dir. Errors as OpenState's.
func OpenLog(o LogOptions) (*LogEngine, error) {
	e, err := openEngine(logKind, o, func(po *pebble.Options) {
		po.WALBytesPerSync = 512 << 10
		po.L0CompactionThreshold = 4
	})
	if err != nil {
		return nil, err
	}
	return &LogEngine{engine: e, logs: map[replicaKey]*RaftLog{}}, nil
}

// Close closes the engine. Every RaftLog fails afterwards.
func (l *LogEngine) Close() error { return l.close(false) }

// SyncStalledFor returns for how long writes have waited for the disk without any of them
// being done; zero if none waits. A watchdog withdraws a node whose disk stalls.
func (l *LogEngine) SyncStalledFor() time.Duration { return l.syncs.stalledFor() }

// syncWatch measures the time since the last progress while syncs are under way.
type syncWatch struct {
	mu       sync.Mutex
	inFlight int
	since    time.Time // the last progress, or the start of the first one in flight
}

func (w *syncWatch) start() {
	w.mu.Lock()
	if w.inFlight++; w.inFlight == 1 {
		w.since = time.Now()
	}
	w.mu.Unlock()
}

func (w *syncWatch) done() {
	w.mu.Lock()
	if w.inFlight--; w.inFlight > 0 {
		w.since = time.Now()
	}
	w.mu.Unlock()
}

func (w *syncWatch) stalledFor() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inFlight == 0 {
		return 0
	}
	return time.Since(w.since)
}

// commit applies b and returns when it is synced, or, with sync false, when it is in order
// before every later write.
func (l *LogEngine) commit(b *pebble.Batch, sync bool) error {
	if err := l.begin(); err != nil {
		return err
	}
	defer l.end()
	o := pebble.NoSync
	if sync {
		o = pebble.Sync
		l.syncs.start()
		defer l.syncs.done()
	}
	return l.wrote(l.db.Apply(b, o))
}

// newBatch fails when the engine is closed: Pebble would panic.
func (l *LogEngine) newBatch(size int) (*pebble.Batch, error) {
	if err := l.begin(); err != nil {
		return nil, err
	}
	defer l.end()
	return l.db.NewBatchWithSize(size), nil
}

func (l *LogEngine) get(key []byte) ([]byte, bool, error) {
	if err := l.begin(); err != nil {
		return nil, false, err
	}
	defer l.end()
	v, c, err := l.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("storage: log engine: get %x: %w", key, err)
	}
	return append([]byte{}, v...), true, c.Close()
}

func (l *LogEngine) iter(lower, upper []byte, each func(it *pebble.Iterator) error) error {
	if err := l.begin(); err != nil {
		return err
	}
	defer l.end()
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("storage: log engine: iterator: %w", err)
	}
	return errors.Join(each(it), it.Error(), it.Close())
}

// LocalRecord is a local key and its value.
type LocalRecord struct{ Key, Value []byte }

func localKey(key []byte) []byte { return append([]byte{localKind}, key...) }

// SetLocal writes a local record, synced.
func (l *LogEngine) SetLocal(key, value []byte) error {
	return l.UpdateLocal(func(u *LocalUpdate) error { return u.Set(key, value) })
}

// GetLocal returns a copy of a local record's value.
func (l *LogEngine) GetLocal(key []byte) (value []byte, ok bool, err error) {
	return l.get(localKey(key))
}

// DeleteLocal removes a local record, synced.
func (l *LogEngine) DeleteLocal(key []byte) error {
	return l.UpdateLocal(func(u *LocalUpdate) error { return u.Delete(key) })
}

// ScanLocal returns copies of all local records whose key has the prefix, in key order.
func (l *LogEngine) ScanLocal(prefix []byte) ([]LocalRecord, error) {
	lower := localKey(prefix)
	var out []LocalRecord
	err := l.iter(lower, keys.Key(lower).PrefixEnd(), func(it *pebble.Iterator) error {
		for ok := it.First(); ok; ok = it.Next() {
			v, err := it.ValueAndErr()
			if err != nil {
				return err
			}
			out = append(out, LocalRecord{Key: append([]byte{}, it.Key()[1:]...), Value: append([]byte{}, v...)})
		}
		return nil
	})
	return out, err
}

// LocalUpdate is an atomic, synced change of local records and raft logs.
type LocalUpdate struct {
	l       *LogEngine
	b       *pebble.Batch
	removed []replicaKey
}

// Set writes a local record.
func (u *LocalUpdate) Set(key, value []byte) error { return u.b.Set(localKey(key), value, nil) }

// Delete removes a local record.
func (u *LocalUpdate) Delete(key []byte) error { return u.b.Delete(localKey(key), nil) }

// RemoveLog removes a replica's raft log, term and vote. Its RaftLog fails afterwards.
// REQUIRES: S16; a tombstone for the replica is set in the same update (S18).
func (u *LocalUpdate) RemoveLog(rng keys.RangeID, replica keys.ReplicaID) error {
	u.removed = append(u.removed, replicaKey{rng, replica})
	for _, kind := range []byte{entryKind, stableKind} {
		start := replicaPrefix(kind, rng, replica)
		if err := u.b.DeleteRange(start, keys.Key(start).PrefixEnd(), nil); err != nil {
			return err
		}
	}
	return nil
}

// UpdateLocal makes the changes that fn collects, atomically and synced. An error of fn
// changes nothing.
func (l *LogEngine) UpdateLocal(fn func(*LocalUpdate) error) error {
	b, err := l.newBatch(256)
	if err != nil {
		return err
	}
	defer b.Close()
	u := &LocalUpdate{l: l, b: b}
	if err := fn(u); err != nil {
		return err
	}
	l.logsMu.Lock()
	var gone []*RaftLog
	for _, k := range u.removed {
		if r := l.logs[k]; r != nil {
			gone = append(gone, r)
			delete(l.logs, k)
		}
	}
	l.logsMu.Unlock()
	for _, r := range gone { // no append may slip in behind the removal
		r.writeMu.Lock()
		defer r.writeMu.Unlock()
		r.markRemoved()
	}
	return l.commit(b, true)
}

// ListRaftLogs returns the replicas that have a raft log, a term or a vote on disk.
func (l *LogEngine) ListRaftLogs() ([]ReplicaLog, error) {
	var out []ReplicaLog
	seen := map[replicaKey]bool{}
	for _, kind := range []byte{entryKind, stableKind} {
		err := l.iter([]byte{kind}, []byte{kind + 1}, func(it *pebble.Iterator) error {
			for ok := it.First(); ok; {
				k := it.Key()
				if len(k) < replicaPrefixLen {
					return fmt.Errorf("storage: log engine: key %x is shorter than %d bytes", k, replicaPrefixLen)
				}
				r := replicaKey{keys.RangeID(binary.BigEndian.Uint64(k[1:])), keys.ReplicaID(binary.BigEndian.Uint64(k[9:]))}
				if !seen[r] {
					seen[r] = true
					out = append(out, ReplicaLog{Range: r.rng, Replica: r.replica})
				}
				next := keys.Key(replicaPrefix(kind, r.rng, r.replica)).PrefixEnd()
				ok = it.SeekGE(next)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ReplicaLog names the raft log of one replica.
type ReplicaLog struct {
	Range   keys.RangeID
	Replica keys.ReplicaID
}

func replicaPrefix(kind byte, rng keys.RangeID, replica keys.ReplicaID) []byte {
	b := make([]byte, 0, entryKeyLen)
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, uint64(rng))
	return binary.BigEndian.AppendUint64(b, uint64(replica))
}
