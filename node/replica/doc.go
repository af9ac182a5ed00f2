// Package replica serves the requests of one range on its leaseholder, and hands over its
// in-memory state when leases move and ranges split.
//
// A request goes: lease and bounds -> latches (S6) -> locks -> evaluation -> for a read:
// timestamp cache (S7), lease again (S2 b), answer; for a write: replicate, apply, locks,
// release latches, answer. All state of concurrency control belongs to a tenure, which is
// one raft term of this node as leaseholder: a command evaluated in one tenure applies in
// that term or never (S5), so that a new tenure starts empty, with S4's mark.
package replica
