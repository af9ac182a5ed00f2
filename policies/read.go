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
	fields := r.mapping(root, "a policy", "name", "survive", "voters", "zones", "follower_reads", "return_probation")
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
	if n := fields["follower_reads"]; r.scalar(n, "follower_reads", "!!bool", "true or false") {
		r.p.FollowerReads = strings.EqualFold(n.Value, "true")
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
	r.zones(fields["zones"])
}

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
	if n == nil {
		return
	}
	entries := r.mapping(n, "zones")
	if len(entries) > topology.MaxZones {
		r.fault(n, "zones has %d entries; at most %d are possible", len(entries), topology.MaxZones)
		return
	}
	for zone, v := range entries {
		fields := r.mapping(v, "zone "+strconv.Quote(zone), "role")
		if v.Kind != yaml.MappingNode {
			continue
		}
		role := fields["role"]
		if role == nil {
			r.fault(v, "zone %q has no role; use primary, replica, read-only, witness or excluded", zone)
			continue
		}
		if r.scalar(role, "role", "!!str", "primary, replica, read-only, witness or excluded") {
			r.check(role, checkRole(Role(role.Value)))
			r.p.Zones = append(r.p.Zones, ZoneRole{zone, Role(role.Value)})
		}
	}
}

// mapping returns the values of a mapping by key. With no known keys, the keys are names of
// zones.
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
			if err := topology.CheckName("zone", k.Value); err != nil {
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
