package local

import "fmt"

// Addresses inside the cluster. They live in namespaces of their own, so they meet nothing of the
// host's, and several clusters may use the same ones.
const (
	nodeNet      = "10.89.0"
	switchIP     = nodeNet + ".1"
	controlIP    = nodeNet + ".2"
	podCIDR      = "10.244.0.0/16"
	serviceCIDR  = "10.96.0.0/16"
	serviceAPI   = "10.96.0.1"
	dnsIP        = "169.254.20.10" // on every node's loopback: a node that is cut off keeps its DNS
	apiPort      = 6443
	clusterZone  = "cluster.local"
	firstNodeIP  = 11
	bridgeDevice = "br0"
	controlPort  = "p0" // the control plane's port of the bridge; node i has p<i>
)

// Node is one machine of the cluster.
type Node struct {
	Name   string // of the Kubernetes node: the zone's, and from the second on a number behind it
	Zone   string
	Region string
	Index  int // from 1, over all zones
}

// IP is the node's address on the bridge.
func (n Node) IP() string { return fmt.Sprintf("%s.%d", nodeNet, firstNodeIP+n.Index-1) }

// PodCIDR is where the node's pods get their addresses.
func (n Node) PodCIDR() string { return fmt.Sprintf("10.244.%d.0/24", n.Index) }

// Port is the node's port of the bridge.
func (n Node) Port() string { return fmt.Sprintf("p%d", n.Index) }

// Nodes lists all nodes, zone by zone. A zone's first node has the zone's name.
func (c Config) Nodes() []Node {
	var ns []Node
	for _, z := range c.Zones {
		for i := range z.Nodes {
			name := z.Name
			if i > 0 {
				name = fmt.Sprintf("%s-%d", z.Name, i+1)
			}
			ns = append(ns, Node{Name: name, Zone: z.Name, Region: z.Region, Index: len(ns) + 1})
		}
	}
	return ns
}

// ZoneNodes lists the nodes of one zone.
func (c Config) ZoneNodes(zone string) []Node {
	var ns []Node
	for _, n := range c.Nodes() {
		if n.Zone == zone {
			ns = append(ns, n)
		}
	}
	return ns
}

// ZoneNames lists the zones in order.
func (c Config) ZoneNames() []string {
	var zs []string
	for _, z := range c.Zones {
		zs = append(zs, z.Name)
	}
	return zs
}

// machine is a process tree with a network namespace and a cgroup: a node, the control plane, or
// the relay.
type machine struct {
	name  string // as in the state's processes
	role  string // roleNode, roleControl, roleRelay
	netns string
	group string // cgroup
}

const (
	roleNode    = "node"
	roleControl = "control-plane"
	roleRelay   = "relay"
)

func (c Config) switchNS() string { return c.Name + "-net" }

func (c Config) controlMachine() machine {
	return machine{ControlPlane, roleControl, c.Name + "-cp", c.Name + "-cp"}
}

func (c Config) relayMachine() machine {
	return machine{"relay", roleRelay, c.switchNS(), c.Name + "-relay"}
}

func (c Config) nodeMachine(n Node) machine {
	return machine{"node-" + n.Name, roleNode, c.Name + "-" + n.Name, c.Name + "-" + n.Name}
}

// machines lists everything that runs, in the order of its start.
func (c Config) machines() []machine {
	ms := []machine{c.relayMachine(), c.controlMachine()}
	for _, n := range c.Nodes() {
		ms = append(ms, c.nodeMachine(n))
	}
	return ms
}

// netnsPlan is what one network namespace needs, as `ip -batch` commands.
type netnsPlan struct {
	name     string
	commands []string
}

// networkPlan renders the whole network: first the bridge's namespace, then one for each machine,
// joined to it by a veth pair. Pods reach each other by routes from node to node.
func (c Config) networkPlan() []netnsPlan {
	nodes := c.Nodes()
	podRoutes := func(but int) []string {
		var rs []string
		for _, o := range nodes {
			if o.Index != but {
				rs = append(rs, fmt.Sprintf("route replace %s via %s", o.PodCIDR(), o.IP()))
			}
		}
		return rs
	}
	sw := netnsPlan{name: c.switchNS(), commands: []string{
		"link set lo up",
		"link add " + bridgeDevice + " type bridge",
		"addr add " + switchIP + "/24 dev " + bridgeDevice,
		"link set " + bridgeDevice + " up",
	}}
	sw.commands = append(sw.commands, podRoutes(0)...)
	plans := []netnsPlan{sw}
	add := func(ns, port, ip string, more ...string) {
		p := netnsPlan{name: ns, commands: []string{
			"link set lo up",
			"link add eth0 type veth peer name " + port + " netns " + c.switchNS(),
			"addr add " + ip + "/24 dev eth0",
			"link set eth0 up",
			"route replace default via " + switchIP,
		}}
		p.commands = append(p.commands, more...)
		plans = append(plans, p)
	}
	add(c.controlMachine().netns, controlPort, controlIP, podRoutes(0)...)
	for _, n := range nodes {
		more := append([]string{"addr add " + dnsIP + "/32 dev lo"}, podRoutes(n.Index)...)
		add(c.nodeMachine(n).netns, n.Port(), n.IP(), more...)
	}
	return plans
}

// ports lists the bridge's ports: the control plane's, then each node's.
func (c Config) ports() []string {
	ps := []string{controlPort}
	for _, n := range c.Nodes() {
		ps = append(ps, n.Port())
	}
	return ps
}
