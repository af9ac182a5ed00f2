package cluster

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sort"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
)

const (
	// gossipEvery is how often a node compares its directory with another one's.
	gossipEvery = 2 * time.Second
	// announceTimeout bounds one try to write this node's own entry, before the others are told again.
	announceTimeout = 3 * time.Second
	// confirmRetry is the pause between two rounds of asking the nodes to keep an entry.
	confirmRetry = 500 * time.Millisecond
	// updateTries bounds the tries of a change that meets another one's.
	updateTries = 8
)

// Directory is this node's synced copy of the node directory (SAFETY S29). Safe for
// concurrent use.
type Directory struct {
	local *Local

	mu    sync.RWMutex
	nodes map[keys.NodeID]NodeInfo
}

// OpenDirectory reads the copy from the local records.
func OpenDirectory(local *Local) (*Directory, error) {
	d := &Directory{local: local, nodes: map[keys.NodeID]NodeInfo{}}
	recs, err := local.log.ScanLocal([]byte(dirPrefix))
	if err != nil {
		return nil, err
	}
	for _, r := range recs {
		n, err := DecodeNodeInfo(r.Value)
		if err != nil {
			return nil, fmt.Errorf("cluster: local copy of the node directory: %w", err)
		}
		d.nodes[n.ID] = n
	}
	return d, nil
}

// Merge takes in entries that are newer than those here, durably.
func (d *Directory) Merge(infos ...NodeInfo) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range infos {
		have, ok := d.nodes[n.ID]
		if n.ID <= 0 || ok && have.Version >= n.Version {
			continue
		}
		if ok && have.State == Decommissioned && n.State != Decommissioned {
			continue // S18: it can't come back
		}
		n.Lost = n.Lost || ok && have.Lost
		if err := d.local.log.SetLocal(nodeKey(dirPrefix, n.ID), n.Encode()); err != nil {
			return err
		}
		d.nodes[n.ID] = n
	}
	return nil
}

// Get returns a node's entry.
func (d *Directory) Get(id keys.NodeID) (NodeInfo, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	n, ok := d.nodes[id]
	return n, ok
}

// Resolve returns a node's address between nodes; raftnet asks for it.
func (d *Directory) Resolve(id keys.NodeID) (addr string, ok bool) {
	n, ok := d.Get(id)
	return n.Addr, ok && n.Addr != ""
}

