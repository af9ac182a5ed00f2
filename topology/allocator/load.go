package allocator

import (
	"cmp"
	"slices"
)

// totals are sums over the nodes that can take part in balancing: usable and draining ones.
type totals struct{ cpu, cpuCapacity, disk, diskCapacity float64 }

// loads is what changes as a plan is made.
type loads struct {
	nodes []load
	// order holds each pool's nodes, the least loaded first. in lists the pools of a node.
	order [][]int32
	in    [][]int32
}

// load is what a node has.
type load struct {
	cpu, disk          float64 // cores; bytes
	pressure           float64 // how loaded it is, 1 being the average
	receiving, sending int
	leases             int // taken from this plan
}

// sumUp computes the totals.
func (a *Allocator) sumUp() {
	for i := range a.sites {
		if s := &a.sites[i]; s.standing == usable || s.standing == draining {
			cpu, disk := a.has(s)
			a.total.cpu += cpu
			a.total.cpuCapacity += s.CPUCapacity
			a.total.disk += disk
			a.total.diskCapacity += float64(s.DiskCapacity)
		}
	}
}

// has returns what a node carries, with what replicas and leases cost at least.
func (a *Allocator) has(s *site) (cpu, disk float64) {
	return s.CPU + float64(s.Replicas)*a.set.ReplicaCPU + float64(s.Leases)*a.set.LeaseCPU,
		float64(s.DiskUsed) + float64(s.Replicas)*float64(a.set.ReplicaBytes)
}

// measure computes every node's load, and orders the pools.
func (a *Allocator) measure() loads {
	l := loads{nodes: make([]load, len(a.sites)), order: make([][]int32, len(a.pools)), in: make([][]int32, len(a.sites))}
	for i := range a.sites {
		s := &a.sites[i]
		n := &l.nodes[i]
		n.cpu, n.disk = a.has(s)
		n.receiving, n.sending = s.Receiving, s.Sending
		n.pressure = a.pressure(int32(i), n)
	}
	for p, nodes := range a.pools {
		l.order[p] = slices.Clone(nodes)
		slices.SortFunc(l.order[p], l.compare)
		for _, n := range nodes {
			l.in[n] = append(l.in[n], int32(p))
		}
	}
	return l
}

func (l *loads) compare(x, y int32) int {
	return cmp.Or(cmp.Compare(l.nodes[x].pressure, l.nodes[y].pressure), cmp.Compare(x, y))
}

// clone returns loads that can be changed. Which pools a node is in does not change.
func (l *loads) clone() loads {
	c := loads{nodes: slices.Clone(l.nodes), in: l.in, order: make([][]int32, len(l.order))}
	for i := range l.order {
		c.order[i] = slices.Clone(l.order[i])
	}
	return c
}

// use says how much of its capacity a node uses, 1 being the average of all nodes.
func use(have, capacity, total, totalCapacity float64) float64 {
	if total <= 0 || capacity <= 0 {
		return 0
	}
	return have / capacity * totalCapacity / total
}

func (a *Allocator) cpuUse(n int32, l *load) float64 {
	return use(l.cpu, a.sites[n].CPUCapacity, a.total.cpu, a.total.cpuCapacity)
}

func (a *Allocator) diskUse(n int32, l *load) float64 {
	return use(l.disk, float64(a.sites[n].DiskCapacity), a.total.disk, a.total.diskCapacity)
}

func (a *Allocator) pressure(n int32, l *load) float64 {
	return a.set.CPUWeight*a.cpuUse(n, l) + a.set.DiskWeight*a.diskUse(n, l)
}

