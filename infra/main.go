// Command infra is Atoll's Pulumi program: it reads the stack's configuration, prepares the
// platform and makes a cluster on it.
package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/atolldb/atoll/infra/atoll"
	"github.com/atolldb/atoll/infra/config"
	"github.com/atolldb/atoll/infra/platform"
	"github.com/atolldb/atoll/topology"
)

func main() { pulumi.Run(program) }

func program(ctx *pulumi.Context) error {
	root := ctx.RootDirectory()
	spec, err := config.Read(values(ctx), func(path string) ([]byte, error) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(root, path)
		}
		return os.ReadFile(path)
	})
	if err != nil {
		return err
	}
	return deploy(ctx, spec)
}

func deploy(ctx *pulumi.Context, spec *config.Spec) error {
	p, err := platform.For(spec)
	if err != nil {
		return err
	}
	target, err := p.Prepare(ctx, spec.Name, spec)
	if err != nil {
		return err
	}
	c, err := atoll.NewCluster(ctx, spec.Name, &atoll.ClusterArgs{Spec: target.Spec, Needs: target.Needs, Ask: atoll.AskCluster}, pulumi.Provider(target.Provider))
	if err != nil {
		return err
	}
	export(ctx, target.Spec, c)
	if target.Kubeconfig != nil {
		ctx.Export("kubeconfig", target.Kubeconfig)
	}
	return nil
}

// export publishes what users and tests read with pulumi stack output.
func export(ctx *pulumi.Context, spec *config.Spec, c *atoll.Cluster) {
	zones := pulumi.Array{}
	for _, z := range spec.Zones {
		zones = append(zones, pulumi.Map{"name": pulumi.String(z.Name), "region": pulumi.String(z.Region), "nodes": pulumi.Int(z.Nodes),
			"role": pulumi.String(spec.Policy.RoleOf(topology.Locality{Region: z.Region, Zone: z.Name})), "statefulSet": pulumi.String(spec.Name + "-" + z.Name)})
	}
	for name, value := range map[string]pulumi.Input{
		"connection":          c.Endpoint.Connection,
		"connectionMultiHost": c.Endpoint.MultiHost,
		"connectionZones":     c.Endpoint.Zones,
		"connectionInCluster": c.Endpoint.InCluster,
		"http":                c.Endpoint.HTTP,
		"ca":                  c.Certificates.Bundle,
		"user":                pulumi.String(atoll.Superuser),
		"password":            c.Password,
		"policy":              c.Policy,
		"zones":               zones,
		"clusterID":           c.ClusterID,
		"namespace":           pulumi.String(spec.Namespace),
		"name":                pulumi.String(spec.Name),
		"onDestroy":           c.OnDestroy,
	} {
		ctx.Export(name, value)
	}
}

// values returns the stack's configuration of this project. Keys that are not ours come along, so
// that a misspelt one is a fault and not silence.
func values(ctx *pulumi.Context) map[string]string {
	out := map[string]string{}
	prefix := ctx.Project() + ":"
	for _, k := range config.Keys() {
		if v, ok := ctx.GetConfig(prefix + k); ok {
			out[k] = v
		}
	}
	// What Pulumi's language host hands over; the SDK can't list keys.
	var all map[string]string
	if err := json.Unmarshal([]byte(os.Getenv("PULUMI_CONFIG")), &all); err == nil {
		for k, v := range all {
			if name, ours := strings.CutPrefix(k, prefix); ours {
				out[name] = v
			}
		}
	}
	return out
}
