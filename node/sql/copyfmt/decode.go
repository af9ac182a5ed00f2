package copyfmt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// Decoder splits the payloads of COPY FROM STDIN into rows.
type Decoder struct {
	opts Options
	next func() ([]byte, error) // yields payloads, then io.EOF

	buf    []byte // not consumed yet
	pos    int
	eof    bool
	begun  bool
	ended  bool // saw \. or the binary trailer
	line   int64
	fields []Field
}

// NewDecoder returns a decoder. next's slices need only live until its next call.
func NewDecoder(opts Options, next func() ([]byte, error)) *Decoder {
	return &Decoder{opts: opts, next: next}
}

// Line is the number of the line that was read last, from 1 (rows in binary format).
func (d *Decoder) Line() int64 { return d.line }

// Next returns the next row, or io.EOF. The row is valid until the next call.
func (d *Decoder) Next() ([]Field, error) {
	if d.opts.Format == Binary {
		return d.nextBinary()
	}
	if !d.begun {
		d.begun = true
		if d.opts.Header {
			if _, err := d.readLine(); err != nil {
				return nil, err
			}
		}
	}
	if d.ended {
		return nil, io.EOF
	}
	line, err := d.readLine()
	if err != nil {
		return nil, err
	}
	if string(line) == `\.` {
		d.ended = true
		return nil, io.EOF
	}
	d.fields = d.fields[:0]
	if d.opts.Format == CSV {
		err = d.splitCSV(line)
	} else {
		err = d.splitText(line)
	}
	return d.fields, err
}

func (d *Decoder) fault(format string, args ...any) error {
	return pgerror.New(pgerrcode.BadCopyFileFormat, format, args...)
}

// fill reads one more payload. REQUIRES: what lies before d.pos is not needed any more.
func (d *Decoder) fill() error {
	if d.eof {
		return io.EOF
	}
	b, err := d.next()
	if errors.Is(err, io.EOF) {
		d.eof = true
		return io.EOF
	}
	if err != nil {
		return err
	}
	if d.pos > 0 {
		d.buf = d.buf[:copy(d.buf, d.buf[d.pos:])]
		d.pos = 0
	}
	if len(d.buf)+len(b) > MaxRowBytes {
		return pgerror.New(pgerrcode.ProgramLimitExceeded, "a COPY row is larger than the limit of %d bytes", MaxRowBytes)
	}
	d.buf = append(d.buf, b...)
	return nil
}

// readLine returns a line without its end. In CSV, newlines inside quotes belong to the line.
func (d *Decoder) readLine() ([]byte, error) {
	scanned, quoted := 0, false
	for {
		rest := d.buf[d.pos:]
		if end := d.lineEnd(rest, &scanned, &quoted); end >= 0 {
			d.line++
			d.pos += end + 1
			return trimCR(rest[:end]), nil
		}
		err := d.fill()
		if errors.Is(err, io.EOF) {
			rest = d.buf[d.pos:]
			if len(rest) == 0 {
				return nil, io.EOF
			}
			if quoted {
				return nil, d.fault("unterminated CSV quoted field")
			}
			d.line++
			d.pos = len(d.buf)
			return trimCR(rest), nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// lineEnd returns where the line's newline is, or -1; scanned and quoted carry the state
// over calls, so that a long line is scanned once.
func (d *Decoder) lineEnd(b []byte, scanned *int, quoted *bool) int {
	if d.opts.Format == Text {
		i := bytes.IndexByte(b[*scanned:], '\n')
		if i < 0 {
			*scanned = len(b)
			return -1
		}
		return *scanned + i
	}
	for i := *scanned; i < len(b); i++ {
		switch c := b[i]; {
		case *quoted && c == d.opts.Escape && d.opts.Escape != d.opts.Quote:
			if i+1 == len(b) { // the escaped byte has not come yet
				*scanned = i
				return -1
			}
			i++
		case c == d.opts.Quote:
			*quoted = !*quoted
		case c == '\n' && !*quoted:
			return i
		}
	}
	*scanned = len(b)
	return -1
}

func trimCR(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\r' {
		return b[:n-1]
	}
	return b
}

// add appends a field to the row.
func (d *Decoder) add(f Field) error {
	if len(d.fields) == MaxFields {
		return d.fault("a row has more than %d fields", MaxFields)
	}
	d.fields = append(d.fields, f)
	return nil
}

// splitText splits a line of the text format and takes its escapes back.
func (d *Decoder) splitText(line []byte) error {
	for {
		end := d.textFieldEnd(line)
		raw := line[:end]
		f := Field{Data: raw}
		if string(raw) == d.opts.Null {
			f = Field{Null: true}
		} else if bytes.IndexByte(raw, '\\') >= 0 {
			f.Data = unescapeText(raw)
		}
		if err := d.add(f); err != nil {
			return err
		}
		if end == len(line) {
			return nil
		}
		line = line[end+1:]
	}
}

func (d *Decoder) textFieldEnd(b []byte) int {
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case d.opts.Delimiter:
			return i
		case '\\':
			i++
		}
	}
	return len(b)
}

