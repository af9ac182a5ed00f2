// Package cluster is a node's identity and its knowledge of the other nodes: founding,
// joining, boot counters, the node directory, and what else a store must remember that no
// raft log can rebuild. It keeps all of that in the log engine's local records, synced.
//
// # Birth (SAFETY S28)
//
// A node never founds a cluster by itself. Init names the initial nodes; each durably
// accepts the same Plan (cluster ID and members), and a node that accepted one plan refuses
// every other. Only when all have accepted does Init commit; then every member makes the
// first two ranges, byte for byte the same, from the plan alone. Repeating Init is harmless.
// A member that missed the commit asks the others: one that was told to found the cluster
// proves that all had accepted. An empty node that no plan names waits until a founded
// node admits it (Join), which hands it a node ID that was never used (S18).
//
// # Node directory (S29)
//
// The truth is in the system keys keys.NodeDirectory(id); every node keeps a synced copy,
// spread by gossip, so that it finds the others before any range serves. The higher Version
// of an entry wins.
package cluster
