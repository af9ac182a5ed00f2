package raftnet

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/wire"
)

// Raft messages travel in protobuf wire format, so that unknown fields of a later
// version are skipped. Fields 1 to 4 of every request are the envelope.

// maxEntriesPerAppend bounds the entries of one AppendEntries.
const maxEntriesPerAppend = 1 << 16

// envelope says which replica sends to which.
type envelope struct {
	rangeID    keys.RangeID
	from, to   keys.ReplicaID
	generation uint64 // recovery generation (raft.md rule 16)
}

type wireBuf struct{ b []byte }

func (w *wireBuf) u(n wire.Number, v uint64) {
	w.b = wire.AppendUint(w.b, n, v)
}

func (w *wireBuf) flag(n wire.Number, v bool) {
	if v {
		w.u(n, 1)
	}
}

func (w *wireBuf) bytes(n wire.Number, v []byte) {
	if len(v) > 0 {
		w.b = wire.AppendBytes(w.b, n, v)
	}
}

func (w *wireBuf) envelope(e *envelope) {
	w.u(1, uint64(e.rangeID))
	w.u(2, uint64(e.from))
	w.u(3, uint64(e.to))
	w.u(4, e.generation)
}

// field takes a field of the envelope; it reports whether n was one.
func (e *envelope) field(n wire.Number, v uint64) bool {
	switch n {
	case 1:
		e.rangeID = keys.RangeID(v)
	case 2:
		e.from = keys.ReplicaID(v)
	case 3:
		e.to = keys.ReplicaID(v)
	case 4:
		e.generation = v
	default:
		return false
	}
	return true
}

// peekRange reads the range ID, which every encoder here writes first.
func peekRange(b []byte) (keys.RangeID, bool) {
	n, typ, k := protowire.ConsumeTag(b)
	if k < 0 || n != 1 || typ != protowire.VarintType {
		return 0, false
	}
	v, k := protowire.ConsumeVarint(b[k:])
	return keys.RangeID(v), k > 0
}

func varintField(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v) // tags below 16 take one byte
}

func bytesField(n int) int {
	if n == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(n)
}

func appendedAt(l *raft.Log) uint64 {
	if l.AppendedAt.IsZero() {
		return 0
	}
	return uint64(l.AppendedAt.UnixNano())
}

func logSize(l *raft.Log) int {
	return varintField(l.Index) + varintField(l.Term) + varintField(uint64(l.Type)) +
		bytesField(len(l.Data)) + bytesField(len(l.Extensions)) + varintField(appendedAt(l))
}

func (w *wireBuf) log(l *raft.Log) {
	w.u(1, l.Index)
	w.u(2, l.Term)
	w.u(3, uint64(l.Type))
	w.bytes(4, l.Data)
	w.bytes(5, l.Extensions)
	w.u(6, appendedAt(l))
}

// decodeLog fills l; Data and Extensions alias b.
func decodeLog(b []byte, l *raft.Log) error {
	return eachField(b, func(n wire.Number, v uint64, s []byte) error {
		switch n {
		case 1:
			l.Index = v
		case 2:
			l.Term = v
		case 3:
			if v > 255 {
				return fmt.Errorf("raftnet: log type %d is unknown", v)
			}
			l.Type = raft.LogType(v)
		case 4:
			l.Data = s
		case 5:
			l.Extensions = s
		case 6:
			l.AppendedAt = time.Unix(0, int64(v))
		}
		return nil
	})
}

// appendRequest is an AppendEntries with its envelope.
type appendRequest struct {
	envelope
	raft.AppendEntriesRequest
}

func (r *appendRequest) encode(b []byte) []byte {
	w := wireBuf{b}
	w.envelope(&r.envelope)
	w.u(5, r.Term)
	w.u(6, r.PrevLogEntry)
	w.u(7, r.PrevLogTerm)
	w.u(8, r.LeaderCommitIndex)
	for _, l := range r.Entries {
		w.b = protowire.AppendTag(w.b, 9, protowire.BytesType)
		w.b = protowire.AppendVarint(w.b, uint64(logSize(l)))
		w.log(l)
	}
	return w.b
}

func (r *appendRequest) size() int {
	n := 96
	for _, l := range r.Entries {
		n += logSize(l) + 12
	}
	return n
}

// decode fills r; the entries alias b.
func (r *appendRequest) decode(b []byte) error {
	return eachField(b, func(n wire.Number, v uint64, s []byte) error {
		if r.envelope.field(n, v) {
			return nil
		}
		switch n {
		case 5:
			r.Term = v
		case 6:
			r.PrevLogEntry = v
		case 7:
			r.PrevLogTerm = v
		case 8:
			r.LeaderCommitIndex = v
		case 9:
			if len(r.Entries) >= maxEntriesPerAppend {
				return fmt.Errorf("raftnet: an AppendEntries has more than %d entries", maxEntriesPerAppend)
			}
			l := new(raft.Log)
			r.Entries = append(r.Entries, l)
			return decodeLog(s, l)
		}
		return nil
	})
}

// appendResponse is raft's answer and the fortification.
type appendResponse struct {
	raft.AppendEntriesResponse
	fortified bool
	epoch     uint64
	failed    bool // in a nudge's answer: this item was not delivered
}

func (r *appendResponse) encode(b []byte) []byte {
	w := wireBuf{b}
	w.u(1, r.Term)
	w.u(2, r.LastLog)
	w.flag(3, r.Success)
	w.flag(4, r.NoRetryBackoff)
	w.flag(5, r.fortified)
	w.u(6, r.epoch)
	w.flag(7, r.failed)
	return w.b
}

