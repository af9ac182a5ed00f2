package host_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/host"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/recovery"
	"github.com/atolldb/atoll/node/storage"
	"github.com/atolldb/atoll/node/store"
)

// virtual is a cluster on virtual time, an in-memory network and disks that lose what was not synced.
type virtual struct {
	t      *testing.T
	net    *raftnet.MemNet
	client *raftnet.MemNode
	nodes  []*machine
	voters int
	silent map[string]error // who did not answer ask
}

type machine struct {
	v     *virtual
	addr  string
	zone  string
	fs    *storage.CrashFS
	node  *host.Node // nil: it does not run
	fatal chan error
}

func newVirtual(t *testing.T, zones ...string) *virtual {
	return newVirtualOf(t, 3, zones...)
}

func newVirtualOf(t *testing.T, voters int, zones ...string) *virtual {
	v := &virtual{t: t, net: raftnet.NewMemNet(1), voters: voters}
	v.net.SetDelay(100*time.Microsecond, 500*time.Microsecond)
	var addrs []string
	done := make(chan error, len(zones))
	for _, z := range zones {
		m := v.machine(z)
		addrs = append(addrs, m.addr)
	}
	for _, m := range v.nodes {
		go func() { done <- m.start() }()
	}
	v.client = v.net.Listen("client")
	v.eventually("the cluster is founded", func() bool {
		_, err := cluster.Init(t.Context(), v.client, "c", addrs, "")
		return err == nil
	})
	for range zones {
		require.NoError(t, <-done)
	}
	v.eventually("all nodes serve", func() bool { return v.ready(v.nodes...) })
	return v
}

func (v *virtual) machine(zone string) *machine {
	m := &machine{v: v, addr: fmt.Sprintf("machine-%d", len(v.nodes)+1), zone: zone, fs: storage.MemFS(), fatal: make(chan error, 8)}
	v.nodes = append(v.nodes, m)
	return m
}

func (v *virtual) ready(nodes ...*machine) bool {
	for _, m := range nodes {
		ctx, cancel := context.WithTimeout(v.t.Context(), time.Second)
		err := m.node.Ready(ctx)
		cancel()
		if err != nil {
			return false
		}
	}
	return true
}

func (v *virtual) eventually(what string, cond func() bool) {
	v.t.Helper()
	for end := time.Now().Add(3 * time.Minute); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			if s, err := recovery.Look(v.ask(), nil); err == nil {
				var b strings.Builder
				s.WriteText(&b)
				v.t.Log(b.String(), v.silent)
			}
			v.t.Fatalf("not in time: %s", what)
		}
	}
}

func (m *machine) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var join []string
	for _, o := range m.v.nodes {
		join = append(join, o.addr)
	}
	n, err := host.Open(ctx, host.Config{
		Dir: "/store", FS: m.fs, Small: true, Join: join, Self: cluster.NodeInfo{Addr: m.addr, Region: "r", Zone: m.zone},
		Clock: hlc.NewClock(time.Now, 250*time.Millisecond), Log: testLog(),
		Listen: func(func(keys.NodeID) (string, bool), raftnet.BootRegistry) (host.Network, error) {
			return m.v.net.Listen(m.addr), nil
		},
		Tune:    func(c *store.Config) { c.KeepReplicas, c.DeadAfter, c.Voters = true, 5*time.Second, m.v.voters },
		OnFatal: func(err error) { m.fatal <- err },
	})
	if err == nil {
		m.node = n
	}
	return err
}

// kill cuts the machine's power.
func (m *machine) kill() {
	left := storage.CrashClone(m.fs, 50, rand.New(rand.NewPCG(7, 7)))
	m.node.Crash()
	m.node, m.fs = nil, left
}

func (v *virtual) close() {
	v.client.Close()
	for _, m := range v.nodes {
		if m.node != nil {
			m.node.Close()
		}
	}
	v.net.Close()
}

// Inventory, Stage and Step are an operator's calls.
func (v *virtual) Inventory(ctx context.Context, addr string) (*recovery.Inventory, error) {
	b, err := v.client.CallAddr(ctx, addr, raftnet.MethodRecoveryInventory, nil)
	if err != nil {
		return nil, err
	}
	return recovery.DecodeInventory(b)
}

