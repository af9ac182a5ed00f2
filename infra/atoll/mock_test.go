package atoll

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/infra/config"
)

// made is a resource that a program registered.
type made struct {
	typ, name   string
	inputs      map[string]any
	protect     bool
	retain      bool
	deleteFirst bool
	ignore      []string
	after       []string // names of what it depends on
}

// engine stands in for Pulumi's: it records the resources, and gives a resource whose changes are
// ignored the inputs that an earlier run gave it.
type engine struct {
	mu    sync.Mutex
	prior map[string]resource.PropertyMap // name -> inputs, of the run before
	state map[string]resource.PropertyMap
	all   map[string]*made
}

func newEngine(prior *engine) *engine {
	e := &engine{state: map[string]resource.PropertyMap{}, all: map[string]*made{}}
	if prior != nil {
		e.prior = prior.state
	}
	return e
}

func (e *engine) Call(pulumi.MockCallArgs) (resource.PropertyMap, error) { return nil, nil }

func (e *engine) NewResource(a pulumi.MockResourceArgs) (string, resource.PropertyMap, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	in := a.Inputs.Copy()
	m := &made{typ: a.TypeToken, name: a.Name}
	if r := a.RegisterRPC; r != nil {
		m.protect, m.retain, m.ignore = r.GetProtect(), r.GetRetainOnDelete(), r.GetIgnoreChanges()
		m.deleteFirst = r.GetDeleteBeforeReplace()
		for _, d := range r.GetDependencies() {
			m.after = append(m.after, d[strings.LastIndex(d, "::")+2:])
		}
		if old, ok := e.prior[a.Name]; ok {
			for _, path := range m.ignore {
				if v, ok := old[resource.PropertyKey(path)]; ok {
					in[resource.PropertyKey(path)] = v
				}
			}
		}
	}
	m.inputs, _ = plain(resource.NewObjectProperty(in)).(map[string]any)
	e.state[a.Name], e.all[a.Name] = in, m
	return a.Name + "-id", in, nil
}

// plain unwraps secrets and outputs.
func plain(v resource.PropertyValue) any {
	switch {
	case v.IsSecret():
		return plain(v.SecretValue().Element)
	case v.IsOutput():
		return plain(v.OutputValue().Element)
	case v.IsObject():
		out := map[string]any{}
		for k, x := range v.ObjectValue() {
			out[string(k)] = plain(x)
		}
		return out
	case v.IsArray():
		out := []any{}
		for _, x := range v.ArrayValue() {
			out = append(out, plain(x))
		}
		return out
	default:
		return v.V
	}
}

// at follows a path of keys and indexes, separated by dots.
func at(t *testing.T, v any, path string) any {
	t.Helper()
	for _, k := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[k]
		case []any:
			var i int
			_, err := fmt.Sscan(k, &i)
			require.NoError(t, err, path)
			require.Less(t, i, len(x), path)
			v = x[i]
		default:
			require.Failf(t, "no such path", "%s: at %q there is %T", path, k, v)
		}
	}
	return v
}

func (e *engine) get(t *testing.T, name string) *made {
	t.Helper()
	m := e.all[name]
	require.NotNil(t, m, "no resource %q; there are %v", name, slices.Sorted(maps.Keys(e.all)))
	return m
}

func (e *engine) ofType(suffix string) []*made {
	var out []*made
	for _, name := range slices.Sorted(maps.Keys(e.all)) {
		if strings.HasSuffix(e.all[name].typ, suffix) {
			out = append(out, e.all[name])
		}
	}
	return out
}

// runsAfter reports whether a depends on b, directly or through others.
func (e *engine) runsAfter(a, b string) bool {
	seen := map[string]bool{}
	var walk func(string) bool
	walk = func(n string) bool {
		if n == b {
			return true
		}
		m := e.all[n]
		if seen[n] || m == nil {
			return false
		}
		seen[n] = true
		return slices.ContainsFunc(m.after, walk)
	}
	return a != b && walk(a)
}

const base = `{"image": "atoll:1", "storage": {"provisioner": "disk.example", "size": "10Gi"},
"zones": [{"name": "us-a", "region": "us", "nodes": 2}, {"name": "us-b", "region": "us"}, {"name": "us-c", "region": "us"}]}`

// deploy runs the program for a configuration; change alters it first.
func deploy(t *testing.T, prior *engine, change map[string]any) (*engine, *Cluster, error) {
	t.Helper()
	e := newEngine(prior)
	spec, err := config.Read(stack(t, change), nil)
	require.NoError(t, err)
	var c *Cluster
	err = pulumi.RunErr(func(ctx *pulumi.Context) error {
		var err error
		c, err = NewCluster(ctx, "atoll", &ClusterArgs{Spec: spec})
		return err
	}, pulumi.WithMocks("atoll", "test", e))
	return e, c, err
}
