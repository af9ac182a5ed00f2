package policies

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/placement"
)

// Object is what a policy can be bound to: an index of a table of a database, by their IDs in
// the catalog. The zero value is the cluster; with the last parts 0 it is a table or a database.
type Object struct{ Database, Table, Index int64 }

// above returns the next wider object; false for the cluster.
func (o Object) above() (Object, bool) {
	switch {
	case o.Index != 0:
		return Object{o.Database, o.Table, 0}, true
	case o.Table != 0:
		return Object{o.Database, 0, 0}, true
	default:
		return Object{}, o.Database != 0
	}
}

// String names an object for messages, by its IDs.
func (o Object) String() string {
	switch {
	case o.Index != 0:
		return fmt.Sprintf("index %d of table %d", o.Index, o.Table)
	case o.Table != 0:
		return fmt.Sprintf("table %d", o.Table)
	case o.Database != 0:
		return fmt.Sprintf("database %d", o.Database)
	default:
		return "the cluster"
	}
}

// Bindings say which policy, by name, is bound to which object. The cluster has one.
type Bindings map[Object]string

// InForce returns the policy of an object, and where it is bound: at the object itself, or at
// the nearest one above that has a binding. It is "" where not even the cluster has one.
func (b Bindings) InForce(o Object) (policy string, at Object) {
	for {
		if name, ok := b[o]; ok {
			return name, o
		}
		up, ok := o.above()
		if !ok {
			return "", Object{}
		}
		o = up
	}
}

// Uses returns the objects that a policy is bound to, in order. One that is in use can't be dropped.
func (b Bindings) Uses(policy string) []Object {
	var out []Object
	for o, name := range b {
		if name == policy {
			out = append(out, o)
		}
	}
	SortObjects(out)
	return out
}

// SortObjects orders objects: the cluster first, then by database, table and index.
func SortObjects(objects []Object) {
	slices.SortFunc(objects, func(a, b Object) int {
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Index, b.Index))
	})
}

// Span says that the keys in [Start, End) belong to an object. An empty End has no bound.
type Span struct {
	Start, End []byte
	Object     Object
}

// Map says which rule holds for which keys. It is immutable; looking up is a binary search.
type Map struct {
	Rules  []placement.Rule // each policy in use once, by name
	starts [][]byte         // where a rule begins to hold; the first is empty
	rule   []int            // what begins to hold there
}

// CompileAll compiles the policies in force over the whole key space. Spans must be in order and
// not overlap; keys between them belong to the cluster. Each policy that is in use is compiled
// once, however many objects it holds for. It does not Check them: what was possible when a policy
// was chosen may not be when a zone has gone, and then the allocator does what is left to be done.
func CompileAll(t topology.Topology, named map[string]*Policy, b Bindings, spans []Span) (*Map, error) {
	m := &Map{}
	index := map[string]int{}
	var faults []error
	used := map[string]bool{}
	for o, name := range b {
		if used[name] = true; named[name] == nil {
			faults = append(faults, fmt.Errorf("policy %q, bound to %s, does not exist", name, o))
			delete(used, name)
		}
	}
	if _, ok := b[Object{}]; !ok {
		faults = append(faults, errors.New("no policy is bound to the cluster; bind one, for instance survive-zone"))
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		index[name] = len(m.Rules)
		m.Rules = append(m.Rules, named[name].Compile(t))
	}
	for i := 1; i < len(spans); i++ {
		if prev := spans[i-1]; len(prev.End) == 0 || bytes.Compare(prev.End, spans[i].Start) > 0 {
			faults = append(faults, fmt.Errorf("the spans of %s and %s overlap or are out of order", prev.Object, spans[i].Object))
		}
	}
	if err := errors.Join(sortFaults(faults)...); err != nil {
		return nil, err
	}
	cluster, _ := b.InForce(Object{})
	m.from(nil, index[cluster])
	for _, s := range spans {
		name, _ := b.InForce(s.Object)
		m.from(s.Start, index[name])
		if len(s.End) > 0 {
			m.from(s.End, index[cluster])
		}
	}
	return m, nil
}

func sortFaults(faults []error) []error {
	slices.SortFunc(faults, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return faults
}

// from lets a rule hold from a key on. Equal neighbours become one: a table that begins is no
// reason for a range to end.
func (m *Map) from(key []byte, rule int) {
	if n := len(m.starts); n > 0 && bytes.Equal(m.starts[n-1], key) {
		m.starts, m.rule = m.starts[:n-1], m.rule[:n-1]
	}
	if n := len(m.rule); n > 0 && m.rule[n-1] == rule {
		return
	}
	m.starts, m.rule = append(m.starts, key), append(m.rule, rule)
}

// Rule returns the index in Rules of what holds at a key.
func (m *Map) Rule(key []byte) int {
	i, ok := slices.BinarySearchFunc(m.starts, key, bytes.Compare)
	if !ok {
		i--
	}
	return m.rule[i]
}

// Boundaries returns the keys inside (start, end) at which another rule begins to hold: a range
// is split there. An empty end has no bound.
func (m *Map) Boundaries(start, end []byte) [][]byte {
	from, ok := slices.BinarySearchFunc(m.starts, start, bytes.Compare)
	if ok {
		from++
	}
	to := len(m.starts)
	if len(end) > 0 {
		to, _ = slices.BinarySearchFunc(m.starts, end, bytes.Compare)
	}
	return m.starts[from:max(from, to)]
}