// change gives a node load and keeps its pools in order.
func (a *Allocator) change(l *loads, n int32, cpu, disk float64) {
	at := &l.nodes[n]
	at.cpu += cpu
	at.disk += disk
	was := at.pressure
	at.pressure = a.pressure(n, at)
	if at.pressure == was {
		return
	}
	for _, p := range l.in[n] {
		order := l.order[p]
		i := slices.Index(order, n)
		for ; i > 0 && l.compare(order[i-1], n) > 0; i-- {
			order[i] = order[i-1]
		}
		for ; i+1 < len(order) && l.compare(order[i+1], n) < 0; i++ {
			order[i] = order[i+1]
		}
		order[i] = n
	}
}

// weight is what a range, or a lease, is to a node.
type weight struct{ cpu, disk float64 }

// replicaWeight is what a replica costs; a witness has no data and applies nothing.
func (a *Allocator) replicaWeight(r *Range, witness bool) weight {
	w := weight{a.set.ReplicaCPU, float64(a.set.ReplicaBytes)}
	if !witness {
		w.cpu += r.ReplicaCPU
		w.disk += float64(r.Bytes)
	}
	return w
}

func (a *Allocator) leaseWeight(r *Range) weight {
	return weight{cpu: r.LeaseCPU + a.set.LeaseCPU}
}

// relief is by how much the imbalance P falls when a node loses a weight that it has.
//
// With shares x of the total and c of the capacity, P is the sum of x²/c over nodes, so losing a
// share d lowers it by (x² - (x-d)²)/c = 2d(x - d/2)/c. Half of it is returned: the use that d
// is taken from, x/c, at the middle of the step, times d.
func (a *Allocator) relief(l *loads, n int32, w weight) float64 { return a.slope(l, n, w, -0.5) }

// burden is by how much P rises, halved, when a node gains a weight.
func (a *Allocator) burden(l *loads, n int32, w weight) float64 { return a.slope(l, n, w, +0.5) }

func (a *Allocator) slope(l *loads, n int32, w weight, middle float64) float64 {
	s, at := &a.sites[n], &l.nodes[n]
	return a.set.CPUWeight*share(w.cpu, a.total.cpu)*use(at.cpu+middle*w.cpu, s.CPUCapacity, a.total.cpu, a.total.cpuCapacity) +
		a.set.DiskWeight*share(w.disk, a.total.disk)*use(at.disk+middle*w.disk, float64(s.DiskCapacity), a.total.disk, a.total.diskCapacity)
}

func share(x, total float64) float64 {
	if total <= 0 {
		return 0
	}
	return x / total
}

// gain is by how much P falls, halved, when a weight moves, if that is worth it: more than a
// slack of what the node that loses it is relieved of. Else it is 0.
func (a *Allocator) gain(l *loads, from, to int32, w weight, slack float64) float64 {
	relief := a.relief(l, from, w)
	if g := relief - a.burden(l, to, w); g > slack*relief && g > 0 {
		return g
	}
	return 0
}

// mostlyCPU reports whether moving a weight evens out CPU rather than disks.
func (a *Allocator) mostlyCPU(l *loads, from, to int32, w weight) bool {
	cpu, disk := weight{cpu: w.cpu}, weight{disk: w.disk}
	return a.relief(l, from, cpu)-a.burden(l, to, cpu) >= a.relief(l, from, disk)-a.burden(l, to, disk)
}

// fill is the fraction of a node's disk in use, with so much more on it. Without a capacity it is 0.
func (a *Allocator) fill(l *loads, n int32, more float64) float64 {
	s := &a.sites[n]
	if s.DiskCapacity == 0 {
		return 0
	}
	used := l.nodes[n].disk - float64(s.Replicas)*float64(a.set.ReplicaBytes) + more
	return used / float64(s.DiskCapacity)
}

// hasTurn reports whether a range may begin, or give up, a move for balance in this view.
func (a *Allocator) hasTurn(r RangeID) bool {
	x := (uint64(r) + a.turn<<32) * 0x9e3779b97f4a7c15 // splitmix64 (Steele, Lea, Flood, 2014)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return (x^x>>31)%uint64(a.set.Planners) == 0
}
