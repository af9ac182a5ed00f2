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
)

// TestScenarios runs testdata: `zones` sets the topology (region/zone:nodes …), `read` reads a
// policy and prints it or its faults, `check` checks the last one against the topology, `built`
// against what the node carries out.
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
				got, err := Ready(strings.TrimSpace(d.Input))
				if err != nil {
					return err.Error() + "\n"
				}
				p = got
				return p.Format()
			case "check":
				return verdict(p.Check(top))
			case "built":
				return verdict(p.CheckBuilt(top))
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
		region, zone, _ := strings.Cut(place, "/")
		n, err := strconv.Atoi(count)
		require.NoError(t, err)
		z := topology.Zone{Name: zone, Region: region}
		for i := range n {
			z.Nodes = append(z.Nodes, topology.Node{Name: fmt.Sprintf("%s-%d", zone, i), Locality: z.Locality()})
		}
		zones = append(zones, z)
	}
	top, err := topology.New(zones...)
	require.NoError(t, err)
	return top
}

func TestReadyPoliciesAreSound(t *testing.T) {
	require.Equal(t, []string{"survive-node", "survive-region", "survive-two-zones", "survive-zone"}, Names())
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
	q, err := p.WithRoles(ZoneRole{"a", Witness}, ZoneRole{"b", Primary})
	require.NoError(t, err)
	require.Equal(t, []ZoneRole{{"a", Witness}, {"b", Primary}}, q.Zones)
	require.Len(t, p.Zones, 1, "the first is left as it was")
	require.Equal(t, Replica, q.RoleOf("c"))
	_, err = p.WithRoles(ZoneRole{"b", Witness})
	require.ErrorContains(t, err, "name its role in one place")
	_, err = p.WithRoles(ZoneRole{"c", "leader"})
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
					p.Zones = append(p.Zones, ZoneRole{z.Name, roles[c/3%3]})
					zones = append(zones, z)
				}
				top, err := topology.New(zones...)
				require.NoError(t, err)
				got, want := p.Check(top) == nil, bruteForce(p, top)
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
		if r := p.RoleOf(z.Name); r.Votes() {
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
