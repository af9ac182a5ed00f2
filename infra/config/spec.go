// Package config is what a stack decides: typed, with defaults, checked as a whole. Every fault
// is reported at once, with the key, the value, the bound and the next step.
package config

import (
	"time"

	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology"
)

// Platforms: where Kubernetes comes from.
const (
	Existing = "existing" // any kubeconfig
	Local    = "local"    // three zones on this machine, brought up by infra/local
	EKS      = "eks"
	GKE      = "gke"
	AKS      = "aks"
)

// Spec is a whole stack.
type Spec struct {
	Platform string
	// Kubeconfig is a file and Context a context in it; empty means what kubectl would use.
	Kubeconfig, Context string
	// Inspect looks at the cluster before anything is planned: zones, storage class, volumes.
	Inspect bool
	Cloud   Cloud

	Name, Namespace string
	ClusterDomain   string
	// Zones may be empty on an existing cluster: then they are read from its nodes' labels.
	Zones        []Zone
	NodesPerZone int // for discovered zones
	Policy       *policies.Policy

	Image           string
	ImagePullPolicy string
	Resources       Resources
	Storage         Storage
	Certificates    Certificates
	Endpoint        Endpoint
	Monitoring      bool
	DeadAfter       DeadAfter
	// Timeout bounds every Job between resources (founding, moving replicas, waiting).
	Timeout time.Duration
}

// Zone is one zone of the stack.
type Zone struct {
	Name   string
	Region string // empty: what the nodes' labels say
	Nodes  int
	Role   policies.Role // empty: what the policy says
	// Attributes say what the zone's nodes are made of, for policies that ask for it.
	Attributes []string
}

// DeadAfter is how long who is silent is expected back, until its replicas are made anew: a node while
// others of its zone answer, a whole zone, and a node whose volume was replaced by an empty one.
type DeadAfter struct{ Node, Zone, Volume time.Duration }

// DefaultDeadAfter is what a node does without flags.
var DefaultDeadAfter = DeadAfter{Node: 5 * time.Minute, Zone: 30 * time.Minute, Volume: time.Second}

// Resources of one node. Memory is request and limit; CPULimit is empty by default, since
// throttling against heartbeats means false failovers.
type Resources struct {
	CPU, CPULimit string
	MemoryBytes   int64
}

// Storage of one node. With Class empty, one class per zone is made from Provisioner; a cloud has
// a provisioner of its own (EBS gp3, pd-ssd, Premium SSD), whose Parameters may be added to.
type Storage struct {
	Class       string
	Provisioner string
	Parameters  map[string]string
	// TopologyKey is what the provisioner calls a zone in allowedTopologies. Empty with a cloud:
	// its platform knows.
	TopologyKey string
	SizeBytes   int64
	// Keep leaves volumes, certificates and passwords when the stack is destroyed.
	Keep bool
}

// Certificates: a higher Rotation makes new node certificates, a higher CARotation a new CA,
// which is trusted beside the one before it until DropOldCA.
type Certificates struct {
	Rotation, CARotation int
	DropOldCA            bool
	ValidDays            int
	Hosts                []string // further names and addresses of clients' connection strings
}

// Endpoint is how clients from outside reach SQL.
type Endpoint struct {
	Type               string // ClusterIP, NodePort or LoadBalancer
	NodePort, HTTPPort int    // NodePort only; 0 lets Kubernetes choose
	ZoneNodePorts      map[string]int
	Host               string // name or address that clients use
	Port               int    // its port; 0 means NodePort, or 26257
	HTTPAddress        string // host:port of the console for people; empty means the Service
	Annotations        map[string]string
	ZoneHosts          map[string]string // zone -> host[:port] that reaches it from outside
}

// Topology returns the zones as placement sees them. Node names are those of the pods.
func (s *Spec) Topology() (topology.Topology, error) {
	var zones []topology.Zone
	for _, z := range s.Zones {
		t := topology.Zone{Name: z.Name, Region: z.Region}
		for i := range z.Nodes {
			t.Nodes = append(t.Nodes, topology.Node{Name: PodName(s.Name, z.Name, i), Locality: t.Locality(), Attributes: z.Attributes})
		}
		zones = append(zones, t)
	}
	return topology.New(zones...)
}

// PodName returns the name of the i-th node of a zone.
func PodName(cluster, zone string, i int) string {
	return cluster + "-" + zone + "-" + itoa(i)
}
