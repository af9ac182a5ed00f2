package raftcmd

import (
	"fmt"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/wire"
)

// FreezeTrigger freezes a range for its merge into its left neighbour (S20): from there on its log
// takes nothing but the UnfreezeTrigger of the same attempt. It is applied only if the range's
// descriptor has this generation.
type FreezeTrigger struct {
	// Attempt names this try of a merge.
	Attempt ID
	// Left is the neighbour, LeftStart its first key, LeftGeneration the only generation at which
	// it may take the range in.
	Left           keys.RangeID
	LeftStart      keys.Key
	LeftGeneration int64
	Generation     int64
}

// UnfreezeTrigger ends the freeze of an attempt that is certain not to become a merge any more.
type UnfreezeTrigger struct{ Attempt ID }

// MergeTrigger is applied in the log of the left range, and makes one range of two. Every replica
// holds the right side's state, frozen by the same attempt, since the merge is proposed only after
// all of them have said so.
type MergeTrigger struct {
	Attempt ID
	// Merged replaces the left range's descriptor, whose generation must be LeftGeneration.
	Merged         kv.RangeDescriptor
	LeftGeneration int64
	Right          keys.RangeID
	// HighWater is the highest timestamp at which the right side was read: who leads the merged
	// range must not write at or below it (S4).
	HighWater hlc.Timestamp
	// Horizon is later than the birth of every command that was sent before the merge. One that
	// neither side remembers is rejected from then on: of a batch that was cut in two, only the
	// other piece may have been applied, by the same ID (S12).
	Horizon int64
}

const (
	freezeAttempt        = 1
	freezeLeft           = 2
	freezeLeftStart      = 3
	freezeLeftGeneration = 4
	freezeGeneration     = 5

	mergeAttempt        = 1
	mergeMerged         = 2
	mergeLeftGeneration = 3
	mergeRight          = 4
	mergeWall           = 5
	mergeLogical        = 6
	mergeHorizon        = 7
)

// Encode returns the trigger's encoding; a frozen range's state holds it as well.
func (f *FreezeTrigger) Encode() []byte {
	b := wire.AppendBytes(nil, freezeAttempt, f.Attempt[:])
	b = wire.AppendUint(b, freezeLeft, uint64(f.Left))
	if len(f.LeftStart) > 0 {
		b = wire.AppendBytes(b, freezeLeftStart, f.LeftStart)
	}
	b = wire.AppendUint(b, freezeLeftGeneration, uint64(f.LeftGeneration))
	return wire.AppendUint(b, freezeGeneration, uint64(f.Generation))
}

// DecodeFreeze parses what Encode wrote. The result shares no memory with b.
func DecodeFreeze(b []byte) (*FreezeTrigger, error) {
	f := &FreezeTrigger{}
	err := wire.Fields(b, ErrCorrupt, func(num wire.Number, v uint64, data []byte) (err error) {
		switch num {
		case freezeAttempt:
			f.Attempt, err = decodeID(data)
		case freezeLeft:
			f.Left = keys.RangeID(v)
		case freezeLeftStart:
			f.LeftStart = keys.Key(data).Clone()
		case freezeLeftGeneration:
			f.LeftGeneration = int64(v)
		case freezeGeneration:
			f.Generation = int64(v)
		}
		return err
	})
	if err == nil && (f.Left <= 0 || f.Attempt == (ID{})) {
		err = fmt.Errorf("%w: freeze for a merge into range %d, attempt %x", ErrCorrupt, f.Left, f.Attempt)
	}
	return f, err
}

func (u *UnfreezeTrigger) encode() []byte { return wire.AppendBytes(nil, freezeAttempt, u.Attempt[:]) }

func decodeUnfreeze(b []byte) (*UnfreezeTrigger, error) {
	u := &UnfreezeTrigger{}
	err := wire.Fields(b, ErrCorrupt, func(num wire.Number, _ uint64, data []byte) (err error) {
		if num == freezeAttempt {
			u.Attempt, err = decodeID(data)
		}
		return err
	})
	if err == nil && u.Attempt == (ID{}) {
		err = fmt.Errorf("%w: the end of a freeze names no attempt", ErrCorrupt)
	}
	return u, err
}

func (m *MergeTrigger) encode() []byte {
	b := wire.AppendBytes(nil, mergeAttempt, m.Attempt[:])
	b = wire.AppendBytes(b, mergeMerged, EncodeDescriptor(&m.Merged))
	b = wire.AppendUint(b, mergeLeftGeneration, uint64(m.LeftGeneration))
	b = wire.AppendUint(b, mergeRight, uint64(m.Right))
	b = wire.AppendUint(b, mergeWall, uint64(m.HighWater.WallNanos))
	b = wire.AppendUint(b, mergeLogical, uint64(m.HighWater.Logical))
	return wire.AppendUint(b, mergeHorizon, uint64(m.Horizon))
}

func decodeMerge(b []byte) (*MergeTrigger, error) {
	m := &MergeTrigger{}
	err := wire.Fields(b, ErrCorrupt, func(num wire.Number, v uint64, data []byte) (err error) {
		switch num {
		case mergeAttempt:
			m.Attempt, err = decodeID(data)
		case mergeMerged:
			var d *kv.RangeDescriptor
			if d, err = DecodeDescriptor(data); err == nil {
				m.Merged = *d
			}
		case mergeLeftGeneration:
			m.LeftGeneration = int64(v)
		case mergeRight:
			m.Right = keys.RangeID(v)
		case mergeWall:
			m.HighWater.WallNanos = int64(v)
		case mergeLogical:
			m.HighWater.Logical = int32(v)
		case mergeHorizon:
			m.Horizon = int64(v)
		}
		return err
	})
	if err == nil && (m.Merged.RangeID <= 0 || m.Right <= 0 || m.Right == m.Merged.RangeID || m.Attempt == (ID{})) {
		err = fmt.Errorf("%w: merge of range %d into range %d, attempt %x", ErrCorrupt, m.Right, m.Merged.RangeID, m.Attempt)
	}
	return m, err
}

func decodeID(b []byte) (id ID, err error) {
	if len(b) != len(id) {
		return id, fmt.Errorf("%w: ID of %d bytes, want %d", ErrCorrupt, len(b), len(id))
	}
	return ID(b), nil
}
