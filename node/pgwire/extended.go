package pgwire

import (
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// preparedEntry is a prepared statement by name.
type preparedEntry struct {
	prepared Prepared
	empty    bool // the empty query: there is nothing to run
}

// portalEntry is a portal by name.
type portalEntry struct {
	portal  Portal
	formats []int16
	empty   bool
	done    bool   // ran to its end
	tag     string // then: its tag with no rows
}

// parse handles Parse.
func (c *conn) parse(m *pgproto3.Parse) error {
	if m.Name == "" {
		c.dropPrepared("")
	} else if _, exists := c.prepared[m.Name]; exists {
		return pgerror.New(pgerrcode.DuplicatePreparedStatement, "prepared statement %q already exists", m.Name)
	}
	if len(c.prepared) >= c.srv.cfg.MaxPrepared {
		return pgerror.New(pgerrcode.ProgramLimitExceeded, "this session holds %d prepared statements, the limit", len(c.prepared)).
			WithHint("Close those that are no longer used (DEALLOCATE).")
	}
	st, err := c.parseOne(m.Query)
	if err != nil {
		return err
	}
	e := &preparedEntry{empty: st == nil}
	if st != nil {
		oids := make([]types.OID, len(m.ParameterOIDs))
		for i, o := range m.ParameterOIDs {
			oids[i] = types.OID(o)
		}
		err := c.guarded(func() (err error) {
			e.prepared, err = c.sess.Prepare(c.ctx, st, oids)
			return err
		})
		if err != nil {
			return err
		}
	}
	c.prepared[m.Name] = e
	c.send(&pgproto3.ParseComplete{})
	return nil
}

// parseOne parses a string that may hold one statement; nil is the empty query.
func (c *conn) parseOne(query string) (Statement, error) {
	if strings.Trim(query, " \t\r\n;") == "" {
		return nil, nil
	}
	stmts, err := c.sess.Parse(query)
	if err != nil {
		return nil, err
	}
	switch len(stmts) {
	case 0:
		return nil, nil
	case 1:
		return stmts[0], nil
	}
	return nil, pgerror.New(pgerrcode.SyntaxError, "cannot insert multiple commands into a prepared statement")
}

// bind handles Bind.
func (c *conn) bind(m *pgproto3.Bind) error {
	ps, ok := c.prepared[m.PreparedStatement]
	if !ok {
		return noSuchStatement(m.PreparedStatement)
	}
	if m.DestinationPortal == "" {
		c.dropPortal("")
	} else if _, exists := c.portals[m.DestinationPortal]; exists {
		return pgerror.New(pgerrcode.DuplicateCursor, "portal %q already exists", m.DestinationPortal)
	}
	if len(c.portals) >= c.srv.cfg.MaxPortals {
		return pgerror.New(pgerrcode.ProgramLimitExceeded, "this session holds %d portals, the limit", len(c.portals))
	}
	e := &portalEntry{empty: ps.empty}
	if !ps.empty {
		args, err := c.decodeArgs(m, ps.prepared.ParamTypes())
		if err != nil {
			return err
		}
		if e.formats, err = resultFormats(m.ResultFormatCodes, len(ps.prepared.Columns())); err != nil {
			return err
		}
		err = c.guarded(func() (err error) {
			e.portal, err = ps.prepared.Bind(c.ctx, args)
			return err
		})
		if err != nil {
			return err
		}
	}
	c.portals[m.DestinationPortal] = e
	c.send(&pgproto3.BindComplete{})
	return nil
}

// resultFormats expands Bind's format codes to one per column.
func resultFormats(codes []int16, columns int) ([]int16, error) {
	for _, f := range codes {
		if f != pgproto3.TextFormat && f != pgproto3.BinaryFormat {
			return nil, pgerror.New(pgerrcode.ProtocolViolation, "unsupported format code: %d", f)
		}
	}
	out := make([]int16, columns)
	switch {
	case len(codes) == 0 || columns == 0:
	case len(codes) == 1:
		for i := range out {
			out[i] = codes[0]
		}
	case len(codes) == columns:
		copy(out, codes)
	default:
		return nil, pgerror.New(pgerrcode.ProtocolViolation, "bind message has %d result formats but query has %d columns", len(codes), columns)
	}
	return out, nil
}

// decodeArgs turns Bind's parameter values into datums.
func (c *conn) decodeArgs(m *pgproto3.Bind, want []types.OID) ([]types.Datum, error) {
	if len(m.Parameters) != len(want) {
		return nil, pgerror.New(pgerrcode.ProtocolViolation,
			"bind message supplies %d parameters, but prepared statement %q requires %d", len(m.Parameters), m.PreparedStatement, len(want))
	}
	if n := len(m.ParameterFormatCodes); n > 1 && n != len(want) {
		return nil, pgerror.New(pgerrcode.ProtocolViolation, "bind message has %d parameter formats but %d parameters", n, len(want))
	}
	args := make([]types.Datum, len(want))
	for i, raw := range m.Parameters {
		if raw == nil {
			continue
		}
		var format int16
		switch len(m.ParameterFormatCodes) {
		case 0:
		case 1:
			format = m.ParameterFormatCodes[0]
		default:
			format = m.ParameterFormatCodes[i]
		}
		d, err := c.decodeArg(want[i], format, raw)
		if err != nil {
			return nil, err
		}
		args[i] = d
	}
	return args, nil
}

// describe handles Describe.
func (c *conn) describe(m *pgproto3.Describe) error {
	switch m.ObjectType {
	case 'S':
		ps, ok := c.prepared[m.Name]
		if !ok {
			return noSuchStatement(m.Name)
		}
		if ps.empty {
			c.send(&pgproto3.ParameterDescription{})
			c.send(&pgproto3.NoData{})
			return nil
		}
		want := ps.prepared.ParamTypes()
		oids := make([]uint32, len(want))
		for i, o := range want {
			oids[i] = uint32(o)
		}
		c.send(&pgproto3.ParameterDescription{ParameterOIDs: oids})
		c.sendColumns(ps.prepared.Columns(), nil)
		return nil
	case 'P':
		p, ok := c.portals[m.Name]
		if !ok {
			return noSuchPortal(m.Name)
		}
		if p.empty || p.portal.CopyDirection() != NoCopy {
			c.send(&pgproto3.NoData{})
			return nil
		}
		c.sendColumns(p.portal.Columns(), p.formats)
		return nil
	}
	return protocolViolation("invalid DESCRIBE message subtype %d", m.ObjectType)
}

func (c *conn) sendColumns(cols []Column, formats []int16) {
	if cols == nil {
		c.send(&pgproto3.NoData{})
		return
	}
	c.send(rowDescription(cols, formats))
}

// deferredExecute is an Execute whose run waits for the next message: when that is Sync, the
// implicit transaction commits as part of the statement and can be retried with it. Nothing
// is lost by waiting, since output leaves at Sync or Flush only.
type deferredExecute struct {
	entry   *portalEntry
	maxRows int64
}

// execute handles Execute.
func (c *conn) execute(m *pgproto3.Execute) error {
	e, ok := c.portals[m.Portal]
	switch {
	case !ok:
		return noSuchPortal(m.Portal)
	case e.empty:
		c.send(&pgproto3.EmptyQueryResponse{})
		return nil
	case e.done:
		if e.portal.Columns() == nil {
			return pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "portal %q cannot be run", m.Portal)
		}
		c.complete(e.tag)
		return nil
	}
	d := &deferredExecute{entry: e, maxRows: int64(m.MaxRows)}
	if e.portal.CopyDirection() != NoCopy {
		return c.runExecute(d, false) // the client waits for our answer before it goes on
	}
	c.deferred = d
	return nil
}

