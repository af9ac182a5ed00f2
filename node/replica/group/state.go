package group

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

// What a range keeps about itself in the state engine, under keys.RangeLocal. All but the
// keys below localSuffix are replicated: equal on every replica at one log position.
const (
	appliedSuffix = "a"  // version, index, term of the newest entry applied
	configSuffix  = "c"  // version, index, raft configuration
	descSuffix    = "d"  // range descriptor
	frozenSuffix  = "f"  // version, freeze trigger: the range waits to be merged (S20)
	gcSuffix      = "g"  // version, GC threshold
	horizonSuffix = "h"  // version, newest birth of a forgotten command (S12)
	idsSuffix     = "i"  // + log index: version, IDs of the commands of that entry (S12)
	waterSuffix   = "w"  // version, highest timestamp read before the range was split off (S20)
	localSuffix   = "~"  // not replicated
	mergedSuffix  = "~m" // version, left range ID: all that is left of a range that was merged away
	splitSuffix   = "~s" // + right range ID: a right side that the store has not registered yet
)

const stateVersion = 1

// InitialIndex and InitialTerm are where a new range's log begins: its initial state counts
// as the entry at InitialIndex, and is the same on every replica. It is above 1 because raft
// asks for no entry before the first: a leader would replicate to an empty replica from 1
// on instead of sending it a snapshot.
const (
	InitialIndex = 10
	InitialTerm  = 1
)

// Position is a place in a range's log.
type Position struct{ Index, Term uint64 }

// State is what a replica has applied.
type State struct {
	Applied     Position
	Desc        kv.RangeDescriptor // RangeID 0: the replica holds no data yet
	Config      raft.Configuration
	ConfigIndex uint64
	GCThreshold hlc.Timestamp
	// HighWater is the highest timestamp at which the range's keys were read before it was
	// split off, or those of a range that was merged into it: no leaseholder may write at or
	// below it (S4).
	HighWater hlc.Timestamp
	// Frozen is set while the range waits to be merged into its left neighbour (S20).
	Frozen *raftcmd.FreezeTrigger
	// Merged says that another range has taken this one in on this node (S20): its keys are that one's,
	// and what is said here of their GC threshold and of log positions holds no more. It is not stored.
	Merged bool
}

// Initialized reports whether the replica holds the range's data.
func (s *State) Initialized() bool { return s.Applied.Index > 0 }

func encodeWords(words ...uint64) []byte {
	b := make([]byte, 1, 1+8*len(words))
	b[0] = stateVersion
	for _, w := range words {
		b = binary.BigEndian.AppendUint64(b, w)
	}
	return b
}

// decodeWords reads n words behind the version byte and returns what follows them.
func decodeWords(b []byte, n int) ([]uint64, []byte, error) {
	if len(b) == 0 || b[0] != stateVersion {
		return nil, nil, fmt.Errorf("group: range state %x has no version %d; a newer binary wrote it, or it is damaged", b, stateVersion)
	}
	if b = b[1:]; len(b) < 8*n {
		return nil, nil, fmt.Errorf("group: range state of %d bytes, want %d", len(b), 8*n)
	}
	words := make([]uint64, n)
	for i := range words {
		words[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return words, b[8*n:], nil
}

// LoadState reads a range's state; the zero State if there is none.
func LoadState(r storage.Reader, id keys.RangeID) (State, error) {
	var s State
	err := loadState(r, id, &s)
	if err != nil {
		return State{}, fmt.Errorf("group: state of range %d: %w", id, err)
	}
	return s, nil
}

func loadState(r storage.Reader, id keys.RangeID, s *State) error {
	b, ok, err := r.Get(keys.RangeLocal(id, appliedSuffix))
	if err != nil || !ok {
		return err
	}
	w, _, err := decodeWords(b, 2)
	if err != nil {
		return err
	}
	s.Applied = Position{Index: w[0], Term: w[1]}

	if b, ok, err = r.Get(keys.RangeLocal(id, configSuffix)); err != nil || !ok {
		return errors.Join(err, missing(ok, "configuration"))
	}
	w, rest, err := decodeWords(b, 1)
	if err != nil {
		return err
	}
	s.ConfigIndex = w[0]
	if s.Config, err = decodeConfiguration(rest); err != nil {
		return err
	}

	if b, ok, err = r.Get(keys.RangeLocal(id, descSuffix)); err != nil || !ok {
		return errors.Join(err, missing(ok, "descriptor"))
	}
	desc, err := raftcmd.DecodeDescriptor(b)
	if err != nil {
		return err
	}
	s.Desc = *desc

	if s.GCThreshold, err = loadTimestamp(r, id, gcSuffix); err == nil {
		s.HighWater, err = loadTimestamp(r, id, waterSuffix)
	}
	if err == nil {
		s.Frozen, err = loadFrozen(r, id)
	}
	return err
}

func loadTimestamp(r storage.Reader, id keys.RangeID, suffix string) (hlc.Timestamp, error) {
	b, ok, err := r.Get(keys.RangeLocal(id, suffix))
	if err != nil || !ok {
		return hlc.Timestamp{}, err
	}
	w, _, err := decodeWords(b, 2)
	if err != nil {
		return hlc.Timestamp{}, err
	}
	return hlc.Timestamp{WallNanos: int64(w[0]), Logical: int32(w[1])}, nil
}

func missing(ok bool, what string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("the %s is missing though a log position was applied", what)
}

// decodeConfiguration is raft.DecodeConfiguration without its panic.
func decodeConfiguration(b []byte) (c raft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("raft configuration of %d bytes: %v", len(b), p)
		}
	}()
	return raft.DecodeConfiguration(b), nil
}

