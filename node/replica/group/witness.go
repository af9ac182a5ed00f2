package group

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
)

// errWitnessSends refuses a witness's snapshot: it would wipe a data replica (S22).
var errWitnessSends = errors.New("group: this replica is a witness: it has no data to send in a snapshot")

func kindName(witness bool) string {
	if witness {
		return "witness"
	}
	return "data replica"
}

// checkKinds makes sure that a configuration says of this replica what it is, and of the others
// what this binary knows.
func (f *fsm) checkKinds(c raft.Configuration) error {
	for _, sv := range c.Servers {
		witness, err := raftnet.IsWitness(sv)
		if err != nil {
			return err
		}
		if sv.ID == f.self && witness != f.witness {
			return fmt.Errorf("the raft configuration has replica %s as a %s, this node made it as a %s", sv.ID, kindName(witness), kindName(f.witness))
		}
	}
	return nil
}

// isWitness reports what a server of the latest configuration is.
func isWitness(r *raft.Raft, id raft.ServerID) (bool, error) {
	for _, sv := range r.GetConfiguration().Configuration().Servers {
		if sv.ID == id {
			return raftnet.IsWitness(sv)
		}
	}
	return false, fmt.Errorf("group: %s is no member of the range any more", id)
}

// Members are the replicas of a range's latest configuration, applied or not, as its leader sees
// their logs.
type Members struct {
	// Data are the voters that hold data.
	Data []DataVoter
	// Witnesses is how many witnesses there are, NewWitnesses how many of them don't vote yet.
	Witnesses, NewWitnesses int
	// Commit is up to where this replica knows that entries are committed.
	Commit uint64
}

// DataVoter is a voter that holds data. It has, synced, the leader's log up to Index.
type DataVoter struct {
	Node    keys.NodeID
	Replica keys.ReplicaID
	Index   uint64
}

// Members returns what the leader knows; ok is false on a replica that does not lead.
func (g *Group) Members() (m Members, ok bool, err error) {
	inst := g.inst.Load()
	if inst == nil || inst.raft.State() != raft.Leader {
		return m, false, nil
	}
	term := inst.raft.CurrentTerm()
	commit := func() uint64 { return max(inst.raft.CommitIndex(), g.AppliedIndex()) } // of the two, raft forgets the first
	for _, sv := range inst.raft.GetConfiguration().Configuration().Servers {
		witness, err := raftnet.IsWitness(sv)
		if err != nil {
			return m, false, err
		}
		switch {
		case witness:
			m.Witnesses++
			if sv.Suffrage != raft.Voter {
				m.NewWitnesses++
			}
		case sv.Suffrage == raft.Voter:
			node, id, err := raftnet.ParseServerID(sv.ID)
			if err != nil {
				return m, false, err
			}
			d := DataVoter{Node: node, Replica: id, Index: commit()}
			if sv.ID != ServerID(g.cfg.Node, g.cfg.Replica) {
				p := g.peers.status(sv.ID, term)
				if d.Index = p.Match; p.Lost {
					d.Index = 0
				}
			}
			m.Data = append(m.Data, d)
		}
	}
	m.Commit = commit()
	return m, inst.raft.State() == raft.Leader && inst.raft.CurrentTerm() == term, nil
}

// TruncateWitness removes entries up to the given index from the front of a witness's log, as far
// as its own state allows (S16), and returns what is left. Whoever calls it knows that no data
// replica needs them (S22).
func (g *Group) TruncateWitness(upTo uint64) (LogStatus, error) {
	return g.truncate(func(_ *raft.Raft, _ *LogStatus) uint64 { return upTo })
}
