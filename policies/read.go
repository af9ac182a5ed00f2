package policies

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/atolldb/atoll/topology"
)

// MaxFileBytes is the largest policy file that Read takes.
const MaxFileBytes = 64 << 10

// Fault is one thing that is wrong in a file. Column is 0 where only the line is known.
type Fault struct {
	Line, Column int
	Text         string
}

// SyntaxError is every fault of a file, in the order of their places.
type SyntaxError struct {
	File   string
	Faults []Fault
}

// Error has a line for each fault: file:line:column: text.
func (e *SyntaxError) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		if lines[i] = fmt.Sprintf("%s:%d:%d: %s", e.File, f.Line, f.Column, f.Text); f.Column == 0 {
			lines[i] = fmt.Sprintf("%s:%d: %s", e.File, f.Line, f.Text)
		}
	}
	return strings.Join(lines, "\n")
}

func join(faults []error) error { return errors.Join(faults...) }

// Read reads a policy file strictly: an unknown or repeated key, a value of another type and a
// field out of bounds are faults, and all of them are reported in a *SyntaxError. file is the
// name for the messages.
func Read(file string, text []byte) (*Policy, error) {
	r := &reader{p: &Policy{Voters: DefaultVoters}}
	r.read(text)
	if len(r.faults) > 0 {
		slices.SortStableFunc(r.faults, func(a, b Fault) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, &SyntaxError{File: file, Faults: r.faults}
	}
	sortZones(r.p.Zones)
	slices.SortFunc(r.p.Regions, func(a, b RegionRole) int { return strings.Compare(a.Region, b.Region) })
	return r.p, nil
}

type reader struct {
	p      *Policy
	faults []Fault
}

func (r *reader) fault(n *yaml.Node, format string, args ...any) {
	r.faults = append(r.faults, Fault{n.Line, n.Column, fmt.Sprintf(format, args...)})
}

func (r *reader) read(text []byte) {
	if len(text) > MaxFileBytes {
		r.fault(&yaml.Node{Line: 1}, "the file has %d bytes; a policy has at most %d", len(text), MaxFileBytes)
		return
	}
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		r.fault(&yaml.Node{Line: 1, Column: 1}, "the file is empty; a policy has at least name and survive")
		return
	case err != nil:
		r.notYAML(err)
		return
	}
	if err := dec.Decode(&more); err == nil {
		r.fault(&more, "a second document begins here; a file holds one policy")
	} else if !errors.Is(err, io.EOF) {
		r.notYAML(err)
	}
	root := doc.Content[0]
	fields := r.mapping(root, "a policy", fieldNames...)
	if root.Kind != yaml.MappingNode {
		return
	}
	for _, need := range []string{"name", "survive"} {
		if fields[need] == nil {
			r.fault(root, "%s is missing", need)
		}
	}
	if n := fields["name"]; r.scalar(n, "name", "!!str", "a text") {
		r.p.Name = n.Value
		r.check(n, checkName(n.Value))
	}
	if n := fields["survive"]; r.scalar(n, "survive", "!!str", "node, zone or region") {
		r.p.Survive = Goal(n.Value)
		r.check(n, checkGoal(r.p.Survive))
	}
	if n := fields["voters"]; r.scalar(n, "voters", "!!int", "a whole number") {
		v, err := strconv.ParseInt(n.Value, 10, 32)
		if err != nil {
			r.fault(n, "voters is %.40q, not a whole number", n.Value)
		} else {
			r.p.Voters = int(v)
			r.check(n, checkVoters(int(v)))
		}
	}
	for key, at := range map[string]*bool{"follower_reads": &r.p.FollowerReads, "follow_workload": &r.p.FollowWorkload, "one_region": &r.p.OneRegion} {
		if n := fields[key]; r.scalar(n, key, "!!bool", "true or false") {
			*at = strings.EqualFold(n.Value, "true")
		}
	}
	if n := fields["return_probation"]; r.scalar(n, "return_probation", "!!str", "a duration with a unit, like 30s") {
		d, err := time.ParseDuration(n.Value)
		if err != nil {
			r.fault(n, "return_probation is %.40q, not a duration with a unit, like 30s", n.Value)
		} else {
			r.p.ReturnProbation = d
			r.check(n, checkProbation(d))
		}
	}
	if n := fields["default_role"]; r.scalar(n, "default_role", "!!str", roleNames) {
		r.p.DefaultRole = Role(n.Value)
		r.check(n, checkRole(r.p.DefaultRole))
	}
	if n := fields["non_voters"]; r.scalar(n, "non_voters", "!!str", "read-only-zones or every-zone") {
		r.p.NonVoters = NonVoters(n.Value)
		r.check(n, checkNonVoters(r.p.NonVoters))
	}
	r.p.LeasePreferences = r.list(fields["lease_preferences"], "lease_preferences", checkPreference)
	for _, role := range r.list(fields["needs"], "needs", func(s string) error { return checkRole(Role(s)) }) {
		r.p.Needs = append(r.p.Needs, Role(role))
	}
	r.p.Attributes = r.attributes(fields["attributes"])
	r.regions(fields["regions"])
	r.zones(fields["zones"])
}

