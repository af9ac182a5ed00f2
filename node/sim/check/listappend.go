// Package check judges histories that clients recorded: serializability, in real time, of
// list-append transactions by cycle detection (Kingsbury and Alvaro, "Elle", 2020),
// linearizability of single keys (porcupine), and totals of a bank.
package check

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// Outcome is what the client knows of a transaction.
type Outcome uint8

const (
	// Committed: the client got success.
	Committed Outcome = iota
	// Aborted: the client was told that nothing happened.
	Aborted
	// Unknown: the client does not know (SAFETY S12).
	Unknown
)

// Op is one operation: an append of Value to the list at Key, or a read of all of it.
type Op struct {
	Key    int
	Append bool
	Value  int   // of an append; unique in the whole history
	List   []int // of a read
}

// Txn is one transaction as its client saw it.
type Txn struct {
	Client     int
	Gateway    int // the node it went through
	Ops        []Op
	Outcome    Outcome
	Start, End time.Time // when the client began, and when it got the answer
}

// String prints the transaction for people.
func (t Txn) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client %d %s [", t.Client, [...]string{"committed", "aborted", "unknown"}[t.Outcome])
	for i, o := range t.Ops {
		if i > 0 {
			b.WriteString(" ")
		}
		if o.Append {
			fmt.Fprintf(&b, "append(%d,%d)", o.Key, o.Value)
		} else {
			fmt.Fprintf(&b, "read(%d)=%v", o.Key, o.List)
		}
	}
	fmt.Fprintf(&b, "] %s..%s", t.Start.Format("05.000000"), t.End.Format("05.000000"))
	return b.String()
}

// edge says why one transaction must come before another.
type edge struct {
	to  int
	why string
}

type checker struct {
	txns   []Txn
	writer map[int]int   // value -> transaction that appended it
	order  map[int][]int // key -> values in the order in which they took effect
	edges  [][]edge
	faults []error
}

// InRealTime returns every anomaly of a history: values that were lost, that came twice or from
// nowhere, reads that disagree, and cycles of dependencies and real time. A transaction comes
// before one that begins after its end, if both use a key that one of them appends to, or went
// through one gateway, or if more than maxOffset lies between. Timestamps from clocks that differ
// by up to maxOffset promise no more: two transactions without a common key, through gateways
// of which one is ahead, may take effect in the other order ("causal reverse"), and a third may see
// it. With a maxOffset of 0 the history must be strictly serializable.
func InRealTime(txns []Txn, maxOffset time.Duration) []error { return judge(txns, true, maxOffset) }

// Serializable is InRealTime without real time: a transaction may take effect before
// others that ended before it began.
func Serializable(txns []Txn) []error { return judge(txns, false, 0) }

func judge(txns []Txn, realTime bool, maxOffset time.Duration) []error {
	c := &checker{txns: txns, writer: map[int]int{}, order: map[int][]int{}, edges: make([][]edge, len(txns))}
	c.findWriters()
	c.findOrder(realTime)
	if len(c.faults) > 0 {
		return c.faults // edges would be nonsense
	}
	c.addDependencies()
	if realTime {
		c.addRealTime(maxOffset)
	}
	c.findCycles()
	return c.faults
}

func (c *checker) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf(format, args...))
}

func (c *checker) findWriters() {
	for i, t := range c.txns {
		for _, o := range t.Ops {
			if !o.Append {
				continue
			}
			if j, twice := c.writer[o.Value]; twice {
				c.fault("the history is malformed: %d is appended by %s and %s", o.Value, c.txns[j], t)
			}
			c.writer[o.Value] = i
		}
	}
}

// findOrder takes each key's longest read as the order of its values, and checks that every
// other read is a prefix of it, plus the reader's own appends.
func (c *checker) findOrder(realTime bool) {
	for _, t := range c.txns {
		c.eachRead(t, func(o Op, others []int) {
			if len(others) > len(c.order[o.Key]) {
				c.order[o.Key] = others
			}
		})
	}
	for key, values := range c.order {
		seen := map[int]bool{}
		for _, v := range values {
			w, known := c.writer[v]
			switch {
			case !known:
				c.fault("key %d holds %d, which nobody appended: %v", key, v, values)
			case seen[v]:
				c.fault("key %d holds %d twice: %v", key, v, values)
			case c.txns[w].Outcome == Aborted:
				c.fault("key %d holds %d of an aborted transaction: %s", key, v, c.txns[w])
			}
			seen[v] = true
		}
	}
	for _, t := range c.txns {
		if t.Outcome == Aborted {
			continue
		}
		c.eachRead(t, func(o Op, others []int) {
			if !isPrefix(others, c.order[o.Key]) {
				c.fault("a read disagrees with the order %v of key %d: %s", c.order[o.Key], o.Key, t)
			}
		})
	}
	if realTime {
		c.findLost()
	}
}

