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

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atolldb/atoll/node/keys"
)

// Kind is what an event is about.
type Kind string

// The kinds of events.
const (
	Lease   Kind = "lease"   // a lease came to Other, or to Node by election
	Replica Kind = "replica" // a range's replicas changed
	Split   Kind = "split"   // a range was divided
	Node    Kind = "node"    // a node started, or what it takes part in changed
	Diary   Kind = "diary"   // events are missing
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
	fieldKind protowire.Number = iota + 1
	fieldRange
	fieldOther
	fieldWhat
	fieldCause
)

// Encode returns the event without Node and At, which its key has.
func (e *Event) Encode() []byte {
	b := []byte{version}
	text := func(f protowire.Number, s string) {
		if s != "" {
			b = protowire.AppendString(protowire.AppendTag(b, f, protowire.BytesType), s[:min(len(s), maxText)])
		}
	}
	number := func(f protowire.Number, v uint64) {
		if v != 0 {
			b = protowire.AppendVarint(protowire.AppendTag(b, f, protowire.VarintType), v)
		}
	}
	text(fieldKind, string(e.Kind))
	number(fieldRange, uint64(e.RangeID))
	number(fieldOther, uint64(e.Other))
	text(fieldWhat, e.What)
	text(fieldCause, e.Cause)
	return b
}

// ErrCorrupt marks bytes that are no event.
var ErrCorrupt = errors.New("events: corrupt encoding")

// Decode reads an event from its key and value.
func Decode(key keys.Key, b []byte) (Event, error) {
	e, err := fromKey(key)
	if err != nil {
		return e, err
	}
	if len(b) == 0 || b[0] != version {
		return e, fmt.Errorf("%w: version of %d bytes, want %d", ErrCorrupt, len(b), version)
	}
	for b = b[1:]; len(b) > 0; {
		f, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return e, fmt.Errorf("%w: %w", ErrCorrupt, protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case typ == protowire.BytesType && (f == fieldKind || f == fieldWhat || f == fieldCause):
			s, m := protowire.ConsumeString(b)
			if n = m; n >= 0 {
				switch f {
				case fieldKind:
					e.Kind = Kind(s)
				case fieldWhat:
					e.What = s
				case fieldCause:
					e.Cause = s
				}
			}
		case typ == protowire.VarintType && (f == fieldRange || f == fieldOther):
			v, m := protowire.ConsumeVarint(b)
			if n = m; f == fieldRange {
				e.RangeID = keys.RangeID(v)
			} else {
				e.Other = keys.NodeID(v)
			}
		default:
			n = protowire.ConsumeFieldValue(f, typ, b)
		}
		if n < 0 {
			return e, fmt.Errorf("%w: field %d: %w", ErrCorrupt, f, protowire.ParseError(n))
		}
		b = b[n:]
	}
	return e, nil
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
