package catalog

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sort"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/jackc/pgerrcode"
)

// Collection is one transaction's view of the catalog. Use it like this:
//
//	c := manager.NewCollection(t)
//	... statements ...
//	if err := c.BeforeCommit(ctx); err == nil { err = t.Commit(ctx) }
//	c.Finish(ctx, committed)
//
// Descriptors that the transaction changed are read through the transaction, so that
// savepoints and its own DDL come out right; others come from the node's cache and bound
// the transaction's commit by a deadline. It is not safe for concurrent use.
type Collection struct {
	m *Manager
	t Txn

	pins    map[ID]pin
	created map[ID]bool             // made by this transaction
	base    map[ID]uint64           // version before this transaction's first write
	conds   map[string]kv.Condition // of the first write of each key
	changed map[ID]bool             // written, not created
	locked  map[ID]uint64           // SchemaLock held: its Holder
	names   bool                    // wrote to the namespace
	cleanup bool                    // something was dropped
	past    map[ID]Descriptor       // read as of a fixed timestamp; nil: the transaction reads as of now
	placed  bool                    // changed what a placement policy holds for, or one itself
}

// NewCollection returns the view of a transaction that has just begun.
func (m *Manager) NewCollection(t Txn) *Collection {
	return &Collection{m: m, t: t, pins: map[ID]pin{}}
}

// NewPastCollection returns the view of a transaction that reads at a fixed timestamp and writes
// nothing: the catalog as it was then.
func (m *Manager) NewPastCollection(t Txn) *Collection {
	c := m.NewCollection(t)
	c.past = map[ID]Descriptor{}
	return c
}

// Txn returns the transaction.
func (c *Collection) Txn() Txn { return c.t }

// Changes reports whether the transaction has changed the catalog.
func (c *Collection) Changes() bool {
	return len(c.changed) > 0 || len(c.created) > 0 || c.names || c.placed
}

// Created reports whether the transaction itself made the object.
func (c *Collection) Created(id ID) bool { return c.created[id] }

// Get returns a descriptor, or nil if it does not exist or is dropped. It waits while
// another transaction has the object for itself.
func (c *Collection) Get(ctx context.Context, id ID) (Descriptor, error) {
	d, err := c.get(ctx, id)
	if err != nil || d == nil || d.Head().State == DescDropped {
		return nil, err
	}
	return d, nil
}

func (c *Collection) get(ctx context.Context, id ID) (Descriptor, error) {
	if c.created[id] || c.base[id] != 0 {
		s, err := readDescriptor(ctx, c.t, id)
		if err != nil {
			return nil, err
		}
		return s.Desc, nil
	}
	if p, ok := c.pins[id]; ok {
		return p.desc, nil
	}
	if c.past != nil {
		return c.getPast(ctx, id)
	}
	for {
		p, err := c.m.acquire(ctx, id)
		if errors.Is(err, errNoLease) && c.t.Isolation() == kv.Serializable {
			// The transaction's own read protects as well as a lease: a change of the
			// descriptor fails the refresh.
			s, err := readDescriptor(ctx, c.t, id)
			return s.Desc, err
		}
		if err != nil || p.desc == nil {
			return nil, noLeaseError(err)
		}
		if p.desc.Head().State == DescOffline {
			c.m.release(p)
			if err := c.m.awaitUnlock(ctx, c, id, p.desc.Head()); err != nil {
				return nil, err
			}
			continue
		}
		if c.t.Isolation() == kv.ReadCommitted && c.t.ReadTimestamp().Less(p.since) {
			c.t.Step() // the statement reads as of now; names are resolved before it writes
		}
		if p.desc.Head().Version > 1 && c.t.ReadTimestamp().Less(p.since) {
			c.m.release(p)
			c.m.restarts.Inc()
			return nil, &RestartError{Reason: "the definition of " + p.desc.Head().Name + " changed after the transaction's snapshot"}
		}
		c.pins[id] = p
		return p.desc, nil
	}
}

// getPast returns a descriptor as it was at the transaction's timestamp: the node's cached one, if it
// held then already, else what the transaction reads. Nobody changes it, and nothing is waited for.
func (c *Collection) getPast(ctx context.Context, id ID) (Descriptor, error) {
	if d, ok := c.past[id]; ok {
		return d, nil
	}
	d := c.m.cachedAt(id, c.t.ReadTimestamp())
	if d == nil {
		s, err := readDescriptor(ctx, c.t, id)
		if err != nil {
			return nil, err
		}
		d = s.Desc
	}
	if len(c.past) < cacheMax {
		c.past[id] = d
	}
	return d, nil
}

