package policies

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Option is one field of a policy as SQL gives it. Keys are those of a policy file. Values are a
// file's too, and lists and roles may be written plainly: lease_preferences is 'us-a, region=us',
// zones is 'us-a=primary, us-b=replica'.
type Option struct{ Key, Value string }

// With returns the policy with some fields replaced, checked as Read checks a file. The faults name
// no lines: there is no file.
func (p *Policy) With(options ...Option) (*Policy, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(p.Format()), &doc); err != nil {
		return nil, fmt.Errorf("policy %q can't be written down: %w", p.Name, err)
	}
	root := doc.Content[0]
	var faults []error
	for _, o := range options {
		if !slices.Contains(fieldNames[1:], o.Key) { // all but the name
			faults = append(faults, fmt.Errorf("unknown option %.80q; the options are %s", o.Key, strings.Join(fieldNames[1:], ", ")))
			continue
		}
		value, err := o.node()
		if err != nil {
			faults = append(faults, err)
			continue
		}
		setField(root, o.Key, value)
	}
	if err := join(faults); err != nil {
		return nil, err
	}
	text, err := yaml.Marshal(&doc)
	if err != nil {
		return nil, fmt.Errorf("policy %q can't be written down: %w", p.Name, err)
	}
	out, err := Read(p.Name, text)
	var syntax *SyntaxError
	if errors.As(err, &syntax) {
		for _, f := range syntax.Faults {
			faults = append(faults, errors.New(f.Text))
		}
		return nil, join(faults)
	}
	return out, err
}

// setField replaces or adds a field of a mapping.
func setField(root *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == key {
			root.Content[i+1] = value
			return
		}
	}
	root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, value)
}

// node returns the value as a file would hold it.
func (o Option) node() (*yaml.Node, error) {
	value := strings.TrimSpace(o.Value)
	plain := !strings.HasPrefix(value, "[") && !strings.HasPrefix(value, "{")
	switch {
	case !plain:
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(value), &doc); err != nil {
			return nil, fmt.Errorf("option %s: %w", o.Key, err)
		}
		return doc.Content[0], nil
	case o.Key == "zones" || o.Key == "regions":
		return rolesNode(o.Key, value)
	case slices.Contains([]string{"attributes", "lease_preferences", "needs"}, o.Key):
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for _, v := range entries(value) {
			list.Content = append(list.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v})
		}
		return list, nil
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: value}, nil
	}
}

// rolesNode reads 'a=primary, b=replica'.
func rolesNode(key, value string) (*yaml.Node, error) {
	out := &yaml.Node{Kind: yaml.MappingNode}
	for _, e := range entries(value) {
		place, role, ok := strings.Cut(e, "=")
		if !ok {
			return nil, fmt.Errorf("option %s: %.80q has no role; write it as %s=replica", key, e, e)
		}
		out.Content = append(out.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: strings.TrimSpace(place)},
			&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{
				{Kind: yaml.ScalarNode, Value: "role"}, {Kind: yaml.ScalarNode, Tag: "!!str", Value: strings.TrimSpace(role)}}})
	}
	return out, nil
}

// entries returns what stands between commas.
func entries(s string) []string {
	var out []string
	for _, e := range strings.Split(s, ",") {
		if e = strings.TrimSpace(e); e != "" {
			out = append(out, e)
		}
	}
	return out
}
