// Package raftcmd defines what a range replicates: commands, and the raft entries that
// carry them.
//
// A Command is the outcome of evaluating a write on the leaseholder: a batch of state
// engine writes plus structure changes. It is applied by every replica in the order of
// the log, without looking at a clock, at configuration or at random numbers (SAFETY S17).
// One raft entry carries several commands: the proposer concatenates those that wait while
// earlier entries are in flight (package group).
//
// Wire format: protobuf wire format, written by hand. Unknown fields are skipped, so that a
// newer node's optional fields don't stop an older one during a rolling upgrade; a field
// that an older node must not skip raises the version of the entry that carries it, and of that
// one only. Entries of version 1 have no births: they are still read, and applied as they were
// then. Entries with a merge's commands, or with a descriptor that says what an older node would
// lose, have VersionMerge.
package raftcmd

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/wire"
)

// Version is the version of the entry format; it is the first byte of an entry.
const Version = 2

// VersionMerge is the version of entries that must not be applied by who knows no merges (S20).
const VersionMerge = 3

// versionUnborn is the version before commands carried their birth.
const versionUnborn = 1

// MaxEntryBytes bounds one raft entry: raft counts entries, not bytes, in its messages.
const MaxEntryBytes = 1 << 20

// MaxCommandBytes bounds one encoded command, so that it fits an entry with its framing.
const MaxCommandBytes = MaxEntryBytes - 64

// ErrCorrupt marks bytes that are no entry or command.
var ErrCorrupt = errors.New("raftcmd: corrupt encoding")

// ID names a command over retries (SAFETY S12). The zero ID is not remembered.
type ID = [16]byte

// Command is one replicated state change.
type Command struct {
	// ID finds the command's outcome after a retry (S12). Zero for internal commands that
	// are idempotent.
	ID ID
	// Birth is a bound for when ID was first proposed, in wall nanoseconds of the HLC: no try of
	// the command carries a later one than the try that was applied. A command that is not
	// remembered is rejected if commands born as late were forgotten (S12). Zero with a zero ID.
	Birth int64
	// Unborn is set by DecodeEntry for commands of entries that are older than births: the rule
	// above does not hold for them. It is not encoded.
	Unborn bool
	// Term is the raft term it was evaluated in; a log entry of another term rejects it (S5).
	Term uint64
	// Proposer is the node that evaluated it.
	Proposer keys.NodeID
	// Batch is the representation of a state engine batch; empty for a pure structure change.
	Batch []byte
	// Split is set on the command that splits the range (S20).
	Split *SplitTrigger
	// ChangeDesc replaces the range's descriptor (replica changes). Its Generation must
	// be the current one plus one; otherwise the command is rejected.
	ChangeDesc *kv.RangeDescriptor
	// GCThreshold moves the range's garbage collection threshold up (S25).
	GCThreshold hlc.Timestamp
	// Freeze, Unfreeze and Merge are the steps of a merge (S20).
	Freeze   *FreezeTrigger
	Unfreeze *UnfreezeTrigger
	Merge    *MergeTrigger
	// Digest asks every replica for the digest of its replicated state at this log position
	// (S23); replicas report it to the proposer under the command's ID.
	Digest bool
	// LogicalBytes is how many bytes of data the command adds (negative: removes), an estimate
	// that the split queue uses.
	LogicalBytes int64
	// Outcome is remembered with ID and handed to whoever looks the command up (S12): the
	// encoded response of the batch. Empty when ID is zero.
	Outcome []byte
}

// SplitTrigger makes two ranges of one. Left keeps the range's ID; its generation is the
// current one plus one, otherwise the command is rejected. Right is a new range with the
// same nodes and fresh replica IDs. HighWater is the highest timestamp at which the range
// was read before the split: the right side's first leaseholder must not write at or below
// it (S4, S20).
type SplitTrigger struct {
	Left, Right kv.RangeDescriptor
	HighWater   hlc.Timestamp
}

const (
	fieldID         = 1
	fieldTerm       = 2
	fieldProposer   = 3
	fieldBatch      = 4
	fieldSplitLeft  = 5
	fieldSplitRight = 6
	fieldChangeDesc = 7
	fieldGCWall     = 8
	fieldGCLogical  = 9
	fieldDigest     = 10
	fieldLogical    = 11
	fieldOutcome    = 12
	fieldSplitWall  = 13
	fieldSplitLogic = 14
	fieldBirth      = 15
	fieldFreeze     = 20
	fieldUnfreeze   = 21
	fieldMerge      = 22
)

// Encode returns the command's encoding.
func (c *Command) Encode() []byte {
	return c.Append(make([]byte, 0, len(c.Batch)+96))
}

