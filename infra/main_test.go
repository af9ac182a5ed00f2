package main

import (
	"os"
	"path/filepath"
	"strings"
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

// TestMisspeltKeysAreFaults: the language host hands over every key, ours or not.
func TestMisspeltKeysAreFaults(t *testing.T) {
	t.Setenv("PULUMI_CONFIG", `{"atoll:immage": "x", "kubernetes:context": "y"}`)
	err := pulumi.RunErr(program, pulumi.WithMocks("atoll", "local", &mocks{}))
	require.ErrorContains(t, err, "atoll:immage is no key")
	require.NotContains(t, err.Error(), "kubernetes:context")
}
