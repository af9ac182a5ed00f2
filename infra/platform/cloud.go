package platform

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/atolldb/atoll/infra/config"
)

// The clouds' resources are registered by their type tokens and property names, as in Pulumi's
// YAML, and not through the clouds' Go SDKs: every SDK in go.mod is a plugin that Pulumi downloads
// for every stack, the local one too, and the packages needed of the three compile for longer than
// all else together (ARCHITECTURE.md has the numbers). The property names are proven against
// the SDKs' sources by TestPropertiesAgainstSDK.

// cloud is a platform that makes a Kubernetes: a machine pool for each zone, and a Kubernetes
// provider from the new cluster's kubeconfig.
type cloud struct {
	title   string         // in the component's type and in names
	version string         // of the provider plugin; a test has the checksum of the SDK of that version
	storage config.Storage // what volumes are by default: provisioner, parameters, topology key
	refuse  func(ctx *pulumi.Context, spec *config.Spec) error
	build   func(*builder) (*made, error)
}

// made is what a cloud's build leaves.
type made struct {
	kubeconfig pulumi.StringOutput
	// cluster changes exactly if the cluster becomes another one.
	cluster pulumi.StringOutput
	needs   []pulumi.Resource
}

// Prepare makes the cluster. Before anything is registered, it refuses what the zones cannot
// satisfy: what is registered first would be made by then.
func (c cloud) Prepare(ctx *pulumi.Context, name string, spec *config.Spec) (*Target, error) {
	s := c.complete(spec)
	checked := *s
	checked.Zones = slices.Clone(s.Zones)
	if err := checked.Check(); err != nil {
		return nil, err
	}
	if c.refuse != nil {
		if err := c.refuse(ctx, s); err != nil {
			return nil, err
		}
	}
	name += "-" + c.title
	parent := &component{}
	if err := ctx.RegisterComponentResource("atoll:platform:"+strings.ToUpper(c.title), name, parent); err != nil {
		return nil, err
	}
	b := &builder{Spec: s, ctx: ctx, name: name, opts: []pulumi.ResourceOption{pulumi.Parent(parent), pulumi.Version(c.version)}}
	m, err := c.build(b)
	if err != nil {
		return nil, err
	}
	// A rotated CA or a new address is the same cluster: only another one makes its objects anew.
	p, err := kubernetes.NewProvider(ctx, name+"-kubernetes", &kubernetes.ProviderArgs{EnableServerSideApply: pulumi.Bool(true),
		Kubeconfig: m.kubeconfig, ClusterIdentifier: m.cluster}, pulumi.Parent(parent))
	if err != nil {
		return nil, err
	}
	t := &Target{Provider: p, Spec: s, Needs: m.needs, Kubeconfig: pulumi.ToSecret(m.kubeconfig).(pulumi.StringOutput)}
	return t, ctx.RegisterResourceOutputs(parent, pulumi.Map{"kubeconfig": t.Kubeconfig})
}

// component groups what a cloud's cluster is made of.
type component struct{ pulumi.ResourceState }

// complete fills in the cloud's own volumes, where the configuration names no others.
func (c cloud) complete(spec *config.Spec) *config.Spec {
	s := *spec
	s.Zones = slices.Clone(spec.Zones)
	own := s.Storage.Provisioner == "" || s.Storage.Provisioner == c.storage.Provisioner
	if s.Storage.Class == "" && own {
		s.Storage.Provisioner = c.storage.Provisioner
		s.Storage.Parameters = maps.Clone(c.storage.Parameters)
		maps.Copy(s.Storage.Parameters, spec.Storage.Parameters)
		s.Storage.TopologyKey = cmp.Or(s.Storage.TopologyKey, c.storage.TopologyKey)
	}
	s.Storage.TopologyKey = cmp.Or(s.Storage.TopologyKey, zoneLabel)
	return &s
}

// builder registers the parts of a cloud's cluster.
type builder struct {
	*config.Spec
	ctx  *pulumi.Context
	name string // what the children's names begin with
	opts []pulumi.ResourceOption
}

// part is a resource of which no more than the ID is read.
type part struct{ pulumi.CustomResourceState }

// add registers a resource by its type token.
func (b *builder) add(token, suffix string, in pulumi.Map, into pulumi.Resource, more ...pulumi.ResourceOption) error {
	return b.ctx.RegisterResource(token, b.name+"-"+suffix, in, into, append(b.opts[:len(b.opts):len(b.opts)], more...)...)
}

// part registers a resource of which no more than the ID is read.
func (b *builder) part(token, suffix string, in pulumi.Map, more ...pulumi.ResourceOption) (*part, error) {
	p := &part{}
	return p, b.add(token, suffix, in, p, more...)
}

// pools makes the zones' machine pools, in the order of the configuration, each after the one
// before it: a new Kubernetes or machine type never takes the machines of two zones at once.
func (b *builder) pools(token string, inputs func(config.Zone) pulumi.Map, after ...pulumi.Resource) ([]pulumi.Resource, error) {
	var all []pulumi.Resource
	for _, z := range b.Zones {
		p, err := b.part(token, "zone-"+z.Name, inputs(z), pulumi.DependsOn(after))
		if err != nil {
			return nil, err
		}
		all = append(all, p)
		after = []pulumi.Resource{p}
	}
	return all, nil
}

// defining returns the options of what the data stands or falls with.
func (b *builder) defining(more ...pulumi.ResourceOption) []pulumi.ResourceOption {
	return append(more, pulumi.Protect(b.Storage.Keep))
}

// setIf sets a property unless the text is empty, which leaves the choice to the cloud.
func setIf(in pulumi.Map, key, text string) pulumi.Map {
	if text != "" {
		in[key] = pulumi.String(text)
	}
	return in
}

// loginKubeconfig returns a kubeconfig whose credentials a program fetches whenever they are needed.
func loginKubeconfig(name, endpoint, ca string, login *clientcmdapi.ExecConfig) (string, error) {
	decoded, err := base64.StdEncoding.DecodeString(ca)
	if err != nil || len(decoded) == 0 {
		return "", fmt.Errorf("cluster %s has no CA certificate in base64: the cloud has not finished it; run pulumi refresh, then pulumi up again", name)
	}
	login.APIVersion = "client.authentication.k8s.io/v1beta1"
	login.InteractiveMode = clientcmdapi.IfAvailableExecInteractiveMode
	c := clientcmdapi.NewConfig()
	c.Clusters[name] = &clientcmdapi.Cluster{Server: endpoint, CertificateAuthorityData: decoded}
	c.AuthInfos[name] = &clientcmdapi.AuthInfo{Exec: login}
	c.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	c.CurrentContext = name
	text, err := clientcmd.Write(*c)
	return string(text), err
}
