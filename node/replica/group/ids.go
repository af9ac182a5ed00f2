package group

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

// How many command IDs, and how many bytes of their outcomes, a range remembers (SAFETY
// S12), and by how much it may exceed that before it forgets the oldest. They are part of
// the replicated rule of expiry: never change them without a version (S17).
const (
	maxIDs          = 1 << 17
	maxOutcomeBytes = 8 << 20
	expireSlack     = 16 // one 16th
)

const idLen = len(raftcmd.ID{})

// appliedIDs is the replicated memory of applied commands, in memory and on disk.
type appliedIDs struct {
	rangeID keys.RangeID
	byID    map[raftcmd.ID]appliedID
	order   []idGroup // oldest first
	bytes   int       // of outcomes
}

type appliedID struct {
	index   uint64 // of the entry that applied it
	outcome []byte
}

// idGroup is the commands that one entry applied.
type idGroup struct {
	index uint64
	cmds  []idRecord
}

type idRecord struct {
	id      raftcmd.ID
	outcome []byte
}

func idsKey(id keys.RangeID, index uint64) keys.Key {
	return binary.BigEndian.AppendUint64(keys.RangeLocal(id, idsSuffix), index)
}

func loadIDs(r storage.Reader, id keys.RangeID) (*appliedIDs, error) {
	a := &appliedIDs{rangeID: id, byID: map[raftcmd.ID]appliedID{}}
	prefix := keys.RangeLocal(id, idsSuffix)
	it, err := r.NewIter(storage.IterOptions{Lower: prefix, Upper: prefix.PrefixEnd()})
	if err != nil {
		return nil, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.Value()
		if err == nil && len(it.Key()) != len(prefix)+8 {
			err = fmt.Errorf("group: key %s of command IDs has %d bytes", it.Key(), len(it.Key()))
		}
		var g idGroup
		if err == nil {
			g.index = binary.BigEndian.Uint64(it.Key()[len(prefix):])
			g.cmds, err = decodeIDs(append([]byte(nil), v...))
		}
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		a.remember(g)
	}
	return a, it.Close()
}

func (a *appliedIDs) remember(g idGroup) {
	a.order = append(a.order, g)
	for _, c := range g.cmds {
		a.byID[c.id] = appliedID{index: g.index, outcome: c.outcome}
		a.bytes += len(c.outcome)
	}
}

// add remembers the commands that the entry at index applied, and forgets the oldest ones
// when there are too many. It depends on nothing but what was added before (S17).
func (a *appliedIDs) add(w storage.Writer, index uint64, cmds []idRecord) error {
	if len(cmds) == 0 {
		return nil
	}
	if err := w.Set(idsKey(a.rangeID, index), encodeIDs(cmds)); err != nil {
		return err
	}
	a.remember(idGroup{index: index, cmds: cmds})
	if len(a.byID) <= maxIDs+maxIDs/expireSlack && a.bytes <= maxOutcomeBytes+maxOutcomeBytes/expireSlack {
		return nil
	}
	n := 0
	for (len(a.byID) > maxIDs || a.bytes > maxOutcomeBytes) && n < len(a.order)-1 {
		for _, c := range a.order[n].cmds {
			a.bytes -= len(c.outcome)
			delete(a.byID, c.id)
		}
		n++
	}
	a.order = append([]idGroup(nil), a.order[n:]...)
	return w.DeleteRange(keys.RangeLocal(a.rangeID, idsSuffix), idsKey(a.rangeID, a.order[0].index))
}

// inherit writes the memory of a new right-hand range: the left one's (S20), and those of
// the entry that is being applied.
func (a *appliedIDs) inherit(w storage.Writer, right keys.RangeID, current []idRecord) error {
	var all []idRecord
	for _, g := range a.order {
		all = append(all, g.cmds...)
	}
	all = append(all, current...)
	if len(all) == 0 {
		return nil
	}
	return w.Set(idsKey(right, InitialIndex), encodeIDs(all))
}

// encodeIDs writes a version byte, then each ID with its outcome behind its length.
func encodeIDs(cmds []idRecord) []byte {
	n := 1
	for i := range cmds {
		n += idLen + binary.MaxVarintLen32 + len(cmds[i].outcome)
	}
	b := make([]byte, 1, n)
	b[0] = stateVersion
	for i := range cmds {
		b = append(b, cmds[i].id[:]...)
		b = binary.AppendUvarint(b, uint64(len(cmds[i].outcome)))
		b = append(b, cmds[i].outcome...)
	}
	return b
}

// decodeIDs keeps b.
func decodeIDs(b []byte) ([]idRecord, error) {
	if len(b) == 0 || b[0] != stateVersion {
		return nil, fmt.Errorf("group: command IDs %x are not version %d", b[:min(len(b), 8)], stateVersion)
	}
	var cmds []idRecord
	for b = b[1:]; len(b) > 0; {
		var c idRecord
		if len(b) < idLen {
			return nil, fmt.Errorf("group: command ID of %d bytes, want %d", len(b), idLen)
		}
		copy(c.id[:], b)
		n, w := binary.Uvarint(b[idLen:])
		if w <= 0 || n > uint64(len(b)-idLen-w) {
			return nil, fmt.Errorf("group: outcome of command %x announces more than the %d bytes left", c.id, len(b)-idLen)
		}
		if b = b[idLen+w:]; n > 0 {
			c.outcome = b[:n:n]
		}
		b = b[n:]
		cmds = append(cmds, c)
	}
	return cmds, nil
}
