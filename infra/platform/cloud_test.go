package platform

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/atolldb/atoll/infra/config"
)

// cloudCase is what the clouds have in common, and how each writes it.
type cloudCase struct {
	platform       string
	zones          []string
	fourth         string // one more zone
	cluster, pool  string // type tokens
	clusterName    string
	poolZone       func(t *testing.T, r *recorder, pool *registered) any
	poolSize       func(pool *registered) any
	poolMachine    func(pool *registered) any
	machine        string
	newForZone     []string // what one more zone makes
	provisioner    string
	topologyKey    string
	parameter      string // that says which disks
	disks          string
	clusterVersion string
	poolVersion    any
}

func in(m *registered, path ...string) any {
	var v any = m.inputs
	for _, k := range path {
		next, _ := v.(map[string]any)
		v = next[k]
	}
	return v
}

var cloudCases = []cloudCase{
	{
		platform: config.EKS, zones: []string{"eu-central-1a", "eu-central-1b", "eu-central-1c"}, fourth: "eu-central-1d",
		cluster: "aws:eks/cluster:Cluster", pool: "aws:eks/nodeGroup:NodeGroup", clusterName: "atoll-eks-cluster",
		poolZone: func(t *testing.T, r *recorder, pool *registered) any { // through its subnet
			subnet := in(pool, "subnetIds").([]any)
			require.Len(t, subnet, 1)
			return in(r.get(t, strings.TrimSuffix(subnet[0].(string), "-id")), "availabilityZone")
		},
		poolSize: func(pool *registered) any {
			s := in(pool, "scalingConfig").(map[string]any)
			if s["minSize"] != s["maxSize"] || s["minSize"] != s["desiredSize"] {
				return s
			}
			return s["desiredSize"]
		},
		poolMachine: func(pool *registered) any { return in(pool, "instanceTypes").([]any)[0] }, machine: "m7g.xlarge",
		newForZone:  []string{"atoll-eks-routes-eu-central-1d", "atoll-eks-subnet-eu-central-1d", "atoll-eks-zone-eu-central-1d"},
		provisioner: "ebs.csi.aws.com", topologyKey: "topology.kubernetes.io/zone", parameter: "type", disks: "gp3",
		clusterVersion: "version", poolVersion: "1.33",
	},
	{
		platform: config.GKE, zones: []string{"europe-west3-a", "europe-west3-b", "europe-west3-c"}, fourth: "europe-west3-d",
		cluster: "gcp:container/cluster:Cluster", pool: "gcp:container/nodePool:NodePool", clusterName: "atoll-gke-cluster",
		poolZone: func(t *testing.T, _ *recorder, pool *registered) any {
			require.Len(t, in(pool, "nodeLocations"), 1)
			require.Equal(t, in(pool, "name"), in(pool, "nodeLocations").([]any)[0])
			return in(pool, "name")
		},
		poolSize:    func(pool *registered) any { return in(pool, "nodeCount") },
		poolMachine: func(pool *registered) any { return in(pool, "nodeConfig", "machineType") }, machine: "n2-standard-8",
		newForZone:  []string{"atoll-gke-zone-europe-west3-d"},
		provisioner: "pd.csi.storage.gke.io", topologyKey: "topology.gke.io/zone", parameter: "type", disks: "pd-ssd",
		clusterVersion: "minMasterVersion", poolVersion: nil, // the release channel moves the pools
	},
	{
		platform: config.AKS, zones: []string{"westeurope-1", "westeurope-2", "westeurope-3"}, fourth: "westeurope-4",
		cluster: "azure:containerservice/kubernetesCluster:KubernetesCluster", clusterName: "atoll-aks-cluster",
		pool: "azure:containerservice/kubernetesClusterNodePool:KubernetesClusterNodePool",
		poolZone: func(t *testing.T, _ *recorder, pool *registered) any {
			zones := in(pool, "zones").([]any)
			require.Len(t, zones, 1)
			require.Equal(t, "zone"+zones[0].(string), in(pool, "name"))
			return "westeurope-" + zones[0].(string) // as AKS labels its nodes
		},
		poolSize:    func(pool *registered) any { return in(pool, "nodeCount") },
		poolMachine: func(pool *registered) any { return in(pool, "vmSize") }, machine: "Standard_E4ds_v5",
		newForZone:  []string{"atoll-aks-zone-westeurope-4"},
		provisioner: "disk.csi.azure.com", topologyKey: "topology.disk.csi.azure.com/zone", parameter: "skuName", disks: "Premium_LRS",
		clusterVersion: "kubernetesVersion", poolVersion: "1.33",
	},
}

func eachCloud(t *testing.T, f func(t *testing.T, c cloudCase)) {
	for _, c := range cloudCases {
		t.Run(c.platform, func(t *testing.T) { f(t, c) })
	}
}

