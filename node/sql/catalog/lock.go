package catalog

import (
	"context"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/jackc/pgerrcode"
)

// Exclusive use of an object, for changes that can't stand a second writer (PostgreSQL's
// ACCESS EXCLUSIVE lock). The holder publishes the object as offline in a transaction of
// its own and waits until no transaction uses an earlier version; others wait meanwhile.
// The holder's own transaction then publishes it anew, or gives the lock back at its end.
// If the holder's node dies, its lease session expires, and whoever waits puts the object
// back. A late commit of the holder fails then, since its write is conditional on what it
// saw.

// Lock takes the object for this transaction alone. An object that the transaction itself
// has made, or changed before, needs no lock.
func (c *Collection) Lock(ctx context.Context, id ID) error {
	if c.created[id] || c.locked[id] != 0 {
		return nil
	}
	if c.base[id] != 0 {
		// Its write intent keeps others from changing it, but not from using it.
		return pgerror.New(pgerrcode.FeatureNotSupported, "this change needs the object for itself, and the transaction has changed the object's definition already").
			WithHint("Run the two changes in two transactions.")
	}
	holder, err := c.m.lock(ctx, c, id, func() {
		if p, ok := c.pins[id]; ok {
			// What the transaction did under the old version commits together with the new one.
			c.m.release(p)
			delete(c.pins, id)
		}
	})
	if err != nil {
		return err
	}
	if c.locked == nil {
		c.locked = map[ID]uint64{}
	}
	c.locked[id] = holder
	// Move the transaction past everything that happened before the lock.
	_, err = c.t.Get(ctx, descriptorKey(id), true)
	return err
}

func (m *Manager) lock(ctx context.Context, c *Collection, id ID, unpin func()) (uint64, error) {
	for {
		l, err := m.currentLease(ctx)
		if err != nil {
			return 0, noLeaseError(err)
		}
		m.mu.Lock()
		m.holders++
		holder := m.holders
		m.mu.Unlock()
		// First nobody may use the version before the present one: two at most.
		var s Stored
		err = m.cfg.DB.Run(ctx, "schema lock", func(ctx context.Context, t Txn) (err error) {
			s, err = readDescriptor(ctx, t, id)
			return err
		})
		if err != nil {
			return 0, err
		}
		if s.Desc == nil || s.Desc.Head().State == DescDropped {
			return 0, &RestartError{Reason: "an object was dropped"}
		}
		h := s.Desc.Head()
		if h.State == DescOffline {
			if err := m.awaitUnlock(ctx, c, id, h); err != nil {
				return 0, err
			}
			continue
		}
		unpin()
		expired, err := m.waitForVersion(ctx, c, id, h.Version, s.Since)
		if err != nil {
			return 0, err
		}
		h.State, h.Lock = DescOffline, &SchemaLock{Node: m.cfg.Node, Session: l.session, Holder: holder}
		ok, err := m.publish(ctx, s.Desc, s.Since, expired, h.Version+1)
		if err != nil {
			return 0, err
		}
		if !ok {
			continue // somebody was faster
		}
		if err := m.drain(ctx, c, id); err != nil {
			m.unlock(context.WithoutCancel(ctx), id, holder)
			return 0, err
		}
		return holder, nil
	}
}

// drain waits until nobody uses a version before the offline one, then writes that one
// again: its new timestamp is after everything they committed.
func (m *Manager) drain(ctx context.Context, c *Collection, id ID) error {
	var s Stored
	read := func(ctx context.Context, t Txn) (err error) {
		s, err = readDescriptor(ctx, t, id)
		return err
	}
	if err := m.cfg.DB.Run(ctx, "schema lock", read); err != nil {
		return err
	}
	if s.Desc == nil {
		return &RestartError{Reason: "an object was dropped"}
	}
	h := s.Desc.Head()
	expired, err := m.waitForVersion(ctx, c, id, h.Version, s.Since)
	if err != nil {
		return err
	}
	ok, err := m.publish(ctx, s.Desc, s.Since, expired, h.Version)
	if err == nil && !ok {
		err = &RestartError{Reason: "a schema lock was lost"}
	}
	return err
}

