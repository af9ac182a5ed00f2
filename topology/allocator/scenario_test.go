package allocator_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/allocator"
	"github.com/atolldb/atoll/topology/allocator/fleet"
)

// TestScenarios runs testdata, which specifies the allocator. Commands:
//
//	policy            a policy file; replaces the one of that name. `ready [zone=role …]` takes one that ships
//	nodes             a line each: ID region/zone [key=value …], see parseNode; known ones are changed
//	ranges            a line each: rN [policy=P] [size=64M] [cpu=0.1] [lease-cpu=0.1] [from=zone:rate,…] replicas
//	                  a replica is a node's ID, then * for the lease, n non-voter, w witness, v witness
//	                  that does not vote yet, ~ not caught up, ! distrusted
//	settings          key=value …, see parseSettings
//	plan              prints what would be done
//	round [n]         plans and carries out, n times, a second passing after each
//	settle [max=n]    rounds until nothing is left to do, then where all is
//	wait              a duration passes
//	explain           rN
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := &world{t: t, f: fleet.New(nil, nil), named: map[string]*policies.Policy{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.t = t
			out := w.run(d)
			require.Empty(t, w.f.Faults, d.Pos)
			return out
		})
	})
}

// world is what a scenario acts on.
type world struct {
	t     *testing.T
	f     *fleet.Fleet
	named map[string]*policies.Policy
	order []string
	using []string // the policy of each range
}

func (w *world) run(d *datadriven.TestData) string {
	switch d.Cmd {
	case "policy":
		p, err := policies.Read("policy", []byte(d.Input))
		require.NoError(w.t, err)
		return w.bind(p)
	case "ready":
		f := strings.Fields(d.Input)
		p, err := policies.Ready(f[0])
		require.NoError(w.t, err)
		var roles []policies.ZoneRole
		for _, arg := range f[1:] {
			zone, role, _ := strings.Cut(arg, "=")
			roles = append(roles, policies.ZoneRole{Zone: zone, Role: policies.Role(role)})
		}
		p, err = p.WithRoles(roles...)
		require.NoError(w.t, err)
		return w.bind(p)
	case "nodes":
		for line := range strings.Lines(d.Input) {
			w.node(strings.Fields(line))
		}
		w.compile()
		return ""
	case "ranges":
		w.f.Ranges, w.using = nil, nil
		for line := range strings.Lines(d.Input) {
			w.rng(strings.Fields(line))
		}
		w.compile()
		return ""
	case "settings":
		w.settings(strings.Fields(d.Input))
		return ""
	case "plan":
		p, err := allocator.PlanView(w.f.View())
		require.NoError(w.t, err)
		return printPlan(p)
	case "round":
		return w.rounds(d)
	case "settle":
		return w.settle(d)
	case "wait":
		pause, err := time.ParseDuration(strings.TrimSpace(d.Input))
		require.NoError(w.t, err)
		w.f.Tick(pause)
		return ""
	case "explain":
		a, err := allocator.New(w.f.View())
		require.NoError(w.t, err)
		for i := range w.f.Ranges {
			if fmt.Sprintf("r%d", w.f.Ranges[i].ID) == strings.TrimSpace(d.Input) {
				return a.Explain(&w.f.Ranges[i]).String()
			}
		}
	}
	w.t.Fatalf("%s: unknown command or range", d.Pos)
	return ""
}

func (w *world) bind(p *policies.Policy) string {
	if w.named[p.Name] == nil {
		w.order = append(w.order, p.Name)
	}
	w.named[p.Name] = p
	return w.compile()
}

// compile compiles all policies against the zones that have nodes. It does not check them: some
// scenarios show what the allocator makes of policies that Check refuses.
func (w *world) compile() string {
	var nodes []topology.Node
	for _, n := range w.f.Nodes {
		nodes = append(nodes, topology.Node{ID: int32(n.ID), Name: fmt.Sprint("n", n.ID), Locality: n.Locality, Attributes: n.Attributes})
	}
	top, err := topology.FromNodes(nodes...)
	require.NoError(w.t, err)
	w.f.Rules = nil
	for _, name := range w.order {
		w.f.Rules = append(w.f.Rules, w.named[name].Compile(top))
	}
	for i := range w.f.Ranges {
		w.f.Ranges[i].Rule = max(0, slices.Index(w.order, w.using[i]))
	}
	return ""
}

