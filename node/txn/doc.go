// Package txn coordinates transactions at the gateway: it buffers writes, lays them over
// reads, keeps read spans valid as the timestamp moves, and commits.
//
// # Life of a transaction
//
// Reads go to the leaseholders at ReadTimestamp. A read that meets an uncertain version,
// or a locking read that meets a newer one, moves ReadTimestamp up: every span read so far
// is refreshed (S8), and the batch is sent again. Writes stay in a buffer with sequence
// numbers (S9) until the commit; above BufferLimit they are flushed as intents.
//
// Commit takes the cheapest way that is safe:
//
//   - no writes: nothing is sent, but for the release of locks;
//   - one phase: all writes lie in one range; one batch commits without intents or record;
//   - parallel: the writes and a STAGING record are sent together (S11); when all of them
//     are in place at or below the staging timestamp, the transaction is committed;
//   - explicit: writes first, then the record. More than MaxInFlight writes, and what a
//     parallel commit that failed only for its timestamp goes on with, go this way.
//
// The client is answered after the commit wait (S1). Locks and intents are resolved in the
// background (S13).
//
// # Reads that a condition covers
//
// A key that was read and is then written with a Condition needs no refresh: the
// condition, checked when the write lands, says that no foreign version appeared since the
// one that was read, and the write itself guards the key from then on. This is what keeps
// read-modify-write transactions on hot rows from refreshing at every move. A savepoint
// rollback that takes such a write back refreshes its key then.
package txn