func (v *virtual) Stage(ctx context.Context, addr string, p *recovery.Plan) error {
	b, err := p.Encode()
	if err == nil {
		_, err = v.client.CallAddr(ctx, addr, raftnet.MethodRecoveryStage, b)
	}
	return err
}

func (v *virtual) Step(ctx context.Context, addr string, s *recovery.Step) error {
	b, err := s.Encode()
	if err == nil {
		_, err = v.client.CallAddr(ctx, addr, raftnet.MethodRecoveryStep, b)
	}
	return err
}

func (v *virtual) ask() []recovery.Inventory {
	var addrs []string
	for _, m := range v.nodes {
		addrs = append(addrs, m.addr)
	}
	found, silent := recovery.Ask(v.t.Context(), v, addrs)
	v.silent = silent
	return found
}

func (v *virtual) plan() (*recovery.Plan, error) {
	return recovery.Make(recovery.Input{Inventories: v.ask(), Now: time.Now()})
}

func (v *virtual) apply(p *recovery.Plan) error {
	return recovery.Apply(v.t.Context(), v, p, v.t.Logf)
}

// vkey is a key of table data.
func vkey(i int) keys.Key { return keys.IndexPrefix(100, uint32(i)) }

func (m *machine) put(i int, value string) error {
	ctx, cancel := context.WithTimeout(m.v.t.Context(), 20*time.Second)
	defer cancel()
	br, err := m.node.Sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{&kv.PutRequest{Key: vkey(i), Value: []byte(value)}}})
	if err == nil {
		time.Sleep(time.Until(br.Timestamp.Time()) + time.Nanosecond)
	}
	return err
}

func (m *machine) get(i int) (string, error) {
	ctx, cancel := context.WithTimeout(m.v.t.Context(), 20*time.Second)
	defer cancel()
	br, err := m.node.Sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{&kv.GetRequest{Key: vkey(i)}}})
	if err != nil {
		return "", err
	}
	return string(br.Responses[0].(*kv.GetResponse).Value), nil
}

func (m *machine) split(i int) error {
	_, err := m.node.Sender.Send(m.v.t.Context(), &kv.BatchRequest{Requests: []kv.Request{&kv.AdminSplitRequest{SplitKey: vkey(i)}}})
	return err
}

// caughtUp waits until a machine has applied all that any other one has.
func (v *virtual) caughtUp(m *machine) {
	v.eventually("a machine has applied everything", func() bool {
		most := map[keys.RangeID]uint64{}
		for _, o := range v.nodes {
			if o.node != nil {
				for _, r := range o.node.Store.Ranges() {
					most[r.Desc.RangeID] = max(most[r.Desc.RangeID], r.Applied)
				}
			}
		}
		for _, r := range m.node.Store.Ranges() {
			if r.Applied < most[r.Desc.RangeID] {
				return false
			}
		}
		return len(m.node.Store.Ranges()) == len(most)
	})
}

