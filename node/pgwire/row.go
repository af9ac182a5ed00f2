package pgwire

import (
	"encoding/binary"
	"math"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// maxRowBytes bounds one DataRow: PostgreSQL's own limit of a field.
const maxRowBytes = 1 << 30

// rowDescription describes result columns; formats is nil for all text.
func rowDescription(cols []Column, formats []int16) *pgproto3.RowDescription {
	d := &pgproto3.RowDescription{Fields: make([]pgproto3.FieldDescription, len(cols))}
	for i, col := range cols {
		d.Fields[i] = pgproto3.FieldDescription{
			Name: []byte(col.Name), TableOID: col.TableOID, TableAttributeNumber: uint16(col.AttNum),
			DataTypeOID: uint32(col.Type), DataTypeSize: col.TypeLen, TypeModifier: col.TypeMod,
		}
		if i < len(formats) {
			d.Fields[i].Format = formats[i]
		}
	}
	return d
}

// rowWriter encodes rows straight into the connection's buffer: no slice per value.
type rowWriter struct {
	c       *conn
	cols    []Column
	formats []int16
	env     *types.Env
	mark    int    // where the portal's rows start in the buffer
	flushes uint64 // c.flushes at that moment
}

func newRowWriter(c *conn, cols []Column, formats []int16) (*rowWriter, error) {
	if len(formats) != 0 && len(formats) != len(cols) {
		return nil, pgerror.New(pgerrcode.ProtocolViolation, "%d result formats for %d columns", len(formats), len(cols))
	}
	return &rowWriter{c: c, cols: cols, formats: formats, env: c.sess.State().Env, mark: len(c.out), flushes: c.flushes}, nil
}

// Retract implements RowWriter.
func (w *rowWriter) Retract() bool {
	if w.c.flushes != w.flushes {
		return false
	}
	w.c.out = w.c.out[:w.mark]
	w.c.mu.Lock()
	w.c.notices = nil // the statement raises them again
	w.c.mu.Unlock()
	return true
}

// WriteRow implements RowWriter.
func (w *rowWriter) WriteRow(row []types.Datum) error {
	w.c.drainNotices()
	start := len(w.c.out)
	out := append(w.c.out, 'D', 0, 0, 0, 0)
	out = binary.BigEndian.AppendUint16(out, uint16(len(row)))
	for i, d := range row {
		if d.IsNull() {
			out = append(out, 0xff, 0xff, 0xff, 0xff)
			continue
		}
		at := len(out)
		out = append(out, 0, 0, 0, 0)
		var err error
		if len(w.formats) > 0 && w.formats[i] == pgproto3.BinaryFormat {
			out, err = types.AppendBinary(out, w.cols[i].Type, d, w.env)
		} else {
			out = types.AppendText(out, w.cols[i].Type, d, w.env)
		}
		if err != nil {
			w.c.out = w.c.out[:start]
			return err
		}
		binary.BigEndian.PutUint32(out[at:], uint32(len(out)-at-4))
	}
	if size := len(out) - start; size > maxRowBytes || size > math.MaxInt32 {
		w.c.out = w.c.out[:start]
		return pgerror.New(pgerrcode.ProgramLimitExceeded, "a result row has %d bytes, the limit is %d", size, maxRowBytes)
	}
	binary.BigEndian.PutUint32(out[start+1:], uint32(len(out)-start-1))
	w.c.out = out
	return w.c.flushIfLarge()
}

// decodeArg reads one parameter value.
func (c *conn) decodeArg(oid types.OID, format int16, raw []byte) (types.Datum, error) {
	env := c.sess.State().Env
	switch format {
	case pgproto3.TextFormat:
		return types.ParseText(oid, -1, string(raw), env)
	case pgproto3.BinaryFormat:
		return types.ParseBinary(oid, -1, raw, env)
	}
	return types.Null, pgerror.New(pgerrcode.ProtocolViolation, "unsupported format code: %d", format)
}
