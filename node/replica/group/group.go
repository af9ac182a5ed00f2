// Package group runs one range's raft group on hashicorp/raft: the state machine over the
// state engine, the proposer, snapshots, log truncation and membership.
//
// The state machine is disk-backed. A batch of log entries becomes one batch of the state
// engine together with the applied position (SAFETY S16); at start raft goes on from there
// (S17). Raft's own snapshots are off: the state engine is the snapshot. What raft needs to
// know of one at start (position and configuration) snapshotStore reports from the state.
//
// # Snapshots
//
// A follower whose log is too far behind gets the range's keys from a storage snapshot, in
// checksummed chunks outside raft (Sender, Receiver), into a table file. When all of them are
// there, the receiving replica stops its raft instance, takes the file into the state engine
// in one atomic and durable step, empties its log, and starts raft again at the snapshot's
// position (S21). Raft's own InstallSnapshot is never run: it would keep the length of a
// stale log tail in memory and fail, or vote wrongly, ever after.
//
// # Log truncation
//
// The log is the state engine's redo log: it goes only up to the applied index that a flush
// has made durable (S16), and not beyond what a snapshot under way needs to go on from.
//
// # Witnesses
//
// A witness (S22) applies what a range is: configuration, descriptor, splits, and which commands were
// applied, since that decides what becomes of the others. Its state is that part of a data
// replica's, byte for byte; the data it lacks. So it sends no snapshot, gets one without data, and
// its log is what brings a data replica up to date: see witness.go.
package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

// Config is what a group is made of.
type Config struct {
	RangeID keys.RangeID
	Replica keys.ReplicaID
	Node    keys.NodeID
	// Witness: the replica keeps the log and the range's structure, and none of its data (S22). It
	// is so from the replica's birth, and recorded: the configuration names the replica only later.
	Witness bool

	State *storage.StateEngine
	Log   *storage.RaftLog
	// Transport serves this range on this node; it outlives the raft instances.
	Transport Transport
	// Bind is called with every raft instance before it hears its first message: the
	// transport's lease and guards look at it.
	Bind func(*raft.Raft)
	// Lease is the transport's view of the lease.
	Lease func() replica.LeaseStatus
	// Events take what is applied. May be nil.
	Events Events
	// OnLead is called when this replica leads term and has applied an entry of it; OnLost
	// when it leads no more. Neither may block for long, or call Close.
	OnLead func(term uint64)
	OnLost func()
	// SendSnapshot streams a snapshot to a follower; nil refuses.
	SendSnapshot func(ctx context.Context, o Outgoing) (Installed, error)
	// OnFatal is called once when the replica can't go on.
	OnFatal func(error)
	Logger  *slog.Logger
	// ShortLog, if not 0, is how many entries stay in the log, for whomever: the simulator wants
	// followers that need snapshots.
	ShortLog uint64
	// PlantSkipTermCheck is a bug that the simulator plants (breaks S5). A real node never
	// sets it.
	PlantSkipTermCheck bool
	// RememberIDs, if not 0, is how many command IDs the range remembers (S12). All replicas must
	// have the same: only the simulator sets it.
	RememberIDs int
	// PlantNoHorizon is another bug: commands are applied though they may be late tries of
	// forgotten ones (breaks S12).
	PlantNoHorizon bool
}

// Group is one replica's raft group.
type Group struct {
	cfg    Config
	fsm    *fsm
	log    *logStore
	prop   *proposer
	peers  peers
	logger *slog.Logger

	mu     lock // serialises open, install and close
	closed bool
	inst   atomic.Pointer[instance] // nil while raft is stopped
}

// instance is one run of raft; a snapshot ends it and starts the next.
type instance struct {
	raft   *raft.Raft
	ctx    context.Context
	cancel context.CancelFunc
	down   chan struct{} // closed when raft's goroutines have ended
	watch  sync.WaitGroup

	leadership leadership
}

// currentTermKey is raft's own stable key.
var currentTermKey = []byte("CurrentTerm")

// ServerID names a replica within raft; it is its address as well (SAFETY S29).
func ServerID(node keys.NodeID, id keys.ReplicaID) raft.ServerID { return raftnet.ServerID(node, id) }

// Open starts the replica from what the engines hold. A replica without data waits for a
// leader's snapshot.
func Open(cfg Config) (*Group, error) {
	g := &Group{cfg: cfg, logger: cfg.Logger, mu: newLock()}
	if g.logger == nil {
		g.logger = slog.Default()
	}
	g.logger = g.logger.With("node", cfg.Node, "range", cfg.RangeID, "replica", cfg.Replica)
	fatal := cfg.OnFatal
	if fatal == nil {
		fatal = func(err error) { panic(err) }
	}
	g.fsm = &fsm{state: cfg.State, events: cfg.Events, fatal: fatal, skipTermCheck: cfg.PlantSkipTermCheck,
		skipHorizon: cfg.PlantNoHorizon, remember: cfg.RememberIDs, self: ServerID(cfg.Node, cfg.Replica), witness: cfg.Witness}
	if err := g.fsm.load(cfg.State, cfg.RangeID); err != nil {
		return nil, err
	}
	var err error
	if g.log, err = openLog(cfg.Log); err != nil {
		return nil, err
	}
	g.prop = newProposer(g.apply)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.startLocked(); err != nil {
		return nil, fmt.Errorf("group: starting range %d, replica %d: %w", cfg.RangeID, cfg.Replica, err)
	}
	return g, nil
}

