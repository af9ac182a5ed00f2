// Package local runs a real three-zone Kubernetes on one Linux machine: a control plane and a node
// or more in each zone, every one in Linux namespaces of its own, joined by a bridge whose ports can
// be cut one direction at a time. Nothing is downloaded but Go modules and Debian packages.
//
// What runs where:
//
//	host            127.0.0.1 only: the relay's listeners (Kubernetes API, SQL, HTTP)
//	<name>-net      network namespace of the bridge br0 (10.89.0.1) and of the relay's outgoing side
//	<name>-cp       the control plane (10.89.0.2): etcd, API server, controller manager, scheduler
//	<name>-<node>   one node (10.89.0.11 and up): containerd, kubelet, kube-proxy, CoreDNS, volumes
//
// Each of the last two kinds is one process tree whose root is PID 1 of a PID namespace: a SIGKILL
// to it is that machine's loss of power. A node has a root file system of its own (the host's /usr,
// read-only, and nothing else of the host), a cgroup of its own, and one bounded disk: a sparse file
// with ext4 on it, mounted through a loop device, from which its volumes are carved.
//
// Faults (faults.go) are rules of nftables on the bridge, signals, the cgroup freezer, and a file
// that fills the disk. They hide nothing from the nodes: a cut link drops frames without a word.
//
// What this is not: one kernel carries all zones, so a killed node keeps the page cache (no lost
// fsync is found this way; the simulator in node/sim does that), a paused node's kernel goes on
// acknowledging TCP segments, and there is no delay or loss between zones.
package local
