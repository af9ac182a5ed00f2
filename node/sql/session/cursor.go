package session

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// cursor is a cursor of DECLARE. It reads forward only.
type cursor struct {
	p    *prepared
	run  *execution
	done bool
}

// maxCursors bounds how many a session may hold.
const maxCursors = 1000

// Bits of DeclareCursorStmt.Options (PostgreSQL's parsenodes.h).
const (
	cursorScroll = 1 << 1
	cursorHold   = 1 << 5
)

func (s *Session) declare(ctx context.Context, st *parser.Statement, n *ast.DeclareCursorStmt) (string, error) {
	if n.Options&cursorHold != 0 {
		return "", pgerror.New(pgerrcode.FeatureNotSupported, "cursors WITH HOLD are not supported")
	}
	if n.Options&cursorScroll != 0 {
		return "", pgerror.New(pgerrcode.FeatureNotSupported, "SCROLL cursors are not supported").WithHint("Cursors read forward.")
	}
	if err := s.needBlock("DECLARE CURSOR"); err != nil {
		return "", err
	}
	if _, exists := s.cursors[n.Portalname]; exists {
		return "", pgerror.New(pgerrcode.DuplicateCursor, "cursor %q already exists", n.Portalname)
	}
	if len(s.cursors) >= maxCursors {
		return "", pgerror.New(pgerrcode.ProgramLimitExceeded, "this session holds %d cursors, the limit", maxCursors)
	}
	p, err := s.prepare(ctx, st.WithNode(n.Query), nil)
	if err != nil {
		return "", err
	}
	if p.cmd != nil || p.Columns() == nil {
		return "", pgerror.New(pgerrcode.InvalidCursorDefinition, "DECLARE CURSOR needs a SELECT or VALUES")
	}
	// The cursor outlives this statement; the session's context bounds it.
	ex, err := s.open(s.ctx, p, nil, false)
	if err != nil {
		return "", err
	}
	s.cursors[n.Portalname] = &cursor{p: p, run: ex}
	return "DECLARE CURSOR", nil
}

// fetchCommand runs FETCH and MOVE.
func (s *Session) fetchCommand(n *ast.FetchStmt) *command {
	c := &command{}
	if cur, ok := s.cursors[n.Portalname]; ok && !n.Ismove {
		c.columns = cur.p.Columns()
	}
	c.run = func(ctx context.Context, out client.RowWriter) (string, error) {
		cur, ok := s.cursors[n.Portalname]
		if !ok {
			return "", pgerror.New(pgerrcode.InvalidCursorName, "cursor %q does not exist", n.Portalname)
		}
		limit := n.HowMany
		if n.Direction != ast.FetchDirection_FETCH_FORWARD || limit < 0 {
			return "", pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "cursor can only scan forward").
				WithHint("Declare it with SCROLL option to enable backward scan.")
		}
		if limit == math.MaxInt64 {
			limit = 0
		} else if limit == 0 {
			return tagOf(n, 0), nil
		}
		sink := out
		if n.Ismove {
			sink = discardRows{}
		}
		count, err := cur.fetch(ctx, sink, limit)
		return tagOf(n, count), err
	}
	return c
}

func tagOf(n *ast.FetchStmt, count int64) string {
	if n.Ismove {
		return fmt.Sprintf("MOVE %d", count)
	}
	return fmt.Sprintf("FETCH %d", count)
}

// fetch sends at most limit rows (0: all).
func (c *cursor) fetch(ctx context.Context, out client.RowWriter, limit int64) (int64, error) {
	if c.done {
		return 0, nil
	}
	n, more, err := c.run.send(ctx, out, limit)
	c.done = !more
	return n, err
}

func (s *Session) closeCursorStmt(n *ast.ClosePortalStmt) (string, error) {
	if n.Portalname == "" {
		s.closeCursors()
		return "CLOSE CURSOR ALL", nil
	}
	cur, ok := s.cursors[n.Portalname]
	if !ok {
		return "", pgerror.New(pgerrcode.InvalidCursorName, "cursor %q does not exist", n.Portalname)
	}
	cur.run.close()
	delete(s.cursors, n.Portalname)
	return "CLOSE CURSOR", nil
}

func (s *Session) closeCursors() {
	for name, c := range s.cursors {
		c.run.close()
		delete(s.cursors, name)
	}
}

// discardRows drops rows: MOVE counts them only.
type discardRows struct{}

func (discardRows) WriteRow([]types.Datum) error { return nil }
func (discardRows) Retract() bool                { return true }
