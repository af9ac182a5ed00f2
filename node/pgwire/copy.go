package pgwire

import (
	"io"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// copyIn asks the client for data and feeds it to the portal. When that fails, the client is
// told at once; what it has sent meanwhile is ignored by handle, as in PostgreSQL.
func (c *conn) copyIn(portal Portal) (string, error) {
	cols := len(portal.Columns())
	c.send(&pgproto3.CopyInResponse{OverallFormat: 0, ColumnFormatCodes: make([]uint16, cols)})
	if err := c.flush(); err != nil {
		return "", err
	}
	r := &copyReader{c: c}
	tag, err := portal.CopyIn(c.ctx, r)
	return tag, err
}

// copyReader reads CopyData messages.
type copyReader struct {
	c    *conn
	done bool
	err  error
}

// ReadCopyData implements CopyReader. The bytes are valid until the next call.
func (r *copyReader) ReadCopyData() ([]byte, error) {
	if r.done {
		return nil, r.err
	}
	for {
		msg, err := r.c.backend.Receive()
		if err != nil {
			return nil, r.end(errQuiet)
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			return m.Data, nil
		case *pgproto3.CopyDone:
			return nil, r.end(io.EOF)
		case *pgproto3.CopyFail:
			return nil, r.end(pgerror.New(pgerrcode.QueryCanceled, "COPY from stdin failed: %s", m.Message))
		case *pgproto3.Flush, *pgproto3.Sync:
			// ignored during COPY, as the protocol says
		case *pgproto3.Terminate:
			return nil, r.end(errQuiet)
		default:
			return nil, r.end(protocolViolation("unexpected message %T during COPY from stdin", msg))
		}
	}
}

func (r *copyReader) end(err error) error {
	r.done, r.err = true, err
	return err
}

// copyOut runs a COPY TO STDOUT.
func (c *conn) copyOut(portal Portal) (string, error) {
	w := &copyWriter{c: c}
	tag, err := portal.CopyOut(c.ctx, w)
	if err == nil && w.begun {
		c.send(&pgproto3.CopyDone{})
	}
	return tag, err
}

type copyWriter struct {
	c     *conn
	begun bool
}

// Begin implements CopyWriter.
func (w *copyWriter) Begin(columns int, binary bool) error {
	w.begun = true
	m := &pgproto3.CopyOutResponse{ColumnFormatCodes: make([]uint16, columns)}
	if binary {
		m.OverallFormat = 1
		for i := range m.ColumnFormatCodes {
			m.ColumnFormatCodes[i] = 1
		}
	}
	w.c.send(m)
	return nil
}

// WriteCopyData implements CopyWriter.
func (w *copyWriter) WriteCopyData(b []byte) error {
	w.c.send(&pgproto3.CopyData{Data: b})
	return w.c.flushIfLarge()
}