// Append appends the command's encoding to b.
func (c *Command) Append(b []byte) []byte {
	if c.ID != (ID{}) {
		b = wire.AppendBytes(b, fieldID, c.ID[:])
	}
	b = wire.AppendUint(b, fieldBirth, uint64(c.Birth))
	b = wire.AppendUint(b, fieldTerm, c.Term)
	b = wire.AppendUint(b, fieldProposer, uint64(c.Proposer))
	if len(c.Batch) > 0 {
		b = wire.AppendBytes(b, fieldBatch, c.Batch)
	}
	if c.Split != nil {
		b = wire.AppendBytes(b, fieldSplitLeft, EncodeDescriptor(&c.Split.Left))
		b = wire.AppendBytes(b, fieldSplitRight, EncodeDescriptor(&c.Split.Right))
		b = wire.AppendUint(b, fieldSplitWall, uint64(c.Split.HighWater.WallNanos))
		b = wire.AppendUint(b, fieldSplitLogic, uint64(c.Split.HighWater.Logical))
	}
	if c.ChangeDesc != nil {
		b = wire.AppendBytes(b, fieldChangeDesc, EncodeDescriptor(c.ChangeDesc))
	}
	b = wire.AppendUint(b, fieldGCWall, uint64(c.GCThreshold.WallNanos))
	b = wire.AppendUint(b, fieldGCLogical, uint64(c.GCThreshold.Logical))
	if c.Freeze != nil {
		b = wire.AppendBytes(b, fieldFreeze, c.Freeze.Encode())
	}
	if c.Unfreeze != nil {
		b = wire.AppendBytes(b, fieldUnfreeze, c.Unfreeze.encode())
	}
	if c.Merge != nil {
		b = wire.AppendBytes(b, fieldMerge, c.Merge.encode())
	}
	if c.Digest {
		b = wire.AppendUint(b, fieldDigest, 1)
	}
	b = wire.AppendUint(b, fieldLogical, protowire.EncodeZigZag(c.LogicalBytes))
	if len(c.Outcome) > 0 {
		b = wire.AppendBytes(b, fieldOutcome, c.Outcome)
	}
	return b
}

// Decode parses one command. The result shares memory with b.
func Decode(b []byte) (*Command, error) {
	c := &Command{}
	var left, right *kv.RangeDescriptor
	var high hlc.Timestamp
	err := wire.Fields(b, ErrCorrupt, func(num wire.Number, v uint64, data []byte) (err error) {
		switch num {
		case fieldID:
			if len(data) != len(c.ID) {
				return fmt.Errorf("%w: command ID of %d bytes, want %d", ErrCorrupt, len(data), len(c.ID))
			}
			copy(c.ID[:], data)
		case fieldBirth:
			c.Birth = int64(v)
		case fieldTerm:
			c.Term = v
		case fieldProposer:
			c.Proposer = keys.NodeID(v)
		case fieldBatch:
			c.Batch = data
		case fieldSplitLeft:
			left, err = DecodeDescriptor(data)
		case fieldSplitRight:
			right, err = DecodeDescriptor(data)
		case fieldChangeDesc:
			c.ChangeDesc, err = DecodeDescriptor(data)
		case fieldGCWall:
			c.GCThreshold.WallNanos = int64(v)
		case fieldGCLogical:
			c.GCThreshold.Logical = int32(v)
		case fieldFreeze:
			c.Freeze, err = DecodeFreeze(data)
		case fieldUnfreeze:
			c.Unfreeze, err = decodeUnfreeze(data)
		case fieldMerge:
			c.Merge, err = decodeMerge(data)
		case fieldDigest:
			c.Digest = v != 0
		case fieldLogical:
			c.LogicalBytes = protowire.DecodeZigZag(v)
		case fieldSplitWall:
			high.WallNanos = int64(v)
		case fieldSplitLogic:
			high.Logical = int32(v)
		case fieldOutcome:
			c.Outcome = data
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if (left == nil) != (right == nil) {
		return nil, fmt.Errorf("%w: split with one side", ErrCorrupt)
	}
	if left != nil {
		c.Split = &SplitTrigger{Left: *left, Right: *right, HighWater: high}
	}
	return c, nil
}

const fieldEntryCommand = 1

// NewEntry starts an entry in b.
func NewEntry(b []byte) []byte { return append(b, Version) }

// EntryVersion is the version that an entry must have to carry the command.
func (c *Command) EntryVersion() byte {
	pinned := c.ChangeDesc != nil && c.ChangeDesc.Pinned || c.Split != nil && (c.Split.Left.Pinned || c.Split.Right.Pinned)
	if c.Freeze != nil || c.Unfreeze != nil || c.Merge != nil || pinned {
		return VersionMerge
	}
	return Version
}

// RaiseEntry makes an entry's version at least v.
func RaiseEntry(entry []byte, v byte) { entry[0] = max(entry[0], v) }

// AppendToEntry appends an encoded command to an entry.
func AppendToEntry(entry, command []byte) []byte {
	return wire.AppendBytes(entry, fieldEntryCommand, command)
}

// EntrySize returns by how many bytes AppendToEntry makes an entry longer.
func EntrySize(command []byte) int {
	return protowire.SizeTag(fieldEntryCommand) + protowire.SizeBytes(len(command))
}

// DecodeEntry parses a raft entry into its commands, in order. They share memory with b.
func DecodeEntry(b []byte) ([]*Command, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: empty entry", ErrCorrupt)
	}
	if b[0] < versionUnborn || b[0] > VersionMerge {
		return nil, fmt.Errorf("raftcmd: entry has version %d, this binary knows up to %d; upgrade this node", b[0], VersionMerge)
	}
	unborn := b[0] == versionUnborn
	var cmds []*Command
	err := wire.Fields(b[1:], ErrCorrupt, func(num wire.Number, _ uint64, data []byte) error {
		if num != fieldEntryCommand {
			return nil
		}
		c, err := Decode(data)
		if err == nil {
			c.Unborn = unborn
			cmds = append(cmds, c)
		}
		return err
	})
	return cmds, err
}