// node reads one line: state is active, draining, decommissioning or decommissioned; silent and
// gone say for how long, up how long it has answered; disk is used/capacity in GiB beside the ranges.
func (w *world) node(f []string) {
	id, err := strconv.Atoi(f[0])
	require.NoError(w.t, err)
	known := slices.ContainsFunc(w.f.Nodes, func(n allocator.Node) bool { return n.ID == allocator.NodeID(id) })
	if !known {
		region, zone, ok := strings.Cut(f[1], "/")
		require.True(w.t, ok, "%v: a new node needs region/zone", f)
		w.f.Add(allocator.Node{ID: allocator.NodeID(id), Locality: topology.Locality{Region: region, Zone: zone}, For: 24 * time.Hour, DiskCapacity: 100 << 30})
		f = f[1:]
	}
	n := w.f.Node(allocator.NodeID(id))
	for _, arg := range f[1:] {
		key, val, isKey := strings.Cut(arg, "=")
		if !isKey {
			continue // its place, once more
		}
		switch key {
		case "attributes":
			n.Attributes = strings.Split(val, ",")
		case "disk":
			_, err = fmt.Sscanf(val, "%d/%d", &n.DiskUsed, &n.DiskCapacity)
			n.DiskUsed, n.DiskCapacity = n.DiskUsed<<30, n.DiskCapacity<<30
		case "cores":
			n.CPUCapacity, err = strconv.ParseFloat(val, 64)
		case "state":
			n.Membership = allocator.Membership(slices.Index([]string{"active", "draining", "decommissioning", "decommissioned"}, val))
		case "silent", "gone", "up":
			w.f.SetHealth(n.ID, map[string]allocator.Health{"silent": allocator.Silent, "gone": allocator.VolumeGone, "up": allocator.Answers}[key])
			n.For, err = time.ParseDuration(val)
		default:
			w.t.Fatalf("unknown key %q", key)
		}
		require.NoError(w.t, err, arg)
	}
}

func (w *world) rng(f []string) {
	id, err := strconv.Atoi(strings.TrimPrefix(f[0], "r"))
	require.NoError(w.t, err)
	r := allocator.Range{ID: allocator.RangeID(id), Bytes: 64 << 20, LeaseFor: time.Hour}
	using := w.order[0]
	for _, arg := range f[1:] {
		key, val, isKey := strings.Cut(arg, "=")
		switch {
		case !isKey:
			r.Replicas = append(r.Replicas, parseReplica(w.t, arg))
			if strings.Contains(arg, "*") {
				r.Leaseholder = r.Replicas[len(r.Replicas)-1].Node
			}
		case key == "policy":
			using = val
		case key == "size":
			var mb int64
			_, err = fmt.Sscanf(val, "%dM", &mb)
			r.Bytes = mb << 20
		case key == "cpu":
			r.ReplicaCPU, err = strconv.ParseFloat(val, 64)
		case key == "lease-cpu":
			r.LeaseCPU, err = strconv.ParseFloat(val, 64)
		case key == "from":
			for _, part := range strings.Split(val, ",") {
				zone, rate, _ := strings.Cut(part, ":")
				v, err := strconv.ParseFloat(rate, 64)
				require.NoError(w.t, err)
				r.Requests = append(r.Requests, allocator.ZoneRequests{Zone: zone, Rate: v})
			}
		default:
			w.t.Fatalf("unknown key %q", key)
		}
		require.NoError(w.t, err, arg)
	}
	w.f.Ranges, w.using = append(w.f.Ranges, r), append(w.using, using)
}

func parseReplica(t *testing.T, s string) allocator.Replica {
	digits := strings.TrimRight(s, "*nwv~!")
	id, err := strconv.Atoi(digits)
	require.NoError(t, err, s)
	rep := allocator.Replica{Node: allocator.NodeID(id), CaughtUp: !strings.Contains(s, "~"), Distrusted: strings.Contains(s, "!")}
	for mark, typ := range map[string]allocator.ReplicaType{"n": allocator.NonVoter, "w": allocator.Witness, "v": allocator.NewWitness} {
		if strings.Contains(s, mark) {
			rep.Type = typ
		}
	}
	return rep
}

