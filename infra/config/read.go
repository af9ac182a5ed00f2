package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology"
)

// Limits and defaults.
const (
	MaxNodesPerZone  = 32
	minMemory        = 512 << 20
	minVolume        = 1 << 30
	minTimeout       = time.Minute
	maxTimeout       = 6 * time.Hour
	maxDeadAfter     = 7 * 24 * time.Hour // as the node has it
	DefaultPort      = 26257
	maxZoneName      = 30 // <cluster>-<zone>-<n> is a host name, and services append to it
	maxClusterName   = 20
	maxCertValidDays = 825
)

// keys are all configuration keys; those marked have structure.
var keys = map[string]bool{
	"platform": false, "kubeconfig": false, "context": false, "inspect": false, "cloud": true,
	"name": false, "namespace": false, "clusterDomain": false,
	"zones": true, "nodesPerZone": false, "policy": true,
	"image": false, "imagePullPolicy": false, "resources": true, "storage": true,
	"certificates": true, "endpoint": true, "monitoring": false, "timeout": false, "deadAfter": true,
}

// Keys returns the names of all keys, in order.
func Keys() []string {
	out := make([]string, 0, len(keys))
	for k := range keys {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Error is every fault of a configuration.
type Error struct{ Faults []string }

// Error lists the faults, one a line.
func (e *Error) Error() string {
	what := "faults"
	if len(e.Faults) == 1 {
		what = "fault"
	}
	return fmt.Sprintf("the configuration has %d %s:\n  - %s", len(e.Faults), what, strings.Join(e.Faults, "\n  - "))
}

// Files reads the file of a policy, relative to the project's folder.
type Files func(path string) ([]byte, error)

// Read reads a stack's configuration: values by key, without the project's name. It fills
// defaults and checks all that can be checked without a cluster; Check does the rest once the
// zones are known. The error is an *Error.
func Read(values map[string]string, files Files) (*Spec, error) {
	d := &decoder{}
	top := object{d: d, m: map[string]any{}}
	var unknown []string
	for k, text := range values {
		structured, ok := keys[k]
		if !ok {
			unknown = append(unknown, k)
			continue
		}
		top.m[k] = d.parse(k, text, structured)
	}
	slices.Sort(unknown)
	for _, k := range unknown {
		d.fault("atoll:%s is no key; the keys are %s", k, strings.Join(Keys(), ", "))
	}
	s := &Spec{
		Platform:        top.oneOf("platform", Existing, Existing, Local, EKS, GKE, AKS),
		Kubeconfig:      top.str("kubeconfig", ""),
		Context:         top.str("context", ""),
		Inspect:         top.boolean("inspect", true),
		Name:            top.str("name", "atoll"),
		Namespace:       top.str("namespace", "atoll"),
		ClusterDomain:   top.str("clusterDomain", "cluster.local"),
		NodesPerZone:    top.integer("nodesPerZone", 1, 1, MaxNodesPerZone),
		Image:           top.str("image", ""),
		ImagePullPolicy: top.oneOf("imagePullPolicy", "IfNotPresent", "Always", "IfNotPresent", "Never"),
		Monitoring:      top.boolean("monitoring", false),
	}
	if s.Image == "" {
		d.fault("atoll:image is empty; name the image, for instance with: pulumi config set image registry.example/atoll:1.0 (make image builds one)")
	} else if strings.ContainsAny(s.Image, " \t\n") {
		d.fault("atoll:image is %q; an image has no spaces", s.Image)
	}
	dnsName(d, "atoll:name", s.Name, maxClusterName)
	dnsName(d, "atoll:namespace", s.Namespace, 63)
	s.Timeout = top.duration("timeout", "15m", minTimeout, maxTimeout)
	dead := d.object("atoll:deadAfter", top.m["deadAfter"], "node", "zone", "volume")
	s.DeadAfter = DeadAfter{Node: dead.duration("node", DefaultDeadAfter.Node.String(), time.Second, maxDeadAfter), Zone: dead.duration("zone", DefaultDeadAfter.Zone.String(), time.Second, maxDeadAfter),
		Volume: dead.duration("volume", DefaultDeadAfter.Volume.String(), time.Second, maxDeadAfter)}
	if s.DeadAfter.Zone < s.DeadAfter.Node {
		d.fault("atoll:deadAfter.zone is %s, less than atoll:deadAfter.node (%s); a zone is expected back for at least as long as a node", s.DeadAfter.Zone, s.DeadAfter.Node)
	}
	s.zones(d, top)
	s.policy(d, top, files)
	s.rest(d, top)
	if len(d.faults) > 0 {
		return nil, &Error{d.faults}
	}
	return s, nil
}

var dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

func dnsName(d *decoder, what, name string, length int) {
	switch {
	case len(name) > length:
		d.fault("%s is %q, %d characters; at most %d are possible, since names of pods and Services contain it", what, name, len(name), length)
	case !dnsLabel.MatchString(name):
		d.fault("%s is %q; use a-z, 0-9 and '-', with a letter or digit at both ends", what, name)
	}
}

func (s *Spec) zones(d *decoder, top object) {
	seen := map[string]bool{}
	list := top.list("zones")
	for i, v := range list {
		path := fmt.Sprintf("atoll:zones[%d]", i)
		o := d.object(path, v, "name", "region", "nodes", "role", "attributes")
		if o.m == nil {
			continue
		}
		z := Zone{Name: o.str("name", ""), Region: o.str("region", ""), Nodes: o.integer("nodes", s.NodesPerZone, 1, MaxNodesPerZone),
			Role: policies.Role(o.str("role", "")), Attributes: o.strings("attributes")}
		for _, a := range z.Attributes {
			if err := topology.CheckName("attribute", a); err != nil {
				d.fault("%s: %s", path, err)
			}
		}
		dnsName(d, path+".name", z.Name, maxZoneName)
		if z.Region != "" {
			dnsName(d, path+".region", z.Region, 63)
		}
		if seen[z.Name] {
			d.fault("%s: zone %q is given twice", path, z.Name)
		}
		seen[z.Name] = true
		if z.Role != "" && !slices.Contains(policies.Roles(), z.Role) {
			d.fault("%s.role is %q; use primary, replica, read-only, witness or excluded", path, z.Role)
		}
		s.Zones = append(s.Zones, z)
	}
	if len(list) == 0 && s.MakesCluster() {
		d.fault("atoll:zones is empty; name the zones of %s (they can be discovered on an existing cluster only)", s.Platform)
	}
}

func (s *Spec) policy(d *decoder, top object, files Files) {
	name, ok := top.m["policy"].(string)
	if top.m["policy"] == nil {
		name, ok = "survive-zone", true
	}
	var err error
	switch {
	case !ok:
		d.fault("atoll:policy must be the name of a ready policy (%s) or a path of a .yaml file, not %s", strings.Join(policies.Names(), ", "), describe(top.m["policy"]))
		return
	case strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml"):
		var text []byte
		if text, err = files(name); err == nil {
			s.Policy, err = policies.Read(name, text)
		}
	default:
		s.Policy, err = policies.Ready(name)
	}
	var syntax *policies.SyntaxError
	switch {
	case errors.As(err, &syntax):
		for _, line := range strings.Split(syntax.Error(), "\n") {
			d.fault("atoll:policy: %s", line)
		}
	case err != nil:
		d.fault("atoll:policy: %v", err)
	}
}

func (s *Spec) rest(d *decoder, top object) {
	r := d.object("atoll:resources", top.m["resources"], "cpu", "cpuLimit", "memory")
	s.Resources = Resources{CPU: r.str("cpu", "500m"), CPULimit: r.str("cpuLimit", ""), MemoryBytes: r.bytes("memory", "2Gi", minMemory)}
	for key, v := range map[string]string{"cpu": s.Resources.CPU, "cpuLimit": s.Resources.CPULimit} {
		if v != "" && !cpuQuantity.MatchString(v) {
			d.fault("atoll:resources.%s is %q; write cores like 2, 0.5 or 500m", key, v)
		}
	}
	topologyKey := "topology.kubernetes.io/zone"
	if s.MakesCluster() {
		topologyKey = ""
	}
	st := d.object("atoll:storage", top.m["storage"], "class", "provisioner", "parameters", "topologyKey", "size", "keep")
	s.Storage = Storage{Class: st.str("class", ""), Provisioner: st.str("provisioner", ""), Parameters: st.texts("parameters"), TopologyKey: st.str("topologyKey", topologyKey),
		SizeBytes: st.bytes("size", "10Gi", minVolume), Keep: st.boolean("keep", true)}
	switch {
	case s.Storage.Class != "" && s.Storage.Provisioner != "":
		d.fault("atoll:storage has both class and provisioner; name a class that exists, or a provisioner for classes of our own")
	case s.Storage.Class == "" && s.Storage.Provisioner == "" && !s.MakesCluster():
		d.fault("atoll:storage needs a class (see kubectl get storageclass) or a provisioner, for instance ebs.csi.aws.com")
	}
	c := d.object("atoll:certificates", top.m["certificates"], "rotation", "caRotation", "dropOldCA", "validDays", "hosts")
	s.Certificates = Certificates{Rotation: c.integer("rotation", 1, 1, 1<<20), CARotation: c.integer("caRotation", 1, 1, 1<<20),
		DropOldCA: c.boolean("dropOldCA", false), ValidDays: c.integer("validDays", maxCertValidDays, 1, maxCertValidDays), Hosts: c.strings("hosts")}
	for _, h := range s.Certificates.Hosts {
		checkHost(d, "atoll:certificates.hosts", h)
	}
	s.endpoint(d, top)
	s.cloud(d, top)
}

var cpuQuantity = regexp.MustCompile(`^([0-9]+m|[0-9]+(\.[0-9]{1,3})?)$`)

func (s *Spec) endpoint(d *decoder, top object) {
	e := d.object("atoll:endpoint", top.m["endpoint"], "type", "nodePort", "httpPort", "zoneNodePorts", "host", "port", "httpAddress", "annotations", "zoneHosts")
	s.Endpoint = Endpoint{Type: e.oneOf("type", "ClusterIP", "ClusterIP", "NodePort", "LoadBalancer"), NodePort: e.integer("nodePort", 0, 0, 65535),
		HTTPPort: e.integer("httpPort", 0, 0, 65535), Host: e.str("host", ""), Port: e.integer("port", 0, 0, 65535),
		ZoneNodePorts: e.numbers("zoneNodePorts", 1, 65535), HTTPAddress: e.str("httpAddress", ""),
		Annotations: e.texts("annotations"), ZoneHosts: e.texts("zoneHosts")}
	if s.Endpoint.Host != "" {
		checkHost(d, "atoll:endpoint.host", s.Endpoint.Host)
	}
	if s.Endpoint.Type == "LoadBalancer" && s.Endpoint.Host == "" {
		d.fault("atoll:endpoint.host is empty; name the host (DNS name or address) under which clients reach the load balancer, so that certificates carry it and sslmode=verify-full works")
	}
	if s.Endpoint.Type != "NodePort" && (s.Endpoint.NodePort != 0 || s.Endpoint.HTTPPort != 0 || len(s.Endpoint.ZoneNodePorts) > 0) {
		d.fault("atoll:endpoint.nodePort, httpPort and zoneNodePorts are for type NodePort; the type is %s", s.Endpoint.Type)
	}
	for _, z := range sortedKeys(s.Endpoint.ZoneHosts) {
		host, _, _ := strings.Cut(s.Endpoint.ZoneHosts[z], ":")
		checkHost(d, "atoll:endpoint.zoneHosts."+z, host)
	}
}

var hostName = regexp.MustCompile(`^(\*\.)?([A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?\.)*[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?$`)

func checkHost(d *decoder, what, h string) {
	if _, err := netip.ParseAddr(h); err == nil {
		return
	}
	if len(h) > 253 || !hostName.MatchString(h) {
		d.fault("%s: %q is neither a host name nor an address", what, h)
	}
}

// Check is the second half of Read, once the zones are known: the policy against the zones and
// against what the node carries out. It gives the policy the zones' roles, and zones without a
// region the region "default".
func (s *Spec) Check() error {
	d := &decoder{}
	split := func(err error) {
		if err != nil {
			d.faults = append(d.faults, strings.Split(err.Error(), "\n")...)
		}
	}
	known := func(key, zone string) {
		if !slices.ContainsFunc(s.Zones, func(k Zone) bool { return k.Name == zone }) {
			d.fault("%s names the zone %q, which is not in atoll:zones", key, zone)
		}
	}
	for _, z := range sortedKeys(s.Endpoint.ZoneHosts) {
		known("atoll:endpoint.zoneHosts", z)
	}
	for _, z := range sortedKeys(s.Endpoint.ZoneNodePorts) {
		known("atoll:endpoint.zoneNodePorts", z)
	}
	for i := range s.Zones {
		if s.Zones[i].Region == "" {
			s.Zones[i].Region = topology.DefaultRegion
		}
	}
	top, err := s.Topology()
	if err != nil {
		split(err)
		return &Error{d.faults}
	}
	var roles []policies.ZoneRole
	for _, z := range s.Zones {
		if z.Role != "" {
			roles = append(roles, policies.ZoneRole{Zone: z.Name, Role: z.Role})
		}
	}
	p, err := s.Policy.WithRoles(roles...)
	if err != nil {
		split(err)
	} else {
		split(p.Check(top))
		s.Policy = p
	}
	if len(d.faults) > 0 {
		return &Error{d.faults}
	}
	return nil
}

// FromStack turns what a stack file has below `config:`, without the project's name, into the
// values that Pulumi would hand over.
func FromStack(in map[string]any) map[string]string {
	out := map[string]string{}
	for k, v := range in {
		switch v := v.(type) {
		case string:
			out[k] = v
		default:
			b, err := json.Marshal(v)
			if err == nil {
				out[k] = string(b)
			}
		}
	}
	return out
}
