package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/host"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/storage"
	"github.com/atolldb/atoll/node/store"
)

const maxOffset = 250 * time.Millisecond

// sim is one run.
type sim struct {
	opts  Options
	shape shape
	rng   *rand.Rand // of the driver's goroutine only
	net   *raftnet.MemNet
	nodes []*node
	trace *trace

	mu     sync.Mutex
	faults []error

	stop      chan struct{}  // closed when the workload ends
	clients   sync.WaitGroup // of the workload
	unnoticed atomic.Bool    // some machine's clock is wrong beyond the bound
	stopping  sync.WaitGroup // killed nodes on their way out
	over      atomic.Bool    // nothing starts any more
	hist      history
	members   members
	policies  inForce
}

// fault records what must not happen.
func (s *sim) fault(format string, args ...any) {
	err := fmt.Errorf("at %.6fs: %w", time.Since(s.trace.start).Seconds(), fmt.Errorf(format, args...))
	s.trace.add("FAULT %v", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) < 100 {
		s.faults = append(s.faults, err)
	}
}

func (s *sim) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.faults) > 0
}

// node is a machine with a disk, on which a process runs or not.
type node struct {
	s       *sim
	place   int          // from 1
	id      atomic.Int32 // see num
	spare   bool         // not a founder: it joins later
	retired atomic.Bool  // decommissioned, and gone
	addr    string
	zone    string
	machine *machine

	mu      sync.Mutex
	fs      *storage.CrashFS
	closing chan struct{} // closed when the last orderly end is over; nil: there was none
	proc    *process      // nil: not running
}

// process is one run of a node.
type process struct {
	n      *node
	fs     *storage.CrashFS
	cancel context.CancelFunc
	gone   chan struct{} // closed with dead
	dead   atomic.Bool   // killed: what it says from here on nobody hears
	ready  chan struct{} // closed when host stands, or will not
	host   *host.Node    // valid once ready is closed; nil if it did not open
	net    atomic.Pointer[raftnet.MemNode]
}

func newSim(opts Options) *sim {
	rng := rand.New(rand.NewPCG(opts.Seed, 0xa7011))
	s := &sim{opts: opts, rng: rng, shape: drawShape(rng, opts.Focus), trace: newTrace(opts.Level), stop: make(chan struct{})}
	s.net = raftnet.NewMemNet(opts.Seed)
	s.net.SetDelay(50*time.Microsecond, s.shape.maxDelay)
	s.net.SetLossTimeout(s.shape.loss)
	s.trace.add("shape %+v", s.shape)
	for i, z := range append(s.shape.zones[:len(s.shape.zones):len(s.shape.zones)], s.shape.spares...) {
		rate := (rng.Float64()*2 - 1) * 200e-6
		n := &node{s: s, place: i + 1, addr: fmt.Sprintf("node-%d", i+1), zone: z, fs: storage.MemFS(), machine: newMachine(s.skew(), rate)}
		if n.spare = i >= len(s.shape.zones); !n.spare {
			n.id.Store(int32(i + 1)) // its place in the plan
		}
		s.nodes = append(s.nodes, n)
	}
	return s
}

// skew draws an offset of a wall clock.
func (s *sim) skew() time.Duration {
	if s.shape.maxSkew == 0 {
		return 0
	}
	return time.Duration(s.rng.Int64N(int64(2*s.shape.maxSkew))) - s.shape.maxSkew
}

