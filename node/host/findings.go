package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/store"
	"github.com/atolldb/atoll/node/wire"
)

// findingsVersion is the first byte of encoded findings; the rest is in protobuf wire format: one
// message per finding in field 1, unknown fields are skipped.
const findingsVersion = 1

const findingsField wire.Number = 1

const (
	findingFieldRange wire.Number = iota + 1
	findingFieldSince             // nanoseconds since 1970
	findingFieldStuck             // 1: nothing can be done now
	findingFieldReason
)

const (
	maxFindings = 1000
	maxReason   = 1000 // bytes
)

// ErrCorruptFindings marks bytes that are no findings.
var ErrCorruptFindings = errors.New("host: corrupt encoding of findings")

func encodeFindings(all []store.Finding) []byte {
	b := []byte{findingsVersion}
	for _, f := range all[:min(len(all), maxFindings)] {
		m := wire.AppendUint(nil, findingFieldRange, uint64(f.Range))
		m = wire.AppendUint(m, findingFieldSince, uint64(f.Since.UnixNano()))
		if f.Stuck {
			m = wire.AppendUint(m, findingFieldStuck, 1)
		}
		m = wire.AppendString(m, findingFieldReason, f.Reason[:min(len(f.Reason), maxReason)])
		b = wire.AppendBytes(b, findingsField, m)
	}
	return b
}

func decodeFindings(b []byte) ([]store.Finding, error) {
	return decodeList(b, findingsVersion, findingsField, maxFindings, ErrCorruptFindings, decodeFinding)
}

// decodeList reads messages that stand one after the other in a field, behind a version byte.
func decodeList[T any](b []byte, version byte, field wire.Number, most int, corrupt error, one func([]byte) (T, error)) (out []T, err error) {
	if b, err = wire.Body(b, version, corrupt); err != nil {
		return nil, err
	}
	err = wire.Fields(b, corrupt, func(n wire.Number, _ uint64, data []byte) error {
		if n != field {
			return nil
		}
		if len(out) == most {
			return fmt.Errorf("%w: more than %d", corrupt, most)
		}
		v, err := one(data)
		out = append(out, v)
		return err
	})
	return out, err
}

func decodeFinding(b []byte) (f store.Finding, err error) {
	err = wire.Fields(b, ErrCorruptFindings, func(n wire.Number, v uint64, data []byte) error {
		switch n {
		case findingFieldRange:
			f.Range = keys.RangeID(v)
		case findingFieldSince:
			f.Since = time.Unix(0, int64(v))
		case findingFieldStuck:
			f.Stuck = v != 0
		case findingFieldReason:
			f.Reason = string(data)
		}
		return nil
	})
	if err == nil && (f.Range <= 0 || len(f.Reason) > maxReason) {
		err = fmt.Errorf("%w: range %d, a reason of %d bytes (at most %d)", ErrCorruptFindings, f.Range, len(f.Reason), maxReason)
	}
	return f, err
}

func (n *Node) onFindings(context.Context, keys.NodeID, []byte) ([]byte, error) {
	return encodeFindings(n.Store.Findings()), nil
}

// Findings asks every live node what is not as it should be with the ranges that it leads. One that
// does not answer in time, or has not learned to, is missing.
func (n *Node) Findings(ctx context.Context) map[keys.NodeID][]store.Finding {
	return askLists(ctx, n, raftnet.MethodFindings, n.Store.Findings(), decodeFindings)
}

// askLists asks every live node for a list and adds this node's own.
func askLists[T any](ctx context.Context, n *Node, m raftnet.Method, own []T, decode func([]byte) ([]T, error)) map[keys.NodeID][]T {
	out := map[keys.NodeID][]T{n.Identity.Node: own}
	n.ask(ctx, m, func(id keys.NodeID, answer []byte) {
		if all, err := decode(answer); err == nil {
			out[id] = all
		}
	})
	return out
}
