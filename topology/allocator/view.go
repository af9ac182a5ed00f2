package allocator

import (
	"time"

	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/placement"
)

// NodeID and RangeID are what the node calls them.
type (
	NodeID  int32
	RangeID int64
)

// Membership is what the cluster has decided about a node.
type Membership uint8

// Draining gives its leases away and keeps its replicas; Decommissioning gives those away as
// well; Decommissioned never comes back (S18).
const (
	Active Membership = iota
	Draining
	Decommissioning
	Decommissioned
)

// Health is what is known of a node's process.
type Health uint8

// Answers; Silent: it may come back with its data; VolumeGone: it may not, another node has
// taken its place.
const (
	Answers Health = iota
	Silent
	VolumeGone
)

// View is what decisions rest on: values only. Ranges may be some of the cluster's (those that a
// node leads); what Nodes says covers all.
type View struct {
	Nodes  []Node
	Ranges []Range
	// Rules are what Range.Rule refers to.
	Rules    []placement.Rule
	Settings Settings
	// Turn is any number that differs from one view to the next, such as a count; see
	// Settings.Planners.
	Turn uint64
}

// Node is one node with its store.
type Node struct {
	ID         NodeID
	Locality   topology.Locality
	Attributes []string
	Membership Membership
	Health     Health
	// For is how long it has been in this health: since it last stopped, or began, to answer.
	For time.Duration
	// DiskUsed includes copies that are on their way here; bytes.
	DiskUsed, DiskCapacity int64
	// CPU is in cores: what ranges cost here, and what the node has. A CPUCapacity of 0 counts as 1.
	CPU, CPUCapacity float64
	Replicas, Leases int
	// Receiving and Sending are the copies on their way to and from it.
	Receiving, Sending int
}

// ReplicaType is what a replica is to its range.
type ReplicaType uint8

// Voter and NonVoter hold data. Witness votes and holds the log's tail; NewWitness is one that
// does not vote yet.
const (
	Voter ReplicaType = iota
	NonVoter
	Witness
	NewWitness
)

func (t ReplicaType) votes() bool   { return t == Voter || t == Witness }
func (t ReplicaType) witness() bool { return t == Witness || t == NewWitness }

// Replica is one replica of a range.
type Replica struct {
	Node NodeID
	Type ReplicaType
	// CaughtUp: its log is as long as the leaseholder's, or nearly, and it acknowledges entries.
	CaughtUp bool
	// Distrusted: it is quarantined (S23). Its data count for nothing; its vote does, if it has caught up.
	Distrusted bool
}

// Range is one range.
type Range struct {
	ID       RangeID
	Rule     int // index in View.Rules
	Replicas []Replica
	// Leaseholder is 0 while there is none.
	Leaseholder NodeID
	// LeaseFor is how long it has been that.
	LeaseFor time.Duration
	// Busy: a change, a split or a merge is under way.
	Busy bool
	// Bytes is what one copy takes on disk.
	Bytes int64
	// ReplicaCPU is what each copy costs, LeaseCPU what the leaseholder has on top; in cores.
	ReplicaCPU, LeaseCPU float64
	// Requests say where they come from, for rules that follow the workload.
	Requests []ZoneRequests
}

// ZoneRequests counts requests from the gateways of a zone, in any unit.
type ZoneRequests struct {
	Zone string
	Rate float64
}

// Kind is what a change does.
type Kind uint8

// The kinds of changes. Replace, Grow and Shrink are two configuration entries, the second right
// after the first: S19's window lies between them. TurnWitness is three: no data is copied, so that
// they follow each other as fast.
const (
	AddNonVoter   Kind = iota // Node gets a copy that does not vote
	AddWitness                // Node gets a log that does not vote yet
	Promote                   // Node's copy votes
	Demote                    // Node's copy votes no more, and stays
	Remove                    // Node's copy goes
	Replace                   // Node's copy votes, then Other's goes
	Grow                      // Node's copy votes, then Other's
	Shrink                    // Node's copy goes, then Other's
	TransferLease             // from Other to Node
	TurnWitness               // Node's copy goes, then a witness is made there and votes
)

// String names a kind.
func (k Kind) String() string {
	return [...]string{"add non-voter", "add witness", "promote", "demote", "remove", "replace", "grow", "shrink", "transfer lease", "turn into a witness the copy"}[k]
}

// Priority says why a change is due; the lower, the sooner.
type Priority uint8

// The priorities, most urgent first.
const (
	Repair     Priority = iota // voters are missing, lost, distrusted, or one too many
	Leave                      // a node drains or is decommissioned
	FullDisk                   // a disk is nearly full
	Constraint                 // a replica is where, or what, the rule does not want
	Diversity                  // the rule can be met better
	Preference                 // the lease is preferred elsewhere
	Load                       // CPU is uneven
	Disk                       // disks are uneven
)

// String names a priority.
func (p Priority) String() string {
	return [...]string{"repair", "leave", "full disk", "constraint", "diversity", "lease preference", "load", "disk"}[p]
}

// Change is one thing to do with one range.
type Change struct {
	Range    RangeID
	Kind     Kind
	Node     NodeID
	Other    NodeID // see Kind; else 0
	Priority Priority
	Reason   string
}

// Verdict is how a decision ended.
type Verdict uint8

// Settled: nothing is to be done. Act: Change is. Waiting: for what is under way. Deferred: a
// limit was reached. Stuck: something is to be done and can't; Reason says what would help.
const (
	Settled Verdict = iota
	Act
	Waiting
	Deferred
	Stuck
)

// String names a verdict.
func (v Verdict) String() string {
	return [...]string{"settled", "act", "waiting", "deferred", "stuck"}[v]
}

// Decision is what is to be done with one range.
type Decision struct {
	Verdict Verdict
	Change  Change // if the verdict is Act; its Priority alone if it is Waiting
	Reason  string
}
