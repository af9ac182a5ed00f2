package group

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

// A merge (SAFETY S20) freezes the right side through its own log; once every replica of it has
// applied that, durably, the left side's log takes it in. What the right side holds does not move:
// its keys lie next to the left side's. Its own state (position, configuration, descriptor,
// remembered commands) goes in the same engine batch that gives the left side its new bounds, and a
// marker stays in its place until the store has removed log and record of the replica.

func loadFrozen(r storage.Reader, id keys.RangeID) (*raftcmd.FreezeTrigger, error) {
	b, ok, err := r.Get(keys.RangeLocal(id, frozenSuffix))
	if err != nil || !ok {
		return nil, err
	}
	_, rest, err := decodeWords(b, 0)
	if err != nil {
		return nil, err
	}
	return raftcmd.DecodeFreeze(rest)
}

// IsFrozen reports whether a range waits to be merged, by what the engine holds.
func IsFrozen(r storage.Reader, id keys.RangeID) (bool, error) {
	_, ok, err := r.Get(keys.RangeLocal(id, frozenSuffix))
	return ok, err
}

func mergedKey(right keys.RangeID) keys.Key { return keys.RangeLocal(right, mergedSuffix) }

// MergedInto returns the range that took in the replica's range, if that has happened on this node
// and the replica has not been removed yet.
func MergedInto(r storage.Reader, id keys.RangeID) (left keys.RangeID, merged bool, err error) {
	b, ok, err := r.Get(mergedKey(id))
	if err != nil || !ok {
		return 0, false, err
	}
	w, _, err := decodeWords(b, 1)
	if err != nil {
		return 0, false, err
	}
	return keys.RangeID(w[0]), true, nil
}

// Absorbed is a replica whose state is about to go, because its range was merged into another one.
// Nothing is applied to it, and no snapshot installed, between Absorb and Release.
type Absorbed struct{ f *fsm }

// Absorb keeps the replica as it is until Release. REQUIRES: it is frozen.
func (g *Group) Absorb() (*Absorbed, error) {
	f := g.fsm
	f.mu.Lock()
	if f.st.Frozen == nil && !f.st.Merged {
		f.mu.Unlock()
		return nil, fmt.Errorf("group: range %d is not frozen, and can't be merged away", g.cfg.RangeID)
	}
	return &Absorbed{f}, nil
}

// Release says whether the state is gone. If it is, the replica never applies anything again.
func (a *Absorbed) Release(gone bool) {
	a.f.st.Merged = a.f.st.Merged || gone
	a.f.mu.Unlock()
}

// replace takes in another state, unless the range was merged away on this node: then its keys are
// another range's (S20).
func (f *fsm) replace(id keys.RangeID, ingest func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.st.Merged {
		return fmt.Errorf("group: range %d was merged away: it takes no snapshot any more (S20)", id)
	}
	if err := ingest(); err != nil {
		return err
	}
	return f.loadLocked(f.state, id)
}

// rejectMerge is the part of reject that merges need (S20).
func (f *fsm) rejectMerge(c *raftcmd.Command) string {
	switch {
	case c.Merge != nil && f.alone:
		// What it merges is recovered by itself, and unfrozen by its leaseholder.
		return fmt.Sprintf("a range that is being recovered does not take range %d in", c.Merge.Right)
	case c.Unfreeze != nil:
		if f.st.Frozen == nil || f.st.Frozen.Attempt != c.Unfreeze.Attempt {
			return fmt.Sprintf("the range is not frozen by attempt %x", c.Unfreeze.Attempt)
		}
	case f.st.Frozen != nil:
		return fmt.Sprintf("the range is frozen: it is being merged into range %d", f.st.Frozen.Left)
	case c.Freeze != nil && c.Freeze.Generation != f.st.Desc.Generation:
		return fmt.Sprintf("freeze of generation %d, the range is %s", c.Freeze.Generation, &f.st.Desc)
	case c.Merge != nil && (c.Merge.LeftGeneration != f.st.Desc.Generation || c.Merge.Merged.Generation <= c.Merge.LeftGeneration ||
		c.Merge.Merged.RangeID != f.st.Desc.RangeID || !c.Merge.Merged.Start.Equal(f.st.Desc.Start) || !f.st.Desc.End.Less(c.Merge.Merged.End)):
		return fmt.Sprintf("merge into %s at generation %d, the range is %s", &c.Merge.Merged, c.Merge.LeftGeneration, &f.st.Desc)
	}
	return ""
}

