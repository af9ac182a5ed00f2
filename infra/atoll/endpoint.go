package atoll

import (
	"fmt"
	"net/url"
	"strings"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/atolldb/atoll/infra/config"
)

// SQLEndpointArgs configures a SQLEndpoint.
type SQLEndpointArgs struct {
	Spec *config.Spec
	// Password of the superuser, for the connection strings.
	Password pulumi.StringInput
}

// SQLEndpoint is how nodes and clients are reached: the nodes' own names (published before they
// are ready, or a cold start would wait for itself), one Service over all nodes, whose traffic
// stays in the client's zone while that has a ready node, one Service for each zone, and one for
// HTTP.
type SQLEndpoint struct {
	pulumi.ResourceState

	// Connection is a connection string through the Service over all nodes; secret.
	Connection pulumi.StringOutput
	// MultiHost names an address in every zone, with time-outs that notice a dead zone within
	// seconds (for libpq and what builds on it); secret.
	MultiHost pulumi.StringOutput
	// Zones has a connection string for each zone; secret.
	Zones pulumi.StringMapOutput
	// InCluster is a connection string for pods; secret.
	InCluster pulumi.StringOutput
	// HTTP is the URL of the console.
	HTTP pulumi.StringOutput

	services []pulumi.Resource
}

// NewSQLEndpoint makes the Services.
func NewSQLEndpoint(ctx *pulumi.Context, name string, args *SQLEndpointArgs, opts ...pulumi.ResourceOption) (*SQLEndpoint, error) {
	e := &SQLEndpoint{}
	if err := ctx.RegisterComponentResource("atoll:index:SQLEndpoint", name, e, opts...); err != nil {
		return nil, err
	}
	n := names{args.Spec}
	if err := e.makeServices(ctx, name, n); err != nil {
		return nil, err
	}
	password := pulumi.ToSecret(args.Password).(pulumi.StringOutput)
	str := func(build func(password string) string) pulumi.StringOutput {
		return password.ApplyT(build).(pulumi.StringOutput)
	}
	all := n.outside()
	var zoneAddrs []string
	zones := pulumi.StringMap{}
	for _, z := range n.Zones {
		addr := n.outsideZone(z.Name)
		zoneAddrs = append(zoneAddrs, addr)
		zones[z.Name] = str(func(p string) string { return connection(p, addr) })
	}
	e.Connection = str(func(p string) string { return connection(p, all) })
	e.MultiHost = str(func(p string) string { return multiHost(p, zoneAddrs) })
	e.Zones = zones.ToStringMapOutput()
	e.InCluster = str(func(p string) string { return connection(p, fmt.Sprintf("%s:%d", n.service(n.sql()), SQLPort)) })
	e.HTTP = pulumi.String("http://" + n.outsideHTTP() + "/").ToStringOutput()
	return e, ctx.RegisterResourceOutputs(e, pulumi.Map{"connection": e.Connection, "multiHost": e.MultiHost, "zones": e.Zones,
		"inCluster": e.InCluster, "http": e.HTTP})
}

// caFile is where the connection strings expect the CA: pulumi stack output ca > atoll-ca.crt.
const caFile = "atoll-ca.crt"

func connection(password, addrs string) string {
	return fmt.Sprintf("postgresql://%s:%s@%s/postgres?sslmode=verify-full&sslrootcert=%s", Superuser, url.QueryEscape(password), addrs, caFile)
}

// multiHost bounds how long a client waits for an address whose zone is gone: 3 s to connect,
// about 10 s on a connection that was open.
func multiHost(password string, addrs []string) string {
	return connection(password, strings.Join(addrs, ",")) +
		"&target_session_attrs=read-write&connect_timeout=3&keepalives=1&keepalives_idle=4&keepalives_interval=2&keepalives_count=3&tcp_user_timeout=10000"
}

