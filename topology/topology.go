// Package topology says where nodes are: regions hold zones, zones hold nodes. It is pure and
// uses the standard library only. It is the hinge between provisioning and placement: infra
// creates the very zones that policies are checked against.
//
// A region is an area whose zones are a few milliseconds apart; a zone is what fails as a whole
// (power, network, a rack); a node is one process with a disk.
package topology

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits. A topology beyond them is refused, not trimmed.
const (
	MaxNameLength   = 63 // of a region, zone or node: what a Kubernetes label value holds
	MaxZones        = 64
	MaxNodesPerZone = 256
)

// DefaultRegion is the region of zones for which none is named.
const DefaultRegion = "default"

// Locality is where a node is, from the widest tier to the narrowest.
type Locality struct {
	Region, Zone string
}

// ParseLocality reads "region=R,zone=Z", in any order; both tiers are needed.
func ParseLocality(s string) (Locality, error) {
	var l Locality
	for _, part := range strings.Split(s, ",") {
		tier, name, ok := strings.Cut(part, "=")
		if !ok {
			return Locality{}, fmt.Errorf("locality %q: %q is not tier=name; write region=R,zone=Z", s, part)
		}
		var at *string
		switch tier {
		case "region":
			at = &l.Region
		case "zone":
			at = &l.Zone
		default:
			return Locality{}, fmt.Errorf("locality %q: unknown tier %q; the tiers are region and zone", s, tier)
		}
		if *at != "" {
			return Locality{}, fmt.Errorf("locality %q: the %s is given twice", s, tier)
		}
		if err := CheckName(tier, name); err != nil {
			return Locality{}, fmt.Errorf("locality %q: %w", s, err)
		}
		*at = name
	}
	if l.Region == "" || l.Zone == "" {
		return Locality{}, fmt.Errorf("locality %q lacks a tier; write region=R,zone=Z", s)
	}
	return l, nil
}

// String returns what ParseLocality reads.
func (l Locality) String() string { return "region=" + l.Region + ",zone=" + l.Zone }

// Shared returns how many tiers two localities have in common: 0 in different regions, 1 in the
// same region, 2 in the same zone. Replicas are the safer, the fewer they share.
func (l Locality) Shared(o Locality) int {
	switch {
	case l.Region != o.Region:
		return 0
	case l.Zone != o.Zone:
		return 1
	default:
		return 2
	}
}

// Node is one database node. ID is 0 until it has joined a cluster.
type Node struct {
	ID       int32
	Name     string
	Locality Locality
	// Attributes say what the node is made of, for instance "ssd"; policies may ask for them.
	Attributes []string
}

// Zone is what fails as a whole. Its name is unique in a topology, across regions.
type Zone struct {
	Name, Region string
	Nodes        []Node
}

// Locality returns where the zone's nodes are.
func (z Zone) Locality() Locality { return Locality{Region: z.Region, Zone: z.Name} }

// Region is a group of near zones.
type Region struct {
	Name  string
	Zones []Zone
}

// Topology is a checked set of zones in a fixed order: by region, then by name. The zero value
// has none. It is immutable.
type Topology struct {
	zones []Zone
}