// findLost looks for committed appends that a later read must have seen and has not.
func (c *checker) findLost() {
	last := map[int]Txn{} // the read of a key that began last
	for _, t := range c.txns {
		if t.Outcome != Committed {
			continue
		}
		for _, o := range t.Ops {
			if !o.Append && t.Start.After(last[o.Key].Start) {
				last[o.Key] = t
			}
		}
	}
	for _, t := range c.txns {
		if t.Outcome != Committed {
			continue
		}
		for _, o := range t.Ops {
			if o.Append && t.End.Before(last[o.Key].Start) && !slices.Contains(c.order[o.Key], o.Value) {
				c.fault("acknowledged write lost: %d on key %d is in no read, not even in %s; it was written by %s", o.Value, o.Key, last[o.Key], t)
			}
		}
	}
}

// eachRead calls f with every read and the part of its list that others appended: a
// transaction sees its own appends at the end.
func (c *checker) eachRead(t Txn, f func(o Op, others []int)) {
	own := map[int][]int{}
	for _, o := range t.Ops {
		if o.Append {
			own[o.Key] = append(own[o.Key], o.Value)
			continue
		}
		mine := own[o.Key]
		if len(o.List) < len(mine) || !slices.Equal(o.List[len(o.List)-len(mine):], mine) {
			if t.Outcome != Aborted {
				c.fault("a transaction does not see its own appends %v: %s", mine, t)
			}
			continue
		}
		f(o, o.List[:len(o.List)-len(mine)])
	}
}

func isPrefix(a, b []int) bool { return len(a) <= len(b) && slices.Equal(a, b[:len(a)]) }

// counts says whether a transaction is known to have taken effect: committed, or unknown
// but read by somebody.
func (c *checker) counts(i int) bool {
	if c.txns[i].Outcome == Committed {
		return true
	}
	if c.txns[i].Outcome == Aborted {
		return false
	}
	for _, o := range c.txns[i].Ops {
		if o.Append && slices.Contains(c.order[o.Key], o.Value) {
			return true
		}
	}
	return false
}

func (c *checker) add(from, to int, why string) {
	if from != to && c.counts(from) && c.counts(to) {
		c.edges[from] = append(c.edges[from], edge{to, why})
	}
}

// addDependencies adds write-write, write-read and read-write edges.
func (c *checker) addDependencies() {
	for key, values := range c.order {
		for i := 1; i < len(values); i++ {
			c.add(c.writer[values[i-1]], c.writer[values[i]], fmt.Sprintf("ww on key %d: %d before %d", key, values[i-1], values[i]))
		}
	}
	for i, t := range c.txns {
		c.eachRead(t, func(o Op, others []int) {
			order := c.order[o.Key]
			if n := len(others); n > 0 {
				c.add(c.writer[others[n-1]], i, fmt.Sprintf("wr on key %d: read %d", o.Key, others[n-1]))
			}
			if n := len(others); n < len(order) {
				c.add(i, c.writer[order[n]], fmt.Sprintf("rw on key %d: did not see %d", o.Key, order[n]))
			}
		})
	}
}

// addRealTime adds edges from transactions to those that began after they ended, as InRealTime
// says.
func (c *checker) addRealTime(maxOffset time.Duration) {
	always := func(int, int) bool { return true }
	every := c.byStart(func(Txn) bool { return true })
	c.follow(every, maxOffset, always, "real time")
	gateways, keys := map[int]bool{}, map[int]bool{}
	for _, t := range c.txns {
		gateways[t.Gateway] = true
		for _, o := range t.Ops {
			keys[o.Key] = true
		}
	}
	for g := range gateways {
		c.follow(c.byStart(func(t Txn) bool { return t.Gateway == g }), 0, always, fmt.Sprintf("real time at gateway %d", g))
	}
	for k := range keys {
		writes := map[int]bool{}
		for i, t := range c.txns {
			writes[i] = slices.ContainsFunc(t.Ops, func(o Op) bool { return o.Key == k && o.Append })
		}
		uses := func(t Txn) bool { return slices.ContainsFunc(t.Ops, func(o Op) bool { return o.Key == k }) }
		conflict := func(i, j int) bool { return writes[i] || writes[j] }
		c.follow(c.byStart(uses), 0, conflict, fmt.Sprintf("real time on key %d", k))
	}
}

