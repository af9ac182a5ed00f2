// Package kv defines the API between gateways and ranges: requests, responses, errors,
// range descriptors, and their wire encoding. It holds types only; package dist sends.
package kv

import (
	"context"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
)

// Sender executes a batch. A non-nil error is always one of this package's error types
// (or the context's); the response is nil then.
type Sender interface {
	Send(ctx context.Context, ba *BatchRequest) (*BatchResponse, error)
}

// BatchRequest is a list of requests that one range executes atomically and in order.
// DistSender splits a batch that spans ranges.
type BatchRequest struct {
	Header
	Requests []Request
}

// Header carries what holds for every request of a batch.
type Header struct {
	// Timestamp is the read timestamp of a batch without a transaction; zero means that
	// the leaseholder takes its clock's.
	Timestamp hlc.Timestamp
	// Txn is nil for a batch outside a transaction.
	Txn *Txn
	// RangeID and Generation say which range, as the sender knows it. DistSender fills them in.
	RangeID    keys.RangeID
	Generation int64
	// CommandID makes a retry of the same write batch find the first one's outcome (S12).
	// DistSender fills it in, once per batch and range, and keeps it over retries.
	CommandID [16]byte
	// CommandBirth is the sender's clock, in wall nanoseconds, when it drew CommandID. It is the
	// same for every try. A range that has forgotten commands born as late refuses a try that it
	// does not remember (S12): it can't tell whether an earlier one was applied.
	CommandBirth int64
	// Pieces names the cuts by which this batch was made of the one that CommandID was drawn for,
	// oldest first; empty for that one itself. Pieces keep the ID, because the whole may have been
	// applied before a split; a merge may bring them into one range again, and there the outcome
	// of one must not be taken for that of another (S12, S20).
	Pieces []uint64
	// MaxSpanKeys and TargetBytes bound what all scans of the batch return together; 0 means
	// the server's own limit. A scan that stops early sets ResumeSpan.
	MaxSpanKeys int64
	TargetBytes int64
	// WaitPolicy says what a request does that meets a foreign lock or intent.
	WaitPolicy WaitPolicy
	// LockTimeout bounds each wait for a lock; 0 means none.
	LockTimeout time.Duration
	// Gateway is the node that sends.
	Gateway keys.NodeID
	// ClockReading is the sender's clock when it sent (it forwards the receiver's HLC).
	ClockReading hlc.Timestamp
	// CanForwardReadTimestamp says that nothing was read at Txn.ReadTimestamp before this
	// batch: the server may read at a later timestamp instead of failing with an
	// UncertaintyError or WriteTooOldError, and returns it in BatchResponse.Txn.
	CanForwardReadTimestamp bool
	// RefreshSpans, if not empty, is all that was read at Txn.ReadTimestamp before this batch: the
	// server may do the same once it has refreshed them (S8), if they lie in its range.
	RefreshSpans []keys.Span
	// FollowerRead says that any replica may answer which knows that nothing more will be written at
	// or below the batch's fixed timestamp (S24): the nearest is asked first. Reads without locks only.
	FollowerRead bool
}

// WaitPolicy says what to do on a conflicting lock.
type WaitPolicy uint8

const (
	WaitBlock      WaitPolicy = iota // wait in the queue
	WaitError                        // fail with LockConflictError (NOWAIT)
	WaitSkipLocked                   // leave locked rows out (SKIP LOCKED)
)

// LockStrength is the strength of the lock that a read takes.
type LockStrength uint8

const (
	LockNone      LockStrength = iota
	LockShared                 // FOR SHARE, FOR KEY SHARE
	LockExclusive              // FOR UPDATE, FOR NO KEY UPDATE, and every write
)

// Isolation is a transaction's isolation level.
type Isolation uint8

const (
	Serializable Isolation = iota
	Snapshot               // REPEATABLE READ
	ReadCommitted
)

// TxnStatus is the state of a transaction record.
type TxnStatus uint8

const (
	TxnPending TxnStatus = iota
	TxnStaging
	TxnCommitted
	TxnAborted
)

// TxnID is a random UUID.
type TxnID [16]byte

// TxnMeta is what an intent, a lock and a push know of a transaction.
type TxnMeta struct {
	ID             TxnID
	Key            keys.Key // anchor: where the record lives; empty until the first lock or write
	Epoch          int32
	Seq            int32 // the sequence number of the write (in an intent), or the newest one
	WriteTimestamp hlc.Timestamp
	MinTimestamp   hlc.Timestamp // the clock at the transaction's birth
	Isolation      Isolation
	Priority       int32
}

