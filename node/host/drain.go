package host

import (
	"context"
	"time"

	"github.com/atolldb/atoll/node/cluster"
)

// followEvery is how soon a node notices what the directory says of it.
const followEvery = 500 * time.Millisecond

// follow keeps the store in the state that the node directory gives this node: a draining
// node gives its leases away and takes none, until it is live again.
func (n *Node) follow(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	draining := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		self, ok := n.Directory.Get(n.Identity.Node)
		switch want := ok && self.State == cluster.Draining; {
		case want && !draining:
			// An error says which leases are left; the store goes on giving them away.
			_ = n.Store.Drain(ctx)
			draining = true
		case !want && draining:
			n.Store.Undrain()
			draining = false
		}
	}
}
