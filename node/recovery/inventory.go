package recovery

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/atolldb/atoll/node/keys"
)

// InventoryVersion is the format of inventories.
const InventoryVersion = 1

// Bounds of what is read.
const (
	MaxBytes    = 60 << 20 // of an inventory or a plan
	maxNodes    = 4096
	maxReplicas = 1 << 20 // of a node; ranges of a plan
	maxServers  = 64      // of a configuration
	maxKey      = 64 << 10
	maxText     = 256
)

// Key is a key that is written as hexadecimal digits.
type Key keys.Key

// MarshalText implements encoding.TextMarshaler.
func (k Key) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(k)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Key) UnmarshalText(b []byte) error {
	if len(b) > 2*maxKey {
		return fmt.Errorf("a key of %d digits, at most %d", len(b), 2*maxKey)
	}
	out, err := hex.DecodeString(string(b))
	*k = out
	return err
}

func (k Key) less(o Key) bool { return bytes.Compare(k, o) < 0 }

// String prints the key for people.
func (k Key) String() string { return keys.Key(k).Pretty() }

// Span is [Start, End).
type Span struct {
	Start Key `json:"start"`
	End   Key `json:"end"`
}

// String prints the span for people.
func (s Span) String() string { return fmt.Sprintf("[%s, %s)", s.Start, s.End) }

func (s Span) empty() bool { return !s.Start.less(s.End) }

// Server names a replica on its node, as raft does.
type Server struct {
	Node    keys.NodeID    `json:"node"`
	Replica keys.ReplicaID `json:"replica"`
}

// String prints the server for people.
func (s Server) String() string { return fmt.Sprintf("n%d/%d", s.Node, s.Replica) }

// Role is what a replica is in the newest configuration that its own log holds.
type Role string

// The roles.
const (
	Voter    Role = "voter"
	NonVoter Role = "non-voter"
	Witness  Role = "witness" // votes, and has no data
	Removed  Role = "removed"
)

// Node is a node's entry in the directory.
type Node struct {
	ID      keys.NodeID `json:"id"`
	Version int64       `json:"version"`
	Addr    string      `json:"addr"`
	Region  string      `json:"region,omitempty"`
	Zone    string      `json:"zone,omitempty"`
	State   string      `json:"state"`
	Lost    bool        `json:"lost,omitempty"` // given up by a recovery
}

// The states that matter here, as package cluster names them.
const (
	stateDecommissioned = "decommissioned"
	stateJoining        = "joining"
)

// Replica is one replica of a node, as the node itself sees it.
type Replica struct {
	Range       keys.RangeID   `json:"range"`
	Replica     keys.ReplicaID `json:"replica"`
	HasData     bool           `json:"has_data"` // it has had its first snapshot; else nothing is known of its keys
	Start       Key            `json:"start"`
	End         Key            `json:"end"`
	Generation  int64          `json:"generation"`
	NextReplica keys.ReplicaID `json:"next_replica"`
	Role        Role           `json:"role"`
	Distrust    string         `json:"distrust,omitempty"`  // why it is quarantined
	CorruptData bool           `json:"corrupt,omitempty"`   // and that is because its data differs from the others'
	Mute        bool           `json:"mute,omitempty"`      // it may not vote (S18)
	Voters      []Server       `json:"voters"`              // of the newest configuration in its log
	NonVoters   []Server       `json:"non_voters,omitzero"` // the same
	Term        uint64         `json:"term"`
	LastTerm    uint64         `json:"last_term"`
	LastIndex   uint64         `json:"last_index"`
	Commit      uint64         `json:"commit"`  // it knows to be committed
	Applied     uint64         `json:"applied"` // it has applied
	Newest      time.Time      `json:"newest"`  // when its last entry was made, by its leader's clock; zero: not known
	Leader      keys.NodeID    `json:"leader"`  // it follows, and that answers; 0: none
	Lease       bool           `json:"lease"`   // it holds the lease
	Bytes       int64          `json:"bytes"`
}

// Spent says below which ID no replica of a range may be made on a node again (S18).
type Spent struct {
	Range  keys.RangeID   `json:"range"`
	Lowest keys.ReplicaID `json:"lowest"`
}