// Txn is a transaction as its coordinator sends it.
type Txn struct {
	TxnMeta
	Status        TxnStatus
	ReadTimestamp hlc.Timestamp
	// UncertaintyLimit is MinTimestamp's clock plus max offset (S7).
	UncertaintyLimit hlc.Timestamp
	// LastHeartbeat is the clock reading of the coordinator's newest heartbeat.
	LastHeartbeat hlc.Timestamp
	// IgnoredSeqs are the sequence ranges that savepoint rollbacks took back (S9).
	IgnoredSeqs []SeqRange
	// InFlight lists a STAGING record's writes (S11); LockSpans what must be resolved after the end.
	InFlight  []InFlightWrite
	LockSpans []keys.Span
}

// SeqRange is a closed interval of sequence numbers.
type SeqRange struct{ Start, End int32 }

// InFlightWrite is a write that a STAGING record waits for.
type InFlightWrite struct {
	Key   keys.Key
	Seq   int32
	Epoch int32
}

// Request is one of the *Request types below. Response N of a batch answers request N.
type Request interface{ request() }

// Response is one of the *Response types below.
type Response interface{ response() }

// BatchResponse answers a batch.
type BatchResponse struct {
	// Txn is the transaction as the range leaves it (status, pushed WriteTimestamp); nil
	// for a batch outside a transaction.
	Txn *Txn
	// Timestamp is where the batch was evaluated.
	Timestamp hlc.Timestamp
	Responses []Response
	// Now is the server's clock when it answered.
	Now hlc.Timestamp
	// RangeDescriptors is set when the sender's descriptor was stale: the right ones (S29).
	RangeDescriptors []RangeDescriptor
}

// KeyValue is a row as a read returns it. Version is the commit timestamp of the version
// (zero for the transaction's own intent); S26's conditions carry it back.
type KeyValue struct {
	Key     keys.Key
	Value   []byte
	Version hlc.Timestamp
}

// Reads.
type (
	// GetRequest reads one key, and locks it (even when absent) unless Lock is LockNone.
	GetRequest struct {
		Key  keys.Key
		Lock LockStrength
	}
	// GetResponse: Exists is false for an absent or deleted key; Version is then the
	// tombstone's timestamp, or zero.
	GetResponse struct {
		Value   []byte
		Exists  bool
		Version hlc.Timestamp
		Skipped bool // SKIP LOCKED left it out
	}
	// ScanRequest reads [Span.Key, Span.EndKey) in order, or backwards if Reverse. Lock
	// locks every key it returns. Pushdown is a serialized filter and projection (package
	// exec knows the format); empty means every row as it is stored.
	ScanRequest struct {
		Span     keys.Span
		Reverse  bool
		Lock     LockStrength
		MaxKeys  int64 // this scan's own limit; 0 means none
		Pushdown []byte
	}
	// ScanResponse: ResumeSpan is the part not read yet, nil when all of it was read.
	ScanResponse struct {
		Rows       []KeyValue
		ResumeSpan *keys.Span
		NumBytes   int64
	}
	// RefreshRequest fails with RetryError if a foreign version or intent appeared in Span
	// in (From, the transaction's ReadTimestamp]; it raises the timestamp cache (S8).
	RefreshRequest struct {
		Span keys.Span
		From hlc.Timestamp
	}
	RefreshResponse struct{}
)

// Writes.
type (
	// PutRequest writes Value at Key, or a tombstone if Delete.
	PutRequest struct {
		Key    keys.Key
		Value  []byte
		Delete bool
		Seq    int32
		Cond   Condition
	}
	PutResponse struct{}
	// Condition is checked when the write lands, at every isolation level (S26).
	//   Check=false: blind write.
	//   Check=true:  the newest committed version of the key must be at or below Seen;
	//                otherwise RetryError{Reason: RetryLockLost}, or, with MustBeAbsent and a
	//                live value there, ConditionFailedError (SQLSTATE 23505).
	// MustBeAbsent with a live value at or below Seen is also a ConditionFailedError.
	Condition struct {
		Check        bool
		MustBeAbsent bool
		Seen         hlc.Timestamp
	}
	// DeleteRangeRequest writes a tombstone over every live key of Span (as intents inside
	// a transaction). ResumeSpan as in a scan.
	DeleteRangeRequest struct {
		Span keys.Span
		Seq  int32
	}
	DeleteRangeResponse struct {
		Deleted    int64
		ResumeSpan *keys.Span
	}
	// ClearRangeRequest removes all versions of keys in Span, below any transaction: only
	// for data that no descriptor refers to any more.
	ClearRangeRequest struct {
		Span keys.Span
		// Threshold, if set, is raised with it: who reads at or below it may have missed the data (S25).
		Threshold hlc.Timestamp
	}
	ClearRangeResponse struct{}
	// IncrementRequest adds Delta to the 8-byte big-endian integer at Key (absent: 0),
	// outside any transaction. ID allocators and sequences use it.
	IncrementRequest struct {
		Key   keys.Key
		Delta int64
	}
	IncrementResponse struct{ NewValue int64 }
)