// runExecute runs an Execute. last says that Sync follows.
func (c *conn) runExecute(d *deferredExecute, last bool) error {
	c.srv.metrics.statements.Inc()
	e := d.entry
	var suspended bool
	var tag string
	err := c.guarded(func() (err error) {
		if e.portal.CopyDirection() != NoCopy {
			tag, err = c.runCopy(e.portal)
			return err
		}
		w, err := newRowWriter(c, e.portal.Columns(), e.formats)
		if err != nil {
			return err
		}
		suspended, tag, err = e.portal.Run(c.ctx, w, d.maxRows, last)
		return err
	})
	if err != nil {
		return err
	}
	if suspended {
		c.send(&pgproto3.PortalSuspended{})
		return nil
	}
	e.done, e.tag = true, emptyTag(tag)
	c.complete(tag)
	return nil
}

// emptyTag is the tag of running a finished portal once more: SELECT 0.
func emptyTag(tag string) string {
	word, _, found := strings.Cut(tag, " ")
	if !found {
		return tag
	}
	return word + " 0"
}

// closeObject handles Close. Closing what does not exist is not an error.
func (c *conn) closeObject(m *pgproto3.Close) error {
	switch m.ObjectType {
	case 'S':
		c.dropPrepared(m.Name)
	case 'P':
		c.dropPortal(m.Name)
	default:
		return protocolViolation("invalid CLOSE message subtype %d", m.ObjectType)
	}
	c.send(&pgproto3.CloseComplete{})
	return nil
}

func (c *conn) dropPrepared(name string) {
	if ps, ok := c.prepared[name]; ok {
		if ps.prepared != nil {
			ps.prepared.Close()
		}
		delete(c.prepared, name)
	}
}

func (c *conn) dropPortal(name string) {
	if p, ok := c.portals[name]; ok {
		if p.portal != nil {
			p.portal.Close()
		}
		delete(c.portals, name)
	}
}

// dropPortals ends all portals once no transaction holds them open.
func (c *conn) dropPortals() {
	if c.sess.State().Txn == InTxn {
		return
	}
	for name := range c.portals {
		c.dropPortal(name)
	}
}

// dropUnnamed ends the unnamed statement and portal, as a simple query does.
func (c *conn) dropUnnamed() {
	c.dropPrepared("")
	c.dropPortal("")
}

func noSuchStatement(name string) error {
	if name == "" {
		return pgerror.New(pgerrcode.InvalidSQLStatementName, "unnamed prepared statement does not exist")
	}
	return pgerror.New(pgerrcode.InvalidSQLStatementName, "prepared statement %q does not exist", name)
}

func noSuchPortal(name string) error {
	return pgerror.New(pgerrcode.InvalidCursorName, "portal %q does not exist", name)
}
