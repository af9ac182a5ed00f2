package raftnet_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
)

// leaseChecker looks at every replica at one instant.
type leaseChecker struct {
	c      *cluster
	checks int
	held   int
	moves  int
	terms  map[keys.RangeID]uint64 // of the last lease seen
	served map[keys.RangeID]int64  // largest limit handed out, in wall nanoseconds
	faults []string
}

func (k *leaseChecker) look(at time.Duration) {
	for id := keys.RangeID(1); int(id) <= k.c.ranges; id++ {
		var holder keys.NodeID
		var term uint64
		for _, n := range k.c.nodes {
			if !n.up {
				continue
			}
			k.checks++
			tr := n.reps[id].tr
			s := tr.Lease()
			if !s.Valid {
				continue
			}
			k.held++
			if holder != 0 {
				k.faults = append(k.faults, fmt.Sprintf("%v: r%d: n%d (term %d) and n%d (term %d) hold the lease at once", at, id, holder, term, n.id, s.Term))
			}
			holder, term = n.id, s.Term
			if s.Term != k.terms[id] {
				k.moves++
				// S4: the mark lies above everything that was served before.
				if low := tr.LowWater().WallNanos; low < k.served[id] {
					k.faults = append(k.faults, fmt.Sprintf("%v: r%d: low-water mark of n%d in term %d is %v below a read limit handed out before", at, id, n.id, s.Term, time.Duration(k.served[id]-low)))
				}
				if s.Term < k.terms[id] {
					k.faults = append(k.faults, fmt.Sprintf("%v: r%d: lease of term %d after one of term %d", at, id, s.Term, k.terms[id]))
				}
				k.terms[id] = s.Term
			}
			k.served[id] = max(k.served[id], s.ReadLimit.WallNanos)
		}
	}
}

// runFaults drives a cluster through random faults and returns what the checker saw.
func runFaults(t *testing.T, seed uint64, nodes int, planted raftnet.Planted, length time.Duration) *leaseChecker {
	rng := rand.New(rand.NewPCG(seed, 7))
	c := newCluster(t, seed, nodes, 3, func(c *cluster) {
		c.planted, c.support = planted, 250*time.Millisecond
	})
	k := &leaseChecker{c: c, terms: map[keys.RangeID]uint64{}, served: map[keys.RangeID]int64{}}
	start := time.Now()
	restart := map[keys.NodeID]time.Time{}
	next := start.Add(time.Second)
	for time.Since(start) < length {
		time.Sleep(time.Millisecond)
		for id, at := range restart {
			if !time.Now().Before(at) {
				delete(restart, id)
				c.node(id).start()
			}
		}
		if !time.Now().Before(next) {
			next = time.Now().Add(time.Duration(rng.IntN(350)) * time.Millisecond)
			fault(c, rng, restart)
		}
		k.look(time.Since(start))
	}
	c.net.HealAll()
	c.net.SetDrop(0)
	for id := range restart {
		c.node(id).start()
	}
	if planted == 0 {
		c.leased(25*time.Second, 0) // it always comes back
	}
	c.close()
	return k
}

func fault(c *cluster, rng *rand.Rand, restart map[keys.NodeID]time.Time) {
	pick := func() keys.NodeID { return keys.NodeID(rng.IntN(len(c.nodes)) + 1) }
	a, b := pick(), pick()
	id := keys.RangeID(rng.IntN(c.ranges) + 1)
	if h := c.holder2(id); h != 0 && rng.IntN(2) == 0 {
		a = h
	}
	switch rng.IntN(10) {
	case 0:
		c.net.Isolate(a)
	case 1:
		c.net.Cut(a, b)
	case 2:
		c.net.CutOneWay(a, b)
	case 3, 4:
		c.net.HealAll()
	case 5: // a restart, mostly shorter than the support period
		if n := c.node(a); n.up {
			n.stop()
			restart[a] = time.Now().Add(time.Duration(rng.IntN(200)) * time.Millisecond)
		}
	case 6, 7: // a campaign that no rule allows
		if n := c.node(b); n.up {
			_ = n.reps[id].tr.InjectTimeoutNow()
		}
	case 8:
		c.net.SetDelay(0, time.Duration(rng.IntN(20))*time.Millisecond)
		c.net.SetDrop(float64(rng.IntN(3)) * 0.03)
	case 9:
		if n := c.node(a); n.up {
			target := raftnet.ServerID(b, keys.ReplicaID(b))
			tr := n.reps[id].tr // the node may restart before the goroutine runs
			go func() { _ = tr.Transfer(c.t.Context(), target, "a test") }()
		}
	}
}

