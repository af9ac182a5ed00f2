package pgwire

import (
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// simpleQuery runs a simple-protocol string: its statements share one implicit transaction
// unless they open one themselves.
func (c *conn) simpleQuery(query string) error {
	c.dropUnnamed()
	if strings.Trim(query, " \t\r\n;") == "" {
		c.send(&pgproto3.EmptyQueryResponse{})
		return c.endSimple(nil)
	}
	stmts, err := c.sess.Parse(query)
	if err != nil {
		return c.endSimple(err)
	}
	if len(stmts) == 0 { // comments only
		c.send(&pgproto3.EmptyQueryResponse{})
	}
	for i, st := range stmts {
		if err := c.runSimple(st, i == len(stmts)-1); err != nil {
			return c.endSimple(err)
		}
		if err := c.flushIfLarge(); err != nil {
			return err
		}
	}
	return c.endSimple(nil)
}

// endSimple commits (or rolls back) the implicit transaction, then answers.
func (c *conn) endSimple(err error) error {
	if err == errQuiet {
		return err
	}
	if err != nil {
		c.sendError(ToPG(err))
	}
	if serr := c.guarded(func() error { return c.sess.Sync(c.ctx, err != nil) }); serr != nil && err == nil {
		c.sendError(ToPG(serr))
	}
	c.dropPortals()
	c.ready()
	return c.flush()
}

// runSimple runs one statement with text results and no row limit.
func (c *conn) runSimple(st Statement, last bool) error {
	c.srv.metrics.statements.Inc()
	var tag string
	err := c.guarded(func() error {
		p, err := c.sess.Prepare(c.ctx, st, nil)
		if err != nil {
			return err
		}
		defer p.Close()
		portal, err := p.Bind(c.ctx, nil)
		if err != nil {
			return err
		}
		defer portal.Close()
		if portal.CopyDirection() != NoCopy {
			tag, err = c.runCopy(portal)
			return err
		}
		cols := portal.Columns()
		if cols != nil {
			c.send(rowDescription(cols, nil))
		}
		w, err := newRowWriter(c, cols, nil)
		if err != nil {
			return err
		}
		_, tag, err = portal.Run(c.ctx, w, 0, last)
		return err
	})
	if err != nil {
		return err
	}
	c.complete(tag)
	return nil
}

// runCopy runs a COPY in either direction.
func (c *conn) runCopy(portal Portal) (tag string, err error) {
	if portal.CopyDirection() == CopyFromClient {
		return c.copyIn(portal)
	}
	return c.copyOut(portal)
}
