package policies

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

//go:embed *.yaml
var files embed.FS

// Names returns the names of the ready policies, in order.
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // embedded at build time
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	slices.Sort(out)
	return out
}

// Ready returns the ready policy of that name.
func Ready(name string) (*Policy, error) {
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("there is no ready policy %q; the ready ones are %s", name, strings.Join(Names(), ", "))
	}
	text, err := files.ReadFile(name + ".yaml")
	if err != nil {
		return nil, err
	}
	return Read(name+".yaml", text)
}

// IsReady reports whether the policy is a ready one, unchanged: every cluster knows it by its name.
func (p *Policy) IsReady() bool {
	ready, err := Ready(p.Name)
	return err == nil && ready.Format() == p.Format()
}

// CreateSQL returns the statement that gives a cluster the policy; empty for a ready one.
func (p *Policy) CreateSQL() string {
	if p.IsReady() {
		return ""
	}
	return "CREATE OR REPLACE PLACEMENT POLICY " + Literal(p.Name) + " AS " + Literal(p.Format()) + ";"
}

// PreviewSQL returns what shows a policy's consequences for an object (CLUSTER, TABLE t, ...): the
// policy exists inside the transaction only.
func (p *Policy) PreviewSQL(object string) string {
	return "BEGIN;" + p.CreateSQL() + "EXPLAIN PLACEMENT FOR " + object + " WITH POLICY " + Literal(p.Name) + ";ROLLBACK"
}

// Literal quotes a text for SQL.
func Literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
