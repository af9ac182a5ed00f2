package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/recovery"
)

func decodeCounter(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

func encodeCounter(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// RefreshMeta has every range that this node leads look at its meta record again: the meta range may
// have been recovered from an older state (S29).
func (s *Store) RefreshMeta() {
	for _, r := range s.all() {
		r.metaGen.Store(0)
	}
}

// SettleMeta writes the meta record of a range that was recovered here, and removes those of ranges
// that end within it: they tell of splits that nothing is left of. Whoever leads a range knows that no
// other one ends inside.
func (s *Store) SettleMeta(ctx context.Context, id keys.RangeID) error {
	r := s.get(id)
	if r == nil {
		return nil // moved away since, and it was settled for that
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	if _, ok := r.leads(); !ok && r.hasLeader() {
		s.logger.Warn("a recovered range has another leaseholder by now, which sees to its meta record; records of ranges that end within it may be left", "range", id)
		return nil
	} else if !ok {
		return fmt.Errorf("store: range %d has no leader: %s", id, recovery.PassingText)
	}
	r.metaGen.Store(0)
	if err := s.settle(ctx, r); err != nil {
		return err
	}
	d := r.desc()
	ctx, cancel := context.WithTimeout(ctx, metaTimeout)
	defer cancel()
	return s.dropMetaWithin(ctx, d)
}

// dropMetaWithin removes the meta records of ranges that end inside d.
func (s *Store) dropMetaWithin(ctx context.Context, d *kv.RangeDescriptor) error {
	from := d.Start
	if from.Less(keys.MetaMax) {
		from = keys.MetaMax // the meta range ends there, and nothing before it
	}
	span := keys.Span{Key: keys.Meta(from).Next(), EndKey: keys.Meta(d.End)}
	for span.Key.Less(span.EndKey) {
		resp, err := sendOne[*kv.ScanResponse](ctx, &s.sender, &kv.ScanRequest{Span: span, MaxKeys: 1000})
		if err != nil {
			return err
		}
		for _, row := range resp.Rows {
			if err := s.dropMeta(ctx, row.Key, d); err != nil {
				return err
			}
		}
		if resp.ResumeSpan == nil {
			return nil
		}
		span = *resp.ResumeSpan
	}
	return nil
}

func (s *Store) dropMeta(ctx context.Context, key keys.Key, d *kv.RangeDescriptor) error {
	for try := 0; ; try++ {
		got, err := sendOne[*kv.GetResponse](ctx, &s.sender, &kv.GetRequest{Key: key})
		if err != nil || !got.Exists {
			return err
		}
		have, err := kv.DecodeRangeDescriptor(got.Value)
		if err != nil {
			return fmt.Errorf("store: meta record %s: %w", key, err)
		}
		_, err = sendOne[*kv.PutResponse](ctx, &s.sender, &kv.PutRequest{Key: key, Delete: true, Cond: kv.Condition{Check: true, Seen: got.Version}})
		var retry *kv.RetryError
		var old *kv.WriteTooOldError
		if (errors.As(err, &retry) || errors.As(err, &old)) && try < metaTries {
			continue
		}
		if err == nil {
			s.logger.Warn("removed the meta record of a range that the recovery left nothing of", "range", have.RangeID, "record", have.String(), "within", d.String())
		}
		return err
	}
}
