// Package mvcc reads and writes versions and intents over package storage.
//
// A key's versions lie at (key, timestamp). A transaction that has not ended yet leaves an
// intent: a record at the unversioned key (codec.go) that names the transaction, and a
// provisional version at its write timestamp. There is at most one intent to a key, and
// every committed version of the key is older than it.
//
// The functions here hold no state and take no latches: package replica calls them under
// its latches (SAFETY S6), and does the waiting and pushing when they report a foreign
// intent. They are deterministic: they look at their arguments and the reader only (S17).
//
// # Reads
//
// A read at ts sees the newest version at or below ts. Foreign intents at or below ts, or
// at or below the uncertainty limit, are reported: the caller pushes them above
// max(ts, uncertainty limit) and reads again (S7; pushing them above ts alone would meet
// them again for ever). A committed version in (ts, limit] is an *kv.UncertaintyError.
//
// A transaction reads its own intent by sequence number: it sees its newest write at or
// below Txn.Seq that no savepoint rollback took back (Txn.IgnoredSeqs); intents of its
// earlier epochs count as absent (S9). The coordinator sets Txn.Seq to the newest sequence
// number the statement may see.
package mvcc
