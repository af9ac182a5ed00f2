// Package eval evaluates the requests of node/kv/api.go on the leaseholder: reads
// against the state engine, writes into a batch that the range then replicates.
//
// It runs under the caller's latches and never waits: a foreign intent or lock is reported
// (Result.Intents, Result.Locked), and the caller waits in its lock table and evaluates
// again. It changes nothing: what an evaluation leads to is in its Result.
package eval
