package group

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

// How many command IDs, and how many bytes of their outcomes, a range remembers (SAFETY
// S12), and by how much it may exceed that before it forgets the oldest. They are part of
// the replicated rule of expiry: never change them without a version (S17).
//
// Every command has a birth (raftcmd.Command.Birth): a bound that no try of it exceeds. When
// commands are forgotten, the newest of their births becomes the range's horizon. A command born
// at or before the horizon that is not remembered may be a late try of a forgotten one, and is
// rejected by every replica alike; a younger one can't be. The rule compares numbers in the log
// with numbers in the state, so that it holds however wrong the clocks are that births come from.
//
// A node holds the memory of every range it has, hot or long cold, so a range's is small: about
// 1.5 MiB at most. The right side of a split inherits the newest part only, and a horizon that
// covers the rest: tables that grow split often.
const (
	maxIDs            = 1 << 14
	maxOutcomeBytes   = 512 << 10
	expireSlack       = 16 // one 16th
	inheritedPart     = 8  // one 8th of the above
	outcomeBytesAtAll = maxOutcomeBytes + maxOutcomeBytes/expireSlack
)

const idLen = len(raftcmd.ID{})

// appliedIDs is the replicated memory of applied commands, in memory and on disk.
type appliedIDs struct {
	rangeID keys.RangeID
	byID    map[raftcmd.ID]appliedID
	order   []idGroup // oldest first
	bytes   int       // of outcomes
	horizon int64     // newest birth of a forgotten command
	most    int       // IDs remembered: maxIDs, but in the simulator
}

type appliedID struct {
	outcome []byte
}

// idGroup is the commands that one entry applied.
type idGroup struct {
	index uint64
	birth int64 // newest of its commands'; 0: older than births
	ids   []raftcmd.ID
}

type idRecord struct {
	id      raftcmd.ID
	outcome []byte
}

func idsKey(id keys.RangeID, index uint64) keys.Key {
	return binary.BigEndian.AppendUint64(keys.RangeLocal(id, idsSuffix), index)
}

// loadIDs reads a range's memory. most, if not 0, is how many IDs it holds.
func loadIDs(r storage.Reader, id keys.RangeID, most int) (*appliedIDs, error) {
	a := &appliedIDs{rangeID: id, byID: map[raftcmd.ID]appliedID{}, most: most}
	if most == 0 {
		a.most = maxIDs
	}
	if b, ok, err := r.Get(keys.RangeLocal(id, horizonSuffix)); err != nil {
		return nil, err
	} else if ok {
		w, _, err := decodeWords(b, 1)
		if err != nil {
			return nil, err
		}
		a.horizon = int64(w[0])
	}
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
		var birth int64
		var cmds []idRecord
		if err == nil {
			birth, cmds, err = decodeIDs(v)
		}
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		a.remember(binary.BigEndian.Uint64(it.Key()[len(prefix):]), birth, cmds)
	}
	return a, it.Close()
}

// remember keeps nothing of cmds.
func (a *appliedIDs) remember(index uint64, birth int64, cmds []idRecord) {
	g := idGroup{index: index, birth: birth, ids: make([]raftcmd.ID, len(cmds))}
	for i, c := range cmds {
		g.ids[i] = c.id
		a.byID[c.id] = appliedID{outcome: bytes.Clone(c.outcome)}
		a.bytes += len(c.outcome)
	}
	a.order = append(a.order, g)
}

// expired reports whether a command that is not remembered may be a late try of a forgotten one.
func (a *appliedIDs) expired(birth int64) bool { return birth <= a.horizon }

// add remembers the commands that the entry at index applied, the newest of which was born at
// birth, and forgets the oldest ones when there are too many. It depends on nothing but what was
// added before (S17).
func (a *appliedIDs) add(w storage.Writer, index uint64, birth int64, cmds []idRecord) error {
	if len(cmds) == 0 {
		return nil
	}
	if err := w.Set(idsKey(a.rangeID, index), encodeIDs(birth, cmds)); err != nil {
		return err
	}
	a.remember(index, birth, cmds)
	if len(a.byID) <= a.most+a.most/expireSlack && a.bytes <= outcomeBytesAtAll {
		return nil
	}
	n, horizon := 0, a.horizon
	for (len(a.byID) > a.most || a.bytes > maxOutcomeBytes) && n < len(a.order)-1 {
		for _, id := range a.order[n].ids {
			a.bytes -= len(a.byID[id].outcome)
			delete(a.byID, id)
		}
		horizon = max(horizon, a.order[n].birth)
		n++
	}
	if horizon > a.horizon {
		a.horizon = horizon
		if err := writeHorizon(w, a.rangeID, horizon); err != nil {
			return err
		}
	}
	a.order = append([]idGroup(nil), a.order[n:]...)
	return w.DeleteRange(keys.RangeLocal(a.rangeID, idsSuffix), idsKey(a.rangeID, a.order[0].index))
}

