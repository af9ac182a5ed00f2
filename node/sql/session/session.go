package session

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/ddl"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/pgcatalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// Session is one client's session. It implements client.Session. Only Cancel is safe for
// concurrent use.
type Session struct {
	eng         *Engine
	ctx         context.Context // ends when the client is gone
	notify      client.Notifier
	user        string // SET ROLE may change it
	sessionUser string
	database    string
	databaseID  catalog.ID
	roleID      catalog.ID
	role        *catalog.Role // as the newest transaction saw it
	pid         uint32
	remote      string // the client's address
	started     time.Time

	vars     *settings
	env      *types.Env
	names    *pgcatalog.Functions // of the statement that runs, see outputNames
	path     []string             // search_path, split
	reported map[string]string    // ParameterStatus values that the client has

	tx      *transaction
	view    *catalog.Collection           // tx's view of the catalog
	written map[catalog.ID]*catalog.Table // by tx, or by the block that has just ended
	named   map[string]*namedStatement
	cursors map[string]*cursor
	seq     *ddl.Sequences
	lag     statementLag // of the last statement that read at the nearest replica

	activity atomic.Pointer[activity] // for pg_stat_activity
	oldest   atomic.Int64             // where the open transaction began to read, in nanoseconds; 0: none is open

	mu       sync.Mutex
	cancel   context.CancelCauseFunc // of the statement that runs now
	canceled bool
}

// activity is what the session does, as others see it.
type activity struct {
	state, query, application string
	since                     time.Time
}

// note shows others what the session does.
func (s *Session) note(state, query string) {
	const maxQuery = 1024 // as PostgreSQL's track_activity_query_size
	if len(query) > maxQuery {
		query = query[:maxQuery]
	}
	s.activity.Store(&activity{state: state, query: query, application: s.vars.raw("application_name"), since: time.Now()})
}

// errCanceled is the cause of a statement's context after CancelRequest.
var errCanceled = pgerror.New(pgerrcode.QueryCanceled, "canceling statement due to user request")

// errStatementTimeout is the cause after statement_timeout.
var errStatementTimeout = pgerror.New(pgerrcode.QueryCanceled, "canceling statement due to statement timeout")

// Parse implements client.Session.
func (s *Session) Parse(query string) ([]client.Statement, error) {
	sts, err := parser.Parse(query)
	if err != nil {
		s.failBlock()
		return nil, err
	}
	out := make([]client.Statement, len(sts))
	for i, st := range sts {
		out[i] = st
	}
	return out, nil
}

// State implements client.Session.
func (s *Session) State() client.State {
	st := client.State{Txn: client.Idle, Env: s.env}
	if s.tx != nil && !s.tx.implicit {
		st.Txn = client.InTxn
		if s.tx.failed {
			st.Txn = client.Failed
		}
		st.IdleTimeout = s.vars.duration("idle_in_transaction_session_timeout")
		return st
	}
	st.IdleTimeout = s.vars.duration("idle_session_timeout")
	return st
}

// Sync implements client.Session.
func (s *Session) Sync(ctx context.Context, failed bool) error {
	if s.tx == nil {
		return nil
	}
	if !s.tx.implicit {
		if failed {
			s.tx.failed = true
		}
		return nil
	}
	if failed || s.tx.failed {
		s.rollback()
		return nil
	}
	return s.interruptible(ctx, s.commit)
}

// Cancel implements client.Session.
func (s *Session) Cancel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel(errCanceled)
	}
}

// Close implements client.Session.
func (s *Session) Close() {
	s.rollback()
	s.eng.forget(s)
}

// failBlock marks an explicit block as failed after an error.
func (s *Session) failBlock() {
	if s.tx != nil {
		s.tx.failed = true
	}
}

// interruptible runs f with a context that Cancel and statement_timeout end.
func (s *Session) interruptible(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	s.cancel = cancel
	s.mu.Unlock()
	var timer *time.Timer
	if d := s.vars.duration("statement_timeout"); d > 0 {
		timer = time.AfterFunc(d, func() { cancel(errStatementTimeout) })
	}
	err := f(ctx)
	if timer != nil {
		timer.Stop()
	}
	s.mu.Lock()
	s.cancel = nil
	s.mu.Unlock()
	if err != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		if cause := context.Cause(ctx); cause != nil {
			var pe *pgerror.Error
			if errors.As(cause, &pe) {
				err = pe
			}
		}
	}
	cancel(nil)
	return err
}

// Prepare implements client.Session.
func (s *Session) Prepare(ctx context.Context, st client.Statement, paramTypes []types.OID) (client.Prepared, error) {
	ps, ok := st.(*parser.Statement)
	if !ok {
		return nil, pgerror.New(pgerrcode.InternalError, "statement of type %T was not made by this session", st)
	}
	p, err := s.prepare(ctx, ps, paramTypes)
	if err != nil {
		s.failBlock()
		return nil, err
	}
	return p, nil
}

func (s *Session) prepare(ctx context.Context, st *parser.Statement, paramTypes []types.OID) (*prepared, error) {
	if s.tx != nil && s.tx.failed && !endsBlock(st) {
		return nil, errFailedBlock()
	}
	p := &prepared{s: s, st: st, paramTypes: paramTypes}
	if cmd := s.command(st); cmd != nil {
		p.cmd = cmd
		return p, nil
	}
	err := s.interruptible(ctx, func(ctx context.Context) error {
		if err := s.enterPast(ctx, st); err != nil {
			return err
		}
		return p.replan(ctx)
	})
	if err != nil && s.tx != nil && s.tx.implicit && s.tx.statements == 0 && retryable(err) {
		s.rollback() // nothing happened yet: plan in a newer snapshot
		err = s.interruptible(ctx, p.replan)
	}
	return p, err
}

// endsBlock reports whether a failed block accepts the statement.
func endsBlock(st *parser.Statement) bool {
	t := st.Node.GetTransactionStmt()
	if t == nil {
		return false
	}
	switch t.Kind.String() {
	case "TRANS_STMT_COMMIT", "TRANS_STMT_ROLLBACK", "TRANS_STMT_ROLLBACK_TO":
		return true
	}
	return false
}

// readOnlyViolation refuses a write in a read-only transaction.
func readOnlyViolation(command string) error {
	return pgerror.New(pgerrcode.ReadOnlySQLTransaction, "cannot execute %s in a read-only transaction", command)
}

// commandWord is the first word of a tag: INSERT of INSERT 0 1.
func commandWord(tag string) string {
	w, _, _ := strings.Cut(tag, " ")
	return w
}
