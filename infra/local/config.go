package local

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Provisioner is what a StorageClass names to get volumes from a node's own disk. Such a class
// needs volumeBindingMode WaitForFirstConsumer and may allow expansion.
const Provisioner = "local.atolldb.dev/disk"

// StorageClass is the name of the default class that Up creates.
const StorageClass = "atoll-local"

// ControlPlane and Host are the names by which faults address what is not a zone: the Kubernetes
// control plane, and the road from the host into the cluster.
const (
	ControlPlane = "control-plane"
	Host         = "host"
)

// Limits of one local cluster.
const (
	maxZones        = 9
	maxNodesPerZone = 5
	minDiskMiB      = 256
	maxDiskMiB      = 1 << 20
	maxForwards     = 32
)

// Zone is a failure domain: its nodes are cut off, killed and healed together.
type Zone struct {
	Name   string `json:"name"`   // label topology.kubernetes.io/zone
	Region string `json:"region"` // label topology.kubernetes.io/region
	Nodes  int    `json:"nodes"`  // at least 1
}

// Forward makes a NodePort of the cluster reachable on the host. Connections go to any node that
// answers, so a forward outlives the loss of every zone but the last. A Service of type NodePort with
// externalTrafficPolicy Local is best: then a node that answers has a pod of its own, and no
// connection is handed on to a zone that is gone.
type Forward struct {
	Name     string `json:"name"`
	Listen   string `json:"listen"` // host:port, on loopback
	NodePort int    `json:"nodePort"`
	Zone     string `json:"zone,omitempty"` // whose nodes are tried first
}

// Config says what the local cluster looks like. Default fills it, Validate checks it.
type Config struct {
	Name     string    `json:"name"`
	Zones    []Zone    `json:"zones"`
	APIPort  int       `json:"apiPort"` // of the Kubernetes API on 127.0.0.1
	Forwards []Forward `json:"forwards"`
	DiskMiB  int       `json:"diskMiB"` // size of each node's disk; the file behind it is sparse
	// NodeGrace is how long a silent node counts as ready. Kubernetes' own default is 50 s.
	NodeGrace time.Duration `json:"nodeGrace"`
	// Eviction is how long a pod stays bound to a node that is not ready before it is marked for
	// deletion: Kubernetes' default tolerations. Pods may bring their own.
	Eviction time.Duration `json:"eviction"`
}

// Default is three zones with a node each, and forwards for SQL and HTTP: NodePorts 30257 (any
// node), 30258 and up (one for each zone), and 30080 for HTTP.
func Default() Config {
	c := Config{
		Name:      "atoll",
		APIPort:   16443,
		DiskMiB:   20 << 10,
		NodeGrace: 12 * time.Second,
		Eviction:  300 * time.Second,
	}
	c.Zones, _ = ParseZones("us-a,us-b,us-c", 1)
	c.Forwards = DefaultForwards(c.Zones, 26257, 8080)
	return c
}

// DefaultForwards maps sqlPort to NodePort 30257, the ports after it to one NodePort per zone
// (30258 and up, in the order of zones), and httpPort to 30080.
func DefaultForwards(zones []Zone, sqlPort, httpPort int) []Forward {
	at := func(p int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p)) }
	fs := []Forward{{Name: "sql", Listen: at(sqlPort), NodePort: 30257}}
	for i, z := range zones {
		fs = append(fs, Forward{Name: "sql-" + z.Name, Listen: at(sqlPort + 1 + i), NodePort: 30258 + i, Zone: z.Name})
	}
	return append(fs, Forward{Name: "http", Listen: at(httpPort), NodePort: 30080})
}

// ParseZones reads "us-a,us-b,eu/eu-a": zone names, each with an optional region before a slash.
// Without one the region is the name up to its last hyphen.
func ParseZones(s string, nodes int) ([]Zone, error) {
	var zs []Zone
	for _, f := range strings.Split(s, ",") {
		f = strings.TrimSpace(f)
		if f == "" {
			return nil, fmt.Errorf("zones %q: an empty name; give them as us-a,us-b,us-c", s)
		}
		region, name, ok := strings.Cut(f, "/")
		if !ok {
			name = f
			region = f
			if i := strings.LastIndexByte(f, '-'); i > 0 {
				region = f[:i]
			}
		}
		zs = append(zs, Zone{Name: name, Region: region, Nodes: nodes})
	}
	return zs, nil
}

