package policies

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/placement"
)

// TestScenarios runs testdata: `zones` sets the topology (region/zone:nodes:attribute …), `read`
// reads a policy and prints it or its faults, `ready` takes one that ships and gives it roles
// (zone=role …), `check` checks the last one against the topology, `built` against what the node
// carries out, `foresee` prints what it survives and costs.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.Contains(path, "fuzz") {
			return
		}
		var top topology.Topology
		var p *Policy
		verdict := func(err error) string {
			if err != nil {
				return err.Error() + "\n"
			}
			return "ok\n"
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "zones":
				top = parseZones(t, d.Input)
				return strings.Join(top.ZoneNames(), " ") + "\n"
			case "read":
				got, err := Read("p.yaml", []byte(d.Input))
				if err != nil {
					return err.Error() + "\n"
				}
				p = got
				return p.Format()
			case "ready":
				f := strings.Fields(d.Input)
				got, err := Ready(f[0])
				if err == nil {
					got, err = got.WithRoles(parseRoles(f[1:])...)
				}
				if err != nil {
					return err.Error() + "\n"
				}
				p = got
				return p.Format()
			case "check":
				return verdict(p.Check(top))
			case "foresee":
				out, err := p.Foresee(top)
				if err != nil {
					return err.Error() + "\n"
				}
				return out.text()
			default:
				t.Fatalf("unknown command %q", d.Cmd)
				return ""
			}
		})
	})
}

func parseZones(t *testing.T, s string) topology.Topology {
	t.Helper()
	var zones []topology.Zone
	for _, f := range strings.Fields(s) {
		place, count, _ := strings.Cut(f, ":")
		count, attribute, _ := strings.Cut(count, ":")
		region, zone, _ := strings.Cut(place, "/")
		n, err := strconv.Atoi(count)
		require.NoError(t, err)
		z := topology.Zone{Name: zone, Region: region}
		for i := range n {
			n := topology.Node{Name: fmt.Sprintf("%s-%d", zone, i), Locality: z.Locality()}
			if attribute != "" {
				n.Attributes = []string{attribute}
			}
			z.Nodes = append(z.Nodes, n)
		}
		zones = append(zones, z)
	}
	top, err := topology.New(zones...)
	require.NoError(t, err)
	return top
}

func parseRoles(fields []string) (out []ZoneRole) {
	for _, f := range fields {
		zone, role, _ := strings.Cut(f, "=")
		out = append(out, ZoneRole{Zone: zone, Role: Role(role)})
	}
	return out
}

// text prints an outlook.
func (o Outlook) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "survives %d nodes, %d zones, %d regions\n", o.Survives.Nodes, o.Survives.Zones, o.Survives.Regions)
	trips := func(t placement.Trips) string {
		return fmt.Sprintf("%d in zone + %d cross-zone + %d cross-region", t.InZone, t.CrossZone, t.CrossRegion)
	}
	for _, z := range o.Zones {
		fmt.Fprintf(&b, "%s: %s, %d voters, %d non-voters", z.Zone.Zone, z.Role, z.Voters, z.NonVoters)
		if z.Lease {
			b.WriteString(", leases")
		}
		if z.LocalReads {
			b.WriteString(", local reads of the past")
		}
		fmt.Fprintf(&b, "; commit %s; read %s\n", trips(z.Commit), trips(z.Read))
	}
	return b.String()
}

func TestReadyPoliciesAreSound(t *testing.T) {
	require.Equal(t, []string{"follow-the-workload", "pinned-to-region", "primary-zone", "read-local", "survive-node", "survive-region",
		"survive-two-zones", "survive-zone", "two-zones-and-a-witness"}, Names())
	for _, name := range Names() {
		p, err := Ready(name)
		require.NoError(t, err)
		require.Equal(t, name, p.Name, "the file is called what the policy is called")
		require.NoError(t, p.Validate())
	}
}

func TestSyntaxErrorHasPlaces(t *testing.T) {
	_, err := Read("p.yaml", []byte("name: a\nsurvive: zone\nvoters: x\n"))
	var se *SyntaxError
	require.True(t, errors.As(err, &se))
	require.Equal(t, []Fault{{Line: 3, Column: 9, Text: `voters must be a whole number, not the text "x"`}}, se.Faults)
}

func TestLimits(t *testing.T) {
	_, err := Read("p.yaml", []byte("name: a\n# "+strings.Repeat("x", MaxFileBytes)))
	require.ErrorContains(t, err, "at most 65536")
	var b strings.Builder
	b.WriteString("name: a\nsurvive: zone\nzones:\n")
	for i := range topology.MaxZones + 1 {
		fmt.Fprintf(&b, "  z%d: {role: replica}\n", i)
	}
	_, err = Read("p.yaml", []byte(b.String()))
	require.ErrorContains(t, err, "65 entries; at most 64")
}

