package atoll

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/atolldb/atoll/infra/config"
)

// Ports of a node, the same in every pod and Service.
const (
	NodePort = 26357 // between nodes
	SQLPort  = 26257
	HTTPPort = 8080
)

// Superuser is the first user.
const Superuser = "postgres"

// Labels of everything that belongs to a cluster.
const (
	labelCluster = "atoll/cluster"
	labelZone    = "atoll/zone"
	labelRole    = "atoll/role" // node or job
)

// skipAwait is annotated where a provider should not wait for Kubernetes to call an object
// ready: a node is ready only once the cluster is founded, which is a later step of the graph.
var skipAwait = map[string]string{"pulumi.com/skipAwait": "true"}

// takeBack is annotated everywhere: what was changed by hand belongs to the stack again at the
// next update.
const takeBack = "pulumi.com/patchForce"

// names derives every name of a cluster from its configuration.
type names struct{ *config.Spec }

func (n names) headless() string           { return n.Name + "-nodes" }
func (n names) sql() string                { return n.Name + "-sql" }
func (n names) zoneSQL(zone string) string { return n.Name + "-sql-" + zone }
func (n names) http() string               { return n.Name + "-http" }
func (n names) set(zone string) string     { return n.Name + "-" + zone }
func (n names) trust() string              { return n.Name + "-ca" }
func (n names) tls(zone string) string     { return n.Name + "-tls-" + zone }
func (n names) identity() string           { return n.Name + "-identity" }
func (n names) founded() string            { return n.Name + "-founded" }
func (n names) joinList() string           { return n.Name + "-join" }
func (n names) superuser() string          { return n.Name + "-superuser" }
func (n names) storageClass(z string) string {
	if n.Storage.Class != "" {
		return n.Storage.Class
	}
	return n.Namespace + "-" + n.Name + "-" + z
}

// service returns a Service's full name in DNS.
func (n names) service(name string) string {
	return name + "." + n.Namespace + ".svc." + n.ClusterDomain
}

// podHost returns the name of a zone's i-th node in DNS.
func (n names) podHost(zone string, i int) string {
	return config.PodName(n.Name, zone, i) + "." + n.service(n.headless())
}

// hosts returns all nodes of a zone, with a port.
func (n names) hosts(z config.Zone, port int) []string {
	out := make([]string, z.Nodes)
	for i := range out {
		out[i] = fmt.Sprintf("%s:%d", n.podHost(z.Name, i), port)
	}
	return out
}

// allHosts returns all nodes of all zones, with a port.
func (n names) allHosts(port int) []string {
	var out []string
	for _, z := range n.Zones {
		out = append(out, n.hosts(z, port)...)
	}
	return out
}

// join returns where a node that belongs to no cluster yet looks for one: the first node of each
// zone.
func (n names) join() []string {
	var out []string
	for _, z := range n.Zones {
		out = append(out, n.hosts(z, NodePort)[0])
	}
	return out
}

// clientHosts are the names and addresses by which clients reach a zone's nodes; zone's
// certificate carries all of them.
func (n names) clientHosts(zone string) []string {
	out := []string{"localhost", "127.0.0.1", "::1", zone}
	for _, s := range []string{n.sql(), n.zoneSQL(zone), n.http()} {
		out = append(out, s, s+"."+n.Namespace, s+"."+n.Namespace+".svc", n.service(s))
	}
	out = append(out, n.service(n.headless()), "*."+n.service(n.headless()))
	out = append(out, n.Certificates.Hosts...)
	if n.Endpoint.Host != "" {
		out = append(out, n.Endpoint.Host)
	}
	if h := n.Endpoint.ZoneHosts[zone]; h != "" {
		host, _ := splitPort(h, SQLPort)
		out = append(out, host)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// splitPort splits host[:port].
func splitPort(s string, def int) (host string, port string) {
	if h, p, ok := strings.Cut(s, ":"); ok && !strings.Contains(p, ":") {
		return h, p
	}
	return s, fmt.Sprint(def)
}

func (n names) labels(extra ...string) pulumi.StringMap {
	m := pulumi.StringMap{
		"app.kubernetes.io/name":       pulumi.String("atoll"),
		"app.kubernetes.io/instance":   pulumi.String(n.Name),
		"app.kubernetes.io/managed-by": pulumi.String("pulumi"),
	}
	for k, v := range n.selector(extra...) {
		m[k] = v
	}
	return m
}

// selector returns the labels that select a cluster's pods.
func (n names) selector(extra ...string) pulumi.StringMap {
	m := pulumi.StringMap{labelCluster: pulumi.String(n.Name)}
	for i := 0; i+1 < len(extra); i += 2 {
		m[extra[i]] = pulumi.String(extra[i+1])
	}
	return m
}

func (n names) meta(name string, annotations map[string]string, labels ...string) *metav1.ObjectMetaArgs {
	all := pulumi.StringMap{takeBack: pulumi.String("true")}
	for k, v := range annotations {
		all[k] = pulumi.String(v)
	}
	return &metav1.ObjectMetaArgs{Name: pulumi.String(name), Namespace: pulumi.String(n.Namespace), Labels: n.labels(labels...), Annotations: all}
}

// contentHash names a value by what it holds.
func contentHash(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("atoll: a value of the graph can't be hashed: %v", err)) // values are ours, without outputs
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:5])
}
