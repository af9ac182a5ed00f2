// Package eval evaluates the requests of node/kv/api.go on the leaseholder: reads
// against the state engine, writes into a batch that the range then replicates.
//
// It runs under the latches that Collect declares, and never waits: a foreign intent is
// reported (Conflicts), and the caller waits in its lock table and evaluates again.
package eval
