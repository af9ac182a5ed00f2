package pgwire

import "github.com/atolldb/atoll/node/sql/client"

// The seam to SQL, by the names that this package uses. The types lie below, since imports
// point down: package session implements them and must not know the protocol.
type (
	Authenticator = client.Authenticator
	Credential    = client.Credential
	Engine        = client.Engine
	ConnectParams = client.ConnectParams
	Notifier      = client.Notifier
	Notice        = client.Notice
	Session       = client.Session
	State         = client.State
	TxnStatus     = client.TxnStatus
	Statement     = client.Statement
	Prepared      = client.Prepared
	Column        = client.Column
	Portal        = client.Portal
	CopyDirection = client.CopyDirection
	RowWriter     = client.RowWriter
	CopyReader    = client.CopyReader
	CopyWriter    = client.CopyWriter
)

// The values of the seam's enumerations.
const (
	Idle           = client.Idle
	InTxn          = client.InTxn
	Failed         = client.Failed
	NoCopy         = client.NoCopy
	CopyFromClient = client.CopyFromClient
	CopyToClient   = client.CopyToClient
)
