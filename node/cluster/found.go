package cluster

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
)

// AddrCaller reaches nodes by address, before identities are known; raftnet.Network is one.
type AddrCaller interface {
	CallAddr(ctx context.Context, addr string, method raftnet.Method, payload []byte) ([]byte, error)
}

const (
	callTimeout = 3 * time.Second
	retryEvery  = 500 * time.Millisecond
	maxIDLen    = 128
	maxVerifier = 512
)

func (p *Plan) validate() error {
	var errs []error
	if p.ClusterID == "" || len(p.ClusterID) > maxIDLen {
		errs = append(errs, fmt.Errorf("cluster: cluster ID %q must have 1 to %d bytes", p.ClusterID, maxIDLen))
	}
	if p.CreatedAt <= 0 {
		errs = append(errs, fmt.Errorf("cluster: plan was created at %d", p.CreatedAt))
	}
	if p.Verifier != "" && (!strings.HasPrefix(p.Verifier, "SCRAM-SHA-256$") || len(p.Verifier) > maxVerifier) {
		errs = append(errs, fmt.Errorf("cluster: plan has a password verifier of %d bytes, want SCRAM-SHA-256 in at most %d", len(p.Verifier), maxVerifier))
	}
	if len(p.Members) == 0 || len(p.Members) > maxNodes {
		errs = append(errs, fmt.Errorf("cluster: plan has %d members, want 1 to %d", len(p.Members), maxNodes))
	}
	seen := map[string]bool{}
	for i, m := range p.Members {
		if m.ID != keys.NodeID(i+1) || m.Addr == "" || seen[m.Addr] {
			errs = append(errs, fmt.Errorf("cluster: member %d of the plan has ID %d and address %q; IDs count from 1, addresses differ", i+1, m.ID, m.Addr))
		}
		seen[m.Addr] = true
	}
	return errors.Join(errs...)
}

func (p *Plan) equal(o *Plan) bool { return bytes.Equal(p.append(nil), o.append(nil)) }

func (p *Plan) member(id keys.NodeID) (NodeInfo, bool) {
	if id < 1 || int(id) > len(p.Members) {
		return NodeInfo{}, false
	}
	return p.Members[id-1], true
}

// Standing is a cluster that Init founded or found.
type Standing struct {
	// Plan is what it was founded by; nil if none of its founding members was asked.
	Plan *Plan
	// Nodes are those asked that belong to it.
	Nodes []NodeInfo
	// Empty are the addresses of those asked that do not, yet: they join as new nodes.
	Empty []string
}

// Init founds a cluster on the nodes at addrs, or completes an Init that was interrupted. On a
// founded cluster it does nothing, whatever became of its founding members since: later are nodes that
// may have joined it, and one node that belongs to it is enough. verifier is
// that of the first user's password, in PostgreSQL's form, or empty; of several tries, that of
// the first counts. An error that is not ErrRefused may be gone at the next try.
func Init(ctx context.Context, net AddrCaller, clusterID string, addrs []string, verifier string, later ...string) (*Standing, error) {
	asked := slices.Clone(addrs)
	for _, a := range later {
		if !slices.Contains(asked, a) {
			asked = append(asked, a)
		}
	}
	all, silent := askAll(ctx, net, asked)
	stands, err := standing(clusterID, asked, all)
	if err != nil {
		return nil, err
	}
	if stands != nil {
		for i, s := range all {
			if s != nil && s.Identity == nil && s.Plan != nil { // it missed the commit; the others would tell it as well
				_, _ = call(ctx, net, asked[i], raftnet.MethodInitCommit, []byte(clusterID))
			}
		}
		return stands, nil
	}
	// REQUIRES: S28. Who is silent may belong to a cluster: what is founded is founded with all of them.
	if silent != nil {
		return nil, silent
	}
	all = all[:len(addrs)]
	p, err := choosePlan(clusterID, addrs, all, verifier)
	if err != nil {
		return nil, err
	}
	for i, addr := range addrs {
		pr := proposal{Plan: *p, Self: p.Members[i].ID}
		if _, err := call(ctx, net, addr, raftnet.MethodInitPropose, pr.encode()); err != nil {
			return nil, fmt.Errorf("cluster: init: node at %s refuses the plan: %w", addr, err)
		}
	}
	var errs []error
	for _, addr := range addrs {
		if _, err := call(ctx, net, addr, raftnet.MethodInitCommit, []byte(clusterID)); err != nil {
			// It will learn of the commit from the others.
			errs = append(errs, fmt.Errorf("cluster: init: node at %s: %w", addr, err))
		}
	}
	if len(errs) == len(addrs) {
		return nil, errors.Join(errs...)
	}
	return &Standing{Plan: p, Nodes: p.Members}, nil
}

