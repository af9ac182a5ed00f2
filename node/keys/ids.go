package keys

// NodeID names a node for ever: it is never reused (SAFETY S18). It starts at 1.
// Every node has one store, so that a NodeID names the store as well.
type NodeID int32

// RangeID names a range for ever. It starts at 1.
type RangeID int64

// ReplicaID names one replica of one range for ever: a replica added anew gets a
// new ID, also on the same node (SAFETY S18). It starts at 1.
type ReplicaID int64
