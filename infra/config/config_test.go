package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/atolldb/atoll/policies"
)

// TestScenarios runs testdata/config. Its input is what a stack file has below `config:`,
// without the project's name; values go through JSON as Pulumi hands them over.
func TestScenarios(t *testing.T) {
	files := func(path string) ([]byte, error) {
		if path == "mine.yaml" {
			return []byte("name: mine\nsurvive: zone\nvotes: 3\nzones: {us-x: {role: replica}}\n"), nil
		}
		if path == "unknown-zone.yaml" {
			return []byte("name: unknown-zone\nsurvive: zone\nzones: {us-x: {role: replica}}\n"), nil
		}
		return nil, fmt.Errorf("open %s: %w", path, os.ErrNotExist)
	}
	datadriven.RunTest(t, "testdata/config", func(t *testing.T, d *datadriven.TestData) string {
		s, err := Read(values(t, d.Input), files)
		if err == nil && d.Cmd == "check" {
			err = s.Check()
		}
		if err != nil {
			var all *Error
			require.True(t, errors.As(err, &all), "%T", err)
			return err.Error() + "\n"
		}
		return fmt.Sprintf("%+v\npolicy %s\n", printable(*s), s.Policy.Name)
	})
}

func printable(s Spec) Spec {
	s.Policy = nil
	return s
}

func values(t *testing.T, text string) map[string]string {
	t.Helper()
	var in map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(text), &in))
	return FromStack(in)
}

func TestBytes(t *testing.T) {
	for in, want := range map[string]int64{"1Gi": 1 << 30, "512Mi": 512 << 20, "2G": 2e9, "7k": 7000, "3Ki": 3072} {
		got, err := ParseBytes(in)
		require.NoError(t, err)
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "1", "Gi", "-1Gi", "1.5Gi", "1 Gi", "99999999999Ti", "0Gi", "1gi"} {
		_, err := ParseBytes(in)
		require.Error(t, err, in)
	}
	require.Equal(t, "1536Mi", FormatBytes(3<<29))
	require.Equal(t, "2Gi", FormatBytes(2<<30))
	require.Equal(t, "5", FormatBytes(5))
}

func TestZoneRolesReachThePolicy(t *testing.T) {
	in := "image: atoll:1\nstorage: {class: fast}\nzones: [{name: us-a}, {name: us-b, role: replica}, {name: us-c}]"
	s, err := Read(values(t, in), nil)
	require.NoError(t, err)
	require.NoError(t, s.Check())
	require.Equal(t, []policies.ZoneRole{{Zone: "us-b", Role: policies.Replica}}, s.Policy.Zones)
	top, err := s.Topology()
	require.NoError(t, err)
	require.Equal(t, "atoll-us-a-0", top.Nodes()[0].Name)
}

func FuzzRead(f *testing.F) {
	f.Add("zones", `[{"name":"a","nodes":1e99}]`)
	f.Add("endpoint", `{"type":[],"zoneHosts":{"a":":"},"zoneNodePorts":{"a":"x"}}`)
	f.Add("storage", `{"size":"9Ei","parameters":{"a":1}}`)
	f.Add("policy", `"x"`)
	f.Add("platform", "eks")
	f.Add("cloud", `{"region":"eu-central-1","subnets":[{"zone":1}]}`)
	f.Fuzz(func(t *testing.T, key, value string) {
		s, err := Read(map[string]string{"image": "a", key: value}, func(string) ([]byte, error) { return nil, os.ErrNotExist })
		var all *Error
		if err != nil && (!errors.As(err, &all) || strings.TrimSpace(err.Error()) == "") {
			t.Fatalf("%T %v", err, err)
		}
		if err == nil {
			_ = s.Check()
		}
	})
}