func TestWithRoles(t *testing.T) {
	p, err := Read("p", []byte("name: a\nsurvive: zone\nzones: {b: {role: primary}}\n"))
	require.NoError(t, err)
	q, err := p.WithRoles(ZoneRole{Zone: "a", Role: Witness}, ZoneRole{Zone: "b", Role: Primary})
	require.NoError(t, err)
	require.Equal(t, []ZoneRole{{Zone: "a", Role: Witness}, {Zone: "b", Role: Primary}}, q.Zones)
	require.Len(t, p.Zones, 1, "the first is left as it was")
	require.Equal(t, Replica, q.RoleOf(topology.Locality{Region: "r", Zone: "c"}))
	_, err = p.WithRoles(ZoneRole{Zone: "b", Role: Witness})
	require.ErrorContains(t, err, "name its role in one place")
	_, err = p.WithRoles(ZoneRole{Zone: "c", Role: "leader"})
	require.ErrorContains(t, err, `role "leader" is unknown`)
}

// TestGoalAgainstBruteForce compares Check with trying every placement and every failure.
func TestGoalAgainstBruteForce(t *testing.T) {
	roles := []Role{Replica, Witness, ReadOnly}
	for _, voters := range []int{3, 5} {
		for _, goal := range Goals() {
			for code := range 3 * 3 * 3 * 3 * 3 * 3 { // role and 1..3 nodes of three zones
				var zones []topology.Zone
				p := &Policy{Name: "p", Survive: goal, Voters: voters}
				for i, c := 0, code; i < 3; i, c = i+1, c/9 {
					z := topology.Zone{Name: string(rune('a' + i)), Region: []string{"r1", "r1", "r2"}[i]}
					for n := range c%3 + 1 {
						z.Nodes = append(z.Nodes, topology.Node{Name: fmt.Sprint(z.Name, n), Locality: z.Locality()})
					}
					p.Zones = append(p.Zones, ZoneRole{Zone: z.Name, Role: roles[c/3%3]})
					zones = append(zones, z)
				}
				top, err := topology.New(zones...)
				require.NoError(t, err)
				got, want := p.Check(top) == nil, bruteForce(p, top)
				if got {
					out, err := p.Foresee(top)
					require.NoError(t, err, "what Check accepts can be seated")
					kept := []int{out.Survives.Nodes, out.Survives.Zones, out.Survives.Regions}
					require.Positive(t, kept[p.Survive.Tier()], "%s over %+v: %+v", p.Format(), zones, out)
				}
				if got != want {
					t.Fatalf("%s over %+v: Check says %v, trying all says %v", p.Format(), zones, got, want)
				}
			}
		}
	}
}

// bruteForce tries every set of nodes as voters.
func bruteForce(p *Policy, t topology.Topology) bool {
	type voter struct {
		place topology.Locality
		data  bool
		name  string
	}
	var all []voter
	for _, z := range t.Zones() {
		if r := p.RoleOf(z.Locality()); r.Votes() {
			for _, n := range z.Nodes {
				all = append(all, voter{z.Locality(), r != Witness, n.Name})
			}
		}
	}
	domainOf := func(v voter) string {
		switch p.Survive {
		case SurviveNode:
			return v.name
		case SurviveZone:
			return v.place.Zone
		default:
			return v.place.Region
		}
	}
	quorum := p.Voters/2 + 1
	for set := range 1 << len(all) {
		var chosen []voter
		witnesses := 0
		for i, v := range all {
			if set>>i&1 == 1 {
				chosen = append(chosen, v)
				if !v.data {
					witnesses++
				}
			}
		}
		if len(chosen) != p.Voters || witnesses >= quorum { // a quorum without data could commit
			continue
		}
		safe := true
		for _, lost := range chosen {
			left := 0
			for _, v := range chosen {
				if domainOf(v) != domainOf(lost) {
					left++
				}
			}
			safe = safe && left >= quorum
		}
		if safe {
			return true
		}
	}
	return false
}

// FuzzRead: whatever is accepted is valid, and comes back from its own text.
func FuzzRead(f *testing.F) {
	f.Add("name: survive-zone\nsurvive: zone\nvoters: 3\nzones:\n  us-a: {role: primary}\nfollower_reads: true\nreturn_probation: 30s\n")
	f.Add("name: a\nsurvive: region\nregions: {eu: {role: replica}}\ndefault_role: excluded\nattributes: [ssd, big]\nlease_preferences: [a, region=eu]\nneeds: [primary]\nnon_voters: every-zone\none_region: true\n")
	f.Add("name: &a x\nsurvive: *a\n<<: *a\n---\nb")
	f.Add("? {a: b}\n: [1, 2]\nname: !!binary aGk=\nvoters: 0x3\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Read("p.yaml", []byte(text))
		if err != nil {
			var se *SyntaxError
			if !errors.As(err, &se) || len(se.Faults) == 0 {
				t.Fatalf("%T: %v", err, err)
			}
			for _, f := range se.Faults {
				if f.Line < 1 {
					t.Fatalf("a fault without a line: %+v", f)
				}
			}
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("accepted, but %v", err)
		}
		again, err := Read("p.yaml", []byte(p.Format()))
		if err != nil || again.Format() != p.Format() {
			t.Fatalf("%s\ndoes not come back: %v", p.Format(), err)
		}
	})
}
