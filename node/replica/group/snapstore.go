package group

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/storage"
)

// Configuration returns the raft configuration of a descriptor.
func Configuration(d *kv.RangeDescriptor) raft.Configuration {
	var c raft.Configuration
	for _, r := range d.Replicas {
		id := ServerID(r.Node, r.Replica)
		s := raft.Server{Suffrage: raft.Voter, ID: id, Address: raftnet.ServerAddress(id, !r.Type.HoldsData())}
		if !r.Type.Votes() {
			s.Suffrage = raft.Nonvoter
		}
		c.Servers = append(c.Servers, s)
	}
	return c
}

// snapshotStore shows raft the state engine as its only snapshot.
type snapshotStore Group

// List implements raft.SnapshotStore. At start raft takes the applied index, its term and
// the configuration from here, so they are exactly those of the state: anything later would
// make raft skip committed commands.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	st := s.fsm.snapshotState()
	if !st.Initialized() {
		return nil, nil
	}
	return []*raft.SnapshotMeta{snapshotMeta(&st)}, nil
}

func snapshotMeta(st *State) *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: fmt.Sprintf("%d-%d", st.Applied.Term, st.Applied.Index),
		Index: st.Applied.Index, Term: st.Applied.Term,
		Configuration: st.Config.Clone(), ConfigurationIndex: st.ConfigIndex,
	}
}

// Open implements raft.SnapshotStore: a view of the state as it is now, which may be later
// than the listed one.
func (s *snapshotStore) Open(string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if s.cfg.Witness {
		return nil, nil, errWitnessSends
	}
	snap, err := s.cfg.State.NewSnapshot()
	if err != nil {
		return nil, nil, err
	}
	st, err := LoadState(snap, s.cfg.RangeID)
	if err == nil && !st.Initialized() {
		err = fmt.Errorf("group: range %d has no state to send", s.cfg.RangeID)
	}
	if err != nil {
		return nil, nil, errors.Join(err, snap.Close())
	}
	return snapshotMeta(&st), &snapshotSource{snap: snap, state: st}, nil
}

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(raft.SnapshotVersion, uint64, uint64, raft.Configuration, uint64, raft.Transport) (raft.SnapshotSink, error) {
	return nil, errors.New("group: raft takes and receives no snapshots by itself")
}

// snapshotSource carries a storage snapshot through raft to transport.InstallSnapshot.
type snapshotSource struct {
	snap  *storage.Snapshot
	state State
}

// Read implements io.Reader; the data does not pass through raft.
func (s *snapshotSource) Read([]byte) (int, error) {
	return 0, errors.New("group: a snapshot's data does not pass through raft")
}

// Close implements io.Closer.
func (s *snapshotSource) Close() error { return s.snap.Close() }