// Recovered says what a node has done of a plan: it was durable before it was said.
type Recovered struct {
	Plan    string         `json:"plan"`
	Range   keys.RangeID   `json:"range"`
	From    keys.ReplicaID `json:"from"`
	Replica keys.ReplicaID `json:"replica"`
	Index   uint64         `json:"index"` // of the last entry that was taken
	At      time.Time      `json:"at"`
}

// Inventory is what a node says of itself. It needs no quorum, no lease and no SQL to say it.
type Inventory struct {
	Version   int           `json:"version"`
	ClusterID string        `json:"cluster_id"`
	Node      keys.NodeID   `json:"node"`
	Boot      uint64        `json:"boot"`
	Live      []keys.NodeID `json:"live,omitzero"` // other nodes that answer it
	Nodes     []Node        `json:"nodes"`         // its copy of the directory
	Replicas  []Replica     `json:"replicas,omitzero"`
	Spent     []Spent       `json:"spent,omitzero"`
	Staged    string        `json:"staged,omitempty"` // the ID of the plan that it has accepted last
	Recovered []Recovered   `json:"recovered,omitzero"`
}

// Encode returns the inventory as it travels.
func (v *Inventory) Encode() ([]byte, error) {
	v.Version = InventoryVersion
	return encode("inventory", v)
}

// ErrCorrupt marks bytes that are no inventory, plan or step.
var ErrCorrupt = errors.New("recovery: damaged or of another version")

// DecodeInventory reads what Encode wrote.
func DecodeInventory(b []byte) (*Inventory, error) {
	v := &Inventory{}
	if err := decode(b, "inventory", v); err != nil {
		return nil, err
	}
	if v.Version != InventoryVersion {
		return nil, fmt.Errorf("%w: an inventory of version %d, this binary reads %d: use the nodes' binary", ErrCorrupt, v.Version, InventoryVersion)
	}
	return v, v.validate()
}

func (v *Inventory) validate() error {
	var faults []error
	add := func(format string, args ...any) {
		if len(faults) < maxFaults {
			faults = append(faults, fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...))
		}
	}
	if v.Node <= 0 || v.ClusterID == "" || len(v.ClusterID) > maxText {
		add("an inventory of node %d of cluster %q", v.Node, v.ClusterID)
	}
	if len(v.Nodes) > maxNodes || len(v.Live) > maxNodes || len(v.Replicas) > maxReplicas {
		add("an inventory with %d nodes, %d live ones and %d replicas; at most %d, and %d replicas", len(v.Nodes), len(v.Live), len(v.Replicas), maxNodes, maxReplicas)
	}
	seen := map[keys.RangeID]bool{}
	for i := range v.Replicas {
		r := &v.Replicas[i]
		switch {
		case r.Range <= 0 || r.Replica <= 0 || seen[r.Range]:
			add("replica %d of range %d is not one, or named twice", r.Replica, r.Range)
		case r.HasData && !r.Start.less(r.End):
			add("range %d from %s to %s", r.Range, r.Start, r.End)
		case len(r.Voters) > maxServers || len(r.NonVoters) > maxServers:
			add("range %d with %d voters and %d non-voters, at most %d each", r.Range, len(r.Voters), len(r.NonVoters), maxServers)
		}
		seen[r.Range] = true
	}
	return errors.Join(faults...)
}

// maxFaults bounds how many faults are told at once.
const maxFaults = 50

func encode(what string, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err == nil && len(b) > MaxBytes {
		err = fmt.Errorf("recovery: the %s has %d bytes, the limit is %d", what, len(b), MaxBytes)
	}
	return b, err
}

// decode reads one JSON value and nothing else; what it does not know is an error.
func decode(b []byte, what string, v any) error {
	if len(b) > MaxBytes {
		return fmt.Errorf("%w: the %s has %d bytes, the limit is %d", ErrCorrupt, what, len(b), MaxBytes)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: the %s: %w", ErrCorrupt, what, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the %s goes on after its end", ErrCorrupt, what)
	}
	return nil
}
