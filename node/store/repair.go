package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// deadline remembers since when nodes have been silent. Only the maintenance goroutine
// writes it.
type deadline struct {
	since map[keys.NodeID]time.Time
	dead  map[keys.NodeID]bool
	// answers is since when those that do answer have done so.
	answers map[keys.NodeID]time.Time
}

// trackDead follows who answers.
func (s *Store) trackDead(now time.Time) {
	next := deadline{since: map[keys.NodeID]time.Time{}, dead: map[keys.NodeID]bool{}, answers: map[keys.NodeID]time.Time{}}
	for _, n := range s.cfg.Directory.All() {
		switch {
		case n.State == cluster.Decommissioned:
			next.dead[n.ID] = true
		case n.ID == s.cfg.Node || s.cfg.Support.Live(n.ID):
			next.answers[n.ID] = now
			if since, ok := s.dead.answers[n.ID]; ok {
				next.answers[n.ID] = since
			}
		default:
			since, ok := s.dead.since[n.ID]
			if !ok {
				since = now
			}
			next.since[n.ID] = since
			next.dead[n.ID] = now.Sub(since) >= s.cfg.DeadAfter || s.replacedAt(n)
		}
	}
	s.mu.Lock()
	s.dead = next
	s.mu.Unlock()
}

// replacedAt reports whether a younger node has taken a silent node's address: its volume
// is gone (S18), there is nothing to wait for.
func (s *Store) replacedAt(n cluster.NodeInfo) bool {
	for _, o := range s.cfg.Directory.All() {
		if o.ID > n.ID && o.Addr == n.Addr && o.State != cluster.Decommissioned && (o.ID == s.cfg.Node || s.cfg.Support.Live(o.ID)) {
			return true
		}
	}
	return false
}

// answersFor returns how long a node has answered without an interruption that was seen.
func (s *Store) answersFor(id keys.NodeID) time.Duration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	since, ok := s.dead.answers[id]
	if !ok {
		return 0
	}
	return time.Since(since)
}

func (s *Store) isDead(id keys.NodeID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dead.dead[id]
}

// view is what repair decides on.
type view struct {
	nodes []cluster.NodeInfo
	live  func(keys.NodeID) bool
	dead  func(keys.NodeID) bool // silent for long, or decommissioned
	want  int                    // voters
	// gone reports members of the range that their node has removed for good; nil: none.
	gone func(keys.ReplicaID) bool
}

// lost reports whether a replica can't be trusted or is no more, whatever its node is like.
func (v *view) lost(rd kv.ReplicaDescriptor) bool {
	return rd.Quarantine != kv.Trusted || v.gone != nil && v.gone(rd.Replica)
}

// rangeView is what repair decides on for one range.
func (s *Store) rangeView(r *rep, v view) view {
	v.gone = func(id keys.ReplicaID) bool { _, ok := r.gone.Load(id); return ok }
	return v
}

// step is one replica change.
type step struct {
	kind kv.ReplicaChangeKind
	node keys.NodeID
	why  string // for people
}

func place(n cluster.NodeInfo) string {
	if n.Zone == "" {
		return fmt.Sprintf("node %d", n.ID) // a node without a zone is a zone of its own
	}
	return n.Region + "/" + n.Zone
}

// nextStep decides the next change of a range; it is pure. One for one inside a zone: a
// replica on a dead or leaving node is replaced by a node of the same zone that has none,
// non-voter first. And a range with fewer voters than wanted grows into zones without one.
func nextStep(d *kv.RangeDescriptor, v view) (step, bool) {
	info := map[keys.NodeID]cluster.NodeInfo{}
	for _, n := range v.nodes {
		info[n.ID] = n
	}
	usable := func(n cluster.NodeInfo) bool { return n.State == cluster.Live && v.live(n.ID) }
	leaving := func(rd kv.ReplicaDescriptor) bool {
		n, ok := info[rd.Node]
		return v.lost(rd) || v.dead(rd.Node) || ok && (n.State == cluster.Decommissioning || n.State == cluster.Decommissioned)
	}
	zoneVoters := map[string]int{} // voters that stay
	voters, good := 0, 0
	for _, rd := range d.Replicas {
		if rd.Type == kv.NonVoter {
			if leaving(rd) {
				return step{kv.RemoveReplica, rd.Node, whyLeaving(rd, info[rd.Node], v)}, true
			}
			if surplus(d, v, leaving, place(info[rd.Node]), info) {
				return step{kv.RemoveReplica, rd.Node, "the voter that it was to replace is back"}, true
			}
			if v.live(rd.Node) {
				return step{kv.PromoteToVoter, rd.Node, "the range lacks a voter"}, true
			}
			return step{}, false // one change at a time
		}
		voters++
		if !leaving(rd) {
			good++
			zoneVoters[place(info[rd.Node])]++
		}
	}
	candidate := func(zone string) (keys.NodeID, bool) {
		for _, n := range v.nodes {
			if _, has := d.Replica(n.ID); usable(n) && !has && (zone == "" && zoneVoters[place(n)] == 0 || place(n) == zone) {
				return n.ID, true
			}
		}
		return 0, false
	}
	// Those that don't answer come first: while one counts as a voter, S19 may forbid to remove
	// another that does.
	order := slices.Clone(d.Replicas)
	slices.SortStableFunc(order, func(a, b kv.ReplicaDescriptor) int {
		switch {
		case v.live(a.Node) == v.live(b.Node):
			return 0
		case v.live(b.Node):
			return -1
		}
		return 1
	})
	for _, rd := range order {
		if !leaving(rd) {
			continue
		}
		zone, why := place(info[rd.Node]), whyLeaving(rd, info[rd.Node], v)
		if zoneVoters[zone] > 0 {
			return step{kv.RemoveReplica, rd.Node, why}, true
		}
		if n, ok := candidate(zone); ok {
			return step{kv.AddNonVoter, n, fmt.Sprintf("in place of node %d: %s", rd.Node, why)}, true
		}
		// Its own node can have a new replica only once this one is gone. Until then a voter is
		// missing; what is there does not count for one.
		if v.lost(rd) && usable(info[rd.Node]) {
			return step{kv.RemoveReplica, rd.Node, why}, true
		}
		// A dead node may come back; one that leaves for good is not waited for.
		if info[rd.Node].State != cluster.Live && info[rd.Node].State != cluster.Draining && good >= v.want {
			return step{kv.RemoveReplica, rd.Node, why}, true
		}
	}
	// Zones with a voter that stays count, too, though their nodes may all be draining just now.
	zones := map[string]bool{}
	for z := range zoneVoters {
		zones[z] = true
	}
	for _, n := range v.nodes {
		if usable(n) {
			zones[place(n)] = true
		}
	}
	want := min(v.want, len(zones))
	if want%2 == 0 {
		want--
	}
	if voters > want {
		// A replaced node has come back before its replica was removed: the newest goes.
		for _, rd := range slices.Backward(d.Replicas) {
			if zoneVoters[place(info[rd.Node])] > 1 {
				return step{kv.RemoveReplica, rd.Node, "its zone has two voters: the one that it replaced is back"}, true
			}
		}
	}
	if voters < want {
		if n, ok := candidate(""); ok {
			return step{kv.AddNonVoter, n, fmt.Sprintf("the range has %d voters and should have %d", voters, want)}, true
		}
	}
	return step{}, false
}

