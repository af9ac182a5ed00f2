// Package client is the seam between a client protocol and SQL: what a protocol server asks of
// sessions. Package session implements it, package pgwire uses it.
package client

import (
	"context"
	"time"

	"github.com/atolldb/atoll/node/sql/types"
)

// Engine opens SQL sessions.
type Engine interface {
	// Connect authorizes nothing: the protocol has authenticated the user. It fails with SQLSTATE
	// 3D000 for a database that does not exist, 28000 for an unknown role.
	Connect(ctx context.Context, p ConnectParams) (Session, error)
}

// ConnectParams is what the startup message said.
type ConnectParams struct {
	User, Database string
	Settings       map[string]string // application_name, client_encoding, options ...
	RemoteAddr     string
	ProcessID      uint32
	// Notify sends a ParameterStatus or a notice to the client as soon as the protocol allows.
	Notify Notifier
}

// Notifier takes what a session says beside its results.
type Notifier interface {
	ParameterStatus(name, value string)
	Notice(n *Notice)
}

// Notice is a NoticeResponse.
type Notice struct {
	Severity, Code, Message, Detail, Hint string
}

// Session is one client's session. Only Cancel may be called while another method runs.
type Session interface {
	// Parse splits a simple-query string into statements. Error positions are in the whole string.
	Parse(query string) ([]Statement, error)
	// Prepare binds a statement (a nil one is the empty query) with the parameter types that
	// the client fixed (0: to be inferred). nil, unlike an empty list, says that there can be no
	// parameters, as in the simple protocol: $1 is then an error with its position.
	Prepare(ctx context.Context, st Statement, paramTypes []types.OID) (Prepared, error)
	// Sync ends the implicit transaction, if one is open: commit, or roll back when failed.
	Sync(ctx context.Context, failed bool) error
	// State is what the protocol needs to know of the session between statements.
	State() State
	// Cancel interrupts what runs now (SQLSTATE 57014).
	Cancel()
	// Close rolls back what is open and drops what the session holds.
	Close()
}

// State is a session's transaction status and the settings that shape values on the wire.
type State struct {
	Txn TxnStatus
	Env *types.Env
	// IdleTimeout is how long the client may stay silent in this state; 0 means for ever.
	IdleTimeout time.Duration
}

// TxnStatus is ReadyForQuery's status byte.
type TxnStatus byte

const (
	Idle   TxnStatus = 'I'
	InTxn  TxnStatus = 'T'
	Failed TxnStatus = 'E'
)

// Statement is one parsed statement.
type Statement interface {
	// Text is the statement's own text.
	Text() string
}

// Prepared is a statement that is bound to types.
type Prepared interface {
	ParamTypes() []types.OID
	// Columns is nil for a statement that returns no rows.
	Columns() []Column
	// Bind makes a portal. args hold one value per parameter.
	Bind(ctx context.Context, args []types.Datum) (Portal, error)
	Close()
}

// Column describes a result column (RowDescription).
type Column struct {
	Name     string
	TableOID uint32
	AttNum   int16
	Type     types.OID
	TypeLen  int16 // pg_type.typlen
	TypeMod  int32 // -1: none
}

// Portal is a bound statement, ready to run.
type Portal interface {
	Columns() []Column
	// CopyDirection says whether running it is a COPY.
	CopyDirection() CopyDirection
	// Run sends at most maxRows rows (0: all) to out, and reports whether more may follow;
	// then it can be called again. tag is the command tag once it is complete. last says that
	// Sync follows: an implicit transaction is then committed before Run returns, so that it
	// can be run again inside the server after a conflict (SAFETY S14).
	Run(ctx context.Context, out RowWriter, maxRows int64, last bool) (suspended bool, tag string, err error)
	// CopyIn runs a COPY FROM STDIN: data yields the client's CopyData payloads, then io.EOF.
	CopyIn(ctx context.Context, data CopyReader) (tag string, err error)
	// CopyOut runs a COPY TO STDOUT.
	CopyOut(ctx context.Context, out CopyWriter) (tag string, err error)
	Close()
}

// CopyDirection says what kind of COPY a portal is.
type CopyDirection uint8

const (
	NoCopy CopyDirection = iota
	CopyFromClient
	CopyToClient
)

// RowWriter takes result rows; it has encoded the row when it returns. An error ends the statement.
type RowWriter interface {
	WriteRow(row []types.Datum) error
	// Retract takes back all rows written since the portal began to run. It returns false
	// when some have left for the client: then the statement can't be run again (SAFETY S14).
	Retract() bool
}

// CopyReader yields CopyData payloads. Boundaries mean nothing. It returns io.EOF at CopyDone,
// and an error with SQLSTATE 57014 at CopyFail.
type CopyReader interface {
	ReadCopyData() ([]byte, error)
}

// CopyWriter takes CopyData payloads.
type CopyWriter interface {
	// Begin sends CopyOutResponse; binary says the format.
	Begin(columns int, binary bool) error
	WriteCopyData(b []byte) error
}

// Authenticator says how a user proves who they are.
type Authenticator interface {
	Credential(ctx context.Context, user, database string, tls bool) (Credential, error)
}

// Credential is what a user must show.
type Credential struct {
	// Trust lets the user in without a password.
	Trust bool
	// Verifier is PostgreSQL's form: SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>.
	// Empty, or unknown users: the exchange runs to its end and fails, so that nobody learns
	// which users exist.
	Verifier string
}
