package kv

import (
	"fmt"
	"strings"

	"github.com/atolldb/atoll/node/keys"
)

// ReplicaType says what a replica is for.
type ReplicaType uint8

// Voter and NonVoter hold the data. Witness votes and keeps the log's tail (SAFETY S22); NewWitness
// is one that does not vote yet. A replica that holds data never becomes a witness, nor the reverse.
const (
	Voter ReplicaType = iota
	NonVoter
	Witness
	NewWitness
)

// Votes reports whether a replica of this type counts for the quorum.
func (t ReplicaType) Votes() bool { return t == Voter || t == Witness }

// HoldsData reports whether a replica of this type holds the range's data.
func (t ReplicaType) HoldsData() bool { return t == Voter || t == NonVoter }

// String says it in words.
func (t ReplicaType) String() string {
	return [...]string{"voter", "non-voter", "witness", "witness that does not vote yet"}[min(t, NewWitness)]
}

// Quarantine says why a replica is not trusted any more. Such a replica serves nothing, takes no
// lease, sends no snapshot, and is replaced.
type Quarantine uint8

const (
	Trusted Quarantine = iota
	// Differs: its data is not what most of the range's voters have (S23). It still votes: its
	// raft log is its own, and checked apart.
	Differs
	// LostLog: it has acknowledged entries that it does not have any more (S18). It does not vote:
	// it might elect a leader without them.
	LostLog
)

// String says it in words; empty for Trusted.
func (q Quarantine) String() string {
	return [...]string{"", "differs from the other replicas", "lost entries that it had acknowledged"}[min(q, LostLog)]
}

// ReplicaDescriptor names one replica of a range.
type ReplicaDescriptor struct {
	Node       keys.NodeID
	Replica    keys.ReplicaID
	Type       ReplicaType
	Quarantine Quarantine
}

// RangeDescriptor says which keys a range holds and where its replicas are. The copy in
// the range itself is the truth; the meta record follows it (S29), and the raft
// configuration precedes it (S19).
type RangeDescriptor struct {
	RangeID       keys.RangeID
	Start, End    keys.Key
	Replicas      []ReplicaDescriptor
	NextReplicaID keys.ReplicaID
	Generation    int64 // grows with every split, merge and replica change
	// Pinned says that somebody asked for a boundary at Start: no merge takes it away by itself.
	Pinned bool
}

// Contains reports whether the address k lies in the range.
func (d *RangeDescriptor) Contains(k keys.Key) bool {
	return !k.Less(d.Start) && k.Less(d.End)
}

// ContainsSpan reports whether all of s lies in the range.
func (d *RangeDescriptor) ContainsSpan(s keys.Span) bool {
	return !s.Key.Less(d.Start) && !d.End.Less(s.End())
}

// Replica returns the replica on a node.
func (d *RangeDescriptor) Replica(node keys.NodeID) (ReplicaDescriptor, bool) {
	for _, r := range d.Replicas {
		if r.Node == node {
			return r, true
		}
	}
	return ReplicaDescriptor{}, false
}

// Clone returns a deep copy.
func (d *RangeDescriptor) Clone() RangeDescriptor {
	c := *d
	c.Start, c.End = d.Start.Clone(), d.End.Clone()
	c.Replicas = append([]ReplicaDescriptor(nil), d.Replicas...)
	return c
}

// String prints the range for people.
func (d *RangeDescriptor) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "r%d [%s, %s) gen %d:", d.RangeID, d.Start, d.End, d.Generation)
	for _, r := range d.Replicas {
		fmt.Fprintf(&b, " n%d/%d", r.Node, r.Replica)
		if r.Type != Voter {
			fmt.Fprintf(&b, " %s", r.Type)
		}
		if r.Quarantine != Trusted {
			fmt.Fprintf(&b, " (quarantined: %s)", r.Quarantine)
		}
	}
	return b.String()
}
