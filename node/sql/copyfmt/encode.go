package copyfmt

import (
	"bytes"
	"encoding/binary"
)

// AppendHeader appends what comes before the first row.
func AppendHeader(dst []byte, o *Options, columns []string) []byte {
	switch {
	case o.Format == Binary:
		dst = append(dst, binarySignature...)
		return append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	case o.Header:
		fields := make([]Field, len(columns))
		for i, c := range columns {
			fields[i].Data = []byte(c)
		}
		noForce := *o
		noForce.ForceQuote = nil
		return AppendRow(dst, &noForce, fields)
	}
	return dst
}

// AppendTrailer appends what comes after the last row.
func AppendTrailer(dst []byte, o *Options) []byte {
	if o.Format == Binary {
		return append(dst, 0xff, 0xff)
	}
	return dst
}

// AppendRow appends one row.
func AppendRow(dst []byte, o *Options, fields []Field) []byte {
	if o.Format == Binary {
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(fields)))
		for _, f := range fields {
			if f.Null {
				dst = append(dst, 0xff, 0xff, 0xff, 0xff)
				continue
			}
			dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.Data)))
			dst = append(dst, f.Data...)
		}
		return dst
	}
	for i, f := range fields {
		if i > 0 {
			dst = append(dst, o.Delimiter)
		}
		switch {
		case f.Null:
			dst = append(dst, o.Null...)
		case o.Format == CSV:
			dst = appendCSV(dst, o, f.Data, at(o.ForceQuote, i), len(fields) == 1)
		default:
			dst = appendText(dst, o, f.Data)
		}
	}
	return append(dst, '\n')
}

// appendText escapes backslash, the delimiter and control characters.
func appendText(dst []byte, o *Options, b []byte) []byte {
	for _, c := range b {
		switch c {
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\v':
			dst = append(dst, '\\', 'v')
		case '\\', o.Delimiter:
			dst = append(dst, '\\', c)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// appendCSV quotes a field where reading it back would otherwise give something else: the
// NULL string, a delimiter, a quote, a line end, and \. alone on a line.
func appendCSV(dst []byte, o *Options, b []byte, force, alone bool) []byte {
	quote := force || string(b) == o.Null || bytes.IndexByte(b, o.Delimiter) >= 0 || bytes.IndexByte(b, o.Quote) >= 0 ||
		bytes.ContainsAny(b, "\r\n") || (alone && string(b) == `\.`)
	if !quote {
		return append(dst, b...)
	}
	dst = append(dst, o.Quote)
	for _, c := range b {
		if c == o.Quote || c == o.Escape {
			dst = append(dst, o.Escape)
		}
		dst = append(dst, c)
	}
	return append(dst, o.Quote)
}
