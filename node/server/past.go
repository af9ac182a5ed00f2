package server

import (
	"context"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/host"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/session"
	"github.com/atolldb/atoll/node/store"
)

// pastReads says what replicas without the lease can answer. It implements session.PastReads.
type pastReads struct{ n *host.Node }

var _ session.PastReads = pastReads{}

// FollowerLag implements session.PastReads.
func (p pastReads) FollowerLag(tables []keys.Key) time.Duration {
	fresh := len(tables) > 0
	for _, k := range tables {
		fresh = fresh && p.n.Store.FollowerReads(k)
	}
	return store.FollowerLag(fresh)
}

// maxFreshest bounds the ranges that are asked how fresh they are for one statement.
const maxFreshest = 64

// Freshest implements session.PastReads.
func (p pastReads) Freshest(ctx context.Context, spans []keys.Span) (hlc.Timestamp, error) {
	var oldest hlc.Timestamp
	asked := 0
	for _, sp := range spans {
		for at := sp.Key; at.Less(sp.EndKey); asked++ {
			if asked == maxFreshest {
				return hlc.Timestamp{}, nil
			}
			br, err := p.n.Sender.Send(ctx, &kv.BatchRequest{Header: kv.Header{FollowerRead: true}, Requests: []kv.Request{&kv.LeaseInfoRequest{Key: at}}})
			if err != nil {
				return hlc.Timestamp{}, err
			}
			info, ok := br.Responses[0].(*kv.LeaseInfoResponse)
			if !ok || info.Freshest.IsEmpty() || !at.Less(info.Desc.End) {
				return hlc.Timestamp{}, nil
			}
			if asked == 0 || info.Freshest.Less(oldest) {
				oldest = info.Freshest
			}
			at = info.Desc.End
		}
	}
	return oldest, nil
}
