// Package wire writes and reads what travels between nodes and lies on disks: numbered fields in protobuf
// wire format, without a schema. A field that is zero or empty is left out; one that a reader does not
// know is skipped, so that a later version may add some.
package wire

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Number numbers a field; from 1.
type Number = protowire.Number

// AppendUint appends a number, unless it is 0.
func AppendUint(b []byte, n Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

// AppendString appends a text, unless it is empty.
func AppendString(b []byte, n Number, v string) []byte {
	if v == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v)
}

// AppendBytes appends bytes, or a record of its own, also if there are none: an empty one may be an
// element of a list.
func AppendBytes(b []byte, n Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

// Fields calls f for every number (v) and every text, bytes or record (data, part of b); fields of other
// types are skipped. Where b is damaged it returns an error that wraps corrupt.
func Fields(b []byte, corrupt error, f func(n Number, v uint64, data []byte) error) error {
	for len(b) > 0 {
		n, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return fmt.Errorf("%w: %w", corrupt, protowire.ParseError(size))
		}
		b = b[size:]
		var v uint64
		var data []byte
		known := true
		switch typ {
		case protowire.VarintType:
			v, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			data, size = protowire.ConsumeBytes(b)
		default:
			size, known = protowire.ConsumeFieldValue(n, typ, b), false
		}
		if size < 0 {
			return fmt.Errorf("%w: field %d: %w", corrupt, n, protowire.ParseError(size))
		}
		b = b[size:]
		if !known {
			continue
		}
		if err := f(n, v, data); err != nil {
			return err
		}
	}
	return nil
}

// Body returns what follows the version byte of a record.
func Body(b []byte, version byte, corrupt error) ([]byte, error) {
	if len(b) == 0 || b[0] != version {
		return nil, fmt.Errorf("%w: %x... has not version %d; a newer binary wrote it, or it is damaged", corrupt, b[:min(len(b), 4)], version)
	}
	return b[1:], nil
}