func (r *appendResponse) decode(b []byte) error {
	return eachField(b, func(n wire.Number, v uint64, _ []byte) error {
		switch n {
		case 1:
			r.Term = v
		case 2:
			r.LastLog = v
		case 3:
			r.Success = v != 0
		case 4:
			r.NoRetryBackoff = v != 0
		case 5:
			r.fortified = v != 0
		case 6:
			r.epoch = v
		case 7:
			r.failed = v != 0
		}
		return nil
	})
}

// voteRequest is a RequestVote or a RequestPreVote.
type voteRequest struct {
	envelope
	term, lastIndex, lastTerm uint64
	transfer                  bool
	token                     releaseToken
}

// releaseToken says that a leader has given its lease up, so that the guards let the
// named target of its transfer pass.
type releaseToken struct {
	leader keys.NodeID // 0: no token
	term   uint64      // in which the lease was given up
}

func (r *voteRequest) encode(b []byte) []byte {
	w := wireBuf{b}
	w.envelope(&r.envelope)
	w.u(5, r.term)
	w.u(6, r.lastIndex)
	w.u(7, r.lastTerm)
	w.flag(8, r.transfer)
	w.u(9, uint64(r.token.leader))
	w.u(10, r.token.term)
	return w.b
}

func (r *voteRequest) decode(b []byte) error {
	return eachField(b, func(n wire.Number, v uint64, _ []byte) error {
		if r.envelope.field(n, v) {
			return nil
		}
		switch n {
		case 5:
			r.term = v
		case 6:
			r.lastIndex = v
		case 7:
			r.lastTerm = v
		case 8:
			r.transfer = v != 0
		case 9:
			r.token.leader = keys.NodeID(v)
		case 10:
			r.token.term = v
		}
		return nil
	})
}

type voteResponse struct {
	term    uint64
	granted bool
	limit   int64 // wall nanoseconds: the highest h + D that the voter supported (S4)
}

func (r *voteResponse) encode(b []byte) []byte {
	w := wireBuf{b}
	w.u(1, r.term)
	w.flag(2, r.granted)
	w.u(3, uint64(r.limit))
	return w.b
}

func (r *voteResponse) decode(b []byte) error {
	return eachField(b, func(n wire.Number, v uint64, _ []byte) error {
		switch n {
		case 1:
			r.term = v
		case 2:
			r.granted = v != 0
		case 3:
			r.limit = int64(v)
		}
		return nil
	})
}

// timeoutNowRequest asks the target of a transfer to campaign.
type timeoutNowRequest struct {
	envelope
	term uint64 // of the leader that transfers
	low  int64  // wall nanoseconds: no read under its lease, or an earlier one, was later
	why  string // of the transfer, for people; at most maxWhy bytes
}

const maxWhy = 300

func (r *timeoutNowRequest) encode(b []byte) []byte {
	w := wireBuf{b}
	w.envelope(&r.envelope)
	w.u(5, r.term)
	w.u(6, uint64(r.low))
	w.bytes(7, []byte(r.why[:min(len(r.why), maxWhy)]))
	return w.b
}

func (r *timeoutNowRequest) decode(b []byte) error {
	return eachField(b, func(n wire.Number, v uint64, text []byte) error {
		if r.envelope.field(n, v) {
			return nil
		}
		switch n {
		case 5:
			r.term = v
		case 6:
			r.low = int64(v)
		case 7:
			r.why = string(text[:min(len(text), maxWhy)])
		}
		return nil
	})
}

// installRequest is an InstallSnapshot whose data has travelled before.
type installRequest struct {
	envelope
	raft.InstallSnapshotRequest
}

func (r *installRequest) encode(b []byte) []byte {
	w := wireBuf{b}
	w.envelope(&r.envelope)
	w.u(5, r.Term)
	w.u(6, r.LastLogIndex)
	w.u(7, r.LastLogTerm)
	w.bytes(8, r.Configuration)
	w.u(9, r.ConfigurationIndex)
	w.u(10, uint64(r.Size))
	w.u(11, uint64(r.SnapshotVersion))
	w.bytes(12, r.Peers)
	return w.b
}

func (r *installRequest) decode(b []byte) error {
	return eachField(b, func(n wire.Number, v uint64, s []byte) error {
		if r.envelope.field(n, v) {
			return nil
		}
		switch n {
		case 5:
			r.Term = v
		case 6:
			r.LastLogIndex = v
		case 7:
			r.LastLogTerm = v
		case 8:
			r.Configuration = s
		case 9:
			r.ConfigurationIndex = v
		case 10:
			r.Size = int64(v)
			if r.Size < 0 {
				return fmt.Errorf("raftnet: a snapshot of %d bytes is impossible", r.Size)
			}
		case 11:
			r.SnapshotVersion = raft.SnapshotVersion(v)
		case 12:
			r.Peers = s
		}
		return nil
	})
}

// maxNudges bounds the items of one nudge message.
const maxNudges = 512

// encodeList and decodeList carry the items of a nudge and of its answer, as field 1.
func encodeList(items [][]byte) []byte {
	n := 0
	for _, it := range items {
		n += len(it) + 12
	}
	b := make([]byte, 0, n)
	for _, it := range items {
		b = protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), it)
	}
	return b
}

func decodeList(b []byte) ([][]byte, error) {
	var out [][]byte
	err := eachField(b, func(n wire.Number, _ uint64, s []byte) error {
		if n != 1 {
			return nil
		}
		if len(out) >= maxNudges {
			return fmt.Errorf("raftnet: a list has more than %d items", maxNudges)
		}
		out = append(out, s)
		return nil
	})
	return out, err
}
