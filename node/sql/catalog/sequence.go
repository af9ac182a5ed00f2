package catalog

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// A sequence's value is the 8-byte integer at SequenceKey, changed by Increment outside of
// transactions: the newest value handed out is Base plus it, and absent or 0 means that none
// was handed out yet. Steps wrap around; what lies outside the bounds is refused when it
// would be handed out.

// Stored returns the integer that stands for "v was handed out last".
func (s *Sequence) Stored(v int64) int64 { return v - s.Base }

// Last returns last_value and is_called for the stored integer.
func (s *Sequence) Last(stored int64) (last int64, called bool) {
	v := s.Base + stored
	switch {
	case stored == 0 || !s.InBounds(v) && s.InBounds(v+s.Increment):
		return v + s.Increment, false
	case s.InBounds(v):
		return v, true
	case s.Increment > 0:
		return s.Max, true // refused calls have moved it on
	}
	return s.Min, true
}

// InBounds reports whether the sequence may hand v out.
func (s *Sequence) InBounds(v int64) bool { return v >= s.Min && v <= s.Max }

// SequenceValue reads last_value and is_called.
func SequenceValue(ctx context.Context, t Txn, s *Sequence) (last int64, called bool, err error) {
	r, err := t.Get(ctx, s.SequenceKey(), false)
	if err != nil {
		return 0, false, err
	}
	x, err := sequenceInt(r)
	if err != nil {
		return 0, false, err
	}
	last, called = s.Last(x)
	return last, called, nil
}

func sequenceInt(r kv.GetResponse) (int64, error) {
	if !r.Exists {
		return 0, nil
	}
	if len(r.Value) != 8 {
		return 0, fmt.Errorf("catalog: a sequence's value has %d bytes, not 8", len(r.Value))
	}
	return int64(binary.BigEndian.Uint64(r.Value)), nil
}

// UpdateSequence changes the stored integer in a transaction of its own and returns the new one.
func UpdateSequence(ctx context.Context, db DB, key keys.Key, f func(stored int64) (int64, error)) (int64, error) {
	var out int64
	err := db.Run(ctx, "sequence update", func(ctx context.Context, t Txn) error {
		r, err := t.Get(ctx, key, true)
		if err != nil {
			return err
		}
		x, err := sequenceInt(r)
		if err != nil {
			return err
		}
		if out, err = f(x); err != nil {
			return err
		}
		return t.Put(ctx, key, binary.BigEndian.AppendUint64(nil, uint64(out)), condition(r))
	})
	return out, err
}