// publish writes a version of a descriptor in a transaction of its own, if the stored one
// is still the one that committed at since. It commits at or after notBefore.
func (m *Manager) publish(ctx context.Context, d Descriptor, since, notBefore hlc.Timestamp, version uint64) (ok bool, err error) {
	h := d.Head()
	h.Version = version
	err = m.cfg.DB.Run(ctx, "schema publish", func(ctx context.Context, t Txn) error {
		ok = false
		r, err := t.Get(ctx, descriptorKey(h.ID), true)
		if err != nil || !r.Exists || r.Version != since {
			return err
		}
		if t.ReadTimestamp().Less(notBefore) {
			return &RestartError{Reason: "clock behind"} // a new transaction reads later
		}
		h.ModTime = m.cfg.DB.Now()
		if err := t.Put(ctx, descriptorKey(h.ID), Encode(d), kv.Condition{Check: true, Seen: r.Version}); err != nil {
			return err
		}
		generation, r, err := readGeneration(ctx, t, true)
		if err != nil {
			return err
		}
		ok = true
		return putGeneration(ctx, t, generation+1, r, []ID{h.ID})
	})
	if err == nil && ok {
		if serr := m.sync(ctx); serr != nil {
			m.cfg.Logger.Warn("schema change not yet in this node's cache", "err", serr)
		}
		if m.cfg.OnPublish != nil {
			m.cfg.OnPublish()
		}
	}
	return ok, err
}

// unlock makes an object public again, if the lock is still the holder's.
func (m *Manager) unlock(ctx context.Context, id ID, holder uint64) {
	m.mu.Lock()
	l := m.lease
	m.mu.Unlock()
	err := m.cfg.DB.Run(ctx, "schema unlock", func(ctx context.Context, t Txn) error {
		return putBack(ctx, t, id, func(k *SchemaLock) bool {
			return k.Node == m.cfg.Node && k.Holder == holder && (l == nil || k.Session == l.session)
		}, m.cfg.DB.Now())
	})
	if err != nil {
		m.cfg.Logger.Error("schema lock not given back; it ends with this node's lease session", "object", id, "err", err)
		return
	}
	if err := m.sync(ctx); err != nil {
		m.cfg.Logger.Warn("schema change not yet in this node's cache", "err", err)
	}
}

// putBack publishes an offline object as it was before.
func putBack(ctx context.Context, t Txn, id ID, mine func(*SchemaLock) bool, now hlc.Timestamp) error {
	r, err := t.Get(ctx, descriptorKey(id), true)
	if err != nil || !r.Exists {
		return err
	}
	d, err := Decode(r.Value)
	if err != nil {
		return err
	}
	h := d.Head()
	if h.State != DescOffline || h.Lock == nil || !mine(h.Lock) {
		return nil
	}
	// Nobody could use the offline version, so that the versions in use stay the last
	// public one and this.
	h.State, h.Lock = DescPublic, nil
	h.Version++
	h.ModTime = now
	if err := t.Put(ctx, descriptorKey(id), Encode(d), condition(r)); err != nil {
		return err
	}
	generation, g, err := readGeneration(ctx, t, true)
	if err != nil {
		return err
	}
	return putGeneration(ctx, t, generation+1, g, []ID{id})
}

// awaitUnlock waits, for c's transaction, until the object is public again or its holder is gone.
func (m *Manager) awaitUnlock(ctx context.Context, c *Collection, id ID, h *Header) error {
	if h.Lock == nil {
		return pgerror.New(pgerrcode.ObjectInUse, "%q is being changed", h.Name)
	}
	lock := *h.Lock
	check := time.Now().Add(LeaseTTL / 4)
	w := c.waits(id, 0)
	defer w.end(ctx)
	for {
		if err := waitFor(ctx, nil, 20*time.Millisecond); err != nil {
			return err
		}
		if err := w.step(ctx); err != nil {
			return err
		}
		var s Stored
		err := m.cfg.DB.Run(ctx, "schema lock wait", func(ctx context.Context, t Txn) (err error) {
			s, err = readDescriptor(ctx, t, id)
			return err
		})
		if err != nil {
			return err
		}
		if s.Desc == nil || s.Desc.Head().State != DescOffline || s.Desc.Head().Lock == nil || *s.Desc.Head().Lock != lock {
			return m.sync(ctx)
		}
		if time.Now().Before(check) {
			continue
		}
		check = time.Now().Add(LeaseTTL / 4)
		alive, err := m.sessionAlive(ctx, &lock)
		if err != nil || alive {
			continue
		}
		m.cfg.Logger.Info("schema lock's holder is gone; the object is made public again", "object", id, "node", lock.Node)
		err = m.cfg.DB.Run(ctx, "schema lock recovery", func(ctx context.Context, t Txn) error {
			return putBack(ctx, t, id, func(k *SchemaLock) bool { return *k == lock }, m.cfg.DB.Now())
		})
		if err != nil {
			return err
		}
		return m.sync(ctx)
	}
}

