package atoll

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	networkingv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/networking/v1"
	policyv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/policy/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/google/uuid"

	"github.com/atolldb/atoll/infra/config"
	"github.com/atolldb/atoll/policies"
)

// ClusterArgs configures a Cluster.
type ClusterArgs struct {
	// Spec says everything; config.Read makes one. Its Zones must be known.
	Spec *config.Spec
	// Needs is what pods can't run without beside the cluster's own resources, for instance the
	// machines: pods come after it and go before it.
	Needs []pulumi.Resource
	// Ask, if set, lets a preview ask the running cluster what the policy would move; AskCluster is
	// one. It is never called during an update.
	Ask Asker
}

// Cluster is a whole Atoll in one namespace.
type Cluster struct {
	pulumi.ResourceState

	Certificates *Certificates
	Endpoint     *SQLEndpoint
	Zones        []*ZoneGroup

	// ClusterID is the cluster's UUID, made once.
	ClusterID pulumi.StringOutput
	// Password is the superuser's first password; secret. ALTER ROLE changes it in the
	// database, not here.
	Password pulumi.StringOutput
	// Policy is the placement policy in force.
	Policy pulumi.StringOutput
	// OnDestroy says what pulumi destroy leaves.
	OnDestroy pulumi.StringOutput
}

// NewCluster makes a cluster. It fails, in the preview already, when the policy can't be
// satisfied by the zones.
func NewCluster(ctx *pulumi.Context, name string, args *ClusterArgs, opts ...pulumi.ResourceOption) (*Cluster, error) {
	if err := args.Spec.Check(); err != nil {
		return nil, err
	}
	c := &Cluster{}
	if err := ctx.RegisterComponentResource("atoll:index:Cluster", name, c, opts...); err != nil {
		return nil, err
	}
	b := &builder{ctx: ctx, name: name, n: names{args.Spec}, c: c, base: slices.Clone(args.Needs)}
	for _, step := range []func() error{b.namespace, b.identity, b.network, b.parts, b.zones, b.found, b.monitoring} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if ctx.DryRun() && args.Ask != nil {
		foretell(ctx, c, args)
	}
	c.Policy = pulumi.String(args.Spec.Policy.Format()).ToStringOutput()
	c.OnDestroy = pulumi.String(onDestroy(args.Spec)).ToStringOutput()
	return c, ctx.RegisterResourceOutputs(c, pulumi.Map{"clusterID": c.ClusterID, "password": c.Password, "policy": c.Policy, "onDestroy": c.OnDestroy})
}

func onDestroy(s *config.Spec) string {
	if !s.Storage.Keep {
		return "pulumi destroy deletes the volumes and all data (atoll:storage.keep is false)"
	}
	return "volumes, certificates and the cluster's identity are kept: use pulumi destroy --exclude-protected, after which pulumi up opens the same data again; " +
		"to delete the data, set atoll:storage.keep to false, run pulumi up, then pulumi destroy"
}

// builder holds what the steps of NewCluster share.
type builder struct {
	ctx  *pulumi.Context
	name string
	n    names
	c    *Cluster

	base []pulumi.Resource // what every pod needs
	ns   pulumi.Resource
	last pulumi.Resource // after which every zone runs what it should
}

// in returns the options of a child.
func (b *builder) in(more ...pulumi.ResourceOption) []pulumi.ResourceOption {
	opts := []pulumi.ResourceOption{pulumi.Parent(b.c)}
	if b.ns != nil {
		opts = append(opts, pulumi.DependsOn([]pulumi.Resource{b.ns}))
	}
	return append(opts, more...)
}

func (b *builder) namespace() error {
	if b.n.Namespace == "default" {
		return nil // it is there, and is not ours to delete
	}
	ns, err := corev1.NewNamespace(b.ctx, b.name+"-namespace", &corev1.NamespaceArgs{
		Metadata: &metav1.ObjectMetaArgs{Name: pulumi.String(b.n.Namespace), Labels: b.n.labels(),
			Annotations: pulumi.StringMap{takeBack: pulumi.String("true")}},
	}, pulumi.Parent(b.c), pulumi.Protect(b.n.Storage.Keep))
	b.ns = ns
	return err
}

// identity makes, once, what must never be made a second time.
func (b *builder) identity() error {
	password, err := newPassword()
	if err != nil {
		return err
	}
	once := func(suffix, name string, data map[string]string) (*corev1.Secret, error) {
		in := pulumi.StringMap{}
		for k, v := range data {
			in[k] = pulumi.String(base64.StdEncoding.EncodeToString([]byte(v)))
		}
		s, err := corev1.NewSecret(b.ctx, b.name+"-"+suffix, &corev1.SecretArgs{Metadata: b.n.meta(name, nil), Data: pulumi.ToSecret(in).(pulumi.StringMapInput)},
			b.in(pulumi.IgnoreChanges([]string{"data"}), pulumi.Protect(b.n.Storage.Keep), pulumi.AdditionalSecretOutputs([]string{"data"}))...)
		b.base = append(b.base, s)
		return s, err
	}
	// The founders are the first update's nodes for ever: founding again must ask for the same.
	id, err := once("identity", b.n.identity(), map[string]string{"clusterID": uuid.NewString(), "founders": commas(b.n.allHosts(NodePort))})
	if err != nil {
		return err
	}
	user, err := once("superuser", b.n.superuser(), map[string]string{"username": Superuser, "password": password})
	if err != nil {
		return err
	}
	b.c.ClusterID = pulumi.Unsecret(secretText(id, "clusterID")).(pulumi.StringOutput)
	b.c.Password = pulumi.ToSecret(secretText(user, "password")).(pulumi.StringOutput)
	return nil
}