// holder2 is holder without the assertion.
func (c *cluster) holder2(id keys.RangeID) keys.NodeID {
	for _, n := range c.nodes {
		if n.up && n.reps[id].tr.Lease().Valid {
			return n.id
		}
	}
	return 0
}

func seeds(t *testing.T, n int) (first, count uint64) {
	first, count = 1, uint64(n)
	if s := os.Getenv("SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
		first, count = v, 1
	}
	if s := os.Getenv("SEEDS"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
		count = v
	}
	return first, count
}

// Never two leases at one instant, and a low-water mark above all that was served. Run
// with SEEDS=n for more, SEED=n for one.
func TestLeaseInvariant(t *testing.T) {
	first, count := seeds(t, 6)
	var checks, held, moves int
	for s := first; s < first+count; s++ {
		synctest.Test(t, func(t *testing.T) {
			k := runFaults(t, s, 3+2*int(s%2), 0, 30*time.Second)
			for _, f := range k.faults {
				t.Errorf("seed %d: %s", s, f)
			}
			checks, held, moves = checks+k.checks, held+k.held, moves+k.moves
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d seeds: %d checks, lease held in %d, %d leases", count, checks, held, moves)
	require.Greater(t, moves, int(count)*10, "too few leases changed hands for the test to mean anything")
	require.Greater(t, held, checks/20)
}

// The checker must be able to fail: each rule that is removed shows.
func TestLeaseInvariantFindsPlantedBugs(t *testing.T) {
	for _, p := range []struct {
		name string
		bug  raftnet.Planted
	}{
		{"no outgoing guard", raftnet.PlantNoOutgoingGuard},
		{"no incoming guard", raftnet.PlantNoIncomingGuard},
		{"no epoch match", raftnet.PlantNoEpochMatch},
	} {
		t.Run(p.name, func(t *testing.T) {
			// Mostly one of the first ten seeds shows it; the order of goroutines decides.
			const most = 300
			for s := uint64(1); s <= most; s++ {
				found := ""
				synctest.Test(t, func(t *testing.T) {
					if k := runFaults(t, s, 3, p.bug, 30*time.Second); len(k.faults) > 0 {
						found = k.faults[0]
					}
				})
				if found != "" {
					t.Logf("seed %d: %s", s, found)
					return
				}
			}
			t.Fatalf("the checker did not find the planted bug in %d seeds", most)
		})
	}
}

// A's lease rests on B alone; B restarts and forgets its promise, and C campaigns.
func TestRestartWait(t *testing.T) {
	for _, planted := range []raftnet.Planted{0, raftnet.PlantNoRestartWait} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 1, 3, 1, func(c *cluster) { c.planted = planted })
			k := &leaseChecker{c: c, terms: map[keys.RangeID]uint64{}, served: map[keys.RangeID]int64{}}
			c.leased(5*time.Second, 0)
			c.moveAll(1)
			c.net.Cut(1, 3)
			time.Sleep(2 * time.Second)
			require.Equal(t, keys.NodeID(1), c.holder(1))
			c.node(2).stop()
			c.net.Cut(1, 2)
			time.Sleep(10 * time.Millisecond)
			c.node(2).start()
			for i := range 450 {
				if i%20 == 5 {
					_ = c.node(3).reps[1].tr.InjectTimeoutNow()
				}
				time.Sleep(time.Millisecond)
				k.look(0)
			}
			if planted == 0 {
				require.Empty(t, k.faults)
			} else {
				require.NotEmpty(t, k.faults, "the checker did not find the planted bug")
			}
			c.close()
		})
	}
}