func noLeaseError(err error) error {
	if errors.Is(err, errNoLease) {
		return pgerror.Wrap(err, pgerrcode.CannotConnectNow, "this node has held no schema lease for %s", leaseWait).
			WithHint("The cluster may have no quorum; check the other zones, then try again.")
	}
	return err
}

func (c *Collection) deadline() hlc.Timestamp {
	var d hlc.Timestamp
	for _, p := range c.pins {
		if e := c.m.deadlineOf(p); d.IsEmpty() || e.Less(d) {
			d = e
		}
	}
	return d
}

// Table returns the table, or nil if there is none with this ID.
func (c *Collection) Table(ctx context.Context, id ID) (*Table, error) {
	return typed[*Table](c.Get(ctx, id))
}

// Database returns the database, or nil.
func (c *Collection) Database(ctx context.Context, id ID) (*Database, error) {
	return typed[*Database](c.Get(ctx, id))
}

// Schema returns the schema, or nil.
func (c *Collection) Schema(ctx context.Context, id ID) (*Schema, error) {
	return typed[*Schema](c.Get(ctx, id))
}

// Sequence returns the sequence, or nil.
func (c *Collection) Sequence(ctx context.Context, id ID) (*Sequence, error) {
	return typed[*Sequence](c.Get(ctx, id))
}

// Role returns the role, or nil.
func (c *Collection) Role(ctx context.Context, id ID) (*Role, error) {
	return typed[*Role](c.Get(ctx, id))
}

func typed[T Descriptor](d Descriptor, err error) (T, error) {
	t, _ := d.(T)
	return t, err
}

// Lookup returns what a name stands for.
func (c *Collection) Lookup(ctx context.Context, n Name) (Entry, bool, error) {
	if !c.names {
		c.m.mu.Lock()
		e, ok := c.m.names[n]
		c.m.mu.Unlock()
		if ok {
			holds, err := c.holds(ctx, n, e)
			if err != nil || holds {
				return e, holds, err
			}
		}
		if ok && c.past == nil {
			c.m.mu.Lock()
			delete(c.m.names, n)
			c.m.mu.Unlock()
		}
	}
	r, err := c.t.Get(ctx, n.key(), false)
	if err != nil || !r.Exists {
		return Entry{}, false, err
	}
	e, err := decodeEntry(r.Value)
	if err != nil {
		return Entry{}, false, err
	}
	if !c.names && c.past == nil {
		c.m.mu.Lock()
		if len(c.m.names) < cacheMax {
			c.m.names[n] = e
		}
		c.m.mu.Unlock()
	}
	return e, true, nil
}

// holds reports whether a cached name still stands for e.
func (c *Collection) holds(ctx context.Context, n Name, e Entry) (bool, error) {
	if e.Kind == KindIndex {
		t, err := c.Table(ctx, e.Table)
		if err != nil || t == nil {
			return false, err
		}
		ix := t.IndexByID(e.ID)
		return ix != nil && ix.Name == n.Name && t.Schema == n.Schema, nil
	}
	d, err := c.Get(ctx, e.ID)
	if err != nil || d == nil {
		return false, err
	}
	return nameOf(d) == n, nil
}

// Names lists the names of a class in a database and schema, in order.
func (c *Collection) Names(ctx context.Context, class Class, db, schema ID) ([]Name, []Entry, error) {
	return readNames(ctx, c.t, Name{Class: class, Database: db, Schema: schema})
}

// All returns every descriptor that is not dropped, by ID, as the transaction sees it.
func (c *Collection) All(ctx context.Context) ([]Descriptor, error) {
	p := keys.TablePrefix(descriptorTable)
	rows, err := c.t.Scan(ctx, keys.Span{Key: p, EndKey: p.PrefixEnd()}, 0)
	if err != nil {
		return nil, err
	}
	out := make([]Descriptor, 0, len(rows))
	for _, r := range rows {
		d, err := Decode(r.Value)
		if err != nil {
			return nil, err
		}
		if d.Head().State != DescDropped {
			out = append(out, d)
		}
	}
	return out, nil
}

// IDCounter returns the key of the counter of object IDs.
func IDCounter() keys.Key { return append(keys.TablePrefix(counterTable), "id"...) }

// NewIDs returns the first of n new consecutive IDs.
func (c *Collection) NewIDs(ctx context.Context, n int) (ID, error) {
	last, err := c.m.cfg.DB.Increment(ctx, IDCounter(), int64(n))
	if err != nil {
		return 0, err
	}
	first := int64(FirstUserID) + last - int64(n)
	if first+int64(n) > 1<<32 {
		return 0, pgerror.New(pgerrcode.ProgramLimitExceeded, "all %d object IDs have been used", uint32(1<<32-1))
	}
	return ID(first), nil
}

