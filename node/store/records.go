package store

import (
	"encoding/binary"
	"fmt"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
)

// Local records of the log engine. Values begin with recordVersion.
const (
	replicaPrefix   = "r/r/" // + range: replica ID, state
	tombstonePrefix = "r/t/" // + range: the lowest replica ID that may be made here
	foundedKey      = "r/founded"
	metaDescKey     = "r/meta" // the meta range's descriptor as it is known here (S29)

	recordVersion = 1
)

type recordState uint8

const (
	recordLive     recordState = 0
	recordRemoving recordState = 1
	recordMute     recordState = 2 // it lives, but must not vote (S18)
)

// replicaRecord says that a replica exists on this node.
type replicaRecord struct {
	rangeID keys.RangeID
	replica keys.ReplicaID
	state   recordState
	witness bool // for as long as it lives (S22)
}

// recordWitness follows the state in the record of a witness. A binary that knows no witnesses
// refuses the longer record: it would take the replica for one that holds data.
const recordWitness = 1

func recordKey(prefix string, id keys.RangeID) []byte {
	return binary.BigEndian.AppendUint64([]byte(prefix), uint64(id))
}

func (r replicaRecord) value() []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordVersion}, uint64(r.replica))
	b = append(b, byte(r.state))
	if r.witness {
		b = append(b, recordWitness)
	}
	return b
}

func setRecord(u *storage.LocalUpdate, r replicaRecord) error {
	return u.Set(recordKey(replicaPrefix, r.rangeID), r.value())
}

func setTombstone(u *storage.LocalUpdate, id keys.RangeID, next keys.ReplicaID) error {
	return u.Set(recordKey(tombstonePrefix, id), binary.BigEndian.AppendUint64([]byte{recordVersion}, uint64(next)))
}

func listRecords(log *storage.LogEngine) ([]replicaRecord, error) {
	recs, err := log.ScanLocal([]byte(replicaPrefix))
	if err != nil {
		return nil, err
	}
	var out []replicaRecord
	for _, r := range recs {
		witness := len(r.Value) == 11 && r.Value[10] == recordWitness
		if len(r.Key) != len(replicaPrefix)+8 || len(r.Value) != 10 && !witness || r.Value[0] != recordVersion {
			return nil, fmt.Errorf("store: local record %x holds %x; the store is damaged or from a newer version", r.Key, r.Value)
		}
		out = append(out, replicaRecord{
			rangeID: keys.RangeID(binary.BigEndian.Uint64(r.Key[len(replicaPrefix):])),
			replica: keys.ReplicaID(binary.BigEndian.Uint64(r.Value[1:])), state: recordState(r.Value[9]), witness: witness,
		})
	}
	return out, nil
}

// tombstone returns the lowest replica ID of a range that may be made on this node (S18).
func tombstone(log *storage.LogEngine, id keys.RangeID) (keys.ReplicaID, error) {
	b, ok, err := log.GetLocal(recordKey(tombstonePrefix, id))
	if err != nil || !ok {
		return 0, err
	}
	if len(b) != 9 || b[0] != recordVersion {
		return 0, fmt.Errorf("store: tombstone of range %d holds %x; the store is damaged or from a newer version", id, b)
	}
	return keys.ReplicaID(binary.BigEndian.Uint64(b[1:])), nil
}

func loadMetaDesc(log *storage.LogEngine) (*kv.RangeDescriptor, error) {
	b, ok, err := log.GetLocal([]byte(metaDescKey))
	if err != nil || !ok {
		return nil, err
	}
	d, err := kv.DecodeRangeDescriptor(b)
	return &d, err
}
