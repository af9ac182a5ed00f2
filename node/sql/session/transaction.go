package session

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/txn"
)

// transaction is the transaction block that a session is in: an explicit one, or the
// implicit one that lasts from one Sync to the next.
type transaction struct {
	kv         *txn.Txn // nil until a statement needs it
	implicit   bool
	failed     bool
	isolation  kv.Isolation
	readOnly   bool
	deferrable bool
	asOf       hlc.Timestamp     // where it reads; zero: as of now
	past       *parser.Statement // whose AS OF SYSTEM TIME, or setting, that is, in an implicit block
	statements int               // that used kv; the first may be run again from the start
	savepoints []savepoint
	started    time.Time
	// before holds the settings to go back to on ROLLBACK, local those that SET LOCAL hides.
	before map[string]string
	local  map[string]*string
}

type savepoint struct {
	name     string
	token    txn.Savepoint
	settings map[string]string
}

// maxSavepoints bounds how deep one transaction nests.
const maxSavepoints = 10_000

// begin opens a block with the session's default modes.
func (s *Session) begin(implicit bool) {
	s.written = nil
	s.tx = &transaction{
		implicit:  implicit,
		isolation: isolationLevel(s.vars.raw("default_transaction_isolation")),
		readOnly:  s.vars.bool("default_transaction_read_only") || s.vars.bool("default_transaction_use_follower_reads"),
		started:   time.Now(),

		deferrable: s.vars.bool("default_transaction_deferrable"),
		before:     s.vars.clone(),
	}
	s.env.Now = s.tx.started
}

// kvTxn returns the block's transaction, and opens the block or the transaction if need be.
func (s *Session) kvTxn() *txn.Txn {
	if s.tx == nil {
		s.begin(true)
	}
	if s.tx.kv == nil {
		s.tx.kv = s.eng.cfg.DB.NewTxn(txn.Options{Isolation: s.tx.isolation, ReadOnly: s.tx.readOnly, ReadTimestamp: s.tx.asOf,
			Deferrable: s.tx.waits(), Name: "sql"})
		s.oldest.Store(s.tx.kv.ReadTimestamp().WallNanos)
	}
	return s.tx.kv
}

// waits reports whether the snapshot is taken with a wait, after which the block never fails for what
// others write. PostgreSQL promises that to READ ONLY blocks that are DEFERRABLE, and to those at
// REPEATABLE READ, which pg_dump uses. A statement outside a block is run again instead.
func (tx *transaction) waits() bool {
	return tx.readOnly && !tx.implicit && (tx.deferrable || tx.isolation == kv.Snapshot)
}

func isolationLevel(name string) kv.Isolation {
	switch name {
	case "repeatable read":
		return kv.Snapshot
	case "read committed", "read uncommitted":
		return kv.ReadCommitted
	}
	return kv.Serializable
}

func isolationName(i kv.Isolation) string {
	switch i {
	case kv.Snapshot:
		return "repeatable read"
	case kv.ReadCommitted:
		return "read committed"
	}
	return "serializable"
}

// errFailedBlock answers everything but the end of a failed block.
func errFailedBlock() error {
	return pgerror.New(pgerrcode.InFailedSQLTransaction, "current transaction is aborted, commands ignored until end of transaction block")
}

// commit commits the block and leaves it. After an error nothing of it happened, unless the
// error says that the outcome is unknown (SAFETY S12).
func (s *Session) commit(ctx context.Context) error {
	tx := s.tx
	if tx == nil {
		return nil
	}
	var err error
	if tx.kv != nil {
		if err = s.eng.beforeCommit(ctx, s); err == nil {
			err = tx.kv.Commit(ctx)
		}
		if err != nil {
			s.rollback()
			return s.explainCommit(err)
		}
	}
	s.endBlock(true)
	return s.afterCommit(ctx)
}

// rollback leaves the block and undoes it. It can't fail: what it can't tell the ranges,
// they find out by the transaction's silence.
func (s *Session) rollback() {
	tx := s.tx
	if tx == nil {
		return
	}
	if tx.kv != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), rollbackTimeout)
		_ = tx.kv.Rollback(ctx)
		cancel()
	}
	s.endBlock(false)
}

// rollbackTimeout bounds how long a rollback waits for the ranges.
const rollbackTimeout = 5 * time.Second

