package allocator

import (
	"cmp"
	"slices"
)

// Plan is what is to be done with all ranges of a view.
type Plan struct {
	// Changes by priority, then range: at most one for each range, within the limits.
	Changes []Change
	// Stuck lists the ranges for which something is due that can't be done, and what would help.
	Stuck []Finding
	// Waits lists those ranges that lack something (their priority is above Preference's) and wait, for a
	// copy or a node say.
	Waits []Finding
	// Waiting counts ranges that wait for what is under way, Deferred those that a limit holds back.
	Waiting, Deferred int
}

// Finding is something about a range that an operator should know.
type Finding struct {
	Range  RangeID
	Reason string
}

// PlanView plans a view: New, then Plan.
func PlanView(v View) (Plan, error) {
	a, err := New(v)
	if err != nil {
		return Plan{}, err
	}
	return a.Plan(v.Ranges), nil
}

// Plan decides every range. The first pass looks at each as if it were alone; the second takes
// those with something to do by priority, and each sees what those before it have taken: so the
// most urgent get what the limits allow, and a node that was the emptiest does not get everything.
func (a *Allocator) Plan(ranges []Range) Plan {
	var p Plan
	type due struct {
		priority Priority
		at       int
	}
	var list []due
	t := turn{quiet: true}
	for i := range ranges {
		switch d := t.decide(a, &a.now, &ranges[i]); d.Verdict {
		case Act:
			list = append(list, due{d.Change.Priority, i})
		case Deferred:
			p.Deferred++
		case Waiting:
			p.Waiting++
			if d.Change.Priority < Preference {
				t.quiet = false
				p.Waits = append(p.Waits, Finding{ranges[i].ID, t.decide(a, &a.now, &ranges[i]).Reason})
				t.quiet = true
			}
		case Stuck:
			t.quiet = false
			p.Stuck = append(p.Stuck, Finding{ranges[i].ID, t.decide(a, &a.now, &ranges[i]).Reason})
			t.quiet = true
		}
	}
	slices.SortFunc(list, func(x, y due) int {
		return cmp.Or(cmp.Compare(x.priority, y.priority), cmp.Compare(ranges[x.at].ID, ranges[y.at].ID))
	})
	l := a.now.clone()
	t.quiet = false
	for _, e := range list {
		if limit := a.set.Limits.Changes; limit > 0 && len(p.Changes) == limit {
			p.Deferred++
			continue
		}
		r := &ranges[e.at]
		switch d := t.decide(a, &l, r); d.Verdict {
		case Act:
			p.Changes = append(p.Changes, d.Change)
			a.reserve(&l, r, &d.Change)
		case Deferred:
			p.Deferred++
		case Waiting:
			p.Waiting++
		}
	}
	slices.SortStableFunc(p.Changes, func(x, y Change) int { return cmp.Compare(x.Priority, y.Priority) })
	return p
}

// reserve counts a change as if it were done.
func (a *Allocator) reserve(l *loads, r *Range, c *Change) {
	lease := a.leaseWeight(r)
	switch c.Kind {
	case AddNonVoter, AddWitness:
		a.shift(l, r, c.Node, c.Kind == AddWitness, 1)
		l.nodes[a.index[c.Node]].receiving++
		l.nodes[a.index[r.Leaseholder]].sending++
	case Remove:
		a.shift(l, r, c.Node, r.witnessOn(c.Node), -1)
	case Replace:
		a.shift(l, r, c.Other, r.witnessOn(c.Other), -1)
	case Shrink:
		a.shift(l, r, c.Node, r.witnessOn(c.Node), -1)
		a.shift(l, r, c.Other, r.witnessOn(c.Other), -1)
	case TurnWitness:
		a.shift(l, r, c.Node, false, -1)
		a.shift(l, r, c.Node, true, 1)
	case TransferLease:
		to := a.index[c.Node]
		a.change(l, to, lease.cpu, 0)
		if from, ok := a.index[c.Other]; ok {
			a.change(l, from, -lease.cpu, 0)
		}
		if c.Priority >= Preference {
			l.nodes[to].leases++
		}
	}
}

func (a *Allocator) shift(l *loads, r *Range, node NodeID, witness bool, sign float64) {
	if n, ok := a.index[node]; ok {
		w := a.replicaWeight(r, witness)
		a.change(l, n, sign*w.cpu, sign*w.disk)
	}
}

func (r *Range) witnessOn(node NodeID) bool {
	for _, rep := range r.Replicas {
		if rep.Node == node {
			return rep.Type.witness()
		}
	}
	return false
}
