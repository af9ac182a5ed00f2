package platform

import (
	"encoding/json"
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

// registered is a resource that a platform registered.
type registered struct {
	typ, name string
	inputs    map[string]any
	protect   bool
	provider  string // its name; empty is the default one
	version   string
	ignore    []string
	secrets   []string
	after     []string // names of what it depends on
}

// recorder stands in for Pulumi's engine.
type recorder struct {
	mu      sync.Mutex
	all     map[string]*registered
	preview bool // nothing exists yet: the clouds' answers are unknown
}

// outputs are what the clouds would answer, by type token: all that the platforms read.
// TestPropertiesAgainstSDK proves that the clouds have them.
var outputs = map[string]map[string]any{
	"aws:iam/role:Role":       {"name": "NAME", "arn": "arn:NAME"},
	"aws:eks/cluster:Cluster": {"name": "NAME", "arn": "arn:NAME", "endpoint": "https://eks.example", "certificateAuthority": map[string]any{"data": "Q0E="}},
	"gcp:container/cluster:Cluster": {"name": "NAME", "endpoint": "192.0.2.1",
		"masterAuth": map[string]any{"clusterCaCertificate": "Q0E=", "clientCertificateConfig": map[string]any{"issueClientCertificate": false}}},
	"azure:core/resourceGroup:ResourceGroup":                     {"name": "NAME"},
	"azure:containerservice/kubernetesCluster:KubernetesCluster": {"kubeConfigRaw": "the kubeconfig of NAME"},
}

func (r *recorder) Call(pulumi.MockCallArgs) (resource.PropertyMap, error) { return nil, nil }

func (r *recorder) NewResource(a pulumi.MockResourceArgs) (string, resource.PropertyMap, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := func(urn string) string { return urn[strings.LastIndex(urn, "::")+2:] }
	m := &registered{typ: a.TypeToken, name: a.Name}
	m.inputs, _ = plain(resource.NewObjectProperty(a.Inputs)).(map[string]any)
	if q := a.RegisterRPC; q != nil {
		m.protect, m.version, m.ignore, m.secrets = q.GetProtect(), q.GetVersion(), q.GetIgnoreChanges(), q.GetAdditionalSecretOutputs()
		if p := q.GetProvider(); p != "" {
			m.provider = last(p[:strings.LastIndex(p, "::")])
		}
		for _, d := range q.GetDependencies() {
			m.after = append(m.after, last(d))
		}
	}
	r.all[a.Name] = m
	if r.preview {
		return "", a.Inputs, nil
	}
	state := a.Inputs.Copy()
	for k, v := range outputs[a.TypeToken] {
		text, ok := v.(string)
		if ok {
			v = strings.ReplaceAll(text, "NAME", a.Name)
		}
		state[resource.PropertyKey(k)] = resource.NewPropertyValue(v)
	}
	return a.Name + "-id", state, nil
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

func (r *recorder) get(t *testing.T, name string) *registered {
	t.Helper()
	m := r.all[name]
	require.NotNil(t, m, "no resource %q; there are %v", name, r.names())
	return m
}

func (r *recorder) names() []string { return slices.Sorted(maps.Keys(r.all)) }

// ofType returns the resources of a type, by name.
func (r *recorder) ofType(typ string) []*registered {
	var out []*registered
	for _, name := range r.names() {
		if r.all[name].typ == typ {
			out = append(out, r.all[name])
		}
	}
	return out
}

// runsAfter reports whether a depends on b, directly or through others.
func (r *recorder) runsAfter(a, b string) bool {
	seen := map[string]bool{}
	var walk func(string) bool
	walk = func(n string) bool {
		m := r.all[n]
		if n == b || m == nil || seen[n] {
			return n == b
		}
		seen[n] = true
		return slices.ContainsFunc(m.after, walk)
	}
	return a != b && walk(a)
}

// stacks are a stack of each cloud: three zones, the first of two nodes.
var stacks = map[string]string{
	config.EKS: `{"platform": "eks", "image": "atoll:1", "cloud": {"region": "eu-central-1", "version": "1.33", "machine": "m7g.xlarge"},
		"zones": [{"name": "eu-central-1a", "nodes": 2}, {"name": "eu-central-1b"}, {"name": "eu-central-1c"}]}`,
	config.GKE: `{"platform": "gke", "image": "atoll:1", "cloud": {"region": "europe-west3", "project": "my-project", "version": "1.33", "machine": "n2-standard-8"},
		"zones": [{"name": "europe-west3-a", "nodes": 2}, {"name": "europe-west3-b"}, {"name": "europe-west3-c"}]}`,
	config.AKS: `{"platform": "aks", "image": "atoll:1", "cloud": {"region": "westeurope", "version": "1.33", "machine": "Standard_E4ds_v5"},
		"zones": [{"name": "westeurope-1", "nodes": 2}, {"name": "westeurope-2"}, {"name": "westeurope-3"}]}`,
}

// readStack reads a cloud's stack; change alters its configuration first.
func readStack(t *testing.T, platform string, change map[string]any) *config.Spec {
	t.Helper()
	var in map[string]any
	require.NoError(t, json.Unmarshal([]byte(stacks[platform]), &in))
	for k, v := range change {
		if more, ok := v.(map[string]any); ok && k == "cloud" {
			maps.Copy(in["cloud"].(map[string]any), more)
			continue
		}
		in[k] = v
	}
	spec, err := config.Read(config.FromStack(in), nil)
	require.NoError(t, err)
	return spec
}

// tryPrepare prepares a platform; other holds settings outside of the project's namespace.
func tryPrepare(t *testing.T, platform string, change map[string]any, other map[string]string) (*recorder, *Target, error) {
	t.Helper()
	return (&recorder{all: map[string]*registered{}}).prepare(t, platform, change, other)
}

func (r *recorder) prepare(t *testing.T, platform string, change map[string]any, other map[string]string) (*recorder, *Target, error) {
	t.Helper()
	spec := readStack(t, platform, change)
	var target *Target
	err := pulumi.RunErr(func(ctx *pulumi.Context) error {
		p, err := For(spec)
		if err != nil {
			return err
		}
		target, err = p.Prepare(ctx, spec.Name, spec)
		return err
	}, pulumi.WithMocks("atoll", "test", r), func(i *pulumi.RunInfo) { i.Config, i.DryRun = other, r.preview })
	return r, target, err
}

func prepare(t *testing.T, platform string, change map[string]any) (*recorder, *Target) {
	t.Helper()
	r, target, err := tryPrepare(t, platform, change, nil)
	require.NoError(t, err)
	return r, target
}
