package raftnet

import (
	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
)

// Supporters returns the nodes that are fortified for the current term.
func (t *RangeTransport) Supporters() []keys.NodeID { return t.supporters(t.raft.Load().CurrentTerm()) }

// InjectTimeoutNow makes raft campaign, past all rules.
func (t *RangeTransport) InjectTimeoutNow() error {
	return t.inject(&raft.TimeoutNowRequest{RPCHeader: header(t.router.self, t.cfg.Replica)})
}

// Refort makes a pass over all ranges as if the node's support were new.
func (r *Router) Refort(node keys.NodeID) { r.granted(node) }

// TakeVote takes in the limit of a vote in term, as if its answer had just come.
func (t *RangeTransport) TakeVote(term uint64, limit int64) { t.addLow(term, limit) }
