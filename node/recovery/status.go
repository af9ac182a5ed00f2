package recovery

import (
	"errors"
	"fmt"
	"slices"

	"github.com/atolldb/atoll/node/keys"
)

// minVoters is what a range has by default, where there are zones enough.
const minVoters = 3

// RangeStatus is how a range is.
type RangeStatus struct {
	ID        keys.RangeID `json:"range"`
	Span      Span         `json:"span"`
	Recovered bool         `json:"recovered"` // by a plan, or to be
	Index     uint64       `json:"index,omitempty"`
	Leader    keys.NodeID  `json:"leaseholder"`
	Voters    int          `json:"voters"`
	Copies    int          `json:"copies"` // voters with data, on nodes that answer
	Wanted    int          `json:"wanted"`
	State     string       `json:"state"`
	Whole     bool         `json:"whole"`
}

// Status is how a cluster is after a recovery.
type Status struct {
	ClusterID   string        `json:"cluster_id"`
	Plan        string        `json:"plan,omitempty"`
	Ranges      []RangeStatus `json:"ranges"`
	Unavailable []Span        `json:"unavailable"` // no leaseholder is known for them
	Problems    []string      `json:"problems"`
	Whole       bool          `json:"whole"`
}

// Look says how the cluster is; p may be nil. Only inventories of one cluster can be looked at.
func Look(inventories []Inventory, p *Plan) (*Status, error) {
	if len(inventories) == 0 {
		return nil, errors.New("recovery: no node gave an inventory: name the addresses of nodes that run")
	}
	s := &Status{ClusterID: inventories[0].ClusterID, Ranges: []RangeStatus{}, Unavailable: []Span{}, Problems: []string{}}
	for i := range inventories {
		if inventories[i].ClusterID != s.ClusterID {
			return nil, fmt.Errorf("recovery: node %d belongs to cluster %s, node %d to %s: name nodes of one cluster", inventories[i].Node, inventories[i].ClusterID, inventories[0].Node, s.ClusterID)
		}
	}
	if p != nil {
		if s.Plan = p.ID; p.ClusterID != s.ClusterID {
			return nil, fmt.Errorf("recovery: the plan is for cluster %s, the nodes belong to %s", p.ClusterID, s.ClusterID)
		}
	}
	l := looker{status: s, plan: p, wanted: wantedVoters(inventories), ranges: map[keys.RangeID]*seen{}}
	for i := range inventories {
		l.collect(&inventories[i])
	}
	l.judge()
	l.judgeLost(inventories)
	s.Whole = len(s.Problems) == 0 && len(s.Unavailable) == 0
	for i := range s.Ranges {
		s.Whole = s.Whole && s.Ranges[i].Whole
	}
	return s, nil
}

// wantedVoters is an odd number, one for each zone of the nodes that answer.
func wantedVoters(inventories []Inventory) int {
	zones := map[string]bool{}
	for i := range inventories {
		for _, n := range inventories[i].Nodes {
			if n.ID == inventories[i].Node {
				zones[n.Region+"/"+n.Zone] = true
			}
		}
	}
	return min(len(zones)-(len(zones)+1)%2, minVoters)
}

// seen is what the nodes say of a range together.
type seen struct {
	leader   keys.NodeID
	newest   *Replica // by generation; of the leaseholder if there is one
	withData map[Server]bool
	done     *Recovered
}

type looker struct {
	status *Status
	plan   *Plan
	wanted int
	ranges map[keys.RangeID]*seen
}

func (l *looker) of(id keys.RangeID) *seen {
	s := l.ranges[id]
	if s == nil {
		s = &seen{withData: map[Server]bool{}}
		l.ranges[id] = s
	}
	return s
}

func (l *looker) collect(v *Inventory) {
	for i := range v.Replicas {
		r := &v.Replicas[i]
		s := l.of(r.Range)
		if r.Lease {
			s.leader, s.newest = v.Node, r
		} else if s.leader == 0 && r.HasData && (s.newest == nil || s.newest.Generation < r.Generation) {
			s.newest = r
		}
		if r.HasData {
			s.withData[Server{v.Node, r.Replica}] = true
		}
	}
	for i := range v.Recovered {
		if r := &v.Recovered[i]; l.plan == nil || r.Plan == l.plan.ID {
			l.of(r.Range).done = r
		}
	}
}

func (l *looker) judge() {
	if l.plan != nil {
		for i := range l.plan.Ranges {
			l.of(l.plan.Ranges[i].ID)
		}
	}
	var served []Span
	for _, id := range sortedKeys(l.ranges) {
		s := l.ranges[id]
		r := RangeStatus{ID: id, Wanted: l.wanted, Leader: s.leader}
		planned := false
		if l.plan != nil {
			var o *Range
			if o, planned = l.plan.Find(id); planned {
				r.Span, r.Wanted = o.Span, max(r.Wanted, len(o.Voters)) // as many as it had
			}
		}
		if s.done != nil {
			r.Recovered, r.Index = true, s.done.Index
		}
		if s.newest != nil {
			r.Span, r.Voters = Span{s.newest.Start, s.newest.End}, len(s.newest.Voters)
			for _, v := range s.newest.Voters {
				if s.withData[v] {
					r.Copies++
				}
			}
		}
		if s.leader != 0 {
			served = join(served, r.Span)
		}
		r.State, r.Whole = l.state(&r, planned)
		l.status.Ranges = append(l.status.Ranges, r)
	}
	// A replica that was left behind by its range has no leader, and its keys have another one.
	l.status.Ranges = slices.DeleteFunc(l.status.Ranges, func(r RangeStatus) bool {
		return r.Leader == 0 && !r.Recovered && (r.Span.empty() || len(cutOut(r.Span, served)) == 0)
	})
	l.status.Unavailable = append(l.status.Unavailable, cutOut(everything, served)...)
}

func (l *looker) state(r *RangeStatus, planned bool) (string, bool) {
	switch {
	case planned && !r.Recovered:
		return "not recovered yet: apply the plan", false
	case r.Leader == 0:
		return "no leaseholder: make a new plan if that stays so", false
	case r.Voters < r.Wanted || r.Copies < r.Voters:
		return fmt.Sprintf("serves with %d of %d copies; the rest is being made, or waits for nodes in other zones", r.Copies, max(r.Wanted, r.Voters)), false
	case r.Recovered:
		return "recovered, and fully replicated again", true
	}
	return "serves", true
}

// judgeLost makes sure that every node knows who was given up.
func (l *looker) judgeLost(inventories []Inventory) {
	if l.plan == nil {
		return
	}
	for _, lost := range l.plan.Lost {
		for i := range inventories {
			v := &inventories[i]
			at := slices.IndexFunc(v.Nodes, func(n Node) bool { return n.ID == lost.Node })
			if at >= 0 && !v.Nodes[at].Lost {
				l.status.Problems = append(l.status.Problems, fmt.Sprintf("node %d does not know yet that node %d was given up", v.Node, lost.Node))
			}
		}
	}
}
