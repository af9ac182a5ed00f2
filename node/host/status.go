package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/wire"
)

// Status is how a node is, as it says itself.
type Status struct {
	Version string
	Boot    uint64
	Started time.Time
	// DiskFree is the space left on the store's disk, in bytes; negative if the file system can't tell.
	DiskFree int64
}

// statusVersion is the first byte of an encoded Status; the rest is in protobuf wire format, unknown
// fields are skipped.
const statusVersion = 1

const (
	statusFieldVersion wire.Number = iota + 1
	statusFieldBoot
	statusFieldStarted // nanoseconds since 1970
	statusFieldFree
)

// ErrCorruptStatus marks bytes that are no status.
var ErrCorruptStatus = errors.New("host: corrupt encoding of a node's status")

const maxVersion = 100

func (s *Status) encode() []byte {
	b := wire.AppendString([]byte{statusVersion}, statusFieldVersion, s.Version[:min(len(s.Version), maxVersion)])
	b = wire.AppendUint(b, statusFieldBoot, s.Boot)
	b = wire.AppendUint(b, statusFieldStarted, uint64(s.Started.UnixNano()))
	return wire.AppendUint(b, statusFieldFree, protowire.EncodeZigZag(s.DiskFree))
}

func decodeStatus(b []byte) (s Status, err error) {
	if b, err = wire.Body(b, statusVersion, ErrCorruptStatus); err != nil {
		return s, err
	}
	err = wire.Fields(b, ErrCorruptStatus, func(n wire.Number, v uint64, data []byte) error {
		switch n {
		case statusFieldVersion:
			s.Version = string(data)
		case statusFieldBoot:
			s.Boot = v
		case statusFieldStarted:
			s.Started = time.Unix(0, int64(v))
		case statusFieldFree:
			s.DiskFree = protowire.DecodeZigZag(v)
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	if len(s.Version) > maxVersion {
		return s, fmt.Errorf("%w: a version of %d bytes, at most %d", ErrCorruptStatus, len(s.Version), maxVersion)
	}
	return s, nil
}

// status is this node's own.
func (n *Node) status() Status {
	s := Status{Version: n.version, Boot: n.Boot, Started: n.started, DiskFree: -1}
	if free, err := n.Engines.State.FreeBytes(); err == nil && free < math.MaxInt64 {
		s.DiskFree = free
	}
	return s
}

func (n *Node) onStatus(context.Context, keys.NodeID, []byte) ([]byte, error) {
	s := n.status()
	return s.encode(), nil
}

// statusWait bounds how long one node is waited for.
const statusWait = time.Second

// Statuses asks every live node how it is. One that does not answer in time, or has not learned to, is
// missing.
func (n *Node) Statuses(ctx context.Context) map[keys.NodeID]Status {
	out := map[keys.NodeID]Status{n.Identity.Node: n.status()}
	n.ask(ctx, raftnet.MethodNodeStatus, func(id keys.NodeID, answer []byte) {
		if s, err := decodeStatus(answer); err == nil {
			out[id] = s
		}
	})
	return out
}

// ask sends an empty request to every other live node and calls f with each answer, one at a time.
func (n *Node) ask(ctx context.Context, m raftnet.Method, f func(keys.NodeID, []byte)) {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, id := range n.Directory.Nodes() {
		if id == n.Identity.Node || !n.Agent.Live(id) {
			continue
		}
		wg.Go(func() {
			b, err := n.Net.Call(ctx, id, raftnet.Control, m, nil)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			f(id, b)
		})
	}
	wg.Wait()
}
