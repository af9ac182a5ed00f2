package catalog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/policies"
)

// Placement policies and their bindings lie beside the descriptors: binding one changes no table's
// definition, so no statement that uses the table waits for it. Every change raises the schema
// generation, so that all nodes look.
//
// Keys, below keys.TablePrefix(placementTable):
//
//	"l"                                 the lock: whoever changes anything here writes it first
//	"p" <name>                          a policy, as Policy.Format writes it
//	"b" <database:4> <table:4> <index:4>  the name of the policy bound there; zeros: the cluster
//
// Values begin with the format version.

const (
	// MaxPolicies is how many placement policies a cluster may have.
	MaxPolicies = 10_000
	// MaxBindings is how many objects may have a policy of their own.
	MaxBindings = 100_000
)

func placementKey(kind byte, rest ...byte) keys.Key {
	return append(append(keys.TablePrefix(placementTable), kind), rest...)
}

func policyKey(name string) keys.Key { return placementKey('p', []byte(name)...) }

func bindingKey(o policies.Object) keys.Key {
	var b []byte
	for _, id := range []int64{o.Database, o.Table, o.Index} {
		b = binary.BigEndian.AppendUint32(b, uint32(id))
	}
	return placementKey('b', b...)
}

// Placement is every policy and binding, as a transaction sees them.
type Placement struct {
	Policies map[string]*policies.Policy
	Bindings policies.Bindings
}

// Placement reads all policies and bindings.
func (c *Collection) Placement(ctx context.Context) (*Placement, error) {
	return readPlacement(ctx, c.t)
}

