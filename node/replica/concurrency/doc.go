// Package concurrency isolates the requests of one range from each other.
//
//   - Latches isolate evaluations: held from before a request is evaluated until its command
//     is applied (SAFETY S6). They know requests, not transactions, and never deadlock.
//   - LockTable isolates transactions: locks that locking reads took (in memory only, S26),
//     intents that somebody met, and a fair queue per key.
//   - TSCache remembers at which timestamp keys were read (S7), and which transactions can't
//     create a record any more (S10).
//   - TxnQueue is where pushes wait for the transaction that they push; the edges of the
//     deadlock detector.
//
// Everything here lives for one tenure (one term of one leaseholder) and is dropped with it.
// Nothing here blocks but Latches.Acquire; waiting for locks is the caller's, on a channel.
package concurrency
