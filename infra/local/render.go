package local

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Paths inside a node's root file system.
const (
	nodeCreds      = "/etc/kubernetes"
	nodePrograms   = "/opt/atoll/kubernetes"
	nodeDNS        = "/opt/atoll/coredns"
	nodeImages     = "/opt/atoll/images"
	nodeVolumes    = "/var/lib/volumes" // the node's disk
	containerdSock = "/run/containerd/containerd.sock"
	pauseImage     = "localhost/pause:1"
)

type object = map[string]any

// asJSON renders a configuration file; JSON is YAML too.
func asJSON(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // maps of strings, numbers and booleans only
	}
	return append(b, '\n')
}

// cniConfig connects a pod to the node's bridge cni0. Nothing is masqueraded: pod addresses are
// routed between nodes, and there is no road out.
func (n Node) cniConfig() []byte {
	return asJSON(object{
		"cniVersion": "1.0.0",
		"name":       "pods",
		"plugins": []object{{
			"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
			"ipam": object{
				"type":   "host-local",
				"ranges": [][]object{{{"subnet": n.PodCIDR()}}},
				"routes": []object{{"dst": "0.0.0.0/0"}},
			},
		}},
	})
}

// containerdConfig is for containerd 1.6 and 1.7 (configuration version 2; containerd 2 reads it
// as well). restrict_oom_score_adj: not every host grants CAP_SYS_RESOURCE.
func containerdConfig(snapshotter, cniBin string) []byte {
	return []byte(fmt.Sprintf(`version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = %q
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`, containerdSock, pauseImage, cniBin, snapshotter))
}

func (n Node) kubeletConfig() []byte {
	return asJSON(object{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"failCgroupV1":             false,
		"cgroupDriver":             "cgroupfs",
		"containerRuntimeEndpoint": "unix://" + containerdSock,
		"address":                  n.IP(),
		"healthzBindAddress":       "127.0.0.1",
		"authentication": object{
			"anonymous": object{"enabled": false},
			"webhook":   object{"enabled": true},
			"x509":      object{"clientCAFile": nodeCreds + "/ca.crt"},
		},
		"authorization":     object{"mode": "Webhook"},
		"tlsCertFile":       nodeCreds + "/kubelet.crt",
		"tlsPrivateKeyFile": nodeCreds + "/kubelet.key",
		"clusterDNS":        []string{dnsIP},
		"clusterDomain":     clusterZone,
		"resolvConf":        "", // pods know the cluster's names and no others
		"failSwapOn":        false,
		// Images are loaded by hand and cannot be pulled again, so none is ever thrown away.
		"imageGCHighThresholdPercent": 100,
		"evictionHard": object{
			"memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%",
		},
		"nodeStatusUpdateFrequency": "3s",
		"nodeLeaseDurationSeconds":  9,
		"syncFrequency":             "10s",
		"serializeImagePulls":       false,
		"registryPullQPS":           0,
		"eventRecordQPS":            0,
		"containerLogMaxSize":       "10Mi",
		"containerLogMaxFiles":      3,
	})
}

func (n Node) proxyConfig() []byte {
	return asJSON(object{
		"apiVersion":         "kubeproxy.config.k8s.io/v1alpha1",
		"kind":               "KubeProxyConfiguration",
		"mode":               "nftables",
		"clientConnection":   object{"kubeconfig": nodeCreds + "/proxy.kubeconfig"},
		"hostnameOverride":   n.Name,
		"clusterCIDR":        podCIDR,
		"bindAddress":        n.IP(),
		"healthzBindAddress": "127.0.0.1:10256",
		"metricsBindAddress": "127.0.0.1:10249",
		"conntrack":          object{"maxPerCore": 0, "min": 0}, // the host's own settings stay
	})
}

// corefile serves the cluster's names on an address that every node has for itself.
func corefile() []byte {
	return []byte(fmt.Sprintf(`.:53 {
    bind %s
    errors
    ready 127.0.0.1:8181
    kubernetes %s in-addr.arpa {
        kubeconfig %s/dns.kubeconfig atoll-local
        pods insecure
        ttl 2
    }
    cache 2
}
`, dnsIP, clusterZone, nodeCreds))
}

// nodeFiles is what a node finds in its /etc, by path.
func (n Node) nodeFiles(snapshotter, cniBin string) map[string][]byte {
	return map[string][]byte{
		"/etc/hostname":                   []byte(n.Name + "\n"),
		"/etc/hosts":                      []byte("127.0.0.1 localhost\n" + n.IP() + " " + n.Name + "\n"),
		"/etc/resolv.conf":                []byte("nameserver " + dnsIP + "\nsearch " + clusterZone + "\n"),
		"/etc/nsswitch.conf":              []byte("passwd: files\ngroup: files\nhosts: files dns\n"),
		"/etc/passwd":                     []byte("root:x:0:0:root:/root:/bin/sh\n"),
		"/etc/group":                      []byte("root:x:0:\n"),
		"/etc/machine-id":                 []byte(fmt.Sprintf("%032x\n", 0xa7011<<16|n.Index)),
		"/etc/cni/net.d/10-pods.conflist": n.cniConfig(),
		"/etc/containerd/config.toml":     containerdConfig(snapshotter, cniBin),
		nodeCreds + "/kubelet.yaml":       n.kubeletConfig(),
		nodeCreds + "/proxy.yaml":         n.proxyConfig(),
		nodeCreds + "/Corefile":           corefile(),
	}
}

// service is a program that is kept running.
type service struct {
	name string
	args []string // args[0] is the program
	// ready, when set, is waited for before the next service starts: "unix:PATH" or "tcp:ADDRESS".
	ready string
}