// outside returns the address of SQL for clients.
func (n names) outside() string {
	port := n.Endpoint.Port
	if port == 0 {
		port = SQLPort
		if n.Endpoint.Type == "NodePort" && n.Endpoint.NodePort != 0 {
			port = n.Endpoint.NodePort
		}
	}
	host := n.Endpoint.Host
	if host == "" {
		return fmt.Sprintf("%s:%d", n.service(n.sql()), SQLPort)
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// outsideZone returns a zone's address for clients; inside the cluster, if there is none outside.
func (n names) outsideZone(zone string) string {
	if h := n.Endpoint.ZoneHosts[zone]; h != "" {
		host, port := splitPort(h, SQLPort)
		return host + ":" + port
	}
	return fmt.Sprintf("%s:%d", n.service(n.zoneSQL(zone)), SQLPort)
}

func (n names) outsideHTTP() string {
	if n.Endpoint.HTTPAddress != "" {
		return n.Endpoint.HTTPAddress
	}
	return fmt.Sprintf("%s:%d", n.service(n.http()), HTTPPort)
}

func (e *SQLEndpoint) makeServices(ctx *pulumi.Context, name string, n names) error {
	add := func(suffix, service string, spec *corev1.ServiceSpecArgs, annotations map[string]string, labels ...string) error {
		all := map[string]string{}
		for _, m := range []map[string]string{skipAwait, annotations} {
			for k, v := range m {
				all[k] = v
			}
		}
		s, err := corev1.NewService(ctx, name+"-"+suffix, &corev1.ServiceArgs{Metadata: n.meta(service, all, labels...), Spec: spec}, pulumi.Parent(e))
		e.services = append(e.services, s)
		return err
	}
	nodes := func(extra ...string) pulumi.StringMap { return n.selector(append(extra, labelRole, "node")...) }
	err := add("nodes", n.headless(), &corev1.ServiceSpecArgs{ClusterIP: pulumi.String("None"), PublishNotReadyAddresses: pulumi.Bool(true), Selector: nodes(),
		Ports: corev1.ServicePortArray{servicePort("node", NodePort, 0), servicePort("sql", SQLPort, 0), servicePort("http", HTTPPort, 0)}}, nil, labelRole, "node")
	if err != nil {
		return err
	}
	// PreferClose keeps a client's traffic in its zone while a ready node is there.
	err = add("sql", n.sql(), &corev1.ServiceSpecArgs{Type: pulumi.String(n.Endpoint.Type), Selector: nodes(), TrafficDistribution: pulumi.String("PreferClose"),
		Ports: corev1.ServicePortArray{servicePort("sql", SQLPort, n.Endpoint.NodePort)}}, n.Endpoint.Annotations)
	if err != nil {
		return err
	}
	err = add("http", n.http(), &corev1.ServiceSpecArgs{Type: pulumi.String(typeFor(n.Endpoint.HTTPPort)), Selector: nodes(),
		Ports: corev1.ServicePortArray{servicePort("http", HTTPPort, n.Endpoint.HTTPPort)}}, nil)
	if err != nil {
		return err
	}
	for _, z := range n.Zones {
		p := n.Endpoint.ZoneNodePorts[z.Name]
		err = add("sql-"+z.Name, n.zoneSQL(z.Name), &corev1.ServiceSpecArgs{Type: pulumi.String(typeFor(p)), Selector: nodes(labelZone, z.Name),
			Ports: corev1.ServicePortArray{servicePort("sql", SQLPort, p)}}, nil, labelZone, z.Name)
		if err != nil {
			return err
		}
	}
	return nil
}

func typeFor(nodePort int) string {
	if nodePort != 0 {
		return "NodePort"
	}
	return "ClusterIP"
}

func servicePort(name string, number, nodePort int) *corev1.ServicePortArgs {
	p := &corev1.ServicePortArgs{Name: pulumi.String(name), Port: pulumi.Int(number), TargetPort: pulumi.String(name), Protocol: pulumi.String("TCP")}
	if nodePort != 0 {
		p.NodePort = pulumi.Int(nodePort)
	}
	return p
}