// Transactions.
type (
	// EndTxnRequest commits or aborts. In a batch that also holds all of the transaction's
	// writes, with no writes elsewhere (CanCommitInOnePhase), the range commits without
	// intents or a record (1PC). ReadSpans are the read spans that lie in this range: the
	// server refreshes them itself if it must move the timestamp (S8); AllReadsHere says
	// that there are no others.
	EndTxnRequest struct {
		Commit              bool
		CanCommitInOnePhase bool
		AllReadsHere        bool
		// NoRecord says that the transaction never had a lock, an intent or a heartbeat: no
		// record of it can exist, and none need be looked for.
		NoRecord  bool
		ReadSpans []keys.Span
		// InFlight is set for a parallel commit: the record becomes STAGING (S11).
		InFlight []InFlightWrite
		// LockSpans are resolved after the end; those in this range, at once.
		LockSpans []keys.Span
		// Deadline: the commit timestamp must be below it (S27); zero means none.
		Deadline hlc.Timestamp
	}
	EndTxnResponse struct {
		OnePhase        bool
		Staging         bool
		CommitTimestamp hlc.Timestamp
	}
	HeartbeatTxnRequest  struct{ Key keys.Key } // Key is the anchor; Header.Txn the transaction
	HeartbeatTxnResponse struct{}
	// PushTxnRequest asks that Pushee be aborted, or its timestamp moved above PushTo. It
	// waits in the pushee's queue unless Force (deadlock broken) or the pushee expired.
	PushTxnRequest struct {
		Key    keys.Key // the pushee's anchor
		Pusher *Txn     // nil: not in a transaction
		Pushee TxnMeta
		Kind   PushKind
		PushTo hlc.Timestamp
		Force  bool
		// WaitOnly: the pushee holds nothing against the pusher, but queues before it. It is
		// never aborted; the push only waits, as an edge of the deadlock detector.
		WaitOnly bool
	}
	// PushTxnResponse: Pushee is what is known now. A STAGING pushee comes back as such: the
	// pusher recovers it.
	PushTxnResponse struct{ Pushee Txn }
	// QueryTxnRequest returns a record, and the transactions that wait for it (deadlock
	// detection). With Wait it blocks until something changes.
	QueryTxnRequest struct {
		Key           keys.Key
		ID            TxnID
		WaitForUpdate bool
		KnownWaiters  []TxnID
	}
	QueryTxnResponse struct {
		Txn     *Txn // nil: no record
		Waiters []TxnID
		// Waiting are the same waiters, with the anchors under which their own can be asked.
		Waiting []TxnMeta
	}
	// QueryIntentRequest reports whether the in-flight write of Txn is there (same epoch,
	// at or above Seq, at or below Txn.WriteTimestamp); if not, it is made impossible (S11).
	QueryIntentRequest struct {
		Key keys.Key
		Txn TxnMeta
	}
	QueryIntentResponse struct{ Found bool }
	// RecoverTxnRequest decides a STAGING transaction after its writes were queried.
	RecoverTxnRequest struct {
		Key        keys.Key
		Txn        TxnMeta
		AllWritten bool
		// Reopen: its own coordinator asks, who knows that every try of every write has ended.
		// A transaction that is not committed is PENDING again, not aborted.
		Reopen bool
	}
	RecoverTxnResponse struct{ Txn Txn }
	// ResolveIntentRequest turns a finished transaction's intents in Span into versions or
	// removes them, and releases its locks there. Idempotent (S13). Status TxnPending with a
	// higher WriteTimestamp only moves them.
	ResolveIntentRequest struct {
		Span        keys.Span
		Txn         TxnMeta
		Status      TxnStatus
		IgnoredSeqs []SeqRange
	}
	ResolveIntentResponse struct{ Resolved int64 }
)

// PushKind is what a pusher wants of the pushee.
type PushKind uint8

const (
	PushAbort     PushKind = iota
	PushTimestamp          // a reader: move the pushee's commit above PushTo
	PushTouch              // only learn its fate (cleanup)
)

