package mvcc

import (
	"errors"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
)

// ScanOptions bound a scan, besides what ReadOptions say.
type ScanOptions struct {
	ReadOptions
	// Reverse scans from the end of the span.
	Reverse bool
	// MaxKeys ends the scan after that many rows; 0 means no limit.
	MaxKeys int64
	// TargetBytes ends the scan once its rows (keys and values) reach that; 0 means no limit.
	TargetBytes int64
	// ScanBytes ends the scan once the rows looked at reach that, whether Filter kept them or
	// not; 0 means no limit.
	ScanBytes int64
	// MaxIntents ends the scan after that many foreign intents; 0 means 1000.
	MaxIntents int
	// SkipLocked leaves keys with a foreign intent out of the rows, and does not count them
	// towards MaxKeys.
	SkipLocked bool
	// Filter, if set, sees every row before it counts towards MaxKeys: it says whether to keep
	// it, and may return another value (valid until its next call). key and value are valid
	// during the call.
	Filter func(key keys.Key, value []byte) (keep bool, out []byte, err error)
}

// ScanResult is what a scan found.
type ScanResult struct {
	Rows []kv.KeyValue // in the order of the scan; they share memory with each other only
	// Intents are the foreign ones that the caller must push before it scans again (Rows are
	// then of no use, unless SkipLocked).
	Intents []Intent
	// Resume is the part not looked at; nil if the scan reached its end.
	Resume *keys.Span
	// NumBytes is the size of Rows, keys and values.
	NumBytes int64
}

const defaultMaxIntents = 1000

// Scan reads the newest version at or below ts of every key in span. A newer version that
// counts (ReadOptions) fails it with an error of the newest such version within the scan's
// limits, so that one retry is enough.
func Scan(r storage.Reader, span keys.Span, ts hlc.Timestamp, o ScanOptions) (ScanResult, error) {
	it, err := r.NewIter(storage.IterOptions{Lower: span.Key, Upper: span.End()})
	if err != nil {
		return ScanResult{}, err
	}
	s := scanner{it: it, ts: ts, o: &o, span: span}
	if o.MaxIntents == 0 {
		o.MaxIntents = defaultMaxIntents
	}
	if o.Reverse {
		err = s.backward()
	} else {
		err = s.forward()
	}
	if cerr := it.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.conflict()
	}
	if err != nil {
		return ScanResult{}, err
	}
	return s.res, nil
}

type scanner struct {
	it   *storage.Iterator
	ts   hlc.Timestamp
	o    *ScanOptions
	span keys.Span
	res  ScanResult

	key     keys.Key // of the row in hand; own memory
	seen    int64    // rows that count towards MaxKeys
	scanned int64    // bytes looked at
	stored  []byte   // the stored version that single reads
	chunk   []byte   // where rows are copied to

	tooOld    *kv.WriteTooOldError
	uncertain *kv.UncertaintyError
}

func (s *scanner) forward() error {
	for ok := s.it.First(); ok; {
		s.key = append(s.key[:0], s.it.Key()...)
		f, err := lookup(s.it, s.key, s.ts, &s.o.ReadOptions, false)
		if err := s.add(f, err); err != nil {
			return err
		}
		if s.full() {
			s.res.Resume = &keys.Span{Key: s.key.Next(), EndKey: s.span.End()}
			return nil
		}
		if ok = s.it.Valid(); ok && s.it.Key().Equal(s.key) {
			ok = s.it.NextKey()
		}
	}
	return s.it.Error()
}

func (s *scanner) backward() error {
	for ok := s.it.Last(); ok; {
		s.key = append(s.key[:0], s.it.Key()...)
		f, at, err := s.lookupBackward()
		if err := s.add(f, err); err != nil {
			return err
		}
		if s.full() {
			s.res.Resume = &keys.Span{Key: s.span.Key, EndKey: s.key.Clone()}
			return nil
		}
		if at {
			ok = s.it.Valid()
		} else {
			ok = s.it.SeekLT(s.key, hlc.Timestamp{})
		}
	}
	return s.it.Error()
}