func writeApplied(w storage.Writer, id keys.RangeID, p Position) error {
	return w.Set(keys.RangeLocal(id, appliedSuffix), encodeWords(p.Index, p.Term))
}

func writeConfig(w storage.Writer, id keys.RangeID, index uint64, c raft.Configuration) error {
	return w.Set(keys.RangeLocal(id, configSuffix), append(encodeWords(index), raft.EncodeConfiguration(c)...))
}

func writeDesc(w storage.Writer, d *kv.RangeDescriptor) error {
	return w.Set(keys.RangeLocal(d.RangeID, descSuffix), raftcmd.EncodeDescriptor(d))
}

func writeTimestamp(w storage.Writer, id keys.RangeID, suffix string, ts hlc.Timestamp) error {
	if ts.IsEmpty() {
		return nil
	}
	return w.Set(keys.RangeLocal(id, suffix), encodeWords(uint64(ts.WallNanos), uint64(ts.Logical)))
}

// WriteInitialState makes a new range of desc: every voter of desc starts from it at
// InitialIndex without any message. The bytes depend on the arguments only.
func WriteInitialState(w storage.Writer, desc *kv.RangeDescriptor, gc, highWater hlc.Timestamp) error {
	err := writeApplied(w, desc.RangeID, Position{Index: InitialIndex, Term: InitialTerm})
	if err == nil {
		err = writeConfig(w, desc.RangeID, InitialIndex, Configuration(desc))
	}
	if err == nil {
		err = writeDesc(w, desc)
	}
	if err == nil {
		err = writeTimestamp(w, desc.RangeID, gcSuffix, gc)
	}
	if err == nil {
		err = writeTimestamp(w, desc.RangeID, waterSuffix, highWater)
	}
	return err
}

// DataSpans returns the spans of the state engine, besides the range-local ones, that hold
// the data of the addresses in [start, end).
func DataSpans(start, end keys.Key) []keys.Span {
	data := keys.Span{Key: start, EndKey: end}
	if data.Key.Less(keys.MetaMin) {
		data.Key = keys.MetaMin // below lie the range-local keys of all ranges
	}
	return []keys.Span{keys.AddressedLocalSpan(start, end), data}
}

// ReplicatedSpans returns everything that all replicas of a range have in common, in key
// order.
func ReplicatedSpans(d *kv.RangeDescriptor) []keys.Span {
	data := DataSpans(d.Start, d.End)
	return []keys.Span{data[0], StructureSpans(d)[0], data[1]} // \x01k, \x01r, \x02...
}

// StructureSpans returns what a witness has in common with the other replicas: all that says which
// commands are applied and what the range is, and none of its data (S22).
func StructureSpans(d *kv.RangeDescriptor) []keys.Span {
	return []keys.Span{{Key: keys.RangeLocalPrefix(d.RangeID), EndKey: keys.RangeLocal(d.RangeID, localSuffix)}}
}

func rangeLocalSpan(id keys.RangeID) keys.Span {
	p := keys.RangeLocalPrefix(id)
	return keys.Span{Key: p, EndKey: p.PrefixEnd()}
}

// PendingSplit is a right side that a split made and that the store has not registered.
// A crash between the two leaves it behind; the store looks for it when it opens.
func PendingSplits(r storage.Reader, left keys.RangeID) ([]kv.RangeDescriptor, error) {
	prefix := keys.RangeLocal(left, splitSuffix)
	it, err := r.NewIter(storage.IterOptions{Lower: prefix, Upper: prefix.PrefixEnd()})
	if err != nil {
		return nil, err
	}
	var out []kv.RangeDescriptor
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.Value()
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		d, err := raftcmd.DecodeDescriptor(v)
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		out = append(out, *d)
	}
	return out, it.Close()
}

func pendingSplitKey(left, right keys.RangeID) keys.Key {
	return binary.BigEndian.AppendUint64(keys.RangeLocal(left, splitSuffix), uint64(right))
}

// ClearPendingSplit forgets a pending split once the right side is registered or gone.
func ClearPendingSplit(e *storage.StateEngine, left, right keys.RangeID) error {
	return e.ApplyRepr(nil, func(w storage.Writer) error { return w.Delete(pendingSplitKey(left, right)) })
}

// ClearData removes a range's replica from the state engine: its local keys, and the data
// of the spans given. It is durable only after a flush.
func ClearData(e *storage.StateEngine, id keys.RangeID, spans ...keys.Span) error {
	return e.ClearRange(append([]keys.Span{rangeLocalSpan(id)}, spans...)...)
}
