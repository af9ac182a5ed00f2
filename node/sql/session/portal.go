package session

import (
	"context"
	"errors"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/atolldb/atoll/node/txn"
)

const serializable = kv.Serializable

// prepared implements client.Prepared: a command, or a plan.
type prepared struct {
	s          *Session
	st         *parser.Statement
	paramTypes []types.OID // as the client fixed them; nil: there can be none
	cmd        *command
	planned
}

// ParamTypes implements client.Prepared.
func (p *prepared) ParamTypes() []types.OID {
	if p.cmd != nil {
		return nil
	}
	return p.plan.ParamTypes
}

// Columns implements client.Prepared.
func (p *prepared) Columns() []client.Column {
	if p.cmd != nil {
		return p.cmd.columns
	}
	return p.columns
}

// Close implements client.Prepared.
func (p *prepared) Close() {}

// Bind implements client.Prepared.
func (p *prepared) Bind(ctx context.Context, args []types.Datum) (client.Portal, error) {
	s := p.s
	if s.tx != nil && s.tx.failed && (p.cmd == nil || !p.cmd.block || !endsBlock(p.st)) {
		return nil, errFailedBlock()
	}
	pt := &portal{p: p, args: args}
	if p.cmd != nil && p.cmd.copy != nil {
		err := s.interruptible(ctx, func(ctx context.Context) (err error) {
			pt.copy, err = s.bindCopy(ctx, p.st, p.cmd.copy.node)
			return err
		})
		if err != nil {
			s.failBlock()
			return nil, err
		}
	}
	return pt, nil
}

// portal implements client.Portal.
type portal struct {
	p    *prepared
	args []types.Datum
	copy *copyStatement
	run  *execution   // a plan that is suspended
	tx   *transaction // the block that run belongs to
}

// Columns implements client.Portal.
func (pt *portal) Columns() []client.Column {
	if pt.copy != nil {
		return pt.copy.wireColumns()
	}
	return pt.p.Columns()
}

// CopyDirection implements client.Portal.
func (pt *portal) CopyDirection() client.CopyDirection {
	switch {
	case pt.copy == nil:
		return client.NoCopy
	case pt.copy.node.IsFrom:
		return client.CopyFromClient
	}
	return client.CopyToClient
}

// Close implements client.Portal.
func (pt *portal) Close() {
	if pt.run != nil {
		pt.run.close()
		pt.run = nil
	}
}

// CopyIn implements client.Portal. A COPY can't be run again: the client's data is gone.
func (pt *portal) CopyIn(ctx context.Context, data client.CopyReader) (tag string, err error) {
	err = pt.once(ctx, func(ctx context.Context) (err error) {
		if pt.p.s.tx.readOnly {
			return readOnlyViolation("COPY FROM")
		}
		tag, err = pt.p.s.copyFrom(ctx, pt.copy, data)
		return err
	})
	return tag, err
}

// CopyOut implements client.Portal.
func (pt *portal) CopyOut(ctx context.Context, out client.CopyWriter) (tag string, err error) {
	err = pt.once(ctx, func(ctx context.Context) (err error) {
		tag, err = pt.p.s.copyTo(ctx, pt.copy, out)
		return err
	})
	return tag, err
}

// once runs f in the block as one statement, without a retry.
func (pt *portal) once(ctx context.Context, f func(context.Context) error) error {
	s := pt.p.s
	if s.tx != nil && s.tx.failed {
		return errFailedBlock()
	}
	err := s.interruptible(ctx, func(ctx context.Context) error {
		if err := s.enterPast(ctx, pt.p.st); err != nil {
			return err
		}
		s.startStatement()
		return f(ctx)
	})
	if err != nil {
		s.failBlock()
		return s.explain(err)
	}
	return nil
}

// startStatement opens the block if there is none, and the next statement in it.
func (s *Session) startStatement() {
	t := s.kvTxn()
	s.tx.statements++
	t.Step()
}

// Run implements client.Portal.
func (pt *portal) Run(ctx context.Context, out client.RowWriter, maxRows int64, last bool) (suspended bool, tag string, err error) {
	s := pt.p.s
	if cmd := pt.p.cmd; cmd != nil && !cmd.catalog {
		err = pt.runCommand(ctx, out, &tag)
		return false, tag, err
	}
	if s.tx != nil && s.tx.failed {
		return false, "", errFailedBlock()
	}
	for attempt := 0; ; attempt++ {
		err = s.interruptible(ctx, func(ctx context.Context) (err error) {
			suspended, tag, err = pt.step(ctx, out, maxRows, last)
			// What reads the past is over with its statement: the next one may read as of now.
			if err == nil && (last || s.tx != nil && s.tx.past != nil) && !suspended && s.tx != nil && s.tx.implicit {
				return s.commit(ctx)
			}
			return err
		})
		if err == nil {
			return suspended, tag, nil
		}
		if attempt >= s.vars.integer("atoll.max_retries") || !retryable(err) || !s.restart(ctx, pt, out) {
			pt.Close()
			s.failBlock()
			return false, "", s.explain(err)
		}
		s.eng.metrics.retries.Inc()
	}
}