// secretText reads a Secret's value back from the resource.
func secretText(s *corev1.Secret, key string) pulumi.StringOutput {
	return s.Data.ApplyT(func(data map[string]string) (string, error) {
		v, err := base64.StdEncoding.DecodeString(data[key])
		if err != nil || len(v) == 0 {
			return "", fmt.Errorf("the Secret lacks %q or it is not base64: it was changed by hand; restore it from a backup", key)
		}
		return string(v), nil
	}).(pulumi.StringOutput)
}

// newPassword returns 24 letters and digits: 142 bits.
func newPassword() (string, error) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, 24)
	for i := range out {
		k, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			return "", err
		}
		out[i] = alphabet[k.Int64()]
	}
	return string(out), nil
}

func (b *builder) network() error {
	account, err := corev1.NewServiceAccount(b.ctx, b.name+"-account", &corev1.ServiceAccountArgs{
		Metadata: b.n.meta(b.n.Name, nil), AutomountServiceAccountToken: pulumi.Bool(false)}, b.in()...)
	if err != nil {
		return err
	}
	join, err := corev1.NewConfigMap(b.ctx, b.name+"-join", &corev1.ConfigMapArgs{
		Metadata: b.n.meta(b.n.joinList(), nil), Data: pulumi.StringMap{"join": pulumi.String(commas(b.n.join()))}}, b.in()...)
	if err != nil {
		return err
	}
	b.base = append(b.base, account, join)
	// Over all zones: no drain takes nodes of two zones at once. A node that is not ready never
	// holds up an eviction.
	_, err = policyv1.NewPodDisruptionBudget(b.ctx, b.name+"-budget", &policyv1.PodDisruptionBudgetArgs{
		Metadata: b.n.meta(b.n.Name, nil),
		Spec: &policyv1.PodDisruptionBudgetSpecArgs{MaxUnavailable: pulumi.Int(1), UnhealthyPodEvictionPolicy: pulumi.String("AlwaysAllow"),
			Selector: &metav1.LabelSelectorArgs{MatchLabels: b.n.selector(labelRole, "node")}},
	}, b.in()...)
	if err != nil {
		return err
	}
	return b.networkPolicy()
}

// networkPolicy lets only the cluster's own pods reach the nodes' port; SQL and HTTP are open, and
// guarded by TLS and passwords. Nodes reach each other and DNS, nothing else.
func (b *builder) networkPolicy() error {
	own := &metav1.LabelSelectorArgs{MatchLabels: b.n.selector()}
	ownPeers := networkingv1.NetworkPolicyPeerArray{&networkingv1.NetworkPolicyPeerArgs{PodSelector: own}}
	_, err := networkingv1.NewNetworkPolicy(b.ctx, b.name+"-network", &networkingv1.NetworkPolicyArgs{
		Metadata: b.n.meta(b.n.Name, nil),
		Spec: &networkingv1.NetworkPolicySpecArgs{
			PodSelector: own, PolicyTypes: pulumi.ToStringArray([]string{"Ingress", "Egress"}),
			Ingress: networkingv1.NetworkPolicyIngressRuleArray{
				&networkingv1.NetworkPolicyIngressRuleArgs{From: ownPeers, Ports: policyPorts("TCP", NodePort)},
				&networkingv1.NetworkPolicyIngressRuleArgs{Ports: policyPorts("TCP", SQLPort, HTTPPort)},
			},
			Egress: networkingv1.NetworkPolicyEgressRuleArray{
				&networkingv1.NetworkPolicyEgressRuleArgs{To: ownPeers},
				&networkingv1.NetworkPolicyEgressRuleArgs{Ports: append(policyPorts("UDP", 53), policyPorts("TCP", 53)...)},
			},
		},
	}, b.in()...)
	return err
}

func policyPorts(protocol string, numbers ...int) networkingv1.NetworkPolicyPortArray {
	var out networkingv1.NetworkPolicyPortArray
	for _, p := range numbers {
		out = append(out, &networkingv1.NetworkPolicyPortArgs{Protocol: pulumi.String(protocol), Port: pulumi.Int(p)})
	}
	return out
}

