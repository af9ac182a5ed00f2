package atoll

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"time"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/atolldb/atoll/infra/config"
	"github.com/atolldb/atoll/infra/pki"
)

// CertificatesArgs configures Certificates.
type CertificatesArgs struct {
	Spec *config.Spec
	// Now is the time that new seeds are stamped with; nil means time.Now.
	Now func() time.Time
}

// Certificates is a CA and a certificate for each zone's nodes.
//
// The CA and the keys come from random seeds, made once per rotation and kept in Secrets of their
// own; the certificates are a pure function of them (package pki). So they change exactly when a
// rotation counter or a name changes, and nodes read them again without a restart.
//
// A CA rotation overlaps: the bundle first trusts the old and the new CA; a Job waits until every
// node accepts the new one; then the nodes' certificates are made anew, with one in which the old CA
// vouches for the new one: clients that have only the old bundle connect all the same.
// certificates.dropOldCA ends the overlap in a later update.
type Certificates struct {
	pulumi.ResourceState

	// Bundle is the PEM of every CA that is trusted now, the newest first.
	Bundle pulumi.StringOutput
	// TrustName is the ConfigMap that holds the bundle as ca.crt.
	TrustName string

	zones map[string]*corev1.Secret
	trust *corev1.ConfigMap
}

// ZoneSecret returns the Secret with a zone's node.crt and node.key.
func (c *Certificates) ZoneSecret(zone string) *corev1.Secret { return c.zones[zone] }

// NewCertificates makes the CA and the certificates.
func NewCertificates(ctx *pulumi.Context, name string, args *CertificatesArgs, opts ...pulumi.ResourceOption) (*Certificates, error) {
	c := &Certificates{zones: map[string]*corev1.Secret{}}
	if err := ctx.RegisterComponentResource("atoll:index:Certificates", name, c, opts...); err != nil {
		return nil, err
	}
	n := names{args.Spec}
	now := args.Now
	if now == nil {
		now = time.Now
	}
	c.TrustName = n.trust()
	cfg := args.Spec.Certificates
	current, err := c.seed(ctx, name, n, "ca", cfg.CARotation, now(), args.Spec.Storage.Keep)
	if err != nil {
		return nil, err
	}
	bundle := current.caCert(n)
	var old *seed
	if cfg.CARotation > 1 && !cfg.DropOldCA {
		// The one before may go in the update after: it is not protected.
		if old, err = c.seed(ctx, name, n, "ca", cfg.CARotation-1, now(), false); err != nil {
			return nil, err
		}
		bundle = pulumi.Sprintf("%s%s", bundle, old.caCert(n))
	}
	c.Bundle = bundle
	c.trust, err = corev1.NewConfigMap(ctx, name+"-trust", &corev1.ConfigMapArgs{
		Metadata: n.meta(n.trust(), nil), Data: pulumi.StringMap{"ca.crt": bundle},
	}, pulumi.Parent(c))
	if err != nil {
		return nil, err
	}
	// Not protected: a rotation drops the one before, and one that is lost costs new certificates.
	leaf, err := c.seed(ctx, name, n, "node-seed", cfg.Rotation, now(), false)
	if err != nil {
		return nil, err
	}
	after := []pulumi.Resource{c.trust}
	if cfg.CARotation > 1 {
		job, err := c.waitForTrust(ctx, name, n, current, leaf)
		if err != nil {
			return nil, err
		}
		after = append(after, job)
	}
	for _, z := range args.Spec.Zones {
		c.zones[z.Name], err = corev1.NewSecret(ctx, name+"-zone-"+z.Name, &corev1.SecretArgs{
			Metadata: n.meta(n.tls(z.Name), nil, labelZone, z.Name), Data: nodePair(n, current, old, leaf, n.clientHosts(z.Name)),
		}, pulumi.Parent(c), pulumi.DependsOn(after))
		if err != nil {
			return nil, err
		}
	}
	return c, ctx.RegisterResourceOutputs(c, pulumi.Map{"bundle": c.Bundle, "trustName": pulumi.String(c.TrustName)})
}

// seed is a random secret and when it was made, read back from its Secret.
type seed struct {
	*corev1.Secret
	rotation int
}

