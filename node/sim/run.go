package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/sim/check"
)

// Report is what a run found.
type Report struct {
	Seed    uint64
	Faults  []error
	Stats   Stats
	Virtual time.Duration

	trace     *trace
	lists     []check.Txn
	regs      []check.RegisterOp
	unnoticed bool
}

// Run simulates one cluster. It must be called inside a synctest bubble; afterwards, outside
// of it, Judge judges the histories.
func Run(opts Options) *Report {
	if opts.Length == 0 {
		opts.Length = 20 * time.Second
	}
	s := newSim(opts)
	s.hist.used, s.hist.usedR, s.hist.stats.Faults = map[int]bool{}, map[int]bool{}, map[string]int{}
	s.hist.rng = rand.New(rand.NewPCG(opts.Seed, 3))
	s.run()
	s.hist.stats.Snapshots = s.net.Sent(raftnet.MethodSnapshotEnd)
	return &Report{Seed: opts.Seed, Faults: s.faults, Stats: s.hist.stats, Virtual: time.Since(s.trace.start),
		trace: s.trace, lists: s.hist.lists, regs: s.hist.regs, unnoticed: opts.Unnoticed}
}

func (s *sim) run() {
	defer s.close()
	if err := s.found(); err != nil {
		s.fault("%w", err)
		return
	}
	if err := s.setup(); err != nil {
		s.fault("%w", err)
		return
	}
	switch s.opts.Focus {
	case FocusPolicies:
		s.drawPolicies()
	case FocusWitness:
		s.placeWitnesses(true)
	}
	time.Sleep(time.Second)
	w := &watcher{s: s, terms: map[keys.RangeID]uint64{}, by: map[keys.RangeID]keys.NodeID{}}
	done, gone := make(chan struct{}), make(chan struct{})
	go func() { defer close(gone); w.watch(done) }()
	s.startClients()
	s.inject(s.opts.Length)
	s.heal()
	time.Sleep(500 * time.Millisecond) // under load
	close(s.stop)
	s.clients.Wait()
	s.trace.add("the workload has ended")
	if err := s.verify(); err != nil {
		s.fault("%w", err)
	}
	s.justifyQuarantines()
	s.hist.stats.Quarantined = len(s.members.quarantined)
	close(done)
	<-gone
}

// Judge checks the histories. It returns every fault of the run.
func (r *Report) Judge() []error {
	out := append([]error(nil), r.Faults...)
	if r.unnoticed {
		out = append(out, check.Serializable(r.lists)...)
	} else {
		out = append(out, check.InRealTime(r.lists, maxOffset)...)
		if err := check.Linearizable(r.regs, 20*time.Second); err != nil {
			out = append(out, err)
		}
	}
	r.Faults = out
	return out
}

// SaveTrace writes the run's events to a file and returns its path.
func (r *Report) SaveTrace() (string, error) { return r.trace.save(r.Seed, r.Faults) }

// String sums the run up.
func (r *Report) String() string {
	return fmt.Sprintf("seed %d: %d committed, %d aborted, %d unknown, %d audits, %d past reads repeated, %d leases, %d snapshots, %d merges asked for, %d quarantined, faults %v, %.1fs",
		r.Seed, r.Stats.Committed, r.Stats.Aborted, r.Stats.Unknown, r.Stats.BankReads, r.Stats.PastReads, r.Stats.Leases, r.Stats.Snapshots, r.Stats.Merges, r.Stats.Quarantined, r.Stats.Faults, r.Virtual.Seconds())
}