// TestPoolForEachZone: right zone, size, machine and version, one pool after the other, all of
// them after the cluster and needed by the pods.
func TestPoolForEachZone(t *testing.T) {
	eachCloud(t, func(t *testing.T, c cloudCase) {
		r, target := prepare(t, c.platform, nil)
		require.Len(t, r.ofType(c.pool), 3)
		prefix := "atoll-" + c.platform + "-zone-"
		for i, zone := range c.zones {
			pool := r.get(t, prefix+zone)
			require.Equal(t, c.pool, pool.typ)
			require.Equal(t, zone, c.poolZone(t, r, pool))
			require.Equal(t, []float64{2, 1, 1}[i], c.poolSize(pool))
			require.Equal(t, c.machine, c.poolMachine(pool))
			require.Equal(t, c.poolVersion, firstOf(in(pool, "version"), in(pool, "orchestratorVersion")))
			require.True(t, r.runsAfter(pool.name, c.clusterName))
			if i > 0 {
				require.True(t, r.runsAfter(pool.name, prefix+c.zones[i-1]), "two zones' machines must not be replaced at once")
			}
			require.False(t, pool.protect, "machines hold no data")
		}
		require.GreaterOrEqual(t, len(target.Needs), 3)
		for _, z := range target.Spec.Zones {
			require.Equal(t, target.Spec.Cloud.Region, z.Region)
		}
	})
}

func firstOf(all ...any) any {
	i := slices.IndexFunc(all, func(v any) bool { return v != nil })
	if i < 0 {
		return nil
	}
	return all[i]
}

// TestZoneMore: one more zone makes what belongs to it, and changes nothing that was there.
func TestZoneMore(t *testing.T) {
	eachCloud(t, func(t *testing.T, c cloudCase) {
		before, _ := prepare(t, c.platform, nil)
		zones := []any{map[string]any{"name": c.zones[0], "nodes": 2.0}, map[string]any{"name": c.zones[1]}, map[string]any{"name": c.zones[2]}, map[string]any{"name": c.fourth}}
		for name, list := range map[string][]any{"last": zones, "before the last": {zones[0], zones[1], zones[3], zones[2]}} {
			after, _ := prepare(t, c.platform, map[string]any{"zones": list})
			var made []string
			for _, n := range after.names() {
				if before.all[n] == nil {
					made = append(made, n)
				}
			}
			require.Equal(t, c.newForZone, made, name)
			for n, old := range before.all {
				inputs := after.get(t, n).inputs
				if n == "atoll-aks-cluster" {
					require.Equal(t, []string{"defaultNodePool.zones"}, old.ignore)
					pool, was := inputs["defaultNodePool"].(map[string]any), old.inputs["defaultNodePool"].(map[string]any)
					pool["zones"] = was["zones"]
				}
				require.Equal(t, old.inputs, inputs, "%s: %s", name, n)
			}
		}
	})
}

func TestClusterIsProtectedWithTheData(t *testing.T) {
	eachCloud(t, func(t *testing.T, c cloudCase) {
		r, _ := prepare(t, c.platform, nil)
		require.True(t, r.get(t, c.clusterName).protect)
		r, _ = prepare(t, c.platform, map[string]any{"storage": map[string]any{"keep": false}})
		for _, m := range r.all {
			require.False(t, m.protect, "%s: atoll:storage.keep is false", m.name)
		}
	})
}

func TestVersionIsTheCloudsChoice(t *testing.T) {
	eachCloud(t, func(t *testing.T, c cloudCase) {
		r, _ := prepare(t, c.platform, nil)
		require.Equal(t, "1.33", in(r.get(t, c.clusterName), c.clusterVersion))
		r, _ = prepare(t, c.platform, map[string]any{"cloud": map[string]any{"version": ""}})
		require.NotContains(t, r.get(t, c.clusterName).inputs, c.clusterVersion)
		for _, pool := range r.ofType(c.pool) {
			require.NotContains(t, pool.inputs, "version")
			require.NotContains(t, pool.inputs, "orchestratorVersion")
		}
	})
}

// TestRefusedMakesNothing: with --skip-preview, what is registered is made.
func TestRefusedMakesNothing(t *testing.T) {
	eachCloud(t, func(t *testing.T, c cloudCase) {
		r, _, err := tryPrepare(t, c.platform, map[string]any{"zones": []any{map[string]any{"name": c.zones[0]}, map[string]any{"name": c.zones[1]}},
			"endpoint": map[string]any{"zoneHosts": map[string]any{"elsewhere": "a.example"}}}, nil)
		require.ErrorContains(t, err, "needs 3 zones that vote, there are 2")
		require.ErrorContains(t, err, `atoll:endpoint.zoneHosts names the zone "elsewhere"`)
		require.Empty(t, r.names())
	})
}

