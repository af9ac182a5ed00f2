package local

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
)

// TestScenarios runs testdata/*: what a configuration becomes.
//
//	config [zones=a,b] [nodes=n]     choose the zones
//	network                          the commands that make its network
//	cut PLACE | one-way A [B] | pair A B | heal [PLACE]
//	                                 change the cuts; prints the rules that differ from none
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		c := Default()
		var cuts []Cut
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			arg := func(i int) string {
				if i < len(d.CmdArgs) {
					return d.CmdArgs[i].Key
				}
				return ""
			}
			show := func() string {
				sortCuts(cuts)
				var b strings.Builder
				chain := ""
				for _, l := range strings.Split(c.cutRules(cuts), "\n") {
					if name, ok := strings.CutPrefix(strings.TrimSpace(l), "chain "); ok {
						chain = strings.TrimSuffix(name, " {")
					}
					if strings.HasSuffix(l, " drop") {
						fmt.Fprintf(&b, "%s: %s\n", chain, strings.TrimSpace(l))
					}
				}
				return b.String()
			}
			switch d.Cmd {
			case "config":
				zones, nodes := "us-a,us-b,us-c", 1
				d.MaybeScanArgs(t, "zones", &zones)
				d.MaybeScanArgs(t, "nodes", &nodes)
				var err error
				if c.Zones, err = ParseZones(strings.ReplaceAll(zones, "+", ","), nodes); err != nil {
					return err.Error() + "\n"
				}
				c.Forwards = DefaultForwards(c.Zones, 26257, 8080)
				if err := c.Validate(); err != nil {
					return err.Error() + "\n"
				}
				var b strings.Builder
				for _, n := range c.Nodes() {
					fmt.Fprintf(&b, "%s zone=%s region=%s %s pods=%s port=%s\n", n.Name, n.Zone, n.Region, n.IP(), n.PodCIDR(), n.Port())
				}
				return b.String()
			case "network":
				var b strings.Builder
				for _, p := range c.networkPlan() {
					fmt.Fprintf(&b, "%s:\n  %s\n", p.name, strings.Join(p.commands, "\n  "))
				}
				return b.String()
			case "cut":
				if err := c.checkPlaces(arg(0)); err != nil {
					return err.Error() + "\n"
				}
				cuts = addCuts(cuts, c.CutZone(arg(0)))
				return show()
			case "one-way":
				cuts = addCuts(cuts, c.CutOneWay(arg(0), arg(1)))
				return show()
			case "pair":
				if err := c.checkPlaces(arg(0), arg(1)); err != nil {
					return err.Error() + "\n"
				}
				cuts = addCuts(cuts, c.CutPair(arg(0), arg(1)))
				return show()
			case "heal":
				cuts = healCuts(cuts, arg(0))
				return show()
			case "relay":
				var b strings.Builder
				for _, r := range c.relayRoutes() {
					fmt.Fprintf(&b, "%s: %s\n", r.name, strings.Join(r.targets, " "))
				}
				return b.String()
			default:
				t.Fatalf("unknown command %q", d.Cmd)
				return ""
			}
		})
	})
}

func TestEveryFaultOfAConfigurationIsListed(t *testing.T) {
	c := Default()
	require.NoError(t, c.Validate())
	c.Name = "Atoll!"
	c.Zones = append(c.Zones, Zone{Name: "us-a", Region: "us", Nodes: 1}, Zone{Name: "host", Region: "us", Nodes: 9})
	c.APIPort = 70000
	c.DiskMiB = 1
	c.NodeGrace = 0
	c.Forwards = append(c.Forwards, Forward{Name: "x", Listen: "0.0.0.0:1", NodePort: 80}, Forward{Name: "y", Listen: "127.0.0.1:26257", NodePort: 30000})
	err := c.Validate()
	for _, want := range []string{
		`name "Atoll!"`, `zone "us-a": the name is taken`, `zone "host": the name is taken`, `zone "host": 9 nodes, want 1 to 5`,
		"API port 70000", "disk 1 MiB: want 256", "node grace 0s", `listen "0.0.0.0:1": want a loopback`, "node port 80: want 30000",
		`forward "y": 127.0.0.1:26257 is taken by forward sql`,
	} {
		require.ErrorContains(t, err, want)
	}
}

// A second node of zone "a" is called a-2, which a zone may be called too.
func TestNodeNamesThatCollide(t *testing.T) {
	c := Default()
	c.Zones = []Zone{{"a", "r", 2}, {"a-2", "r", 1}}
	c.Forwards = nil
	require.ErrorContains(t, c.Validate(), `its node "a-2" has the name of another zone's node`)
}

func TestParseForward(t *testing.T) {
	f, err := ParseForward("metrics=127.0.0.1:9090:30090")
	require.NoError(t, err)
	require.Equal(t, Forward{Name: "metrics", Listen: "127.0.0.1:9090", NodePort: 30090}, f)
	for _, bad := range []string{"", "x", "x=127.0.0.1", "x=127.0.0.1:1:y"} {
		_, err := ParseForward(bad)
		require.Error(t, err, bad)
	}
}

func TestParseQuantity(t *testing.T) {
	for s, want := range map[string]int64{
		"10Gi": 10 << 30, "1500M": 1500e6, "1e9": 1e9, "1024": 1024, "0": 0, "1.5Ki": 1536, "1m": 1, "2Ti": 2 << 40,
	} {
		got, err := parseQuantity(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
	for _, bad := range []string{"", "-1", "NaN", "Inf", "10Xi", "9999Pi", "1 Gi"} {
		_, err := parseQuantity(bad)
		require.Error(t, err, bad)
	}
}