func (b *builder) parts() (err error) {
	b.c.Certificates, err = NewCertificates(b.ctx, b.name+"-certificates", &CertificatesArgs{Spec: b.n.Spec}, b.in()...)
	if err != nil {
		return err
	}
	b.c.Endpoint, err = NewSQLEndpoint(b.ctx, b.name+"-endpoint", &SQLEndpointArgs{Spec: b.n.Spec, Password: b.c.Password}, b.in()...)
	if err != nil {
		return err
	}
	b.base = append(b.base, b.c.Certificates.trust)
	b.base = append(b.base, b.c.Endpoint.services...)
	return nil
}

// zones makes the zones in the order of the configuration, each after the one before it is back
// in full replication.
func (b *builder) zones() error {
	retire, err := newJob(b.ctx, b.name+"-retire", b.n, jobSpec{
		Step: "retire", Login: true, Founded: true,
		Args: []string{"node", "retire", "--keep=" + commas(b.n.allHosts(NodePort)), "--http=" + commas(b.n.allHosts(HTTPPort)), foundedArg, "--timeout=" + b.n.Timeout.String()},
	}, b.in(pulumi.DependsOn(b.base))...)
	if err != nil {
		return err
	}
	before := pulumi.Resource(retire)
	for _, z := range b.n.Zones {
		after := append([]pulumi.Resource{b.c.Certificates.ZoneSecret(z.Name), before}, b.base...)
		g, err := NewZoneGroup(b.ctx, b.name+"-zone-"+z.Name, &ZoneGroupArgs{Spec: b.n.Spec, Zone: z, After: after}, b.in()...)
		if err != nil {
			return err
		}
		b.c.Zones = append(b.c.Zones, g)
		before = g.Ready
	}
	b.last = before
	return nil
}

// found founds the cluster, once, and waits until it is whole.
func (b *builder) found() error {
	first := b.n.Zones[0].Name
	found, err := newJob(b.ctx, b.name+"-found", b.n, jobSpec{
		Step: "found", Identity: true, TLSSecret: b.n.tls(first),
		Args: []string{"init", "--cluster-id=$(ATOLL_CLUSTER_ID)", "--nodes=$(ATOLL_FOUNDERS)", "--later=" + commas(b.n.allHosts(NodePort)), "--certs=" + certsDir,
			"--password-file=" + superuserDir + "/password", "--timeout=" + b.n.Timeout.String()},
	}, b.in(pulumi.DependsOn([]pulumi.Resource{b.last}))...)
	if err != nil {
		return err
	}
	// The steps of later updates know by it that silence is not a first installation. It goes with
	// the StatefulSets when the stack is destroyed: kept volumes are then opened again zone by zone.
	_, err = corev1.NewConfigMap(b.ctx, b.name+"-founded", &corev1.ConfigMapArgs{
		Metadata: b.n.meta(b.n.founded(), nil), Data: pulumi.StringMap{"founded": pulumi.String("true")},
	}, b.in(pulumi.DependsOn([]pulumi.Resource{found}))...)
	if err != nil {
		return err
	}
	var revisions []string
	for _, g := range b.c.Zones {
		revisions = append(revisions, g.Revision)
	}
	whole, err := newJob(b.ctx, b.name+"-whole", b.n, jobSpec{
		Step: "whole", Trigger: commas(revisions),
		Args: []string{"node", "wait-replicated", "--founded", "--http=" + commas(b.n.allHosts(HTTPPort)), "--updated=" + commas(b.n.allHosts(HTTPPort)), "--timeout=" + b.n.Timeout.String()},
	}, b.in(pulumi.DependsOn([]pulumi.Resource{found}))...)
	if err != nil {
		return err
	}
	return b.policy(whole)
}

// policy puts the stack's policy into force, after every zone that it names is there, and waits until
// the data is where it wants it. Tables and databases with a policy of their own are not touched.
func (b *builder) policy(after pulumi.Resource) error {
	args := []string{"policy", "apply", "--for=cluster", "--wait", "--timeout=" + b.n.Timeout.String()}
	if p := inCluster(b.n.Policy); p.IsReady() {
		args = append(args, p.Name)
	} else {
		args = append(args, "--text="+p.Format())
	}
	_, err := newJob(b.ctx, b.name+"-policy", b.n, jobSpec{Step: "policy", Login: true, Args: args}, b.in(pulumi.DependsOn([]pulumi.Resource{after}))...)
	return err
}

// stackPolicy is what a policy that only the stack knows is called in the cluster.
const stackPolicy = "stack"

// inCluster returns a stack's policy under the name that it has in the cluster: a ready policy with
// roles from the stack is another one, and needs a name of its own.
func inCluster(p *policies.Policy) *policies.Policy {
	if p.IsReady() {
		return p
	}
	own := *p
	own.Name = stackPolicy
	return &own
}

func (b *builder) monitoring() error {
	if !b.n.Monitoring {
		return nil
	}
	_, err := NewMonitoring(b.ctx, b.name+"-monitoring", &MonitoringArgs{Spec: b.n.Spec}, b.in()...)
	return err
}
