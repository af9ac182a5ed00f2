package raftnet

import (
	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
)

// Grant is support that another node gives this one.
type Grant struct {
	// Epoch in which it supports.
	Epoch uint64
	// Limit is h + D: nothing later may be served on the strength of this support (S2 d).
	Limit hlc.Timestamp
}

// Support is what leases need to know of node pairs; liveness.Agent implements it.
type Support interface {
	// Supports reports whether this node supports another one now, and in which epoch.
	// Once it has said no, it never says yes again for that epoch.
	Supports(node keys.NodeID) (epoch uint64, ok bool)
	// PromisedLimit bounds what the node served by this node's support up to that epoch.
	PromisedLimit(node keys.NodeID, epoch uint64) hlc.Timestamp
	// SupportedBy returns the support given by another node, or by this one to itself
	// (epoch 0), if it counts now.
	SupportedBy(node keys.NodeID) (Grant, bool)
	// VotesAllowed is false for one support period after a restart (S3).
	VotesAllowed() bool
	// QuorumAgainst reports whether a majority of the voters say that they don't
	// support the node.
	QuorumAgainst(node keys.NodeID, voters []keys.NodeID) bool
	// Ready reports whether clocks were compared with a majority of the nodes (S1).
	Ready() bool
	// Live reports whether a node has answered lately; Heard returns a channel that is
	// closed at its next answer.
	Live(node keys.NodeID) bool
	Heard(node keys.NodeID) <-chan struct{}
	// Boot returns the incarnation of a node that was heard of last.
	Boot(node keys.NodeID) uint64
}

// pairs are the two questions that a sweep asks for every range.
type pairs interface {
	Supports(node keys.NodeID) (epoch uint64, ok bool)
	SupportedBy(node keys.NodeID) (Grant, bool)
}

// oneAnswer asks a Support once per node: each answer reads all clocks, and a sweep over hundreds
// of ranges asks about the same few nodes. Use it within one sweep only, and not where safety
// rests on the answer.
type oneAnswer struct {
	sup       Support
	supports  map[keys.NodeID]answerOf[uint64]
	supported map[keys.NodeID]answerOf[Grant]
}

type answerOf[T any] struct {
	v  T
	ok bool
}

func askOnce(s Support) *oneAnswer {
	return &oneAnswer{s, map[keys.NodeID]answerOf[uint64]{}, map[keys.NodeID]answerOf[Grant]{}}
}

func (o *oneAnswer) Supports(node keys.NodeID) (uint64, bool) {
	return once(o.supports, node, o.sup.Supports)
}

func (o *oneAnswer) SupportedBy(node keys.NodeID) (Grant, bool) {
	return once(o.supported, node, o.sup.SupportedBy)
}

func once[T any](known map[keys.NodeID]answerOf[T], node keys.NodeID, ask func(keys.NodeID) (T, bool)) (T, bool) {
	a, asked := known[node]
	if !asked {
		a.v, a.ok = ask(node)
		known[node] = a
	}
	return a.v, a.ok
}
