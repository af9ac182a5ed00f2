package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// Lost reports whether a node was given up for good when ranges had lost their quorums: nobody speaks
// with it any more (SAFETY S18).
func (d *Directory) Lost(id keys.NodeID) bool {
	n, _ := d.Get(id)
	return n.Lost
}

// GiveUp marks a node as lost, durably, in this node's copy of the directory; the range with the system
// keys may have no quorum. version is the same on every node that is told. To repeat it is harmless.
func (d *Directory) GiveUp(id keys.NodeID, version int64) error {
	n, ok := d.Get(id)
	if !ok {
		return fmt.Errorf("cluster: there is no node %d", id)
	}
	if n.Lost {
		return nil
	}
	n.State, n.Lost, n.Version = Decommissioned, true, max(version, n.Version+1)
	return d.Merge(n)
}

// ErrLost: the cluster went on without this node, whose data it had given up.
var ErrLost = errors.New("cluster: this node was given up as lost, and the cluster went on without what it holds; it can never come back (SAFETY S18): start it with an empty store, as a new node")

// Republish writes every entry of this node's copy of the directory to the system keys again, where they
// are older or missing: the range that holds them may have been recovered from an older state.
func (d *Directory) Republish(ctx context.Context, s kv.Sender) error {
	for _, mine := range d.All() {
		got, err := sendOne[*kv.GetResponse](ctx, s, &kv.GetRequest{Key: keys.NodeDirectory(mine.ID)})
		if err != nil {
			return fmt.Errorf("cluster: reading the directory entry of node %d: %w", mine.ID, err)
		}
		if got.Exists {
			if have, err := DecodeNodeInfo(got.Value); err != nil || have.Version >= mine.Version {
				if err != nil {
					return err
				}
				continue
			}
		}
		if _, err := d.Update(ctx, s, mine.ID, func(n *NodeInfo) error {
			v := n.Version
			*n = mine
			n.Version = v
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}
