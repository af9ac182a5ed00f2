package store

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
)

// statusTimeout bounds how long the other nodes are waited for.
const statusTimeout = 500 * time.Millisecond

// status is what a node says of itself.
type status struct {
	said   bool          // it answered
	oldest hlc.Timestamp // that this gateway's transactions read at; empty: unknown
	// counted: an older binary does not say what it has.
	counted          bool
	replicas, leases int
}

// statuses asks the live nodes how they are. Those that are not live are missing: their clients have
// lost their connections; if not, S25 tells them.
func (s *Store) statuses(ctx context.Context) map[keys.NodeID]status {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	type answer struct {
		node keys.NodeID
		status
	}
	out := map[keys.NodeID]status{s.cfg.Node: s.status()}
	nodes := s.cfg.Directory.Nodes()
	answers := make(chan answer, len(nodes))
	asked := 0
	for _, n := range nodes {
		if n == s.cfg.Node || !s.cfg.Support.Live(n) {
			continue
		}
		asked++
		go func() {
			b, err := s.cfg.Network.Call(ctx, n, raftnet.Control, raftnet.MethodStatus, nil)
			if err != nil {
				b = nil
			}
			answers <- answer{n, decodeStatus(b)}
		}()
	}
	for range asked {
		a := <-answers
		out[a.node] = a.status
	}
	return out
}

func (s *Store) status() status {
	st := status{said: true, counted: true, replicas: len(s.all()), leases: s.leases()}
	if s.cfg.OldestRead != nil {
		st.oldest = s.cfg.OldestRead()
	}
	return st
}

func (s *Store) onStatus(context.Context, keys.NodeID, []byte) ([]byte, error) {
	st := s.status()
	return st.encode(), nil
}

// statusCounts is where the counts begin, behind version and timestamp.
const statusCounts = 13

func (st *status) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordVersion}, uint64(st.oldest.WallNanos))
	b = binary.BigEndian.AppendUint32(b, uint32(st.oldest.Logical))
	b = binary.BigEndian.AppendUint32(b, uint32(st.replicas))
	return binary.BigEndian.AppendUint32(b, uint32(st.leases))
}

// decodeStatus reads what a node said; the zero status if that can't be read.
func decodeStatus(b []byte) (st status) {
	if len(b) == 0 || b[0] != recordVersion {
		return st
	}
	st.said = true
	if len(b) >= statusCounts {
		st.oldest = hlc.Timestamp{WallNanos: int64(binary.BigEndian.Uint64(b[1:])), Logical: int32(binary.BigEndian.Uint32(b[9:]))}
	}
	if len(b) >= statusCounts+8 {
		st.counted = true
		st.replicas, st.leases = int(binary.BigEndian.Uint32(b[statusCounts:])), int(binary.BigEndian.Uint32(b[statusCounts+4:]))
	}
	return st
}
