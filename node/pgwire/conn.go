package pgwire

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// flushBytes is how much output collects before it is written although nobody waits for it.
const flushBytes = 64 << 10

// unauthenticatedBodyBytes bounds a message of a client that has not shown who it is.
const unauthenticatedBodyBytes = 10_000

// conn is one client. Only its own goroutine touches it, but for current, nc and what
// shutdown uses.
type conn struct {
	srv     *Server
	nc      net.Conn
	backend *pgproto3.Backend
	tls     bool
	pid     uint32
	secret  uint32

	out     []byte // encoded messages, not written yet
	current atomic.Pointer[Session]
	sess    Session

	prepared   map[string]*preparedEntry
	portals    map[string]*portalEntry
	deferred   *deferredExecute // an Execute that waits to see whether Sync follows
	idleArmed  bool             // a read deadline is set
	skipToSync bool             // after an error in the extended protocol
	flushes    uint64           // how often output left

	mu      sync.Mutex // guards notices, which a session may raise at any time
	notices []pgproto3.BackendMessage
	noticed atomic.Bool // notices is not empty
	leaving atomic.Bool // the server closes
	inStmt  atomic.Bool
	ctx     context.Context
	stop    context.CancelFunc
}

func newConn(s *Server, nc net.Conn) *conn {
	ctx, stop := context.WithCancel(context.Background())
	return &conn{
		srv: s, nc: nc, backend: pgproto3.NewBackend(nc, nc), secret: randomSecret(),
		prepared: map[string]*preparedEntry{}, portals: map[string]*portalEntry{}, ctx: ctx, stop: stop,
	}
}

// serve runs the connection to its end.
func (c *conn) serve(tooMany bool) {
	defer c.nc.Close()
	defer c.stop()
	_ = c.nc.SetDeadline(time.Now().Add(c.srv.cfg.StartupTimeout))
	if err := c.startup(tooMany); err != nil {
		c.fail(err)
		return
	}
	_ = c.nc.SetWriteDeadline(time.Time{})
	c.readUntil(time.Time{})
	defer func() {
		c.current.Store(nil)
		c.sess.Close()
	}()
	if err := c.loop(); err != nil {
		c.fail(err)
	}
}

// errQuiet ends a connection without a word: the client is gone, or got what it came for.
var errQuiet = errors.New("connection ends")

// fail tells the client why the connection closes, if it can be told.
func (c *conn) fail(err error) {
	if errors.Is(err, errQuiet) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return
	}
	var ne net.Error
	if errors.As(err, &ne) || errors.Is(err, net.ErrClosed) {
		if c.leaving.Load() {
			c.sendError(shutdownError())
			_ = c.flush()
		}
		return
	}
	e := ToPG(err)
	var tooLarge *pgproto3.ExceededMaxBodyLenErr
	switch {
	case errors.As(err, &tooLarge):
		e = protocolViolation("message of %d bytes is larger than the limit of %d bytes", tooLarge.ActualBodyLen, tooLarge.MaxExpectedBodyLen)
	case e.Code == pgerrcode.InternalError:
		e = protocolViolation("%s", err.Error())
	}
	if e.Severity == "" {
		copied := *e
		copied.Severity = "FATAL"
		e = &copied
	}
	c.sendError(e)
	_ = c.flush()
}

func shutdownError() *pgerror.Error {
	return fatal(pgerrcode.AdminShutdown, "terminating connection due to administrator command").
		WithHint("Connect to another node of the cluster.")
}

// shutdown ends the connection as soon as it is between statements, and interrupts one that runs.
func (c *conn) shutdown() {
	c.leaving.Store(true)
	if c.inStmt.Load() {
		if s := c.current.Load(); s != nil {
			(*s).Cancel()
		}
	}
	_ = c.nc.SetReadDeadline(time.Now()) // wakes the reader
}

// startup handles everything up to the first ReadyForQuery.
func (c *conn) startup(tooMany bool) error {
	var msg *pgproto3.StartupMessage
	for msg == nil {
		m, err := c.backend.ReceiveStartupMessage()
		if err != nil {
			return startupFault(err)
		}
		switch m := m.(type) {
		case *pgproto3.SSLRequest:
			if err := c.upgrade(); err != nil {
				return err
			}
		case *pgproto3.GSSEncRequest:
			if _, err := c.nc.Write([]byte{'N'}); err != nil {
				return errQuiet
			}
		case *pgproto3.CancelRequest:
			c.srv.cancel(m.ProcessID, m.SecretKey)
			return errQuiet
		case *pgproto3.StartupMessage:
			msg = m
		}
	}
	return c.open(msg, tooMany)
}

