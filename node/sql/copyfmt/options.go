// Package copyfmt reads and writes the data formats of COPY: text, CSV and binary, as
// PostgreSQL's documentation of COPY defines them. It splits bytes into fields; what a
// field means is the caller's business.
package copyfmt

import (
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// Format is one of COPY's data formats.
type Format uint8

const (
	Text Format = iota
	CSV
	Binary
)

// Limits of one row.
const (
	MaxRowBytes = 64 << 20
	MaxFields   = 1600
)

// Options are COPY's options that shape the data. Use NewOptions and Validate.
type Options struct {
	Format    Format
	Delimiter byte
	Null      string
	Header    bool
	Quote     byte // CSV
	Escape    byte // CSV
	// ForceQuote, ForceNotNull and ForceNull are by field; nil means none.
	ForceQuote, ForceNotNull, ForceNull []bool
}

// NewOptions returns a format's defaults.
func NewOptions(f Format) Options {
	if f == CSV {
		return Options{Format: CSV, Delimiter: ',', Quote: '"', Escape: '"'}
	}
	return Options{Format: f, Delimiter: '\t', Null: `\N`}
}

// Validate refuses what PostgreSQL refuses.
func (o *Options) Validate() error {
	bad := func(format string, args ...any) error {
		return pgerror.New(pgerrcode.InvalidParameterValue, format, args...)
	}
	if o.Format == Binary {
		if o.Header {
			return pgerror.New(pgerrcode.SyntaxError, "cannot specify HEADER in BINARY mode")
		}
		return nil
	}
	switch {
	case o.Delimiter == '\n' || o.Delimiter == '\r':
		return bad("COPY delimiter cannot be newline or carriage return")
	case strings.ContainsAny(o.Null, "\r\n"):
		return bad("COPY null representation cannot use newline or carriage return")
	case o.Format == Text && strings.IndexByte("\\.abcdefghijklmnopqrstuvwxyz0123456789", o.Delimiter) >= 0:
		return bad("COPY delimiter cannot be %q", string(o.Delimiter))
	case o.Format == CSV && o.Delimiter == o.Quote:
		return bad("COPY delimiter and quote must be different")
	case strings.IndexByte(o.Null, o.Delimiter) >= 0:
		return bad("COPY delimiter must not appear in the NULL specification")
	case o.Format == CSV && strings.IndexByte(o.Null, o.Quote) >= 0:
		return bad("CSV quote character must not appear in the NULL specification")
	}
	return nil
}

// Field is one field of a row. Data is valid until the next row is read.
type Field struct {
	Data []byte
	Null bool
}