// collect removes the data of dropped objects and of replaced index storages, once no
// transaction can use them any more.
func (m *Manager) collect(ctx context.Context) error {
	p := keys.TablePrefix(descriptorTable)
	var todo []Stored
	err := m.cfg.DB.Run(ctx, "schema cleanup", func(ctx context.Context, t Txn) error {
		todo = nil
		rows, err := t.Scan(ctx, keys.Span{Key: p, EndKey: p.PrefixEnd()}, 0)
		if err != nil {
			return err
		}
		for _, r := range rows {
			d, err := Decode(r.Value)
			if err != nil {
				return err
			}
			t, ok := d.(*Table)
			if d.Head().State == DescDropped || ok && len(t.Garbage) > 0 {
				todo = append(todo, Stored{Desc: d, Since: r.Version})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	seen := make(map[rubbish]hlc.Timestamp, len(m.rubbish))
	now := m.cfg.DB.Now()
	for _, s := range todo {
		if err := m.collectOne(ctx, s, now, seen); err != nil {
			return err
		}
	}
	m.rubbish = seen
	return nil
}

// rubbish is an object that was dropped (storage 0), or a storage that nothing refers to any more.
type rubbish struct {
	id      ID
	storage uint32
}

// expired reports whether something has been rubbish for as long as old versions are kept, and since
// when this node has known: reads at earlier timestamps might want it (AS OF SYSTEM TIME).
func (m *Manager) expired(r rubbish, now hlc.Timestamp, seen map[rubbish]hlc.Timestamp) (since hlc.Timestamp, yes bool) {
	since, known := m.rubbish[r]
	if !known {
		since = now
	}
	seen[r] = since
	return since, since.Add(m.cfg.KeepDropped).LessEq(now)
}

func (m *Manager) collectOne(ctx context.Context, s Stored, now hlc.Timestamp, seen map[rubbish]hlc.Timestamp) error {
	h := s.Desc.Head()
	if h.State == DescDropped {
		return m.collectDropped(ctx, s, now, seen)
	}
	t, ok := s.Desc.(*Table)
	if !ok || h.State != DescPublic {
		return nil
	}
	var since hlc.Timestamp
	var old, kept []uint32
	for _, g := range t.Garbage {
		r := rubbish{h.ID, g}
		if at, yes := m.expired(r, now, seen); yes {
			old, since = append(old, g), since.Max(at)
			delete(seen, r)
		} else {
			kept = append(kept, g)
		}
	}
	if len(old) == 0 {
		return nil
	}
	// Transactions that still use the version before this one may read and write the data.
	if _, err := m.waitForVersion(ctx, nil, h.ID, h.Version, s.Since); err != nil {
		return err
	}
	for _, g := range old {
		p := keys.IndexPrefix(uint32(h.ID), g)
		if err := m.cfg.DB.ClearSpan(ctx, keys.Span{Key: p, EndKey: p.PrefixEnd()}, since); err != nil {
			return err
		}
	}
	t.Garbage = kept
	_, err := m.publish(ctx, t, s.Since, hlc.Timestamp{}, h.Version+1)
	return err
}

// collectDropped removes the data of a dropped object, and then what is left of its descriptor.
func (m *Manager) collectDropped(ctx context.Context, s Stored, now hlc.Timestamp, seen map[rubbish]hlc.Timestamp) error {
	h := s.Desc.Head()
	since, yes := m.expired(rubbish{h.ID, 0}, now, seen)
	if !yes {
		return nil
	}
	// Transactions that still use the version before this one may read and write the data.
	if _, err := m.waitForVersion(ctx, nil, h.ID, h.Version, s.Since); err != nil {
		return err
	}
	p := keys.TablePrefix(uint32(h.ID))
	if err := m.cfg.DB.ClearSpan(ctx, keys.Span{Key: p, EndKey: p.PrefixEnd()}, since); err != nil {
		return err
	}
	return m.cfg.DB.Run(ctx, "descriptor removal", func(ctx context.Context, t Txn) error {
		return t.Delete(ctx, descriptorKey(h.ID), blind)
	})
}

// collectEvery is how often a node looks for data that nothing refers to, beside the times
// when it dropped something itself.
const collectEvery = 10 * time.Minute

func (m *Manager) collectSoon() {
	select {
	case m.gc <- struct{}{}:
	default:
	}
}

func (m *Manager) collectLoop(ctx context.Context) {
	every := collectEvery
	if keep := m.cfg.KeepDropped; keep > 0 {
		every = min(every, max(keep/2, time.Second))
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-m.gc:
		}
		if err := m.collect(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Logger.Warn("removal of dropped objects' data failed; it is tried again", "err", err, "after", every)
		}
	}
}
