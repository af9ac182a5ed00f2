package recovery

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/atolldb/atoll/node/keys"
)

// everything is the key space.
var everything = Span{Key(keys.MinKey), Key(keys.MaxKey)}

// essential are keys without which there is no cluster.
var essential = []struct {
	key  keys.Key
	what string
}{
	{keys.MetaMin, "the meta range, which says where every other range is"},
	{keys.SystemMin, "the range with the node directory and the catalog"},
}

// cutOut returns what is left of s without the spans of taken, which are in order and disjoint.
func cutOut(s Span, taken []Span) []Span {
	var out []Span
	at := s.Start
	for _, t := range taken {
		if !at.less(t.End) || !t.Start.less(s.End) {
			continue
		}
		if at.less(t.Start) {
			out = append(out, Span{at, t.Start})
		}
		at = t.End
	}
	if at.less(s.End) {
		out = append(out, Span{at, s.End})
	}
	return out
}

// join adds a span to spans that are in order and disjoint.
func join(all []Span, s Span) []Span {
	all = append(slices.Clone(all), s)
	slices.SortFunc(all, func(a, b Span) int { return strings.Compare(string(a.Start), string(b.Start)) })
	var out []Span
	for _, s := range all {
		if n := len(out); n > 0 && !out[n-1].End.less(s.Start) {
			if out[n-1].End.less(s.End) {
				out[n-1].End = s.End
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

// cover gives every key to one range. Ranges that have their quorums keep what they hold. Of the others
// the one with the higher generation is the later one: a split's right side begins one above what the
// left side had, so that a replica which has missed the split has less. What a range holds beyond that
// is dropped: it is older than what the other one holds.
func (m *maker) cover() {
	var taken []Span
	for _, f := range m.healthy {
		if !f.span.empty() {
			taken = join(taken, f.span)
		}
	}
	slices.SortStableFunc(m.broken, func(a, b *found) int {
		return cmp.Or(-cmp.Compare(a.generation, b.generation), -cmp.Compare(a.id, b.id))
	})
	for _, f := range m.broken {
		if len(f.sources()) == 0 {
			m.dataless(f)
			continue
		}
		rest := cutOut(f.span, taken)
		if len(rest) == 0 {
			m.supersede(f)
			continue
		}
		if len(rest) > 1 {
			m.note("range %d held %s; what is left of that is in %d pieces, and only %s is recovered", f.id, f.span, len(rest), rest[0])
		}
		m.order(f, rest[0])
		taken = join(taken, rest[0])
	}
	m.plan.Holes = cutOut(everything, taken)
	m.judgeHoles()
	slices.SortStableFunc(m.plan.Ranges, func(a, b Range) int {
		return cmp.Or(cmp.Compare(urgency(&a), urgency(&b)), cmp.Compare(a.ID, b.ID))
	})
	slices.SortStableFunc(m.plan.Superseded, func(a, b Superseded) int { return cmp.Compare(a.ID, b.ID) })
}

// urgency puts the ranges first that the others need to be found again.
func urgency(r *Range) int {
	for i, e := range essential {
		if k := Key(e.key); !k.less(r.Span.Start) && k.less(r.Span.End) {
			return i
		}
	}
	return len(essential)
}

// dataless is a broken range of which only replicas without data are left.
func (m *maker) dataless(f *found) {
	kind := "without data"
	if !f.span.empty() {
		kind = fmt.Sprintf("witnesses of %s", f.span)
	}
	m.note("range %d has only replicas left that are %s: nothing of it can be recovered, and they are left as they are", f.id, kind)
}

// supersede is for a range all of whose keys other ranges hold: a replica of it missed that.
func (m *maker) supersede(f *found) {
	s := Superseded{ID: f.id, Lowest: m.nextReplica(f)}
	for _, c := range f.copies {
		s.Copies = append(s.Copies, c.brief())
	}
	m.plan.Superseded = append(m.plan.Superseded, s)
}

func (m *maker) judgeHoles() {
	for _, h := range m.plan.Holes {
		fatal := false
		for _, e := range essential {
			if k := Key(e.key); !k.less(h.Start) && k.less(h.End) {
				fatal = true
				m.fault("no replica of %s is left: %s. Without it no plan can help: found a new cluster and restore a backup", h, e.what)
			}
		}
		if !fatal && !m.in.AcceptLostSpans {
			m.fault("no replica of %s is left: all of it is lost. To recover the rest and leave these keys unavailable, accept that with --accept-lost-spans", h)
		}
	}
}
