package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/wire"
)

// Messages of a snapshot transfer. Each is a version byte and fields in protobuf wire
// format; unknown fields are skipped.

const wireVersion = 1

// ErrCorrupt marks bytes from the network that are no message, or are damaged.
var ErrCorrupt = errors.New("group: corrupt message")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type snapshotID = [16]byte

// beginMsg offers a snapshot to a replica.
type beginMsg struct {
	id       snapshotID
	rangeID  keys.RangeID
	to       raft.ServerID
	raftTerm uint64 // the leader's
	pos      Position
	desc     kv.RangeDescriptor
	witness  bool // structure only, for a witness (S22)
}

// reply answers begin and end. When success is set, the receiver durably has everything
// up to the snapshot's position.
type reply struct {
	term    uint64 // the receiver's raft term
	success bool
	send    bool // begin only: the data is wanted
}

// chunkMsg carries key-value pairs.
type chunkMsg struct {
	id   snapshotID
	seq  uint64
	data []byte
	crc  uint32 // Castagnoli, of data
}

// endMsg says that all chunks were sent.
type endMsg struct {
	id     snapshotID
	chunks uint64
	pairs  uint64
	crc    uint32 // Castagnoli, of the data of all chunks
}

func (m *beginMsg) encode() []byte {
	b := wire.AppendBytes([]byte{wireVersion}, 1, m.id[:])
	b = wire.AppendUint(b, 2, uint64(m.rangeID))
	b = wire.AppendBytes(b, 3, []byte(m.to))
	b = wire.AppendUint(b, 4, m.raftTerm)
	b = wire.AppendUint(b, 5, m.pos.Index)
	b = wire.AppendUint(b, 6, m.pos.Term)
	b = wire.AppendBytes(b, 7, raftcmd.EncodeDescriptor(&m.desc))
	if m.witness {
		b = wire.AppendUint(b, 8, 1)
	}
	return b
}

func decodeBegin(b []byte) (*beginMsg, error) {
	m := &beginMsg{}
	err := fields(b, func(num wire.Number, v uint64, data []byte) error {
		switch num {
		case 1:
			return copyID(&m.id, data)
		case 2:
			m.rangeID = keys.RangeID(v)
		case 3:
			m.to = raft.ServerID(data)
		case 4:
			m.raftTerm = v
		case 5:
			m.pos.Index = v
		case 6:
			m.pos.Term = v
		case 7:
			d, err := raftcmd.DecodeDescriptor(data)
			if err != nil {
				return err
			}
			m.desc = *d
		case 8:
			m.witness = v != 0
		}
		return nil
	})
	if err == nil && (m.rangeID <= 0 || m.desc.RangeID != m.rangeID || m.pos.Index == 0 || m.pos.Term == 0) {
		err = fmt.Errorf("%w: snapshot of range %d at %+v with descriptor of range %d", ErrCorrupt, m.rangeID, m.pos, m.desc.RangeID)
	}
	return m, err
}

func (m *reply) encode() []byte {
	b := wire.AppendUint([]byte{wireVersion}, 1, m.term)
	b = wire.AppendUint(b, 2, flag(m.success))
	return wire.AppendUint(b, 3, flag(m.send))
}

func decodeReply(b []byte) (*reply, error) {
	m := &reply{}
	return m, fields(b, func(num wire.Number, v uint64, _ []byte) error {
		switch num {
		case 1:
			m.term = v
		case 2:
			m.success = v != 0
		case 3:
			m.send = v != 0
		}
		return nil
	})
}

func (m *chunkMsg) encode() []byte {
	b := make([]byte, 1, len(m.data)+64)
	b[0] = wireVersion
	b = wire.AppendBytes(b, 1, m.id[:])
	b = wire.AppendUint(b, 2, m.seq)
	b = wire.AppendUint(b, 3, uint64(m.crc))
	return wire.AppendBytes(b, 4, m.data)
}

// decodeChunk keeps b. It verifies the checksum.
func decodeChunk(b []byte) (*chunkMsg, error) {
	m := &chunkMsg{}
	err := fields(b, func(num wire.Number, v uint64, data []byte) error {
		switch num {
		case 1:
			return copyID(&m.id, data)
		case 2:
			m.seq = v
		case 3:
			m.crc = uint32(v)
		case 4:
			m.data = data
		}
		return nil
	})
	if err == nil && crc32.Checksum(m.data, castagnoli) != m.crc {
		err = fmt.Errorf("%w: chunk %d of snapshot %x has checksum %08x, announced %08x", ErrCorrupt, m.seq, m.id,
			crc32.Checksum(m.data, castagnoli), m.crc)
	}
	return m, err
}

func (m *endMsg) encode() []byte {
	b := wire.AppendBytes([]byte{wireVersion}, 1, m.id[:])
	b = wire.AppendUint(b, 2, m.chunks)
	b = wire.AppendUint(b, 3, m.pairs)
	return wire.AppendUint(b, 4, uint64(m.crc))
}

func decodeEnd(b []byte) (*endMsg, error) {
	m := &endMsg{}
	return m, fields(b, func(num wire.Number, v uint64, data []byte) error {
		switch num {
		case 1:
			return copyID(&m.id, data)
		case 2:
			m.chunks = v
		case 3:
			m.pairs = v
		case 4:
			m.crc = uint32(v)
		}
		return nil
	})
}

// appendPair adds a key-value pair to a chunk's data.
func appendPair(b, key, value []byte) []byte {
	b = append(binary.AppendUvarint(b, uint64(len(key))), key...)
	return append(binary.AppendUvarint(b, uint64(len(value))), value...)
}

// eachPair calls fn for the pairs of a chunk's data.
func eachPair(b []byte, fn func(key, value []byte) error) error {
	next := func() ([]byte, error) {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			return nil, fmt.Errorf("%w: length beyond the %d bytes left of a chunk", ErrCorrupt, len(b))
		}
		v := b[w : w+int(n)]
		b = b[w+int(n):]
		return v, nil
	}
	for len(b) > 0 {
		key, err := next()
		if err != nil {
			return err
		}
		value, err := next()
		if err != nil {
			return err
		}
		if err := fn(key, value); err != nil {
			return err
		}
	}
	return nil
}

func flag(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

func copyID(to *snapshotID, b []byte) error {
	if len(b) != len(to) {
		return fmt.Errorf("%w: snapshot ID of %d bytes, want %d", ErrCorrupt, len(b), len(to))
	}
	copy(to[:], b)
	return nil
}

// fields calls fn for every varint (v) and length-delimited (data) field behind the
// version byte.
func fields(b []byte, f func(n wire.Number, v uint64, data []byte) error) error {
	b, err := wire.Body(b, wireVersion, ErrCorrupt)
	if err != nil {
		return err
	}
	return wire.Fields(b, ErrCorrupt, f)
}
