package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/kv/dist"
	"github.com/atolldb/atoll/node/raftnet"
)

// handle registers what other nodes ask of the store.
func (s *Store) handle() {
	n := s.cfg.Network
	n.Handle(raftnet.MethodKVBatch, func(ctx context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
		return serve(ctx, s, payload), nil
	})
	n.Handle(raftnet.MethodReplicaCreate, s.onReplicaCreate)
	n.Handle(raftnet.MethodReplicaRemove, s.onReplicaRemove)
	n.Handle(raftnet.MethodReplicaDigest, s.onDigest)
	n.Handle(raftnet.MethodReplicaQuarantine, s.onQuarantine)
	n.Handle(raftnet.MethodReplicaFrozen, s.onFrozen)
	n.Handle(raftnet.MethodKVRangeLookup, s.onMetaDesc)
	n.Handle(raftnet.MethodStatus, s.onStatus)
	n.Handle(raftnet.MethodReplicaClosed, s.onClosed)
	n.Handle(raftnet.MethodReplicaTail, s.onTail)
}

const (
	metaTries   = 8
	metaTimeout = 10 * time.Second
)

// writeMeta brings the meta record of a range up to desc, unless it is at or beyond that
// generation already.
func (s *Store) writeMeta(ctx context.Context, desc *kv.RangeDescriptor) error {
	r := s.get(desc.RangeID)
	if r != nil && r.metaGen.Load() >= desc.Generation {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, metaTimeout)
	defer cancel()
	key := keys.Meta(desc.End)
	for try := 0; ; try++ {
		got, err := sendOne[*kv.GetResponse](ctx, &s.sender, &kv.GetRequest{Key: key})
		if err != nil {
			return err
		}
		if got.Exists {
			have, err := kv.DecodeRangeDescriptor(got.Value)
			if err != nil {
				return fmt.Errorf("store: meta record %s: %w", key, err)
			}
			if have.Generation >= desc.Generation {
				break
			}
		}
		_, err = sendOne[*kv.PutResponse](ctx, &s.sender, &kv.PutRequest{Key: key, Value: kv.EncodeRangeDescriptor(nil, desc),
			Cond: kv.Condition{Check: true, Seen: got.Version}})
		var retry *kv.RetryError
		var old *kv.WriteTooOldError
		if (errors.As(err, &retry) || errors.As(err, &old)) && try < metaTries {
			continue
		}
		if err != nil {
			return err
		}
		s.metrics.metaWrites.Inc()
		break
	}
	if err := s.dropInnerMeta(ctx, desc); err != nil {
		return err
	}
	if r != nil {
		r.metaGen.Store(desc.Generation)
	}
	return nil
}

// maxInnerMeta is how many records are looked at inside a range: one merge leaves one.
const maxInnerMeta = 64

// dropInnerMeta removes the records of ranges that end inside desc and are older: the left side of a
// merge had its record where its right neighbour began (S20, S29). What is younger was split off since.
func (s *Store) dropInnerMeta(ctx context.Context, desc *kv.RangeDescriptor) error {
	span := keys.Span{Key: keys.Meta(desc.Start).Next(), EndKey: keys.Meta(desc.End)}
	got, err := sendOne[*kv.ScanResponse](ctx, &s.sender, &kv.ScanRequest{Span: span, MaxKeys: maxInnerMeta})
	if err != nil {
		return err
	}
	for _, row := range got.Rows {
		have, err := kv.DecodeRangeDescriptor(row.Value)
		if err != nil {
			return fmt.Errorf("store: meta record %s: %w", row.Key, err)
		}
		if have.Generation >= desc.Generation {
			continue
		}
		if _, err := sendOne[*kv.PutResponse](ctx, &s.sender, &kv.PutRequest{Key: row.Key, Delete: true,
			Cond: kv.Condition{Check: true, Seen: row.Version}}); err != nil {
			return err // it was changed meanwhile: whoever did has newer news, and the next try sees
		}
	}
	return nil
}

// lookup reads the descriptor of the range that holds key from meta.
func (s *Store) lookup(ctx context.Context, key keys.Key) (*kv.RangeDescriptor, error) {
	resp, err := sendOne[*kv.ScanResponse](ctx, &s.sender, &kv.ScanRequest{
		Span: keys.Span{Key: keys.Meta(key).Next(), EndKey: keys.MetaMax}, MaxKeys: 1})
	if err != nil {
		return nil, err
	}
	if len(resp.Rows) == 0 {
		return nil, fmt.Errorf("store: meta knows no range that holds %s", key)
	}
	d, err := kv.DecodeRangeDescriptor(resp.Rows[0].Value)
	return &d, err
}

// learnMeta remembers where the meta range is (S29).
func (s *Store) learnMeta(d kv.RangeDescriptor) {
	s.structure.Lock()
	defer s.structure.Unlock()
	if have := s.metaDesc.Load(); have != nil && have.Generation >= d.Generation {
		return
	}
	if err := s.log.SetLocal([]byte(metaDescKey), kv.EncodeRangeDescriptor(nil, &d)); err != nil {
		return
	}
	s.metaDesc.Store(&d)
}

// onMetaDesc takes the meta range's descriptor, and answers with the one known here.
func (s *Store) onMetaDesc(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	if len(payload) > 0 {
		d, err := kv.DecodeRangeDescriptor(payload)
		if err != nil {
			return nil, err
		}
		if d.RangeID == keys.MetaRangeID {
			s.learnMeta(d)
		}
	}
	if d, ok := s.MetaSeed(); ok {
		return kv.EncodeRangeDescriptor(nil, &d), nil
	}
	return nil, nil
}

// spreadMeta tells all nodes where the meta range is while its lease is here, and asks as
// long as this node does not know.
func (s *Store) spreadMeta() {
	const every = 5 * time.Second
	var told int64
	for n := 0; ; n++ {
		wait := every
		d, known := s.MetaSeed()
		r := s.get(keys.MetaRangeID)
		nodes := s.cfg.Directory.Nodes()
		if r != nil && known {
			if _, leads := r.leads(); leads && (told != d.Generation || n%6 == 0) {
				told = d.Generation
				for _, node := range nodes {
					if node != s.cfg.Node {
						s.cfg.Network.Notify(node, raftnet.Control, raftnet.MethodKVRangeLookup, kv.EncodeRangeDescriptor(nil, &d))
					}
				}
			}
		}
		if !known && len(nodes) > 0 {
			wait = 200 * time.Millisecond
			if node := nodes[n%len(nodes)]; node != s.cfg.Node {
				s.askMeta(node)
			}
		}
		if !s.sleep(wait) {
			return
		}
	}
}

func (s *Store) askMeta(node keys.NodeID) {
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
	defer cancel()
	b, err := s.cfg.Network.Call(ctx, node, raftnet.Control, raftnet.MethodKVRangeLookup, nil)
	if err != nil || len(b) == 0 {
		return
	}
	if d, err := kv.DecodeRangeDescriptor(b); err == nil && d.RangeID == keys.MetaRangeID {
		s.learnMeta(d)
	}
}

func serve(ctx context.Context, s *Store, payload []byte) []byte { return dist.Serve(ctx, s, payload) }
