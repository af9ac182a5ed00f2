// Package storage keeps a node's data on disk, in two Pebble instances per store. It is
// the only package that imports Pebble.
//
// The state engine (StateEngine) holds every range's versioned data and applied index.
// It writes no log of its own: the raft log is its redo log (SAFETY S16), so a crash
// loses the suffix of writes since the last flush, always a whole number of batches and
// in the order in which they were applied. Flush is the durable barrier; DurableGet reads
// what is behind it.
//
// The log engine (LogEngine) holds every range's raft log, term and vote, and the store's
// local records (identity, tombstones, replica list). Everything in it is synced before
// the call returns (S15); concurrent calls share fsyncs.
//
// # Keys
//
// Callers use unversioned keys (keys.Key), with a timestamp beside them where a version is
// meant. An engine key, as it stands on disk, is
//
//	<key> 0x00                                    unversioned: intents, records, applied state
//	<key> 0x00 <wall:8> 0x09                      a version whose logical part is zero
//	<key> 0x00 <wall:8> <logical:4> 0x0d          a version
//
// (integers big-endian). An unversioned key sorts before its versions, and versions sort
// newest first. This is the layout that Pebble's package cockroachkvs has a comparer, a
// columnar key schema and a block property for; those are used as they are.
//
// # Errors
//
// A failed write or fsync is fatal for the store and never retried (S15): OnFatal is
// called once, and every later call returns ErrFatal with the cause.
package storage