// All returns every entry, by ID.
func (d *Directory) All() []NodeInfo {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]NodeInfo, 0, len(d.nodes))
	for _, n := range d.nodes {
		out = append(out, n)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// Nodes returns the IDs of the nodes that may run: those that are not decommissioned, have said
// themselves that they run under their ID, and of several at one address the youngest. The others
// have lost their disks, or got an ID and ended before they had noted it down; were they counted, a
// few of them would be a majority that no node can ever measure its clock against (S1), and a
// cluster that was restarted meanwhile would never serve again.
func (d *Directory) Nodes() []keys.NodeID {
	d.mu.RLock()
	defer d.mu.RUnlock()
	runs := func(n NodeInfo) bool { return n.State != Decommissioned && n.State != Joining }
	youngest := make(map[string]keys.NodeID, len(d.nodes))
	for _, n := range d.nodes {
		if runs(n) {
			youngest[n.Addr] = max(youngest[n.Addr], n.ID)
		}
	}
	out := make([]keys.NodeID, 0, len(d.nodes))
	for _, n := range d.nodes {
		if runs(n) && (n.Addr == "" || youngest[n.Addr] == n.ID) {
			out = append(out, n.ID)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}

// Counted returns Nodes and those of the given nodes that the directory does not know yet.
func (d *Directory) Counted(ids []keys.NodeID) []keys.NodeID {
	out := d.Nodes()
	for _, id := range ids {
		if _, known := d.Get(id); !known {
			out = append(out, id)
		}
	}
	return out
}

// digest is equal on two nodes whose directories are.
func (d *Directory) digest() uint64 {
	h := fnv.New64a()
	_, _ = h.Write(encodeInfos(d.All()))
	return h.Sum64()
}

// Update changes a node's entry in the system keys and then here. change gets the current
// entry (the zero one with ID if there is none).
func (d *Directory) Update(ctx context.Context, s kv.Sender, id keys.NodeID, change func(*NodeInfo) error) (NodeInfo, error) {
	key := keys.NodeDirectory(id)
	for try := 0; ; try++ {
		n := NodeInfo{ID: id}
		got, err := sendOne[*kv.GetResponse](ctx, s, &kv.GetRequest{Key: key})
		if err != nil {
			return n, fmt.Errorf("cluster: reading the directory entry of node %d: %w", id, err)
		}
		if got.Exists {
			if n, err = DecodeNodeInfo(got.Value); err != nil {
				return n, err
			}
		}
		if have, ok := d.Get(id); ok && have.Version > n.Version {
			n.Version = have.Version
		}
		if err := change(&n); err != nil {
			return n, err
		}
		n.ID, n.Version = id, n.Version+1
		_, err = sendOne[*kv.PutResponse](ctx, s, &kv.PutRequest{Key: key, Value: n.Encode(), Cond: kv.Condition{Check: true, Seen: got.Version}})
		var retry *kv.RetryError
		var old *kv.WriteTooOldError
		if (errors.As(err, &retry) || errors.As(err, &old)) && try < updateTries {
			continue // somebody else changed it
		}
		if err != nil {
			return n, fmt.Errorf("cluster: writing the directory entry of node %d: %w", id, err)
		}
		return n, d.Merge(n)
	}
}

// sendOne sends a single request and returns its answer.
func sendOne[T kv.Response](ctx context.Context, s kv.Sender, r kv.Request) (T, error) {
	var zero T
	br, err := s.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{r}})
	if err != nil {
		return zero, err
	}
	// A write may land a little ahead of the clock (S1); the next read would not see it.
	if d := min(time.Until(br.Timestamp.Time())+time.Microsecond, callTimeout); !br.Timestamp.IsEmpty() && d > time.Microsecond {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	if len(br.Responses) != 1 {
		return zero, fmt.Errorf("cluster: %d answers to one request", len(br.Responses))
	}
	resp, ok := br.Responses[0].(T)
	if !ok {
		return zero, fmt.Errorf("cluster: unexpected answer %T to %T", br.Responses[0], r)
	}
	return resp, nil
}

// ErrDecommissioned: the node was decommissioned, and its ID is never used again (S18).
var ErrDecommissioned = errors.New("cluster: the node was decommissioned and can't come back")

// SetState changes what a node takes part in.
func (d *Directory) SetState(ctx context.Context, s kv.Sender, id keys.NodeID, state NodeState) error {
	_, err := d.Update(ctx, s, id, func(n *NodeInfo) error {
		if n.Addr == "" {
			return fmt.Errorf("cluster: there is no node %d", id)
		}
		if n.State == Decommissioned && state != Decommissioned {
			return fmt.Errorf("%w: node %d", ErrDecommissioned, id)
		}
		n.State = state
		return nil
	})
	return err
}

// Confirm returns once most of the nodes that count keep a node's entry durably, and tells the
// others on the way. Who decommissions a node calls it before the node may go: a node that does not
// know it yet goes on counting the one that left (S1), and gossip takes seconds. Were the only node
// that knew lost in them, and the others restarted, too few would answer for any of them to serve.
func (d *Directory) Confirm(ctx context.Context, net raftnet.Network, self, id keys.NodeID) error {
	entry, ok := d.Get(id)
	if !ok {
		return fmt.Errorf("cluster: there is no node %d", id)
	}
	b := encodeInfos([]NodeInfo{entry})
	confirmed := map[keys.NodeID]bool{self: true}
	for {
		nodes := d.Nodes()
		d.tell(ctx, net, nodes, b, confirmed)
		var missing []keys.NodeID
		for _, n := range nodes {
			if !confirmed[n] {
				missing = append(missing, n)
			}
		}
		if kept := len(nodes) - len(missing); kept > len(nodes)/2 || len(nodes) == 0 {
			return nil
		}
		select {
		case <-time.After(confirmRetry):
		case <-ctx.Done():
			return fmt.Errorf("cluster: node %d is %s, but %d of %d nodes (%v) have not confirmed that they know, and most must before it may go: start them, then run this again: %w",
				id, entry.State, len(missing), len(nodes), missing, ctx.Err())
		}
	}
}

// tell sends entries to those nodes that have not confirmed them, and notes who does.
func (d *Directory) tell(ctx context.Context, net raftnet.Network, nodes []keys.NodeID, entries []byte, confirmed map[keys.NodeID]bool) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var mu sync.Mutex
	var calls sync.WaitGroup
	for _, n := range nodes {
		if confirmed[n] {
			continue
		}
		calls.Go(func() {
			if _, err := net.Call(ctx, n, raftnet.Control, raftnet.MethodDirectoryUpdate, entries); err == nil {
				mu.Lock()
				confirmed[n] = true
				mu.Unlock()
			}
		})
	}
	calls.Wait()
}

// Service answers joining nodes and spreads the directory.
type Service struct {
	dir    *Directory
	net    raftnet.Network
	id     Identity
	sender kv.Sender
	logger *slog.Logger
	self   NodeInfo
	join   []string

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// StartService registers the handlers and starts to gossip. self is announced at once,
// without waiting for a range to serve: after a restart with another address the others
// could not be reached otherwise. join names addresses of a few nodes: where all nodes have
// moved since they ran last, nobody's directory leads to anybody.
func StartService(dir *Directory, net raftnet.Network, id Identity, self NodeInfo, sender kv.Sender, logger *slog.Logger, join ...string) *Service {
	if logger == nil {
		logger = slog.Default()
	}
	s := &Service{dir: dir, net: net, id: id, sender: sender, logger: logger, self: self, join: join}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	net.Handle(raftnet.MethodJoin, s.onJoin)
	net.Handle(raftnet.MethodDirectoryGet, s.onGet)
	net.Handle(raftnet.MethodDirectoryUpdate, s.onUpdate)
	net.Handle(raftnet.MethodDirectoryAnnounce, s.onAnnounce)
	s.done.Go(func() { s.announce(ctx) })
	s.done.Go(func() { s.gossip(ctx) })
	return s
}

// Close stops the service.
func (s *Service) Close() {
	s.cancel()
	s.done.Wait()
}

// onJoin admits a node: it gets an ID that was never used and an entry in the directory.
func (s *Service) onJoin(ctx context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	info, err := DecodeNodeInfo(payload)
	if err != nil {
		return nil, err
	}
	for _, n := range s.dir.All() {
		if n.Addr == info.Addr && n.State != Decommissioned {
			// An empty store at a known address is a new node (S18); the old one is lost.
			s.logger.Warn("a node joins at the address of another one; decommission that one if its data is lost",
				"addr", info.Addr, "old", n.ID)
		}
	}
	r, err := sendOne[*kv.IncrementResponse](ctx, s.sender, &kv.IncrementRequest{Key: NodeIDKey, Delta: 1})
	if err != nil {
		return nil, fmt.Errorf("cluster: allocating a node ID: %w", err)
	}
	id := keys.NodeID(r.NewValue)
	n, err := s.dir.Update(ctx, s.sender, id, func(n *NodeInfo) error {
		v := n.Version
		*n = info
		n.Version, n.State = v, Joining
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.spread(n)
	a := admission{Identity: Identity{ClusterID: s.id.ClusterID, Node: id}, Directory: s.dir.All()}
	return a.encode(), nil
}

// spread tells every node of an entry.
func (s *Service) spread(n NodeInfo) {
	b := encodeInfos([]NodeInfo{n})
	for _, id := range s.dir.Nodes() {
		if id != s.id.Node {
			s.net.Notify(id, raftnet.Control, raftnet.MethodDirectoryUpdate, b)
		}
	}
}

func (s *Service) onUpdate(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	infos, err := decodeInfos(payload)
	if err != nil {
		return nil, err
	}
	return nil, s.dir.Merge(infos...)
}

// onGet compares digests; if they differ it takes the caller's entries and returns its own.
func (s *Service) onGet(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	b, err := body(payload)
	if err != nil {
		return nil, err
	}
	if len(b) > 8 {
		infos, err := decodeInfos(append([]byte{wireVersion}, b[8:]...))
		if err != nil {
			return nil, err
		}
		if err := s.dir.Merge(infos...); err != nil {
			return nil, err
		}
		return encodeInfos(s.dir.All()), nil
	}
	if string(b) == string(digestBytes(s.dir.digest())) {
		return []byte{wireVersion}, nil
	}
	return encodeInfos(s.dir.All()), nil
}

func digestBytes(d uint64) []byte {
	return []byte{byte(d >> 56), byte(d >> 48), byte(d >> 40), byte(d >> 32), byte(d >> 24), byte(d >> 16), byte(d >> 8), byte(d)}
}

func (s *Service) gossip(ctx context.Context) {
	tick := time.NewTicker(gossipEvery)
	defer tick.Stop()
	for n := int(s.id.Node); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ids := s.dir.Nodes()
		if len(ids) < 2 {
			continue
		}
		id := ids[n%len(ids)]
		if id == s.id.Node {
			continue
		}
		if err := s.exchange(ctx, id); err != nil {
			s.logger.Debug("directory gossip failed", "node", s.id.Node, "peer", id, "err", err)
		}
	}
}

func (s *Service) exchange(ctx context.Context, id keys.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	q := append([]byte{wireVersion}, digestBytes(s.dir.digest())...)
	b, err := s.net.Call(ctx, id, raftnet.Control, raftnet.MethodDirectoryGet, q)
	if err != nil {
		return err
	}
	infos, err := decodeInfos(b)
	if err != nil || len(infos) == 0 {
		return err
	}
	if err := s.dir.Merge(infos...); err != nil {
		return err
	}
	_, err = s.net.Call(ctx, id, raftnet.Control, raftnet.MethodDirectoryGet, append(q, encodeInfos(s.dir.All())[1:]...))
	return err
}

// announce writes this node's entry until it stands, telling the others first.
func (s *Service) announce(ctx context.Context) {
	if have, ok := s.dir.Get(s.self.ID); ok {
		now := s.self
		now.Version, now.State = have.Version, joined(have.State)
		if now == have {
			return
		}
		now.Version++ // ahead of the system key: the others must find this node first
		if err := s.dir.Merge(now); err != nil {
			s.logger.Error("directory", "node", s.id.Node, "err", err)
		}
		s.spread(now)
	}
	for ctx.Err() == nil {
		s.announceAt(ctx)
		uctx, cancel := context.WithTimeout(ctx, announceTimeout)
		n, err := s.dir.Update(uctx, s.sender, s.self.ID, func(n *NodeInfo) error {
			if n.State == Decommissioned {
				return nil
			}
			state, v := joined(n.State), n.Version
			*n = s.self
			n.State, n.Version = state, v
			return nil
		})
		cancel()
		if err == nil {
			s.spread(n)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// joined is the state of a node that runs: its first announcement makes a node that joins a member.
func joined(s NodeState) NodeState {
	if s == Joining {
		return Live
	}
	return s
}

// announceAt exchanges directories with whoever listens at the addresses of --join.
func (s *Service) announceAt(ctx context.Context) {
	for _, addr := range s.join {
		if addr == s.self.Addr {
			continue
		}
		mine := admission{Identity: s.id, Directory: s.dir.All()}
		b, err := call(ctx, s.net, addr, raftnet.MethodDirectoryAnnounce, mine.encode())
		if err == nil {
			err = s.mergeAnnounced(b)
		}
		if err != nil && ctx.Err() == nil {
			s.logger.Debug("announcing this node's address failed", "node", s.id.Node, "addr", addr, "err", err)
		}
	}
}

func (s *Service) onAnnounce(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	if err := s.mergeAnnounced(payload); err != nil {
		return nil, err
	}
	mine := admission{Identity: s.id, Directory: s.dir.All()}
	return mine.encode(), nil
}

// mergeAnnounced takes in the entries of another node of this cluster. REQUIRES: S29, an
// address proves nothing about who is there.
func (s *Service) mergeAnnounced(b []byte) error {
	a, err := decodeAdmission(b)
	if err != nil {
		return err
	}
	if a.Identity.ClusterID != s.id.ClusterID {
		return fmt.Errorf("cluster: node %d belongs to cluster %s, this one to %s", a.Identity.Node, a.Identity.ClusterID, s.id.ClusterID)
	}
	return s.dir.Merge(a.Directory...)
}
