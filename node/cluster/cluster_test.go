package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/storage"
)

// mapSender is a key-value store without ranges.
type mapSender struct {
	mu sync.Mutex
	m  map[string]kv.KeyValue
	ts int64
}

func (s *mapSender) Send(_ context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ts++
	br := &kv.BatchResponse{}
	for _, r := range ba.Requests {
		switch r := r.(type) {
		case *kv.GetRequest:
			v, ok := s.m[string(r.Key)]
			br.Responses = append(br.Responses, &kv.GetResponse{Value: v.Value, Exists: ok, Version: v.Version})
		case *kv.PutRequest:
			if v := s.m[string(r.Key)]; r.Cond.Check && r.Cond.Seen.Less(v.Version) {
				return nil, &kv.RetryError{Reason: kv.RetryLockLost}
			}
			s.m[string(r.Key)] = kv.KeyValue{Value: r.Value, Version: hlc.Timestamp{WallNanos: s.ts}}
			br.Responses = append(br.Responses, &kv.PutResponse{})
		case *kv.IncrementRequest:
			var n int64
			if v, ok := s.m[string(r.Key)]; ok {
				n = int64(binary.BigEndian.Uint64(v.Value))
			}
			n += r.Delta
			s.m[string(r.Key)] = kv.KeyValue{Value: binary.BigEndian.AppendUint64(nil, uint64(n)), Version: hlc.Timestamp{WallNanos: s.ts}}
			br.Responses = append(br.Responses, &kv.IncrementResponse{NewValue: n})
		default:
			return nil, fmt.Errorf("unexpected %T", r)
		}
	}
	return br, nil
}

type testNode struct {
	t     *testing.T
	net   *raftnet.MemNet
	addr  string
	fs    *storage.CrashFS
	log   *storage.LogEngine
	local *Local
	ep    *raftnet.MemNode
	adm   *Admission
}

func start(t *testing.T, net *raftnet.MemNet, addr string, fs *storage.CrashFS, join ...string) *testNode {
	log, err := storage.OpenLog(storage.LogOptions{Dir: "/log", FS: fs, Small: true})
	require.NoError(t, err)
	n := &testNode{t: t, net: net, addr: addr, fs: fs, log: log, local: NewLocal(log), ep: net.Listen(addr)}
	n.adm = &Admission{Local: n.local, Net: n.ep, Self: NodeInfo{Addr: addr, Zone: "z-" + addr}, Join: join}
	n.adm.Serve()
	return n
}

func (n *testNode) stop() {
	n.ep.Close()
	require.NoError(n.t, n.log.Close())
}

func (n *testNode) wait() Result {
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	r, err := n.adm.Wait(ctx)
	require.NoError(n.t, err)
	return r
}

func TestFoundingRepeatsRefusesAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(1)
		addrs := []string{"a", "b", "c"}
		var nodes []*testNode
		for _, a := range addrs {
			nodes = append(nodes, start(t, net, a, storage.MemFS()))
		}
		client := net.Listen("client")
		// A member that does not answer: nothing is founded.
		_, err := Init(t.Context(), client, "one", []string{"a", "b", "nobody"}, "")
		require.ErrorContains(t, err, "nobody")
		// A node bound to another plan refuses; the others have accepted but found nothing.
		_, err = Init(t.Context(), client, "other", []string{"c"}, "")
		require.NoError(t, err)
		_, err = Init(t.Context(), client, "one", addrs, "")
		require.ErrorContains(t, err, `cluster "other"`)
		nodes[2].stop()
		nodes[2] = start(t, net, "c", storage.MemFS())

		_, err = Init(t.Context(), client, "one", addrs, "secret")
		require.ErrorContains(t, err, "want SCRAM-SHA-256")
		stands, err := Init(t.Context(), client, "one", addrs, "SCRAM-SHA-256$first")
		require.NoError(t, err)
		p := stands.Plan
		require.Contains(t, p.InitialData(), kv.KeyValue{Key: keys.SuperuserVerifier(), Value: []byte("SCRAM-SHA-256$first")})
		again, err := Init(t.Context(), client, "one", addrs, "SCRAM-SHA-256$second")
		require.NoError(t, err)
		require.Equal(t, p, again.Plan, "a cluster that stands keeps its password")
		require.Len(t, again.Nodes, 3)
		for i, n := range nodes {
			r := n.wait()
			require.Equal(t, Identity{ClusterID: "one", Node: keys.NodeID(i + 1)}, r.Identity)
			require.Equal(t, p, r.Plan)
			require.Equal(t, p.InitialData(), r.Plan.InitialData())
		}
		_, err = Init(t.Context(), client, "two", addrs, "")
		require.ErrorContains(t, err, `belongs to cluster "one"`)
		require.ErrorIs(t, err, ErrRefused)

		// A member loses its disk: init must not found again (S28).
		nodes[0].stop()
		nodes[0] = start(t, net, "a", storage.MemFS())
		again, err = Init(t.Context(), client, "one", addrs, "")
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, again.Empty)
		require.Len(t, again.Nodes, 2)
		left, _, err := nodes[0].local.Plan()
		require.NoError(t, err)
		require.Nil(t, left, "it was not proposed to again")

		// Founding members are gone, one or all of them: who came later knows that the cluster stands.
		again, err = Init(t.Context(), client, "one", []string{"a", "b", "nobody"}, "")
		require.NoError(t, err)
		require.Len(t, again.Nodes, 1)
		again, err = Init(t.Context(), client, "one", []string{"nobody", "no one"}, "", "c", "nobody")
		require.NoError(t, err)
		require.Equal(t, "c", again.Nodes[0].Addr)
		_, err = Init(t.Context(), client, "two", []string{"a"}, "", "nobody")
		require.ErrorContains(t, err, "node at nobody does not answer", "nothing is founded beside a node that may belong to a cluster")
		for _, n := range nodes {
			n.stop()
		}
		net.Close()
	})
}

func TestMissedCommitIsLearntFromTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(1)
		a, b := start(t, net, "a", storage.MemFS()), start(t, net, "b", storage.MemFS())
		// b crashes after it accepted and before the commit reached it.
		p := &Plan{ClusterID: "x", CreatedAt: 1, Members: []NodeInfo{{ID: 1, Version: 1, Addr: "a"}, {ID: 2, Version: 1, Addr: "b"}}}
		require.NoError(t, a.local.accept(p, 1))
		require.NoError(t, b.local.accept(p, 2))
		_, _, err := a.local.commit("x")
		require.NoError(t, err)
		left := storage.CrashClone(b.fs, 0, rand.New(rand.NewPCG(1, 1)))
		b.stop()
		b = start(t, net, "b", left)
		require.Equal(t, keys.NodeID(2), b.wait().Identity.Node)
		a.stop()
		b.stop()
		net.Close()
	})
}

func TestJoinDirectoryAndBootCounter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(1)
		client := net.Listen("client")
		a := start(t, net, "a", storage.MemFS())
		founded, err := Init(t.Context(), client, "x", []string{"a"}, "")
		require.NoError(t, err)
		p := founded.Plan
		sender := &mapSender{m: map[string]kv.KeyValue{}}
		for _, d := range p.InitialData() {
			sender.m[string(d.Key)] = kv.KeyValue{Value: d.Value, Version: p.Timestamp()}
		}
		sender.ts = p.CreatedAt
		serve := func(n *testNode, r Result) (*Directory, *Service) {
			boot, err := n.local.NextBoot()
			require.NoError(t, err)
			n.ep.SetIdentity(raftnet.Identity{ClusterID: r.Identity.ClusterID, Node: r.Identity.Node, Boot: boot})
			d, err := OpenDirectory(n.local)
			require.NoError(t, err)
			if r.Plan != nil {
				require.NoError(t, d.Merge(r.Plan.Members...))
			}
			require.NoError(t, d.Merge(r.Directory...))
			self := n.adm.Self
			self.ID = r.Identity.Node
			return d, StartService(d, n.ep, r.Identity, self, sender, nil)
		}
		da, sa := serve(a, a.wait())
		b := start(t, net, "b", storage.MemFS(), "nobody", "a")
		rb := b.wait()
		require.Equal(t, keys.NodeID(2), rb.Identity.Node)
		db, sb := serve(b, rb)
		c := start(t, net, "c", storage.MemFS(), "b")
		rc := c.wait()
		require.Equal(t, keys.NodeID(3), rc.Identity.Node)
		dc, sc := serve(c, rc)
		i := slices.IndexFunc(rc.Directory, func(n NodeInfo) bool { return n.ID == 3 })
		require.Equal(t, Joining, rc.Directory[i].State, "it has not said yet that it runs")
		time.Sleep(20 * time.Second)
		require.Len(t, da.All(), 3)
		for _, n := range da.All() {
			require.Equal(t, Live, n.State, "they have announced themselves")
		}
		require.Equal(t, da.All(), db.All())
		require.Equal(t, da.All(), dc.All())

		require.NoError(t, da.SetState(t.Context(), sender, 2, Draining))
		require.NoError(t, da.SetState(t.Context(), sender, 3, Decommissioned))
		require.ErrorIs(t, da.SetState(t.Context(), sender, 3, Live), ErrDecommissioned)
		time.Sleep(30 * time.Second)
		n, _ := dc.Get(2)
		require.Equal(t, Draining, n.State)
		require.Equal(t, []keys.NodeID{1, 2}, db.Nodes())

		// Where founding members were replaced, and where nodes were added, the cluster stands.
		for _, addrs := range [][]string{{"a", "b", "c"}, {"b", "c"}} {
			again, err := Init(t.Context(), client, "x", addrs, "")
			require.NoError(t, err, addrs)
			require.Len(t, again.Nodes, len(addrs))
			require.Empty(t, again.Empty)
		}
		_, err = Init(t.Context(), client, "y", []string{"b", "c"}, "")
		require.ErrorContains(t, err, `belongs to cluster "x"`)

		// A restart with another address is known to the others, and the counter rises.
		sb.Close()
		b.stop()
		b = start(t, net, "b2", b.fs)
		db, sb = serve(b, b.wait())
		boot, err := b.local.NextBoot()
		require.NoError(t, err)
		require.Equal(t, uint64(3), boot)
		time.Sleep(20 * time.Second)
		n, _ = da.Get(2)
		require.Equal(t, "b2", n.Addr)
		require.Equal(t, Draining, n.State)
		require.NoError(t, b.local.Record(1, 7, 8))
		x, y := b.local.Highest(1)
		require.Equal(t, []uint64{7, 8}, []uint64{x, y})
		for _, s := range []*Service{sa, sb, sc} {
			s.Close()
		}
		for _, n := range []*testNode{a, b, c} {
			n.stop()
		}
		_ = db
		net.Close()
	})
}

