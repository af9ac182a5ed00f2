package store

import (
	"fmt"
	"slices"
	"time"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/topology/allocator"
)

const (
	// planEvery is how often the allocator looks at the ranges that this node leads; it looks at the
	// next tick once a change was carried out.
	planEvery = 2 * time.Second
	// askEvery is how often the other nodes are asked what they have. What is a matter of choice is
	// begun only right after that: what was begun since would not be counted.
	askEvery = 10 * time.Second
	// fewLeases is how many leases a node may have without giving any away to even them out: a
	// lease is best left where it is, as long as there is little to even out.
	fewLeases = 16
	// copies is how many replicas may be on their way to, or from, a node. Their bytes are paced
	// (Config.SnapshotBytesPerSecond).
	copies = 16
	// noSlack keeps what is in its place from moving to even out nodes.
	noSlack = 1
)

// due is a change that the allocator decided for a descriptor of this generation.
type due struct {
	allocator.Change
	generation int64
}

// plan asks the allocator what the ranges need that this node leads. Until the rules are known it
// plans nothing.
func (s *Store) plan(now time.Time, fresh bool) map[keys.RangeID]due {
	rules := s.rules.Load()
	if rules == nil {
		return nil
	}
	v := s.nodesView(rules, now)
	if !fresh || s.cfg.KeepReplicas {
		v.Settings.ReplicaSlack = noSlack
	}
	s.turn++
	v.Turn = s.turn
	generations := s.rangesView(&v, rules, now, false)
	if busy := countLoad(&v); !fresh || s.leases() <= fewLeases && !busy {
		v.Settings.LeaseSlack = noSlack
	}
	plan, err := allocator.PlanView(v)
	if err != nil {
		s.logger.Error("nothing is placed anew: the allocator refuses what it is told of the cluster", "err", err)
		return nil
	}
	s.note(&plan, now)
	out := make(map[keys.RangeID]due, len(plan.Changes))
	for _, c := range plan.Changes {
		id := keys.RangeID(c.Range)
		out[id] = due{c, generations[id]}
	}
	return out
}

// Finding is something about a range that is not as its rule wants it.
type Finding struct {
	Range keys.RangeID
	// Since is when this node found it first, in a row.
	Since time.Time
	// Stuck: nothing can be done about it now; Reason says what would help. Else it is being mended.
	Stuck  bool
	Reason string
}

// maxFindings bounds what a node tells of; metrics count all that are stuck.
const maxFindings = 1000

// note remembers what a plan found.
func (s *Store) note(plan *allocator.Plan, now time.Time) {
	s.stuck.Store(int64(len(plan.Stuck)))
	found := s.findRisks()
	for _, f := range plan.Stuck {
		found = append(found, Finding{Range: keys.RangeID(f.Range), Stuck: true, Reason: f.Reason})
	}
	for _, f := range plan.Waits {
		found = append(found, Finding{Range: keys.RangeID(f.Range), Reason: f.Reason})
	}
	for _, c := range plan.Changes {
		if c.Priority < allocator.Preference {
			found = append(found, Finding{Range: keys.RangeID(c.Range), Reason: c.Reason})
		}
	}
	found = found[:min(len(found), maxFindings)]
	s.mu.Lock()
	defer s.mu.Unlock()
	since := make(map[keys.RangeID]time.Time, len(s.findings))
	for _, f := range s.findings {
		since[f.Range] = f.Since
	}
	for i := range found {
		f := &found[i]
		if f.Since = now; !since[f.Range].IsZero() {
			f.Since = since[f.Range]
		}
	}
	s.findings = found
}

// Findings returns what is not as it should be with the ranges that this node leads, at most a
// thousand of them.
func (s *Store) Findings() []Finding {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.findings)
}

// askNodes asks the other nodes what they have.
func (s *Store) askNodes() {
	seen := s.statuses(s.ctx)
	s.mu.Lock()
	s.seen = seen
	s.mu.Unlock()
	s.fresh.Store(true)
}

// nodesView is what the allocator sees of all nodes, and the rules. The default rule is voters in as
// many zones as there are, up to Config.Voters.
func (s *Store) nodesView(rules *ruleSet, now time.Time) allocator.View {
	nodes := s.cfg.Directory.All()
	places := Places(nodes)
	v := allocator.View{Rules: rules.list(s.cfg.Voters, places)}
	answer := 0
	s.mu.RLock()
	health, seen := s.health, s.seen // replaced as a whole
	s.mu.RUnlock()
	for _, n := range nodes {
		node := allocator.Node{ID: allocator.NodeID(n.ID), Locality: places[n.ID], Attributes: n.AttributeList(), Membership: Membership(n.State)}
		health.tell(&node, now)
		st, counted := seen[n.ID]
		switch {
		case n.ID == s.cfg.Node:
			st.replicas, st.leases, st.cpu, st.cores = len(s.all()), s.leases(), s.cores(), s.cfg.Cores
		case node.Health == allocator.Answers && (!counted || !st.counted):
			node.For = 0 // nobody knows what it has: it is given nothing that it need not have
		}
		node.Replicas, node.Leases, node.Receiving = st.replicas, st.leases, st.receiving
		node.CPU, node.CPUCapacity = st.cpu, st.cores
		node.DiskUsed, node.DiskCapacity = st.diskUsed, st.diskUsed+st.diskFree
		v.Nodes = append(v.Nodes, node)
		if node.Health == allocator.Answers {
			answer++
		}
	}
	set := &v.Settings
	set.RestartWait = max(s.cfg.DeadAfter, time.Second)
	set.VolumeGoneWait = max(s.cfg.VolumeGoneAfter, time.Second)
	set.ZoneHold = max(s.cfg.ZoneDeadAfter, set.RestartWait)
	set.Planners = max(1, min(answer, 1024))
	set.Limits.Receive, set.Limits.Send = copies, copies
	return v
}