// whyLeaving says why a replica has to go.
func whyLeaving(rd kv.ReplicaDescriptor, n cluster.NodeInfo, v view) string {
	switch {
	case rd.Quarantine != kv.Trusted:
		return "its replica is quarantined: " + rd.Quarantine.String()
	case v.lost(rd):
		return "its node has removed it for good, under a change that was given up"
	case n.State == cluster.Decommissioning || n.State == cluster.Decommissioned:
		return "the node is " + n.State.String()
	case v.dead(rd.Node):
		return "the node has been silent for too long, or lost its disk"
	}
	return "the node leaves"
}

// surplus reports whether a non-voter in a zone is not needed any more: the voter there that
// it was to replace is back.
func surplus(d *kv.RangeDescriptor, v view, leaving func(kv.ReplicaDescriptor) bool, zone string, info map[keys.NodeID]cluster.NodeInfo) bool {
	voters, here := 0, false
	for _, rd := range d.Replicas {
		if rd.Type == kv.Voter && !leaving(rd) {
			voters++
			here = here || place(info[rd.Node]) == zone && v.live(rd.Node)
		}
	}
	return here && voters >= v.want
}

// view is what repair decides on for any range.
func (s *Store) view() view {
	return view{nodes: s.cfg.Directory.All(), live: s.cfg.Support.Live, dead: s.isDead, want: s.cfg.Voters}
}

// repair makes the next change that a range needs.
func (s *Store) repair(ctx context.Context, r *rep) error {
	d := r.desc().Clone()
	st, ok := nextStep(&d, s.rangeView(r, s.view()))
	if !ok {
		return nil
	}
	if st.kind == kv.RemoveReplica && st.node == s.cfg.Node {
		return s.moveLease(ctx, r)
	}
	_, err := s.changeReplicas(ctx, r.replica.Load(), &kv.AdminChangeReplicasRequest{Generation: d.Generation, Kind: st.kind, Node: st.node}, st.why)
	if err == nil {
		s.metrics.repairs.Inc()
		s.logger.Info("replica change", "range", r.rangeID, "change", changeName(st.kind), "peer", st.node, "reason", st.why)
		r.q.lastRepair = time.Time{} // look again at the next tick
	}
	return err
}

func changeName(k kv.ReplicaChangeKind) string {
	return [...]string{"add non-voter", "promote to voter", "remove"}[k]
}

// moveLease hands a range to a live voter on a node that keeps leases. A replica that is
// distrusted serves nothing: it hands its range to a node that drains if there is no other.
func (s *Store) moveLease(ctx context.Context, r *rep) error {
	var keep, drain []keys.NodeID
	for _, rd := range r.desc().Replicas {
		if rd.Node == s.cfg.Node || rd.Type != kv.Voter || rd.Quarantine != kv.Trusted || !s.cfg.Support.Live(rd.Node) || s.isDead(rd.Node) {
			continue
		}
		if n, ok := s.cfg.Directory.Get(rd.Node); ok && n.State != cluster.Live {
			drain = append(drain, rd.Node)
		} else {
			keep = append(keep, rd.Node)
		}
	}
	if r.distrusted.Load() {
		keep = append(keep, drain...)
	}
	var errs []error
	for _, node := range keep {
		r.admin.Lock()
		err := s.transfer(ctx, r, node, s.whyAway(r))
		r.admin.Unlock()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return fmt.Errorf("store: no live voter can take the lease of %s", r.desc())
	}
	return errors.Join(errs...)
}