// TestKubernetesProvider: from the cluster's own answers, and the same cluster whatever they are.
func TestKubernetesProvider(t *testing.T) {
	eachCloud(t, func(t *testing.T, c cloudCase) {
		r, target := prepare(t, c.platform, nil)
		p := r.get(t, "atoll-"+c.platform+"-kubernetes")
		require.Equal(t, "pulumi:providers:kubernetes", p.typ)
		require.True(t, r.runsAfter(p.name, c.clusterName))
		for _, pool := range r.ofType(c.pool) {
			require.False(t, r.runsAfter(p.name, pool.name), "what is kept must not keep the machines")
		}
		require.Contains(t, []any{"arn:" + c.clusterName, c.clusterName + "-id"}, in(p, "clusterIdentifier"))
		require.Equal(t, true, in(p, "enableServerSideApply"))
		require.NotNil(t, target.Kubeconfig)

		text := in(p, "kubeconfig").(string)
		if c.platform == config.AKS {
			require.Equal(t, "the kubeconfig of atoll-aks-cluster", text)
			require.Contains(t, r.get(t, c.clusterName).secrets, "kubeConfigRaw")
			return
		}
		k, err := clientcmd.Load([]byte(text))
		require.NoError(t, err)
		current := k.Contexts[k.CurrentContext]
		require.Equal(t, c.clusterName, current.Cluster)
		require.Equal(t, map[string]string{config.EKS: "https://eks.example", config.GKE: "https://192.0.2.1"}[c.platform], k.Clusters[current.Cluster].Server)
		require.Equal(t, "CA", string(k.Clusters[current.Cluster].CertificateAuthorityData))
		login := k.AuthInfos[current.AuthInfo].Exec
		if c.platform == config.EKS {
			require.Equal(t, []string{"aws", "eks", "get-token", "--cluster-name", c.clusterName, "--region", "eu-central-1", "--output", "json"}, append([]string{login.Command}, login.Args...))
			require.Empty(t, login.Env)
			return
		}
		require.Equal(t, "gke-gcloud-auth-plugin", login.Command)
		require.True(t, login.ProvideClusterInfo)
	})
}

// TestFirstPreview: before the cluster exists, a preview shows all of it and asks it nothing.
func TestFirstPreview(t *testing.T) {
	eachCloud(t, func(t *testing.T, c cloudCase) {
		up, _ := prepare(t, c.platform, nil)
		r, target, err := (&recorder{all: map[string]*registered{}, preview: true}).prepare(t, c.platform, nil, nil)
		require.NoError(t, err)
		require.Equal(t, up.names(), r.names())
		require.NotNil(t, target.Provider)
		require.Len(t, r.ofType(c.pool), 3)
	})
}

func TestUnfinishedCluster(t *testing.T) {
	for _, ca := range []string{"", "no base64!"} {
		_, err := loginKubeconfig("mine", "https://a.example", ca, nil)
		require.ErrorContains(t, err, "cluster mine has no CA certificate in base64")
		require.ErrorContains(t, err, "pulumi refresh")
	}
}

func TestStorageOfAZone(t *testing.T) {
	eachCloud(t, func(t *testing.T, c cloudCase) {
		storage := func(change map[string]any) config.Storage {
			_, target := prepare(t, c.platform, map[string]any{"storage": change})
			return target.Spec.Storage
		}
		s := storage(nil)
		require.Equal(t, c.provisioner, s.Provisioner)
		require.Equal(t, c.topologyKey, s.TopologyKey)
		require.Equal(t, c.disks, s.Parameters[c.parameter])
		s = storage(map[string]any{"parameters": map[string]any{c.parameter: "other", "fsType": "xfs"}})
		require.Equal(t, c.provisioner, s.Provisioner)
		require.Equal(t, "other", s.Parameters[c.parameter])
		require.Equal(t, "xfs", s.Parameters["fsType"])
		s = storage(map[string]any{"class": "fast"})
		require.Equal(t, "fast", s.Class)
		require.Empty(t, s.Provisioner)
		s = storage(map[string]any{"provisioner": "disk.example", "parameters": map[string]any{"a": "b"}})
		require.Equal(t, map[string]string{"a": "b"}, s.Parameters)
		require.Equal(t, "topology.kubernetes.io/zone", s.TopologyKey)
		s = storage(map[string]any{"provisioner": c.provisioner, "topologyKey": "mine/zone"})
		require.Equal(t, "mine/zone", s.TopologyKey)
		require.Equal(t, c.disks, s.Parameters[c.parameter])
	})
}

// TestPluginVersions: without the SDKs, nothing else says which plugin to get.
func TestPluginVersions(t *testing.T) {
	for platform, want := range map[string]struct{ plugin, version string }{
		config.EKS: {"aws", eks.version}, config.GKE: {"gcp", gke.version}, config.AKS: {"azure", aks.version}} {
		r, _ := prepare(t, platform, nil)
		for _, m := range r.all {
			plugin, _, _ := strings.Cut(strings.TrimPrefix(m.typ, "pulumi:providers:"), ":")
			if plugin == "kubernetes" || plugin == "atoll" {
				continue
			}
			require.Equal(t, want.plugin, plugin, m.name)
			require.Equal(t, want.version, m.version, m.name)
		}
	}
}