func (g *Group) startLocked() error {
	st := g.fsm.snapshotState()
	if err := g.log.reconcile(st.Applied); err != nil {
		return err
	}
	term, err := g.log.GetUint64(currentTermKey)
	if err != nil {
		return err
	}
	if term < st.Applied.Term {
		if err := g.log.SetUint64(currentTermKey, st.Applied.Term); err != nil {
			return err
		}
	}
	conf := raftnet.RaftConfig(ServerID(g.cfg.Node, g.cfg.Replica))
	conf.Logger = raftLogger(g.logger)
	r, err := raft.NewRaft(conf, g.fsm, raftLogs{g.log, g}, g.log, (*snapshotStore)(g), &transport{Transport: g.cfg.Transport, g: g})
	if err != nil {
		return err
	}
	inst := &instance{raft: r, down: make(chan struct{})}
	inst.ctx, inst.cancel = context.WithCancel(context.Background())
	if g.cfg.Bind != nil {
		g.cfg.Bind(r)
	}
	g.inst.Store(inst)
	inst.watch.Add(1)
	go g.watch(inst)
	return nil
}

func (g *Group) stopLocked() {
	inst := g.inst.Load()
	if inst == nil {
		return
	}
	inst.cancel()
	_ = inst.raft.Shutdown().Error() // returns when raft's goroutines have ended
	g.inst.Store(nil)
	close(inst.down)
	inst.watch.Wait()
}

// GetLog reads raft's log, and the term of the position right before its first entry.
func (g *Group) GetLog(index uint64, l *raft.Log) error { return g.log.GetLog(index, l) }

