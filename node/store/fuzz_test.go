package store

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/replica/raftcmd"
)

func FuzzDecode(f *testing.F) {
	f.Add(encodeReplicaMsg(3, &kv.RangeDescriptor{RangeID: 7, Start: keys.Key("a"), End: keys.Key("z")}))
	f.Add([]byte{recordVersion, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2})
	whole := status{said: true, counted: true, replicas: 3, leases: 2, receiving: 1, diskUsed: 5 << 30, diskFree: 7 << 30}
	f.Add(whole.encode())
	f.Add(encodeLowest(9))
	f.Add(encodeFrozenMsg(3, 4, &raftcmd.FreezeTrigger{Attempt: raftcmd.ID{1}, Left: 2, LeftStart: keys.Key("a"), LeftGeneration: 5, Generation: 6}))
	f.Add(encodeReplicaMsg(3, &kv.RangeDescriptor{RangeID: 7, Start: keys.Key("a"), End: keys.Key("z"), Replicas: []kv.ReplicaDescriptor{{Node: 1, Replica: 3, Type: kv.Witness}}}))
	f.Add(encodeTail(7, 3, 99))
	f.Add(encodeCopies(5, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, d, err := decodeReplicaMsg(b); err == nil {
			again, d2, err := decodeReplicaMsg(encodeReplicaMsg(id, d))
			require.NoError(t, err)
			require.Equal(t, id, again)
			require.Equal(t, d.String(), d2.String())
		}
		if st := decodeStatus(b); st.counted {
			require.Equal(t, st, decodeStatus(st.encode()))
		}
		if id, rep, t1, err := decodeFrozenMsg(b); err == nil {
			id2, rep2, t2, err := decodeFrozenMsg(encodeFrozenMsg(id, rep, t1))
			require.NoError(t, err)
			require.Equal(t, id, id2)
			require.Equal(t, rep, rep2)
			require.Equal(t, t1, t2)
		}
		if id, err := decodeLowest(b); err == nil {
			require.Equal(t, b, encodeLowest(id))
		}
		if id, rep, dropped, err := decodeTail(b); err == nil {
			require.Equal(t, b, encodeTail(id, rep, dropped))
		}
		if all, two, err := decodeCopies(b); err == nil {
			require.Equal(t, b, encodeCopies(all, two))
		}
	})
}
