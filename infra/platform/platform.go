// Package platform says where Kubernetes comes from: a cluster that exists, the one on this
// machine, or a cloud. A platform hands over a Kubernetes provider and a configuration whose zones
// are known.
package platform

import (
	"fmt"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/atolldb/atoll/infra/config"
)

// Target is a Kubernetes to deploy to.
type Target struct {
	// Provider is the Kubernetes provider; everything in the cluster is made through it.
	Provider pulumi.ProviderResource
	// Spec is the configuration with what the platform decides: zones, storage.
	Spec *config.Spec
	// Needs is what the platform makes for the pods: machines, the disks' driver. They wait for
	// it, and it goes after them; the rest of the cluster stays while data is kept.
	Needs []pulumi.Resource
	// Kubeconfig leads to a cluster that the platform made; secret. Nil with one that exists.
	Kubeconfig pulumi.StringInput
}

// Platform makes or finds a Kubernetes.
type Platform interface {
	// Prepare registers what the platform needs and returns the target. What it can find out
	// without changing anything, it refuses here: this runs in a preview as well.
	Prepare(ctx *pulumi.Context, name string, spec *config.Spec) (*Target, error)
}

// For returns the platform of a configuration.
func For(spec *config.Spec) (Platform, error) {
	switch spec.Platform {
	case config.Existing, config.Local:
		return Existing{}, nil
	default:
		p, ok := clouds[spec.Platform]
		if !ok {
			return nil, fmt.Errorf("atoll:platform %s is not built into this program; bring the cluster up with its own tool, then use platform existing with its kubeconfig", spec.Platform)
		}
		return p, nil
	}
}

// clouds are the platforms that make a cluster.
var clouds = map[string]Platform{config.EKS: eks, config.GKE: gke, config.AKS: aks}
