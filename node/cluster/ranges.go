package cluster

import (
	"encoding/binary"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// NodeIDKey and RangeIDKey are the counters from which IDs are allocated (S18).
var (
	NodeIDKey  = keys.System("ids/node")
	RangeIDKey = keys.System("ids/range")
)

// maxInitialVoters bounds the voters of the first ranges.
const maxInitialVoters = 5

// voters returns the members that hold the first ranges: one for each zone, in the order of
// the plan, an odd number. A member without a zone is a zone of its own.
func (p *Plan) voters() []NodeInfo {
	seen := map[string]bool{}
	var out []NodeInfo
	for _, m := range p.Members {
		if zone := m.Region + "/" + m.Zone; m.Zone == "" || !seen[zone] {
			seen[zone] = true
			out = append(out, m)
		}
	}
	out = out[:min(len(out), maxInitialVoters)]
	if len(out)%2 == 0 {
		out = out[:len(out)-1]
	}
	return out
}

// InitialRanges returns the descriptors of a new cluster's two ranges: the meta range and
// everything else.
func (p *Plan) InitialRanges() [2]kv.RangeDescriptor {
	var replicas []kv.ReplicaDescriptor
	for i, m := range p.voters() {
		replicas = append(replicas, kv.ReplicaDescriptor{Node: m.ID, Replica: keys.ReplicaID(i + 1)})
	}
	next := keys.ReplicaID(len(replicas) + 1)
	meta := kv.RangeDescriptor{RangeID: keys.MetaRangeID, Start: keys.MinKey, End: keys.MetaMax, Replicas: replicas, NextReplicaID: next, Generation: 1}
	data := kv.RangeDescriptor{RangeID: keys.FirstDataRangeID, Start: keys.MetaMax, End: keys.MaxKey, Replicas: replicas, NextReplicaID: next, Generation: 1}
	return [2]kv.RangeDescriptor{meta.Clone(), data.Clone()}
}

// Timestamp is the version of everything that a founding writes.
func (p *Plan) Timestamp() hlc.Timestamp { return hlc.Timestamp{WallNanos: p.CreatedAt} }

// InitialData returns the keys and values with which the cluster begins, in key order.
func (p *Plan) InitialData() []kv.KeyValue {
	ranges := p.InitialRanges()
	var out []kv.KeyValue
	for i := range ranges {
		out = append(out, kv.KeyValue{Key: keys.Meta(ranges[i].End), Value: kv.EncodeRangeDescriptor(nil, &ranges[i])})
	}
	count := func(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	out = append(out,
		kv.KeyValue{Key: NodeIDKey, Value: count(len(p.Members))},
		kv.KeyValue{Key: RangeIDKey, Value: count(len(ranges))})
	for i := range p.Members {
		out = append(out, kv.KeyValue{Key: keys.NodeDirectory(p.Members[i].ID), Value: p.Members[i].Encode()})
	}
	if p.Verifier != "" {
		out = append(out, kv.KeyValue{Key: keys.SuperuserVerifier(), Value: []byte(p.Verifier)})
	}
	return out
}
