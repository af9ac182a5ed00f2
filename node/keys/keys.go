// Package keys is the key map: which byte prefix belongs to what, in physical order.
//
//	""                       KeyMin
//	\x01 k <key>        ...  range-local by address: transaction records; lives in the
//	                         range that holds <key>
//	\x01 r <rangeID:8>  ...  range-local by ID, not versioned: applied state, descriptor,
//	                         applied command IDs, GC threshold; never addressed by a request
//	\x02 <end key>           meta: the descriptor of the range that ends at <end key>
//	\x03 ...                 system: node directory, ID allocators, cluster settings
//	\x04 <table> <index> ... table data (tables, indexes, sequences), encoded by package encoding
//	\xff\xff                 KeyMax (exclusive)
//
// The meta range holds ["", \x03); a new cluster's other range holds [\x03, KeyMax).
package keys

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Key is an unversioned key. Keys order as bytes.
type Key []byte

// Span is the set of keys in [Key, EndKey). An empty EndKey means the single key Key.
type Span struct {
	Key, EndKey Key
}

const (
	localByte  = 0x01
	metaByte   = 0x02
	systemByte = 0x03
	tableByte  = 0x04
)

var (
	// MinKey is the first key.
	MinKey = Key{}
	// MaxKey is after every key.
	MaxKey = Key{0xff, 0xff}
	// MetaMin is the first key of the meta span.
	MetaMin = Key{metaByte}
	// MetaMax is the end of the meta span and of the meta range.
	MetaMax = Key{systemByte}
	// SystemMin is the first system key.
	SystemMin = Key{systemByte}
	// TableMin is the first key of table data.
	TableMin = Key{tableByte}
)

// MetaRangeID is the range that maps keys to range descriptors.
const MetaRangeID RangeID = 1

// FirstDataRangeID is the other range of a new cluster.
const FirstDataRangeID RangeID = 2

// RangeLocalPrefix returns the prefix of a range's local-by-ID keys.
func RangeLocalPrefix(id RangeID) Key {
	k := make(Key, 0, 32)
	k = append(k, localByte, 'r')
	return binary.BigEndian.AppendUint64(k, uint64(id))
}

// RangeLocal returns the range-local-by-ID key with the given suffix.
func RangeLocal(id RangeID, suffix string) Key {
	return append(RangeLocalPrefix(id), suffix...)
}

// AddressedLocalPrefix is the start of all keys that are local by address.
var AddressedLocalPrefix = Key{localByte, 'k'}

// TxnRecord returns the key of a transaction's record, which lives in the range that
// holds anchor (SAFETY S10).
func TxnRecord(anchor Key, txnID [16]byte) Key {
	k := make(Key, 0, len(anchor)+32)
	k = append(k, AddressedLocalPrefix...)
	k = appendEscaped(k, anchor)
	k = append(k, 't')
	return append(k, txnID[:]...)
}

// AddressedLocalSpan returns the local-by-address keys that belong to the addresses
// in [start, end).
func AddressedLocalSpan(start, end Key) Span {
	s := append(Key(nil), AddressedLocalPrefix...)
	e := append(Key(nil), AddressedLocalPrefix...)
	return Span{Key: appendEscapedOpen(s, start), EndKey: appendEscapedOpen(e, end)}
}

// Addr returns the key by which a request on k is routed: k itself, or, for a key that
// is local by address, the key it belongs to.
func Addr(k Key) (Key, error) {
	if len(k) == 0 || k[0] != localByte {
		return k, nil
	}
	if !bytes.HasPrefix(k, AddressedLocalPrefix) {
		return nil, fmt.Errorf("keys: key %q is range-local by ID and has no address", k)
	}
	addr, _, err := decodeEscaped(k[len(AddressedLocalPrefix):])
	return addr, err
}

// Meta returns the key of the meta record of the range that ends at end.
func Meta(end Key) Key {
	k := make(Key, 0, len(end)+1)
	return append(append(k, metaByte), end...)
}

// System returns the system key with the given name.
func System(name string) Key {
	return append(Key{systemByte}, name...)
}

// NodeDirectory returns the system key of a node's directory entry.
func NodeDirectory(id NodeID) Key {
	return binary.BigEndian.AppendUint32(System("node/"), uint32(id))
}

// Events returns what the keys of all nodes' events begin with (package events).
func Events() Key { return System("event/") }

