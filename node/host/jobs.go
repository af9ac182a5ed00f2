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

// copiesVersion is the first byte of encoded copies; the rest is in protobuf wire format: one
// message per copy in field 1, unknown fields are skipped.
const copiesVersion = 1

const copiesField wire.Number = 1

const (
	copyFieldRange wire.Number = iota + 1
	copyFieldTo
	copyFieldSince // nanoseconds since 1970
	copyFieldSent
	copyFieldTotal
)

const maxCopies = 1000

// ErrCorruptCopies marks bytes that are no copies.
var ErrCorruptCopies = errors.New("host: corrupt encoding of copies")

func encodeCopies(all []store.Copy) []byte {
	b := []byte{copiesVersion}
	for _, c := range all[:min(len(all), maxCopies)] {
		m := wire.AppendUint(nil, copyFieldRange, uint64(c.Range))
		m = wire.AppendUint(m, copyFieldTo, uint64(c.To))
		m = wire.AppendUint(m, copyFieldSince, uint64(c.Since.UnixNano()))
		m = wire.AppendUint(m, copyFieldSent, uint64(c.Sent))
		m = wire.AppendUint(m, copyFieldTotal, uint64(c.Total))
		b = wire.AppendBytes(b, copiesField, m)
	}
	return b
}

func decodeCopies(b []byte) ([]store.Copy, error) {
	return decodeList(b, copiesVersion, copiesField, maxCopies, ErrCorruptCopies, decodeCopy)
}

func decodeCopy(b []byte) (c store.Copy, err error) {
	err = wire.Fields(b, ErrCorruptCopies, func(n wire.Number, v uint64, _ []byte) error {
		switch n {
		case copyFieldRange:
			c.Range = keys.RangeID(v)
		case copyFieldTo:
			c.To = keys.NodeID(v)
		case copyFieldSince:
			c.Since = time.Unix(0, int64(v))
		case copyFieldSent:
			c.Sent = int64(v)
		case copyFieldTotal:
			c.Total = int64(v)
		}
		return nil
	})
	if err == nil && (c.Range <= 0 || c.To <= 0 || c.Sent < 0 || c.Total < c.Sent) {
		err = fmt.Errorf("%w: range %d to node %d, %d of %d bytes", ErrCorruptCopies, c.Range, c.To, c.Sent, c.Total)
	}
	return c, err
}

func (n *Node) onJobs(context.Context, keys.NodeID, []byte) ([]byte, error) {
	return encodeCopies(n.Store.Copies()), nil
}

// Copies asks every live node for the copies that it is sending. One that does not answer in time, or
// has not learned to, is missing.
func (n *Node) Copies(ctx context.Context) map[keys.NodeID][]store.Copy {
	return askLists(ctx, n, raftnet.MethodJobs, n.Store.Copies(), decodeCopies)
}