// lookupBackward reads the key at whose last entry the iterator stands. at says that the
// iterator stands at the last entry of the key before.
func (s *scanner) lookupBackward() (f found, at bool, err error) {
	// Most keys have one version: remember it and look whether another entry comes before it.
	last := s.it.Version()
	if !last.IsEmpty() {
		b, err := s.it.Value()
		if err != nil {
			return f, false, err
		}
		s.stored = append(s.stored[:0], b...)
		if !s.it.Prev() || !s.it.Key().Equal(s.key) {
			if err := s.it.Error(); err != nil {
				return f, false, err
			}
			f, err = s.single(last)
			return f, true, err
		}
	}
	if !s.it.SeekGE(s.key, hlc.Timestamp{}) {
		return f, false, errors.Join(s.it.Error(), errors.New("mvcc: a key vanished under an iterator"))
	}
	f, err = lookup(s.it, s.key, s.ts, &s.o.ReadOptions, false)
	return f, false, err
}

// single is lookup for a key whose only entry is a version, with its value in s.stored.
func (s *scanner) single(v hlc.Timestamp) (f found, err error) {
	switch {
	case v.LessEq(s.ts):
		f.version = v
		f.value, f.live, err = decodeValue(s.stored)
		return f, err
	case s.o.FailOnMoreRecent:
		return f, &kv.WriteTooOldError{Key: s.key.Clone(), Actual: v}
	case v.LessEq(s.o.UncertaintyLimit):
		return f, &kv.UncertaintyError{Key: s.key.Clone(), Read: s.ts, Existing: v}
	}
	return f, nil
}

// add takes in what the lookup of s.key gave. Conflicts with newer versions are collected.
func (s *scanner) add(f found, err error) error {
	if err != nil {
		return s.collect(err)
	}
	if f.intent != nil {
		s.res.Intents = append(s.res.Intents, *f.intent)
		if s.o.SkipLocked {
			return nil
		}
		if !f.live {
			s.seen++ // it may become a row
		}
	}
	if !f.live {
		return nil
	}
	s.scanned += int64(len(s.key) + len(f.value))
	value := f.value
	if s.o.Filter != nil {
		keep, out, err := s.o.Filter(s.key, value)
		if err != nil || !keep {
			return err
		}
		value = out
	}
	s.seen++
	s.res.NumBytes += int64(len(s.key) + len(value))
	s.res.Rows = append(s.res.Rows, s.row(value, f.version))
	return nil
}

// collect keeps a conflict with a newer version for later, and passes other errors on.
func (s *scanner) collect(err error) error {
	var tooOld *kv.WriteTooOldError
	var uncertain *kv.UncertaintyError
	switch {
	case errors.As(err, &tooOld):
		if s.tooOld == nil {
			s.tooOld = tooOld
		}
		s.tooOld.Actual.Forward(tooOld.Actual)
	case errors.As(err, &uncertain):
		if s.uncertain == nil {
			s.uncertain = uncertain
		}
		s.uncertain.Existing.Forward(uncertain.Existing)
	default:
		return err
	}
	s.seen++
	return nil
}

// conflict returns the collected conflict, if any.
func (s *scanner) conflict() error {
	if s.tooOld != nil {
		return s.tooOld
	}
	if s.uncertain != nil {
		return s.uncertain
	}
	return nil
}

func (s *scanner) full() bool {
	return (s.o.MaxKeys > 0 && s.seen >= s.o.MaxKeys) ||
		(s.o.TargetBytes > 0 && s.res.NumBytes >= s.o.TargetBytes) ||
		(s.o.ScanBytes > 0 && s.scanned >= s.o.ScanBytes) ||
		len(s.res.Intents) >= s.o.MaxIntents
}

// Rows are copied into chunks, from the first size doubling to the second.
const (
	minChunk = 1 << 10
	maxChunk = 256 << 10
)

// row copies a row into the chunk.
func (s *scanner) row(value []byte, version hlc.Timestamp) kv.KeyValue {
	n := len(s.key) + len(value)
	if cap(s.chunk)-len(s.chunk) < n {
		s.chunk = make([]byte, 0, max(n, min(maxChunk, max(minChunk, 2*cap(s.chunk)))))
	}
	from := len(s.chunk)
	mid, end := from+len(s.key), from+n
	s.chunk = append(append(s.chunk, s.key...), value...)
	return kv.KeyValue{Key: keys.Key(s.chunk[from:mid:mid]), Value: s.chunk[mid:end:end], Version: version}
}
