package topology

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func nodes(region, zone string, names ...string) Zone {
	z := Zone{Name: zone, Region: region}
	for _, n := range names {
		z.Nodes = append(z.Nodes, Node{Name: n, Locality: z.Locality()})
	}
	return z
}

func TestLocalityRoundTrip(t *testing.T) {
	l, err := ParseLocality("zone=eu-a,region=eu")
	require.NoError(t, err)
	require.Equal(t, Locality{Region: "eu", Zone: "eu-a"}, l)
	again, err := ParseLocality(l.String())
	require.NoError(t, err)
	require.Equal(t, l, again)
}

func TestLocalityFaults(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "is not tier=name",
		"region=eu":              "lacks a tier",
		"zone=a":                 "lacks a tier",
		"region=eu,zone=a,b":     "is not tier=name",
		"region=eu,zone=a,x=b":   "unknown tier",
		"region=eu,region=us":    "given twice",
		"region=,zone=a":         "has no name",
		"region=eu,zone=-a":      "letter or digit at both ends",
		"region=eu,zone=a/b":     "use letters",
		"region=eu,zone=a=b":     "use letters",
		"region=eu,zone=" + long: "at most 63",
	} {
		_, err := ParseLocality(in)
		require.ErrorContains(t, err, want, in)
	}
}

var long = strings.Repeat("x", 64)

func TestShared(t *testing.T) {
	a := Locality{"eu", "a"}
	require.Equal(t, 2, a.Shared(a))
	require.Equal(t, 1, a.Shared(Locality{"eu", "b"}))
	require.Equal(t, 0, a.Shared(Locality{"us", "a"}))
}

func TestOrderAndGroups(t *testing.T) {
	top, err := New(nodes("us", "us-b", "n3"), nodes("eu", "eu-a", "n1", "n2"), nodes("us", "us-a"))
	require.NoError(t, err)
	require.Equal(t, []string{"eu-a", "us-a", "us-b"}, top.ZoneNames())
	regions := top.Regions()
	require.Len(t, regions, 2)
	require.Equal(t, "us", regions[1].Name)
	require.Len(t, regions[1].Zones, 2)
	require.Len(t, top.Nodes(), 3)

	again, err := FromNodes(top.Nodes()...)
	require.NoError(t, err)
	require.Equal(t, []string{"eu-a", "us-b"}, again.ZoneNames(), "a zone without nodes is not seen in the nodes")
}

func TestImmutable(t *testing.T) {
	z := nodes("eu", "eu-a", "n1")
	top, err := New(z)
	require.NoError(t, err)
	z.Nodes[0].Name = "changed"
	top.Zones()[0].Nodes[0].Name = "changed"
	got, ok := top.Zone("eu-a")
	require.True(t, ok)
	got.Nodes[0].Name = "changed"
	require.Equal(t, "n1", top.Nodes()[0].Name)
	_, ok = top.Zone("eu-z")
	require.False(t, ok)
}

func TestEveryFaultAtOnce(t *testing.T) {
	twice := nodes("us", "a", "n9")
	astray := nodes("eu", "c", "n2")
	astray.Nodes[0].Locality.Zone = "d"
	ids := nodes("eu", "e", "n4", "n5", "n6")
	ids.Nodes[0].ID, ids.Nodes[1].ID, ids.Nodes[2].ID = 7, 7, -1
	_, err := New(nodes("eu", "a", "n1", "n1"), twice, Zone{Name: "b b"}, astray, ids)
	for _, want := range []string{`region "eu" and in region "us"`, `zone "b b": use letters`, "a region has no name",
		`says region=eu,zone=d`, `node "n1" is in zone "a" and in zone "a"`, `"n4" and "n5" have the same ID 7`, "IDs are positive"} {
		require.ErrorContains(t, err, want)
	}
	_, err = New(make([]Zone, MaxZones+1)...)
	require.ErrorContains(t, err, "at most 64")
	_, err = New(Zone{Name: "a", Region: "r", Nodes: make([]Node, MaxNodesPerZone+1)})
	require.ErrorContains(t, err, "at most 256")
}

func FuzzParseLocality(f *testing.F) {
	f.Add("region=eu,zone=eu-a")
	f.Add("zone=,,=")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLocality(s)
		if err != nil {
			return
		}
		again, err := ParseLocality(l.String())
		if err != nil || again != l {
			t.Fatalf("%q: %v, then %v (%v)", s, l, again, err)
		}
	})
}