// Close stops the replica and waits for its goroutines. It must not be called from an event.
// A transport that can be closed is: calls that wait for a dead peer end with it only.
func (g *Group) Close() {
	if c, ok := g.cfg.Transport.(raft.WithClose); ok {
		_ = c.Close()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	g.closed = true
	g.stopLocked()
	g.prop.close()
}

// watch follows leadership.
func (g *Group) watch(inst *instance) {
	defer inst.watch.Done()
	led := false
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	lead := func() {
		if !g.lead(inst) {
			again.Reset(leadAgain)
		}
	}
	for {
		select {
		case leads := <-inst.raft.LeaderCh():
			inst.leadership.change()
			if led && g.cfg.OnLost != nil {
				// A loss may have been overwritten by a new win.
				g.cfg.OnLost()
			}
			led = leads
			if leads {
				lead()
			}
		case <-again.C:
			if led {
				lead()
			}
		case <-inst.down:
			if led && g.cfg.OnLost != nil {
				g.cfg.OnLost()
			}
			return
		}
	}
}

// lead appends an entry of the new term and reports the leadership once it is applied here:
// then every entry of earlier terms is applied as well (raft.md rule 14, S2 c). It returns
// false if that has to be tried again.
func (g *Group) lead(inst *instance) bool {
	f := inst.raft.Apply(raftcmd.NewEntry(nil), 0)
	endOnShutdown(f, inst.down)
	if err := f.Error(); err != nil {
		// Deposed already, which LeaderCh says, unless raft still ends a transfer that an
		// earlier term began: it refuses every entry meanwhile.
		return inst.raft.State() != raft.Leader
	}
	term := inst.raft.CurrentTerm()
	if inst.raft.State() != raft.Leader || g.fsm.appliedTerm.Load() != term {
		return true // another term has begun: LeaderCh says so
	}
	if g.cfg.OnLead != nil {
		g.cfg.OnLead(term)
	}
	return true
}

// leadAgain is when a new leader tries its first entry again.
const leadAgain = 20 * time.Millisecond

// apply is the proposer's way into the current raft instance.
func (g *Group) apply(entry []byte) raft.ApplyFuture {
	inst := g.inst.Load()
	if inst == nil {
		return failedApply{raft.ErrNotLeader}
	}
	f := inst.raft.Apply(entry, 0)
	endOnShutdown(f, inst.down)
	return f
}

// failedApply is an ApplyFuture that has failed already.
type failedApply struct{ err error }

func (f failedApply) Error() error  { return f.err }
func (f failedApply) Response() any { return nil }
func (f failedApply) Index() uint64 { return 0 }

// Lease implements replica.Group.
func (g *Group) Lease() replica.LeaseStatus {
	if g.cfg.Lease == nil {
		return replica.LeaseStatus{}
	}
	return g.cfg.Lease()
}

// Propose implements replica.Group.
func (g *Group) Propose(ctx context.Context, cmd *raftcmd.Command) (replica.Result, error) {
	out, err := g.prop.propose(ctx, cmd.Encode(), cmd.EntryVersion())
	return replica.Result{Index: out.index, Duplicate: out.duplicate}, err
}

// LookupCommand implements replica.Group.
func (g *Group) LookupCommand(id [16]byte) (outcome []byte, applied bool, horizon int64) {
	return g.fsm.lookup(id)
}

// State returns what the replica has applied.
func (g *Group) State() State { return g.fsm.snapshotState() }

// AppliedTerm returns the term of the newest entry applied here.
func (g *Group) AppliedTerm() uint64 { return g.fsm.appliedTerm.Load() }

// AppliedIndex returns the index of the newest entry applied here. Raft's internal entries
// don't count.
func (g *Group) AppliedIndex() uint64 { return g.fsm.appliedIndex.Load() }

// Commands returns how many commands were applied since the replica was opened.
func (g *Group) Commands() int64 { return g.fsm.commands.Load() }

// Raft returns the running raft instance; nil while a snapshot is installed or when closed.
func (g *Group) Raft() *raft.Raft {
	if inst := g.inst.Load(); inst != nil {
		return inst.raft
	}
	return nil
}

// Leading returns the term that this replica leads, if any.
func (g *Group) Leading() (term uint64, ok bool) {
	r := g.Raft()
	if r == nil {
		return 0, false
	}
	term = r.CurrentTerm()
	return term, r.State() == raft.Leader
}

// Peer returns what the leader knows of a follower.
func (g *Group) Peer(id raft.ServerID) PeerStatus {
	r := g.Raft()
	if r == nil {
		return PeerStatus{}
	}
	return g.peers.status(id, r.CurrentTerm())
}

// LostPeers returns the followers that this leader has seen to lose entries which they had
// acknowledged to it (SAFETY S18). It is cheap while there are none.
func (g *Group) LostPeers() []raft.ServerID {
	if !g.peers.anyLost.Load() {
		return nil
	}
	r := g.Raft()
	if r == nil || r.State() != raft.Leader {
		return nil
	}
	return g.peers.lost(r.CurrentTerm())
}

// LastIndex returns the last index of the log, applied or not.
func (g *Group) LastIndex() uint64 {
	if r := g.Raft(); r != nil {
		return r.LastIndex()
	}
	return 0
}

// ErrNotLeader is returned by what only the leader can do.
var ErrNotLeader = errors.New("group: this replica does not lead its range")

// Change is one step of a membership change (SAFETY S19).
type Change uint8

const (
	AddLearner Change = iota // a replica without a vote
	AddVoter                 // or the promotion of a learner
	Remove
	Demote     // a voter stays without its vote
	AddWitness // a witness without a vote (S22)
)

// ChangeConfig makes one membership change and returns once it is committed and applied
// here. expect is the configuration's index that the caller decided on: any other one fails.
func (g *Group) ChangeConfig(ctx context.Context, kind Change, id raft.ServerID, expect uint64) error {
	inst := g.inst.Load()
	if inst == nil {
		return ErrNotLeader
	}
	const wait = 10 * time.Second // for raft to take the request
	addr := raft.ServerAddress(id)
	for _, sv := range inst.raft.GetConfiguration().Configuration().Servers {
		if sv.ID == id {
			addr = sv.Address // it says what the replica is, and stays as it is
		}
	}
	done := make(chan error, 1)
	go func() {
		var f raft.IndexFuture
		switch kind {
		case AddLearner:
			f = inst.raft.AddNonvoter(id, addr, expect, wait)
		case AddWitness:
			f = inst.raft.AddNonvoter(id, raftnet.ServerAddress(id, true), expect, wait)
		case AddVoter:
			f = inst.raft.AddVoter(id, addr, expect, wait)
		case Demote:
			f = inst.raft.DemoteVoter(id, expect, wait)
		default:
			f = inst.raft.RemoveServer(id, expect, wait)
		}
		endOnShutdown(f, inst.down)
		done <- f.Error()
	}()
	select {
	case err := <-done:
		if errors.Is(err, raft.ErrNotLeader) {
			err = ErrNotLeader
		}
		return err
	case <-ctx.Done():
		return fmt.Errorf("group: membership change of range %d: its outcome is unknown: %w", g.cfg.RangeID, ctx.Err())
	}
}

// raftLogger passes raft's errors on; its other messages repeat every few seconds per range.
func raftLogger(l *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Error, Output: slogWriter{l}, DisableTime: true})
}

type slogWriter struct{ l *slog.Logger }

func (w slogWriter) Write(b []byte) (int, error) {
	w.l.Debug("raft", "message", string(b))
	return len(b), nil
}