// endBlock drops the block and puts the settings back that belong to it.
func (s *Session) endBlock(committed bool) {
	tx := s.tx
	s.tx = nil
	s.oldest.Store(0)
	s.closeCursors()
	if !committed {
		s.vars.values = tx.before
	} else {
		for name, v := range tx.local {
			if v == nil {
				delete(s.vars.values, name)
			} else {
				s.vars.values[name] = *v
			}
		}
	}
	s.applySettings()
	s.dropUncommitted(committed)
}

// transactionStmt runs BEGIN, COMMIT, ROLLBACK, SAVEPOINT and their kin.
func (s *Session) transactionStmt(ctx context.Context, whole *parser.Statement, st *ast.TransactionStmt) (tag string, err error) {
	switch st.Kind {
	case ast.TransactionStmtKind_TRANS_STMT_BEGIN, ast.TransactionStmtKind_TRANS_STMT_START:
		return s.beginStmt(ctx, whole, st)
	case ast.TransactionStmtKind_TRANS_STMT_COMMIT:
		return s.commitStmt(ctx, st)
	case ast.TransactionStmtKind_TRANS_STMT_ROLLBACK:
		return s.rollbackStmt(st)
	case ast.TransactionStmtKind_TRANS_STMT_SAVEPOINT:
		return s.savepointStmt(st.SavepointName)
	case ast.TransactionStmtKind_TRANS_STMT_RELEASE:
		return s.releaseStmt(st.SavepointName)
	case ast.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO:
		return s.rollbackToStmt(ctx, st.SavepointName)
	}
	return "", pgerror.New(pgerrcode.FeatureNotSupported, "two-phase commit (PREPARE TRANSACTION) is not supported")
}

func (s *Session) beginStmt(ctx context.Context, whole *parser.Statement, st *ast.TransactionStmt) (string, error) {
	tag := "BEGIN"
	if st.Kind == ast.TransactionStmtKind_TRANS_STMT_START {
		tag = "START TRANSACTION"
	}
	switch {
	case s.tx != nil && s.tx.failed:
		return "", errFailedBlock()
	case s.tx != nil && !s.tx.implicit:
		s.warn(pgerrcode.ActiveSQLTransaction, "there is already a transaction in progress")
		return tag, nil
	case s.tx == nil:
		s.begin(false)
	default: // statements of the same simple query came before: they become part of it
		s.tx.implicit = false
	}
	if err := s.setModes(st.Options, true); err != nil {
		return tag, err
	}
	if whole.AsOf == nil && s.tx.readOnly && s.tx.statements == 0 && s.vars.bool("default_transaction_use_follower_reads") {
		ts, err := s.followerTime(ctx, s.eng.cfg.CatalogDB.Now(), nil)
		if err != nil {
			return "", err
		}
		s.tx.readAt(ts)
	}
	return tag, s.blockAsOf(ctx, whole)
}

func (s *Session) commitStmt(ctx context.Context, st *ast.TransactionStmt) (string, error) {
	if s.tx == nil || s.tx.implicit {
		s.warn(pgerrcode.NoActiveSQLTransaction, "there is no transaction in progress")
		return "COMMIT", nil
	}
	if s.tx.failed {
		s.endExplicit(st.Chain, s.rollback)
		return "ROLLBACK", nil
	}
	var err error
	s.endExplicit(st.Chain, func() { err = s.commit(ctx) })
	return "COMMIT", err
}

func (s *Session) rollbackStmt(st *ast.TransactionStmt) (string, error) {
	if s.tx == nil || s.tx.implicit {
		s.warn(pgerrcode.NoActiveSQLTransaction, "there is no transaction in progress")
		return "ROLLBACK", nil
	}
	s.endExplicit(st.Chain, s.rollback)
	return "ROLLBACK", nil
}

// endExplicit ends the block; AND CHAIN opens the next one with the same modes.
func (s *Session) endExplicit(chain bool, end func()) {
	isolation, readOnly, asOf := s.tx.isolation, s.tx.readOnly, s.tx.asOf
	end()
	if chain {
		s.begin(false)
		s.tx.isolation, s.tx.readOnly, s.tx.asOf = isolation, readOnly, asOf
	}
}

// needBlock refuses savepoints outside an explicit block.
func (s *Session) needBlock(command string) error {
	if s.tx == nil || s.tx.implicit {
		return pgerror.New(pgerrcode.NoActiveSQLTransaction, "%s can only be used in transaction blocks", command)
	}
	return nil
}