func startupFault(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errQuiet
	}
	var ne net.Error
	if errors.As(err, &ne) {
		return errQuiet
	}
	return protocolViolation("%s", err.Error())
}

// upgrade answers SSLRequest, and speaks TLS from then on if the server has a certificate.
func (c *conn) upgrade() error {
	if c.srv.cfg.TLS == nil || c.tls {
		if _, err := c.nc.Write([]byte{'N'}); err != nil {
			return errQuiet
		}
		return nil
	}
	if _, err := c.nc.Write([]byte{'S'}); err != nil {
		return errQuiet
	}
	tc := tls.Server(c.nc, c.srv.cfg.TLS)
	if err := tc.HandshakeContext(c.ctx); err != nil {
		c.srv.cfg.Log.Info("TLS handshake failed", "client", c.nc.RemoteAddr().String(), "error", err)
		return errQuiet
	}
	c.nc, c.tls = tc, true
	c.backend = pgproto3.NewBackend(tc, tc)
	return nil
}

// open authenticates and opens the session.
func (c *conn) open(msg *pgproto3.StartupMessage, tooMany bool) error {
	user, database := msg.Parameters["user"], msg.Parameters["database"]
	if user == "" {
		return fatal(pgerrcode.InvalidAuthorizationSpecification, "no PostgreSQL user name specified in startup packet")
	}
	if database == "" {
		database = user
	}
	if tooMany {
		c.srv.metrics.refused.Inc()
		return fatal(pgerrcode.TooManyConnections, "sorry, too many clients already: this node serves at most %d", c.srv.cfg.MaxConnections).
			WithHint("Connect to another node, or use a connection pool.")
	}
	if err := c.checkTLS(user, database); err != nil {
		return err
	}
	c.backend.SetMaxBodyLen(unauthenticatedBodyBytes)
	if err := c.authenticate(c.ctx, user, database); err != nil {
		return err
	}
	c.backend.SetMaxBodyLen(c.srv.cfg.MaxMessageBytes)
	settings := map[string]string{}
	for k, v := range msg.Parameters {
		if k != "user" && k != "database" {
			settings[k] = v
		}
	}
	c.send(&pgproto3.AuthenticationOk{})
	sess, err := c.srv.engine.Connect(c.ctx, ConnectParams{
		User: user, Database: database, Settings: settings,
		RemoteAddr: c.nc.RemoteAddr().String(), ProcessID: c.pid, Notify: c,
	})
	if err != nil {
		return err
	}
	c.sess = sess
	c.current.Store(&sess)
	secret := binary.BigEndian.AppendUint32(nil, c.secret)
	c.send(&pgproto3.BackendKeyData{ProcessID: c.pid, SecretKey: secret})
	c.ready()
	return c.flush()
}

// ParameterStatus implements Notifier.
func (c *conn) ParameterStatus(name, value string) {
	c.notify(&pgproto3.ParameterStatus{Name: name, Value: value})
}

// Notice implements Notifier.
func (c *conn) Notice(n *Notice) {
	c.notify(&pgproto3.NoticeResponse{Severity: n.Severity, SeverityUnlocalized: n.Severity, Code: n.Code,
		Message: n.Message, Detail: n.Detail, Hint: n.Hint})
}

// maxNotices bounds what one statement may raise; the rest is dropped.
const maxNotices = 1000

func (c *conn) notify(m pgproto3.BackendMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.notices) < maxNotices {
		c.notices = append(c.notices, m)
		c.noticed.Store(true)
	}
}

// drainNotices puts what the session raised before the next message.
func (c *conn) drainNotices() {
	if !c.noticed.Load() {
		return
	}
	c.mu.Lock()
	ns := c.notices
	c.notices = nil
	c.noticed.Store(false)
	c.mu.Unlock()
	for _, n := range ns {
		c.append(n)
	}
}

// send collects a message. Errors show at flush.
func (c *conn) send(m pgproto3.BackendMessage) {
	c.drainNotices()
	c.append(m)
}

func (c *conn) append(m pgproto3.BackendMessage) {
	out, err := m.Encode(c.out)
	if err != nil { // a message above 1 GiB: can't be said
		c.srv.cfg.Log.Error("message can't be encoded", "error", err)
		return
	}
	c.out = out
}

// flush writes what was collected.
func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(c.srv.cfg.WriteTimeout))
	c.flushes++
	_, err := c.nc.Write(c.out)
	if cap(c.out) > 4*flushBytes {
		c.out = nil
	}
	c.out = c.out[:0]
	if err != nil {
		return errQuiet
	}
	return nil
}

// flushIfLarge bounds the output buffer.
func (c *conn) flushIfLarge() error {
	if len(c.out) < flushBytes {
		return nil
	}
	return c.flush()
}

