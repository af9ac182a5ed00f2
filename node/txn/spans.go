package txn

import (
	"bytes"
	"slices"

	"github.com/atolldb/atoll/node/keys"
)

// spanSet is a list of spans bounded in bytes: beyond the bound neighbours are joined, so
// that the set covers more than was asked for, never less.
type spanSet struct {
	list  []keys.Span
	bytes int
}

const spanOverhead = 48

func (s *spanSet) reset() { s.list, s.bytes = s.list[:0], 0 }

func (s *spanSet) empty() bool { return len(s.list) == 0 }

// add adds a span, whose keys are kept, and condenses when there are more than maxBytes
// bytes or maxSpans spans.
func (s *spanSet) add(sp keys.Span, maxBytes, maxSpans int) {
	if n := len(s.list); n > 0 {
		last := &s.list[n-1]
		if last.Key.Equal(sp.Key) && last.EndKey.Equal(sp.EndKey) {
			return
		}
		// A scan that goes on where the last one stopped.
		if !last.IsPoint() && !sp.IsPoint() && last.EndKey.Equal(sp.Key) {
			s.bytes += len(sp.EndKey) - len(last.EndKey)
			last.EndKey = sp.EndKey
			return
		}
	}
	s.list = append(s.list, sp)
	s.bytes += len(sp.Key) + len(sp.EndKey) + spanOverhead
	if s.bytes > maxBytes || len(s.list) > maxSpans {
		s.condense(maxBytes/2, maxSpans/2)
	}
}

// condense sorts and joins overlapping spans, then joins ever more neighbours until the
// set is within the bounds.
func (s *spanSet) condense(maxBytes, maxSpans int) {
	slices.SortFunc(s.list, func(a, b keys.Span) int { return bytes.Compare(a.Key, b.Key) })
	s.join(func(last, next keys.Span) bool { return !last.End().Less(next.Key) })
	for (s.bytes > maxBytes || len(s.list) > max(maxSpans, 1)) && len(s.list) > 1 {
		i := 0
		s.join(func(_, _ keys.Span) bool { i++; return i%2 == 1 })
	}
}

// join replaces neighbours for which yes says so by one span that covers both.
func (s *spanSet) join(yes func(last, next keys.Span) bool) {
	out := s.list[:1]
	for _, sp := range s.list[1:] {
		last := &out[len(out)-1]
		if !yes(*last, sp) {
			out = append(out, sp)
			continue
		}
		if last.IsPoint() && sp.IsPoint() && last.Key.Equal(sp.Key) {
			continue
		}
		if end := sp.End(); last.IsPoint() || last.EndKey.Less(end) {
			if lastEnd := last.End(); lastEnd.Less(end) {
				last.EndKey = end
			} else {
				last.EndKey = lastEnd
			}
		}
	}
	clear(s.list[len(out):])
	s.list, s.bytes = out, 0
	for _, sp := range s.list {
		s.bytes += len(sp.Key) + len(sp.EndKey) + spanOverhead
	}
}

// within reports whether the span lies in bounds, which is a range.
func within(bounds, s keys.Span) bool {
	if s.Key.Less(bounds.Key) {
		return false
	}
	if s.IsPoint() {
		return s.Key.Less(bounds.EndKey)
	}
	return !bounds.EndKey.Less(s.EndKey)
}
