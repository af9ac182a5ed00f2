package replica

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/eval"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

// LeaseStatus is what a range's raft group knows of the lease on this node, now.
type LeaseStatus struct {
	// Valid: this node is leader, a quorum supports it in Term and its current epoch, and an
	// entry of Term was applied (SAFETY S2 a-c).
	Valid bool
	// Term is the raft term; it names the tenure of a leaseholder.
	Term uint64
	// ReadLimit is h + D: nothing later is served (S2 d).
	ReadLimit hlc.Timestamp
	// Leader is the node that probably holds the lease; 0 when unknown.
	Leader keys.NodeID
}

// Result says where a command was applied.
type Result struct {
	// Index is the log index, applied on this node.
	Index uint64
	// Duplicate: a command of the same ID was applied before, nothing was done now.
	Duplicate bool
}

// Errors of Group.Propose. Each says what is known about the command's fate (SAFETY S12).
var (
	// ErrRejected: the command was not applied and never will be.
	ErrRejected = errors.New("command rejected")
	// ErrAmbiguous: the command may be applied, now or later, in the log of the term it was
	// proposed in. Propose returns it only once that term's lease is over on this node.
	ErrAmbiguous = errors.New("result of the command is unknown")
)

// Group is one range's raft group as the replica needs it. Package group implements it.
type Group interface {
	// Lease is cheap: every request asks twice.
	Lease() LeaseStatus
	// Propose returns once cmd is applied to this node's state engine, or with an error that
	// wraps ErrRejected or ErrAmbiguous. ctx ends only the wait for a place in the log: the
	// caller holds latches that outlive the command (S6). It may be called concurrently.
	Propose(ctx context.Context, cmd *raftcmd.Command) (Result, error)
	// LookupCommand returns what cmd.Outcome held, if the command with this ID was applied
	// recently (S12). If not, commands born up to horizon may have been applied and forgotten.
	LookupCommand(id [16]byte) (outcome []byte, applied bool, horizon int64)
}

// Admin carries out the requests that change the range itself. Package store implements
// it. Requests of one range may come concurrently.
type Admin interface {
	Split(ctx context.Context, r *Replica, req *kv.AdminSplitRequest) (*kv.AdminSplitResponse, error)
	Merge(ctx context.Context, r *Replica, req *kv.AdminMergeRequest) (*kv.AdminMergeResponse, error)
	AbandonMerge(ctx context.Context, r *Replica, req *kv.AbandonMergeRequest) (*kv.AbandonMergeResponse, error)
	TransferLease(ctx context.Context, r *Replica, req *kv.AdminTransferLeaseRequest) error
	ChangeReplicas(ctx context.Context, r *Replica, req *kv.AdminChangeReplicasRequest) (*kv.RangeDescriptor, error)
	Checksum(ctx context.Context, r *Replica, req *kv.ChecksumRequest) (*kv.ChecksumResponse, error)
	// Info fills in what the replica does not know: applied index and bytes.
	Info(r *Replica) (applied uint64, bytes, batchesPerSecond int64)
}

// Config is what a replica is made of.
type Config struct {
	Desc  kv.RangeDescriptor
	Node  keys.NodeID
	Group Group
	// Engine holds the range's state; only Group applies commands to it.
	Engine *storage.StateEngine
	Clock  *hlc.Clock
	// Sender reaches any range: pushes, recovery, resolution of intents.
	Sender kv.Sender
	Admin  Admin
	// Pushdown evaluates filters and projections of scans; nil refuses them.
	Pushdown eval.Pushdown
	// GCThreshold is the applied one (S25). OnGCThreshold follows it.
	GCThreshold hlc.Timestamp
	// Admit, if not nil, refuses write batches that need disk space (kv.DiskFullError).
	Admit func(ba *kv.BatchRequest) error
	// Metrics is shared by all replicas of a node; nil counts nowhere. See NewMetrics.
	Metrics *Metrics
	// Closed returns what may be served without the lease, as it is now (S24); nil: nothing.
	Closed func() ClosedState
	// Pause, if not nil, is called between an evaluation and what follows from it. The simulator
	// lets time pass there.
	Pause func()
	// PlantNoSupportCheck is a bug that the simulator plants: the lease is believed without the
	// support of a quorum (breaks S2 b). A real node never sets it.
	PlantNoSupportCheck bool
	// Limits of this replica; zero fields take their default.
	Limits Limits
}

// NewMetrics registers the metrics that a node's replicas share.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) { return newMetrics(reg) }

// Events that the group and the store report to a Replica (methods in events.go, split.go):
//
//	OnLease(term, lowWater)     before Lease().Valid is acted on: the replica serves a term only
//	                            after this call. lowWater is S4's mark: no read under an
//	                            earlier lease was above it.
//	OnLeaseLost()               the lease of the current term is gone (for good, or until the next
//	                            OnLease with a new term): every waiter is answered
//	                            NotLeaseholderError. To be called before a transfer, too (S3).
//	OnDescriptor(desc)          a command with ChangeDesc, or a snapshot, was applied.
//	OnGCThreshold(ts)           a command with GCThreshold, or a snapshot, was applied.
//	Freeze(ctx)                 S20: an exclusive latch over the whole range. The returned
//	                            Frozen holds the highest timestamp that was ever read
//	                            (HighWater: put it into the split command as the right side's S4
//	                            mark); Release it when the command is applied or rejected.
//	OnSplit(left, right)        the split was applied: the left replica takes its new bounds. The
//	                            returned SplitState belongs to the right replica's
//	                            InheritSplit, on the node where it is made.
//	OnFrozen(), OnUnfrozen()    S20: the range waits to be merged into its left neighbour, or
//	                            does not any more.
//	OnMerge(merged, right, mark)  the range took in its right neighbour; see merge.go.
//	Close()                     the replica was removed, or the node stops.
