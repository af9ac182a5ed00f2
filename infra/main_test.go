package main

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/atolldb/atoll/infra/config"
)

// stackFiles returns every stack's configuration.
func stackFiles(t *testing.T) map[string]map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../stacks/Pulumi.*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	out := map[string]map[string]string{}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		require.NoError(t, err)
		var f struct {
			Config map[string]any `yaml:"config"`
		}
		require.NoError(t, yaml.Unmarshal(text, &f), p)
		in := map[string]any{}
		for k, v := range f.Config {
			name, ours := strings.CutPrefix(k, "atoll:")
			require.True(t, ours, "%s: %s", p, k)
			in[name] = v
		}
		out[filepath.Base(p)] = config.FromStack(in)
	}
	return out
}

// TestStacksAreValid reads every stack file with the same strictness as pulumi up, and checks it
// wherever its zones are known without a cluster.
func TestStacksAreValid(t *testing.T) {
	for name, values := range stackFiles(t) {
		s, err := config.Read(values, func(p string) ([]byte, error) { return os.ReadFile(filepath.Join("..", p)) })
		require.NoError(t, err, name)
		if len(s.Zones) > 0 {
			require.NoError(t, s.Check(), name)
		}
	}
}

type mocks struct{}

func (*mocks) Call(pulumi.MockCallArgs) (resource.PropertyMap, error) { return nil, nil }

func (*mocks) NewResource(a pulumi.MockResourceArgs) (string, resource.PropertyMap, error) {
	return a.Name + "-id", a.Inputs, nil
}

// TestProgram runs the whole program on mocks for the local stack, without its cluster.
func TestProgram(t *testing.T) {
	values := stackFiles(t)["Pulumi.local.yaml"]
	values["inspect"] = "false"
	cfg := map[string]string{}
	for k, v := range values {
		cfg["atoll:"+k] = v
	}
	err := pulumi.RunErr(program, pulumi.WithMocks("atoll", "local", &mocks{}), func(i *pulumi.RunInfo) { i.Config = cfg })
	require.NoError(t, err)

	cfg["atoll:zones"] = `[{"name":"us-a"},{"name":"us-b"}]`
	cfg["atoll:endpoint"] = `{}`
	err = pulumi.RunErr(program, pulumi.WithMocks("atoll", "local", &mocks{}), func(i *pulumi.RunInfo) { i.Config = cfg })
	require.ErrorContains(t, err, "survive: zone with 3 voters needs 3 zones that vote, there are 2 (us-a, us-b)")
}

// cloudMocks answers as the clouds would, and notes what was registered after what.
type cloudMocks struct {
	mu     sync.Mutex
	types  map[string]string // name -> type token
	after  map[string][]string
	inputs map[string]resource.PropertyMap
}

func (*cloudMocks) Call(pulumi.MockCallArgs) (resource.PropertyMap, error) { return nil, nil }

func (m *cloudMocks) NewResource(a pulumi.MockResourceArgs) (string, resource.PropertyMap, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.types[a.Name], m.inputs[a.Name] = a.TypeToken, a.Inputs
	if a.RegisterRPC != nil {
		provider := strings.Split(a.RegisterRPC.GetProvider(), "::")
		for _, urn := range append(a.RegisterRPC.GetDependencies(), provider[:max(0, len(provider)-1)]...) {
			m.after[a.Name] = append(m.after[a.Name], urn[strings.LastIndex(urn, ":")+1:])
		}
	}
	out := a.Inputs.Copy()
	for k, v := range map[string]any{"name": a.Name, "endpoint": "a.example", "kubeConfigRaw": "{}", "certificateAuthority": map[string]any{"data": "Q0E="},
		"masterAuth": map[string]any{"clusterCaCertificate": "Q0E="}} {
		if strings.Contains(strings.ToLower(a.TypeToken), "cluster:") {
			out[resource.PropertyKey(k)] = resource.NewPropertyValue(v)
		}
	}
	return a.Name + "-id", out, nil
}

// comesAfter reports whether a depends on b, directly or through others.
func (m *cloudMocks) comesAfter(a, b string) bool {
	for _, next := range m.after[a] {
		if next == b || m.comesAfter(next, b) {
			return true
		}
	}
	return false
}

// TestCloudPrograms runs the whole program for each cloud's stack: pods wait for the machines, what
// is kept does not, and volumes are the cloud's.
func TestCloudPrograms(t *testing.T) {
	for cloud, volumes := range map[string]struct{ zone, provisioner, topologyKey string }{
		"eks": {"eu-central-1c", "ebs.csi.aws.com", "topology.kubernetes.io/zone"},
		"gke": {"europe-west3-c", "pd.csi.storage.gke.io", "topology.gke.io/zone"},
		"aks": {"westeurope-3", "disk.csi.azure.com", "topology.disk.csi.azure.com/zone"},
	} {
		t.Run(cloud, func(t *testing.T) {
			cfg := map[string]string{}
			for k, v := range stackFiles(t)["Pulumi."+cloud+".yaml"] {
				cfg["atoll:"+k] = v
			}
			m := &cloudMocks{types: map[string]string{}, after: map[string][]string{}, inputs: map[string]resource.PropertyMap{}}
			require.NoError(t, pulumi.RunErr(program, pulumi.WithMocks("atoll", cloud, m), func(i *pulumi.RunInfo) { i.Config = cfg }))
			pool, cluster := "atoll-"+cloud+"-zone-"+volumes.zone, "atoll-"+cloud+"-cluster"
			for _, pods := range []string{"atoll-zone-" + volumes.zone + "-nodes", "atoll-retire", "atoll-found"} {
				require.Contains(t, m.types, pods)
				require.True(t, m.comesAfter(pods, pool), "%s must wait for %s", pods, pool)
			}
			for _, kept := range []string{"atoll-namespace", "atoll-identity"} {
				require.True(t, m.comesAfter(kept, cluster), "%s is made through the cluster's provider", kept)
				require.False(t, m.comesAfter(kept, pool), "%s is kept, and would keep the machines", kept)
			}
			class := m.inputs["atoll-zone-"+volumes.zone+"-class"]
			require.Equal(t, volumes.provisioner, class["provisioner"].StringValue())
			require.Equal(t, "WaitForFirstConsumer", class["volumeBindingMode"].StringValue())
			where := class["allowedTopologies"].ArrayValue()[0].ObjectValue()["matchLabelExpressions"].ArrayValue()[0].ObjectValue()
			require.Equal(t, volumes.topologyKey, where["key"].StringValue())
			require.Equal(t, volumes.zone, where["values"].ArrayValue()[0].StringValue())
		})
	}
}

// TestMisspeltKeysAreFaults: the language host hands over every key, ours or not.
func TestMisspeltKeysAreFaults(t *testing.T) {
	t.Setenv("PULUMI_CONFIG", `{"atoll:immage": "x", "kubernetes:context": "y"}`)
	err := pulumi.RunErr(program, pulumi.WithMocks("atoll", "local", &mocks{}))
	require.ErrorContains(t, err, "atoll:immage is no key")
	require.NotContains(t, err.Error(), "kubernetes:context")
}