// TestRecoverFromOneOfThree: two of three machines are gone for good; the third goes on with all it had,
// repeats do no harm, and two new ones bring every range back to three copies. What was given up does not
// come back.
func TestRecoverFromOneOfThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, "a", "b", "c")
		defer v.close()
		left := v.nodes[0]
		require.NoError(t, left.split(20))
		for i := range 40 {
			require.NoError(t, v.nodes[i%3].put(i, fmt.Sprint(i)))
		}
		_, err := v.plan()
		require.ErrorIs(t, err, recovery.ErrNothing)

		// With a quorum there, nobody does what a plan says that knows of none.
		alone := v.ask()[:1]
		alone[0].Live, alone[0].Replicas = nil, append([]recovery.Replica(nil), alone[0].Replicas...)
		for i := range alone[0].Replicas {
			alone[0].Replicas[i].Lease, alone[0].Replicas[i].Leader = false, 0
		}
		wrong, err := recovery.Make(recovery.Input{Inventories: alone, Now: time.Now()})
		require.NoError(t, err)
		require.ErrorContains(t, v.apply(wrong), "nothing is changed")
		require.ErrorContains(t, v.Step(t.Context(), left.addr, &recovery.Step{Plan: wrong.ID, Kind: recovery.GiveUp}), "has not accepted plan")

		v.caughtUp(left)
		v.nodes[1].kill()
		v.nodes[2].kill()
		require.Error(t, left.put(0, "nobody takes it"))
		p, err := v.plan()
		require.NoError(t, err)
		require.Len(t, p.Ranges, 3)
		require.Len(t, p.Lost, 2)
		require.NoError(t, v.apply(p))
		for i := range 40 {
			got, err := left.get(i)
			require.NoError(t, err)
			if i > 0 { // the first one was in doubt
				require.Equal(t, fmt.Sprint(i), got)
			}
			require.NoError(t, left.put(i, "new"))
		}
		require.NoError(t, v.apply(p), "it is done already")
		for _, r := range left.node.Store.Ranges() {
			require.Len(t, r.Desc.Replicas, 1)
			require.Greater(t, r.Replica, keys.ReplicaID(3), "S18: a new ID")
		}

		// S1: the survivor counts itself only. S18: it remembers over a restart whom it gave up.
		left.kill()
		require.NoError(t, left.start())
		v.eventually("the survivor serves again after a power cut", func() bool { return v.ready(left) })
		require.True(t, left.node.Directory.Lost(2))

		for _, zone := range []string{"b", "c"} {
			require.NoError(t, v.machine(zone).start())
		}
		v.eventually("every range has three copies", func() bool {
			s, err := recovery.Look(v.ask(), p)
			return err == nil && s.Whole
		})
		require.Greater(t, v.nodes[3].node.Identity.Node, keys.NodeID(3+16), "S18: IDs of the lost nodes' last moments are not given out")
		left.kill()
		v.eventually("the new machines serve alone", func() bool {
			got, err := v.nodes[3].get(7)
			return err == nil && got == "new"
		})

		// The old machine learns from whomever it knows that it was given up, and stays away for good.
		require.NoError(t, left.start())
		old := v.nodes[1]
		require.NoError(t, old.start())
		v.eventually("the old machine stops itself", func() bool { return len(old.fatal) > 0 })
		require.ErrorIs(t, <-old.fatal, cluster.ErrLost)
		old.kill()
		require.ErrorIs(t, old.start(), cluster.ErrLost)
	})
}

// TestRecoverSomeRangesOfFive: five machines, two of which are gone; ranges that had two of their three
// voters there are recovered, and the others are not touched.
func TestRecoverSomeRangesOfFive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, "a", "b", "c", "d", "e")
		defer v.close()
		for i := 1; i < 10; i++ {
			require.NoError(t, v.nodes[0].split(10*i))
		}
		for i := range 100 {
			require.NoError(t, v.nodes[i%5].put(i, fmt.Sprint(i)))
		}
		v.eventually("every range has three voters", func() bool {
			for _, m := range v.nodes {
				for _, r := range m.node.Store.Ranges() {
					if len(r.Desc.Replicas) != 3 {
						return false
					}
				}
			}
			return true
		})
		// The two that most ranges can't do without.
		broken := func(a, b int) (n int) {
			seen := map[keys.RangeID]bool{}
			for _, m := range v.nodes {
				for _, r := range m.node.Store.Ranges() {
					_, in := r.Desc.Replica(v.nodes[a].node.Identity.Node)
					_, too := r.Desc.Replica(v.nodes[b].node.Identity.Node)
					if in && too && !seen[r.Desc.RangeID] {
						n++
					}
					seen[r.Desc.RangeID] = true
				}
			}
			return n
		}
		x, y := 0, 1
		for a := range 5 {
			for b := range a {
				if n := broken(a, b); n > broken(x, y) {
					x, y = a, b
				}
			}
		}
		want := broken(x, y)
		require.Positive(t, want)
		v.nodes[x].kill()
		v.nodes[y].kill()
		var p *recovery.Plan
		v.eventually("the others have noticed", func() bool {
			var err error
			if p, err = v.plan(); err != nil || len(p.Ranges) != want {
				return false
			}
			return v.apply(p) == nil
		})
		for i := range 100 {
			for _, m := range v.nodes {
				if m.node == nil {
					continue
				}
				got, err := m.get(i)
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(i), got)
				break
			}
		}
		v.eventually("every range has three copies on the three that are left", func() bool {
			s, err := recovery.Look(v.ask(), p)
			return err == nil && s.Whole
		})
	})
}

