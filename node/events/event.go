// Package events is the cluster's diary: every lease that moved, election, replica change and split,
// with its cause, as the node saw it that took part. An operator reads it as atoll.events.
//
// Record never waits and never fails: what happens in an outage is kept in memory and written when
// ranges serve again. The diary is for people. Nothing reads it to decide anything, it is bounded
// (per node: what waits, what is kept), and an event may be missing after a crash.
package events

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/wire"
)

// Kind is what an event is about.
type Kind string

// The kinds of events.
const (
	Lease   Kind = "lease"   // a lease came to Other, or to Node by election
	Replica Kind = "replica" // a range's replicas changed
	Split   Kind = "split"   // a range was divided
	Merge   Kind = "merge"   // a range took in the one that followed it
	Hot     Kind = "hot"     // a load that no split divides
	Node    Kind = "node"    // a node started, or what it takes part in changed
	Diary   Kind = "diary"   // events are missing
	// Recovery: a range lost its quorum for good and goes on from one replica.
	Recovery Kind = "recovery"
)

// Event is one thing that happened.
type Event struct {
	At      time.Time    // by the clock of Node
	Node    keys.NodeID  // took part, and wrote it down
	Kind    Kind         //
	RangeID keys.RangeID // 0: no range
	Other   keys.NodeID  // the other node that it concerns; 0: none
	What    string       // for people
	Cause   string       // for people; empty: none is known
}

// maxText bounds What and Cause, in bytes.
const maxText = 400

// version is the first byte of an encoded event; the rest is in protobuf wire format, unknown fields
// are skipped.
const version = 1

const (
	fieldKind wire.Number = iota + 1
	fieldRange
	fieldOther
	fieldWhat
	fieldCause
)

// Encode returns the event without Node and At, which its key has.
func (e *Event) Encode() []byte {
	text := func(s string) string { return s[:min(len(s), maxText)] }
	b := wire.AppendString([]byte{version}, fieldKind, text(string(e.Kind)))
	b = wire.AppendUint(b, fieldRange, uint64(e.RangeID))
	b = wire.AppendUint(b, fieldOther, uint64(e.Other))
	b = wire.AppendString(b, fieldWhat, text(e.What))
	return wire.AppendString(b, fieldCause, text(e.Cause))
}

// ErrCorrupt marks bytes that are no event.
var ErrCorrupt = errors.New("events: corrupt encoding")

// Decode reads an event from its key and value.
func Decode(key keys.Key, b []byte) (Event, error) {
	e, err := fromKey(key)
	if err != nil {
		return e, err
	}
	if b, err = wire.Body(b, version, ErrCorrupt); err != nil {
		return e, err
	}
	return e, wire.Fields(b, ErrCorrupt, func(n wire.Number, v uint64, data []byte) error {
		switch n {
		case fieldKind:
			e.Kind = Kind(data)
		case fieldRange:
			e.RangeID = keys.RangeID(v)
		case fieldOther:
			e.Other = keys.NodeID(v)
		case fieldWhat:
			e.What = string(data)
		case fieldCause:
			e.Cause = string(data)
		}
		return nil
	})
}

// keyOf is event/<node, 4 bytes><nanoseconds, 8 bytes>: a node's events lie together, oldest first.
func keyOf(node keys.NodeID, nanos int64) keys.Key {
	return binary.BigEndian.AppendUint64(prefix(node), uint64(nanos))
}

func prefix(node keys.NodeID) keys.Key {
	return binary.BigEndian.AppendUint32(keys.Events(), uint32(node))
}

func fromKey(k keys.Key) (Event, error) {
	rest := k[min(len(k), len(keys.Events())):]
	if len(rest) != 12 {
		return Event{}, fmt.Errorf("%w: key %s", ErrCorrupt, k)
	}
	return Event{Node: keys.NodeID(binary.BigEndian.Uint32(rest)), At: time.Unix(0, int64(binary.BigEndian.Uint64(rest[4:])))}, nil
}
