// Package store holds all replicas of a node: it opens the engines, runs a raft group and a
// replica.Replica for every range, routes requests to them, and does the work on ranges that
// nobody asks for: splits by size, log truncation, garbage collection, repair.
//
// # Which replicas exist
//
// The log engine's local records decide (SAFETY S16): one record per replica, and a
// tombstone per range that says below which ID no replica may be made here (S18). State
// without a record is left over from a crash and is deleted at start. A replica is removed in
// three synced steps: record marked and tombstone set; state cleared and flushed; log and
// record deleted. A split's right side is in the left side's state until it has a record.
//
// # Garbage collection
//
// Every range has one replicated threshold; reads at or below it fail (S25). It rises before
// a version goes, to one of two values:
//
//   - now - GCTTL, for every range that was written since;
//   - where single keys pile up versions: the oldest read timestamp that any node's running
//     transactions still use (each live node is asked), but at least PileupAge before now.
//     A node that doesn't answer counts with UnknownReadAge. Whoever reads below it after all
//     gets BelowGCThresholdError, never a wrong row: soundness rests on the threshold alone,
//     asking the nodes only keeps running readers alive.
//
// # Split
//
// Under an exclusive latch over the whole range, one command in the left range's log makes
// both sides on every replica (S20, package group). The store then flushes the state engine,
// records the right side, and starts it; the left leaseholder's node campaigns for it. The
// meta records follow: left, then right (S29). A lookup between the two still finds the left
// side for the right side's keys, and is sent on by RangeKeyMismatchError.
package store