func (c *conn) ready() {
	c.send(&pgproto3.ReadyForQuery{TxStatus: byte(c.sess.State().Txn)})
}

func (c *conn) sendError(e *pgerror.Error) {
	if len(e.Code) >= 2 {
		c.srv.metrics.errors.WithLabelValues(e.Code[:2]).Inc()
	}
	c.send(errorResponse(e))
}

// loop serves messages until the client leaves. Its error goes to the client.
func (c *conn) loop() error {
	for {
		timeout := c.limitIdle()
		msg, err := c.backend.Receive()
		if err != nil {
			return c.receiveFault(err, timeout)
		}
		if err := c.handle(msg); err != nil {
			return err
		}
		if c.leaving.Load() {
			return shutdownError()
		}
	}
}

// limitIdle arms the session's idle timeout, if it has one.
func (c *conn) limitIdle() time.Duration {
	timeout := c.sess.State().IdleTimeout
	if timeout == 0 && !c.idleArmed {
		return 0
	}
	c.idleArmed = timeout > 0
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	c.readUntil(deadline)
	return timeout
}

// readUntil sets the read deadline without undoing the one with which shutdown wakes the reader.
func (c *conn) readUntil(deadline time.Time) {
	_ = c.nc.SetReadDeadline(deadline)
	if c.leaving.Load() {
		_ = c.nc.SetReadDeadline(time.Now())
	}
}

// receiveFault says what a failed read means.
func (c *conn) receiveFault(err error, idle time.Duration) error {
	var ne net.Error
	switch {
	case c.leaving.Load():
		return shutdownError()
	case idle > 0 && errors.As(err, &ne) && ne.Timeout():
		if c.sess.State().Txn == Idle {
			return fatal(pgerrcode.IdleSessionTimeout, "terminating connection due to idle-session timeout")
		}
		return fatal(pgerrcode.IdleInTransactionSessionTimeout, "terminating connection due to idle-in-transaction timeout")
	}
	return err
}

// handle acts on one message. An error ends the connection; a statement's own failure does not.
func (c *conn) handle(msg pgproto3.FrontendMessage) error {
	_, isSync := msg.(*pgproto3.Sync)
	if d := c.deferred; d != nil {
		c.deferred = nil
		if err := c.statementFailed(c.runExecute(d, isSync)); err != nil {
			return err
		}
	}
	if isSync {
		return c.sync()
	}
	if c.skipToSync {
		if _, bye := msg.(*pgproto3.Terminate); bye {
			return errQuiet
		}
		return nil
	}
	switch m := msg.(type) {
	case *pgproto3.Query:
		return c.simpleQuery(m.String)
	case *pgproto3.Flush:
		return c.flush()
	case *pgproto3.Terminate:
		return errQuiet
	case *pgproto3.CopyData, *pgproto3.CopyDone, *pgproto3.CopyFail:
		return nil // the tail of a COPY that failed
	case *pgproto3.Parse:
		return c.statementFailed(c.parse(m))
	case *pgproto3.Bind:
		return c.statementFailed(c.bind(m))
	case *pgproto3.Describe:
		return c.statementFailed(c.describe(m))
	case *pgproto3.Execute:
		return c.statementFailed(c.execute(m))
	case *pgproto3.Close:
		return c.statementFailed(c.closeObject(m))
	case *pgproto3.FunctionCall:
		return c.statementFailed(pgerror.New(pgerrcode.FeatureNotSupported, "the function call protocol is not supported").
			WithHint("Call the function in a SELECT."))
	}
	return protocolViolation("unexpected message %T", msg)
}

// statementFailed tells the client of a failure in the extended protocol; what follows is
// skipped up to Sync. It returns an error only when the connection is over.
func (c *conn) statementFailed(err error) error {
	if err != nil {
		if errors.Is(err, errQuiet) {
			return err
		}
		c.sendError(ToPG(err))
		c.skipToSync = true
	}
	return c.flushIfLarge()
}

// sync ends an extended-protocol cycle.
func (c *conn) sync() error {
	failed := c.skipToSync
	c.skipToSync = false
	if err := c.guarded(func() error { return c.sess.Sync(c.ctx, failed) }); err != nil {
		c.sendError(ToPG(err))
	}
	c.dropPortals()
	c.ready()
	return c.flush()
}

// guarded marks that a statement runs, so that shutdown interrupts it.
func (c *conn) guarded(f func() error) error {
	c.inStmt.Store(true)
	defer c.inStmt.Store(false)
	return f()
}

func (c *conn) complete(tag string) {
	c.send(&pgproto3.CommandComplete{CommandTag: []byte(tag)})
}