// unescapeText takes \b \f \n \r \t \v, \ooo, \xhh and \c back.
func unescapeText(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' || i+1 == len(raw) {
			out = append(out, raw[i])
			continue
		}
		i++
		switch c := raw[i]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'v':
			out = append(out, '\v')
		case 'x':
			v, n := digits(raw[i+1:], 2, 16)
			if n == 0 {
				out = append(out, 'x')
			} else {
				out = append(out, byte(v))
				i += n
			}
		case '0', '1', '2', '3', '4', '5', '6', '7':
			v, n := digits(raw[i:], 3, 8)
			out = append(out, byte(v))
			i += n - 1
		default:
			out = append(out, c)
		}
	}
	return out
}

// digits reads at most limit digits of a base.
func digits(b []byte, limit, base int) (value, n int) {
	for n < limit && n < len(b) {
		v := hexValue(b[n])
		if v < 0 || v >= base {
			break
		}
		value = value*base + v
		n++
	}
	return value, n
}

func hexValue(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// splitCSV splits a CSV line. A quoted field is never NULL unless ForceNull says so.
func (d *Decoder) splitCSV(line []byte) error {
	for i, more := 0, true; more; i++ {
		data, quoted, rest, found := d.csvField(line)
		line, more = rest, found
		f := Field{Data: data}
		if string(data) == d.opts.Null && (!quoted || at(d.opts.ForceNull, i)) && !at(d.opts.ForceNotNull, i) {
			f = Field{Null: true}
		}
		if err := d.add(f); err != nil {
			return err
		}
	}
	return nil
}

func at(flags []bool, i int) bool { return i < len(flags) && flags[i] }

// csvField reads one field and reports whether a delimiter follows.
func (d *Decoder) csvField(line []byte) (data []byte, quoted bool, rest []byte, more bool) {
	if i := bytes.IndexByte(line, d.opts.Delimiter); bytes.IndexByte(line, d.opts.Quote) < 0 {
		if i < 0 {
			return line, false, nil, false
		}
		return line[:i], false, line[i+1:], true
	}
	out := make([]byte, 0, len(line))
	inQuote := false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case inQuote && c == d.opts.Escape && i+1 < len(line) && (line[i+1] == d.opts.Quote || line[i+1] == d.opts.Escape):
			i++
			out = append(out, line[i])
		case c == d.opts.Quote:
			inQuote, quoted = !inQuote, true
		case c == d.opts.Delimiter && !inQuote:
			return out, quoted, line[i+1:], true
		default:
			out = append(out, c)
		}
	}
	return out, quoted, nil, false
}

// binarySignature starts every binary COPY.
var binarySignature = []byte("PGCOPY\n\xff\r\n\x00")

func (d *Decoder) nextBinary() ([]Field, error) {
	if d.ended {
		return nil, io.EOF
	}
	if !d.begun {
		d.begun = true
		if err := d.binaryHeader(); err != nil {
			return nil, err
		}
	}
	b, err := d.need(2)
	if errors.Is(err, io.EOF) && d.pos == len(d.buf) { // CopyDone without a trailer, as pgx sends it
		d.ended = true
		return nil, io.EOF
	}
	if err != nil {
		return nil, d.cut(err)
	}
	d.line++
	count := int16(binary.BigEndian.Uint16(b))
	if count == -1 {
		d.ended = true
		return nil, io.EOF
	}
	if count < 0 || int(count) > MaxFields {
		return nil, d.fault("row field count is %d, the limit is %d", count, MaxFields)
	}
	d.fields = d.fields[:0]
	for range count {
		if err := d.binaryField(); err != nil {
			return nil, err
		}
	}
	return d.fields, nil
}

func (d *Decoder) binaryField() error {
	b, err := d.need(4)
	if err != nil {
		return d.cut(err)
	}
	n := int32(binary.BigEndian.Uint32(b))
	switch {
	case n == -1:
		return d.add(Field{Null: true})
	case n < 0 || n > MaxRowBytes:
		return d.fault("invalid field size %d", n)
	}
	b, err = d.need(int(n))
	if err != nil {
		return d.cut(err)
	}
	return d.add(Field{Data: append([]byte(nil), b...)})
}

// cut is the error of a row that ends in its middle; what the client said goes first.
func (d *Decoder) cut(err error) error {
	if errors.Is(err, io.EOF) {
		return d.fault("unexpected EOF in COPY data")
	}
	return err
}

func (d *Decoder) binaryHeader() error {
	b, err := d.need(len(binarySignature) + 8)
	if err != nil || !bytes.Equal(b[:len(binarySignature)], binarySignature) {
		return d.fault("COPY file signature not recognized")
	}
	flags := binary.BigEndian.Uint32(b[len(binarySignature):])
	extra := binary.BigEndian.Uint32(b[len(binarySignature)+4:])
	if flags&0xffff0000 != 0 {
		return d.fault("unrecognized critical flags in COPY file header")
	}
	if extra > MaxRowBytes {
		return d.fault("invalid COPY file header (wrong length)")
	}
	if _, err := d.need(int(extra)); err != nil {
		return d.fault("invalid COPY file header (wrong length)")
	}
	return nil
}

// need returns the next n bytes, valid until the next call.
func (d *Decoder) need(n int) ([]byte, error) {
	for len(d.buf)-d.pos < n {
		if err := d.fill(); err != nil {
			return nil, err
		}
	}
	b := d.buf[d.pos : d.pos+n]
	d.pos += n
	return b, nil
}