// askAll asks nodes for their status, all at once; those that do not answer have none. The error is that of
// the first of them.
func askAll(ctx context.Context, net AddrCaller, addrs []string) (all []*status, silent error) {
	all = make([]*status, len(addrs))
	errs := make([]error, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() {
			b, err := call(ctx, net, addr, raftnet.MethodInitStatus, nil)
			if err != nil {
				errs[i] = fmt.Errorf("cluster: init: node at %s does not answer: %w", addr, err)
			} else if all[i], err = decodeStatus(b); err != nil {
				all[i], errs[i] = nil, fmt.Errorf("cluster: init: node at %s: %w", addr, err)
			}
		})
	}
	wg.Wait()
	return all, cmp.Or(errs...)
}

// standing returns the cluster if any of the nodes belongs to it: all members accepted its plan
// before the first of them did, so there is nothing left to propose (S28: were an empty node
// founded on now, acknowledged data would be lost).
func standing(clusterID string, addrs []string, all []*status) (*Standing, error) {
	out := &Standing{}
	for i, s := range all {
		switch {
		case s == nil:
			continue
		case s.Identity != nil && s.Identity.ClusterID != clusterID:
			return nil, refuse("node at %s belongs to cluster %q, not to %q", addrs[i], s.Identity.ClusterID, clusterID)
		case s.Plan != nil && s.Plan.ClusterID != clusterID:
			return nil, refuse("node at %s has accepted a plan of cluster %q", addrs[i], s.Plan.ClusterID)
		case s.Plan != nil && out.Plan != nil && !out.Plan.equal(s.Plan):
			return nil, refuse("node at %s has accepted another plan of cluster %q", addrs[i], clusterID)
		case s.Identity != nil:
			n := s.Info
			n.ID = s.Identity.Node
			out.Nodes = append(out.Nodes, n)
		case s.Plan == nil:
			out.Empty = append(out.Empty, addrs[i])
		}
		if s.Plan != nil {
			out.Plan = s.Plan
		}
	}
	if len(out.Nodes) == 0 {
		return nil, nil
	}
	return out, nil
}

// choosePlan returns the plan that the nodes are bound to, or a new one if all are empty. None of
// them has an identity.
func choosePlan(clusterID string, addrs []string, all []*status, verifier string) (*Plan, error) {
	var bound *Plan
	for _, s := range all {
		if s.Plan != nil {
			bound = s.Plan
		}
	}
	if bound != nil {
		if len(bound.Members) != len(addrs) {
			return nil, refuse("cluster %q was planned with %d nodes, %d are named now; name the same nodes", clusterID, len(bound.Members), len(addrs))
		}
		for i, s := range all {
			if bound.Members[i].Addr != s.Info.Addr {
				return nil, refuse("cluster %q was planned with node %s in place %d, now it is %s; name the same nodes in the same order",
					clusterID, bound.Members[i].Addr, i+1, s.Info.Addr)
			}
		}
		return bound, nil
	}
	p := &Plan{ClusterID: clusterID, CreatedAt: time.Now().UnixNano(), Verifier: verifier}
	for i, s := range all {
		m := s.Info
		m.ID, m.Version = keys.NodeID(i+1), 1
		p.Members = append(p.Members, m)
	}
	if err := p.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return p, nil
}

// ErrRefused marks what no further try of Init will change.
var ErrRefused = errors.New("cluster: init is refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrRefused}, args...)...)
}

func call(ctx context.Context, net AddrCaller, addr string, m raftnet.Method, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return net.CallAddr(ctx, addr, m, payload)
}

