package server

import (
	"context"
	"errors"
	"time"

	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/recovery"
)

// Recovery speaks with nodes for an operator after the loss of quorums (package recovery): over the port
// between nodes, which a node's certificate opens and no client's.
type Recovery struct{ net *raftnet.TCP }

var _ recovery.Nodes = (*Recovery)(nil)

// NewRecovery returns a way to nodes; certs is empty for a cluster without certificates.
func NewRecovery(certs string) (*Recovery, error) {
	net, err := operator(certs)
	if err != nil {
		return nil, err
	}
	return &Recovery{net}, nil
}

// Close ends all connections.
func (r *Recovery) Close() { _ = r.net.Close() }

// lostPause is the pause before a call is repeated whose connection was lost.
const lostPause = 200 * time.Millisecond

// call repeats what lost its connection, until ctx ends: a connection on which nothing comes for a while
// is closed, and a step may take longer. Every call of a recovery is harmless to repeat.
func (r *Recovery) call(ctx context.Context, addr string, m raftnet.Method, payload []byte) ([]byte, error) {
	for {
		b, err := r.net.CallAddr(ctx, addr, m, payload)
		if !errors.Is(err, raftnet.ErrConnLost) {
			return b, err
		}
		t := time.NewTimer(lostPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		}
	}
}

// Inventory implements recovery.Nodes.
func (r *Recovery) Inventory(ctx context.Context, addr string) (*recovery.Inventory, error) {
	b, err := r.call(ctx, addr, raftnet.MethodRecoveryInventory, nil)
	if err != nil {
		return nil, err
	}
	return recovery.DecodeInventory(b)
}

// Stage implements recovery.Nodes.
func (r *Recovery) Stage(ctx context.Context, addr string, p *recovery.Plan) error {
	b, err := p.Encode()
	if err != nil {
		return err
	}
	_, err = r.call(ctx, addr, raftnet.MethodRecoveryStage, b)
	return err
}

// Step implements recovery.Nodes.
func (r *Recovery) Step(ctx context.Context, addr string, s *recovery.Step) error {
	b, err := s.Encode()
	if err != nil {
		return err
	}
	_, err = r.call(ctx, addr, raftnet.MethodRecoveryStep, b)
	return err
}
