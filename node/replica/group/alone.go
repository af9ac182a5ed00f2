package group

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
)

// Tail is where a replica's log ends.
type Tail struct {
	Last    Position
	Newest  time.Time // when the last entry was made, by its leader's clock; zero: not known
	Commit  uint64    // known to be committed
	Applied uint64
	Term    uint64
	// Config is the newest configuration in the log, committed or not.
	Config raft.Configuration
}

// Tail returns where the replica's log ends; it needs no leader.
func (g *Group) Tail() (Tail, error) {
	st := g.fsm.snapshotState()
	t := Tail{Last: st.Applied, Applied: st.Applied.Index, Commit: st.Applied.Index, Config: st.Config}
	term, err := g.log.GetUint64(currentTermKey)
	if err != nil {
		return t, err
	}
	t.Term = max(term, st.Applied.Term)
	if r := g.Raft(); r != nil {
		t.Commit = max(t.Commit, r.CommitIndex())
		if f := r.GetConfiguration(); f.Error() == nil && len(f.Configuration().Servers) > 0 {
			t.Config = f.Configuration()
		}
	}
	last, err := g.log.LastIndex()
	if err != nil || last == 0 {
		return t, err
	}
	var e raft.Log
	if err := g.log.RaftLog.GetLog(last, &e); err != nil {
		return t, fmt.Errorf("group: range %d: the log's last entry %d: %w", g.cfg.RangeID, last, err)
	}
	if last >= t.Last.Index {
		t.Last, t.Newest = Position{Index: last, Term: e.Term}, e.AppendedAt
	}
	return t, nil
}

// Alone says how a replica goes on as the only voter of its range, under a new ID, after the range has
// lost its quorum for good.
type Alone struct {
	// Desc is the descriptor to come: the only replica, the next ID, the generation. Start and End
	// bound what the range keeps of its keys.
	Desc kv.RangeDescriptor
	// Term is one that no replica that is left has passed.
	Term uint64
	// HighWater is above all that was served before (S4).
	HighWater hlc.Timestamp
	// Write adds to the same batch; nil: nothing.
	Write func(rw storage.ReadWriter, desc *kv.RangeDescriptor) error
	// RememberIDs is Config.RememberIDs.
	RememberIDs int
}

// GoAlone rewrites a replica's state in the state engine while its group is closed: what the log holds
// beyond the applied position is applied, whether it was committed or not, and behind it comes the
// configuration with the only voter, as if that had been the entry after the last one, in a term of its
// own. It is durable when GoAlone returns; the log is the caller's to remove then, since a group that is
// opened under the new ID begins behind it. A crash before that leaves the state of before or the one
// after: State tells which.
func GoAlone(e *storage.StateEngine, log *storage.RaftLog, a Alone) (taken Position, err error) {
	id := a.Desc.RangeID
	f := &fsm{state: e, fatal: func(error) {}, remember: a.RememberIDs, alone: true}
	if err := f.load(e, id); err != nil {
		return Position{}, err
	}
	if !f.st.Initialized() {
		return Position{}, fmt.Errorf("group: the replica of range %d has no data", id)
	}
	if err := f.applyAll(log); err != nil {
		return Position{}, err
	}
	taken = f.st.Applied
	if taken.Term, err = lastTerm(log, taken); err != nil {
		return taken, err
	}
	desc := a.Desc.Clone()
	desc.Start, desc.End = laterKey(desc.Start, f.st.Desc.Start), earlierKey(desc.End, f.st.Desc.End)
	if !desc.Start.Less(desc.End) {
		return taken, fmt.Errorf("group: range %d holds [%s, %s) by now, and nothing of [%s, %s)", id, f.st.Desc.Start, f.st.Desc.End, a.Desc.Start, a.Desc.End)
	}
	if desc.Generation <= f.st.Desc.Generation {
		return taken, fmt.Errorf("group: range %d has generation %d already, the new one is %d", id, f.st.Desc.Generation, desc.Generation)
	}
	// What the range gives up goes first: were it after, a crash could leave it behind.
	if spans := givenUp(&f.st.Desc, &desc); len(spans) > 0 {
		if err := e.ClearRange(spans...); err != nil {
			return taken, err
		}
	}
	term, err := log.GetUint64(currentTermKey)
	if err != nil {
		return taken, err
	}
	pos := Position{Index: taken.Index + 1, Term: max(a.Term, term, taken.Term) + 1}
	if err := f.writeAlone(e, &desc, pos, &a); err != nil {
		return taken, err
	}
	return taken, e.Flush() // REQUIRES: S16, before the log and the old record go
}

// applyAll applies what the log holds beyond the applied position.
func (f *fsm) applyAll(log *storage.RaftLog) error {
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	const atOnce = 64
	for next := f.st.Applied.Index + 1; next <= last; {
		var batch []*raft.Log
		for ; next <= last && len(batch) < atOnce; next++ {
			l := &raft.Log{}
			if err := log.GetLog(next, l); err != nil {
				return fmt.Errorf("group: range %d: entry %d of %d, of which %d are applied: %w", f.ids.rangeID, next, last, f.st.Applied.Index, err)
			}
			batch = append(batch, l)
		}
		if f.ApplyBatch(batch); f.bad != nil {
			return f.bad
		}
	}
	return nil
}

// lastTerm returns the term of the entry at p. Raft's internal entries are applied as any other, so the
// position has it; a log that is empty was cut at the position.
func lastTerm(log *storage.RaftLog, p Position) (uint64, error) {
	var l raft.Log
	err := log.GetLog(p.Index, &l)
	if errors.Is(err, raft.ErrLogNotFound) {
		return p.Term, nil
	}
	return max(l.Term, p.Term), err
}

func (f *fsm) writeAlone(e *storage.StateEngine, desc *kv.RangeDescriptor, pos Position, a *Alone) error {
	b := e.NewBatch()
	defer b.Close()
	err := errors.Join(
		writeApplied(b, desc.RangeID, pos),
		writeConfig(b, desc.RangeID, pos.Index, Configuration(desc)),
		writeDesc(b, desc),
		writeTimestamp(b, desc.RangeID, waterSuffix, a.HighWater.Max(f.st.HighWater)))
	if err == nil && a.Write != nil {
		err = a.Write(b, desc)
	}
	if err != nil {
		return err
	}
	return e.Commit(b)
}

// givenUp returns what old holds and desc, which lies in it, does not.
func givenUp(old, desc *kv.RangeDescriptor) []keys.Span {
	var out []keys.Span
	if old.Start.Less(desc.Start) {
		out = append(out, DataSpans(old.Start, desc.Start)...)
	}
	if desc.End.Less(old.End) {
		out = append(out, DataSpans(desc.End, old.End)...)
	}
	return out
}

func laterKey(a, b keys.Key) keys.Key {
	if a.Less(b) {
		return b
	}
	return a
}

func earlierKey(a, b keys.Key) keys.Key {
	if b.Less(a) {
		return b
	}
	return a
}