func (n Node) containerdService() service {
	return service{name: "containerd", args: []string{"containerd", "--config", "/etc/containerd/config.toml", "--log-level", "warn"},
		ready: "unix:" + containerdSock}
}

// services lists what runs on a node once containerd is up and has its images.
func (n Node) services() []service {
	return []service{
		{name: "coredns", args: []string{nodeDNS + "/coredns", "-conf", nodeCreds + "/Corefile"}},
		{name: "kubelet", args: []string{nodePrograms + "/kubelet",
			"--config", nodeCreds + "/kubelet.yaml",
			"--kubeconfig", nodeCreds + "/kubelet.kubeconfig",
			"--hostname-override", n.Name,
			"--node-ip", n.IP(),
			"--root-dir", "/var/lib/kubelet",
			"--node-labels", "topology.kubernetes.io/zone=" + n.Zone + ",topology.kubernetes.io/region=" + n.Region}},
		// kube-proxy 1.36 takes the entries that it finds in its tables for its own, clears the tables
		// and adds only the others: services are missing then. A machine that lost its power would
		// have no tables; this one's kernel keeps them.
		{name: "kube-proxy", args: []string{"/bin/sh", "-c", "for f in ip ip6; do nft delete table $f kube-proxy 2>/dev/null; done; exec " +
			nodePrograms + "/kube-proxy --config " + nodeCreds + "/proxy.yaml"}},
	}
}

// seconds renders a duration for flags that take whole seconds.
func seconds(d time.Duration) string { return fmt.Sprint(int(d / time.Second)) }

// controlServices lists the control plane's programs. creds and data are paths on the host: the
// control plane shares its file system. etcd's fsync is off: this cluster does not outlive the
// machine's power, and its store is not the one under test.
func (c Config) controlServices(bin, creds, data string) []service {
	p := func(name string) string { return creds + "/" + name }
	return []service{
		{name: "etcd", ready: "tcp:127.0.0.1:2379", args: []string{bin + "/etcd",
			"--data-dir", data,
			"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
			"--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380",
			"--initial-cluster", "default=http://127.0.0.1:2380",
			"--unsafe-no-fsync", "--log-level", "warn"}},
		{name: "kube-apiserver", ready: fmt.Sprintf("tcp:127.0.0.1:%d", apiPort), args: []string{bin + "/kube-apiserver",
			"--etcd-servers", "http://127.0.0.1:2379",
			"--advertise-address", controlIP, "--secure-port", fmt.Sprint(apiPort),
			"--tls-cert-file", p("apiserver.crt"), "--tls-private-key-file", p("apiserver.key"),
			"--client-ca-file", p("ca.crt"),
			"--kubelet-client-certificate", p("kubelet-client.crt"), "--kubelet-client-key", p("kubelet-client.key"),
			"--kubelet-certificate-authority", p("ca.crt"), "--kubelet-preferred-address-types", "InternalIP",
			"--service-account-issuer", "https://kubernetes.default.svc." + clusterZone,
			"--service-account-key-file", p("sa.pub"), "--service-account-signing-key-file", p("sa.key"),
			"--service-cluster-ip-range", serviceCIDR,
			"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
			"--allow-privileged",
			"--default-not-ready-toleration-seconds", seconds(c.Eviction),
			"--default-unreachable-toleration-seconds", seconds(c.Eviction)}},
		{name: "kube-controller-manager", args: []string{bin + "/kube-controller-manager",
			"--kubeconfig", p("controller-manager.kubeconfig"), "--use-service-account-credentials",
			"--service-account-private-key-file", p("sa.key"), "--root-ca-file", p("ca.crt"),
			"--cluster-signing-cert-file", p("ca.crt"), "--cluster-signing-key-file", p("ca.key"),
			"--bind-address", "127.0.0.1", "--leader-elect=false",
			"--node-monitor-period", "2s", "--node-monitor-grace-period", c.NodeGrace.String()}},
		{name: "kube-scheduler", args: []string{bin + "/kube-scheduler",
			"--kubeconfig", p("scheduler.kubeconfig"), "--bind-address", "127.0.0.1", "--leader-elect=false"}},
	}
}

// baseObjects is what the cluster needs beyond what Kubernetes creates itself: a StorageClass, and
// the rights of the nodes' DNS and volume agents.
func baseObjects() []object {
	rule := func(groups, resources, verbs string) object {
		f := func(s string) []string { return strings.Split(s, ",") }
		return object{"apiGroups": f(groups), "resources": f(resources), "verbs": f(verbs)}
	}
	role := func(name string, rules ...object) []object {
		meta := object{"name": name}
		return []object{
			{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": meta, "rules": rules},
			{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": meta,
				"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
				"subjects": []object{{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name}}},
		}
	}
	objects := []object{{
		"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
		"metadata": object{"name": StorageClass, "annotations": object{
			"storageclass.kubernetes.io/is-default-class": "true"}},
		"provisioner":          Provisioner,
		"volumeBindingMode":    "WaitForFirstConsumer",
		"reclaimPolicy":        "Delete",
		"allowVolumeExpansion": true,
	}}
	objects = append(objects, role("atoll:dns",
		rule("", "services,pods,namespaces", "list,watch"),
		rule("discovery.k8s.io", "endpointslices", "list,watch"))...)
	return append(objects, role("atoll:volumes",
		rule("", "persistentvolumeclaims", "get,list,watch"),
		rule("", "persistentvolumeclaims/status", "patch"),
		rule("", "persistentvolumes", "get,list,watch,create,patch,delete"),
		rule("", "events", "create,patch"),
		rule("storage.k8s.io", "storageclasses", "get"))...)
}