// Administration. They are not part of a transaction and stand alone in their batch.
type (
	// GCRequest moves the range's GC threshold (replicated first, S25), then removes versions.
	GCRequest struct {
		Span      keys.Span
		Threshold hlc.Timestamp
		Keys      []GCKey
	}
	// GCKey names the newest version of a key that may go, and all older ones.
	GCKey struct {
		Key keys.Key
		At  hlc.Timestamp
	}
	GCResponse struct{}
	// AdminSplitRequest makes a range boundary at SplitKey. A boundary that exists is success.
	// It stays for good, unless MayMerge lets it go once both sides are small and quiet.
	AdminSplitRequest struct {
		SplitKey keys.Key
		MayMerge bool
	}
	AdminSplitResponse struct{ Left, Right RangeDescriptor }
	// AdminMergeRequest merges the range that holds Key with the one that follows it (S20),
	// however large, busy or pinned they are.
	AdminMergeRequest  struct{ Key keys.Key }
	AdminMergeResponse struct{ Desc RangeDescriptor }
	// AbandonMergeRequest makes sure that range Left does not take in the range that begins at
	// RightStart at LeftGeneration any more (S20). Key is Left's first key: should another range
	// hold it by now, then Left's log has ended, and nothing comes of it either.
	AbandonMergeRequest struct {
		Key            keys.Key
		Left           keys.RangeID
		LeftGeneration int64
		RightStart     keys.Key
	}
	// AbandonMergeResponse: Merged says that the range which answers holds RightStart.
	AbandonMergeResponse struct{ Merged bool }
	// AdminTransferLeaseRequest moves the lease to Target's replica (S3).
	AdminTransferLeaseRequest struct {
		Key    keys.Key
		Target keys.NodeID
	}
	AdminTransferLeaseResponse struct{}
	// AdminChangeReplicasRequest makes one change, with the range's generation as fence (S19).
	AdminChangeReplicasRequest struct {
		Key        keys.Key
		Generation int64
		Kind       ReplicaChangeKind
		Node       keys.NodeID
	}
	AdminChangeReplicasResponse struct{ Desc RangeDescriptor }
	// LeaseInfoRequest asks any replica what it knows.
	LeaseInfoRequest  struct{ Key keys.Key }
	LeaseInfoResponse struct {
		Desc        RangeDescriptor
		Leaseholder keys.NodeID // 0: unknown
		Term        uint64
		Applied     uint64
		Bytes       int64
		// BatchesPerSecond is what the leaseholder has served lately.
		BatchesPerSecond int64
		// Freshest is the newest timestamp at which the replica could answer reads when it was asked
		// (S24); zero: none.
		Freshest hlc.Timestamp
	}
	// ChecksumRequest computes the digest of the range's replicated state at one log
	// position on every replica; a mismatch quarantines the odd one out (S23).
	ChecksumRequest  struct{ Key keys.Key }
	ChecksumResponse struct {
		Digest  [32]byte
		Applied uint64
	}
)

// ReplicaChangeKind is one step of a replica change.
type ReplicaChangeKind uint8

const (
	AddNonVoter ReplicaChangeKind = iota
	PromoteToVoter
	RemoveReplica
	DemoteToNonVoter // a witness that is demoted stays a witness
	// AddWitness makes a witness that does not vote yet (S22); PromoteToVoter gives it its vote.
	AddWitness
)

func (*GetRequest) request()                 {}
func (*ScanRequest) request()                {}
func (*RefreshRequest) request()             {}
func (*PutRequest) request()                 {}
func (*DeleteRangeRequest) request()         {}
func (*ClearRangeRequest) request()          {}
func (*IncrementRequest) request()           {}
func (*EndTxnRequest) request()              {}
func (*HeartbeatTxnRequest) request()        {}
func (*PushTxnRequest) request()             {}
func (*QueryTxnRequest) request()            {}
func (*QueryIntentRequest) request()         {}
func (*RecoverTxnRequest) request()          {}
func (*ResolveIntentRequest) request()       {}
func (*GCRequest) request()                  {}
func (*AdminSplitRequest) request()          {}
func (*AdminTransferLeaseRequest) request()  {}
func (*AdminMergeRequest) request()          {}
func (*AbandonMergeRequest) request()        {}
func (*AdminChangeReplicasRequest) request() {}
func (*LeaseInfoRequest) request()           {}
func (*ChecksumRequest) request()            {}

func (*GetResponse) response()                 {}
func (*ScanResponse) response()                {}
func (*RefreshResponse) response()             {}
func (*PutResponse) response()                 {}
func (*DeleteRangeResponse) response()         {}
func (*ClearRangeResponse) response()          {}
func (*IncrementResponse) response()           {}
func (*EndTxnResponse) response()              {}
func (*HeartbeatTxnResponse) response()        {}
func (*PushTxnResponse) response()             {}
func (*QueryTxnResponse) response()            {}
func (*QueryIntentResponse) response()         {}
func (*RecoverTxnResponse) response()          {}
func (*ResolveIntentResponse) response()       {}
func (*GCResponse) response()                  {}
func (*AdminSplitResponse) response()          {}
func (*AdminTransferLeaseResponse) response()  {}
func (*AdminMergeResponse) response()          {}
func (*AbandonMergeResponse) response()        {}
func (*AdminChangeReplicasResponse) response() {}
func (*LeaseInfoResponse) response()           {}
func (*ChecksumResponse) response()            {}
