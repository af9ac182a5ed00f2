package mvcc

import (
	"encoding/binary"
	"fmt"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// Limits of what may be written. A write must fit one raft entry.
const (
	MaxKeyBytes   = 16 << 10
	MaxValueBytes = 960 << 10
	// maxHistoryBytes bounds the older values that an intent keeps for its transaction's
	// own reads and savepoints.
	maxHistoryBytes = 512 << 10
)

// A version's value begins with its kind; the rest is the user's value. The kind is also
// the format's version: a new layout takes a new kind.
const (
	kindValue     = 1
	kindTombstone = 2
)

// decodeValue splits a stored version. The value shares memory with b.
func decodeValue(b []byte) (value []byte, live bool, err error) {
	if len(b) >= 1 {
		switch b[0] {
		case kindValue:
			return b[1:len(b):len(b)], true, nil
		case kindTombstone:
			if len(b) == 1 {
				return nil, false, nil
			}
		}
	}
	const most = 16
	return nil, false, fmt.Errorf("mvcc: a stored version of %d bytes begins with %x; want kind %d or %d", len(b), b[:min(len(b), most)], kindValue, kindTombstone)
}

// write is one of a transaction's writes to a key.
type write struct {
	seq       int32
	tombstone bool
	value     []byte
}

// intent is the record at the unversioned key. Its newest write's value is not in it but
// in the provisional version at txn.WriteTimestamp.
type intent struct {
	txn       kv.TxnMeta // Seq is the newest write's
	tombstone bool       // the newest write is one
	storedLen int        // of the provisional version, kind included
	history   []write    // older writes of this epoch, ascending by seq
}

// The record: version (1), transaction ID (16), write timestamp (12), birth timestamp (12),
// isolation (1), flags (1), then as uvarints epoch, seq, priority (zigzag), stored length,
// anchor length, anchor, number of older writes, and each one's seq, flags, length, value.
const (
	intentVersion   = 1
	intentHeaderLen = 1 + 16 + 12 + 12 + 1 + 1
	flagTombstone   = 1
)

func appendTimestamp(b []byte, ts hlc.Timestamp) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(ts.WallNanos))
	return binary.BigEndian.AppendUint32(b, uint32(ts.Logical))
}

func readTimestamp(b []byte) hlc.Timestamp {
	return hlc.Timestamp{WallNanos: int64(binary.BigEndian.Uint64(b)), Logical: int32(binary.BigEndian.Uint32(b[8:]))}
}

func flags(tombstone bool) byte {
	if tombstone {
		return flagTombstone
	}
	return 0
}

func appendIntent(b []byte, in *intent) []byte {
	b = append(b, intentVersion)
	b = append(b, in.txn.ID[:]...)
	b = appendTimestamp(b, in.txn.WriteTimestamp)
	b = appendTimestamp(b, in.txn.MinTimestamp)
	b = append(b, byte(in.txn.Isolation), flags(in.tombstone))
	b = binary.AppendUvarint(b, uint64(uint32(in.txn.Epoch)))
	b = binary.AppendUvarint(b, uint64(uint32(in.txn.Seq)))
	b = binary.AppendVarint(b, int64(in.txn.Priority))
	b = binary.AppendUvarint(b, uint64(in.storedLen))
	b = binary.AppendUvarint(b, uint64(len(in.txn.Key)))
	b = append(b, in.txn.Key...)
	b = binary.AppendUvarint(b, uint64(len(in.history)))
	for _, w := range in.history {
		b = binary.AppendUvarint(b, uint64(uint32(w.seq)))
		b = append(b, flags(w.tombstone))
		b = binary.AppendUvarint(b, uint64(len(w.value)))
		b = append(b, w.value...)
	}
	return b
}

// intentReader reads uvarints and byte strings, and remembers the first fault.
type intentReader struct {
	b   []byte
	bad bool
}

func (r *intentReader) uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > most {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *intentReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *intentReader) bytes(most uint64) []byte {
	n := r.uvarint(most)
	if r.bad || n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *intentReader) flags() bool {
	if len(r.b) == 0 || r.b[0] > flagTombstone {
		r.bad, r.b = true, nil
		return false
	}
	f := r.b[0] == flagTombstone
	r.b = r.b[1:]
	return f
}

const maxInt32 = 1<<31 - 1

// decodeIntent decodes a record. in shares no memory with b.
func decodeIntent(b []byte, in *intent) error {
	if len(b) > 0 && b[0] != intentVersion {
		return fmt.Errorf("mvcc: intent record has version %d, this binary reads %d", b[0], intentVersion)
	}
	if len(b) < intentHeaderLen {
		return fmt.Errorf("mvcc: intent record of %d bytes is shorter than its header of %d", len(b), intentHeaderLen)
	}
	b = append([]byte(nil), b...)
	*in = intent{}
	copy(in.txn.ID[:], b[1:])
	in.txn.WriteTimestamp = readTimestamp(b[17:])
	in.txn.MinTimestamp = readTimestamp(b[29:])
	in.txn.Isolation = kv.Isolation(b[41])
	r := intentReader{b: b[42:]}
	in.tombstone = r.flags()
	in.txn.Epoch = int32(r.uvarint(maxInt32))
	in.txn.Seq = int32(r.uvarint(maxInt32))
	prio := r.varint()
	in.txn.Priority = int32(prio)
	in.storedLen = int(r.uvarint(MaxValueBytes + 1))
	if key := r.bytes(MaxKeyBytes); len(key) > 0 {
		in.txn.Key = keys.Key(key)
	}
	n := r.uvarint(uint64(len(r.b)))
	if n > 0 && !r.bad {
		in.history = make([]write, 0, min(n, 64))
	}
	prev := int64(-1)
	for ; n > 0 && !r.bad; n-- {
		w := write{seq: int32(r.uvarint(maxInt32)), tombstone: r.flags()}
		w.value = r.bytes(MaxValueBytes)
		if int64(w.seq) <= prev || w.seq >= in.txn.Seq || (w.tombstone && len(w.value) > 0) {
			r.bad = true
		}
		prev = int64(w.seq)
		in.history = append(in.history, w)
	}
	ts := in.txn.WriteTimestamp
	if r.bad || len(r.b) > 0 || int64(in.txn.Priority) != prio || ts.WallNanos < 0 || ts.Logical < 0 || ts.IsEmpty() ||
		in.txn.Isolation > kv.ReadCommitted || in.storedLen < 1 {
		return fmt.Errorf("mvcc: intent record of %d bytes is malformed", len(b))
	}
	return nil
}

// Intent is a transaction's provisional write to a key, as others see it.
type Intent struct {
	Key keys.Key
	// Txn is the writer. Seq is its newest write here and WriteTimestamp where that lies.
	Txn kv.TxnMeta
}

// ignored reports whether a savepoint rollback took back the write with this number.
func ignored(seq int32, ranges []kv.SeqRange) bool {
	for _, r := range ranges {
		if r.Start <= seq && seq <= r.End {
			return true
		}
	}
	return false
}
