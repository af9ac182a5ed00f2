package raftcmd

import (
	"fmt"

	"github.com/atolldb/atoll/node/kv"
)

// EncodeDescriptor encodes a range descriptor as commands and the replica's own state hold it.
func EncodeDescriptor(d *kv.RangeDescriptor) []byte { return kv.EncodeRangeDescriptor(nil, d) }

// DecodeDescriptor parses what EncodeDescriptor wrote. The result shares no memory with b.
func DecodeDescriptor(b []byte) (*kv.RangeDescriptor, error) {
	d, err := kv.DecodeRangeDescriptor(append([]byte(nil), b...))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if d.RangeID <= 0 || !d.Start.Less(d.End) {
		return nil, fmt.Errorf("%w: descriptor of range %d with bounds [%s, %s)", ErrCorrupt, d.RangeID, d.Start, d.End)
	}
	return &d, nil
}