// Membership is what a node's state in the directory means for placement.
func Membership(st cluster.NodeState) allocator.Membership {
	switch st {
	case cluster.Live:
		return allocator.Active
	case cluster.Decommissioning:
		return allocator.Decommissioning
	case cluster.Decommissioned:
		return allocator.Decommissioned
	}
	return allocator.Draining // gives leases away, or has not taken part yet
}

// Lacking looks at the ranges that this node leads, those that somebody works on too, and returns how
// many lack something that their rules ask for, and what one of them lacks. known is false while the
// rules are not known.
func (s *Store) Lacking(now time.Time) (n int, reason string, known bool) {
	rules := s.rules.Load()
	if rules == nil {
		return 0, "", false
	}
	v := s.nodesView(rules, now)
	v.Settings.ReplicaSlack, v.Settings.LeaseSlack = noSlack, noSlack
	s.rangesView(&v, rules, now, true)
	plan, err := allocator.PlanView(v)
	if err != nil {
		return 1, err.Error(), true
	}
	for _, f := range plan.Stuck {
		n, reason = n+1, fmt.Sprintf("range %d: %s", f.Range, f.Reason)
	}
	for _, f := range plan.Waits {
		reason = fmt.Sprintf("range %d: %s", f.Range, f.Reason)
	}
	for _, c := range plan.Changes {
		if c.Priority < allocator.Preference {
			n, reason = n+1, fmt.Sprintf("range %d: %s", c.Range, c.Reason)
		}
	}
	return n + plan.Deferred + plan.Waiting, reason, true
}

// rangesView adds the ranges that this node leads, and returns the generations of their descriptors.
// busy: also those that somebody works on.
func (s *Store) rangesView(v *allocator.View, rules *ruleSet, now time.Time, busy bool) map[keys.RangeID]int64 {
	generations := map[keys.RangeID]int64{}
	zones := make(map[keys.NodeID]string, len(v.Nodes))
	for i := range v.Nodes {
		zones[keys.NodeID(v.Nodes[i].ID)] = v.Nodes[i].Locality.Zone
	}
	receiving := map[allocator.NodeID]int{}
	for _, r := range s.all() {
		d := r.desc()
		if d == nil || r.busy.Load() && !busy || r.distrusted.Load() || r.frozen.Load() != nil {
			continue
		}
		if _, ok := r.leads(); !ok {
			continue
		}
		out := s.rangeView(r, d, now)
		out.Requests = r.load.requests(zones)
		out.Rule = rules.at(d.Start)
		for _, rep := range out.Replicas {
			// Some do not vote for good: those on a silent node are not on their way there.
			if rep.Type == allocator.NonVoter && !rep.CaughtUp && s.cfg.Support.Live(keys.NodeID(rep.Node)) {
				receiving[rep.Node]++
			}
		}
		v.Ranges = append(v.Ranges, out)
		generations[d.RangeID] = d.Generation
	}
	for i := range v.Nodes {
		n := &v.Nodes[i]
		n.Receiving = max(n.Receiving, receiving[n.ID]) // what it says may be old
		if n.ID == allocator.NodeID(s.cfg.Node) {
			for _, sent := range receiving {
				n.Sending += sent
			}
		}
	}
	return generations
}

// countLoad reports whether some node is busy. If none is, the load is taken out of the view: each
// replica and each lease then counts the same, and nothing moves for a load that all nodes can bear.
func countLoad(v *allocator.View) bool {
	for i := range v.Nodes {
		if n := &v.Nodes[i]; n.CPU > busyShare*max(n.CPUCapacity, 1) {
			return true
		}
	}
	for i := range v.Nodes {
		v.Nodes[i].CPU = 0
	}
	for i := range v.Ranges {
		v.Ranges[i].ReplicaCPU, v.Ranges[i].LeaseCPU = 0, 0
	}
	return false
}

// AllocatorType is what the allocator calls a type of replica.
func AllocatorType(t kv.ReplicaType) allocator.ReplicaType {
	return [...]allocator.ReplicaType{allocator.Voter, allocator.NonVoter, allocator.Witness, allocator.NewWitness}[t]
}

// rangeView is what the allocator sees of a range.
func (s *Store) rangeView(r *rep, d *kv.RangeDescriptor, now time.Time) allocator.Range {
	out := allocator.Range{ID: allocator.RangeID(d.RangeID), Leaseholder: allocator.NodeID(s.cfg.Node), Bytes: r.size.Load(),
		LeaseFor: now.Sub(time.Unix(0, r.leaseSince.Load()))}
	out.ReplicaCPU, out.LeaseCPU = r.load.cost()
	for _, rd := range d.Replicas {
		_, gone := r.gone.Load(rd.Replica)
		rep := allocator.Replica{Node: allocator.NodeID(rd.Node), Distrusted: rd.Quarantine != kv.Trusted || gone,
			CaughtUp: rd.Node == s.cfg.Node || r.caughtUp(raftnet.ServerID(rd.Node, rd.Replica))}
		rep.Type = AllocatorType(rd.Type)
		out.Replicas = append(out.Replicas, rep)
	}
	return out
}
