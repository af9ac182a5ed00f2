package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/host"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/sql/ddl"
)

// admin carries out what SQL asks of the cluster. It implements session.ClusterAdmin.
type admin struct{ n *host.Node }

// SplitAt implements session.ClusterAdmin.
func (a admin) SplitAt(ctx context.Context, key []byte) error {
	_, err := a.n.Sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{&kv.AdminSplitRequest{SplitKey: key}}})
	return err
}

// DrainNode implements session.ClusterAdmin.
func (a admin) DrainNode(ctx context.Context, node int32, on bool) error {
	if _, ok := a.n.Directory.Get(keys.NodeID(node)); !ok {
		return fmt.Errorf("there is no node %d: see atoll.nodes", node)
	}
	state := cluster.Live
	if on {
		state = cluster.Draining
	}
	return a.n.Directory.SetState(ctx, a.n.Sender, keys.NodeID(node), state)
}

// DecommissionNode implements session.ClusterAdmin.
func (a admin) DecommissionNode(ctx context.Context, node int32, dead bool) error {
	return a.n.Store.Decommission(ctx, keys.NodeID(node), dead, func(int) {})
}

// foundRetry is the pause between tries of Found.
const foundRetry = 200 * time.Millisecond

// Found founds a cluster on the nodes at addrs, once (SAFETY S28). It tries until the
// context is done, since nodes may still be starting; a refusal ends it at once. password becomes
// that of role postgres (empty: it has none, and nobody can log in where certificates are used); a
// cluster that stands already keeps its own; later are nodes that may have joined it. waiting is told
// why a try failed, once for each new reason.
func Found(ctx context.Context, clusterID string, addrs, later []string, certs, password string, waiting func(error)) (*cluster.Standing, error) {
	var verifier string
	if password != "" {
		var err error
		if verifier, err = ddl.ScramVerifier(password); err != nil {
			return nil, err
		}
	}
	net, err := operator(certs)
	if err != nil {
		return nil, err
	}
	defer net.Close()
	var said string
	for {
		stands, err := cluster.Init(ctx, net, clusterID, addrs, verifier, later...)
		if err == nil || errors.Is(err, cluster.ErrRefused) {
			return stands, err
		}
		if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			waiting(err)
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(foundRetry):
		}
	}
}

// operator returns a network without identity, from which nodes can be called by their addresses. With
// certificates, it needs a node's own.
func operator(certs string) (*raftnet.TCP, error) {
	tc := raftnet.TCPConfig{Resolve: func(keys.NodeID) (string, bool) { return "", false }}
	if certs != "" {
		c, err := openCertificates(certs, slog.Default())
		if err != nil {
			return nil, err
		}
		tc.ServerTLS, tc.ClientTLS = c.peer()
	}
	var err error
	if tc.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	return raftnet.ListenTCP(tc)
}