// TestAnnounceToAnotherCluster restarts the nodes of a cluster under other addresses. At one
// that --join names there is a node of another cluster: neither learns from the other.
func TestAnnounceToAnotherCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(1)
		client := net.Listen("client")
		nodes := []*testNode{start(t, net, "a", storage.MemFS()), start(t, net, "b", storage.MemFS())}
		other := start(t, net, "other", storage.MemFS())
		founded, err := Init(t.Context(), client, "x", []string{"a", "b"}, "")
		require.NoError(t, err)
		p := founded.Plan
		_, err = Init(t.Context(), client, "y", []string{"other"}, "")
		require.NoError(t, err)
		sender := &mapSender{m: map[string]kv.KeyValue{}, ts: p.CreatedAt}
		for _, d := range p.InitialData() {
			sender.m[string(d.Key)] = kv.KeyValue{Value: d.Value, Version: p.Timestamp()}
		}
		serve := func(n *testNode, join ...string) (*Directory, *Service) {
			r := n.wait()
			boot, err := n.local.NextBoot()
			require.NoError(t, err)
			n.ep.SetIdentity(raftnet.Identity{ClusterID: r.Identity.ClusterID, Node: r.Identity.Node, Boot: boot})
			d, err := OpenDirectory(n.local)
			require.NoError(t, err)
			if r.Plan != nil {
				require.NoError(t, d.Merge(r.Plan.Members...))
			}
			self := n.adm.Self
			self.ID = r.Identity.Node
			return d, StartService(d, n.ep, r.Identity, self, sender, nil, join...)
		}
		for _, n := range nodes {
			_, s := serve(n)
			s.Close()
			n.stop()
		}
		dirs, services := make([]*Directory, 2), make([]*Service, 3)
		dother, sother := serve(other)
		services[2] = sother
		for i, n := range nodes {
			nodes[i] = start(t, net, []string{"a2", "b2"}[i], n.fs)
			dirs[i], services[i] = serve(nodes[i], "other", "a2", "b2")
		}
		time.Sleep(20 * time.Second)
		for _, d := range dirs {
			require.Len(t, d.All(), 2)
			for id, addr := range map[keys.NodeID]string{1: "a2", 2: "b2"} {
				got, _ := d.Resolve(id)
				require.Equal(t, addr, got)
			}
		}
		require.Len(t, dother.All(), 1)
		for _, s := range services {
			s.Close()
		}
		for _, n := range append(nodes, other) {
			n.stop()
		}
		net.Close()
	})
}

func TestClockBoundHoldsBackAClockThatWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := storage.MemFS()
		log, err := storage.OpenLog(storage.LogOptions{Dir: "/log", FS: fs, Small: true})
		require.NoError(t, err)
		l := NewLocal(log)
		offset := time.Duration(0)
		clock := hlc.NewClock(func() time.Time { return time.Now().Add(offset) }, time.Second)
		fatal := func(err error) { t.Error(err) }
		b, err := StartClockBound(t.Context(), l, clock, nil, fatal)
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		before := clock.Now()
		b.Close()
		offset = -5 * time.Second
		b, err = StartClockBound(t.Context(), l, clock, nil, fatal)
		require.NoError(t, err)
		require.True(t, before.Less(hlc.NewClock(func() time.Time { return time.Now().Add(offset) }, 0).Now()))
		b.Close()
		require.NoError(t, log.Close())
	})
}

func FuzzDecode(f *testing.F) {
	n := NodeInfo{ID: 1, Version: 2, Addr: "a", Zone: "z", State: Draining, Attributes: "nvme,ssd"}
	p := Plan{ClusterID: "x", CreatedAt: 1, Members: []NodeInfo{n}}
	id := Identity{ClusterID: "x", Node: 1}
	f.Add(n.Encode())
	f.Add((&proposal{Plan: p, Self: 1}).encode())
	f.Add((&status{Info: n, Identity: &id, Plan: &p}).encode())
	f.Add((&admission{Identity: id, Directory: []NodeInfo{n}}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := DecodeNodeInfo(b); err == nil {
			again, err := DecodeNodeInfo(n.Encode())
			require.NoError(t, err)
			require.Equal(t, n, again)
		}
		if pr, err := decodeProposal(b); err == nil {
			again, err := decodeProposal(pr.encode())
			require.NoError(t, err)
			require.Equal(t, pr.encode(), again.encode())
		}
		_, _ = decodeStatus(b)
		_, _ = decodeAdmission(b)
		_, _ = decodeIdentity(b)
		_, _ = decodeInfos(b)
	})
}

// Nodes that lost their disks, or never started, are no part of a majority.
func TestTheYoungestNodeOfAnAddressCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := raftnet.NewMemNet(1)
		n := start(t, net, "a", storage.MemFS())
		d, err := OpenDirectory(n.local)
		require.NoError(t, err)
		require.NoError(t, d.Merge(NodeInfo{ID: 1, Addr: "a", Version: 1}, NodeInfo{ID: 2, Addr: "b", Version: 1}, NodeInfo{ID: 3, Addr: "c", Version: 1},
			NodeInfo{ID: 4, Addr: "b", Version: 1}, NodeInfo{ID: 5, Addr: "b", Version: 1}))
		require.Equal(t, []keys.NodeID{1, 3, 5}, d.Nodes())
		require.Len(t, d.All(), 5)
		require.NoError(t, d.Merge(NodeInfo{ID: 5, Addr: "b", Version: 2, State: Decommissioned}, NodeInfo{ID: 2, Addr: "b2", Version: 2}))
		require.Equal(t, []keys.NodeID{1, 2, 3, 4}, d.Nodes(), "the second is somewhere else")
		require.NoError(t, d.Merge(NodeInfo{ID: 6, Addr: "b", Version: 1, State: Joining}, NodeInfo{ID: 7, Addr: "d", Version: 1, State: Joining}))
		require.Equal(t, []keys.NodeID{1, 2, 3, 4}, d.Nodes(), "whether the last two ever wrote their IDs down is unknown")
		require.Equal(t, []keys.NodeID{1, 2, 3, 4, 8}, d.Counted([]keys.NodeID{5, 6, 8}))
		require.NoError(t, d.Merge(NodeInfo{ID: 6, Addr: "b", Version: 2}))
		require.Equal(t, []keys.NodeID{1, 2, 3, 6}, d.Nodes())
		n.stop()
		net.Close()
	})
}
