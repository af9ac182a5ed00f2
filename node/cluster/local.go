package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/storage"
)

// Keys of the local records. The store's own begin with "r/".
const (
	identityKey = "c/identity"
	planKey     = "c/plan"
	bootKey     = "c/boot"
	promiseKey  = "c/promise"
	clockKey    = "c/clock"
	bootsPrefix = "c/boots/"
	dirPrefix   = "c/node/"
)

// Identity says who a node is; it never changes (SAFETY S18).
type Identity struct {
	ClusterID string
	Node      keys.NodeID
}

// Local is the part of the log engine that this package owns. Safe for concurrent use.
type Local struct {
	log *storage.LogEngine
	mu  sync.Mutex // of identity and plan, which exclude each other's change
}

var _ raftnet.BootRegistry = (*Local)(nil)

// NewLocal returns the local records in a log engine.
func NewLocal(log *storage.LogEngine) *Local { return &Local{log: log} }

// Identity returns the node's identity, if it has one.
func (l *Local) Identity() (Identity, bool, error) {
	b, ok, err := l.log.GetLocal([]byte(identityKey))
	if err != nil || !ok {
		return Identity{}, false, err
	}
	id, err := decodeIdentity(b)
	return id, err == nil, err
}

// setIdentity stores the identity, once and for all. mu is held.
func (l *Local) setIdentityLocked(id Identity) error {
	have, ok, err := l.Identity()
	if err != nil {
		return err
	}
	if ok && have != id {
		return fmt.Errorf("cluster: this store is node %d of cluster %q and can't become node %d of %q; use an empty store",
			have.Node, have.ClusterID, id.Node, id.ClusterID)
	}
	return l.log.SetLocal([]byte(identityKey), id.encode())
}

// NextBoot raises the boot counter, synced, and returns it. Call it once per process,
// before the node's first message (SAFETY S18).
func (l *Local) NextBoot() (uint64, error) {
	n, err := l.getUint(bootKey)
	if err != nil {
		return 0, err
	}
	return n + 1, l.setUint(bootKey, n+1)
}

// Promised returns the longest support that any run of this node promised (S3).
func (l *Local) Promised() (time.Duration, error) {
	n, err := l.getUint(promiseKey)
	return time.Duration(n), err
}

// PersistPromise stores the longest support promised, synced.
func (l *Local) PersistPromise(d time.Duration) error { return l.setUint(promiseKey, uint64(d)) }

// clockBound is ahead of every clock reading that any run of this node gave out (S1).
func (l *Local) clockBound() (hlc.Timestamp, error) {
	n, err := l.getUint(clockKey)
	return hlc.Timestamp{WallNanos: int64(n)}, err
}

func (l *Local) setClockBound(t hlc.Timestamp) error { return l.setUint(clockKey, uint64(t.WallNanos)) }

// Highest implements raftnet.BootRegistry.
func (l *Local) Highest(node keys.NodeID) (boot, nonce uint64) {
	b, ok, err := l.log.GetLocal(nodeKey(bootsPrefix, node))
	if err != nil || !ok || len(b) != 17 {
		return 0, 0
	}
	return binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:])
}

// Record implements raftnet.BootRegistry.
func (l *Local) Record(node keys.NodeID, boot, nonce uint64) error {
	b := binary.BigEndian.AppendUint64([]byte{wireVersion}, boot)
	return l.log.SetLocal(nodeKey(bootsPrefix, node), binary.BigEndian.AppendUint64(b, nonce))
}

func (l *Local) getUint(key string) (uint64, error) {
	b, ok, err := l.log.GetLocal([]byte(key))
	if err != nil || !ok {
		return 0, err
	}
	if len(b) != 9 || b[0] != wireVersion {
		return 0, fmt.Errorf("cluster: local record %s holds %x; the store is damaged or from a newer version", key, b)
	}
	return binary.BigEndian.Uint64(b[1:]), nil
}

func (l *Local) setUint(key string, v uint64) error {
	return l.log.SetLocal([]byte(key), binary.BigEndian.AppendUint64([]byte{wireVersion}, v))
}

func nodeKey(prefix string, node keys.NodeID) []byte {
	return binary.BigEndian.AppendUint32([]byte(prefix), uint32(node))
}

// Plan returns the founding plan that this node accepted, and which member it is.
func (l *Local) Plan() (p *Plan, self keys.NodeID, err error) {
	b, ok, err := l.log.GetLocal([]byte(planKey))
	if err != nil || !ok {
		return nil, 0, err
	}
	pr, err := decodeProposal(b)
	if err != nil {
		return nil, 0, err
	}
	return &pr.Plan, pr.Self, nil
}

// ErrOtherPlan refuses a founding plan because this node is bound otherwise.
var ErrOtherPlan = errors.New("cluster: this node has accepted another plan or belongs to a cluster")

// accept stores a plan durably, unless the node is bound to another one (S28).
func (l *Local) accept(p *Plan, self keys.NodeID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id, ok, err := l.Identity(); err != nil {
		return err
	} else if ok && (id.ClusterID != p.ClusterID || id.Node != self) {
		return fmt.Errorf("%w: it is node %d of cluster %q", ErrOtherPlan, id.Node, id.ClusterID)
	}
	have, haveSelf, err := l.Plan()
	if err != nil {
		return err
	}
	if have != nil {
		if !have.equal(p) || haveSelf != self {
			return fmt.Errorf("%w: cluster %q with %d members, as member %d", ErrOtherPlan, have.ClusterID, len(have.Members), haveSelf)
		}
		return nil
	}
	pr := proposal{Plan: *p, Self: self}
	return l.log.SetLocal([]byte(planKey), pr.encode())
}

// commit gives the node the identity that its plan names. It is harmless to repeat.
func (l *Local) commit(clusterID string) (*Plan, Identity, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, self, err := l.Plan()
	if err != nil {
		return nil, Identity{}, err
	}
	if p == nil || p.ClusterID != clusterID {
		return nil, Identity{}, fmt.Errorf("cluster: no plan of cluster %q was accepted here; run init again", clusterID)
	}
	id := Identity{ClusterID: p.ClusterID, Node: self}
	return p, id, l.setIdentityLocked(id)
}

// admit gives the node the identity that a founded cluster handed it.
func (l *Local) admit(id Identity) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, _, err := l.Plan(); err != nil {
		return err
	} else if p != nil {
		return fmt.Errorf("%w: cluster %q, as a founding member", ErrOtherPlan, p.ClusterID)
	}
	return l.setIdentityLocked(id)
}