// ParseForward reads "name=host:port:nodePort".
func ParseForward(s string) (Forward, error) {
	name, rest, ok := strings.Cut(s, "=")
	i := strings.LastIndexByte(rest, ':')
	if !ok || i < 0 {
		return Forward{}, fmt.Errorf("forward %q: want name=127.0.0.1:PORT:NODEPORT", s)
	}
	p, err := strconv.Atoi(rest[i+1:])
	if err != nil {
		return Forward{}, fmt.Errorf("forward %q: node port %q is not a number", s, rest[i+1:])
	}
	return Forward{Name: name, Listen: rest[:i], NodePort: p}, nil
}

var dnsLabel = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)

// Validate lists every fault of the configuration, not only the first.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !dnsLabel.MatchString(c.Name) || len(c.Name) > 20 {
		bad("name %q: want 1 to 20 lower-case letters, digits and hyphens, a letter first", c.Name)
	}
	if n := len(c.Zones); n < 1 || n > maxZones {
		bad("zones: %d of them, want 1 to %d", n, maxZones)
	}
	seen := map[string]bool{ControlPlane: true, Host: true, "net": true, "cp": true}
	for _, z := range c.Zones {
		if !dnsLabel.MatchString(z.Name) || len(z.Name) > 30 {
			bad("zone %q: want 1 to 30 lower-case letters, digits and hyphens, a letter first", z.Name)
		}
		if !dnsLabel.MatchString(z.Region) || len(z.Region) > 30 {
			bad("zone %q: region %q: want 1 to 30 lower-case letters, digits and hyphens, a letter first", z.Name, z.Region)
		}
		if seen[z.Name] {
			bad("zone %q: the name is taken", z.Name)
		}
		seen[z.Name] = true
		if z.Nodes < 1 || z.Nodes > maxNodesPerZone {
			bad("zone %q: %d nodes, want 1 to %d", z.Name, z.Nodes, maxNodesPerZone)
		}
	}
	names := map[string]bool{}
	for _, n := range c.Nodes() {
		if names[n.Name] {
			bad("zone %q: its node %q has the name of another zone's node; name the zones otherwise", n.Zone, n.Name)
		}
		names[n.Name] = true
	}
	if c.APIPort < 1 || c.APIPort > 65535 {
		bad("API port %d: want 1 to 65535", c.APIPort)
	}
	errs = append(errs, c.forwardFaults()...)
	if c.DiskMiB < minDiskMiB || c.DiskMiB > maxDiskMiB {
		bad("disk %d MiB: want %d to %d", c.DiskMiB, minDiskMiB, maxDiskMiB)
	}
	if c.NodeGrace < 10*time.Second || c.NodeGrace > 10*time.Minute {
		bad("node grace %v: want 10s to 10m (nodes report every 3 s)", c.NodeGrace)
	}
	if c.Eviction < 0 || c.Eviction > 24*time.Hour {
		bad("eviction %v: want 0 to 24h", c.Eviction)
	}
	return errors.Join(errs...)
}

func (c Config) forwardFaults() []error {
	var errs []error
	if len(c.Forwards) > maxForwards {
		errs = append(errs, fmt.Errorf("forwards: %d of them, at most %d", len(c.Forwards), maxForwards))
	}
	taken := map[string]string{net.JoinHostPort("127.0.0.1", strconv.Itoa(c.APIPort)): "the Kubernetes API"}
	for _, f := range c.Forwards {
		host, port, err := net.SplitHostPort(f.Listen)
		ip := net.ParseIP(host)
		p, perr := strconv.Atoi(port)
		if err != nil || ip == nil || !ip.IsLoopback() || perr != nil || p < 1 || p > 65535 {
			errs = append(errs, fmt.Errorf("forward %q: listen %q: want a loopback address and a port, such as 127.0.0.1:26257", f.Name, f.Listen))
		}
		if f.NodePort < 30000 || f.NodePort > 32767 {
			errs = append(errs, fmt.Errorf("forward %q: node port %d: want 30000 to 32767", f.Name, f.NodePort))
		}
		if by, ok := taken[f.Listen]; ok {
			errs = append(errs, fmt.Errorf("forward %q: %s is taken by %s", f.Name, f.Listen, by))
		}
		taken[f.Listen] = "forward " + f.Name
	}
	return errs
}