func (a *application) freeze(t *raftcmd.FreezeTrigger) error {
	f := a.f
	f.st.Frozen = t
	a.events = append(a.events, func(e Events, _ hlc.Timestamp) { e.FrozenApplied(t) })
	return a.b.Set(keys.RangeLocal(f.ids.rangeID, frozenSuffix), append(encodeWords(), t.Encode()...))
}

func (a *application) unfreeze() error {
	f := a.f
	f.st.Frozen = nil
	a.events = append(a.events, func(e Events, _ hlc.Timestamp) { e.FrozenApplied(nil) })
	return a.b.Delete(keys.RangeLocal(f.ids.rangeID, frozenSuffix))
}

// merge takes the right side in, in one batch with the left side's new bounds (S20). What it reads of
// the right side is the same on every replica: frozen ranges don't change.
func (a *application) merge(m *raftcmd.MergeTrigger) error {
	f := a.f
	if f.events == nil {
		return errors.New("group: a merge needs the store")
	}
	right, err := f.events.Absorb(m.Right)
	if err != nil {
		return err
	}
	a.absorbed = append(a.absorbed, right)
	st, err := LoadState(f.state, m.Right)
	switch {
	case err != nil:
		return err
	case st.Frozen == nil || st.Frozen.Attempt != m.Attempt || !st.Desc.Start.Equal(f.st.Desc.End) || !st.Desc.End.Equal(m.Merged.End):
		return fmt.Errorf("group: merge of range %d into %s: this node holds %s, frozen by %+v, attempt %x was to find it; a replica that had not applied the freeze was taken for one that had (S20)",
			m.Right, &f.st.Desc, &st.Desc, st.Frozen, m.Attempt)
	}
	f.st.Desc = m.Merged
	if err := writeDesc(a.b, &m.Merged); err != nil {
		return err
	}
	if high := m.HighWater.Max(st.HighWater); f.st.HighWater.Less(high) {
		f.st.HighWater = high
		if err := writeTimestamp(a.b, f.ids.rangeID, waterSuffix, high); err != nil {
			return err
		}
	}
	if f.st.GCThreshold.Less(st.GCThreshold) {
		f.st.GCThreshold = st.GCThreshold
		if err := writeTimestamp(a.b, f.ids.rangeID, gcSuffix, st.GCThreshold); err != nil {
			return err
		}
	}
	if err := a.takeIDs(m); err != nil {
		return err
	}
	if err := a.b.DeleteRange(rangeLocalSpan(m.Right).Key, rangeLocalSpan(m.Right).EndKey); err != nil {
		return err
	}
	if err := a.b.Set(mergedKey(m.Right), encodeWords(uint64(f.ids.rangeID))); err != nil {
		return err
	}
	merge := *m
	merge.Merged = m.Merged.Clone()
	a.events = append(a.events, func(e Events, gc hlc.Timestamp) { e.MergeApplied(merge, gc) })
	return nil
}

