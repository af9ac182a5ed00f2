package group

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

// Events are what applying the log, or a snapshot, tells the store. They are called from
// the goroutine that applies, in log order, after the state is written; they must not block.
type Events interface {
	// SplitApplied: the range gave up its right side. Before the right side sends or answers
	// any raft message, the state engine must be flushed (SAFETY S20).
	SplitApplied(split raftcmd.SplitTrigger, gc hlc.Timestamp)
	// DescriptorApplied: a replica change or a snapshot brought another descriptor.
	DescriptorApplied(desc kv.RangeDescriptor)
	// GCThresholdApplied: versions at or below ts may be gone (S25).
	GCThresholdApplied(ts hlc.Timestamp)
	// FrozenApplied: the range was frozen for a merge, or (nil) is not frozen (S20).
	FrozenApplied(t *raftcmd.FreezeTrigger)
	// Absorb returns this node's replica of a range that is about to be merged into this one. Unlike
	// the others it is called before the state is written.
	Absorb(right keys.RangeID) (*Absorbed, error)
	// MergeApplied: the range took its right neighbour in, whose log and record here may go once
	// the state engine is flushed (S16).
	MergeApplied(merge raftcmd.MergeTrigger, gc hlc.Timestamp)
	// DigestRequested: the replica's state at pos is to be compared under id (S23). The
	// receiver closes snap.
	DigestRequested(id raftcmd.ID, pos Position, snap *storage.Snapshot)
}

// fsm applies a range's log to the state engine. Each batch of entries becomes one batch
// of the engine together with the applied position (S16).
type fsm struct {
	state  *storage.StateEngine
	events Events
	fatal  func(error)
	// skipTermCheck is the fault that the simulator plants to see that its checkers bite (S5).
	skipTermCheck bool
	// skipHorizon is another one: old commands are applied though their ID is forgotten (S12).
	skipHorizon bool
	remember    int // IDs; 0: the default
	self        raft.ServerID
	witness     bool // only structure is applied (S22)

	appliedTerm  atomic.Uint64 // of the newest applied entry, for the lease (S2 c)
	appliedIndex atomic.Uint64
	commands     atomic.Int64

	mu  sync.RWMutex // guards st and ids; held while a batch is applied
	st  State
	ids *appliedIDs
	bad error // the state engine failed: nothing is applied any more
	// alone: the log's end is taken for a recovery (GoAlone), with no other range's state at hand.
	alone bool
}

var (
	_ raft.BatchingFSM        = (*fsm)(nil)
	_ raft.ConfigurationStore = (*fsm)(nil)
)

// load reads what the state engine holds, at open.
func (f *fsm) load(r storage.Reader, id keys.RangeID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loadLocked(r, id)
}

func (f *fsm) loadLocked(r storage.Reader, id keys.RangeID) error {
	st, err := LoadState(r, id)
	if err != nil {
		return err
	}
	ids, err := loadIDs(r, id, f.remember)
	if err != nil {
		return err
	}
	if err := f.checkKinds(st.Config); err != nil {
		return err
	}
	f.st, f.ids = st, ids
	f.appliedTerm.Store(st.Applied.Term)
	f.appliedIndex.Store(st.Applied.Index)
	return nil
}

func (f *fsm) snapshotState() State {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.st
}

func (f *fsm) lookup(id raftcmd.ID) (outcome []byte, applied bool, horizon int64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	a, ok := f.ids.byID[id]
	if horizon = f.ids.horizon; f.skipHorizon {
		horizon = 0
	}
	return a.outcome, ok, horizon
}

// Apply implements raft.FSM; raft uses ApplyBatch.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// StoreConfiguration implements raft.ConfigurationStore; raft hands configurations to
// ApplyBatch.
func (f *fsm) StoreConfiguration(index uint64, c raft.Configuration) {
	f.mu.RLock()
	term := f.st.Applied.Term
	f.mu.RUnlock()
	f.ApplyBatch([]*raft.Log{{Index: index, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}})
}

// Snapshot implements raft.FSM. Raft's own compaction is off: it is never called.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return nil, errors.New("group: raft's own snapshots are off; the state engine is the snapshot")
}

// Restore implements raft.FSM. Snapshots are installed while raft is stopped.
func (f *fsm) Restore(rc io.ReadCloser) error {
	return errors.Join(errors.New("group: raft does not restore snapshots; the store installs them"), rc.Close())
}

