package txn

import (
	"bytes"
	"slices"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

const (
	// linearLookup is up to how many keys a lookup compares all of them.
	linearLookup = 12
	// maxTail bounds the keys that are not sorted in yet.
	maxTail = 64
	// versionOverhead is what one buffered write costs besides key and value, in bytes.
	versionOverhead = 96
)

// version is one buffered write of a key.
type version struct {
	seq    int32
	delete bool
	value  []byte
}

// bufferedKey is a key with its writes, in sequence order. cond belongs to the first of
// them: later ones write over the transaction's own value, which they have checked here.
type bufferedKey struct {
	key   keys.Key
	cond  kv.Condition
	first version
	more  []version
	dead  bool // every write was rolled back
}

func (b *bufferedKey) newest() *version {
	if n := len(b.more); n > 0 {
		return &b.more[n-1]
	}
	return &b.first
}

// visible returns the newest write at or below seq, or nil.
func (b *bufferedKey) visible(seq int32) *version {
	if b.dead {
		return nil
	}
	for i := len(b.more) - 1; i >= 0; i-- {
		if b.more[i].seq <= seq {
			return &b.more[i]
		}
	}
	if b.first.seq <= seq {
		return &b.first
	}
	return nil
}

// writeBuffer holds a transaction's writes. A few keys, the common case, cost no map and no
// tree: all is in one list, the first sorted of which are in key order.
type writeBuffer struct {
	list   []*bufferedKey // list[:sorted] in key order, the tail in order of arrival
	sorted int
	index  map[string]*bufferedKey // nil up to linearLookup keys
	live   int                     // keys that are not dead
	bytes  int
	chunk  []bufferedKey // backs the first few keys in one allocation
}

func (w *writeBuffer) empty() bool { return w.live == 0 }

func (w *writeBuffer) reset() { *w = writeBuffer{} }

func (w *writeBuffer) get(key keys.Key) *bufferedKey {
	if w.index != nil {
		return w.index[string(key)]
	}
	for _, b := range w.list {
		if bytes.Equal(b.key, key) {
			return b
		}
	}
	return nil
}

// put appends a write. The key and the value are kept, not copied.
func (w *writeBuffer) put(key keys.Key, v version, cond kv.Condition) {
	w.bytes += len(key) + len(v.value) + versionOverhead
	b := w.get(key)
	switch {
	case b == nil:
		if len(w.chunk) == cap(w.chunk) {
			w.chunk = make([]bufferedKey, 0, max(4, min(2*cap(w.chunk), 256)))
		}
		w.chunk = append(w.chunk, bufferedKey{key: key, cond: cond, first: v})
		b = &w.chunk[len(w.chunk)-1]
		w.list = append(w.list, b)
		if w.index != nil {
			w.index[string(key)] = b
		} else if len(w.list) > linearLookup {
			w.index = make(map[string]*bufferedKey, 4*linearLookup)
			for _, b := range w.list {
				w.index[string(b.key)] = b
			}
		}
		w.live++
	case b.dead:
		b.dead, b.cond, b.first, b.more = false, cond, v, nil
		w.live++
	default:
		b.more = append(b.more, v)
	}
}

// rollback drops the writes above seq, and calls dropped for each key that keeps none.
func (w *writeBuffer) rollback(seq int32, dropped func(*bufferedKey)) {
	for _, b := range w.list {
		if b.dead {
			continue
		}
		for n := len(b.more); n > 0 && b.more[n-1].seq > seq; n-- {
			w.bytes -= len(b.key) + len(b.more[n-1].value) + versionOverhead
			b.more = b.more[:n-1]
		}
		if b.first.seq > seq {
			w.bytes -= len(b.key) + len(b.first.value) + versionOverhead
			b.dead, b.more = true, nil
			w.live--
			dropped(b)
		}
	}
}

func compareKeys(a, b *bufferedKey) int { return bytes.Compare(a.key, b.key) }

// order sorts the tail in.
func (w *writeBuffer) order() {
	if w.sorted == len(w.list) {
		return
	}
	tail := w.list[w.sorted:]
	slices.SortFunc(tail, compareKeys)
	if w.sorted > 0 && compareKeys(w.list[w.sorted-1], tail[0]) > 0 {
		merged := make([]*bufferedKey, 0, len(w.list))
		head := w.list[:w.sorted]
		for len(head) > 0 && len(tail) > 0 {
			if compareKeys(head[0], tail[0]) < 0 {
				merged, head = append(merged, head[0]), head[1:]
			} else {
				merged, tail = append(merged, tail[0]), tail[1:]
			}
		}
		w.list = append(append(merged, head...), tail...)
	}
	w.sorted = len(w.list)
}

// inOrder returns all keys in order, dead ones included.
func (w *writeBuffer) inOrder() []*bufferedKey {
	w.order()
	return w.list
}

// within returns the keys of the span in order, dead ones included. The result is valid
// until the next call.
func (w *writeBuffer) within(s keys.Span) []*bufferedKey {
	if s.IsPoint() {
		if b := w.get(s.Key); b != nil {
			return []*bufferedKey{b}
		}
		return nil
	}
	if len(w.list)-w.sorted > maxTail {
		w.order()
	}
	lo, _ := slices.BinarySearchFunc(w.list[:w.sorted], s.Key, func(b *bufferedKey, k keys.Key) int { return bytes.Compare(b.key, k) })
	hi, _ := slices.BinarySearchFunc(w.list[:w.sorted], s.EndKey, func(b *bufferedKey, k keys.Key) int { return bytes.Compare(b.key, k) })
	if hi < lo {
		hi = lo
	}
	var tail []*bufferedKey
	for _, b := range w.list[w.sorted:] {
		if s.Contains(b.key) {
			tail = append(tail, b)
		}
	}
	if len(tail) == 0 {
		return w.list[lo:hi]
	}
	out := append(append(make([]*bufferedKey, 0, hi-lo+len(tail)), w.list[lo:hi]...), tail...)
	slices.SortFunc(out, compareKeys)
	return out
}

// overlaps reports whether a write that is visible at seq lies in the span.
func (w *writeBuffer) overlaps(s keys.Span, seq int32) bool {
	if w.live == 0 {
		return false
	}
	for _, b := range w.within(s) {
		if b.visible(seq) != nil {
			return true
		}
	}
	return false
}
