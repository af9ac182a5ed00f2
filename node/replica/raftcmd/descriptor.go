package raftcmd

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

const (
	descRangeID = 1
	descStart   = 2
	descEnd     = 3
	descReplica = 4
	descNextID  = 5
	descGen     = 6

	replNode = 1
	replID   = 2
	replType = 3
)

// maxReplicas bounds a descriptor's replicas, against nonsense from a disk.
const maxReplicas = 64

// EncodeDescriptor encodes a range descriptor as commands and the replica's own state hold it.
func EncodeDescriptor(d *kv.RangeDescriptor) []byte {
	b := appendVarint(nil, descRangeID, uint64(d.RangeID))
	b = appendBytes(b, descStart, d.Start)
	b = appendBytes(b, descEnd, d.End)
	for _, r := range d.Replicas {
		rb := appendVarint(nil, replNode, uint64(r.Node))
		rb = appendVarint(rb, replID, uint64(r.Replica))
		rb = appendVarint(rb, replType, uint64(r.Type))
		b = appendBytes(b, descReplica, rb)
	}
	b = appendVarint(b, descNextID, uint64(d.NextReplicaID))
	return appendVarint(b, descGen, uint64(d.Generation))
}

// DecodeDescriptor parses what EncodeDescriptor wrote. The result shares no memory with b.
func DecodeDescriptor(b []byte) (*kv.RangeDescriptor, error) {
	d := &kv.RangeDescriptor{Start: keys.Key{}}
	err := eachField(b, func(num protowire.Number, v uint64, data []byte) error {
		switch num {
		case descRangeID:
			d.RangeID = keys.RangeID(v)
		case descStart:
			d.Start = append(keys.Key{}, data...)
		case descEnd:
			d.End = append(keys.Key{}, data...)
		case descReplica:
			return decodeReplica(d, data)
		case descNextID:
			d.NextReplicaID = keys.ReplicaID(v)
		case descGen:
			d.Generation = int64(v)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if d.RangeID <= 0 || !d.Start.Less(d.End) {
		return nil, fmt.Errorf("%w: descriptor of range %d with bounds [%s, %s)", ErrCorrupt, d.RangeID, d.Start, d.End)
	}
	return d, nil
}

func decodeReplica(d *kv.RangeDescriptor, b []byte) error {
	if len(d.Replicas) == maxReplicas {
		return fmt.Errorf("%w: descriptor of range %d with more than %d replicas", ErrCorrupt, d.RangeID, maxReplicas)
	}
	var r kv.ReplicaDescriptor
	err := eachField(b, func(num protowire.Number, v uint64, _ []byte) error {
		switch num {
		case replNode:
			r.Node = keys.NodeID(v)
		case replID:
			r.Replica = keys.ReplicaID(v)
		case replType:
			r.Type = kv.ReplicaType(v)
		}
		return nil
	})
	d.Replicas = append(d.Replicas, r)
	return err
}
