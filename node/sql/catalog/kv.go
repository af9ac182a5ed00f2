package catalog

import (
	"context"
	"errors"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// Txn is what the catalog needs of a transaction: package txn's, behind NewTxn, or a fake.
type Txn interface {
	// Get reads a key, locked exclusively when lock is set (also when it is absent).
	// Version is zero for the transaction's own write.
	Get(ctx context.Context, key keys.Key, lock bool) (kv.GetResponse, error)
	// GetMany reads several keys in one batch.
	GetMany(ctx context.Context, ks []keys.Key) ([]kv.GetResponse, error)
	// Scan reads a span in key order, at most max rows (0: all of them).
	Scan(ctx context.Context, span keys.Span, max int64) ([]kv.KeyValue, error)
	Put(ctx context.Context, key keys.Key, value []byte, cond kv.Condition) error
	Delete(ctx context.Context, key keys.Key, cond kv.Condition) error
	// Step ends a statement: what was written before is seen from here on (SAFETY S9).
	Step()
	// ReadTimestamp is where reads happen now; it may move up.
	ReadTimestamp() hlc.Timestamp
	// SetDeadline: the commit timestamp must be below it (SAFETY S27).
	SetDeadline(hlc.Timestamp)
	Isolation() kv.Isolation
}

// DB is what the catalog needs outside the client's transaction.
type DB interface {
	// Run executes f in a serializable transaction of its own, again when it must, and commits.
	Run(ctx context.Context, name string, f func(context.Context, Txn) error) error
	// Increment adds to an 8-byte integer outside any transaction, and returns the new
	// value, which is durable then.
	Increment(ctx context.Context, key keys.Key, delta int64) (int64, error)
	// ClearSpan removes data that nothing refers to any more. A read at or below the threshold, which
	// is zero if nobody ever could read the data, fails from then on (SAFETY S25).
	ClearSpan(ctx context.Context, span keys.Span, threshold hlc.Timestamp) error
	// Now is the node's hybrid clock.
	Now() hlc.Timestamp
}

// The catalog's own tables. Their IDs are below 100 and have no descriptor.
const (
	descriptorTable = 1  // <id:4>                               -> Encode
	namespaceTable  = 2  // <class:1> <db:4> <schema:4> <name>   -> Entry
	counterTable    = 3  // <name>                               -> 8-byte integer, by Increment
	changeTable     = 4  // "generation" and <generation:8>      -> what changed
	leaseTable      = 5  // <node:4> <session:8>                 -> lease record
	commentTable    = 6  // <class:4> <object:4> <sub:4>         -> text
	statisticsTable = 7  // <table:4>                            -> Statistics
	bootstrapTable  = 8  // "done"                               -> format version
	waitTable       = 9  // <node:4> <wait:8>                    -> wait record
	placementTable  = 10 // placement policies and what they are bound to, see placementKey
	// FirstFreeSystemTable is for others who keep system data under keys.TablePrefix.
	FirstFreeSystemTable = 20
)

// RestartError means that the statement must be run again in a newer snapshot: a schema
// changed between the transaction's read timestamp and now. It is a retryable error.
type RestartError struct{ Reason string }

func (e *RestartError) Error() string {
	return "restart transaction: " + e.Reason
}

// Unwrap makes it a conflict for all who retry those.
func (e *RestartError) Unwrap() error {
	return &kv.RetryError{Detail: e.Reason}
}

// IsRestart reports whether err holds a RestartError. The session retries it as a
// transaction restart (SAFETY S14), or else reports SQLSTATE 40001.
func IsRestart(err error) bool {
	var r *RestartError
	return errors.As(err, &r)
}

// Timing bounds of the lease protocol, in time units of package time.
const (
	// LeaseTTL is how long a node's promise holds without renewal: a schema change waits at
	// most that long for a node that died.
	LeaseTTL = 15 * time.Second
	// renewEvery leaves two tries before the promise runs out.
	renewEvery = 5 * time.Second
	// pollEvery is how soon a node notices a schema change of which the news was lost
	// (Config.OnPublish): each look is a read from the leaseholder of the catalog.
	pollEvery = time.Second
)

var blind = kv.Condition{}

// condition makes a write depend on what a locking read saw (SAFETY S26). REQUIRES: r is
// not of the transaction's own write: then the first write's condition still holds.
func condition(r kv.GetResponse) kv.Condition {
	return kv.Condition{Check: true, MustBeAbsent: !r.Exists, Seen: r.Version}
}