// condition returns what a write of key depends on (SAFETY S26): what the transaction's
// first locking read of it saw.
func (c *Collection) condition(key keys.Key, r kv.GetResponse) kv.Condition {
	if r.Version.IsEmpty() {
		if r.Exists {
			return blind // over its own write, which has a condition
		}
		if cond, ok := c.conds[string(key)]; ok {
			return cond // absent by its own deletion
		}
	}
	if c.conds == nil {
		c.conds = map[string]kv.Condition{}
	}
	cond := condition(r)
	c.conds[string(key)] = cond
	return cond
}

// AddName enters a name. It fails with false if the name is taken.
func (c *Collection) AddName(ctx context.Context, n Name, e Entry) (bool, error) {
	r, err := c.t.Get(ctx, n.key(), true)
	if err != nil || r.Exists {
		return false, err
	}
	c.names = true
	if err := c.t.Put(ctx, n.key(), e.encode(), c.condition(n.key(), r)); err != nil {
		return false, err
	}
	c.t.Step()
	return true, nil
}

// RemoveName removes a name.
func (c *Collection) RemoveName(ctx context.Context, n Name) error {
	r, err := c.t.Get(ctx, n.key(), true)
	if err != nil || !r.Exists {
		return err
	}
	c.names = true
	if err := c.t.Delete(ctx, n.key(), c.condition(n.key(), r)); err != nil {
		return err
	}
	c.t.Step()
	return nil
}

// Create stores a new descriptor under its name, and reports false if that is taken. The
// caller has set ID, name and parents.
func (c *Collection) Create(ctx context.Context, d Descriptor) (bool, error) {
	h := d.Head()
	if ok, err := c.AddName(ctx, nameOf(d), Entry{Kind: d.Kind(), ID: h.ID}); err != nil || !ok {
		return ok, err
	}
	if err := c.placeCreated(ctx, d); err != nil {
		return false, err
	}
	h.Version, h.State, h.ModTime = 1, DescPublic, c.m.cfg.DB.Now()
	if c.created == nil {
		c.created = map[ID]bool{}
	}
	c.created[h.ID] = true
	if err := c.t.Put(ctx, descriptorKey(h.ID), Encode(d), blind); err != nil {
		return false, err
	}
	c.t.Step()
	return true, nil
}

// Mutable returns a descriptor for changing: the transaction's own, or the newest one,
// locked, after every node has left the version before it. Write stores it.
func (c *Collection) Mutable(ctx context.Context, id ID) (Descriptor, error) {
	for {
		r, err := c.t.Get(ctx, descriptorKey(id), true)
		if err != nil || !r.Exists {
			return nil, err
		}
		d, err := Decode(r.Value)
		if err != nil {
			return nil, err
		}
		h := d.Head()
		if c.created[id] || c.base[id] != 0 {
			return d, nil
		}
		switch {
		case h.State == DescDropped:
			return nil, nil
		case h.State == DescOffline && (h.Lock == nil || c.locked[id] == 0 || h.Lock.Holder != c.locked[id]):
			if err := c.m.awaitUnlock(ctx, c, id, h); err != nil {
				return nil, err
			}
			return nil, &RestartError{Reason: "another transaction changed " + h.Name}
		}
		if p, ok := c.pins[id]; ok && p.desc.Head().Version != h.Version && c.locked[id] == 0 {
			// The next try must not take the same old version from the cache: the news may be late.
			if err := c.m.sync(ctx); err != nil && ctx.Err() != nil {
				return nil, err
			}
			return nil, &RestartError{Reason: "the definition of " + h.Name + " changed while the transaction used it"}
		}
		if c.locked[id] == 0 {
			at, err := c.m.waitForVersion(ctx, c, id, h.Version, r.Version)
			if err != nil {
				return nil, err
			}
			if c.t.ReadTimestamp().Less(at) {
				return nil, &RestartError{Reason: "a node that used " + h.Name + " has gone away"}
			}
		}
		if c.base == nil {
			c.base = map[ID]uint64{}
		}
		c.base[id] = h.Version
		c.condition(descriptorKey(id), r)
		return d, nil
	}
}

// Write stores a descriptor that Mutable returned.
func (c *Collection) Write(ctx context.Context, d Descriptor) error {
	h := d.Head()
	cond := blind
	if !c.created[h.ID] {
		base := c.base[h.ID]
		if base == 0 {
			panic("catalog: Write of a descriptor that Mutable did not return") // a bug
		}
		h.Version, cond = base+1, c.conds[string(descriptorKey(h.ID))]
		if c.changed == nil {
			c.changed = map[ID]bool{}
		}
		c.changed[h.ID] = true
	}
	if h.State == DescOffline {
		h.State, h.Lock = DescPublic, nil // the change ends the exclusive lock
	}
	h.ModTime = c.m.cfg.DB.Now()
	if err := c.t.Put(ctx, descriptorKey(h.ID), Encode(d), cond); err != nil {
		return err
	}
	c.t.Step()
	return nil
}