// fieldNames are the keys of a policy, in the order of Format.
var fieldNames = []string{"name", "survive", "voters", "default_role", "regions", "zones", "attributes", "lease_preferences",
	"follow_workload", "non_voters", "one_region", "needs", "follower_reads", "return_probation"}

const roleNames = "primary, replica, read-only, witness or excluded"

func (r *reader) notYAML(err error) {
	line := 1
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if num, msg, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(num); err == nil {
				line, text = n, msg
			}
		}
	}
	r.fault(&yaml.Node{Line: line}, "not YAML: %s", text)
}

func (r *reader) check(n *yaml.Node, err error) {
	if err != nil {
		r.fault(n, "%s", err)
	}
}

func (r *reader) zones(n *yaml.Node) {
	r.places(n, "zones", "zone", []string{"role", "attributes"}, func(zone string, role Role, fields map[string]*yaml.Node) {
		r.p.Zones = append(r.p.Zones, ZoneRole{zone, role, r.attributes(fields["attributes"])})
	})
}

func (r *reader) regions(n *yaml.Node) {
	r.places(n, "regions", "region", []string{"role"}, func(region string, role Role, _ map[string]*yaml.Node) {
		r.p.Regions = append(r.p.Regions, RegionRole{region, role})
	})
}

// places reads a mapping from names to a role and more.
func (r *reader) places(n *yaml.Node, key, what string, known []string, take func(name string, role Role, fields map[string]*yaml.Node)) {
	if n == nil {
		return
	}
	entries := r.mapping(n, key)
	if len(entries) > topology.MaxZones {
		r.fault(n, "%s has %d entries; at most %d are possible", key, len(entries), topology.MaxZones)
		return
	}
	for name, v := range entries {
		fields := r.mapping(v, what+" "+strconv.Quote(name), known...)
		if v.Kind != yaml.MappingNode {
			continue
		}
		role := fields["role"]
		if role == nil {
			r.fault(v, "%s %q has no role; use %s", what, name, roleNames)
			continue
		}
		if r.scalar(role, "role", "!!str", roleNames) {
			r.check(role, checkRole(Role(role.Value)))
			take(name, Role(role.Value), fields)
		}
	}
}

// list reads a list of texts, each checked and none twice.
func (r *reader) list(n *yaml.Node, key string, check func(string) error) []string {
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		r.fault(n, "%s must be a list, not %s", key, kind(n))
		return nil
	}
	if len(n.Content) > topology.MaxZones {
		r.fault(n, "%s has %d entries; at most %d are possible", key, len(n.Content), topology.MaxZones)
		return nil
	}
	var out []string
	for _, v := range n.Content {
		if !r.scalar(v, "an entry of "+key, "!!str", "a text") {
			continue
		}
		if slices.Contains(out, v.Value) {
			r.fault(v, "%.80q is given twice in %s", v.Value, key)
			continue
		}
		r.check(v, check(v.Value))
		out = append(out, v.Value)
	}
	return out
}

func (r *reader) attributes(n *yaml.Node) []string {
	out := r.list(n, "attributes", func(s string) error { return topology.CheckName("attribute", s) })
	if len(out) > MaxAttributes {
		r.fault(n, "attributes has %d entries; at most %d are possible", len(out), MaxAttributes)
	}
	slices.Sort(out)
	return out
}

// mapping returns the values of a mapping by key. With no known keys, the keys are names of
// zones or regions, and what is "zones" or "regions".
func (r *reader) mapping(n *yaml.Node, what string, known ...string) map[string]*yaml.Node {
	if n.Kind != yaml.MappingNode {
		r.fault(n, "%s must be a mapping (key: value), not %s", what, kind(n))
		return nil
	}
	out := map[string]*yaml.Node{}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode || k.Value == "<<":
			r.fault(k, "a key must be a plain word, not %s", kind(k))
			continue
		case k.Anchor != "" || v.Anchor != "":
			r.fault(k, "%.80q: anchors are not used in policies; write the value out", k.Value)
		}
		if line, twice := first[k.Value]; twice {
			r.fault(k, "%.80q is given twice; it is on line %d as well", k.Value, line)
			continue
		}
		first[k.Value] = k.Line
		if len(known) == 0 {
			if err := topology.CheckName(strings.TrimSuffix(what, "s"), k.Value); err != nil {
				r.fault(k, "%s", err)
				continue
			}
		} else if !slices.Contains(known, k.Value) {
			r.fault(k, "unknown key %.80q in %s; the keys are %s", k.Value, what, strings.Join(known, ", "))
			continue
		}
		out[k.Value] = v
	}
	return out
}

// scalar reports whether a field is there and has the type.
func (r *reader) scalar(n *yaml.Node, key, tag, want string) bool {
	if n == nil {
		return false
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != tag {
		r.fault(n, "%s must be %s, not %s", key, want, kind(n))
		return false
	}
	return true
}

// kind describes a value for a message.
func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool", "!!int", "!!float":
		return strings.TrimPrefix(n.ShortTag(), "!!") + " " + strconv.Quote(n.Value)
	default:
		return fmt.Sprintf("the text %.40q", n.Value)
	}
}