func writeHorizon(w storage.Writer, id keys.RangeID, horizon int64) error {
	return w.Set(keys.RangeLocal(id, horizonSuffix), encodeWords(uint64(horizon)))
}

// inherit writes the memory of a new right-hand range: the newest of the left one's, a horizon
// that covers those that are left out (S20), and the commands of the entry that is being applied.
func (a *appliedIDs) inherit(w storage.Writer, right keys.RangeID, birth int64, current []idRecord) error {
	all := slices.Clone(current) // newest group first, until the end
	births := make([]int64, len(current))
	for i := range births {
		births[i] = birth
	}
	ids, size := len(current), 0
	for _, c := range current {
		size += len(c.outcome)
	}
	horizon, newest := a.horizon, max(a.horizon, birth)
	for _, g := range slices.Backward(a.order) {
		newest = max(newest, g.birth)
		if ids += len(g.ids); ids > a.most/inheritedPart {
			horizon = max(horizon, g.birth)
			continue
		}
		for _, id := range g.ids {
			size += len(a.byID[id].outcome)
		}
		if size > maxOutcomeBytes/inheritedPart {
			ids = math.MaxInt32 // the older ones are left out as well
			horizon = max(horizon, g.birth)
			continue
		}
		for _, id := range slices.Backward(g.ids) {
			all = append(all, idRecord{id: id, outcome: a.byID[id].outcome})
			births = append(births, g.birth)
		}
	}
	slices.Reverse(all)
	slices.Reverse(births)
	if horizon > 0 {
		if err := writeHorizon(w, right, horizon); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		return nil
	}
	if newest == 0 { // as it was before births: the same bytes
		return w.Set(idsKey(right, InitialIndex), encodeIDs(0, all))
	}
	// Groups are forgotten whole: in one piece, the right side would soon forget all at once what
	// it inherited, the newest too. The indexes up to InitialIndex are free for several.
	for i := range InitialIndex {
		lo, hi := i*len(all)/InitialIndex, (i+1)*len(all)/InitialIndex
		if lo == hi {
			continue
		}
		if err := w.Set(idsKey(right, uint64(i+1)), encodeIDs(slices.Max(births[lo:hi]), all[lo:hi])); err != nil {
			return err
		}
	}
	return nil
}

// idsBornVersion is the version of a group with births.
const idsBornVersion = 2

// encodeIDs writes a version byte, the group's birth, then each ID with its outcome behind its
// length. A group without birth is written as it was before there were any.
func encodeIDs(birth int64, cmds []idRecord) []byte {
	n := 9
	for i := range cmds {
		n += idLen + binary.MaxVarintLen32 + len(cmds[i].outcome)
	}
	b := make([]byte, 1, n)
	if b[0] = stateVersion; birth != 0 {
		b[0] = idsBornVersion
		b = binary.BigEndian.AppendUint64(b, uint64(birth))
	}
	for i := range cmds {
		b = append(b, cmds[i].id[:]...)
		b = binary.AppendUvarint(b, uint64(len(cmds[i].outcome)))
		b = append(b, cmds[i].outcome...)
	}
	return b
}

// decodeIDs returns outcomes that lie in b.
func decodeIDs(b []byte) (birth int64, cmds []idRecord, err error) {
	switch {
	case len(b) >= 9 && b[0] == idsBornVersion:
		birth = int64(binary.BigEndian.Uint64(b[1:]))
		b = b[9:]
	case len(b) > 0 && b[0] == stateVersion:
		b = b[1:]
	default:
		return 0, nil, fmt.Errorf("group: command IDs %x are of no version up to %d; a newer binary wrote them, or they are damaged", b[:min(len(b), 8)], idsBornVersion)
	}
	for len(b) > 0 {
		var c idRecord
		if len(b) < idLen {
			return 0, nil, fmt.Errorf("group: command ID of %d bytes, want %d", len(b), idLen)
		}
		copy(c.id[:], b)
		n, w := binary.Uvarint(b[idLen:])
		if w <= 0 || n > uint64(len(b)-idLen-w) {
			return 0, nil, fmt.Errorf("group: outcome of command %x announces more than the %d bytes left", c.id, len(b)-idLen)
		}
		if b = b[idLen+w:]; n > 0 {
			c.outcome = b[:n:n]
		}
		b = b[n:]
		cmds = append(cmds, c)
	}
	return birth, cmds, nil
}