// SuperuserVerifier returns the system key in which a founding leaves the first user's password
// verifier for the catalog, which takes it away.
func SuperuserVerifier() Key { return System("superuser-verifier") }

// TablePrefix returns the prefix of a table's data.
func TablePrefix(table uint32) Key {
	return binary.BigEndian.AppendUint32(Key{tableByte}, table)
}

// IndexPrefix returns the prefix of an index's data.
func IndexPrefix(table, index uint32) Key {
	return binary.BigEndian.AppendUint32(TablePrefix(table), index)
}

// Next returns the smallest key after k.
func (k Key) Next() Key {
	return append(append(make(Key, 0, len(k)+1), k...), 0)
}

// PrefixEnd returns the smallest key that is larger than every key with prefix k.
func (k Key) PrefixEnd() Key {
	e := append(Key(nil), k...)
	for i := len(e) - 1; i >= 0; i-- {
		if e[i]++; e[i] != 0 {
			return e[:i+1]
		}
	}
	return MaxKey
}

// Less reports whether k orders before o.
func (k Key) Less(o Key) bool { return bytes.Compare(k, o) < 0 }

// Equal reports whether the keys are the same bytes.
func (k Key) Equal(o Key) bool { return bytes.Equal(k, o) }

// Clone returns a copy that shares no memory with k.
func (k Key) Clone() Key { return append(Key(nil), k...) }

// String prints the key quoted.
func (k Key) String() string { return fmt.Sprintf("%q", []byte(k)) }

// Pretty prints a key for people: /Min, /Meta/…, /System/…, /Table/<id>/<index>/<hex>, /Max.
func (k Key) Pretty() string {
	hex := func(b []byte) string {
		if len(b) == 0 {
			return ""
		}
		return fmt.Sprintf("/%x", b)
	}
	switch {
	case len(k) == 0:
		return "/Min"
	case k[0] == MaxKey[0]:
		return "/Max"
	case k[0] == metaByte:
		return "/Meta" + hex(k[1:])
	case k[0] == systemByte:
		return "/System" + hex(k[1:])
	case k[0] != tableByte:
		return hex(k)
	}
	out, rest := "/Table", k[1:]
	for i := 0; i < 2 && len(rest) >= 4; i++ {
		out += fmt.Sprintf("/%d", binary.BigEndian.Uint32(rest))
		rest = rest[4:]
	}
	return out + hex(rest)
}

// IsPoint reports whether the span is a single key.
func (s Span) IsPoint() bool { return len(s.EndKey) == 0 }

// End returns the exclusive end of the span, also for a point.
func (s Span) End() Key {
	if s.IsPoint() {
		return s.Key.Next()
	}
	return s.EndKey
}

// Contains reports whether k lies in the span.
func (s Span) Contains(k Key) bool {
	if s.IsPoint() {
		return s.Key.Equal(k)
	}
	return !k.Less(s.Key) && k.Less(s.EndKey)
}

// Overlaps reports whether the spans share a key.
func (s Span) Overlaps(o Span) bool {
	return s.Key.Less(o.End()) && o.Key.Less(s.End())
}

// String prints [start, end).
func (s Span) String() string {
	if s.IsPoint() {
		return s.Key.String()
	}
	return fmt.Sprintf("[%s, %s)", s.Key, s.EndKey)
}

// appendEscaped appends k so that escaped keys order as the keys do and end in \x00\x01.
func appendEscaped(b, k []byte) []byte {
	return append(appendEscapedOpen(b, k), 0x00, 0x01)
}

// appendEscapedOpen is appendEscaped without the terminator: it orders before every
// escaped key that is at or after k.
func appendEscapedOpen(b, k []byte) []byte {
	for _, c := range k {
		if b = append(b, c); c == 0 {
			b = append(b, 0xff)
		}
	}
	return b
}

func decodeEscaped(b []byte) (key, rest []byte, err error) {
	for i := 0; i < len(b); i++ {
		if b[i] != 0 {
			key = append(key, b[i])
			continue
		}
		if i+1 >= len(b) {
			break
		}
		switch b[i+1] {
		case 0x01:
			return key, b[i+2:], nil
		case 0xff:
			key = append(key, 0)
			i++
		default:
			return nil, nil, fmt.Errorf("keys: bad escape \\x00\\x%02x at byte %d of %q", b[i+1], i, b)
		}
	}
	return nil, nil, fmt.Errorf("keys: key %q has no terminator", b)
}
