package platform

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/atolldb/atoll/infra/config"
)

// Existing is a Kubernetes that a kubeconfig leads to; the local one is such.
type Existing struct{}

// localKubeconfig is where the local Kubernetes leaves its kubeconfig, below the home folder.
const localKubeconfig = ".local/state/atoll/atoll/creds/kubeconfig"

// inspectTimeout bounds the look at the cluster before anything is planned.
const inspectTimeout = 20 * time.Second

// Prepare checks the kubeconfig, its context, the cluster's zones, storage class and volumes.
func (Existing) Prepare(ctx *pulumi.Context, name string, spec *config.Spec) (*Target, error) {
	s := *spec
	s.Zones = slices.Clone(spec.Zones)
	if s.Kubeconfig == "" && s.Platform == config.Local {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("%w; set atoll:kubeconfig to the file of the local Kubernetes", err)
		}
		s.Kubeconfig = filepath.Join(home, localKubeconfig)
	}
	if s.Kubeconfig != "" && !filepath.IsAbs(s.Kubeconfig) {
		s.Kubeconfig = filepath.Join(ctx.RootDirectory(), s.Kubeconfig)
	}
	if s.Inspect {
		c, err := connect(&s)
		if err != nil {
			return nil, err
		}
		bounded, cancel := context.WithTimeout(ctx.Context(), inspectTimeout)
		defer cancel()
		if err := c.inspect(bounded, &s); err != nil {
			return nil, err
		}
	} else if len(s.Zones) == 0 {
		return nil, errors.New("atoll:zones is empty and atoll:inspect is false; name the zones, or let the cluster be looked at")
	}
	args := &kubernetes.ProviderArgs{EnableServerSideApply: pulumi.Bool(true)}
	if s.Kubeconfig != "" {
		args.Kubeconfig = pulumi.String(s.Kubeconfig)
	}
	if s.Context != "" {
		args.Context = pulumi.String(s.Context)
	}
	p, err := kubernetes.NewProvider(ctx, name+"-kubernetes", args)
	if err != nil {
		return nil, err
	}
	return &Target{Provider: p, Spec: &s}, nil
}

// connect reads the kubeconfig.
func connect(s *config.Spec) (*cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	where := "the kubeconfig that kubectl uses"
	if s.Kubeconfig != "" {
		rules.ExplicitPath = s.Kubeconfig
		where = "kubeconfig " + s.Kubeconfig
		if _, err := os.Stat(s.Kubeconfig); err != nil {
			hint := "set atoll:kubeconfig to a file that exists"
			if s.Platform == config.Local {
				hint = "bring the local Kubernetes up with: make kube-up (or make up)"
			}
			return nil, fmt.Errorf("%s: %w; %s", where, err, hint)
		}
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: s.Context})
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, fmt.Errorf("%s can't be read: %w", where, err)
	}
	current := s.Context
	if current == "" {
		current = raw.CurrentContext
	}
	if _, ok := raw.Contexts[current]; !ok {
		var all []string
		for c := range raw.Contexts {
			all = append(all, c)
		}
		slices.Sort(all)
		if len(all) == 0 {
			return nil, fmt.Errorf("%s has no context; set atoll:kubeconfig to the file of a cluster, or KUBECONFIG", where)
		}
		return nil, fmt.Errorf("%s has no context %q; set atoll:context to one of: %s", where, current, strings.Join(all, ", "))
	}
	cfg, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("%s, context %q: %w", where, current, err)
	}
	cfg.Timeout = inspectTimeout
	hc, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s, context %q: %w", where, current, err)
	}
	return &cluster{http: hc, url: strings.TrimSuffix(cfg.Host, "/"), where: fmt.Sprintf("%s, context %q", where, current)}, nil
}
