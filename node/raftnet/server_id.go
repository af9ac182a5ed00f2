package raftnet

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
)

// ServerID returns raft's name of a replica, "n<node>/<replica>". It is its address as well, but
// for the mark of a witness (S29: never host:port). A replica that is added anew has a
// new replica ID, so that a server ID is never reused (S18).
func ServerID(node keys.NodeID, replica keys.ReplicaID) raft.ServerID {
	b := make([]byte, 0, 24)
	b = append(b, 'n')
	b = strconv.AppendInt(b, int64(node), 10)
	b = append(b, '/')
	return raft.ServerID(strconv.AppendInt(b, int64(replica), 10))
}

// witnessMark follows the server ID in the address of a witness. A replica is a witness, or holds
// data, under its ID for ever; so whoever knows the raft configuration knows what each server is,
// also where the range's descriptor is behind it (S19, S22).
const witnessMark = "+witness"

// ServerAddress returns the address under which raft knows a replica: its server ID and, for a
// witness, a mark. Nothing is sent there: the transport goes by IDs.
func ServerAddress(id raft.ServerID, witness bool) raft.ServerAddress {
	if witness {
		return raft.ServerAddress(id) + witnessMark
	}
	return raft.ServerAddress(id)
}

// IsWitness reports whether a server of a raft configuration is a witness (S22). An address with
// another mark is an error: such a replica must not be taken for one that holds the data.
func IsWitness(s raft.Server) (bool, error) {
	switch s.Address {
	case raft.ServerAddress(s.ID):
		return false, nil
	case raft.ServerAddress(s.ID) + witnessMark:
		return true, nil
	}
	return false, fmt.Errorf("raftnet: the address %q of replica %s marks a kind of replica that this binary does not know; upgrade this node", s.Address, s.ID)
}

// ParseServerID is the inverse of ServerID.
func ParseServerID(id raft.ServerID) (keys.NodeID, keys.ReplicaID, error) {
	s := string(id)
	if slash := strings.IndexByte(s, '/'); len(s) > 0 && s[0] == 'n' && slash > 0 {
		n, err1 := strconv.ParseInt(s[1:slash], 10, 32)
		r, err2 := strconv.ParseInt(s[slash+1:], 10, 64)
		if err1 == nil && err2 == nil && n > 0 && r > 0 {
			return keys.NodeID(n), keys.ReplicaID(r), nil
		}
	}
	return 0, 0, fmt.Errorf("raftnet: server ID %q is not of the form n<node>/<replica>", s)
}

// RaftConfig returns the raft settings for one of many ranges. Leases and take-over come
// from node-pair support; raft's own timers stay long, as the slow fallback. They are not
// longer still because raft refuses writes for up to ElectionTimeout when a transfer of
// leadership fails, and tries a failed snapshot again after CommitTimeout. The caller sets
// Logger.
func RaftConfig(local raft.ServerID) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = local
	c.HeartbeatTimeout = 30 * time.Second
	c.ElectionTimeout = 30 * time.Second
	c.LeaderLeaseTimeout = 30 * time.Second
	c.CommitTimeout = 15 * time.Second
	c.MaxAppendEntries = 64
	c.SnapshotInterval = 24 * time.Hour // truncation is the store's own
	c.SnapshotThreshold = 1 << 62
	c.TrailingLogs = 1 << 62
	c.ShutdownOnRemove = false
	c.NoSnapshotRestoreOnStart = true
	c.NoLegacyTelemetry = true
	c.PreVoteDisabled = false
	return c
}
