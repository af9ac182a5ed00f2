// Package raftnet moves messages between nodes and carries every range's raft group
// over them.
//
// It has two layers:
//
//   - Network: calls and notifications between nodes, in three classes (Control, Data,
//     Bulk) so that a large snapshot never delays a heartbeat. ListenTCP is the real
//     one, MemNet the one for simulation on virtual time (testing/synctest).
//   - Router, RangeTransport and Takeover: hashicorp/raft's transport for many ranges
//     over one Network, with the guards that turn node-pair support (package liveness)
//     into leader leases. The rules are SAFETY S2 to S5; transport.go states the
//     argument.
//
// Addresses: nodes are named by keys.NodeID; an injected Resolve turns an ID into
// host:port (SAFETY S29). Raft server IDs are "n<node>/<replica>", see ServerID.
package raftnet
