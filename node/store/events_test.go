package store

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/events"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// diary collects what all nodes record.
type diary struct {
	mu  sync.Mutex
	all []string
}

func (d *diary) take(e events.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, fmt.Sprintf("%s r%d n%d: %s: %s", e.Kind, e.RangeID, e.Other, e.What, e.Cause))
}

// since returns what was recorded of a range after the first n.
func (d *diary) since(n int, of keys.RangeID) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, e := range d.all[n:] {
		if strings.Contains(e, fmt.Sprintf(" r%d ", of)) {
			out = append(out, e)
		}
	}
	return strings.Join(out, "\n")
}

// after returns what was recorded after the first n.
func (d *diary) after(n int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.all[n:], "\n")
}

func (d *diary) len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.all)
}

// Each lease that moves, each split and each replica change is written down once, with its cause.
func TestEventsSayWhatHappenedAndWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		c := newCluster(t, func(cfg *Config) { cfg.Events = d.take }, "a", "b", "c")
		client := c.nodes[0]
		require.NoError(t, client.put(t.Context(), tkey(0), "x"))
		const data = keys.FirstDataRangeID

		from := c.leaseholder(data)
		target := c.nodes[int(from.id)%3]
		n := d.len()
		_, err := sendOne[*kv.AdminTransferLeaseResponse](t.Context(), client.sender, &kv.AdminTransferLeaseRequest{Key: tkey(0), Target: target.id})
		require.NoError(t, err)
		require.NoError(t, client.put(t.Context(), tkey(0), "y"))
		require.Regexp(t, fmt.Sprintf(`^lease r2 n%d: node %d has the lease, term \d+: node %[1]d gave it away: it was asked to$`, from.id, target.id), d.since(n, data))

		n = d.len()
		require.NoError(t, client.splitAt(t.Context(), tkey(5)))
		time.Sleep(time.Second)
		require.Equal(t, "split r2 n0: range 3 begins at "+tkey(5).Pretty()+": it was asked for", d.since(n, data))
		require.Regexp(t, `^lease r3 n0: node \d has the lease, term \d+: the range was split off range 2$`, d.since(n, 3))

		dead := c.leaseholder(data)
		live := c.nodes[int(dead.id)%3]
		n = d.len()
		dead.kill()
		require.NoError(t, live.put(t.Context(), tkey(0), "z"))
		require.Regexp(t, fmt.Sprintf(`^lease r2 n%d: node \d has the lease, term \d+: a majority no longer heard from node %[1]d$`, dead.id), d.since(n, data))

		n = d.len()
		spare := c.join("spare", dead.zone)
		var want []keys.NodeID
		for _, o := range c.nodes {
			if o != dead {
				want = append(want, o.id)
			}
		}
		c.voters(time.Minute, want...)
		got := d.since(n, data)
		silent := fmt.Sprintf(`node %d \(%s\) has been silent for \d+s`, dead.id, dead.zone)
		require.Regexp(t, fmt.Sprintf("replica r2 n%d: a non-voter was made on node %[1]d: %s", spare.id, silent), got)
		require.Regexp(t, fmt.Sprintf("replica r2 n%d: a voter now is the replica on node %[1]d: %s", spare.id, silent), got)
		require.Regexp(t, fmt.Sprintf("replica r2 n%d: the replica was removed from node %[1]d: %s", dead.id, silent), got)

		n = d.len()
		away := c.leaseholder(data)
		require.NoError(t, away.store.Drain(t.Context()))
		require.NoError(t, live.put(t.Context(), tkey(0), "u"))
		require.Contains(t, d.since(n, data), fmt.Sprintf("node %d gave it away: it drains", away.id))
		require.Contains(t, d.since(n, 0), fmt.Sprintf("node %d gives its leases away and takes none", away.id))
		c.close()
	})
}

// A split costs the new range an election, and its keys no more than what that takes.
func TestSplitRangeServesSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, "a", "b", "c")
		client := c.nodes[0]
		for i := range 10 {
			time.Sleep(2 * time.Second)
			require.NoError(t, client.put(t.Context(), tkey(50-i), "x"))
			require.NoError(t, client.splitAt(t.Context(), tkey(50-i)))
			began := time.Now()
			require.NoError(t, client.put(t.Context(), tkey(50-i), "y"))
			require.Less(t, time.Since(began), 200*time.Millisecond, "split %d", i)
		}
		c.close()
	})
}
