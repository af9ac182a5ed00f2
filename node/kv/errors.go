package kv

import (
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
)

// Errors that a range answers with. Routing errors never leave DistSender; transaction
// errors never leave the coordinator, except as RetryError (SQLSTATE 40001),
// AbortedError (40001), DeadlockError (40P01) and AmbiguousError (40003).
type (
	// NotLeaseholderError: this replica can't serve. Leaseholder is 0 if it does not know.
	NotLeaseholderError struct {
		RangeID     keys.RangeID
		Leaseholder keys.NodeID
		Desc        *RangeDescriptor
		Reason      string
	}
	// RangeNotFoundError: no such replica on that node.
	RangeNotFoundError struct {
		RangeID keys.RangeID
		Node    keys.NodeID
	}
	// RangeKeyMismatchError: the range does not hold the keys; Descs are those that it knows (S29).
	RangeKeyMismatchError struct {
		Span  keys.Span
		Descs []RangeDescriptor
	}
	// WriteTooOldError: a newer committed version lies at Actual. The batch may be retried
	// above it after a refresh.
	WriteTooOldError struct {
		Key    keys.Key
		Actual hlc.Timestamp
	}
	// UncertaintyError: a version lies in the uncertainty interval; read again at or above Existing.
	UncertaintyError struct {
		Key            keys.Key
		Read, Existing hlc.Timestamp
	}
	// RetryError: the transaction must be run again from its start (or its statement, in
	// READ COMMITTED).
	RetryError struct {
		Reason RetryReason
		Detail string
	}
	// AbortedError: somebody aborted the transaction.
	AbortedError struct{ Reason string }
	// DeadlockError: the transaction was chosen to break a deadlock.
	DeadlockError struct{ Detail string }
	// ConditionFailedError: a key that must be absent is there.
	ConditionFailedError struct {
		Key    keys.Key
		Actual []byte
	}
	// LockConflictError: NOWAIT met a lock, or LockTimeout ran out (Waited > 0).
	LockConflictError struct {
		Key    keys.Key
		Holder TxnID
		Waited time.Duration
	}
	// AmbiguousError: nobody can say whether the write happened (S12).
	AmbiguousError struct{ Detail string }
	// CommandExpiredError: the range does not remember the command, and has forgotten commands that
	// were born (see Header.CommandBirth) as late as Horizon: an earlier try of it may have been
	// applied (S12). This try was not.
	CommandExpiredError struct {
		RangeID        keys.RangeID
		Birth, Horizon int64 // wall nanoseconds
	}
	// BelowGCThresholdError: the timestamp lies at or below what was collected (S25).
	BelowGCThresholdError struct{ Timestamp, Threshold hlc.Timestamp }
	// DiskFullError: the store has less free space than its reserve (SQLSTATE 53100).
	DiskFullError struct {
		Node                keys.NodeID
		FreeBytes, MinBytes int64
	}
	// UnavailableError: no quorum, or no leaseholder, answered in time.
	UnavailableError struct {
		RangeID keys.RangeID
		Waited  time.Duration
		Detail  string
	}
	// InvalidRequestError: the request breaks the API or a limit. It is a defect or bad input.
	InvalidRequestError struct{ Detail string }
)

// RetryReason says why a transaction must be run again.
type RetryReason uint8

const (
	RetrySerializable   RetryReason = iota // its timestamp moved and its reads can't be refreshed
	RetryWriteTooOld                       // a newer version under a write (snapshot isolation)
	RetryLockLost                          // a lock was lost and somebody wrote meanwhile (S26)
	RetryCommitDeadline                    // a descriptor lease ran out (S27)
	RetryUncertainty                       // a version in the uncertainty interval
)

// String returns the reason in words.
func (r RetryReason) String() string {
	names := [...]string{"read/write dependency", "write conflict", "lock lost", "commit deadline exceeded",
		"read within uncertainty interval"}
	if int(r) >= len(names) {
		return fmt.Sprintf("reason %d", uint8(r))
	}
	return names[r]
}

func (e *NotLeaseholderError) Error() string {
	return fmt.Sprintf("range %d: this replica does not hold the lease (leaseholder: node %d): %s", e.RangeID, e.Leaseholder, e.Reason)
}
func (e *RangeNotFoundError) Error() string {
	return fmt.Sprintf("range %d has no replica on node %d", e.RangeID, e.Node)
}
func (e *RangeKeyMismatchError) Error() string {
	return fmt.Sprintf("keys %s lie outside the range", e.Span)
}
func (e *WriteTooOldError) Error() string {
	return fmt.Sprintf("write at %s below a version at %s", e.Key, e.Actual)
}
func (e *UncertaintyError) Error() string {
	return fmt.Sprintf("read of %s at %s met a version at %s within the uncertainty interval", e.Key, e.Read, e.Existing)
}
func (e *RetryError) Error() string {
	if e.Detail == "" {
		return "transaction must be retried: " + e.Reason.String()
	}
	return fmt.Sprintf("transaction must be retried: %s: %s", e.Reason, e.Detail)
}
func (e *AbortedError) Error() string  { return "transaction was aborted: " + e.Reason }
func (e *DeadlockError) Error() string { return "deadlock detected: " + e.Detail }
func (e *ConditionFailedError) Error() string {
	return fmt.Sprintf("key %s exists already", e.Key)
}
func (e *LockConflictError) Error() string {
	if e.Waited > 0 {
		return fmt.Sprintf("no lock on key %s after %s", e.Key, e.Waited)
	}
	return fmt.Sprintf("could not obtain lock on key %s", e.Key)
}
func (e *AmbiguousError) Error() string { return "result is unknown: " + e.Detail }
func (e *CommandExpiredError) Error() string {
	return fmt.Sprintf("range %d remembers no command born before %s any more, this one was born at %s: an earlier try of it may have been applied",
		e.RangeID, time.Unix(0, e.Horizon).UTC().Format(time.RFC3339Nano), time.Unix(0, e.Birth).UTC().Format(time.RFC3339Nano))
}
func (e *BelowGCThresholdError) Error() string {
	return fmt.Sprintf("timestamp %s is at or below the garbage collection threshold %s", e.Timestamp, e.Threshold)
}
func (e *DiskFullError) Error() string {
	return fmt.Sprintf("node %d has %d bytes of disk left, below its reserve of %d", e.Node, e.FreeBytes, e.MinBytes)
}
func (e *UnavailableError) Error() string {
	return fmt.Sprintf("range %d did not answer within %s: %s", e.RangeID, e.Waited, e.Detail)
}
func (e *InvalidRequestError) Error() string { return "invalid request: " + e.Detail }
