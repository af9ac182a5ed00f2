package pgwire

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/txn"
)

// ToPG maps any error to the fields that a client sees. This file is the only place that
// knows which SQLSTATE an error of the layers below SQL has.
//
// What the classes promise: an error of class 40 except 40003 says that the transaction did
// not happen and never will; 40003 says that nobody can tell (SAFETY S12).
func ToPG(err error) *pgerror.Error {
	var pe *pgerror.Error
	if errors.As(err, &pe) {
		return pe
	}
	if e := fromKV(err); e != nil {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return pgerror.Wrap(err, pgerrcode.QueryCanceled, "canceling statement due to a time limit")
	case errors.Is(err, context.Canceled):
		return pgerror.Wrap(err, pgerrcode.QueryCanceled, "canceling statement due to user request")
	}
	return pgerror.Wrap(err, pgerrcode.InternalError, "%s", err.Error())
}

func fromKV(err error) *pgerror.Error {
	var (
		ambiguous   *kv.AmbiguousError
		retry       *kv.RetryError
		aborted     *kv.AbortedError
		deadlock    *kv.DeadlockError
		exists      *kv.ConditionFailedError
		locked      *kv.LockConflictError
		belowGC     *kv.BelowGCThresholdError
		diskFull    *kv.DiskFullError
		unavailable *kv.UnavailableError
		tooOld      *kv.WriteTooOldError
		uncertain   *kv.UncertaintyError
		tooLarge    *txn.TooLargeError
		invalid     *kv.InvalidRequestError
	)
	switch {
	case errors.As(err, &ambiguous):
		return pgerror.Wrap(err, pgerrcode.StatementCompletionUnknown, "the outcome of the transaction is unknown: %s", ambiguous.Detail).
			WithHint("Check whether its effects are there before running it again.")
	case errors.As(err, &retry):
		e := pgerror.Wrap(err, pgerrcode.SerializationFailure, "could not serialize access due to concurrent update")
		if retry.Reason == kv.RetrySerializable || retry.Reason == kv.RetryUncertainty {
			e.Message = "could not serialize access due to read/write dependencies among transactions"
		}
		return e.WithDetail("%s", retry.Error()).WithHint("The transaction might succeed if retried.")
	case errors.As(err, &aborted):
		return pgerror.Wrap(err, pgerrcode.SerializationFailure, "could not serialize access: the transaction was aborted").
			WithDetail("%s", aborted.Reason).WithHint("The transaction might succeed if retried.")
	case errors.As(err, &deadlock):
		return pgerror.Wrap(err, pgerrcode.DeadlockDetected, "deadlock detected").WithDetail("%s", deadlock.Detail).
			WithHint("See server log for query details.")
	case errors.As(err, &exists):
		return pgerror.Wrap(err, pgerrcode.UniqueViolation, "duplicate key value violates unique constraint")
	case errors.As(err, &locked):
		if locked.Waited > 0 {
			return pgerror.Wrap(err, pgerrcode.LockNotAvailable, "canceling statement due to lock timeout")
		}
		return pgerror.Wrap(err, pgerrcode.LockNotAvailable, "could not obtain lock on row")
	case errors.As(err, &belowGC):
		return pgerror.Wrap(err, pgerrcode.SnapshotTooOld, "snapshot too old: versions at %s were collected up to %s",
			belowGC.Timestamp.Time().Format("2006-01-02 15:04:05.000000Z07"), belowGC.Threshold.Time().Format("2006-01-02 15:04:05.000000Z07"))
	case errors.As(err, &diskFull):
		return pgerror.Wrap(err, pgerrcode.DiskFull, "%s", diskFull.Error()).
			WithHint("Free space on the node's volume or make it larger; deletes are accepted meanwhile.")
	case errors.As(err, &unavailable):
		return pgerror.Wrap(err, pgerrcode.CannotConnectNow, "range %d has no leaseholder that answers: waited %s", unavailable.RangeID, unavailable.Waited).
			WithDetail("%s", unavailable.Detail).WithHint("A majority of the range's replicas must be up; see atoll.nodes and atoll.ranges.")
	case errors.As(err, &tooOld), errors.As(err, &uncertain):
		return pgerror.Wrap(err, pgerrcode.SerializationFailure, "could not serialize access due to concurrent update").
			WithDetail("%s", err.Error())
	case errors.As(err, &tooLarge):
		return pgerror.Wrap(err, pgerrcode.ProgramLimitExceeded, "row is too large: %s", tooLarge.Error()).
			WithHint("Store large values in parts.")
	case errors.As(err, &invalid):
		return pgerror.Wrap(err, pgerrcode.InternalError, "%s", invalid.Error())
	}
	return nil
}

// errorResponse encodes an error's fields. PostgreSQL's clients read both S and V.
func errorResponse(e *pgerror.Error) *pgproto3.ErrorResponse {
	severity := e.Severity
	if severity == "" {
		severity = "ERROR"
	}
	return &pgproto3.ErrorResponse{
		Severity: severity, SeverityUnlocalized: severity, Code: e.Code, Message: e.Message,
		Detail: e.Detail, Hint: e.Hint, Position: int32(e.Position), SchemaName: e.Schema,
		TableName: e.Table, ColumnName: e.Column, DataTypeName: e.DataType, ConstraintName: e.Constraint,
	}
}

// fatal is an error after which the connection closes.
func fatal(code, format string, args ...any) *pgerror.Error {
	e := pgerror.New(code, format, args...)
	e.Severity = "FATAL"
	return e
}

// protocolViolation is a fatal error about what the client sent.
func protocolViolation(format string, args ...any) *pgerror.Error {
	return fatal(pgerrcode.ProtocolViolation, "%s", fmt.Sprintf(format, args...))
}
