package store

import (
	"context"
	"encoding/binary"
	"math"
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
	receiving        int   // replicas that wait for their data
	diskUsed         int64 // bytes; what the store takes
	diskFree         int64 // bytes; 0 if both are unknown
	// cpu is what ranges cost the node, cores what it has; 0: an older binary does not say.
	cpu, cores float64
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
	st := status{said: true, counted: true, replicas: len(s.all()), leases: s.leases(), cpu: s.cores(), cores: s.cfg.Cores}
	for _, r := range s.all() {
		if r.desc() == nil {
			st.receiving++
		}
	}
	if free := s.free.Load(); free > 0 && free < unknownFree {
		st.diskFree, st.diskUsed = free, s.state.UsedBytes()+s.log.UsedBytes()
	}
	if s.cfg.OldestRead != nil {
		st.oldest = s.cfg.OldestRead()
	}
	return st
}

func (s *Store) onStatus(context.Context, keys.NodeID, []byte) ([]byte, error) {
	st := s.status()
	return st.encode(), nil
}

// unknownFree is more than any disk has: how much is free is not known.
const unknownFree = 1 << 60

// maxCores is more than any machine has.
const maxCores = 1 << 20

// statusCounts is where the counts begin, behind version and timestamp.
const statusCounts = 13

func (st *status) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordVersion}, uint64(st.oldest.WallNanos))
	b = binary.BigEndian.AppendUint32(b, uint32(st.oldest.Logical))
	b = binary.BigEndian.AppendUint32(b, uint32(st.replicas))
	b = binary.BigEndian.AppendUint32(b, uint32(st.leases))
	b = binary.BigEndian.AppendUint32(b, uint32(st.receiving))
	b = binary.BigEndian.AppendUint64(b, uint64(st.diskUsed))
	b = binary.BigEndian.AppendUint64(b, uint64(st.diskFree))
	b = binary.BigEndian.AppendUint64(b, math.Float64bits(st.cpu))
	return binary.BigEndian.AppendUint64(b, math.Float64bits(st.cores))
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
	if at := statusCounts + 8; len(b) >= at+20 {
		st.receiving = int(binary.BigEndian.Uint32(b[at:]))
		st.diskUsed = int64(min(binary.BigEndian.Uint64(b[at+4:]), unknownFree))
		st.diskFree = int64(min(binary.BigEndian.Uint64(b[at+12:]), unknownFree))
	}
	if at := statusCounts + 28; len(b) >= at+16 {
		cpu, cores := math.Float64frombits(binary.BigEndian.Uint64(b[at:])), math.Float64frombits(binary.BigEndian.Uint64(b[at+8:]))
		if cpu >= 0 && cpu <= maxCores && cores > 0 && cores <= maxCores { // not so for NaN
			st.cpu, st.cores = cpu, cores
		}
	}
	return st
}
