// Package deps holds the import directions of ARCHITECTURE.md: what may know what.
package deps

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/atolldb/atoll/"

// rule says which imports a set of packages must not have, directly (or, if deep, at all).
type rule struct {
	pkgs   string   // a package or a folder, below the module
	forbid []string // prefixes
	allow  []string // prefixes that are not forbidden after all
	deep   bool
	why    string
}

var rules = []rule{
	{pkgs: "node/cmd/atoll", forbid: []string{"github.com/pulumi/", "k8s.io/"}, deep: true,
		why: "the node binary never links Pulumi or client-go"},
	{pkgs: "node/", forbid: []string{module + "infra"}, deep: true, why: "node never knows who provisions it"},
	{pkgs: "topology", forbid: []string{module + "node", module + "infra", module + "policies", "github.com/", "k8s.io/", "go.yaml.in/"}, allow: []string{module + "topology"}, deep: true,
		why: "topology is pure: the standard library only"},
	{pkgs: "infra", forbid: []string{module + "node"}, deep: true, why: "infra deploys the node's image; it never knows its code"},
	{pkgs: "policies", forbid: []string{module + "node", module + "infra", "github.com/pulumi/", "k8s.io/"}, deep: true, why: "policies know topology and nothing above it"},
	{pkgs: "node/sql", forbid: []string{module + "node/store", module + "node/replica", module + "node/mvcc", module + "node/storage",
		module + "node/raftnet", module + "node/liveness", module + "node/pgwire"}, why: "sql sees data only through txn"},
	{pkgs: "node/txn", forbid: []string{module + "node/store", module + "node/replica", module + "node/sql", module + "node/storage"},
		why: "a transaction speaks to ranges through kv.Sender"},
	{pkgs: "node/kv", forbid: []string{module + "node/store", module + "node/replica", module + "node/txn", module + "node/sql", module + "node/storage"},
		why: "imports point down"},
	{pkgs: "node/store", forbid: []string{module + "node/sql", module + "node/pgwire", module + "node/server", module + "node/txn"}, why: "imports point down"},
	{pkgs: "node/recovery", forbid: []string{module + "node"}, allow: []string{module + "node/recovery", module + "node/keys"}, deep: true,
		why: "what is recovered, and from where, is decided purely"},
	{pkgs: "node/replica", forbid: []string{module + "node/store", module + "node/sql", module + "node/txn", module + "node/pgwire"}, why: "imports point down"},
	{pkgs: "node/mvcc", forbid: []string{module + "node/replica", module + "node/store", module + "node/txn", module + "node/sql"}, why: "imports point down"},
	{pkgs: "node/storage", forbid: []string{module + "node/mvcc", module + "node/replica", module + "node/store", module + "node/kv"}, why: "imports point down"},
	{pkgs: "node/pgwire", forbid: []string{module + "node/store", module + "node/replica", module + "node/storage", module + "node/server"}, why: "imports point down"},
}

func TestImportDirections(t *testing.T) {
	direct, all := imports(t, "{{.ImportPath}} {{join .Imports \" \"}}"), imports(t, "{{.ImportPath}} {{join .Deps \" \"}}")
	for _, r := range rules {
		from, matched := direct, false
		if r.deep {
			from = all
		}
		for pkg, deps := range from {
			if !below(pkg, module+r.pkgs) {
				continue
			}
			matched = true
			for _, dep := range deps {
				allowed := slices.ContainsFunc(r.allow, func(a string) bool { return below(dep, a) })
				for _, f := range r.forbid {
					if below(dep, f) && !allowed {
						t.Errorf("%s imports %s: %s", pkg, dep, r.why)
					}
				}
			}
		}
		if !matched {
			t.Errorf("rule %q matches no package: it holds nothing", r.pkgs)
		}
	}
}

// TestOnlyStorageImportsPebble keeps the engine replaceable and its options in one place.
func TestOnlyStorageImportsPebble(t *testing.T) {
	for pkg, deps := range imports(t, "{{.ImportPath}} {{join .Imports \" \"}}") {
		for _, dep := range deps {
			if strings.HasPrefix(dep, "github.com/cockroachdb/pebble") && !below(pkg, module+"node/storage") {
				t.Errorf("%s imports %s: only node/storage may", pkg, dep)
			}
			if strings.HasPrefix(dep, "github.com/pganalyze/") && !below(pkg, module+"node/sql/parser") {
				t.Errorf("%s imports %s: only node/sql/parser may", pkg, dep)
			}
		}
	}
}

// TestNoCatchAllPackages keeps packages named by what they mean.
func TestNoCatchAllPackages(t *testing.T) {
	for pkg := range imports(t, "{{.ImportPath}} {{join .Imports \" \"}}") {
		switch last := pkg[strings.LastIndexByte(pkg, '/')+1:]; last {
		case "util", "utils", "common", "helpers", "misc":
			t.Errorf("package %s: name it by what it means", pkg)
		}
	}
}

func below(pkg, prefix string) bool {
	return pkg == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(pkg, strings.TrimSuffix(prefix, "/")+"/") ||
		(strings.HasSuffix(prefix, "/") && strings.HasPrefix(pkg, prefix))
}

func imports(t *testing.T, format string) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", format, module+"...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	m := map[string][]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		f := strings.Fields(line)
		m[f[0]] = f[1:]
	}
	return m
}
