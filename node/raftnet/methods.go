package raftnet

import "fmt"

// Class selects the stream on which a message travels.
type Class uint8

const (
	// Control carries heartbeats and votes: small, and never behind data.
	Control Class = iota
	// Data carries raft appends and KV requests.
	Data
	// Bulk carries snapshots and backfills.
	Bulk

	numClasses = 3
)

// String names the class.
func (c Class) String() string {
	switch c {
	case Control:
		return "control"
	case Data:
		return "data"
	case Bulk:
		return "bulk"
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// Method names what a message asks for. Numbers are part of the wire format: never
// reuse or renumber one.
type Method uint16

const (
	// MethodHeartbeat and MethodHeartbeatAck belong to package liveness.
	MethodHeartbeat    Method = 1
	MethodHeartbeatAck Method = 2
	// MethodNodeDead announces that an incarnation of a node has exited for certain.
	MethodNodeDead Method = 3

	// Raft, handled by Router. RaftHeartbeat is an AppendEntries without entries: it may
	// wait up to TCPConfig.LazyDelay to share a write with other frames.
	MethodRaftAppend     Method = 10
	MethodRaftHeartbeat  Method = 11
	MethodRaftVote       Method = 12
	MethodRaftPreVote    Method = 13
	MethodRaftTimeoutNow Method = 14
	MethodRaftInstall    Method = 15 // InstallSnapshot for data that has already arrived
	MethodRaftNudge      Method = 16 // empty AppendEntries of many ranges
	MethodRaftRelease    Method = 17 // a former leader's lease is over

	// Snapshots, handled by the store (Bulk).
	MethodSnapshotBegin Method = 20
	MethodSnapshotChunk Method = 21
	MethodSnapshotEnd   Method = 22
	MethodSnapshotAbort Method = 23

	// MethodKVBatch carries a kv.BatchRequest.
	MethodKVBatch Method = 30
	// MethodKVRangeLookup reads descriptors without a range cache.
	MethodKVRangeLookup Method = 31

	// Node directory and cluster events.
	MethodDirectoryGet    Method = 40
	MethodDirectoryUpdate Method = 41
	// MethodDirectoryAnnounce exchanges directories with whoever listens at an address
	// (CallAddr): addresses in the directory may be out of date, on both sides.
	MethodDirectoryAnnounce Method = 42

	// Founding and joining (SAFETY S28): callable without an identity, by CallAddr.
	MethodInitPropose Method = 50
	MethodInitCommit  Method = 51
	MethodInitStatus  Method = 52
	MethodJoin        Method = 53
	MethodPing        Method = 54

	// Replica administration, handled by the store.
	MethodAdmin         Method = 60
	MethodReplicaCreate Method = 61
	MethodReplicaRemove Method = 62
	MethodReplicaDigest Method = 63
	MethodStatus        Method = 64
	// MethodReplicaQuarantine tells a node that its replica must not vote (S18).
	MethodReplicaQuarantine Method = 65
	// MethodReplicaClosed tells a node up to where timestamps are closed (S24).
	MethodReplicaClosed Method = 69
	// MethodReplicaTail asks a range's leader what a witness may drop of its log (S22).
	MethodReplicaTail Method = 76
	// MethodNodeStatus asks how a node is: version, start, disk (package host).
	MethodNodeStatus Method = 66
	// MethodFindings asks what is not as it should be with the ranges that a node leads (package host).
	MethodFindings Method = 67
	// MethodJobs asks for the copies that a node is making (package host).
	MethodJobs Method = 68
	// MethodReplicaFrozen waits until a replica has applied its range's freeze, durably (S20).
	MethodReplicaFrozen Method = 77

	// SQL: cancel requests, schema leases, sessions of other nodes.
	MethodSQLCancel Method = 70
	MethodSQLSchema Method = 71
	MethodSQLStatus Method = 72

	// Recovery after the loss of quorums for good (package host): callable without an identity, by
	// CallAddr; the caller needs a node's certificate all the same.
	MethodRecoveryInventory Method = 80
	MethodRecoveryStage     Method = 81
	MethodRecoveryStep      Method = 82

	// MaxMethod bounds method numbers.
	MaxMethod Method = 255
)

// lazy reports whether frames of the method, and their answers, may wait a little in
// order to share a write.
func (m Method) lazy() bool { return m == MethodRaftHeartbeat }

// anonymous reports whether a caller without a node identity may use the method.
// MethodDirectoryAnnounce and what recovers a cluster carry the cluster's ID themselves.
func (m Method) anonymous() bool {
	return m >= MethodInitPropose && m <= MethodPing || m == MethodDirectoryAnnounce ||
		m >= MethodRecoveryInventory && m <= MethodRecoveryStep
}
