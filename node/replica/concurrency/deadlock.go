package concurrency

import (
	"bytes"
	"context"

	"github.com/atolldb/atoll/node/kv"
)

// maxDeadlockNodes bounds the transactions that one search visits.
const maxDeadlockNodes = 1000

// FindCycle looks for a cycle of waiting transactions through the edge pusher -> pushee, by
// asking, from the pusher on, who waits for whom (direct waiters of a transaction, from its
// record's leaseholder). It returns the transactions of the cycle, nil if there is none.
//
// Every edge lasts until its transaction goes on, so that of the last edge of a deadlock
// some search finds all the others; one of an edge that just went away can at worst fail a
// transaction without need, which a second search makes improbable.
func FindCycle(ctx context.Context, pusher, pushee *kv.TxnMeta,
	waitersOf func(context.Context, *kv.TxnMeta) ([]kv.TxnMeta, error)) ([]kv.TxnMeta, error) {
	if len(pusher.Key) == 0 {
		return nil, nil // without an anchor it holds nothing that others could wait for
	}
	type node struct {
		txn  kv.TxnMeta
		from int // whom it waits for
	}
	nodes := []node{{txn: *pusher, from: -1}}
	seen := map[kv.TxnID]bool{pusher.ID: true}
	for at := 0; at < len(nodes); at++ {
		if len(nodes[at].txn.Key) == 0 {
			continue
		}
		waiters, err := waitersOf(ctx, &nodes[at].txn)
		if err != nil {
			return nil, err
		}
		for _, w := range waiters {
			if w.ID == pushee.ID {
				cycle := []kv.TxnMeta{w}
				for i := at; i >= 0; i = nodes[i].from {
					cycle = append(cycle, nodes[i].txn)
				}
				return cycle, nil
			}
			if !seen[w.ID] && len(nodes) < maxDeadlockNodes {
				seen[w.ID] = true
				nodes = append(nodes, node{txn: w, from: at})
			}
		}
	}
	return nil, nil
}

// Victim returns the transaction of a cycle that fails: of the lowest priority, then the
// youngest. Whoever finds the cycle chooses the same one, so that exactly one fails.
func Victim(cycle []kv.TxnMeta) kv.TxnMeta {
	v := cycle[0]
	for _, t := range cycle[1:] {
		if sacrificed(&t, &v) {
			v = t
		}
	}
	return v
}

func sacrificed(a, b *kv.TxnMeta) bool {
	if a.Priority != b.Priority {
		return a.Priority < b.Priority
	}
	if c := a.MinTimestamp.Compare(b.MinTimestamp); c != 0 {
		return c > 0
	}
	return bytes.Compare(a.ID[:], b.ID[:]) > 0
}