// ApplyBatch implements raft.BatchingFSM.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	responses := make([]any, len(logs))
	for start := 0; start < len(logs); {
		n := f.applySegment(logs[start:], responses[start:])
		start += n
	}
	return responses
}

// applySegment applies entries up to one that needs the state exactly there, and returns
// how many it applied.
func (f *fsm) applySegment(logs []*raft.Log, responses []any) int {
	b := f.state.NewWriteBatch()
	defer b.Close()
	a := application{f: f, b: b}
	f.mu.Lock()
	if f.st.Merged { // nothing is applied any more: its state is gone (S20)
		f.mu.Unlock()
		clear(responses)
		return len(logs)
	}
	n := 0
	for n < len(logs) && len(a.digests) == 0 && f.bad == nil {
		l := logs[n]
		if l.Index > f.st.Applied.Index { // S17: the others are in the state already
			out, err := a.entry(l)
			if err != nil {
				f.fail(fmt.Errorf("entry %d, term %d: %w", l.Index, l.Term, err))
				break
			}
			responses[n] = out
		}
		n++
	}
	if f.bad == nil && a.last.Index > 0 {
		err := writeApplied(b, f.ids.rangeID, a.last)
		if err == nil {
			err = f.state.Commit(b)
		}
		if err != nil {
			f.fail(err)
		}
	}
	release(a.absorbed, f.bad == nil)
	if f.bad != nil {
		// Nobody may believe that anything was applied.
		clear(responses)
		f.mu.Unlock()
		return len(logs)
	}
	if a.last.Index > 0 {
		f.appliedTerm.Store(a.last.Term)
		f.appliedIndex.Store(a.last.Index)
	}
	gc := f.st.GCThreshold
	f.mu.Unlock()
	a.report(gc)
	return n
}

// fail stops the replica: going on would apply over a hole. REQUIRES: f.mu is held.
func (f *fsm) fail(err error) {
	f.bad = fmt.Errorf("group: range %d can't apply its log: %w", f.ids.rangeID, err)
	go f.fatal(f.bad)
}

// application is one engine batch in the making.
type application struct {
	f       *fsm
	b       *storage.Batch
	last    Position
	applied []idRecord // by the entry at last
	birth   int64      // newest of applied's
	events  []func(Events, hlc.Timestamp)
	digests []raftcmd.ID
	// absorbed are replicas whose ranges are merged into this one by the batch.
	absorbed []*Absorbed
}

func (a *application) entry(l *raft.Log) (any, error) {
	a.last = Position{Index: l.Index, Term: l.Term}
	a.f.st.Applied = a.last
	switch l.Type {
	case raft.LogConfiguration:
		c, err := decodeConfiguration(l.Data)
		if err != nil {
			return nil, err
		}
		if err := a.f.checkKinds(c); err != nil {
			return nil, err
		}
		a.f.st.Config, a.f.st.ConfigIndex = c, l.Index
		return nil, writeConfig(a.b, a.f.ids.rangeID, l.Index, c)
	case raft.LogCommand:
		return a.commands(l)
	}
	return nil, nil
}

func (a *application) commands(l *raft.Log) (any, error) {
	cmds, err := raftcmd.DecodeEntry(l.Data)
	if err != nil {
		return nil, err
	}
	outs := make([]outcome, len(cmds))
	a.applied, a.birth = nil, 0
	for i, c := range cmds {
		outs[i].index = l.Index
		if outs[i].rejected = a.f.reject(c, l.Term); outs[i].rejected != "" {
			continue
		}
		if c.ID != (raftcmd.ID{}) {
			_, outs[i].duplicate = a.f.ids.byID[c.ID]
			for _, r := range a.applied {
				outs[i].duplicate = outs[i].duplicate || r.id == c.ID
			}
			if outs[i].duplicate {
				continue
			}
			// REQUIRES: S12
			if !c.Unborn && a.f.ids.expired(c.Birth) && !a.f.skipHorizon {
				outs[i].rejected = fmt.Sprintf("born at %d, commands born up to %d are forgotten", c.Birth, a.f.ids.horizon)
				continue
			}
			if !c.Unborn {
				a.birth = max(a.birth, c.Birth)
			}
			a.applied = append(a.applied, idRecord{id: c.ID, outcome: c.Outcome})
		}
		if err := a.command(c); err != nil {
			return nil, fmt.Errorf("command %d of %d: %w", i+1, len(cmds), err)
		}
	}
	a.f.commands.Add(int64(len(cmds)))
	return outs, a.f.ids.add(a.b, l.Index, a.birth, a.applied)
}