// TestRecoverDropsTheOtherCopies: of five voters two are left. One is gone on from, the other one is
// removed once that serves, and comes back under a new ID.
func TestRecoverDropsTheOtherCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtualOf(t, 5, "a", "b", "c", "d", "e")
		defer v.close()
		require.NoError(t, v.nodes[0].split(20))
		for i := range 40 {
			require.NoError(t, v.nodes[i%5].put(i, fmt.Sprint(i)))
		}
		v.caughtUp(v.nodes[0])
		v.caughtUp(v.nodes[3])
		for _, i := range []int{1, 2, 4} {
			v.nodes[i].kill()
		}
		var p *recovery.Plan
		v.eventually("the plan is applied", func() bool {
			var err error
			if p, err = v.plan(); err != nil || len(p.Ranges) != 3 {
				return false
			}
			return v.apply(p) == nil
		})
		for i := range p.Ranges {
			require.Len(t, p.Ranges[i].Others, 1)
			o := p.Ranges[i].Others[0]
			for _, m := range []*machine{v.nodes[0], v.nodes[3]} {
				for _, r := range m.node.Store.Ranges() {
					if r.Desc.RangeID == p.Ranges[i].ID && m.node.Identity.Node == o.Node {
						require.NotEqual(t, o.Replica, r.Replica, "S18: what was dropped is made under its ID again")
					}
				}
			}
		}
		for i := range 40 {
			got, err := v.nodes[i%2*3].get(i)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), got)
			require.NoError(t, v.nodes[i%2*3].put(i, "new"))
		}
		require.NoError(t, v.apply(p), "it is done already")
	})
}

// TestLostKeysStayUnavailable: all replicas of a range are gone. That has to be accepted by hand; the
// other ranges are recovered, and who asks for the lost keys gets an error in bounded time.
func TestLostKeysStayUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, "a", "b", "c", "d", "e")
		defer v.close()
		for i := 1; i < 10; i++ {
			require.NoError(t, v.nodes[0].split(10*i))
		}
		for i := range 100 {
			require.NoError(t, v.nodes[i%5].put(i, fmt.Sprint(i)))
		}
		places := map[keys.RangeID]string{}
		v.eventually("every range has three voters", func() bool {
			for _, m := range v.nodes {
				for _, r := range m.node.Store.Ranges() {
					place := ""
					for i, o := range v.nodes {
						if _, ok := r.Desc.Replica(o.node.Identity.Node); ok {
							place += fmt.Sprint(i)
						}
					}
					if len(place) != 3 || len(r.Desc.Replicas) != 3 {
						return false
					}
					places[r.Desc.RangeID] = place
				}
			}
			return true
		})
		var victim keys.RangeID
		for id, place := range places {
			if place != places[keys.MetaRangeID] && place != places[keys.FirstDataRangeID] {
				victim = id
			}
		}
		require.NotZero(t, victim, "all ranges lie on the same nodes: %v", places)
		for _, c := range places[victim] {
			v.nodes[c-'0'].kill()
		}
		var p *recovery.Plan
		v.eventually("the plan is applied", func() bool {
			_, err := v.plan()
			if err == nil || !strings.Contains(err.Error(), "--accept-lost-spans") {
				return false
			}
			p, err = recovery.Make(recovery.Input{Inventories: v.ask(), AcceptLostSpans: true, Now: time.Now()})
			return err == nil && v.apply(p) == nil
		})
		require.NotEmpty(t, p.Holes)
		var left *machine
		for _, m := range v.nodes {
			if m.node != nil {
				left = m
			}
		}
		for i := range 100 {
			lost := false
			for _, h := range p.Holes {
				lost = lost || (keys.Span{Key: keys.Key(h.Start), EndKey: keys.Key(h.End)}).Contains(vkey(i))
			}
			if lost && i%10 != 0 {
				continue // one of each range is enough: each takes its time
			}
			start := time.Now()
			got, err := left.get(i)
			if lost {
				require.Error(t, err, "key %d", i)
				require.LessOrEqual(t, time.Since(start), 20*time.Second)
				continue
			}
			require.NoError(t, err, "key %d", i)
			require.Equal(t, fmt.Sprint(i), got)
		}
		s, err := recovery.Look(v.ask(), p)
		require.NoError(t, err)
		require.False(t, s.Whole)
		require.NotEmpty(t, s.Unavailable)
	})
}

func testLog() *slog.Logger {
	if testing.Verbose() {
		return slog.Default()
	}
	return slog.New(slog.DiscardHandler)
}