// found starts all nodes and founds the cluster.
func (s *sim) found() error {
	var addrs []string
	for _, n := range s.nodes[:len(s.shape.zones)] {
		addrs = append(addrs, n.addr)
		n.start()
	}
	client := s.net.Listen("client")
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		_, err := cluster.Init(ctx, client, "sim", addrs, "")
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("sim: founding: %w", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, n := range s.nodes[:len(s.shape.zones)] {
		p := n.running()
		select {
		case <-p.ready:
		case <-ctx.Done():
			return fmt.Errorf("sim: node %d does not start", n.num())
		}
		if p.host == nil || p.host.Identity.Node != keys.NodeID(n.place) {
			return fmt.Errorf("sim: node %d did not start as itself", n.num())
		}
	}
	return nil
}

// running returns the node's process, or nil.
func (n *node) running() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// open returns the node's process if it stands, its machine running.
func (n *node) open() *process {
	p := n.running()
	if p == nil || n.machine.isFrozen() {
		return nil
	}
	select {
	case <-p.ready:
	default:
		return nil
	}
	if p.host == nil || p.dead.Load() {
		return nil
	}
	return p
}

// start begins a process on the node's disk.
func (n *node) start() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc != nil || n.retired.Load() || n.s.over.Load() {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{n: n, fs: n.fs, cancel: cancel, ready: make(chan struct{}), gone: make(chan struct{})}
	n.proc = p
	n.s.trace.add("n%d start", n.num())
	closing := n.closing
	n.s.stopping.Go(func() {
		if closing != nil {
			<-closing
		}
		if n.machine.isFrozen() {
			<-n.machine.awake() // nothing starts on a machine that stands still
		}
		p.run(ctx)
	})
}

func (p *process) run(ctx context.Context) {
	n, s := p.n, p.n.s
	var join []string
	for _, o := range s.nodes {
		join = append(join, o.addr)
	}
	log := slog.New(handler{t: s.trace, node: fmt.Sprintf("n%d", n.num()), s: s})
	h, err := host.Open(ctx, host.Config{
		Dir: "/store", FS: p.fs, Small: true, Join: join, AwaitRules: s.opts.Focus.placed(),
		Self:  cluster.NodeInfo{Addr: n.addr, Zone: n.zone},
		Clock: hlc.NewClock(n.machine.wall, maxOffset), Time: n.machine,
		Support: s.shape.support, Planted: s.opts.Plant.Raftnet | raftnet.PlantDisturb, Log: log,
		PlantUnsyncedLog: s.opts.Plant.UnsyncedLog, PlantSkipRefresh: s.opts.Plant.SkipRefresh,
		Listen: func(func(keys.NodeID) (string, bool), raftnet.BootRegistry) (host.Network, error) {
			if p.dead.Load() {
				return nil, errors.New("the node was killed while it started") // the address is its successor's
			}
			e := s.net.Listen(n.addr)
			p.net.Store(e)
			if p.dead.Load() {
				e.Close()
			}
			return e, nil
		},
		Tune: func(c *store.Config) { s.tune(c) },
		OnFatal: func(err error) {
			switch {
			case p.dead.Load():
			case n.machine.spoilt(): // S1: right so
				s.trace.add("n%d stops itself: %v", n.num(), err)
				s.stopping.Go(func() {
					n.kill(100)
					time.Sleep(2 * time.Second)
					n.machine.step(0)
					n.start()
				})
			default:
				s.fault("n%d stops itself: %v", n.num(), err)
			}
		},
	})
	if err != nil {
		if !p.dead.Load() && !errors.Is(err, context.Canceled) {
			s.fault("n%d does not open: %v", n.num(), err)
		}
		close(p.ready)
		return
	}
	p.host = h
	n.id.Store(int32(h.Identity.Node))
	if s.shape.shortLog > 0 {
		s.stopping.Go(p.flush)
	}
	if s.opts.Focus.placed() {
		s.tell(p)
	}
	s.trace.add("n%d up, boot %d", n.num(), h.Boot)
	close(p.ready)
}

// pause holds a goroutine up now and then, as a scheduler under load does.
func (s *sim) pause() {
	s.hist.mu.Lock()
	hit, d := s.hist.rng.Float64() < s.shape.pauses, time.Duration(s.hist.rng.ExpFloat64()*float64(s.shape.pause))
	if s.hist.rng.IntN(20) == 0 {
		d *= 20
	}
	s.hist.mu.Unlock()
	if hit {
		time.Sleep(min(d, 2*time.Second))
	}
}

// flush makes the state durable now and then, so that logs can be cut.
func (p *process) flush() {
	tick := time.NewTicker(700 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = p.host.Engines.State.Flush()
		case <-p.gone:
			return
		}
	}
}

func (s *sim) tune(c *store.Config) {
	c.Voters, c.DeadAfter = s.shape.voters, s.shape.deadAfter
	c.ShortLog, c.RememberIDs = s.shape.shortLog, s.shape.remember
	c.CompareEvery = s.shape.compare
	c.ClosedLag = s.shape.closedLag
	c.PlantNoHorizon = s.opts.Plant.NoHorizon
	c.PlantEarlyFollowers = s.opts.Plant.EarlyFollowers
	c.Pause = s.pause
	c.PlantNoSupportCheck, c.PlantSkipTermCheck = s.opts.Plant.NoSupportCheck, s.opts.Plant.SkipTermCheck
	c.PlantShortTail = s.opts.Plant.ShortTail
	c.Interval = 500 * time.Millisecond
	c.NoMerges, c.MergeAfter = s.shape.mergeAfter == 0, max(s.shape.mergeAfter, time.Second)
}

// draw64 draws a number in any goroutine.
func (s *sim) draw64() uint64 {
	s.hist.mu.Lock()
	defer s.hist.mu.Unlock()
	return s.hist.rng.Uint64()
}

func (p *process) die() {
	p.dead.Store(true)
	close(p.gone)
	p.cancel()
}

// kill ends the node's process as a power cut does; of what was not synced, about the given
// percentage survives.
func (n *node) kill(unsyncedPercent int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.proc
	if p == nil {
		return
	}
	n.s.trace.add("n%d kill, %d%% of unsynced data stay", n.num(), unsyncedPercent)
	n.proc = nil
	p.die() // before the disk is copied: clients believe nothing that comes later
	if e := p.net.Load(); e != nil {
		e.Close()
	}
	n.fs = storage.CrashClone(p.fs, unsyncedPercent, rand.New(rand.NewPCG(n.s.draw64(), 1)))
	n.s.stopping.Go(func() {
		<-p.ready
		if p.host != nil {
			p.host.Crash()
		}
	})
}

// shutdown ends the process in an orderly way, and waits for that.
func (n *node) shutdown() {
	n.mu.Lock()
	p := n.proc
	n.proc = nil
	closed := make(chan struct{})
	n.closing = closed
	n.mu.Unlock()
	defer close(closed)
	if p == nil {
		return
	}
	n.s.trace.add("n%d shutdown", n.num())
	p.die()
	<-p.ready
	if p.host != nil {
		p.host.Close()
	}
	n.s.trace.add("n%d is down", n.num())
}

// close ends everything; no goroutine is left.
func (s *sim) close() {
	s.over.Store(true) // a node that has just found its clock wrong would start again
	var wg sync.WaitGroup
	for _, n := range s.nodes {
		wg.Go(n.shutdown)
	}
	wg.Wait()
	s.net.Close()
	s.stopping.Wait()
	// What a node began without waiting for it, lookups for example, ends at its own limit.
	time.Sleep(2 * time.Minute)
}