// takeIDs adds the newest of what the right side remembers to the left side's memory, among the
// commands of the entry that is being applied, and moves the horizon (S12): to what the trigger
// says, which is later than all that either side has applied.
func (a *application) takeIDs(m *raftcmd.MergeTrigger) error {
	f := a.f
	right, err := loadIDs(f.state, m.Right, f.remember)
	if err != nil {
		return err
	}
	taken, birth, horizon := right.newest()
	for _, c := range taken {
		if _, both := f.ids.byID[c.id]; both || slices.ContainsFunc(a.applied, func(o idRecord) bool { return o.id == c.id }) {
			continue
		}
		a.applied = append(a.applied, c)
	}
	a.birth = max(a.birth, birth)
	if horizon = max(horizon, m.Horizon); horizon <= f.ids.horizon {
		return nil
	}
	f.ids.horizon = horizon
	return writeHorizon(a.b, f.ids.rangeID, horizon)
}

// newest returns as much of a memory as another range takes over, the oldest first, the newest birth
// in it, and a horizon that covers the rest.
func (a *appliedIDs) newest() (taken []idRecord, birth, horizon int64) {
	ids, size := 0, 0
	horizon = a.horizon
	for _, g := range slices.Backward(a.order) {
		ids += len(g.ids)
		for _, id := range g.ids {
			size += len(a.byID[id].outcome)
		}
		if ids > a.most/inheritedPart || size > maxOutcomeBytes/inheritedPart {
			ids = math.MaxInt32 / 2 // the older ones are left out as well
			horizon = max(horizon, g.birth)
			continue
		}
		birth = max(birth, g.birth)
		for _, id := range slices.Backward(g.ids) {
			taken = append(taken, idRecord{id: id, outcome: a.byID[id].outcome})
		}
	}
	slices.Reverse(taken)
	return taken, birth, horizon
}

// mergedMarkers are the keys that a snapshot leaves in place of ranges that it swallows, in key order.
func mergedMarkers(rights []keys.RangeID) (out []marker) {
	rights = slices.Clone(rights)
	slices.Sort(rights)
	for _, id := range rights {
		out = append(out, marker{storage.EncodeKey(nil, mergedKey(id)), id})
	}
	return out
}

type marker struct {
	engineKey []byte
	right     keys.RangeID
}

// markersBefore writes the markers that come before a key (nil: all that are left).
func (in *incoming) markersBefore(engineKey []byte) error {
	for len(in.markers) > 0 && (engineKey == nil || storage.CompareEngineKeys(in.markers[0].engineKey, engineKey) < 0) {
		if err := in.table.Set(in.markers[0].engineKey, encodeWords(uint64(in.begin.rangeID))); err != nil {
			return err
		}
		in.markers = in.markers[1:]
	}
	return nil
}

// swallow returns the replicas here that a snapshot takes in: ranges that were merged into the one
// that it is of, which this node has not applied (S20). The caller releases them.
func (in *incoming) swallow(host Host) (out []*Absorbed, err error) {
	groups, err := host.Swallowed(&in.begin.desc)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(ranges(groups), in.swallowed) {
		return nil, fmt.Errorf("group: snapshot %x takes ranges %v in, here are %v by now; begin it again", in.begin.id, in.swallowed, ranges(groups))
	}
	for _, g := range groups {
		a, err := g.Absorb()
		if err != nil {
			release(out, false)
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func release(all []*Absorbed, gone bool) {
	for _, a := range all {
		a.Release(gone)
	}
}

func ranges(groups []*Group) (out []keys.RangeID) {
	for _, g := range groups {
		out = append(out, g.cfg.RangeID)
	}
	return out
}

// localSpans returns the range-local spans that a snapshot of a range clears, in key order.
func localSpans(id keys.RangeID, swallowed []keys.RangeID) []keys.Span {
	all := append([]keys.RangeID{id}, swallowed...)
	slices.Sort(all)
	var out []keys.Span
	for _, r := range all {
		out = append(out, rangeLocalSpan(r))
	}
	return out
}

// ForgetMerged removes the marker of a range that was merged away, once nothing else is left of its
// replica.
func ForgetMerged(e *storage.StateEngine, id keys.RangeID) error {
	return e.ApplyRepr(nil, func(w storage.Writer) error { return w.Delete(mergedKey(id)) })
}
