package local

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Cut drops every frame that goes From one place To another. A place is a zone, ControlPlane or
// Host. Frames the other way still arrive.
type Cut struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// places lists everything that frames go from or to.
func (c Config) places() []string { return append(c.ZoneNames(), ControlPlane, Host) }

// CutZone cuts a zone, or the control plane, from everything else, both ways.
func (c Config) CutZone(place string) []Cut {
	var cs []Cut
	for _, o := range c.places() {
		if o != place {
			cs = append(cs, Cut{place, o}, Cut{o, place})
		}
	}
	return cs
}

// CutOneWay drops what goes from one place to another; with no second place, all that leaves the
// first.
func (c Config) CutOneWay(from, to string) []Cut {
	if to != "" {
		return []Cut{{from, to}}
	}
	var cs []Cut
	for _, o := range c.places() {
		if o != from {
			cs = append(cs, Cut{from, o})
		}
	}
	return cs
}

// CutPair cuts two places from each other; every third place goes on seeing both.
func (c Config) CutPair(a, b string) []Cut { return []Cut{{a, b}, {b, a}} }

// checkPlaces refuses names that are no place of this cluster, and two that are the same.
func (c Config) checkPlaces(names ...string) error {
	var errs []error
	for i, n := range names {
		if !slices.Contains(c.places(), n) {
			errs = append(errs, fmt.Errorf("%q is no zone of cluster %q; it has %s", n, c.Name, strings.Join(c.places(), ", ")))
		}
		if slices.Contains(names[:i], n) {
			errs = append(errs, fmt.Errorf("%q is given twice; a cut needs two different places", n))
		}
	}
	return errors.Join(errs...)
}

// addCuts joins two sets of cuts, in a stable order.
func addCuts(have, more []Cut) []Cut {
	out := slices.Clone(have)
	for _, m := range more {
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	sortCuts(out)
	return out
}

// healCuts removes every cut that touches place; an empty place removes all.
func healCuts(have []Cut, place string) []Cut {
	var out []Cut
	for _, c := range have {
		if place != "" && c.From != place && c.To != place {
			out = append(out, c)
		}
	}
	return out
}

func sortCuts(cs []Cut) {
	slices.SortFunc(cs, func(a, b Cut) int {
		return strings.Compare(a.From+"\x00"+a.To, b.From+"\x00"+b.To)
	})
}

// cutTable is the name of our table of bridge rules.
const cutTable = "atoll_cuts"

// cutRules renders the cuts as one nftables transaction that replaces all earlier ones. Frames
// between two ports pass the bridge's forward hook; the host's road is the bridge device itself, so
// frames to it pass input and frames from it pass output.
func (c Config) cutRules(cuts []Cut) string {
	ports := func(place string) []string {
		if place == ControlPlane {
			return []string{controlPort}
		}
		var ps []string
		for _, n := range c.ZoneNodes(place) {
			ps = append(ps, n.Port())
		}
		return ps
	}
	set := func(place string) string { return "{ " + strings.Join(ports(place), ", ") + " }" }
	var forward, input, output []string
	for _, k := range cuts {
		switch {
		case k.To == Host:
			input = append(input, fmt.Sprintf("iifname %s counter drop", set(k.From)))
		case k.From == Host:
			output = append(output, fmt.Sprintf("oifname %s counter drop", set(k.To)))
		default:
			forward = append(forward, fmt.Sprintf("iifname %s oifname %s counter drop", set(k.From), set(k.To)))
		}
	}
	var b strings.Builder
	// Adding the table first makes the deletion that follows valid the first time too.
	fmt.Fprintf(&b, "add table bridge %s\ndelete table bridge %s\ntable bridge %s {\n", cutTable, cutTable, cutTable)
	chain := func(hook string, rules []string) {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype filter hook %s priority 0; policy accept;\n", hook, hook)
		for _, r := range rules {
			fmt.Fprintf(&b, "\t\t%s\n", r)
		}
		b.WriteString("\t}\n")
	}
	chain("forward", forward)
	chain("input", input)
	chain("output", output)
	b.WriteString("}\n")
	return b.String()
}
