package dist

import (
	"sort"
	"sync"
	"sync/atomic"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// maxCachedRanges bounds the cache. A range is at most a few hundred MiB, so that this
// covers tens of TiB; beyond it the cache forgets half.
const maxCachedRanges = 1 << 16

// entry is one cached range. The descriptor never changes; a newer one is a new entry.
type entry struct {
	desc        kv.RangeDescriptor
	leaseholder atomic.Int32 // the node that answered last, or was named; 0: unknown
}

func (e *entry) contains(s keys.Span) bool {
	if s.Key.Less(e.desc.Start) {
		return false
	}
	if s.IsPoint() {
		return s.Key.Less(e.desc.End)
	}
	return !e.desc.End.Less(s.EndKey)
}

// rangeCache maps keys to ranges. Readers take no lock: the sorted list is replaced as a
// whole, since it changes rarely.
type rangeCache struct {
	mu   sync.Mutex // serializes changes
	list atomic.Pointer[[]*entry]
}

func newRangeCache() *rangeCache {
	c := &rangeCache{}
	c.list.Store(&[]*entry{})
	return c
}

// get returns the cached range that holds the address k, or nil.
func (c *rangeCache) get(k keys.Key) *entry {
	list := *c.list.Load()
	// Binary search by hand: the first entry that ends after k.
	lo, hi := 0, len(list)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if k.Less(list[mid].desc.End) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo < len(list) && !k.Less(list[lo].desc.Start) {
		return list[lo]
	}
	return nil
}

// insert adds a descriptor and drops what it overlaps, unless something that overlaps is
// newer: descriptors arrive out of order. It returns the entry that now holds desc.Start.
func (c *rangeCache) insert(desc kv.RangeDescriptor, leaseholder keys.NodeID) *entry {
	if desc.RangeID == 0 || !desc.Start.Less(desc.End) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.list.Load()
	from := sort.Search(len(old), func(i int) bool { return desc.Start.Less(old[i].desc.End) })
	to := from
	for ; to < len(old) && old[to].desc.Start.Less(desc.End); to++ {
		o := old[to]
		if o.desc.RangeID == desc.RangeID && o.desc.Generation == desc.Generation {
			if leaseholder != 0 {
				o.leaseholder.Store(int32(leaseholder))
			}
			return o
		}
		if o.desc.Generation > desc.Generation {
			return c.get(desc.Start)
		}
		if leaseholder == 0 && o.desc.RangeID == desc.RangeID {
			leaseholder = keys.NodeID(o.leaseholder.Load())
		}
	}
	e := &entry{desc: desc.Clone()}
	if _, ok := desc.Replica(leaseholder); ok {
		e.leaseholder.Store(int32(leaseholder))
	}
	if len(old) >= maxCachedRanges {
		old, from, to = nil, 0, 0
	}
	list := make([]*entry, 0, len(old)-(to-from)+1)
	list = append(list, old[:from]...)
	list = append(list, e)
	list = append(list, old[to:]...)
	c.list.Store(&list)
	return e
}

// insertFor adds what meta says of the range that holds k. Meta may be behind (S29): where
// newer descriptors are known around k, the old one is cut down to the gap between them, so
// that k can be asked for at all; the range itself then answers with what is right.
func (c *rangeCache) insertFor(desc kv.RangeDescriptor, k keys.Key) {
	if c.insert(desc, 0); c.get(k) != nil || !desc.Contains(k) {
		return
	}
	desc = desc.Clone()
	for _, e := range *c.list.Load() {
		switch {
		case e.desc.Contains(k):
			return // somebody was faster
		case !k.Less(e.desc.End) && desc.Start.Less(e.desc.End):
			desc.Start = e.desc.End
		case k.Less(e.desc.Start) && e.desc.Start.Less(desc.End):
			desc.End = e.desc.Start
		}
	}
	c.insert(desc, 0)
}

// evict drops exactly this entry, so that the next request looks its range up.
func (c *rangeCache) evict(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.list.Load()
	for i, o := range old {
		if o == e {
			list := make([]*entry, 0, len(old)-1)
			list = append(append(list, old[:i]...), old[i+1:]...)
			c.list.Store(&list)
			return
		}
	}
}

func (c *rangeCache) len() int { return len(*c.list.Load()) }