// runCommand runs a command that is not retried.
func (pt *portal) runCommand(ctx context.Context, out client.RowWriter, tag *string) error {
	s, cmd := pt.p.s, pt.p.cmd
	if s.tx != nil && s.tx.failed && !cmd.block {
		return errFailedBlock()
	}
	err := s.interruptible(ctx, func(ctx context.Context) (err error) {
		*tag, err = cmd.run(ctx, out)
		return err
	})
	if err != nil {
		s.failBlock()
		return s.explain(err)
	}
	return nil
}

// step runs the plan, or the rest of it. last says that an implicit transaction commits next.
func (pt *portal) step(ctx context.Context, out client.RowWriter, maxRows int64, last bool) (suspended bool, tag string, err error) {
	s := pt.p.s
	if pt.run != nil && pt.tx != s.tx {
		return false, "", pgerror.New(pgerrcode.InvalidCursorName, "the portal's transaction has ended")
	}
	if pt.run == nil {
		if cmd := pt.p.cmd; cmd != nil && cmd.alone != "" && s.tx != nil && !s.tx.implicit {
			return false, "", pgerror.New(pgerrcode.ActiveSQLTransaction, "%s cannot run inside a transaction block", cmd.alone)
		}
		if err := s.enterPast(ctx, pt.p.st); err != nil {
			return false, "", err
		}
		s.startStatement()
		if cmd := pt.p.cmd; cmd != nil {
			tag, err = cmd.run(ctx, out)
			return false, tag, err
		}
		if pt.run, err = s.open(ctx, pt.p, pt.args, last && maxRows == 0 && s.tx.implicit); err != nil {
			return false, "", err
		}
		pt.tx = s.tx
	}
	_, more, err := pt.run.send(ctx, out, maxRows)
	if err != nil {
		return false, "", err
	}
	if more {
		return true, "", nil
	}
	tag = pt.run.tag()
	pt.Close()
	return false, tag, nil
}

// retryable reports whether running the transaction again may succeed.
func retryable(err error) bool { return txn.IsRetryable(err) || catalog.IsRestart(err) }

// restart prepares another run of the statement after a conflict, if nobody can notice
// (SAFETY S14): no row has left, and the statement is the first of its block. In READ
// COMMITTED a later one may be run again as well.
func (s *Session) restart(ctx context.Context, pt *portal, out client.RowWriter) bool {
	pt.Close()
	if !out.Retract() {
		return false
	}
	if s.tx == nil { // an implicit block whose commit failed
		return true
	}
	if s.tx.statements > 1 {
		return s.tx.isolation == kv.ReadCommitted && s.tx.kv.CanRetryStatement() && s.tx.kv.RestartStatement(ctx) == nil
	}
	if len(s.tx.savepoints) > 0 {
		return false
	}
	if s.tx.implicit {
		s.rollback()
		return true
	}
	s.renewTxn()
	return true
}

// renewTxn replaces the block's transaction by a fresh one.
func (s *Session) renewTxn() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), rollbackTimeout)
	defer cancel()
	_ = s.tx.kv.Rollback(ctx)
	s.dropView(ctx, false)
	s.tx.kv, s.tx.statements = nil, 0
}

// explain makes an error that a client can act on: a key that exists already gets its
// constraint's name, wherever the violation showed, and a table its schema.
func (s *Session) explain(err error) error {
	var exists *kv.ConditionFailedError
	if errors.As(err, &exists) {
		err = s.eng.duplicateKey(s, exists)
	}
	var pe *pgerror.Error
	if errors.As(err, &pe) && pe.Table != "" && pe.Schema == "" {
		for _, t := range s.written {
			if t.Name == pe.Table {
				named := *pe
				named.Schema = s.eng.schemaName(s.ctx, t.Schema)
				return &named
			}
		}
	}
	if catalog.IsRestart(err) {
		return pgerror.Wrap(err, pgerrcode.SerializationFailure, "could not serialize access: %s", err.Error()).
			WithHint("The transaction might succeed if retried.")
	}
	return err
}

// schemaName returns a schema's name for an error's fields; empty if it can't be had.
func (e *Engine) schemaName(ctx context.Context, id catalog.ID) string {
	if id == catalog.PublicSchemaID {
		return catalog.PublicSchema
	}
	t := e.cfg.DB.NewTxn(txn.Options{ReadOnly: true, Name: "schema name"})
	defer func() { _ = t.Rollback(ctx) }()
	view := e.cfg.Catalog.NewCollection(catalogTxn{t})
	defer view.Finish(ctx, false)
	name, err := view.SchemaName(ctx, id)
	if err != nil {
		return ""
	}
	return name
}

func (s *Session) explainCommit(err error) error {
	if retryable(err) {
		return err // it may be run again; explained once that is given up
	}
	return s.explain(err)
}