// reject returns why a command must not be applied; every replica says the same (S17).
func (f *fsm) reject(c *raftcmd.Command, term uint64) string {
	switch {
	case c.Term != term && !f.skipTermCheck:
		// REQUIRES: S5
		return fmt.Sprintf("evaluated in term %d, appended in term %d", c.Term, term)
	case c.Split != nil && (c.Split.Left.Generation != f.st.Desc.Generation+1 || !c.Split.Left.Start.Equal(f.st.Desc.Start) ||
		!c.Split.Right.End.Equal(f.st.Desc.End) || !c.Split.Left.End.Equal(c.Split.Right.Start)):
		return fmt.Sprintf("split of generation %d into %s and %s, the range is %s",
			c.Split.Left.Generation-1, &c.Split.Left, &c.Split.Right, &f.st.Desc)
	case c.ChangeDesc != nil && (c.ChangeDesc.Generation != f.st.Desc.Generation+1 || !c.ChangeDesc.Start.Equal(f.st.Desc.Start) ||
		!c.ChangeDesc.End.Equal(f.st.Desc.End)):
		return fmt.Sprintf("replica change to %s, the range is %s", c.ChangeDesc, &f.st.Desc)
	}
	if why := f.rejectMerge(c); why != "" {
		return why
	}
	if len(c.Batch) > 0 {
		if err := storage.CheckRepr(c.Batch); err != nil {
			return err.Error()
		}
	}
	return ""
}

func (a *application) command(c *raftcmd.Command) error {
	f := a.f
	if len(c.Batch) > 0 && !f.witness {
		if err := a.b.Append(c.Batch); err != nil {
			return err
		}
	}
	if f.st.GCThreshold.Less(c.GCThreshold) {
		f.st.GCThreshold = c.GCThreshold
		a.events = append(a.events, func(e Events, _ hlc.Timestamp) { e.GCThresholdApplied(c.GCThreshold) })
		if err := writeTimestamp(a.b, f.ids.rangeID, gcSuffix, c.GCThreshold); err != nil {
			return err
		}
	}
	if c.ChangeDesc != nil {
		f.st.Desc = *c.ChangeDesc
		desc := c.ChangeDesc.Clone()
		a.events = append(a.events, func(e Events, _ hlc.Timestamp) { e.DescriptorApplied(desc) })
		if err := writeDesc(a.b, c.ChangeDesc); err != nil {
			return err
		}
	}
	if c.Digest && !f.witness {
		a.digests = append(a.digests, c.ID)
	}
	switch {
	case c.Split != nil:
		return a.split(c.Split)
	case c.Freeze != nil:
		return a.freeze(c.Freeze)
	case c.Unfreeze != nil:
		return a.unfreeze()
	case c.Merge != nil:
		return a.merge(c.Merge)
	}
	return nil
}

// split makes the right side in the left one's batch: both or none survive a crash (S20).
func (a *application) split(s *raftcmd.SplitTrigger) error {
	f := a.f
	left := s.Left.RangeID
	f.st.Desc = s.Left
	err := writeDesc(a.b, &s.Left)
	if err == nil {
		err = WriteInitialState(a.b, &s.Right, f.st.GCThreshold, s.HighWater.Max(f.st.HighWater))
	}
	if err == nil {
		err = f.ids.inherit(a.b, s.Right.RangeID, a.birth, a.applied)
	}
	if err == nil {
		err = a.b.Set(pendingSplitKey(left, s.Right.RangeID), raftcmd.EncodeDescriptor(&s.Right))
	}
	split := raftcmd.SplitTrigger{Left: s.Left.Clone(), Right: s.Right.Clone(), HighWater: s.HighWater}
	a.events = append(a.events, func(e Events, gc hlc.Timestamp) { e.SplitApplied(split, gc) })
	return err
}

// report tells the store what was applied.
func (a *application) report(gc hlc.Timestamp) {
	if a.f.events == nil {
		return
	}
	for _, ev := range a.events {
		ev(a.f.events, gc)
	}
	for _, id := range a.digests {
		snap, err := a.f.state.NewSnapshot()
		if err != nil {
			continue // the engine is closing; the proposer times out
		}
		a.f.events.DigestRequested(id, a.last, snap)
	}
}