// Admission waits until a node without identity gets one: by founding or by joining.
type Admission struct {
	Local *Local
	Net   raftnet.Network
	// Self describes this node; ID and Version are filled in.
	Self NodeInfo
	// Join are addresses of nodes that may belong to a founded cluster.
	Join   []string
	Logger *slog.Logger

	once    sync.Once
	founded chan struct{}
}

// Result of Admission.Wait.
type Result struct {
	Identity Identity
	// Plan is set if the node is a founding member: unless it did so before, the store makes
	// the first ranges from it.
	Plan *Plan
	// Directory is what the cluster knows of its nodes, where the node joined.
	Directory []NodeInfo
}

// Serve registers the handlers that init calls. Call it on every start, so that repeating
// init is answered.
func (a *Admission) Serve() {
	a.once.Do(func() { a.founded = make(chan struct{}, 1) })
	a.Net.Handle(raftnet.MethodInitStatus, a.onStatus)
	a.Net.Handle(raftnet.MethodInitPropose, a.onPropose)
	a.Net.Handle(raftnet.MethodInitCommit, a.onCommit)
}

func (a *Admission) onStatus(context.Context, keys.NodeID, []byte) ([]byte, error) {
	s := &status{Info: a.Self}
	id, ok, err := a.Local.Identity()
	if err != nil {
		return nil, err
	}
	if ok {
		s.Identity = &id
		s.Info.ID = id.Node
	}
	if s.Plan, _, err = a.Local.Plan(); err != nil {
		return nil, err
	}
	return s.encode(), nil
}

func (a *Admission) onPropose(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	p, err := decodeProposal(payload)
	if err != nil {
		return nil, err
	}
	return nil, a.Local.accept(&p.Plan, p.Self)
}

func (a *Admission) onCommit(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	if _, _, err := a.Local.commit(string(payload)); err != nil {
		return nil, err
	}
	select {
	case a.founded <- struct{}{}:
	default:
	}
	return nil, nil
}

// Wait returns the node's identity as soon as it has one. Serve was called before.
func (a *Admission) Wait(ctx context.Context) (Result, error) {
	for n := 0; ; n++ {
		id, ok, err := a.Local.Identity()
		if err != nil {
			return Result{}, err
		}
		p, _, err := a.Local.Plan()
		if err != nil {
			return Result{}, err
		}
		if ok {
			return Result{Identity: id, Plan: p}, nil
		}
		if p != nil {
			a.askMembers(ctx, p)
		} else if r, err := a.tryJoin(ctx); err == nil {
			return r, nil
		} else if n%20 == 0 && a.Logger != nil {
			a.Logger.Info("waiting to be founded by init or admitted by a node of the cluster", "join", a.Join, "err", err)
		}
		if _, ok, err := a.Local.Identity(); err != nil {
			return Result{}, err
		} else if ok {
			continue
		}
		timer := time.NewTimer(retryEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return Result{}, ctx.Err()
		case <-a.founded:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// askMembers commits an accepted plan if another member was told to: then all had accepted.
func (a *Admission) askMembers(ctx context.Context, p *Plan) {
	for _, m := range p.Members {
		if m.Addr == a.Self.Addr {
			continue
		}
		b, err := call(ctx, a.Net, m.Addr, raftnet.MethodInitStatus, nil)
		if err != nil {
			continue
		}
		s, err := decodeStatus(b)
		if err != nil || s.Identity == nil || s.Identity.ClusterID != p.ClusterID || s.Plan == nil || !s.Plan.equal(p) {
			continue
		}
		if _, _, err := a.Local.commit(p.ClusterID); err == nil {
			return
		}
	}
}

func (a *Admission) tryJoin(ctx context.Context) (Result, error) {
	err := errors.New("cluster: no join address is given")
	for _, addr := range a.Join {
		if addr == a.Self.Addr {
			continue
		}
		var b []byte
		if b, err = call(ctx, a.Net, addr, raftnet.MethodJoin, a.Self.Encode()); err != nil {
			continue
		}
		adm, e := decodeAdmission(b)
		if e != nil {
			err = e
			continue
		}
		if err = a.Local.admit(adm.Identity); err != nil {
			return Result{}, err
		}
		return Result{Identity: adm.Identity, Directory: adm.Directory}, nil
	}
	return Result{}, err
}
