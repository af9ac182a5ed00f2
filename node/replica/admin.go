package replica

import (
	"context"

	"github.com/atolldb/atoll/node/kv"
)

// sendAdmin executes a request that changes, or asks about, the range itself. LeaseInfo is
// answered by any replica.
func (r *Replica) sendAdmin(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	resp, err := r.admin(ctx, ba.Requests[0])
	if err != nil {
		if !isAnswer(err) {
			err = &kv.InternalError{Detail: err.Error()}
		}
		return nil, err
	}
	return &kv.BatchResponse{Responses: []kv.Response{resp}, Now: r.cfg.Clock.Now()}, nil
}

func (r *Replica) admin(ctx context.Context, req kv.Request) (kv.Response, error) {
	if _, ok := req.(*kv.LeaseInfoRequest); ok {
		return r.info(), nil
	}
	if r.cfg.Admin == nil {
		return nil, &kv.InvalidRequestError{Detail: "this replica takes no administrative requests"}
	}
	if _, _, err := r.lease(); err != nil {
		return nil, err
	}
	switch req := req.(type) {
	case *kv.AdminSplitRequest:
		return r.cfg.Admin.Split(ctx, r, req)
	case *kv.AdminMergeRequest:
		return r.cfg.Admin.Merge(ctx, r, req)
	case *kv.AbandonMergeRequest:
		return r.cfg.Admin.AbandonMerge(ctx, r, req)
	case *kv.AdminTransferLeaseRequest:
		return &kv.AdminTransferLeaseResponse{}, r.cfg.Admin.TransferLease(ctx, r, req)
	case *kv.AdminChangeReplicasRequest:
		d, err := r.cfg.Admin.ChangeReplicas(ctx, r, req)
		if err != nil {
			return nil, err
		}
		return &kv.AdminChangeReplicasResponse{Desc: *d}, nil
	case *kv.ChecksumRequest:
		return r.cfg.Admin.Checksum(ctx, r, req)
	}
	return nil, &kv.InvalidRequestError{Detail: "unknown administrative request"}
}

func (r *Replica) info() *kv.LeaseInfoResponse {
	l := r.cfg.Group.Lease()
	resp := &kv.LeaseInfoResponse{Desc: *r.desc.Load(), Leaseholder: l.Leader, Term: l.Term, Freshest: r.freshest()}
	if r.cfg.Admin != nil {
		resp.Applied, resp.Bytes, resp.BatchesPerSecond = r.cfg.Admin.Info(r)
	}
	return resp
}