func readPlacement(ctx context.Context, t Txn) (*Placement, error) {
	prefix := keys.TablePrefix(placementTable)
	rows, err := t.Scan(ctx, keys.Span{Key: prefix, EndKey: prefix.PrefixEnd()}, 0)
	if err != nil {
		return nil, err
	}
	out := &Placement{Policies: map[string]*policies.Policy{}, Bindings: policies.Bindings{}}
	for _, row := range rows {
		if err := out.add(row.Key[len(prefix):], row.Value); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// add takes a row in. key is what follows the table's prefix.
func (p *Placement) add(key, value []byte) error {
	v, err := versioned(value, "placement record")
	switch {
	case err != nil:
		return err
	case len(key) == 0:
		return errors.New("catalog: a placement record has no key")
	case key[0] == 'p':
		policy, err := policies.Read(string(key[1:]), v)
		if err != nil {
			return fmt.Errorf("catalog: placement policy %q was written by a newer version, or is damaged: %w", key[1:], err)
		}
		p.Policies[string(key[1:])] = policy
	case key[0] == 'b' && len(key) == 13:
		id := func(at int) int64 { return int64(binary.BigEndian.Uint32(key[at:])) }
		p.Bindings[policies.Object{Database: id(1), Table: id(5), Index: id(9)}] = string(v)
	case key[0] == 'l' && len(key) == 1:
	default:
		return fmt.Errorf("catalog: placement record % x is unknown: it was written by a newer version", key)
	}
	return nil
}

// Policy returns the policy of a name: one of the cluster's, or a ready one; nil if there is none.
func (p *Placement) Policy(name string) *policies.Policy {
	if own := p.Policies[name]; own != nil {
		return own
	}
	if ready, err := policies.Ready(name); err == nil {
		return ready
	}
	return nil
}

// LockPlacement must come before what a change of policies or bindings is decided on: changes come
// one after the other, so that none binds a policy that another one drops.
func (c *Collection) LockPlacement(ctx context.Context) error {
	key := placementKey('l')
	r, err := c.t.Get(ctx, key, true)
	if err != nil {
		return err
	}
	// Written, not only locked: a transaction with an older snapshot must fail.
	if err := c.t.Put(ctx, key, []byte{formatVersion}, c.condition(key, r)); err != nil {
		return err
	}
	c.t.Step()
	c.placed = true
	return nil
}

// PutPolicy stores a policy under its name. REQUIRES: LockPlacement.
func (c *Collection) PutPolicy(ctx context.Context, p *policies.Policy) error {
	err := c.t.Put(ctx, policyKey(p.Name), append([]byte{formatVersion}, p.Format()...), blind)
	c.t.Step()
	return err
}

// DropPolicy removes a policy. It is refused, with 2BP01, while something that exists is bound to
// it. REQUIRES: LockPlacement.
func (c *Collection) DropPolicy(ctx context.Context, name string, now *Placement) error {
	for _, o := range now.Bindings.Uses(name) {
		what, err := c.Describe(ctx, o)
		if err != nil {
			return err
		}
		if what != "" {
			return pgerror.New(pgerrcode.DependentObjectsStillExist, "placement policy %q is in use by %s", name, what).
				WithHint("Give what it is bound to another policy first: ALTER ... SET PLACEMENT POLICY; SHOW PLACEMENT lists it.")
		}
		if err := c.t.Delete(ctx, bindingKey(o), blind); err != nil {
			return err
		}
	}
	err := c.t.Delete(ctx, policyKey(name), blind)
	c.t.Step()
	return err
}

// BindPolicy binds a policy to an object; an empty name takes the object's own away. REQUIRES:
// LockPlacement, and that the object exists.
func (c *Collection) BindPolicy(ctx context.Context, o policies.Object, name string) error {
	var err error
	if name == "" {
		err = c.t.Delete(ctx, bindingKey(o), blind)
	} else {
		err = c.t.Put(ctx, bindingKey(o), append([]byte{formatVersion}, name...), blind)
	}
	c.t.Step()
	return err
}

// placeCreated lets the nodes notice a new relation of a database that has a policy: by itself a new
// descriptor raises no generation, since nobody can have an old version of it.
func (c *Collection) placeCreated(ctx context.Context, d Descriptor) error {
	if c.placed || d.Kind() != KindTable && d.Kind() != KindSequence {
		return nil
	}
	r, err := c.t.Get(ctx, bindingKey(policies.Object{Database: int64(d.Head().Database)}), false)
	c.placed = err == nil && r.Exists
	return err
}

// unbindDropped takes away what is bound to a table or database that is dropped, and its parts.
func (c *Collection) unbindDropped(ctx context.Context, d Descriptor) error {
	o := policies.Object{Database: int64(d.Head().ID)}
	switch d.Kind() {
	case KindTable:
		o = policies.Object{Database: int64(d.Head().Database), Table: int64(d.Head().ID)}
	case KindDatabase:
	default:
		return nil
	}
	start := bindingKey(o)
	start = start[:len(start)-4]
	if o.Table == 0 {
		start = start[:len(start)-4]
	}
	rows, err := c.t.Scan(ctx, keys.Span{Key: start, EndKey: start.PrefixEnd()}, 0)
	if err != nil || len(rows) == 0 {
		return err
	}
	if err := c.LockPlacement(ctx); err != nil {
		return err
	}
	for _, row := range rows {
		if err := c.t.Delete(ctx, row.Key, blind); err != nil {
			return err
		}
	}
	return nil
}

// Describe names an object for people; empty if it is gone.
func (c *Collection) Describe(ctx context.Context, o policies.Object) (string, error) {
	if o == (policies.Object{}) {
		return "the cluster", nil
	}
	if o.Table == 0 {
		db, err := c.Database(ctx, ID(o.Database))
		if err != nil || db == nil {
			return "", err
		}
		return fmt.Sprintf("database %q", db.Name), nil
	}
	t, err := c.Table(ctx, ID(o.Table))
	if err != nil || t == nil {
		return "", err
	}
	if o.Index == 0 {
		return fmt.Sprintf("table %q", t.Name), nil
	}
	if ix := t.IndexByID(ID(o.Index)); ix != nil {
		return fmt.Sprintf("index %q", ix.Name), nil
	}
	return "", nil
}

// PlacementMap is what holds in the whole key space: policies, bindings, and the keys of what is bound.
type PlacementMap struct {
	Placement
	Spans []policies.Span // in order
}

// ReadPlacementMap reads it in a transaction of its own.
func (m *Manager) ReadPlacementMap(ctx context.Context) (*PlacementMap, error) {
	var out *PlacementMap
	err := m.cfg.DB.Run(ctx, "placement policies", func(ctx context.Context, t Txn) error {
		p, err := readPlacement(ctx, t)
		if err != nil {
			return err
		}
		out = &PlacementMap{Placement: *p}
		out.Spans, err = readSpans(ctx, t, p.Bindings)
		return err
	})
	return out, err
}

// Generation is the schema generation that the node has seen; it rises with every change of the
// catalog, policies and bindings included.
func (m *Manager) Generation() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.generation
}

// readSpans returns the keys of all objects for which another policy may hold than the cluster's:
// those bound themselves, and all relations of a bound database.
func readSpans(ctx context.Context, t Txn, b policies.Bindings) ([]policies.Span, error) {
	tables := map[policies.Object]bool{} // true: read its indexes
	for o := range b {
		switch {
		case o.Table != 0:
			whole := policies.Object{Database: o.Database, Table: o.Table}
			tables[whole] = tables[whole] || o.Index != 0
		case o.Database != 0:
			ids, err := relations(ctx, t, ID(o.Database))
			if err != nil {
				return nil, err
			}
			for _, id := range ids {
				table := policies.Object{Database: o.Database, Table: int64(id)}
				tables[table] = tables[table] || false
			}
		}
	}
	var out []policies.Span
	for o, indexes := range tables {
		prefix := keys.TablePrefix(uint32(o.Table))
		whole := policies.Span{Start: prefix, End: prefix.PrefixEnd(), Object: o}
		if !indexes {
			out = append(out, whole)
			continue
		}
		s, err := readDescriptor(ctx, t, ID(o.Table))
		if err != nil {
			return nil, err
		}
		if table, ok := s.Desc.(*Table); ok {
			out = append(out, indexSpans(table, whole, b)...)
		}
	}
	slices.SortFunc(out, func(x, y policies.Span) int { return bytes.Compare(x.Start, y.Start) })
	return out, nil
}

// relations returns the tables and sequences of a database.
func relations(ctx context.Context, t Txn, db ID) ([]ID, error) {
	start := Name{Class: ClassRelation, Database: db}.key()
	start = start[:len(start)-4] // of all schemas
	rows, err := t.Scan(ctx, keys.Span{Key: start, EndKey: start.PrefixEnd()}, 0)
	if err != nil {
		return nil, err
	}
	var out []ID
	for _, row := range rows {
		e, err := decodeEntry(row.Value)
		if err != nil {
			return nil, err
		}
		if e.Kind == KindTable || e.Kind == KindSequence {
			out = append(out, e.ID)
		}
	}
	return out, nil
}

// indexSpans cuts a table's span at the indexes that have a policy of their own.
func indexSpans(t *Table, whole policies.Span, b policies.Bindings) []policies.Span {
	var bound []policies.Span
	for _, ix := range append([]Index{t.Primary}, t.Indexes...) {
		o := whole.Object
		o.Index = int64(ix.ID)
		if _, ok := b[o]; ok && ix.ID != 0 {
			s := t.IndexSpan(&ix)
			bound = append(bound, policies.Span{Start: s.Key, End: s.EndKey, Object: o})
		}
	}
	slices.SortFunc(bound, func(x, y policies.Span) int { return bytes.Compare(x.Start, y.Start) })
	var out []policies.Span
	rest := whole
	for _, s := range bound {
		if !bytes.Equal(rest.Start, s.Start) {
			out = append(out, policies.Span{Start: rest.Start, End: s.Start, Object: whole.Object})
		}
		out = append(out, s)
		rest.Start = s.End
	}
	return append(out, rest)
}

// PlacementMapWith returns what would hold if a policy were bound to an object too, as the
// transaction sees the rest.
func (c *Collection) PlacementMapWith(ctx context.Context, o policies.Object, policy string) (*PlacementMap, error) {
	p, err := readPlacement(ctx, c.t)
	if err != nil {
		return nil, err
	}
	p.Bindings[o] = policy
	spans, err := readSpans(ctx, c.t, p.Bindings)
	return &PlacementMap{Placement: *p, Spans: spans}, err
}

// Named returns the policies that are bound somewhere, by name: the cluster's own and ready ones.
// Those that are missing are left out.
func (p *Placement) Named() map[string]*policies.Policy {
	out := map[string]*policies.Policy{}
	for _, name := range p.Bindings {
		if policy := p.Policy(name); policy != nil {
			out[name] = policy
		}
	}
	return out
}

// KeysOf returns the keys of an object; all keys for the cluster.
func (p *PlacementMap) KeysOf(o policies.Object) []policies.Span {
	if o == (policies.Object{}) {
		return []policies.Span{{}}
	}
	var out []policies.Span
	for _, s := range p.Spans {
		in := s.Object.Database == o.Database && (o.Table == 0 || s.Object.Table == o.Table) && (o.Index == 0 || s.Object.Index == o.Index)
		if _, at := p.Bindings.InForce(s.Object); in && at == o {
			out = append(out, s)
		}
	}
	return out
}