// Drop marks a descriptor that Mutable returned as dropped and frees its names. Its data
// goes once no transaction can use it.
func (c *Collection) Drop(ctx context.Context, d Descriptor) error {
	if t, ok := d.(*Table); ok {
		for _, ix := range t.DeletableIndexes() {
			if ix.ID == 0 {
				continue
			}
			n := nameOf(t)
			n.Name = ix.Name
			if err := c.RemoveName(ctx, n); err != nil {
				return err
			}
		}
	}
	if err := c.RemoveName(ctx, nameOf(d)); err != nil {
		return err
	}
	if err := c.unbindDropped(ctx, d); err != nil {
		return err
	}
	if err := c.Write(ctx, setState(d, DescDropped)); err != nil {
		return err
	}
	c.cleanup = true
	return nil
}

func setState(d Descriptor, s DescState) Descriptor {
	d.Head().State, d.Head().Lock = s, nil
	return d
}

// Rename gives a descriptor that Mutable returned a new name and parents; false: taken.
func (c *Collection) Rename(ctx context.Context, d Descriptor, n Name) (bool, error) {
	old := nameOf(d)
	if ok, err := c.AddName(ctx, n, Entry{Kind: d.Kind(), ID: d.Head().ID}); err != nil || !ok {
		return ok, err
	}
	if err := c.RemoveName(ctx, old); err != nil {
		return false, err
	}
	h := d.Head()
	h.Name, h.Database, h.Schema = n.Name, n.Database, n.Schema
	return true, c.Write(ctx, d)
}

// NameOf returns the name under which a descriptor is found.
func NameOf(d Descriptor) Name { return nameOf(d) }

// NeedsCleanup asks that unreferenced data be removed after the commit.
func (c *Collection) NeedsCleanup() { c.cleanup = true }

// Reset forgets what the transaction has done, for a restart of it: schema locks stay.
func (c *Collection) Reset() {
	for _, p := range c.pins {
		c.m.release(p)
	}
	clear(c.pins)
	c.created, c.base, c.conds, c.changed, c.names, c.cleanup, c.placed = nil, nil, nil, nil, false, false, false
}

// BeforeCommit must run right before the transaction's commit: it publishes the schema
// changes and sets the commit's deadline (SAFETY S27).
func (c *Collection) BeforeCommit(ctx context.Context) error {
	if len(c.changed) > 0 || c.placed {
		generation, r, err := readGeneration(ctx, c.t, true)
		if err != nil {
			return err
		}
		ids := make([]ID, 0, len(c.changed))
		for id := range c.changed {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		if err := putGeneration(ctx, c.t, generation+1, r, ids); err != nil {
			return err
		}
	}
	if len(c.pins) > 0 {
		c.t.SetDeadline(c.deadline())
	}
	return nil
}

func putGeneration(ctx context.Context, t Txn, generation uint64, r kv.GetResponse, ids []ID) error {
	if err := t.Put(ctx, generationKey, binary.BigEndian.AppendUint64(nil, generation), condition(r)); err != nil {
		return err
	}
	if generation > maxChangeLog {
		if err := t.Delete(ctx, changeKey(generation-maxChangeLog), blind); err != nil {
			return err
		}
	}
	return t.Put(ctx, changeKey(generation), change{ids: ids}.encode(), blind)
}

// Finish must run after the transaction's end. After a commit it returns once this node's
// cache has the changes, and gives the other nodes a moment to notice.
func (c *Collection) Finish(ctx context.Context, committed bool) {
	changed, cleanup, locked := c.changed, c.cleanup, c.locked
	wrote, publish := c.Changes(), len(c.changed) > 0 || c.placed
	c.Reset()
	c.locked = nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	ids := make([]ID, 0, len(locked))
	for id := range locked {
		if !committed || !changed[id] {
			ids = append(ids, id)
		}
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	for _, id := range ids {
		c.m.unlock(ctx, id, locked[id])
	}
	if !committed || !wrote {
		return
	}
	if publish {
		if err := c.m.sync(ctx); err != nil {
			c.m.cfg.Logger.Warn("schema change not yet in this node's cache", "err", err)
		}
		if c.m.cfg.OnPublish != nil {
			c.m.cfg.OnPublish()
		}
		c.m.waitForSeen(ctx, c.m.seenTimestamp(), noticeLimit)
	}
	if cleanup {
		c.m.collectSoon()
	}
}

// noticeLimit bounds how long a committed schema change waits for other nodes to notice it,
// so that the client's next statement on another node finds it.
const noticeLimit = time.Second

func (m *Manager) seenTimestamp() hlc.Timestamp {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen
}