// byStart returns the chosen transactions that took effect, or may have, by when they began.
func (c *checker) byStart(chosen func(Txn) bool) []int {
	var out []int
	for i, t := range c.txns {
		if c.counts(i) && chosen(t) {
			out = append(out, i)
		}
	}
	sort.SliceStable(out, func(a, b int) bool { return c.txns[out[a]].Start.Before(c.txns[out[b]].Start) })
	return out
}

// follow adds an edge from each committed transaction of list (ordered by start) to those that
// began later than wait after its end and conflict with it. Edges that follow from others are left
// out: those to transactions that began later than wait after the end of one that conflicts with
// all, and already has an edge.
func (c *checker) follow(list []int, wait time.Duration, conflict func(i, j int) bool, why string) {
	for _, i := range list {
		if c.txns[i].Outcome != Committed {
			continue
		}
		end := c.txns[i].End.Add(wait)
		first := sort.Search(len(list), func(k int) bool { return c.txns[list[k]].Start.After(end) })
		var until time.Time
		for _, j := range list[first:] {
			if !until.IsZero() && c.txns[j].Start.After(until) {
				break
			}
			if !conflict(i, j) {
				continue
			}
			c.add(i, j, why)
			ends := c.txns[j].End.Add(wait)
			if c.txns[j].Outcome == Committed && conflict(j, j) && (until.IsZero() || ends.Before(until)) {
				until = ends
			}
		}
	}
}

// findCycles reports one cycle of every strongly connected component (Tarjan).
func (c *checker) findCycles() {
	n := len(c.txns)
	index, low := make([]int, n), make([]int, n)
	on := make([]bool, n)
	var stack []int
	next := 1
	type frame struct{ v, e int }
	for root := range n {
		if index[root] != 0 {
			continue
		}
		frames := []frame{{root, 0}}
		for len(frames) > 0 {
			f := &frames[len(frames)-1]
			if f.e == 0 {
				index[f.v], low[f.v] = next, next
				next++
				stack, on[f.v] = append(stack, f.v), true
			}
			if f.e < len(c.edges[f.v]) {
				w := c.edges[f.v][f.e].to
				f.e++
				if index[w] == 0 {
					frames = append(frames, frame{w, 0})
				} else if on[w] {
					low[f.v] = min(low[f.v], index[w])
				}
				continue
			}
			v := f.v
			frames = frames[:len(frames)-1]
			if len(frames) > 0 {
				p := frames[len(frames)-1].v
				low[p] = min(low[p], low[v])
			}
			if low[v] == index[v] {
				var comp []int
				for {
					w := stack[len(stack)-1]
					stack, on[w] = stack[:len(stack)-1], false
					comp = append(comp, w)
					if w == v {
						break
					}
				}
				if len(comp) > 1 {
					c.reportCycle(comp)
				}
			}
		}
	}
}

// reportCycle prints a shortest cycle within a component.
func (c *checker) reportCycle(comp []int) {
	in := map[int]bool{}
	for _, v := range comp {
		in[v] = true
	}
	start := slices.Min(comp)
	type step struct {
		from int
		e    edge
	}
	came := map[int]step{}
	queue := []int{start}
	for len(queue) > 0 {
		v := queue[0]
		queue = queue[1:]
		for _, e := range c.edges[v] {
			if !in[e.to] {
				continue
			}
			if e.to == start {
				var b strings.Builder
				path := []step{{v, e}}
				for v != start {
					path = append(path, came[v])
					v = came[v].from
				}
				for _, s := range slices.Backward(path) {
					fmt.Fprintf(&b, "\n  %s\n    %s", c.txns[s.from], s.e.why)
				}
				c.fault("dependency cycle, against dependencies and real time:%s\n  (back to the first)", b.String())
				return
			}
			if _, seen := came[e.to]; !seen {
				came[e.to] = step{v, e}
				queue = append(queue, e.to)
			}
		}
	}
}
