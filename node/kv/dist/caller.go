package dist

import (
	"context"
	"fmt"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// Caller sends a batch to another node. An error that is one of package kv's is that
// node's answer; any other error means that nobody knows whether the batch arrived,
// unless it has a method NotSent() bool that says true.
type Caller interface {
	Call(ctx context.Context, node keys.NodeID, ba *kv.BatchRequest) (*kv.BatchResponse, error)
}

// CallerFunc makes a Caller of a function that carries encoded batches, such as
// raftnet.Network's Call.
type CallerFunc func(ctx context.Context, node keys.NodeID, payload []byte) ([]byte, error)

// Call implements Caller.
func (f CallerFunc) Call(ctx context.Context, node keys.NodeID, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	payload := kv.EncodeBatchRequest(nil, ba)
	if len(payload) > kv.MaxMessageBytes {
		return nil, &kv.InvalidRequestError{Detail: fmt.Sprintf(
			"a batch of %d requests has %d bytes encoded, the limit is %d; use a smaller batch", len(ba.Requests), len(payload), kv.MaxMessageBytes)}
	}
	reply, err := f(ctx, node, payload)
	if err != nil {
		return nil, fmt.Errorf("call to node %d: %w", node, err)
	}
	br, err, decodeErr := kv.DecodeReply(reply)
	if decodeErr != nil {
		return nil, fmt.Errorf("answer of node %d: %w", node, decodeErr)
	}
	if err != nil {
		return nil, err
	}
	if len(br.Responses) != len(ba.Requests) {
		return nil, fmt.Errorf("node %d answered %d of %d requests", node, len(br.Responses), len(ba.Requests))
	}
	return br, nil
}

// Serve is the other end of CallerFunc: it runs an encoded batch and encodes the answer.
func Serve(ctx context.Context, sender kv.Sender, payload []byte) []byte {
	ba, err := kv.DecodeBatchRequest(payload)
	if err != nil {
		return kv.EncodeReply(nil, nil, &kv.InvalidRequestError{Detail: err.Error()})
	}
	br, err := sender.Send(ctx, ba)
	return kv.EncodeReply(nil, br, err)
}