// seed makes the Secret of a seed, once: later runs of the program make other numbers, which are
// ignored.
func (c *Certificates) seed(ctx *pulumi.Context, name string, n names, what string, rotation int, now time.Time, protect bool) (*seed, error) {
	id := what + "-" + strconv.Itoa(rotation)
	s, err := corev1.NewSecret(ctx, name+"-"+id, &corev1.SecretArgs{
		Metadata: n.meta(n.Name+"-"+id, nil),
		Data: pulumi.ToSecret(pulumi.StringMap{
			"seed":   pulumi.String(base64.StdEncoding.EncodeToString(pki.NewSeed())),
			"issued": pulumi.String(base64.StdEncoding.EncodeToString([]byte(now.UTC().Format(time.RFC3339)))),
		}).(pulumi.StringMapInput),
	}, pulumi.Parent(c), pulumi.IgnoreChanges([]string{"data"}), pulumi.Protect(protect), pulumi.AdditionalSecretOutputs([]string{"data"}))
	return &seed{s, rotation}, err
}

// read decodes what a Secret of a seed holds.
func readSeed(data map[string]string) ([]byte, time.Time, error) {
	b, err := base64.StdEncoding.DecodeString(data["seed"])
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("the seed in its Secret is not base64: it was changed by hand; restore it, or raise the rotation counter: %w", err)
	}
	text, err := base64.StdEncoding.DecodeString(data["issued"])
	if err != nil {
		return nil, time.Time{}, err
	}
	issued, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("the time in a seed's Secret is no time: it was changed by hand; restore it, or raise the rotation counter: %w", err)
	}
	return b, issued, nil
}

// ca makes the CA of a seed. Each has a name of its own, so that one can vouch for the next.
func (s *seed) ca(n names, data map[string]string) (*pki.Pair, error) {
	b, issued, err := readSeed(data)
	if err != nil {
		return nil, err
	}
	name := "atoll " + n.Namespace + "/" + n.Name
	if s.rotation > 1 {
		name += " " + strconv.Itoa(s.rotation)
	}
	return pki.CA(name, b, issued)
}

// caCert returns the CA's certificate, which is public.
func (s *seed) caCert(n names) pulumi.StringOutput {
	return pulumi.Unsecret(s.Data.ApplyT(func(data map[string]string) (string, error) {
		ca, err := s.ca(n, data)
		if err != nil {
			return "", err
		}
		return ca.Cert, nil
	}).(pulumi.StringOutput)).(pulumi.StringOutput)
}

// nodePair returns node.crt and node.key for a Secret. With an old CA, clients that know only that
// one go on: it vouches for the CA in a certificate that the node sends as well.
func nodePair(n names, ca, old, leaf *seed, hosts []string) pulumi.StringMapOutput {
	seeds := []any{ca.Data, leaf.Data}
	if old != nil {
		seeds = append(seeds, old.Data)
	}
	pair := pulumi.All(seeds...).ApplyT(func(in []any) (map[string]string, error) {
		root, err := ca.ca(n, in[0].(map[string]string))
		if err != nil {
			return nil, err
		}
		b, issued, err := readSeed(in[1].(map[string]string))
		if err != nil {
			return nil, err
		}
		p, err := pki.Node(root, b, issued, n.Certificates.ValidDays, hosts)
		if err != nil {
			return nil, err
		}
		chain := p.Cert
		if old != nil {
			before, err := old.ca(n, in[2].(map[string]string))
			if err != nil {
				return nil, err
			}
			cross, err := pki.Cross(before, root)
			if err != nil {
				return nil, err
			}
			chain += cross
		}
		return map[string]string{
			"node.crt": base64.StdEncoding.EncodeToString([]byte(chain)),
			"node.key": base64.StdEncoding.EncodeToString([]byte(p.Key)),
		}, nil
	}).(pulumi.StringMapOutput)
	return pulumi.ToSecret(pair).(pulumi.StringMapOutput)
}

// waitForTrust tries the new CA on every node before any node's certificate is made with it.
func (c *Certificates) waitForTrust(ctx *pulumi.Context, name string, n names, ca, leaf *seed) (pulumi.Resource, error) {
	trial := n.Name + "-trial-tls-" + strconv.Itoa(n.Certificates.CARotation)
	secret, err := corev1.NewSecret(ctx, name+"-trial", &corev1.SecretArgs{
		Metadata: n.meta(trial, nil), Data: nodePair(n, ca, nil, leaf, n.clientHosts("trial")),
	}, pulumi.Parent(c), pulumi.DependsOn([]pulumi.Resource{c.trust}))
	if err != nil {
		return nil, err
	}
	return newJob(ctx, name+"-trust-wait", n, jobSpec{
		Step: "trust-" + strconv.Itoa(n.Certificates.CARotation), TLSSecret: trial,
		Args: []string{"node", "wait-tls", "--certs=" + certsDir, "--nodes=" + commas(n.allHosts(NodePort)), "--timeout=" + n.Timeout.String()},
	}, pulumi.Parent(c), pulumi.DependsOn([]pulumi.Resource{secret, c.trust}))
}
