// Package pgwire speaks the PostgreSQL protocol, version 3: start-up, TLS, SCRAM-SHA-256,
// the simple and the extended query protocol with pipelining, COPY both ways, cancel
// requests, portals with row limits. Messages are pgproto3's; what a statement means is
// the Engine's business.
//
// One goroutine serves one connection. It reads a message, acts, and collects what it has
// to say in one buffer, which it writes when the client waits for it (Sync, Flush, a
// simple query) or when the buffer is large.
//
// An Execute runs when the next message is known. If that is Sync, the implicit transaction
// commits as part of the statement: it can be retried with it inside the server, and a
// client never reads CommandComplete for a statement whose commit then fails.
package pgwire