func (w *world) settings(f []string) {
	for _, arg := range f {
		key, val, _ := strings.Cut(arg, "=")
		n, _ := strconv.Atoi(val)
		switch key {
		case "receive":
			w.f.Settings.Limits.Receive = n
		case "send":
			w.f.Settings.Limits.Send = n
		case "leases":
			w.f.Settings.Limits.Leases = n
		case "changes":
			w.f.Settings.Limits.Changes = n
		case "copy-mb-per-second":
			w.f.CopyBytesPerSecond = int64(n) << 20
		default:
			w.t.Fatalf("unknown setting %q", key)
		}
	}
}

func printPlan(p allocator.Plan) string {
	var b strings.Builder
	for _, c := range p.Changes {
		fmt.Fprintf(&b, "r%d %s: %s: %s\n", c.Range, c.Priority, c, c.Reason)
	}
	for _, s := range p.Stuck {
		fmt.Fprintf(&b, "r%d stuck: %s\n", s.Range, s.Reason)
	}
	if p.Waiting > 0 {
		fmt.Fprintf(&b, "waiting: %d\n", p.Waiting)
	}
	if p.Deferred > 0 {
		fmt.Fprintf(&b, "deferred: %d\n", p.Deferred)
	}
	if b.Len() == 0 {
		return "nothing to do\n"
	}
	return b.String()
}

func (w *world) rounds(d *datadriven.TestData) string {
	n := 1
	if len(d.CmdArgs) > 0 {
		n, _ = strconv.Atoi(d.CmdArgs[0].Key)
	}
	var b strings.Builder
	for range n {
		p, err := w.f.Round()
		require.NoError(w.t, err)
		b.WriteString(printPlan(p))
		w.f.Tick(time.Second)
	}
	return b.String()
}

// settle prints the changes made, if they are few, and where everything is.
func (w *world) settle(d *datadriven.TestData) string {
	limit := 200
	d.MaybeScanArgs(w.t, "max", &limit)
	var b strings.Builder
	before, windows := w.f.Counts.Changes, w.f.Counts.Windows
	rounds, err := w.f.Settle(time.Second, limit)
	if err != nil {
		fmt.Fprintf(&b, "%v\n", err)
	} else {
		fmt.Fprintf(&b, "%d rounds", rounds)
		for k := range before {
			if n := w.f.Counts.Changes[k] - before[k]; n > 0 {
				fmt.Fprintf(&b, ", %d × %s", n, allocator.Kind(k))
			}
		}
		if n := w.f.Counts.Windows - windows; n > 0 {
			fmt.Fprintf(&b, "; %d windows", n)
		}
		b.WriteByte('\n')
	}
	if len(w.f.Ranges) <= 8 {
		for i := range w.f.Ranges {
			b.WriteString(w.place(&w.f.Ranges[i]))
		}
	} else {
		b.WriteString(w.table())
	}
	p, err := allocator.PlanView(w.f.View())
	require.NoError(w.t, err)
	for i, s := range p.Stuck {
		if i == 3 {
			fmt.Fprintf(&b, "… and %d more\n", len(p.Stuck)-i)
			break
		}
		fmt.Fprintf(&b, "r%d stuck: %s\n", s.Range, s.Reason)
	}
	return b.String()
}

func (w *world) place(r *allocator.Range) string {
	var parts []string
	for _, rep := range r.Replicas {
		s := fmt.Sprintf("%d(%s)", rep.Node, w.f.Node(rep.Node).Locality.Zone)
		if rep.Node == r.Leaseholder {
			s += "*"
		}
		parts = append(parts, s+map[allocator.ReplicaType]string{allocator.NonVoter: "n", allocator.Witness: "w", allocator.NewWitness: "v"}[rep.Type])
	}
	return fmt.Sprintf("r%d: %s\n", r.ID, strings.Join(parts, " "))
}

func (w *world) table() string {
	var b strings.Builder
	v := w.f.View()
	for _, n := range v.Nodes {
		fmt.Fprintf(&b, "node %d (%s): %d replicas, %d leases", n.ID, n.Locality.Zone, n.Replicas, n.Leases)
		if n.CPU > 0 {
			fmt.Fprintf(&b, ", %.2f cores", n.CPU)
		}
		fmt.Fprintf(&b, ", disk %.0f%%\n", 100*float64(n.DiskUsed)/float64(n.DiskCapacity))
	}
	return b.String()
}