func (s *Session) savepointStmt(name string) (string, error) {
	if err := s.needBlock("SAVEPOINT"); err != nil {
		return "", err
	}
	if s.tx.failed {
		return "", errFailedBlock()
	}
	if len(s.tx.savepoints) >= maxSavepoints {
		return "", pgerror.New(pgerrcode.ProgramLimitExceeded, "a transaction can hold %d savepoints", maxSavepoints).
			WithHint("Release those that are no longer needed.")
	}
	t := s.kvTxn()
	s.tx.savepoints = append(s.tx.savepoints, savepoint{name: name, token: t.Savepoint(), settings: s.vars.clone()})
	return "SAVEPOINT", nil
}

// findSavepoint returns the position of the newest savepoint of a name.
func (s *Session) findSavepoint(name string) (int, error) {
	for i := len(s.tx.savepoints) - 1; i >= 0; i-- {
		if s.tx.savepoints[i].name == name {
			return i, nil
		}
	}
	s.tx.failed = true
	return 0, pgerror.New(pgerrcode.InvalidSavepointSpecification, "savepoint %q does not exist", name)
}

func (s *Session) releaseStmt(name string) (string, error) {
	if err := s.needBlock("RELEASE SAVEPOINT"); err != nil {
		return "", err
	}
	if s.tx.failed {
		return "", errFailedBlock()
	}
	i, err := s.findSavepoint(name)
	if err != nil {
		return "", err
	}
	s.tx.savepoints = s.tx.savepoints[:i]
	return "RELEASE", nil
}

func (s *Session) rollbackToStmt(ctx context.Context, name string) (string, error) {
	if err := s.needBlock("ROLLBACK TO SAVEPOINT"); err != nil {
		return "", err
	}
	i, err := s.findSavepoint(name)
	if err != nil {
		return "", err
	}
	sp := s.tx.savepoints[i]
	if err := s.kvTxn().RollbackTo(ctx, sp.token); err != nil {
		return "", err // the whole transaction is lost: it was aborted
	}
	s.tx.savepoints = s.tx.savepoints[:i+1]
	s.tx.failed = false
	s.vars.values = make(map[string]string, len(sp.settings))
	for k, v := range sp.settings {
		s.vars.values[k] = v
	}
	s.applySettings()
	return "ROLLBACK", nil
}

// setModes applies ISOLATION LEVEL, READ ONLY and DEFERRABLE to the open block.
func (s *Session) setModes(options []*ast.Node, fresh bool) error {
	for _, o := range options {
		d := o.GetDefElem()
		if d == nil {
			continue
		}
		switch d.Defname {
		case "transaction_isolation":
			level := strings.ToLower(constText(d.Arg))
			if err := s.setIsolation(level, fresh); err != nil {
				return err
			}
		case "transaction_read_only":
			on := d.Arg.GetAConst().GetIval().GetIval() != 0
			if err := s.setReadOnly(on); err != nil {
				return err
			}
		case "transaction_deferrable":
			s.tx.deferrable = d.Arg.GetAConst().GetIval().GetIval() != 0
		}
	}
	return nil
}

func (s *Session) setIsolation(level string, fresh bool) error {
	level, err := settingIndex["transaction_isolation"].parse(level)
	if err != nil {
		return err
	}
	want := isolationLevel(level)
	if s.tx.kv != nil && !fresh && want != s.tx.isolation {
		return pgerror.New(pgerrcode.ActiveSQLTransaction, "SET TRANSACTION ISOLATION LEVEL must be called before any query")
	}
	s.tx.isolation = want
	return nil
}

func (s *Session) setReadOnly(on bool) error {
	if !on && !s.tx.asOf.IsEmpty() {
		return pgerror.New(pgerrcode.FeatureNotSupported, "a transaction that reads the past (AS OF SYSTEM TIME) can't write")
	}
	if !on && s.tx.readOnly && s.tx.kv != nil {
		return pgerror.New(pgerrcode.ActiveSQLTransaction, "transaction read-write mode must be set before any query")
	}
	s.tx.readOnly = on
	return nil
}

func (s *Session) warn(code, message string) {
	s.notify.Notice(&client.Notice{Severity: "WARNING", Code: code, Message: message})
}
