package liveness

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
)

// maxUnsupported bounds the list of nodes in one heartbeat.
const maxUnsupported = 4096

// message is a heartbeat or its answer, in protobuf wire format.
type message struct {
	boot        uint64 // of the sender
	seq         uint64 // of the heartbeat
	reading     hlc.Timestamp
	wall        int64 // the sender's physical clock, in nanoseconds
	unsupported []keys.NodeID

	// Heartbeat only.
	want bool // the sender asks for support

	// Answer only.
	toBoot    uint64 // boot counter of the heartbeat that is answered
	supported bool
	epoch     uint64
	promise   time.Duration // D
}

func (m *message) encode(b []byte) []byte {
	u := func(n protowire.Number, v uint64) {
		if v != 0 {
			b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
		}
	}
	flag := func(n protowire.Number, v bool) {
		if v {
			u(n, 1)
		}
	}
	u(1, m.boot)
	u(2, m.seq)
	u(3, uint64(m.reading.WallNanos))
	u(4, uint64(m.reading.Logical))
	u(5, uint64(m.wall))
	flag(6, m.want)
	u(7, m.toBoot)
	flag(8, m.supported)
	u(9, m.epoch)
	u(10, uint64(m.promise))
	for _, n := range m.unsupported {
		u(11, uint64(n))
	}
	return b
}

func decodeMessage(b []byte) (*message, error) {
	var m message
	for len(b) > 0 {
		n, typ, k := protowire.ConsumeTag(b)
		if k < 0 {
			return nil, fmt.Errorf("liveness: heartbeat is damaged: %w", protowire.ParseError(k))
		}
		b = b[k:]
		if typ != protowire.VarintType {
			if k = protowire.ConsumeFieldValue(n, typ, b); k < 0 {
				return nil, fmt.Errorf("liveness: heartbeat is damaged: %w", protowire.ParseError(k))
			}
			b = b[k:]
			continue
		}
		v, k := protowire.ConsumeVarint(b)
		if k < 0 {
			return nil, fmt.Errorf("liveness: heartbeat is damaged: %w", protowire.ParseError(k))
		}
		b = b[k:]
		switch n {
		case 1:
			m.boot = v
		case 2:
			m.seq = v
		case 3:
			m.reading.WallNanos = int64(v)
		case 4:
			m.reading.Logical = int32(v)
		case 5:
			m.wall = int64(v)
		case 6:
			m.want = v != 0
		case 7:
			m.toBoot = v
		case 8:
			m.supported = v != 0
		case 9:
			m.epoch = v
		case 10:
			m.promise = time.Duration(v)
		case 11:
			if len(m.unsupported) >= maxUnsupported {
				return nil, fmt.Errorf("liveness: a heartbeat lists more than %d nodes", maxUnsupported)
			}
			if n := keys.NodeID(v); n > 0 {
				m.unsupported = append(m.unsupported, n)
			}
		}
	}
	if m.promise < 0 || m.promise > time.Minute || m.reading.WallNanos < 0 || m.reading.Logical < 0 {
		return nil, fmt.Errorf("liveness: a heartbeat promises %v at %d, which is out of bounds", m.promise, m.reading.WallNanos)
	}
	return &m, nil
}
