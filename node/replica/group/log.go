package group

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/storage"
)

// startKey is the stable key that names the position right before the log's first entry.
var startKey = []byte("AtollLogStart")

// absentEntry is the type of the entry that stands for the position before the log: it has a
// term, but its content is gone. It must never be replicated.
const absentEntry raft.LogType = 0xff

// logStore is a replica's raft log that also answers for the position right before its
// first entry: raft asks for that entry's term when it compares logs, and would send a
// snapshot for want of it.
type logStore struct {
	*storage.RaftLog

	mu      sync.Mutex
	start   Position
	booted  uint64 // the applied index at open, for which raft needs no log entry
	bytes   int64  // of the entries appended since entries was last counted
	entries int64
}

func openLog(l *storage.RaftLog) (*logStore, error) {
	s := &logStore{RaftLog: l}
	b, err := l.Get(startKey)
	if err != nil {
		return nil, err
	}
	if len(b) > 0 {
		w, _, err := decodeWords(b, 2)
		if err != nil {
			return nil, err
		}
		s.start = Position{Index: w[0], Term: w[1]}
	}
	return s, nil
}

// setStart records the position before the first entry, synced.
func (s *logStore) setStart(p Position) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.start == p {
		return nil
	}
	if err := s.RaftLog.Set(startKey, encodeWords(p.Index, p.Term)); err != nil {
		return err
	}
	s.start = p
	return nil
}

// GetLog implements raft.LogStore.
func (s *logStore) GetLog(index uint64, out *raft.Log) error {
	err := s.RaftLog.GetLog(index, out)
	if !errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Raft asks for the entry before those that it is to send, and then for these. It does not ask
	// before the first one after the applied index that it was opened with: it knows that term, and
	// would take what is said here for an entry to send.
	if index > 1 && index == s.start.Index && index != s.booted+1 {
		*out = raft.Log{Index: index, Term: s.start.Term, Type: absentEntry}
		return nil
	}
	return raft.ErrLogNotFound
}

// checkEntries refuses to send what stands for an entry that is gone: the log may be truncated
// between the moment raft reads the entry before and the moment it reads the first to send. Raft
// tries again, misses the entry before, and sends a snapshot.
func checkEntries(entries []*raft.Log) error {
	for _, e := range entries {
		if e.Type == absentEntry {
			return fmt.Errorf("group: entry %d was truncated while it was read", e.Index)
		}
	}
	return nil
}

// StoreLogs implements raft.LogStore.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if err := s.RaftLog.StoreLogs(logs); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range logs {
		s.bytes += int64(len(l.Data)) + 64
		s.entries++
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// sizeEstimate returns about how many bytes n entries take.
func (s *logStore) sizeEstimate(n uint64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries == 0 {
		return 0
	}
	return int64(float64(s.bytes) / float64(s.entries) * float64(n))
}

// reconcile makes the log fit the applied position at open. A log that ends below it, or
// that has another entry there, is older than the state (a crash between the installation
// of a snapshot and the removal of the log): its tail was never committed.
func (s *logStore) reconcile(applied Position) error {
	s.mu.Lock()
	s.booted = applied.Index
	s.mu.Unlock()
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	switch {
	case last == 0 && applied.Index == 0:
		return nil // an empty replica
	case last == 0:
		return s.setStart(applied)
	case first > applied.Index+1:
		return fmt.Errorf("group: the raft log starts at %d, the state ends at %d: entries between them are lost; remove this replica",
			first, applied.Index)
	case last >= applied.Index:
		if first > applied.Index {
			return nil
		}
		var e raft.Log
		if err := s.RaftLog.GetLog(applied.Index, &e); err != nil || e.Term == applied.Term {
			return err
		}
	}
	return s.reset(applied)
}

// reset empties the log: the state at p replaces it.
func (s *logStore) reset(p Position) error {
	if err := s.RaftLog.Reset(); err != nil {
		return err
	}
	return s.setStart(p)
}

// truncate removes the entries up to and including p.
// REQUIRES: S16; the state engine has made p durable.
func (s *logStore) truncate(p Position) error {
	// The start is recorded first: after a crash between the two it lies inside the log,
	// where it does no harm.
	if err := s.setStart(p); err != nil {
		return err
	}
	if err := s.RaftLog.Truncate(p.Index); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries > 1<<16 { // let the average follow the newer entries
		s.bytes, s.entries = s.bytes/2, s.entries/2
	}
	return nil
}
