// Package recovery works out how a cluster goes on after nodes are lost for good that ranges needed
// for their quorums. It is pure: inventories of the nodes that are left go in, a plan comes out; what
// carries it out is in packages store and host, and an operator alone sets it in motion.
//
// A range that has lost its quorum is recovered from one replica, the one whose log goes furthest:
// raft's own rule for who may lead. By log matching it has every entry that any other replica left has
// applied. What only the lost ones had is lost; what it holds beyond the last entry that it knew to be
// committed counts as committed from then on.
//
// The chosen replica becomes the only voter under a replica ID that was never used (SAFETY S18), so
// that no replica of before can vote with it, accept from it, or be accepted; the others that are left
// are removed once it serves, and the allocator makes new ones.
package recovery