// New checks zones and puts them in order. It reports every fault at once.
func New(zones ...Zone) (Topology, error) {
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf("topology: "+format, args...)) }
	if len(zones) > MaxZones {
		return Topology{}, fmt.Errorf("topology: %d zones; at most %d are possible", len(zones), MaxZones)
	}
	seen, names, ids := map[string]string{}, map[string]string{}, map[int32]string{}
	var out []Zone
	for _, z := range zones {
		for _, err := range []error{CheckName("zone", z.Name), CheckName("region", z.Region)} {
			if err != nil {
				add("%w", err)
			}
		}
		if other, twice := seen[z.Name]; twice {
			if other == z.Region {
				add("zone %q is given twice", z.Name)
			} else {
				add("zone %q is in region %q and in region %q; zone names are unique across regions", z.Name, other, z.Region)
			}
			continue
		}
		seen[z.Name] = z.Region
		if len(z.Nodes) > MaxNodesPerZone {
			add("zone %q has %d nodes; at most %d are possible", z.Name, len(z.Nodes), MaxNodesPerZone)
			continue
		}
		for _, n := range z.Nodes {
			if n.Locality != z.Locality() {
				add("node %q is listed in zone %q but says %s", n.Name, z.Name, n.Locality)
			}
			if err := CheckName("node", n.Name); err != nil {
				add("%w", err)
			} else if other, twice := names[n.Name]; twice {
				add("node %q is in zone %q and in zone %q", n.Name, other, z.Name)
			}
			for _, a := range n.Attributes {
				if err := CheckName("attribute", a); err != nil {
					add("node %q: %w", n.Name, err)
				}
			}
			names[n.Name] = z.Name
			if n.ID < 0 {
				add("node %q has the ID %d; IDs are positive", n.Name, n.ID)
			} else if other, twice := ids[n.ID]; twice && n.ID != 0 {
				add("nodes %q and %q have the same ID %d", other, n.Name, n.ID)
			}
			ids[n.ID] = n.Name
		}
		z.Nodes = slices.Clone(z.Nodes)
		out = append(out, z)
	}
	if err := errors.Join(faults...); err != nil {
		return Topology{}, err
	}
	slices.SortFunc(out, func(a, b Zone) int {
		if c := strings.Compare(a.Region, b.Region); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return Topology{zones: out}, nil
}

// FromNodes groups nodes by their localities.
func FromNodes(nodes ...Node) (Topology, error) {
	var zones []Zone
	at := map[Locality]int{}
	for _, n := range nodes {
		i, ok := at[n.Locality]
		if !ok {
			i = len(zones)
			at[n.Locality] = i
			zones = append(zones, Zone{Name: n.Locality.Zone, Region: n.Locality.Region})
		}
		zones[i].Nodes = append(zones[i].Nodes, n)
	}
	return New(zones...)
}

// Zones returns a copy of all zones, in order.
func (t Topology) Zones() []Zone {
	out := slices.Clone(t.zones)
	for i := range out {
		out[i].Nodes = slices.Clone(out[i].Nodes)
	}
	return out
}

// Zone returns the zone of that name.
func (t Topology) Zone(name string) (Zone, bool) {
	for _, z := range t.zones {
		if z.Name == name {
			z.Nodes = slices.Clone(z.Nodes)
			return z, true
		}
	}
	return Zone{}, false
}

// Regions returns the zones by region, in order.
func (t Topology) Regions() []Region {
	var out []Region
	for _, z := range t.Zones() {
		if len(out) == 0 || out[len(out)-1].Name != z.Region {
			out = append(out, Region{Name: z.Region})
		}
		out[len(out)-1].Zones = append(out[len(out)-1].Zones, z)
	}
	return out
}

// Nodes returns all nodes, in the order of their zones.
func (t Topology) Nodes() []Node {
	var out []Node
	for _, z := range t.zones {
		out = append(out, z.Nodes...)
	}
	return out
}

// ZoneNames returns the zones' names, in order.
func (t Topology) ZoneNames() []string {
	out := make([]string, len(t.zones))
	for i, z := range t.zones {
		out[i] = z.Name
	}
	return out
}

func article(what string) string {
	if what == "attribute" {
		return "an"
	}
	return "a"
}

// CheckName refuses what can't be the name of a region, zone or node. Names appear in label
// values, flags and file names: letters, digits, '-', '_' and '.', beginning and ending with a
// letter or digit. What is for the message: "region", "zone", "node", "attribute".
func CheckName(what, name string) error {
	if name == "" {
		return fmt.Errorf("%s %s has no name", article(what), what)
	}
	if len(name) > MaxNameLength {
		return fmt.Errorf("%s %q has %d characters; at most %d are possible", what, name[:20]+"…", len(name), MaxNameLength)
	}
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		edge := i == 0 || i == len(name)-1
		if !alnum && (edge || c != '-' && c != '_' && c != '.') {
			return fmt.Errorf("%s %q: use letters, digits, '-', '_' and '.', with a letter or digit at both ends", what, name)
		}
	}
	return nil
}
