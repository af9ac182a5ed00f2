package mvcc

import (
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/storage"
)

// Stats counts what a span holds, or by how much a write changed that. Bytes are those of
// keys and values before compression, with 14 more to a version for its timestamp.
type Stats struct {
	Bytes    int64 // of versions and intent records
	Versions int64 // tombstones and provisional versions included
	Intents  int64
}

// Add adds d.
func (s *Stats) Add(d Stats) {
	s.Bytes += d.Bytes
	s.Versions += d.Versions
	s.Intents += d.Intents
}

const versionOverhead = 14

func (s *Stats) version(key keys.Key, stored int, sign int64) {
	if s != nil {
		s.Versions += sign
		s.Bytes += sign * int64(len(key)+stored+versionOverhead)
	}
}

func (s *Stats) record(key keys.Key, record int, sign int64) {
	if s != nil {
		s.Intents += sign
		s.Bytes += sign * int64(len(key)+record+1)
	}
}

// ComputeStats counts a span of versioned keys by reading all of it.
func ComputeStats(r storage.Reader, span keys.Span) (Stats, error) {
	var s Stats
	it, err := r.NewIter(storage.IterOptions{Lower: span.Key, Upper: span.End()})
	if err != nil {
		return s, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.Value()
		if err != nil {
			_ = it.Close()
			return s, err
		}
		if it.Version() == (hlc.Timestamp{}) {
			s.record(it.Key(), len(v), 1)
		} else {
			s.version(it.Key(), len(v), 1)
		}
	}
	return s, it.Close()
}
